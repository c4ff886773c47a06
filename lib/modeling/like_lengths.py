"""Batches of texts of like length, so that little of a batch is padding."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices


class LikeLengths(Sampler):
    """Rows in batches of like length, the batches in random order.

    The order is that of seed and epoch alone, so that a resumed run sees the batches it missed.
    The library's own sampler walks from long to short texts again and again, and the labels with
    them.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, as the Trainer does at its start."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        rows = get_length_grouped_indices(list(self.lengths), self.batch_size, generator=generator)
        full = len(rows) // self.batch_size
        for batch in torch.randperm(full, generator=generator).tolist():
            yield from rows[batch * self.batch_size :][: self.batch_size]
        yield from rows[full * self.batch_size :]
