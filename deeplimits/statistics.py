r"""Error bars and their comparison with theory: what an experiment says, and how sure it is.

The one place to import from. Independent samples (:mod:`deeplimits.estimates`), correlated series
such as Markov chains (:mod:`deeplimits.series`), the bootstrap (:mod:`deeplimits.resampling`), and,
below, z-scores and power laws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats

from deeplimits.errors import DomainError, ShapeError
from deeplimits.estimates import Estimate as Estimate
from deeplimits.estimates import Interval as Interval
from deeplimits.estimates import as_samples as as_samples
from deeplimits.estimates import covariance_with_error as covariance_with_error
from deeplimits.estimates import mean_with_error as mean_with_error
from deeplimits.estimates import variance_with_error as variance_with_error
from deeplimits.pytrees import register_dataclass
from deeplimits.resampling import bootstrap as bootstrap
from deeplimits.series import AutocorrelationTime as AutocorrelationTime
from deeplimits.series import Blocking as Blocking
from deeplimits.series import autocorrelation_time as autocorrelation_time
from deeplimits.series import blocking as blocking
from deeplimits.series import effective_sample_size as effective_sample_size
from deeplimits.typing import ArrayLike
from deeplimits.validate import integer, number


@register_dataclass
@dataclass(frozen=True)
class PowerLawFit:
    r"""``values = amplitude * sizes ** exponent`` with the interval of the exponent.

    ``chi2`` is the weighted residual sum of squares, NaN when no errors were given.
    """

    exponent: Interval
    amplitude: float
    chi2: float
    dof: int

    def __call__(self, sizes: ArrayLike) -> np.ndarray:
        """The fitted line at ``sizes``."""
        return self.amplitude * np.asarray(sizes, np.float64) ** float(self.exponent)


def z_score(
    value: ArrayLike, error: ArrayLike, expected: ArrayLike, expected_error: ArrayLike = 0.0
) -> Any:
    r"""Distance between measurement and theory in standard errors.

    .. math:: z = (\text{value} - \text{expected}) /
              \sqrt{\text{error}^2 + \text{expected error}^2}

    Args:
        value, error: measurement and its standard error (>= 0); arrays broadcast.
        expected, expected_error: theory and its uncertainty (default 0).

    Returns:
        z with the broadcast shape; 0 or plus or minus infinity where both errors vanish.

    Raises:
        DomainError: a negative or NaN error.

    Source: textbook. Check: tests/deeplimits/test_statistics.py::test_z_score
    """
    errors = [np.asarray(e, np.float64) for e in (error, expected_error)]
    for name, e in zip(("error", "expected_error"), errors, strict=True):
        if not np.all(e >= 0):
            raise DomainError(f"{name} must be >= 0 and not NaN, got a minimum of {np.min(e):g}.")
    difference = np.asarray(value, np.float64) - np.asarray(expected, np.float64)
    difference, scale = np.broadcast_arrays(difference, np.hypot(*errors))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(difference == 0, 0.0, difference / scale)[()]


def family_threshold(z: float, count: int = 1, dof: float = math.inf) -> float:
    r"""The bound on the largest of ``count`` scores |z| that is as strict as ``z`` on one.

    With :math:`p = 2\Phi(-z)`, each score may have :math:`p_1 = 1 - (1-p)^{1/\text{count}}`, so the
    chance that any of them exceeds the bound by accident is p: exactly for independent scores, and
    at most p for correlated Gaussian ones (Sidak's inequality). A standard error estimated from
    ``dof + 1`` samples makes the score Student-t, whose tail is used instead of the normal one.

    Args:
        z: bound for one comparison, > 0; 4 means one false alarm in 16 000.
        count: number of comparisons, >= 1.
        dof: degrees of freedom of the standard error, >= 1; infinite by default.

    Raises:
        DomainError: ``z <= 0``, ``count < 1`` or ``dof < 1``.

    Source: Z. Sidak, J. Am. Stat. Assoc. 62, 626 (1967) [sidak1967].
    Check: tests/deeplimits/test_statistics.py::test_family_threshold
    """
    number(z, "z", above=0)
    integer(count, "count", at_least=1)
    if not dof >= 1:
        raise DomainError(f"dof must be >= 1, got {dof}.")
    one_sided = scipy.stats.norm.sf(z)
    # expm1/log1p: 1 - (1 - p)^(1/count) loses all digits of a p near 1e-16
    each = -np.expm1(np.log1p(-2 * one_sided) / count) if one_sided < 0.5 else 1.0
    law = scipy.stats.norm if math.isinf(dof) else scipy.stats.t(dof)
    return float(law.isf(each / 2))


def power_law_fit(
    sizes: ArrayLike, values: ArrayLike, errors: ArrayLike | None = None, level: float = 0.95
) -> PowerLawFit:
    r"""Exponent p of ``values = A sizes^p`` by weighted least squares in log-log.

    .. math:: \min_{p, \log A} \sum_i w_i (\log v_i - \log A - p \log s_i)^2,
              \qquad w_i = (v_i / \sigma_i)^2

    With errors the interval is normal, widened by :math:`\sqrt{\chi^2/\text{dof}}` when that
    exceeds 1 (the Birge ratio: curvature from subleading terms then enters the interval). Without
    errors, equal weights, and the residual scatter gives a Student-t interval.

    Args:
        sizes: positive, at least two distinct; three without ``errors``.
        values: positive, one per size.
        errors: standard errors of ``values``, > 0; optional.
        level: confidence level in (0, 1), default 0.95.

    Raises:
        ShapeError: lengths differ, or too few points.
        DomainError: a size, value or error that is not positive and finite; equal sizes.

    Source: textbook. Check: tests/deeplimits/test_statistics.py::test_power_law_coverage
    """
    number(level, "level", above=0, below=1)
    needed = 3 if errors is None else 2
    s, v = as_samples(sizes, "sizes", needed), as_samples(values, "values", needed)
    e = np.ones_like(v) if errors is None else as_samples(errors, "errors", needed)
    if not (s.ndim == 1 and s.shape == v.shape == e.shape):
        raise ShapeError(
            "sizes, values and errors must be 1-D of one length, got shapes "
            f"{s.shape}, {v.shape}, {e.shape}."
        )
    for name, x in (("sizes", s), ("values", v), ("errors", e)):
        if not np.all(x > 0):
            raise DomainError(f"{name} must be > 0 for a power law, got a minimum of {x.min():g}.")
    if np.ptp(s) == 0:
        raise DomainError(f"sizes must not all be equal, got {s[0]:g} throughout.")
    weights = np.ones_like(v) if errors is None else (v / e) ** 2
    x, y = np.log(s), np.log(v)
    x0, y0 = np.average(x, weights=weights), np.average(y, weights=weights)
    curvature = np.sum(weights * (x - x0) ** 2)
    slope = float(np.sum(weights * (x - x0) * (y - y0)) / curvature)
    chi2 = float(np.sum(weights * (y - y0 - slope * (x - x0)) ** 2))
    dof = len(s) - 2
    if errors is None:
        scale, quantile = math.sqrt(chi2 / dof), scipy.stats.t.ppf((1 + level) / 2, dof)
    else:
        scale = math.sqrt(max(1.0, chi2 / dof)) if dof else 1.0
        quantile = scipy.stats.norm.ppf((1 + level) / 2)
    stderr = scale / math.sqrt(curvature)
    half = float(quantile) * stderr
    interval = Interval(slope, slope - half, slope + half, stderr, level)
    amplitude = float(np.exp(y0 - slope * x0))
    return PowerLawFit(interval, amplitude, chi2 if errors is not None else math.nan, dof)
