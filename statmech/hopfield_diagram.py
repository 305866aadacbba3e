"""The phase diagram of the Hopfield network: every branch on a grid, its lines and regions."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from deeplimits.errors import DomainError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.typing import ArrayLike
from statmech.hopfield import at_least_zero, hopfield
from statmech.hopfield_lines import KINDS, NAMES, hopfield_line, loads

PHASES = ("paramagnet", "spin_glass", "metastable_retrieval", "retrieval")
_MAPS = {"m": "overlap", "q": "Edwards-Anderson order parameter", "f": "free energy per spin"}


@float64_scope
def diagram(alpha: ArrayLike | None = None, T: ArrayLike | None = None) -> xr.Dataset:
    """Phases, lines and order parameters over load and temperature.

    Args:
        alpha: loads >= 0, increasing, ``(n,)``; default 200 values up to 0.16.
        T: temperatures >= 0, increasing, ``(k,)``; default 200 values up to 1.4.

    Returns:
        Dataset in the form of :mod:`statmech.phase`, with ``m``, ``q``, ``f`` of the branches
        ``retrieval`` and ``spin_glass``. Lines of retrieval are loads over temperatures (they are
        re-entrant), the onset of the spin glass is a temperature over loads.

    Raises:
        DomainError, ShapeError: a grid that does not increase in one dimension from 0 or above.

    Source: Amit, Gutfreund and Sompolinsky, Ann. Phys. 173, 30 (1987) [amit1987], figure 2.

    Check: ``tests/statmech/test_hopfield_lines.py::test_diagram``
    """
    load = increasing(np.linspace(0, 0.16, 200) if alpha is None else alpha, "alpha")
    heat = increasing(np.linspace(0, 1.4, 200) if T is None else T, "T")
    axes = ("T", "alpha")
    data = xr.Dataset(coords={"alpha": load, "T": heat})
    data["alpha"].attrs = {"long_name": "load", "units": "patterns per spin"}
    data["T"].attrs = {"long_name": "temperature", "units": "1"}
    states = {b: hopfield(load[None, :], heat[:, None], b) for b in ("retrieval", "spin_glass")}
    for branch, state in states.items():
        for name, text in _MAPS.items():
            values = getattr(state, name)
            data[f"{name}_{branch}"] = (axes, values, {"long_name": f"{text}, {branch}"})
    retrieval, glass = states["retrieval"], states["spin_glass"]
    # without patterns (alpha = 0) there is no glass, and retrieval below T = 1 is the ground state
    wins = retrieval.exists & ~(glass.f < retrieval.f)
    phase = np.select([wins, retrieval.exists, glass.exists], [3, 2, 1], 0).astype(np.int8)
    flags = {"flag_values": list(range(4)), "flag_meanings": " ".join(PHASES)}
    data["phase"] = (axes, phase, {"long_name": "phase", **flags})
    data = data.assign(_lines(load, heat))
    data.attrs = {
        "model": "hopfield",
        "title": "Hopfield network, replica symmetric",
        "source": "Amit, Gutfreund and Sompolinsky (1987)",
        "largest_residual": float(max(np.nanmax(s.residual, initial=0) for s in states.values())),
    }
    return data


def _lines(load: np.ndarray, heat: np.ndarray) -> dict[str, Any]:
    """Lines over their own temperatures, which resolve the tips whatever the grid."""
    top = min(1.0, float(heat[-1]))
    # dense where the lines turn back, below T = 0.12
    own = np.unique(np.concatenate([np.linspace(0, min(top, 0.12), 60), np.linspace(0, top, 140)]))
    lines: dict[str, Any] = {"line_T": ("line_T", own, {"long_name": "temperature", "axis": "T"})}
    for kind in KINDS:
        attrs = {"line": kind, "long_name": NAMES[kind]}
        if kind == "spin_glass":
            lines[kind] = ("alpha", hopfield_line(kind, load)["T"].values, attrs)
        else:
            lines[kind] = ("line_T", loads(kind, own), attrs)
    return lines


def increasing(values: ArrayLike, name: str) -> np.ndarray:
    """A grid >= 0 that increases in one dimension.

    Raises:
        DomainError: negative, not finite, or not increasing.
        ShapeError: not one-dimensional.
    """
    grid = np.asarray(at_least_zero(values, name), np.float64)
    if grid.ndim != 1:
        raise ShapeError(f"{name} must have shape (n,), got {grid.shape}.")
    if np.any(np.diff(grid) <= 0):
        raise DomainError(f"{name} must increase.")
    return grid
