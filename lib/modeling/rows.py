"""Rows that may lie on the disk: several arrays, one behind the other, read where indexed."""

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
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

    def __init__(self, parts: Sequence[torch.Tensor], chosen: torch.Tensor | None = None) -> None:
        self._parts = list(parts)
        self._ends = list(accumulate(len(part) for part in parts))
        self._bounds = torch.tensor(self._ends)
        self._chosen = chosen
        self.dtype = parts[0].dtype
        sizes = [max(part.shape[axis] for part in parts) for axis in range(1, parts[0].ndim)]
        self.shape = torch.Size([self._ends[-1] if chosen is None else len(chosen), *sizes])

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, rows: Any) -> torch.Tensor:
        if isinstance(rows, int | np.integer):
            return self._row(range(len(self))[rows])
        return self._read(self._places(rows))

    def take(self, rows: Any) -> "Rows":
        """These rows, still unread."""
        return Rows(self._parts, self._places(rows))

    def _places(self, rows: Any) -> torch.Tensor:
        """The row numbers over all parts that an index means."""
        if isinstance(rows, slice):
            numbers = torch.arange(*rows.indices(len(self)))
        else:
            numbers = torch.as_tensor(rows)
            if numbers.dtype == torch.bool:
                numbers = numbers.nonzero().squeeze(1)
            if len(numbers) and not (numbers.min() >= 0 and numbers.max() < len(self)):
                raise IndexError(f"row numbers must be 0 to {len(self) - 1}")
        return numbers if self._chosen is None else self._chosen[numbers]

    def _row(self, row: int) -> torch.Tensor:
        place = row if self._chosen is None else int(self._chosen[row])
        number = bisect_right(self._ends, place)
        return self._filled(self._parts[number][place - self._start(number)].unsqueeze(0))[0]

    def _read(self, places: torch.Tensor) -> torch.Tensor:
        part_of = torch.bucketize(places, self._bounds, right=True)
        numbers = part_of.unique().tolist()
        if len(numbers) == 1:
            return self._filled(self._parts[numbers[0]][places - self._start(numbers[0])])
        read = torch.zeros(len(places), *self.shape[1:], dtype=self.dtype)
        for number in numbers:
            here = (part_of == number).nonzero().squeeze(1)
            read[here] = self._filled(self._parts[number][places[here] - self._start(number)])
        return read

    def _start(self, number: int) -> int:
        return self._ends[number] - len(self._parts[number])

    def _filled(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows of one part (n, ...) in memory of their own, as long as the longest of all parts."""
        if rows.shape[1:] == self.shape[1:]:
            return rows.clone()
        filled = torch.zeros(len(rows), *self.shape[1:], dtype=self.dtype)
        filled[:, : rows.shape[1]] = rows
        return filled


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
        # A single row has no deviation.
        within = rows.std(0).nan_to_num().double().square() * (len(rows) - 1)
        squares = squares + within + delta.square() * n * len(rows) / total
        mean = mean + delta * len(rows) / total
        ends += [rows.amin(0), rows.amax(0)]
        n = total
    extremes = torch.stack(ends)
    bounds = torch.stack([extremes.amin(0), extremes.amax(0)])
    return mean.float(), (squares / max(n - 1, 1)).sqrt().float(), bounds
