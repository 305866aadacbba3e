"""Field averages: mpmath, the averages in units of the temperature, and the limit T = 0."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

from statmech.averages import hyperbolic_averages
from statmech.hopfield_averages import field_averages

CASES = [(0.9, 0.3, 0.2), (0.95, 0.4, 0.01), (0.5, 0.3, 0.8), (0.0, 0.7, 0.5), (0.98, 0.3, 0.3)]


def by_mpmath(m, a, T):
    """All averages by tanh-sinh quadrature in 25 digits."""
    with mpmath.workdps(25):
        m, a, T = map(mpmath.mpf, (m, a, T))
        cuts = sorted({mpmath.mpf(-12), -m / a - 8 * T / a, -m / a, -m / a + 8 * T / a, 0, 12})

        def mean(f):
            return mpmath.quad(lambda z: f((m + a * z) / T) * mpmath.npdf(z), cuts)

        sech2 = lambda x: mpmath.sech(x) ** 2  # noqa: E731
        C = mean(sech2) / T
        return [
            float(v)
            for v in (
                mean(mpmath.tanh),
                C,
                -2 * mean(lambda x: sech2(x) * mpmath.tanh(x)) / T**2,
                mean(lambda x: 4 * sech2(x) - 6 * sech2(x) ** 2) / T**3,
                mean(lambda x: sech2(x) ** 2) / T,
                T * mean(lambda x: mpmath.log(2 * mpmath.cosh(x))),
                1 - T * C,
            )
        ]


def test_against_mpmath():
    m, a, T = (jnp.asarray(v) for v in np.array(CASES).T)
    found = np.stack(jax.jit(field_averages)(m, a, T))
    expected = np.array([by_mpmath(*case) for case in CASES]).T
    # rounding: averages of size 1 over powers of T and a (largest here: C_mm of size 30)
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=2e-15)
    u = jax.jit(hyperbolic_averages)(m / T, a / T)
    np.testing.assert_allclose(found[0], u.tanh, atol=2e-15)  # rounding
    np.testing.assert_allclose(found[5], T * u.log_2cosh, rtol=1e-14)


def test_zero_temperature_is_regular():
    m, a = 0.9, 0.4

    def averages(T):
        return jnp.stack(field_averages(jnp.float64(m), jnp.float64(a), T))

    y = m / a / np.sqrt(2)
    density = np.sqrt(2 / np.pi) / a * np.exp(-(y**2))
    energy = m * float(mpmath.erf(y)) + a**2 * density
    values, slopes = jax.jit(lambda T: (averages(T), jax.jacfwd(averages)(T)))(jnp.float64(0))
    found = np.asarray(values)
    np.testing.assert_allclose(found[[0, 1, 5, 6]], [float(mpmath.erf(y)), density, energy, 1.0],
                               rtol=1e-14)  # fmt: skip
    # corrections are even in T except for q = 1 - T C
    slope = np.asarray(slopes)
    np.testing.assert_allclose(slope[:6], 0.0, atol=1e-14)  # rounding of the nodes
    np.testing.assert_allclose(slope[6], -density, rtol=1e-14)
    # without noise too
    still = jax.jit(field_averages)(jnp.float64(0.9), jnp.float64(0.0), jnp.float64(0.0))
    np.testing.assert_allclose(np.stack(still), [1, 0, 0, 0, 0, 0.9, 1], atol=0)
