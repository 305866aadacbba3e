"""Every public entry refuses bad input with an error of ours that names what is wrong."""

import jax
import numpy as np
import pytest

import deeplimits
import gp
import ntk
from deeplimits import DeepLimitsError

X = np.random.default_rng(0).normal(size=(6, 3))
y = np.sin(X[:, 0])
NAN = np.where(np.eye(6, 3, dtype=bool), np.nan, X)
net = ntk.mlp(2, "relu", W_std=1.4, b_std=0.1, width=4)
params = net.init_fn(0, (6, 3))[1]
prior = gp.GP(net.nngp, noise=0.1)
ensemble = gp.Ensemble(net, learning_rate=0.1)


@pytest.fixture(scope="module")
def post():
    return prior.condition(X, y)


INPUTS = {
    "1-D": X[0],
    "NaN": NAN,
    "empty": np.zeros((0, 3)),
    "complex": X + 1j,
    "string": "abc",
    "ragged": [[1, 2], [3]],
    "scalar": 3.0,
}
TAKE_INPUTS = {
    "nngp": net.nngp,
    "gram": lambda x: ntk.gram(net, x),
    "x2": lambda x: net.kernel_fn(X, x, "ntk"),
    "empirical": lambda x: ntk.empirical_ntk(net, params, x),
    "monte carlo": lambda x: ntk.monte_carlo_kernel(net, 0, x, n_samples=4),
    "GP X": lambda x: prior.condition(x, y),
    "GP y": lambda x: prior.condition(X, x),
    "Ensemble X": lambda x: ensemble.train(x, y, times=[1.0]),
    "Ensemble y": lambda x: ensemble.train(X, x, times=[1.0]),
}


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("entry", TAKE_INPUTS)
def test_bad_arrays(entry, kind):
    with pytest.raises(DeepLimitsError, match=r"\b(x|x1|x2|X|y)\b"):
        TAKE_INPUTS[entry](INPUTS[kind])


@pytest.mark.parametrize("kind", INPUTS)
def test_bad_test_points(post, kind):
    for query in (post.mean, post.var, post.cov, post.predict, lambda x: post.sample(0, x, 2)):
        with pytest.raises(DeepLimitsError, match="X"):
            query(INPUTS[kind])


SCALES = [-1.0, np.nan, np.inf, "a", [1, 2], 1j]
COUNTS = [-1, 1.5, "a", None, np.nan]


@pytest.mark.parametrize("value", SCALES, ids=str)
def test_bad_scales(value):
    for name, make in {
        "W_std": lambda v: ntk.Dense(4, v),
        "b_std": lambda v: ntk.Dense(4, 1.0, v),
        "noise": lambda v: gp.GP(net.nngp, noise=v),
        "learning_rate": lambda v: gp.Ensemble(net, learning_rate=v),
        "rate": ntk.Dropout,
        "a": lambda v: ntk.Erf(a=v),
    }.items():
        if (name == "a" and value == -1.0) or (name == "noise" and value == [1, 2]):
            continue  # a negative height, and a noise for each point, are allowed
        with pytest.raises(DeepLimitsError, match=name):
            make(value)


@pytest.mark.parametrize("value", COUNTS, ids=str)
def test_bad_counts(value):
    for name, make in {
        "depth": ntk.mlp,
        "out_dim": ntk.Dense,
        "n must": lambda v: ntk.repeat(ntk.Relu(), v),
        "n_samples": lambda v: ntk.monte_carlo_kernel(net, 0, X, n_samples=v),
        "degree": lambda v: ntk.taylor_expand(net, params, v),
        "block_size": lambda v: ntk.gram(net, X, block_size=v),
    }.items():
        with pytest.raises(DeepLimitsError, match=name):
            make(value)


def not_psd(a, b=None):
    return -np.eye(len(a), len(a if b is None else b))


OTHERS = {
    "x1 and x2": lambda: net.nngp(X, X[:, :2]),
    "get must": lambda: net.kernel_fn(X, None, "foo"),
    "get": lambda: net.kernel_fn(X, None, 3),
    "'bar'": lambda: net.kernel_fn(X, None, ("nngp", "bar")),
    "cov1": lambda: ntk.gram(net, X, get="cov1"),
    "kernel_fn must": lambda: ntk.gram(3, X),
    "k.zarr|out=": lambda: ntk.gram(net, X, out="k.zarr"),
    "rellu": lambda: ntk.mlp(2, "rellu"),
    "activation must": lambda: ntk.mlp(2, 3),
    "jnp.where": lambda: ntk.dual(lambda x: x if x > 0 else 0),
    "real scalar": lambda: ntk.dual(lambda x: jax.lax.complex(x, x)),
    "not elementwise": lambda: ntk.dual(lambda x: x.sum()),
    r"kinks\[0\]": lambda: ntk.dual(abs, kinks=("a",)),
    "q11 is a variance": lambda: ntk.dual("relu").K(-1.0, 0.0, 1.0),
    "no covariance": lambda: ntk.dual("relu").K(1.0, 2.0, 1.0),
    "q11 must": lambda: ntk.dual("relu").K("a", 0.0, 1.0),
    "broadcast": lambda: ntk.dual("relu").K(np.ones(3), np.ones(2), 1.0),
    "Step jumps": lambda: ntk.dual("step").Kdot(1.0, 0.0, 1.0),
    "holds Step": lambda: ntk.mlp(2, "step").ntk(X),
    "W_std": lambda: ntk.Dense(1, None).nngp(X),
    "s must": lambda: ntk.Dense(3, s=(1,)),
    "parameterization": lambda: ntk.Dense(3, parameterization="foo"),
    "branches": lambda: ntk.serial(ntk.FanOut(2)).nngp(X),
    "FanInSum": lambda: ntk.serial(ntk.Dense(3), ntk.FanInSum()).nngp(X),
    "mode": lambda: ntk.Dropout(0.5, "x"),
    "method": lambda: ntk.empirical_ntk(net, params, X, method="foo"),
    "reduce": lambda: ntk.empirical_ntk(net, params, X, reduce="foo"),
    "f must": lambda: ntk.empirical_ntk(3, params, X),
    "channels": lambda: ntk.empirical_ntk(net, params, X[:, :2]),
    "key": lambda: ntk.monte_carlo_kernel(net, "k", X, n_samples=4),
    "net must": lambda: ntk.monte_carlo_kernel(net.apply_fn, 0, X, n_samples=4),
    "triple": lambda: ntk.from_neural_tangents((1, 2)),
    "input_shape": lambda: net.init_fn(0, (6,)),
    "kernel": lambda: gp.GP(3, noise=0.1),
    "positive": lambda: gp.GP(not_psd, noise=0.1).condition(X, y),
    "shape": lambda: gp.GP(lambda a, b=None: np.eye(3), noise=0.1).condition(X, y),
    "y must": lambda: prior.condition(X, y[:3]),
    "loss": lambda: gp.Ensemble(net, learning_rate=0.1, loss="foo"),
    "momentum": lambda: gp.Ensemble(net, learning_rate=0.1, momentum=1.5),
    "times": lambda: ensemble.train(X, y),
    "steps": lambda: ensemble.train(X, y, steps=[1.5]),
    "hyper-parameter": lambda: gp.log_evidence_grid(lambda a: np.eye(6), y, noise=0.1),
    "sizes": lambda: deeplimits.compare(1.0, lambda k, s: np.ones(5), [], key=0),
}


@pytest.mark.parametrize("message", OTHERS)
def test_bad_arguments(message):
    with pytest.raises(DeepLimitsError, match=message):
        OTHERS[message]()
