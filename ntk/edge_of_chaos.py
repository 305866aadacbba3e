r"""The line between order and chaos, and what very deep networks do on it and beside it.

.. math:: \sigma_w^2 = 1 / E[\varphi'(\sqrt q z)^2], \qquad
   \sigma_b^2 = q - \sigma_w^2 E[\varphi(\sqrt q z)^2]

parametrise the line by its variance, without any root. On it :math:`\varepsilon = 1 - c` falls as a
power of the depth,

.. math:: \varepsilon' = \varepsilon - k \varepsilon^p, \qquad
   \varepsilon_l \to ((p - 1) k l)^{-1/(p - 1)}, \qquad
   \frac{\Theta_{12}}{\Theta_{11}} \to \frac{p - 1}{2 p - 1},

with :math:`p = 2`, :math:`k = \tfrac12 q \sigma_w^2 E[\varphi''^2]` for a continuous derivative and
:math:`p = 3/2`, :math:`k = \frac{\sqrt2}{3 \pi} \sigma_w^2 \sum_i J_i^2 e^{-t_i^2 / 2q}` for
jumps :math:`J_i` of it at :math:`t_i`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray as xr

from deeplimits import plotting
from deeplimits.errors import DomainError
from deeplimits.gaussian import expectation
from deeplimits.precision import float64_scope
from deeplimits.typing import ArrayLike
from deeplimits.validate import finite
from ntk.activations import dual as to_dual
from ntk.duals import Dual
from ntk.elementwise import X, derivative
from ntk.mean_field import LOW, MeanField, mean_field
from ntk.single_input import check_averages, host_averages, require_slopes

#: Variances on which the line is bracketed when biases are given.
_GRID = np.geomspace(1e-12, 1e6, 1401)
#: Distance from a kink at which one-sided slopes are taken, relative to 1 + |kink|.
_SIDE = 1e-9


@float64_scope
def order_to_chaos(
    activation: str | Dual | Callable[[Any], Any],
    *,
    q: ArrayLike | None = None,
    b_std: ArrayLike | None = None,
) -> xr.Dataset:
    r"""The line on which :math:`\chi_1 = 1`, by its variance or at given bias scales.

    .. math:: \sigma_w^2 = 1 / E[\varphi'^2], \qquad \sigma_b^2 = q - \sigma_w^2 E[\varphi^2]

    Args:
        activation: a name, a dual, or an elementwise function (see :func:`ntk.dual`).
        q: variances > 0 along the line, ``(n,)``; default 121 from 1e-3 to 1e3.
        b_std: instead of ``q``: standard deviations of the biases >= 0, ``(n,)``. Where several
            points of the line have this bias, the one of smallest variance is given.

    Returns:
        ``xarray.Dataset`` over ``q`` (or ``b_std``) with ``W_std``, ``b_std`` (or ``q_star``) and
        ``chi_parallel``, the slope of the variance map: the variance stays there only where it is
        < 1. NaN where the line does not exist.

    Raises:
        DomainError: both ``q`` and ``b_std``, or values out of range.
        UnsupportedLayerError: the activation jumps, so that chi_1 is infinite.

    Source:
        Schoenholz et al., arXiv:1611.01232, section 3; parametrisation derived here. Check:
        ``tests/ntk/test_mean_field.py::test_edge_of_tanh``.
    """
    dual = to_dual(activation)
    require_slopes(dual)
    if q is not None and b_std is not None:
        raise DomainError("give q or b_std, not both: each determines the other on the line.")
    if b_std is None:
        values = _vector(np.geomspace(1e-3, 1e3, 121) if q is None else q, "q", positive=True)
        W, b, chi = _line(dual, values)
        data = {"W_std": ("q", W), "b_std": ("q", b), "chi_parallel": ("q", chi)}
        set_ = xr.Dataset(data, {"q": values})
        set_["q"].attrs = {"long_name": "variance of the units", "units": "1"}
    else:
        values = _vector(b_std, "b_std", positive=False)
        at = _variances_with_bias(dual, values)
        W, _, chi = _line(dual, np.where(np.isfinite(at), at, 1.0))
        columns = {"W_std": W, "q_star": at, "chi_parallel": chi}
        data = {k: ("b_std", np.where(np.isfinite(at), v, np.nan)) for k, v in columns.items()}
        set_ = xr.Dataset(data, {"b_std": values})
        set_["q_star"].attrs = {"long_name": "variance of the units", "units": "1"}
    set_["W_std"].attrs = {"long_name": "standard deviation of weights", "units": "1/sqrt(fan-in)"}
    set_["b_std"].attrs = {"long_name": "standard deviation of biases", "units": "1"}
    set_["chi_parallel"].attrs = {"long_name": "slope of the variance map", "units": "1"}
    return set_


def _vector(values: Any, name: str, *, positive: bool) -> np.ndarray:
    finite(values, name)
    values = np.atleast_1d(np.asarray(values, np.float64))
    if values.ndim != 1 or np.any(values < 0) or (positive and np.any(values == 0)):
        allowed = "> 0" if positive else ">= 0"
        raise DomainError(f"{name} must be numbers {allowed} in one dimension, got {values}.")
    return values


def _line(dual: Dual, q: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``W_std``, ``b_std`` (NaN where its square is negative) and ``chi_parallel`` at ``q``."""
    a = host_averages(dual, q)
    check_averages(dual, q, a)
    b2 = q - a.value / a.slope
    b2 = np.where(np.abs(b2) < 1e-15 * q, 0.0, b2)  # rounding where the activation is homogeneous
    with np.errstate(invalid="ignore"):
        return 1 / np.sqrt(a.slope), np.sqrt(b2), a.d_value / a.slope


def _variances_with_bias(dual: Dual, b_std: np.ndarray) -> np.ndarray:
    """Smallest variance of the line with each bias, NaN where there is none."""

    def excess(q: np.ndarray) -> np.ndarray:
        a = host_averages(dual, q)
        return q - a.value / a.slope  # type: ignore[no-any-return]

    # bisection of all biases at once, in ln q
    table = excess(_GRID)
    at = np.full(b_std.shape, np.nan)
    low, high = np.ones_like(at), np.ones_like(at)
    for i, b in enumerate(b_std):
        sign = table > b * b
        cells = np.flatnonzero(sign[1:] != sign[:-1])
        if b > 0 and cells.size:
            low[i], high[i], at[i] = _GRID[cells[0]], _GRID[cells[0] + 1], 0.0
        elif b == 0 and host_averages(dual, np.zeros(1)).value[0] < LOW:
            low[i] = high[i] = at[i] = 0.0
    rising = excess(high) > b_std**2
    for _ in range(60):
        middle = np.sqrt(low * high)
        same = (excess(middle) > b_std**2) == rising
        high, low = np.where(same, middle, high), np.where(same, low, middle)
    return np.where(np.isnan(at), at, np.sqrt(low * high))


@dataclasses.dataclass(frozen=True)
class DepthLimits:
    r"""What depth does to correlations and kernels; see :func:`depth_limits`.

    Attributes:
        mean_field: the fixed points it is computed at.
        power: ``p`` of the map of :math:`\varepsilon = 1 - c` at criticality (2 for a continuous
            derivative, 3/2 for kinks); NaN off criticality, infinite for a linear activation.
        coefficient: at criticality :math:`\varepsilon_l \to` ``coefficient`` :math:`l^{-1/(p-1)}`.
        ntk_ratio: limit of the NTK between different inputs over its diagonal.
    """

    mean_field: MeanField
    power: float
    coefficient: float
    ntk_ratio: float

    def condition_number(self, n: int) -> float:
        r"""Limit of the condition number of the NTK Gram on ``n`` inputs of equal variance.

        .. math:: \frac{1 + (n - 1) r}{1 - r}, \qquad r = \text{ntk\_ratio}

        At criticality that is (n + 2)/2 for smooth activations and (n + 3)/3 for ReLU; it is
        infinite in the ordered phase and 1 in the chaotic one.
        """
        r = self.ntk_ratio
        return math.inf if r == 1 else (1 + (n - 1) * r) / (1 - r)

    def gap(self, depth: ArrayLike) -> np.ndarray:
        """Leading behaviour of ``1 - c`` after ``depth`` layers (criticality only, else NaN)."""
        depth = np.asarray(depth, np.float64)
        return np.asarray(self.coefficient * depth ** (-1 / (self.power - 1)))

    def plot(self, ax: Any = None) -> Any:
        """``1 - c`` against depth, both logarithmic."""
        ax = plotting.axes(ax)
        depth = np.geomspace(10, 1e4, 50)
        ax.loglog(depth, self.gap(depth))
        ax.set(xlabel="depth", ylabel="1 - correlation")
        return ax


@float64_scope
def depth_limits(
    activation: str | Dual | Callable[[Any], Any], W_std: float, b_std: float, *, q0: float = 1.0
) -> DepthLimits:
    r"""Limits of correlation, NTK and conditioning for depth to infinity.

    .. math:: 1 - c_l \to \frac{2 E[\varphi'^2]}{q^* E[\varphi''^2]} \frac1l
       \quad\text{or}\quad
       \frac{18 \pi^2 E[\varphi'^2]^2}{(\sum_i J_i^2 e^{-t_i^2 / 2 q^*})^2} \frac1{l^2}
       \quad (\text{ReLU: } 9 \pi^2 / 2 l^2)

    Args:
        activation, W_std, b_std, q0: as for :func:`ntk.mean_field.mean_field`.

    Returns:
        :class:`DepthLimits`. Convergence is slow: relative corrections are of order ln(l)/l.

    Raises:
        DomainError: the variance diverges; or the network is critical at variance 0, where the
            correlation has no limit law of its own (see :func:`ntk.critical_init.critical_init`).

    Source:
        Schoenholz et al., arXiv:1611.01232; Hayou, Doucet & Rousseau, arXiv:1902.06853, for ReLU
        and smooth activations; jumps at several points derived here. Check:
        ``tests/ntk/test_mean_field.py::test_depth_limits_against_deep_kernels``.
    """
    dual = to_dual(activation)
    state = mean_field(dual, W_std, b_std, q0=q0)
    if state.phase == "divergent":
        raise DomainError(
            f"the variance diverges at W_std = {W_std:g}, b_std = {b_std:g}, so there is no limit. "
            "Use smaller weights."
        )
    if state.phase != "critical":
        return DepthLimits(state, math.nan, math.nan, 1.0 if state.phase == "ordered" else 0.0)
    q = state.q_star
    if q == 0:
        raise DomainError(
            "the network is critical at variance 0, where the variance itself decays as a power "
            "of the depth. See critical_init."
        )
    jumps = slope_jumps(dual)
    crossings = sum(j * j * math.exp(-t * t / (2 * q)) for t, j in jumps.items())
    C_W = state.W_std**2
    if crossings > 0:
        p, k = 1.5, math.sqrt(2) / (3 * math.pi) * C_W * crossings
    else:
        kinks = tuple(float(t) for t in dual.kinks)
        curvature = expectation(lambda x: np.asarray(_second(dual, x)) ** 2, q, kinks=kinks)
        p, k = 2.0, q * C_W * float(curvature) / 2
    if k == 0:
        return DepthLimits(state, math.inf, math.nan, math.nan)
    return DepthLimits(state, p, ((p - 1) * k) ** (-1 / (p - 1)), (p - 1) / (2 * p - 1))


def _second(dual: Dual, x: Any) -> Any:
    return derivative(dual.fn, (X, X), jnp.asarray(x))


def slope_jumps(dual: Dual) -> dict[float, float]:
    """Jumps of the derivative of the activation, by the place of the kink; none where continuous.

    Args:
        dual: the activation with its declared kinks.
    """
    jumps = {}
    for t in (float(t) for t in dual.kinks):
        step = _SIDE * (1 + abs(t))
        left, right = np.asarray(
            derivative(dual.fn, (X,), jnp.asarray([t - step, t + step], jnp.float64))
        )
        # a continuous derivative changes by its own derivative times the step
        if abs(right - left) > 1e-6 * (1 + abs(left) + abs(right)):
            jumps[t] = float(right - left)
    return jumps
