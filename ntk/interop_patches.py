"""The lines of neural-tangents 0.6.5 that current JAX and SciPy no longer accept.

The last release of neural-tangents is from March 2024. Its sources are loaded with the lines below
replaced, each for the reason beside it. Nothing in JAX and no file on disk is changed; the new
lines call the functions of this module.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import math
from collections.abc import Callable, Iterable, Sequence
from types import CodeType, ModuleType
from typing import Any, NamedTuple

import jax
import jax.extend.core
import jax.numpy as jnp
from jax.interpreters import ad

#: The release whose lines are known.
VERSION = "0.6.5"


def safe_map(function: Callable[..., Any], *iterables: Iterable[Any]) -> list[Any]:
    """``map`` that runs at once and checks the lengths."""
    return [function(*items) for items in zip(*iterables, strict=True)]


def safe_zip(*iterables: Iterable[Any]) -> list[tuple[Any, ...]]:
    """``zip`` that checks the lengths."""
    return list(zip(*iterables, strict=True))


def lru_cache(size: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``functools.lru_cache`` per ``jit``, ``vmap`` or ``grad`` in progress.

    A value computed while tracing is a tracer; used after that trace it is an error.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        entries: list[tuple[Any, Any, Any]] = []

        def cached(*args: Any) -> Any:
            trace = jax.extend.core.get_opaque_trace_state(convention="nnx")
            for known_trace, known_args, value in entries:
                if known_trace == trace and known_args == args:
                    return value
            value = function(*args)
            entries.append((trace, args, value))
            del entries[:-size]
            return value

        return cached

    return decorate


def linear_jaxpr(
    function: Callable[..., Any], primals: tuple[Any, ...]
) -> tuple[Any, Any, Sequence[Any]]:
    """Value of ``function`` and the program (with its constants) of its linear part."""
    with jax.disable_jit():  # inlines nested jits, so that every equation is visible
        out, linear = jax.linearize(function, *primals)
        closed = jax.make_jaxpr(linear)(*primals)
    return out, closed.jaxpr, closed.consts


def transpose_equation(eqn: Any, cotangent: Any, *invals: Any) -> list[Any]:
    """Cotangents of the inputs of one linear equation; ``None`` for its constants."""
    if eqn is None:  # the identity
        return [cotangent]
    unknown = [i for i, v in enumerate(invals) if ad.is_undefined_primal(v)]
    cotangents: list[Any] = [None] * len(invals)
    if isinstance(cotangent, ad.Zero):
        for i in unknown:
            cotangents[i] = ad.Zero(invals[i].aval)
        return cotangents

    def apply(*linear: Any) -> Any:
        full = [
            jnp.zeros(v.shape, v.dtype) if isinstance(v, jax.core.ShapedArray) else v
            for v in invals
        ]
        for i, value in zip(unknown, linear, strict=True):
            full[i] = value
        out = eqn.primitive.bind(*full, **eqn.primitive.get_bind_params(eqn.params))
        return out[0] if eqn.primitive.multiple_results else out

    shapes = [jax.ShapeDtypeStruct(invals[i].aval.shape, invals[i].aval.dtype) for i in unknown]
    for i, value in zip(unknown, jax.linear_transpose(apply, *shapes)(cotangent), strict=True):
        cotangents[i] = value
    return cotangents


def flops(function: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
    """Operations of the compiled function; infinite if it cannot be compiled."""
    try:
        analysis = jax.jit(function).lower(*args, **kwargs).compile().cost_analysis()
    except NotImplementedError:  # structured derivatives lack a rule for one of the operations
        return math.inf
    return float((analysis or {}).get("flops", math.inf))


class Patch(NamedTuple):
    """``old`` becomes ``new`` wherever it stands, for this ``reason``."""

    old: str
    new: str
    reason: str


_MOVED = "the name has moved to jax.extend.core"

#: Module -> its patches, applied in order.
PATCHES: dict[str, tuple[Patch, ...]] = {
    "neural_tangents": (
        Patch("from . import experimental\n", "", "imports tensorflow for one TensorFlow helper"),
    ),
    "neural_tangents._src.empirical": (
        Patch("from jax import core\n", "from jax.extend import core\n", _MOVED),
        Patch("from jax.core import Jaxpr\n", "from jax.extend.core import Jaxpr\n", _MOVED),
        Patch("from jax.core import JaxprEqn\n", "from jax.extend.core import JaxprEqn\n", _MOVED),
        Patch("from jax.core import Literal\n", "from jax.extend.core import Literal\n", _MOVED),
        Patch("from jax.core import Var\n", "from jax.extend.core import Var\n", _MOVED),
        Patch("core.ShapedArray", "ShapedArray", "stayed in jax.core; imported there by its name"),
        Patch("type(a) is core.DShapedArray", "False", "arrays of dynamic shape are gone"),
        Patch("from jax.extend import linear_util as lu\n", "", "unused after the patches below"),
        Patch(
            "from jax.util import safe_map as map\nfrom jax.util import safe_zip as zip\n",
            "from ntk.interop_patches import safe_map as map, safe_zip as zip\n"
            "from ntk.interop_patches import flops, linear_jaxpr, transpose_equation\n",
            "jax.util is gone",
        ),
        Patch(
            "ad.source_info_util.transform_name_stack('transpose')",
            "jax.named_scope('t')",
            "private",
        ),
        Patch("if ad.config.jax_enable_checks:", "if False:", "private; a self-check only"),
        Patch(
            """  fn_flat, out_tree = jax.api_util.flatten_fun_nokwargs(
      lu.wrap_init(fn), in_tree)

  # TODO(romann): handle call primitives more gracefully.
  with jax.disable_jit():
    outs = ad.linearize(fn_flat, *primals_in_flat, has_aux=False)

  primals_out, pvals, jaxpr, consts = outs
  primals_out = tree_unflatten(out_tree(), primals_out)
""",
            "  primals_out, jaxpr, consts = linear_jaxpr(fn, primals_in)\n",
            "ad.linearize has another signature",
        ),
        Patch(
            "tuple(ct for ct, pval in zip(cts_in, pvals) if not pval.is_known())",
            "tuple(cts_in)",
            "the program above has all outputs, constant ones included",
        ),
        Patch(
            "def _get_jacobian(\n",
            "_eqn_vjp_fn = transpose_equation\n\n\ndef _get_jacobian(\n",
            "some primitives (slice) have no transpose rule of the old kind",
        ),
        Patch(
            "def _std_basis(",
            "def _get_flops(f, _, *a, **kw):\n  return flops(f, *a, **kw)\n\n\ndef _std_basis(",
            "cost_analysis returns a dict",
        ),
        Patch("map(jnp.size, leaves)", "map(np.size, leaves)", "jnp.size refuses shape structs"),
        Patch("jnp.size(l) for l", "np.size(l) for l", "as above"),
        Patch("jnp.shape(l) + arr", "np.shape(l) + arr", "as above"),
        Patch(
            "tree_map(jnp.dtype, params)", "tree_map(jnp.result_type, params)", "array is no dtype"
        ),
        Patch(
            "          print(f'impl={implementation}, flops={flops}')\n",
            "",
            "a left-over debug line",
        ),
    ),
    "neural_tangents._src.utils.rules": (
        Patch("from jax.core import Jaxpr\n", "from jax.extend.core import Jaxpr\n", _MOVED),
        Patch("from jax.core import JaxprEqn\n", "from jax.extend.core import JaxprEqn\n", _MOVED),
        Patch("from jax.core import Literal\n", "from jax.extend.core import Literal\n", _MOVED),
        Patch(
            "from jax.core import Primitive\n", "from jax.extend.core import Primitive\n", _MOVED
        ),
        Patch("from jax.core import Var\n", "from jax.extend.core import Var\n", _MOVED),
        Patch(
            """STRUCTURE_RULES[jax.interpreters.ad.zeros_like_p] = _eye_s
JACOBIAN_RULES[jax.interpreters.ad.zeros_like_p] = _zeros_like_j
""",
            "",
            "the primitive is gone",
        ),
    ),
    "neural_tangents._src.predict": (
        Patch(
            "from functools import lru_cache",
            "import contextlib\nfrom ntk.interop_patches import lru_cache",
            "functools.lru_cache hands tracers of one jit to the next",
        ),
        Patch(
            "jax.core.eval_context()",
            "contextlib.nullcontext()",
            "refuses tracers; the cache above makes it unnecessary",
        ),
        Patch(
            """  k_dd_cache = {}

  def get_k_train_train(get: tuple[str, ...]) -> _Kernel:
""",
            """  @lru_cache(4)
  def get_k_train_train(get: tuple[str, ...]) -> _Kernel:
    k_dd_cache = {}
""",
            "the dictionary hands tracers of one jit to the next",
        ),
        Patch(
            "eigvals=(ntk_train_train.shape[0]",
            "subset_by_index=(ntk_train_train.shape[0]",
            "renamed by scipy 1.14",
        ),
    ),
}


class _PatchedLoader(importlib.machinery.SourceFileLoader):
    """Compiles a module from its patched source, past the byte-code cache."""

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_source(fullname) or ""
        for patch in PATCHES[fullname]:
            if patch.old not in source:
                raise ImportError(
                    f"{fullname} is not the file of {VERSION}: no {patch.old!r} in it"
                )
            source = source.replace(patch.old, patch.new)
        return compile(source, self.path, "exec", dont_inherit=True)


class PatchedFinder(importlib.abc.MetaPathFinder):
    """Finds the modules of :data:`PATCHES` where they lie, and patches them while loading."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The usual spec with a patching loader, or ``None`` for all other modules."""
        if fullname not in PATCHES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _PatchedLoader(fullname, spec.origin)
        return spec
