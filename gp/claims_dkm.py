r"""A claim on deep kernel machines: finite deep Gaussian processes concentrate on the limit.

Two points, one layer of ``4 N`` features, radial kernel. Posterior draws come from the no-U-turn
sampler in Bartlett's coordinates; every fourth is kept, so that they are nearly independent.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from deeplimits.claims import Claim, register
from gp.dkm import DKM
from gp.dkm_posterior import FittedDKM

_ROWS = np.triu_indices(2)


@cache
def small_machine() -> FittedDKM:
    """Two targets of opposite signs."""
    model = DKM("rbf", layers=1, nu=4.0, noise=0.1)
    return model.fit(np.array([[1.0], [-0.4]]), np.array([1.2, -0.8]), tol=1e-9)


def _limit() -> np.ndarray:
    return small_machine().grams[0][_ROWS]


def _posterior_grams(key: Any, width: int) -> np.ndarray:
    """Nearly independent draws of the three entries, ``(n, 3)``."""
    run = small_machine().sample_finite(key, width, draws=1000)
    return run.grams[:, ::4, 0][..., *_ROWS].reshape(-1, 3)


register(
    Claim(
        name="gp/deep-kernel-machine",
        source="arXiv:2108.13097, section 4",
        statement="The posterior Gram matrix of a deep Gaussian process concentrates on the "
        "learned Gram matrix of the deep kernel machine.",
        theory=_limit,
        experiment=_posterior_grams,
        sizes=(4, 16, 64),
        exponent=-0.5,
        z=4.0,
        decays="std",
        quantity="entries of the Gram matrix of two points",
    )
)
