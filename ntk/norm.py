"""Layers that rescale units: LayerNorm and Dropout."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from deeplimits.errors import DomainError, ShapeError, UnsupportedLayerError
from deeplimits.validate import choice, integer
from ntk.coordinates import check_parameters, safe_sqrt
from ntk.layers import Layer, cast, layer, scaled, single
from ntk.state import (
    Kernel,
    covariance,
    gap_from_distance,
    inverse_or_zero,
    new_token,
    pin_diagonal,
    squared_distance,
)


@layer(data=("eps",), meta=("axis",))
class LayerNorm(Layer):
    r"""Subtracts the mean and divides by :math:`\sqrt{\mathrm{Var} + \epsilon}` over ``axis``.

    The channel axis (-1) must be included; spatial axes may be. There is no learnable gain.
    In the wide limit the mean over channels is the mean of one unit, so the units after it are
    :math:`(h - m)/\sqrt{q - m^2 + \epsilon}`; :math:`\Theta` is divided by the same numbers.
    """

    axis: int | tuple[int, ...] = -1
    eps: Any = 1e-12
    deterministic = True

    def __post_init__(self) -> None:
        check_parameters({"eps": {"at_least": 0.0}}, eps=self.eps)
        for a in self._axes():
            integer(a, "axis")

    def _axes(self) -> tuple[int, ...]:
        return (self.axis,) if isinstance(self.axis, int) else tuple(self.axis)

    def _normalised_axes(self, ndim: int) -> tuple[int, ...]:
        axes = tuple(sorted({a % ndim for a in self._axes() if -ndim <= a < ndim}))
        if len(axes) != len(set(self._axes())) or ndim - 1 not in axes or 0 in axes:
            raise ShapeError(
                "axis of LayerNorm must hold the channel axis (-1), may hold spatial axes and must "
                f"not hold the batch axis 0; got {self.axis!r} for inputs with {ndim} axes."
            )
        return axes

    def apply(self, params: Any, x: Any, *, key: Any = None) -> Any:
        """Normalise ``x`` of shape ``(n, *pos, channels)`` over ``axis``."""
        axes = self._normalised_axes(x.ndim)
        centred = x - jnp.mean(x, axes, keepdims=True)
        variance = jnp.mean(centred**2, axes, keepdims=True)
        return centred / jnp.sqrt(variance + jnp.asarray(self.eps, x.dtype))

    def propagate(self, k: Any) -> Kernel:
        """Centre (where the units have a mean) and divide by the standard deviations."""
        k = single(k, "LayerNorm")
        axes = tuple(a for a in self._normalised_axes(k.cov1.ndim + 1) if a < k.cov1.ndim)
        if axes and not k.is_gaussian:
            raise UnsupportedLayerError(
                "LayerNorm over spatial axes is supported for Gaussian units only (after Dense); "
                "use axis=-1, or put a Dense layer before it."
            )
        if not k.is_gaussian:
            k = _centre(k)

        def factor(cov: Any) -> Any:
            variance = jnp.mean(cov, axes, keepdims=True) if axes else cov
            scale = inverse_or_zero(safe_sqrt(variance + cast(self.eps, k)))
            return jnp.broadcast_to(scale, cov.shape)

        tokens = k.tokens if k.is_gaussian else k.tokens | {new_token()}
        out = scaled(
            k,
            factor(k.cov1),
            None if k.cov2 is None else factor(k.cov2),
            tokens=tokens,
            uid=new_token(),
            source=None,
            activation=None,
            parts=(),
        )
        return out


def _centre(k: Kernel) -> Kernel:
    """Subtract the means of the units."""
    m1, m2 = k.m1, k.m2
    cov1 = jnp.maximum(k.cov1 - k.mean1**2, 0)
    cov2 = None if k.cov2 is None else jnp.maximum(k.cov2 - k.mean2**2, 0)
    distance = jnp.maximum(squared_distance(k) - (m1 - m2) ** 2, 0)
    out = k.replace(
        cov1=cov1,
        cov2=cov2,
        mean1=jnp.zeros_like(k.mean1),
        mean2=None if k.mean2 is None else jnp.zeros_like(k.mean2),
    )
    eps = gap_from_distance(distance, out.q1, out.q2)
    eps = pin_diagonal(eps, cov1) if k.x1_is_x2 else eps
    return out.replace(eps=eps, nngp=covariance(out.replace(eps=eps)))


@layer(data=("rate",), meta=("mode",))
class Dropout(Layer):
    """Keeps each unit with probability ``rate`` and divides by it (inverted dropout).

    Args:
        rate: the *keep* probability, in (0, 1] (as in neural-tangents).
        mode: ``"train"``, or ``"test"`` for no effect.

    The mask is part of the random network: the kernel of an input with itself is divided by
    ``rate``, kernels of different rows are unchanged. ``apply`` needs ``key``.
    """

    rate: Any
    mode: str = "train"

    def __post_init__(self) -> None:
        check_parameters({"rate": {"above": 0.0, "at_most": 1.0}}, rate=self.rate)
        choice(self.mode, "mode", ("train", "test"))

    def apply(self, params: Any, x: Any, *, key: Any = None) -> Any:
        """Random mask on ``x``, shape unchanged."""
        if self.mode == "test":
            return x
        if key is None:
            raise DomainError(
                "apply_fn needs key= because the network holds Dropout in train mode."
            )
        rate = jnp.asarray(self.rate, x.dtype)
        return jnp.where(jax.random.bernoulli(key, rate, x.shape), x / rate, jnp.zeros_like(x))

    def propagate(self, k: Any) -> Kernel:
        """Variances divided by ``rate``; covariances of different rows unchanged."""
        k = single(k, "Dropout")
        if self.mode == "test":
            return k
        rate = cast(self.rate, k)
        cov1 = k.cov1 / rate
        eps = (1 - rate) + rate * k.eps
        nngp, ntk = k.nngp, k.ntk
        if k.x1_is_x2:
            eps = pin_diagonal(eps, cov1)
            nngp = _divide_diagonal(nngp, rate)
            ntk = None if ntk is None else _divide_diagonal(ntk, rate)
        return k.replace(
            cov1=cov1,
            cov2=None if k.cov2 is None else k.cov2 / rate,
            eps=eps,
            nngp=nngp,
            ntk=ntk,
            source=None,
            activation=None,
            parts=(),
            is_gaussian=False,
        )


def _divide_diagonal(a: Any, rate: Any) -> Any:
    n = a.shape[0]
    mask = jnp.eye(n, dtype=bool).reshape((n, n) + (1,) * (a.ndim - 2))
    return jnp.where(mask, a / rate, a)
