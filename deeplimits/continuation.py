r"""Follow a branch of fixed points over a parameter, past folds, without falling off it.

Why not a warm-started iteration over a grid: past a fold it silently lands on another branch with
a perfect residual. Here every step must be certified: the Jacobian :math:`M = 1 - f'` may change
by at most half of itself, :math:`\|M_0^{-1}(M_1 - M_0)\| \le 1/2`, which makes the root unique in
the region of the step; otherwise the step is halved. At a fold M is singular, so the branch ends.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.errors import ConvergenceError, DomainError, ShapeError
from deeplimits.folds import equations, null_vector, prepare, solve_fold
from deeplimits.folds import find_fold as find_fold
from deeplimits.newton import Root, VectorMap, diagnose, linear_solve, max_abs, newton
from deeplimits.solvers import Function, solve_fixed_point
from deeplimits.typing import ArrayLike
from deeplimits.validate import finite, integer, number


@dataclasses.dataclass(frozen=True)
class Path:
    """A branch of fixed points along a parameter.

    Attributes:
        parameter: shape ``(n,)``.
        points: :class:`~deeplimits.newton.Root` whose fields have a leading axis of length n;
            NaN and ``converged=False`` where the branch does not exist.
        end: parameter of the last certified point; it lies between two grid points where a branch
            ends inside the grid (at a fold, or where it merges with a symmetric branch).
        fold_parameter: parameter values where the branch turns, refined; shape ``(k,)``. Where a
            branch merges with a symmetric one (a pitchfork) the fold equations are degenerate and
            nothing is listed; see ``end``.
        fold_x: the fixed points there, shape ``(k, ...)``.
        branch: label given by the caller.
    """

    parameter: np.ndarray
    points: Root
    end: float
    fold_parameter: np.ndarray
    fold_x: np.ndarray
    branch: str = ""

    @property
    def x(self) -> Any:
        """The fixed points, shape ``(n, ...)``."""
        return self.points.x

    @property
    def stable(self) -> Any:
        """Stability along the branch, shape ``(n,)``."""
        return self.points.stable


def continuation(
    f: Function,
    x0: ArrayLike,
    parameters: ArrayLike,
    *,
    args: Any = None,
    tol: float = 1e-12,
    max_steps: int = 10_000,
    branch: str = "",
) -> Path:
    r"""Follow the fixed point of ``f(x, parameter)`` over a monotone grid of parameters.

    .. math:: x(\lambda) = f(x(\lambda), \lambda), \qquad
              \frac{dx}{d\lambda} = (1 - f_x)^{-1} f_\lambda

    Between grid points it takes as many certified tangent-and-Newton steps as needed. Where the
    branch ends, the remaining points are NaN and the fold, if it is one, is located.

    Args:
        f: the map, called as ``f(x, parameter)`` or ``f(x, parameter, args)``.
        x0: start for the first parameter, any shape; it is first iterated with damping 0.5.
        parameters: strictly monotone, shape ``(n,)``, n >= 2.
        args: pytree of further arguments.
        tol: as for :func:`deeplimits.roots.fixed_point`.
        max_steps: most damped steps at the first point.
        branch: label stored in the result.

    Returns:
        :class:`Path` with one point per parameter.

    Raises:
        ConvergenceError: no fixed point at the first parameter.
        DomainError: the parameters are not finite or not monotone.
        ShapeError: wrong shape of ``parameters`` or of the value of f.
        PrecisionError: JAX runs in float32.

    Source: predictor-corrector: Allgower & Georg, "Numerical continuation methods"; certificate
        derived here from the inverse function theorem.

    Check: tests/deeplimits/test_continuation.py::test_natural_continuation_stops_at_the_fold.
    """
    x0, args, tol = prepare("continuation", f, x0, args, tol)
    parameters = _monotone(parameters)
    max_steps = integer(max_steps, "max_steps", at_least=1)
    points, x, p = _natural(f, x0, jnp.asarray(parameters), args, tol, max_steps=max_steps)
    _started("continuation", points, parameters[0])
    folds = []
    if not points.converged[-1]:
        fold = solve_fold(f, x, p, null_vector(f, x, p, args), args, tol)
        if bool(fold.converged) and abs(fold.parameter - p) <= 1e-3 * np.ptp(parameters):
            folds.append(fold)
    return _path(parameters, points, float(p), folds, x0.shape, branch)


def arclength_continuation(
    f: Function,
    x0: ArrayLike,
    parameter: float,
    *,
    step: float,
    n_points: int = 200,
    direction: int = 1,
    parameter_range: tuple[float, float] = (-np.inf, np.inf),
    args: Any = None,
    tol: float = 1e-12,
    max_steps: int = 10_000,
    branch: str = "",
) -> Path:
    r"""Follow a branch of fixed points around folds, by pseudo-arclength.

    .. math:: f(x, \lambda) = x, \qquad \dot x_0\cdot(x - x_0) + \dot\lambda_0(\lambda - \lambda_0)
              = \Delta s

    Args:
        f: the map, called as ``f(x, parameter)`` or ``f(x, parameter, args)``.
        x0: start for the first parameter, any shape.
        parameter: where to start.
        step: largest distance between points in the space of (x, parameter); shortened where the
            branch bends. Scale the parameter so that both matter.
        n_points: most points.
        direction: 1 or -1, the sign in which the parameter changes first.
        parameter_range: the branch is followed while the parameter is inside.
        args, tol, max_steps, branch: as for :func:`continuation`.

    Returns:
        :class:`Path`; the parameter turns at every fold. At most ``n_points`` points.

    Raises:
        ConvergenceError: no fixed point at the first parameter, or no step away from it.
        DomainError, ShapeError, PrecisionError: as for :func:`continuation`.

    Source: Keller (1977); certificate as in :func:`continuation`.
    Check: tests/deeplimits/test_continuation.py::test_arclength_passes_folds.
    """
    x0, args, tol = prepare("arclength_continuation", f, x0, args, tol)
    parameter = number(parameter, "parameter")
    step = number(step, "step", above=0.0)
    if direction not in (1, -1):
        raise DomainError(f"direction must be 1 or -1, got {direction!r}.")
    n_points = integer(n_points, "n_points", at_least=2)
    max_steps = integer(max_steps, "max_steps", at_least=1)
    first, y, tangent = _around(
        f,
        x0,
        jnp.float64(parameter),
        jnp.float64(step),
        jnp.float64(direction),
        jnp.asarray(parameter_range, jnp.float64),
        args,
        tol,
        n_points=n_points,
        max_steps=max_steps,
    )
    _started("arclength_continuation", first, parameter)
    y, tangent = np.asarray(y), np.asarray(tangent)
    inside = (y[:, -1] >= parameter_range[0]) & (y[:, -1] <= parameter_range[1])
    keep = np.logical_and.accumulate(np.isfinite(y).all(1) & inside)
    y, tangent = y[keep], tangent[keep]
    if len(y) < 2:
        raise ConvergenceError(
            f"arclength_continuation: no step away from parameter {parameter:g} succeeded. "
            "Use a smaller step, or the other direction."
        )
    points = _diagnostics(f, jnp.asarray(y), args, tol, x0.shape)
    folds = _turns(f, y, tangent, args, tol, x0.shape)
    return _path(y[:, -1], points, float(y[-1, -1]), folds, x0.shape, branch)


def _turns(
    f: Function, y: np.ndarray, tangent: np.ndarray, args: Any, tol: Any, shape: tuple[int, ...]
) -> list:
    """The folds between points where the parameter changes its direction."""
    folds = []
    for i in np.flatnonzero(tangent[:-1, -1] * tangent[1:, -1] < 0):
        i += abs(tangent[i + 1, -1]) < abs(tangent[i, -1])
        x, v = (jnp.asarray(a).reshape(shape) for a in (y[i, :-1], tangent[i, :-1]))
        fold = solve_fold(f, x, jnp.asarray(y[i, -1]), jnp.ravel(v), args, tol)
        if bool(fold.converged):
            folds.append(fold)
    return folds


def _certified(old: jax.Array, new: jax.Array, start: Any, guess: Any, end: Any) -> jax.Array:
    """Whether a step from ``start`` to ``end`` stayed on its branch.

    Args:
        old, new: Jacobians at both ends.
        start, guess, end: points. Where the Jacobian is singular without a fold (a symmetric
            branch that others leave), the tangent itself must have predicted the end.
    """
    change = jnp.max(jnp.sum(jnp.abs(linear_solve(old, new - old)), axis=1))
    moved, size = max_abs(guess - start), 1 + max_abs(start)
    predicted = (max_abs(end - guess) <= 0.02 * moved + 1e-10 * size) & (moved <= 0.1 * size)
    return jnp.isfinite(end).all() & ((change <= 0.5) | predicted)


@functools.partial(jax.jit, static_argnames=("f", "max_steps"))
def _natural(
    f: Function, x0: jax.Array, parameters: jax.Array, args: Any, tol: Any, *, max_steps: int
) -> tuple[Root, jax.Array, jax.Array]:
    """Points over the grid, and the last certified point of the branch."""
    g = equations(f, args, x0.shape)
    at = functools.partial(_at_parameter, g)
    first = solve_fixed_point(
        lambda x: x + at(parameters[0])(x),
        x0.ravel(),
        None,
        0.5,
        tol,
        max_steps=max_steps,
        polish=True,
    )
    shortest = 1e-9 * jnp.abs(parameters[-1] - parameters[0])

    def try_step(state):  # type: ignore[no-untyped-def]
        x, p, h, target = state
        last = jnp.abs(h) >= jnp.abs(target - p)
        q = jnp.where(last, target, p + h)
        slopes = jax.jacfwd(g)(jnp.append(x, p))
        guess = x - linear_solve(slopes[:, :-1], slopes[:, -1]) * (q - p)
        # On a bifurcation exactly the tangent is 0/0; a symmetric branch stays where it is.
        guess = jnp.where(jnp.isfinite(guess).all(), guess, x)
        end, _ = newton(at(q), guess, max_steps=16)
        good = _certified(slopes[:, :-1], jax.jacfwd(at(q))(end), x, guess, end)
        good &= max_abs(at(q)(end)) <= tol * (1 + max_abs(end))
        return jnp.where(good, end, x), jnp.where(good, q, p), jnp.where(good, 2 * h, h / 2), target

    def unfinished(state):  # type: ignore[no-untyped-def]
        _, p, h, target = state
        return (p != target) & (jnp.abs(h) > shortest)

    def to_next(carry, target):  # type: ignore[no-untyped-def]
        x, p, alive = carry
        h = jnp.where(alive, target - p, 0.0)
        x, p, _, _ = jax.lax.while_loop(unfinished, try_step, (x, p, h, target))
        alive &= p == target
        return (x, p, alive), jnp.where(alive, x, jnp.nan)

    carry = (first.x, parameters[0], first.converged)
    (x, p, _), xs = jax.lax.scan(to_next, carry, parameters[1:])
    y = jnp.column_stack([jnp.vstack([first.x[None], xs]), parameters])
    return _diagnostics(f, y, args, tol, x0.shape), x.reshape(x0.shape), p


def _at_parameter(g: VectorMap, p: jax.Array) -> VectorMap:
    return lambda x: g(jnp.append(x, p))


def _first_tangent(slopes: jax.Array, direction: jax.Array) -> jax.Array:
    tangent = jnp.linalg.svd(slopes)[2][-1]
    return tangent * jnp.where(tangent[-1] * direction < 0, -1.0, 1.0)


@functools.partial(jax.jit, static_argnames=("f", "n_points", "max_steps"))
def _around(
    f: Function,
    x0: jax.Array,
    parameter: jax.Array,
    step: jax.Array,
    direction: jax.Array,
    limits: jax.Array,
    args: Any,
    tol: Any,
    *,
    n_points: int,
    max_steps: int,
) -> tuple[Root, jax.Array, jax.Array]:
    """The first point; all points (x, parameter) and unit tangents, NaN after the end."""
    g = equations(f, args, x0.shape)
    first = solve_fixed_point(
        lambda x: x + g(jnp.append(x, parameter)),
        x0.ravel(),
        None,
        0.5,
        tol,
        max_steps=max_steps,
        polish=True,
    )
    y = jnp.append(first.x, parameter)
    tangent = _first_tangent(jnp.where(first.converged, jax.jacfwd(g)(y), 0.0), direction)

    def try_step(state):  # type: ignore[no-untyped-def]
        y, t, h, _ = state
        guess = y + h * t
        end, _ = newton(lambda z: jnp.append(g(z), t @ (z - guess)), guess, max_steps=16)
        old, new = (jnp.vstack([jax.jacfwd(g)(z), t[None]]) for z in (y, end))
        good = _certified(old, new, y, guess, end)
        good &= max_abs(g(end)) <= tol * (1 + max_abs(end))
        turned = jnp.linalg.solve(new, jnp.zeros_like(y).at[-1].set(1.0))
        turned /= jnp.linalg.norm(turned)
        h = jnp.where(good, jnp.minimum(1.5 * h, step), h / 2)
        return jnp.where(good, end, y), jnp.where(good, turned, t), h, good

    def to_next(carry, _):  # type: ignore[no-untyped-def]
        y, t, h, alive = carry
        state = (y, t, h, ~alive)
        y, t, h, good = jax.lax.while_loop(lambda s: ~s[3] & (s[2] > 1e-9 * step), try_step, state)
        alive &= good
        nan = jnp.where(alive, 0.0, jnp.nan)
        alive &= (y[-1] >= limits[0]) & (y[-1] <= limits[1])
        return (y, t, h, alive), (y + nan, t)

    carry = (y, tangent, step, first.converged)
    _, (ys, ts) = jax.lax.scan(to_next, carry, length=n_points - 1)
    return first, jnp.vstack([y[None], ys]), jnp.vstack([tangent[None], ts])


@functools.partial(jax.jit, static_argnames=("f", "shape"))
def _diagnostics(f: Function, y: jax.Array, args: Any, tol: Any, shape: tuple[int, ...]) -> Root:
    g = equations(f, args, shape)

    def one(y: jax.Array) -> Root:
        root = diagnose(_at_parameter(g, y[-1]), y[:-1], jnp.zeros((), int), tol)
        return dataclasses.replace(root, x=root.x.reshape(shape))

    return jax.vmap(one)(y)


def _monotone(parameters: ArrayLike) -> np.ndarray:
    finite(parameters, "parameters")
    grid = np.asarray(parameters, np.float64)
    if grid.ndim != 1 or grid.size < 2:
        raise ShapeError(f"parameters must have shape (n,) with n >= 2, got {grid.shape}.")
    steps = np.diff(grid)
    if not ((steps > 0).all() or (steps < 0).all()):
        raise DomainError(
            "parameters must increase or decrease strictly; sort them, starting where the branch "
            "is known."
        )
    return grid


def _started(caller: str, points: Root, parameter: float) -> None:
    if not np.ravel(points.converged)[0]:
        raise ConvergenceError(
            f"{caller}: no fixed point at the first parameter {parameter:g} (residual "
            f"{float(np.ravel(points.residual)[0]):.3g}). Start where the branch is known, from a "
            "nearer x0, or with more max_steps."
        )


def _path(
    parameters: np.ndarray,
    points: Root,
    end: float,
    folds: list,
    shape: tuple[int, ...],
    branch: str,
) -> Path:
    return Path(
        parameters,
        dataclasses.replace(jax.device_get(points), branch=branch),
        end,
        np.array([float(fold.parameter) for fold in folds]),
        np.array([fold.x for fold in folds]).reshape(-1, *shape),
        branch,
    )
