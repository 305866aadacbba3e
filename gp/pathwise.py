r"""Posterior samples as functions: draw once, evaluate anywhere, any number of times.

Sampling ``f`` at given points is one thing; handing a sampled function to an optimiser or a plot,
which ask for more and more points, is another: answers must stay consistent with earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import scipy.linalg

from deeplimits.errors import DomainError, ShapeError
from deeplimits.validate import as_key, check, finite, integer
from gp.linalg import kernel_matrix
from gp.predictive import standard_normal, whiten
from gp.process import Posterior, inputs

#: Directions with less than this share of the prior variance are left out of exact draws.
NEGLIGIBLE = 1e-12


class FunctionDraws:
    r"""Draws from a posterior, each a function; exact, whatever the kernel.

    .. math::

        f_s(x) = \mu(x) + \sum_i b_i(x)\, w_{si}, \qquad w_{si} \sim N(0, 1),
        \qquad \sum_i b_i(x) b_i(x') = S(x, x')

    The functions :math:`b_i` are found as points are asked for: what the earlier ones leave
    unexplained of the covariance at new points is diagonalised and gives new ones. Values at all
    points asked for, in any number of calls, so have exactly the joint law of the posterior, and
    a point asked for again has the value that it had. (Which of the possible functions is drawn
    depends on the points asked for and on their order, as it must when they are drawn lazily.)

    Directions with less than 1e-12 of the prior variance are left out (float32 kernels: 1e-6).
    The cost of a call at m points, with r functions so far, is that of the posterior covariance
    plus :math:`O(m (m + r)^2)`; r stays below the number of distinct points, and far below for
    smooth kernels.

    Made by :func:`pathwise`.

    Attributes:
        exact: True.
        n: number of draws.
        rank: number of functions :math:`b_i` in use.
    """

    exact = True

    def __init__(self, posterior: Posterior, n: int, key: Any) -> None:
        self.posterior, self.n = posterior, n
        self._key = key
        self._blocks: list[tuple[Any, np.ndarray, np.ndarray, np.ndarray]] = []
        self._weights = np.zeros((n, 0, posterior.y.shape[1]))

    @property
    def rank(self) -> int:
        """Number of independent normal variables drawn so far, per function."""
        return self._weights.shape[1]

    def __call__(self, Xs: Any) -> np.ndarray:
        """Values ``(n, m)``, or ``(n, m, C)`` when y was ``(n, C)``.

        Args:
            Xs: inputs ``(m, d)``, features as in training.

        Raises:
            ShapeError, DomainError: bad inputs.
        """
        basis = self.basis(Xs)
        mean = self.posterior.mean(Xs).reshape(len(basis), -1)
        values = mean + np.einsum("mr,src->smc", basis, self._weights)
        return values[..., 0] if self.posterior.vector else values

    def basis(self, Xs: Any) -> np.ndarray:
        """The functions at points: ``(m, rank)``, with ``basis @ basis.T`` their covariance.

        Args:
            Xs: inputs ``(m, d)``, features as in training.

        Raises:
            ShapeError, DomainError: bad inputs.
        """
        xs = inputs(Xs, "Xs", self.posterior.X)
        cross, _ = kernel_matrix(self.posterior.kernel, xs, self.posterior.X)
        half = whiten(self.posterior.chol, cross.T)
        known = self._known(xs, half)
        prior, dtype = kernel_matrix(self.posterior.kernel, xs)
        left = prior - half.T @ half - known @ known.T
        values, vectors = scipy.linalg.eigh(0.5 * (left + left.T), driver="evd")
        share = NEGLIGIBLE if dtype == np.float64 else 1e6 * NEGLIGIBLE
        keep = values > share * float(np.max(np.diagonal(prior)))
        if not keep.any():
            return known
        roots = np.sqrt(values[keep])
        # cov(f(x), w_new) = (S(x, xs) - known(x) known') vectors / roots
        self._blocks.append((xs, half, known, vectors[:, keep] / roots))
        shape = (self.n, int(keep.sum()), self._weights.shape[2])
        fresh = standard_normal(jax.random.fold_in(self._key, len(self._blocks)), shape)
        self._weights = np.concatenate([self._weights, fresh], axis=1)
        return np.concatenate([known, vectors[:, keep] * roots], axis=1)

    def _known(self, xs: Any, half: np.ndarray) -> np.ndarray:
        """The functions found so far, at new points."""
        found = np.zeros((xs.shape[0], 0))
        for points, points_half, points_known, turn in self._blocks:
            cov = kernel_matrix(self.posterior.kernel, xs, points)[0] - half.T @ points_half
            found = np.concatenate([found, (cov - found @ points_known.T) @ turn], axis=1)
        return found


class FeatureDraws:
    r"""Draws by Matheron's rule, with random features in place of prior draws; approximate.

    .. math::

        f_s(x) = \phi(x) w_s + k(x, X) K_n^{-1} \big(y - \phi(X) w_s - \varepsilon_s\big)

    The mean is exact. The covariance is exact if :math:`\phi(x) \cdot \phi(x') = k(x, x')`; with D
    random features it is wrong by :math:`O(D^{-1/2})`, also near the data. A value costs
    :math:`O(D + n)`, however many points were asked for before, and needs no state.

    Made by :func:`pathwise`.

    Attributes:
        exact: False.
        n: number of draws.
        rank: number of features D.
    """

    exact = False

    def __init__(self, posterior: Posterior, n: int, key: Any, features: Any) -> None:
        self.posterior, self.n, self._features = posterior, n, features
        train = self._map(posterior.X)
        self.rank = train.shape[1]
        outputs = posterior.y.shape[1]
        key_w, key_e = jax.random.split(key)
        self._weights = standard_normal(key_w, (self.rank, n * outputs))
        noise = np.broadcast_to(posterior.info.noise + posterior.info.jitter, posterior.info.n)
        normal = standard_normal(key_e, (posterior.info.n, n * outputs))
        prior = train @ self._weights + np.sqrt(noise)[:, None] * normal
        gap = np.tile(posterior.y, (1, n)) - prior
        self._update = scipy.linalg.cho_solve((posterior.chol, True), gap)

    def _map(self, x: Any) -> np.ndarray:
        value = self._features(x)
        check(
            getattr(value, "ndim", 0) == 2 and value.shape[0] == x.shape[0],
            f"features must map (m, d) to (m, D), got {getattr(value, 'shape', type(value))} for "
            f"{x.shape[0]} points.",
            ShapeError,
        )
        finite(value, "the features")
        return np.asarray(value, np.float64)

    def __call__(self, Xs: Any) -> np.ndarray:
        """Values ``(n, m)``, or ``(n, m, C)`` when y was ``(n, C)``.

        Args:
            Xs: inputs ``(m, d)``, features as in training.

        Raises:
            ShapeError, DomainError: bad inputs, or features of the wrong shape.
        """
        xs = inputs(Xs, "Xs", self.posterior.X)
        cross, _ = kernel_matrix(self.posterior.kernel, xs, self.posterior.X)
        values = self._map(xs) @ self._weights + cross @ self._update
        values = np.moveaxis(values.reshape(xs.shape[0], self.n, -1), 1, 0)
        return values[..., 0] if self.posterior.vector else values


def pathwise(
    posterior: Posterior,
    n: int = 1,
    *,
    key: Any,
    features: Callable[[Any], Any] | None = None,
) -> FunctionDraws | FeatureDraws:
    """Draw functions from a posterior; they can be evaluated anywhere, consistently.

    Args:
        posterior: from :meth:`gp.GP.condition`.
        n: number of functions, >= 1. Default 1.
        key: a ``jax.random.key`` or an integer seed.
        features: None (default) for exact draws, which remember the points that they were asked
            for. Or a map ``(m, d) -> (m, D)`` with ``features(x) @ features(z).T`` close to the
            kernel (``ntk.random_features``), for approximate draws whose cost does not grow.

    Returns:
        :class:`FunctionDraws` or :class:`FeatureDraws`: callables, with an attribute ``exact``.

    Raises:
        ShapeError, DomainError: no posterior, bad n or key, or features of the wrong shape.

    Source: Wilson et al., arXiv:2002.09309, eq. (12) for the second; the first derived here.
    Check: test_pathwise.py::test_joint_covariance_across_calls, ::test_matheron.
    """
    check(
        isinstance(posterior, Posterior),
        f"posterior must come from gp.GP(...).condition(X, y), got {type(posterior).__name__}.",
        DomainError,
    )
    integer(n, "n", at_least=1)
    key = as_key(key)
    if features is None:
        return FunctionDraws(posterior, n, key)
    check(
        callable(features),
        f"features must be a callable (m, d) -> (m, D), got {type(features).__name__}.",
        DomainError,
    )
    return FeatureDraws(posterior, n, key, features)
