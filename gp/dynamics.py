r"""The law of wide networks trained by full-batch gradient descent on the squared loss.

In the limit of infinite width the outputs, over random initialisations, are Gaussian at every
moment of training. With the NTK :math:`\Theta = Q \Lambda Q^\top` and the NNGP kernel
:math:`\mathcal K` on the training points, everything follows from one function of the eigenvalues,
the residual filter :math:`\varphi_t(\lambda)`, and its gain :math:`g_t = (1-\varphi_t)/\lambda`:

.. math::

    H_t = \Theta_* Q\, g_t Q^\top, \quad \mathrm{mean}_t = H_t y, \quad
    \mathrm{cov}_t = \mathcal K_{**} + H_t \mathcal K H_t^\top
        - H_t \mathcal K_*^\top - \mathcal K_* H_t^\top
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.linalg

from deeplimits.errors import DomainError, ShapeError, UnstableLearningRateError
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import as_square, as_targets, check, choice, integer, number
from gp.filters import Filter, descent_filter, flow_filter, heavy_ball_filter
from gp.linalg import (
    eigh_psd,
    kernel_diagonal,
    kernel_matrix,
    nngp_and_ntk,
    nonnegative,
    rounding_size,
)
from gp.predictive import Gaussian, with_noise
from gp.process import inputs, size_guard
from gp.stopping import equivalent_ridge, stop


def _normaliser(loss: str, n: int, outputs: int) -> int:
    choice(loss, "loss", ("sum", "mean"))
    return n * outputs if loss == "mean" else 1


def max_learning_rate(
    ntk: Any, *, loss: str = "sum", momentum: float = 0.0, outputs: int = 1, ridge: float = 0.0
) -> float:
    r"""The learning rate at and above which full-batch gradient descent does not converge.

    .. math:: \eta_{\max} = \frac{2 (1 + m)\, c}{\lambda_{\max}(\Theta) + \mathrm{ridge}},
        \qquad c = 1 \text{ ("sum") or } n C \text{ ("mean")}

    Args:
        ntk: NTK of the training points ``(n, n)``.
        loss: "sum" for ``||f - y||^2 / 2``, "mean" for ``||f - y||^2 / (2 n C)``.
        momentum: m in [0, 1). Default 0.
        outputs: number of outputs C, >= 1. Default 1.
        ridge: as in :class:`Ensemble`. Default 0.

    Returns:
        The limit; infinite for a zero matrix.

    Raises:
        ShapeError, DomainError: not a symmetric matrix, unknown loss, numbers out of range.

    Source: Polyak (1964) for the factor 1 + m.
    Check: test_dynamics.py::test_max_learning_rate_separates_convergence.
    """
    matrix = np.asarray(as_square(ntk, "ntk"), np.float64)
    n = len(matrix)
    number(momentum, "momentum", at_least=0, below=1)
    number(ridge, "ridge", at_least=0)
    c = _normaliser(loss, n, integer(outputs, "outputs", at_least=1))
    top = float(scipy.linalg.eigvalsh(matrix, subset_by_index=(n - 1, n - 1))[0]) + ridge
    return 2 * (1 + momentum) * c / top if top > 0 else np.inf


@dataclass(frozen=True)
class Ensemble:
    r"""Infinitely wide networks, to be trained from independent random initialisations.

    .. math:: L(\theta) = \frac{1}{2c} \left( \|f_\theta(X) - y\|^2
        + \mathrm{ridge}\, \|\theta - \theta_0\|^2 \right), \qquad
        v \leftarrow m v - \eta \nabla L, \quad \theta \leftarrow \theta + v

    Args:
        net: a network with methods ``nngp(x1, x2=None)`` and ``ntk(x1, x2=None)``.
        learning_rate: :math:`\eta > 0`. Default 1.
        loss: "sum": c = 1 (default); "mean": c = n C.
        momentum: m in [0, 1), for discrete steps only. Default 0.
        ridge: pull towards the initial parameters, a variance in units of the NTK, >= 0. Default 0.
        max_points: refuse dense algebra on more points than this. Default 20000.

    Raises:
        DomainError: no such methods, unknown loss, or a number out of range.

    Source: J. Lee et al., arXiv:1902.06720, for the flow; steps, momentum, ridge derived here.
    """

    net: Any
    learning_rate: float = 1.0
    loss: str = "sum"
    momentum: float = 0.0
    ridge: float = 0.0
    max_points: int = 20_000

    def __post_init__(self) -> None:
        check(
            callable(getattr(self.net, "nngp", None)) and callable(getattr(self.net, "ntk", None)),
            "net must have the methods nngp(x1, x2=None) and ntk(x1, x2=None), got "
            f"{type(self.net).__name__}. Pass the network, not one of its kernels.",
            DomainError,
        )
        number(self.learning_rate, "learning_rate", above=0)
        choice(self.loss, "loss", ("sum", "mean"))
        number(self.momentum, "momentum", at_least=0, below=1)
        number(self.ridge, "ridge", at_least=0)
        integer(self.max_points, "max_points", at_least=1)

    def train(self, X: Any, y: Any, *, times: Any = None, steps: Any = None) -> TrainedEnsemble:
        r"""The ensemble at given moments of training; one eigen-decomposition for all of them.

        Residual filters, with :math:`a = \eta\lambda/c`: gradient flow :math:`e^{-a t}`; gradient
        descent :math:`(1 - a)^k`; heavy ball in :func:`heavy_ball_filter`. With a ridge s:
        :math:`(s + \lambda\, \varphi(\lambda + s)) / (\lambda + s)`.

        Args:
            X: inputs ``(n, d)`` or ``(n, *spatial, channels)``.
            y: targets ``(n,)`` or ``(n, C)``.
            times: moments of gradient flow, >= 0, ``inf`` allowed. The unit is one step: time t
                corresponds to t steps of rate :math:`\eta` (:math:`\dot\theta = -\eta\nabla L`).
            steps: numbers of gradient-descent steps, whole, >= 0, ``inf`` allowed. Exactly one of
                ``times`` and ``steps`` must be given.

        At infinity, modes with :math:`\lambda \le \max(10, \sqrt n)\, \epsilon\, \lambda_{\max}`
        (:math:`\epsilon` of the dtype of the kernel) count as null and stay untrained; their number
        is ``n_null``.

        Raises:
            ShapeError, DomainError: bad data, times or steps; momentum with ``times``.
            UnstableLearningRateError: ``steps`` with a learning rate that diverges.
            NotPositiveDefiniteError: the NTK is indefinite beyond rounding.

        Check: test_dynamics.py::test_law_of_linear_model_training.
        """
        discrete = steps is not None
        moments = moments_of(times, steps, self.momentum)
        x = inputs(X, "X")
        targets = np.asarray(as_targets(y, x.shape[0]), np.float64)
        size_guard(x.shape[0], self.max_points, "X")
        c = _normaliser(self.loss, *targets.shape)
        nngp, ntk, dtype = nngp_and_ntk(self.net, x)
        values, vectors = eigh_psd(ntk, name="the NTK of X", dtype=dtype)
        rate = float(self.learning_rate) / c
        if discrete:
            self._require_stable(values[-1] + self.ridge, c)
        null = values <= max(10.0, np.sqrt(len(values))) * jnp.finfo(dtype).eps * values[-1]
        filters = [self._filter(values, t, rate, discrete, null) for t in moments]
        residual, gain = (np.stack(part) for part in zip(*filters, strict=True))
        modes = vectors.T @ targets, vectors.T @ nngp @ vectors
        return TrainedEnsemble(
            x, targets, moments, rate, values, vectors, residual, gain, *modes,
            int(null.sum()), self.net, np.ndim(y) == 1,
        )  # fmt: skip

    def _require_stable(self, top: float, c: int) -> None:
        limit = 2 * (1 + self.momentum) * c / top if top > 0 else np.inf
        check(
            self.learning_rate < limit,
            f"learning_rate={self.learning_rate:g} diverges: with loss={self.loss!r} and "
            f"momentum={self.momentum:g} it must be below {limit:.6g}.",
            UnstableLearningRateError,
        )

    def _filter(
        self, values: np.ndarray, t: float, rate: float, discrete: bool, null: np.ndarray
    ) -> Filter:
        shifted = values + self.ridge
        if np.isinf(t):
            free = null & (self.ridge == 0)
            residual, gain = free.astype(float), np.where(free, 0.0, 1 / np.where(free, 1, shifted))
        else:
            a = rate * shifted
            if not discrete:
                residual, gain = flow_filter(a, t)
            elif self.momentum == 0:
                residual, gain = descent_filter(a, t)
            else:
                residual, gain = heavy_ball_filter(a, t, float(self.momentum))
            gain = rate * gain
        if self.ridge > 0:
            residual = (self.ridge + values * residual) / shifted
        return residual, gain


def moments_of(times: Any, steps: Any, momentum: float) -> np.ndarray:
    """The moments of training, in steps, after the checks."""
    name, values = ("times", times) if steps is None else ("steps", steps)
    check(
        (times is None) != (steps is None),
        "give exactly one of times= (gradient flow) and steps= (gradient descent).",
        DomainError,
    )
    check(
        name == "steps" or momentum == 0,
        "momentum is defined for discrete steps: use steps=, or momentum=0 with times=.",
        DomainError,
    )
    moments = np.atleast_1d(np.asarray(values, np.float64))
    check(
        moments.ndim == 1 and moments.size > 0,
        f"{name} must be a number or a non-empty 1-D sequence, got shape {moments.shape}.",
        ShapeError,
    )
    check(
        bool(np.all(moments >= 0)),
        f"{name} must be >= 0 (inf allowed), got {np.min(moments)}.",
        DomainError,
    )
    check(
        name == "times" or bool(np.all(np.isinf(moments) | (moments == np.floor(moments)))),
        "steps must be whole numbers or inf; use times= for gradient flow.",
        DomainError,
    )
    return moments


@dataclass(frozen=True)
class TrainedEnsemble:
    r"""The Gaussian law of the outputs at T moments of training. Made by :meth:`Ensemble.train`.

    Outputs are independent and share one covariance. All results are NumPy float64.

    Attributes:
        X, y: the data; ``y`` always ``(n, C)``.
        times: the moments ``(T,)``, in steps.
        rate: learning rate over loss normaliser, :math:`\eta / c`.
        values, vectors: eigenvalues (ascending) and eigenvectors of the NTK of X.
        residual, gain: :math:`\varphi_t(\lambda)` and :math:`g_t(\lambda)`, ``(T, n)``.
        targets, initial: y and the NNGP matrix in the eigenbasis.
        n_null: number of eigenvalues that are zero to working precision.
        net: the network.
        vector: whether y came as ``(n,)``, so that means have no output axis.
    """

    X: Any
    y: np.ndarray
    times: np.ndarray
    rate: float
    values: np.ndarray
    vectors: np.ndarray
    residual: np.ndarray
    gain: np.ndarray
    targets: np.ndarray
    initial: np.ndarray
    n_null: int
    net: Any
    vector: bool

    def _shape(self, values: np.ndarray) -> np.ndarray:
        return values[..., 0] if self.vector else values

    def _modes(self, xs: Any) -> tuple[np.ndarray, np.ndarray, np.dtype]:
        """NNGP and NTK between ``xs`` and X, in the eigenbasis, ``(m, n)``."""
        nngp, ntk, dtype = nngp_and_ntk(self.net, xs, self.X)
        return nngp @ self.vectors, ntk @ self.vectors, dtype

    def mean(self, Xs: Any) -> np.ndarray:
        """Mean outputs over initialisations: ``(T, m)`` when y was ``(n,)``, else ``(T, m, C)``.

        Args:
            Xs: inputs ``(m, d)``, features as in training.

        Raises:
            ShapeError, DomainError: bad inputs.
        """
        xs = inputs(Xs, "Xs", self.X)
        ntk = kernel_matrix(self.net.ntk, xs, self.X)[0] @ self.vectors
        return self._shape(ntk @ (self.gain[:, :, None] * self.targets))

    def cov(self, Xs: Any) -> np.ndarray:
        """Covariance of the outputs over initialisations ``(T, m, m)``.

        Args:
            Xs: inputs ``(m, d)``, features as in training.

        Raises:
            ShapeError, DomainError: bad inputs.
        """
        xs = inputs(Xs, "Xs", self.X)
        prior, _ = kernel_matrix(self.net.nngp, xs)
        nngp, ntk, _ = self._modes(xs)
        return np.stack([self._cov(prior, nngp, ntk * gain) for gain in self.gain])

    def _cov(self, prior: np.ndarray, nngp: np.ndarray, hat: np.ndarray) -> np.ndarray:
        half = hat @ (0.5 * self.initial @ hat.T - nngp.T)
        return prior + half + half.T

    def var(self, Xs: Any) -> np.ndarray:
        """Variances of the outputs over initialisations ``(T, m)``, without full covariances.

        Args:
            Xs: inputs ``(m, d)``, features as in training.

        Warns:
            PrecisionWarning: a variance was negative beyond rounding (and set to 0).

        Raises:
            ShapeError, DomainError: bad inputs.
        """
        xs = inputs(Xs, "Xs", self.X)
        nngp, ntk, dtype = self._modes(xs)
        prior = kernel_diagonal(self.net.nngp, xs)
        hats = (ntk * gain for gain in self.gain)
        rows = [prior + np.sum(hat * (hat @ self.initial - 2 * nngp), axis=1) for hat in hats]
        return nonnegative(np.stack(rows), rounding_size(prior, dtype))

    def train_mean(self) -> np.ndarray:
        """Mean outputs on the training points: ``(T, n)`` or ``(T, n, C)``."""
        missing = self.vectors @ (self.residual[:, :, None] * self.targets)
        return self._shape(self.y - missing)

    def train_cov(self) -> np.ndarray:
        r"""Covariance on the training points, :math:`F \mathcal K F^\top`, ``(T, n, n)``."""
        sides = (self.vectors * residual for residual in self.residual)
        return np.stack([side @ self.initial @ side.T for side in sides])

    def predict(self, Xs: Any, *, at: int = -1, noise: Any = False) -> Gaussian:
        """The joint predictive law at one of the stored moments.

        Args:
            Xs: inputs ``(m, d)``, features as in training.
            at: position in ``times``. Default: the last.
            noise: variances to add for targets, a number or ``(m,)``. Default: none.

        Raises:
            ShapeError, DomainError: bad inputs, or no such position.
        """
        check(
            -len(self.times) <= at < len(self.times),
            f"at must be a position in the {len(self.times)} stored times, got {at}.",
            DomainError,
        )
        xs = inputs(Xs, "Xs", self.X)
        prior, dtype = kernel_matrix(self.net.nngp, xs)
        nngp, ntk, _ = self._modes(xs)
        hat = ntk * self.gain[at]
        cov = with_noise(self._cov(prior, nngp, hat), noise, 0.0)
        rounding = rounding_size(np.diagonal(prior), dtype)
        return Gaussian(self._shape(hat @ self.targets), cov, rounding)

    stop, equivalent_ridge = stop, equivalent_ridge


register_dataclass(
    TrainedEnsemble,
    ["X", "y", "times", "rate", "values", "vectors", "residual", "gain", "targets", "initial"],
    ["n_null", "net", "vector"],
)
