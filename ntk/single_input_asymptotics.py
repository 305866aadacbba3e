r"""Growth with depth of the 1/width tensors of one input at criticality.

At a critical initialisation every tensor of :mod:`ntk.finite_width`, divided by the powers of the
kernel K and the tangent kernel Theta that make it dimensionless, grows linearly with the layer
:math:`\ell`. The slopes depend on the activation through few numbers only (universality).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from deeplimits.errors import DomainError, UnsupportedLayerError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import integer, number
from ntk.activations import dual as dual_of
from ntk.arccosine import ABRelu
from ntk.closed_forms import Linear
from ntk.exact_homogeneous import slopes_of
from ntk.gaussian_moments import tower


@functools.partial(
    register_dataclass,
    data_fields=[
        "V", "A", "B", "D", "F", "P", "Q", "R", "S", "T", "U", "nu", "p_perp", "C_W", "K_rate",
    ],
    meta_fields=["universality"],
)  # fmt: skip
@dataclass(frozen=True)
class DepthSlopes:
    r"""Slopes per layer of the dimensionless tensors of one input (None: no closed form).

    Attributes:
        V: of :math:`V/K^2` (equal to ``nu``).
        A, B: of :math:`A/\Theta^2` and :math:`B/\Theta^2`.
        D, F: of :math:`D/(K\Theta)` and :math:`F/(K\Theta)`.
        P, Q: of :math:`P/\Theta^2` and :math:`Q/\Theta^2`.
        R, S, T, U: of :math:`R K/\Theta^3` and so on.
        nu: growth of the excess kurtosis: :math:`3\nu\ell/n`.
        p_perp: exponent of the decay of parallel susceptibilities (0 for scale invariance).
        C_W: critical variance of the weights; the critical C_b is 0.
        K_rate: :math:`\lim 1/(\ell K)`, i.e. ``-a_1``; 0 where K does not decay.
        universality: "scale-invariant" or "K*=0".
    """

    universality: str
    V: float
    A: float
    B: float
    D: float
    F: float
    P: float | None
    Q: float | None
    R: float | None
    S: float | None
    T: float | None
    U: float | None
    nu: float
    p_perp: float
    C_W: float
    K_rate: float


@float64_scope
def depth_slopes(
    activation: Any, *, lambda_b: float = 1.0, lambda_W: float = 1.0, K: float = 1.0
) -> DepthSlopes:
    r"""Slopes with depth of all 1/width tensors of one input at criticality.

    Scale-invariant activations (:math:`A_p = (a_+^p + a_-^p)/2`, :math:`\rho_4 = A_4/A_2^2`,
    :math:`\nu = 3\rho_4 - 1`, :math:`u = \lambda_W A_2 K / (\lambda_b + \lambda_W A_2 K)`, learning
    rates equal in all layers):

    .. math:: \frac{V}{K^2} = \nu(\ell-1),\quad \frac{F}{K\Theta} \simeq \tfrac{\rho_4}{2}\ell,\quad
       \frac{B}{\Theta^2} \simeq \tfrac{\rho_4}{3}\ell,\quad
       \frac{D}{K\Theta} \simeq \tfrac12(\rho_4-1+\nu u)\ell,\quad
       \frac{A}{\Theta^2} \simeq \tfrac13[(\rho_4-1)(1+u)+\nu u^2]\ell .

    Smooth activations with fixed point K* = 0 (:math:`a_1 = \sigma_3/\sigma_1 +
    \tfrac34(\sigma_2/\sigma_1)^2 < 0`, :math:`p_\perp = (\sigma_3/\sigma_1 +
    (\sigma_2/\sigma_1)^2)/a_1`, learning rates of :func:`critical_learning_rates`,
    :math:`y = \lambda_W\sigma_1^2/((-a_1)\lambda_b + \lambda_W\sigma_1^2) - p_\perp`):

    .. math:: \frac{V}{K^2} \simeq \tfrac23\ell,\quad
       \frac{F}{K\Theta} \simeq \frac{\ell}{5-p_\perp},\quad
       \frac{B}{\Theta^2} \simeq \tfrac13\ell,\quad
       \frac{D}{K\Theta} \simeq \tfrac29 y\ell,\quad \frac{A}{\Theta^2} \simeq \tfrac4{27}y^2\ell .

    Args:
        activation: name, dual or function.
        lambda_b, lambda_W: learning rates, >= 0 and not both 0 (for K* = 0 those with a tilde).
        K: kernel at all layers, > 0; used for scale-invariant activations only.

    Returns:
        :class:`DepthSlopes`.

    Raises:
        UnsupportedLayerError: the activation is in neither class.
        DomainError: a number out of its range.

    Source:
        [roberts2022], sections 5.4, 8.3, 9.4 for V, D, F, A, B; the general formulas derived here.
        Check: ``tests/ntk/test_finite_width.py``.
    """
    number(lambda_b, "lambda_b", at_least=0)
    number(lambda_W, "lambda_W", at_least=0)
    number(K, "K", above=0)
    if lambda_b + lambda_W == 0:
        raise DomainError("lambda_b and lambda_W are both 0, so the tangent kernel vanishes.")
    dual = dual_of(activation)
    if isinstance(dual, ABRelu | Linear):
        return _scale_invariant(dual, lambda_b, lambda_W, K)
    s1, a1, p = local_numbers(dual)
    y = lambda_W * s1**2 / (-a1 * lambda_b + lambda_W * s1**2) - p
    return DepthSlopes(
        "K*=0", 2 / 3, 4 / 27 * y**2, 1 / 3, 2 / 9 * y, 1 / (5 - p), None, None, None, None, None,
        None, 2 / 3, p, 1 / s1**2, -a1,
    )  # fmt: skip


def _scale_invariant(dual: Any, lambda_b: float, lambda_W: float, K: float) -> DepthSlopes:
    a, b = slopes_of(dual)
    A2, A4 = (a**2 + b**2) / 2, (a**4 + b**4) / 2
    rho4 = A4 / A2**2
    nu = 3 * rho4 - 1
    u = lambda_W * A2 * K / (lambda_b + lambda_W * A2 * K)
    smooth = a == b
    return DepthSlopes(
        "scale-invariant", nu, ((rho4 - 1) * (1 + u) + nu * u**2) / 3, rho4 / 3,
        ((rho4 - 1) + nu * u) / 2, rho4 / 2, 0.0, rho4 / 6 * u, 0.0 if smooth else None,
        u / 12 if smooth else None, u**2 / 12 if smooth else None, 0.0 if smooth else None,
        nu, 0.0, 1 / A2, 0.0,
    )  # fmt: skip


@float64_scope
def local_numbers(activation: Any) -> tuple[float, float, float]:
    r"""``(sigma_1, a_1, p_perp)`` of a smooth activation with ``sigma(0) = 0`` and fixed point 0.

    Raises:
        UnsupportedLayerError: sigma(0) is not 0, sigma'(0) is 0, there is a kink, or ``a_1 >= 0``
            (K = 0 is then not attractive).
    """
    dual = dual_of(activation)
    name = type(dual).__name__
    if dual.kinks:
        raise UnsupportedLayerError(f"{name} has kinks at {dual.kinks}; its kernel is not smooth.")
    s0, s1, s2, s3 = (float(v) for v in tower(dual.fn, jnp.zeros(()), 3))
    # 1e-12: rounding of an activation of order one at 0
    if not (abs(s0) < 1e-12 and abs(s1) > 1e-12):
        raise UnsupportedLayerError(
            f"{name} has sigma(0) = {s0:.3g}, sigma'(0) = {s1:.3g}: it has no critical point at "
            "K = 0, and no closed form for the growth with depth. Use finite_width."
        )
    a1 = s3 / s1 + 0.75 * (s2 / s1) ** 2
    if not a1 < 0:
        raise UnsupportedLayerError(
            f"{name} has a_1 = {a1:.3g} >= 0: the kernel does not decay towards the critical point "
            "K = 0. Use finite_width at the critical initialisation of this activation."
        )
    return s1, a1, (s3 / s1 + (s2 / s1) ** 2) / a1


@float64_scope
def critical_learning_rates(
    activation: Any, depth: int, *, lambda_b: float = 1.0, lambda_W: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    r"""Learning rates per layer with which every layer contributes equally to an NTK of order 1.

    .. math:: \text{scale-invariant: } \lambda/L; \qquad K^*=0:\quad
       \lambda_b^{(\ell)} = \lambda_b\, \ell^{-p_\perp} L^{p_\perp-1}, \quad
       \lambda_W^{(\ell)} = \lambda_W (L/\ell)^{p_\perp-1}

    Args:
        activation: name, dual or function.
        depth: L >= 1, layers including the output.
        lambda_b, lambda_W: overall rates, >= 0.

    Returns:
        ``(lambda_b, lambda_W)``, ``(L,)`` each, for :func:`ntk.finite_width.finite_width`.

    Raises:
        UnsupportedLayerError, DomainError: as for :func:`depth_slopes`.

    Source: [roberts2022], section 9.4. Check: ``tests/ntk/test_finite_width.py``.
    """
    depth = integer(depth, "depth", at_least=1)
    number(lambda_b, "lambda_b", at_least=0)
    number(lambda_W, "lambda_W", at_least=0)
    dual = dual_of(activation)
    if isinstance(dual, ABRelu | Linear):
        return np.full(depth, lambda_b / depth), np.full(depth, lambda_W / depth)
    p = local_numbers(dual)[2]
    layers = np.arange(1, depth + 1.0)
    return lambda_b * layers**-p * depth ** (p - 1), lambda_W * (depth / layers) ** (p - 1)
