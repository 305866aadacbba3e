r"""Expectation propagation for labels :math:`t_i = \pm 1` with :math:`p(t|f) = \Phi(t f)`.

.. math::

    p(t) = \int N(f; 0, K) \prod_i \Phi(t_i f_i)\, df, \qquad
    \Phi(t_i f_i) \approx s_i\, e^{-\tau_i f_i^2/2 + \nu_i f_i}

Every factor is replaced by the Gaussian that gives the right mean and variance of :math:`f_i` when
all other factors are Gaussian. All sites move at once, each by a fraction of its step.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float

from gp.predictive import LOG_2PI

#: Fraction of a step that the sites take together; 1 oscillates for strongly correlated points.
DAMPING = 0.7
#: Iterations stop when no site moves its marginal by more than this many standard deviations.
TOLERANCE = 1e-10
MOST_STEPS = 300


class Sites(NamedTuple):
    """Gaussian factors and what follows from them.

    Attributes:
        tau, nu: precision and precision times mean of every factor ``(n,)``.
        weights: ``w`` with posterior mean ``K_* w`` ``(n,)``.
        chol: Cholesky factor of ``I + S^(1/2) K S^(1/2)``, ``S = diag(tau)``, ``(n, n)``.
        log_evidence: approximate log probability of the labels.
        steps: iterations that were used.
        gap: last movement of a site, in posterior standard deviations.
    """

    tau: Any
    nu: Any
    weights: Any
    chol: Any
    log_evidence: Any
    steps: Any
    gap: Any


def _posterior(K: Any, tau: Any, nu: Any) -> tuple[Any, Any, Any, Any]:
    """Mean, variances, weights and factor under the current sites.

    ``I + S^(1/2) K S^(1/2)`` has eigenvalues above one, so that a singular K needs no jitter.
    """
    root = jnp.sqrt(tau)
    chol = jnp.linalg.cholesky(jnp.eye(len(tau)) + root[:, None] * K * root[None, :])
    half = jax.scipy.linalg.solve_triangular(chol, root[:, None] * K, lower=True)
    inner = jax.scipy.linalg.cho_solve((chol, True), root * jnp.matmul(K, nu))
    weights = nu - root * inner
    return jnp.matmul(K, weights), jnp.diagonal(K) - jnp.sum(half**2, axis=0), weights, chol


def cavity(mean: Any, var: Any, tau: Any, nu: Any) -> tuple[Any, Any]:
    """Mean and variance of every marginal without its own site."""
    left = 1 - tau * var
    return (mean - nu * var) / left, var / left


def tilted(m: Any, v: Any, t: Any) -> tuple[Any, Any, Any]:
    r"""Log normaliser of :math:`N(f; m, v)\,\Phi(t f)`, its slope in m and minus its curvature.

    The ratio of density and distribution function is taken between logarithms: both underflow for
    a label that contradicts the others strongly.
    """
    z = t * m / jnp.sqrt(1 + v)
    log_z = log_ndtr(z)
    ratio = jnp.exp(-0.5 * (z**2 + LOG_2PI) - log_z)
    return log_z, t * ratio / jnp.sqrt(1 + v), ratio * (z + ratio) / (1 + v)


def log_alone(m: Any, v: Any, tau: Any, nu: Any) -> Any:
    """Log of the integral of ``N(f; m, v)`` times the Gaussian factor ``(tau, nu)``."""
    return 0.5 * ((nu**2 * v + 2 * m * nu - tau * m**2) / (1 + tau * v) - jnp.log1p(tau * v))


@jax.jit
def probit_sites(K: Float[Array, "n n"], t: Float[Array, " n"]) -> Sites:
    r"""Sites of expectation propagation for the covariance K and labels t of +-1 (float64).

    With cavity mean m and variance v, slope b and curvature a of the tilted normaliser,

    .. math:: \tau = \frac{a}{1 - v a}, \qquad \nu = \frac{b + m a}{1 - v a}

    which, unlike differences of inverse variances, is exact for :math:`v \to 0`. Since the probit
    factor is log-concave, :math:`0 < v a < 1` and every site has a positive precision.

    Source: Minka (2001); Rasmussen and Williams (2006), section 3.6, rewritten.
    Check: test_classify.py::test_ep_is_exact_for_one_point.
    """

    def step(state: Any) -> Any:
        tau, nu, mean, var, count, _ = state
        m, v = cavity(mean, var, tau, nu)
        _, b, a = tilted(m, v, t)
        left = 1 - v * a
        d_tau, d_nu = a / left - tau, (b + m * a) / left - nu
        gap = jnp.max(jnp.maximum(jnp.abs(d_tau) * var, jnp.abs(d_nu) * jnp.sqrt(var)))
        tau, nu = tau + DAMPING * d_tau, nu + DAMPING * d_nu
        mean, var, _, _ = _posterior(K, tau, nu)
        return tau, nu, mean, jnp.maximum(var, 0.0), count + 1, gap

    zero = jnp.zeros_like(t)
    start = (zero, zero, zero, jnp.diagonal(K), 0, jnp.asarray(jnp.inf, K.dtype))
    unfinished = lambda s: (s[5] > TOLERANCE) & (s[4] < MOST_STEPS)  # noqa: E731
    tau, nu, _, _, count, gap = jax.lax.while_loop(unfinished, step, start)
    mean, var, weights, chol = _posterior(K, tau, nu)
    value = _log_evidence(mean, jnp.maximum(var, 0.0), tau, nu, chol, t)
    return Sites(tau, nu, weights, chol, value, count, gap)


def _log_evidence(mean: Any, var: Any, tau: Any, nu: Any, chol: Any, t: Any) -> Any:
    """Log of the integral of the Gaussian factors, normalised so that each is right on its own."""
    m, v = cavity(mean, var, tau, nu)
    joint = 0.5 * jnp.sum(nu * mean) - jnp.sum(jnp.log(jnp.diagonal(chol)))
    return jnp.sum(tilted(m, v, t)[0] - log_alone(m, v, tau, nu)) + joint


@jax.jit
def probit_sites_at_scales(
    K: Float[Array, "n n"], t: Float[Array, " n"], scales: Float[Array, " J"]
) -> Sites:
    """:func:`probit_sites` of ``s2 K`` for every scale, in turn (fields ``(J, ...)``)."""
    return jax.lax.map(lambda s2: probit_sites(s2 * K, t), scales)


@jax.jit
def probit_latent(
    sites: Sites, scales: Float[Array, " J"], cross: Float[Array, "m n"], prior: Float[Array, " m"]
) -> tuple[Float[Array, "J m"], Float[Array, "J m"]]:
    """Latent means and variances at new inputs, for every scale.

    Args:
        sites: from :func:`probit_sites_at_scales`.
        scales: the scales ``(J,)``.
        cross: kernel between new and training inputs, at unit scale.
        prior: kernel of every new input with itself, at unit scale.
    """

    def one(pair: Any) -> Any:
        site, s2 = pair
        half = jax.scipy.linalg.solve_triangular(
            site.chol, jnp.sqrt(site.tau)[:, None] * cross.T, lower=True
        )
        var = s2 * prior - s2**2 * jnp.sum(half**2, axis=0)
        return s2 * jnp.matmul(cross, site.weights), jnp.maximum(var, 0.0)

    return jax.lax.map(one, (sites, scales))
