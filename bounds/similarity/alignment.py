r"""Centred kernel alignment: the cosine between two centred Gram matrices.

With ordinary (double) centring the result is biased: representations that have nothing in common
approach 1 as their dimension grows past the number of samples. Centring that leaves the diagonal
out removes this, since products of two such matrices are unbiased estimates of the
Hilbert-Schmidt independence criterion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from bounds.result import Estimate
from deeplimits import plotting
from deeplimits.errors import DomainError, ShapeError
from deeplimits.typing import ArrayLike
from deeplimits.validate import as_inputs, as_square, is_traced

#: Fewest samples for which centring without the diagonal leaves anything.
FEWEST = 4
#: A centred Gram below this, relative to the Gram, is a constant representation up to rounding.
CONSTANT = 1e-13


def center_gram(K: ArrayLike, *, unbiased: bool = True) -> Any:
    r"""A Gram matrix without its constant part.

    Unbiased: zero diagonal and zero row sums,

    .. math:: A_{ij} = K_{ij} - \frac{k_i + k_j}{n - 2} + \frac{\sum_l k_l}{(n-1)(n-2)},
              \quad i \ne j, \qquad k_i = \sum_{j \ne i} K_{ij},

    otherwise :math:`C K C` with :math:`C = 1 - 1 1^\top / n`.

    Args:
        K: ``(n, n)``, n >= 4. Differentiable: tracers of JAX are accepted.
        unbiased: leave the diagonal out, default True.

    Raises:
        ShapeError: not square, or fewer than 4 samples.
        DomainError: not symmetric, NaN.

    Source: arXiv:1310.2973 (U-centring); textbook (double centring).
    Check: tests/bounds/test_similarity.py::test_unbiased_is_the_published_estimator
    """
    return centred(as_gram(K, "K"), unbiased)


def cka(K: ArrayLike, L: ArrayLike, *, unbiased: bool = True) -> Estimate:
    r"""Centred kernel alignment of two representations of the same samples, from their Grams.

    .. math:: \frac{\langle \tilde K, \tilde L \rangle}{\|\tilde K\| \|\tilde L\|}

    Args:
        K, L: ``(n, n)`` Grams of any kernels, n >= 4 (:func:`cka_features` for linear kernels of
            features). Differentiable: tracers of JAX are accepted.
        unbiased: centring that leaves the diagonal out, default True; False gives the original.

    Returns:
        :class:`~bounds.result.Estimate` in [-1, 1] (biased: [0, 1]), ``terms`` with the three
        criteria ``hsic_kl``, ``hsic_kk``, ``hsic_ll`` and, for concrete unbiased input, the
        jackknife standard error over samples.

    Raises:
        ShapeError: Grams that are not square or differ in size, fewer than 4 samples.
        DomainError: not symmetric, NaN, a constant representation.

    Source: arXiv:1905.00414; unbiased: arXiv:2010.15327 (HSIC_1).
    Check: tests/bounds/test_similarity.py::test_independent_features
    """
    K, L = as_gram(K, "K"), as_gram(L, "L")
    if K.shape != L.shape:
        raise ShapeError(f"K and L must be of the same samples, got {K.shape} and {L.shape}.")
    if is_traced(K) != is_traced(L):  # a constant takes the precision of what is differentiated
        K, L = (K, L.astype(K.dtype)) if is_traced(K) else (K.astype(L.dtype), L)
    A, B = (nonconstant(centred(G, unbiased), G, n) for G, n in ((K, "K"), (L, "L")))
    n = len(K)
    scale = 1 / (n * (n - 3)) if unbiased else 1 / (n - 1) ** 2
    products = [(P * Q).sum() for P, Q in ((A, B), (A, A), (B, B))]
    value = products[0] / (products[1] * products[2]) ** 0.5
    traced = is_traced(value)
    terms = dict(zip(("hsic_kl", "hsic_kk", "hsic_ll"), (p * scale for p in products), strict=True))
    stderr = None if traced or not unbiased or n <= FEWEST else _jackknife(K, L, float(value))
    return Estimate(
        value=value if traced else float(value),
        stderr=stderr,
        ceiling=1.0,
        terms=terms,
        target="CKA",
        method="unbiased" if unbiased else "biased",
        n=n,
        units="1",
        reference="arXiv:1905.00414",
        warnings=() if unbiased else (
            "biased: independent representations of high dimension give values near 1",
        ),
    )  # fmt: skip


def cka_features(X: ArrayLike, Y: ArrayLike, *, unbiased: bool = True) -> Estimate:
    """Linear centred kernel alignment of features: :func:`cka` of their Grams.

    Args:
        X, Y: ``(n, p)`` and ``(n, q)``, n >= 4.
        unbiased: as in :func:`cka`.

    Raises:
        ShapeError, DomainError: as :func:`cka`.

    Source: arXiv:1905.00414. Check: tests/bounds/test_similarity.py::test_independent_features
    """
    return cka(linear_gram(X, "X"), linear_gram(Y, "Y"), unbiased=unbiased)


def linear_gram(X: ArrayLike, name: str = "X") -> Any:
    """``X @ X.T`` of features ``(n, p)`` (further axes are flattened), exactly symmetric."""
    X = as_inputs(X, name)
    if not is_traced(X):
        X = np.asarray(X, np.float64)
    X = X.reshape(X.shape[0], -1)
    gram = X @ X.T
    return (gram + gram.T) / 2


def cka_matrix(
    kernels_a: Sequence[ArrayLike],
    kernels_b: Sequence[ArrayLike] | None = None,
    *,
    unbiased: bool = True,
) -> xr.DataArray:
    """Alignment of every layer of one network with every layer of another (or of itself).

    Args:
        kernels_a, kernels_b: Grams ``(n, n)`` of the same samples, one a layer; default b = a.
        unbiased: as in :func:`cka`.

    Returns:
        ``(a, b)`` values; see :func:`plot_cka_matrix`.

    Raises:
        ShapeError, DomainError: as :func:`cka`.

    Source: arXiv:1905.00414. Check: tests/bounds/test_similarity.py::test_matrix_of_layers
    """
    a = _directions(kernels_a, "kernels_a", unbiased)
    b = a if kernels_b is None else _directions(kernels_b, "kernels_b", unbiased)
    if a.shape[1] != b.shape[1]:
        raise ShapeError("kernels_a and kernels_b must be of the same samples.")
    return xr.DataArray(a @ b.T, dims=("a", "b"), name="CKA")


def plot_cka_matrix(matrix: xr.DataArray, *, ax: Any = None, **kw: Any) -> Any:
    """The layer-by-layer alignment as an image, first layers at the lower left.

    Args:
        matrix: from :func:`cka_matrix`.
        ax: axes to draw on; default a new figure.
        **kw: passed to ``imshow``.

    Check: tests/bounds/test_similarity.py::test_matrix_of_layers
    """
    ax = plotting.axes(ax)
    image = ax.imshow(matrix.values, **{"origin": "lower", "vmin": 0, "vmax": 1, **kw})
    ax.grid(False)
    ax.set(xlabel=f"layer ({matrix.dims[1]})", ylabel=f"layer ({matrix.dims[0]})")
    ax.set(xticks=range(matrix.shape[1]), yticks=range(matrix.shape[0]))
    ax.figure.colorbar(image, ax=ax, label="CKA")
    return ax


def as_gram(K: ArrayLike, name: str) -> Any:
    """A symmetric matrix of at least four samples, float64 unless traced.

    Raises:
        ShapeError, DomainError: otherwise.
    """
    K = as_square(K, name)
    if len(K) < FEWEST:
        raise ShapeError(f"{name} must be of at least {FEWEST} samples, got {len(K)}.")
    return K if is_traced(K) else np.asarray(K, np.float64)


def centred(K: Any, unbiased: bool) -> Any:
    """:func:`center_gram` of a checked matrix."""
    n = len(K)
    if not unbiased:
        rows = K.mean(0)
        return K - rows[None, :] - rows[:, None] + rows.mean()
    off = 1 - np.eye(n, dtype=K.dtype)
    K = K * off
    rows = K.sum(0) / (n - 2)
    return (K - rows[None, :] - rows[:, None] + rows.sum() / (n - 1)) * off


def nonconstant(A: Any, K: Any, name: str) -> Any:
    """``A``, the centred ``K``, unless nothing is left of it.

    Raises:
        DomainError: a constant representation.
    """
    if not is_traced(A):
        size = np.linalg.norm(A)
        if not size > CONSTANT * np.linalg.norm(K):
            raise DomainError(f"{name} is constant over the samples: it has no alignment.")
    return A


def _directions(kernels: Sequence[ArrayLike], name: str, unbiased: bool) -> np.ndarray:
    """Centred Grams as unit vectors ``(layers, n * n)``."""
    rows = []
    for i, kernel in enumerate(kernels):
        K = as_gram(kernel, f"{name}[{i}]")
        rows.append(nonconstant(centred(K, unbiased), K, f"{name}[{i}]").ravel())
    if not rows or len({len(r) for r in rows}) > 1:
        raise ShapeError(f"{name} must hold at least one Gram, all of the same samples.")
    stack = np.array(rows)
    return np.asarray(stack / np.linalg.norm(stack, axis=1, keepdims=True))


def _jackknife(K: np.ndarray, L: np.ndarray, value: float) -> float:
    """Standard error over samples, all n leave-one-out values from sums over rows."""
    n = len(K)
    kl, kk, ll = (_leave_one_out(P, Q) for P, Q in ((K, L), (K, K), (L, L)))
    with np.errstate(invalid="ignore", divide="ignore"):
        each = kl / np.sqrt(kk * ll)
    return float(np.sqrt((n - 1) * np.mean((each - each.mean()) ** 2)))


def _leave_one_out(K: np.ndarray, L: np.ndarray) -> np.ndarray:
    """The unbiased product of two Grams without each of the samples, up to a common factor."""
    off = 1 - np.eye(len(K))
    K, L, m = K * off, L * off, len(K) - 1
    rows, columns = K.sum(0), L.sum(0)
    shared = (K * L).sum(0)
    trace = shared.sum() - 2 * shared
    total = (rows.sum() - 2 * rows) * (columns.sum() - 2 * columns)
    crossed = (rows * columns).sum() - rows * columns - K @ columns - L @ rows + shared
    return np.asarray(trace + total / ((m - 1) * (m - 2)) - 2 * crossed / (m - 2))
