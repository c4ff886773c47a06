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


def test_each_block_learns_at_a_share_of_the_rate_of_the_one_above(model):
    groups = trainable_layers.layer_groups(model, 1e-3, 0.5)
    assert sorted(name for _, names in groups for name in names) == sorted(learning(model))
    rate_of = {name: rate for rate, names in groups for name in names}
    names = {id(p): name for name, p in model.named_parameters()}
    for block, rate in zip(trainable_layers.blocks(model), (0.25e-3, 0.5e-3), strict=True):
        found = [rate_of[names[id(p)]] for p in block.parameters()]
        assert found == pytest.approx([rate] * len(found))
    last = [rate_of[names[id(p)]] for p in model.get_submodule(head_name(model)).parameters()]
    assert last == [1e-3] * len(last)
    # What comes before the blocks, the embeddings or the stem, learns slowest.
    assert rate_of[next(iter(names.values()))] == pytest.approx(0.125e-3)


def test_layers_that_do_not_learn_have_no_rate(model):
    tuned = trainable_layers.prepare(model, head_name(model), "top_k", 1, 0)
    found = {name for _, names in trainable_layers.layer_groups(tuned, 1.0, 0.5) for name in names}
    assert found == learning(tuned)
