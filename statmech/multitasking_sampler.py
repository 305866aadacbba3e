r"""Exact Gibbs sampling of multitasking networks of any size.

Two steps make this cheap. Given hidden Gaussian variables, one for each pattern,

.. math:: z_\mu = \sqrt{N / g T}\, \hat M_\mu + \text{a standard normal},

all spins are independent. And spins with the same entries are exchangeable, so that only their
number matters: the spins up in each group are binomial. A sweep costs as much as there are groups.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from deeplimits.errors import DomainError
from deeplimits.precision import float64_scope
from deeplimits.statistics import Estimate, mean_with_error
from deeplimits.typing import Array, Key
from deeplimits.validate import as_key, choice, integer, number
from statmech import multitasking_average as average

_MOST_KINDS = 100_000


def groups(K: int, d: float, numbers: Any) -> tuple[np.ndarray, ...]:
    """Kinds of spins: probabilities ``(G,)``, true entries ``(G, K)`` and numbers of groups.

    Returns also the means of the examples in each group, ``(g, K)``: kinds that the network cannot
    tell apart are updated together.
    """
    if numbers is None:
        truth, value, weight = np.array([0.0, 1, -1]), np.array([0.0, 1, -1]), np.array([0.5, 0.5])
    else:
        M, r = numbers
        right = scipy.stats.binom.pmf(np.arange(M + 1), M, (1 + r) / 2) / 2
        x = (2 * np.arange(M + 1) - M) / (M * np.sqrt(average.entries(numbers).R))
        truth = np.repeat([0.0, 1.0, -1.0], [1, M + 1, M + 1])
        value, weight = np.concatenate([[0.0], x, -x]), np.concatenate([right, right])
    law = np.append(d, (1 - d) * weight)
    if len(law) ** K > _MOST_KINDS:
        raise DomainError(
            f"K = {K} patterns give {float(len(law)) ** K:.2g} kinds of spins, at most "
            f"{_MOST_KINDS} are simulated. Take fewer patterns or examples."
        )
    index = np.array(list(itertools.product(range(len(law)), repeat=K)))
    seen, which = np.unique(value, return_inverse=True)
    member = which[index] @ len(seen) ** np.arange(K)[::-1]
    means = np.array(list(itertools.product(seen, repeat=K)))
    p = law[index].prod(axis=1)
    return p / p.sum(), truth[index], member, means


@float64_scope
def simulate_multitasking(
    K: int,
    d: Any,
    T: Any,
    N: int,
    *,
    start: Any,
    examples: Any = None,
    g: str = "classic",
    samples: int = 16,
    sweeps: int = 40,
    burn_in: int = 60,
    key: Key,
) -> Estimate:
    r"""Overlaps of finite networks with K diluted patterns, by exact Gibbs sampling.

    Args:
        K: number of patterns, >= 1.
        d: dilution, in [0, 1); T: temperature, > 0.
        N: number of spins, >= 1; it costs nothing.
        start: order parameters ``(K,)`` around which the hidden variables start. It selects the
            state, from which a large network does not escape.
        examples: ``Examples(M, r)`` or None: patterns are stored as they are. One sample draws its
            own patterns and examples. Supervised protocol.
        g: ``"classic"`` (default) or ``"diluted"``.
        samples: networks, >= 2, default 16.
        sweeps: of each, over which the overlaps are averaged, default 40.
        burn_in: sweeps before them, default 60.
        key: random key or integer seed.

    Returns:
        :class:`deeplimits.Estimate` of the overlaps m ``(K,)`` over samples.

    Raises:
        DomainError: an argument out of its range, or too many kinds of spins.

    Source: derived here.

    Check: tests/statmech/test_multitasking_sampler.py::test_against_enumeration
    """
    K, size = integer(K, "K", at_least=1), integer(N, "N", at_least=1)
    d_, T_ = float(number(d, "d", at_least=0.0, below=1.0)), float(number(T, "T", above=0.0))
    scale = 1 - d_ if choice(g, "g", ("classic", "diluted")) == "diluted" else 1.0
    numbers = average.example_numbers(examples)
    guess = np.asarray(start, np.float64)
    if guess.shape != (K,) or not np.all(np.isfinite(guess)):
        raise DomainError(f"start must be {K} finite order parameters, got {start!r}.")
    count = integer(samples, "samples", at_least=2)
    for name, value in (("sweeps", sweeps), ("burn_in", burn_in)):
        integer(value, name, at_least=1)
    p, truth, member, x = groups(K, d_, numbers)
    for_patterns, for_chains = jax.random.split(as_key(key))
    rng = np.random.default_rng(np.asarray(jax.random.key_data(for_patterns)).ravel())
    spins = rng.multinomial(size, p, count).astype(float)
    counts, truths = np.zeros((count, len(x))), np.zeros((count, len(x), K))
    np.add.at(counts.T, member, spins.T)
    np.add.at(truths.transpose(1, 0, 2), member, spins.T[:, :, None] * truth[:, None])
    overlaps, _ = run_groups(
        jnp.asarray(counts), jnp.asarray(x), jnp.asarray(truths), jnp.asarray(guess),
        jnp.asarray(scale * T_), for_chains, sweeps=sweeps, burn_in=burn_in,
    )  # fmt: skip
    return mean_with_error(np.asarray(overlaps))


@functools.partial(jax.jit, static_argnames=("sweeps", "burn_in"))
def run_groups(
    counts: Array, x: Array, truths: Array, start: Array, gT: Array, key: Array, *,
    sweeps: int, burn_in: int,
) -> tuple[Array, Array]:  # fmt: skip
    """Time averages of the overlaps and of the squared order parameters, ``(samples, K)`` each.

    The overlaps are averaged over the spins given the hidden variables, which has the same mean as
    the overlaps of drawn spins and less noise.

    Args:
        counts: numbers of spins in each group ``(samples, g)``.
        x: means of the examples ``(g, K)``.
        truths: sums of the true entries over the spins of each group ``(samples, g, K)``.
        start: first order parameters ``(K,)``.
        gT: temperature times g.
    """
    N = jnp.sum(counts, axis=1)[:, None]

    def sweep(Mhat: Any, key: Any) -> Any:
        for_hidden, for_spins = jax.random.split(key)
        hidden = jnp.sqrt(N / gT) * Mhat + jax.random.normal(for_hidden, Mhat.shape)
        field = jnp.matmul(hidden, x.T) / jnp.sqrt(N * gT)
        up = jax.random.binomial(for_spins, counts, jax.nn.sigmoid(2 * field))
        Mhat = jnp.matmul((2 * up - counts) / N, x)
        overlaps = jnp.einsum("sg,sgk->sk", jnp.tanh(field), truths) / N
        return Mhat, (overlaps, Mhat**2)

    first = jnp.broadcast_to(start, (counts.shape[0], x.shape[1]))
    keys = jax.random.split(key, burn_in + sweeps)
    middle = jax.lax.scan(sweep, first, keys[:burn_in])[0]
    overlaps, squares = jax.lax.scan(sweep, middle, keys[burn_in:])[1]
    return jnp.mean(overlaps, axis=0), jnp.mean(squares, axis=0)
