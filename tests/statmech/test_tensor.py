"""Couplings of p spins: energies by brute force, exact chains, the laws of their ensembles."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statmech
from deeplimits.errors import DomainError, ShapeError
from statmech.coupling_tensor import TensorParts
from statmech.kernels import decide, thresholds

N, T = 7, 0.8
STATES = 1 - 2.0 * ((np.arange(2**N)[:, None] >> np.arange(N)) & 1)
FIELD = np.linspace(-0.4, 0.3, N)


def symmetric(p, n, law):
    """A random tensor, symmetric and zero at equal indices, and its terms."""
    rng = np.random.default_rng(p)
    terms = list(itertools.combinations(range(n), p))
    values = rng.normal(size=len(terms)) if law == "normal" else rng.choice([-1.0, 1.0], len(terms))
    J = np.zeros((n,) * p)
    for term, value in zip(terms, values, strict=True):
        for order in itertools.permutations(term):
            J[order] = value
    return J, np.array(terms), values


@functools.cache
def case(p):
    """The coupling, the energies of all states, local fields by differences of energies."""
    J, terms, values = symmetric(p, N, "normal")
    E = -np.prod(STATES[:, terms], axis=2) @ values - STATES @ FIELD
    rows = np.arange(2**N)
    fields = np.stack([(E[rows ^ (1 << i)] - E) / 2 * STATES[:, i] for i in range(N)])
    return statmech.tensor_coupling(J, p=p, field=FIELD), E, fields


@pytest.mark.parametrize("p", [3, 4, 5])
def test_energies_by_brute_force(p):
    coupling, E, fields = case(p)
    spins = jnp.asarray(STATES.T)
    cast = coupling.cast(jnp.float64)
    kernel = cast.kernel("blocked", "heatbath", 1)
    np.testing.assert_allclose(np.asarray(kernel.energy(kernel.start(spins))) * N, E, atol=1e-12)
    parts = TensorParts(cast.J, cast.field, p)
    memory = parts.memory(spins)
    for i in range(N):
        found, rest = parts.field(i, spins[i], memory)
        np.testing.assert_allclose(found, fields[i], atol=1e-12)  # rounding of sums of 35 terms
        after = parts.put(i, -spins[i], rest, memory)
        np.testing.assert_allclose(after[1], E[np.arange(2**N) ^ (1 << i)], atol=1e-12)


@pytest.mark.parametrize("rule", ["heatbath", "metropolis"])
def test_sweep_is_the_scalar_loop(rule):
    """Couplings of -1 and 1: every sum is exact, so that trajectories agree bit by bit."""
    n, B = 6, 5
    J, _, _ = symmetric(3, n, "signs")
    kernel = statmech.tensor_coupling(J, p=3).cast(jnp.float32).kernel("blocked", rule, 1)
    rng = np.random.default_rng(1)
    spins = rng.choice(np.float32([-1, 1]), (n, B))
    warm = jnp.linspace(0.5, 3, B, dtype=jnp.float32)
    state = kernel.start(jnp.asarray(spins))
    for k in range(4):
        key = jax.random.key(k)
        state, _ = kernel.sweep(state, key, warm)
        t = thresholds(rule, key, (n, B), warm, 1.0, jnp.float32)
        for i in range(n):
            field = np.einsum("jk,jb,kb->b", J[i], spins, spins).astype(np.float32) / 2
            spins[i] = decide(rule, jnp.asarray(field), jnp.asarray(spins[i]), t[i])
        np.testing.assert_array_equal(np.asarray(state.spins), spins)


@pytest.mark.parametrize(
    ("p", "kernel", "rule"), [(3, "blocked", "heatbath"), (4, "site", "metropolis")]
)
def test_simulation_against_enumeration(p, kernel, rule):
    coupling, E, _ = case(p)
    law = np.exp(-(E - E.min()) / (4 * T))
    law /= law.sum()
    run = statmech.simulate(
        coupling, key=0, T=4 * T, sweeps=3000, burn_in=100, chains=20, kernel=kernel, rule=rule,
        progress=False,
    )  # fmt: skip
    e = run.estimate("energy")
    assert abs(e.mean - law @ E / N) < 4 * e.stderr < 0.2 * abs(law @ E / N)  # fixed key
    m = np.asarray(run.magnetisation)
    gap = m.mean(0) - law @ STATES
    assert np.all(np.abs(gap) < 5 * m.std(0, ddof=1) / 20**0.5)  # 7 t values, 19 degrees


def test_tempering_of_samples_against_enumeration():
    samples, ladder = 12, np.array([0.4, 0.7, 1.2])
    coupling = statmech.p_spin_coupling(N, key=0, samples=samples)
    run = statmech.parallel_tempering(
        coupling, ladder, key=1, sweeps=2000, burn_in=100, progress=False
    )
    terms = np.array(list(itertools.combinations(range(N), 3)))
    J = np.asarray(coupling.J, np.float64)[:, terms[:, 0], terms[:, 1], terms[:, 2]]
    E = -np.prod(STATES[:, terms], axis=2) @ J.T  # (states, samples)
    weight = np.exp(-(E - E.min(0))[None] / ladder[:, None, None])
    exact = (weight * E).sum(1) / weight.sum(1) / N
    gap = run.series["energy"].mean((-2, -1)) - exact
    z = gap.mean(1) / (gap.std(1, ddof=1) / samples**0.5)
    assert np.all(np.abs(z) < 5)  # 3 t values with 11 degrees of freedom, fixed key


def test_moments():
    n, samples = 9, 400
    c = statmech.p_spin_coupling(n, p=3, key=0, samples=samples)
    J = np.asarray(c.J, np.float64)
    terms = np.array(list(itertools.combinations(range(n), 3)))
    values = J[:, terms[:, 0], terms[:, 1], terms[:, 2]]
    for order in itertools.permutations(range(3)):
        np.testing.assert_array_equal(J, np.transpose(J, (0, *(1 + np.array(order)))))
    assert np.count_nonzero(J) == samples * 6 * math.comb(n, 3)
    scaled = values / (3 / n**2) ** 0.5  # p! / (2 N^(p-1)) = 3 / N^2
    count = scaled.size
    assert abs(scaled.mean()) < 4 / count**0.5
    assert abs((scaled**2).mean() - 1) < 4 * (2 / count) ** 0.5
    few = statmech.p_spin_coupling(n, p=3, key=0, samples=2)
    np.testing.assert_array_equal(few.J, c.J[:2])
    np.testing.assert_array_equal(statmech.p_spin_coupling(n, p=3, key=0).J, c.J[0])
    assert statmech.p_spin_coupling(5, p=4, key=0).J.shape == (5,) * 4


def test_bad_input():
    J, _, _ = symmetric(3, 5, "normal")
    with pytest.raises(DomainError, match=r"p must be between 3 and 6, got 2.*sk_coupling"):
        statmech.p_spin_coupling(5, p=2, key=0)
    with pytest.raises(DomainError, match=r"p must be between 3 and 6, got 7\.$"):
        statmech.p_spin_coupling(9, p=7, key=0)
    with pytest.raises(DomainError, match=r"N must be >= 4"):
        statmech.p_spin_coupling(3, p=4, key=0)
    with pytest.raises(DomainError, match=r"couplings would take .* GB"):
        statmech.p_spin_coupling(2000, key=0)
    with pytest.raises(ShapeError, match=r"J must have 3 axes"):
        statmech.tensor_coupling(J[:4], p=3)
    with pytest.raises(DomainError, match=r"J must be symmetric.*exchanging 1 and 2"):
        statmech.tensor_coupling(np.where(np.arange(5) == 4, J + 1, J), p=3)
    with pytest.raises(DomainError, match=r"zero where two indices are equal, got 1"):
        statmech.tensor_coupling(np.ones((5, 5, 5)), p=3)
    with pytest.raises(DomainError, match=r"J must be finite"):
        statmech.tensor_coupling(J * np.nan, p=3)
    with pytest.raises(ShapeError, match=r"reference must have the spins"):
        statmech.tensor_coupling(J, p=3, reference=np.ones((1, 4)))
    with pytest.raises(DomainError, match=r"kernel must be one of 'blocked', 'site'"):
        statmech.simulate(statmech.tensor_coupling(J, p=3), key=0, T=1.0, sweeps=4, kernel="little")
