"""Quantiles of a law of the scale, to rounding, from its density alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.special

from gp.scale_priors import density_of_log
from gp.scale_quadrature import integrate

#: Panels between the ends of the law, and Gauss-Legendre points in each: analytic densities of
#: log s2 change over distances of order one, so that a panel is exact to rounding.
_PANELS, _POINTS = 2048, 8
#: Newton's method for a quantile starts within a panel and doubles its digits.
_STEPS = 6


def quantile_table(prior: Any, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""The logarithm u of the scale at normal quantiles, and its derivative.

    .. math:: F(u) = \Phi(g), \qquad du/dg = \varphi(g) / F'(u)

    The distribution function is integrated from the nearer end of the law, which keeps the digits
    of both tails.

    Args:
        prior: a law of the scale.
        g: normal quantiles, increasing, within [-35, 35].

    Returns:
        ``log s2`` and its derivative in g, each like ``g``.

    Raises:
        ImproperPosteriorError: the law is improper.

    Source: derived here. Check: test_classify_mcmc.py::test_quantiles_of_the_scale.
    """
    law = integrate(lambda u: density_of_log(prior, u), "the scale prior")
    density = lambda u: np.exp(density_of_log(prior, u) - law.log_integral)  # noqa: E731
    edges = np.linspace(law.log_s2[0], law.log_s2[-1], _PANELS + 1)
    node, weight = np.polynomial.legendre.leggauss(_POINTS)

    def between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        half = 0.5 * (b - a)
        points = half[:, None] * node + 0.5 * (a + b)[:, None]
        return half * (density(points) @ weight)

    panels = between(edges[:-1], edges[1:])
    below = np.concatenate([[0.0], np.cumsum(panels)])
    above = np.concatenate([np.cumsum(panels[::-1])[::-1], [0.0]])
    lower = g < 0
    goal = scipy.special.ndtr(-np.abs(g))
    at_lower = np.clip(np.searchsorted(below, goal) - 1, 0, _PANELS - 1)
    at_upper = np.clip(_PANELS - np.searchsorted(above[::-1], goal), 0, _PANELS - 1)
    at = np.where(lower, at_lower, at_upper)
    left, right = edges[at], edges[at + 1]
    u = 0.5 * (left + right)
    for _ in range(_STEPS):
        tail = np.where(lower, below[at] + between(left, u), above[at + 1] + between(u, right))
        # on the logarithm of the probability, which is nearly straight in the tails
        step = np.log(tail / goal) * tail / density(u)
        u = np.clip(np.where(lower, u - step, u + step), left, right)
    return u, np.exp(-0.5 * g**2) / np.sqrt(2 * np.pi) / density(u)
