import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.decisions.design_effect import Rate, design_effect, effective, rates_of
from lib.decisions.slices import (
    joined_shared,
    shared_counts,
    slice_columns,
    slice_counts,
    slices,
)


def rate(*groups, alone=(0, 0)):
    """A rate of groups (errors, memes) and of memes by themselves."""
    cells = np.array(groups, int).reshape(-1, 2)
    errors, n = cells.sum(axis=0) + np.array(alone)
    return Rate(int(errors), int(n), cells[:, 0], cells[:, 1])


def test_memes_of_one_kind_count_as_one():
    # 20 groups of 5, wrong or right as a whole: 100 memes say what 20 do, less one for the mean.
    found = design_effect(rate(*[(5, 5)] * 8, *[(0, 5)] * 12))
    assert found == pytest.approx(5 * 20 / 19)


def test_groups_that_differ_as_chance_does_change_little_and_never_add_memes():
    rng = np.random.default_rng(0)
    found = [design_effect(rate(*[(e, 5) for e in rng.binomial(5, 0.3, 200)])) for _ in range(50)]
    assert min(found) >= 1
    assert np.mean(found) < 1.15
    assert design_effect(rate(*[(1, 2)] * 30)) == 1


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(2, 4)), min_size=2, max_size=20))
def test_it_is_the_ratio_of_the_two_variances(groups):
    groups = [(min(e, n), n) for e, n in groups]
    found, (errors, n) = rate(*groups, alone=(3, 9)), np.sum([*groups, (3, 9)], axis=0)
    p, clusters = errors / n, [*groups, *[(1, 1)] * 3, *[(0, 1)] * 6]
    between = sum((e - p * size) ** 2 for e, size in clusters) * len(clusters)
    expected = between / (len(clusters) - 1) / (n * p * (1 - p))
    assert design_effect(found) == pytest.approx(max(1.0, expected))


def test_where_nothing_is_wrong_the_effect_is_that_of_all_memes():
    none, some = rate(*[(0, 5)] * 12), rate(*[(5, 5)] * 8, *[(0, 5)] * 12)
    (errors, n), _ = effective(none, some)
    assert errors == 0
    assert n == pytest.approx(60 / design_effect(rate(*[(5, 5)] * 8, *[(0, 5)] * 24)))
    assert effective(none, none)[0] == (0, 12)
    assert effective(rate(alone=(0, 40)), rate(alone=(0, 40)))[0] == (0, 40)


def test_few_groups_are_not_enough_unless_every_meme_is_alone():
    assert not rate(*[(1, 5)] * 9).enough
    assert rate(*[(1, 5)] * 9, alone=(0, 1)).enough
    assert rate(alone=(1, 3)).enough


def test_groups_of_which_few_outweigh_the_others_are_not_enough():
    heavy = [(1, 3)] * 8 + [(20, 60), (30, 100)]
    assert not rate(*heavy).enough
    assert not rate(*heavy, alone=(2, 30)).enough
    assert rate(*[(1, 3)] * 60, (5, 20)).enough
    cells, groups = ["FN", "TP"] * 92, np.repeat(np.arange(10), [n for _, n in heavy])
    table, _ = table_of(np.array(cells * 2), np.concatenate([groups, groups + 10]).astype(str), [])
    metas = [{"field": "heavy"}] * 184 + [{"field": "heavy too"}] * 184
    shared = shared_counts(table, slice_columns(table, metas, ["field"]), numbered(table["group"]))
    found = slices([slice_counts(table, metas, ["field"])], shared)
    assert found["verdict"].tolist() == ["insufficient"] * 2


def test_a_group_counts_once_for_the_others_whatever_values_it_has():
    cells = {"tp": [4, 4, 4], "fp": [2, 2, 2], "tn": 0, "fn": 0}
    counts = pd.DataFrame({"value": ["a", "b", "c"]} | cells)
    shared = pd.DataFrame({"value": ["a", "b", "c"], "group": "g", "tp": 1, "fp": [1, 2, 0]})
    shared = shared.assign(tn=0, fn=0)
    own, rest = rates_of(counts, shared, ["fp", "fn"], ["tp", "tn"])[0]
    assert (own.errors, own.n, own.group_errors.tolist(), own.group_n.tolist()) == (2, 6, [1], [2])
    assert (rest.errors, rest.n) == (4, 12)
    assert (rest.group_errors.tolist(), rest.group_n.tolist()) == ([2], [4])


def table_of(cells, groups, field):
    n = len(cells)
    told = {"error_type": cells, "text_words": 5, "agreement": 3, "in_review_band": False}
    told |= {"ocr_missing": False, "language": "en", "dataset": "x", "target_type": "none"}
    table = pd.DataFrame(told | {"group": groups}, index=range(n))
    return table, [{"field": int(value)} for value in field]


def numbered(groups):
    return {group: k for k, group in enumerate(sorted(set(groups)))}


def test_chance_is_seldom_called_worse_where_memes_come_in_groups():
    """60 groups of 10 that are alike within (correlation 0.5), none of them truly different."""
    rng = np.random.default_rng(0)
    called = {True: 0, False: 0}
    for _ in range(100):
        p = rng.beta(0.2, 0.8, 60)  # intraclass correlation 1 / (1 + 0.2 + 0.8)
        groups = np.repeat(np.arange(60), 10)
        cells = np.where(rng.random(600) < p[groups], "FP", "TN")
        table, metas = table_of(cells, groups.astype(str), rng.integers(0, 4, 60)[groups])
        counts = slice_counts(table, metas, ["field"])
        shared = shared_counts(
            table, slice_columns(table, metas, ["field"]), numbered(table["group"])
        )
        for known in called:
            found = slices([counts], shared if known else None)
            called[known] += (found["verdict"] == "worse than the rest").any()
    assert called[True] <= 12
    assert called[False] > 30  # what the design effect is for


def test_memes_by_themselves_are_judged_as_before():
    rng = np.random.default_rng(1)
    cells = rng.choice(["TP", "FP", "TN", "FN"], 300)
    table, metas = table_of(cells, [f"g{row}" for row in range(300)], rng.integers(0, 2, 300))
    counts = slice_counts(table, metas, ["field"])
    shared = shared_counts(table, slice_columns(table, metas, ["field"]), {})
    pd.testing.assert_frame_equal(slices([counts], shared), slices([counts]))
    assert (slices([counts])["design_effect"] == 1).all()


def test_groups_may_be_read_in_parts():
    rng = np.random.default_rng(2)
    cells, groups = rng.choice(["TP", "FN"], 300), rng.integers(0, 60, 300).astype(str)
    table, metas = table_of(cells, groups, rng.integers(0, 2, 300))
    columns, company = slice_columns(table, metas, ["field"]), numbered(groups)
    whole = shared_counts(table, columns, company)
    parts = [
        shared_counts(table[k : k + 41], columns[k : k + 41], company) for k in range(0, 300, 41)
    ]
    pd.testing.assert_frame_equal(joined_shared(parts), whole)
