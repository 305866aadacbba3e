"""A dual given by the user's own formula."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from deeplimits.errors import DomainError, UnsupportedLayerError
from deeplimits.pytrees import register_dataclass
from ntk.coordinates import coordinates, safe_ratio, safe_sqrt
from ntk.duals import Dual
from ntk.gap import clip_gap
from ntk.quadrature import gaussian_mean


@functools.partial(
    register_dataclass,
    data_fields=[],
    meta_fields=["function", "covariance", "slope", "kinks"],
)
@dataclass(frozen=True)
class FormulaDual(Dual):
    r"""Dual of ``function`` with :math:`K` = ``covariance(q12, q1, q2)``.

    Args:
        function: the activation, elementwise; None if there is no finite network.
        covariance: elementwise JAX function ``(q12, q1, q2) -> E[fn(x) fn(y)]``.
        slope: likewise for ``E[fn'(x) fn'(y)]``; None for the derivative of ``covariance`` with
            respect to ``q12``.
        kinks: points where the activation or its derivative jumps (used for its mean).

    The gap of the output is ``1 - K / sqrt(K11 K22)``, so near-duplicates are resolved to
    sqrt(machine epsilon) only; the built-in duals do better.

    Raises:
        DomainError: ``covariance`` or ``slope`` is not callable.
    """

    function: Callable[[Any], Any] | None
    covariance: Callable[[Any, Any, Any], Any]
    slope: Callable[[Any, Any, Any], Any] | None = None
    kinks: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name, value in (("nngp_fn", self.covariance), ("d_nngp_fn", self.slope)):
            if not callable(value) and not (name == "d_nngp_fn" and value is None):
                raise DomainError(f"{name} must be callable as (cov12, var1, var2), got {value!r}.")

    def fn(self, x: Any) -> Any:
        """The activation."""
        if self.function is None:
            raise UnsupportedLayerError(
                "This activation has a kernel formula but no function, so no finite network. "
                "Give Elementwise a callable fn."
            )
        return self.function(x)

    def kernel(self, q1: Any, q2: Any, eps: Any) -> tuple[Any, Any, Any]:
        """``(K, Kdot, eps_out)``; see :meth:`ntk.duals.Dual.kernel`."""
        c = coordinates(q1, q2, eps)
        q12 = c.s * c.rho
        q1, q2 = jnp.broadcast_to(c.s1**2, q12.shape), jnp.broadcast_to(c.s2**2, q12.shape)
        if self.slope is None:
            K, Kdot = jax.jvp(lambda q: self.covariance(q, q1, q2), (q12,), (jnp.ones_like(q12),))
        else:
            K, Kdot = self.covariance(q12, q1, q2), self.slope(q12, q1, q2)
        scale = safe_sqrt(self.variance(q1)) * safe_sqrt(self.variance(q2))
        return K, Kdot, clip_gap(safe_ratio(scale - K, scale, 1.0))

    def variance(self, q: Any) -> Any:
        """``covariance(q, q, q)``."""
        return self.covariance(q, q, q)

    def mean(self, q: Any) -> Any:
        """``E[fn(sqrt(q) z)]`` by quadrature (NaN if there is no function)."""
        if self.function is None:
            return jnp.full_like(q, jnp.nan)
        return gaussian_mean(self.function, self.kinks, q)
