"""Rectified duals and the polynomial tables behind them."""

import functools
import math

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from deeplimits.errors import DomainError, UnsupportedLayerError
from ntk import _arccos_tables
from ntk.arccosine import ABRelu, RectifiedMonomial, Sign, Step

from . import dual_checks as checks
from .dual_checks import Case


def piecewise(a, b):
    return lambda x: np.where(x > 0, b * x, a * x), lambda x: np.where(x > 0, b, a) * 1.0


def angle(q1, q12, q2):
    s = mp.sqrt(q1 * q2)
    return mp.acos(max(min(q12 / s, mp.mpf(1)), mp.mpf(-1)))


def relu_textbook(a, b):
    def kernel(q1, q12, q2):
        theta = angle(q1, q12, q2)
        arc = mp.sin(theta) + (mp.pi - theta) * mp.cos(theta)
        jump = (mp.mpf(a) - mp.mpf(b)) ** 2
        return jump / (2 * mp.pi) * mp.sqrt(q1 * q2) * arc + mp.mpf(a) * mp.mpf(b) * q12

    return kernel


@functools.cache
def arc_cosine(degree):
    """J_m = (-1)^m sin^(2m+1) ((1/sin) d/dtheta)^m ((pi - theta) / sin), by computer algebra."""
    theta = sympy.Symbol("theta")
    value = (sympy.pi - theta) / sympy.sin(theta)
    for _ in range(degree):
        value = sympy.diff(value, theta) / sympy.sin(theta)
    value = (-1) ** degree * sympy.sin(theta) ** (2 * degree + 1) * value
    return sympy.lambdify(theta, sympy.expand_trig(sympy.simplify(value)), "mpmath")


def rectified_textbook(degree):
    def kernel(q1, q12, q2):
        theta = angle(q1, q12, q2)
        if theta == 0:
            arc = mp.pi * math.prod(range(2 * degree - 1, 0, -2))
        elif theta == mp.pi:
            arc = mp.mpf(0)
        else:
            with mp.workdps(160 + 60 * degree):  # the terms cancel to theta^(2m + 1)
                arc = arc_cosine(degree)(theta)
        return mp.sqrt(q1 * q2) ** degree * arc / (2 * mp.pi)

    return kernel


def power(degree):
    def f(x):
        return np.where(x > 0, x, 0.0) ** degree if degree else np.where(x > 0, 1.0, 0.5 * (x == 0))

    def df(x):
        return degree * np.where(x > 0, x, 0.0) ** (degree - 1) if degree > 1 else (x > 0) * 1.0

    return f, df


RELU = [
    Case(ABRelu(a, b), *piecewise(a, b), relu_textbook(a, b), (a * b > 0, a * b != 0))
    for a, b in [(0.0, 1.0), (0.01, 1.0), (-1.0, 1.0), (2.0, -0.5), (1.0, 1.0), (-0.3, 0.0)]
]
POWERS = [
    Case(RectifiedMonomial(m), *power(m), rectified_textbook(m), gap_factor=8.0 * m)
    for m in (1, 2, 3, 5)
]
JUMPS = [
    Case(Step(), power(0)[0], None, lambda *q: (mp.pi - angle(*q)) / (2 * mp.pi)),
    Case(Sign(), np.sign, None, lambda *q: 1 - 2 * angle(*q) / mp.pi),
]
CASES = RELU + POWERS + JUMPS


@pytest.mark.parametrize("case", CASES, ids=str)
def test_quadrature(case):
    assert checks.quadrature_error(case, (0.0,)).ratio <= 1


@pytest.mark.parametrize("degree", [0, 4, 6, 7])
def test_quadrature_of_other_degrees(degree):
    f, df = power(degree)
    case = Case(RectifiedMonomial(degree), f, df if degree else None, None)
    assert checks.quadrature_error(case, (0.0,)).ratio <= 1


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.optimized
def test_float64(case):
    # 30 u: powers and sums of a few terms, each rounded once.
    assert checks.value_error(case, np.float64, 3e-15).ratio <= 1


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


@pytest.mark.parametrize("case", [*RELU[:4], *POWERS], ids=str)
@pytest.mark.optimized
def test_gap_keeps_relative_accuracy(case):
    points = np.array([(1.0, 1.0, e) for e in 10.0 ** np.arange(-14, -1)])
    for point, gap in zip(points, checks.evaluate(case.dual, points, np.float64)[2], strict=True):
        want = checks.reference_gap(case, *point)
        assert abs(gap / want - 1) < 1e-14  # homogeneous: eps' is eps times a series


@pytest.mark.parametrize("case", [*RELU, *POWERS], ids=str)
def test_price(case):
    assert checks.price_error(case.dual).ratio <= 1


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
@pytest.mark.parametrize("dual", [ABRelu(0.1, 1.0), RectifiedMonomial(2), Step(), Sign()], ids=str)
def test_derivatives_are_finite(dual, dtype):
    assert np.isfinite(checks.derivatives(dual, dtype)).all()


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.optimized
def test_zero_inputs(case):
    assert checks.zero_error(case, (0.0,)).ratio <= 1


def test_zero_input_has_a_right_angle():
    K, Kdot, gap = ABRelu().kernel(0.0, 2.0, 1.0)
    assert (K, Kdot) == (0.0, 0.25)
    assert np.isfinite(gap)


variances = st.floats(1e-3, 1e3)


@given(
    st.sampled_from(CASES),
    variances,
    variances,
    st.floats(0, 2),
    st.sampled_from([np.float32, np.float64]),
)
def test_properties(case, q1, q2, eps, dtype):
    assert checks.property_error(case.dual, q1, q2, eps, dtype).ratio <= 1


def test_large_variances_do_not_overflow():
    K, Kdot, gap = ABRelu().kernel(jnp.float32(1e38), jnp.float32(1e38), jnp.float32(0.5))
    # s1 s2 kappa_1 / 2 with kappa_1(1/2) = 0.6089977810442...; 1e-6 is the float32 accuracy.
    np.testing.assert_allclose(K, 1e38 * 0.30449889052, rtol=1e-6)
    assert np.isfinite(Kdot)
    assert np.isfinite(gap)


def test_broadcasting_and_transformations():
    q1, q2 = jnp.array([[0.5], [1.0]]), jnp.array([[1.0, 2.0, 3.0]])
    eps = jnp.full((2, 3), 0.25)
    out = jax.jit(ABRelu().kernel)(q1, q2, eps)
    assert [a.shape for a in out] == [(2, 3)] * 3
    stacked = ABRelu(jnp.array([0.0, 0.1]), jnp.array([1.0, 1.0]))
    K = jax.jit(jax.vmap(lambda d: d.kernel(q1, q2, eps)[0]))(stacked)
    want = jax.jit(ABRelu(0.1, 1.0).kernel)(q1, q2, eps)[0]
    np.testing.assert_allclose(K[1], want, rtol=4e-16)  # two roundings
    # A float64 parameter does not widen a float32 kernel.
    narrow = ABRelu(jnp.float64(0.1), np.float64(1.0)).kernel(
        *(jnp.float32(x) for x in (1, 2, 0.5))
    )
    assert all(a.dtype == jnp.float32 for a in narrow)


def test_parameter_derivative():
    slope = jax.grad(lambda a: ABRelu(a, 1.0).kernel(1.2, 0.7, 0.4)[0])(0.3)
    step = 1e-6
    up, down = (ABRelu(0.3 + h, 1.0).kernel(1.2, 0.7, 0.4)[0] for h in (step, -step))
    # K is quadratic in a: the central difference is exact up to rounding / step.
    np.testing.assert_allclose(slope, (up - down) / (2 * step), rtol=1e-9)


def test_degree_zero_is_the_step_and_one_is_relu():
    args = (1.2, 0.7, 0.4)
    assert RectifiedMonomial(0).kernel(*args) == Step().kernel(*args)
    assert not RectifiedMonomial(0).differentiable
    assert RectifiedMonomial(0).kinks == RectifiedMonomial(1).kinks == (0.0,)
    assert RectifiedMonomial(2).kinks == ()
    np.testing.assert_allclose(
        RectifiedMonomial(1).kernel(*args), ABRelu().kernel(*args), rtol=4e-16
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_activation(case):
    x = np.linspace(-2, 2, 9)
    np.testing.assert_allclose(case.dual.fn(jnp.asarray(x)), case.f(x), rtol=1e-15)


@pytest.mark.parametrize("dual", [Step(), Sign(), RectifiedMonomial(0)])
def test_jumps_have_no_ntk(dual):
    with pytest.raises(UnsupportedLayerError, match="no NTK exists"):
        dual.Kdot(1.0, 0.5, 1.0)


@pytest.mark.parametrize("degree", [-1, 1.5, 2.0, True, "two", 101])
def test_bad_degrees(degree):
    with pytest.raises(DomainError, match="degree must be"):
        RectifiedMonomial(degree)


@pytest.mark.parametrize("slope", [math.nan, math.inf, 1j, "steep"])
def test_bad_slopes(slope):
    with pytest.raises(DomainError, match="a must be"):
        ABRelu(slope, 1.0)


def chebyshev_fit(f, right, degree):
    """Interpolant at the Chebyshev nodes of [0, right] as monomial coefficients, ascending."""
    n = degree + 1
    nodes = [right / 2 * (1 + mp.cos(mp.pi * (2 * k + 1) / (2 * n))) for k in range(n)]
    newton = [f(t) for t in nodes]
    for j in range(1, n):
        for i in range(n - 1, j - 1, -1):
            newton[i] = (newton[i] - newton[i - 1]) / (nodes[i] - nodes[i - j])
    poly = [newton[-1]]
    for i in range(n - 2, -1, -1):
        shifted = [mp.mpf(0), *poly]
        poly = [high - nodes[i] * low for high, low in zip(shifted, [*poly, 0], strict=True)]
        poly[0] += newton[i]
    return poly


def arccos_ratio(t):
    return mp.acos(1 - t) / (mp.pi * mp.sqrt(t)) if t else mp.sqrt(2) / mp.pi


def arcsin_ratio(w):
    return (mp.asin(mp.sqrt(w)) / mp.sqrt(w) - 1) / w if w else mp.mpf(1) / 6


@pytest.mark.parametrize(
    ("name", "f", "right", "error"),
    [
        # The stated errors of the tables; arcsin's multiplies a correction of at most 1/24.
        ("ARCCOS_32", arccos_ratio, 1.0, 2e-8),
        ("ARCCOS_64", arccos_ratio, 1.0, 4e-18),
        ("ARCSIN_32", arcsin_ratio, 0.25, 2.3e-8),
        ("ARCSIN_64", arcsin_ratio, 0.25, 1e-16),
    ],
)
def test_tables(name, f, right, error):
    table = getattr(_arccos_tables, name)
    with mp.workdps(50):
        fit = chebyshev_fit(f, mp.mpf(right), len(table) - 1)
        for stored, computed in zip(table, fit, strict=True):
            # 12 printed digits for float32, 20 for float64.
            assert abs(stored / computed - 1) < (1e-11 if name.endswith("32") else 2e-16)
        for k in range(0, 101):
            x = mp.mpf(right) * k / 100
            assert abs(mp.polyval(fit[::-1], x) / f(x) - 1) < error
