"""Dense associative memories of spins against brute force."""

import itertools

import numpy as np
import pytest

from deeplimits.errors import DomainError, ShapeError
from statmech import associative
from statmech.associative import Exponential, Polynomial

RNG = np.random.default_rng(11)
XI = RNG.choice([-1.0, 1.0], size=(5, 9))
SPINS = RNG.choice([-1.0, 1.0], size=(6, 9))
MEMORIES = (Polynomial(2), Polynomial(3), Exponential(0.7))


def separation_function(memory):
    if isinstance(memory, Polynomial):
        return lambda x: x**memory.n
    return lambda x: np.exp(memory.lam * x)


def test_energies():
    h = SPINS @ XI.T
    for memory in MEMORIES:
        raw = -separation_function(memory)(h).sum(1)
        found = np.asarray(associative.spin_energy(XI, SPINS, memory=memory))
        if isinstance(memory, Polynomial):
            np.testing.assert_allclose(found, raw / 9.0**memory.n, rtol=1e-13)
        else:
            np.testing.assert_allclose(found, -np.log(-raw) / 9, rtol=1e-13)
    assert np.isfinite(associative.spin_energy(np.ones((2, 2000)), np.ones(2000),
                                               memory=Exponential()))  # fmt: skip


@pytest.mark.parametrize("memory", MEMORIES)
def test_sweep_against_brute_force(memory):
    F = separation_function(memory)
    expected = SPINS.copy()
    for state in expected:
        for i in range(9):
            total = []
            for sign in (1.0, -1.0):
                trial = state.copy()
                trial[i] = sign
                total.append(F(XI @ trial).sum())
            if total[0] != total[1]:
                state[i] = 1.0 if total[0] > total[1] else -1.0
    found = associative.spin_update(XI, SPINS, memory=memory)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(associative.spin_update(XI, SPINS[2], memory=memory), expected[2])


@pytest.mark.parametrize("memory", MEMORIES)
def test_retrieval(memory):
    """It ends in a state from which no single flip lowers the energy, counted over all 512."""
    everything = np.array(list(itertools.product([-1.0, 1.0], repeat=9)))
    found = associative.spin_retrieve(XI, everything, memory=memory)
    assert bool(found.converged.all())
    states = np.asarray(found.states)
    start = np.asarray(associative.spin_energy(XI, everything, memory=memory))
    end = np.asarray(associative.spin_energy(XI, states, memory=memory))
    assert np.all(end <= start + 1e-12)
    flips = np.repeat(states[:, None], 9, axis=1) * (1 - 2 * np.eye(9))
    around = np.asarray(associative.spin_energy(XI, flips, memory=memory))
    assert np.all(around >= end[:, None] - 1e-12)  # rounding of energies of order one
    np.testing.assert_allclose(found.overlaps, states @ XI.T / 9, atol=1e-15)
    short = associative.spin_retrieve(XI, everything, memory=memory, max_sweeps=1)
    assert not bool(short.converged.all())


def test_higher_powers_store_more():
    rng = np.random.default_rng(0)
    patterns = rng.choice([-1.0, 1.0], size=(60, 40))
    query = patterns * np.where(rng.uniform(size=(60, 40)) < 0.05, -1, 1)
    shares = [
        float(np.mean(np.all(associative.spin_retrieve(patterns, query, memory=m).states
                             == patterns, axis=1)))
        for m in (Polynomial(2), Polynomial(4), Exponential())
    ]  # fmt: skip
    assert shares[0] < 0.2
    assert min(shares[1:]) > 0.9


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Polynomial(0), DomainError, "n must be >= 1"),
        (lambda: Polynomial(2.5), DomainError, "n must be an integer"),
        (lambda: Exponential(0.0), DomainError, "lam must be > 0"),
        (lambda: associative.spin_energy(XI * 2, SPINS, memory=Polynomial()), DomainError,
         "patterns must hold"),
        (lambda: associative.spin_update(XI, SPINS * 0, memory=Polynomial()), DomainError,
         r"states must hold \+1 and -1, got 0"),
        (lambda: associative.spin_update(XI, SPINS[:, 1:], memory=Polynomial()), ShapeError,
         "states must have shape"),
        (lambda: associative.spin_energy(XI, SPINS, memory="cubic"), DomainError, "memory must be"),
        (lambda: associative.spin_retrieve(XI, SPINS, memory=Polynomial(), max_sweeps=0),
         DomainError, "max_sweeps must be >= 1"),
    ],
)  # fmt: skip
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
