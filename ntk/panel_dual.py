r"""Dual of an activation with kinks, by two-dimensional panels that end at them.

In :math:`x = s_1 (c a + d b)`, :math:`y = \pm s_2 (c a - d b)` with independent standard normal
``a``, ``b``, :math:`c^2 = (1 + |\rho|)/2` and :math:`d^2 = (1 - |\rho|)/2`, every kink is a line
:math:`a = (u_i - d b)/c` or :math:`a = (v_j + d b)/c`. For fixed ``b`` the panels in ``a`` end at
these lines; the integral over ``a`` is analytic in ``b`` except where two lines cross,
:math:`b = (u_i - v_j)/2d`, and there the panels in ``b`` end.

Why not condition ``y`` on ``x``: that inner average varies on the scale
:math:`\sqrt{1 - \rho^2}` around each kink and needs panels graded towards them. In the rotated
coordinates nothing sharpens as :math:`|\rho| \to 1`.

Source: derived here. Check: ``tests/ntk/test_quadrature.py::test_kinked``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from ntk.coordinates import Coordinates, safe_sqrt
from ntk.elementwise import slope
from ntk.quadrature import density, gaussian_edges, panel_sum, positive_std


def panel_kernel(
    f: Any, kinks: Sequence[Any], c: Coordinates, root1: Any, root2: Any, nodes: int
) -> tuple[Any, Any, Any]:
    """``(K, Kdot, eps_out)`` of ``f`` with the given kinks.

    Args:
        f: elementwise, analytic between the kinks.
        kinks: points where ``f`` or ``f'`` jumps (arrays without axes, in the working dtype).
        c: coordinates of the pairs.
        root1, root2: square roots of the output variances.
        nodes: Gauss-Legendre nodes per panel and axis.
    """
    sign = jnp.where(c.eps <= 1, 1, -1).astype(c.s.dtype)
    e = jnp.minimum(c.eps, 2 - c.eps)
    near, apart = jnp.sqrt(1 - e / 2), safe_sqrt(e / 2)
    zero = jnp.zeros_like(c.s * c.eps)
    s1, s2 = zero + positive_std(c.s1**2), zero + positive_std(c.s2**2)
    scale1, scale2 = 1 / jnp.where(root1 > 0, root1, 1), 1 / jnp.where(root2 > 0, root2, 1)
    u, v = [t / s1 for t in kinks], [sign * (t / s2) for t in kinks]
    tiny = float(jnp.finfo(zero.dtype).tiny)
    crossings = [(a - b) / jnp.maximum(2 * apart, tiny) for a in u for b in v]
    # the inner integral is continuous there, so moving the end of a panel has no first-order effect
    outer = lax.stop_gradient(gaussian_edges(crossings, zero.dtype))

    def column(b: Any) -> Any:
        lines = [(a - apart * b) / near for a in u] + [(a + apart * b) / near for a in v]
        weight = density(b)

        def point(a: Any) -> Any:
            x, y = s1 * (near * a + apart * b), sign * (s2 * (near * a - apart * b))
            fx, fy, dx, dy = f(x), f(y), slope(f, x), slope(f, y)
            apart_y = _difference(f, kinks, x, y, s1, s2, sign, near * a, apart * b, dx + dy)
            difference = apart_y * scale1 + fy * (scale1 - scale2)
            w = weight * density(a)
            return w * (fx * fy), w * (dx * dy), w * difference**2 / 2

        return panel_sum(point, gaussian_edges(lines, zero.dtype), nodes, unroll=nodes // 2)

    K, Kdot, gap = panel_sum(column, outer, nodes, unroll=1)
    return K, Kdot, gap


def _difference(
    f: Any, kinks: Any, x: Any, y: Any, s1: Any, s2: Any, sign: Any, ca: Any, db: Any, slopes: Any
) -> Any:
    """``f(x) - f(y)``; by the slopes at both ends where the points are so close that it cancels."""
    step = jnp.where(sign > 0, (s1 - s2) * ca + (s1 + s2) * db, x - y)
    same_side = jnp.ones_like(step, dtype=bool)
    for t in kinks:
        same_side = same_side & ((x > t) == (y > t))
    limit = float(jnp.finfo(step.dtype).eps) ** (1 / 3) / 2
    close = same_side & (jnp.abs(step) < limit * (1 + jnp.abs(x)))
    return jnp.where(close, step * slopes / 2, f(x) - f(y))
