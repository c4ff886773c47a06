"""The exported graph, run from its card by a client that has no PyTorch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lib.serving import MemeClassifier
from lib.serving.demo import demo_memes
from lib.serving.engines.export import export

CLIENT = Path(__file__).parent / "client_without_torch.py"


@pytest.fixture(scope="module")
def exported(full_root) -> Path:
    return export(full_root)


def test_a_client_without_pytorch_gives_the_same_answers(full_root, exported, tmp_path):
    demo = demo_memes(full_root, 4)
    memes = [["monday again with coffee", demo.image_path[0]], ["soup", demo.image_path[1]]]
    memes += [["the parrot on the roof sings at night", path] for path in demo.image_path[2:]]
    ran = subprocess.run(
        [sys.executable, "-I", str(CLIENT), str(exported)],
        input=json.dumps(memes, default=str),
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stderr
    classifier = MemeClassifier.load(full_root.root, "full", engine="float32")
    expected = classifier.predict_batch(*zip(*memes, strict=True))
    # SigLIP's processor resizes tensors and the client pictures: up to a grey level apart.
    for ours, theirs in zip(expected, json.loads(ran.stdout), strict=True):
        assert theirs["prob"]["mm_fusion"] == pytest.approx(ours["prob_hate"], abs=1e-3)
        for name, prob in ours["experts"].items():
            assert theirs["prob"][name] == pytest.approx(prob, abs=1e-3)
        assert (theirs["label"], theirs["decision"]) == (ours["label"], ours["decision"])


def test_the_card_names_every_file_and_number_that_a_client_needs(full_root, exported):
    card = json.loads((exported / "card.json").read_text(encoding="utf-8"))
    written = (exported / "README.md").read_text(encoding="utf-8")
    for how in card["preparation"].values():
        assert "file" not in how or (exported / how["file"]).is_file()
    for name in (*card["inputs"], *card["outputs"], str(card["decision"]["threshold"])):
        assert name in written
    assert str(full_root.root) not in written
