"""The operations of a convolutional deep kernel machine on blocks of Gram matrices."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from deeplimits.typing import Array
from gp.dkm_kernels import GramKernel


class Blocks(NamedTuple):
    """Gram or kernel blocks: ``ii (M, M)``, ``ti (B, H, W, M)``, ``t (B, H, W)``."""

    ii: Any
    ti: Any
    t: Any


def window_mean(values: Array, window: int) -> Array:
    """Mean over the window about every pixel of ``(B, H, W)``, pixels outside not counted."""

    def total(a: Any) -> Any:
        shape = (1, window, window)
        return jax.lax.reduce_window(
            a, jnp.zeros((), a.dtype), jax.lax.add, shape, (1, 1, 1), "SAME"
        )

    return total(values) / total(jnp.ones_like(values))


def correlate(values: Any, weights: Any) -> Array:
    """``sum_d values(r + d) weights_d``: ``(B, H, W, a)``, ``(k, k, a, b)`` to ``(B, H, W, b)``."""
    return jax.lax.conv_general_dilated(
        values, weights, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def image_blocks(patches: Array, images: Array) -> Blocks:
    """Gram blocks of inducing patches ``(M, k, k, c)`` and all patches of ``(B, H, W, c)``."""
    window, size = patches.shape[1], float(np.prod(patches.shape[1:]))
    flat = patches.reshape(patches.shape[0], -1)
    ti = correlate(images, jnp.transpose(patches, (1, 2, 3, 0))) / size
    return Blocks(jnp.matmul(flat, flat.T) / size, ti, window_mean(jnp.mean(images**2, -1), window))


def kernel_blocks(kernel: GramKernel, G: Blocks) -> Blocks:
    """The kernel of Gram blocks."""
    inducing = jnp.diagonal(G.ii)
    flat = kernel.cross(G.t.ravel(), G.ti.reshape(-1, G.ii.shape[0]), inducing)
    return Blocks(kernel.matrix(G.ii), flat.reshape(G.ti.shape), kernel.variance(G.t))


def mix(K: Blocks, mixing: Array) -> Blocks:
    """A convolution with free mixing matrices ``C_d``, ``(k, k, M', M)``."""
    window = mixing.shape[0]
    ii = jnp.einsum("xyab,bc,xydc->ad", mixing, K.ii, mixing) / window**2
    ti = correlate(K.ti, jnp.swapaxes(mixing, 2, 3)) / window**2
    return Blocks(ii, ti, window_mean(K.t, window))


def learned(K: Blocks, root: Array, jitter: Array) -> tuple[Blocks, Array]:
    """Gram blocks of a layer with learned ``A``, and the Cholesky factor of its kernel matrix."""
    m = K.ii.shape[0]
    prior = jnp.linalg.cholesky(K.ii + jitter * jnp.eye(m, dtype=K.ii.dtype))
    V = solve_triangular(prior, K.ti.reshape(-1, m).T, lower=True).T
    VA, half = jnp.matmul(V, root), jnp.matmul(prior, root)
    free = jnp.maximum(K.t.ravel() + jitter - jnp.sum(V**2, axis=1), 0.0)
    t = (free + jnp.sum(VA**2, axis=1)).reshape(K.t.shape)
    return Blocks(jnp.matmul(half, half.T), jnp.matmul(VA, half.T).reshape(K.ti.shape), t), prior


def pooled_features(K: Blocks, jitter: Array) -> tuple[Array, Array]:
    r"""Whitened features of the averaged image ``(B, M)``, and the variance left ``(B,)``.

    .. math:: v = \operatorname{mean}_r V(r), \qquad
        \frac{1}{S^2} \sum_r \big[K_t(r) - \|V(r)\|^2\big]

    for S pixels: what the inducing points leave unexplained is taken as independent across pixels.
    """
    m, pixels = K.ii.shape[0], K.t.shape[1] * K.t.shape[2]
    top = jnp.linalg.cholesky(K.ii + jitter * jnp.eye(m, dtype=K.ii.dtype))
    V = solve_triangular(top, K.ti.reshape(-1, m).T, lower=True).T
    free = jnp.maximum(K.t.ravel() - jnp.sum(V**2, axis=1), 0.0).reshape(K.t.shape[0], -1)
    return jnp.mean(V.reshape(-1, pixels, m), axis=1), jnp.sum(free, axis=1) / pixels**2
