r"""Scale mixtures with noise of a known variance, which the random scale does not multiply.

.. math:: y \mid s^2 \sim N(0, s^2 K + \Sigma), \qquad
    \Sigma^{-1/2} K \Sigma^{-1/2} = Q \Lambda Q^\top, \quad \tilde y = Q^\top \Sigma^{-1/2} y

One eigen-decomposition; then every scale costs n operations. Centre and covariance of the
predictions depend on the scale, and no closed form exists for any prior.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from deeplimits.errors import DomainError, JitterWarning
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import as_targets, check
from gp.linalg import eigh_psd, factorize, kernel_diagonal, kernel_matrix, rounding_size
from gp.mixture_laws import GaussianMixture
from gp.mixture_marginals import MarginalMixture
from gp.mixture_points import (
    ScalePredictions,
    nodes_before,
    nodes_from_the_start,
    nodes_others,
)
from gp.predictive import LOG_2PI, as_noise, whiten
from gp.process import FitInfo, inputs, size_guard
from gp.queries import joint_cov, joint_sample, marginal_quantile, noise_at
from gp.scale_priors import density_of_log
from gp.scale_quadrature import ScaleNodes, integrate

#: Joint covariances of all components may take this many bytes.
_MOST_BYTES = 4e9
#: Nodes and points are combined in blocks of this many numbers.
_BLOCK = 4_000_000
#: Components with less weight than this, e^-80, are left out of joint laws.
_LEFT_OUT = -80.0


def unscaled_posterior(model: Any, X: Any, y: Any) -> UnscaledPosterior:
    """Condition a :class:`gp.ScaleMixture` with unscaled noise (its ``condition`` calls this)."""
    x = inputs(X, "X")
    n = x.shape[0]
    targets = np.asarray(as_targets(y, n), np.float64)
    noise = as_noise(model.noise, n)
    size_guard(n, model.max_points, "X")
    matrix, dtype = kernel_matrix(model.kernel, x)
    root = np.sqrt(np.broadcast_to(np.asarray(noise, np.float64), (n,)))
    values, vectors = eigh_psd(
        matrix / np.outer(root, root), name="the kernel matrix of X", dtype=dtype
    )
    modes = vectors.T @ (targets / root[:, None])
    squares = np.sum(modes**2, axis=1)
    outputs = targets.shape[1]

    def height(u: np.ndarray) -> np.ndarray:
        data = [_data_term(part, values, squares, outputs) for part in _blocks(u, n)]
        return density_of_log(model.prior, u) + np.concatenate(data)

    scale = integrate(height, "the scale posterior")
    log_noise = 2 * outputs * float(np.sum(np.log(root)))
    evidence = scale.log_integral - 0.5 * (log_noise + targets.size * LOG_2PI)
    info = FitInfo(0.0, noise, n, str(dtype))
    return UnscaledPosterior(
        x, targets, values, vectors / root[:, None], modes, scale, evidence, info,
        model.prior, model.kernel, np.ndim(y) == 1,
    )  # fmt: skip


def _blocks(u: np.ndarray, n: int) -> list[np.ndarray]:
    return np.array_split(u, max(1, -(-len(u) * n // _BLOCK)))


def _data_term(u: np.ndarray, values: np.ndarray, squares: np.ndarray, outputs: int) -> np.ndarray:
    """Log-likelihood of the whitened targets at the log scales ``u``, without constants."""
    excess = np.exp(u)[:, None] * values
    return -0.5 * (outputs * np.sum(np.log1p(excess), axis=1) + (1 / (1 + excess)) @ squares)


@dataclass(frozen=True)
class UnscaledPosterior:
    r"""A scale mixture given data, with unscaled noise; all results are NumPy float64.

    .. math:: \mu_s = s^2 A\, (1 + s^2 \Lambda)^{-1} \tilde y, \qquad
        S_s = s^2 K_{**} - s^4 A\, (1 + s^2 \Lambda)^{-1} A^\top, \qquad
        A = K_* \Sigma^{-1/2} Q

    Attributes:
        X, y: the data; ``y`` always ``(n, C)``.
        values: eigenvalues :math:`\Lambda`.
        basis: :math:`\Sigma^{-1/2} Q`.
        modes: :math:`\tilde y`.
        scale_posterior: the posterior law of :math:`s^2`.
        log_evidence: log marginal likelihood in nats, summed over outputs.
        info: noise, size and dtype of the fit (no jitter is ever needed).
        prior: the law of the scale before the data.
        kernel: the kernel callable.
        vector: whether y came as ``(n,)``.
    """

    X: Any
    y: np.ndarray
    values: np.ndarray
    basis: np.ndarray
    modes: np.ndarray
    scale_posterior: ScaleNodes
    log_evidence: float
    info: FitInfo
    prior: Any
    kernel: Any
    vector: bool

    @property
    def error(self) -> float:
        """Estimated error of ``log_evidence`` from the quadrature."""
        return self.scale_posterior.error

    @property
    def mean_scale(self) -> float:
        """Posterior mean of :math:`s^2`; infinite where it does not exist."""
        return self.scale_posterior.mean

    def _gain(self, u: np.ndarray) -> np.ndarray:
        """``s2 / (1 + s2 lambda)``, ``(J, n)``, without overflow."""
        return 1 / (np.exp(-u)[:, None] + self.values)

    def _modes_at(self, xs: Any) -> np.ndarray:
        return kernel_matrix(self.kernel, xs, self.X)[0] @ self.basis

    def mean(self, Xs: Any) -> np.ndarray:
        """Posterior mean of f: ``(m,)`` when y was ``(n,)``, else ``(m, C)``.

        Args:
            Xs: inputs ``(m, d)``, features as in training.

        Raises:
            ShapeError, DomainError: bad inputs.
        """
        cross = self._modes_at(inputs(Xs, "Xs", self.X))
        gain = self.scale_posterior.weights @ self._gain(self.scale_posterior.log_s2)
        mean = cross @ (gain[:, None] * self.modes)
        return mean[:, 0] if self.vector else mean

    def var(self, Xs: Any) -> np.ndarray:
        """Posterior variance of f: ``(m,)`` when y was ``(n,)``, else ``(m, C)``.

        Args:
            Xs: inputs ``(m, d)``, features as in training.

        Raises:
            ShapeError, DomainError: bad inputs.
            MomentUndefinedError: :math:`E[s^2 | y]` is infinite.
        """
        return self.marginals(Xs).var

    def marginals(self, Xs: Any, *, noise: Any = False) -> MarginalMixture:
        """The law at every point of ``Xs`` alone, without joint covariances.

        Args:
            Xs: inputs ``(m, d)``, features as in training.
            noise: as in :meth:`predict`.

        Returns:
            A law with ``mean``, ``var``, ``pointwise``, ``cdf``, ``quantile`` and ``interval``.

        Raises:
            ShapeError, DomainError: as for :meth:`predict`.
        """
        xs = inputs(Xs, "Xs", self.X)
        cross, diagonal = self._modes_at(xs), kernel_diagonal(self.kernel, xs)
        extra = noise_at(noise, self.info.noise, len(diagonal))
        nodes = self.scale_posterior
        gain = self._gain(nodes.log_s2)
        loc = np.einsum("mk,jk,kc->jmc", cross, gain, self.modes, optimize=True)
        var = nodes.s2[:, None] * (diagonal - gain @ (cross**2).T)
        width = np.sqrt(np.maximum(var, 0.0) + extra)
        has_var = bool(np.isfinite(nodes.mean))
        return MarginalMixture(nodes.log_weights, loc, width, self.vector, has_var)

    def predict(self, Xs: Any, *, noise: Any = False) -> GaussianMixture:
        """Joint predictive law of f (or of y) at ``Xs``.

        Args:
            Xs: inputs ``(m, d)``, features as in training.
            noise: False for f; True for y with the noise of training (which must then be one
                number); or variances to add, a number or ``(m,)``.

        Raises:
            ShapeError, DomainError: bad inputs, ``noise=True`` after per-point training noise, or
                more points than fit into memory (use :meth:`marginals`).

        Check: test_mixture_quadrature.py::test_unscaled_noise_against_brute_force.
        """
        xs = inputs(Xs, "Xs", self.X)
        m = xs.shape[0]
        extra = noise_at(noise, self.info.noise, m)
        nodes = self.scale_posterior
        kept = nodes.log_weights > _LEFT_OUT
        u, log_weights = nodes.log_s2[kept], nodes.log_weights[kept]
        check(
            8.0 * len(u) * m * m <= _MOST_BYTES,
            f"the joint law of {m} points has {len(u)} covariance matrices, more than "
            f"{_MOST_BYTES:.0e} bytes. Use marginals(Xs), or fewer points.",
            DomainError,
        )
        prior, dtype = kernel_matrix(self.kernel, xs)
        cross, gain, s2 = self._modes_at(xs), self._gain(u), np.exp(u)
        covs = np.stack(
            [s * (prior - (cross * g) @ cross.T) for s, g in zip(s2, gain, strict=True)]
        )
        covs = 0.5 * (covs + covs.swapaxes(1, 2))
        covs[:, np.arange(m), np.arange(m)] += extra
        locs = np.einsum("mk,jk,kc->jmc", cross, gain, self.modes, optimize=True)
        rounding = s2 * rounding_size(np.diagonal(prior), dtype)
        has_var = bool(np.isfinite(nodes.mean))
        return GaussianMixture(log_weights, locs, covs, rounding, self.vector, has_var)

    def loo(self) -> ScalePredictions:
        """Each target predicted from all the others, the scale integrated out.

        With C outputs all those of point i are left out together.

        Source: Rasmussen and Williams (2006), eq. (5.12), given the scale; derived here.
        Check: test_mixture_points.py::test_against_refitting.
        """
        nodes = self.scale_posterior
        left = 1 / (1 + nodes.s2[:, None] * self.values)
        var = 1 / (left @ (self.basis**2).T)
        solved = np.einsum("ik,jk,kc->jic", self.basis, left, self.modes, optimize=True)
        return nodes_others(nodes.log_weights, var[:, :, None] * solved, var, self._targets())

    def prequential(self) -> ScalePredictions:
        """Each target predicted from those before it; joint log scores add up to the evidence.

        One Cholesky factorisation per node, of which there are a few hundred: nothing about one
        scale helps with another here. A scale at which the noise is lost to rounding is given the
        smallest jitter that makes it positive definite.

        Raises:
            ImproperPosteriorError: the law of the scale is improper.

        Source: A. P. Dawid, J. R. Statist. Soc. A 147 (1984) 278; derived here.
        Check: test_mixture_points.py::test_against_refitting.
        """
        u, log_weights = nodes_from_the_start(self.prior, self.scale_posterior)
        matrix, dtype = kernel_matrix(self.kernel, self.X)
        residual, var = [], []
        for s2 in np.exp(u):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", JitterWarning)
                chol = factorize(s2 * matrix, self.info.noise, dtype=dtype).chol
            sd = np.diagonal(chol)
            residual.append(sd[:, None] * whiten(chol, self.y))
            var.append(sd**2)
        return nodes_before(log_weights, np.stack(residual), np.stack(var), self._targets())

    def _targets(self) -> np.ndarray:
        return self.y[:, 0] if self.vector else self.y

    cov, sample, quantile = joint_cov, joint_sample, marginal_quantile


register_dataclass(
    UnscaledPosterior,
    ["X", "y", "values", "basis", "modes", "scale_posterior", "log_evidence", "info", "prior"],
    ["kernel", "vector"],
)
