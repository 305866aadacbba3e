r"""Equations that multiply a weight: matrix products, convolutions, table lookups.

Each is brought to :math:`y_{gsc} = \sum_f A_{gsf} W_{gfc}` (see :mod:`ntk.factors`): the operand
that is not the weight becomes ``A``, the cotangent of the output becomes ``G``. The layout of the
weight itself never matters, because relabelling its entries leaves :math:`J J^T` unchanged.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax.numpy as jnp
from jax import lax

from ntk.factors import Lookup, Outer


def is_product(eqn: Any, operand: int) -> bool:
    """Whether ``operand`` of the equation acts as the weight ``W`` above."""
    p = eqn.params
    if eqn.primitive.name == "conv_general_dilated":
        return operand == 1 and p["batch_group_count"] == 1
    if eqn.primitive.name == "gather":
        table, dims = eqn.invars[0].aval, p["dimension_numbers"]
        rows = tuple(p["slice_sizes"]) == (1, *table.shape[1:])
        axes = tuple(dims.collapsed_slice_dims) == tuple(dims.start_index_map) == (0,)
        out = eqn.outvars[0].aval.ndim
        last = tuple(dims.offset_dims) == tuple(range(out - table.ndim + 1, out))
        return operand == 0 and rows and axes and last and not dims.operand_batching_dims
    return bool(eqn.primitive.name == "dot_general")


def takes_bias(eqn: Any, operand: int, bias: tuple[int, ...]) -> bool:
    """Whether adding an array of shape ``bias`` to the output is one more row of the weight.

    It is, if the array varies along all axes that come from the units and along no other.
    """
    p, out = eqn.params, eqn.outvars[0].aval.shape
    if eqn.primitive.name == "gather" or p.get("feature_group_count", 1) != 1:
        return False
    if eqn.primitive.name == "conv_general_dilated":
        units = [p["dimension_numbers"].out_spec[1]]
    else:
        contracting, batch = p["dimension_numbers"]
        if batch[0]:
            return False
        count = len(eqn.invars[operand].aval.shape) - len(contracting[operand])
        units = list(range(count) if operand == 0 else range(len(out) - count, len(out)))
    return bias == tuple(size if d in units else 1 for d, size in enumerate(out))


def as_factor(eqn: Any, operand: int, other: Any, g: Any) -> Any:
    """``A`` and ``G`` of one example from the other operand and ``g``, ``(outputs, *y)``."""
    if eqn.primitive.name == "gather":
        return _lookup(eqn, other, g)
    build = _dot if eqn.primitive.name == "dot_general" else _conv
    a, g = build(eqn, operand, other, g)
    return Outer(a.astype(g.dtype), g)


def _dot(eqn: Any, operand: int, other: Any, g: Any) -> tuple[Any, Any]:
    contracting, batch = eqn.params["dimension_numbers"]
    contract, group = contracting[1 - operand], batch[1 - operand]
    free = [d for d in range(other.ndim) if d not in contract and d not in group]
    sizes = [math.prod(other.shape[d] for d in axes) for axes in (group, free, contract)]
    a = other.transpose(*group, *free, *contract).reshape(sizes)
    if operand == 1:
        return a, g.reshape(g.shape[0], *sizes[:2], -1)
    return a, g.reshape(g.shape[0], sizes[0], -1, sizes[1]).swapaxes(2, 3)


def _conv(eqn: Any, operand: int, image: Any, g: Any) -> tuple[Any, Any]:
    dims, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
    kernel = eqn.invars[operand].aval.shape
    window = [kernel[d] for d in dims.rhs_spec[2:]]
    a = patches(image.transpose(dims.lhs_spec), window, eqn.params)
    n, channels, k = a.shape[:3]
    a = a.reshape(n, groups, channels // groups * k, -1).transpose(1, 0, 3, 2)
    positions = n * a.shape[2]
    g = g.transpose(0, *(1 + d for d in dims.out_spec))
    g = g.reshape(g.shape[0], n, groups, g.shape[2] // groups, -1).transpose(0, 2, 1, 4, 3)
    return a.reshape(groups, positions, -1), g.reshape(g.shape[0], groups, positions, -1)


def patches(image: Any, window: list[int], params: Any) -> Any:
    """What each position of a convolution sees: ``(n, channels, *spatial)`` to
    ``(n, channels, window, *positions)``, by slicing, so that nothing is rounded.
    """
    pads = zip(params["padding"], params["lhs_dilation"], strict=True)
    edges = [(low, high, d - 1) for (low, high), d in pads]
    image = lax.pad(image, jnp.zeros((), image.dtype), [(0, 0, 0), (0, 0, 0), *edges])
    strides, dilation = params["window_strides"], params["rhs_dilation"]
    axes = zip(image.shape[2:], window, strides, dilation, strict=True)
    last = [(size - d * (w - 1) - 1) // t * t for size, w, t, d in axes]
    pieces = []
    for offset in itertools.product(*map(range, window)):
        start = [o * d for o, d in zip(offset, dilation, strict=True)]
        stop = [a + b + 1 for a, b in zip(start, last, strict=True)]
        pieces.append(lax.slice(image, (0, 0, *start), (*image.shape[:2], *stop), (1, 1, *strides)))
    return jnp.stack(pieces, axis=2)


def _lookup(eqn: Any, indices: Any, g: Any) -> Lookup:
    """Tokens and cotangents; a token outside the table is clipped to it or has no derivative."""
    size = eqn.invars[0].aval.shape[0]
    index = indices.reshape(-1)
    g = g.reshape(g.shape[0], 1, index.shape[0], -1)
    if "CLIP" not in str(eqn.params["mode"]).upper():
        inside = (index >= 0) & (index < size)
        g = jnp.where(inside[None, None, :, None], g, 0)
    return Lookup(jnp.clip(index, 0, size - 1), g)
