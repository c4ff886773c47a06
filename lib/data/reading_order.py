"""The order in which a person reads the lines of text on a picture."""

from collections.abc import Sequence

import numpy as np

# Of the lower of two boxes, how much of its height the other must share to stand on its line
_SAME_LINE = 0.5
# Heights of a line: an empty strip this wide parts two columns, this high two bands of panels
_GUTTER, _BAND = 1.0, 1.5

Row = list[int]


def reading_order(boxes: np.ndarray) -> list[int]:
    """The places of `boxes` (N, 4, 2), corners clockwise from the upper left, in reading order.

    Boxes that overlap in height are a line. Lines are read from top to bottom, left to right, but
    texts that stand side by side over several lines, as in memes of two panels, one after the
    other. Text that runs aslant is set straight first.
    """
    if not len(boxes):
        return []
    sides = _upright(boxes)
    rows = _rows(sides, range(len(boxes)))
    return [place for band in _bands(sides, rows) for place in _read(sides, band)]


def _upright(boxes: np.ndarray) -> np.ndarray:
    """Left, top, right, bottom (N, 4), turned so that the text's median line is level."""
    along = boxes[:, 1] - boxes[:, 0]
    length = np.hypot(along[:, 0], along[:, 1])
    angle = np.arctan2(along[:, 1], along[:, 0])
    order = np.argsort(angle, kind="stable")
    middle = np.searchsorted(np.cumsum(length[order]), length.sum() / 2)
    tilt = angle[order[min(int(middle), len(order) - 1)]]
    turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    corners = boxes @ turn
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def _rows(sides: np.ndarray, places: Sequence[int]) -> list[Row]:
    """Lines from top to bottom, each from left to right."""
    rows: list[Row] = []
    for place in sorted(places, key=lambda p: (sides[p, 1] + sides[p, 3], sides[p, 0])):
        fits = [row for row in rows if _on_line(sides, row, place)]
        if fits:
            fits[-1].append(place)
        else:
            rows.append([place])
    return [sorted(row, key=lambda p: sides[p, 0]) for row in rows]


def _on_line(sides: np.ndarray, row: Row, place: int) -> bool:
    top, bottom = sides[row, 1].mean(), sides[row, 3].mean()
    shared = min(bottom, sides[place, 3]) - max(top, sides[place, 1])
    return shared > _SAME_LINE * min(bottom - top, sides[place, 3] - sides[place, 1])


def _height(sides: np.ndarray, places: Sequence[int]) -> float:
    return float(np.median(sides[places, 3] - sides[places, 1]))


def _bands(sides: np.ndarray, rows: list[Row]) -> list[list[Row]]:
    """Rows that follow one another closely; a wider gap begins the next panel."""
    bands = [[rows[0]]]
    for row in rows[1:]:
        band = [place for earlier in bands[-1] for place in earlier]
        gap = sides[row, 1].min() - sides[band, 3].max()
        if gap > _BAND * _height(sides, band + row):
            bands.append([row])
        else:
            bands[-1].append(row)
    return bands


def _read(sides: np.ndarray, rows: list[Row]) -> list[int]:
    """Rows in order, but the longest run of rows that has columns column by column."""
    start = 0
    order: list[int] = []
    while start < len(rows):
        columns, end = _columns(sides, rows, start)
        for column in columns:
            order += _read(sides, _rows(sides, column)) if len(columns) > 1 else column
        start = end
    return order


def _columns(sides: np.ndarray, rows: list[Row], start: int) -> tuple[list[Row], int]:
    """The columns of the longest run of rows from `start` on, and its end; else the one row."""
    best, end = [rows[start]], start + 1
    for stop in range(start + 2, len(rows) + 1):
        places = [place for row in rows[start:stop] for place in row]
        parts = _parted(sides, places)
        if len(parts) < 2:
            # A wider row fills the gutter for good, unless so far there was one column only.
            if len(rows[start]) > 1:
                break
            continue
        if _side_by_side(sides, parts):
            best, end = parts, stop
    return best, end


def _parted(sides: np.ndarray, places: Row) -> list[Row]:
    """Places left and right of the first gutter, or all of them if there is none."""
    gutter = _GUTTER * _height(sides, places)
    across = sorted(places, key=lambda p: sides[p, 0])
    reach = sides[across[0], 2]
    for count, place in enumerate(across[1:], start=1):
        if sides[place, 0] - reach > gutter:
            return [across[:count], across[count:]]
        reach = max(reach, sides[place, 2])
    return [places]


def _side_by_side(sides: np.ndarray, parts: list[Row]) -> bool:
    """Whether each part has two lines or more, over the same height for the most part."""
    tops = [sides[part, 1].min() for part in parts]
    bottoms = [sides[part, 3].max() for part in parts]
    shared = min(bottoms) - max(tops)
    lower = min(bottom - top for top, bottom in zip(tops, bottoms, strict=True))
    return shared > lower / 2 and all(len(_rows(sides, part)) > 1 for part in parts)
