r"""Claims of the mean-field theory: wide random networks held against its phases and depth laws."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.claims import Claim, register
from ntk.activations import dual
from ntk.critical_init import critical_init
from ntk.mean_field import mean_field

#: Scales in the chaotic phase of tanh, and number of layers and of networks.
W_STD, B_STD, DEPTH, NETWORKS = 1.5, 0.3, 4, 1_000


def _signals(key: Any, width: int) -> np.ndarray:
    """``(networks, 3)``: mean squares and mean product of the units of two inputs, by network.

    The first layer has the covariance of the fixed point, which infinite width would keep.
    """
    fn = dual("tanh").fn
    root = jnp.asarray(np.linalg.cholesky(_fixed_point()[[[0, 1], [1, 2]]]))

    def one(key: Any) -> Any:
        first, rest = jax.random.split(key)
        start = jnp.matmul(root, jax.random.normal(first, (2, width)))

        def layer(z: Any, key: Any) -> tuple[Any, None]:
            weights, biases = jax.random.split(key)
            w = W_STD / math.sqrt(width) * jax.random.normal(weights, (width, width))
            return jnp.matmul(fn(z), w) + B_STD * jax.random.normal(biases, (1, width)), None

        z = jax.lax.scan(layer, start, jax.random.split(rest, DEPTH))[0]
        gram = jnp.matmul(z, z.T) / width
        return jnp.stack([gram[0, 0], gram[0, 1], gram[1, 1]])

    run = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=64))
    return np.asarray(run(jax.random.split(key, NETWORKS)))


def _fixed_point() -> np.ndarray:
    m = mean_field("tanh", W_STD, B_STD)
    return m.q_star * np.array([1.0, m.c_star, 1.0])


register(
    Claim(
        name="ntk/chaotic-fixed-point",
        source="[poole2016], figure 1",
        statement="In the chaotic phase of tanh, variance q* and covariance c* q* of two inputs "
        "are kept over four layers, with a variance over networks that shrinks as 1/width.",
        theory=_fixed_point,
        experiment=_signals,
        sizes=(32, 64, 128),
        exponent=-1.0,
        z=4.0,
        decays="variance",
        quantity="covariance of the units for 2 inputs",
    )
)


def _critical_gelu() -> np.ndarray:
    return np.array([critical_init("gelu").K_star])


def _gelu_at_its_fixed_point(key: Any, width: int) -> np.ndarray:
    """Mean square after one layer whose input has variance K*."""
    c = critical_init("gelu")
    keys = jax.random.split(key, 100_000)

    def one(key: Any) -> Any:
        start, weights, bias = jax.random.split(key, 3)
        z = math.sqrt(c.K_star) * jax.random.normal(start, (width,))
        w = math.sqrt(c.C_W / width) * jax.random.normal(weights, (width,))
        out = jnp.sum(w * dual("gelu").fn(z)) + c.b_std * jax.random.normal(bias)
        return out[None] ** 2

    return np.asarray(jax.jit(jax.vmap(one))(keys))


register(
    Claim(
        name="ntk/critical-variance-gelu",
        source="[roberts2022], section 5.3.4",
        statement="At the critical initialisation of GELU, units of variance K* are followed by "
        "units of variance K*, at every width.",
        theory=_critical_gelu,
        experiment=_gelu_at_its_fixed_point,
        sizes=(8, 32),
        z=4.0,
        z_at="all",
        quantity="variance of the units of the next layer",
    )
)
