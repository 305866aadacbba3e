"""Kernels averaged over random finite networks, with standard errors."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.errors import DomainError
from deeplimits.precision import working_dtype
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import as_inputs, as_key, choice, integer, same_features
from ntk.empirical import empirical_ntk
from ntk.layers import Layer
from ntk.norm import Dropout


@functools.partial(register_dataclass, data_fields=["mean", "stderr"], meta_fields=["n_samples"])
@dataclass(frozen=True)
class MonteCarloKernel:
    """Average kernel of ``n_samples`` independent networks.

    Attributes:
        mean: ``(n1, n2)``.
        stderr: ``(n1, n2)`` standard error of the mean, per entry (entries are correlated).
        n_samples: number of networks.
    """

    mean: np.ndarray
    stderr: np.ndarray
    n_samples: int


def monte_carlo_kernel(
    net: Layer,
    key: Any,
    x1: Any,
    x2: Any = None,
    *,
    n_samples: int,
    get: str = "ntk",
    batch_size: int = 16,
) -> MonteCarloKernel:
    r"""Mean over random initialisations of the kernel of the finite network.

    ``"nngp"``: :math:`f(x) f(x')^T / O` over the ``O`` outputs; ``"ntk"``: mean over outputs of the
    diagonal of the tangent kernel (:func:`ntk.empirical_ntk`). The finite widths are those given to
    the layers, so the mean differs from the limit at order 1/width. With ``Dropout`` every row of
    ``x1`` and of ``x2`` has a mask of its own, and Jacobians are held for all rows at once (memory:
    ``batch_size n O`` sets of parameters).

    Args:
        net: network with a finite ``init``/``apply``.
        key: JAX key or integer seed.
        x1: ``(n1, d)`` or ``(n1, *pos, channels)``.
        x2: likewise or None for ``x1``.
        n_samples: number of networks, >= 2.
        get: ``"nngp"`` or ``"ntk"``.
        batch_size: networks evaluated at once (memory: that many sets of parameters).

    Returns:
        Record with ``.mean`` and ``.stderr``.

    Raises:
        ShapeError, DomainError: bad inputs, ``net`` without finite networks, ``n_samples < 2``.

    Source: Novak et al., arXiv:1912.02803, section 3.2; standard errors added here.
    Check: ``tests/ntk/test_monte_carlo.py``.
    """
    if not isinstance(net, Layer):
        raise DomainError(f"net must be a network of this package, got {type(net).__name__}.")
    integer(n_samples, "n_samples", at_least=2)
    integer(batch_size, "batch_size", at_least=1)
    choice(get, "get", ("nngp", "ntk"))
    x1 = as_inputs(x1, "x1")
    if x2 is not None:
        x2 = as_inputs(x2, "x2")
        same_features(x1, x2)
    dtype = working_dtype(*(x for x in (x1, x2) if x is not None))
    x1 = jnp.asarray(x1, dtype)
    x2 = None if x2 is None else jnp.asarray(x2, dtype)
    keys = jax.random.split(as_key(key), n_samples)
    mean, variance = _moments(net, keys, x1, x2, get, min(batch_size, n_samples))
    return MonteCarloKernel(np.asarray(mean), np.sqrt(variance / n_samples), n_samples)


@functools.partial(jax.jit, static_argnames=("get", "batch_size"))
def _moments(net: Layer, keys: Any, x1: Any, x2: Any, get: str, batch_size: int) -> Any:
    """Mean and variance of the kernel over the keys."""
    wide = jnp.zeros(()).dtype
    nodes = jax.tree.leaves(net, is_leaf=lambda node: isinstance(node, Dropout))
    masks = any(isinstance(node, Dropout) and node.mode == "train" for node in nodes)

    def one(key: Any) -> Any:
        key_init, key_apply = jax.random.split(key)
        _, params = net.init(key_init, x1.shape)
        params = jax.tree.map(lambda leaf: leaf.astype(x1.dtype), params)

        def f(p: Any, x: Any) -> Any:
            return net.apply(p, x, key=key_apply)

        if get == "ntk" and masks:
            return _masked_ntk(net, params, x1, x2, key_apply).astype(wide)
        if get == "ntk":
            return empirical_ntk(f, params, x1, x2).astype(wide)
        f1 = f(params, x1)
        f2 = f1 if x2 is None else net.apply(params, x2, key=jax.random.fold_in(key_apply, 1))
        return (jnp.matmul(f1, f2.T) / f1.shape[-1]).astype(wide)

    kernels = jax.lax.map(one, keys, batch_size=batch_size)
    return jnp.mean(kernels, axis=0), jnp.var(kernels, axis=0, ddof=1)


def _masked_ntk(net: Layer, params: Any, x1: Any, x2: Any, key: Any) -> Any:
    """Tangent kernel averaged over outputs, with one key and so one mask for each row."""

    def jacobians(x: Any, key: Any) -> Any:
        def row(r: Any, k: Any) -> Any:
            return jax.jacrev(lambda p: net.apply(p, r[None], key=k)[0])(params)

        return jax.vmap(row)(x, jax.random.split(key, x.shape[0]))

    key1, key2 = jax.random.split(key)
    J1 = jacobians(x1, key1)
    J2 = J1 if x2 is None else jacobians(x2, key2)

    def contract(a: Any, b: Any) -> Any:  # (n, O, *parameter)
        a, b = (j.reshape(j.shape[0], -1) for j in (a, b))
        return jnp.matmul(a, b.T)

    outputs = jax.tree.leaves(J1)[0].shape[1]
    return sum(jax.tree.leaves(jax.tree.map(contract, J1, J2))) / outputs
