r"""Energy and update of the continuous (modern) Hopfield network.

The patterns are the rows of a matrix; a state lives in the same space. One update is one step of
attention: a softmax average of the patterns. Nothing is normalised behind the user's back.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.errors import DomainError, ShapeError
from deeplimits.precision import working_dtype
from deeplimits.typing import Array, ArrayLike
from deeplimits.validate import as_inputs, as_real, finite, is_traced, number


def as_patterns(patterns: ArrayLike, *, at_least: int = 1) -> Any:
    """Patterns as a floating array ``(N, d)``, or an error that says what is wrong."""
    X = as_inputs(patterns, "patterns")
    if X.ndim != 2:
        raise ShapeError(f"patterns must have shape (N, d), got {X.shape}. Flatten each pattern.")
    if X.shape[0] < at_least:
        raise ShapeError(f"patterns must have at least {at_least} rows, got {X.shape[0]}.")
    return X


def as_states(states: ArrayLike, d: int) -> Any:
    """States as a floating array ``(..., d)``."""
    xi = as_real(states, "states")
    if isinstance(xi, int | float) or xi.ndim == 0 or xi.shape[-1] != d:
        raise ShapeError(f"states must have shape (..., {d}) as the patterns, got {np.shape(xi)}.")
    finite(xi, "states")
    return xi


def prepare(patterns: ArrayLike, states: ArrayLike, beta: Any) -> tuple[Array, Array, Array]:
    """Patterns, states and inverse temperature in one type: float32 or, if one has it, float64."""
    X = as_patterns(patterns)
    xi = as_states(states, X.shape[1])
    number(beta, "beta", above=0.0)
    dtype = working_dtype(X, xi)
    return jnp.asarray(X, dtype), jnp.asarray(xi, dtype), jnp.asarray(beta, dtype)


def energy(patterns: ArrayLike, states: ArrayLike, *, beta: Any = 1.0) -> Array:
    r"""Energy of states of the continuous Hopfield network.

    .. math:: E(\xi) = -\beta^{-1} \ln \sum_{i=1}^N e^{\beta x_i^\top \xi}
              + \tfrac12 \xi^\top \xi + \beta^{-1} \ln N + \tfrac12 M^2, \qquad
              M = \max_i \|x_i\|

    Non-negative, at most :math:`2 M^2` for :math:`\|\xi\| \le M`, and never raised by
    :func:`update`.

    Args:
        patterns: ``(N, d)``, one pattern a row.
        states: ``(..., d)``.
        beta: inverse temperature, > 0, default 1.

    Returns:
        Energies ``(...)``, in the dtype of the inputs; differentiable.

    Raises:
        ShapeError: patterns not 2-D, or states of another dimension.
        DomainError: beta <= 0, or an entry that is not a finite real number.

    Source: eq. (2) of arXiv:2008.02217.

    Check: tests/statmech/test_associative.py::test_energy_against_mpmath
    """
    return _energy(*prepare(patterns, states, beta))


@jax.jit
def _energy(X: Array, xi: Array, beta: Array) -> Array:
    lse = jax.nn.logsumexp(beta * jnp.matmul(xi, X.T), axis=-1)
    radius2 = jnp.max(jnp.sum(X**2, axis=1))
    return (jnp.log(float(X.shape[0])).astype(X.dtype) - lse) / beta + (
        jnp.sum(xi**2, axis=-1) + radius2
    ) / 2


def weights(patterns: ArrayLike, states: ArrayLike, *, beta: Any = 1.0) -> Array:
    r"""Softmax weights of the patterns, :math:`p_i \propto e^{\beta x_i^\top \xi}`.

    Args:
        patterns, states, beta: as for :func:`energy`.

    Returns:
        ``(..., N)``, rows that sum to one.

    Raises:
        ShapeError, DomainError: as for :func:`energy`.

    Source: eq. (3) of arXiv:2008.02217.

    Check: tests/statmech/test_associative.py::test_update_is_a_descent
    """
    return _weights(*prepare(patterns, states, beta))


@jax.jit
def _weights(X: Array, xi: Array, beta: Array) -> Array:
    return jax.nn.softmax(beta * jnp.matmul(xi, X.T), axis=-1)


def update(patterns: ArrayLike, states: ArrayLike, *, beta: Any = 1.0) -> Array:
    r"""One update of the states, which is one step of attention.

    .. math:: \xi' = \sum_i p_i x_i, \qquad p = \mathrm{softmax}(\beta X \xi)

    It is a concave-convex step on :func:`energy`, which it never raises.

    Args:
        patterns, states, beta: as for :func:`energy`.

    Returns:
        New states ``(..., d)``; differentiable.

    Raises:
        ShapeError, DomainError: as for :func:`energy`.

    Source: eq. (3) of arXiv:2008.02217.

    Check: tests/statmech/test_associative.py::test_update_is_a_descent
    """
    return _update(*prepare(patterns, states, beta))


@jax.jit
def _update(X: Array, xi: Array, beta: Array) -> Array:
    return jnp.matmul(_weights(X, xi, beta), X)


def separation(patterns: ArrayLike) -> Array:
    r"""How far each pattern stands out from the others.

    .. math:: \Delta_i = \min_{j \ne i} (x_i^\top x_i - x_i^\top x_j)

    Args:
        patterns: ``(N, d)``, N >= 2.

    Returns:
        ``(N,)``; negative for a pattern that another one outshines.

    Raises:
        ShapeError: patterns not 2-D, or fewer than two.
        DomainError: an entry that is not a finite real number.

    Source: definition 2 of arXiv:2008.02217.

    Check: tests/statmech/test_associative.py::test_separation
    """
    return _separation(jnp.asarray(as_patterns(patterns, at_least=2)))


@jax.jit
def _separation(X: Array) -> Array:
    gram = jnp.matmul(X, X.T)
    own = jnp.diagonal(gram)
    others = jnp.where(jnp.eye(X.shape[0], dtype=bool), -jnp.inf, gram)
    return own - jnp.max(others, axis=1)


def pattern_index(index: ArrayLike, patterns: Any, shape: tuple[int, ...]) -> Array:
    """Numbers of patterns, one for each state."""
    i = np.asarray(index) if not is_traced(index) else index
    if i.dtype.kind not in "iu":
        raise DomainError(f"index must hold integers, got dtype {i.dtype}.")
    n = patterns.shape[0]
    if not is_traced(i) and not np.all((i >= 0) & (i < n)):
        raise DomainError(f"index must be in 0..{n - 1}, got {i.min()}..{i.max()}.")
    if i.shape not in ((), shape):
        raise ShapeError(f"index must have the shape {shape} of the states, got {i.shape}.")
    return jnp.broadcast_to(jnp.asarray(i), shape)
