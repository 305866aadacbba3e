r"""The phase diagram of dense Hebbian networks: load, temperature, data set.

Retrieval is compared with the state of lowest free energy without an overlap: the paramagnet, or
below the static transition of the P-spin glass its one-step solution.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import xarray as xr

from deeplimits.errors import DomainError, ShapeError
from deeplimits.typing import ArrayLike
from deeplimits.validate import number
from statmech.dense import dense_hebbian, noise_factor
from statmech.dense_capacity import dense_capacity
from statmech.dense_glass import glass_curves, glass_scale
from statmech.dense_lines import dense_line, dense_load
from statmech.dense_noise import check_bodies
from statmech.examples import Examples
from statmech.hopfield import at_least_zero
from statmech.p_spin import p_spin

PHASES = ("ergodic", "spin_glass", "retrieval_metastable", "retrieval")


def diagram(
    P: int = 4,
    *,
    rho: float = 0.0,
    examples: Examples | None = None,
    c: float = 0.5,
    alpha: ArrayLike | None = None,
    T: ArrayLike | None = None,
) -> xr.Dataset:
    r"""Regions, lines and order parameters over load and temperature, distinct indices.

    ``retrieval``: the retrieval state has the lowest free energy; ``retrieval_metastable``: it is a
    local minimum only; ``spin_glass`` and ``ergodic``: it does not exist, below and above the
    static transition of the P-spin glass.

    Args:
        P: number of spins in an interaction, 3 to 20, default 4.
        rho: entropy of many Gaussian examples, supervised, >= 0, default 0 (perfect patterns).
        examples: :class:`Examples` instead of ``rho``.
        c: prefactor of the energy, > 0, default 1/2.
        alpha: loads > 0, increasing, ``(n,)``; default 200 up to 1.25 capacities at T = 0.
        T: temperatures > 0, increasing, ``(k,)``; default 200 up to 2.4 c.

    Returns:
        ``xarray.Dataset`` in the form of :mod:`statmech.phase`, with maps ``m_retrieval``,
        ``f_retrieval``, ``f_without`` and the lines ``spinodal`` (load against temperature),
        ``transition``, ``static_glass`` and ``dynamic_glass``.

    Raises:
        DomainError: a parameter out of range, or both ``rho`` and ``examples``.
        ShapeError: an axis that is not one-dimensional and increasing.

    Source: arXiv:2212.00606 and arXiv:2211.14067, figures of phase diagrams at P = 4.

    Check: ``tests/statmech/test_dense_lines.py::test_diagram``
    """
    if check_bodies(P) < 3:
        raise DomainError(f"P must be >= 3 at this place, got {P}; see statmech.phase_diagram.")
    c = float(number(c, "c", above=0.0))
    rho = float(number(rho, "rho", at_least=0.0))
    if rho > 0 and examples is not None:
        raise DomainError("give rho or examples, not both.")
    data = Examples(math.inf, rho=rho) if rho > 0 else examples
    top = dense_capacity(P, examples=data).alpha
    load = _axis(np.linspace(0, 1.25 * top, 201)[1:] if alpha is None else alpha, "alpha")
    heat = _axis(np.linspace(0, 2.4 * c, 201)[1:] if T is None else T, "T")
    state = dense_hebbian(P, load[None, :], heat[:, None], c=c, examples=data)
    without = _free_energy_without(P, load, heat, c, data)
    frozen = heat[:, None] < p_spin(P).T_c * glass_scale(P, load * noise_factor(P, data), c)
    phase = np.where(frozen, 1, 0)
    phase = np.where(state.exists, np.where(state.f < without, 3, 2), phase)
    axes = ("T", "alpha")
    out = xr.Dataset(
        {
            "phase": (axes, phase),
            "m_retrieval": (axes, state.m),
            "f_retrieval": (axes, state.f),
            "f_without": (axes, without),
        },
        coords={"T": heat, "alpha": load},
    )
    out["phase"].attrs = {"flag_values": [0, 1, 2, 3], "flag_meanings": " ".join(PHASES)}
    _add_lines(out, P, load, heat, c, data)
    out["alpha"].attrs = {"long_name": "load"}
    out["T"].attrs = {"long_name": "temperature"}
    entropy = data.entropy if data is not None else 0.0
    out.attrs = {
        "model": "dense_hebbian",
        "title": rf"P = {P}, $\rho$ = {entropy:.3g}",
        "source": "arXiv:2212.00606",
    }
    return out


def _axis(values: ArrayLike, name: str) -> np.ndarray:
    values = np.asarray(at_least_zero(values, name), np.float64)
    if values.ndim != 1 or len(values) < 2 or not (np.diff(values) > 0).all():
        raise ShapeError(f"{name} must be increasing, of shape (n,), n >= 2; got {values.shape}.")
    if values[0] == 0:
        raise DomainError(f"{name} must be > 0, got 0.")
    return values


def _free_energy_without(
    P: int, load: np.ndarray, heat: np.ndarray, c: float, data: Examples | None
) -> np.ndarray:
    """Free energy of the paramagnet, or of the spin glass below its transition, ``(T, alpha)``."""
    J = glass_scale(P, load * noise_factor(P, data), c)[None, :]
    relative = heat[:, None] / J
    glass = glass_curves(P)[0](np.minimum(relative, p_spin(P).T_c))
    return J * np.where(
        relative < p_spin(P).T_c, glass, -relative * math.log(2.0) - 0.25 / relative
    )


def _add_lines(
    out: xr.Dataset,
    P: int,
    load: np.ndarray,
    heat: np.ndarray,
    c: float,
    data: Examples | None,
) -> None:
    """The lines; the transition from the sign change of the free energies on the grid."""
    spinodal = np.asarray(dense_load(P, heat, c=c, examples=data))
    out["spinodal"] = ("T", np.where(spinodal > 0, spinodal, np.nan))
    out["spinodal"].attrs = {"line": "spinodal", "long_name": "limit of retrieval"}
    out["transition"] = ("T", _crossing(load, out))
    out["transition"].attrs = {"line": "transition", "long_name": "equal free energies"}
    for kind in ("static_glass", "dynamic_glass"):
        line: Any = dense_line(kind, P, load, c=c, examples=data)["T"]
        out[kind] = ("alpha", line.values)
        out[kind].attrs = {k: line.attrs[k] for k in ("line", "long_name")}


def _crossing(load: np.ndarray, out: xr.Dataset) -> np.ndarray:
    """Load at which retrieval stops to be the lowest state, at each T; linear inside a cell."""
    gain = (out["f_without"] - out["f_retrieval"]).values
    result = np.full(len(gain), np.nan)
    change = (gain[:, :-1] > 0) & (gain[:, 1:] <= 0)  # False where retrieval does not exist
    rows = np.flatnonzero(change.any(axis=1))
    at = change[rows].argmax(axis=1)
    g0, g1 = gain[rows, at], gain[rows, at + 1]
    result[rows] = load[at] + (load[at + 1] - load[at]) * g0 / (g0 - g1)
    return result
