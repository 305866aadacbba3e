r"""Wide networks trained by gradient flow or descent on the cross-entropy.

The network stays linear in its parameters, but the loss is not quadratic: there is no Gaussian law,
and outputs are averaged over draws of the initial functions. All follows from the coefficients

.. math:: \dot A = -\frac{\eta}{c} \big(\mathrm{softmax}(f_0(X) + \Theta A) - Y\big), \qquad
    f_t(x) = f_0(x) + \Theta(x, X)\, A_t

so that training costs the same however many test points are asked for later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import scipy.integrate
import scipy.special

from deeplimits.errors import ConvergenceError, DomainError, UnstableLearningRateError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import as_key, check, integer, number
from gp.classify import class_index
from gp.dynamics import Ensemble, moments_of
from gp.linalg import eigh_psd, kernel_matrix, nngp_and_ntk, psd_root, rounding_size
from gp.predictive import standard_normal
from gp.process import inputs, size_guard

#: Modes of the NNGP matrix below this fraction of the largest are no part of the initial function.
_RANK = 1e-14


@dataclass(frozen=True)
class CrossEntropyEnsemble:
    r"""Infinitely wide classifiers, to be trained from random initialisations.

    .. math:: L = -\frac1c \sum_{i} \log \mathrm{softmax}(f(x_i))_{t_i}, \qquad
        c = 1 \text{ ("sum") or } n \text{ ("mean")}

    Args:
        net: a network with methods ``nngp`` and ``ntk``; one output per class.
        learning_rate: :math:`\eta > 0`. Default 1.
        loss: "mean" (default) or "sum", over points.
        max_points: refuse dense algebra on more points than this. Default 5000.

    Raises:
        DomainError: no such methods, unknown loss, or a number out of range.

    Source: J. Lee et al., arXiv:1902.06720, section 2.3.
    """

    net: Any
    learning_rate: float = 1.0
    loss: str = "mean"
    max_points: int = 5_000

    def __post_init__(self) -> None:
        Ensemble(self.net, self.learning_rate, self.loss, max_points=self.max_points)

    @float64_scope
    def train(
        self,
        X: Any,
        labels: Any,
        *,
        key: Any,
        times: Any = None,
        steps: Any = None,
        draws: int = 20,
        classes: Any = None,
        rtol: float = 1e-8,
    ) -> TrainedClassifiers:
        """Train ``draws`` networks and keep them at given moments.

        Args:
            X: inputs ``(n, d)`` or ``(n, *spatial, channels)``.
            labels: one class per point ``(n,)``.
            key: a ``jax.random.key`` or an integer seed, for the initial functions.
            times: finite moments of gradient flow, >= 0, increasing, in steps; or
            steps: finite numbers of gradient-descent steps, whole, increasing.
            draws: number of networks, >= 1. Default 20.
            classes: all classes, if some may have no labels.
            rtol: relative tolerance of the integration (flow only). Default 1e-8.

        Raises:
            ShapeError, DomainError: bad data or options, or an infinite moment: the cross-entropy
                of separable data has no minimum, and logits grow for ever.
            UnstableLearningRateError: ``steps`` with a rate above twice the inverse of the largest
                possible curvature, half the largest eigenvalue of the NTK over c.
            ConvergenceError: the integration failed.

        Check: test_cross_entropy.py::test_flow_against_parameters.
        """
        moments = moments_of(times, steps, 0.0)
        check(
            bool(np.isfinite(moments).all() and np.all(np.diff(moments) > 0)),
            "times and steps must be finite and increasing for the cross-entropy.",
            DomainError,
        )
        integer(draws, "draws", at_least=1)
        number(rtol, "rtol", above=0, below=1)
        x = inputs(X, "X")
        n = x.shape[0]
        size_guard(n, self.max_points, "X")
        known, index = class_index(labels, n, classes)
        nngp, ntk, dtype = nngp_and_ntk(self.net, x)
        top = float(eigh_psd(ntk, name="the NTK of X", dtype=dtype)[0][-1])
        values, vectors = eigh_psd(nngp, name="the NNGP kernel of X", dtype=dtype)
        kept = values > _RANK * values[-1]
        root = vectors[:, kept] * np.sqrt(values[kept])
        basis = vectors[:, kept] / np.sqrt(values[kept])
        z = standard_normal(as_key(key), (draws, root.shape[1], len(known)))
        rate = float(self.learning_rate) / (n if self.loss == "mean" else 1)
        onehot = np.eye(len(known))[index]
        slope = _Slope(ntk, root @ z, onehot, rate)
        if steps is None:
            weights = _flow(slope, moments, float(rtol))
        else:
            limit = 4.0 / top * self.learning_rate / rate if top > 0 else np.inf
            check(
                self.learning_rate < limit,
                f"learning_rate={self.learning_rate:g} may diverge: with loss={self.loss!r} it "
                f"must be below {limit:.6g}.",
                UnstableLearningRateError,
            )
            weights = _descent(slope, moments)
        return TrainedClassifiers(x, known, moments, weights, z, basis, slope.start, ntk, self.net)


@dataclass(frozen=True)
class _Slope:
    """The right-hand side: minus rate times (probability minus label), ``(draws, n, C)``."""

    ntk: np.ndarray
    start: np.ndarray
    onehot: np.ndarray
    rate: float

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        logits = self.start + self.ntk @ weights
        return self.rate * (self.onehot - scipy.special.softmax(logits, axis=-1))


def _flow(slope: _Slope, times: np.ndarray, rtol: float) -> np.ndarray:
    """Coefficients at the times ``(T, draws, n, C)``, by an explicit Runge-Kutta pair of order 8.

    Explicit, because stability asks for steps of the size that gradient descent takes, and an
    implicit step would solve a system of all points and classes.
    """
    shape = slope.start.shape
    if times[-1] == 0:
        return np.zeros((1, *shape))
    found = scipy.integrate.solve_ivp(
        lambda _, a: slope(a.reshape(shape)).ravel(),
        (0.0, float(times[-1])),
        np.zeros(slope.start.size),
        method="DOP853",
        t_eval=times,
        rtol=rtol,
        atol=rtol * slope.rate,
    )
    check(found.success, f"the integration failed: {found.message}", ConvergenceError)
    return found.y.T.reshape(len(times), *shape)


def _descent(slope: _Slope, steps: np.ndarray) -> np.ndarray:
    """Coefficients after the given numbers of steps ``(T, draws, n, C)``."""
    weights, done, kept = np.zeros_like(slope.start), 0, []
    for goal in steps.astype(int):
        for _ in range(goal - done):
            weights = weights + slope(weights)
        done = goal
        kept.append(weights)
    return np.stack(kept)


@dataclass(frozen=True)
class TrainedClassifiers:
    """Networks at T moments of training; made by :meth:`CrossEntropyEnsemble.train`.

    Attributes:
        X: training inputs.
        classes: the classes, sorted.
        times: the moments ``(T,)``, in steps.
        weights: coefficients :math:`A_t` ``(T, draws, n, C)``.
        z: whitened initial functions ``(draws, r, C)``.
        basis: maps them to new inputs, ``(n, r)``.
        start: initial logits at X ``(draws, n, C)``.
        ntk: NTK of X.
        net: the network.
    """

    X: Any
    classes: np.ndarray
    times: np.ndarray
    weights: np.ndarray
    z: np.ndarray
    basis: np.ndarray
    start: np.ndarray
    ntk: np.ndarray
    net: Any

    def train_logits(self) -> np.ndarray:
        """Logits at the training points ``(T, draws, n, C)``."""
        return self.start + self.ntk @ self.weights

    def logits(self, Xs: Any, *, key: Any = 0) -> np.ndarray:
        """Logits of every network at ``Xs`` ``(T, draws, m, C)``.

        Args:
            Xs: inputs ``(m, d)``, features as in training.
            key: for the initial functions at ``Xs`` given those at X: one key, one function each.

        Raises:
            ShapeError, DomainError: bad inputs or key.

        Check: test_cross_entropy.py::test_initial_functions_at_new_points.
        """
        xs = inputs(Xs, "Xs", self.X)
        cross, dtype = kernel_matrix(self.net.nngp, xs, self.X)
        known = cross @ self.basis
        prior = kernel_matrix(self.net.nngp, xs)[0]
        rounding = rounding_size(np.diagonal(prior), dtype)
        root = psd_root(prior - known @ known.T, rounding * len(prior))
        normal = standard_normal(
            jax.random.fold_in(as_key(key), 1), (len(self.z), len(prior), len(self.classes))
        )
        ntk = kernel_matrix(self.net.ntk, xs, self.X)[0]
        return known @ self.z + root @ normal + ntk @ self.weights

    def predict_proba(self, Xs: Any, *, key: Any = 0) -> np.ndarray:
        """Probabilities averaged over the networks ``(T, m, C)``.

        Args:
            Xs: inputs ``(m, d)``, features as in training.
            key: as in :meth:`logits`.

        Raises:
            ShapeError, DomainError: bad inputs or key.
        """
        return scipy.special.softmax(self.logits(Xs, key=key), axis=-1).mean(axis=1)


register_dataclass(
    TrainedClassifiers,
    ["X", "times", "weights", "z", "basis", "start", "ntk", "classes"],
    ["net"],
)
