"""What parallel tempering returns: series at each temperature, and estimates over disorder."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from deeplimits import plotting
from deeplimits.errors import DomainError
from deeplimits.estimates import Estimate
from deeplimits.pytrees import register_dataclass
from deeplimits.series import autocorrelation_time
from deeplimits.validate import choice
from statmech.observables import binder, link_overlap, overlap_histogram, specific_heat

QUANTITIES = ("energy", "q2", "binder", "link_overlap", "specific_heat")


@register_dataclass
@dataclasses.dataclass(frozen=True)
class ParallelTempering:
    """Series and counts of a parallel tempering run; time is the last axis.

    Attributes:
        temperatures: ``(n,)`` increasing.
        series: ``"energy"`` per spin and ``"overlap"`` with the first pattern ``(n, samples,
            replicas, time)``, ``"q"`` between pairs of replicas ``(n, samples, pairs, time)``.
        swap_rates: accepted share of the swaps of temperatures t, t + 1 ``(samples, n - 1)``.
        round_trips: of each walker from cold to hot and back ``(samples, replicas, n)``.
        spins: last spins ``(n, samples, replicas, N)`` int8.
        sweeps, burn_in, every: as given.
    """

    temperatures: Any
    series: dict[str, Any]
    swap_rates: Any
    round_trips: Any
    spins: Any
    sweeps: int
    burn_in: int
    every: int

    @property
    def N(self) -> int:
        """Number of spins."""
        return int(self.spins.shape[-1])

    @property
    def overlaps(self) -> np.ndarray:
        """Replica overlaps q ``(n, samples, pairs, time)``."""
        return np.asarray(self.series["q"])

    @property
    def energy(self) -> Estimate:
        """Mean energy per spin ``(n,)``."""
        return self._over_units(self.series["energy"])

    @property
    def q2(self) -> Estimate:
        """Mean square replica overlap ``(n,)``."""
        return self._over_units(self.overlaps**2)

    @property
    def link_overlap(self) -> Estimate:
        """Link overlap of pairs ``(n,)``; for terms of p spins: :func:`statmech.link_overlap`."""
        return self._over_units(link_overlap(self.overlaps, self.N))

    @property
    def specific_heat(self) -> Estimate:
        """Specific heat per spin by fluctuations ``(n,)``."""
        C = specific_heat(self.series["energy"], self.temperatures[:, None, None], self.N)
        return self._units_mean(C)

    @property
    def binder(self) -> Estimate:
        """Binder parameter of q ``(n,)``, jackknife over disorder samples (or pairs).

        Raises:
            DomainError: a single disorder sample with a single pair of replicas.
        """
        q = self.overlaps
        axes = (-2, -1) if q.shape[1] > 1 else (-3, -1)
        if max(q.shape[1], q.shape[2]) < 2:
            raise DomainError("binder needs 2 disorder samples or 4 replicas for its error.")
        return binder((q**2).mean(axes).T, (q**4).mean(axes).T)

    @property
    def tau(self) -> np.ndarray:
        """Integrated autocorrelation time of the energy at each temperature ``(n,)``, in sweeps.

        The largest over samples and replicas; independent samples have 1 measurement.
        """
        tau = self.every * np.asarray(autocorrelation_time(self.series["energy"]).tau)
        return np.nanmax(tau.reshape(len(tau), -1), axis=1)

    def P_q(self, t: int, *, bins: int = 41, symmetric: bool = False) -> Any:
        """The density P(q) at temperature number t.

        Args:
            t: index into ``temperatures``.
            bins, symmetric: as for :func:`statmech.overlap_histogram`.

        Returns:
            Centres of the bins and an :class:`deeplimits.estimates.Estimate`.
        """
        q = self.overlaps[t]
        units = q if q.shape[0] > 1 else np.swapaxes(q, 0, 1)
        return overlap_histogram(units, bins=bins, symmetric=symmetric)

    def _over_units(self, x: np.ndarray) -> Estimate:
        if x.shape[1] > 1 or x.shape[2] > 1:
            return self._units_mean(x.mean(-1))
        tau = np.nan_to_num(np.asarray(autocorrelation_time(x).tau), nan=1.0)
        error = np.sqrt(tau * x.var(-1, ddof=1) / x.shape[-1])
        return Estimate(x.mean(-1)[:, 0, 0], error[:, 0, 0])

    def _units_mean(self, x: np.ndarray) -> Estimate:
        """Mean of ``(n, samples, replicas)`` with the spread of samples, or else of replicas."""
        units = x.mean(-1) if x.shape[1] > 1 else x[:, 0]
        n = units.shape[1]
        error = units.std(1, ddof=1) / np.sqrt(n) if n > 1 else np.full(len(units), np.nan)
        return Estimate(units.mean(1), error, n - 1)

    def plot(self, name: str = "energy", *, ax: Any = None, **kw: Any) -> Any:
        """See :func:`plot_parallel_tempering`."""
        return plot_parallel_tempering(self, name, ax=ax, **kw)


def plot_parallel_tempering(
    result: ParallelTempering, name: str = "energy", *, ax: Any = None, **kw: Any
) -> Any:
    """A quantity against temperature with one standard error.

    Args:
        result: from :func:`statmech.parallel_tempering`.
        name: ``"energy"``, ``"q2"``, ``"binder"``, ``"link_overlap"`` or ``"specific_heat"``.
        ax: axes to draw on; default a new figure.
        **kw: passed to ``errorbar``.

    Returns:
        The axes.

    Raises:
        DomainError: unknown name.

    Check: ``tests/statmech/test_tempering.py::test_record``
    """
    choice(name, "name", QUANTITIES)
    e = getattr(result, name)
    ax = plotting.axes(ax)
    ax.errorbar(result.temperatures, e.mean, e.stderr, **{"fmt": "o-", "markersize": 4, **kw})
    ax.set(xlabel="temperature T", ylabel=name.replace("_", " ").replace("q2", "mean square q"))
    return ax
