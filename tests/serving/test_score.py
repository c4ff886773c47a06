"""Batch scoring through `score` and its program: every kind of input, bad rows, kills, workers."""

import csv
import functools
import gzip
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from lib.config import ROOT
from lib.data.datasets import MemeShards, shard_paths
from lib.data.readers.manifest import read_manifest
from lib.data.text import combined_text, packed
from lib.serving import MemeClassifier
from lib.serving import score as program
from lib.serving.histograms import Histograms
from lib.serving.score import score
from lib.serving.scoring import inputs as inputs_module
from lib.serving.scoring import pools, tars
from lib.serving.scoring import tasks as tasks_module
from lib.serving.scoring.folders import folder_rows
from lib.serving.scoring.inputs import Input, Task
from lib.serving.scoring.output import Output
from lib.serving.scoring.pools import Cluster
from lib.serving.scoring.rows import BLOCK, USUAL, Columns, Row
from tests.serving.bad_inputs import ODD_MEMES

N = 20


@pytest.fixture(scope="module")
def classifier(full_root):
    return MemeClassifier.load(full_root.root, "full", device="cpu")


@pytest.fixture(scope="module")
def memes(tmp_path_factory):
    """A table of `N` memes beside its pictures, and the same pictures with texts beside them."""
    folder = tmp_path_factory.mktemp("memes")
    (folder / "pics" / "deeper").mkdir(parents=True)
    rng, rows = np.random.default_rng(0), []
    for place in range(N):
        name = f"pics/{'deeper/' if place % 3 == 0 else ''}{place:03d}.jpg"
        pixels = rng.integers(0, 255, (40 + place, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
        text = " ".join(["monday", "again"] * (1 + place % 4)) + f" {place}"
        (folder / name).with_suffix(".txt").write_text(text)
        rows.append({"id": f"m{place}", "text": text, "image": name})
    pd.DataFrame(rows).to_csv(folder / "memes.csv", index=False)
    return folder


@pytest.fixture
def scored(full_root, tmp_path, classifier, monkeypatch):
    """Score in this process, by the classifier that is loaded already; the table of the scores."""
    monkeypatch.setattr(tasks_module, "_loaded", lambda model: classifier)

    def run(inputs, name="scores", **options):
        out = tmp_path / f"{name}.parquet"
        options = {"root": full_root.root, "mode": "full", "workers": 1, "device": "cpu"} | options
        run.counts = score(inputs, out, **options)
        run.rejected = pd.read_parquet(tmp_path / f"{name}.rejected.parquet")
        return pd.read_parquet(out)

    return run


def as_answers(table):
    """The columns that tell of the answers, as far as inputs agree on them."""
    return table.drop(columns=["row", "id", "image", "shard"], errors="ignore")


def test_scores_are_the_answers_of_predict(scored, classifier, memes):
    table = scored(memes / "memes.csv")
    given = pd.read_csv(memes / "memes.csv")
    answers = classifier.predict_batch(
        given["text"].tolist(), [memes / image for image in given["image"]]
    )
    assert table["row"].tolist() == list(range(N))
    assert table["id"].tolist() == given["id"].tolist()
    assert table["image"].tolist() == given["image"].tolist()
    assert table["decision"].tolist() == [answer["decision"] for answer in answers]
    assert table["text_length"].tolist() == [len(text) for text in given["text"]]
    for name, of_answer in {
        "prob_hate": lambda a: a["prob_hate"],
        "text_expert_prob": lambda a: a["experts"]["text_expert"],
        "vision_expert_prob": lambda a: a["experts"]["vision_expert"],
        "without_text": lambda a: a["rests_on"]["without_text"],
        "without_picture": lambda a: a["rests_on"]["without_picture"],
    }.items():
        np.testing.assert_allclose(table[name], [of_answer(a) for a in answers], atol=1e-5)
    assert "monday" not in table.to_csv()


def test_each_kind_of_input_gives_the_same_answers(scored, memes, tmp_path):
    table = scored(memes / "memes.csv")
    rows = pd.read_csv(memes / "memes.csv")
    rows.rename(columns={"image": "img"}).to_json(
        memes / "memes.jsonl", orient="records", lines=True
    )
    rows.rename(columns={"text": "said"}).to_parquet(memes / "memes.parquet")
    json_lines = scored(memes / "memes.jsonl", "jsonl")
    parquet = scored(memes / "memes.parquet", "parquet", columns=Columns(text="said"))
    folder = scored(memes / "pics", "folder").set_index("id")
    pd.testing.assert_frame_equal(json_lines, table)
    pd.testing.assert_frame_equal(parquet, table)
    in_folder = folder.loc[[image.removeprefix("pics/") for image in rows["image"]]]
    pd.testing.assert_frame_equal(
        as_answers(in_folder).reset_index(drop=True), as_answers(table), atol=1e-5
    )


def foreign_shard(memes, file):
    """A tar of the pictures as others pack them: JPEG with its text in JSON."""
    rows = pd.read_csv(memes / "memes.csv")
    with tarfile.open(file, "w") as tar:
        for place, row in rows.iterrows():
            said = json.dumps({"id": row["id"], "text": row["text"]}).encode()
            for suffix, content in (
                ("jpg", (memes / row["image"]).read_bytes()),
                ("json", said),
            ):
                member = tarfile.TarInfo(f"{place:05d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return file


def test_shards_of_others_at_any_address(scored, memes, tmp_path):
    table = scored(memes / "memes.csv")
    foreign_shard(memes, tmp_path / "s-000000.tar")
    shutil.copy(tmp_path / "s-000000.tar", tmp_path / "s-000001.tar")
    with fsspec.open("memory://score/s-000000.tar", "wb") as file:
        file.write((tmp_path / "s-000000.tar").read_bytes())
    both = scored(str(tmp_path / "s-{000000..000001}.tar"), "both")
    assert both["row"].tolist() == list(range(2 * N))
    assert both["id"].tolist() == 2 * table["id"].tolist()
    assert both["shard"].str[-12:].tolist() == ["s-000000.tar"] * N + ["s-000001.tar"] * N
    remote = scored("memory://score/s-000000.tar", "memory")
    local = scored(f"file://{tmp_path}/s-000000.tar", "file")
    for one in (remote, local, both[:N], both[N:].reset_index(drop=True)):
        pd.testing.assert_frame_equal(as_answers(one), as_answers(table))


def test_shards_reached_through_another_address(scored, memes, tmp_path):
    table = scored(memes / "memes.csv")
    shard = foreign_shard(memes, tmp_path / "s.tar")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(shard, "inside/s.tar")
    cached, within = f"simplecache::file://{shard}", f"zip://inside/s.tar::{tmp_path}/all.zip"
    for name, place in (("cached", cached), ("within", within)):
        pd.testing.assert_frame_equal(as_answers(scored(place, name)), as_answers(table))
    with pytest.raises(FileNotFoundError, match=r"\$\{HERE\}/s\.tar does not exist"):
        Input.of([str(tmp_path / "${HERE}/s.tar")], USUAL)
    signed = Input.of(["https://host/s-{0..1}.tar?signed=1"], USUAL)
    assert signed.places == ["https://host/s-0.tar?signed=1", "https://host/s-1.tar?signed=1"]
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "s.tgz").touch()
    assert Input.of([str(tmp_path / "packed")], USUAL).kind == "shards"


def shard_of(file, **members):
    """A shard of these members; a dot in a name is written __."""
    with tarfile.open(file, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name.replace("__", "."))
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return str(file)


def test_of_several_members_a_meme_is_the_plainest(tmp_path):
    whole = {"a__png": b"meme", "a__seg__png": b"mask", "a__depth__jpg": b"depth"}
    texts = {"a__txt": b"said", "a__caption__txt": b"described"}
    only = {"b__thumb__jpg": b"small", "b__said__txt": b"only"}
    two = {"c__1__jpg": b"one", "c__2__jpg": b"two"}
    shard = shard_of(tmp_path / "s.tar", **whole, **texts, **only, **two)
    first, second, third = tars.shard_rows(shard, tars.Part(), USUAL)
    assert (first.id, first.image, first.picture, first.text) == ("a", "a.png", b"meme", "said")
    assert (second.picture, second.text) == (b"small", "only")
    assert third.fault == "several members could be meant: 1.jpg, 2.jpg"


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_a_link_in_a_shard_is_said_to_be_one(tmp_path, kind):
    file = shard_of(tmp_path / "s.tar", a__jpg=b"picture", a__txt=b"monday")
    with tarfile.open(file, "a") as tar:
        link = tarfile.TarInfo("b.jpg")
        link.type, link.linkname = kind, "a.jpg"
        tar.addfile(link)
        text = tarfile.TarInfo("b.txt")
        text.size = 6
        tar.addfile(text, io.BytesIO(b"sunday"))
    a, b = tars.shard_rows(str(file), tars.Part(), USUAL)
    assert (a.picture, a.text, a.fault) == (b"picture", "monday", None)
    assert (b.id, b.picture) == ("b", None)
    assert b.fault.startswith("b.jpg is a link; pack the file itself")


def test_a_shard_s_texts_have_the_names_that_a_table_s_have(tmp_path):
    file = shard_of(tmp_path / "s.tar", a__json=b'{"ocr": "monday"}', b__json=b'{"text": "sunday"}')
    rows = tars.shard_rows(str(file), tars.Part(), USUAL)
    assert [row.text for row in rows] == ["monday", "sunday"]


def test_a_shard_s_text_is_the_first_field_that_has_words(tmp_path):
    members = {
        "a__json": b'{"text": null, "ocr": "monday again"}',
        "b__json": b'{"text": " ", "ocr_text": "sunday"}',
        "c__json": b'{"text": "", "ocr": null}',
        "d__json": b'{"text": null}',
    }
    rows = tars.shard_rows(shard_of(tmp_path / "s.tar", **members), tars.Part(), USUAL)
    assert [row.text for row in rows] == ["monday again", "sunday", "", None]


def test_a_field_of_texts_that_no_meme_of_a_shard_has_is_said(tmp_path, recwarn):
    shard = shard_of(tmp_path / "s.tar", a__jpg=b"", a__json=b'{"id": 1, "said": "monday"}')
    Input.of([shard], Columns(text="said")).described()
    Input.of([shard], Columns(text="none")).described()
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"s\.tar.* 'sait' in a .json; they have id, said.*--text"):
        Input.of([shard], Columns(text="sait")).described()


@pytest.mark.parametrize("suffix", [".tar", ".tgz"])
def test_a_shard_whose_members_are_not_in_order_is_refused(tmp_path, suffix):
    pictures = {f"{place:03d}__jpg": b"" for place in range(BLOCK + 5)}
    texts = {name.replace("jpg", "txt"): b"monday" for name in pictures}
    shard = shard_of(tmp_path / "s.tar", **pictures, **texts)
    if suffix == ".tgz":
        (tmp_path / "s.tgz").write_bytes(gzip.compress(Path(shard).read_bytes()))
        shard = str(tmp_path / "s.tgz")
    said = rf"s\{suffix}: the members of '000' do not follow each other.*--sort=name"
    with pytest.raises(ValueError, match=said):
        rows_in(shard)


def test_what_a_mac_packs_beside_each_file_is_no_member(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name in ("d/._a.jpg", "d/a.jpg", "d/._a.txt", "d/a.txt", "d/._b.jpg", "d/b.jpg"):
            tar.addfile(tarfile.TarInfo(name))
    assert [row.id for row in rows_in(tmp_path / "s.tar")] == ["d/a", "d/b"]


def test_an_empty_shard_has_no_field_of_texts_to_be_missed(tmp_path, recwarn):
    tars.warn_of_text(shard_of(tmp_path / "s.tar"), "said")
    assert not recwarn.list


def test_a_meme_that_a_shard_holds_twice_is_two_rows(tmp_path):
    shard = shard_of(tmp_path / "s.tar", a__jpg=b"", a__txt=b"1", b__txt=b"2")
    with tarfile.open(shard, "a") as tar:
        for name in ("a.jpg", "a.txt"):
            tar.addfile(tarfile.TarInfo(name))
    assert [row.id for row in rows_in(shard)] == ["a", "b", "a"]


def test_a_path_of_this_machine_may_hold_colons(memes, tmp_path):
    place = tmp_path / "a::b"
    place.mkdir()
    shard = foreign_shard(memes, place / "s.tar")
    (place / "memes.csv").write_text("text,image\nmonday,a.jpg\n")
    (place / "memes.csv.gz").write_bytes(gzip.compress((place / "memes.csv").read_bytes()))
    assert [len(rows_in(place / name)) for name in ("s.tar", "memes.csv", "memes.csv.gz")] == [
        N,
        1,
        1,
    ]
    assert len(rows_in(shard)) == N


def test_a_column_that_an_input_cannot_have_is_refused(memes, tmp_path):
    shard = foreign_shard(memes, tmp_path / "s.tar")
    for place, columns in (
        (memes / "pics", Columns(text="words")),
        (memes / "pics", Columns(image="none")),
        (shard, Columns(image="picture")),
    ):
        with pytest.raises(ValueError, match=r"--\w+-column \w+ does not apply here"):
            Input.of([str(place)], columns)
    assert Input.of([str(memes / "pics")], Columns(text="none")).kind == "folder"


def test_shards_beside_pictures_are_said_to_be_left_out(memes, tmp_path):
    shutil.copytree(memes / "pics", tmp_path / "both")
    foreign_shard(memes, tmp_path / "both/s-000000.tar")
    with pytest.warns(UserWarning, match=r"none of its 1 shards.*s-000000\.tar"):
        assert Input.of([str(tmp_path / "both")], USUAL).kind == "folder"


def test_our_own_shards(scored, full_root):
    shards = shard_paths(full_root.shards, "test")
    packed = MemeShards(shards)
    table = scored(str(shards[0].parent), "ours")
    assert table["id"].tolist() == packed.ids
    known = pd.read_csv(full_root.artifact(8, "predictions.csv"))
    np.testing.assert_allclose(table["prob_hate"], known["prob_hate"], atol=1e-5)


def test_a_shard_is_read_in_parts_by_several(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for place in range(2 * BLOCK + 5):
            # Names beyond 100 bytes have a header more.
            member = tarfile.TarInfo(f"{'long' * 30}{place:04d}.txt")
            member.size = 4
            tar.addfile(member, io.BytesIO(f"{place:04d}".encode()))
    parts = list(tars.parts_of(str(tmp_path / "s.tar")))
    read = [[r.text for r in tars.shard_rows(str(tmp_path / "s.tar"), p, USUAL)] for p in parts]
    assert [len(part) for part in read] == [BLOCK, BLOCK, 5]
    assert [text for part in read for text in part] == [
        f"{place:04d}" for place in range(2 * BLOCK + 5)
    ]


# How many of `N` memes lie before each harm; None where that depends on the bytes.
BEFORE = {
    **{"cut": None, "cut in a header": 10, "cut before a header": 10},
    **{"garbled": 10, "no tar": 0, "compressed, then cut": None},
}


@pytest.mark.parametrize(
    ("harm", "suffix"),
    [(harm, ".tar") for harm in BEFORE if "compressed" not in harm]
    + [(harm, suffix) for harm in BEFORE for suffix in (".tar.gz", ".tgz")],
)
def test_a_broken_shard_costs_what_lies_behind(harm, suffix, scored, memes, tmp_path):
    whole = foreign_shard(memes, tmp_path / "whole.tar")
    content = bytearray(whole.read_bytes())
    with tarfile.open(whole) as tar:
        at = tar.getmembers()[20].offset
    if harm == "cut":
        del content[len(content) // 2 + 100 :]
    elif harm == "cut in a header":
        del content[at + 100 :]
    elif harm == "cut before a header":
        del content[at:]
    elif harm == "garbled":
        content[at : at + 512] = b"\xff" * 512
    elif harm == "no tar":
        content = bytearray(b"no tar" * 1000)
    file = tmp_path / f"s{suffix}"
    file.write_bytes(content if suffix == ".tar" else _compressed(content, harm))
    table = scored(str(file))
    assert len(scored.rejected) == 1
    assert "shard is broken" in scored.rejected["reason"][0]
    good = BEFORE[harm]
    assert len(table) == good or (good is None and 0 < len(table) < N)


@pytest.mark.parametrize("suffix", [".tar", ".tgz"])
def test_half_a_meme_before_a_break_is_not_judged_as_a_whole_one(suffix, scored, memes, tmp_path):
    whole = foreign_shard(memes, tmp_path / "whole.tar")
    content = bytearray(whole.read_bytes())
    with tarfile.open(whole) as tar:
        text_of_the_tenth = tar.getmembers()[21].offset
    content[text_of_the_tenth : text_of_the_tenth + 512] = b"\xff" * 512
    file = tmp_path / f"s{suffix}"
    file.write_bytes(content if suffix == ".tar" else gzip.compress(content))
    assert len(scored(str(file))) == 10
    half, behind = scored.rejected["reason"]
    assert scored.rejected["id"][0] == "00010"
    assert "before all of this meme was read" in half
    assert "shard is broken" in behind


def _compressed(content, harm):
    packed = gzip.compress(content)
    return packed[: len(packed) // 2] if harm == "compressed, then cut" else packed


@pytest.mark.parametrize("suffix", [".tar.gz", ".tgz"])
def test_a_sound_shard_may_be_compressed(suffix, scored, memes, tmp_path):
    whole = foreign_shard(memes, tmp_path / "whole.tar")
    packed = tmp_path / f"s{suffix}"
    packed.write_bytes(gzip.compress(whole.read_bytes()))
    assert len(scored(str(packed))) == N
    assert len(scored.rejected) == 0


def test_bad_rows_are_set_apart_with_their_reason(scored, tmp_path):
    rows, wanted = [], []
    for place, odd in enumerate(ODD_MEMES):
        name = None
        if odd.picture is not None:
            name = f"{place}.png"
            (tmp_path / name).write_bytes(odd.picture)
        rows.append(json.dumps({"id": odd.name, "text": odd.text, "image": name}))
        wanted.append(odd.said)
    rows.insert(3, "{no JSON")
    wanted.insert(3, "line 4: not JSON")
    (tmp_path / "odd.jsonl").write_text("\n".join(rows) + "\n")
    table = scored(tmp_path / "odd.jsonl", columns=Columns(image="image"))
    assert sorted([*table["row"], *scored.rejected["row"]]) == list(range(len(rows)))
    reasons = dict(zip(scored.rejected["row"], scored.rejected["reason"], strict=True))
    for row, said in enumerate(wanted):
        if said is not None:
            assert row in reasons, rows[row][:80]
            assert pd.Series([reasons[row]]).str.contains(said).all(), (said, reasons[row])
        else:
            assert row not in reasons, (rows[row][:80], reasons.get(row))
    assert table["prob_hate"].between(0, 1).all()


@pytest.mark.parametrize("kind", ["folder", "csv", "parquet", "shard"])
def test_bad_pictures_and_odd_texts_are_the_same_to_every_input(scored, tmp_path, kind):
    told = [odd for odd in ODD_MEMES if odd.picture is not None and _can_be_written(odd.text)]
    names = [f"{place:03}.png" for place in range(len(told))]
    rows = pd.DataFrame({"id": names, "text": [odd.text for odd in told]})
    place = tmp_path / "odd.parquet"
    if kind == "folder":
        place = tmp_path / "folder"
        place.mkdir()
        for name, odd in zip(names, told, strict=True):
            (place / name).write_bytes(odd.picture)
            (place / name).with_suffix(".txt").write_text(odd.text, encoding="utf-8")
    elif kind == "csv":
        place = tmp_path / "odd.csv"
        with place.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, quoting=csv.QUOTE_ALL)
            table.writerow(["image", "text"])
            for name, odd in zip(names, told, strict=True):
                (tmp_path / name).write_bytes(odd.picture)
                table.writerow([name, odd.text])
    elif kind == "parquet":
        rows.assign(image=[{"bytes": odd.picture, "path": None} for odd in told]).to_parquet(place)
    else:
        place = tmp_path / "odd.tar"
        with tarfile.open(place, "w") as tar:
            for name, odd in zip(names, told, strict=True):
                for member, content in (
                    (name, odd.picture),
                    (f"{name[:3]}.txt", odd.text.encode()),
                ):
                    found = tarfile.TarInfo(member)
                    found.size = len(content)
                    tar.addfile(found, io.BytesIO(content))
    table = scored(place)
    answered = {odd.name for row, odd in enumerate(told) if row in set(table["row"])}
    assert answered == {odd.name for odd in told if odd.said is None}
    assert set(table["text_from"]) == {"given"}
    for row, reason in zip(scored.rejected["row"], scored.rejected["reason"], strict=True):
        assert re.search(told[row].said, reason), (told[row].name, reason)


def _can_be_written(text):
    try:
        return isinstance(text, str) and bool(text.encode())
    except UnicodeEncodeError:
        return False


def test_a_meme_the_models_cannot_take_costs_no_other(scored, memes, classifier, monkeypatch):
    judge = classifier.judge

    def fails(found):
        if any("again 7" in meme.text for meme in found):
            raise IndexError("a token out of range")
        return judge(found)

    monkeypatch.setattr(classifier, "judge", fails)
    table = scored(memes / "memes.csv")
    assert scored.rejected["id"].tolist() == ["m7"]
    assert scored.rejected["reason"].tolist() == ["IndexError: a token out of range"]
    assert len(table) == N - 1


def test_models_at_fault_end_the_run_instead_of_rejecting_all(
    scored, memes, classifier, monkeypatch
):
    def fails(found):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(classifier, "judge", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        scored(memes / "memes.csv")


def test_lines_of_a_csv_that_are_no_rows(scored, memes):
    file = memes / "lines.csv"
    file.write_bytes(
        b"text,image\nhi,pics/001.jpg,more\n\n\xff\xfe,pics/001.jpg\nhi,pics/gone.jpg\nhi,\n"
    )
    table = scored(file)
    assert table["row"].tolist() == [3]
    assert table["image"].isna().all()
    assert scored.rejected["row"].tolist() == [0, 1, 2]
    said = ("line 2: 3 fields, expected 2", "not valid Unicode", "no such picture")
    for reason, wanted in zip(scored.rejected["reason"], said, strict=True):
        assert wanted in reason


def test_texts_that_are_missing_are_read_off_the_pictures(scored, memes, monkeypatch):
    from lib.data import ocr

    monkeypatch.setattr(ocr, "read_text", lambda image: "read " * (image.height % 5))
    file = memes / "untold.csv"
    file.write_text("image,text\npics/001.jpg,\npics/002.jpg,told\n")
    table = scored(file)
    assert table["text_from"].tolist() == ["picture", "given"]
    none_told = scored(memes / "pics", "none", columns=Columns(text="none"))
    assert set(none_told["text_from"]) == {"picture"}


def test_a_data_folder_gives_its_pictures_the_texts_it_has(scored, memes, tmp_path):
    data = tmp_path / "data"
    (data / "Datasets" / "own").mkdir(parents=True)
    (data / "Step_2").mkdir()
    shutil.copy(memes / "pics" / "001.jpg", data / "Datasets" / "own" / "a.jpg")
    line = json.dumps({"id": "own/a.jpg", "text": "monday again monday again 1"})
    (data / "Step_2" / "ocr.jsonl").write_text(f"{line}\nno line\n")
    table = scored(data)
    assert table["id"].tolist() == ["own/a.jpg"]
    assert table["text_length"].tolist() == [len("monday again monday again 1")]


def test_a_data_folder_s_texts_are_found_by_the_manifest_s_ids(scored, memes, tmp_path):
    data = tmp_path / "data"
    (data / "Datasets" / "own").mkdir(parents=True)
    (data / "Step_2").mkdir()
    for name in ("a", "b"):
        shutil.copy(memes / "pics" / "001.jpg", data / "Datasets" / "own" / f"{name}.jpg")
    rows = [{"id": "cat", "image": "own/a.jpg", "text": "old"}]
    rows += [{"id": "dog", "image": "own/b.jpg", "text": "monday"}, {"id": "no picture"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (data / "Step_2" / "data_manifest.jsonl").write_text(lines)
    (data / "Step_2" / "ocr.jsonl").write_text(json.dumps({"id": "cat", "text": "a newer text"}))
    table = scored(data)
    assert table["text_length"].tolist() == [len("a newer text"), len("monday")]
    assert set(table["text_from"]) == {"given"}


def test_a_data_folder_s_texts_are_those_that_step_3_takes_however_they_are_written(tmp_path):
    data = tmp_path / "data"
    (data / "Datasets/my").mkdir(parents=True)
    (data / "Step_2").mkdir()
    written = {"a": "./my/a.png", "b": "my//b.png", "c": "my/c.png", "d": "my/d.png"}
    texts = {"a": "text a", "b": "text b", "c": 2024, "d": "older"}
    rows = [
        {"id": k, "dataset": "own", "labels": {"abuse_hate": 1}, "image": v, "text": texts[k]}
        for k, v in written.items()
    ]
    for name in written:
        Image.new("RGB", (8, 8)).save(data / f"Datasets/my/{name}.png")
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (data / "Step_2/data_manifest.jsonl").write_text(lines)
    (data / "Step_2/ocr.jsonl").write_text(json.dumps({"id": "d", "text": 1984}))
    given = [row.text for row in folder_rows(str(data / "Datasets"))]
    assert given == ["text a", "text b", "2024", "1984"]
    assert given == [example.ocr for example in read_manifest(data)]


def data_folder(place, manifest, pictures=(), ocr=None):
    """A data folder of these pictures, the lines of its manifest and those of its `ocr.jsonl`."""
    (place / "Datasets").mkdir(parents=True)
    (place / "Step_2").mkdir()
    for name in pictures:
        Image.new("RGB", (8, 8)).save(place / "Datasets" / name)
    lines = "".join(json.dumps(row) + "\n" for row in manifest)
    (place / "Step_2/data_manifest.jsonl").write_text(lines)
    if ocr is not None:
        (place / "Step_2/ocr.jsonl").write_bytes(ocr)
    return place


def rows_in(place, columns=USUAL):
    return [row for task in Input.of([str(place)], columns).tasks() for row in task.read()]


def test_each_line_of_a_manifest_is_a_row_also_where_several_have_one_picture(tmp_path):
    rows = [{"id": 1, "image": "a.jpg", "text": "first text"}, {"id": "t", "text": "a text alone"}]
    rows += [{"id": 2, "image": "./a.jpg", "text": "second text"}]
    rows += [{"id": 3, "image": "b.jpg", "text": "third"}, {"id": "d.png", "text": "fourth"}]
    rows += [{"id": 6, "image": "gone.jpg", "text": "x"}, {"id": 7, "image": "../Step_2/x.jpg"}]
    data = data_folder(tmp_path, rows, ["a.jpg", "b.jpg", "c.jpg", "d.png"])
    found = [(row.id, row.image, row.text) for row in rows_in(data)]
    assert found == [
        ("1", "a.jpg", "first text"),
        ("2", "a.jpg", "second text"),
        ("b.jpg", "b.jpg", "third"),
        ("c.jpg", "c.jpg", None),
        ("d.png", "d.png", "fourth"),
        ("t", None, "a text alone"),
        ("6", "gone.jpg", "x"),
        ("7", "../Step_2/x.jpg", None),
    ]
    assert rows_in(data)[-1].fault == "data_manifest.jsonl: field image leads out of Datasets/"
    assert Input.of([str(data)], USUAL).described()[1] == len(found)
    read_all = Columns(text="none")
    assert len(rows_in(data, read_all)) == 4
    assert Input.of([str(data)], read_all).described()[1] == 4


def test_an_absolute_path_in_a_manifest_is_said_to_be_one(tmp_path):
    image = str(tmp_path / "data/Datasets/a.jpg")
    data = data_folder(tmp_path / "data", [{"id": 1, "image": image}])
    fault = "data_manifest.jsonl: field image is an absolute path; give it relative to Datasets/"
    assert rows_in(data)[0].fault == fault


def test_the_text_beside_a_picture_of_several_memes_is_none_of_theirs(tmp_path):
    rows = [{"id": k, "image": "a.jpg", "text": f"text {k}"} for k in range(2)]
    data = data_folder(tmp_path, rows, ["a.jpg"])
    (data / "Datasets/a.txt").write_text("beside")
    assert [row.text for row in rows_in(data)] == ["text 0", "text 1"]


def test_the_text_beside_a_picture_is_that_of_memes_without_one(tmp_path):
    rows = [{"id": "told", "image": "a.jpg", "text": "own"}, {"id": "bare", "image": "a.jpg"}]
    data = data_folder(tmp_path, rows, ["a.jpg"])
    (data / "Datasets/a.txt").write_text("beside")
    assert [(row.id, row.text) for row in rows_in(data)] == [("told", "own"), ("bare", "beside")]


def test_a_data_folder_without_a_meme_is_refused(tmp_path):
    data = data_folder(tmp_path, [])
    with pytest.raises(ValueError, match="holds no pictures, and its manifest no meme"):
        Input.of([str(data)], USUAL).described()


def test_memes_of_text_alone_and_those_that_share_a_picture_are_judged(scored, tmp_path):
    rows = [{"id": k, "image": "a.jpg", "text": f"monday {'again ' * k}"} for k in range(2)]
    data = data_folder(tmp_path / "data", [*rows, {"id": "t", "text": "so it is"}], ["a.jpg"])
    table = scored(data)
    assert table["id"].tolist() == ["0", "1", "t"]
    assert table["image"].tolist()[:2] == ["a.jpg", "a.jpg"] and table["image"].isna()[2]
    assert table["text_length"].tolist() == [6, 12, 8]
    assert set(table["text_from"]) == {"given"}


def test_memes_of_one_picture_are_in_the_order_of_the_manifest(tmp_path):
    rows = [{"id": k, "image": "a.jpg", "text": f"text {k}"} for k in range(3)]
    data = data_folder(tmp_path, rows, ["a.jpg"])
    (data / "Datasets/ocr.jsonl").write_text('{"id": 2, "text": "older"}\n')
    assert [row.text for row in rows_in(data)] == ["text 0", "text 1", "text 2"]


def test_a_data_folder_whose_pictures_are_a_link_has_its_texts(tmp_path):
    rows = [{"id": 1, "image": "a.jpg", "text": "monday"}]
    data = data_folder(tmp_path / "data", rows, ["a.jpg"])
    (data / "Datasets").rename(tmp_path / "elsewhere")
    (data / "Datasets").symlink_to(tmp_path / "elsewhere")
    assert [row.text for row in rows_in(data)] == ["monday"]


def test_a_data_folder_of_texts_alone_is_scored(tmp_path):
    data = data_folder(tmp_path, [{"id": "t", "text": "monday"}])
    assert [row.text for row in rows_in(data)] == ["monday"]


def test_an_id_that_stands_twice_in_a_manifest_is_refused(tmp_path):
    data = data_folder(tmp_path, [{"id": 1, "image": "a.jpg"}] * 2, ["a.jpg"])
    with pytest.raises(ValueError, match=r"manifest\.jsonl: field id: '1' stands on line 2"):
        Input.of([str(data)], USUAL).described()


def test_another_meme_of_a_picture_makes_another_input(tmp_path):
    rows = [{"id": k, "image": "a.jpg"} for k in range(3)]
    told = []
    for n in (1, 2, 3):
        data_folder(tmp_path / "data", rows[:n], ["a.jpg"])
        told.append(Input.of([str(tmp_path / "data")], USUAL).described())
        shutil.rmtree(tmp_path / "data")
    assert [n for _, n in told] == [1, 2, 3] and len(set(told)) == 3


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_a_file_of_texts_that_is_not_in_utf_8_is_refused(tmp_path, encoding):
    line = json.dumps({"id": "a.jpg", "text": "monday"}).encode(encoding)
    for place in (data_folder(tmp_path / "data", [], ["a.jpg"], line), tmp_path / "plain"):
        if place.name == "plain":
            place.mkdir()
            (place / "a.jpg").touch()
            (place / "ocr.jsonl").write_bytes(line)
        with pytest.raises(ValueError, match=r"ocr\.jsonl is not in UTF-8.*save it as UTF-8"):
            Input.of([str(place)], USUAL).described()


def test_lines_and_ids_of_texts_that_fit_nothing_are_said(tmp_path):
    said = b'{"id": "a.jpg", "text": "monday"}\nno line\n\n[1]\n{"id": "gone.jpg", "text": "x"}\n'
    data = data_folder(tmp_path, [{"id": 1, "image": "a.jpg", "text": "own"}], ["a.jpg"], said)
    with pytest.warns(UserWarning) as warned:
        assert Input.of([str(data)], USUAL).described()[1] == 1
    assert [str(one.message).partition("ocr.jsonl: ")[2] for one in warned] == [
        "2 lines are no JSON object with an id, line 2 first; they are left out",
        "2 ids stand for no meme of the folder, 'a.jpg' first; their texts are not used",
    ]
    assert rows_in(data)[0].text == "own"


def test_a_folder_that_cannot_be_looked_into_costs_its_pictures_alone(tmp_path, monkeypatch):
    (tmp_path / "a.png").touch()
    (tmp_path / "lost").mkdir()
    scandir = os.scandir

    def closed(folder):
        if os.fsdecode(folder).endswith("lost"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", closed)
    found = [(row.id, row.fault) for row in folder_rows(str(tmp_path))]
    assert found == [
        ("a.png", None),
        ("lost", "this folder cannot be looked into: Permission denied"),
    ]
    assert Input.of([str(tmp_path)], USUAL).described()[1] == 2


def test_a_data_folder_s_languages_and_transcripts_are_what_step_3_packs(tmp_path):
    data = tmp_path / "data"
    (data / "Datasets").mkdir(parents=True)
    (data / "Step_2").mkdir()
    rows = [
        {"id": name, "dataset": "own", "image": f"{name}.png", "labels": {"abuse_hate": 1}} | more
        for name, more in {
            "german": {"text": "die tiere sind da", "lang": "de"},
            "english": {"text": "monday", "lang": "en"},
            "sounding": {"text": "monday"},
            "silent": {"text": "[OCR] so it is [/OCR] [CAP] [/CAP] <lang=fr>", "lang": "fr"},
        }.items()
    ]
    for row in rows:
        Image.new("RGB", (8, 8)).save(data / "Datasets" / row["image"])
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (data / "Step_2" / "data_manifest.jsonl").write_text(lines)
    (data / "Step_2" / "asr.jsonl").write_text(json.dumps({"id": "sounding", "text": "a bell"}))
    given = {row.id: packed(row.text) for row in folder_rows(str(data / "Datasets"))}
    for example in read_manifest(data):
        step_3 = combined_text(example.ocr, "", example.lang, example.asr)
        assert given[example.image.name] == (rows[3]["text"] if example.id == "silent" else step_3)


def test_columns_are_found_whatever_their_case_and_a_missing_text_is_said(
    scored, memes, monkeypatch
):
    from lib.data import ocr

    monkeypatch.setattr(ocr, "read_text", lambda image: "read off")
    (memes / "upper.csv").write_text("ID,Text,Image\nx7,monday,pics/001.jpg\n")
    table = scored(memes / "upper.csv")
    assert (table["id"].item(), table["text_from"].item()) == ("x7", "given")
    (memes / "other.csv").write_text("image,caption\npics/001.jpg,monday\n")
    with pytest.warns(UserWarning, match=r"no column 'text'; it has image, caption.*--text-column"):
        assert scored(memes / "other.csv", "other")["text_from"].item() == "picture"


def test_bytes_that_are_no_text_cost_their_row_alone(scored, memes):
    raw = pa.array([b"monday \xff", b"again"], pa.binary()).view(pa.string())
    table = pa.table({"text": raw, "image": ["pics/001.jpg", "pics/002.jpg"], "id": ["a", "b"]})
    pq.write_table(table, memes / "torn.parquet")
    assert scored(memes / "torn.parquet")["id"].tolist() == ["b"]
    assert "not valid Unicode" in scored.rejected["reason"].item()


def test_a_text_that_cannot_be_opened_costs_its_row_alone(scored, memes, tmp_path):
    folder = tmp_path / "linked"
    folder.mkdir()
    for name in ("001", "002"):
        shutil.copy(memes / "pics" / f"{name}.jpg", folder)
        (folder / f"{name}.txt").write_text("monday")
    (folder / "001.txt").unlink()
    (folder / "001.txt").symlink_to(folder / "gone.txt")
    assert scored(folder)["id"].tolist() == ["002.jpg"]
    assert "001.txt cannot be read" in scored.rejected["reason"].item()


def test_a_text_s_suffix_may_be_in_capitals(scored, memes, tmp_path):
    folder = tmp_path / "camera"
    folder.mkdir()
    for name in ("001", "002"):
        shutil.copy(memes / "pics" / f"{name}.jpg", folder / f"{name}.JPG")
    (folder / "001.TXT").write_text("monday")
    (folder / "002.txt").write_text("tuesday")
    (folder / "002.TXT").write_text("not this")
    assert scored(folder)["text_from"].tolist() == ["given", "given"]
    (folder / "001.TXT").unlink()
    (folder / "001.TXT").symlink_to(folder / "gone.txt")
    assert scored(folder, "again")["id"].tolist() == ["002.JPG"]
    assert "001.TXT cannot be read" in scored.rejected["reason"].item()


def test_a_shard_s_suffix_may_be_in_capitals(scored, memes, tmp_path):
    foreign_shard(memes, tmp_path / "S.TAR")
    assert len(scored(tmp_path / "S.TAR"))


def test_a_place_where_no_scores_can_lie_is_refused_and_kept(full_root, memes, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "precious.txt").write_text("")
    options = {"root": full_root.root, "mode": "full", "overwrite": True}
    with pytest.raises(ValueError, match=r"results is a folder; --out needs a file"):
        score(memes / "memes.csv", tmp_path / "results", **options)
    assert (tmp_path / "results" / "precious.txt").exists()
    with pytest.raises(ValueError, match=r"memes.csv is the input itself"):
        score(memes / "memes.csv", memes / "memes.csv", **options)
    shutil.copy(memes / "memes.csv", memes / "own.rejected.parquet")
    with pytest.raises(ValueError, match=r"own.rejected.parquet is the input itself"):
        score(memes / "own.rejected.parquet", memes / "own.parquet", **options)


def test_other_columns_are_another_job_and_overwrite_scores_again(scored, memes):
    (memes / "two.csv").write_text("image,text,other\npics/001.jpg,monday,again and again\n")
    first = scored(memes / "two.csv")
    differs = r"other columns \(the usual ones, now --text-column other\); .*--overwrite"
    with pytest.raises(ValueError, match=differs):
        scored(memes / "two.csv", columns=Columns(text="other"))
    again = scored(memes / "two.csv", columns=Columns(text="other"), overwrite=True)
    assert first["text_length"].tolist() != again["text_length"].tolist()


def test_scores_of_another_engine_or_input_say_which(scored, memes, tmp_path, monkeypatch):
    (memes / "one.csv").write_text("image,text\npics/001.jpg,monday\n")
    scored(memes / "one.csv")
    with monkeypatch.context() as patched:
        patched.setattr(program, "_engine", lambda settings, model: "int8 on cpu")
        with pytest.raises(ValueError, match=r"another engine \(.+ on cpu, now int8 on cpu\); "):
            scored(memes / "one.csv")
    with pytest.raises(ValueError, match=r"was made from another input; "):
        scored(memes / "memes.csv")
    (tmp_path / "scores.histograms.json").unlink()
    with pytest.raises(ValueError, match=r"is of this input, but a file .* is missing"):
        scored(memes / "one.csv")


def test_a_table_in_another_folder_is_of_other_pictures(scored, tmp_path):
    for folder, grey in (("here", 0), ("there", 255)):
        (tmp_path / folder).mkdir()
        Image.new("L", (60, 40), grey).save(tmp_path / folder / "a.png")
        (tmp_path / folder / "memes.csv").write_text("image,text\na.png,monday\n")
    first = scored(tmp_path / "here" / "memes.csv")
    with pytest.raises(ValueError, match="--overwrite"):
        scored(tmp_path / "there" / "memes.csv")
    again = scored(tmp_path / "there" / "memes.csv", overwrite=True)
    assert first["prob_hate"].tolist() != again["prob_hate"].tolist()


@pytest.mark.parametrize("place", ["memory://{}/memes.csv", "{}/memes.csv"])
def test_where_a_table_lies_tells_it_from_another_of_the_same_bytes(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inputs_module, "_state_of", lambda address: "the same")
    told = []
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        with fsspec.open(place.format(folder), "w") as file:
            file.write("image,text\na.png,monday\n")
        told.append(Input.of([place.format(folder)], USUAL).described())
    assert told[0] != told[1]


def test_a_table_is_the_same_from_wherever_it_is_named(memes, monkeypatch):
    told = Input.of([str(memes / "memes.csv")], USUAL).described()
    monkeypatch.chdir(memes / "pics")
    assert Input.of(["../memes.csv"], USUAL).described() == told


def test_a_picture_that_has_come_is_judged_when_all_is_scored_again(scored, memes):
    (memes / "late.csv").write_text("image,text\nlate.jpg,monday\n")
    assert len(scored(memes / "late.csv")) == 0
    shutil.copy(memes / "pics" / "001.jpg", memes / "late.jpg")
    assert len(scored(memes / "late.csv")) == 0
    assert len(scored(memes / "late.csv", overwrite=True)) == 1


def test_rows_that_were_rejected_before_a_kill_are_judged_again_when_asked(
    scored, memes, full_root, tmp_path, monkeypatch
):
    late = tmp_path / "late"
    shutil.copytree(memes / "pics", late / "pics")
    (late / "pics/001.jpg").rename(tmp_path / "001.jpg")
    shutil.copy(memes / "memes.csv", late / "memes.csv")
    finish = Output.finish
    monkeypatch.setattr(Output, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        scored(late / "memes.csv")
    monkeypatch.setattr(Output, "finish", finish)
    (tmp_path / "001.jpg").rename(late / "pics/001.jpg")
    assert len(scored(late / "memes.csv", overwrite=True)) == N


def test_an_accelerator_is_given_one_worker_unless_told(monkeypatch):
    monkeypatch.setattr(pools.joblib, "cpu_count", lambda: 64)
    assert pools.workers_of(None, 2) == 32
    assert pools.workers_of(None, 1, "cuda") == 1
    with pytest.raises(SystemExit):
        program.main(["pictures", "--gpus", "1"])


def test_pictures_within_a_parquet_file(scored, memes):
    content = (memes / "pics" / "001.jpg").read_bytes()
    rows = [{"image": {"bytes": content, "path": "001.jpg"}, "text": "monday again"}]
    pq.write_table(pa.Table.from_pylist(rows), memes / "within.parquet")
    pq.write_table(pa.table({"image": [content], "text": ["monday again"]}), memes / "raw.parquet")
    within, raw = scored(memes / "within.parquet"), scored(memes / "raw.parquet", "raw")
    assert within["prob_hate"].tolist() == raw["prob_hate"].tolist()
    assert within["image"].tolist() == ["001.jpg"]


def test_histograms_are_those_of_the_scores(scored, memes, tmp_path):
    table = scored(memes / "memes.csv")
    found = Histograms.read(tmp_path / "scores.histograms.json")
    assert found.n == N
    counts = table["decision"].value_counts()
    assert {name: n for name, n in found.words["decision"].items() if n} == counts.to_dict()


def test_a_finished_output_is_left_alone_and_another_inputs_refused(
    scored, memes, tmp_path, monkeypatch, capsys
):
    scored(memes / "memes.csv")
    before = (tmp_path / "scores.parquet").stat().st_mtime_ns
    monkeypatch.setattr(tasks_module, "judged", lambda *_: pytest.fail("scored again"))
    scored(memes / "memes.csv")
    assert (tmp_path / "scores.parquet").stat().st_mtime_ns == before
    assert "finished already" in capsys.readouterr().err
    monkeypatch.undo()
    with pytest.raises(ValueError, match="--overwrite"):
        score(memes / "pics", tmp_path / "scores.parquet", root=scored_root(scored), mode="full")


def scored_root(run):
    return run.__closure__[0].cell_contents.root


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "text,pic\nhi,a.jpg\n", "no column 'image'; it has text, pic"),
        ("a.csv", "text,image\n", "has no rows"),
        ("a.csv", 'text,image\n"open,a.jpg\n' + "x" * (1 << 26), "quote left open"),
        ("a.parquet", "no parquet", "not a sound Parquet file"),
        ("a.csv.gz", "no gzip", "a.csv.gz is not a sound compressed file"),
        ("a.csv.bz2", "no bzip2", "a.csv.bz2 is not a sound compressed file"),
        ("a.csv", "text,image,text\nhi,a.jpg,ho\n", "several columns 'text'"),
        ("a.xlsx", "", "cannot be scored; give a folder"),
        ("empty/a.txt", "", "no pictures and no .tar"),
        ("", "", "does not exist"),
    ],
)
def test_an_input_that_is_none_is_named(scored, tmp_path, name, content, said):
    place = tmp_path / (name or "gone.csv")
    if name:
        place.parent.mkdir(exist_ok=True)
        place.write_text(content)
    asked = place.parent if place.parent.name == "empty" else place
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        scored(asked)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_a_table_that_is_not_in_utf_8_is_refused(tmp_path, suffix, encoding):
    file = tmp_path / f"memes{suffix}"
    file.write_text("text,image\nmonday,a.jpg\n", encoding=encoding)
    with pytest.raises(ValueError, match=rf"memes\{suffix} is not in UTF-8.*save it as UTF-8"):
        Input.of([str(file)], USUAL).described()


@pytest.mark.parametrize(("suffix", "wanted"), [(".csv", "commas"), (".tsv", "tabs")])
def test_a_table_that_semicolons_divide_is_said_to_be_one(tmp_path, suffix, wanted):
    file = tmp_path / f"memes{suffix}"
    file.write_text("id;text;image\n1;monday, again;a.jpg\n")
    said = rf"memes\{suffix} is divided by semicolons; save it with {wanted}"
    for columns in (USUAL, Columns("text", "image")):
        with pytest.raises(ValueError, match=said):
            Input.of([str(file)], columns).described()


def test_a_blank_behind_each_comma_belongs_to_no_cell(tmp_path):
    file = tmp_path / "memes.csv"
    file.write_text('text, image, id\nmonday, a.jpg, 1\n"so, it is", "b.jpg", 2\n')
    assert [row[:2] for row in rows_in(file)] == [("1", "a.jpg"), ("2", "b.jpg")]
    file.write_text("text,image\n , a.jpg\n")
    assert [(row.text, row.image) for row in rows_in(file)] == [(" ", " a.jpg")]


@pytest.mark.parametrize(
    ("ids", "named"),
    [
        (["1", None, "2"], ["1", "row 1", "2"]),
        ([" ", "row 0", "2"], ["row row 0", "row 0", "2"]),
        (["a", None, "b"], ["a", "1", "b"]),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_row_without_an_id_is_given_none_that_another_row_has(tmp_path, suffix, ids, named):
    file, frame = tmp_path / f"a{suffix}", pd.DataFrame({"id": ids, "text": ["aa", "bb", "cc"]})
    if suffix == ".csv":
        frame.to_csv(file, index=False)
    elif suffix == ".jsonl":
        frame.to_json(file, orient="records", lines=True)
    else:
        frame.to_parquet(file)
    columns = Columns(image="none")
    said = rf"a\{suffix}: 1 of 3 rows have no id that can be read; the scores call each '.*N'"
    with pytest.warns(UserWarning, match=said) as warned:
        Input.of([str(file)], columns).described()
    assert len([one for one in warned if one.category is UserWarning]) == 1
    assert [row.id for row in rows_in(file, columns)] == named


def test_a_line_that_is_no_row_has_no_other_row_s_id(tmp_path):
    (tmp_path / "a.csv").write_text("id,text\n0,aa\n5,bb,more\n1,cc\n")
    assert [row.id for row in rows_in(tmp_path / "a.csv", Columns(image="none"))] == [
        "0",
        "row 1",
        "1",
    ]


def test_rows_of_a_table_without_ids_have_their_numbers_and_nothing_is_said(tmp_path, recwarn):
    (tmp_path / "a.csv").write_text("text\naa\nbb\n")
    columns = Columns(image="none")
    assert Input.of([str(tmp_path / "a.csv")], columns).described()[1] == 2
    assert [row.id for row in rows_in(tmp_path / "a.csv", columns)] == ["0", "1"]
    assert not [one for one in recwarn if one.category is UserWarning]


@pytest.mark.parametrize("image", ["data:image/png;base64,", "DATA:image/png;base64,//9j://", ""])
def test_a_picture_that_stands_in_the_table_is_not_written_to_the_rejected(scored, memes, image):
    row = {"text": "monday", "image": f"{image}{'iVBORw0KGgo/' * 2000}"}
    (memes / "within.jsonl").write_text(json.dumps(row) + "\n")
    scored(memes / "within.jsonl")
    told = scored.rejected.iloc[0]
    assert len(told["image"]) < 50 and len(told["reason"]) < 200
    assert re.search("data: URL|24,000 characters", told["reason"])
    assert "expected a file's path" in told["reason"]


def test_bytes_in_a_parquet_file_are_taken_whatever_path_stands_beside_them(tmp_path):
    pictures = [{"bytes": b"P6", "path": f"data:{'x' * 3000}"}]
    pq.write_table(pa.table({"text": ["a"], "image": pictures}), tmp_path / "a.parquet")
    (row,) = rows_in(tmp_path / "a.parquet")
    assert (row.picture, row.fault) == (b"P6", None)


def test_two_columns_of_one_name_are_refused_in_parquet_too(tmp_path):
    table = pa.table([["a"], ["b"], ["x.jpg"]], names=["text", "text", "image"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet has several columns 'text'"):
        Input.of([str(tmp_path / "a.parquet")], USUAL).described()


def test_a_value_of_a_parquet_file_that_is_out_of_range_costs_its_row_alone(tmp_path):
    ids = pa.array([0, 10**16, 1000], pa.timestamp("ms"))
    table = pa.table({"id": ids, "text": ["a", "b", "c"], "image": ["a.jpg"] * 3})
    pq.write_table(table, tmp_path / "a.parquet")
    first, second, third = rows_in(tmp_path / "a.parquet")
    assert (first.id, third.id) == ("1970-01-01 00:00:00", "1970-01-01 00:00:01")
    assert second.id == "1" and "cannot be read" in second.fault


def test_bytes_that_are_no_text_cost_their_row_alone_in_categories_too(tmp_path):
    raw = pa.array([b"monday \xff", b"again"], pa.binary()).view(pa.string())
    table = pa.table({"text": raw.dictionary_encode(), "image": ["a.jpg", "b.jpg"]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert [row.text for row in rows_in(tmp_path / "a.parquet")] == ["monday \udcff", "again"]


def test_columns_that_are_not_read_may_have_one_name(scored, tmp_path):
    (tmp_path / "a.csv").write_text("text,image,,,note,note\nhi,a.jpg,,,x,y\n")
    scored(tmp_path / "a.csv")
    assert scored.rejected["reason"].str.contains("there is no such picture").all()


def test_a_page_of_a_parquet_file_that_is_damaged_is_named(scored, tmp_path):
    file = tmp_path / "a.parquet"
    table = pd.DataFrame({"text": [f"monday {k} again" for k in range(500)], "image": "a.jpg"})
    table.to_parquet(file, compression=None)
    content = bytearray(file.read_bytes())
    content[4:40] = b"\xff" * 36
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.parquet is not a sound Parquet file"):
        scored(file)


def test_rows_that_an_open_quote_swallowed_are_said_to_be(scored, memes, tmp_path):
    rows = 'text,image\nhi,x.jpg\n"open,x.jpg\nfine,x.jpg\nfine,x.jpg\n'
    (tmp_path / "q.csv").write_text(rows)
    scored(tmp_path / "q.csv")
    assert (
        scored.rejected["reason"].tolist()[-1]
        == "line 3: 1 fields, expected 2 (to line 5: a quote left open?)"
    )


def test_a_quote_that_joins_lines_of_a_tsv_is_found_by_its_tabs(tmp_path):
    file = tmp_path / "memes.tsv"
    file.write_text('text\timage\n"open\ta.png\nnext\tb.png\nlast"\tc.png\nsound\td.png\n')
    rows = [row for task in Input.of([str(file)], USUAL).tasks() for row in task.read()]
    assert [row.text for row in rows] == [None, "sound"]
    assert rows[0].fault == "line 2: a cell to line 4 holds tabs (a quote left open?)"


def test_out_that_is_no_parquet_file_is_replaced_when_asked_for(scored, memes, full_root, tmp_path):
    (tmp_path / "scores.parquet").write_text("hello")
    with pytest.raises(ValueError, match=r"was not made from this input .*--overwrite"):
        scored(memes / "memes.csv")
    assert len(scored(memes / "memes.csv", overwrite=True)) == N
    with pytest.raises(ValueError, match=r"scores are written as Parquet; name it s\.parquet"):
        score(memes / "memes.csv", tmp_path / "s.csv", root=full_root.root, mode="full")


def test_the_program_says_errors_in_one_line(full_root, memes, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        program.main(
            [
                str(memes / "memes.csv"),
                "--out",
                str(tmp_path / "s.parquet"),
                "--root",
                str(tmp_path),
            ]
        )
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_picture_at_an_address_that_does_not_answer_says_so(scored, memes):
    pytest.importorskip("aiohttp", reason="what fsspec reads http with is not installed")
    (memes / "away.csv").write_text("image,text\nhttp://127.0.0.1:9/x.png,monday\n")
    scored(memes / "away.csv")
    assert scored.rejected["reason"].item() == "http://127.0.0.1:9/x.png: Connection refused"


def test_an_address_that_cannot_be_read_says_why(full_root, tmp_path, capsys):
    options = ["--out", str(tmp_path / "s.parquet"), "--root", str(full_root.root), "--mode=full"]
    with pytest.raises(SystemExit):
        program.main(["memory://gone/s.tar", *options])
    assert "error: memory://gone/s.tar: not found" in capsys.readouterr().err


def many(memes, n):
    """A table that repeats the memes."""
    rows = pd.read_csv(memes / "memes.csv")
    table = pd.concat([rows] * -(-n // len(rows)), ignore_index=True)[:n]
    table.assign(id=[f"r{row}" for row in range(n)]).to_csv(memes / f"{n}.csv", index=False)
    return memes / f"{n}.csv"


def test_a_killed_run_goes_on_and_scores_each_row_once(scored, memes, full_root, tmp_path):
    n = 5 * BLOCK + 3
    file = many(memes, n)
    options = ["--root", full_root.root, "--mode", "full", "--workers", "2", "--device", "cpu"]
    out = tmp_path / "killed.parquet"
    command = [sys.executable, "-m", "lib.serving.score", file, "--out", out, *options]
    process = subprocess.Popen(
        [str(word) for word in command], cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    parts = tmp_path / "killed.parquet.parts"
    while process.poll() is None and not list(parts.glob("*/*.parquet")):
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = len(list(parts.glob("*/*.parquet")))
    assert 0 < kept < 6, "the kill came too late to show anything"
    judged, seen = tasks_module.judged, []
    tasks_module.judged = lambda rows, model: seen.extend(rows) or judged(rows, model)
    try:
        table = scored(file, "killed")
    finally:
        tasks_module.judged = judged
    assert len(seen) <= n - kept * BLOCK + BLOCK
    assert table["row"].tolist() == list(range(n))
    assert table["id"].tolist() == [f"r{row}" for row in range(n)]
    scored(file, "undisturbed")
    for suffix in ("parquet", "rejected.parquet", "histograms.json"):
        names = (tmp_path / f"{name}.{suffix}" for name in ("killed", "undisturbed"))
        assert len({name.read_bytes() for name in names}) == 1, suffix
    assert not parts.exists()


def peak_of(table, full_root, out):
    """The largest resident memory of a run of the program, in kB."""
    command = [sys.executable, "-m", "lib.serving.score", table, "--out", out, "--workers", "1"]
    command += ["--root", full_root.root, "--mode", "full"]
    run = subprocess.Popen(list(map(str, command)), cwd=ROOT, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(run.pid, 0)
    assert status == 0
    return usage.ru_maxrss


@pytest.mark.slow
def test_many_rows_take_no_more_memory_than_a_few(memes, full_root, tmp_path):
    """20,000 rows; SCORED_ROWS=1000000 makes them a million."""
    most = int(os.environ.get("SCORED_ROWS", "20000"))
    few, all_of_them = (
        peak_of(many(memes, n), full_root, tmp_path / f"{n}.parquet") for n in (1000, most)
    )
    assert len(pd.read_parquet(tmp_path / f"{most}.parquet")) == most
    assert all_of_them <= 1.1 * few


def test_parts_of_another_input_do_not_count(scored, memes, tmp_path, monkeypatch, capsys):
    file = many(memes, 2 * BLOCK)
    judged, left = tasks_module.judged, [1]

    def stops(rows, model):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return judged(rows, model)

    with monkeypatch.context() as patched:
        patched.setattr(tasks_module, "judged", stops)
        with pytest.raises(KeyboardInterrupt):
            scored(file)
    file.write_text(file.read_text().replace("monday", "tuesday"))
    table = scored(file)
    assert "starting anew" in capsys.readouterr().err
    assert len(table) == 2 * BLOCK


def test_two_runs_at_once_are_refused(full_root, memes, tmp_path):
    from lib.serving.scoring.output import Output

    output = Output(tmp_path / "s.parquet", {"fingerprint": "f"})
    with output.claimed(), pytest.raises(ValueError, match="another run"):
        score(memes / "memes.csv", output.file, root=full_root.root, mode="full", workers=1)


def test_asking_again_leaves_the_parts_of_a_run_that_scores_all_again(scored, memes, tmp_path):
    from lib.serving.scoring.output import Output

    scored(memes / "memes.csv")
    out = tmp_path / "scores.parquet"
    again = Output(out, json.loads(pq.read_schema(out).metadata[b"made_from"]))
    assert again.finished() is not None
    with again.claimed():
        again.keep("0", pa.table({"a": [1]}))
        scored(memes / "memes.csv")
        assert again.done() == {"0": 1}
    scored(memes / "memes.csv")
    assert not again.folder.exists()


def test_models_trained_anew_are_loaded_anew(scored, memes, classifier, monkeypatch):
    loaded = []

    @functools.lru_cache(1)
    def load(model):
        loaded.append(model)
        return classifier

    monkeypatch.setattr(tasks_module, "_loaded", load)
    (memes / "few.csv").write_text("image,text\npics/001.jpg,monday\n")
    scored(memes / "few.csv", "first")
    scored(memes / "few.csv", "second")
    assert len(loaded) == 1
    monkeypatch.setattr(program, "fingerprint", lambda *files: "of another decision")
    scored(memes / "few.csv", "third")
    assert len(loaded) == 2


def test_scoring_in_this_process_leaves_it_its_threads(scored, memes, monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    scored(memes / "memes.csv", threads=1)
    found = torch.get_num_threads()
    torch.set_num_threads(before)
    assert found == before + 1


def test_parts_are_joined_by_number_however_many_there_are(tmp_path):
    from lib.serving.scoring import output as output_module

    names = ["9999999", "10000000", "0000000-0000002", "0000000-0000001"]
    ordered = sorted(map(Path, names), key=output_module._numbers)
    assert [path.name for path in ordered] == names[:1:-1] + names[:2]


def test_ray_is_given_a_slice_at_a_time(monkeypatch):
    task = Task("0", USUAL, [Row("a", "a", b"x" * 1000)])
    monkeypatch.setattr(pools, "SLICE", pools.Slice(tasks=3, size=2500))
    assert [len(part) for part in pools._slices([task] * 5)] == [3, 2]
    monkeypatch.setattr(pools, "SLICE", pools.Slice(tasks=9, size=2500))
    assert [len(part) for part in pools._slices(iter([task] * 5))] == [3, 2]
    assert list(pools._slices([])) == []


def test_parts_that_were_used_up_are_not_taken_for_new_ones(tmp_path, monkeypatch):
    from lib.serving.scoring import output as output_module

    output = output_module.Output(tmp_path / "s.parquet", {"fingerprint": "f"})
    output.keep("0", pa.table({"a": [1]}))
    with monkeypatch.context() as killed:
        killed.setattr(output_module.shutil, "rmtree", lambda *_, **__: None)
        output.remove_parts()
    assert output.done() == {} and not output.drop_others()


@pytest.mark.parametrize(
    "image", [{"path": 5}, {"path": ["x"]}, {"bytes": "abc", "path": 5}, {"bytes": 7}, 7, [1]]
)
def test_a_row_whose_picture_is_none_costs_no_other(scored, memes, image):
    rows = [{"text": "monday", "image": "pics/001.jpg"}, {"text": "again", "image": image}]
    (memes / "odd.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(scored(memes / "odd.jsonl")) == 1
    assert "picture" in scored.rejected["reason"].item()


def test_pictures_of_a_folder_that_are_not_taken_are_counted(tmp_path):
    (tmp_path / "below").mkdir()
    for name in ("a.jpe", "b.jfif", "below/c.HEIC", "d.heic", "e.svg", "f.ico", "note.md", "g"):
        (tmp_path / name).touch()
    source = Input.of([str(tmp_path)], USUAL)
    with pytest.warns(UserWarning, match=r"left out are 2 \.heic, 1 \.\w+, 1 \.\w+; "):
        assert source.described()[1] == 2
    assert [row.id for row in rows_in(tmp_path)] == ["a.jpe", "b.jfif"]
    with pytest.raises(ValueError, match=r"no pictures and .*; not taken are 1 \.heic"):
        Input.of([str(tmp_path / "below")], USUAL)


def test_a_folder_that_is_a_link_is_looked_into_once(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.png").touch()
    (tmp_path / "here/below").mkdir(parents=True)
    (tmp_path / "here/b.png").touch()
    (tmp_path / "here/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "here/below/back").symlink_to(tmp_path / "here")
    (tmp_path / "here/below/gone").symlink_to(tmp_path / "nowhere")
    found = [row.id for row in folder_rows(str(tmp_path / "here"))]
    assert found == ["b.png", "link/a.png"]


def test_a_folder_is_listed_in_one_order(memes):
    source = Input.of([str(memes / "pics")], USUAL)
    names = [row.id for task in source.tasks() for row in task.read()]
    top = [name for name in names if "/" not in name]
    assert names == sorted(top) + sorted(set(names) - set(top))
    assert source.described()[1] == N


@pytest.mark.slow
def test_ray_data_gives_the_same_bytes(scored, memes, tmp_path):
    file = many(memes, 2 * BLOCK + 3)
    scored(file, "here")
    scored(file, "ray", workers=2, cluster=Cluster())
    for suffix in ("parquet", "rejected.parquet", "histograms.json"):
        names = (tmp_path / f"{name}.{suffix}" for name in ("here", "ray"))
        assert len({name.read_bytes() for name in names}) == 1, suffix
