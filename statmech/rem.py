r"""The random energy model: its limit and its exact mean free energy at every size.

:math:`2^N` independent energies of variance N / 2: the p-spin glass for p -> infinity.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from scipy.special import ndtri

from deeplimits.errors import DomainError
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import ArrayLike
from deeplimits.validate import as_real, finite, integer, number

#: Largest size of the exact average.
LARGEST = 200


@register_dataclass
@dataclasses.dataclass(frozen=True)
class REM:
    """Transition temperature and ground-state energy per spin; see :func:`rem`."""

    T_c: float
    e0: float


@register_dataclass
@dataclasses.dataclass(frozen=True)
class REMState:
    """Free energy, energy and entropy per spin, and x = min(1, T / T_c); arrays like T.

    x is the probability that two replicas are in different configurations.
    """

    f: Any
    U: Any
    S: Any
    x: Any
    T: Any


def rem() -> REM:
    r"""The transition of the random energy model.

    .. math:: T_c = \frac{1}{2\sqrt{\ln 2}} = 0.600561\ldots, \qquad e_0 = -\sqrt{\ln 2}

    Source: B. Derrida, Phys. Rev. B 24, 2613 (1981), eqs. (12)-(16).

    Check: tests/statmech/test_p_spin.py::test_rem
    """
    root = math.sqrt(math.log(2.0))
    return REM(T_c=1 / (2 * root), e0=-root)


def rem_state(T: ArrayLike) -> REMState:
    r"""The random energy model in the limit of many spins.

    .. math:: f = -T \ln 2 - \frac{1}{4 T} \quad (T \ge T_c), \qquad f = -\sqrt{\ln 2}
       \quad (T \le T_c)

    Args:
        T: temperatures, any shape, >= 0.

    Returns:
        :class:`REMState`.

    Raises:
        DomainError: a negative temperature, NaN or infinity.

    Source: B. Derrida, Phys. Rev. B 24, 2613 (1981), eqs. (12)-(16); x: M. Mezard et al.,
        J. Physique Lett. 46, L217 (1985).

    Check: tests/statmech/test_p_spin.py::test_rem
    """
    finite(as_real(T, "T"), "T")
    T = np.asarray(T, np.float64)
    if np.any(T < 0):
        raise DomainError(f"T must be >= 0, got {T.min():g}.")
    at = rem()
    warm = np.maximum(T, at.T_c)
    U = -1 / (2 * warm)
    S = np.where(at.T_c < T, math.log(2.0) - 1 / (4 * warm**2), 0.0)
    return REMState(f=(U - T * S)[()], U=U[()], S=S[()], x=np.minimum(1.0, T / at.T_c)[()], T=T[()])


def rem_finite(N: int, T: float) -> float:
    r"""The exact mean free energy per spin of a random energy model of N spins.

    .. math:: E \ln Z = \int_{-\infty}^{\infty} ds\,\Big[e^{-e^s} - \phi(s)^{2^N}\Big], \qquad
       \phi(s) = \int Dz\,\exp\big(-e^{s + \beta \sqrt{N/2}\,z}\big)

    Both integrals by the trapezoid rule, which is spectrally accurate here.

    Args:
        N: 1 to 200.
        T: > 0, and at least 0.01 sqrt(N).

    Returns:
        :math:`-T\,E \ln Z / N`.

    Raises:
        DomainError: an argument out of its range.

    Source: B. Derrida, Phys. Rev. B 24, 2613 (1981), section V.

    Check: tests/statmech/test_p_spin.py::test_rem_finite
    """
    if integer(N, "N", at_least=1) > LARGEST:
        raise DomainError(f"N must be at most {LARGEST}, got {N}. See statmech.rem_state.")
    T = float(number(T, "T", at_least=0.01 * math.sqrt(N)))
    scale = math.sqrt(N / 2) / T
    # exp(-e^w) decays for |Im w| < pi / 2: steps of 0.2 in s and in scale * z leave e^-49
    step = min(0.2, 0.2 / scale)
    z = np.arange(-10.0, scale + 10.0, step)
    log_weight = -(z**2) / 2 + math.log(step / math.sqrt(2 * math.pi))
    bound = N * (math.log(2.0) + 1 / (4 * T * T)) + 40  # annealed: above E ln Z
    # beyond this phi^(2^N) < 1e-17: for few spins it falls as slowly as a Gaussian tail
    tail = max(0.0, -float(ndtri(10.0 ** (-17 / 2.0**N))))
    s = np.arange(-bound, 5.0 + scale * tail, 0.2)
    total = 0.0
    for part in np.array_split(s, max(1, s.size * z.size // 10**6)):
        w = part[:, None] + scale * z
        missing = -np.expm1(-np.exp(np.minimum(w, 30.0))) @ np.exp(log_weight)
        power = np.exp(2.0**N * np.log1p(-np.minimum(missing, 1 - 1e-16)))
        total += float(np.sum(np.exp(-np.exp(part)) - power))
    return -T * 0.2 * total / N
