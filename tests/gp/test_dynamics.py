import importlib.util
import re
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplimits import (
    DomainError,
    ShapeError,
    UnstableLearningRateError,
)
from gp.dynamics import Ensemble, max_learning_rate
from gp.process import GP


class LinearModel:
    """``f(x) = phi(x) theta`` with ``theta_0 ~ N(0, root root')``; inputs are row numbers."""

    def __init__(self, points=9, parameters=14, seed=0):
        rng = np.random.default_rng(seed)
        self.phi = rng.normal(size=(points, parameters)) / parameters**0.5
        self.root = rng.normal(size=(parameters, parameters)) / parameters**0.5

    def features(self, x):
        return self.phi[np.asarray(x)[:, 0].astype(int)]

    def ntk(self, x, z=None):
        return self.features(x) @ self.features(x if z is None else z).T

    def nngp(self, x, z=None):
        return (self.features(x) @ self.root) @ (self.features(x if z is None else z) @ self.root).T


class ErfNet:
    """Two hidden erf layers (W_std 1.5, b_std .1), readout (1, .1), NTK parameterisation."""

    def both(self, x, z=None):
        z = x if z is None else z
        pairs = x @ z.T, np.sum(x**2, 1)[:, None], np.sum(z**2, 1)[None]
        q, q1, q2 = (2.25 * v / x.shape[1] + 0.01 for v in pairs)
        ntk = q
        for weight in (2.25, 1.0):
            scale = (1 + 2 * q1) * (1 + 2 * q2)
            slope = 4 / np.pi / np.sqrt(scale - 4 * q**2)
            q = weight * 2 / np.pi * np.arcsin(2 * q / np.sqrt(scale)) + 0.01
            q1, q2 = (weight * 2 / np.pi * np.arcsin(2 * v / (1 + 2 * v)) + 0.01 for v in (q1, q2))
            ntk = weight * slope * ntk + q
        return q, ntk

    def nngp(self, x, z=None):
        return self.both(x, z)[0]

    def ntk(self, x, z=None):
        return self.both(x, z)[1]


def rows(*numbers):
    return np.array(numbers, float)[:, None]


def affine_law(net, x, xs, y, generator_power):
    """Mean and covariance at ``xs`` and x from the explicit map theta_t = M theta_0 + B y."""
    m, b = generator_power
    phi = net.features(np.concatenate([xs, x]))
    spread = phi @ m @ net.root
    return phi @ b @ y, spread @ spread.T


def trained_map(net, x, rate, ridge=0.0, steps=None, momentum=0.0, time=None):
    """``(M, B)`` by a loop over steps, or by the exponential of the augmented generator."""
    phi = net.features(x)
    p, n = phi.shape[1], phi.shape[0]
    hessian = phi.T @ phi + ridge * np.eye(p)
    source = np.hstack([ridge * np.eye(p), phi.T])  # gradient = H theta - source (theta_0, y)
    if time is not None:
        generator = np.block([[-hessian, source], [np.zeros((p + n, 2 * p + n))]])
        power = scipy.linalg.expm(rate * time * generator)[:p]
        return power[:, :p] + power[:, p : 2 * p], power[:, 2 * p :]
    start = np.hstack([np.eye(p), np.zeros((p, n))])
    theta, velocity = start, np.zeros_like(start)
    for _ in range(steps):
        velocity = momentum * velocity - rate * (hessian @ theta - source)
        theta = theta + velocity
    return theta[:, :p], theta[:, p:]


TRAIN, TEST = rows(0, 1, 2, 3, 4, 5), rows(6, 7, 8, 0)
# 14 parameters: invertible NTK. 3 parameters or repeated rows: exact zero eigenvalues.
CASES = {
    "invertible": (LinearModel(), TRAIN),
    "few parameters": (LinearModel(parameters=3), TRAIN),
    "duplicate rows": (LinearModel(), rows(0, 1, 2, 2, 4, 0)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("loss", ["sum", "mean"])
@pytest.mark.parametrize("law", ["flow", "descent", "momentum"])
def test_law_of_linear_model_training(case, ridge, loss, law):
    net, x = CASES[case]
    y = np.random.default_rng(5).normal(size=(6, 2))
    c = 12 if loss == "mean" else 1
    momentum = 0.8 if law == "momentum" else 0.0
    moments = [0, 0.7, 30.0] if law == "flow" else [0, 1, 2, 90]
    eta = 0.4 * c
    model = Ensemble(net, eta, loss=loss, momentum=momentum, ridge=ridge)
    ens = model.train(x, y, **{"times" if law == "flow" else "steps": moments})
    mean, cov, var = ens.mean(TEST), ens.cov(TEST), ens.var(TEST)
    train_mean, train_cov = ens.train_mean(), ens.train_cov()
    for i, moment in enumerate(moments):
        how = {"time": moment} if law == "flow" else {"steps": moment, "momentum": momentum}
        power = trained_map(net, x, eta / c, ridge, **how)
        exact_mean, exact_cov = affine_law(net, x, TEST, y, power)
        # both routes accumulate a few hundred roundings of numbers of order one
        np.testing.assert_allclose(mean[i], exact_mean[:4], atol=1e-12)
        np.testing.assert_allclose(cov[i], exact_cov[:4, :4], atol=1e-12)
        np.testing.assert_allclose(var[i], np.diag(exact_cov)[:4], atol=1e-12)
        np.testing.assert_allclose(train_mean[i], exact_mean[4:], atol=1e-12)
        np.testing.assert_allclose(train_cov[i], exact_cov[4:, 4:], atol=1e-12)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("clock", ["times", "steps"])
def test_infinite_training(case, ridge, clock):
    net, x = CASES[case]
    y = np.random.default_rng(5).normal(size=6)
    ens = Ensemble(net, 0.4, ridge=ridge).train(x, y, **{clock: np.inf})
    phi = net.features(x)
    if ridge:
        solve = np.linalg.solve(phi.T @ phi + ridge * np.eye(phi.shape[1]), phi.T)
    else:
        solve = np.linalg.pinv(phi)  # minimum-norm change of the parameters
    power = np.eye(phi.shape[1]) - solve @ phi, solve
    mean, cov = affine_law(net, x, TEST, y, power)
    # condition numbers of the features below 100
    np.testing.assert_allclose(ens.mean(TEST)[0], mean[:4], atol=1e-12)
    np.testing.assert_allclose(ens.cov(TEST)[0], cov[:4, :4], atol=1e-12)
    np.testing.assert_allclose(ens.train_mean()[0], mean[4:], atol=1e-12)
    np.testing.assert_allclose(ens.train_cov()[0], cov[4:, 4:], atol=1e-12)
    assert ens.n_null == {"invertible": 0, "few parameters": 3, "duplicate rows": 2}[case]


def grid(n, d, offset=0):
    return np.sin(0.7 * (1 + offset + np.arange(n * d))).reshape(n, d)


ERF_X, ERF_XS, ERF_Y = grid(6, 3), grid(3, 3, 60), np.cos(np.arange(6.0))


def test_published_means_of_an_erf_ensemble():
    # computed with neural-tangents' gradient_descent_mse_ensemble; confirmed by 300 trained nets
    ens = Ensemble(ErfNet(), 1.0, loss="mean").train(ERF_X, ERF_Y, times=[0, 20, 100, 200])
    expected = [
        [0, 0, 0],
        [-0.0618, 0.0025, -0.0784],
        [-0.0686, -0.0397, -0.1492],
        [-0.0760, -0.0913, -0.2363],
    ]
    np.testing.assert_allclose(ens.mean(ERF_XS), expected, atol=5e-5)  # four printed digits


needs_neural_tangents = pytest.mark.skipif(
    importlib.util.find_spec("neural_tangents") is None, reason="neural_tangents not installed"
)


@needs_neural_tangents
def test_against_neural_tangents():
    from ntk.interop import neural_tangents

    nt = neural_tangents()
    stax = nt.stax
    erf = stax.Erf()
    layers = stax.Dense(512, 1.5, 0.1), erf, stax.Dense(512, 1.5, 0.1), erf, stax.Dense(1, 1.0, 0.1)
    kernel_fn = stax.serial(*layers)[2]
    predict = nt.predict.gradient_descent_mse_ensemble(kernel_fn, ERF_X, ERF_Y[:, None])
    ens = Ensemble(ErfNet(), 1.0, loss="mean").train(ERF_X, ERF_Y[:, None], times=[0, 20, 200])
    for i, t in enumerate([0.0, 20.0, 200.0]):
        law = predict(t=t, x_test=ERF_XS, get="ntk", compute_cov=True)
        # float64 on both sides
        np.testing.assert_allclose(ens.mean(ERF_XS)[i], law.mean, atol=1e-10)
        np.testing.assert_allclose(ens.cov(ERF_XS)[i], law.covariance, atol=1e-10)


def test_trained_finite_networks():
    """2000 linear models with random parameters, trained by an explicit loop, as a simulation."""
    net, n = LinearModel(), 2000
    y = np.random.default_rng(5).normal(size=6)
    ens = Ensemble(net, 0.4, momentum=0.5).train(TRAIN, y, steps=[25])
    theta = net.root @ np.random.default_rng(0).normal(size=(14, n))
    phi, velocity = net.features(TRAIN), np.zeros_like(theta)
    for _ in range(25):
        velocity = 0.5 * velocity - 0.4 * phi.T @ (phi @ theta - y[:, None])
        theta = theta + velocity
    out = net.features(TEST) @ theta
    z = (out.mean(1) - ens.mean(TEST)[0]) / np.sqrt(ens.var(TEST)[0] / n)
    assert np.abs(z).max() < 4  # four standard normal numbers
    assert np.abs(out.var(1) / ens.var(TEST)[0] - 1).max() < 4 * np.sqrt(2 / n)


def test_ridge_at_infinity_has_the_mean_of_the_ntk_process():
    net = ErfNet()
    ens = Ensemble(net, ridge=0.2).train(ERF_X, ERF_Y, times=np.inf)
    post = GP(net.ntk, noise=0.2).condition(ERF_X, ERF_Y)
    np.testing.assert_allclose(ens.mean(ERF_XS)[0], post.mean(ERF_XS), atol=1e-12)  # cond 1e2


def test_last_layer_training_is_the_noise_free_posterior():
    net = SimpleNamespace(nngp=ErfNet().nngp, ntk=ErfNet().nngp)
    ens = Ensemble(net).train(ERF_X, ERF_Y, times=np.inf)
    post = GP(net.nngp).condition(ERF_X, ERF_Y)
    # condition number of the NNGP matrix 1e6
    np.testing.assert_allclose(ens.mean(ERF_XS)[0], post.mean(ERF_XS), rtol=1e-8)
    np.testing.assert_allclose(ens.cov(ERF_XS)[0], post.cov(ERF_XS), atol=1e-9)


def test_small_steps_tend_to_the_flow():
    net, y = LinearModel(), np.arange(6.0)
    flow = Ensemble(net, 1.0).train(TRAIN, y, times=3.0).mean(TEST)[0]
    gaps = []
    for eta in (0.02, 0.01):
        steps = Ensemble(net, eta).train(TRAIN, y, steps=round(3 / eta)).mean(TEST)[0]
        gaps.append(np.abs(steps - flow).max())
    # first order in the step size; the next order changes the ratio by a few eta lambda
    assert gaps[0] / gaps[1] == pytest.approx(2, abs=0.1)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.floats(0.0, 1e6), st.booleans())
def test_covariances_are_positive_semidefinite(seed, t, discrete):
    net = LinearModel(seed=seed)
    limit = max_learning_rate(net.ntk(TRAIN))
    clock = {"steps": np.floor(t)} if discrete else {"times": t}
    ens = Ensemble(net, 0.9 * limit).train(TRAIN, np.ones(6), **clock)
    # gains up to the inverse of the smallest eigenvalue (about 1e-2, rarely 1e-4)
    scale = 1 / max(ens.values[0], 1e-6)
    assert np.linalg.eigvalsh(ens.cov(rows(*range(9)))[0])[0] > -1e-14 * scale**2
    assert np.linalg.eigvalsh(ens.train_cov()[0])[0] > -1e-14


# --- learning rates


@pytest.mark.parametrize("loss", ["sum", "mean"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("ridge", [0.0, 0.5])
def test_max_learning_rate_separates_convergence(loss, momentum, ridge):
    net, y = LinearModel(), np.random.default_rng(0).normal(size=(6, 2))
    options = {"loss": loss, "momentum": momentum, "ridge": ridge}
    limit = max_learning_rate(net.ntk(TRAIN), outputs=2, **options)
    rate = limit / (12 if loss == "mean" else 1)
    good = trained_map(net, TRAIN, 0.99 * rate, ridge, 3000, momentum)[1]
    bad = trained_map(net, TRAIN, 1.01 * rate, ridge, 3000, momentum)[1]
    assert np.abs(good).max() < 1e2  # bounded by the inverse of the smallest singular value
    assert np.abs(bad).max() > 1e4  # grows as 1.01^(steps / 2) or faster
    Ensemble(net, 0.999 * limit, **options).train(TRAIN, y, steps=[5, np.inf])
    with pytest.raises(UnstableLearningRateError, match=re.escape(f"must be below {limit:.6g}")):
        Ensemble(net, limit * (1 + 1e-12), **options).train(TRAIN, y, steps=[5])
    if momentum == 0:
        Ensemble(net, 10 * limit, **options).train(TRAIN, y, times=[5.0])


def test_max_learning_rate_of_a_zero_matrix():
    assert max_learning_rate(np.zeros((2, 2))) == np.inf


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"ntk": np.ones((2, 3))}, ShapeError, "ntk must be a square matrix"),
        ({"ntk": np.tri(3)}, DomainError, "ntk must be symmetric"),
        ({"loss": "rms"}, DomainError, "loss must be one of 'sum', 'mean'"),
        ({"momentum": 1.0}, DomainError, "momentum must be"),
        ({"ridge": -1.0}, DomainError, "ridge must be >= 0"),
        ({"outputs": 0}, DomainError, "outputs must be >= 1"),
    ],
)
def test_bad_max_learning_rate(kwargs, error, match):
    with pytest.raises(error, match=match):
        max_learning_rate(**{"ntk": np.eye(3), **kwargs})
