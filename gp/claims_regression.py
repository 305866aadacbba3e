r"""Claims on kernel regression: measured learning curves held against the spectral theory."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import numpy as np

from deeplimits.claims import Claim, register
from gp.regression_curves import predicted_curve, subset_regression_curve

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
