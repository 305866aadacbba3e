"""Marginal laws of mixtures of Gaussians: densities, distribution functions and quantiles."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import elementwise
from scipy.special import log_ndtr, logsumexp

from deeplimits.errors import ConvergenceError, PrecisionWarning
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import check, number
from gp.predictive import normal_log_density
from gp.scale_quadrature import MomentUndefinedError
from gp.student_t import residual_of


def needs_mean_scale(mean_scale: float, what: str) -> None:
    """Raise :class:`MomentUndefinedError` when :math:`E[s^2]` is infinite."""
    check(
        bool(np.isfinite(mean_scale)),
        f"the {what} does not exist: the law of the scale has no mean (E[s2] is infinite). Use "
        "quantiles.",
        MomentUndefinedError,
    )


def total(terms: np.ndarray) -> np.ndarray:
    """Logarithm of the sum of ``exp(terms)`` over the nodes (first axis) of an integral.

    Warns:
        PrecisionWarning: the largest term is the first or last, so that the integral needs scales
            at which data and prior have less than e^-200 of their largest density.
    """
    largest = np.argmax(terms, axis=0)
    outside = (largest == 0) | (largest == len(terms) - 1)
    if len(terms) > 1 and np.any(outside & np.isfinite(np.max(terms, axis=0))):
        warnings.warn(
            "a value is so far from the predictions that its density needs scales beyond the nodes "
            "of the quadrature: the log-density is a lower bound. For scaled noise, take the "
            "difference of two log evidences.",
            PrecisionWarning,
            stacklevel=3,
        )
    return np.asarray(logsumexp(terms, axis=0))


@register_dataclass
@dataclass(frozen=True)
class MarginalMixture:
    """A mixture of J normal laws for each of m points and C outputs.

    Attributes:
        log_weights: ``(J,)``.
        loc: centres ``(J, m, C)``, or ``(1, m, C)`` when all components share them.
        width: standard deviations ``(J, m)``.
        vector: whether results are ``(m,)`` and not ``(m, C)``.
        has_var: whether the variance exists.
    """

    log_weights: np.ndarray
    loc: np.ndarray
    width: np.ndarray
    vector: bool = True
    has_var: bool = True

    def _out(self, values: np.ndarray) -> np.ndarray:
        return values[..., 0] if self.vector else values

    @property
    def mean(self) -> np.ndarray:
        """Means, ``(m,)`` or ``(m, C)``."""
        weights = np.exp(self.log_weights) if len(self.loc) > 1 else np.ones(1)
        return self._out(np.tensordot(weights, self.loc, 1))

    @property
    def var(self) -> np.ndarray:
        """Variances ``(m,)`` or ``(m, C)``, by the law of total variance.

        Raises:
            MomentUndefinedError: the law of the scale has no mean.
        """
        needs_mean_scale(0.0 if self.has_var else np.inf, "variance")
        weights = np.exp(self.log_weights)
        within = (weights @ self.width**2)[:, None]
        if len(self.loc) == 1:
            return self._out(within + np.zeros(self.loc.shape[1:]))
        centre = np.tensordot(weights, self.loc, 1)
        return self._out(within + np.tensordot(weights, (self.loc - centre) ** 2, 1))

    @property
    def std(self) -> np.ndarray:
        """Standard deviations, ``(m,)`` or ``(m, C)``."""
        return np.sqrt(self.var)

    def _values(self, y: Any) -> np.ndarray:
        shape = self.loc.shape[1:]
        return residual_of(y, np.zeros(shape[:1] if self.vector else shape))

    def pointwise(self, y: Any) -> np.ndarray:
        """Marginal log-density of every entry of ``y``, in nats, in the shape of the mean.

        Args:
            y: values, ``(m,)`` or ``(m, C)``.

        Raises:
            ShapeError, DomainError: y has the wrong shape or is not finite.
        """
        residual = self._values(y) - self.loc
        terms = normal_log_density(residual, self.width[:, :, None] ** 2)
        return self._out(total(terms + self.log_weights[:, None, None]))

    def cdf(self, y: Any) -> np.ndarray:
        """Marginal distribution functions at ``y``, in the shape of the mean.

        Args:
            y: values, ``(m,)`` or ``(m, C)``.

        Raises:
            ShapeError, DomainError: y has the wrong shape or is not finite.
        """
        return self._out(np.exp(self._log_cdf(self._values(y))))

    def _log_cdf(self, y: np.ndarray, upper: bool = False) -> np.ndarray:
        """Logarithm of the lower (or upper) tail probability at ``y (m, C)``."""
        with np.errstate(divide="ignore", invalid="ignore"):
            z = (y - self.loc) / self.width[:, :, None]
        z = np.where(np.isnan(z), 0.0, -z if upper else z)
        return logsumexp(log_ndtr(z) + self.log_weights[:, None, None], axis=0)

    def quantile(self, probability: float) -> np.ndarray:
        """Marginal quantiles, in the shape of the mean.

        Args:
            probability: in (0, 1).

        Raises:
            DomainError: probability outside (0, 1).

        Check: test_mixtures.py::test_quantiles_invert_the_distribution.
        """
        number(probability, "probability", above=0, below=1)
        upper = probability > 0.5  # the smaller tail, whose logarithm keeps its digits
        target = np.log1p(-probability) if upper else np.log(probability)
        j = int(np.argmax(self.log_weights))
        centre = self.loc[min(j, len(self.loc) - 1)]
        unit = np.broadcast_to(self.width[j][:, None], centre.shape)
        unit = np.where(unit > 0, unit, 1e-300 + np.abs(centre) * 1e-16)
        index = np.arange(centre.size).reshape(centre.shape)

        def gap(x: np.ndarray, at: np.ndarray) -> np.ndarray:
            rows, columns = np.unravel_index(at, centre.shape)
            loc = self.loc[:, rows, columns]
            y = centre[rows, columns] + unit[rows, columns] * x
            with np.errstate(divide="ignore", invalid="ignore"):
                z = (y - loc) / self.width[:, rows]
            z = np.where(np.isnan(z), 0.0, -z if upper else z)
            return logsumexp(log_ndtr(z) + self.log_weights[:, None], axis=0) - target

        flat = index.ravel()
        start = elementwise.bracket_root(gap, -np.ones(flat.size), np.ones(flat.size), args=(flat,))
        found = elementwise.find_root(gap, start.bracket, args=(flat,))
        check(
            bool(np.all(start.success & found.success)),
            f"the quantile {probability:g} was not found; is a component degenerate?",
            ConvergenceError,
        )
        return self._out(centre + unit * found.x.reshape(centre.shape))

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Central credible intervals, ``(lower, upper)`` in the shape of the mean.

        Args:
            level: probability inside, in (0, 1).

        Raises:
            DomainError: level outside (0, 1).
        """
        number(level, "level", above=0, below=1)
        return self.quantile(0.5 - 0.5 * level), self.quantile(0.5 + 0.5 * level)
