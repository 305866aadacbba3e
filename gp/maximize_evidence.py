r"""Maximum-likelihood hyper-parameters: the log evidence climbed along its exact gradient.

With :math:`K_n = K(\theta) + \Sigma_{noise}(\theta)` and :math:`\theta = e^{u}` (all that
is fitted is positive),

.. math::

    \frac{\partial \log p(y)}{\partial u_i}
    = \theta_i \Big\langle G, \frac{\partial K_n}{\partial \theta_i} \Big\rangle,
    \qquad G = \tfrac12 \big( K_n^{-1} y\, y^\top K_n^{-1} - C K_n^{-1} \big)
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize

from deeplimits import plotting
from deeplimits.errors import ConvergenceError, DomainError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import as_key, as_targets, check, integer, number
from gp.evidence_objective import Problem, compiled, fitted_parameters, free_scale
from gp.linalg import kernel_matrix
from gp.mixtures import ScaleMixture
from gp.process import inputs, size_guard

#: Standard deviation of the random starts, in logarithms.
_SPREAD = 1.5

#: Longest step of any parameter, in logarithms.
_LONGEST = 3.0


@dataclass(frozen=True)
class Climb:
    """One run of the optimiser.

    Attributes:
        log_evidence: after every step, the start included, in nats ``(S+1,)``.
        values: parameters after every step ``(S+1, P)``.
        slope: largest ``|d log_evidence / d log parameter|`` after every step ``(S+1,)``, in nats.
        converged: whether the last slope is at most ``tol``.
    """

    log_evidence: np.ndarray
    values: np.ndarray
    slope: np.ndarray
    converged: bool


@dataclass(frozen=True)
class EvidenceMaximum:
    """A model with the highest evidence that was found, and how it was found.

    Attributes:
        model: the :class:`gp.GP` or :class:`gp.ScaleMixture` at the maximum, not yet conditioned.
        log_evidence: its log evidence, in nats.
        names: names of the fitted parameters ``P``; entries of arrays are numbered.
        values: their values ``(P,)``.
        gradient: ``d log_evidence / d log parameter`` there ``(P,)``, in nats.
        converged: whether the largest entry of the gradient is at most ``tol``.
        runs: every run, the best first.
    """

    model: Any
    log_evidence: float
    names: tuple[str, ...]
    values: np.ndarray
    gradient: np.ndarray
    converged: bool
    runs: tuple[Climb, ...]

    @property
    def parameters(self) -> dict[str, float]:
        """Fitted values by name."""
        return dict(zip(self.names, map(float, self.values), strict=True))

    @property
    def trajectory(self) -> np.ndarray:
        """Log evidence after every step of the best run ``(S+1,)``, in nats."""
        return self.runs[0].log_evidence

    def plot(self, ax: Any = None, **kw: Any) -> Any:
        """Log evidence against steps, one line per run, the best on top.

        Args:
            ax: axes to draw on; default a new figure.
            **kw: passed to ``plot`` for the best run.
        """
        ax = plotting.axes(ax)
        others = [run for run in self.runs[1:] if np.isfinite(run.log_evidence).all()]
        for i, run in enumerate(others):
            label = "other starts" if i == 0 else None
            ax.plot(run.log_evidence, color="0.65", linewidth=1.0, label=label)
        kw = {"color": plotting.COLORS[0], "marker": ".", "label": "best run", **kw}
        ax.plot(self.trajectory, **kw)
        ax.set(xlabel="step", ylabel="log evidence (nats)")
        ax.legend(frameon=False)
        return ax


register_dataclass(Climb, ["log_evidence", "values", "slope"], ["converged"])
register_dataclass(
    EvidenceMaximum,
    ["model", "log_evidence", "values", "gradient", "runs"],
    ["names", "converged"],
)


@float64_scope
def maximize_evidence(
    model: Any,
    X: Any,
    y: Any,
    *,
    start: Mapping[str, Any] | None = None,
    fixed: Sequence[str] = ("dual", "prior"),
    restarts: int = 2,
    key: Any = 0,
    steps: int = 100,
    tol: float = 1e-4,
) -> EvidenceMaximum:
    r"""The hyper-parameters with the highest log evidence, by L-BFGS in their logarithms.

    One run starts from the given values, the others from these times :math:`e^{1.5 z}`,
    :math:`z \sim N(0, 1)`. One compiled program serves all runs, and all later calls with the same
    architecture and shapes. Memory is :math:`O(n^2)`, whatever the depth of the network. No jitter
    is added: where :math:`K_n` has no Cholesky factor the evidence counts as :math:`-\infty`.

    Args:
        model: a :class:`gp.GP` or :class:`gp.ScaleMixture`. Fitted are its ``noise``,
            ``noise_rel`` and, where the kernel is a method of a pytree such as ``net.nngp`` (or a
            callable pytree), the leaves of that pytree. Or a family: a callable of keywords that
            returns a model, which is how one tells that several layers share one number. The
            kernel of a mixture must keep its scale: fix the weight and bias of the last layer
            (and of every layer of a ReLU network), since the random scale multiplies it.
        X: inputs ``(n, d)`` or ``(n, *spatial, channels)``, converted to float64.
        y: targets ``(n,)`` or ``(n, C)``.
        start: for a family only: where its keywords start, numbers > 0.
        fixed: fragments of names that are not fitted (names are such as ``noise`` and
            ``kernel.layers[0].W_std``; ``"kernel"`` leaves the noise alone). Default
            ``("dual", "prior")``: constants of activations, whose scales repeat those of
            ``W_std``, and the law of a random scale, of which the data are one draw: the evidence
            is largest for a law of no width, which is a plain :class:`gp.GP`.
            Leaves that are not positive (a ``b_std`` of 0, say) or not numbers stay fixed too.
        restarts: random starts beside the given one, >= 0. Default 2.
        key: a ``jax.random.key`` or an integer seed, for the random starts. Default 0.
        steps: most L-BFGS steps per run, >= 1. Default 100.
        tol: a run ends when no ``|d log_evidence / d log parameter|`` exceeds this, in nats, > 0.
            Default 1e-4. A parameter whose best value is 0 or infinity ends far out, converged.

    Returns:
        :class:`EvidenceMaximum`. A run that used up its steps is reported by ``converged``.

    Raises:
        ShapeError, DomainError: bad data or options, nothing to fit, or a kernel that JAX cannot
            differentiate.
        ConvergenceError: no start has a finite evidence.

    Source: Rasmussen and Williams (2006), eq. (5.9).
    Check: test_maximize_evidence.py::test_against_scipy, ::test_gradient_by_differences.
    """
    integer(restarts, "restarts", at_least=0)
    integer(steps, "steps", at_least=1)
    number(tol, "tol", above=0)
    x = jnp.asarray(inputs(X, "X")).astype(np.float64)
    targets = jnp.asarray(as_targets(y, x.shape[0])).astype(np.float64)
    fit = fitted_parameters(model, start, tuple(fixed), x.shape[0])
    size_guard(x.shape[0], fit.model.max_points, "X")
    _require_fixed_scale(fit, x)
    data = {"arrays": fit.arrays, "x": x, "y": targets, "gram": None}
    if not fit.problem.fits_kernel:
        data["gram"] = jnp.asarray(kernel_matrix(fit.model.kernel, x)[0])
    jumps = _SPREAD * jax.random.normal(as_key(key), (restarts, len(fit.start)), np.float64)
    objective = _Evaluated(fit.problem, data)
    starts = [fit.start, *(fit.start + np.asarray(jumps))]
    runs = [_climb(objective, u, steps, float(tol)) for u in starts]
    ranked = sorted(runs, key=lambda run: -_final(run[0]))
    best, gradient = ranked[0]
    check(
        np.isfinite(_final(best)),
        "the evidence is not finite at any start: the training covariance has no Cholesky factor "
        "there. Start from more noise.",
        ConvergenceError,
    )
    values = best.values[-1]
    optimum = fit.problem.finished(values, fit.arrays)
    return EvidenceMaximum(
        optimum, _final(best), fit.names, values, gradient, best.converged,
        tuple(run for run, _ in ranked),
    )  # fmt: skip


def _require_fixed_scale(fit: Any, x: Any) -> None:
    """Refuse to fit the scale of the kernel beside a random scale."""
    if not (isinstance(fit.model, ScaleMixture) and fit.problem.fits_kernel):
        return
    with _named_jax_errors():
        direction = free_scale(fit.problem, fit.start, fit.arrays, x)
    if direction is None:
        return
    names = [name for name, d in zip(fit.names, direction, strict=True) if abs(d) > 1e-6]
    raise DomainError(
        f"the scale of the kernel is not identifiable beside the random scale: {names} together "
        "multiply the kernel by a number, as the scale does. Fix at least one of them with fixed=, "
        "such as the W_std of the last layer."
    )


@contextmanager
def _named_jax_errors() -> Iterator[None]:
    """Say what is wrong with a kernel that JAX cannot differentiate."""
    try:
        yield
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError) as error:
        raise DomainError(
            "the kernel must be written in jax.numpy to be differentiated in its own parameters. "
            'Rewrite it, or pass fixed=("kernel",) to fit the noise alone.'
        ) from error


def _final(run: Climb) -> float:
    return float(run.log_evidence[-1])


class _Evaluated:
    """The compiled objective on the host, remembering the last point: one program, one call."""

    def __init__(self, problem: Problem, data: Any) -> None:
        self.problem, self.data = problem, data
        self.u: np.ndarray | None = None
        self.pair: tuple[float, np.ndarray] = (np.inf, np.zeros(0))

    def both(self, u: np.ndarray) -> tuple[float, np.ndarray]:
        """Negative log evidence and its gradient."""
        if self.u is None or not np.array_equal(u, self.u):
            with _named_jax_errors():
                value, grad = compiled(self.problem, u, self.data)
            self.u, self.pair = np.array(u), (float(value), np.asarray(grad))
        return self.pair


def _line_search(
    objective: _Evaluated, u: np.ndarray, direction: np.ndarray, loss: float, grad: np.ndarray
) -> np.ndarray | None:
    """A point along ``direction`` with a lower loss, or None.

    Strong Wolfe conditions, so that L-BFGS sees positive curvature; where that search gives up (at
    the edge of the region with a Cholesky factor), the step is halved until the loss falls.
    """
    slope = float(direction @ grad)
    if not slope < 0:
        return None
    longest = _LONGEST / float(np.max(np.abs(direction)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the search reports failure by a warning
        rate = scipy.optimize.line_search(
            lambda v: objective.both(v)[0], lambda v: objective.both(v)[1],
            u, direction, grad, loss, amax=longest, maxiter=20,
        )[0]  # fmt: skip
    rates = [min(1.0, longest) * 0.5**k for k in range(30)] if rate is None else [rate]
    for rate in rates:
        point = u + rate * direction
        if objective.both(point)[0] < loss + 1e-4 * rate * slope:
            return point
    return None


@functools.partial(jax.jit, static_argnames=("fresh",))
def _direction(grad: Any, state: Any, u: Any, *, fresh: bool) -> tuple[Any, Any]:
    """The L-BFGS direction, after forgetting the past if ``fresh``."""
    rule = optax.scale_by_lbfgs()
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        step, state = rule.update(grad, rule.init(u) if fresh else state, u)
    return -step, state


def _climb(
    objective: _Evaluated, u: np.ndarray, steps: int, tol: float
) -> tuple[Climb, np.ndarray]:
    """L-BFGS from ``u``, and the gradient of the log evidence at its end."""
    loss, grad = objective.both(u)
    rows = [(loss, u, float(np.max(np.abs(grad))))]
    state = optax.scale_by_lbfgs().init(jnp.asarray(u))
    while len(rows) <= steps and np.isfinite(loss) and rows[-1][2] > tol:
        for fresh in (False, True):
            direction, state = _direction(grad, state, u, fresh=fresh)
            point = _line_search(objective, u, np.asarray(direction), loss, grad)
            if point is not None:
                break
        if point is None:  # rounding hides any descent that is left
            break
        u = point
        loss, grad = objective.both(u)
        rows.append((loss, u, float(np.max(np.abs(grad)))))
    losses, history, slopes = (np.array(column) for column in zip(*rows, strict=True))
    converged = bool(np.isfinite(loss) and slopes[-1] <= tol)
    return Climb(-losses, np.exp(history), slopes, converged), -grad
