r"""Exact second moments of networks of any width with one input and a homogeneous activation.

For :math:`\sigma(z) = a_\pm z` (ReLU, leaky ReLU, abs, linear) the signs of the preactivations are
independent fair coins, and independent of every quantity that does not change when weights change
sign. Therefore the second moments of the preactivations and of the tangent kernel close under a
linear recursion, without any expansion in 1/width. It serves as a noise-free oracle for
:func:`ntk.finite_width.finite_width` (agreement up to 1/width) and for simulations (agreement at
every width).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.errors import DomainError, UnsupportedLayerError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import ArrayLike
from deeplimits.validate import finite, number
from ntk.activations import dual as dual_of
from ntk.arccosine import ABRelu
from ntk.closed_forms import Linear


@register_dataclass
@dataclass(frozen=True)
class _Moments:
    """Second moments of one layer; i and k are two different neurons."""

    z2: Any  # E z_i^2
    z4: Any  # E z_i^4
    zz: Any  # E z_i^2 z_k^2
    H: Any  # E H_ii
    zH1: Any  # E z_i^2 H_ii
    zH2: Any  # E z_i^2 H_kk
    zzH: Any  # E z_i z_k H_ik
    HH1: Any  # E H_ii^2
    HH2: Any  # E H_ii H_kk
    Hjk: Any  # E H_ik^2


@functools.partial(
    register_dataclass,
    data_fields=["K", "Theta", "V", "A", "B", "D", "F", "kurtosis", "ntk_relative_variance"],
    meta_fields=[],
)
@dataclass(frozen=True, eq=False)
class ExactHomogeneous:
    r"""Exact moments per layer, ``(L,)`` each; the last entry is the output.

    With n the width before the layer, :math:`\hat G` the random variance and :math:`\hat H` the
    random tangent kernel (i and k two neurons):

    Attributes:
        K: mean of the squared preactivation.
        Theta: mean of the tangent kernel; for one input it has no correction in 1/width.
        V: ``n Var(G)``.
        A: ``n Cov(H_ii, H_kk)``.
        B: ``n E[H_ik^2]``.
        D: ``n Cov(G, H_kk)``.
        F: ``n E[z_i z_k H_ik]``.
        kurtosis: excess kurtosis of one preactivation.
        ntk_relative_variance: ``Var(H_ii) / Theta^2``.
    """

    K: np.ndarray
    Theta: np.ndarray
    V: np.ndarray
    A: np.ndarray
    B: np.ndarray
    D: np.ndarray
    F: np.ndarray
    kurtosis: np.ndarray
    ntk_relative_variance: np.ndarray

    def plot(self, ax: Any = None) -> Any:
        """Excess kurtosis and relative variance of the tangent kernel over depth, log scale."""
        from deeplimits import plotting

        ax = plotting.axes(ax)
        depth = np.arange(2, len(self.K) + 1)
        ax.semilogy(depth, self.kurtosis[1:], "o-", label="excess kurtosis of z")
        ax.semilogy(depth, self.ntk_relative_variance[1:], "s-", label="relative variance of NTK")
        ax.set(xlabel="layer", ylabel="exact value")
        ax.legend()
        return ax


def slopes_of(activation: Any) -> tuple[float, float]:
    """Slopes for z < 0 and z > 0 of a positively homogeneous activation.

    Args:
        activation: name, dual, or a pair of slopes.

    Raises:
        UnsupportedLayerError: the activation is not of the form ``a min(z, 0) + b max(z, 0)``.
        DomainError: slopes that are not finite, or both 0.
    """
    if isinstance(activation, tuple | list) and len(activation) == 2:
        activation = ABRelu(*(float(number(s, "slope")) for s in activation))
    dual = dual_of(activation)
    if isinstance(dual, Linear):
        return 1.0, 1.0
    if not isinstance(dual, ABRelu):
        raise UnsupportedLayerError(
            f"{type(dual).__name__} is not of the form a min(z, 0) + b max(z, 0), so its moments "
            "do not close. Use finite_width (first order in 1/width) or Monte Carlo."
        )
    slopes = float(dual.a), float(dual.b)
    if slopes == (0.0, 0.0):
        raise DomainError("Both slopes are 0: the activation is identically 0.")
    return slopes


@float64_scope
def exact_homogeneous(
    activation: Any,
    *,
    C_b: float,
    C_W: float,
    widths: Sequence[float],
    x: ArrayLike,
    lambda_b: float | None = None,
    lambda_W: float | None = None,
) -> ExactHomogeneous:
    r"""Exact mean, variance and covariances of preactivations and tangent kernel of one input.

    With :math:`A_p = (a_+^p + a_-^p)/2`, width N and :math:`c = C_W/N`, for instance

    .. math:: E\hat G' = C_b + C_W A_2 E z^2, \qquad
       E\hat G'^2 = C_b^2 + 2 C_b C_W A_2 E z^2
       + \tfrac{C_W^2}{N} [A_4 E z_i^4 + (N - 1) A_2^2 E z_i^2 z_k^2] .

    For :math:`C_b = 0`, :math:`E \hat G^2 = K^2 \prod_l (1 + \nu/n_l)` with
    :math:`\nu = 3 A_4/A_2^2 - 1` (linear 2, ReLU 5): fluctuations grow exponentially in the ratio
    of depth to width.

    Args:
        activation: "relu", "leaky_relu", "abs", "linear", a dual, or slopes ``(a_minus, a_plus)``.
        C_b: variance of the biases, >= 0.
        C_W: variance of the weights times the fan-in, > 0.
        widths: hidden widths, >= 1; not necessarily integers (for limits in 1/width).
        x: one input, ``(n_0,)`` or ``(1, n_0)``.
        lambda_b, lambda_W: learning rates as in :func:`ntk.finite_width.finite_width`, >= 0;
            default C_b and C_W.

    Returns:
        :class:`ExactHomogeneous`, NumPy float64.

    Raises:
        UnsupportedLayerError: another activation.
        DomainError: an argument out of its range, or more than one input.

    Source: derived here. The mean without correction agrees with arXiv:2508.11522.
    Check: ``tests/ntk/test_exact_homogeneous.py``.
    """
    a, b = slopes_of(activation)
    x = np.asarray(x, np.float64).squeeze(0) if np.ndim(x) == 2 and len(x) == 1 else np.asarray(x)
    if x.ndim != 1 or x.size == 0:
        raise DomainError(f"x must be one input of shape (n_0,) or (1, n_0), got {x.shape}.")
    finite(x, "x")
    number(C_b, "C_b", at_least=0)
    number(C_W, "C_W", above=0)
    rates = [C_b if lambda_b is None else lambda_b, C_W if lambda_W is None else lambda_W]
    number(rates[0], "lambda_b", at_least=0)
    number(rates[1], "lambda_W", at_least=0)
    if np.ndim(widths) != 1 or len(widths) == 0:
        raise DomainError(f"widths must list one hidden width or more, got {widths!r}.")
    for i, n in enumerate(widths):
        number(n, f"widths[{i}]", at_least=1)
    size = float(np.mean(np.square(x, dtype=np.float64)))
    even = ((a**2 + b**2) / 2, (a**4 + b**4) / 2)
    scalars = tuple(float(v) for v in (*even, C_b, C_W, *rates))
    layers = _run(scalars, size, jnp.asarray(np.asarray(widths, np.float64)))
    return ExactHomogeneous(*(np.asarray(v) for v in layers))


@jax.jit
def _run(scalars: tuple[Any, ...], size: Any, widths: Any) -> tuple[Any, ...]:
    _, _, C_b, C_W, lambda_b, lambda_W = scalars
    g, h = C_b + C_W * size, lambda_b + lambda_W * size
    first = _Moments(g, 3 * g * g, g * g, h, g * h, g * h, 0 * g, h * h, h * h, 0 * g)
    start = jax.tree.map(lambda v: jnp.asarray(v, jnp.float64), first)

    def step(m: _Moments, width: Any) -> Any:
        new, spread = _step(m, width, scalars)
        return new, (new, spread)

    _, (rest, spread) = jax.lax.scan(step, start, widths)
    every = jax.tree.map(lambda s, r: jnp.concatenate([s[None], r]), start, rest)
    V, A, B, D, F = (jnp.concatenate([jnp.zeros(1), v]) for v in spread)
    kurtosis = every.z4 / every.z2**2 - 3
    variance = (every.HH1 - every.H**2) / every.H**2
    return every.z2, every.H, V, A, B, D, F, kurtosis, variance


def _step(m: _Moments, N: Any, scalars: tuple[Any, ...]) -> tuple[_Moments, Any]:
    """One layer of width N; the covariances come without subtraction of means where possible."""
    A2, A4, C_b, C_W, lambda_b, lambda_W = scalars
    c = C_W / N
    q, q2 = A2 * m.z2, (A4 * m.z4 + (N - 1) * A2**2 * m.zz) / N
    T1 = N * A2 * m.H
    qT = A4 * m.zH1 + (N - 1) * A2**2 * m.zH2
    S = N * A4 * m.zH1 + N * (N - 1) * A2**2 * m.zzH
    TT = N * A4 * m.HH1 + N * (N - 1) * A2**2 * m.HH2
    T2 = N * A4 * m.HH1 + N * (N - 1) * A2**2 * m.Hjk
    var_q, var_T, cov_qT = q2 - q * q, TT - T1 * T1, qT - q * T1
    g, h = C_b + C_W * q, lambda_b + lambda_W * q + c * T1
    var_g = C_W**2 * var_q
    cov_gh = C_W * (lambda_W * var_q + c * cov_qT)
    var_h = lambda_W**2 * var_q + 2 * c * lambda_W * cov_qT + c**2 * var_T
    gg, gh, hh = g * g + var_g, g * h + cov_gh, h * h + var_h
    new = _Moments(
        g, 3 * gg, gg, h, gh + 2 * c**2 * S, gh, c**2 * S, hh + 2 * c**2 * T2, hh, c**2 * T2
    )
    return new, (N * var_g, N * var_h, N * c**2 * T2, N * cov_gh, N * c**2 * S)
