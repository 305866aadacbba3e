r"""Phase diagrams of deep networks over the scales of weights and biases.

The variance is solved at every grid point as in :mod:`ntk.mean_field`. The correlation is not: in
:math:`\varepsilon = 1 - c` and with the chord slope :math:`H = (V - K)/(q \varepsilon)`, its fixed
point is :math:`\sigma_w^2 H(q, \varepsilon^*) = 1`, and H depends on two numbers only. It is
tabulated once at Chebyshev nodes of :math:`(\ln q, \sqrt\varepsilon)`, where it is analytic also
for activations with kinks, and decreases in :math:`\varepsilon`, so that bisection is safe. The
table is refined until it agrees with direct solutions at a sample of grid points.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from numpy.polynomial import chebyshev

from deeplimits import plotting
from deeplimits.errors import ConvergenceError, DomainError
from deeplimits.precision import float64_scope
from deeplimits.typing import ArrayLike
from deeplimits.validate import choice, finite, number
from ntk.activations import dual as to_dual
from ntk.duals import Dual
from ntk.mean_field import (
    CRITICAL,
    FLAT,
    HIGH,
    LOW,
    correlation_gap,
    destination,
    grid,
)
from ntk.single_input import averages, require_slopes, sampled_error

PHASES = ("ordered", "chaotic", "critical", "divergent")
#: Largest difference in c* between the table and direct solutions, and the sizes that are tried.
C_TOLERANCE, _SIZES = 1e-9, ((24, 32), (48, 48), (96, 72), (192, 96))
#: Grid points that are solved directly as a check.
_SAMPLE = 16

_ATTRS = {
    "q_star": ("variance that is reached", "1"),
    "chi_parallel": ("slope of the variance map at q_star", "1"),
    "chi_1": ("slope of the correlation map at c = 1", "1"),
    "c_star": ("correlation that is reached", "1"),
    "xi_q": ("depth scale of the variance", "layers"),
    "xi_c": ("depth scale of the correlation", "layers"),
    "xi_grad": ("depth scale of squared gradients (negative: they grow)", "layers"),
    "fixed_points": ("number of fixed points of the variance", "1"),
    "phase": ("phase", "1"),
}


@float64_scope
def phase_diagram(
    activation: str | Dual | Callable[[Any], Any],
    *,
    W_std: ArrayLike,
    b_std: ArrayLike,
    q0: float = 1.0,
) -> xr.Dataset:
    r"""Fixed points, depth scales and phases on a grid of weight and bias scales.

    .. math:: q^*,\; c^*,\; \chi_1 = \sigma_w^2 E[\varphi'(\sqrt{q^*} z)^2],\; \xi_q,\; \xi_c,\;
       \xi_\nabla

    Args:
        activation: a name, a dual, or an elementwise function (see :func:`ntk.dual`).
        W_std: standard deviations of the weights times sqrt(fan-in), increasing, > 0, ``(n,)``.
        b_std: standard deviations of the biases, increasing, >= 0, ``(m,)``.
        q0: variance of the first layer, default 1; selects among stable fixed points.

    Returns:
        ``xarray.Dataset`` over ``(b_std, W_std)`` with ``q_star``, ``chi_parallel``, ``chi_1``,
        ``c_star``, ``xi_q``, ``xi_c``, ``xi_grad``, ``fixed_points`` and ``phase`` (an integer;
        names in ``phase.attrs["flag_meanings"]``). Where the variance diverges ``q_star`` is
        infinite and what has no limit is NaN. ``attrs`` hold the measured errors.

    Raises:
        DomainError: a grid that is not one-dimensional, increasing and in range.
        UnsupportedLayerError: the activation jumps: chi_1 is infinite everywhere.
        ConvergenceError: averages or correlations cannot be computed to 1e-9.

    Source:
        Poole et al., arXiv:1606.05340, figure 1; Schoenholz et al., arXiv:1611.01232, figure 1.
        Check: ``tests/ntk/test_phase_diagram.py``.
    """
    dual = to_dual(activation)
    require_slopes(dual)
    W = _axis(W_std, "W_std", above=0.0)
    b = _axis(b_std, "b_std", at_least=0.0)
    number(q0, "q0", above=LOW, below=HIGH)
    start = int(np.searchsorted(np.asarray(grid()), q0))
    solved = jax.tree.map(np.asarray, _variances(dual, jnp.asarray(W**2), jnp.asarray(b**2), start))
    q_star, chi_parallel, chi, count, neutral = solved
    q_star = np.where(neutral, float(q0), q_star)
    error = sampled_error(dual, q_star[np.isfinite(q_star)])
    W2 = np.broadcast_to(W**2, q_star.shape)
    finite_q = np.isfinite(q_star)
    chaotic = finite_q & (chi > 1 + CRITICAL)
    c_star, rate = np.where(finite_q, 1.0, np.nan), np.where(finite_q, chi, np.nan)
    c_error, table = 0.0, (0, 0)
    if chaotic.any():
        at = _Correlations.solve(dual, W2[chaotic], q_star[chaotic])
        c_star[chaotic], rate[chaotic] = 1 - at.eps, at.rate
        c_error, table = at.error, at.size
    phase = np.select([~finite_q, abs(chi - 1) < CRITICAL, chi > 1], [3, 2, 1], 0).astype(np.int8)
    values = {
        "q_star": q_star,
        "chi_parallel": np.where(finite_q, chi_parallel, np.nan),
        "chi_1": chi,
        "c_star": c_star,
        "xi_q": _scales(np.where(finite_q, np.abs(chi_parallel), np.nan)),
        "xi_c": _scales(rate),
        "xi_grad": _scales(chi),
        "fixed_points": count,
        "phase": phase,
    }
    name = activation if isinstance(activation, str) else getattr(
        activation, "__name__", type(activation).__name__
    )  # fmt: skip
    return _labelled(values, W, b, name, float(q0), float(error), c_error, table)


def _axis(values: Any, name: str, **bounds: float) -> np.ndarray:
    finite(values, name)
    axis = np.atleast_1d(np.asarray(values, np.float64))
    if axis.ndim != 1 or not axis.size or np.any(np.diff(axis) <= 0):
        raise DomainError(f"{name} must increase in one dimension, got shape {axis.shape}.")
    number(float(axis[0]), f"the smallest {name}", **bounds)
    return axis


@jax.jit
def _variances(dual: Dual, W2: Any, b2: Any, start: Any) -> Any:
    """``q_star``, ``chi_parallel``, ``chi_1``, number of fixed points, neutrality: ``(m, n)``."""
    q = grid()
    value, d_value = jax.jvp(lambda t: averages(dual, t)[0], (q,), (jnp.ones_like(q),))
    at_zero = averages(dual, jnp.zeros(1))[0][0] < LOW  # then 0 is a fixed point without biases

    def point(W2: Any, b2: Any) -> Any:
        growth = (b2 + W2 * value) / q - 1
        up = (growth > FLAT) | ~jnp.isfinite(growth)
        crossings = jnp.sum(up[1:] != up[:-1]) + ((b2 == 0) & at_zero).astype(int)
        return (*destination(growth, start), crossings, jnp.all(jnp.abs(growth) < FLAT))

    def row(b2: Any) -> Any:
        return jax.vmap(partial(point, b2=b2))(W2)

    index, kind, count, neutral = jax.lax.map(row, b2)
    all_W2 = jnp.broadcast_to(W2[None], index.shape).ravel()
    all_b2 = jnp.broadcast_to(b2[:, None], index.shape).ravel()
    flat = index.ravel()
    root = _interpolated_root(q, value, d_value, all_W2, all_b2, flat)
    root = _newton(dual, all_W2, all_b2, root, q[flat], q[flat + 1]).reshape(index.shape)
    # at zero and at infinity the slopes are those of very small and very large variances
    inside = jnp.where(kind == 0, root, jnp.where(kind == 1, HIGH, LOW))
    inside = jnp.where(neutral, 1.0, inside)
    (_, slope), (d_value, _) = jax.jvp(
        partial(averages, dual), (inside.ravel(),), (jnp.ones(inside.size),)
    )
    q_star = jnp.where(kind == 0, root, jnp.where(kind == 1, jnp.inf, 0.0))
    shape = index.shape
    return (
        q_star,
        W2[None] * d_value.reshape(shape),
        W2[None] * slope.reshape(shape),
        count,
        neutral,
    )


def _interpolated_root(q: Any, value: Any, d_value: Any, W2: Any, b2: Any, cell: Any) -> Any:
    """Fixed points in cells of the grid from the cubic through values and slopes at both ends.

    The averages are smooth in ln q: with cells of 0.04, the cubic is off by 1e-8, so that one
    Newton step with the true averages is left to do instead of six.
    """
    u, width = jnp.log(q), jnp.log(q[1] / q[0])
    ends = [(value[i], width * q[i] * d_value[i]) for i in (cell, cell + 1)]
    (left, left_slope), (right, right_slope) = ends
    square = 3 * (right - left) - 2 * left_slope - right_slope
    cube = left_slope + right_slope - 2 * (right - left)
    sign = jnp.where((b2 + W2 * left) / q[cell] > 1, 1.0, -1.0)

    def halve(_: Any, bracket: Any) -> Any:
        low, high = bracket
        t = (low + high) / 2
        V = left + t * (left_slope + t * (square + t * cube))
        before = sign * ((b2 + W2 * V) * jnp.exp(-u[cell] - width * t) - 1) > 0
        return jnp.where(before, t, low), jnp.where(before, high, t)

    low, high = jax.lax.fori_loop(0, 30, halve, (jnp.zeros_like(W2), jnp.ones_like(W2)))
    return jnp.exp(u[cell] + width * (low + high) / 2)


def _newton(dual: Dual, W2: Any, b2: Any, q: Any, low: Any, high: Any) -> Any:
    """One Newton step in ln q for the fixed point of the variance, kept between low and high."""
    (value, _), (slope, _) = jax.jvp(partial(averages, dual), (q,), (jnp.ones_like(q),))
    image = (b2 + W2 * value) / q
    tilt = W2 * slope - image
    step = (image - 1) / jnp.where(tilt == 0, 1.0, tilt)
    return jnp.clip(q * jnp.exp(-jnp.where(tilt == 0, 0.0, step)), low, high)


@dataclasses.dataclass(frozen=True)
class _Correlations:
    """Solutions in the chaotic phase: ``eps``, slope of the map there, error, size of the table."""

    eps: np.ndarray
    rate: np.ndarray
    error: float
    size: tuple[int, int]

    @classmethod
    def solve(cls, dual: Dual, W2: np.ndarray, q: np.ndarray) -> _Correlations:
        """Solve ``W2 H(q, eps) = 1`` for flat arrays, refining the table as needed."""
        q = np.maximum(q, LOW)
        error = np.inf
        for size in _SIZES:
            eps, rate = _from_table(dual, W2, q, size)
            # quantiles of eps: the smallest is next to the edge of chaos
            at = np.argsort(eps)[np.linspace(0, q.size - 1, _SAMPLE).astype(int)]
            direct = np.asarray(_direct(dual, jnp.asarray(W2[at]), jnp.asarray(q[at])))
            error = float(np.max(np.abs(eps[at] - direct)))
            if error < C_TOLERANCE:
                dual.kernel(*(jnp.asarray(a[at]) for a in (q, q, eps)))  # warns where inaccurate
                return cls(eps, rate, error, size)
        raise ConvergenceError(
            f"the correlation map could not be tabulated: c* differs by {error:.2g} from direct "
            "solutions. Use a smaller range of W_std, or mean_field point by point."
        )


_direct = jax.jit(lambda dual, W2, q: correlation_gap(dual, W2, q)[0])


@jax.jit
def _chords(dual: Dual, q: Any, eps: Any) -> tuple[Any, Any]:
    """Logarithms of the chord slope ``(V - K) / (q eps)`` and of ``Kdot``."""
    _, Kdot, gap = dual.kernel(q, q, eps)
    return jnp.log(averages(dual, q)[0] * gap / (q * eps)), jnp.log(Kdot)


def _from_table(
    dual: Dual, W2: np.ndarray, q: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """``eps`` and the slope of its map from Chebyshev interpolants of ``size`` nodes."""
    u = np.log(q)
    middle, half = (u.max() + u.min()) / 2, max((u.max() - u.min()) / 2, 1e-3)
    nodes_u, nodes_t = (chebyshev.chebpts1(n) for n in size)
    at_q = np.exp(middle + half * nodes_u)[:, None]
    at_eps = np.broadcast_to(((1 + nodes_t) / 2) ** 2, size)
    tables = _chords(dual, jnp.asarray(at_q), jnp.asarray(at_eps))
    # coefficients (t, u) of each table, then (t, points): only t is left to solve for
    basis = chebyshev.chebvander((u - middle) / half, size[0] - 1)
    chord, slope = ((_coefficients(np.asarray(t)).T @ basis.T) for t in tables)
    low, high, goal = np.zeros_like(q), np.ones_like(q), -np.log(W2)
    for _ in range(54):
        t = (low + high) / 2
        above = chebyshev.chebval(2 * t - 1, chord, tensor=False) > goal
        low, high = np.where(above, t, low), np.where(above, high, t)
    t = (low + high) / 2
    return t**2, W2 * np.exp(chebyshev.chebval(2 * t - 1, slope, tensor=False))


def _coefficients(table: np.ndarray) -> np.ndarray:
    """Chebyshev coefficients of values at the nodes of both axes."""
    for axis in (0, 1):
        n = table.shape[axis]
        transform = chebyshev.chebvander(chebyshev.chebpts1(n), n - 1).T * (2 / n)
        transform[0] /= 2
        table = np.moveaxis(np.tensordot(transform, table, axes=(1, axis)), 0, axis)
    return table


def _scales(factor: np.ndarray) -> np.ndarray:
    """``-1 / ln(factor)``; infinite at 1."""
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = -1 / np.log(factor)
    return np.where(np.abs(factor - 1) < CRITICAL, np.inf, scale)


def _labelled(
    values: dict[str, np.ndarray],
    W: np.ndarray,
    b: np.ndarray,
    name: str,
    q0: float,
    error: float,
    c_error: float,
    table: tuple[int, int],
) -> xr.Dataset:
    data = xr.Dataset({k: (("b_std", "W_std"), v) for k, v in values.items()})
    data = data.assign_coords(W_std=W, b_std=b)
    data["W_std"].attrs = {"long_name": "standard deviation of weights", "units": "1/sqrt(fan-in)"}
    data["b_std"].attrs = {"long_name": "standard deviation of biases", "units": "1"}
    for key, (text, units) in _ATTRS.items():
        data[key].attrs = {"long_name": text, "units": units}
    data["phase"].attrs |= {"flag_values": [0, 1, 2, 3], "flag_meanings": " ".join(PHASES)}
    data.attrs = {
        "activation": name,
        "q0": q0,
        "averages_rel_err": error,
        "c_star_abs_err": c_error,
        "table_size": list(table),
    }
    return data


def plot_phase_diagram(
    dataset: xr.Dataset, *, ax: Any = None, variable: str = "xi_c", **kw: Any
) -> Any:
    """A phase diagram: one variable as colours, the edge of chaos as a line.

    Args:
        dataset: from :func:`phase_diagram`.
        ax: axes to draw on; default a new figure.
        variable: what is coloured; depth scales (``xi_...``) by the logarithm of their modulus,
            cut at 300 layers.
        **kw: passed to ``pcolormesh``.

    Returns:
        The axes.

    Raises:
        DomainError: a variable that the dataset does not have.

    Check: ``tests/ntk/test_phase_diagram.py::test_plot``
    """
    choice(variable, "variable", tuple(str(k) for k in dataset.data_vars))
    ax = plotting.axes(ax)
    values = dataset[variable].values.astype(float)
    label = f"{dataset[variable].attrs['long_name']} ({dataset[variable].attrs['units']})"
    if variable.startswith("xi_"):
        values = np.log10(np.clip(np.abs(values), 0.1, 300))
        label = f"log10 {variable} (layers)"
    W, b = dataset["W_std"].values, dataset["b_std"].values
    mesh = ax.pcolormesh(W, b, np.ma.masked_invalid(values), **{"shading": "nearest", **kw})
    ax.figure.colorbar(mesh, ax=ax, label=label)
    chi = dataset["chi_1"].where(np.isfinite(dataset["q_star"])).values
    if min(chi.shape) > 1 and np.nanmin(chi) < 1 < np.nanmax(chi):
        ax.contour(W, b, chi, levels=[1.0], colors="white", linewidths=1.6)
    ax.grid(False)
    ax.set(xlabel="W_std", ylabel="b_std", title=dataset.attrs["activation"])
    return ax
