r"""The tensors of order 1/n measured on ensembles of random finite networks.

The experiment that belongs to :func:`ntk.finite_width`: same parameterisation, same names, same
index order, with a standard error for every component. Nothing of the theory of order 1/n enters.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.errors import DomainError, ShapeError, UnsupportedLayerError
from deeplimits.estimates import Estimate
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import as_inputs, as_key, choice, integer, number
from ntk.activations import dual
from ntk.duals import Dual
from ntk.elementwise import typed
from ntk.finite_width_networks import (
    ORDERS,
    derivative_statistics,
    draw,
    metric_statistics,
    tangent_statistics,
)

#: Numbers (float32) that may be held at once for the networks in flight: 64 MB.
_BUDGET = 2**24


@functools.partial(
    register_dataclass,
    data_fields=["tensors"],
    meta_fields=["order", "widths", "n_samples"],
)
@dataclass(frozen=True)
class SampledFiniteWidth:
    """Tensors of order 1/n of an ensemble, ``estimates["V"].mean`` and ``.stderr``.

    Attributes:
        tensors: name -> :class:`deeplimits.estimates.Estimate`; G1 and Theta1 are ``(M, M)``, the
            others ``(M, M, M, M)``, with the indices of :class:`ntk.FiniteWidth`.
        order: up to which they were measured.
        widths: of the hidden layers; the tensors multiply ``1 / widths[-1]``.
        n_samples: number of networks.
    """

    tensors: dict[str, Estimate]
    order: str
    widths: tuple[int, ...]
    n_samples: int

    @property
    def n(self) -> int:
        """The expansion parameter's inverse: the width before the output."""
        return self.widths[-1]

    def __getitem__(self, name: str) -> Estimate:
        """The estimate of one tensor."""
        return measured_tensor(self.tensors, name)


def measured_tensor(tensors: dict[str, Any], name: str) -> Any:
    """The tensor called ``name``, or an error that lists those measured."""
    if name not in tensors:
        raise DomainError(f"{name!r} was not measured; available: {', '.join(tensors)}.")
    return tensors[name]


@float64_scope
def sample_finite_width(
    activation: Any,
    *,
    C_b: float,
    C_W: float,
    widths: Sequence[int],
    x: Any,
    n_samples: int,
    key: Any,
    lambda_b: Any = None,
    lambda_W: Any = None,
    order: str = "NTK",
    groups: int = 64,
) -> SampledFiniteWidth:
    r"""Tensors of order 1/n from random finite networks, with standard errors.

    .. math:: V = n\,\mathrm{Cov}(\hat G, \hat G), \quad D = n\,\mathrm{Cov}(\hat G, \hat H), \quad
       A = n\,\mathrm{Cov}(\hat H, \hat H), \quad G^{\{1\}} = n (E \hat G - G), \quad
       \Theta^{\{1\}} = n (E \hat H - \Theta),

    and means of the contractions in :mod:`ntk.finite_width_networks` for B, F, P to U. The read-out
    is integrated exactly: the average over all output neurons. These are the tensors *at width n*;
    they differ from those of :func:`ntk.finite_width` at order 1/n (see
    :func:`ntk.extrapolate_width`).

    The networks are drawn in ``groups`` independent ensembles, and the scatter of their estimates
    gives the standard errors; within an ensemble the networks run in batches of bounded memory, in
    float32 (its rounding, 1e-6, is far below the scatter).

    Args:
        activation: a name, a dual, or an elementwise function.
        C_b: variance of the biases, >= 0.
        C_W: variance of the weights times fan-in, > 0.
        widths: of the hidden layers, integers >= 1.
        x: inputs ``(M, n_0)``; the cost of the highest orders grows as M^4.
        n_samples: networks, a multiple of ``groups``, at least 4 in each.
        key: JAX key or integer seed.
        lambda_b, lambda_W: learning rates of biases and (times fan-in) of weights, one number or
            one per layer, read-out included; default ``C_b`` and ``C_W``.
        order: ``"V"`` (G1, V), ``"NTK"`` (and Theta1, A, B, D, F), ``"dNTK"`` (and P, Q) or
            ``"ddNTK"`` (and R, S, T, U).
        groups: independent ensembles, >= 8: the degrees of freedom of the errors, plus 1.

    Returns:
        :class:`SampledFiniteWidth`.

    Raises:
        DomainError, ShapeError: an argument out of its range.
        UnsupportedLayerError: an activation with jumps; one with kinks at order dNTK or higher,
            where second derivatives of finite networks miss the kink.

    Source: definitions of [roberts2022], chapters 4, 8 and 11; averages over the read-out derived
    here.
    Check: ``tests/ntk/test_finite_width_sampling.py``.
    """
    choice(order, "order", tuple(ORDERS))
    x = np.asarray(as_inputs(x), np.float64)
    if x.ndim != 2:
        raise ShapeError(f"x must have shape (M, n_0), got {x.shape}.")
    f = _checked(dual(activation), order)
    widths = _widths(widths)
    number(C_b, "C_b", at_least=0)
    number(C_W, "C_W", above=0)
    rates = _rates(lambda_b, lambda_W, float(C_b), float(C_W), len(widths) + 1)
    groups = integer(groups, "groups", at_least=8)
    n_samples = integer(n_samples, "n_samples", at_least=4 * groups)
    if n_samples % groups:
        raise DomainError(f"n_samples must be a multiple of groups = {groups}, got {n_samples}.")
    limit = infinite_width(f, float(C_b), float(C_W), len(widths), x, rates)
    keys = jax.random.split(as_key(key), n_samples).reshape(groups, -1)
    single = [jnp.asarray(a, jnp.float32) for a in (x, C_b, C_W, rates)]
    size = _batch_size(order, (x.shape[1], *widths), len(x))
    runs = [_group(typed(f, jnp.float32), k, *single, widths, order, size) for k in keys]
    found = {name: np.stack([np.asarray(r[name], np.float64) for r in runs]) for name in runs[0]}
    tensors = {}
    for name in _names(order):
        values = found[name]
        if name in ("G1", "Theta1"):
            values = widths[-1] * (values - limit[name == "Theta1"])
        error = values.std(0, ddof=1) / math.sqrt(groups)
        tensors[name] = Estimate(values.mean(0), error, groups - 1)
    return SampledFiniteWidth(tensors, order, widths, n_samples)


def _names(order: str) -> list[str]:
    """Tensors at ``order`` and all below it."""
    upto = list(ORDERS).index(order) + 1
    return [name for names in list(ORDERS.values())[:upto] for name in names]


def _checked(f: Dual, order: str) -> Dual:
    if not f.differentiable and order != "V":
        raise UnsupportedLayerError(f"{type(f).__name__} jumps, so it has no NTK. Use order='V'.")
    if f.kinks and order in ("dNTK", "ddNTK"):
        raise UnsupportedLayerError(
            f"{type(f).__name__} has kinks: the second derivative of a finite network vanishes "
            "almost everywhere and misses them. Use order='NTK', or a smooth activation."
        )
    return f


def _widths(widths: Any) -> tuple[int, ...]:
    if np.ndim(widths) != 1 or len(widths) == 0:
        raise ShapeError(f"widths must list the hidden layers, such as [64, 64]; got {widths!r}.")
    return tuple(integer(n, f"widths[{i}]", at_least=1) for i, n in enumerate(widths))


def _rates(lambda_b: Any, lambda_W: Any, C_b: float, C_W: float, layers: int) -> np.ndarray:
    """``(layers, 2)`` learning rates of biases and weights."""
    columns = []
    for name, given, default in (("lambda_b", lambda_b, C_b), ("lambda_W", lambda_W, C_W)):
        column = np.asarray(default if given is None else given, np.float64)
        if column.shape not in ((), (layers,)):
            raise ShapeError(
                f"{name} must be one number or {layers} (hidden layers and read-out), "
                f"got shape {column.shape}."
            )
        if not np.all(column >= 0):
            raise DomainError(f"{name} must be >= 0, got a minimum of {column.min():g}.")
        columns.append(np.broadcast_to(column, layers))
    return np.stack(columns, axis=1)


def infinite_width(
    f: Dual, C_b: float, C_W: float, depth: int, x: np.ndarray, rates: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    r"""Kernel :math:`G` and tangent kernel :math:`\Theta` of infinite width, ``(M, M)`` each.

    Args:
        f: dual of the activation.
        C_b, C_W: variances of biases and weights.
        depth: number of hidden layers.
        x: inputs ``(M, n_0)``.
        rates: ``(depth + 1, 2)``, ``(lambda_b, lambda_W)`` of each layer.
    """
    gram = x @ x.T / x.shape[1]
    G, Theta = C_b + C_W * gram, rates[0, 0] + rates[0, 1] * gram
    for rate_b, rate_W in rates[1 : depth + 1]:
        q = np.diag(G)
        K = np.asarray(f.K(q[:, None], G, q[None]))
        slopes = (
            np.asarray(f.Kdot(q[:, None], G, q[None])) if f.differentiable else np.zeros_like(K)
        )
        G, Theta = C_b + C_W * K, rate_b + rate_W * K + C_W * slopes * Theta
    return G, Theta


def _batch_size(order: str, sizes: tuple[int, ...], M: int) -> int:
    """Networks at once: parameters, and per order the tangent kernel or the tangents."""
    parameters = sum((m + 1) * n for m, n in itertools.pairwise(sizes))
    cost = 2 * parameters
    if order != "V":
        cost += 4 * (M * max(sizes[1:])) ** 2
    if order == "dNTK":
        cost += 8 * M**2 * parameters
    if order == "ddNTK":
        cost += 8 * M**3 * parameters
    return max(1, _BUDGET // cost)


@functools.partial(jax.jit, static_argnames=("widths", "order", "size"))
def _group(
    f: Dual,
    keys: Any,
    x: Any,
    C_b: Any,
    C_W: Any,
    rates: Any,
    widths: tuple[int, ...],
    order: str,
    size: int,
) -> dict[str, Any]:
    """Estimates of one ensemble; G1 and Theta1 stand for the mean kernels."""
    table = [(rates[i, 0], rates[i, 1]) for i in range(len(widths) + 1)]

    def one(key: Any) -> dict[str, Any]:
        key, other = jax.random.split(key)
        layers = draw(key, x.shape[1], widths, C_W, C_b)
        if order == "V":
            return metric_statistics(f.fn, layers, x, C_b, C_W)
        found = tangent_statistics(f.fn, layers, x, C_b, C_W, table)
        if order == "NTK":
            return found
        signs = jax.random.rademacher(other, (2, widths[-1]), dtype=x.dtype)
        third = order == "ddNTK"
        return found | derivative_statistics(f.fn, layers, x, C_W, table, signs, third)

    each = jax.lax.map(one, keys, batch_size=min(size, len(keys)))
    n, M = widths[-1], len(x)
    means = {name: jnp.mean(value, axis=0) for name, value in each.items()}
    moved = {k: (each[k] - means[k][None]).reshape(-1, M * M) for k in ("G", "H") if k in each}

    def covariance(a: str, b: str) -> Any:
        product = jnp.matmul(moved[a].T, moved[b]) / (len(keys) - 1)
        return n * product.reshape(M, M, M, M)

    means |= {"G1": means["G"], "V": covariance("G", "G")}
    if order != "V":
        means |= {"Theta1": means["H"], "A": covariance("H", "H"), "D": covariance("G", "H")}
    return means
