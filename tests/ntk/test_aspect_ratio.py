"""Optimal depth over width: published values, the entropy series, residual growth."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import root

from deeplimits.errors import ConvergenceError, DomainError, UnsupportedLayerError
from ntk.aspect_ratio import (
    entropy,
    fluctuation_growth,
    mutual_information,
    optimal_aspect_ratio,
    optimal_residual,
)


@pytest.mark.parametrize(
    ("activation", "value"), [("linear", 0.0870), ("relu", 0.0348), ("tanh", 0.2609)]
)
def test_published_optima(activation, value):
    got = optimal_aspect_ratio(1, activation)
    assert got.ratio == pytest.approx(value, abs=5e-5)  # four decimals were published
    r = np.linspace(0, 1.4 * got.ratio, 20001)
    best = np.argmax(got.curve(r))
    assert r[best] == pytest.approx(got.ratio, rel=2e-4)  # step of the grid
    assert got.curve(r)[best] == pytest.approx(got.information, rel=1e-7)
    assert got.depth(100) == pytest.approx(100 * got.ratio)


def exact_entropy(m, x):
    """Entropy of exp(-a r^2 - b r^4) on R^m with E r^2 = m and E r^4 = m (m + 2) (1 + x)."""
    sphere = {1: 2.0, 2: 2 * np.pi, 3: 4 * np.pi}[m]

    def moments(p):
        a, b = p
        return [
            quad(lambda r, k=k: sphere * r ** (m - 1 + k) * np.exp(-a * r**2 - b * r**4), 0, 12,
                 epsabs=0, epsrel=1e-13)[0]
            for k in (0, 2, 4)
        ]  # fmt: skip

    def gap(p):
        Z, two, four = moments(p)
        return [two / Z - m, four / Z - m * (m + 2) * (1 + x)]

    a, b = root(gap, [0.5, -x / 8], tol=1e-13).x
    Z, two, four = moments((a, b))
    return np.log(Z) + a * two / Z + b * four / Z


@pytest.mark.parametrize("m", [1, 2, 3])
def test_entropy_series_against_quadrature(m):
    """Negative x, where the density of largest entropy exists; the series is the same."""
    steps = np.array([-0.01, -0.02])
    error = np.array([exact_entropy(m, x) - entropy(x, m) for x in steps])
    # the first neglected order is x^4 (about 1 for m = 1, 10 for m = 3): 16-fold from x to 2x
    assert error[1] / error[0] == pytest.approx(16, rel=0.25)
    assert abs(error[0]) < 30 * 0.01**4
    assert entropy(0.0, m, K=2.0) == pytest.approx(m / 2 * np.log(2 * np.pi * np.e * 2.0))


def test_information_is_the_sum_of_entropies():
    x = np.linspace(0, 0.2, 5)
    for m1, m2 in ((1, 1), (2, 3), (0.5, 0.5)):
        value = entropy(x, m1) + entropy(x, m2) - entropy(x, m1 + m2)
        np.testing.assert_allclose(mutual_information(x, m1, m2), value, atol=1e-14)


def growth_by_iteration(a, b, gamma, layers):
    """V/K^2 and the three-point function by their recursion; averages by quadrature."""
    A2 = (a * a + b * b) / 2
    C, K = (1 - gamma**2) / A2, 1.3

    def mean(f):
        density = lambda z: np.exp(-z * z / (2 * K)) / np.sqrt(2 * np.pi * K)  # noqa: E731
        parts = [quad(lambda z: f(z) * density(z), *ends)[0] for ends in ((-12, 0), (0, 12))]
        return sum(parts)

    def s2(z):
        return (b * z if z > 0 else a * z) ** 2

    f1 = mean(lambda z: s2(z) * z) / K  # <d s^2>
    f2 = mean(lambda z: s2(z) * (z * z - K)) / K**2  # <d^2 s^2>
    h, values, V, tau = f2 / 2, [], 0.0, 0.0
    for _ in range(layers):
        local = C**2 * (mean(lambda z: s2(z) ** 2) - mean(s2) ** 2)
        cross = mean(lambda z: z * z * s2(z)) - K * mean(s2) + h * V + f1 * tau
        V_next = (
            local + C**2 * (h * h * V + f1 * f2 * tau) + 2 * gamma**2 * C * cross + gamma**4 * V
        )
        tau = gamma * (C * mean(lambda z: z * s2(z)) + (C * h + gamma**2) * tau)
        V = V_next
        values.append(V / K**2)
    return np.diff([0.0, *values])


def test_residual_growth():
    increments = growth_by_iteration(0.0, 1.0, np.sqrt(0.5), 60)
    np.testing.assert_allclose(increments[:4], [2.25, 3.15, 3.79, 4.24], atol=5e-3)  # published
    gamma = np.sqrt(0.5)
    assert fluctuation_growth("relu", gamma, three_point=False) == pytest.approx(increments[0])
    # the three-point function relaxes as gamma^l: 0.7^60 = 5e-10
    assert fluctuation_growth("relu", gamma) == pytest.approx(increments[-1], rel=1e-7)
    leaky = growth_by_iteration(0.01, 1.0, 0.4, 30)
    assert fluctuation_growth("leaky_relu", 0.4) == pytest.approx(leaky[-1], rel=1e-8)
    assert fluctuation_growth("linear", 0.4) == pytest.approx(2 * (1 - 0.4**4))
    assert fluctuation_growth("tanh", 0.4) == pytest.approx(2 / 3 * (1 - 0.4**4))


@pytest.mark.parametrize("three_point", [True, False])
def test_optimal_residual_inverts(three_point):
    gamma = optimal_residual(0.2, 3, "relu", three_point=three_point)
    back = optimal_aspect_ratio(3, "relu", residual=gamma, three_point=three_point)
    assert back.ratio == pytest.approx(0.2, rel=1e-10)


def test_plot_and_refusals():
    ax = optimal_aspect_ratio(2, nu=5.0).plot()
    assert len(ax.lines) == 2
    plt.close(ax.figure)
    with pytest.raises(UnsupportedLayerError, match="no critical point"):
        optimal_aspect_ratio(1, "softplus")
    with pytest.raises(DomainError, match="n_out must be >= 1"):
        optimal_aspect_ratio(0)
    with pytest.raises(DomainError, match="nu must be > 0"):
        optimal_aspect_ratio(1, nu=-1.0)
    with pytest.raises(DomainError, match="residual must be >= 0"):
        fluctuation_growth("relu", 1.0)
    with pytest.raises(DomainError, match="shallow already"):
        optimal_residual(0.01)
    with pytest.raises(ConvergenceError, match="too large"):
        optimal_residual(1e13)
    with pytest.raises(DomainError, match="width must be >= 1"):
        optimal_aspect_ratio(1).depth(0)
