r"""Kernels of finite networks: tangent kernel by three algorithms, covariance, and an operator.

For a model ``f(params, x)`` with per-example Jacobian :math:`J(x)` of shape (outputs, parameters),

.. math:: \Theta(x, x') = J(x) J(x')^T .
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from deeplimits.errors import DomainError
from deeplimits.validate import choice, integer, is_traced, same_features
from ntk.factors import Jacobian, contract, nbytes, settle
from ntk.models import (
    Problem,
    as_model_inputs,
    as_problem,
    check_rows,
    hashable,
    output_shape,
    shapes,
)
from ntk.structured import make_plan, sample_factors

METHODS = ("auto", "jacobian", "vector_products", "structured")
REDUCTIONS = ("trace", "diagonal", "full")


def empirical_ntk(
    f: Any,
    params: Any,
    x1: Any,
    x2: Any = None,
    *,
    reduce: str = "trace",
    method: str = "auto",
    block_size: int | str = "auto",
    block_bytes: int = 2**31,
    by_layer: bool = False,
) -> Any:
    r"""Tangent kernel of a finite network.

    .. math:: \Theta_{nmoq} = \sum_p \frac{\partial f_o(x_n)}{\partial \theta_p}
              \frac{\partial f_q(x'_m)}{\partial \theta_p}

    Args:
        f: ``f(params, x) -> (n, outputs)`` with the batch axis first, rows independent; or a
            network of this package, a flax linen module (``params`` = its variables, of which
            ``"params"`` is differentiated), a flax nnx or equinox model (``params`` = None).
            Compiled once per function object and shapes: pass the same object again.
        params: pytree; floating leaves of any shape are differentiated, others are constants.
        x1: ``(n1, d)`` or ``(n1, *spatial, channels)``; integers (tokens) are passed on as such.
        x2: ``(n2, ...)`` likewise; None means ``x1``, and then the result is exactly symmetric.
        reduce: ``"trace"`` = the MEAN over outputs of the diagonal in (o, q), shape ``(n1, n2)``;
            ``"diagonal"`` ``(n1, n2, outputs)``; ``"full"`` ``(n1, n2, outputs, outputs)``.
        method: with P parameters, O outputs, F operations for one forward pass:

            - ``"structured"``: ``n O F`` plus per-layer contractions; never P where avoidable;
            - ``"jacobian"``: ``n O F + n1 n2 O P`` (``O^2`` for full), memory ``n O P``;
            - ``"vector_products"``: ``n1 n2 O F``, memory about P: for very large P or O;
            - ``"auto"`` (default): structured, unless one row of it exceeds ``block_bytes``.
        block_size: rows per block, or ``"auto"``: as many as ``block_bytes`` admit.
        block_bytes: working memory in bytes for derivatives, default 2**31.
        by_layer: return a dict from parameter name to its share; the shares sum to the kernel.

    Returns:
        The kernel, in the dtype of the outputs of ``f`` (at least float32).

    Raises:
        ShapeError: 1-D or empty ``x``, mismatched features, or outputs that are not ``(n, O)``.
        DomainError: NaN, complex parameters, integer outputs, unknown ``reduce`` or ``method``, an
            ``f`` that mixes rows, or a result larger than the memory of the machine.

    Source:
        Novak, Sohl-Dickstein, Schoenholz, arXiv:2206.08720 (the three algorithms); the contraction
        order is chosen here from static sizes. Their ``trace_axes`` also average.

    Check:
        tests/ntk/test_empirical.py::test_methods_match_brute_force
    """
    choice(reduce, "reduce", REDUCTIONS)
    choice(method, "method", METHODS)
    integer(block_bytes, "block_bytes", at_least=1)
    if block_size != "auto":
        integer(block_size, "block_size", at_least=1)
    if by_layer and method == "vector_products":
        raise DomainError(
            "by_layer needs per-leaf derivatives; use method='structured' or 'jacobian'."
        )
    problem = as_problem(f, params)
    x1, x2 = _inputs(x1, x2)
    out = output_shape(problem, x1)
    outputs = math.prod(out.shape[1:])
    shape = (x1.shape[0], (x1 if x2 is None else x2).shape[0], *_tail(reduce, outputs))
    _check_size(shape, out.dtype)
    check_rows(problem, x1)
    method, rows = _select(problem, x1, reduce, method, by_layer, block_bytes)
    traced = any(is_traced(a) for a in jax.tree.leaves((problem, x1, x2)))
    if block_size != "auto":
        rows = int(block_size)
    elif traced:
        rows = max(shape[:2])
    side, block = _cores(problem, method, reduce, outputs, by_layer, block_bytes)
    result = _assemble(side, block, x1, x2, rows)
    return dict(zip(problem.names, result, strict=True)) if by_layer else result


def empirical_nngp(f: Any, params: Any, x1: Any, x2: Any = None) -> Any:
    r"""Covariance of the outputs of one finite network.

    .. math:: K_{nm} = \frac1O \sum_o f_o(x_n) f_o(x'_m)

    Args:
        f, params, x1, x2: as for :func:`empirical_ntk`.

    Returns:
        ``(n1, n2)``; exactly symmetric if ``x2`` is None.

    Raises:
        ShapeError, DomainError: as for :func:`empirical_ntk`.

    Source:
        The estimator of one network of the NNGP kernel, as in arXiv:1912.02803.

    Check:
        tests/ntk/test_empirical.py::test_nngp
    """
    problem = as_problem(f, params)
    x1, x2 = _inputs(x1, x2)
    output_shape(problem, x1)
    check_rows(problem, x1)
    left = _outputs(problem.apply, problem.leaves, x1)
    if x2 is None:
        return _symmetrized(_covariance(left, left))
    return _covariance(left, _outputs(problem.apply, problem.leaves, x2))


def _inputs(x1: Any, x2: Any) -> tuple[Any, Any]:
    x1 = as_model_inputs(x1, "x1")
    if x2 is not None:
        x2 = as_model_inputs(x2, "x2")
        same_features(x1, x2)
    return x1, x2


def _tail(reduce: str, outputs: int) -> tuple[int, ...]:
    return {"trace": (), "diagonal": (outputs,), "full": (outputs, outputs)}[reduce]


def _kernel_dtype(dtype: Any) -> Any:
    """The dtype of the outputs, but never fewer than 32 bits."""
    return dtype if jnp.dtype(dtype).itemsize >= 4 else jnp.float32


def _machine_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _check_size(shape: tuple[int, ...], dtype: Any) -> None:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size > _machine_bytes():
        raise DomainError(
            f"the kernel of shape {shape} takes {size / 2**30:.3g} GiB, this machine has "
            f"{_machine_bytes() / 2**30:.3g} GiB. Use reduce='trace', fewer rows, or "
            "empirical_ntk_operator, which never forms it."
        )


@jax.jit
def _outputs(apply: Any, leaves: Any, x: Any) -> Any:
    out = apply(leaves, x).reshape(x.shape[0], -1)
    return out.astype(_kernel_dtype(out.dtype))


def _covariance(left: Any, right: Any) -> Any:
    return jnp.matmul(left, right.T, precision=lax.Precision.HIGHEST) / left.shape[1]


# ---------------------------------------------------------------------------------------------
# Derivatives of a block of rows


def _single(apply: Any) -> Callable[[Any, Any], Any]:
    """The model on one row: ``(leaves, row) -> (outputs,)``."""
    return lambda leaves, row: apply(leaves, row[None])[0].reshape(-1)


@functools.partial(jax.jit, static_argnames=("method", "reduce", "by_layer"))
def _derivatives(
    apply: Any, leaves: Any, x: Any, *, method: str, reduce: str, by_layer: bool = False
) -> dict[int, Any]:
    """Factors of the Jacobian on a block of rows, by leaf."""
    single = _single(apply)
    out = jax.eval_shape(single, leaves, x[0])
    dtype = _kernel_dtype(out.dtype)
    if method == "structured":
        plan = make_plan(single, leaves, x[0], merge_biases=not by_layer)
        factors = jax.vmap(lambda row: sample_factors(plan, leaves, row, out.size, dtype))(x)
        return {k: settle(factor, reduce) for k, factor in factors.items()}

    def jacobians(row: Any) -> Any:
        _, pull = jax.vjp(lambda p: single(p, row), leaves)
        return jax.vmap(pull)(jnp.eye(out.size, dtype=out.dtype))[0]

    rows = jax.vmap(jacobians)(x)
    return {k: Jacobian(j.reshape(*j.shape[:2], -1).astype(dtype)) for k, j in enumerate(rows)}


@functools.partial(jax.jit, static_argnames=("reduce", "outputs", "leaves"))
def _contract(left: Any, right: Any, *, reduce: str, outputs: int, leaves: int) -> Any:
    """Kernel block from two sets of factors (``right`` None: the same); by leaf if ``leaves``."""
    other = left if right is None else right
    shares = {k: contract(left[k], other[k], reduce) for k in left}
    if reduce == "trace":
        shares = {k: share / outputs for k, share in shares.items()}
    total = functools.reduce(jnp.add, shares.values())
    return [shares.get(k, jnp.zeros_like(total)) for k in range(leaves)] if leaves else total


def _swapped(block: Any) -> Any:
    """The block with both inputs (and, for the full kernel, both outputs) exchanged."""
    block = block.swapaxes(0, 1)
    return block.swapaxes(2, 3) if block.ndim == 4 else block


@jax.jit
def _symmetrized(block: Any) -> Any:
    # compiled apart, or XLA may compute the two triangles by differently ordered sums
    return (block + _swapped(block)) / 2


@functools.partial(jax.jit, static_argnames=("reduce", "chunk"))
def _vector_products(apply: Any, leaves: Any, x1: Any, x2: Any, *, reduce: str, chunk: int) -> Any:
    """Kernel block by one pullback at a row of ``x2`` and one pushforward over all of ``x1``.

    The pairs (row of ``x2``, output) are visited ``chunk`` at a time, so that only ``chunk``
    tangents of the size of the parameters exist.
    """
    other = x1 if x2 is None else x2
    out, push = jax.linearize(lambda p: apply(p, x1).reshape(x1.shape[0], -1), leaves)
    dtype = _kernel_dtype(out.dtype)
    outputs, single = out.shape[1], _single(apply)

    def column(pair: Any) -> Any:
        m, q = pair
        _, pull = jax.vjp(lambda p: single(p, other[m]), leaves)
        moved = push(pull(jax.nn.one_hot(q, outputs, dtype=out.dtype))[0]).astype(dtype)
        return moved if reduce == "full" else moved[:, q]

    grid = jnp.meshgrid(jnp.arange(other.shape[0]), jnp.arange(outputs), indexing="ij")
    columns = lax.map(column, tuple(g.reshape(-1) for g in grid), batch_size=chunk)
    block = columns.reshape(other.shape[0], outputs, *columns.shape[1:])
    if reduce == "full":  # (m, q, n, o) -> (n, m, o, q)
        block = block.transpose(2, 0, 3, 1)
    else:  # (m, q, n)
        block = block.mean(1).T if reduce == "trace" else block.transpose(2, 0, 1)
    return block


def _cores(
    problem: Problem, method: str, reduce: str, outputs: int, by_layer: bool, budget: int
) -> tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]:
    """``side(rows)`` and ``block(side1, side2)``; ``side2`` None means the same rows."""
    apply, leaves, _ = problem
    if method == "vector_products":
        chunk = max(1, min(outputs, budget // (4 * nbytes(shapes(leaves)))))
        return lambda x: x, functools.partial(
            _vector_products, apply, leaves, reduce=reduce, chunk=chunk
        )
    side = functools.partial(
        _derivatives, apply, leaves, method=method, reduce=reduce, by_layer=by_layer
    )
    count = len(leaves) if by_layer else 0
    return side, functools.partial(_contract, reduce=reduce, outputs=outputs, leaves=count)


# ---------------------------------------------------------------------------------------------
# Method, block size, assembly


@functools.lru_cache(maxsize=256)
def _row_bytes(structure: Any, leaves: tuple[Any, ...], method: str, reduce: str) -> int:
    """Bytes that one row needs: its derivatives, or its activations."""
    apply, params, x = structure.unflatten(leaves)
    row = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
    if method == "vector_products":
        program = jax.make_jaxpr(lambda a, p, v: a(p, v))(apply, params, row)
        return 2 * sum(nbytes(v.aval) for eqn in program.jaxpr.eqns for v in eqn.outvars)
    core = functools.partial(_derivatives, method=method, reduce=reduce)
    size = nbytes(jax.eval_shape(core, apply, params, row))
    return size if method == "jacobian" else 2 * size  # the backward pass holds as much again


def _select(
    problem: Problem, x: Any, reduce: str, method: str, by_layer: bool, budget: int
) -> tuple[str, int]:
    """The method, and the rows per block: two sides share the budget."""
    key = hashable(shapes((problem.apply, problem.leaves, x)))
    chosen = "structured" if method == "auto" else method
    size = _row_bytes(*key, chosen, reduce)
    if method == "auto" and not by_layer and size > budget:
        chosen = "vector_products"
        size = _row_bytes(*key, chosen, reduce)
    return chosen, max(1, budget // (2 * max(1, size)))


def _assemble(side: Any, block: Any, x1: Any, x2: Any, rows: int) -> Any:
    """The kernel block by block; of a symmetric one only the blocks on and above the diagonal."""
    other = x1 if x2 is None else x2
    if rows >= max(x1.shape[0], other.shape[0]):
        left = side(x1)
        if x2 is None:
            return jax.tree.map(_symmetrized, block(left, None))
        return block(left, side(x2))
    starts1, size1 = _blocks(x1.shape[0], rows)
    starts2, size2 = _blocks(other.shape[0], rows)
    result: Any = None
    held: dict[Any, Any] = {}
    for i, j in _visits(starts1, starts2, symmetric=x2 is None):
        slices = (0, i, size1), (0 if x2 is None else 1, j, size2)
        held = {key: held[key] for key in slices if key in held}
        for key in slices:
            if key not in held:
                held[key] = side((x1, other)[key[0]][key[1] : key[1] + key[2]])
        same = slices[0] == slices[1]
        part = block(held[slices[0]], None if same else held[slices[1]])
        part = jax.tree.map(_symmetrized, part) if same else part
        part = jax.tree.map(np.asarray, part)
        if result is None:
            shape = (x1.shape[0], other.shape[0])
            result = jax.tree.map(lambda p, n=shape: np.empty(n + p.shape[2:], p.dtype), part)
        jax.tree.map(functools.partial(_store, i, j, x2 is None and not same), result, part)
    return jax.tree.map(jnp.asarray, result)


def _visits(rows: list[int], columns: list[int], symmetric: bool) -> Iterator[tuple[int, int]]:
    """Pairs of blocks, back and forth, so that each shares a side with the one before."""
    for k, i in enumerate(rows):
        visited = [j for j in columns if j >= i or not symmetric]
        for j in visited if k % 2 == 0 else reversed(visited):
            yield i, j


def _blocks(n: int, rows: int) -> tuple[list[int], int]:
    """Starts of blocks of one common size (one compilation); the last may overlap its neighbour."""
    count = -(-n // rows)
    size = -(-n // count)
    return [min(k, n - size) for k in range(0, n, size)], size


def _store(i: int, j: int, mirror: bool, result: Any, part: Any) -> None:
    result[i : i + part.shape[0], j : j + part.shape[1]] = part
    if mirror:
        result[j : j + part.shape[1], i : i + part.shape[0]] = _swapped(part)
