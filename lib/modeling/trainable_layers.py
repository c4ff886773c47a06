"""Which weights of a backbone learn: all of them, its top layers, or low-rank adapters."""

from typing import Literal

from peft import LoraConfig, get_peft_model
from torch import nn

Tuning = Literal["full", "top_k", "lora"]


def prepare(model: nn.Module, head: str | None, tuning: Tuning, top_k: int, rank: int) -> nn.Module:
    """Leave learnable what `tuning` says; the layer named `head`, if one is, always learns.

    "full" is everything, "top_k" the last `top_k` blocks (0: the head alone), "lora" adapters of
    `rank` on every linear layer (Hu et al. 2022, LoRA). Raises ValueError if the backbone has
    fewer blocks, or no linear layer to adapt.
    """
    if tuning == "top_k":
        return _top_layers(model, head, top_k)
    if tuning == "lora":
        return _adapters(model, head, rank)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Fold adapters into the weights, so that the saved model is an ordinary one again."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def layer_groups(model: nn.Module, rate: float, decay: float) -> list[tuple[float, list[str]]]:
    """Learning rates and the names of the parameters that learn at them.

    The rate of a block is `decay` times that of the block above it; what comes after the blocks
    learns at `rate`, what comes before them slowest (Howard and Ruder 2018, discriminative
    fine-tuning). Raises ValueError if there is no stack of blocks.
    """
    stack = blocks(model)
    depth = {id(p): d for d, block in enumerate(stack, start=1) for p in block.parameters()}
    groups: dict[int, list[str]] = {}
    place = 0
    for name, parameter in model.named_parameters():
        if id(parameter) in depth:
            place = len(stack) + 1
        if parameter.requires_grad:
            groups.setdefault(depth.get(id(parameter), place), []).append(name)
    top = len(stack) + 1
    return [(rate * decay ** (top - d), names) for d, names in sorted(groups.items())]


def blocks(model: nn.Module) -> nn.ModuleList | nn.Sequential:
    """The stack of a backbone's repeated blocks: of its module lists the one with most weights.

    Raises ValueError if there is none.
    """
    stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList | nn.Sequential)]
    if not stacks:
        raise ValueError(f"{type(model).__name__} has no stack of blocks; tune it in full")
    # A stack inside a block weighs less than the stack of blocks that holds it.
    return max(stacks, key=_weights)


def _top_layers(model: nn.Module, head: str | None, k: int) -> nn.Module:
    stack = blocks(model)
    if k > len(stack):
        raise ValueError(f"top_k={k}, but {type(model).__name__} has {len(stack)} blocks")
    model.requires_grad_(False)
    for block in list(stack)[len(stack) - k :]:
        block.requires_grad_(True)
    if head is not None:
        model.get_submodule(head).requires_grad_(True)
    return model


def _adapters(model: nn.Module, head: str | None, rank: int) -> nn.Module:
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name != head
    ]
    if not linear:
        raise ValueError(
            f"{type(model).__name__} has no linear layer for LoRA to adapt; tune its top layers"
        )
    saved = None if head is None else [head]
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=linear, modules_to_save=saved)
    return get_peft_model(model, config)


def _weights(stack: nn.Module) -> int:
    return sum(parameter.numel() for parameter in stack.parameters())
