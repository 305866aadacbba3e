r"""A kernel as a function of the angle between its inputs, whatever form it is given in.

Networks and kernels on points are evaluated on pairs of vectors in a plane; functions of one array
are read as functions of the correlation t or of :math:`\varepsilon = 1 - t`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from deeplimits.errors import DomainError, ShapeError
from deeplimits.typing import Array
from deeplimits.validate import choice, finite, number
from ntk.layers import Layer
from ntk.zonal import as_array

#: Forms of a kernel that is no network.
ARGUMENTS = ("auto", "correlation", "eps", "points")
#: Angles per evaluation of a kernel on points.
_BLOCK = 128
#: Rounding of a kernel, relative to its largest value.
_ROUNDING = 1e-10


def kernel_profile(
    kernel: Any, d: int, get: str, argument: str, radius: float | None
) -> Callable[[Any], Array]:
    """The kernel as a NumPy function of the angle; arguments as for :func:`ntk.sphere_spectrum`."""
    choice(argument, "argument", ARGUMENTS)
    choice(get, "get", ("ntk", "nngp"))
    owner, name = getattr(kernel, "__self__", None), getattr(kernel, "__name__", "")
    if isinstance(owner, Layer) and name in ("ntk", "nngp"):
        kernel, get = owner, name
    if callable(getattr(kernel, "kernel_fn", None)):
        length = math.sqrt(d) if radius is None else number(radius, "radius", above=0.0)
        # two coordinates are enough for a network; their mean square sets the scale
        plane = np.eye(2) * float(length) * math.sqrt(2 / d)
        return _on_points(lambda x, z: kernel.kernel_fn(x, z, get), plane, "the network")
    if not callable(kernel):
        raise DomainError(
            "kernel must be a network, a kernel k(X, Z) or a function of one array, got "
            f"{type(kernel).__name__}."
        )
    if argument == "points" or (argument == "auto" and _takes_points(kernel)):
        length = 1.0 if radius is None else number(radius, "radius", above=0.0)
        return _on_points(kernel, float(length) * np.eye(2, d), "kernel")
    if radius is not None:
        raise DomainError(
            f"radius applies to networks and kernels on points only, got radius={radius!r} with a "
            "function of one array."
        )
    if argument == "auto":
        argument = decide_argument(lambda u: _elementwise(kernel, u))

    def profile(theta: Any) -> Array:
        t = 2 * np.sin(theta / 2) ** 2 if argument == "eps" else np.cos(theta)
        values = _elementwise(kernel, t)
        finite(values, "the kernel")
        return values

    return profile


def decide_argument(function: Callable[[Any], Array]) -> str:
    """``"correlation"`` or ``"eps"``: which of the two makes ``function`` a kernel.

    A positive definite kernel is largest in modulus at coincident inputs: |f(t)| <= f(1) on [-1, 1]
    for a function of t, |f(eps)| <= f(0) on [0, 2] for one of eps.
    """
    u = np.linspace(0.0, 2.0, 33)
    with np.errstate(all="ignore"):
        of_t, of_eps = function(1 - u), function(u)
    reads = {"correlation": _is_largest_first(of_t), "eps": _is_largest_first(of_eps)}
    found = [name for name, holds in reads.items() if holds]
    if len(found) == 1 or (found and np.array_equal(of_t, of_eps)):
        return found[0]
    reason = (
        "it is largest at coincident inputs either way"
        if found
        else "it is largest at coincident inputs neither way, so it is not positive definite"
    )
    raise DomainError(
        "cannot tell whether kernel is a function of the correlation t or of eps = 1 - t: "
        f"{reason}. Give argument='correlation' or argument='eps'."
    )


def _is_largest_first(values: Array) -> bool:
    limit = values[0] * (1 + _ROUNDING)
    return bool(np.isfinite(values).all() and (np.abs(values) <= limit).all())


def _elementwise(function: Any, u: Any) -> Array:
    values = as_array(function(u))
    if values.shape != u.shape:
        raise ShapeError(
            f"kernel must act elementwise: it returned shape {values.shape} for {u.shape}. "
            "A kernel on points takes two arguments, k(X, Z)."
        )
    return values


def _takes_points(kernel: Any) -> bool:
    """Whether the second positional argument is an array, as in ``k(X, Z=None)``."""
    if isinstance(kernel, np.ufunc):
        return False
    try:
        parameters = inspect.signature(kernel).parameters.values()
    except (TypeError, ValueError):  # some compiled functions do not say
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(positional) >= 2 and positional[1].default in (inspect.Parameter.empty, None)


def _on_points(evaluate: Callable[..., Any], plane: Array, what: str) -> Callable[[Any], Array]:
    """Kernel between vectors in the plane spanned by the two rows of ``plane``."""

    def turned(theta: Any, turn: float, axes: Array = plane) -> Array:
        # whole blocks, so that a kernel is compiled once for all sets of angles
        angles = np.resize(theta, (-(-len(theta) // _BLOCK), _BLOCK)) + turn
        x = np.array([[math.cos(turn), math.sin(turn)]]) @ axes
        z = np.stack([np.cos(angles), np.sin(angles)], axis=-1) @ axes
        rows = [as_array(evaluate(x, block)) for block in z]
        if rows[0].shape != (1, _BLOCK):
            raise ShapeError(
                f"{what} must map (1, {axes.shape[1]}) and ({_BLOCK}, {axes.shape[1]}) points to "
                f"(1, {_BLOCK}) values, got shape {rows[0].shape}."
            )
        values = np.concatenate(rows, axis=1)[0, : len(theta)]
        finite(values, "the kernel")
        return values

    probe = np.array([0.4, 1.3, 2.6])
    here, there = turned(probe, 0.0), turned(probe, 1.0, _rotated(plane))
    if not np.allclose(here, there, rtol=1e-6, atol=1e-9 * np.abs(here).max()):
        raise DomainError(
            f"the kernel of {what} must depend on the angle between its inputs only, but turning "
            f"both changed it from {here[0]:.6g} to {there[0]:.6g}."
            + (" Start the network with Dense." if what == "the network" else "")
        )
    return lambda theta: turned(theta, 0.0)


def _rotated(plane: Array) -> Array:
    """The plane after a fixed random rotation of space."""
    d = plane.shape[1]
    return plane @ np.linalg.qr(np.random.default_rng(0).standard_normal((d, d)))[0]
