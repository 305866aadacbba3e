r"""Closed forms of multitasking networks: zero temperature, onset, one step, number of examples."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import scipy.optimize
import scipy.special

from deeplimits.errors import DomainError
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import Array, ArrayLike
from deeplimits.validate import choice, integer, number
from statmech import multitasking_average as average


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Hierarchy:
    """The hierarchical state at zero temperature; leading axes are those of the dilution.

    Attributes:
        m: overlaps, decreasing by factors of the dilution, ``(..., K)``.
        E: energy per spin.
        stable: the first overlap exceeds the sum of the others; otherwise spins would turn.
    """

    m: Array
    E: Array
    stable: Array


def _dilution(d: ArrayLike) -> np.ndarray:
    x = np.asarray(d, np.float64)
    if not np.all((x >= 0) & (x < 1)):
        raise DomainError(f"d must be in [0, 1), got {x[~((x >= 0) & (x < 1))].flat[0]:g}.")
    return x


def _scale(d: np.ndarray, g: str) -> Any:
    return 1 - d if choice(g, "g", ("classic", "diluted")) == "diluted" else 1.0


def multitasking_hierarchy(K: int, d: ArrayLike, *, g: str = "classic") -> Hierarchy:
    r"""Overlaps and energy of the hierarchical state at T = 0, in closed form.

    .. math:: m_k = d^{k-1} (1 - d), \qquad E = -\frac{1}{2 g} \sum_k m_k^2, \qquad
              \text{stable} \iff 1 - 2 d + d^K > 0

    Every spin follows the first pattern that it carries.

    Args:
        K: number of patterns, >= 1.
        d: dilution, in [0, 1), any shape.
        g: ``"classic"`` (default) or ``"diluted"``.

    Returns:
        :class:`Hierarchy`.

    Raises:
        DomainError: an argument out of its range.

    Source: arXiv:2308.04106; the stability derived here.

    Check: tests/statmech/test_multitasking.py::test_zero_temperature
    """
    K, x = integer(K, "K", at_least=1), _dilution(d)
    m = x[..., None] ** np.arange(K) * (1 - x[..., None])
    stable = np.asarray(1 - 2 * x + x**K > 0)
    return Hierarchy(m, np.asarray(-np.sum(m**2, axis=-1) / (2 * _scale(x, g))), stable)


def multitasking_hierarchy_limit(K: int) -> float:
    r"""Dilution at which the hierarchical state at T = 0 breaks down.

    .. math:: d + d^2 + \dots + d^{K-1} = 1

    Args:
        K: number of patterns, >= 1; for one or two it is 1.

    Returns:
        Float: 0.618 for three patterns, decreasing to 1/2.

    Raises:
        DomainError: K < 1.

    Source: derived here.

    Check: tests/statmech/test_multitasking.py::test_zero_temperature
    """
    K = integer(K, "K", at_least=1)
    if K <= 2:
        return 1.0

    def excess(d: float) -> float:
        return sum(d**j for j in range(1, K)) - 1

    return float(scipy.optimize.brentq(excess, 0.5, 1.0, xtol=1e-15, rtol=1e-15))


def multitasking_onset(d: ArrayLike, *, g: str = "classic") -> Array:
    r"""Temperature below which patterns are retrieved, :math:`T = (1 - d) / g`, with examples too.

    Args:
        d: dilution, in [0, 1).
        g: ``"classic"`` (default) or ``"diluted"``.

    Returns:
        Temperatures.

    Raises:
        DomainError: an argument out of its range.

    Source: derived here (the quadratic term of the free energy).

    Check: tests/statmech/test_multitasking.py::test_onset
    """
    x = _dilution(d)
    return np.asarray((1 - x) / _scale(x, g))


def multitasking_parallel_onset(examples: Any = None) -> float:
    r"""Dilution above which, just below the onset, all patterns are retrieved in parallel.

    .. math:: d = 1 - \tfrac13 \langle \hat x^4 \rangle

    with the fourth moment of a non-zero entry: 2/3 for the patterns themselves. The quartic term
    of the free energy is :math:`(1-d)(\langle \hat x^4\rangle - 3(1-d)) \sum_\mu M_\mu^4
    + 3 (1-d)^2 (\sum_\mu M_\mu^2)^2`; where the first coefficient is positive, equal amplitudes
    win over a single one. The noise of examples lowers the switch.

    Args:
        examples: ``Examples(M, r)`` or None (default).

    Returns:
        Float in [0, 2/3].

    Raises:
        DomainError: examples without M and r, or out of range.

    Source: derived here.

    Check: tests/statmech/test_multitasking.py::test_onset
    """
    return 1 - average.kurtosis(average.example_numbers(examples)) / 3


def multitasking_one_step(K: int, d: float, *, examples: Any) -> Array:
    r"""Overlaps after one update of all spins that starts from the hierarchical state.

    .. math:: m_\mu^{(1)} = E\, \xi^\mu\, \mathrm{sign} \sum_\nu \hat x^\nu \tilde m_\nu, \qquad
              \tilde m_\nu = d^{\nu - 1} (1 - d)

    Args:
        K: number of patterns, >= 1.
        d: dilution, in [0, 1).
        examples: ``Examples(M, r)``: exact for any number of them.

    Returns:
        ``(K,)``.

    Raises:
        DomainError: an argument out of its range.

    Source: derived here; signal-to-noise analysis of arXiv:2308.04106.

    Check: tests/statmech/test_multitasking.py::test_one_step
    """
    start = multitasking_hierarchy(K, float(number(d, "d", at_least=0.0, below=1.0))).m
    table = average.states(K, average.example_numbers(examples))
    field = table.x @ start
    spin = np.where(np.abs(field) > average.TIE, np.sign(field), 0.0)
    p = table.weight * float(d) ** table.zeros * (1 - float(d)) ** (K - table.zeros)
    return np.asarray((p * spin) @ table.truth)


def multitasking_one_step_gaussian(K: int, d: float, *, rho: float) -> Array:
    r"""The same for many examples, whose noise is Gaussian with dataset entropy rho.

    .. math:: m_\mu^{(1)} = \sum_c P(c)\, c_\mu\, \mathrm{erf}
              \frac{c \cdot \tilde m}{\sqrt{2 \rho \sum_\nu c_\nu^2 \tilde m_\nu^2}}, \qquad
              c \in \{-1, 0, 1\}^K

    Args:
        K: number of patterns, >= 1.
        d: dilution, in [0, 1).
        rho: dataset entropy (1 - r^2) / (M r^2), >= 0.

    Returns:
        ``(K,)``.

    Raises:
        DomainError: an argument out of its range.

    Source: derived here; signal-to-noise analysis of arXiv:2308.04106.

    Check: tests/statmech/test_multitasking.py::test_one_step
    """
    start = multitasking_hierarchy(K, float(number(d, "d", at_least=0.0, below=1.0))).m
    number(rho, "rho", at_least=0.0)
    table = average.states(K, None)
    field = table.x @ start
    spread = np.sqrt(2 * float(rho) * (table.x**2 @ start**2))
    clean = np.sign(np.where(np.abs(field) > average.TIE, field, 0.0))
    noisy = scipy.special.erf(field / np.where(spread > 0, spread, 1.0))
    p = table.weight * float(d) ** table.zeros * (1 - float(d)) ** (K - table.zeros)
    return np.asarray((p * np.where(spread > 0, noisy, clean)) @ table.x)


def multitasking_examples_needed(r: ArrayLike) -> Array:
    r"""Smallest number of examples with which one pattern is learned, :math:`M > (1 - r^2) / r^2`.

    The criterion is that signal exceeds noise, :math:`\mathrm{erf}(1 / \sqrt{2 \rho}) >
    \mathrm{erf}(1 / \sqrt 2)`, which is :math:`\rho < 1`, with and without supervision.

    Args:
        r: quality of the examples, in (0, 1].

    Returns:
        Integers.

    Raises:
        DomainError: r outside (0, 1].

    Source: arXiv:2308.04106.

    Check: tests/statmech/test_multitasking.py::test_examples_needed
    """
    x = np.asarray(r, np.float64)
    if not np.all((x > 0) & (x <= 1)):
        raise DomainError(f"r must be in (0, 1], got {x[~((x > 0) & (x <= 1))].flat[0]:g}.")
    return np.asarray(np.floor((1 - x**2) / x**2 * (1 + 1e-14)).astype(int) + 1)
