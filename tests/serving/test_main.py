"""`python -m lib.serving`: the text given, or read off the picture."""

import json
import sys

import pytest

from lib.data.confounders.design import generate
from lib.serving.__main__ import main


@pytest.fixture
def judged(full_root, monkeypatch, capsys):
    """Call it with options; what is printed comes back."""

    def run(*options: str) -> dict:
        place = ["--root", str(full_root.root), "--mode", "full"]
        monkeypatch.setattr(sys, "argv", ["lib.serving", *place, *options])
        main()
        return json.loads(capsys.readouterr().out)

    return run


def test_without_a_text_it_is_read_off_the_picture(judged, tmp_path):
    pytest.importorskip("rapidocr", reason="the extra ocr is not installed")
    meme = generate(1, seed=3)[0]
    meme.image().save(tmp_path / "meme.png")
    read = judged("--image", str(tmp_path / "meme.png"))
    assert (read["text"].lower(), read["text_from"]) == (meme.ocr.lower(), "picture")
    given = judged("--image", str(tmp_path / "meme.png"), "--text", read["text"])
    assert given["text_from"] == "given"
    assert given["prob_hate"] == pytest.approx(read["prob_hate"], abs=1e-6)
    assert judged("--text", "monday")["text"] == "monday"
    empty = judged("--image", str(tmp_path / "meme.png"), "--text", "")
    assert (empty["text"], empty["text_from"]) == ("", "given")
