"""Precision policy: theory in float64, kernels in the dtype of their inputs.

With ``jax_enable_x64`` off, JAX silently turns float64 into float32. Theory functions therefore
run inside a float64 scope (:func:`float64_scope`), and functions that compose many JAX calls
refuse to run without x64 (:func:`require_x64`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

from deeplimits.errors import PrecisionError

F = TypeVar("F", bound=Callable[..., Any])


def x64_enabled() -> bool:
    """Whether JAX currently computes in float64."""
    return bool(jax.config.jax_enable_x64)  # type: ignore[attr-defined]


def require_x64(what: str) -> None:
    """Raise :class:`PrecisionError` with the one-line fix unless x64 is on.

    Args:
        what: the name of the function, for the message.
    """
    if not x64_enabled():
        raise PrecisionError(
            f"{what} needs float64, but JAX runs in float32. Put "
            'jax.config.update("jax_enable_x64", True) at the start of the program.'
        )


def float64_scope(function: F) -> F:
    """Run ``function`` with x64 on; its array results keep float64 (decorator).

    The scope protects the inside only: with x64 off, handing a float64 result to another JAX
    function truncates it, so public wrappers return NumPy arrays.
    """

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if x64_enabled():
            return function(*args, **kwargs)
        with jax.enable_x64(True):
            return function(*args, **kwargs)

    return wrapped  # type: ignore[return-value]


def tolerance(dtype: Any, factor: float = 1.0) -> float:
    """``factor`` times the machine epsilon of ``dtype``."""
    return factor * float(np.finfo(np.dtype(dtype)).eps)


def working_dtype(*values: Any) -> np.dtype:
    """float64 if x64 is on and any of ``values`` is float64 or a Python number only; else float32.

    Python numbers and integers adapt to the arrays beside them; float16 and bfloat16 are computed
    in float32.
    """
    if not x64_enabled():
        return np.dtype(np.float32)
    floating = [np.dtype(v.dtype) for v in values if hasattr(v, "dtype")]
    floating = [d for d in floating if d.kind not in "iub"]
    wide = not floating or any(d == np.float64 for d in floating)
    return np.dtype(np.float64 if wide else np.float32)
