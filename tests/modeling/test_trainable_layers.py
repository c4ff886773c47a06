import pytest
import torch
from torch import nn
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from lib.modeling import backbones, trainable_layers
from lib.modeling.encoders import head_name


@pytest.fixture(params=["text_model", "vision_model"])
def model(request, tiny_backbones):
    kind = {
        "text_model": AutoModelForSequenceClassification,
        "vision_model": AutoModelForImageClassification,
    }[request.param]
    return kind.from_pretrained(
        tiny_backbones[request.param], num_labels=2, ignore_mismatched_sizes=True
    )


def learning(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_everything_learns_by_default(model):
    tuned = trainable_layers.prepare(model, head_name(model), "full", 0, 0)
    assert learning(tuned) == {name for name, _ in model.named_parameters()}


def test_top_layers_and_head_learn_and_nothing_else(model):
    head = head_name(model)
    tuned = trainable_layers.prepare(model, head, "top_k", 1, 0)
    last = {id(p) for p in trainable_layers.blocks(model)[-1].parameters()}
    last |= {id(p) for p in model.get_submodule(head).parameters()}
    assert {id(p) for p in tuned.parameters() if p.requires_grad} == last
    assert len(trainable_layers.blocks(model)) == 2


def test_no_top_layer_leaves_the_head(model):
    head = head_name(model)
    tuned = trainable_layers.prepare(model, head, "top_k", 0, 0)
    assert learning(tuned) == {
        f"{head}.{n}" for n, _ in model.get_submodule(head).named_parameters()
    }


def test_too_many_layers_are_refused(model):
    with pytest.raises(ValueError, match=r"top_k=9, but .* has 2 blocks"):
        trainable_layers.prepare(model, head_name(model), "top_k", 9, 0)


def test_merged_adapters_answer_like_the_adapted_model_and_leave_no_trace(model):
    names = set(model.state_dict())
    inputs = (
        {"pixel_values": torch.randn(2, 3, 32, 32)}
        if "pixel_values" in model.main_input_name
        else {"input_ids": torch.tensor([[1, 5, 9, 2]])}
    )
    adapted = trainable_layers.prepare(model, head_name(model), "lora", 0, 2)
    assert all("lora" in name or "modules_to_save" in name for name in learning(adapted))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    adapted.eval()
    with torch.inference_mode():
        before = adapted(**inputs).logits
        merged = trainable_layers.merge(adapted)
        assert torch.allclose(merged(**inputs).logits, before, atol=1e-5)
    assert set(merged.state_dict()) == names


def test_a_backbone_without_linear_layers_is_told_so():
    model = backbones.load(
        AutoModelForImageClassification,
        "efficientnet_lite0",
        num_labels=2,
        ignore_mismatched_sizes=True,
    )
    with pytest.raises(ValueError, match=r"no linear layer.*top layers"):
        trainable_layers.prepare(model, head_name(model), "lora", 0, 8)
