r"""The objective of a deep kernel machine in whitened Cholesky coordinates.

With :math:`C_l C_l^\top = K(G_{l-1}) + \epsilon_l I` and :math:`A_l` lower triangular with positive
diagonal,

.. math::

    G_l = C_l A_l A_l^\top C_l^\top, \qquad
    KL_l = \tfrac12 \big( \|A_l\|_F^2 - 2 \textstyle\sum_i \log A_{l,ii} - P \big)

Why these coordinates: neither an inverse nor the determinant of a learned matrix appears, all
layers have the scale of the identity whatever the condition of their kernels, and the origin is
exactly the infinitely wide network (NNGP).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from deeplimits.typing import Array
from gp.dkm_kernels import GramKernel
from gp.predictive import LOG_2PI

#: How a layer is held near its prior.
PENALTIES = ("kl", "taylor_sym", "taylor_official")


class Tower(NamedTuple):
    """What a stack of layers hands to predictions; leading axis over layers where ``(L, ...)``.

    Attributes:
        grams: ``G_1 .. G_L``, ``(L, P, P)``.
        prior: ``C_l``, lower Cholesky factors of ``K(G_{l-1}) + jitter_l I``, ``(L, P, P)``.
        root: ``A_l``, ``(L, P, P)``.
        variances: diagonals of ``G_0 .. G_L``, ``(L + 1, P)``.
        penalties: of each layer, before the factor ``nu_l``, ``(L,)``.
    """

    grams: Any
    prior: Any
    root: Any
    variances: Any
    penalties: Any


def lower_triangle(vector: Array, layers: int, p: int) -> Array:
    """``(L, p, p)`` lower triangular matrices with ``exp`` on the diagonal, of ``L p (p+1)/2``."""
    rows, columns = np.tril_indices(p)
    blank = jnp.zeros((layers, p, p), vector.dtype)
    filled = blank.at[:, rows, columns].set(vector.reshape(layers, -1))
    return jnp.where(jnp.eye(p, dtype=bool)[None], jnp.exp(filled), filled)


def penalty_of(name: str, prior: Array, root: Array) -> Array:
    r"""How far :math:`G = C A A^\top C^\top` is from :math:`K = C C^\top`, >= 0.

    .. math::

        \text{kl: } \tfrac12 (\operatorname{tr} K^{-1}G - \log|K^{-1}G| - P), \quad
        \text{taylor\_sym: } \tfrac14 \|L^{-1} K L^{-\top} - I\|_F^2,\ L L^\top = G, \quad
        \text{taylor\_official: } \tfrac14 \|G^{-1} K - I\|_F^2
    """
    p = root.shape[0]
    eye = jnp.eye(p, dtype=root.dtype)
    if name == "kl":
        # expm1: near the prior ||A||^2 - 2 sum t - P is a difference of numbers of order P
        t = jnp.log(jnp.diagonal(root))
        below = jnp.sum(jnp.tril(root, -1) ** 2)
        return 0.5 * (below + jnp.sum(jnp.expm1(2 * t) - 2 * t))
    inverse = solve_triangular(root, eye, lower=True)
    if name == "taylor_sym":
        return 0.25 * jnp.sum((jnp.matmul(inverse, inverse.T) - eye) ** 2)
    middle = jnp.matmul(jnp.matmul(inverse.T, inverse), prior.T)
    ratio = solve_triangular(prior, middle, lower=True, trans=1)
    return 0.25 * jnp.sum((ratio - eye) ** 2)


def build(
    kernel: GramKernel, penalty: str, roots: Array, G0: Array, jitter: Array,
    floor: float = 0.0, normal: Any = None,
) -> Tower:  # fmt: skip
    r"""All layers above the Gram matrix ``G0`` of the inputs, by ``lax.scan``.

    With a ``floor`` the next layer sees :math:`G + \mathrm{floor}\, I`; with ``normal`` it sees
    :math:`L Z Z^\top L^\top / q + \mathrm{floor}\, I`, :math:`L L^\top = G` (stochastic kernel
    regularisation). Penalties are those of G.

    Args:
        kernel: the map ``G -> K(G)``.
        penalty: one of :data:`PENALTIES`.
        roots: ``A_l``, ``(L, P, P)``.
        G0: ``(P, P)``.
        jitter: variances added to the diagonals of the kernel matrices, ``(L,)``.
        floor: >= 0.
        normal: standard normal ``(L, P, q)``, or None.
    """
    eye = jnp.eye(G0.shape[0], dtype=G0.dtype)
    blank = jnp.zeros((roots.shape[0], 0, 0), G0.dtype) if normal is None else normal

    def layer(G: Any, inputs: Any) -> Any:
        root, extra, z = inputs
        prior = jnp.linalg.cholesky(kernel.matrix(G) + extra * eye)
        cost = penalty_of(penalty, prior, root)
        half = jnp.matmul(prior, root)
        if normal is not None:
            half = jnp.matmul(half, z) / z.shape[1] ** 0.5
        G = jnp.matmul(half, half.T) + floor * eye
        if floor > 0:
            root = solve_triangular(prior, jnp.linalg.cholesky(G), lower=True)
        return G, (G, prior, root, cost)

    _, (grams, prior, used, penalties) = jax.lax.scan(layer, G0, (roots, jitter, blank))
    every = jnp.concatenate([G0[None], grams])
    variances = jnp.diagonal(every, axis1=1, axis2=2)
    return Tower(grams, prior, used, variances, penalties)


def log_likelihood(K: Array, y: Array, noise: Array) -> Array:
    """Sum over columns of ``log N(y_c; 0, K + noise I)``; NaN where that is not positive."""
    n = K.shape[0]
    chol = jnp.linalg.cholesky(K + noise * jnp.eye(n, dtype=K.dtype))
    white = solve_triangular(chol, y, lower=True)
    log_det = 2 * jnp.sum(jnp.log(jnp.diagonal(chol)))
    return -0.5 * (jnp.sum(white**2) + y.shape[1] * (log_det + n * LOG_2PI))


def clamped_likelihood(K: Array, target: Array, weight: Array) -> Array:
    """``-weight KL(N(0, target) || N(0, K))``."""
    p = K.shape[0]
    chol = jnp.linalg.cholesky(K)
    half = solve_triangular(chol, jnp.linalg.cholesky(target), lower=True)
    t = jnp.log(jnp.diagonal(half))
    return -0.5 * weight * (jnp.sum(half**2) - 2 * jnp.sum(t) - p)


def parts(
    kernel: GramKernel, penalty: str, clamped: bool, roots: Array, data: Any
) -> tuple[Array, Tower, Array]:
    """``(log likelihood, tower, K(G_L))``.

    ``data`` holds ``G0``, ``y`` (targets, or the top Gram matrix if ``clamped``), ``nu (L,)``,
    ``noise`` (the weight of the top Gram matrix if ``clamped``) and ``jitter (L + 1,)``.
    """
    tower = build(kernel, penalty, roots, data["G0"], data["jitter"][:-1])
    K = kernel.matrix(tower.grams[-1])
    top = K + data["jitter"][-1] * jnp.eye(K.shape[0], dtype=K.dtype)
    if clamped:
        return clamped_likelihood(top, data["y"], data["noise"]), tower, K
    return log_likelihood(top, data["y"], data["noise"]), tower, K


def objective(kernel: GramKernel, penalty: str, clamped: bool, vector: Array, data: Any) -> Array:
    """Log likelihood minus penalties, in nats, as a function of the packed coordinates."""
    layers, p = data["nu"].shape[0], data["G0"].shape[0]
    roots = lower_triangle(vector, layers, p)
    likelihood, tower, _ = parts(kernel, penalty, clamped, roots, data)
    return likelihood - jnp.sum(data["nu"] * tower.penalties)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def negative_and_gradient(
    kernel: GramKernel, penalty: str, clamped: bool, vector: Any, data: Any
) -> Any:
    """What the optimiser minimises."""
    return jax.value_and_grad(lambda v: -objective(kernel, penalty, clamped, v, data))(vector)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def evaluate(kernel: GramKernel, penalty: str, clamped: bool, vector: Any, data: Any) -> Any:
    """``(log likelihood, tower, K(G_L), d log likelihood / d noise)`` at packed coordinates."""
    layers, p = data["nu"].shape[0], data["G0"].shape[0]
    roots = lower_triangle(vector, layers, p)

    def value(noise: Any) -> Any:
        likelihood, tower, K = parts(kernel, penalty, clamped, roots, {**data, "noise": noise})
        return likelihood, (likelihood, tower, K)

    slope, (likelihood, tower, K) = jax.grad(value, has_aux=True)(data["noise"])
    return likelihood, tower, K, slope
