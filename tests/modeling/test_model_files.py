import json

import pytest
import torch
from timm.utils.model import freeze_batch_norm_2d
from torch import nn
from transformers import AutoTokenizer

from lib.data.folding import TEXT_FOLDING
from lib.modeling.encoders import EXPERTS, TextEncoder
from lib.modeling.model_files import load_expert, save_processor, weights_fingerprint


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def test_the_same_weights_have_the_same_fingerprint_and_others_have_not():
    assert weights_fingerprint(model()) == weights_fingerprint(model())
    changed = model()
    with torch.no_grad():
        changed[0].bias[0] += 1e-6
    assert weights_fingerprint(changed) != weights_fingerprint(model())


def test_a_frozen_batch_normalisation_changes_nothing():
    assert weights_fingerprint(freeze_batch_norm_2d(model())) == weights_fingerprint(model())


def test_what_is_left_out_does_not_count():
    changed = model()
    nn.init.zeros_(changed[3].weight)
    assert weights_fingerprint(changed) != weights_fingerprint(model())
    assert weights_fingerprint(changed, ("3.",)) == weights_fingerprint(model(), ("3.",))


@pytest.mark.parametrize("weights_in_the_folder", [True, False])
@pytest.mark.parametrize("name", EXPERTS)
def test_an_expert_saved_in_half_precision_is_loaded_in_single(
    name, weights_in_the_folder, with_experts
):
    folder = with_experts().model_folder(name)
    half, _ = load_expert(folder)
    half.half().save_pretrained(folder)
    state = None if weights_in_the_folder else half.state_dict()
    model, _ = load_expert(folder, state)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    torch.optim.AdamW(model.parameters(), lr=1e-4).step()
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_a_tokenizer_is_saved_alike_before_and_after_its_first_use(tiny_backbones, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbones["text_model"])
    save_processor(tokenizer, tmp_path / "unused")
    tokenizer(["one", "two three"], padding=True, truncation=True, max_length=4)
    save_processor(tokenizer, tmp_path / "used")
    for file in (tmp_path / "unused").iterdir():
        assert file.read_bytes() == (tmp_path / "used" / file.name).read_bytes()


def test_an_expert_of_another_text_folding_is_refused_by_its_file(with_experts):
    folder = with_experts().model_folder("text_expert")
    config = json.loads((folder / "config.json").read_text())
    assert config["text_folding"] == TEXT_FOLDING
    # One that was trained before there was a folding is served without.
    del config["text_folding"]
    (folder / "config.json").write_text(json.dumps(config))
    assert TextEncoder(*load_expert(folder)).folding == 0
    (folder / "config.json").write_text(json.dumps(config | {"text_folding": 99}))
    with pytest.raises(ValueError, match=r"text_expert/config\.json: text_folding is 99"):
        load_expert(folder)
