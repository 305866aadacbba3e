"""Evaluating a network's kernel: validate, compile once, compare inputs."""

from __future__ import annotations

import collections
import functools
import os
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.errors import DomainError, PrecisionWarning, ShapeError, UnsupportedLayerError
from deeplimits.precision import working_dtype, x64_enabled
from deeplimits.validate import as_inputs, is_traced, same_features
from ntk.compose import Serial
from ntk.layers import Activation, Layer
from ntk.state import Kernel, Rows, input_kernel, new_token

#: What ``get`` may name.
FIELDS = ("nngp", "ntk", "cov1", "cov2", "eps")


def evaluate(layer: Layer, x1: Any, x2: Any = None, get: Any = None) -> Any:
    """Infinite-width kernel of a network between two sets of inputs.

    Args:
        layer: the network.
        x1: inputs ``(n1, d)`` or ``(n1, *pos, channels)``; or the :class:`Kernel` record of an
            earlier network, which is then continued.
        x2: likewise ``(n2, ...)``; None compares ``x1`` with itself (exact diagonal, and one
            dropout mask per input; an equal array is treated as different inputs).
        get: ``"nngp"``, ``"ntk"``, ``"cov1"``, ``"cov2"`` or ``"eps"`` for an array, a tuple of
            these for a named tuple, None for the whole record.

    Returns:
        Arrays ``(n1, n2)`` in the dtype of the inputs (``(n1, n2, *pos)`` comparing equal positions
        if the network never flattens its spatial axes; ``(n,)`` for ``cov1`` and ``cov2``).

    Raises:
        ShapeError: 1-D or empty inputs, different feature axes, branches that do not match.
        DomainError: NaN or complex inputs, unknown ``get``.
        UnsupportedLayerError: no closed form, or an NTK of a network with a jumping activation.
    """
    names = parse_get(get)
    with_ntk = needs_ntk(layer, names)
    if isinstance(x1, Kernel):
        if x2 is not None:
            raise ShapeError("x2 must be None when x1 is a Kernel record (it holds both inputs).")
        result = _compiled("continue", _traced(layer, x1))(layer, x1, with_ntk)
    else:
        x1, x2 = check_inputs(x1, x2)
        if names is not None and set(names) <= {"nngp", "ntk"} and not _traced(layer, x1, x2):
            from ntk.gram import TILE, tiled

            if x1.shape[0] * (x1 if x2 is None else x2).shape[0] > TILE**2:
                arrays = tiled(layer, x1, x2, names)
                if arrays is not None:
                    return pack(get, tuple(jnp.asarray(a) for a in arrays))
        result = _compiled("compare", _traced(layer, x1, x2))(layer, x1, x2, with_ntk, names)
    if names is None:
        return result
    if isinstance(result, Kernel):
        result = select(result, names)
    return pack(get, result)


def parse_get(get: Any) -> tuple[str, ...] | None:
    """The names in ``get`` as a tuple; None for the record."""
    if get is None:
        return None
    names = tuple(get) if isinstance(get, tuple | list) else (get,)
    unknown = [n for n in names if n not in FIELDS]
    if unknown or not names:
        raise DomainError(
            f"get must be None, one of {', '.join(map(repr, FIELDS))}, or a tuple of these; "
            f"got {get!r}."
        )
    return names


def pack(get: Any, arrays: tuple[Any, ...]) -> Any:
    """One array for a string ``get``, a named tuple for a tuple."""
    if isinstance(get, str):
        return arrays[0]
    return collections.namedtuple("Kernels", tuple(get))(*arrays)


def select(k: Kernel, names: tuple[str, ...]) -> tuple[Any, ...]:
    """The named fields; ``cov2`` of a record that compares ``x1`` with itself is ``cov1``."""
    return tuple(k.cov1 if n == "cov2" and k.cov2 is None else getattr(k, n) for n in names)


def check_inputs(x1: Any, x2: Any) -> tuple[Any, Any]:
    """Validated inputs of one floating dtype (float16 and bfloat16 are computed in float32)."""
    wide = [x for x in (x1, x2) if getattr(x, "dtype", None) == np.float64]
    if wide and not x64_enabled():
        warnings.warn(
            "The inputs are float64 but JAX runs in float32, so the kernel is float32. Put "
            'jax.config.update("jax_enable_x64", True) at the start, or pass float32 inputs.',
            PrecisionWarning,
            stacklevel=4,
        )
    x1 = as_inputs(x1, "x1")
    if x2 is None:
        return x1.astype(working_dtype(x1)), None
    x2 = as_inputs(x2, "x2")
    same_features(x1, x2)
    dtype = working_dtype(x1, x2)
    return x1.astype(dtype), x2.astype(dtype)


def needs_ntk(layer: Layer, names: tuple[str, ...] | None) -> bool:
    """Whether to propagate the tangent kernel; refuse it where it does not exist."""
    rough = [
        node.dual
        for node in jax.tree.leaves(layer, is_leaf=lambda node: isinstance(node, Activation))
        if isinstance(node, Activation) and not node.dual.differentiable
    ]
    if rough and names is not None and "ntk" in names:
        raise UnsupportedLayerError(
            f'get="ntk": the network holds {type(rough[0]).__name__}, whose derivative is a delta '
            'function, so its NTK diverges. Use get="nngp", or a smooth version such as Erf(b=...).'
        )
    return not rough and (names is None or "ntk" in names)


def on_inputs(layer: Layer, x: Any) -> tuple[Layer | None, Any]:
    """Apply the leading parameter-free layers to the inputs; the remaining network, and ``x``."""
    layers = layer.layers if isinstance(layer, Serial) else (layer,)
    while layers and layers[0].deterministic:
        x = layers[0].apply((), x)
        layers = layers[1:]
    return (Serial(layers) if layers else None), x


def compare_rows(
    layer: Layer | None, rows1: Rows, rows2: Rows | None, with_ntk: bool, names: Any
) -> Any:
    """Kernel record (or the named fields) between prepared inputs; pure, jittable."""
    k = input_kernel(rows1, rows2, with_ntk=with_ntk)
    out = k if layer is None else layer.propagate(k)
    if not isinstance(out, Kernel):
        raise ShapeError(
            f"The network ends in {len(out)} branches; end it with FanInSum, FanInProd or "
            "FanInConcat to get one kernel."
        )
    if rows2 is None:
        out = symmetric(out)
    return out.forget() if names is None else select(out, names)


def symmetric(k: Kernel) -> Kernel:
    """Exactly symmetric; fused multiply-adds round ``a b - c d`` and ``c d - a b`` differently."""
    pairs = {name: getattr(k, name) for name in ("eps", "nngp", "ntk")}
    return k.replace(
        **{n: a if a is None else (a + jnp.swapaxes(a, 0, 1)) / 2 for n, a in pairs.items()}
    )


def _compare(layer: Layer, x1: Any, x2: Any, with_ntk: bool, names: Any) -> Any:
    rest, x1 = on_inputs(layer, x1)
    rows1 = Rows.of(x1)
    rows2 = None if x2 is None else Rows.of(on_inputs(layer, x2)[1])
    return compare_rows(rest, rows1, rows2, with_ntk, names)


def _continue(layer: Layer, k: Kernel, with_ntk: bool) -> Kernel:
    if with_ntk and k.ntk is None:
        raise DomainError("x1 is a Kernel record without ntk; make it with get=None first.")
    token = new_token()
    k = k.replace(tokens=frozenset({token}), uid=token, ntk=k.ntk if with_ntk else None)
    return layer.propagate(k).forget()


def _traced(*trees: Any) -> bool:
    return any(is_traced(leaf) for leaf in jax.tree.leaves(trees))


@functools.cache
def vector_options() -> dict[str, Any]:
    """Compiler options for the elementwise recursions: full vector width where the CPU has it.

    XLA:CPU prefers 256-bit vectors on machines with 512-bit units; these kernels are limited by
    arithmetic, and run up to twice as fast at full width.
    """
    if jax.default_backend() != "cpu" or not os.path.exists("/proc/cpuinfo"):
        return {}
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        wide = "avx512f" in info.read()
    return {"xla_cpu_prefer_vector_width": 512} if wide else {}


def jit(function: Callable[..., Any], **kwargs: Any) -> Callable[..., Any]:
    """``jax.jit`` with :func:`vector_options`."""
    options = vector_options()
    return (
        jax.jit(function, compiler_options=options, **kwargs)
        if options
        else jax.jit(function, **kwargs)
    )


@functools.cache
def _compiled(kind: str, nested: bool) -> Callable[..., Any]:
    """The jitted cores; inside another transformation without compiler options (JAX's rule)."""
    wrap = jax.jit if nested else jit
    if kind == "compare":
        return wrap(_compare, static_argnames=("with_ntk", "names"))
    return wrap(_continue, static_argnames=("with_ntk",))
