r"""Correlated series: how many independent samples a Markov chain is worth.

Convention: :math:`\tau = 1 + 2 \sum_{t \ge 1} \rho(t)`, so that independent samples have
:math:`\tau = 1` and n correlated ones are worth :math:`n / \tau`. (Part of the literature uses half
of it.)
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft

from deeplimits.errors import PrecisionWarning, ShapeError
from deeplimits.estimates import as_samples
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import ArrayLike
from deeplimits.validate import number


@register_dataclass
@dataclass(frozen=True)
class AutocorrelationTime:
    """Integrated autocorrelation time per chain: ``tau`` with ``stderr``, and the ``window`` used.

    ``length`` is the number of samples per chain; ``reliable`` is False for chains shorter than 50
    times ``tau`` (or 50) and for constant chains, whose ``tau`` is NaN.
    """

    tau: Any
    stderr: Any
    window: Any
    length: int

    @property
    def reliable(self) -> Any:
        """Whether the chain is long enough for ``tau`` to be trusted."""
        return self.length >= 50 * np.maximum(self.tau, 1.0)


@register_dataclass
@dataclass(frozen=True)
class Blocking:
    """Mean of a correlated series with the error at which blocking levels off.

    ``plateau`` is False when no level passed the test; ``stderr`` is then only a lower bound.
    ``block_sizes``, ``errors`` and ``error_errors`` describe every level.
    """

    mean: float
    stderr: float
    stderr_error: float
    plateau: bool
    block_size: int
    block_sizes: np.ndarray
    errors: np.ndarray
    error_errors: np.ndarray


def autocorrelation_time(series: ArrayLike, *, c: float = 5.0) -> AutocorrelationTime:
    r"""Integrated autocorrelation time of each chain, by FFT and Sokal's automatic window.

    .. math:: \tau(W) = 1 + 2 \sum_{t=1}^{W} \rho(t), \qquad
              W = \min\{W : W \ge c \max(\tau(W), 1)\}

    Why not the textbook sum: summed to the end, noise of size 1 accumulates; hence the window.
    Subtracting the chain's own mean lowers every :math:`\rho(t)` by about :math:`\tau/n`, which is
    added back (Wolff's bias correction). The last term has half weight, so that an alternating
    (anti-correlated) series is not cut between a term and its compensation.

    Args:
        series: ``(..., n)``, time last, n >= 8; leading axes are chains, handled independently.
        c: window in units of tau, > 0, default 5.

    Returns:
        :class:`AutocorrelationTime` with arrays of shape ``(...)``. ``tau`` is floored at 1/n; the
        error is Sokal's :math:`\tau \sqrt{(4W + 2)/n}`.

    Raises:
        ShapeError: a scalar, or fewer than 8 samples in time.
        DomainError: not real, NaN or infinite; ``c <= 0``.

    Source: A. Sokal (1997), section 3 [sokal1997]; bias correction: U. Wolff, Comput. Phys. Commun.
        156, 143 (2004), eq. (49) [wolff2004]; half weight of the last term derived here.

    Check: tests/deeplimits/test_statistics.py::test_autocorrelation_time_of_ar1
    """
    number(c, "c", above=0)
    x = _chains(series)
    n = x.shape[-1]
    constant = np.ptp(x, axis=-1) == 0
    covariance = _autocovariance(x)
    covariance[constant] = 1.0
    rho = covariance / covariance[..., :1]
    partial = 2 * np.cumsum(rho, axis=-1) - 1 - rho  # tau(W), last term halved
    window = np.arange(rho.shape[-1])
    reached = window >= c * np.maximum(partial, 1.0)
    index = np.where(reached.any(-1), reached.argmax(-1), rho.shape[-1] - 1)
    tau = np.take_along_axis(partial, index[..., None], -1)[..., 0]
    # gamma(t) -> gamma(t) + tau gamma(0) / n for the 2 W lags of the window, then normalise again
    tau = tau * (1 + 2 * index / n) / (1 + tau / n)
    tau = np.where(constant, np.nan, np.maximum(tau, 1 / n))
    stderr = tau * np.sqrt((4 * index + 2) / n)
    return AutocorrelationTime(tau[()], stderr[()], index[()], n)


def effective_sample_size(series: ArrayLike) -> Any:
    r"""Number of independent samples that each chain is worth, :math:`n / \tau`.

    Args:
        series: ``(..., n)``, time last, n >= 8.

    Returns:
        Shape ``(...)``; NaN for a constant chain.

    Raises:
        ShapeError: a scalar, or fewer than 8 samples in time.
        DomainError: not real, NaN or infinite.

    Source: :func:`autocorrelation_time`.

    Check: tests/deeplimits/test_statistics.py::test_effective_sample_size
    """
    time = autocorrelation_time(series)
    return time.length / time.tau


def blocking(series: ArrayLike) -> Blocking:
    r"""Mean of one correlated series and its error, by repeated halving into blocks.

    Level k averages blocks of :math:`B = 2^k` samples and takes the naive error of their mean,

    .. math:: \sigma_k^2 = \frac{s_k^2}{n_k}, \qquad
              \Delta\sigma_k = \frac{\sigma_k}{\sqrt{2 (n_k - 1)}},

    which grows with k until the blocks are independent. The level reported is the smallest with
    :math:`B^3 > 2 n (\sigma_k / \sigma_0)^4`, where bias and noise of the error balance.

    Args:
        series: ``(n,)``, in time order, n >= 8. At each level a last odd block is left out.

    Returns:
        :class:`Blocking`.

    Raises:
        ShapeError: not 1-D, or fewer than 8 samples.
        DomainError: not real, NaN or infinite.

    Warns:
        PrecisionWarning: no level passes the test: the series is too short for its correlation.

    Source: H. Flyvbjerg and H. G. Petersen, J. Chem. Phys. 91, 461 (1989) [flyvbjerg1989]; plateau
        test: R. M. Lee et al., Phys. Rev. E 83, 066706 (2011) [lee2011].

    Check: tests/deeplimits/test_statistics.py::test_blocking_of_ar1
    """
    x = as_samples(series, "series", at_least=8)
    if x.ndim != 1:
        raise ShapeError(f"series must be 1-D, got shape {x.shape}. Call blocking once per chain.")
    n, mean = len(x), float(x.mean())
    sizes, errors, relative = [], [], []
    block = 1
    while len(x) >= 2:
        sizes.append(block)
        errors.append(x.std(ddof=1) / math.sqrt(len(x)))
        relative.append(1 / math.sqrt(2 * (len(x) - 1)))
        x = x[: len(x) // 2 * 2].reshape(-1, 2).mean(1)
        block *= 2
    block_sizes, sigma = np.array(sizes), np.array(errors)
    sigma_error = sigma * np.array(relative)
    inflation = sigma / sigma[0] if sigma[0] > 0 else np.ones_like(sigma)
    passed = block_sizes.astype(np.float64) ** 3 > 2 * n * inflation**4
    # the last levels have a handful of blocks and may pass only because their error came out small
    passed &= np.array(relative) < 0.25
    plateau = bool(passed.any())
    level = int(passed.argmax()) if plateau else int(sigma.argmax())
    if not plateau:
        warnings.warn(
            f"blocking found no plateau in {n} samples: the error {sigma[level]:.3g} is a lower "
            "bound. Run the chain longer.",
            PrecisionWarning,
            stacklevel=2,
        )
    return Blocking(
        mean, float(sigma[level]), float(sigma_error[level]), plateau, int(block_sizes[level]),
        block_sizes, sigma, sigma_error,
    )  # fmt: skip


def _chains(series: ArrayLike) -> np.ndarray:
    """Series as float64 ``(..., n)`` with n >= 8."""
    x = as_samples(series, "series", at_least=1)
    if x.shape[-1] < 8 or x.size == 0:
        raise ShapeError(f"series needs at least 8 samples on its last axis, got shape {x.shape}.")
    return x


def _autocovariance(x: np.ndarray) -> np.ndarray:
    """Autocovariance for lags below n/2, normalised by the number of pairs."""
    n = x.shape[-1]
    lags = n // 2
    padded = scipy.fft.next_fast_len(n + lags, real=True)  # room for the lags: no wrap-around
    transform = scipy.fft.rfft(x - x.mean(-1, keepdims=True), padded, axis=-1)
    power = transform.real**2 + transform.imag**2
    raw = scipy.fft.irfft(power, padded, axis=-1)[..., :lags]
    return raw / (n - np.arange(lags))
