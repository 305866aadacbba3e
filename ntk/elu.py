r"""Duals of ELU, SELU and CELU by one-dimensional integrals.

For :math:`\varphi(x) = x_+ + \alpha (e^x - 1) 1_{x<0}`, Price's theorem gives, with
:math:`q = q_{12}`,

.. math:: \frac{\partial^2 K}{\partial q^2} = E[\varphi''\varphi'']
   &= (1-\alpha)^2 p + \alpha (1-\alpha)(C_{12} + C_{21}) + \alpha^2 B, \\
   p\,dq = \frac{d\vartheta}{2\pi}, \qquad
   C_{12}\,dq &= \frac{s_2 \sin\vartheta}{2\sqrt{2\pi}}
   \operatorname{erfcx}\Bigl(\frac{s_2\sin\vartheta}{\sqrt2}\Bigr) d\vartheta, \qquad
   \frac{dB}{dq} = B + p - C_{12} - C_{21} .

The last equation is linear, so ``B`` and its integrals need no second quadrature. Why not
bivariate normal probabilities times :math:`e^{q/2}`: those factors overflow for large variances,
and for small ones their differences cancel; from :math:`\rho = 1` downwards every exponent here is
negative. Measured relative error: 1e-15 for ``rate^2 q`` up to 100, 1e-9 at 900.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import erfcx

from deeplimits.pytrees import register_dataclass
from ntk.coordinates import (
    Coordinates,
    check_parameters,
    floating,
    parameter,
    safe_ratio,
    safe_sqrt,
)
from ntk.price import QuadratureDual
from ntk.quadrature import default_nodes, density, legendre, panel_sum

_ROOT2 = math.sqrt(2)
_ROOT2PI = math.sqrt(2 * math.pi)
#: Constants of Klambauer et al. (2017), for which mean 0 and variance 1 are a fixed point.
SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946


@register_dataclass
@dataclass(frozen=True)
class Elu(QuadratureDual):
    r"""Exponential linear unit ``scale * (x if x > 0 else alpha (exp(rate x) - 1))``.

    Args:
        alpha: depth of the negative branch, default 1.
        scale: overall factor, default 1 (SELU: 1.0507...).
        rate: inverse length of the exponential, > 0, default 1 (CELU: 1 / alpha).

    Raises:
        DomainError: a parameter that is not finite, or ``rate <= 0``.

    Source:
        derived here. Check: ``tests/ntk/test_elu.py``.
    """

    alpha: Any = 1.0
    scale: Any = 1.0
    rate: Any = 1.0

    kinks = (0.0,)

    def __post_init__(self) -> None:
        bounds = {"rate": {"above": 0.0}}
        check_parameters(bounds, alpha=self.alpha, scale=self.scale, rate=self.rate)

    def _parameters(self, like: Any) -> tuple[Any, Any, Any]:
        """``(alpha, rate, factor)`` such that ``fn(x) = factor elu_alpha(rate x)``."""
        rate = parameter(self.rate, like)
        return parameter(self.alpha, like) * rate, rate, parameter(self.scale, like) / rate

    def fn(self, x: Any) -> Any:
        """The activation; the derivative at 0 is that of the negative branch."""
        alpha, rate, factor = self._parameters(x)
        negative = alpha * jnp.expm1(rate * jnp.minimum(x, 0))
        return factor * jnp.where(x > 0, rate * x, negative)

    def mean(self, q: Any) -> Any:
        """``factor (s / sqrt(2 pi) - alpha d(s))``, ``d(a) = (1 - erfcx(a / sqrt 2)) / 2``."""
        alpha, rate, factor = self._parameters(q := floating(q))
        s = rate * safe_sqrt(q)
        return factor * (s / _ROOT2PI - alpha * _deficit(s))

    def variance(self, q: Any) -> Any:
        """``factor^2 (s^2 / 2 + alpha^2 (2 d(s) - d(2 s)))``."""
        alpha, rate, factor = self._parameters(q := floating(q))
        s = rate * safe_sqrt(q)
        return factor**2 * (rate**2 * q / 2 + alpha**2 * _square(s))

    def _averages(self, c: Coordinates, root1: Any, root2: Any) -> tuple[Any, Any, Any]:
        alpha, rate, factor = self._parameters(c.s)
        s1, s2 = rate * c.s1, rate * c.s2
        deficit = self._radial(c, root1, root2)
        # near correlation 0 that is the base point, where the kernel may vanish; else correlation 1
        flat = (jnp.abs(s1 * s2 * c.rho) < 0.5) & (jnp.abs(c.rho) < 0.7)
        half1, half2 = erfcx(s1 / _ROOT2) / 2, erfcx(s2 / _ROOT2) / 2
        top = erfcx((s1 + s2) / _ROOT2) / 2
        slope = jnp.where(flat, (0.5 + alpha * half1) * (0.5 + alpha * half2), 0.5 + alpha**2 * top)
        start = jnp.where(flat, half1 * half2, top)
        more, gain = _curvature(alpha, s1, s2, c, flat, start)
        rise = s1 * s2 * jnp.where(flat, c.rho, -c.eps) * slope + gain
        rise = factor**2 * rise
        parallel, mean = root1 * root2 * (1 - deficit), self.mean(c.s1**2) * self.mean(c.s2**2)
        K = rise + jnp.where(flat, mean, parallel)
        gap = jnp.where(flat, 1 - safe_ratio(K, root1 * root2, 0.0), 0)
        gap = jnp.where(flat, gap, deficit - safe_ratio(rise, root1 * root2, 0.0))
        return K, (factor * rate) ** 2 * (slope + more), gap

    def _radial(self, c: Coordinates, root1: Any, root2: Any) -> Any:
        """Half the mean squared difference of the normalised activations of parallel inputs."""
        one = jnp.ones((), root1.dtype)
        scale1, scale2 = safe_ratio(one, root1, 0.0), safe_ratio(one, root2, 0.0)
        _, rate, factor = self._parameters(c.s)
        # panels grow from the length of the exponential to that of the Gaussian
        unit = 1 / jnp.maximum(rate * jnp.maximum(c.s1, c.s2), 1 / 3)
        inner = [jnp.minimum(k * unit, 9) for k in (81, 27, 9, 3, 1)]
        edges = -jnp.stack([jnp.full_like(unit, 9), *inner, jnp.zeros_like(unit)])

        def body(z: Any) -> Any:
            return density(z) * (self.fn(c.s1 * z) * scale1 - self.fn(c.s2 * z) * scale2) ** 2 / 2

        linear = factor * rate * (c.s1 * scale1 - c.s2 * scale2)
        return panel_sum(body, edges, default_nodes(c.s.dtype)) + linear**2 / 4


def Selu() -> Elu:
    """Self-normalising ELU: ``alpha = 1.6733``, ``scale = 1.0507``.

    Source:
        Klambauer, Unterthiner, Mayr & Hochreiter (2017), arXiv:1706.02515, eq. (2) and (14).
        Check: ``tests/ntk/test_elu.py::test_selu_fixed_point``.
    """
    return Elu(SELU_ALPHA, SELU_SCALE)


def Celu(alpha: Any = 1.0) -> Elu:
    """Continuously differentiable ELU: ``x`` for x > 0, else ``alpha (exp(x / alpha) - 1)``.

    Raises:
        DomainError: ``alpha <= 0`` or not finite.

    Source:
        Barron (2017), arXiv:1704.07483. Check: ``tests/ntk/test_elu.py``.
    """
    check_parameters({"alpha": {"above": 0.0}}, alpha=alpha)
    return Elu(alpha, 1.0, 1 / alpha)


def _deficit(a: Any) -> Any:
    """``E[(1 - exp(a z)) 1(z < 0)] = (1 - erfcx(a / sqrt 2)) / 2``, accurate for small ``a``."""
    series = a * _power_series(a, 1)
    return jnp.where(a < 0.5, series, (1 - erfcx(jnp.maximum(a, 0.5) / _ROOT2)) / 2)


def _square(a: Any) -> Any:
    """``E[(1 - exp(a z))^2 1(z < 0)] = 2 d(a) - d(2 a)``, accurate for small ``a``."""
    series = a**2 * _power_series(a, 2)
    far = jnp.maximum(a, 0.25)
    exact = (1 + erfcx(_ROOT2 * far)) / 2 - erfcx(far / _ROOT2)
    return jnp.where(a < 0.25, series, exact)


def _power_series(a: Any, order: int) -> Any:
    """Power series of :func:`_deficit` (order 1) or :func:`_square` (2) over ``a ** order``."""
    small = jnp.minimum(a, 0.5)
    total = jnp.zeros_like(small)
    for n in range(22, order - 1, -1):
        moment = 2 ** (-n / 2) / math.gamma(n / 2 + 1) / 2  # E[|z|^n 1(z < 0)] / n!
        factor = 1 if order == 1 else 2 - 2**n
        total = total * small - (-1) ** n * factor * moment
    return total


def _curvature(
    alpha: Any, s1: Any, s2: Any, c: Coordinates, flat: Any, start: Any
) -> tuple[Any, Any]:
    r"""``int K'' dq'`` and ``int (q - q') K'' dq'`` from the base point to the covariance ``q``.

    With ``delta = q - q'`` and ``D`` the whole way, solving the equation for ``B`` from its value
    ``start`` at the base point gives, with ``c = p - C12 - C21``,

    .. math:: \int B = B_0 (e^D - 1) + \int c (e^\delta - 1) dq', \qquad
       \int \delta B = B_0 (e^D - 1 - D) + \int c (e^\delta - 1 - \delta) dq' .

    Args:
        alpha, s1, s2: parameters of the unit-rate activation.
        c: coordinates.
        flat: base point correlation 0 (else 1); from 1 all exponents are negative.
        start: ``B`` at the base point.
    """
    s = s1 * s2
    theta = 2 * jnp.arctan2(safe_sqrt(c.eps), safe_sqrt(2 - c.eps))
    way = jnp.where(flat, jnp.arcsin(jnp.where(flat, c.rho, 0)), theta)
    sign = jnp.where(flat, 1, -1).astype(s.dtype)
    count = 40 if s.dtype == jnp.float64 else 20
    x, w = (jnp.asarray(a, s.dtype) for a in _clustered(count))

    @jax.checkpoint
    def node(total: Any, rule: Any) -> Any:
        angle, step = way * rule[0], sign * way * rule[1]
        sine = jnp.sin(jnp.where(flat, math.pi / 2 - angle, angle))
        middle, half = (way + angle) / 2, sign * (way - angle) / 2
        delta = 2 * s * jnp.sin(jnp.where(flat, math.pi / 2 - middle, middle)) * jnp.sin(half)
        cross = _edge(s1 * sine) + _edge(s2 * sine)
        direct = (1 - alpha) ** 2 / (2 * math.pi) + alpha * (1 - alpha) * cross
        source = alpha**2 * (1 / (2 * math.pi) - cross)
        growth = jnp.expm1(delta)
        slope = step * (direct + source * growth)
        rise = step * (direct * delta + source * (growth - delta))
        return (total[0] + slope, total[1] + rise), None

    whole = s * jnp.where(flat, c.rho, -c.eps)
    growth = jnp.expm1(whole)
    first = alpha**2 * start
    zero = jnp.zeros_like(first * growth)
    base = zero + first * growth, zero + first * (growth - whole)
    return jax.lax.scan(node, base, (x, w))[0]


def _clustered(count: int) -> tuple[Any, Any]:
    """Gauss-Legendre on [0, 1] after ``t -> t^2 (3 - 2 t)``.

    The nodes are denser at both ends, where the integrand varies on the scale ``1 / s`` for large
    standard deviations ``s``.
    """
    x, w = legendre(count)
    t = (x + 1) / 2
    return t * t * (3 - 2 * t), w * 3 * t * (1 - t)


def _edge(a: Any) -> Any:
    """``a erfcx(a / sqrt 2) / (2 sqrt(2 pi))``."""
    return a * erfcx(a / _ROOT2) / (2 * _ROOT2PI)
