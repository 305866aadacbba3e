"""When to stop training, and which ridge a time of training amounts to.

:class:`gp.TrainedEnsemble` binds :func:`stop` and :func:`equivalent_ridge` as methods.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.optimize import brentq

from deeplimits.errors import DomainError
from deeplimits.validate import as_targets, check, choice, number
from gp.predictive import StoppingScore
from gp.score_stopping import rwy_stop


def stop(
    self: Any, rule: str = "loo", *, noise: Any = None, validation: Any = None
) -> StoppingScore:
    r"""Choose among the stored moments of training.

    "loo": the smallest leave-one-out score of the linear smoother,

    .. math:: \mathrm{score}_t = \operatorname{mean}_{i, c}
        \left( [F_t y]_{ic} / [F_t]_{ii} \right)^2, \qquad F_t = Q\, \varphi_t Q^\top

    which is exact for interpolation at infinity and for a ridge at infinity, and at finite times an
    approximation: it is not equal to training again without point i. NaN where
    :math:`[F_t]_{ii}` vanishes to rounding (filters that change sign). "validation": the smallest
    mean squared error of the mean on other data. "rwy": the last moment before the rule of
    Raskutti, Wainwright and Yu is broken, which needs the noise variance and no labels; its score
    is the ratio of the local complexity to its bound, above 1 where training is too long.

    Args:
        rule: "loo" (default), "validation" or "rwy".
        noise: variance of the label noise, > 0; for "rwy".
        validation: other data ``(Xs, ys)``; for "validation".

    Raises:
        ShapeError, DomainError: unknown rule, data or noise missing or bad, or a score that is
            defined at no moment.

    Source: Craven and Wahba, Numer. Math. 31 (1979) 377, for the ridge smoother; Raskutti,
        Wainwright and Yu, J. Mach. Learn. Res. 15 (2014) 335, eq. (6).

    Check: test_stopping.py::test_stopping_score_is_exact_for_ridge and the others there.
    """
    choice(rule, "rule", ("loo", "validation", "rwy"))
    needed = {"rwy": noise, "validation": validation}
    for name, value in needed.items():
        check(
            (value is not None) == (rule == name),
            f'noise= is for stop("rwy"), validation= for stop("validation"); got rule={rule!r}.',
            DomainError,
        )
    if rule == "rwy":
        return _rwy(self, float(number(noise, "noise", above=0)))
    if rule == "loo":
        scores = np.array([_loo_score(self, residual) for residual in self.residual])
    else:
        Xs, ys = validation
        mean = self.mean(Xs)
        mean = mean.reshape(*mean.shape[:2], -1)
        targets = np.asarray(as_targets(ys, mean.shape[1], "the validation targets"), np.float64)
        scores = np.mean((mean - targets) ** 2, axis=(1, 2))
    check(
        bool(np.isfinite(scores).any()),
        "the leave-one-out score is undefined at every stored time; store more times.",
        DomainError,
    )
    best = int(np.nanargmin(scores))
    return StoppingScore(float(self.times[best]), best, self.times, scores)


def _loo_score(ensemble: Any, residual: np.ndarray) -> float:
    if not residual.any():  # interpolation: F / F_ii tends to the inverse of the NTK
        residual = 1 / ensemble.values
    squares = ensemble.vectors**2
    diagonal = squares @ residual
    if np.any(np.abs(diagonal) <= 1e-12 * (squares @ np.abs(residual))):
        return np.nan
    missing = ensemble.vectors @ (residual[:, None] * ensemble.targets)
    return float(np.mean((missing / diagonal[:, None]) ** 2))


def _rwy(ensemble: Any, noise: float) -> StoppingScore:
    """The last stored moment before the bound is passed; the first if all are too late."""
    n = len(ensemble.values)
    values, rate, sd = ensemble.values / n, n * ensemble.rate, float(np.sqrt(noise))
    best = int(np.searchsorted(ensemble.times, rwy_stop(values, rate, sd), side="right")) - 1
    order = np.sort(ensemble.times)
    check(
        bool(np.array_equal(order, ensemble.times)),
        'stop("rwy") needs increasing times.',
        DomainError,
    )
    with np.errstate(divide="ignore"):
        square = 1 / (rate * ensemble.times)
    size = np.sqrt(np.mean(np.minimum(values, square[:, None]), axis=1))
    with np.errstate(invalid="ignore"):
        score = np.where(np.isinf(square), 0.0, size / square * 2 * math.e * sd)
    best = max(best, 0)
    return StoppingScore(float(ensemble.times[best]), best, ensemble.times, score)


def equivalent_ridge(self: Any, match: str = "time") -> np.ndarray:
    r"""The ridge of kernel regression that stopping at each moment amounts to, ``(T,)``.

    "time": the rule of thumb :math:`s = c / (\eta t)`. "degrees_of_freedom": the ridge with the
    same effective number of fitted parameters,

    .. math:: \sum_i \frac{\lambda_i}{\lambda_i + s} = \sum_i \big(1 - \varphi_t(\lambda_i)\big)

    infinite where nothing is fitted yet and 0 where everything is. They agree while all modes are
    far from fitted; later the rule of thumb is larger, by :math:`(e^x - 1)/x` for one mode with
    :math:`x = \eta\lambda t/c` (flow).

    Args:
        match: "time" (default) or "degrees_of_freedom".

    Raises:
        DomainError: unknown match.

    Source: A. Ali, J. Z. Kolter, R. J. Tibshirani, arXiv:1810.10082, for s = 1/t.
    Check: test_stopping.py::test_equivalent_ridge.
    """
    choice(match, "match", ("time", "degrees_of_freedom"))
    if match == "time":
        with np.errstate(divide="ignore"):
            return 1 / (self.rate * self.times)
    values = self.values[self.values > 0]
    return np.array([_ridge_with(values, np.sum(1 - r)) for r in self.residual])


def _ridge_with(values: np.ndarray, dof: float) -> float:
    """The ridge with ``dof`` effective parameters."""
    if dof <= 0:
        return np.inf
    if dof >= len(values) * (1 - 1e-15):
        return 0.0

    def gap(u: float) -> float:
        return float(np.sum(values / (values + np.exp(u)))) - dof

    low, high = np.log(values[0]) - 40, np.log(values[-1] * len(values) / dof) + 1
    return float(np.exp(brentq(gap, low, high, xtol=1e-13))) if gap(low) > 0 else 0.0
