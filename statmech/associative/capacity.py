r"""How many random patterns are surely stored, and how many a polynomial memory of spins holds."""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.special

from deeplimits.errors import DomainError
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import Array, ArrayLike
from deeplimits.validate import as_real, finite, integer


def real(
    value: ArrayLike,
    name: str,
    *,
    above: float = -np.inf,
    at_least: float = -np.inf,
    below: float = np.inf,
    at_most: float = np.inf,
) -> np.ndarray:
    """A float64 array whose entries all lie within bounds, or an error with the first that do not.

    Raises:
        DomainError: not real, not finite, or out of bounds.
    """
    x = np.asarray(as_real(value, name), np.float64)
    finite(x, name)
    bad = ~((x > above) & (x >= at_least) & (x < below) & (x <= at_most))
    if bad.any():
        bounds = ((">", above), (">=", at_least), ("<", below), ("<=", at_most))
        allowed = " and ".join(f"{sign} {b:g}" for sign, b in bounds if np.isfinite(b))
        raise DomainError(f"{name} must be {allowed}, got {x[bad].flat[0]:g}.")
    return x


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Capacity:
    """Guaranteed storage of random patterns on a sphere.

    Where beta times the squared radius is small, the separation that the theorem asks for is
    negative and the guarantee says nothing.

    Attributes:
        c: base of the exponential growth.
        guaranteed_N: number of patterns that is guaranteed, not the true capacity: in dimension 20
            it is 7. Where it would overflow it is infinite.
        log_guaranteed_N: its natural logarithm.
        holds: the condition of the theorem on c is met.
    """

    c: Array
    guaranteed_N: Array
    log_guaranteed_N: Array
    holds: Array


def capacity(
    d: ArrayLike, *, K: ArrayLike = 1.0, beta: ArrayLike = 1.0, p: ArrayLike = 1e-3
) -> Capacity:
    r"""Number of random patterns on a sphere of radius K sqrt(d - 1) that are surely stored.

    .. math:: N \ge \sqrt p\, c^{(d-1)/4}, \qquad c = \frac{b}{W_0(e^{a + \ln b})}, \qquad
              a = \frac{2}{d-1} \bigl(1 + \ln(2 \beta K^2 p (d-1))\bigr), \qquad
              b = \tfrac25 K^2 \beta,

    provided :math:`c \ge (2 / \sqrt p)^{4/(d-1)}`. Why not ``exp`` and then Lambert's W: the
    exponential overflows, while :math:`W_0(e^t)` solves :math:`w + \ln w = t` (Wright's function).

    Args:
        d: dimension, >= 2; arrays broadcast.
        K: radius over sqrt(d - 1), > 0, default 1.
        beta: inverse temperature, > 0, default 1.
        p: probability of failure, in (0, 1], default 0.001.

    Returns:
        :class:`Capacity`.

    Raises:
        DomainError: an argument out of its range.

    Source: theorem 3 of arXiv:2008.02217.

    Check: tests/statmech/test_associative_capacity.py::test_capacity_theorem
    """
    dims = real(d, "d", at_least=2.0)
    radius, beta_ = real(K, "K", above=0.0), real(beta, "beta", above=0.0)
    fail = real(p, "p", above=0.0, at_most=1.0)
    a = 2 / (dims - 1) * (1 + np.log(2 * beta_ * radius**2 * fail * (dims - 1)))
    b = 0.4 * radius**2 * beta_
    c = b / scipy.special.wrightomega(a + np.log(b))
    log_N = np.log(fail) / 2 + (dims - 1) / 4 * np.log(c)
    holds = c >= (2 / np.sqrt(fail)) ** (4 / (dims - 1))
    with np.errstate(over="ignore"):
        return Capacity(c, np.exp(log_N), log_N, holds)


def guaranteed_exponent(lam: ArrayLike) -> Array:
    r"""The capacity theorem in high dimension: ln N / d that it guarantees.

    .. math:: \lim_{d \to \infty} \frac{\ln N}{d} = \tfrac14 W_0(\tfrac25 \lambda)

    for patterns of norm sqrt(d) at inverse temperature lambda.

    Args:
        lam: inverse temperature, >= 0, any shape.

    Returns:
        Array of the same shape.

    Raises:
        DomainError: lam < 0.

    Source: derived here from theorem 3 of arXiv:2008.02217.

    Check: tests/statmech/test_associative_capacity.py::test_capacity_theorem_in_high_dimension
    """
    return np.asarray(scipy.special.lambertw(0.4 * real(lam, "lam", at_least=0.0)).real / 4)


def _odd_factorial(n: int) -> float:
    """(2n - 3)!!, the variance of a power of a Gaussian field."""
    return float(scipy.special.factorial2(2 * n - 3, exact=True))


def polynomial_error(K: ArrayLike, N: ArrayLike, n: int) -> Array:
    r"""Probability that a spin of a stored pattern is unstable, for the energy of power n.

    .. math:: E = -\sum_{\mu=1}^K (\xi^\mu \cdot \sigma)^n, \qquad
              P = \tfrac12 \mathrm{erfc} \sqrt{\frac{N^{n-1}}{2 K (2n-3)!!}}

    Args:
        K: number of patterns, > 0; N: number of spins, > 1; arrays broadcast.
        n: power, >= 2.

    Returns:
        Probabilities, to leading order in 1/N.

    Raises:
        DomainError: an argument out of its range.

    Source: eq. (5) of arXiv:1606.01164.

    Check: tests/statmech/test_associative_capacity.py::test_polynomial_memories
    """
    power = integer(n, "n", at_least=2)
    patterns, spins = real(K, "K", above=0.0), real(N, "N", above=1.0)
    ratio = spins ** (power - 1) / (2 * patterns * _odd_factorial(power))
    return np.asarray(scipy.special.erfc(np.sqrt(ratio)) / 2)


def polynomial_capacity(N: ArrayLike, n: int, *, error: ArrayLike | None = None) -> Array:
    r"""Number of patterns that the energy of power n stores.

    .. math:: K_{\max} = \frac{N^{n-1}}{2 (2n-3)!!\, \ln N}
              \quad\text{(free of errors)}, \qquad
              K = \frac{N^{n-1}}{2 (2n-3)!!\, [\mathrm{erfc}^{-1}(2 P)]^2}
              \quad\text{(a share P of wrong spins)}

    Args:
        N: number of spins, > 1.
        n: power, >= 2.
        error: share P of unstable spins that is allowed, in (0, 1/2); default: none at all.

    Returns:
        Numbers of patterns, to leading order in 1/N.

    Raises:
        DomainError: an argument out of its range.

    Source: eqs. (5) and (6) of arXiv:1606.01164.

    Check: tests/statmech/test_associative_capacity.py::test_polynomial_memories
    """
    power, spins = integer(n, "n", at_least=2), real(N, "N", above=1.0)
    if error is None:
        spread = np.log(spins)
    else:
        spread = scipy.special.erfcinv(2 * real(error, "error", above=0.0, below=0.5)) ** 2
    return np.asarray(spins ** (power - 1) / (2 * _odd_factorial(power) * spread))
