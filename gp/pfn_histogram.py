r"""Predictive histograms of prior-data fitted networks, and their distance to the exact law.

A bar of width :math:`w_b` and probability :math:`p_b` has the density :math:`p_b / w_b`; the first
and the last bar are half normal, scaled so that half of their mass lies within their own width,
which gives the whole line a density.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.special
import scipy.stats
from jaxtyping import Float

from deeplimits.errors import DomainError, ShapeError
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import check, finite
from gp.mixture_marginals import MarginalMixture
from gp.predictive import LOG_2PI, Gaussian

_HALF = float(scipy.stats.halfnorm.ppf(0.5))
_NODES = 20_001  # for the entropy of a mixture


@dataclass(frozen=True)
class Histogram:
    """Predictive histograms of m targets on common bars. Made by :func:`histogram`.

    Attributes:
        borders: increasing ``(B + 1,)``.
        log_probs: logarithms of the probabilities of the bars ``(m, B)``, normalised.
    """

    borders: np.ndarray
    log_probs: np.ndarray

    @property
    def scales(self) -> tuple[float, float]:
        """Widths of the half-normal tails, left and right."""
        widths = np.diff(self.borders)
        return float(widths[0]) / _HALF, float(widths[-1]) / _HALF

    def log_density(self, y: Any) -> Float[np.ndarray, " m"]:
        """Log density of every target under its histogram, in nats.

        Args:
            y: targets ``(m,)``.

        Raises:
            ShapeError, DomainError: another shape, NaN or infinite.

        Check: test_pfn.py::test_histogram_is_a_density.
        """
        y = np.asarray(y, np.float64)
        count = len(self.log_probs)
        check(y.shape == (count,), f"y must have shape ({count},), got {y.shape}.", ShapeError)
        finite(y, "y")
        bars = self.log_probs.shape[1]
        bar = np.clip(np.searchsorted(self.borders, y, side="right") - 1, 0, bars - 1)
        flat = -np.log(np.diff(self.borders))[bar]
        left, right = self.scales
        inner = self.borders[1], self.borders[-2]
        tails = [
            scipy.stats.halfnorm.logpdf(np.maximum(inner[0] - y, 0.0), scale=left),
            scipy.stats.halfnorm.logpdf(np.maximum(y - inner[1], 0.0), scale=right),
        ]
        shape = np.where(bar == 0, tails[0], np.where(bar == bars - 1, tails[1], flat))
        return np.asarray(self.log_probs[np.arange(count), bar] + shape)

    def cross_entropy(self, mean: Any, var: Any) -> Float[np.ndarray, "..."]:
        r"""``-E log q(y)`` in nats for normal y, in closed form.

        Args:
            mean: means of the m targets, ``(..., m)``.
            var: their variances ``(..., m)``, > 0.

        Raises:
            ShapeError: the last axis is not m.
            DomainError: NaN, infinite, or a variance that is not positive.

        Source: derived here. Check: test_pfn.py::test_divergence_against_quadrature.
        """
        mean, var = np.broadcast_arrays(np.asarray(mean, float), np.asarray(var, float))
        count = len(self.log_probs)
        check(
            mean.ndim >= 1 and mean.shape[-1] == count,
            f"mean and var must have a last axis of length {count}, got shape {mean.shape}.",
            ShapeError,
        )
        finite(mean, "mean")
        finite(var, "var")
        check(bool(np.all(var > 0)), f"var must be > 0, got a minimum of {var.min()}.", DomainError)
        sd = np.sqrt(var)
        z = (self.borders[1:-1] - mean[..., None]) / sd[..., None]
        below = scipy.special.ndtr(z)
        # differences of the smaller tail: ndtr(z) rounds to 1 beyond 8 standard deviations
        above = scipy.special.ndtr(-z)
        inner = np.where(z[..., :-1] > 0, -np.diff(above), np.diff(below))
        left, right = self.scales
        edges = (below[..., 0], z[..., 0], left), (above[..., -1], -z[..., -1], right)
        flat = np.sum(inner * (self.log_probs[:, 1:-1] - np.log(np.diff(self.borders)[1:-1])), -1)
        ends = []
        for (mass, u, scale), log_p in zip(edges, self.log_probs[:, [0, -1]].T, strict=True):
            density = np.exp(-0.5 * u**2 - 0.5 * LOG_2PI)
            square = var * ((1 + u**2) * mass + u * density)  # E[(border - y)^2; beyond]
            constant = log_p + 0.5 * np.log(2 / np.pi) - np.log(scale)
            ends.append(mass * constant - 0.5 * square / scale**2)
        return np.asarray(-(flat + ends[0] + ends[1]))

    def kl_from(self, law: Any) -> Float[np.ndarray, " m"]:
        r""":math:`KL(\text{exact} \| \text{histogram})` per target, in nats: the excess loss.

        Args:
            law: exact predictive marginals of the m targets: :class:`gp.Gaussian` (noise
                included), or a mixture such as that of :meth:`HyperPosterior.predict`.

        Raises:
            ShapeError, DomainError: another number of targets, or no such law.

        Source: derived here: closed form for a Gaussian; for a mixture the cross entropy is, and
            the entropy is a sum over a grid.

        Check: test_pfn.py::test_divergence_against_quadrature.
        """
        if isinstance(law, Gaussian):
            check(law.mean.ndim == 1, "the law must have a single output.", ShapeError)
            entropy = 0.5 * (np.log(law.var) + LOG_2PI + 1)
            return np.asarray(self.cross_entropy(law.mean, law.var) - entropy)
        check(
            isinstance(law, MarginalMixture) and law.vector,
            f"law must be a gp.Gaussian or a mixture of one output, got {type(law).__name__}.",
            DomainError,
        )
        loc, width, weights = _components(law)
        crossed = np.zeros(len(self.log_probs))
        for rows in _blocks(len(loc), loc.shape[1] * len(self.borders)):
            crossed += weights[rows] @ self.cross_entropy(loc[rows], width[rows] ** 2)
        return np.asarray(crossed - mixture_entropy(law))


def _components(law: MarginalMixture) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres and widths ``(J, m)`` and weights ``(J,)`` of all that is not negligible."""
    keep = law.log_weights > law.log_weights.max() - 36  # e^-36: rounding
    loc = np.broadcast_to(law.loc[..., 0], law.width.shape)[keep]
    return loc, law.width[keep], np.exp(law.log_weights[keep])


def _blocks(count: int, size: int) -> list[slice]:
    """Slices of ``count`` rows of ``size`` numbers that fit in 16 MB each."""
    rows = max(1, 2_000_000 // size)
    return [slice(start, start + rows) for start in range(0, count, rows)]


def mixture_entropy(law: MarginalMixture) -> Float[np.ndarray, " m"]:
    """Differential entropy of every marginal, in nats, by the trapezoid rule.

    Steps of half the narrowest width (at most 20001 nodes), from 12 widths below to 12 above: the
    rule is spectrally accurate for sums of normal densities.

    Args:
        law: a mixture of one output.

    Source: derived here. Check: test_pfn.py::test_divergence_against_quadrature.
    """
    loc, width, weights = _components(law)
    low, high = np.min(loc - 12 * width, axis=0), np.max(loc + 12 * width, axis=0)
    result = np.empty(loc.shape[1])
    for i in range(loc.shape[1]):
        count = int(min(_NODES, np.ceil((high[i] - low[i]) / (0.5 * width[:, i].min())) + 1))
        y, step = np.linspace(low[i], high[i], count, retstep=True)
        density = np.zeros(count)
        for rows in _blocks(len(loc), count):
            unit = width[rows, i, None]
            z = (y - loc[rows, i, None]) / unit
            density += weights[rows] @ (np.exp(-0.5 * z**2 - 0.5 * LOG_2PI) / unit)
        result[i] = step * np.sum(scipy.special.entr(density))
    return result


def histogram(borders: Any, logits: Any) -> Histogram:
    """A predictive histogram from the outputs of a network.

    Args:
        borders: ``(B + 1,)``, increasing, B >= 3.
        logits: unnormalised log probabilities of the bars, ``(m, B)`` or ``(B,)``.

    Raises:
        ShapeError: lengths that do not match.
        DomainError: NaN, infinite, or borders that do not increase.

    Source: arXiv:2112.10510, section 4.1 (Riemann distribution with half-normal tails).
    Check: test_pfn.py::test_histogram_is_a_density.
    """
    edges, values = np.asarray(borders, np.float64), np.atleast_2d(np.asarray(logits, np.float64))
    check(
        edges.ndim == 1 and len(edges) >= 4 and values.shape[1:] == (len(edges) - 1,),
        f"logits must have shape (m, B) and borders (B + 1,) with B >= 3, got {values.shape} and "
        f"{edges.shape}.",
        ShapeError,
    )
    finite(edges, "borders")
    finite(values, "logits")
    check(bool(np.all(np.diff(edges) > 0)), "borders must increase.", DomainError)
    return Histogram(edges, scipy.special.log_softmax(values, axis=1))


register_dataclass(Histogram, ["borders", "log_probs"], [])
