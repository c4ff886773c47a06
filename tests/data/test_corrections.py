import functools
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lib.config import Settings
from lib.data.corrections import CORRECTIONS, read_corrections
from lib.data.datasets import MemeShards, shard_paths
from lib.data.example import Example
from lib.data.packing.pack import pack
from lib.data.sources import examples_for


def noise(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def memes(n=12):
    """A third each in train, val and test."""
    return [
        Example(
            id=f"m{i}",
            dataset="memes",
            image=functools.partial(noise, i),
            ocr=f"text {i}",
            caption="",
            labels={"abuse_hate": i % 2},
            split=("train", "val", "test")[i // 2 % 3],
        )
        for i in range(n)
    ]


def written(folder, *lines, header="id,label,reason"):
    path = folder / CORRECTIONS
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *lines, ""]), encoding="utf-8")
    return read_corrections([folder])


def labels_of(folder, *splits):
    shards = [path for split in splits for path in shard_paths(folder / "shards", split)]
    found = MemeShards(shards, pictures=False)
    return dict(zip(found.ids, found.labels, strict=True)), list(found.metas)


def test_labels_of_train_and_val_change_and_say_what_they_were(tmp_path):
    corrections = written(tmp_path, 'm0,1,"an insult, plainly"', "m3,0,", "m1,1,as it was")
    stats = pack([*memes(), *corrections], tmp_path / "out", mode="full")
    labels, metas = labels_of(tmp_path / "out", "train", "val", "test")
    assert labels == {f"m{i}": i % 2 for i in range(12)} | {"m0": 1, "m3": 0}
    said = {
        m["id"]: (m["corrected_from"], m["correction_reason"])
        for m in metas
        if "corrected_from" in m
    }
    assert said == {"m0": (0, "an insult, plainly"), "m3": (1, "")}
    report = stats["corrections"]
    assert [row["id"] for row in report["applied"]] == ["m0", "m3"]
    assert [row["id"] for row in report["unchanged"]] == ["m1"]
    assert report["applied"][0]["split"] == "train" and report["applied"][1]["split"] == "val"
    assert json.loads((tmp_path / "out/stats_full.json").read_text())["corrections"] == report


@pytest.mark.parametrize("mode", ["full", "pilot"])
def test_labels_of_test_are_flagged_and_never_changed(tmp_path, mode):
    corrections = written(tmp_path, "m4,1,wrong", "m0,1,wrong")
    with pytest.warns(UserWarning, match=r"corrections\.csv: 1 of 2 .*of test.*never changed.*m4"):
        stats = pack([*memes(), *corrections], tmp_path / "out", mode=mode)
    labels, _ = labels_of(tmp_path / "out", *(["train"] if mode == "pilot" else ["train", "test"]))
    assert labels["m4"] == 0 and labels["m0"] == 1
    (flagged,) = stats["corrections"]["flagged"]
    assert (flagged["id"], flagged["label_before"], flagged["label"]) == ("m4", 0, 1)


def test_the_apostrophe_that_keeps_a_spreadsheet_from_running_a_cell_is_none_of_the_id(tmp_path):
    found = written(tmp_path, "'=m0,1,'-wrong", "o'clock,0,'quoted'")
    assert [(row.id, row.reason) for row in found] == [("=m0", "-wrong"), ("o'clock", "'quoted'")]


def test_ids_that_no_meme_has_are_told_and_nothing_is_lost(tmp_path):
    corrections = written(tmp_path, "mm0,1,typo", "m0,1,")
    with pytest.warns(UserWarning, match=r"1 of 2 corrections are of no meme in the data.*mm0"):
        stats = pack([*memes(), *corrections], tmp_path / "out", mode="full")
    assert [row["id"] for row in stats["corrections"]["unknown"]] == ["mm0"]
    assert [row["id"] for row in stats["corrections"]["applied"]] == ["m0"]


def test_a_correction_of_a_meme_without_a_label_is_told(tmp_path):
    corrections = written(tmp_path, "m0,1,an insult", "m99,1,an insult")
    examples = [*memes(), replace(memes(1)[0], id="m99", labels={"abuse_hate": None})]
    with pytest.warns(UserWarning, match="1 of 2 corrections .* whose label is null.*m99"):
        stats = pack([*examples, *corrections], tmp_path / "out", mode="full")
    assert [row["id"] for row in stats["corrections"]["unlabelled"]] == ["m99"]
    assert stats["corrections"]["not_packed"] == []


def test_a_warning_names_the_file_that_the_corrections_stand_in(tmp_path):
    written(tmp_path / "root", "m0,1,an insult", "m1,0,a joke")
    written(tmp_path / "data", "mm3,1,typo")
    corrections = read_corrections([tmp_path / "root", tmp_path / "data"])
    with pytest.warns(UserWarning, match=r"data/.*corrections\.csv: 1 of 1 .*no meme.*mm3") as met:
        pack([*memes(), *corrections], tmp_path / "out", mode="full")
    assert len(met) == 1


@pytest.mark.filterwarnings("ignore:.*of test, whose labels are never changed")
def test_the_splits_are_those_of_the_labels_as_published(tmp_path):
    unassigned = [replace(meme, split=None) for meme in memes(60)]
    corrections = written(tmp_path, *(f"m{i},1," for i in range(0, 20, 2)))
    pack(unassigned, tmp_path / "before", mode="full")
    pack([*unassigned, *corrections], tmp_path / "after", mode="full")
    splits = [(tmp_path / name / "splits.json").read_text() for name in ("before", "after")]
    assert splits[0] == splits[1]


def test_a_changed_file_packs_again_and_an_equal_one_does_not(tmp_path):
    out = tmp_path / "out"

    def packed(*lines):
        pack([*memes(), *written(tmp_path, *lines)], out, mode="pilot")
        return (out / "shards").stat().st_ino, labels_of(out, "train")[0]["m0"]

    first, label = packed("m0,1,")
    assert label == 1
    assert packed("m0,1,") == (first, 1)
    second, label = packed("m0,1,with a reason")
    assert second != first and label == 1
    assert packed()[1] == 0


def test_step_3_finds_the_file_in_the_root_and_in_the_folder_of_the_data(tmp_path):
    settings = Settings(root=tmp_path / "root", dataset="confounders", n_memes=8)
    first = next(iter(examples_for(settings)))
    written(settings.root, f"{first.id},1,seen")
    (found,) = [row for row in examples_for(settings) if not isinstance(row, Example)]
    assert (found.id, found.label, found.reason) == (first.id, 1, "seen")
    written(tmp_path / "data", "other,0,")
    beside = settings.model_copy(update={"data": tmp_path / "data"})
    assert [c.id for c in examples_for(beside) if not isinstance(c, Example)] == [first.id, "other"]


def test_what_stands_in_both_folders_alike_counts_once(tmp_path):
    # The page of the report exports the corrections made before, too.
    written(tmp_path / "data", "m0,1,an insult")
    written(tmp_path / "root", "m0,1,an insult", "m1,0,a joke")
    folders = [tmp_path / "root", tmp_path / "data"]
    assert [(c.id, c.label) for c in read_corrections(folders)] == [("m0", 1), ("m1", 0)]
    written(tmp_path / "data", "m0,0,an insult")
    with pytest.raises(ValueError, match="'m0' has a correction already"):
        read_corrections(folders)


def test_excel_s_byte_order_mark_and_blank_lines_are_read(tmp_path):
    (found,) = written(tmp_path, "", "m0,1,x", "", header="\ufeffid,label,reason")
    assert (found.id, found.label) == ("m0", 1)


@pytest.mark.parametrize(
    "lines, message",
    [
        (["m0,hate,x"], r"corrections\.csv:2: field label is 'hate'; it must be 0 or 1"),
        (["m0,1,x", "m1,,x"], r":3: field label is ''"),
        (["m0,1,x", "m0,0,y"], r":3: field id: 'm0' has a correction already, .*:2; keep one"),
        ([",1,x"], r":2: field id is empty"),
        (["m0,1,a,b"], r":2: a line holds 3 values"),
        (["m0,1"], r":2: a line holds 3 values"),
        (['m0,1,"open'], r"not a line of CSV"),
    ],
)
def test_a_broken_line_is_named(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        written(tmp_path, *lines)


@pytest.mark.parametrize("header", ["id;label;reason", "id,label", "id,label,reason,by"])
def test_other_columns_are_refused(tmp_path, header):
    with pytest.raises(ValueError, match=r"must be 'id,label,reason'"):
        written(tmp_path, header=header)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    written(tmp_path)
    (tmp_path / CORRECTIONS).write_bytes(b"id,label,reason\nm0,1,\xff\n")
    with pytest.raises(ValueError, match="not UTF-8"):
        read_corrections([tmp_path])
