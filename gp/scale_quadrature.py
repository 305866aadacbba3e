r"""Integrals over a random scale: the trapezoid rule in its logarithm, with an error estimate.

.. math:: \int p(s^2)\, L(s^2)\, d s^2 = \int e^{g(u)}\, du, \qquad u = \log s^2

The integrand is analytic and decays at both ends, where the trapezoid rule converges exponentially
in the number of nodes. Nodes are doubled until two rules agree to rounding.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from deeplimits.errors import DomainError, PrecisionWarning
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import as_key, check

#: log s^2 is searched between these, the range of float64.
EDGE = 700.0
#: e^-42 = 6e-19: what lies below it does not change a float64 sum.
NEGLIGIBLE = 42.0
#: Nodes reach down to e^-200 of the largest value, so that a far-away test value, which moves the
#: weight to scales that the data alone make improbable, is still integrated.
REACH = 200.0
FIRST_NODES, MOST_NODES = 129, 8193
#: An error of the logarithm of the integral above this is worth a warning.
WORTH_A_WARNING = 1e-8

LogFunction = Callable[[np.ndarray], np.ndarray]


class ImproperPosteriorError(DomainError):
    """The integral over the scale diverges: prior and data do not determine it."""


class MomentUndefinedError(DomainError):
    """The law has tails too heavy for the moment that was asked for."""


@register_dataclass
@dataclass(frozen=True)
class ScaleNodes:
    r"""A law of :math:`s^2` as a sum of point masses: exact to rounding for smooth averages.

    Attributes:
        log_s2: nodes :math:`u_j`, increasing, ``(J,)``.
        log_weights: logarithms of the weights, which add up to one, ``(J,)``.
        log_integral: logarithm of the integral before normalisation (the log evidence).
        error: change of ``log_integral`` when the number of nodes was last doubled: an upper
            estimate of its error.
        mean: :math:`E[s^2]`; infinite where it does not exist.
    """

    log_s2: Float[np.ndarray, " J"]
    log_weights: Float[np.ndarray, " J"]
    log_integral: float
    error: float
    mean: float

    @property
    def weights(self) -> Float[np.ndarray, " J"]:
        """Probabilities of the nodes ``(J,)``."""
        return np.exp(self.log_weights)

    @property
    def s2(self) -> Float[np.ndarray, " J"]:
        """The scales of the nodes ``(J,)``."""
        return np.exp(self.log_s2)

    def moment(self, order: float) -> float:
        r""":math:`E[s^{2r}]`, by a sum over the nodes.

        Args:
            order: r, a real number.

        Raises:
            MomentUndefinedError: the terms do not decay at the ends of the nodes.
        """
        terms = self.log_weights + order * self.log_s2
        edge = max(terms[0], terms[-1]) - np.max(terms)
        check(
            bool(edge < -NEGLIGIBLE),
            f"the moment E[s2^{order:g}] does not exist, or converges too slowly to be computed.",
            MomentUndefinedError,
        )
        return float(np.exp(logsumexp(terms)))

    def draw(self, key: jax.Array, n: int) -> Int[np.ndarray, " n"]:
        """Positions of ``n`` independent nodes, ``(n,)``."""
        return categorical(key, self.log_weights, n)


@float64_scope
def categorical(key: jax.Array, log_weights: np.ndarray, n: int) -> Int[np.ndarray, " n"]:
    """``n`` independent positions with the given log probabilities."""
    return np.asarray(jax.random.categorical(as_key(key), log_weights, shape=(n,)))


def integrate(g: LogFunction, what: str, *, reach: float = REACH) -> ScaleNodes:
    """The normalised law with density ``exp(g)`` over ``log s2``, and its integral.

    Args:
        g: logarithm of the integrand on arrays ``(J,)``; -inf where it vanishes.
        what: what is integrated, for messages.
        reach: nodes are placed where g exceeds its maximum less this.

    Raises:
        DomainError: g is NaN or +inf somewhere.
        ImproperPosteriorError: the integral does not converge in the range of float64.

    Warns:
        PrecisionWarning: the error estimate exceeds 1e-8 (an integrand with kinks or jumps).
    """
    grid = np.linspace(-EDGE, EDGE, 5601)
    coarse = _values(g, grid, what)
    check(bool(np.max(coarse) > -np.inf), f"the density of {what} is zero everywhere.", DomainError)
    low, high = _window(g, grid, coarse, what, 0, reach)
    ends = max(coarse[0], coarse[-1]) - np.max(coarse)
    check(
        bool(ends < -NEGLIGIBLE),
        f"the integral over the scale in {what} diverges (it does not converge for s2 between "
        f"e^-{EDGE:g} and e^{EDGE:g}): prior and data do not determine the scale. With targets "
        "that are all zero use an inverse gamma or log-normal prior, or noise_scaled=False; "
        "otherwise use a proper prior.",
        ImproperPosteriorError,
    )
    tilted = coarse + grid
    has_mean = bool(max(tilted[0], tilted[-1]) < np.max(tilted) - NEGLIGIBLE)
    if has_mean:
        high = max(high, _window(g, grid, coarse, what, 1, reach)[1])
    return _refine(g, low, high, what, has_mean)


def _values(g: LogFunction, u: np.ndarray, what: str) -> np.ndarray:
    with np.errstate(all="ignore"):  # e^700 may overflow to the limit, which is meant
        value = np.asarray(g(u), np.float64)
    bad = np.isnan(value) | (value == np.inf)
    if bad.any():
        at = u[np.argmax(bad)]
        raise DomainError(
            f"the log density of {what} must be a number below infinity for every scale > 0, got "
            f"{value[np.argmax(bad)]} at s2 = exp({at:.6g})."
        )
    return value


def _window(
    g: LogFunction, grid: np.ndarray, coarse: np.ndarray, what: str, power: int, reach: float
) -> tuple[float, float]:
    """Outermost scales at which ``g + power u`` exceeds its maximum less ``reach``."""

    def height(u: float) -> float:
        return float(_values(g, np.array([u]), what)[0] + power * u)

    tilted = coarse + power * grid
    j = int(np.argmax(tilted))
    left, right = grid[max(j - 1, 0)], grid[min(j + 1, len(grid) - 1)]
    best = minimize_scalar(lambda u: -height(u), bounds=(left, right), method="bounded")
    peak, top = (best.x, -best.fun) if -best.fun > tilted[j] else (grid[j], tilted[j])
    level = top - reach
    kept = np.flatnonzero(tilted >= level)
    first, last = (kept[0], kept[-1]) if len(kept) else (j, j)
    low, high = min(grid[first], peak), max(grid[last], peak)
    before = grid[max(np.searchsorted(grid, low) - 1, 0)]
    after = grid[min(np.searchsorted(grid, high, side="right"), len(grid) - 1)]
    return _crossing(height, level, low, before), _crossing(height, level, high, after)


def _crossing(height: Callable[[float], float], level: float, inside: Any, outside: Any) -> float:
    """Where ``height`` falls to ``level`` between two scales, on the outer side, by bisection."""
    for _ in range(20):
        middle = 0.5 * (inside + outside)
        if height(middle) >= level:
            inside = middle
        else:
            outside = middle
    return float(outside)


def _refine(g: LogFunction, low: float, high: float, what: str, has_mean: bool) -> ScaleNodes:
    """Trapezoid rules with nested nodes until two agree to rounding."""
    u = np.linspace(low, high, FIRST_NODES)
    value = _values(g, u, what)
    step = u[1] - u[0]
    total, first = _sums(value, u, step, has_mean)
    while True:
        middle = u[:-1] + 0.5 * step
        added = _values(g, middle, what)
        u = np.insert(u, np.arange(1, len(u)), middle)
        value = np.insert(value, np.arange(1, len(value)), added)
        step *= 0.5
        before, before_first = total, first
        total, first = _sums(value, u, step, has_mean)
        error = abs(total - before)
        # rounding of g itself, a few units in the last place of its size
        enough = 1e-14 + 8 * np.finfo(float).eps * abs(float(np.max(value)))
        if max(error, abs(first - before_first)) <= enough or len(u) >= MOST_NODES:
            break
    if error > WORTH_A_WARNING:
        warnings.warn(
            f"the integral over the scale in {what} is accurate to {error:.1g} (in its logarithm) "
            f"after {len(u)} nodes: the density has kinks or jumps. Use a smooth density.",
            PrecisionWarning,
            stacklevel=4,
        )
    log_weights = value + np.log(step) - total
    mean = float(np.exp(first - total)) if has_mean else np.inf
    return ScaleNodes(u, log_weights, total, error, mean)


def _sums(value: np.ndarray, u: np.ndarray, step: float, has_mean: bool) -> tuple[float, float]:
    """Logarithms of the integrals of ``e^g`` and, where it exists, of ``e^(g + u)``."""
    first = float(logsumexp(value + u)) if has_mean else 0.0
    return float(logsumexp(value) + np.log(step)), first + float(np.log(step)) * has_mean
