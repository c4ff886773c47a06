import errno
import functools
import io
import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import webdataset
from PIL import Image

from lib.config import Settings
from lib.data.corrections import Correction
from lib.data.example import Example, Rejected
from lib.data.packing import checking, writing
from lib.data.packing import pack as packing
from lib.data.packing.pack import pack
from lib.data.readers.registry import READERS
from lib.data.shard_index import DATES, INDEX
from lib.data.sources import examples_for
from lib.data.text import combined_text


def noise(seed, size=(40, 30)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def meme(i, **changes):
    fields = {
        "id": f"m{i}",
        "dataset": "memes",
        "image": functools.partial(noise, i),
        "ocr": f"text {i}",
        "caption": "",
        "labels": {"abuse_hate": i % 2},
    }
    return Example(**(fields | changes))


def memes(n, **changes):
    return [meme(i, **changes) for i in range(n)]


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != DATES
    }


@pytest.mark.parametrize("mode", ["pilot", "full"])
def test_the_index_of_the_shards_is_packed_with_them(tmp_path, mode):
    pack(memes(40), tmp_path, mode=mode, shard_size=8)
    for split in ("train",) if mode == "pilot" else ("train", "val", "test"):
        assert (tmp_path / "shards" / split / INDEX).exists()
        assert (tmp_path / "shards" / split / DATES).exists()


def samples_of(folder, split="train"):
    shards = sorted(str(path) for path in (folder / "shards" / split).glob("shard-*.tar"))
    return list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False))


def metas_of(folder, split="train"):
    return [json.loads(sample["json"]) for sample in samples_of(folder, split)]


def test_a_shard_holds_picture_text_and_metadata(tmp_path):
    example = meme(
        1,
        ocr="when you\n see  it",
        caption="a dog",
        lang="fr",
        labels={"abuse_hate": 1, "target_type": "group"},
        extra={"concept": "seen"},
    )
    pack([example], tmp_path)
    (sample,) = samples_of(tmp_path)
    assert sample["__key__"] == "m1"
    assert sample["txt"].decode() == "[OCR] when you see it [/OCR] [CAP] a dog [/CAP] <lang=fr>"
    picture = Image.open(io.BytesIO(sample["png"]))
    assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (384, 384))
    assert json.loads(sample["json"]) == {
        "id": "m1",
        "dataset": "memes",
        "labels": {"abuse_hate": 1, "offensive": None, "target_type": "group"},
        "split": "train",
        "group": "m1",
        "lang": "fr",
        "width": 40,
        "height": 30,
        "concept": "seen",
    }


def test_text_that_is_no_unicode_is_packed_all_the_same(tmp_path):
    pack([meme(0, ocr="half \ud83d emoji", extra={"note": "\ud83d"})], tmp_path)
    assert samples_of(tmp_path)[0]["txt"].decode().startswith("[OCR] half ? emoji [/OCR]")


def test_a_meme_without_a_picture_is_packed_as_text(tmp_path):
    stats = pack([*memes(3), meme(3, image=None, asr="spoken")], tmp_path)
    assert stats["skipped"]["count"] == 0
    sample = samples_of(tmp_path)[3]
    assert "png" not in sample and "width" not in json.loads(sample["json"])
    assert b"[ASR] spoken [/ASR] <lang=" in sample["txt"]


def test_memes_that_share_a_text_carry_one_group(tmp_path):
    pack([meme(0), meme(1, ocr="shared"), meme(2, ocr="shared")], tmp_path)
    zero, one, two = (meta["group"] for meta in metas_of(tmp_path))
    assert one == two != zero


def test_memes_of_sound_or_description_alone_share_a_group_if_these_are_equal(tmp_path):
    spoken = [meme(k, ocr="", asr="spoken") for k in (1, 2)]
    described = [meme(k, ocr="", caption="a dog", image=None) for k in (3, 4)]
    pack([meme(0), *spoken, *described], tmp_path)
    zero, one, two, three, four = (meta["group"] for meta in metas_of(tmp_path))
    assert one == two and three == four and len({zero, one, three}) == 3


def test_a_name_that_no_file_can_have_is_left_out(tmp_path):
    stats = pack([*memes(2), meme(2, image=tmp_path / "a\0.png")], tmp_path)
    assert stats["splits"]["train"]["examples"] == 2
    assert stats["skipped"]["count"] == 1


def test_text_without_caption():
    assert combined_text("hi") == "[OCR] hi [/OCR] [CAP] [/CAP] <lang=en>"


def test_a_pilot_of_fifty_memes_takes_them_all_in_order_into_train(tmp_path):
    stats = pack(memes(50, split="test"), tmp_path)
    ids = [f"m{i}" for i in range(50)]
    assert [meta["id"] for meta in metas_of(tmp_path)] == ids
    assert (stats["sample"]["taken"], stats["sample"]["of"]) == (50, 50)
    assert json.loads((tmp_path / "splits.json").read_text()) == dict.fromkeys(ids, "train")
    assert stats == json.loads((tmp_path / "stats_pilot.json").read_text())
    assert stats["splits"]["train"]["labels"]["abuse_hate"] == {"0": 25, "1": 25}
    assert (tmp_path / "label_taxonomy.json").exists()


def sorted_source(n=1000):
    """First 80% without hate, then hate; the last 10 of another data set."""
    return [
        meme(i, labels={"abuse_hate": int(i >= 0.8 * n)}, dataset="a" if i < n - 10 else "b")
        for i in range(n)
    ]


def test_a_pilot_is_a_sample_in_proportion_of_all_there_is(tmp_path):
    stats = pack(sorted_source(), tmp_path)
    assert stats["sample"] == {
        "taken": 50,
        "of": 1000,
        "strata": [
            {"dataset": "a", "abuse_hate": 0, "taken": 39, "of": 800},
            {"dataset": "a", "abuse_hate": 1, "taken": 10, "of": 190},
            {"dataset": "b", "abuse_hate": 1, "taken": 1, "of": 10},
        ],
    }
    places = [int(meta["id"][1:]) for meta in metas_of(tmp_path)]
    assert places == sorted(places) and places != list(range(50))
    before = files_of(tmp_path)
    pack(sorted_source(), tmp_path)
    assert files_of(tmp_path) == before
    pack(sorted_source(), tmp_path, seed=1)
    assert [int(meta["id"][1:]) for meta in metas_of(tmp_path)] != places


def test_a_pilot_opens_no_picture_that_it_does_not_take(tmp_path, monkeypatch):
    opened = []
    look = checking._look
    monkeypatch.setattr(checking, "_look", lambda e: opened.append(e.id) or look(e))
    pack(sorted_source(), tmp_path)
    assert len(opened) == 50


def test_bad_rows_of_a_large_source_are_no_reason_to_refuse_its_pilot(tmp_path):
    rejected = [Rejected(f"data_manifest.jsonl:{i}", "no row") for i in range(20)]
    stats = pack([*sorted_source(), *rejected], tmp_path)
    assert (stats["examples"], stats["skipped"]["count"]) == (50, 20)


def test_full_mode_packs_the_splits_it_writes(tmp_path):
    stats = pack(memes(60), tmp_path, mode="full", shard_size=20)
    splits = json.loads((tmp_path / "splits.json").read_text())
    packed = {m["id"]: m["split"] for s in ("train", "val", "test") for m in metas_of(tmp_path, s)}
    assert packed == splits
    counts = Counter(splits.values())
    assert counts == {split: part["examples"] for split, part in stats["splits"].items()}
    assert counts.total() == 60 and min(counts.values()) >= 5
    assert stats["splits"]["train"]["shards"] == len(
        list((tmp_path / "shards/train").glob("shard-*.tar"))
    )


def test_full_mode_mixes_the_labels_of_a_sorted_source(tmp_path):
    ordered = [replace(meme(i), labels={"abuse_hate": int(i >= 40)}) for i in range(80)]
    pack(ordered, tmp_path, mode="full", shard_size=20)
    first = metas_of(tmp_path)[:20]
    assert {meta["labels"]["abuse_hate"] for meta in first} == {0, 1}


@pytest.mark.parametrize("split", ["val", "test"])
def test_nothing_to_train_on_is_refused_before_it_is_packed(tmp_path, split):
    with pytest.raises(ValueError, match=rf"no meme is left to train on.*all 20 .* into {split}"):
        pack(memes(20, split=split), tmp_path, mode="full")
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize(("split", "lacks"), [("train", 0), ("train", 1), ("val", 0), ("val", 1)])
def test_a_split_of_one_label_is_refused_before_a_full_run_is_packed(tmp_path, split, lacks):
    splits = ["train"] * 12 + ["val"] * 4 + ["test"] * 4
    of_one = {"labels": {"abuse_hate": 1 - lacks}}
    examples = [meme(i, split=s, **(of_one if s == split else {})) for i, s in enumerate(splits)]
    words = rf"{split} has no meme of abuse_hate {lacks} .*only \d+ of {1 - lacks}; write {split}"
    with pytest.raises(ValueError, match=words):
        pack(examples, tmp_path, mode="full")
    assert not (tmp_path / "shards").exists()
    assert pack(examples, tmp_path, mode="pilot")["examples"] == 20


def test_corrections_that_leave_val_one_label_are_refused(tmp_path):
    splits = ["train"] * 8 + ["val"] * 2 + ["test"] * 2
    examples = [meme(i, split=split) for i, split in enumerate(splits)]
    correction = Correction("m9", 0, "", "corrections.csv:2")
    with pytest.raises(ValueError, match="val has no meme of abuse_hate 1"):
        pack([*examples, correction], tmp_path, mode="full")


def test_leaks_are_dropped_and_reported(tmp_path):
    examples = [
        *memes(20, split="train"),
        *[meme(i, split="val") for i in range(20, 24)],
        *[meme(i, split="test") for i in range(24, 28)],
        meme(28, ocr="TEXT 24!", split="train"),
        meme(29, image=functools.partial(noise, 25), split="val"),
    ]
    stats = pack(examples, tmp_path, mode="full")
    assert [(leak["id"], leak["shares"], leak["with"]) for leak in stats["dropped"]] == [
        ("m28", "text", "m24"),
        ("m29", "picture", "m25"),
    ]
    splits = json.loads((tmp_path / "splits.json").read_text())
    assert set(splits) == {f"m{i}" for i in range(28)}
    assert {d["id"] for d in stats["duplicates"]} == {"m28", "m29"}


@pytest.mark.parametrize("mode", ["pilot", "full"])
def test_the_same_input_gives_the_same_bytes(tmp_path, mode):
    pack(memes(50), tmp_path, mode=mode)
    before = files_of(tmp_path)
    pack(memes(50), tmp_path, mode=mode)
    assert files_of(tmp_path) == before


@pytest.mark.slow
def test_workers_of_ray_give_the_bytes_of_one(tmp_path):
    for name, ray in (("here", None), ("ray", "local")):
        workers = 2 if ray else 1
        pack(memes(40), tmp_path / name, mode="full", workers=workers, ray=ray, shard_size=8)
    assert files_of(tmp_path / "here") == files_of(tmp_path / "ray")


def test_two_workers_give_the_bytes_of_one(tmp_path):
    for workers in (1, 2):
        pack(memes(40), tmp_path / str(workers), mode="full", workers=workers, shard_size=8)
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")


def test_ids_that_are_no_file_names_survive(tmp_path):
    ids = ["a.b", "a.c", "../up", "x/y", "ünï", "b" * 150, "c d"]
    pack([meme(i, id=id_) for i, id_ in enumerate(ids)], tmp_path)
    assert [meta["id"] for meta in metas_of(tmp_path)] == ids
    keys = [sample["__key__"] for sample in samples_of(tmp_path)]
    assert len(set(keys)) == len(ids) and not any("." in key or "/" in key for key in keys)


def test_bad_examples_are_skipped_counted_and_listed(tmp_path):
    (tmp_path / "img").mkdir()
    (tmp_path / "img/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    examples = [
        *memes(100),
        meme(100, image=tmp_path / "img/gone.png"),
        meme(101, image=tmp_path / "img/broken.png"),
        meme(102, labels={"abuse_hate": 7}),
        meme(103, labels={}),
        meme(104, split="dev"),
        Rejected("data_manifest.jsonl:9", "field labels: Field required"),
    ]
    stats = pack(examples, tmp_path / "out", mode="full")
    reasons = {row["id"]: row["reason"] for row in stats["skipped"]["rows"]}
    assert stats["skipped"]["count"] == 5 and stats["examples"] == 100
    assert "img/gone.png" in reasons["m100"] and str(tmp_path) not in reasons["m100"]
    assert "img/broken.png" in reasons["m101"]
    assert "abuse_hate" in reasons["m102"] and "[0, 1]" in reasons["m102"]
    assert "'dev'" in reasons["m104"] and "val" in reasons["m104"]
    assert "data_manifest.jsonl:9" in {row["where"] for row in stats["skipped"]["rows"]}
    assert stats["unlabelled"] == {"count": 1, "ids": ["m103"]}
    assert str(tmp_path) not in (tmp_path / "out/stats_full.json").read_text()


def test_an_id_given_twice_is_packed_once(tmp_path):
    stats = pack([*memes(30), meme(3)], tmp_path, mode="full")
    assert stats["repeated_ids"] == {"count": 1, "ids": ["m3"]}
    assert stats["examples"] == 30 and stats["skipped"]["count"] == 0


def test_contradictory_labels_for_an_id_cost_both(tmp_path):
    stats = pack([*memes(60), meme(3, labels={"abuse_hate": 0})], tmp_path, mode="full")
    assert [row["id"] for row in stats["skipped"]["rows"]] == ["m3", "m3"]
    assert "contradictory" in stats["skipped"]["rows"][0]["reason"]
    assert "m3" not in json.loads((tmp_path / "splits.json").read_text())


def with_missing(n, missing, folder):
    gone = functools.partial(replace, image=folder / "gone.png")
    return [gone(example) if i < missing else example for i, example in enumerate(memes(n))]


@pytest.mark.parametrize(("n", "missing"), [(2, 1), (9, 1), (10, 2), (39, 2), (50, 2)])
def test_a_few_bad_examples_are_no_failure(tmp_path, n, missing):
    stats = pack(with_missing(n, missing, tmp_path), tmp_path / "out")
    assert stats["examples"] == n - missing
    assert stats["skipped"]["count"] == missing


@pytest.mark.parametrize(("n", "missing"), [(9, 2), (10, 3), (39, 3), (50, 3)])
def test_more_bad_examples_fail_and_leave_what_was_there(tmp_path, n, missing):
    out = tmp_path / "out"
    pack(memes(5), out)
    before = files_of(out)
    with pytest.raises(ValueError, match=rf"{missing} of {n} examples are bad.*gone\.png"):
        pack(with_missing(n, missing, tmp_path), out)
    assert files_of(out) == before


def test_nothing_good_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no example to pack: 4 rows, 4 of them without a label"):
        pack(memes(4, labels={"abuse_hate": None}), tmp_path)
    with pytest.raises(ValueError, match=r"a label\. Set abuse_hate to 0 or 1 on each line"):
        pack(memes(4, labels={"abuse_hate": None}), tmp_path)
    with pytest.raises(ValueError, match="no example to pack: 0 rows"):
        pack([], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_limit_counts_good_examples(tmp_path):
    stats = pack(with_missing(60, 2, tmp_path), tmp_path / "out", mode="full", limit=50)
    assert (stats["examples"], stats["skipped"]["count"]) == (50, 2)
    stats = pack(with_missing(30, 1, tmp_path), tmp_path / "pilot", limit=29)
    assert (stats["examples"], stats["skipped"]["count"]) == (29, 1)
    stats = pack(iter(memes(60)), tmp_path / "pilot", limit=7)
    assert stats["examples"] == 7


def test_a_limit_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="limit is 0"):
        pack(memes(1), tmp_path, limit=0)


def test_unknown_mode(tmp_path):
    with pytest.raises(ValueError, match=r"'fast'.*pilot, full"):
        pack(memes(1), tmp_path, mode="fast")


def test_full_shards_are_not_replaced_by_other_data_unless_asked(tmp_path):
    pack(memes(40), tmp_path, mode="full")
    before = files_of(tmp_path)
    other = [replace(memes(40)[0], labels={"abuse_hate": 1}), *memes(40)[1:]]
    for examples, mode in [(memes(5), "pilot"), (other, "full")]:
        with pytest.raises(FileExistsError, match=r"overwrite"):
            pack(examples, tmp_path, mode=mode)
        assert files_of(tmp_path) == before
    pack(memes(40), tmp_path, mode="full")
    assert files_of(tmp_path) == before
    pack(memes(5), tmp_path, mode="pilot", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == [
        "made_from.json",
        "packed_as",
        "train",
    ]


@pytest.mark.parametrize("mode", ["pilot", "full"])
def test_a_finished_packing_is_not_done_again(tmp_path, mode, monkeypatch):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(20):
        noise(i).save(folder / f"{i}.png")
    examples = [meme(i, image=folder / f"{i}.png") for i in range(20)]
    opened = []
    look = checking._look
    monkeypatch.setattr(checking, "_look", lambda e: opened.append(e.id) or look(e))
    out = tmp_path / "out"

    def packed(these=examples, **options):
        opened.clear()
        stats = pack(iter(these), out, mode=mode, **options)
        assert stats == json.loads((out / f"stats_{mode}.json").read_text())
        return len(opened)

    assert packed() == 20
    assert packed() == 0
    assert packed(shard_size=5) == 20
    assert packed(shard_size=5) == 0
    assert packed(shard_size=5, overwrite=True) == 20
    noise(99).save(folder / "3.png")
    assert packed(shard_size=5) == 20
    (out / "splits.json").unlink()
    assert packed(shard_size=5) == 20
    shard = out / "shards/train/shard-000000.tar"
    shard.write_bytes((out / "shards/train/shard-000001.tar").read_bytes())
    assert packed(shard_size=5) == 20
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    assert packed(shard_size=5) == 20, "what its own advice is for"
    assert shard.read_bytes() == whole


def test_shards_of_a_pilot_vanish_from_a_full_run(tmp_path):
    pack(memes(50), tmp_path, shard_size=5)
    pack(memes(40), tmp_path, mode="full")
    packed = [m["id"] for s in ("train", "val", "test") for m in metas_of(tmp_path, s)]
    assert sorted(packed) == sorted(f"m{i}" for i in range(40))


KILLED = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from lib.data.packing.pack import pack
from test_packing import memes
pack(memes(120), sys.argv[1], mode="full", shard_size=4)
"""


def test_after_a_kill_the_finished_shards_are_kept_and_the_result_is_the_same(tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(killed)])
    partial = killed / "shards/.partial"
    until = time.monotonic() + 120
    while not list(partial.glob("*/shard-*.tar")):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.005)
    process.kill()
    process.wait()
    kept = {p.relative_to(partial): p.stat().st_ino for p in partial.glob("*/shard-*.tar")}
    assert kept and not list(killed.glob("shards/*/shard-*.tar"))

    for folder in (killed, undisturbed):
        pack(memes(120), folder, mode="full", shard_size=4)
    assert files_of(killed) == files_of(undisturbed)
    assert {name: (killed / "shards" / name).stat().st_ino for name in kept} == kept


def test_leftovers_of_another_job_are_not_taken_over(tmp_path):
    pack(memes(10), tmp_path / "a", shard_size=2)
    left = tmp_path / "b/shards"
    left.mkdir(parents=True)
    (tmp_path / "a/shards").rename(left / ".partial")
    (left / ".partial/plan.json").write_text("{}")
    pack([meme(i, ocr="changed") for i in range(10)], tmp_path / "b", shard_size=2)
    assert all(b"changed" in sample["txt"] for sample in samples_of(tmp_path / "b"))


def test_what_other_code_has_left_unfinished_is_packed_anew(tmp_path, monkeypatch):
    pack(memes(10), tmp_path / "a", shard_size=2)
    write = packing.write_shards

    def killed(plan, shards, *given):
        # As a kill leaves them: all shards written by other code, none of them in its place.
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(writing, "open_index", Mock(side_effect=KeyboardInterrupt))
            patched.setattr(writing, "combined_text", lambda *_: "of other code")
            write(plan, shards, *given[:-1], "the job of other code")
        return write(plan, shards, *given)

    monkeypatch.setattr(packing, "write_shards", killed)
    pack(memes(10), tmp_path / "b", shard_size=2)
    assert files_of(tmp_path / "b") == files_of(tmp_path / "a")


@pytest.mark.parametrize("new_stands", [False, True])
def test_a_kill_between_the_two_renames_is_mended(tmp_path, new_stands):
    pack(memes(10), tmp_path)
    before = files_of(tmp_path)
    (tmp_path / "shards").rename(tmp_path / ".shards.replaced")
    if new_stands:
        (tmp_path / "shards").mkdir()
    pack(memes(10), tmp_path)
    assert files_of(tmp_path) == before


def test_full_shards_that_a_kill_left_parked_are_not_lost_to_other_data(tmp_path):
    pack(memes(40), tmp_path, mode="full")
    before = files_of(tmp_path)
    (tmp_path / "shards").rename(tmp_path / ".shards.replaced")
    with pytest.raises(FileExistsError, match="overwrite"):
        pack(memes(5), tmp_path)
    assert files_of(tmp_path) == before


def test_a_full_disk_says_so_and_loses_nothing(tmp_path, monkeypatch):
    pack(memes(10), tmp_path)
    before = files_of(tmp_path)
    write, written = webdataset.TarWriter.write, []

    def write_until_full(self, sample):
        written.append(sample)
        if len(written) > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, sample)

    monkeypatch.setattr(webdataset.TarWriter, "write", write_until_full)
    with pytest.raises(OSError, match=r"disk is full.*run the same command again"):
        pack(memes(20), tmp_path, shard_size=4)
    now = files_of(tmp_path)
    assert {name: now[name] for name in before} == before
    partial = {name for name in now if name not in before}
    assert partial == {"shards/.partial/plan.json", "shards/.partial/train/shard-000000.tar"}
    monkeypatch.undo()
    assert pack(memes(20), tmp_path, shard_size=4)["examples"] == 20
    assert len(metas_of(tmp_path)) == 20


def settings(tmp_path, **fields):
    return Settings(root=tmp_path / "root", n_memes=10, **fields)


def lay_out_manifest(folder):
    (folder / "Step_2").mkdir(parents=True)
    row = {"id": "mine", "dataset": "own", "image": "a.png", "labels": {"abuse_hate": 0}}
    (folder / "Step_2/data_manifest.jsonl").write_text(json.dumps(row))


def test_a_draft_without_labels_is_said_to_want_them(tmp_path):
    (tmp_path / "own/Step_2").mkdir(parents=True)
    (tmp_path / "own/Step_2/data_manifest.draft.jsonl").touch()
    said = "set abuse_hate to 0 or 1 on each line of data_manifest.draft.jsonl and rename it to "
    with pytest.raises(FileNotFoundError, match=f"{said}data_manifest.jsonl"):
        examples_for(settings(tmp_path, data=tmp_path / "own"))


def test_examples_are_generated_unless_there_is_a_manifest(tmp_path):
    assert {e.dataset for e in examples_for(settings(tmp_path))} == {"confounders"}
    lay_out_manifest(tmp_path / "root")
    assert [e.id for e in examples_for(settings(tmp_path))] == ["mine"]
    assert len(list(examples_for(settings(tmp_path, dataset="confounders")))) == 10


def test_own_data_stand_before_the_root(tmp_path):
    lay_out_manifest(tmp_path / "own")
    assert [e.id for e in examples_for(settings(tmp_path, data=tmp_path / "own"))] == ["mine"]


def test_several_data_sets_are_read_each_from_its_folder(tmp_path, monkeypatch):
    (tmp_path / "one").mkdir()
    monkeypatch.setitem(READERS, "one", lambda folder: iter([meme(1, dataset=folder.name)]))
    monkeypatch.setitem(READERS, "two", lambda folder: iter([meme(2, dataset=folder.name)]))
    found = list(examples_for(settings(tmp_path, dataset="one, two", data=tmp_path)))
    assert [(e.id, e.dataset) for e in found] == [("m1", "one"), ("m2", tmp_path.name)]


def test_public_data_sets_are_looked_for_under_the_root(tmp_path, monkeypatch):
    monkeypatch.setitem(READERS, "one", lambda folder: iter([meme(1, dataset=str(folder))]))
    (tmp_path / "root/Datasets/one").mkdir(parents=True)
    (found,) = examples_for(settings(tmp_path, dataset="one"))
    assert found.dataset == str(tmp_path / "root/Datasets/one")


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"dataset": "hateful"}, ValueError, r"'hateful'.*confounders, .*hateful_memes"),
        ({"dataset": "mami"}, FileNotFoundError, r"Datasets does not exist.*data.*mami"),
        ({"data": "/nowhere"}, FileNotFoundError, r"data_manifest\.jsonl.*dataset: .*mami"),
        ({"data": "/nowhere"}, FileNotFoundError, "the folder /nowhere does not exist; give one"),
        ({"data": "/mine", "dataset": "confounders"}, ValueError, "nothing .* read from /mine"),
    ],
)
def test_data_that_are_not_there_are_named(tmp_path, fields, error, words):
    with pytest.raises(error, match=words):
        examples_for(settings(tmp_path, **fields))
