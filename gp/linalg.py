r"""Guarded linear algebra: kernel matrices on the host in float64, and factors that never lie.

Jitter (a multiple of the identity added so that a Cholesky factorisation exists) is observation
noise: it changes the model. It is therefore tried last, kept as small as possible, stored in the
result and warned about.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from deeplimits.errors import (
    DomainError,
    JitterWarning,
    NotPositiveDefiniteError,
    PrecisionWarning,
    ShapeError,
)
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import (
    as_square,
    check,
    finite,
)

#: ``k(X, Z=None) -> (n, m)``.
Kernel = Callable[..., Any]


@runtime_checkable
class HasDiagonal(Protocol):
    """A kernel that knows ``k(x_i, x_i)`` without its matrix."""

    def diagonal(self, X: Any) -> Any:
        """``(n,)``."""
        ...


_DIAGONAL_BLOCK = 256
_TILE = 256
_EPS = float(np.finfo(np.float64).eps)


@float64_scope
def kernel_matrix(kernel: Kernel, x: Any, z: Any = None) -> tuple[np.ndarray, np.dtype]:
    """``k(x, z)`` evaluated in the dtype of its inputs, then converted to float64.

    The evaluation runs with x64 on, so that float64 inputs are not truncated in a float32 program;
    float32 inputs stay float32.

    Args:
        kernel: ``k(X, Z=None) -> (n, m)``.
        x: validated inputs, n of them.
        z: validated inputs, m of them; None for the symmetric matrix of ``x``.

    Returns:
        The float64 matrix (exactly symmetric when ``z`` is None), and the dtype it was computed in.

    Raises:
        ShapeError: the kernel returned no ``(n, m)`` array.
        DomainError: NaN, infinite or complex entries, or an asymmetric matrix.
    """
    shape = (x.shape[0], x.shape[0] if z is None else z.shape[0])
    value = kernel(x) if z is None else kernel(x, z)
    return check_matrix(value, shape, symmetric=z is None)


def check_matrix(
    value: Any, shape: tuple[int, int], symmetric: bool
) -> tuple[np.ndarray, np.dtype]:
    """What a kernel returned, as float64, and the dtype in which it came.

    Args:
        value: the return value of a kernel.
        shape: the shape that it must have.
        symmetric: whether it must be symmetric (it is then symmetrised exactly).

    Raises:
        ShapeError: not an array of that shape.
        DomainError: NaN, infinite or complex entries, or asymmetric beyond rounding.
    """
    if not isinstance(value, jax.Array | np.ndarray) or value.shape != shape:
        got = getattr(value, "shape", None)
        came = f"shape {got}" if got is not None else f"a {type(value).__name__}"
        raise ShapeError(
            f"the kernel must return an array of shape {shape} for these inputs, got {came}. "
            "Pass a callable k(X, Z=None) -> (n, m), such as net.nngp."
        )
    host = np.asarray(value)
    if host.dtype.kind in "iub":
        host = host.astype(np.float64)
    if not jnp.issubdtype(host.dtype, jnp.floating):
        raise DomainError(f"the kernel must return real numbers, got dtype {host.dtype}.")
    finite(host, "the kernel matrix")
    if not symmetric:
        return np.asarray(host, np.float64), host.dtype
    matrix = np.array(host, np.float64)
    gap = _symmetrise(matrix)
    if gap > 0:
        as_square(host, "the kernel matrix")  # raises where the gap is beyond rounding
    return matrix, host.dtype


def _symmetrise(matrix: np.ndarray) -> float:
    """Replace a square matrix by the mean of itself and its transpose; the largest difference.

    In tiles that fit the cache, of which only unequal ones are written: reading a matrix of
    thousands of rows along its columns costs as much as half its factorisation.
    """
    n, gap = len(matrix), 0.0
    for i in range(0, n, _TILE):
        for j in range(0, i + 1, _TILE):
            lower, upper = (
                matrix[i : i + _TILE, j : j + _TILE],
                matrix[j : j + _TILE, i : i + _TILE],
            )
            difference = lower - upper.T
            if difference.any():
                gap = max(gap, float(np.max(np.abs(difference))))
                half = 0.5 * difference
                lower -= half
                upper[...] = lower.T
    return gap


@float64_scope
def nngp_and_ntk(net: Any, x: Any, z: Any = None) -> tuple[np.ndarray, np.ndarray, np.dtype]:
    """NNGP and NTK matrices in one pass where the network offers it, and their dtype."""
    if not callable(getattr(net, "kernel_fn", None)):
        nngp, dtype = kernel_matrix(net.nngp, x, z)
        return nngp, kernel_matrix(net.ntk, x, z)[0], dtype
    shape = (x.shape[0], x.shape[0] if z is None else z.shape[0])
    both = net.kernel_fn(x, z, ("nngp", "ntk"))
    nngp, dtype = check_matrix(both.nngp, shape, symmetric=z is None)
    return nngp, check_matrix(both.ntk, shape, symmetric=z is None)[0], dtype


def kernel_diagonal(kernel: Kernel, x: Any) -> np.ndarray:
    """``k(x_i, x_i)`` for every row, float64 ``(n,)``, without the full matrix.

    A kernel with a method ``diagonal(X)`` is asked for it. Else diagonal blocks have one fixed size
    (the last is padded with repeats), so that a jitted kernel is compiled once.
    """
    n = x.shape[0]
    if isinstance(kernel, HasDiagonal):
        return np.array(kernel.diagonal(x), np.float64)
    if n <= _DIAGONAL_BLOCK:
        return np.diagonal(kernel_matrix(kernel, x)[0]).copy()
    starts = range(0, n, _DIAGONAL_BLOCK)
    rows = [np.minimum(np.arange(s, s + _DIAGONAL_BLOCK), n - 1) for s in starts]
    blocks = [np.diagonal(kernel_matrix(kernel, x[r])[0]) for r in rows]
    return np.concatenate(blocks)[:n]


@dataclass(frozen=True)
class Factor:
    """Lower Cholesky factor of ``K + diag(noise) + jitter I``.

    Attributes:
        chol: ``(n, n)`` lower triangular.
        jitter: what had to be added to the diagonal, a variance; 0 if nothing.
    """

    chol: np.ndarray
    jitter: float


register_dataclass(Factor, ["chol", "jitter"], [])


def factorize(
    matrix: np.ndarray, noise: Any = 0.0, *, name: str = "K", dtype: Any = np.float64
) -> Factor:
    r"""Cholesky factor of ``matrix + diag(noise)``, with the smallest jitter that is needed.

    Jitter 0 is tried first, then :math:`\epsilon\, n\, \mathrm{mean}|K_{ii}|\, 10^k`,
    :math:`k = 0..6`, with :math:`\epsilon` = 2.2e-16. The mean of absolute values, not the trace:
    the trace of an indefinite matrix can be 0.

    Args:
        matrix: symmetric float64 ``(n, n)``.
        noise: variance, scalar or ``(n,)``, >= 0.
        name: what the matrix is, for messages.
        dtype: the dtype in which the matrix was computed, for messages.

    Returns:
        The factor and the jitter.

    Warns:
        JitterWarning: the jitter exceeds 1e-3 of the smallest noise, or the noise is 0.

    Raises:
        NotPositiveDefiniteError: no rung of the ladder suffices.

    Check: test_linalg.py::test_ladder_starts_at_zero, test_linalg.py::test_ladder_first_rung.
    """
    n = matrix.shape[0]
    floor = float(np.min(noise))
    first = _EPS * n * float(np.mean(np.abs(np.diagonal(matrix))))
    for jitter in [0.0, *(first * 10.0**k for k in range(7))]:
        shifted = np.array(matrix.T, order="F")  # symmetric: a copy without a transposition
        shifted[np.diag_indices(n)] += noise + jitter
        try:
            chol = scipy.linalg.cholesky(shifted, lower=True, overwrite_a=True, check_finite=False)
        except np.linalg.LinAlgError:
            continue
        pivots = np.square(np.diagonal(chol))
        if not np.isfinite(pivots).all():  # a bad entry spoils the pivot of its row
            continue
        if floor == jitter == 0 and pivots.min() <= first:  # what is left of it is rounding
            continue
        if jitter > 1e-3 * floor:
            warnings.warn(
                f"{name} is singular to working precision: jitter {jitter:.3g} was added to its "
                f"diagonal (noise is {floor:.3g}), which changes the model. Set noise explicitly.",
                JitterWarning,
                stacklevel=3,
            )
        return Factor(chol, jitter)
    raise NotPositiveDefiniteError(_indefinite_message(matrix, noise, 1e6 * first, name, dtype))


def _indefinite_message(
    matrix: np.ndarray, noise: Any, jitter: float, name: str, dtype: Any
) -> str:
    n = matrix.shape[0]
    shifted = matrix + np.diag(np.broadcast_to(noise, n))
    low = float(scipy.linalg.eigvalsh(shifted, subset_by_index=(0, 0))[0])
    message = (
        f"{name} (n={n}, computed in {np.dtype(dtype)}) is not positive definite, even with jitter "
        f"{jitter:.3g}: its smallest eigenvalue is {low:.6g}. "
    )
    if n > 1:
        i, j, gap = nearest_rows(matrix)
        message += f"The nearest rows are {i} and {j} (squared kernel distance {gap:.3g}). "
    return message + (
        f"Use noise of at least {max(-2 * low, jitter):.2g} more, drop duplicate rows, compute the "
        "kernel from float64 inputs, or check that the kernel is positive semi-definite."
    )


def nearest_rows(matrix: np.ndarray) -> tuple[int, int, float]:
    """The pair ``i < j`` with the smallest ``K_ii + K_jj - 2 K_ij``, and that value.

    Args:
        matrix: symmetric ``(n, n)``, n >= 2.
    """
    diagonal = np.diagonal(matrix)
    best = (0, 1, np.inf)
    for i in range(matrix.shape[0] - 1):
        gaps = diagonal[i] + diagonal[i + 1 :] - 2 * matrix[i, i + 1 :]
        j = int(np.argmin(gaps))
        if gaps[j] < best[2]:
            best = (i, i + 1 + j, float(gaps[j]))
    return best


def eigh_psd(matrix: np.ndarray, *, name: str, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    r"""Eigenvalues (ascending, >= 0) and eigenvectors of a positive semi-definite matrix.

    Eigenvalues that are negative by rounding become 0. Why ``evd``: LAPACK's default driver leaves
    eigenvectors orthogonal to 1e-13 only (measured at n = 1000), ``evd`` to 3e-15 at equal cost.

    Args:
        matrix: symmetric float64 ``(n, n)``.
        name: what the matrix is, for messages.
        dtype: the dtype in which it was computed; sets what counts as rounding:
            :math:`10^{-10}\lambda_{\max}` for float64, :math:`10^{-5}\lambda_{\max}` below.

    Raises:
        NotPositiveDefiniteError: an eigenvalue is more negative than rounding explains.
    """
    values, vectors = scipy.linalg.eigh(matrix, driver="evd", check_finite=False)
    slack = 1e-10 if np.dtype(dtype) == np.float64 else 1e-5
    low, high = float(values[0]), float(max(values[-1], -values[0]))
    check(
        low >= -slack * high,
        f"{name} (n={len(values)}, computed in {np.dtype(dtype)}) must be positive semi-definite, "
        f"but its eigenvalues run from {low:.6g} to {values[-1]:.6g}. Check the kernel, or compute "
        "it from float64 inputs.",
        NotPositiveDefiniteError,
    )
    return np.maximum(values, 0.0), vectors


def rounding_size(diagonal: np.ndarray, dtype: Any) -> float:
    """Size of the rounding errors in ``prior - reduction``: 1e-8 relative (float64) or 1e-4."""
    relative = 1e-8 if np.dtype(dtype) == np.float64 else 1e-4
    return relative * float(np.max(np.abs(diagonal), initial=0.0))


def nonnegative(variance: np.ndarray, rounding: float) -> np.ndarray:
    """Variances with negative rounding errors set to 0.

    Warns:
        PrecisionWarning: a variance is below ``-rounding``.
    """
    low = float(np.min(variance, initial=0.0))
    if low < -rounding:
        warnings.warn(
            f"a variance came out as {low:.3g} and was set to 0: the kernel matrix is too badly "
            "conditioned for its precision. Increase noise or compute the kernel in float64.",
            PrecisionWarning,
            stacklevel=3,
        )
    return np.maximum(variance, 0.0)


def psd_root(matrix: np.ndarray, rounding: float) -> np.ndarray:
    r"""The symmetric square root :math:`Q \sqrt{\Lambda} Q^\top` of a covariance.

    Why not Cholesky: a posterior covariance is singular at noise-free training points and for
    smooth kernels, where Cholesky needs jitter. The symmetric root exists always and is unique, so
    that samples do not depend on the signs that LAPACK gives to eigenvectors.

    Args:
        matrix: symmetric ``(m, m)``.
        rounding: eigenvalues in ``[-rounding * m, 0)`` are rounding errors and read as 0.

    Raises:
        NotPositiveDefiniteError: an eigenvalue lies below that.
    """
    values, vectors = scipy.linalg.eigh(matrix, driver="evd", check_finite=False)
    slack = rounding * len(values) + _EPS * len(values) * float(np.max(np.abs(values)))
    check(
        float(values[0]) >= -slack,
        f"the covariance has eigenvalue {values[0]:.6g}, beyond rounding ({slack:.3g}): it is no "
        "covariance. Increase noise or compute the kernel in float64.",
        NotPositiveDefiniteError,
    )
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
