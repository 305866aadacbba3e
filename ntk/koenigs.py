r"""One layer as a map of the correlation, and the functions that linearise its iterates.

For an activation with :math:`E[\varphi(z)^2] = 1` each layer maps the correlation of two inputs by
the dual :math:`\hat\varphi(\rho) = \sum_k c_k \rho^k`, that is
:math:`\varepsilon = 1 - \rho` by
:math:`\varepsilon' = 1 - \hat\varphi(1 - \varepsilon)`. If :math:`c_0 = 0`, iterates fall to 0:

.. math:: \psi(\rho) = \lim_L \hat\varphi^{\circ L}(\rho) / a^L, \quad
   \psi(\hat\varphi(\rho)) = a\,\psi(\rho) \quad (a = c_1 > 0), \qquad
   B(\hat\varphi(\rho)) = B(\rho)^m \quad (c_m \text{ first})

(Koenigs and Boettcher functions); if :math:`b = \hat\varphi'(1) < 1` they rise to 1, and
:math:`\psi_1(\varepsilon) = \lim_L \varepsilon_L / b^L`.

Why not the definition: :math:`a^L` underflows, and near-duplicates need many layers in which
:math:`1 - \rho` would be lost. While :math:`|\rho| > 1/2` the state is :math:`\varepsilon`, then
:math:`\ln|\rho|`; the result is a logarithm.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float

from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import Array
from ntk.hermite_series import HermiteSeries

#: Below this gap one layer is its expansion at 0: quadrature duals have a floor near 1e-33.
TINY = 1e-17
#: Most layers in which a pair may stay near +-1: enough for a slope of 1.003 from 1e-300.
MAX_STEPS = 250_000


@functools.partial(
    register_dataclass,
    data_fields=("dual", "variance", "slope", "bends", "c", "schroeder"),
    meta_fields=("first", "parity", "jumps", "decays"),
)
@dataclass(frozen=True)
class DepthMap:
    r"""One normalised layer in the forms that are accurate near :math:`\rho = 1` and near 0.

    Attributes:
        dual: dual of the activation; ``variance`` normalises it.
        slope: ``b``, the slope at correlation 1.
        bends: ``(C, D)`` of :math:`\varepsilon' / \varepsilon = b - C\sqrt\varepsilon
            - D\varepsilon - \dots`; ``C`` comes from kinks of the activation.
        c: power series of the dual, trailing zeros cut.
        schroeder: power series of the Koenigs function, for ``c_0 = 0 < c_1``; else zeros.
        first: lowest order >= 1 with ``c_m > 0``.
        parity: of the activation: ``"odd"``, ``"even"`` or ``"none"``.
        jumps: whether the activation jumps, so that ``b`` is infinite.
        decays: whether ``c_0 = 0``, so that correlations fall to 0 with depth.
    """

    dual: Any
    variance: Any
    slope: Any
    bends: Any
    c: Any
    schroeder: Any
    first: int
    parity: str
    jumps: bool
    decays: bool


def schroeder_coefficients(c: np.ndarray, order: int) -> np.ndarray:
    r"""Power series :math:`\psi(r) = r + p_2 r^2 + \dots` with
    :math:`p_k = \sum_{j<k} p_j [\hat\varphi^j]_k / (a - a^k)`, of positive terms only.

    It converges in the whole unit disc, because :math:`|\hat\varphi(r)| < |r|` there.
    """
    base = np.zeros(order + 1)
    base[: min(len(c), order + 1)] = c[: order + 1]
    a, p = base[1], np.zeros(order + 1)
    p[1], powers = 1.0, [np.zeros(order + 1), base]
    for k in range(2, order + 1):
        p[k] = sum(p[j] * powers[j][k] for j in range(1, k)) / (a - a**k)
        powers.append(np.convolve(powers[-1], base)[: order + 1])
    return p


@float64_scope
def depth_map(series: HermiteSeries) -> DepthMap:
    """The layer of a normalised activation, ready for iteration.

    Args:
        series: from :func:`ntk.hermite_series.hermite_series`.

    Source: derived here. Check: tests/ntk/test_koenigs.py::test_expansion_at_one
    """
    c = series.c
    c = c[: np.flatnonzero(c)[-1] + 1]
    order = len(series.c) - 1
    schroeder = np.zeros(order + 1)
    if series.first == 1 and c[0] == 0 and series.slope > 1:
        schroeder = schroeder_coefficients(c, order)
    jumps = math.isinf(series.slope)
    bends = np.zeros(2) if jumps else _bends(series)
    return DepthMap(
        series.dual,
        np.float64(series.variance),
        np.float64(series.slope),
        bends,
        c,
        schroeder,
        series.first,
        series.parity,
        jumps,
        bool(c[0] == 0),
    )


def _bends(series: HermiteSeries) -> np.ndarray:
    r"""``C`` and ``D`` by interpolation of :math:`\varepsilon'/\varepsilon` in its root."""
    degree, width = 12, 0.25
    s = width * (1 - np.cos(math.pi * (np.arange(degree) + 0.5) / degree)) / 2
    gap = np.asarray(series.dual.kernel(jnp.ones(()), jnp.ones(()), jnp.asarray(s * s))[2])
    table = np.vander(s / width, degree, increasing=True)
    fit = np.linalg.solve(table, (series.slope - gap / (s * s)) / s)
    bends = fit[:2] / width ** np.arange(2)
    bends[np.abs(bends) < 1e-8] = 0.0
    return bends


def layer_gap(m: DepthMap, eps: Any) -> tuple[Any, Any, Any]:
    r"""``(eps', phi_hat'(1 - eps), 1 - phi_hat'(1 - eps) / b)`` of one layer."""
    one = jnp.ones((), eps.dtype)
    _, Kdot, gap = m.dual.kernel(one, one, eps)
    slope = Kdot / m.variance
    if m.jumps:
        return gap, slope, jnp.ones_like(eps)
    root = jnp.sqrt(eps)
    bend = m.bends[0] * root
    gap = jnp.where(eps < TINY, eps * (m.slope - bend), gap)
    slope = jnp.where(eps < TINY, m.slope - 1.5 * bend, slope)
    near = (1.5 * bend + 2 * m.bends[1] * eps) / m.slope
    return gap, slope, jnp.where(eps < 1e-10, near, 1 - slope / m.slope)


def _series(coefficients: Any, r: Any) -> Any:
    """``sum_k coefficients[k] r^k`` by Horner's rule."""
    total = jnp.zeros_like(r)
    for k in reversed(range(coefficients.shape[0])):
        total = total * r + coefficients[k]
    return total


def layer_log(m: DepthMap, log: Any, sign: Any) -> tuple[Any, Any, Any, Any]:
    r"""One layer for small correlations :math:`\rho = \mathrm{sign}\, e^{\log}` and ``c_0 = 0``.

    Returns:
        ``log`` and ``sign`` of :math:`\hat\varphi(\rho)`, then of :math:`\hat\varphi'(\rho)`.
    """
    p = m.first
    r = sign * jnp.exp(log)
    k = np.arange(p, m.c.shape[0]).astype(np.float64)
    leading = jnp.log(m.c[p])
    factor = _series(jnp.concatenate([jnp.zeros(1), (m.c[p:] / m.c[p])[1:]]), r)
    steep = _series(jnp.concatenate([jnp.zeros(1), (k * m.c[p:] / (p * m.c[p]))[1:]]), r)
    return (
        leading + p * log + _log_of_one_plus(factor),
        sign**p * jnp.sign(1 + factor),
        leading + math.log(p) + (p - 1) * log + _log_of_one_plus(steep),
        sign ** (p - 1) * jnp.sign(1 + steep),
    )


def _log_of_one_plus(x: Any) -> Any:
    """``ln|1 + x|``, also for small ``x``."""
    return jnp.where(x > -0.5, jnp.log1p(jnp.maximum(x, -0.5)), jnp.log(jnp.abs(1 + x)))


def fold(m: DepthMap, eps: Any) -> tuple[Any, Any]:
    """Gap of ``|rho|`` and sign, for activations with parity; others are left alone."""
    if m.parity == "none":
        return eps, jnp.ones_like(eps)
    sign = jnp.where(eps > 1, -1.0, 1.0) if m.parity == "odd" else jnp.ones_like(eps)
    return jnp.minimum(eps, 2 - eps), sign


def _descend(m: DepthMap, eps: Any) -> tuple[Any, Any, Any, Any]:
    r"""Layers until :math:`|\rho| \le 1/2`: ``(eps, steps, ln|slope|, sign of the slope)``."""

    def active(eps: Any) -> Any:
        return (jnp.abs(1 - eps) > 0.5) & (eps > 0)

    def body(state: Any) -> Any:
        eps, steps, log, sign, count = state
        new, slope, _ = layer_gap(m, eps)
        on = active(eps)
        log = jnp.where(on, log + jnp.log(jnp.abs(slope)), log)
        sign = jnp.where(on, sign * jnp.sign(slope), sign)
        return jnp.where(on, new, eps), steps + on.astype(eps.dtype), log, sign, count + 1

    def more(state: Any) -> Any:
        return jnp.any(active(state[0])) & (state[4] < MAX_STEPS)

    zero = jnp.zeros_like(eps)
    return lax.while_loop(more, body, (eps, zero, zero, zero + 1, 0))[:4]


@jax.jit
def koenigs(m: DepthMap, eps: Any) -> tuple[Any, Any, Any]:
    r"""Koenigs function at the fixed point 0: :math:`\ln|\psi|`, its sign, :math:`\ln|\psi'|`.

    Args:
        m: with ``c_0 = 0 < c_1 < 1``.
        eps: gaps :math:`1 - \rho` in [0, 2], any shape; 0 gives infinity.

    Source: G. Koenigs, Ann. Sci. ENS 3 (1884); positive series and phases derived here.
    Check: tests/ntk/test_koenigs.py::test_koenigs_against_its_definition
    """
    gap, flip = fold(m, eps)
    gap, steps, slope, _ = _descend(m, gap)
    r = 1 - gap
    state = (jnp.log(jnp.abs(r)), jnp.sign(r), steps, slope)

    def active(log: Any) -> Any:
        return (log > math.log(0.25)) & (gap > 0)

    def body(state: Any) -> Any:
        log, sign, steps, slope = state
        new, turned, steep, _ = layer_log(m, log, sign)
        on = active(log)
        return (
            jnp.where(on, new, log),
            jnp.where(on, turned, sign),
            steps + on.astype(log.dtype),
            jnp.where(on, slope + steep, slope),
        )

    log, sign, steps, slope = lax.while_loop(lambda s: jnp.any(active(s[0])), body, state)
    r = sign * jnp.exp(log)
    shape = _series(m.schroeder[1:], r)
    steep = _series(m.schroeder[1:] * (1.0 + np.arange(m.schroeder.shape[0] - 1)), r)
    decay = steps * jnp.log(m.c[1])
    value = jnp.where(gap > 0, log + jnp.log(jnp.abs(shape)) - decay, jnp.inf)
    derivative = jnp.where(gap > 0, slope + jnp.log(jnp.abs(steep)) - decay, jnp.inf)
    return value, flip * sign * jnp.sign(shape), derivative


@jax.custom_jvp
def log_koenigs(m: DepthMap, eps: Any) -> Any:
    r""":math:`\ln|\psi|`, differentiable in ``eps`` (for :math:`\rho > 0`) but not in ``m``."""
    return koenigs(m, eps)[0]


@log_koenigs.defjvp
def _log_koenigs_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    value, _, derivative = koenigs(*primals)
    return value, -jnp.exp(derivative - value) * tangents[1]


@jax.jit
def boettcher(m: DepthMap, eps: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""Boettcher function at the fixed point 0, :math:`\ln|B| \le 0`, increasing in :math:`|\rho|`.

    .. math:: \ln|\hat\varphi^{\circ L}(\rho)| = m^L \ln|B(\rho)| - \ln c_m / (m - 1) + \dots

    Args:
        m: with ``c_0 = c_1 = 0``.
        eps: gaps in [0, 2], any shape; 0 gives 0.

    Source: L. Boettcher (1904). Check: tests/ntk/test_koenigs.py::test_boettcher
    """
    p = float(m.first)
    gap, _ = fold(m, eps)
    gap, steps, _, _ = _descend(m, gap)
    r = 1 - gap
    log, sign = jnp.log(jnp.abs(r)), jnp.sign(r)
    weight = jnp.exp(-steps * math.log(p))
    total = weight * (log + jnp.log(m.c[m.first]) / (p - 1))

    def body(state: Any) -> Any:
        log, sign, weight, total = state
        new, turned, _, _ = layer_log(m, log, sign)
        extra = jnp.where(jnp.isfinite(log), new - p * log - jnp.log(m.c[m.first]), 0.0)
        return new, turned, weight / p, total + weight / p * extra

    def more(state: Any) -> Any:
        return jnp.any((state[0] > -42.0) & (gap > 0))  # exp(-42) is far below rounding

    def guarded(state: Any) -> Any:
        new = body(state)
        return jax.tree.map(lambda a, b: jnp.where(gap > 0, a, b), new, state)

    total = lax.while_loop(more, guarded, (log, sign, weight, total))[3]
    return jnp.where(gap > 0, total, 0.0)


@jax.jit
def log_koenigs_at_one(m: DepthMap, eps: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""Koenigs function of the gap at the attracting fixed point 0 (ordered phase), its logarithm.

    .. math:: \ln\psi_1(\varepsilon) = \ln\varepsilon
       + \sum_l \ln\frac{\varepsilon_{l+1}}{b\,\varepsilon_l}

    Args:
        m: with ``0 < b < 1``.
        eps: gaps in [0, 2], any shape; 0 gives minus infinity.

    Source: derived here. Check: tests/ntk/test_koenigs.py::test_koenigs_at_one
    """

    def body(state: Any) -> Any:
        eps, total, _ = state
        new = layer_gap(m, eps)[0]
        on = eps > 1e-280  # below, a layer multiplies by b to all digits
        change = jnp.where(on, jnp.log(jnp.where(on, new / (m.slope * eps), 1.0)), 0.0)
        return jnp.where(on, new, 0.0), total + change, change

    def more(state: Any) -> Any:
        return jnp.any(jnp.abs(state[2]) > 1e-15)

    return lax.while_loop(more, body, (eps, jnp.log(eps), jnp.ones_like(eps)))[1]
