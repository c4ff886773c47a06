import json
import runpy
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import skimage.data
import sklearn.datasets
from PIL import Image, ImageDraw
from webdataset import WebDataset

from lib.config import ROOT, Settings

PHOTOGRAPHS = {
    "astronaut.png": lambda: Image.fromarray(skimage.data.astronaut()),
    "camera.png": lambda: Image.fromarray(skimage.data.camera()),
    "cat.jpg": lambda: Image.fromarray(skimage.data.chelsea()),
    "coffee.jpg": lambda: Image.fromarray(skimage.data.coffee()),
    "rocket.webp": lambda: Image.fromarray(skimage.data.rocket()),
    "coins.gif": lambda: Image.fromarray(skimage.data.coins()),
    "temple.jpg": lambda: Image.fromarray(sklearn.datasets.load_sample_image("china.jpg")),
    "flower.png": lambda: Image.fromarray(sklearn.datasets.load_sample_image("flower.jpg")),
    "hopper.jpg": lambda: Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg")),
    "logo.png": lambda: Image.open(Path(skimage.__file__).parent / "data/logo.png"),
}


SCRIPT = ROOT / "Step_3/pack_examples.py"


@pytest.fixture
def main(capsys):
    def run(*arguments):
        code = runpy.run_path(str(SCRIPT))["main"]([str(argument) for argument in arguments])
        return code, capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def own_data(tmp_path_factory):
    """Photographs with text laid over them and a manifest; one picture missing, one broken."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "Datasets/photos").mkdir(parents=True)
    (folder / "Step_2").mkdir()
    rows, ocr = [], []
    for i in range(40):
        name = list(PHOTOGRAPHS)[i % len(PHOTOGRAPHS)]
        meme = PHOTOGRAPHS[name]().convert("CMYK" if i == 7 and name.endswith("jpg") else "RGB")
        text = f"nobody: me on monday {i}"
        ink = 255 if meme.mode == "RGB" else 0
        ImageDraw.Draw(meme).text((10, 10), text, fill=(ink,) * len(meme.mode), font_size=20)
        meme.save(folder / f"Datasets/photos/{i}_{name}")
        row = {"id": f"photo-{i}", "dataset": "photos", "image": f"photos/{i}_{name}"}
        rows.append(row | {"labels": {"abuse_hate": int(i % 3 == 0)}})
        ocr.append({"id": row["id"], "text": text})
    (folder / f"Datasets/{rows[3]['image']}").unlink()
    broken = folder / f"Datasets/{rows[5]['image']}"
    broken.write_bytes(broken.read_bytes()[:2000])
    for name, lines in [("data_manifest", rows), ("ocr", ocr)]:
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"Step_2/{name}.jsonl").write_text(text)
    return folder


def test_packs_photographs_and_lists_the_missing_and_the_broken(main, own_data, tmp_path):
    code, done = main("--data", own_data, "--root", tmp_path)
    assert code == 0, done.err
    assert "train: 38 examples in 1 shards" in done.out
    assert "photo-3: picture: photos/3_coffee.jpg: there is no such picture file" in done.out
    assert "photo-5: picture: photos/5_coins.gif: broken" in done.out
    stats = json.loads((tmp_path / "Step_3/stats_pilot.json").read_text())
    assert [row["id"] for row in stats["skipped"]["rows"]] == ["photo-3", "photo-5"]
    assert stats["splits"]["train"]["labels"]["abuse_hate"] == {"0": 25, "1": 13}

    shard = tmp_path / "Step_3/shards/train/shard-000000.tar"
    packed = {
        meta["id"]: (np.asarray(picture, int), text, meta)
        for picture, text, meta in WebDataset(str(shard), shardshuffle=False)
        .decode("pil")
        .to_tuple("png", "txt", "json")
    }
    pixels, text, meta = packed["photo-0"]
    assert text == "[OCR] nobody: me on monday 0 [/OCR] [CAP] [/CAP] <lang=en>"
    assert (meta["width"], meta["height"], pixels.shape) == (512, 512, (384, 384, 3))
    original = Image.open(own_data / "Datasets/photos/0_astronaut.png").resize((384, 384))
    assert np.abs(pixels - np.asarray(original, int)).mean() < 3
    assert packed["photo-6"][2]["width"] == 640


def test_full_mode_keeps_the_photographs_of_one_scene_together(main, own_data, tmp_path):
    code, done = main("--data", own_data, "--root", tmp_path, "--mode", "full", "--workers", 1)
    assert code == 0, done.err
    splits = json.loads((tmp_path / "Step_3/full/splits.json").read_text())
    of_scene = [{splits[f"photo-{i}"] for i in range(k, 40, 10)} for k in (0, 1, 2, 4, 6, 7, 8, 9)]
    assert all(len(found) == 1 for found in of_scene)
    assert set(splits.values()) == {"train", "val", "test"}


def test_generates_memes_without_data_from_any_folder(tmp_path):
    command = [sys.executable, SCRIPT, "--n", "12", "--root", tmp_path / "root"]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    stats = json.loads((tmp_path / "root/Step_3/stats_pilot.json").read_text())
    assert (stats["datasets"], stats["examples"]) == (["confounders"], 12)


@pytest.mark.parametrize(
    "named",
    [
        ["hateful_memes"],
        ["hateful_memes", "hateful_memes"],
        ["hateful_memes,hateful_memes"],
        ["hateful_memes, hateful_memes"],
    ],
)
def test_a_public_data_set_is_packed_whole_in_its_own_splits(main, tmp_path, named):
    names = [("train", 60), ("dev_seen", 4), ("test_seen", 6)]
    rng = np.random.default_rng(0)
    for split, n in names:
        rows = [
            {"id": f"{split}{i}", "img": f"{split}{i}.png", "text": f"{split} {i}"}
            for i in range(n)
        ]
        for i, row in enumerate(rows):
            noise = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / row["img"])
            row["label"] = i % 2
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = ("--dataset", *named, "--data", tmp_path, "--workers", 1)
    code, done = main(*arguments, "--root", tmp_path / "root")
    assert code == 0, done.err
    stats = json.loads((tmp_path / "root/Step_3/full/stats_full.json").read_text())
    counts = {split: part["examples"] for split, part in stats["splits"].items()}
    assert counts == {"train": 60, "val": 4, "test": 6}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "/nowhere"], ["data_manifest.jsonl", "does not exist"]),
        (["--dataset", "nonsense"], ["nonsense", "confounders"]),
        (["--n", "-3"], ["n_memes"]),
    ],
)
def test_a_wrong_argument_is_one_line(main, tmp_path, arguments, words):
    code, done = main(*arguments, "--root", tmp_path)
    line = done.err.strip().splitlines()[-1]
    assert code == 1 and "Traceback" not in done.err
    assert all(word in line for word in words), line
    assert not (tmp_path / "Step_3").exists()


def test_a_full_run_is_replaced_only_when_asked(main, own_data, tmp_path):
    full = ("--data", own_data, "--mode", "full", "--workers", 1, "--root", tmp_path)
    assert main(*full)[0] == 0
    other = ("--n", 60, "--dataset", "confounders", *full[2:])
    code, refused = main(*other)
    assert code == 1 and "overwrite" in refused.err
    assert main(*other, "--overwrite")[0] == 0


def test_pilot_and_full_are_packed_side_by_side(main, own_data, tmp_path):
    full = ("--data", own_data, "--mode", "full", "--workers", 1, "--root", tmp_path)
    assert main(*full)[0] == 0
    assert main("--n", 10, "--dataset", "confounders", "--root", tmp_path)[0] == 0
    kept = Settings(mode="full", root=tmp_path), Settings(root=tmp_path)
    sizes = [json.loads(s.artifact(3, "stats.json").read_text())["examples"] for s in kept]
    assert sizes == [38, 10]
    assert [Path(s.saved()["data"] or "").name for s in kept] == [own_data.name, ""]
    assert kept[0].taxonomy == kept[1].taxonomy and kept[0].taxonomy.exists()


def test_a_verification_names_the_shard_that_has_changed(main, tmp_path):
    assert main("--verify", "--root", tmp_path)[0] == 1
    assert main("--n", 12, "--root", tmp_path, "--shard-size", 5)[0] == 0
    code, done = main("--verify", "--root", tmp_path)
    assert (code, done.out) == (0, "the shards of pilot hold what was written\n")
    shard = tmp_path / "Step_3/shards/train/shard-000002.tar"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    code, done = main("--verify", "--root", tmp_path)
    assert code == 1
    assert "train/shard-000002.tar does not hold the bytes it was indexed with" in done.err


def test_packing_leaves_the_settings_of_other_steps_as_they_were(main, tmp_path):
    Settings(root=tmp_path, text_epochs=3, n_memes=20).save()
    assert main("--n", 12, "--root", tmp_path)[0] == 0
    saved = Settings(root=tmp_path).saved()
    assert (saved["text_epochs"], saved["n_memes"]) == (3, 12)


def test_what_is_not_given_is_that_of_the_last_run(main, own_data, tmp_path):
    Settings(root=tmp_path, data=own_data, seed=3, shard_size=20, text_epochs=2).save()
    before = Settings(root=tmp_path).saved()
    assert main("--root", tmp_path)[0] == 0
    stats = json.loads((tmp_path / "Step_3/stats_pilot.json").read_text())
    assert (stats["datasets"], stats["seed"]) == (["photos"], 3)
    assert stats["splits"]["train"]["shards"] == 2
    assert Settings(root=tmp_path).saved() == before
    assert main("--n", 12, "--dataset", "confounders", "--root", tmp_path)[0] == 0
    assert Settings(root=tmp_path).saved() == before | {
        "data": None,
        "dataset": "confounders",
        "n_memes": 12,
    }
    assert main("--data", own_data, "--seed", 0, "--root", tmp_path)[0] == 0
    stats = json.loads((tmp_path / "Step_3/stats_pilot.json").read_text())
    assert (stats["datasets"], stats["seed"]) == (["photos"], 0)


def test_a_misspelt_field_of_slices_is_told_behind_the_packing(main, tmp_path):
    Settings(root=tmp_path, slice_by=["phrasng"]).save()
    code, done = main("--n", 12, "--root", tmp_path)
    assert code == 1 and "slice_by: no meme has a field 'phrasng'; known: " in done.err
    assert Settings(root=tmp_path).saved()["n_memes"] == 12
    Settings(root=tmp_path, slice_by=["phrasing"]).save()
    assert main("--n", 12, "--root", tmp_path)[0] == 0


def test_a_pilot_of_one_label_is_refused(main, tmp_path):
    (tmp_path / "Datasets").mkdir()
    (tmp_path / "Step_2").mkdir()
    row = {"dataset": "own", "labels": {"abuse_hate": 0}}
    rows = [json.dumps({"id": str(i), "text": f"words {i}"} | row) for i in range(5)]
    (tmp_path / "Step_2/data_manifest.jsonl").write_text("\n".join(rows))
    code, done = main("--data", tmp_path, "--root", tmp_path / "root")
    assert code == 1 and "none of the 5 memes of train has abuse_hate 1" in done.err


def test_what_is_advised_is_of_the_mode_and_root_that_were_given(main, tmp_path):
    code, done = main("--verify", "--mode", "full", "--root", tmp_path)
    assert code == 1
    assert f"--mode full --root {tmp_path} --from 3" in done.err
