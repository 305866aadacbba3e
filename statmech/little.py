r"""Synchronous (Little) dynamics of the Hopfield network: a stationary law of its own, not Gibbs's.

All spins are updated at once by heat bath. The stationary law
:math:`\pi(\sigma) \propto \prod_i 2\cosh \beta h_i(\sigma)` belongs to two copies of the spins, now
and at the next step, with a pseudo-Hamiltonian :math:`-\sum_{ij} J_{ij} \sigma_i \tau_j`. Besides
m and q there is t, the correlation of a spin with its next value: cycles of length two have t < 1
at T = 0. The capacity at T = 0 is that of sequential dynamics.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from deeplimits.errors import DomainError, ShapeError
from deeplimits.newton import newton
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import ArrayLike
from deeplimits.validate import as_real, finite
from statmech.averages import SHARPNESS, _field_nodes

#: Damped sweeps before Newton, and the residual at which they end.
SWEEPS, GOAL = 4000, 1e-6
#: Overlap below which an iteration from the pattern has left the retrieval branch.
LOST = 0.05


@register_dataclass
@dataclasses.dataclass(frozen=True)
class LittleState:
    """A replica-symmetric state; every field has the shape of the broadcast ``alpha`` and ``T``.

    Attributes:
        alpha, T: load and temperature.
        m: overlap with the retrieved pattern.
        q: Edwards-Anderson parameter of the time-averaged spins.
        t: correlation of a spin with its next value.
        r: power of the noise of the other patterns, divided by alpha.
        residual: largest violation of the three equations.
        exists: False where iteration from the pattern leaves the branch; NaN in the other fields.
    """

    alpha: Any
    T: Any
    m: Any
    q: Any
    t: Any
    r: Any
    residual: Any
    exists: Any


@float64_scope
def little(alpha: ArrayLike, T: ArrayLike) -> LittleState:
    r"""Retrieval state of the Hopfield network under synchronous updates (zero diagonal).

    With :math:`A = 1 + t - 2q`, :math:`B = 1 - t`, :math:`r = q / (1 - \beta A)^2` and

    .. math:: \kappa = \frac\alpha2 \left[\frac{1}{1 - \beta A}
              + \frac{1}{1 + \beta B}\right] - \alpha

    a spin now and at the next step has the weight
    :math:`e^{\beta (m + \sqrt{\alpha r} z)(\sigma + \tau) + \beta \kappa \sigma \tau}`, hence with
    :math:`a = 2\beta(m + \sqrt{\alpha r} z)` and :math:`g = e^{-2\beta\kappa}`

    .. math:: m = \Big\langle \frac{\sinh a}{\cosh a + g} \Big\rangle, \quad
              q = \Big\langle \Big(\frac{\sinh a}{\cosh a + g}\Big)^2 \Big\rangle, \quad
              t = \Big\langle \frac{\cosh a - g}{\cosh a + g} \Big\rangle

    Args:
        alpha: load, >= 0.
        T: temperature, > 0 (at T = 0 use :func:`statmech.hopfield`: the fixed points are the same).

    Returns:
        :class:`LittleState` in float64: the solution that iteration from the pattern reaches.

    Raises:
        DomainError: a negative load, T <= 0, NaN.
        ShapeError: shapes that do not broadcast.

    Source: J. F. Fontanari and R. Koeberle, J. Phys. France 49, 13 (1988); derived again here.

    Check: tests/statmech/test_little.py
    """
    pair = [np.asarray(as_real(v, n), float) for v, n in ((alpha, "alpha"), (T, "T"))]
    for values, name in zip(pair, ("alpha", "T"), strict=True):
        finite(values, name)
    if not (pair[0] >= 0).all():
        raise DomainError(f"alpha must be >= 0, got {pair[0].min():g}.")
    if not (pair[1] > 0).all():
        raise DomainError(
            f"T must be > 0, got {pair[1].min():g}; at T = 0 use statmech.hopfield, whose fixed "
            "points are the same."
        )
    try:
        a, temperature = np.broadcast_arrays(*pair)
    except ValueError as error:
        raise ShapeError(f"alpha and T do not broadcast: {error}") from error
    solved = _solve(jnp.asarray(a.reshape(-1)), jnp.asarray(temperature.reshape(-1)))
    x, residual = (np.asarray(v) for v in solved)
    exists = (residual < 1e-9) & (x[:, 0] > LOST)
    beta = 1 / temperature.reshape(-1)
    r = x[:, 1] / (1 - beta * (1 + x[:, 2] - 2 * x[:, 1])) ** 2
    found = {"m": x[:, 0], "q": x[:, 1], "t": x[:, 2], "r": r, "residual": residual}
    fields = {k: np.where(exists, v, np.nan).reshape(a.shape)[()] for k, v in found.items()}
    return LittleState(alpha=a[()], T=temperature[()], exists=exists.reshape(a.shape)[()], **fields)


def _equations(x: Any, alpha: Any, T: Any) -> jax.Array:
    """The right-hand sides; NaN where beta A >= 1, which is no solution."""
    m, q, t = x
    beta = 1 / T
    gain = 1 - beta * (1 + t - 2 * q)
    r = jnp.where(gain > 0, q / jnp.where(gain > 0, gain, 1) ** 2, jnp.nan)
    kappa = alpha / 2 * (1 / gain + 1 / (1 + beta * (1 - t))) - alpha
    noisy = alpha * r > 0  # the root has no derivative at 0
    noise = jnp.where(noisy, jnp.sqrt(jnp.where(noisy, alpha * r, 1)), 0)
    return _pair_averages(2 * beta * m, 2 * beta * noise, jnp.exp(-2 * beta * kappa))


def _pair_averages(v: Any, u: Any, g: Any) -> jax.Array:
    """Averages of F = sinh a / (cosh a + g), of F^2 and of (cosh a - g) / (cosh a + g).

    F tends to the sign of a, hence the subtraction of an error function, as in
    :mod:`statmech.averages`; the other two differ from 1 by local functions.
    """
    a, weight = _field_nodes(v, u, u > 1)
    decay = jnp.exp(-jnp.abs(a))  # numerator and denominator over e^|a|: nothing overflows
    below = 1 + decay**2 + 2 * g * decay
    F = jnp.sign(a) * (1 - decay**2) / below
    erf = jax.scipy.special.erf
    smooth = erf(v / jnp.sqrt(2 * (u**2 + 1 / (2 * SHARPNESS**2))))
    m = smooth + jnp.sum(weight * (F - erf(SHARPNESS * a)))
    return jnp.stack(
        [m, 1 - jnp.sum(weight * (1 - F**2)), 1 - jnp.sum(weight * 4 * g * decay / below)]
    )


@jax.jit
def _solve(alpha: Any, T: Any) -> tuple[jax.Array, jax.Array]:
    """Damped iteration from the pattern, then Newton, for every load and temperature."""

    def one(alpha: Any, T: Any) -> tuple[jax.Array, jax.Array]:
        def going(state: tuple[Any, ...]) -> Any:
            return (state[1] < SWEEPS) & (state[2] > GOAL)

        def sweep(state: tuple[Any, ...]) -> tuple[Any, ...]:
            x, count, _ = state
            new = _equations(x, alpha, T)
            return (x + new) / 2, count + 1, jnp.max(jnp.abs(new - x))

        x = lax.while_loop(going, sweep, (jnp.ones(3), jnp.zeros((), int), jnp.ones(())))[0]
        x = newton(lambda x: _equations(x, alpha, T) - x, x)[0]
        return x, jnp.max(jnp.abs(_equations(x, alpha, T) - x))

    return jax.vmap(one)(alpha, T)
