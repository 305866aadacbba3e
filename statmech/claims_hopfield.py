"""Claims on the Hopfield network: replica theory held against simulated networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from deeplimits.claims import Claim, register
from deeplimits.estimates import Estimate, mean_with_error
from statmech.coupling import hebbian_coupling
from statmech.hopfield import hopfield
from statmech.montecarlo import simulate
from statmech.patterns import random_patterns

#: Load and temperatures that are simulated together.
POINTS = ((0.05, (0.2, 0.4)), (0.1, (0.2,)))
SAMPLES, SWEEPS = 48, 60
COLD_LOADS = (0.10, 0.12)


def equilibrium_theory() -> np.ndarray:
    """Overlap, Edwards-Anderson parameter and energy of the retrieval states, ``(3, points)``."""
    alpha = [a for a, Ts in POINTS for _ in Ts]
    state = hopfield(alpha, [T for _, Ts in POINTS for T in Ts])
    return np.stack([state.m, state.q, state.U])


def equilibrium(key: Any, N: int) -> np.ndarray:
    """The same in networks of N spins started at a pattern, ``(samples, 3, points)``."""
    columns = []
    for alpha, Ts in POINTS:
        key, for_patterns, for_run = jax.random.split(key, 3)
        patterns = random_patterns(round(alpha * N), N, key=for_patterns, samples=SAMPLES)
        run = simulate(
            hebbian_coupling(patterns), key=for_run, T=np.array(Ts), sweeps=SWEEPS, chains=2,
            kernel="dual", start="pattern", progress=False,
        )  # fmt: skip
        series = (run.series[name] for name in ("overlap", "q", "energy"))
        columns.append(np.stack([s.mean(axis=(-2, -1)) for s in series]))
    return np.moveaxis(np.concatenate(columns, axis=1), 2, 0)


def extrapolated(experiment: Callable[[Any, int], np.ndarray]) -> Callable[[Any, int], Estimate]:
    """The experiment without its 1/N correction, from networks of N/2 and N spins."""

    def both_sizes(key: Any, N: int) -> Estimate:
        small, large = (
            mean_with_error(experiment(k, n))
            for k, n in zip(jax.random.split(key), (N // 2, N), strict=True)
        )
        error = np.hypot(2 * large.stderr, small.stderr)
        return Estimate(2 * large.mean - small.mean, error, large.dof)

    return both_sizes


register(
    Claim(
        name="statmech/hopfield-retrieval",
        source="Amit, Gutfreund and Sompolinsky, Ann. Phys. 173, 30 (1987)",
        statement="Overlap, Edwards-Anderson parameter and energy of retrieval states are those "
        "of the replica-symmetric theory.",
        theory=equilibrium_theory,
        experiment=extrapolated(equilibrium),
        sizes=(1000,),
        z=4.0,
        cost="slow",
        quantity="m, q, U at (load, T) = (.05, .2), (.05, .4), (.1, .2), extrapolated in 1/N",
    )
)


def cold_theory() -> np.ndarray:
    """Overlap of the retrieval state at T = 0."""
    return np.asarray(hopfield(np.array(COLD_LOADS), 0.0).m)


def cold(key: Any, N: int, samples: int = 12, starts: int = 32) -> np.ndarray:
    """Overlaps where zero-temperature dynamics from patterns ends, ``(samples, loads)``."""
    columns = []
    for alpha in COLD_LOADS:
        key, for_patterns, for_run = jax.random.split(key, 3)
        patterns = random_patterns(round(alpha * N), N, key=for_patterns, samples=samples)
        run = simulate(
            hebbian_coupling(patterns), key=for_run, T=0.0, sweeps=1, burn_in=40, chains=starts,
            kernel="blocked", start="pattern", target=np.arange(starts), progress=False,
        )  # fmt: skip
        columns.append(run.series["overlap"].mean(axis=(-2, -1)))
    return np.stack(columns, axis=1)


register(
    Claim(
        name="statmech/hopfield-zero-temperature",
        source="Amit, Gutfreund and Sompolinsky, Phys. Rev. Lett. 55, 1530 (1985)",
        statement="Below capacity, dynamics at T = 0 that starts at a pattern stops at the overlap "
        "of the replica-symmetric retrieval state.",
        theory=cold_theory,
        experiment=cold,
        sizes=(2000,),
        z=4.0,
        quantity="final overlap at loads 0.10 and 0.12",
    )
)
