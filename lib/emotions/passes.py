"""Many texts through the network: batches of like length, side by side, in single or half width.

A pass is a function of token ids and attention mask, int64 (B, S), to raw logits, float32 (B, L);
whatever can run the network may stand behind it.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeAlias

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from lib.modeling.device import moved

Pass: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]
Encoded: TypeAlias = dict[str, list[int]]

# Tokens of a batch, padding counted: as many as stay in a core's second-level cache.
BATCH_TOKENS = 1024


def eager_pass(model: nn.Module) -> Pass:
    """The network as it is, on the device where it lies."""
    device = next(model.parameters()).device

    @torch.inference_mode()
    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        return model(**moved(inputs, device)).float().cpu().numpy()

    return run


def bfloat16_pass(model: nn.Module) -> Pass:
    """A copy whose encoder multiplies in bfloat16.

    Between the products, in norms and in what layers hand on, it stays in single precision, which
    halves the error of autocast at the same speed.
    """
    half = copy.deepcopy(model).eval()
    for parent in list(half.encoder.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, _Bfloat16Linear(child))
    return eager_pass(half)


class _Bfloat16Linear(nn.Module):
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        kept = (p if p is None else p.detach().bfloat16() for p in (linear.weight, linear.bias))
        for name, tensor in zip(("weight", "bias"), kept, strict=True):
            self.register_buffer(name, tensor)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(inputs.bfloat16(), self.weight, self.bias)


def all_logits(
    tokenizer: PreTrainedTokenizerBase,
    encoded: Sequence[Encoded],
    batches: Sequence[Sequence[int]],
    passes: Sequence[Pass],
    n_labels: int,
    progress: bool = False,
) -> np.ndarray:
    """Return raw logits (N, L), float32, of encoded texts, a batch of rows at a time.

    Each of `passes` is called by one thread at a time; several share the batches, a core each.
    """
    out = np.zeros((len(encoded), n_labels), dtype=np.float32)
    free: SimpleQueue[Pass] = SimpleQueue()
    for run in passes:
        free.put(run)

    def logits(rows: Sequence[int]) -> np.ndarray:
        batch = tokenizer.pad([encoded[row] for row in rows], return_tensors="np")
        run = free.get()
        try:
            return run(batch["input_ids"], batch["attention_mask"])
        finally:
            free.put(run)

    shown = tqdm(batches, desc="logits", disable=not progress)
    for rows, found in zip(shown, _mapped(logits, batches, len(passes)), strict=True):
        out[rows] = found
    return out


def _mapped(
    work: Callable[[Sequence[int]], np.ndarray], batches: Sequence[Sequence[int]], workers: int
) -> Iterator[np.ndarray]:
    if workers == 1:
        yield from map(work, batches)
        return
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(work, batches)
    finally:
        torch.set_num_threads(threads)


def by_number(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Rows (N,) in batches of `size`, the short ones first."""
    order = _sorted(lengths)
    return [order[start : start + size] for start in range(0, len(order), size)]


def by_tokens(lengths: Sequence[int], most: int = BATCH_TOKENS) -> list[list[int]]:
    """Rows (N,) in batches of at most `most` tokens, or of one text, the long ones first.

    A batch that is at least half full ends where the length changes, so that most batches need
    no padding and no mask. The long ones come first, so that threads end together.
    """
    batches: list[list[int]] = []
    for row in reversed(_sorted(lengths)):
        if batches:
            longest, rows = lengths[batches[-1][0]], len(batches[-1])
            changes = lengths[row] != lengths[batches[-1][-1]]
            full = longest * (rows + 1) > most or (changes and 2 * longest * rows >= most)
        if not batches or full:
            batches.append([])
        batches[-1].append(row)
    return batches


def _sorted(lengths: Sequence[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lengths.__getitem__)
