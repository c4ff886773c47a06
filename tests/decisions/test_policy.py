import json
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, norm

from lib.calibration import fit_temperature
from lib.config import MODELS, Settings
from lib.decisions.bundle import DecisionBundle
from lib.decisions.policy import Policy, policy_table
from lib.decisions.policy_certificates import Sample
from lib.decisions.policy_choice import (
    IN_SAMPLE,
    SELF_CHOSEN,
    UNDIVIDED,
    cheapest_bands,
    fit_policy,
)
from lib.modeling.prediction_table import save_predictions


def halves(logits_frame, n=600):
    """Predictions of both halves of val, fusion good enough for promises."""
    select = logits_frame(n, seed=1).assign(part="select")
    select["id"] = select["group"] = [f"s{i}" for i in range(n)]
    both = pd.concat([logits_frame(n), select], ignore_index=True)
    both["mm_fusion_logit_1"] += 3 * (2 * both["label"] - 1)
    both.attrs = select.attrs
    return both


@pytest.fixture
def both(logits_frame):
    return halves(logits_frame)


def fitted(both, settings, **changed):
    """The bundle that Step 7 fits where Step 6 has left `both`."""
    settings = settings.model_copy(update=changed)
    save_predictions(both, settings.artifact(6, "predictions.parquet"))
    frame = both[both["part"] == "calibrate"]
    frame.attrs = both.attrs
    return DecisionBundle.fit(frame, settings, 5)


def rows(policy):
    return policy_table(policy).set_index("side")


def calibrated(both, bundle, part="calibrate"):
    found = both[both["part"] == part]
    margin = found["mm_fusion_logit_1"] - found["mm_fusion_logit_0"]
    prob = 1 / (1 + np.exp(-margin / bundle.temperatures["mm_fusion"]))
    return prob.to_numpy(), found["label"].to_numpy()


def test_both_promises_are_certified_and_counted_as_documented(both, model_folders):
    bundle = fitted(both, model_folders)
    policy, table = bundle.policy, rows(bundle.policy)
    assert table.loc[["block", "allow"], "verdict"].tolist() == ["certified"] * 2
    assert (policy.cuts_from, policy.memes) == ("select half", 600)
    prob, label = calibrated(both, bundle)
    blocked, allowed = prob >= policy.block, prob < policy.allow
    assert table["cut"]["block"] == table["judged_at"]["block"] == policy.block
    assert table["observed"]["block"] == pytest.approx(label[blocked].mean())
    assert table["observed"]["allow"] == pytest.approx(allowed[label == 1].mean())
    assert table["observed"]["review"] == pytest.approx((~blocked & ~allowed).mean())
    assert table["n"].to_dict() == {"block": blocked.sum(), "review": 600, "allow": label.sum()}
    assert (table.loc[["block", "allow"], "p_value"] <= 0.1).all()
    assert table["memes_needed"].isna().all()
    decided = policy.decide(prob)
    assert set(decided[blocked]) == {"block"}
    assert set(decided[allowed]) == {"allow"}


def drawn(rng, n, part):
    """n memes of which 40% are hateful, fusion's margins 3 (N(0, 1) +- 1.2)."""
    label = (rng.random(n) < 0.4).astype(int)
    margin = 3 * (rng.normal(size=n) + 1.2 * (2 * label - 1))
    ids = [f"{part}{i}" for i in range(n)]
    frame = {"id": ids, "split": "val", "part": part, "group": ids, "label": label}
    frame |= {f"mm_fusion_logit_{k}": (k - 0.5) * margin for k in (0, 1)}
    return pd.DataFrame(frame)


def true_rates(cut, temperature):
    """Precision of what is at or above a cut, and the share of hate below it."""
    margin = temperature * np.log(cut / (1 - cut))
    above = {label: norm.sf(margin / 3 - 1.2 * (2 * label - 1)) for label in (0, 1)}
    return 0.4 * above[1] / (0.4 * above[1] + 0.6 * above[0]), 1 - above[1]


@pytest.mark.parametrize("kind", ["targets", "recall_floor"])
def test_in_most_worlds_what_a_fitted_policy_promises_is_true(model_folders, kind):
    """Temperature, cuts and walks and all: at most a tenth of the worlds and what chance adds."""
    rates = {"policy_precision": 0.85, "policy_miss": 0.15, "policy_recall": 0.85}
    settings = model_folders.model_copy(update={"policy": kind} | rates)
    certified, broken, worlds = dict.fromkeys(("block", "allow"), 0), {"block": 0, "allow": 0}, 250
    for world in range(worlds):
        rng = np.random.default_rng(world)
        select, frame = drawn(rng, 150, "select"), drawn(rng, 250, "calibrate")
        margin = frame["mm_fusion_logit_1"] - frame["mm_fusion_logit_0"]
        temperature = float(fit_temperature(margin, frame["label"]).temperature)
        policy = fit_policy(frame, select, temperature, 0.5, settings)
        verdicts = rows(policy)["verdict"]
        for side, cut in (("block", policy.block), ("allow", policy.allow)):
            if cut is None or verdicts.get(side) != "certified":
                continue
            precision, miss = true_rates(cut, temperature)
            certified[side] += 1
            broken[side] += precision < 0.85 if side == "block" else miss > 0.15
    most = binom.ppf(0.999, worlds, 0.1)
    assert broken["block"] <= most and broken["allow"] <= most
    assert certified["allow"] > worlds / 2
    assert (certified["block"] > worlds / 2) == (kind == "targets")


def test_a_stricter_promise_never_decides_more(both, model_folders):
    both["mm_fusion_logit_1"] -= 2 * (2 * both["label"] - 1)  # not so good that the sides cross
    loose = fitted(both, model_folders, policy_precision=0.93, policy_miss=0.08).policy
    strict = fitted(both, model_folders, policy_precision=0.96, policy_miss=0.04).policy
    assert loose.allow < loose.block
    assert strict.block > loose.block
    assert strict.allow < loose.allow


def test_where_the_sides_cross_one_cut_keeps_both_promises(both, model_folders):
    bundle = fitted(both, model_folders, policy_precision=0.8, policy_miss=0.2)
    policy, threshold = bundle.policy, bundle.thresholds["mm_fusion"]
    assert policy.allow == policy.block == pytest.approx(threshold, abs=0.05)
    table = rows(policy)
    assert table.loc[["block", "allow"], "verdict"].tolist() == ["certified"] * 2
    assert table["count"]["review"] == 0
    assert (table.loc[["block", "allow"], "p_value"] <= 0.1).all()


def test_what_cannot_be_certified_goes_to_a_person_with_the_memes_that_would_do(
    logits_frame, model_folders
):
    bundle = fitted(halves(logits_frame, 30), model_folders)
    policy, table = bundle.policy, rows(bundle.policy)
    assert (policy.allow, policy.block) == (None, None)
    assert set(policy.decide([0.0, 0.5, 1.0])) == {"review"}
    assert table["verdict"]["allow"] == "not certifiable at n = 30"
    # ln 0.1 / ln 0.9 = 21.9 hateful memes without a miss, and half of all are hateful.
    assert table["memes_needed"]["allow"] == 44
    # Of the cuts without a miss that which allows most, not one below every meme.
    prob, label = calibrated(halves(logits_frame, 30), bundle)
    assert 0 < (prob < table["needed_at"]["allow"]).sum() <= (prob < prob[label == 1].min()).sum()
    assert np.isnan(table["cut"]["allow"])


def test_without_a_select_half_the_cuts_are_a_fixed_grid(both, model_folders):
    alone = both[both["part"] == "calibrate"]
    alone.attrs = both.attrs
    policy = fitted(alone, model_folders).policy
    assert policy.cuts_from == "fixed grid"
    assert rows(policy).loc[["block", "allow"], "verdict"].tolist() == ["certified"] * 2


def test_what_has_selected_because_val_was_not_divided_certifies_nothing(both, model_folders):
    alone = both[both["part"] == "calibrate"]
    alone.attrs = both.attrs | {"undivided": True}
    policy = fitted(alone, model_folders).policy
    assert rows(policy).loc[["block", "allow"], "verdict"].tolist() == [UNDIVIDED] * 2


def test_the_select_half_of_other_models_proposes_nothing(both, model_folders):
    frame = both[both["part"] == "calibrate"]
    frame.attrs = {"models": dict(both.attrs["models"])}
    both.attrs = {"models": both.attrs["models"] | {"mm_fusion": "0" * 16}}
    save_predictions(both, model_folders.artifact(6, "predictions.parquet"))
    assert DecisionBundle.fit(frame, model_folders, 5).policy.cuts_from == "fixed grid"


def test_a_pilot_has_a_policy_that_nothing_certifies(logits_frame):
    frame = logits_frame(200, "train")
    frame["mm_fusion_logit_1"] += 8 * frame["label"] - 4
    policy = fit_policy(frame, None, 2.0, 0.5, Settings(mode="pilot"))
    assert 0 < policy.allow <= policy.block < 1
    assert rows(policy).loc[["block", "allow"], "verdict"].tolist() == [IN_SAMPLE] * 2


def test_groups_count_once(both, model_folders):
    several = both.assign(group=[f"{part}{i // 6}" for i, part in enumerate(both["part"])])
    several.attrs = both.attrs
    assert fitted(several, model_folders).policy.memes == 100


@pytest.mark.parametrize("budget", [0.0, 0.05, 0.5, 1.0])
def test_costs_are_least_within_the_budget(both, model_folders, budget):
    costs = {"policy": "costs", "policy_costs": (4.0, 8.0, 1.0), "policy_review_budget": budget}
    bundle = fitted(both, model_folders, **costs)
    table = rows(bundle.policy)
    assert table["verdict"].to_dict() == {
        "block": "no target",
        "review": "certified",
        "allow": "no target",
    }
    prob, label = calibrated(both, bundle, "select")
    low, high = bundle.policy.ends

    def cost(low, high):
        reviewed = (prob >= low) & (prob < high)
        total = 4 * ((prob >= high) & (label == 0)).sum() + 8 * ((prob < low) & (label == 1)).sum()
        return total + reviewed.sum(), reviewed.mean()

    chosen, reviewed = cost(low, high)
    assert reviewed <= budget
    tried = [cost(a, b) for a in np.sort(prob)[::12] for b in np.sort(prob)[::12] if a <= b]
    if budget in (0.0, 1.0):  # in between, only a smaller share may be certified
        assert chosen <= min(total for total, share in tried if share <= budget)
    assert chosen <= min(total for total, share in tried if share == 0)


def test_the_cheapest_bands_are_those_of_trying_all_pairs():
    rng = np.random.default_rng(0)
    prob, label = rng.random(25).round(1), rng.integers(0, 2, 25)
    costs, budgets = {"wrong_block": 3, "wrong_allow": 5, "review": 1}, np.array([0, 0.2, 0.6])
    cuts = np.unique(prob)
    found = cheapest_bands(Sample(prob, label), cuts, costs, budgets)

    def cost(low, high):
        review = ((prob >= low) & (prob < high)).sum()
        wrong = 3 * ((prob >= high) & (label == 0)).sum() + 5 * ((prob < low) & (label == 1)).sum()
        return wrong + review, review / len(prob)

    at = [0.0, *cuts, 1.0]
    pairs = [cost(a, b) for a in at for b in at if a <= b]
    for band, budget in zip(found, budgets, strict=True):
        assert cost(*band)[0] == min(total for total, share in pairs if share <= budget + 1e-9)
        assert cost(*band)[1] <= budget + 1e-9


def test_costs_without_a_select_half_are_not_certified(both, model_folders):
    frame = both[both["part"] == "calibrate"]
    settings = model_folders.model_copy(update={"policy": "costs", "policy_costs": (1, 2, 0.2)})
    policy = fit_policy(frame, None, 1.0, 0.5, settings)
    assert rows(policy)["verdict"]["review"] == SELF_CHOSEN


def test_a_recall_floor_is_certified_and_blocks_from_the_threshold(both, model_folders):
    floor = {"policy": "recall_floor", "policy_recall": 0.9}
    bundle = fitted(both, model_folders, **floor)
    table = rows(bundle.policy)
    assert table["verdict"].to_dict()["allow"] == "certified"
    assert table["target"]["allow"] == pytest.approx(0.1)
    assert bundle.policy.block == bundle.thresholds["mm_fusion"] >= bundle.policy.allow
    prob, label = calibrated(both, bundle)
    assert (prob[label == 1] >= bundle.policy.allow).mean() >= 0.9


def test_a_threshold_above_every_score_blocks_nothing(both, model_folders):
    floor = {"policy": "recall_floor", "policy_recall": 0.9}
    never = {"threshold_objective": "cost", "threshold_costs": [1e6, 0.5]}
    sure = both.assign(mm_fusion_logit_1=both["mm_fusion_logit_1"].where(both["label"] == 1, 900.0))
    sure.attrs = both.attrs
    bundle = fitted(sure, model_folders, **floor | never)
    assert bundle.thresholds["mm_fusion"] > 1
    assert bundle.policy.block is None
    settings = model_folders.model_copy(update=floor | never)
    bundle.save(settings)
    assert DecisionBundle.load(settings).policy.block is None


@pytest.mark.parametrize(
    ("label", "side", "verdict"),
    [
        (0, "allow", "not certifiable at n = 60"),
        (0, "block", "not certifiable at n = 60"),
        (1, "block", "certified"),
    ],
)
def test_one_class_alone_is_a_table_entry(logits_frame, label, side, verdict):
    frame = logits_frame(60).assign(label=label)
    table = rows(fit_policy(frame, None, 1.0, 0.5, Settings(mode="full")))
    assert table["verdict"][side] == verdict


def test_logits_that_are_no_numbers_are_one_error(both, model_folders):
    both.loc[3, "mm_fusion_logit_1"] = np.nan
    with pytest.raises(ValueError, match=r"mm_fusion_logit_1' has 1 values .*not finite.*6"):
        fitted(both, model_folders)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"policy": "costs"}, "policy costs needs policy_costs"),
        ({"policy": "recall_floor"}, "policy recall_floor needs policy_recall"),
        ({"policy_precision": 1.0}, "policy_precision=1.0.*less than 1"),
        ({"policy_miss": 0.0}, "policy_miss=0.0.*greater than 0"),
        ({"policy_confidence": 1.5}, "policy_confidence=1.5"),
        ({"policy_review_budget": 2}, "policy_review_budget=2"),
        ({"policy": "costs", "policy_costs": (1, -2, 3)}, "policy_costs"),
        ({"policy": "vibes"}, "policy='vibes'"),
    ],
)
def test_an_impossible_policy_is_refused_by_name(given, said):
    with pytest.raises(ValueError, match=said):
        Settings.checked(given, "here")


def test_an_edited_temperature_changes_no_decision(both, model_folders):
    bundle = fitted(both, model_folders)
    bundle.save(model_folders)
    margin = both["mm_fusion_logit_1"] - both["mm_fusion_logit_0"]
    before = bundle.policy.decide(1 / (1 + np.exp(-margin / bundle.temperatures["mm_fusion"])))
    file = model_folders.artifact(7, "calibration.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"mm_fusion": 7.5}))
    edited = DecisionBundle.load(model_folders).policy
    assert edited.block != bundle.policy.block
    assert np.array_equal(edited.decide(1 / (1 + np.exp(-margin / 7.5))), before)
    table = policy_table(edited).set_index("side")
    assert table["cut"]["block"] == edited.block
    assert table["judged_at"]["block"] == edited.block


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"block": 1.2}, r"policy\.block is 1\.2"),
        ({"allow": "low"}, r"policy\.allow is 'low'"),
        ({"allow": 0.9, "block": 0.2}, r"policy\.allow is 0\.9, above"),
    ],
)
def test_an_edited_cut_out_of_range_is_named(change, said):
    content = asdict(Policy.at_threshold(0.5)) | change
    with pytest.raises(ValueError, match=said):
        Policy.read(content, "decision_full.json: policy")


def test_a_policy_without_cuts_and_a_nan_send_to_a_person():
    policy = replace(Policy.at_threshold(0.5), allow=0.2, block=0.6)
    decided = policy.decide([0.0, 0.2, 0.6, 1.0, np.nan])
    assert decided.tolist() == ["allow", "review", "block", "block", "review"]
    assert policy_table(policy).empty


def test_the_table_is_written_as_documented(both, model_folders):
    bundle = fitted(both, model_folders)
    bundle.save(model_folders)
    written = pd.read_csv(model_folders.artifact(7, "policy.csv"))
    assert written["side"].tolist() == ["block", "review", "allow"]
    assert written["cut"][0] == pytest.approx(bundle.policy.block)
    back = DecisionBundle.load(model_folders)
    assert (back.policy.allow, back.policy.block) == (bundle.policy.allow, bundle.policy.block)
    assert set(MODELS) == set(back.thresholds)
    again = model_folders.artifact(7, "policy.csv").read_bytes()
    back.save(model_folders)
    assert model_folders.artifact(7, "policy.csv").read_bytes() == again
