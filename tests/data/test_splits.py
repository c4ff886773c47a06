import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.data.near_duplicates import MAX_DISTANCE
from lib.data.splits import assign_splits, find_leaks
from lib.data.ties import Item, Ties


def item(id_, text="", picture=None, split=None, **fields):
    fields = {"dataset": "memes", "label": 0} | fields
    return Item(id=str(id_), text=text or f"text {id_}", picture=picture, split=split, **fields)


def spread(n, **fields):
    """n items that share nothing, with 30% of label 1."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, n)
    return [item(i, picture=int(hashes[i]), label=int(i % 10 < 3), **fields) for i in range(n)]


def test_free_items_are_divided_8_1_1_with_the_labels_in_proportion():
    splits, report = assign_splits(spread(1000), seed=1)
    counts = Counter(splits.values())
    assert counts["test"] == counts["val"] == 100
    assert report["assigned"] == {"memes": {"train": 800, "val": 100, "test": 100}}
    for split in counts:
        hateful = [i for i in range(1000) if splits[str(i)] == split and i % 10 < 3]
        assert len(hateful) == 0.3 * counts[split]


def test_the_seed_decides():
    items = spread(100)
    assert assign_splits(items, seed=3) == assign_splits(items, seed=3)
    assert assign_splits(items, seed=3)[0] != assign_splits(items, seed=4)[0]


@pytest.mark.filterwarnings("ignore:.*are near copies")
@given(
    st.lists(
        st.tuples(
            st.integers(0, 30),
            st.integers(0, 30),
            st.sampled_from([None, None, "train", "val", "test", "heldout"]),
            st.sampled_from(["a", "b"]),
            st.integers(0, 1),
        ),
        min_size=60,
        max_size=120,
    ),
    st.integers(0, 5),
)
@settings(max_examples=40, deadline=None)
def test_no_text_and_no_picture_ever_lies_in_two_splits(rows, seed):
    # Hashes 2k and 2k+1 are near copies; multiples of a large odd number are far from each other
    pictures = [(p // 2 * 0x9E3779B97F4A7C15) % 2**64 ^ p % 2 for _, p, *_ in rows]
    items = [
        item(i, text=f"text {t}", picture=picture, split=split, dataset=dataset, label=label)
        for i, ((t, _, split, dataset, label), picture) in enumerate(
            zip(rows, pictures, strict=True)
        )
    ]
    try:
        splits, report = assign_splits(items, seed)
    except ValueError as error:
        assert "cannot fill" in str(error)
        return
    kept = [i for i in items if i.id in splits]
    for one, other in itertools.combinations(kept, 2):
        near = (one.picture ^ other.picture).bit_count() <= MAX_DISTANCE
        if near or one.text == other.text:
            assert splits[one.id] == splits[other.id]
    assert {leak["id"] for leak in report["dropped"]} == {i.id for i in items} - set(splits)
    assert all(splits[i.id] == i.split for i in kept if i.split in ("val", "test", "heldout"))


def test_official_splits_stay():
    items = [
        item(i, split=split) for i, split in enumerate(["train"] * 5 + ["val"] * 3 + ["test"] * 2)
    ]
    splits, report = assign_splits(items)
    assert splits == {i.id: i.split for i in items}
    assert report["dropped"] == [] and report["assigned"] == {}


def test_a_copy_of_a_test_meme_leaves_train_and_val_and_says_why():
    items = [
        item("train copy", text="Look at THIS!", split="train"),
        item("val copy", picture=0b111, split="val"),
        item("free copy", text="look at this"),
        item("test", text="look at this", picture=0b011, split="test"),
        item("train", split="train"),
        item("val", split="val"),
    ]
    splits, report = assign_splits(items)
    assert splits == {"test": "test", "train": "train", "val": "val"}
    why = {"with": "test", "of": "test"}
    assert report["dropped"] == [
        {"id": "train copy", "split": "train", "shares": "text", **why},
        {"id": "val copy", "split": "val", "shares": "picture", **why},
        {"id": "free copy", "split": None, "shares": "text", **why},
    ]


def test_what_shares_only_with_a_dropped_meme_stays():
    items = [
        item("train", text="chain", split="train"),
        item("val", text="chain", picture=1, split="val"),
        item("test", picture=1, split="test"),
        item("other val", split="val"),
    ]
    splits, report = assign_splits(items)
    assert splits == {"train": "train", "test": "test", "other val": "val"}
    assert [leak["id"] for leak in report["dropped"]] == ["val"]


def test_leaks_are_found_in_splits_made_elsewhere():
    items = [item("a", text="same"), item("b", text="same"), item("c")]
    ties = Ties(items)
    (leak,) = find_leaks(items, ["train", "test", "val"], ties)
    assert (leak["id"], leak["with"]) == ("a", "b")
    assert find_leaks(items, ["train", "train", "test"], ties) == []


def test_a_data_set_without_val_gets_one_from_its_train():
    items = spread(100, split="train") + [item(f"t{i}", split="test") for i in range(20)]
    splits, report = assign_splits(items)
    assert Counter(splits.values()) == {"train": 90, "val": 10, "test": 20}
    assert report["assigned"] == {"memes": {"train": 90, "val": 10}}
    assert all(splits[f"t{i}"] == "test" for i in range(20))


def test_each_data_set_is_split_by_its_own_need():
    official = [
        item(f"o{i}", dataset="official", split=split)
        for i, split in enumerate(["train"] * 8 + ["val", "test"])
    ]
    splits, _ = assign_splits(official + spread(100))
    assert all(splits[i.id] == i.split for i in official)
    assert Counter(split for id_, split in splits.items() if id_[0] != "o")["test"] == 10


def test_free_memes_beside_official_splits_go_to_train():
    items = [item(i, split=split) for i, split in enumerate(["train", "val", "test", None, None])]
    splits, _ = assign_splits(items)
    assert splits["3"] == splits["4"] == "train"


@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [0, 1, 0], [1, 1, 1]])
def test_a_handful_of_memes_still_fills_every_split(labels):
    splits, _ = assign_splits([item(i, label=label) for i, label in enumerate(labels)])
    assert set(splits.values()) == {"train", "val", "test"}


@pytest.mark.parametrize("hateful", [3, 4, 5, 8])
def test_a_rare_label_is_in_every_split(hateful):
    items = [replace(one, label=int(i < hateful)) for i, one in enumerate(spread(100))]
    for seed in range(5):
        splits, _ = assign_splits(items, seed)
        found = Counter(splits[str(i)] for i in range(hateful))
        assert set(found) == {"train", "val", "test"}
        assert sum(found.values()) == hateful


def test_train_keeps_a_rare_label_that_it_cannot_spare():
    two = [replace(one, label=int(i < 2)) for i, one in enumerate(spread(100))]
    for seed in range(5):
        splits, _ = assign_splits(two, seed)
        assert "train" in (splits["0"], splits["1"])


def test_two_official_train_memes_can_lend_one_to_val():
    items = [item(i, split=split) for i, split in enumerate(["train", "train", "test"])]
    splits, _ = assign_splits(items)
    assert sorted(splits.values()) == ["test", "train", "val"]


def test_too_few_groups_are_refused():
    with pytest.raises(ValueError, match=r"50 examples in 1 groups .* cannot fill 3 splits"):
        assign_splits([item(i, text="all the same") for i in range(50)])


def test_generated_memes_keep_their_unseen_combinations():
    from lib.data.confounders.design import generate

    examples = generate(100, splits=True)
    items = [
        item(
            e.id,
            text=e.ocr,
            label=e.labels["abuse_hate"],
            dataset=e.dataset,
            group=e.group,
            split=e.split,
        )
        for e in examples
    ]
    splits, report = assign_splits(items)
    assert splits == {e.id: e.split for e in examples}
    assert report["dropped"] == []


def clusters(*sizes, seed=0):
    """Groups of these sizes whose members share a text, 30% of each with label 1."""
    items = [
        item(f"{g}-{k}", text=f"group {g}", label=int(k % 10 < 3) if size > 1 else int(g % 10 < 3))
        for g, size in enumerate(sizes)
        for k in range(size)
    ]
    return [items[i] for i in np.random.default_rng(seed).permutation(len(items))]


@pytest.mark.parametrize("share", [0.2, 0.4])
@pytest.mark.parametrize("seed", range(3))
def test_a_cluster_larger_than_a_held_out_split_goes_to_train(share, seed):
    big = int(1000 * share)
    items = clusters(big, *[1] * (1000 - big))
    with pytest.warns(UserWarning, match=rf"{big} of 1000 memes .* all go to train"):
        splits, report = assign_splits(items, seed)
    assert all(splits[f"0-{k}"] == "train" for k in range(big))
    assert Counter(splits.values()) == {"train": 800, "val": 100, "test": 100}
    for split in ("train", "val", "test"):
        hateful = sum(i.label for i in items if splits[i.id] == split)
        assert hateful == pytest.approx(0.3 * Counter(splits.values())[split], abs=1)
    (said,) = report["oversized_groups"]
    assert (said["memes"], said["of"], said["split"]) == (big, 1000, "train")


@pytest.mark.filterwarnings("error")
def test_a_cluster_that_fits_may_lie_in_any_split():
    items = clusters(60, 50, 40, 30, 20, *[1] * 800)
    largest = Counter(assign_splits(items, seed)[0]["0-0"] for seed in range(12))
    assert largest["train"] >= 7 and 0 < largest["test"] + largest["val"] <= 5
    for seed in range(3):
        splits, report = assign_splits(items, seed)
        assert report["oversized_groups"] == []
        assert Counter(splits.values()) == {"train": 800, "val": 100, "test": 100}


@given(st.lists(st.integers(1, 60), min_size=3, max_size=40), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("ignore:.*are near copies")
def test_groups_of_any_sizes_fill_all_splits_whole(sizes, seed):
    splits, _ = assign_splits(clusters(*sizes), seed)
    assert set(splits.values()) == {"train", "val", "test"}
    for g, size in enumerate(sizes):
        assert len({splits[f"{g}-{k}"] for k in range(size)}) == 1


def test_labels_and_data_sets_are_in_proportion_where_groups_are_mixed():
    rng = np.random.default_rng(0)
    items = [
        item(f"{g}-{k}", text=f"g {g}", label=int(rng.random() < 0.3), dataset="ab"[g % 3 == 0])
        for g in range(400)
        for k in range(1 + g % 7)
    ]
    splits, _ = assign_splits(items, seed=1)
    whole = Counter((i.dataset, i.label) for i in items)
    for split in ("val", "test"):
        part = Counter((i.dataset, i.label) for i in items if splits[i.id] == split)
        for stratum, count in whole.items():
            assert part[stratum] == pytest.approx(count / 10, abs=4)
