r"""Exact Gaussian-process regression with any kernel callable.

.. math::

    y = f(X) + \varepsilon, \quad f \sim GP(0, k), \quad \varepsilon_i \sim N(0, \sigma_i^2)

A model is conditioned once (one Cholesky factorisation) and queried many times. Kernels are
evaluated in the dtype of their inputs; all linear algebra is float64 on the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.linalg

from deeplimits.errors import DomainError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import as_inputs, as_targets, check, integer, number, same_features
from gp.linalg import (
    Kernel,
    factorize,
    kernel_diagonal,
    kernel_matrix,
    nonnegative,
    rounding_size,
)
from gp.predictive import (
    Gaussian,
    PointPredictions,
    as_noise,
    gaussian_log_density,
    whiten,
    with_noise,
)
from gp.queries import joint_cov, joint_sample, noise_at


@float64_scope
def inputs(x: Any, name: str, like: Any = None) -> Any:
    """Inputs ``(n, d)`` or ``(n, *spatial, channels)``, with the feature axes of ``like``.

    Raises:
        ShapeError: 1-D, empty, or features that differ from those of ``like``.
        DomainError: not real finite numbers.
    """
    x = as_inputs(x, name)
    if like is not None:
        same_features(x, like, (name, "X"))
    return x


def size_guard(n: int, max_points: int, what: str) -> None:
    """Raise :class:`DomainError` when a dense ``n x n`` factorisation was not asked for.

    Args:
        n: number of points.
        max_points: the largest number for which dense algebra is allowed.
        what: what would be factorised, for the message.
    """
    if n > max_points:
        raise DomainError(
            f"{what} has {n} points, more than max_points={max_points}: dense algebra would take "
            f"{8e-9 * n**2:.1f} GB per matrix and time growing as n^3. Use fewer points, random "
            f"features, or pass max_points={n} to accept the cost."
        )


@dataclass(frozen=True)
class GP:
    r"""A zero-mean Gaussian process with observation noise, not yet conditioned.

    Noise variance of point i: :math:`\sigma_i^2 = \mathrm{noise}_i + \mathrm{noise\_rel}
    \cdot \mathrm{mean}_j\, k(x_j, x_j)`, the mean over training points.

    Args:
        kernel: ``k(X, Z=None) -> (n, m)``, such as ``net.nngp``.
        noise: noise variance (not standard deviation) in squared units of y, >= 0; a number, or
            one per training point ``(n,)``. Default 0.
        noise_rel: noise variance as a fraction of the mean diagonal of the training kernel matrix,
            >= 0. Default 0.
        max_points: refuse dense algebra on more points than this. Default 20000 (3.2 GB a
            matrix, about five of them at the peak).

    Raises:
        ShapeError: noise is neither a number nor one per point.
        DomainError: kernel not callable, negative or non-finite noise.

    Source: Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), chapter 2.
    """

    kernel: Kernel
    noise: Any = 0.0
    noise_rel: Any = 0.0
    max_points: int = 20_000

    def __post_init__(self) -> None:
        check(
            callable(self.kernel),
            f"kernel must be a callable k(X, Z=None) -> (n, m), got {type(self.kernel).__name__}. "
            "Pass the method, such as net.nngp.",
            DomainError,
        )
        as_noise(self.noise)
        number(self.noise_rel, "noise_rel", at_least=0)
        integer(self.max_points, "max_points", at_least=1)

    def prior(self, X: Any, *, noise: Any = False) -> Gaussian:
        """The law of ``f(X)`` (or of y) before any data, mean ``(m,)``.

        Args:
            X: inputs ``(m, d)`` or ``(m, *spatial, channels)``.
            noise: False for f; True for y with the noise of the model (``noise_rel`` times the mean
                over X); or variances to add, a number or ``(m,)``.

        Raises:
            ShapeError, DomainError: bad inputs, or a kernel that returns no covariance matrix.
        """
        x = inputs(X, "X")
        size_guard(x.shape[0], self.max_points, "X")
        matrix, dtype = kernel_matrix(self.kernel, x)
        diagonal = np.diagonal(matrix)
        own = self.noise + self.noise_rel * float(np.mean(diagonal))
        cov = with_noise(matrix, noise, own)
        return Gaussian(np.zeros(len(cov)), cov, rounding_size(diagonal, dtype))

    def condition(self, X: Any, y: Any) -> Posterior:
        """Condition on data: one Cholesky factorisation, kept in the result.

        Args:
            X: inputs ``(n, d)`` or ``(n, *spatial, channels)``.
            y: targets ``(n,)``, or ``(n, C)`` for C outputs that share kernel and noise.

        Raises:
            ShapeError, DomainError: bad inputs or targets, more than ``max_points`` points, or a
                kernel that returns no symmetric finite ``(n, n)`` matrix.
            NotPositiveDefiniteError: the kernel matrix is indefinite beyond rounding.

        Warns:
            JitterWarning: the matrix is singular and jitter was added (``info.jitter``).

        Check: test_process.py::test_posterior_matches_high_precision.
        """
        x = inputs(X, "X")
        n = x.shape[0]
        targets = np.asarray(as_targets(y, n), np.float64)
        vector = np.ndim(y) == 1
        noise = as_noise(self.noise, n)
        size_guard(n, self.max_points, "X")
        matrix, dtype = kernel_matrix(self.kernel, x)
        total = noise + self.noise_rel * float(np.mean(np.diagonal(matrix)))
        factor = factorize(matrix, total, name="the training covariance", dtype=dtype)
        white = whiten(factor.chol, targets)
        weights = scipy.linalg.solve_triangular(factor.chol, white, lower=True, trans=1)
        info = FitInfo(factor.jitter, total, n, str(dtype))
        return Posterior(x, targets, factor.chol, white, weights, info, self.kernel, vector)


@dataclass(frozen=True)
class FitInfo:
    """What was done to the training covariance.

    Attributes:
        jitter: variance added to the diagonal so that a factor exists; 0 if none was needed.
        noise: total noise variance (absolute plus relative part), scalar or ``(n,)``.
        n: number of training points.
        dtype: the dtype in which the kernel was evaluated.
    """

    jitter: float
    noise: Any
    n: int
    dtype: str


class Moments(NamedTuple):
    """Mean ``(m,)`` or ``(m, C)``, and variance ``(m,)``, at every point."""

    mean: np.ndarray
    var: np.ndarray


@dataclass(frozen=True)
class Posterior:
    r"""A Gaussian process given data; with :math:`K_n = k(X,X) + \Sigma_{noise} + \mathrm{jitter}`,

    .. math::

        \mu(x) = k(x, X) K_n^{-1} y, \qquad
        S(x, x') = k(x, x') - k(x, X) K_n^{-1} k(X, x')

    All results are NumPy float64. Made by :meth:`GP.condition`.

    Attributes:
        X, y: the data; ``y`` always ``(n, C)``.
        chol: lower Cholesky factor L of :math:`K_n`.
        white: :math:`L^{-1} y`.
        weights: :math:`K_n^{-1} y`.
        info: jitter, noise, size and dtype of the fit.
        kernel: the kernel callable.
        vector: whether y came as ``(n,)``, so that means are ``(m,)`` and not ``(m, C)``.
    """

    X: Any
    y: np.ndarray
    chol: np.ndarray
    white: np.ndarray
    weights: np.ndarray
    info: FitInfo
    kernel: Kernel
    vector: bool

    def _shape(self, values: np.ndarray) -> np.ndarray:
        return values[..., 0] if self.vector else values

    def _cross(self, xs: Any) -> tuple[np.ndarray, np.dtype]:
        return kernel_matrix(self.kernel, xs, self.X)

    def mean(self, Xs: Any) -> np.ndarray:
        """Posterior mean of f: ``(m,)`` when y was ``(n,)``, else ``(m, C)``.

        Args:
            Xs: inputs ``(m, d)``, features as in training.

        Raises:
            ShapeError, DomainError: bad inputs.
        """
        xs = inputs(Xs, "Xs", self.X)
        return self._shape(self._cross(xs)[0] @ self.weights)

    def var(self, Xs: Any) -> np.ndarray:
        """Posterior variance of f ``(m,)``, without the full covariance.

        Args:
            Xs: inputs ``(m, d)``, features as in training.

        Warns:
            PrecisionWarning: a variance was negative beyond rounding (and set to 0).

        Raises:
            ShapeError, DomainError: bad inputs.
        """
        return self.moments(Xs).var

    def moments(self, Xs: Any) -> Moments:
        """Posterior mean and variance of f at every point, for the price of the variance.

        Args:
            Xs: inputs ``(m, d)``, features as in training.

        Returns:
            ``(mean, var)`` as ``mean`` and ``var`` return them.

        Warns:
            PrecisionWarning: a variance was negative beyond rounding (and set to 0).

        Raises:
            ShapeError, DomainError: bad inputs.
        """
        xs = inputs(Xs, "Xs", self.X)
        cross, dtype = self._cross(xs)
        prior = kernel_diagonal(self.kernel, xs)
        half = whiten(self.chol, cross.T)
        var = nonnegative(prior - np.einsum("ij,ij->j", half, half), rounding_size(prior, dtype))
        return Moments(self._shape(cross @ self.weights), var)

    def predict(self, Xs: Any, *, noise: Any = False) -> Gaussian:
        """Joint predictive law of f (or of y) at ``Xs``.

        Args:
            Xs: inputs ``(m, d)``, features as in training.
            noise: False for f; True for y with the noise of training (which must then be one
                number); or variances to add, a number or ``(m,)``.

        Raises:
            ShapeError, DomainError: bad inputs, or ``noise=True`` after per-point training noise.
        """
        xs = inputs(Xs, "Xs", self.X)
        extra = noise_at(noise, self.info.noise, xs.shape[0])
        cross, _ = self._cross(xs)
        prior, dtype = kernel_matrix(self.kernel, xs)
        half = whiten(self.chol, cross.T)
        rounding = rounding_size(np.diagonal(prior), dtype)
        cov = with_noise(prior - half.T @ half, extra, 0.0)
        return Gaussian(self._shape(cross @ self.weights), cov, rounding)

    cov, sample = joint_cov, joint_sample

    @property
    def log_evidence(self) -> float:
        r"""Log marginal likelihood in nats, summed over outputs.

        .. math:: -\tfrac12 y^\top K_n^{-1} y - \tfrac12 \log\det K_n - \tfrac n2 \log 2\pi

        Check: test_evidence.py::test_log_evidence_against_scipy_and_sklearn.
        """
        return gaussian_log_density(self.chol, self.white)

    def prequential(self) -> PointPredictions:
        r"""Each target predicted from the targets before it: the whole learning curve at once.

        .. math:: \mathrm{sd}_i = L_{ii}, \qquad (y_i - \mu_i)/\mathrm{sd}_i = (L^{-1} y)_i

        The log scores add up to :attr:`log_evidence`.

        Source: A. P. Dawid, J. R. Statist. Soc. A 147 (1984) 278; formula derived here.
        Check: test_process.py::test_prequential.
        """
        sd = np.diagonal(self.chol)
        residual = sd[:, None] * self.white
        return self._points(residual, sd**2)

    def loo(self) -> PointPredictions:
        r"""Each target predicted from all the others.

        .. math::

            y_i - \mu_i = [K_n^{-1} y]_i / [K_n^{-1}]_{ii}, \qquad \sigma_i^2 = 1/[K_n^{-1}]_{ii}

        Source: Rasmussen and Williams (2006), eq. (5.12).
        Check: test_process.py::test_loo_brute_force.
        """
        inverse_root = whiten(self.chol, np.eye(self.info.n))
        variance = 1 / np.sum(inverse_root**2, axis=0)
        return self._points(variance[:, None] * self.weights, variance)

    def _points(self, residual: np.ndarray, variance: np.ndarray) -> PointPredictions:
        mean = self.y - residual
        return PointPredictions(self._shape(mean), variance, self._shape(residual))


def _rebuild(meta: tuple[Kernel, int], leaves: Any) -> GP:
    """A model without the checks of its arguments: JAX puts gradients and placeholders there."""
    model = object.__new__(GP)
    for name, value in zip(
        ("noise", "noise_rel", "kernel", "max_points"), (*leaves, *meta), strict=True
    ):
        object.__setattr__(model, name, value)
    return model


jax.tree_util.register_pytree_node(
    GP, lambda model: ((model.noise, model.noise_rel), (model.kernel, model.max_points)), _rebuild
)
register_dataclass(FitInfo, ["jitter", "noise"], ["n", "dtype"])
register_dataclass(Posterior, ["X", "y", "chol", "white", "weights", "info"], ["kernel", "vector"])
