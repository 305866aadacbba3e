r"""Averages over a Gaussian field weighted by a power of the hyperbolic cosine (1RSB).

.. math:: \langle F \rangle_x = \frac{\int Dz\,(2\cosh u z)^x F(u z)}{\int Dz\,(2\cosh u z)^x}

The weight is :math:`e^{y |z|} (1 + e^{-2 u |z|})^x` with y = x u. What the first factor alone gives
is known in closed form; the rest lives at :math:`|z| \lesssim 20 / u`, where a fixed rule in u z
resolves it at every temperature, T -> 0 (u -> infinity at fixed y) included.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from deeplimits.special import legendre_rule, log_ndtr
from deeplimits.typing import Array

#: Length of the rule in units of u z, number of panels and nodes of each: the poles of tanh are
#: 1.57 away and the panels 2.5 long, an error of 2.9^-32.
LENGTH, PANELS, NODES = 20.0, 8, 16
#: Below this u the rule runs over z instead (up to 20 / SMALLEST_SCALE = 11.8 deviations).
SMALLEST_SCALE = 1.7


class TiltedAverages(NamedTuple):
    """Logarithm of the normalisation, and averages under the weight."""

    log_norm: Array
    log_2cosh: Array
    sech2: Array
    sech4: Array


def half_line(y: Array) -> tuple[Array, Array]:
    r"""Log-norm and mean of z > 0 with density proportional to :math:`\phi(z) e^{y z}`, twice.

    .. math:: \ln 2\int_0^\infty Dz\,e^{y z} = \frac{y^2}{2} + \ln 2\Phi(y), \qquad
              \langle z \rangle = y + \phi(y) / \Phi(y)
    """
    log_cdf = log_ndtr(y)
    mills = jnp.exp(-(y**2) / 2 - log_cdf) / np.sqrt(2 * np.pi)
    return y**2 / 2 + np.log(2.0) + log_cdf, y + mills


def tilted_averages(x: Array, y: Array) -> TiltedAverages:
    r"""Averages under the weight :math:`(2\cosh u z)^x` with u = y / x.

    For use inside JAX programs: no validation, batched by broadcasting.

    Args:
        x: Parisi's parameter in (0, 1], float64.
        y: x u, float64, > 0, of the same shape.

    Source: derived here.

    Check: tests/statmech/test_p_spin.py::test_tilted_averages_against_quadrature
    """
    u = y / x
    scale = jnp.maximum(u, SMALLEST_SCALE)[..., None]
    node, weight = legendre_rule(NODES)
    t = (LENGTH / PANELS * (np.arange(PANELS)[:, None] + node)).ravel()
    z = jnp.asarray(t).reshape((1,) * u.ndim + (-1,)) / scale
    w = u[..., None] * z
    log_free, mean = half_line(y)
    density = jnp.exp(-(z**2) / 2 + y[..., None] * z - log_free[..., None]) * np.sqrt(2 / np.pi)
    weights = jnp.asarray(np.tile(weight, PANELS) * LENGTH / PANELS)
    density = density * weights.reshape((1,) * u.ndim + (-1,)) / scale
    tail = jnp.exp(-2 * w)
    softening = jnp.log1p(tail)
    excess = jnp.expm1(x[..., None] * softening)
    sech2 = 4 * tail / (1 + tail) ** 2

    def integral(values: Array) -> Array:
        return jnp.sum(density * values, axis=-1)

    norm = 1 + integral(excess)
    energy = u * mean + integral(excess * w + (1 + excess) * softening)
    return TiltedAverages(
        log_norm=log_free + jnp.log(norm),
        log_2cosh=energy / norm,
        sech2=integral((1 + excess) * sech2) / norm,
        sech4=integral((1 + excess) * sech2**2) / norm,
    )
