r"""Markov chains of the weights of a finite network: steps, warm-up, resumption and cost.

The state of a chain between two draws is its position alone: all methods draw a new momentum each
time. Every step has its own key, made from the seed and its number, so that a run that was
interrupted and resumed equals one that was not.
"""

from __future__ import annotations

import functools
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from deeplimits.errors import DataError, DomainError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import ArrayLike
from deeplimits.validate import check, choice, integer, number
from gp.bnn_predictive import Predictions, predictions

METHODS = ("nuts", "mala", "sgld", "sghmc")
#: Acceptance at which the step of MALA mixes best: Roberts and Rosenthal, JRSS B 60, 255 (1998).
_MALA_ACCEPTANCE = 0.574
_MASS_STEPS = 20


class Settings(NamedTuple):
    """What a program is compiled for."""

    method: str
    thin: int
    batch_size: int | None
    leapfrogs: int
    friction: float


@dataclass(frozen=True)
class Cost:
    """What a run has cost.

    Attributes:
        gradients: evaluations of the gradient of the log density, or of its estimate by a batch,
            in all chains, warm-up included.
        seconds: time by the clock, compilation included.
    """

    gradients: int
    seconds: float


register_dataclass(Cost, ["gradients", "seconds"], [])


@dataclass(frozen=True)
class Chains:
    """Draws from the posterior of a finite network; made by :meth:`gp.BNNPosterior.sample`.

    Attributes:
        posterior: what was sampled.
        settings: method and options.
        thetas: parameters ``(chains, draws, D)``.
        acceptance: mean acceptance rate of every chain ``(chains,)``; NaN without acceptance step.
        divergences: diverging NUTS trajectories of every chain ``(chains,)``.
        step_size: ``(chains,)``.
        inverse_mass: diagonal of the inverse mass matrix of NUTS ``(chains, D)``; else ones.
        cost: gradient evaluations and seconds so far.
        key: seed of the run, as raw key data.
        block: draws per compiled call.
    """

    posterior: Any
    settings: Settings
    thetas: np.ndarray
    acceptance: np.ndarray
    divergences: np.ndarray
    step_size: np.ndarray
    inverse_mass: np.ndarray
    cost: Cost
    key: np.ndarray
    block: int

    @property
    def draws(self) -> int:
        """Draws of every chain."""
        return self.thetas.shape[1]

    def extend(self, draws: int, *, progress: bool = False) -> Chains:
        """Go on where the chains stopped; the result holds old and new draws.

        Args:
            draws: more draws of every chain, >= 1.
            progress: whether to show a progress bar.

        Raises:
            DomainError: draws < 1.

        Check: test_bnn.py::test_resumed_equals_uninterrupted.
        """
        integer(draws, "draws", at_least=1)
        return _draw(self, draws, progress)

    def predict(self, X: ArrayLike) -> Predictions:
        """Outputs of the sampled networks at ``X (m, d)``: moments, errors and diagnostics.

        Raises:
            ShapeError, DomainError: bad inputs, or fewer than 8 draws.

        Check: test_bnn.py::test_linear_network_is_exact.
        """
        return predictions(self.posterior, self.thetas, X)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the draws and all that is needed to go on to an ``.npz`` file.

        Raises:
            DomainError: another suffix.
        """
        path = Path(path)
        check(path.suffix == ".npz", f"path must end in .npz, got {str(path)!r}.", DomainError)
        s = self.settings
        np.savez(
            path, thetas=self.thetas, acceptance=self.acceptance, divergences=self.divergences,
            step_size=self.step_size, inverse_mass=self.inverse_mass, key=self.key,
            cost=np.array([self.cost.gradients, self.cost.seconds]), method=np.array(s.method),
            options=np.array([s.thin, s.batch_size or 0, s.leapfrogs, s.friction, self.block]),
        )  # fmt: skip
        return path

    def to_arviz(self, X: ArrayLike | None = None) -> Any:
        """The outputs at ``X`` (default: the training inputs) as ``arviz.InferenceData``.

        Raises:
            MissingDependencyError: arviz is not installed.
        """
        from deeplimits.errors import require

        arviz = require("arviz", None, "Chains.to_arviz")
        found = self.predict(self.posterior.X if X is None else X)
        return arviz.from_dict(posterior={"f": found.draws})


register_dataclass(
    Chains,
    [
        "posterior", "thetas", "acceptance", "divergences", "step_size", "inverse_mass", "cost",
        "key",
    ],
    ["settings", "block"],
)  # fmt: skip


def load_chains(path: str | os.PathLike[str], posterior: Any) -> Chains:
    """Chains that :meth:`Chains.save` wrote, for the posterior they were drawn from.

    Args:
        path: the file.
        posterior: :class:`gp.BNNPosterior` of the same network.

    Raises:
        DataError: no such file, or draws with another number of parameters.

    Check: test_bnn.py::test_resumed_equals_uninterrupted.
    """
    check(Path(path).is_file(), f"there is no file {Path(path).name!r}.", DataError)
    with np.load(path) as data:
        stored = {name: data[name] for name in data.files}
    found = stored["thetas"].shape[-1]
    check(
        found == posterior.dim,
        f"the file holds draws of {found} parameters, but this network has {posterior.dim}.",
        DataError,
    )
    thin, batch, leapfrogs, friction, block = stored.pop("options").tolist()
    settings = Settings(
        str(stored.pop("method")), int(thin), int(batch) or None, int(leapfrogs), friction
    )
    gradients, seconds = stored.pop("cost").tolist()
    return Chains(
        posterior=posterior, settings=settings, cost=Cost(int(gradients), seconds),
        block=int(block), **stored,
    )  # fmt: skip


def _loose() -> Any:
    """blackjax mixes dtypes and ranks; strict promotion is for our own code."""
    return jax.numpy_dtype_promotion("standard")


def _gradient(posterior: Any, settings: Settings, key: Any) -> Any:
    """Gradient of the log density, or of its estimate by a batch without replacement."""
    n, size = posterior.X.shape[0], settings.batch_size
    if size is None:
        return jax.grad(posterior.log_density)
    rows = jax.random.permutation(key, n)[:size]
    x, y = posterior.X[rows], posterior.y[rows]
    return jax.grad(lambda theta: posterior.batch_log_density(theta, x, y, n / size))


def _step(
    posterior: Any, settings: Settings, key: Any, theta: Any, step_size: Any, inverse_mass: Any
) -> tuple[Any, Any, Any, Any]:
    """One step: position, gradients used, acceptance rate, whether it diverged."""
    key, key_batch = jax.random.split(key)
    method, no = settings.method, jnp.asarray(False)
    nan, density = jnp.asarray(jnp.nan), posterior.log_density
    if method == "nuts":
        nuts = blackjax.nuts(density, step_size, inverse_mass)
        state, info = nuts.step(key, nuts.init(theta))
        used = info.num_integration_steps
        return state.position, used, info.acceptance_rate, info.is_divergent
    if method == "mala":
        mala = blackjax.mala(density, step_size)
        state, info = mala.step(key, mala.init(theta))
        return state.position, jnp.asarray(1), info.acceptance_rate, no
    gradient = _gradient(posterior, settings, key_batch)
    if method == "sgld":
        sgld = blackjax.sgld(lambda position, _: gradient(position))
        return sgld.step(key, theta, None, step_size), jnp.asarray(1), nan, no
    sghmc = blackjax.sghmc(
        lambda position, _: gradient(position), settings.leapfrogs, settings.friction
    )
    return sghmc.step(key, theta, None, step_size), jnp.asarray(settings.leapfrogs), nan, no


@functools.partial(jax.jit, static_argnames=("settings", "draws"))
def _block(
    posterior: Any, theta: Any, step_size: Any, inverse_mass: Any, key: Any, first: Any, *,
    settings: Settings, draws: int,
) -> Any:  # fmt: skip
    """``draws`` draws of every chain, from draw number ``first`` on."""

    def chain(index: Any, theta: Any, step_size: Any, inverse_mass: Any) -> Any:
        own = jax.random.fold_in(key, index)

        def draw(theta: Any, number: Any) -> Any:
            def one(i: Any, carry: Any) -> Any:
                theta, *sums = carry
                sub = jax.random.fold_in(own, number * settings.thin + i)
                theta, *new = _step(posterior, settings, sub, theta, step_size, inverse_mass)
                return (theta, *(s + n.astype(s.dtype) for s, n in zip(sums, new, strict=True)))

            zeros = (jnp.zeros((), jnp.int64), jnp.zeros(()), jnp.zeros((), jnp.int64))
            theta, *sums = jax.lax.fori_loop(0, settings.thin, one, (theta, *zeros))
            return theta, (theta, *sums)

        return jax.lax.scan(draw, theta, first + jnp.arange(draws))[1]

    with _loose(), jax.numpy_rank_promotion("allow"):
        return jax.vmap(chain)(jnp.arange(theta.shape[0]), theta, step_size, inverse_mass)


@functools.partial(jax.jit, static_argnames=("settings", "steps"))
def _warm_up(
    posterior: Any, theta: Any, step_size: Any, key: Any, *, settings: Settings, steps: int
) -> Any:
    """Position, step size, inverse mass and gradients used of every chain after the warm-up."""

    def nuts(key: Any, theta: Any) -> Any:
        adaptation = blackjax.window_adaptation(
            blackjax.nuts, posterior.log_density, initial_step_size=step_size,
            adaptation_info_fn=lambda state, info, _: info.num_integration_steps,
        )  # fmt: skip
        (state, tuned), used = adaptation.run(key, theta, steps)
        return state.position, tuned["step_size"], tuned["inverse_mass_matrix"], jnp.sum(used)

    def mala(key: Any, theta: Any) -> Any:
        first, update, final = blackjax.dual_averaging.dual_averaging()
        ones = jnp.ones_like(theta)

        def one(carry: Any, sub: Any) -> Any:
            theta, state = carry
            rate = jnp.exp(state.log_x)
            theta, _, acceptance, _ = _step(posterior, settings, sub, theta, rate, ones)
            return (theta, update(state, _MALA_ACCEPTANCE - acceptance)), None

        keys = jax.random.split(key, steps)
        (theta, state), _ = jax.lax.scan(one, (theta, first(step_size)), keys)
        return theta, final(state), ones, jnp.asarray(steps)

    with _loose(), jax.numpy_rank_promotion("allow"):
        run = nuts if settings.method == "nuts" else mala
        return jax.vmap(run)(jax.random.split(key, theta.shape[0]), theta)


def _check_options(method: str, n: int, options: dict[str, Any]) -> None:
    for name in ("chains", "draws", "thin", "leapfrogs", "block"):
        integer(options[name], name, at_least=1)
    least = _MASS_STEPS if method == "nuts" else 0
    integer(options["warmup"], "warmup", at_least=least)
    number(options["friction"], "friction", at_least=0)
    if options["step_size"] is not None:
        number(options["step_size"], "step_size", above=0)
    if method in ("nuts", "mala"):
        check(
            options["batch_size"] is None,
            f"{method} needs the whole likelihood; batch_size is for sgld and sghmc.",
            DomainError,
        )
        return
    check(
        options["step_size"] is not None,
        f"{method} does not adapt: give step_size=, well below 1 over the largest curvature of the "
        "log density (about 1 + the largest eigenvalue of the NTK over the noise).",
        DomainError,
    )
    if options["batch_size"] is not None:
        integer(options["batch_size"], "batch_size", at_least=1)
        check(
            options["batch_size"] <= n,
            f"batch_size must be at most the number of points {n}, got {options['batch_size']}.",
            DomainError,
        )


@float64_scope
def run_chains(posterior: Any, key: Any, *, method: str, progress: bool, **options: Any) -> Chains:
    """What :meth:`gp.BNNPosterior.sample` does; its arguments.

    Raises:
        DomainError: an option out of its domain, or one that the method does not take.
    """
    choice(method, "method", METHODS)
    _check_options(method, posterior.X.shape[0], options)
    begin = time.monotonic()
    settings = Settings(
        method, options["thin"], options["batch_size"], options["leapfrogs"], options["friction"]
    )
    size = (options["chains"], posterior.dim)
    key_start, key_warm, key_run = jax.random.split(key, 3)
    theta = jax.random.normal(key_start, size, jnp.float64)
    ones, rate, used = jnp.ones(size), jnp.full(size[0], options["step_size"] or 0.1), 0
    if options["warmup"] and method in ("nuts", "mala"):
        theta, rate, ones, counts = _warm_up(
            posterior, theta, rate[0], key_warm, settings=settings, steps=options["warmup"]
        )
        used = int(jnp.sum(counts))
    elif options["warmup"]:
        burn = settings._replace(thin=options["warmup"])
        theta, counts = _block(
            posterior, theta, rate, ones, key_warm, 0, settings=burn, draws=1
        )[:2]  # fmt: skip
        theta, used = theta[:, -1], int(jnp.sum(counts))
    start = Chains(
        posterior, settings, np.asarray(theta)[:, None], np.zeros(size[0]),
        np.zeros(size[0], np.int64), np.asarray(rate), np.asarray(ones),
        Cost(used, time.monotonic() - begin), np.asarray(jax.random.key_data(key_run)),
        options["block"],
    )  # fmt: skip
    full = _draw(replace(start, thetas=start.thetas[:, :0]), options["draws"], progress, theta)
    return full


@float64_scope
def _draw(chains: Chains, draws: int, progress: bool, theta: Any = None) -> Chains:
    """More draws of every chain, block by block."""
    begin, done = time.monotonic(), chains.draws
    theta = jnp.asarray(chains.thetas[:, -1]) if theta is None else theta
    key = jax.random.wrap_key_data(jnp.asarray(chains.key))
    rate, mass = jnp.asarray(chains.step_size), jnp.asarray(chains.inverse_mass)
    found: list[list[np.ndarray]] = []
    with tqdm(total=draws, disable=not progress, desc=chains.settings.method) as bar:
        for first in range(done, done + draws, chains.block):
            count = min(chains.block, done + draws - first)
            out = _block(
                chains.posterior, theta, rate, mass, key, first,
                settings=chains.settings, draws=count,
            )  # fmt: skip
            theta = out[0][:, -1]
            found.append([np.asarray(part) for part in out])
            bar.update(count)
    thetas, used, rates, diverged = (np.concatenate(p, axis=1) for p in zip(*found, strict=True))
    total = done + draws
    accepted = chains.acceptance * done + rates.sum(axis=1) / chains.settings.thin
    seconds = chains.cost.seconds + time.monotonic() - begin
    return replace(
        chains,
        thetas=np.concatenate([chains.thetas, thetas], axis=1),
        acceptance=accepted / total,
        divergences=chains.divergences + diverged.sum(axis=1),
        cost=Cost(chains.cost.gradients + int(used.sum()), seconds),
    )
