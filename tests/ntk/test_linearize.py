"""Taylor polynomials of networks against nested derivatives and exact polynomials."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from deeplimits.errors import DomainError, ShapeError, UnsupportedLayerError
from ntk.linearize import linearize, taylor_expand

KEY = jax.random.key(0)
W0, W1, D0, D1, X = (
    0.5 * jax.random.normal(k, s)
    for k, s in zip(jax.random.split(KEY, 5), [(3, 4), (4, 2), (3, 4), (4, 2), (5, 3)], strict=True)
)
CENTRE, STEP = [W0, W1], [D0, D1]


def network(activation):
    return lambda p, x: activation(x @ p[0]) @ p[1]


def moved(t):
    return [a + t * b for a, b in zip(CENTRE, STEP, strict=True)]


def derivative(g):
    return lambda s: jax.jvp(g, (s,), (1.0,))[1]


def nested(f, degree, t):
    """The polynomial by repeated forward derivatives along the ray (exponential cost)."""
    g = lambda s: f(moved(s), X)  # noqa: E731
    total, factor = g(0.0), 1.0
    for k in range(1, degree + 1):
        g = derivative(g)
        factor *= t / k
        total = total + factor * g(0.0)
    return total


ACTIVATIONS = {
    "tanh": jnp.tanh,
    "erf": jax.scipy.special.erf,
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "mish": jax.nn.mish,
    "elu": jax.nn.elu,
    "softmax": jax.nn.softmax,
    "standardize": jax.nn.standardize,
    "remat": jax.checkpoint(jnp.sin),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_taylor_matches_nested_derivatives(name):
    f = network(ACTIVATIONS[name])
    for degree in (0, 1, 2, 4):
        value = taylor_expand(f, CENTRE, degree)(moved(0.3), X)
        # float64 rounding of a few hundred operations on numbers of order one
        np.testing.assert_allclose(value, nested(f, degree, 0.3), rtol=0, atol=1e-13)


def test_softplus_at_equal_arguments():
    """At exactly zero pre-activation the maximum inside softplus has a kink, softplus has none."""
    f = network(jax.nn.softplus)
    zero = [jnp.zeros_like(W0), W1]
    value = taylor_expand(f, zero, 2)([D0, W1], X)
    h = X @ D0
    expected = (jnp.log(2.0) + h / 2 + h**2 / 8) @ W1
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-14)  # rounding


def test_linear_network_is_its_own_polynomial():
    """A deep linear network with L layers is a polynomial of degree L in its parameters."""
    f = network(lambda h: h)
    np.testing.assert_allclose(
        taylor_expand(f, CENTRE, 2)(moved(1.7), X), f(moved(1.7), X), rtol=0, atol=1e-13
    )
    assert float(jnp.abs(taylor_expand(f, CENTRE, 1)(moved(1.7), X) - f(moved(1.7), X)).max()) > 0.1


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_error_order(degree):
    f = network(jnp.tanh)
    steps = np.array([0.02, 0.04])
    errors = [
        float(jnp.abs(taylor_expand(f, CENTRE, degree)(moved(t), X) - f(moved(t), X)).max())
        for t in steps
    ]
    slope = np.log(errors[1] / errors[0]) / np.log(2)
    # the next term of the series changes the local slope by O(t)
    assert abs(slope - (degree + 1)) < 0.1


def test_linearize_is_exact_tangent():
    f = network(jnp.tanh)
    tangent = linearize(f, CENTRE)
    np.testing.assert_array_equal(tangent(CENTRE, X), f(CENTRE, X))
    once, twice = (tangent(moved(t), X) - f(CENTRE, X) for t in (1.0, 2.0))
    np.testing.assert_allclose(twice, 2 * once, rtol=0, atol=1e-13)  # rounding
    at = jax.jacrev(lambda p: f(p, X))(CENTRE)
    away = jax.jacrev(lambda p: tangent(p, X))(moved(3.0))
    for a, b in zip(at, away, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-13)  # rounding


@pytest.mark.optimized
def test_linearize_in_float32_and_jit():
    f = network(jnp.tanh)
    single = jax.tree.map(lambda a: a.astype(jnp.float32), (CENTRE, moved(0.5), X))
    for degree in (1, 3):
        value = jax.jit(taylor_expand(f, single[0], degree))(*single[1:])
        assert value.dtype == jnp.float32
        # float32 rounding of a few dozen operations on numbers of order one
        np.testing.assert_allclose(value, nested(f, degree, 0.5), rtol=0, atol=1e-5)


def test_convolution_and_embedding():
    def f(p, tokens):
        h = p["table"][tokens]
        h = lax.conv_general_dilated(
            h, p["kernel"], (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC")
        )
        return jnp.tanh(h).sum(1)

    keys = jax.random.split(KEY, 4)
    params = {
        "table": jax.random.normal(keys[0], (6, 3)),
        "kernel": jax.random.normal(keys[1], (3, 3, 2)),
    }
    other = {
        "table": jax.random.normal(keys[2], (6, 3)),
        "kernel": jax.random.normal(keys[3], (3, 3, 2)),
    }
    tokens = jnp.array([[0, 1, 1, 5], [2, 2, 4, 3]])

    def ray(t):
        return f(jax.tree.map(lambda a, b: a + t * (b - a), params, other), tokens)

    expected = ray(0.0) + derivative(ray)(0.0) + derivative(derivative(ray))(0.0) / 2
    value = taylor_expand(f, params, 2)(other, tokens)
    np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-12)  # rounding


def test_frozen_leaves_stay():
    params = {"w": W0, "order": jnp.array([1, 0, 3, 2])}
    f = lambda p, x: jnp.tanh(x @ p["w"])[:, p["order"]]  # noqa: E731
    for degree in (1, 2):
        value = taylor_expand(f, params, degree)({"w": W0 + D0, "order": jnp.zeros(4, int)}, X)
        expected = taylor_expand(lambda p, x: jnp.tanh(x @ p), W0, degree)(W0 + D0, X)
        np.testing.assert_allclose(value, expected[:, params["order"]], atol=1e-14)  # rounding


def test_taylor_cost():
    """Operations grow as a power of the degree (nested derivatives double them every time)."""
    f = network(jnp.tanh)

    def flops(degree):
        polynomial = jax.jit(taylor_expand(f, CENTRE, degree))
        cost = polynomial.lower(STEP, X).compile().cost_analysis()
        return (cost[0] if isinstance(cost, list) else cost)["flops"]

    counts = np.array([flops(degree) for degree in range(1, 9)])
    ratios = counts[1:] / counts[:-1]
    # (d + 1)^2 / d^2 with the lower orders on top; doubling would keep all of them at 2
    assert (ratios[2:] < 1.8).all()
    assert (np.diff(ratios[2:]) < 0.02).all()
    assert counts[7] < 1.5 * 4 * counts[3]  # quadratic: a factor 4 from degree 4 to 8, not 16


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: taylor_expand(network(jnp.tanh), CENTRE, -1), DomainError, "degree"),
        (lambda: taylor_expand(network(jnp.tanh), CENTRE, 1.5), DomainError, "degree"),
        (lambda: linearize(network(jnp.tanh), jnp.arange(3)), DomainError, "nothing to"),
        (lambda: linearize(network(jnp.tanh), [lax.complex(W0, W0), W1]), DomainError, "complex"),
        (lambda: linearize(network(jnp.tanh), CENTRE)([W0], X), ShapeError, "structure"),
        (lambda: linearize(network(jnp.tanh), CENTRE)([W0, W1.T], X), ShapeError, "structure"),
        (
            lambda: taylor_expand(network(lambda h: jnp.sort(h, -1)), CENTRE, 2)(STEP, X),
            UnsupportedLayerError,
            "sort has no Taylor rule",
        ),
        (
            lambda: taylor_expand(
                network(lambda h: lax.fori_loop(0, 2, lambda i, c: c * c, h)), CENTRE, 2
            )(STEP, X),
            UnsupportedLayerError,
            "scan has no Taylor rule",
        ),
    ],
)
def test_errors(call, error, match):
    with pytest.raises(error, match=match):
        call()
