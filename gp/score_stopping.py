"""When to stop gradient descent on noisy labels: two rules that need no clean data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from deeplimits.errors import DomainError
from deeplimits.validate import check, number
from gp.filters import descent_filter
from gp.predictive import StoppingScore


def rwy_stop(values: Any, rate: float, noise_sd: float) -> float:
    r"""The stopping step of Raskutti, Wainwright and Yu: one before the first k with

    .. math::

        \hat R\big(\eta_k^{-1/2}\big) > \frac{1}{2 e \sigma \eta_k}, \qquad \eta_k = k \eta,
        \quad \hat R(\epsilon)^2 = \frac1n \sum_i \min(\hat\lambda_i, \epsilon^2)

    Found by bisection: :math:`\hat R(\epsilon)/\epsilon^2` decreases in :math:`\epsilon`.

    Args:
        values: eigenvalues :math:`\hat\lambda_i \ge 0` of the kernel matrix divided by n, ``(n,)``.
        rate: learning rate :math:`\eta > 0`.
        noise_sd: standard deviation :math:`\sigma > 0` of the label noise.

    Returns:
        A whole number of steps >= 0.

    Raises:
        DomainError: negative eigenvalues or all zero, or numbers out of range.

    Source: Raskutti, Wainwright and Yu, J. Mach. Learn. Res. 15 (2014) 335, eq. (6).
    Check: test_score.py::test_rwy_rule_by_search.
    """
    lam = np.asarray(values, np.float64)
    check(
        lam.ndim == 1 and bool(np.all(lam >= 0)) and bool(np.any(lam > 0)),
        "values must be a vector of eigenvalues >= 0, not all 0.",
        DomainError,
    )
    number(rate, "rate", above=0)
    number(noise_sd, "noise_sd", above=0)

    def passed(k: float) -> bool:
        square = 1 / (rate * k)
        size = np.sqrt(np.mean(np.minimum(lam, square)))
        return bool(size > square / (2 * math.e * noise_sd))

    high = 1.0
    while not passed(high):
        high *= 2
    low = high / 2 if high > 1 else 0.0
    while high - low > 1:
        middle = np.floor((low + high) / 2)
        low, high = (low, middle) if passed(middle) else (middle, high)
    return float(high - 1)


def leave_one_out(
    grid: np.ndarray, scale: float, values: np.ndarray, vectors: np.ndarray, labels: np.ndarray
) -> StoppingScore:
    r"""``mean_i |w_i r_i|^2 / (1 - S_ii)^2`` of the linear smoother after every number of steps.

    An approximation: it is not equal to training again without point i. NaN where training has
    converged until numbers underflow.

    Args:
        grid: numbers of steps ``(T,)``.
        scale: learning rate over n.
        values, vectors: eigenvalues and eigenvectors of the weighted kernel matrix.
        labels: weighted labels in that basis ``(n, d)``.

    Source: Craven and Wahba, Numer. Math. 31 (1979) 377, for the ridge smoother.
    Check: test_score.py::test_leave_one_out_follows_refitting.
    """
    squares = vectors**2
    scores = np.empty(len(grid))
    for i, k in enumerate(grid):
        residual = descent_filter(scale * values, k)[0]
        residual = residual / max(float(residual.max()), 1e-290)  # a common factor cancels
        missing = vectors @ (residual[:, None] * labels)
        diagonal = squares @ residual
        # a learning rate of at most n / lambda_max keeps every residual factor in [0, 1]
        safe = np.where(diagonal > 1e-100, diagonal, np.nan)
        scores[i] = np.mean(np.sum(missing**2, axis=1) / safe**2)
    best = int(np.argmin(np.where(np.isnan(scores), np.inf, scores)))
    return StoppingScore(float(grid[best]), best, grid, scores)
