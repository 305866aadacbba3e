r"""Multitasking networks: diluted patterns, of which several are retrieved at the same time.

.. math:: H = -\frac{N}{2 g} \sum_{\mu=1}^K \hat M_\mu^2, \qquad
          \hat M_\mu = \frac1N \sum_i \hat x_i^\mu \sigma_i, \qquad
          P(\xi = 0) = d, \quad P(\xi = \pm 1) = \tfrac12 (1 - d)

The iteration of the saddle-point equations never raises the free energy (it is a concave-convex
procedure), so that every start leads to a stationary point; Newton steps, taken where they lower
the free energy, only make it fast. Which state wins is decided by comparing many starts.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.errors import DomainError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import Array, ArrayLike
from deeplimits.validate import as_real, choice, finite, integer, is_traced
from statmech import multitasking_average as average

#: Names of the kinds of states in the order of their codes.
KINDS = ("paramagnet", "pure", "hierarchical", "intermediate", "parallel")
#: An order parameter below this is zero, and two closer than this are equal.
SAME = 1e-7
_PLAIN, _STEPS, _GOAL = 30, 200, 1e-13


@register_dataclass
@dataclasses.dataclass(frozen=True)
class MultitaskingState:
    """A state of the multitasking network; leading axes are those of d and T.

    Attributes:
        m: overlaps with the patterns ``(..., K)``, decreasing.
        Mhat: order parameters, overlaps with the normalised means of the examples ``(..., K)``.
        f: free energy per spin.
        E: internal energy per spin.
        code: kind of state, a number in :data:`statmech.multitasking.KINDS`.
        stable: a local minimum of the free energy.
        residual: largest deviation from the saddle-point equations.
    """

    m: Array
    Mhat: Array
    f: Array
    E: Array
    code: Array
    stable: Array
    residual: Array

    @property
    def branch(self) -> Any:
        """``"paramagnet"``; ``"pure"`` (one pattern); ``"hierarchical"`` (each order parameter
        above the sum of those that follow); ``"parallel"`` (all equal); else ``"intermediate"``.
        """
        names = np.asarray(KINDS)[np.asarray(self.code)]
        return str(names) if names.ndim == 0 else names


@float64_scope
def multitasking(
    K: int,
    d: ArrayLike,
    T: ArrayLike,
    *,
    examples: Any = None,
    g: str = "classic",
    branch: str = "best",
    starts: int = 16,
) -> MultitaskingState:
    r"""The state of a network that stores K diluted patterns, from exact averages over them.

    .. math:: \hat M_\mu = E\,\hat x^\mu \tanh\frac{\hat x \cdot \hat M}{g T}, \quad
              m_\mu = E\,\xi^\mu \tanh\frac{\hat x \cdot \hat M}{g T}, \quad
              f = \frac{\hat M^2}{2 g} - T\,E \ln 2\cosh\frac{\hat x \cdot \hat M}{g T}

    Args:
        K: number of patterns, >= 1 (of order one; the load vanishes).
        d: dilution, the share of zero entries, in [0, 1); arrays broadcast with T.
        T: temperature, >= 0. At 0 the equations with signs are solved, not those of a small T.
        examples: ``Examples(M, r, supervised)`` or anything with ``M`` and ``r``: M examples of
            each pattern, whose non-zero entries are right with probability (1 + r) / 2. Default
            None: the patterns themselves. At this load both protocols have the same equations;
            without supervision ``stable`` also asks that no example be preferred to the others.
        g: normalisation of the Hamiltonian, ``"classic"`` (1, default) or ``"diluted"`` (1 - d).
        branch: ``"best"`` (default) is the lowest free energy of all starts; ``"hierarchical"``
            what the hierarchical state leads to; ``"pure"`` and ``"parallel"`` the states with one
            overlap and with all equal, also where they are unstable.
        starts: quasi-random starts of the best state beside the systematic ones, default 16.

    Returns:
        :class:`MultitaskingState`. With d or T traced, its arrays are differentiable by the
        implicit function theorem (first derivatives, within one state).

    Raises:
        DomainError: an argument out of its range, or too many combinations of entries.

    Source: derived here for the model of arXiv:2308.04106.

    Check: tests/statmech/test_multitasking.py
    """
    K, starts = integer(K, "K", at_least=1), integer(starts, "starts", at_least=0)
    numbers = average.example_numbers(examples)
    supervised = bool(getattr(examples, "supervised", True))
    choice(g, "g", ("classic", "diluted"))
    choice(branch, "branch", ("best", "hierarchical", "pure", "parallel"))
    d_ = _inside(d, "d", 1.0)
    T_ = _inside(T, "T", np.inf)
    traced = is_traced(d_) or is_traced(T_)
    d_, T_ = jnp.broadcast_arrays(*(jnp.asarray(v, jnp.float64) for v in (d_, T_)))
    table = average.states(K, numbers)  # refuses too many combinations before all else
    # the table is an argument of the program: other examples of the same number compile nothing
    split = not supervised and numbers is not None and numbers[0] > 1
    examples_law = (float(numbers[0] if numbers else 1), average.entries(numbers).R)
    tables = jax.tree.map(jnp.asarray, (table, examples_law))
    solve = functools.partial(_solve, *tables, split=split, g=g, branch=branch, starts=starts)
    if traced:
        found = solve(d_.ravel(), T_.ravel())
    else:
        most = 10_000_000 // (len(table.weight) * K * (starts + K + 6))
        found = _in_chunks(solve, np.ravel(d_), np.ravel(T_), most)
    return jax.tree.map(lambda leaf: leaf.reshape(d_.shape + leaf.shape[1:]), found)


def _in_chunks(solve: Any, d: np.ndarray, T: np.ndarray, most: int) -> Any:
    """Chunks of few sizes, of which the last is filled up, so that few programs are compiled."""
    size = next((s for s in (32, 1024) if s >= min(len(d), most)), 1024)
    size = max(1, min(size, most))
    full = -(-len(d) // size) * size
    parts = [
        jax.tree.map(np.asarray, solve(jnp.asarray(a), jnp.asarray(b)))
        for a, b in zip(*(np.resize(v, (full // size, size)) for v in (d, T)), strict=True)
    ]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(d)], *parts)


def _inside(value: ArrayLike, name: str, below: float) -> Any:
    x = as_real(value, name)
    finite(x, name)
    if not is_traced(x):
        host = np.asarray(x, np.float64)
        if not np.all((host >= 0) & (host < below)):
            bad = host[~((host >= 0) & (host < below))].flat[0]
            allowed = ">= 0" if np.isinf(below) else f"in [0, {below:g})"
            raise DomainError(f"{name} must be {allowed}, got {bad:g}.")
    return x


def start_points(K: int, d: Any, branch: str, extra: int) -> tuple[Any, np.ndarray, Any]:
    """Starts of the states with n equal overlaps ``(n, K)``, their projections, free starts.

    A projection ``(K, K)`` keeps the iteration in the invariant subspace of its start, which
    rounding would make it leave where the state is unstable.
    """
    counts = {"best": range(1, K + 1), "pure": [1], "parallel": [K], "hierarchical": []}[branch]
    first = np.array([np.repeat([1.0, 0.0], [n, K - n]) for n in counts]).reshape(-1, K)
    number = np.array(list(counts), float)
    projections = first[:, :, None] * first[:, None, :] / number.reshape(-1, 1, 1)
    free = [jnp.cumprod(jnp.append(1.0, jnp.full(K - 1, d)))]
    if branch == "best":
        shapes = [ratio ** np.arange(K) for ratio in (0.35, 0.6, 0.8, 0.92, 0.98)]
        # a Weyl sequence with the powers of the generalised golden ratio
        golden = np.roots([1.0, *[0.0] * (K - 1), -1.0, -1.0])
        root = float(np.max(golden[np.abs(golden.imag) < 1e-9].real))
        weyl = np.arange(1, extra + 1)[:, None] * root ** -(np.arange(K) + 1.0) % 1
        free += [jnp.asarray(shape) for shape in (*shapes, *-np.sort(-weyl, axis=1))]
    kept = len(free) if branch in ("best", "hierarchical") else 0
    equal = jnp.asarray(first / np.sqrt(number).reshape(-1, 1))
    return (1 - d) * equal, projections, (1 - d) * jnp.stack(free)[:kept]


@functools.partial(jax.jit, static_argnames=("split", "g", "branch", "starts"))
def _solve(
    table: Any, law: Any, d: Any, T: Any, *, split: bool, g: str, branch: str, starts: int
) -> MultitaskingState:
    """States of lowest free energy; ``law`` holds number and second moment of the examples."""
    K = table.x.shape[1]

    def point(parameters: Any) -> MultitaskingState:
        d, T = parameters
        scale = 1 - d if g == "diluted" else jnp.ones(())
        p = average.probabilities(table, d)
        equal, projections, free = start_points(K, jax.lax.stop_gradient(d), branch, starts)
        model = jax.lax.stop_gradient((p, T, scale))
        ways = np.concatenate([projections, np.tile(np.eye(K), (min(len(free), 2), 1, 1))])
        guesses = jnp.concatenate([equal, _promising(table, *model, free)])
        ends = jax.vmap(functools.partial(_descend, table, *model))(guesses, jnp.asarray(ways))
        m = _carry_derivative(table, p, T, scale, _pick(table, *model, ends))
        m = -jnp.sort(-jnp.abs(m))
        return _record(table, law, p, T, scale, m, split)

    return jax.vmap(point)((d, T))


def _promising(table: Any, p: Any, T: Any, g: Any, free: Any) -> Any:
    """The two of the free starts that have come lowest after some steps of the iteration."""

    def step(_: Any, m: Any) -> Any:
        return average.overlaps(table, p, m, T, g)

    def run(m: Any) -> Any:
        m = jax.lax.fori_loop(0, _PLAIN, step, m)
        return m, average.free_energy(table, p, m, T, g)

    if len(free) == 0:
        return free
    ends, f = jax.vmap(run)(free)
    return ends[jnp.argsort(f)[:2]]


def definite_solve(matrix: Any, vector: Any) -> tuple[Any, Any]:
    """Solution of a small system and whether its symmetric matrix is positive definite.

    Gauss-Jordan elimination without exchanges, whose pivots are then positive. It is written out
    because calls of a library for thousands of matrices of three rows cost more than all the rest.
    """
    definite = jnp.asarray(True)
    unit = np.eye(vector.size)
    for j in range(vector.size):
        pivot = matrix[j, j]
        definite &= pivot > 0
        row, entry = matrix[j] / pivot, vector[j] / pivot
        factor = jnp.where(unit[j] > 0, pivot - 1, matrix[:, j])  # row j itself is only scaled
        matrix = matrix - factor[:, None] * row[None]
        vector = vector - factor * entry
    return vector, definite


def _descend(table: Any, p: Any, T: Any, g: Any, m: Any, projection: Any) -> Any:
    """A stationary point below the start, within the subspace of the projection."""

    def image(m: Any) -> Any:
        return jnp.matmul(projection, average.overlaps(table, p, m, T, g))

    def advance(carry: Any) -> Any:
        m, plain, _, count = carry
        curvature = jnp.matmul(projection, average.hessian(table, p, m, T, g))
        curvature = jnp.matmul(curvature, projection) + jnp.eye(m.size) - projection
        step, convex = definite_solve(curvature, plain - m)
        newton = m + step
        after, before = image(newton), image(plain)
        f_newton, f_plain = (average.free_energy(table, p, v, T, g) for v in (newton, plain))
        rest_newton, rest_plain = (
            jnp.max(jnp.abs(b - a)) for a, b in ((newton, after), (plain, before))
        )
        # close to the end free energies agree to rounding: there the residual decides
        lower = f_newton < f_plain - 1e-14
        level = (f_newton <= f_plain + 1e-14) & (rest_newton <= rest_plain)
        good = convex & (lower | level)
        new, moved = jnp.where(good, newton, plain), jnp.where(good, after, before)
        return new, moved, jnp.where(good, rest_newton, rest_plain), count + 1

    state = (m, image(m), jnp.asarray(jnp.inf), jnp.zeros((), int))
    return jax.lax.while_loop(lambda s: (s[2] > _GOAL) & (s[3] < _STEPS), advance, state)[0]


def _pick(table: Any, p: Any, T: Any, g: Any, ends: Any) -> Any:
    """The end of lowest free energy; of several equal ones a stable one."""
    f = jax.vmap(lambda m: average.free_energy(table, p, m, T, g))(ends)
    stable = jax.vmap(lambda m: _is_minimum(table, p, m, T, g))(ends)
    lowest = f <= jnp.min(f) + 1e-13
    return ends[jnp.argmin(2 * (~lowest).astype(int) + (~stable).astype(int))]


def _is_minimum(table: Any, p: Any, m: Any, T: Any, g: Any) -> Any:
    _, convex = definite_solve(average.hessian(table, p, m, T, g), m)
    return convex & ~average.has_ties(table, p, m, T, g)


def _carry_derivative(table: Any, p: Any, T: Any, g: Any, m: Any) -> Any:
    """The stationary point with its first derivatives: a Newton step of length zero."""
    m = jax.lax.stop_gradient(m)
    moves = average.overlaps(table, p, m, T, g) - m
    fixed = jax.lax.stop_gradient((p, T, g, moves))
    curvature = average.hessian(table, fixed[0], m, fixed[1], fixed[2])
    step, _ = definite_solve(curvature, moves - fixed[3])
    return m + jnp.where(jnp.isfinite(step), step, 0.0)


def _record(table: Any, law: Any, p: Any, T: Any, g: Any, m: Any, split: bool) -> MultitaskingState:
    spin = average.activity(table, m, T, g)
    stable = _is_minimum(table, p, m, T, g)
    if split:
        stable &= average.example_stiffness(table, p, m, T, g, *law) > 0
    return MultitaskingState(
        m=jnp.matmul(p * spin, table.truth),
        Mhat=m,
        f=average.free_energy(table, p, m, T, g),
        E=-jnp.sum(m**2) / (2 * g),
        code=_kind(m),
        stable=stable,
        residual=jnp.max(jnp.abs(jnp.matmul(p * spin, table.x) - m)),
    )


def _kind(m: Any) -> Any:
    """Code of a state with decreasing order parameters."""
    active = m > SAME
    rest = jnp.cumsum(m[::-1])[::-1] - m
    nested = jnp.all(jnp.where(active, m > rest + SAME, True))
    equal = (m[0] - m[-1] < SAME) & (m.size > 1)
    kind = jnp.where(nested, 2, 3)
    kind = jnp.where(equal, 4, kind)
    kind = jnp.where(jnp.sum(active) == 1, 1, kind)
    return jnp.where(jnp.sum(active) == 0, 0, kind)
