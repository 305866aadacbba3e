"""Checks at the public boundary, before any compute.

Every function returns the converted value or raises an error that names the argument, what came
and what is allowed. Values inside a ``jit`` (tracers) are checked for shape only.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.errors import DataError, DomainError, ShapeError


def is_traced(x: Any) -> bool:
    """Whether ``x`` is an abstract value inside ``jit``, ``grad`` or ``vmap``."""
    if not isinstance(x, jax.Array):
        return False
    try:
        x.is_deleted()  # only a concrete array has a buffer that can answer
    except (jax.errors.ConcretizationTypeError, AttributeError):
        return True
    return False


def _as_float(x: Any, name: str) -> Any:
    """Convert to a floating array: integers and booleans are promoted, complex is refused."""
    if not is_traced(x) and not isinstance(x, jax.Array | np.ndarray):
        try:
            x = np.asarray(x)
        except ValueError as error:
            raise ShapeError(f"{name} must be a rectangular array of numbers: {error}") from error
    if jnp.issubdtype(x.dtype, jax.dtypes.extended) or x.dtype.kind in "OUSMm" or x.dtype.names:
        raise DomainError(f"{name} must hold real numbers, got dtype {x.dtype}.")
    if np.ma.isMaskedArray(x):
        raise DomainError(f"{name} must not be a masked array. Fill or drop the masked entries.")
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise DomainError(f"{name} must be real, got dtype {x.dtype}.")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        x = x.astype(jnp.zeros(()).dtype)
    return x


def as_real(value: Any, name: str) -> Any:
    """A Python number as it is, anything else as a floating array.

    Raises:
        ShapeError: ragged nested sequences.
        DomainError: complex, non-numeric or masked.
    """
    return value if isinstance(value, int | float) else _as_float(value, name)


def finite(x: Any, name: str) -> None:
    """Raise :class:`DomainError` if concrete ``x`` holds NaN or infinity."""
    if is_traced(x):
        return
    bad = ~np.isfinite(np.asarray(x))
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise DomainError(
            f"{name} must be finite, got {np.asarray(x)[first]} at index {first} "
            f"({int(bad.sum())} such entries)."
        )


def as_inputs(x: Any, name: str = "x") -> Any:
    """Inputs ``(n, d)`` or ``(n, *spatial, channels)`` as a floating array.

    Raises:
        ShapeError: 0-D, 1-D, or an axis of length 0.
        DomainError: complex, non-numeric, masked, NaN or infinite.
    """
    x = _as_float(x, name)
    if x.ndim == 0:
        raise ShapeError(f"{name} must have shape (n, d), got a scalar. Use np.array([[{name}]]).")
    if x.ndim == 1:
        raise ShapeError(
            f"{name} must have shape (n, d), got shape {x.shape}. For n points in one dimension "
            f"use {name}[:, None]; for one point in d dimensions use {name}[None, :]."
        )
    if 0 in x.shape:
        raise ShapeError(f"{name} must not be empty, got shape {x.shape}.")
    finite(x, name)
    return x


def same_features(x1: Any, x2: Any, names: tuple[str, str] = ("x1", "x2")) -> None:
    """Raise :class:`ShapeError` unless all axes but the first agree."""
    if x1.shape[1:] != x2.shape[1:]:
        raise ShapeError(
            f"{names[0]} and {names[1]} must agree in every axis but the first, "
            f"got shapes {x1.shape} and {x2.shape}."
        )


def as_targets(y: Any, n: int, name: str = "y") -> Any:
    """Targets as ``(n, outputs)``; ``(n,)`` becomes ``(n, 1)``.

    Raises:
        ShapeError: not one row per training point, or no outputs.
        DomainError: complex, non-numeric, masked, NaN or infinite.
    """
    y = _as_float(y, name)
    if y.ndim == 1:
        y = y[:, None]
    if y.ndim != 2 or y.shape[0] != n or y.shape[1] == 0:
        raise ShapeError(
            f"{name} must have shape ({n},) or ({n}, outputs): one row per row of X; got {y.shape}."
        )
    finite(y, name)
    return y


def as_square(matrix: Any, name: str = "K", *, symmetric: bool = True) -> Any:
    """A square (symmetric) matrix.

    Raises:
        ShapeError: not 2-D square, or empty.
        DomainError: NaN, infinite, or asymmetric by over 1e-8 (float32: 1e-4) of the largest entry.
    """
    matrix = _as_float(matrix, name)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ShapeError(f"{name} must be a square matrix, got shape {matrix.shape}.")
    if matrix.shape[0] == 0:
        raise ShapeError(f"{name} must not be empty, got shape {matrix.shape}.")
    finite(matrix, name)
    if symmetric and not is_traced(matrix):
        host = np.asarray(matrix)
        scale = np.abs(host).max(initial=0.0)
        gap = np.abs(host - host.T).max(initial=0.0)
        if gap > (1e-8 if host.dtype == np.float64 else 1e-4) * scale:
            raise DomainError(
                f"{name} must be symmetric, but |{name} - {name}.T| reaches {gap:.3g} "
                f"(largest entry {scale:.3g}). Symmetrise it or check the kernel."
            )
    return matrix


def number(
    value: Any,
    name: str,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> Any:
    """A finite real scalar within bounds; tracers and arrays inside ``grad`` pass unchecked.

    Raises:
        DomainError: not a real scalar, not finite, or out of bounds.
    """
    if is_traced(value):
        return value
    single = np.isscalar(value) or getattr(value, "ndim", None) == 0
    dtype = getattr(value, "dtype", None) or np.asarray(value if single else "").dtype
    real = jnp.issubdtype(dtype, jnp.floating) or getattr(dtype, "kind", "") in ("i", "u", "b")
    if not (single and real):
        raise DomainError(f"{name} must be one real number, got {value!r}.")
    x = float(value)
    bounds = [
        (above is not None and not x > above, f"> {above}"),
        (at_least is not None and not x >= at_least, f">= {at_least}"),
        (below is not None and not x < below, f"< {below}"),
        (at_most is not None and not x <= at_most, f"<= {at_most}"),
    ]
    if not np.isfinite(x):
        raise DomainError(f"{name} must be finite, got {x}.")
    if any(broken for broken, _ in bounds):
        allowed = " and ".join(text for _, text in bounds if "None" not in text)
        raise DomainError(f"{name} must be {allowed}, got {x:g}.")
    return value


def integer(value: Any, name: str, *, at_least: int | None = None) -> int:
    """An integer (not a float that happens to be whole) of at least ``at_least``.

    Raises:
        DomainError: otherwise.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise DomainError(f"{name} must be an integer, got {value!r}.")
    if at_least is not None and value < at_least:
        raise DomainError(f"{name} must be >= {at_least}, got {value}.")
    return int(value)


def choice(value: Any, name: str, allowed: Sequence[str]) -> Any:
    """One of the ``allowed`` names.

    Raises:
        DomainError: otherwise; the message lists what is allowed.
    """
    if not isinstance(value, str) or value not in allowed:
        raise DomainError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}.")
    return value


def as_key(key: Any, name: str = "key") -> jax.Array:
    """A JAX random key; an integer seed is converted.

    Seeds stop at 2^32 because larger ones are cut without a word when x64 is off.

    Raises:
        DomainError: neither a key nor an integer in 0..2^32 - 1.
    """
    if isinstance(key, numbers.Integral) and not isinstance(key, bool) and 0 <= int(key) < 2**32:
        return jax.random.key(int(key))
    if isinstance(key, jax.Array):
        if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ():
            return key
        if key.shape == (2,) and key.dtype == jnp.uint32:
            return jax.random.wrap_key_data(key)
    raise DomainError(
        f"{name} must be one jax.random.key or an integer in 0..2**32 - 1, got {key!r}."
    )


def check(condition: bool, message: str, error: type[Exception] = DataError) -> None:
    """Raise ``error(message)`` unless ``condition``."""
    if not condition:
        raise error(message)
