r"""Duals of the error function and of the GELU.

Both depend on the correlation after saturation, :math:`r = u_1 u_2 \rho` with
:math:`u_i^2 = 1 - v_i^2 = \alpha q_i / (1 + \alpha q_i)`. Everything is written in the bounded
``u`` and ``v`` (large variances do not overflow) and in :math:`1 - |r|`, which is a sum of positive
terms.

Why not :math:`1 - K / \sqrt{K_{11} K_{22}}` for the gap: see :mod:`ntk.gap`. The mean squared
difference follows from the angle between :math:`\arcsin r` and the mean :math:`\Phi` of
:math:`\arcsin u_1^2` and :math:`\arcsin u_2^2`, taken from the chord between them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from deeplimits.pytrees import register_dataclass
from ntk._arcs import arcsine, arcsine_correction, arcsine_excess, orthant
from ntk.coordinates import (
    Coordinates,
    check_parameters,
    coordinates,
    floating,
    parameter,
    safe_ratio,
    safe_sqrt,
)
from ntk.duals import Dual
from ntk.gap import clip_gap, correlation_gap, offset_gap


class _Saturated(NamedTuple):
    """Pair after saturation: r = u1 u2 rho, gap = 1 - |r|, cosine = sqrt(1 - r^2)."""

    u1: Any
    u2: Any
    v1: Any
    v2: Any
    u: Any
    r: Any
    gap: Any
    cosine: Any

    @property
    def both(self) -> Any:
        """``1 - u1^2 u2^2``."""
        return (self.v1**2 + self.v2**2) - (self.v1 * self.v2) ** 2


def _saturate(c: Coordinates, alpha: Any) -> _Saturated:
    v1, v2 = (1 / jnp.sqrt(1 + alpha * s * s) for s in (c.s1, c.s2))
    root = safe_sqrt(alpha) if not isinstance(alpha, float) else math.sqrt(alpha)
    u1, u2 = root * c.s1 * v1, root * c.s2 * v2
    u = u1 * u2
    parallel = (v1**2 + v2**2 + (u1 - u2) ** 2) / 2  # 1 - u
    gap = parallel + u * jnp.where(c.rho >= 0, c.eps, 2 - c.eps)
    both = (v1**2 + v2**2) - (v1 * v2) ** 2
    cosine = jnp.sqrt(both + u * u * c.sine2)
    return _Saturated(u1, u2, v1, v2, u, u * c.rho, gap, cosine)


class _Chord(NamedTuple):
    """Geometry of arcsin(r) against Phi, the mean of the row angles arcsin(u1^2), arcsin(u2^2).

    rise = sin(Phi) - r >= 0; tangent = tan((Phi + arcsin r) / 2) and its secant; bow =
    1 - cos((angle1 - angle2) / 2); sine = sin(Phi); inverse_cosine =
    1 / sqrt(1 - r^2).
    """

    rise: Any
    tangent: Any
    secant: Any
    bow: Any
    sine: Any
    inverse_cosine: Any

    @property
    def half(self) -> Any:
        """``sin(D / 2)`` of ``D = Phi - arcsin(r)``, half the chord between the angles."""
        return self.rise * self.secant / 2


def _chord(c: Coordinates, p: _Saturated, alpha: Any) -> _Chord:
    y1, y2 = (jnp.sqrt(1 + 2 * alpha * s * s) for s in (c.s1, c.s2))
    sin1, sin2 = (alpha * s * s * v / (y + 1) for s, v, y in ((c.s1, p.v1, y1), (c.s2, p.v2, y2)))
    cos1, cos2 = (y1 + 1) * p.v1 / 2, (y2 + 1) * p.v2 / 2
    quarter1, quarter2 = (jnp.sqrt((1 + cos) / 2) for cos in (cos1, cos2))
    tan1, tan2 = sin1 / (1 + cos1), sin2 / (1 + cos2)
    half_tilt = (quarter1 * quarter2) * (tan1 - tan2)
    tilt = (cos1 * cos2) * (sin1 / cos1 - sin2 / cos2)
    sine = sin1 * cos2 + cos1 * sin2
    cosine = (y1 + y2) * (p.v1 * p.v2) / 2
    rise = safe_ratio(tilt * tilt, sine + p.u, 0.0) + p.u * c.eps  # positive terms only
    inverse = 1 / ((cosine + p.cosine) * p.cosine)
    tangent = (sine + p.r) * (p.cosine * inverse)
    secant = jnp.sqrt(1 + tangent * tangent)
    inverse_cosine = (cosine + p.cosine) * inverse
    return _Chord(rise, tangent, secant, 2 * half_tilt * half_tilt, sine, inverse_cosine)


def _self_angle(q: Any, alpha: Any) -> Any:
    v2 = 1 / (1 + alpha * q)
    return arcsine(alpha * q * v2, v2)


@register_dataclass
@dataclass(frozen=True)
class Erf(Dual):
    r"""Error function ``a erf(b x) + c``.

    .. math:: K = \tfrac{2 a^2}{\pi} \arcsin r + c^2, \qquad
       \dot K = \frac{4 a^2 b^2 / \pi}{\sqrt{(1 + 2 b^2 q_1)(1 + 2 b^2 q_2) - 4 b^4 q_{12}^2}},
       \qquad r = \frac{2 b^2 q_{12}}{\sqrt{(1 + 2 b^2 q_1)(1 + 2 b^2 q_2)}}

    Args:
        a: height, default 1.
        b: slope, default 1.
        c: offset, default 0 (kept as None, so that no code is compiled for it).

    Raises:
        DomainError: a parameter that is not a finite real number.

    Source:
        Williams, Computing with infinite networks (1997); the gap is derived here.
        Check: ``tests/ntk/test_closed_forms.py``, ``tests/ntk/test_zero_variance.py``.
    """

    a: Any = 1.0
    b: Any = 1.0
    c: Any = 0.0

    def __post_init__(self) -> None:
        check_parameters({}, a=self.a, b=self.b, c=self.c)
        if isinstance(self.c, int | float) and self.c == 0:
            object.__setattr__(self, "c", None)

    def _parameters(self, like: Any) -> tuple[Any, Any, Any]:
        """``(a^2, 2 b^2, c)``."""
        a, b, c = (parameter(p, like) for p in (self.a, self.b, self.c))
        return a * a, 2 * b * b, c

    def fn(self, x: Any) -> Any:
        """``a erf(b x) + c``."""
        a, b, c = (parameter(p, x) for p in (self.a, self.b, self.c))
        return a * jax.scipy.special.erf(b * x) + c

    def kernel(self, q1: Any, q2: Any, eps: Any) -> tuple[Any, Any, Any]:
        """``(K, Kdot, eps_out)``; see :meth:`ntk.duals.Dual.kernel`."""
        pair = coordinates(q1, q2, eps)
        a2, alpha, c = self._parameters(pair.s)
        p = _saturate(pair, alpha)
        K = (2 / math.pi) * a2 * arcsine(p.r, p.gap)
        g = _chord(pair, p, alpha)
        # of the variances and not of their roots: the root has derivative 0 at 0, this has not
        v1, v2 = (1 / jnp.sqrt(1 + alpha * floating(q)) for q in (q1, q2))
        Kdot = (2 / math.pi) * a2 * alpha * v1 * v2 * g.inverse_cosine
        gap = _odd_gap(pair, p, g)
        if self.c is None:
            return K, Kdot, gap
        # For a = c (sigmoids) the averages of a positive function cancel near r = -1.
        opposite = 4 * a2 * orthant(p.r, p.gap) + (c * c - a2)
        K = jnp.where(p.r < -0.5, opposite, K + c * c)
        root1, root2 = (safe_sqrt(self._odd_variance(s * s)) for s in (pair.s1, pair.s2))
        return K, Kdot, offset_gap(gap, root1, root2, c)

    def _odd_variance(self, q: Any) -> Any:
        a2, alpha, _ = self._parameters(q)
        return (2 / math.pi) * a2 * _self_angle(q, alpha)

    def variance(self, q: Any) -> Any:
        """``(2 a^2 / pi) arcsin(2 b^2 q / (1 + 2 b^2 q)) + c^2``."""
        q = floating(q)
        c = parameter(self.c, q)
        return self._odd_variance(q) + c * c

    def mean(self, q: Any) -> Any:
        """``c``."""
        q = floating(q)
        return jnp.zeros_like(q) + parameter(self.c, q)


def _odd_gap(c: Coordinates, p: _Saturated, g: _Chord) -> Any:
    r"""Gap of ``erf`` without offset.

    Features are scaled by ``1 / u_i``, so that almost linear ones (small variances) have no
    difference of large terms left:
    :math:`V u = (D - \sin\Phi + r) + \sin\Phi (1 - \cos\beta) + u \varepsilon - \ldots`
    """
    bend = 2 * arcsine_excess(g.half, 1 - g.half) + g.rise * g.tangent**2 / (1 + g.secant)
    excess1, excess2 = _angle_ratio_excess(p.u1, p.v1), _angle_ratio_excess(p.u2, p.v2)
    length = (p.u1 - p.u2) * (p.u1 * excess1 - p.u2 * excess2) / 2
    root1, root2 = jnp.sqrt(1 + excess1), jnp.sqrt(1 + excess2)
    difference = excess1 / (1 + root1) - excess2 / (1 + root2)
    total = bend + g.sine * g.bow - length + p.u * (c.eps - difference * difference / 2)
    norm1, norm2 = (safe_ratio(1.0, u * root, 0.0) for u, root in ((p.u1, root1), (p.u2, root2)))
    return clip_gap(jnp.where(p.u > 0, total * norm1 * norm2, 1))


def _angle_ratio_excess(u: Any, v: Any) -> Any:
    """``arcsin(u^2) / u^2 - 1``."""
    x = u * u
    return safe_ratio(arcsine_excess(x, v * v), x, 0.0)


def sigmoid_like() -> Erf:
    """Closest error function to the logistic sigmoid, ``erf(x / 2.402...) / 2 + 1/2``.

    It differs from the sigmoid by up to 9.7e-3; it is not a substitute for it.
    """
    return Erf(0.5, 1 / 2.4020563531719796, 0.5)


@register_dataclass
@dataclass(frozen=True)
class Gelu(Dual):
    r"""Gaussian error linear unit ``x Phi(x)`` (exact, not the tanh approximation).

    With :math:`C = \sqrt{1 - r^2}` and the quadrant probability
    :math:`\Omega = \tfrac14 + \arcsin(r) / 2\pi`,

    .. math:: K = s \left[\rho\,\Omega + \tfrac{u_1 u_2}{2\pi}
       \left(C + \tfrac{(\rho v_1 v_2)^2}{C}\right)\right], \qquad
       \dot K = \Omega + \frac{r}{2\pi C} \left[\frac{(v_1 v_2)^2}{C^2} + v_1^2 + v_2^2\right]

    Below :math:`r = -1/2` the two terms of K cancel for large variances; there the difference
    :math:`\tan\psi - \psi`, :math:`\psi = 2 \pi \Omega`, is evaluated as such.

    Source:
        Tsuchida et al., Avoiding kernel fixed points (arXiv:2002.08517); rearranged here, and the
        gap is derived here. Check: ``tests/ntk/test_closed_forms.py``.
    """

    def fn(self, x: Any) -> Any:
        """``x Phi(x)``."""
        return jax.nn.gelu(x, approximate=False)

    def kernel(self, q1: Any, q2: Any, eps: Any) -> tuple[Any, Any, Any]:
        """``(K, Kdot, eps_out)``; see :meth:`ntk.duals.Dual.kernel`."""
        c = coordinates(q1, q2, eps)
        p = _saturate(c, 1.0)
        v = p.v1 * p.v2
        quadrant = orthant(p.r, p.gap)
        upper = c.rho * quadrant + p.u * (p.cosine + (c.rho * v) ** 2 / p.cosine) / (2 * math.pi)
        K = jnp.where(p.r < -0.5, _gelu_opposite(c, p), c.s * upper)
        factor = v * v / (p.cosine * p.cosine) + p.v1**2 + p.v2**2
        Kdot = quadrant + p.r / p.cosine * factor / (2 * math.pi)
        roots = (jnp.sqrt(_gelu_ratio(s * s)) for s in (c.s1, c.s2))
        gap = correlation_gap(_gelu_variogram(c, p, quadrant), *roots)
        return K, Kdot, jnp.where(c.s > 0, gap, 1)

    def variance(self, q: Any) -> Any:
        """``E[x^2 Phi(x)^2]``."""
        q = floating(q)
        return q * _gelu_ratio(q)

    def mean(self, q: Any) -> Any:
        """``q / sqrt(2 pi (1 + q))``."""
        q = floating(q)
        return q / jnp.sqrt(2 * math.pi * (1 + q))


def _gelu_opposite(c: Coordinates, p: _Saturated) -> Any:
    """K for ``r < -1/2``: ``s |rho| (tan psi - psi)`` plus an algebraic term, over ``2 pi``."""
    w = jnp.where(p.r < -0.5, p.gap / 2, 0.25)  # sin^2(psi / 2)
    bracket = (2 - 1 / (1 + jnp.sqrt(1 - w))) / (1 - 2 * w) - arcsine_correction(w)
    tangent_excess = 2 * w * jnp.sqrt(w) * bracket
    v = p.v1 * p.v2
    algebraic = p.r * p.r * v / p.cosine - p.cosine * p.both / v
    return (algebraic - c.s * c.rho * tangent_excess) / (2 * math.pi)


def _gelu_ratio(q: Any) -> Any:
    """``E[x^2 Phi(x)^2] / q``, between 1/4 and 1/2."""
    algebraic = 2 * q / ((1 + q) * jnp.sqrt(1 + 2 * q))
    return 0.25 + (_self_angle(q, 1.0) + algebraic) / (2 * math.pi)


def _gelu_variogram(c: Coordinates, p: _Saturated, quadrant: Any) -> Any:
    r""":math:`\tfrac12 E[(\varphi(x) / s_1 - \varphi(y) / s_2)^2]`, every term quadratically small.

    The division by the lengths leaves little to subtract where the GELU is almost homogeneous,
    for small and for large variances.
    """
    x = _chord(c, p, 1.0).half
    excess = 2 * arcsine(x, 1 - x)
    return c.eps * quadrant + (excess + _unequal_part(c) + _turned_part(c, p)) / (2 * math.pi)


def _unequal_part(c: Coordinates) -> Any:
    r"""Algebraic part at correlation 1: :math:`\tfrac12 (w_1 + w_2) - w_{12}`.

    In ``z = (1 + 2 q)^(-1/2)``, with :math:`(z_1 - z_2)^2` factored out by hand.
    """
    z1, z2 = 1 / jnp.sqrt(1 + 2 * c.s1**2), 1 / jnp.sqrt(1 + 2 * c.s2**2)
    square = (z1 - z2) ** 2
    middle, rms, p = (z1 + z2) / 2, jnp.sqrt((z1**2 + z2**2) / 2), z1 * z2
    below = 1 - p  # 1 - z^2 = 2 q z^2
    product = 2 * c.s * p  # sqrt((1 - z1^2) (1 - z2^2))
    terms = (1 + p) * below * (1 + middle / (rms + middle)) / (4 * rms) - middle - below / (2 * rms)
    last = safe_ratio(square * (p * (1 + p) + square / 2), rms * (below + product), 0.0)
    return 2 * (square * terms + last) / ((1 + z1**2) * (1 + z2**2))


def _turned_part(c: Coordinates, p: _Saturated) -> Any:
    """Algebraic part at correlation 1 minus that at ``rho``, over ``s1 s2``."""
    v, start = p.v1 * p.v2, jnp.sqrt(p.both)
    last = p.u * p.u * (v * v / (start * p.cosine) - 1) / (start + p.cosine)
    return p.u * c.sine2 * (v * v / p.cosine + last)
