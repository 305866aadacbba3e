r"""What is known after fitting a deep kernel machine: learned Gram matrices and predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

from deeplimits import plotting
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import Array
from gp.dkm_finite import sample_finite_grams
from gp.dkm_fit import Runs
from gp.dkm_kernels import check_variances, gram_kernel
from gp.dkm_linear import current_residual
from gp.dkm_objective import Tower, evaluate
from gp.dkm_predict import joint, marginal
from gp.linalg import factorize, kernel_diagonal, nonnegative, rounding_size
from gp.predictive import Gaussian, PointPredictions, whiten, with_noise
from gp.process import inputs


@dataclass(frozen=True)
class DKMInfo:
    """What the fit of a deep kernel machine used and found.

    Attributes:
        jitter: variances added to the kernel matrices of layers 1..L and of the targets
            ``(L + 1,)``; at predictions too.
        log_likelihood: first term of the objective, in nats.
        penalties: ``KL_l`` (or its substitute) before the factor ``nu_l``, ``(L,)``, in nats.
        nu: of each layer ``(L,)``.
        noise_slope: derivative of the log likelihood with respect to the noise variance.
    """

    jitter: np.ndarray
    log_likelihood: float
    penalties: np.ndarray
    nu: np.ndarray
    noise_slope: float


@dataclass(frozen=True)
class FittedDKM:
    r"""A deep kernel machine with learned Gram matrices. Made by :meth:`DKM.fit`.

    Given its Gram matrices it is an ordinary Gaussian process, whose kernel is carried to new
    points through the layers. All results are NumPy float64.

    Attributes:
        model: the settings.
        X, y: the data; ``y`` always ``(n, C)``.
        G0: Gram matrix of the inputs ``(n, n)``.
        tower: learned matrices in whitened coordinates.
        top: ``K(G_L)``, ``(n, n)``.
        chol: lower Cholesky factor of ``K(G_L) + noise I``.
        white: ``chol^{-1} y``; ``weights``: ``(K(G_L) + noise I)^{-1} y``.
        info: jitter, terms of the objective.
        runs: what the optimiser did, best run first; None for :meth:`DKM.nngp`.
        vector: whether y came as ``(n,)``, so that means are ``(m,)``.
    """

    model: Any
    X: Any
    y: np.ndarray
    G0: np.ndarray
    tower: Tower
    top: np.ndarray
    chol: np.ndarray
    white: np.ndarray
    weights: np.ndarray
    info: DKMInfo
    runs: Runs | None
    vector: bool

    @property
    def grams(self) -> np.ndarray:
        """Learned Gram matrices ``G_1 .. G_L``, ``(L, n, n)``."""
        return self.tower.grams

    @property
    def objective(self) -> float:
        """Log likelihood minus penalties, in nats."""
        return self.info.log_likelihood - float(np.sum(self.info.nu * self.info.penalties))

    @property
    def converged(self) -> bool:
        """Whether the best run reached its tolerance."""
        return self.runs is not None and bool(self.runs.converged[0])

    @property
    def gradient(self) -> dict[str, Any]:
        r"""Derivatives of the optimal objective with respect to ``noise`` and ``nu``.

        .. math:: \frac{d\mathcal L^*}{d\sigma^2} = \frac{\partial \log p}{\partial \sigma^2},
            \qquad \frac{d\mathcal L^*}{d\nu_l} = -KL_l

        The optimum moves too, but to first order that costs nothing (envelope theorem).

        Check: test_dkm.py::test_envelope_gradient.
        """
        return {"noise": self.info.noise_slope, "nu": -self.info.penalties}

    def _shape(self, values: np.ndarray) -> np.ndarray:
        return values[..., 0] if self.vector else values

    def _marginal(self, Xs: Any) -> tuple[np.ndarray, np.ndarray]:
        xs = inputs(Xs, "Xs", self.X)
        cross = self.model.input_gram(xs, self.X)
        if self.model.input_kernel is None:
            variance = np.mean(np.asarray(xs, np.float64).reshape(len(xs), -1) ** 2, axis=1)
        else:
            variance = kernel_diagonal(self.model.input_kernel, xs)
        kernel = gram_kernel(self.model.kernel)
        check_variances(kernel, variance, "the input Gram matrix")
        return marginal(kernel, self.tower, self.info.jitter[:-1], cross, variance)

    @float64_scope
    def mean(self, Xs: Any) -> np.ndarray:
        """Mean of f at ``Xs (m, d)``: ``(m,)`` when y was ``(n,)``, else ``(m, C)``.

        Raises:
            ShapeError, DomainError: bad inputs.
        """
        return self._shape(self._marginal(Xs)[0] @ self.weights)

    @float64_scope
    def var(self, Xs: Any) -> np.ndarray:
        """Variance of f at ``Xs (m, d)``, ``(m,)``, in blocks of bounded size.

        Raises:
            ShapeError, DomainError: bad inputs.

        Warns:
            PrecisionWarning: a variance was negative beyond rounding (and set to 0).
        """
        cross, prior = self._marginal(Xs)
        reduction = np.sum(whiten(self.chol, cross.T) ** 2, axis=0)
        return nonnegative(prior - reduction, rounding_size(prior, np.float64))

    @float64_scope
    def predict(self, Xs: Any, *, noise: Any = False) -> Gaussian:
        """Joint predictive law of f (or of y) at ``Xs``.

        Args:
            Xs: inputs ``(m, d)``, features as in training.
            noise: False for f; True for y with the noise of training; or variances to add, a
                number or ``(m,)``.

        Raises:
            ShapeError, DomainError: bad inputs.

        Check: test_dkm.py::test_prediction_is_joint_optimisation.
        """
        xs = inputs(Xs, "Xs", self.X)
        gram = self.model.input_gram(xs)
        kernel = gram_kernel(self.model.kernel)
        check_variances(kernel, np.diagonal(gram), "the input Gram matrix")
        cross, prior = joint(
            kernel, self.tower, self.info.jitter[:-1], self.model.input_gram(xs, self.X), gram
        )
        half = whiten(self.chol, cross.T)
        cov = with_noise(prior - half.T @ half, noise, self.model.noise)
        rounding = rounding_size(np.diagonal(prior), np.float64)
        return Gaussian(self._shape(cross @ self.weights), cov, rounding)

    def cov(self, Xs: Any) -> np.ndarray:
        """Covariance of f at ``Xs (m, d)``: ``(m, m)``, shared by the outputs.

        Raises:
            ShapeError, DomainError: bad inputs.
        """
        return self.predict(Xs).cov

    def sample(self, key: Any, Xs: Any, n: int = 1, *, noise: Any = False) -> np.ndarray:
        """Joint draws of f (or y): ``(n, m)``, or ``(n, m, C)`` when y was ``(n, C)``.

        Args:
            key: a ``jax.random.key`` or an integer seed.
            Xs, noise: as for :meth:`predict`.
            n: number of draws, >= 1. Default 1.

        Raises:
            ShapeError, DomainError: bad inputs, key or n.
        """
        return self.predict(Xs, noise=noise).sample(key, n)

    def loo(self) -> PointPredictions:
        """Each target predicted from the others, the Gram matrices held as they are.

        They were learned from all targets, so that this flatters small ``nu``;
        :func:`gp.choose_nu` learns them anew without each target.

        Source: Rasmussen and Williams (2006), eq. (5.12).
        Check: test_dkm.py::test_loo_with_fixed_grams.
        """
        variance = 1 / np.sum(whiten(self.chol, np.eye(len(self.chol))) ** 2, axis=0)
        residual = variance[:, None] * self.weights
        return PointPredictions(self._shape(self.y - residual), variance, self._shape(residual))

    def current_residual(self) -> float:
        r"""How far a linear machine is from its conservation law, relative; 0 at the optimum.

        .. math:: S = \nu_l (G_l G_{l-1}^{-1} - I) \text{ for all } l, \qquad
            S = G_L (\Sigma^{-1} Y Y^\top \Sigma^{-1} - C \Sigma^{-1}), \quad
            \Sigma = G_L + \sigma^2 I

        Returns:
            Largest deviation between the L + 1 values of S over their largest norm (Frobenius).

        Raises:
            DomainError: the kernel is not linear, or the penalty not the KL divergence.

        Source: derived here. Check: test_dkm.py::test_current_is_conserved.
        """
        return current_residual(self)

    def sample_finite(self, key: Any, width: Any, **options: Any) -> Any:
        """Posterior Gram matrices of finite networks; see :func:`gp.sample_finite_grams`.

        Args:
            key: a ``jax.random.key`` or an integer seed.
            width: N > 0: layer l has ``nu_l N`` features, the likelihood counts N times.
            **options: of :func:`gp.sample_finite_grams`.
        """
        return sample_finite_grams(self, key, width, **options)

    def plot(self, ax: Any = None, *, layer: int = -1, **kw: Any) -> Any:
        """One learned Gram matrix as an image.

        Args:
            ax: axes to draw on; default a new figure.
            layer: position in :attr:`grams`. Default the last.
            **kw: passed to :func:`deeplimits.plotting.plot_gram`.
        """
        ax = plotting.plot_gram(self.grams[layer], ax=ax, **kw)
        ax.set_title(f"learned Gram matrix {layer % len(self.grams) + 1} of {len(self.grams)}")
        return ax


def assemble(
    model: Any, X: Any, vector: bool, data: dict[str, Any], point: Array, runs: Runs | None
) -> FittedDKM:
    """The record at one point in whitened coordinates."""
    kernel = gram_kernel(model.kernel)
    likelihood, tower, K, slope = evaluate(kernel, model.penalty, False, point, data)
    tower = Tower(*(np.asarray(part) for part in tower))
    K = np.asarray(K)
    extra = float(data["noise"] + data["jitter"][-1])
    chol = factorize(K, extra, name="the covariance of the targets").chol
    white = whiten(chol, data["y"])
    weights = scipy.linalg.solve_triangular(chol, white, lower=True, trans=1)
    info = DKMInfo(
        np.asarray(data["jitter"]), float(likelihood), tower.penalties, data["nu"], float(slope)
    )
    return FittedDKM(
        model, X, data["y"], data["G0"], tower, K, chol, white, weights, info, runs, vector
    )


register_dataclass(DKMInfo, ["jitter", "log_likelihood", "penalties", "nu", "noise_slope"], [])
register_dataclass(
    FittedDKM,
    ["model", "X", "y", "G0", "tower", "top", "chol", "white", "weights", "info", "runs"],
    ["vector"],
)
