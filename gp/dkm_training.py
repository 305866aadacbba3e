"""Optimisers of sparse deep kernel machines: L-BFGS on all data, Adam on minibatches."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.linalg
import scipy.optimize
from jax.flatten_util import ravel_pytree

from deeplimits.errors import ConvergenceError
from gp.dkm import linear_inputs
from gp.dkm_elbo import (
    Setting,
    collapsed_step,
    inducing_tower,
    minibatch_bound,
    posterior_factors,
)
from gp.dkm_fit import prior_jitter
from gp.dkm_objective import Tower
from gp.linalg import factorize

#: Steps of Adam per compiled call.
_CHUNK = 100
#: Shortest natural-gradient step, of the way to the optimum of one batch.
_LEAST = 0.02


@functools.cache
def _unravel(shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> Any:
    """One function object per structure, so that programs are compiled once."""
    return ravel_pytree({name: jnp.zeros(shape) for name, shape in shapes})[1]


def _jitter(setting: Setting, problem: Any) -> np.ndarray:
    """Jitter of the layers and of the top of the inducing points, ``(L + 1,)``."""
    G0 = linear_inputs(problem["z"])
    layers = prior_jitter(setting.kernel, G0, setting.layers, problem["relative"])
    G = G0
    for extra in layers:
        G = setting.kernel(G) + extra * np.eye(len(G))
    K = setting.kernel(G)
    top = problem["relative"] * float(np.mean(np.diagonal(K)))
    return np.append(layers, top + factorize(K, top, name="the top kernel matrix").jitter)


def _start(setting: Setting, problem: Any) -> dict[str, Any]:
    m = len(problem["z"])
    return {
        "inducing": jnp.asarray(problem["z"]),
        "roots": jnp.zeros(setting.layers * m * (m + 1) // 2),
        "log_noise": jnp.asarray(np.log(problem["noise"])),
    }


def _data(setting: Setting, problem: Any) -> dict[str, Any]:
    names = ("x", "y", "nu")
    data = {name: jnp.asarray(problem[name]) for name in names}
    return {**data, "jitter": jnp.asarray(_jitter(setting, problem))}


def fit_collapsed(setting: Setting, problem: Any) -> dict[str, Any]:
    """The fields of the fitted record from ``inducing`` to ``trajectory``.

    Raises:
        ConvergenceError: the bound is NaN at the start.
    """
    params, data = _start(setting, problem), _data(setting, problem)
    names = ["roots", *(["inducing"] if "inducing" in problem["learn"] else [])]
    names += ["log_noise"] if "noise" in problem["learn"] else []
    free = {name: params[name] for name in sorted(names)}
    unravel = _unravel(tuple((name, value.shape) for name, value in free.items()))
    constant = {name: value for name, value in params.items() if name not in free}
    history: list[float] = []

    def loss(vector: np.ndarray) -> tuple[float, np.ndarray]:
        value, grad = collapsed_step(setting, vector, data, unravel, constant)
        host, slope = float(value), np.asarray(grad)
        if not (np.isfinite(host) and np.isfinite(slope).all()):
            if not history:
                raise ConvergenceError(
                    "the bound is not finite at the start. Use more noise or more jitter, or other "
                    "inducing inputs."
                )
            # a wall that the line search backs away from
            return -history[0] + 1e6 * (1 + abs(history[0])), np.zeros_like(slope)
        history.append(-host)
        return host, slope

    steps = problem["steps"] or 1000
    found = scipy.optimize.minimize(
        loss, np.asarray(ravel_pytree(free)[0]), jac=True, method="L-BFGS-B",
        options={"maxcor": 30, "ftol": 0.0, "gtol": problem["tol"], "maxiter": steps,
                 "maxfun": 4 * steps, "maxls": 40},
    )  # fmt: skip
    params = {**constant, **unravel(jnp.asarray(found.x))}
    value, mean, root = posterior_factors(setting, params, data)
    return _record(setting, params, data, mean, root, float(value), np.array(history))


def fit_minibatch(
    setting: Setting, problem: Any, batch: int, rate: float, key: Any
) -> dict[str, Any]:
    """As :func:`fit_collapsed`, by natural gradients and Adam on random batches.

    Raises:
        ConvergenceError: an estimate of the bound became NaN.
    """
    params, data = _start(setting, problem), _data(setting, problem)
    frozen = tuple(
        name for name, what in (("inducing", "inducing"), ("log_noise", "noise"))
        if what not in problem["learn"]
    )  # fmt: skip
    plan = (minibatch_bound, setting, batch, frozen, rate)
    params, mean, root, trajectory = ascend(plan, params, data, problem["steps"] or 2000, key)
    value = float(np.mean(trajectory[-max(1, len(trajectory) // 10) :]))
    return _record(setting, params, data, mean, root, value, trajectory)


def ascend(plan: Any, params: Any, data: Any, steps: int, key: Any) -> tuple[Any, ...]:
    """Stochastic ascent of a bound: parameters, mean and root of q, and all estimates.

    ``plan`` is static: ``(bound, setting, batch, frozen names, learning rate)``, with
    ``bound(setting, params, q, data, indices, key) -> (value, next q)``.

    Raises:
        ConvergenceError: an estimate of the bound became NaN.
    """
    m, outputs = params["inducing"].shape[0], data["y"].shape[1]
    q: Any = {"precision": jnp.eye(m), "shift": jnp.zeros((m, outputs))}
    chunks = -(-steps // _CHUNK)
    total = chunks * _CHUNK
    state = _adam(plan[-1], total).init(params)
    pieces = []
    for piece in jax.random.split(key, chunks):
        params, q, state, values = _chunk((*plan, total), params, q, state, data, piece)
        pieces.append(np.asarray(values))
        if not np.isfinite(pieces[-1]).all():
            raise ConvergenceError(
                "an estimate of the bound became NaN: lower the learning rate, or raise jitter or "
                "noise."
            )
    chol = np.linalg.cholesky(np.asarray(q["precision"]))
    root = scipy.linalg.solve_triangular(chol, np.eye(m), lower=True).T
    mean = root @ (root.T @ np.asarray(q["shift"]))
    return params, mean, root, np.concatenate(pieces)


def _adam(rate: float, steps: int) -> Any:
    return optax.adam(optax.cosine_decay_schedule(rate, steps, alpha=0.01))


@functools.partial(jax.jit, static_argnums=0)
def _chunk(plan: Any, params: Any, q: Any, state: Any, data: Any, key: Any) -> Any:
    bound, setting, batch, frozen, rate, total = plan
    rule, n = _adam(rate, total), data["x"].shape[0]
    longest = max(batch / n, _LEAST)

    def step(carry: Any, key: Any) -> Any:
        params, q, state = carry
        rows, noise = jax.random.split(key)
        # all points, in order, when the batch holds them all: then the bound itself, no estimate
        index = jnp.arange(n) if batch == n else jax.random.choice(rows, n, (batch,), False)

        def loss(params: Any) -> Any:
            value, goal = bound(setting, params, q, data, index, noise)
            return -value, goal

        (value, goal), grad = jax.value_and_grad(loss, has_aux=True)(params)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            update, state = rule.update(grad, state, params)
        update = {k: jnp.zeros_like(u) if k in frozen else u for k, u in update.items()}
        q = jax.tree.map(lambda old, new: old + longest * (new - old), q, goal)
        return (optax.apply_updates(params, update), q, state), -value

    keys = jax.random.split(key, _CHUNK)
    (params, q, state), values = jax.lax.scan(step, (params, q, state), keys)
    return params, q, state, values


_tower = functools.partial(jax.jit, static_argnums=0)(inducing_tower)


def _record(
    setting: Setting, params: Any, data: Any, mean: Any, root: Any, value: float,
    trajectory: np.ndarray,
) -> dict[str, Any]:  # fmt: skip
    tower, top = _tower(setting, {k: params[k] for k in ("inducing", "roots")}, data["jitter"])
    return {
        "inducing": np.asarray(params["inducing"]),
        "tower": Tower(*(np.asarray(part) for part in tower)),
        "top": np.asarray(top),
        "posterior_mean": np.asarray(mean),
        "posterior_root": np.asarray(root),
        "noise": float(np.exp(params["log_noise"])),
        "jitter": np.asarray(data["jitter"]),
        "elbo": value,
        "trajectory": trajectory,
    }
