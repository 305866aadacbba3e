r"""Activations by name, and the dual of any of them.

Look-alikes are never substituted for each other; their largest distances on the real line are

====================================  =======================  ========
asked for                             look-alike               max abs
====================================  =======================  ========
``"sigmoid"``                         ``"sigmoid_like"``       9.7e-3
``"sigmoid"``                         ``Erf(1/2, sqrt(pi)/4, 1/2)``  1.8e-2
``"sigmoid"``                         ``"hard_sigmoid"``       6.9e-2
``"tanh"``                            ``Erf(1, sqrt(pi)/2)``   3.5e-2
``"tanh"``                            ``"hard_tanh"``          2.4e-1
``"gelu"``                            ``"gelu_tanh"``          4.7e-4
``"silu"``                            ``"hard_swish"``         1.4e-1
====================================  =======================  ========
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from deeplimits.errors import DomainError
from ntk import piecewise
from ntk.arccosine import ABRelu, RectifiedMonomial, Relu, Sign, Step
from ntk.closed_forms import (
    Cos,
    Erf,
    Exp,
    ExpNormalized,
    Gabor,
    Gaussian,
    Gelu,
    Linear,
    Rbf,
    Sin,
    sigmoid_like,
)
from ntk.combine import compose, product_of, sum_of
from ntk.duals import Dual
from ntk.elementwise import Plain
from ntk.elu import Celu, Elu, Selu
from ntk.numerical import NumericalDual, numerical_dual
from ntk.polynomials import Hermite, Monomial

__all__ = ["activation_names", "compose", "dual", "product_of", "sum_of"]


def _gelu_tanh(x: Any) -> Any:
    return jax.nn.gelu(x, approximate=True)


def _hard_swish(x: Any) -> Any:
    return x * jnp.clip(x / 6 + 0.5, 0, 1)


def _smooth(function: Callable[[Any], Any]) -> Callable[[], Dual]:
    return lambda: NumericalDual(Plain(function))


_REGISTRY: dict[str, Callable[[], Dual]] = {
    "abs": lambda: ABRelu(-1.0, 1.0),
    "arctan": _smooth(jnp.arctan),
    "celu": Celu,
    "cos": Cos,
    "elu": Elu,
    "erf": Erf,
    "exp": Exp,
    "exp_normalized": ExpNormalized,
    "gabor": Gabor,
    "gaussian": Gaussian,
    "gelu": Gelu,
    "gelu_tanh": _smooth(_gelu_tanh),
    "hard_sigmoid": piecewise.hard_sigmoid,
    "hard_swish": lambda: NumericalDual(Plain(_hard_swish), (-3.0, 3.0)),
    "hard_tanh": piecewise.hard_tanh,
    "identity": Linear,
    "leaky_relu": lambda: ABRelu(0.01, 1.0),
    "linear": Linear,
    "log_sigmoid": _smooth(jax.nn.log_sigmoid),
    "mish": _smooth(jax.nn.mish),
    "rbf": Rbf,
    "relu": Relu,
    "relu6": piecewise.relu6,
    "selu": Selu,
    "sigmoid": _smooth(jax.nn.sigmoid),
    "sigmoid_like": sigmoid_like,
    "sign": Sign,
    "silu": _smooth(jax.nn.silu),
    "sin": Sin,
    "soft_shrink": piecewise.soft_shrink,
    "softplus": _smooth(jax.nn.softplus),
    # a second derivative that jumps at 0, and poles at distance 1 behind it: more nodes
    "softsign": lambda: NumericalDual(Plain(jax.nn.soft_sign), (0.0,), 24),
    "squareplus": _smooth(jax.nn.squareplus),
    "step": Step,
    "swish": _smooth(jax.nn.silu),
    "tanh": _smooth(jnp.tanh),
    "triangle": piecewise.triangle,
}

_FAMILIES: dict[str, Callable[[int], Dual]] = {
    "hermite": Hermite,
    "monomial": Monomial,
    "rectified_monomial": RectifiedMonomial,
}


def activation_names() -> tuple[str, ...]:
    """Names accepted by :func:`dual`; families stand for ``hermite2``, ``monomial3`` and so on."""
    return (*sorted(_REGISTRY), *(f"{name}<degree>" for name in _FAMILIES))


def dual(activation: str | Dual | Callable[[Any], Any], kinks: Sequence[float] = ()) -> Dual:
    """The dual of an activation: closed form where one is known, else numerical.

    Args:
        activation: a name (any case; see :func:`activation_names`), a dual, or an elementwise
            function written with ``jax.numpy``.
        kinks: for a function: the points where it or its first or second derivative jumps.

    Returns:
        A dual with ``K(q11, q12, q22)``, ``Kdot(q11, q12, q22)``, ``fn(x)``.

    Raises:
        DomainError: unknown name (near matches are listed), kinks given for a known activation, or
            a function that has no dual (see :func:`ntk.numerical.numerical_dual`).

    Source:
        the classes behind the names. Check: ``tests/ntk/test_activations.py``.
    """
    if callable(activation) and not isinstance(activation, Dual | str):
        return numerical_dual(activation, kinks)
    if len(tuple(kinks)):
        raise DomainError(f"kinks are known for {activation!r}; give them for a function only.")
    if isinstance(activation, Dual):
        return activation
    if not isinstance(activation, str):
        raise DomainError(
            f"activation must be a name, a dual or a function, got {activation!r} of type "
            f"{type(activation).__name__}."
        )
    name = activation.lower()
    if name in _REGISTRY:
        return _REGISTRY[name]()
    match = re.fullmatch(r"([a-z_]+?)(\d+)", name)
    if match and match[1] in _FAMILIES:
        return _FAMILIES[match[1]](int(match[2]))
    near = difflib.get_close_matches(name, [*_REGISTRY, *_FAMILIES], n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise DomainError(
        f"Unknown activation {activation!r}. {hint}Known names: {', '.join(activation_names())}; "
        "or pass any elementwise function."
    )
