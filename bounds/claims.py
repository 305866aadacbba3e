r"""Claims on bounds: the law of the test loss of trained networks, exact laws of random functions.

Networks are trained by gradient flow in exponential steps: within a step the tangent kernel stands
still and the outputs follow :math:`f + (1 - e^{-\hat\Theta \Delta})(y - f)`; it is computed anew
for each step, of which the last go to the end of the flow.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import ntk
from bounds.inductive_bias import inductive_bias
from bounds.simplicity import boolean_inputs, function_probabilities, network_function_probabilities
from deeplimits.claims import Claim, register

TRAIN, TEST, DIMENSION, SCALE = 10, 20, 4, 2**0.5
NETWORKS = 600
#: Losses at which distribution functions are compared, and the durations of the steps.
LOSSES = (0.45, 0.6, 0.75, 0.9, 1.2)
STEPS = (0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 3.0, 10.0, np.inf, np.inf, np.inf)
FUNCTIONS = 20_000
BITS = 3


@functools.cache
def task() -> tuple[np.ndarray, np.ndarray]:
    """Thirty points, of which ten are for training, and targets sin(x_0 + x_1)."""
    X = np.random.default_rng(0).normal(size=(TRAIN + TEST, DIMENSION))
    return X, np.sin(X[:, 0] + X[:, 1])


def probability_of_losses() -> np.ndarray:
    """The law of the test loss under the ensemble of infinitely wide trained networks."""
    X, y = task()
    net = ntk.mlp(1, "relu", W_std=SCALE)
    K, T = np.asarray(net.nngp(X)), np.asarray(net.ntk(X))
    A = np.linalg.solve(T[:TRAIN, :TRAIN], T[:TRAIN, TRAIN:]).T
    cross = A @ K[:TRAIN, TRAIN:]
    cov = K[TRAIN:, TRAIN:] + A @ K[:TRAIN, :TRAIN] @ A.T - cross - cross.T
    info = inductive_bias(A @ y[:TRAIN], (cov + cov.T) / 2, y[TRAIN:], np.array(LOSSES))
    return np.exp(-info.value)


@functools.partial(jax.jit, static_argnums=1)
def _trained_outputs(keys: Array, width: int) -> Array:
    """Outputs at all points of networks trained on the first ten, ``(networks, 30)``."""
    X, y = (jnp.asarray(a) for a in task())
    inputs = X * (SCALE / DIMENSION**0.5)
    readout = SCALE / width**0.5

    def step(weights: tuple[Array, Array], duration: Array) -> tuple[tuple[Array, Array], None]:
        w, v = weights
        z = jnp.matmul(inputs[:TRAIN], w)
        hidden, slope = jnp.maximum(z, 0) * readout, jnp.where(z > 0, readout * v[None, :], 0.0)
        gram = jnp.matmul(inputs[:TRAIN], inputs[:TRAIN].T)
        kernel = jnp.matmul(hidden, hidden.T) + gram * jnp.matmul(slope, slope.T)
        lam, basis = jnp.linalg.eigh(kernel)
        gap = y[:TRAIN] - jnp.matmul(hidden, v)
        change = jnp.matmul(basis, -jnp.expm1(-lam * duration) / lam * jnp.matmul(basis.T, gap))
        w_new = w + jnp.matmul(inputs[:TRAIN].T, slope * change[:, None])
        return (w_new, v + jnp.matmul(hidden.T, change)), None

    def one(key: Array) -> Array:
        first, second = jax.random.split(key)
        start = jax.random.normal(first, (DIMENSION, width)), jax.random.normal(second, (width,))
        (w, v), _ = lax.scan(step, start, jnp.asarray(STEPS))
        return jnp.matmul(jnp.maximum(jnp.matmul(inputs, w), 0) * readout, v)

    return lax.map(one, keys)


def _below(key: Any, width: Any) -> np.ndarray:
    """Whether each trained network has a test loss below each of the thresholds."""
    outputs = np.asarray(_trained_outputs(jax.random.split(key, NETWORKS), int(width)))
    losses = ((outputs - task()[1])[:, TRAIN:] ** 2).mean(1)
    return (losses[:, None] <= np.array(LOSSES)).astype(float)


@functools.cache
def prior() -> tuple[np.ndarray, np.ndarray]:
    """Functions of three bits under a wide ReLU network, with their probabilities."""
    net = ntk.mlp(1, "relu", W_std=SCALE, b_std=0.5)
    K = np.asarray(net.nngp(boolean_inputs(BITS)))
    drawn = function_probabilities(K, n_samples=FUNCTIONS, key=0)
    return drawn.functions, drawn.probability


def _moments(key: Any, n: Any) -> np.ndarray:
    """The average over the prior of 1{no training error} / (1 - risk)^n, for each data set."""
    functions, weight = prior()
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    right = functions == functions[2]  # the third most likely function is the truth
    accuracy = right.mean(1)
    inverse = np.where(accuracy > 0, accuracy, 1.0) ** -int(n)
    seen = rng.integers(2**BITS, size=(FUNCTIONS, int(n)))
    fits = np.prod([right[:, seen[:, i]] for i in range(int(n))], axis=0)
    return (weight * inverse) @ fits


def _possible(n: Any) -> float:
    """Prior probability of the functions that are not wrong everywhere."""
    functions, weight = prior()
    return float(weight[(functions == functions[2]).any(1)].sum())


def _numbers_of_ones(key: Any, bits: Any) -> np.ndarray:
    """One-hot number of ones of each random perceptron."""
    net, X = ntk.serial(ntk.Dense(1)), boolean_inputs(int(bits))
    drawn = network_function_probabilities(net, X, n_samples=FUNCTIONS, key=key)
    ones = np.repeat(drawn.functions.sum(1, dtype=int), drawn.counts)
    return np.eye(2 ** int(bits) + 1)[ones][:, :-1]


register(
    Claim(
        name="bounds/law-of-test-loss",
        source="derived here; definition of inductive bias: arXiv:2406.15941",
        statement="The test loss of wide networks trained to zero error has the distribution of "
        "the quadratic form of the tangent-kernel ensemble.",
        theory=probability_of_losses,
        experiment=_below,
        sizes=(2048,),
        z=4.0,
        quantity="share of networks below a test loss",
    )
)

register(
    Claim(
        name="bounds/realizable-moment",
        source="derived here",
        statement="Averaged over data sets and the prior, 1{no training error} / (1 - risk)^n is "
        "the probability of being right somewhere, at most 1: the realizable PAC-Bayes bound.",
        theory=_possible,
        experiment=_moments,
        sizes=(1, 2, 3),
        z=4.0,
        z_at="all",
        quantity="moment over data sets",
    )
)

register(
    Claim(
        name="bounds/perceptron-ones",
        source="[mingard2019], theorem 4.1",
        statement="A random perceptron without bias on {0, 1}^n has each number of ones from 0 to "
        "2^n - 1 with the same probability.",
        theory=lambda: np.full(16, 1 / 16),
        experiment=_numbers_of_ones,
        sizes=(4,),
        z=4.0,
        quantity="probability of a number of ones",
    )
)
