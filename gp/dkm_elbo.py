r"""Evidence lower bounds of sparse deep kernel machines, whitened and minibatched.

Inducing outputs are written :math:`u = C v` with :math:`C C^\top = K(G_L^{ii})` and
:math:`q(v_c) = N(m_c, R R^\top)`, R shared by the outputs:

.. math::

    \frac nB \sum_{b} E_q \log p(y_b \mid f_b) - \sum_c KL(q(v_c) \| N(0, I)) - \sum_l \nu_l KL_l
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from deeplimits.gaussian import trapezoid_rule
from deeplimits.typing import Array
from gp.dkm_kernels import GramKernel
from gp.dkm_objective import Tower, build, lower_triangle
from gp.dkm_predict import marginal_blocks
from gp.predictive import LOG_2PI

#: Nodes for expectations over one latent value: smooth functions, exact to 1e-12.
_NODES, _WEIGHTS = trapezoid_rule(61)


class Setting(NamedTuple):
    """What is static in the bound: hashable.

    Attributes:
        kernel: the map ``G -> K(G)``.
        penalty: of the layers.
        layers: number of them.
        likelihood: ``"gaussian"``, ``"bernoulli"`` or ``"softmax"``.
        draws: samples per point for ``"softmax"``.
        columns: q of stochastic kernel regularisation, 0 for none.
        floor: its multiple of the identity.
    """

    kernel: GramKernel
    penalty: str
    layers: int
    likelihood: str
    draws: int
    columns: int = 0
    floor: float = 0.0


def inducing_tower(
    setting: Setting, params: Any, jitter: Array, key: Any = None
) -> tuple[Tower, Array]:
    """Layers of the inducing points, and the Cholesky factor of their top kernel matrix.

    With ``key`` and ``setting.columns`` the layers are random ones, for a step of training.
    """
    z = params["inducing"]
    G0 = jnp.matmul(z, z.T) / z.shape[1]
    roots = lower_triangle(params["roots"], setting.layers, z.shape[0])
    normal = None
    if key is not None and setting.columns:
        shape = (setting.layers, z.shape[0], setting.columns)
        normal = jax.random.normal(key, shape, z.dtype)
    floor = setting.floor if setting.columns else 0.0
    tower = build(setting.kernel, setting.penalty, roots, G0, jitter[:-1], floor, normal)
    eye = jnp.eye(z.shape[0], dtype=z.dtype)
    return tower, jnp.linalg.cholesky(setting.kernel.matrix(tower.grams[-1]) + jitter[-1] * eye)


def features(
    setting: Setting, params: Any, jitter: Array, tower: Tower, top: Array, x: Array
) -> tuple[Array, Array]:
    """``V = K_ti C^{-T}`` of the rows of x ``(B, M)``, and prior variances minus ``V V'``."""
    z = params["inducing"]
    cross = jnp.matmul(x, z.T) / z.shape[1]
    variance = jnp.mean(x**2, axis=1)
    K, k = marginal_blocks(setting.kernel, tower, jitter[:-1], cross, variance)
    V = solve_triangular(top, K.T, lower=True).T
    return V, jnp.maximum(k - jnp.sum(V**2, axis=1), 0.0)


def regularization(nu: Array, tower: Tower) -> Array:
    """``sum nu_l KL_l`` of the inducing points."""
    return jnp.sum(nu * tower.penalties)


def collapsed(setting: Setting, params: Any, data: Any) -> tuple[Array, Any]:
    r"""The bound with the optimal q for Gaussian noise, and ``(m, R^{-T})`` of that q.

    .. math:: \sum_c \log N(y_c; 0, Q + \sigma^2 I) - \frac{C}{2\sigma^2} \operatorname{tr}(K - Q)
        - \sum_l \nu_l KL_l, \qquad Q = V V^\top
    """
    tower, top = inducing_tower(setting, params, data["jitter"])
    V, rest = features(setting, params, data["jitter"], tower, top, data["x"])
    y, noise = data["y"], jnp.exp(params["log_noise"])
    n, outputs = y.shape
    inner = jnp.eye(V.shape[1], dtype=V.dtype) + jnp.matmul(V.T, V) / noise
    chol = jnp.linalg.cholesky(inner)
    half = solve_triangular(chol, jnp.matmul(V.T, y), lower=True) / noise
    log_det = 2 * jnp.sum(jnp.log(jnp.diagonal(chol))) + n * jnp.log(noise)
    fit = -0.5 * (jnp.sum(y**2) / noise - jnp.sum(half**2))
    value = fit - 0.5 * outputs * (log_det + n * LOG_2PI + jnp.sum(rest) / noise)
    mean = solve_triangular(chol, half, lower=True, trans=1)
    return value - regularization(data["nu"], tower), (mean, chol)


def expected_log_likelihood(
    likelihood: str, mean: Array, variance: Array, y: Array, noise: Array, normal: Array
) -> Array:
    r"""``E log p(y | f)`` of each point, f independent ``N(mean, variance)``, ``(B,)``.

    Args:
        likelihood: ``"gaussian"``; ``"bernoulli"``, :math:`\Phi(\pm f)` by quadrature;
            ``"softmax"``, by ``normal``.
        mean: ``(B, C)``.
        variance: ``(B,)``.
        y: targets ``(B, C)``; signs ``(B, 1)``; one-hot labels ``(B, C)``.
        noise: Gaussian variance.
        normal: standard normal draws ``(S, B, C)``, used with both signs.
    """
    if likelihood == "gaussian":
        square = jnp.sum((y - mean) ** 2, axis=1) + y.shape[1] * variance
        return -0.5 * (square / noise + y.shape[1] * (jnp.log(noise) + LOG_2PI))
    std = jnp.sqrt(jnp.maximum(variance, 1e-30))[:, None]
    if likelihood == "bernoulli":
        values = jax.scipy.stats.norm.logcdf(y * (mean + std * jnp.asarray(_NODES)[None, :]))
        return jnp.sum(jnp.asarray(_WEIGHTS)[None, :] * values, axis=1)
    f = mean[None] + std[None] * jnp.concatenate([normal, -normal])
    return jnp.sum(y * mean, axis=1) - jnp.mean(jax.nn.logsumexp(f, axis=2), axis=0)


def site_slopes(
    likelihood: str, mean: Array, variance: Array, y: Array, noise: Array, normal: Array
) -> tuple[Array, Array]:
    r"""First derivatives ``(B, C)`` and (negative, averaged) curvatures ``(B,)`` of the above.

    .. math:: g = \frac{\partial}{\partial m} E \log p, \qquad
        w = -2 \frac{\partial}{\partial s^2} E \log p = -E \frac{\partial^2 \log p}{\partial f^2}

    For softmax the second form, :math:`E\,p(1-p)`, which cannot come out negative by sampling.
    """
    if likelihood == "gaussian":
        return (y - mean) / noise, jnp.full_like(variance, 1.0) / noise
    if likelihood == "softmax":
        f = mean[None] + jnp.sqrt(variance)[None, :, None] * jnp.concatenate([normal, -normal])
        p = jax.nn.softmax(f, axis=2)
        return y - jnp.mean(p, axis=0), jnp.mean(p * (1 - p), axis=(0, 2))

    def total(mean: Any, variance: Any) -> Any:
        return jnp.sum(expected_log_likelihood(likelihood, mean, variance, y, noise, normal))

    g, half = jax.grad(total, argnums=(0, 1))(mean, variance)
    return g, jnp.maximum(-2 * half, 0.0)


def bound_of_features(
    setting: Any, V: Array, rest: Array, y: Array, q: Any, noise: Array, share: float, key: Any
) -> tuple[Array, Any]:
    r"""Expected log likelihood minus the divergence of q, and the next q.

    ``q`` holds the natural parameters: precision :math:`\Lambda = (R R^\top)^{-1}` and
    :math:`b = \Lambda m`. Their natural-gradient step of length 1 goes to

    .. math:: \Lambda = I + \tfrac nB \sum_b w_b V_b V_b^\top, \qquad
        b = \tfrac nB \sum_b V_b (g_b + w_b \mu_b)^\top

    which for Gaussian noise and all points is the exact optimum.

    Args:
        setting: with fields ``likelihood`` and ``draws``.
        V: whitened features of the batch ``(B, M)``.
        rest: variances that they do not explain ``(B,)``.
        y: targets of the batch.
        q: natural parameters.
        noise: Gaussian variance.
        share: n / B.
        key: for samples.
    """
    chol = jnp.linalg.cholesky(q["precision"])
    m = jax.scipy.linalg.cho_solve((chol, True), q["shift"])
    mean = jnp.matmul(V, m)
    variance = rest + jnp.sum(solve_triangular(chol, V.T, lower=True) ** 2, axis=0)
    normal = jax.random.normal(key, (setting.draws, *mean.shape), mean.dtype)
    sites = (setting.likelihood, mean, variance, y, noise, normal)
    eye = jnp.eye(chol.shape[0], dtype=chol.dtype)
    trace = jnp.sum(solve_triangular(chol, eye, lower=True) ** 2)
    log_det = 2 * jnp.sum(jnp.log(jnp.diagonal(chol)))
    divergence = 0.5 * (jnp.sum(m**2) + y.shape[1] * (trace + log_det - chol.shape[0]))
    g, w = site_slopes(*sites)
    goal = {
        "precision": eye + share * jnp.matmul(V.T * w[None, :], V),
        "shift": share * jnp.matmul(V.T, g + w[:, None] * mean),
    }
    return share * jnp.sum(expected_log_likelihood(*sites)) - divergence, goal


def minibatch_bound(
    setting: Setting, params: Any, q: Any, data: Any, batch: Array, key: Any
) -> tuple[Array, Any]:
    """An unbiased estimate of the bound from the points with indices ``batch``, and the next q."""
    for_layers, for_sites = jax.random.split(key)
    tower, top = inducing_tower(setting, params, data["jitter"], for_layers)
    x, y = data["x"][batch], data["y"][batch]
    V, rest = features(setting, params, data["jitter"], tower, top, x)
    share, noise = data["x"].shape[0] / batch.shape[0], jnp.exp(params["log_noise"])
    value, goal = bound_of_features(setting, V, rest, y, q, noise, share, for_sites)
    return value - regularization(data["nu"], tower), goal


@functools.partial(jax.jit, static_argnums=(0, 3))
def collapsed_step(setting: Setting, vector: Any, data: Any, unravel: Any, constant: Any) -> Any:
    """Negative collapsed bound and its gradient with respect to the packed free parameters."""

    def loss(v: Any) -> Any:
        return -collapsed(setting, {**constant, **unravel(v)}, data)[0]

    return jax.value_and_grad(loss)(vector)


@functools.partial(jax.jit, static_argnums=0)
def posterior_factors(setting: Setting, params: Any, data: Any) -> Any:
    """Collapsed bound, and m and R of the optimal q: ``R = chol^{-T}``."""
    value, (mean, chol) = collapsed(setting, params, data)
    eye = jnp.eye(chol.shape[0], dtype=chol.dtype)
    inverse = solve_triangular(chol, eye, lower=True)
    return value, mean, inverse.T
