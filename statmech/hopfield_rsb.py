r"""The Hopfield network at T = 0 with one step of replica-symmetry breaking.

With :math:`q_1 \to 1`, :math:`\beta (1 - q_1) \to C`, :math:`\beta x \to \mu`, and
:math:`A = 1 - C - \mu (1 - q_0)`, :math:`B = 1 - C`, :math:`r_0 = q_0 / A^2`,
:math:`r_1 - r_0 = (1 - q_0) / (A B)`, a neuron sees the field :math:`h = m + \sqrt{\alpha r_0} z`
and a second Gaussian part of variance :math:`b^2 = \alpha (r_1 - r_0)`:

.. math:: I(h) = \int Dz\,e^{\mu |h + b z|}, \qquad s(h) = I_-(h), \qquad
   m = \langle s \rangle, \quad q_0 = \langle s^2 \rangle, \quad
   C = \Big\langle \frac{2 e^{-h^2 / 2 b^2}}{\sqrt{2\pi}\,b\,I(h)} \Big\rangle

(s is the mean sign under the weight of I), and stationarity with respect to mu. The integral over h
has structure of width min(b, 1/mu), hence the nodes :math:`h = \kappa \sinh t`.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from deeplimits.errors import ConvergenceError, DomainError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.special import log_ndtr
from deeplimits.typing import Array
from deeplimits.validate import choice, number

#: Nodes of the trapezoid rule in t.
NODES = 601
#: Unknowns, in the order of the vectors below.
M, C, LOG_D, LOG_MU, ALPHA = range(5)
#: Near the capacity; and the SK limit of many patterns, from which the spin glass is followed.
NEAR_CAPACITY = (0.967, 0.053, np.log(0.0035), np.log(37.0), 0.138)
MANY_PATTERNS = (0.0, 0.024, np.log(0.51), np.log(0.122), 100.0)
#: Range of loads, and factor between two loads along the spin-glass branch.
LOWEST, HIGHEST, FACTOR = 1e-3, 1e3, 1.5


@register_dataclass
@dataclasses.dataclass(frozen=True)
class HopfieldRSB:
    r"""One-step state of the Hopfield network at T = 0; see :func:`hopfield_1rsb`.

    Attributes:
        m: overlap with the retrieved pattern.
        q0: overlap between different states.
        C: :math:`\lim \beta (1 - q_1)`.
        mu: :math:`\lim \beta x`.
        r0, r1: noise power over alpha between and inside states.
        E: energy per neuron (the terms i = j left out).
        E_rs: energy of the same branch with replica symmetry; NaN where it does not exist.
        alpha: load.
        residual: largest of the four equations.
        branch: ``"retrieval"`` or ``"spin_glass"``.
    """

    m: float
    q0: float
    C: float
    mu: float
    r0: float
    r1: float
    E: float
    E_rs: float
    alpha: float
    residual: float
    branch: str = dataclasses.field(metadata={"static": True})


@jax.jit
def _equations(y: Array) -> tuple[Array, Array, Array]:
    """The four equations, their derivatives ``(4, 5)`` and the energy."""

    def system(y: Array) -> tuple[Array, Array]:
        m, c, log_d, log_mu, alpha = y
        d, mu, q0 = jnp.exp(log_d), jnp.exp(log_mu), -jnp.expm1(log_d)
        A, B = 1 - c - mu * d, 1 - c
        r0, gap = q0 / A**2, d / (A * B)
        a, b = jnp.sqrt(alpha * r0), jnp.sqrt(alpha * gap)
        scale = jax.lax.stop_gradient(jnp.minimum(b, 1 / mu))
        top = jax.lax.stop_gradient(jnp.arcsinh((jnp.abs(m) + 10 * a) / scale))
        t = top * jnp.linspace(-1.0, 1.0, NODES)
        h = scale * jnp.sinh(t)
        measure = scale * jnp.cosh(t) * (2 * top / (NODES - 1)) / (a * np.sqrt(2 * np.pi))
        weight = measure * jnp.exp(-(((h - m) / a) ** 2) / 2)
        # below -30 a term is lost beside the other one, whatever it is
        tails = (log_ndtr(jnp.maximum(e * h / b + mu * b, -30.0)) for e in (1.0, -1.0))
        up, down = (e * mu * h + tail for e, tail in zip((1.0, -1.0), tails, strict=True))
        log_sum, s = jnp.logaddexp(up, down), jnp.tanh((up - down) / 2)
        log_I = (mu * b) ** 2 / 2 + log_sum
        at_zero = jnp.exp(-((h / b) ** 2) / 2 - log_I) / np.sqrt(2 * np.pi)
        slope = mu * b**2 + h * s + 2 * b * at_zero

        def mean(values: Array) -> Array:
            return jnp.sum(weight * values)

        ratio, r1 = jnp.log(A / B), r0 + gap
        stationary = (
            -alpha * d / (2 * mu * A)
            - alpha * ratio / (2 * mu**2)
            - alpha * q0 * d / (2 * A**2)
            + alpha / 2 * (r1 - r0 * q0)
            + mean(log_I) / mu**2
            - mean(slope) / mu
        )
        E = (
            (alpha + m**2 + alpha * ratio / mu - alpha * q0 / A) / 2
            + alpha / 2 * (r1 * c + mu * (r1 - r0 * q0))
            - mean(log_I) / mu
        )
        parts = (mean(s) - m, mean(s**2) - q0, 2 * mean(at_zero) / b - c, stationary)
        return jnp.stack(parts), E

    values, E = system(y)
    return values, jax.jacfwd(lambda y: system(y)[0])(y), E


def _solve(start: Any, unknowns: list[int], rows: list[int]) -> np.ndarray:
    """Newton's method for some of the unknowns, with steps halved until the residual falls."""
    y = np.array(start, np.float64)

    def at(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, slopes, _ = _equations(jnp.asarray(y))
        return np.asarray(values)[rows], np.asarray(slopes)[np.ix_(rows, unknowns)]

    values, slopes = at(y)
    for _ in range(60):
        step = np.linalg.solve(slopes, -values)
        scale = np.abs(slopes).max(1)
        if np.abs(values / scale).max() < 1e-14:
            return y
        for _ in range(12):
            new = y.copy()
            new[unknowns] += step
            found = at(new)
            if np.all(np.isfinite(found[0])) and (
                np.abs(found[0] / scale).max() < np.abs(values / scale).max()
            ):
                break
            step = step / 2
        else:
            return y
        y, (values, slopes) = new, found
        if np.abs(step).max() < 1e-14:
            return y
    return y


def _state(y: np.ndarray, branch: str) -> HopfieldRSB:
    values, _, E = _equations(jnp.asarray(y))
    residual = float(np.abs(np.asarray(values)).max())
    if not residual < 1e-10:
        raise ConvergenceError(
            f"the one-step equations of the {branch} branch were not solved at alpha = "
            f"{y[ALPHA]:g} (residual {residual:.2g}). Is there such a state at this load?"
        )
    m, c, log_d, log_mu, alpha = (float(v) for v in y)
    d, mu = float(np.exp(log_d)), float(np.exp(log_mu))
    A, B = 1 - c - mu * d, 1 - c
    r0 = (1 - d) / A**2
    E_rs = _replica_symmetric(alpha) if branch == "retrieval" else _glass_energy(alpha)
    return HopfieldRSB(
        m, 1 - d, c, mu, r0, r0 + d / (A * B), float(E), E_rs, alpha, residual, branch
    )


def _glass_energy(alpha: float) -> float:
    return -1 / np.pi - float(np.sqrt(2 * alpha / np.pi))


def _replica_symmetric(alpha: float) -> float:
    """Energy of retrieval with replica symmetry: y is the largest root of its scalar equation."""

    def gap(y: float) -> float:
        slope = np.sqrt(2 * alpha) + 2 / np.sqrt(np.pi) * np.exp(-y * y)
        return float(y * slope - scipy.special.erf(y))

    lowest = scipy.optimize.minimize_scalar(gap, bounds=(1.0, 3.0), method="bounded").x
    if gap(lowest) > 0:
        return np.nan
    y = scipy.optimize.brentq(gap, lowest, 1.5 / np.sqrt(alpha) + 2, xtol=1e-15)
    m = float(scipy.special.erf(y))
    return alpha / 2 - m**2 / 2 - (m / y) ** 2 / 4


@float64_scope
def hopfield_1rsb_capacity() -> HopfieldRSB:
    r"""The largest load with retrieval at T = 0, with one step of replica-symmetry breaking.

    :math:`\alpha_c = 0.138186\ldots`, against 0.137906 with replica symmetry: the maximum over m of
    the load at which the four equations hold.

    Returns:
        :class:`HopfieldRSB` at the capacity.

    Source: K. Steffan and R. Kuehn, Z. Phys. B 95, 249 (1994).

    Check: tests/statmech/test_rsb.py::test_capacity
    """
    rows, unknowns = [0, 1, 2, 3], [C, LOG_D, LOG_MU, ALPHA]
    y = np.array(NEAR_CAPACITY)

    def slope(m: float) -> float:
        y[:] = _solve(np.append(m, y[1:]), unknowns, rows)
        slopes = np.asarray(_equations(jnp.asarray(y))[1])
        return float(np.linalg.solve(slopes[:, 1:], -slopes[:, 0])[-1])

    scipy.optimize.brentq(slope, 0.966, 0.968, xtol=1e-13)
    return _state(y, "retrieval")


@functools.cache
def _retrieval_path() -> np.ndarray:
    """Solutions from the capacity towards small loads, for falling 1 - m, ``(n, 5)``."""
    at = hopfield_1rsb_capacity()
    path = [np.array([at.m, at.C, np.log(1 - at.q0), np.log(at.mu), at.alpha])]
    step = -0.03
    while len(path) < 160 and path[-1][ALPHA] > 0.08:
        guess = path[-1] if len(path) == 1 else 2 * path[-1] - path[-2]
        guess = guess.copy()
        guess[M] = 1 - (1 - path[-1][M]) * np.exp(step)
        y = _solve(guess, [C, LOG_D, LOG_MU, ALPHA], [0, 1, 2, 3])
        if not np.abs(np.asarray(_equations(jnp.asarray(y))[0])).max() < 1e-11:
            break
        path.append(y)
    return np.array(path)


@float64_scope
def hopfield_1rsb(alpha: float, branch: str = "spin_glass") -> HopfieldRSB:
    r"""The Hopfield network at T = 0 with one step of replica-symmetry breaking.

    .. math:: E = \frac{\alpha + m^2}{2} + \frac{\alpha}{2\mu} \ln\frac{A}{B}
       - \frac{\alpha q_0}{2 A} + \frac{\alpha}{2} [r_1 C + \mu (r_1 - r_0 q_0)]
       - \frac1\mu \langle \ln I \rangle

    Args:
        alpha: load K / N. Spin glass: 0.001 to 1000. Retrieval: up to the capacity 0.138186, and
            down to where the breaking is lost in rounding (see Raises).
        branch: ``"spin_glass"`` (default) or ``"retrieval"``.

    Returns:
        :class:`HopfieldRSB`.

    Raises:
        DomainError: a load out of range.
        ConvergenceError: the equations were not solved.

    Source: A. Crisanti, D. J. Amit and H. Gutfreund, Europhys. Lett. 2, 337 (1986); K. Steffan and
        R. Kuehn, Z. Phys. B 95, 249 (1994). Equations at T = 0 derived here.

    Check: tests/statmech/test_rsb.py
    """
    alpha = float(number(alpha, "alpha", at_least=LOWEST, at_most=HIGHEST))
    choice(branch, "branch", ("spin_glass", "retrieval"))
    if branch == "spin_glass":
        unknowns, rows = [C, LOG_D, LOG_MU], [1, 2, 3]
        y = np.array(MANY_PATTERNS)
        steps = max(2, int(np.ceil(abs(np.log(alpha / y[ALPHA])) / np.log(FACTOR))))
        for load in np.geomspace(y[ALPHA], alpha, steps):
            y[ALPHA] = load
            y = _solve(y, unknowns, rows)
        return _state(y, branch)
    path = _retrieval_path()
    highest, lowest = path[0, ALPHA], path[-1, ALPHA]
    if not lowest <= alpha <= highest:
        raise DomainError(
            f"retrieval with broken replica symmetry is followed for {lowest:.4f} <= alpha <= "
            f"{highest:.6f}, got {alpha:g}. At lower loads replica symmetry is broken too weakly "
            "to be resolved: use statmech.hopfield(alpha, 0.0)."
        )
    after = int(np.argmax(path[:, ALPHA] <= alpha))
    y = path[max(after, 1)].copy()
    y[ALPHA] = alpha
    return _state(_solve(y, [M, C, LOG_D, LOG_MU], [0, 1, 2, 3]), branch)


@float64_scope
def hopfield_1rsb_ground_state() -> float:
    r"""The load below which retrieval is the ground state, with one step for the spin glass.

    0.0561416; with replica symmetry 0.0518543. Retrieval is replica symmetric there up to terms
    of order :math:`e^{-1 / 2 \alpha}`.

    Source: derived here.

    Check: tests/statmech/test_rsb.py::test_ground_state
    """

    def difference(alpha: float) -> float:
        return _replica_symmetric(alpha) - hopfield_1rsb(alpha).E

    return float(scipy.optimize.brentq(difference, 0.054, 0.058, xtol=1e-12))
