r"""The log evidence of a scale mixture as a differentiable function of kernel, noise and prior."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from deeplimits.precision import require_x64
from deeplimits.validate import as_square, as_targets
from gp.predictive import LOG_2PI, as_noise
from gp.scale_priors import InverseGamma, log_rising
from gp.scale_quadrature import EDGE, NEGLIGIBLE

#: Log scales on which the window of integration is looked for, and nodes inside it.
_SCAN, _NODES = 5601, 1025


def mixture_log_evidence(
    K: Any, y: Any, noise: Any, prior: Any, *, noise_scaled: bool = True
) -> jax.Array:
    r"""Log marginal likelihood of a scale mixture (float64; jit, grad and vmap).

    .. math:: \log \int H(s^2)\, N(y;\, 0, s^2 (K + \Sigma))\, ds^2 \quad\text{or}\quad
        \log \int H(s^2)\, N(y;\, 0, s^2 K + \Sigma)\, ds^2

    In closed form for an inverse gamma law with scaled noise, else by 1025 trapezoid nodes between
    scales found anew at every call. No jitter is added; where :math:`K + \Sigma` is not positive
    definite the value is NaN.

    Args:
        K: symmetric kernel matrix ``(n, n)`` at unit scale.
        y: targets ``(n,)`` or ``(n, C)``; the outputs share the scale.
        noise: variance, scalar or ``(n,)``; >= 0, and > 0 if not scaled.
        prior: law of the scale, a pytree of its parameters; gradients flow to them.
        noise_scaled: as in :class:`gp.ScaleMixture`. Default True. Gradients with False go through
            an eigen-decomposition and need distinct eigenvalues.

    Returns:
        A float64 scalar, in nats.

    Raises:
        PrecisionError: x64 is off.
        ShapeError, DomainError: concrete arguments of the wrong shape, sign or symmetry.

    Source: arXiv:2107.01408; quadrature derived here.
    Check: test_mixture_quadrature.py::test_evidence_gradients.
    """
    require_x64("gp.mixture_log_evidence")
    K = jnp.asarray(as_square(K)).astype(jnp.float64)
    n = K.shape[0]
    y = jnp.asarray(as_targets(y, n)).astype(jnp.float64)
    noise = jnp.broadcast_to(jnp.asarray(as_noise(noise, n)).astype(jnp.float64), (n,))
    if not noise_scaled:
        return _unscaled(K, y, noise, prior)
    chol = jnp.linalg.cholesky(K + jnp.diag(noise))
    q = jnp.sum(jax.scipy.linalg.solve_triangular(chol, y, lower=True) ** 2)
    log_det = 2 * y.shape[1] * jnp.sum(jnp.log(jnp.diagonal(chol)))
    constant = -0.5 * (log_det + y.size * LOG_2PI)
    h = 0.5 * y.size
    if isinstance(prior, InverseGamma):
        a, b = (jnp.asarray(value, jnp.float64) for value in (prior.a, prior.b))
        return constant + log_rising(a, h) - h * jnp.log(b / a) - (a + h) * jnp.log1p(0.5 * q / b)
    return constant + _integral(lambda u: -h * u - 0.5 * q * jnp.exp(-u), prior)


def _unscaled(K: jax.Array, y: jax.Array, noise: jax.Array, prior: Any) -> jax.Array:
    root = jnp.sqrt(noise)
    values, vectors = jnp.linalg.eigh(K / (root[:, None] * root[None, :]))
    squares = jnp.sum(jnp.matmul(vectors.T, y / root[:, None]) ** 2, axis=1)
    values = jnp.maximum(values, 0.0)

    def data(u: jax.Array) -> jax.Array:
        def one(v: jax.Array) -> jax.Array:
            excess = jnp.exp(v) * values
            return -0.5 * jnp.sum(y.shape[1] * jnp.log1p(excess) + squares / (1 + excess))

        return jax.lax.map(one, u, batch_size=64)

    constant = -y.shape[1] * jnp.sum(jnp.log(root)) - 0.5 * y.size * LOG_2PI
    return constant + _integral(data, prior)


def _integral(data: Any, prior: Any) -> jax.Array:
    """Logarithm of the integral of prior times ``exp(data)`` over the logarithm of the scale.

    The window holds every scan point within e^-42 of the largest, and one step more on each side;
    its ends carry no gradient, because the integrand vanishes there.
    """
    scan = jnp.asarray(np.linspace(-EDGE, EDGE, _SCAN))
    stopped, frozen = jax.tree.map(jax.lax.stop_gradient, (prior, scan))
    height = jax.lax.stop_gradient(data(frozen) + stopped.log_density_of_log(frozen))
    inside = height >= jnp.max(height) - NEGLIGIBLE
    step = 2 * EDGE / (_SCAN - 1)
    low = jnp.min(jnp.where(inside, scan, EDGE)) - step
    high = jnp.max(jnp.where(inside, scan, -EDGE)) + step
    u = low + (high - low) * jnp.asarray(np.linspace(0.0, 1.0, _NODES))
    value = data(u) + prior.log_density_of_log(u)
    return logsumexp(value) + jnp.log((high - low) / (_NODES - 1))
