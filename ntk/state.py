r"""The kernel record that layers hand to each other, and the kernel of raw inputs.

Per unit (channel) of a wide layer with values :math:`h(x)`, the record holds the variances
``cov1 = E[h(x1)^2]`` and ``cov2``, the covariance ``nngp = E[h(x1) h(x2)]``, the gap
``eps = 1 - nngp / sqrt(cov1 cov2)``, the tangent kernel ``ntk`` and the means ``E[h(x)]`` (zero
where the units are Gaussian). The gap is what is propagated: see :mod:`ntk.duals`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from deeplimits.pytrees import register_dataclass
from ntk.coordinates import safe_ratio, safe_sqrt
from ntk.duals import Dual
from ntk.gap import clip_gap

_counter = itertools.count(1)


def new_token() -> int:
    """A number that names one layer's worth of random units during one trace."""
    return next(_counter)


_META = ("is_gaussian", "x1_is_x2", "channels", "tokens", "uid")


@functools.partial(
    register_dataclass,
    data_fields=[
        *("cov1", "cov2", "eps", "nngp", "ntk", "mean1", "mean2"),
        *("source", "activation", "parts"),
    ],
    meta_fields=list(_META),
)
@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """What is known about one layer's units on two sets of inputs.

    ``*pos`` stands for the spatial axes (empty after ``Flatten`` and for vector inputs): all
    entries compare equal positions.

    Attributes:
        cov1: ``(n1, *pos)`` variances (uncentred second moments) at ``x1``.
        cov2: ``(n2, *pos)`` likewise at ``x2``; None when ``x2`` is ``x1``.
        eps: ``(n1, n2, *pos)`` one minus the correlation, in [0, 2]; 1 where a variance is 0.
        nngp: ``(n1, n2, *pos)`` covariance per unit.
        ntk: ``(n1, n2, *pos)`` tangent kernel per unit, or None when not asked for.
        mean1, mean2: ``(n, *pos)`` means of the units (``mean2`` None when ``x2`` is ``x1``).
        source, activation: if the units are ``activation`` of Gaussian units, those and the dual.
        parts: the concatenated blocks after ``FanInConcat``, else an empty tuple.
        is_gaussian: units are independent mean-zero Gaussians given the inputs.
        x1_is_x2: whether the record compares ``x1`` with itself.
        channels: number of units in the finite network.
        tokens: names of the random layers on which one unit depends directly.
        uid: name of the Gaussian units, so that branches that start from the same ones are known.
    """

    cov1: Any
    cov2: Any
    eps: Any
    nngp: Any
    ntk: Any
    mean1: Any
    mean2: Any
    source: Kernel | None = None
    activation: Dual | None = None
    parts: tuple[Kernel, ...] = ()
    is_gaussian: bool = False
    x1_is_x2: bool = True
    channels: int = 1
    tokens: frozenset[int] = frozenset()
    uid: int = 0

    @property
    def q1(self) -> Any:
        """Variances at ``x1``, shaped ``(n1, 1, *pos)``."""
        return jnp.expand_dims(self.cov1, 1)

    @property
    def q2(self) -> Any:
        """Variances at ``x2``, shaped ``(1, n2, *pos)``."""
        return jnp.expand_dims(self.cov1 if self.cov2 is None else self.cov2, 0)

    @property
    def m1(self) -> Any:
        """Means at ``x1``, shaped ``(n1, 1, *pos)``."""
        return jnp.expand_dims(self.mean1, 1)

    @property
    def m2(self) -> Any:
        """Means at ``x2``, shaped ``(1, n2, *pos)``."""
        return jnp.expand_dims(self.mean1 if self.mean2 is None else self.mean2, 0)

    @property
    def spatial(self) -> tuple[int, ...]:
        """Lengths of the spatial axes."""
        return tuple(self.cov1.shape[1:])

    @property
    def dtype(self) -> Any:
        """The dtype in which the kernel is computed."""
        return self.cov1.dtype

    def replace(self, **changes: Any) -> Kernel:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def forget(self) -> Kernel:
        """A copy without the history that only later layers need (source, parts, tokens)."""
        return self.replace(source=None, activation=None, parts=(), tokens=frozenset(), uid=0)


def inverse_or_zero(s: Any) -> Any:
    """``1/s``, and 0 where ``s`` is 0."""
    return safe_ratio(jnp.ones_like(s), s, 0.0)


def squared_distance(k: Kernel) -> Any:
    """``E[(h(x1) - h(x2))^2]`` without cancellation."""
    s1, s2 = safe_sqrt(k.q1), safe_sqrt(k.q2)
    return (s1 - s2) ** 2 + 2 * (s1 * s2) * k.eps


def gap_from_distance(distance: Any, q1: Any, q2: Any) -> Any:
    """``1 - rho`` from the squared distance and the variances; 1 where a variance is 0."""
    s1, s2 = safe_sqrt(q1), safe_sqrt(q2)
    scale = inverse_or_zero(s1) * inverse_or_zero(s2)
    gap = (distance - (s1 - s2) ** 2) * (0.5 * scale)
    return jnp.where(scale > 0, clip_gap(gap), 1)


@jax.custom_jvp
def in_one_pass(eps: Any, ntk: Any, cov: Any) -> tuple[Any, Any]:
    """``(eps, ntk)`` unchanged; on CPUs computed together, once, and stored.

    Why: XLA:CPU compiles two results to two loops, each of which computes their common parts (root
    and polynomials of the arc cosine) again, and again for each later layer. Here the two are the
    parts of one complex array, and a loop that never runs (a variance is not negative) keeps the
    compiler from looking through it.
    """
    if jax.default_backend() != "cpu":
        return eps, ntk
    both = eps if ntk is None else lax.complex(eps, ntk)
    turns = (cov.reshape(-1)[0] < 0).astype(jnp.int32)
    start = (jnp.zeros((), jnp.int32), both)
    both = lax.while_loop(lambda s: s[0] < turns, lambda s: (s[0] + 1, -s[1]), start)[1]
    return (both, None) if ntk is None else (lax.real(both), lax.imag(both))


@in_one_pass.defjvp
def _in_one_pass_jvp(primals: Any, tangents: Any) -> Any:
    return in_one_pass(*primals), tangents[:2]


def pin_diagonal(eps: Any, cov: Any) -> Any:
    """Set the gap of each input with itself to exactly 0 (1 where its variance is 0)."""
    n = eps.shape[0]
    mask = jnp.eye(n, dtype=bool).reshape((n, n) + (1,) * (eps.ndim - 2))
    return jnp.where(mask, jnp.where(jnp.expand_dims(cov, 1) > 0, 0, 1).astype(eps.dtype), eps)


@functools.partial(
    register_dataclass, data_fields=["unit", "cov", "mean"], meta_fields=["channels"]
)
@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Inputs prepared for comparison: unit rows, variances and means over the channel axis.

    Attributes:
        unit: ``(n, *pos, channels)`` rows divided by their norm; zero rows stay zero.
        cov: ``(n, *pos)`` mean square over channels.
        mean: ``(n, *pos)`` mean over channels.
        channels: length of the channel axis.
    """

    unit: Any
    cov: Any
    mean: Any
    channels: int

    @classmethod
    def of(cls, x: Any) -> Rows:
        """Prepare ``x``; each row is scaled by its largest entry first, against overflow.

        The results do not depend on that scale, so no derivative is taken through it.
        """
        largest = lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
        shrunk = x * inverse_or_zero(largest)
        square = jnp.mean(shrunk * shrunk, axis=-1, keepdims=True)
        unit = shrunk * (inverse_or_zero(safe_sqrt(square)) / x.shape[-1] ** 0.5)
        cov = jnp.squeeze(square * largest**2, -1)
        return cls(unit, cov, jnp.mean(x, axis=-1), x.shape[-1])


def input_kernel(rows1: Rows, rows2: Rows | None, *, with_ntk: bool) -> Kernel:
    """Kernel of the inputs themselves: ``x1 . x2 / channels`` at every position.

    Args:
        rows1: prepared ``x1``.
        rows2: prepared ``x2``, or None for ``x1`` with itself.
        with_ntk: whether a tangent kernel will be propagated.
    """
    other = rows1 if rows2 is None else rows2
    eps = _positionwise_gap(rows1.unit, other.unit, rows2 is None)
    if rows2 is None:
        eps = pin_diagonal(eps, rows1.cov)
    k = Kernel(
        cov1=rows1.cov,
        cov2=None if rows2 is None else rows2.cov,
        eps=eps,
        nngp=eps,
        ntk=jnp.zeros_like(eps) if with_ntk else None,
        mean1=rows1.mean,
        mean2=None if rows2 is None else rows2.mean,
        x1_is_x2=rows2 is None,
        channels=rows1.channels,
        tokens=frozenset({new_token()}),
    )
    return k.replace(nngp=covariance(k))


def covariance(k: Kernel) -> Any:
    """``sqrt(cov1 cov2) (1 - eps)``."""
    return safe_sqrt(k.q1) * safe_sqrt(k.q2) * (1 - k.eps)


def _positionwise_gap(u: Any, v: Any, same: bool) -> Any:
    """Gap of unit rows, ``(n1, n2, *pos)``."""
    spatial = u.shape[1:-1]
    if not spatial:
        return unit_gap(u, v, same)
    rows = [jnp.moveaxis(x.reshape(x.shape[0], -1, x.shape[-1]), 1, 0) for x in (u, v)]
    gaps = lax.map(lambda pair: unit_gap(*pair, same), tuple(rows))
    return jnp.moveaxis(gaps, 0, -1).reshape(u.shape[0], v.shape[0], *spatial)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def unit_gap(u: Any, v: Any, same: bool = False) -> Any:
    r"""``1 - u . v`` for unit rows, with full relative accuracy near 0 and 2; 1 for zero rows.

    Why not ``1 - u @ v.T``: its absolute error is that of the dot product (1e-7 in float32), so two
    points at relative distance 1e-4 get an arbitrary angle. Columns with a suspiciously small gap
    are recomputed from the difference, ``|u - v|^2 / 2`` (or ``2 - |u + v|^2 / 2`` near antipodes).
    ``same`` says that ``u`` is ``v``, so that the diagonal is no reason to recompute a column.
    """
    if u.shape[-1] <= 16:
        return lax.map(lambda row: _difference_gap(row, v), u)
    rho = jnp.matmul(u, v.T, precision=lax.Precision.HIGHEST)
    close = 1e-3 if rho.dtype != jnp.float64 else 1e-5
    near = jnp.abs(rho) > 1 - close
    if same:
        near &= ~jnp.eye(len(u), dtype=bool)
    # By columns of the tile: a reduction over the leading axis runs in vector registers.
    suspicious = jnp.any(near, axis=0)

    def recompute_column(state: tuple[Any, Any]) -> tuple[Any, Any]:
        todo, gap = state
        j = jnp.argmax(todo)
        column = _difference_gap(lax.dynamic_index_in_dim(v, j, keepdims=False), u)
        return todo.at[j].set(False), lax.dynamic_update_slice(gap, column[:, None], (0 * j, j))

    return lax.while_loop(
        lambda s: jnp.any(s[0]), recompute_column, (suspicious, jnp.clip(1 - rho, 0, 2))
    )[1]


def _difference_gap(row: Any, v: Any) -> Any:
    """Gap between one unit row and the rows of ``v`` from their differences and sums."""
    apart = jnp.sum((row[None] - v) ** 2, axis=-1) / 2
    along = jnp.sum((row[None] + v) ** 2, axis=-1) / 2
    # |row|^2 + |v|^2: 2 for unit rows, at most 1 if one of them is zero
    zero = apart + along < 1.5
    return jnp.where(zero, 1, jnp.clip(jnp.where(apart <= 1, apart, 2 - along), 0, 2))


@unit_gap.defjvp
def _unit_gap_jvp(same: bool, primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> Any:
    """``d gap = -(u . dv + du . v)``."""
    (u, v), (du, dv) = primals, tangents
    high = lax.Precision.HIGHEST
    change = jnp.matmul(u, dv.T, precision=high) + jnp.matmul(du, v.T, precision=high)
    return unit_gap(u, v, same), -change
