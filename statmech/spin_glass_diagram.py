"""Phase diagrams of the SK model (field, temperature) and of p-spin glasses (p, temperature)."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from deeplimits.errors import DomainError
from deeplimits.precision import float64_scope
from deeplimits.typing import ArrayLike
from deeplimits.validate import as_real, finite
from statmech.p_spin import p_spin, p_spin_state
from statmech.spin_glass import sk
from statmech.spin_glass_at import sk_at_temperature


def _axis(values: ArrayLike | None, default: np.ndarray, name: str) -> np.ndarray:
    axis = np.asarray(as_real(default if values is None else values, name), np.float64)
    finite(axis, name)
    if axis.ndim != 1 or axis.size < 2 or np.any(np.diff(axis) <= 0) or axis[0] < 0:
        raise DomainError(f"{name} must be 1-D, >= 0 and increasing, got shape {axis.shape}.")
    return axis


@float64_scope
def sk_diagram(*, h: ArrayLike | None = None, T: ArrayLike | None = None) -> xr.Dataset:
    """Phases of the SK model: below the AT line replica symmetry is broken.

    Args:
        h: fields, increasing, 0 to 3.7; default 0 to 1.5.
        T: temperatures, increasing, > 0; default up to 1.3.

    Returns:
        ``xarray.Dataset`` in the form of :mod:`statmech.phase`, with maps of the replica-symmetric
        ``q``, ``f`` and ``replicon`` and the line ``at``.

    Raises:
        DomainError: an axis out of range.

    Source: J. R. L. de Almeida and D. J. Thouless, J. Phys. A 11, 983 (1978), figure 2.

    Check: tests/statmech/test_spin_glass.py::test_diagrams
    """
    h = _axis(h, np.linspace(0, 1.5, 61), "h")
    T = _axis(T, np.linspace(0.02, 1.3, 65), "T")
    state: Any = sk(T[:, None], h[None, :])
    glass = np.asarray(state.replicon) < 0
    data = xr.Dataset(
        {"phase": (("T", "h"), glass.astype(np.int8))}, coords={"T": T, "h": h}
    ).assign(
        {name: (("T", "h"), np.asarray(getattr(state, name))) for name in ("q", "f", "replicon")}
    )
    data["at"] = ("h", sk_at_temperature(h))
    data["at"].attrs = {"line": "at", "long_name": "de Almeida-Thouless"}
    return _labelled(data, "sk", "SK model", ("replica_symmetric", "spin_glass"), "h", "field")


@float64_scope
def p_spin_diagram(*, p: ArrayLike | None = None, T: ArrayLike | None = None) -> xr.Dataset:
    """Phases of the Ising p-spin glass: dynamic, static and Gardner transitions against p.

    Args:
        p: integers from 3 to 40, increasing; default 3 to 10.
        T: temperatures, increasing, > 0; default up to 1.

    Returns:
        ``xarray.Dataset`` in the form of :mod:`statmech.phase`, with the map ``f`` and the lines
        ``dynamic``, ``static`` and ``gardner``.

    Raises:
        DomainError: an axis out of range.

    Source: E. Gardner, Nucl. Phys. B 257, 747 (1985).

    Check: tests/statmech/test_spin_glass.py::test_diagrams
    """
    powers = _axis(p, np.arange(3.0, 11.0), "p")
    if np.any(powers != np.round(powers)):
        raise DomainError(f"p must hold integers, got {powers}.")
    T = _axis(T, np.linspace(0.01, 1.0, 100), "T")
    found = [p_spin(int(n)) for n in powers]
    lines = {
        "dynamic": ("T_d", "dynamic: many states"),
        "static": ("T_c", "static: few states"),
        "gardner": ("T_G", "Gardner: states break up"),
    }
    values = {k: np.array([getattr(f, a) for f in found]) for k, (a, _) in lines.items()}
    phase = sum((T[:, None] < values[k]).astype(np.int8) for k in lines)
    free = np.stack([np.asarray(p_spin_state(int(n), T).f) for n in powers], axis=1)
    data = xr.Dataset(
        {"phase": (("T", "p"), phase), "f": (("T", "p"), free)}, coords={"T": T, "p": powers}
    )
    for name, (_, text) in lines.items():
        data[name] = ("p", values[name])
        data[name].attrs = {"line": name, "long_name": text}
    names = ("paramagnet", "many_states", "glass_1RSB", "glass_full_RSB")
    return _labelled(data, "p_spin", "Ising p-spin glass", names, "p", "spins in an interaction")


def _labelled(
    data: xr.Dataset, model: str, title: str, names: tuple[str, ...], x: str, text: str
) -> xr.Dataset:
    data["phase"].attrs = {
        "long_name": "phase",
        "flag_values": list(range(len(names))),
        "flag_meanings": " ".join(names),
    }
    data[x].attrs["long_name"] = text
    data["T"].attrs["long_name"] = "temperature"
    data.attrs = {"model": model, "title": title, "source": "derived here"}
    return data
