"""Claims on spin glasses: exact finite sizes and identities, held against enumeration."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.claims import Claim, register
from statmech.rem import rem_finite

#: Temperatures below and above the transition of the random energy model.
TEMPERATURES = (0.3, 0.6, 0.9)


@jax.jit
def _rem_samples(keys: Any) -> Any:
    """Free energies per spin of random energy models of 12 spins, ``(n, temperatures)``."""
    N = 12

    def one(key: Any) -> Any:
        energies = jnp.sqrt(N / 2) * jax.random.normal(key, (2**N,))
        logs = [jax.scipy.special.logsumexp(-energies / T) for T in TEMPERATURES]
        return -jnp.stack(logs) * jnp.asarray(TEMPERATURES) / N

    return jax.lax.map(one, keys, batch_size=50)


def _rem_experiment(key: Any, size: int) -> np.ndarray:
    return np.asarray(_rem_samples(jax.random.split(key, 2000)))


register(
    Claim(
        name="statmech/random-energy-model",
        source="B. Derrida, Phys. Rev. B 24, 2613 (1981), section V",
        statement="The exact mean free energy of 4096 random energies, on both sides of T_c.",
        theory=lambda: np.array([rem_finite(12, T) for T in TEMPERATURES]),
        experiment=_rem_experiment,
        sizes=(12,),
        z=4.0,
        quantity="mean free energy per spin over 2000 samples at T = 0.3, 0.6 and 0.9",
    )
)


def _states(N: int) -> np.ndarray:
    """All configurations up to a global flip, ``(2^(N-1), N)``."""
    bits = (np.arange(2 ** (N - 1))[:, None] >> np.arange(N)) & 1
    return 1.0 - 2.0 * bits


@jax.jit
def _sk_samples(keys: Any, spins: Any) -> Any:
    """For SK samples by enumeration at T = 0.5: energy, energy from overlaps, free energy."""
    T, N = 0.5, spins.shape[1]

    def one(key: Any) -> Any:
        upper = jnp.triu(jax.random.normal(key, (N, N)), 1) / jnp.sqrt(1.0 * N)
        energies = -jnp.sum(jnp.matmul(spins, upper) * spins, axis=1)
        weights = jax.nn.softmax(-energies / T)
        pair = jnp.matmul(spins.T, weights[:, None] * spins)
        links = (jnp.sum(pair**2) - N) / (N * (N - 1))
        by_overlap = -(N - 1) / (2 * T * N) * (1 - links)
        free = -T * (jax.scipy.special.logsumexp(-energies / T) + jnp.log(2.0)) / N
        return jnp.stack([jnp.sum(weights * energies) / N, by_overlap, free])

    return jax.lax.map(one, keys, batch_size=20)


def _identity(key: Any, N: int) -> np.ndarray:
    energy, by_overlap, _ = np.asarray(
        _sk_samples(jax.random.split(key, 1500), jnp.asarray(_states(N)))
    ).T
    return energy - by_overlap


register(
    Claim(
        name="statmech/sk-energy-from-overlaps",
        source="derived here: Gaussian integration by parts over the couplings",
        statement="The mean energy of the SK model follows from its link overlap at every size.",
        theory=0.0,
        experiment=_identity,
        sizes=(5, 10),
        z=4.0,
        z_at="all",
        quantity="[U] / N + (N - 1) (1 - [q_l]) / (2 T N) over 1500 samples at T = 0.5",
    )
)
