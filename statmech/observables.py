r"""Observables of replica simulations with standard errors over disorder samples.

Series have time last. With several disorder samples (axis 0 here called units) errors come from the
spread of the samples; functions of averages, such as the Binder parameter, from the jackknife.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from deeplimits.errors import DomainError, ShapeError
from deeplimits.estimates import Estimate, as_samples
from deeplimits.typing import ArrayLike
from deeplimits.validate import as_real, finite, integer, number


def mattis_overlaps(spins: ArrayLike, patterns: ArrayLike) -> np.ndarray:
    r"""Mattis magnetisations, :math:`m_\mu = \frac1N \sum_i \xi_i^\mu \sigma_i`.

    Args:
        spins: ``(..., N)``.
        patterns: ``(K, N)``.

    Returns:
        ``(..., K)`` float64.

    Raises:
        ShapeError: other numbers of spins.
        DomainError: NaN or infinite.

    Source: textbook. Check: ``tests/statmech/test_observables.py::test_overlaps``
    """
    s, x = _array(spins, "spins"), _array(patterns, "patterns")
    if x.ndim != 2 or s.ndim == 0 or s.shape[-1] != x.shape[-1]:
        raise ShapeError(f"patterns must be (K, N) for spins (..., N), got {x.shape}, {s.shape}.")
    return np.asarray(s @ x.T / s.shape[-1])


def replica_overlap(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    r"""Overlap of configurations, :math:`q = \frac1N \sum_i \sigma_i^a \sigma_i^b`.

    Args:
        a, b: ``(..., N)`` that broadcast, with the same N.

    Returns:
        ``(...)`` float64.

    Raises:
        ShapeError: other numbers of spins.
        DomainError: NaN or infinite.

    Source: textbook. Check: ``tests/statmech/test_observables.py::test_overlaps``
    """
    s, t = _array(a, "a"), _array(b, "b")
    if s.ndim == 0 or t.ndim == 0 or s.shape[-1] != t.shape[-1]:
        raise ShapeError(f"a and b must have the same number of spins, got {s.shape}, {t.shape}.")
    return np.asarray(np.mean(s * t, axis=-1))


def link_overlap(q: ArrayLike, N: int, *, p: int = 2) -> np.ndarray:
    r"""Overlap of the terms of a fully connected model, from the replica overlap.

    .. math:: q_l = \binom{N}{p}^{-1} \sum_{i_1 < \dots < i_p}
              \prod_k \sigma_{i_k}^a \sigma_{i_k}^b,

    for pairs :math:`(N q^2 - 1) / (N - 1)`; an elementary symmetric polynomial of signs of sum
    :math:`S = N q`, by the recursion :math:`k\,e_k = S e_{k-1} - (N - k + 2) e_{k-2}`.

    Args:
        q: overlaps of configurations (not averages), any shape.
        N: number of spins, >= p.
        p: spins per term, >= 2, default 2.

    Returns:
        Shape of q, float64.

    Raises:
        DomainError: N < p, p < 2, NaN or infinite.

    Source: derived here. Check: ``tests/statmech/test_observables.py::test_overlaps``
    """
    integer(p, "p", at_least=2)
    integer(N, "N", at_least=p)
    S = N * _array(q, "q")
    last, now = np.ones_like(S), S
    for k in range(2, p + 1):
        last, now = now, (S * now - (N - k + 2) * last) / k
    return np.asarray(now / math.comb(N, p))


def edwards_anderson(magnetisation: ArrayLike) -> np.ndarray:
    r"""Edwards-Anderson parameter, :math:`q_{EA} = \frac1N \sum_i \langle\sigma_i\rangle^2`.

    Args:
        magnetisation: time averages of the spins ``(..., N)``. Of finite averages the square is
            high by their variance; the mean of a replica overlap has no such bias.

    Returns:
        ``(...)`` float64.

    Raises:
        ShapeError: a scalar.
        DomainError: NaN or infinite.

    Source: S. F. Edwards and P. W. Anderson, J. Phys. F 5, 965 (1975).
    Check: ``tests/statmech/test_observables.py::test_overlaps``
    """
    m = _array(magnetisation, "magnetisation")
    if m.ndim == 0:
        raise ShapeError("magnetisation must have shape (..., N), got a scalar.")
    return np.asarray(np.mean(m**2, axis=-1))


def binder(q2: ArrayLike, q4: ArrayLike) -> Estimate:
    r"""Binder parameter :math:`g = \frac12 (3 - [\langle q^4 \rangle] / [\langle q^2 \rangle]^2)`.

    Args:
        q2, q4: thermal averages per unit ``(units, ...)``, units (disorder samples) first.

    Returns:
        :class:`deeplimits.estimates.Estimate`; error and bias correction of order 1/units by the
        jackknife. 0 for Gaussian q, 1 for a single value.

    Raises:
        ShapeError: fewer than 2 units, shapes that differ.
        DomainError: NaN or infinite.

    Source: K. Binder, Z. Phys. B 43, 119 (1981); R. N. Bhatt and A. P. Young, Phys. Rev. Lett. 54,
        924 (1985). Check: ``tests/statmech/test_observables.py::test_binder``
    """
    a, b = as_samples(q2, "q2"), as_samples(q4, "q4")
    if a.shape != b.shape:
        raise ShapeError(f"q2 and q4 must have the same shape, got {a.shape} and {b.shape}.")
    n = a.shape[0]

    def g(second: Any, fourth: Any) -> Any:
        return (3 - fourth / second**2) / 2

    whole = g(a.mean(0), b.mean(0))
    left = g((a.sum(0) - a) / (n - 1), (b.sum(0) - b) / (n - 1))
    error = np.sqrt((n - 1) / n * np.sum((left - left.mean(0)) ** 2, axis=0))
    return Estimate(n * whole - (n - 1) * left.mean(0), error, n - 1)


def overlap_histogram(
    q: ArrayLike, *, bins: int = 41, symmetric: bool = False
) -> tuple[np.ndarray, Estimate]:
    r"""The density P(q) on [-1, 1] with its error over disorder samples.

    Args:
        q: overlaps ``(units, ..., n)``: all axes but the first are pooled within a unit.
        bins: equal bins, >= 1, default 41.
        symmetric: average P(q) and P(-q), as is exact without a field.

    Returns:
        Centres of the bins, and an :class:`deeplimits.estimates.Estimate` of the density; the
        error is NaN for a single unit.

    Raises:
        DomainError: q outside [-1, 1], NaN; bins < 1.
        ShapeError: a scalar.

    Source: textbook. Check: ``tests/statmech/test_observables.py::test_histogram``
    """
    integer(bins, "bins", at_least=1)
    x = as_samples(q, "q", at_least=1)
    if np.any(np.abs(x) > 1 + 1e-6):
        raise DomainError(f"q must lie in [-1, 1], got {np.abs(x).max():g}.")
    x = x.reshape(x.shape[0], -1)
    slot = np.clip(np.floor((x + 1) / 2 * bins), 0, bins - 1).astype(np.int64)
    flat = (slot + bins * np.arange(len(x))[:, None]).ravel()
    counts = np.bincount(flat, minlength=bins * len(x)).reshape(len(x), bins)
    density = counts * (bins / 2 / x.shape[1])
    if symmetric:
        density = (density + density[:, ::-1]) / 2
    centres = -1 + (2 * np.arange(bins) + 1) / bins
    n = len(x)
    error = density.std(0, ddof=1) / np.sqrt(n) if n > 1 else np.full(bins, np.nan)
    return centres, Estimate(density.mean(0), error, n - 1)


def specific_heat(energy: ArrayLike, T: ArrayLike, N: int) -> np.ndarray:
    r"""Specific heat per spin by fluctuations, :math:`C = N \mathrm{Var}(E/N) / T^2`.

    Args:
        energy: energies per spin ``(..., n)``, time last, n >= 2.
        T: > 0, a number or an array that broadcasts to ``(...)``.
        N: number of spins, >= 1.

    Returns:
        ``(...)`` float64; biased low by the factor 1 - tau/n.

    Raises:
        DomainError: T <= 0, N < 1, NaN or infinite.
        ShapeError: fewer than 2 energies.

    Source: textbook. Check: ``tests/statmech/test_observables.py::test_fluctuations``
    """
    return N * _fluctuation(energy, "energy", N) / _positive(T) ** 2


def susceptibility(overlap: ArrayLike, T: ArrayLike, N: int) -> np.ndarray:
    r"""Susceptibility by fluctuations, :math:`\chi = N \mathrm{Var}(m) / T`.

    Args:
        overlap: magnetisation or Mattis overlap ``(..., n)``, time last, n >= 2.
        T, N: as for :func:`specific_heat`.

    Returns:
        ``(...)`` float64.

    Raises:
        DomainError: T <= 0, N < 1, NaN or infinite.
        ShapeError: fewer than 2 values.

    Source: textbook. Check: ``tests/statmech/test_observables.py::test_fluctuations``
    """
    return N * _fluctuation(overlap, "overlap", N) / _positive(T)


def _fluctuation(x: ArrayLike, name: str, N: int) -> np.ndarray:
    integer(N, "N", at_least=1)
    series = _array(x, name)
    if series.ndim == 0 or series.shape[-1] < 2:
        raise ShapeError(f"{name} needs at least 2 values in time, got shape {series.shape}.")
    return np.asarray(np.var(series, axis=-1, ddof=1))


def _positive(T: ArrayLike) -> np.ndarray:
    values = _array(T, "T")
    if np.any(values <= 0):
        number(float(values.min()), "T", above=0)
    return values


def _array(x: ArrayLike, name: str) -> np.ndarray:
    values = np.asarray(as_real(x, name), np.float64)
    finite(values, name)
    return values
