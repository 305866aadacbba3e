r"""Hermite coefficients of an activation with error bars, and its dual as a power series.

.. math:: \varphi(z) / \sqrt V = \sum_k a_k h_k(z), \quad V = E[\varphi(z)^2], \qquad
   \hat\varphi(\rho) = \sum_k a_k^2 \rho^k, \quad \hat\varphi'(1) = E[\varphi'(z)^2] / V

with a standard normal ``z`` and normalised Hermite polynomials. The series is used for
:math:`|\rho| \le 1/2`, where 64 orders leave less than :math:`2^{-64}`; towards
:math:`\rho = 1` it converges slowly (as :math:`k^{-5/2}` for ReLU), and the closed form of the dual
is used instead.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.errors import DomainError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.special import hermite_functions
from deeplimits.typing import ArrayLike
from deeplimits.validate import finite, integer
from ntk.activations import dual
from ntk.duals import Dual
from ntk.elementwise import slope
from ntk.polynomials import Polynomial

#: Highest order of the series.
ORDER = 64
#: Panels end at the kinks and at multiples of 1/2 up to 18: the rest is below exp(-18^2 / 4) for
#: functions that do not outgrow exp(z^2 / 4).
_HALF_WIDTH, _PANEL, _NODES = 18.0, 0.5, (16, 24)
#: Rounding of a sum, in units of the sum of the absolute terms.
_ROUNDING = 8 * float(np.finfo(np.float64).eps)


@functools.partial(
    register_dataclass,
    data_fields=("dual", "a", "errors", "variance", "slope", "slope_error"),
    meta_fields=("parity",),
)
@dataclass(frozen=True)
class HermiteSeries:
    """Hermite coefficients of an activation normalised to ``E[phi(z)^2] = 1``.

    Attributes:
        dual: the activation's dual (not normalised).
        a: ``(orders,)`` normalised coefficients; those not larger than their error are 0.
        errors: ``(orders,)`` bounds on the error of ``a`` (two rules, and rounding).
        variance: ``V`` by which the activation was divided.
        slope: ``E[phi'(z)^2] / V``; infinite for an activation that jumps.
        slope_error: difference between the dual's value and quadrature.
        parity: ``"odd"``, ``"even"`` or ``"none"``.
    """

    dual: Dual
    a: Any
    errors: Any
    variance: Any
    slope: Any
    slope_error: Any
    parity: str

    @property
    def c(self) -> np.ndarray:
        """Coefficients ``a^2`` of the dual's power series, all >= 0."""
        return np.asarray(self.a) ** 2

    @property
    def c_errors(self) -> np.ndarray:
        """Bounds on the error of ``c``."""
        return np.asarray(2 * np.abs(self.a) + self.errors) * np.asarray(self.errors)

    @property
    def first(self) -> int:
        """The lowest order >= 1 that is present; ``ORDER + 1`` if there is none."""
        present = np.flatnonzero(np.asarray(self.a)[1:])
        return int(present[0]) + 1 if len(present) else ORDER + 1


def as_dual(activation: Any, kinks: Sequence[float] = ()) -> Dual:
    """A dual from a name, a dual, a layer, a function, or the power series of a dual.

    Args:
        activation: what :func:`ntk.dual` takes, an activation layer, or coefficients ``c_k >= 0``
            of :math:`\\hat\\varphi(\\rho) = \\sum_k c_k \\rho^k` (constant first), which stand for
            the activation :math:`\\sum_k \\sqrt{c_k}\\, h_k`.
        kinks: for a function: where it or its first or second derivative jumps.

    Raises:
        DomainError: a negative coefficient, coefficients that are all 0, or as :func:`ntk.dual`.
        ShapeError: coefficients that are no vector.
    """
    if isinstance(activation, list | tuple | np.ndarray | jax.Array):
        return series_dual(activation)
    inner = getattr(activation, "dual", None)
    return dual(inner if isinstance(inner, Dual) else activation, kinks)


def series_dual(c: ArrayLike) -> Polynomial:
    r"""The activation :math:`\sum_k \sqrt{c_k}\, h_k` whose dual is :math:`\sum_k c_k \rho^k`.

    Args:
        c: ``(orders,)`` coefficients >= 0, constant first, at most 101.

    Raises:
        ShapeError: not a vector.
        DomainError: a negative or infinite coefficient, or none that is positive.

    Source: Mehler's formula. Check: tests/ntk/test_koenigs.py::test_series_dual
    """
    c = np.asarray(c, np.float64)
    if c.ndim != 1 or len(c) == 0:
        raise ShapeError(f"the coefficients of a dual must be a vector, got shape {c.shape}.")
    finite(c, "the coefficients of a dual")
    if (c < 0).any():
        k = int(np.argmin(c))
        raise DomainError(
            f"coefficient {k} of the dual is {c[k]:g}. The power series of a dual has coefficients "
            ">= 0 (squares of Hermite coefficients); a function with a negative one is no dual."
        )
    if not c.any():
        raise DomainError("the coefficients of the dual are all 0; at least one must be positive.")
    roots = [math.sqrt(v / math.factorial(k)) for k, v in enumerate(c)]
    powers = np.polynomial.hermite_e.herme2poly(roots)
    return Polynomial(tuple(float(v) for v in powers))


@float64_scope
def hermite_series(
    activation: Any, *, kinks: Sequence[float] = (), order: int = ORDER
) -> HermiteSeries:
    r"""Hermite coefficients :math:`a_k = E[\varphi(z) h_k(z)] / \sqrt V` with error bars.

    Args:
        activation: as for :func:`as_dual`.
        kinks: for a function: where it or its first or second derivative jumps.
        order: highest order, default 64.

    Returns:
        :class:`HermiteSeries`. A coefficient within its error bar of zero is set to 0; that it
        vanishes exactly is certain only where the parity of the activation says so.

    Raises:
        DomainError: an activation that is zero or not finite, ``order < 1``.
        UnsupportedLayerError: a kernel without an activation.

    Source: [radhakrishnan2023], section "Preliminaries"; error bars derived here.
    Check: tests/ntk/test_koenigs.py::test_hermite_coefficients
    """
    order = integer(order, "order", at_least=1)
    found = as_dual(activation, kinks)
    one = jnp.ones(())
    variance = float(found.variance(one))
    if not (math.isfinite(variance) and variance > 0):
        raise DomainError(
            f"the activation must have a finite positive mean square at unit variance, got "
            f"{variance:g}."
        )
    rules, f, df, parity = _samples(found)
    coarse, (fine, absolute, square, slope2) = (
        _moments(rule, f[part], df[part], order) for rule, part in rules
    )
    scale = 1 / math.sqrt(variance)
    errors = (np.abs(fine - coarse[0]) + _ROUNDING * absolute) * scale
    a = np.where(np.abs(fine) * scale > errors, fine * scale, 0.0)
    a[1::2] *= parity != "even"
    a[0::2] *= parity != "odd"
    if abs(square / variance - 1) > 1e-6:
        raise DomainError(
            f"the mean square of the activation is {square:g} by quadrature, but {variance:g} by "
            "its dual. Declare its kinks, or check the formula of its kernel."
        )
    if not found.differentiable:
        return HermiteSeries(found, a, errors, variance, math.inf, 0.0, parity)
    slopes = np.asarray(found.kernel(one, one, jnp.asarray([0.0, 1.0]))[1]) / variance
    b, first = float(slopes[0]), math.copysign(math.sqrt(max(slopes[1], 0.0)), a[1])
    if a[1] != 0 and abs(first - a[1]) <= 4 * errors[1]:
        a[1] = first  # the closed form has fewer roundings than the sum
    if isinstance(activation, list | tuple | np.ndarray | jax.Array):
        given = np.asarray(activation, np.float64) / np.sum(activation)
        a[: len(given)], a[len(given) :] = np.sqrt(given), 0.0
        b = float(given @ np.arange(len(given)))
    slope_error = abs(slope2 / variance - b) + _ROUNDING * b
    return HermiteSeries(found, a, errors, variance, b, slope_error, parity)


def _edges(found: Dual) -> np.ndarray:
    regular = np.arange(-_HALF_WIDTH, _HALF_WIDTH + _PANEL / 2, _PANEL)
    kinks = [float(t) for t in found.kinks if abs(float(t)) < _HALF_WIDTH]
    return np.unique(np.concatenate([regular, kinks]))


def _rule(edges: np.ndarray, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights on all panels."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    half = np.diff(edges)[:, None] / 2
    return ((edges[:-1] + edges[1:])[:, None] / 2 + half * x).ravel(), (half * w).ravel()


def _samples(found: Dual) -> tuple[Any, np.ndarray, np.ndarray, str]:
    """The two rules with their places in the samples of ``f`` and ``f'``, and the parity.

    One evaluation at all points, because each shape would be compiled again.
    """
    grid = np.linspace(1 / 64, 8.0, 512)
    rules = [_rule(_edges(found), nodes) for nodes in _NODES]
    ends = np.cumsum([0, *(len(z) for z, _ in rules)])
    z = np.concatenate([*(z for z, _ in rules), grid, -grid])
    f, df = (np.asarray(v) for v in jax.jit(lambda t: (found.fn(t), slope(found.fn, t)))(z))
    if not np.isfinite(f[: ends[-1]] * np.exp(-(z[: ends[-1]] ** 2) / 2)).all():
        raise DomainError("the activation must be finite within 18 standard deviations.")
    right, left = f[ends[-1] : -len(grid)], f[-len(grid) :]
    slack = _ROUNDING * np.maximum(np.abs(right), np.abs(left)).max()
    parity = "none"
    if np.abs(right + left).max() <= slack:
        parity = "odd"
    elif np.abs(right - left).max() <= slack:
        parity = "even"
    return [(rule, slice(*ends[i : i + 2])) for i, rule in enumerate(rules)], f, df, parity


def _moments(rule: Any, f: np.ndarray, df: np.ndarray, order: int) -> tuple[Any, ...]:
    """``E[f h_k]``, ``E|f h_k|``, ``E[f^2]`` and ``E[f'^2]``."""
    z, weight = rule
    root = np.exp(-z * z / 4) / (2 * math.pi) ** 0.25
    h = np.asarray(hermite_functions(z, order + 1))
    terms = (weight * f * root)[:, None] * h
    squares = (float(np.sum(weight * (v * root) ** 2)) for v in (f, df))
    return (terms.sum(0), np.abs(terms).sum(0), *squares)
