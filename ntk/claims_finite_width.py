"""Claims of the theory of finite width: exact moments and first orders against random networks."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.claims import Claim, register
from ntk.exact_homogeneous import ExactHomogeneous, exact_homogeneous
from ntk.finite_width import finite_width

_INPUT = np.array([1.0, -0.5, 0.8])
_CONSTANTS: dict[str, Any] = {"C_b": 0.1, "C_W": 1.6, "lambda_b": 0.4, "lambda_W": 0.6}
_HIDDEN = 3


@cache
def _exact(width: int) -> ExactHomogeneous:
    return exact_homogeneous("relu", x=_INPUT, widths=[width] * _HIDDEN, **_CONSTANTS)


def _exact_moments(width: int) -> np.ndarray:
    """``E G, E G^2, E H, E H^2`` of the output."""
    e = _exact(width)
    K, Theta = e.K[-1], e.Theta[-1]
    second = Theta**2 * (1 + e.ntk_relative_variance[-1])
    return np.array([K, K**2 + e.V[-1] / width, Theta, second])


def _network(key: Any, width: int) -> tuple[Any, Any]:
    """Random variance and tangent kernel of one output of one ReLU network.

    The variance is averaged over the last weights; the tangent kernel comes from back-propagation.
    """
    c = {name: jnp.asarray(v, jnp.float32) for name, v in _CONSTANTS.items()}
    below, layers = jnp.asarray(_INPUT, jnp.float32), []
    for layer in range(_HIDDEN + 1):
        n_out = width if layer < _HIDDEN else 1
        k_W, k_b = jax.random.split(jax.random.fold_in(key, layer))
        shape = (n_out, len(below))
        W = jnp.sqrt(c["C_W"] / len(below)) * jax.random.normal(k_W, shape, jnp.float32)
        z = W @ below + jnp.sqrt(c["C_b"]) * jax.random.normal(k_b, (n_out,), jnp.float32)
        layers.append((W, z, jnp.mean(below**2)))
        below = jnp.maximum(z, 0)
    G = c["C_b"] + c["C_W"] * layers[-1][2]
    slope, H = jnp.ones(1, jnp.float32), jnp.zeros((), jnp.float32)
    for layer in reversed(range(_HIDDEN + 1)):
        W, z, size = layers[layer]
        if layer < _HIDDEN:
            slope = jnp.where(z > 0, slope, 0.0)
        H = H + jnp.sum(slope**2) * (c["lambda_b"] + c["lambda_W"] * size)
        slope = slope @ W
    return G, H


def _samples(key: Any, width: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    draw = jax.jit(lambda keys: jax.lax.map(partial(_network, width=width), keys, batch_size=256))
    G, H = draw(jax.random.split(key, count))
    return np.asarray(G, np.float64), np.asarray(H, np.float64)


def _simulated_moments(key: Any, width: int) -> np.ndarray:
    G, H = _samples(key, width, 20_000)
    return np.stack([G, G**2, H, H**2], axis=1)


register(
    Claim(
        name="ntk/finite-width-exact",
        source="ntk.exact_homogeneous, derived here",
        statement="Mean and variance of the kernel and of the tangent kernel of a ReLU network "
        "with biases and one input are given by a closed recursion at every width.",
        theory=_exact_moments,
        experiment=_simulated_moments,
        sizes=(6, 16),
        z=4.0,
        z_at="all",
        quantity="E G, E G^2, E H, E H^2 after 3 hidden layers",
    )
)


def _first_order() -> np.ndarray:
    """``V`` and ``A + 2 B`` of the output."""
    fw = finite_width("relu", x=_INPUT[None], widths=[10**6] * _HIDDEN, **_CONSTANTS)
    return np.array([fw.V.item(), fw.A.item() + 2 * fw.B.item()])


def _scaled_variances(key: Any, width: int) -> np.ndarray:
    """Width times squared deviations from the means, which are exact (no order 1/width)."""
    G, H = _samples(key, width, 200_000)
    e = _exact(width)
    return width * np.stack([(G - e.K[-1]) ** 2, (H - e.Theta[-1]) ** 2], axis=1)


register(
    Claim(
        name="ntk/finite-width-first-order",
        source="[roberts2022], chapters 4 and 8",
        statement="The variances of the kernel and of the tangent kernel of a ReLU network, times "
        "the width, tend to V and A + 2 B of the effective theory with an error of order 1/width.",
        theory=_first_order,
        experiment=_scaled_variances,
        sizes=(8, 16, 32),
        exponent=-1.0,
        # the next order is some ten times 1/width, so that powers of 2 and 3 bend the line
        exponent_tol=0.3,
        cost="slow",
        quantity="width times the variances after 3 hidden layers",
    )
)


def _tanh_mean(width: int) -> np.ndarray:
    fw = finite_width("tanh", x=_tanh_inputs(), widths=[width] * 2, order="V", C_b=0.1, C_W=1.6)
    return np.asarray(fw.mean_kernel()[np.triu_indices(2)])


def _tanh_inputs() -> np.ndarray:
    return np.array([[1.0, 0.3, -0.5], [0.2, -1.1, 0.7]])


def _tanh_metrics(key: Any, width: int) -> np.ndarray:
    x = jnp.asarray(_tanh_inputs(), jnp.float32)  # rounding is far below the scatter

    def one(key: Any) -> Any:
        below = x
        for layer in range(2):
            k_W, k_b = jax.random.split(jax.random.fold_in(key, layer))
            n = below.shape[1]
            W = jax.random.normal(k_W, (n, width), jnp.float32) * (1.6 / n) ** 0.5
            b = 0.1**0.5 * jax.random.normal(k_b, (1, width), jnp.float32)
            below = jnp.tanh(below @ W + b)
        return (0.1 + 1.6 / width * (below @ below.T))[jnp.triu_indices(2)]

    draw = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=256))
    return np.asarray(draw(jax.random.split(key, 80_000)), np.float64)


register(
    Claim(
        name="ntk/finite-width-mean-kernel",
        source="[roberts2022], chapter 4",
        statement="The mean kernel of a tanh network is G + G1/n, up to order 1/n^2.",
        theory=_tanh_mean,
        experiment=_tanh_metrics,
        sizes=(8, 32),
        z=4.0,
        quantity="mean kernel of 2 inputs after 2 hidden layers",
    )
)
