r"""What sampled networks predict: moments with Monte Carlo errors, R-hat, effective samples."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
import scipy.stats

from deeplimits import plotting
from deeplimits.errors import DomainError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.series import effective_sample_size
from deeplimits.statistics import as_samples
from deeplimits.typing import ArrayLike
from deeplimits.validate import as_inputs, check, same_features

_BATCH = 256


@dataclass(frozen=True)
class Predictions:
    """Outputs of the sampled networks at m points, C of them each.

    Attributes:
        X: the points.
        draws: outputs ``(chains, draws, m, C)``; for ``"softmax"`` the logits.
        mean: posterior mean of the outputs ``(m, C)``.
        var: posterior variance of the outputs ``(m, C)``.
        mean_error, var_error: their Monte Carlo standard errors, from effective sample sizes.
        ess: effective number of independent draws behind the mean ``(m, C)``.
        rhat: rank-normalised split R-hat ``(m, C)``, 1 for chains that agree.
        noise: noise variance of y; 0 for ``"softmax"``.
        likelihood: ``"gaussian"`` or ``"softmax"``.
    """

    X: np.ndarray
    draws: np.ndarray
    mean: np.ndarray
    var: np.ndarray
    mean_error: np.ndarray
    var_error: np.ndarray
    ess: np.ndarray
    rhat: np.ndarray
    noise: float
    likelihood: str

    @property
    def probabilities(self) -> np.ndarray:
        """Class probabilities averaged over the posterior ``(m, C)``.

        Raises:
            DomainError: the likelihood is Gaussian.
        """
        check(
            self.likelihood == "softmax",
            "probabilities need likelihood='softmax', this model is 'gaussian'.",
            DomainError,
        )
        return scipy.special.softmax(self.draws, axis=-1).mean(axis=(0, 1))

    def log_prob(self, y: ArrayLike) -> np.ndarray:
        """Log density of targets ``(m,)`` or ``(m, C)`` (of labels, log probability), ``(m,)``.

        .. math:: \\log \\frac1S \\sum_s p(y \\mid f_s)
        """
        flat = self.draws.reshape(-1, *self.draws.shape[2:])
        if self.likelihood == "softmax":
            log_p = np.log(self.probabilities)
            return np.take_along_axis(log_p, np.asarray(y)[:, None], axis=1)[:, 0]
        target = np.asarray(y, np.float64).reshape(flat.shape[1:])
        spread = np.log(2 * np.pi * self.noise)
        terms = -0.5 * np.sum((target - flat) ** 2 / self.noise + spread, axis=-1)
        return scipy.special.logsumexp(terms, axis=0) - np.log(len(flat))

    def plot(self, ax: Any = None, **kw: Any) -> Any:
        """Mean and two standard deviations of the first output, for inputs on a line.

        Args:
            ax: axes to draw on; default a new figure.
            **kw: passed to ``plot`` for the mean.

        Raises:
            DomainError: the inputs have several features.
        """
        check(
            self.X.ndim == 2 and self.X.shape[1] == 1,
            f"the plot needs inputs (m, 1), got shape {self.X.shape}.",
            DomainError,
        )
        ax, order = plotting.axes(ax), np.argsort(self.X[:, 0])
        x, mean = self.X[order, 0], self.mean[order, 0]
        half = 2 * np.sqrt(self.var[order, 0])
        line = ax.plot(x, mean, **{"label": "finite network", **kw})[0]
        ax.fill_between(x, mean - half, mean + half, color=line.get_color(), alpha=0.2, lw=0)
        ax.set(xlabel="x", ylabel="f(x)")
        return ax


register_dataclass(
    Predictions,
    ["X", "draws", "mean", "var", "mean_error", "var_error", "ess", "rhat", "noise"],
    ["likelihood"],
)


def split_rhat(series: ArrayLike) -> Any:
    r"""Rank-normalised split R-hat of parallel chains, the larger of bulk and folded.

    .. math:: \hat R = \sqrt{\frac{(N-1)/N\; W + B}{W}}

    with W the mean variance within half-chains of length N and B the variance of their means, for
    normal scores of the ranks, and of the ranks of the distances to the median.

    Args:
        series: ``(chains, draws, ...)`` with at least 8 draws.

    Returns:
        Shape ``(...)``; NaN for constant series.

    Raises:
        ShapeError, DomainError: too few draws; not real, NaN or infinite.

    Source: Vehtari et al., arXiv:1903.08008, section 4.
    Check: test_bnn.py::test_rhat_against_blackjax.
    """
    x = as_samples(series, "series", 1)
    check(
        x.ndim >= 2 and x.shape[1] >= 8,
        f"series must be (chains, draws, ...) with at least 8 draws, got {x.shape}.",
        ShapeError,
    )
    half = x.shape[1] // 2
    x = np.concatenate([x[:, :half], x[:, x.shape[1] - half :]])
    folded = np.abs(x - np.median(x, axis=(0, 1)))
    return np.maximum(_rhat(_normal_scores(x)), _rhat(_normal_scores(folded)))


def _normal_scores(x: np.ndarray) -> np.ndarray:
    flat = x.reshape(x.shape[0] * x.shape[1], -1)
    ranks = scipy.stats.rankdata(flat, axis=0)
    return scipy.special.ndtri((ranks - 0.375) / (len(flat) + 0.25)).reshape(x.shape)


def _rhat(x: np.ndarray) -> Any:
    n = x.shape[1]
    within = x.var(axis=1, ddof=1).mean(axis=0)
    between = x.mean(axis=1).var(axis=0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt((n - 1) / n + between / within)


def _effective(series: np.ndarray) -> np.ndarray:
    """Effective draws of all chains together, at most as many as there are draws."""
    each = np.asarray(effective_sample_size(np.moveaxis(series, 1, -1)))
    return np.minimum(each.sum(axis=0), series.shape[0] * series.shape[1])


@functools.partial(jax.jit, static_argnames=("batch",))
def _outputs(posterior: Any, thetas: Any, x: Any, *, batch: int) -> Any:
    return jax.lax.map(lambda theta: posterior.outputs(theta, x), thetas, batch_size=batch)


@float64_scope
def predictions(posterior: Any, thetas: np.ndarray, X: ArrayLike) -> Predictions:
    """Outputs at ``X`` of the networks with parameters ``(chains, draws, D)``.

    Raises:
        ShapeError, DomainError: bad inputs, or fewer than 8 draws.
    """
    x = jnp.asarray(as_inputs(X, "X")).astype(jnp.float64)
    same_features(x, posterior.X, ("X", "the training inputs"))
    chains, draws, dim = thetas.shape
    check(draws >= 8, f"diagnostics need at least 8 draws of every chain, got {draws}.", ShapeError)
    flat = jnp.asarray(thetas.reshape(-1, dim))
    outputs = np.asarray(_outputs(posterior, flat, x, batch=min(_BATCH, len(flat))))
    outputs = outputs.reshape(chains, draws, len(x), -1)
    mean = outputs.mean(axis=(0, 1))
    squares = (outputs - mean) ** 2
    ess, ess_squares = _effective(outputs), _effective(squares)
    var = squares.sum(axis=(0, 1)) / (chains * draws - 1)
    gaussian = posterior.model.likelihood == "gaussian"
    return Predictions(
        np.asarray(x), outputs, mean, var, np.sqrt(var / ess),
        np.sqrt(squares.var(axis=(0, 1), ddof=1) / ess_squares), ess, split_rhat(outputs),
        float(posterior.model.noise) if gaussian else 0.0, posterior.model.likelihood,
    )  # fmt: skip
