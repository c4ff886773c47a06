import json
import shutil
import warnings

import pytest

from lib.artifacts import write_json
from lib.config import MODELS
from lib.data.packing.pack import pack
from lib.data.sources import examples_for
from lib.modeling.encoders import EXPERTS
from lib.modeling.experts import expert_job
from lib.modeling.fusion_inputs import load_encoders
from lib.modeling.prediction_table import (
    contamination,
    read_predictions,
    save_predictions,
    trained_elsewhere,
)
from lib.modeling.predictions import packed_splits, predict_shards
from lib.modeling.trained_on import of_other_shards, warn_of_other_shards


@pytest.fixture
def trained(with_experts):
    """Settings of a root with experts that say what they were trained on."""
    settings = with_experts()
    for name in EXPERTS:
        write_json(settings.model_folder(name) / "training.json", expert_job(name, settings))
    return settings


def test_nothing_is_said_of_experts_of_these_shards(trained):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_encoders(trained)
        warn_of_other_shards(trained.models, packed_splits(trained))


def test_step_5_warns_of_experts_that_learned_from_what_may_be_test_now(trained):
    (trained.root / "Step_3").unlink()
    few = trained.model_copy(update={"n_memes": 64})
    pack(examples_for(few), trained.step3, mode="full", seed=1, workers=0)
    with pytest.warns(UserWarning, match="text_expert was trained on other shards"):
        load_encoders(trained)


def test_step_6_warns_too(full_root, tmp_path):
    models = shutil.copytree(full_root.models, tmp_path / "models")
    job = json.loads((models / "vision_expert/training.json").read_text())
    assert job == expert_job("vision_expert", full_root)
    (models / "vision_expert/training.json").write_text(json.dumps(job | {"data": "others"}))
    with pytest.warns(UserWarning, match="vision_expert was trained on other shards"):
        warn_of_other_shards(models, packed_splits(full_root))
    # Its fingerprint is fusion's business, and refused as before.
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="is not the one that"):
        predict_shards(packed_splits(full_root), models)


def test_experts_of_other_shards_are_advised_to_be_replaced(full_root, tmp_path):
    models = shutil.copytree(full_root.models, tmp_path / "models")
    job = json.loads((models / "text_expert/training.json").read_text())
    (models / "text_expert/training.json").write_text(json.dumps(job | {"data": "others"}))
    with pytest.warns(UserWarning, match=r" -p overwrite true --from 4$"):
        warn_of_other_shards(models, packed_splits(full_root))


def test_predictions_name_the_models_that_learned_from_other_shards(full_root, tmp_path):
    few = full_root.model_copy(update={"root": tmp_path, "n_memes": 64})
    pack(examples_for(few), few.step3, mode="full", seed=1, workers=0)
    with pytest.warns(UserWarning, match="was trained on other shards"):
        frame = predict_shards(packed_splits(few), full_root.models)
    save_predictions(frame, few.artifact(6, "predictions.parquet"))
    read = read_predictions(few, "test")
    assert trained_elsewhere(read) == list(MODELS)
    assert "learned from other shards" in contamination(read)
    read = read_predictions(full_root, "test")
    assert trained_elsewhere(read) == [] and contamination(read) == ""


def test_fusion_is_of_other_shards_where_its_experts_were(full_root, tmp_path):
    models = shutil.copytree(full_root.models, tmp_path / "models")
    assert of_other_shards(models, packed_splits(full_root)) == []
    made_from = json.loads((models / "mm_fusion/made_from.json").read_text())
    made_from["experts"]["text_expert"]["data"] = "others"
    (models / "mm_fusion/made_from.json").write_text(json.dumps(made_from))
    assert of_other_shards(models, packed_splits(full_root)) == ["mm_fusion"]


def test_other_memes_alone_are_no_reason_to_warn(trained):
    test = {"test": packed_splits(trained)["test"]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_other_shards(trained.models, test)
