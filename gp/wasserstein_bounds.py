r"""Brackets of Wasserstein distances without closed form: scale mixtures, W1 of Gaussians."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.integrate
import scipy.interpolate
import scipy.linalg

from deeplimits.errors import DomainError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import ArrayLike
from deeplimits.validate import check
from gp.scale_priors import ScalePrior, density_of_log
from gp.wasserstein import covariance_pair, overlap, wasserstein2

#: Nodes of the quantile functions of scales, and how far below the maximum they reach (e^-120).
_NODES, _REACH = 40_001, 120.0


@dataclass(frozen=True)
class Bracket:
    """A number between two proven bounds.

    Attributes:
        lower, upper: the bounds.
    """

    lower: float
    upper: float

    @property
    def exact(self) -> bool:
        """Whether the two bounds agree to 1e-9 of the upper one."""
        return self.upper - self.lower <= 1e-9 * abs(self.upper)


register_dataclass(Bracket, ["lower", "upper"], [])


def _log_tails(prior: ScalePrior) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes of ``log s2``, and ``log P(below)`` and ``log P(above)`` there."""
    wide = np.linspace(-700.0, 700.0, 28_001)
    height = density_of_log(prior, wide)
    inside = wide[height > np.max(height) - _REACH]
    u = np.linspace(inside[0] - 0.05, inside[-1] + 0.05, _NODES)
    density = np.exp(density_of_log(prior, u) - np.max(height))
    spline, h = scipy.interpolate.CubicSpline(u, density), u[1] - u[0]
    # each interval by itself: differences of a primitive lose the tails
    weights = np.array([h**4 / 4, h**3 / 3, h**2 / 2, h])
    steps = np.maximum(weights @ spline.c, 0.0)
    below = np.concatenate([[0.0], np.cumsum(steps)])
    above = np.concatenate([np.cumsum(steps[::-1])[::-1], [0.0]])
    with np.errstate(divide="ignore"):
        return u, np.log(below / below[-1]), np.log(above / above[0])


@float64_scope
def comonotone_moment(prior1: ScalePrior, prior2: ScalePrior) -> float:
    r""":math:`E[s_1 s_2]` of two scales that rise together, the largest that any coupling gives.

    .. math:: E[s_1 s_2] = \int_0^1 Q_1(p)\, Q_2(p)\, dp

    with :math:`Q_i` the quantile function of :math:`s_i = \sqrt{s_i^2}`.

    Args:
        prior1, prior2: laws of :math:`s_i^2`, such as :class:`gp.InverseGamma`, with
            finite means.

    Raises:
        DomainError: a law without a mean.

    Source: Villani, Topics in Optimal Transportation (2003), section 2.2.
    Check: test_wasserstein.py::test_comonotone_moment_against_scipy.
    """
    for prior in (prior1, prior2):
        mean = prior.moment(1.0)
        check(bool(np.isfinite(mean)), f"{prior} has no finite mean of s2.", DomainError)
    u1, low1, high1 = _log_tails(prior1)
    u2, low2, high2 = _log_tails(prior2)
    # each half by its own tail, where the logarithm of the probability is accurate
    logit1, logit2 = low1 - high1, low2 - high2
    finite = np.isfinite(logit2)
    logit2, u2 = logit2[finite], u2[finite]
    rising = np.concatenate([[True], np.diff(logit2) > 0])
    partner = scipy.interpolate.PchipInterpolator(logit2[rising], u2[rising])
    good = np.isfinite(logit1)
    inside = np.clip(logit1[good], logit2[rising][0], logit2[rising][-1])
    log_density = density_of_log(prior1, u1[good])
    terms = np.exp(log_density + 0.5 * (u1[good] + partner(inside)))
    edge = max(terms[0], terms[-1]) / np.max(terms)
    check(
        bool(edge < 1e-12),
        f"the tails of {prior1} and {prior2} are too heavy for E[s1 s2]: what lies beyond the "
        f"nodes is not negligible ({edge:.1g} of the largest term). Use laws whose moments of s2 "
        "of order 1.4 exist.",
        DomainError,
    )
    return float(scipy.integrate.simpson(terms, x=u1[good]))


@float64_scope
def mixture_wasserstein2(
    K1: ArrayLike, K2: ArrayLike, prior1: ScalePrior, prior2: ScalePrior | None = None
) -> Bracket:
    r"""Squared 2-Wasserstein distance between two scale mixtures of centred Gaussian laws.

    With :math:`f_i \mid s_i^2 \sim N(0, s_i^2 K_i)` and O the nuclear norm
    :math:`\|K_1^{1/2} K_2^{1/2}\|_*`,

    .. math::

        E[s_1^2]\, \mathrm{tr} K_1 + E[s_2^2]\, \mathrm{tr} K_2
        - 2 \sqrt{E[s_1^2] E[s_2^2]}\; O
        \;\le\; W_2^2 \;\le\;
        E[s_1^2]\, \mathrm{tr} K_1 + E[s_2^2]\, \mathrm{tr} K_2 - 2 E[s_1 s_2]\, O

    where the scales on the right rise together. For one law on both sides the bounds are equal,
    :math:`W_2^2 = E[s^2]\, W_2^2(N(0, K_1), N(0, K_2))`.

    Args:
        K1, K2: covariances at scale 1, ``(n, n)``.
        prior1, prior2: laws of the scales, with finite means; ``prior2`` = None for the same law.

    Returns:
        :class:`Bracket` of the SQUARED distance.

    Raises:
        ShapeError, DomainError, NotPositiveDefiniteError: as :func:`wasserstein2`; a law without a
            mean.

    Source: lower bound: Gelbrich, Math. Nachr. 147, 185 (1990); upper bound derived here.
    Check: test_wasserstein.py::test_mixtures_of_one_law, ::test_mixtures_of_two_laws.
    """
    A, B = covariance_pair(K1, K2)
    first = prior1.moment(1.0)
    if prior2 is None or prior2 == prior1:
        exact = first * wasserstein2(K1, K2)
        return Bracket(exact, exact)
    second = prior2.moment(1.0)
    total = float(first * jnp.trace(A) + second * jnp.trace(B))
    shared = 2 * float(overlap(A, B))
    lower = total - math.sqrt(first * second) * shared
    return Bracket(max(lower, 0.0), total - comonotone_moment(prior1, prior2) * shared)


def mean_norm(K: ArrayLike) -> float:
    r""":math:`E|x|` of a centred Gaussian vector.

    .. math:: E|x| = \frac{1}{2\sqrt\pi} \int_0^\infty
              \Big[1 - \prod_i (1 + 2 \lambda_i t)^{-1/2}\Big]\, t^{-3/2}\, dt

    by the trapezoid rule in log t, which converges exponentially here.

    Args:
        K: covariance ``(n, n)``, positive semi-definite, not checked.

    Source: Laplace transform of the square. Check: test_wasserstein.py::test_mean_norm.
    """
    values = np.maximum(scipy.linalg.eigvalsh(np.asarray(K, np.float64)), 0.0)
    trace = float(np.sum(values))
    if trace == 0:
        return 0.0
    u = np.arange(-80.0, 80.0, 0.125)
    logs = -0.5 * np.sum(np.log1p(2 * values[:, None] / trace * np.exp(u)[None, :]), axis=0)
    integral = 0.125 * np.sum(-np.expm1(logs) * np.exp(-0.5 * u))
    return math.sqrt(trace) * float(integral) / (2 * math.sqrt(math.pi))


@float64_scope
def wasserstein1_bounds(K1: ArrayLike, K2: ArrayLike) -> Bracket:
    r"""Certified bounds of the 1-Wasserstein distance between two centred Gaussian laws.

    .. math::

        \max\Big\{\big| E|x| - E|y| \big|,\;
        \sqrt{\tfrac{2}{\pi} \textstyle\sum_i \big(\sqrt{v_i^\top K_1 v_i}
        - \sqrt{v_i^\top K_2 v_i}\big)^2}\Big\} \;\le\; W_1 \;\le\; W_2

    for every orthonormal basis :math:`v_i`; those of :math:`K_1`, :math:`K_2` and their
    difference are tried. The functions :math:`|x|` and :math:`\sum_i c_i |v_i^\top x|` with
    :math:`|c| = 1` have slope 1, so they are allowed in the dual of :math:`W_1`. For
    :math:`K_2 = c^2 K_1` the first is exact; for commuting matrices the bounds differ by less than
    the factor :math:`\sqrt{\pi/2} = 1.2533`.

    Args:
        K1, K2: covariances ``(n, n)``.

    Returns:
        :class:`Bracket` of the distance (not squared).

    Raises:
        ShapeError, DomainError, NotPositiveDefiniteError: as :func:`wasserstein2`.

    Source: Kantorovich-Rubinstein duality; the test functions derived here.
    Check: test_wasserstein.py::test_w1_bounds.
    """
    A, B = (np.asarray(matrix) for matrix in covariance_pair(K1, K2))
    lower = abs(mean_norm(A) - mean_norm(B))
    for matrix in (A, B, A - B):
        basis = scipy.linalg.eigh(matrix, driver="evd")[1]
        spread = [np.sqrt(np.maximum(_along(basis, cov), 0.0)) for cov in (A, B)]
        lower = max(lower, math.sqrt(2 / math.pi) * float(np.linalg.norm(spread[0] - spread[1])))
    upper = math.sqrt(wasserstein2(A, B))
    return Bracket(min(lower, upper), upper)


def _along(basis: np.ndarray, cov: np.ndarray) -> Any:
    """Variances along the columns of the basis."""
    return np.sum(basis * (cov @ basis), axis=0)
