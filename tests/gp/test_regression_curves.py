"""Measured learning curves against the spectral theory: synthetic data and digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk
from deeplimits import DomainError, NotPositiveDefiniteError, ShapeError
from deeplimits.datasets import load, to_sphere
from deeplimits.statistics import family_threshold
from gp.regression_curves import predicted_curve, regression_curve, subset_regression_curve
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
    found = regression_curve(net.ntk, sample, [64, 200], key=2, ridge=0.5, noise=0.1, draws=12)
    theory = learning_curve(
        s.eigenvalues, v, [64, 200], 0.5, 0.1, degeneracies=s.degeneracies, tail=s.missing
    )
    # five coordinates are no Gaussian features: the theory is off by some percent at n = 64
    np.testing.assert_allclose(found.test, theory.test, rtol=0.1)
    np.testing.assert_allclose(found.train, theory.train, rtol=0.15)


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
    theory = predicted_curve(K, y, sizes, 0.2)
    # one random basis: corrections of relative order 1/points beside the errors of some percent
    np.testing.assert_allclose(found.test, theory.test, rtol=0.05)
    np.testing.assert_allclose(found.train, theory.train, rtol=0.05)


def test_digits():
    digits = load("digits")
    x, y = to_sphere(digits.X[:700]), np.eye(10)[digits.y[:700]] - 0.1
    K = np.asarray(ntk.mlp(2, "relu", W_std=2**0.5).ntk(x))
    sizes = [8, 32, 128, 256]
    found = subset_regression_curve(K, y, sizes, key=0, ridge=1.0, draws=16)
    theory = predicted_curve(K, y, sizes, 1.0)
    # real eigenvectors are not those of a random matrix; measured deviations are below 7 percent
    np.testing.assert_allclose(found.test, theory.test, rtol=0.1)
    np.testing.assert_allclose(found.train, theory.train, rtol=0.15)
    ax = found.plot(theory.plot())
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
