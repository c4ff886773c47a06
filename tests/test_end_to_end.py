"""The whole path of a full run: what it leaves behind, what it reads, and that it repeats."""

import json
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import torch

from lib.config import MODELS, Settings
from lib.data.datasets import MemeShards
from lib.modeling.encoders import EXPERTS
from lib.modeling.experts import train_expert
from lib.modeling.fusion import save_fusion
from lib.modeling.fusion_inputs import encode_for_fusion, load_encoders
from lib.modeling.fusion_training import choose_head, compare_heads, train_fusion
from lib.modeling.predictions import packed_splits
from lib.run import main, run_steps
from lib.serving import MemeClassifier

PLAIN_SCRIPT = """
import sys
from transformers import AutoImageProcessor, AutoTokenizer
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification
text = AutoModelForSequenceClassification.from_pretrained(sys.argv[1] + "/text_expert")
vision = AutoModelForImageClassification.from_pretrained(sys.argv[1] + "/vision_expert")
inputs = AutoTokenizer.from_pretrained(sys.argv[1] + "/text_expert")("hi", return_tensors="pt")
AutoImageProcessor.from_pretrained(sys.argv[1] + "/vision_expert")
print(tuple(text(**inputs).logits.shape), vision.config.id2label)
"""


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_artifact_is_there(full_root):
    expected = {
        3: ["label_taxonomy.json", "full"],
        6: ["predictions_full.parquet", "results_full.json"],
        7: [
            *("calibration_full.json", "thresholds_full.json", "decision_full.json"),
            *(f"thresholds_curve_{model}_full.csv" for model in MODELS),
            *("errors_full.csv", "robustness_full.csv", "report_full.json"),
        ],
        8: ["predictions_full.csv"],
    }
    for step, names in expected.items():
        found = {path.name for path in (full_root.root / f"Step_{step}").iterdir()}
        assert set(names) <= found, f"Step {step}"
    packed = {path.name for path in full_root.step3.iterdir()}
    assert packed >= {"shards", "splits.json", "stats_full.json"}
    assert {path.name for path in full_root.model_folder("mm_fusion").iterdir()} >= {
        "fusion_model.pt",
        "config.json",
    }


def test_artifacts_speak_of_the_same_memes(full_root):
    splits = read(full_root.step3 / "splits.json")
    frame = pd.read_parquet(full_root.artifact(6, "predictions.parquet"))
    assert dict(zip(frame["id"], frame["split"], strict=True)) == splits
    test = [meme for meme, split in splits.items() if split == "test"]
    errors = pd.read_csv(full_root.artifact(7, "errors.csv"))
    assert sorted(errors["id"]) == sorted(test)
    assert set(errors["error_type"]) <= {"TP", "TN", "FP", "FN"}
    scores = pd.read_csv(full_root.artifact(8, "predictions.csv"))
    merged = errors.merge(scores, on="id")
    assert merged["mm_fusion_prob"].tolist() == pytest.approx(
        merged["prob_hate"].tolist(), abs=5e-3
    )


def test_json_artifacts_have_the_documented_shape(full_root):
    thresholds = read(full_root.artifact(7, "thresholds.json"))
    assert {model: list(cut) for model, cut in thresholds.items()} == {
        model: ["abuse_hate"] for model in MODELS
    }
    calibration = read(full_root.artifact(7, "calibration.json"))
    assert set(calibration) == set(MODELS)
    assert all(temperature > 0 for temperature in calibration.values())
    results = read(full_root.artifact(6, "results.json"))
    for model in MODELS:
        assert {"train", "val", "test"} <= set(results[model])
        metrics = {"accuracy", "macro_f1", "precision", "recall", "f1", "auroc"}
        assert metrics | {"brier", "ece", "nll", "n", "intervals"} <= set(results[model]["test"])
    assert {"train", "val", "test"} <= set(results["baselines"])


def test_the_fusion_weights_load_without_trusting_a_pickle(full_root):
    folder = full_root.model_folder("mm_fusion")
    state = torch.load(folder / "fusion_model.pt", weights_only=True)
    assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())
    assert read(folder / "config.json")["experts"].keys() == set(EXPERTS)


def test_no_artifact_holds_an_absolute_path(full_root):
    files = [f for step in (3, 6, 7, 8) for f in (full_root.root / f"Step_{step}").rglob("*.*")]
    texts = [f for f in files if f.suffix in (".json", ".csv")]
    assert texts
    for file in texts:
        assert str(full_root.root) not in file.read_text(encoding="utf-8"), file.name


def test_experts_load_in_a_script_that_knows_nothing_of_us(full_root, tmp_path):
    ended = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN_SCRIPT, str(full_root.models)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == "(1, 2) {0: 'non-hate', 1: 'hate'}"


def artifacts(settings) -> dict[str, bytes]:
    """What Steps 3 to 8 of one mode have left, without what serves as a cache or a log."""
    folders = [settings.shards, *(settings.model_folder(model) for model in MODELS)]
    files = [f for folder in folders for f in folder.rglob("*") if f.is_file()]
    files += settings.root.glob(f"Step_*/*_{settings.mode}.*")
    return {str(f.relative_to(settings.root)): f.read_bytes() for f in sorted(files)}


@pytest.fixture(scope="module")
def switched(full_root, tiny_backbones, tmp_path_factory):
    """A copy of the full run in which a pilot ran and then Steps 5 to 8 of the full run again.

    With it come the artifacts of each mode at those times, by their names.
    """
    root = tmp_path_factory.mktemp("switched") / "both"
    shutil.copytree(full_root.root, root)
    full = full_root.model_copy(update={"root": root})
    seen = {"full": artifacts(full)}
    given = {"root": str(root), "n_memes": 9, "fusion_epochs": 2, "workers": 0}
    given |= {"robustness_memes": 4}
    run_steps(given | {name: str(folder) for name, folder in tiny_backbones.items()})
    pilot = Settings(root=root, **Settings(root=root).saved())
    seen |= {"full after the pilot": artifacts(full), "pilot": artifacts(pilot)}
    assert main(["--mode", "full", "--root", str(root), "--from", "5"]) == 0
    seen |= {"full again": artifacts(full), "pilot after full": artifacts(pilot)}
    return root, pilot, seen


def test_steps_6_and_7_write_the_same_bytes_again(full_root, switched):
    files = sorted(
        f
        for step in (6, 7)
        for f in (full_root.root / f"Step_{step}").iterdir()
        if f.suffix in (".json", ".csv")
    )
    again = {f: switched[0] / f.relative_to(full_root.root) for f in files}
    assert {f.name: f.read_bytes() for f in files} == {
        f.name: copy.read_bytes() for f, copy in again.items()
    }
    # Written anew, and not left from the copy, but for what is kept while its job is the same.
    written = {f: copy for f, copy in again.items() if not f.name.startswith("robustness")}
    assert len(written) > 10
    assert all(copy.stat().st_mtime > f.stat().st_mtime for f, copy in written.items())


def test_one_word_switches_between_pilot_and_full(switched, tiny_backbones):
    root, pilot, seen = switched
    assert (pilot.n_memes, pilot.text_model) == (9, str(tiny_backbones["text_model"]))
    assert seen["full after the pilot"] == seen["full"], "the pilot touched what the full run made"
    assert seen["full again"] == seen["full"], "nothing but the mode was given, and nothing else"
    assert seen["pilot after full"] == seen["pilot"]
    loaded = {mode: MemeClassifier.load(root, mode).decision for mode in ("pilot", "full")}
    assert (loaded["pilot"].n, loaded["pilot"].fit_split) == (9, "train")
    assert loaded["full"].fit_split == "val"
    assert loaded["pilot"].fingerprints["text_expert"] != loaded["full"].fingerprints["text_expert"]


def test_training_and_selection_never_read_the_test_shards(fresh, packed):
    chosen = []
    for name in ("whole", "broken"):
        settings = fresh(
            name,
            text_epochs=1,
            vision_epochs=1,
            folds=2,
            fusion_epochs=2,
            fusion_seeds=1,
            text_lr=1e-3,
        )
        if name == "broken":
            (settings.root / "Step_3").unlink()
            shutil.copytree(packed, settings.root / "Step_3")
            for split, shards in packed_splits(settings).items():
                if split not in ("train", "val"):
                    for shard in shards:
                        shard.write_bytes(b"unreadable")
        for expert in EXPERTS:
            train_expert(expert, settings)
        encoders = load_encoders(settings)
        train, val = encode_for_fusion(settings, encoders)
        comparison = compare_heads(train, settings, val)
        run = train_fusion(train, choose_head(comparison, train, settings), settings, val)
        save_fusion(run, settings, encoders)
        files = [settings.model_folder(expert) / "model.safetensors" for expert in EXPERTS]
        states = torch.load(
            settings.model_folder("mm_fusion") / "fusion_model.pt", weights_only=True
        )
        chosen.append((comparison, [file.read_bytes() for file in files], states))
    with pytest.raises(Exception, match=r"file could not be opened|header|unreadable|tar"):
        MemeShards(packed_splits(settings)["test"])
    pd.testing.assert_frame_equal(chosen[0][0], chosen[1][0])
    assert chosen[0][1] == chosen[1][1]
    for name, tensor in chosen[0][2].items():
        assert torch.equal(tensor, chosen[1][2][name])
