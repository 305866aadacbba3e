r"""Expectation propagation for C classes, the largest of C noisy latent functions being the label.

.. math::

    p(c \mid f) = P\big(f_c + e_c > f_b + e_b \;\forall b \ne c\big)
        = \int N(u; 0, 1) \prod_{b \ne c} \Phi(u + f_c - f_b)\, du, \qquad e_b \sim N(0, 1)

Given u, every point contributes C - 1 probit factors of :math:`g_b = u + f_c - f_b`, each replaced
by a Gaussian of precision :math:`\alpha_b`. With :math:`\pi_b = \alpha_b` and :math:`\pi_c = 1`
for the label c, integrating u leaves the precision
:math:`\mathrm{diag}(\pi) - \pi\pi^\top / \sum_b \pi_b` of f: the structure of
Laplace's approximation, so that nothing of size ``nC x nC`` is formed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gp.expectation_propagation import cavity, log_alone, tilted
from gp.laplace import curvature

#: Fraction of a step that all points take together.
DAMPING = 0.8
#: Passes over the factors of a point, everything else being fixed, within one such step.
_SWEEPS = 2
#: Iterations stop when no factor moves its marginal by more than this many standard deviations.
TOLERANCE = 1e-9
MOST_STEPS = 300


class ClassSites(NamedTuple):
    r"""Gaussian factors and what follows from them.

    Attributes:
        alpha, beta: precision, and precision times mean, of the factor of :math:`g_b`, ``(C, n)``;
            0 at the label.
        weights: a with posterior means :math:`K_* a_c`, ``(C, n)``.
        log_evidence: approximate log probability of the labels.
        steps: iterations that were used.
        gap: last movement of a factor, in posterior standard deviations.
    """

    alpha: Any
    beta: Any
    weights: Any
    log_evidence: Any
    steps: Any
    gap: Any


def _posterior(K: Any, labels: Any, alpha: Any, beta: Any) -> tuple[Any, Any, Any, Any]:
    """Means ``(n, C)`` and covariances ``(n, C, C)`` of the g of every point under the current
    factors; the weights; and the log of the integral of all factors.
    """
    pi = labels + alpha
    total, shift = jnp.sum(pi, axis=0), jnp.sum(beta, axis=0)
    nu = pi * (shift / total)[None, :] - beta
    E, chol, log_det = curvature(K, pi)
    inner = jnp.einsum("cij,cj->ci", E, jnp.matmul(nu, K))
    common = jax.scipy.linalg.cho_solve((chol, True), jnp.sum(inner, axis=0))
    weights = nu - inner + jnp.einsum("cij,j->ci", E, common)
    f = jnp.matmul(weights, K)
    product = jnp.matmul(E, K[None])
    own = jnp.diagonal(K)[None, :] - jnp.sum(K[None] * product, axis=1)
    half = jax.vmap(lambda x: jax.scipy.linalg.solve_triangular(chol, x, lower=True))(product)
    cov = jnp.einsum("cij,dij->jcd", half, half) + jax.vmap(jnp.diag, in_axes=1)(own)
    # u given f has mean (shift - f_c (total - 1) + sum_b alpha_b f_b) / total, variance 1 / total
    share = (pi / total[None, :]).T
    centre = jnp.sum(share * f.T, axis=1) + shift / total
    mean = centre[:, None] - f.T
    to_g = share[:, None, :] - jnp.eye(len(labels))[None]
    cov = jnp.einsum("nab,nbc,ndc->nad", to_g, cov, to_g) + (1 / total)[:, None, None]
    joint = 0.5 * jnp.sum(nu * f) + 0.5 * jnp.sum(shift**2 / total) - log_det
    return mean, cov, weights, joint


def _sweep(mean: Any, cov: Any, alpha: Any, beta: Any, labels: Any) -> tuple[Any, Any]:
    """The factors of one point ``(C,)``, one after the other, given the factors of the others."""

    def update(state: Any, b: Any) -> tuple[Any, None]:
        mean, cov, alpha, beta = state
        m, v = cavity(mean[b], cov[b, b], alpha[b], beta[b])
        _, slope, bend = tilted(m, v, jnp.ones((), m.dtype))
        left = 1 - v * bend
        free = 1 - labels[b]
        d_alpha = free * (bend / left - alpha[b])
        d_beta = free * ((slope + m * bend) / left - beta[b])
        column, scale = cov[:, b], 1 + d_alpha * cov[b, b]
        mean = mean + column * ((d_beta - d_alpha * mean[b]) / scale)
        cov = cov - (d_alpha / scale) * column[:, None] * column[None, :]
        return (mean, cov, alpha.at[b].add(d_alpha), beta.at[b].add(d_beta)), None

    order = jnp.tile(jnp.arange(len(labels)), _SWEEPS)
    _, _, alpha, beta = jax.lax.scan(update, (mean, cov, alpha, beta), order)[0]
    return alpha, beta


@jax.jit
def class_sites(
    K: Float[Array, "n n"],
    labels: Float[Array, "C n"],
    alpha: Float[Array, "C n"],
    beta: Float[Array, "C n"],
) -> ClassSites:
    r"""Factors for the covariance K and one-hot labels (float64), beginning with the given ones.

    The fixed point is that of expectation propagation for the :math:`n(C-1)` probit factors of the
    jointly Gaussian g. Every point solves for its own factors first (they depend on each other
    strongly), then all points move together.

    Source: J. Riihimäki, P. Jylänki, A. Vehtari, arXiv:1207.3649, which this follows except for
        the order of the updates; moments of u derived here.

    Check: test_multiclass_ep.py::test_against_dense_expectation_propagation.
    """

    def step(state: Any) -> Any:
        alpha, beta, mean, cov, count, _ = state
        goal = jax.vmap(_sweep, in_axes=(0, 0, 1, 1, 1), out_axes=1)(mean, cov, alpha, beta, labels)
        d_alpha, d_beta = goal[0] - alpha, goal[1] - beta
        var = jnp.diagonal(cov, axis1=1, axis2=2).T
        gap = jnp.max(jnp.maximum(jnp.abs(d_alpha) * var, jnp.abs(d_beta) * jnp.sqrt(var)))
        alpha, beta = alpha + DAMPING * d_alpha, beta + DAMPING * d_beta
        mean, cov, _, _ = _posterior(K, labels, alpha, beta)
        return alpha, beta, mean, cov, count + 1, gap

    mean, cov, _, _ = _posterior(K, labels, alpha, beta)
    state = (alpha, beta, mean, cov, 0, jnp.asarray(jnp.inf, K.dtype))
    unfinished = lambda s: (s[5] > TOLERANCE) & (s[4] < MOST_STEPS)  # noqa: E731
    alpha, beta, _, _, count, gap = jax.lax.while_loop(unfinished, step, state)
    mean, cov, weights, joint = _posterior(K, labels, alpha, beta)
    m, v = cavity(mean.T, jnp.diagonal(cov, axis1=1, axis2=2).T, alpha, beta)
    each = tilted(m, v, jnp.ones_like(m))[0] - log_alone(m, v, alpha, beta)
    value = jnp.sum((1 - labels) * each) + joint
    return ClassSites(alpha, beta, weights, value, count, gap)


@jax.jit
def class_sites_at_scales(
    K: Float[Array, "n n"], labels: Float[Array, "C n"], scales: Float[Array, " J"]
) -> ClassSites:
    """The factors for ``s2 K`` at increasing scales, each beginning with those before it."""

    def one(before: Any, s2: Any) -> tuple[Any, ClassSites]:
        sites = class_sites(s2 * K, labels, *before)
        good = jnp.isfinite(sites.gap)
        kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), sites[:2], before)
        return kept, sites

    zero = jnp.zeros_like(labels)
    return jax.lax.scan(one, (zero, zero), scales)[1]
