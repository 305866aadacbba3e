"""Independent references for Gaussian averages: float64 panel quadrature and mpmath.

Nothing here is shared with the library: plain NumPy and mpmath, no closed forms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mpmath as mp
import numpy as np

#: Generic covariances (q11, q12, q22): both signs, strong correlation, unequal variances.
COVARIANCES = (
    (1.0, 0.5, 1.0),
    (1.0, 0.97, 1.0),
    (0.7, -0.4, 1.3),
    (2.3, -0.99 * np.sqrt(2.3 * 0.6), 0.6),
    (0.2, 0.3, 3.1),
    (1.7, 0.0, 0.4),
)

_HALF_WIDTH = 14.0  # exp(-14^2 / 2) = 3e-43


def _panels(breaks: np.ndarray, width: float, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Composite Gauss-Legendre rule with panel ends at ``breaks`` (rows), about ``width`` wide."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    pieces = np.arange(1 + int(np.ceil(np.max(np.diff(breaks, axis=-1)) / width)))
    pieces = pieces / pieces[-1]
    left, span = breaks[..., :-1, None], np.diff(breaks, axis=-1)[..., None]
    edges = left + span * pieces
    half = np.diff(edges, axis=-1)[..., None] / 2
    x = (edges[..., :-1] + edges[..., 1:])[..., None] / 2 + half * nodes
    w = half * weights
    return x.reshape(*breaks.shape[:-1], -1), w.reshape(*breaks.shape[:-1], -1)


def _breaks(points: np.ndarray) -> np.ndarray:
    ends = np.full((*points.shape[:-1], 1), _HALF_WIDTH)
    inside = np.clip(points, -_HALF_WIDTH, _HALF_WIDTH)
    return np.sort(np.concatenate([-ends, inside, ends], axis=-1), axis=-1)


def dual_quadrature(
    f: Callable[[Any], Any],
    df: Callable[[Any], Any] | None,
    q11: float,
    q12: float,
    q22: float,
    kinks: Sequence[float] = (),
) -> tuple[float, float]:
    """``(E[f(x) f(y)], E[f'(x) f'(y)])`` in float64, about 1e-14 relative for |rho| <= 0.99.

    With ``x = sqrt(q11) u`` and ``y = sqrt(q22) (rho u + sqrt(1 - rho^2) v)``, the inner rule in
    ``v`` is split where ``y`` meets a kink and the outer rule in ``u`` where ``x`` does; after the
    inner integral the rest is smooth on the scale ``sqrt(1 - rho^2) / rho``, which sets the panels.

    Args:
        f: vectorised NumPy function.
        df: its derivative (away from the kinks); None returns NaN for the second average.
        q11, q12, q22: covariance with q11, q22 > 0 and |rho| < 1.
        kinks: points where ``f`` or ``f'`` jumps.
    """
    s1, s2 = np.sqrt(q11), np.sqrt(q22)
    rho = q12 / (s1 * s2)
    side = np.sqrt((1 - rho) * (1 + rho))
    points = np.asarray(kinks, dtype=float)
    u, wu = _panels(_breaks(points / s1), min(1.0, 3 * side), 16)
    cuts = (points / s2 - rho * u[:, None]) / side
    v, wv = _panels(_breaks(cuts), 1.0, 16)
    y = s2 * (rho * u[:, None] + side * v)
    weight = wu[:, None] * wv * np.exp(-(u[:, None] ** 2 + v**2) / 2) / (2 * np.pi)
    K = float(np.sum(weight * f(s1 * u)[:, None] * f(y)))
    if df is None:
        return K, float("nan")
    return K, float(np.sum(weight * df(s1 * u)[:, None] * df(y)))


def smooth_quadrature(
    f: Callable[[Any], Any], df: Callable[[Any], Any], q11: float, q12: float, q22: float
) -> tuple[float, float]:
    """The same for a function without kinks, by the trapezoid rule in ``u`` and ``v``.

    Its error is ``exp(-2 pi d / h)`` for poles at the distance ``d`` from the real axis; the
    nearest of a sigmoid in ``s u`` has ``d = pi / (2 s)``, and step ``h = 0.25 / s`` gives 1e-17.
    """
    s1, s2 = np.sqrt(q11), np.sqrt(q22)
    rho = q12 / (s1 * s2)
    side = np.sqrt((1 - rho) * (1 + rho))
    n = int(np.ceil(2 * _HALF_WIDTH / min(0.25, 0.25 / max(s1, s2))))
    u = np.linspace(-_HALF_WIDTH, _HALF_WIDTH, n)
    density = np.exp(-(u**2) / 2) * (u[1] - u[0]) / np.sqrt(2 * np.pi)
    y = s2 * (rho * u[:, None] + side * u)
    K, slope = (g(s1 * u) * density @ g(y) @ density for g in (f, df))
    return float(K), float(slope)


def mean_quadrature(f: Callable[[Any], Any], q: float, kinks: Sequence[float] = ()) -> float:
    """``E[f(sqrt(q) z)]`` by the same panels."""
    s = np.sqrt(q)
    z, w = _panels(_breaks(np.asarray(kinks, dtype=float) / s), 0.5, 16)
    return float(np.sum(w * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) * f(s * z)))


def mp_reference(
    f: Callable[[Any], Any],
    df: Callable[[Any], Any] | None,
    q1: Any,
    q2: Any,
    eps: Any,
    *,
    points: int = 90,
    half_width: float = 9.0,
    dps: int = 40,
) -> tuple[Any, Any, Any]:
    """``(K, Kdot, 1 - correlation)`` of a smooth ``f`` in mpmath, also for near-duplicates.

    Trapezoid rule in independent ``u, v`` (exponentially convergent for analytic ``f``). The last
    entry is ``E[(f(x)/sqrt(K11) - f(y)/sqrt(K22))^2] / 2``, the average of a square, so that it has
    full relative accuracy however small ``eps`` is.

    Args:
        f, df: mpmath functions; ``df`` None skips Kdot.
        q1, q2: variances > 0.
        eps: 1 - correlation, in [0, 2].
        points: nodes per axis; with 90 the error is about ``exp(-246 / (1/2 + 2 q))`` for
        ``erf(x)``
            (growth along the imaginary axis), cut off at exp(-81/2) by the range.
        half_width: range in standard deviations.
        dps: decimal digits.
    """
    with mp.workdps(dps):
        q1, q2, eps = (mp.mpf(str(a)) if isinstance(a, str) else mp.mpf(a) for a in (q1, q2, eps))
        step = 2 * mp.mpf(half_width) / points
        grid = [step * (k + mp.mpf(1) / 2) - half_width for k in range(points)]
        w = [step * mp.exp(-(z**2) / 2) / mp.sqrt(2 * mp.pi) for z in grid]
        s1, s2, rho = mp.sqrt(q1), mp.sqrt(q2), 1 - eps
        side = mp.sqrt(eps * (2 - eps))
        root1 = mp.sqrt(mp.fsum(a * f(s1 * z) ** 2 for a, z in zip(w, grid, strict=True)))
        root2 = mp.sqrt(mp.fsum(a * f(s2 * z) ** 2 for a, z in zip(w, grid, strict=True)))
        gap = slope = mp.mpf(0)
        for a, u in zip(w, grid, strict=True):
            fx, dfx = f(s1 * u), df(s1 * u) if df else mp.nan
            for b, v in zip(w, grid, strict=True):
                y = s2 * (rho * u + side * v)
                gap += a * b * (fx / root1 - f(y) / root2) ** 2 / 2
                if df:
                    slope += a * b * dfx * df(y)
        return root1 * root2 * (1 - gap), slope if df else mp.nan, gap
