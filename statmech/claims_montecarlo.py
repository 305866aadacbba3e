"""Claims of the simulator: every kernel has the law that it promises, by exact enumeration."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from deeplimits.claims import Claim, register
from statmech.coupling import FactoredCoupling, hebbian_coupling, pseudo_inverse_coupling
from statmech.montecarlo import simulate
from statmech.patterns import correlated_patterns, random_patterns

TEMPERATURES = (0.5, 1.0)
CHAINS, SWEEPS, BURN_IN = 64, 1000, 100


@cache
def network(N: int, rule: str) -> FactoredCoupling:
    """Three patterns in a weak external field."""
    field = np.linspace(0.0, 0.2, N)
    if rule == "hebbian":
        return hebbian_coupling(random_patterns(3, N, key=0), field=field)
    return pseudo_inverse_coupling(correlated_patterns(3, N, 0.3, key=0), field=field)


@cache
def states(N: int) -> np.ndarray:
    """All states ``(2^N, N)``."""
    return 1 - 2.0 * ((np.arange(2**N)[:, None] >> np.arange(N)) & 1)


def exact(kernel: str, rule: str) -> Any:
    """Theory: energy per spin and mean square of the replica overlap at both temperatures."""

    def values(N: int) -> np.ndarray:
        c, s = network(N, rule), states(N)
        fields = s @ c.matrix() + np.asarray(c.field)
        H = -np.einsum("ai,ai->a", s, fields + np.asarray(c.field)) / 2
        found = []
        for T in TEMPERATURES:
            log_p = -H / T
            if kernel == "little":
                log_p = s @ np.asarray(c.field) / T + np.log(np.cosh(fields / T)).sum(1)
            p = np.exp(log_p - log_p.max())
            p /= p.sum()
            correlation = np.einsum("a,ai,aj->ij", p, s, s)
            found += [p @ H / N, np.mean(correlation**2)]
        return np.array(found)

    return values


def sampled(kernel: str, rule: str, move: str) -> Any:
    """Experiment: the same from chains; one sample is a pair of chains."""

    def experiment(key: Any, N: int) -> np.ndarray:
        run = simulate(
            network(N, rule), key=key, T=TEMPERATURES, sweeps=SWEEPS, burn_in=BURN_IN,
            chains=CHAINS, kernel=kernel, rule=move, progress=False,
        )  # fmt: skip
        energy = run.energy.reshape(len(TEMPERATURES), 2, -1).mean(1)
        q2 = np.mean(run.series["q"] ** 2, axis=-1)
        return np.stack([energy, q2], axis=1).reshape(2 * len(TEMPERATURES), -1).T

    return experiment


for _name, _kernel, _rule, _move, _source, _statement in [
    ("blocked", "blocked", "hebbian", "heatbath", "J. Math. Phys. 4, 294 (1963)",
     "Sequential heat-bath sweeps, done in blocks, sample the Boltzmann law"),
    ("site", "site", "hebbian", "metropolis", "J. Chem. Phys. 21, 1087 (1953)",
     "Metropolis updates of random sites sample the Boltzmann law"),
    ("dual", "dual", "pseudo_inverse", "heatbath", "Phys. Rev. Lett. 3, 77 (1959)",
     "Gibbs sampling with hidden Gaussian units samples the Boltzmann law, for correlated "
     "patterns under the pseudo-inverse rule"),
    ("little", "little", "hebbian", "heatbath", "Biol. Cybern. 50, 51 (1984)",
     "Synchronous updates sample the law of Little's model, not Boltzmann's"),
]:  # fmt: skip
    register(
        Claim(
            name=f"statmech/monte-carlo-{_name}",
            source=_source,
            statement=f"{_statement}.",
            theory=exact(_kernel, _rule),
            experiment=sampled(_kernel, _rule, _move),
            sizes=(12,),
            z=4.0,
            z_at="all",
            quantity="energy per spin and mean q^2 at two temperatures, against enumeration",
        )
    )
