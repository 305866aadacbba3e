r"""The Ising p-spin glass: temperatures of its transitions, states with one step, ground state.

.. math:: H = -\sum_{i_1 < \dots < i_p} J_{i_1 \dots i_p} \sigma_{i_1} \cdots \sigma_{i_p}, \qquad
   \mathrm{Var}(J) = \frac{p!}{2 N^{p-1}}, \qquad \xi(q) = q^p / 2

The one-step state has overlap 0 between states. In the variables x and :math:`y = x u`,
:math:`u = \beta \sqrt{\xi'(q)}`, overlap and temperature are explicit,

.. math:: q = \langle \tanh^2 \rangle_x, \qquad T^2 = \frac{p\,q^{p-1}}{2 u^2}

and one equation is left for y at given x, whose left side decreases through its only root:

.. math:: \frac{p - 1}{2 p}\,q\,y^2 - x \langle \ln 2\cosh \rangle_x
   + \ln \int Dz (2\cosh u z)^x = 0
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.errors import DomainError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import Array, ArrayLike
from deeplimits.validate import as_real, finite, integer
from statmech.averages import hyperbolic_averages
from statmech.p_spin_averages import half_line, tilted_averages

#: Bisections of each unknown; the smallest x that is looked for.
HALVINGS, SMALLEST_X = 54, 1e-7
#: Lowest temperature of a state; at T = 0 the closed form is used.
LOWEST_T = 1e-5


@register_dataclass
@dataclasses.dataclass(frozen=True)
class PSpin:
    r"""Transitions of the p-spin glass; see :func:`p_spin`.

    Attributes:
        p: number of spins in an interaction.
        T_d, q_d: dynamic transition: below it exponentially many states, of this self-overlap.
        T_c, q_c: static transition, where x = 1 and the states become few.
        T_G, q_G, x_G: Gardner's transition, below which the states themselves break up; given as
            T = 0 where it is below 1e-7 (p > 30).
        e0, mu0: ground-state energy and slope of x(T) at T = 0, with one step (T_G > 0: a lower
            bound, which more steps raise in the fourth digit).
        e_rs: energy at T = 0 with replica symmetry.
    """

    p: int
    T_d: float
    q_d: float
    T_c: float
    q_c: float
    T_G: float
    q_G: float
    x_G: float
    e0: float
    mu0: float
    e_rs: float


@register_dataclass
@dataclasses.dataclass(frozen=True)
class PSpinState:
    r"""Equilibrium of the p-spin glass with one step; arrays of the shape of T.

    Attributes:
        q: overlap inside a state, 0 above the static transition.
        x: probability that two replicas are in different states (1 above it, 0 at T = 0).
        f, U, S: free energy, internal energy and entropy per spin.
        replicon: stability of the step, :math:`1 - \beta^2 \xi''(q) \langle \mathrm{sech}^4
            \rangle_x`; negative below Gardner's transition.
        stable: ``replicon > 0``.
        T: temperature.
        branch: ``"paramagnet"`` or ``"glass"``.
    """

    q: Any
    x: Any
    f: Any
    U: Any
    S: Any
    replicon: Any
    stable: Any
    T: Any
    branch: Any


class _OneStep(NamedTuple):
    x: Array
    q: Array
    T: Array
    f: Array
    U: Array
    replicon: Array


def _bisect(left: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """Where the Boolean ``left`` changes from true to false."""

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = (ends[0] + ends[1]) / 2
        below = left(middle)
        return jnp.where(below, middle, ends[0]), jnp.where(below, ends[1], middle)

    low, high = jax.lax.fori_loop(0, HALVINGS, halve, (low, high))
    return (low + high) / 2


def _one_step(p: Array, log_x: Array) -> _OneStep:
    """The one-step solution at given x."""
    x = jnp.exp(log_x)

    def positive(y: Array) -> Array:
        a = tilted_averages(x, y)
        return (p - 1) / (2 * p) * (1 - a.sech2) * y**2 - x * a.log_2cosh + a.log_norm > 0

    ends = jnp.full_like(x, 0.5), 3 + 2 * jnp.sqrt(2 * p * np.log(2.0)) * jnp.ones_like(x)
    y = _bisect(positive, *ends)
    a = tilted_averages(x, y)
    q, u = 1 - a.sech2, y / x
    log_q = jnp.log1p(-a.sech2)
    T = jnp.sqrt(p / 2) * jnp.exp((p - 1) / 2 * log_q) / u
    # theta(1) - theta(q) - xi'(1) + xi'(q) is of second order in 1 - q
    curved = (p * jnp.expm1((p - 1) * log_q) - (p - 1) * jnp.expm1(p * log_q)) / 2
    power = jnp.exp(p * log_q)
    f = (x * (p - 1) * power / 2 + curved) / (2 * T) - T * a.log_norm / x
    U = -(1 - (1 - x) * power) / (2 * T)
    return _OneStep(x, q, T, f, U, 1 - u**2 * (p - 1) / q * a.sech4)


@jax.jit
def _states(p: Array, T: Array) -> tuple[_OneStep, Array]:
    """One-step solutions at the temperatures (as far as they exist), and the static T_c."""
    T_c = _one_step(p, jnp.zeros(())).T
    low, high = jnp.full_like(T, np.log(SMALLEST_X)), jnp.zeros_like(T)
    log_x = _bisect(lambda log_x: _one_step(p, log_x).T < T, low, high)
    return _one_step(p, log_x), T_c


@jax.jit
def _transitions(p: Array) -> tuple[_OneStep, _OneStep, Array, Array, Array]:
    static = _one_step(p, jnp.zeros(()))
    low = jnp.full((), np.log(SMALLEST_X))
    log_x = _bisect(lambda log_x: _one_step(p, log_x).replicon < 0, low, jnp.zeros(()))
    gardner = _one_step(p, log_x)

    # At x = 1 the tilt only shifts the field: q = E tanh(l + sqrt(l) z), dq/dl = E sech^4, and
    # T^2 = p q^(p-1) / 2l is largest where (p - 1) l q' = q.
    def rising(log_l: Array) -> Array:
        mean = hyperbolic_averages(jnp.exp(log_l), jnp.exp(log_l / 2))
        return (p - 1) * jnp.exp(log_l) * mean.sech4 > mean.tanh

    log_l = _bisect(rising, jnp.full((), -4.0), jnp.log(20 * p))
    q_d = hyperbolic_averages(jnp.exp(log_l), jnp.exp(log_l / 2)).tanh
    T_d = jnp.sqrt(p / 2 * q_d ** (p - 1) / jnp.exp(log_l))
    y = _bisect(lambda y: _ground_slope(p, y) > 0, jnp.full((), 0.5), 3 + 2 * jnp.sqrt(2 * p))
    return static, gardner, T_d, q_d, y


def _ground_slope(p: Array, y: Array) -> Array:
    """Proportional to the derivative of the ground-state functional with respect to mu."""
    log_norm, mean = half_line(y)
    return (p - 1) / (2 * p) * y**2 - y * mean + log_norm


def _ground_energy(p: Any, y: Any) -> tuple[Any, Any]:
    """The ground-state functional, and mu."""
    mu = y / np.sqrt(p / 2)
    return mu * (p - 1) / 4 - half_line(jnp.asarray(y))[0] / mu, mu


@float64_scope
def p_spin(p: int) -> PSpin:
    r"""Dynamic, static and Gardner transitions and the ground state of the Ising p-spin glass.

    .. math:: T_d = \max_\lambda \sqrt{\frac{p\,q(\lambda)^{p-1}}{2\lambda}}, \quad
       q(\lambda) = \int Dz \tanh(\lambda + \sqrt\lambda z), \qquad
       e_0 = \max_\mu \Big\{\frac{\mu (p-1)}{4}
       - \frac{1}{\mu} \ln 2 e^{\mu^2 p / 4}\,\Phi(\mu \sqrt{p/2})\Big\}

    Args:
        p: 3 to 40 (the SK model, p = 2, has no such transitions: see :func:`statmech.sk`).

    Returns:
        :class:`PSpin`. The limit p -> infinity is :func:`statmech.rem`.

    Raises:
        DomainError: p out of range.

    Source: E. Gardner, Nucl. Phys. B 257, 747 (1985); dynamics and values for p = 3:
        A. Montanari, F. Ricci-Tersenghi, Eur. Phys. J. B 33, 339 (2003). Parametrisation derived
        here.

    Check: tests/statmech/test_p_spin.py
    """
    p = _check_p(p)
    static, gardner, T_d, q_d, y = jax.tree.map(float, _transitions(jnp.float64(p)))
    e0, mu0 = _ground_energy(p, y)
    exists = gardner.x > 2 * SMALLEST_X
    return PSpin(
        p=p,
        T_d=T_d,
        q_d=q_d,
        T_c=static.T,
        q_c=static.q,
        T_G=gardner.T if exists else 0.0,
        q_G=gardner.q if exists else 1.0,
        x_G=gardner.x if exists else 0.0,
        e0=float(e0),
        mu0=float(mu0),
        e_rs=-float(np.sqrt(p / np.pi)),
    )


@float64_scope
def p_spin_state(p: int, T: ArrayLike) -> PSpinState:
    r"""Equilibrium of the Ising p-spin glass at any temperature, with one step below T_c.

    .. math:: U = -\frac{\beta}{2} [1 - (1 - x) q^p], \qquad
       f_{paramagnet} = -T \ln 2 - \frac{1}{4T}

    Args:
        p: 3 to 40.
        T: temperatures, any shape, 0 or >= 1e-5.

    Returns:
        :class:`PSpinState`; S and replicon are NaN at T = 0.

    Raises:
        DomainError: p or a temperature out of range.
        ShapeError: no temperature.

    Source: E. Gardner, Nucl. Phys. B 257, 747 (1985). Parametrisation derived here.

    Check: tests/statmech/test_p_spin.py::test_states_against_the_parisi_functional
    """
    p = _check_p(p)
    finite(as_real(T, "T"), "T")
    T = np.asarray(T, np.float64)
    if T.size == 0:
        raise ShapeError("T must not be empty.")
    if np.any((T < LOWEST_T) & (T != 0)):
        raise DomainError(f"T must be 0 or >= {LOWEST_T}, got {T.min():g}.")
    cold = T == 0
    safe = np.where(cold, 1.0, T)
    size = max(8, 2 ** int(np.ceil(np.log2(max(T.size, 1)))))  # few shapes to compile
    padded = jnp.asarray(np.resize(safe.ravel(), size))
    found, T_c = jax.tree.map(np.asarray, _states(jnp.float64(p), padded))
    found = _OneStep(*(v[: T.size].reshape(T.shape) for v in found))
    para, ground = safe >= T_c, p_spin(p).e0 if cold.any() else 0.0

    def pick(glass: Any, paramagnet: Any, at_zero: Any) -> Any:
        return np.where(cold, at_zero, np.where(para, paramagnet, glass))[()]

    U = pick(found.U, -1 / (2 * safe), ground)
    f = pick(found.f, -safe * np.log(2.0) - 1 / (4 * safe), ground)
    replicon = pick(found.replicon, 1.0, np.nan)
    return PSpinState(
        q=pick(found.q, 0.0, 1.0),
        x=pick(found.x, 1.0, 0.0),
        f=f,
        U=U,
        S=np.where(cold, np.nan, (U - f) / safe)[()],
        replicon=replicon,
        stable=replicon > 0,
        T=T[()],
        branch=np.where(para & ~cold, "paramagnet", "glass")[()],
    )


@float64_scope
def p_spin_complexity(p: int, mu: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    r"""Energy and complexity of the metastable states at T = 0, with one step.

    .. math:: \Sigma = \mu^2 \phi'(\mu), \qquad e = \phi + \mu \phi', \qquad
       \phi(\mu) = \frac{\mu (p-1)}{4} - \frac1\mu \ln 2\int_0^\infty Dz\,e^{\mu \sqrt{p/2} z}

    Args:
        p: 3 to 40.
        mu: > 0, any shape; the ground state at ``p_spin(p).mu0``, higher energies below it. States
            of high energy are unstable to further steps, which is not taken into account.

    Returns:
        ``(e, complexity)``, NumPy float64 of the shape of mu.

    Raises:
        DomainError: p out of range, or mu <= 0.

    Source: R. Monasson, Phys. Rev. Lett. 75, 2847 (1995); T = 0: A. Montanari,
        F. Ricci-Tersenghi, Eur. Phys. J. B 33, 339 (2003).

    Check: tests/statmech/test_p_spin.py::test_complexity
    """
    p = _check_p(p)
    finite(as_real(mu, "mu"), "mu")
    mu = np.asarray(mu, np.float64)
    if np.any(mu <= 0):
        raise DomainError(f"mu must be > 0, got {mu.min():g}.")
    y = jnp.asarray(mu * np.sqrt(p / 2))
    phi = np.asarray(_ground_energy(p, y)[0])
    complexity = np.asarray(_ground_slope(jnp.float64(p), y))
    return phi + complexity / mu, complexity


def _check_p(p: int) -> int:
    if integer(p, "p", at_least=3) > 40:
        raise DomainError(f"p must lie in 3..40, got {p}. The limit is statmech.rem.")
    return p
