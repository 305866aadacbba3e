"""Choosing the width of a deep kernel machine, and its objective as a differentiable function."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits import plotting
from deeplimits.errors import DomainError, ShapeError
from deeplimits.precision import float64_scope, require_x64
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import as_key, as_targets, check, integer, is_traced
from gp.dkm import DKM
from gp.dkm_posterior import FittedDKM
from gp.predictive import normal_log_density
from gp.process import inputs


@dataclass(frozen=True)
class NuChoice:
    """Held-out scores over widths.

    Attributes:
        nu: the width with the largest score; infinity stands for the infinitely wide network.
        candidates: all widths ``(K,)``.
        score: mean held-out log predictive density, in nats per target ``(K,)``.
        stderr: its standard error over points ``(K,)``.
        pointwise: of every point, summed over outputs ``(K, n)``.
        fitted: the machine at ``nu``, on all data.
    """

    nu: float
    candidates: np.ndarray
    score: np.ndarray
    stderr: np.ndarray
    pointwise: np.ndarray
    fitted: FittedDKM

    def plot(self, ax: Any = None, **kw: Any) -> Any:
        """Score against width with standard errors; a finite last tick stands for infinity.

        Args:
            ax: axes to draw on; default a new figure.
            **kw: passed to ``errorbar``.
        """
        ax = plotting.axes(ax)
        order = np.argsort(self.candidates)
        x = np.arange(len(order))
        kw = {"marker": "o", "color": plotting.COLORS[0], **kw}
        ax.errorbar(x, self.score[order], self.stderr[order], **kw)
        labels = ["∞" if np.isinf(v) else f"{v:g}" for v in self.candidates[order]]
        ax.set_xticks(x, labels)
        ax.set(xlabel=r"$\nu$", ylabel="held-out log density (nats)")
        return ax


register_dataclass(NuChoice, ["nu", "candidates", "score", "stderr", "pointwise", "fitted"], [])


@float64_scope
def choose_nu(
    model: DKM, X: Any, y: Any, nus: Sequence[float], *, folds: int | None = None, key: Any = 0,
    **options: Any,
) -> NuChoice:  # fmt: skip
    r"""The width that predicts held-out targets best, the Gram matrices learned without them.

    .. math:: \nu^* = \arg\max_\nu \frac1n \sum_i \log p(y_i \mid X, y_{-i}; \nu)

    Args:
        model: a :class:`gp.DKM`; its ``nu`` is replaced.
        X: inputs ``(n, d)``.
        y: targets ``(n,)`` or ``(n, C)``.
        nus: candidates > 0, at least one; ``inf`` is the infinitely wide network.
        folds: number of parts held out in turn, 2..n. Default: n (leave one out, n fits per
            candidate).
        key: a ``jax.random.key`` or an integer seed: which points share a fold. Default 0.
        **options: of :meth:`gp.DKM.fit`.

    Raises:
        ShapeError, DomainError: bad data or candidates, folds out of range.

    Source: derived here. Check: test_dkm.py::test_choose_nu.
    """
    x = inputs(X, "X")
    n = x.shape[0]
    targets = np.asarray(as_targets(y, n), np.float64)
    candidates = np.asarray(nus, np.float64)
    check(
        candidates.ndim == 1 and len(candidates) > 0 and bool(np.all(candidates > 0)),
        f"nus must be a non-empty list of numbers > 0, got {nus!r}.",
        DomainError,
    )
    folds = n if folds is None else integer(folds, "folds", at_least=2)
    check(2 <= folds <= n, f"folds must lie in 2..{n}, got {folds}.", DomainError)
    order = np.asarray(jax.random.permutation(as_key(key), n))
    parts = np.array_split(order, folds)
    scores = np.empty((len(candidates), n))
    for row, nu in zip(scores, candidates, strict=True):
        for part in parts:
            rest = np.setdiff1d(order, part)
            fitted = _fitted(model, nu, x[rest], targets[rest], options)
            residual = targets[part] - fitted.mean(x[part])
            variance = fitted.var(x[part]) + model.noise
            row[part] = np.sum(normal_log_density(residual, variance[:, None]), axis=1)
    mean = scores.mean(axis=1) / targets.shape[1]
    stderr = scores.std(axis=1, ddof=1) / np.sqrt(n) / targets.shape[1]
    best = float(candidates[int(np.argmax(mean))])
    final = _fitted(model, best, x, y, options)
    return NuChoice(best, candidates, mean, stderr, scores, final)


def _fitted(model: DKM, nu: float, x: Any, y: Any, options: Any) -> FittedDKM:
    if np.isinf(nu):
        return model.nngp(x, y)
    return dataclasses.replace(model, nu=float(nu)).fit(x, y, **options)


def optimal_objective(X: Any, y: Any, nu: Any, noise: Any, **settings: Any) -> jax.Array:
    r"""The objective of a fitted deep kernel machine, differentiable in ``nu`` and ``noise``.

    .. math:: \mathcal L^*(\nu, \sigma^2) = \max_{G_1..G_L} \mathcal L(G_1..G_L; \nu, \sigma^2)

    Its first derivatives are exact (the optimum is stationary); it has no second derivatives, and
    cannot be compiled, because the maximum is found on the host.

    Args:
        X: inputs ``(n, d)``.
        y: targets ``(n,)`` or ``(n, C)``.
        nu: > 0, a number or one per layer ``(L,)``.
        noise: variance > 0.
        **settings: other fields of :class:`gp.DKM`, and options of :meth:`gp.DKM.fit`.

    Returns:
        A float64 scalar, in nats.

    Raises:
        PrecisionError: x64 is off.
        DomainError: called inside ``jit`` or ``vmap``, or bad arguments.

    Source: envelope theorem. Check: test_dkm.py::test_envelope_gradient.
    """
    require_x64("gp.optimal_objective")
    known = {f.name for f in dataclasses.fields(DKM)}
    fields = {k: v for k, v in settings.items() if k in known}
    options = {k: v for k, v in settings.items() if k not in known}

    def solve(nu: Any, noise: Any) -> FittedDKM:
        if is_traced(nu) or is_traced(noise):
            raise DomainError(
                "gp.optimal_objective runs an optimiser on the host: call it outside jit and vmap "
                "(jax.grad and jax.value_and_grad work)."
            )
        values = np.asarray(nu)
        width = values if values.ndim else float(values)
        return DKM(**fields, nu=width, noise=float(noise)).fit(X, y, **options)

    @jax.custom_jvp
    def value(nu: Any, noise: Any) -> Any:
        return jnp.asarray(solve(nu, noise).objective)

    @value.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        fitted = solve(*primals)
        slope = jnp.asarray(fitted.gradient["nu"])
        change = jnp.sum(slope * tangents[0]) + fitted.gradient["noise"] * tangents[1]
        return jnp.asarray(fitted.objective), change

    nu = jnp.asarray(nu, jnp.float64)
    if nu.ndim > 1:
        raise ShapeError(f"nu must be a number or one per layer, got shape {nu.shape}.")
    return value(nu, jnp.asarray(noise, jnp.float64))
