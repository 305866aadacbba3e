r"""Exact single-spin dynamics at the speed of matrix products.

One after the other, N spins need N fields; written as N products of a vector with a matrix this is
bound by memory and by the overhead of a loop step. Here b spins are treated as a block: one matrix
product gives their fields before the block starts,

.. math:: F_i = \sum_{j} J_{ij} \sigma_j \qquad (i \in \text{block}),

the loop within the block corrects each by the changes made before it in the block (a vector times
a small matrix), and one more matrix product tells the rest. The trajectory is that of the plain
loop: for couplings whose sums are exact in floating point (patterns of -1, 0, 1) bit by bit.

The loop is a ``fori_loop``: unrolled in Python, XLA fuses the chain of updates and computes its
head again for every link.
"""

from __future__ import annotations

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from deeplimits.typing import Key
from statmech.kernels import State, changed, decide, thresholds

#: Up to this many spins are updated in one loop of matrix-vector products.
LOOP = 16


class Parts(Protocol):
    """The pieces of a pairwise coupling that kernels are made of; fields in units of ``unit``."""

    N: int
    unit: float
    dtype: Any
    #: whether ``fields`` reads all spins, or the memory alone
    reads_spins: bool

    def memory(self, spins: Any) -> Any:
        """What is carried from block to block."""
        ...

    def take(self, sites: Any) -> Any:
        """The rows of the coupling that belong to the sites ``(b,)``: any pytree."""
        ...

    def within(self, rows: Any, sites: Any) -> Any:
        """Couplings within a block ``(b, b)``, zero between equal sites."""
        ...

    def fields(self, rows: Any, block: Any, spins: Any, memory: Any) -> Any:
        """Fields ``(b, B)`` on the sites of a block with spins ``block``."""
        ...

    def absorb(self, rows: Any, memory: Any, change: Any, work: Any) -> Any:
        """The memory after spins changed; ``work`` ``(B,)`` is the sum of change times field."""
        ...


def blocked(parts: Parts, rule: str, block_size: int) -> tuple[Any, Any]:
    """Sweep over the sites 0, 1, ..., N - 1 in this order: the default on a CPU.

    Stationary for the Boltzmann law; the sweep as a whole does not satisfy detailed balance. A last
    block shorter than the others is filled up with sites that never change.

    Args:
        parts: the pieces of a coupling.
        rule: ``"heatbath"`` or ``"metropolis"``.
        block_size: sites per block, >= 1; changes the speed, not the trajectory.

    Returns:
        ``(start, sweep)`` as in :class:`statmech.kernels.Kernel`.

    Source: derived here.

    Check: ``tests/statmech/test_kernels.py::test_blocked_sweep_is_the_scalar_loop``
    """
    size = min(block_size, parts.N)
    count = -(-parts.N // size)
    spare = count * size - parts.N
    sites = jnp.minimum(jnp.arange(count * size), parts.N - 1).reshape(count, size)
    rows = jax.vmap(parts.take)(sites)
    inner = jax.vmap(parts.within)(rows, sites)
    # spare sites are down, and neither rule ever turns them up
    never = jnp.inf if rule == "heatbath" else -jnp.inf

    def start(spins: Any) -> State:
        return State(spins, parts.memory(spins))

    def sweep(state: State, key: Key, T: Any) -> tuple[State, Any]:
        def blocks(x: Any, filling: float) -> Any:
            filled = jnp.pad(x, ((0, spare), (0, 0)), constant_values=filling)
            return filled.reshape(count, size, -1)

        def block(carry: Any, x: Any) -> Any:
            spins, memory, first = carry
            rows, inner, t, before = x
            fields = parts.fields(rows, before, spins, memory)
            change = _in_turn(rule, fields, before, inner, t)
            memory = parts.absorb(rows, memory, change, _work(fields, inner, change))
            after = before + change
            if parts.reads_spins:
                spins = jax.lax.dynamic_update_slice_in_dim(spins, after, first, 0)
            return (spins, memory, first + size), after

        t = thresholds(rule, key, state.spins.shape, T, parts.unit, parts.dtype)
        old = blocks(state.spins, -1.0)
        # only couplings that read all spins have them carried and updated in place
        whole = old.reshape(count * size, -1) if parts.reads_spins else None
        carry = (whole, state.memory, 0)
        (_, memory, _), new = jax.lax.scan(block, carry, (rows, inner, blocks(t, never), old))
        spins = new.reshape(count * size, -1)[: parts.N]
        return State(spins, memory), changed(state.spins, spins)

    return start, sweep


def _in_turn(rule: str, field: Any, spins: Any, inner: Any, t: Any) -> Any:
    """Update the spins of a block in turn; returns their changes ``(b, B)``.

    A block above ``LOOP`` is cut in two halves, the second of which hears of the first by a matrix
    product.

    Why the changes are carried and not the fields: XLA copies a carried array that is read as a
    whole and then written as a whole, but writes a single row in place.
    """
    if len(field) > LOOP:
        half = len(field) // 2
        first = _in_turn(rule, field[:half], spins[:half], inner[:half, :half], t[:half])
        heard = field[half:] + jnp.matmul(inner[half:, :half], first)
        second = _in_turn(rule, heard, spins[half:], inner[half:, half:], t[half:])
        return jnp.concatenate([first, second])

    def update(j: Any, change: Any) -> Any:
        old = _row(spins, j)
        now = _row(field, j) + jnp.matmul(_row(inner, j), change)
        step = decide(rule, now, old, _row(t, j)) - old
        return jax.lax.dynamic_update_index_in_dim(change, step, j, 0)

    return jax.lax.fori_loop(0, field.shape[0], update, jnp.zeros_like(field))


def _row(x: Any, j: Any) -> Any:
    """Row j, without the check of bounds that ``x[j]`` compiles."""
    return jax.lax.dynamic_index_in_dim(x, j, 0, keepdims=False)


def _work(field: Any, inner: Any, change: Any) -> Any:
    """Sum of changes times the field at their time, which is the mean of before and after."""
    return jnp.sum(change * (field + jnp.matmul(inner, change) / 2), axis=0)


def site(parts: Parts, rule: str, block_size: int) -> tuple[Any, Any]:
    """N updates of sites drawn at random, with detailed balance.

    All columns update the same sites, each with its own thresholds. In equilibrium two columns
    stay independent of each other: each sequence of sites leaves the product of their laws alone.
    A site drawn twice within a block is carried along by the matrix of equal sites.

    Args:
        parts: the pieces of a coupling.
        rule: ``"heatbath"`` or ``"metropolis"``.
        block_size: draws per block, >= 1; changes the speed, not the trajectory.

    Returns:
        ``(start, sweep)`` as in :class:`statmech.kernels.Kernel`.

    Source: derived here.

    Check: ``tests/statmech/test_kernels.py::test_site_sweep_is_the_scalar_loop``
    """
    size = min(block_size, parts.N)
    count = -(-parts.N // size)
    padded = count * size
    active = (jnp.arange(padded) < parts.N).reshape(count, size).astype(parts.dtype)

    def start(spins: Any) -> State:
        return State(spins, parts.memory(spins))

    def sweep(state: State, key: Key, T: Any) -> tuple[State, Any]:
        for_sites, for_spins = jax.random.split(key)
        sites = jnp.pad(drawn_sites(for_sites, parts.N), (0, padded - parts.N))
        t = thresholds(rule, for_spins, state.spins.shape, T, parts.unit, parts.dtype)
        t = jnp.pad(t, ((0, padded - parts.N), (0, 0))).reshape(count, size, -1)

        def block(carry: Any, x: Any) -> Any:
            spins, memory = carry
            sites, t, active = x
            rows, before = parts.take(sites), spins[sites]
            fields = parts.fields(rows, before, spins, memory)
            inner = parts.within(rows, sites)
            change = _in_turn_with_repeats(rule, fields, before, inner, sites, t, active)
            memory = parts.absorb(rows, memory, change, _work(fields, inner, change))
            flips = jnp.sum(jnp.abs(change), axis=0) / 2
            return (spins.at[sites].add(change), memory), flips

        carry = (state.spins, state.memory)
        carry, flips = jax.lax.scan(block, carry, (sites.reshape(count, size), t, active))
        return State(*carry), jnp.sum(flips, axis=0)

    return start, sweep


def drawn_sites(key: Key, N: int) -> jax.Array:
    """The N sites that one sweep of :func:`site` visits, ``(N,)``."""
    return jax.random.randint(key, (N,), 0, N, dtype=jnp.int32)


def _in_turn_with_repeats(
    rule: str, field: Any, spins: Any, inner: Any, sites: Any, t: Any, active: Any
) -> Any:
    """Update drawn sites in turn; returns the change at each draw ``(b, B)``."""
    same = (sites[:, None] == sites[None, :]).astype(field.dtype)
    both = jnp.stack([inner, same], axis=1)

    def update(j: Any, change: Any) -> Any:
        shift = jnp.matmul(_row(both, j), change)
        old = _row(spins, j) + shift[1]
        new = decide(rule, _row(field, j) + shift[0], old, _row(t, j))
        step = (new - old) * _row(active, j)
        return jax.lax.dynamic_update_index_in_dim(change, step, j, 0)

    return jax.lax.fori_loop(0, field.shape[0], update, jnp.zeros_like(field))
