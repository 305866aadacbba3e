r"""Learning curves of a data set, point by point, to the next order in 1/n.

The spectral theory (:func:`ntk.learning_curve`) replaces the eigenvectors of the Gram matrix by
random ones. Here they are kept. With a training set drawn by independent coins of bias
:math:`p = n/N`, the posterior covariance is a resolvent with diagonal disorder,

.. math:: C = (K^{-1} + D/\delta)^{-1}, \qquad D_{ii} \in \{0, 1\},

whose mean is that of an effective medium :math:`\bar C = (K^{-1} + \mathrm{diag}\,\tau)^{-1}` with
one :math:`\tau_i` per point (the coherent potential approximation). The residuals at all points are
:math:`C K^{-1} y`, and every average of their squares is a second derivative of
:math:`F = E \log\det(K^{-1} + D/\delta)`. The first correction to F is the sum of all rings of
pairs of points, in closed form.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg

from deeplimits.errors import ConvergenceError, DomainError
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import Array, ArrayLike
from deeplimits.validate import as_square, as_targets, number

_FIELDS = ["n", "test", "train", "leading_test", "leading_train", "ridge"]
#: Relative accuracy of the effective medium, and the most Newton steps.
_TOL, _STEPS = 1e-11, 60
#: Rounding of a sum over the data set, relative.
_ROUNDING = 64 * float(np.finfo(np.float64).eps)


@functools.partial(register_dataclass, data_fields=_FIELDS, meta_fields=["population"])
@dataclasses.dataclass(frozen=True, eq=False)
class SiteCurve:
    """Predicted errors of kernel regression on random subsets of a data set.

    Attributes:
        n: ``(points,)`` numbers of training points.
        test, train: mean squared errors at the other points and at the training points, to order
            1/n; several targets are summed.
        leading_test, leading_train: the same to leading order. The distance to ``test`` and
            ``train`` is the size of the expansion parameter.
        ridge: as given.
        population: number N of points.
    """

    n: Array
    test: Array
    train: Array
    leading_test: Array
    leading_train: Array
    ridge: Any
    population: int

    def plot(self, ax: Any = None, **kw: Any) -> Any:
        """Test error against the number of training points, logarithmic."""
        from ntk.learning_curves import plot_learning_curve

        return plot_learning_curve(self, ax=ax, **kw)


def site_curve(K: ArrayLike, y: ArrayLike, n: ArrayLike, ridge: Any = 0.0) -> SiteCurve:
    r"""Errors of kernel regression on random subsets, from the Gram matrix of the whole data set.

    Leading order, with :math:`p = n/N` and :math:`v_i` the posterior variance at point i when it is
    not a training point:

    .. math:: \tau_i = \frac{p}{\delta + (1-p) v_i}, \qquad
       \frac1{\bar C_{ii}} = \frac1{v_i} + \tau_i, \qquad
       \bar C = (K^{-1} + \mathrm{diag}\,\tau)^{-1}

    The next order has two parts. Fluctuations of which points are drawn add rings to F,

    .. math:: F = F_0 + \tfrac12 \log\det(1 - a B), \qquad B_{i \ne j} = \bar C_{ij}^2, \quad
       B_{ii} = 0, \qquad a_i = \frac{1-p}{p}\,\frac{\tau_i^2}{(1 - \tau_i \bar C_{ii})^2}

    and coins give :math:`n \pm s` points, :math:`s^2 = n(1-p)`, where n are asked for, which is
    taken back: for the sum g of squared errors over the unseen (or seen) points,
    :math:`g_n = 2 g(n) - \frac12 [g(n + s) + g(n - s)]`.

    What is left is of relative order 1/n^2. It is largest where the corrections themselves are.

    Args:
        K: ``(N, N)`` Gram matrix.
        y: ``(N,)`` or ``(N, targets)``, with its noise.
        n: numbers of training points, integers in 1 .. N - 1.
        ridge: delta >= 0 on the diagonal of the Gram matrix of the training points. Default 0.

    Returns:
        :class:`SiteCurve`. Cost: about 60 N^3 multiplications per entry.

    Raises:
        ShapeError, DomainError: arguments that do not match or are out of range.
        ConvergenceError: no effective medium; without a ridge, K has less than n independent rows.

    Source: coherent potential approximation: Soven, Phys. Rev. 156, 809 (1967); derived here for
        kernel regression, with the ring correction.

    Check: tests/gp/test_site_curves.py.
    """
    K = np.asarray(as_square(K, "K"), np.float64)
    targets = np.asarray(as_targets(y, K.shape[0]), np.float64)
    sizes = np.atleast_1d(np.asarray(n))
    points = K.shape[0]
    if sizes.ndim != 1 or sizes.size == 0 or sizes.dtype.kind not in "iu" or sizes.min() < 1:
        raise DomainError(f"n must be integers >= 1, got {n!r}.")
    if sizes.max() >= points:
        raise DomainError(
            f"n must be below the number of points {points}, got {sizes.max()}: no test points."
        )
    delta = float(number(ridge, "ridge", at_least=0.0))
    # errors[size] = [[test, train], [leading test, leading train]]
    errors = np.array([_errors(K, targets, float(size), delta) for size in sizes])
    (test, train), (leading_test, leading_train) = np.moveaxis(errors, 0, -1)
    return SiteCurve(sizes, test, train, leading_test, leading_train, delta, points)


def _errors(K: np.ndarray, y: np.ndarray, n: float, delta: float) -> np.ndarray:
    """``(2, 2)``: test and training error, to order 1/n and to leading order."""
    points = len(K)
    at = _medium(K, n / points, delta)

    def leading(m: float) -> np.ndarray:
        return (at if m == n else _medium(K, m / points, delta)).leading(y)

    sums = [_at_fixed_number(leading, n, points) + at.ring(y), leading(n)]
    return np.stack(sums) / np.array([points - n, n])


def _at_fixed_number(mean: Callable[[float], Any], n: float, points: int) -> Any:
    """Value at n points from means over coins with n points on average, to order 1/n.

    Their number has the variance s^2 = n(1 - n/N), so the mean is larger by s^2/2 times the second
    derivative; its central difference at steps s is as accurate as this order.
    """
    spread = (n * (1 - n / points)) ** 0.5
    return 2 * mean(n) - 0.5 * (mean(n - spread) + mean(n + spread))


@dataclasses.dataclass(frozen=True)
class _Medium:
    """Effective medium for coins of bias p.

    A change X of K^-1, with one of delta, acts through
    ``(1 - a B) dtau = a diag(C X C) - tau^2/p ddelta`` and ``dC = -C (X + diag dtau) C``. The
    derivative of ``y K^-1 C K^-1 y`` by X = 1 is minus the sum of all squared residuals; by delta
    it is the sum over the seen points, over delta^2.

    Attributes:
        tau: ``(N,)``.
        inverse: ``(N, N)``, (K + diag 1/tau)^-1.
        C: ``(N, N)``, mean posterior covariance.
        p, delta: as given.
    """

    tau: np.ndarray
    inverse: np.ndarray
    C: np.ndarray
    p: float
    delta: float

    @functools.cached_property
    def responses(self) -> np.ndarray:
        """``(2, N)``: change of tau with X = 1, and with delta."""
        a, B = _scattering(self.C, self.tau, self.p)
        seen = a * (B.sum(axis=1) + np.diag(self.C) ** 2)
        sides = np.stack([seen, -(self.tau**2) / self.p], axis=1)
        return _solve(np.eye(len(a)) - a[:, None] * B, sides).T

    def residual(self, y: np.ndarray) -> np.ndarray:
        """Mean residual at all points, ``C K^-1 y``."""
        return self.inverse @ y / self.tau[:, None]

    def leading(self, y: np.ndarray) -> np.ndarray:
        """Mean sums of squared residuals over the unseen and over the seen points."""
        power = np.sum(self.residual(y) ** 2, axis=1)
        by_shift, by_delta = self.responses
        return self._split(power @ (1 + by_shift), -power @ by_delta)

    def ring(self, y: np.ndarray) -> np.ndarray:
        """Correction of the sums by the rings of pairs.

        The derivative of an algebraic function along a direction is the imaginary part of its value
        at an imaginary step, which may be as small as one likes: there is no difference to cancel.
        """
        g, h = self.residual(y), 1e-30
        slopes = []
        for change, dtau in zip((1.0, 0.0), self.responses, strict=True):
            moved = change + dtau
            dC = -(self.C * moved) @ self.C
            dg = -self.C @ (moved[:, None] * g)
            at = (self.C + 1j * h * dC, self.tau + 1j * h * dtau, g + 1j * h * dg)
            slopes.append(_ring_slope(*at, self.p).imag / h)
        return self._split(-slopes[0], slopes[1])

    def _split(self, every: Any, by_delta: Any) -> np.ndarray:
        seen = self.delta**2 * by_delta
        return np.array([every - seen, seen])


def _scattering(C: Any, tau: Any, p: float) -> tuple[Any, Any]:
    """Strength a of the scattering at each point, and squared propagators B between points."""
    B = C * C
    np.fill_diagonal(B, 0.0)
    return (1 - p) / p * (tau / (1 - tau * np.diag(C))) ** 2, B


def _ring_slope(C: Any, tau: Any, g: Any, p: float) -> Any:
    """Derivative of log det(1 - a B)/2 when K^-1 gains k k^T, where g = C k."""
    a, B = _scattering(C, tau, p)
    rings = np.linalg.inv(np.eye(len(a)) - a[:, None] * B)
    dtau = rings @ (a * np.sum(g**2, axis=1))
    dC = -g @ g.T - (C * dtau) @ C
    c, dc = np.diag(C), np.diag(dC)
    da = 2 * a * (dtau / tau + (dtau * c + tau * dc) / (1 - tau * c))
    dB = 2 * C * dC
    np.fill_diagonal(dB, 0.0)
    return -0.5 * np.sum(rings.T * (da[:, None] * B + a[:, None] * dB))


def _medium(K: np.ndarray, p: float, delta: float) -> _Medium:
    """The effective medium, by Newton's method for tau.

    The map tau -> p/(delta + (1 - p) v(tau)) increases and starts below its fixed point, so that a
    plain iteration is the fallback wherever a Newton step leaves the positive numbers.
    """
    with np.errstate(all="ignore"):
        tau = p / (delta + (1 - p) * np.diag(K))
        for _ in range(_STEPS):
            s = 1 / tau
            inverse = _inverse(K, s)
            C = np.diag(s) - s[:, None] * inverse * s
            v = 1 / np.diag(inverse) - s
            mapped = p / (delta + (1 - p) * v)
            error = np.max(np.abs(mapped / tau - 1))
            # with few points v is a small difference of large numbers
            if error <= max(_TOL, _ROUNDING * np.max(s / v)):
                return _Medium(tau, inverse, C, p, delta)
            if not np.isfinite(error):
                break
            # v/c = 1/(s A_ii): the derivative of the map is a B with the mapped tau in a
            a = (1 - p) / p * (mapped / (s * np.diag(inverse))) ** 2
            B = C * C
            np.fill_diagonal(B, 0.0)
            newton = tau + _solve(np.eye(len(a)) - a[:, None] * B, mapped - tau)
            tau = newton if np.all(newton > 0) else mapped
    raise ConvergenceError(
        f"there is no effective medium for n={p * len(K):.4g} of {len(K)} points: give a ridge, "
        "drop duplicate points, or check that K is positive semi-definite."
    )


def _inverse(K: np.ndarray, s: np.ndarray) -> np.ndarray:
    """``(K + diag s)^-1``; NaN if that is not positive definite."""
    factor, info = scipy.linalg.lapack.dpotrf(K + np.diag(s), lower=1)
    if info == 0:
        inverse, info = scipy.linalg.lapack.dpotri(factor, lower=1)
    if info != 0:
        return np.full_like(K, np.nan)
    lower = np.tril(inverse)
    return lower + np.tril(inverse, -1).T


def _solve(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.solve(matrix, right)
    except np.linalg.LinAlgError:
        return np.full_like(right, np.nan)
