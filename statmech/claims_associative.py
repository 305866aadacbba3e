"""Claims on associative memories: capacities against simulation, bounds against counted cases."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from deeplimits.claims import Claim, register
from deeplimits.validate import as_key
from statmech import associative


def _critical_load(key: Any, N: int) -> np.ndarray:
    """Loads at which spherical patterns fail, in dimension N."""
    trials = int(min(4000, 5e6 / np.exp(0.62 * N)))  # as many numbers are drawn at every size
    return associative.critical_loads(1.0, N, patterns="spherical", trials=trials, key=key).loads


register(
    Claim(
        name="statmech/associative-exponential-capacity",
        source="arXiv:2304.14964",
        statement="An exponential memory of spherical patterns fails at the load of the random "
        "energy model; finite dimensions differ by a constant over N.",
        theory=lambda: float(associative.typical_capacity(1.0, patterns="spherical")),
        experiment=_critical_load,
        sizes=(8, 11, 14, 17),
        exponent=-1.0,
        exponent_tol=0.25,
        quantity="load ln(P) / N at which retrieval fails",
    )
)


register(
    Claim(
        name="statmech/associative-free-entropy",
        source="arXiv:2304.14964",
        statement="The noise of exp(24) sign patterns has the exponent of the random energy model.",
        theory=lambda: float(associative.free_entropy(1.0, 0.6, patterns="binary")),
        experiment=lambda key, N: associative.sample_free_entropy(1.0, 0.6, N, trials=400, key=key),
        sizes=(40,),
        z=4.0,
        quantity="exponent of the partition function of the other patterns",
    )
)


def _violations(key: Any, n: int) -> np.ndarray:
    """Which of n updates break one of the two bounds, ``(n, 2)``."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(as_key(key))).ravel())
    patterns = rng.normal(size=(40, 32))
    patterns *= 4 / np.linalg.norm(patterns, axis=1, keepdims=True)
    index = rng.integers(0, 40, n)
    x = patterns[index]
    push = rng.normal(size=x.shape) * rng.uniform(0, 1, (n, 1)) / 32**0.5
    star = np.asarray(associative.retrieve(patterns, x, tol=1e-13).states)
    bounds = associative.update_bounds(patterns, x + push, index, star)
    image = np.asarray(associative.update(patterns, x + push))
    error = np.linalg.norm(image - x, axis=1) > np.asarray(bounds.error)
    left = np.linalg.norm(image - star, axis=1) > np.asarray(bounds.distance) + 1e-12
    return np.stack([error, left], axis=1).astype(float)


register(
    Claim(
        name="statmech/associative-bounds",
        source="theorems 4 and 5 of arXiv:2008.02217",
        statement="Retrieval error and contraction of one update never exceed their bounds.",
        theory=np.zeros(2),
        experiment=_violations,
        sizes=(2000,),
        z=4.0,
        quantity="share of updates that break the bounds on error and on contraction",
    )
)
