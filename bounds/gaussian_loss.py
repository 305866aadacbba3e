r"""Probability that a Gaussian hypothesis has a small squared loss, differentiable in its law.

Why derivatives are not taken through the eigendecomposition: those of eigenvectors are infinite
where eigenvalues coincide, while the probability is smooth there. In the eigenbasis

.. math:: dK(s) = \sum_i \frac{k s\, \tilde C_{ii}'}{d_i}
   + 2 s^2 \sum_{ij} \frac{R_i \cdot R_j}{d_i d_j} \tilde C_{ij}'
   + 2 s \sum_i \frac{R_i \cdot R_i'}{d_i}

needs the resolvent only.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bounds.quadratic_form import lower_tail
from deeplimits.typing import Array


@jax.custom_jvp
def log_prob_below(threshold: Array, cov: Array, residual: Array) -> Array:
    r"""Log probability that :math:`\|f - y\|^2 \le` threshold for independent Gaussian outputs.

    Args:
        threshold: scalar, on the sum of squares.
        cov: ``(n, n)`` covariance of every output; rounding below zero counts as zero.
        residual: ``(n, k)`` mean minus target.
    """
    return _decomposed(threshold, cov, residual)[0].log_cdf


def _decomposed(threshold: Array, cov: Array, residual: Array) -> tuple[Any, ...]:
    lam, basis = jnp.linalg.eigh(cov)
    lam = jnp.maximum(lam, 0)
    rotated = jnp.matmul(basis.T, residual)
    tail = lower_tail(threshold, lam, jnp.sum(rotated**2, -1), residual.shape[1])
    return tail, lam, basis, rotated


@log_prob_below.defjvp
def _log_prob_below_jvp(primals: Any, tangents: Any) -> Any:
    tail, lam, basis, rotated = _decomposed(*primals)
    d_threshold, d_cov, d_residual = tangents
    outputs = float(primals[2].shape[1])
    s, weights = tail.s, tail.weights
    resolvent = 1 / (1 - 2 * s[:, None] * lam[None, :].astype(complex))  # (nodes, n)
    once = jnp.imag(jnp.matmul(weights * s, resolvent))
    twice = jnp.imag(jnp.matmul((2 * weights[:, None] * s[:, None] ** 2 * resolvent).T, resolvent))
    inner = twice * jnp.matmul(rotated, rotated.T) + jnp.diag(outputs * once)
    by_cov = jnp.matmul(basis, jnp.matmul(inner, basis.T))
    by_residual = 2 * jnp.matmul(basis, once[:, None] * rotated)
    change = jnp.sum(by_cov * d_cov) + jnp.sum(by_residual * d_residual)
    return tail.log_cdf, change - jnp.imag(jnp.sum(weights * s)) * d_threshold
