r"""The Hopfield network with few patterns (load zero): pure states and symmetric mixtures.

.. math:: m_\mu = \big\langle \xi^\mu \tanh(\beta\, \xi \cdot m) \big\rangle_\xi, \qquad
          f = \frac{m \cdot m}{2} - T \big\langle \ln 2\cosh(\beta\, \xi \cdot m) \big\rangle_\xi
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.special

from deeplimits.errors import DomainError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.roots import Root, fixed_point
from deeplimits.typing import ArrayLike
from deeplimits.validate import as_real, check, finite, integer, number
from statmech.hopfield import at_least_zero

#: More patterns than this are not enumerated: 2^n terms.
MOST_PATTERNS = 14


@register_dataclass
@dataclasses.dataclass(frozen=True)
class MixtureState:
    r"""A symmetric mixture of n patterns, one entry per temperature.

    Attributes:
        n: number of patterns with overlap m; the others have none.
        T, m, q, f, U: temperature, overlap, Edwards-Anderson parameter, free energy, energy.
        eigenvalues: of the Hessian of f, ``(..., 3)``: within the mixture, against n - 1 changes of
            its proportions, towards other patterns. For n = 1 the second does not exist (NaN).
        stable: all are positive.
    """

    n: int = dataclasses.field(metadata={"static": True})
    T: Any
    m: Any
    q: Any
    f: Any
    U: Any
    eigenvalues: Any
    stable: Any


def hopfield_mixture(n: int, T: ArrayLike = 0.0) -> MixtureState:
    r"""The symmetric mixture of n patterns at load zero.

    .. math:: m = \frac1n \big\langle S \tanh(\beta m S) \big\rangle, \quad S = \sum_{\mu \le n}
              \xi^\mu, \qquad U = -\frac{n m^2}{2}, \qquad m(T = 0) = \frac{\langle|S|\rangle}{n}

    Args:
        n: number of patterns, 1 to 200.
        T: temperatures >= 0, any shape, default 0.

    Returns:
        :class:`MixtureState`; NaN for T >= 1. Mixtures of even n are never stable; those of odd n
        below :func:`hopfield_mixture_stability`.

    Raises:
        DomainError: n out of range, or T negative, NaN or infinite.

    Source: D. J. Amit, H. Gutfreund and H. Sompolinsky, Phys. Rev. A 32, 1007 (1985) [amit1985a],
        section III.

    Check: ``tests/statmech/test_hopfield_mixtures.py``
    """
    integer(n, "n", at_least=1)
    number(n, "n", at_most=200)
    T = np.asarray(at_least_zero(T, "T"), np.float64)
    S, weight = _sums(n)
    heat = np.where((T > 0) & (T < 1), T, 0.5)[..., None]
    m = np.full(heat.shape, np.sum(weight * S**2) ** 0.5 / n)  # an upper bound of the overlap
    # concave in m, so that Newton steps from above come down to the positive root
    for _ in range(100):
        t = np.tanh(m * S / heat)
        slope = np.sum(weight * S**2 * (1 - t**2), -1, keepdims=True) / (n * heat) - 1
        change = (np.sum(weight * S * t, -1, keepdims=True) / n - m) / slope
        m = m - change
        if np.all(np.abs(change) < 1e-15):
            break
    m = np.where(T[..., None] > 0, m, np.sum(weight * np.abs(S)) / n)
    m = np.where(T[..., None] < 1, m, np.nan)
    return _mixture(n, T, m, S, weight)


def _mixture(n: int, T: Any, m: Any, S: Any, weight: Any) -> MixtureState:
    cold = T[..., None] == 0
    safe = np.where(cold, 1.0, T[..., None])
    field = m * S
    t = np.where(cold, np.sign(field), np.tanh(field / safe))
    q = np.sum(weight * t**2, -1)
    pair = np.sum(weight * (S**2 - n) * t**2, -1) / max(n * (n - 1), 1)
    size = np.abs(field)
    log_2cosh = np.where(cold, size, size + safe * np.log1p(np.exp(-2 * size / safe)))
    overlap = m[..., 0]
    # at T = 0 spins without a field (even n) make the susceptibility infinite
    with np.errstate(divide="ignore", invalid="ignore"):
        free_spins = np.where(T == 0, np.sum(weight * (S == 0), -1), 1 - q)
        rest = np.where(free_spins == 0, 0.0, free_spins / T)
        pull = np.where(np.abs(pair) < 1e-14, 0.0, pair / T)
        free = 1 - rest
        tilt = free - pull if n > 1 else np.full_like(free, np.nan)
        eigenvalues = np.stack([free + (n - 1) * pull, tilt, free], -1)
    stable = np.all((eigenvalues > 0) | ((n == 1) & np.isnan(eigenvalues)), -1) & ~np.isnan(overlap)
    U = -n * overlap**2 / 2
    f = n * overlap**2 / 2 - np.sum(weight * log_2cosh, -1)
    return MixtureState(n, T[()], overlap[()], q[()], f[()], U[()], eigenvalues, stable[()])


def hopfield_mixture_stability(n: int) -> float:
    """Temperature below which the symmetric mixture of n patterns is locally stable.

    Args:
        n: number of patterns, odd, 1 to 199.

    Raises:
        DomainError: n even (never stable), or out of range.

    Source: Amit, Gutfreund and Sompolinsky, Phys. Rev. A 32, 1007 (1985) [amit1985a], section III.

    Check: ``tests/statmech/test_hopfield_mixtures.py::test_stability``
    """
    integer(n, "n", at_least=1)
    if n % 2 == 0:
        raise DomainError(f"n must be odd, got {n}: mixtures of even n are never stable.")
    if n == 1:
        return 1.0

    def smallest(T: float) -> float:
        return float(np.min(hopfield_mixture(n, T).eigenvalues))

    return float(scipy.optimize.brentq(smallest, 0.02, 0.9, xtol=1e-14))


def _sums(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Values of the sum of n fair signs and their probabilities."""
    k = np.arange(n + 1)
    log_weight = (
        scipy.special.gammaln(n + 1)
        - scipy.special.gammaln(k + 1)
        - scipy.special.gammaln(n - k + 1)
        - n * np.log(2.0)
    )
    return 2.0 * k - n, np.exp(log_weight)


@float64_scope
def hopfield_low_load(m0: ArrayLike, T: float) -> Root:
    """Overlaps with a few patterns by iteration of the mean-field equations from a start.

    Args:
        m0: initial overlaps ``(n,)``, n up to 14.
        T: temperature > 0.

    Returns:
        :class:`deeplimits.roots.Root` with ``x`` the overlaps ``(n,)`` and their stability.

    Raises:
        ShapeError: m0 is not one-dimensional with 1 to 14 entries.
        DomainError: m0 not finite, or T <= 0.
        ConvergenceError: no fixed point was reached.

    Source: Amit, Gutfreund and Sompolinsky, Phys. Rev. A 32, 1007 (1985) [amit1985a], eq. (3.6).

    Check: ``tests/statmech/test_hopfield_mixtures.py::test_low_load``
    """
    start = np.asarray(as_real(m0, "m0"), np.float64)
    finite(start, "m0")
    check(
        start.ndim == 1 and 1 <= start.size <= MOST_PATTERNS,
        f"m0 must have shape (n,) with n = 1 to {MOST_PATTERNS}, got {start.shape}.",
        ShapeError,
    )
    number(T, "T", above=0)
    patterns = np.array(list(itertools.product((-1.0, 1.0), repeat=start.size)))
    return fixed_point(
        _low_load, start, args={"patterns": jnp.asarray(patterns), "T": jnp.float64(T)}
    )


def _low_load(m: Any, args: Any) -> Any:
    field = jnp.tanh(jnp.matmul(args["patterns"], m) / args["T"])
    return jnp.matmul(field, args["patterns"]) / args["patterns"].shape[0]


def hopfield_barrier_capacity() -> float:
    r"""Load up to which energy barriers around the patterns are proven to exist.

    .. math:: \alpha = \frac{\operatorname{erf}^2 x}{2 x^2} - 1 + \operatorname{erf}^2 x
              = 0.129489982669, \qquad
              1 - \operatorname{erf}^2 x - \frac{2 e^{-x^2}}{\sqrt\pi x} \operatorname{erf} x
              + \frac{2}{\pi} e^{-2x^2} = 0

    with the root x = 1.29108 of the second equation (one above 2 is spurious).

    Source: the value: abstract of arXiv:2403.01907.

    Check: ``tests/statmech/test_hopfield_mixtures.py::test_barrier``
    """

    def condition(x: float) -> float:
        e, g = scipy.special.erf(x), np.exp(-(x**2)) / np.sqrt(np.pi)
        return float(1 - e**2 - 2 * e * g / x + 2 * g**2)

    x = scipy.optimize.brentq(condition, 1.0, 1.5, xtol=1e-15)
    e2 = scipy.special.erf(x) ** 2
    return float(e2 / (2 * x**2) - 1 + e2)
