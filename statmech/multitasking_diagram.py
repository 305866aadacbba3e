"""The phase diagram of multitasking networks over dilution and temperature."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from deeplimits.errors import DomainError, ShapeError
from deeplimits.typing import ArrayLike
from statmech.multitasking import KINDS, multitasking
from statmech.multitasking_limits import multitasking_onset


def _grid(values: ArrayLike, name: str) -> np.ndarray:
    x = np.asarray(values, np.float64)
    if x.ndim != 1 or len(x) < 2:
        raise ShapeError(f"{name} must be 1-D with at least two entries, got shape {x.shape}.")
    if not np.all(np.diff(x) > 0):
        raise DomainError(f"{name} must increase.")
    return x


def diagram(
    K: int = 3,
    d: ArrayLike | None = None,
    T: ArrayLike | None = None,
    *,
    examples: Any = None,
    g: str = "classic",
    starts: int = 4,
) -> xr.Dataset:
    """Which state has the lowest free energy, over dilution and temperature.

    Args:
        K: number of patterns, >= 1, default 3.
        d: increasing dilutions in [0, 1), default 60 from 0 to 0.98.
        T: increasing temperatures, >= 0, default 60 from 0 to 1.05.
        examples: ``Examples(M, r)`` or None (default).
        g: ``"classic"`` (default) or ``"diluted"``.
        starts: as for :func:`statmech.multitasking`, default 4.

    Returns:
        ``xarray.Dataset`` in the form of :mod:`statmech.phase`: ``phase``, ``f``, ``E`` and
        ``residual`` over ``("T", "d")``, overlaps ``m`` over ``("T", "d", "pattern")`` and the
        line ``onset`` over ``d``.

    Raises:
        ShapeError: a grid that is not 1-D.
        DomainError: a grid that does not increase, or an argument out of its range.

    Source: derived here for the model of arXiv:2308.04106.

    Check: tests/statmech/test_multitasking.py::test_diagram
    """
    x = _grid(np.linspace(0, 0.98, 60) if d is None else d, "d")
    y = _grid(np.linspace(0, 1.05, 60) if T is None else T, "T")
    found = multitasking(K, x[None], y[:, None], examples=examples, g=g, starts=starts)
    axes = ("T", "d")
    data = xr.Dataset(
        {
            "phase": (axes, found.code),
            "f": (axes, found.f),
            "E": (axes, found.E),
            "residual": (axes, found.residual),
            "m": ((*axes, "pattern"), found.m),
            "onset": ("d", multitasking_onset(x, g=g)),
        },
        coords={"T": y, "d": x, "pattern": np.arange(1, K + 1)},
        attrs={
            "model": "multitasking",
            "title": f"multitasking network, {K} patterns",
            "source": "arXiv:2308.04106",
            "K": K,
            "g": g,
        },
    )
    data["T"].attrs = {"long_name": "temperature", "units": "1"}
    data["d"].attrs = {"long_name": "dilution", "units": "1"}
    data["phase"].attrs = {
        "long_name": "state of lowest free energy",
        "flag_values": list(range(len(KINDS))),
        "flag_meanings": " ".join(KINDS),
    }
    data["f"].attrs = {"long_name": "free energy per spin", "units": "1"}
    data["E"].attrs = {"long_name": "energy per spin", "units": "1"}
    data["residual"].attrs = {"long_name": "deviation from the equations", "units": "1"}
    data["m"].attrs = {"long_name": "overlap", "units": "1"}
    data["onset"].attrs = {"line": "onset", "long_name": "onset of retrieval", "units": "1"}
    return data
