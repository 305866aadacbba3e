r"""Exact Gaussian-process regression on batches that arrive one after the other.

A new batch appends a block row to the Cholesky factor,

.. math::

    L_{21} = \big(L_{11}^{-1} K_{12}\big)^\top, \qquad
    L_{22} L_{22}^\top = K_{22} + \Sigma_2 - L_{21} L_{21}^\top,

in :math:`O(n^2 B)`. Leading blocks stay as they were, so that the posterior after every earlier
batch is still there, at no cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

from deeplimits.errors import DomainError, ShapeError
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import as_targets, check, integer
from gp.linalg import kernel_matrix
from gp.predictive import as_noise, whiten
from gp.process import GP, FitInfo, Posterior, inputs, size_guard


@dataclass(frozen=True)
class Stream:
    """A Gaussian process and the batches that it has seen; :meth:`update` returns the next one.

    Attributes:
        model: the prior and its noise.
        sizes: number of points in every batch.
    """

    model: GP
    sizes: tuple[int, ...] = ()
    _state: Posterior | None = None

    @property
    def posterior(self) -> Posterior:
        """The posterior given all batches: that of ``model.condition`` on all data at once.

        Raises:
            DomainError: there was no batch yet.
        """
        check(
            self._state is not None,
            "the stream has seen no data. Use stream.update(X, y), or model.prior(X).",
            DomainError,
        )
        assert self._state is not None
        return self._state

    @property
    def log_scores(self) -> np.ndarray:
        """Log predictive density of every batch given all earlier ones ``(T,)``, in nats.

        Joint over the points of a batch, summed over outputs; they add up to the log evidence.
        Scores of single points are ``posterior.prequential().log_score``.

        Raises:
            DomainError: there was no batch yet.
        """
        starts = np.cumsum((0, *self.sizes[:-1]))
        points = self.posterior.prequential().log_score
        return np.add.reduceat(points.reshape(len(points), -1).sum(axis=1), starts)

    def update(self, X: Any, y: Any, *, noise: Any = None) -> Stream:
        """The stream after one more batch.

        Args:
            X: inputs ``(B, d)`` or ``(B, *spatial, channels)``, features as before.
            y: targets ``(B,)`` or ``(B, C)``, with C as before.
            noise: noise variance of this batch, a number or ``(B,)``; None for the model's.

        Raises:
            ShapeError, DomainError: bad data, features or outputs unlike the earlier ones, or more
                than ``max_points`` points in all.
            NotPositiveDefiniteError: the kernel matrix is indefinite beyond rounding.

        Warns:
            JitterWarning: the batch repeats what is known without noise. Everything is then
                factorised anew, with jitter (``posterior.info.jitter``), which later batches keep.

        Check: test_stream.py::test_equals_conditioning_on_everything.
        """
        old = self._state
        x = inputs(X, "X", None if old is None else old.X)
        targets = np.asarray(as_targets(y, x.shape[0]), np.float64)
        vector = np.ndim(y) == 1
        sizes = (*self.sizes, x.shape[0])
        variance = as_noise(self.model.noise if noise is None else noise, x.shape[0])
        size_guard(sum(sizes), self.model.max_points, "the stream")
        if old is None:
            start = GP(self.model.kernel, variance, 0.0, self.model.max_points)
            return Stream(self.model, sizes, start.condition(x, targets[:, 0] if vector else y))
        check(
            targets.shape[1] == old.y.shape[1] and vector == old.vector,
            f"y has {targets.shape[1]} outputs (shape {np.shape(y)}), but earlier batches had "
            f"{old.y.shape[1]}, as {'(n,)' if old.vector else '(n, C)'}.",
            ShapeError,
        )
        total = _joined_noise(old, variance, len(targets))
        state = _appended(old, x, targets, variance, total)
        if state is None:
            y_all = np.concatenate([old.y, targets])
            whole = GP(self.model.kernel, total, 0.0, self.model.max_points)
            state = whole.condition(np.concatenate([old.X, x]), y_all[:, 0] if vector else y_all)
        return Stream(self.model, sizes, state)

    def after(self, t: int) -> Posterior:
        """The posterior as it was after the first ``t`` batches (views, no new factorisation).

        Args:
            t: number of batches, 1 to ``len(sizes)``.

        Raises:
            DomainError: t out of range.
        """
        integer(t, "t", at_least=1)
        check(
            t <= len(self.sizes),
            f"t must be at most the number of batches, {len(self.sizes)}, got {t}.",
            DomainError,
        )
        now, n = self.posterior, sum(self.sizes[:t])
        chol, white = now.chol[:n, :n], now.white[:n]
        weights = scipy.linalg.solve_triangular(chol, white, lower=True, trans=1)
        noise = now.info.noise if np.ndim(now.info.noise) == 0 else now.info.noise[:n]
        info = FitInfo(now.info.jitter, noise, n, now.info.dtype)
        return Posterior(now.X[:n], now.y[:n], chol, white, weights, info, now.kernel, now.vector)

    def scores(self, Xs: Any, ys: Any, *, noise: Any = True) -> np.ndarray:
        """Mean log predictive density per target after every batch ``(T,)``, in nats.

        Args:
            Xs: inputs ``(m, d)``.
            ys: their targets, shaped as those of training.
            noise: variance of the noise in ``ys``: True for the model's, or a number or ``(m,)``.

        Raises:
            ShapeError, DomainError: bad data, or no batch yet.
        """
        xs = inputs(Xs, "Xs", self.posterior.X)
        variance = self.model.noise if noise is True else noise
        laws = [self.after(t).predict(xs, noise=variance) for t in range(1, len(self.sizes) + 1)]
        return np.array([float(np.mean(law.pointwise(ys))) for law in laws])

    def forgetting(self, Xs: Any, ys: Any, *, noise: Any = True) -> float:
        """How far the score of these data has fallen from its best so far, in nats per target.

        0 means that nothing was forgotten. Exact inference can only lose what later data
        contradict: misspecification, not interference.

        Args:
            Xs: inputs ``(m, d)``.
            ys: their targets, shaped as those of training.
            noise: as in :meth:`scores`.

        Raises:
            ShapeError, DomainError: bad data, or no batch yet.

        Source: Chaudhry et al., arXiv:1801.10112, eq. (3), with log scores for accuracies.
        """
        scores = self.scores(Xs, ys, noise=noise)
        return float(np.max(scores) - scores[-1])


def _joined_noise(old: Posterior, noise: Any, count: int) -> Any:
    """Noise of old and new points; one number if it is the same everywhere."""
    if np.ndim(noise) == np.ndim(old.info.noise) == 0 and noise == old.info.noise:
        return noise
    parts = [(old.info.noise, old.info.n), (noise, count)]
    return np.concatenate([np.broadcast_to(v, size) for v, size in parts])


def _appended(old: Posterior, x: Any, y: np.ndarray, noise: Any, total: Any) -> Posterior | None:
    """The posterior with one more block row in its factor; None where that has no real root."""
    corner, dtype = kernel_matrix(old.kernel, x)
    before = whiten(old.chol, kernel_matrix(old.kernel, old.X, x)[0]).T
    corner -= before @ before.T
    corner[np.diag_indices(len(y))] += noise + old.info.jitter
    try:
        root = scipy.linalg.cholesky(corner, lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        return None
    n, size = old.info.n, old.info.n + len(y)
    chol = np.zeros((size, size), order="F")
    chol[:n, :n], chol[n:, :n], chol[n:, n:] = old.chol, before, root
    white = np.concatenate([old.white, whiten(root, y - before @ old.white)])
    weights = scipy.linalg.solve_triangular(chol, white, lower=True, trans=1)
    info = FitInfo(old.info.jitter, total, size, str(dtype))
    x_all, y_all = np.concatenate([old.X, x]), np.concatenate([old.y, y])
    return Posterior(x_all, y_all, chol, white, weights, info, old.kernel, old.vector)


def stream(model: GP) -> Stream:
    """Start learning from batches: ``gp.stream(model).update(X1, y1).update(X2, y2)``.

    Args:
        model: a :class:`gp.GP` with one number as ``noise`` and without ``noise_rel``, which would
            change the noise of old points with every batch.

    Returns:
        A :class:`Stream` that has seen nothing.

    Raises:
        DomainError: not such a model.

    Source: block Cholesky factorisation, Golub and Van Loan (2013), section 4.2.
    Check: test_stream.py::test_equals_conditioning_on_everything.
    """
    check(
        isinstance(model, GP),
        f"model must be a gp.GP, got {type(model).__name__}.",
        DomainError,
    )
    check(
        np.ndim(model.noise) == 0 and model.noise_rel == 0,
        "a stream needs one number as noise and noise_rel=0. Give noise per point to update(..., "
        "noise=...).",
        DomainError,
    )
    return Stream(model)


register_dataclass(Stream, ["model", "_state"], ["sizes"])
