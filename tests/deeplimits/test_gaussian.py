"""Gaussian expectations against closed forms, mpmath and other algorithms."""

import math

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

from deeplimits.errors import ConvergenceError, DomainError, ShapeError
from deeplimits.gaussian import (
    Expectation,
    bivariate_expectation,
    expectation,
    hermite_coefficients,
    panel_rule,
    trapezoid_rule,
)


def relu(x):
    return np.maximum(x, 0)


def test_fixed_rules():
    z, w = trapezoid_rule(61)
    # Moments of the normal law: the largest, 105, is rounded to 1e-14 per term.
    for nodes, weights in ((z, w), panel_rule((0.3, 99.0))):
        for power, moment in ((0, 1), (1, 0), (2, 1), (4, 3), (8, 105)):
            np.testing.assert_allclose(weights @ nodes**power, moment, atol=1e-13)
    nodes, weights = panel_rule(np.array([0.5]))
    np.testing.assert_allclose(weights @ (nodes > 0.5), float(mp.ncdf(-0.5)), rtol=1e-14)
    # Pole of tanh(5 z) at distance pi/10: with 257 nodes exp(-2 pi d/h) = 3e-12.
    z, w = trapezoid_rule(257)
    want = mp.quad(lambda v: mp.npdf(v) * mp.tanh(5 * v) ** 2, mp.linspace(-10, 10, 41))
    np.testing.assert_allclose(w @ np.tanh(5 * z) ** 2, float(want), atol=1e-11)


def test_panel_rule_follows_a_traced_variance():
    @jax.jit
    def second_moment_above_one(q):
        nodes, weights = panel_rule((1.0 / jnp.sqrt(q))[None])
        x = jnp.sqrt(q) * nodes
        return weights @ jnp.where(x > 1, x - 1, 0.0)

    q = 2.5
    s = math.sqrt(q)
    tail = float(mp.ncdf(-1 / s))
    want = s * float(mp.npdf(1 / s)) - tail  # E (s z - 1)_+
    np.testing.assert_allclose(second_moment_above_one(q), want, rtol=1e-14)  # 240 rounded terms
    # d/dq E f(x) = E f''(x)/2 = density at the kink / 2.
    slope = float(mp.npdf(1 / s)) / (2 * s)
    np.testing.assert_allclose(jax.grad(second_moment_above_one)(q), slope, rtol=1e-13)


def test_expectation_against_closed_forms():
    q = np.array([0.0, 0.3, 4.0, 50.0])
    cases = [
        (np.cos, np.exp(-q / 2) * np.cos(0.4)),
        (lambda x: x**6, 15 * q**3 + 45 * q**2 * 0.16 + 15 * q * 0.4**4 + 0.4**6),
        (np.exp, np.exp(0.4 + q / 2)),
        (lambda x: np.exp(-(x**2)), np.exp(-0.16 / (1 + 2 * q)) / np.sqrt(1 + 2 * q)),
    ]
    for f, want in cases:
        got = expectation(f, q, 0.4)
        size = expectation(lambda x, f=f: np.abs(f(x)), q, 0.4, tol=1e-4).value
        assert np.all(np.abs(got.value - want) <= 1e-13 * size)  # tol is 1e-12 of E|f|
        assert np.all(got.abs_err <= 1e-12 * size + 1e-15)
    odd = expectation(np.tanh, 3.0)
    assert abs(float(odd)) < 1e-15  # symmetric nodes cancel


@pytest.mark.parametrize("q", [1.0, 25.0, 400.0])
def test_expectation_near_poles_against_mpmath(q):
    got = expectation(lambda x: jnp.log(jnp.cosh(x)), q)
    with mp.workdps(20):
        s = mp.sqrt(q)
        want = mp.quad(lambda v: 2 * mp.npdf(v) * mp.log(mp.cosh(s * v)), mp.linspace(0, 12, 31))
    assert abs(got.value - float(want)) <= 4e-15 * float(want) + got.abs_err


def test_expectation_with_kinks():
    q = np.array([0.0, 1.0, 9.0])
    mean, t = np.array([[0.0], [-1.3]]), 0.7
    got = expectation(lambda x: relu(x - t), q, mean, kinks=(t,))
    assert got.value.shape == (2, 3)
    shift, s = mean - t, np.sqrt(q)
    with np.errstate(divide="ignore"):
        u = shift / s
    want = s * np.exp(-(u**2) / 2) / np.sqrt(2 * np.pi) + shift * np.vectorize(mp.ncdf)(u).astype(
        float
    )
    np.testing.assert_allclose(got.value, want, atol=1e-15, rtol=1e-13)  # tol 1e-12 relative
    assert np.all(np.abs(got.value - want) <= got.abs_err + 1e-16)
    with pytest.raises(ConvergenceError, match="pass kinks"):
        expectation(relu, 1.0, max_nodes=10_000)


def test_expectation_sees_aliasing():
    """cos(k x) whose frequency equals the sampling frequency of the first grid looks constant."""
    k = 2 * np.pi / (19 / 79)
    first = 19 / 79 * np.exp(-(np.linspace(-9.5, 9.5, 80) ** 2) / 2) / np.sqrt(2 * np.pi)
    assert abs(first @ np.cos(k * (np.linspace(-9.5, 9.5, 80) + 9.5)) - 1) < 1e-10
    got = expectation(lambda x: np.cos(k * x + 9.5 * k))
    assert abs(got.value) < 1e-14  # exp(-k^2/2) = 0; the sum of 340 terms below 1 is rounded


def test_expectation_trailing_axes_and_record():
    got = expectation(lambda x: np.stack([x**0, x, x**2], axis=-1), np.array([1.0, 2.0]), 1.0)
    np.testing.assert_allclose(got.value, [[1, 1, 2], [1, 1, 3]], rtol=1e-14)
    assert got.abs_err.shape == (2, 3)
    assert got.nodes.shape == (2,)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, got)
    assert isinstance(doubled, Expectation)
    assert float(expectation(lambda x: x**2, 4.0)) == pytest.approx(4.0, rel=1e-14)


def test_expectation_works_without_x64():
    want = expectation(lambda x: jnp.tanh(x) ** 2)
    with jax.enable_x64(False):
        got = expectation(lambda x: jnp.tanh(x) ** 2)
    assert got.value.dtype == np.float64
    assert got.value == want.value


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: expectation(np.tanh, -0.1), DomainError, r"variance .* must be >= 0, got -0.1"),
        (lambda: expectation(np.tanh, [1.0, np.nan]), DomainError, "variance must be finite"),
        (lambda: expectation(np.tanh, []), ShapeError, "must not be empty"),
        (lambda: expectation(np.tanh, tol=1e-16), DomainError, "tol must be >= 1e-14"),
        (lambda: expectation(np.tanh, max_nodes=1), DomainError, "max_nodes must be >= 2"),
        (lambda: expectation(np.cosh, 1e6), DomainError, r"not finite \(inf\).*variance 1e\+06"),
        (lambda: expectation(lambda x: np.sqrt(x)), DomainError, r"not finite \(nan\)"),
        (lambda: expectation(lambda x: np.exp(x * x / 2)), DomainError, "grows too fast"),
        (lambda: expectation(lambda x: 1.0), ShapeError, "elementwise"),
        (lambda: expectation(lambda x: x * 1j), DomainError, "real numbers"),
        (lambda: expectation(lambda x: 1 / (x - 0.1)), ConvergenceError, "E.f. is finite"),
        (lambda: jax.jit(lambda q: expectation(np.tanh, q).value)(1.0), DomainError, "is traced"),
        (lambda: bivariate_expectation(np.add, 1, 1.1, 1), DomainError, "no covariance matrix"),
        (lambda: bivariate_expectation(np.add, -1, 0, 1), DomainError, "q11 is a variance"),
        (lambda: bivariate_expectation(np.add, 1, 0, -1), DomainError, "q22 is a variance"),
        (lambda: hermite_coefficients(np.tanh, 0), DomainError, "n must be >= 1"),
        (lambda: hermite_coefficients(np.tanh, 3, -1.0), DomainError, "variance is a variance"),
        (lambda: trapezoid_rule(1), DomainError, "n must be >= 2"),
        (lambda: trapezoid_rule(9, 0.0), DomainError, "half_width must be > 0"),
        (lambda: panel_rule(panels=0), DomainError, "panels must be >= 1"),
        (lambda: panel_rule(order=0), DomainError, "order must be >= 1"),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()


def arc_cosine(q11, q12, q22):
    """E relu(x) relu(y) (Cho & Saul 2009)."""
    scale = np.sqrt(q11 * q22)
    angle = np.arctan2(np.sqrt((scale - q12) * (scale + q12)), q12)
    return scale / (2 * np.pi) * (np.sin(angle) + (np.pi - angle) * np.cos(angle))


def test_bivariate_smooth():
    q11, q22 = np.array([1.0, 4.0, 9.0, 1.0, 2.0, 0.0]), np.array([1.0, 1.0, 4.0, 1.0, 2.0, 1.0])
    q12 = np.array([0.5, -1.2, 5.999, 1.0, -2.0, 0.0])
    got = bivariate_expectation(lambda x, y: np.sin(x) * np.sin(y), q11, q12, q22)
    want = np.exp(-(q11 + q22) / 2) * np.sinh(q12)
    np.testing.assert_allclose(got.value, want, atol=1e-14)  # tol is 1e-12 of E|f| < 1
    erf = jax.scipy.special.erf
    got = bivariate_expectation(lambda x, y: erf(x) * erf(y), q11, q12, q22)
    want = 2 / np.pi * np.arcsin(2 * q12 / np.sqrt((1 + 2 * q11) * (1 + 2 * q22)))
    np.testing.assert_allclose(got.value, want, atol=1e-13)  # as above
    assert np.all(np.abs(got.value - want) <= got.abs_err + 1e-15)
    # At rho = 1 the plane collapses to the line.
    line = expectation(lambda x: np.tanh(x) ** 2, 9.0).value
    plane = bivariate_expectation(lambda x, y: np.tanh(x) * np.tanh(y), 9.0, 9.0, 9.0).value
    np.testing.assert_allclose(plane, line, rtol=2e-12)  # both to tol 1e-12


def test_bivariate_kinks():
    rho = np.array([-1, -0.99, -0.3, 0, 0.5, 0.99, 1 - 1e-6, 1 - 1e-12, 1])
    q11, q22 = 4.0, 0.25
    got = bivariate_expectation(lambda x, y: relu(x) * relu(y), q11, rho, q22, kinks=(0.0,))
    want = arc_cosine(q11, rho, q22)
    # tol is 1e-12 of E|f|; at rho = -0.99 the closed form cancels to 1e-16 / 1.5e-4.
    np.testing.assert_allclose(got.value, want, rtol=2e-12, atol=1e-16)
    assert got.value[0] == 0
    # Different kinks in x and y: E step(x - a) y = density of x at a times the covariance.
    a, rho = 0.6, np.array([-0.7, 0.1, 0.9999])
    got = bivariate_expectation(lambda x, y: (x > a) * y, 1.0, rho, 1.0, kinks=(a,), kinks_y=())
    want = rho * math.exp(-(a**2) / 2) / math.sqrt(2 * math.pi)
    np.testing.assert_allclose(got.value, want, rtol=1e-12)  # tol


def test_hermite_coefficients():
    q, n = np.array([0.25, 1.0, 4.0]), 40
    k = np.arange(n)
    factorial = np.sqrt(np.array([float(math.factorial(i)) for i in k]))
    got = hermite_coefficients(np.exp, n, q)
    want = np.exp(q / 2)[:, None] * np.sqrt(q)[:, None] ** k / factorial
    # tol: 1e-12 of E|exp(s z) He_k|/sqrt(k!) <= (E exp(2 s z))^(1/2).
    assert np.all(np.abs(got.value - want) <= 1e-13 * np.exp(q)[:, None])
    assert got.value.shape == (3, n)
    relu_coefficients = hermite_coefficients(relu, 4, kinks=(0.0,)).value
    tau = math.sqrt(2 * math.pi)
    np.testing.assert_allclose(
        relu_coefficients, [1 / tau, 0.5, 1 / tau / math.sqrt(2), 0], atol=1e-15
    )


def test_hermite_series_is_the_bivariate_expectation():
    """Mehler: sum a_k(q11) a_k(q22) rho^k, against quadrature in the plane."""
    a = hermite_coefficients(np.tanh, 120, np.array([1.0, 2.0])).value
    rho = np.array([-0.8, 0.3, 0.6])
    series = (a[0] * a[1] * rho[:, None] ** np.arange(120)).sum(1)
    plane = bivariate_expectation(
        lambda x, y: np.tanh(x) * np.tanh(y), 1.0, rho * math.sqrt(2), 2.0
    ).value
    np.testing.assert_allclose(series, plane, atol=1e-12)  # truncation: 0.8^120 = 2e-12 times a^2
