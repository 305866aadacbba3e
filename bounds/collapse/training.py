r"""Gradient descent on the unconstrained-features model from random starts.

Nothing here knows the closed forms: weights, features and bias start as Gaussian noise and follow
an optimiser. All restarts run side by side in one program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bounds.collapse.mse import as_matrix, as_widths, product
from bounds.collapse.scalar import as_decays
from deeplimits import plotting
from deeplimits.errors import DomainError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import ArrayLike, Key
from deeplimits.validate import as_key, choice, integer, number

LOSSES = ("mse", "cross_entropy")


@register_dataclass
@dataclass(frozen=True)
class Training:
    """The end and the course of every restart; restarts come first in all arrays.

    Attributes:
        W: weights ``(restarts, out, in)``, first layer first.
        H: ``(restarts, d, N)`` features.
        bias: ``(restarts, K)``.
        losses: ``(restarts, records)`` objective, regularisers included.
        steps: ``(records,)`` number of steps taken at each record.
        loss: name of the loss.
    """

    W: tuple[Any, ...]
    H: Any
    bias: Any
    losses: Any
    steps: Any
    loss: str = field(metadata={"static": True})

    @property
    def final(self) -> np.ndarray:
        """``(restarts,)`` objective at the end."""
        return np.asarray(self.losses[:, -1])

    @property
    def best(self) -> int:
        """The restart with the lowest objective."""
        return int(np.argmin(self.final))

    def weights(self, restart: int | None = None) -> tuple[np.ndarray, ...]:
        """Weights of one restart (default the best), first layer first."""
        index = self.best if restart is None else restart
        return tuple(W[index] for W in self.W)

    def features(self, restart: int | None = None) -> np.ndarray:
        """``(d, N)`` features of one restart (default the best)."""
        return np.asarray(self.H[self.best if restart is None else restart])

    def Z(self, restart: int | None = None) -> np.ndarray:
        """``(K, N)`` output without bias of one restart (default the best)."""
        return np.asarray(product(self.weights(restart)) @ self.features(restart))

    def plot(self, ax: Any = None, *, minimum: float | None = None) -> Any:
        """Objective, or its excess over a known ``minimum``, against steps for every restart."""
        ax = plotting.axes(ax)
        values = self.losses - (0.0 if minimum is None else minimum)
        ax.plot(self.steps, values.T, linewidth=1, alpha=0.7)
        label = "objective" if minimum is None else "objective - minimum"
        ax.set(xlabel="steps", ylabel=label, yscale="log")
        return ax


def unconstrained_objective(
    W: Sequence[Any],
    H: Any,
    bias: Any,
    Y: Any,
    lam_W: Any,
    lam_H: Any,
    *,
    loss: str = "mse",
    weights: Any = None,
) -> Any:
    r"""Objective of the model at any weights, features and bias; differentiable.

    Mean over samples of :math:`\frac12 \|W_M \cdots W_1 h + \beta - y\|^2` or of the cross-entropy
    with the targets y, plus :math:`\frac12 \sum_l \lambda_l \|W_l\|^2 + \frac{\lambda_H}{2}
    \|H\|^2`.

    Args:
        W: M weights ``(out, in)``, first layer first.
        H: ``(d, N)`` features.
        bias: ``(K,)``.
        Y: ``(K, N)`` targets.
        lam_W: ``(M,)``; lam_H: number.
        loss: ``"mse"`` or ``"cross_entropy"``.
        weights: ``(N,)`` how many samples share a column, default one each.

    Raises:
        DomainError: an unknown loss.

    Source: the model of arXiv:2301.00437 (with ``loss="mse"``).
    Check: tests/bounds/test_collapse.py::test_minimum_is_global
    """
    choice(loss, "loss", LOSSES)
    Z = H
    for layer in W:
        Z = jnp.matmul(layer, Z)
    Z = Z + jnp.expand_dims(bias, 1)
    share = jnp.ones_like(Z[0]) if weights is None else weights
    if loss == "mse":
        each = 0.5 * jnp.sum((Z - Y) ** 2, axis=0)
    else:
        each = -jnp.sum(Y * jax.nn.log_softmax(Z, axis=0), axis=0)
    decay = sum(lam_W[i] * jnp.sum(layer**2) for i, layer in enumerate(W))
    decay = decay + lam_H * jnp.sum(share * jnp.sum(H**2, axis=0))
    return jnp.sum(share * each) / jnp.sum(share) + 0.5 * decay


@cache
def momentum(learning_rate: float = 0.1, beta: float = 0.9) -> optax.GradientTransformation:
    """Gradient descent with momentum; equal arguments give one object, hence one program."""
    return optax.sgd(learning_rate, momentum=beta)


@float64_scope
def train_unconstrained(
    Y: ArrayLike,
    lam_W: ArrayLike,
    lam_H: float,
    *,
    key: Key,
    bias: bool = False,
    loss: str = "mse",
    width: int | Sequence[int] | None = None,
    restarts: int = 8,
    steps: int = 5000,
    records: int = 50,
    init_std: float = 0.1,
    optimizer: optax.GradientTransformation | None = None,
) -> Training:
    """Train weights, features and bias from independent random starts.

    Args:
        Y: ``(K, N)`` targets, for instance :func:`one_hot`.
        lam_W, lam_H, width: as in :func:`minimizer`; default width K.
        key: random key or integer seed.
        bias: train a bias; default False.
        loss: ``"mse"`` (half the squared error) or ``"cross_entropy"`` (columns of Y are
            distributions).
        restarts: number of random starts, >= 1, default 8.
        steps: number of steps, >= ``records``, rounded down to a multiple of it; default 5000.
        records: how often the objective is recorded, >= 1, default 50.
        init_std: standard deviation of all initial entries, > 0, default 0.1.
        optimizer: from optax; default :func:`momentum`, learning rate 0.1 and momentum 0.9. Use
            one object for several calls: each new one is compiled anew.

    Returns:
        :class:`Training`.

    Raises:
        ShapeError, DomainError: as :func:`minimizer`; an unknown loss, targets that are no
            distributions, counts below 1.

    Source: the synthetic experiments of arXiv:2301.00437.
    Check: tests/bounds/test_collapse_training.py
    """
    layers, features = as_decays(lam_W, lam_H)
    Y = as_matrix(Y, "Y")
    choice(loss, "loss", LOSSES)
    if loss == "cross_entropy" and ((Y < 0).any() or not np.allclose(Y.sum(0), 1)):
        raise DomainError("Y must hold distributions in its columns for the cross-entropy.")
    integer(restarts, "restarts", at_least=1)
    integer(records, "records", at_least=1)
    integer(steps, "steps", at_least=records)
    number(init_std, "init_std", above=0)
    widths = as_widths(width, len(layers), len(Y))
    start = initial(as_key(key), widths, Y.shape, restarts, init_std)
    optimizer = momentum() if optimizer is None else optimizer
    every = steps // records
    end, losses = descend(
        start, Y, np.ones(Y.shape[1]), layers, features, every,
        bias=bias, loss=loss, records=records, optimizer=optimizer,
    )  # fmt: skip
    W, H, beta = jax.tree.map(np.asarray, end)
    taken = every * np.arange(1, records + 1)
    return Training(W, H, beta, np.asarray(losses), taken, loss)


def initial(
    key: Any, widths: tuple[int, ...], shape: tuple[int, int], restarts: int, std: Any
) -> Any:
    """Gaussian weights and features and zero biases for every restart."""
    K, N = shape
    shapes = [*zip(widths[1:], widths[:-1], strict=True), (K, widths[-1]), (widths[0], N)]
    sizes = [restarts * a * b for a, b in shapes]
    draws = np.asarray(std * jax.random.normal(key, (sum(sizes),)))
    parts = np.split(draws, np.cumsum(sizes)[:-1])
    *W, H = (p.reshape(restarts, *s) for p, s in zip(parts, shapes, strict=True))
    return tuple(W), H, np.zeros((restarts, K))


@partial(jax.jit, static_argnames=("bias", "loss", "records", "optimizer"))
def descend(
    start: Any,
    Y: Any,
    share: Any,
    lam_W: Any,
    lam_H: Any,
    every: Any,
    *,
    bias: bool,
    loss: str,
    records: int,
    optimizer: Any,
) -> Any:
    """All restarts for ``records * every`` steps: end points and ``(restarts, records)``."""

    def objective(params: Any) -> Any:
        W, H, beta = params
        beta = beta if bias else jnp.zeros_like(beta)
        return unconstrained_objective(W, H, beta, Y, lam_W, lam_H, loss=loss, weights=share)

    def step(_: Any, state: Any) -> Any:
        params, memory = state
        change, memory = optimizer.update(jax.grad(objective)(params), memory, params)
        return optax.apply_updates(params, change), memory

    def record(state: Any, _: Any) -> Any:
        state = jax.lax.fori_loop(0, every, step, state)
        return state, objective(state[0])

    def run(params: Any) -> Any:
        (params, _), losses = jax.lax.scan(record, (params, optimizer.init(params)), length=records)
        return params, losses

    # optax mixes dtypes of counters and moments; the problem itself is float64 throughout
    with jax.numpy_dtype_promotion("standard"):
        return jax.vmap(run)(start)
