import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2_contingency
from sklearn.metrics import f1_score

from lib.decisions.slices import (
    ALONE,
    COLUMNS,
    MOST_VALUES,
    OTHERS,
    SLICE_MINIMUM,
    SLICES,
    adjusted,
    shared_counts,
    slice_columns,
    slice_counts,
    slices,
    wilson,
)


def table_of(cells, words=5, **columns):
    """An error table of these error types."""
    n = len(cells)
    found = {"error_type": cells, "text_words": words, "agreement": 3, "in_review_band": False}
    found |= {"ocr_missing": False, "language": "en", "dataset": "x", "target_type": "none"}
    return pd.DataFrame(found | columns, index=range(n))


@pytest.fixture
def many():
    rng = np.random.default_rng(0)
    cells = rng.choice(["TP", "FP", "TN", "FN"], 400, p=[0.4, 0.1, 0.4, 0.1])
    field = rng.choice(["a", "b", "c"], 400, p=[0.5, 0.45, 0.05])
    cells[field == "b"] = rng.choice(["TP", "FP", "TN", "FN"], (field == "b").sum())
    metas = [{"kind": kind, "labels": {"offensive": i % 2}} for i, kind in enumerate(field)]
    return table_of(cells, words=rng.integers(0, 30, 400)), metas, field


def test_counts_do_not_depend_on_how_memes_are_read(many):
    table, metas, _ = many
    whole = slices([slice_counts(table, metas, ["kind"])])
    parts = [
        slice_counts(table[i : i + 37], metas[i : i + 37], ["kind"]) for i in range(0, 400, 37)
    ]
    pd.testing.assert_frame_equal(slices(parts), whole)
    assert tuple(whole) == COLUMNS


def test_the_figures_are_those_of_the_memes_themselves(many):
    table, metas, field = many
    found = slices([slice_counts(table, metas, ["kind"])])
    rows = found[found["slice"] == "kind"].set_index("value")
    wrong = table["error_type"].isin(["FP", "FN"])
    label, pred = table["error_type"].isin(["TP", "FN"]), table["error_type"].isin(["TP", "FP"])
    for value in ("a", "b"):
        own = field == value
        row = rows.loc[value]
        assert (row["n"], row["errors"]) == (own.sum(), wrong[own].sum())
        assert row["error_rate"] == pytest.approx(wrong[own].mean())
        assert row["rest_error_rate"] == pytest.approx(wrong[~own].mean())
        assert row["difference"] == pytest.approx(wrong[own].mean() - wrong[~own].mean())
        assert row["macro_f1"] == pytest.approx(f1_score(label[own], pred[own], average="macro"))
        # Two tests of one question agree in their order of magnitude.
        sides = pd.crosstab(own, wrong)
        assert row["p_value"] == pytest.approx(chi2_contingency(sides).pvalue, rel=0.5)
    assert rows.loc["b", "verdict"] == "worse than the rest"
    assert rows.loc["a", "verdict"] == ""


def test_a_slice_under_30_memes_is_not_judged(many):
    table, metas, field = many
    assert (field == "c").sum() < SLICE_MINIMUM
    found = slices([slice_counts(table, metas, ["kind"])])
    row = found[found["value"] == "c"].iloc[0]
    assert row["verdict"] == "insufficient"
    assert row[["error_rate", "low", "high", "macro_f1", "p_value"]].isna().all()
    assert row[["tp", "fp", "tn", "fn"]].sum() == row["n"]


def test_a_rest_under_30_memes_is_nothing_to_compare_with():
    table = table_of(["TP"] * 60, language=["en"] * 50 + ["de"] * 10)
    row = slices([slice_counts(table, [{}] * 60)]).set_index("value").loc["en"]
    assert (row["error_rate"], row["verdict"]) == (0.0, ALONE)
    assert np.isnan(row["difference"])
    assert np.isnan(row["macro_f1"])


def test_what_takes_one_value_only_is_left_out():
    table = table_of(["TP", "FP"] * 20)
    assert slices([slice_counts(table, [{}] * 40)]).empty


def test_a_slice_without_an_error_may_still_have_some():
    cells = {"tp": [40, 30], "fp": [0, 9], "tn": [40, 30], "fn": [0, 8]}
    counts = pd.DataFrame({"slice": "topic", "value": ["right", "other"], **cells})
    found = slices([counts]).set_index("value").loc["right"]
    assert found["macro_f1"] == found["macro_f1_high"] == 1
    assert 0.9 < found["macro_f1_low"] < 0.98


def test_macro_f1_has_the_interval_of_its_resampled_groups():
    rng = np.random.default_rng(3)
    cells = np.array(["TP", "FP", "TN", "FN"])
    # 50 groups of 4 memes that are alike within, and 200 memes by themselves.
    error_type = np.concatenate([np.repeat(rng.choice(cells, 50), 4), rng.choice(cells, 200)])
    group = np.concatenate([np.repeat(np.arange(50), 4), np.arange(50, 250)])
    table = table_of(error_type).assign(group=[f"g{number}" for number in group])
    metas = [{"field": "a"}] * 360 + [{"field": "b"}] * 40
    columns = slice_columns(table, metas, ["field"])
    company = {f"g{number}": number for number in range(50)}
    shared = shared_counts(table, columns, company)
    found = slices([slice_counts(table, metas, ["field"])], shared).set_index("value").loc["a"]
    drawn = []
    for _ in range(1000):
        rows = np.concatenate([np.flatnonzero(group == g) for g in rng.integers(0, 210, 210)])
        hate = np.isin(error_type[rows], ["TP", "FN"]), np.isin(error_type[rows], ["TP", "FP"])
        drawn.append(f1_score(*hate, average="macro"))
    ends = np.quantile(drawn, [0.025, 0.975])
    assert [found["macro_f1_low"], found["macro_f1_high"]] == pytest.approx(ends, abs=0.012)
    assert found["macro_f1_low"] < found["macro_f1"] < found["macro_f1_high"]


def test_slices_of_chance_alone_are_seldom_called_worse():
    rng = np.random.default_rng(1)
    called = 0
    for _ in range(40):
        cells = rng.choice(["TP", "FN"], 600, p=[0.8, 0.2])
        metas = [{"field": int(value)} for value in rng.integers(0, 12, 600)]
        found = slices([slice_counts(table_of(cells), metas, ["field"])])
        called += (found["verdict"] == "worse than the rest").any()
    assert called <= 6


def test_slices_made_by_the_models_let_no_more_of_the_others_be_called_worse():
    """In 40 worlds no field matters, and where the models disagree they are often wrong."""
    rng, called = np.random.default_rng(2), {}
    for _ in range(40):
        agreement = rng.choice([1, 2, 3], 1000, p=[0.1, 0.2, 0.7])
        wrong = rng.random(1000) < np.array([0.5, 0.3, 0.08])[agreement - 1]
        metas = [dict(zip("abcd", row, strict=True)) for row in rng.integers(0, 4, (1000, 4))]
        table = table_of(np.where(wrong, "FN", "TP"))
        table = table.assign(agreement=agreement, in_review_band=agreement == 1)
        found = slices([slice_counts(table, metas, "abcd")])
        worse = found.loc[found["verdict"] == "worse than the rest", "slice"]
        for name in set(worse):
            called[name] = called.get(name, 0) + 1
    assert called.pop("agreement") == called.pop("in_review_band") == 40
    assert sum(called.values()) <= 2


@pytest.mark.parametrize(
    ("words", "value"),
    [
        *((0, "no words"), (1, "1 to 5 words"), (5, "1 to 5 words"), (6, "6 to 10 words")),
        *((20, "11 to 20 words"), (21, "over 20 words")),
    ],
)
def test_texts_are_sliced_by_their_number_of_words(words, value):
    assert slice_columns(table_of(["TP"], words), [{}])["text length"].tolist() == [value]


def test_slices_come_in_order_and_lengths_from_short_to_long():
    table = table_of(["TP"] * 4, words=[30, 0, 7, 3], agreement=[3, 1, 2, 3])
    metas = [{"concept": value} for value in "abab"]
    found = slices([slice_counts(table, metas)])
    assert list(dict.fromkeys(found["slice"])) == ["text length", "agreement", "concept"]
    lengths = found.loc[found["slice"] == "text length", "value"]
    assert lengths.tolist() == ["no words", "1 to 5 words", "6 to 10 words", "over 20 words"]
    assert list(slice_columns(table, metas)) == list(SLICES)


def test_memes_without_a_value_are_in_no_slice_of_it():
    metas = [{"kind": "a"}, {"kind": None}, {}, {"kind": "b"}]
    found = slices([slice_counts(table_of(["TP"] * 4), metas, ["kind"])])
    assert found[["value", "n"]].to_numpy().tolist() == [["a", 1], ["b", 1]]


def test_a_field_with_half_a_character_can_be_written():
    metas = [{"kind": "half \ud83d"}, {"kind": None}, {"kind": ["a", 1]}, {"kind": " "}]
    found = slice_columns(table_of(["TP", "FN", "TN", "TP"]), metas, ["kind"])["kind"]
    assert found.tolist() == ["half ?", None, "['a', 1]", None]


def test_a_column_of_the_table_that_is_not_known_makes_no_slice():
    table = table_of(["TP", "FN", "TN"], near=[1, np.nan, None], word=["a", "", None])
    found = slice_columns(table, [{}] * 3, ["near", "word"])
    assert found["near"].tolist() == ["1.0", None, None]
    assert found["word"].tolist() == ["a", None, None]


def test_the_rare_of_very_many_values_are_counted_together():
    metas = [{"kind": f"v{i % 80:02}" if i < 400 else "often"} for i in range(480)]
    found = slices([slice_counts(table_of(["TP", "FN"] * 240), metas, ["kind"])])
    assert len(found) == MOST_VALUES
    assert found["n"].sum() == 480
    rows = found.set_index("value")
    assert rows.loc["often", "n"] == 80
    assert rows.loc[OTHERS, "n"] == 480 - 80 - 5 * (MOST_VALUES - 2)


def test_intervals_and_adjustment_are_the_published_ones():
    # Newcombe 1998, Two-sided confidence intervals for the single proportion: 81 of 263.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 0) == (0.0, 1.0)
    # Benjamini and Hochberg 1995, the first of their example's p-values over 15 tests.
    p = pd.Series([0.0001, 0.0004, 0.0019, 0.0095, 0.0201, *np.linspace(0.03, 1, 10), np.nan])
    found = adjusted(p)
    assert found[3] == pytest.approx(0.0095 * 15 / 4)
    assert found[:15].is_monotonic_increasing
    assert np.isnan(found[15])
