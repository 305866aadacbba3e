r"""Duals of the linear and exponential activations, and the table of all smooth closed forms.

Exponents are functions of :math:`E(x \mp y)^2`, taken as :math:`(s_1 - s_2)^2 + 2 s\,\varepsilon`
and
:math:`(s_1 - s_2)^2 + 2 s (2 - \varepsilon)`.

Why not :math:`q_1 + q_2 \mp 2 q_{12}`: near-duplicates and near-antipodes cancel there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from deeplimits.errors import UnsupportedLayerError
from deeplimits.pytrees import register_dataclass
from ntk.bumps import Gabor, Gaussian
from ntk.coordinates import check_parameters, coordinates, floating, parameter
from ntk.duals import Dual
from ntk.error_function import Erf, Gelu, sigmoid_like
from ntk.waves import Cos, Sin

__all__ = [
    "Cos",
    "Erf",
    "Exp",
    "ExpNormalized",
    "Gabor",
    "Gaussian",
    "Gelu",
    "Linear",
    "Rbf",
    "Sin",
    "sigmoid_like",
]


@register_dataclass
@dataclass(frozen=True)
class Linear(Dual):
    r"""Identity: :math:`K = q_{12}`, :math:`\dot K = 1`.

    Source:
        definition of the covariance. Check: ``tests/ntk/test_closed_forms.py``.
    """

    def fn(self, x: Any) -> Any:
        """``x``."""
        return x

    def kernel(self, q1: Any, q2: Any, eps: Any) -> tuple[Any, Any, Any]:
        """``(K, Kdot, eps_out)``; see :meth:`ntk.duals.Dual.kernel`."""
        c = coordinates(q1, q2, eps)
        return c.s * c.rho, jnp.ones_like(c.rho), c.eps

    def variance(self, q: Any) -> Any:
        """``q``."""
        return floating(q)

    def mean(self, q: Any) -> Any:
        """0."""
        return jnp.zeros_like(floating(q))


@register_dataclass
@dataclass(frozen=True)
class Rbf(Dual):
    r"""Feature ``sqrt(2) sin(sqrt(2 gamma) x + pi/4)`` of the squared-exponential kernel.

    .. math:: K = e^{-\gamma (q_1 + q_2 - 2 q_{12})}, \qquad \dot K = 2 \gamma K

    Args:
        gamma: inverse squared length scale > 0, default 1.

    Raises:
        DomainError: ``gamma`` not a positive finite number.

    Source:
        Rahimi & Recht, Random features (2007). Check: ``tests/ntk/test_closed_forms.py``.
    """

    gamma: Any = 1.0

    def __post_init__(self) -> None:
        check_parameters({"gamma": {"above": 0.0}}, gamma=self.gamma)

    def fn(self, x: Any) -> Any:
        """``sin(sqrt(2 gamma) x) + cos(sqrt(2 gamma) x)``."""
        x = jnp.sqrt(2 * jnp.asarray(parameter(self.gamma, x), x.dtype)) * x
        return jnp.sin(x) + jnp.cos(x)

    def kernel(self, q1: Any, q2: Any, eps: Any) -> tuple[Any, Any, Any]:
        """``(K, Kdot, eps_out)``; see :meth:`ntk.duals.Dual.kernel`."""
        c = coordinates(q1, q2, eps)
        gamma = parameter(self.gamma, c.s)
        exponent = -gamma * c.distance
        K = jnp.exp(exponent)
        return K, 2 * gamma * K, -jnp.expm1(exponent)

    def variance(self, q: Any) -> Any:
        """1."""
        return jnp.ones_like(floating(q))

    def mean(self, q: Any) -> Any:
        """``exp(-gamma q)``."""
        q = floating(q)
        return jnp.exp(-parameter(self.gamma, q) * q)


@register_dataclass
@dataclass(frozen=True)
class Exp(Dual):
    r"""Exponential ``a exp(b x)``.

    .. math:: K = a^2 e^{b^2 (q_1 + q_2 + 2 q_{12}) / 2}, \qquad \dot K = b^2 K, \qquad
       \varepsilon' = 1 - e^{-b^2 (q_1 + q_2 - 2 q_{12}) / 2}

    ``K`` overflows to infinity where its value does; the gap stays finite.

    Args:
        a: height, default 1.
        b: rate, default 1.

    Raises:
        DomainError: a parameter that is not a finite real number.

    Source:
        moment generating function of the Gaussian. Check: ``tests/ntk/test_closed_forms.py``.
    """

    a: Any = 1.0
    b: Any = 1.0

    def __post_init__(self) -> None:
        check_parameters({}, a=self.a, b=self.b)

    def fn(self, x: Any) -> Any:
        """``a exp(b x)``."""
        return parameter(self.a, x) * jnp.exp(parameter(self.b, x) * x)

    def kernel(self, q1: Any, q2: Any, eps: Any) -> tuple[Any, Any, Any]:
        """``(K, Kdot, eps_out)``; see :meth:`ntk.duals.Dual.kernel`."""
        c = coordinates(q1, q2, eps)
        a, b = parameter(self.a, c.s), parameter(self.b, c.s)
        K = a * a * jnp.exp(b * b / 2 * c.opposite)
        return K, b * b * K, -jnp.expm1(-b * b / 2 * c.distance)

    def variance(self, q: Any) -> Any:
        """``a^2 exp(2 b^2 q)``."""
        q = floating(q)
        a, b = parameter(self.a, q), parameter(self.b, q)
        return a * a * jnp.exp(2 * b * b * q)

    def mean(self, q: Any) -> Any:
        """``a exp(b^2 q / 2)``."""
        q = floating(q)
        a, b = parameter(self.a, q), parameter(self.b, q)
        return a * jnp.exp(b * b / 2 * q)


@register_dataclass
@dataclass(frozen=True)
class ExpNormalized(Dual):
    r"""Exponential kernel of the correlation; a kernel only, without a finite network.

    .. math:: K = s\, e^{\gamma (\rho + \mathrm{shift})}, \qquad
       \dot K = \gamma\, e^{\gamma (\rho + \mathrm{shift})}, \qquad
       \varepsilon' = 1 - e^{-\gamma \varepsilon}

    Args:
        gamma: rate >= 0, default 1.
        shift: added to the correlation, default -1 (which keeps the variances).

    Raises:
        DomainError: ``gamma`` negative, or a parameter that is not a finite real number.

    Source:
        Shankar et al., Neural kernels without tangents (arXiv:2003.02237), the Gaussian normalised
        kernel. Check: ``tests/ntk/test_closed_forms.py``.
    """

    gamma: Any = 1.0
    shift: Any = -1.0

    def __post_init__(self) -> None:
        check_parameters({"gamma": {"at_least": 0.0}}, gamma=self.gamma, shift=self.shift)

    def fn(self, x: Any) -> Any:
        """No activation has this dual.

        Raises:
            UnsupportedLayerError: always.
        """
        raise UnsupportedLayerError(
            "ExpNormalized is a kernel without an activation, so no finite network has it. "
            "Use its kernel only, or the activation Exp."
        )

    def kernel(self, q1: Any, q2: Any, eps: Any) -> tuple[Any, Any, Any]:
        """``(K, Kdot, eps_out)``; see :meth:`ntk.duals.Dual.kernel`."""
        c = coordinates(q1, q2, eps)
        gamma, shift = parameter(self.gamma, c.s), parameter(self.shift, c.s)
        factor = jnp.exp(gamma * (1 + shift) - gamma * c.eps)
        gap = jnp.where(c.s > 0, -jnp.expm1(-gamma * c.eps), 1)
        return c.s * factor, gamma * factor, gap

    def variance(self, q: Any) -> Any:
        """``q exp(gamma (1 + shift))``."""
        q = floating(q)
        gamma, shift = parameter(self.gamma, q), parameter(self.shift, q)
        return q * jnp.exp(jnp.asarray(gamma * (1 + shift), q.dtype))

    def mean(self, q: Any) -> Any:
        """No activation, so no mean.

        Raises:
            UnsupportedLayerError: always.
        """
        return self.fn(q)
