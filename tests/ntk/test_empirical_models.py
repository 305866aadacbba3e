"""Kernels of models of other libraries, and what is refused."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax import lax

from deeplimits.errors import DomainError, ShapeError
from ntk import empirical
from ntk.compose import serial
from ntk.empirical import empirical_nngp, empirical_ntk
from ntk.layers import Dense
from ntk.models import as_function

from .empirical_reference import METHODS, assert_close, brute_force, normal


@pytest.fixture
def permissive():
    """flax mixes dtypes and ranks, which the strict settings of the test-suite refuse."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.gelu(nn.LayerNorm()(nn.Conv(4, (3, 3), feature_group_count=2)(x)))
        x = nn.Conv(4, (2, 2), strides=2)(x)
        x = nn.BatchNorm(use_running_average=True)(x)
        x = nn.MultiHeadDotProductAttention(num_heads=2)(x.reshape(x.shape[0], -1, 4))
        return nn.Dense(3)(x.mean(1))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(5, 6, rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.second = nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x):
        return self.second(nnx.relu(self.norm(self.first(x))))


def own_network():
    net = serial(Dense(7, W_std=1.3, b_std=0.2), Dense(2, parameterization="standard"))
    _, params = net.init_fn(jax.random.key(17), (-1, 5))
    return net, params, normal(18, (3, 5))[0]


def linen_model():
    (x,) = normal(10, (3, 4, 4, 2))
    module = Linen()
    variables = module.init(jax.random.key(11), x.astype(jnp.float32))
    variables = jax.tree.map(lambda a: a.astype(jnp.float64), variables)
    return module, variables, x


def nnx_model():
    model = Nnx(nnx.Rngs(0))
    model.eval()
    nnx.update(model, jax.tree.map(lambda a: a.astype(jnp.float64), nnx.state(model, nnx.Param)))
    return model, None, normal(12, (3, 5))[0]


def equinox_model():
    model = eqx.nn.MLP(5, 2, 8, 2, key=jax.random.key(13), dtype=jnp.float64)
    return model, None, normal(14, (3, 5))[0]


@pytest.mark.parametrize("make", [own_network, linen_model, nnx_model, equinox_model])
def test_library_models_match_brute_force(make, permissive):
    model, params, x = make()
    f, differentiable = as_function(model, params)
    expected = brute_force(f, differentiable, x, x)
    for method in METHODS:
        assert_close(empirical_ntk(model, params, x, reduce="full", method=method), expected)


def test_linen_statistics_are_not_differentiated(permissive):
    module, variables, x = linen_model()
    shares = empirical_ntk(module, variables, x, by_layer=True)
    assert len(shares) == len(jax.tree.leaves(variables["params"]))
    assert len(shares) < len(jax.tree.leaves(variables))


def test_equinox_model_has_the_outputs_of_its_function():
    model, _, x = equinox_model()
    f, params = as_function(model)
    assert_close(f(params, x), jax.vmap(model)(x))


def test_batch_normalisation_is_refused(permissive):
    model, x = Nnx(nnx.Rngs(0)), normal(12, (3, 5))[0].astype(jnp.float32)
    model.train()
    with pytest.raises(DomainError, match="mixes the rows of a batch"):
        empirical_ntk(model, None, x)


def linear(params, x):
    return x @ params


ONES = jnp.ones((3, 2))


def mixing(p, x):
    y = x @ p
    return y - y.mean(0, keepdims=True)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: empirical_ntk(linear, ONES, jnp.ones(3)), ShapeError, r"\(n, d\)"),
        (lambda: empirical_ntk(linear, ONES, jnp.ones((0, 3))), ShapeError, "empty"),
        (lambda: empirical_ntk(linear, ONES, jnp.array([[1, jnp.nan, 0]])), DomainError, "x1"),
        (lambda: empirical_ntk(linear, ONES, ONES.T, jnp.full((1, 3), jnp.inf)), DomainError, "x2"),
        (lambda: empirical_ntk(linear, ONES, ONES.T, jnp.ones((2, 4))), ShapeError, "agree"),
        (lambda: empirical_ntk(linear, ONES, ONES.T, reduce="sum"), DomainError, "'trace'"),
        (lambda: empirical_ntk(linear, ONES, ONES.T, method="fast"), DomainError, "'structured'"),
        (lambda: empirical_ntk(linear, ONES, ONES.T, block_size=0), DomainError, "block_size"),
        (lambda: empirical_ntk(linear, ONES, ONES.T, block_size=1.5), DomainError, "block_size"),
        (lambda: empirical_ntk(linear, ONES, ONES.T, block_bytes=0), DomainError, "block_bytes"),
        (
            lambda: empirical_ntk(linear, ONES, ONES.T, method="vector_products", by_layer=True),
            DomainError,
            "by_layer",
        ),
        (lambda: empirical_ntk(linear, lax.complex(ONES, ONES), ONES.T), DomainError, "is complex"),
        (lambda: empirical_ntk(linear, jnp.ones((3, 2), int), ONES.T), DomainError, "nothing to"),
        (lambda: empirical_ntk(linear, None, ONES.T), DomainError, "params is None"),
        (lambda: empirical_ntk("relu", ONES, ONES.T), DomainError, "f must be a function"),
        (lambda: empirical_ntk(linear, ONES * jnp.nan, ONES.T), DomainError, r"f\(params, x\)"),
        (
            lambda: empirical_ntk(lambda p, x: (x @ p).argmax(1), ONES, ONES.T),
            DomainError,
            "dtype int",
        ),
        (
            lambda: empirical_ntk(lambda p, x: lax.complex(x @ p, x @ p), ONES, ONES.T),
            DomainError,
            "dtype complex",
        ),
        (lambda: empirical_ntk(lambda p, x: (x @ p).sum(), ONES, ONES.T), ShapeError, r"\(n,\)"),
        (lambda: empirical_ntk(lambda p, x: (x @ p).T[:1], ONES, ONES.T), ShapeError, "first"),
        (lambda: empirical_ntk(lambda p, x: (x @ p, 0), ONES, ONES.T), ShapeError, "got tuple"),
        (lambda: empirical_ntk(mixing, ONES, jnp.arange(6.0).reshape(2, 3)), DomainError, "mixes"),
        (lambda: empirical_ntk(Linen(), {"w": ONES}, ONES.T), DomainError, "collection 'params'"),
        (lambda: empirical_nngp(linear, ONES, jnp.ones(3)), ShapeError, r"\(n, d\)"),
        (lambda: empirical_nngp(mixing, ONES, jnp.arange(6.0).reshape(2, 3)), DomainError, "mixes"),
    ],
)
def test_errors(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_results_larger_than_the_machine_are_refused(monkeypatch):
    monkeypatch.setattr(empirical, "_machine_bytes", lambda: 100)
    with pytest.raises(DomainError, match="empirical_ntk_operator"):
        empirical_ntk(linear, ONES, ONES.T, reduce="full")


def test_mean_over_the_batch_size_is_refused():
    with pytest.raises(DomainError, match="mixes"):
        empirical_ntk(lambda p, x: x @ p / x.shape[0], ONES, ONES.T)
