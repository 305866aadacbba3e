r"""Deep kernel machines with inducing points: cost linear in the number of data.

The Gram matrices of M inducing inputs are learned, with their inputs; all other points follow by
the prediction formulas of :mod:`gp.dkm_predict`. With the inducing inputs at all training points
the bound is the objective of :class:`gp.DKM`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import scipy.special

from deeplimits import plotting
from deeplimits.errors import DomainError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import as_inputs, as_key, as_targets, check, choice, integer, number
from gp.dkm import as_nu, linear_inputs
from gp.dkm_elbo import Setting
from gp.dkm_kernels import check_variances, gram_kernel
from gp.dkm_objective import PENALTIES, Tower
from gp.dkm_predict import joint, marginal
from gp.dkm_training import fit_collapsed, fit_minibatch
from gp.linalg import nonnegative, rounding_size
from gp.predictive import Gaussian, as_noise, standard_normal, whiten, with_noise
from gp.process import inputs

LIKELIHOODS = ("gaussian", "bernoulli", "softmax")


@dataclass(frozen=True)
class SparseDKM:
    r"""A deep kernel machine with inducing points, not yet fitted.

    Args:
        inducing: their number M (a random subset of the training inputs is the start), or their
            inputs ``(M, d)``. Default 32.
        kernel, layers, nu, noise, penalty, jitter, unregularized: as for :class:`gp.DKM`; the
            kernel of the inputs is :math:`X X^\top / d`. ``noise`` > 0; not used in
            classification.
        likelihood: ``"gaussian"``; ``"bernoulli"``, labels 0 and 1 with :math:`p = \Phi(f)`; or
            ``"softmax"``, labels 0..C-1. Default ``"gaussian"``.
        columns: stochastic kernel regularisation when > 0: in training every Gram matrix is
            replaced by a Wishart draw about it with this many columns (published: M / 4) plus
            ``floor`` times the identity; afterwards by its mean. Needs ``batch``. Default 0.
        floor: > 0, used with ``columns``. Default 0.1.

    Raises:
        DomainError, ShapeError: an argument outside its range.

    Source: sparse objective: arXiv:2108.13097, section 4.5, and arXiv:2309.09814; collapsed form:
        Titsias, AISTATS 2009.
    """

    inducing: Any = 32
    kernel: Any = "rbf"
    layers: int = 2
    nu: Any = 5.0
    noise: Any = 0.05
    likelihood: str = "gaussian"
    penalty: str = "kl"
    jitter: float = 1e-9
    unregularized: bool = False
    columns: int = 0
    floor: float = 0.1

    def __post_init__(self) -> None:
        gram_kernel(self.kernel)
        integer(self.layers, "layers", at_least=1)
        choice(self.penalty, "penalty", PENALTIES)
        choice(self.likelihood, "likelihood", LIKELIHOODS)
        as_nu(self.nu, self.layers, self.unregularized)
        number(self.noise, "noise", above=0)
        number(self.jitter, "jitter", at_least=0, below=1e-2)
        integer(self.columns, "columns", at_least=0)
        number(self.floor, "floor", above=0)
        if np.ndim(self.inducing):
            as_inputs(self.inducing, "inducing")
        else:
            integer(self.inducing, "inducing", at_least=1)

    @float64_scope
    def fit(
        self,
        X: Any,
        y: Any,
        *,
        batch: int | None = None,
        steps: int | None = None,
        learning_rate: float = 1e-2,
        learn: tuple[str, ...] = ("inducing",),
        draws: int = 4,
        tol: float = 1e-5,
        key: Any = 0,
    ) -> FittedSparseDKM:
        r"""Learn Gram matrices, inducing inputs and outputs.

        Without ``batch`` and with Gaussian noise: the collapsed bound, by L-BFGS on all data, cost
        :math:`O(n M^2)` a step. Otherwise: an unbiased estimate of the bound from ``batch`` random
        points, natural-gradient steps for the outputs and Adam, with a cosine decay of its learning
        rate, for the rest.

        Args:
            X: inputs ``(n, d)``.
            y: targets ``(n,)`` or ``(n, C)``; integer labels ``(n,)`` in classification.
            batch: points per step. Default: all, or 100 in classification.
            steps: most steps. Default 1000 (L-BFGS) or 2000 (Adam).
            learning_rate: of Adam, > 0. Default 0.01.
            learn: what is learned beside the Gram matrices, of ``"inducing"`` and ``"noise"``.
            draws: antithetic pairs of samples per point for ``"softmax"``. Default 4.
            tol: L-BFGS stops when no derivative exceeds this, in nats. Default 1e-5.
            key: a ``jax.random.key`` or an integer seed: start and batches. Default 0.

        Raises:
            ShapeError, DomainError: bad data, labels or options; more inducing than
                training points.
            ConvergenceError: the bound became NaN.

        Check: test_dkm_sparse.py::test_all_points_inducing_is_the_full_machine,
            ::test_natural_gradients_reach_the_optimal_q.
        """
        x = np.asarray(inputs(X, "X"), np.float64).reshape(len(X), -1)
        n = len(x)
        targets, classes = as_labels(self.likelihood, y, n)
        unknown = set(learn) - {"inducing", "noise"}
        check(
            not unknown,
            f"learn may hold 'inducing' and 'noise', got {sorted(unknown)}.",
            DomainError,
        )
        check(
            "noise" not in learn or self.likelihood == "gaussian",
            "noise is learned with the Gaussian likelihood only.",
            DomainError,
        )
        check(
            self.columns == 0 or batch is not None or self.likelihood != "gaussian",
            "stochastic kernel regularisation (columns > 0) needs batch.",
            DomainError,
        )
        key = as_key(key)
        z = _start(self.inducing, x, key)
        kernel = gram_kernel(self.kernel)
        check_variances(kernel, np.mean(z**2, axis=1), "the inducing inputs")
        check_variances(kernel, np.mean(x**2, axis=1), "the input Gram matrix")
        setting = Setting(
            kernel, self.penalty, self.layers, self.likelihood,
            integer(draws, "draws", at_least=1), self.columns, float(self.floor),
        )  # fmt: skip
        problem = {
            "x": x, "y": targets, "z": z, "noise": float(self.noise), "relative": self.jitter,
            "nu": as_nu(self.nu, self.layers, self.unregularized), "learn": tuple(learn),
            "steps": None if steps is None else integer(steps, "steps", at_least=1),
        }  # fmt: skip
        if self.likelihood == "gaussian" and batch is None:
            problem["tol"] = float(number(tol, "tol", above=0))
            result = fit_collapsed(setting, problem)
        else:
            size = min(n, 100) if batch is None else integer(batch, "batch", at_least=1)
            check(size <= n, f"batch must be at most n = {n}, got {size}.", DomainError)
            rate = float(number(learning_rate, "learning_rate", above=0))
            result = fit_minibatch(setting, problem, size, rate, key)
        vector = self.likelihood == "gaussian" and np.ndim(y) == 1
        single = vector or self.likelihood == "bernoulli"
        return FittedSparseDKM(model=self, **result, classes=classes, vector=single)


def _start(inducing: Any, x: np.ndarray, key: Any) -> np.ndarray:
    if np.ndim(inducing):
        z = np.asarray(inducing, np.float64).reshape(len(inducing), -1)
        check(
            z.shape[1] == x.shape[1],
            f"inducing must have {x.shape[1]} features like X, got {z.shape[1]}.",
            ShapeError,
        )
        return z
    check(
        inducing <= len(x),
        f"inducing must be at most the number of points {len(x)}, got {inducing}.",
        DomainError,
    )
    rows = jax.random.permutation(key, len(x))[:inducing]
    return x[np.sort(np.asarray(rows))]


def as_labels(likelihood: str, y: Any, n: int) -> tuple[np.ndarray, int]:
    """Targets ``(n, C)``, signs ``(n, 1)`` or one-hot labels; and the number of classes (or 0)."""
    if likelihood == "gaussian":
        return np.asarray(as_targets(y, n), np.float64), 0
    labels = np.asarray(y)
    check(labels.shape == (n,), f"labels must have shape ({n},), got {labels.shape}.", ShapeError)
    check(
        labels.dtype.kind in "iub" and int(labels.min()) >= 0,
        f"labels must be integers >= 0, got dtype {labels.dtype} from {labels.min()}.",
        DomainError,
    )
    labels = labels.astype(int)
    classes = int(labels.max()) + 1
    if likelihood == "bernoulli":
        check(classes <= 2, f"bernoulli labels must be 0 or 1, got {classes - 1}.", DomainError)
        return (2.0 * labels - 1)[:, None], 2
    check(classes >= 2, "softmax needs labels of two classes or more.", DomainError)
    return np.eye(classes)[labels], classes


@dataclass(frozen=True)
class FittedSparseDKM:
    """A sparse deep kernel machine. Made by :meth:`SparseDKM.fit`.

    Attributes:
        model: the settings.
        inducing: learned inputs ``(M, d)``.
        tower: layers of the inducing points.
        top: Cholesky factor of their top kernel matrix.
        posterior_mean, posterior_root: m ``(M, C)`` and R ``(M, M)`` of the whitened outputs.
        noise: variance, learned or given.
        jitter: variances added in the layers and at the top ``(L + 1,)``.
        elbo: the bound, in nats; for Adam the mean of the last tenth of the estimates.
        trajectory: the bound (or its estimates) over the steps.
        classes: number of classes, 0 for regression.
        vector: whether means are ``(m,)``.
    """

    model: SparseDKM
    inducing: np.ndarray
    tower: Tower
    top: np.ndarray
    posterior_mean: np.ndarray
    posterior_root: np.ndarray
    noise: float
    jitter: np.ndarray
    elbo: float
    trajectory: np.ndarray
    classes: int
    vector: bool

    @property
    def grams(self) -> np.ndarray:
        """Gram matrices of the inducing points, ``(L, M, M)``."""
        return self.tower.grams

    @property
    def objective(self) -> float:
        """The same as :attr:`elbo`."""
        return self.elbo

    def _shape(self, values: np.ndarray) -> np.ndarray:
        return values[..., 0] if self.vector else values

    def _inputs(self, Xs: Any) -> np.ndarray:
        x = np.asarray(inputs(Xs, "Xs"), np.float64).reshape(len(Xs), -1)
        check(
            x.shape[1] == self.inducing.shape[1],
            f"Xs must have {self.inducing.shape[1]} features as in training, got {x.shape[1]}.",
            ShapeError,
        )
        return x

    def _moments(self, Xs: Any) -> tuple[np.ndarray, np.ndarray]:
        """Mean ``(m, C)`` and variance ``(m,)`` of f."""
        x = self._inputs(Xs)
        kernel = gram_kernel(self.model.kernel)
        variance = np.mean(x**2, axis=1)
        check_variances(kernel, variance, "the input Gram matrix")
        cross = linear_inputs(x, self.inducing)
        K, k = marginal(kernel, self.tower, self.jitter[:-1], cross, variance)
        V = whiten(self.top, K.T).T
        change = np.sum((V @ self.posterior_root) ** 2, axis=1)
        rest = nonnegative(k - np.sum(V**2, axis=1), rounding_size(k, np.float64))
        return V @ self.posterior_mean, rest + change

    @float64_scope
    def mean(self, Xs: Any) -> np.ndarray:
        """Mean of f at ``Xs (m, d)``: ``(m,)``, or ``(m, C)`` for several outputs.

        Raises:
            ShapeError, DomainError: bad inputs.
        """
        return self._shape(self._moments(Xs)[0])

    @float64_scope
    def var(self, Xs: Any) -> np.ndarray:
        """Variance of f at ``Xs (m, d)``, ``(m,)``.

        Raises:
            ShapeError, DomainError: bad inputs.
        """
        return self._moments(Xs)[1]

    @float64_scope
    def predict(self, Xs: Any, *, noise: Any = False) -> Gaussian:
        """Joint predictive law of f (or, in regression, of y) at ``Xs``.

        Args:
            Xs: inputs ``(m, d)``.
            noise: False for f; True for y; or variances to add, a number or ``(m,)``.

        Raises:
            ShapeError, DomainError: bad inputs, or ``noise=True`` in classification.
        """
        check(
            noise is not True or self.classes == 0,
            "classification has no Gaussian noise; use predict_proba.",
            DomainError,
        )
        x = self._inputs(Xs)
        kernel = gram_kernel(self.model.kernel)
        check_variances(kernel, np.mean(x**2, axis=1), "the input Gram matrix")
        cross, prior = joint(
            kernel, self.tower, self.jitter[:-1], linear_inputs(x, self.inducing), linear_inputs(x)
        )
        V = whiten(self.top, cross.T).T
        VR = V @ self.posterior_root
        cov = with_noise(prior - V @ V.T + VR @ VR.T, noise, as_noise(self.noise))
        rounding = rounding_size(np.diagonal(prior), np.float64)
        return Gaussian(self._shape(V @ self.posterior_mean), cov, rounding)

    @float64_scope
    def predict_proba(self, Xs: Any, *, key: Any = 0, draws: int = 4096) -> np.ndarray:
        r"""Probabilities of the classes at ``Xs (m, d)``, ``(m, classes)``.

        Two classes (probit): :math:`\Phi(\mu / \sqrt{1 + s^2})`, exact. Softmax: average over
        ``draws`` samples of f, with standard errors below ``0.5 / sqrt(draws)``.

        Args:
            Xs: inputs.
            key: a ``jax.random.key`` or an integer seed. Default 0.
            draws: number of samples, >= 1. Default 4096.

        Raises:
            ShapeError, DomainError: bad inputs, or a regression.

        Check: test_dkm_sparse.py::test_probabilities.
        """
        check(
            self.classes > 0,
            'probabilities need likelihood="bernoulli" or "softmax", got a regression.',
            DomainError,
        )
        integer(draws, "draws", at_least=1)
        mean, variance = self._moments(Xs)
        if self.model.likelihood == "bernoulli":
            p = scipy.special.ndtr(mean[:, 0] / np.sqrt(1 + variance))
            return np.stack([1 - p, p], axis=1)
        total = np.zeros_like(mean)
        normal = standard_normal(key, (draws, 1, mean.shape[1]))  # common to all points
        for block in np.array_split(normal, max(1, draws * len(mean) // 2**20 + 1)):
            f = mean[None] + np.sqrt(variance)[None, :, None] * block
            total += scipy.special.softmax(f, axis=2).sum(axis=0)
        return total / draws

    def plot(self, ax: Any = None, **kw: Any) -> Any:
        """The bound over the steps of the optimiser.

        Args:
            ax: axes to draw on; default a new figure.
            **kw: passed to ``plot``.
        """
        ax = plotting.axes(ax)
        ax.plot(self.trajectory, **{"color": plotting.COLORS[0], **kw})
        ax.set(xlabel="step", ylabel="evidence lower bound (nats)")
        return ax


register_dataclass(
    FittedSparseDKM,
    ["inducing", "tower", "top", "posterior_mean", "posterior_root", "noise", "jitter", "elbo",
     "trajectory"],
    ["model", "classes", "vector"],
)  # fmt: skip
