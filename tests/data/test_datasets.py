import io
import json

import numpy as np
import pytest
import webdataset as wds
from PIL import Image

from lib.data.datasets import MemeShards, shard_paths, stream

LABELS = {"labels": {"abuse_hate": 1}}


def png(colour=0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (384, 384), (colour, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wds.TarWriter(str(path)) as tar:
        for key, parts in samples:
            tar.write({"__key__": key} | parts)
    return path


def meme(number, **changed):
    meta = {"id": f"m{number}", "split": "train", "dataset": "x"} | LABELS
    parts = {"png": png(number), "txt": b"[OCR] hi [/OCR]", "json": json.dumps(meta).encode()}
    return f"k{number}", parts | changed


@pytest.fixture
def shards(tmp_path):
    write(tmp_path / "train/shard-000000.tar", [meme(0), meme(1)])
    write(tmp_path / "train/shard-000001.tar", [meme(2)])
    return shard_paths(tmp_path, "train")


def test_random_access_and_stream_agree(shards):
    memes, streamed = MemeShards(shards), list(stream(shards))
    assert memes.ids == [s["id"] for s in streamed] == ["m0", "m1", "m2"]
    for ours, theirs in zip(memes, streamed, strict=True):
        assert np.array_equal(ours["image"], theirs["image"])
        assert (
            (ours["text"], ours["label"])
            == (theirs["text"], theirs["label"])
            == (
                "[OCR] hi [/OCR]",
                1,
            )
        )


def test_any_webdataset_reader_takes_the_shards(shards):
    sample = next(iter(wds.WebDataset(str(shards[0]), shardshuffle=False).decode("pil")))
    assert sample["png"].size == (384, 384)
    assert sample["json"]["labels"]["abuse_hate"] == 1


def test_stream_is_split_by_worker_without_loss(shards):
    loader = wds.WebLoader(stream(shards), batch_size=None, num_workers=2)
    assert sorted(s["id"] for s in loader) == ["m0", "m1", "m2"]


def test_stream_is_split_by_node_without_loss(shards, monkeypatch):
    seen = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        seen.append([s["id"] for s in stream(shards)])
    assert seen == [["m0", "m1"], ["m2"]]


def test_pictures_are_not_read_unless_asked_for(tmp_path):
    shard = write(tmp_path / "s.tar", [meme(0, png=b"no picture")])
    assert "image" not in MemeShards([shard], pictures=False)[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"png": png()[:200]}, r"s\.tar:k0\.png: broken picture"),
        ({"json": b'{"id": "m0"}'}, r"s\.tar:k0\.json: field 'labels' is missing"),
        ({"json": b'{"id": "m0", "labels": {}}'}, "field 'abuse_hate' is missing"),
        ({"json": b'{"id": "m0", "labels": {"abuse_hate": 2}}'}, "abuse_hate is 2, expected 0"),
        ({"json": b"{"}, r"k0\.json: not the packed JSON"),
    ],
)
def test_a_broken_member_is_named(tmp_path, change, said):
    shard = write(tmp_path / "s.tar", [meme(0, **change)])
    with pytest.raises(ValueError, match=said):
        next(iter(stream([shard])))
    with pytest.raises(ValueError, match=said):
        MemeShards([shard])[0]


def test_a_missing_member_is_named(tmp_path):
    key, parts = meme(0)
    del parts["txt"]
    shard = write(tmp_path / "s.tar", [(key, parts)])
    with pytest.raises(ValueError, match=r"s\.tar:k0: no \.txt beside it"):
        MemeShards([shard])
    with pytest.raises(ValueError, match=r"s\.tar:k0: no \.txt beside it"):
        next(iter(stream([shard])))


def test_a_repeated_id_is_refused(tmp_path):
    one, two = (write(tmp_path / f"{n}.tar", [meme(0)]) for n in "ab")
    with pytest.raises(ValueError, match="id 'm0' occurs twice"):
        MemeShards([one, two])


def test_missing_shards_name_folder_and_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"val; pack it with: .*lib\.run.* --from 3"):
        shard_paths(tmp_path, "val")
