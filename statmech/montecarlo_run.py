"""A simulation in chunks: what one chunk does, what a checkpoint holds, what comes out."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from statmech import montecarlo_checkpoint as checkpoints
from statmech.montecarlo_core import Chunk, Layout, run_chunk
from statmech.montecarlo_record import Simulation

_SERIES = {"energy": "energy", "overlap": "overlap", "q": "replica"}
_SUMS = ("flips", "overlaps", "overlaps_squared", "magnetisation")


class Run:
    """A simulation on its way: spins, sweeps done, series and sums of what was measured.

    Args:
        coupling, spins, key: as for :func:`statmech.montecarlo_core.run_chunk`.
        temperatures: ``(temperatures,)``.
        targets: ``(chains,)``.
        layout: what the program is compiled for.
        sweeps, burn_in, every: as for :func:`statmech.simulate`.
        chunk: sweeps per call of the program, >= 1.
    """

    def __init__(
        self,
        coupling: Any,
        spins: np.ndarray,
        key: Any,
        temperatures: np.ndarray,
        targets: np.ndarray,
        layout: Layout,
        *,
        sweeps: int,
        burn_in: int,
        every: int,
        chunk: int,
    ):
        self.layout, self.key, self.chunk = layout, key, chunk
        self.sweeps, self.burn_in, self.every = sweeps, burn_in, every
        self.temperatures, self.spins, self.done = temperatures, spins, 0
        self.mark = checkpoints.fingerprint(
            coupling, spins, key, temperatures, targets, str(layout), burn_in, every, chunk
        )
        self.coupling = coupling.cast(layout.dtype)
        self.T = jnp.asarray(np.repeat(temperatures, layout.chains), layout.dtype)
        self.targets = jnp.asarray(np.tile(targets, layout.temperatures))
        self.series: dict[str, list[np.ndarray]] = {name: [] for name in _SERIES}
        self.sums: dict[str, Any] = {}

    def step(self) -> None:
        """One chunk: of the burn-in, which leaves nothing but spins, or of the measurements."""
        every, count, warming = checkpoints.portion(self, self.layout.measurements)
        chunk = run_chunk(
            self.coupling, self.spins, self.key, self.T, self.targets,
            self.done, count, every, self.layout,
        )  # fmt: skip
        if not warming:
            self._collect(chunk, count)
        self.spins = np.asarray(chunk.spins)
        self.done += count * every

    def _collect(self, chunk: Chunk, count: int) -> None:
        for name, field in _SERIES.items():
            rows = np.moveaxis(np.asarray(getattr(chunk, field), np.float64), -2, -1)
            self.series[name].append(rows[..., :count])  # (..., columns, count)
        for name in _SUMS:
            self.sums[name] = self.sums.get(name, 0.0) + np.asarray(
                getattr(chunk, name), np.float64
            )

    def state(self) -> dict[str, np.ndarray]:
        """What a checkpoint holds."""
        arrays = {"spins": self.spins, "done": np.array(self.done)}
        if self.sums:
            arrays |= {f"series_{k}": np.concatenate(v, axis=-1) for k, v in self.series.items()}
            arrays |= {f"sum_{k}": v for k, v in self.sums.items()}
        return arrays

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Go on from a checkpoint."""
        self.spins, self.done = arrays["spins"], int(arrays["done"])
        if self.done > self.burn_in:
            self.series = {name: [arrays[f"series_{name}"]] for name in _SERIES}
            self.sums = {name: arrays[f"sum_{name}"] for name in _SUMS}

    def result(self, several: bool) -> Simulation:
        """The record; ``several``: whether temperatures have an axis."""
        n = self.sweeps // self.every

        def columns(x: np.ndarray, axis: int) -> np.ndarray:
            """Split the axis of columns, temperatures to the front (or away)."""
            axis, count = axis % x.ndim, len(self.temperatures)
            each = x.shape[axis] // count  # chains, or pairs of them
            split = x.reshape(*x.shape[:axis], count, each, *x.shape[axis + 1 :])
            split = np.moveaxis(split, axis, 0)
            return split if several else split[0]

        def last(x: np.ndarray) -> np.ndarray:
            """``(..., rows, columns)`` -> ``(..., chains, rows)``."""
            return columns(np.ascontiguousarray(np.swapaxes(x, -1, -2)), -2)

        series = {k: columns(np.concatenate(v, axis=-1), -2) for k, v in self.series.items()}
        updates = self.sweeps * self.coupling.N
        return Simulation(
            spins=last(self.spins),
            T=self.temperatures if several else float(self.temperatures[0]),
            series=series,
            overlaps=last(self.sums["overlaps"] / n),
            overlaps_squared=last(self.sums["overlaps_squared"] / n),
            magnetisation=last(self.sums["magnetisation"] / n),
            acceptance=columns(self.sums["flips"] / updates, -1),
            kernel=self.layout.kernel,
            rule=self.layout.rule,
            sweeps=self.sweeps,
            burn_in=self.burn_in,
            every=self.every,
            samples=self.coupling.samples,
        )
