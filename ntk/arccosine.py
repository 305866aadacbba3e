r"""Duals of the rectified activations: ReLU family, rectified powers, step and sign.

All follow from the rectified moments :math:`E[x_+^m y_+^m] = J_m(\theta) / (2 \pi)` at unit
variances (arc-cosine kernels), evaluated from :math:`\varepsilon = 1 - \rho` by one square root and
one polynomial per moment.

Why not the textbook form :math:`\sin\theta + (\pi - \theta) \cos\theta`: near :math:`\theta = \pi`
the terms cancel down to :math:`(\pi - \theta)^{2 m + 1}`, and near :math:`\theta = 0` the angle is
lost in the rounding of :math:`\rho`. :func:`ntk._arcs.tail` has full relative accuracy at both
ends.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp

from deeplimits.pytrees import register_dataclass
from ntk._arcs import arcsine, tail
from ntk.coordinates import (
    check_degree,
    check_parameters,
    coordinates,
    floating,
    half_power,
    parameter,
    safe_ratio,
    safe_sqrt,
)
from ntk.duals import Dual


@register_dataclass
@dataclass(frozen=True)
class ABRelu(Dual):
    r"""Piecewise linear ``a min(x, 0) + b max(x, 0)``: ReLU (0, 1), leaky (alpha, 1), abs (-1, 1).

    .. math::
       K &= \tfrac{(a-b)^2}{2\pi} s (\sin\theta + (\pi-\theta)\cos\theta) + a b\,q_{12}, \quad
       \dot K = \tfrac{(a-b)^2}{2\pi} (\pi-\theta) + a b, \\
       \varepsilon' &= \left[\tfrac{(a-b)^2}{2} (1 - \kappa_1) + a b\,\varepsilon\right]
       / \tfrac{a^2 + b^2}{2}, \qquad \kappa_1 = 2 E[x_+ y_+]

    The gap is rearranged so that nothing cancels for any signs of ``a`` and ``b``; for ``abs`` it
    is accurate also at antipodes, which map to the same output.

    Args:
        a: slope for x < 0, default 0.
        b: slope for x > 0, default 1.

    Raises:
        DomainError: a slope that is not a finite real number.

    Source:
        Cho & Saul, Kernel Methods for Deep Learning (2009), section 2, n = 0 and 1.
        Check: ``tests/ntk/test_arccosine.py``.
    """

    a: Any = 0.0
    b: Any = 1.0

    kinks = (0.0,)

    def __post_init__(self) -> None:
        check_parameters({}, a=self.a, b=self.b)

    def _slopes(self, like: Any) -> tuple[Any, Any]:
        return parameter(self.a, like), parameter(self.b, like)

    def fn(self, x: Any) -> Any:
        """``a min(x, 0) + b max(x, 0)``; the derivative at 0 is ``a``."""
        a, b = self._slopes(x)
        return jnp.where(x > 0, b * x, a * x)

    def kernel(self, q1: Any, q2: Any, eps: Any) -> tuple[Any, Any, Any]:
        """``(K, Kdot, eps_out)``; see :meth:`ntk.duals.Dual.kernel`."""
        c = coordinates(q1, q2, eps)
        a, b = self._slopes(c.s)
        jump2, product, norm = (a - b) ** 2, a * b, (a * a + b * b) / 2
        one_sided = isinstance(product, float) and product == 0  # its terms are left out
        near = c.eps <= 1
        step, ramp = tail(c.eps, 0), tail(c.eps, 1)
        K = jump2 * (ramp + jnp.where(near, c.rho / 2, 0))
        Kdot = jump2 * jnp.where(near, 0.5 - step, step)
        if one_sided:  # jump2 is 2 norm
            gap = jnp.where(near, c.eps, 1) - 2 * ramp if norm > 0 else jnp.ones_like(c.eps)
        else:
            K, Kdot = K + product * c.rho, Kdot + product
            gap = jnp.where(near, norm * c.eps, (a + b) ** 2 / 2 - product * (2 - c.eps))
            gap = _scaled(gap - jump2 * ramp, norm)
        return c.s * K, Kdot, jnp.where(c.s > 0, gap, 1)

    def variance(self, q: Any) -> Any:
        """``q (a^2 + b^2) / 2``."""
        a, b = self._slopes(q := floating(q))
        return q * ((a * a + b * b) / 2)

    def mean(self, q: Any) -> Any:
        """``(b - a) sqrt(q / (2 pi))``."""
        a, b = self._slopes(q := floating(q))
        return (b - a) / math.sqrt(2 * math.pi) * safe_sqrt(q)


@functools.partial(register_dataclass, data_fields=(), meta_fields=())
@dataclass(frozen=True)
class Relu(ABRelu):
    """``max(x, 0)``: :class:`ABRelu` with slopes 0 and 1 known to the compiler.

    Source:
        Cho & Saul (2009), section 2, n = 1. Check: ``tests/ntk/test_arccosine.py``.
    """

    a: float = field(default=0.0, init=False)
    b: float = field(default=1.0, init=False)


def _scaled(gap: Any, norm: Any) -> Any:
    """``gap / norm`` (1 where the activation is identically 0)."""
    if isinstance(norm, float):
        return gap * (1 / norm) if norm > 0 else jnp.ones_like(gap)
    return jnp.where(norm > 0, gap * safe_ratio(jnp.ones_like(norm), norm, 0.0), 1)


@register_dataclass
@dataclass(frozen=True)
class RectifiedMonomial(Dual):
    r"""Rectified power ``max(x, 0)^degree`` (degree 0: the :class:`Step`).

    .. math:: K = (q_1 q_2)^{m/2} \frac{J_m(\theta)}{2\pi}, \qquad
       \dot K = m^2 (q_1 q_2)^{(m-1)/2} \frac{J_{m-1}(\theta)}{2\pi}

    with :math:`J_m / 2\pi = E[x^m y^m]/2 - (-1)^m S_m` for :math:`\rho \ge 0` and :math:`S_m` below
    (:func:`ntk._arcs.tail`).

    Args:
        degree: integer in [0, 100].

    Raises:
        DomainError: ``degree`` not an integer in that range.

    Source:
        Cho & Saul (2009), section 2; the evaluation is derived here.
        Check: ``tests/ntk/test_arccosine.py``.
    """

    degree: int = field(metadata={"static": True})

    def __post_init__(self) -> None:
        check_degree(self.degree)

    @property
    def kinks(self) -> tuple[float, ...]:  # type: ignore[override]
        """0 for degrees 0 and 1; above, the derivative is continuous."""
        return (0.0,) if self.degree <= 1 else ()

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        """False for degree 0, the step."""
        return self.degree > 0

    def fn(self, x: Any) -> Any:
        """``max(x, 0)^degree``, with derivative 0 at 0."""
        if self.degree == 0:
            return Step().fn(x)
        return jnp.where(x > 0, x, 0) ** self.degree

    def kernel(self, q1: Any, q2: Any, eps: Any) -> tuple[Any, Any, Any]:
        """``(K, Kdot, eps_out)``; see :meth:`ntk.duals.Dual.kernel`."""
        m = self.degree
        if m == 0:
            return Step().kernel(q1, q2, eps)
        c = coordinates(q1, q2, eps)
        q1, q2 = floating(q1), floating(q2)
        K = half_power(q1, m) * half_power(q2, m) * _rectified(c.eps, m)
        scale = m * m * half_power(q1, m - 1) * half_power(q2, m - 1)
        gap = jnp.where(c.s > 0, _rectified_gap(c.eps, m), 1)
        return K, scale * _rectified(c.eps, m - 1), gap

    def variance(self, q: Any) -> Any:
        """``q^m (2 m - 1)!! / 2``."""
        if self.degree == 0:
            return Step().variance(q)
        return floating(q) ** self.degree * (_double_factorial(2 * self.degree - 1) / 2)

    def mean(self, q: Any) -> Any:
        """``q^(m/2) 2^(m/2) Gamma((m + 1) / 2) / (2 sqrt(pi))``."""
        m = self.degree
        moment = 2 ** (m / 2) * math.gamma((m + 1) / 2) / (2 * math.sqrt(math.pi))
        return half_power(floating(q), m) * moment


def _double_factorial(n: int) -> int:
    return math.prod(range(n, 0, -2))


def _full_moment(degree: int) -> list[float]:
    """Coefficients ``b_l`` of ``E[x^m y^m] = sum_l b_l rho^l`` at unit variances, all >= 0."""
    b = [0.0] * (degree + 1)
    for order in range(degree, -1, -2):
        half = (degree - order) // 2
        pairs = math.factorial(order) * math.factorial(half) ** 2 * 4**half
        b[order] = math.factorial(degree) ** 2 / pairs
    return b


def _polynomial(coefficients: list[float], x: Any) -> Any:
    total = jnp.full_like(x, coefficients[-1])
    for value in reversed(coefficients[:-1]):
        total = total * x + value
    return total


def _rectified(eps: Any, m: int) -> Any:
    """``E[x_+^m y_+^m]`` at unit variances."""
    near = eps <= 1
    rho = jnp.where(near, 1 - eps, 0)
    half = _polynomial([b / 2 for b in _full_moment(m)], rho)
    part = tail(eps, m)
    return jnp.where(near, half - part if m % 2 == 0 else half + part, part)


def _rectified_gap(eps: Any, m: int) -> Any:
    r"""``1 - E[x_+^m y_+^m] / E[x_+^{2m}]``.

    For positive correlations :math:`1 - \\rho^l = \\varepsilon (1 + \\rho + ... + \\rho^{l-1})`, so
    that the polynomial part is a sum of positive terms proportional to ``eps``.
    """
    b = _full_moment(m)
    norm = float(_double_factorial(2 * m - 1))
    near = eps <= 1
    above = [sum(b[k:]) / norm for k in range(1, m + 1)]
    smooth = eps * _polynomial(above, jnp.where(near, 1 - eps, 0))
    part = tail(eps, m) * (2 / norm)
    return jnp.where(near, smooth + part if m % 2 == 0 else smooth - part, 1 - part)


@register_dataclass
@dataclass(frozen=True)
class Step(Dual):
    r"""Heaviside step, 1 for x > 0, 0 for x < 0 and 1/2 at 0.

    .. math:: K = \frac{\pi - \theta}{2\pi}, \qquad \dot K = \frac{1}{2\pi \sqrt{q_1 q_2 -
    q_{12}^2}},
       \qquad \varepsilon' = \theta / \pi

    ``Kdot`` diverges where the inputs are parallel, so that no NTK exists; there it is returned as
    0.

    Source:
        Cho & Saul (2009), n = 0. Check: ``tests/ntk/test_arccosine.py``.
    """

    kinks = (0.0,)
    differentiable = False

    def fn(self, x: Any) -> Any:
        """``heaviside(x, 1/2)``."""
        x = floating(x)
        return jnp.where(x > 0, 1.0, jnp.where(x < 0, 0.0, 0.5)).astype(x.dtype)

    def kernel(self, q1: Any, q2: Any, eps: Any) -> tuple[Any, Any, Any]:
        """``(K, Kdot, eps_out)``; see :meth:`ntk.duals.Dual.kernel`."""
        c = coordinates(q1, q2, eps)
        part = tail(c.eps, 0)
        near = c.eps <= 1
        K = jnp.where(near, 0.5 - part, part)
        gap = jnp.where(near, 2 * part, 1 - 2 * part)
        # A zero input gives the constant 1/2: variance 1/4 instead of 1/2.
        constant = jnp.where(c.s1 == c.s2, 0.0, 1 - math.sqrt(0.5))
        gap = jnp.where(c.s > 0, gap, constant.astype(gap.dtype))
        return K, _jump_slope(c) / (2 * math.pi), gap

    def variance(self, q: Any) -> Any:
        """1/2, and 1/4 at ``q = 0``."""
        q = floating(q)
        return jnp.where(q > 0, 0.5, 0.25).astype(q.dtype)

    def mean(self, q: Any) -> Any:
        """1/2."""
        return jnp.full_like(floating(q), 0.5)


@register_dataclass
@dataclass(frozen=True)
class Sign(Dual):
    r"""Sign of the input, 0 at 0.

    .. math:: K = \frac2\pi \arcsin\rho, \qquad \dot K = \frac{2}{\pi \sqrt{q_1 q_2 - q_{12}^2}},
       \qquad \varepsilon' = 2 \theta / \pi

    ``Kdot`` diverges where the inputs are parallel, so that no NTK exists; there it is returned as
    0.

    Source:
        Cho & Saul (2009), n = 0. Check: ``tests/ntk/test_arccosine.py``.
    """

    kinks = (0.0,)
    differentiable = False

    def fn(self, x: Any) -> Any:
        """``sign(x)``."""
        return jnp.sign(x)

    def kernel(self, q1: Any, q2: Any, eps: Any) -> tuple[Any, Any, Any]:
        """``(K, Kdot, eps_out)``; see :meth:`ntk.duals.Dual.kernel`."""
        c = coordinates(q1, q2, eps)
        near = c.eps <= 1
        K = (2 / math.pi) * arcsine(c.rho, jnp.where(near, c.eps, 2 - c.eps))
        part = 4 * tail(c.eps, 0)
        return K, _jump_slope(c) * (2 / math.pi), jnp.where(near, part, 2 - part)

    def variance(self, q: Any) -> Any:
        """1, and 0 at ``q = 0``."""
        q = floating(q)
        return jnp.where(q > 0, 1, 0).astype(q.dtype)

    def mean(self, q: Any) -> Any:
        """0."""
        return jnp.zeros_like(floating(q))


def _jump_slope(c: Any) -> Any:
    """``1 / sqrt(q1 q2 - q12^2)``, and 0 where that is 0."""
    inside = c.s * jnp.sqrt(jnp.where(c.sine2 > 0, c.sine2, 1))
    return jnp.where(c.sine2 > 0, safe_ratio(jnp.ones_like(inside), inside, 0.0), 0)
