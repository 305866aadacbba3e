"""Guarded Newton iteration, implicit derivatives and the record of a root."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from deeplimits.pytrees import register_dataclass
from deeplimits.typing import Array

#: A function of one flat vector, and a solver ``(g, start) -> (x, steps)`` of ``g(x) = 0``.
VectorMap = Callable[[jax.Array], jax.Array]
Solver = Callable[[VectorMap, jax.Array], tuple[jax.Array, jax.Array]]


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Root:
    """A root or fixed point with what is needed to trust it; NaN in ``x`` where it failed.

    Attributes:
        x: the root, float64, in the shape of the start.
        residual: largest ``|f(x) - x|`` (or ``|g(x)|``) at the final point.
        abs_err: largest entry of the next Newton step: the estimated distance to the exact root.
        steps: iterations used, all stages together.
        converged: residual and ``abs_err`` are both small. A small residual alone is no root: near
            a branch that has just disappeared the residual is small too.
        stable: ``spectral_radius < 1``, so that iterating the map returns to x.
        spectral_radius: largest modulus of the eigenvalues of the Jacobian of the map.
        branch: label given by the caller.
    """

    x: Array
    residual: Array
    abs_err: Array
    steps: Array
    converged: Array
    stable: Array
    spectral_radius: Array
    branch: str = dataclasses.field(default="", metadata={"static": True})


def max_abs(x: jax.Array) -> jax.Array:
    """Largest modulus; NaN if an entry is NaN."""
    return jnp.max(jnp.abs(x))


def linear_solve(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    """Solution of a small linear system; one unknown needs no factorisation."""
    if matrix.shape == (1, 1):
        return vector / matrix[0, 0]
    return jnp.linalg.solve(matrix, vector)


def newton(
    g: VectorMap, x: jax.Array, *, max_steps: int = 64, reach: float = 0.1
) -> tuple[jax.Array, jax.Array]:
    """Newton iteration that never leaves the neighbourhood of its start.

    Why not a plain Newton solver: from a point where no root is near (just past a fold, say) it
    jumps to an arbitrary other root. Here the first step may be at most ``reach * (1 + |x|)``,
    each further step at most 0.9 of the one before, and the residual must fall, so the whole
    path is at most ten first steps long. It stops, keeping the best point, where this fails; that
    is also how it ends at the rounding floor and at degenerate roots (linear convergence).
    """

    def proposal(x: jax.Array) -> jax.Array:
        return -linear_solve(jax.jacfwd(g)(x), g(x))

    def advance(state):  # type: ignore[no-untyped-def]
        x, step, limit, count, _ = state
        new = x + step
        good = (max_abs(step) <= limit) & (max_abs(g(new)) < max_abs(g(x)))
        x = jnp.where(good, new, x)
        return x, proposal(x), 0.9 * max_abs(step), count + good.astype(int), good

    start = (x, proposal(x), reach * (1 + max_abs(x)), jnp.zeros((), int), jnp.array(True))
    end = jax.lax.while_loop(lambda s: s[4] & (s[3] < max_steps), advance, start)
    return end[0], end[3]


def implicit(g: VectorMap, start: jax.Array, solver: Solver) -> tuple[jax.Array, jax.Array]:
    """Solve ``g(x) = 0``; derivatives come from the implicit function theorem, to any order.

    Args:
        g: may close over traced values; the result is differentiable with respect to them.
        start: shape ``(n,)``.
        solver: returns the root and the number of steps; it is not differentiated.
    """

    def tangent_solve(linear: VectorMap, y: jax.Array) -> jax.Array:
        return linear_solve(jax.jacfwd(linear)(jnp.zeros_like(y)), y)

    def solve(g: VectorMap, start: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, steps = solver(g, start)
        return x, steps.astype(x.dtype)  # custom_root gives integer extras a wrong tangent type

    x, steps = jax.lax.custom_root(g, start, solve, tangent_solve, has_aux=True)
    return x, steps.astype(int)


def diagnose(
    g: VectorMap, x: jax.Array, steps: jax.Array, tol: jax.Array, scale: Any = 1.0
) -> Root:
    """The record of a flat root of ``g``; ``x + g(x)`` is the map whose stability is meant."""
    # The diagnostics carry no derivative: eigenvalues of a general matrix have none in JAX.
    values, slopes = jax.lax.stop_gradient((g(x), jax.jacfwd(g)(x)))
    residual, size = max_abs(values), 1 + max_abs(x)
    # An exact zero needs no correction, also where the Jacobian is singular.
    abs_err = jnp.where(residual == 0, 0.0, max_abs(linear_solve(slopes, values)))
    good = (residual <= tol * jnp.maximum(size, scale)) & (abs_err <= jnp.sqrt(tol) * size)
    radius = spectral_radius(slopes + jnp.eye(x.size))
    return Root(
        x=jnp.where(good, x, jnp.nan),
        residual=residual,
        abs_err=abs_err,
        steps=steps,
        converged=good,
        stable=radius < 1,
        spectral_radius=radius,
    )


def spectral_radius(matrix: jax.Array) -> jax.Array:
    """Largest modulus of the eigenvalues; NaN if the matrix is not finite."""
    finite = jnp.isfinite(matrix).all()
    safe = jnp.where(finite, matrix, 0.0)
    if matrix.shape == (1, 1):
        radius = jnp.abs(safe[0, 0])
    else:
        radius = jnp.max(jnp.abs(jnp.linalg.eigvals(safe)))
    return jnp.where(finite, radius, jnp.nan)
