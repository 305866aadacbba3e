r"""Mean-field theory of deep networks: fixed points of variance and correlation, depth scales.

.. math:: q' = \sigma_b^2 + \sigma_w^2 E[\varphi(\sqrt q z)^2], \qquad
   1 - c' = \frac{\sigma_w^2}{q} \bigl(V(q) - K(q, c)\bigr), \qquad
   \chi_1 = \sigma_w^2 E[\varphi'(\sqrt q z)^2]

Nothing is iterated layer by layer. The variance: all sign changes of :math:`q' - q` are bracketed
on a logarithmic grid and polished, so that unstable fixed points and divergence are found too. The
correlation: its map is concave in :math:`\varepsilon = 1 - c` (a power series in c with
coefficients >= 0), so Newton's method from :math:`\varepsilon = 1` falls monotonically onto the
fixed point, also near the edge of chaos, where iteration slows down without bound.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import brentq

from deeplimits import plotting
from deeplimits.precision import float64_scope, require_x64
from deeplimits.validate import number
from ntk.activations import dual as to_dual
from ntk.duals import Dual
from ntk.single_input import averages, check_averages, host_averages

#: Ends and size of the grid of variances on which fixed points are bracketed.
LOW, HIGH, POINTS = 1e-20, 1e8, 1601
#: ``|chi_1 - 1|`` below this counts as critical: rounding of the parameters and of q*.
CRITICAL = 1e-9
#: Largest number of fixed points that are kept.
MOST = 8
#: ``|q' / q - 1|`` below this is 0 up to rounding; and at an extremum of it, where the map touches
#: the diagonal without crossing it.
FLAT, _TOUCH = 4e-15, 1e-11


def grid() -> Any:
    """Variances on which fixed points are bracketed, ``(POINTS,)``."""
    return jnp.asarray(np.geomspace(LOW, HIGH, POINTS))


def destination(growth: Any, start: Any) -> tuple[Any, Any]:
    """Where the variance goes from grid point ``start``.

    Args:
        growth: ``q' / q - 1`` on the grid, ``(POINTS,)``.
        start: index of the first variance.

    Returns:
        Index of the lower end of the bracket, and 0 (a fixed point), 1 (divergence) or -1 (zero).
    """
    index, start = jnp.arange(POINTS - 1), jnp.asarray(start, int)
    up = (growth > FLAT) | ~jnp.isfinite(growth)  # an average that overflows is a rise
    crossing = up[:-1] & ~up[1:]
    above = jnp.min(jnp.where(crossing & (index >= start), index, POINTS))
    below = jnp.max(jnp.where(crossing & (index < start), index, -1))
    rising = up[start]
    kind = jnp.where(rising & (above == POINTS), 1, jnp.where(~rising & (below < 0), -1, 0))
    return jnp.clip(jnp.where(rising, above, below), 0, POINTS - 2), kind


def polish(dual: Dual, W2: Any, b2: Any, low: Any, high: Any, *, steps: int) -> Any:
    """Fixed points of the variance in brackets, by Newton steps in ``ln q`` kept inside; ``(n,)``.

    The first derivative with respect to ``W2``, ``b2`` and ``dual`` is the implicit one.
    """

    def growth(u: Any, dual: Any, W2: Any, b2: Any) -> Any:
        q = jnp.exp(u)
        return (b2 + W2 * averages(dual, q)[0]) / q - 1

    fixed = jax.lax.stop_gradient((dual, W2, b2))

    def value_and_slope(u: Any) -> Any:
        return jax.jvp(lambda t: growth(t, *fixed), (u,), (jnp.ones_like(u),))

    low, high = jnp.log(low), jnp.log(high)
    sign = jnp.where(growth(low, *fixed) > 0, 1.0, -1.0)

    def advance(_: Any, state: Any) -> Any:
        u, low, high = state
        value, slope = value_and_slope(u)
        left = value * sign > 0
        low, high = jnp.where(left, u, low), jnp.where(left, high, u)
        new = u - value / jnp.where(slope == 0, 1.0, slope)
        inside = (new >= low) & (new <= high) & (slope != 0)
        return jnp.where(inside, new, (low + high) / 2), low, high

    u = jax.lax.fori_loop(0, steps, advance, ((low + high) / 2, low, high))[0]
    u = jax.lax.stop_gradient(u)
    slope = value_and_slope(u)[1]
    # the value is 0 here; the step carries its derivative
    return jnp.exp(u - growth(u, dual, W2, b2) / jnp.where(slope == 0, 1.0, slope))


def variance_growth(dual: Dual, W2: Any, b2: Any) -> Any:
    """``q' / q - 1`` on the grid."""
    q = grid()
    return (b2 + W2 * averages(dual, q)[0]) / q - 1


def correlation_gap(dual: Dual, W2: Any, q: Any) -> tuple[Any, Any]:
    r"""Largest fixed point of :math:`\varepsilon = 1 - c`, and the slope of its map; ``(n,)``.

    Args:
        dual: the activation.
        W2: variance of the weights, ``()``.
        q: variances at which the network is, ``(n,)``, > 0.
    """
    value, steepest = averages(dual, q)

    def image(eps: Any) -> tuple[Any, Any]:
        _, Kdot, gap = dual.kernel(q, q, eps)
        return W2 * value / q * gap, W2 * Kdot

    def advance(state: Any) -> Any:
        eps, _, count = state
        value, slope = image(eps)
        new = jnp.clip(eps - (value - eps) / jnp.where(slope < 1, slope - 1, -1.0), 0, 1)
        moved = (eps - new) > 1e-15 * eps
        return jnp.where(moved, new, eps), moved, count + 1

    chaotic = W2 * steepest > 1 + CRITICAL
    start = jnp.where(chaotic, jnp.ones_like(q), 0.0)
    state = (start, jnp.ones_like(chaotic), jnp.array(0))
    eps = jax.lax.while_loop(lambda s: s[1].any() & (s[2] < 200), advance, state)[0]
    return eps, jnp.where(chaotic, image(eps)[1], W2 * steepest)


def chi_1(
    activation: str | Dual | Callable[[Any], Any], W_std: Any, b_std: Any, *, q0: Any = 1.0
) -> jax.Array:
    r"""The susceptibility of the correlation as a differentiable function of the variances.

    .. math:: \chi_1 = \sigma_w^2 E[\varphi'(\sqrt{q^*} z)^2], \qquad
       q^* = \sigma_b^2 + \sigma_w^2 E[\varphi(\sqrt{q^*} z)^2]

    For use inside ``jit``, ``vmap`` and ``grad`` (first derivatives are implicit through q*).

    Args:
        activation: a name, a dual, or an elementwise function (see :func:`ntk.dual`).
        W_std, b_std: standard deviations of weights and biases, scalars, may be traced.
        q0: variance of the first layer, which selects the fixed point; default 1.

    Returns:
        Scalar; its limit for large variances where q* diverges.

    Raises:
        PrecisionError: JAX runs in float32.

    Source:
        Poole et al., arXiv:1606.05340, eqs. (4) and (7). Check:
        ``tests/ntk/test_mean_field.py::test_gradients_against_finite_differences``.
    """
    require_x64("chi_1")
    W, b, q = (jnp.asarray(a, jnp.float64) for a in (W_std, b_std, q0))
    return _chi_1(to_dual(activation), W, b, q)


@jax.jit
def _chi_1(dual: Dual, W: Any, b: Any, q0: Any) -> Any:
    W2, b2 = W * W, b * b
    q = grid()
    index, kind = destination(
        variance_growth(*jax.lax.stop_gradient((dual, W2, b2))), jnp.searchsorted(q, q0)
    )
    inside = polish(dual, W2, b2, q[index][None], q[index + 1][None], steps=30)[0]
    end = jnp.where(kind == 1, HIGH, jnp.where(kind == -1, LOW, inside))
    return W2 * averages(dual, end[None])[1][0]


@dataclasses.dataclass(frozen=True)
class MeanField:
    r"""Fixed points and depth scales of a deep network; see :func:`mean_field`.

    Attributes:
        W_std, b_std: the parameters.
        fixed_points: every fixed point of the variance, increasing, ``(k,)``.
        stability: of each: ``"stable"``, ``"unstable"``, ``"half-stable"`` (the map touches the
            diagonal) or ``"neutral"`` (every variance is a fixed point).
        chi_parallel, chi_perp: slopes of the variance map and of the correlation map at c = 1, at
            each fixed point, ``(k,)``.
        q_star: the one that is reached; infinite if the variance diverges.
        c_star: the correlation that is reached; NaN if the variance diverges.
        chi_1: ``chi_perp`` at ``q_star`` (its limit if that is infinite).
        xi_q, xi_c: numbers of layers over which variance and correlation approach their fixed
            points by a factor e; infinite at criticality.
        xi_grad: layers over which squared gradients shrink by a factor e going backwards; negative
            in the chaotic phase, where they grow; infinite at criticality.
        phase: ``"ordered"``, ``"chaotic"``, ``"critical"`` or ``"divergent"``.
        rel_err: measured relative error of the averages.
    """

    W_std: float
    b_std: float
    fixed_points: np.ndarray
    stability: tuple[str, ...]
    chi_parallel: np.ndarray
    chi_perp: np.ndarray
    q_star: float
    c_star: float
    chi_1: float
    xi_q: float
    xi_c: float
    xi_grad: float
    phase: str
    rel_err: float

    def plot(self, ax: Any = None) -> Any:
        """The fixed points of the variance on a line, stable ones filled."""
        ax = plotting.axes(ax)
        for q, chi, kind in zip(self.fixed_points, self.chi_perp, self.stability, strict=True):
            face = plotting.COLORS[0] if kind in ("stable", "neutral") else "none"
            ax.plot(q, chi, "o", markerfacecolor=face, color=plotting.COLORS[0])
            ax.annotate(f" {kind}", (q, chi), fontsize=8)
        ax.axhline(1.0, color="0.6", linewidth=0.8)
        ax.set(xlabel="fixed point of the variance q", ylabel=r"$\chi_1$", title=self.phase)
        return ax


@float64_scope
def mean_field(
    activation: str | Dual | Callable[[Any], Any], W_std: float, b_std: float, *, q0: float = 1.0
) -> MeanField:
    r"""Fixed points, stability, phase and depth scales of a deep network at initialisation.

    .. math:: \xi_q^{-1} = -\ln |\chi_\parallel|, \qquad
       \xi_c^{-1} = -\ln \sigma_w^2 E[\varphi'(z_1) \varphi'(z_2)]_{c^*}, \qquad
       \xi_\nabla^{-1} = -\ln \chi_1

    Args:
        activation: a name, a dual, or an elementwise function (see :func:`ntk.dual`).
        W_std: standard deviation of the weights times sqrt(fan-in), > 0.
        b_std: standard deviation of the biases, >= 0.
        q0: variance of the first layer, in (1e-20, 1e8), default 1; of several stable fixed points
            it selects the one that is reached, and for every-variance-is-fixed it is kept.

    Returns:
        :class:`MeanField`. Fixed points are looked for between 1e-20 and 1e8, and at 0.

    Raises:
        DomainError: a parameter out of its range.
        ConvergenceError: the averages of a numerical activation miss 1e-9.

    Source:
        Poole et al., arXiv:1606.05340; Schoenholz et al., arXiv:1611.01232, eqs. (9)-(14). Check:
        ``tests/ntk/test_mean_field.py``.
    """
    dual = to_dual(activation)
    W2 = float(number(W_std, "W_std", above=0.0)) ** 2
    b2 = float(number(b_std, "b_std", at_least=0.0)) ** 2
    start = float(number(q0, "q0", above=LOW, below=HIGH))
    points, kinds, q_star = _fixed_points(dual, W2, b2, start)
    size, end = len(points), (q_star if math.isfinite(q_star) else HIGH)
    q = np.append(points, np.full(MOST - size, end))
    a = host_averages(dual, q)
    error = check_averages(dual, q, a)
    chi_parallel, chi_perp = W2 * a.d_value, W2 * a.slope
    kinds = [k or _label(chi) for k, chi in zip(kinds, chi_parallel[:size], strict=True)]
    chi = float(chi_perp[-1])
    c_star = xi_q = xi_c = math.nan
    if math.isfinite(q_star):
        xi_q, c_star, xi_c = _scale(abs(float(chi_parallel[-1]))), 1.0, _scale(chi)
        if chi > 1 + CRITICAL:
            # at zero variance the correlation map is that of small variances
            at = jnp.full((1,), max(q_star, LOW))
            eps, rate = _correlation_gap(dual, jnp.asarray(W2), at)
            c_star, xi_c = 1 - float(eps[0]), _scale(float(rate[0]))
            dual.kernel(at, at, eps)  # warns where a numerical kernel is inaccurate
    return MeanField(
        W_std=float(W_std),
        b_std=float(b_std),
        fixed_points=points,
        stability=tuple(kinds),
        chi_parallel=chi_parallel[:size],
        chi_perp=chi_perp[:size],
        q_star=q_star,
        c_star=c_star,
        chi_1=chi,
        xi_q=xi_q,
        xi_c=xi_c,
        xi_grad=_scale(chi),
        phase=phase_name(chi, q_star),
        rel_err=float(error.max()),
    )


_correlation_gap = jax.jit(correlation_gap)
_polish = jax.jit(functools.partial(polish, steps=60))


def _fixed_points(
    dual: Dual, W2: float, b2: float, q0: float
) -> tuple[np.ndarray, list[str], float]:
    """All fixed points, names for those that are not simply crossed, and the one reached."""
    q = np.asarray(grid())
    growth = np.minimum(
        np.nan_to_num((b2 + W2 * host_averages(dual, q).value) / q - 1, nan=1e9), 1e9
    )
    if np.all(np.abs(growth) < FLAT):
        return np.array([q0]), ["neutral"], q0
    index, kind = destination(jnp.asarray(growth), int(np.searchsorted(q, q0)))
    up = growth > FLAT
    cells = np.flatnonzero(up[1:] != up[:-1])
    # rounding: a crossing needs a rise on one side and a fall on the other
    cells = cells[np.minimum(growth[cells], growth[cells + 1]) < -FLAT][: MOST - 2]
    roots = np.empty(0)
    if cells.size:
        padded = np.resize(cells, MOST)
        roots = np.asarray(
            _polish(dual, W2, b2, jnp.asarray(q[padded]), jnp.asarray(q[padded + 1]))
        )
        roots = roots[: cells.size]
    touching = _touching(dual, W2, b2, q, growth)
    roots = np.array([r for r in roots if not np.any(np.abs(np.log(r / touching)) < 1e-3)])
    points = np.concatenate([roots, touching])
    names = [""] * len(roots) + ["half-stable"] * len(touching)
    if b2 == 0 and host_averages(dual, np.zeros(1)).value[0] < LOW:
        first = growth[np.abs(growth) > FLAT][0]
        points, names = np.append(0.0, points), ["stable" if first < 0 else "unstable", *names]
    order = np.argsort(points)
    middle = math.sqrt(q[index] * q[index + 1])
    near = int(np.argmin(np.abs(np.log(np.maximum(points, LOW) / middle)))) if len(points) else 0
    reached = {0: float(points[near]) if len(points) else 0.0, 1: math.inf, -1: 0.0}[int(kind)]
    between = [t for t in touching if min(q0, reached) <= t <= max(q0, reached)]
    if between:  # what moves towards a point that the map touches does not pass it
        reached = float(min(between, key=lambda t: abs(math.log(t / q0))))
    return points[order], [names[i] for i in order], reached


def _touching(dual: Dual, W2: float, b2: float, q: np.ndarray, growth: np.ndarray) -> np.ndarray:
    """Variances at which the map touches the diagonal: extrema of ``q' / q`` at 1."""

    def tilt(u: float) -> float:
        a = host_averages(dual, np.full(1, math.exp(u)))
        return W2 * float(a.d_value[0]) - (b2 + W2 * float(a.value[0])) / math.exp(u)

    found = []
    bend = np.diff(growth)
    near = np.abs(growth[1:-1]) < 1e-3
    for i in 1 + np.flatnonzero(near & (bend[1:] * bend[:-1] < 0) & (np.abs(bend[1:]) > FLAT)):
        low, high = math.log(q[i - 1]), math.log(q[i + 1])
        if tilt(low) * tilt(high) < 0:
            u = float(brentq(tilt, low, high, xtol=1e-14))
            here = float(host_averages(dual, np.full(1, math.exp(u))).value[0])
            if abs((b2 + W2 * here) / math.exp(u) - 1) < _TOUCH:
                found.append(math.exp(u))
    return np.array(found)


def _label(chi_parallel: float) -> str:
    return "stable" if abs(chi_parallel) < 1 else "unstable"


def _scale(factor: float) -> float:
    """Layers over which ``factor`` per layer becomes 1/e; infinite for 1, 0 for 0."""
    if factor <= 0 or math.isinf(factor):
        return 0.0
    return math.inf if abs(factor - 1) < CRITICAL else -1 / math.log(factor)


def phase_name(chi_1: float, q_star: float) -> str:
    """Ordered, chaotic, critical or divergent."""
    if not math.isfinite(q_star):
        return "divergent"
    if abs(chi_1 - 1) < CRITICAL:
        return "critical"
    return "ordered" if chi_1 < 1 else "chaotic"
