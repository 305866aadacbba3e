"""Measured learning curves against the spectral theory: synthetic data and digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk
from deeplimits import DomainError, NotPositiveDefiniteError, ShapeError
from deeplimits.statistics import family_threshold
from gp.regression_curves import predicted_curve, regression_curve, subset_regression_curve
from gp.site_curves import site_curve
from ntk.gram_spectrum import gram_spectrum
from ntk.learning_curves import learning_curve
from ntk.spectrum import sphere_spectrum

MODES = 300
LAM = np.arange(1.0, MODES + 1) ** -1.5
V = np.arange(1.0, MODES + 1) ** -0.9
SIZES = [8, 16, 32, 64, 128, 256]


def gaussian_features(key, m):
    phi = jax.random.normal(key, (m, MODES))
    return phi * jnp.sqrt(jnp.asarray(LAM))[None], jnp.matmul(phi, jnp.asarray(V))


def linear_kernel(a, b):
    return jnp.matmul(a, b.T)


def test_gaussian_features():
    found = regression_curve(
        linear_kernel, gaussian_features, SIZES, key=1, ridge=0.02, noise=0.05, draws=30
    )
    z = np.ravel(found.z(learning_curve(LAM, V, SIZES, 0.02, 0.05)))
    assert np.abs(z).max() < family_threshold(4, z.size, 29)
    wrong = learning_curve(LAM, V, SIZES, 0.03, 0.05)  # half as much ridge again is noticed
    assert np.abs(np.ravel(found.z(wrong))).max() > 20


def test_sphere():
    net = ntk.mlp(2, "relu", W_std=2**0.5)

    def sample(key, m):
        x = jax.random.normal(key, (m, 5))
        x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
        # Y_1 + Y_2/2 with harmonics of unit mean square
        second = (x[:, 1] ** 2 - 0.2) / (8 / 175) ** 0.5
        return 5**0.5 * x, 5**0.5 * x[:, 0] + second / 2

    s = sphere_spectrum(net, 5, 30)
    v = np.zeros(31)
    v[1:3] = 1.0, 0.5
    sizes = [64, 200]
    found = regression_curve(net.ntk, sample, sizes, key=2, ridge=0.5, noise=0.1, draws=30)

    def largest_score(ridge):
        theory = learning_curve(
            s.eigenvalues, v, sizes, ridge, 0.1, degeneracies=s.degeneracies, tail=s.missing
        )
        return np.abs(np.ravel(found.z(theory))).max()

    # five coordinates are no Gaussian features: theory and measurement differ by order 1/n, which
    # 30 draws do not resolve
    threshold = family_threshold(4, 4, 29)
    assert largest_score(0.5) < threshold < largest_score(0.8)


def test_subset_against_plain_numpy():
    rng = np.random.default_rng(0)
    K = np.cov(rng.standard_normal((20, 60)))
    y = rng.standard_normal((20, 2))
    found = subset_regression_curve(K, y, [5, 9], key=3, ridge=0.3, draws=4)
    keys = jax.random.split(jax.random.key(3), (2, 4))
    for i, n in enumerate((5, 9)):
        errors = []
        for key in keys[i]:
            order = np.asarray(jax.random.permutation(key, 20))
            a, b = order[:n], order[n:]
            w = np.linalg.solve(K[np.ix_(a, a)] + 0.3 * np.eye(n), y[a])
            test, train = y[b] - K[np.ix_(b, a)] @ w, y[a] - K[np.ix_(a, a)] @ w
            errors.append([np.mean(np.sum(e**2, axis=1)) for e in (test, train)])
        mean, stderr = np.mean(errors, axis=0), np.std(errors, axis=0, ddof=1) / 2
        # rounding of two solvers
        np.testing.assert_allclose([found.test[i], found.train[i]], mean, rtol=1e-12)
        np.testing.assert_allclose(
            [found.test_stderr[i], found.train_stderr[i]], stderr, rtol=1e-10
        )


def test_finite_population():
    rng = np.random.default_rng(5)
    points = 150
    basis = np.linalg.qr(rng.standard_normal((points, points)))[0]
    i = np.arange(1.0, points + 1)
    K = points * (basis * i**-1.5) @ basis.T
    y = points**0.5 * basis @ (i**-0.9 * rng.choice([-1.0, 1.0], points))
    sizes = [15, 60, 120]
    found = subset_regression_curve(K, y, sizes, key=4, ridge=0.2, draws=100)
    z = np.abs(np.ravel(found.z(site_curve(K, y, sizes, 0.2))))
    threshold = family_threshold(4, z.size, 99)
    assert z.max() < threshold
    independent = gram_spectrum(K, y)
    wrong = learning_curve(independent.eigenvalues, independent.coefficients, sizes, 0.2)
    assert np.abs(np.ravel(found.z(wrong))).max() > 2 * threshold


def test_plots():
    K = np.cov(np.random.default_rng(0).standard_normal((20, 60)))
    found = subset_regression_curve(K, np.ones(20), [5, 9], key=3, ridge=0.3, draws=4)
    ax = found.plot(predicted_curve(K, np.ones(20), [5, 9], 0.3).plot())
    assert ax.get_ylabel() == "test error"


def test_refusals():
    with pytest.raises(DomainError, match="n must be integers >= 1"):
        subset_regression_curve(np.eye(4), np.ones(4), [1.5], key=0)
    with pytest.raises(DomainError, match="n must be below the number of points 4"):
        subset_regression_curve(np.eye(4), np.ones(4), 4, key=0)
    with pytest.raises(DomainError, match="draws must be >= 2"):
        subset_regression_curve(np.eye(4), np.ones(4), 2, key=0, draws=1)
    with pytest.raises(ShapeError, match="y must have shape"):
        predicted_curve(np.eye(4), np.ones(3), 2)
    with pytest.raises(NotPositiveDefiniteError, match="n=3 points is singular"):
        subset_regression_curve(np.ones((4, 4)), np.ones(4), [1, 3], key=0, draws=2)
    found = subset_regression_curve(np.eye(4), np.ones(4), [2], key=0, draws=2)
    with pytest.raises(ShapeError, match="the measurement for n="):
        found.z(predicted_curve(np.eye(4), np.ones(4), [1]))
