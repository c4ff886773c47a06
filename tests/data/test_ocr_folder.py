"""`Step_2/ocr.jsonl` of a folder: what is added, what stays, and what a kill leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from lib.config import ROOT, Settings
from lib.data import ocr_folder
from lib.data.confounders.design import generate
from lib.data.growing_jsonl import growing_jsonl
from lib.data.loose_pictures import DRAFT
from lib.data.ocr_folder import REJECTED, fill_folder, main
from lib.data.packing.pack import pack
from lib.data.readers.manifest import MANIFEST, OCR
from lib.data.sources import examples_for

pytest.importorskip("rapidocr", reason="the extra ocr is not installed")
N = 4


def save_folder(data_dir: Path, n: int = N, **changed) -> list[str]:
    """Generated memes as a user has them: pictures and labels, the words on the pictures alone."""
    texts = []
    for meme in generate(n, seed=5):
        path = data_dir / "Datasets" / "fun" / f"{meme.id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        meme.image().save(path)
        label = {"abuse_hate": meme.labels["abuse_hate"]}
        row = {"id": meme.id, "dataset": "fun", "image": f"fun/{path.name}", "labels": label}
        append(data_dir / MANIFEST, row | changed)
        texts.append(meme.ocr)
    return texts


def append(path: Path, row: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def quick(monkeypatch):
    """The engine replaced by one that says how large a picture is; a blank one has no text."""

    def read(picture: Image.Image) -> str:
        return "" if len(picture.getcolors(picture.width * picture.height)) == 1 else "words"

    monkeypatch.setattr(ocr_folder, "read_text", read)


def test_pictures_and_labels_alone_are_read_and_packed_and_a_kill_costs_nothing(tmp_path):
    texts = save_folder(tmp_path / "data")
    command = [sys.executable, "-m", "lib.data.ocr_folder", "--data", str(tmp_path / "data")]
    path = tmp_path / "data" / OCR
    started = subprocess.Popen(
        [*command, "--workers", "1"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_bytes().count(b"\n") >= 1):
        assert time.monotonic() < deadline and started.poll() is None
        time.sleep(0.02)
    os.kill(started.pid, signal.SIGKILL)
    started.communicate()
    killed = path.read_bytes()
    with path.open("ab") as file:
        file.write(b'{"id": "torn", "te')
    done = subprocess.run([*command, "--workers", "2"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert path.read_bytes().startswith(killed)
    rows = rows_of(path)
    assert [row["text"].lower() for row in rows] == [text.lower() for text in texts]
    left = len(rows) - len(killed.splitlines())
    assert f"{left} pictures read" in done.stdout
    assert "reading pictures: 100%" in done.stderr
    settings = Settings(root=tmp_path / "run", data=tmp_path / "data")
    stats = pack(examples_for(settings), settings.step3)
    assert stats["splits"]["train"]["examples"] == N and stats["skipped"]["count"] == 0


def test_existing_rows_stay_as_they_are_and_only_missing_pictures_are_read(tmp_path, quick):
    save_folder(tmp_path)
    ids = [row["id"] for row in rows_of(tmp_path / MANIFEST)]
    by_hand = f'{{"text":"by hand","id":"{ids[2]}"}}\n\n not json\n{{"id": "stray", "text": "x"}}'
    (tmp_path / OCR).write_bytes(by_hand.encode())
    filled = fill_folder(tmp_path)
    assert filled == (N - 1, 0, [], 1, 0)
    text = (tmp_path / OCR).read_text()
    assert text.startswith(by_hand + "\n")
    added = [json.loads(line) for line in text[len(by_hand) :].splitlines()[1:]]
    assert added == [{"id": name, "text": "words"} for name in ids if name != ids[2]]
    assert fill_folder(tmp_path) == (0, 0, [], N, 0)
    assert (tmp_path / OCR).read_text() == text


def test_a_broken_or_missing_picture_is_named_and_tried_again(tmp_path, quick, capsys):
    save_folder(tmp_path, n=3)
    pictures = sorted((tmp_path / "Datasets" / "fun").iterdir())
    whole = pictures[0].read_bytes()
    pictures[0].write_bytes(whole[:900])
    pictures[1].unlink()
    assert main(["--data", str(tmp_path), "--workers", "1"]) == 0
    said = capsys.readouterr()
    assert "1 pictures read" in said.out and "Traceback" not in said.err
    assert "2 pictures could not be read" in said.err and pictures[0].name in said.err
    rejected = rows_of(tmp_path / REJECTED)
    assert {Path(row["id"]).name for row in rejected} == {path.stem for path in pictures[:2]}
    pictures[0].write_bytes(whole)
    pictures[1].write_bytes(whole)
    assert fill_folder(tmp_path).read == 2
    assert not (tmp_path / REJECTED).exists()


def test_a_text_in_the_manifest_is_kept_unless_asked_otherwise(tmp_path, quick, capsys):
    save_folder(tmp_path, n=2, text="typed off")
    assert main(["--data", str(tmp_path), "--workers", "1"]) == 0
    assert (tmp_path / OCR).read_text() == ""
    assert "2 memes have a text in Step_2/data_manifest.jsonl; --all" in capsys.readouterr().out
    assert main(["--data", str(tmp_path), "--workers", "1", "--all"]) == 0
    assert [row["text"] for row in rows_of(tmp_path / OCR)] == ["words", "words"]


def test_a_plain_folder_of_pictures_gets_the_layout_and_a_draft_to_label(tmp_path, quick, capsys):
    folder = tmp_path / "holiday"
    (folder / "Sea side").mkdir(parents=True)
    Image.effect_noise((20, 20), 60).save(folder / "a.JPG", format="JPEG")
    Image.new("RGB", (20, 20)).save(folder / "Sea side" / "é.png")
    (folder / "notes.txt").write_text("no picture")
    assert main(["--data", str(folder), "--workers", "1"]) == 0
    assert "labels are needed: set abuse_hate" in capsys.readouterr().out
    names = ["holiday/Sea side/é.png", "holiday/a.JPG"]
    assert rows_of(folder / OCR) == [
        {"id": names[0], "text": ""},
        {"id": names[1], "text": "words"},
    ]
    assert [row["image"] for row in rows_of(folder / DRAFT)] == names
    Image.effect_noise((20, 20), 60).save(folder / "b.png")
    assert fill_folder(folder).read == 1
    draft = (folder / DRAFT).read_text()
    (folder / DRAFT).with_name(MANIFEST.name).write_text(draft.replace("null", "1"))
    settings = Settings(root=tmp_path / "run", data=folder)
    assert pack(examples_for(settings), settings.step3)["splits"]["train"]["examples"] == 3


def test_a_name_that_is_no_utf8_costs_its_picture_alone(tmp_path, quick):
    picture = Image.effect_noise((20, 20), 60)
    for name in (b"caf\xe9.png", b"tea.png"):
        picture.save(tmp_path / os.fsdecode(name))
    assert main(["--data", str(tmp_path), "--workers", "1"]) == 0
    own = tmp_path.name
    assert rows_of(tmp_path / OCR) == [{"id": f"{own}/tea.png", "text": "words"}]
    assert [row["id"] for row in rows_of(tmp_path / DRAFT)] == [f"{own}/tea.png"]
    (rejected,) = rows_of(tmp_path / REJECTED)
    assert "caf" in rejected["reason"] and "not UTF-8; rename it" in rejected["reason"]


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "there is no such folder"),
        (lambda folder: folder.mkdir(), "nor pictures (.jpg"),
        (lambda folder: (save_folder(folder, 1), save_folder(folder, 1)), "stands on line 1"),
    ],
)
def test_what_cannot_be_filled_is_one_line(tmp_path, quick, capsys, prepare, message):
    prepare(tmp_path / "data")
    assert main(["--data", str(tmp_path / "data")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and said.count("\n") == 1


def test_two_runs_do_not_fill_one_file(tmp_path, quick):
    save_folder(tmp_path, n=1)
    with (
        growing_jsonl(tmp_path / OCR),
        pytest.raises(ValueError, match="another run is filling it"),
    ):
        fill_folder(tmp_path)
