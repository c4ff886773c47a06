"""A last batch that several processes can share evenly, whatever the number of memes."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import Dataset, Sampler

# The row that stands for no meme, and the label that losses leave out (torch's ignore_index).
BLANK = -1
NO_LABEL = -100


class FilledUp(Sampler):
    """A sampler's rows, with `BLANK` at the end up to a multiple of `multiple`.

    Left alone the library would fill up with the first memes again, and these would count twice.
    """

    def __init__(self, sampler: Any, multiple: int) -> None:
        self.sampler, self.multiple = sampler, multiple

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, as the Trainer does at its start."""
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.multiple) * self.multiple

    def __iter__(self) -> Iterator[int]:
        yield from self.sampler
        yield from [BLANK] * (len(self) - len(self.sampler))


class WithBlank(Dataset):
    """A data set whose row `BLANK` is a meme without a label."""

    def __init__(self, memes: Any) -> None:
        self.memes = memes

    def __len__(self) -> int:
        return len(self.memes)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.memes[0] | {"labels": NO_LABEL} if row == BLANK else self.memes[row]
