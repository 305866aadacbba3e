r"""Data sets of noisy examples that a Hebbian network learns from.

Each of K archetypes :math:`\xi^\mu` is seen through M examples :math:`\eta_i^{\mu a} =
\chi_i^{\mu a} \xi_i^\mu`, :math:`P(\chi = \pm 1) = (1 \pm r)/2`. With the average
:math:`x = M^{-1} \sum_a \eta^a` and :math:`R = r^2 + (1 - r^2)/M` the field that learning sees is
:math:`\hat x = x/\sqrt R`, of unit second moment. Multiplied by :math:`\xi` it takes the values
:math:`(2k - M)/(M \sqrt R)` with a binomial k; for M -> infinity at fixed entropy :math:`\rho` it
is Gaussian.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np
import scipy.stats

from deeplimits.errors import DomainError
from deeplimits.validate import integer, number

#: Atoms of the binomial law with less weight are dropped.
NEGLIGIBLE = 1e-18
#: Most examples: the binomial law then has about 25000 atoms.
MOST = 10_000_000


class Law(NamedTuple):
    r"""Law of :math:`\xi\hat x` as a mixture of Gaussians, those at -x folded onto x.

    Attributes:
        x: means >= 0, ``(n,)``.
        spread: standard deviations, ``(n,)``; 0 for the binomial law.
        even: weights of x and -x together.
        odd: weight of x minus that of -x.
    """

    x: np.ndarray
    spread: np.ndarray
    even: np.ndarray
    odd: np.ndarray


@dataclasses.dataclass(frozen=True)
class Examples:
    r"""M examples of quality r for each archetype.

    .. math:: \rho = \frac{1 - r^2}{M r^2}, \qquad R = r^2 (1 + \rho)

    Args:
        M: examples of each archetype, an integer >= 1; ``math.inf`` for the limit of many bad
            examples at fixed entropy ``rho``.
        r: quality in (0, 1], the correlation of an example with its archetype; None if M is
            infinite (there r -> 0).
        supervised: whether examples are averaged before they enter the energy (a teacher says which
            examples belong together), default True; otherwise the energy is a sum over examples.
        rho: entropy of the data set, >= 0, only with infinite M.
        rho_P: the entropy :math:`(1 - r^{2P})/(M r^{2P})`, only with infinite M and unsupervised
            (its value for the P in use; r -> 0 at finite rho alone would make it infinite).

    Raises:
        DomainError: M, r or rho out of range, or a combination that says too much or too little.

    Source: arXiv:2212.00606 and arXiv:2211.14067, section 2; finite M: derived here.

    Check: ``tests/statmech/test_dense_examples.py``
    """

    M: float
    r: float | None = None
    supervised: bool = True
    rho: float | None = None
    rho_P: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.supervised, bool):
            raise DomainError(f"supervised must be True or False, got {self.supervised!r}.")
        if isinstance(self.M, float) and math.isinf(self.M) and self.M > 0:
            self._check_limit()
            return
        if integer(self.M, "M", at_least=1) > MOST:
            raise DomainError(f"M must be at most {MOST}, or math.inf with rho; got {self.M}.")
        if self.r is None or self.rho is not None or self.rho_P is not None:
            raise DomainError("finite M needs r, and neither rho nor rho_P: Examples(M, r).")
        number(self.r, "r", above=0.0, at_most=1.0)

    def _check_limit(self) -> None:
        if self.rho is None or self.r is not None:
            raise DomainError("infinite M needs rho and no r: Examples(math.inf, rho=0.1).")
        number(self.rho, "rho", at_least=0.0)
        if self.supervised and self.rho_P is not None:
            raise DomainError("rho_P enters only unsupervised learning: leave it out.")
        if not self.supervised and self.rho_P is None:
            raise DomainError("unsupervised learning with infinite M needs rho_P as well as rho.")
        if self.rho_P is not None:
            number(self.rho_P, "rho_P", at_least=0.0)

    @property
    def entropy(self) -> float:
        r""":math:`\rho`, 0 for perfect examples."""
        if self.rho is not None:
            return float(self.rho)
        r = float(self.r)  # type: ignore[arg-type]
        return (1 - r**2) / (self.M * r**2)

    def entropy_of(self, P: int) -> float:
        r""":math:`\rho_P = (1 - r^{2P})/(M r^{2P})`."""
        if self.rho is not None:
            return float(self.rho if P == 1 else self.rho_P or 0.0)
        r = float(self.r)  # type: ignore[arg-type]
        return (1 - r ** (2 * P)) / (self.M * r ** (2 * P))

    def noise(self, P: int) -> float:
        r"""Factor of the noise: 1, or :math:`(1 + \rho_P)/(1 + \rho)^P` if unsupervised."""
        return 1.0 if self.supervised else (1 + self.entropy_of(P)) / (1 + self.entropy) ** P

    def law(self) -> Law:
        r"""The law of :math:`\xi\hat x`."""
        rho = self.entropy
        if math.isinf(self.M):
            mean, spread = 1 / math.sqrt(1 + rho), math.sqrt(rho / (1 + rho))
            return Law(np.array([mean]), np.array([spread]), np.ones(1), np.ones(1))
        M, r = int(self.M), float(self.r)  # type: ignore[arg-type]
        if r == 1:
            return Law(np.ones(1), np.zeros(1), np.ones(1), np.ones(1))
        p, reach = (1 + r) / 2, 10 + 10 * math.sqrt(M * (1 - r**2) / 4)
        low, high = max(math.floor(M * p - reach), 0), min(math.ceil(M * p + reach), M)
        k = np.arange(low, high + 1)
        weight = scipy.stats.binom.pmf(k, M, p)
        steps = 2 * k - M
        sizes = np.unique(np.abs(steps))
        place = np.searchsorted(sizes, np.abs(steps))
        even, odd = np.zeros(len(sizes)), np.zeros(len(sizes))
        np.add.at(even, place, weight)
        np.add.at(odd, place, weight * np.sign(steps))
        keep = even > NEGLIGIBLE
        even, odd = even[keep] / even[keep].sum(), odd[keep] / even[keep].sum()
        x = sizes[keep] / (M * r * math.sqrt(1 + rho))
        return Law(x, np.zeros_like(x), even, odd)


#: Plain patterns: every example is the archetype.
PERFECT = Law(np.ones(1), np.zeros(1), np.ones(1), np.ones(1))
