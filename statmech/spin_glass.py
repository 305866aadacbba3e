r"""The Sherrington-Kirkpatrick model: replica-symmetric states, their stability, and k steps.

.. math:: H = -\sum_{i<j} J_{ij} \sigma_i \sigma_j - h \sum_i \sigma_i, \qquad J_{ij} \sim N(0, 1/N)
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.errors import DomainError, ShapeError
from deeplimits.precision import float64_scope, require_x64
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import Array, ArrayLike
from deeplimits.validate import as_real, finite, integer
from statmech.averages import hyperbolic_averages
from statmech.parisi import ParisiState, parisi

#: The smallest overlap that is looked for; below it the overlap is 0.
SMALLEST = 1e-14
#: Bisections of its logarithm: to 1e-12, which one Newton step squares.
HALVINGS = 45


@register_dataclass
@dataclasses.dataclass(frozen=True)
class SKState:
    r"""Replica-symmetric state of the SK model; arrays of the broadcast shape of T and h.

    Attributes:
        q: Edwards-Anderson overlap, 1 at T = 0.
        m: magnetisation.
        f, U, S: free energy, internal energy and entropy per spin.
        replicon: :math:`1 - \beta^2 E\,\mathrm{sech}^4`, negative infinity at T = 0.
        stable: ``replicon > 0``: no replica-symmetry breaking (de Almeida and Thouless).
        residual: ``|E tanh^2 - q|``.
        T, h: temperature and field.
        branch: ``"paramagnet"`` where q = 0, otherwise ``"spin_glass"``.
    """

    q: Any
    m: Any
    f: Any
    U: Any
    S: Any
    replicon: Any
    stable: Any
    residual: Any
    T: Any
    h: Any
    branch: Any


def sk_overlap(T: Array, h: Array) -> Array:
    r"""The replica-symmetric overlap as a differentiable function of temperature and field.

    .. math:: q = \int Dz \tanh^2 \beta(h + \sqrt q\,z)

    For use inside ``jit``, ``vmap`` and ``grad`` (derivatives are implicit). The solution is the
    positive one, which is unique because the right side over q decreases; 0 where there is none.

    Args:
        T: temperature, float64, > 0, any shape.
        h: field, float64, of the same shape.

    Raises:
        PrecisionError: JAX runs in float32.

    Source: D. Sherrington and S. Kirkpatrick, Phys. Rev. Lett. 35, 1792 (1975), eq. (11).

    Check: tests/statmech/test_spin_glass.py::test_derivatives
    """
    require_x64("sk_overlap")
    T, h = jnp.broadcast_arrays(T, h)
    T_fixed, h_fixed = jax.lax.stop_gradient((T, h))

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        q = jnp.exp((low + high) / 2)
        above = hyperbolic_averages(h_fixed / T_fixed, jnp.sqrt(q) / T_fixed).tanh2 > q
        middle = (low + high) / 2
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    ends = (jnp.full_like(T, np.log(SMALLEST)), jnp.zeros_like(T))
    low, high = jax.lax.fori_loop(0, HALVINGS, halve, ends)
    q = jax.lax.stop_gradient(jnp.exp((low + high) / 2))
    mean = hyperbolic_averages(h / T, jnp.sqrt(q) / T)
    # d(E tanh^2)/dq in closed form; the last Newton step carries the implicit derivative
    slope = jax.lax.stop_gradient((3 * mean.sech4 - 2 * (1 - mean.tanh2)) / T**2 - 1)
    return jnp.where((h == 0) & (T >= 1), 0.0, q - (mean.tanh2 - q) / slope)


@float64_scope
def sk(T: ArrayLike, h: ArrayLike = 0.0, rsb: int = 0) -> SKState | ParisiState:
    r"""The SK model with replica symmetry, or with k steps of replica-symmetry breaking.

    .. math:: f = -\frac{\beta}{4}(1 - q)^2 - T \int Dz \ln 2\cosh\beta(h + \sqrt q z), \qquad
       U = -\frac{\beta}{2}(1 - q^2) - h m

    At T = 0: :math:`f = -E|z + h|` and :math:`S = -\phi(h)^2`, negative, with the normal density.

    Args:
        T: temperature, >= 0; any shape with ``rsb=0``, otherwise one number.
        h: external field, broadcast with T, default 0.
        rsb: number of steps k, 0 to 24, default 0. ``parisi("sk", T, k, h)`` does the work for
            k > 0.

    Returns:
        :class:`SKState` for ``rsb=0``, otherwise :class:`statmech.parisi.ParisiState`.

    Raises:
        DomainError: T negative, an argument not finite, or arrays with ``rsb > 0``.
        ShapeError: an empty array, or shapes that do not broadcast.

    Source: D. Sherrington and S. Kirkpatrick, Phys. Rev. Lett. 35, 1792 (1975); stability:
        J. R. L. de Almeida and D. J. Thouless, J. Phys. A 11, 983 (1978).

    Check: tests/statmech/test_spin_glass.py
    """
    if integer(rsb, "rsb", at_least=0) > 0:
        return parisi("sk", T, rsb, h)  # type: ignore[arg-type]  # validated there
    finite(as_real(T, "T"), "T")
    finite(as_real(h, "h"), "h")
    try:
        T, h = np.broadcast_arrays(np.asarray(T, np.float64), np.asarray(h, np.float64))
    except ValueError as error:
        raise ShapeError(f"T and h do not broadcast: {error}") from error
    if T.size == 0:
        raise ShapeError("T and h must not be empty.")
    if np.any(T < 0):
        raise DomainError(f"T must be >= 0, got {T.min():g}.")
    cold = T == 0
    values = _batched(_replica_symmetric, np.where(cold, 1.0, T), h)
    if cold.any():
        at_zero = _batched(_zero_temperature, T, h)
        values = [np.where(cold, b, a) for a, b in zip(values, at_zero, strict=True)]
    q, m, f, U, S, replicon, residual = (v[()] for v in values)
    return SKState(
        q=q,
        m=m,
        f=f,
        U=U,
        S=S,
        replicon=replicon,
        stable=replicon > 0,
        residual=residual,
        T=T[()],
        h=h[()],
        branch=np.where(q > 0, "spin_glass", "paramagnet")[()],
    )


def _batched(core: Any, T: np.ndarray, h: np.ndarray) -> list[np.ndarray]:
    """Results of the shape of T; the program is compiled for 64, 128, 256, ... points only."""
    size = max(64, 2 ** int(np.ceil(np.log2(max(T.size, 1)))))
    flat = (jnp.asarray(np.resize(a.ravel(), size)) for a in (T, h))
    return [np.asarray(v)[: T.size].reshape(T.shape) for v in core(*flat)]


@jax.jit
def _replica_symmetric(T: Array, h: Array) -> tuple[Array, ...]:
    q = sk_overlap(T, h)
    mean = hyperbolic_averages(h / T, jnp.sqrt(q) / T)
    f = -((1 - q) ** 2) / (4 * T) - T * mean.log_2cosh
    U = -(1 - q**2) / (2 * T) - h * mean.tanh
    residual = jnp.abs(mean.tanh2 - q)
    return q, mean.tanh, f, U, (U - f) / T, 1 - mean.sech4 / T**2, residual


@jax.jit
def _zero_temperature(T: Array, h: Array) -> tuple[Array, ...]:
    density = jnp.exp(-(h**2) / 2) / np.sqrt(2 * np.pi)
    m = jax.scipy.special.erf(h / np.sqrt(2))
    f = -(2 * density + h * m)
    one = jnp.ones_like(T)
    return one, m, f, f, -(density**2), -jnp.inf * one, 0 * one
