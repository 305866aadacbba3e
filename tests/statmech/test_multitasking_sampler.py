"""Exact Gibbs sampling of multitasking networks against enumeration and theory."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statmech
from deeplimits.errors import DomainError
from statmech.multitasking_sampler import groups, run_groups


def test_against_enumeration():
    """Eight spins, two patterns, every one of 256 states with its Boltzmann weight."""
    rng = np.random.default_rng(2)
    x, gT, N = rng.choice([-1.2, -0.4, 0.0, 0.4, 1.2], size=(8, 2)), 0.3, 8
    spins = np.array(list(itertools.product([-1.0, 1.0], repeat=N)))
    order = spins @ x / N
    weight = np.exp(N * np.sum(order**2, axis=1) / (2 * gT))
    exact = weight @ order**2 / weight.sum()
    chains = 600
    _, squares = run_groups(
        jnp.ones((chains, N)), jnp.asarray(x), jnp.ones((chains, N, 2)), jnp.zeros(2),
        jnp.asarray(gT), jax.random.key(0), sweeps=40, burn_in=60,
    )  # fmt: skip
    squares = np.asarray(squares)
    z = (squares.mean(0) - exact) / (squares.std(0) / np.sqrt(chains))
    assert np.abs(z).max() < 4
    # a factor of two in the temperature would be seen
    hot = np.exp(N * np.sum(order**2, axis=1) / (4 * gT))
    wrong = hot @ order**2 / hot.sum()
    assert np.abs((squares.mean(0) - wrong) / (squares.std(0) / np.sqrt(chains))).max() > 10


def test_kinds_of_spins():
    p, truth, member, means = groups(2, 0.3, (4, 0.6))
    assert p.sum() == pytest.approx(1, rel=1e-14)
    x = means[member]
    np.testing.assert_allclose(p @ truth**2, 0.7, rtol=1e-13)
    np.testing.assert_allclose(p @ x**2, 0.7, rtol=1e-13)  # normalised to the patterns
    R = 0.36 + 0.64 / 4
    np.testing.assert_allclose(p @ (x * truth), 0.7 * 0.6 / np.sqrt(R), rtol=1e-13)
    assert len(np.unique(means, axis=0)) == len(means) == 25


def test_plain_patterns_against_theory():
    state = statmech.multitasking(3, 0.3, 0.2)
    found = statmech.simulate_multitasking(3, 0.3, 0.2, 1_000_000, start=state.Mhat, key=3)
    z = (found.mean - state.m) / found.stderr
    assert np.abs(z).max() < 5  # 16 samples: Student-t
    assert found.stderr[0] < 0.0005  # the bars are small enough to mean something


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": [0.1]}, "start must be 2 finite order parameters"),
        ({"T": 0.0}, "T must be > 0"),
        ({"d": 1.0}, "d must be"),
        ({"N": 0}, "N must be >= 1"),
        ({"samples": 1}, "samples must be >= 2"),
        ({"sweeps": 0}, "sweeps must be >= 1"),
        ({"g": "x"}, "g must be one of"),
        ({"K": 12, "start": np.zeros(12)}, "K = 12 patterns give"),
    ],
)
def test_bad_input(arguments, message):
    given = {"K": 2, "d": 0.3, "T": 0.2, "N": 100, "start": [0.5, 0.2], "key": 0, **arguments}
    with pytest.raises(DomainError, match=message):
        statmech.simulate_multitasking(**given)
