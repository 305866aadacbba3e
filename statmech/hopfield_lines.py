r"""Lines of the Hopfield network in the plane of load and temperature.

At given temperature every line is one root along the retrieval branch, whose parameter is the
noise-to-signal ratio k (:mod:`statmech.hopfield_saddle`), so that nothing can be missed. The
spinodal and the transition are re-entrant: their load has a maximum at T > 0, the tip. At given
load the temperature is therefore searched on either side of the tip.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from numpy.polynomial import chebyshev

from deeplimits.errors import ShapeError
from deeplimits.precision import float64_scope
from deeplimits.typing import ArrayLike
from deeplimits.validate import choice, is_traced
from statmech import hopfield_saddle as saddle
from statmech.hopfield import at_least_zero, padded
from statmech.hopfield_averages import field_averages

KINDS = ("spinodal", "transition", "spin_glass", "at")
NAMES = {
    "spinodal": "limit of retrieval (spinodal)",
    "transition": "retrieval and spin glass of equal free energy",
    "spin_glass": "onset of the spin glass",
    "at": "replica symmetry of retrieval breaks (AT)",
}
#: Range of temperatures that are searched: loads above 3e-15, on the AT line above 0.0066.
_COLDEST, _HOTTEST = 1e-30, 1 - 1e-7


class Point(NamedTuple):
    """Points of a line: temperature, square root of the load, overlap, noise, violation."""

    T: Any
    A: Any
    m: Any
    a: Any
    residual: Any


def at_temperature(kind: str, T: Any) -> Point:
    """The line at temperatures T < 1, shape ``(n,)``; NaN where it has no point."""
    end = saddle.fold(T)

    def state(k: Any) -> tuple[Any, Any, Any, Any]:
        m = saddle.signal(k, T)
        g = field_averages(m, m * k, T)
        return m, m * k, g, saddle.root_load(m * k, g)

    def advantage(k: Any) -> Any:
        """Free energy of the spin glass minus that of retrieval."""
        m, a, g, A = state(k)
        alpha, zero = A**2, jnp.zeros_like(a)
        noise = saddle.glass(alpha, T)
        glass = saddle.free_energy(alpha, T, zero, noise, field_averages(zero, noise, T))
        return glass - saddle.free_energy(alpha, T, m, a, g)

    def replicon(k: Any) -> Any:
        _, a, g, _ = state(k)
        return jnp.log(T * g.q) - jnp.log(a**2 * jnp.maximum(g.sech4, 1e-300))

    if kind == "spinodal":
        m, k, A = end
        s = saddle.fold_equations(jnp.stack([m, k]), T)
        return Point(T, A, m, m * k, jnp.abs(s).max(0))
    condition: Callable[[Any], Any] = advantage if kind == "transition" else replicon
    k = saddle.bracketed(condition, 1e-2 * end.k, end.k, (1.0, -1.0))
    m, a, g, A = state(k)
    error = jnp.maximum(jnp.abs(condition(k)), jnp.abs(g.tanh - m))
    nan = jnp.where((k < end.k * (1 - 1e-9)) & (error < 1e-9), 0.0, jnp.nan)
    return Point(T, A + nan, m + nan, a + nan, error + nan)


@partial(jax.jit, static_argnames="kind")
def _points(kind: str, T: Any) -> Point:
    out: Point = saddle.in_chunks(partial(at_temperature, kind), T)
    return out


@jax.jit
def _at_end(lo: Any, hi: Any) -> Any:
    """Temperature at which the AT line meets the spinodal."""

    def replicon(T: Any) -> Any:
        end = saddle.fold(T)
        a = end.m * end.k
        g = field_averages(end.m, a, T)
        return T * g.q - a**2 * g.sech4

    return saddle.bracketed(replicon, lo, hi, (-1.0, 1.0))


class Series(NamedTuple):
    """Root load of a line as a Chebyshev series in T (AT line: in ln T), and its maximum."""

    A: chebyshev.Chebyshev
    top: float


@cache
def series(kind: str) -> Series:
    """The whole line; 64 coefficients fall to rounding (the load is smooth in T down to T = 0)."""
    hottest = 1.0
    if kind == "at":
        hottest = float(_at_end(jnp.full(1, 0.015), jnp.full(1, 0.1))[0]) * (1 - 1e-7)
    domain = [np.log(_COLDEST), np.log(hottest)] if kind == "at" else [0.0, 1.0]
    x = chebyshev.chebpts1(64)
    T = _temperature(kind, domain[0] + (domain[1] - domain[0]) * (1 + x) / 2)
    A = np.asarray(_points(kind, jnp.asarray(T)).A)
    line = chebyshev.Chebyshev(chebyshev.chebfit(x, A, 63), domain)
    if kind == "at":  # rises up to its end on the spinodal
        return Series(line, domain[1])
    roots = np.asarray(line.deriv().roots(), complex)
    turns = roots.real[(abs(roots.imag) < 1e-9) & (roots.real > 0) & (roots.real < 0.3)]
    return Series(line, float(turns[np.argmax(line(turns))]))


def loads(kind: str, T: np.ndarray) -> np.ndarray:
    """Loads of a line of retrieval at temperatures <= 1 from its series; NaN where it has none."""
    line, top = series(kind)
    if kind != "at":
        return np.asarray(line(T) ** 2)
    x = np.log(np.maximum(T, _COLDEST))
    return np.where(T == 0, 0.0, np.where(x <= top, line(np.minimum(x, top)) ** 2, np.nan))


def _temperature(kind: str, x: Any) -> Any:
    """The parameter of a line: T, or for the AT line its logarithm."""
    return np.exp(x) if kind == "at" else x


def _crossing(kind: str, A: np.ndarray, lo: float, hi: float) -> np.ndarray:
    """Parameter between lo and hi, where the series is monotone, at which it equals A, or NaN."""
    line = series(kind).A
    rising = line(hi) > line(lo)
    inside = (A > min(line(lo), line(hi))) & (A <= max(line(lo), line(hi)))
    low, high = np.full_like(A, lo), np.full_like(A, hi)
    for _ in range(54):
        middle = (low + high) / 2
        beyond = (line(middle) > A) == rising
        low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
    return np.where(inside, (low + high) / 2, np.nan)


def _at_load(kind: str, A: np.ndarray, lo: float, hi: float) -> Point:
    """Points of given root load on a monotone part; the residual includes that of the load."""
    x = _crossing(kind, A, lo, hi)
    found = ~np.isnan(x)
    T = _temperature(kind, np.where(found, x, lo if kind == "at" else 0.5))
    point = Point(*(np.asarray(v)[: len(A)] for v in _points(kind, padded(T))))
    error = np.maximum(point.residual, np.abs(point.A - A))
    return Point(*(np.where(found, v, np.nan) for v in point._replace(residual=error)))


@float64_scope
def hopfield_line(kind: str, alpha: ArrayLike) -> xr.Dataset:
    r"""A line of the phase diagram: temperature against load.

    Args:
        kind: ``"spinodal"`` (up to which retrieval states exist), ``"transition"`` (equal free
            energies of retrieval and spin glass), ``"spin_glass"`` (:math:`1 + \sqrt\alpha`) or
            ``"at"`` (below it, replica symmetry of the retrieval states is broken).
        alpha: loads >= 0, shape ``(n,)``.

    Returns:
        Dataset over ``alpha`` with ``T``, overlap ``m`` and ``residual``; NaN where the line has
        no point. Spinodal and transition are re-entrant: their lower part is in ``T_lower``,
        ``m_lower``, and the point of largest load in ``attrs["tip_alpha"]``, ``attrs["tip_T"]``.

    Raises:
        DomainError: an unknown kind, or alpha negative, NaN or infinite.
        ShapeError: alpha is not one-dimensional.

    Source: Amit, Gutfreund and Sompolinsky, Ann. Phys. 173, 30 (1987) [amit1987], figure 2; the
        re-entrant parts: derived here.

    Check: ``tests/statmech/test_hopfield_lines.py``
    """
    choice(kind, "kind", KINDS)
    alpha = _grid(alpha, "alpha")
    attrs: dict[str, Any] = {}
    if kind == "spin_glass":
        zero = np.zeros_like(alpha)
        columns = {"T": 1 + np.sqrt(alpha), "m": zero, "residual": zero}
        return _dataset(kind, "alpha", alpha, columns, attrs)
    line, top = series(kind)
    A = np.sqrt(alpha)
    if kind == "at":
        parts = {"": (float(np.log(_COLDEST)), top)}
    else:
        parts = {"": (top, _HOTTEST), "_lower": (0.0, top)}
        attrs = {"tip_alpha": float(line(top)) ** 2, "tip_T": top}
    columns = {}
    for suffix, ends in parts.items():
        point = _at_load(kind, A, *ends)
        columns |= {"T" + suffix: point.T, "m" + suffix: point.m}
        columns["residual" + suffix] = point.residual
    columns["T"][alpha == 0] = 0.0 if kind == "at" else 1.0
    columns["m"][alpha == 0] = 1.0 if kind == "at" else 0.0
    columns["residual"][alpha == 0] = 0.0
    return _dataset(kind, "alpha", alpha, columns, attrs)


@float64_scope
def hopfield_load_line(kind: str, T: ArrayLike) -> xr.Dataset:
    """A line of the phase diagram: load against temperature, which is single-valued.

    Args:
        kind: as for :func:`hopfield_line`.
        T: temperatures >= 0, shape ``(n,)``.

    Returns:
        Dataset over ``T`` with ``alpha``, overlap ``m`` and ``residual``; NaN where the line has
        no point (retrieval: T > 1; spin glass: T < 1; AT: above its end on the spinodal).

    Raises:
        DomainError: an unknown kind, or T negative, NaN or infinite.
        ShapeError: T is not one-dimensional.

    Source: as for :func:`hopfield_line`.

    Check: ``tests/statmech/test_hopfield_lines.py``
    """
    choice(kind, "kind", KINDS)
    T = _grid(T, "T")
    zero = np.where(T <= 1, 0.0, np.nan)
    if kind == "spin_glass":
        zero = np.where(T >= 1, 0.0, np.nan)
        return _dataset(kind, "T", T, {"alpha": (T - 1) ** 2 + zero, "m": zero, "residual": zero})
    point = jax.tree.map(np.array, _points(kind, padded(np.clip(T, _COLDEST, _HOTTEST))))
    point = Point(*(v[: len(T)] for v in point))
    columns = {"alpha": point.A**2, "m": point.m, "residual": point.residual}
    columns = {k: np.where(T < 1, v, zero) for k, v in columns.items()}
    if kind == "at":
        columns["alpha"][T == 0] = 0.0  # every retrieval state at T = 0 is beyond it
    return _dataset(kind, "T", T, columns)


def hopfield_capacity(T: ArrayLike = 0.0) -> Any:
    r"""The largest load with retrieval states: the spinodal at temperature T.

    .. math:: \alpha_c(0) = \max_y \tfrac12 \Big[\frac{\operatorname{erf} y}{y}
              - \frac{2}{\sqrt\pi} e^{-y^2}\Big]^2 = 0.137905566494931737

    It is largest, 0.13818851, at T = 0.02287.

    Args:
        T: temperature >= 0, any shape, default 0. JAX tracers are allowed (derivatives).

    Returns:
        Loads in the shape of T; 0 from T = 1 on.

    Raises:
        DomainError: T negative, NaN or infinite.

    Source: Amit, Gutfreund and Sompolinsky, Phys. Rev. Lett. 55, 1530 (1985) [amit1985].

    Check: ``tests/statmech/test_hopfield_lines.py::test_capacity``
    """
    T = at_least_zero(T, "T")
    if is_traced(T):
        return jnp.where(T < 1, _fold_load(jnp.ravel(jnp.minimum(T, _HOTTEST))).reshape(T.shape), 0)
    values = np.asarray(T, np.float64)
    with jax.enable_x64(True):
        A = np.asarray(_points("spinodal", padded(np.ravel(np.minimum(values, _HOTTEST)))).A)
    return np.where(values < 1, A[: values.size].reshape(values.shape) ** 2, 0.0)[()]


@jax.jit
def _fold_load(T: Any) -> Any:
    return saddle.fold(T).A ** 2


def _grid(values: ArrayLike, name: str) -> np.ndarray:
    values = np.asarray(at_least_zero(values, name), np.float64)
    if values.ndim != 1:
        raise ShapeError(f"{name} must have shape (n,), got {values.shape}.")
    return values


def _dataset(
    kind: str, axis: str, grid: np.ndarray, columns: dict[str, Any], attrs: Any = None
) -> xr.Dataset:
    data = xr.Dataset({k: (axis, v) for k, v in columns.items()}, coords={axis: grid})
    value = "T" if axis == "alpha" else "alpha"
    names = {"alpha": "load", "T": "temperature", "m": "overlap", "residual": "violation"}
    for name in data.variables:
        plain = str(name).removesuffix("_lower")
        data[name].attrs = {"long_name": names[plain], "units": "1"}
    data[value].attrs |= {"line": kind, "long_name": NAMES[kind]}
    data.attrs = {"model": "hopfield", "line": kind, **(attrs or {})}
    return data
