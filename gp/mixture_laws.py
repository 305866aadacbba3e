r"""Mixtures of Gaussian laws over a random scale: marginals, joint densities, quantiles, draws.

.. math:: p(y) = \sum_j w_j\, N(y;\, \mu_j, \Sigma_j)

The weights are those of a quadrature rule over the scale, so the sum equals the integral.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from deeplimits.pytrees import register_dataclass
from deeplimits.validate import as_key, integer
from gp.linalg import factorize, nonnegative, psd_root
from gp.mixture_marginals import MarginalMixture, needs_mean_scale, total
from gp.predictive import (
    LOG_2PI,
    gaussian_log_density,
    standard_normal,
    whiten,
)
from gp.queries import cdf, interval, pointwise, quantile, std
from gp.scale_quadrature import ScaleNodes, categorical
from gp.student_t import residual_of, scaled_draws


@register_dataclass
@dataclass(frozen=True)
class ScaledMixture:
    r"""A Gaussian law whose covariance is multiplied by a random scale.

    .. math:: p(y) = \sum_j w_j \prod_c N(y_c;\, \mu_c,\, s_j^2 S)

    Attributes:
        loc: centre, ``(m,)`` or ``(m, C)``.
        shape: covariance at unit scale, S ``(m, m)``.
        scale: the law of :math:`s^2`.
        rounding: size of the rounding errors in ``shape``.
    """

    loc: np.ndarray
    shape: np.ndarray
    scale: ScaleNodes
    rounding: float = 0.0

    @property
    def mean(self) -> np.ndarray:
        """The centre, in the shape of ``loc``."""
        return self.loc

    @property
    def cov(self) -> np.ndarray:
        r"""Covariance :math:`E[s^2] S`, ``(m, m)``.

        Raises:
            MomentUndefinedError: the law of the scale has no mean.
        """
        needs_mean_scale(self.scale.mean, "covariance")
        return self.scale.mean * self.shape

    @property
    def var(self) -> np.ndarray:
        """Variances ``(m,)``.

        Raises:
            MomentUndefinedError: the law of the scale has no mean.
        """
        needs_mean_scale(self.scale.mean, "variance")
        return self.scale.mean * nonnegative(np.diagonal(self.shape), self.rounding)

    std = property(std)

    @property
    def marginals(self) -> MarginalMixture:
        """The law of every entry alone."""
        var = nonnegative(np.diagonal(self.shape), self.rounding)
        return scaled_marginals(self.loc, var, self.scale)

    def log_prob(self, y: Any) -> float:
        """Joint log-density over points and outputs, in nats.

        Args:
            y: values of the shape of ``loc``.

        Warns:
            JitterWarning: ``shape`` is singular (no noise in it) and jitter was needed.

        Raises:
            ShapeError, DomainError: y has the wrong shape or is not finite.

        Source: arXiv:2107.01408, section 4. Check: test_mixtures.py::test_predictive_is_a_ratio.
        """
        residual = residual_of(y, self.loc)
        chol = factorize(self.shape, name="the predictive covariance").chol
        log_det = 2 * residual.shape[1] * float(np.sum(np.log(np.diagonal(chol))))
        u, q = self.scale.log_s2, float(np.sum(whiten(chol, residual) ** 2))
        terms = -0.5 * (residual.size * (LOG_2PI + u) + q * np.exp(-u))
        return float(total(terms + self.scale.log_weights)) - 0.5 * log_det

    pointwise, cdf, quantile, interval = pointwise, cdf, quantile, interval

    def sample(self, key: Any, n: int = 1) -> np.ndarray:
        """Joint draws ``(n, *loc.shape)``: one scale for all points and outputs of a draw.

        Args:
            key: a ``jax.random.key`` or an integer seed.
            n: number of draws, >= 1.

        Raises:
            DomainError: not a key, or n < 1.
        """
        integer(n, "n", at_least=1)
        for_scale, for_normal = jax.random.split(as_key(key))
        s2 = self.scale.s2[self.scale.draw(for_scale, n)]
        return scaled_draws(for_normal, s2, self.loc, self.shape, self.rounding)


def scaled_marginals(loc: np.ndarray, var: np.ndarray, scale: ScaleNodes) -> MarginalMixture:
    """Marginals of a centre ``(m,)`` or ``(m, C)`` and variances at unit scale ``(m,)``."""
    width = np.sqrt(scale.s2[:, None] * var)
    centre = loc.reshape(1, len(loc), -1)
    has_var = bool(np.isfinite(scale.mean))
    return MarginalMixture(scale.log_weights, centre, width, loc.ndim == 1, has_var)


@register_dataclass
@dataclass(frozen=True)
class GaussianMixture:
    """A mixture of J joint Gaussian laws over m points, with centres and covariances of their own.

    Attributes:
        log_weights: ``(J,)``.
        locs: centres ``(J, m, C)``.
        covs: covariances ``(J, m, m)``, shared by the outputs of a component.
        rounding: size of the rounding errors in a covariance, relative to its scale, ``(J,)``.
        vector: whether the targets came as ``(n,)``, so that results have no output axis.
        has_var: whether the variance exists.
    """

    log_weights: np.ndarray
    locs: np.ndarray
    covs: np.ndarray
    rounding: np.ndarray
    vector: bool = True
    has_var: bool = True

    @property
    def marginals(self) -> MarginalMixture:
        """The law of every entry alone."""
        var = np.maximum(np.diagonal(self.covs, axis1=1, axis2=2), 0.0)
        return MarginalMixture(self.log_weights, self.locs, np.sqrt(var), self.vector, self.has_var)

    @property
    def mean(self) -> np.ndarray:
        """Means ``(m,)`` or ``(m, C)``."""
        return self.marginals.mean

    @property
    def var(self) -> np.ndarray:
        """Variances ``(m,)`` or ``(m, C)``."""
        return self.marginals.var

    @property
    def cov(self) -> np.ndarray:
        """Covariances ``(m, m)``, or ``(C, m, m)``: the centres spread differently by output.

        Raises:
            MomentUndefinedError: the law of the scale has no mean.
        """
        needs_mean_scale(0.0 if self.has_var else np.inf, "covariance")
        weights = np.exp(self.log_weights)
        spread = self.locs - np.tensordot(weights, self.locs, 1)
        between = np.einsum("j,jac,jbc->cab", weights, spread, spread, optimize=True)
        cov = between + np.tensordot(weights, self.covs, 1)
        return cov[0] if self.vector else cov

    def log_prob(self, y: Any) -> float:
        """Joint log-density over points and outputs, in nats.

        Args:
            y: values ``(m,)`` or ``(m, C)``.

        Warns:
            JitterWarning: a covariance is singular (no noise in it) and jitter was needed.

        Raises:
            ShapeError, DomainError: y has the wrong shape or is not finite.
        """
        shape = self.locs.shape[1:]
        values = residual_of(y, np.zeros(shape[:1] if self.vector else shape))
        terms = []
        for loc, cov in zip(self.locs, self.covs, strict=True):
            chol = factorize(cov, name="the predictive covariance").chol
            terms.append(gaussian_log_density(chol, whiten(chol, values - loc)))
        return float(total(np.array(terms) + self.log_weights))

    pointwise, cdf, quantile, interval = pointwise, cdf, quantile, interval

    def sample(self, key: Any, n: int = 1) -> np.ndarray:
        """Joint draws ``(n, m)`` or ``(n, m, C)``: one component for all entries of a draw.

        Args:
            key: a ``jax.random.key`` or an integer seed.
            n: number of draws, >= 1.

        Raises:
            DomainError: not a key, or n < 1.
        """
        integer(n, "n", at_least=1)
        for_node, for_normal = jax.random.split(as_key(key))
        nodes = categorical(for_node, self.log_weights, n)
        draws = standard_normal(for_normal, (n, *self.locs.shape[1:])).copy()
        for j in np.unique(nodes):
            root = psd_root(self.covs[j], float(self.rounding[j]))
            mine = nodes == j
            moved = np.moveaxis(np.tensordot(root, draws[mine], (1, 1)), 0, 1)
            draws[mine] = self.locs[j] + moved
        return draws[..., 0] if self.vector else draws
