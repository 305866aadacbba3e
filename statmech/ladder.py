"""Temperatures for parallel tempering with equal rates of exchange."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.special

from deeplimits.precision import float64_scope
from deeplimits.typing import Key
from deeplimits.validate import integer, number
from statmech.kernels import Coupling
from statmech.tempering import parallel_tempering


@float64_scope
def temperature_ladder(
    coupling: Coupling,
    T_min: float,
    T_max: float,
    *,
    key: Key,
    acceptance: float = 0.4,
    sweeps: int = 400,
    pilot: int = 12,
    **kw: Any,
) -> np.ndarray:
    r"""A ladder whose neighbours are exchanged at about the same rate, from a short pilot run.

    Gaussian energies of standard deviation :math:`s(\beta)` at neighbours :math:`\Delta\beta` apart
    are exchanged with probability

    .. math:: A = \mathrm{erfc}(s \, \Delta\beta / 2),

    so that the temperatures are spaced equally in :math:`\int s \, d\beta`.

    Args:
        coupling: as for :func:`statmech.parallel_tempering`.
        T_min, T_max: ends of the ladder, 0 < T_min < T_max.
        key: random key or integer seed.
        acceptance: wanted rate A in (0, 1), default 0.4; the result has at least about this.
        sweeps: measured sweeps of the pilot run, >= 8, default 400.
        pilot: temperatures of the pilot run, in geometric progression, >= 2, default 12.
        **kw: passed to :func:`statmech.parallel_tempering`.

    Returns:
        Increasing temperatures ``(n,)``, n >= 2, for :func:`statmech.parallel_tempering`.

    Raises:
        DomainError: arguments out of range.

    Source: derived here; the law of exchanges as in D. A. Kofke, J. Chem. Phys. 117, 6911 (2002).

    Check: ``tests/statmech/test_tempering.py::test_ladder``
    """
    number(T_min, "T_min", above=0)
    number(T_max, "T_max", above=T_min)
    number(acceptance, "acceptance", above=0, below=1)
    integer(sweeps, "sweeps", at_least=8)
    integer(pilot, "pilot", at_least=2)
    T = np.geomspace(T_min, T_max, pilot)
    run = parallel_tempering(coupling, T, key=key, sweeps=sweeps, **kw)
    energy = run.series["energy"] * coupling.N
    s = np.sqrt(np.mean(np.var(energy, axis=-1, ddof=1), axis=(1, 2)))
    beta = 1 / T[::-1]  # increasing
    s = s[::-1]
    length = np.concatenate([[0.0], np.cumsum(np.diff(beta) * (s[1:] + s[:-1]) / 2)])
    step = 2 * float(scipy.special.erfcinv(acceptance))
    n = max(2, int(np.ceil(length[-1] / step)) + 1)
    if length[-1] == 0:  # constant energy: any two temperatures exchange always
        return np.array([T_min, T_max], np.float64)
    ladder = 1 / np.interp(np.linspace(0, length[-1], n), length, beta)[::-1]
    ladder[0], ladder[-1] = T_min, T_max
    return np.asarray(ladder)
