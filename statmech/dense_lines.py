r"""Lines of dense Hebbian networks in the plane of load and temperature.

The spinodal is explicit at given temperature (:mod:`statmech.dense_saddle`); at given load its
temperature is found by a bracketed search. The transition is where retrieval and the state without
an overlap have equal free energies.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from deeplimits.errors import DomainError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.typing import ArrayLike
from deeplimits.validate import choice, number
from statmech import dense_saddle as saddle
from statmech.dense import _check_case, build, curves, describe, noise_factor, padded, unit
from statmech.dense_averages import in_chunks
from statmech.dense_glass import glass_scale, ordinary_overlap
from statmech.dense_noise import INDEX, check_bodies, curvature
from statmech.examples import Examples
from statmech.hopfield import at_least_zero
from statmech.hopfield_saddle import bracketed
from statmech.p_spin import p_spin

KINDS = ("spinodal", "transition", "static_glass", "dynamic_glass", "spin_glass")
NAMES = {
    "spinodal": "limit of retrieval (spinodal)",
    "transition": "retrieval and paramagnet of equal free energy",
    "static_glass": "static transition of the spin glass",
    "dynamic_glass": "dynamic transition of the spin glass",
    "spin_glass": "onset of the spin glass",
}


@partial(jax.jit, static_argnames="kind")
def _temperatures(A: Any, model: saddle.Model, kind: str) -> tuple[Any, Any]:
    """Temperatures of the line at root loads A ``(n,)``, in units of the energy, and overlaps."""
    hot = jnp.full_like(A, model.P)
    atoms = 8 * model.law.x.size

    def gap(T: Any) -> Any:
        """Positive below the line."""

        def one(A: Any, T: Any) -> Any:
            rows = saddle.branches(T, model)
            # without a spinodal the missing gain, so that the function is continuous at A = 0
            value = jnp.where(
                jnp.isnan(rows.A_top), jnp.minimum(rows.gain, -1e-300), rows.A_top - A
            )
            if kind == "spinodal":
                # at A = 0 the load of the peak is lost in rounding where the range closes
                return jnp.where(A > 0, value, rows.gain)
            M, k = saddle.solve(A, T, rows, model, stable=True)
            retrieval = describe(A, T, M, k * saddle.signal(M, model), model, "retrieval").f
            a = ordinary_overlap(A, T, model)
            paramagnet = describe(A, T, 0 * a, a, model, "paramagnet").f
            return jnp.where(jnp.isnan(retrieval), -1.0, paramagnet - retrieval)

        return in_chunks(one, atoms, A, T)

    # a jump from -1 to the value at the end of the branch does no harm to a bracketed search
    T = bracketed(gap, jnp.full_like(A, 1e-3), hot, (1.0, -1.0))
    below = T * (1 - 1e-12)

    def overlap(A: Any, T: Any) -> Any:
        rows = saddle.branches(T, model)
        if kind == "spinodal":
            peak = saddle.overlap_range(T, model)[2]
            return jnp.where(A > 0, rows.M_top, peak), rows.k_top
        return saddle.solve(A, T, rows, model, stable=True)

    found: Any = in_chunks(overlap, atoms, A, below)
    M, k = found
    s = saddle.signal(M, model)
    from_state = describe(A, T, M, jnp.where(A > 0, k * s, 0.0), model, "retrieval").m
    return T, from_state


@float64_scope
def dense_line(
    kind: str,
    P: int,
    alpha: ArrayLike,
    *,
    c: float = 0.5,
    index: str = "distinct",
    examples: Examples | None = None,
) -> xr.Dataset:
    r"""A line of the phase diagram: temperature against load.

    Args:
        kind: ``"spinodal"``, ``"transition"`` (equal free energies of retrieval and paramagnet;
            its overlap is that of retrieval), ``"static_glass"`` and ``"dynamic_glass"`` (distinct
            indices: transitions of the P-spin glass, temperatures of :func:`statmech.p_spin` times
            :math:`c\sqrt{2\alpha\kappa P!}`) or ``"spin_glass"`` (full sums and even P: continuous
            onset :math:`T_g = c \sqrt{\alpha\kappa k''(0)}`).
        P: number of spins in an interaction, 3 to 20.
        alpha: loads >= 0, shape ``(n,)``.
        c, index, examples: as for :func:`dense_hebbian`.

    Returns:
        Dataset over ``alpha`` with ``T`` and the overlap ``m`` (0 without retrieval); NaN where the
        line has no point.

    Raises:
        DomainError: an unknown kind, a parameter out of range, a glass that the ``index`` has not.
        ShapeError: alpha is not one-dimensional.

    Source: arXiv:2212.00606, section on phase diagrams; E. Gardner, Nucl. Phys. B 257, 747 (1985)
        for the glass; full sums: derived here.

    Check: ``tests/statmech/test_dense_lines.py``
    """
    choice(kind, "kind", KINDS)
    if check_bodies(P) < 3:
        raise DomainError(f"P must be >= 3 at this place, got {P}; see statmech.hopfield_line.")
    c = float(number(c, "c", above=0.0))
    choice(index, "index", INDEX)
    _check_case(P, index, examples, "retrieval")
    loads = np.asarray(at_least_zero(alpha, "alpha"), np.float64)
    if loads.ndim != 1:
        raise ShapeError(f"alpha must have shape (n,), got {loads.shape}.")
    model, factor = build(P, index, examples)
    if kind in ("spinodal", "transition"):
        A = padded(np.sqrt(loads * factor))
        T, m = (np.array(v)[: loads.size] for v in _temperatures(A, model, kind))
        T, m = np.where(T > 2e-3, unit(P, c) * T, np.nan), np.where(T > 2e-3, m, np.nan)
    else:
        T = _glass_temperature(kind, P, loads, c, index, examples, model, factor)
        m = 0 * T
    data = xr.Dataset({"T": ("alpha", T), "m": ("alpha", m)}, coords={"alpha": loads})
    data["alpha"].attrs = {"long_name": "load", "units": "1"}
    data["m"].attrs = {"long_name": "overlap", "units": "1"}
    data["T"].attrs = {"long_name": NAMES[kind], "units": "1", "line": kind}
    data.attrs = {"model": "dense_hebbian", "line": kind, "P": P, "index": index}
    return data


def _glass_temperature(
    kind: str,
    P: int,
    loads: np.ndarray,
    c: float,
    index: str,
    examples: Examples | None,
    model: saddle.Model,
    factor: float,
) -> np.ndarray:
    if (kind == "spin_glass") == (index == "distinct"):
        raise DomainError(
            "'static_glass' and 'dynamic_glass' need index='distinct', 'spin_glass' needs "
            f"index='full'; got {kind!r} with index={index!r}."
        )
    if kind == "spin_glass":
        if P % 2:
            raise DomainError(f"kind='spin_glass' needs even P, got {P}: odd P has random fields.")
        onset = float(curvature(model.kernel, jnp.zeros(())))
        return c * np.sqrt(loads * factor * onset)
    glass = p_spin(P)
    J = glass_scale(P, loads * noise_factor(P, examples), c)
    out: np.ndarray = J * (glass.T_c if kind == "static_glass" else glass.T_d)
    return out


@float64_scope
def dense_load(
    P: int,
    T: ArrayLike,
    *,
    c: float = 0.5,
    index: str = "distinct",
    examples: Examples | None = None,
) -> Any:
    """The largest load with retrieval states at temperature T, the spinodal read the other way.

    Args:
        P: number of spins in an interaction, 3 to 20.
        T: temperatures >= 0, any shape.
        c, index, examples: as for :func:`dense_hebbian`.

    Returns:
        Loads in the shape of T, 0 where there is no retrieval at any load.

    Raises:
        DomainError: a parameter out of range.

    Source: as for :func:`dense_line`.

    Check: ``tests/statmech/test_dense_lines.py::test_load_and_temperature``
    """
    if check_bodies(P) < 3:
        raise DomainError(f"P must be >= 3 at this place, got {P}; see statmech.hopfield_capacity.")
    c = float(number(c, "c", above=0.0))
    choice(index, "index", INDEX)
    _check_case(P, index, examples, "retrieval")
    values = np.asarray(at_least_zero(T, "T"), np.float64)
    model, factor = build(P, index, examples)
    t = padded(values.ravel() / unit(P, c))
    A = np.asarray(curves(t, model).A_top)[: values.size].reshape(values.shape)
    return np.nan_to_num(A**2 / factor)[()]
