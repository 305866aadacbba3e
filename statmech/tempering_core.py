r"""The compiled part of parallel tempering: sweeps of all walkers, swaps, measurements.

A column is a walker. Its spins stay in place; ``place`` says, for each replica, which walker is at
which temperature, and a swap exchanges two of its entries.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from statmech.kernels import aligned


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the program is compiled for."""

    kernel: str
    rule: str
    block_size: int
    temperatures: int
    replicas: int
    measurements: int
    dtype: str


class Walkers(NamedTuple):
    """State between chunks; every array has the disorder axis first, if there is one.

    ``spins`` ``(N, replicas * temperatures)`` int8; ``place`` ``(replicas, temperatures)``;
    ``leg`` ``(replicas, walkers)``: 0 at first, 1 after the cold end, 2 after the hot end of a trip
    that began cold.
    """

    spins: Any
    place: Any
    leg: Any


class Chunk(NamedTuple):
    """Walkers after a chunk; series over its measurements (first axis); counts."""

    walkers: Walkers
    energy: Any  # (rows, replicas, temperatures) per spin
    q: Any  # (rows, pairs, temperatures)
    overlap: Any  # (rows, replicas, temperatures)
    swaps: Any  # (temperatures - 1,)
    trips: Any  # (replicas, walkers)


@functools.partial(jax.jit, static_argnames=("layout",))
def run_chunk(
    coupling: Any,
    walkers: Walkers,
    key: Any,
    T: Any,
    first: Any,
    count: Any,
    every: Any,
    layout: Layout,
) -> Chunk:
    """``count`` measurements, each after ``every`` rounds (sweep, then swaps of one parity).

    Args:
        coupling: as in :mod:`statmech.kernels`, cast to the dtype of the layout.
        walkers: :class:`Walkers`.
        key: random key of the whole run.
        T: ``(temperatures,)`` float64, increasing.
        first: number of rounds done before; its parity decides which pairs swap.
        count: measurements, at most ``layout.measurements``.
        every: rounds between measurements.
        layout: static.

    Returns:
        :class:`Chunk` with ``layout.measurements`` rows, of which ``count`` are filled.
    """

    def one(coupling: Any, walkers: Walkers, key: Any) -> Chunk:
        return _one_sample(coupling, walkers, key, T, first, count, every, layout)

    if coupling.samples is None:
        return one(coupling, walkers, key)
    keys = jax.vmap(lambda s: jax.random.fold_in(key, s))(jnp.arange(coupling.samples))
    return jax.vmap(one)(coupling, walkers, keys)


def swap(place: Any, energy: Any, beta: Any, parity: Any, u: Any) -> tuple[Any, Any]:
    r"""Exchange neighbouring temperatures: pairs (t, t + 1) with t of one parity.

    .. math:: p = \min\{1, \exp[(\beta_{t+1} - \beta_t)(E_{t+1} - E_t)]\}

    Args:
        place: ``(replicas, temperatures)`` walker at each temperature.
        energy: ``(replicas, walkers)`` total energies.
        beta: ``(temperatures,)``.
        parity: 0 or 1.
        u: uniforms ``(replicas, temperatures - 1)``.

    Returns:
        New ``place``, and which pairs were exchanged ``(replicas, temperatures - 1)``.

    Source: K. Hukushima and K. Nemoto, J. Phys. Soc. Jpn. 65, 1604 (1996).
    Check: ``tests/statmech/test_tempering.py::test_swaps_have_detailed_balance``
    """
    n = place.shape[1]
    ordered = jnp.take_along_axis(energy, place, axis=1)
    log_p = (beta[1:] - beta[:-1])[None, :] * (ordered[:, 1:] - ordered[:, :-1])
    due = (jnp.arange(n - 1, dtype=jnp.int32) % 2 == parity)[None, :]
    done = due & (jnp.log(u) < log_p)
    still = jnp.zeros((place.shape[0], 1), bool)
    up, down = jnp.concatenate([done, still], 1), jnp.concatenate([still, done], 1)
    t = jnp.arange(n)[None, :]
    source = t + up.astype(t.dtype) - down.astype(t.dtype)
    return jnp.take_along_axis(place, source, axis=1), done


def _ranks(place: Any) -> Any:
    """Temperature of each walker: the inverse of the permutations ``(replicas, temperatures)``.

    Why not ``argsort``: XLA:CPU sorts one row after the other, for as long as a sweep of 64 spins.
    """
    t = jnp.arange(place.shape[1], dtype=place.dtype)
    found = place[:, None, :] == t[None, :, None]
    return jnp.sum(jnp.where(found, t[None, None, :], 0), axis=2)


def _replica_overlaps(spins: Any, place: Any) -> Any:
    """Overlaps of copies 2k and 2k + 1 at each temperature, ``(replicas // 2, temperatures)``.

    Why those of all pairs of walkers, of which few are kept: gathering the spins in the order of
    temperatures takes longer than a matrix product.
    """
    R, n = place.shape
    walkers = spins.reshape(-1, R // 2, 2, n)
    every = jnp.einsum("ika,ikb->kab", walkers[:, :, 0], walkers[:, :, 1]) / spins.shape[0]
    k = jnp.arange(R // 2)[:, None]
    return every[k, place[0::2], place[1::2]]


def _one_sample(
    coupling: Any,
    walkers: Walkers,
    key: Any,
    T: Any,
    first: Any,
    count: Any,
    every: Any,
    layout: Layout,
) -> Chunk:
    R, n, rows, N = layout.replicas, layout.temperatures, layout.measurements, coupling.N
    kernel = aligned(coupling.kernel(layout.kernel, layout.rule, layout.block_size), R * n)
    wide, dtype = jnp.float64, jnp.dtype(layout.dtype)
    state = kernel.start(walkers.spins.astype(dtype))
    base = (jnp.arange(R, dtype=jnp.int32) * n)[:, None]
    beta, warm = 1 / T, T.astype(dtype)

    def round_(number: Any, carry: Any) -> Any:
        state, place, leg, swaps, trips = carry
        for_sweep, for_swap = jax.random.split(jax.random.fold_in(key, number))
        rank = _ranks(place)
        state, _ = kernel.sweep(state, for_sweep, warm[rank].reshape(-1))
        energy = kernel.energy(state).reshape(R, n) * N
        u = jax.random.uniform(for_swap, (R, n - 1), wide)
        place, done = swap(place, energy, beta, number % 2, u)
        swaps = swaps + jnp.sum(done, axis=0, dtype=jnp.int32)
        cold = jnp.arange(n, dtype=jnp.int32)[None, :] == place[:, :1]
        hot = jnp.arange(n, dtype=jnp.int32)[None, :] == place[:, -1:]
        trips = trips + (cold & (leg == 2)).astype(trips.dtype)
        leg = jnp.where(cold, 1, jnp.where(hot & (leg == 1), 2, leg)).astype(jnp.int8)
        return state, place, leg, swaps, trips

    def measure(row: Any, carry: Any) -> Any:
        moving, energy, q, overlap = carry
        begin = first + row * every
        moving = jax.lax.fori_loop(begin, begin + every, round_, moving)
        state, place = moving[0], moving[1]
        columns = base + place
        pairs = _replica_overlaps(state.spins[:, : R * n], place)
        m = kernel.overlaps(state)
        m = m[0] if m.shape[0] else jnp.zeros((R * n,), dtype)
        return (
            moving,
            energy.at[row].set(kernel.energy(state)[columns]),
            q.at[row].set(pairs),
            overlap.at[row].set(m[columns]),
        )

    moving = (
        state, walkers.place, walkers.leg,
        jnp.zeros((n - 1,), jnp.int32), jnp.zeros((R, n), jnp.int32),
    )  # fmt: skip
    empty = (
        jnp.zeros((rows, R, n), wide),
        jnp.zeros((rows, R // 2, n), dtype),
        jnp.zeros((rows, R, n), dtype),
    )
    moving, energy, q, overlap = jax.lax.fori_loop(0, count, measure, (moving, *empty))
    state, place, leg, swaps, trips = moving
    after = Walkers(state.spins[:, : R * n].astype(jnp.int8), place, leg)
    return Chunk(after, energy, q, overlap, swaps, trips)
