"""ELU, SELU and CELU duals against panel quadrature, limits and published constants."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erfcx

from deeplimits.errors import DomainError
from ntk.arccosine import ABRelu
from ntk.elu import SELU_ALPHA, SELU_SCALE, Celu, Elu, Selu

from . import dual_checks as checks
from .rotated_reference import check, check_gradients, reference

DUALS = {"elu": Elu(), "selu": Selu(), "celu": Celu(0.5), "deep": Elu(2.0)}


def numpy_functions(dual):
    alpha, scale, rate = (float(v) for v in (dual.alpha, dual.scale, dual.rate))

    def f(x):
        return scale * np.where(x > 0, x, alpha * np.expm1(rate * np.minimum(x, 0)))

    def df(x):
        return scale * np.where(x > 0, 1, alpha * rate * np.exp(rate * np.minimum(x, 0)))

    return f, df


def test_known_functions():
    x = jnp.linspace(-5, 5, 101)
    # rounding of exp against expm1
    np.testing.assert_allclose(Elu(1.3).fn(x), jax.nn.elu(x, 1.3), rtol=1e-14)
    np.testing.assert_allclose(Selu().fn(x), jax.nn.selu(x), rtol=1e-14)
    np.testing.assert_allclose(Celu(0.7).fn(x), jax.nn.celu(x, 0.7), rtol=1e-14)


@pytest.mark.parametrize("name", DUALS)
def test_generic_covariances(name):
    f, df = numpy_functions(DUALS[name])
    assert (
        checks.quadrature_error(checks.Case(DUALS[name], f, df, lambda *_: None), (0.0,)).ratio <= 1
    )


@pytest.mark.parametrize(
    ("name", "dtype", "rtol"),
    [(name, np.float64, 1e-12) for name in DUALS] + [("selu", np.float32, 1e-6)],
)
@pytest.mark.optimized
def test_delicate_points(name, dtype, rtol):
    f, df = numpy_functions(DUALS[name])
    small = [(1e-4, 2e-4, 0.5), (1e-6, 1e-6, 0.3), (1.0, 1.3, 1e-4)]
    check(DUALS[name], f, df, [*checks.POINTS, *small], dtype, rtol, (0.0,))


@pytest.mark.parametrize(
    ("q1", "q2", "eps"), [(25, 20, 0.1), (25, 20, 1.5), (100, 80, 1e-3), (100, 100, 0.5)]
)
def test_large_variances(q1, q2, eps):
    f, df = numpy_functions(Selu())
    K, Kdot, gap, *_ = reference(f, df, q1, q2, eps, (0.0,), width=0.5)
    found = checks.evaluate(Selu(), np.array([(q1, q2, eps)]), np.float64)
    np.testing.assert_allclose(
        np.ravel(found), (K, Kdot, gap), rtol=1e-12
    )  # promised; measured 1e-14


def test_huge_variance_is_finite():
    point = np.array([(1e6, 4e6, 0.3)])
    found, relu = (checks.evaluate(d, point, np.float64) for d in (Elu(), ABRelu()))
    # far from 0 ELU is ReLU - 1 below 0: corrections of order 1 / s
    np.testing.assert_allclose(found, relu, rtol=5e-3)


def test_variance_and_mean():
    for q in (1e-12, 1e-6, 1e-3, 0.0624, 0.0626, 0.24, 0.26, 1.0, 30.0, 1e4):
        a = np.sqrt(q / 2)
        mean = np.sqrt(q / (2 * np.pi)) - (1 - erfcx(a)) / 2
        # the reference cancels down to eps / mean for small q
        assert float(Elu().mean(q)) == pytest.approx(mean, rel=1e-14, abs=1e-15)
        square = q / 2 + (1 - 2 * erfcx(a) + erfcx(2 * a)) / 2
        assert float(Elu().variance(q)) == pytest.approx(square, rel=1e-13, abs=1e-15)


def test_selu_fixed_point():
    # Klambauer et al.: the constants make (0, 1) a fixed point of mean and variance
    assert float(Selu().mean(1.0)) == pytest.approx(0, abs=1e-15)
    assert float(Selu().variance(1.0)) == pytest.approx(1, rel=1e-14)
    assert pytest.approx((1.6732632423543772, 1.0507009873554805)) == (SELU_ALPHA, SELU_SCALE)


def test_zero_alpha_is_relu():
    found, want = (checks.evaluate(d, checks.POINTS, np.float64) for d in (Elu(0.0), ABRelu()))
    for a, b in zip(found, want, strict=True):
        # downwards from correlation 1: absolute rounding where the ReLU kernel vanishes
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=5e-15)


def test_zero_variance():
    f, df = numpy_functions(Selu())
    assert checks.zero_error(checks.Case(Selu(), f, df, lambda *_: None), (0.0,)).ratio <= 1


def test_price():
    assert checks.price_error(Selu()).ratio <= 1


def test_gradients_are_finite_in_float32():
    check_gradients(Selu(), np.float32)  # in float64 the next test takes them too


@pytest.mark.slow
def test_second_derivatives_are_finite():
    assert np.isfinite(checks.derivatives(Elu(1.3), np.float64)).all()


@jax.jit
@functools.partial(jax.grad, argnums=(0, 1))
def gradient(dual, point):
    """Derivatives of ``K`` by the parameters and by ``(q1, q2, eps)``."""
    return dual.kernel(*point)[0]


def test_slope_at_antipodes():
    # Price's theorem at eps = 2, where differentiating the angle gives 0 times infinity
    point = (1.3, 0.8, 2.0)
    slope = gradient(Elu(), point)[1][2]
    Kdot = checks.evaluate(Elu(), np.array([point]), np.float64)[1]
    assert float(slope) == pytest.approx(-np.sqrt(1.3 * 0.8) * Kdot[0], rel=1e-14)


def test_gradient_in_parameters():
    point, h = (1.1, 0.7, 0.4), 1e-5
    found = gradient(Elu(1.3, 1.1, 0.8), point)[0]
    moved = [(1.3 + h, 0.8), (1.3 - h, 0.8), (1.3, 0.8 + h), (1.3, 0.8 - h)]
    rows = np.array([point])
    K = [checks.evaluate(Elu(a, 1.1, r), rows, np.float64)[0][0] for a, r in moved]
    slopes = [(K[0] - K[1]) / (2 * h), (K[2] - K[3]) / (2 * h)]
    # truncation and rounding about 1e-10
    np.testing.assert_allclose([found.alpha, found.rate], slopes, atol=1e-8)


def test_errors():
    with pytest.raises(DomainError, match="alpha must be finite"):
        Elu(np.inf)
    with pytest.raises(DomainError, match="rate must be > 0"):
        Elu(1.0, 1.0, 0.0)
    with pytest.raises(DomainError, match="alpha must be > 0"):
        Celu(-1.0)
