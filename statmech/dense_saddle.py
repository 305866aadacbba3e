r"""Saddle points of dense Hebbian networks: both retrieval solutions, by an explicit parameter.

In units of the energy scale c the field of a spin is :math:`\hat x s + a z` with signal
:math:`s = P \hat M^{P-1}` and noise :math:`a = k s`. At given temperature the overlap
:math:`\hat M` with the average example is the parameter: the ratio k is the root of

.. math:: \hat M = E\,\hat x \tanh\frac{\hat x s + k s z}{T},

whose right side decreases with k, and the load is explicit, :math:`\sqrt{\alpha\kappa} =
a/\sqrt{k'(q)}`. It rises from 0 at the largest overlap to a maximum, the spinodal, and falls on
the unstable branch. Why not k as the parameter: near the spinodal the curve turns back in k if the
examples are noisy. At low temperature they can also give it two maxima: beyond the first one the
state of larger overlap is gone, and retrieval goes on with a smaller one.

For P = 2 the signal is :math:`\hat M` in units of 2c and the patterns react:
:math:`\sqrt\alpha = a / \sqrt{\tilde r}` with :math:`\tilde r` as in :func:`pair_power`.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.typing import Array
from statmech.dense_averages import Response, response
from statmech.dense_noise import slope
from statmech.examples import Law
from statmech.hopfield_saddle import bracketed

#: Overlaps on which the range of the branch is looked for; nodes along the branch.
_SCAN = np.geomspace(1e-5, 1.0, 121)
_NODES = np.linspace(0.0, 1.0, 33)
#: Steps that narrow the strongest gain down, halvings of brackets, refinements of the spinodal (its
#: load is flat in the overlap, which is known to 1e-7 only), Newton steps.
_TERNARY, _HALVINGS, _ZOOMS, _NEWTON = 30, 54, 5, 9
#: Residual of the equations that a root may have.
RESIDUAL = 1e-11


class Model(NamedTuple):
    r"""What the equations depend on besides temperature and load.

    Attributes:
        P: number of spins in an interaction, float ``()``.
        kernel: coefficients of the noise kernel, ``(MOST_BODIES + 1,)``.
        law: of the examples.
        copies, ell: for P = 2, unsupervised: the M - 1 further eigenvalues of the examples of a
            pattern, all equal to ell; 0 otherwise.
    """

    P: Any
    kernel: Any
    law: Law
    copies: Any
    ell: Any


class Branches(NamedTuple):
    """Curves at temperatures ``(n,)``: range of overlaps, nodes ``(n, nodes)``, the largest load,
    and the first maximum of the load, which is nearly always the same."""

    T: Array
    low: Array
    high: Array
    M: Array
    k: Array
    A: Array
    top: Array
    M_top: Array
    k_top: Array
    A_top: Array
    first: Array
    M_first: Array
    k_first: Array
    A_first: Array
    gain: Array


def signal(M: Array, model: Model) -> Array:
    """Field of a perfect pattern."""
    pair = model.P == 2
    power = jnp.exp((model.P - 1) * jnp.log(jnp.maximum(M, 1e-300)))
    return jnp.where(pair, M, model.P * power)


def pair_power(C: Array, model: Model) -> Array:
    r"""For P = 2: :math:`(1-C)^2 \tilde r/q = 1 + n \ell^2 ((1-C)/(1-\ell C))^2`."""
    return 1 + model.copies * (model.ell * (1 - C) / (1 - model.ell * C)) ** 2


def root_load(a: Array, g: Response, model: Model) -> Array:
    """The root of alpha times kappa at which the noise a is self-consistent."""
    pair = a * (1 - g.C) / jnp.sqrt(g.q * pair_power(g.C, model))
    return jnp.where(model.P == 2, pair, a / jnp.sqrt(slope(model.kernel, g.q)))


def equations(M: Array, k: Array, T: Array, model: Model) -> tuple[Array, Array]:
    """Violation of the equation for M, and the root of the load."""
    s = signal(M, model)
    g = response(s, k * s, T, model.law)
    return g.M - M, root_load(k * s, g, model)


def ratio(M: Array, T: Array, model: Model) -> Array:
    """Noise-to-signal ratio k at given overlap, elementwise."""
    s = signal(M, model)

    def gap(y: Array) -> Array:
        return response(s, y / M * s, T, model.law).M - M

    # E|z| < 0.8 bounds the right side by 0.8/k
    return bracketed(gap, jnp.zeros_like(M), jnp.full_like(M, 0.8), (1.0, -1.0)) / M


def overlap_range(T: Array, model: Model) -> tuple[Array, Array, Array, Array]:
    """Overlaps of the two solutions without noise, that of the strongest gain, and this gain.

    ``(n,)`` each. The gain is negative above the last temperature of retrieval; there the first
    two are NaN.
    """

    def gain(M: Array, T: Array) -> Array:
        """The right side over M, minus 1."""
        return response(signal(M, model), 0 * M, T, model.law).M / M - 1

    scan = jnp.asarray(_SCAN)
    values = jax.lax.map(lambda M: gain(jnp.full_like(T, M), T), scan)
    best = jnp.argmax(values, axis=0)
    near = [jnp.log(scan[jnp.clip(best + i, 0, len(_SCAN) - 1)]) for i in (-1, 1)]

    def step(i: Any, state: Any) -> Any:
        left, right, low, low_peak, high_peak, high, peak, top = state
        search = i < _TERNARY
        # first two points narrow the peak down in ln M; then one halving on either side of it
        u1, u2 = 0.55 * left + 0.45 * right, 0.45 * left + 0.55 * right
        x1 = jnp.where(search, jnp.exp(u1), (low + low_peak) / 2)
        x2 = jnp.where(search, jnp.exp(u2), (high_peak + high) / 2)
        g1, g2 = jnp.split(gain(jnp.concatenate([x1, x2]), jnp.concatenate([T, T])), 2)
        lower = search & (g1 > g2)
        left, right = (
            jnp.where(search & ~lower, u1, left),
            jnp.where(lower, u2, right),
        )
        better = search & (jnp.maximum(g1, g2) > top)
        peak = jnp.where(better, jnp.where(g1 > g2, x1, x2), peak)
        top = jnp.where(better, jnp.maximum(g1, g2), top)
        return (
            left,
            right,
            jnp.where(~search & (g1 < 0), x1, low),
            jnp.where(search, peak, jnp.where(g1 < 0, low_peak, x1)),
            jnp.where(search, peak, jnp.where(g2 < 0, high_peak, x2)),
            jnp.where(~search & (g2 < 0), x2, high),
            peak,
            top,
        )

    peak, top = scan[best], jnp.max(values, axis=0)
    one = jnp.ones_like(T)
    state = (*near, 1e-12 * one, peak, peak, one, peak, top)
    state = jax.lax.fori_loop(0, _TERNARY + _HALVINGS, step, state)
    low, high, peak, top = state[3], state[4], state[6], state[7]
    high = jnp.where(values[-1] >= 0, 1.0, high)
    nan = jnp.where(top >= 0, 0.0, jnp.nan)
    return low + nan, high + nan, peak, top


@jax.jit
def branches(T: Array, model: Model) -> Branches:
    """The curves at temperatures ``(n,)``."""
    low, high, _, gain = overlap_range(T, model)
    exists = ~jnp.isnan(low)
    a, b = (jnp.where(exists, v, w)[:, None] for v, w in ((low, 0.4), (high, 0.6)))
    nodes = jnp.asarray(_NODES)[None, :]
    T_all = jnp.broadcast_to(T[:, None], (T.size, len(_NODES))).ravel()

    def zoom(state: Any) -> Any:
        """Points between two ends, and the ends around the largest load among them."""
        count, ends, line, top, first = state
        tau = ends[0][:, None] + (ends[1] - ends[0])[:, None] * nodes
        M = b - (b - a) * tau**5  # dense where k varies most
        k = ratio(M.ravel(), T_all, model)
        A = equations(M.ravel(), k, T_all, model)[1].reshape(M.shape)
        k, outside = k.reshape(M.shape), (tau <= 0) | (tau >= 1)
        k, A = jnp.where(outside, 0.0, k), jnp.where(outside, 0.0, A)

        def peak(at: Array) -> tuple[Array, ...]:
            """Neighbours of node number ``at``, and the values there."""
            values = [(tau, -1), (tau, 1), (tau, 0), (M, 0), (k, 0), (A, 0)]
            return tuple(_take(v, at + shift) for v, shift in values)

        def choose(new: Any, old: Any, when: Any) -> Any:
            return jax.tree.map(partial(jnp.where, when), new, old)

        here = peak(jnp.argmax(A, axis=1))
        begin, again = count == 0, count >= _ZOOMS
        line = choose((M, k, A), line, begin)
        earlier = peak(jnp.argmax(A[:, :-1] > A[:, 1:], axis=1))  # where the load first falls
        first = choose(earlier, choose(here, first, again), begin)
        top = choose(top, here, again)
        ends = choose(first[:2], here[:2], count == _ZOOMS - 1)
        return count + 1, ends, line, top, first

    def unfinished(state: Any) -> Array:
        """The first maximum is refined where it is not that of the largest load."""
        count, _, _, top, first = state
        two = jnp.any((first[1] < top[2]) & exists)
        return (count < _ZOOMS) | (two & (count < 2 * _ZOOMS - 1))

    zero = jnp.zeros_like(T)
    empty = (jnp.zeros((T.size, len(_NODES))),) * 3
    state = (jnp.zeros((), int), (zero, zero + 1), empty, (zero,) * 6, (zero,) * 6)
    _, _, (M, k, A), top, first = jax.lax.while_loop(unfinished, zoom, state)
    first = jax.tree.map(partial(jnp.where, first[1] < top[2]), first, top)
    nan = jnp.where(exists, 0.0, jnp.nan)
    peaks = (v + nan for v in (*top[2:], *first[2:]))
    return Branches._make((T, low, high, M, k, A, *peaks, gain))


def _take(values: Array, at: Array) -> Array:
    """The entry of each row at its index, clipped to the row."""
    inside = jnp.clip(at, 0, values.shape[1] - 1)[:, None]
    return jnp.take_along_axis(values, inside, axis=1)[:, 0]


def start(A: Array, row: Branches, stable: bool) -> tuple[Array, Array]:
    """Overlap and ratio by interpolation between the nodes of one curve, ``()`` each."""
    tau = jnp.asarray(_NODES)
    later = (A > row.A_first) | (not stable)  # than the first maximum
    on = (tau > row.first) & (tau < row.top) if stable else tau > row.top
    on = jnp.where(later, on, tau < row.first)
    M_end, k_end, A_end = (
        jnp.where(later, *pair)
        for pair in ((row.M_top, row.M_first), (row.k_top, row.k_first), (row.A_top, row.A_first))
    )
    M, k = jnp.where(on, row.M, M_end), jnp.where(on, row.k, k_end)
    # nodes before a dip count as high as the dip itself: states among them are not looked for
    level = jax.lax.cummin(jnp.where(on, row.A, A_end), reverse=stable)
    # the square root of the distance from the spinodal is a smooth coordinate
    y = jnp.sqrt(jnp.maximum(1 - level / A_end, 0.0))
    if stable:
        y, M, k = y[::-1], M[::-1], k[::-1]  # among equals the dip comes first
    order = jnp.argsort(y)
    at = jnp.sqrt(jnp.maximum(1 - A / A_end, 0.0))
    return jnp.interp(at, y[order], M[order]), jnp.interp(at, y[order], k[order])


def solve(A: Array, T: Array, rows: Any, model: Model, *, stable: bool) -> tuple[Array, Array]:
    """Overlap and ratio on one branch at root loads A ``(n,)``; NaN where it does not exist.

    Of two stable solutions that with the larger overlap is found.

    Args:
        A: roots of the load times kappa.
        T: temperatures; A and T may carry derivatives.
        rows: :class:`Branches` whose fields have been taken at every point.
        model: the network.
        stable: which of the two solutions.
    """
    fixed_A, fixed_T, fixed = jax.lax.stop_gradient((A, T, model))
    M, k = jax.vmap(partial(start, stable=stable))(fixed_A, jax.lax.stop_gradient(rows))
    exists = fixed_A <= rows.A_top
    state = (jnp.where(exists, M, 0.5), jnp.where(exists, k, 0.3), jnp.full_like(M, jnp.inf))
    one, zero = jnp.ones_like(M), jnp.zeros_like(M)

    def step(state: Any, _: Any) -> Any:
        """A Newton step for both unknowns, elementwise, taken while whole steps get smaller.

        The nodes are coarse far down the unstable branch: steps are cut to a share of M and k.
        """
        M, k, last = state
        (gap, value), push = jax.linearize(lambda M, k: equations(M, k, fixed_T, fixed), M, k)
        inverse = _inverse(*push(one, zero), *push(zero, one))
        dM, dk = _apply(inverse, gap, value - fixed_A)
        size = jnp.maximum(jnp.abs(dM), jnp.abs(dk))
        share = jnp.minimum(0.3 * M / jnp.abs(dM), 0.5 * (k + 0.1) / jnp.abs(dk))
        share = jnp.where(jnp.isnan(share), 1.0, jnp.minimum(share, 1.0))
        good = jnp.isfinite(size) & ((share < 1) | (size < last))
        to_M, to_k = M - share * dM, jnp.maximum(k - share * dk, 0.0)
        new = jnp.where(good, to_M, M), jnp.where(good, to_k, k)
        return (*new, jnp.where(good, jnp.where(share < 1, jnp.inf, size), last)), inverse

    (M, k, _), inverses = jax.lax.scan(step, state, length=_NEWTON)
    M, k, inverse = jax.lax.stop_gradient((M, k, tuple(v[-1] for v in inverses)))
    gap, value = equations(M, k, T, model)
    # Newton steps must not have jumped to other solutions: on a stable branch the load rises when
    # the overlap falls, on the other one it falls: the sign of the determinant
    right = M >= rows.M_top - 1e-5 if stable else M <= rows.M_top + 1e-5
    peak = jnp.minimum(jnp.abs(M - rows.M_top), jnp.abs(M - rows.M_first))
    falls = inverse[1] <= 0 if stable else inverse[1] >= 0  # 0 without noise
    right &= falls | (peak < 1e-5)
    near = (jnp.abs(gap) < RESIDUAL) & (jnp.abs(value - A) < RESIDUAL * (1 + rows.A_top))
    good = exists & right & near
    # one more step of value 0 carries the derivative (implicit function theorem)
    error = value - A
    dM, dk = _apply(inverse, gap - jax.lax.stop_gradient(gap), error - jax.lax.stop_gradient(error))
    return jnp.where(good, M - dM, jnp.nan), jnp.where(good, k - dk, jnp.nan)


def _inverse(gap_M: Array, A_M: Array, gap_k: Array, A_k: Array) -> tuple[Array, ...]:
    """Rows of the inverse of a 2 x 2 matrix at every entry."""
    D = gap_M * A_k - gap_k * A_M
    return A_k / D, -gap_k / D, -A_M / D, gap_M / D


def _apply(inverse: tuple[Array, ...], gap: Array, error: Array) -> tuple[Array, Array]:
    return inverse[0] * gap + inverse[1] * error, inverse[2] * gap + inverse[3] * error
