"""Layers whose parameters are not trained."""

from __future__ import annotations

from typing import Any

import jax

from ntk.layers import Layer, layer
from ntk.state import Kernel


@layer(data=("inner",))
class Frozen(Layer):
    """The layer ``inner`` with parameters that are not trained.

    Its own gradient does not enter the NTK; that of earlier layers passes through it.
    """

    inner: Layer

    def init(self, key: Any, input_shape: Any) -> tuple[Any, Any]:
        """As the inner layer."""
        return self.inner.init(key, input_shape)

    def apply(self, params: Any, x: Any, *, key: Any = None) -> Any:
        """As the inner layer, with a gradient of zero with respect to ``params``."""
        return self.inner.apply(jax.tree.map(jax.lax.stop_gradient, params), x, key=key)

    def propagate(self, k: Any) -> Any:
        """Propagate, keeping of the tangent kernel only what came from the input.

        A layer's tangent kernel is affine in that of its input; the linear part is its derivative.
        """
        out = self.inner.propagate(k)
        leaves = jax.tree.leaves(k, is_leaf=lambda node: isinstance(node, Kernel))
        if any(leaf.ntk is None for leaf in leaves):
            return out

        def tangent_kernels(ntks: list[Any]) -> list[Any]:
            replaced = [leaf.replace(ntk=ntk) for leaf, ntk in zip(leaves, ntks, strict=True)]
            result = self.inner.propagate(replaced if isinstance(k, list | tuple) else replaced[0])
            result = result if isinstance(result, list | tuple) else [result]
            return [r.ntk for r in result]

        ntks = [leaf.ntk for leaf in leaves]
        passed = jax.jvp(tangent_kernels, (ntks,), (ntks,))[1]
        if isinstance(out, Kernel):
            return _with_ntk(out, passed[0])
        return [_with_ntk(o, ntk) for o, ntk in zip(out, passed, strict=True)]


def _with_ntk(k: Kernel, ntk: Any) -> Kernel:
    """Replace the tangent kernel and drop a history that still holds the old one."""
    return k.replace(ntk=ntk, source=None, activation=None, parts=())
