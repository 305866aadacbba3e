r"""Gaussian averages of products of an activation and its derivatives at several inputs.

For :math:`z \sim N(0, G)`, with :math:`\sigma^{(k)}_a = \sigma^{(k)}(z_a)`, the effective theory at
order 1/width needs

.. math:: M^{kl}_{ab} = \langle \sigma^{(k)}_a \sigma^{(l)}_b \rangle, \qquad
   \langle \sigma^{(k)}_a \sigma^{(l)}_b\, \sigma^{(p)}_c \sigma^{(q)}_d \rangle .

Derivatives of the averages with respect to G are averages of derivatives (Price's theorem), so that
no inverse of G occurs and coincident inputs are like any others. The same theorem defines the
derivative of the quadrature below; differentiating the root of G instead would form 0 times
infinity on coincident inputs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.pytrees import register_dataclass
from ntk.elementwise import X, derivative

#: Half-widths of the grids in standard deviations, by number of inputs: exp(-8.5^2/2) = 2e-16,
#: exp(-7^2/2) = 2e-11.
HALF_WIDTH = {1: 8.5, 2: 8.5, 3: 7.0, 4: 7.0}
#: Pairs (k, l) of derivatives whose products sigma^(k)_a sigma^(l)_b enter four-point averages.
_LEFT = ((0, 0), (1, 1))
_RIGHT = ((0, 0), (1, 1), (2, 0), (3, 1), (2, 2))
#: Nodes whose values are held at a time.
_CHUNK = 2**15
#: Orthogonal matrices whose last row, for the largest eigenvalue of G, is constant.
_SPREAD = {
    3: np.array([[3, -3, 0], [3**0.5, 3**0.5, -2 * 3**0.5], [6**0.5] * 3]) / 18**0.5,
    4: np.array([[1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1], [1, 1, 1, 1]]) / 2,
}
#: Number of right-hand products, highest derivative at single inputs (from the mean corrections).
_NEEDED = {"V": (1, 4), "NTK": (2, 5), "dNTK": (3, 5), "ddNTK": (5, 5)}


@register_dataclass
@dataclass(frozen=True)
class Moments:
    r"""Averages at ``m`` inputs.

    ``pair[k, l, a, b]`` is :math:`\langle\sigma^{(k)}_a\sigma^{(l)}_b\rangle`. ``four[p][a, b, c,
    d]`` is the average of the product number p for (a, b) with :math:`\sigma_c\sigma_d` (p = 0, for
    order "V") or :math:`\sigma'_c\sigma'_d`; see :meth:`product`.
    """

    pair: Any
    four: dict[str, Any]


@functools.cache
def grid(m: int, nodes: int, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Trapezoid rule for m independent standard normals: points ``(m, nodes^m)`` and weights.

    Args:
        m: number of variables, 1 to 4.
        nodes: per axis.
        offset: shift of the grid in steps. Two grids half a step apart have opposite errors.
    """
    half = HALF_WIDTH[m]
    step = 2 * half / nodes
    z = step * (np.arange(nodes) - (nodes - 1) / 2 + offset)
    weight = step / math.sqrt(2 * math.pi) * np.exp(-z * z / 2)
    points = np.stack([a.ravel() for a in np.meshgrid(*[z] * m, indexing="ij")])
    weights = np.prod([a.ravel() for a in np.meshgrid(*[weight] * m, indexing="ij")], axis=0)
    return points, weights


def tower(f: Callable[[Any], Any], x: Any, order: int) -> tuple[Any, ...]:
    """``(f, f', ..., f^(order))`` at ``x``, elementwise."""

    def raised(lower: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def values(t: Any) -> Any:
            primal, tangent = jax.jvp(lower, (t,), (jnp.ones_like(t),))
            return (*primal, tangent[-1])

        return values

    top: Callable[[Any], Any] = functools.partial(_single, f)
    for _ in range(order):
        top = raised(top)
    return tuple(top(x))


def _single(f: Callable[[Any], Any], t: Any) -> tuple[Any, ...]:
    return (f(t),)


def _root(G: Any) -> Any:
    """A matrix A with ``A A^T = G``, for singular G too. Never differentiated."""
    m = G.shape[0]
    G = jax.lax.stop_gradient(G)
    if m == 1:
        return jnp.sqrt(jnp.maximum(G, 0.0))
    if m > 2:
        values, vectors = jnp.linalg.eigh(G)
        scaled = vectors * jnp.sqrt(jnp.maximum(values, 0.0))[None, :]
        # strongly correlated inputs would vary along the last direction only: spread it over all
        return scaled @ jnp.asarray(_SPREAD[m], G.dtype)
    s1, s2 = jnp.sqrt(jnp.maximum(jnp.diagonal(G), 0.0))
    product = s1 * s2
    rho = jnp.where(product > 0, G[0, 1] / jnp.where(product > 0, product, 1.0), 0.0)
    rho = jnp.clip(rho, -1.0, 1.0)
    plus, minus = jnp.sqrt((1 + rho) / 2), jnp.sqrt((1 - rho) / 2)
    return jnp.stack([jnp.stack([s1 * plus, s1 * minus]), jnp.stack([s2 * plus, -s2 * minus])])


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def average(total: Callable[[Any, Any, Any], Any], f: Any, G: Any, u: Any, w: Any) -> Any:
    """``sum_n w_n g(f, z_n)`` for ``z = A u`` with covariance G.

    Args:
        total: ``total(f, z, w)`` returns the weighted sums (a pytree) over the last axis of z.
        f: a dual (pytree); only its function is used.
        G: covariance ``(m, m)``.
        u, w: points ``(m, N)`` and weights ``(N,)``.
    """
    return total(f, _root(G) @ u, w)


def _curvature(total: Callable[[Any, Any, Any], Any], a: int, b: int) -> Any:
    """Weighted sums of the second derivative of the summand along ``z_a`` and ``z_b``."""

    def second(f: Any, z: Any, w: Any) -> Any:
        rows = jnp.arange(z.shape[0])[:, None]
        e_a, e_b = (jnp.where(rows == i, jnp.ones_like(z), 0.0) for i in (a, b))
        return jax.jvp(lambda y: jax.jvp(lambda x: total(f, x, w), (y,), (e_a,))[1], (z,), (e_b,))[
            1
        ]

    return second


def _along_leaf(total: Callable[[Any, Any, Any], Any], i: int) -> Any:
    """Weighted sums of the derivative along parameter number i of the function."""

    def change(f: Any, z: Any, w: Any) -> Any:
        leaves, tree = jax.tree.flatten(f)
        unit = [jnp.ones_like(v) if i == j else jnp.zeros_like(v) for j, v in enumerate(leaves)]
        return jax.jvp(lambda g: total(g, z, w), (f,), (jax.tree.unflatten(tree, unit),))[1]

    return change


def _average_jvp(total: Any, primals: Any, tangents: Any) -> Any:
    f, G, u, w = primals
    d_f, d_G, *_ = tangents
    out = average(total, f, G, u, w)
    change = jax.tree.map(jnp.zeros_like, out)

    def add(coefficient: Any, t: Any) -> Any:
        return jax.tree.map(lambda c, k: c + t * k, change, coefficient)

    absent = jax.custom_derivatives.SymbolicZero
    if not isinstance(d_G, absent):
        m = G.shape[0]
        for a in range(m):
            for b in range(a, m):
                slope = d_G[a, b] / 2 + (d_G[b, a] / 2 if b > a else 0.0)
                change = add(average(_curvature(total, a, b), f, G, u, w), slope)
    for i, t in enumerate(jax.tree.leaves(d_f, is_leaf=lambda v: isinstance(v, absent))):
        if not isinstance(t, absent):
            change = add(average(_along_leaf(total, i), f, G, u, w), t)
    return out, change


average.defjvp(_average_jvp, symbolic_zeros=True)


def smooth_moments(f: Any, G: Any, u: Any, w: Any, order: str) -> Moments:
    """Averages of a smooth function by the trapezoid rule.

    Args:
        f: dual of a function that is differentiable five times; only ``f.fn`` is used.
        G: covariance ``(m, m)``, positive semi-definite; may be singular.
        u, w: from :func:`grid`.
        order: "V", "NTK", "dNTK" or "ddNTK": which averages are needed.

    Returns:
        :class:`Moments`.

    Source:
        Trefethen & Weideman (2014), SIAM Review 56, section 5.
        Check: ``tests/ntk/test_finite_width.py``.
    """
    return average(_SUMS[order], f, G, u, w)


def _sums(f: Any, z: Any, w: Any, order: str) -> Moments:
    products, highest = _NEEDED[order]
    m, n = z.shape
    table = jnp.stack(tower(f.fn, z, highest))  # (derivative, input, node)
    w = w[None]
    pair = jnp.einsum("kan,lbn->klab", table * w[None], table)

    def product(k: int, l: int) -> Any:  # noqa: E741
        return (table[k][:, None] * table[l][None, :]).reshape(m * m, n)

    right = jnp.concatenate([product(*kl) for kl in _RIGHT[:products]])
    left = jnp.concatenate([product(*kl) for kl in _LEFT[: min(products, 2)]])
    every = ((right * w) @ left.T).reshape(products, m, m, -1, m, m)
    return Moments(pair, named_four(every, products))


def named_four(every: Any, products: int) -> dict[str, Any]:
    """Four-point averages by name: ``"20_11"[a, b, c, d]`` is that of s''_a s_b s'_c s'_d."""
    four = {"00_00": every[0, :, :, 0]}
    if products > 1:
        four |= {"00_11": every[0, :, :, 1], "11_11": every[1, :, :, 1]}
    for p in range(2, products):
        k, l = _RIGHT[p]  # noqa: E741
        four[f"{k}{l}_11"] = every[p, :, :, 1]
    return four


def _chunked(f: Any, z: Any, w: Any, order: str) -> Moments:
    """:func:`_sums` with bounded memory."""
    n = z.shape[1]
    if n <= _CHUNK:
        return _sums(f, z, w, order)
    parts = -(-n // _CHUNK)
    z = jnp.pad(z, ((0, 0), (0, parts * _CHUNK - n))).reshape(z.shape[0], parts, _CHUNK)
    w = jnp.pad(w, (0, parts * _CHUNK - n)).reshape(parts, _CHUNK)

    def add(total: Any, part: Any) -> Any:
        return jax.tree.map(jnp.add, total, _sums(f, part[0], part[1], order)), None

    shapes = jax.eval_shape(lambda a, b: _sums(f, a, b, order), z[:, 0], w[0])
    zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    return jax.lax.scan(add, zero, (jnp.moveaxis(z, 1, 0), w))[0]


_SUMS = {order: functools.partial(_chunked, order=order) for order in _NEEDED}


def stein_defect(f: Any, q: float) -> float:
    r"""Largest relative violation of :math:`E[z f^{(k)}(z + c)] = q E[f^{(k+1)}(z + c)]`, k = 0..4.

    It vanishes for functions that have five derivatives. A kink that was not declared hides a delta
    function from automatic differentiation: its contribution is missing on the right.
    """
    u, w = grid(1, 2048)
    z, weight = math.sqrt(q) * jnp.asarray(u[0]), jnp.asarray(w)
    worst = 0.0
    for k in range(5):
        low = derivative(f.fn, (X,) * k, z + 0.37 * math.sqrt(q))
        high = derivative(f.fn, (X,) * (k + 1), z + 0.37 * math.sqrt(q))
        left, right = jnp.sum(weight * z * low), q * jnp.sum(weight * high)
        scale = jnp.sum(weight * jnp.abs(z * low)) + q * jnp.sum(weight * jnp.abs(high))
        worst = max(worst, float(jnp.abs(left - right) / jnp.maximum(scale, 1e-300)))
    return worst
