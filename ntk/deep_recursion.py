r"""NNGP and NTK of ``L`` normalised layers as functions of the gap, for any ``L``.

.. math:: \Sigma_{l+1} = \hat\varphi(\Sigma_l), \qquad
   \Theta_{l+1} = \Sigma_{l+1} + \Theta_l\,\hat\varphi'(\Sigma_l), \qquad
   \Sigma_0 = \Theta_0 = \rho, \qquad \Theta_L(1) = \sum_{m \le L} b^m

Why not these: with ``b = 2`` the diagonal overflows at ``L = 1023`` while off-diagonal entries
underflow, and the naive loop returns 0, infinity and NaN. Here an entry is kept twice relative to
the diagonal: as a logarithm with a sign, and as its distance from 1 (the *gap*), which is what
matters where all correlations tend to 1. The loop is compiled once for all depths.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ntk.koenigs import DepthMap, fold, layer_gap, layer_log


class DeepKernel(NamedTuple):
    r"""``ln|k / k(1)|``, the sign of ``k``, ``1 - k / k(1)`` and ``ln k(1)``."""

    log: Any
    sign: Any
    gap: Any
    log_diagonal: Any


class _State(NamedTuple):
    eps: Any
    log: Any
    sign: Any
    ntk_log: Any
    ntk_sign: Any
    ntk_gap: Any
    log_diagonal: Any


def _signed_sum(log1: Any, sign1: Any, log2: Any, sign2: Any) -> tuple[Any, Any]:
    """Logarithm and sign of ``sign1 e^log1 + sign2 e^log2``."""
    top = jnp.maximum(log1, log2)
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    total = sign1 * jnp.exp(log1 - top) + sign2 * jnp.exp(log2 - top)
    return top + jnp.log(jnp.abs(total)), jnp.sign(total)


def _layer(m: DepthMap, s: _State, with_ntk: bool) -> _State:
    eps, slope, flat = layer_gap(m, s.eps)
    log, sign = jnp.log(jnp.abs(1 - eps)), jnp.sign(1 - eps)
    steep, turn = jnp.log(jnp.abs(slope)), jnp.sign(slope)
    if m.decays:
        near = jnp.abs(1 - s.eps) > 0.5
        far = layer_log(m, s.log, s.sign)
        log, sign = jnp.where(near, log, far[0]), jnp.where(near, sign, far[1])
        steep, turn = jnp.where(near, steep, far[2]), jnp.where(near, turn, far[3])
        eps = jnp.where(near, eps, 1 - sign * jnp.exp(log))
        flat = jnp.where(near, flat, 1 - turn * jnp.exp(steep) / m.slope)
    if not with_ntk:
        return s._replace(eps=eps, log=log, sign=sign)
    grown = jnp.log(m.slope) + s.log_diagonal
    diagonal = jnp.logaddexp(0.0, grown)
    share, rest = jnp.exp(-diagonal), jnp.exp(grown - diagonal)
    gap = share * eps + rest * (flat + s.ntk_gap * (1 - flat))
    ntk = _signed_sum(log, sign, s.ntk_log + steep, s.ntk_sign * turn)
    return _State(eps, log, sign, *ntk, gap, diagonal)


@functools.partial(jax.jit, static_argnames="kernel")
def deep_kernel(m: DepthMap, eps: Any, depth: Any, kernel: str = "nngp") -> DeepKernel:
    r"""Kernel of ``depth`` layers relative to its diagonal.

    Args:
        m: one normalised layer.
        eps: gaps :math:`1 - \rho` of the inputs, in [0, 2], any shape.
        depth: number of activations >= 1; not a shape, so one program serves all depths.
        kernel: ``"nngp"`` or ``"ntk"``.

    Source: the recursion of arXiv:1806.07572 for unit variances; representation derived here.
    Check: tests/ntk/test_infinite_depth.py::test_recursion
    """
    ntk = kernel == "ntk"
    eps, flip = fold(m, eps)
    log, sign = jnp.log(jnp.abs(1 - eps)), jnp.sign(1 - eps)
    start = _State(eps, log, sign, log, sign, eps, jnp.zeros((), eps.dtype))
    end = lax.fori_loop(0, depth, lambda _, s: _layer(m, s, ntk), start)
    log, sign, gap = end.log, end.sign, end.eps
    if ntk:
        gap = end.ntk_gap
        if m.decays:
            log, sign = end.ntk_log - end.log_diagonal, end.ntk_sign
        else:
            log, sign = jnp.log(jnp.abs(1 - gap)), jnp.sign(1 - gap)
    same = eps == 0
    log, gap = jnp.where(same, 0.0, log), jnp.where(same, 0.0, gap)
    return DeepKernel(log, flip * sign, jnp.where(flip < 0, 2 - gap, gap), end.log_diagonal)


def log_diagonal(slope: float, depth: int, kernel: str) -> float:
    r""":math:`\ln k_L(1)`: 0, or :math:`\ln (b^{L+1} - 1)/(b - 1)` for the NTK."""
    if kernel == "nngp":
        return 0.0
    rate = math.log(slope)
    if rate == 0:
        return math.log(depth + 1)
    steps = (depth + 1) * rate
    top = steps + math.log(-math.expm1(-steps)) if rate > 0 else math.log(-math.expm1(steps))
    return top - math.log(abs(math.expm1(rate)))
