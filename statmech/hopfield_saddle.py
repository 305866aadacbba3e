r"""Replica-symmetric saddle points of the Hopfield network, solved branch by branch.

With the noise :math:`a = \sqrt{\alpha r}` and :math:`C = (1 - q)/T` the equations of Amit,
Gutfreund and Sompolinsky read

.. math:: m = M(m, a, T), \qquad \sqrt\alpha = A(m, a, T) = a (1 - C)/\sqrt q .

Why not iterate them: from most starts one falls onto the paramagnet, the spin glass or the
unstable retrieval branch. Instead the noise-to-signal ratio k = a/m is the parameter. At given T
the first equation has one root m(k), reached monotonically by Newton steps from m = 1 (M is
concave along the ray); then :math:`\sqrt\alpha = A` is explicit, rises from k = 0 to one maximum,
the spinodal, and falls on the unstable branch. So the stable state is the root at k below that of
the spinodal, and everything stays regular at T = 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import chebyshev

from deeplimits.typing import Array
from statmech.hopfield_averages import FieldAverages, field_averages

#: Ratio k at the spinodal at T = 0; it grows to 0.478 at T = 1.
K_SPINODAL = 0.46789
#: Nodes of the curve at each temperature from which starts are interpolated (to about 1e-7).
_NODES = (1 + chebyshev.chebpts2(14)) / 2

#: Values of a/T between which the spin glass is bracketed; beyond the last one T is near 0.
_GLASS_NODES = np.geomspace(1e-3, 60.0, 161)
#: Points that are solved together: their nodes fit into the cache, which is five times as fast.
CHUNK = 64


def in_chunks(function: Callable[..., Any], *arrays: Array) -> Any:
    """``function`` of arrays ``(n,)``, applied to chunks one after the other."""
    n = arrays[0].size
    size = min(n, CHUNK)
    pad = -n % size
    parts = tuple(jnp.pad(a, (0, pad), mode="edge").reshape(-1, size) for a in arrays)
    out = jax.lax.map(lambda part: function(*part), parts)
    return jax.tree.map(lambda a: a.reshape(n + pad, *a.shape[2:])[:n], out)


class Slopes(NamedTuple):
    """First equation and logarithm of the second one at (m, k), with their derivatives."""

    gap: Array
    gap_m: Array
    gap_k: Array
    A_ratio: Array  # A/k
    log_A_m: Array
    log_A_k: Array  # times k, so that it is finite at k = 0


class Fold(NamedTuple):
    """The spinodal at a temperature: overlap, ratio k, square root of the load."""

    m: Array
    k: Array
    A: Array


class Rows(NamedTuple):
    """Curves at several temperatures: the spinodal and nodes (rows, nodes) along the branch."""

    T: Array
    fold: Fold
    m: Array
    k: Array
    depth: Array


def slopes(m: Array, k: Array, T: Array) -> Slopes:
    """Both equations with their derivatives in closed form."""
    a = m * k
    g = field_averages(m, a, T)
    # a derivative in a is a times the second derivative in m (Gaussian integration by parts)
    C_m, C_k = g.C_m + k * a * g.C_mm, m * a * g.C_mm
    loss = -1 / (1 - g.C) + T / (2 * g.q)
    return Slopes(
        gap=g.tanh - m,
        gap_m=g.C + k * a * g.C_m - 1,
        gap_k=m * a * g.C_m,
        A_ratio=m * (1 - g.C) / jnp.sqrt(g.q),
        log_A_m=1 / m + loss * C_m,
        log_A_k=1 + k * loss * C_k,
    )


def root_load(a: Array, g: FieldAverages) -> Array:
    """Square root of the load at which the noise a is self-consistent."""
    return a * (1 - g.C) / jnp.sqrt(g.q)


def signal(k: Array, T: Array) -> Array:
    """The overlap m(k) at temperatures T < 1, elementwise; k >= 0."""

    def step(state: Any) -> Any:
        m, _, count = state
        a = m * k
        g = field_averages(m, a, T)
        change = (g.tanh - m) / (1 - g.C - k * a * g.C_m)
        return m + change, jnp.abs(change), count + 1

    def unfinished(state: Any) -> Array:
        return jnp.any(state[1] > 1e-14) & (state[2] < 100)

    ones = jnp.ones(jnp.broadcast_shapes(k.shape, T.shape))
    return jax.lax.while_loop(unfinished, step, (ones, ones, jnp.zeros((), int)))[0]


def bracketed(
    function: Callable[[Array], Array], lo: Array, hi: Array, ends: Any, tol: float = 1e-13
) -> Array:
    """Roots of a scalar function at every entry, between lo and hi; no derivatives.

    Regula falsi (Anderson-Bjorck), with a bisection every third step.

    Args:
        function: elementwise.
        lo, hi: brackets.
        ends: values at lo and hi. Only their signs matter for the result, so that plus and minus
            one will do where theory knows the signs: the function is compiled once, not thrice.
        tol: relative change at which to stop; convergence is superlinear, so that the error is
            much smaller.
    """
    f_lo, f_hi = (jnp.broadcast_to(jnp.asarray(f, lo.dtype), lo.shape) for f in ends)

    def step(state: Any) -> Any:
        lo, hi, f_lo, f_hi, x, _, count = state
        f = function(x)
        same = jnp.sign(f) == jnp.sign(f_lo)
        old = jnp.where(same, f_lo, f_hi)
        weaken = jnp.where(1 - f / old > 0, 1 - f / old, 0.5)
        lo, f_lo, f_hi = (
            jnp.where(same, x, lo),
            jnp.where(same, f, f_lo * weaken),
            jnp.where(same, f_hi * weaken, f),
        )
        hi = jnp.where(same, hi, x)
        new = (lo * f_hi - hi * f_lo) / (f_hi - f_lo)
        new = jnp.where((count % 3 == 2) | ~jnp.isfinite(new), (lo + hi) / 2, new)
        new = jnp.where(f == 0, x, jnp.clip(new, jnp.minimum(lo, hi), jnp.maximum(lo, hi)))
        return lo, hi, f_lo, f_hi, new, jnp.abs(new - x) > tol * jnp.abs(x), count + 1

    def unfinished(state: Any) -> Array:
        return jnp.any(state[5]) & (state[6] < 60)

    x = (lo * f_hi - hi * f_lo) / (f_hi - f_lo)
    first = (lo, hi, f_lo, f_hi, x, jnp.full(lo.shape, True), jnp.zeros((), int))
    return jax.lax.while_loop(unfinished, step, first)[4]


def fold(T: Array) -> Fold:
    """The spinodal at temperatures T < 1, shape ``(n,)``; differentiable in T."""

    fixed = jax.lax.stop_gradient(T)

    def tilt(k: Array) -> Array:
        s = slopes(signal(k, fixed), k, fixed)
        return s.log_A_k - k * s.log_A_m * s.gap_k / s.gap_m

    def solve(_: Callable[[Array], Array], x: Array) -> Array:
        k = bracketed(tilt, x[1] - 0.02, x[1] + 0.02, (1.0, -1.0), 1e-9)
        return jnp.stack([signal(k, fixed), k])

    start = jax.lax.stop_gradient(jnp.stack([jnp.ones_like(T), K_SPINODAL + 0.01 * T]))
    m, k = jax.lax.custom_root(lambda x: fold_equations(x, T), start, solve, _solve)
    return Fold(m, k, root_load(m * k, field_averages(m, m * k, T)))


def fold_equations(x: Array, T: Array) -> Array:
    """The first equation, and stationarity of the load along the branch."""
    s = slopes(x[0], x[1], T)
    return jnp.stack([s.gap, s.log_A_k * s.gap_m - x[1] * s.log_A_m * s.gap_k])


def rows(T: Array) -> Rows:
    """Curves at temperatures ``(n,)``; NaN for T >= 1."""
    exists = T < 1
    safe = jnp.where(exists, T, 0.5)
    ends = fold(safe)
    k = ends.k[:, None] * jnp.asarray(_NODES)[None]
    m = signal(k, safe[:, None])
    A = root_load(m * k, field_averages(m, m * k, safe[:, None]))
    # the load is quadratic in k at the spinodal: its square root makes k analytic
    depth = jnp.sqrt(jnp.maximum(1 - A / ends.A[:, None], 0.0))
    nan = jnp.where(exists, 0.0, jnp.nan)
    ends = Fold(*(v + nan for v in ends))
    return jax.tree.map(jax.lax.stop_gradient, Rows(T, ends, m, k, depth))


def _start(table: Rows, index: Array, root_alpha: Array) -> Array:
    """Interpolated (m, k) on the stable branch, ``(n, 2)``; NaN beyond the spinodal."""
    x = jnp.sqrt(1 - root_alpha / table.fold.A[index])[:, None]
    nodes = table.depth[index]
    gaps = nodes[:, :, None] - nodes[:, None, :] + jnp.eye(len(_NODES))[None]
    weight = 1 / jnp.prod(gaps, axis=2)
    distance = x - nodes
    hit = distance == 0
    share = weight / jnp.where(hit, 1.0, distance)
    share = jnp.where(hit.any(1, keepdims=True), hit.astype(x.dtype), share)
    share = share / share.sum(1, keepdims=True)
    return jnp.stack([(share * table.m[index]).sum(1), (share * table.k[index]).sum(1)])


def _far_start(table: Rows, index: Array, root_alpha: Array) -> Array:
    """(m, k) on the unstable branch to about 1e-4, ``(2, n)``; the load falls to 0 as k grows."""
    k_end = table.fold.k[index]
    T = jnp.where(jnp.isnan(k_end), 0.5, table.T[index])

    def point(u: Array) -> Array:
        k = k_end / u
        return jnp.stack([signal(k, T), k])

    def gap(u: Array) -> Array:
        m, k = point(u)
        return root_load(m * k, field_averages(m, m * k, T)) - root_alpha

    low, high = jnp.full_like(T, 1e-4), jnp.ones_like(T)
    return point(bracketed(gap, low, high, (-1.0, 1.0), 1e-5))


def retrieval(
    alpha: Array, T: Array, table: Rows, index: Array, *, stable: bool = True
) -> tuple[Array, Array]:
    """Overlap m and noise a of a retrieval state; NaN where there is none.

    Args:
        alpha, T: load and temperature, shape ``(n,)``.
        table: from :func:`rows`.
        index: row of the table that belongs to each point, shape ``(n,)``.
        stable: which of the two solutions, before or beyond the spinodal.
    """
    root_alpha = jnp.sqrt(alpha)
    first = _start if stable else _far_start
    start = jax.lax.stop_gradient(first(table, index, jax.lax.stop_gradient(root_alpha)))

    def equations(x: Array) -> Array:
        g = field_averages(x[0], x[0] * x[1], T)
        return jnp.stack([g.tanh - x[0], root_load(x[0] * x[1], g) - root_alpha])

    # the solver must not see tracers of a derivative, which custom_root takes of `equations` alone
    fixed = jax.lax.stop_gradient((T, root_alpha))
    x = jax.lax.custom_root(equations, start, lambda _, x: _polish(x, *fixed), _solve)
    k_end = table.fold.k[index]
    # beyond the spinodal the other, unstable, branch begins
    side = x[1] <= k_end * (1 + 1e-9) if stable else (x[1] >= k_end * (1 - 1e-9)) & (alpha > 0)
    exists = side & (jnp.abs(equations(x)).max(0) < 1e-12)
    m, k = jnp.where(exists[None], x, jnp.nan)
    return m, m * k


def _polish(x: Array, T: Array, root_alpha: Array) -> Array:
    """Newton steps for (m, k), elementwise, until they stop getting smaller."""

    def step(state: Any) -> Any:
        x, last, count = state
        s = slopes(x[0], x[1], T)
        A_m, A_k = x[1] * s.A_ratio * s.log_A_m, s.A_ratio * s.log_A_k
        error = x[1] * s.A_ratio - root_alpha
        determinant = s.gap_m * A_k - s.gap_k * A_m
        change_m = (s.gap_k * error - A_k * s.gap) / determinant
        change = jnp.stack([change_m, (A_m * s.gap - s.gap_m * error) / determinant])
        size = jnp.abs(change).max(0)
        good = size < last / 2
        return jnp.where(good[None], x + change, x), jnp.where(good, size, 0.0), count + 1

    def unfinished(state: Any) -> Array:
        return jnp.any(state[1] > 1e-14) & (state[2] < 12)

    first = (x, jnp.full_like(T, 0.02), jnp.zeros((), int))
    return jax.lax.while_loop(unfinished, step, first)[0]


def _solve(linear: Callable[[Array], Array], y: Array) -> Array:
    """Solve a linear map on ``(2, n)`` that is a 2 x 2 matrix at every entry."""
    zero, one = jnp.zeros_like(y[0]), jnp.ones_like(y[0])
    (a, c), (b, d) = linear(jnp.stack([one, zero])), linear(jnp.stack([zero, one]))
    determinant = a * d - b * c
    return jnp.stack([(d * y[0] - b * y[1]) / determinant, (a * y[1] - c * y[0]) / determinant])


def glass(alpha: Array, T: Array) -> Array:
    r"""Noise a of the spin glass (m = 0), shape ``(n,)``; NaN from T = 1 + sqrt(alpha) on.

    Divided by a, its equation :math:`h = 1 - C - \sqrt{\alpha q}/a = 0` rises with a, and is smooth
    in a^2 where a vanishes, at T = 1 + sqrt(alpha): bracketed at fixed nodes of a/T, then polished.
    """
    root_alpha = jnp.sqrt(alpha)
    exists = (T < 1 + root_alpha) & (alpha > 0)

    def equation(a: Array) -> Array:
        return glass_gap(a, T, root_alpha)

    def solve(_: Callable[[Array], Array], a: Array) -> Array:
        T, root_alpha = fixed

        def step(state: Any) -> Any:
            a, last, count = state
            g = field_averages(jnp.zeros_like(a), a, T)
            ratio = root_alpha * jnp.sqrt(g.q) / a
            slope = ratio / a - a * g.C_mm * (1 - root_alpha * T / (2 * a * jnp.sqrt(g.q)))
            new = jnp.sqrt(jnp.maximum(a**2 - 2 * a * (1 - g.C - ratio) / slope, a**2 / 16))
            change = jnp.abs(new - a)
            good = exists & (change < last / 2)
            return jnp.where(good, new, a), jnp.where(good, change, 0.0), count + 1

        def unfinished(state: Any) -> Array:
            return jnp.any(state[1] > 1e-15) & (state[2] < 30)

        return jax.lax.while_loop(unfinished, step, (a, 4 * a, jnp.zeros((), int)))[0]

    fixed = jax.lax.stop_gradient((T, root_alpha))
    start = jax.lax.stop_gradient(_glass_start(T, root_alpha))
    a = jax.lax.custom_root(equation, start, solve, lambda linear, y: y / linear(jnp.ones_like(y)))
    return jnp.where(exists, a, jnp.nan)


def _glass_start(T: Array, root_alpha: Array) -> Array:
    """Noise of the spin glass to about 1e-3, from nodes of u = a/T."""
    u = jnp.asarray(_GLASS_NODES)
    g = field_averages(jnp.zeros_like(u), u, jnp.ones_like(u))
    h = T[:, None] - g.C[None] - root_alpha[:, None] * (jnp.sqrt(g.q) / u)[None]
    left = jnp.clip(jnp.sum(h < 0, axis=1) - 1, 0, len(_GLASS_NODES) - 2)
    low, high = (jnp.take_along_axis(h, (left + i)[:, None], 1)[:, 0] for i in (0, 1))
    share = jnp.clip(low / (low - high), 0.0, 1.0)
    inside = u[left] * (u[left + 1] / u[left]) ** share * T
    cold = root_alpha + np.sqrt(2 / np.pi)  # the value at T = 0
    return jnp.where(h[:, -1] < 0, cold, jnp.minimum(inside, cold))


def glass_gap(a: Array, T: Array, root_alpha: Array) -> Array:
    """Violation of the equation of the spin glass."""
    g = field_averages(jnp.zeros_like(a), a, T)
    return a * (1 - g.C) - root_alpha * jnp.sqrt(g.q)


def free_energy(alpha: Array, T: Array, m: Array, a: Array, g: FieldAverages) -> Array:
    """Free energy per spin, stationary at saddle points."""
    D = 1 - g.C
    pattern = T * jnp.log(D) - g.q / D
    return (alpha * (1 + pattern) + m**2 + a**2 * g.C) / 2 - g.log_2cosh


def internal_energy(alpha: Array, m: Array, a: Array, g: FieldAverages) -> Array:
    """Energy per spin: the derivative of f/T in 1/T at fixed order parameters."""
    return (alpha - m**2 - alpha / (1 - g.C) - a**2 * g.C) / 2
