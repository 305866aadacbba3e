r"""Gaussian averages of one activation at one variance, and the susceptibilities made of them.

For :math:`z \sim N(0, K)` and an activation :math:`\sigma`,

.. math:: \chi_\parallel = \frac{C_W}{2 K^2} \langle \sigma^2 (z^2 - K) \rangle
     = C_W \frac{d\langle\sigma^2\rangle}{dK}, \qquad
   \chi_\perp = C_W \langle \sigma'^2 \rangle, \qquad
   h = \tfrac12 \frac{d\chi_\perp}{dK} = \frac{C_W}{4 K^2} \langle \sigma'^2 (z^2 - K) \rangle .

Why derivatives with respect to :math:`K` and not the weights :math:`z^2 - K`: the weighted averages
cancel for small :math:`K` (relative error :math:`10^{-16} / K`); the derivatives do not. They hold
for activations with kinks too, because the panels of the quadrature move with the kinks.

Three rules: the closed form of the dual where there is one; for smooth functions the trapezoid rule
in :math:`v`, :math:`z = a \sinh v` with :math:`a = \min(1, 2/\sqrt K)`, which resolves the function
at its own scale as well as the Gaussian; with kinks Gauss-Legendre panels that double in length
away from the origin.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.errors import ConvergenceError, DomainError, UnsupportedLayerError
from deeplimits.gaussian import expectation
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import ArrayLike
from deeplimits.validate import finite, integer, number
from ntk.activations import dual as to_dual
from ntk.duals import Dual
from ntk.elementwise import slope
from ntk.elu import Elu
from ntk.numerical import NumericalDual
from ntk.piecewise import PiecewiseLinear
from ntk.quadrature import density, legendre

#: Range in standard deviations, exp(-12^2 / 2) = 5e-32, and nodes of the trapezoid rule: a pole at
#: distance 0.9 in v (tanh) gives exp(-2 pi 0.9 / step) < 1e-60 at K = 1 and 1e-60 at K = 1e6.
HALF_WIDTH, NODES = 12.0, 512
#: Nodes per panel, and the number of panels 1, 2, 4, ... in units of the activation, each side.
_PANEL_NODES, _DOUBLINGS = 16, 16
#: Below these variances averages are taken there: with f(0) != 0 their derivative is a difference.
_TINY, _TINY_OFFSET = 1e-30, 1e-10
#: Variances, and points of the adaptive rule, that are evaluated at once.
_BLOCK, _POINTS = 64, 4096
#: Required agreement of the fixed rules with the adaptive ones, relative to the average.
TOLERANCE = 1e-9


def averages(dual: Dual, K: Any) -> tuple[Any, Any]:
    r""":math:`\langle\sigma^2\rangle` and :math:`\langle\sigma'^2\rangle`, elementwise in ``K``.

    For use inside ``jit``, ``grad`` and ``vmap``; any number of derivatives with respect to ``K``
    and the parameters of ``dual``. The second average is infinite if the activation jumps.

    Args:
        dual: from :func:`ntk.dual`.
        K: float64 variances >= 0, any shape.

    Source:
        Roberts, Yaida & Hanin, arXiv:2106.10165, section 5.1; rules derived here.
        Check: ``tests/ntk/test_mean_field.py::test_averages_against_adaptive_quadrature``.
    """
    if isinstance(dual, NumericalDual | PiecewiseLinear | Elu):
        return _quadrature(dual, K)
    value = dual.variance(K)
    if not dual.differentiable:
        return value, jnp.full_like(value, jnp.inf)
    # at variance 0 the kernel takes the inputs as uncorrelated; here the limit is meant
    K = K + jax.lax.stop_gradient(jnp.maximum(K, _TINY) - K)
    return value, dual.kernel(K, K, jnp.zeros_like(K))[1]


def _quadrature(dual: Dual, K: Any) -> tuple[Any, Any]:
    shape, K = K.shape, K.ravel()
    zero = jnp.zeros((), K.dtype)
    tiny = jnp.where(dual.fn(zero) == 0, _TINY, _TINY_OFFSET)
    s = jnp.sqrt(K + jax.lax.stop_gradient(jnp.maximum(K, tiny) - K))
    if dual.kinks:
        z, w = _panel_nodes(s, [jnp.asarray(t).astype(K.dtype) for t in dual.kinks])
    else:
        z, w = _trapezoid_nodes(jax.lax.stop_gradient(s))
    x = s[None] * z
    f, df = dual.fn(x), slope(dual.fn, x)
    return tuple((w * g * g).sum(0).reshape(shape) for g in (f, df))  # type: ignore[return-value]


def _trapezoid_nodes(s: Any) -> tuple[Any, Any]:
    """Nodes and weights ``(NODES, n)``, symmetric about 0."""
    a = jnp.minimum(2 / s, 1.0)
    end = jnp.arcsinh(HALF_WIDTH / a)
    t = (np.arange(NODES) + 0.5) * (2 / NODES) - 1
    v = jnp.asarray(t, s.dtype)[:, None] * end[None]
    z = a[None] * jnp.sinh(v)
    return z, density(z) * (2 / NODES * a * end)[None] * jnp.cosh(v)


def _panel_nodes(s: Any, kinks: list[Any]) -> tuple[Any, Any]:
    """Nodes and weights of panels that end at kinks, at 2^k / s, and at 0, 3, 6, 9, 12."""
    fixed = [jnp.full_like(s, e) for e in (-12, -9, -6, -3, 0, 3, 6, 9, 12)]
    steps = [jax.lax.stop_gradient(2.0**k / s) for k in range(_DOUBLINGS)]
    moving = [t / s for t in kinks]
    edges = [*fixed, *steps, *[-e for e in steps]]
    # an edge at a kink must move with it: of a tie, sorting would take the derivative of either
    for t in moving:
        edges = [jnp.where(jnp.abs(e - t) < 1e-9 * jnp.abs(t), t, e) for e in edges]
    ends = jnp.sort(jnp.clip(jnp.stack([*edges, *moving]), -HALF_WIDTH, HALF_WIDTH), axis=0)
    x, w = (jnp.asarray(a, s.dtype)[:, None, None] for a in legendre(_PANEL_NODES))
    middle, half = (ends[1:] + ends[:-1])[None] / 2, (ends[1:] - ends[:-1])[None] / 2
    z = (middle + half * x).reshape(-1, s.size)
    return z, (half * w).reshape(-1, s.size) * density(z)


@functools.partial(
    register_dataclass,
    data_fields=["value", "slope", "d_value", "d_slope", "dd_value"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Averages:
    r"""``value`` = :math:`\langle\sigma^2\rangle`, ``slope`` = :math:`\langle\sigma'^2\rangle`,
    their derivatives ``d_value``, ``d_slope`` by K, and the second derivative ``dd_value``.
    """

    value: Any
    slope: Any
    d_value: Any
    d_slope: Any
    dd_value: Any


@jax.jit
def all_averages(dual: Dual, K: Any) -> Averages:
    """:func:`averages` with the derivatives that the susceptibilities need."""

    def first(K: Any) -> Any:
        return jax.jvp(lambda t: averages(dual, t), (K,), (jnp.ones_like(K),))

    ((value, slope_), (d_value, d_slope)), (_, (dd_value, _)) = jax.jvp(
        first, (K,), (jnp.ones_like(K),)
    )
    if not dual.differentiable:
        d_slope = jnp.full_like(value, jnp.nan)
    return Averages(value, slope_, d_value, d_slope, dd_value)


def susceptibilities(dual: Dual, K: Any, W_std: Any = 1.0) -> tuple[Any, Any, Any]:
    r"""``(chi_parallel, chi_perp, h)`` as JAX arrays, differentiable in every argument.

    .. math:: \chi_\parallel = C_W \frac{d\langle\sigma^2\rangle}{dK}, \qquad
       \chi_\perp = C_W \langle\sigma'^2\rangle, \qquad h = \tfrac12 \frac{d\chi_\perp}{dK}

    Args:
        dual: from :func:`ntk.dual`.
        K: float64 variances >= 0, any shape.
        W_std: standard deviation of the weights, default 1, scalar.

    Source:
        arXiv:2106.10165, eqs. (5.50)-(5.52). Check:
        ``tests/ntk/test_mean_field.py::test_gradients_against_finite_differences``.
    """
    a = all_averages(dual, K)
    C_W = W_std * W_std
    return C_W * a.d_value, C_W * a.slope, C_W * a.d_slope / 2


@dataclasses.dataclass(frozen=True)
class SingleInput:
    r"""Averages of one activation at variances ``K`` (all fields have its shape).

    Attributes:
        K: variances.
        value: :math:`\langle\sigma\sigma\rangle`.
        slope: :math:`\langle\sigma'\sigma'\rangle`.
        chi_parallel, chi_perp, h: the susceptibilities.
        d_chi_parallel: :math:`d\chi_\parallel / dK`.
        rel_err: measured relative error of ``value`` and ``slope``; 0 for closed forms.
    """

    K: np.ndarray
    value: np.ndarray
    slope: np.ndarray
    chi_parallel: np.ndarray
    chi_perp: np.ndarray
    h: np.ndarray
    d_chi_parallel: np.ndarray
    rel_err: np.ndarray


@float64_scope
def single_input(
    activation: str | Dual | Callable[[Any], Any], K: ArrayLike, *, W_std: float = 1.0
) -> SingleInput:
    r"""Averages and susceptibilities of one input, with a measured error.

    .. math:: \langle\sigma\sigma\rangle,\; \langle\sigma'\sigma'\rangle,\; \chi_\parallel,\;
       \chi_\perp,\; h

    Args:
        activation: a name, a dual, or an elementwise function (see :func:`ntk.dual`).
        K: variances >= 0, any shape.
        W_std: standard deviation of the weights, > 0, default 1.

    Returns:
        :class:`SingleInput`, NumPy float64.

    Raises:
        DomainError: a negative variance, ``W_std <= 0``, or an average that is not finite.
        UnsupportedLayerError: the activation jumps.
        ConvergenceError: the rule misses the adaptive quadrature by more than 1e-9.

    Source:
        arXiv:2106.10165, section 5.1. Check:
        ``tests/ntk/test_mean_field.py::test_averages_against_adaptive_quadrature``.
    """
    dual = to_dual(activation)
    C_W = float(number(W_std, "W_std", above=0.0)) ** 2
    finite(K, "K")
    host = np.asarray(K, np.float64)
    if np.any(host < 0):
        raise DomainError(f"K is a variance and must be >= 0, got {host.min():g}.")
    require_slopes(dual)
    a = host_averages(dual, host.ravel())
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(a)):
        raise DomainError(
            f"the averages of the activation are not finite at variances up to {host.max():g}. "
            "Use a smaller K."
        )
    error = check_averages(dual, host.ravel(), a)
    fields = (a.value, a.slope, C_W * a.d_value, C_W * a.slope, C_W * a.d_slope / 2)
    shaped = [f.reshape(host.shape) for f in (*fields, C_W * a.dd_value, error)]
    return SingleInput(host, *shaped)


@dataclasses.dataclass(frozen=True)
class NearbyInputs:
    """Kernel of two nearby inputs by layer, ``(layers + 1,)`` each; see :func:`nearby_inputs`."""

    K0: np.ndarray
    K1: np.ndarray
    K2: np.ndarray


@float64_scope
def nearby_inputs(
    activation: str | Dual | Callable[[Any], Any],
    W_std: float,
    b_std: float,
    *,
    K0: float,
    K1: float,
    K2: float,
    layers: int,
) -> NearbyInputs:
    r"""Kernel of two inputs :math:`x_0 \pm \delta x / 2`, to second order in their distance.

    With :math:`K_{\pm\pm} = K_0 \pm K_1 + K_2` and :math:`K_{+-} = K_0 - K_2`,

    .. math:: K_0' = C_b + C_W \langle\sigma\sigma\rangle_{K_0}, \qquad
       K_1' = \chi_\parallel K_1, \qquad K_2' = \chi_\perp K_2 + h K_1^2

    Args:
        activation: a name, a dual, or an elementwise function (see :func:`ntk.dual`).
        W_std, b_std: standard deviations of weights (> 0) and biases (>= 0).
        K0: kernel of the midpoint in the first layer, > 0.
        K1: half the difference of the two variances there.
        K2: a quarter of the mean squared difference of the two preactivations there, >= 0.
        layers: number of layers to go through, >= 1.

    Returns:
        :class:`NearbyInputs`, the first layer included.

    Raises:
        DomainError: an argument out of its range.
        UnsupportedLayerError: the activation jumps.

    Source:
        arXiv:2106.10165, section 5.1. Check:
        ``tests/ntk/test_mean_field.py::test_nearby_inputs_against_the_kernel_of_two_inputs``.
    """
    dual = to_dual(activation)
    require_slopes(dual)
    C_W = float(number(W_std, "W_std", above=0.0)) ** 2
    C_b = float(number(b_std, "b_std", at_least=0.0)) ** 2
    bounds: Any = {"K0": {"above": 0.0}, "K1": {}, "K2": {"at_least": 0.0}}
    values = {"K0": K0, "K1": K1, "K2": K2}
    start = [float(number(v, name, **bounds[name])) for name, v in values.items()]
    count = integer(layers, "layers", at_least=1)
    path = _nearby(dual, C_W, C_b, jnp.asarray(start)[:, None], count)
    return NearbyInputs(*np.concatenate([np.asarray(start)[:, None], np.asarray(path).T], axis=1))


def _nearby(dual: Dual, C_W: float, C_b: float, start: Any, length: int) -> Any:
    def layer(state: Any, _: None) -> tuple[Any, Any]:
        K0, K1, K2 = state
        (value, slope_), (d_value, d_slope) = jax.jvp(
            functools.partial(averages, dual), (K0,), (jnp.ones_like(K0),)
        )
        new = (C_b + C_W * value, C_W * d_value * K1, C_W * (slope_ * K2 + d_slope / 2 * K1**2))
        return jnp.stack(new), jnp.stack(new)[:, 0]

    return jax.lax.scan(layer, start, None, length=length)[1]


def require_slopes(dual: Dual) -> None:
    """Refuse activations that jump.

    Raises:
        UnsupportedLayerError: the average of the squared derivative is infinite.
    """
    if not dual.differentiable:
        raise UnsupportedLayerError(
            f"{type(dual).__name__} jumps, so <s's'> and chi_perp are infinite at every variance: "
            "all networks with it are chaotic. Use a smooth version such as Erf(b=...)."
        )


def host_averages(dual: Dual, K: ArrayLike) -> Averages:
    """:func:`all_averages` of a flat NumPy array, in blocks of one size, compiled once."""
    K = np.asarray(K, np.float64)
    parts = []
    for i in range(0, K.size, _BLOCK):
        block = np.resize(K[i : i + _BLOCK], _BLOCK)
        parts.append(jax.tree.map(np.asarray, all_averages(dual, jnp.asarray(block))))
    merged = jax.tree.map(lambda *leaves: np.concatenate(leaves)[: K.size], *parts)
    return merged  # type: ignore[no-any-return]


@jax.jit
def _squares(dual: Dual, x: Any) -> Any:
    return jnp.stack([dual.fn(x) ** 2, slope(dual.fn, x) ** 2], axis=-1)


def check_averages(dual: Dual, K: np.ndarray, a: Averages, tol: float = TOLERANCE) -> np.ndarray:
    """Measured relative error of the averages: 0 for closed forms, else against adaptive rules.

    Args:
        dual: the activation.
        K: variances, flat.
        a: its averages there.
        tol: largest error that is accepted.

    Raises:
        ConvergenceError: the error exceeds ``tol``, or the adaptive rule does not settle.
    """
    if not isinstance(dual, NumericalDual):
        return np.zeros_like(K)

    def squares(x: np.ndarray) -> np.ndarray:
        # in blocks of one size, so that it is compiled once for all refinements
        flat = np.resize(x, -(-x.size // _POINTS) * _POINTS).reshape(-1, _POINTS)
        values = [np.asarray(_squares(dual, jnp.asarray(row))) for row in flat]
        return np.concatenate(values)[: x.size].reshape(*x.shape, 2)

    kinks = tuple(float(t) for t in dual.kinks)
    tiny = _TINY if float(_squares(dual, jnp.zeros(_POINTS))[0, 0]) == 0 else _TINY_OFFSET
    exact = expectation(squares, np.maximum(K, tiny), kinks=kinks).value
    found = np.stack([a.value, a.slope], axis=-1)
    error = np.max(np.abs(found - exact) / np.maximum(exact, _TINY), axis=-1)
    if not np.all(error <= tol):
        worst = int(np.argmax(error))
        raise ConvergenceError(
            f"the averages of the activation have a relative error of {error[worst]:.2g} at K = "
            f"{K[worst]:g}, above {tol:g}. Declare its kinks with ntk.dual(fn, kinks=...), or use "
            "a smaller variance."
        )
    return error  # type: ignore[no-any-return]


def sampled_error(dual: Dual, K: np.ndarray, n: int = 32) -> float:
    """Largest :func:`check_averages` over ``n`` quantiles of the variances ``K`` (0 if none)."""
    if not K.size or not isinstance(dual, NumericalDual):
        return 0.0
    at = np.quantile(K, np.linspace(0, 1, n))
    return float(check_averages(dual, at, host_averages(dual, at)).max())
