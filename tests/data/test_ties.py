import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.data.near_duplicates import MAX_DISTANCE
from lib.data.ties import Item, Ties, find_duplicates, groups_of, normalise_text


def item(id_, text="", picture=None, **fields):
    fields = {"dataset": "memes", "label": 0} | fields
    return Item(id=str(id_), text=text or f"text {id_}", picture=picture, **fields)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("When you SEE it", "when  you see\nit"),
        ("you, and ME!!", "you and me"),
        ("\ufb01ne \uff57ide", "fine wide"),
        ("STRASSE", "straße"),
    ],
)
def test_equal_texts_are_equal_for_a_reader(one, other):
    assert normalise_text(one) == normalise_text(other)


@pytest.mark.parametrize(("one", "other"), [("50", "51"), ("😀", "😡"), ("a b", "ab"), ("क", "ख")])
def test_different_texts_stay_different(one, other):
    assert normalise_text(one) != normalise_text(other)


def test_groups_join_by_text_and_by_picture_transitively():
    items = [
        item("a", text="one", picture=0),
        item("b", text="one", picture=2**64 - 1),
        item("c", text="two", picture=2**64 - 2),
        item("d", text="three", picture=2**32 - 1),
    ]
    groups = Ties(items).components
    assert groups[0] == groups[1] == groups[2] != groups[3]


def test_memes_without_text_are_not_one_group():
    items = [item("a", text="..."), item("b", text="!")]
    assert len(set(Ties(items).components.tolist())) == 2


def test_an_own_group_ties_beside_text_and_picture():
    items = [
        item("a", text="one", group="g"),
        item("b", text="two", group="g"),
        item("c", text="two", group="h"),
        item("d", text="three", group="i"),
    ]
    assert groups_of(items, Ties(items)) == {"a": "a", "b": "a", "c": "a", "d": "d"}


def test_a_group_ties_within_its_data_set_alone():
    items = [item("a", text="one", group="7"), item("b", text="two", group="7", dataset="other")]
    assert groups_of(items, Ties(items)) == {"a": "a", "b": "b"}


def test_duplicates_name_the_first_of_their_kind():
    items = [item("a", text="x", picture=8), item("b", text="X"), item("c", picture=9)]
    assert find_duplicates(items, Ties(items)) == [
        {"id": "b", "shares": "text", "with": "a"},
        {"id": "c", "shares": "picture", "with": "a"},
    ]


HELD = st.tuples(st.integers(0, 8), st.integers(0, 2), st.sets(st.integers(0, 63), max_size=7))


def tied(one, other, kind):
    if kind == "text":
        return one.text == other.text
    return (one.picture ^ other.picture).bit_count() <= MAX_DISTANCE


@given(st.lists(HELD, min_size=1, max_size=25), st.data())
@settings(max_examples=60, deadline=None)
def test_ties_are_those_of_comparing_all_with_all(rows, data):
    items = [
        item(i, text=f"t {text}", picture=sum(1 << b for b in bits) ^ (base * 0x5E3779B97F4A7C15))
        for i, (text, base, bits) in enumerate(rows)
    ]
    ties = Ties(items)
    to = sorted(data.draw(st.sets(st.integers(0, len(items) - 1))))
    rest = [i for i in range(len(items)) if i not in to]
    for kind in ("text", "picture"):
        expected = [next((j for j in to if tied(items[i], items[j], kind)), -1) for i in rest]
        found = ties.first_tied(kind, np.array(rest, dtype=int), np.array(to, dtype=int))
        assert found.tolist() == expected
        earlier = [
            next((j for j in range(i) if tied(items[i], items[j], kind)), -1)
            for i in range(len(items))
        ]
        assert ties.duplicated(kind).tolist() == earlier


def test_memes_without_text_or_picture_are_tied_to_nothing():
    ties = Ties([item(i, text="...") for i in range(3)])
    assert ties.first_tied("picture", np.array([0]), np.array([1, 2])).tolist() == [-1]
    assert ties.duplicated("text").tolist() == ties.duplicated("picture").tolist() == [-1] * 3
    assert len(Ties([]).components) == 0


def test_a_group_that_spans_data_sets_ties_across_them_and_to_no_other():
    items = [
        item("a", group="7", group_spans=True),
        item("b", group="7", group_spans=True, dataset="other"),
        item("c", group="7"),
        item("d", group_spans=True),
        item("e", group_spans=True),
    ]
    assert groups_of(items, Ties(items)) == {"a": "a", "b": "a", "c": "c", "d": "d", "e": "e"}
