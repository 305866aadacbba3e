r"""Spectrum of a kernel on data: eigenvalues of the Gram matrix and what a target looks like in it.

With the N data points as the input distribution, the eigenvalues of the integral operator are those
of K/N, and a function with values f has the coefficients :math:`v_i = u_i \cdot f/\sqrt N`, so that
:math:`\sum_i v_i^2` is its mean square.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse.linalg

from deeplimits.errors import ConvergenceError, DomainError, NotPositiveDefiniteError, ShapeError
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import Array, ArrayLike
from deeplimits.validate import as_square, as_targets, finite, integer, number


@functools.partial(
    register_dataclass,
    data_fields=["eigenvalues", "vectors", "coefficients", "trace", "mean_square", "square_sum"],
    meta_fields=["n_points"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class GramSpectrum:
    """Eigen-decomposition of K/N, and the coefficients of a target in it.

    Attributes:
        eigenvalues: ``(m,)`` of K/N, descending; all of them, or the m largest.
        vectors: ``(N, m)`` orthonormal eigenvectors of K.
        coefficients: ``(m,)``; the length of the coefficient vector if there are several targets;
            None without a target.
        trace: sum of all N eigenvalues.
        mean_square: mean over points of the squared target, summed over targets; None without one.
        square_sum: sum of the squares of all eigenvalues; NaN if K is only known by its products.
        n_points: N.
    """

    eigenvalues: Array
    vectors: Array
    coefficients: Array | None
    trace: float
    mean_square: float | None
    square_sum: float
    n_points: int

    @property
    def tail(self) -> float:
        """Sum of the eigenvalues that were not computed (0 for a full decomposition)."""
        complete = len(self.eigenvalues) == self.n_points
        return 0.0 if complete else max(0.0, float(self.trace - self.eigenvalues.sum()))

    @property
    def participation_ratio(self) -> float:
        r"""Effective number of eigenvalues, :math:`(\sum_i\lambda_i)^2/\sum_i\lambda_i^2`."""
        return float(self.trace**2 / self.square_sum)

    @property
    def alignment(self) -> float:
        r"""Kernel-target alignment :math:`\sum_i \lambda_i v_i^2 / (\|\lambda\| \sum_i v_i^2)`.

        1 if the target lies in a single mode and is all of the kernel; a partial decomposition
        gives a lower bound.
        """
        self._needs_target("alignment")
        v2 = np.asarray(self.coefficients) ** 2
        return float(self.eigenvalues @ v2 / (self.square_sum**0.5 * self.mean_square))

    @property
    def cumulative_power(self) -> Array:
        """``(m,)`` share of the target's power in the first 1, 2, ..., m modes."""
        self._needs_target("cumulative_power")
        return np.cumsum(np.asarray(self.coefficients) ** 2) / self.mean_square

    def _needs_target(self, what: str) -> None:
        if self.coefficients is None:
            raise DomainError(f"{what} needs a target: gram_spectrum(K, target).")

    def plot(self, ax: Any = None, **kw: Any) -> Any:
        """Cumulative power of the target over rank, or the eigenvalues if there is no target."""
        return plot_cumulative_power(self, ax=ax, **kw)


def plot_cumulative_power(spectrum: GramSpectrum, *, ax: Any = None, **kw: Any) -> Any:
    """Share of the target outside the first k modes against k; eigenvalues without a target.

    Args:
        spectrum: from :func:`gram_spectrum`.
        ax: axes to draw on; default a new figure.
        **kw: passed to ``plot``.

    Returns:
        The axes.

    Check: tests/ntk/test_spectrum.py::test_plots.
    """
    from deeplimits import plotting

    if spectrum.coefficients is None:
        positive = spectrum.eigenvalues[spectrum.eigenvalues > 0]
        return plotting.plot_spectrum(positive, ax=ax, **kw)
    ax = plotting.axes(ax)
    rest = 1 - spectrum.cumulative_power
    shown = rest > 1e-12
    ax.loglog(np.arange(1, len(rest) + 1)[shown], rest[shown], **kw)
    ax.set(xlabel="number of modes", ylabel="share of the target left out")
    return ax


def gram_spectrum(
    K: Any,
    target: ArrayLike | None = None,
    *,
    k: int | None = None,
    trace: float | None = None,
    tol: float = 1e-12,
) -> GramSpectrum:
    r"""Eigenvalues of a Gram matrix over N, and the coefficients of a target.

    .. math:: \frac1N K u_i = \lambda_i u_i, \qquad v_i = \frac{u_i \cdot f}{\sqrt N}

    Args:
        K: ``(N, N)`` symmetric positive semi-definite; or, with ``k``, a
            ``scipy.sparse.linalg.LinearOperator`` (only products are used).
        target: values f of the function at the points, ``(N,)`` or ``(N, targets)``; optional.
        k: number of largest eigenvalues, 1 <= k < N, by Lanczos iteration (memory N k, no N^3);
            default all, by LAPACK.
        trace: trace of K; needed for an operator only.
        tol: relative accuracy of the Lanczos iteration.

    Returns:
        :class:`GramSpectrum`; eigenvalues that are negative by rounding (over -1e-10 of the
        largest) are 0.

    Raises:
        ShapeError, DomainError: K not square and symmetric, target not one row per point.
        NotPositiveDefiniteError: a negative eigenvalue beyond rounding.
        ConvergenceError: the iteration did not converge.

    Source: Canatar, Bordelon & Pehlevan, arXiv:2006.13198, section on real data.
    Check: tests/ntk/test_spectrum.py::test_gram_spectrum.
    """
    operator = isinstance(K, scipy.sparse.linalg.LinearOperator)
    if operator:
        if k is None or trace is None:
            raise DomainError("an operator needs k (how many eigenvalues) and its trace.")
        matrix, square_sum = K, float("nan")
        if K.shape[0] != K.shape[1]:
            raise ShapeError(f"K must be square, got shape {K.shape}.")
    else:
        matrix = np.asarray(as_square(K, "K"), np.float64)
        trace = float(np.trace(matrix)) if trace is None else number(trace, "trace")
        square_sum = float(np.sum(matrix**2))
    n = matrix.shape[0]
    values, vectors = _decompose(matrix, n, k, tol)
    low, high = float(values.min()), float(np.abs(values).max())
    if low < -1e-10 * high:
        raise NotPositiveDefiniteError(
            f"K must be positive semi-definite, but its eigenvalues reach {low:.6g} (largest "
            f"{high:.6g}). Compute it from float64 inputs, or check the kernel."
        )
    coefficients, mean_square = None, None
    if target is not None:
        f = np.asarray(as_targets(target, n, "target"), np.float64)
        coefficients = vectors.T @ f / n**0.5
        coefficients = (
            coefficients[:, 0] if f.shape[1] == 1 else np.linalg.norm(coefficients, axis=1)
        )
        mean_square = float(np.sum(f**2) / n)
    return GramSpectrum(
        np.maximum(values, 0.0) / n,
        vectors,
        coefficients,
        float(trace) / n,
        mean_square,
        square_sum / n**2,
        n,
    )


def _decompose(matrix: Any, n: int, k: int | None, tol: float) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, descending, and eigenvectors: all of them, or the ``k`` largest."""
    if k is None:
        values, vectors = scipy.linalg.eigh(matrix, driver="evd", check_finite=False)
        return values[::-1], vectors[:, ::-1]
    k = integer(k, "k", at_least=1)
    if k >= n:
        raise DomainError(f"k must be below the number of points {n}, got {k}; omit it for all.")
    # a fixed start makes the result reproducible
    start = np.random.default_rng(0).standard_normal(n)
    try:
        values, vectors = scipy.sparse.linalg.eigsh(matrix, k, which="LA", tol=tol, v0=start)
    except scipy.sparse.linalg.ArpackNoConvergence as error:
        raise ConvergenceError(
            f"the Lanczos iteration found {len(error.eigenvalues)} of {k} eigenvalues. Use fewer, "
            "or a larger tol."
        ) from error
    finite(values, "the eigenvalues")
    order = np.argsort(values)[::-1]
    return values[order], vectors[:, order]
