r"""Gaussian averages of hyperbolic functions: every replica-symmetric equation is made of them.

Why not Gauss-Hermite: the poles of :math:`\tanh(v + u z)` lie at distance :math:`\pi / 2u` from
the real axis, so that a rule of fixed order loses all digits at low temperature. Here the
trapezoid rule (spectrally accurate for analytic integrands) runs over z where u < 1 and over the
field :math:`x = v + u z` where u > 1, so that the poles never come closer than :math:`\pi / 2` in
the variable of integration. Over the field the integrand must be local, hence the error function
(or the smoothed modulus), whose Gaussian average is known, is subtracted first. The number of
nodes does not depend on u, and u = 0 and u -> infinity (zero temperature) are regular.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.special import log_cosh
from deeplimits.typing import Array

#: Spacing h of the trapezoid rule: a pole of order p at pi/2 leaves (2 pi/h)^(p-1) exp(-pi^2/h),
#: for sech^4 (p = 4) 3e-16.
SPACING = 0.215
#: Half-width: over the field sech^2 falls to 3e-19 there (over z half of it would do).
HALF_WIDTH = 22.0
#: Sharpness of the error function that is subtracted; at 1 it grows as exp(y^2) off the real axis.
SHARPNESS = 1.0


class HyperbolicAverages(NamedTuple):
    """Averages of tanh, tanh^2, sech^2, sech^4 and ln 2cosh over a Gaussian field."""

    tanh: Array
    tanh2: Array
    sech2: Array
    sech4: Array
    log_2cosh: Array


def hyperbolic_averages(v: Array, u: Array) -> HyperbolicAverages:
    r"""Averages over a field of mean v and standard deviation u.

    .. math:: \int Dz\, F(v + u z), \qquad
              F = \tanh,\ \tanh^2,\ \mathrm{sech}^2,\ \mathrm{sech}^4,\ \ln 2\cosh

    For use inside JAX programs: no validation, differentiable to any order, batched.

    Args:
        v: mean of the field times the inverse temperature, float64, any shape.
        u: its standard deviation times the inverse temperature, float64, >= 0, broadcast with v.

    Returns:
        :class:`HyperbolicAverages` of the broadcast shape, absolute accuracy 1e-15 (the logarithm:
        relative). ``sech2`` is 1 - ``tanh2`` without cancellation: relative accuracy 1e-13 where
        ``|v|`` < u^2.

    Source: derived here.

    Check: tests/statmech/test_averages.py::test_against_mpmath
    """
    v, u = jnp.broadcast_arrays(v, u)
    wide = u > 1
    x, weight = _field_nodes(v, u, wide)
    c = SHARPNESS
    sech2 = 1 / jnp.cosh(jnp.clip(x, -350, 350)) ** 2  # cosh^2 overflows at 355
    s2 = u**2 + 1 / (2 * c**2)
    erf_average = jax.scipy.special.erf(v / jnp.sqrt(2 * s2))
    modulus_average = v * erf_average + jnp.sqrt(2 * s2 / jnp.pi) * jnp.exp(-(v**2) / (2 * s2))
    smooth_sign = jax.scipy.special.erf(c * x)
    smooth_modulus = x * smooth_sign + jnp.exp(-((c * x) ** 2)) / (c * jnp.pi**0.5)

    def average(values: Array) -> Array:
        return jnp.sum(weight * values, axis=-1)

    local = average(sech2)
    return HyperbolicAverages(
        tanh=erf_average + average(jnp.tanh(x) - smooth_sign),
        tanh2=1 - local,
        sech2=local,
        sech4=average(sech2**2),
        log_2cosh=modulus_average + average(log_cosh(x) + jnp.log(2.0) - smooth_modulus),
    )


def _field_nodes(v: Array, u: Array, wide: Array) -> tuple[Array, Array]:
    """Fields and weights, both with a last axis of nodes."""
    half = math.ceil(HALF_WIDTH / SPACING)
    nodes = SPACING * np.arange(-half, half + 1)
    v, u, wide = v[..., None], u[..., None], wide[..., None]
    safe = jnp.where(wide, u, 1.0)
    grid = jnp.asarray(nodes).reshape((1,) * (v.ndim - 1) + (-1,))
    x = jnp.where(wide, grid, v + u * grid)
    z = jnp.where(wide, (grid - v) / safe, grid)
    weight = SPACING / jnp.sqrt(2 * jnp.pi) * jnp.exp(-(z**2) / 2) / safe
    return x, weight
