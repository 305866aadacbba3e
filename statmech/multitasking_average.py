r"""Exact averages over the product law of diluted patterns, with or without examples.

A spin sees K independent entries. Each is zero with probability d, or else takes one of a few
values :math:`\hat x`, so that averages are sums over all combinations, of which a global change of
sign leaves half. Nothing is sampled and nothing is approximated by a Gaussian.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.stats

from deeplimits.errors import DomainError
from deeplimits.special import log_cosh
from deeplimits.typing import Array
from deeplimits.validate import integer, number

#: Most combinations of entries that are summed over.
MOST_STATES = 1_000_000
#: Fields below this share of the largest overlap are ties at zero temperature.
TIE = 1e-13


class Entries(NamedTuple):
    """One non-zero entry of a pattern, as the examples show it.

    Attributes:
        value: of the normalised mean of the examples, ``(s,)``.
        weight: probabilities given a non-zero entry, ``(s,)``.
        truth: mean of the true entry given the value, ``(s,)``.
        R: second moment of the mean of the examples before normalisation.
    """

    value: np.ndarray
    weight: np.ndarray
    truth: np.ndarray
    R: float


class States(NamedTuple):
    """Combinations of K entries up to a global sign.

    Attributes:
        x: normalised means of the examples ``(C, K)``.
        truth: means of the true entries ``(C, K)``.
        scatter: variance among the examples of each entry ``(C, K)``.
        weight: probabilities but for the factors from dilution ``(C,)``.
        zeros: number of zero entries ``(C,)``.
    """

    x: np.ndarray
    truth: np.ndarray
    scatter: np.ndarray
    weight: np.ndarray
    zeros: np.ndarray


def example_numbers(examples: Any) -> tuple[int, float] | None:
    """Number and quality of the examples; None if the patterns themselves are stored.

    Raises:
        DomainError: no attributes M and r, M < 1, or r outside (0, 1].
    """
    if examples is None:
        return None
    if not (hasattr(examples, "M") and hasattr(examples, "r")):
        raise DomainError(f"examples must be Examples(M, r) or None, got {examples!r}.")
    M = integer(examples.M, "examples.M", at_least=1)
    return M, float(number(examples.r, "examples.r", above=0.0, at_most=1.0))


@functools.lru_cache(maxsize=64)
def entries(numbers: tuple[int, float] | None) -> Entries:
    """The law of a non-zero entry: the pattern itself, or a binomial number of right examples."""
    if numbers is None:
        sign = np.array([1.0, -1.0])
        return Entries(sign, np.array([0.5, 0.5]), sign, 1.0)
    M, r = numbers
    right = np.arange(M + 1)
    plus = scipy.stats.binom.pmf(right, M, (1 + r) / 2)
    minus = plus[::-1]
    R = r**2 + (1 - r**2) / M
    return Entries(
        (2 * right - M) / (M * np.sqrt(R)),
        (plus + minus) / 2,
        np.divide(plus - minus, plus + minus, out=np.zeros(M + 1), where=plus + minus > 0),
        R,
    )


def kurtosis(numbers: tuple[int, float] | None) -> float:
    """Fourth moment of the value of a non-zero entry, whose second moment is one."""
    law = entries(numbers)
    return float(np.sum(law.weight * law.value**4))


@functools.lru_cache(maxsize=32)
def states(K: int, numbers: tuple[int, float] | None) -> States:
    """All combinations of K entries up to a global sign.

    Raises:
        DomainError: more than ``MOST_STATES`` of them.
    """
    law = entries(numbers)
    size = len(law.value) + 1
    if size**K > 2 * MOST_STATES:
        raise DomainError(
            f"K = {K} patterns with {size} possible entries each have {float(size) ** K:.2g} "
            f"combinations, at most {2 * MOST_STATES:.2g} are summed. Take fewer patterns or "
            "examples."
        )
    index = np.array(list(itertools.product(range(size), repeat=K)), np.int32).reshape(-1, K)
    value = np.append(0.0, law.value)
    x = value[index]
    # keep one of each pair (x, -x): the one whose first entry that is not zero is positive
    lead = np.take_along_axis(x, (x != 0).argmax(axis=1)[:, None], axis=1)[:, 0]
    kept = (lead > 0) | (x == 0).all(axis=1)
    index, x, lead = index[kept], x[kept], lead[kept]
    weight = np.append(1.0, law.weight)[index].prod(axis=1) * np.where(lead > 0, 2.0, 1.0)
    spread = np.append(0.0, np.maximum(1 - law.R * law.value**2, 0.0))
    return States(
        x, np.append(0.0, law.truth)[index], spread[index], weight, (index == 0).sum(axis=1)
    )


def probabilities(table: States, d: Any) -> Any:
    """Probabilities ``(C,)`` of the combinations; powers are products, smooth also at d = 0."""
    K = table.x.shape[1]
    diluted = jnp.cumprod(jnp.concatenate([jnp.ones(1), jnp.full(K, d)]))
    full = jnp.cumprod(jnp.concatenate([jnp.ones(1), jnp.full(K, 1 - d)]))
    return table.weight * diluted[table.zeros] * full[K - table.zeros]


def activity(table: States, m: Array, T: Any, g: Any) -> Any:
    """Mean spin ``(C,)`` in the field of each combination; at T = 0 its sign, 0 for ties."""
    y = jnp.matmul(table.x, m)
    cold = jnp.where(jnp.abs(y) > TIE * jnp.max(jnp.abs(m)), jnp.sign(y), 0.0)
    return jnp.where(T > 0, jnp.tanh(y / (g * jnp.where(T > 0, T, 1.0))), cold)


def overlaps(table: States, p: Any, m: Array, T: Any, g: Any) -> Any:
    """The map of which order parameters are fixed points, ``(K,)``."""
    return jnp.matmul(p * activity(table, m, T, g), table.x)


def free_energy(table: States, p: Any, m: Array, T: Any, g: Any) -> Any:
    r"""Free energy per spin, :math:`m^2 / 2g - T E \ln 2\cosh(x \cdot m / g T)`."""
    y = jnp.abs(jnp.matmul(table.x, m)) / g
    safe = jnp.where(T > 0, T, 1.0)
    warm = safe * (log_cosh(y / safe) + jnp.log(2.0))
    return jnp.sum(m**2) / (2 * g) - jnp.sum(p * jnp.where(T > 0, warm, y))


def _softness(table: States, p: Any, m: Array, T: Any, g: Any) -> Any:
    """``p sech^2 / T`` of each combination, ``(C,)``; infinite for ties at T = 0."""
    t = activity(table, m, T, g)
    tied = (t == 0) & jnp.any(table.x != 0, axis=1) & (p > 0)
    return jnp.where(
        T > 0, p * (1 - t**2) / jnp.where(T > 0, T, 1.0), jnp.where(tied, jnp.inf, 0.0)
    )


def hessian(table: States, p: Any, m: Array, T: Any, g: Any) -> Any:
    """``g`` times the second derivative of the free energy, ``(K, K)``; not for ties at T = 0."""
    soft = _softness(table, p, m, T, g)
    soft = jnp.where(jnp.isfinite(soft), soft, 0.0)
    return jnp.eye(m.size) - jnp.matmul(table.x.T * soft[None], table.x) / g


def example_stiffness(table: States, p: Any, m: Array, T: Any, g: Any, M: Any, R: Any) -> Any:
    """Smallest curvature against preferring some examples of a pattern to others, unsupervised.

    Where it is negative, unsupervised learning no longer sees the mean of the examples alone.
    """
    soft = _softness(table, p, m, T, g)
    # a tie with no scatter cannot be broken by an example: infinity times zero is zero here
    terms = jnp.where(
        table.scatter > 0, soft[:, None] * jnp.where(table.scatter > 0, table.scatter, 1), 0
    )
    return 1 - jnp.max(jnp.sum(terms, axis=0)) / (g * R * (M - 1))


def has_ties(table: States, p: Any, m: Array, T: Any, g: Any) -> Any:
    """Whether at T = 0 a spin that carries patterns feels no field: the state is then unstable."""
    return jnp.any(jnp.isinf(_softness(table, p, m, T, g)))
