"""Every tensor a model is given lies where the model does; seen on an accelerator that pretends.

Its tensors are wrappers that say they lie on the device "lazy", which no machine has, and compute
on the CPU. An operation that mixes them with tensors of the CPU is refused, as a GPU refuses it.
"""

import contextlib

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from lib.data.datasets import MemeShards, shard_paths
from lib.emotions.classifier import BERTEmotionClassifier
from lib.modeling import device
from lib.modeling.device import (
    bf16_pays,
    default_device,
    reads_in_bf16,
    trains_in_bf16,
    usable_device,
)
from lib.modeling.encoders import Encoders
from lib.modeling.expert_inputs import expert_inputs
from lib.modeling.features import encode_shards
from lib.modeling.fusion import load_fusion, save_fusion
from lib.modeling.fusion_inputs import encode_for_fusion, load_encoders
from lib.modeling.fusion_training import compare_models, fusion_config, train_fusion
from lib.modeling.fusion_tuning import tune_fusion
from lib.modeling.predictions import predict_shards

ACCELERATOR = torch.device("lazy")

# These bring tensors from one device to another, or take row numbers from the CPU.
CROSSING = ("aten::_to_copy", "aten::copy_", "aten::index", "aten::index_put_")


class OnAccelerator(torch.Tensor):
    """A tensor that says it lies on the accelerator."""

    @staticmethod
    def __new__(cls, held):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=ACCELERATOR,
        )
        made.held = held
        return made

    def __deepcopy__(self, memo):
        copied = OnAccelerator(self.held.clone())
        wraps = isinstance(self, torch.nn.Parameter)
        return torch.nn.Parameter(copied, self.requires_grad) if wraps else copied

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


class Accelerator(TorchDispatchMode):
    """While it is entered, `.to("lazy")` works."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def run(func, args, kwargs):
    name = func.overloadpacket._qualified_op_name
    tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
    there = [isinstance(tensor, OnAccelerator) for tensor in tensors]
    if any(there) and name not in CROSSING:
        elsewhere = [t for t, on in zip(tensors, there, strict=True) if not on and t.ndim]
        assert not elsewhere, f"{name} mixes the accelerator with {elsewhere[0].device}"
    target = kwargs.get("device")
    if target is not None:
        kwargs = kwargs | {"device": "cpu"}
        stays = torch.device(target).type == ACCELERATOR.type
    else:
        stays = there[0] if name in CROSSING else any(there)
    args, kwargs = tree_map(lambda x: x.held if isinstance(x, OnAccelerator) else x, (args, kwargs))
    found = func(*args, **kwargs)
    if not stays:
        return found
    # What works in place gives back what it was given.
    given = {id(t.held): t for t, on in zip(tensors, there, strict=True) if on}
    return tree_map(lambda x: given.get(id(x), _wrapped(x)), found)


def _wrapped(value):
    return OnAccelerator(value) if isinstance(value, torch.Tensor) else value


@pytest.fixture
def accelerator(monkeypatch):
    """A machine with an accelerator that has bfloat16; the autocasts that were entered."""
    entered = []

    @contextlib.contextmanager
    def autocast(kind, dtype=None, enabled=True, **_):
        entered.append((kind, enabled))
        yield

    monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda check_available: ACCELERATOR
    )
    monkeypatch.setattr(device, "bf16_pays", lambda _: True)
    monkeypatch.setattr(torch, "autocast", autocast)
    # An optimiser would ask the driver whether a graph of the accelerator is being recorded.
    health = "_accelerator_graph_capture_health_check"
    monkeypatch.setattr(torch.optim.Optimizer, health, lambda self: None, raising=False)
    # No wrapper can be made in inference mode.
    monkeypatch.setattr(torch._C, "_InferenceMode", lambda mode: torch.set_grad_enabled(not mode))
    with Accelerator():
        yield entered


def devices(module):
    return {tensor.device.type for tensor in (*module.parameters(), *module.buffers())}


@pytest.mark.parametrize("name", ["avx512_bf16", "amx_bf16", "bf16"])
@pytest.mark.parametrize("able", [True, False])
def test_bfloat16_pays_where_the_processor_multiplies_it(monkeypatch, name, able):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {name: able, "avx2": True})
    assert bf16_pays("cpu") == able


@pytest.mark.parametrize("found", [None, torch.device("cuda")])
def test_the_accelerator_is_taken_if_there_is_one(monkeypatch, found):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: found)
    assert default_device() == ("cpu" if found is None else "cuda")


def test_a_device_that_is_not_there_is_named():
    assert usable_device("cpu") == "cpu"
    assert usable_device(None) == default_device()
    for name in ("foo", "cuda:97", "cpu:x"):
        with pytest.raises(
            ValueError, match=f"device '{name}' cannot be used here: .*leave it out"
        ):
            usable_device(name)


@pytest.mark.parametrize("able", [True, False])
@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_precision_is_as_wished_and_else_bfloat16_where_it_pays(monkeypatch, where, able):
    monkeypatch.setattr(device, "bf16_pays", lambda _: able)
    for wished in (True, False):
        assert trains_in_bf16(wished, where) == reads_in_bf16(wished, where) == wished
    assert trains_in_bf16(None, where) == able
    assert trains_in_bf16(None, where, convolutions=True) == (able and where == "cuda")
    # A cache of features holds the same numbers whatever the processor.
    assert reads_in_bf16(None, where) == (able and where == "cuda")


def test_the_accelerator_that_pretends_refuses_a_tensor_of_the_cpu(accelerator):
    layer = torch.nn.Linear(3, 2).to(default_device())
    assert devices(layer) == {"lazy"}
    with pytest.raises(AssertionError, match="mixes the accelerator with cpu"):
        layer(torch.zeros(1, 3))
    assert layer(torch.zeros(1, 3).to(ACCELERATOR)).cpu().shape == (1, 2)


@pytest.fixture
def settings(with_experts):
    # Without dropout both devices, whose random numbers differ, can be compared.
    return with_experts(fusion_features="held_out", bf16=None, fusion_dropout=0.0, folds=2)


def test_encoders_run_on_the_accelerator_in_bfloat16_and_their_features_come_back(
    settings, accelerator
):
    encoders = Encoders.load(settings.models)
    assert devices(encoders) == {"lazy"}
    shards = shard_paths(settings.shards, "val")
    found = encode_shards(shards, encoders, settings.features, tokens=True)
    assert set(accelerator) == {("lazy", True)}
    assert {type(array[:]) for array in found.arrays.values()} == {torch.Tensor}
    assert all("-bf16-" in folder.name for folder in settings.features.iterdir())
    accelerator.clear()
    on_cpu = encode_shards(shards, Encoders.load(settings.models, device="cpu"), tokens=True)
    assert set(accelerator) == {("cpu", False)}
    for name, array in on_cpu.arrays.items():
        torch.testing.assert_close(found.arrays[name][:], array[:])


def test_a_frozen_backbone_is_read_on_the_accelerator(settings, accelerator):
    chosen = settings.model_copy(update={"vision_tuning": "top_k", "top_k": 0})
    inputs = expert_inputs("vision_expert", chosen, evaluate=True)
    assert devices(inputs.whole) == {"lazy"}
    assert set(accelerator) == {("lazy", True)}
    batch = inputs.collate([inputs.train[0], inputs.train[1]])
    assert type(batch["pooled"]) is torch.Tensor


@pytest.mark.parametrize("head", ["late", "concat", "cross_attention"])
def test_heads_learn_on_the_accelerator_what_they_learn_on_the_cpu(settings, accelerator, head):
    encoders = load_encoders(settings)
    assert devices(encoders) == {"lazy"}
    train, val = encode_for_fusion(settings, encoders)
    config = fusion_config(train, settings, head=head)
    trained = train_fusion(train, config, settings, val)
    assert devices(trained.head) == {"lazy"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
        alone = train_fusion(train, config, settings, val)
    assert devices(alone.head) == {"cpu"}
    for found, expected in (
        (pd.DataFrame(trained.history), pd.DataFrame(alone.history)),
        (compare_models(trained.head, val), compare_models(alone.head, val)),
    ):
        pd.testing.assert_frame_equal(found, expected, rtol=1e-5)


def test_the_whole_way_from_tuning_to_predictions_and_serving(settings, accelerator):
    chosen = settings.model_copy(
        update={"fusion_tuning": "top_k", "fusion_top_k": 1, "fusion_tuning_lr": 1e-3}
    )
    encoders = load_encoders(chosen)
    train, val = encode_for_fusion(chosen, encoders)
    trained = train_fusion(train, fusion_config(train, chosen), chosen, val)
    tuned = tune_fusion(trained, train, None, chosen, encoders)
    save_fusion(tuned.trained, chosen, tuned.encoders)
    assert devices(load_fusion(chosen.models)) == {"lazy"}
    shards = {"val": shard_paths(chosen.shards, "val")}
    frame = predict_shards(shards, chosen.models)
    memes = list(MemeShards(shards["val"]))
    served = load_fusion(chosen.models, "cpu")
    with torch.inference_mode():
        logits = served([m["text"] for m in memes], [m["image"] for m in memes])["mm_fusion"]
    columns = ["mm_fusion_logit_0", "mm_fusion_logit_1"]
    np.testing.assert_allclose(frame[columns].to_numpy(), logits.numpy(), atol=1e-4)


def test_emotions_are_read_on_the_accelerator(save_tiny_bert, tmp_path, accelerator):
    save_tiny_bert(tmp_path / "backbone")
    BERTEmotionClassifier(str(tmp_path / "backbone")).save(tmp_path / "model")
    model = BERTEmotionClassifier.load(tmp_path / "model")
    assert {parameter.device.type for parameter in model.parameters()} == {"lazy"}
    model.set_threshold(0.3)
    alone = BERTEmotionClassifier.load(tmp_path / "model", "cpu")
    texts = ["so glad", "what a sad and angry day"]
    np.testing.assert_allclose(model.predict_proba(texts), alone.predict_proba(texts), rtol=1e-5)
    assert model.predict(texts) == [list(names) for names in model.predict(texts)]
