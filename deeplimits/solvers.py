"""The jitted cores of :mod:`deeplimits.roots`: optimistix to get near, guarded Newton to finish.

optimistix and lineax mix dtypes and ranks inside, so they are called under the standard promotion
rules; they only see float64 vectors here. Nothing is raised: failure is ``converged=False``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optimistix as optx

from deeplimits.newton import Root, VectorMap, diagnose, implicit, newton

#: A function of the unknown, and of ``args`` if they are given.
Function = Callable[..., Any]


def bind(f: Function, args: Any, shape: tuple[int, ...]) -> VectorMap:
    """``f`` as a function of a flat vector."""

    def flat(x: jax.Array) -> jax.Array:
        x = x.reshape(shape)
        return jnp.ravel(f(x) if args is None else f(x, args))

    return flat


@functools.partial(jax.jit, static_argnames=("f", "max_steps", "polish"))
def solve_fixed_point(
    f: Function, x0: jax.Array, args: Any, damping: Any, tol: Any, *, max_steps: int, polish: bool
) -> Root:
    """Damped iteration, then Newton."""
    bound = bind(f, args, x0.shape)

    def solver(g: VectorMap, start: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Newton needs only the right neighbourhood; the step is (1 - damping) times the residual.
        goal = (1 - damping) * (jnp.sqrt(tol) if polish else tol)
        with jax.numpy_dtype_promotion("standard"):
            found: Any = optx.fixed_point(
                lambda x, _: x + g(x),
                optx.FixedPointIteration(rtol=goal, atol=goal, damp=damping),
                start,
                max_steps=max_steps,
                throw=False,
            )
        x, steps = found.value, found.stats["num_steps"]
        if not polish:
            return x, steps
        x, more = newton(g, x)
        return x, steps + more

    return _finish(lambda x: bound(x) - x, x0, tol, solver)


@functools.partial(jax.jit, static_argnames=("g", "max_steps"))
def solve_root(g: Function, x0: jax.Array, args: Any, tol: Any, *, max_steps: int) -> Root:
    """Dogleg, then Newton."""

    def solver(g: VectorMap, start: jax.Array) -> tuple[jax.Array, jax.Array]:
        coarse: Any = jnp.sqrt(tol)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            found: Any = optx.root_find(
                lambda x, _: g(x),
                optx.Dogleg(rtol=coarse, atol=coarse),
                start,
                max_steps=max_steps,
                throw=False,
            )
        x, more = newton(g, found.value)
        return x, found.stats["num_steps"] + more

    return _finish(bind(g, args, x0.shape), x0, tol, solver)


def _finish(g: VectorMap, x0: jax.Array, tol: Any, solver: Any, scale: Any = 1.0) -> Root:
    x, steps = implicit(g, x0.ravel(), solver)
    root = diagnose(g, x, steps, tol, scale)
    return dataclasses.replace(root, x=root.x.reshape(x0.shape))


@functools.partial(jax.jit, static_argnames=("g",))
def bracket_ends(
    g: Function, lo: jax.Array, hi: jax.Array, args: Any
) -> tuple[jax.Array, jax.Array]:
    """The function at both ends of flat arrays of brackets."""
    bound = bind(g, args, ())
    return jax.vmap(bound)(lo)[:, 0], jax.vmap(bound)(hi)[:, 0]


@functools.partial(jax.jit, static_argnames=("g",))
def solve_bracket(
    g: Function, lo: jax.Array, hi: jax.Array, args: Any, tol: Any, g_lo: jax.Array, g_hi: jax.Array
) -> Root:
    """Bisection of flat arrays of brackets, then Newton."""
    eps = float(jnp.finfo(lo.dtype).eps)

    def one(lo: jax.Array, hi: jax.Array, g_lo: jax.Array, g_hi: jax.Array) -> Root:
        sign = jnp.where(g_hi != 0, jnp.sign(g_hi), -jnp.sign(g_lo))

        def solver(g: VectorMap, start: jax.Array) -> tuple[jax.Array, jax.Array]:
            with jax.numpy_dtype_promotion("standard"):
                found: Any = optx.root_find(
                    lambda x, _: sign * g(x[None])[0],
                    optx.Bisection(rtol=2 * eps, atol=tol, flip=False),  # type: ignore[call-arg]
                    start[0],
                    options={"lower": lo, "upper": hi},
                    max_steps=128,
                    throw=False,
                )
            x, more = newton(g, found.value[None])
            return x, found.stats["num_steps"] + more

        middle = lo + (hi - lo) / 2
        size = jnp.maximum(jnp.abs(g_lo), jnp.abs(g_hi))
        return _finish(bind(g, args, ()), middle, tol, solver, size)

    return jax.vmap(one)(lo, hi, g_lo, g_hi)
