"""Bayesian deep ensembles: the law of members from explicit linear algebra and finite networks."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk
from deeplimits import DomainError, NotPositiveDefiniteError, ShapeError
from gp.bayesian_ensemble import bayesian_ensemble, delta_function, delta_law
from gp.process import GP


class LinearModel:
    """``f(x) = phi(x) theta``, ``theta_0 ~ N(0, root root')``; inputs are row numbers."""

    def __init__(self, spread):
        rng = np.random.default_rng(0)
        self.phi = rng.normal(size=(9, 14)) / 14**0.5
        root = rng.normal(size=(14, 14))
        self.root = spread * root / np.linalg.norm(root, 2)

    def features(self, x):
        return self.phi[np.asarray(x)[:, 0].astype(int)]

    def ntk(self, x, z=None):
        return self.features(x) @ self.features(x if z is None else z).T

    def nngp(self, x, z=None):
        return (self.features(x) @ self.root) @ (self.features(x if z is None else z) @ self.root).T


def rbf(x, z=None):
    z = x if z is None else z
    return np.exp(-0.5 * ((x[:, None] - z[None]) ** 2).sum(-1))


def rows(*numbers):
    return np.array(numbers, float)[:, None]


TRAIN, TEST, NOISE = rows(0, 1, 2, 3, 4), rows(5, 6, 7, 8, 0), 0.3
Y = np.random.default_rng(5).normal(size=5)


def test_members_are_draws_of_the_posterior():
    """Mean and covariance of explicit members, as linear maps of theta_0, delta and the noise."""
    net = LinearModel(0.9)
    points = np.concatenate([TRAIN, TEST])
    phi, train = net.features(points), net.features(TRAIN)
    solve = np.linalg.solve(train.T @ train + NOISE * np.eye(14), train.T)
    # theta = theta_0 + solve (y + eps - delta(X) - phi theta_0); member = phi_* theta + delta_*
    test = net.features(TEST)
    by_theta = test @ (np.eye(14) - solve @ train)
    by_target = test @ solve
    delta = delta_law(net, points).cov
    np.testing.assert_allclose(delta, phi @ phi.T - net.nngp(points), atol=1e-15)
    by_delta = np.hstack([-by_target, np.eye(5)])
    cov = by_theta @ net.root @ net.root.T @ by_theta.T
    cov += NOISE * by_target @ by_target.T + by_delta @ delta @ by_delta.T
    ens = bayesian_ensemble(net, TRAIN, Y, noise=NOISE)
    # condition numbers below 1e2
    np.testing.assert_allclose(ens.posterior.mean(TEST), by_target @ Y, atol=1e-13)
    np.testing.assert_allclose(ens.posterior.cov(TEST), cov, atol=1e-13)
    plain = by_theta @ net.root @ net.root.T @ by_theta.T
    np.testing.assert_allclose(ens.plain.cov(TEST)[-1], plain, atol=1e-13)
    np.testing.assert_allclose(ens.plain.mean(TEST)[-1], by_target @ Y, atol=1e-13)


def test_plain_members_are_too_certain():
    found = bayesian_ensemble(LinearModel(0.9), TRAIN, Y, noise=NOISE).compare(TEST)
    assert found.delta_exists
    assert found.lowest >= 0
    assert (found.plain < found.bayesian).all()
    # two unrelated kernels of which one dominates
    net = SimpleNamespace(nngp=rbf, ntk=lambda x, z=None: 1.5 * rbf(x, z) + 0.5)
    x = np.random.default_rng(1).normal(size=(8, 3))
    found = bayesian_ensemble(net, x[:5], Y, noise=NOISE).compare(x[5:])
    assert found.delta_exists
    assert found.lowest > 0
    assert isinstance(jax.tree.map(lambda leaf: leaf, found), type(found))


def test_networks_that_start_too_wide_have_no_correction():
    wide = LinearModel(5.0)
    with pytest.raises(NotPositiveDefiniteError, match="start wider spread than they are trained"):
        bayesian_ensemble(wide, TRAIN, Y, noise=NOISE)
    # dominated on the training points, not beyond them
    mixed = LinearModel(0.9)
    inside = np.linalg.qr(mixed.phi[:5].T)[0]
    outside = np.eye(14) - inside @ inside.T
    mixed.root = mixed.root + 20 * outside @ np.random.default_rng(2).normal(size=(14, 14))
    ens = bayesian_ensemble(mixed, TRAIN, Y, noise=NOISE)
    found = ens.compare(TEST)
    assert not found.delta_exists
    assert found.lowest < 0  # the statement fails where its condition fails


def test_finite_networks():
    """Covariance of the correction over networks; exact on average for one hidden layer."""
    net = ntk.mlp(1, "erf", W_std=1.5, b_std=0.3, width=32)
    init, apply_fn, _ = net
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2)))

    def one(key):
        first, second = jax.random.split(key)
        params, draw = (init(k, (-1, 2))[1] for k in (first, second))
        return delta_function(apply_fn, params, draw)(x)[:, 0]

    values = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 4000)))
    pairs = values[:, :, None] * values[:, None, :]
    z = (pairs.mean(0) - delta_law(net, x).cov) / (pairs.std(0) / np.sqrt(4000))
    assert np.abs(z).max() < 4  # six different numbers
    assert np.abs(values.mean(0) / values.std(0) * np.sqrt(4000)).max() < 4
    exact = net.ntk(x) - net.nngp(x)
    np.testing.assert_allclose(delta_law(net, x).cov, exact, rtol=1e-14)


def test_posterior_is_that_of_the_ntk():
    net = LinearModel(0.9)
    ens = bayesian_ensemble(net, TRAIN, np.stack([Y, -Y], 1), noise=NOISE)
    plain = GP(net.ntk, noise=NOISE).condition(TRAIN, np.stack([Y, -Y], 1))
    np.testing.assert_array_equal(ens.posterior.mean(TEST), plain.mean(TEST))
    again = jax.tree.map(lambda leaf: leaf, ens)
    np.testing.assert_array_equal(again.posterior.mean(TEST), plain.mean(TEST))


def test_bad_input():
    net = LinearModel(0.9)
    with pytest.raises(DomainError, match="noise must be > 0"):
        bayesian_ensemble(net, TRAIN, Y, noise=0.0)
    with pytest.raises(ShapeError, match="y must have shape"):
        bayesian_ensemble(net, TRAIN, Y[:2], noise=0.1)
    with pytest.raises(DomainError, match="net must have the methods"):
        delta_law(net.ntk, TRAIN)
    with pytest.raises(ShapeError, match="Xs and X must agree"):
        bayesian_ensemble(net, TRAIN, Y, noise=NOISE).compare(np.ones((2, 2)))
    params = ((np.ones((2, 3)),), (np.ones((3, 1)),))
    with pytest.raises(DomainError, match="params must be a sequence of layers"):
        delta_function(lambda p, x: x, {"w": 1.0}, {"w": 1.0})
    with pytest.raises(DomainError, match="draw must have the structure and shapes"):
        delta_function(lambda p, x: x, params, params[:1])
    with pytest.raises(DomainError, match="draw must have the structure and shapes"):
        delta_function(lambda p, x: x, params, ((np.ones((2, 2)),), (np.ones((3, 1)),)))
