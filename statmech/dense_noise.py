r"""Noise of the other patterns in dense (P-body) networks, as a polynomial of the overlap.

The energy of the patterns that are not retrieved is a Gaussian field over configurations: its
covariance between two of them with overlap q is N alpha c^2 k(q). With distinct indices only the
highest power appears; in the full sum coincident indices add lower ones.
"""

from __future__ import annotations

import math
from functools import cache

import jax.numpy as jnp
import numpy as np

from deeplimits.errors import DomainError
from deeplimits.typing import Array
from deeplimits.validate import choice, integer

INDEX = ("distinct", "full")
#: Largest number of spins in an interaction.
MOST_BODIES = 20


@cache
def _coefficients(P: int, index: str) -> tuple[float, ...]:
    out = [0.0] * (MOST_BODIES + 1)
    if index == "distinct":
        out[P] = float(math.factorial(P))
        return tuple(out)
    for j in range((P + 1) // 2):  # the power 0 (j = P/2) is a constant of the energy
        n = P - 2 * j
        a = math.factorial(P) // (2**j * math.factorial(j) * math.factorial(n))
        out[n] = float(a * a * math.factorial(n))
    return tuple(out)


def noise_kernel(P: int, index: str = "distinct") -> np.ndarray:
    r"""Coefficients of the noise kernel k(q), by power.

    .. math:: k_{distinct}(q) = P!\, q^P, \qquad
       k_{full}(q) = \sum_{j < P/2} a_{P-2j}^2 (P - 2j)!\, q^{P-2j}, \quad
       a_{P-2j} = \frac{P!}{2^j j! (P - 2j)!}

    The a are the coefficients of z^P in Hermite polynomials; the constant term, which shifts all
    energies alike, is left out.

    Args:
        P: number of spins in an interaction, 2 to 20.
        index: ``"distinct"`` (sum over different indices) or ``"full"`` (over all indices,
            :math:`H = -cN \sum_\mu m_\mu^P`).

    Returns:
        Coefficients of the powers 0..P, NumPy float64 ``(P + 1,)``.

    Raises:
        DomainError: P out of range, unknown ``index``.

    Source: derived here; leading behaviour as in D. Krotov and J. J. Hopfield, arXiv:1606.01164.

    Check: ``tests/statmech/test_dense_noise.py::test_kernels_against_moments_and_enumeration``
    """
    check_bodies(P)
    choice(index, "index", INDEX)
    return np.array(_coefficients(P, index)[: P + 1])


def padded_kernel(P: int, index: str) -> np.ndarray:
    """The same, padded to one length for all P so that programs are shared."""
    return np.array(_coefficients(P, index))


def check_bodies(P: int) -> int:
    """P in range; 2 is allowed here."""
    if integer(P, "P", at_least=2) > MOST_BODIES:
        raise DomainError(f"P must lie in 2..{MOST_BODIES}, got {P}.")
    return int(P)


def polynomial(kernel: Array, q: Array) -> Array:
    """k(q), elementwise, for coefficients ``(MOST_BODIES + 1,)``."""
    out = jnp.zeros_like(q)
    for n in range(MOST_BODIES, -1, -1):
        out = out * q + kernel[n]
    return out


def slope(kernel: Array, q: Array) -> Array:
    """k'(q)."""
    out = jnp.zeros_like(q)
    for n in range(MOST_BODIES, 0, -1):
        out = out * q + n * kernel[n]
    return out


def curvature(kernel: Array, q: Array) -> Array:
    """k''(q)."""
    out = jnp.zeros_like(q)
    for n in range(MOST_BODIES, 1, -1):
        out = out * q + n * (n - 1) * kernel[n]
    return out


def chord(kernel: Array, q: Array) -> Array:
    """(k(1) - k(q))/(1 - q), without cancellation where q is near 1."""
    total, power = jnp.zeros_like(q), jnp.zeros_like(q)
    for n in range(1, MOST_BODIES + 1):
        power = power * q + 1  # 1 + q + ... + q^(n-1)
        total = total + kernel[n] * power
    return total
