r"""Dense Hebbian networks at zero temperature: capacity, one step of dynamics, learning thresholds.

At T = 0 the noise-to-signal ratio k is a parameter in which everything is explicit,

.. math:: \hat M(k) = E\,\hat x \operatorname{erf}\frac{\hat x}{\sqrt 2 k}, \qquad
          \alpha(k) = \frac{(k P \hat M^{P-1})^2}{\kappa\, k'(1)},

and the capacity is the maximum of the load over k.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize
from scipy.special import erf

from deeplimits.errors import ConvergenceError, DomainError
from deeplimits.validate import choice, number
from statmech.dense_noise import INDEX, check_bodies, noise_kernel
from statmech.examples import MOST, PERFECT, Examples, Law

#: Ratios among which the largest load is looked for.
_RATIOS = np.geomspace(0.02, 20.0, 401)


@dataclasses.dataclass(frozen=True)
class DenseCapacity:
    r"""Where retrieval ends at T = 0; see :func:`dense_capacity`.

    Attributes:
        alpha: the largest load :math:`K/N^{P-1}`.
        m, Mhat, nhat: overlaps there, as in :class:`DenseState`.
        k: noise-to-signal ratio there.
        effective: the load times :math:`(1 + \rho)^P` (supervised) or :math:`1 + \rho_P`
            (unsupervised): a function of the entropy alone for Gaussian examples.
    """

    alpha: float
    m: float
    Mhat: float
    nhat: float
    k: float
    effective: float

    def __float__(self) -> float:
        return self.alpha


class _Overlaps(NamedTuple):
    Mhat: np.ndarray
    m: np.ndarray


def overlaps_at_zero(k: np.ndarray, law: Law) -> _Overlaps:
    """Overlaps at noise-to-signal ratios k ``(n,)``, T = 0."""
    k = np.asarray(k, np.float64)[:, None]
    width = np.sqrt(k**2 + law.spread**2)
    sign = erf(law.x / (np.sqrt(2) * width))
    local = np.sqrt(2 / np.pi) / width * np.exp(-(law.x**2) / (2 * width**2))
    return _Overlaps((sign * law.x + law.spread**2 * local) @ law.even, sign @ law.odd)


def _case(P: int, index: str, examples: Any) -> tuple[Law, float]:
    """Law, and the load times which factor is the variance of the noise."""
    if check_bodies(P) < 3:
        raise DomainError(
            f"P must be >= 3 at this place, got {P}. For P = 2 see statmech.hopfield_capacity, "
            "or statmech.dense_hebbian with examples at T = 0."
        )
    choice(index, "index", INDEX)
    kernel = noise_kernel(P, index)
    power = float(np.arange(P + 1) @ kernel)
    if examples is None:
        return PERFECT, power
    if not isinstance(examples, Examples):
        raise DomainError(f"examples must be statmech.Examples or None, got {examples!r}.")
    return examples.law(), power * examples.noise(P)


def dense_capacity(
    P: int, *, index: str = "distinct", examples: Examples | None = None
) -> DenseCapacity:
    r"""The largest load with retrieval states at T = 0.

    .. math:: \alpha_c = \max_t \frac{\operatorname{erf}(t)^{2(P-1)}}{2 v t^2}, \qquad
       v_{distinct} = (P-1)!, \quad v_{full} = (2P-3)!!

    for perfect patterns; with examples the maximum over k in :mod:`statmech.dense_capacity`. It
    does not depend on the prefactor of the energy.

    Args:
        P: number of spins in an interaction, 3 to 20.
        index: ``"distinct"`` (default) or ``"full"``.
        examples: :class:`Examples`, default perfect patterns.

    Returns:
        :class:`DenseCapacity`, ``float`` of which is the load.

    Raises:
        DomainError: P or ``index`` out of range, not :class:`Examples`.

    Source: E. Gardner, J. Phys. A 20, 3453 (1987); arXiv:2212.00606, arXiv:2211.14067; exact law
        of examples and full sums derived here.

    Check: ``tests/statmech/test_dense_capacity.py::test_capacities``
    """
    law, factor = _case(P, index, examples)

    def log_load(log_k: np.ndarray) -> np.ndarray:
        M = overlaps_at_zero(np.exp(log_k), law).Mhat
        return 2 * (log_k + math.log(P) + (P - 1) * np.log(M)) - math.log(factor)

    grid = np.log(_RATIOS)
    best = int(np.clip(np.argmax(log_load(grid)), 1, len(grid) - 2))
    found = scipy.optimize.minimize_scalar(
        lambda x: -float(log_load(np.array([x]))[0]),
        bounds=(grid[best - 1], grid[best + 1]),
        method="bounded",
        options={"xatol": 1e-10},
    )
    k = math.exp(found.x)
    at = overlaps_at_zero(np.array([k]), law)
    rho = examples.entropy if examples is not None else 0.0
    alpha = math.exp(-found.fun)
    return DenseCapacity(
        alpha=alpha,
        m=float(at.m[0]),
        Mhat=float(at.Mhat[0]),
        nhat=float(at.Mhat[0]) * math.sqrt(1 + rho),
        k=k,
        effective=alpha * (1 + rho) ** P * (examples.noise(P) if examples is not None else 1.0),
    )


def one_step_overlap(
    P: int, alpha: float, *, index: str = "distinct", examples: Examples | None = None
) -> float:
    r"""Overlap with an archetype after one parallel step at T = 0 from the archetype itself.

    .. math:: m^{(1)} = E\,\xi \operatorname{erf}
       \frac{P \hat x \hat M^{P-1}}{\sqrt{2 \alpha\kappa\, k'(1)}}, \qquad
       \hat M = \frac{1}{\sqrt{1 + \rho}}

    For Gaussian examples, distinct indices, :math:`\operatorname{erf}\{2[\rho + (P-1)!\,
    \tilde\alpha]\}^{-1/2}`.

    Args:
        P: 3 to 20.
        alpha: load, >= 0.
        index, examples: as for :func:`dense_capacity`.

    Returns:
        The overlap, in (0, 1].

    Raises:
        DomainError: as for :func:`dense_capacity`, or alpha < 0.

    Source: arXiv:2212.00606, section on signal to noise; finite M: derived here.

    Check: ``tests/statmech/test_dense_capacity.py::test_one_step``
    """
    law, factor = _case(P, index, examples)
    alpha = float(number(alpha, "alpha", at_least=0.0))
    rho = examples.entropy if examples is not None else 0.0
    signal = P * (1 + rho) ** (-(P - 1) / 2)
    k = max(math.sqrt(alpha * factor) / signal, 1e-150)  # its square must not vanish
    return float(overlaps_at_zero(np.array([k]), law).m[0])


def minimal_examples(
    P: int,
    alpha: float,
    r: float,
    *,
    supervised: bool = True,
    index: str = "distinct",
    criterion: str = "capacity",
    law: str = "gaussian",
) -> int:
    r"""How many examples of quality r a network needs at a load.

    Args:
        P: 3 to 20.
        alpha: load, >= 0, below the capacity of perfect patterns.
        r: quality of the examples, in (0, 1].
        supervised: as in :class:`Examples`.
        index: ``"distinct"`` or ``"full"``.
        criterion: ``"capacity"`` (retrieval states exist at T = 0, default) or ``"one_step"``
            (:func:`one_step_overlap` exceeds erf(1/sqrt 2) = 0.68).
        law: ``"gaussian"`` (that of many examples, at the entropies of M and r; default) or
            ``"binomial"`` (the exact one; M up to 1e7).

    Returns:
        The smallest M >= 2 that passes, found by bisection (with the exact law odd and even M can
        alternate near the threshold); 1 for r = 1. A single example is no candidate: the network
        then retrieves it, not the archetype (m = r Mhat). For small r the number grows as
        :math:`r^{-2}`, unsupervised as :math:`r^{-2P}`.

    Raises:
        DomainError: a parameter out of range, or a load that no number of examples suffices for.
        ConvergenceError: more examples needed than 1e7 (binomial) or 1e15.

    Source: arXiv:2212.00606 and arXiv:2211.14067, scaling of thresholds; derived here.

    Check: ``tests/statmech/test_dense_capacity.py::test_minimal_examples``
    """
    choice(criterion, "criterion", ("capacity", "one_step"))
    choice(law, "law", ("gaussian", "binomial"))
    alpha = float(number(alpha, "alpha", at_least=0.0))
    r = float(number(r, "r", above=0.0, at_most=1.0))

    def enough(M: int, r: float = r) -> bool:
        data = _data(P, M, r, supervised, law)
        if criterion == "capacity":
            return dense_capacity(P, index=index, examples=data).alpha >= alpha
        value = one_step_overlap(P, alpha, index=index, examples=data)
        return value > float(erf(1 / np.sqrt(2)))

    if not enough(1, 1.0):
        raise DomainError(f"alpha = {alpha:g} is too large for P = {P}, even with r = 1.")
    if r == 1:
        return 1
    most = MOST if law == "binomial" else 10**15
    sizes = [2]
    while not enough(sizes[-1]) or len(sizes) < 2:
        sizes.append(2 * sizes[-1])
        if sizes[-1] > most:
            raise ConvergenceError(f"more than {most} examples would be needed at r = {r:g}.")
    failed = [M for M in sizes if not enough(M)]
    low = failed[-1] if failed else 1
    high = 2 * low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _data(P: int, M: int, r: float, supervised: bool, law: str) -> Examples:
    if law == "binomial":
        return Examples(M, r, supervised=supervised)
    rho, rho_P = (1 - r**2) / (M * r**2), (1 - r ** (2 * P)) / (M * r ** (2 * P))
    rest: dict[str, Any] = {} if supervised else {"rho_P": rho_P}
    return Examples(math.inf, rho=rho, supervised=supervised, **rest)


def diluted_load(P: int, load: float, b: float, N: float, *, omega: float = 0.0) -> float:
    r"""The load that K = load N^b patterns stored with noisy synapses amount to.

    .. math:: \alpha = \alpha_b N^{b-P+1} (1 + \omega^2)

    Each entry of the tensor of a pattern is :math:`\prod \xi + \omega \tilde J`, with independent
    standard normal :math:`\tilde J`: at low load a signal below the noise is retrieved, up to
    :math:`\omega \approx N^{(P-1-b)/2} \sqrt{\alpha_c/\alpha_b}`.

    Args:
        P: 3 to 20.
        load: :math:`\alpha_b = K/N^b`, >= 0.
        b: exponent, 0 < b <= P - 1.
        N: number of spins, >= 2.
        omega: strength of the noise on the synapses, >= 0, default 0.

    Returns:
        The load to be handed to :func:`dense_hebbian` (distinct indices).

    Raises:
        DomainError: a parameter out of range.

    Source: derived here (the noise of a pattern has the covariance of the others, times
        :math:`\omega^2`); the regime: Agliari et al., Phys. Rev. Lett.
        124, 028301 (2020). Not simulated beyond the variance of the noise.

    Check: ``tests/statmech/test_dense_capacity.py::test_diluted_load_against_covariance``
    """
    if check_bodies(P) < 3:
        raise DomainError(f"P must be >= 3 at this place, got {P}.")
    load = float(number(load, "load", at_least=0.0))
    b = float(number(b, "b", above=0.0, at_most=float(P - 1)))
    N = float(number(N, "N", at_least=2.0))
    omega = float(number(omega, "omega", at_least=0.0))
    return load * N ** (b - P + 1) * (1 + omega**2)
