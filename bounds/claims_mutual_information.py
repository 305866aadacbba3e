r"""Claims on estimated information: unbiased where theory says so, and brackets that close."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bounds import mutual_information as mi
from bounds.mutual_information.samples import generator
from deeplimits.claims import Claim, register

#: Noise and dimension of the noisy layer.
NOISE, DIMENSION = 0.5, 2
#: Information of the Gaussian pairs, nats.
PAIRS = 0.5


def bracket_ends(key: Any, n: int, runs: int = 200) -> np.ndarray:
    """Lower and upper end for ``n`` standard normal activations, ``(runs, 2)``."""
    rng = generator(key)
    ends = []
    for _ in range(runs):
        activations = rng.standard_normal((n, DIMENSION))
        seed = int(rng.integers(2**32))
        ends.append(mi.noisy_channel(activations, NOISE, draws=4, key=seed).bracket)
    return np.array(ends)


def independent(key: Any, n: int, runs: int = 200) -> np.ndarray:
    """KSG estimates for independent heavy-tailed and uniform samples, ``(runs,)``."""
    rng = generator(key)
    return np.array(
        [
            float(mi.ksg(rng.standard_t(2, (n, 1)), rng.random((n, 1)), jackknife=0, workers=1))
            for _ in range(runs)
        ]
    )


def gaussian_pairs(key: Any, n: int, runs: int = 60) -> np.ndarray:
    """KSG and Gaussian plug-in estimates for Gaussian pairs, ``(runs, 2)``."""
    rng = generator(key)
    rows = []
    for _ in range(runs):
        sample = mi.gaussian_pairs(n, PAIRS, key=int(rng.integers(2**32)))
        found = mi.ksg(sample.x, sample.y, jackknife=0, workers=1)
        rows.append((float(found), float(mi.gaussian(sample.x, sample.y))))
    return np.array(rows)


register(
    Claim(
        name="bounds/noisy-channel-bracket",
        source="arXiv:1810.05728; upper end derived here",
        statement="Both ends of the bracket of a noisy layer approach its information as 1/n.",
        theory=lambda: np.full(2, DIMENSION / 2 * math.log1p(NOISE**-2)),
        experiment=bracket_ends,
        sizes=(8, 16, 32, 64),
        exponent=-1.0,
        exponent_tol=0.2,
        quantity="lower and upper end (nats), 200 samples of n activations",
    )
)

register(
    Claim(
        name="bounds/ksg-independence",
        source="arXiv:cond-mat/0305641, section II (found numerically there)",
        statement="The KSG estimate of independent variables averages to zero at every n.",
        theory=0.0,
        experiment=independent,
        sizes=(30, 120, 480),
        z=4.0,
        z_at="all",
        quantity="KSG estimate (nats), k = 3",
    )
)

register(
    Claim(
        name="bounds/mutual-information-gaussian-pairs",
        source="arXiv:cond-mat/0305641, eq. (8); log-determinant of a Wishart matrix",
        statement="KSG and the corrected Gaussian plug-in find the information of a Gaussian pair.",
        theory=lambda: np.full(2, PAIRS),
        experiment=gaussian_pairs,
        sizes=(1500,),
        z=4.0,
        quantity="KSG and Gaussian estimate (nats)",
    )
)
