import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import MetricFrame, false_negative_rate, false_positive_rate
from hypothesis import given
from hypothesis import strategies as st

from lib.decisions.fairness import COLUMNS, fairness, newcombe
from lib.decisions.slices import OTHERS, joined_counts, wilson

ORACLES = {"false_positive_rate": false_positive_rate, "false_negative_rate": false_negative_rate}


def counts(**cells):
    """Counts of a slice "target_type": by value tp, fp, tn, fn."""
    rows = [
        {"slice": "target_type", "value": value}
        | dict(zip(("tp", "fp", "tn", "fn"), found, strict=True))
        for value, found in cells.items()
    ]
    return joined_counts([pd.DataFrame(rows)])


def memes(of_value):
    """Labels, decisions and values of memes with these counts."""
    rows = [
        (label, pred, value)
        for value, found in of_value.items()
        for (label, pred), n in zip(((1, 1), (0, 1), (0, 0), (1, 0)), found, strict=True)
        for _ in range(n)
    ]
    return (np.array(column) for column in zip(*rows, strict=True))


CELLS = {"women": (40, 30, 50, 35), "faith": (80, 8, 60, 20), "origin": (50, 12, 40, 31)}


@pytest.mark.parametrize("metric", ORACLES)
def test_rates_and_the_largest_gap_are_those_of_fairlearn(metric):
    labels, pred, values = memes(CELLS)
    oracle = MetricFrame(
        metrics=ORACLES[metric], y_true=labels, y_pred=pred, sensitive_features=values
    )
    table = fairness(counts(**CELLS))
    assert tuple(table) == COLUMNS
    rows = table[table["metric"] == metric].set_index("value")
    assert rows.loc[list(CELLS), "rate"].to_dict() == pytest.approx(oracle.by_group.to_dict())
    assert rows.iloc[-1]["gap"] == pytest.approx(oracle.difference())
    one, other = oracle.by_group.idxmax(), oracle.by_group.idxmin()
    assert rows.index[-1] == f"{one} over {other}"


def test_a_gap_is_to_the_rest_of_the_attribute():
    rows = fairness(counts(**CELLS)).set_index(["metric", "value"])
    row = rows.loc[("false_positive_rate", "women")]
    assert (row["n"], row["errors"]) == (80, 30)
    assert row["gap"] == pytest.approx(30 / 80 - 20 / 120)
    assert (row["gap_low"], row["gap_high"]) == newcombe(30, 80, 20, 120)
    assert (row["low"], row["high"]) == wilson(30, 80)
    assert row["verdict"] == "higher than the rest"
    assert rows.loc[("false_positive_rate", "faith"), "verdict"] == ""
    assert rows.loc[("false_positive_rate", "women over faith"), "verdict"] == "told apart"


def test_values_are_seldom_told_apart_where_nothing_is_unfair():
    """40 worlds of five attributes and two rates: ten largest gaps, none of them real."""
    rng, told_apart = np.random.default_rng(0), 0
    names = ["target_type", "language", "a", "b", "c"]
    for _ in range(40):
        cells = rng.choice(["tp", "fp", "tn", "fn"], 1500, p=[0.4, 0.1, 0.4, 0.1])
        parts = [
            pd.crosstab(rng.integers(0, 5, 1500).astype(str), cells)
            .rename_axis("value")
            .reset_index()
            .assign(slice=name)
            for name in names
        ]
        table = fairness(joined_counts(parts), names[2:])
        assert (table["verdict"] == "not told apart").any()
        told_apart += (table["verdict"] == "told apart").any()
    assert told_apart <= 4


def test_those_of_no_known_group_are_no_group():
    mixed = CELLS | {"unlabelled": (90, 2, 95, 90), OTHERS: (90, 90, 95, 2)}
    pd.testing.assert_frame_equal(fairness(counts(**mixed)), fairness(counts(**CELLS)))


def test_those_that_attack_nobody_are_no_group_of_people_nor_among_the_rest():
    mixed = CELLS | {"none": (0, 5, 300, 0)}
    pd.testing.assert_frame_equal(fairness(counts(**mixed)), fairness(counts(**CELLS)))
    # A field of one's own may mean something else by the word.
    own = counts(**mixed).assign(slice="disguise")
    assert "none" in fairness(own, ["disguise"])["value"].tolist()


def test_few_memes_of_a_label_are_insufficient_and_no_gap_is_made_of_them():
    table = fairness(counts(many=(50, 10, 40, 10), few=(3, 1, 20, 40)))
    rows = table.set_index(["metric", "value"])
    few = rows.loc[("false_positive_rate", "few")]
    assert few["verdict"] == "insufficient"
    assert few[["rate", "gap", "p_value"]].isna().all()
    many = rows.loc[("false_positive_rate", "many")]
    assert many["rate"] == pytest.approx(0.2)
    assert many[["gap", "gap_low", "gap_high", "p_value", "p_adjusted"]].isna().all()
    assert rows.loc["false_positive_rate"].index.tolist() == ["few", "many"]
    assert rows.loc["false_negative_rate"].index.tolist() == ["few", "many", "few over many"]


def test_a_value_without_memes_of_a_label_has_no_rate_of_it():
    table = fairness(counts(people=(0, 5, 60, 0), group=(50, 0, 0, 10), person=(40, 0, 0, 10)))
    false_positives = table[table["metric"] == "false_positive_rate"]
    assert false_positives["value"].tolist() == ["people"]
    assert false_positives["gap"].isna().all()
    assert "people" not in table.loc[table["metric"] == "false_negative_rate", "value"].tolist()


def test_no_gap_where_all_rates_are_equal_and_none_of_no_memes():
    table = fairness(counts(a=(40, 5, 35, 5), b=(40, 5, 35, 5)))
    assert (table["verdict"].isin(["", "not told apart"])).all()
    assert (table["gap"] == 0).all()
    assert fairness(counts(a=(1, 1, 1, 1))[:0]).empty


def test_newcombes_interval_is_that_of_the_paper():
    # Newcombe 1998, table II: 56/70 - 48/80 and 10/10 - 0/10 by method 10.
    assert newcombe(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert newcombe(10, 10, 0, 10) == pytest.approx((0.6075, 1.0), abs=5e-5)


@given(st.integers(1, 300), st.integers(1, 300), st.data())
def test_an_interval_holds_its_gap_and_turns_with_it(n, m, data):
    errors, others = data.draw(st.integers(0, n)), data.draw(st.integers(0, m))
    low, high = newcombe(errors, n, others, m)
    gap, eps = errors / n - others / m, 1e-9
    assert -1 - eps <= low <= gap + eps
    assert gap - eps <= high <= 1 + eps
    assert newcombe(others, m, errors, n) == pytest.approx((-high, -low))
