"""The registry of activations, and sums, products and compositions of duals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from deeplimits.errors import DomainError
from ntk.activations import activation_names, compose, dual, product_of, sum_of
from ntk.arccosine import ABRelu, RectifiedMonomial, Step
from ntk.closed_forms import Erf, Gelu, Linear
from ntk.elu import Elu
from ntk.numerical import NumericalDual
from ntk.piecewise import PiecewiseLinear, hard_tanh, relu6
from ntk.polynomials import Hermite, Monomial

from . import dual_checks as checks

SIGMOID = special.expit


def _mish(x):
    return x * np.tanh(np.logaddexp(x, 0))


def _mish_slope(x):
    t = np.tanh(np.logaddexp(x, 0))
    return t + x * (1 - t**2) * SIGMOID(x)


def _gelu_tanh(x):
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _gelu_tanh_slope(x):
    c = np.sqrt(2 / np.pi)
    t = np.tanh(c * (x + 0.044715 * x**3))
    return (1 + t) / 2 + x / 2 * (1 - t**2) * c * (1 + 3 * 0.044715 * x**2)


#: Numerical duals with NumPy value and slope.
NUMERICAL = {
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "sigmoid": (SIGMOID, lambda x: SIGMOID(x) * SIGMOID(-x)),
    "silu": (lambda x: x * SIGMOID(x), lambda x: SIGMOID(x) * (1 + x * SIGMOID(-x))),
    "softplus": (lambda x: np.logaddexp(x, 0), SIGMOID),
    "log_sigmoid": (lambda x: -np.logaddexp(-x, 0), lambda x: SIGMOID(-x)),
    "mish": (_mish, _mish_slope),
    "gelu_tanh": (_gelu_tanh, _gelu_tanh_slope),
    "arctan": (np.arctan, lambda x: 1 / (1 + x**2)),
    "squareplus": (lambda x: (x + np.hypot(x, 2)) / 2, lambda x: (1 + x / np.hypot(x, 2)) / 2),
}


@pytest.mark.parametrize("name", NUMERICAL)
def test_numerical_activations(name):
    f, df = NUMERICAL[name]
    assert checks.quadrature_error(checks.Case(dual(name), f, df, lambda *_: None)).ratio <= 1


def test_every_name():
    x = jnp.linspace(-3, 3, 61)
    for name in activation_names():
        name = name.replace("<degree>", "3")
        d = dual(name.upper())
        if name != "exp_normalized":  # a kernel without a function
            y = d.fn(x)
            assert y.shape == x.shape
            assert np.all(np.isfinite(y))


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("tanh", jnp.tanh),
        ("sigmoid", jax.nn.sigmoid),
        ("swish", jax.nn.silu),
        ("softplus", jax.nn.softplus),
        ("mish", jax.nn.mish),
        ("softsign", jax.nn.soft_sign),
        ("leaky_relu", jax.nn.leaky_relu),
        ("relu6", jax.nn.relu6),
        ("gelu", lambda x: jax.nn.gelu(x, approximate=False)),
        ("gelu_tanh", lambda x: jax.nn.gelu(x, approximate=True)),
        ("hard_swish", jax.nn.hard_swish),
        ("selu", jax.nn.selu),
        ("celu", jax.nn.celu),
        ("elu", jax.nn.elu),
        ("abs", jnp.abs),
    ],
)
def test_names_mean_the_usual_functions(name, function):
    x = jnp.linspace(-6, 6, 121)
    np.testing.assert_allclose(dual(name).fn(x), function(x), rtol=1e-13, atol=1e-16)  # rounding


def test_families_and_pass_through():
    assert dual("hermite2") == Hermite(2)
    assert dual("monomial4") == Monomial(4)
    assert dual("rectified_monomial2") == RectifiedMonomial(2)
    d = ABRelu(0.1, 2.0)
    assert dual(d) is d
    assert dual("tanh") == dual("Tanh")
    assert isinstance(dual(jnp.tanh), NumericalDual)


@pytest.mark.parametrize(
    ("name", "other", "distance"),
    [
        ("sigmoid", dual("sigmoid_like"), 9.7e-3),
        ("sigmoid", Erf(0.5, np.sqrt(np.pi) / 4, 0.5), 1.8e-2),
        ("sigmoid", dual("hard_sigmoid"), 6.9e-2),
        ("tanh", Erf(1.0, np.sqrt(np.pi) / 2), 3.5e-2),
        ("tanh", dual("hard_tanh"), 2.4e-1),
        ("gelu", dual("gelu_tanh"), 4.7e-4),
        ("silu", dual("hard_swish"), 1.4e-1),
    ],
)
def test_look_alikes(name, other, distance):
    x = jnp.linspace(-20, 20, 40001)
    found = float(jnp.max(jnp.abs(dual(name).fn(x) - other.fn(x))))
    assert found == pytest.approx(distance, rel=0.02)  # two printed digits


def test_errors():
    with pytest.raises(DomainError, match="Did you mean 'tanh'"):
        dual("tahn")
    with pytest.raises(DomainError, match="or pass any elementwise function"):
        dual("qqq")
    with pytest.raises(DomainError, match="must be a name, a dual or a function"):
        dual(3)
    with pytest.raises(DomainError, match="kinks are known"):
        dual("relu", kinks=(0.0,))
    with pytest.raises(DomainError, match="At least one activation"):
        sum_of([])
    with pytest.raises(DomainError, match="Expected duals"):
        product_of(["relu"])


def test_sum_of_piecewise_linear_is_exact():
    d = sum_of([Linear(), ABRelu(0.0, 1.0), hard_tanh(), ABRelu(0.5, 0.5)])
    assert isinstance(d, PiecewiseLinear)
    assert d.knots == (-1.0, 0.0, 1.0)
    x = jnp.linspace(-3, 3, 61)
    want = x + jnp.maximum(x, 0) + jnp.clip(x, -1, 1) + x / 2
    np.testing.assert_allclose(d.fn(x), want, rtol=1e-14, atol=1e-15)  # rounding
    assert sum_of([hard_tanh()]) == hard_tanh()


def test_skip_connection():
    # identity + ReLU has slopes 1 and 2
    columns = [jnp.asarray(c) for c in checks.POINTS.T]
    found = sum_of([Linear(), ABRelu(0.0, 1.0)]).kernel(*columns)
    for a, b in zip(found, ABRelu(1.0, 2.0).kernel(*columns), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-15)  # rounding


def test_smooth_sum():
    # E[(x + g(x))(y + g(y))] with Stein's identity E[x g(y)] = q12 E[g'(y)]
    q11, q12, q22 = 1.1, 0.4, 0.7
    d = sum_of([Linear(), Gelu()])
    assert isinstance(d, NumericalDual)
    assert d.kinks == ()
    # E[gelu'(y)] = 1/2 for every variance, since gelu'(y) - 1/2 is odd
    want = 2 * q12 + float(Gelu().K(q11, q12, q22))
    assert float(d.K(q11, q12, q22)) == pytest.approx(want, rel=1e-13)


def test_product():
    assert product_of([Linear(), Linear(), Linear()]) == Monomial(3)
    # x_+ * |x| = x_+^2
    d = product_of([ABRelu(0.0, 1.0), ABRelu(-1.0, 1.0)])
    assert d.kinks == (0.0,)
    exact = RectifiedMonomial(2)
    np.testing.assert_allclose(d.K(1.1, 0.4, 0.7), exact.K(1.1, 0.4, 0.7), rtol=1e-13)
    np.testing.assert_allclose(d.Kdot(1.1, 0.4, 0.7), exact.Kdot(1.1, 0.4, 0.7), rtol=1e-13)
    jump = product_of([Linear(), Step()])
    assert not jump.differentiable


def test_composition_is_exact_where_possible():
    assert compose(Linear(), Gelu()) == Gelu()
    assert compose(Gelu(), Linear()) == Gelu()
    assert compose(ABRelu(0.2, 1.0), ABRelu(-1.0, 3.0)) == ABRelu(-1.0, 3.0)
    d = compose(relu6(), ABRelu(-1.0, 2.0))
    assert isinstance(d, PiecewiseLinear)
    assert d.knots == (-6.0, 0.0, 3.0)
    x = jnp.linspace(-8, 8, 161)
    want = jnp.clip(jnp.where(x > 0, 2 * x, -x), 0, 6)
    np.testing.assert_allclose(d.fn(x), want, atol=1e-14)  # rounding
    assert compose(ABRelu(0.0, 1.0), hard_tanh()).knots == (0.0, 1.0)


def test_kinks_of_a_composition():
    # erf(x) + 0.3 crosses 0 at -erfinv(0.3); x gelu-like functions reach a value twice
    d = compose(ABRelu(0.0, 1.0), Erf(1.0, 1.0, 0.3))
    np.testing.assert_allclose(d.kinks, [-special.erfinv(0.3)], rtol=1e-12)  # brentq tolerance
    d = compose(PiecewiseLinear((-0.1,), (1.0, 2.0)), Gelu())
    assert len(d.kinks) == 2
    np.testing.assert_allclose(Gelu().fn(jnp.asarray(d.kinks)), -0.1, rtol=1e-12)


def test_traced_parameters():
    def K(a, shift):
        layer = compose(ABRelu(0.0, 1.0), Erf(a, 1.0, shift))
        return layer.kernel(jnp.asarray(1.0), jnp.asarray(1.3), jnp.asarray(0.4))[0]

    # traced parameters take bisection instead of brentq
    np.testing.assert_allclose(jax.jit(K)(1.2, 0.3), K(1.2, 0.3), rtol=1e-13)

    def skip(a, b):
        total = sum_of([Linear(), ABRelu(a, b)])
        return total.kernel(jnp.asarray(1.0), jnp.asarray(1.3), jnp.asarray(0.4))[0]

    exact = lambda a, b: ABRelu(1 + a, 1 + b).kernel(1.0, 1.3, 0.4)[0]  # noqa: E731
    np.testing.assert_allclose(jax.jit(skip)(0.1, 0.9), exact(0.1, 0.9), rtol=1e-13)
    found, want = jax.grad(skip, (0, 1))(0.1, 0.9), jax.grad(exact, (0, 1))(0.1, 0.9)
    np.testing.assert_allclose(found, want, rtol=1e-12)
    twice = jax.jit(lambda a: compose(ABRelu(a, 1.0), ABRelu(a, 2.0)).fn(jnp.array([-1.0, 1.0])))
    np.testing.assert_allclose(twice(0.5), [-0.25, 2.0], rtol=1e-15)


def test_sum_with_kinks_is_numerical():
    d = sum_of([Linear(), Elu()])
    assert d.kinks == (0.0,)
    # E[x elu(y)] = q12 E[elu'(y)]; E[elu'] from the slope at zero covariance
    q11, q12, q22 = 1.1, 0.4, 0.7
    slopes = [np.sqrt(float(Elu().Kdot(q, 0.0, q))) for q in (q11, q22)]
    want = q12 * (1 + sum(slopes)) + float(Elu().K(q11, q12, q22))
    assert float(d.K(q11, q12, q22)) == pytest.approx(want, rel=1e-13)
