"""Naive mean field against enumeration."""

import jax.numpy as jnp
import numpy as np
import pytest

import statmech
from deeplimits.errors import DomainError, ShapeError

N = 8
STATES = 1 - 2.0 * ((np.arange(2**N)[:, None] >> np.arange(N)) & 1)
RNG = np.random.default_rng(1)
X, THETA = RNG.normal(size=(3, N)), np.linspace(-0.6, 0.8, N)


def error(T):
    coupling = statmech.dense_coupling(X, P=3, field=T * THETA)
    m = statmech.plefka(coupling, np.zeros(N), T=T, steps=200)
    assert m.converged
    plain = statmech.dense_coupling(X, P=3).cast(jnp.float64).kernel("blocked", "heatbath", 1)
    E = N * np.asarray(plain.energy(plain.start(jnp.asarray(STATES.T))))
    w = np.exp(-E / T + STATES @ THETA)
    return np.abs(m.m - w @ STATES / w.sum()).max(), np.abs(m.m - np.tanh(THETA)).max()


def test_error_is_of_second_order():
    T = np.array([20.0, 40.0, 80.0])
    cut, first = np.array([error(t) for t in T]).T
    # the next orders are beta apart: at most 5% in the exponents at these temperatures
    np.testing.assert_allclose(np.log2(cut[:-1] / cut[1:]), 2, atol=0.1)
    np.testing.assert_allclose(np.log2(first[:-1] / first[1:]), 1, atol=0.1)


def test_bad_input():
    good = statmech.dense_coupling(X, P=3)
    with pytest.raises(DomainError, match="distinct indices"):
        statmech.plefka(statmech.dense_coupling(X, P=3, index="full"), np.zeros(N), T=1.0)
    with pytest.raises(ShapeError, match="start must have shape"):
        statmech.plefka(good, np.zeros(3), T=1.0)
    with pytest.raises(DomainError, match=r"start must lie in \[-1, 1\]"):
        statmech.plefka(good, np.full(N, 2.0), T=1.0)
    with pytest.raises(DomainError, match="T must be > 0"):
        statmech.plefka(good, np.zeros(N), T=0.0)
