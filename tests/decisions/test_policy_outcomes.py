import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from lib.config import MODELS
from lib.decisions import policy_outcomes as outcomes_module
from lib.decisions.bundle import DecisionBundle
from lib.decisions.evaluation import without_nan
from lib.decisions.policy_outcomes import (
    judged,
    policy_outcome,
    risk_coverage,
    risk_coverages,
    threshold_stability,
    workload,
)


@pytest.fixture
def decision(logits_frame, model_folders):
    bundle = DecisionBundle.fit(logits_frame(200), model_folders, 20)
    targets = {"precision": 0.8, "miss": 0.2}
    policy = replace(bundle.policy, allow=0.3, block=0.7, targets=targets)
    return replace(bundle, policy=policy, temperatures=dict.fromkeys(MODELS, 4.0))


@pytest.fixture
def test_split(logits_frame):
    return logits_frame(300, "test", seed=1)


def decided(frame):
    margin = frame["mm_fusion_logit_1"] - frame["mm_fusion_logit_0"]
    prob = (1 / (1 + np.exp(-margin / 4))).to_numpy()
    return prob >= 0.7, prob < 0.3, frame["label"].to_numpy() == 1


def test_each_side_is_judged_on_the_reported_split(test_split, decision):
    table = judged(test_split, decision, seed=0).set_index("side")
    blocked, allowed, hate = decided(test_split)
    expected = {
        "block": (blocked & hate).sum() / blocked.sum(),
        "review": (~blocked & ~allowed).mean(),
        "allow": (allowed & hate).sum() / hate.sum(),
    }
    assert table["observed"].to_dict() == pytest.approx(expected)
    exact = binomtest(int((blocked & hate).sum()), int(blocked.sum())).proportion_ci()
    assert (table["low"]["block"], table["high"]["block"]) == pytest.approx(tuple(exact))
    assert table["met"]["review"] == "no target"


@pytest.mark.parametrize(
    ("targets", "met", "holds"),
    [
        ({"precision": 0.3, "miss": 0.9}, "yes", True),
        ({"precision": 0.999, "miss": 0.001}, "no", False),
    ],
)
def test_a_promise_is_kept_or_broken(test_split, decision, targets, met, holds):
    decision = replace(decision, policy=replace(decision.policy, targets=targets))
    table = judged(test_split, decision, 0).set_index("side").loc[["block", "allow"]]
    assert table["met"].tolist() == [met] * 2
    assert table["holds"].tolist() == [holds] * 2


def test_a_side_without_memes_has_no_rate(test_split, decision):
    nothing = replace(decision, policy=replace(decision.policy, block=None))
    found = judged(test_split, nothing, 0).set_index("side").loc["block"]
    assert (found["n"], found["met"], found["holds"]) == (0, "does not exist", None)
    assert np.isnan(found["observed"])


def test_the_workload_at_the_split_s_own_share_counts_its_memes(test_split, decision):
    table = workload(test_split, decision, per=len(test_split)).set_index("decision")
    blocked, allowed, hate = decided(test_split)
    assert table["memes"].to_dict() == pytest.approx(
        {
            "block": blocked.sum(),
            "review": (~blocked & ~allowed).sum(),
            "allow": allowed.sum(),
        }
    )
    assert table["wrong"]["block"] == pytest.approx((blocked & ~hate).sum())
    assert table["wrong"]["allow"] == pytest.approx((allowed & hate).sum())
    assert table["wrong"]["review"] == 0


def test_the_workload_follows_the_stated_share_of_hate(test_split, decision):
    table = workload(test_split, decision, prevalence=0.02).set_index("decision")
    blocked, _, hate = decided(test_split)
    assert table["memes"].sum() == pytest.approx(10_000)
    assert table["hateful"].sum() == pytest.approx(200)
    assert table["wrong"]["block"] == pytest.approx(9800 * blocked[~hate].mean())
    assert table["wrong_share"]["block"] > 0.2


def test_no_wrong_decision_among_few_memes_is_no_promise_but_none_by_the_policy_is(
    test_split, decision
):
    blocked, allowed, hate = decided(test_split)
    right = test_split[~(blocked & ~hate) & ~(allowed & hate)]
    table = workload(right, decision).set_index("decision")
    assert table["wrong"].tolist() == table["wrong_low"].tolist() == [0, 0, 0]
    n = int((right["label"] == 0).sum())
    end = stats.beta(0.5, n + 0.5).ppf(0.975) * 10_000 * n / len(right)
    assert table.loc["block", "wrong_high"] == pytest.approx(end, rel=0.2)
    assert table.loc["review", "wrong_high"] == 0
    alone = replace(decision, policy=replace(decision.policy, allow=None, block=None))
    table = workload(right, alone).set_index("decision")
    for name, memes in {"block": 0, "review": 10_000, "allow": 0}.items():
        assert table.loc[name, ["memes", "memes_low", "memes_high"]].tolist() == [memes] * 3
    below_all = replace(decision, policy=replace(decision.policy, allow=0.0, block=0.6))
    allow = workload(right, below_all).set_index("decision").loc["allow"]
    assert allow[["memes", "memes_high", "wrong_high"]].tolist() == [0, 0, 0]


def test_one_class_says_nothing_of_the_other(test_split, decision):
    hate = test_split[test_split["label"] == 1]
    assert workload(hate, decision)["memes"].sum() == pytest.approx(10_000)
    assert workload(hate, decision, 0.1)["memes"].isna().all()
    json.dumps(without_nan(policy_outcome(hate, decision, 0, 0.1)), allow_nan=False)


def test_aurc_has_the_interval_of_its_resamples(logits_frame, decision, monkeypatch):
    frame = logits_frame(300)
    found = policy_outcome(frame, decision, 0)["aurc"]["mm_fusion"]
    rng, drawn = np.random.default_rng(0), []
    for _ in range(1000):
        sample = frame.iloc[rng.integers(0, 300, 300)]
        drawn.append(risk_coverages(sample, decision)["mm_fusion"].aurc)
    ends = np.quantile(drawn, [0.025, 0.975])
    assert [found["low"], found["high"]] == pytest.approx(ends, abs=0.15 * np.ptp(ends))
    monkeypatch.setattr(outcomes_module, "MOST_RESAMPLED", 299)
    assert policy_outcome(frame, decision, 0)["aurc"]["mm_fusion"]["low"] is None


def test_a_wrong_cut_costs_what_scikit_learn_says(test_split, decision):
    table = threshold_stability(test_split, decision)
    assert table["at"].tolist() == ["chosen", "low", "high", "worst"] * 3
    for row in table.itertuples():
        margin = test_split[f"{row.model}_logit_1"] - test_split[f"{row.model}_logit_0"]
        hate = 1 / (1 + np.exp(-margin / 4)) >= row.threshold
        f1 = f1_score(test_split["label"], hate, average=None, labels=[0, 1], zero_division=0)
        assert (row.f1, row.macro_f1) == pytest.approx((f1[1], f1.mean()))
    by_model = table.set_index(["model", "at"])
    for model in MODELS:
        rows = by_model.loc[model]
        assert (rows.loc["worst", "macro_f1"] <= rows.loc[["low", "high"], "macro_f1"]).all()
        low, high = decision.intervals[model]["threshold"]
        assert low <= rows.loc["worst", "threshold"] <= high
        change = rows.loc["low", "macro_f1"] - rows.loc["chosen", "macro_f1"]
        assert rows.loc["low", "macro_f1_change"] == pytest.approx(change)


def test_an_end_without_bound_is_0_or_1(test_split, decision):
    unbounded = {model: {"threshold": [None, None]} for model in MODELS}
    open_ended = replace(decision, intervals=unbounded)
    table = threshold_stability(test_split, open_ended)
    assert table["threshold"].tolist()[1:3] == [0, 1]


@given(st.integers(1, 60), st.integers(0, 60))
def test_the_best_and_the_worst_order_have_closed_forms(n, errors):
    errors = min(errors, n)
    wrong = np.arange(n) >= n - errors
    i = np.arange(1, n + 1)
    best = risk_coverage(-np.arange(n), wrong)
    assert best.aurc == pytest.approx((np.maximum(i - (n - errors), 0) / i).mean())
    assert best.excess == pytest.approx(0)
    worst = risk_coverage(np.arange(n), wrong)
    assert worst.aurc == pytest.approx((np.minimum(i, errors) / i).mean())
    assert worst.risk[-1] == pytest.approx(errors / n)


def test_equal_confidence_gives_the_mean_over_all_orders():
    flat = risk_coverage(np.zeros(8), [1, 0, 0, 0, 0, 1, 0, 0])
    assert flat.risk == pytest.approx(np.full(8, 0.25))
    rng = np.random.default_rng(0)
    sure, wrong = rng.integers(0, 3, 30), rng.integers(0, 2, 30)
    orders = [risk_coverage(sure + rng.random(30) / 2, wrong).aurc for _ in range(2000)]
    assert risk_coverage(sure, wrong).aurc == pytest.approx(np.mean(orders), abs=0.005)


@pytest.mark.parametrize("sure", [[], [0.5, np.nan]])
def test_no_decision_and_no_number_are_refused(sure):
    with pytest.raises(ValueError, match="confidence must hold numbers"):
        risk_coverage(sure, np.zeros(len(sure)))


def test_what_lies_beside_the_threshold_is_left_first(test_split, decision):
    curves = risk_coverages(test_split, decision)
    margin = test_split["mm_fusion_logit_1"] - test_split["mm_fusion_logit_0"]
    prob = 1 / (1 + np.exp(-margin / 4))
    cut = decision.thresholds["mm_fusion"]
    wrong = ((prob >= cut) != test_split["label"]).to_numpy()
    sure = np.argsort(-np.abs(margin / 4 - np.log(cut / (1 - cut))))[:150]
    assert curves["mm_fusion"].risk[149] == pytest.approx(wrong[sure].mean())
    assert curves["mm_fusion"].aurc < curves["vision_expert"].aurc


def test_groups_count_once_on_the_reported_split(test_split, decision):
    thrice = pd.concat([test_split] * 3, ignore_index=True)
    assert (
        judged(thrice, decision, 0)["n"].tolist() == judged(test_split, decision, 0)["n"].tolist()
    )
