"""Patterns to store: random, diluted, biased, correlated, noisy examples, and binarised images."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits import datasets
from deeplimits.errors import DomainError, ShapeError
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import ArrayLike, Key
from deeplimits.validate import as_key, as_real, choice, finite, integer, number


def random_patterns(K: int, N: int, *, key: Key, samples: int | None = None) -> np.ndarray:
    r"""Independent fair signs, :math:`P(\xi_i^\mu = \pm 1) = 1/2`.

    Args:
        K: number of patterns, >= 1.
        N: number of spins, >= 1.
        key: random key or integer seed.
        samples: number of independent sets, >= 1; default None: one without an axis.

    Returns:
        ``(K, N)`` or ``(samples, K, N)``, int8.

    Raises:
        DomainError: arguments out of range.

    Source: textbook. Check: ``tests/statmech/test_patterns.py::test_moments``
    """
    return np.asarray(jax.random.rademacher(as_key(key), _shape(K, N, samples), jnp.int8))


def diluted_patterns(
    K: int, N: int, d: float, *, key: Key, samples: int | None = None
) -> np.ndarray:
    r"""Patterns with blank entries, :math:`P(0) = d`, :math:`P(\pm 1) = (1 - d)/2`.

    Args:
        K, N, key, samples: as for :func:`random_patterns`.
        d: dilution in [0, 1).

    Returns:
        ``(K, N)`` or ``(samples, K, N)``, int8.

    Raises:
        DomainError: arguments out of range.

    Source: E. Agliari et al., Phys. Rev. Lett. 109, 268101 (2012).
    Check: ``tests/statmech/test_patterns.py::test_moments``
    """
    number(d, "d", at_least=0, below=1)
    for_signs, for_blanks = jax.random.split(as_key(key))
    signs = random_patterns(K, N, key=for_signs, samples=samples)
    return signs * _chosen(for_blanks, 1 - d, signs.shape).astype(np.int8)


def biased_patterns(
    K: int, N: int, a: float, *, key: Key, samples: int | None = None
) -> np.ndarray:
    r"""Independent signs of mean a, :math:`P(\xi = \pm 1) = (1 \pm a)/2`.

    Args:
        K, N, key, samples: as for :func:`random_patterns`.
        a: activity bias in (-1, 1). Two patterns are then correlated by :math:`a^2`.

    Returns:
        ``(K, N)`` or ``(samples, K, N)``, int8.

    Raises:
        DomainError: arguments out of range.

    Source: D. J. Amit, H. Gutfreund and H. Sompolinsky, Phys. Rev. A 35, 2293 (1987).
    Check: ``tests/statmech/test_patterns.py::test_moments``
    """
    number(a, "a", above=-1, below=1)
    return _signs(_chosen(as_key(key), (1 + a) / 2, _shape(K, N, samples)))


def correlated_patterns(
    K: int, N: int, C: float, *, key: Key, samples: int | None = None
) -> np.ndarray:
    r"""Descendants of one random ancestor, :math:`E[\xi_i^\mu \xi_i^\nu] = C` for all pairs.

    Each entry agrees with the ancestor with probability :math:`(1 + \sqrt C)/2`, independently.

    Args:
        K, N, key, samples: as for :func:`random_patterns`.
        C: correlation in [0, 1).

    Returns:
        ``(K, N)`` or ``(samples, K, N)``, int8, each entry a fair sign.

    Raises:
        DomainError: arguments out of range.

    Source: N. Parga and M. A. Virasoro, J. Physique 47, 1857 (1986), one level of their tree.
    Check: ``tests/statmech/test_patterns.py::test_moments``
    """
    number(C, "C", at_least=0, below=1)
    for_ancestor, for_flips = jax.random.split(as_key(key))
    shape = _shape(K, N, samples)
    ancestor = random_patterns(1, N, key=for_ancestor, samples=samples)
    return ancestor * _signs(_chosen(for_flips, (1 + C**0.5) / 2, shape))


def corrupted(spins: ArrayLike, overlap: float, *, key: Key) -> np.ndarray:
    r"""Copies of signs with random flips, :math:`E[\frac1N \sum_i \sigma_i \xi_i] =` ``overlap``.

    Args:
        spins: entries -1, 0 and 1 of any shape; zeros stay zero.
        overlap: in [-1, 1]; each entry is kept with probability (1 + overlap)/2.
        key: random key or integer seed.

    Returns:
        int8 of the same shape.

    Raises:
        DomainError: other entries, or overlap out of range.

    Source: textbook. Check: ``tests/statmech/test_patterns.py::test_moments``
    """
    number(overlap, "overlap", at_least=-1, at_most=1)
    x = _ternary(spins, "spins")
    return x * _signs(_chosen(as_key(key), (1 + overlap) / 2, x.shape))


@functools.partial(register_dataclass, data_fields=("examples",), meta_fields=("r",))
@dataclasses.dataclass(frozen=True)
class NoisyExamples:
    r"""Examples :math:`\eta_i^{\mu a} = \chi_i^{\mu a} \xi_i^\mu`, :math:`P(\chi = \pm 1) = (1 \pm
    r)/2`.

    Attributes:
        examples: ``(M, K, N)`` int8.
        r: quality in (0, 1].
    """

    examples: Any
    r: float

    @property
    def R(self) -> float:
        """Second moment of the plain average, r^2 + (1 - r^2)/M."""
        return self.r**2 + (1 - self.r**2) / self.examples.shape[0]

    @property
    def average(self) -> np.ndarray:
        r"""What the supervised rule sees, :math:`\hat x = (M \sqrt R)^{-1} \sum_a \eta^a`.

        ``(K, N)``; its second moment is 1 on entries that are not blank.
        """
        return np.mean(self.examples, axis=0, dtype=np.float64) / self.R**0.5

    @property
    def pooled(self) -> np.ndarray:
        r"""All examples divided by :math:`\sqrt{M R}`, ``(M K, N)``: the unsupervised rule.

        As patterns of a Hebbian coupling they give
        :math:`-\frac{c}{N M R} \sum_{\mu a} \sum_{i \ne j} \eta_i \eta_j \sigma_i \sigma_j`.
        """
        M, K, N = self.examples.shape
        return np.reshape(self.examples, (M * K, N)) / (M * self.R) ** 0.5


def noisy_examples(patterns: ArrayLike, M: int, r: float, *, key: Key) -> NoisyExamples:
    """Draw M noisy examples of every pattern.

    Args:
        patterns: ``(K, N)`` with entries -1, 0, 1; blanks stay blank.
        M: examples of each, >= 1.
        r: quality in (0, 1]: an entry is flipped with probability (1 - r)/2.
        key: random key or integer seed.

    Returns:
        :class:`NoisyExamples`.

    Raises:
        ShapeError: patterns not 2-D.
        DomainError: other entries, arguments out of range.

    Source: arXiv:2212.00606 and arXiv:2211.14067, section 2; arXiv:2308.04106 for blanks.
    Check: ``tests/statmech/test_patterns.py::test_noisy_examples``
    """
    x = _ternary(patterns, "patterns")
    if x.ndim != 2:
        raise ShapeError(f"patterns must have shape (K, N), got {x.shape}.")
    integer(M, "M", at_least=1)
    number(r, "r", above=0, at_most=1)
    flips = _signs(_chosen(as_key(key), (1 + r) / 2, (M, *x.shape)))
    return NoisyExamples(x[None] * flips, float(r))


@dataclasses.dataclass(frozen=True)
class PatternStatistics:
    """How far patterns are from independent fair signs.

    Attributes:
        bias: mean entry.
        correlation: root mean square of the overlaps of two patterns; independent ones: N^(-1/2).
        largest: largest overlap of two patterns in absolute value.
        rank: number of linearly independent patterns.
        effective_rank: exponential of the entropy of the normalised eigenvalues of the Gram matrix.
    """

    bias: float
    correlation: float
    largest: float
    rank: int
    effective_rank: float


def pattern_statistics(patterns: ArrayLike) -> PatternStatistics:
    r"""Correlation and effective rank of patterns, from their Gram matrix.

    .. math:: C = \xi \xi^\top / N, \qquad
              r_{\mathrm{eff}} = \exp\Big(-\sum_k p_k \ln p_k\Big), \quad
              p_k = \lambda_k(C) / \mathrm{tr}\, C

    Args:
        patterns: ``(K, N)`` real, not all zero.

    Returns:
        :class:`PatternStatistics`.

    Raises:
        ShapeError: not 2-D.
        DomainError: not finite, or all entries zero.

    Source: effective rank: O. Roy and M. Vetterli, EUSIPCO 2007.
    Check: ``tests/statmech/test_patterns.py::test_statistics``
    """
    x = np.asarray(as_real(patterns, "patterns"), np.float64)
    if x.ndim != 2 or 0 in x.shape:
        raise ShapeError(f"patterns must have shape (K, N), got {x.shape}.")
    finite(x, "patterns")
    if not x.any():
        raise DomainError("patterns must not all be zero.")
    C = x @ x.T / x.shape[1]
    scale = np.sqrt(np.maximum(np.diag(C), np.finfo(float).tiny))
    off = (C / scale[:, None] / scale)[~np.eye(len(C), dtype=bool)]
    p = np.clip(np.linalg.eigvalsh(C), 0, None)
    p = p[p > 0] / p.sum()
    return PatternStatistics(
        bias=float(x.mean()),
        correlation=float(np.sqrt(np.mean(off**2))) if off.size else 0.0,
        largest=float(np.abs(off).max()) if off.size else 0.0,
        rank=int(np.linalg.matrix_rank(x)),
        effective_rank=float(np.exp(-np.sum(p * np.log(p)))),
    )


@dataclasses.dataclass(frozen=True)
class ImagePatterns:
    """Binarised images: ``patterns (K, N)`` int8 with ``labels``, ``shape`` and ``statistics``."""

    patterns: np.ndarray
    labels: np.ndarray
    shape: tuple[int, int]
    statistics: PatternStatistics


def image_patterns(
    data: str | datasets.Dataset = "digits",
    K: int | None = None,
    *,
    key: Key = None,
    threshold: str = "median",
) -> ImagePatterns:
    """Images as patterns of -1 and 1, with their correlation and effective rank.

    Args:
        data: name for :func:`deeplimits.datasets.load` (``"digits"``, ``"fashion_1000"``), or a
            data set of images.
        K: number of images, >= 1 and at most those there are; default all.
        key: random key or integer seed for the choice of the images; default None: the first K.
        threshold: pixels above the ``"median"`` (default) or ``"mean"`` of their image are 1; or
            ``"pixel"``: above the median of that pixel over the images chosen, which takes out
            what all images share.

    Returns:
        :class:`ImagePatterns`.

    Raises:
        DomainError: K out of range, unknown threshold, or a table instead of images.

    Source: derived here. Check: ``tests/statmech/test_patterns.py::test_images``
    """
    if isinstance(data, str):
        data = datasets.load(data)
    if data.image_shape is None:
        raise DomainError(f"data must hold images, {data.name!r} is a table.")
    choice(threshold, "threshold", ("median", "mean", "pixel"))
    count = len(data) if K is None else integer(K, "K", at_least=1)
    if count > len(data):
        raise DomainError(f"K must be at most the number of images {len(data)}, got {count}.")
    order = np.arange(len(data))
    if key is not None:
        order = np.asarray(jax.random.permutation(as_key(key), len(data)))
    chosen = data.take(order[:count])
    x = np.asarray(chosen.X, np.float64)
    level = {
        "median": lambda: np.median(x, axis=1, keepdims=True),
        "mean": lambda: x.mean(axis=1, keepdims=True),
        "pixel": lambda: np.median(x, axis=0, keepdims=True),
    }[threshold]()
    patterns = _signs(x > level)
    return ImagePatterns(
        patterns, np.asarray(chosen.y), data.image_shape, pattern_statistics(patterns)
    )


def _shape(K: int, N: int, samples: int | None) -> tuple[int, ...]:
    integer(K, "K", at_least=1)
    integer(N, "N", at_least=1)
    return (K, N) if samples is None else (integer(samples, "samples", at_least=1), K, N)


def _chosen(key: Any, probability: float, shape: tuple[int, ...]) -> np.ndarray:
    """Independent booleans, True with the given probability."""
    return np.asarray(jax.random.uniform(key, shape, jnp.float32) < np.float32(probability))


def _signs(positive: np.ndarray) -> np.ndarray:
    return np.where(positive, np.int8(1), np.int8(-1))


def _ternary(x: ArrayLike, name: str) -> np.ndarray:
    """Entries -1, 0, 1 as int8."""
    values = np.asarray(x)
    if values.dtype.kind not in "iuf" or not np.isin(values, (-1, 0, 1)).all():
        raise DomainError(f"{name} must hold only -1, 0 and 1.")
    return values.astype(np.int8)
