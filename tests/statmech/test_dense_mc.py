"""Dense networks: energies and fields by brute force, exact chains, simulations."""

import functools
import itertools

import jax.numpy as jnp
import numpy as np
import pytest

import statmech
from deeplimits.errors import DomainError, ShapeError
from statmech.dense_mc_parts import RealParts, SignParts

N, C, T = 7, 0.7, 0.9
STATES = 1 - 2.0 * ((np.arange(2**N)[:, None] >> np.arange(N)) & 1)
FIELD = np.linspace(-0.3, 0.5, N)
RNG = np.random.default_rng(0)
SIGNS, REALS = RNG.choice([-1, 1], (3, N)), RNG.normal(size=(2, N))


def brute(x, P, index):
    """Energies of all states, a sum over tuples of indices."""
    tuples = itertools.permutations if index == "distinct" else itertools.product
    kw = {"r": P} if index == "distinct" else {"repeat": P}
    idx = np.array(list(tuples(range(N), **kw)))
    products = np.prod((x[:, None] * STATES)[:, :, idx], axis=-1)
    return -C * products.sum((0, 2)) / N ** (P - 1) - STATES @ FIELD


CASES = [(x, P, i) for x in ("signs", "reals") for P in (3, 4) for i in ("distinct", "full")]


@functools.cache
def case(kind, P, index):
    x = SIGNS if kind == "signs" else REALS
    return statmech.dense_coupling(x, P=P, c=C, index=index, field=FIELD), brute(x, P, index)


def fields(coupling, i):
    """Local fields on site i in all states, from the kernel's own code."""
    coupling = coupling.cast(jnp.float64)
    make = SignParts if coupling.signs else RealParts
    parts = make(coupling.stored, coupling.field, coupling.scale, coupling.P, coupling.index)
    spins = jnp.asarray(STATES.T)
    return parts.unit * np.asarray(parts.field(i, spins[i], parts.memory(spins))[0])


@pytest.mark.parametrize(("kind", "P", "index"), CASES)
def test_energies_by_brute_force(kind, P, index):
    coupling, E = case(kind, P, index)
    kernel = coupling.cast(jnp.float64).kernel("blocked", "heatbath", 1)
    state = kernel.start(jnp.asarray(STATES.T))
    # rounding of sums of up to 7^4 terms of total size below 1e3
    np.testing.assert_allclose(np.asarray(kernel.energy(state)) * N, E, atol=1e-11)


@pytest.mark.parametrize("rule", ["heatbath", "metropolis"])
@pytest.mark.parametrize(("kind", "P", "index"), CASES)
def test_gibbs_law_is_stationary(kind, P, index, rule):
    coupling, E = case(kind, P, index)
    p = np.exp(-(E - E.min()) / T)
    p /= p.sum()
    rows = np.arange(2**N)
    q = p
    for i in range(N):
        x = 2 / T * STATES[:, i] * fields(coupling, i)
        flip = 1 / (1 + np.exp(x)) if rule == "heatbath" else np.minimum(1, np.exp(-x))
        flow, back = p * flip, (p * flip)[rows ^ (1 << i)]
        # detailed balance of each update; fields carry errors of 1e-13 from brute-force energies
        np.testing.assert_allclose(flow, back, atol=1e-13)
        q = q * (1 - flip) + (q * flip)[rows ^ (1 << i)]
    np.testing.assert_allclose(q, p, atol=1e-13)


@pytest.mark.parametrize(("kind", "kernel", "rule"), [
    ("signs", "blocked", "heatbath"), ("reals", "site", "metropolis"),
])  # fmt: skip
def test_simulation_against_enumeration(kind, kernel, rule):
    coupling, E = case(kind, 3, "distinct")
    run = statmech.simulate(
        coupling, key=1, T=T, sweeps=400, burn_in=40, chains=64, kernel=kernel, rule=rule,
        progress=False,
    )  # fmt: skip
    p = np.exp(-(E - E.min()) / T)
    p /= p.sum()
    e = run.estimate("energy")
    assert abs(e.mean - p @ E / N) < 4 * e.stderr  # 64 independent chains, fixed key
    assert e.stderr < 0.05 * abs(p @ E / N)  # so that a factor of two is seen


def test_examples():
    eta = RNG.choice([-1, 1], (3, 2, N))
    r, M = 0.6, 3
    R = r**2 + (1 - r**2) / M
    sup = statmech.dense_coupling(examples=eta, r=r, P=3, c=C)
    np.testing.assert_allclose(sup.stored, eta.mean(0) / R**0.5, rtol=1e-15)
    uns = statmech.dense_coupling(examples=eta, r=r, P=3, c=C, supervised=False, field=FIELD)
    flat = eta.reshape(-1, N) / (R**0.5 * M ** (1 / 3))
    kernel = uns.cast(jnp.float64).kernel("blocked", "heatbath", 1)
    energy = np.asarray(kernel.energy(kernel.start(jnp.asarray(STATES.T)))) * N
    np.testing.assert_allclose(energy, brute(flat, 3, "distinct"), atol=1e-11)  # rounding
    record = statmech.noisy_examples(SIGNS, 3, r, key=0)
    assert statmech.dense_coupling(examples=record, P=3).stored.shape == SIGNS.shape


def test_bad_input():
    with pytest.raises(DomainError, match="either patterns or examples"):
        statmech.dense_coupling(P=3)
    with pytest.raises(DomainError, match="P must be >= 2"):
        statmech.dense_coupling(SIGNS, P=1)
    with pytest.raises(DomainError, match="N >= P"):
        statmech.dense_coupling(SIGNS, P=8)
    with pytest.raises(ShapeError, match="examples must have shape"):
        statmech.dense_coupling(examples=SIGNS, r=0.5, P=3)
    with pytest.raises(DomainError, match="hold -1 and 1"):
        statmech.dense_coupling(examples=np.zeros((2, 2, N)), r=0.5, P=3)
    with pytest.raises(DomainError, match="quality r"):
        statmech.dense_coupling(examples=np.ones((2, 2, N)), P=3)
    with pytest.raises(ShapeError, match="reference must have"):
        statmech.dense_coupling(SIGNS, P=3, reference=np.ones((1, 3)))
    with pytest.raises(DomainError, match="GB"):
        statmech.dense_pattern_count(4, 0.03, 1000)
    assert statmech.dense_pattern_count(3, 0.03, 100) == 300
    with pytest.raises(DomainError, match="kernel must be one of"):
        case("signs", 3, "full")[0].kernel("dual", "heatbath", 1)
