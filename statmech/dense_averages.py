r"""Averages over the field of a spin in a network that learns from examples.

The field is :math:`\hat x s + a z`, with :math:`\hat x` of the law of the examples and z standard
normal; regular at zero temperature like :mod:`statmech.hopfield_averages`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from deeplimits.typing import Array
from statmech.examples import Law
from statmech.hopfield_averages import field_averages

#: Points that are averaged together, divided by the atoms of the law: they fit into the cache.
_TOGETHER = 64
#: Keeps the derivative of a square root finite at 0.
_TINY = 1e-300


class Response(NamedTuple):
    r"""Averages over the law of the examples and over z.

    Attributes:
        M: :math:`E\,\hat x \tanh((\hat x s + a z)/T)`, the overlap with the average example.
        C: :math:`T^{-1} E\,\mathrm{sech}^2`.
        q: :math:`E \tanh^2`.
        m: :math:`E\,\xi \tanh`, the overlap with the archetype.
        sech4: :math:`T^{-1} E\,\mathrm{sech}^4`.
        log_2cosh: :math:`T E \ln 2\cosh`.
    """

    M: Array
    C: Array
    q: Array
    m: Array
    sech4: Array
    log_2cosh: Array


def response(s: Array, a: Array, T: Array, law: Law) -> Response:
    """Averages at signal s, noise a and temperature T, of one shape ``(n,)``; differentiable."""
    x, spread, even, odd = (jnp.asarray(v)[None, :] for v in law)
    s_, a_, T_ = s[:, None], a[:, None], T[:, None]
    width = jnp.sqrt(a_**2 + (spread * s_) ** 2 + _TINY)
    g = field_averages(x * s_, width, T_)

    def mean(values: Array, weight: Array = even) -> Array:
        return jnp.sum(weight * values, axis=1)

    return Response(
        # a Gaussian spread of x is integrated by parts
        M=mean(x * g.tanh + spread**2 * s_ * g.C),
        C=mean(g.C),
        q=mean(g.q),
        m=mean(g.tanh, odd),
        sech4=mean(g.sech4),
        log_2cosh=mean(g.log_2cosh),
    )


def in_chunks(function: object, atoms: int, *arrays: Array) -> object:
    """``function`` of arrays ``(n,)``, applied to chunks one after the other."""
    n = arrays[0].size
    size = max(min(n, _TOGETHER // atoms), 1)
    pad = -n % size
    parts = tuple(jnp.pad(v, (0, pad), mode="edge").reshape(-1, size) for v in arrays)
    out = jax.lax.map(lambda part: function(*part), parts)  # type: ignore[operator]
    return jax.tree.map(lambda v: v.reshape(n + pad, *v.shape[2:])[:n], out)
