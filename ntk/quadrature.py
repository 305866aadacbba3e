r"""One-dimensional Gaussian averages on panels that end at the kinks, streamed over the nodes.

Gauss-Legendre panels converge exponentially for a function that is smooth between known points,
where Gauss-Hermite and trapezoid rules lose to the first kink (1e-4 with 80 nodes for ReLU). Nodes
are scanned, so that memory stays that of the result, and each step is recomputed in the backward
pass instead of stored.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_DENSITY = 1 / math.sqrt(2 * math.pi)
#: Variances below this are raised to it: the averages then take their limit for variance -> 0.
TINY_VARIANCE = 1e-30
#: Ends of the fixed panels in standard deviations: exp(-9^2 / 2) = 3e-18, exp(-6^2 / 2) = 2e-8.
_ENDS = {np.dtype(np.float64): (3.0, 6.0, 9.0), np.dtype(np.float32): (3.0, 6.0)}
#: Nodes per panel of length <= 3: 1e-15 for quadratics times the density, and margin for 1e-7.
_NODES = {np.dtype(np.float64): 16, np.dtype(np.float32): 10}


@functools.cache
def legendre(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of the ``n``-point Gauss-Legendre rule on [-1, 1], float64."""
    return np.polynomial.legendre.leggauss(n)


def default_nodes(dtype: Any) -> int:
    """Nodes per panel that reach the rounding error of ``dtype``."""
    return _NODES[np.dtype(dtype)]


def positive_std(q: Any) -> Any:
    """Square root of a variance, with zero replaced by the limit of small variances."""
    return jnp.sqrt(jnp.maximum(q, TINY_VARIANCE))


def gaussian_edges(points: Sequence[Any], dtype: Any) -> Any:
    """Panel ends: the fixed ones and ``points`` (arrays of one shape), sorted along axis 0."""
    ends = _ENDS[np.dtype(dtype)]
    shape = jnp.broadcast_shapes(*(jnp.shape(p) for p in points))
    fixed = [-e for e in ends[::-1]] + [0.0] + list(ends)
    rows = [jnp.full(shape, e, dtype) for e in fixed]
    rows += [jnp.clip(jnp.broadcast_to(p, shape), -ends[-1], ends[-1]) for p in points]
    return jnp.sort(jnp.stack(rows), axis=0)


def panel_sum(body: Callable[[Any], Any], edges: Any, nodes: int, *, unroll: int = 1) -> Any:
    """Sum over panels of ``int body(z) dz``.

    Args:
        body: maps nodes (shape ``edges.shape[1:]``) to a pytree of arrays.
        edges: sorted panel ends along axis 0.
        nodes: Gauss-Legendre nodes per panel.
        unroll: nodes evaluated in one step of the loop.
    """
    x, w = (jnp.asarray(a, edges.dtype) for a in legendre(nodes))

    def panel(total: Any, ends: Any) -> Any:
        middle, half = (ends[0] + ends[1]) / 2, (ends[1] - ends[0]) / 2

        def node(total: Any, rule: Any) -> Any:
            terms = body(middle + half * rule[0])
            return jax.tree.map(lambda t, v: t + v * (half * rule[1]), total, terms), None

        return lax.scan(jax.checkpoint(node), total, (x, w), unroll=unroll)

    zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(body, edges[0]))
    return lax.scan(jax.checkpoint(panel), zero, (edges[:-1], edges[1:]))[0]


def density(z: Any) -> Any:
    """Standard normal density."""
    return _DENSITY * jnp.exp(-z * z / 2)


def gaussian_mean(g: Callable[[Any], Any], kinks: Sequence[Any], q: Any, nodes: int = 0) -> Any:
    """``E[g(sqrt(q) z)]``, elementwise in ``q``; ``g`` may return a pytree.

    Args:
        g: elementwise, smooth between the kinks.
        kinks: points where ``g`` or a derivative jumps.
        q: variances >= 0.
        nodes: per panel; 0 takes the default of the dtype.
    """
    s = positive_std(q)
    edges = gaussian_edges([t / s for t in kinks] or [jnp.zeros_like(s)], s.dtype)
    scale = jnp.where(q > 0, s, 0)

    def body(z: Any) -> Any:
        weight = density(z)
        return jax.tree.map(lambda v: v * weight, g(scale * z))

    return panel_sum(body, edges, nodes or default_nodes(s.dtype), unroll=1)


def trapezoid_mean(g: Callable[[Any], Any], points: int, like: Any) -> Any:
    """``E[g(z)]`` of a smooth ``g`` by the trapezoid rule on [-9, 9], one node at a time.

    Args:
        g: maps a node (without axes) to an array.
        points: number of nodes.
        like: an array of the working dtype.
    """
    step = 18 / points
    z = jnp.asarray(step * (np.arange(points) + 0.5) - 9, like.dtype)

    def node(total: Any, z: Any) -> Any:
        return total + step * density(z) * g(z), None

    return lax.scan(node, jnp.zeros(jax.eval_shape(g, z[0]).shape, like.dtype), z, unroll=4)[0]
