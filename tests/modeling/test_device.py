import pytest
import torch

from lib.modeling.device import bf16_pays, default_device


@pytest.mark.parametrize("name", ["avx512_bf16", "amx_bf16", "bf16"])
@pytest.mark.parametrize("able", [True, False])
def test_bfloat16_pays_where_the_processor_multiplies_it(monkeypatch, name, able):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {name: able, "avx2": True})
    assert bf16_pays("cpu") == able


@pytest.mark.parametrize("found", [None, torch.device("cuda")])
def test_the_accelerator_is_taken_if_there_is_one(monkeypatch, found):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: found)
    assert default_device() == ("cpu" if found is None else "cuda")
