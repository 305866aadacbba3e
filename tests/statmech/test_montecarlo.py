"""Simulations against exact enumeration, and what they return."""

import functools

import jax
import matplotlib
import numpy as np
import pytest

import statmech
from deeplimits.errors import DomainError, ShapeError
from deeplimits.statistics import family_threshold, z_score
from statmech import montecarlo

N, SAMPLES, CHAINS, SWEEPS = 10, 2, 16, 2000
TEMPERATURES = np.array([0.7, 1.4])
STATES = 1 - 2.0 * ((np.arange(2**N)[:, None] >> np.arange(N)) & 1)


@functools.cache
def coupling():
    return statmech.sk_coupling(N, key=0, samples=SAMPLES, field=np.linspace(0, 0.5, N))


@functools.cache
def simulation():
    return statmech.simulate(
        coupling(), key=1, T=TEMPERATURES, sweeps=SWEEPS, burn_in=100, chains=CHAINS, block_size=4
    )


def exact(J, b, T):
    """Energy, heat capacity per spin and second moment of the replica overlap."""
    H = -np.einsum("ai,ij,aj->a", STATES, J, STATES) / 2 - STATES @ b
    p = np.exp(-(H - H.min()) / T)
    p /= p.sum()
    C = np.einsum("a,ai,aj->ij", p, STATES, STATES)
    U = p @ H
    return np.array([U / N, (p @ H**2 - U**2) / N, np.mean(C**2)])


def test_against_enumeration():
    s, c = simulation(), coupling()
    theory = np.array(
        [[exact(J, b, T) for J, b in zip(c.matrix(), c.field, strict=True)] for T in TEMPERATURES]
    )
    energy = s.series["energy"]
    centre = theory[..., 0, None, None]
    found = (
        energy.mean(-1),
        N * ((energy - centre) ** 2).mean(-1),  # fluctuation theorem: -dU/d beta = N Var(E/N)
        (s.series["q"] ** 2).mean(-1),
    )
    for k, x in enumerate(found):
        n = x.shape[-1]
        z = z_score(x.mean(-1), x.std(-1, ddof=1) / n**0.5, theory[..., k])
        # four values, errors from as many degrees of freedom as chains less one
        assert np.abs(z).max() < family_threshold(4.0, z.size, n - 1)
    spread = energy.mean(-1).std(-1, ddof=1) / CHAINS**0.5
    assert np.all(np.abs(np.diff(theory[..., 0], axis=0)) > 20 * spread)  # the test has power


def test_energies_are_those_of_the_spins():
    s, c = simulation(), coupling()
    x = s.spins.astype(float)
    H = -np.einsum("tdci,dij,tdcj->tdc", x, c.matrix(), x) / 2 - np.einsum(
        "tdci,di->tdc", x, c.field
    )
    # kept up to date over a chunk of 1000 sweeps of float32 changes
    np.testing.assert_allclose(s.series["energy"][..., -1], H / N, atol=3e-6)


def test_shapes():
    s = simulation()
    lead = (2, SAMPLES, CHAINS)
    assert s.spins.shape == (*lead, N)
    assert s.spins.dtype == np.int8
    assert s.energy.shape == s.tau.shape == s.acceptance.shape == s.energy_error.shape == lead
    assert s.q.shape == (2, SAMPLES, CHAINS // 2)
    assert s.series["energy"].shape == (*lead, SWEEPS)
    assert s.series["q"].shape == (2, SAMPLES, CHAINS // 2, SWEEPS)
    assert s.overlaps.shape == (*lead, 0)
    assert s.magnetisation.shape == (*lead, N)
    assert len(jax.tree.leaves(s)) == 9
    # times and acceptance grow and fall with temperature
    assert np.all(s.tau[0].mean(-1) > s.tau[1].mean(-1))
    assert np.all(s.acceptance[0].mean(-1) < s.acceptance[1].mean(-1))
    # the time average of the spins carries q: its bias is (1 - q) tau / n, below 0.01 here
    assert np.abs(s.q_ea.mean(-1) - s.q.mean(-1)).max() < 0.05


def test_estimates():
    s = simulation()
    e = s.estimate("energy")  # samples are the independent units
    np.testing.assert_allclose(e.mean, s.energy.mean((1, 2)), rtol=1e-12)
    spread = s.energy.mean(-1).std(-1, ddof=1) / SAMPLES**0.5
    np.testing.assert_allclose(e.stderr, spread, rtol=1e-12)
    assert e.dof == SAMPLES - 1
    q2 = s.estimate("q", power=2)
    np.testing.assert_allclose(q2.mean, (s.series["q"] ** 2).mean((1, 2, 3)), rtol=1e-12)
    # errors of single chains from their autocorrelation agree with the spread between chains
    ratio = s.energy_error.mean(-1) / s.energy.std(-1, ddof=1)
    assert np.all((ratio > 0.5) & (ratio < 2))  # 15 degrees of freedom: 99.9 % in [0.6, 1.8]


def small(**kw):
    x = statmech.random_patterns(2, 40, key=0)
    settings = {"key": 0, "T": 0.3, "sweeps": 16, "chains": 4, "progress": False, **kw}
    return statmech.simulate(statmech.hebbian_coupling(x), **settings), x


def test_zero_temperature():
    s, x = small(T=0.0, sweeps=40, target=np.array([0, 1, 0, 1]))
    J = statmech.hebbian_coupling(x).matrix()
    fields = s.spins @ J
    assert np.all(s.spins * fields >= 0)  # every spin along its field
    assert np.all(np.diff(s.series["energy"], axis=-1) <= 0)
    assert np.all(s.acceptance < 0.05)
    start, _ = small(T=0.0, start="pattern", burn_in=0, target=1)
    np.testing.assert_array_equal(start.series["overlap"], 1.0)  # two patterns are fixed points
    np.testing.assert_array_equal(start.spins, np.broadcast_to(x[1], (4, 40)))
    assert np.isnan(start.tau).all()
    assert not start.energy_error.any()


def test_overlaps_and_continuation():
    s, x = small(start="pattern", burn_in=0)
    final = s.spins @ x.T.astype(float) / 40
    np.testing.assert_allclose(s.series["overlap"][:, -1], final[:, 0], atol=1e-7)  # float32
    np.testing.assert_allclose(s.overlaps[:, 0], s.series["overlap"].mean(-1), rtol=1e-12)
    np.testing.assert_allclose(
        s.overlaps_squared[:, 0], (s.series["overlap"] ** 2).mean(-1), rtol=1e-12
    )
    q = (s.spins[:2].astype(float) * s.spins[2:]).mean(-1)
    np.testing.assert_allclose(s.series["q"][:, -1], q, atol=1e-7)
    on, _ = small(start=s.spins, burn_in=0, key=1)
    assert np.any(on.spins != s.spins)
    # the same key gives the same run, and so do blocks of another size
    again, _ = small(start="pattern", burn_in=0, block_size=7)
    np.testing.assert_array_equal(again.spins, s.spins)
    alone, _ = small(chains=1, start=s.spins[0])
    assert alone.spins.shape == (1, 40)
    assert alone.estimate("energy").stderr > 0
    with pytest.raises(DomainError, match="q needs at least 2 chains"):
        alone.estimate("q")
    with pytest.raises(ShapeError, match="q needs at least 2 chains"):
        alone.plot("q")


def test_blanks_of_a_pattern_start_at_random():
    x = statmech.diluted_patterns(1, 40, 0.5, key=3)
    s = statmech.simulate(
        statmech.hebbian_coupling(x), key=0, T=0.0, sweeps=16, chains=4, burn_in=0,
        start="pattern", kernel="auto", progress=False,
    )  # fmt: skip
    np.testing.assert_array_equal(s.spins[:, x[0] != 0], np.tile(x[0, x[0] != 0], (4, 1)))
    assert 0 < np.mean(s.spins[:, x[0] == 0] > 0) < 1


def test_every():
    dense, _ = small()
    s, _ = small(every=4, burn_in=4)
    assert s.series["energy"].shape == (4, 4)
    np.testing.assert_allclose(s.series["energy"], dense.series["energy"][:, 3::4], rtol=1e-12)
    assert s.kernel == "blocked"  # a CPU


def test_automatic_kernel(monkeypatch):
    c = statmech.hebbian_coupling(np.ones((1, 4)))
    choose = montecarlo._choose_kernel
    assert choose(c, "auto", "heatbath", np.ones(1)) == "blocked"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert choose(c, "auto", "heatbath", np.ones(1)) == "dual"
    assert choose(c, "auto", "metropolis", np.ones(1)) == "blocked"
    assert choose(c, "auto", "heatbath", np.zeros(1)) == "blocked"
    assert choose(coupling(), "auto", "heatbath", np.ones(1)) == "blocked"


def test_plot():
    ax = simulation().plot("energy")
    assert ax.get_xlabel() == "temperature T"
    line = ax.containers[0].lines[0].get_xydata()
    np.testing.assert_allclose(line[:, 1], simulation().estimate("energy").mean)
    s, _ = small()
    ax = s.plot("overlap", color="black")
    np.testing.assert_allclose(ax.lines[0].get_ydata(), s.series["overlap"][0])
    assert statmech.plot_simulation(s, "q", ax=ax) is ax
    with pytest.raises(DomainError, match="name must be one of"):
        s.plot("entropy")
    matplotlib.pyplot.close("all")


BAD = [
    ({"T": -1.0}, DomainError, "T must be >= 0, got -1"),
    ({"T": [[1.0]]}, ShapeError, r"T must be a number or have shape \(temperatures,\)"),
    ({"T": np.nan}, DomainError, "T must be finite"),
    ({"sweeps": 0}, DomainError, "sweeps must be >= 1"),
    ({"sweeps": 10, "every": 4}, DomainError, "sweeps must be a multiple of every = 4"),
    ({"chains": 0}, DomainError, "chains must be >= 1"),
    ({"burn_in": -1}, DomainError, "burn_in must be >= 0"),
    ({"kernel": "gibbs"}, DomainError, "kernel must be one of"),
    ({"rule": "glauber"}, DomainError, "rule must be one of"),
    ({"kernel": "little", "rule": "metropolis"}, DomainError, "'little' is a heat bath"),
    ({"kernel": "dual", "T": 0.0}, DomainError, "'dual' needs T > 0"),
    ({"dtype": "float16"}, DomainError, "dtype must be one of"),
    ({"block_size": 0}, DomainError, "block_size must be >= 1"),
    ({"start": "cold"}, DomainError, "start must be one of"),
    ({"start": np.zeros(40)}, DomainError, "start must hold spins of -1 and 1 only"),
    ({"start": np.ones(39)}, ShapeError, r"start must broadcast to \(4, 40\)"),
    ({"start": np.ones((1, 4, 40))}, ShapeError, r"start must broadcast to \(4, 40\)"),
    ({"target": 2}, DomainError, "target must be integers in 0..1"),
    ({"target": [0, 1]}, ShapeError, r"target must be an integer or have shape \(4,\)"),
    ({"chains": 10**9}, DomainError, "this simulation would take"),
    ({"key": None}, DomainError, "key must be one"),
]


@pytest.mark.parametrize(("kw", "error", "match"), BAD, ids=[b[2][:30] for b in BAD])
def test_bad_input(kw, error, match):
    with pytest.raises(error, match=match):
        small(**kw)


def test_what_a_matrix_does_not_offer():
    c = statmech.matrix_coupling(np.zeros((4, 4)))
    with pytest.raises(DomainError, match="kernel must be one of 'blocked', 'site', 'little'"):
        statmech.simulate(c, key=0, T=1.0, sweeps=8, kernel="dual")
    with pytest.raises(DomainError, match="start='pattern' needs a coupling with patterns"):
        statmech.simulate(c, key=0, T=1.0, sweeps=8, start="pattern")
