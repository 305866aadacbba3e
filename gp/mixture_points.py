r"""Training targets of a scale mixture predicted from other training targets.

Given the scale, every prediction is Gaussian. Leaving target i out divides the weight of a scale by
the density that it gave to the target; going through the data in order multiplies by it:

.. math:: w_{ij} \propto \frac{w_j}{N(y_i;\, \mu_{ij}, v_{ij})} \quad\text{or}\quad
    w_{ij} \propto H_j \prod_{k<i} N(y_k;\, \mu_{kj}, v_{kj}), \qquad
    p(y_i | \ldots) = \sum_j w_{ij} N(y_i;\, \mu_{ij}, v_{ij})
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats
from scipy.special import logsumexp

from deeplimits.pytrees import register_dataclass
from gp.mixture_marginals import total
from gp.predictive import normal_log_density
from gp.scale_priors import InverseGamma, density_of_log
from gp.scale_quadrature import NEGLIGIBLE, ScaleNodes, integrate
from gp.student_t import student_log_density

#: A mean over the scale is infinite unless its terms have decayed by e^-30 at the last node.
_DECAYED = -30.0
#: Widest step of a rule in log s2 that integrates every law of this kind to rounding.
_WIDEST = 0.25


@register_dataclass
@dataclass(frozen=True)
class ScalePredictions:
    """One predictive law per training target, each from other targets only.

    Attributes:
        mean: predicted targets, in the shape of y.
        var: their variances, observation noise included, ``(n,)`` (``(n, C)`` for unscaled noise
            with several outputs); infinite where the law has none.
        residual: ``y - mean``.
        log_score: log predictive density of every target alone, in nats, in the shape of y.
        joint_log_score: the same for all outputs of a point together, ``(n,)``: they share the
            scale and are not independent.
    """

    mean: np.ndarray
    var: np.ndarray
    residual: np.ndarray
    log_score: np.ndarray
    joint_log_score: np.ndarray

    @property
    def rmse(self) -> float:
        """Root mean square of the residuals, over points and outputs."""
        return float(np.sqrt(np.mean(self.residual**2)))


def _squares(residual: np.ndarray, var: np.ndarray) -> np.ndarray:
    return np.sum(residual**2, axis=1) / var


def student_t_points(
    a: np.ndarray, b: np.ndarray, residual: np.ndarray, var: np.ndarray, y: np.ndarray
) -> ScalePredictions:
    r"""Predictions when the scale given the other targets is inverse gamma, in closed form.

    .. math:: y_i \mid \ldots \sim t_{2 a_i}(\mu_i,\, b_i v_i / a_i)

    Args:
        a, b: parameters of the law of the scale given the targets that are used ``(n,)``.
        residual: target minus prediction at unit scale ``(n, C)``.
        var: variances at unit scale ``(n,)``.
        y: targets, ``(n,)`` or ``(n, C)``; their shape is that of the results.

    Check: test_mixture_points.py::test_against_refitting.
    """
    outputs = residual.shape[1]
    width = np.sqrt(b / a * var)
    alone = scipy.stats.t.logpdf(residual, 2 * a[:, None], scale=width[:, None])
    q = _squares(residual, var) * a / b
    joint = [student_log_density(2 * s, t, outputs) for s, t in zip(a, q, strict=True)]
    spread = np.where(a > 1, b / np.where(a > 1, a - 1, 1.0), np.inf) * var
    shaped = residual.reshape(y.shape)
    return ScalePredictions(
        y - shaped, spread, shaped, alone.reshape(y.shape), joint - outputs * np.log(width)
    )


def student_t_others(law: InverseGamma, residual: Any, var: Any, y: Any) -> ScalePredictions:
    """Every target from all others; ``law`` is that of the scale given all targets."""
    n, outputs = residual.shape
    a = np.full(n, float(law.a) - 0.5 * outputs)
    return student_t_points(a, law.b - 0.5 * _squares(residual, var), residual, var, y)


def student_t_before(prior: InverseGamma, residual: Any, var: Any, y: Any) -> ScalePredictions:
    """Every target from those before it; ``prior`` is the law of the scale before the data."""
    n, outputs = residual.shape
    before = np.append(0.0, np.cumsum(_squares(residual, var))[:-1])
    a = prior.a + 0.5 * outputs * np.arange(n)
    return student_t_points(a, prior.b + 0.5 * before, residual, var, y)


def nodes_others(
    log_weights: np.ndarray, residual: np.ndarray, var: np.ndarray, y: np.ndarray
) -> ScalePredictions:
    """Every target from all others, for any law of the scale.

    Args:
        log_weights: of the nodes, given all targets ``(J,)``.
        residual: target minus leave-one-out prediction at every node, ``(J or 1, n, C)``.
        var: their variances at every node ``(J, n)``.
        y: targets, ``(n,)`` or ``(n, C)``.

    Warns:
        PrecisionWarning: a target needs scales beyond the nodes.
    """
    each = normal_log_density(residual, var[:, :, None])
    weights = log_weights[:, None] - each.sum(axis=2)
    weights = weights - total(weights)
    return _mixed(weights, residual, var, each, y)


def nodes_before(
    log_weights: np.ndarray, residual: np.ndarray, var: np.ndarray, y: np.ndarray
) -> ScalePredictions:
    """Every target from those before it; ``log_weights`` of the nodes before any data ``(J,)``."""
    each = normal_log_density(residual, var[:, :, None])
    joint = each.sum(axis=2)
    before = np.concatenate([np.zeros((len(joint), 1)), np.cumsum(joint, axis=1)[:, :-1]], axis=1)
    weights = log_weights[:, None] + before
    weights = weights - logsumexp(weights, axis=0)
    return _mixed(weights, residual, var, each, y)


def _mixed(
    weights: np.ndarray, residual: np.ndarray, var: np.ndarray, each: np.ndarray, y: np.ndarray
) -> ScalePredictions:
    """Mixtures with log weights ``(J, n)`` of Gaussians with log densities ``each (J, n, C)``."""
    w = np.exp(weights)
    centre = np.sum(w[:, :, None] * residual, axis=0)
    within = np.sum(w * var, axis=0)
    ends = (w[-1] * var[-1]) / within
    within = np.where(ends < np.exp(_DECAYED), within, np.inf)
    if len(residual) > 1:
        between = np.sum(w[:, :, None] * (residual - centre) ** 2, axis=0)
        spread = within[:, None] + between
        spread = spread[:, 0] if y.ndim == 1 else spread
    else:
        spread = within
    alone = logsumexp(weights[:, :, None] + each, axis=0)
    joint = logsumexp(weights + each.sum(axis=2), axis=0)
    shaped = centre.reshape(y.shape)
    return ScalePredictions(y - shaped, spread, shaped, alone.reshape(y.shape), joint)


def nodes_from_the_start(prior: Any, posterior: ScaleNodes) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and log weights of the prior, fine enough for its posterior given all data.

    Raises:
        ImproperPosteriorError: the law of the scale is improper.
    """
    law = integrate(lambda u: density_of_log(prior, u), "the scale prior", reach=NEGLIGIBLE)
    u, w = posterior.log_s2, posterior.weights
    centre = w @ u
    step = min(0.5 * float(np.sqrt(w @ (u - centre) ** 2)), _WIDEST)
    kept = u[posterior.log_weights > -NEGLIGIBLE]
    low, high = min(law.log_s2[0], kept[0]), max(law.log_s2[-1], kept[-1])
    nodes = np.linspace(low, high, 2 + int((high - low) / step))
    log_weights = density_of_log(prior, nodes)
    return nodes, log_weights - logsumexp(log_weights)
