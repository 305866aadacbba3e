r"""Averages over the Gaussian field of a Hopfield network, regular at zero temperature.

The field of a spin is :math:`m + a z`. In units of the temperature (as in
:mod:`statmech.averages`) both diverge at T = 0, and so do derivatives with respect to T at small T.
Here the same trapezoid rule is written in m, a and T: averages of local functions are divided by T
beforehand, those of tanh and ln 2cosh are deviations from the error function of order T and T^2.
All of it, including derivatives in T, is finite and accurate down to T = 0.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from deeplimits.typing import Array
from statmech.averages import HALF_WIDTH, SPACING

_HALF = math.ceil(HALF_WIDTH / SPACING)
_GRID = SPACING * np.arange(-_HALF, _HALF + 1)
#: The error function and the smoothed modulus on the grid.
_SIGN = scipy.special.erf(_GRID)
_MODULUS = _GRID * _SIGN + np.exp(-(_GRID**2)) / np.pi**0.5
#: Keeps 0/0 away at T = a = 0, where every average has its limit.
_TINY = 1e-150


class FieldAverages(NamedTuple):
    r"""Averages over z.

    Attributes:
        tanh: :math:`M = \int Dz \tanh((m + a z)/T)`.
        C: :math:`T^{-1} \int Dz\,\mathrm{sech}^2 = \partial M / \partial m`, the susceptibility.
        C_m, C_mm: its derivatives in m; a derivative in a is a times one order more in m.
        sech4: :math:`T^{-1} \int Dz\,\mathrm{sech}^4`.
        log_2cosh: :math:`T \int Dz \ln 2\cosh`.
        q: :math:`\int Dz \tanh^2 = 1 - T C`.
    """

    tanh: Array
    C: Array
    C_m: Array
    C_mm: Array
    sech4: Array
    log_2cosh: Array
    q: Array


def field_averages(m: Array, a: Array, T: Array) -> FieldAverages:
    r"""Averages over the field of mean m and standard deviation a at temperature T.

    For use inside JAX programs: no validation, differentiable, batched.

    Args:
        m: mean of the field, float64, any shape.
        a: its standard deviation, >= 0, same shape.
        T: temperature, >= 0, same shape.

    Returns:
        :class:`FieldAverages`, absolute accuracy 1e-15 over the larger of a and T.

    Source: derived here (error function subtracted as in :mod:`statmech.averages`; derivatives by
        Gaussian integration by parts).

    Check: ``tests/statmech/test_hopfield_averages.py``
    """
    m, a, T = (t[..., None] for t in jnp.broadcast_arrays(m, a, T))
    grid = jnp.asarray(_GRID).reshape((1,) * (m.ndim - 1) + (-1,))
    wide = a > T
    a_safe, T_safe = jnp.where(wide, a, 1.0), jnp.where(wide, 1.0, jnp.maximum(T, _TINY))
    # numbers per point first: divisions and choices at every node cost more than exponentials
    over_a, over_T = 1 / a_safe, 1 / T_safe
    x = jnp.where(wide, 0.0, m * over_T) + jnp.where(wide, 1.0, a * over_T) * grid  # field over T
    z = jnp.where(wide, T * over_a, 1.0) * grid - jnp.where(wide, m * over_a, 0.0)
    height = SPACING / (2 * np.pi) ** 0.5 * jnp.where(wide, over_a, over_T)
    weight = height * jnp.exp(-(z**2) / 2)
    e = jnp.exp(-2 * jnp.abs(x))
    share = 1 / (1 + e)
    t = jnp.sign(x) * (1 - e) * share
    s = 4 * e * share**2
    # derivatives in m act on the density over the field, on the function over z
    slope = jnp.where(wide, z * over_a, -2 * t * over_T)
    bend = jnp.where(wide, (z**2 - 1) * over_a**2, (4 * t**2 - 2 * s) * over_T**2)
    # only over the field must the integrand be local; there the nodes are constants
    smooth = jnp.where(wide, jnp.asarray(_SIGN).reshape(grid.shape), 0.0)
    modulus = jnp.where(wide, jnp.asarray(_MODULUS).reshape(grid.shape), 0.0)

    def total(values: Array) -> Array:
        return jnp.sum(weight * values, axis=-1)

    scale = jnp.where(wide, T, T_safe)[..., 0]
    wide, m, a, T = wide[..., 0], m[..., 0], a[..., 0], T[..., 0]
    C = total(s)
    width = jnp.where(wide, jnp.sqrt(2 * a**2 + T**2 + _TINY**2), 1.0)
    sign = jax.scipy.special.erf(m / width)
    mean_modulus = m * sign + width / jnp.pi**0.5 * jnp.exp(-((m / width) ** 2))
    return FieldAverages(
        tanh=jnp.where(wide, sign, 0.0) + scale * total(t - smooth),
        C=C,
        C_m=total(slope * s),
        C_mm=total(bend * s),
        sech4=total(s**2),
        log_2cosh=jnp.where(wide, mean_modulus, 0.0)
        + scale**2 * total(jnp.abs(x) + jnp.log1p(e) - modulus),
        q=1 - T * C,
    )
