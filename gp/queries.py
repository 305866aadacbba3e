"""Questions that every conditioned model answers in the same way, written once.

Records bind these functions as methods: ``sample = joint_sample``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deeplimits.errors import DomainError
from deeplimits.validate import check
from gp.predictive import as_noise


def noise_at(noise: Any, own: Any, m: int) -> Any:
    """Variances to add at m new points: none (False), those of training (True), or ``noise``.

    Args:
        noise: False, True, a number, or ``(m,)``.
        own: noise of training, a number or one per training point.
        m: number of new points.

    Raises:
        ShapeError, DomainError: bad variances, or True after one noise variance per point.
    """
    check(
        noise is not True or np.ndim(own) == 0,
        "training used one noise variance per point, so that the noise at Xs is unknown. Pass "
        "noise=(number or array of shape (m,)).",
        DomainError,
    )
    if isinstance(noise, bool | np.bool_):
        noise = own if noise else 0.0
    return as_noise(noise, m)


def joint_sample(self: Any, key: Any, Xs: Any, n: int = 1, *, noise: Any = False) -> np.ndarray:
    """Joint draws of f (or y) at ``Xs``: ``(n, m)``, or ``(n, m, C)`` when y was ``(n, C)``.

    Args:
        key: a ``jax.random.key`` or an integer seed.
        Xs: inputs ``(m, d)``, features as in training.
        n: number of draws, >= 1. Default 1.
        noise: as in :meth:`predict`.

    Raises:
        ShapeError, DomainError: bad inputs, key or n.

    Check: test_process.py::test_samples_have_posterior_moments.
    """
    return self.predict(Xs, noise=noise).sample(key, n)


def joint_cov(self: Any, Xs: Any) -> np.ndarray:
    """Posterior covariance of f ``(m, m)``; ``(C, m, m)`` where it depends on the output.

    Args:
        Xs: inputs ``(m, d)``, features as in training.

    Raises:
        ShapeError, DomainError: bad inputs.
        MomentUndefinedError: a random scale has no mean given the data.
    """
    return self.predict(Xs).cov


def marginal_quantile(self: Any, Xs: Any, probability: float, *, noise: Any = False) -> np.ndarray:
    """Marginal quantiles of f (or y), in the shape of ``mean``.

    Args:
        Xs: inputs ``(m, d)``, features as in training.
        probability: in (0, 1).
        noise: as in :meth:`predict`.

    Raises:
        ShapeError, DomainError: bad inputs or probability.

    Check: test_mixtures.py::test_quantiles_invert_the_distribution.
    """
    return self.marginals(Xs, noise=noise).quantile(probability)


# --- laws over points, whose entries alone are self.marginals


def pointwise(self: Any, y: Any) -> np.ndarray:
    """Log-density of every entry of ``y`` alone, in nats, in the shape of the mean.

    Args:
        y: values in the shape of the mean.

    Raises:
        ShapeError, DomainError: y has the wrong shape or is not finite.
    """
    return self.marginals.pointwise(y)


def cdf(self: Any, y: Any) -> np.ndarray:
    """Distribution functions of every entry alone at ``y``, in the shape of the mean.

    Args:
        y: values in the shape of the mean.

    Raises:
        ShapeError, DomainError: y has the wrong shape or is not finite.
    """
    return self.marginals.cdf(y)


def quantile(self: Any, probability: float) -> np.ndarray:
    """Quantiles of every entry alone, in the shape of the mean.

    Args:
        probability: in (0, 1).

    Raises:
        DomainError: probability outside (0, 1).
    """
    return self.marginals.quantile(probability)


def interval(self: Any, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Central credible intervals of every entry, ``(lower, upper)`` in the shape of the mean.

    Args:
        level: probability inside, in (0, 1).

    Raises:
        DomainError: level outside (0, 1).
    """
    return self.marginals.interval(level)


def std(self: Any) -> np.ndarray:
    """Standard deviations, in the shape of ``var``.

    Raises:
        MomentUndefinedError: the variance does not exist.
    """
    return np.sqrt(self.var)
