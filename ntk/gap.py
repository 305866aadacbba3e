r"""The correlation gap of a dual's output, :math:`\varepsilon' = 1 - K / \sqrt{K_{11} K_{22}}`.

Why not that formula: for near-duplicates it subtracts two equal numbers and leaves an absolute
error of one rounding unit ``u``, that is an angle of :math:`\sqrt u` (3e-4 in float32). The forms
here are sums of squares, with an error of about :math:`u \sqrt{\varepsilon'}`, the one that the
inputs imply.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntk.coordinates import coordinates, floating, safe_ratio, safe_sqrt


@jax.custom_jvp
def clip_gap(gap: Any) -> Any:
    """``gap`` clipped to [0, 2] within rounding; the derivative is that of ``gap``.

    A plain clip would halve the derivative on the diagonal, where the gap is exactly 0; and it
    costs two more instructions for NaN, which this form passes on as well.
    """
    return jnp.where(gap < 0, 0, jnp.where(gap > 2, 2, gap))


@clip_gap.defjvp
def _clip_gap_jvp(primals: Any, tangents: Any) -> Any:
    return clip_gap(*primals), tangents[0]


def correlation_gap(variogram: Any, root1: Any, root2: Any) -> Any:
    r"""Gap of the correlation from half the mean squared difference.

    .. math:: \varepsilon' = \frac{V - (\sqrt{K_{11}} - \sqrt{K_{22}})^2 / 2}{\sqrt{K_{11} K_{22}}},
       \qquad V = \tfrac12 E[(\varphi(x) - \varphi(y))^2] = \tfrac12 (K_{11} + K_{22}) - K

    Args:
        variogram: ``V``, computed as a sum of positive terms.
        root1, root2: square roots of the output variances; where one is 0 the gap is 1.

    The error is about ``u sqrt(eps')``, plus ``u`` times the square of the relative difference of
    the roots (for parallel inputs under an almost linear activation, whose true gap is smaller than
    that).

    Source:
        derived here. Check: ``tests/ntk/test_closed_forms.py::test_gap``.
    """
    gap = safe_ratio(variogram - (root1 - root2) ** 2 / 2, root1 * root2, 1.0)
    return clip_gap(gap)


def offset_gap(gap: Any, root1: Any, root2: Any, constant: Any) -> Any:
    r"""Gap after adding a constant to an activation of mean 0.

    .. math:: \varepsilon'' = \frac{r_1 r_2\, \varepsilon' + c^2 (r_1 - r_2)^2
       / (R_1 R_2 + r_1 r_2 + c^2)}{R_1 R_2}, \qquad R_i = \sqrt{r_i^2 + c^2}

    Args:
        gap: gap without the constant.
        root1, root2: square roots ``r_i`` of the variances without the constant.
        constant: ``c``.

    Source:
        Lagrange's identity; derived here. Check: ``tests/ntk/test_closed_forms.py::test_gap``.
    """
    square = constant * constant
    new = safe_sqrt(root1**2 + square) * safe_sqrt(root2**2 + square)
    old = root1 * root2
    turn = safe_ratio(square * (root1 - root2) ** 2, new + old + square, 0.0)
    return clip_gap(safe_ratio(old * gap + turn, new, 1.0))


def kernel_rise(
    slope: Callable[[Any, Any, Any], Any], q1: Any, q2: Any, eps: Any, *, n_nodes: int = 8
) -> Any:
    r"""Fall of the kernel from correlation 1 to :math:`1 - \varepsilon`.

    .. math:: K(\rho = 1) - K(1 - \varepsilon) = s_1 s_2 \int_0^\varepsilon \dot K(t)\,dt
       = 2 s_1 s_2\, \varepsilon \int_0^1 \dot K(\varepsilon v^2)\, v\,dv

    by Gauss-Legendre nodes in ``v``, in which :math:`\dot K` is smooth also for activations with
    kinks (where it starts with :math:`\sqrt t`).

    Args:
        slope: ``slope(q1, q2, eps) -> Kdot``.
        q1, q2: variances.
        eps: 1 - correlation. The error is a rounding error for ``eps`` small against the range on
            which ``Kdot`` varies (about ``1 / (1 + q)``), whatever the activation.
        n_nodes: number of nodes.

    Source:
        Price's theorem. Check: ``tests/ntk/test_closed_forms.py::test_kernel_rise``.
    """
    c = coordinates(q1, q2, eps)
    nodes, weights = np.polynomial.legendre.leggauss(n_nodes)
    v = (nodes + 1) / 2
    terms = [
        float(w * x) * slope(q1, q2, float(x * x) * c.eps) for x, w in zip(v, weights, strict=True)
    ]
    return c.s * c.eps * sum(terms)


def scale_deficit(
    fn: Callable[[Any], Any],
    q1: Any,
    q2: Any,
    root1: Any,
    root2: Any,
    *,
    n_nodes: int = 96,
    half_width: float = 9.0,
) -> Any:
    r"""Gap of the output correlation of parallel inputs of unequal length.

    .. math:: \tfrac12 E\left[\left(\varphi(s_1 z) / \sqrt{K_{11}}
       - \varphi(s_2 z) / \sqrt{K_{22}}\right)^2\right]

    by the trapezoid rule: an average of squares, so that its error is ``u`` times its own root.
    The total gap is this plus ``kernel_rise / (root1 * root2)``.

    Args:
        fn: activation, evaluated on the rows and on the columns only.
        q1, q2: variances.
        root1, root2: square roots of the output variances, > 0.
        n_nodes: trapezoid nodes; accurate for smooth activations.
        half_width: range in standard deviations.

    Source:
        derived here. Check: ``tests/ntk/test_closed_forms.py::test_scale_deficit``.
    """
    c = coordinates(q1, q2, jnp.ones_like(floating(q1) * floating(q2)))
    step = 2 * half_width / n_nodes
    z = step * (np.arange(n_nodes) + 0.5) - half_width
    w = step * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) / 2

    def add(total: Any, node: Any) -> tuple[Any, None]:
        z, w = node
        return total + w * (fn(c.s1 * z) / root1 - fn(c.s2 * z) / root2) ** 2, None

    start = jnp.zeros_like(c.s)
    nodes = jnp.asarray(z, start.dtype), jnp.asarray(w, start.dtype)
    return jax.lax.scan(add, start, nodes)[0]
