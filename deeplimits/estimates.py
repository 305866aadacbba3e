r"""Moments of independent samples, each with its standard error.

All sums run in NumPy float64, whatever the dtype of the samples: a float32 accumulation over 1e6
samples has an error of the size of the statistical one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from deeplimits.errors import DomainError, ShapeError
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import ArrayLike
from deeplimits.validate import finite


@register_dataclass
@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error; ``dof`` counts the degrees of freedom behind the error.

    ``dof`` is infinite where the standard error is known rather than estimated from few samples.
    """

    mean: Any
    stderr: Any
    dof: Any = math.inf


@register_dataclass
@dataclass(frozen=True)
class Interval:
    """A number (or array) with its confidence interval ``[low, high]`` at ``level``."""

    value: Any
    low: Any
    high: Any
    stderr: Any
    level: float

    def __float__(self) -> float:
        return float(self.value)

    def __contains__(self, number: float) -> bool:
        return bool(np.all((self.low <= number) & (number <= self.high)))

    def __str__(self) -> str:
        return f"{float(self):.4g} [{float(self.low):.4g}, {float(self.high):.4g}]"


def as_samples(samples: ArrayLike, name: str = "samples", at_least: int = 2) -> np.ndarray:
    """Samples as float64, sample axis first and at least ``at_least`` long.

    Raises:
        ShapeError: a scalar, or too few samples.
        DomainError: not real numbers, NaN or infinite.
    """
    try:
        x = np.asarray(samples)
    except ValueError as error:
        raise ShapeError(f"{name} must be a rectangular array of numbers: {error}") from error
    if x.dtype.kind not in "fiub" and x.dtype.name != "bfloat16":
        raise DomainError(f"{name} must hold real numbers, got dtype {x.dtype}.")
    if x.ndim == 0 or x.shape[0] < at_least:
        raise ShapeError(f"{name} needs at least {at_least} samples, got shape {x.shape}.")
    x = x.astype(np.float64)
    finite(x, name)
    return x


def mean_with_error(samples: ArrayLike, axis: int = 0) -> Estimate:
    r"""Mean of independent samples and its standard error.

    .. math:: \bar x, \qquad \Big(\frac{1}{n(n-1)} \sum_i (x_i - \bar x)^2\Big)^{1/2}

    Args:
        samples: real, at least 2 along ``axis``; the other axes are kept.
        axis: the axis that counts the samples, default 0.

    Returns:
        :class:`Estimate` with ``dof = n - 1``. A correlated series needs
        :func:`deeplimits.series.blocking` instead.

    Raises:
        ShapeError: fewer than two samples, or no such axis.
        DomainError: not real, NaN or infinite.

    Source: textbook. Check: tests/deeplimits/test_statistics.py::test_mean_coverage
    """
    x = as_samples(_axis_first(samples, axis))
    n = x.shape[0]
    return Estimate(x.mean(0), x.std(0, ddof=1) / math.sqrt(n), n - 1)


def variance_with_error(samples: ArrayLike, axis: int = 0) -> Estimate:
    r"""Unbiased sample variance and its standard error from the fourth moment.

    .. math:: s^2 = \frac{n\,m_2}{n-1}, \qquad
              \mathrm{Var}(s^2) = \frac{\mu_4 - \mu_2^2}{n} + \frac{2 \mu_2^2}{n(n-1)},

    with the central moments of the sample for :math:`\mu_k` and n/((n-1)(n-2)) for the first 1/n.
    Why not the textbook forms: the plain plug-in is low by 3/n for Gaussian samples, which the
    prefactor removes up to order n^-4; the unbiased one (k-statistics) can be negative, for
    balanced signs say, and this one cannot.

    Args:
        samples: real, at least 4 along ``axis``; the other axes are kept.
        axis: the axis that counts the samples, default 0.

    Raises:
        ShapeError: fewer than four samples, or no such axis.
        DomainError: not real, NaN or infinite.

    Source: textbook (exact variance of the sample variance); prefactor derived here.
    Check: tests/deeplimits/test_statistics.py::test_variance_error_matches_replication
    """
    x = as_samples(_axis_first(samples, axis), at_least=4)
    n = x.shape[0]
    square = (x - x.mean(0)) ** 2
    m2 = square.mean(0)
    spread = square.var(0) * n / ((n - 1) * (n - 2)) + 2 * m2**2 / (n * (n - 1))
    return Estimate(m2 * n / (n - 1), np.sqrt(spread), n - 1)


def covariance_with_error(x: ArrayLike, y: ArrayLike | None = None) -> Estimate:
    r"""Unbiased sample covariance matrix of paired samples and the standard error of each entry.

    .. math:: C_{ab} = \frac{n\,m_{11}}{n-1}, \qquad
       \mathrm{Var}(C_{ab}) = \frac{\mu_{22} - \mu_{11}^2}{n}
                              + \frac{\mu_{20} \mu_{02} + \mu_{11}^2}{n(n-1)}

    with the prefactor of :func:`variance_with_error` in place of the first 1/n.

    Args:
        x: ``(n, d)``, or ``(n,)`` for one variable; n >= 4.
        y: ``(n, e)`` or ``(n,)``, paired with ``x`` row by row; default ``x``.

    Returns:
        :class:`Estimate` with ``mean`` and ``stderr`` of shape ``(d, e)``; an axis that came as 1-D
        is dropped.

    Raises:
        ShapeError: fewer than four samples, more than two axes, or a different number of rows.
        DomainError: not real, NaN or infinite.

    Source: textbook (exact variance of the sample covariance); prefactor derived here.
    Check: tests/deeplimits/test_statistics.py::test_covariance_error_matches_replication
    """
    a = as_samples(x, "x", at_least=4)
    b = a if y is None else as_samples(y, "y", at_least=4)
    if a.ndim > 2 or b.ndim > 2 or a.shape[0] != b.shape[0]:
        raise ShapeError(
            f"x and y must have shapes (n, d) and (n, e), or (n,); got {a.shape} and {b.shape}."
        )
    n = a.shape[0]
    da, db = (v.reshape(n, -1) - v.reshape(n, -1).mean(0) for v in (a, b))
    m11 = da.T @ db / n
    m22 = (da**2).T @ db**2 / n
    product = np.outer((da**2).mean(0), (db**2).mean(0))
    leading = np.maximum(m22 - m11**2, 0.0) * n / ((n - 1) * (n - 2))
    spread = leading + (product + m11**2) / (n * (n - 1))
    shape = a.shape[1:] + b.shape[1:]
    return Estimate((m11 * n / (n - 1)).reshape(shape), np.sqrt(spread).reshape(shape), n - 1)


def _axis_first(samples: ArrayLike, axis: int) -> Any:
    """Move the sample axis to the front."""
    try:
        return np.moveaxis(np.asarray(samples), axis, 0)
    except np.exceptions.AxisError as error:
        raise ShapeError(f"samples of shape {np.shape(samples)} have no axis {axis}.") from error
    except ValueError as error:
        raise ShapeError(f"samples must be a rectangular array of numbers: {error}") from error
