r"""Fixed points and roots with branch, stability and implicit derivative (a layer over optimistix).

Which function to use: :func:`fixed_point` for self-consistency equations of which the stable
solution is wanted; :func:`multi_start` for all of them; :func:`bracketed_root` for one unknown;
:func:`find_root` near a known point; :mod:`deeplimits.continuation` to follow a branch.

"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.errors import ConvergenceError, DomainError, ShapeError
from deeplimits.newton import Root as Root
from deeplimits.precision import require_x64
from deeplimits.solvers import Function, bracket_ends, solve_bracket, solve_fixed_point, solve_root
from deeplimits.typing import ArrayLike
from deeplimits.validate import choice, finite, integer, is_traced, number


def fixed_point(
    f: Function,
    x0: ArrayLike,
    *,
    args: Any = None,
    damping: float = 0.5,
    tol: float = 1e-12,
    max_steps: int = 10_000,
    polish: bool = True,
    branch: str = "",
    on_fail: str = "raise",
) -> Root:
    r"""A fixed point by damped iteration, polished by Newton steps.

    .. math:: x \leftarrow \eta\,x + (1 - \eta) f(x), \qquad
              \frac{dx}{da} = \Big(1 - \frac{\partial f}{\partial x}\Big)^{-1}
              \frac{\partial f}{\partial a}

    Args:
        f: the map, called as ``f(x)``, or as ``f(x, args)`` if ``args`` is given. Compiled once
            per function object: define it outside loops and pass what changes through ``args``.
        x0: start, any shape (``()`` for one unknown); it selects the branch.
        args: pytree; the result is differentiable with respect to it.
        damping: :math:`\eta` in [0, 1), the share of the old value. Default 0.5.
        tol: largest residual relative to ``1 + |x|``, at least 1e-15. Default 1e-12.
        max_steps: most damped steps.
        polish: finish with guarded Newton steps (they cannot leave the neighbourhood); otherwise
            the damped iteration runs to ``tol`` alone.
        branch: label stored in the result.
        on_fail: ``"raise"``, or ``"nan"``: x is NaN and ``converged`` is False. Under ``jit``,
            ``vmap`` and ``grad`` nothing can be raised, so it is always ``"nan"``.

    Returns:
        :class:`Root`; ``x`` has the shape of ``x0``.

    Raises:
        ConvergenceError: no fixed point was reached.
        DomainError: NaN in ``x0``, or an option out of range.
        ShapeError: f does not return the shape of x0.
        PrecisionError: JAX runs in float32.

    Source: implicit function theorem; guards derived here.
    Check: tests/deeplimits/test_roots.py::test_ising, ::test_implicit_derivative.
    """
    x0, args = _prepare("fixed_point", f, x0, args)
    damping, tol, max_steps = _options(damping, tol, max_steps)
    choice(on_fail, "on_fail", ("raise", "nan"))
    root = solve_fixed_point(f, x0, args, damping, tol, max_steps=max_steps, polish=bool(polish))
    return _report(root, "fixed_point", branch, on_fail, tol)


def find_root(
    g: Function,
    x0: ArrayLike,
    *,
    args: Any = None,
    tol: float = 1e-12,
    max_steps: int = 256,
    branch: str = "",
    on_fail: str = "raise",
) -> Root:
    r"""A root of ``g(x) = 0`` near ``x0`` by the dogleg method, polished by Newton steps.

    .. math:: g(x) = 0, \qquad
              \frac{dx}{da} = -\Big(\frac{\partial g}{\partial x}\Big)^{-1}
              \frac{\partial g}{\partial a}

    It finds stable and unstable roots alike; check ``.stable`` and the branch.

    Args:
        g: called as ``g(x)`` or ``g(x, args)``; returns the shape of x.
        x0: start, any shape.
        args, tol, branch, on_fail: as for :func:`fixed_point`.
        max_steps: most dogleg steps.

    Returns:
        :class:`Root`; stability refers to the map ``x -> x + g(x)``.

    Raises:
        ConvergenceError, DomainError, ShapeError, PrecisionError: as for :func:`fixed_point`.

    Source: Powell's dogleg in optimistix; guards derived here.
    Check: tests/deeplimits/test_roots.py::test_find_root.
    """
    x0, args = _prepare("find_root", g, x0, args)
    _, tol, max_steps = _options(0.0, tol, max_steps)
    choice(on_fail, "on_fail", ("raise", "nan"))
    root = solve_root(g, x0, args, tol, max_steps=max_steps)
    return _report(root, "find_root", branch, on_fail, tol)


def bracketed_root(
    g: Function,
    lo: ArrayLike,
    hi: ArrayLike,
    *,
    args: Any = None,
    tol: float = 1e-12,
    branch: str = "",
    on_fail: str = "raise",
) -> Root:
    r"""The root of a scalar function between two points where it has opposite signs.

    .. math:: g(x) = 0, \qquad lo \le x \le hi, \qquad g(lo)\,g(hi) \le 0

    Bisection, then guarded Newton steps.

    Args:
        g: scalar function of a scalar, called as ``g(x)`` or ``g(x, args)``.
        lo, hi: ends of the brackets, any shapes that broadcast; every bracket is solved.
        args: shared by all brackets (to vary it, ``jax.vmap`` this function).
        tol: largest residual relative to the larger of ``1 + |x|`` and ``|g|`` at the ends.
        branch, on_fail: as for :func:`fixed_point`.

    Returns:
        :class:`Root` with fields of the broadcast shape; stability as for :func:`find_root`.

    Raises:
        DomainError: no sign change, NaN, or an option out of range.
        ConvergenceError: the sign changes through a jump or a pole.
        ShapeError: g does not return a scalar.
        PrecisionError: JAX runs in float32.

    Source: bisection in optimistix.
    Check: tests/deeplimits/test_roots.py::test_bracketed_root.
    """
    lo, args = _prepare("bracketed_root", None, lo, args)
    hi, _ = _prepare("bracketed_root", None, hi, None)
    _, tol, _ = _options(0.0, tol, 1)
    choice(on_fail, "on_fail", ("raise", "nan"))
    lo, hi = jnp.broadcast_arrays(lo, hi)
    check_function(g, jnp.zeros(()), *(() if args is None else (args,)))
    ends = bracket_ends(g, lo.ravel(), hi.ravel(), args)
    _check_signs(lo, hi, *ends)
    root = solve_bracket(g, lo.ravel(), hi.ravel(), args, tol, *ends)
    root = jax.tree.map(lambda leaf: leaf.reshape(lo.shape), root)
    return _report(root, "bracketed_root", branch, on_fail, tol)


@dataclasses.dataclass(frozen=True)
class Branches:
    """Distinct roots, sorted; iterate over it or index it to get :class:`Root` records.

    Attributes:
        roots: :class:`Root` whose fields have a leading axis over branches.
        basin: number of starts that led to each branch.
        dropped: number of starts that led nowhere (NaN, no convergence, wandering).
        labels: one label per branch.
    """

    roots: Root
    basin: np.ndarray
    dropped: int
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Root:
        one = jax.tree.map(lambda leaf: leaf[index], self.roots)
        return dataclasses.replace(one, branch=self.labels[index])

    def __iter__(self) -> Iterator[Root]:
        return (self[i] for i in range(len(self)))


def multi_start(
    f: Function,
    starts: ArrayLike,
    *,
    args: Any = None,
    method: str = "damped",
    damping: float = 0.5,
    tol: float = 1e-12,
    max_steps: int = 10_000,
    same: float = 1e-6,
    label: Callable[[np.ndarray], str] | None = None,
) -> Branches:
    r"""All fixed points reached from many starts, each once, with its stability.

    Args:
        f: the map, called as ``f(x)`` or ``f(x, args)``.
        starts: shape ``(n_starts, ...)``; solved in one batch.
        args, damping, tol, max_steps: as for :func:`fixed_point`.
        method: ``"damped"`` finds the fixed points that attract the damped iteration,
            ``"newton"`` (dogleg on ``f(x) - x``, at most 256 steps) also the unstable ones.
        same: two roots closer than ``same * (1 + |x|)``, or than ten times their estimated errors,
            are one.
        label: function of a root that names its branch; default ``"0"``, ``"1"``, ...

    Returns:
        :class:`Branches`, sorted by the entries of x, the first entry first.

    Raises:
        ConvergenceError: no start converged.
        DomainError, ShapeError, PrecisionError: as for :func:`fixed_point`; also without starts.

    Source: derived here.
    Check: tests/deeplimits/test_roots.py::test_multi_start.
    """
    starts, args = _prepare("multi_start", None, starts, args)
    if starts.ndim == 0 or starts.shape[0] == 0:
        raise ShapeError(f"starts must have shape (n_starts, ...), got {starts.shape}.")
    check_function(f, starts[0], *(() if args is None else (args,)))
    damping, tol, max_steps = _options(damping, tol, max_steps)
    choice(method, "method", ("damped", "newton"))
    same = number(same, "same", above=0.0)
    found = jax.device_get(
        _multi_start(f, starts, args, damping, tol, max_steps=max_steps, method=method)
    )
    if not found.converged.any():
        raise ConvergenceError(
            f"multi_start: none of the {len(starts)} starts converged (smallest residual "
            f"{np.nanmin(np.append(found.residual, np.inf)):.3g}). Try other starts, more damping "
            "or more max_steps."
        )
    index, basin = _distinct(found, same)
    roots = jax.tree.map(lambda leaf: leaf[index], found)
    names = [str(i) if label is None else str(label(x)) for i, x in enumerate(roots.x)]
    return Branches(roots, basin, int((~found.converged).sum()), tuple(names))


def _distinct(found: Root, same: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices of one root per branch, in lexicographic order, and the number of starts of each."""
    good = np.flatnonzero(found.converged)
    x, err = np.reshape(found.x, (len(found.x), -1)), found.abs_err
    chosen: list[int] = []
    members: list[int] = []
    for i in good[np.argsort(err[good], kind="stable")]:
        gaps = [np.abs(x[i] - x[j]).max() for j in chosen]
        near = [max(same * (1 + np.abs(x[i]).max()), 10 * (err[i] + err[j])) for j in chosen]
        hits = [k for k, (gap, limit) in enumerate(zip(gaps, near, strict=True)) if gap <= limit]
        if hits:
            members[hits[0]] += 1
        else:
            chosen.append(int(i))
            members.append(1)
    order = np.lexsort(x[chosen].T[::-1])
    return np.asarray(chosen)[order], np.asarray(members)[order]


@functools.partial(jax.jit, static_argnames=("f", "max_steps", "method"))
def _multi_start(
    f: Function,
    starts: jax.Array,
    args: Any,
    damping: Any,
    tol: Any,
    *,
    max_steps: int,
    method: str,
) -> Root:
    def shifted(x: jax.Array, *args: Any) -> jax.Array:
        return f(x, *args) - x

    def solve(x0: jax.Array) -> Root:
        if method == "newton":
            return solve_root(shifted, x0, args, tol, max_steps=256)
        return solve_fixed_point(f, x0, args, damping, tol, max_steps=max_steps, polish=True)

    return jax.vmap(solve)(starts)


def _check_signs(lo: jax.Array, hi: jax.Array, g_lo: jax.Array, g_hi: jax.Array) -> None:
    if any(is_traced(a) for a in (lo, hi, g_lo, g_hi)):
        return
    bad = ~(np.sign(np.asarray(g_lo)) * np.sign(np.asarray(g_hi)) <= 0)
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise DomainError(
            f"g does not change sign between lo={np.ravel(lo)[i]:g} (g={g_lo[i]:g}) and "
            f"hi={np.ravel(hi)[i]:g} (g={g_hi[i]:g}); {int(bad.sum())} such brackets. "
            "Plot g and choose a bracket around one root."
        )


def _prepare(caller: str, f: Function | None, x0: ArrayLike, args: Any) -> tuple[jax.Array, Any]:
    """Check and convert the start (and the arguments) to float64 before anything is compiled."""
    require_x64(caller)
    finite(x0, "the start")
    x0 = jnp.asarray(x0, jnp.float64)
    args = jax.tree.map(as_float64, args)
    if f is not None:
        check_function(f, x0, *(() if args is None else (args,)))
    return x0, args


def as_float64(leaf: Any) -> Any:
    """Floating leaves become float64; integers stay what they are."""
    if jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
        return jnp.asarray(leaf, jnp.float64)
    return leaf


def check_function(f: Function, *arguments: Any) -> None:
    """Raise :class:`ShapeError` unless ``f`` returns the shape of its first argument."""
    shape, out = arguments[0].shape, jax.eval_shape(f, *arguments)
    if getattr(out, "shape", None) != shape:
        raise ShapeError(
            f"the function must return one array of the shape of its argument {shape}, got "
            f"{getattr(out, 'shape', type(out).__name__)}. Return jnp.stack of the equations."
        )


def _options(damping: Any, tol: Any, max_steps: Any) -> tuple[Any, Any, int]:
    damping = number(damping, "damping", at_least=0.0, below=1.0)
    tol = number(tol, "tol", at_least=1e-15)
    return jnp.float64(damping), jnp.float64(tol), integer(max_steps, "max_steps", at_least=1)


def _report(root: Root, caller: str, branch: str, on_fail: str, tol: Any) -> Root:
    """Name the branch; raise if a concrete root failed."""
    root = dataclasses.replace(root, branch=branch)
    if on_fail == "nan" or is_traced(root.converged) or bool(jnp.all(root.converged)):
        return root
    failed = np.flatnonzero(~np.ravel(root.converged))
    i = int(failed[0])
    residual, abs_err = float(np.ravel(root.residual)[i]), float(np.ravel(root.abs_err)[i])
    which = f" (element {i}, one of {failed.size} failures)" if np.ndim(root.converged) else ""
    if not np.isfinite(residual):
        cause = "The iteration left the domain where the function is finite"
    elif residual <= tol:
        cause = "The residual is small, but no root is near: a branch may just have disappeared"
    else:
        cause = "It wanders, needs more steps, or meets a jump"
    raise ConvergenceError(
        f"{caller} did not converge{which}: residual {residual:.3g}, estimated distance "
        f"{abs_err:.3g}, {int(np.ravel(root.steps)[i])} steps, tol {float(tol):g}. {cause}. "
        f'{_ADVICE[caller]} Or take NaN for an answer with on_fail="nan".'
    )


_ADVICE = {
    "fixed_point": "Try more damping (damping=0.9), another start, more max_steps, or continuation "
    "from a parameter where the branch is known.",
    "find_root": "Try another start, more max_steps, or (for one unknown) bracketed_root.",
    "bracketed_root": "The sign changes through a jump or a pole: choose another bracket.",
}
