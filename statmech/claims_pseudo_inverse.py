"""Claims on the pseudo-inverse rule and on synchronous dynamics: theory and simulated networks."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from deeplimits.claims import Claim, register
from statmech.claims_hopfield import extrapolated
from statmech.coupling import FactoredCoupling, hebbian_coupling, pseudo_inverse_coupling
from statmech.little import little
from statmech.montecarlo import simulate
from statmech.patterns import random_patterns
from statmech.pseudo_inverse import pseudo_inverse

#: Loads and temperatures; every pair is a point with retrieval.
PROJECTED = ((0.2, 0.3), (0.2, 0.25))
SYNCHRONOUS = ((0.02, 0.05), (0.3, 0.45))
SWEEPS = 40


def network(
    loads: tuple[float, float], rule: Any, key: Any, N: int, samples: int
) -> FactoredCoupling:
    """Networks of both loads as samples of one coupling, those of the first load first.

    Rows of zeros, which change nothing, fill the factors up: one program serves both loads.
    """
    K = [round(load * N) for load in loads]
    low, high = (
        rule(random_patterns(k, N, key=jax.random.fold_in(key, k), samples=samples)) for k in K
    )
    rows = (0, K[1] - K[0])
    factors = np.concatenate([np.pad(low.factors, ((0, 0), rows, (0, 0))), high.factors])
    field = np.concatenate([low.field, high.field])
    mixing = None
    if high.mixing is not None:
        mixing = np.concatenate([np.pad(low.mixing, ((0, 0), rows, rows)), high.mixing])
    return dataclasses.replace(high, factors=factors, field=field, mixing=mixing)


def by_sample(values: np.ndarray) -> np.ndarray:
    """``(temperatures, both loads)`` -> ``(samples, loads, temperatures)``."""
    return np.moveaxis(values.reshape(len(values), 2, -1), (0, 1, 2), (2, 1, 0))


def projected_theory() -> np.ndarray:
    """Overlaps and energies, ``(2, loads, temperatures)``."""
    alpha, T = PROJECTED
    state = pseudo_inverse(np.array(alpha)[:, None], np.array(T))
    return np.stack([state.m, state.U])


def projected(key: Any, N: int, samples: int = 24, chains: int = 16) -> np.ndarray:
    """The same in simulated networks, every chain at its own pattern, ``(samples, 2, ...)``."""
    for_patterns, for_run = jax.random.split(key)
    run = simulate(
        network(PROJECTED[0], pseudo_inverse_coupling, for_patterns, N, samples), key=for_run,
        T=PROJECTED[1], sweeps=SWEEPS, chains=chains, kernel="dual", start="pattern",
        target=np.arange(chains), progress=False,
    )  # fmt: skip
    m, U = (by_sample(run.series[name].mean(axis=(-2, -1))) for name in ("overlap", "energy"))
    diagonal = np.array([round(load * N) / N for load in PROJECTED[0]])[:, None] / 2
    return np.stack([m, U - diagonal], axis=1)


register(
    Claim(
        name="statmech/pseudo-inverse-retrieval",
        source="I. Kanter and H. Sompolinsky, Phys. Rev. A 35, 380 (1987)",
        statement="Retrieval states of the pseudo-inverse rule feel no noise of other patterns.",
        theory=projected_theory,
        experiment=extrapolated(projected),
        sizes=(400,),
        z=4.0,
        cost="slow",
        quantity="m and U at loads .2, .3 and T = .2, .25, extrapolated in 1/N",
    )
)


def synchronous_theory() -> np.ndarray:
    """Overlaps and correlations with the next state, ``(2, loads, temperatures)``."""
    alpha, T = SYNCHRONOUS
    state = little(np.array(alpha)[:, None], np.array(T))
    return np.stack([state.m, state.t])


def synchronous(key: Any, N: int, samples: int = 24, chains: int = 4) -> np.ndarray:
    """The same in simulated networks, ``(samples, 2, ...)``.

    The correlation is that of the last states of a run with those one sweep later.
    """
    for_patterns, *for_runs = jax.random.split(key, 3)
    coupling = network(SYNCHRONOUS[0], hebbian_coupling, for_patterns, N, samples)
    options: dict[str, Any] = {
        "T": SYNCHRONOUS[1], "chains": chains, "kernel": "little", "progress": False,
        "target": np.arange(chains),
    }  # fmt: skip
    run = simulate(coupling, key=for_runs[0], sweeps=SWEEPS, start="pattern", **options)
    after = simulate(coupling, key=for_runs[1], sweeps=1, burn_in=0, start=run.spins, **options)
    pairs = np.asarray(run.spins, float) * np.asarray(after.spins, float)
    m = run.series["overlap"].mean(axis=(-2, -1))
    return np.stack([by_sample(m), by_sample(pairs.mean(axis=(-2, -1)))], axis=1)


register(
    Claim(
        name="statmech/little-retrieval",
        source="J. F. Fontanari and R. Koeberle, J. Phys. France 49, 13 (1988)",
        statement="Under synchronous updates overlap and correlation with the next state are those "
        "of the replica-symmetric theory of Little's model.",
        theory=synchronous_theory,
        experiment=extrapolated(synchronous),
        sizes=(400,),
        z=4.0,
        cost="slow",
        quantity="m and t at loads .02, .05 and T = .3, .45, extrapolated in 1/N",
    )
)
