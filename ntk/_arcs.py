r"""Inverse trigonometric functions of Gaussian kernels, by polynomials.

Why not ``jnp.arccos`` and ``jnp.arcsin``: they lose half of the digits near :math:`\rho = \pm 1`,
have infinite derivatives there, and cost several times more than one square root and one
polynomial.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from ntk._arccos_tables import ARCCOS_32, ARCCOS_64, ARCSIN_32, ARCSIN_64


def _double(x: Any) -> bool:
    return x.dtype == jnp.float64


def estrin(coefficients: tuple[float, ...], x: Any) -> Any:
    """Polynomial with ascending ``coefficients``: pairs in parallel, not Horner's serial chain."""
    terms: list[Any] = list(coefficients)
    while len(terms) > 1:
        pairs = [low + high * x for low, high in zip(terms[::2], terms[1::2], strict=False)]
        terms = pairs + terms[2 * len(pairs) :]
        x = x * x
    return terms[0]


def _inverse_sqrt(x: Any) -> Any:
    """``x^(-1/2)``, and 0 with derivative 0 unless ``x > 0``."""
    return jnp.where(x > 0, 1 / jnp.sqrt(jnp.where(x > 0, x, 1)), 0)


@functools.lru_cache
def _tail_coefficients(degree: int, double: bool) -> tuple[float, ...]:
    table = ARCCOS_64 if double else ARCCOS_32
    scale = math.factorial(degree) ** 2 / 2
    # Gamma(k + 3/2) / Gamma(k + 3/2 + degree) = 1 / [(k + 3/2) ... (k + 1/2 + degree)]
    rising = [math.prod(k + 1.5 + j for j in range(degree)) for k in range(len(table))]
    return tuple(scale * p / r for p, r in zip(table, rising, strict=True))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def tail(eps: Any, degree: int) -> Any:
    r"""Rectified moment :math:`S_m = E[x_+^m y_+^m]` at the correlation ``-|1 - eps|``.

    .. math:: S_0(t) = \tfrac12 \sqrt t\, P(t), \quad S_m'(t) = m^2 S_{m-1}(t), \quad t = 1 - |\rho|

    so that :math:`S_m = t^{m + 1/2}` times a polynomial whose coefficients follow from those of
    ``P`` by exact integration; its relative error is at most that of ``P``. Positive correlations
    follow from :math:`E[x_+^m y_+^m] = E[x^m y^m]/2 - (-1)^m S_m`.

    The derivative of ``S_0``, :math:`1 / (2 \pi \sqrt{1 - \rho^2})`, is taken as 0 at
    :math:`\rho = \pm 1`: it only ever multiplies terms that vanish there.

    Args:
        eps: 1 - correlation in [0, 2]; the sign of the derivative is that of ``1 - eps``.
        degree: m >= 0.
    """
    t = jnp.where(eps <= 1, eps, 2 - eps)
    # Rounding may leave eps a little outside [0, 2]; there the value is that at the end, or as near
    # as rounding allows. XLA:CPU fuses abs with what follows, which pays in single precision.
    t = jnp.where(t < 0, 0, t) if _double(t) else jnp.abs(t)
    return t**degree * jnp.sqrt(t) * estrin(_tail_coefficients(degree, _double(t)), t)


@tail.defjvp
def _tail_jvp(degree: int, primals: Any, tangents: Any) -> Any:
    (eps,), (d_eps,) = primals, tangents
    if degree:
        slope = degree**2 * tail(eps, degree - 1)
    else:
        slope = _inverse_sqrt(eps * (2 - eps)) / (2 * math.pi)
    return tail(eps, degree), jnp.where(eps <= 1, slope, -slope) * d_eps


def arcsine_correction(w: Any) -> Any:
    """``A(w)`` of ``arcsin(x) = x + x w A(w)``, ``w = x^2 <= 1/4``."""
    return estrin(ARCSIN_64 if _double(w) else ARCSIN_32, w)


@jax.custom_jvp
def _arc(x: Any, gap: Any) -> Any:
    """``arcsin(x)`` for ``|x| <= 1/2``, else ``arccos(|x|)``."""
    inner = jnp.abs(x) <= 0.5
    w = jnp.where(inner, x * x, gap / 2)
    root = jnp.where(inner, x, 2 * jnp.sqrt(gap / 2))
    return root + root * w * arcsine_correction(w)


@_arc.defjvp
def _arc_jvp(primals: Any, tangents: Any) -> Any:
    x, gap = primals
    slope = _inverse_sqrt(gap * (2 - gap))
    slope = jnp.where((x >= -0.5) & (x <= 0.5), slope, jnp.where(x > 0, -slope, slope))
    return _arc(x, gap), slope * tangents[0]


def arcsine(x: Any, gap: Any) -> Any:
    """``arcsin(x)`` with full relative accuracy, given also ``gap = 1 - |x|``.

    The derivative :math:`1 / \\sqrt{1 - x^2}` is taken as 0 where ``gap`` is 0.
    """
    arc = _arc(x, gap)
    outer = jnp.where(x > 0, math.pi / 2 - arc, arc - math.pi / 2)
    return jnp.where(jnp.abs(x) <= 0.5, arc, outer)


@jax.custom_jvp
def arcsine_excess(x: Any, gap: Any) -> Any:
    """``arcsin(x) - x`` with full relative accuracy, given also ``gap = 1 - |x|``."""
    inner = jnp.abs(x) <= 0.5
    w = jnp.where(inner, x * x, gap / 2)
    root = jnp.where(inner, x, 2 * jnp.sqrt(gap / 2))
    rest = root * w * arcsine_correction(w)
    outer = math.pi / 2 - (root + rest)
    return jnp.where(inner, rest, jnp.where(x > 0, outer, -outer) - x)


@arcsine_excess.defjvp
def _arcsine_excess_jvp(primals: Any, tangents: Any) -> Any:
    x, gap = primals
    square = gap * (2 - gap)
    inverse = _inverse_sqrt(square)
    return arcsine_excess(x, gap), x * x * inverse / (1 + square * inverse) * tangents[0]


def orthant(x: Any, gap: Any) -> Any:
    """Probability ``1/4 + arcsin(x) / (2 pi)`` that both are positive, accurate near ``x = -1``."""
    arc = _arc(x, gap) / (2 * math.pi)
    return jnp.where(jnp.abs(x) <= 0.5, 0.25 + arc, jnp.where(x > 0, 0.5 - arc, arc))
