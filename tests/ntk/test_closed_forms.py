"""Duals of the smooth activations and the gap helpers that they share."""

import math

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import erf
from scipy.stats import norm

from deeplimits.errors import DomainError, UnsupportedLayerError
from ntk.closed_forms import (
    Cos,
    Erf,
    Exp,
    ExpNormalized,
    Gabor,
    Gaussian,
    Gelu,
    Linear,
    Rbf,
    Sin,
    sigmoid_like,
)
from ntk.gap import kernel_rise, scale_deficit

from . import dual_checks as checks
from .dual_checks import Case
from .dual_oracle import mp_reference


def linear():
    return Case(Linear(), lambda x: x, np.ones_like, lambda q1, q12, q2: q12, (True, False))


def error_function(a, b, c, **tolerances):
    def kernel(q1, q12, q2):
        k = 2 * mp.mpf(b) ** 2
        r = k * q12 / mp.sqrt((1 + k * q1) * (1 + k * q2))
        return 2 * mp.mpf(a) ** 2 / mp.pi * mp.asin(r) + mp.mpf(c) ** 2

    def df(x):
        return 2 * a * b / np.sqrt(np.pi) * np.exp(-((b * x) ** 2))

    signed = (a != c, False)
    return Case(Erf(a, b, c), lambda x: a * erf(b * x) + c, df, kernel, signed, **tolerances)


def gelu():
    def kernel(q1, q12, q2):
        d = (1 + q1) * (1 + q2) - q12**2
        n = q1 * q2 + q12**2 - q12**2 * (q1 / (1 + q1) + q2 / (1 + q2))
        arc = mp.mpf(1) / 4 + mp.atan2(q12, mp.sqrt(d)) / (2 * mp.pi)
        return q12 * arc + n / (2 * mp.pi * mp.sqrt(d))

    def df(x):
        return norm.cdf(x) + x * norm.pdf(x)

    return Case(Gelu(), lambda x: x * norm.cdf(x), df, kernel, (True, True))


def wave(dual, sign):
    a, b, c = dual.a, dual.b, dual.c

    def kernel(q1, q12, q2):
        near, far = (mp.exp(-(mp.mpf(b) ** 2) * (q1 + q2 - 2 * k) / 2) for k in (q12, -q12))
        return mp.mpf(a) ** 2 / 2 * (near - sign * mp.cos(2 * mp.mpf(c)) * far)

    if sign > 0:
        f, df = lambda x: a * np.sin(b * x + c), lambda x: a * b * np.cos(b * x + c)
    else:
        f, df = lambda x: a * np.cos(b * x + c), lambda x: -a * b * np.sin(b * x + c)
    # sin without phase is almost linear for small variances.
    return Case(dual, f, df, kernel, (True, True), ratio_factor=1.0)


def rbf(gamma):
    w = math.sqrt(2 * gamma)
    f = lambda x: math.sqrt(2) * np.sin(w * x + math.pi / 4)  # noqa: E731
    df = lambda x: math.sqrt(2) * w * np.cos(w * x + math.pi / 4)  # noqa: E731
    return Case(Rbf(gamma), f, df, lambda q1, q12, q2: mp.exp(-mp.mpf(gamma) * (q1 + q2 - 2 * q12)))


def exponential(a, b):
    def kernel(q1, q12, q2):
        return mp.mpf(a) ** 2 * mp.exp(mp.mpf(b) ** 2 * (q1 + q2 + 2 * q12) / 2)

    return Case(Exp(a, b), lambda x: a * np.exp(b * x), lambda x: a * b * np.exp(b * x), kernel)


def gaussian(a, b):
    def kernel(q1, q12, q2):
        k = 2 * mp.mpf(b)
        return mp.mpf(a) ** 2 / mp.sqrt((1 - k * q1) * (1 - k * q2) - (k * q12) ** 2)

    def df(x):
        return 2 * a * b * x * np.exp(b * x * x)

    return Case(Gaussian(a, b), lambda x: a * np.exp(b * x * x), df, kernel, (False, True))


def gabor():
    def kernel(q1, q12, q2):
        d = 1 + 2 * (q1 + q2) + 4 * (q1 * q2 - q12**2)
        m = q1 + q2 + 4 * (q1 * q2 - q12**2) + 2 * q12
        return mp.exp(-m / (2 * d)) * mp.expm1(2 * q12 / d) / (2 * mp.sqrt(d))

    def df(x):
        return np.exp(-x * x) * (np.cos(x) - 2 * x * np.sin(x))

    f = lambda x: np.exp(-x * x) * np.sin(x)  # noqa: E731
    return Case(Gabor(), f, df, kernel, (True, False), ratio_factor=1.0)


CASES = [
    linear(),
    error_function(1.0, 1.0, 0.0),
    error_function(0.5, 1 / 2.4020563531719796, 0.5),
    error_function(2.0, 3.0, -0.3),
    error_function(1.0, -0.1, 0.0),
    gelu(),
    wave(Sin(), 1),
    wave(Sin(2.0, 0.5, 0.3), 1),
    wave(Sin(1.0, -1.5, 2.0), 1),
    wave(Cos(), -1),
    wave(Cos(2.0, 0.5, 0.3), -1),
    rbf(0.3),
    rbf(1.0),
    exponential(1.0, 1.0),
    exponential(0.3, -1.2),
    gaussian(1.0, -1.0),
    gaussian(2.0, -0.3),
    gabor(),
]
DUALS = [case.dual for case in CASES] + [ExpNormalized(), ExpNormalized(0.7, 0.1)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_quadrature(case):
    assert checks.quadrature_error(case).ratio <= 1


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.optimized
def test_float64(case):
    # 40 u: exponents of up to 7 multiply the rounding of their arguments.
    assert checks.value_error(case, np.float64, 4e-15).ratio <= 1


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.optimized
def test_float32(case):
    # The accuracy promised in float32.
    assert checks.value_error(case, np.float32, 1e-6).ratio <= 1


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.optimized
def test_gap(case, dtype):
    assert checks.gap_error(case, dtype).ratio <= 1


@pytest.mark.parametrize(
    ("dual", "f", "df"),
    [
        (Erf(), mp.erf, lambda x: 2 / mp.sqrt(mp.pi) * mp.exp(-x * x)),
        (Gelu(), lambda x: x * mp.ncdf(x), lambda x: mp.ncdf(x) + x * mp.npdf(x)),
    ],
)
@pytest.mark.optimized
def test_near_duplicates_by_quadrature(dual, f, df):
    q1, q2, eps = 1.0, 1.0 + 2.0**-20, 2.0**-34
    K, Kdot, gap = dual.kernel(q1, q2, eps)
    want_K, want_Kdot, want_gap = mp_reference(f, df, q1, q2, eps)
    # A few roundings for the kernels; for the gap u sqrt(gap) / gap = 1e-16 / 1e-5.
    np.testing.assert_allclose((K, Kdot), (float(want_K), float(want_Kdot)), rtol=2e-15)
    np.testing.assert_allclose(gap, float(want_gap), rtol=1e-10)


@pytest.mark.parametrize("dual", DUALS, ids=str)
def test_price(dual):
    assert checks.price_error(dual).ratio <= 1


# float32 underflows first; the branches are the same in float64.
@pytest.mark.parametrize(
    ("dual", "dtype"),
    [
        *((Erf(1.0, 0.8, 0.2), jnp.float32), (Gelu(), jnp.float32), (Gabor(), jnp.float32)),
        *((d, t) for d in (Sin(1.0, 1.0, 0.3), Gaussian()) for t in (jnp.float64, jnp.float32)),
        *((d, jnp.float32) for d in (Cos(), Rbf(), Exp(), ExpNormalized(), Linear())),
    ],
    ids=str,
)
def test_derivatives_are_finite(dual, dtype):
    assert np.isfinite(checks.derivatives(dual, dtype)).all()


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.optimized
def test_zero_inputs(case):
    assert checks.zero_error(case).ratio <= 1


variances = st.floats(1e-3, 30)
dtypes = st.sampled_from([np.float32, np.float64])


@given(st.sampled_from(DUALS), variances, variances, st.floats(0, 2), dtypes)
def test_properties(dual, q1, q2, eps, dtype):
    if isinstance(dual, Exp):
        q1, q2 = q1 / 10, q2 / 10  # exp(2 q) is conditioned like 2 q and overflows float32 at 44
    assert checks.property_error(dual, q1, q2, eps, dtype).ratio <= 1


@pytest.mark.parametrize("dual", [Erf(), Gelu(), Sin(), Cos(), Gaussian(), Gabor(), Rbf()], ids=str)
@pytest.mark.optimized
def test_large_variances(dual):
    q = jnp.array([1e4, 1e8, 1e12], jnp.float32)
    for eps in (0.0, 0.5, 2.0):
        for value in dual.kernel(q, q[::-1], jnp.full_like(q, eps)):
            assert np.all(np.isfinite(value))
        assert np.all(np.isfinite(dual.variance(q)))


@pytest.mark.optimized
def test_overflowing_exponential_keeps_its_gap():
    K, _, gap = Exp().kernel(jnp.float32(400.0), jnp.float32(401.0), jnp.float32(1e-3))
    assert np.isinf(K)  # exp(800)
    s1, s2 = math.sqrt(400.0), math.sqrt(401.0)
    want = -math.expm1(-((s1 - s2) ** 2 + 2 * s1 * s2 * 1e-3) / 2)
    np.testing.assert_allclose(gap, want, rtol=1e-6)  # float32


def test_exp_normalized():
    K, Kdot, gap = ExpNormalized(0.7, 0.1).kernel(1.2, 0.5, 0.3)
    factor = math.exp(0.7 * (0.7 + 0.1))
    # Definitions; a few roundings.
    np.testing.assert_allclose(K, math.sqrt(0.6) * factor, rtol=1e-15)
    np.testing.assert_allclose(Kdot, 0.7 * factor, rtol=1e-15)
    np.testing.assert_allclose(gap, 1 - math.exp(-0.7 * 0.3), rtol=1e-14)
    assert ExpNormalized().variance(1.7) == 1.7
    zero = ExpNormalized().kernel(0.0, 1.0, 1.0)
    assert (zero[0], zero[2]) == (0.0, 1.0)


def test_exp_normalized_has_no_activation():
    for call in (ExpNormalized().fn, ExpNormalized().mean):
        with pytest.raises(UnsupportedLayerError, match="without an activation"):
            call(1.0)


def test_sigmoid_like():
    x = jnp.linspace(-8, 8, 401)
    difference = jnp.abs(sigmoid_like().fn(x) - jax.nn.sigmoid(x)).max()
    np.testing.assert_allclose(difference, 9.7e-3, atol=5e-5)  # the published two digits


@pytest.mark.parametrize("case", CASES, ids=str)
def test_activation(case):
    x = np.linspace(-3, 3, 13)
    np.testing.assert_allclose(case.dual.fn(jnp.asarray(x)), case.f(x), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(
    "dual", [Erf(1.0, 0.8, 0.2), Sin(1.0, 0.9, 0.3), Gaussian(1.0, -0.4)], ids=str
)
def test_parameter_derivatives(dual):
    leaves, tree = jax.tree.flatten(dual)

    def outputs(leaves):
        return jnp.stack(jax.tree.unflatten(tree, leaves).kernel(1.2, 0.7, 0.4))

    outputs = jax.jit(outputs)
    slopes = jax.jit(jax.jacfwd(outputs))(leaves)
    for i, slope in enumerate(slopes):
        step = 1e-5
        up, down = ([x + h * (j == i) for j, x in enumerate(leaves)] for h in (step, -step))
        # Central difference: step^2 = 1e-10 times third derivatives, plus 1e-16 / step.
        np.testing.assert_allclose(slope, (outputs(up) - outputs(down)) / (2 * step), atol=1e-8)


@pytest.mark.parametrize("dual", [Erf(), Gelu()], ids=str)
def test_kernel_rise(dual):
    q1, q2 = jnp.array([[0.3], [1.5]]), jnp.array([[0.7, 2.0]])
    kernel = jax.jit(dual.kernel)
    rises = jax.jit(lambda eps: kernel_rise(lambda *a: dual.kernel(*a)[1], q1, q2, eps))
    for eps in (1e-10, 1e-3, 0.1):
        gap, start = (kernel(q1, q2, jnp.full((2, 2), e))[2] for e in (eps, 0.0))
        want = (gap - start) * jnp.sqrt(dual.variance(q1) * dual.variance(q2))
        # The difference of two gaps of about 0.1 is known to 1e-16 only; 1e-12: 8 nodes.
        np.testing.assert_allclose(rises(jnp.full((2, 2), eps)), want, rtol=1e-12, atol=2e-16)


@pytest.mark.parametrize("dual", [Erf(), Gelu(), Cos()], ids=str)
def test_scale_deficit(dual):
    q1, q2 = jnp.array([[0.3], [1.5]]), jnp.array([[0.3, 0.30001, 2.0]])
    root1, root2 = jnp.sqrt(dual.variance(q1)), jnp.sqrt(dual.variance(q2))
    deficit = scale_deficit(dual.fn, q1, q2, root1, root2)
    pairs = np.array([(a, b, 0.0) for a in (0.3, 1.5) for b in (0.3, 0.30001, 2.0)])
    want = checks.evaluate(dual, pairs, np.float64)[2].reshape(2, 3)
    # The relative accuracy of both for nearly equal lengths is u / |s1 / s2 - 1| = 1e-11.
    np.testing.assert_allclose(deficit, want, rtol=1e-10, atol=1e-18)
    assert deficit[0, 0] == 0


@pytest.mark.parametrize("b", [0.0, 0.1, math.nan])
def test_gaussian_must_decay(b):
    with pytest.raises(DomainError, match="b must be"):
        Gaussian(1.0, b)


@pytest.mark.parametrize("gamma", [0.0, -1.0, math.inf])
def test_rbf_needs_a_positive_rate(gamma):
    with pytest.raises(DomainError, match="gamma must be"):
        Rbf(gamma)


def test_exp_normalized_needs_a_positive_rate():
    with pytest.raises(DomainError, match="gamma must be >= 0"):
        ExpNormalized(-0.1)


@pytest.mark.parametrize("kind", [Erf, Sin, Cos, Exp, Gaussian])
@pytest.mark.parametrize("value", [math.nan, math.inf, 1j, "large"])
def test_bad_parameters(kind, value):
    with pytest.raises(DomainError, match="a must be"):
        kind(a=value)
