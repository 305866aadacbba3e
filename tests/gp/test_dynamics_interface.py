"""The interface of trained ensembles: shapes, dtypes, records, and what is refused."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplimits import DomainError, NotPositiveDefiniteError, ShapeError
from gp.dynamics import Ensemble, TrainedEnsemble


class Net:
    """Two RBF kernels, in NumPy or JAX."""

    def __init__(self, xp=np):
        self.xp = xp

    def both(self, x, z=None):
        z = x if z is None else z
        nngp = self.xp.exp(-0.5 * self.xp.sum((x[:, None] - z[None]) ** 2, axis=-1))
        return nngp, 1.5 * nngp + 0.3 * nngp**2

    def nngp(self, x, z=None):
        return self.both(x, z)[0]

    def ntk(self, x, z=None):
        return self.both(x, z)[1]


RNG = np.random.default_rng(0)
X, XS, Y = RNG.normal(size=(6, 3)), RNG.normal(size=(3, 3)), np.cos(np.arange(6.0))


def test_shapes():
    net = Net()
    flat = Ensemble(net, 0.1).train(X, np.ones(6), times=[1.0, 2.0])
    deep = Ensemble(net, 0.1).train(X, np.ones((6, 3)), times=[1.0, 2.0])
    assert flat.mean(XS).shape == flat.var(XS).shape == (2, 3)
    assert deep.mean(XS).shape == (2, 3, 3)
    assert flat.train_mean().shape == (2, 6)
    assert deep.train_mean().shape == (2, 6, 3)
    assert flat.cov(XS).shape == (2, 3, 3)
    assert flat.train_cov().shape == (2, 6, 6)
    assert all(isinstance(v, np.ndarray) for v in (flat.mean(XS), flat.cov(XS)))


def test_predict_is_the_law_at_one_moment():
    ens = Ensemble(Net(), 0.1).train(X, Y, times=[1.0, 5.0])
    for at in (0, -1):
        pred = ens.predict(XS, at=at)
        np.testing.assert_allclose(pred.mean, ens.mean(XS)[at], rtol=1e-13)
        np.testing.assert_allclose(pred.cov, ens.cov(XS)[at], rtol=1e-13)
    noisy = ens.predict(XS, noise=0.3)
    np.testing.assert_allclose(noisy.var, ens.var(XS)[-1] + 0.3, rtol=1e-13)
    assert noisy.sample(0, 7).shape == (7, 3)
    assert np.isfinite(noisy.log_prob(np.zeros(3)))
    with pytest.raises(DomainError, match="at must be a position in the 2 stored times, got 2"):
        ens.predict(XS, at=2)


def test_both_kernels_in_one_pass():
    calls = []

    def kernel_fn(x, z, get):
        calls.append(get)
        nngp, ntk = Net().both(x, z)
        return SimpleNamespace(nngp=nngp, ntk=ntk)

    net = SimpleNamespace(kernel_fn=kernel_fn, nngp=Net().nngp, ntk=Net().ntk)
    ens = Ensemble(net).train(X, Y, times=2.0)
    plain = Ensemble(Net()).train(X, Y, times=2.0)
    np.testing.assert_array_equal(ens.cov(XS), plain.cov(XS))
    assert calls == [("nngp", "ntk")] * 2


def test_single_point_and_records():
    ens = Ensemble(Net(), 0.5).train(X[:1], Y[:1], times=[0.0, 1.0, np.inf])
    ntk = Net().ntk(X[:1])[0, 0]
    expected = [0, 1 - np.exp(-0.5 * ntk), 1]  # label cos(0) = 1
    np.testing.assert_allclose(ens.train_mean()[:, 0], expected, rtol=1e-14, atol=1e-16)
    again = jax.tree.map(lambda leaf: leaf, ens)
    assert isinstance(again, TrainedEnsemble)
    np.testing.assert_array_equal(again.mean(XS), ens.mean(XS))


def test_float64_with_x64_off():
    reference = Ensemble(Net(jnp)).train(X, Y, times=50.0)
    with jax.enable_x64(False):
        ens = Ensemble(Net(jnp)).train(X, Y, times=50.0)
        cov = ens.cov(XS)
    assert cov.dtype == np.float64
    np.testing.assert_allclose(cov, reference.cov(XS), atol=1e-12)  # the same computation


@pytest.mark.optimized
def test_float32_kernels():
    x, xs = (jnp.asarray(v, jnp.float32) for v in (X, XS))
    ens = Ensemble(Net(jnp), 1.0, loss="mean").train(x, Y, times=[20.0, 200.0])
    exact = Ensemble(Net(), 1.0, loss="mean").train(X, Y, times=[20.0, 200.0])
    # float32 rounding 1e-7 times gains up to rate * t = 33 and a few matrix products
    np.testing.assert_allclose(ens.mean(xs), exact.mean(XS), atol=5e-5)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"net": lambda x: x}, r"net must have the methods nngp\(x1, x2=None\) and ntk"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0"),
        ({"learning_rate": np.nan}, "learning_rate must be finite"),
        ({"loss": "mse"}, "loss must be one of 'sum', 'mean'; got 'mse'"),
        ({"momentum": 1.0}, "momentum must be"),
        ({"momentum": -0.1}, "momentum must be"),
        ({"ridge": -1.0}, "ridge must be >= 0"),
        ({"max_points": 0}, "max_points must be >= 1"),
    ],
)
def test_bad_ensembles(kwargs, match):
    with pytest.raises(DomainError, match=match):
        Ensemble(**{"net": Net(), **kwargs})


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({}, DomainError, r"exactly one of times= \(gradient flow\) and steps="),
        ({"times": 1.0, "steps": 1}, DomainError, "exactly one of times="),
        ({"times": -1.0}, DomainError, r"times must be >= 0 \(inf allowed\), got -1"),
        ({"times": [0.0, np.nan]}, DomainError, "times must be >= 0"),
        ({"steps": 1.5}, DomainError, "steps must be whole numbers or inf"),
        ({"times": []}, ShapeError, "non-empty 1-D sequence"),
        ({"times": np.ones((2, 2))}, ShapeError, "non-empty 1-D sequence"),
        ({"times": 1.0, "X": X[:, 0]}, ShapeError, r"X must have shape \(n, d\)"),
        ({"times": 1.0, "y": Y[1:]}, ShapeError, r"y must have shape \(6,\)"),
        ({"times": 1.0, "y": Y * np.nan}, DomainError, "y must be finite"),
    ],
)
def test_bad_training(kwargs, error, match):
    with pytest.raises(error, match=match):
        Ensemble(Net()).train(**{"X": X, "y": Y, **kwargs})


def test_momentum_has_no_flow():
    with pytest.raises(DomainError, match="momentum is defined for discrete steps"):
        Ensemble(Net(), 0.1, momentum=0.5).train(X, Y, times=[1.0])


def test_too_many_points():
    with pytest.raises(DomainError, match="X has 6 points, more than max_points=5"):
        Ensemble(Net(), max_points=5).train(X, Y, times=[1.0])


def test_bad_kernels():
    net = SimpleNamespace(nngp=Net().nngp, ntk=lambda x, z=None: -Net().ntk(x, z))
    with pytest.raises(NotPositiveDefiniteError, match=r"the NTK of X .*eigenvalues run from -"):
        Ensemble(net).train(X, Y, times=[1.0])
    net.ntk = lambda x, z=None: Net().ntk(x, z)[:, 1:]
    with pytest.raises(ShapeError, match="the kernel must return an array of shape"):
        Ensemble(net).train(X, Y, times=[1.0])


def test_bad_queries():
    ens = Ensemble(Net()).train(X, Y, times=[1.0])
    for query in (ens.mean, ens.cov, ens.var, ens.predict):
        with pytest.raises(ShapeError, match="Xs and X must agree in every axis but the first"):
            query(np.ones((2, 5)))
    with pytest.raises(DomainError, match="noise must be >= 0"):
        ens.predict(XS, noise=-1.0)
