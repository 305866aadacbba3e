"""Koenigs and Boettcher functions: 360-digit iterations, functional equations, derivatives."""

import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.special

from deeplimits import DomainError, ShapeError
from ntk.hermite_series import hermite_series, series_dual
from ntk.koenigs import (
    boettcher,
    depth_map,
    koenigs,
    layer_gap,
    log_koenigs,
    log_koenigs_at_one,
    schroeder_coefficients,
)

CONSISTENT = {
    1: [0, 0.5, 0, 0, 0, 0, 0, 0.5],
    2: [0, 0.5, 0, 0.5],
    4: [0, 0.25, 0.5, 0.25],
    8: [0, 1 / 16, 7 / 8, 1 / 16],
}
EPS = np.array([1e-300, 1e-100, 1e-10, 1e-3, 0.1, 0.5, 0.9, 0.999, 1.3])


def layer(activation):
    return depth_map(hermite_series(activation))


def iterate(c, eps, stop):
    """The iterates of the correlation in mpmath, and the products of slopes, until ``stop(r)``."""
    c = [mpmath.mpf(v) for v in c]
    r, slope, steps = 1 - mpmath.mpf(float(eps)), mpmath.mpf(1), 0
    while not stop(r):
        slope *= mpmath.polyval([k * v for k, v in enumerate(c)][:0:-1], r)
        r = mpmath.polyval(c[::-1], r)
        steps += 1
    return r, slope, steps


@pytest.mark.parametrize("d", [2, 8])
def test_koenigs_against_its_definition(d):
    log, sign, derivative = (np.asarray(v) for v in koenigs(layer(CONSISTENT[d]), jnp.asarray(EPS)))
    with mpmath.workdps(360):
        small = mpmath.mpf(10) ** -30  # the rest is O(r)
        ends = [iterate(CONSISTENT[d], e, lambda r: abs(r) < small) for e in EPS]
        log_a = mpmath.log(mpmath.mpf(CONSISTENT[d][1]))
        exact = np.array([float(mpmath.log(abs(r)) - n * log_a) for r, _, n in ends])
        slopes = np.array([float(mpmath.log(abs(s)) - n * log_a) for _, s, n in ends])
    # steps times ln a, rounded; up to 1000 logarithms of slopes, added with a rounding each
    np.testing.assert_allclose(log, exact, rtol=4e-15, atol=1e-15)
    np.testing.assert_allclose(derivative, slopes, rtol=3e-14, atol=3e-15)
    np.testing.assert_array_equal(sign, [float(mpmath.sign(r)) for r, _, _ in ends])


def test_functional_equation_and_automatic_derivative():
    m, eps = layer(CONSISTENT[4]), jnp.asarray(np.geomspace(1e-200, 0.5, 200))
    after, slope, _ = layer_gap(m, eps)
    here, there = koenigs(m, eps), koenigs(m, after)
    residual = np.asarray(there[0] - here[0]) - math.log(0.25)
    assert np.abs(residual).max() < 3e-13  # one rounding of a logarithm that reaches 920
    chain = np.asarray(there[2] + jnp.log(slope) - here[2]) - math.log(0.25)
    assert np.abs(chain).max() < 6e-13
    grad = jax.vmap(jax.grad(lambda e: log_koenigs(m, e)))(eps)
    np.testing.assert_allclose(grad, -np.exp(here[2] - here[0]), rtol=1e-12)  # exp of 460: 460 u
    step = 1e-4
    numeric = (log_koenigs(m, eps * (1 + step)) - log_koenigs(m, eps * (1 - step))) / (2 * step)
    # third-order error step^2 and rounding u 900 / step
    np.testing.assert_allclose(grad * eps, numeric, rtol=2e-8)


@pytest.mark.parametrize(
    ("d", "amplitude", "oscillation"), [(1, 0.5075, 2e-3), (2, 0.60517, 5e-7), (4, 1.46491, 5e-7),
                                        (8, 11.502, 1e-3)],
)  # fmt: skip
def test_amplitude_of_the_power_law(d, amplitude, oscillation):
    # log-periodic with period ln b; read off in two decades far from 1
    m, eps = layer(CONSISTENT[d]), np.geomspace(1e-60, 1e-58, 48)
    value = np.exp(np.asarray(koenigs(m, jnp.asarray(eps))[0]) + d / 2 * np.log(eps))
    assert abs(value.mean() / amplitude - 1) < 2e-4  # digits given
    assert 0.05 * oscillation < np.ptp(value) / value.mean() < oscillation
    again = np.exp(koenigs(m, jnp.asarray(eps / m.slope))[0] + d / 2 * np.log(eps / m.slope))
    np.testing.assert_allclose(again, value, rtol=3e-13)  # log of 280, rounded


def test_schroeder_series_solves_its_equation():
    c = np.array(CONSISTENT[4])
    p = schroeder_coefficients(c, 24)
    assert (p[1:] > 0).all()
    base, power, composed = np.polynomial.Polynomial(c), 1, 0
    for value in p:
        composed, power = composed + value * power, power * base
    # 25 sums of positive terms
    np.testing.assert_allclose(composed.coef[:25], 0.25 * p, rtol=1e-13, atol=0)


def test_boettcher():
    c = [0, 0, 0.25, 0.75]
    eps = np.array([1e-300, 1e-20, 1e-4, 0.2, 0.5, 0.99])
    got = np.asarray(boettcher(layer(c), jnp.asarray(eps)))
    with mpmath.workdps(360):
        ends = [iterate(c, e, lambda r: r < mpmath.mpf(10) ** -30) for e in eps]
        exact = [(mpmath.log(r) + mpmath.log(0.25)) / 2**n for r, _, n in ends]
    # the first 1000 layers lose one rounding each
    np.testing.assert_allclose(got, np.array([float(v) for v in exact]), rtol=1e-13)
    assert (np.diff(got) < 0).all()


def test_koenigs_at_one():
    c = [0.5, 0.25, 0.25]
    eps = np.array([1e-300, 1e-20, 1e-4, 0.2, 0.9, 1.5])
    got = np.asarray(log_koenigs_at_one(layer(c), jnp.asarray(eps)))
    exact = []
    with mpmath.workdps(400):
        for e in eps:
            gap = mpmath.mpf(float(e))
            for _ in range(400):  # 0.75^400 = 1e-50: the rest is below double precision
                gap = gap * (1 + 2 - gap) / 4
            exact.append(mpmath.log(gap) - 400 * mpmath.log(mpmath.mpf(0.75)))
    # 120 layers until the terms fall below 1e-15, a few roundings each
    np.testing.assert_allclose(got, np.array([float(v) for v in exact]), rtol=1e-13, atol=1e-13)


def test_expansion_at_one():
    # ReLU: eps - (2 sqrt(2) / 3 pi) eps^(3/2); polynomials: phi'' / 2
    relu = layer("relu")
    np.testing.assert_allclose(relu.bends[0], 2 * math.sqrt(2) / (3 * math.pi), rtol=1e-9)
    np.testing.assert_allclose(layer(CONSISTENT[2]).bends, [0, 1.5], rtol=1e-9)  # interpolation
    eps = jnp.asarray([1e-300, 1e-100, 1e-30])  # numerical duals have a floor near 1e-33
    m = layer(jnp.sin)
    after, _, flat = layer_gap(m, eps)
    np.testing.assert_allclose(after / eps, m.slope, rtol=4e-15)  # roundings of the slope
    # phi''(1) = t^2, 1 - phi'(rho) / phi'(1) = t tanh(t) eps for t = 1
    np.testing.assert_allclose(flat / eps, math.tanh(1), rtol=1e-9)


def test_jump_gives_a_logarithm():
    # psi ~ (ln 1/eps)^p with p = ln(1/a)/ln 2, because eps' ~ sqrt(eps)
    m = layer("sign")
    log = np.asarray(koenigs(m, jnp.asarray([1e-75, 1e-150, 1e-300]))[0])
    growth = np.diff(log) / math.log(2)
    # corrections of relative size 1 / ln(1/eps): 0.6%, 0.3% of an exponent of 0.65
    np.testing.assert_allclose(growth, math.log(math.pi / 2) / math.log(2), rtol=6e-3)
    assert abs(growth[1] - 0.6515) < abs(growth[0] - 0.6515)


def test_hermite_coefficients():
    relu, k = hermite_series("relu"), np.arange(1, 9)
    even = [scipy.special.binom(2 * j, j) / (4**j * (2 * j - 1) ** 2 * math.pi) for j in k]
    exact = np.zeros(17)
    exact[[0, 1]], exact[2::2] = (1 / math.pi, 0.5), even
    assert (np.abs(relu.c[:17] - exact) <= relu.c_errors[:17] + 1e-17).all()
    assert relu.parity == "none"
    assert relu.errors.max() < 1e-13  # a sum of 1700 terms, rounded
    sine = hermite_series(jnp.sin)
    exact = [0 if k % 2 == 0 else 1 / math.factorial(k) / math.sinh(1) for k in range(12)]
    assert (np.abs(sine.c[:12] - exact) <= sine.c_errors[:12] + 1e-17).all()
    assert sine.parity == "odd"
    assert abs(sine.slope - 1 / math.tanh(1)) <= sine.slope_error + 1e-15
    assert hermite_series("hermite4").first == 4


def test_series_dual():
    d = series_dual([0.0, 0.25, 0.5, 0.25])
    rho = jnp.linspace(-1, 1, 9)
    one = jnp.ones(())
    # polynomial of degree 3
    np.testing.assert_allclose(
        d.K(one, rho, one), rho / 4 + rho**2 / 2 + rho**3 / 4, rtol=1e-14, atol=1e-15
    )
    with pytest.raises(DomainError, match=r"coefficient 1 of the dual is -0.1"):
        series_dual([1, -0.1])
    with pytest.raises(ShapeError, match="must be a vector"):
        series_dual(np.ones((2, 2)))
    with pytest.raises(DomainError, match="all 0"):
        series_dual([0.0])
    with pytest.raises(DomainError, match="within 18 standard deviations"):
        hermite_series(lambda x: jnp.where(jnp.abs(x) > 14, jnp.inf, jnp.sin(x)))
    with pytest.raises(DomainError, match="finite positive mean square"):
        hermite_series(lambda x: 0 * x)
