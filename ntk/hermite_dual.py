r"""Dual of a smooth activation from its Hermite coefficients at the variances that occur.

.. math:: K = \sum_l r_l(s_1) r_l(s_2) \rho^l, \qquad r_l(s) = E[f(s z) h_l(z)], \qquad
   \dot K = \sum_l r'_l(s_1) r'_l(s_2) \rho^l, \quad r_{l+1} = s\, r'_l / \sqrt{l + 1},

with normalised Hermite polynomials and :math:`r'_l` the coefficients of :math:`f'`. Coefficients
cost one trapezoid rule per input; each pair of inputs costs a few operations per order.

Why not a fixed order: the series of tanh needs 60 orders at variance 1, 1200 at 10 and 7000 at 100.
Orders are added in blocks until the rest, known from :math:`E[f'^2] - \sum_l r_l'^2`, is below
rounding for all pairs; this also works inside ``jit``. Two-dimensional quadrature of the same
accuracy takes more than ten times the operations in all these cases.

Source: Mehler's formula; stopping rule derived here. Check: ``tests/ntk/test_quadrature.py``.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ntk.coordinates import coordinates, safe_ratio, safe_sqrt
from ntk.elementwise import Square, X, derivative
from ntk.gap import clip_gap

#: Half-width and step of the trapezoid rule: the cut-off is exp(-12.8^2 / 4) = 2e-18, and order l
#: of a function analytic in a strip of half-width a is aliased by exp(-a (2 pi / step - sqrt(l))).
HALF_WIDTH, STEP = 12.8, 0.02
#: Orders added per step of the loop, and the largest order.
BLOCK, MAX_ORDER = 16, 8192
#: The series stops when the rest of Kdot is below this part of sqrt(E[f'(x)^2] E[f'(y)^2]).
_TOLERANCE = {np.dtype(np.float64): 2e-13, np.dtype(np.float32): 3e-7}


@functools.cache
def _grid() -> tuple[np.ndarray, np.ndarray]:
    """Positive nodes, and ``sqrt`` of the Gaussian measure: ``step exp(-z^2/4) / sqrt(2 pi)``."""
    z = (np.arange(round(HALF_WIDTH / STEP)) + 0.5) * STEP
    return z, STEP / math.sqrt(2 * math.pi) * np.exp(-(z**2) / 4)


def _nodes(dtype: Any) -> tuple[Any, Any]:
    z, w = _grid()
    return jnp.asarray(z, dtype), jnp.asarray(w, dtype)


def _samples(f: Any, path: tuple[int, ...], s: Any) -> tuple[Any, Any, Any]:
    """Weighted even and odd parts ``(n, nodes)`` and ``E[f^2]`` in the shape of ``s``."""
    z, w = _nodes(s.dtype)
    x, w = s.reshape(-1, 1) * z[None], w[None]
    right, left = derivative(f, path, x), derivative(f, path, -x)
    square = jnp.sum((right**2 + left**2) * (w * jnp.exp(-z * z / 4)[None]), axis=1)
    return (right + left) * w, (right - left) * w, square.reshape(s.shape)


def _orders(state: Any, first: Any, dtype: Any) -> tuple[Any, Any]:
    """The next block of Hermite functions ``h_l(z) exp(-z^2/4)``, ``(BLOCK, nodes)``."""
    z, _ = _nodes(dtype)

    def step(pair: Any, order: Any) -> Any:
        last, now = pair
        n = order.astype(dtype)
        return (now, (z * now - jnp.sqrt(n) * last) / jnp.sqrt(n + 1)), now

    return lax.scan(step, state, first + jnp.arange(BLOCK))


def _coefficients(samples: Any, table: Any, shape: Any) -> Any:
    """A block of coefficients, ``(*shape, BLOCK)``."""
    dot = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    pair = jnp.stack([dot(samples[0], table[0::2].T), dot(samples[1], table[1::2].T)], axis=-1)
    return pair.reshape(*shape, BLOCK)


def _start(dtype: Any) -> Any:
    z, _ = _nodes(dtype)
    return jnp.zeros_like(z), jnp.exp(-z * z / 4)


def _run(add: Any, totals: Any, samples1: Any, samples2: Any, rho: Any) -> Any:
    """Add blocks of orders to ``totals`` until the rest is negligible for every pair.

    Args:
        add: ``add(totals, first_order, block1, block2, power) -> (totals, power)``.
        totals: pytree of sums.
        samples1, samples2: of the two functions, with mean squares of shape q1 and q2.
        rho: correlations in the shape of the result.

    Returns:
        The totals, and the power of ``rho`` at which the loop stopped.
    """
    dtype = rho.dtype
    tolerance = _TOLERANCE[np.dtype(dtype)]
    square1, square2 = samples1[2], samples2[2]
    inverse = safe_ratio(jnp.ones((), dtype), safe_sqrt(square1) * safe_sqrt(square2), 0.0)

    def body(carry: Any) -> Any:
        first, hermite, power, totals, rest1, rest2, _ = carry
        hermite, table = _orders(hermite, first, dtype)
        a = _coefficients(samples1, table, square1.shape)
        b = _coefficients(samples2, table, square2.shape)
        totals, power = add(totals, first, a, b, power)
        mass1, mass2 = jnp.sum(a * a, axis=-1), jnp.sum(b * b, axis=-1)
        rest1, rest2 = rest1 - mass1, rest2 - mass2
        # the rest is a difference, with an error of about 1e2 roundings; the last block is not
        weight = jnp.abs(power) * inverse
        last = jnp.max(safe_sqrt(mass1) * safe_sqrt(mass2) * weight)
        rest = jnp.max(safe_sqrt(jnp.maximum(rest1, 0)) * safe_sqrt(jnp.maximum(rest2, 0)) * weight)
        done = (8 * last < tolerance) & (rest < 30 * tolerance)
        return first + BLOCK, hermite, power, totals, rest1, rest2, done

    carry = (jnp.array(0), _start(dtype), jnp.ones_like(rho), totals, square1, square2, False)
    carry = lax.while_loop(lambda c: ~c[-1] & (c[0] < MAX_ORDER), body, carry)
    return carry[3], carry[2]


@jax.jit
def remainder(f: Any, q: Any) -> Any:
    """Part of ``E[f'(x)^2]`` at variance ``q`` that the largest order leaves out."""
    samples = _samples(f, (X,), safe_sqrt(q))

    def add(rest: Any, first: Any, a: Any, b: Any, power: Any) -> Any:
        return rest - jnp.sum(a * b, axis=-1), power

    return safe_ratio(_run(add, samples[2], samples, samples, jnp.ones_like(q))[0], samples[2], 0.0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def product_mean(path1: Any, path2: Any, f: Any, q1: Any, q2: Any, eps: Any) -> Any:
    """``E[g(x) h(y)]`` for derivatives ``g``, ``h`` of ``f`` along ``path1``, ``path2``."""
    c = coordinates(q1, q2, eps)
    rho = c.rho + jnp.zeros_like(c.s)
    samples1, samples2 = _samples(f, path1, c.s1), _samples(f, path2, c.s2)

    def add(total: Any, first: Any, a: Any, b: Any, power: Any) -> Any:
        for k in range(BLOCK):
            total = total + a[..., k] * b[..., k] * power
            power = power * rho
        return total, power

    return _run(add, jnp.zeros_like(rho), samples1, samples2, rho)[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def moment(path: Any, f: Any, q: Any) -> Any:
    """``E[g(sqrt(q) z)]`` for the derivative ``g`` of ``f`` along ``path``."""
    z, w = _nodes(q.dtype)
    weight = w * jnp.exp(-z * z / 4)
    x = safe_sqrt(q).reshape(-1, 1) * z[None]
    total = derivative(f, path, x) + derivative(f, path, -x)
    return jnp.sum(total * weight[None], axis=1).reshape(q.shape)


@jax.custom_jvp
def hermite_kernel(f: Any, q1: Any, q2: Any, eps: Any) -> tuple[Any, Any, Any]:
    r"""``(K, Kdot, eps_out)`` of the smooth function ``f``.

    The gap is a sum of terms that all vanish on duplicates, in the unit vectors
    :math:`u_l = r_l / |r|`:
    :math:`\tfrac12 \sum_l (u_l - v_l)^2 + \varepsilon \sum_l u_l v_l (1 + \dots + \rho^{l-1})`.
    """
    c = coordinates(q1, q2, eps)
    rho = c.rho + jnp.zeros_like(c.s)
    root1, root2 = safe_sqrt(moment((), Square(f), q1)), safe_sqrt(moment((), Square(f), q2))
    one = jnp.ones((), rho.dtype)
    inverse1, inverse2 = safe_ratio(one, root1, 0.0), safe_ratio(one, root2, 0.0)
    mean1, mean2 = moment((), f, q1) * inverse1, moment((), f, q2) * inverse2
    samples1, samples2 = _samples(f, (X,), c.s1), _samples(f, (X,), c.s2)
    scale1, scale2 = c.s1 * inverse1, c.s2 * inverse2

    def add(totals: Any, first: Any, a: Any, b: Any, power: Any) -> Any:
        Kdot, correlation, gap, apart, geometric = totals
        root = jnp.sqrt((first + 1 + jnp.arange(BLOCK)).astype(rho.dtype))
        for k in range(BLOCK):
            Kdot = Kdot + a[..., k] * b[..., k] * power
            u, v = scale1 * (a[..., k] / root[k]), scale2 * (b[..., k] / root[k])
            power = power * rho
            correlation = correlation + u * v * power
            gap = gap + u * v * geometric
            apart = apart + (u - v) ** 2
            geometric = geometric + power
        return (Kdot, correlation, gap, apart, geometric), power

    zero = jnp.zeros_like(rho)
    start = (zero, zero + mean1 * mean2, zero, zero + (mean1 - mean2) ** 2, zero + 1)
    (Kdot, correlation, gap, apart, _), power = _run(add, start, samples1, samples2, rho)
    # where the loop stopped because rho^l is small, the two sums lack the orders beyond
    gap = jnp.where(jnp.abs(power) < 0.1, 1 - correlation, apart / 2 + c.eps * gap)
    gap = jnp.where(root1 * root2 > 0, gap, 1)
    return root1 * root2 * correlation, Kdot, clip_gap(gap)


def _perturbed(tangent: Any) -> bool:
    return not isinstance(tangent, jax.custom_derivatives.SymbolicZero)


def _leaf_tangents(d_f: Any) -> list[tuple[int, Any]]:
    """Number and tangent of every parameter that is differentiated."""
    leaves = jax.tree.leaves(
        d_f, is_leaf=lambda a: isinstance(a, jax.custom_derivatives.SymbolicZero)
    )
    return [(i, t) for i, t in enumerate(leaves) if _perturbed(t)]


def _directions(q1: Any, q2: Any, eps: Any, d_q1: Any, d_q2: Any, d_eps: Any) -> list[Any]:
    """``d q12``, ``d q11 / 2`` and ``d q22 / 2`` as arrays (zeros where nothing changes)."""
    c = coordinates(q1, q2, eps)
    one = jnp.ones((), c.s.dtype)
    d_q12 = jnp.zeros_like(c.s * c.eps)
    if _perturbed(d_q1):
        d_q12 = d_q12 + c.rho * c.s2 * safe_ratio(one, c.s1, 0.0) / 2 * d_q1
    if _perturbed(d_q2):
        d_q12 = d_q12 + c.rho * c.s1 * safe_ratio(one, c.s2, 0.0) / 2 * d_q2
    if _perturbed(d_eps):
        d_q12 = d_q12 - c.s * d_eps
    return [d_q12, d_q1 / 2 if _perturbed(d_q1) else None, d_q2 / 2 if _perturbed(d_q2) else None]


def _change(path1: Any, path2: Any, f: Any, point: Any, d_f: Any, directions: Any) -> Any:
    """Tangent of :func:`product_mean` by Price's theorem: coefficients times tangents."""
    d_q12, d_q1, d_q2 = directions
    total = d_q12 * product_mean((X, *path1), (X, *path2), f, *point)
    if d_q1 is not None:
        total = total + d_q1 * product_mean((X, X, *path1), path2, f, *point)
    if d_q2 is not None:
        total = total + d_q2 * product_mean(path1, (X, X, *path2), f, *point)
    for i, t in _leaf_tangents(d_f):
        left = product_mean((i, *path1), path2, f, *point)
        total = total + t * (left + product_mean(path1, (i, *path2), f, *point))
    return total


def _product_mean_jvp(path1: Any, path2: Any, primals: Any, tangents: Any) -> Any:
    f, *point = primals
    d_f, *d_point = tangents
    value = product_mean(path1, path2, f, *point)
    return value, _change(path1, path2, f, point, d_f, _directions(*point, *d_point))


def _moment_jvp(path: Any, primals: Any, tangents: Any) -> Any:
    (f, q), (d_f, d_q) = primals, tangents
    total = jnp.zeros_like(q)
    if _perturbed(d_q):
        total = total + d_q / 2 * moment((X, X, *path), f, q)
    for i, t in _leaf_tangents(d_f):
        total = total + t * moment((i, *path), f, q)
    return moment(path, f, q), total


def _hermite_kernel_jvp(primals: Any, tangents: Any) -> Any:
    f, q1, q2, eps = primals
    d_f, d_q1, d_q2, d_eps = tangents
    K, Kdot, gap = hermite_kernel(*primals)
    directions = _directions(q1, q2, eps, d_q1, d_q2, d_eps)
    d_K = _change((), (), f, (q1, q2, eps), d_f, directions)
    d_Kdot = _change((X,), (X,), f, (q1, q2, eps), d_f, directions)
    square = Square(f)
    V1, V2 = moment((), square, q1), moment((), square, q2)
    norm = safe_sqrt(V1) * safe_sqrt(V2)
    d_gap = -safe_ratio(d_K, norm, 0.0)
    for V, q, d_q in ((V1, q1, d_q1), (V2, q2, d_q2)):
        d_V = jnp.zeros_like(V)
        if _perturbed(d_q):
            d_V = d_V + d_q / 2 * moment((X, X), square, q)
        for i, t in _leaf_tangents(d_f):
            d_V = d_V + t * moment((i,), square, q)
        d_gap = d_gap + (1 - gap) * safe_ratio(d_V, 2 * V, 0.0)
    return (K, Kdot, gap), (d_K, d_Kdot, d_gap)


product_mean.defjvp(_product_mean_jvp, symbolic_zeros=True)
moment.defjvp(_moment_jvp, symbolic_zeros=True)
hermite_kernel.defjvp(_hermite_kernel_jvp, symbolic_zeros=True)
