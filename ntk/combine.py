r"""Duals of sums, products and compositions of activations of the same Gaussian pre-activation.

They occur when a skip connection joins an activation of the same units, or two activations follow
each other. Piecewise-linear results stay exact; others are averaged numerically, with the kinks of
the parts and the points where an inner activation reaches a kink of the outer one.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import brentq

from deeplimits.errors import DomainError
from deeplimits.validate import is_traced
from ntk.arccosine import ABRelu
from ntk.closed_forms import Linear
from ntk.duals import Dual
from ntk.elementwise import Composition, Product, Sum
from ntk.numerical import NumericalDual
from ntk.piecewise import PiecewiseLinear
from ntk.polynomials import Monomial

#: Kinks of compositions are looked for on [-60, 60]: 9 standard deviations at variance 44.
_REACH, _GRID = 60.0, 4801
#: Preimages of one kink that are looked for when parameters are traced.
_TRACED_ROOTS = 2


def sum_of(duals: Sequence[Dual]) -> Dual:
    """Dual of ``sum_i duals[i].fn(x)``.

    Args:
        duals: at least one; all piecewise linear gives an exact :class:`PiecewiseLinear`.

    Raises:
        DomainError: an empty sequence, or an entry that is no dual.
    """
    duals = _checked(duals)
    if len(duals) == 1:
        return duals[0]
    pieces = [p for d in duals if (p := as_piecewise(d)) is not None]
    if len(pieces) < len(duals):
        return _numerical(Sum(duals), duals, _union(duals))
    jumps: dict[Any, Any] = {}
    for p in pieces:
        for t, a, b in zip(p.knots, p.slopes, p.slopes[1:], strict=False):
            key = t if isinstance(t, int | float) else _Unique(t)
            jumps[key] = jumps.get(key, 0.0) + (b - a)
    keys = list(jumps)
    if all(isinstance(k, int | float) for k in keys):
        keys.sort()
    slopes = itertools.accumulate(
        [jumps[k] for k in keys], initial=sum(p.slopes[0] for p in pieces)
    )
    knots = tuple(k.value if isinstance(k, _Unique) else k for k in keys)
    return PiecewiseLinear(knots, tuple(slopes), sum(p.at_zero for p in pieces))


def product_of(duals: Sequence[Dual]) -> Dual:
    """Dual of ``prod_i duals[i].fn(x)``; ``x^n`` for ``n`` identities.

    Raises:
        DomainError: an empty sequence, or an entry that is no dual.
    """
    duals = _checked(duals)
    if len(duals) == 1:
        return duals[0]
    if all(isinstance(d, Linear) for d in duals):
        return Monomial(len(duals))
    return _numerical(Product(duals), duals, _union(duals))


def compose(outer: Dual, inner: Dual) -> Dual:
    """Dual of ``outer.fn(inner.fn(x))``.

    Where the outer activation has kinks, the points that the inner one maps to them are found by
    bracketing on [-60, 60]; if parameters are traced, up to two per kink (NaN if there are more).

    Raises:
        DomainError: an argument that is no dual.
    """
    _checked((outer, inner))
    if isinstance(outer, Linear):
        return inner
    if isinstance(inner, Linear):
        return outer
    if isinstance(outer, ABRelu) and isinstance(inner, ABRelu):
        return _compose_relu(outer, inner)
    if not _traced(outer) and not _traced(inner):
        first, second = as_piecewise(outer), as_piecewise(inner)
        if first is not None and second is not None:
            return _compose_piecewise(first, second)
    kinks = _distinct([*inner.kinks, *(p for t in outer.kinks for p in _preimages(inner, t))])
    return _numerical(Composition(outer, inner), (outer, inner), kinks)


def as_piecewise(dual: Dual) -> PiecewiseLinear | None:
    """The activation as a :class:`PiecewiseLinear`, or None if it is not one."""
    if isinstance(dual, PiecewiseLinear):
        return dual
    if isinstance(dual, Linear):
        return PiecewiseLinear((), (1.0,))
    if isinstance(dual, ABRelu):
        return PiecewiseLinear((0.0,), (dual.a, dual.b))
    return None


class _Unique:
    """A traced knot as a dictionary key: equal to itself only."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _checked(duals: Any) -> tuple[Dual, ...]:
    duals = tuple(duals)
    if not duals:
        raise DomainError("At least one activation is needed, got an empty sequence.")
    for d in duals:
        if not isinstance(d, Dual):
            raise DomainError(f"Expected duals (see ntk.dual), got {d!r}.")
    return duals


def _traced(dual: Dual) -> bool:
    return any(is_traced(a) for a in jax.tree.leaves(dual))


def _distinct(kinks: Sequence[Any]) -> tuple[Any, ...]:
    numbers = sorted({float(t) for t in kinks if isinstance(t, int | float)})
    merged = [t for i, t in enumerate(numbers) if i == 0 or t - numbers[i - 1] > 1e-12]
    return (*merged, *(t for t in kinks if not isinstance(t, int | float)))


def _union(duals: Sequence[Dual]) -> tuple[Any, ...]:
    return _distinct([t for d in duals for t in d.kinks])


def _numerical(function: Any, duals: Sequence[Dual], kinks: tuple[Any, ...]) -> NumericalDual:
    nodes = max([16, *(d.nodes for d in duals if isinstance(d, NumericalDual))])
    return NumericalDual(function, kinks, nodes, all(d.differentiable for d in duals))


def _compose_relu(outer: ABRelu, inner: ABRelu) -> ABRelu:
    def side(slope: Any, keep: Any, flip: Any) -> Any:
        if isinstance(slope, int | float):
            return slope * (keep if slope > 0 else flip)
        return slope * jnp.where(slope > 0, keep, flip)

    return ABRelu(side(inner.a, outer.a, outer.b), side(inner.b, outer.b, outer.a))


def _compose_piecewise(outer: PiecewiseLinear, inner: PiecewiseLinear) -> PiecewiseLinear:
    """Exact composition for numbers."""
    with jax.ensure_compile_time_eval():
        knots = sorted({*inner.knots, *(p for t in outer.knots for p in _preimages(inner, t))})
        ends = [knots[0] - 1, *knots, knots[-1] + 1] if knots else [-1.0, 1.0]
        middle = jnp.asarray([(a + b) / 2 for a, b in itertools.pairwise(ends)], float)
        slopes = [float(a) for a in outer.slope(inner.fn(middle)) * inner.slope(middle)]
        at_zero = float(outer.fn(inner.fn(jnp.zeros((), middle.dtype))))
        bends = [i for i, (a, b) in enumerate(itertools.pairwise(slopes)) if a != b]
        kept = (slopes[0], *(slopes[i + 1] for i in bends))
        return PiecewiseLinear(tuple(knots[i] for i in bends), kept, at_zero)


def _preimages(inner: Dual, value: Any) -> list[Any]:
    """Points that ``inner`` maps to ``value``."""
    pieces = as_piecewise(inner)
    if pieces is not None and not pieces.knots[1:]:
        return _linear_preimages(pieces, value)
    if _traced(inner) or is_traced(value):
        return _traced_preimages(inner, value)
    with jax.ensure_compile_time_eval():
        x = np.linspace(-_REACH, _REACH, _GRID)
        x = np.union1d(x, [t for t in inner.kinks if abs(t) < _REACH])
        height = np.asarray(inner.fn(jnp.asarray(x)), dtype=float) - float(value)

        def residual(t: float) -> float:
            return float(inner.fn(jnp.asarray(t, float))) - float(value)

        roots = []
        for i in np.flatnonzero(height[:-1] * height[1:] < 0):
            roots.append(float(brentq(residual, x[i], x[i + 1], xtol=1e-15, rtol=1e-14)))
        # an isolated touch counts; a flat stretch at the value has its ends among the inner kinks
        zero = height == 0
        alone = zero & ~np.append(zero[1:], False) & ~np.append(False, zero[:-1])
        return sorted(roots + [float(t) for t in x[alone]])


def _linear_preimages(pieces: PiecewiseLinear, value: Any) -> list[Any]:
    """At most one preimage on each side of a single knot; impossible ones are put on the knot."""
    knot = pieces.knots[0] if pieces.knots else 0.0
    slopes = (pieces.slopes[0], pieces.slopes[-1])
    at_knot = pieces.at_zero + knot * jnp.where(jnp.asarray(knot) > 0, slopes[0], slopes[1])
    roots = []
    for sign, slope in zip((-1, 1), slopes, strict=True):
        steep = jnp.asarray(slope) != 0
        shift = (value - at_knot) / jnp.where(steep, slope, 1)
        roots.append(knot + jnp.where(steep & (sign * shift > 0), shift, 0))
    if any(is_traced(r) for r in roots):
        return roots
    return sorted({float(r) for r in roots} - {float(knot)})


def _traced_preimages(inner: Dual, value: Any) -> list[Any]:
    """Up to ``_TRACED_ROOTS`` preimages by bisection, far away if there are fewer."""
    x = jnp.linspace(-_REACH, _REACH, _GRID)
    height = inner.fn(x) - value
    change = (height[:-1] > 0) != (height[1:] > 0)
    where = jnp.nonzero(change, size=_TRACED_ROOTS, fill_value=-1)[0]
    low, high = x[where], x[where + 1]
    rising = height[where + 1] > 0

    def halve(_: int, ends: Any) -> Any:
        low, high = ends
        middle = (low + high) / 2
        above = (inner.fn(middle) > value) == rising
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    low, high = jax.lax.fori_loop(0, 60, halve, (low, high))
    roots = jnp.where(where >= 0, (low + high) / 2, 10 * _REACH)
    roots = jnp.where(jnp.sum(change) > _TRACED_ROOTS, jnp.nan, roots)
    return [roots[i] for i in range(_TRACED_ROOTS)]
