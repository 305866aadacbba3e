r"""Derivatives of a kernel that is computed by quadrature.

Price's theorem gives :math:`\partial K/\partial\varepsilon = -s_1 s_2 \dot K` exactly. Why not
automatic differentiation for that direction: angles enter through :math:`\sqrt\varepsilon`, so on
duplicates and antipodes it forms 0 times infinity although the derivative is finite.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ntk.coordinates import Coordinates, coordinates, safe_ratio, safe_sqrt
from ntk.duals import Dual
from ntk.gap import clip_gap


class QuadratureDual(Dual):
    """A dual whose averages are integrals; it provides ``_averages`` and gets ``kernel``."""

    def _averages(self, c: Coordinates, root1: Any, root2: Any) -> tuple[Any, Any, Any]:
        """``(K, Kdot, eps_out)`` from coordinates and the square roots of the output variances."""
        raise NotImplementedError

    def kernel(self, q1: Any, q2: Any, eps: Any) -> tuple[Any, Any, Any]:
        """``(K, Kdot, eps_out)``; see :meth:`ntk.duals.Dual.kernel`."""
        return _compiled(self, q1, q2, eps)


def _evaluate(dual: QuadratureDual, q1: Any, q2: Any, eps: Any) -> tuple[Any, Any, Any]:
    c = coordinates(q1, q2, eps)
    root1, root2 = safe_sqrt(dual.variance(q1)), safe_sqrt(dual.variance(q2))
    K, Kdot, gap = dual._averages(c, root1, root2)
    return K, Kdot, clip_gap(jnp.where(root1 * root2 > 0, gap, 1))


@jax.custom_jvp
def price_kernel(dual: QuadratureDual, q1: Any, q2: Any, eps: Any) -> tuple[Any, Any, Any]:
    """``(K, Kdot, eps_out)`` of a :class:`QuadratureDual`, with Price's rule for ``eps``."""
    return _evaluate(dual, q1, q2, eps)


@price_kernel.defjvp
def _price_kernel_jvp(primals: Any, tangents: Any) -> Any:
    (dual, q1, q2, eps), (d_dual, d_q1, d_q2, d_eps) = primals, tangents
    out, (d_K, d_Kdot, d_gap) = jax.jvp(
        lambda d, a, b: _evaluate(d, a, b, eps), (dual, q1, q2), (d_dual, d_q1, d_q2)
    )
    _, d_Kdot_eps = jax.jvp(lambda e: _evaluate(dual, q1, q2, e)[1], (eps,), (d_eps,))
    c = coordinates(q1, q2, eps)
    slope = c.s * out[1]
    norm = safe_sqrt(dual.variance(q1)) * safe_sqrt(dual.variance(q2))
    return out, (
        d_K - slope * d_eps,
        d_Kdot + d_Kdot_eps,
        d_gap + safe_ratio(slope, norm, 0.0) * d_eps,
    )


_compiled = jax.jit(price_kernel)
