r"""A mixture over a random scale when the evidence at every scale costs a whole fit.

.. math:: Z = \int H(s^2)\, Z(s^2)\, ds^2 = \int e^{g(u)}\, du, \qquad u = \log s^2

Equally spaced nodes in u, where the law of the scale lives; their number is doubled, each old one
kept, until two rules agree. The probability of labels is bounded at every scale, so that the window
is that of the prior, widened by what the labels gain at its ends.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp

from deeplimits.errors import ConvergenceError, PrecisionWarning
from deeplimits.validate import check
from gp.scale_priors import density_of_log
from gp.scale_quadrature import EDGE, NEGLIGIBLE, ScaleNodes, integrate

#: Nodes reach down to e^-18 = 1.5e-8 of the largest prior density, and further where the posterior
#: has not fallen as far, to e^-150 at most.
_REACH, _MOST_REACH = 18.0, 150.0
_FIRST, _MOST = 32, 256
#: Rules agree when the log evidence changes by less than this.
_AGREE = 1e-6
#: Fits with less posterior weight than this, e^-21 = 8e-10, are not kept.
_LEFT_OUT = -21.0
#: Scales at which a fit failed may carry this much of the posterior.
_FAILED = 1e-6


@dataclass(frozen=True)
class ScaleEvidences:
    """Fits at the nodes of a law of the scale.

    Attributes:
        nodes: the law of the scale given the labels.
        states: the fits, a pytree of arrays with the node as first axis.
        steps: most iterations of any fit.
        gap: largest remaining change among fits that matter.
    """

    nodes: ScaleNodes
    states: Any
    steps: int
    gap: float


def evidences_over_scales(
    solve: Callable[[Any], Any], prior: Any, converged: float
) -> ScaleEvidences:
    """Fits at the scales of a prior and their weights.

    Args:
        solve: maps increasing scales ``(J,)`` to a record of arrays with ``log_evidence``,
            ``steps`` and ``gap``; compiled once per length.
        prior: a law of the scale, or None for the scale 1 alone.
        converged: a fit with a larger ``gap``, or a NaN, has failed.

    Raises:
        ConvergenceError: fits failed at scales that matter.
        ImproperPosteriorError: the prior is improper.

    Warns:
        PrecisionWarning: the rules do not agree to 1e-6.
    """
    if prior is None:
        states = jax.tree.map(np.asarray, solve(jnp.ones(1)))
        gap, value = float(states.gap[0]), float(states.log_evidence[0])
        _require(gap <= converged and bool(np.isfinite(value)), gap, "")
        nodes = ScaleNodes(np.zeros(1), np.zeros(1), value, 0.0, 1.0)
        return ScaleEvidences(nodes, states, int(states.steps[0]), gap)
    reach = _REACH
    while True:
        low, high, mean = _window(prior, reach)
        step = (high - low) / _FIRST
        u = low + step * np.arange(_FIRST)
        states = jax.tree.map(np.asarray, solve(jnp.asarray(np.exp(u))))
        before, terms, _ = _log_integral(prior, u, states, converged, step)
        # clear labels raise the evidence at large scales by up to n log C: the prior's tail counts
        excess = max(terms[0], terms[-1]) - np.max(terms) + _REACH
        if excess <= 0 or reach >= _MOST_REACH:
            break
        reach += excess + 1
    while True:
        added = np.split(low + step * (np.arange(len(u)) + 0.5), len(u) // _FIRST)
        parts = [states, *(jax.tree.map(np.asarray, solve(jnp.asarray(np.exp(v)))) for v in added)]
        u, step = np.concatenate([u, *added]), 0.5 * step
        order = np.argsort(u)
        states = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        u, states = u[order], jax.tree.map(partial(np.take, indices=order, axis=0), states)
        total, terms, good = _log_integral(prior, u, states, converged, step)
        error, before = abs(total - before), total
        if error <= _AGREE or len(u) >= _MOST:
            break
    log_weights = terms - total
    lost = float(np.sum(np.exp(log_weights[~good])))
    worst = float(np.max(states.gap[good & (log_weights > np.log(_FAILED))]))
    _require(lost <= _FAILED, worst, f" at scales with {lost:.2g} of the posterior")
    if error > _AGREE:
        warnings.warn(
            f"the integral over the scale is accurate to {error:.1g} (in its logarithm) after "
            f"{len(u)} fits: the law of the scale is too narrow or not smooth.",
            PrecisionWarning,
            stacklevel=3,
        )
    mean = float(np.exp(logsumexp((log_weights + u)[good]))) if np.isfinite(mean) else np.inf
    kept = good & (log_weights > _LEFT_OUT)
    nodes = ScaleNodes(u[kept], log_weights[kept], total, error, mean)
    most = int(np.max(states.steps[kept]))
    return ScaleEvidences(nodes, jax.tree.map(lambda leaf: leaf[kept], states), most, worst)


def _require(condition: bool, gap: float, where: str) -> None:
    check(
        condition,
        f"the approximation of the posterior did not converge{where} (last change {gap:.2g}). The "
        "latent function is too large for labels that contradict each other: use a smaller kernel "
        "or a law of the scale with lighter tails.",
        ConvergenceError,
    )


def _window(prior: Any, reach: float) -> tuple[float, float, float]:
    """Where the density of ``log s2`` exceeds e^-reach of its maximum, and the mean of the law."""
    law = integrate(lambda u: density_of_log(prior, u), "the scale prior", reach=NEGLIGIBLE)
    grid = np.unique(np.append(np.linspace(-EDGE, EDGE, 5601), law.log_s2))
    height = density_of_log(prior, grid)
    inside = np.flatnonzero(height >= np.max(height) - reach)
    first, last = max(inside[0] - 1, 0), min(inside[-1] + 1, len(grid) - 1)
    return float(grid[first]), float(grid[last]), law.mean


def _log_integral(
    prior: Any, u: np.ndarray, states: Any, converged: float, step: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """Logarithms of the integral and of its terms, and which fits succeeded.

    A failed fit counts with the evidence of the nearest good one, so that what it could contribute
    is known.
    """
    good = np.isfinite(states.log_evidence) & (states.gap <= converged)
    _require(bool(good.any()), float(np.min(states.gap)), "")
    nearest = np.array([np.flatnonzero(good)[np.argmin(np.abs(u[good] - v))] for v in u])
    terms = density_of_log(prior, u) + states.log_evidence[nearest] + np.log(step)
    return float(logsumexp(terms)), terms, good
