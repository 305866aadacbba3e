r"""Samples whose mutual information is known, to judge estimators by.

Every function returns a :class:`Sample`: x, y and the exact information. Monotone maps of single
coordinates, rotations of x or y, and injective renderings as images leave it unchanged, and that is
where estimators differ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.special
import scipy.stats

from bounds.mutual_information.samples import generator
from deeplimits.errors import DomainError
from deeplimits.pytrees import register_dataclass
from deeplimits.special import legendre_rule
from deeplimits.typing import ArrayLike, Key
from deeplimits.validate import as_real, choice, integer, number

#: Maps of single coordinates of standard normal samples.
MARGINALS = {
    "gaussian": lambda v: v,
    "uniform": scipy.special.ndtr,
    "cubed": lambda v: v**3,
    "asinh": np.arcsinh,
}
#: Shapes that images can show, with the number of their parameters.
SHAPES = {"blobs": 2, "rectangles": 4}


@register_dataclass
@dataclass(frozen=True)
class Sample:
    """Paired samples with the exact information between them.

    Attributes:
        x: ``(n, p)``, or images ``(n, height, width, 1)``.
        y: the same, or labels ``(n,)``.
        information: nats.
        name: what it is.
    """

    x: Any
    y: Any
    information: float
    name: str = field(default="", metadata={"static": True})


def gaussian_pairs(
    n: int,
    information: float,
    p: int = 1,
    q: int | None = None,
    *,
    marginal: str = "gaussian",
    rotate: bool = True,
    key: Key,
) -> Sample:
    r"""Gaussian vectors of given information, spread evenly over min(p, q) canonical pairs.

    .. math:: \rho = \sqrt{1 - e^{-2 I / \min(p, q)}}

    Args:
        n: number of samples.
        information: I >= 0, nats.
        p, q: dimensions; q = p by default.
        marginal: ``"gaussian"``, or ``"uniform"``, ``"cubed"``, ``"asinh"`` of each coordinate.
        rotate: turn x and y by random rotations (before the map of the coordinates), default True.
        key: key or seed.

    Raises:
        DomainError: out of range.

    Source: textbook. Check: tests/bounds/test_mutual_information_reference.py
    """
    p, q, rho = _pairs(information, p, q)
    choice(marginal, "marginal", tuple(MARGINALS))
    rng = generator(key)
    x, y = _correlated(rng, integer(n, "n", at_least=1), p, q, rho)
    if rotate:
        x, y = (v @ _rotation(rng, v.shape[1]) for v in (x, y))
    x, y = MARGINALS[marginal](x), MARGINALS[marginal](y)
    return Sample(x, y, float(information), f"{marginal} pairs, d = {p} + {q}")


def student_pairs(
    n: int, information: float, nu: float, p: int = 1, q: int | None = None, *, key: Key
) -> Sample:
    r"""Student-t vectors: Gaussian pairs divided by one common random scale.

    .. math:: I = I_{\rm Gauss} + c(\nu) + c(\nu + p + q) - c(\nu + p) - c(\nu + q), \qquad
       c(a) = \ln \Gamma(a/2) - \tfrac a2 \psi(a/2)

    so that uncorrelated x and y (``information=0``) are still dependent.

    Args:
        n, p, q, key: as for :func:`gaussian_pairs`.
        information: the Gaussian part, >= 0; the exact total is in the record.
        nu: degrees of freedom, > 0.

    Raises:
        DomainError: out of range.

    Source: arXiv:2306.11078 (the task); closed form derived here from Student entropies.
    Check: tests/bounds/test_mutual_information_reference.py
    """
    p, q, rho = _pairs(information, p, q)
    number(nu, "nu", above=0)
    rng = generator(key)
    x, y = _correlated(rng, integer(n, "n", at_least=1), p, q, rho)
    scale = np.sqrt(nu / rng.chisquare(nu, n))[:, None]

    def c(a: float) -> float:
        return float(scipy.special.gammaln(a / 2) - a / 2 * scipy.special.digamma(a / 2))

    total = information + c(nu) + c(nu + p + q) - c(nu + p) - c(nu + q)
    return Sample(x * scale, y * scale, total, f"Student-t, nu = {nu:g}, d = {p} + {q}")


def additive_uniform(n: int, eps: float, *, key: Key) -> Sample:
    r"""y = x + u with x uniform on [0, 1] and u uniform on [-eps, eps].

    .. math:: I = \varepsilon - \ln 2\varepsilon \;\; (\varepsilon \le \tfrac12), \qquad
       I = \frac{1}{4 \varepsilon} \;\; (\varepsilon \ge \tfrac12)

    Args:
        n, key: as for :func:`gaussian_pairs`.
        eps: > 0.

    Raises:
        DomainError: out of range.

    Source: derived here. Check: tests/bounds/test_mutual_information_reference.py
    """
    number(eps, "eps", above=0)
    rng = generator(key)
    x = rng.random((integer(n, "n", at_least=1), 1))
    y = x + rng.uniform(-eps, eps, (n, 1))
    exact = eps - math.log(2 * eps) if eps <= 0.5 else 1 / (4 * eps)
    return Sample(x, y, exact, f"additive uniform noise, eps = {eps:g}")


def labelled_mixture(n: int, means: ArrayLike, std: float, *, key: Key) -> Sample:
    r"""Normal x around one of several means, which is the label y; all equally likely.

    .. math:: I = \ln m - \Big\langle \ln \frac{\sum_k p(x | k)}{p(x | y)} \Big\rangle

    by Gauss-Legendre quadrature, exact to rounding.

    Args:
        n, key: as for :func:`gaussian_pairs`.
        means: ``(m,)``, m >= 2.
        std: > 0.

    Raises:
        DomainError: out of range.

    Source: textbook. Check: tests/bounds/test_mutual_information_reference.py
    """
    number(std, "std", above=0)
    centre = np.asarray(as_real(means, "means"), np.float64)
    if centre.ndim != 1 or len(centre) < 2:
        raise DomainError(f"means must be a vector of two numbers or more, got {means!r}.")
    rng = generator(key)
    label = rng.integers(len(centre), size=integer(n, "n", at_least=1))
    x = centre[label] + std * rng.standard_normal(n)
    nodes, weights = legendre_rule(400)
    z = 24 * nodes - 12  # 12 standard deviations: the rest is below 1e-32
    w = 24 * weights * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    gaps = (centre[:, None] - centre[None, :]) / std  # (own, other)
    logs = -0.5 * (z + gaps[..., None]) ** 2 + 0.5 * z**2
    exact = math.log(len(centre)) - float((scipy.special.logsumexp(logs, axis=1) @ w).mean())
    return Sample(x[:, None], label, exact, f"mixture with label, std = {std:g}")


def image_pairs(
    n: int, information: float, shape: str = "blobs", *, size: int = 32, key: Key
) -> Sample:
    r"""Pairs of images that show shapes with dependent parameters.

    The parameters are Gaussian pairs (:func:`gaussian_pairs`) mapped to (0, 1). ``"blobs"``:
    :math:`\exp(-10 [(s - a)^2 + (t - b)^2])` at pixel centres s, t in [0, 1]. ``"rectangles"``:
    corner and sides, every pixel with the share of it that is covered. Both maps are injective,
    so the images have the information of their parameters.

    Args:
        n, information, key: as for :func:`gaussian_pairs`.
        shape: ``"blobs"`` (2 parameters) or ``"rectangles"`` (4).
        size: pixels along a side, >= 4, default 32.

    Returns:
        :class:`Sample` with images ``(n, size, size, 1)``.

    Raises:
        DomainError: out of range.

    Source: arXiv:2305.08013, section 5 (the idea). Check:
    tests/bounds/test_mutual_information_reference.py
    """
    choice(shape, "shape", tuple(SHAPES))
    integer(size, "size", at_least=4)
    hidden = gaussian_pairs(n, information, SHAPES[shape], marginal="uniform", rotate=False,
                            key=key)  # fmt: skip
    draw = _blobs if shape == "blobs" else _rectangles
    x, y = draw(hidden.x, size), draw(hidden.y, size)
    return Sample(x, y, hidden.information, f"{shape}, {size} x {size}")


def _pairs(information: Any, p: int, q: int | None) -> tuple[int, int, float]:
    number(information, "information", at_least=0)
    p = integer(p, "p", at_least=1)
    q = p if q is None else integer(q, "q", at_least=1)
    return p, q, math.sqrt(-math.expm1(-2 * float(information) / min(p, q)))


def _correlated(
    rng: np.random.Generator, n: int, p: int, q: int, rho: float
) -> tuple[np.ndarray, np.ndarray]:
    """Standard normal vectors whose first min(p, q) coordinates have correlation ``rho``."""
    x, y = rng.standard_normal((n, p)), rng.standard_normal((n, q))
    m = min(p, q)
    y[:, :m] = rho * x[:, :m] + math.sqrt(1 - rho**2) * y[:, :m]
    return x, y


def _rotation(rng: np.random.Generator, d: int) -> np.ndarray:
    q, r = np.linalg.qr(rng.standard_normal((d, d)))
    return np.asarray(q * np.sign(np.diag(r)))


def _blobs(latent: np.ndarray, size: int) -> np.ndarray:
    grid = (np.arange(size) + 0.5) / size
    rows, columns = (np.exp(-10 * (grid - v[:, None]) ** 2) for v in latent.T)
    return rows[:, :, None, None] * columns[:, None, :, None]


def _rectangles(latent: np.ndarray, size: int) -> np.ndarray:
    """Sides of 0.2 to 0.6; the corner anywhere such that the rectangle fits."""
    edge = np.arange(size) / size

    def covered(corner: np.ndarray, side: np.ndarray) -> np.ndarray:
        width = 0.2 + 0.4 * side
        start = corner * (1 - width)
        low = np.maximum(edge, start[:, None])
        high = np.minimum(edge + 1 / size, (start + width)[:, None])
        return np.maximum(high - low, 0) * size

    rows, columns = covered(latent[:, 0], latent[:, 1]), covered(latent[:, 2], latent[:, 3])
    return rows[:, :, None, None] * columns[:, None, :, None]
