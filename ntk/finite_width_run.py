r"""All layers of the effective theory for a batch of small groups of inputs: one compiled program.

The tensors with sample indices in a set of inputs are closed under the recursion. Groups of m <= 4
inputs are therefore independent problems, mapped over; depth is a scan.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.errors import ConvergenceError
from ntk.arccosine import ABRelu
from ntk.coordinates import safe_ratio
from ntk.finite_width_tensors import MATRICES, Constants, Tensors, first_layer, layer_step, names
from ntk.gaussian_moments import grid, smooth_moments
from ntk.rectified_moments import parallel_error, rectified_moments

#: Nodes per axis, tried in turn until the error estimate is below the tolerance.
NODES = {1: (128, 512, 2048), 2: (64, 128, 256, 448), 3: (48, 72), 4: (28, 40)}
TOLERANCE = {1: 1e-9, 2: 1e-9, 3: 1e-6, 4: 1e-6}
#: Powers of (G, Theta) that set the scale of each tensor in the error estimate.
_UNITS = {
    "G": (1, 0), "G1": (1, 0), "V": (2, 0), "Theta": (0, 1), "Theta1": (0, 1), "A": (0, 2),
    "B": (0, 2), "D": (1, 1), "F": (1, 1), "P": (0, 2), "Q": (0, 2), "R": (-1, 3), "S": (-1, 3),
    "T": (-1, 3), "U": (-1, 3),
}  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """A validated problem: first-layer kernels of all inputs and scalars per layer."""

    dual: Any
    G: Any
    Theta: Any
    gap: Any
    constants: Constants
    order: str

    @property
    def steps(self) -> int:
        """Number of hidden layers."""
        return len(self.constants.ratio)


def rectified(dual: Any) -> bool:
    """Whether the averages of ``dual`` come in closed form from the rectified moments."""
    return isinstance(dual, ABRelu)


def first_kernels(x: Any, C_b: Any, C_W: Any, lambda_b: Any, lambda_W: Any) -> tuple[Any, Any, Any]:
    """G, Theta and ``1 - correlation`` of the first layer, ``(M, M)`` each."""
    product = x @ x.T / x.shape[1]
    G = C_b + C_W * product
    square = jnp.sum((x[:, None] - x[None]) ** 2, axis=-1) / x.shape[1]
    return G, lambda_b + lambda_W * product, gap_from_distance(C_W * square, G)


def gap_from_distance(distance: Any, G: Any) -> Any:
    """``1 - rho`` from the mean squared difference, without cancellation for equal variances."""
    q = jnp.diagonal(G, axis1=-2, axis2=-1)
    q1, q2 = q[..., :, None], q[..., None, :]
    roots = jnp.sqrt(q1) + jnp.sqrt(q2)
    difference = safe_ratio(q1 - q2, roots, 0.0)
    gap = safe_ratio(distance - difference**2, 2 * jnp.sqrt(q1 * q2), 1.0)
    return jnp.clip(gap, 0.0, 2.0)


def _next_gap(dual: Any, G: Any, gap: Any, new: Any, C_W: Any) -> Any:
    q = jnp.diagonal(G, axis1=-2, axis2=-1)
    _, _, out = dual.kernel(q[..., :, None], q[..., None, :], gap)
    K = jnp.sqrt(dual.variance(q))
    K1, K2 = K[..., :, None], K[..., None, :]
    return gap_from_distance(C_W * ((K1 - K2) ** 2 + 2 * K1 * K2 * out), new)


@functools.partial(jax.jit, static_argnames=("order",))
def propagate(
    dual: Any,
    start: tuple[Any, Any, Any],
    constants: Constants,
    active: Any,
    rule: tuple[Any, Any],
    order: str,
) -> tuple[Tensors, Any]:
    """Tensors and gaps of layers 2, 3, ... with leading axes (layer, group).

    Args:
        dual: the activation.
        start: first-layer G, Theta, gap, ``(groups, m, m)``.
        constants: of each step, ``(steps,)``.
        active: ``(steps,)``; False repeats the layer before. Depths share a compiled program.
        rule: points ``(m, N)`` and weights ``(N,)``.
        order: which tensors.
    """
    u, w = rule

    def moments(pair: Any) -> Any:
        if rectified(dual):
            a, b = dual._slopes(pair[0])
            return rectified_moments(a, b, pair[0], pair[1], order)
        return smooth_moments(dual, pair[0], u, w, order)

    def advance(carry: Any, c: Constants) -> Any:
        t, gap = carry
        averages = jax.lax.map(moments, (t.G, gap))
        new = jax.vmap(layer_step, in_axes=(0, 0, None))(t, averages, c)
        if rectified(dual):
            gap = _next_gap(dual, t.G, gap, new.G, c.C_W)
        return new, gap

    def step(carry: Any, layer: Any) -> Any:
        c, on = layer
        carry = jax.lax.cond(on, lambda s: advance(s, c), lambda s: s, carry)
        return carry, carry

    G, Theta, gap = start
    return jax.lax.scan(step, (first_layer(G, Theta, order), gap), (constants, active))[1]


def run_groups(problem: Problem, groups: np.ndarray, nodes: int, offset: float) -> Any:
    """Tensors and gaps of all layers for each group of inputs, leading axes (layer, group)."""
    m = groups.shape[1]
    rows, columns = groups[:, :, None], groups[:, None, :]
    start = tuple(a[rows, columns] for a in (problem.G, problem.Theta, problem.gap))
    if rectified(problem.dual):
        rule: Any = (np.zeros((m, 1)), np.zeros(1))
    else:
        rule = grid(m, nodes, offset)
    steps = problem.steps
    room = 4
    while room < steps:
        room *= 2
    index = np.minimum(np.arange(room), steps - 1)
    constants = jax.tree.map(lambda v: jnp.broadcast_to(v, (steps,))[index], problem.constants)
    rule = (jnp.asarray(rule[0]), jnp.asarray(rule[1]))
    out, gaps = propagate(
        problem.dual, start, constants, jnp.arange(room) < steps, rule, problem.order
    )
    first = first_layer(start[0], start[1], problem.order)
    return jax.tree.map(
        lambda a, b: jnp.concatenate([a[None], b[:steps]]), (first, start[2]), (out, gaps)
    )


def solve(problem: Problem, groups: np.ndarray, nodes: int | None) -> tuple[Tensors, float]:
    """Tensors of all layers with an estimate of their relative error, refined until small.

    Two grids half a step apart have opposite errors, so half their difference is the error of each.

    Raises:
        ConvergenceError: the error exceeds the tolerance on the finest grid.
    """
    m = groups.shape[1]
    if rectified(problem.dual):
        tensors, gaps = run_groups(problem, groups, 0, 0.0)
        sine = np.sqrt(np.asarray(gaps) * (2 - np.asarray(gaps)))
        error = float(jnp.max(parallel_error(jnp.asarray(sine), problem.order)))
        return jax.tree.map(np.asarray, tensors), max(error, 1e-14)  # rounding of the layers
    ladder = NODES[m] if nodes is None else (nodes,)
    for n in ladder:
        pair = [jax.tree.map(np.asarray, run_groups(problem, groups, n, s)[0]) for s in (0.0, 0.5)]
        error = _relative_error(*pair)
        if error < TOLERANCE[m]:
            break
    else:
        if nodes is None:
            largest = float(np.max(pair[0].G))
            raise ConvergenceError(
                f"The averages over {m} inputs have a relative error of {error:.1e} with "
                f"{ladder[-1]} nodes per axis (allowed {TOLERANCE[m]:.0e}); the largest variance "
                f"is {largest:.3g}. Lower C_W or C_b, or pass nodes=... to accept the error, which "
                "is then in quadrature_error."
            )
    return jax.tree.map(lambda a, b: (a + b) / 2, *pair), error


def _relative_error(one: Tensors, two: Tensors) -> float:
    worst = 0.0
    for name, (p, k) in _UNITS.items():
        a, b = getattr(one, name), getattr(two, name)
        if a is None:
            continue
        axes = tuple(range(1, a.ndim))
        unit = np.max(np.abs(one.G), axis=(1, 2, 3)).clip(1e-300) ** p
        if k:
            unit = unit * np.max(np.abs(one.Theta), axis=(1, 2, 3)) ** k
        scale = np.maximum(np.max(np.abs(a), axis=axes), 1e-6 * unit)
        gap = np.max(np.abs(a - b), axis=axes) / 2
        worst = max(worst, float(np.max(gap / np.maximum(scale, 1e-300))))
    return worst if np.isfinite(worst) else np.inf


def groups_of(inputs: int, size: int) -> np.ndarray:
    """All groups of ``min(size, inputs)`` inputs, ``(groups, m)``."""
    return np.array(list(itertools.combinations(range(inputs), min(size, inputs))))


def assemble(tensors: Tensors, groups: np.ndarray, inputs: int, full: bool) -> Tensors:
    """Matrices over all inputs, and with ``full`` the four-index tensors too."""
    place = {2: _places(groups, inputs, 2)}
    if full:
        place[4] = _places(groups, inputs, 4)

    def gather(name: str, value: Any) -> Any:
        rank = 2 if name in MATRICES else 4
        if value is None or rank not in place:
            return value
        return value[(slice(None), *place[rank])]

    present = names("ddNTK")
    return Tensors(**{name: gather(name, getattr(tensors, name)) for name in present})


def _places(groups: np.ndarray, inputs: int, rank: int) -> tuple[np.ndarray, ...]:
    """For each multi-index: a group that holds all its inputs, and their positions in it."""
    where = np.zeros((rank + 1, *(inputs,) * rank), int)
    m = groups.shape[1]
    positions = np.stack(np.meshgrid(*[np.arange(m)] * rank, indexing="ij"))
    for number, group in enumerate(groups):
        block = np.ix_(*[group] * rank)
        where[0][block] = number
        for axis in range(rank):
            where[axis + 1][block] = positions[axis]
    return tuple(where)
