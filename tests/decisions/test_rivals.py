import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.metrics import brier_score_loss, log_loss

from lib.config import MODELS
from lib.decisions.rivals import CALIBRATORS, cross_fitted_probabilities, rivals


def margins_and_labels(n=4000, seed=0):
    rng = np.random.default_rng(seed)
    margins = rng.normal(0, 3, n)
    return margins, rng, n


def fitted(name, margins, labels):
    half = len(margins) // 2
    return CALIBRATORS[name](margins[:half], labels[:half], margins[half:])


@pytest.mark.parametrize("name", ["temperature", "Platt", "beta"])
def test_parametric_calibrators_find_the_temperature_that_made_the_labels(name):
    margins, rng, n = margins_and_labels(20_000)
    labels = (rng.random(n) < expit(margins / 2)).astype(int)
    assert fitted(name, margins, labels) == pytest.approx(expit(margins[n // 2 :] / 2), abs=0.06)


def test_platt_mends_a_shift_that_no_temperature_mends():
    margins, rng, n = margins_and_labels(20_000)
    labels = (rng.random(n) < expit(margins / 2 + 1)).astype(int)
    truth = expit(margins[n // 2 :] / 2 + 1)
    assert fitted("Platt", margins, labels) == pytest.approx(truth, abs=0.05)
    assert np.abs(fitted("temperature", margins, labels) - truth).mean() > 0.1


def test_beta_with_equal_slopes_is_platt():
    # ln p - ln(1 - p) is the margin: a = b and c make the logistic curve.
    margins, rng, n = margins_and_labels(20_000)
    labels = (rng.random(n) < expit(margins / 3 - 0.5)).astype(int)
    assert fitted("beta", margins, labels) == pytest.approx(
        fitted("Platt", margins, labels), abs=0.05
    )


def test_beta_is_fitted_to_its_optimum_where_its_inputs_are_nearly_one():
    rng = np.random.default_rng(0)
    margins = rng.normal(0, 0.1, 60)
    labels = (rng.random(60) < expit(20 * margins)).astype(int)
    parts = np.stack([np.log(expit(margins)), -np.log(expit(-margins)), np.ones(60)], axis=1)

    def loss(weights):
        return np.logaddexp(0, (1 - 2 * labels) * (parts @ weights)).sum()

    best = minimize(loss, np.zeros(3), method="Nelder-Mead", options={"maxiter": 20_000})
    found = CALIBRATORS["beta"](margins, labels, margins)
    assert log_loss(labels, found, normalize=False) == pytest.approx(best.fun, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        *((name, [0, 0, 0, 1, 1, 1, 1]) for name in ("Platt", "beta")),
        ("beta", [0, 0, 1, 1, 1, 0, 0]),
    ],
)
def test_where_no_logistic_fit_is_finite_it_is_that_of_smoothed_labels(name, labels):
    margins, labels = np.array([-3.0, -2.0, -0.5, -0.5, 1.0, 2.0, 4.0]), np.array(labels)
    parts = [np.log(expit(margins)), -np.log(expit(-margins))] if name == "beta" else [margins]
    x = np.stack([*parts, np.ones(7)], axis=1)
    of_class = np.array([np.sum(labels == 0), np.sum(labels == 1)])[labels]
    targets = np.where(labels == 1, of_class + 1, 1) / (of_class + 2)

    def loss(weights):
        z = x @ weights
        return (np.logaddexp(0, z) - targets * z).sum()

    best = minimize(loss, np.zeros(x.shape[1]), method="BFGS", options={"gtol": 1e-9})
    found = CALIBRATORS[name](margins, labels, margins)
    assert found == pytest.approx(expit(x @ best.x), abs=1e-4)


def test_a_cut_through_equal_margins_of_both_labels_parts_the_others():
    margins = np.array([-3, -1, -1, 0, 0.5, 1, 1, 3] * 3)
    labels = np.array([0, 0, 1, 1, 1, 0, 1, 0] * 3)
    found = CALIBRATORS["beta"](margins, labels, margins)
    assert 0.01 < found.min() < found.max() < 0.99


@pytest.mark.parametrize("name", ["Platt", "beta"])
@pytest.mark.parametrize("values", [[0.3], [-0.3, 0.3]])
def test_rates_of_margins_that_all_have_both_labels_are_as_counted(name, values):
    margins = np.repeat(values, 20)
    labels = np.tile(np.r_[np.ones(16, int), np.zeros(4, int)], len(values))
    found = CALIBRATORS[name](margins, labels, np.array(values))
    assert found == pytest.approx(np.full(len(values), 0.8), abs=1e-3)


def test_isotonic_is_the_rate_of_each_score_where_rates_ascend():
    margins = np.repeat([-1.0, 1.0], 10)
    labels = np.array([1] * 2 + [0] * 8 + [1] * 7 + [0] * 3)
    found = CALIBRATORS["isotonic"](margins, labels, np.array([-5.0, -1.0, 1.0, 5.0]))
    assert found == pytest.approx([0.2, 0.2, 0.7, 0.7])


@pytest.mark.parametrize("name", CALIBRATORS)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_every_calibrator_gives_probabilities_for_any_margins(name, scale):
    margins, rng, n = margins_and_labels(200)
    for labels in ((margins > 0).astype(int), rng.integers(0, 2, n)):
        prob = fitted(name, margins * scale, labels)
        assert ((prob >= 0) & (prob <= 1)).all()


def test_no_meme_is_judged_by_a_calibrator_that_saw_its_group():
    margins, rng, n = margins_and_labels(60)
    labels = rng.integers(0, 2, n)
    groups = np.repeat(np.arange(20), 3)
    before = cross_fitted_probabilities(margins, labels, groups, seed=0)
    changed = margins.copy()
    changed[groups == 4] += 100 * labels[groups == 4]
    after = cross_fitted_probabilities(changed, labels, groups, seed=0)
    same_fold = before["Platt"] == pytest.approx(after["Platt"])
    assert not same_fold
    assert before["Platt"][groups != 4].shape == (57,)


def test_the_table_has_each_calibrator_beside_temperature(logits_frame, model_folders):
    frame = logits_frame(200)
    table = rivals(frame, model_folders, n_resamples=50)
    assert len(table) == len(MODELS) * len(CALIBRATORS) * 3
    own = table[table["calibrator"] == "temperature"]
    assert (own[["minus_temperature", "low", "high"]] == 0).all(axis=None)
    for row in table.itertuples():
        reference = own[(own["model"] == row.model) & (own["metric"] == row.metric)].iloc[0]
        assert row.minus_temperature == pytest.approx(row.value - reference["value"], abs=1e-9)
        assert row.low <= row.minus_temperature <= row.high
    # The experts are overconfident by far: leaving them so is worse, by log-loss beyond doubt.
    plain = table[(table["calibrator"] == "uncalibrated") & (table["metric"] == "nll")]
    assert plain["verdict"].tolist()[:2] == ["worse", "worse"]
    again = rivals(frame, model_folders, n_resamples=50)
    pd.testing.assert_frame_equal(table, again)


def test_values_are_those_of_scikit_learn(logits_frame, model_folders):
    frame = logits_frame(200)
    table = rivals(frame, model_folders, n_resamples=5)
    table = table[table["model"] == "mm_fusion"].pivot(
        index="calibrator", columns="metric", values="value"
    )
    margins = (frame["mm_fusion_logit_1"] - frame["mm_fusion_logit_0"]).to_numpy()
    prob = cross_fitted_probabilities(margins, frame["label"].to_numpy(), None, seed=0)
    for name, p in prob.items():
        found = table.loc[name]
        assert found["brier"] == pytest.approx(brier_score_loss(frame["label"], p))
        assert found["nll"] == pytest.approx(log_loss(frame["label"], p))


def test_a_shift_makes_platt_better_beyond_doubt(logits_frame, model_folders):
    frame = logits_frame(400)
    for model in MODELS:
        frame[f"{model}_logit_1"] += 8
    table = rivals(frame, model_folders, 50)
    row = table[(table["calibrator"] == "Platt") & (table["metric"] == "nll")].iloc[-1]
    assert (row["model"], row["verdict"]) == ("mm_fusion", "better")
    assert row["minus_temperature"] < 0


def test_a_class_of_one_meme_compares_nothing_and_says_so(logits_frame, model_folders):
    frame = logits_frame(60)
    frame["label"] = [1] + [0] * 59
    with pytest.warns(UserWarning, match="not compared: .* two .* of each class"):
        table = rivals(frame, model_folders, n_resamples=50)
    assert table.empty
    assert list(table) == list(rivals(logits_frame(60), model_folders, n_resamples=5))


def test_a_timid_model_s_small_ece_is_no_verdict(logits_frame, model_folders):
    """Scores near one half share a bin; what they are worth is for the proper scores to say."""
    frame = logits_frame(300)
    columns = [name for name in frame if "_logit_" in name]
    frame[columns] = frame[columns] / 20
    table = rivals(frame, model_folders).set_index(["metric", "calibrator"])
    assert (table.loc["ece", "verdict"] == "").all()
    assert "worse" in table.loc[("nll", "uncalibrated"), "verdict"].tolist()
