"""Residual networks at order 1/n: published-style special cases, quadrature, random networks."""

import jax
import numpy as np
import pytest
import scipy.integrate

from deeplimits import DomainError
from deeplimits.statistics import family_threshold
from ntk.arccosine import ABRelu
from ntk.aspect_ratio import fluctuation_growth
from ntk.residual_width import residual_width, sample_residual_width

HALF = 0.5**0.5


def test_relu_vertex_grows_from_layer_to_layer():
    r = residual_width("relu", C_W=1.0, gamma=HALF, depth=4000)
    np.testing.assert_allclose(r.K, 1.0, rtol=1e-12)  # critical: rounding of 4000 layers
    # four printed digits
    np.testing.assert_allclose(np.diff(r.V)[:4], [2.25, 3.1503, 3.7869, 4.2371], atol=6e-5)
    # tau approaches its fixed point geometrically: only rounding is left, 1e-12 of V = 2e4
    assert np.diff(r.V)[-1] == pytest.approx(fluctuation_growth("relu", HALF), abs=1e-7)


@pytest.mark.parametrize(
    ("low", "high", "gamma"), [(0.3, 1.2, 0.4), (-1.0, 1.0, 0.7), (0.0, 1.0, 0.9)]
)
def test_slope_of_piecewise_linear_activations(low, high, gamma):
    A2 = (low**2 + high**2) / 2
    r = residual_width(ABRelu(low, high), C_W=(1 - gamma**2) / A2, gamma=gamma, depth=300)
    want = fluctuation_growth(ABRelu(low, high), gamma)
    assert np.diff(r.V)[-1] == pytest.approx(want, rel=1e-9)  # rounding of V ~ 1e3
    first = fluctuation_growth(ABRelu(low, high), gamma, three_point=False)
    assert r.V[1] == pytest.approx(first, rel=1e-12)
    plain = residual_width(
        ABRelu(low, high), C_W=(1 - gamma**2) / A2, gamma=gamma, depth=9, three_point=False
    )
    np.testing.assert_allclose(np.diff(plain.V), first, rtol=1e-12)  # rounding


def test_known_limits():
    g2 = 0.5
    linear = residual_width("linear", C_W=1 - g2, gamma=g2**0.5, depth=6)
    np.testing.assert_allclose(np.diff(linear.V), 2 * (1 - g2**2), rtol=1e-12)  # rounding
    tanh = residual_width("tanh", C_W=1 - g2, gamma=g2**0.5, depth=4000)
    assert np.abs(tanh.tau).max() < 1e-14  # odd: exactly 0 but for rounding of the quadrature
    # corrections of order log(depth)/depth = 2e-3, with a coefficient of order one
    assert tanh.V[-1] / tanh.K[-1] ** 2 / 4000 == pytest.approx(2 / 3 * (1 - g2**2), rel=1e-2)


def gelu(z):
    import jax.numpy as jnp

    return np.asarray(jax.nn.gelu(jnp.asarray(z), approximate=False))


def average(function, K):
    """Adaptive quadrature over N(0, K)."""

    def integrand(u):
        return function(K**0.5 * u) * np.exp(-u * u / 2) / np.sqrt(2 * np.pi)

    return scipy.integrate.quad(integrand, -12, 12, epsabs=1e-13, epsrel=1e-12, limit=200)[0]


def test_step_against_derivatives_by_quadrature():
    """Derivatives of f = gelu^2 by automatic differentiation, averages by adaptive quadrature."""
    C, C_b, gamma = 1.2, 0.1, 0.6
    r = residual_width("gelu", C_W=C, C_b=C_b, gamma=gamma, depth=3)
    f = lambda z: jax.nn.gelu(z, approximate=False) ** 2  # noqa: E731
    order = [f]
    for _ in range(4):
        order.append(jax.grad(order[-1]))
    order = [jax.jit(g) for g in order]
    K, V, tau, G1 = r.K[1], r.V[1], r.tau[1], r.G1[1]
    m = [average(lambda z, g=g: float(g(z)), K) for g in order]
    h = m[2] / 2
    own = average(lambda z: float(f(z)) ** 2, K) - m[0] ** 2 + h**2 * V + m[1] * m[2] * tau
    cross = average(lambda z: z * z * float(f(z)), K) - K * m[0] + h * V + m[1] * tau
    zf = average(lambda z: z * float(f(z)), K)
    g2 = gamma**2
    want = [
        C_b + C * m[0] + g2 * K,
        C**2 * own + 2 * g2 * C * cross + g2**2 * V,
        gamma * (C * zf + (C * h + g2) * tau),
        C * (h * G1 + m[4] * V / 8 + m[3] * tau / 2) + g2 * G1,
    ]
    # adaptive quadrature to 1e-12; He_4 / K^2 of the fixed rule amplifies rounding to 1e-13
    np.testing.assert_allclose([r.K[2], r.V[2], r.tau[2], r.G1[2]], want, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.optimized
def test_random_networks():
    """Widths 24, 48, 96 extrapolated to 1/n = 0 by a quadratic in 1/n (weights 1/3, -2, 8/3)."""
    setting = dict(C_W=1.0, gamma=HALF, depth=5)
    theory = residual_width("relu", **setting)
    runs = [
        sample_residual_width("relu", width=n, n_samples=64 * 1500, key=n, **setting)
        for n in (24, 48, 96)
    ]
    weights = np.array([1 / 3, -2.0, 8 / 3])
    bound = family_threshold(3.0, 12, 63)  # 12 numbers, errors from 64 groups
    for name in ("V", "tau", "G1"):
        mean = sum(w * r[name].mean for w, r in zip(weights, runs, strict=True))
        error = np.sqrt(sum((w * r[name].stderr) ** 2 for w, r in zip(weights, runs, strict=True)))
        z = (mean - getattr(theory, name))[1:] / error[1:]
        assert np.abs(z).max() < bound, (name, z)
    # layer 2 sees independent Gaussians: exact at any width
    seen = runs[0]["V"]
    assert abs(seen.mean[1] - 2.25) / seen.stderr[1] < family_threshold(3.0, 1, 63)
    # the experiment sees the three-point term: without it V at layer 5 is 30 standard errors off
    without = residual_width("relu", three_point=False, **setting)
    gap = abs(runs[-1]["V"].mean[-1] - without.V[-1]) / runs[-1]["V"].stderr[-1]
    assert gap > 10


def test_no_stale_program_for_another_activation():
    """Two parameterless duals in a row, many times: the second must not run as the first."""
    want = {
        name: residual_width(name, C_W=1.0, gamma=0.5, depth=3).K[2] for name in ("relu", "linear")
    }
    assert want["linear"] == pytest.approx(1.25**2)
    assert want["relu"] == pytest.approx(0.75**2)


def test_plot_and_errors():
    r = residual_width("relu", C_W=1.0, gamma=HALF, depth=5)
    assert r.plot().get_ylabel() == "V / K^2"
    with pytest.raises(DomainError, match="gamma must be >= -1"):
        residual_width("relu", C_W=1.0, gamma=1.5, depth=5)
    with pytest.raises(DomainError, match="leaves the range of float64"):
        residual_width("relu", C_W=100.0, gamma=0.5, depth=500)
    with pytest.raises(DomainError, match="must be a multiple of groups = 64"):
        sample_residual_width("relu", C_W=1.0, gamma=0.5, depth=3, width=8, n_samples=300, key=0)
