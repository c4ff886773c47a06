import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from lib.config import MODELS
from lib.data.datasets import MemeShards, shard_paths
from lib.data.example import Example
from lib.data.packing.pack import pack
from lib.decisions import pairs as module
from lib.decisions.pairs import COLUMNS, KINDS, pair_accuracy, pair_table, picture_keys, text_keys


@pytest.fixture(scope="module")
def memes(packed):
    """Generated memes of train, whose blocks hold pairs of both kinds."""
    return MemeShards(shard_paths(packed / "full" / "shards", "train"), pictures=True)


def predictions(memes, **margins):
    labels = np.array(memes.labels)
    columns = {"id": memes.ids, "group": memes.groups, "label": labels}
    for model in MODELS:
        margin = np.asarray(margins.get(model, np.zeros(len(labels))), dtype=float)
        columns |= {f"{model}_logit_0": 0.0 * margin, f"{model}_logit_1": margin}
    return pd.DataFrame(columns)


@given(st.data())
def test_pair_accuracy_is_the_share_of_pairs_that_are_won(data):
    n = data.draw(st.integers(1, 25))
    draw = lambda low, high: np.array(  # noqa: E731
        data.draw(st.lists(st.integers(low, high), min_size=n, max_size=n))
    )
    score, labels, key = draw(-3, 3) / 2, draw(0, 1), draw(-1, 3)
    found, pairs, groups = pair_accuracy(score, labels, key, key)
    won = [
        1.0 if score[a] > score[b] else 0.5 if score[a] == score[b] else 0.0
        for a, b in itertools.product(range(n), range(n))
        if labels[a] == 1 and labels[b] == 0 and key[a] == key[b] >= 0
    ]
    assert pairs == len(won)
    assert groups <= 4
    assert found.point == pytest.approx(np.mean(won)) if won else np.isnan(found.point)


@pytest.mark.parametrize("won", [0, 1])
def test_pairs_all_won_do_not_promise_that_all_are(won):
    key, labels = np.repeat(np.arange(200), 2), np.tile([0, 1], 200)
    found, _, _ = pair_accuracy(np.where(labels == won, 1.0, 0.0), labels, key, key)
    assert found.point == won
    assert max(found.low, 1 - found.high) == pytest.approx(1 - 0.0125, abs=0.002)
    assert won in (found.low, found.high)
    ties, _, _ = pair_accuracy(np.zeros(400), labels, key, key)
    assert (ties.point, ties.low, ties.high) == (0.5, 0.5, 0.5)


def test_the_interval_resamples_groups():
    rng = np.random.default_rng(0)
    key = np.repeat(np.arange(200), 2)
    labels, won = np.tile([0, 1], 200), rng.random(200) < 0.8
    score = np.column_stack([np.zeros(200), np.where(won, 1, -1)]).ravel()
    found, pairs, groups = pair_accuracy(score, labels, key, key)
    assert (pairs, groups) == (200, 200)
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(0.8 * 0.2 / 200), rel=0.2)
    wider, _, few = pair_accuracy(score, labels, key, key // 10)
    assert few == 20
    assert wider.point == found.point
    assert np.isnan(pair_accuracy(score, labels, key, key // 50)[0].low)


def test_generated_memes_have_both_kinds_of_pairs(memes):
    metas, texts, labels = list(memes.metas), memes.texts, memes.labels
    same = dict.fromkeys(KINDS, 0)
    for a, b in itertools.combinations(range(len(texts)), 2):
        if labels[a] != labels[b]:
            pictures = [(m["group"], m["pictogram"]) for m in (metas[a], metas[b])]
            same["same text"] += texts[a] == texts[b]
            same["same picture"] += pictures[0] == pictures[1]
    table = pair_table(predictions(memes), memes).set_index(["kind", "model"])
    # A whole block has 3 pairs of a text, and 4 of a picture.
    assert min(same.values()) >= 9
    for kind in KINDS:
        assert set(table.loc[kind, "pairs"]) == {same[kind]}
    assert (text_keys(texts) >= 0).all()
    assert (picture_keys(memes) >= 0).all()


def test_models_win_the_pairs_that_they_can_tell_apart(memes, monkeypatch):
    monkeypatch.setattr(module, "PAIR_MINIMUM", 1)
    labels = np.array(memes.labels)
    words = {text: i for i, text in enumerate(sorted(set(memes.texts)))}
    # The last digits of a text's score depend on its batch.
    of_text = np.array([words[text] for text in memes.texts]) + 1e-7 * np.arange(len(labels))
    frame = predictions(memes, text_expert=of_text, mm_fusion=2 * labels - 1)
    table = pair_table(frame, memes)
    assert tuple(table) == COLUMNS
    accuracy = table.set_index(["kind", "model"])["pair_accuracy"]
    assert accuracy[("same text", "text_expert")] == 0.5
    for kind in KINDS:
        assert accuracy[(kind, "vision_expert")] == 0.5
        assert accuracy[(kind, "mm_fusion")] == 1.0


def test_few_pairs_are_insufficient(memes):
    frame = predictions(memes)
    table = pair_table(frame, memes)
    assert (table.loc[table["pairs"] < 30, "verdict"] == "insufficient").all()
    assert table.loc[table["pairs"] < 30, "pair_accuracy"].isna().all()


def test_texts_without_words_are_not_the_same_text():
    empty, some = "[OCR] [/OCR] [CAP] [/CAP] <lang=en>", "[OCR] you [/OCR] [CAP] [/CAP] <lang=en>"
    keys = text_keys([empty, some, empty, some])
    assert keys[0] == keys[2] == -1
    assert keys[1] == keys[3] >= 0


def test_pictures_of_other_sets_are_the_same_where_they_look_alike(tmp_path):
    def picture(seed, written=""):
        small = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((384, 384), Image.Resampling.BICUBIC)
        ImageDraw.Draw(image).text((5, 370), written)
        return lambda: image

    def meme(k, image, hateful):
        return Example(
            id=f"m{k}",
            dataset="own",
            image=image,
            ocr=f"words {k}",
            caption="",
            labels={"abuse_hate": hateful, "offensive": hateful, "target_type": "none"},
            split="train",
        )

    examples = [
        *(meme(0, picture(0, "one"), 1), meme(1, picture(0, "two"), 0), meme(2, picture(1), 0)),
        *(meme(3, picture(2), 1), meme(4, picture(2), 1), meme(5, None, 0)),
    ]
    pack(examples, tmp_path / "Step_3", mode="pilot", seed=0, workers=0)
    memes = MemeShards(sorted((tmp_path / "Step_3" / "shards").glob("*/shard-*.tar")))
    keys = dict(zip(memes.ids, picture_keys(memes).tolist(), strict=True))
    assert keys["m0"] == keys["m1"] >= 0
    assert keys["m2"] == keys["m5"] == -1
    # Of one label alone: no pair, so that none of their pictures is opened.
    assert keys["m3"] == keys["m4"] == -1
