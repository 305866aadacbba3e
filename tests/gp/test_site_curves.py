"""Site curves: against the enumeration of all training sets, other routes, and digits."""

import itertools
import math

import numpy as np
import pytest

import ntk
from deeplimits import ConvergenceError, DomainError, ShapeError
from deeplimits.datasets import load, to_sphere
from deeplimits.statistics import family_threshold
from gp.regression_curves import predicted_curve, subset_regression_curve
from gp.site_curves import _at_fixed_number, _medium, site_curve


def sums_over_all_sets(K, y, p, ridge):
    """Mean sums of squared residuals over unseen and seen points, by enumeration of the coins."""
    points, total = len(K), np.zeros(2)
    for coins in itertools.product((False, True), repeat=points):
        seen = np.array(coins)
        gram = K[np.ix_(seen, seen)] + ridge * np.eye(seen.sum())
        residual = y - K[:, seen] @ np.linalg.solve(gram, y[seen])
        squares = np.sum(residual**2, axis=1)
        weight = p ** seen.sum() * (1 - p) ** (points - seen.sum())
        total += weight * np.array([squares[~seen].sum(), squares[seen].sum()])
    return total


@pytest.mark.parametrize("ridge", [0.0, 0.4])
def test_orders_against_enumeration(ridge):
    rng = np.random.default_rng(0)
    points, p = 7, 0.35
    R = np.abs(rng.standard_normal((points, points)))
    R, diagonal = (R + R.T) * (1 - np.eye(points)) / 2, np.diag(rng.uniform(0.7, 1.4, points))
    k = np.abs(rng.standard_normal((points, 2)))
    leading, corrected = [], []
    for strength in (0.01, 0.02, 0.04):
        K = diagonal + strength * R
        y = K @ k
        exact = sums_over_all_sets(K, y, p, ridge)
        medium = _medium(K, p, ridge)
        leading.append(np.abs(medium.leading(y) - exact))
        corrected.append(np.abs(medium.leading(y) + medium.ring(y) - exact))
    # F lacks the paths i j i j, of fourth order in the couplings, and with its correction those of
    # sixth order; the derivative by k k^T takes one coupling away
    shown = slice(0, 2 if ridge else 1)  # without a ridge the training error is 0
    for errors, order in ((leading, 3), (corrected, 5)):
        slopes = np.diff(np.log2(np.array(errors)[:, shown]), axis=0)
        # slopes are the order plus terms linear in the coupling, which this cancels: left are
        # quadratic ones, about (7 couplings of 0.02)^2
        np.testing.assert_allclose(2 * slopes[0] - slopes[1], order, atol=0.03)


def test_fixed_number_of_points():
    def mean_with_coins(f, m, points):
        """Binomial mean at a mean number m, which need not be an integer."""
        j = np.arange(points + 1)
        log = [
            math.lgamma(points + 1) - math.lgamma(i + 1) - math.lgamma(points - i + 1) for i in j
        ]
        weight = np.exp(log + j * np.log(m / points) + (points - j) * np.log1p(-m / points))
        return weight @ f(j)

    sizes, errors = np.array([8, 32, 128]), []
    for n in sizes:
        points = 4 * int(n)

        def mean(m, n=n, points=points):
            return mean_with_coins(lambda j: 1 / (1 + j / n) ** 2, m, points)

        found = _at_fixed_number(mean, float(n), points)
        errors.append(abs(4 * found - 1))
    slopes = np.diff(np.log(errors)) / np.log(4)
    # the next order is 1/n^2, and what follows is smaller by a few over n
    assert (np.abs(slopes + 2) < 3 / sizes[:-1]).all()


def test_equivalent_points_give_the_spectral_theory():
    rng = np.random.default_rng(1)
    points = 48
    # a kernel on a ring and a target with all its shifts: no point differs from another
    shifts = (np.arange(points)[:, None] - np.arange(points)) % points
    K = np.exp(-3 * np.sin(np.pi * shifts / points) ** 2) + 0.01 * np.eye(points)
    y = rng.standard_normal(points)[shifts]
    sizes = [3, 20, 40]
    for ridge in (0.0, 0.3):
        found, theory = site_curve(K, y, sizes, ridge), predicted_curve(K, y, sizes, ridge)
        # accuracy 1e-11 of the medium, in errors that are second differences of it
        np.testing.assert_allclose(found.leading_test, theory.test, rtol=1e-9)
        np.testing.assert_allclose(found.leading_train, theory.train, rtol=1e-9)


def digits(points):
    data = load("digits")
    x, y = to_sphere(data.X[:points]), np.eye(10)[data.y[:points]] - 0.1
    return np.asarray(ntk.mlp(2, "relu", W_std=2**0.5).ntk(x)), y


def test_digits():
    K, y = digits(500)
    sizes = [32, 64, 128, 256]
    measured = subset_regression_curve(K, y, sizes, key=0, ridge=1.0, draws=60)
    scores = np.abs(np.ravel(measured.z(site_curve(K, y, sizes, 1.0))))
    threshold = family_threshold(4, scores.size, 59)
    assert scores.max() < threshold
    # random eigenvectors are noticed
    assert np.abs(np.ravel(measured.z(predicted_curve(K, y, sizes, 1.0)))).max() > threshold


def test_record_and_refusals():
    K, y = digits(60)
    curve = site_curve(K, y, [10, 20], 1.0)
    assert curve.population == 60
    assert curve.plot().get_ylabel() == "test error"
    one = site_curve(K, y, 20, 1.0)
    np.testing.assert_array_equal(one.test, curve.test[1:])
    with pytest.raises(DomainError, match="n must be integers >= 1"):
        site_curve(K, y, [1.5])
    with pytest.raises(DomainError, match="n must be below the number of points 60"):
        site_curve(K, y, 60)
    with pytest.raises(DomainError, match="ridge must be >= 0"):
        site_curve(K, y, 6, -1.0)
    with pytest.raises(ShapeError, match="y must have shape"):
        site_curve(K, y[:-1], 6)
    with pytest.raises(ShapeError, match="K must"):
        site_curve(K[:-1], y, 6)
    with pytest.raises(ConvergenceError, match="there is no effective medium for n=5"):
        site_curve(np.ones((10, 10)), np.ones(10), 5)
