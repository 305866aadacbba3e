"""Elementwise functions as pytrees, with all their derivatives.

A plain callable is static (compared by identity); functions built from duals keep the parameters
of those duals as leaves, so that kernels can be differentiated with respect to them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from deeplimits.pytrees import register_dataclass
from ntk.duals import Dual


@functools.partial(register_dataclass, data_fields=[], meta_fields=["function"])
@dataclass(frozen=True)
class Plain:
    """A user's callable ``function(array) -> array``."""

    function: Callable[[Any], Any]

    def __call__(self, x: Any) -> Any:
        """Evaluate, in the dtype of ``x``."""
        return jnp.asarray(self.function(x)).astype(x.dtype)


@functools.partial(register_dataclass, data_fields=[], meta_fields=["function"])
@dataclass(frozen=True)
class Scalar:
    """A callable that only accepts scalars, mapped over the entries of an array."""

    function: Callable[[Any], Any]

    def __call__(self, x: Any) -> Any:
        """Evaluate entry by entry."""
        flat = jax.vmap(lambda t: jnp.asarray(self.function(t)).astype(x.dtype))(jnp.ravel(x))
        return flat.reshape(x.shape)


@functools.partial(register_dataclass, data_fields=["outer", "inner"], meta_fields=[])
@dataclass(frozen=True)
class Composition:
    """``outer(inner(x))``."""

    outer: Dual
    inner: Dual

    def __call__(self, x: Any) -> Any:
        """Evaluate."""
        return self.outer.fn(self.inner.fn(x))


@functools.partial(register_dataclass, data_fields=["terms"], meta_fields=[])
@dataclass(frozen=True)
class Sum:
    """``sum_i terms[i](x)``."""

    terms: tuple[Dual, ...]

    def __call__(self, x: Any) -> Any:
        """Evaluate."""
        return functools.reduce(lambda a, b: a + b, [d.fn(x) for d in self.terms])


@functools.partial(register_dataclass, data_fields=["factors"], meta_fields=[])
@dataclass(frozen=True)
class Product:
    """``prod_i factors[i](x)``."""

    factors: tuple[Dual, ...]

    def __call__(self, x: Any) -> Any:
        """Evaluate."""
        return functools.reduce(lambda a, b: a * b, [d.fn(x) for d in self.factors])


@functools.partial(register_dataclass, data_fields=["function"], meta_fields=[])
@dataclass(frozen=True)
class Square:
    """``function(x)^2``."""

    function: Any

    def __call__(self, x: Any) -> Any:
        """Evaluate."""
        return self.function(x) ** 2


#: In a path of derivatives: with respect to the argument (others are numbers of scalar parameters).
X = -1


def derivative(f: Any, path: tuple[int, ...], x: Any) -> Any:
    """The mixed derivative of ``f`` along ``path``, elementwise at ``x``.

    Args:
        f: an elementwise function (pytree with scalar leaves).
        path: one entry per differentiation: ``X`` or the number of a leaf.
        x: array.
    """
    if not path:
        return f(x)
    if path[0] == X:
        return jax.jvp(lambda t: derivative(f, path[1:], t), (x,), (jnp.ones_like(x),))[1]
    leaves, tree = jax.tree.flatten(f)
    unit = [jnp.ones_like(a) if i == path[0] else jnp.zeros_like(a) for i, a in enumerate(leaves)]
    direction = jax.tree.unflatten(tree, unit)
    return jax.jvp(lambda g: derivative(g, path[1:], x), (f,), (direction,))[1]


def slope(f: Any, x: Any) -> Any:
    """``f'(x)``."""
    return derivative(f, (X,), x)


def typed(f: Any, dtype: Any) -> Any:
    """``f`` with its parameters as arrays of ``dtype``."""
    return jax.tree.map(lambda a: jnp.asarray(a).astype(dtype), f)
