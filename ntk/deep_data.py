r"""Data for deep kernels: unit vectors, their gaps by blocks, repeated points, labels."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from deeplimits.errors import DeepLimitsWarning, DomainError, ShapeError
from deeplimits.validate import as_inputs
from ntk.koenigs import DepthMap

#: Two unit vectors closer than this are one direction: normalisation itself rounds by less.
SAME = 8e-15
#: Training and test points per block.
ROWS, COLUMNS = 128, 4096


def unit(X: Any, name: str) -> Float[np.ndarray, "n d"]:
    """Rows divided by their lengths, float64.

    Raises:
        DomainError: a row of length 0.
        ShapeError: as :func:`deeplimits.validate.as_inputs`.
    """
    X = np.asarray(as_inputs(X, name), np.float64)
    X = X.reshape(len(X), -1)
    largest = np.abs(X).max(axis=1, keepdims=True)
    if (largest == 0).any():
        row = int(np.argmax(largest[:, 0] == 0))
        raise DomainError(f"row {row} of {name} is zero and has no direction. Remove it.")
    X = X / largest
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def gaps(U: np.ndarray, V: np.ndarray) -> Float[np.ndarray, "m n"]:
    r""":math:`1 - \rho = \tfrac12 |u - v|^2` of unit vectors.

    Small ones are formed from differences: :math:`1 - u \cdot v` is off by a rounding unit.
    """
    out = np.clip(1 - U @ V.T, 0.0, 2.0)
    near = np.nonzero(out < 1e-6)
    for i, j in _batches(near[0], near[1]):
        out[i, j] = ((U[i] - V[j]) ** 2).sum(axis=1) / 2
    out[out <= SAME**2 / 2] = 0.0
    return out


def _batches(i: np.ndarray, j: np.ndarray, size: int = 65536) -> Iterator[tuple[Any, Any]]:
    for start in range(0, len(i), size):
        yield i[start : start + size], j[start : start + size]


def same_directions(U: np.ndarray, opposite: bool) -> list[tuple[int, int]]:
    """Pairs of rows that are one direction (or, on request, opposite ones), without a Gram.

    Rows are sorted along a random direction; only neighbours there can be equal.
    """
    direction = np.random.default_rng(0).normal(size=U.shape[1])
    along = U @ (direction / np.linalg.norm(direction))
    along = np.abs(along) if opposite else along
    order = np.argsort(along)
    pairs: list[tuple[int, int]] = []
    for shift in range(1, len(U)):
        close = np.flatnonzero(along[order[shift:]] - along[order[:-shift]] <= SAME)
        if not len(close):
            break
        i, j = order[close], order[close + shift]
        apart = np.linalg.norm(U[i] - U[j], axis=1)
        if opposite:
            apart = np.minimum(apart, np.linalg.norm(U[i] + U[j], axis=1))
        found = np.sort(np.stack([i, j], axis=1)[apart <= SAME], axis=1)
        pairs += [(int(a), int(b)) for a, b in found]
    return sorted(pairs)


def encode(y: Any, n: int) -> tuple[Shaped[np.ndarray, " classes"], Int[np.ndarray, " n"]]:
    """Classes and the column of each label; rows of a one-hot matrix become column numbers.

    Raises:
        ShapeError: not one label per training point.
        DomainError: labels that are NaN, or one-hot rows without a single largest entry.
    """
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] > 1:
        if y.shape[0] == n and not (np.sort(y, axis=1)[:, -1] > np.sort(y, axis=1)[:, -2]).all():
            raise DomainError("each row of a one-hot y must have one largest entry.")
        y = y.argmax(axis=1)
    y = y.reshape(len(y)) if y.ndim == 2 else y
    if y.shape != (n,):
        raise ShapeError(f"y_train must hold one label per training point, shape ({n},).")
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        raise DomainError("y_train must be finite labels.")
    return np.unique(y, return_inverse=True)


def blocks(U: np.ndarray, V: np.ndarray) -> Iterator[Any]:
    """``(test rows, training rows, gaps)`` of all pairs of blocks."""
    for i in range(0, len(V), ROWS):
        rows = slice(i, min(i + ROWS, len(V)))
        for j in range(0, len(U), COLUMNS):
            part = slice(j, min(j + COLUMNS, len(U)))
            yield rows, part, gaps(V[rows], U[part])


def warn_if_outside(m: DepthMap, U: np.ndarray, V: np.ndarray) -> None:
    """Warn about negative correlations under an even activation."""
    if m.parity != "even" or (U.min() >= 0 and V.min() >= 0):
        return
    if any((eps > 1).any() for _, _, eps in blocks(U, V)):
        warnings.warn(
            "Some correlations are negative and the activation is even, so opposite inputs are "
            "the same to the network; the theorem assumes correlations >= 0.",
            DeepLimitsWarning,
            stacklevel=4,
        )


def distinct(
    m: DepthMap, U: np.ndarray, columns: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Training points without repetitions: copies share one weight without a ridge."""
    pairs = same_directions(U, opposite=m.parity != "none")
    for i, j in pairs:
        if m.parity == "odd" and float(U[i] @ U[j]) < 0:
            raise DomainError(f"training points {i} and {j} are opposite; drop one of them.")
        if columns[i] != columns[j]:
            raise DomainError(
                f"training points {i} and {j} are the same direction with labels "
                f"{classes[columns[i]]} and {classes[columns[j]]}. Remove one of them, or use a "
                "ridge."
            )
    if not pairs:
        return U, columns
    keep = np.ones(len(U), bool)
    keep[[max(pair) for pair in pairs]] = False
    warnings.warn(
        f"{int((~keep).sum())} training points repeat others with the same label and were merged.",
        DeepLimitsWarning,
        stacklevel=4,
    )
    return U[keep], columns[keep]
