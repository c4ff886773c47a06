"""Rows that may lie on the disk: several arrays, one behind the other, read where indexed."""

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch


class Rows:
    """The N rows of several CPU tensors, such as memory-mapped ones, or some of these rows.

    Indexed by a slice, by row numbers or by booleans (N,) it gives a tensor of its own, by one
    number a row; `take` gives rows without reading any. Where the parts differ in their second
    axis (texts as long as the longest of their shard) the shorter are filled up with zeros.
    Raises IndexError for a row that is not there.
    """

    device = torch.device("cpu")

    def __init__(self, parts: Sequence[torch.Tensor], chosen: np.ndarray | None = None) -> None:
        self._parts = list(parts)
        self._ends = np.cumsum([len(part) for part in parts])
        self._chosen = chosen
        self.dtype = parts[0].dtype
        sizes = [max(part.shape[axis] for part in parts) for axis in range(1, parts[0].ndim)]
        self.shape = torch.Size([int(self._ends[-1]) if chosen is None else len(chosen), *sizes])

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, rows: Any) -> torch.Tensor:
        if isinstance(rows, int | np.integer):
            return self[[range(len(self))[rows]]][0]
        if isinstance(rows, slice) and self._chosen is None:
            start, stop, step = rows.indices(len(self))
            if step == 1:
                return self._between(start, max(start, stop))
        return self._gathered(self._places(rows))

    def followed_by(self, other: "Rows") -> "Rows":
        """These rows and then the other's, still unread."""
        parts = [*self._parts, *other._parts]
        if self._chosen is None and other._chosen is None:
            return Rows(parts)
        behind = other._places(slice(None)) + int(self._ends[-1])
        return Rows(parts, np.concatenate([self._places(slice(None)), behind]))

    def take(self, rows: Any) -> "Rows":
        """These rows, still unread."""
        return Rows(self._parts, self._places(rows))

    def _places(self, rows: Any) -> np.ndarray:
        """The row numbers over all parts that an index means."""
        if isinstance(rows, slice):
            numbers = np.arange(*rows.indices(len(self)))
        else:
            numbers = np.asarray(rows)
            if numbers.dtype == bool:
                numbers = np.flatnonzero(numbers)
            if len(numbers) and not (numbers.min() >= 0 and numbers.max() < len(self)):
                raise IndexError(f"row numbers must be 0 to {len(self) - 1}")
        return numbers if self._chosen is None else self._chosen[numbers]

    def _gathered(self, places: np.ndarray) -> torch.Tensor:
        numbers = np.searchsorted(self._ends, places, side="right")
        within = places - self._starts()[numbers]
        read = np.zeros((len(places), *self.shape[1:]), self._arrays[0].dtype)
        # A batch's rows lie in as many parts as not; NumPy copies a row in a microsecond.
        for to, (number, row) in enumerate(zip(numbers.tolist(), within.tolist(), strict=True)):
            found = self._arrays[number][row]
            if self._even:
                read[to] = found
            else:
                read[to, : len(found)] = found
        return torch.from_numpy(read)

    def _between(self, start: int, stop: int) -> torch.Tensor:
        read = torch.zeros(stop - start, *self.shape[1:], dtype=self.dtype)
        for part, begin in zip(self._parts, self._starts().tolist(), strict=True):
            found = part[max(start - begin, 0) : max(stop - begin, 0)]
            if len(found):
                to = read[max(begin - start, 0) :][: len(found)]
                (to if self._even else to[:, : found.shape[1]]).copy_(found)
        return read

    @cached_property
    def _even(self) -> bool:
        return all(part.shape[1:] == self.shape[1:] for part in self._parts)

    @cached_property
    def _arrays(self) -> list[np.ndarray]:
        return [part.numpy() for part in self._parts]

    def _starts(self) -> np.ndarray:
        return np.concatenate([[0], self._ends[:-1]])


def moments(
    features: torch.Tensor | Rows, mask: torch.Tensor | Rows | None = None, most: int = 2**26
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean (width,), deviation (width,) and least and greatest (2, width) of features (..., width).

    With `mask` (...) of the features under it. At most `most` numbers are read at a time; the parts
    are put together as by Chan, Golub and LeVeque (1983).
    """
    step = max(1, most // math.prod(features.shape[1:]))
    n, mean, squares, ends = 0, torch.zeros(()), torch.zeros(()), []
    for start in range(0, len(features), step):
        part = features[start : start + step]
        of_part = None if mask is None else mask[start : start + step].bool()
        rows = (part.flatten(0, -2) if of_part is None else part[of_part]).float()
        if len(rows) == 0:
            continue
        total = n + len(rows)
        delta = rows.mean(0).double() - mean
        if len(rows) > 1:
            squares = squares + rows.std(0).double().square() * (len(rows) - 1)
        squares = squares + delta.square() * n * len(rows) / total
        mean = mean + delta * len(rows) / total
        ends += [rows.amin(0), rows.amax(0)]
        n = total
    extremes = torch.stack(ends)
    bounds = torch.stack([extremes.amin(0), extremes.amax(0)])
    return mean.float(), (squares / max(n - 1, 1)).sqrt().float(), bounds
