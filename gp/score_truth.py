r"""Laws of clean data whose diffusion scores are known exactly: atoms and Gaussian mixtures.

Noise enters by the Ornstein-Uhlenbeck process, time in units of its relaxation,

.. math::

    X_t = \alpha_t X_0 + \sqrt{h_t}\, \xi, \qquad \alpha_t = e^{-t/2}, \quad h_t = 1 - e^{-t},
    \quad \xi \sim N(0, I)

For :math:`X_0 \sim \sum_k w_k N(m_k, C_k)` every conditional expectation is a finite sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import scipy.special
from jaxtyping import Float

from deeplimits.errors import DomainError, NotPositiveDefiniteError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import as_inputs, as_key, check, finite, integer
from gp.predictive import LOG_2PI

_BLOCK = 4_000_000  # numbers per temporary array: 32 MB


def forward_process(t: Any) -> tuple[Any, Any]:
    r""":math:`\alpha_t = e^{-t/2}` and :math:`h_t = 1 - e^{-t}`, the latter without cancellation.

    Args:
        t: times > 0, a number or ``(m,)``.

    Raises:
        DomainError: a time that is not positive and finite.

    Source: arXiv:2401.15604, section 2, with unit rate.
    Check: test_score_truth.py::test_mean_and_score_by_integration.
    """
    t = np.asarray(t, np.float64)
    finite(t, "t")
    check(bool(np.all(t > 0)), f"t must be > 0, got a minimum of {np.min(t)}.", DomainError)
    return np.exp(-t / 2), -np.expm1(-t)


def noised_points(t: Any, x: Any, d: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Times ``(m,)`` and points ``(m, d)`` as float64; one time may serve all points.

    Raises:
        ShapeError: x is not ``(m, d)``, or t is neither one time nor one per point.
        DomainError: NaN or infinite entries, or times that are not positive.
    """
    x = np.asarray(as_inputs(x, "x"), np.float64)
    check(
        x.ndim == 2 and d in (None, x.shape[1]),
        f"x must have shape (m, {'d' if d is None else d}), got {x.shape}.",
        ShapeError,
    )
    t = np.asarray(t, np.float64)
    check(
        t.ndim == 0 or t.shape == (len(x),),
        f"t must be one time or one per row of x, shape ({len(x)},); got {t.shape}.",
        ShapeError,
    )
    forward_process(t)
    return np.broadcast_to(t, (len(x),)), x


@dataclass(frozen=True)
class DataLaw:
    r"""A mixture of Gaussians (or of points) as the law of clean data :math:`X_0`.

    Made by :func:`atomic_data` and :func:`gaussian_data`. With responsibilities
    :math:`r_k \propto w_k N(x; \alpha m_k, S_k)` and :math:`S_k = \alpha^2 C_k + h I`,

    .. math::

        E[X_0 | X_t = x] = \sum_k r_k \left( m_k + \alpha C_k S_k^{-1} (x - \alpha m_k) \right),
        \qquad \nabla \log p_t(x) = -\sum_k r_k S_k^{-1} (x - \alpha m_k)

    Attributes:
        weights: ``(K,)``, positive, of sum 1.
        means: ``(K, d)``.
        variances: eigenvalues of the covariances ``(K, d)``; None for atoms.
        axes: their eigenvectors ``(K, d, d)``, in columns; None for atoms.
    """

    weights: np.ndarray
    means: np.ndarray
    variances: np.ndarray | None = None
    axes: np.ndarray | None = None

    @property
    def dimension(self) -> int:
        """d."""
        return int(self.means.shape[1])

    @property
    def bounded(self) -> bool:
        """Whether the data lie in a ball: True for atoms."""
        return self.variances is None

    @float64_scope
    def sample(self, key: Any, n: int) -> Float[np.ndarray, "n d"]:
        """``n`` independent clean points.

        Args:
            key: a ``jax.random.key`` or an integer seed.
            n: number of points, >= 1.

        Raises:
            DomainError: not a key, or n < 1.
        """
        first, second = jax.random.split(as_key(key))
        shape = (integer(n, "n", at_least=1),)
        rows = np.asarray(jax.random.choice(first, len(self.weights), shape, p=self.weights))
        points = self.means[rows]
        if self.variances is None or self.axes is None:
            return points
        z = np.asarray(jax.random.normal(second, points.shape, np.float64))
        return points + np.einsum("nij,nj->ni", self.axes[rows], np.sqrt(self.variances[rows]) * z)

    def posterior_mean(self, t: Any, x: Any) -> Float[np.ndarray, "m d"]:
        r""":math:`E[X_0 | X_t = x]`.

        Args:
            t: times > 0, one or ``(m,)``.
            x: noised points ``(m, d)``.

        Raises:
            ShapeError, DomainError: bad times or points.

        Source: B. Efron, J. Am. Stat. Assoc. 106 (2011) 1602 (Tweedie's formula) links it to the
            score: :math:`h \nabla\log p_t + x = \alpha E[X_0 | x]`.

        Check: test_score_truth.py::test_mean_and_score_by_integration.
        """
        return self._blocks(t, x, _mean)

    def posterior_variance(self, t: Any, x: Any) -> Float[np.ndarray, " m"]:
        r"""Total variance :math:`\operatorname{tr} \mathrm{Cov}[X_0 | X_t = x]`: the label noise.

        Args:
            t: times > 0, one or ``(m,)``.
            x: noised points ``(m, d)``.

        Raises:
            ShapeError, DomainError: bad times or points.

        Check: test_score_truth.py::test_mean_and_score_by_integration.
        """
        return self._blocks(t, x, _variance)

    def score(self, t: Any, x: Any) -> Float[np.ndarray, "m d"]:
        r""":math:`\nabla_x \log p_t(x)`.

        Args:
            t: times > 0, one or ``(m,)``.
            x: noised points ``(m, d)``.

        Raises:
            ShapeError, DomainError: bad times or points.

        Check: test_score_truth.py::test_mean_and_score_by_integration.
        """
        return self._blocks(t, x, _score)

    def log_density(self, t: Any, x: Any) -> Float[np.ndarray, " m"]:
        r""":math:`\log p_t(x)`, in nats.

        Args:
            t: times > 0, one or ``(m,)``.
            x: noised points ``(m, d)``.

        Raises:
            ShapeError, DomainError: bad times or points.

        Check: test_score_truth.py::test_mean_and_score_by_integration.
        """
        return self._blocks(t, x, _log_density)

    def _blocks(self, t: Any, x: Any, function: Any) -> np.ndarray:
        """``function`` of the components, on blocks of points that fit in the memory bound."""
        times, points = noised_points(t, x, self.dimension)
        size = max(1, _BLOCK // self.means.size)
        starts = range(0, len(points), size)
        parts = [function(*self._components(times, points, slice(s, s + size))) for s in starts]
        return np.concatenate(parts)

    def _components(self, t: np.ndarray, x: np.ndarray, rows: slice) -> tuple[np.ndarray, ...]:
        """Log weights ``(m, K)``, their means and scores ``(m, K, d)``, total variances."""
        alpha, h = forward_process(t[rows])
        a, h3 = alpha[:, None, None], h[:, None, None]
        away = x[rows][:, None, :] - a * self.means
        if self.variances is None or self.axes is None:
            spread, along = np.broadcast_to(h3, away.shape), away
            means, variance = np.broadcast_to(self.means, away.shape), np.zeros(away.shape[:2])
            score = -away / h3
        else:
            spread = a**2 * self.variances + h3
            along = np.einsum("mkd,kde->mke", away, self.axes)
            pull = a * self.variances * along / spread
            means = self.means + np.einsum("mke,kde->mkd", pull, self.axes)
            score = -np.einsum("mke,kde->mkd", along / spread, self.axes)
            variance = np.sum(h3 * self.variances / spread, axis=-1)
        density = -0.5 * np.sum(along**2 / spread + np.log(spread) + LOG_2PI, axis=-1)
        return density + np.log(self.weights), means, score, variance


def _average(log_weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    share = scipy.special.softmax(log_weights, axis=1)
    return np.einsum("mk,mk...->m...", share, values)


def _mean(log_weights: np.ndarray, means: np.ndarray, *_: np.ndarray) -> np.ndarray:
    return _average(log_weights, means)


def _score(
    log_weights: np.ndarray, _means: np.ndarray, score: np.ndarray, _variance: np.ndarray
) -> np.ndarray:
    return _average(log_weights, score)


def _variance(
    log_weights: np.ndarray, means: np.ndarray, _score: np.ndarray, variance: np.ndarray
) -> np.ndarray:
    apart = means - _average(log_weights, means)[:, None, :]
    return _average(log_weights, variance + np.sum(apart**2, axis=-1))


def _log_density(log_weights: np.ndarray, *_: np.ndarray) -> np.ndarray:
    return np.asarray(scipy.special.logsumexp(log_weights, axis=1))


def _shares(weights: Any, count: int) -> np.ndarray:
    """Weights of sum 1."""
    if weights is None:
        return np.full(count, 1 / count)
    w = np.asarray(weights, np.float64)
    check(w.shape == (count,), f"weights must have shape ({count},), got {w.shape}.", ShapeError)
    finite(w, "weights")
    check(bool(np.all(w > 0)), f"weights must be > 0, got a minimum of {w.min()}.", DomainError)
    return w / w.sum()


def atomic_data(points: Any, weights: Any = None) -> DataLaw:
    r"""The law with probability :math:`w_k` on point k: also that of resampling a data set.

    Args:
        points: ``(K, d)``.
        weights: ``(K,)`` > 0, normalised here. Default: equal.

    Raises:
        ShapeError, DomainError: bad points or weights.

    Source: textbook. Check: test_score_truth.py::test_mean_and_score_by_integration.
    """
    means = _points(points, "points")
    return DataLaw(_shares(weights, len(means)), means)


def gaussian_data(means: Any, covs: Any, weights: Any = None) -> DataLaw:
    r"""A mixture of Gaussians; one row of ``means`` gives a single Gaussian.

    Args:
        means: ``(K, d)``.
        covs: ``(K, d, d)``, symmetric positive semi-definite; or ``(d, d)`` for all.
        weights: ``(K,)`` > 0, normalised here. Default: equal.

    Raises:
        ShapeError, DomainError: bad means, covariances or weights.
        NotPositiveDefiniteError: a covariance with a negative eigenvalue.

    Source: textbook. Check: test_score_truth.py::test_mean_and_score_by_integration.
    """
    centres = _points(means, "means")
    k, d = centres.shape
    matrices = np.asarray(covs, np.float64)
    check(
        matrices.shape in ((d, d), (k, d, d)),
        f"covs must have shape ({k}, {d}, {d}) or ({d}, {d}), got {matrices.shape}.",
        ShapeError,
    )
    finite(matrices, "covs")
    matrices = np.broadcast_to(matrices, (k, d, d))
    gap = np.abs(matrices - np.swapaxes(matrices, 1, 2)).max()
    check(
        bool(gap <= 1e-8 * np.abs(matrices).max()),
        f"covs must be symmetric, but |C - C.T| reaches {gap:.3g}.",
        DomainError,
    )
    values, vectors = np.linalg.eigh(0.5 * (matrices + np.swapaxes(matrices, 1, 2)))
    check(
        bool(values.min() >= -1e-12 * np.abs(values).max()),  # rounding of the eigenvalues
        f"covs must be positive semi-definite, got an eigenvalue of {values.min():.6g}.",
        NotPositiveDefiniteError,
    )
    return DataLaw(_shares(weights, k), centres, np.maximum(values, 0.0), vectors)


def _points(points: Any, name: str) -> np.ndarray:
    array = np.asarray(as_inputs(points, name), np.float64)
    check(array.ndim == 2, f"{name} must have shape (K, d), got {array.shape}.", ShapeError)
    return array


register_dataclass(DataLaw, ["weights", "means", "variances", "axes"], [])
