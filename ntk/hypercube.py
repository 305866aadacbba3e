r"""Spectra of dot-product kernels on the hypercube, and of kernels given by their power series."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from deeplimits.errors import DomainError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.typing import Array, ArrayLike
from deeplimits.validate import choice, finite, integer, number
from ntk.kernel_profile import ARGUMENTS, decide_argument, kernel_profile
from ntk.spectrum import Spectrum
from ntk.zonal import DOMAINS, as_array, degeneracies, projections, series_eigenvalues

_EPS = float(np.finfo(np.float64).eps)


@float64_scope
def hypercube_spectrum(
    kernel: Any,
    d: int,
    *,
    k_max: int | None = None,
    get: str = "ntk",
    argument: str = "auto",
    digits: int | None = None,
) -> Spectrum:
    r"""Eigenvalues of a dot-product kernel on the hypercube {-1, 1}^d, by degree.

    .. math:: \lambda_k = 2^{-d} \sum_{h=0}^d \binom{d}{h}\, \kappa(1 - 2h/d)\, P_k(h), \qquad
              (d-k) P_{k+1} = (d - 2h) P_k - k P_{k-1}

    Eigenfunctions are the products of k coordinates. The polynomials (Krawtchouk, with
    :math:`P_k(0) = 1`) stay below 1 and the recursion runs to d/2 only, using
    :math:`P_{d-k}(h) = (-1)^h P_k(h)`. What remains is the cancellation in the sum, by the square
    root of the degeneracy: ``abs_err`` and ``resolved`` say which degrees float64 can tell from
    rounding, ``digits`` computes in more, and :func:`series_spectrum` does not cancel at all.

    Args:
        kernel, get, argument: as for :func:`sphere_spectrum`; inputs have length sqrt(d).
        d: dimension, 1 .. 1000.
        k_max: largest degree; default d.
        digits: decimal digits of the arithmetic; then ``kernel`` is a function that takes mpmath
            numbers. Default None, float64.

    Returns:
        :class:`Spectrum` (``tail`` is None).

    Raises:
        DomainError: an argument out of range, ``digits`` with a network.

    Source: Yang & Salman, arXiv:1907.10599, section 3; recursion: DLMF 18.22.
    Check: tests/ntk/test_spectrum.py::test_hypercube_enumeration, ::test_hypercube_high_dimension.
    """
    d = integer(d, "d", at_least=1)
    number(d, "d", at_most=1000)
    k_max = d if k_max is None else integer(k_max, "k_max", at_least=0)
    number(k_max, "k_max", at_most=d)
    if digits is None:
        profile = kernel_profile(kernel, d, get, argument, None)
        values = profile(2 * np.arcsin(np.sqrt(np.arange(d + 1) / d)))
        weights = np.array([math.comb(d, h) / 2**d for h in range(d + 1)])
        t, trace = 1 - 2 * np.arange(d + 1) / d, float(values[0])
        sums, sizes = _folded(d, k_max, t, weights * values)
        # rounding of the recursion adds up over its d/2 steps like a random walk
        errors = (4 + 2 * math.sqrt(d)) * _EPS * sizes
    else:
        sums, errors, trace = _hypercube_digits(kernel, d, k_max, argument, digits)
    return Spectrum(sums, degeneracies("hypercube", d, k_max), errors, trace, None, d, "hypercube")


def _folded(d: int, k_max: int, t: Any, weighted: Any) -> tuple[Array, Array]:
    """Projections on all degrees from recursions that stop at d/2."""
    half = min(k_max, d // 2)
    sums, sizes = projections("hypercube", d, half, t, weighted)
    if k_max > half:
        signs = (-1) ** np.arange(d + 1)
        high = [a[::-1] for a in projections("hypercube", d, d - half - 1, t, signs * weighted)]
        sums, sizes = np.append(sums, high[0]), np.append(sizes, high[1])
    return sums[: k_max + 1], sizes[: k_max + 1]


def _hypercube_digits(
    kernel: Any, d: int, k_max: int, argument: str, digits: int
) -> tuple[Array, Array, float]:
    import mpmath

    choice(argument, "argument", ARGUMENTS)
    digits = integer(digits, "digits", at_least=16)
    if not callable(kernel) or callable(getattr(kernel, "kernel_fn", None)) or argument == "points":
        raise DomainError("digits needs a function of mpmath numbers; networks run in float64.")
    with mpmath.workdps(digits):
        if argument == "auto":
            argument = decide_argument(
                lambda u: np.array([float(kernel(mpmath.mpf(float(x)))) for x in u])
            )
        eps = [mpmath.mpf(2 * h) / d for h in range(d + 1)]
        values = [mpmath.mpf(kernel(e if argument == "eps" else 1 - e)) for e in eps]
        weighted = [math.comb(d, h) * v / mpmath.mpf(2) ** d for h, v in enumerate(values)]
        t = np.array([1 - e for e in eps], object)
        sums, sizes = _folded(d, k_max, t, np.array(weighted, object))
    errors = as_array(sizes) * 10.0 ** (1 - digits) + _EPS * np.abs(as_array(sums))
    return as_array(sums), errors, float(values[0])


def series_spectrum(
    coefficients: ArrayLike, d: int, k_max: int, *, domain: str = "sphere"
) -> Spectrum:
    r"""Eigenvalues of the kernel :math:`\kappa(t) = \sum_m b_m t^m`, without any cancellation.

    See :func:`ntk.zonal.series_eigenvalues`; the cost is ``len(coefficients)**2`` at most.

    Args:
        coefficients: ``(M,)`` b_0, b_1, ... >= 0 (a positive definite kernel).
        d: ambient dimension, >= 2 (hypercube: >= 1).
        k_max: largest degree (hypercube: at most d).
        domain: ``"sphere"`` or ``"hypercube"``.

    Returns:
        :class:`Spectrum`, each eigenvalue to a relative accuracy of 1e-13.

    Raises:
        DomainError: a negative coefficient, or an argument out of range.
        ShapeError: coefficients not 1-D, or empty.

    Source: derived here. Check: tests/ntk/test_spectrum.py::test_series_route.
    """
    choice(domain, "domain", DOMAINS)
    d = integer(d, "d", at_least=2 if domain == "sphere" else 1)
    k_max = integer(k_max, "k_max", at_least=0)
    if domain == "hypercube":
        number(k_max, "k_max", at_most=d)
    b = np.asarray(coefficients, np.float64)
    if b.ndim != 1 or b.size == 0:
        raise ShapeError(f"coefficients must have shape (M,), got {b.shape}.")
    finite(b, "coefficients")
    if b.min() < 0:
        raise DomainError(
            f"coefficients must be >= 0 (a positive definite kernel), got a minimum of {b.min():g}."
        )
    values = series_eigenvalues(b, d, k_max, domain)
    return Spectrum(
        values, degeneracies(domain, d, k_max), 1e-13 * values, float(b.sum()), None, d, domain
    )
