"""Derivatives at a variance of exactly 0, where roots of variances have none."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk.error_function import Erf, sigmoid_like

pytestmark = pytest.mark.optimized


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
@pytest.mark.parametrize("dual", [Erf(1.3, 0.8), sigmoid_like()], ids=["erf", "sigmoid"])
def test_error_function_slope_at_zero(dual, dtype):
    alpha, height = 2 * dual.b**2, dual.a**2
    rounding = 8 * jnp.finfo(dtype).eps

    def slope(q1, q12, q2):
        return dual.Kdot(q1, q12, q2)

    gradient = jax.jit(jax.grad(slope, argnums=(0, 2)))
    for q2 in (0.0, 0.5, 40.0):
        at = (jnp.asarray(0.0, dtype), jnp.asarray(0.0, dtype), jnp.asarray(q2, dtype))
        found = [float(g) for g in gradient(*at)]
        # Kdot = (2 a^2 alpha / pi) / sqrt((1 + alpha q1)(1 + alpha q2)) at covariance 0
        value = 2 / math.pi * height * alpha / math.sqrt(1 + alpha * q2)
        exact = [-alpha / 2 * value, -alpha / 2 * value / (1 + alpha * q2)]
        np.testing.assert_allclose(found, exact, rtol=float(rounding))
        # the kernel itself is E phi(0) phi(y), whatever q2
        assert float(jax.grad(dual.K)(*at)) == 0
    # from the right, with an error of second order: step^2 alpha^2
    step = 1e-4
    at_zero, one, two = (float(slope(jnp.float64(q), 0.0, 0.5)) for q in (0.0, step, 2 * step))
    difference = (4 * one - two - 3 * at_zero) / (2 * step)
    exact = -alpha / 2 * 2 / math.pi * height * alpha / math.sqrt(1 + 0.5 * alpha)
    assert difference == pytest.approx(exact, rel=(3 * step * alpha) ** 2)
    assert float(jax.grad(dual.variance)(jnp.asarray(0.0, dtype))) == pytest.approx(
        2 / math.pi * height * alpha, rel=float(rounding)
    )
