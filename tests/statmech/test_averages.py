"""Gaussian averages of hyperbolic functions against adaptive quadrature in 30 digits."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from statmech.averages import hyperbolic_averages

CASES = [(0.0, 0.0), (0.7, 0.0), (0.0, 0.4), (1.3, 0.99), (1.3, 1.01), (-2.0, 3.0), (5.0, 1.5)]
CASES += [(20.0, 12.0), (0.0, 80.0), (300.0, 200.0), (400.0, 0.5)]
FUNCTIONS = {
    "tanh": mpmath.tanh,
    "tanh2": lambda x: mpmath.tanh(x) ** 2,
    "sech2": lambda x: mpmath.sech(x) ** 2,
    "sech4": lambda x: mpmath.sech(x) ** 4,
    "log_2cosh": lambda x: abs(x) + mpmath.log1p(mpmath.exp(-2 * abs(x))),
}
averages = jax.jit(hyperbolic_averages)


def reference(function, v, u):
    """The average by Gauss-Legendre panels that resolve the step at x = 0."""
    if u == 0:
        return float(function(mpmath.mpf(v)))
    edges = sorted({*np.linspace(-12, 12, 13), *(-v / u + np.array([-8, -3, -1, 0, 1, 3, 8]) / u)})
    edges = [mpmath.mpf(e) for e in edges if -12 <= e <= 12]
    density = lambda z: mpmath.exp(-(z**2) / 2) / mpmath.sqrt(2 * mpmath.pi)  # noqa: E731
    return mpmath.quad(lambda z: density(z) * function(v + u * z), edges, maxdegree=7)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_against_mpmath(name):
    v, u = (np.array(column) for column in zip(*CASES, strict=True))
    got = np.asarray(getattr(averages(v, u), name))
    with mpmath.workdps(20):
        expected = np.array([float(reference(FUNCTIONS[name], *case)) for case in CASES])
    # rounding of the weights and of the sum over 207 nodes
    np.testing.assert_allclose(got, expected, rtol=4e-15, atol=2e-15)
    if name in ("sech2", "sech4"):  # no cancellation against 1
        near = np.abs(v) < u**2
        np.testing.assert_allclose(got[near], expected[near], rtol=1e-13)


def test_derivatives_are_those_of_the_averages():
    # Stein's lemma: d/dv of <F> is <F'>, d/du of <F> is u <F''>
    v, u = np.array([0.0, 0.3, 2.0, 5.0, 0.0]), np.array([0.0, 0.5, 1.0001, 9.0, 30.0])
    mean = lambda v, u: hyperbolic_averages(v, u).tanh  # noqa: E731
    log = lambda v, u: hyperbolic_averages(v, u).log_2cosh  # noqa: E731
    exact = averages(v, u)
    over = lambda f, i: jax.jit(jax.vmap(jax.grad(f, i)))(v, u)  # noqa: E731
    # rounding, times the slope of the nodes in z
    np.testing.assert_allclose(over(mean, 0), exact.sech2, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(over(log, 0), exact.tanh, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(over(log, 1), u * exact.sech2, rtol=1e-12, atol=1e-14)
    second = jax.jit(jax.vmap(jax.grad(jax.grad(log))))(v, u)
    np.testing.assert_allclose(second, exact.sech2, rtol=1e-12, atol=1e-14)


def test_zero_temperature_is_regular():
    # <tanh> -> erf(v / (u sqrt 2)), and the average of beta (1 - q) -> sqrt(2/pi) e^{-v^2/2u^2} / u
    beta, v, u = 1e9, 0.7, 0.4
    got = averages(jnp.asarray(beta * v), jnp.asarray(beta * u))
    density = np.sqrt(2 / np.pi) * np.exp(-((v / u) ** 2) / 2) / u
    # corrections are of relative order (T / u)^2 = 6e-18
    np.testing.assert_allclose(beta * got.sech2, density, rtol=1e-13)
    np.testing.assert_allclose(got.tanh, jax.scipy.special.erf(v / u / 2**0.5), rtol=1e-15)
