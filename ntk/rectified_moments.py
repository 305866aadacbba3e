r"""Closed averages of products of ``a min(z, 0) + b max(z, 0)`` and its derivatives.

Second derivatives are distributions: :math:`\sigma'' = (b - a)\,\delta`, and products at one input
are those of a smooth activation in the limit, :math:`\sigma''\sigma'^k = (b^{k+1} - a^{k+1})\,
\delta/(k+1)`. Averages over two inputs then follow from the rectified moments
:math:`E[x_+^i y_+^j]` and from derivatives of :math:`K` and :math:`\dot K` with respect to G.

At exactly parallel inputs (gap :math:`\varepsilon = 1 - \rho` of 0 or 2) the singular factors
:math:`1/\sin\theta` multiply fluctuations of the angle, which vanish: they are set to 0.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp

from ntk.coordinates import safe_ratio, safe_sqrt
from ntk.gaussian_moments import Moments

#: Sines of the angle below which averages that diverge as its inverse (first) or inverse cube
#: (second, they enter Theta1 only) are dropped. They multiply fluctuations of the angle, so that
#: their contribution is of the order of the sine; rounding would contribute 1e-16 over the square
#: and the cube of the sine.
PARALLEL, NEARLY_PARALLEL = 5e-6, 1e-4


def rectified_moments(a: Any, b: Any, G: Any, gap: Any, order: str) -> Moments:
    r"""Averages for ``sigma(z) = a min(z, 0) + b max(z, 0)`` at one or two inputs.

    Args:
        a, b: slopes for z < 0 and z > 0.
        G: covariance ``(m, m)``, m = 1 or 2.
        gap: ``1 - rho``, ``(m, m)``, exactly 0 for coincident inputs.
        order: "V", "NTK" or "dNTK".

    Returns:
        :class:`ntk.gaussian_moments.Moments`. Of ``pair`` only the entries that the recursions read
        are filled; those on the diagonal are split such that total derivatives are right.

    Source:
        Cho & Saul (2009) for the rectified moments; Price's theorem for the rest.
        Check: ``tests/ntk/test_finite_width.py``.
    """
    m = G.shape[-1]
    angles = _Angles(G, gap)
    pair = _pair(a, b, G, angles, m)
    four = {"00_00": _four(a, b, G, angles, m, 4)}
    if order != "V":
        four |= {"00_11": _four(a, b, G, angles, m, 2), "11_11": _four(a, b, G, angles, m, 0)}
    if order == "dNTK":
        four["20_11"] = _with_delta(a, b, G, angles, m)
    return Moments(pair, four)


class _Angles:
    """Variances and angle of the pair (0, 1); for one input the angle is 0."""

    def __init__(self, G: Any, gap: Any) -> None:
        last = G.shape[-1] - 1
        self.q = (G[0, 0], G[last, last])
        self.q12 = G[0, last]
        eps = gap[0, last]
        self.rho = 1 - eps
        self.sine = safe_sqrt(eps * (2 - eps))
        self.rest = 2 * jnp.arctan2(safe_sqrt(2 - eps), safe_sqrt(eps))  # pi - theta
        self.theta = 2 * jnp.arctan2(safe_sqrt(eps), safe_sqrt(2 - eps))
        self.root = safe_sqrt(self.q[0] * self.q[1])


def _inverse(x: Any, floor: Any = 0.0) -> Any:
    """``1 / x``, and 0 unless ``x > floor``."""
    return jnp.where(x > floor, safe_ratio(jnp.ones_like(x), x, 0.0), 0.0)


def _half_moment(i: int, j: int, rho: Any, sine: Any, rest: Any) -> Any:
    """``E[x_+^i y_+^j]`` at unit variances (0 means the step), ``i + j`` = 0, 2 or 4, i >= j."""
    angle = rest / (2 * math.pi)
    delta = sine / (2 * math.pi)
    if (i, j) == (0, 0):
        return angle
    if (i, j) == (1, 1):
        return delta + angle * rho
    if (i, j) == (2, 0):
        return angle + rho * delta
    if (i, j) == (2, 2):
        return angle * (1 + 2 * rho**2) + 3 * delta * rho
    if (i, j) == (3, 1):
        return 2 * _half_moment(1, 1, rho, sine, rest) + rho * _half_moment(2, 0, rho, sine, rest)
    if (i, j) == (4, 0):
        return 3 * _half_moment(2, 0, rho, sine, rest) + 2 * rho * sine**2 * delta
    raise AssertionError(f"no moment ({i}, {j})")


def _two_point(a: Any, b: Any, g: _Angles, i: int, j: int, p: int) -> Any:
    """Mean of p factors s or s' at x, i of them s, and 4 - p at y, j of them s; i + j is even."""
    high, low = max(i, j), min(i, j)
    same = _half_moment(high, low, g.rho, g.sine, g.rest)
    apart = _half_moment(high, low, -g.rho, g.sine, g.theta)
    sign_x, sign_y = (-1) ** i, (-1) ** j
    same = same * (b**4 + sign_x * sign_y * a**4)
    apart = apart * (sign_y * b**p * a ** (4 - p) + sign_x * a**p * b ** (4 - p))
    scale = safe_sqrt(g.q[0]) ** i * safe_sqrt(g.q[1]) ** j
    return scale * (same + apart)


def _four(a: Any, b: Any, G: Any, g: _Angles, m: int, powers: int) -> Any:
    """``[w, x, y, z]`` with ``powers`` factors s (the first ones) and the rest s'."""
    own = {4: 1.5, 2: 0.5, 0: 0.5}[powers] * (a**4 + b**4)
    entries = []
    for flat in range(m**4):
        index = [flat // m**k % m for k in (3, 2, 1, 0)]
        p, i = index.count(0), index[:powers].count(0)
        if p in (0, 4):
            q = g.q[0] if p == 4 else g.q[1]
            entries.append(own * q ** (powers // 2))
        else:
            entries.append(_two_point(a, b, g, i, powers - i, p))
    return jnp.stack(entries).reshape((m,) * 4)


def _with_delta(a: Any, b: Any, G: Any, g: _Angles, m: int) -> Any:
    """``[w, x, y, z]``: the mean of s''_w s_x s'_y s'_z."""
    entries = []
    for flat in range(m**4):
        w, x, y, z = (flat // m**k % m for k in (3, 2, 1, 0))
        if w == x:
            entries.append(jnp.zeros_like(g.q[0]))  # delta(z) s(z) = 0
            continue
        k = (y == w) + (z == w)
        jump = (b ** (k + 1) - a ** (k + 1)) / (k + 1)
        ratio = safe_sqrt(g.q[x]) * _inverse(safe_sqrt(g.q[w]))
        entries.append(jump * (b ** (3 - k) - a ** (3 - k)) * ratio * g.sine / (2 * math.pi))
    return jnp.stack(entries).reshape((m,) * 4)


def _pair(a: Any, b: Any, G: Any, g: _Angles, m: int) -> Any:
    """``[k, l, x, y]``: mean of the k-th derivative at x times the l-th at y."""
    norm = (a * a + b * b) / 2
    zero = jnp.zeros_like(G)
    table = [[zero] * 6 for _ in range(6)]
    own = jnp.eye(m, dtype=G.dtype)
    diagonal = jnp.diagonal(G)[:, None] * own
    table[0][0], table[1][1] = norm * diagonal, norm * own
    if m == 2:
        for (k, l), value in _cross(a, b, g).items():  # noqa: E741
            table[k][l] = table[k][l].at[0, 1].set(value)
            table[l][k] = table[l][k].at[1, 0].set(value)
    return jnp.stack([jnp.stack(row) for row in table])


def _cross(a: Any, b: Any, g: _Angles) -> dict[tuple[int, int], Any]:
    """Means for two inputs: K, Kdot and their derivatives with respect to q11, q12, q22."""
    jump2, (q1, q2), q12 = (b - a) ** 2 / (2 * math.pi), g.q, g.q12
    area = g.root * g.sine  # square root of the determinant
    sharp = jump2 * _inverse(area, PARALLEL * g.root)
    # fourth derivatives of s'_x s'_y cancel among each other, so they are dropped together
    apart = jump2 * _inverse(area, NEARLY_PARALLEL * g.root)
    cubic = apart * _inverse(area) ** 2
    product = a * b
    out = {
        (0, 0): jump2 * g.root * (g.sine + g.rest * g.rho) + product * q12,
        (1, 1): jump2 * g.rest + product,
        (2, 2): sharp,
        (3, 3): cubic * q12,
    }
    for one, (p, q) in enumerate(((q1, q2), (q2, q1))):
        inverse = _inverse(p)
        values = {
            (2, 0): jump2 * area * inverse,
            (3, 1): -sharp * q12 * inverse,
            (4, 0): sharp * (2 * q12**2 - p * q) * inverse**2,
            (4, 2): -cubic * q,
            (5, 1): q12 * inverse * (2 * inverse * apart + cubic * q),
        }
        if one:
            values = {(right, left): v for (left, right), v in values.items()}
        out |= values
    return out


def parallel_error(sine: Any, order: str) -> Any:
    """Estimated relative error of the tensors at angles with this sine (0 at exactly 0)."""
    power, limit = (1, PARALLEL) if order == "V" else (3, NEARLY_PARALLEL)
    rounding = 2e-16 * safe_ratio(jnp.ones_like(sine), sine**power, 0.0)
    return jnp.where(sine > limit, rounding, sine)
