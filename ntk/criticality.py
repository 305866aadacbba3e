r"""Where the two susceptibilities agree: the expansion of the averages at 0, and a root search.

:math:`\chi_\parallel = \chi_\perp` at variance K means :math:`d\langle\sigma^2\rangle/dK =
\langle\sigma'^2\rangle`, an equation without the variances of weights and biases.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import brentq

from deeplimits.errors import ConvergenceError, DomainError
from ntk.duals import Dual
from ntk.elementwise import X, derivative
from ntk.single_input import Averages, check_averages, host_averages

#: Distance from 0 at which one-sided derivatives are taken.
_SIDE = 1e-12
#: Variances that are searched, one decade after the other.
_DECADES, _PER_DECADE = range(-3, 3), 64
#: An average below this part of its size at small variances is rounding noise, and so is a
#: difference of the two sides below the second number of their sum.
_GUARD, _NOISE = 1e-8, 1e-11
#: Terms of the expansion below this are zeros of the derivatives.
_ZERO = 1e-9


def expansion(dual: Dual) -> tuple[float, tuple[float, float, float] | str]:
    r"""``A_2`` and ``(p, a_1, b_1)`` of the averages at small variance, or a sentence why not.

    .. math:: \langle\sigma^2\rangle = A_2 K (1 + a_1 K^p + \dots), \qquad
       \langle\sigma'^2\rangle = A_2 (1 + b_1 K^p + \dots)

    From one-sided derivatives at 0: :math:`p = 1/2` with
    :math:`a_1 = b_1 = \sqrt{2/\pi}\,(\sigma_1^+\sigma_2^+ - \sigma_1^-\sigma_2^-) / A_2` if that is
    not 0; else :math:`p = 1` with
    :math:`a_1 = \tfrac32 \sum_\pm (\tfrac14 \sigma_2^2 + \tfrac13 \sigma_1 \sigma_3) / A_2` and
    :math:`b_1 = \tfrac12 \sum_\pm (\sigma_2^2 + \sigma_1 \sigma_3) / A_2`; higher powers from the
    averages themselves. What is found is confirmed by the averages.

    Args:
        dual: the activation.

    Raises:
        UnsupportedLayerError: a kernel without an activation.
        ConvergenceError: the averages contradict the derivatives.

    Source:
        arXiv:2106.10165, section 5.3.3 for p = 1; p = 1/2 derived here. Check:
        ``tests/ntk/test_critical_init.py::test_expansion_against_averages``.
    """
    at = np.array([_SIDE, -_SIDE])
    s1, s2, s3 = (np.asarray(derivative(dual.fn, (X,) * k, jnp.asarray(at))) for k in (1, 2, 3))
    s1 = s1 - s2 * at
    s0 = float(dual.fn(jnp.zeros(())))
    A2 = float(np.mean(s1**2))
    if s0 != 0:
        C_b = f" (C_b would be -(s(0)/s'(0))^2 = {-(s0**2) / A2:.4g} < 0)" if A2 > 1e-20 else ""
        return A2, f"s(0) = {s0:.4g} is not 0, which excludes K* = 0{C_b}"
    if A2 < 1e-20:
        return A2, "s'(0) = 0 excludes K* = 0"
    cusp = math.sqrt(2 / math.pi) * float(s1[0] * s2[0] - s1[1] * s2[1]) / A2
    a1 = 1.5 * float(np.sum(s2**2 / 4 + s1 * s3 / 3)) / A2
    b1 = 0.5 * float(np.sum(s2**2 + s1 * s3)) / A2
    if abs(cusp) > _ZERO:
        terms = (0.5, cusp, cusp)
    elif abs(a1) > _ZERO:
        terms = (1.0, a1, b1)
    else:
        return A2, _measured(dual, A2)
    power, a1, _ = terms
    K = 1e-8 if power == 0.5 else 1e-5
    relative = float(host_averages(dual, np.full(1, K)).value[0]) / (A2 * K) - 1
    # the next term is smaller by K^p = 1e-4 or 1e-5, times a ratio of coefficients
    if abs(relative / (a1 * K**power) - 1) > 0.1:
        raise ConvergenceError(
            f"the averages at K = {K:g} contradict the derivatives of the activation at 0: "
            f"<ss>/K deviates by {relative:.3g} instead of {a1 * K**power:.3g}. Declare its kinks "
            "with ntk.dual(fn, kinks=...)."
        )
    return A2, terms


def _measured(dual: Dual, A2: float) -> tuple[float, float, float]:
    """Power and coefficients from the averages, where derivatives up to the third are silent.

    The power is infinite if the local exponent is no multiple of 1/2 (it grows without bound for
    a function that is linear around 0); then the signs of the coefficients are right.
    """
    K = np.geomspace(1e-3, 1e2, 101)
    a = host_averages(dual, K)
    value, slope = a.value / (A2 * K) - 1, a.slope / A2 - 1
    seen = np.flatnonzero(np.abs(value) > 1e-10)
    if not seen.size:
        return math.inf, 0.0, 0.0
    i = min(int(seen[0]), len(K) - 4)
    power = math.log(value[i + 3] / value[i]) / math.log(K[i + 3] / K[i])
    nearest = round(2 * power) / 2
    if K[i] > 0.05 or abs(power - nearest) > 0.1:
        return math.inf, float(value[i]), float(slope[i])
    scale = K[i] ** nearest
    return nearest, float(value[i] / scale), float(slope[i] / scale)


def roots(dual: Dual) -> tuple[list[float], str]:
    r"""Variances in [1e-3, 1e3] at which the susceptibilities agree, and what was searched.

    Why the guards: where both sides have decayed (sin: :math:`e^{-2K}` against 1/2) or agree to
    rounding (softplus at large K), sign changes are noise. A root needs both sides above 1e-8 of
    their size at small variances, and a difference above rounding beside it.

    Args:
        dual: the activation.

    Raises:
        ConvergenceError, DomainError: no variance has averages that can be trusted.

    Source:
        derived here. Check: ``tests/ntk/test_critical_init.py::test_no_fake_roots``.
    """
    K, a = _scan(dual)
    small = K <= 1
    real = a.d_value > _GUARD * np.max(np.abs(a.d_value[small]))
    real &= a.slope > _GUARD * np.max(a.slope[small])
    total = np.abs(a.d_value) + a.slope
    mismatch = np.divide(a.d_value - a.slope, total, out=np.full_like(K, np.nan), where=real)
    left, right = mismatch[:-1], mismatch[1:]
    cells = np.flatnonzero((left * right < 0) & (np.maximum(abs(left), abs(right)) > _NOISE))
    span = f"[{K[0]:.3g}, {K[-1]:.3g}]"
    if not np.any(real):
        return [], f"d<ss>/dK is not positive for K in {span}"
    ratio = a.slope[real] / a.d_value[real]
    searched = (
        f"the two slopes are equal at no K in {span}: <s's'> / (d<ss>/dK) runs from "
        f"{ratio.min():.4g} to {ratio.max():.4g}"
    )

    def difference(u: float) -> float:
        at = host_averages(dual, np.full(1, math.exp(u)))
        return float(at.d_value[0] - at.slope[0])

    ends = [(math.log(K[i]), math.log(K[i + 1])) for i in cells]
    return [math.exp(brentq(difference, *pair, xtol=1e-15)) for pair in ends], searched


def _scan(dual: Dual) -> tuple[np.ndarray, Averages]:
    """Averages on a logarithmic grid, up to the first decade where they are not to be trusted."""
    parts: list[Any] = []
    for decade in _DECADES:
        K = np.geomspace(10.0**decade, 10.0 ** (decade + 1), _PER_DECADE)
        a = host_averages(dual, K)
        try:
            if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(a)):
                raise DomainError(f"the averages are not finite at variances up to {K[-1]:g}.")
            check_averages(dual, K, a)
        except (ConvergenceError, DomainError):
            if not parts:
                raise
            break
        parts.append((K, a))
    merged = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    return merged  # type: ignore[no-any-return]
