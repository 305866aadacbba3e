r"""Exact capacity of exponential memories: exp(alpha N) patterns as a random energy model.

The energy is :math:`\tfrac12 \|x\|^2 - \lambda^{-1} \ln \sum_\mu e^{\lambda x \cdot \xi^\mu}` with
patterns of squared norm N. At a query the other patterns contribute a random partition function.
With :math:`\zeta(\lambda) = \lim N^{-1} \ln E\,e^{\lambda x \cdot \xi}` and the rate function I of
an overlap u (the Legendre transform of zeta), it is :math:`e^{N \Phi}`,

.. math:: \Phi_\alpha(\lambda) = \alpha + \zeta(\lambda) \;\text{ if }\;
          I(\zeta'(\lambda)) \le \alpha, \qquad
          \Phi_\alpha(\lambda) = \lambda\, I^{-1}(\alpha) \;\text{ otherwise (condensed)}.

A pattern is retrieved where :math:`\Phi_\alpha(\lambda)` lies below lambda times its overlap.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.special

from deeplimits.pytrees import register_dataclass
from deeplimits.typing import Array, ArrayLike
from deeplimits.validate import choice
from statmech.associative.capacity import real


class Ensemble(NamedTuple):
    """Law of the overlap u of a random pattern: zeta, its slope, and the rate with its inverse."""

    zeta: Callable[[Any], Any]
    slope: Callable[[Any], Any]
    rate: Callable[[Any], Any]
    rate_inverse: Callable[[Any], Any]


def _log_cosh(x: Any) -> Any:
    # log1p loses nothing for small x here: ln cosh x = ln(1 + 2 sinh^2(x/2))
    small = np.log1p(2 * np.sinh(np.minimum(np.abs(x), 1.0) / 2) ** 2)
    large = np.abs(x) + np.log1p(np.exp(-2 * np.abs(x))) - np.log(2)
    return np.where(np.abs(x) < 1, small, large)


def _sphere_slope(lam: Any) -> Any:
    return 2 * lam / (1 + np.sqrt(1 + 4 * lam**2))


def _binary_rate(u: Any) -> Any:
    return (scipy.special.xlog1py(1 + u, u) + scipy.special.xlog1py(1 - u, -u)) / 2


def _binary_rate_inverse(alpha: Any) -> Any:
    """Bisection over the field of which u is the hyperbolic tangent; 1 from ln 2 on."""
    low, high = np.zeros_like(alpha), np.full_like(alpha, 25.0)
    for _ in range(90):
        middle = (low + high) / 2
        below = middle * np.tanh(middle) - _log_cosh(middle) < alpha
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(alpha >= np.log(2), 1.0, np.tanh(low))


ENSEMBLES = {
    "gaussian": Ensemble(
        lambda lam: lam**2 / 2, lambda lam: lam, lambda u: u**2 / 2, lambda a: np.sqrt(2 * a)
    ),
    "spherical": Ensemble(
        lambda lam: lam * _sphere_slope(lam) + np.log1p(-(_sphere_slope(lam) ** 2)) / 2,
        _sphere_slope,
        lambda u: -np.log1p(-(u**2)) / 2,
        lambda a: np.sqrt(-np.expm1(-2 * a)),
    ),
    "binary": Ensemble(_log_cosh, np.tanh, _binary_rate, _binary_rate_inverse),
}


def ensemble(patterns: str) -> Ensemble:
    """The law of overlaps of ``"gaussian"``, ``"spherical"`` or ``"binary"`` patterns."""
    return ENSEMBLES[choice(patterns, "patterns", tuple(ENSEMBLES))]


def free_entropy(lam: ArrayLike, alpha: ArrayLike, *, patterns: str) -> Array:
    r"""Exponent of the contribution of all other patterns, :math:`\Phi_\alpha(\lambda)`.

    Args:
        lam: inverse temperature, >= 0.
        alpha: load ln(P) / N, >= 0; arrays broadcast.
        patterns: ``"gaussian"``, ``"spherical"`` or ``"binary"``.

    Returns:
        Array of the broadcast shape.

    Raises:
        DomainError: an argument out of its range.

    Source: section 3 of arXiv:2304.14964 (random energy model), derived here.

    Check: tests/statmech/test_associative_capacity.py::test_free_entropy_against_simulation
    """
    law = ensemble(patterns)
    lam_, alpha_ = real(lam, "lam", at_least=0.0), real(alpha, "alpha", at_least=0.0)
    liquid = law.rate(law.slope(lam_)) <= alpha_
    return np.where(liquid, alpha_ + law.zeta(lam_), lam_ * law.rate_inverse(alpha_))


def condensation(lam: ArrayLike, *, patterns: str) -> Array:
    r"""Load below which a few patterns dominate the noise, :math:`I(\zeta'(\lambda))`.

    Args:
        lam: inverse temperature, >= 0.
        patterns: ``"gaussian"``, ``"spherical"`` or ``"binary"``.

    Returns:
        Loads of the same shape.

    Raises:
        DomainError: an argument out of its range.

    Source: section 3 of arXiv:2304.14964, derived here.

    Check: tests/statmech/test_associative_capacity.py::test_condensation
    """
    law = ensemble(patterns)
    return np.asarray(law.rate(law.slope(real(lam, "lam", at_least=0.0))))


def typical_capacity(lam: ArrayLike, *, patterns: str, overlap: ArrayLike = 1.0) -> Array:
    r"""Load up to which a typical pattern is retrieved from a query with a given overlap.

    .. math:: \alpha_1 = \lambda u - \zeta(\lambda) \;\text{ if }\; \zeta'(\lambda) \le u, \qquad
              \alpha_1 = I(u) \;\text{ otherwise.}

    Args:
        lam: inverse temperature, >= 0.
        patterns: ``"gaussian"``, ``"spherical"`` or ``"binary"``.
        overlap: u = x . xi / N of the query, of squared norm N, in [0, 1]; default 1, the pattern
            itself. For a share of wrong signs it is one minus twice that share.

    Returns:
        Loads of the broadcast shape.

    Raises:
        DomainError: an argument out of its range.

    Source: section 3 of arXiv:2304.14964; with an overlap below one derived here.

    Check: tests/statmech/test_associative_capacity.py::test_published_capacities,
    ::test_retrieval_against_simulation
    """
    law = ensemble(patterns)
    lam_, u = np.broadcast_arrays(
        real(lam, "lam", at_least=0.0), real(overlap, "overlap", at_least=0.0, at_most=1.0)
    )
    liquid = law.slope(lam_) <= u
    with np.errstate(divide="ignore"):  # the rate of overlap 1 on the sphere, which is never used
        return np.where(liquid, lam_ * u - law.zeta(lam_), law.rate(u))


def full_capacity(lam: ArrayLike, *, patterns: str) -> Array:
    r"""Load up to which every pattern is retrieved.

    .. math:: \alpha_c = \rho\,(\lambda - \lambda^2/2) \;(\lambda < 1), \quad
              \alpha_c = \rho / 2 \;(\lambda \ge 1), \qquad
              \tfrac12 (\rho - 1 - \ln \rho) = \alpha_c

    for Gaussian patterns, of which the shortest, of squared norm rho N, is lost first;
    :math:`1 / 2e` from :math:`\lambda = 1` on. The others have one norm, and the typical capacity.

    Args:
        lam: inverse temperature, >= 0.
        patterns: ``"gaussian"``, ``"spherical"`` or ``"binary"``.

    Returns:
        Loads of the same shape.

    Raises:
        DomainError: an argument out of its range.

    Source: section 4 of arXiv:2304.14964 (a lower bound there), derived here.

    Check: tests/statmech/test_associative_capacity.py::test_published_capacities
    """
    lam_ = real(lam, "lam", at_least=0.0)
    if choice(patterns, "patterns", tuple(ENSEMBLES)) != "gaussian":
        return typical_capacity(lam_, patterns=patterns)
    hot = np.minimum(lam_, 1.0)
    c = (1 - hot) ** 2
    # c rho exp(-c rho) = c / e, of which the smaller root is wanted
    safe = np.where(c > 0, c, 1.0)
    rho = np.where(c > 0, -scipy.special.lambertw(-c / math.e).real / safe, 1 / math.e)
    return np.asarray(rho * (1 - c) / 2)


def basin(lam: ArrayLike, alpha: ArrayLike, *, patterns: str) -> Array:
    r"""Smallest overlap of a query from which one update retrieves, :math:`\Phi_\alpha / \lambda`.

    Args:
        lam: inverse temperature, > 0.
        alpha: load ln(P) / N, >= 0; arrays broadcast.
        patterns: ``"gaussian"``, ``"spherical"`` or ``"binary"``.

    Returns:
        Overlaps; NaN where even the pattern itself is lost.

    Raises:
        DomainError: an argument out of its range.

    Source: derived here from the random energy model of arXiv:2304.14964.

    Check: tests/statmech/test_associative_capacity.py::test_basin
    """
    lam_ = real(lam, "lam", above=0.0)
    overlap = free_entropy(lam_, alpha, patterns=patterns) / lam_
    return np.where(overlap < 1, overlap, np.nan)


@register_dataclass
@dataclasses.dataclass(frozen=True)
class SpinThresholds:
    """Loads ln(K) / N up to which an exponential memory of spins corrects a share of wrong signs.

    Attributes:
        rigorous: the proven lower bound.
        energy: the pattern dominates the energy (and the softmax weights).
        dynamics: the field of every spin points along the pattern, so that one sweep of single-spin
            updates retrieves it. Noise of random sign adds up by squares: this is the energy
            threshold at twice lambda.
    """

    rigorous: Array
    energy: Array
    dynamics: Array


def spin_thresholds(corruption: ArrayLike, *, lam: ArrayLike = 1.0) -> SpinThresholds:
    r"""Thresholds of the discrete memory :math:`E = -\sum_\mu e^{\lambda \xi^\mu \cdot \sigma}`.

    .. math:: \alpha_{\text{rigorous}} = \tfrac12 I(1 - 2\varrho), \qquad
              I(u) = \tfrac12 [(1+u) \ln(1+u) + (1-u) \ln(1-u)]

    (proven for lambda = 1), and the exact ones of a random energy model: for no corruption
    :math:`\lambda - \ln\cosh\lambda` (energy) and :math:`2\lambda - \ln\cosh 2\lambda` (dynamics).

    Args:
        corruption: share of wrong signs in the query, in [0, 1/2).
        lam: strength in the exponent, > 0, default 1; arrays broadcast.

    Returns:
        :class:`SpinThresholds`.

    Raises:
        DomainError: an argument out of its range.

    Source: theorem 3 of arXiv:1702.01929 (rigorous); the others derived here.

    Check: tests/statmech/test_associative_capacity.py::test_spin_thresholds
    """
    u = 1 - 2 * real(corruption, "corruption", at_least=0.0, below=0.5)
    u, lam_ = np.broadcast_arrays(u, real(lam, "lam", above=0.0))
    return SpinThresholds(
        rigorous=_binary_rate(u) / 2,
        energy=typical_capacity(lam_, patterns="binary", overlap=u),
        dynamics=typical_capacity(2 * lam_, patterns="binary", overlap=u),
    )
