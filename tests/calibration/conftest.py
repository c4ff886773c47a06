"""What several test files of the wing need: samples, and definitions spelled out in a few lines."""

from collections.abc import Callable

import numpy as np
import pytest


@pytest.fixture(scope="session")
def sample() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Scores (n,), rounded to `digits`, and labels that are 1 with the chance score ** power."""

    def draw(n=400, seed=0, power=1.5, digits=None):
        rng = np.random.default_rng(seed)
        p = rng.random(n)
        y = (rng.random(n) < p**power).astype(int)
        return (p if digits is None else np.round(p, digits)), y

    return draw


@pytest.fixture(scope="session")
def multi_label() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Logits (n, labels), the first labels rarer, and multi-hot labels."""

    def draw(n=400, labels=5, seed=0):
        rng = np.random.default_rng(seed)
        z = rng.normal(np.linspace(-3, 1, labels), 2, (n, labels))
        return z, (rng.random(z.shape) < 1 / (1 + np.exp(-z / 1.5))).astype(int)

    return draw


@pytest.fixture(scope="session")
def every_cut() -> Callable[[np.ndarray], np.ndarray]:
    """One threshold for each decision there is: at each distinct score, and above all."""
    return lambda p: np.append(np.unique(p), 2.0)


@pytest.fixture(scope="session")
def ece_by_definition() -> Callable[..., float]:
    """The binary ECE in uniform bins, bin by bin."""

    def error(p, y, n_bins=15):
        total = 0.0
        for k in range(n_bins):
            low, high = np.linspace(0, 1, n_bins + 1)[k : k + 2]
            inside = (p >= low) & ((p < high) | (k == n_bins - 1))
            if inside.any():
                total += inside.mean() * abs(p[inside].mean() - y[inside].mean())
        return total

    return error
