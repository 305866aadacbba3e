r"""Duals of the sine and the cosine.

Why not :math:`q_1 + q_2 \mp 2 q_{12}` in the exponents: near-duplicates and near-antipodes cancel
there; the coordinates carry both distances. And why not ``cosh`` and ``sinh`` of :math:`q_{12}`:
they overflow where the result is representable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp

from deeplimits.pytrees import register_dataclass
from ntk.coordinates import (
    Coordinates,
    check_parameters,
    coordinates,
    floating,
    parameter,
    safe_sqrt,
)
from ntk.duals import Dual
from ntk.gap import correlation_gap


class _Phase(NamedTuple):
    """``a^2 / 2``, ``b^2``, ``C`` = cos(2 phase of the sine), ``1 - C`` and ``1 + C``."""

    half_a2: Any
    b2: Any
    cosine: Any
    minus: Any
    plus: Any


def _sine_phase(dual: Any, like: Any) -> _Phase:
    a, b, c = (parameter(p, like) for p in (dual.a, dual.b, dual.c))
    xp: Any = math if isinstance(c, float) else jnp
    return _Phase(a * a / 2, b * b, xp.cos(2 * c), 2 * xp.sin(c) ** 2, 2 * xp.cos(c) ** 2)


def _wave_kernel(c: Coordinates, p: _Phase) -> tuple[Any, Any, Any]:
    r"""Dual of ``a sin(b x + phase)``.

    With :math:`e_\mp = \exp(-b^2 E(x \mp y)^2 / 2)`, :math:`g_i = \exp(-b^2 q_i)`:
    :math:`K = \tfrac{a^2}{2} (e_- - C e_+)` and
    :math:`V = \tfrac{a^2}{2} [(1 + C e_+)(1 - e_-) - \tfrac C2 (g_1 - g_2)^2]`; the differences
    :math:`e_- - e_+` and :math:`1 - e_\mp` are formed by ``tanh`` and ``expm1``.
    """
    closer = -p.b2 / 2 * c.distance
    farther = -p.b2 / 2 * c.opposite
    minus, plus = jnp.exp(closer), jnp.exp(farther)
    difference = (minus + plus) * jnp.tanh(p.b2 * c.s * c.rho)
    K = p.half_a2 * (p.minus * minus + p.cosine * difference)
    Kdot = p.half_a2 * p.b2 * (p.plus * minus - p.cosine * difference)
    g1, g2 = (jnp.exp(-p.b2 * s * s) for s in (c.s1, c.s2))
    variogram = (p.plus + p.cosine * jnp.expm1(farther)) * -jnp.expm1(closer)
    variogram = variogram - p.cosine * (g1 - g2) ** 2 / 2
    roots = (safe_sqrt(_wave_variance(s * s, p)) for s in (c.s1, c.s2))
    return K, Kdot, correlation_gap(p.half_a2 * variogram, *roots)


def _wave_variance(q: Any, p: _Phase) -> Any:
    return p.half_a2 * (p.minus - p.cosine * jnp.expm1(-2 * p.b2 * q))


@register_dataclass
@dataclass(frozen=True)
class Sin(Dual):
    r"""Sine ``a sin(b x + c)``.

    .. math:: K = \tfrac{a^2}{2} \left[e^{-b^2 (q_1 + q_2 - 2 q_{12}) / 2}
       - \cos(2 c)\, e^{-b^2 (q_1 + q_2 + 2 q_{12}) / 2}\right], \qquad
       \dot K = \tfrac{a^2 b^2}{2} [\ldots + \cos(2 c) \ldots]

    Args:
        a: height, default 1.
        b: frequency, default 1.
        c: phase (radian), default 0.

    Raises:
        DomainError: a parameter that is not a finite real number.

    Source:
        characteristic function of the Gaussian. Check: ``tests/ntk/test_closed_forms.py``.
    """

    a: Any = 1.0
    b: Any = 1.0
    c: Any = 0.0

    def __post_init__(self) -> None:
        check_parameters({}, a=self.a, b=self.b, c=self.c)

    def _wave(self, like: Any) -> _Phase:
        return _sine_phase(self, like)

    def fn(self, x: Any) -> Any:
        """``a sin(b x + c)``."""
        a, b, c = (parameter(p, x) for p in (self.a, self.b, self.c))
        return a * jnp.sin(b * x + c)

    def kernel(self, q1: Any, q2: Any, eps: Any) -> tuple[Any, Any, Any]:
        """``(K, Kdot, eps_out)``; see :meth:`ntk.duals.Dual.kernel`."""
        pair = coordinates(q1, q2, eps)
        return _wave_kernel(pair, self._wave(pair.s))

    def variance(self, q: Any) -> Any:
        """``a^2 (1 - cos(2 c) exp(-2 b^2 q)) / 2``."""
        q = floating(q)
        return _wave_variance(q, self._wave(q))

    def mean(self, q: Any) -> Any:
        """``a sin(c) exp(-b^2 q / 2)``."""
        q = floating(q)
        a, b, c = (parameter(p, q) for p in (self.a, self.b, self.c))
        return a * jnp.exp(-b * b / 2 * q) * jnp.sin(jnp.asarray(c, q.dtype))


@register_dataclass
@dataclass(frozen=True)
class Cos(Dual):
    """Cosine ``a cos(b x + c)``: :class:`Sin` with ``c + pi / 2``, without rounding the phase.

    Args:
        a: height, default 1.
        b: frequency, default 1.
        c: phase (radian), default 0.

    Raises:
        DomainError: a parameter that is not a finite real number.

    Source:
        characteristic function of the Gaussian. Check: ``tests/ntk/test_closed_forms.py``.
    """

    a: Any = 1.0
    b: Any = 1.0
    c: Any = 0.0

    def __post_init__(self) -> None:
        check_parameters({}, a=self.a, b=self.b, c=self.c)

    def _wave(self, like: Any) -> _Phase:
        p = _sine_phase(self, like)
        return _Phase(p.half_a2, p.b2, -p.cosine, p.plus, p.minus)

    def fn(self, x: Any) -> Any:
        """``a cos(b x + c)``."""
        a, b, c = (parameter(p, x) for p in (self.a, self.b, self.c))
        return a * jnp.cos(b * x + c)

    def kernel(self, q1: Any, q2: Any, eps: Any) -> tuple[Any, Any, Any]:
        """``(K, Kdot, eps_out)``; see :meth:`ntk.duals.Dual.kernel`."""
        pair = coordinates(q1, q2, eps)
        return _wave_kernel(pair, self._wave(pair.s))

    def variance(self, q: Any) -> Any:
        """``a^2 (1 + cos(2 c) exp(-2 b^2 q)) / 2``."""
        q = floating(q)
        return _wave_variance(q, self._wave(q))

    def mean(self, q: Any) -> Any:
        """``a cos(c) exp(-b^2 q / 2)``."""
        q = floating(q)
        a, b, c = (parameter(p, q) for p in (self.a, self.b, self.c))
        return a * jnp.exp(-b * b / 2 * q) * jnp.cos(jnp.asarray(c, q.dtype))
