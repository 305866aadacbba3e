r"""Expected errors of in-context learners on linear tasks: closed forms and simulated curves.

The setting is that of :mod:`gp.in_context`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from deeplimits.errors import DomainError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import as_key, check, integer, number
from gp.in_context import Learner, SpectralLearner


def best_gradient_rate(n: int, d: int, noise: float = 0.0, prior_var: float = 1.0) -> float:
    r"""The rate with which one gradient step has the smallest expected error.

    .. math:: \eta^* = \frac{1}{n + d + 1 + \sigma^2 / \tau^2}

    Args:
        n: examples in the context, >= 1.
        d: dimension, >= 1.
        noise: variance :math:`\sigma^2 \ge 0`. Default 0.
        prior_var: variance :math:`\tau^2 > 0`. Default 1.

    Raises:
        DomainError: arguments out of range.

    Source: arXiv:2306.09927, theorem 4.1 (no noise); noise derived here.
    Check: test_in_context.py::test_gradient_step_error.
    """
    integer(n, "n", at_least=1)
    integer(d, "d", at_least=1)
    number(noise, "noise", at_least=0)
    number(prior_var, "prior_var", above=0)
    return float(1 / (n + d + 1 + noise / prior_var))


def gradient_step_error(
    n: int, d: int, rate: float, noise: float = 0.0, prior_var: float = 1.0
) -> float:
    r"""Expected squared error of one gradient step, in closed form.

    .. math:: \tau^2 d\, \big(1 - 2 \eta n + \eta^2 n (n + d + 1)\big) + \eta^2 n d\, \sigma^2

    At :math:`\eta^*`: :math:`\tau^2 d\, (1 - \eta^* n)`.

    Args:
        n: examples in the context, >= 1.
        d: dimension, >= 1.
        rate: :math:`\eta > 0`.
        noise, prior_var: as in :func:`best_gradient_rate`.

    Raises:
        DomainError: arguments out of range.

    Source: derived here from the moments of Wishart matrices.
    Check: test_in_context.py::test_gradient_step_error.
    """
    best_gradient_rate(n, d, noise, prior_var)
    eta = float(number(rate, "rate", above=0))
    shrunk = 1 - 2 * eta * n + eta**2 * n * (n + d + 1)
    return float(prior_var * d * shrunk + eta**2 * n * d * noise)


def least_squares_error(n: int, d: int, noise: float = 0.0, prior_var: float = 1.0) -> float:
    r"""Expected squared error of least squares (of least norm when n < d), in closed form.

    .. math:: n \ge d + 2:\ \frac{\sigma^2 d}{n - d - 1}; \qquad
        n \le d - 2:\ \tau^2 (d - n) + \frac{\sigma^2 n}{d - n - 1}

    Infinite in between when there is noise.

    Args:
        n: examples in the context, >= 0.
        d: dimension, >= 1.
        noise, prior_var: as in :func:`best_gradient_rate`.

    Raises:
        DomainError: arguments out of range.

    Source: mean of the inverse Wishart law; Belkin, Hsu and Xu, arXiv:1903.07571, theorem 1.
    Check: test_in_context.py::test_least_squares_error.
    """
    integer(n, "n", at_least=0)
    best_gradient_rate(max(n, 1), d, noise, prior_var)
    bias = float(prior_var * max(d - n, 0))
    if noise == 0 or n == 0:
        return bias
    spare = abs(n - d) - 1
    return bias + float(noise * min(n, d) / spare) if spare > 0 else np.inf


@dataclass(frozen=True)
class ContextCurve:
    """Expected squared error of a learner against the number of examples in the context.

    Attributes:
        sizes: numbers of examples ``(T,)``.
        error: mean squared distance to the noiseless target ``(T,)``; add the noise variance for
            the error against targets, divide by d for the share of an untrained learner.
        stderr: standard errors.
        draws: number of contexts for each size.
    """

    sizes: np.ndarray
    error: np.ndarray
    stderr: np.ndarray
    draws: int

    def plot(self, ax: Any = None, **kw: Any) -> Any:
        """The curve with standard errors."""
        from deeplimits import plotting

        ax = plotting.axes(ax)
        ax.errorbar(self.sizes, self.error, self.stderr, **{"fmt": "o-", **kw})
        ax.set(xlabel="examples in context", ylabel="expected squared error", yscale="log")
        return ax


@float64_scope
def context_curve(
    learner: Learner,
    sizes: Any,
    *,
    d: int,
    noise: float = 0.0,
    prior_var: float = 1.0,
    key: Any,
    draws: int = 400,
    queries: int = 16,
    other: Learner | None = None,
) -> ContextCurve:
    r"""Expected squared error of a learner, or its distance from another one.

    For a spectral learner only the inputs are drawn; task, noise and query are averaged exactly.

    Args:
        learner: ``f(X, y, Xq) -> (m,)``: one of this module, or a trained network.
        sizes: numbers of examples, whole, >= 1.
        d: dimension, >= 1.
        noise, prior_var: as in :func:`best_gradient_rate`.
        key: a ``jax.random.key`` or an integer seed.
        draws: contexts for each size, >= 2. Default 400.
        queries: queries for each context where queries are drawn, >= 1. Default 16.
        other: a second learner: the mean squared difference between the two predictions then takes
            the place of the error. It vanishes if they are the same algorithm.

    Returns:
        :class:`ContextCurve`.

    Raises:
        ShapeError, DomainError: bad arguments, or a learner that returns another shape.

    Source: arXiv:2211.15661, section 4 (squared prediction difference); derived here.
    Check: test_in_context.py::test_curves_by_simulation.
    """
    grid = np.atleast_1d(np.asarray(sizes))
    check(
        grid.ndim == 1 and grid.size > 0 and grid.dtype.kind in "iu" and bool(np.all(grid >= 1)),
        f"sizes must be whole numbers >= 1, got {sizes!r}.",
        DomainError,
    )
    best_gradient_rate(1, d, noise, prior_var)
    integer(draws, "draws", at_least=2)
    integer(queries, "queries", at_least=1)
    exact = isinstance(learner, SpectralLearner) and other is None
    n, m = int(grid.max()), 0 if exact else queries
    for_inputs, for_tasks, for_noise = jax.random.split(as_key(key), 3)
    x = np.asarray(jax.random.normal(for_inputs, (draws, n + m, d), np.float64))
    errors = np.empty((draws, len(grid)))
    if exact:
        for j, size in enumerate(grid):
            errors[:, j] = _spectral_error(learner, x[:, :size], noise, prior_var)
    else:
        w = prior_var**0.5 * np.asarray(jax.random.normal(for_tasks, (draws, d), np.float64))
        eps = noise**0.5 * np.asarray(jax.random.normal(for_noise, (draws, n), np.float64))
        for i in range(draws):
            asked, truth = x[i, n:], x[i, n:] @ w[i]
            y = x[i, :n] @ w[i] + eps[i]
            for j, size in enumerate(grid):
                context = x[i, :size], y[:size]
                answer = _answer(learner, *context, asked)
                target = truth if other is None else _answer(other, *context, asked)
                errors[i, j] = np.mean((answer - target) ** 2)
    stderr = errors.std(axis=0, ddof=1) / draws**0.5
    return ContextCurve(grid, errors.mean(axis=0), stderr, draws)


def _spectral_error(learner: Any, x: np.ndarray, noise: float, prior_var: float) -> np.ndarray:
    """Error given the inputs ``(draws, n, d)``, averaged over task, noise and query."""
    n, d = x.shape[1:]
    s = np.linalg.svd(x, compute_uv=False) ** 2
    gain = learner.gain(s)
    seen = prior_var * (1 - s * gain) ** 2 + noise * s * gain**2
    return np.asarray(np.sum(seen, axis=1) + prior_var * max(d - n, 0))


def _answer(learner: Learner, x: np.ndarray, y: np.ndarray, asked: np.ndarray) -> np.ndarray:
    value = np.asarray(learner(x, y, asked), np.float64)
    check(
        value.shape == (len(asked),),
        f"the learner must return an array of shape ({len(asked)},), got {value.shape}.",
        ShapeError,
    )
    return value


register_dataclass(ContextCurve, ["sizes", "error", "stderr"], ["draws"])
