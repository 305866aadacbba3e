"""Layers of wide networks: each knows its finite network and its infinite-width kernel.

A layer is a frozen dataclass and a JAX pytree whose leaves are its real parameters (``W_std``,
``b_std``, slopes of the activation), so kernels can be differentiated with respect to them. Every
layer, and every composition of layers, unpacks as ``(init_fn, apply_fn, kernel_fn)``.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp

from deeplimits.errors import DomainError, ShapeError, UnsupportedLayerError
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import as_key, choice, integer
from ntk.coordinates import check_parameters, safe_ratio, safe_sqrt
from ntk.duals import Dual
from ntk.gap import clip_gap
from ntk.state import (
    Kernel,
    covariance,
    gap_from_distance,
    in_one_pass,
    new_token,
    pin_diagonal,
    squared_distance,
)

C = TypeVar("C")


@dataclass_transform(frozen_default=True)
def layer(*, data: tuple[str, ...] = (), meta: tuple[str, ...] = ()) -> Callable[[C], C]:
    """Class decorator: a frozen dataclass registered as a pytree with these leaves."""

    def register(cls: Any) -> Any:
        cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
        return register_dataclass(cls, data_fields=list(data), meta_fields=list(meta))

    return register


class Layer:
    """Base of all layers: ``init``, ``apply`` and ``propagate``, and what follows from them."""

    #: True if the layer has no parameters and no randomness (it can act on raw inputs).
    deterministic: bool = False

    def init(self, key: Any, input_shape: Any) -> tuple[Any, Any]:
        """``(output_shape, params)`` for inputs of ``input_shape`` (batch axis first)."""
        return input_shape, ()

    def apply(self, params: Any, x: Any, *, key: Any = None) -> Any:
        """Output of the finite network; ``key`` is used by random layers (Dropout) only."""
        raise NotImplementedError

    def propagate(self, k: Any) -> Any:
        """The kernel record of the layer's output from that of its input."""
        raise NotImplementedError

    @property
    def init_fn(self) -> Callable[..., tuple[Any, Any]]:
        """``init_fn(key, input_shape) -> (output_shape, params)``."""

        def init(key: Any, input_shape: Any) -> tuple[Any, Any]:
            if len(input_shape) < 2:
                raise ShapeError(
                    "input_shape must be (n, d) or (n, *spatial, channels), with any n; "
                    f"got {tuple(input_shape)}."
                )
            return self.init(as_key(key), tuple(input_shape))

        return init

    @property
    def apply_fn(self) -> Callable[..., Any]:
        """``apply_fn(params, x, key=None) -> outputs``."""
        return lambda params, x, *, key=None: self.apply(
            params, x, key=None if key is None else as_key(key)
        )

    @property
    def kernel_fn(self) -> Callable[..., Any]:
        """``kernel_fn(x1, x2=None, get=None)``: see :func:`ntk.kernel_fn.evaluate`."""
        from ntk.kernel_fn import evaluate

        return functools.partial(evaluate, self)

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return iter((self.init_fn, self.apply_fn, self.kernel_fn))

    def nngp(self, x1: Any, x2: Any = None) -> Any:
        """NNGP covariance ``(n1, n2)`` of the outputs at initialisation."""
        return self.kernel_fn(x1, x2, "nngp")

    def ntk(self, x1: Any, x2: Any = None) -> Any:
        """Neural tangent kernel ``(n1, n2)``."""
        return self.kernel_fn(x1, x2, "ntk")


def single(k: Any, name: str) -> Kernel:
    """Refuse a list of branches where one kernel is needed."""
    if not isinstance(k, Kernel):
        raise ShapeError(
            f"{name} takes one input, got {len(k)} branches. "
            "Put FanInSum, FanInProd or FanInConcat (or parallel) before it."
        )
    return k


def cast(value: Any, k: Kernel) -> Any:
    """A parameter in the dtype of the kernel (Python numbers are weakly typed already)."""
    return value if isinstance(value, int | float) else jnp.asarray(value).astype(k.dtype)


def scaled(k: Kernel, factor1: Any, factor2: Any, **changes: Any) -> Kernel:
    """Multiply the units by per-input factors ``(n1, *pos)`` and ``(n2, *pos)`` (or None: same)."""
    f1 = jnp.expand_dims(factor1, 1)
    f2 = jnp.expand_dims(factor1 if factor2 is None else factor2, 0)
    return k.replace(
        cov1=k.cov1 * factor1**2,
        cov2=None if k.cov2 is None else k.cov2 * factor2**2,
        nngp=k.nngp * (f1 * f2),
        ntk=None if k.ntk is None else k.ntk * (f1 * f2),
        mean1=k.mean1 * factor1,
        mean2=None if k.mean2 is None else k.mean2 * factor2,
        **changes,
    )


@layer(data=("W_std", "b_std"), meta=("out_dim", "parameterization", "s"))
class Dense(Layer):
    r"""Fully connected layer, applied to the channel axis at every position.

    ``parameterization="ntk"``: :math:`z = W_{std} x W / \sqrt{n} + b_{std} b`, with ``n`` the
    fan-in and standard normal ``W, b``. ``"standard"``: :math:`z = x W / \sqrt{s_0} + b` with
    :math:`W \sim N(0, W_{std}^2 s_0 / n)`, :math:`b \sim N(0, b_{std}^2)`.

    .. math:: K' = W_{std}^2 K + b_{std}^2, \qquad
       \Theta' = K' + W_{std}^2 \Theta \ \text{(ntk)}, \quad
       \Theta' = n K / s_0 + W_{std}^2 \Theta + 1 \ \text{(standard)}

    Args:
        out_dim: number of outputs (the width; the kernel is its infinite limit).
        W_std: standard deviation scale of the weights, >= 0.
        b_std: that of the biases, >= 0; None means that there is no bias parameter.
        parameterization: ``"ntk"`` or ``"standard"``.
        s: width multipliers ``(s_in, s_out)`` of the standard parameterisation: the layer has
            ``s_out * out_dim`` units and its fan-in is ``s_in`` times a number that is held fixed
            while ``s`` goes to infinity.

    Raises:
        DomainError: parameter out of its domain.

    Source: Jacot et al., arXiv:1806.07572; Sohl-Dickstein et al., arXiv:2001.07301.
    """

    out_dim: int
    W_std: Any = 1.0
    b_std: Any = None
    parameterization: str = "ntk"
    s: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        integer(self.out_dim, "out_dim", at_least=1)
        positive = {"at_least": 0.0}
        check_parameters({"W_std": positive, "b_std": positive}, W_std=self.W_std, b_std=self.b_std)
        choice(self.parameterization, "parameterization", ("ntk", "standard"))
        if len(self.s) != 2:
            raise DomainError(f"s must be (s_in, s_out), two positive integers, got {self.s!r}.")
        for name, value in zip(("s[0]", "s[1]"), self.s, strict=True):
            integer(value, name, at_least=1)

    def _fan_in(self, channels: int) -> int:
        if self.parameterization == "standard" and channels % self.s[0]:
            raise DomainError(
                f"s[0] = {self.s[0]} must divide the number of input channels, got {channels}."
            )
        return channels

    def init(self, key: Any, input_shape: Any) -> tuple[Any, Any]:
        """Weights ``(fan_in, out_dim s_out)`` and bias ``(out_dim s_out,)`` or None."""
        if self.W_std is None:
            raise DomainError("W_std must be a number >= 0, got None.")
        fan_in = self._fan_in(input_shape[-1])
        units = self.out_dim * (self.s[1] if self.parameterization == "standard" else 1)
        key_w, key_b = jax.random.split(key)
        dtype = jnp.zeros(()).dtype
        W = jax.random.normal(key_w, (fan_in, units), dtype)
        b = None if self.b_std is None else jax.random.normal(key_b, (units,), dtype)
        if self.parameterization == "standard":
            W = W * (jnp.asarray(self.W_std, dtype) * math.sqrt(self.s[0] / fan_in))
            b = None if b is None else b * jnp.asarray(self.b_std, dtype)
        return (*input_shape[:-1], units), (W, b)

    def apply(self, params: Any, x: Any, *, key: Any = None) -> Any:
        """``x`` of shape ``(n, *pos, fan_in)`` to ``(n, *pos, units)``."""
        W, b = params
        if x.shape[-1] != W.shape[0]:
            raise ShapeError(
                f"x has {x.shape[-1]} channels (shape {x.shape}), but the parameters are for "
                f"{W.shape[0]}."
            )
        if self.parameterization == "ntk":
            z = jnp.matmul(x, W) * (jnp.asarray(self.W_std, x.dtype) / math.sqrt(W.shape[0]))
            return (
                z
                if b is None
                else z + (b * jnp.asarray(self.b_std, x.dtype)).reshape((1,) * (z.ndim - 1) + (-1,))
            )
        z = jnp.matmul(x, W) / math.sqrt(self.s[0])
        return z if b is None else z + b.reshape((1,) * (z.ndim - 1) + (-1,))

    def propagate(self, k: Any) -> Kernel:
        r"""The recursion above, with the gap in a form without cancellation.

        With :math:`\tan\varphi_i = b / (w s_i)`, :math:`\varepsilon' = \cos\varphi_1
        \cos\varphi_2\, \varepsilon + 2 \sin^2 \frac{\varphi_1 - \varphi_2}{2}`: both terms are
        non-negative, and a pair of inputs costs no division.
        """
        if self.W_std is None:
            raise DomainError("W_std must be a number >= 0, got None.")
        k = single(k, "Dense")
        w2 = cast(self.W_std, k) ** 2
        b2 = None if self.b_std is None else cast(self.b_std, k) ** 2
        cov1, cov2, eps = w2 * k.cov1, None if k.cov2 is None else w2 * k.cov2, k.eps
        nngp = w2 * k.nngp
        if b2 is not None:
            out = k.replace(cov1=cov1 + b2, cov2=None if cov2 is None else cov2 + b2)
            rows = _bias_angle(cov1, b2)
            columns = rows if cov2 is None else _bias_angle(cov2, b2)
            cosine1, half1, tangent1 = (jnp.expand_dims(a, 1) for a in rows)
            cosine2, half2, tangent2 = (jnp.expand_dims(a, 0) for a in columns)
            turn = (half1 * half2) * (tangent1 - tangent2)
            eps = clip_gap((cosine1 * cosine2) * eps + turn * turn)
            cov1, cov2 = out.cov1, out.cov2
            nngp = covariance(out.replace(eps=eps))
        ntk = None
        if k.ntk is not None and self.parameterization == "ntk":
            ntk = nngp + w2 * k.ntk
        elif k.ntk is not None:
            own = k.nngp * (self._fan_in(k.channels) / self.s[0])
            ntk = own + w2 * k.ntk + (0.0 if b2 is None else 1.0)
        zero, token = jnp.zeros_like(k.mean1), new_token()
        return Kernel(
            cov1=cov1,
            cov2=cov2,
            eps=eps,
            nngp=nngp,
            ntk=ntk,
            mean1=zero,
            mean2=None if k.mean2 is None else jnp.zeros_like(k.mean2),
            is_gaussian=True,
            x1_is_x2=k.x1_is_x2,
            channels=self.out_dim * (self.s[1] if self.parameterization == "standard" else 1),
            tokens=frozenset({token}),
            uid=token,
        )


def _bias_angle(cov: Any, b2: Any) -> tuple[Any, Any, Any]:
    """``cos phi``, ``2^(1/4) cos(phi / 2)`` and ``tan(phi / 2)`` of ``phi = atan(b / sqrt(cov))``.

    The angle is 0 where both are 0: the gap of a zero row, which is 1, is then kept.
    """
    total = cov + b2
    cosine = safe_sqrt(safe_ratio(cov, total, 1.0))
    sine = safe_sqrt(safe_ratio(b2 * jnp.ones_like(cov), total, 0.0))
    return cosine, jnp.sqrt((1 + cosine) * math.sqrt(0.5)), sine / (1 + cosine)


@layer(data=("dual",))
class Activation(Layer):
    r"""Elementwise activation: :math:`K' = E[\varphi\varphi]`, :math:`\Theta' = \Theta\,\dot K`.

    Applied to units that are themselves a function of Gaussian units, the composition is
    averaged exactly (numerically where no closed form is known). Applied before any random layer,
    it acts on the inputs.
    """

    dual: Dual
    deterministic = True

    def apply(self, params: Any, x: Any, *, key: Any = None) -> Any:
        """``fn(x)``, elementwise."""
        return self.dual.fn(x)

    def propagate(self, k: Any) -> Kernel:
        """Average over Gaussian units; see :meth:`ntk.duals.Dual.kernel`."""
        from ntk.compose import concatenate  # the two modules are one recursion

        k = single(k, "an activation")
        if k.parts:
            return concatenate([self.propagate(part) for part in k.parts])
        if k.is_gaussian:
            return gaussian_average(self.dual, k)
        if k.source is None:
            raise UnsupportedLayerError(
                "No closed form for an activation of units that are neither Gaussian nor a "
                "function of one Gaussian unit (for example a sum of an activation and a Dense "
                "branch). Put a Dense layer before the activation, or use ntk.monte_carlo_kernel."
            )
        from ntk.activations import compose

        return gaussian_average(compose(self.dual, k.activation), k.source)


def gaussian_average(dual: Dual, k: Kernel) -> Kernel:
    """Kernel of ``dual.fn(h)`` for Gaussian units ``h``."""
    nngp, slope, eps = dual.kernel(k.q1, k.q2, k.eps)
    if k.x1_is_x2:
        eps = pin_diagonal(eps, dual.variance(k.cov1))
    eps, ntk = in_one_pass(eps, None if k.ntk is None else k.ntk * slope, k.cov1)
    return k.replace(
        cov1=dual.variance(k.cov1),
        cov2=None if k.cov2 is None else dual.variance(k.cov2),
        eps=eps,
        nngp=nngp,
        ntk=ntk,
        mean1=dual.mean(k.cov1),
        mean2=None if k.cov2 is None else dual.mean(k.cov2),
        source=k,
        activation=dual,
        is_gaussian=False,
    )


@layer()
class Identity(Layer):
    """Passes its input on unchanged (a skip connection inside ``parallel``)."""

    deterministic = True

    def apply(self, params: Any, x: Any, *, key: Any = None) -> Any:
        """``x``."""
        return x

    def propagate(self, k: Any) -> Any:
        """``k``."""
        return k


@layer()
class Flatten(Layer):
    """Merges the spatial axes into the channel axis: kernels are averaged over positions."""

    deterministic = True

    def init(self, key: Any, input_shape: Any) -> tuple[Any, Any]:
        """``(n, *pos, channels)`` becomes ``(n, prod(pos) channels)``."""
        return (input_shape[0], math.prod(input_shape[1:])), ()

    def apply(self, params: Any, x: Any, *, key: Any = None) -> Any:
        """``x`` of shape ``(n, *pos, channels)`` to ``(n, prod(pos) channels)``."""
        return x.reshape(x.shape[0], -1)

    def propagate(self, k: Any) -> Kernel:
        """Averages over positions; the units are no longer identically distributed Gaussians."""
        k = single(k, "Flatten")
        if not k.spatial:
            return k
        axes1, axes2 = tuple(range(1, k.cov1.ndim)), tuple(range(2, k.eps.ndim))
        cov1 = jnp.mean(k.cov1, axes1)
        cov2 = None if k.cov2 is None else jnp.mean(k.cov2, axes1)
        out = k.replace(
            cov1=cov1,
            cov2=cov2,
            nngp=jnp.mean(k.nngp, axes2),
            ntk=None if k.ntk is None else jnp.mean(k.ntk, axes2),
            mean1=jnp.mean(k.mean1, axes1),
            mean2=None if k.mean2 is None else jnp.mean(k.mean2, axes1),
            source=None,
            activation=None,
            parts=(),
            is_gaussian=False,
            channels=k.channels * math.prod(k.spatial),
        )
        distance = jnp.mean(squared_distance(k), axes2)
        eps = gap_from_distance(distance, out.q1, out.q2)
        return out.replace(eps=pin_diagonal(eps, cov1) if k.x1_is_x2 else eps)
