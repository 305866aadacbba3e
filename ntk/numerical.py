r"""Numerical duals: the kernel of any elementwise activation, with error control."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from warnings import warn

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from deeplimits.errors import ConvergenceError, DomainError, PrecisionWarning
from deeplimits.precision import working_dtype
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import is_traced, number
from ntk.coordinates import Coordinates, coordinates, floating, safe_sqrt
from ntk.duals import gap_arguments
from ntk.elementwise import Plain, Scalar, Square, slope, typed
from ntk.hermite_dual import hermite_kernel, moment, remainder
from ntk.panel_dual import panel_kernel
from ntk.price import QuadratureDual, price_kernel
from ntk.quadrature import gaussian_mean, trapezoid_mean

#: Rows whose coefficients are computed at a time (1280 nodes each).
_ROWS = 4096


@functools.partial(
    register_dataclass,
    data_fields=["function", "kinks"],
    meta_fields=["nodes", "differentiable"],
)
@dataclass(frozen=True)
class NumericalDual(QuadratureDual):
    r"""Kernel of an elementwise function by Hermite series (smooth) or panels (kinks).

    Smooth functions: :mod:`ntk.hermite_dual`, relative error about 1e-13 (float32: 1e-6) for
    variances up to 40 times the squared distance of the nearest complex singularity (tanh: 100).
    Functions with kinks: :mod:`ntk.panel_dual`, about 1e-14 where the function is entire between
    the kinks; the cost is some hundred microseconds per entry, against some hundred nanoseconds
    for the series. :meth:`abs_err` measures the error at given covariances. Inside ``jit`` nothing
    is checked, and the rules are the same.

    Args:
        function: elementwise JAX function (see :func:`numerical_dual` for plain callables).
        kinks: points where the function or its first or second derivative jumps.
        nodes: Gauss-Legendre nodes per panel for functions with kinks.
        differentiable: False if the function itself jumps.

    Source:
        see the two modules. Check: ``tests/ntk/test_quadrature.py``.
    """

    function: Any
    kinks: tuple[Any, ...] = ()
    nodes: int = 16
    differentiable: bool = True  # type: ignore[misc]

    def fn(self, x: Any) -> Any:
        """The function itself."""
        return typed(self.function, x.dtype)(x)

    def mean(self, q: Any) -> Any:
        """``E[fn(sqrt(q) z)]``."""
        return _moment(self, floating(q), False)

    def variance(self, q: Any) -> Any:
        """``E[fn(sqrt(q) z)^2]``."""
        return _moment(self, floating(q), True)

    def kernel(self, q1: Any, q2: Any, eps: Any) -> tuple[Any, Any, Any]:
        """``(K, Kdot, eps_out)``; see :meth:`ntk.duals.Dual.kernel`.

        Raises:
            DomainError: the function or its derivative is not finite within 9 standard deviations.
        """
        if not any(is_traced(a) for a in (q1, q2, eps, *jax.tree.leaves(self))):
            dtype = working_dtype(q1, q2, eps)
            q = np.concatenate([np.ravel(q1), np.ravel(q2)])
            check_function(self, float(q.min()), float(q.max()), dtype)
        return _kernel(self, floating(q1), floating(q2), floating(eps))

    def abs_err(self, q11: Any, q12: Any, q22: Any, *, tol: float | None = None) -> Any:
        """Estimated absolute error of ``K``: its difference from a finer or independent rule.

        Functions with kinks are compared with twice the nodes per panel, smooth ones with the
        two-dimensional trapezoid rule on 512 x 512 points.

        Args:
            q11, q12, q22: covariance, as for :meth:`ntk.duals.Dual.K`.
            tol: if given, the largest acceptable error.

        Raises:
            ConvergenceError: the estimate exceeds ``tol`` somewhere.
        """
        arguments = gap_arguments(q11, q12, q22)
        error = np.abs(np.asarray(self.kernel(*arguments)[0] - _reference(self, *arguments)))
        if tol is not None and not np.all(error <= tol):
            raise ConvergenceError(
                f"The numerical kernel has an error of about {np.max(error):.2g}, above tol = "
                f"{tol:g}. Declare all kinks of the function, or raise nodes (now {self.nodes})."
            )
        return error

    def _averages(self, c: Coordinates, root1: Any, root2: Any) -> tuple[Any, Any, Any]:
        f = typed(self.function, c.s.dtype)
        kinks = [jnp.asarray(t).astype(c.s.dtype) for t in self.kinks]
        return panel_kernel(f, kinks, c, root1, root2, self.nodes)


def numerical_dual(
    function: Callable[[Any], Any], kinks: Sequence[float] = (), *, nodes: int = 16
) -> NumericalDual:
    """Numerical dual of a plain callable, checked at unit variance.

    Args:
        function: elementwise, written with ``jax.numpy``; callables that only accept scalars are
            mapped. Give the same function object again to reuse compiled code.
        kinks: points where it or its first or second derivative jumps.
        nodes: per panel, for functions with kinks.

    Raises:
        DomainError: the callable cannot be traced, is complex, mixes entries, or is not finite.
        PrecisionWarning: (warning) it seems to have kinks that were not declared.
    """
    kinks = tuple(sorted({float(number(t, f"kinks[{i}]")) for i, t in enumerate(kinks)}))
    dual = NumericalDual(_elementwise(function), kinks, nodes)
    check_function(dual, 1.0, 1.0, working_dtype())
    return dual


def _elementwise(function: Callable[[Any], Any]) -> Any:
    """``function`` as a pytree; mapped over scalars if it does not accept arrays."""
    dtype = working_dtype()
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape in ((2, 3), ())]
    try:
        array = jax.eval_shape(lambda t: function(t), shapes[0])  # NumPy ufuncs crash jax.jit
    except Exception:  # a user's function may raise anything
        array = None
    try:
        scalar = jax.eval_shape(lambda t: function(t), shapes[1])
    except Exception as error:
        raise DomainError(
            f"The activation {function!r} cannot be differentiated by JAX: {error}. Write it with "
            "jax.numpy functions, and jnp.where instead of if."
        ) from error
    kind = np.dtype(getattr(scalar, "dtype", object)).kind
    if getattr(scalar, "shape", None) != () or kind not in "fiub":
        raise DomainError(
            f"The activation {function!r} must map a real scalar to a real scalar, got {scalar}."
        )
    mapped = Scalar(function)
    if array is None:
        return mapped
    if getattr(array, "shape", None) != shapes[0].shape:
        raise DomainError(
            f"The activation {function!r} is not elementwise: it turns an array of shape "
            f"{shapes[0].shape} into {getattr(array, 'shape', array)}."
        )
    x = jnp.linspace(-2, 2, 6, dtype=dtype).reshape(2, 3)
    if not np.allclose(Plain(function)(x), mapped(x), rtol=1e-5, atol=1e-5, equal_nan=True):
        raise DomainError(
            f"The activation {function!r} is not elementwise: its value at one entry depends on "
            "the others. Only elementwise functions have a dual."
        )
    return Plain(function)


@functools.lru_cache(maxsize=256)
def _check(dual: NumericalDual, low: float, high: float, dtype: Any) -> None:
    for q in sorted({low, high}):
        x = jnp.asarray(np.linspace(-9, 9, 361) * np.sqrt(q), dtype)
        f = typed(dual.function, dtype)
        for name, values in (("value", f(x)), ("derivative", slope(f, x))):
            bad = ~np.isfinite(np.asarray(values))
            if bad.any():
                raise DomainError(
                    f"The {name} of the activation is {np.asarray(values)[bad][0]} at x = "
                    f"{float(x[int(np.argmax(bad))]):g}, within 9 standard deviations at variance "
                    f"{q:g}. Use an activation that is finite there, or a smaller variance."
                )
    if dual.kinks:
        return
    rest = float(remainder(typed(dual.function, dtype), jnp.asarray(high, dtype)))
    if rest > (1e-7 if dtype == np.float64 else 1e-4):
        warn(
            f"The Hermite series of the activation leaves {rest:.1e} of E[f'^2] at variance "
            f"{high:g}. If it has kinks, declare them with kinks=(...); else the variance is too "
            "large.",
            PrecisionWarning,
            stacklevel=4,
        )


def check_function(dual: NumericalDual, low: float, high: float, dtype: Any) -> None:
    """Check that the function is finite and its series converges, at rounded-up variances.

    Raises:
        DomainError: value or derivative not finite within 9 standard deviations.
    """
    if high <= 0:
        low = high = 1e-6
    powers = [float(2.0 ** np.ceil(np.log2(max(q, 1e-6)))) for q in (low, high)]
    exact = min(powers[1], high) if powers[1] > 4 else powers[1]
    try:
        _check(dual, min(powers[0], exact), exact, np.dtype(dtype))
    except TypeError:  # parameters that are arrays cannot be hashed
        _check.__wrapped__(dual, min(powers[0], exact), exact, np.dtype(dtype))


@functools.partial(jax.jit, static_argnums=2)
def _moment(dual: NumericalDual, q: Any, square: bool) -> Any:
    f = typed(dual.function, q.dtype)
    f = Square(f) if square else f
    if dual.kinks:
        kinks = [jnp.asarray(t).astype(q.dtype) for t in dual.kinks]
        return gaussian_mean(f, kinks, q, dual.nodes)
    if q.size <= _ROWS:
        return moment((), f, q)
    return _in_chunks(lambda rows: moment((), f, rows), q)


@jax.jit
def _kernel(dual: NumericalDual, q1: Any, q2: Any, eps: Any) -> Any:
    if dual.kinks:
        return price_kernel(dual, q1, q2, eps)
    f = typed(dual.function, eps.dtype)
    shape = jnp.broadcast_shapes(q1.shape, q2.shape, eps.shape)
    eps = jnp.broadcast_to(eps, shape)
    if len(shape) > 2:  # position by position, so that rows stay few
        flat = [jnp.reshape(a, (*a.shape[:2], -1)) for a in (q1, q2, eps)]
        count = flat[2].shape[-1]
        parts = [jnp.moveaxis(jnp.broadcast_to(a, (*a.shape[:2], count)), -1, 0) for a in flat]
        out = lax.map(lambda part: _kernel(dual, *part), tuple(parts))
        return jax.tree.map(lambda a: jnp.moveaxis(a, 0, -1).reshape(shape), out)
    if max(q1.size, q2.size) > _ROWS:
        q1, q2 = jnp.broadcast_to(q1, shape), jnp.broadcast_to(q2, shape)
        return _in_chunks(lambda a, b, e: hermite_kernel(f, a, b, e), q1, q2, eps)
    return hermite_kernel(f, q1, q2, eps)


def _in_chunks(function: Callable[..., Any], *arrays: Any) -> Any:
    """Apply an entrywise function to equal-shaped arrays, a limited number of entries at a time."""
    shape, size = arrays[0].shape, arrays[0].size
    padding = -size % _ROWS
    rows = [jnp.pad(a.ravel(), (0, padding), constant_values=1).reshape(-1, _ROWS) for a in arrays]
    out = lax.map(lambda part: function(*part), tuple(rows))
    return jax.tree.map(lambda a: a.ravel()[:size].reshape(shape), out)


@jax.jit
def _reference(dual: NumericalDual, q1: Any, q2: Any, eps: Any) -> Any:
    """``K`` by a finer rule (kinks) or the two-dimensional trapezoid rule (smooth)."""
    c = coordinates(q1, q2, eps)
    f = typed(dual.function, c.s.dtype)
    if dual.kinks:
        kinks = [jnp.asarray(t).astype(c.s.dtype) for t in dual.kinks]
        one = jnp.ones_like(c.s)
        return panel_kernel(f, kinks, c, one, one, 2 * dual.nodes)[0]
    near, apart = safe_sqrt(1 - c.eps / 2), safe_sqrt(c.eps / 2)

    def column(b: Any) -> Any:
        return trapezoid_mean(
            lambda a: f(c.s1 * (near * a + apart * b)) * f(c.s2 * (near * a - apart * b)), 512, c.s
        )

    return trapezoid_mean(column, 512, c.s)
