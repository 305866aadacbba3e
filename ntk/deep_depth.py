r"""How deep is deep enough, and how the limit looks."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from deeplimits.errors import ConvergenceError, DomainError, ShapeError
from deeplimits.plotting import axes
from deeplimits.precision import float64_scope
from deeplimits.validate import integer, number
from ntk import deep_data as data
from ntk.deep_recursion import deep_kernel, log_diagonal
from ntk.koenigs import boettcher, koenigs, layer_gap, log_koenigs_at_one

#: Gaps at which a kernel is compared with its limit.
_GRID = 64


@float64_scope
def depth_needed(
    limit: Any,
    X_train: Any = None,
    *,
    eps: Any = None,
    n: int | None = None,
    tol: float = 0.01,
    kernel: str = "nngp",
    most: int = 1_000_000,
) -> int:
    r"""Depth from which a deep kernel has the form of its limit on given data, within 5%.

    Between the smallest and the largest gap of the data, up to a common factor,

    - singular: :math:`k_L / \psi` is constant within ``tol``, and the off-diagonal entries of a row
      of the Gram sum to less than ``tol`` of the diagonal. For the NTK
      :math:`K_L / a^L = L\psi + S`, with :math:`S/\psi \approx \alpha b / ((b-1)\varepsilon)`: it
      needs hundreds of times more layers than the NNGP kernel;
    - nearest neighbour: the nearest point outweighs all others by ``1/tol`` at every training
      point, :math:`m^L \ln(B_1/B_2) \ge \ln(n/\mathrm{tol})`;
    - majority vote: all off-diagonal entries agree within ``tol``;
    - ordered phase: :math:`\varepsilon_L / \psi_1` is constant within ``tol``.

    Args:
        limit: from :func:`ntk.infinite_depth`.
        X_train: ``(n, d)``; or
        eps: gaps of the pairs that matter, in (0, 2]; for nearest neighbours pairs
            ``(..., 2)`` of the nearest and the second-nearest gap.
        n: number of training points, if not from ``X_train``.
        tol: > 0, default 0.01.
        kernel: ``"nngp"`` or ``"ntk"``.
        most: largest depth considered.

    Raises:
        ShapeError: neither or both of ``X_train`` and ``eps``.
        ConvergenceError: more than ``most`` layers.

    Source: derived here. Check: tests/ntk/test_infinite_depth.py::test_depth_needed
    """
    tol = float(number(tol, "tol", above=0.0))
    if (X_train is None) == (eps is None):
        raise ShapeError("depth_needed takes X_train or eps; give one of them.")
    nearest = limit.kind == "nearest_neighbour"
    if eps is None:
        eps, n = _gaps_of(X_train, nearest)
    eps = np.asarray(eps, np.float64)
    n = integer(2 if n is None else n, "n", at_least=2)
    if not ((eps > 0) & (eps <= 2)).all():
        raise DomainError("eps must lie in (0, 2]: gaps of distinct inputs.")
    if nearest:
        return _depth_of_nearest(limit, eps, n, tol, most)
    grid = np.geomspace(eps.min(), eps.max(), _GRID)

    def far(depth: int) -> float:
        return _deviation(limit, grid, n, depth, kernel)

    if limit.kind == "singular" and kernel == "ntk":
        base = depth_needed(limit, eps=eps, n=n, tol=tol, most=most)
        return max(base, _check_depth(_ntk_depth(limit, grid, 2 * base, tol), most))
    low, high = 0, 1
    while far(high) > tol:
        low, high = high, 2 * high
        _check_depth(low, most)
    while high - low > max(1, high // 20):
        middle = (low + high) // 2
        low, high = (middle, high) if far(middle) > tol else (low, middle)
    return high


def _check_depth(depth: float, most: int) -> int:
    if depth >= most:
        raise ConvergenceError(
            f"more than max_depth = {most} layers are needed. Use depth=inf (the limit itself), a "
            "larger tol, or data without near-duplicates."
        )
    return math.ceil(depth)


def _gaps_of(X: Any, nearest: bool) -> tuple[np.ndarray, int]:
    """Smallest and largest gap, or the two smallest of each row."""
    U = data.unit(X, "X_train")
    ends, pairs = [], []
    for rows, part, eps in data.blocks(U, U):
        if part.start == 0:
            best = np.full((len(eps), 2), np.inf)
        own = np.arange(rows.start, rows.stop)[:, None] == np.arange(part.start, part.stop)
        eps = np.where(own | (eps == 0), np.inf, eps)
        best = np.sort(np.concatenate([best, eps], axis=1), axis=1)[:, :2]
        ends += [eps.min(), eps[np.isfinite(eps)].max(initial=0.0)]
        if part.stop == len(U):
            pairs.append(best)
    ends = [e for e in ends if np.isfinite(e) and e > 0]
    return (np.concatenate(pairs) if nearest else np.array(ends)), len(U)


def _deviation(limit: Any, grid: np.ndarray, n: int, depth: int, kernel: str) -> float:
    found = deep_kernel(limit.map, jnp.asarray(grid), depth, kernel)
    if limit.phase == "ordered":
        ratio = np.log(np.asarray(found.gap)) - np.asarray(log_koenigs_at_one(limit.map, grid))
        return float(np.expm1(np.ptp(ratio)))
    log = np.asarray(found.log)
    if limit.kind == "majority_vote":
        return float(np.expm1(np.ptp(log)))
    ratio = log - np.asarray(koenigs(limit.map, jnp.asarray(grid))[0])
    return float(np.expm1(np.ptp(ratio))) + n * math.exp(log.max())


def _ntk_depth(limit: Any, grid: np.ndarray, depth: int, tol: float) -> float:
    r"""Depth at which :math:`S/\psi` varies by less than ``tol`` times the depth."""
    log = np.asarray(deep_kernel(limit.map, jnp.asarray(grid), depth, "ntk").log)
    log = log + log_diagonal(limit.b, depth, "ntk") - depth * math.log(limit.a)
    share = np.exp(log - np.asarray(koenigs(limit.map, jnp.asarray(grid))[0])) - depth
    return float(np.ptp(share) / tol - share.min())


def _depth_of_nearest(limit: Any, eps: np.ndarray, n: int, tol: float, most: int) -> int:
    if eps.shape[-1:] != (2,):
        raise ShapeError("eps must hold the two smallest gaps of each point, shape (..., 2).")
    log = np.asarray(boettcher(limit.map, jnp.asarray(eps)))
    apart = np.abs(log[..., 0] - log[..., 1]).min()
    if apart == 0:
        raise ConvergenceError("a point has two nearest neighbours at one distance.")
    layers = math.log(math.log(n / tol) / apart) / math.log(limit.map.first)
    return max(1, _check_depth(layers, most))


@float64_scope
def plot_infinite_depth(limit: Any, *, ax: Any = None, **kw: Any) -> Any:
    """The limiting kernel over the distance of two inputs, or the map of the correlation.

    Args:
        limit: from :func:`ntk.infinite_depth`.
        ax: axes to draw on; default a new figure.
        **kw: passed to ``plot``.

    Check: tests/ntk/test_infinite_depth.py::test_plot
    """
    ax = axes(ax)
    if limit.kind == "majority_vote":
        rho = np.linspace(-1, 1, 201)
        value = 1 - np.asarray(layer_gap(limit.map, jnp.asarray(1 - rho))[0])
        ax.plot(rho, value, **{"label": "one layer", **kw})
        ax.plot(rho, rho, color="0.6", linewidth=0.8)
        ax.plot([limit.c_star], [limit.c_star], "o", label=f"fixed point {limit.c_star:.4g}")
        ax.set(xlabel="correlation before", ylabel="correlation after", title=limit.kind)
        ax.legend(frameon=False)
        return ax
    distance = np.geomspace(1e-4, 1.4, 200)
    log = limit.log_kernel(eps=distance**2 / 2)
    if limit.kind == "singular":
        ax.loglog(distance, np.exp(log), **{"label": "limiting kernel", **kw})
        power = np.exp(log[0]) * (distance / distance[0]) ** -limit.exponent
        ax.loglog(distance, power, "--", label=f"distance to the power {-limit.exponent:.3g}")
        ax.set(ylabel="kernel")
    else:
        ax.loglog(distance, -log, **{"label": "-ln of the Boettcher function", **kw})
        ax.set(ylabel="decay of the kernel")
    ax.set(xlabel="distance of two unit vectors", title=limit.kind)
    ax.legend(frameon=False)
    return ax
