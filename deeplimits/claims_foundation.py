r"""Claims of the foundation: laws known exactly, so that the judge itself is on trial."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
import scipy.signal

from deeplimits.claims import Claim, register
from deeplimits.series import autocorrelation_time

_PHI = 0.5


def _mean_of_exponentials(key: Any, size: int) -> np.ndarray:
    """4000 means of ``size`` exponential variables."""
    return np.asarray(jax.random.exponential(key, (4000, size)).mean(1))


def _largest_of_exponentials(key: Any, size: int) -> np.ndarray:
    """The largest of ``size`` exponential variables, less log(size), 200 000 times."""
    draws = jax.random.exponential(key, (200_000, size))
    return np.asarray(draws.max(1) - math.log(size))


def _times_of_chains(key: Any, size: int) -> np.ndarray:
    """Estimated autocorrelation times of 400 stationary AR(1) chains of length ``size``."""
    noise = np.array(jax.random.normal(key, (400, size)), np.float64)
    noise[:, 1:] *= math.sqrt(1 - _PHI**2)
    chains = scipy.signal.lfilter([1.0], [1.0, -_PHI], noise, axis=-1)
    return np.asarray(autocorrelation_time(chains).tau)


register(
    Claim(
        name="central-limit",
        source="central limit theorem",
        statement="The mean of n independent variables scatters as n^-1/2 around its expectation.",
        theory=1.0,
        experiment=_mean_of_exponentials,
        sizes=(16, 64, 256, 1024),
        exponent=-0.5,
        z=4.0,
        decays="std",
        z_at="all",
        exponent_tol=0.02,
        quantity="mean of n exponential variables",
    )
)

register(
    Claim(
        name="largest-of-exponentials",
        source="Gumbel law of extremes; E[max] is the harmonic number H_n",
        statement="The largest of n exponential variables exceeds log n by Euler's constant on "
        "average, up to a correction that shrinks as 1/n.",
        theory=float(np.euler_gamma),
        experiment=_largest_of_exponentials,
        sizes=(4, 8, 16, 32),
        exponent=-1.0,
        quantity="largest of n exponential variables, less log n",
    )
)

register(
    Claim(
        name="autocorrelation-time",
        source="A. Sokal (1997) [sokal1997]",
        statement="The windowed estimate of the autocorrelation time of an AR(1) chain agrees with "
        "(1 + phi)/(1 - phi), and its variance shrinks as 1/n.",
        theory=(1 + _PHI) / (1 - _PHI),
        experiment=_times_of_chains,
        sizes=(1024, 2048, 4096, 8192),
        exponent=-1.0,
        z=4.0,
        decays="variance",
        quantity="integrated autocorrelation time (steps)",
    )
)
