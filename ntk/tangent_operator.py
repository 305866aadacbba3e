r"""The tangent kernel of a finite network as a linear operator, never formed.

.. math:: \Theta v = J (J^T v)

costs one pullback and one pushforward through the network, whatever the number of rows.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from deeplimits.errors import ShapeError
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import integer
from ntk.models import as_model_inputs, as_problem, check_rows, output_shape


@functools.partial(
    register_dataclass,
    data_fields=["apply", "leaves", "x"],
    meta_fields=["outputs", "block_size"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class NTKOperator:
    """``operator(v)`` is the kernel times ``v``, ``(n, outputs)`` or, for one output, ``(n,)``.

    A pytree, so it can be passed to ``jit``; made by :func:`empirical_ntk_operator`.
    """

    apply: Any
    leaves: Any
    x: Any
    outputs: int
    block_size: int

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the matrix that the operator stands for."""
        size = self.x.shape[0] * self.outputs
        return size, size

    def __call__(self, v: Any) -> Any:
        """``J (J^T v)``, of the shape of ``v``.

        Raises:
            ShapeError: ``v`` is not one number per row and output.
        """
        n = self.x.shape[0]
        allowed = [(n, self.outputs)] + [(n,)] * (self.outputs == 1)
        if jnp.shape(v) not in allowed:
            raise ShapeError(
                f"the operator acts on vectors of shape {allowed[0]}, one number per row and "
                f"output, got {jnp.shape(v)}. Use v.reshape{allowed[0]}."
            )
        v = jnp.asarray(v)
        return _matvec(self, v.reshape(n, self.outputs)).reshape(v.shape)


@jax.jit
def _matvec(operator: NTKOperator, v: Any) -> Any:
    """Both passes block by block, so that activations of one block of rows are held."""
    n, size = operator.x.shape[0], operator.block_size
    count = -(-n // size)

    def blocks(a: Any) -> Any:
        padded = jnp.concatenate([a, jnp.repeat(a[:1], count * size - n, axis=0)])
        return padded.reshape(count, size, *a.shape[1:])

    def model(leaves: Any, x: Any) -> Any:
        return operator.apply(leaves, x).reshape(size, operator.outputs)

    mask = (jnp.arange(count * size) < n).reshape(count, size, 1)
    rows, values = blocks(operator.x), jnp.where(mask, blocks(v), 0)

    def pull(total: Any, block: Any) -> Any:
        x, cotangent = block
        out, back = jax.vjp(lambda leaves: model(leaves, x), operator.leaves)
        return jax.tree.map(jnp.add, total, back(cotangent.astype(out.dtype))[0]), None

    def push(x: Any) -> Any:
        return jax.jvp(lambda leaves: model(leaves, x), (operator.leaves,), (tangent,))[1]

    leaves = jax.tree.map(jnp.asarray, operator.leaves)
    operator = dataclasses.replace(operator, leaves=leaves)
    tangent, _ = lax.scan(pull, jax.tree.map(jnp.zeros_like, leaves), (rows, values))
    return lax.map(push, rows).reshape(count * size, -1)[:n].astype(v.dtype)


def empirical_ntk_operator(f: Any, params: Any, x: Any, *, block_size: int = 256) -> NTKOperator:
    r"""The full tangent kernel of a finite network as a function ``v -> Theta v``.

    .. math:: (\Theta v)_{no} = \sum_{mq} \Theta_{nmoq} v_{mq}

    Args:
        f, params: as for :func:`ntk.empirical.empirical_ntk`.
        x: ``(n, d)`` or ``(n, *spatial, channels)``.
        block_size: rows whose activations are held at a time, default 256.

    Returns:
        A callable on arrays ``(n, outputs)``, for example for
        ``jax.scipy.sparse.linalg.cg(lambda v: operator(v) + noise * v, y)``. The kernel is the full
        one: its trace over outputs is ``outputs`` times ``empirical_ntk(..., reduce="trace")``.

    Raises:
        ShapeError, DomainError: as for :func:`ntk.empirical.empirical_ntk`.

    Source:
        ``J (J^T v)``: standard automatic differentiation.

    Check:
        tests/ntk/test_empirical.py::test_operator
    """
    integer(block_size, "block_size", at_least=1)
    problem = as_problem(f, params)
    x = as_model_inputs(x, "x")
    out = output_shape(problem, x)
    check_rows(problem, x)
    outputs = out.shape[1] if out.ndim == 2 else 1
    return NTKOperator(problem.apply, problem.leaves, x, outputs, min(block_size, x.shape[0]))
