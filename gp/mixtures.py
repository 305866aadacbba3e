r"""Scale mixtures of Gaussian processes: a wide network with a random last-layer variance.

.. math:: s^2 \sim H, \qquad f \mid s^2 \sim GP(0, s^2 k), \qquad
    y \mid f, s^2 \sim N(f, s^2 \Sigma) \text{ or } N(f, \Sigma)

One scale is drawn for the whole function, shared by all inputs and outputs. With an inverse gamma
law and scaled noise everything is Student-t in closed form; with any other law it is a
one-dimensional integral, done to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from deeplimits.errors import DomainError
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import check, is_traced
from gp.linalg import Kernel
from gp.mixture_laws import ScaledMixture, scaled_marginals
from gp.mixture_marginals import MarginalMixture, needs_mean_scale
from gp.mixture_points import (
    ScalePredictions,
    nodes_before,
    nodes_from_the_start,
    nodes_others,
    student_t_before,
    student_t_others,
)
from gp.predictive import LOG_2PI, Gaussian
from gp.process import GP, FitInfo, Posterior, inputs
from gp.queries import joint_cov, joint_sample, marginal_quantile, noise_at
from gp.scale_density import as_scale_prior
from gp.scale_priors import InverseGamma, ScalePrior, density_of_log, log_rising
from gp.scale_quadrature import ScaleNodes, integrate
from gp.student_t import MarginalT, StudentT
from gp.unscaled_mixture import UnscaledPosterior, unscaled_posterior

#: A joint law of f or y under a random scale.
JointLaw = StudentT | ScaledMixture


def scale_law(gaussian: Gaussian, law: Any) -> JointLaw:
    """A Gaussian law with its covariance multiplied by a scale with the given law."""
    if isinstance(law, InverseGamma):
        spread = float(law.b / law.a)
        return StudentT(
            2 * float(law.a), gaussian.mean, spread * gaussian.cov, spread * gaussian.rounding
        )
    return ScaledMixture(gaussian.mean, gaussian.cov, law, gaussian.rounding)


def scale_marginals(loc: np.ndarray, var: np.ndarray, law: Any) -> MarginalT | MarginalMixture:
    """Centres, and variances ``(m,)`` that are multiplied by a scale with the given law."""
    if isinstance(law, InverseGamma):
        return MarginalT(2 * float(law.a), loc, np.sqrt(float(law.b / law.a) * var))
    return scaled_marginals(loc, var, law)


def prior_nodes(prior: ScalePrior) -> ScaleNodes:
    """The law of the scale before any data, as point masses."""
    return integrate(lambda u: density_of_log(prior, u), "the scale prior")


@dataclass(frozen=True)
class ScaleMixture:
    r"""A Gaussian process with a random scale, not yet conditioned.

    The kernel is that of a network with last-layer variance 1; only the product of the two is
    identifiable. A bias of the last layer is part of k, so its variance is multiplied by the same
    :math:`s^2`; a bias with a variance of its own would break the mixture.

    Args:
        kernel: ``k(X, Z=None) -> (n, m)``, such as ``net.nngp``.
        prior: law of :math:`s^2`: :class:`InverseGamma`, :class:`BurrXII`, :class:`LogNormal`,
            :class:`BetaPrime`, or any log density ``s2 -> log p(s2)`` (a function).
        noise: noise variance >= 0, a number or one per training point; times :math:`s^2` when
            ``noise_scaled``. Default 0.
        noise_scaled: True (default, the model of the paper): :math:`y | s^2 \sim N(0, s^2 (K +
            \Sigma))`; False: :math:`N(0, s^2 K + \Sigma)`, by quadrature for every law.
        max_points: refuse dense algebra on more points than this. Default 20000.

    Raises:
        ShapeError, DomainError: kernel or prior of the wrong kind, bad noise, or noise 0 with
            ``noise_scaled=False``.

    Source: arXiv:2107.01408. Check: test_mixtures.py::test_student_t_against_brute_force.
    """

    kernel: Kernel
    prior: Any
    noise: Any = 0.0
    noise_scaled: bool = True
    max_points: int = 20_000

    def __post_init__(self) -> None:
        self._base()
        object.__setattr__(self, "prior", as_scale_prior(self.prior))
        check(
            isinstance(self.noise_scaled, bool | np.bool_),
            f"noise_scaled must be True or False, got {self.noise_scaled!r}.",
            DomainError,
        )
        check(
            bool(self.noise_scaled)
            or is_traced(self.noise)
            or bool(np.all(np.asarray(self.noise) > 0)),
            "noise must be > 0 with noise_scaled=False; without noise the two models are the same: "
            "use noise_scaled=True.",
            DomainError,
        )

    def _base(self) -> GP:
        return GP(self.kernel, self.noise, max_points=self.max_points)

    def prior_law(self, X: Any, *, noise: bool = False) -> JointLaw:
        r"""The law of ``f(X)`` before any data: Student-t with 2a degrees of freedom and shape
        :math:`(b/a) K` for an inverse gamma law.

        Args:
            X: inputs ``(m, d)`` or ``(m, *spatial, channels)``.
            noise: True for y (scaled noise only). Default False.

        Raises:
            ShapeError, DomainError: bad inputs, or ``noise=True`` with ``noise_scaled=False``.
            ImproperPosteriorError: the law of the scale is improper.
        """
        check(
            not noise or bool(self.noise_scaled),
            "the prior law of y is offered for noise_scaled=True only; use noise=False.",
            DomainError,
        )
        gaussian = self._base().prior(X, noise=noise)
        if isinstance(self.prior, InverseGamma):
            return scale_law(gaussian, self.prior)
        return scale_law(gaussian, prior_nodes(self.prior))

    def condition(self, X: Any, y: Any) -> ScaledPosterior | UnscaledPosterior:
        r"""Condition on data: one factorisation, and the posterior law of the scale.

        .. math:: \mathrm{IG}(a, b) \to \mathrm{IG}(a + nC/2,\; b + \tfrac12
            \textstyle\sum_c y_c^\top K_n^{-1} y_c), \qquad K_n = K + \Sigma

        Args:
            X: inputs ``(n, d)`` or ``(n, *spatial, channels)``.
            y: targets ``(n,)``, or ``(n, C)`` for C outputs that share kernel, noise and scale.

        Returns:
            A posterior with the methods of :class:`gp.Posterior`.

        Raises:
            ShapeError, DomainError: bad inputs or targets, or more than ``max_points`` points.
            NotPositiveDefiniteError: the kernel matrix is indefinite beyond rounding.
            ImproperPosteriorError: data and prior do not determine the scale.

        Source: arXiv:2107.01408, section 3; unscaled noise derived here.
        Check: test_mixtures.py::test_student_t_against_brute_force, test_mixture_quadrature.py.
        """
        if not self.noise_scaled:
            return unscaled_posterior(self, X, y)
        base = self._base().condition(X, y)
        q, size = float(np.sum(base.white**2)), base.white.size
        log_det = 2 * base.white.shape[1] * float(np.sum(np.log(np.diagonal(base.chol))))
        if isinstance(self.prior, InverseGamma):
            law: Any = InverseGamma(self.prior.a + 0.5 * size, self.prior.b + 0.5 * q)
            value, error = inverse_gamma_evidence(self.prior, q, size, log_det), 0.0
        else:
            law = integrate(lambda u: self._height(u, q, size), "the scale posterior")
            value, error = law.log_integral - 0.5 * (size * LOG_2PI + log_det), law.error
        return ScaledPosterior(base, self.prior, law, value, error)

    def _height(self, u: np.ndarray, q: float, size: int) -> np.ndarray:
        pull = 0.5 * q * np.exp(-u) if q > 0 else 0.0
        return density_of_log(self.prior, u) - 0.5 * size * u - pull


def inverse_gamma_evidence(prior: InverseGamma, q: float, size: int, log_det: float) -> float:
    r"""Log evidence of the Student-t process, in nats.

    .. math:: \log\frac{\Gamma(a+h)}{\Gamma(a)} - h \log(2\pi b) - (a+h)\log(1 + q/2b)
        - \tfrac12 \log\det, \qquad h = \tfrac d2

    Why log_rising and log1p: the textbook form :math:`a \log b - a_n \log b_n` loses all digits
    for a large a (at a = 1e15 it is off by more than 1).

    Args:
        prior: law of the scale.
        q: squared length of the whitened targets.
        size: their number d.
        log_det: log determinant of their covariance at unit scale.

    Check: test_mixtures.py::test_evidence_keeps_its_digits.
    """
    a, b, h = float(prior.a), float(prior.b), 0.5 * size
    gammas = float(log_rising(a, h))
    fit = h * float(np.log(b / a)) + (a + h) * float(np.log1p(0.5 * q / b))
    return float(gammas - fit - h * LOG_2PI - 0.5 * log_det)


@dataclass(frozen=True)
class ScaledPosterior:
    r"""A scale mixture given data, with scaled noise; all results are NumPy float64.

    .. math:: f_* \mid y, s^2 \sim N(\mu, s^2 S)

    with :math:`\mu` and S of the plain Gaussian process: the data change the width of the
    predictions, not their centre.

    Attributes:
        base: the Gaussian process at unit scale, conditioned on the same data.
        prior: the law of the scale before the data.
        scale_posterior: the law after: :class:`InverseGamma`, or :class:`ScaleNodes`.
        log_evidence: log marginal likelihood in nats, summed over outputs.
        error: estimated error of ``log_evidence`` from the quadrature; 0 for a closed form.
    """

    base: Posterior
    prior: Any
    scale_posterior: Any
    log_evidence: float
    error: float

    @property
    def info(self) -> FitInfo:
        """Jitter, noise, size and dtype of the fit."""
        return self.base.info

    @property
    def mean_scale(self) -> float:
        """Posterior mean of :math:`s^2`; infinite where it does not exist."""
        return float(self.scale_posterior.mean)

    def mean(self, Xs: Any) -> np.ndarray:
        """Posterior mean of f: ``(m,)`` when y was ``(n,)``, else ``(m, C)``.

        Args:
            Xs: inputs ``(m, d)``, features as in training.

        Raises:
            ShapeError, DomainError: bad inputs.
        """
        return self.base.mean(Xs)

    def var(self, Xs: Any) -> np.ndarray:
        """Posterior variance of f ``(m,)``, shared by the outputs.

        Args:
            Xs: inputs ``(m, d)``, features as in training.

        Raises:
            ShapeError, DomainError: bad inputs.
            MomentUndefinedError: :math:`E[s^2 | y]` is infinite.
        """
        needs_mean_scale(self.mean_scale, "variance")
        return self.mean_scale * self.base.var(Xs)

    def predict(self, Xs: Any, *, noise: Any = False) -> JointLaw:
        """Joint predictive law of f (or of y) at ``Xs``.

        Args:
            Xs: inputs ``(m, d)``, features as in training.
            noise: False for f; True for y with the noise of training (which must then be one
                number); or variances to add, a number or ``(m,)``, in units of :math:`s^2`.

        Raises:
            ShapeError, DomainError: bad inputs, or ``noise=True`` after per-point training noise.

        Check: test_mixtures.py::test_predictive_is_a_ratio.
        """
        return scale_law(self.base.predict(Xs, noise=noise), self.scale_posterior)

    def marginals(self, Xs: Any, *, noise: Any = False) -> MarginalT | MarginalMixture:
        """The law at every point of ``Xs`` alone, without the joint covariance.

        Args:
            Xs: inputs ``(m, d)``, features as in training.
            noise: as in :meth:`predict`.

        Returns:
            A law with ``mean``, ``var``, ``pointwise``, ``cdf``, ``quantile`` and ``interval``.

        Raises:
            ShapeError, DomainError: as for :meth:`predict`.
        """
        xs = inputs(Xs, "Xs", self.base.X)
        var = self.base.var(xs) + noise_at(noise, self.info.noise, xs.shape[0])
        return scale_marginals(self.base.mean(xs), var, self.scale_posterior)

    def loo(self) -> ScalePredictions:
        r"""Each target predicted from all the others: Student-t, or a mixture over the scale.

        .. math:: y_i \mid y_{-i}, s^2 \sim N\big(y_i - [K_n^{-1} y]_i / [K_n^{-1}]_{ii},\;
            s^2 / [K_n^{-1}]_{ii}\big)

        With C outputs all those of point i are left out together.

        Source: Rasmussen and Williams (2006), eq. (5.12), given the scale; derived here.
        Check: test_mixture_points.py::test_against_refitting.
        """
        return self._points(self.base.loo(), student_t_others, nodes_others)

    def prequential(self) -> ScalePredictions:
        """Each target predicted from those before it; joint log scores add up to the evidence.

        Raises:
            ImproperPosteriorError: the law of the scale is improper.

        Source: A. P. Dawid, J. R. Statist. Soc. A 147 (1984) 278; derived here.
        Check: test_mixture_points.py::test_against_refitting.
        """
        return self._points(self.base.prequential(), student_t_before, nodes_before)

    def _points(self, given: Any, closed: Any, by_nodes: Any) -> ScalePredictions:
        """Predictions at unit scale with the scale integrated out."""
        before = by_nodes is nodes_before
        y = given.mean + given.residual
        residual = given.residual.reshape(len(y), -1)
        if isinstance(self.prior, InverseGamma):
            law = self.prior if before else self.scale_posterior
            return closed(law, residual, given.var, y)
        nodes = self.scale_posterior
        u, log_weights = nodes.log_s2, nodes.log_weights
        if before:
            u, log_weights = nodes_from_the_start(self.prior, nodes)
        return by_nodes(log_weights, residual[None], np.exp(u)[:, None] * given.var, y)

    cov, sample, quantile = joint_cov, joint_sample, marginal_quantile


def mixture_of(kernel: Any, noise: Any, prior: Any, meta: Any) -> ScaleMixture:
    """A model without the checks of its arguments: JAX puts gradients and placeholders there.

    Args:
        kernel: the kernel.
        noise: noise variance.
        prior: law of the scale.
        meta: ``(noise_scaled, max_points)``.
    """
    model = object.__new__(ScaleMixture)
    names = ("kernel", "noise", "prior", "noise_scaled", "max_points")
    for name, value in zip(names, (kernel, noise, prior, *meta), strict=True):
        object.__setattr__(model, name, value)
    return model


jax.tree_util.register_pytree_node(
    ScaleMixture,
    lambda m: ((m.noise, m.prior), (m.kernel, m.noise_scaled, m.max_points)),
    lambda meta, leaves: mixture_of(meta[0], *leaves, meta[1:]),
)
register_dataclass(
    ScaledPosterior, ["base", "prior", "scale_posterior", "log_evidence", "error"], []
)
