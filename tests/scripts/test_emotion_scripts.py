"""The emotion scripts as a user runs them, on a tiny backbone."""

import importlib
import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.metrics import f1_score

from lib.config import ROOT
from lib.emotions import generated, splits
from lib.emotions.classifier import BERTEmotionClassifier
from lib.emotions.commands import script_command
from lib.emotions.data import LABELS
from lib.emotions.splits import load_split

SCRIPTS = ROOT / "scripts"


@pytest.fixture(autouse=True)
def small_generated_set(monkeypatch):
    monkeypatch.setattr(splits, "GENERATED_SIZES", {"train": 600, "dev": 500, "test": 200})
    monkeypatch.syspath_prepend(SCRIPTS)


def run(name, *options):
    """Run a script's main in this process and return its exit code."""
    module = importlib.import_module(name)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", [name, *map(str, options)])
        importlib.import_module("emotion_cli").run(module.main)
    return end.value.code


def train(backbone, folder, *options):
    return run(
        "train_emotion_model",
        *("--backbone", backbone, "--model", folder, "--epochs", 6, "--batch-size", 16),
        *("--learning-rate", 5e-3, "--head-learning-rate", 5e-3, "--layer-decay", 1, *options),
    )


@pytest.fixture(scope="module")
def backbone(save_tiny_bert, tmp_path_factory):
    words = {
        word
        for phrase in itertools.chain(*generated.PHRASES.values(), generated.TOPICS)
        for word in phrase.lower().replace("{t}", "").replace(",", "").split()
        if word.isalpha()
    }
    return save_tiny_bert(tmp_path_factory.mktemp("backbone"), sorted(words))


@pytest.fixture(scope="module")
def trained(backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "classifier"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "GENERATED_SIZES", {"train": 600, "dev": 500, "test": 200})
        patch.syspath_prepend(SCRIPTS)
        assert train(backbone, folder) == 0
    return folder


@pytest.fixture
def classifier(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "classifier"))


@pytest.fixture
def untrained(backbone, tmp_path):
    BERTEmotionClassifier(str(backbone)).save(tmp_path / "untrained")
    return tmp_path / "untrained"


def write_tsv(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.tsv").write_text(text)
    return folder


def test_the_gate_passes_on_the_trained_model(classifier, capsys):
    assert run("calibrate_model", "--model", classifier, "--resamples", 20) == 0
    assert run("test_calibration", "--model", classifier, "--resamples", 200) == 0
    assert "generated sentences, dev, report half" in capsys.readouterr().out


def test_the_gate_fails_on_an_untrained_model(untrained, capsys):
    assert run("test_calibration", "--model", untrained, "--resamples", 200) == 1
    assert "TOO LOW" in capsys.readouterr().out


@pytest.mark.parametrize("told", ["neutral alone", "every label"])
def test_the_gate_fails_on_a_constant_model(backbone, tmp_path, told):
    model = BERTEmotionClassifier(str(backbone))
    model.head.weight.data.zero_()
    model.head.bias.data.fill_(5 if told == "every label" else -5)
    model.head.bias.data[-1] = 5
    model.save(tmp_path / "constant")
    options = ("--model", tmp_path / "constant", "--resamples", 200)
    assert run("test_calibration", *options, "--min-f1", 0) == 1


def test_the_gate_fails_below_its_minimum(classifier):
    assert run("test_calibration", "--model", classifier, "--min-f1", 0.999) == 1


def test_calibration_writes_what_it_fitted_and_stores_it(classifier):
    assert run("calibrate_model", "--model", classifier, "--resamples", 20) == 0
    content = json.loads((classifier / "calibration.json").read_text())
    model = BERTEmotionClassifier.load(classifier)
    assert model.temperature.item() == content["temperature"]["value"]
    assert model.prediction_threshold.tolist() == [
        content["thresholds"][name]["threshold"] for name in model.names
    ]
    assert (classifier / "search.png").stat().st_size > 1000
    assert str(classifier.parent) not in (classifier / "calibration.json").read_text()


def test_the_135_combinations_equal_a_plain_loop(classifier):
    assert run("calibrate_model", "--model", classifier, "--resamples", 5, "--report-only") == 0
    table = pd.read_csv(classifier / "search.csv")
    tune = load_split(None, "tune")
    logits = BERTEmotionClassifier.load(classifier).logits(tune.texts).astype(float)
    expected = [
        f1_score(tune.labels, expit(logits / t) >= cut, average="macro", zero_division=0)
        for t in range(1, 16)
        for cut in np.arange(2, 11) / 10
    ]
    assert len(table) == 135
    np.testing.assert_allclose(table["f1"], expected, atol=1e-6)


def test_calibrating_again_gives_the_same_bytes(classifier):
    written = []
    for _ in range(2):
        assert run("calibrate_model", "--model", classifier, "--resamples", 20) == 0
        written.append([(classifier / f).read_bytes() for f in ("calibration.json", "search.csv")])
    assert written[0] == written[1]


def test_report_only_leaves_the_checkpoint(classifier):
    before = (classifier / "model.safetensors").read_bytes()
    assert run("calibrate_model", "--model", classifier, "--resamples", 5, "--report-only") == 0
    assert (classifier / "model.safetensors").read_bytes() == before


def test_an_updated_checkpoint_predicts_with_the_new_threshold_in_a_new_process(classifier, capsys):
    texts = ["thank you for this recipe", "so awkward, that phone call"]
    prob = BERTEmotionClassifier.load(classifier).predict_proba(texts)
    cut = round(float(np.median(prob)), 6)
    assert run("update_model_threshold", "--model", classifier, "--threshold", cut) == 0
    out = capsys.readouterr().out
    assert "before: temperature 1, threshold 0.6" in out
    assert f"after:  temperature 1, threshold {cut:.6g}" in out
    code = (
        "import sys, json; from lib.emotions import BERTEmotionClassifier as C;"
        "print(json.dumps(C.load(sys.argv[1]).predict(sys.argv[2:])))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, str(classifier), *texts], capture_output=True, check=True
    )
    labels = np.array(LABELS)
    assert json.loads(told.stdout) == [list(labels[row >= cut]) for row in prob]


def test_update_takes_calibrated_cuts_back(classifier):
    assert run("calibrate_model", "--model", classifier, "--resamples", 5) == 0
    calibrated = BERTEmotionClassifier.load(classifier)
    options = ("--model", classifier)
    assert run("update_model_threshold", *options, "--threshold", 0.6, "--temperature", 2) == 0
    changed = BERTEmotionClassifier.load(classifier)
    assert changed.temperature.item() == 2
    assert (changed.prediction_threshold == 0.6).all()
    assert run("update_model_threshold", *options, "--per-label") == 0
    restored = BERTEmotionClassifier.load(classifier)
    assert restored.temperature == calibrated.temperature
    assert (restored.prediction_threshold == calibrated.prediction_threshold).all()


@pytest.mark.parametrize(
    "options",
    [
        ("--threshold", 0),
        ("--threshold", 1.5),
        ("--threshold", "nan"),
        ("--threshold", 0.6, "--temperature", 0),
        ("--per-label", "missing.json"),
        ("--per-label", "calibration.json", "--temperature", 2),
        (),
    ],
)
def test_a_bad_update_ends_with_2_and_touches_nothing(untrained, options, capsys):
    before = (untrained / "model.safetensors").read_bytes()
    assert run("update_model_threshold", "--model", untrained, *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert (untrained / "model.safetensors").read_bytes() == before
    assert not (untrained / "model.safetensors.bak").exists()


@pytest.mark.parametrize("fault", ["weights", "label", "json"])
def test_cuts_of_another_model_are_refused(classifier, untrained, fault, capsys):
    assert run("calibrate_model", "--model", classifier, "--resamples", 5) == 0
    file = classifier / "calibration.json"
    content = json.loads(file.read_text())
    if fault == "label":
        del content["thresholds"]["joy"]
    file.write_text("{" if fault == "json" else json.dumps(content))
    target = untrained if fault == "weights" else classifier
    before = (target / "model.safetensors").read_bytes()
    capsys.readouterr()
    assert run("update_model_threshold", "--model", target, "--per-label", file) == 2
    error = capsys.readouterr().err
    assert "calibration.json" in error
    assert error.count("\n") == 1
    assert (target / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("script", ["calibrate_model", "test_calibration"])
def test_bad_data_end_with_2_and_one_line(classifier, tmp_path, script, capsys):
    cases = {
        "nowhere is no folder": tmp_path / "nowhere",
        "dev.tsv, line 2": write_tsv(tmp_path / "broken", dev="fine by me\t4\ta\nbroken\n"),
        "dev.tsv is empty": write_tsv(tmp_path / "empty", dev=""),
        "dev.tsv does not exist": write_tsv(tmp_path / "none"),
        "id2label differs": write_tsv(tmp_path / "other", dev="fine\t1\ta\nhm\t0\tb\n"),
    }
    (tmp_path / "other" / "labels.txt").write_text("calm\nupset\n")
    for complaint, folder in cases.items():
        assert run(script, "--model", classifier, "--data", folder) == 2
        error = capsys.readouterr().err
        assert complaint in error
        assert error.startswith("error: ")
        assert error.count("\n") == 1


def test_several_processes_are_refused_before_anything_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run("train_emotion_model", "--model", tmp_path / "made") == 2
    assert "without torchrun" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_missing_checkpoint_ends_with_2(tmp_path, capsys):
    for script in ("calibrate_model", "test_calibration"):
        assert run(script, "--model", tmp_path / "nowhere", "--data", "some where") == 2
        train = script_command("train_emotion_model", tmp_path / "nowhere", "some where")
        assert capsys.readouterr().err.endswith(f"make it with: {train}\n")


def test_named_files_and_the_test_split_are_measured(classifier, tmp_path, capsys):
    data = load_split(None, "test")
    lines = [
        f"{text}\t{','.join(map(str, np.flatnonzero(row)))}\tid\n"
        for text, row in zip(data.texts, data.labels, strict=True)
    ]
    folder = write_tsv(tmp_path / "data", test="".join(lines))
    options = ("--model", classifier, "--resamples", 20)
    assert run("test_calibration", *options, "--data", folder, "--split", "test") in (0, 1)
    by_split = capsys.readouterr().out.splitlines()[1:]
    assert run("test_calibration", *options, "--file", folder / "test.tsv") in (0, 1)
    assert capsys.readouterr().out.splitlines()[1:] == by_split
    assert "macro-F1" in by_split[1]


def test_training_on_files_is_not_undone_by_generated_sentences(backbone, tmp_path, capsys):
    made = load_split(None, "test")
    lines = "".join(
        f"{text}\t{np.flatnonzero(row)[0]}\tid\n"
        for text, row in zip(made.texts, made.labels, strict=True)
    )
    data = write_tsv(tmp_path / "data", train=lines, dev=lines)
    folder = tmp_path / "classifier"
    assert train(backbone, folder, "--data", data, "--epochs", 0.1) == 0
    assert run("test_calibration", "--model", folder) == 2
    assert "name their folder with --data" in capsys.readouterr().err
    assert train(backbone, folder, "--epochs", 0.1) == 2
    assert "overwrite" in capsys.readouterr().err
    assert train(backbone, folder, "--epochs", 0.1, "--overwrite") == 0


@pytest.mark.parametrize("torn", [None, "trainer_state.json", "model.safetensors"])
def test_an_interrupted_training_continues_to_the_same_model(backbone, trained, tmp_path, torn):
    trainer = importlib.import_module("train_emotion_model").EmotionTrainer
    compute_loss = trainer.compute_loss
    steps = []

    def dying(self, *args, **kwargs):
        steps.append(1)
        if len(steps) > 150:
            raise KeyboardInterrupt
        return compute_loss(self, *args, **kwargs)

    folder = tmp_path / "classifier"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer, "compute_loss", dying)
        patch.setattr(sys, "argv", ["x"])
        train(backbone, folder)
    assert not folder.exists()
    if torn:
        # Killed while it wrote: the step is lost, and no half-written one is gone on with.
        (file,) = tmp_path.glob(f"*.training/checkpoint-*/{torn}")
        file.write_bytes(file.read_bytes()[:50])
    assert train(backbone, folder) == 0
    expected, got = BERTEmotionClassifier.load(trained), BERTEmotionClassifier.load(folder)
    texts = load_split(None, "report").texts[:20]
    np.testing.assert_allclose(got.logits(texts), expected.logits(texts), atol=1e-4)
    assert not list(tmp_path.glob("*.training"))


@pytest.mark.parametrize("changed", ["labels", "backbone"])
def test_an_interrupted_training_starts_anew_with_other_labels_or_another_backbone(
    backbone, tmp_path, changed
):
    trainer = importlib.import_module("train_emotion_model").EmotionTrainer
    lines = "".join(f"thank you {n}\t{n % 3}\tid\n" for n in range(64))
    data = write_tsv(tmp_path / "data", train=lines, dev=lines)
    (data / "labels.txt").write_text("calm\nupset\nproud\n")
    start = Path(shutil.copytree(backbone, tmp_path / "backbone"))
    compute_loss, steps = trainer.compute_loss, []

    def counting(self, model, *args, **kwargs):
        steps.append(1) if model.training else None
        if len(steps) == 15:
            raise KeyboardInterrupt
        return compute_loss(self, model, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "compute_loss", counting)
        with pytest.raises(KeyboardInterrupt):
            train(start, tmp_path / "classifier", "--data", data)
        assert list(tmp_path.glob("*.training/checkpoint-*"))
        if changed == "labels":
            (data / "labels.txt").write_text("calm\nupset\nproud\nbored\n")
        else:
            config = json.loads((start / "config.json").read_text())
            (start / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-6}))
        assert train(start, tmp_path / "classifier", "--data", data) == 0
    assert len(steps) == 15 + 24, "six epochs of four batches"


def test_a_training_that_diverges_names_step_and_remedy(backbone, tmp_path, capsys):
    folder = tmp_path / "classifier"
    options = ("--learning-rate", 1e30, "--head-learning-rate", 1e30, "--epochs", 0.2)
    assert train(backbone, folder, *options) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"error: the loss is (nan|inf) at step \d+, epoch 0\.\d\d; no model", error)
    assert "Lower --learning-rate or --head-learning-rate and run again" in error
    assert not folder.exists()


def test_a_model_never_stands_without_what_it_was_made_from(backbone, tmp_path, monkeypatch):
    module = importlib.import_module("train_emotion_model")

    def killed(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "write_json", killed)
        patch.setattr(sys, "argv", ["x"])
        train(backbone, tmp_path / "classifier", "--epochs", 0.1)
    assert not (tmp_path / "classifier").exists()


def test_augmentation_wants_a_share_and_makes_another_model(backbone, tmp_path, capsys):
    assert train(backbone, tmp_path / "none", "--augment", 1.5) == 2
    assert "--augment is a share from 0 to 1" in capsys.readouterr().err
    for share in (0, 1):
        assert train(backbone, tmp_path / str(share), "--epochs", 0.2, "--augment", share) == 0
    plain, changed = (BERTEmotionClassifier.load(tmp_path / str(share)) for share in (0, 1))
    assert not np.allclose(plain.logits(["thank you"]), changed.logits(["thank you"]))


def test_each_script_explains_itself(capsys):
    for script in (
        "train_emotion_model",
        "calibrate_model",
        "test_calibration",
        "update_model_threshold",
        "predict_emotions",
    ):
        assert run(script, "--help") == 0
        out = capsys.readouterr().out
        assert "--model" in out
        assert "2 bad input" in out
