"""Similarity of representations up to linear maps (CCA and kin) and rotations (Procrustes)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bounds.result import Estimate
from deeplimits.errors import DomainError, ShapeError
from deeplimits.typing import ArrayLike
from deeplimits.validate import as_inputs, number

#: Directions below this, relative to the largest singular value, are rounding errors.
RANK = 1e-10
FEWEST = 4


def cca(X: ArrayLike, Y: ArrayLike) -> Estimate:
    r"""Mean canonical correlation: singular values of :math:`Q_X^\top Q_Y`.

    :math:`Q` are orthonormal bases of the centred features, so that the result does not change
    under any invertible linear map of either representation.

    Args:
        X, Y: ``(n, p)`` and ``(n, q)``, n >= 4 and more samples than either rank plus one.

    Returns:
        :class:`~bounds.result.Estimate` of the mean over the smaller rank; ``terms``:
        ``correlations``, descending.

    Raises:
        ShapeError: different numbers of samples, or fewer than 4.
        DomainError: NaN, constant features, or as many directions as samples: every correlation is
            then 1 whatever the features are.

    Source: arXiv:1905.00414 (mean CCA). Check: tests/bounds/test_similarity.py::test_cca
    """
    X, Y = _pair(X, Y)
    return _correlations(_basis(X, "X"), _basis(Y, "Y"), "CCA")


def svcca(X: ArrayLike, Y: ArrayLike, *, keep: float = 0.99) -> Estimate:
    """Mean canonical correlation of the leading principal components.

    Args:
        X, Y: as in :func:`cca`.
        keep: share of the variance whose components are kept, in (0, 1]; default 0.99.

    Returns:
        As :func:`cca`, with ``kept`` (numbers of components) in ``terms``.

    Raises:
        ShapeError, DomainError: as :func:`cca`.

    Source: arXiv:1706.05806. Check: tests/bounds/test_similarity.py::test_cca
    """
    number(keep, "keep", above=0, at_most=1)
    X, Y = _pair(X, Y)
    bases = _basis(X, "X", keep), _basis(Y, "Y", keep)
    return _correlations(*bases, "SVCCA", kept=tuple(b.shape[1] for b in bases))


def pwcca(X: ArrayLike, Y: ArrayLike) -> Estimate:
    r"""Canonical correlations weighted by how much of ``X`` each canonical variable carries.

    .. math:: \frac{\sum_i \alpha_i \rho_i}{\sum_i \alpha_i}, \qquad
              \alpha_i = \sum_j |\langle h_i, x_j \rangle|

    with the canonical variables :math:`h_i` of X and its centred columns :math:`x_j`. Not
    symmetric.

    Args:
        X, Y: as in :func:`cca`.

    Returns:
        As :func:`cca`, with ``weights`` in ``terms``.

    Raises:
        ShapeError, DomainError: as :func:`cca`.

    Source: arXiv:1806.05759. Check: tests/bounds/test_similarity.py::test_cca
    """
    X, Y = _pair(X, Y)
    A, B = _basis(X, "X"), _basis(Y, "Y")
    U, rho, _ = np.linalg.svd(A.T @ B, full_matrices=False)
    weights = np.abs((A @ U).T @ X).sum(1)
    estimate = _correlations(A, B, "PWCCA", weights=weights / weights.sum())
    value = float(np.minimum(rho, 1.0) @ weights / weights.sum())
    return Estimate(**{**estimate.__dict__, "value": value})


def procrustes(X: ArrayLike, Y: ArrayLike) -> Estimate:
    r"""Distance of two representations after the best rotation of one onto the other.

    .. math:: d^2 = \|X\|_F^2 + \|Y\|_F^2 - 2 \|X^\top Y\|_*

    of centred features; the narrower one is padded with zeros, which is what the formula does.

    Args:
        X, Y: ``(n, p)`` and ``(n, q)``, n >= 4.

    Returns:
        :class:`~bounds.result.Estimate` of d, a metric; ``terms``: ``squared``, ``nuclear``.

    Raises:
        ShapeError: different numbers of samples, or fewer than 4. DomainError: NaN, constant
            features.

    Source: arXiv:2110.14739. Check: tests/bounds/test_similarity.py::test_procrustes
    """
    X, Y = _pair(X, Y)
    nuclear = _nuclear(X, Y)
    squared = max(0.0, float((X**2).sum() + (Y**2).sum()) - 2 * nuclear)
    terms = {"squared": squared, "nuclear": nuclear}
    return _distance(math.sqrt(squared), "Procrustes distance", len(X), terms)


def angular_procrustes(X: ArrayLike, Y: ArrayLike) -> Estimate:
    r"""Angle between two representations after the best rotation, in radians, 0 to pi/2.

    .. math:: \theta = \arccos \frac{\|X^\top Y\|_*}{\|X\|_F \|Y\|_F}

    Args:
        X, Y: as in :func:`procrustes`.

    Returns:
        :class:`~bounds.result.Estimate`, a metric that does not depend on scale; ``terms``:
        ``cosine``.

    Raises:
        ShapeError, DomainError: as :func:`procrustes`.

    Source: arXiv:2110.14739. Check: tests/bounds/test_similarity.py::test_procrustes
    """
    X, Y = _pair(X, Y)
    X, Y = X / np.linalg.norm(X), Y / np.linalg.norm(Y)
    cosine = min(_nuclear(X, Y), 1.0)
    # arccos loses half of the digits near 1; the distance after rotation does not
    angle = 2 * math.asin(min(_residual(X, Y) / 2, 1.0))
    return _distance(angle, "angular Procrustes distance", len(X), {"cosine": cosine})


def _residual(X: np.ndarray, Y: np.ndarray) -> float:
    """Distance of two representations after the best orthogonal map of one onto the other."""
    columns = max(X.shape[1], Y.shape[1])
    X, Y = (np.pad(a, ((0, 0), (0, columns - a.shape[1]))) for a in (X, Y))
    U, _, Vt = np.linalg.svd(X.T @ Y)
    return float(np.linalg.norm(X @ (U @ Vt) - Y))


def _nuclear(X: np.ndarray, Y: np.ndarray) -> float:
    return float(np.linalg.svd(X.T @ Y, compute_uv=False).sum())


def _distance(value: Any, target: str, n: int, terms: dict[str, Any]) -> Estimate:
    return Estimate(
        value=float(value), terms=terms, target=target, n=n, units="1", reference="arXiv:2110.14739"
    )


def _pair(X: ArrayLike, Y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Centred features ``(n, p)`` and ``(n, q)``."""
    pair = []
    for values, name in ((X, "X"), (Y, "Y")):
        array = np.asarray(as_inputs(values, name), np.float64)
        array = array.reshape(len(array), -1)
        centred = array - array.mean(0)
        if not np.abs(centred).max() > 1e-13 * np.abs(array).max():
            raise DomainError(f"{name} is constant over the samples.")
        pair.append(centred)
    X, Y = pair
    if len(X) != len(Y) or len(X) < FEWEST:
        raise ShapeError(
            f"X and Y must be of the same {FEWEST} or more samples, got {len(X)} and {len(Y)}."
        )
    return X, Y


def _basis(X: np.ndarray, name: str, keep: float = 1.0) -> np.ndarray:
    """Orthonormal basis ``(n, r)`` of the leading directions with a share ``keep`` of variance."""
    U, values, _ = np.linalg.svd(X, full_matrices=False)
    kept = values > RANK * values[0]
    share = np.cumsum(values**2) / np.sum(values**2)
    if keep < 1:
        kept[1:] &= share[:-1] < keep
    rank = int(kept.sum())
    if rank >= len(X) - 1:
        raise DomainError(
            f"{name} spans all {len(X)} samples (rank {rank} after centring), so that every "
            "correlation is 1. Use more samples than features, svcca, or cka."
        )
    return U[:, :rank]


def _correlations(A: np.ndarray, B: np.ndarray, target: str, **terms: Any) -> Estimate:
    rho = np.minimum(np.linalg.svd(A.T @ B, compute_uv=False), 1.0)
    n, forced = len(A), A.shape[1] + B.shape[1] - (len(A) - 1)
    warnings = (
        (f"{forced} correlations are 1 because the ranks add up to more than n - 1",)
        if forced > 0
        else ()
    )
    return Estimate(
        value=float(rho.mean()),
        ceiling=1.0,
        terms={"correlations": rho, **terms},
        target=target,
        n=n,
        units="1",
        warnings=warnings,
    )
