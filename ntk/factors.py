r"""Factors of a per-example Jacobian and their contraction to a tangent kernel.

For a weight that acts as :math:`y_{gsc} = \sum_f A_{gsf} W_{gfc}` (``g`` groups, ``s`` positions,
``f`` fan-in, ``c`` units) and cotangents :math:`G_{ogsc} = \partial f_o / \partial y_{gsc}`,

.. math:: J_{o,gfc} = \sum_s A_{gsf} G_{ogsc}, \qquad
   \Theta_{oq} = \sum_{g s t c} (A A'^T)_{gst} \, G_{ogsc} G'_{qgtc}.

Neither the Jacobian nor anything of the size of ``W`` is formed unless that is cheaper.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from deeplimits.pytrees import register_dataclass

# TF32 would halve the digits of a float32 kernel on GPUs
_einsum = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)

#: Bytes that one step of the loop over rows may hold: the cache of a core, more on accelerators.
_STEP_BYTES = {"cpu": 2**20, "other": 2**26}


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Jacobian:
    """``j``: ``(n, outputs, parameters)``."""

    j: Any


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Outer:
    """``(n, groups, positions, fan_in)``; and ``(n, outputs, groups, positions, units)``."""

    a: Any
    g: Any


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Lookup:
    """Rows of a table: ``index`` ``(n, positions)``; ``g`` as in :class:`Outer` with one group."""

    index: Any
    g: Any


def _letters(reduce: str) -> tuple[str, str, str]:
    return {"trace": ("o", "o", ""), "diagonal": ("o", "o", "o"), "full": ("o", "q", "oq")}[reduce]


def settle(factor: Any, reduce: str) -> Any:
    """Multiply an outer factor out into a Jacobian where that is the cheaper order.

    Operations per pair of blocks of ``n`` rows, with ``R = O`` (trace, diagonal) or ``O^2`` (full):
    ``2 n O S F C + n^2 R F C`` against ``n^2 (S^2 F + S^2 O C [+ S O^2 C if full])``.
    """
    if not isinstance(factor, Outer):
        return factor
    n, _, s, f = factor.a.shape
    o, c = factor.g.shape[1], factor.g.shape[-1]
    full = reduce == "full"
    multiplied = 2 * o * s * f * c / n + (o * o if full else o) * f * c
    kept = s * s * (f + o * c) + (s * o * o * c if full else 0)
    if multiplied >= kept:
        return factor
    # this order of the output axes is four times faster on CPUs than (fan_in, units)
    j = _einsum("ngsf,nogsc->nogcf", factor.a, factor.g)
    return Jacobian(j.reshape(n, o, -1))


def contract(left: Any, right: Any, reduce: str) -> Any:
    """``J J'^T`` of one leaf: ``(n1, n2)`` summed over outputs, or ``(n1, n2, O[, O])``."""
    o, q, out = _letters(reduce)
    if isinstance(left, Jacobian):
        return _pairs(left.j, right.j, reduce)
    _, _, groups, positions, _ = left.g.shape
    if groups == positions == 1:
        gram = _position_gram(left, right)
        gram = gram.reshape(gram.shape[:2] + (1,) * len(out))
        return gram * _pairs(left.g[:, :, 0, 0], right.g[:, :, 0, 0], reduce)
    if positions == 1:
        pairs = _einsum(f"n{o}gc,m{q}gc->nmg{out}", left.g[:, :, :, 0], right.g[:, :, :, 0])
        return _einsum(f"nmg,nmg{out}->nm{out}", _position_gram(left, right)[..., 0, 0], pairs)
    return lax.map(
        functools.partial(_row, right, reduce),
        left,
        batch_size=_rows_per_step(left, right, reduce),
    )


def _pairs(left: Any, right: Any, reduce: str) -> Any:
    """``(n, outputs, p)`` with another; the trace is faster as one plain matrix product."""
    if reduce == "trace":
        left, right = (a.reshape(a.shape[0], -1) for a in (left, right))
        return jnp.matmul(left, right.T, precision=lax.Precision.HIGHEST)
    o, q, out = _letters(reduce)
    return _einsum(f"n{o}p,m{q}p->nm{out}", left, right)


def _position_gram(left: Any, right: Any) -> Any:
    """``(n1, n2, groups, positions, positions)``: ``A A'^T``, or which tokens are equal."""
    if isinstance(left, Lookup):
        same = left.index[:, None, None, :, None] == right.index[None, :, None, None, :]
        return same.astype(left.g.dtype)
    return _einsum("ngsf,mgtf->nmgst", left.a, right.a)


def _row(right: Any, reduce: str, left: Any) -> Any:
    """One row of the block: nothing larger than ``n2`` position Grams is held."""
    o, q, out = _letters(reduce)
    gram = _position_gram(jax.tree.map(lambda a: a[None], left), right)[0]
    if reduce == "full":
        weighted = _einsum("mgst,mqgtc->mqgsc", gram, right.g)
        return _einsum("ogsc,mqgsc->moq", left.g, weighted)
    pairs = _einsum(f"{o}gsc,m{q}gtc->mgst{out}", left.g, right.g)
    return _einsum(f"mgst,mgst{out}->m{out}", gram, pairs)


def _rows_per_step(left: Any, right: Any, reduce: str) -> int:
    n2, o, g, s, c = right.g.shape
    held = g * s * (2 * s if reduce == "trace" else s * (1 + o))
    if reduce == "full":
        held = g * s * (s + o * c)
    step = _STEP_BYTES["cpu" if jax.default_backend() == "cpu" else "other"]
    return min(left.g.shape[0], max(1, step // (n2 * held * right.g.dtype.itemsize)))


def nbytes(tree: Any) -> int:
    """Bytes of a pytree of arrays or shapes."""
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(tree))
