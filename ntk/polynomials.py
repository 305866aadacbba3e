r"""Duals of polynomial activations, for any variances.

A polynomial is expanded in the Hermite polynomials of each input's own variance,
:math:`\varphi(\sqrt q z) = \sum_l r_l(q)\, q^{l/2}\, h_l(z)` with normalised :math:`h_l`, so that

.. math:: K = \sum_l r_l(q_1)\, r_l(q_2)\, q_{12}^l, \qquad
   \dot K = \sum_l l\, r_l(q_1)\, r_l(q_2)\, q_{12}^{l-1}

Why not powers of the correlation: :math:`\rho` is undefined for zero inputs; :math:`q_{12}` is not.
The gap is half the squared distance of the normalised coefficient vectors plus
:math:`\sum_l \hat a_l \hat a_l' (1 - \rho^l)`: sums of squares and of positive powers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.errors import DomainError
from deeplimits.pytrees import register_dataclass
from ntk.coordinates import (
    MAX_DEGREE,
    Coordinates,
    check_degree,
    check_parameters,
    coordinates,
    floating,
    half_power,
    parameter,
    safe_ratio,
    safe_sqrt,
)
from ntk.duals import Dual
from ntk.gap import clip_gap

#: ``r_l(q)`` by order ``l``; absent orders are 0.
Series = dict[int, Any]


def _monomial_series(coefficients: Sequence[Any], q: Any) -> Series:
    """``r_l = sum_i c_{l+2i} (l+2i)! / (2^i i! sqrt(l!)) q^i`` by Horner's rule."""
    series: Series = {}
    for order in range(len(coefficients)):
        total: Any = None
        top = order + 2 * ((len(coefficients) - 1 - order) // 2)
        for power in range(top, order - 1, -2):
            i = (power - order) // 2
            moment = math.factorial(power) / (2**i * math.factorial(i))
            value = parameter(coefficients[power], q)
            value = value * (moment / math.sqrt(math.factorial(order)))
            total = value if total is None else total * q + value
            if isinstance(total, float) and total == 0:
                total = None
        if total is not None:
            series[order] = jnp.zeros_like(q) + total
    return series


def _hermite_series(degree: int, q: Any) -> Series:
    """``r_{d-2i} = sqrt(d!) / (2^i i! sqrt((d-2i)!)) (q - 1)^i``: exact at ``q = 1``."""
    series: Series = {}
    for i in range(degree // 2 + 1):
        order = degree - 2 * i
        ratio = math.sqrt(math.factorial(degree) / math.factorial(order))
        series[order] = ratio / (2**i * math.factorial(i)) * (q - 1) ** i
    return series


def _horner(terms: Series, x: Any) -> Any:
    """``sum_l terms[l] x^l`` over the orders present."""
    orders = sorted(terms, reverse=True)
    if not orders:
        return jnp.zeros_like(x)
    total = terms[orders[0]]
    for above, order in itertools.pairwise(orders):
        total = total * x ** (above - order) + terms[order]
    return total * x ** orders[-1]


def _series_kernel(one: Series, two: Series, q1: Any, q2: Any, c: Coordinates) -> Any:
    products = {order: one[order] * two[order] for order in one}
    q12 = c.s * c.rho
    K = jnp.zeros_like(q12) + _horner(products, q12)
    slopes = {order - 1: order * value for order, value in products.items() if order}
    return K, jnp.zeros_like(q12) + _horner(slopes, q12), _series_gap(one, two, q1, q2, c)


def _series_gap(one: Series, two: Series, q1: Any, q2: Any, c: Coordinates) -> Any:
    root1, root2 = safe_sqrt(_series_variance(one, q1)), safe_sqrt(_series_variance(two, q2))
    gap = jnp.zeros_like(c.s)
    for order, lost in _lost_powers(max(one, default=0), c).items():
        if order in one:
            a1 = safe_ratio(one[order] * half_power(q1, order), root1, 0.0)
            a2 = safe_ratio(two[order] * half_power(q2, order), root2, 0.0)
            gap = gap + (a1 - a2) ** 2 / 2 + a1 * a2 * lost
    return clip_gap(jnp.where((root1 > 0) & (root2 > 0), gap, 1))


def _lost_powers(degree: int, c: Coordinates) -> dict[int, Any]:
    """``1 - rho^l`` for ``l <= degree``, accurate at both ends of the range."""
    lost: dict[int, Any] = {0: jnp.zeros_like(c.rho)}
    power = jnp.ones_like(c.rho)
    for order in range(2, degree + 1, 2):
        lost[order] = lost[order - 2] + c.sine2 * power
        power = power * c.rho * c.rho
    for order in range(1, degree + 1, 2):
        lost[order] = c.eps + c.rho * lost[order - 1]
    return lost


def _series_variance(series: Series, q: Any) -> Any:
    return jnp.zeros_like(q) + _horner({order: r * r for order, r in series.items()}, q)


class _SeriesDual(Dual):
    """Kernel, variance and mean from ``_series``."""

    def _series(self, q: Any) -> Series:
        raise NotImplementedError

    def kernel(self, q1: Any, q2: Any, eps: Any) -> tuple[Any, Any, Any]:
        """``(K, Kdot, eps_out)``; see :meth:`ntk.duals.Dual.kernel`."""
        c = coordinates(q1, q2, eps)
        q1, q2 = floating(q1), floating(q2)
        return _series_kernel(self._series(q1), self._series(q2), q1, q2, c)

    def variance(self, q: Any) -> Any:
        """``sum_l r_l(q)^2 q^l``."""
        q = floating(q)
        return _series_variance(self._series(q), q)

    def mean(self, q: Any) -> Any:
        """``r_0(q)``."""
        q = floating(q)
        return self._series(q).get(0, jnp.zeros_like(q))


@register_dataclass
@dataclass(frozen=True)
class Monomial(_SeriesDual):
    r"""Power ``x^degree``.

    .. math:: K = \sum_{l \equiv m (2)} \frac{(m!)^2}{l!\,[((m-l)/2)!]^2\, 2^{m-l}}
       (q_1 q_2)^{(m-l)/2} q_{12}^l

    Args:
        degree: integer in [0, 100].

    Raises:
        DomainError: ``degree`` not an integer in that range.

    Source:
        Isserlis' theorem. Check: ``tests/ntk/test_polynomials.py``.
    """

    degree: int = field(metadata={"static": True})

    def __post_init__(self) -> None:
        check_degree(self.degree)

    def _series(self, q: Any) -> Series:
        return _monomial_series([0.0] * self.degree + [1.0], q)

    def fn(self, x: Any) -> Any:
        """``x^degree``."""
        return x**self.degree


@register_dataclass
@dataclass(frozen=True)
class Polynomial(_SeriesDual):
    """Polynomial ``sum_i coefficients[i] x^i``; the dual is described at the top of the module.

    Args:
        coefficients: real numbers in ascending powers, at least one, at most 101.

    Raises:
        DomainError: empty, too long, not a sequence, or a coefficient that is not finite and real.

    Source:
        Isserlis' theorem. Check: ``tests/ntk/test_polynomials.py``.
    """

    coefficients: tuple[Any, ...]

    def __post_init__(self) -> None:
        given = self.coefficients
        if isinstance(given, list | np.ndarray | jax.Array) and np.ndim(given) == 1:
            given = tuple(given)
            object.__setattr__(self, "coefficients", given)
        if isinstance(given, str | int | float | np.ndarray | jax.Array):
            raise DomainError(
                f"coefficients must be a sequence of numbers (constant first), got {given!r}."
            )
        if isinstance(given, tuple):
            if not 1 <= len(given) <= MAX_DEGREE + 1:
                raise DomainError(
                    f"coefficients must hold 1 to {MAX_DEGREE + 1} numbers, got {len(given)}."
                )
            check_parameters({}, **{f"coefficients[{i}]": c for i, c in enumerate(given)})

    def _series(self, q: Any) -> Series:
        return _monomial_series(self.coefficients, q)

    def fn(self, x: Any) -> Any:
        """Horner's rule."""
        total = jnp.zeros_like(x)
        for value in reversed(self.coefficients):
            total = total * x + parameter(value, x)
        return total


@register_dataclass
@dataclass(frozen=True)
class Hermite(_SeriesDual):
    r"""Normalised probabilists' Hermite polynomial :math:`He_d(x) / \sqrt{d!}`.

    At unit variances :math:`K = q_{12}^d`; at others lower orders enter with powers of ``q - 1``.

    Args:
        degree: integer in [0, 100].

    Raises:
        DomainError: ``degree`` not an integer in that range.

    Source:
        multiplication theorem of the Hermite polynomials. Check: ``tests/ntk/test_polynomials.py``.
    """

    degree: int = field(metadata={"static": True})

    def __post_init__(self) -> None:
        check_degree(self.degree)

    def _series(self, q: Any) -> Series:
        return _hermite_series(self.degree, q)

    def fn(self, x: Any) -> Any:
        """Three-term recursion of the normalised polynomials."""
        below, value = jnp.zeros_like(x), jnp.ones_like(x)
        for k in range(self.degree):
            step = x * value - math.sqrt(k) * below
            below, value = value, step / math.sqrt(k + 1)
        return value
