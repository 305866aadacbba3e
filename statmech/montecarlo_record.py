"""What a simulation returns."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from deeplimits import plotting
from deeplimits.errors import DomainError, ShapeError
from deeplimits.estimates import Estimate
from deeplimits.pytrees import register_dataclass
from deeplimits.series import autocorrelation_time
from deeplimits.validate import choice

#: Quantities with a series.
QUANTITIES = ("energy", "overlap", "q")


@functools.partial(
    register_dataclass,
    data_fields=(
        "spins",
        "T",
        "series",
        "overlaps",
        "overlaps_squared",
        "magnetisation",
        "acceptance",
    ),
    meta_fields=("kernel", "rule", "sweeps", "burn_in", "every", "samples"),
)
@dataclasses.dataclass(frozen=True)
class Simulation:
    """Chains of a Monte Carlo simulation.

    Leading axes ``...`` are: temperatures (if T was an array), disorder samples (if the coupling
    has any). Chains follow, and time is last in series.

    Attributes:
        spins: final states ``(..., chains, N)``, int8; they can be given as ``start``.
        T: temperature, a number or ``(temperatures,)``.
        series: ``"energy"`` per spin ``(..., chains, n)``; ``"overlap"`` with the target pattern
            ``(..., chains, n)``; ``"q"``, the overlap of chains c and c + chains // 2,
            ``(..., chains // 2, n)``. Float64.
        overlaps: time averages of the overlaps with every pattern ``(..., chains, K)``.
        overlaps_squared: time averages of their squares.
        magnetisation: time average of each spin ``(..., chains, N)``.
        acceptance: share of updates that changed a spin ``(..., chains)``.
        kernel, rule: how the spins were moved.
        sweeps: measured sweeps; ``burn_in``: sweeps before; ``every``: sweeps per measurement.
        samples: number of disorder samples, or None.
    """

    spins: Any
    T: Any
    series: dict[str, Any]
    overlaps: Any
    overlaps_squared: Any
    magnetisation: Any
    acceptance: Any
    kernel: str
    rule: str
    sweeps: int
    burn_in: int
    every: int
    samples: int | None

    @property
    def energy(self) -> np.ndarray:
        """Mean energy per spin of each chain ``(..., chains)``."""
        return np.mean(self.series["energy"], axis=-1)

    @property
    def q(self) -> np.ndarray:
        """Mean overlap of each pair of chains ``(..., chains // 2)``."""
        return np.mean(self.series["q"], axis=-1)

    @property
    def q_ea(self) -> np.ndarray:
        """Edwards-Anderson parameter of each chain, the mean square of ``magnetisation``.

        High by about (1 - q) tau / n, since the averages over time are finite; ``q`` has no bias.
        """
        return np.mean(self.magnetisation**2, axis=-1)

    @property
    def tau(self) -> np.ndarray:
        """Integrated autocorrelation time of the energy, in sweeps ``(..., chains)``.

        In the convention of :func:`deeplimits.series.autocorrelation_time` (independent samples:
        1 measurement). NaN for a constant chain.
        """
        return self.every * np.asarray(autocorrelation_time(self.series["energy"]).tau)

    @property
    def energy_error(self) -> np.ndarray:
        """Standard error of ``energy`` per chain, from its autocorrelation ``(..., chains)``."""
        return self.error("energy")

    def error(self, name: str = "energy") -> np.ndarray:
        r"""Standard error of the time average of each chain, :math:`\sqrt{\tau\,s^2 / n}`.

        Args:
            name: ``"energy"``, ``"overlap"`` or ``"q"``.

        Returns:
            ``(..., chains)`` or, for q, ``(..., chains // 2)``; 0 for a constant chain.

        Raises:
            DomainError: unknown name.
            ShapeError: fewer than 8 measurements.
        """
        choice(name, "name", QUANTITIES)
        x = self.series[name]
        tau = np.nan_to_num(np.asarray(autocorrelation_time(x).tau), nan=1.0)
        return np.sqrt(tau * np.var(x, axis=-1, ddof=1) / x.shape[-1])

    def estimate(self, name: str = "energy", *, power: int = 1) -> Estimate:
        """Mean over chains (and disorder samples) with its standard error.

        Independent units are the disorder samples if there are several, otherwise the chains (for
        q: the pairs), otherwise, for a single one, stretches of its series (by ``error``).

        Args:
            name: ``"energy"``, ``"overlap"`` or ``"q"``.
            power: of the quantity, before averaging over time, >= 1: 2 for the mean square.

        Returns:
            :class:`deeplimits.estimates.Estimate`, a number or ``(temperatures,)``.

        Raises:
            DomainError: unknown name, or no pairs of chains.

        Check: ``tests/statmech/test_montecarlo.py::test_estimates``
        """
        choice(name, "name", QUANTITIES)
        x = self.series[name] ** power
        if x.shape[-2] == 0:
            raise DomainError("q needs at least 2 chains, this simulation has 1.")
        means = x.mean(axis=-1)
        if self.samples is not None and self.samples > 1:
            means = means.mean(axis=-1)
        elif self.samples is not None:
            means = means[..., 0, :]
        n = means.shape[-1]
        if n > 1:
            return Estimate(means.mean(-1), means.std(-1, ddof=1) / np.sqrt(n), n - 1)
        tau = np.nan_to_num(np.asarray(autocorrelation_time(x).tau), nan=1.0)
        error = np.sqrt(tau * np.var(x, axis=-1, ddof=1) / x.shape[-1])
        return Estimate(means[..., 0], error.reshape(means.shape)[..., 0])

    def plot(self, name: str = "energy", *, ax: Any = None, **kw: Any) -> Any:
        """See :func:`plot_simulation`."""
        return plot_simulation(self, name, ax=ax, **kw)


def plot_simulation(result: Simulation, name: str = "energy", *, ax: Any = None, **kw: Any) -> Any:
    """A quantity against time, or against temperature with one standard error if there are several.

    Args:
        result: from :func:`statmech.simulate`.
        name: ``"energy"``, ``"overlap"`` or ``"q"``.
        ax: axes to draw on; default a new figure.
        **kw: passed to ``plot`` or ``errorbar``.

    Returns:
        The axes.

    Raises:
        DomainError: unknown name.
        ShapeError: no pairs of chains.

    Check: ``tests/statmech/test_montecarlo.py::test_plot``
    """
    choice(name, "name", QUANTITIES)
    label = {"energy": "energy per spin", "overlap": "overlap m", "q": "replica overlap q"}[name]
    x = result.series[name]
    if x.shape[-2] == 0:
        raise ShapeError("q needs at least 2 chains, this simulation has 1.")
    ax = plotting.axes(ax)
    if np.ndim(result.T):
        e = result.estimate(name)
        ax.errorbar(result.T, e.mean, e.stderr, **{"fmt": "o", "label": result.kernel, **kw})
        ax.set(xlabel="temperature T", ylabel=label)
        return ax
    lines = x.reshape(-1, x.shape[-1])
    time = result.burn_in + result.every * np.arange(1, x.shape[-1] + 1)
    for line in lines[:16]:
        ax.plot(time, line, **{"linewidth": 0.7, "alpha": 0.7, **kw})
    ax.axhline(x.mean(), color=plotting.COLORS[-1], linewidth=1.0, label="mean")
    ax.set(xlabel="sweep", ylabel=label)
    if len(lines) > 16:
        ax.set_title(f"16 of {len(lines)} chains")
    return ax
