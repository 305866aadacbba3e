r"""Duals of the Gaussian bump and of the Gabor function.

Why not :math:`(1 + 2 \beta q_1)(1 + 2 \beta q_2) - 4 \beta^2 q_{12}^2`: for large variances and
near-duplicates the products cancel; :math:`1 - \rho^2 = \varepsilon (2 - \varepsilon)` does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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


def _bump(c: Coordinates, beta: Any) -> tuple[Any, Any]:
    r"""``M`` of ``exp(-beta x^2)`` and the gap :math:`1 - (M_{11} M_{22} / M^2)^{1/4}`.

    :math:`M^2 - M_{11} M_{22} = R (2 M_1 + R) + 4 \beta^2 (q_1 - q_2)^2`, where :math:`M = M_1 + R`
    and
    :math:`M_1 = 1 + 2 \beta (q_1 + q_2)`.
    """
    q1, q2 = c.s1**2, c.s2**2
    level = 1 + 2 * beta * (q1 + q2)
    turn = (2 * beta * c.s) ** 2 * c.sine2
    M = level + turn
    share = turn / M
    w = (1 + 4 * beta * q1) / M * ((1 + 4 * beta * q2) / M)
    z = share * (2 * (level / M) + share) + (2 * beta * (q1 - q2) / M) ** 2
    root = jnp.sqrt(w)
    return M, z / ((1 + root) * (1 + jnp.sqrt(root)))


@register_dataclass
@dataclass(frozen=True)
class Gaussian(Dual):
    r"""Gaussian bump ``a exp(b x^2)`` with ``b < 0``.

    .. math:: K = a^2 M^{-1/2}, \qquad \dot K = 4 a^2 b^2 q_{12} M^{-3/2}, \qquad
       M = (1 - 2 b q_1)(1 - 2 b q_2) - 4 b^2 q_{12}^2

    and :math:`\varepsilon' = 1 - (M_{11} M_{22} / M^2)^{1/4}`, with :math:`M^2 - M_{11} M_{22}` as
    a sum of positive terms.

    Args:
        a: height, default 1.
        b: curvature < 0, default -1. For ``b > 0`` the averages exist only for variances below
            ``1 / (4 b)``, which no deep network guarantees.

    Raises:
        DomainError: ``b >= 0``, or a parameter that is not a finite real number.

    Source:
        Gaussian integral. Check: ``tests/ntk/test_closed_forms.py``.
    """

    a: Any = 1.0
    b: Any = -1.0

    def __post_init__(self) -> None:
        check_parameters({"b": {"below": 0.0}}, a=self.a, b=self.b)

    def fn(self, x: Any) -> Any:
        """``a exp(b x^2)``."""
        return parameter(self.a, x) * jnp.exp(parameter(self.b, x) * x * x)

    def kernel(self, q1: Any, q2: Any, eps: Any) -> tuple[Any, Any, Any]:
        """``(K, Kdot, eps_out)``; see :meth:`ntk.duals.Dual.kernel`."""
        c = coordinates(q1, q2, eps)
        a, b = parameter(self.a, c.s), parameter(self.b, c.s)
        M, gap = _bump(c, -b)
        K = a * a / jnp.sqrt(M)
        return K, 4 * b * b * (c.s / M) * c.rho * K, gap

    def variance(self, q: Any) -> Any:
        """``a^2 (1 - 4 b q)^(-1/2)``."""
        q = floating(q)
        a, b = parameter(self.a, q), parameter(self.b, q)
        return a * a / jnp.sqrt(1 - 4 * b * q)

    def mean(self, q: Any) -> Any:
        """``a (1 - 2 b q)^(-1/2)``."""
        q = floating(q)
        return parameter(self.a, q) / jnp.sqrt(1 - 2 * parameter(self.b, q) * q)


@register_dataclass
@dataclass(frozen=True)
class Gabor(Dual):
    r"""Gabor function ``exp(-x^2) sin x``.

    .. math:: K &= D^{-1/2} e^{-(\sigma + \delta) / 2 D} \sinh(q_{12} / D), \quad
       \sigma = q_1 + q_2,\; \delta = 4 (q_1 q_2 - q_{12}^2),\; D = 1 + 2 \sigma + \delta, \\
       \dot K &= D^{-5/2} e^{-(\sigma + \delta) / 2 D} \left[(1 + 2 \sigma + 4 q_{12}^2 + 4 q_1 q_2)
       \cosh(q_{12} / D) + 4 q_{12} (\delta + 3 \sigma + 2) \sinh(q_{12} / D)\right]

    :math:`|q_{12}| / D \le 1/4`, so that nothing overflows.

    Source:
        Gaussian integral with complex rate. Check: ``tests/ntk/test_closed_forms.py``.
    """

    def fn(self, x: Any) -> Any:
        """``exp(-x^2) sin(x)``."""
        return jnp.exp(-x * x) * jnp.sin(x)

    def kernel(self, q1: Any, q2: Any, eps: Any) -> tuple[Any, Any, Any]:
        """``(K, Kdot, eps_out)``; see :meth:`ntk.duals.Dual.kernel`."""
        c = coordinates(q1, q2, eps)
        D, bump_gap = _bump(c, 1.0)
        total, product = c.s1**2 + c.s2**2, c.s * c.s
        delta = 4 * product * c.sine2
        q12 = c.s * c.rho
        factor = jnp.exp(-(total + delta) / (2 * D)) / jnp.sqrt(D)
        sinh, cosh = jnp.sinh(q12 / D), jnp.cosh(q12 / D)
        even = (1 + 2 * total + 4 * product * (1 + c.rho * c.rho)) / D
        odd = 4 * (q12 / D) * (delta + 3 * total + 2)
        Kdot = factor * (even * cosh + odd * sinh) / D
        roots = (safe_sqrt(self.variance(s * s)) for s in (c.s1, c.s2))
        gap = correlation_gap(_gabor_variogram(c, D, bump_gap, delta), *roots)
        return factor * sinh, Kdot, gap

    def variance(self, q: Any) -> Any:
        """``exp(-q / D) sinh(q / D) / sqrt(D)`` with ``D = 1 + 4 q``."""
        q = floating(q)
        D = 1 + 4 * q
        return -jnp.expm1(-2 * q / D) / (2 * jnp.sqrt(D))

    def mean(self, q: Any) -> Any:
        """0."""
        return jnp.zeros_like(floating(q))


def _gabor_variogram(c: Coordinates, D: Any, bump_gap: Any, delta: Any) -> Any:
    r""":math:`V = (V_- - V_+) / 2` from the parts :math:`E[e^{-x^2 - y^2} \cos(x \mp y)]` of ``2
    K``.

    Each part is
    :math:`\tfrac12 (\sqrt{K_{11}} - \sqrt{K_{22}})^2 + \sqrt{K_{11} K_{22}}\, \varepsilon` of its
    own, with the exponent of its ratio to the geometric mean collected by hand.
    """
    q1, q2 = c.s1**2, c.s2**2
    c1, c2 = q1 / (1 + 4 * q1), q2 / (1 + 4 * q2)
    m1, m2 = (1 + 4 * q1) ** -0.25, (1 + 4 * q2) ** -0.25
    n1, n2 = m1 * jnp.exp(-c1), m2 * jnp.exp(-c2)
    near = -(c.distance + delta) / (2 * D)
    far = (c.distance - delta) / (2 * D) + delta / D * (c1 + c2) - 2 * ((q1 - q2) / D) * (c1 - c2)
    # bump_gap + (1 - bump_gap) * (1 - exp(exponent))
    minus = bump_gap - (1 - bump_gap) * jnp.expm1(near)
    plus = bump_gap - (1 - bump_gap) * jnp.expm1(far)
    lengths = ((m1 - m2) ** 2 - (n1 - n2) ** 2) / 4
    return lengths + (m1 * m2 * minus - n1 * n2 * plus) / 2
