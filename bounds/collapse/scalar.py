r"""One mode of the deep linear model: a scalar problem with a threshold.

Each singular value :math:`\sigma` of the targets meets the penalty alone,

.. math:: \min_{x \ge 0} \frac{\sigma^2}{x^M + 1} + b\,x, \qquad
          b = M N (N \lambda_H \textstyle\prod_l \lambda_l)^{1/M},

with x the strength of the mode. Only the ratio :math:`r = b / \sigma^2` matters. With one layer the
mode grows continuously from zero at r = 1. With two or more, zero is always a local minimum; the
mode jumps to a finite strength where r falls below the *switch*, and the larger stationary point
lives on as a local minimum up to the *spinodal*.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.errors import DomainError
from deeplimits.precision import require_x64
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import ArrayLike
from deeplimits.validate import as_real, finite, integer, is_traced

#: Newton converges from the right in 6 steps, at the spinodal (a double root) by halves in 55.
_STEPS = 60


@register_dataclass
@dataclass(frozen=True)
class Thresholds:
    """Largest ratios :math:`b / \\sigma^2` at which a mode is learned.

    Attributes:
        switch: below it the mode is part of the global minimum; above it the mode is zero there.
        spinodal: up to it a non-zero local minimum exists.
    """

    switch: float
    spinodal: float


def thresholds(depth: int) -> Thresholds:
    r"""Where a mode of a model with ``depth`` weight layers vanishes.

    .. math:: r_{switch} = \frac{(M-1)^{(M-1)/M}}{M}, \qquad
              r_{spinodal} = \frac{M y^{(M-1)/M}}{(y+1)^2}, \quad y = \frac{M-1}{M+1}

    Args:
        depth: number M of weight layers on top of the features, >= 1.

    Returns:
        :class:`Thresholds`; both are 1 for one layer, where the mode vanishes continuously.

    Raises:
        DomainError: a depth below 1.

    Source: derived here; the model is that of arXiv:2301.00437.
    Check: tests/bounds/test_collapse.py::test_thresholds
    """
    M = integer(depth, "depth", at_least=1)
    y = (M - 1) / (M + 1)
    return Thresholds(
        switch=(M - 1) ** ((M - 1) / M) / M, spinodal=M * y ** ((M - 1) / M) / (y + 1) ** 2
    )


def mode_strength(ratio: ArrayLike, depth: int, *, metastable: bool = False) -> Any:
    r"""Strength x that minimises :math:`1/(x^M + 1) + r x` over :math:`x \ge 0`.

    Differentiable in ``ratio`` where the minimum does not switch.

    Args:
        ratio: r, any shape, >= 0; infinite for a target without signal.
        depth: number M of weight layers, >= 1.
        metastable: follow the larger stationary point up to the spinodal although zero is lower;
            default False, the global minimum.

    Returns:
        x of the same shape; 0 above the threshold, infinite at r = 0. At the switch itself both
        points are minima and the larger is returned.

    Raises:
        DomainError: a negative or NaN ratio, a depth below 1.

    Source: derived here. Check: tests/bounds/test_collapse.py::test_scalar_problem
    """
    M = integer(depth, "depth", at_least=1)
    limits = thresholds(M)
    end = limits.spinodal if metastable else limits.switch
    ratio = as_real(ratio, "ratio")
    if is_traced(ratio):
        require_x64("mode_strength")
        return _strength(ratio, end, M, jnp)
    ratio = np.asarray(ratio, np.float64)
    if not (ratio >= 0).all():
        raise DomainError(f"ratio must be >= 0, got {ratio[~(ratio >= 0)][0]}.")
    return _strength(ratio, end, M, np)


def _strength(ratio: Any, end: float, M: int, xp: Any) -> Any:
    live = (ratio <= end) & (ratio > 0)
    r = xp.where(live, ratio, end / 2)  # a harmless value where the result is not used
    x = _larger_root(r, M, xp) if M > 1 else xp.sqrt(1 / r) - 1
    return xp.where(live, x, xp.where(ratio > 0, 0.0, xp.inf))


def _larger_root(ratio: Any, M: int, xp: Any) -> Any:
    r"""Larger solution of :math:`M x^{M-1} / (x^M + 1)^2 = r`.

    In :math:`t = \ln x` the logarithm of the left side is concave and bounded by that of
    :math:`M x^{-(M+1)}`. Newton started where the bound equals r lies right of the root, so that
    all iterates do and no bracket is needed.
    """

    def change(t: Any, slope: Any) -> Any:
        excess = math.log(M) + (M - 1) * t - 2 * xp.logaddexp(M * t, 0.0) - xp.log(ratio)
        return xp.where(slope == 0, 0.0, excess / xp.where(slope == 0, 1.0, slope))

    def slope(t: Any) -> Any:
        return -1 - M * xp.tanh(M * t / 2)

    def step(_: Any, t: Any) -> Any:
        return t - change(t, slope(t))

    t = xp.log(M / ratio) / (M + 1)
    if xp is np:
        for i in range(_STEPS):
            t = step(i, t)
        return np.exp(t)
    t = jax.lax.stop_gradient(jax.lax.fori_loop(0, _STEPS, step, t))
    # one more step carries the derivative of the implicit function
    return jnp.exp(t - change(t, jax.lax.stop_gradient(slope(t))))


def gain(x: Any, depth: int) -> Any:
    r"""Share :math:`x^M / (1 + x^M)` of a target that a mode of strength x reproduces."""
    return 1 - 1 / (1 + x**depth)


def as_decays(lam_W: ArrayLike, lam_H: ArrayLike) -> tuple[np.ndarray, float]:
    """Weight decays ``(M,)`` and feature decay as positive numbers.

    Raises:
        DomainError: not a number or vector of numbers > 0.
    """
    layers = np.atleast_1d(np.asarray(as_real(lam_W, "lam_W"), np.float64))
    features = np.asarray(as_real(lam_H, "lam_H"), np.float64)
    finite(layers, "lam_W")
    finite(features, "lam_H")
    if layers.ndim != 1 or not layers.size or not (layers > 0).all():
        raise DomainError(
            f"lam_W must be a number > 0 or one per layer, got {np.asarray(lam_W)}. Without weight "
            "decay there is no minimiser."
        )
    if features.ndim or not features > 0:
        raise DomainError(
            f"lam_H must be one number > 0, got {lam_H}. Without it there is no minimiser."
        )
    return layers, float(features)


def penalty(n: float, lam_W: np.ndarray, lam_H: float) -> float:
    r""":math:`b = M N (N \lambda_H \prod_l \lambda_l)^{1/M}` for N samples."""
    M = len(lam_W)
    return float(M * n * math.exp((math.log(n * lam_H) + np.log(lam_W).sum()) / M))
