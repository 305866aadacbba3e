r"""Stationary kernels as plain callables ``k(X, Z=None) -> (n, m)``, to be targets or baselines.

All are frozen records whose parameters are leaves of a pytree, so that
:func:`gp.maximize_evidence` can fit them and ``jax.grad`` reaches them. Values are in the dtype of
the inputs.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from deeplimits.errors import DomainError, ShapeError
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import Array, ArrayLike
from deeplimits.validate import as_inputs, as_real, check, number, same_features


def _positive(value: Any, name: str) -> None:
    """Refuse anything but positive numbers, one or one per feature.

    JAX also builds these records around tracers, placeholders and cotangents: its arrays pass.
    """
    if isinstance(value, jax.Array) or type(value) is object:
        return
    if np.ndim(value) == 0:
        number(value, name, above=0)
        return
    host = np.asarray(as_real(value, name))
    check(host.ndim == 1, f"{name} must be a number or (d,), got shape {host.shape}.", ShapeError)
    good = np.all(np.isfinite(host) & (host > 0))
    check(bool(good), f"{name} must be > 0 and finite, got {host.tolist()}.", DomainError)


def _cast(value: Any, like: Any) -> Any:
    return jnp.asarray(value).astype(like.dtype)


def _inputs(X: ArrayLike, Z: ArrayLike | None) -> tuple[Any, Any]:
    x = as_inputs(X, "X")
    z = x if Z is None else as_inputs(Z, "Z")
    same_features(x, z, ("X", "Z"))
    x, z = jnp.asarray(x), jnp.asarray(z)
    return x.reshape(x.shape[0], -1), z.reshape(z.shape[0], -1)


def _scaled(X: ArrayLike, Z: ArrayLike | None, length_scale: Any) -> tuple[Any, Any, Any]:
    x, z = _inputs(X, Z)
    scale = _cast(length_scale, x)
    if scale.ndim == 1 and scale.shape[0] != x.shape[1]:
        raise ShapeError(
            f"length_scale has {scale.shape[0]} entries, but the inputs have {x.shape[1]} features."
        )
    return x, z, scale


def _pairs(X: ArrayLike, Z: ArrayLike | None, length_scale: Any, term: str) -> Array:
    r""":math:`\sum_i t(x_i - z_i)` in units of ``length_scale``, ``(n, m)``; t from :data:`_TERMS`.

    Why not ``x.x + z.z - 2 x.z`` for squares: it cancels for close inputs.
    """
    return _in_units(*_scaled(X, Z, length_scale), term)


def _in_units(x: Any, z: Any, scale: Any, term: str) -> Any:
    if scale.ndim == 1:
        return _sum_over_features(x / scale[None, :], z / scale[None, :], term)
    if term == "square":  # the derivative by one length then needs no second pass over features
        return _sum_over_features(x, z, term) / scale**2
    return _sum_over_features(x / scale, z / scale, term)


#: Differences held at once; a megabyte of float64 stays in the cache.
_ENTRIES = 2**17
#: What is summed over the features.
_TERMS = {"square": jnp.square, "sine": lambda u: jnp.sin(jnp.pi * u) ** 2}


@functools.partial(jax.jit, static_argnames="term")
def _sum_over_features(x: Any, z: Any, term: str) -> Any:
    """A few rows at a time, so that nothing of size n m d is held, here or for the derivative."""
    columns = z.T
    rows_at_once = max(1, _ENTRIES // max(1, columns.size))

    @jax.checkpoint
    def one(row: Any) -> Any:
        return jnp.sum(_TERMS[term](columns - row[:, None]), axis=0)

    return jax.lax.map(one, x, batch_size=max(1, min(rows_at_once, len(x))))


@jax.jit  # fewer passes over the matrix
def _gaussian(x: Any, z: Any, scale: Any, variance: Any) -> Any:
    return variance * jnp.exp(-0.5 * _in_units(x, z, scale, "square"))


def _constant_diagonal(self: Any, X: ArrayLike) -> Float[Array, " n"]:
    """``k(x, x) = variance`` at every row of X ``(n, d)``, in the dtype of X."""
    x = jnp.asarray(as_inputs(X, "X"))
    return jnp.full(x.shape[0], _cast(self.variance, x))


def _distance(squared: Any) -> Any:
    """The square root, with derivative 0 at 0."""
    away = squared > 0
    return jnp.where(away, jnp.sqrt(jnp.where(away, squared, 1.0)), 0.0)


@register_dataclass
@dataclass(frozen=True)
class RBF:
    r"""Squared-exponential kernel.

    .. math:: k(x, z) = v\, e^{-|x - z|^2 / (2 \ell^2)}

    Args:
        length_scale: :math:`\ell` > 0, a number or one per feature ``(d,)``, in units of x.
            Default 1.
        variance: v > 0, in squared units of the function. Default 1.

    Raises:
        ShapeError, DomainError: parameters that are not positive numbers; bad inputs.

    Source: Rasmussen and Williams (2006), eq. (4.9).
    Check: test_priors.py::test_target_kernels_against_scikit_learn.
    """

    length_scale: Any = 1.0
    variance: Any = 1.0

    def __post_init__(self) -> None:
        _positive(self.length_scale, "length_scale")
        _positive(self.variance, "variance")

    def __call__(self, X: ArrayLike, Z: ArrayLike | None = None) -> Float[Array, "n m"]:
        """The kernel matrix ``(n, m)``."""
        x, z, scale = _scaled(X, Z, self.length_scale)
        return _gaussian(x, z, scale, _cast(self.variance, x))

    diagonal = _constant_diagonal


@dataclass(frozen=True)
class Matern:
    r"""Matern kernel with half-integer smoothness.

    .. math::

        k = v\, e^{-s} \cdot \{1,\; 1 + s,\; 1 + s + s^2 / 3\}, \qquad
        s = \sqrt{2 \nu}\, |x - z| / \ell

    Args:
        nu: smoothness 1/2, 3/2 or 5/2. Default 5/2.
        length_scale, variance: as for :class:`RBF`.

    Raises:
        ShapeError, DomainError: another smoothness; as for :class:`RBF`.

    Source: Rasmussen and Williams (2006), eq. (4.17).
    Check: test_priors.py::test_target_kernels_against_scikit_learn.
    """

    nu: float = 2.5
    length_scale: Any = 1.0
    variance: Any = 1.0

    def __post_init__(self) -> None:
        check(
            self.nu in (0.5, 1.5, 2.5),
            f"nu must be 0.5, 1.5 or 2.5, got {self.nu!r}. Use RBF for infinite smoothness.",
            DomainError,
        )
        _positive(self.length_scale, "length_scale")
        _positive(self.variance, "variance")

    def __call__(self, X: ArrayLike, Z: ArrayLike | None = None) -> Float[Array, "n m"]:
        """The kernel matrix ``(n, m)``."""
        s = math.sqrt(2 * self.nu) * _distance(_pairs(X, Z, self.length_scale, "square"))
        factor = {0.5: jnp.ones_like(s), 1.5: 1 + s, 2.5: 1 + s + s * s / 3}[self.nu]
        return _cast(self.variance, s) * factor * jnp.exp(-s)

    diagonal = _constant_diagonal


register_dataclass(Matern, ["length_scale", "variance"], ["nu"])


@register_dataclass
@dataclass(frozen=True)
class RationalQuadratic:
    r"""Mixture of squared-exponential kernels over a gamma law of inverse squared length scales.

    .. math:: k = v \Big(1 + \frac{|x - z|^2}{2 \alpha \ell^2}\Big)^{-\alpha}

    Args:
        alpha: shape > 0; infinite gives :class:`RBF`. Default 1.
        length_scale, variance: as for :class:`RBF`.

    Raises:
        ShapeError, DomainError: as for :class:`RBF`.

    Source: Rasmussen and Williams (2006), eq. (4.19).
    Check: test_priors.py::test_target_kernels_against_scikit_learn.
    """

    alpha: Any = 1.0
    length_scale: Any = 1.0
    variance: Any = 1.0

    def __post_init__(self) -> None:
        for name in ("alpha", "length_scale", "variance"):
            _positive(getattr(self, name), name)

    def __call__(self, X: ArrayLike, Z: ArrayLike | None = None) -> Float[Array, "n m"]:
        """The kernel matrix ``(n, m)``."""
        squares = _pairs(X, Z, self.length_scale, "square")
        alpha = _cast(self.alpha, squares)
        power = -alpha * jnp.log1p(squares / (2 * alpha))
        return _cast(self.variance, squares) * jnp.exp(power)

    diagonal = _constant_diagonal


@register_dataclass
@dataclass(frozen=True)
class Periodic:
    r"""Kernel of functions with a period, the product over features.

    .. math:: k = v \prod_i e^{-2 \sin^2(\pi (x_i - z_i) / p) / \ell^2}

    Args:
        period: p > 0, in units of x. Default 1.
        length_scale: :math:`\ell` > 0, without unit. Default 1.
        variance: v > 0. Default 1.

    Raises:
        ShapeError, DomainError: as for :class:`RBF`.

    Source: Rasmussen and Williams (2006), eq. (4.31).
    Check: test_priors.py::test_periodic_kernel.
    """

    period: Any = 1.0
    length_scale: Any = 1.0
    variance: Any = 1.0

    def __post_init__(self) -> None:
        for name in ("period", "length_scale", "variance"):
            _positive(getattr(self, name), name)

    def __call__(self, X: ArrayLike, Z: ArrayLike | None = None) -> Float[Array, "n m"]:
        """The kernel matrix ``(n, m)``."""
        waves = _pairs(X, Z, self.period, "sine")
        exponent = -2 * waves / _cast(self.length_scale, waves) ** 2
        return _cast(self.variance, waves) * jnp.exp(exponent)

    diagonal = _constant_diagonal
