"""The generated benchmark: balanced, deterministic, without leaks, unsolved by one modality."""

import dataclasses
import json
import pickle
from collections import Counter, defaultdict
from importlib import resources

import imagehash
import numpy as np
import pytest
from fontTools.ttLib import TTFont

from lib.data.confounders.design import bounds, generate
from lib.data.confounders.drawing import Picture, render
from lib.data.confounders.vocabulary import PHRASINGS, PICTOGRAMS
from lib.data.near_duplicates import MAX_DISTANCE
from lib.data.readers.registry import UNIFIED
from lib.data.ties import normalise_text


@pytest.fixture(scope="module")
def full():
    return generate(3000, seed=0, splits=True)


def plain(examples):
    """What two runs must share; a partial function equals only itself."""
    return [dataclasses.replace(example, image=example.image.args) for example in examples]


def test_the_pilot_is_fifty_balanced_training_memes():
    examples = generate(50)
    assert len({example.id for example in examples}) == 50
    assert {example.split for example in examples} == {"train"}
    assert sum(example.labels["abuse_hate"] for example in examples) == 25
    assert {example.caption for example in examples} == {""}
    assert all(example.ocr and "|" not in example.ocr for example in examples)


def test_the_same_seed_draws_the_same_memes_and_another_seed_others():
    once, twice, other = generate(20, seed=3), generate(20, seed=3), generate(20, seed=4)
    assert plain(once) == plain(twice)
    assert [example.ocr for example in once] != [example.ocr for example in other]
    assert once[7].image().tobytes() == twice[7].image().tobytes()
    assert once[7].image().tobytes() != other[7].image().tobytes()


def test_a_longer_run_begins_with_a_shorter_one():
    assert plain(generate(200)[:33]) == plain(generate(33))


def test_a_meme_is_drawn_by_a_picklable_function():
    example = generate(1)[0]
    image = pickle.loads(pickle.dumps(example.image))()
    assert (image.mode, image.size) == ("RGB", (384, 384))
    assert image.tobytes() == example.image().tobytes()


def test_the_font_has_every_pictogram():
    names = [name for members in PICTOGRAMS.values() for name in members]
    assert len(set(names)) == len(names) and all(len(m) >= 40 for m in PICTOGRAMS.values())
    package = resources.files("fontawesomefree").joinpath("static/fontawesomefree")
    icons = json.loads(package.joinpath("metadata/icons.json").read_text(encoding="utf-8"))
    with package.joinpath("webfonts/fa-solid-900.ttf").open("rb") as stream:
        known = TTFont(stream).getBestCmap()
    assert [name for name in names if int(icons[name]["unicode"], 16) not in known] == []


def test_nothing_about_a_scene_but_the_pictogram_depends_on_polarity():
    one, other = (
        np.asarray(render(Picture("star", polarity, (5,)), "a|b")) for polarity in ("nice", "foul")
    )
    assert np.array_equal(one, other)


def test_the_text_is_drawn_above_and_below():
    picture = Picture("star", "nice", (5,))
    empty, full = (np.asarray(render(picture, t), dtype=int) for t in ("|", "upper line|lower"))
    changed = np.flatnonzero(np.abs(full - empty).sum(axis=(1, 2)))
    assert changed.min() < 20 and changed.max() > 364
    assert not np.any((changed > 80) & (changed < 300))


def test_half_are_hateful_and_a_text_or_a_picture_alone_leaves_it_open(full):
    for split, n in {"train": 1800, "val": 600, "test": 600, "heldout": 600}.items():
        memes = [example for example in full if example.split == split]
        assert len(memes) == n
        assert bounds(memes) == {"text": 0.7, "image": 0.6, "both": 1.0}
        assert sum(example.labels["abuse_hate"] for example in memes) == n / 2


def test_each_ambiguous_text_occurs_with_both_labels_and_each_shared_picture_too(full):
    labels_of_text, labels_of_picture = defaultdict(list), defaultdict(list)
    for example in full:
        if example.extra["phrasing"] == "ambiguous":
            labels_of_text[example.ocr].append(example.labels["abuse_hate"])
        labels_of_picture[example.image.args[0]].append(example.labels["abuse_hate"])
    assert {tuple(sorted(labels)) for labels in labels_of_text.values()} == {(0, 1)}
    shares = Counter(tuple(sorted(labels)) for labels in labels_of_picture.values())
    assert shares == {(0, 1): 3600 * 4 // 10, (0,): 360, (1,): 360}


def test_no_text_and_no_picture_straddles_two_groups_or_splits(full):
    places = defaultdict(set)
    for example in full:
        for key in (normalise_text(example.ocr), example.image.args[0], example.group):
            places[key].add((example.group, example.split))
    assert {len(found) for found in places.values()} == {1}


def test_a_group_is_no_more_than_what_shares_texts_or_pictures(full):
    groups = defaultdict(list)
    for example in full:
        groups[example.group].append(example)
    assert Counter(map(len, groups.values())) == {4: 2 * len(full) // 10, 2: len(full) // 10}
    for members in groups.values():
        joined, open_ = set(), {members[0].id}
        while open_:
            joined |= open_
            shared = {key for m in members if m.id in joined for key in (m.ocr, m.image.args[0])}
            open_ = {m.id for m in members if {m.ocr, m.image.args[0]} & shared} - joined
        assert joined == {m.id for m in members}


def test_pictures_of_different_groups_are_no_near_duplicates():
    one_of_each = {example.image.args[0]: example for example in generate(80)}
    hashes = [(example.group, imagehash.phash(example.image())) for example in one_of_each.values()]
    close = [
        (a, b)
        for i, (a, one) in enumerate(hashes)
        for b, other in hashes[:i]
        if a != b and one - other <= MAX_DISTANCE
    ]
    assert close == []


def test_held_out_concepts_are_seen_nowhere_else(full):
    known = [example for example in full if example.split != "heldout"]
    heldout = {
        concept: [example for example in full if example.extra["concept"] == concept]
        for concept in ("unseen_phrasing", "unseen_pictogram", "unseen_both")
    }
    assert {concept: len(memes) for concept, memes in heldout.items()} == dict.fromkeys(
        heldout, 200
    )
    seen = {example.extra["pictogram"] for example in known}
    for concept, memes in heldout.items():
        shown = {example.extra["pictogram"] for example in memes}
        assert shown.isdisjoint(seen) if concept != "unseen_phrasing" else shown <= seen
    trained = {example.extra["template"] for example in known}
    for concept, memes in heldout.items():
        used = {example.extra["template"] for example in memes}
        assert used.isdisjoint(trained) if concept != "unseen_pictogram" else used <= trained
        assert len(used) >= 20


def test_labels_follow_the_taxonomy_and_name_whom_the_text_insults():
    for example in generate(500):
        assert UNIFIED.validate_labels(example.labels) == example.labels
        if not example.labels["abuse_hate"]:
            assert example.labels["target_type"] == "none"
        elif "you" in example.ocr.split():
            assert example.labels["target_type"] in ("individual", "group")
    insult = next(e for e in generate(500) if e.ocr.startswith("ban every"))
    assert insult.labels["target_type"] == "group"
    insult = next(e for e in generate(500) if e.ocr.startswith("you are worthless"))
    assert insult.labels["target_type"] == "individual"


def test_kinds_of_text_are_of_like_length(full):
    length = defaultdict(list)
    for example in full:
        length[example.extra["phrasing"]].append(len(example.ocr))
    medians = [np.median(lengths) for lengths in length.values()]
    assert max(medians) - min(medians) <= 5


def test_captions_name_the_pictogram():
    silent, captioned = generate(30), generate(30, captions=True)
    assert [example.ocr for example in silent] == [example.ocr for example in captioned]
    skull = next(e for e in generate(2000, captions=True) if e.extra["pictogram"] == "skull")
    assert skull.caption.startswith("a skull, ")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [({"n": 0}, "n is 0"), ({"n": 49, "splits": True}, "at least 50")],
)
def test_an_impossible_number_is_refused(arguments, told):
    with pytest.raises(ValueError, match=told):
        generate(**arguments)


def test_more_memes_than_there_are_texts_are_refused(monkeypatch):
    few = {kind: ["your|{when}"] for kind in PHRASINGS}
    monkeypatch.setattr("lib.data.confounders.design.PHRASINGS", few)
    with pytest.raises(ValueError, match="no more distinct texts"):
        generate(2000)


def test_bounds_refuse_what_was_not_generated():
    with pytest.raises(ValueError, match="generated"):
        bounds([])
