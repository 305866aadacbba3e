"""Kernels as algorithms: random thresholds, and trajectories equal to those of plain loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from statmech.coupling import hebbian_coupling
from statmech.coupling_matrix import matrix_coupling
from statmech.kernels import State, aligned, random_words, thresholds
from statmech.kernels_blocked import drawn_sites
from statmech.patterns import random_patterns

N, B, SWEEPS = 50, 12, 3
T = np.repeat(np.float32([0.0, 0.4, 1.0]), B // 3)


@functools.cache
def coupling(kind):
    patterns = random_patterns(6, N, key=1)
    if kind == "hebbian":
        return hebbian_coupling(patterns).cast(jnp.float32)
    # multiples of 1/16 below 1: all sums of 50 of them are exact in float32
    upper = np.triu(np.random.default_rng(2).integers(-15, 16, (N, N)) / 16, 1)
    return matrix_coupling(upper + upper.T).cast(jnp.float32)


@functools.cache
def start_spins():
    return np.asarray(jax.random.rademacher(jax.random.key(3), (N, B), jnp.float32))


@functools.partial(jax.jit, static_argnames=("name", "rule", "block_size"))
def trajectory(coupling, spins, name, rule, block_size):
    kernel = coupling.kernel(name, rule, block_size)

    def sweep(state, key):
        state, flips = kernel.sweep(state, key, jnp.asarray(T))
        return state, (state.spins, flips, kernel.energy(state))

    return jax.lax.scan(sweep, kernel.start(spins), keys())[1]


def keys():
    return jax.random.split(jax.random.key(4), SWEEPS)


def plain_loop(coupling, rule, sites, t, s):
    """One spin after the other, in double precision; fields in units of the coupling."""
    unit = getattr(coupling, "weight", 1.0)
    J = np.round(coupling.matrix() / unit * 16) / 16  # undo the rounding of the division
    np.testing.assert_allclose(J * unit, coupling.matrix(), atol=1e-7)  # float32 weights
    s = s.astype(np.float64)
    flips = np.zeros(B)
    for i, threshold in zip(sites, t, strict=True):
        field = J[i] @ s
        if rule == "heatbath":
            new = np.where(field > threshold, 1.0, -1.0)
        else:
            new = np.where(s[i] * field <= threshold, -s[i], s[i])
        flips += new != s[i]
        s[i] = new
    return s, flips, -np.einsum("ib,ij,jb->b", s, J, s) * unit / 2 / N


def compare(kind, name, rule, block_size):
    c = coupling(kind)
    spins, flips, energy = trajectory(c, start_spins(), name, rule, block_size)
    s = start_spins()
    for k, key in enumerate(keys()):
        sites = np.arange(N)
        if name == "site":
            for_sites, key = jax.random.split(key)
            sites = np.asarray(drawn_sites(for_sites, N))
            assert len(set(sites)) < N  # repeats are what makes this kernel delicate
        unit = getattr(c, "weight", 1.0)
        t = np.asarray(thresholds(rule, key, (N, B), jnp.asarray(T), unit, jnp.float32))
        s, count, e = plain_loop(c, rule, sites, t, s)
        np.testing.assert_array_equal(spins[k], s)
        np.testing.assert_array_equal(flips[k], count)
        # energies of float32 sums of 50 terms of order 1
        np.testing.assert_allclose(energy[k], e, atol=1e-6)
    assert np.any(spins[-1] != start_spins())


@pytest.mark.parametrize(
    ("kind", "rule", "block_size"),
    [
        ("hebbian", "heatbath", 16),  # does not divide N: last block of 2
        ("hebbian", "metropolis", 64),  # larger than N
        ("matrix", "heatbath", 10),
        ("matrix", "metropolis", 7),
        ("matrix", "heatbath", 45),  # updated in halves of unequal size
    ],
)
def test_blocked_sweep_is_the_scalar_loop(kind, rule, block_size):
    compare(kind, "blocked", rule, block_size)


@pytest.mark.parametrize(("kind", "rule"), [("hebbian", "heatbath"), ("matrix", "metropolis")])
def test_site_sweep_is_the_scalar_loop(kind, rule):
    compare(kind, "site", rule, 16)


@pytest.mark.parametrize(("columns", "width"), [(3, 3), (5, 8), (12, 16)])
@pytest.mark.parametrize(("kind", "name", "rule"), [
    ("hebbian", "blocked", "heatbath"), ("hebbian", "site", "metropolis"),
    ("hebbian", "dual", "heatbath"), ("hebbian", "little", "heatbath"),
    ("matrix", "blocked", "metropolis"), ("matrix", "little", "heatbath"),
])  # fmt: skip
def test_idle_columns(kind, name, rule, columns, width):
    """What shows of a kernel with idle columns is what the wide kernel does in the first ones."""
    kernel = coupling(kind).kernel(name, rule, 16)
    spins, warm = jnp.asarray(start_spins()[:, :columns]), jnp.asarray(T[:columns])
    repeated = np.minimum(np.arange(width), columns - 1)
    wide = kernel.start(spins[:, repeated])
    state = aligned(kernel, columns).start(spins)
    np.testing.assert_array_equal(state.spins, wide.spins)
    key = jax.random.key(0)
    state, flips = aligned(kernel, columns).sweep(state, key, warm)
    wide, all_flips = kernel.sweep(wide, key, warm[repeated])
    np.testing.assert_array_equal(state.spins, wide.spins)
    np.testing.assert_array_equal(flips, all_flips[:columns])
    found = aligned(kernel, columns)
    np.testing.assert_array_equal(found.energy(state), kernel.energy(wide)[:columns])
    np.testing.assert_array_equal(found.overlaps(state), kernel.overlaps(wide)[:, :columns])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_thresholds_follow_the_logistic_law(dtype):
    T, unit = np.array([0.5, 2.0]), 0.1
    draw = functools.partial(thresholds, shape=(400_001, 2), unit=unit, dtype=dtype)
    t = np.asarray(draw("heatbath", jax.random.key(10), T=jnp.asarray(T, dtype)))
    assert t.dtype == dtype
    assert np.isfinite(t).all()
    e = np.asarray(draw("metropolis", jax.random.key(11), T=jnp.asarray(T, dtype)))
    for column in range(2):
        # fixed keys; a factor of 1.02 in scale has p < 1e-4 in the Kolmogorov-Smirnov test
        scale = T[column] / (2 * unit)
        assert scipy.stats.kstest(t[:, column] / scale, "logistic").pvalue > 1e-3
        assert scipy.stats.kstest(e[:, column] / scale, "expon").pvalue > 1e-3


def test_thresholds_at_the_ends_of_the_random_words(monkeypatch):
    words = np.array([[0, 2**31 - 1, 2**31, 2**32 - 1]], np.uint32)
    monkeypatch.setattr("statmech.kernels.random_words", lambda *_: jnp.asarray(words))
    ones = jnp.full((4,), 2.0, jnp.float32)
    t = np.asarray(thresholds("heatbath", 0, (1, 4), ones, 1.0, jnp.float32))[0]
    # u from 2^-33: ln 2^33 = 22.87, at float32 accuracy
    np.testing.assert_allclose(np.abs(t[[0, 2]]), 33 * np.log(2), rtol=1e-6)
    np.testing.assert_array_equal(np.sign(t), [-1, -1, 1, 1])
    e = np.asarray(thresholds("metropolis", 0, (1, 4), ones, 1.0, jnp.float32))[0]
    np.testing.assert_allclose(e, [33 * np.log(2), np.log(2), np.log(2), 0], rtol=1e-6, atol=1e-9)
    zero = np.asarray(thresholds("heatbath", 0, (1, 4), 0 * ones, 1.0, jnp.float32))[0]
    assert np.all(zero != 0)
    assert np.all(np.abs(zero) < 1e-37)


def test_random_words_use_both_halves():
    words = np.asarray(random_words(jax.random.key(5), (7, 1000), jnp.float32))
    assert words.shape == (7, 1000)
    assert len(np.unique(words)) > 6990  # 7000^2 / 2^33 = 0.006 repeats expected
    # each of the 32 bits is fair: 4.5 standard deviations of a mean of 7000
    bits = (words.ravel()[:, None] >> np.arange(32, dtype=np.uint32)) & 1
    assert np.abs(bits.mean(0) - 0.5).max() < 4.5 * 0.5 / 7000**0.5


def test_state_is_a_pytree():
    assert len(jax.tree.leaves(State(np.ones(2), (np.ones(3), None)))) == 2
