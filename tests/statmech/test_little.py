"""Synchronous dynamics: published order parameters, quadrature, limits, errors."""

import numpy as np
import pytest
import scipy.integrate

from deeplimits import DomainError, ShapeError
from statmech.little import little


def test_published_states_and_their_equations():
    alpha, T = np.array([0.05, 0.02, 0.05, 0.15]), np.array([0.4, 0.6, 0.02, 0.3])
    state = little(alpha, T)
    np.testing.assert_allclose(state.m[:2], [0.966454, 0.881068], atol=5.1e-7)  # last digit
    np.testing.assert_allclose(state.t[:2], [0.937193, 0.782531], atol=5.1e-7)
    assert state.exists.tolist() == [True, True, True, False]
    assert np.isnan(state.m[3])  # above the capacity: NaN, not the state without overlap
    # the three equations by adaptive quadrature over both copies of a spin
    m, q, t, r, a, beta = (v[1] for v in (state.m, state.q, state.t, state.r, alpha, 1 / T))
    A, B = 1 + t - 2 * q, 1 - t
    assert r == pytest.approx(q / (1 - beta * A) ** 2, rel=1e-13)
    kappa = a / 2 * (1 / (1 - beta * A) + 1 / (1 + beta * B)) - a

    def average(which):
        def integrand(z):
            h = beta * (m + np.sqrt(a * r) * z)
            pairs = [(s, u) for s in (-1, 1) for u in (-1, 1)]
            weights = np.array([np.exp(h * (s + u) + beta * kappa * s * u) for s, u in pairs])
            weights /= weights.sum()
            mean = sum(w * (s + u) / 2 for w, (s, u) in zip(weights, pairs, strict=True))
            link = sum(w * s * u for w, (s, u) in zip(weights, pairs, strict=True))
            return {"m": mean, "q": mean**2, "t": link}[which] * np.exp(-(z**2) / 2)

        value = scipy.integrate.quad(integrand, -10, 10, epsabs=1e-13, limit=200)[0]
        return value / np.sqrt(2 * np.pi)

    for name, value in (("m", m), ("q", q), ("t", t)):
        assert value == pytest.approx(average(name), abs=1e-12)  # tolerance of the quadrature


def test_no_patterns_to_disturb():
    # at load 0 both copies feel one field: m = sinh 2 beta m / (cosh 2 beta m + 1) = tanh beta m
    state = little(0.0, 0.7)
    assert state.m == pytest.approx(np.tanh(state.m / 0.7), rel=1e-14)
    assert state.t == pytest.approx(state.m**2, rel=1e-13)
    assert state.r == pytest.approx(state.q / (1 - (1 - state.q) / 0.7) ** 2, rel=1e-12)


def test_bad_input():
    with pytest.raises(DomainError, match="alpha must be >= 0"):
        little(-0.1, 0.3)
    with pytest.raises(DomainError, match=r"T must be > 0.*statmech\.hopfield"):
        little(0.1, 0.0)
    with pytest.raises(DomainError, match="alpha must be finite"):
        little(np.nan, 0.3)
    with pytest.raises(ShapeError, match="alpha and T do not broadcast"):
        little([0.1, 0.2], [0.1, 0.2, 0.3])
