r"""Which arrangement do the class means have?"""

from __future__ import annotations

import numpy as np

from deeplimits.errors import ShapeError
from deeplimits.typing import ArrayLike
from deeplimits.validate import as_real, finite, number

#: What :func:`geometry` can answer, beside ``"rank r"``.
NAMES = ("zero", "orthogonal frame", "simplex ETF", "general orthogonal frame", "orthoplex")


def simplex(K: int) -> np.ndarray:
    """``(K, K)`` Gram of the simplex: :math:`I - 1 1^T / K`."""
    return np.eye(K) - 1 / K


def orthoplex(K: int) -> np.ndarray:
    """``(K, K)`` Gram of K/2 pairs of opposite unit vectors, mutually orthogonal; K even."""
    return np.kron(np.eye(K // 2), np.array([[1.0, -1.0], [-1.0, 1.0]]))


def polygon(K: int) -> np.ndarray:
    """``(K, K)`` Gram of K unit vectors spread evenly over a circle."""
    angle = 2 * np.pi * np.arange(K) / K
    return np.cos(angle[:, None] - angle)


def geometry(means: ArrayLike, *, tol: float = 1e-3) -> str:
    r"""Name of the arrangement of vectors, up to rotation and scale.

    - ``"orthogonal frame"``: orthogonal, of one length;
    - ``"general orthogonal frame"``: orthogonal, of different lengths (some may be zero);
    - ``"simplex ETF"``: Gram proportional to :math:`I - 1 1^\top / K`;
    - ``"orthoplex"``: orthogonal pairs of opposite vectors of one length (a square for K = 4);
    - ``"zero"``, or ``"rank r"`` for anything else.

    Args:
        means: ``(d, K)`` one column a class.
        tol: largest Frobenius distance between normalised Grams, default 1e-3.

    Raises:
        ShapeError: not a matrix. DomainError: NaN, a negative tolerance.

    Source: arXiv:2008.08186 (simplex), arXiv:2301.00437 (orthogonal frames); orthoplex: derived
    here. Check: tests/bounds/test_collapse.py::test_geometry_names
    """
    vectors = np.asarray(as_real(means, "means"), np.float64)
    if vectors.ndim != 2 or 0 in vectors.shape:
        raise ShapeError(f"means must have shape (d, K), got {vectors.shape}.")
    finite(vectors, "means")
    number(tol, "tol", at_least=0)
    gram = vectors.T @ vectors
    K, size = len(gram), np.linalg.norm(gram)
    if size < 1e-20:
        return "zero"
    gram = gram / size

    def near(other: np.ndarray) -> bool:
        return bool(np.linalg.norm(gram - other / np.linalg.norm(other)) <= tol)

    if K > 1 and near(simplex(K)):
        return "simplex ETF"
    if near(np.eye(K)):
        return "orthogonal frame"
    if np.linalg.norm(gram - np.diag(np.diag(gram))) <= tol:
        return "general orthogonal frame"
    if K % 2 == 0 and K > 2:
        partner = np.argmin(gram, axis=1)
        order = np.array([pair for i, j in enumerate(partner) if i < j for pair in (i, j)], int)
        if np.array_equal(np.sort(order), np.arange(K)):
            pairs = orthoplex(K) / np.linalg.norm(orthoplex(K))
            if np.linalg.norm(gram[np.ix_(order, order)] - pairs) <= tol:
                return "orthoplex"
    values = np.linalg.eigvalsh(gram)
    return f"rank {int(np.sum(values > tol * values[-1]))}"
