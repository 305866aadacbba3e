r"""Gaussian processes whose hyper-parameters are averaged over, by quadrature to rounding.

.. math::

    y | \ell, s, v \sim N(0,\; s\, \rho_\ell(X, X) + v I), \qquad
    \ell \sim p_\ell, \quad s \sim p_s, \quad v \sim p_v

One eigen-decomposition of :math:`\rho_\ell` serves all outputscales s and noises v, so that three
dimensions cost little more than one. The trapezoid rule in the logarithms of the parameters
converges faster than any power of the number of nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.special

from deeplimits.errors import DomainError, ShapeError
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import as_targets, check, integer
from gp.linalg import Kernel, eigh_psd, kernel_diagonal, kernel_matrix
from gp.mixture_marginals import MarginalMixture
from gp.predictive import LOG_2PI
from gp.process import inputs, size_guard

_TAIL, _COARSE, _WINDOW = 1e-10, 25, 36.0
_NEGLIGIBLE = 1e-10  # probability of the nodes that are left out of predictions
NAMES = ("lengthscale", "outputscale", "noise")


@dataclass(frozen=True)
class HyperGP:
    """A Gaussian process with laws instead of values for its three hyper-parameters.

    Args:
        correlation: ``correlation(lengthscale)`` returns a kernel ``k(X, Z=None)`` of variance 1,
            such as :class:`gp.RBF`, or ``functools.partial(gp.Matern, 2.5)``.
        lengthscale, outputscale, noise: laws on the positive numbers, frozen distributions of
            ``scipy.stats`` or anything with ``logpdf`` and ``ppf``; ``outputscale`` and ``noise``
            are variances.
        nodes: nodes per parameter, >= 9. Default 33.
        max_points: refuse dense algebra on more points than this. Default 2000.

    Raises:
        DomainError: no such callables, or too few nodes.

    Source: hyper-prior setting of arXiv:2112.10510, section 4; quadrature derived here.
    Check: test_pfn.py::test_hyper_posterior_by_brute_force.
    """

    correlation: Callable[[float], Kernel]
    lengthscale: Any
    outputscale: Any
    noise: Any
    nodes: int = 33
    max_points: int = 2000

    def __post_init__(self) -> None:
        check(callable(self.correlation), "correlation must be a function of ell.", DomainError)
        for name in NAMES:
            law = getattr(self, name)
            check(
                hasattr(law, "logpdf") and hasattr(law, "ppf"),
                f"{name} must be a law with logpdf and ppf, such as scipy.stats.gamma(3, scale=0.2)"
                f"; got {law!r}.",
                DomainError,
            )
        integer(self.nodes, "nodes", at_least=9)

    def condition(self, X: Any, y: Any) -> HyperPosterior:
        """Average over the hyper-parameters given data.

        Args:
            X: inputs ``(n, d)``.
            y: targets ``(n,)``.

        Raises:
            ShapeError, DomainError: bad data, or more than ``max_points`` points.
            NotPositiveDefiniteError: a correlation matrix is indefinite beyond rounding.
        """
        x = inputs(X, "X")
        check(np.ndim(y) == 1, f"y must have shape (n,), got {np.shape(y)}.", ShapeError)
        targets = np.asarray(as_targets(y, x.shape[0]), np.float64)[:, 0]
        size_guard(len(targets), self.max_points, "X")
        laws = [getattr(self, name) for name in NAMES]
        ends = [(float(np.log(law.ppf(_TAIL))), float(np.log(law.isf(_TAIL)))) for law in laws]
        grids = [_Grid.even(*pair, _COARSE) for pair in ends]
        for count in (_COARSE, _COARSE, _COARSE, self.nodes):
            height = self._heights(x, targets, grids)[0]
            grids = [_Grid.around(height, grid, i, count) for i, grid in enumerate(grids)]
        height, bases = self._heights(x, targets, grids)
        evidence = float(scipy.special.logsumexp(height))
        half = float(scipy.special.logsumexp(height[::2, ::2, ::2])) + 3 * np.log(2)
        weights = np.exp(height - evidence)
        rising = np.sort(weights, axis=None)
        floor = rising[np.searchsorted(np.cumsum(rising), _NEGLIGIBLE)]
        keep = np.argwhere(weights >= floor)
        theta = np.exp(np.stack([grid.u[keep[:, i]] for i, grid in enumerate(grids)], axis=1))
        share = weights[tuple(keep.T)]
        return HyperPosterior(
            x, targets, theta, share / share.sum(), evidence, abs(half - evidence),
            [bases[i] for i in keep[:, 0]], self,
        )  # fmt: skip

    def _heights(self, x: Any, y: np.ndarray, grids: list[_Grid]) -> tuple[np.ndarray, list]:
        """Logs of likelihood, prior and cell on the grid, and the eigen-decompositions."""
        scale, noise = np.exp(grids[1].u)[:, None, None], np.exp(grids[2].u)[:, None]
        rows, bases = [], []
        for log_ell in grids[0].u:
            matrix, dtype = kernel_matrix(self.correlation(float(np.exp(log_ell))), x)
            values, vectors = eigh_psd(matrix, name="the correlation matrix", dtype=dtype)
            total = scale * values + noise
            squares = (vectors.T @ y) ** 2
            rows.append(-0.5 * np.sum(np.log(total) + squares / total + LOG_2PI, axis=-1))
            bases.append((values, vectors))
        height = np.stack(rows)
        for axis, (name, grid) in enumerate(zip(NAMES, grids, strict=True)):
            shape = tuple(-1 if i == axis else 1 for i in range(3))
            prior = getattr(self, name).logpdf(np.exp(grid.u)) + grid.u + grid.log_cell
            height = height + prior.reshape(shape)
        return height, bases


@dataclass(frozen=True)
class _Grid:
    """Nodes in the logarithm of a parameter, and logarithms of their cells."""

    u: np.ndarray
    log_cell: np.ndarray

    @classmethod
    def even(cls, low: float, high: float, count: int) -> _Grid:
        u = np.linspace(low, high, count)
        return cls(u, np.full(count, np.log(u[1] - u[0])))

    @classmethod
    def around(cls, height: np.ndarray, old: _Grid, axis: int, count: int) -> _Grid:
        """Nodes ``mode + width sinh(xi)`` with even xi, out to where e^-36 of the mode is left.

        Why not even nodes: a parameter that the data leave free on one side has a tail of the
        prior many times longer than its peak is wide.
        """
        others = tuple(i for i in range(3) if i != axis)
        profile = np.max(height, axis=others) - old.log_cell
        top, best = float(profile.max()), int(np.argmax(profile))
        inside = np.flatnonzero(profile > top - _WINDOW)
        peak = np.flatnonzero(profile > top - 2)
        last = len(old.u) - 1
        low, high = old.u[max(inside[0] - 1, 0)], old.u[min(inside[-1] + 1, last)]
        around = old.u[min(peak[-1] + 1, last)] - old.u[max(peak[0] - 1, 0)]
        width = 0.5 * float(around)
        ends = np.arcsinh((np.array([low, high]) - old.u[best]) / width)
        xi = np.linspace(ends[0], ends[1], count)
        cell = np.log((xi[1] - xi[0]) * width * np.cosh(xi))
        return cls(old.u[best] + width * np.sinh(xi), cell)


@dataclass(frozen=True)
class HyperPosterior:
    """A Gaussian process given data, averaged over its hyper-parameters.

    Attributes:
        X, y: the data.
        theta: nodes ``(J, 3)``: lengthscale, outputscale, noise.
        weights: their posterior probabilities ``(J,)``.
        log_evidence: log marginal likelihood in nats.
        error: its change when every second node is left out, a bound on the error of quadrature.
        bases: eigenvalues and eigenvectors of the correlation matrix, one pair per node (shared).
        model: the model.
    """

    X: Any
    y: np.ndarray
    theta: np.ndarray
    weights: np.ndarray
    log_evidence: float
    error: float
    bases: list
    model: HyperGP

    @property
    def mean_parameters(self) -> np.ndarray:
        """Posterior means of lengthscale, outputscale and noise ``(3,)``."""
        return self.weights @ self.theta

    def predict(self, Xs: Any, *, noise: bool = True) -> MarginalMixture:
        """Exact marginal predictive laws: a mixture of one normal law per node.

        Args:
            Xs: inputs ``(m, d)``.
            noise: True (default) for targets, False for the function.

        Returns:
            :class:`gp.mixture_marginals.MarginalMixture` with ``pointwise``, ``cdf``, ``quantile``,
            ``mean``, ``var``.

        Raises:
            ShapeError, DomainError: bad inputs.

        Check: test_pfn.py::test_hyper_posterior_by_brute_force.
        """
        xs = inputs(Xs, "Xs", self.X)
        m = xs.shape[0]
        loc, var = np.empty((len(self.theta), m)), np.empty((len(self.theta), m))
        for ell in np.unique(self.theta[:, 0]):
            rows = np.flatnonzero(self.theta[:, 0] == ell)
            kernel = self.model.correlation(float(ell))
            values, vectors = self.bases[rows[0]]
            cross = kernel_matrix(kernel, xs, self.X)[0] @ vectors
            own = kernel_diagonal(kernel, xs)
            s, v = self.theta[rows, 1][:, None], self.theta[rows, 2][:, None]
            gain = s / (s * values + v)
            loc[rows] = (gain * (vectors.T @ self.y)) @ cross.T
            var[rows] = s * (own - gain @ (cross**2).T) + (v if noise else 0.0)
        width = np.sqrt(np.maximum(var, 0.0))
        return MarginalMixture(np.log(self.weights), loc[:, :, None], width)


register_dataclass(
    HyperPosterior,
    ["X", "y", "theta", "weights", "log_evidence", "error", "bases"],
    ["model"],
)
