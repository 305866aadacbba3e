r"""Average losses of a Gaussian quadratic form, from one contour integral each.

For :math:`Q = c_0 + \sum_j (\lambda_j z_j^2 + h_j z_j)` with independent standard normal
:math:`z_j` and any signs of the :math:`\lambda_j`,

.. math:: \ln E\,e^{-sQ} = -s c_0 + \sum_j \left[-\tfrac12 \ln(1 + 2 s \lambda_j)
          + \frac{s^2 h_j^2}{2 (1 + 2 s \lambda_j)}\right]

and a loss :math:`\ell(q) = \frac{1}{2\pi i}\int k(s) e^{-sq} ds` has the average
:math:`\frac{1}{2\pi i}\int k(s) E\,e^{-sQ} ds` along any vertical line in the common strip of
convergence: :math:`k = 1/s` for the step :math:`1\{q < 0\}`, :math:`1/s^2` for
:math:`\max(-q, 0)`, :math:`\pi/(s \sin \pi s)` for :math:`\ln(1 + e^{-q})`. The line passes through
the saddle point and is walked with exponentially growing steps, for which the trapezoid rule
converges geometrically in spite of the algebraic decay. Where the stationary value of Q is not 0,
the line is bent so that the moment decays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize

from deeplimits.errors import ConvergenceError

#: The losses of a margin q that have a kernel here.
KERNELS = ("zero_one", "negative_part", "logistic")


@dataclass(frozen=True)
class QuadraticForm:
    """The form c0 + sum(lam z^2 + h z) of standard normal z; ``lam``, ``h`` of shape ``(k,)``.

    ``through_zero`` says that the value at the stationary point is known to be 0.
    """

    c0: float
    lam: np.ndarray
    h: np.ndarray
    through_zero: bool = False

    def log_moment(self, s: Any) -> Any:
        """The logarithm of E exp(-s Q), for an array of (complex) s in the strip."""
        d = 1 + 2 * np.asarray(s)[..., None] * self.lam
        return -s * self.c0 + (-np.log(d) / 2 + (s * s)[..., None] * self.h**2 / (2 * d)).sum(-1)

    @property
    def offset_sign(self) -> float:
        """Sign of the value at the stationary point; exp(-s times it) would oscillate for ever."""
        used = self.lam != 0
        if self.through_zero or (self.h[~used] != 0).any():
            return 0.0  # a linear part makes the moment decay along the line
        part = np.append(self.c0, -(self.h[used] ** 2) / (4 * self.lam[used]))
        rounding = 1e-12 * np.abs(part).sum()
        return float(np.sign(part.sum()) if abs(part.sum()) > rounding else 0.0)

    @property
    def strip(self) -> float:
        """The supremum of the s > 0 for which the moment exists."""
        low = self.lam.min(initial=0.0)
        return -1 / (2 * low) if low < 0 else math.inf


def inner_product(a: Any, b: Any, saa: Any, sab: Any, sbb: Any) -> QuadraticForm:
    """The inner product of two jointly Gaussian vectors, means ``a, b``, covariances ``s..``.

    The means must lie in the range of the covariances, so that 0 is the stationary value.
    """
    # both vectors in units of their own size, which may differ by many powers of ten
    unit_a, unit_b = (math.sqrt(np.trace(s)) or 1.0 for s in (saa, sbb))
    cross = sab / (unit_a * unit_b)
    joint = np.block([[saa / unit_a**2, cross], [cross.T, sbb / unit_b**2]])
    values, vectors = np.linalg.eigh(joint)
    kept = values > 1e-14 * max(values[-1], 0)
    root = vectors[:, kept] * np.sqrt(values[kept])
    swap = np.roll(np.eye(len(joint)), len(a), axis=0) / 2
    mean = np.concatenate([a / unit_a, b / unit_b])
    lam, basis = np.linalg.eigh(root.T @ swap @ root)
    h = 2 * basis.T @ (root.T @ (swap @ mean))
    lam = np.where(np.abs(lam) > 1e-14 * np.abs(lam).max(initial=0.0), lam, 0.0)
    unit = unit_a * unit_b
    return QuadraticForm(float(np.dot(a, b)), lam * unit, h * unit, through_zero=True)


def average_loss(form: QuadraticForm, kernel: str) -> float:
    r"""Average of a loss of Q.

    Args:
        form: the quadratic form.
        kernel: ``"zero_one"`` for :math:`1\{Q<0\}`, ``"negative_part"`` for
            :math:`\max(-Q, 0)`, ``"logistic"`` for :math:`\ln(1+e^{-Q})`.

    Raises:
        ConvergenceError: halving the step does not settle the twelfth digit (or what rounding
            leaves of it).

    Source: derived here. Check: tests/bounds/test_hierarchy.py::test_average_losses
    """
    if not (form.lam.any() or form.h.any()):  # a constant: no line of integration converges
        q = form.c0
        soft = float(np.logaddexp(0.0, -q))
        return {"zero_one": float(q < 0), "negative_part": max(-q, 0.0), "logistic": soft}[kernel]

    def exponent(s: Any) -> Any:
        return form.log_moment(s) + _log_kernel(s, kernel)

    top = min(form.strip, 1.0 if kernel == "logistic" else math.inf)
    c, scale = _saddle(exponent, form, top)
    height = float(exponent(np.array(c + 0j)).real)
    if height < -800:  # below the smallest float
        return 0.0
    order = max(int(np.count_nonzero(form.lam)), 1)
    end = 80.0 / order + math.asinh(40.0)  # decay like |s|^(-order/2), after a Gaussian core

    bend = 0.5 * form.offset_sign

    def rule(step: float) -> float:
        u = np.arange(0.0, end + step, step)
        s = c + scale * (1j * np.sinh(u) + bend * (np.cosh(u) - 1))
        slope = scale * (np.cosh(u) - 1j * bend * np.sinh(u))
        values = (np.exp(exponent(s) - height) * slope).real
        values[0] /= 2
        return float(step / math.pi * values.sum())

    # far from the origin (large n) large terms of the exponent cancel
    large = abs(c * form.c0) + float((c * form.h) ** 2 @ (1 / (1 + 2 * c * form.lam))) / 2
    tol = max(1e-12, 10 * np.finfo(float).eps * large)
    step, now = 0.2, rule(0.2)
    for _ in range(7):
        step, before, now = step / 2, now, rule(step / 2)
        if abs(now - before) <= tol * abs(now):
            return math.exp(height) * now
    raise ConvergenceError(
        f"the average {kernel} loss is only known to {abs(now / before - 1):.1g}; the covariances "
        "are too ill-conditioned."
    )


def _log_kernel(s: Any, kernel: str) -> Any:
    """Logarithm of the kernel; sin would overflow far from the axis."""
    if kernel != "logistic":
        return -np.log(s) * (2 if kernel == "negative_part" else 1)
    z = np.pi * s
    sine = -1j * z + np.log(-np.expm1(2j * z)) + complex(-math.log(2), math.pi / 2)
    return math.log(math.pi) - np.log(s) - sine


def _saddle(exponent: Any, form: QuadraticForm, top: float) -> tuple[float, float]:
    """Where the exponent, convex on (0, top), is least, and its width there."""

    def height(x: float) -> float:
        return float(exponent(np.array(x + 0j)).real)

    upper = top
    if math.isinf(top):
        upper = 1.0 / max(np.abs(form.lam).max(), np.abs(form.h).max(), abs(form.c0))
        while height(2 * upper) < height(upper) and upper < 1e300:
            upper *= 2
        upper *= 2

    # in the logarithm of the distance to either end: the saddle may sit close to it
    def at(w: float) -> float:
        return upper / (1 + math.exp(-w))

    found = scipy.optimize.minimize_scalar(
        lambda w: height(at(w)), bounds=(-60, 30), method="bounded"
    )
    c = at(float(found.x))
    room = min(c, top - c) if math.isfinite(top) else c
    d = 1e-3 * room
    curvature = (height(c + d) - 2 * height(c) + height(c - d)) / d**2
    return c, min(1 / math.sqrt(max(curvature, 1e-300)), room)
