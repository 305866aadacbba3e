r"""Priors of networks matched to a target process in function space.

Both sides are compared on a grid of inputs. In the limit of infinite width both are Gaussian, so
the distance and its gradient in the scales of the network are closed forms, and a match takes
seconds instead of the hours of an adversarial critic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from deeplimits import plotting
from deeplimits.errors import ConvergenceError, DomainError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import as_key, check, choice, integer
from gp.linalg import kernel_matrix
from gp.prior_objective import (
    Objective,
    Target,
    as_grid,
    as_target,
    family_kernel,
    make_objective,
    starting_values,
)
from gp.wasserstein import wasserstein2
from gp.wasserstein_bounds import Bracket, wasserstein1_bounds

#: Range of the logarithms of the scales (standard deviations); variances in e^-12..e^8.
BOX = (-6.0, 4.0)
#: Standard deviation of the random starts, in logarithms.
_SPREAD = 1.0


@dataclass(frozen=True)
class PriorMatch:
    """Scales of a network whose prior is close to a target, and how close.

    Attributes:
        params: fitted scales by name.
        distance: value of the loss on the grid: the SQUARED 2-Wasserstein distance for ``"w2"``,
            the estimated 1-Wasserstein distance for ``"w1"``, nats for ``"kl"``.
        loss: ``"w2"``, ``"w1"`` or ``"kl"``.
        per_point: squared 2-Wasserstein distance of the infinite networks to the target over the
            number of points n: a mean squared error.
        relative: the same distance over the total variance of the target; 1 for a zero function.
        w1: proven lower and upper bounds of the 1-Wasserstein distance of the infinite networks to
            the (averaged) target; not squared. The lower one is 0 for several targets.
        label: name of the family.
        converged: whether the best run ended at a stationary point.
        values: loss at the end of every run, best first.
        on_edge: names of scales that ended at the edge of their range; a ``b_std`` there is 0 in
            all but name.
        net: the network with the fitted scales.
        grid: the inputs ``(n, d)``.
        cov: NNGP covariance of the network on the grid ``(n, n)``.
        target_cov: (averaged) covariance of the target ``(n, n)``.
    """

    params: dict[str, float]
    distance: float
    loss: str
    per_point: float
    relative: float
    w1: Bracket
    label: str
    converged: bool
    values: np.ndarray
    on_edge: tuple[str, ...]
    net: Any
    grid: np.ndarray
    cov: np.ndarray
    target_cov: np.ndarray

    def plot(self, ax: Any = None, **kw: Any) -> Any:
        """Covariance with the middle point of the grid: target and network, for inputs on a line.

        Args:
            ax: axes to draw on; default a new figure.
            **kw: passed to ``plot`` for the network.

        Raises:
            DomainError: the inputs have several features.
        """
        check(
            self.grid.shape[1:] == (1,),
            f"the plot needs inputs (n, 1), got a grid of shape {self.grid.shape}.",
            DomainError,
        )
        ax, middle = plotting.axes(ax), len(self.grid) // 2
        line = self.grid[:, 0]
        ax.plot(line, self.target_cov[middle], color=plotting.COLORS[-1], label="target")
        ax.plot(line, self.cov[middle], **{"ls": "--", "label": self.label, **kw})
        ax.set(xlabel="x", ylabel=f"covariance with f({line[middle]:.3g})")
        ax.legend(frameon=False)
        return ax


register_dataclass(
    PriorMatch,
    ["distance", "per_point", "relative", "w1", "values", "net", "grid", "cov", "target_cov"],
    ["params", "loss", "label", "converged", "on_edge"],
)


@dataclass(frozen=True)
class Ranking:
    """Matches of several families to one target, the closest first.

    Attributes:
        matches: :class:`PriorMatch` records.
    """

    matches: tuple[PriorMatch, ...]

    def table(self) -> str:
        """Distance and scales of every family, one line each."""
        width = max(len(m.label) for m in self.matches)
        head = f"{'family':<{width}}  {'W2^2/n':>9}  {'relative':>9}  scales"
        rows = [
            f"{m.label:<{width}}  {m.per_point:9.5f}  {m.relative:9.5f}  "
            + ", ".join(f"{name}={value:.3g}" for name, value in m.params.items())
            for m in self.matches
        ]
        return "\n".join([head, *rows])

    def plot(self, ax: Any = None, **kw: Any) -> Any:
        """Relative distance of every family as bars.

        Args:
            ax: axes to draw on; default a new figure.
            **kw: passed to ``barh``.
        """
        ax = plotting.axes(ax)
        labels = [m.label for m in self.matches][::-1]
        values = [m.relative for m in self.matches][::-1]
        ax.barh(labels, values, **{"color": plotting.COLORS[0], **kw})
        ax.set(xlabel="squared distance over the variance of the target")
        ax.grid(axis="y", visible=False)
        return ax


register_dataclass(Ranking, ["matches"], [])


@float64_scope
def match_prior(
    family: Any,
    target_kernel: Any,
    grid: Any,
    loss: str = "w2",
    *,
    nugget: float | None = None,
    direction: str = "forward",
    start: Mapping[str, float] | None = None,
    restarts: int = 4,
    key: Any = 0,
    scale: Any = None,
    target_scale: Any = None,
    **critic: Any,
) -> PriorMatch:
    r"""The scales of a family of networks whose function prior is closest to a target process.

    .. math:: \min_\theta\; D\big(N(0, K_\theta(G, G)),\; N(0, K_{target}(G, G))\big)

    By L-BFGS in the logarithms of the scales, between e^-6 and e^4, along the exact gradient. There
    are local minima, so several starts are made.

    Args:
        family: a callable of keywords that returns a network (anything with ``nngp``) or a kernel
            ``k(X, Z=None)``; :func:`ntk.mlp_family` makes one.
        target_kernel: the kernel of the target ``k(X, Z=None) -> (n, m)``, its matrix ``(n, n)`` on
            the grid, or a :class:`TargetAverage` (a kernel with uncertain hyper-parameters).
        grid: inputs ``(n, d)`` on which functions are compared, n >= 2, all different.
        loss: ``"w2"``: squared 2-Wasserstein distance. ``"kl"``: Kullback-Leibler divergence, which
            depends on ``nugget`` more than on the kernels. ``"w1"``: the 1-Wasserstein distance of
            finite networks, by a neural critic (slow, biased, kept for reproduction).
        nugget: for ``"kl"``, required: variance > 0 added to both diagonals.
        direction: for ``"kl"``: ``"forward"`` is KL(network || target), ``"backward"`` the other.
        start: where the scales start, numbers > 0; default ``family.start``.
        restarts: number of starts, the given one included, >= 1. Default 4; one for ``"w1"``.
        key: a ``jax.random.key`` or an integer seed, for the random starts.
        scale, target_scale: laws of a random factor on the variance of the network and of the
            target (:class:`gp.InverseGamma`, ...), one draw per function. With one law on both
            sides the distance is exact, else the upper bound of :func:`mixture_wasserstein2`.
        **critic: for ``"w1"``: options of :func:`gp.critic.match_by_critic`.

    Returns:
        :class:`PriorMatch`.

    Raises:
        ShapeError, DomainError: fewer than two inputs or equal ones, no starting values, an unknown
            loss or option, a kernel of another shape.
        NotPositiveDefiniteError: the target is no covariance.
        ConvergenceError: the loss is not finite at any start.

    Source: arXiv:2011.12829 for matching with ``"w1"``; closed ``"w2"`` also in arXiv:2410.15777.
    Check: test_priors.py::test_published_distance, ::test_sincos_is_exact.
    """
    choice(loss, "loss", ("w2", "w1", "kl"))
    choice(direction, "direction", ("forward", "backward"))
    integer(restarts, "restarts", at_least=1)
    x = as_grid(grid)
    target = as_target(target_kernel, x)
    initial = starting_values(family, start)
    if loss == "w1":
        check(scale is None and target_scale is None, "w1 takes no random scales.", DomainError)
        from gp.critic import match_by_critic

        fit = match_by_critic(family, initial, target, x, key=as_key(key), **critic)
        values = {name: float(v) for name, v in fit.params.items()}
        return _record(family, values, x, target, "w1", fit.distance, True, fit.history[-1:])
    check(not critic, f"unknown options {sorted(critic)} for loss={loss!r}.", DomainError)
    objective = make_objective(
        family, tuple(initial), x, target, loss, nugget, direction, scale, target_scale
    )
    runs = _descend(objective, np.log(list(initial.values())), restarts, as_key(key))
    best = runs[0]
    values = dict(zip(initial, map(float, np.exp(best.x)), strict=True))
    finals = np.array([run.fun for run in runs])
    return _record(family, values, x, target, loss, float(best.fun), bool(best.success), finals)


def _descend(objective: Objective, first: np.ndarray, restarts: int, key: Any) -> list[Any]:
    """Runs of L-BFGS-B, best first; those without a finite end are dropped."""
    jumps = _SPREAD * jax.random.normal(key, (restarts - 1, len(first)), jnp.float64)
    starts = [first, *(first + np.asarray(jumps))]
    runs = [
        scipy.optimize.minimize(
            objective, np.clip(u, *BOX), jac=True, method="L-BFGS-B",
            bounds=[BOX] * len(first), options={"maxiter": 500, "ftol": 1e-13, "gtol": 1e-9},
        )
        for u in starts
    ]  # fmt: skip
    runs = sorted((run for run in runs if np.isfinite(run.fun)), key=lambda run: run.fun)
    check(
        bool(runs) and runs[0].fun < objective.infeasible,
        "the loss is not finite at any start. Give other values in start=, or a larger nugget.",
        ConvergenceError,
    )
    return runs


def _record(
    family: Any,
    values: dict[str, float],
    x: Any,
    target: Target,
    loss: str,
    distance: float,
    converged: bool,
    finals: np.ndarray,
) -> PriorMatch:
    net = family(**values)
    cov = kernel_matrix(family_kernel(net), x)[0]
    squares = [wasserstein2(cov, matrix) for matrix in target.matrices]
    square = float(np.dot(target.weights, squares))
    single = len(target.weights) == 1
    bounds = wasserstein1_bounds(cov, target.matrices[0]) if single else Bracket(0.0, square**0.5)
    near = {n for n, v in values.items() if not BOX[0] + 1e-3 < np.log(v) < BOX[1] - 1e-3}
    return PriorMatch(
        values, max(distance, 0.0) if loss != "w1" else distance, loss, square / len(cov),
        square / float(np.trace(target.mean)), bounds, str(getattr(family, "label", "family")),
        converged, finals, tuple(n for n in values if n in near), net, np.asarray(x), cov,
        target.mean,
    )  # fmt: skip


def rank_priors(
    families: Mapping[str, Any] | Sequence[Any], target_kernel: Any, grid: Any, **options: Any
) -> Ranking:
    """Match several families to one target and sort them by distance.

    Args:
        families: families as for :func:`match_prior`, or a mapping of names to them.
        target_kernel, grid: as for :func:`match_prior`.
        **options: passed to :func:`match_prior`.

    Returns:
        :class:`Ranking`.

    Raises:
        DomainError: no family; as for :func:`match_prior`.

    Source: derived here. Check: test_priors.py::test_ranking.
    """
    named = dict(families) if isinstance(families, Mapping) else {}
    listed = list(named.values()) if named else list(families)
    check(bool(listed), "families must hold at least one family, got none.", DomainError)
    matches = [match_prior(family, target_kernel, grid, **options) for family in listed]
    if named:
        from dataclasses import replace

        matches = [replace(m, label=str(n)) for m, n in zip(matches, named, strict=True)]
    return Ranking(tuple(sorted(matches, key=lambda m: m.distance)))
