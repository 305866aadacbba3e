r"""Predictions of deep kernel machines: blocks of test points carried through the layers.

With :math:`V = K_{ti} C^{-\top}` (t test, i training or inducing points; C, A as in
:mod:`gp.dkm_objective`),

.. math::

    G_{ti} = V A A^\top C^\top, \qquad G_{tt} = K_{tt} - V V^\top + V A A^\top V^\top

which are the optimal values when the test points are learned along without labels. The variance
is a sum of two terms that cannot be negative, the first clipped at 0.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from deeplimits.typing import Array
from gp.dkm_kernels import GramKernel
from gp.dkm_objective import Tower

#: Test points per compiled block.
BLOCK = 128


def marginal_blocks(
    kernel: GramKernel, tower: Tower, jitter: Array, cross: Array, variance: Array
) -> tuple[Array, Array]:
    """``K(G_L)`` between test and training points ``(m, P)``, and its test diagonal ``(m,)``.

    Args:
        kernel: the map ``G -> K(G)``.
        tower: the fitted layers.
        jitter: the variances added while fitting, ``(L,)``; a test point gets its own.
        cross: Gram matrix of the inputs, test against training ``(m, P)``.
        variance: its test diagonal ``(m,)``.
    """

    def layer(carry: Any, inputs: Any) -> Any:
        cross, variance = carry
        prior, root, known, extra = inputs
        K = kernel.cross(variance, cross, known)
        k = kernel.variance(variance) + extra
        V = solve_triangular(prior, K.T, lower=True).T
        VA = jnp.matmul(V, root)
        cross = jnp.matmul(VA, jnp.matmul(prior, root).T)
        free = jnp.maximum(k - jnp.sum(V**2, axis=1), 0.0)
        return (cross, free + jnp.sum(VA**2, axis=1)), None

    inputs = (tower.prior, tower.root, tower.variances[:-1], jitter)
    (cross, variance), _ = jax.lax.scan(layer, (cross, variance), inputs)
    return kernel.cross(variance, cross, tower.variances[-1]), kernel.variance(variance)


def joint_blocks(
    kernel: GramKernel, tower: Tower, jitter: Array, cross: Array, gram: Array
) -> tuple[Array, Array]:
    """As :func:`marginal_blocks` with all covariances between test points ``(m, m)``."""
    eye = jnp.eye(gram.shape[0], dtype=gram.dtype)

    def layer(carry: Any, inputs: Any) -> Any:
        cross, gram = carry
        prior, root, known, extra = inputs
        K = kernel.cross(jnp.diagonal(gram), cross, known)
        V = solve_triangular(prior, K.T, lower=True).T
        VA = jnp.matmul(V, root)
        cross = jnp.matmul(VA, jnp.matmul(prior, root).T)
        free = kernel.matrix(gram) + extra * eye - jnp.matmul(V, V.T)
        return (cross, free + jnp.matmul(VA, VA.T)), None

    inputs = (tower.prior, tower.root, tower.variances[:-1], jitter)
    (cross, gram), _ = jax.lax.scan(layer, (cross, gram), inputs)
    return kernel.cross(jnp.diagonal(gram), cross, tower.variances[-1]), kernel.matrix(gram)


_marginal = functools.partial(jax.jit, static_argnums=0)(marginal_blocks)
_joint = functools.partial(jax.jit, static_argnums=0)(joint_blocks)


def marginal(
    kernel: GramKernel, tower: Tower, jitter: np.ndarray, cross: np.ndarray, variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`marginal_blocks` on the host in blocks of one size, compiled once."""
    m = len(variance)
    rows = np.minimum(np.arange(-(-m // BLOCK) * BLOCK), m - 1).reshape(-1, BLOCK)
    blocks = [_marginal(kernel, tower, jitter, cross[r], variance[r]) for r in rows]
    top = np.concatenate([np.asarray(b[0]) for b in blocks])[:m]
    return top, np.concatenate([np.asarray(b[1]) for b in blocks])[:m]


def joint(
    kernel: GramKernel, tower: Tower, jitter: np.ndarray, cross: np.ndarray, gram: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`joint_blocks` on the host."""
    top, cov = _joint(kernel, tower, jitter, cross, gram)
    return np.asarray(top), np.asarray(cov)
