"""Duals of polynomials, at any variances."""

import math

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial import hermite_e, polynomial

from deeplimits.errors import DomainError
from ntk.polynomials import Hermite, Monomial, Polynomial

from . import dual_checks as checks
from .dual_checks import Case


def pairing(m, n, q1, q12, q2):
    """E[x^m y^n] by Isserlis' theorem: k pairs across, the rest within."""
    total = mp.mpf(0)
    for k in range(m % 2, min(m, n) + 1, 2):
        inner = math.prod(range(m - k - 1, 0, -2)) * math.prod(range(n - k - 1, 0, -2))
        ways = math.comb(m, k) * math.comb(n, k) * math.factorial(k) * inner
        total += ways * q12**k * q1 ** ((m - k) // 2) * q2 ** ((n - k) // 2)
    return total


def textbook(coefficients):
    terms = [(i, mp.mpf(c)) for i, c in enumerate(coefficients) if c]

    def kernel(q1, q12, q2):
        pairs = ((m, a, n, b) for m, a in terms for n, b in terms if (m - n) % 2 == 0)
        return mp.fsum(a * b * pairing(m, n, q1, q12, q2) for m, a, n, b in pairs)

    return kernel


def case(dual, coefficients, **options):
    slope = polynomial.polyder(np.array(coefficients, float))
    f = lambda x: polynomial.polyval(x, np.array(coefficients, float))  # noqa: E731
    df = lambda x: polynomial.polyval(x, slope)  # noqa: E731
    return Case(dual, f, df, textbook(coefficients), **options)


def hermite(degree):
    unit = [0.0] * degree + [1.0]
    exact = [mp.mpf(c) / mp.sqrt(math.factorial(degree)) for c in hermite_e.herme2poly(unit)]
    return case(Hermite(degree), [float(c) for c in exact], signed=(True, True)), exact


MONOMIALS = [
    case(Monomial(m), [0.0] * m + [1.0], signed=(m % 2 == 1, m % 2 == 0))
    for m in (0, 1, 2, 3, 5, 8)
]
MIXED = [
    case(Polynomial(c), c, signed=(True, True))
    for c in [(1.5,), (0.3, -1.0, 0.25, 0.0, 0.5), (0.0, 1.0, 0.0, -0.2)]
]
HERMITE = []
for degree in (0, 1, 2, 3, 6):
    floats, exact = hermite(degree)
    HERMITE.append(Case(floats.dual, floats.f, floats.df, textbook(exact), (True, True)))
CASES = MONOMIALS + MIXED + HERMITE


@pytest.mark.parametrize("case", CASES, ids=str)
def test_quadrature(case):
    assert checks.quadrature_error(case).ratio <= 1


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.optimized
def test_float64(case):
    # 80 u: up to 8 multiplications of rounded powers, and sums with signs.
    assert checks.value_error(case, np.float64, 8e-15).ratio <= 1


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.optimized
def test_float32(case):
    # The accuracy promised in float32; twice that for the 16 factors of x^8 y^8.
    assert (
        checks.value_error(case, np.float32, 2e-6 if case.dual == Monomial(8) else 1e-6).ratio <= 1
    )


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.optimized
def test_gap(case, dtype):
    assert checks.gap_error(case, dtype).ratio <= 1


@pytest.mark.parametrize("case", CASES, ids=str)
def test_price(case):
    assert checks.price_error(case.dual).ratio <= 1


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
@pytest.mark.parametrize("dual", [Monomial(3), Polynomial((0.3, -1.0, 0.5)), Hermite(4)], ids=str)
def test_derivatives_are_finite(dual, dtype):
    assert np.isfinite(checks.derivatives(dual, dtype)).all()


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.optimized
def test_zero_inputs(case):
    assert checks.zero_error(case).ratio <= 1


variances = st.floats(1e-3, 30)
dtypes = st.sampled_from([np.float32, np.float64])


@given(st.sampled_from(CASES), variances, variances, st.floats(0, 2), dtypes)
def test_properties(case, q1, q2, eps, dtype):
    assert checks.property_error(case.dual, q1, q2, eps, dtype).ratio <= 1


@pytest.mark.parametrize("degree", [1, 3, 7])
def test_hermite_is_a_power_at_unit_variance(degree):
    K, Kdot, _ = Hermite(degree).kernel(1.0, 1.0, 0.25)
    np.testing.assert_allclose(K, 0.75**degree, rtol=1e-14)  # rounding
    np.testing.assert_allclose(Kdot, degree * 0.75 ** (degree - 1), rtol=1e-14)


def test_high_hermite_degree_is_stable():
    # As a polynomial in monomials the terms would cancel by 1e20.
    K, _, _ = Hermite(60).kernel(1.0, 1.0, 0.01)
    np.testing.assert_allclose(K, 0.99**60, rtol=1e-13)  # 60 multiplications


def test_the_three_classes_agree():
    args = (1.3, 0.4, 0.7)
    cubic = (0.0, -3 / math.sqrt(6), 0.0, 1 / math.sqrt(6))
    for one, two in [
        (Polynomial((0.0, 0.0, 0.0, 1.0)), Monomial(3)),
        (Polynomial(cubic), Hermite(3)),
    ]:
        np.testing.assert_allclose(one.kernel(*args), two.kernel(*args), rtol=1e-13)  # rounding


def test_coefficients_may_be_arrays_and_are_differentiable():
    assert Polynomial(np.array([1.0, 2.0])) == Polynomial([1.0, 2.0]) == Polynomial((1.0, 2.0))
    slope = jax.grad(lambda c: Polynomial(c).kernel(1.2, 0.7, 0.4)[0])(jnp.array([0.2, 1.0, 0.5]))
    # dK / dc0 = E[f(x)] + E[f(y)] = 2 c0 + c2 (q1 + q2)
    np.testing.assert_allclose(slope[0], 2 * 0.2 + 0.5 * 1.9, rtol=1e-14)


def test_zero_polynomial():
    K, Kdot, gap = Polynomial((0.0,)).kernel(1.0, 2.0, 0.5)
    assert (K, Kdot, gap) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_activation(case):
    x = np.linspace(-2, 2, 9)
    np.testing.assert_allclose(case.dual.fn(jnp.asarray(x)), case.f(x), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", [Monomial, Hermite])
@pytest.mark.parametrize("degree", [-1, 1.5, 2.0, True, 101])
def test_bad_degrees(kind, degree):
    with pytest.raises(DomainError, match="degree must be"):
        kind(degree)


@pytest.mark.parametrize("coefficients", [(), [], (1.0,) * 102])
def test_wrong_number_of_coefficients(coefficients):
    with pytest.raises(DomainError, match="must hold 1 to 101 numbers"):
        Polynomial(coefficients)


@pytest.mark.parametrize("coefficients", [3.0, "abc", np.ones((2, 2))])
def test_coefficients_must_be_a_sequence(coefficients):
    with pytest.raises(DomainError, match="must be a sequence of numbers"):
        Polynomial(coefficients)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1j, "one"])
def test_bad_coefficients(value):
    with pytest.raises(DomainError, match=r"coefficients\[1\] must be"):
        Polynomial((1.0, value))
