import io
import json
import multiprocessing
import os
import pickle
import shutil
import tarfile

import pytest
import webdataset as wds
from PIL import Image

from lib.artifacts import fingerprint
from lib.data import shard_index
from lib.data.datasets import MemeShards
from lib.data.shard_index import DATES, INDEX, shards_fingerprint, verify_shards


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path, numbers, text="[OCR] hi [/OCR]"):
    """A shard of memes with these numbers, every third without a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wds.TarWriter(str(path), mtime=0) as tar:
        for k in numbers:
            meta = {"id": f"m{k}", "labels": {"abuse_hate": k % 2}, "group": f"g{k // 2}"}
            parts = {"txt": text.encode(), "json": json.dumps(meta).encode()}
            picture = {"png": png(k)} if k % 3 else {}
            tar.write({"__key__": f"k{k}"} | parts | picture)
    return path


@pytest.fixture
def shards(tmp_path):
    return [write(tmp_path / f"train/shard-{n}.tar", range(4 * n, 4 * n + 4)) for n in range(3)]


def noted(function, names):
    def call(path):
        names.append(path.name)
        return function(path)

    return call


@pytest.fixture
def read(monkeypatch):
    """The names of shards whose headers have been read, and of those whose bytes were hashed."""
    found = {"headers": [], "hashed": []}
    for name, kind in [("_rows_of", "headers"), ("_hashed", "hashed")]:
        monkeypatch.setattr(shard_index, name, noted(getattr(shard_index, name), found[kind]))
    return found


def test_shards_are_read_once_and_opened_from_the_index_afterwards(shards, read):
    first = MemeShards(shards)
    assert read == {"headers": [p.name for p in shards], "hashed": [p.name for p in shards]}
    read["headers"].clear(), read["hashed"].clear()
    again = MemeShards(shards)
    assert read == {"headers": [], "hashed": []}
    assert again.ids == first.ids == [f"m{k}" for k in range(12)]
    assert again.labels == [k % 2 for k in range(12)]
    assert again.groups == [f"g{k // 2}" for k in range(12)]
    assert [meta["id"] for meta in again.metas] == again.ids
    assert again.metas[-1]["id"] == again[-1]["id"] == "m11"
    assert again.with_picture == [k for k in range(12) if k % 3]
    assert again[4]["image"].getpixel((0, 0)) == (4, 0, 0)
    assert again.frame()["id"].tolist() == again.ids


def test_a_part_of_the_shards_in_any_order(shards):
    MemeShards(shards)
    assert MemeShards(shards[::-2]).ids == [f"m{k}" for k in (8, 9, 10, 11, 0, 1, 2, 3)]


def test_a_shard_put_in_by_hand_is_read_and_the_others_are_not(shards, tmp_path, read):
    MemeShards(shards)
    read["headers"].clear()
    added = write(tmp_path / "train/shard-9.tar", [90])
    assert MemeShards([*shards, added]).ids[-1] == "m90"
    assert read["headers"] == ["shard-9.tar"]


def test_a_shard_replaced_by_one_of_the_same_size_is_noticed(shards):
    assert MemeShards(shards).texts[0] == "[OCR] hi [/OCR]"
    before, size = shards_fingerprint(shards), shards[0].stat().st_size
    write(shards[0], range(4), text="[OCR] no [/OCR]")
    assert shards[0].stat().st_size == size
    assert MemeShards(shards).texts[0] == "[OCR] no [/OCR]"
    assert shards_fingerprint(shards) != before


def test_the_fingerprint_is_that_of_the_bytes_and_survives_a_copy(shards, tmp_path, read):
    before = shards_fingerprint(shards)
    assert before == fingerprint(*shards)
    read["hashed"].clear()
    assert shards_fingerprint(shards) == before and read["hashed"] == []
    shutil.copytree(tmp_path / "train", tmp_path / "copy", copy_function=shutil.copyfile)
    copied = [tmp_path / "copy" / path.name for path in shards]
    read["headers"].clear()
    assert shards_fingerprint(copied) == before
    assert read == {"headers": [], "hashed": [path.name for path in shards]}
    assert shards_fingerprint(copied) == before and len(read["hashed"]) == 3


@pytest.mark.parametrize("name", [INDEX, DATES])
@pytest.mark.parametrize("content", [None, b"", b"ARROW1\0\0 torn", b"[]"])
def test_a_broken_or_missing_index_is_made_again(shards, name, content):
    before = MemeShards(shards).ids
    file = shards[0].parent / name
    whole = file.read_bytes()
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    assert MemeShards(shards).ids == before
    assert file.read_bytes() == whole


def test_a_torn_index_is_made_again(shards):
    before = MemeShards(shards).ids
    index = shards[0].parent / INDEX
    index.write_bytes(index.read_bytes()[:-100])
    assert MemeShards(shards).ids == before


def test_a_folder_that_cannot_be_written_is_read_all_the_same(shards, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shard_index, "atomic_path", refuse)
    with pytest.warns(UserWarning, match=r"cannot be kept \(Permission denied\)"):
        assert len(MemeShards(shards)) == 12


def test_the_index_has_the_same_bytes_in_whatever_order_it_grew(shards):
    MemeShards(shards)
    index = (shards[0].parent / INDEX).read_bytes()
    for path in shards:
        os.utime(path)
        (path.parent / INDEX).unlink(missing_ok=True)
    for path in shards:
        MemeShards([path])
    assert (shards[0].parent / INDEX).read_bytes() == index


def test_shards_that_lost_their_index_are_not_passed_over(shards, tmp_path):
    MemeShards([*shards, write(tmp_path / "val/shard-0.tar", range(90, 92))])
    (tmp_path / "train" / INDEX).unlink()
    faults = verify_shards(tmp_path)
    assert len(faults) == len(shards)
    assert all("is not in index.arrow" in fault for fault in faults)


def test_a_shard_cut_between_two_members_is_named(shards):
    with tarfile.open(shards[1]) as tar:
        end_of_first_meme = tar.getmembers()[3].offset
    shards[1].write_bytes(shards[1].read_bytes()[:end_of_first_meme])
    with pytest.raises(ValueError, match=r"shard-1\.tar: broken shard \(.*end mark.*pack again"):
        MemeShards(shards)


@pytest.mark.parametrize("size", [0, 300, 3000])
def test_a_shard_cut_short_is_named(shards, size):
    shards[1].write_bytes(shards[1].read_bytes()[:size])
    with pytest.raises(ValueError, match=r"shard-1\.tar: broken shard \(.*pack again"):
        MemeShards(shards)


def test_a_verification_reads_the_bytes(shards, tmp_path):
    MemeShards(shards)
    assert verify_shards(tmp_path) == []
    date = shards[1].stat().st_mtime_ns
    content = bytearray(shards[1].read_bytes())
    content[700] ^= 1
    shards[1].chmod(0o644)
    shards[1].write_bytes(content)
    os.utime(shards[1], ns=(date, date))
    shards[2].unlink()
    write(tmp_path / "train/shard-9.tar", [90])
    changed, missing, unknown = verify_shards(tmp_path)
    assert "shard-1.tar does not hold the bytes" in changed
    assert "shard-2.tar is missing" in missing
    assert "shard-9.tar is not in index.arrow" in unknown
    with pytest.raises(FileNotFoundError, match=r"no index\.arrow"):
        verify_shards(tmp_path / "nowhere")


def _second(memes):
    return memes[1]["id"], os.getpid()


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_open_the_same_memes(shards, start):
    memes = MemeShards(shards)
    assert len(pickle.dumps(memes)) < 1000
    with multiprocessing.get_context(start).Pool(1) as pool:
        name, process = pool.apply(_second, (memes,))
    assert name == "m1" and process != os.getpid()


def test_an_empty_list_of_shards_is_no_meme():
    assert len(MemeShards([])) == 0 and MemeShards([]).ids == []


def test_no_archive_is_opened_twice(tmp_path, monkeypatch):
    shards = [write(tmp_path / f"shard-{n}.tar", range(500 * n, 500 * n + 500)) for n in range(4)]
    MemeShards(shards)
    monkeypatch.setattr(tarfile, "open", None)
    assert len(MemeShards(shards)) == 2000
