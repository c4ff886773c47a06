import json
import shutil
import subprocess

import pytest
from PIL import Image

from lib.serving import MemeClassifier
from lib.serving.service import trial
from lib.serving.service.trial import TrialService


@pytest.fixture(scope="module")
def classifier(full_root):
    return MemeClassifier.load(full_root.root, "full", device="cpu")


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a meme.png")
    return tmp_path / "a meme.png"


def test_python_and_curl_get_the_classifier_s_answer(classifier, picture):
    text = "@home it's 5 \"o'clock\"; <wait"
    expected = classifier.predict(text, picture)
    service = TrialService(classifier)
    answer = service.ask(text, picture)
    assert answer["prob_hate"] == pytest.approx(expected["prob_hate"], abs=1e-5)
    assert answer["text"] == expected["text"]
    if shutil.which("curl"):
        command = service.curl(text, picture)
        done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60, check=True)
        assert json.loads(done.stdout)["text"] == expected["text"]
        assert json.loads(done.stdout)["decision"] == expected["decision"]
    address = service.address
    service.close()
    assert address and not service.address


def test_what_is_tried_is_not_counted_as_traffic(classifier, picture, tmp_path, monkeypatch):
    monkeypatch.setenv("MEMES_ROOT", str(tmp_path / "root"))
    service = TrialService(classifier)
    service.ask("a text", picture)
    service.close()
    assert not list(tmp_path.rglob("histograms*"))


def test_without_the_extra_it_says_how_to_get_it(classifier, picture, monkeypatch):
    monkeypatch.setattr(trial.importlib.util, "find_spec", lambda name: None)
    service = TrialService(classifier)
    assert "pip install" in service.ask("a text", picture)["error"]
    assert "pip install" in service.curl("a text", picture)
    service.close()
