r"""Continual learning held against exact inference: what is forgotten, and by whom.

Conditioning on one task after the other gives the posterior of all tasks at once
(:func:`gp.stream`). What exact inference loses on an old task is therefore due to its model: a
model that says nothing changes averages contradictory tasks. What else is lost is due to an
approximation, and is measured by the divergence from the exact posterior.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.signal
from jaxtyping import Float

from deeplimits.errors import DomainError, ShapeError
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import as_inputs, as_square, check, finite, integer, number
from gp.linalg import Kernel, factorize
from gp.predictive import Gaussian, whiten
from gp.process import Posterior
from gp.stream import Stream


@dataclass(frozen=True)
class ContinualScores:
    """Losses on every task after every task. Made by :func:`continual_scores`.

    Attributes:
        nll: ``(T, J)``: mean negative log predictive density per target, in nats, on task j after
            training on tasks 0..i.
    """

    nll: np.ndarray

    @property
    def forgetting(self) -> Float[np.ndarray, " J"]:
        """How far each task has risen above its smallest loss so far, >= 0, in nats.

        Source: Chaudhry et al., arXiv:1801.10112, eq. (3), with losses for accuracies.
        """
        return np.asarray(self.nll[-1] - np.min(self.nll, axis=0))

    @property
    def backward_transfer(self) -> float:
        r"""Mean gain on old tasks since they were learned, positive where later data helped.

        .. math:: \frac{1}{T-1} \sum_{j < T-1} (R_{jj} - R_{T-1, j})

        Source: Lopez-Paz and Ranzato, arXiv:1706.08840, eq. (3), with losses for accuracies.

        Raises:
            ShapeError: not one row per task, or a single task.
        """
        self._square("backward transfer")
        return float(np.mean(np.diagonal(self.nll)[:-1] - self.nll[-1, :-1]))

    @property
    def forward_transfer(self) -> float:
        r"""Mean gain on the next task from all before it, against the first task alone.

        .. math:: \frac{1}{T-2} \sum_{j \ge 2} (R_{0 j} - R_{j-1, j})

        Raises:
            ShapeError: not one row per task, or fewer than three tasks.
        """
        self._square("forward transfer", 3)
        return float(np.mean(self.nll[0, 2:] - np.diagonal(self.nll, 1)[1:]))

    def _square(self, what: str, at_least: int = 2) -> None:
        rows, columns = self.nll.shape
        check(
            rows == columns >= at_least,
            f"{what} needs a matrix of {at_least} tasks or more, one row each; got shape "
            f"{self.nll.shape}.",
            ShapeError,
        )

    def plot(self, ax: Any = None, **kw: Any) -> Any:
        """The matrix of losses, one row per moment, one column per task."""
        from deeplimits import plotting

        ax = plotting.axes(ax)
        image = ax.imshow(self.nll, **{"cmap": "viridis", **kw})
        ax.grid(False)
        ax.set(xlabel="evaluated on task", ylabel="after training on task")
        ax.set_xticks(range(self.nll.shape[1]))
        ax.set_yticks(range(self.nll.shape[0]))
        ax.figure.colorbar(image, ax=ax, label="negative log density (nats)", shrink=0.9)
        return ax


def continual_scores(
    learner: Any, tasks: Sequence[tuple[Any, Any]], *, noise: Any = None
) -> ContinualScores:
    """The matrix of losses of a learner on every task after every task.

    Args:
        learner: a :class:`gp.Stream`, or a sequence with one predictor per moment: a
            :class:`gp.Posterior`, or a function ``Xs -> law`` with ``law.pointwise(ys)``, the log
            densities of targets.
        tasks: pairs ``(Xs, ys)`` of test data, one per task.
        noise: variance of the noise in the targets, for a stream or posteriors. Default: that of
            the model.

    Returns:
        :class:`ContinualScores`.

    Raises:
        ShapeError, DomainError: bad data, no tasks, or no such learner.

    Source: arXiv:2301.01828 for the question; derived here.
    Check: test_continual.py::test_matrix_by_refitting.
    """
    check(len(tasks) > 0, "tasks must hold at least one pair (Xs, ys).", ShapeError)
    extra = True if noise is None else noise
    if isinstance(learner, Stream):
        columns = [-learner.scores(x, y, noise=extra) for x, y in tasks]
        return ContinualScores(np.stack(columns, axis=1))
    check(
        isinstance(learner, list | tuple) and len(learner) > 0,
        f"learner must be a gp.Stream or a list of predictors, got {type(learner).__name__}.",
        DomainError,
    )
    rows = []
    for predictor in learner:
        law = _law(predictor, extra)
        rows.append([-float(np.mean(law(x).pointwise(y))) for x, y in tasks])
    return ContinualScores(np.array(rows))


def _law(predictor: Any, noise: Any) -> Callable[[Any], Any]:
    if isinstance(predictor, Posterior):
        return lambda x: predictor.predict(x, noise=noise)
    check(
        callable(predictor),
        f"a predictor must be a gp.Posterior or a function Xs -> law, got {predictor!r}.",
        DomainError,
    )
    return predictor  # type: ignore[no-any-return]


def kl_from_exact(exact: Any, mean: Any, cov: Any, *, Xs: Any = None) -> float:
    r"""Divergence of an approximate posterior from the exact one at m points, in nats.

    .. math:: KL\big(N(\mu, S) \,\|\, N(m, C)\big) = \tfrac12 \big[ \operatorname{tr} C^{-1} S
        + (m-\mu)^\top C^{-1} (m-\mu) - m_{pts} + \log\det C - \log\det S \big]

    Infinite where the approximation is certain of what the exact posterior is not.

    Args:
        exact: a :class:`gp.Gaussian`, or (with ``Xs``) a :class:`gp.Stream` or
            :class:`gp.Posterior`, with one output.
        mean: of the approximation ``(m,)``.
        cov: its covariance ``(m, m)``.
        Xs: points ``(m, d)`` at which to compare.

    Raises:
        ShapeError, DomainError: shapes that do not match, or a covariance that is not symmetric.
        NotPositiveDefiniteError: a covariance has a negative eigenvalue.

    Warns:
        JitterWarning: a covariance is singular to rounding: compare at fewer points.

    Source: textbook. Check: test_continual.py::test_divergence_by_simulation.
    """
    if isinstance(exact, Stream):
        exact = exact.posterior
    if isinstance(exact, Posterior):
        check(Xs is not None, "give Xs, the points at which to compare.", DomainError)
        exact = exact.predict(Xs)
    check(
        isinstance(exact, Gaussian) and exact.mean.ndim == 1,
        f"exact must be a Gaussian law of one output, got {type(exact).__name__}.",
        DomainError,
    )
    m = len(exact.mean)
    centre = np.asarray(mean, np.float64)
    check(centre.shape == (m,), f"mean must have shape ({m},), got {centre.shape}.", ShapeError)
    finite(centre, "mean")
    spread = np.asarray(as_square(cov, "cov"), np.float64)
    check(len(spread) == m, f"cov must have shape ({m}, {m}), got {spread.shape}.", ShapeError)
    first = factorize(exact.cov, name="the exact covariance").chol
    second = factorize(spread, name="cov").chol
    trace = float(np.sum(whiten(second, first) ** 2))
    shift = float(np.sum(whiten(second, (centre - exact.mean)[:, None]) ** 2))
    log_dets = 2 * float(np.sum(np.log(np.diagonal(second) / np.diagonal(first))))
    return 0.5 * (trace + shift - m + log_dets)


# --- models under which tasks change --------------------------------------------------------------


def with_task(X: Any, task: float) -> Float[np.ndarray, "n inputs"]:
    """Inputs with the task index (or time) as a last column, for :func:`drift_kernel`.

    Args:
        X: inputs ``(n, d)``.
        task: a finite number.

    Raises:
        ShapeError, DomainError: bad inputs or task.

    Source: derived here. Check: test_continual.py::test_drift_is_a_kalman_filter.
    """
    x = np.asarray(as_inputs(X, "X"), np.float64)
    check(x.ndim == 2, f"X must have shape (n, d), got {x.shape}.", ShapeError)
    return np.concatenate([x, np.full((len(x), 1), float(number(task, "task")))], axis=1)


def drift_kernel(kernel: Kernel, tau: float) -> Kernel:
    r"""A function that drifts from task to task: a kernel on inputs from :func:`with_task`.

    .. math:: k\big((x, t), (x', t')\big) = k(x, x')\, e^{-|t - t'| / \tau}

    Args:
        kernel: ``k(X, Z=None)`` on the inputs without the task.
        tau: number of tasks over which the function is remembered, > 0; ``inf`` for ever.

    Raises:
        DomainError: no kernel, or tau not positive.

    Source: derived here (a stationary Ornstein-Uhlenbeck process of functions).
    Check: test_continual.py::test_drift_is_a_kalman_filter.
    """
    check(callable(kernel), "kernel must be a callable k(X, Z=None).", DomainError)
    check(
        np.ndim(tau) == 0 and bool(tau > 0),
        f"tau must be > 0 (inf allowed), got {tau!r}.",
        DomainError,
    )

    def drifting(x: Any, z: Any = None) -> np.ndarray:
        a = np.asarray(x, np.float64)
        b = a if z is None else np.asarray(z, np.float64)
        apart = np.abs(a[:, None, -1] - b[None, :, -1])
        still = kernel(a[:, :-1]) if z is None else kernel(a[:, :-1], b[:, :-1])
        return np.asarray(still) * np.exp(-apart / tau)

    return drifting


def forgetting_noise(tasks: Any, noise: float, factor: float) -> Float[np.ndarray, " n"]:
    r"""Noise variances that grow with age, for ``gp.GP(kernel, noise=...)``.

    .. math:: \sigma_i^2 = \mathrm{noise} \cdot \mathrm{factor}^{-(t_{now} - t_i)}

    Every task the precision of older data shrinks by the factor, while the prior stays: the power
    likelihood with weights ``factor ** age``.

    Args:
        tasks: task index of every training point ``(n,)``; the largest is now.
        noise: variance of the latest data, > 0.
        factor: in (0, 1]; 1 forgets nothing.

    Raises:
        ShapeError, DomainError: bad arguments.

    Source: derived here (exponential forgetting). Check: test_continual.py::test_forgetting_factor.
    """
    t = np.asarray(tasks, np.float64)
    check(t.ndim == 1 and t.size > 0, f"tasks must have shape (n,), got {t.shape}.", ShapeError)
    finite(t, "tasks")
    number(noise, "noise", above=0)
    number(factor, "factor", above=0, at_most=1)
    return np.asarray(noise * float(factor) ** -(t.max() - t))


# --- the smallest example: one unknown mean -------------------------------------------------------


@dataclass(frozen=True)
class LocationPath:
    """Posterior of a location after every observation.

    Attributes:
        mean: ``(n,)``.
        var: ``(n,)``.
    """

    mean: np.ndarray
    var: np.ndarray


def location_filter(
    x: Any,
    *,
    noise: float,
    prior_mean: float = 0.0,
    prior_var: float = 1.0,
    forgetting: float = 1.0,
) -> LocationPath:
    r"""The posterior of a constant seen with Gaussian noise, observation by observation.

    .. math:: \frac1{v_t} = \frac{\gamma}{v_{t-1}} + \frac1s, \qquad
        m_t = v_t \left( \frac{\gamma\, m_{t-1}}{v_{t-1}} + \frac{x_t}{s} \right)

    Without forgetting (:math:`\gamma = 1`) two tasks of n points with means -1 and +1 end at 0,
    which fits neither, and unequal tasks end nearer to the larger: exact inference in a model that
    does not know of tasks.

    Args:
        x: observations ``(n,)``, in their order.
        noise: variance s > 0.
        prior_mean, prior_var: of the location; the variance > 0. Defaults 0 and 1.
        forgetting: :math:`\gamma` in (0, 1], by which the precision shrinks at every step. Default
            1.

    Raises:
        ShapeError, DomainError: bad arguments.

    Source: arXiv:2301.01828, section on misspecification, for the example.
    Check: test_continual.py::test_location_numbers.
    """
    values = np.asarray(x, np.float64)
    check(values.ndim == 1 and values.size > 0, "x must have shape (n,), n >= 1.", ShapeError)
    finite(values, "x")
    number(noise, "noise", above=0)
    number(prior_mean, "prior_mean")
    number(prior_var, "prior_var", above=0)
    number(forgetting, "forgetting", above=0, at_most=1)
    gamma = float(forgetting)
    # precision_t = gamma precision_{t-1} + 1/s: a first-order linear recursion
    start = 1 / float(prior_var), float(prior_mean) / float(prior_var)
    inputs = np.full(len(values), 1 / noise), values / noise
    precision, weighted = (
        scipy.signal.lfilter([1.0], [1.0, -gamma], u, zi=np.array([gamma * s]))[0]
        for u, s in zip(inputs, start, strict=True)
    )
    return LocationPath(weighted / precision, 1 / precision)


def task_mean(values: Any, counts: Any, *, noise: float, prior_var: float = 1.0) -> float:
    r"""Where :func:`location_filter` ends after tasks of constant values, in closed form.

    .. math:: \frac{\sum_j n_j x_j / s}{1/v_0 + \sum_j n_j / s}

    Args:
        values: mean observation of every task ``(J,)``.
        counts: their numbers of observations ``(J,)``, >= 1.
        noise: variance s > 0.
        prior_var: :math:`v_0 > 0`, prior mean 0. Default 1.

    Raises:
        ShapeError, DomainError: bad arguments.

    Source: textbook. Check: test_continual.py::test_location_numbers.
    """
    means = np.asarray(values, np.float64)
    sizes = [integer(c, "counts", at_least=1) for c in counts]
    check(means.shape == (len(sizes),), "values and counts must have one length.", ShapeError)
    finite(means, "values")
    number(noise, "noise", above=0)
    number(prior_var, "prior_var", above=0)
    weight = np.array(sizes) / noise
    return float(weight @ means / (1 / prior_var + weight.sum()))


register_dataclass(ContinualScores, ["nll"], [])
register_dataclass(LocationPath, ["mean", "var"], [])
