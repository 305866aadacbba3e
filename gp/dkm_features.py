r"""Kernel machines of neural networks: the rate function of a wide layer of nonlinear features.

With features :math:`\varphi(f)`, :math:`f \sim N(0, K)` over P points, the Gram matrix
:math:`G = \frac1N \sum_j \varphi(f_j) \varphi(f_j)^\top` of N independent features obeys a large
deviation principle with rate (Cramer)

.. math::

    I(G | K) = \sup_\Lambda \tfrac12 \operatorname{tr}(\Lambda G)
        - \log E_{N(0, K)} e^{\varphi(f)^\top \Lambda \varphi(f) / 2}

which takes the place of the Gaussian divergence of :mod:`gp.dkm`; for linear features it is that
divergence. The posterior of the features is the tilted law
:math:`Q \propto N(f; 0, K) e^{\varphi^\top \Lambda \varphi / 2}`, which is not Gaussian.

Positively homogeneous activations (ReLU, leaky ReLU, absolute value, linear) are done here for one
and two points: radial integrals are then exact, and angles are integrated by quadrature.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize

from deeplimits.errors import ConvergenceError, DomainError, NotPositiveDefiniteError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.special import legendre_rule
from deeplimits.validate import as_square, check, number
from ntk.activations import dual
from ntk.arccosine import ABRelu
from ntk.closed_forms import Linear

#: Panels per smooth arc, and nodes per panel.
_PANELS, _NODES = 24, 20


@dataclass(frozen=True)
class FeatureRate:
    """The rate function of the Gram matrix of nonlinear features at one matrix.

    Attributes:
        rate: I(G | K), in nats per feature, >= 0.
        tilt: the maximising Lambda ``(P, P)``: twice the derivative of the rate.
        residual: largest ``|E_Q phi phi' - G|`` at the end.
    """

    rate: float
    tilt: np.ndarray
    residual: float


register_dataclass(FeatureRate, ["rate", "tilt", "residual"], [])


def _slopes(activation: Any) -> tuple[float, float]:
    """``(a, b)`` of ``a min(x, 0) + b max(x, 0)``."""
    rule = dual(activation)
    if isinstance(rule, Linear):
        return 1.0, 1.0
    if isinstance(rule, ABRelu):
        return float(rule.a), float(rule.b)
    raise DomainError(
        "feature rates are available for positively homogeneous activations ('relu', "
        f"'leaky_relu', 'abs', 'linear'), got {activation!r}: others have no exact radial integral."
    )


def _directions(K: np.ndarray, slopes: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    r"""Features ``(n, P)`` and weights ``(n,)`` of unit directions z of ``f = C z``.

    For one point the two directions; for two points angles, in Gauss-Legendre panels that end where
    a component of f changes sign.
    """
    C = np.linalg.cholesky(K)
    a, b = slopes
    if len(K) == 1:
        z, weights = np.array([[1.0], [-1.0]]), np.array([0.5, 0.5])
    else:
        kinks = [np.arctan2(-C[i, 0], C[i, 1]) % np.pi for i in range(2)]
        edges = np.sort([k + s for k in kinks for s in (0.0, np.pi)])
        edges = np.append(edges, edges[0] + 2 * np.pi)
        cuts = [np.linspace(*ends, _PANELS + 1) for ends in itertools.pairwise(edges)]
        starts = np.concatenate([c[:-1] for c in cuts])[:, None]
        widths = np.concatenate([np.diff(c) for c in cuts])[:, None]
        x, w = legendre_rule(_NODES)
        theta = (starts + widths * x).ravel()
        z = np.stack([np.cos(theta), np.sin(theta)], axis=1)
        weights = (widths * w).ravel() / (2 * np.pi)
    f = z @ C.T
    return np.where(f > 0, b * f, a * f), weights


def _log_moment(
    tilt: np.ndarray, features: np.ndarray, weights: np.ndarray
) -> tuple[float, np.ndarray]:
    r"""``log E exp(phi' Lambda phi / 2)`` and ``E_Q phi phi'``.

    On the ray ``f = r C z`` the exponent is quadratic in r: with
    :math:`s = 1 - \varphi^\top \Lambda \varphi` the radial integral is :math:`s^{-P/2}`, and
    :math:`E_Q r^2 = P s^{-1}`. Infinite when s <= 0 somewhere.
    """
    p = features.shape[1]
    s = 1 - np.einsum("ni,ij,nj->n", features, tilt, features)
    if np.min(s) <= 0:
        return np.inf, np.full((p, p), np.nan)
    mass = weights * s ** (-p / 2)
    total = float(np.sum(mass))
    moment = np.einsum("n,ni,nj->ij", mass * p / s / total, features, features)
    return float(np.log(total)), moment


@float64_scope
def feature_rate(G: Any, K: Any, activation: Any = "relu") -> FeatureRate:
    r"""Rate at which the Gram matrix of wide nonlinear features deviates from its mean.

    .. math:: P(G_N \approx G) \approx e^{-N I(G|K)}, \qquad
        I(G|K) = \sup_\Lambda \tfrac12 \operatorname{tr} \Lambda G
        - \log E_{N(0,K)} e^{\varphi^\top \Lambda \varphi/2}

    Args:
        G: Gram matrix of the features, a number > 0 or positive definite ``(P, P)``, P = 1 or 2.
        K: covariance of the preactivations, likewise.
        activation: ``"relu"``, ``"leaky_relu"``, ``"abs"`` or ``"linear"`` (a name or
            :func:`ntk.dual`). Default ``"relu"``.

    Raises:
        ShapeError: shapes differ.
        DomainError: P > 2, or an activation that is not positively homogeneous.
        NotPositiveDefiniteError: G or K is not positive definite.
        ConvergenceError: no tilt produces G: it is no limit of Gram matrices of such features.

    Source: Cramer's theorem; the appendix of arXiv:2108.13097 for networks; radial form derived
        here. Check: test_dkm_features.py::test_one_relu, ::test_two_points.
    """
    target, covariance = _matrix(G, "G"), _matrix(K, "K")
    check(
        target.shape == covariance.shape,
        f"G and K must have one shape, got {target.shape} and {covariance.shape}.",
        ShapeError,
    )
    p = len(target)
    check(
        p <= 2,
        f"feature rates are computed by quadrature for one or two points, got {p}: the tilted law "
        "has no closed form beyond. Use gp.DKM with a kernel for Gaussian features.",
        DomainError,
    )
    features, weights = _directions(covariance, _slopes(activation))
    rows = np.triu_indices(p)
    twice = np.where(rows[0] == rows[1], 1.0, 2.0)

    def unpack(vector: np.ndarray) -> np.ndarray:
        tilt = np.zeros((p, p))
        tilt[rows] = vector
        return tilt + np.triu(tilt, 1).T

    def loss(vector: np.ndarray) -> tuple[float, np.ndarray]:
        tilt = unpack(vector)
        value, moment = _log_moment(tilt, features, weights)
        gap = 0.5 * twice * (moment - target)[rows]
        return value - 0.5 * float(np.sum(tilt * target)), gap

    tilt = unpack(_newton(loss, len(twice)))
    value, moment = _log_moment(tilt, features, weights)
    residual = float(np.max(np.abs(moment - target)))
    check(
        residual < 1e-7 * float(np.max(np.abs(target))),
        "no tilt of the preactivations gives these features this Gram matrix (off by "
        f"{residual:.3g}): it lies outside the convex hull of their outer products.",
        ConvergenceError,
    )
    rate = 0.5 * float(np.sum(tilt * target)) - value
    return FeatureRate(max(rate, 0.0), tilt, residual)


def _matrix(value: Any, name: str) -> np.ndarray:
    """A positive definite float64 matrix; a number becomes ``(1, 1)``."""
    if np.ndim(value) == 0:
        return np.array([[float(number(value, name, above=0))]])
    matrix = np.asarray(as_square(value, name), np.float64)
    low = float(np.linalg.eigvalsh(matrix)[0])
    check(
        low > 0,
        f"{name} must be positive definite, its smallest eigenvalue is {low:.3g}.",
        NotPositiveDefiniteError,
    )
    return matrix


def _newton(loss: Any, size: int) -> np.ndarray:
    """Minimum of a convex function with an infinite wall.

    Newton steps with a Hessian by differences, halved until the loss falls.
    """
    x = np.zeros(size)
    value, grad = loss(x)
    for _ in range(200):
        if float(np.max(np.abs(grad))) < 1e-13:
            break
        h = 1e-6 * (1 + np.abs(x))
        columns = [
            (loss(x + h * e)[1] - loss(x - h * e)[1]) / (2 * h[i])
            for i, e in enumerate(np.eye(size))
        ]
        hessian = np.array(columns)
        if not np.isfinite(hessian).all():
            break
        step = -np.linalg.lstsq(0.5 * (hessian + hessian.T), grad, rcond=1e-14)[0]
        for _ in range(60):
            trial, slope = loss(x + step)
            if trial <= value + 1e-4 * float(grad @ step):
                break
            step = 0.5 * step
        else:
            break
        x, value, grad = x + step, trial, slope
    return x


@dataclass(frozen=True)
class FeatureMachine:
    """One layer of nonlinear features and a Gaussian likelihood, at its optimum.

    Attributes:
        gram: the learned Gram matrix of the features ``(P, P)``.
        objective: log likelihood minus ``nu`` times the rate, in nats.
        rate: I(G | K), in nats.
    """

    gram: np.ndarray
    objective: float
    rate: float


register_dataclass(FeatureMachine, ["gram", "objective", "rate"], [])


@float64_scope
def feature_machine(
    K: Any, y: Any, *, nu: float, noise: float, weight: float = 2.0, activation: Any = "relu"
) -> FeatureMachine:
    r"""The learned Gram matrix of one wide layer of a Bayesian neural network, one or two points.

    .. math:: \max_G \log N(y; 0, w G + \sigma^2 I) - \nu I(G | K)

    Args:
        K: covariance of the preactivations, a number > 0 or ``(P, P)``, P = 1 or 2.
        y: targets ``(P,)``.
        nu: features of the layer per copy of the data, > 0.
        noise: variance > 0.
        weight: variance w of the read-out times the number of features, > 0. Default 2.
        activation: as for :func:`feature_rate`.

    Raises:
        ShapeError, DomainError, NotPositiveDefiniteError: as for :func:`feature_rate`, or bad y.

    Source: appendix of arXiv:2108.13097; derived here.
    Check: test_dkm_features.py::test_finite_networks_approach_the_machine.
    """
    number(nu, "nu", above=0)
    number(noise, "noise", above=0)
    number(weight, "weight", above=0)
    covariance = _matrix(K, "K")
    p = len(covariance)
    targets = np.atleast_1d(np.asarray(y, np.float64))
    check(targets.shape == (p,), f"y must have shape ({p},), got {targets.shape}.", ShapeError)
    check(p <= 2, f"networks are solved for one or two points, got {p}.", DomainError)
    features, weights = _directions(covariance, _slopes(activation))
    rows = np.triu_indices(p)

    # G = E_Q phi phi' is traced out by the tilt, so that the search is over Lambda and every trial
    # is feasible
    def loss(vector: np.ndarray) -> float:
        tilt = np.zeros((p, p))
        tilt[rows] = vector
        tilt = tilt + np.triu(tilt, 1).T
        value, gram = _log_moment(tilt, features, weights)
        if not np.isfinite(value):
            return 1e6
        rate = 0.5 * float(np.sum(tilt * gram)) - value
        total = weight * gram + noise * np.eye(p)
        fit = targets @ np.linalg.solve(total, targets) + np.linalg.slogdet(total)[1]
        return 0.5 * float(fit + p * np.log(2 * np.pi)) + nu * rate

    found = scipy.optimize.minimize(
        loss, np.zeros(len(rows[0])), method="Nelder-Mead",
        options={"xatol": 1e-11, "fatol": 1e-14, "maxiter": 4000},
    )  # fmt: skip
    tilt = np.zeros((p, p))
    tilt[rows] = found.x
    tilt = tilt + np.triu(tilt, 1).T
    value, gram = _log_moment(tilt, features, weights)
    return FeatureMachine(gram, -float(found.fun), 0.5 * float(np.sum(tilt * gram)) - value)
