"""Folds: where a branch of fixed points meets another one and both disappear (spinodals)."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from deeplimits.errors import ConvergenceError
from deeplimits.newton import VectorMap, diagnose, implicit, newton
from deeplimits.precision import require_x64
from deeplimits.pytrees import register_dataclass
from deeplimits.roots import as_float64, check_function
from deeplimits.solvers import Function
from deeplimits.typing import ArrayLike
from deeplimits.validate import choice, finite, is_traced, number


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Fold:
    """A point where two branches meet and disappear.

    Attributes:
        parameter: the critical parameter.
        x: the fixed point there.
        residual: largest entry of the fold equations.
        abs_err: largest entry of the next Newton step (x, null vector and parameter).
        converged: both are small.
    """

    parameter: Any
    x: Any
    residual: Any
    abs_err: Any
    converged: Any


def find_fold(
    f: Function,
    x0: ArrayLike,
    parameter: ArrayLike,
    *,
    args: Any = None,
    tol: float = 1e-12,
    on_fail: str = "raise",
) -> Fold:
    r"""The fold of a branch near a point: where a fixed point disappears (a spinodal).

    .. math:: f(x, \lambda) = x, \qquad (1 - f_x(x, \lambda))\,v = 0, \qquad v\cdot v_0 = 1

    Args:
        f: the map, called as ``f(x, parameter)`` or ``f(x, parameter, args)``.
        x0, parameter: a point near the fold, e.g. the last one of a path.
        args: pytree; the fold is differentiable with respect to it (the slope of a spinodal line).
        tol: as for :func:`deeplimits.roots.fixed_point`.
        on_fail: as for :func:`deeplimits.roots.fixed_point`.

    Returns:
        :class:`Fold`.

    Raises:
        ConvergenceError: no fold near the point.
        DomainError, ShapeError, PrecisionError: as for :func:`continuation`.

    Source: Moore & Spence (1980).
    Check: tests/deeplimits/test_continuation.py::test_find_fold.
    """
    x0, args, tol = prepare("find_fold", f, x0, args, tol)
    choice(on_fail, "on_fail", ("raise", "nan"))
    finite(parameter, "parameter")
    parameter = jnp.asarray(parameter, jnp.float64)
    fold = solve_fold(f, x0, parameter, null_vector(f, x0, parameter, args), args, tol)
    if on_fail == "raise" and not is_traced(fold.converged) and not bool(fold.converged):
        raise ConvergenceError(
            f"find_fold did not converge: residual {float(fold.residual):.3g}, estimated distance "
            f"{float(fold.abs_err):.3g}. Start nearer to the fold, e.g. from the last point of "
            "continuation(...)."
        )
    return fold


def equations(f: Function, args: Any, shape: tuple[int, ...]) -> VectorMap:
    """``f(x, p) - x`` as a function of the flat vector (x, p)."""
    extra = () if args is None else (args,)

    def g(y: jax.Array) -> jax.Array:
        return jnp.ravel(f(y[:-1].reshape(shape), y[-1], *extra)) - y[:-1]

    return g


@functools.partial(jax.jit, static_argnames=("f",))
def solve_fold(
    f: Function, x0: jax.Array, parameter: jax.Array, v0: jax.Array, args: Any, tol: Any
) -> Fold:
    """Newton iteration of the fold equations from an approximate null vector ``v0``."""
    g = equations(f, args, x0.shape)
    n = x0.size
    v0 = jax.lax.stop_gradient(v0 / jnp.linalg.norm(v0))

    def system(z: jax.Array) -> jax.Array:
        x, v, p = z[:n], z[n : 2 * n], z[2 * n]
        values, slope = jax.jvp(lambda x: g(jnp.append(x, p)), (x,), (v,))
        return jnp.concatenate([values, slope, (v @ v0 - 1)[None]])

    start = jnp.concatenate([x0.ravel(), v0, parameter[None]])
    z, steps = implicit(system, start, newton)
    root = diagnose(system, z, steps, tol)
    return Fold(
        root.x[2 * n], root.x[:n].reshape(x0.shape), root.residual, root.abs_err, root.converged
    )


@functools.partial(jax.jit, static_argnames=("f",))
def null_vector(f: Function, x: jax.Array, parameter: jax.Array, args: Any) -> jax.Array:
    """The direction in which the Jacobian of ``f(x) - x`` is most nearly singular."""
    slopes = jax.jacfwd(equations(f, args, x.shape))(jnp.append(x, parameter))[:, :-1]
    return jnp.linalg.svd(jax.lax.stop_gradient(slopes))[2][-1]


def prepare(caller: str, f: Function, x0: ArrayLike, args: Any, tol: Any) -> tuple[Any, Any, Any]:
    """Check and convert the start, the arguments and the tolerance before anything is compiled."""
    require_x64(caller)
    finite(x0, "the start")
    x0, args = jnp.asarray(x0, jnp.float64), jax.tree.map(as_float64, args)
    check_function(f, x0, jnp.zeros(()), *(() if args is None else (args,)))
    return x0, args, jnp.float64(number(tol, "tol", at_least=1e-15))
