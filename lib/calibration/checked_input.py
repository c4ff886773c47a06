"""Input validation for the whole wing: anything array-like becomes a checked NumPy array.

Temperatures, thresholds, metrics and intervals all read their input here, so that all refuse the
same input with the same message: it names the argument, how many values are bad, where the first
one is and how to fix them.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

# Values in one block of work.
BLOCK = 131_072


def to_numpy(values: Any, name: str) -> np.ndarray:
    """Return lists, arrays, pandas objects and tensors as a NumPy array of real numbers.

    Integers, booleans and float32 keep their type, everything else becomes float64. Tensors and
    data frames are recognised by their methods, so neither library is imported.
    Raises ValueError naming `name` if the values are empty or not real numbers.
    """
    try:
        if isinstance(values, np.ma.MaskedArray):
            # A masked value is unknown: as NaN it is refused by `finite` like any missing value.
            values = np.ma.filled(values.astype(np.float64), np.nan)
        elif hasattr(values, "detach"):
            values = values.detach().cpu()
            if values.is_floating_point() and values.itemsize < 4:
                # bfloat16 has no NumPy twin, so a half tensor widens before it leaves torch.
                values = values.double()
            values = values.numpy()
        elif hasattr(values, "to_numpy"):
            values = values.to_numpy(dtype=np.float64, na_value=np.nan)
        array = np.asarray(values)
        if array.dtype.kind in "cmM":
            raise TypeError(f"they are {array.dtype}")
        if array.dtype.kind not in "biu" and array.dtype != np.float32:
            array = array.astype(np.float64, copy=False)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ValueError(f"{name} must be an array of real numbers ({error})") from None
    if array.size == 0:
        raise ValueError(f"{name} is empty (shape {array.shape}); pass at least one example")
    return array


def _blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Divide an array along its first axis, so that a part looked at twice stays in the cache."""
    array = np.atleast_1d(array)
    rows = max(BLOCK * len(array) // array.size, 1)
    return (array[i : i + rows] for i in range(0, len(array), rows))


def finite(values: ArrayLike, name: str) -> np.ndarray:
    """Return `values` as float64, without NaN or infinity.

    Raises ValueError with the count and the first index of what is not finite.

    >>> finite([0.5, float("nan")], "logits")
    Traceback (most recent call last):
    ValueError: logits holds 1 of 2 values that are NaN or infinite, the first at index 1; ...
    """
    array = to_numpy(values, name)
    # The extremes carry any NaN or infinity, and cost no temporary array.
    if array.dtype.kind == "f" and not all(
        math.isfinite(part.min()) and math.isfinite(part.max()) for part in _blocks(array)
    ):
        refuse(~np.isfinite(array), name, "NaN or infinite", "drop or repair these examples")
    return array.astype(np.float64, copy=False)


def probabilities(values: ArrayLike, name: str = "prob", ndim: int = 1) -> np.ndarray:
    """Return `values` as float64 within [0, 1], of `ndim` dimensions.

    Raises ValueError with the count and the first index of what is outside.
    """
    array = to_numpy(values, name).astype(np.float64, copy=False)
    check_ndim(array, name, ndim)
    # NaN fails both comparisons too, so good input is read just once.
    if not all(part.min() >= 0 and part.max() <= 1 for part in _blocks(array)):
        finite(array, name)
        refuse(
            (array < 0) | (array > 1),
            name,
            "outside [0, 1]",
            "pass probabilities, not logits: p = sigmoid(z / T)",
        )
    return array


def binary_labels(labels: ArrayLike, name: str = "labels") -> np.ndarray:
    """Return 0/1 labels as bool.

    Raises ValueError with the count and the first index of what is neither 0 nor 1.
    """
    array = to_numpy(labels, name)
    if array.dtype.kind in "iu":
        # What is below zero is large when read without sign: one comparison tells.
        unsigned, ones = array.view(f"u{array.itemsize}"), np.empty(array.shape, bool)
        for part, is_one in zip(_blocks(unsigned), _blocks(ones), strict=True):
            if part.max() > 1:
                break
            np.not_equal(part, 0, out=is_one)
        else:
            return ones
    ones = array == 1
    if np.count_nonzero(ones) + np.count_nonzero(array == 0) != array.size:
        finite(array, name)
        refuse((array != 0) & (array != 1), name, "neither 0 nor 1", "map the classes to 0 and 1")
    return ones


def scores_and_labels(prob: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return p(hate) as float64 (N,) and its 0/1 labels as bool (N,).

    Raises ValueError as `probabilities` and `binary_labels` do, and if the shapes differ.
    """
    p, y = probabilities(prob), binary_labels(labels)
    check_same_shape(p, "prob", y)
    return p, y


def check_ndim(array: np.ndarray, name: str, ndim: int) -> None:
    """Raise ValueError unless `array` has `ndim` dimensions."""
    if array.ndim != ndim:
        wanted = {1: "(N,)", 2: "(N, L)"}[ndim]
        raise ValueError(f"{name} must have shape {wanted}, got {array.shape}")


def check_same_shape(array: np.ndarray, name: str, labels: np.ndarray) -> None:
    """Raise ValueError unless `array` and `labels` match, one label per value."""
    if array.shape != labels.shape:
        raise ValueError(
            f"{name} has shape {array.shape} but labels has shape {labels.shape}; "
            "pass one label per value"
        )


def refuse(bad: np.ndarray, name: str, what: str, fix: str) -> None:
    """Raise ValueError with the count of True in `bad` and the index of the first."""
    first = tuple(int(i) for i in np.unravel_index(np.argmax(bad), bad.shape))
    where = first[0] if len(first) == 1 else first
    raise ValueError(
        f"{name} holds {np.count_nonzero(bad)} of {bad.size} values that are {what}, "
        f"the first at index {where}; {fix}"
    )


def in_precision_of(scores: Any, cuts: np.ndarray) -> np.ndarray:
    """Round `cuts` to the floating type of `scores`, and return them as float64.

    A float32 score of 0.7 is below the float64 0.7, though a user who compares it with 0.7 compares
    in float32.

    >>> float(np.float32(0.7)) >= 0.7
    False
    >>> float(np.float32(0.7)) >= in_precision_of(np.float32([0.7]), np.array([0.7]))
    array([ True])
    """
    if hasattr(scores, "new_tensor"):
        if not scores.is_floating_point():
            return cuts
        return scores.new_tensor(cuts.tolist()).detach().cpu().double().numpy()
    dtypes = set(scores.dtypes) if hasattr(scores, "columns") else {getattr(scores, "dtype", None)}
    dtype = dtypes.pop() if len(dtypes) == 1 else None
    # The nullable dtypes of pandas name the one of NumPy that they hold.
    dtype = getattr(dtype, "numpy_dtype", dtype)
    if not isinstance(dtype, np.dtype) or dtype.kind != "f":
        return cuts
    return cuts.astype(dtype).astype(np.float64)
