"""The device and the precision of every model: decided here, from training to serving."""

from typing import Any

import torch


def default_device() -> str:
    """The accelerator's name if there is one, else "cpu"."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator.type if accelerator else "cpu"


def usable_device(name: str | None) -> str:
    """The device of that name, by default `default_device`.

    Raises ValueError where this PyTorch or this machine does not have it.
    """
    if name is None:
        return default_device()
    try:
        torch.empty(0, device=name)
    # What is raised differs with the device: a RuntimeError, AssertionError, NotImplementedError.
    except Exception as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"device {name!r} cannot be used here: {why}; leave it out") from None
    return name


def bf16_pays(device: str) -> bool:
    """Whether the device computes bfloat16 in hardware, so that autocast gains time."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def trains_in_bf16(wished: bool | None, device: str, convolutions: bool = False) -> bool:
    """Whether a model learns under bfloat16 autocast: as wished, with None where it pays.

    On a CPU the backward pass of depthwise `convolutions` is slower in bfloat16 than in float32.
    """
    if wished is not None:
        return wished
    return bf16_pays(device) and not (convolutions and device == "cpu")


def reads_in_bf16(wished: bool | None, device: str) -> bool:
    """Whether frozen encoders run under bfloat16 autocast: as wished, with None where it pays.

    Never on a CPU unless wished: a cache of features would then hold other numbers on a processor
    that has bfloat16 than on one that has not.
    """
    if wished is not None:
        return wished
    return device != "cpu" and bf16_pays(device)


def moved(inputs: Any, device: torch.device) -> Any:
    """A tensor, or a dictionary of them, on the device; from pinned memory without waiting."""
    if isinstance(inputs, dict):
        return {name: moved(tensor, device) for name, tensor in inputs.items()}
    return inputs.to(device, non_blocking=device.type != "cpu")
