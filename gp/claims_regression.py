r"""Claims on kernel regression: measured learning curves held against the spectral theory."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import numpy as np

import ntk
from deeplimits.claims import Claim, register
from deeplimits.datasets import load, to_sphere
from gp.regression_curves import predicted_curve, subset_regression_curve
from gp.site_curves import site_curve

#: Points of the finite population, and the ridge.
POINTS, RIDGE = 150, 0.2


@cache
def _population_curve(n: int) -> np.ndarray:
    """Test and training error for eigenvalues i^-1.5 and coefficients i^-0.9."""
    K, y = _population(np.eye(POINTS))
    curve = predicted_curve(K, y, n, RIDGE)
    return np.array([curve.test, curve.train])


def _population(basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    i = np.arange(1.0, POINTS + 1)
    return POINTS * (basis * i**-1.5) @ basis.T, POINTS**0.5 * basis @ i**-0.9


def _population_errors(key: Any, n: int) -> np.ndarray:
    """Errors of two random subsets of each of 40 populations with random eigenvectors."""
    keys = jax.random.split(key, 40)
    errors = []
    for k in keys:
        basis = np.asarray(jax.random.orthogonal(k, POINTS))
        found = subset_regression_curve(*_population(basis), n, key=k, ridge=RIDGE, draws=2)
        errors.append([found.test[0], found.train[0]])
    return np.array(errors)


register(
    Claim(
        name="gp/finite-population-curve",
        source="derived here; free compression: Nica and Speicher (2006), lecture 14",
        statement="Trained on n of N points drawn without replacement, kernel regression has at "
        "the other points the error of the learning curve for a finite population.",
        theory=_population_curve,
        experiment=_population_errors,
        sizes=(15, 60, 120),
        z=4.0,
        z_at="all",
        quantity="mean squared test and training error",
    )
)


#: Handwritten digits of the claim on real data, and the ridge.
DIGITS, DIGITS_RIDGE = 400, 1.0


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Tangent kernel of two hidden ReLU layers and centred one-hot labels."""
    data = load("digits")
    gram = ntk.mlp(2, "relu", W_std=2**0.5).ntk(to_sphere(data.X[:DIGITS]))
    return np.asarray(gram), np.eye(10)[data.y[:DIGITS]] - 0.1


@cache
def _digits_curve(n: int) -> np.ndarray:
    """Test and training error from the Gram matrix of all points."""
    curve = site_curve(*_digits(), n, DIGITS_RIDGE)
    return np.array([curve.test[0], curve.train[0]])


def _digits_errors(key: Any, n: int) -> np.ndarray:
    """Errors of 40 independent pairs of random training sets."""
    errors = []
    for k in jax.random.split(key, 40):
        found = subset_regression_curve(*_digits(), n, key=k, ridge=DIGITS_RIDGE, draws=2)
        errors.append([found.test[0], found.train[0]])
    return np.array(errors)


register(
    Claim(
        name="gp/site-curve-digits",
        source="coherent potential approximation: Soven, Phys. Rev. 156, 809 (1967); derived here",
        statement="Trained on n of 400 handwritten digits, kernel regression has on them and on "
        "the others the error of the theory that keeps the eigenvectors of the Gram matrix.",
        theory=_digits_curve,
        experiment=_digits_errors,
        sizes=(32, 80, 200),
        z=4.0,
        z_at="all",
        quantity="mean squared test and training error",
    )
)
