r"""The multivariate Student-t law over given points, shared by all outputs.

.. math:: f = \mathrm{loc} + s\, \varepsilon, \qquad \varepsilon \sim N(0, b\,S/a), \quad
    s^2 \sim \mathrm{IG}(\nu/2, \nu/2)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import scipy.special
import scipy.stats

from deeplimits.errors import ShapeError
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import as_key, as_targets, check, integer, number
from gp.linalg import factorize, nonnegative, psd_root
from gp.predictive import standard_normal, whiten
from gp.queries import cdf, interval, pointwise, quantile, std
from gp.scale_priors import InverseGamma
from gp.scale_quadrature import MomentUndefinedError


def residual_of(y: Any, loc: np.ndarray) -> np.ndarray:
    """``y - loc`` as ``(m, C)``, for y of the shape of ``loc``.

    Raises:
        ShapeError, DomainError: y has another shape or is not finite.
    """
    y = np.asarray(as_targets(y, loc.shape[0], "y"), np.float64)
    loc2 = loc.reshape(len(loc), -1)
    check(
        y.shape == loc2.shape,
        f"y must have the shape of the mean, {loc.shape}, got {y.shape}.",
        ShapeError,
    )
    return y - loc2


def scaled_draws(
    key: Any, s2: np.ndarray, loc: np.ndarray, shape: np.ndarray, rounding: float
) -> np.ndarray:
    """``loc + sqrt(s2_i) shape^(1/2) z_i`` for every scale, ``(n, *loc.shape)``."""
    normal = standard_normal(key, (len(s2), *loc.shape))
    normal = normal * np.sqrt(s2).reshape(-1, *[1] * loc.ndim)
    return loc + np.moveaxis(np.tensordot(psd_root(shape, rounding), normal, (1, 1)), 0, 1)


@register_dataclass
@dataclass(frozen=True)
class MarginalT:
    r"""Student-t laws at m points and C outputs, each alone.

    .. math:: p(y) = \frac{\Gamma(\frac{\nu+1}2)}{\Gamma(\frac\nu2) \sqrt{\pi\nu}\, w}
        \Big(1 + \frac{(y-\mu)^2}{\nu w^2}\Big)^{-(\nu+1)/2}

    Attributes:
        df: degrees of freedom :math:`\nu > 0`.
        loc: centres, ``(m,)`` or ``(m, C)``.
        width: scales w ``(m,)``, not standard deviations.
    """

    df: float
    loc: np.ndarray
    width: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """The centres.

        Raises:
            MomentUndefinedError: df <= 1.
        """
        return centre(self.df, self.loc)

    @property
    def var(self) -> np.ndarray:
        """Variances ``(m,)``.

        Raises:
            MomentUndefinedError: df <= 2.
        """
        return inflation(self.df) * self.width**2

    std = property(std)

    def _column(self) -> np.ndarray:
        """The widths against the shape of ``loc``."""
        return self.width.reshape(-1, *[1] * (self.loc.ndim - 1))

    def pointwise(self, y: Any) -> np.ndarray:
        """Log-density of every entry of ``y``, in nats, in the shape of ``loc``.

        Args:
            y: values of the shape of ``loc``.

        Raises:
            ShapeError, DomainError: y has the wrong shape or is not finite.
        """
        residual = residual_of(y, self.loc).reshape(self.loc.shape)
        return scipy.stats.t.logpdf(residual, self.df, scale=self._column())

    def cdf(self, y: Any) -> np.ndarray:
        """Distribution functions at ``y``, in the shape of ``loc``.

        Args:
            y: values of the shape of ``loc``.

        Raises:
            ShapeError, DomainError: y has the wrong shape or is not finite.
        """
        residual = residual_of(y, self.loc).reshape(self.loc.shape)
        return scipy.stats.t.cdf(residual, self.df, scale=self._column())

    def quantile(self, probability: float) -> np.ndarray:
        """Quantiles, in the shape of ``loc``.

        Args:
            probability: in (0, 1).

        Raises:
            DomainError: probability outside (0, 1).
        """
        number(probability, "probability", above=0, below=1)
        return self.loc + float(scipy.special.stdtrit(self.df, probability)) * self._column()

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Central credible intervals, ``(lower, upper)`` in the shape of ``loc``.

        Args:
            level: probability inside, in (0, 1).

        Raises:
            DomainError: level outside (0, 1).
        """
        number(level, "level", above=0, below=1)
        half = self.quantile(0.5 + 0.5 * level) - self.loc
        return self.loc - half, self.loc + half


def centre(df: float, loc: np.ndarray) -> np.ndarray:
    """``loc``, if it is the mean.

    Raises:
        MomentUndefinedError: df <= 1.
    """
    check(
        df > 1,
        f"the mean of a Student-t law needs df > 1, got df = {df:g}; loc is its median.",
        MomentUndefinedError,
    )
    return loc


def inflation(df: float) -> float:
    """Variance over squared width, ``df / (df - 2)``.

    Raises:
        MomentUndefinedError: df <= 2.
    """
    check(
        df > 2,
        f"the covariance of a Student-t law needs df > 2, got df = {df:g}. Use the shape matrix or "
        "quantiles.",
        MomentUndefinedError,
    )
    return df / (df - 2)


@register_dataclass
@dataclass(frozen=True)
class StudentT:
    r"""A joint Student-t law over m points and C outputs that share one random scale.

    .. math:: p(y) \propto \Big(1 + \frac1\nu \sum_c (y_c - \mu_c)^\top S^{-1} (y_c - \mu_c)
        \Big)^{-(\nu + mC)/2}

    Outputs are uncorrelated but not independent: a large value of one makes a large scale likely.

    Attributes:
        df: degrees of freedom :math:`\nu > 0`.
        loc: centre, ``(m,)`` or ``(m, C)``.
        shape: shape matrix S ``(m, m)``, not the covariance.
        rounding: size of the rounding errors in ``shape``.
    """

    df: float
    loc: np.ndarray
    shape: np.ndarray
    rounding: float = 0.0

    @property
    def mean(self) -> np.ndarray:
        """The centre, in the shape of ``loc``.

        Raises:
            MomentUndefinedError: df <= 1.
        """
        return centre(self.df, self.loc)

    @property
    def cov(self) -> np.ndarray:
        r"""Covariance :math:`\nu S / (\nu - 2)`, ``(m, m)``.

        Raises:
            MomentUndefinedError: df <= 2.
        """
        return inflation(self.df) * self.shape

    @property
    def var(self) -> np.ndarray:
        """Variances ``(m,)``.

        Raises:
            MomentUndefinedError: df <= 2.
        """
        return self.marginals.var

    std = property(std)

    @property
    def marginals(self) -> MarginalT:
        """The law of every entry alone."""
        width = np.sqrt(nonnegative(np.diagonal(self.shape), self.rounding))
        return MarginalT(self.df, self.loc, width)

    def log_prob(self, y: Any) -> float:
        r"""Joint log-density over points and outputs, in nats.

        Args:
            y: values of the shape of ``loc``.

        Warns:
            JitterWarning: ``shape`` is singular (no noise in it) and jitter was needed.

        Raises:
            ShapeError, DomainError: y has the wrong shape or is not finite.
            NotPositiveDefiniteError: no density exists; ask for ``predict(..., noise=True)``.

        Source: textbook. Check: test_mixtures.py::test_student_t_against_scipy.
        """
        residual = residual_of(y, self.loc)
        chol = factorize(self.shape, name="the predictive shape matrix").chol
        log_det = 2 * residual.shape[1] * float(np.sum(np.log(np.diagonal(chol))))
        q = float(np.sum(whiten(chol, residual) ** 2))
        return student_log_density(self.df, q, residual.size) - 0.5 * log_det

    pointwise, cdf, quantile, interval = pointwise, cdf, quantile, interval

    def sample(self, key: Any, n: int = 1) -> np.ndarray:
        """Joint draws ``(n, *loc.shape)``: one scale for all points and outputs of a draw.

        Args:
            key: a ``jax.random.key`` or an integer seed.
            n: number of draws, >= 1.

        Raises:
            DomainError: not a key, or n < 1.

        Check: test_mixtures.py::test_samples_are_jointly_student_t.
        """
        integer(n, "n", at_least=1)
        for_scale, for_normal = jax.random.split(as_key(key))
        s2 = InverseGamma(self.df / 2, self.df / 2).sample(for_scale, n)
        return scaled_draws(for_normal, s2, self.loc, self.shape, self.rounding)


def student_log_density(df: float, q: float, size: int) -> float:
    r"""Log-density of a standard Student-t vector, as a function of its squared length q.

    .. math:: \log\Gamma(\tfrac{\nu + d}{2}) - \log\Gamma(\tfrac\nu2)
        - \tfrac d2 \log(\pi\nu) - \tfrac{\nu+d}{2} \log(1 + q/\nu)

    Why betaln: the two gamma functions lose all digits against each other for a large df.

    Args:
        df: degrees of freedom > 0.
        q: squared length >= 0.
        size: dimension d >= 1.
    """
    a, h = 0.5 * df, 0.5 * size
    gammas = float(scipy.special.gammaln(h) - scipy.special.betaln(a, h))
    return gammas - h * float(np.log(np.pi * df)) - (a + h) * float(np.log1p(q / df))
