"""The device that models run on, and whether bfloat16 pays there."""

import torch


def bf16_pays(device: str) -> bool:
    """Whether the device computes bfloat16 in hardware, so that autocast gains time."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def default_device() -> str:
    """The accelerator's name if there is one, else "cpu"."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator.type if accelerator else "cpu"
