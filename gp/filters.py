"""What full-batch training on squared loss does to one eigenmode of the kernel.

A filter maps the scaled eigenvalue ``a = learning_rate * eigenvalue / normaliser`` to the residual
``r`` that is left of the mode and the gain ``(1 - r) / a``, finite at ``a = 0``.
"""

from __future__ import annotations

import numpy as np

#: Residual and gain of every mode.
Filter = tuple[np.ndarray, np.ndarray]


def flow_filter(a: np.ndarray, t: float) -> Filter:
    """Residual ``exp(-a t)`` and gain ``(1 - exp(-a t)) / a``, the latter t at a = 0."""
    gain = np.where(a * t > 0, -np.expm1(-a * t) / np.where(a > 0, a, 1.0), t)
    return np.exp(-a * t), gain


def descent_filter(a: np.ndarray, k: float) -> Filter:
    """Residual ``(1 - a)^k`` and gain ``(1 - (1 - a)^k) / a``, the latter k at a = 0.

    Why ``log1p``: after 1e6 steps the slow modes have a ~ 1e-6, of which ``1 - a`` keeps only ten
    digits.
    """
    slow = a < 0.5
    power = k * np.log1p(-np.where(slow, a, 0.0))
    residual = np.where(slow, np.exp(power), np.power(1.0 - a, k))
    missing = np.where(slow, -np.expm1(power), 1.0 - residual)
    return residual, np.where(a > 0, missing / np.where(a > 0, a, 1.0), k)


def heavy_ball_filter(a: np.ndarray, k: float, m: float) -> Filter:
    r"""Residual r_k and gain :math:`(1 - r_k)/a` of ``v <- m v - grad, w <- w + v``.

    .. math:: r_{j+1} = (1 + m - a)\, r_j - m\, r_{j-1}, \qquad r_0 = 1, \quad r_1 = 1 - a

    The roots :math:`z_{1,2} = 1 - \delta_{1,2}` of :math:`z^2 - (1+m-a) z + m` satisfy
    :math:`\delta_1 \delta_2 = a`, and with :math:`U_j = (z_1^j - z_2^j)/(z_1 - z_2)`,
    :math:`r_k = U_{k+1} - m\, U_k`.

    Why three routes: the recursion itself is best for few steps. Slow modes need
    :math:`\delta_1 = a/\delta_2` (no cancellation) and ``log1p``. Near the double roots
    :math:`a = (1 \mp \sqrt m)^2` the difference quotient loses half the digits, while
    ``sin(k x)/sin(x)`` of the angle between the roots does not.

    Args:
        a: learning rate times eigenvalue, in [0, 2 (1 + m)).
        k: number of steps, a whole number >= 0.
        m: momentum, in (0, 1).

    Source: B. T. Polyak, USSR Comput. Math. Math. Phys. 4 (1964) 1; solution derived here.
    Check: test_dynamics.py::test_momentum_filter_high_precision.
    """
    if k <= 64:
        return _heavy_ball_recursion(a, int(k), m)
    low, high = _double_roots(m)
    total = 1 - m + a
    root = np.sqrt(np.maximum((low - a) * (high - a), 0.0))
    split = (a < low) & (root > 0.1 * total)
    slow = _heavy_ball_split(np.where(split, a, 0.0), k, m, np.where(split, root, 1 - m))
    u_next, u = _heavy_ball_u(a, k + 1, m), _heavy_ball_u(a, k, m)
    residual = u_next - m * u
    gain = (1 - residual) / np.where(split, 1.0, a)
    return np.where(split, slow[0], residual), np.where(split, slow[1], gain)


def _double_roots(m: float) -> tuple[float, float]:
    """``(1 -+ sqrt(m))^2``, the smaller without cancellation as m tends to 1."""
    high = (1 + float(np.sqrt(m))) ** 2
    return (1 - m) ** 2 / high, high


def _heavy_ball_recursion(a: np.ndarray, k: int, m: float) -> Filter:
    residual, before = np.ones_like(a), np.ones_like(a)
    gain, gain_before = np.zeros_like(a), np.zeros_like(a)
    for _ in range(k):
        residual, before = residual - a * residual + m * (residual - before), residual
        gain, gain_before = gain - a * gain + m * (gain - gain_before) + 1, gain
    return residual, gain


def _heavy_ball_split(a: np.ndarray, k: float, m: float, root: np.ndarray) -> Filter:
    """Two well separated positive roots ``1 - d1 > 1 - d2``; ``root = d2 - d1``."""
    d2 = 0.5 * (1 - m + a + root)
    d1 = a / d2
    p1, p2 = (k + 1) * np.log1p(-d1), (k + 1) * np.log1p(-d2)
    sum1 = np.where(d1 > 0, -np.expm1(p1) / np.where(d1 > 0, d1, 1.0), k + 1)
    residual = (d2 * np.exp(p1) - d1 * np.exp(p2)) / root
    return residual, (sum1 + np.expm1(p2) / d2) / root


def _heavy_ball_u(a: np.ndarray, k: float, m: float) -> np.ndarray:
    """``U_k`` through the angle (real or imaginary) between the roots."""
    r = np.sqrt(m)
    low, high = _double_roots(m)
    left = a < 1 + m
    gap = np.where(left, a - low, high - a) / (4 * r)
    x = 2 * np.arcsin(np.sqrt(np.clip(gap, 0.0, 1.0)))
    trig = np.where(x > 0, np.sin(k * x) / np.where(x > 0, np.sin(x), 1.0), k)
    x = 2 * np.arcsinh(np.sqrt(np.maximum(-gap, 0.0)))
    ratio = np.where(x > 0, np.expm1(-2 * k * x) / np.where(x > 0, np.expm1(-2 * x), 1.0), k)
    size = np.where(gap < 0, ratio * np.exp((k - 1) * (np.log(r) + x)), trig * r ** (k - 1))
    return np.where(left, 1.0, (-1.0) ** (k - 1)) * size
