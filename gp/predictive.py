"""Gaussian laws over given points: predictive records, log densities and the evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import scipy.linalg
import scipy.special

from deeplimits.errors import DomainError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import as_key, as_targets, check, integer, is_traced, number
from gp.linalg import factorize, nonnegative, psd_root

LOG_2PI = float(np.log(2 * np.pi))


def as_noise(noise: Any, n: int | None = None, name: str = "noise") -> Any:
    """Noise variances: one number >= 0, or one per point ``(n,)``.

    Raises:
        ShapeError: not 0-D or ``(n,)``.
        DomainError: negative, NaN or infinite.
    """
    if is_traced(noise):
        return noise
    if np.ndim(noise) == 0:
        return number(noise, name, at_least=0)
    vector = np.asarray(noise, np.float64)
    allowed = "(n,)" if n is None else f"({n},)"
    check(
        vector.ndim == 1 and n in (None, len(vector)),
        f"{name} must be one number or one per point, shape {allowed}; got shape {vector.shape}.",
        ShapeError,
    )
    check(
        bool(np.all(np.isfinite(vector) & (vector >= 0))),
        f"{name} holds variances and must be finite and >= 0, got a minimum of {vector.min()}.",
        DomainError,
    )
    return vector


def with_noise(matrix: np.ndarray, noise: Any, own: Any) -> np.ndarray:
    """``matrix`` made symmetric, plus nothing (False), the ``own`` noise (True) or ``noise``."""
    matrix = 0.5 * (matrix + matrix.T)
    if isinstance(noise, bool | np.bool_):
        noise = own if noise else 0.0
    matrix[np.diag_indices(len(matrix))] += as_noise(noise, len(matrix))
    return matrix


@float64_scope
def standard_normal(key: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Float64 standard normal draws, the same whether or not x64 is on."""
    return np.asarray(jax.random.normal(as_key(key), shape, np.float64))


def normal_log_density(residual: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """``-r^2 / 2v - log(2 pi v) / 2``, elementwise; where v = 0: inf at r = 0, else -inf."""
    safe = np.where(variance > 0, variance, 1.0)
    density = -0.5 * (residual**2 / safe + np.log(safe) + LOG_2PI)
    return np.where(variance > 0, density, np.where(residual == 0, np.inf, -np.inf))


@dataclass(frozen=True)
class Gaussian:
    r"""A joint Gaussian over m points, independent and equally distributed across outputs.

    .. math:: f_{\cdot c} \sim N(\mu_{\cdot c}, S), \qquad c = 1..C

    Attributes:
        mean: ``(m,)``, or ``(m, C)`` when the targets had an output axis.
        cov: ``(m, m)``, shared by the outputs.
        rounding: size of the rounding errors in ``cov``; eigenvalues in ``[-m * rounding, 0)`` are
            read as 0.
    """

    mean: np.ndarray
    cov: np.ndarray
    rounding: float = 0.0

    @property
    def var(self) -> np.ndarray:
        """Variances ``(m,)``."""
        return nonnegative(np.diagonal(self.cov), self.rounding)

    @property
    def std(self) -> np.ndarray:
        """Standard deviations ``(m,)``."""
        return np.sqrt(self.var)

    def _residual(self, y: Any) -> np.ndarray:
        y = np.asarray(as_targets(y, self.mean.shape[0], "y"), np.float64)
        mean = self.mean.reshape(len(self.mean), -1)
        check(
            y.shape == mean.shape,
            f"y must have the shape of the mean, {self.mean.shape}, got {y.shape}.",
            ShapeError,
        )
        return y - mean

    def log_prob(self, y: Any) -> float:
        r"""Joint log-density, in nats, summed over outputs.

        .. math:: -\tfrac12 (y-\mu)^\top S^{-1} (y-\mu) - \tfrac12 \log\det S - \tfrac m2 \log 2\pi

        Args:
            y: values of the shape of ``mean``.

        Warns:
            JitterWarning: ``cov`` is singular (no noise in it) and jitter was needed.

        Raises:
            ShapeError, DomainError: y has the wrong shape or is not finite.
            NotPositiveDefiniteError: no density exists; ask for ``predict(..., noise=True)``.

        Check: test_process.py::test_predictive_log_prob.
        """
        residual = self._residual(y)
        chol = factorize(self.cov, name="the predictive covariance").chol
        return gaussian_log_density(chol, whiten(chol, residual))

    def pointwise(self, y: Any) -> np.ndarray:
        """Marginal log-density of every entry of ``y``, in nats, in the shape of ``mean``.

        Args:
            y: values of the shape of ``mean``.

        Raises:
            ShapeError, DomainError: y has the wrong shape or is not finite.
        """
        residual = self._residual(y)
        return normal_log_density(residual, self.var[:, None]).reshape(self.mean.shape)

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Central credible intervals of every point, ``(lower, upper)`` in the shape of ``mean``.

        Args:
            level: probability inside, in (0, 1).

        Raises:
            DomainError: level outside (0, 1).
        """
        number(level, "level", above=0, below=1)
        half = float(scipy.special.ndtri(0.5 + 0.5 * level)) * self.std
        half = half.reshape(-1, *[1] * (self.mean.ndim - 1))
        return self.mean - half, self.mean + half

    def sample(self, key: Any, n: int = 1) -> np.ndarray:
        """Joint draws ``(n, m)`` or ``(n, m, C)``; exact for singular covariances too.

        Args:
            key: a ``jax.random.key`` or an integer seed.
            n: number of draws, >= 1.

        Raises:
            DomainError: not a key, or n < 1.
            NotPositiveDefiniteError: ``cov`` has eigenvalues that are negative beyond rounding.
        """
        integer(n, "n", at_least=1)
        normal = standard_normal(key, (n, *self.mean.shape))
        root = psd_root(self.cov, self.rounding)
        return self.mean + np.moveaxis(np.tensordot(root, normal, (1, 1)), 0, 1)


def whiten(chol: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """``L^{-1} r`` for ``r`` of shape ``(n, m)``.

    BLAS itself: ``solve_triangular`` first looks for zeros on the diagonal, and is 20 % slower.
    """
    return scipy.linalg.blas.dtrsm(1.0, chol, residual, lower=1)


def gaussian_log_density(chol: np.ndarray, white: np.ndarray) -> float:
    """Sum over columns of the log-density with covariance ``L L'`` and ``white = L^{-1} r``."""
    outputs = white.shape[1]
    log_det = 2 * float(np.sum(np.log(np.diagonal(chol))))
    return -0.5 * (float(np.sum(white**2)) + outputs * (log_det + len(chol) * LOG_2PI))


@dataclass(frozen=True)
class PointPredictions:
    """One predictive distribution per training target, each from other targets only.

    Attributes:
        mean: predicted targets, in the shape of y.
        var: their variances ``(n,)``, observation noise included.
        residual: ``y - mean``.
    """

    mean: np.ndarray
    var: np.ndarray
    residual: np.ndarray

    @property
    def log_score(self) -> np.ndarray:
        """Log predictive density of each target, in nats, in the shape of y."""
        variance = self.var.reshape(-1, *[1] * (self.mean.ndim - 1))
        return normal_log_density(self.residual, variance)

    @property
    def rmse(self) -> float:
        """Root mean square of the residuals, over points and outputs."""
        return float(np.sqrt(np.mean(self.residual**2)))


@dataclass(frozen=True)
class StoppingScore:
    """A chosen moment of training and the scores behind it.

    Attributes:
        time: the moment with the smallest score, in steps.
        index: its position in ``times``.
        times: all moments ``(T,)``.
        score: leave-one-out mean square error at each ``(T,)``; NaN where undefined.
    """

    time: float
    index: int
    times: np.ndarray
    score: np.ndarray


register_dataclass(StoppingScore, ["time", "index", "times", "score"], [])
register_dataclass(Gaussian, ["mean", "cov", "rounding"], [])
register_dataclass(PointPredictions, ["mean", "var", "residual"], [])
