r"""Rigorous bounds of the continuous Hopfield network: contraction, separation, retrieval error.

All of them hold for every set of patterns. How loose they are is for the user to see: none is
presented as an estimate.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from deeplimits.pytrees import register_dataclass
from deeplimits.typing import Array, ArrayLike
from deeplimits.validate import number
from statmech.associative.energy import (
    _separation,
    _weights,
    as_patterns,
    as_states,
    pattern_index,
    prepare,
)


def jacobian(patterns: ArrayLike, states: ArrayLike, *, beta: Any = 1.0) -> Array:
    r"""Jacobian of one update.

    .. math:: J = \beta X^\top (\mathrm{diag}\,p - p p^\top) X

    Args:
        patterns: ``(N, d)``, one pattern a row.
        states: ``(..., d)``.
        beta: inverse temperature, > 0, default 1.

    Returns:
        ``(..., d, d)``, symmetric and positive semi-definite.

    Raises:
        ShapeError, DomainError: as for :func:`statmech.associative.energy`.

    Source: eq. (59) of arXiv:2008.02217.

    Check: tests/statmech/test_associative_bounds.py::test_jacobian
    """
    return _jacobian(*prepare(patterns, states, beta))


@jax.jit
def _jacobian(X: Array, xi: Array, beta: Array) -> Array:
    p = _weights(X, xi, beta)
    mean = jnp.matmul(p, X)
    # centred first: with weights near one the difference of two large matrices would cancel
    centred = X - mean[..., None, :] if p.ndim == 1 else X[None] - mean.reshape(-1, 1, X.shape[1])
    centred = centred.reshape(*p.shape, X.shape[1])
    return beta * jnp.einsum("...i,...ij,...ik->...jk", p, centred, centred)


@register_dataclass
@dataclasses.dataclass(frozen=True)
class JacobianBounds:
    """Bounds on the spectral norm of the Jacobian of one update, anywhere.

    Attributes:
        mean: beta times the squared largest distance of a pattern from their mean.
        diameter: beta times a quarter of the squared diameter; never above twice ``mean``, and
            the sharper one unless the mean lies in the middle.
        unique_below: beta below which a single (global) fixed point is guaranteed, 4 / diameter^2
            or 1 / m_max^2, whichever is larger.
    """

    mean: Array
    diameter: Array
    unique_below: Array

    @property
    def best(self) -> Array:
        """The smaller of the two."""
        return jnp.minimum(self.mean, self.diameter)


def jacobian_bounds(patterns: ArrayLike, *, beta: Any = 1.0) -> JacobianBounds:
    r"""Bounds on the norm of the Jacobian that hold at every state.

    .. math:: \|J\| \le \beta\, m_{\max}^2, \quad m_{\max} = \max_i \|x_i - \bar x\|, \qquad
              \|J\| \le \tfrac14 \beta\, \mathrm{diam}^2, \quad
              \mathrm{diam} = \max_{ij} \|x_i - x_j\|

    The second follows from Popoviciu's inequality, since J is beta times a covariance of points
    whose spread in any direction is at most the diameter. Where the best bound is below one, the
    update is a contraction of the whole space with one fixed point.

    Args:
        patterns: ``(N, d)``, N >= 2.
        beta: inverse temperature, > 0, default 1.

    Returns:
        :class:`JacobianBounds`.

    Raises:
        ShapeError: patterns not 2-D, or fewer than two.
        DomainError: beta <= 0, or an entry that is not a finite real number.

    Source: lemma A3 of arXiv:2008.02217 (the first); derived here (the second).

    Check: tests/statmech/test_associative_bounds.py::test_jacobian_bounds
    """
    X = as_patterns(patterns, at_least=2)
    number(beta, "beta", above=0.0)
    X = jnp.asarray(X)
    return _jacobian_bounds(X, jnp.asarray(beta, X.dtype))


@jax.jit
def _jacobian_bounds(X: Array, beta: Array) -> JacobianBounds:
    centred = X - jnp.mean(X, axis=0, keepdims=True)
    norms = jnp.sum(centred**2, axis=1)
    squares = norms[:, None] + norms[None, :] - 2 * jnp.matmul(centred, centred.T)
    widest = jnp.max(squares)
    unique = jnp.maximum(4 / widest, 1 / jnp.max(norms))
    return JacobianBounds(beta * jnp.max(norms), beta * widest / 4, unique)


@register_dataclass
@dataclasses.dataclass(frozen=True)
class WellSeparation:
    """Which patterns are guaranteed a fixed point of their own.

    Attributes:
        separation: of each pattern, ``(N,)``.
        required: the separation that suffices, scalar.
        holds: which patterns have it, ``(N,)``.
        radius: of the sphere around such a pattern in which the update is a contraction with one
            fixed point, scalar.
    """

    separation: Array
    required: Array
    holds: Array
    radius: Array


def well_separation(patterns: ArrayLike, *, beta: Any = 1.0) -> WellSeparation:
    r"""The condition under which a pattern has a unique fixed point near it.

    .. math:: \Delta_i \ge \frac{2}{\beta N} + \beta^{-1} \ln\bigl(2 (N-1) N \beta M^2\bigr),
              \qquad \text{radius} = \frac{1}{\beta N M}

    Args:
        patterns: ``(N, d)``, N >= 2, not all zero.
        beta: inverse temperature, > 0, default 1.

    Returns:
        :class:`WellSeparation`.

    Raises:
        ShapeError, DomainError: as for :func:`jacobian_bounds`.

    Source: theorems A2, A8 and A9 of arXiv:2008.02217.

    Check: tests/statmech/test_associative_bounds.py::test_well_separation
    """
    X = as_patterns(patterns, at_least=2)
    number(beta, "beta", above=0.0)
    X = jnp.asarray(X)
    return _well_separation(X, jnp.asarray(beta, X.dtype))


@jax.jit
def _well_separation(X: Array, beta: Array) -> WellSeparation:
    n, M = X.shape[0], jnp.sqrt(jnp.max(jnp.sum(X**2, axis=1)))
    delta = _separation(X)
    required = 2 / (beta * n) + jnp.log(2.0 * (n - 1) * n * beta * M**2) / beta
    return WellSeparation(delta, required, delta >= required, 1 / (beta * n * M))


@register_dataclass
@dataclasses.dataclass(frozen=True)
class UpdateBounds:
    """Guarantees on one update of a state towards a pattern.

    Attributes:
        error: bound on the distance of the updated state from the pattern.
        contraction: bound on the norm of the mean Jacobian between the state and the fixed point:
            one update multiplies the distance from the fixed point by at most this.
        distance: what one update is guaranteed to leave of the distance from the fixed point.
    """

    error: Array
    contraction: Array
    distance: Array


def update_bounds(
    patterns: ArrayLike,
    states: ArrayLike,
    index: ArrayLike,
    fixed_points: ArrayLike | None = None,
    *,
    beta: Any = 1.0,
) -> UpdateBounds:
    r"""Bounds on the retrieval error and on the contraction of one update.

    .. math:: \|f(\xi) - x_i\| \le 2 (N-1) M e^{-\beta (\Delta_i - 2 \delta M)}, \qquad
              \|f(\xi) - x_i^*\| \le \|J^m\|\,\|\xi - x_i^*\|, \qquad
              \|J^m\| \le 2 \beta N M^2 (N-1) e^{-\beta (\Delta_i - 2 \delta M)},

    with :math:`\delta = \max(\|\xi - x_i\|, \|x_i^* - x_i\|)`.

    Args:
        patterns: ``(N, d)``, N >= 2.
        states: ``(..., d)``.
        index: number of the pattern that each state is meant to retrieve, ``(...)`` or one for
            all.
        fixed_points: the fixed point near each pattern, ``(..., d)``; default: the pattern itself,
            which is right up to an exponentially small distance.
        beta: inverse temperature, > 0, default 1.

    Returns:
        :class:`UpdateBounds` with fields of shape ``(...)``.

    Raises:
        ShapeError: shapes that do not match.
        DomainError: beta <= 0, an index out of range, or an entry that is not a finite number.

    Source: theorems 4 and 5 of arXiv:2008.02217.

    Check: tests/statmech/test_associative_bounds.py::test_bounds_are_never_violated
    """
    as_patterns(patterns, at_least=2)
    X, xi, beta = prepare(patterns, states, beta)
    i = pattern_index(index, X, xi.shape[:-1])
    stars = X[i] if fixed_points is None else jnp.asarray(as_states(fixed_points, X.shape[1]))
    return _update_bounds(X, xi, i, jnp.broadcast_to(stars.astype(X.dtype), xi.shape), beta)


@jax.jit
def _update_bounds(X: Array, xi: Array, i: Array, stars: Array, beta: Array) -> UpdateBounds:
    n, M = X.shape[0], jnp.sqrt(jnp.max(jnp.sum(X**2, axis=1)))
    x = X[i]
    norm = jnp.linalg.norm
    reach = jnp.maximum(norm(xi - x, axis=-1), norm(stars - x, axis=-1))
    small = (n - 1) * jnp.exp(-beta * (_separation(X)[i] - 2 * reach * M))
    contraction = 2 * beta * n * M**2 * small
    return UpdateBounds(2 * M * small, contraction, contraction * norm(xi - stars, axis=-1))
