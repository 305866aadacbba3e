"""Few patterns: published energies and temperatures, enumeration, iteration."""

import itertools

import mpmath
import numpy as np
import pytest

from deeplimits.errors import DomainError, ShapeError
from statmech.hopfield_mixtures import (
    hopfield_barrier_capacity,
    hopfield_low_load,
    hopfield_mixture,
    hopfield_mixture_stability,
)


def test_ground_states():
    states = [hopfield_mixture(n) for n in (1, 3, 5, 7)]
    energies = [-0.5, -0.375, -0.3515625, -0.341796875]
    np.testing.assert_allclose([s.U for s in states], energies, rtol=1e-13)
    assert states[1].m == pytest.approx(0.5, rel=1e-14)
    assert all(s.stable for s in states)
    assert not hopfield_mixture(4).stable
    assert hopfield_mixture(3).f == hopfield_mixture(3).U


def test_stability():
    assert hopfield_mixture_stability(3) == pytest.approx(0.4597942399, abs=6e-11)
    assert hopfield_mixture_stability(5) == pytest.approx(0.3847392724, abs=6e-11)
    assert hopfield_mixture_stability(1) == 1.0
    assert list(hopfield_mixture(3, [0.45, 0.47]).stable) == [True, False]
    assert not hopfield_mixture(2, [0.05, 0.3, 0.6]).stable.any()
    assert np.isnan(hopfield_mixture(3, 1.0).m)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_hessian_by_enumeration(n):
    """Eigenvalues of the numerical Hessian of f over n + 1 patterns, and f itself."""
    T = 0.35
    patterns = np.array(list(itertools.product((-1, 1), repeat=n + 1)))

    def f(m):
        return m @ m / 2 - T * np.mean(np.log(2 * np.cosh(patterns @ m / T)))

    state = hopfield_mixture(n, T)
    m = np.append(np.full(n, state.m), 0.0)
    assert f(m) == pytest.approx(state.f, rel=1e-14)
    h, e = 1e-4, np.eye(n + 1)
    gradient = [(f(m + h * v) - f(m - h * v)) / (2 * h) for v in e]
    np.testing.assert_allclose(gradient, 0.0, atol=1e-7)  # second order in h
    hessian = [
        [(f(m + h * (a + b)) - f(m + h * (a - b)) - f(m - h * (a - b)) + f(m - h * (a + b)))
         / (4 * h * h) for a in e] for b in e
    ]  # fmt: skip
    within, change, other = state.eigenvalues
    expected = sorted([within, *[change] * (n - 1), other])
    # second order 1e-8 over T^3, rounding 1e-16/h^2
    np.testing.assert_allclose(np.linalg.eigvalsh(hessian), expected, atol=2e-6)


def test_low_load():
    root = hopfield_low_load([0.6, 0.55, 0.5], 0.3)
    np.testing.assert_allclose(root.x, hopfield_mixture(3, 0.3).m, rtol=1e-11)
    assert bool(root.stable)
    pure = hopfield_low_load([0.9, 0.1, 0.0], 0.6)
    np.testing.assert_allclose(pure.x, [hopfield_mixture(1, 0.6).m, 0, 0], atol=1e-11)


def test_barrier():
    value = hopfield_barrier_capacity()
    assert value == pytest.approx(0.129489982669, abs=6e-13)
    with mpmath.workdps(30):
        e, g = mpmath.erf, lambda x: mpmath.exp(-(x**2)) / mpmath.sqrt(mpmath.pi)
        x = mpmath.findroot(lambda x: 1 - e(x) ** 2 - 2 * e(x) * g(x) / x + 2 * g(x) ** 2, 1.3)
        assert float(x) == pytest.approx(1.29108467824, abs=6e-12)
        assert value == pytest.approx(float(e(x) ** 2 * (1 + 1 / (2 * x**2)) - 1), abs=1e-15)


def test_bad_input():
    with pytest.raises(DomainError, match="n must be odd, got 4"):
        hopfield_mixture_stability(4)
    with pytest.raises(DomainError, match="n must be >= 1"):
        hopfield_mixture(0)
    with pytest.raises(DomainError, match="n must be <= 200"):
        hopfield_mixture(201)
    with pytest.raises(DomainError, match="T must be >= 0"):
        hopfield_mixture(3, -0.1)
    with pytest.raises(ShapeError, match=r"m0 must have shape \(n,\)"):
        hopfield_low_load([[0.1]], 0.3)
    with pytest.raises(DomainError, match="T must be > 0"):
        hopfield_low_load([0.1], 0.0)
