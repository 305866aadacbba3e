"""Parallel tempering against enumeration, its swaps, its record."""

import functools

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest

import statmech
from deeplimits.errors import DataError, DomainError, ShapeError
from statmech.tempering_core import _ranks, _replica_overlaps, swap

N, SAMPLES, SWEEPS = 10, 16, 2000
T = np.array([0.4, 0.6, 0.9, 1.3])
STATES = 1 - 2.0 * ((np.arange(2**N)[:, None] >> np.arange(N)) & 1)


@functools.cache
def coupling():
    return statmech.sk_coupling(N, key=0, samples=SAMPLES)


@functools.cache
def run():
    return statmech.parallel_tempering(
        coupling(), T, key=1, sweeps=SWEEPS, burn_in=200, progress=False
    )


def exact(J, t):
    E = -np.einsum("ai,ij,aj->a", STATES, J, STATES) / 2
    p = np.exp(-(E - E.min()) / t)
    p /= p.sum()
    C = np.einsum("a,ai,aj->ij", p, STATES, STATES)
    return p @ E / N, np.mean(C**2)


def test_against_enumeration():
    J = np.asarray(coupling().J, np.float64)
    law = np.array([[exact(j, t) for j in J] for t in T])  # (n, samples, 2)
    r = run()
    for k, x in enumerate([r.series["energy"], r.overlaps**2]):
        gap = x.mean((-2, -1)) - law[..., k]
        z = gap.mean(1) / (gap.std(1, ddof=1) / SAMPLES**0.5)
        assert np.all(np.abs(z) < 5)  # 8 t values with 15 degrees of freedom, fixed key
        assert np.all(gap.std(1) < 0.05)  # the spread of the law over temperatures is 0.2 to 0.4


def test_identity_of_gaussian_couplings():
    r = run()
    U, ql = r.series["energy"].mean((-2, -1)), statmech.link_overlap(r.overlaps, N).mean((-2, -1))
    gap = U + (N - 1) / N / (2 * T[:, None]) * (1 - ql)
    # paired over disorder samples, which are independent
    assert np.all(np.abs(gap.mean(1)) < 4 * gap.std(1, ddof=1) / SAMPLES**0.5)


def test_replica_overlaps_by_gathering():
    """Three pairs of copies, each with its own placement of five walkers."""
    rng = np.random.default_rng(0)
    spins = rng.choice(np.float32([-1, 1]), (31, 6 * 5))
    place = np.array([rng.permutation(5) for _ in range(6)], np.int32)
    ordered = np.take_along_axis(spins.reshape(31, 6, 5), place[None], axis=2)
    want = (ordered[:, 0::2] * ordered[:, 1::2]).mean(0)
    found = _replica_overlaps(jnp.asarray(spins), jnp.asarray(place))
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-7)  # integers over 31, in float32


def test_ranks_invert_placements():
    rng = np.random.default_rng(1)
    place = np.array([rng.permutation(9) for _ in range(4)], np.int32)
    np.testing.assert_array_equal(_ranks(jnp.asarray(place)), np.argsort(place, axis=1))


def test_swaps_have_detailed_balance():
    """All placements of 3 walkers with given energies: the joint law is reversible under swaps."""
    beta, E = jnp.array([2.0, 1.1, 0.4]), jnp.array([[-1.3, 0.2, 0.7]])
    places = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    weight = {p: float(np.exp(-np.dot(beta, E[0, list(p)]))) for p in places}
    for parity in (0, 1):
        for p in places:
            place = jnp.array([p])
            surely, done = swap(place, E, beta, parity, jnp.full((1, 2), 1e-300))
            other = tuple(int(i) for i in np.asarray(surely)[0])
            assert int(done.sum()) == 1
            assert other != p
            rate = min(1.0, weight[other] / weight[p])  # detailed balance, Metropolis
            below, above = (
                swap(place, E, beta, parity, jnp.full((1, 2), rate * f))[1]
                for f in (0.999999, 1.000001)
            )
            assert bool(below.any())
            assert rate == 1.0 or not bool(above.any())


def test_record():
    r = run()
    assert r.spins.shape == (4, SAMPLES, 2, N)
    assert set(np.unique(r.spins)) == {-1, 1}
    assert np.all((r.swap_rates > 0.3) & (r.swap_rates < 1))
    assert r.round_trips.min() > 0
    assert np.all(np.diff(r.energy.mean) > 0)
    assert np.all(r.tau > 0)
    assert np.all(r.binder.stderr > 0)
    assert np.all(np.diff(r.q2.mean) < 0)
    J = np.asarray(coupling().J, np.float64)
    last = -np.einsum("tsri,sij,tsrj->tsr", r.spins, J, r.spins) / 2 / N
    # last spins belong to the last energies; float32 fields
    np.testing.assert_allclose(last, r.series["energy"][..., -1], atol=1e-5)
    centres, P = r.P_q(0, bins=11)
    np.testing.assert_allclose(P.mean.sum() * (centres[1] - centres[0]), 1)
    matplotlib.use("Agg")
    assert r.plot("q2").get_xlabel() == "temperature T"
    matplotlib.pyplot.close("all")
    assert len(jax.tree.leaves(r)) == 10


def test_resume(tmp_path):
    path, kw = tmp_path / "run.npz", {"key": 1, "burn_in": 200, "progress": False}
    statmech.parallel_tempering(coupling(), T, sweeps=1000, checkpoint=path, **kw)
    again = statmech.parallel_tempering(coupling(), T, sweeps=SWEEPS, checkpoint=path, **kw)
    assert np.array_equal(again.series["energy"], run().series["energy"])
    assert np.array_equal(again.swap_rates, run().swap_rates)
    assert np.array_equal(again.round_trips, run().round_trips)
    with pytest.raises(DataError, match="another run"):
        statmech.parallel_tempering(coupling(), T + 0.1, sweeps=10, checkpoint=path, **kw)
    with pytest.raises(DataError, match="more than sweeps=10"):
        statmech.parallel_tempering(coupling(), T, sweeps=10, checkpoint=path, **kw)


def test_ladder():
    ladder = statmech.temperature_ladder(
        coupling(), 0.2, 2.0, key=2, acceptance=0.6, pilot=4, sweeps=1000, burn_in=200,
        progress=False,
    )  # fmt: skip
    assert ladder[0] == 0.2
    assert ladder[-1] == 2.0
    assert np.all(np.diff(ladder) > 0)
    finer = statmech.temperature_ladder(
        coupling(), 0.2, 2.0, key=2, acceptance=0.8, pilot=4, sweeps=1000, burn_in=200,
        progress=False,
    )  # fmt: skip
    # steps are in proportion to erfcinv(A): 0.3708 against 0.1791
    assert abs((len(finer) - 1) / (len(ladder) - 1) - 0.3708 / 0.1791) < 0.6  # whole numbers


def test_bad_input():
    def pt(T=T, **kw):
        return statmech.parallel_tempering(coupling(), T, **{"key": 0, "sweeps": 4, **kw})

    for bad, text in [([0.5, 0.4, 0.6], "strictly"), ([0.5, 0.5], "strictly"), ([0.0, 1.0], "> 0")]:
        with pytest.raises(DomainError, match=text):
            pt(bad)
    with pytest.raises(ShapeError, match="temperatures must have shape"):
        pt([1.0])
    with pytest.raises(DomainError, match="replicas must be even"):
        pt(replicas=3)
    with pytest.raises(DomainError, match="multiple of every"):
        pt(every=3)
    with pytest.raises(DomainError, match="kernel must be one of"):
        pt(kernel="little")
    with pytest.raises(DomainError, match="GB"):
        pt(sweeps=10**9)
    with pytest.raises(DomainError, match="is a heat bath"):
        statmech.parallel_tempering(
            statmech.hebbian_coupling(np.ones((1, 4))), T, key=0, sweeps=4, kernel="dual",
            rule="metropolis",
        )  # fmt: skip
    with pytest.raises(DomainError, match="T_max must be > 1"):
        statmech.temperature_ladder(coupling(), 1.0, 0.5, key=0)
    with pytest.raises(DomainError, match="name must be one of"):
        run().plot("energies")
