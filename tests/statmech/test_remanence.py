"""Zero-temperature dynamics of the Hopfield network that starts at a pattern."""

import functools

import numpy as np
import pytest

import statmech
from deeplimits.statistics import family_threshold, mean_with_error, z_score

STARTS = 32
#: Mean overlap at load 0.2 and N = 4000, where there is no retrieval state, after some sweeps: by a
#: plain NumPy loop over the spins in order, 64 starts in each of four networks (drawn by NumPy).
REMANENCE = {40: (0.2950, 0.0024), 100: (0.2744, 0.0029)}


@functools.cache
def final(K, N, samples, sweeps):
    """Sequential dynamics from patterns: these, the last spins, overlaps after each sweep."""
    patterns = statmech.random_patterns(K, N, key=N, samples=samples)
    run = statmech.simulate(
        statmech.hebbian_coupling(patterns), key=1, T=0.0, sweeps=sweeps, burn_in=0,
        chains=STARTS, kernel="blocked", start="pattern", target=np.arange(STARTS), progress=False,
    )  # fmt: skip
    return patterns, run.spins, run.series["overlap"]


def stopped(patterns, spins):
    """Share of runs in which every spin follows its field; sums of integers, exact."""
    x, s = patterns.astype(np.float32), spins.astype(np.float32)
    fields = s @ x.swapaxes(-1, -2) @ x - patterns.shape[-2] * s
    return np.mean(np.all(s * fields >= 0, axis=-1))


def plain_loop(x, sweeps):
    """The same dynamics spin by spin, in integers."""
    J = x.T @ x
    np.fill_diagonal(J, 0)
    s = x[:STARTS].T.copy()
    for _ in range(sweeps):
        for i in range(len(s)):
            s[i] = np.sign(J[i] @ s)
    return s.T


def test_final_states_are_those_of_a_plain_loop():
    # an odd number of patterns and an even one of spins: every field is odd, none vanishes
    patterns, spins, overlap = final(61, 200, 2, 40)
    assert stopped(patterns, spins) == 1
    overlap = overlap[..., -1]
    for x, s, m in zip(patterns.astype(np.int64), spins, overlap, strict=True):
        np.testing.assert_array_equal(s, plain_loop(x, 40))
        # the overlap is kept in the precision of the run, float32
        np.testing.assert_allclose(m, np.mean(s * x[:STARTS], axis=1), atol=1e-7)
    assert np.mean(overlap) < 0.8  # far from where they started


def test_below_capacity_dynamics_stops_at_the_retrieval_state():
    patterns, spins, overlap = final(100, 1000, 8, 20)
    assert stopped(patterns, spins) > 0.99
    found = mean_with_error(overlap[..., -1].mean(-1))  # starts share their network
    theory = float(statmech.hopfield(0.1, 0.0).m)
    limit = family_threshold(3.0, 2, found.dof)
    # replica-symmetric theory, and an earlier measurement at this size by another program
    assert abs(z_score(found.mean, found.stderr, theory)) < limit
    assert abs(z_score(found.mean, found.stderr, 0.9980, 0.0004)) < limit
    # the test sees the load: at 0.12 the overlap is 0.9932
    assert abs(z_score(found.mean, found.stderr, float(statmech.hopfield(0.12, 0.0).m))) > 4 * limit


@pytest.mark.optimized  # a long simulation
def test_remanence_above_capacity():
    patterns, spins, overlap = final(800, 4000, 2, 100)
    assert stopped(patterns, spins) > 0.95  # the spins that still turn change the mean by 1e-5
    # starts as independent units: over 16 networks of this size the means differ as for these (chi
    # squared 11 with 11 degrees of freedom)
    found = {n: mean_with_error(overlap[..., n - 1].ravel()) for n in REMANENCE}
    for n, (value, error) in REMANENCE.items():
        z = z_score(found[n].mean, found[n].stderr, value, error)
        assert abs(z) < family_threshold(3.0, len(REMANENCE), found[n].dof)
    # not what is left of a retrieval state, which does not exist; smaller networks remember more
    assert not statmech.hopfield(0.2, 0.0).exists
    last = found[100]
    assert z_score(last.mean, last.stderr, 0.0) > 30
    small = mean_with_error(final(200, 1000, 8, 60)[2][..., -1].mean(-1))
    assert z_score(small.mean, small.stderr, last.mean, last.stderr) > 4
