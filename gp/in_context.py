r"""What learning algorithm is in-context learning? Exact references for linear tasks.

A task is a vector w, a context is n examples of it, and a learner answers a query:

.. math::

    w \sim N(0, \tau^2 I_d), \quad x_i, x_q \sim N(0, I_d), \quad
    y_i = w \cdot x_i + \varepsilon_i, \quad \varepsilon_i \sim N(0, \sigma^2)

Ridge regression, gradient descent and least squares are spectral: with the singular value
decomposition of X they predict :math:`x_q^\top g(X^\top X) X^\top y`, so that their error given X
is a sum over the eigenvalues s of :math:`X^\top X`,

.. math:: E[(\hat y - w \cdot x_q)^2 | X] = \sum_s \tau^2 (1 - s g(s))^2 + \sigma^2 s g(s)^2
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from deeplimits.errors import ShapeError
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import as_inputs, check, finite, integer, number, same_features
from gp.filters import descent_filter

#: ``f(X, y, Xq) -> (m,)``: context ``(n, d)``, ``(n,)`` and queries ``(m, d)``.
Learner = Callable[[Any, Any, Any], Any]


@dataclass(frozen=True)
class SpectralLearner:
    """A linear learner that acts on the eigenvalues of ``X'X``; call it as ``f(X, y, Xq)``.

    Attributes:
        name: for legends.
        gain: the function g of the eigenvalues, elementwise.
    """

    name: str
    gain: Callable[[np.ndarray], np.ndarray]

    def weights(self, X: Any, y: Any) -> Float[np.ndarray, " d"]:
        r"""The coefficients :math:`\hat w = g(X^\top X) X^\top y` after a context.

        Args:
            X: inputs ``(n, d)``.
            y: targets ``(n,)``.

        Raises:
            ShapeError, DomainError: bad context.
        """
        x, targets = _context(X, y)
        u, s, vt = np.linalg.svd(x, full_matrices=False)
        return np.asarray(vt.T @ (self.gain(s**2) * s * (u.T @ targets)))

    def __call__(self, X: Any, y: Any, Xq: Any) -> Float[np.ndarray, " m"]:
        """Predictions at the queries ``(m, d)``."""
        w = self.weights(X, y)
        queries = np.asarray(as_inputs(Xq, "Xq"), np.float64)
        same_features(queries, w[None], ("Xq", "X"))
        return queries @ w


def _context(X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    x = np.asarray(as_inputs(X, "X"), np.float64)
    targets = np.asarray(y, np.float64)
    check(
        x.ndim == 2 and targets.shape == (len(x),),
        f"X and y must have shapes (n, d) and (n,), got {x.shape} and {targets.shape}.",
        ShapeError,
    )
    finite(targets, "y")
    return x, targets


def ridge_learner(penalty: float) -> SpectralLearner:
    r"""Ridge regression: minimises :math:`|y - Xw|^2 + \mathrm{penalty}\, |w|^2`.

    Args:
        penalty: >= 0; 0 gives the solution of least norm.

    Raises:
        DomainError: a negative penalty.

    Source: arXiv:2211.15661, section 3.
    Check: test_in_context.py::test_learners_by_their_definitions.
    """
    number(penalty, "penalty", at_least=0)
    if penalty == 0:
        return SpectralLearner("least squares", _inverse_or_zero)
    return SpectralLearner(f"ridge {penalty:g}", lambda s: 1 / (s + penalty))


def _inverse_or_zero(s: np.ndarray) -> np.ndarray:
    null = s <= 1e-24 * np.max(s, initial=0.0, axis=-1, keepdims=True)  # squares of rounding
    return np.where(null, 0.0, 1 / np.where(null, 1.0, s))


def bayes_learner(noise: float, prior_var: float = 1.0) -> SpectralLearner:
    r"""The posterior mean: ridge regression with penalty :math:`\sigma^2 / \tau^2`.

    No learner has a smaller expected squared error.

    Args:
        noise: variance :math:`\sigma^2 \ge 0` of the targets.
        prior_var: variance :math:`\tau^2 > 0` of every coefficient. Default 1.

    Raises:
        DomainError: variances out of range.

    Source: arXiv:2211.15661, section 4.
    Check: test_in_context.py::test_bayes_is_the_posterior_mean.
    """
    number(noise, "noise", at_least=0)
    number(prior_var, "prior_var", above=0)
    return SpectralLearner("Bayes", ridge_learner(noise / prior_var).gain)


def gradient_learner(rate: float, steps: int = 1) -> SpectralLearner:
    r"""Gradient descent from w = 0 on :math:`\tfrac12 |y - Xw|^2`.

    Args:
        rate: learning rate > 0.
        steps: number of steps, >= 1. Default 1.

    Raises:
        DomainError: arguments out of range.

    Source: arXiv:2211.15661, section 3; arXiv:2212.07677, section 3.
    Check: test_in_context.py::test_learners_by_their_definitions.
    """
    number(rate, "rate", above=0)
    integer(steps, "steps", at_least=1)
    name = f"{steps} gradient step" + "s" * (steps > 1)
    return SpectralLearner(name, lambda s: rate * descent_filter(rate * s, steps)[1])


def neighbour_learner(k: int, *, weighted: bool = False) -> Learner:
    """The mean target of the k nearest examples of the context (all of them if there are fewer).

    Args:
        k: number of neighbours, >= 1.
        weighted: weights proportional to the inverse distance. Default False.

    Raises:
        DomainError: k < 1.

    Source: arXiv:2211.15661, section 4 (a baseline).
    Check: test_in_context.py::test_learners_by_their_definitions.
    """
    integer(k, "k", at_least=1)

    def predict(X: Any, y: Any, Xq: Any) -> np.ndarray:
        x, targets = _context(X, y)
        queries = np.asarray(as_inputs(Xq, "Xq"), np.float64)
        same_features(queries, x, ("Xq", "X"))
        away = np.linalg.norm(queries[:, None] - x, axis=-1)
        near = np.argsort(away, axis=1, kind="stable")[:, :k]
        if not weighted:
            return np.asarray(np.mean(targets[near], axis=1))
        tiny = np.finfo(np.float64).tiny
        share = 1 / np.maximum(np.take_along_axis(away, near, 1), tiny**0.5)
        return np.asarray(np.sum(share * targets[near], axis=1) / np.sum(share, axis=1))

    return predict


# --- one layer of linear attention ----------------------------------------------------------------


@dataclass(frozen=True)
class LinearAttention:
    r"""One head of attention without softmax, with a residual connection.

    .. math:: e_j \leftarrow e_j + P V \sum_i e_i\, (K e_i) \cdot (Q e_j)

    Attributes:
        key, query, value, projection: matrices ``(d + 1, d + 1)`` on tokens ``(x, y)``.
    """

    key: np.ndarray
    query: np.ndarray
    value: np.ndarray
    projection: np.ndarray

    def __call__(self, tokens: Any) -> Float[np.ndarray, "tokens width"]:
        """New tokens from tokens, both ``(n, d + 1)``.

        Raises:
            ShapeError, DomainError: bad tokens.
        """
        e = np.asarray(as_inputs(tokens, "tokens"), np.float64)
        width = len(self.key)
        check(
            e.ndim == 2 and e.shape[1] == width,
            f"tokens must have shape (n, {width}), got {e.shape}.",
            ShapeError,
        )
        scores = (e @ self.query.T) @ (e @ self.key.T).T
        return np.asarray(e + scores @ e @ self.value.T @ self.projection.T)


def gradient_step_attention(d: int, rate: float) -> LinearAttention:
    r"""Attention weights that make one layer equal to one gradient step on the context.

    Keys and queries read x, values read y, and a query token :math:`(x_q, 0)` receives
    :math:`\eta \sum_i y_i\, x_i \cdot x_q`: the prediction of :func:`gradient_learner`.

    Args:
        d: dimension of the inputs, >= 1.
        rate: learning rate > 0. The rate of :func:`gp.best_gradient_rate` gives the smallest error
            that one such layer can have on these tasks.

    Raises:
        DomainError: arguments out of range.

    Source: arXiv:2212.07677, proposition 1, started from zero.
    Check: test_in_context.py::test_attention_is_a_gradient_step.
    """
    integer(d, "d", at_least=1)
    number(rate, "rate", above=0)
    reads_x = np.diag([1.0] * d + [0.0])
    reads_y = np.diag([0.0] * d + [1.0])
    return LinearAttention(reads_x, reads_x, reads_y, float(rate) * np.eye(d + 1))


def attention_learner(layer: LinearAttention) -> Learner:
    """Queries answered by a layer: tokens ``(x_i, y_i)`` and ``(x_q, 0)`` in, the last entry out.

    Every query is answered on its own, with the context.

    Args:
        layer: a :class:`LinearAttention`, or any function of tokens ``(n, d + 1)``.

    Source: arXiv:2212.07677, section 3.
    Check: test_in_context.py::test_attention_is_a_gradient_step.
    """

    def predict(X: Any, y: Any, Xq: Any) -> np.ndarray:
        x, targets = _context(X, y)
        queries = np.asarray(as_inputs(Xq, "Xq"), np.float64)
        same_features(queries, x, ("Xq", "X"))
        context = np.column_stack([x, targets])
        answers = [layer(np.vstack([context, np.append(q, 0.0)]))[-1, -1] for q in queries]
        return np.array(answers)

    return predict


register_dataclass(SpectralLearner, [], ["name", "gain"])
register_dataclass(LinearAttention, ["key", "query", "value", "projection"], [])
