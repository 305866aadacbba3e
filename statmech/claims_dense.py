r"""Claims on dense Hebbian networks: replica-symmetric overlaps held against Monte Carlo."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from deeplimits.claims import Claim, register
from deeplimits.estimates import Estimate
from statmech.dense import dense_hebbian
from statmech.dense_mc import dense_coupling, dense_pattern_count
from statmech.examples import Examples
from statmech.montecarlo import simulate

#: Disorder samples; sweeps measured after as many of burn-in.
SAMPLES, SWEEPS = 24, 40
#: Load and temperature of perfect patterns, P = 3; the same with examples, and the data set.
PERFECT, LEARNED, DATA = (0.03, 0.4), (0.01, 0.3), (10, 0.6)
#: Points of the diagram of P = 3 that are extrapolated, and the two sizes with their samples. From
#: 80 spins on chains seldom leave the retrieval state (one in 400), which is not of order 1/N.
POINTS, PLAN = ((0.02, 0.55), (0.03, 0.5), (0.04, 0.4)), {80: 96, 160: 64}


def overlaps(
    key: Any,
    N: int,
    point: tuple[float, float],
    supervised: bool | None = None,
    samples: int = SAMPLES,
    **more: Any,
) -> np.ndarray:
    """Mean overlap with the first archetype in each disorder sample, ``(samples,)``; P = 3."""
    for_data, for_chain = jax.random.split(key)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(for_data)))
    shape = (samples, dense_pattern_count(3, point[0], N), N)
    patterns = rng.choice(np.array([-1.0, 1.0]), shape)
    if supervised is None:
        coupling = dense_coupling(patterns, P=3, **more)
    else:
        M, r = DATA
        flips = np.where(rng.random((samples, M, *shape[1:])) < (1 + r) / 2, 1, -1)
        coupling = dense_coupling(
            P=3,
            examples=(patterns[:, None] * flips).astype(np.int8),
            r=r,
            supervised=supervised,
            reference=patterns[:, :1],
        )
    run = simulate(
        coupling,
        key=for_chain,
        T=point[1],
        sweeps=SWEEPS,
        burn_in=SWEEPS,
        chains=2,
        start=patterns[:, None, 0, :],
        progress=False,
    )
    return np.asarray(run.overlaps[..., 0], np.float64).mean(axis=1)


def distances(key: Any, N: int, point: tuple[float, float]) -> tuple[float, float]:
    """Overlap less that of the theory at the load of the finite network; its error."""
    found = overlaps(key, N, point, samples=PLAN[N])
    K = dense_pattern_count(3, point[0], N)
    gap = found.mean() - dense_hebbian(3, K / N**2, point[1]).m
    return float(gap), float(found.std(ddof=1) / PLAN[N] ** 0.5)


def limits(key: Any, size: int) -> Estimate:
    """Distances from the theory, extrapolated in 1/N from two sizes, one of which is twice the
    other; ``(points,)``."""
    small, large = PLAN
    keys = jax.random.split(key, (len(POINTS), 2))
    pairs = [
        (distances(k[0], small, point), distances(k[1], large, point))
        for k, point in zip(keys, POINTS, strict=True)
    ]
    (a, da), (b, db) = np.moveaxis(np.array(pairs), 0, 2)
    return Estimate(2 * b - a, np.sqrt(4 * db**2 + da**2), min(PLAN.values()) - 1)


def both_sums(key: Any, N: int) -> np.ndarray:
    """Overlaps with distinct indices and with full sums, ``(SAMPLES, 2)``."""
    keys = jax.random.split(key)
    found = [
        overlaps(k, N, PERFECT, index=i) for k, i in zip(keys, ("distinct", "full"), strict=True)
    ]
    return np.stack(found, axis=1)


def both_protocols(key: Any, N: int) -> np.ndarray:
    """Overlaps after supervised and unsupervised learning, ``(SAMPLES, 2)``."""
    keys = jax.random.split(key)
    found = [
        overlaps(k, N, LEARNED, supervised=s) for k, s in zip(keys, (True, False), strict=True)
    ]
    return np.stack(found, axis=1)


def theory_of_sums() -> np.ndarray:
    """The two overlaps for perfect patterns."""
    return np.array([dense_hebbian(3, *PERFECT, index=i).m for i in ("distinct", "full")])


def theory_of_protocols() -> np.ndarray:
    """The two overlaps after learning."""
    return np.array(
        [
            dense_hebbian(3, *LEARNED, examples=Examples(*DATA, supervised=s)).m
            for s in (True, False)
        ]
    )


register(
    Claim(
        name="statmech/dense-distinct-and-full",
        source="arXiv:2212.00606; full sums derived here",
        statement="Networks with distinct indices and with full sums have different overlaps, "
        "each that of its noise kernel.",
        theory=theory_of_sums,
        experiment=both_sums,
        sizes=(150,),
        z=4.0,
        quantity="overlap, P = 3, 24 networks",
    )
)
register(
    Claim(
        name="statmech/dense-learning",
        source="arXiv:2212.00606 and arXiv:2211.14067; finite M derived here",
        statement="Supervised and unsupervised networks retrieve archetypes with the overlaps "
        "of the exact law of M examples.",
        theory=theory_of_protocols,
        experiment=both_protocols,
        sizes=(120,),
        z=4.0,
        quantity="overlap, P = 3, M = 10, r = 0.6, 24 networks",
    )
)
register(
    Claim(
        name="statmech/dense-retrieval",
        source="E. Gardner, J. Phys. A 20, 3453 (1987); arXiv:2212.00606",
        statement="Overlaps of retrieval states of networks with interactions of three spins tend "
        "to the replica-symmetric ones as 1/N.",
        theory=lambda: np.zeros(len(POINTS)),
        experiment=limits,
        sizes=(max(PLAN),),
        z=4.0,
        cost="slow",
        quantity="m less theory, from 80 and 160 spins, at (load, T) = (.02, .55), (.03, .5), "
        "(.04, .4)",
    )
)
