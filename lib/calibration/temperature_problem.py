"""A temperature fit as one equation for b = 1 / T, and the corner cases on the way to it.

With each logit replaced by its gap to the example's largest, the negative log-likelihood of an
example is b g[label] + log(sum of e^(-b g)), and the derivative of all is zero where

    the sum of the labels' gaps, `wrong`  =  the expected sum of gaps at p ~ e^(-b g), U(b)

A correct example has a label gap of 0, hence the name. U falls from `chance`, the mean gaps at
uniform p, to 0, so there is one solution if 0 < wrong < chance. Otherwise T runs to an end: nothing
is wrong and T -> 0 ("separable"), or the logits point away from the labels on average and
T -> infinity ("uninformative"). `temperature_solver` solves the equation.

By hand: binary margins 2, 2, -2 and 2 with the labels 1, 1, 0 and 0. All gaps are 2 and only the
last example is wrong, so wrong = 2. Each of the four gaps has p = sigmoid(-2b), so
U(b) = 8 sigmoid(-2b), chance = U(0) = 4, and the solution is sigmoid(-2b) = 1/4: the model is 75%
sure and right in 3 of 4 cases. That is 2b = ln 3, T = 2 / ln 3 = 1.8205.

>>> problem = Problem.of(np.array([2.0, 2.0, -2.0, 2.0]), np.array([True, True, False, False]))
>>> problem.gaps.tolist(), problem.wrong, problem.chance
([2.0, 2.0, 2.0, 2.0], 2.0, 4.0)
>>> round(problem.optimum(n=4).temperature, 4)
1.8205

What the code takes care of beyond that:

- Status by exact arithmetic. The sign of right = chance - wrong decides between a temperature and
  none. Where the two almost cancel, right is summed again without rounding errors (`math.fsum`).
- Logits near the ends of float64 are first divided by a power of two, so that they can be summed
  (`Problem.shift`), and their gaps again, so that their cubes can be. T is divided by the same.
- Shrinkage so weak that e^(-b g) underflows at the optimum is solved in logarithms.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from lib.calibration.temperature_solver import (
    MAX,
    Root,
    is_large,
    log_sum,
    solve,
    solve_in_logs,
    sums,
    tangent,
)

Status = Literal["ok", "separable", "uninformative", "one_class"]

# Below this share of `wrong`, `right` is summed exactly: its sign decides the status, its digits T.
CANCELLED = 1e-4

# The binary exponent up to which the cubes of gaps can be summed.
CUBED = 256

# Up to so many gaps a pass costs nothing, and T scales with the logits to the bit where the search
# begins at the tangent and not at T = 1.
FEW = 1_000

# Below this share of `chance`, U(b) could underflow on the way to the optimum.
TINY = 1e-30


class Optimum(NamedTuple):
    """T, the passes over the gaps that it took, and the mean likelihoods at 1 and at T, in nats."""

    temperature: float
    passes: int
    nll_before: float
    nll_after: float


@dataclass(frozen=True)
class Problem:
    """A fit in terms of gaps: find b = 1 / T with U(b) = wrong, as the module explains.

    `gaps` is (N, K), or (N,) where the other of two gaps is 0. `right` is chance - wrong, summed
    without cancellation. All are in units of logits times 2^-shift.
    """

    gaps: np.ndarray
    wrong: float
    right: float
    shift: int

    @property
    def chance(self) -> float:
        """U(0), the expected sum of gaps of a guess."""
        return self.wrong + self.right

    @classmethod
    def of(cls, z: np.ndarray, y: np.ndarray) -> "Problem":
        """Reduce logits and labels: of K > 2 classes as indices, anything binary as bool."""
        shift = _shift(z)
        if shift:
            z = np.ldexp(z, -shift)
        if y.dtype == bool:
            margins = (z[:, 1] - z[:, 0] if z.ndim > y.ndim else z).ravel()
            return cls(*_binary_gaps(margins, y.ravel()), shift)
        return cls(*_class_gaps(z, y), shift)

    def status(self, shrinkage: float = 0.0) -> Status:
        """Whether there is an optimum, for labels that are not all the same."""
        if self.right <= 0:
            return "uninformative"
        return "ok" if self.wrong > 0 or shrinkage > 0 else "separable"

    def optimum(self, n: int, shrinkage: float = 0.0) -> Optimum:
        """T, the passes over the gaps, and the mean negative log-likelihood before and after.

        T may be 0 or infinite where float64 cannot hold it; what is after is then NaN. `n` counts
        the examples: one with several sigmoids has several gaps.
        """
        (b, passes, after), shift, before = self._root(n, shrinkage)
        with np.errstate(over="ignore", under="ignore", divide="ignore"):
            t = float(np.ldexp(np.divide(1, b), shift))
        if not 0 < t < math.inf:
            return Optimum(t, passes, before, math.nan)
        after = self.nll(t) if math.isnan(after) else self._mean(after, b)
        return Optimum(t, passes, before, after)

    def _root(self, n: int, shrinkage: float) -> tuple[Root, int, float]:
        """b = 1 / T of logits times 2^-shift, that shift, and the likelihood at T = 1.

        A pseudo-example with a uniform label has the mean gap for its label's gap, so shrinkage
        moves `wrong` towards `chance`, by the share of pseudo-examples in all.
        """
        kept, added = n / (n + shrinkage), shrinkage / (n + shrinkage)
        target = kept * self.wrong + added * self.chance
        down = max(math.frexp(self.gaps.max())[1] - CUBED, 0)
        right = math.ldexp(kept * self.right, -down)
        plain = not (down or self.shift or target < TINY * self.chance)
        if plain and len(self.gaps) > FEW and not is_large(self.gaps):
            at_1 = sums(self.gaps, 1.0, right < target)
            root = solve(self.gaps, target, right, at_1)
            return root, 0, self._mean(at_1.log_sum, 1.0)
        before = self.nll(1.0)
        gaps = np.ldexp(self.gaps, -down) if down else self.gaps
        if target < TINY * self.chance:
            with np.errstate(divide="ignore"):
                log_target = np.logaddexp(
                    np.log(n) + np.log(self.wrong), np.log(shrinkage) + np.log(self.chance)
                ) - np.log(n + shrinkage)
            log_start = math.log(tangent(gaps, right)) - down * math.log(2)
            return solve_in_logs(self.gaps, log_target, log_start), self.shift, before
        if right == 0:
            # Logits this far apart have an optimum beyond float64.
            return Root(0.0, 0, math.nan), self.shift + down, before
        root = solve(gaps, math.ldexp(target, -down), right)
        # The likelihood is of the gaps as they are.
        return (root if not down else root._replace(log_sum=math.nan)), self.shift + down, before

    def _mean(self, log_sum: float, b: float) -> float:
        """The mean of b g[label] + log(sum of e^(-b g)), from the sum of the logarithms."""
        n = len(self.gaps)
        return log_sum / n + b * (self.wrong / n)

    def nll(self, t: float) -> float:
        """The mean of b g[label] + log(sum of e^(-b g)) at temperature t, in nats."""
        # By way of the exponents, because 1 / t of a subnormal t is infinite.
        fraction, exponent = math.frexp(t)
        with np.errstate(over="ignore"):
            b = min(float(np.ldexp(1 / fraction, self.shift - exponent)), MAX)
        return self._mean(log_sum(self.gaps, b), b)


def _binary_gaps(margins: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Gaps, `wrong` and `right` of margins (N,): the gaps are their sizes."""
    gaps, missed = np.abs(margins), (margins > 0) != y
    wrong = float(np.einsum("i,i->", gaps, missed))
    right = float(gaps.sum()) / 2 - wrong
    if right < CANCELLED * wrong:
        right = math.fsum(gaps * (0.5 - missed))
    return gaps, wrong, right


def _class_gaps(z: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Gaps, `wrong` and `right` of logits (N, K) with class indices (N,)."""
    gaps = z.max(axis=1, keepdims=True) - z
    observed = z[np.arange(len(y)), y]
    wrong = float(gaps[np.arange(len(y)), y].sum())
    right = float(gaps.mean(axis=1).sum()) - wrong
    if right < CANCELLED * wrong:
        # Mean gap minus label gap is label logit minus mean logit: the largest logit drops out.
        k = z.shape[1]
        right = math.fsum(np.append(np.repeat(observed, k), -z)) / k
    return gaps, wrong, right


def _shift(z: np.ndarray) -> int:
    """The power of two that takes logits off the ends of float64, so that all can be summed.

    Positive for logits whose sum could overflow, negative for logits so small that products of
    their gaps could underflow, 0 for all between:

    >>> _shift(np.array([1e308, -1e308])), _shift(np.array([1e-308])), _shift(np.array([2.0**-200]))
    (4, -767, 0)
    """
    exponent = math.frexp(max(z.max(), -z.min()))[1]
    return max(exponent + z.size.bit_length() - 1022, 0) + min(exponent + CUBED, 0)
