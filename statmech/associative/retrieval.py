"""Retrieval: updates until the state no longer moves, and what kind of state it ends in."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits import plotting
from deeplimits.newton import implicit
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import Array, ArrayLike
from deeplimits.validate import integer, number
from statmech.associative.energy import _energy, _update, _weights, prepare

#: Kinds of fixed points in the order of their codes.
KINDS = ("single", "metastable", "global")


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Retrieval:
    """Where updates lead; leading axes are those of the queries.

    Attributes:
        states: last states ``(..., d)``.
        steps: updates made, per query.
        change: largest entry of the next update of the state.
        converged: ``change`` is below the tolerance; otherwise ``max_steps`` came first.
        energy: of the last states.
    """

    states: Array
    steps: Array
    change: Array
    converged: Array
    energy: Array


def retrieve(
    patterns: ArrayLike,
    states: ArrayLike,
    *,
    beta: Any = 1.0,
    tol: float | None = None,
    max_steps: int = 1000,
) -> Retrieval:
    r"""Update every state until it is a fixed point.

    .. math:: \xi \leftarrow X^\top \mathrm{softmax}(\beta X \xi)
              \quad\text{until}\quad
              \|\xi' - \xi\|_\infty \le \mathrm{tol}\,(1 + \|\xi\|_\infty)

    Convergence is judged on the state, not on the weights: near a flat direction weights of many
    patterns may still exchange while the state rests, and the reverse.

    Args:
        patterns: ``(N, d)``, one pattern a row.
        states: queries ``(..., d)``.
        beta: inverse temperature, > 0, default 1.
        tol: default 1e-10 in float64, 1e-5 in float32.
        max_steps: most updates, default 1000. Near a bifurcation convergence has no time scale;
            what did not converge is reported, not raised.

    Returns:
        :class:`Retrieval`. States are differentiable with respect to patterns and beta by the
        implicit function theorem, whatever the number of updates.

    Raises:
        ShapeError: patterns not 2-D, or states of another dimension.
        DomainError: beta, tol or max_steps out of range, or an entry that is not a finite number.

    Source: section 2 of arXiv:2008.02217; convergence criterion derived here.

    Check: tests/statmech/test_associative.py::test_retrieve, ::test_implicit_derivative
    """
    X, xi, beta = prepare(patterns, states, beta)
    if tol is None:
        tol = 1e-10 if X.dtype == np.float64 else 1e-5
    number(tol, "tol", above=0.0)
    integer(max_steps, "max_steps", at_least=1)
    flat = xi.reshape(-1, xi.shape[-1])
    found = _retrieve(X, flat, beta, jnp.asarray(tol, X.dtype), max_steps)
    return jax.tree.map(lambda leaf: leaf.reshape(xi.shape[:-1] + leaf.shape[1:]), found)


@functools.partial(jax.jit, static_argnames="max_steps")
def _retrieve(
    X: jax.Array, xi: jax.Array, beta: jax.Array, tol: jax.Array, max_steps: int
) -> Retrieval:
    def moves(x: jax.Array) -> jax.Array:
        return jnp.asarray(_update(X, x, beta)) - x

    def open_(x: jax.Array, step: jax.Array) -> jax.Array:
        return jnp.max(jnp.abs(step)) > tol * (1 + jnp.max(jnp.abs(x)))

    def solver(g: Any, start: jax.Array) -> tuple[jax.Array, jax.Array]:
        def advance(carry: Any) -> Any:
            x, step, count = carry
            x = x + step
            return x, g(x), count + 1

        state = (start, g(start), jnp.zeros((), int))
        end = jax.lax.while_loop(lambda s: open_(s[0], s[1]) & (s[2] < max_steps), advance, state)
        return end[0], end[2]

    def one(start: jax.Array) -> Any:
        x, steps = implicit(moves, start, solver)
        step = jax.lax.stop_gradient(moves(x))
        return x, steps, jnp.max(jnp.abs(step)), ~open_(x, step)

    states, steps, change, converged = jax.vmap(one)(xi)
    return Retrieval(states, steps, change, converged, _energy(X, states, beta))


@register_dataclass
@dataclasses.dataclass(frozen=True)
class FixedPointType:
    """How many patterns a fixed point averages.

    Attributes:
        k: smallest number of patterns that hold the share of the softmax weight, per state.
        code: 0 single pattern, 1 metastable (some patterns), 2 global (all).
        pattern: number of the pattern with the largest weight.
        weight: that weight.
    """

    k: Array
    code: Array
    pattern: Array
    weight: Array

    @property
    def kind(self) -> Any:
        """``"single"``, ``"metastable"`` or ``"global"``, per state."""
        names = np.asarray(KINDS)[np.asarray(self.code)]
        return str(names) if names.ndim == 0 else names


def fixed_point_type(
    patterns: ArrayLike, states: ArrayLike, *, beta: Any = 1.0, share: float = 0.9
) -> FixedPointType:
    r"""Whether states average all patterns, some, or a single one.

    k is the smallest number of patterns that together hold ``share`` of the softmax weight. One:
    ``"single"``. As many as equal weights would need, :math:`\lceil \text{share} \cdot N \rceil`:
    ``"global"``. Between: ``"metastable"``.

    Args:
        patterns: ``(N, d)``.
        states: ``(..., d)``, fixed points such as ``retrieve(...).states``.
        beta: inverse temperature, > 0, default 1.
        share: in (0, 1), default 0.9.

    Returns:
        :class:`FixedPointType`.

    Raises:
        ShapeError, DomainError: as for :func:`retrieve`; also a share out of range.

    Source: section 2 and appendix A.2 of arXiv:2008.02217.

    Check: tests/statmech/test_associative.py::test_fixed_point_types_of_two_clusters
    """
    number(share, "share", above=0.0, below=1.0)
    X, xi, beta = prepare(patterns, states, beta)
    return _fixed_point_type(X, xi, beta, jnp.asarray(share, X.dtype))


@jax.jit
def _fixed_point_type(X: Array, xi: Array, beta: Array, share: Array) -> FixedPointType:
    p = _weights(X, xi, beta)
    n = X.shape[0]
    # ten equal weights sum to 0.9 only up to rounding
    slack = 8 * n * jnp.finfo(X.dtype).eps
    held = jnp.cumsum(-jnp.sort(-p, axis=-1), axis=-1)
    k = jnp.minimum(jnp.sum(held < share - slack, axis=-1) + 1, n)
    most = jnp.ceil(n * share - slack).astype(k.dtype)
    code = jnp.where(k == 1, 0, jnp.where(k >= most, 2, 1))
    return FixedPointType(k, code, jnp.argmax(p, axis=-1), jnp.max(p, axis=-1))


def plot_fixed_point_types(beta: ArrayLike, k: ArrayLike, *, ax: Any = None, **kw: Any) -> Any:
    """Number of patterns averaged by the fixed points against the inverse temperature.

    Args:
        beta: ``(n,)``, > 0.
        k: ``(n,)`` means, or ``(n, states)``: their mean is drawn with the range as a band.
        ax: axes to draw on; default a new figure.
        **kw: passed to ``plot``.

    Returns:
        The axes.

    Check: tests/statmech/test_associative.py::test_plots
    """
    ax = plotting.axes(ax)
    x, y = np.asarray(beta, float), np.asarray(k, float)
    mean = y.mean(axis=1) if y.ndim == 2 else y
    (line,) = ax.plot(x, mean, **{"marker": "o", **kw})
    if y.ndim == 2:
        ax.fill_between(x, y.min(1), y.max(1), color=line.get_color(), alpha=0.2, linewidth=0)
    ax.set(xscale="log", xlabel="inverse temperature", ylabel="patterns that hold 90 % of weight")
    return ax
