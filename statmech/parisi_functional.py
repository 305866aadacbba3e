r"""The Parisi functional of step functions: one compiled program for every model, T, field and k.

.. math:: -f = E\,\Phi_1(h + \sqrt{\xi'(q_0)}\,z)
   - \tfrac12 \sum_i \gamma_i\,[\theta(q_i) - \theta(q_{i-1})], \qquad
   \Phi_i(h) = \gamma_i^{-1} \ln E\,e^{\gamma_i \Phi_{i+1}(h + \sqrt{\xi'(q_i) - \xi'(q_{i-1})}\,z)}

with :math:`\theta = q \xi' - \xi` and :math:`\gamma = x / T`. Each step is an exact Gaussian
convolution (Hopf-Cole), done by Fourier transform, which is regular for vanishing variance and
needs no interpolation. Since :math:`e^{\gamma \Phi}` grows like :math:`C e^{\gamma |h|}`, it is
cut as

.. math:: e^{\gamma \Phi(h)} = e^{\gamma h} p(h) + e^{-\gamma h} p(-h), \qquad
   p(h) = \chi(h / s)\,e^{\gamma (\Phi(h) - h)}, \quad \chi(y) + \chi(-y) = 1

with the normal distribution function for :math:`\chi`: the convolution of :math:`C \chi` is known,
and :math:`p - C \chi` is smooth and localised, hence periodic up to rounding. (Interpolating
:math:`\Phi - |h|` instead costs digits at its cusp; the ratio to a hyperbolic cosine decays only as
:math:`e^{-2 \gamma |h|}`.)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf, ndtr

from deeplimits.typing import Array

#: Steps of the recursion that are compiled; the unused ones are skipped.
MAX_STEPS = 24
#: Coefficients of the covariance that are compiled: powers 0 to 15.
POWERS = 16
#: Half of the grid of fields.
POINTS = 512
#: Half-width of the grid: standard deviations of the field, and decay lengths of exp(-2 h / T).
WIDTH, DECAY = 8.0, 18.0


class Gradient(NamedTuple):
    """The functional -f and its derivatives with respect to what it is given."""

    value: Array
    gamma: Array
    q: Array
    T: Array
    h: Array


def covariance(coefficients: Array) -> tuple[Any, Any]:
    r""":math:`\xi'` and :math:`\theta = q \xi' - \xi` as functions of q."""
    xi = coefficients[::-1]
    slope = jnp.polyder(xi)

    def d_xi(q: Array) -> Array:
        return jnp.polyval(slope, q)

    return d_xi, lambda q: q * d_xi(q) - jnp.polyval(xi, q)


def functional(
    gamma: Array, q: Array, T: Array, h: Array, coefficients: Array, stretch: Array
) -> Array:
    """The Parisi functional -f.

    Args:
        gamma: x / T on the intervals between consecutive q, increasing, ``(MAX_STEPS,)``; unused
            entries in front (where q does not move).
        q: overlaps, increasing, ``(MAX_STEPS + 1,)``; ``q[-1] = 1`` at T = 0.
        T: temperature, >= 0, ``()``.
        h: external field, ``()``.
        coefficients: of the powers 0 to POWERS - 1 in the covariance of the energy per spin.
        stretch: factor on the width of the grid, ``()``, 1 or a little more (to estimate errors).
    """
    d_xi, theta = covariance(coefficients)
    one = jnp.ones(())
    spread = jnp.sqrt(jax.lax.stop_gradient(d_xi(one)))
    width = stretch * (jnp.abs(h) + jnp.maximum(WIDTH * spread, DECAY * T))
    width, s0 = jax.lax.stop_gradient(width), spread / 2
    x = width / POINTS * jnp.arange(POINTS + 1.0)
    omega = np.pi / width * jnp.arange(POINTS + 1.0)
    beta = jnp.where(T > 0, 1 / jnp.where(T > 0, T, 1.0), 0.0)
    bare = T * jnp.log1p(jnp.exp(-2 * x / jnp.where(T > 0, T, 1e-300)))

    def active(args: Any) -> Any:
        excess, offset, g, v, sharp = args
        s = jax.lax.stop_gradient(jnp.where(sharp, 1e-300, 1 / jnp.sqrt(g**2 + 1 / s0**2)))
        low = ndtr(-x / s)
        right = (1 - low) * jnp.expm1(g * excess)
        seen = low > 1e-300
        left = jnp.exp(
            jnp.log(jnp.where(seen, low, 1.0)) + jnp.where(seen, g * (2 * x + excess), 0)
        )
        right, left = _convolve(right, jnp.where(seen, left - low, 0.0), omega, v, g * v)
        blur = jnp.sqrt(s**2 + v)
        right, left = right + ndtr((g * v + x) / blur), left + ndtr((g * v - x) / blur)
        return jnp.log(right + jnp.exp(-2 * g * x) * left) / g, offset + g * v / 2

    def step(carry: Any, inputs: Any) -> Any:
        g, v, sharp, used = inputs
        return jax.lax.cond(used, active, lambda a: a[:2], (*carry, g, v, sharp)), None

    variance = jnp.diff(d_xi(q))
    used = q[:-1] < q[1:]
    # at T = 0 the first step starts from |h|, whose cusp is kept exactly
    sharp = (T == 0) & (jnp.arange(MAX_STEPS) == MAX_STEPS - 1)
    start = (bare, beta / 2 * (d_xi(one) - d_xi(q[-1])))
    (excess, offset), _ = jax.lax.scan(step, start, (gamma, variance, sharp, used), reverse=True)
    penalty = jnp.sum(gamma * jnp.diff(theta(q))) + beta * (theta(one) - theta(q[-1]))
    return _average(excess, x, omega, s0, d_xi(q[0]), h) + offset - penalty / 2


def _convolve(right: Array, left: Array, omega: Array, variance: Array, shift: Array) -> Any:
    """Gaussian average, moved by ``shift``, of a function given at fields x and -x."""
    size = 2 * POINTS
    spectrum = jnp.fft.rfft(jnp.concatenate([right, left[1:-1][::-1]]))
    damping, phase = jnp.exp(-variance * omega**2 / 2), omega * shift
    factor = jax.lax.complex(damping * jnp.cos(phase), damping * jnp.sin(phase))
    out = jnp.fft.irfft(spectrum * factor, size)
    return out[: POINTS + 1], jnp.concatenate([out[:1], out[POINTS:][::-1]])


def _average(excess: Array, x: Array, omega: Array, s: Array, variance: Array, h: Array) -> Array:
    """Gaussian average at h of ``|x| + excess``, an even function that tends to ``|x|``."""

    def modulus(h: Array, s: Array) -> Array:
        return h * erf(h / s / 2**0.5) + s * (2 / np.pi) ** 0.5 * jnp.exp(-((h / s) ** 2) / 2)

    rest = excess + x - modulus(x, s)
    spectrum = jnp.fft.rfft(jnp.concatenate([rest, rest[1:-1][::-1]])).real
    terms = spectrum * jnp.exp(-variance * omega**2 / 2) * jnp.cos(omega * h)
    mean = (2 * jnp.sum(terms) - terms[0] - terms[-1]) / (2 * POINTS)
    return mean + modulus(h, jnp.sqrt(s**2 + variance))


_value_and_grad = jax.jit(jax.value_and_grad(functional, argnums=(0, 1, 2, 3)))


def evaluate(
    gamma: np.ndarray,
    q: np.ndarray,
    T: float,
    h: float,
    coefficients: np.ndarray,
    stretch: float = 1.0,
) -> Gradient:
    """The functional with k <= MAX_STEPS steps, and its derivatives, as NumPy arrays.

    Args:
        gamma: ``(k,)``, non-negative, increasing.
        q: ``(k + 1,)``, increasing, in [0, 1]; the last one is 1 at T = 0.
        T, h, stretch: as in :func:`functional`.
        coefficients: ``(POWERS,)``.

    Check: tests/statmech/test_parisi.py::test_functional_against_nested_quadrature
    """
    k = len(gamma)
    front = np.ones(MAX_STEPS - k)
    value, (d_gamma, d_q, d_T, d_h) = _value_and_grad(
        np.concatenate([front, gamma]),
        np.concatenate([q[0] * front, q]),
        np.float64(T),
        np.float64(h),
        coefficients,
        np.float64(stretch),
    )
    d_q = np.asarray(d_q)
    d_q = np.append(d_q[: MAX_STEPS - k + 1].sum(), d_q[MAX_STEPS - k + 1 :])
    return Gradient(
        np.asarray(value),
        np.asarray(d_gamma)[MAX_STEPS - k :],
        d_q,
        np.asarray(d_T),
        np.asarray(d_h),
    )
