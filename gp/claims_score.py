"""Claims on score regression and in-context learning, against finite networks and simulation."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.claims import Claim, register
from gp.in_context import gradient_step_attention
from gp.in_context_errors import best_gradient_rate, gradient_step_error
from gp.predictive import standard_normal
from gp.score import ScoreRegression, score_regression
from gp.score_kernel import network_inputs, score_pairs
from gp.score_truth import atomic_data

#: Three atoms in the plane, the data of the experiments.
ATOMS = ((1.0, 0.0), (-1.0, 0.8), (0.0, -1.0))
PAIRS, TEST, STEPS, NETWORKS = 40, 6, 30, 60
TASK = {"d": 5, "noise": 0.5}


@cache
def regression() -> ScoreRegression:
    """Kernel regression after 30 steps on 40 pairs."""
    return score_regression(atomic_data(ATOMS), PAIRS, key=0, stop=STEPS)


@cache
def comparison_points() -> tuple[np.ndarray, np.ndarray]:
    """Times and noised points at which predictions are compared."""
    pairs = score_pairs(atomic_data(ATOMS), TEST, key=1)
    return pairs.t, pairs.x


def predicted() -> np.ndarray:
    """Predicted clean points of the infinitely wide network ``(6, 2)``."""
    return regression().denoise(*comparison_points())


def trained_networks(key: Any, width: int) -> np.ndarray:
    r"""Predictions of 60 finite networks after the same gradient descent, ``(60, 6, 2)``.

    Units come in pairs with one w and opposite signs, so that the network starts at 0. The outputs
    share the units and have independent signs.
    """
    fit = regression()
    z = jnp.asarray(network_inputs(fit.pairs.t, fit.pairs.x))
    zs = jnp.asarray(network_inputs(*comparison_points()))
    weights, labels = jnp.asarray(fit.weights), jnp.asarray(fit.pairs.x0)

    def network(w: Any, signs: Any, x: Any) -> Any:
        return jnp.matmul(jax.nn.relu(jnp.matmul(x, w.T)), signs) / width**0.5

    def loss(w: Any, signs: Any) -> Any:
        missing = (network(w, signs, z) - labels) * weights[:, None]
        return jnp.sum(missing**2) / (2 * PAIRS)

    def one(k: Any) -> Any:
        first, second = jax.random.split(k)
        half = jax.random.normal(first, (width // 2, z.shape[1]))
        sign = jax.random.rademacher(second, (width // 2, 2), z.dtype)
        w, signs = jnp.concatenate([half, half]), jnp.concatenate([sign, -sign])
        gradient = jax.grad(loss)
        end = jax.lax.fori_loop(0, STEPS, lambda _, v: v - fit.rate * gradient(v, signs), w)
        return network(end, signs, zs)

    run = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=20))
    return np.asarray(run(jax.random.split(key, NETWORKS)))


def squared_distances(key: Any, width: int) -> np.ndarray:
    """Squared distances of finite networks from the prediction ``(60, 6, 2)``."""
    return (trained_networks(key, width) - predicted()) ** 2


register(
    Claim(
        name="gp/score-wide-network",
        source="arXiv:2401.15604, section 3",
        statement="Two-layer networks that learn the denoiser by gradient descent approach "
        "weighted kernel regression after as many steps, at the rate width^(-1/2).",
        theory=np.zeros((TEST, 2)),
        experiment=squared_distances,
        sizes=(64, 256, 1024),
        exponent=-1.0,
        quantity="squared distance of the clean points predicted at 6 noised points after 30 steps",
    )
)


def _attention_errors(key: Any, n: int) -> np.ndarray:
    """Squared errors of one layer of linear attention on 4000 contexts of n examples."""
    d, noise, draws = int(TASK["d"]), TASK["noise"], 4000
    keys = jax.random.split(key, 3)
    x = standard_normal(keys[0], (draws, n + 1, d))
    w = standard_normal(keys[1], (draws, d))
    y = np.einsum("bnd,bd->bn", x, w)
    seen = y[:, :n] + noise**0.5 * standard_normal(keys[2], (draws, n))
    tokens = np.zeros((draws, n + 1, d + 1))
    tokens[..., :d], tokens[:, :n, d] = x, seen
    layer = gradient_step_attention(d, best_gradient_rate(n, d, noise))
    answers = np.array([layer(context)[-1, -1] for context in tokens])
    return (answers - y[:, n]) ** 2


def _attention_error(n: int) -> float:
    d, noise = int(TASK["d"]), TASK["noise"]
    return gradient_step_error(n, d, best_gradient_rate(n, d, noise), noise)


register(
    Claim(
        name="gp/attention-gradient-step",
        source="arXiv:2212.07677, proposition 1; arXiv:2306.09927, theorem 4.1",
        statement="One layer of linear attention that makes the best gradient step has the "
        "closed-form expected error.",
        theory=_attention_error,
        experiment=_attention_errors,
        sizes=(2, 8, 32),
        z=4.0,
        z_at="all",
        quantity="squared error at a query",
    )
)
