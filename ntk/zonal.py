r"""Zonal functions on spheres and hypercubes: recursions, degeneracies, closed forms and tails.

Both domains have polynomials :math:`P_k(t)` of the overlap t with :math:`P_k(1) = 1` and

.. math:: t P_k = u_k P_{k+1} + (1 - u_k) P_{k-1}, \qquad
   u_k = \frac{k + d - 2}{2k + d - 2}\ \text{(sphere)}, \quad \frac{d - k}{d}\ \text{(hypercube)}.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.special

from deeplimits.errors import DomainError
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import Array, ArrayLike
from deeplimits.validate import integer, number

DOMAINS = ("sphere", "hypercube")
#: Odd powers of sqrt(eps) that are looked for, and how large their coefficients must be (relative
#: to the kernel) to be told from rounding, which interpolation amplifies by 4e2, 5e6 and 2e9.
_POWERS = ((1, 1e-9), (3, 1e-6), (5, 1e-3))


def up_rate(domain: str, d: int, k: Any) -> Any:
    """The coefficient ``u_k`` of the recursion in the module's docstring."""
    k = np.asarray(k, np.float64)
    if domain == "hypercube":
        return (d - k) / d
    # d = 2, k = 0: the limit of the Chebyshev polynomials, t P_0 = P_1
    return np.where(k == 0, 1.0, (k + d - 2) / np.maximum(2 * k + d - 2, 1))


def degeneracies(domain: str, d: int, k_max: int) -> np.ndarray:
    r"""Number of independent eigenfunctions of each degree.

    Sphere: :math:`\frac{2k + d - 2}{k}\binom{k + d - 3}{k - 1}`; hypercube: :math:`\binom{d}{k}`.

    Raises:
        DomainError: a number beyond the range of float64.
    """
    if domain == "hypercube":
        counts = [math.comb(d, k) for k in range(k_max + 1)]
    else:
        counts = [1] + [
            (2 * k + d - 2) * math.comb(k + d - 3, k - 1) // k for k in range(1, k_max + 1)
        ]
    if max(counts) > 10**300:
        raise DomainError(
            f"the degeneracy of a degree up to {k_max} in dimension {d} exceeds 1e300. Use fewer "
            "degrees (k_max) or a smaller dimension."
        )
    return np.array([float(c) for c in counts])


def projections(domain: str, d: int, k_max: int, t: Any, weighted: Any) -> tuple[Any, Any]:
    """``sum_j weighted_j P_k(t_j)`` and the same sum of moduli, for ``k = 0 .. k_max``.

    Works with float64 and with object arrays (mpmath numbers) alike.
    """
    sums, sizes = [], []
    before, now = 0 * t, 0 * t + 1
    for k in range(k_max + 1):
        product = weighted * now
        sums.append(product.sum())
        sizes.append(abs(product).sum())
        if domain == "hypercube":
            # P_d is the last one; dividing by d - k would be 0/0
            after = (d * t * now - k * before) / max(d - k, 1)
        elif k == 0:
            after = t * now
        else:
            after = ((2 * k + d - 2) * t * now - k * before) / (k + d - 2)
        before, now = now, after
    return np.array(sums), np.array(sizes)


def series_eigenvalues(coefficients: ArrayLike, d: int, k_max: int, domain: str) -> np.ndarray:
    r"""Eigenvalues of the kernel :math:`\sum_m b_m t^m` by a recursion of positive terms.

    .. math:: \lambda_k = \sum_m b_m v_m(k), \qquad
       v_{m+1}(k) = u_k v_m(k+1) + (1 - u_k) v_m(k-1), \quad v_0(k) = \delta_{k0}

    :math:`v_m(k) = \int t^m P_k`; on the hypercube it is the probability that a random walk is,
    after m steps, at a given vertex at distance k. Why not quadrature: the integral of
    :math:`\kappa P_k` cancels by the square root of the degeneracy, 1e14 for degree 50 on the
    hypercube of dimension 100; here every eigenvalue has full relative accuracy.

    Args:
        coefficients: ``(M,)``, b_0, b_1, ...; of one sign for full relative accuracy.
        d: ambient dimension (sphere in R^d, d >= 2) or dimension of the hypercube (d >= 1).
        k_max: largest degree (at most d on the hypercube).
        domain: ``"sphere"`` or ``"hypercube"``.

    Returns:
        NumPy float64 ``(k_max + 1,)``.

    Source: derived here from the recursion of the polynomials; positivity: Schoenberg (1942).
    Check: tests/ntk/test_spectrum.py::test_series_route.
    """
    b = np.asarray(coefficients, np.float64)
    top = max(k_max, min(len(b), d if domain == "hypercube" else len(b))) + 1
    u = up_rate(domain, d, np.arange(top))
    v = np.zeros(top)
    v[0], total = 1.0, np.zeros(top)
    for weight in b:
        total += weight * v
        # beyond the last degree v vanishes: t^m has degree m, and the hypercube ends at d
        v = u * np.append(v[1:], 0.0) + (1 - u) * np.append(0.0, v[:-1])
    return total[: k_max + 1]


def power_kernel_eigenvalues(nu: float, d: int, k_max: int) -> np.ndarray:
    r"""Eigenvalues of the kernel :math:`(1 - t)^\nu` on the sphere, in closed form.

    .. math:: \lambda_k = \frac{\Gamma(d/2)\, 2^{\nu+d-2}\, \Gamma(\nu + \frac{d-1}{2})}{\sqrt\pi}
              \frac{(-\nu)_k}{\Gamma(k + \nu + d - 1)} \sim k^{-d-2\nu+1}

    Computed from :math:`\lambda_0` and the ratio
    :math:`\lambda_{k+1}/\lambda_k = (k-\nu)/(k+\nu+d-1)`, which cannot overflow and is exact where
    the Pochhammer symbol vanishes.

    Args:
        nu: exponent, > -(d - 1)/2.
        d: ambient dimension, >= 2.
        k_max: largest degree, >= 0.

    Returns:
        NumPy float64 ``(k_max + 1,)``; for non-integer ``nu`` all but finitely many have one sign.

    Raises:
        DomainError: an argument out of range.

    Source: Funk-Hecke and Rodrigues formulas (DLMF 18.5.5, 18.17); derived here.
    Check: tests/ntk/test_spectrum.py::test_power_kernel_closed_form.
    """
    d = integer(d, "d", at_least=2)
    k_max = integer(k_max, "k_max", at_least=0)
    nu = float(number(nu, "nu", above=-(d - 1) / 2))
    log_start = (
        math.lgamma(d / 2)
        + (nu + d - 2) * math.log(2)
        + math.lgamma(nu + (d - 1) / 2)
        - math.log(math.pi) / 2
    )
    # 1/Gamma(nu + d - 1) by rgamma: it vanishes at the poles, which the logarithm cannot say
    start = math.exp(log_start) * float(scipy.special.rgamma(nu + d - 1))
    k = np.arange(k_max)
    return start * np.append(1.0, np.cumprod((k - nu) / (k + nu + d - 1)))


@functools.partial(
    register_dataclass,
    data_fields=["nu_plus", "c_plus", "nu_minus", "c_minus"],
    meta_fields=["d"],
)
@dataclasses.dataclass(frozen=True)
class Tail:
    r"""Leading non-analytic terms of a kernel at t = 1 and t = -1, which rule its high degrees.

    .. math:: \kappa \ni c_+ (1-t)^{\nu_+},\ c_- (1+t)^{\nu_-}, \qquad
              \lambda_k \simeq c_+ \Lambda_k(\nu_+) + (-1)^k c_- \Lambda_k(\nu_-)

    with :math:`\Lambda_k(\nu)` from :func:`power_kernel_eigenvalues`. An end without such a term
    has ``c = 0`` and ``nu = inf``.
    """

    nu_plus: float
    c_plus: float
    nu_minus: float
    c_minus: float
    d: int

    @property
    def exponent(self) -> float:
        """Power of the degree with which the eigenvalues decay: ``-d - 2 nu + 1``."""
        return 1 - self.d - 2 * min(self.nu_plus, self.nu_minus)

    def predict(self, k: ArrayLike) -> np.ndarray:
        """Asymptotic eigenvalues at the degrees ``k`` (integers >= 0)."""
        k = np.asarray(k)
        total = np.zeros(k.shape)
        ends = ((self.nu_plus, self.c_plus, 1.0), (self.nu_minus, self.c_minus, -1.0))
        for nu, c, sign in ends:
            if math.isfinite(nu):
                total += c * sign**k * power_kernel_eigenvalues(nu, self.d, int(k.max()))[k]
        return total


def find_tail(profile: Callable[[Any], Any], d: int) -> Tail | None:
    """Half-integer powers at both ends of ``profile(theta)``, from its values; None if analytic.

    A kernel of piecewise polynomial activations is analytic in s = sqrt(1 -+ t); the odd powers of
    s are the non-analytic terms. They come from Chebyshev interpolation on the longest interval
    [0, 2^-j] on which it converges (None where it never does: other exponents).
    """
    forward = _first_odd_power(lambda s: profile(2 * np.arcsin(s / math.sqrt(2))))
    backward = _first_odd_power(lambda s: profile(np.pi - 2 * np.arcsin(s / math.sqrt(2))))
    if forward is None or backward is None:
        return None
    tail = Tail(*forward, *backward, d)
    return None if math.isinf(min(tail.nu_plus, tail.nu_minus)) else tail


def _first_odd_power(f: Callable[[Any], Any], degree: int = 14) -> tuple[float, float] | None:
    chebyshev = np.polynomial.chebyshev.Chebyshev
    for j in range(1, 10):
        fit: Any = chebyshev.interpolate(f, degree, domain=[0, 2.0**-j])
        size = float(np.abs(fit.coef).max())
        if size == 0:
            return math.inf, 0.0
        if np.abs(fit.coef[-2:]).max() < 1e-13 * size:
            for power, threshold in _POWERS:
                c = float(fit.deriv(power)(0.0)) / math.factorial(power)
                # one part in `threshold` of the kernel, at the far end of the interval
                if abs(c) * 2.0 ** (-j * power) > threshold * size:
                    return power / 2, c
            return math.inf, 0.0
    return None


def as_array(x: Any) -> Array:
    """Values of a kernel profile as float64."""
    return np.asarray(x, np.float64)
