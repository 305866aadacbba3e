"""Reference kernel for any correlation: NumPy panels in rotated coordinates, float64.

Complements ``dual_oracle`` where that loses accuracy (correlations near +-1) and also gives the
gap, as an average of squares.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .dual_checks import POINTS, ZEROS, evaluate

_END = 9.0  # exp(-9^2 / 2) = 3e-18


def _panels(cuts: Sequence[float], width: float) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(14)
    edges = np.sort(np.clip([-_END, *cuts, _END], -_END, _END))
    z, w = [], []
    for a, b in itertools.pairwise(edges):
        for k in range(count := int(np.ceil((b - a) / width))):
            half = (b - a) / count / 2
            z.append(a + half * (2 * k + 1 + nodes))
            w.append(half * weights)
    z, w = np.concatenate(z), np.concatenate(w)
    return z, w * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)


def mean(f: Callable[[Any], Any], q: float, kinks: Sequence[float] = ()) -> float:
    """``E[f(sqrt(q) z)]``."""
    s = np.sqrt(max(q, 1e-40))
    z, w = _panels([t / s for t in kinks], 0.5)
    return float(np.sum(w * f(s * z)))


def reference(
    f: Callable[[Any], Any],
    df: Callable[[Any], Any],
    q1: float,
    q2: float,
    eps: float,
    kinks: Sequence[float] = (),
    width: float = 1.5,
) -> tuple[float, float, float, float, float]:
    """``K``, ``Kdot``, gap, and the scales ``sqrt(K11 K22)``, ``sqrt(Kdot11 Kdot22)``."""
    q1, q2, eps = float(q1), float(q2), float(eps)
    s1, s2 = np.sqrt(q1), np.sqrt(q2)
    sign, e = (1.0, eps) if eps <= 1 else (-1.0, 2 - eps)
    c, d = np.sqrt(1 - e / 2), np.sqrt(e / 2)
    u, v = [t / s1 for t in kinks], [sign * t / s2 for t in kinks]
    root1, root2 = (np.sqrt(mean(lambda x: f(x) ** 2, q, kinks)) for q in (q1, q2))
    dot1, dot2 = (np.sqrt(mean(lambda x: df(x) ** 2, q, kinks)) for q in (q1, q2))
    K = Kdot = gap = 0.0
    for b, wb in zip(
        *_panels([(a - z) / max(2 * d, 1e-300) for a in u for z in v], width), strict=True
    ):
        z, w = _panels([(a - d * b) / c for a in u] + [(a + d * b) / c for a in v], width)
        x, y = s1 * (c * z + d * b), sign * s2 * (c * z - d * b)
        fx, fy = f(x), f(y)
        K += wb * np.sum(w * fx * fy)
        Kdot += wb * np.sum(w * df(x) * df(y))
        gap += wb * np.sum(w * (fx / root1 - fy / root2) ** 2) / 2
    return K, Kdot, gap, root1 * root2, dot1 * dot2


def check(
    dual: Any, f: Any, df: Any, points: Any, dtype: Any, rtol: float, kinks: Any = ()
) -> None:
    """K, Kdot and gap of ``dual`` at rows ``(q1, q2, eps)``.

    Errors of averages that may change sign are also allowed ``rtol`` times a thousandth (float64)
    or a tenth (float32) of their scale; the gap may be off by the rounding of two unit vectors.
    """
    points = np.asarray(points, dtype)
    found = evaluate(dual, points, dtype)
    floor, u = (1e-3, 1e-15) if dtype == np.float64 else (0.1, 3e-7)
    for i, point in enumerate(points):
        K, Kdot, gap, scale, dot = reference(f, df, *point, kinks=kinks)
        assert abs(found[0][i] - K) <= rtol * (abs(K) + floor * scale), (point, found[0][i], K)
        assert abs(found[1][i] - Kdot) <= rtol * (abs(Kdot) + floor * dot), (
            point,
            found[1][i],
            Kdot,
        )
        allowed = 20 * rtol * gap + 20 * u * np.sqrt(gap) + u**2
        assert abs(found[2][i] - gap) <= allowed, (point, found[2][i], gap)


def check_gradients(dual: Any, dtype: Any) -> None:
    """Reverse-mode gradients in q1, q2, eps and the parameters are finite at all shared points."""
    leaves, tree = jax.tree.flatten(dual)
    leaves = [jnp.asarray(leaf, dtype) for leaf in leaves]
    columns = [jnp.asarray(c, dtype) for c in np.concatenate([POINTS, ZEROS]).T]

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradient(columns: Any, leaves: Any) -> Any:
        K, Kdot, gap = jax.tree.unflatten(tree, leaves).kernel(*columns)
        return jnp.sum(0.7 * K - 0.4 * Kdot + 1.3 * gap)

    for leaf in jax.tree.leaves(gradient(columns, leaves)):
        assert leaf.dtype == dtype
        assert np.all(np.isfinite(np.asarray(leaf))), (dual, leaf)
