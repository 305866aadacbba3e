r"""Samples for estimators of information: checks, invariant transforms, neighbours."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import scipy.special
import scipy.stats
from scipy.spatial import cKDTree

from deeplimits.errors import DomainError, ShapeError
from deeplimits.typing import ArrayLike, Key
from deeplimits.validate import as_inputs, as_key, choice, integer, number

#: Transforms of single coordinates; all leave a mutual information unchanged.
TRANSFORMS = ("standardise", "rank-gauss")
#: Largest share of points whose k-th neighbour may lie at distance zero.
TIES = 0.01


def as_points(x: ArrayLike, name: str) -> tuple[np.ndarray, list[str]]:
    """Points ``(n, d)`` in float64 (images flattened), with warnings about their nature.

    Raises:
        ShapeError, DomainError: as :func:`deeplimits.validate.as_inputs`; a constant column.
    """
    kind = getattr(x, "dtype", None)
    values = np.asarray(x) if kind is None else x
    whole = getattr(values.dtype, "kind", "") in "iub"
    if whole:
        values = np.asarray(values, np.float64)
    points = np.asarray(as_inputs(values, name), np.float64)
    points = points.reshape(len(points), -1)
    constant = np.flatnonzero(np.ptp(points, axis=0) == 0)
    if len(points) > 1 and len(constant):
        raise DomainError(
            f"{name} is constant in column {constant[0]} ({len(constant)} such columns). A "
            "constant carries no information: leave it out."
        )
    notes = []
    if whole:
        notes.append(
            f"{name} holds integers and was taken as continuous; if it is discrete, use mixed()."
        )
    elif len(points) > 1:
        tied = max(1 - len(np.unique(column)) / len(column) for column in points.T)
        if tied > TIES:
            notes.append(
                f"{100 * tied:.2g}% of the values of a column of {name} are repeated: nearest "
                "neighbours assume a density; discrete variables belong into mixed()."
            )
    return points, notes


def as_pair(x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Paired samples ``(n, p)`` and ``(n, q)``.

    Raises:
        ShapeError: a different number of rows.
    """
    a, notes = as_points(x, "x")
    b, more = as_points(y, "y")
    if len(a) != len(b):
        raise ShapeError(
            f"x and y must be paired row by row, got {len(a)} and {len(b)} rows of shapes "
            f"{a.shape} and {b.shape}."
        )
    return a, b, notes + more


def check_k(k: Any, n: int) -> int:
    """The number of neighbours, 1 <= k <= n - 2 (the next one serves the jackknife)."""
    k = integer(k, "k", at_least=1)
    if k > n - 2:
        raise DomainError(f"k must be at most n - 2 = {n - 2} for n = {n} samples, got {k}.")
    return k


def transformed(points: np.ndarray, transform: str | None) -> tuple[np.ndarray, float]:
    """Transformed columns, and what the transform took from the entropy (0 for ranks).

    ``"standardise"`` divides by the standard deviation, ``"rank-gauss"`` maps the ranks r of each
    column to normal quantiles at (r - 1/2)/n.
    """
    if transform is None:
        return points, 0.0
    choice(transform, "transform", TRANSFORMS)
    if transform == "standardise":
        scale = points.std(axis=0, ddof=1)
        return (points - points.mean(axis=0)) / scale, float(np.log(scale).sum())
    ranks = scipy.stats.rankdata(points, axis=0)
    return scipy.special.ndtri((ranks - 0.5) / len(points)), 0.0


def generator(key: Key) -> np.random.Generator:
    """A NumPy generator seeded by a JAX key or an integer."""
    return np.random.default_rng(np.asarray(jax.random.key_data(as_key(key))))


def jittered(points: np.ndarray, jitter: Any, rng: np.random.Generator | None) -> np.ndarray:
    """Points with normal noise of ``jitter`` standard deviations of each column."""
    if float(number(jitter, "jitter", at_least=0)) == 0:
        return points
    if rng is None:
        raise DomainError("jitter adds random noise and needs a key: pass key=0, for instance.")
    return points + float(jitter) * points.std(axis=0) * rng.standard_normal(points.shape)


def neighbours(
    points: np.ndarray, k: int, p: float, workers: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Distances and indices ``(n, k)`` of the ``k`` nearest other points in the p-norm."""
    tree = cKDTree(points)
    order = tree.indices  # neighbours asked one after the other meet the same nodes
    distance = np.empty((len(points), k + 1))
    index = np.empty((len(points), k + 1), np.intp)
    distance[order], index[order] = tree.query(points[order], k + 1, p=p, workers=workers)
    # Among duplicates the point itself need not come first.
    row, column = np.nonzero(index[:, 1:] == np.arange(len(points))[:, None])
    index[row, column + 1] = index[row, 0]
    return distance[:, 1:], index[:, 1:]


def refuse_ties(radius: np.ndarray, k: int, share: float = TIES) -> list[str]:
    """Warnings about points whose k-th neighbour is a duplicate.

    Raises:
        DomainError: more than ``share`` of the points.
    """
    tied = float(np.mean(radius == 0))
    if tied > share:
        raise DomainError(
            f"{100 * tied:.3g}% of the points have {k} or more exact duplicates: the samples have "
            "no density. Use mixed() for discrete labels, or add noise with jitter=1e-6 and key=."
        )
    return [f"{100 * tied:.3g}% of the points have {k} or more exact duplicates."] if tied else []
