r"""Claims on priors and posteriors of finite networks: covariances, and the 1/width law."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.claims import Claim, register
from deeplimits.estimates import Estimate
from deeplimits.precision import float64_scope
from gp.priors import match_prior
from gp.process import GP
from gp.scale_priors import InverseGamma
from gp.target_kernels import RBF
from gp.wasserstein import sqrtm_psd
from gp.wasserstein_bounds import mixture_wasserstein2
from ntk import mlp
from ntk.families import mlp_family

#: Three observations, and two points at which the posterior is compared.
TRAIN, TARGETS = np.array([[-1.2], [0.1], [1.4]]), np.array([1.2, -1.0, 0.9])
TEST = np.array([[0.7], [-0.5]])
NOISE, W_STD, B_STD = 0.1, 1.5, 0.5


def shallow(width: int) -> Any:
    """One hidden layer of erf units."""
    return mlp(1, "erf", W_std=W_STD, b_std=B_STD, width=width)


@cache
def limit_moments() -> np.ndarray:
    """Mean and variance of the infinitely wide network at the test points, flattened."""
    post = GP(shallow(1).nngp, noise=NOISE).condition(TRAIN, TARGETS)
    return np.concatenate([post.mean(TEST), post.var(TEST)])


@float64_scope
def weighted_prior(key: Any, width: int, n: int = 16_384) -> Estimate:
    r"""Posterior mean and variance of a finite Bayesian network at the test points, without chains.

    Hidden units are drawn from the prior and weighted by the evidence of the targets given them;
    the read-out is integrated in closed form:

    .. math:: p(f_* \mid y) = \frac{E[N(y; 0, K_n)\, N(f_*; \mu, S)]}{E[N(y; 0, K_n)]}, \qquad
              K = \sigma_w^2 \Phi \Phi^\top / N + \sigma_b^2

    Args:
        key: random key.
        width: hidden units N.
        n: networks drawn.
    """
    x = jnp.concatenate([jnp.asarray(TRAIN), jnp.asarray(TEST)])[:, 0]
    k = len(TRAIN)

    @jax.jit
    def run(keys: Any) -> Any:
        def one(key: Any) -> Any:
            w, b = jax.random.normal(key, (2, width))
            units = jax.scipy.special.erf(W_STD * w[:, None] * x[None] + B_STD * b[:, None])
            kernel = W_STD**2 / width * units.T @ units + B_STD**2
            noisy, cross = kernel[:k, :k] + NOISE * jnp.eye(k), kernel[:k, k:]
            gain = jnp.linalg.solve(noisy, cross)
            mean = gain.T @ TARGETS
            var = jnp.diagonal(kernel)[k:] - jnp.sum(gain * cross, axis=0)
            fit = TARGETS @ jnp.linalg.solve(noisy, jnp.asarray(TARGETS))
            return -0.5 * (fit + jnp.linalg.slogdet(noisy)[1]), mean, var

        return jax.lax.map(one, keys, batch_size=1024)

    log_weights, means, variances = map(np.asarray, run(jax.random.split(key, n)))
    weights = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    mean = weights @ means
    rows = np.concatenate([means, variances + (means - mean) ** 2], axis=1)
    value = weights @ rows
    return Estimate(value, np.sqrt(weights**2 @ (rows - value) ** 2), n - 1)


register(
    Claim(
        name="gp/bayesian-network-width",
        source="[neal1996]; arXiv:1711.00165",
        statement="Posterior mean and variance of a finite Bayesian network tend to those of the "
        "NNGP as 1/width.",
        theory=limit_moments,
        experiment=weighted_prior,
        sizes=(16, 32, 64),
        exponent=-1.0,
        cost="slow",
        quantity="posterior mean and variance at 2 points",
    )
)


@cache
def matched() -> Any:
    """One hidden layer of erf units fitted to a squared-exponential kernel."""
    grid = np.linspace(-2, 2, 8)[:, None]
    return match_prior(mlp_family("erf"), RBF(1.0), grid, restarts=1)


def _finite_covariances(key: Any, width: int) -> np.ndarray:
    """Products of outputs of finite networks with the matched scales."""
    fit = matched()
    net = mlp_family("erf", width=width)(**fit.params)
    x = jnp.asarray(fit.grid)
    draw = jax.jit(jax.vmap(lambda k: net.apply(net.init(k, x.shape)[1], x)[:, 0]))
    f = np.asarray(draw(jax.random.split(key, 20_000)))
    rows, columns = np.triu_indices(len(x))
    return f[:, rows] * f[:, columns]


register(
    Claim(
        name="gp/matched-prior-transfers",
        source="arXiv:2011.12829; the closed form derived here",
        statement="Scales fitted in the limit of infinite width give the same covariance, and so "
        "the same distance to the target, in a network with one hidden layer of any width.",
        theory=lambda: matched().cov[np.triu_indices(8)],
        experiment=_finite_covariances,
        sizes=(10,),
        z=4.0,
        z_at="all",
        quantity="covariance of the outputs on 8 points",
    )
)


@cache
def _pair() -> tuple[np.ndarray, np.ndarray]:
    x = np.linspace(-2, 2, 8)[:, None]
    return np.asarray(RBF(0.5)(x)), np.asarray(RBF(1.0)(x)) + 0.1 * np.eye(8)


def _transport_costs(key: Any, n: int) -> np.ndarray:
    """Costs of moving Student-t functions by the linear map between the two covariances."""
    first, second = _pair()
    root = sqrtm_psd(first)
    inverse = np.linalg.inv(root)
    map_ = inverse @ sqrtm_psd(root @ second @ root) @ inverse
    keys = jax.random.split(key)
    scales = InverseGamma(4.5, 4.5).sample(keys[0], n)
    draws = np.asarray(jax.random.normal(keys[1], (n, 8), jnp.float64)) @ root
    return scales * np.sum((draws - draws @ map_.T) ** 2, axis=1)


register(
    Claim(
        name="gp/mixture-distance",
        source="Gelbrich, Math. Nachr. 147, 185 (1990)",
        statement="The squared distance between two Student-t processes with one law of the scale "
        "is that of the Gaussian ones times the mean scale, the cost of the linear map.",
        theory=lambda: mixture_wasserstein2(*_pair(), InverseGamma(4.5, 4.5)).upper,
        experiment=_transport_costs,
        sizes=(100_000,),
        z=4.0,
        quantity="squared distance on 8 points",
    )
)
