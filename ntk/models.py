"""One view of every model: ``apply(leaves, x)``, with the differentiable leaves apart.

A model may be a plain function ``f(params, x)``, a network of this package, a flax module (linen
with its variables, or nnx) or a callable pytree that acts on one example (equinox). The packages
themselves are never imported here unless an object of theirs is passed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from deeplimits.errors import DomainError, ShapeError
from deeplimits.validate import as_inputs, finite, is_traced


class Problem(NamedTuple):
    """A model ready for differentiation; ``apply`` is a pytree, so ``jit`` takes it as data."""

    apply: Callable[[list[Any], Any], Any]
    leaves: list[Any]
    names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Static:
    """A leaf that is no array (an activation function, a Python integer): part of the program."""

    value: Any
    type: type


@dataclasses.dataclass(frozen=True)
class _Rebuild:
    """``f(params, x)`` from the leaves of ``params``: trained, frozen and static ones."""

    treedef: Any
    roles: tuple[Any, ...]

    def params(self, frozen: list[Any], leaves: list[Any]) -> Any:
        sources = {"trained": iter(leaves), "frozen": iter(frozen)}
        return self.treedef.unflatten(
            [r.value if isinstance(r, _Static) else next(sources[r]) for r in self.roles]
        )

    def __call__(self, f: Any, frozen: list[Any], leaves: list[Any], x: Any) -> Any:
        return f(self.params(frozen, leaves), x)


@dataclasses.dataclass(frozen=True)
class _PerExample:
    """A callable pytree that acts on one example, mapped over the batch."""

    rebuild: _Rebuild

    def __call__(self, frozen: list[Any], params: Any, x: Any) -> Any:
        return jax.vmap(self.rebuild.params(frozen, jax.tree.leaves(params)))(x)


@dataclasses.dataclass(frozen=True)
class _Linen:
    module: Any

    def __call__(self, frozen: Any, params: Any, x: Any) -> Any:
        return self.module.apply({"params": params, **frozen}, x)


@dataclasses.dataclass(frozen=True)
class _Nnx:
    graphdef: Any

    def __call__(self, frozen: Any, params: Any, x: Any) -> Any:
        from flax import nnx

        return nnx.merge(self.graphdef, params, frozen)(x)


def _apply_network(network: Any, params: Any, x: Any) -> Any:
    return network.apply_fn(params, x)


def _role(leaf: Any, name: str) -> Any:
    """``"trained"``, ``"frozen"`` or a :class:`_Static`."""
    if isinstance(leaf, jax.Array | np.ndarray | np.generic | float | complex):
        dtype = getattr(leaf, "dtype", np.dtype(type(leaf)))
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise DomainError(
                f"parameter {name} is complex ({dtype}); tangent kernels are defined here for real "
                "parameters. Pass its real and imaginary parts as two parameters."
            )
        return "trained" if jnp.issubdtype(dtype, jnp.floating) else "frozen"
    return _Static(leaf, type(leaf))


def _sort_leaves(params: Any) -> tuple[_Rebuild, list[Any], list[Any], tuple[str, ...]]:
    """Split a pytree: how to rebuild it, trained leaves, frozen leaves, names of the trained."""
    pairs, treedef = jax.tree_util.tree_flatten_with_path(params)
    names = [jax.tree_util.keystr(path) or "params" for path, _ in pairs]
    roles = [_role(leaf, name) for name, (_, leaf) in zip(names, pairs, strict=True)]
    trained = [leaf for (_, leaf), role in zip(pairs, roles, strict=True) if role == "trained"]
    frozen = [leaf for (_, leaf), role in zip(pairs, roles, strict=True) if role == "frozen"]
    kept = tuple(name for name, role in zip(names, roles, strict=True) if role == "trained")
    return _Rebuild(treedef, tuple(roles)), trained, frozen, kept


def _comes_from(model: Any, package: str) -> bool:
    return any(c.__module__.startswith(package) for c in type(model).__mro__)


def _linen(module: Any, variables: Any) -> tuple[Callable[..., Any], Any]:
    if not isinstance(variables, Mapping) or "params" not in variables:
        got = sorted(variables) if isinstance(variables, Mapping) else type(variables).__name__
        raise DomainError(
            "a flax.linen module needs its variables, a dict with the collection 'params' "
            f"(what module.init returned), got {got}."
        )
    frozen = {name: values for name, values in variables.items() if name != "params"}
    return Partial(_Linen(module), frozen), variables["params"]


def _nnx(model: Any, params: Any) -> tuple[Callable[..., Any], Any]:
    from flax import nnx

    parts: Any = nnx.split(model, nnx.Param, ...)
    graphdef, own, frozen = parts
    return Partial(_Nnx(graphdef), frozen), own if params is None else params


def _pytree(model: Any) -> tuple[Callable[..., Any], Any]:
    rebuild, _, frozen, _ = _sort_leaves(model)
    pairs = zip(jax.tree.leaves(model), rebuild.roles, strict=True)
    kept = [leaf if role == "trained" else None for leaf, role in pairs]
    return Partial(_PerExample(rebuild), frozen), rebuild.treedef.unflatten(kept)


def as_function(model: Any, params: Any = None) -> tuple[Callable[..., Any], Any]:
    """The function ``f(params, x)`` and the parameters behind a model of another library.

    Args:
        model: a function ``f(params, x) -> (n, outputs)``; a network of :mod:`ntk`; a flax linen
            module; a flax nnx module; or a callable pytree acting on one example (equinox).
        params: its parameters; for linen the whole variables dict, of which only the collection
            ``"params"`` is differentiated; None for models that hold their parameters.

    Returns:
        ``(f, params)``; everything that is not differentiated (statistics, integer tables,
        activation functions) is frozen inside ``f``.

    Raises:
        DomainError: not callable, parameters missing, or complex parameters.

    Check:
        tests/ntk/test_empirical_models.py::test_library_models_match_brute_force
    """
    if hasattr(model, "apply_fn") and hasattr(model, "init_fn"):
        return Partial(_apply_network, model), params
    if _comes_from(model, "flax.nnx"):
        return _nnx(model, params)
    if _comes_from(model, "flax.linen"):
        return _linen(model, params)
    if not callable(model):
        raise DomainError(
            f"f must be a function f(params, x) or a model, got {type(model).__name__}."
        )
    if params is not None:
        return model, params
    if jax.tree_util.all_leaves([model]):
        raise DomainError(
            "params is None, but f is a plain function. Pass its parameters (a pytree of arrays), "
            "or a model that holds them (equinox, flax.nnx)."
        )
    return _pytree(model)


def as_problem(f: Any, params: Any) -> Problem:
    """Sort the leaves of the parameters.

    Raises:
        DomainError: as for :func:`as_function`, or no floating-point leaf at all.
    """
    function, params = as_function(f, params)
    rebuild, trained, frozen, names = _sort_leaves(params)
    if not trained:
        raise DomainError(
            "params holds no floating-point array, so there is nothing to differentiate; "
            f"got {len(frozen)} integer, boolean or key leaves."
        )
    return Problem(Partial(rebuild, _as_partial(function), frozen), trained, names)


def _as_partial(function: Any) -> Partial:
    return function if isinstance(function, Partial) else Partial(function)


def as_model_inputs(x: Any, name: str) -> Any:
    """Like :func:`deeplimits.validate.as_inputs`, but integers (tokens) stay integers.

    Raises:
        ShapeError, DomainError: as there.
    """
    checked = as_inputs(x, name)
    dtype = x.dtype if hasattr(x, "dtype") else np.asarray(x).dtype
    return jnp.asarray(checked if jnp.issubdtype(dtype, jnp.floating) else x)


def shapes(tree: Any) -> Any:
    """Shapes and dtypes of a pytree, hashable leaf by leaf."""

    def shape(a: Any) -> Any:
        if not hasattr(a, "dtype"):
            return jax.ShapeDtypeStruct((), jnp.zeros(()).dtype, weak_type=True)
        return jax.ShapeDtypeStruct(a.shape, a.dtype, weak_type=getattr(a, "weak_type", False))

    return jax.tree.map(shape, tree)


def hashable(tree: Any) -> tuple[Any, tuple[Any, ...]]:
    """A pytree of shapes as ``(structure, leaves)``, usable as the key of a cache."""
    leaves, treedef = jax.tree.flatten(tree)
    return treedef, tuple(leaves)


@functools.lru_cache(maxsize=256)
def _output(structure: Any, leaves: tuple[Any, ...]) -> Any:
    apply, params, x = structure.unflatten(leaves)
    return jax.eval_shape(lambda a, p, v: a(p, v), apply, params, x)


def output_shape(problem: Problem, x: Any) -> Any:
    """Shape and dtype of the outputs for ``x``, without computing them.

    Raises:
        ShapeError: not one array ``(n,)`` or ``(n, outputs)`` with the batch axis first.
        DomainError: outputs are not real floating-point numbers.
    """
    out = _output(*hashable(shapes((problem.apply, problem.leaves, x))))
    if not hasattr(out, "shape") or out.ndim not in (1, 2) or out.shape[0] != x.shape[0]:
        got = out.shape if hasattr(out, "shape") else type(out).__name__
        raise ShapeError(
            f"f(params, x) must have shape (n,) or (n, outputs) with n = {x.shape[0]} first, "
            f"got {got} for x of shape {x.shape}. Flatten further axes: f(...).reshape(n, -1)."
        )
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise DomainError(
            f"f(params, x) must return real floating-point numbers, got dtype {out.dtype}. "
            "Return the logits, not the predicted class."
        )
    return out


@jax.jit
def _row_in_three_batches(apply: Any, leaves: Any, row: Any, other: Any) -> Any:
    batches = (jnp.stack([row, row]), jnp.stack([row, other]), row[None])
    return [apply(leaves, batch)[0] for batch in batches]


def check_rows(problem: Problem, x: Any) -> None:
    """Refuse a model whose output for one row depends on the other rows (batch normalisation).

    All kernels here differentiate one row at a time. The first row is evaluated beside itself,
    beside a changed row and alone; skipped on traced values.

    Raises:
        DomainError: the three disagree by more than the square root of the machine epsilon, or
            the output is not finite.
    """
    if any(is_traced(a) for a in jax.tree.leaves((problem.apply, problem.leaves, x))):
        return
    row = x[0]
    other = 1 - row / 2 if jnp.issubdtype(x.dtype, jnp.floating) else jnp.zeros_like(row)
    same, changed, alone = map(
        np.asarray, _row_in_three_batches(problem.apply, problem.leaves, row, other)
    )
    finite(same.astype(np.float64), "f(params, x)")
    slack = float(jnp.finfo(same.dtype).eps) ** 0.5 * max(1e-30, float(np.abs(same).max()))
    gap = max(float(np.abs(same - b).max()) for b in (changed, alone))
    if gap > slack:
        raise DomainError(
            f"f mixes the rows of a batch: its output for row 0 changes by {gap:.3g} when only the "
            "other rows change. Freeze batch statistics (use_running_average=True, model.eval()) "
            "and dropout, and do not average over the batch."
        )
