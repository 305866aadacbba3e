r"""Duals of continuous piecewise-linear activations: hard tanh, ReLU6, clipping, soft shrinkage.

With knots :math:`t_i` and slope jumps :math:`J_i`,
:math:`\varphi'' = \sum_i J_i \delta(x - t_i)`, so that Price's theorem leaves one integral over the
angle :math:`\vartheta` (:math:`\cos\vartheta` runs from a base point to the correlation),

.. math:: \frac{\partial^2 K}{\partial q_{12}^2} dq_{12} = \sum_{ij} J_i J_j
   \exp\Bigl(-\frac{(u_i - v_j)^2}{8 \sin^2(\vartheta/2)}
   - \frac{(u_i + v_j)^2}{8 \cos^2(\vartheta/2)}\Bigr)
   \frac{d\vartheta}{2\pi}, \qquad u_i = t_i / s_1,\ v_j = t_j / s_2 .

Why not one rule from correlation 0: for :math:`u_i \approx v_j` the integrand switches off at an
angle of order :math:`|u_i - v_j|`, which no fixed set of nodes resolves (1e-6 with 64 nodes). For
:math:`|\rho| > 0.7` the base point is :math:`\rho = \pm 1` instead, and with
:math:`r = \sin(\vartheta/2)` the second factor is a Laguerre series in :math:`r^2 \le 0.15` whose
moments with the first factor are known, to rounding error at any angle.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from deeplimits.errors import DomainError, ShapeError
from deeplimits.pytrees import register_dataclass
from ntk.coordinates import check_parameters, coordinates, floating, parameter, safe_sqrt
from ntk.duals import Dual
from ntk.gap import clip_gap
from ntk.quadrature import (
    default_nodes,
    density,
    gaussian_edges,
    gaussian_mean,
    legendre,
    panel_sum,
    positive_std,
)

#: Knots in units of the standard deviation are clipped here; exp(-40^2 / 8) = 1e-87.
_FAR = 40.0
#: The base point is correlation +-1 where 1 - |rho| is smaller. Errors there: 16 terms 2e-16, and
#: 13 nodes 5e-16 on the other side (8 terms 1e-9, 6 nodes 1e-8 for float32).
_NEAR = 0.3


@functools.partial(
    register_dataclass,
    data_fields=["knots", "slopes", "at_zero"],
    meta_fields=[],
)
@dataclass(frozen=True)
class PiecewiseLinear(Dual):
    r"""Continuous piecewise-linear activation.

    .. math:: \varphi(x) = \varphi(0) + \int_0^x \varphi'(t)\,dt, \qquad
       \varphi' = \text{slopes}_i \text{ between knots } i - 1 \text{ and } i

    Args:
        knots: increasing points where the slope changes (a tuple of numbers; may be empty).
        slopes: one more than there are knots, left to right.
        at_zero: value at 0, default 0.

    Raises:
        ShapeError: ``len(slopes) != len(knots) + 1``.
        DomainError: numbers that are not finite, or knots that do not increase.

    Source:
        derived here (Price's theorem). Check: ``tests/ntk/test_piecewise.py``.
    """

    knots: tuple[Any, ...]
    slopes: tuple[Any, ...]
    at_zero: Any = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.knots, tuple) or not isinstance(self.slopes, tuple):
            return  # JAX builds placeholders of other types
        if len(self.slopes) != len(self.knots) + 1:
            raise ShapeError(
                f"slopes must have one more entry than knots, got {len(self.slopes)} slopes and "
                f"{len(self.knots)} knots."
            )
        named = {f"knots[{i}]": t for i, t in enumerate(self.knots)}
        named |= {f"slopes[{i}]": a for i, a in enumerate(self.slopes)}
        check_parameters({}, at_zero=self.at_zero, **named)
        if all(isinstance(t, int | float) for t in self.knots):
            if any(a >= b for a, b in itertools.pairwise(self.knots)):
                raise DomainError(f"knots must increase, got {self.knots}.")

    @property
    def kinks(self) -> tuple[Any, ...]:  # type: ignore[override]
        """The knots."""
        return self.knots

    def _parameters(self, like: Any) -> tuple[list[Any], list[Any], Any]:
        knots = [parameter(t, like) for t in self.knots]
        slopes = [parameter(a, like) for a in self.slopes]
        jumps = [b - a for a, b in itertools.pairwise(slopes)]
        return knots, jumps, slopes[0]

    def fn(self, x: Any) -> Any:
        """The activation; the derivative at a knot is the slope on its left."""
        knots, jumps, first = self._parameters(x)
        # anchored at 0, where a sum of ramps from the left end would cancel
        central = first + sum(jnp.where(t < 0, j, 0.0) for t, j in zip(knots, jumps, strict=True))
        out = parameter(self.at_zero, x) + _as(central, x) * x
        for t, j in zip(knots, jumps, strict=True):
            right, left = jnp.where(x > t, x - t, 0), jnp.where(x < t, t - x, 0)
            out = out + _as(j, x) * jnp.where(t < 0, left, right)
        return out

    def slope(self, x: Any) -> Any:
        """Derivative of the activation away from the knots."""
        knots, jumps, first = self._parameters(x)
        out = jnp.zeros_like(x) + _as(first, x)
        for t, j in zip(knots, jumps, strict=True):
            out = out + jnp.where(x > t, _as(j, x), 0)
        return out

    @jax.jit
    def mean(self, q: Any) -> Any:
        """``E[fn(sqrt(q) z)]`` by panels between the knots."""
        return gaussian_mean(self.fn, self._parameters(q := floating(q))[0], q)

    @jax.jit
    def variance(self, q: Any) -> Any:
        """``E[fn(sqrt(q) z)^2]`` by panels between the knots."""
        return gaussian_mean(lambda x: self.fn(x) ** 2, self._parameters(q := floating(q))[0], q)

    @jax.jit
    def kernel(self, q1: Any, q2: Any, eps: Any) -> tuple[Any, Any, Any]:
        """``(K, Kdot, eps_out)``; see :meth:`ntk.duals.Dual.kernel`."""
        c = coordinates(q1, q2, eps)
        root1, root2 = safe_sqrt(self.variance(q1)), safe_sqrt(self.variance(q2))
        e = jnp.minimum(c.eps, 2 - c.eps)
        s1, s2 = positive_std(c.s1**2), positive_std(c.s2**2)
        sign = jnp.where(c.eps <= 1, 1, -1).astype(e.dtype)
        product, slope, deficit = self._parallel(s1, s2, sign, root1, root2)
        near = e < _NEAR
        lost0, lost1, gain0, gain1 = self._curvature(s1, s2, sign, e, c.rho)
        slope = slope - lost0
        fall = c.s * (e * slope + lost1)
        mean, mean_slope = (
            self.mean(q1) * self.mean(q2),
            self._mean_slope(s1) * self._mean_slope(s2),
        )
        K = jnp.where(near, product - fall, mean + c.s * (c.rho * mean_slope + gain1))
        Kdot = jnp.where(near, sign * slope, mean_slope + gain0)
        norm = jnp.where(root1 * root2 > 0, root1 * root2, 1)
        gap = jnp.where(near, deficit + fall / norm, 1 - K / norm)
        return K, Kdot, clip_gap(jnp.where(root1 * root2 > 0, gap, 1))

    def _curvature(self, s1: Any, s2: Any, sign: Any, e: Any, rho: Any) -> Any:
        """Sums over pairs of knots of :func:`_near_end` and :func:`_near_zero`."""
        knots, jumps, _ = self._parameters(e)
        total = (jnp.zeros_like(s1 * s2 * e),) * 4
        if not knots:
            return total
        pairs = [(i, j) for i in range(len(knots)) for j in range(len(knots))]
        u = jnp.stack([jnp.clip(knots[i] / s1, -_FAR, _FAR) for i, _ in pairs])
        v = jnp.stack([jnp.clip(knots[j] / s2, -_FAR, _FAR) for _, j in pairs])
        weight = jnp.stack([_as(jumps[i] * jumps[j], e) for i, j in pairs])
        end, start = jnp.where(e < _NEAR, e, _NEAR), jnp.where(e < _NEAR, 0, rho)

        @jax.checkpoint
        def add(total: Any, pair: Any) -> Any:
            a, b, w = pair
            terms = (*_near_end(a, sign * b, end), *_near_zero(a, b, start))
            return tuple(t + w * x for t, x in zip(total, terms, strict=True)), None

        return jax.lax.scan(add, total, (u, v, weight))[0]

    def _mean_slope(self, s: Any) -> Any:
        return gaussian_mean(self.slope, self._parameters(s)[0], s * s)

    def _parallel(self, s1: Any, s2: Any, sign: Any, root1: Any, root2: Any) -> tuple[Any, ...]:
        """``K``, slope and half the mean squared normalised difference at correlation ``sign``."""
        knots = self._parameters(sign)[0]
        scale1 = 1 / jnp.where(root1 > 0, root1, 1)
        scale2 = 1 / jnp.where(root2 > 0, root2, 1)
        points = [t / s1 for t in knots] + [sign * (t / s2) for t in knots]
        shape = jnp.broadcast_shapes(s1.shape, s2.shape, sign.shape)
        edges = gaussian_edges([*points, jnp.zeros(shape, sign.dtype)], sign.dtype)

        def body(z: Any) -> tuple[Any, Any, Any]:
            x, y, weight = s1 * z, sign * (s2 * z), density(z)
            f, g = self.fn(x), self.fn(y)
            slope = sign * (self.slope(x) * self.slope(y))
            return weight * (f * g), weight * slope, weight * (f * scale1 - g * scale2) ** 2 / 2

        return panel_sum(body, edges, default_nodes(sign.dtype))


def _as(value: Any, like: Any) -> Any:
    return jnp.asarray(value).astype(like.dtype)


def _near_end(u: Any, v: Any, e: Any) -> tuple[Any, Any]:
    r"""``int (1, 1 - cos t) p dt`` over angles ``t`` from 0 to the one of correlation ``1 - e``.

    .. math:: \tfrac1\pi \sum_k e^{-\beta} L_k^{(-1/2)}(\beta) (M_k, 2 M_{k+1}), \quad
       M_k = \int_0^R r^{2k} e^{-\alpha/r^2} dr = \frac{R^{2k+1} e^{-\xi} - 2 \alpha M_{k-1}}{2k+1},

    with ``alpha = (u - v)^2 / 8``, ``beta = (u + v)^2 / 8``, ``R^2 = e/2``, ``xi = alpha / R^2``.
    """
    # floors far below rounding, so that derivatives stay finite on duplicates
    r2 = jnp.maximum(e / 2, 1e-30 if e.dtype == jnp.float64 else 1e-18)
    r = jnp.sqrt(r2)
    beta = (u + v) ** 2 / 8
    root_xi = jnp.minimum(jnp.abs(u - v) / (math.sqrt(8) * r), 20)
    xi = root_xi**2
    end = jnp.exp(-xi)
    moment = end - math.sqrt(math.pi) * root_xi * jax.scipy.special.erfc(root_xi)
    last, now = jnp.zeros_like(beta), jnp.exp(-beta)
    power = r
    total0 = total1 = jnp.zeros_like(moment * beta)
    for k in range(16 if e.dtype == jnp.float64 else 8):
        total0 = total0 + now * (power * moment)
        moment = (end - 2 * xi * moment) / (2 * k + 3)
        power = power * r2
        total1 = total1 + now * (power * moment)
        last, now = now, ((2 * k + 0.5 - beta) * now - (k - 0.5) * last) / (k + 1)
    return total0 / math.pi, total1 * (2 / math.pi)


def _near_zero(u: Any, v: Any, rho: Any) -> tuple[Any, Any]:
    """``int (1, rho - r) p_r(u, v) dr`` over correlations ``r`` from 0 to ``rho``."""
    x, w = (jnp.asarray(a, rho.dtype) for a in legendre(13 if rho.dtype == jnp.float64 else 6))

    @jax.checkpoint
    def node(total: Any, rule: Any) -> Any:
        r = (rule[0] + 1) / 2 * rho
        rest = 1 - r * r
        exponent = (u * u + v * v - 2 * (u * v) * r) / (2 * rest)
        term = rule[1] / (4 * math.pi) * rho * jax.lax.rsqrt(rest) * jnp.exp(-exponent)
        return (total[0] + term, total[1] + term * (rho - r)), None

    zero = jnp.zeros_like(rho * u * v)
    return jax.lax.scan(node, (zero, zero), (x, w))[0]


def clip(low: float, high: float) -> PiecewiseLinear:
    """``min(max(x, low), high)`` for numbers ``low < high``.

    Raises:
        DomainError: ``low >= high``, or not finite.
    """
    check_parameters({}, low=low, high=high)
    if low >= high:
        raise DomainError(f"clip needs low < high, got low = {low}, high = {high}.")
    return PiecewiseLinear((low, high), (0.0, 1.0, 0.0), min(max(0.0, low), high))


def hard_tanh() -> PiecewiseLinear:
    """``min(max(x, -1), 1)``."""
    return clip(-1.0, 1.0)


def relu6() -> PiecewiseLinear:
    """``min(max(x, 0), 6)``."""
    return clip(0.0, 6.0)


def hard_sigmoid() -> PiecewiseLinear:
    """``min(max(x / 6 + 1/2, 0), 1)`` (``jax.nn.hard_sigmoid``)."""
    return PiecewiseLinear((-3.0, 3.0), (0.0, 1 / 6, 0.0), 0.5)


def soft_shrink(threshold: float = 0.5) -> PiecewiseLinear:
    """``sign(x) max(|x| - threshold, 0)``.

    Raises:
        DomainError: ``threshold <= 0``.
    """
    check_parameters({"threshold": {"above": 0.0}}, threshold=threshold)
    return PiecewiseLinear((-threshold, threshold), (1.0, 0.0, 1.0))


def triangle(width: float = 1.0) -> PiecewiseLinear:
    """``max(1 - |x| / width, 0)``.

    Raises:
        DomainError: ``width <= 0``.
    """
    check_parameters({"width": {"above": 0.0}}, width=width)
    return PiecewiseLinear((-width, 0.0, width), (0.0, 1 / width, -1 / width, 0.0), 1.0)
