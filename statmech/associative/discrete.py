r"""Dense associative memories of spins: polynomial and exponential energies, one spin at a time."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.errors import DomainError
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import Array, ArrayLike
from deeplimits.validate import integer, number
from statmech.associative.energy import as_patterns, as_states


@dataclasses.dataclass(frozen=True)
class Polynomial:
    r"""The memory :math:`F(x) = x^n`; n = 2 is the Hopfield network. ``n`` is an integer >= 1.

    Raises:
        DomainError: not an integer >= 1.
    """

    n: int = 3

    def __post_init__(self) -> None:
        integer(self.n, "n", at_least=1)


@dataclasses.dataclass(frozen=True)
class Exponential:
    r"""The memory :math:`F(x) = e^{\lambda x}`; ``lam`` is a number > 0.

    Raises:
        DomainError: ``lam`` <= 0.
    """

    lam: float = 1.0

    def __post_init__(self) -> None:
        number(self.lam, "lam", above=0.0)


Memory = Polynomial | Exponential


def _signs(x: Any, name: str) -> Array:
    host = np.asarray(x)
    if not np.all(np.abs(host) == 1):
        bad = host[np.abs(host) != 1].flat[0]
        raise DomainError(f"{name} must hold +1 and -1, got {bad:g}. Use np.where(x > 0, 1, -1).")
    return jnp.asarray(host, jnp.zeros(()).dtype)


def _prepare(patterns: ArrayLike, spins: ArrayLike, memory: Any) -> tuple[Array, Array]:
    X = as_patterns(patterns)
    if not isinstance(memory, Polynomial | Exponential):
        raise DomainError(f"memory must be Polynomial(n) or Exponential(lam), got {memory!r}.")
    return _signs(X, "patterns"), _signs(as_states(spins, X.shape[1]), "states")


def spin_energy(patterns: ArrayLike, states: ArrayLike, *, memory: Memory) -> Array:
    r"""Energy per spin of a dense associative memory.

    .. math:: -\sum_\mu (\xi^\mu \cdot \sigma / N)^n \;\text{ (polynomial)}, \qquad
              -N^{-1} \ln \sum_\mu e^{\lambda \xi^\mu \cdot \sigma} \;\text{ (exponential)}

    The logarithm keeps the order of states and does not overflow.

    Args:
        patterns: ``(K, N)`` of signs.
        states: ``(..., N)`` of signs.
        memory: :class:`Polynomial` or :class:`Exponential`.

    Returns:
        ``(...)``.

    Raises:
        ShapeError: patterns not 2-D, or states of another length.
        DomainError: entries other than +1 and -1, or a memory of neither kind.

    Source: eq. (2) of arXiv:1606.01164; eq. (7) of arXiv:1702.01929.

    Check: tests/statmech/test_associative_discrete.py::test_energies
    """
    X, sigma = _prepare(patterns, states, memory)
    return _spin_energy(X, sigma, memory)


@functools.partial(jax.jit, static_argnames="memory")
def _spin_energy(X: Array, sigma: Array, memory: Memory) -> Array:
    h = jnp.matmul(sigma, X.T)
    n = X.shape[1]
    if isinstance(memory, Exponential):
        return -jax.nn.logsumexp(memory.lam * h, axis=-1) / n
    return -jnp.sum((h / n) ** memory.n, axis=-1)


def _field(column: Array, rest: Array, n: int, memory: Memory) -> Array:
    """Energy gained by +1 over -1 for one spin, up to a positive factor."""
    if isinstance(memory, Exponential):
        h = memory.lam * rest
        return jnp.sum(column * jnp.exp(h - jnp.max(h)))
    # sums of integers are exact, so that ties are, as long as they fit the mantissa
    exact = rest.size * float(n) ** memory.n < 1 / jnp.finfo(rest.dtype).eps
    scale = 1 if exact else n
    up, down = (rest + column) / scale, (rest - column) / scale
    return jnp.sum(up**memory.n - down**memory.n)


@functools.partial(jax.jit, static_argnames="memory")
def _sweep(X: Array, sigma: Array, memory: Memory) -> Array:
    n = X.shape[1]

    def one(state: Array) -> Array:
        def site(i: Any, carry: Any) -> Any:
            state, h = carry
            column, old = X[:, i], state[i]
            field = _field(column, h - column * old, n, memory)
            new = jnp.where(field == 0, old, jnp.sign(field))
            return state.at[i].set(new), h + column * (new - old)

        return jax.lax.fori_loop(0, n, site, (state, jnp.matmul(X, state)))[0]

    return jax.vmap(one)(sigma)


def spin_update(patterns: ArrayLike, states: ArrayLike, *, memory: Memory) -> Array:
    r"""One sweep: every spin in turn takes the sign of lower energy; ties stay.

    .. math:: \sigma_i = \mathrm{sign} \sum_\mu \bigl[F(\xi_i^\mu + h_i^\mu)
              - F(-\xi_i^\mu + h_i^\mu)\bigr], \qquad h_i^\mu = \sum_{j \ne i} \xi_j^\mu \sigma_j

    Args:
        patterns, states, memory: as for :func:`spin_energy`.

    Returns:
        New states, in the order of the spins; the energy never rises.

    Raises:
        ShapeError, DomainError: as for :func:`spin_energy`.

    Source: eq. (3) of arXiv:1606.01164.

    Check: tests/statmech/test_associative_discrete.py::test_sweep_against_brute_force
    """
    X, sigma = _prepare(patterns, states, memory)
    return _sweep(X, sigma.reshape(-1, X.shape[1]), memory).reshape(sigma.shape)


@register_dataclass
@dataclasses.dataclass(frozen=True)
class SpinRetrieval:
    """Where zero-temperature dynamics stops; leading axes are those of the queries.

    Attributes:
        states: last states ``(..., N)``.
        overlaps: with every pattern, ``(..., K)``.
        sweeps: made until all states rested, or ``max_sweeps``.
        converged: no spin of the state wants to turn.
    """

    states: Array
    overlaps: Array
    sweeps: Array
    converged: Array


def spin_retrieve(
    patterns: ArrayLike, states: ArrayLike, *, memory: Memory, max_sweeps: int = 100
) -> SpinRetrieval:
    """Sweeps of :func:`spin_update` until no spin turns.

    Args:
        patterns, states, memory: as for :func:`spin_energy`.
        max_sweeps: most sweeps, default 100; what did not come to rest is reported.

    Returns:
        :class:`SpinRetrieval`.

    Raises:
        ShapeError, DomainError: as for :func:`spin_energy`; also ``max_sweeps`` < 1.

    Source: arXiv:1606.01164, section 2.

    Check: tests/statmech/test_associative_discrete.py::test_retrieval
    """
    X, sigma = _prepare(patterns, states, memory)
    integer(max_sweeps, "max_sweeps", at_least=1)
    found = _spin_retrieve(X, sigma.reshape(-1, X.shape[1]), memory, max_sweeps)
    lead = sigma.shape[:-1]
    return SpinRetrieval(
        found[0].reshape(sigma.shape), found[1].reshape(*lead, -1), found[2],
        found[3].reshape(lead),
    )  # fmt: skip


@functools.partial(jax.jit, static_argnames=("memory", "max_sweeps"))
def _spin_retrieve(X: Array, sigma: Array, memory: Memory, max_sweeps: int) -> Any:
    def advance(carry: Any) -> Any:
        state, _, count = carry
        new = _sweep(X, state, memory)
        return new, jnp.any(new != state, axis=1), count + 1

    start = (sigma, jnp.ones(sigma.shape[0], bool), jnp.zeros((), int))
    end = jax.lax.while_loop(lambda c: jnp.any(c[1]) & (c[2] < max_sweeps), advance, start)
    return end[0], jnp.matmul(end[0], X.T) / X.shape[1], end[2], ~end[1]
