from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    balanced_accuracy_score,
    f1_score,
    precision_score,
    recall_score,
)

from lib.calibration import best_threshold
from lib.calibration.ranking import ABOVE_ALL
from lib.config import MODELS
from lib.decisions.bundle import DecisionBundle
from lib.decisions.calibration_tables import calibrated
from lib.decisions.prevalence import (
    NOT_REACHED,
    _retuned,
    at_prevalence,
    precision_by_prevalence,
    shifted,
)

SHARE = st.floats(0.001, 0.999)


@given(prob=st.floats(0, 1), of=SHARE, to=SHARE)
def test_a_prior_shift_multiplies_the_odds(prob, of, to):
    found = shifted(prob, of, to)
    assert 0 <= found <= 1
    if 0 < prob < 1:
        odds = prob / (1 - prob) * (to / (1 - to)) / (of / (1 - of))
        assert found == pytest.approx(odds / (1 + odds), rel=1e-6)
    assert shifted(prob, of, of) == pytest.approx(prob)


def test_a_score_that_says_nothing_becomes_the_new_share():
    assert shifted(np.array([0.5]), 0.5, 0.02) == pytest.approx([0.02])


@pytest.fixture
def val(logits_frame):
    return logits_frame(400)


@pytest.fixture
def decision(val, model_folders):
    return DecisionBundle.fit(val, model_folders, n_resamples=5)


def test_weighted_figures_are_those_of_a_sample_in_which_hate_is_as_rare(val, decision):
    # Each non-hateful meme 49 times: 2% hate.
    rare = pd.concat([val[val["label"] == 1]] + [val[val["label"] == 0]] * 49)
    assert rare["label"].mean() == pytest.approx(0.02)
    found = at_prevalence(val, val, decision, 0.02)
    prob = calibrated(rare, decision.temperatures)
    for model in MODELS:
        hate = prob[model] >= decision.thresholds[model]
        frozen = found[model]["frozen"]
        assert frozen["precision"] == pytest.approx(precision_score(rare["label"], hate))
        assert frozen["f1"] == pytest.approx(f1_score(rare["label"], hate))
        assert frozen["macro_f1"] == pytest.approx(f1_score(rare["label"], hate, average="macro"))
        assert frozen["flagged_share"] == pytest.approx(hate.mean())


def test_precision_by_prevalence_is_that_of_the_table_at_each_share(val, decision):
    shares = [0.02, 0.3]
    curve = precision_by_prevalence(val, decision, shares).set_index(["model", "prevalence"])
    assert len(curve) == len(MODELS) * len(shares)
    for share in shares:
        found = at_prevalence(val, val, decision, share)
        for model in MODELS:
            row, frozen = curve.loc[(model, share)], found[model]["frozen"]
            assert row["precision"] == pytest.approx(frozen["precision"])
            assert [row["low"], row["high"]] == pytest.approx(frozen["intervals"]["precision"])


def seen_of(harmless, mistaken, n_hateful=400):
    """Predictions of fusion of so many harmless memes, of which so many are flagged, and hateful
    ones, of which four in five are."""
    label = np.repeat([0, 1], [harmless, n_hateful])
    flagged = np.r_[np.arange(harmless) < mistaken, np.arange(n_hateful) < 0.8 * n_hateful]
    ids = [f"m{row}" for row in range(len(label))]
    columns = {"id": ids, "split": "test", "part": "", "group": ids, "label": label}
    for model in MODELS:
        columns |= {f"{model}_logit_0": 0.0, f"{model}_logit_1": np.where(flagged, 9.0, -9.0)}
    return pd.DataFrame(columns)


def test_no_false_alarm_among_a_few_memes_does_not_promise_that_there_are_none(decision):
    """Where 2% are hate, the truth is covered whether or not a sample shows any false alarm."""
    fixed = replace(
        decision,
        temperatures=dict.fromkeys(MODELS, 1.0),
        thresholds=dict.fromkeys(MODELS, 0.5),
    )
    rng, truth, covered = np.random.default_rng(0), 0.02 * 0.8 / (0.02 * 0.8 + 0.98 * 0.003), 0
    for mistaken in rng.binomial(300, 0.003, 100):
        curve = precision_by_prevalence(seen_of(300, mistaken), fixed, [0.02], n_resamples=300)
        covered += bool(curve["low"][0] <= truth <= curve["high"][0])
    assert covered >= 90
    none = precision_by_prevalence(seen_of(300, 0), fixed, [0.02]).iloc[0]
    assert none["precision"] == none["high"] == 1
    assert none["low"] < 0.75


def test_a_threshold_that_no_meme_happens_to_reach_is_not_certain(decision):
    fixed = replace(decision, thresholds=dict.fromkeys(MODELS, 0.99999))
    found = at_prevalence(seen_of(300, 0), seen_of(300, 0), fixed, 0.1)["mm_fusion"]["frozen"]
    assert found["recall"] == found["flagged_share"] == 0
    assert 0 < found["intervals"]["recall"][1] < 0.02
    assert found["intervals"]["flagged_share"][1] > 0


def test_a_threshold_above_all_scores_flags_nothing_for_certain(val, decision):
    never = replace(decision, thresholds=dict.fromkeys(MODELS, ABOVE_ALL))
    curve = precision_by_prevalence(val, never, [0.1])
    assert (curve[["precision", "low", "high"]] == 0).all(axis=None)


@pytest.mark.parametrize("label", [0, 1])
def test_precision_by_prevalence_of_one_class_does_not_exist(val, decision, label):
    curve = precision_by_prevalence(val[val["label"] == label], decision, [0.1])
    assert curve[["precision", "low", "high"]].isna().all(axis=None)


def test_at_the_datas_own_prevalence_nothing_changes(val, decision):
    found = at_prevalence(val, val, decision, decision.prevalence)
    prob = calibrated(val, decision.temperatures)
    for model in MODELS:
        frozen = found[model]["frozen"]
        assert frozen["threshold"] == pytest.approx(decision.thresholds[model])
        hate = prob[model] >= decision.thresholds[model]
        assert frozen["f1"] == pytest.approx(f1_score(val["label"], hate))
        assert found[model]["retuned"]["f1"] == pytest.approx(frozen["f1"])


def test_retuned_at_the_datas_own_prevalence_is_the_threshold_as_it_was_fitted(val, decision):
    found = at_prevalence(val, val, decision, float(val["label"].mean()))
    for model in MODELS:
        retuned = found[model]["retuned"]["threshold"]
        assert retuned == pytest.approx(decision.thresholds[model], rel=1e-6)


@pytest.mark.parametrize(
    "objective",
    [
        *({"objective": name} for name in ("f1", "macro_f1", "balanced_accuracy")),
        *(
            {"objective": name, "floor": floor}
            for name in ("precision_at_recall", "recall_at_precision")
            for floor in (0.5, 0.75, 0.8)
        ),
    ],
)
def test_of_equally_good_thresholds_the_one_that_was_fitted_is_taken(objective):
    rng = np.random.default_rng(0)
    for _ in range(200):
        labels = rng.permutation(np.r_[np.zeros(30, int), np.ones(rng.integers(5, 25), int)])
        prob = np.round(np.clip(rng.normal(0.3 + 0.3 * labels, 0.2), 0.01, 0.99), 2)
        try:
            fitted = best_threshold(prob, labels, **objective)
        except ValueError:
            assert _retuned(prob, labels, labels.mean(), **objective) is None
            continue
        found = _retuned(prob, labels, labels.mean(), **objective)
        assert ((prob >= found) == (prob >= fitted.threshold)).all()


def test_a_rarer_hate_costs_precision_and_asks_for_another_threshold(val, decision):
    found = at_prevalence(val, val, decision, 0.02)["mm_fusion"]
    usual = at_prevalence(val, val, decision, decision.prevalence)["mm_fusion"]["frozen"]
    assert found["frozen"]["recall"] == pytest.approx(usual["recall"])
    assert found["frozen"]["precision"] < usual["precision"]
    assert found["retuned"]["f1"] > found["frozen"]["f1"]
    assert found["retuned"]["threshold"] > found["frozen"]["threshold"]


def repeated(frame):
    """Each non-hateful meme 9 times: what a share of a tenth of the hate comes to."""
    return pd.concat([frame[frame["label"] == 1]] + [frame[frame["label"] == 0]] * 9)


@pytest.mark.parametrize(
    "objective",
    [
        {"objective": "f1"},
        {"objective": "macro_f1"},
        {"objective": "balanced_accuracy"},
        {"objective": "cost", "costs": (1.0, 3.0)},
        {"objective": "cost", "costs": (1.0, 0.001)},
        {"objective": "precision_at_recall", "floor": 0.6},
        {"objective": "recall_at_precision", "floor": 0.5},
    ],
)
def test_a_retuned_threshold_is_as_good_as_the_best_on_memes_of_that_share(
    val, decision, objective
):
    rare = repeated(val)
    of, to = decision.prevalence, float(rare["label"].mean())
    retuned = replace(decision, objective=objective)
    cut = at_prevalence(val, val, retuned, to)["mm_fusion"]["retuned"]["threshold"]
    prob = shifted(calibrated(rare, decision.temperatures)["mm_fusion"], of, to)
    best = best_threshold(prob, rare["label"], **objective)
    hate, label = prob >= cut, rare["label"].to_numpy()
    costs = objective.get("costs", (1, 1))
    reached = {
        "f1": f1_score(label, hate),
        "macro_f1": f1_score(label, hate, average="macro"),
        "balanced_accuracy": balanced_accuracy_score(label, hate),
        "cost": costs[0] * (hate & (label == 0)).sum() + costs[1] * (~hate & (label == 1)).sum(),
        "precision_at_recall": precision_score(label, hate),
        "recall_at_precision": recall_score(label, hate),
    }[objective["objective"]]
    if objective["objective"] == "cost":
        flagged = prob >= best.threshold
        least = costs[0] * (flagged & (label == 0)).sum()
        assert reached == pytest.approx(least + costs[1] * (~flagged & (label == 1)).sum())
    else:
        assert reached == pytest.approx(best.value)
    if "floor" in objective:
        kept = recall_score if objective["objective"] == "precision_at_recall" else precision_score
        assert kept(label, hate) >= objective["floor"]


def test_a_threshold_above_every_score_stays_there(val, decision):
    decision.thresholds["mm_fusion"] = ABOVE_ALL
    frozen = at_prevalence(val, val, decision, 0.02)["mm_fusion"]["frozen"]
    assert frozen["threshold"] == ABOVE_ALL
    assert frozen["flagged_share"] == 0


def test_a_floor_that_no_threshold_reaches_at_that_share_has_no_retuned_one(val, decision):
    # The surest meme is harmless: one of 200 such outweighs all hate where that is 2%.
    val.loc[val["label"].idxmin(), "mm_fusion_logit_1"] = 100.0
    strict = replace(decision, objective={"objective": "recall_at_precision", "floor": 0.9})
    found = at_prevalence(val, val, strict, 0.02)["mm_fusion"]
    assert found["retuned"] is None and found["note"] == NOT_REACHED
    assert found["frozen"]["recall"] > 0
    usual = at_prevalence(val, val, strict, decision.prevalence)["mm_fusion"]
    assert usual["retuned"]["precision"] >= 0.9 and "note" not in usual


def test_one_class_has_no_figures(val, decision):
    only = val[val["label"] == 1]
    assert at_prevalence(only, val, decision, 0.02) == dict.fromkeys(MODELS)


def test_intervals_are_those_of_weighted_resamples(val, decision):
    """By hand: groups drawn with replacement, their memes weighted, scikit-learn's precision."""
    val = pd.concat([val, val.sample(150, random_state=0)])
    val["group"] = [f"{name}" for name in np.random.default_rng(1).integers(0, 120, len(val))]
    found = at_prevalence(val, val, decision, 0.1, n_resamples=2_000)["mm_fusion"]["frozen"]
    hate = calibrated(val, decision.temperatures)["mm_fusion"] >= decision.thresholds["mm_fusion"]
    table = pd.DataFrame({"label": val["label"].to_numpy(), "hate": hate.to_numpy()})
    members = {name: rows.index for name, rows in table.groupby(val["group"].to_numpy())}
    rng, names, seen = np.random.default_rng(5), list(members), []
    for _ in range(400):
        drawn = np.concatenate([members[name] for name in rng.choice(names, len(names))])
        label, flagged = table["label"].to_numpy()[drawn], table["hate"].to_numpy()[drawn]
        weight = np.where(label == 1, 0.1 / label.mean(), 0.9 / (1 - label.mean()))
        seen.append(precision_score(label, flagged, sample_weight=weight))
    low, high = found["intervals"]["precision"]
    assert low < found["precision"] < high
    assert [low, high] == pytest.approx(np.quantile(seen, [0.025, 0.975]), abs=0.02)
    assert high - low == pytest.approx(np.quantile(seen, 0.975) - np.quantile(seen, 0.025), rel=0.2)


def test_the_same_seed_gives_the_same_intervals_and_recall_needs_no_prevalence(val, decision):
    one, same, rarer = (at_prevalence(val, val, decision, p)["mm_fusion"] for p in (0.1, 0.1, 0.01))
    assert one == same
    interval = [found["frozen"]["intervals"]["recall"] for found in (one, rarer)]
    assert interval[0] == pytest.approx(interval[1])
