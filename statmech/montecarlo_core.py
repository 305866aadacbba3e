"""The compiled part of a simulation: some sweeps of all columns, with measurements.

A chunk starts from the spins alone. What a kernel carries along (overlaps, energies) is computed
afresh there, so that rounding does not build up and a run can be stopped and resumed between
chunks.
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
    """What the program is compiled for: columns are ``temperatures`` times ``chains``."""

    kernel: str
    rule: str
    block_size: int
    temperatures: int
    chains: int
    measurements: int
    dtype: str


class Chunk(NamedTuple):
    """Spins after a chunk, series over its measurements (first axis) and sums over them.

    With disorder samples every array has their axis first.
    """

    spins: Any
    energy: Any
    overlap: Any
    replica: Any
    flips: Any
    overlaps: Any
    overlaps_squared: Any
    magnetisation: Any


def run_chunk(
    coupling: Any,
    spins: Any,
    key: Any,
    T: Any,
    target: Any,
    first: int,
    count: int,
    every: int,
    layout: Layout,
) -> Chunk:
    """``count`` measurements, each after ``every`` sweeps, of which the first has number ``first``.

    Args:
        coupling: as in :mod:`statmech.kernels`.
        spins: ``(N, B)`` or ``(samples, N, B)`` int8.
        key: random key of the whole run; sweep s uses the key folded with s.
        T: temperature of each column ``(B,)``.
        target: for each column the pattern whose overlap is recorded ``(B,)``.
        first: number of sweeps done before.
        count: measurements, at most ``layout.measurements``.
        every: sweeps between measurements.
        layout: static.

    Returns:
        :class:`Chunk` with ``layout.measurements`` rows, of which ``count`` are filled.
    """
    numbers = tuple(jnp.asarray(n, jnp.int32) for n in (first, count, every))
    return _run_chunk(coupling, spins, key, T, target, *numbers, layout=layout)


@functools.partial(jax.jit, static_argnames=("layout",))
def _run_chunk(
    coupling: Any,
    spins: Any,
    key: Any,
    T: Any,
    target: Any,
    first: Any,
    count: Any,
    every: Any,
    layout: Layout,
) -> Chunk:
    coupling = coupling.cast(layout.dtype)

    def one(coupling: Any, spins: Any, key: Any) -> Chunk:
        return _one_sample(coupling, spins, key, T, target, first, count, every, layout)

    if coupling.samples is None:
        return one(coupling, spins, key)
    keys = jax.vmap(lambda s: jax.random.fold_in(key, s))(jnp.arange(coupling.samples))
    return jax.vmap(one)(coupling, spins, keys)


def _one_sample(
    coupling: Any,
    spins: Any,
    key: Any,
    T: Any,
    target: Any,
    first: Any,
    count: Any,
    every: Any,
    layout: Layout,
) -> Chunk:
    rows, columns = layout.measurements, layout.temperatures * layout.chains
    kernel = aligned(coupling.kernel(layout.kernel, layout.rule, layout.block_size), columns)
    state = kernel.start(spins.astype(layout.dtype))
    patterns = kernel.overlaps(state).shape[0]
    pairs = layout.temperatures * (layout.chains // 2)
    wide, dtype = jnp.float64, state.spins.dtype
    empty = Chunk(
        spins=None,
        energy=jnp.zeros((rows, columns), wide),
        overlap=jnp.zeros((rows, columns), dtype),
        replica=jnp.zeros((rows, pairs), dtype),
        flips=jnp.zeros((columns,), wide),
        overlaps=jnp.zeros((patterns, columns), wide),
        overlaps_squared=jnp.zeros((patterns, columns), wide),
        magnetisation=jnp.zeros(spins.shape, dtype),
    )

    def sweep(number: Any, carry: Any) -> Any:
        state, flips = carry
        state, changed = kernel.sweep(state, jax.random.fold_in(key, number), T)
        return state, flips + changed.astype(wide)

    def measure(row: Any, carry: Any) -> Any:
        state, sums = carry
        begin = first + row * every
        state, flips = jax.lax.fori_loop(begin, begin + every, sweep, (state, sums.flips))
        m, spins = kernel.overlaps(state), state.spins[:, :columns]
        chosen = m[target, jnp.arange(columns)] if patterns else jnp.zeros((columns,), dtype)
        sums = Chunk(
            spins=None,
            energy=sums.energy.at[row].set(kernel.energy(state)),
            overlap=sums.overlap.at[row].set(chosen),
            replica=sums.replica.at[row].set(_replica_overlaps(spins, layout)),
            flips=flips,
            overlaps=sums.overlaps + m.astype(wide),
            overlaps_squared=sums.overlaps_squared + m.astype(wide) ** 2,
            magnetisation=sums.magnetisation + spins,
        )
        return state, sums

    state, sums = jax.lax.fori_loop(0, count, measure, (state, empty))
    return sums._replace(spins=state.spins[:, :columns].astype(jnp.int8))


def _replica_overlaps(spins: Any, layout: Layout) -> Any:
    """Overlaps of chain c with chain c + chains // 2, for every temperature in turn.

    Why a product with a row of ones: XLA:CPU does not vectorise the sum for every shape.
    """
    N, half = spins.shape[0], layout.chains // 2
    s = spins.reshape(N, layout.temperatures, layout.chains)
    products = (s[:, :, :half] * s[:, :, half : 2 * half]).reshape(N, -1)
    return jnp.matmul(jnp.ones((1, N), spins.dtype), products)[0] / N
