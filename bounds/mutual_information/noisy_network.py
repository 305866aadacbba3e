r"""A small classifier with noisy hidden layers, to be watched while it learns.

.. math:: T_l = \tanh(W_l T_{l-1} + b_l) + \varepsilon Z_l, \qquad T_0 = x,

with a softmax of an affine map of the last layer. The noise is part of the network, in training and
in use: without it the information between input and layers is infinite and no network compresses.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Layers = list[tuple[Any, Any]]


def initial(rng: np.random.Generator, sizes: tuple[int, ...]) -> Layers:
    """Normal weights of variance 1/fan-in and zero biases."""
    return [
        (rng.standard_normal((a, b)) / a**0.5, np.zeros(b)) for a, b in itertools.pairwise(sizes)
    ]


def hidden_runs(
    params: Any, x: np.ndarray, noise: float, runs: int, rng: np.random.Generator
) -> tuple[list[np.ndarray], np.ndarray]:
    """Hidden layers before their own noise, and the class probabilities, in independent runs.

    Returns:
        One ``(n, runs, width)`` for each hidden layer, and ``(n, runs, classes)``.
    """
    z = np.repeat(x[:, None], runs, axis=1)
    layers = []
    for w, b in params[:-1]:
        centre = np.tanh(z @ np.asarray(w) + np.asarray(b))
        layers.append(centre)
        z = centre + noise * rng.standard_normal(centre.shape)
    logits = z @ np.asarray(params[-1][0]) + np.asarray(params[-1][1])
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return layers, weights / weights.sum(axis=-1, keepdims=True)


def start(params: Layers, rate: float) -> tuple[jax.Array, Any]:
    """The state of :func:`advance`: all parameters as one vector, and the moments of Adam."""
    flat = jnp.asarray(np.concatenate([v.ravel() for layer in params for v in layer]))
    return flat, optax.adam(rate).init(flat)


def unpacked(flat: Any, sizes: tuple[int, ...]) -> Layers:
    """The layers of a vector of parameters."""
    layers, at = [], 0
    for a, b in itertools.pairwise(sizes):
        w = flat[at : at + a * b].reshape(a, b)
        layers.append((w, flat[at + a * b : at + a * b + b]))
        at += a * b + b
    return layers


@functools.partial(jax.jit, static_argnames=("sizes",))
def advance(
    state: Any, x: Any, y: Any, batches: Any, noise: Any, rate: Any, key: Any, first: Any,
    last: Any, *, sizes: tuple[int, ...],
) -> Any:  # fmt: skip
    """Steps ``first <= step < last`` of Adam on the cross-entropy.

    The number of steps is an argument of the program, so that any schedule shares one compilation;
    ``batches`` ``(steps, batch)`` holds the examples of all of them.
    """

    def loss(flat: Any, x: Any, y: Any, normal: Any) -> Any:
        *hidden, (w_out, b_out) = unpacked(flat, sizes)
        z, at = x, 0
        for w, b in hidden:
            z = jnp.tanh(jnp.matmul(z, w) + b[None, :])
            z = z + noise * normal[:, at : at + len(b)]
            at += len(b)
        logits = jnp.matmul(z, w_out) + b_out[None, :]
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))

    def step(number: Any, state: Any) -> Any:
        flat, moments = state
        chosen = batches[number]
        shape = (batches.shape[1], sum(sizes[1:-1]))
        normal = jax.random.normal(jax.random.fold_in(key, number), shape, x.dtype)
        slope = jax.grad(loss)(flat, x[chosen], y[chosen], normal)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes its counter with floats
            update, moments = optax.adam(rate).update(slope, moments, flat)
        return optax.apply_updates(flat, update), moments

    return jax.lax.fori_loop(first, last, step, state)
