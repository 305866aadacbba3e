"""Parallel tempering (replica exchange) Monte Carlo, batched over disorder and replicas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.errors import DomainError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.typing import ArrayLike, Key
from deeplimits.validate import as_key, as_real, choice, finite, integer
from statmech import montecarlo_checkpoint as checkpoints
from statmech.coupling_matrix import memory_guard
from statmech.kernels import RULES, Coupling
from statmech.tempering_core import Layout, Walkers, run_chunk
from statmech.tempering_record import ParallelTempering

#: Spin updates between two returns to Python (and refreshes of what kernels carry along).
CHUNK_UPDATES = 2e8
_SERIES = ("energy", "q", "overlap")


@float64_scope
def parallel_tempering(
    coupling: Coupling,
    temperatures: ArrayLike,
    *,
    key: Key,
    sweeps: int,
    burn_in: int | None = None,
    replicas: int = 2,
    every: int = 1,
    kernel: str = "auto",
    rule: str = "heatbath",
    dtype: str = "float32",
    block_size: int = 32,
    progress: bool = True,
    checkpoint: str | Path | None = None,
) -> ParallelTempering:
    r"""Sample :math:`e^{-H/T}` at many temperatures whose configurations are exchanged.

    After each sweep neighbouring temperatures t, t + 1, for even and odd t in turn, are exchanged
    with probability

    .. math:: \min\{1, \exp[(\beta_{t+1} - \beta_t)(E_{t+1} - E_t)]\}.

    Args:
        coupling: as for :func:`statmech.simulate`; its disorder samples are run side by side.
        temperatures: ``(n,)``, n >= 2, > 0, strictly increasing or decreasing; see
            :func:`statmech.temperature_ladder` for a good choice. Results are in increasing order.
        key: random key or integer seed.
        sweeps: measured sweeps, >= 1, a multiple of ``every``.
        burn_in: sweeps before, >= 0; default a quarter of ``sweeps``.
        replicas: independent copies of the whole ladder, >= 2, even; copies 2k and 2k + 1 are
            compared in the replica overlap. Default 2.
        every: sweeps per measurement, >= 1, default 1.
        kernel: one that the coupling offers and that samples the Boltzmann law; default its first.
        rule: ``"heatbath"`` (default) or ``"metropolis"``.
        dtype: ``"float32"`` or ``"float64"`` for the fields; energies are float64 throughout.
        block_size: sites per block of the blocked kernel, >= 1.
        progress: show a bar if the run takes longer than two seconds.
        checkpoint: file (``.npz``) to which the run is saved every half minute and at its end. If
            it exists the run goes on where it stopped, with the same result.

    Returns:
        :class:`statmech.tempering_record.ParallelTempering`.

    Raises:
        DomainError: an argument out of range, temperatures that are not monotone, the kernel
            ``"little"`` (another law), more memory than 16 GB.
        ShapeError: temperatures not ``(n,)``, n >= 2.
        DataError: a checkpoint that is damaged or of another run.

    Source: K. Hukushima and K. Nemoto, J. Phys. Soc. Jpn. 65, 1604 (1996).

    Check: ``tests/statmech/test_tempering.py::test_against_enumeration``
    """
    T = _ladder(temperatures)
    integer(every, "every", at_least=1)
    integer(block_size, "block_size", at_least=1)
    if integer(sweeps, "sweeps", at_least=1) % every:
        raise DomainError(f"sweeps must be a multiple of every = {every}, got {sweeps}.")
    burn_in = sweeps // 4 if burn_in is None else integer(burn_in, "burn_in", at_least=0)
    if integer(replicas, "replicas", at_least=2) % 2:
        raise DomainError(f"replicas must be even (they are compared in pairs), got {replicas}.")
    choice(dtype, "dtype", ("float32", "float64"))
    choice(rule, "rule", RULES)
    offered = tuple(name for name in coupling.kernels if name != "little")
    name = offered[0] if kernel == "auto" else choice(kernel, "kernel", offered)
    if name == "dual" and rule != "heatbath":
        raise DomainError(f"kernel 'dual' is a heat bath, got rule={rule!r}.")
    size = T.size * replicas * (coupling.samples or 1)
    memory_guard(
        24.0 * size * (coupling.N + 2.0 * sweeps / every),
        "this run",
        "Take fewer replicas, temperatures or samples, or a larger every.",
    )
    chunk = int(np.clip(CHUNK_UPDATES / (size * coupling.N), 1, 1000))
    layout = Layout(name, rule, block_size, T.size, replicas, max(1, chunk // every), dtype)
    run = _Run(coupling, T, as_key(key), layout, sweeps, burn_in, every, chunk)
    checkpoints.execute(run, Path(checkpoint) if checkpoint is not None else None, progress)
    return run.result()


def _ladder(temperatures: ArrayLike) -> np.ndarray:
    """Temperatures in increasing order, float64."""
    T = np.asarray(as_real(temperatures, "temperatures"), np.float64)
    if T.ndim != 1 or T.size < 2:
        raise ShapeError(f"temperatures must have shape (n,) with n >= 2, got {T.shape}.")
    finite(T, "temperatures")
    if T.min() <= 0:
        raise DomainError(f"temperatures must be > 0, got {T.min():g}.")
    steps = np.diff(T)
    if not (np.all(steps > 0) or np.all(steps < 0)):
        raise DomainError("temperatures must be strictly increasing or decreasing. Sort them.")
    return np.sort(T)


class _Run:
    """A run on its way: walkers, rounds done, series and counts."""

    def __init__(
        self, coupling: Any, T: np.ndarray, key: Any, layout: Layout,
        sweeps: int, burn_in: int, every: int, chunk: int,
    ):  # fmt: skip
        self.T, self.layout, self.chunk, self.done = T, layout, chunk, 0
        self.sweeps, self.burn_in, self.every = sweeps, burn_in, every
        self.mark = checkpoints.fingerprint(
            coupling, key, T, str(layout), burn_in, every, chunk, "parallel tempering"
        )
        self.coupling = coupling.cast(layout.dtype)
        for_start, self.key = jax.random.split(key)
        head = () if coupling.samples is None else (coupling.samples,)
        shape = (layout.replicas, T.size)
        spins = jax.random.rademacher(for_start, (*head, coupling.N, shape[0] * T.size), jnp.int8)
        place = np.broadcast_to(np.arange(T.size, dtype=np.int32), (*head, *shape))
        self.walkers = Walkers(spins, jnp.asarray(place), jnp.zeros((*head, *shape), jnp.int8))
        self.series: dict[str, list[np.ndarray]] = {name: [] for name in _SERIES}
        self.swaps = np.zeros((*head, T.size - 1))
        self.trips = np.zeros((*head, *shape))

    def step(self) -> None:
        """One chunk: of the burn-in, which leaves nothing but walkers, or of the measurements."""
        every, count, warming = checkpoints.portion(self, self.layout.measurements)
        numbers = (jnp.asarray(n, jnp.int32) for n in (self.done, count, every))
        out = run_chunk(
            self.coupling, self.walkers, self.key, jnp.asarray(self.T), *numbers, self.layout
        )
        self.walkers = out.walkers
        self.done += count * every
        if warming:
            return
        for name in _SERIES:
            rows = np.moveaxis(np.asarray(getattr(out, name), np.float64), -3, -1)
            self.series[name].append(rows[..., :count])  # (..., replicas, n, time)
        self.swaps = self.swaps + np.asarray(out.swaps, np.float64)
        self.trips = self.trips + np.asarray(out.trips, np.float64)

    def state(self) -> dict[str, np.ndarray]:
        """What a checkpoint holds."""
        arrays = {k: np.asarray(v) for k, v in self.walkers._asdict().items()}
        arrays |= {"done": np.array(self.done), "swaps": self.swaps, "trips": self.trips}
        if self.done > self.burn_in:
            arrays |= {f"series_{k}": np.concatenate(v, axis=-1) for k, v in self.series.items()}
        return arrays

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Go on from a checkpoint."""
        self.done, self.swaps, self.trips = int(arrays["done"]), arrays["swaps"], arrays["trips"]
        self.walkers = Walkers(*(jnp.asarray(arrays[k]) for k in Walkers._fields))
        if self.done > self.burn_in:
            self.series = {name: [arrays[f"series_{name}"]] for name in _SERIES}

    def result(self) -> ParallelTempering:
        """The record, always with an axis of disorder samples."""
        single = self.coupling.samples is None

        def full(x: Any) -> np.ndarray:
            return np.asarray(x)[None] if single else np.asarray(x)

        series = {
            name: np.moveaxis(full(np.concatenate(parts, axis=-1)), 2, 0)
            for name, parts in self.series.items()
        }
        n, R = self.T.size, self.layout.replicas
        place, spins = full(self.walkers.place), full(self.walkers.spins)
        spins = spins.reshape(len(spins), -1, R, n)
        spins = np.take_along_axis(spins, place[:, None].astype(np.int64), axis=-1)
        first = (self.burn_in + np.arange(n - 1)) % 2  # rounds until a pair is due
        tries = R * ((self.sweeps - first + 1) // 2)
        return ParallelTempering(
            temperatures=self.T,
            series=series,
            swap_rates=full(self.swaps) / np.maximum(tries, 1),
            round_trips=full(self.trips),
            spins=np.moveaxis(spins, (3, 0, 2, 1), (0, 1, 2, 3)),
            sweeps=self.sweeps,
            burn_in=self.burn_in,
            every=self.every,
        )
