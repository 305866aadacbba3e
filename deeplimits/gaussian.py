r"""Gaussian expectations with error control, and fixed quadrature rules for use inside ``jit``.

Why no Gauss-Hermite: at equal cost the trapezoid rule is more accurate for functions with poles
near the axis (tanh at low temperature: 1e-8 against 4e-4 at 160 nodes and q = 25), its error is
honest under refinement, and its nodes need no eigenvalue solver.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.errors import DomainError
from deeplimits.precision import float64_scope
from deeplimits.refinement import (
    START_WIDTH,
    check_variance,
    elementwise,
    host_arrays,
    refine,
)
from deeplimits.refinement import (
    Expectation as Expectation,
)
from deeplimits.special import (
    bivariate_ndtr as bivariate_ndtr,
)
from deeplimits.special import (
    hermite_functions as hermite_functions,
)
from deeplimits.special import (
    legendre_rule,
)
from deeplimits.special import (
    log_cosh as log_cosh,
)
from deeplimits.special import (
    log_diff_exp as log_diff_exp,
)
from deeplimits.special import (
    log_ndtr as log_ndtr,
)
from deeplimits.special import (
    owens_t as owens_t,
)
from deeplimits.typing import Array, ArrayLike
from deeplimits.validate import integer, number


def trapezoid_rule(n: int, half_width: float = START_WIDTH) -> tuple[np.ndarray, np.ndarray]:
    r"""Nodes and weights of the trapezoid rule for the standard normal measure.

    .. math:: E[f(z)] \approx h\sum_i \phi(z_i) f(z_i), \qquad h = 2L/(n-1)

    For analytic f with its nearest pole at distance d from the real axis the error is about
    :math:`e^{-2\pi d/h}`, and :math:`e^{-2\pi^2/h^2}` for entire f: tanh(u z + v) needs
    :math:`h = \min(0.1\pi, \pi/(13u))` for 1e-14.

    Args:
        n: number of nodes, at least 2. 61 suffice for entire f of order-one scale.
        half_width: L > 0; 9.5 loses a mass of 2e-21.

    Returns:
        NumPy float64 ``(nodes, weights)``, constants inside ``jit``; cast them for float32 work.

    Raises:
        DomainError: ``n < 2`` or ``half_width <= 0``.

    Source: Trefethen & Weideman (2014), SIAM Review 56, section 5.
    Check: tests/deeplimits/test_gaussian.py::test_fixed_rules.
    """
    n = integer(n, "n", at_least=2)
    return _trapezoid(n, number(half_width, "half_width", above=0.0))


def _trapezoid(n: int, half_width: Any) -> tuple[np.ndarray, np.ndarray]:
    nodes = half_width * np.linspace(-1.0, 1.0, n)
    return nodes, _density(nodes) * (2 * half_width / (n - 1))


def panel_rule(
    kinks: ArrayLike = (),
    *,
    panels: int = 6,
    order: int = 20,
    half_width: float = START_WIDTH,
) -> tuple[Array, Array]:
    r"""Composite Gauss-Legendre rule for the standard normal measure, split at kinks.

    The interval [-L, L] is cut at every kink, and each piece into ``panels`` equal panels. Kinks
    outside the interval make panels of width and weight zero, so the number of nodes is fixed.

    Args:
        kinks: shape ``(..., k)`` in units of z (for ``f(mean + s z)`` pass ``(t - mean)/s``);
            may be traced, so the rule can follow a variance inside ``jit``.
        panels: panels per piece, at least 1.
        order: Gauss-Legendre nodes per panel, at least 1.
        half_width: L > 0.

    Returns:
        ``(nodes, weights)`` of shape ``(..., (k + 1) * panels * order)``: JAX arrays in the dtype
        of ``kinks`` if that is a JAX array, NumPy float64 otherwise.

    Raises:
        DomainError: ``panels``, ``order`` or ``half_width`` is not positive.

    Source: standard.
    Check: tests/deeplimits/test_gaussian.py::test_fixed_rules.
    """
    panels = integer(panels, "panels", at_least=1)
    order = integer(order, "order", at_least=1)
    half_width = number(half_width, "half_width", above=0.0)
    if not isinstance(kinks, jax.Array):
        kinks = np.asarray(kinks, np.float64)
    return _panels(kinks, panels, order, half_width)


def _panels(kinks: Any, panels: int, order: int, half_width: Any) -> tuple[Any, Any]:
    xp: Any = jnp if isinstance(kinks, jax.Array) else np
    dtype = kinks.dtype
    end = xp.broadcast_to(xp.asarray(half_width, dtype), (*kinks.shape[:-1], 1))
    inner = xp.sort(xp.minimum(xp.maximum(kinks, -end), end), axis=-1)
    edges = xp.concatenate([-end, inner, end], axis=-1)
    left, width = edges[..., :-1, None], (edges[..., 1:] - edges[..., :-1])[..., None]
    x, w = legendre_rule(order)
    offsets = ((np.arange(panels)[:, None] + x) / panels).ravel()
    weights = np.tile(w / panels, panels)
    nodes = left + width * xp.asarray(offsets, dtype)[(None,) * kinks.ndim]
    weights = width * xp.asarray(weights, dtype)[(None,) * kinks.ndim] * _density(nodes)
    shape = (*kinks.shape[:-1], -1)
    return nodes.reshape(shape), weights.reshape(shape)


def _density(z: Any) -> Any:
    xp: Any = jnp if isinstance(z, jax.Array) else np
    return xp.exp(-(z * z) / 2) / math.sqrt(2 * math.pi)


@float64_scope
def expectation(
    f: Callable[[Any], Any],
    variance: ArrayLike = 1.0,
    mean: ArrayLike = 0.0,
    *,
    kinks: Sequence[float] = (),
    tol: float = 1e-12,
    max_nodes: int = 2**17,
) -> Expectation:
    r"""The Gaussian average of a function of one variable, with error control.

    .. math:: E[f(\mu + \sqrt{q}\,z)], \qquad z \sim N(0, 1)

    Smooth f: trapezoid rule. With ``kinks``: Gauss-Legendre panels that end at the kinks. The
    rule is refined by the golden ratio until two successive values agree to ``tol * E|f|``: with
    doubling, an oscillation that aliases on one grid would alias on the next one as well. The
    interval is widened where f grows so fast that the tails still count.

    Args:
        f: elementwise function of a NumPy array; it may add trailing axes. NumPy or JAX.
        variance: q >= 0, any shape. Default 1.
        mean: any shape that broadcasts against ``variance``. Default 0.
        kinks: arguments of f at which f or a derivative jumps.
        tol: accuracy relative to ``E|f|``, at least 1e-14. Default 1e-12.
        max_nodes: largest number of nodes for one element.

    Returns:
        :class:`Expectation` with fields of the broadcast shape (plus trailing axes of f).

    Raises:
        DomainError: negative variance, NaN input, f not finite, infinite expectation, traced input.
        ShapeError: f does not act elementwise.
        ConvergenceError: ``tol`` is not reached with ``max_nodes`` nodes.

    Source: trapezoid rule: Trefethen & Weideman (2014); error control derived here.
    Check: tests/deeplimits/test_gaussian.py::test_expectation_against_closed_forms.
    """
    q, mu = host_arrays(variance=variance, mean=mean)
    check_variance("variance", q)
    breaks = host_arrays(kinks=kinks)[0].ravel()
    shape, (q, mu) = q.shape, (q.ravel(), mu.ravel())
    std = np.sqrt(q)

    def points(active: np.ndarray, level: int, width: np.ndarray) -> tuple:
        s, m = std[active, None], mu[active, None]
        z, w = _rule_1d(level, width, _standardise(breaks - m, s))
        return (m + s * z,), w, np.abs(z) > 0.95 * width[:, None]

    return refine(f, points, shape, tol, max_nodes, lambda i: f"variance {q[i]:g}")


def _rule_1d(level: int, width: np.ndarray, breaks: np.ndarray) -> tuple[Any, Any]:
    if breaks.shape[-1]:
        return _panels(breaks, math.ceil(2 * 1.618**level), 20, width[:, None])
    return _trapezoid(math.ceil(80 * 1.618**level), width[:, None])


def _standardise(distance: np.ndarray, std: np.ndarray) -> np.ndarray:
    """``distance / std`` in [-1e3, 1e3]; where both are 0 the place of a kink does not matter."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.clip(np.nan_to_num(np.asarray(distance) / std, nan=0.0), -1e3, 1e3)


@float64_scope
def bivariate_expectation(
    f: Callable[[Any, Any], Any],
    q11: ArrayLike,
    q12: ArrayLike,
    q22: ArrayLike,
    *,
    kinks: Sequence[float] = (),
    kinks_y: Sequence[float] | None = None,
    tol: float = 1e-12,
    max_nodes: int = 2**22,
) -> Expectation:
    r"""The Gaussian average of a function of two correlated centred variables.

    .. math:: E[f(x, y)], \qquad x = \sqrt{q_{11}}\,(c_+ u + c_- v),\quad
              y = \sqrt{q_{22}}\,(c_+ u - c_- v),\qquad c_\pm = \sqrt{(1\pm\rho)/2}

    Smooth f: trapezoid rule in the symmetric coordinates u, v, which treats correlations near
    +1 and -1 like any other. With ``kinks``: x outside, y given x inside, both in Gauss-Legendre
    panels that end at the kinks; outer panels also resolve the layer of width
    :math:`\sqrt{1-\rho^2}` where the conditional mean of y crosses a kink. Both reach 1e-12.

    Args:
        f: elementwise function of two arrays of one shape; it may add trailing axes.
        q11, q22: variances >= 0; all three broadcast together.
        q12: covariance, ``|q12| <= sqrt(q11 q22)`` (clipped within 1e-9).
        kinks: f is not smooth across the lines ``x = t`` for t in ``kinks``.
        kinks_y: likewise across ``y = t``. Default: the same as ``kinks``.
        tol, max_nodes: as for :func:`expectation`; nodes are counted in the plane.

    Returns:
        :class:`Expectation`.

    Raises:
        DomainError, ShapeError, ConvergenceError: as for :func:`expectation`; also if the three
            numbers are no covariance matrix.

    Source: symmetric coordinates and error control derived here.
    Check: tests/deeplimits/test_gaussian.py::test_bivariate_smooth, ::test_bivariate_kinks.
    """
    q11, q12, q22 = host_arrays(q11=q11, q12=q12, q22=q22)
    check_variance("q11", q11)
    check_variance("q22", q22)
    scale = np.sqrt(q11) * np.sqrt(q22)
    if np.any(np.abs(q12) > scale * (1 + 1e-9)):
        raise DomainError(
            "q12 must satisfy |q12| <= sqrt(q11 q22); it is larger by "
            f"{np.max(np.abs(q12) - scale):.3g}. The three numbers are no covariance matrix."
        )
    safe = np.where(scale > 0, scale, 1.0)
    minus = np.where(scale > 0, np.clip((scale - q12) / safe, 0, 2), 1.0).ravel()
    plus = np.where(scale > 0, np.clip((scale + q12) / safe, 0, 2), 1.0).ravel()
    breaks = host_arrays(kinks=kinks)[0].ravel()
    breaks_y = breaks if kinks_y is None else host_arrays(kinks_y=kinks_y)[0].ravel()
    shape, s1, s2 = q11.shape, np.sqrt(q11).ravel(), np.sqrt(q22).ravel()

    def points(active: np.ndarray, level: int, width: np.ndarray) -> tuple:
        columns = [a[active, None] for a in (s1, s2, minus, plus)]
        if breaks.size + breaks_y.size:
            return _nested_points(columns, level, width, breaks, breaks_y)
        return _symmetric_points(columns, level, width)

    def where(i: int) -> str:
        return f"variances {s1[i] ** 2:g} and {s2[i] ** 2:g}"

    return refine(f, points, shape, tol, max_nodes, where)


def _symmetric_points(columns: list, level: int, width: np.ndarray) -> tuple:
    s1, s2, minus, plus = (c[..., None] for c in columns)
    z, w = _trapezoid(math.ceil(41 * 1.618**level), width[:, None])
    u, v = np.sqrt(plus / 2) * z[:, :, None], np.sqrt(minus / 2) * z[:, None, :]
    far = np.abs(z) > 0.95 * width[:, None]
    flat = (len(width), -1)
    return (
        ((s1 * (u + v)).reshape(flat), (s2 * (u - v)).reshape(flat)),
        (w[:, :, None] * w[:, None, :]).reshape(flat),
        (far[:, :, None] | far[:, None, :]).reshape(flat),
    )


def _nested_points(
    columns: list, level: int, width: np.ndarray, breaks: np.ndarray, breaks_y: np.ndarray
) -> tuple:
    s1, s2, minus, plus = columns
    rho, sine = (plus - minus) / 2, np.sqrt(minus * plus)
    crossing, layer = _standardise(breaks_y, s2 * rho), _standardise(sine, np.abs(rho))
    around = [crossing + j * layer for j in (-9, -3, 0, 3, 9)]
    panels, end = math.ceil(1.618**level), width[:, None]
    outer = np.concatenate([_standardise(breaks, s1), *around], axis=-1)
    z1, w1 = _panels(outer, panels, 12, end)
    mean = rho * z1
    inner = _standardise(_standardise(breaks_y, s2)[:, None] - mean[..., None], sine[..., None])
    z2, w2 = _panels(inner, 2 * panels, 12, end[..., None])
    z1, w1 = z1[..., None], w1[..., None]
    x, y = np.broadcast_arrays(
        s1[..., None] * z1, s2[..., None] * (mean[..., None] + sine[..., None] * z2)
    )
    far = np.maximum(np.abs(z1), np.abs(z2)) > 0.95 * end[..., None]
    flat = (len(width), -1)
    return (x.reshape(flat), y.reshape(flat)), (w1 * w2).reshape(flat), far.reshape(flat)


@float64_scope
def hermite_coefficients(
    f: Callable[[Any], Any],
    n: int,
    variance: ArrayLike = 1.0,
    *,
    kinks: Sequence[float] = (),
    tol: float = 1e-12,
    max_nodes: int = 2**17,
) -> Expectation:
    r"""Coefficients of a function in normalised Hermite polynomials.

    .. math:: a_k = \frac{E[f(\sqrt q\,z)\,\mathrm{He}_k(z)]}{\sqrt{k!}}, \qquad
              E[f(x) f(y)] = \sum_k a_k(q_{11})\,a_k(q_{22})\,\rho^k

    Args:
        f: elementwise function, without trailing axes.
        n: number of coefficients, ``k = 0 .. n-1``.
        variance: q >= 0, any shape. Default 1.
        kinks: arguments of f at which f or a derivative jumps; without them the coefficients of
            such a function are limited to 1e-5.
        tol, max_nodes: as for :func:`expectation`; ``tol`` is relative to ``E|f He_k|/sqrt(k!)``.

    Returns:
        :class:`Expectation` with fields of shape ``(*variance.shape, n)``.

    Raises:
        DomainError, ShapeError, ConvergenceError: as for :func:`expectation`.

    Source: Mehler's formula; normalisation of DLMF 18.3 divided by sqrt(k!).
    Check: tests/deeplimits/test_gaussian.py::test_hermite_coefficients.
    """
    n = integer(n, "n", at_least=1)
    (q,) = host_arrays(variance=variance)
    check_variance("variance", q)
    breaks = host_arrays(kinks=kinks)[0].ravel()
    shape, std = q.shape, np.sqrt(q).ravel()

    def points(active: np.ndarray, level: int, width: np.ndarray) -> tuple:
        s = std[active, None]
        z, w = _rule_1d(level, width, _standardise(breaks, s))
        return (s * z, z), w, np.abs(z) > 0.95 * width[:, None]

    def product(x: Any, z: Any) -> np.ndarray:
        polynomials = [np.ones_like(z), z]  # at most exp(z^2/4) and |z| < 38: no overflow
        for k in range(1, n - 1):
            polynomials.append((z * polynomials[k] - k**0.5 * polynomials[k - 1]) / (k + 1) ** 0.5)
        return elementwise(f, (x,))[..., None] * np.stack(polynomials[:n], axis=-1)

    return refine(
        product, points, shape, tol, max_nodes, lambda i: f"variance {std[i] ** 2:g}", depth=n
    )
