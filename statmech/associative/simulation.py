r"""Retrieval against load by simulation: overlaps are drawn, patterns are never made.

At a query of squared norm N the competitors enter only through their overlaps, whose law is known.
P patterns therefore cost P numbers, not P times N; of spins, only how many patterns have each of
the N + 1 possible overlaps, whatever P.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import scipy.special

from deeplimits import plotting
from deeplimits.errors import DomainError
from deeplimits.estimates import Estimate, mean_with_error
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import ArrayLike, Key
from deeplimits.validate import as_key, choice, integer, number
from statmech.associative.capacity import real
from statmech.associative.exponential import ensemble

_CHUNK = 1 << 16
#: Logarithm of the most patterns that are counted by overlap: acceptance in NumPy's binomial
#: sampler is rounded to 1e-16 times the count.
_MOST_LOG = 32.0


def _generator(key: Key) -> np.random.Generator:
    return np.random.default_rng(np.asarray(jax.random.key_data(as_key(key))).ravel())


@register_dataclass
@dataclasses.dataclass(frozen=True)
class CriticalLoads:
    """For each trial, the number of competing patterns at which retrieval fails.

    Attributes:
        competitors: ``(trials,)``; infinite where ``limit`` competitors were not enough.
        N: dimension.
        limit: most competitors drawn.
    """

    competitors: np.ndarray
    N: int
    limit: int

    @property
    def loads(self) -> np.ndarray:
        """Critical loads ln(competitors) / N, ``(trials,)``."""
        return np.log(self.competitors) / self.N

    def success(self, alpha: ArrayLike) -> Estimate:
        """Share of trials that retrieve one of exp(alpha N) patterns, with its standard error.

        Raises:
            DomainError: a load that was not simulated.
        """
        a = real(alpha, "alpha", at_least=0.0)
        others = np.floor(np.exp(a * self.N)) - 1
        if others.max() > self.limit and np.isinf(self.competitors).any():
            raise DomainError(
                f"alpha must be <= {np.log(self.limit + 1) / self.N:.4g} at N = {self.N} and "
                f"max_patterns = {self.limit}, got {a.max():g}."
            )
        return mean_with_error((others[None] < self.competitors.reshape(-1, *[1] * a.ndim)) * 1.0)

    def plot(self, alpha: ArrayLike, ax: Any = None, **kw: Any) -> Any:
        """Share of successes against load, with standard errors."""
        ax = plotting.axes(ax)
        found = self.success(alpha)
        ax.errorbar(alpha, found.mean, found.stderr, **{"label": f"N = {self.N}", **kw})
        ax.set(xlabel="load ln(P) / N", ylabel="share retrieved")
        return ax


def critical_loads(
    lam: Any,
    N: int,
    *,
    patterns: str,
    overlap: Any = 1.0,
    norm: str = "fixed",
    trials: int = 200,
    max_patterns: int = 1 << 20,
    key: Key,
) -> CriticalLoads:
    r"""Add random patterns until the target no longer carries most of the softmax weight.

    .. math:: \sum_{\mu \ge 2} e^{\lambda x \cdot \xi^\mu} < e^{\lambda x \cdot \xi^1}

    Args:
        lam: inverse temperature, > 0.
        N: dimension, >= 3.
        patterns: ``"gaussian"``, ``"spherical"`` or ``"binary"``.
        overlap: of the query with the target, in units of its own squared norm, in (0, 1].
        norm: of the query: ``"fixed"`` to sqrt(N), or ``"random"`` as that of a pattern (which
            differs for Gaussian patterns only).
        trials: independent repetitions, >= 2, default 200.
        max_patterns: most competitors per trial, default 2^20.
        key: random key or integer seed.

    Returns:
        :class:`CriticalLoads`, from which the success at every load follows.

    Raises:
        DomainError: an argument out of its range.

    Source: derived here; setting of arXiv:2304.14964.

    Check: tests/statmech/test_associative_capacity.py::test_retrieval_against_simulation
    """
    lam_ = float(number(lam, "lam", above=0.0))
    dim = integer(N, "N", at_least=3)
    ensemble(patterns)
    u = float(number(overlap, "overlap", above=0.0, at_most=1.0))
    choice(norm, "norm", ("fixed", "random"))
    size, most = (
        integer(trials, "trials", at_least=2),
        integer(max_patterns, "max_patterns", at_least=1),
    )
    rng = _generator(key)
    scale = np.ones(size)
    if norm == "random" and patterns == "gaussian":
        scale = rng.chisquare(dim, size) / dim
    total, drawn = np.zeros(size), 0
    failed, alive, chunk = np.full(size, np.inf), np.arange(size), 256
    while alive.size and drawn < most:
        chunk = min(2 * chunk, _CHUNK, most - drawn)
        y = _overlaps(rng, patterns, dim, (alive.size, chunk))
        if patterns == "gaussian":
            y = y * np.sqrt(scale[alive, None])
        sums = total[alive, None] + np.cumsum(
            np.exp(lam_ * dim * (y - u * scale[alive, None])), axis=1
        )
        over = sums >= 1
        hit = over.any(axis=1)
        failed[alive[hit]] = drawn + 1 + over[hit].argmax(axis=1)
        total[alive] = sums[:, -1]
        alive, drawn = alive[~hit], drawn + chunk
    return CriticalLoads(failed, dim, most)


def _overlaps(
    rng: np.random.Generator, patterns: str, N: int, shape: tuple[int, int]
) -> np.ndarray:
    """Overlaps x . xi / N of random patterns with a vector of squared norm N."""
    if patterns == "gaussian":
        return rng.standard_normal(shape) / np.sqrt(N)
    if patterns == "binary":
        return 2 * rng.binomial(N, 0.5, shape) / N - 1
    return 2 * rng.beta((N - 1) / 2, (N - 1) / 2, shape) - 1


def _counts(alpha: Any, N: Any, trials: Any, key: Key) -> tuple[np.ndarray, np.ndarray, Any]:
    """How many of exp(alpha N) random sign patterns have each overlap, and those overlaps."""
    n, size = integer(N, "N", at_least=2), integer(trials, "trials", at_least=2)
    a = float(number(alpha, "alpha", at_least=0.0))
    if a * n > _MOST_LOG:
        raise DomainError(f"alpha * N must be <= {_MOST_LOG:g}, got {a * n:g}.")
    rng = _generator(key)
    # Large overlaps first: a multinomial is drawn cell by cell, each from what is left of a total
    # probability of one, and of the last cells rounding leaves nothing that could be trusted.
    wrong = np.arange(n + 1)
    law = scipy.special.binom(n, wrong) / 2.0**n
    return rng.multinomial(int(np.exp(a * n)), law / law.sum(), size), n - 2.0 * wrong, rng


def sample_free_entropy(lam: Any, alpha: Any, N: int, *, trials: int = 200, key: Key) -> np.ndarray:
    r"""Samples of :math:`N^{-1} \ln \sum_\mu e^{\lambda x \cdot \xi^\mu}` for sign patterns.

    Args:
        lam: inverse temperature, > 0.
        alpha: load, >= 0, with alpha N <= 32: the number of patterns is not limited by memory.
        N: number of spins, >= 2.
        trials: independent samples, >= 2, default 200.
        key: random key or integer seed.

    Returns:
        ``(trials,)``; for large N they tend to ``free_entropy(lam, alpha, patterns="binary")``.

    Raises:
        DomainError: an argument out of its range.

    Source: derived here.

    Check: tests/statmech/test_associative_capacity.py::test_free_entropy_against_simulation
    """
    lam_ = float(number(lam, "lam", above=0.0))
    counts, y, _ = _counts(alpha, N, trials, key)
    return np.asarray(scipy.special.logsumexp(lam_ * y[None], axis=1, b=counts) / (len(y) - 1))


def unstable_spins(
    alpha: Any, N: int, *, corruption: Any = 0.0, lam: Any = 1.0, trials: int = 200, key: Key
) -> Estimate:
    r"""Share of spins that an exponential memory turns away from the pattern of the query.

    The field of a spin is :math:`\sum_\mu \xi_i^\mu e^{\lambda h^\mu}` with the overlaps h of the
    other N - 1 spins; it is drawn exactly, for any number of patterns.

    Args:
        alpha: load, >= 0, with alpha N <= 32.
        N: number of the other spins, >= 2.
        corruption: share of wrong signs in the query, in [0, 1/2).
        lam: strength in the exponent, > 0, default 1.
        trials: independent samples, >= 2, default 200.
        key: random key or integer seed.

    Returns:
        :class:`deeplimits.Estimate` of the share.

    Raises:
        DomainError: an argument out of its range.

    Source: derived here; model of arXiv:1702.01929.

    Check: tests/statmech/test_associative_capacity.py::test_spin_thresholds
    """
    lam_ = float(number(lam, "lam", above=0.0))
    wrong = float(number(corruption, "corruption", at_least=0.0, below=0.5))
    counts, y, rng = _counts(alpha, N, trials, key)
    signs = 2.0 * rng.binomial(counts, 0.5) - counts
    signal = lam_ * (len(y) - 1) * (1 - 2 * wrong)
    noise = np.sum(signs * np.exp(lam_ * y - signal)[None], axis=1)
    return mean_with_error((1 + noise < 0) + 0.5 * (1 + noise == 0))
