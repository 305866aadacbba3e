r"""Compositions of layers: ``serial``, ``parallel``, ``FanOut`` and the three fan-ins.

Branches are compared by the random layers on which one of their units depends (``Kernel.tokens``):

* disjoint: the units are independent given the inputs, also where they have a mean, so
  :math:`K = \sum_i K_i + \sum_{i \ne j} m_i m_j'` for sums and :math:`K = \prod_i K_i` for
  products;
* functions of the same Gaussian units (a skip connection around an activation): the sum or product
  is one elementwise function of these units, averaged as such;
* otherwise no closed form is known and :class:`UnsupportedLayerError` says so.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from deeplimits.errors import DomainError, ShapeError, UnsupportedLayerError
from deeplimits.validate import integer
from ntk.coordinates import safe_sqrt
from ntk.gap import clip_gap
from ntk.layers import Identity, Layer, gaussian_average, layer, single
from ntk.state import (
    Kernel,
    gap_from_distance,
    inverse_or_zero,
    new_token,
    pin_diagonal,
    squared_distance,
)


def as_layer(value: Any, name: str) -> Layer:
    """Refuse anything that is not a layer, with the usual mistake in the message."""
    if isinstance(value, Layer):
        return value
    hint = " Did you forget the parentheses, as in Relu()?" if callable(value) else ""
    raise DomainError(f"{name} must be a layer, got {value!r}.{hint}")


@layer(data=("layers",))
class Serial(Layer):
    """Layers applied one after the other; made by :func:`serial`."""

    layers: tuple[Layer, ...]

    def init(self, key: Any, input_shape: Any) -> tuple[Any, Any]:
        """Parameters: a tuple with one entry per layer."""
        params = []
        for part, sub in zip(self.layers, jax.random.split(key, len(self.layers)), strict=True):
            input_shape, p = part.init(sub, input_shape)
            params.append(p)
        return input_shape, tuple(params)

    def apply(self, params: Any, x: Any, *, key: Any = None) -> Any:
        """Apply in order."""
        for part, p, sub in zip(self.layers, params, _split(key, len(self.layers)), strict=True):
            x = part.apply(p, x, key=sub)
        return x

    def propagate(self, k: Any) -> Any:
        """Propagate in order."""
        for part in self.layers:
            k = part.propagate(k)
        return k


def _split(key: Any, n: int) -> Sequence[Any]:
    return [None] * n if key is None else list(jax.random.split(key, n))


def serial(*layers: Layer) -> Serial:
    """Compose layers one after the other.

    Args:
        *layers: at least one layer; nested ``serial`` are merged.

    Returns:
        A layer that unpacks as ``init_fn, apply_fn, kernel_fn``.

    Raises:
        DomainError: no layer, or something that is not a layer.
    """
    if not layers:
        raise DomainError("serial needs at least one layer, got none.")
    flat: list[Layer] = []
    for i, part in enumerate(layers):
        part = as_layer(part, f"layer {i} of serial")
        flat.extend(part.layers if isinstance(part, Serial) else (part,))
    return Serial(tuple(flat))


@layer(data=("layers",))
class Parallel(Layer):
    """Layers applied to the branches of a list; made by :func:`parallel`."""

    layers: tuple[Layer, ...]

    def _check(self, branches: Any) -> None:
        got = len(branches) if isinstance(branches, list | tuple) else None
        if got != len(self.layers):
            came = "one input" if got is None else f"{got} branches"
            raise ShapeError(
                f"parallel has {len(self.layers)} layers but got {came}; put FanOut(num) before it."
            )

    def init(self, key: Any, input_shape: Any) -> tuple[Any, Any]:
        """Parameters: a tuple with one entry per branch."""
        self._check(input_shape if isinstance(input_shape[0], list | tuple) else None)
        keys = jax.random.split(key, len(self.layers))
        pairs = [p.init(k, s) for p, k, s in zip(self.layers, keys, input_shape, strict=True)]
        return [shape for shape, _ in pairs], tuple(params for _, params in pairs)

    def apply(self, params: Any, x: Any, *, key: Any = None) -> Any:
        """Apply each layer to its branch."""
        self._check(x)
        keys = _split(key, len(self.layers))
        parts = zip(self.layers, params, x, keys, strict=True)
        return [part.apply(p, xi, key=sub) for part, p, xi, sub in parts]

    def propagate(self, k: Any) -> list[Any]:
        """Propagate each branch."""
        self._check(k)
        return [part.propagate(ki) for part, ki in zip(self.layers, k, strict=True)]


def parallel(*layers: Layer) -> Parallel:
    """Apply one layer to each branch (after ``FanOut``).

    Raises:
        DomainError: no layer, or something that is not a layer.
    """
    if not layers:
        raise DomainError("parallel needs at least one layer, got none.")
    return Parallel(tuple(as_layer(p, f"layer {i} of parallel") for i, p in enumerate(layers)))


@layer(meta=("num",))
class FanOut(Layer):
    """Copies its input to ``num`` branches."""

    num: int

    def __post_init__(self) -> None:
        integer(self.num, "num", at_least=1)

    def init(self, key: Any, input_shape: Any) -> tuple[Any, Any]:
        """A list of ``num`` equal shapes."""
        return [tuple(input_shape)] * self.num, ()

    def apply(self, params: Any, x: Any, *, key: Any = None) -> Any:
        """A list of ``num`` references to ``x``."""
        return [x] * self.num

    def propagate(self, k: Any) -> list[Any]:
        """A list of ``num`` references to ``k``."""
        return [k] * self.num


def _branches(k: Any, name: str) -> list[Kernel]:
    """The kernels to be merged, checked for equal inputs and positions."""
    if isinstance(k, Kernel):
        raise ShapeError(f"{name} merges a list of branches, got one; put FanOut(num) before it.")
    branches = [single(branch, f"each branch of {name}") for branch in k]
    if len({b.spatial for b in branches}) > 1:
        raise ShapeError(
            f"{name} needs equal spatial axes in all branches, got "
            f"{', '.join(str(b.spatial) for b in branches)}."
        )
    return branches


def _same_channels(shapes: Sequence[int], name: str) -> None:
    if len(set(shapes)) > 1:
        raise ShapeError(
            f"{name} needs the same number of channels in all branches, got "
            f"{', '.join(map(str, shapes))}. Give the Dense layers of the branches equal out_dim."
        )


def _merge_shared(branches: list[Kernel], name: str) -> list[Kernel]:
    """Replace branches that are functions of the same Gaussian units by one branch."""
    groups: dict[Any, list[Kernel]] = {}
    for number, branch in enumerate(branches):
        base = branch if branch.is_gaussian else branch.source
        name_of = ("unique", number) if base is None else ("shared", base.uid)
        groups.setdefault(name_of, []).append(branch)
    merged = []
    for members in groups.values():
        if len(members) == 1:
            merged.append(members[0])
            continue
        from ntk.activations import dual, product_of, sum_of

        combine = sum_of if name == "FanInSum" else product_of
        duals = [m.activation or dual("identity") for m in members]
        merged.append(gaussian_average(combine(duals), members[0].source or members[0]))
    for a, b in itertools.combinations(merged, 2):
        if a.tokens & b.tokens:
            raise UnsupportedLayerError(
                f"Two branches of {name} share random units without being functions of the same "
                "Gaussian units, so they are correlated and no closed form is known. Put a Dense "
                "layer into all branches but one, or use ntk.monte_carlo_kernel."
            )
    return merged


@layer()
class FanInSum(Layer):
    """Adds its branches, Gaussian or not (see the module's first lines for the rules)."""

    def init(self, key: Any, input_shape: Any) -> tuple[Any, Any]:
        """The common shape of the branches."""
        _same_channels([s[-1] for s in input_shape], "FanInSum")
        return tuple(input_shape[0]), ()

    def apply(self, params: Any, x: Any, *, key: Any = None) -> Any:
        """Sum of the list ``x``."""
        return functools.reduce(jnp.add, x)

    def propagate(self, k: Any) -> Kernel:
        """Sum of covariances, plus products of means where both branches have one."""
        branches = _branches(k, "FanInSum")
        _same_channels([b.channels for b in branches], "FanInSum")
        if any(b.parts for b in branches) and sum(not b.is_gaussian for b in branches) > 1:
            raise UnsupportedLayerError(
                "FanInSum of a channel concatenation and another non-Gaussian branch has no closed "
                "form here; put a Dense layer after FanInConcat."
            )
        merged = _merge_shared(branches, "FanInSum")
        return merged[0] if len(merged) == 1 else weighted_sum(merged, [1.0] * len(merged))


def weighted_sum(branches: list[Kernel], weights: list[float], *, units: bool = True) -> Kernel:
    """Record with covariance ``sum_i weights_i K_i``; with ``units``, of the sum of the units.

    The gap uses Lagrange's identity: with ``s = sqrt(q)`` and ``P = sqrt(q1 q2)``,
    ``P eps = sum_i s_i s_i' eps_i + sum_{i<j} (s_i s_j' - s_j s_i')^2 / (P + sum_i s_i s_i')``,
    a sum of non-negative terms, where ``1 - K / P`` would cancel.
    """
    first = branches[0]

    def total(values: list[Any]) -> Any:
        if values[0] is None:
            return None
        return functools.reduce(jnp.add, [w * v for w, v in zip(weights, values, strict=True)])

    out = first.replace(
        cov1=total([b.cov1 for b in branches]),
        cov2=total([b.cov2 for b in branches]),
        nngp=total([b.nngp for b in branches]),
        ntk=total([b.ntk for b in branches]),
        mean1=total([b.mean1 for b in branches]),
        mean2=total([b.mean2 for b in branches]),
        source=None,
        activation=None,
        parts=(),
        is_gaussian=units and all(b.is_gaussian for b in branches),
        tokens=frozenset().union(*(b.tokens for b in branches)),
        uid=new_token(),
    )
    if units and sum(not b.is_gaussian for b in branches) > 1:
        return _add_mean_products(branches, out)
    sides = [
        (safe_sqrt(w * b.q1), safe_sqrt(w * b.q2)) for w, b in zip(weights, branches, strict=True)
    ]
    p = safe_sqrt(out.q1) * safe_sqrt(out.q2)
    products = [a * b for a, b in sides]
    deficit = functools.reduce(
        jnp.add, [(a * d - c * b) ** 2 for (a, b), (c, d) in itertools.combinations(sides, 2)]
    )
    deficit = deficit * inverse_or_zero(p + functools.reduce(jnp.add, products))
    gaps = functools.reduce(jnp.add, [s * b.eps for s, b in zip(products, branches, strict=True)])
    eps = jnp.where(p > 0, clip_gap((gaps + deficit) * inverse_or_zero(p)), 1)
    return out.replace(eps=pin_diagonal(eps, out.cov1) if out.x1_is_x2 else eps)


def _add_mean_products(branches: list[Kernel], out: Kernel) -> Kernel:
    """Add ``m_i m_j'`` for pairs of independent branches that both have a mean."""
    distance = functools.reduce(jnp.add, [squared_distance(b) for b in branches])
    cov1, cov2, nngp = out.cov1, out.cov2, out.nngp
    for a, b in itertools.combinations(branches, 2):
        cov1 = cov1 + 2 * a.mean1 * b.mean1
        cov2 = None if cov2 is None else cov2 + 2 * a.mean2 * b.mean2
        nngp = nngp + a.m1 * b.m2 + b.m1 * a.m2
        distance = distance + 2 * (a.m1 - a.m2) * (b.m1 - b.m2)
    out = out.replace(cov1=cov1, cov2=cov2, nngp=nngp)
    eps = gap_from_distance(distance, out.q1, out.q2)
    return out.replace(eps=pin_diagonal(eps, cov1) if out.x1_is_x2 else eps)


@layer()
class FanInProd(Layer):
    r"""Multiplies its branches.

    .. math:: K = \prod_i K_i, \qquad \Theta = \sum_i \Theta_i \prod_{j \ne i} K_j
    """

    def init(self, key: Any, input_shape: Any) -> tuple[Any, Any]:
        """The common shape of the branches."""
        _same_channels([s[-1] for s in input_shape], "FanInProd")
        return tuple(input_shape[0]), ()

    def apply(self, params: Any, x: Any, *, key: Any = None) -> Any:
        """Product of the list ``x``."""
        return functools.reduce(jnp.multiply, x)

    def propagate(self, k: Any) -> Kernel:
        """Product of second moments of independent branches."""
        branches = _branches(k, "FanInProd")
        _same_channels([b.channels for b in branches], "FanInProd")
        if any(b.parts for b in branches):
            raise UnsupportedLayerError(
                "FanInProd of a channel concatenation has no closed form here; put a Dense layer "
                "after FanInConcat."
            )
        merged = _merge_shared(branches, "FanInProd")
        return functools.reduce(_product, merged)


def _product(a: Kernel, b: Kernel) -> Kernel:
    """Record of the product of two independent units."""

    def times(x: Any, y: Any) -> Any:
        return None if x is None else x * y

    return a.replace(
        cov1=a.cov1 * b.cov1,
        cov2=times(a.cov2, b.cov2),
        eps=a.eps + b.eps * (1 - a.eps),  # 1 - (1 - eps_a)(1 - eps_b)
        nngp=a.nngp * b.nngp,
        ntk=None if a.ntk is None else a.ntk * b.nngp + a.nngp * b.ntk,
        mean1=a.mean1 * b.mean1,
        mean2=times(a.mean2, b.mean2),
        source=None,
        activation=None,
        parts=(),
        is_gaussian=False,
        tokens=a.tokens | b.tokens,
    )


@layer(meta=("axis",))
class FanInConcat(Layer):
    """Concatenates its branches along the channel axis: a mean weighted by their widths."""

    axis: int = -1

    def _check(self, ndim: int) -> None:
        integer(self.axis, "axis")
        if self.axis % ndim != ndim - 1:
            raise UnsupportedLayerError(
                f"FanInConcat supports the channel axis only (axis=-1), got axis={self.axis}."
            )

    def init(self, key: Any, input_shape: Any) -> tuple[Any, Any]:
        """Channels add up."""
        self._check(len(input_shape[0]))
        channels = sum(s[-1] for s in input_shape)
        return (*input_shape[0][:-1], channels), ()

    def apply(self, params: Any, x: Any, *, key: Any = None) -> Any:
        """Concatenation of the list ``x``."""
        self._check(x[0].ndim)
        return jnp.concatenate(x, axis=-1)

    def propagate(self, k: Any) -> Kernel:
        """Average of the blocks; a following activation is applied to each block."""
        branches = _branches(k, "FanInConcat")
        self._check(branches[0].cov1.ndim + 1)
        return concatenate(branches)


def concatenate(branches: list[Kernel]) -> Kernel:
    """Record of the concatenation of units along the channel axis."""
    if len(branches) == 1:
        return branches[0]
    channels = sum(b.channels for b in branches)
    out = weighted_sum(branches, [b.channels / channels for b in branches], units=False)
    flat = tuple(itertools.chain.from_iterable(b.parts or (b,) for b in branches))
    return out.replace(channels=channels, parts=flat)


__all__ = ["FanInConcat", "FanInProd", "FanInSum", "FanOut", "Identity", "parallel", "serial"]
