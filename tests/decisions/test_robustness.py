from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lib.config import MODELS, Settings
from lib.data.datasets import MemeShards, shard_paths
from lib.decisions import robustness as robustness_module
from lib.decisions.bundle import DecisionBundle
from lib.decisions.calibration_tables import calibrated
from lib.decisions.perturbations import IMAGE_PERTURBATIONS, MISREAD, TEXT_PERTURBATIONS
from lib.decisions.robustness import robustness, robustness_table, stratified_rows
from lib.modeling.fusion import load_fusion
from lib.modeling.prediction_table import read_predictions

TEXT = "[OCR] you are late to every single family dinner [/OCR] [CAP] a clock [/CAP] <lang=en>"
MARKERS = ["[OCR]", "[/OCR]", "[CAP]", "[/CAP]", "<lang=en>"]


@pytest.fixture(scope="module")
def picture():
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def parts(full_root):
    memes = MemeShards(shard_paths(full_root.shards, "test"))
    samples = [memes[i] for i in range(8)]
    return load_fusion(full_root.models, "cpu"), samples, DecisionBundle.load(full_root)


@pytest.mark.parametrize("name", TEXT_PERTURBATIONS)
def test_markers_stay_and_the_words_change(name):
    changed = TEXT_PERTURBATIONS[name](TEXT, np.random.default_rng(0))
    assert [word for word in changed.split() if word in MARKERS] == MARKERS
    assert changed != TEXT
    again = TEXT_PERTURBATIONS[name](TEXT, np.random.default_rng(0))
    assert changed == again


def test_typos_keep_the_letters():
    changed = TEXT_PERTURBATIONS["text: typos"](TEXT, np.random.default_rng(0))
    for ours, theirs in zip(changed.split(), TEXT.split(), strict=True):
        assert sorted(ours) == sorted(theirs)
        assert (ours[0], ours[-1]) == (theirs[0], theirs[-1])


def test_a_misread_word_differs_by_look_alike_letters_alone():
    changed = TEXT_PERTURBATIONS["text: misread"](TEXT, np.random.default_rng(1))
    pairs = [(a, b) for a, b in zip(TEXT.split(), changed.split(), strict=True) if a != b]
    assert pairs
    for before, after in pairs:
        assert any(before.replace(seen, read, 1) == after for seen, read in MISREAD)


def test_a_watermark_is_read_with_the_overlaid_text():
    changed = TEXT_PERTURBATIONS["text: watermark"](TEXT, np.random.default_rng(0))
    assert changed == TEXT.replace("dinner [/OCR]", "dinner memes.example [/OCR]")


def test_removed_text_leaves_the_frame():
    changed = TEXT_PERTURBATIONS["text: removed"](TEXT, np.random.default_rng(0))
    assert changed == " ".join(MARKERS)


@pytest.mark.parametrize("name", IMAGE_PERTURBATIONS)
def test_pictures_change_and_keep_size_and_mode(name, picture):
    before = picture.tobytes()
    changed = IMAGE_PERTURBATIONS[name](picture)
    assert (changed.size, changed.mode) == (picture.size, "RGB")
    assert changed.tobytes() != before == picture.tobytes()
    assert changed.tobytes() == IMAGE_PERTURBATIONS[name](picture).tobytes()


def test_every_perturbation_has_a_row_for_every_model(parts):
    table = robustness_table(*parts)
    names = ["none", *TEXT_PERTURBATIONS, *IMAGE_PERTURBATIONS]
    assert table["perturbation"].unique().tolist() == names
    assert len(table) == 3 * len(names)
    assert set(table["n"]) == {8}
    assert (table[table["perturbation"] == "none"][["macro_f1_change", "flips"]] == 0).all(None)
    pd.testing.assert_frame_equal(table, robustness_table(*parts))


def test_a_perturbation_of_one_modality_leaves_the_other_expert_alone(parts):
    table = robustness_table(*parts).set_index("model")
    of = table["perturbation"].str.startswith
    for model, kind in (("vision_expert", "text:"), ("text_expert", "image:")):
        rows = table[of(kind)].loc[model]
        assert (rows[["macro_f1_change", "ece_change", "flips"]] == 0).all(None)


def test_unperturbed_decisions_are_those_of_step_7(full_root, parts):
    model, samples, decision = parts
    table = robustness_table(model, samples, decision)
    frame = read_predictions(full_root, "test").set_index("id").loc[[s["id"] for s in samples]]
    prob = calibrated(frame, decision.temperatures)
    for name in MODELS:
        right = (prob[name] >= decision.thresholds[name]).to_numpy() == frame["label"].to_numpy()
        row = table[(table["perturbation"] == "none") & (table["model"] == name)].iloc[0]
        assert (row["macro_f1"] == 1) == right.all()


def test_no_memes_are_refused(parts):
    with pytest.raises(ValueError, match="at least one meme"):
        robustness_table(parts[0], [], parts[2])


def test_the_memes_are_a_seeded_sample_of_both_classes():
    labels = [0] * 90 + [1] * 30
    rows = stratified_rows(labels, 40, seed=0)
    assert len(set(rows)) == 40
    assert rows == sorted(rows) == stratified_rows(labels, 40, seed=0)
    assert sum(labels[row] for row in rows) == 10
    assert rows != stratified_rows(labels, 40, seed=1)


@pytest.mark.parametrize("labels", [[0] * 9 + [1], [0] * 10])
def test_a_class_too_rare_to_divide_is_drawn_by_chance(labels):
    assert len(stratified_rows(labels, 4, seed=0)) == 4
    assert stratified_rows(labels, 10, seed=0) == list(range(10))


def test_an_equal_table_is_not_made_again(full_root, tmp_path, monkeypatch):
    decision, made = DecisionBundle.load(full_root), []

    def watched(*given):
        made.append(1)
        return table(*given)

    table = robustness_module.robustness_table
    monkeypatch.setattr(robustness_module, "robustness_table", watched)
    monkeypatch.setattr(Settings, "artifact", lambda self, step, name: tmp_path / name)
    few = full_root.model_copy(update={"robustness_memes": 4})
    first, again = (robustness(few, decision) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    assert len(made) == 1
    moved = replace(decision, thresholds=decision.thresholds | {"mm_fusion": 0.123})
    robustness(few, moved)
    assert len(made) == 2
    edited = tmp_path / "perturbations.py"
    edited.write_text("edited")
    monkeypatch.setattr(robustness_module, "CODE", edited)
    robustness(few, moved)
    assert len(made) == 3
