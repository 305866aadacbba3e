r"""The distribution function of a quadratic form in Gaussian variables, exact far into the tails.

.. math:: L = \sum_i \sum_{o=1}^{k} \left(r_{io} + \sqrt{\lambda_i}\, z_{io}\right)^2, \qquad
          z_{io} \sim N(0, 1)

has the cumulant generating function

.. math:: K(s) = \sum_i \left[-\tfrac k2 \ln d_i + \frac{s\, r_i^2}{d_i}\right], \qquad
          d_i = 1 - 2 s \lambda_i,\quad r_i^2 = \sum_o r_{io}^2

and its distribution function is an integral over any contour that passes the pole at 0 on the
left. Here the contour is a parabola of steepest descent (to third order) through the saddle point,
on which the integrand does not oscillate: the logarithm of a probability of exp(-1000) comes out
with 13 digits, where series and fitted distributions underflow or extrapolate. The integral does
not depend on the contour, so that derivatives need none through the saddle point.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from deeplimits.errors import DomainError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.typing import Array, ArrayLike
from deeplimits.validate import as_real, finite, integer, is_traced

#: Nodes of the trapezoid rule on the contour.
NODES = 400
#: Directions of relative variance below this are constants.
RELATIVE_ZERO = 1e-10


@float64_scope
def log_cdf_quadratic_form(x: ArrayLike, lam: ArrayLike, r2: ArrayLike, *, outputs: int = 1) -> Any:
    r"""Logarithm of the probability that a Gaussian quadratic form is at most x.

    .. math:: \ln P\Big[\sum_i \sum_o (r_{io} + \sqrt{\lambda_i} z_{io})^2 \le x\Big]

    Differentiable in all arguments by JAX. Cost: O(NODES n) for each x.

    Args:
        x: thresholds, real, any shape.
        lam: ``(n,)`` variances of the directions, >= 0.
        r2: ``(n,)`` squared means, summed over the outputs, >= 0.
        outputs: k >= 1, independent copies of every direction that share its variance.

    Returns:
        float64 of the shape of ``x`` (a float for a scalar): ``-inf`` where the probability is 0.
        Relative accuracy about 1e-13. Directions with ``lam <= 1e-10 max(lam)`` count as constant.

    Raises:
        ShapeError: ``lam`` and ``r2`` are not vectors of one length.
        DomainError: NaN, infinite or negative variances or means; NaN thresholds.

    Source: the saddle-point contour is derived here; J. P. Imhof (1961) gives the integral.

    Check: tests/bounds/test_quadratic_form.py
    """
    x, lam, r2 = (
        jnp.asarray(as_real(a, n), float) for a, n in ((x, "x"), (lam, "lam"), (r2, "r2"))
    )
    if lam.ndim != 1 or lam.shape != r2.shape or lam.size == 0:
        raise ShapeError(
            f"lam and r2 must be vectors of one length >= 1, got {lam.shape} and {r2.shape}."
        )
    for name, values in (("lam", lam), ("r2", r2)):
        finite(values, name)
        if not is_traced(values) and bool((values < 0).any()):
            raise DomainError(f"{name} must be >= 0, got {float(values.min()):g}.")
    if not is_traced(x) and bool(jnp.isnan(x).any()):
        raise DomainError("x must not be NaN.")
    value = _log_cdf(x, lam, r2, integer(outputs, "outputs", at_least=1))[0]
    if any(is_traced(a) for a in (x, lam, r2)):
        return value
    return float(value) if value.ndim == 0 else np.asarray(value)


@functools.partial(jax.jit, static_argnums=3)
def _log_cdf(x: Array, lam: Array, r2: Array, outputs: int) -> tuple[Array, Array]:
    """Log probabilities, and where only the saddle-point value was to be had."""

    def one(threshold: Array) -> tuple[Array, Array]:
        tail = lower_tail(threshold, lam, r2, outputs)
        return tail.log_cdf, tail.crude

    value, crude = lax.map(one, x.reshape(-1))
    return value.reshape(x.shape), crude.reshape(x.shape)


class Tail(NamedTuple):
    """Log probability, a flag, and the rule on the contour from which derivatives follow.

    ``crude`` says that the integral failed and the saddle-point value stands in. The change of the
    log probability is the sum over nodes of ``Im[weights (dK(s) - s dx)]``, in the units of the
    caller.
    """

    log_cdf: Array
    crude: Array
    s: Array
    weights: Array


def lower_tail(x: Array, lam: Array, r2: Array, outputs: int) -> Tail:
    """The distribution function at one threshold; pure JAX, differentiable."""
    top = lax.stop_gradient(jnp.max(lam))
    active = lam > RELATIVE_ZERO * top
    room = x - jnp.sum(jnp.where(active, 0, r2))
    random = (top > 0) & (room > 0) & (room < jnp.inf)
    scale = jnp.where(top > 0, top, 1)  # of the variances: the largest becomes 1
    lam = jnp.where(active, lam, 0) / scale
    r2 = jnp.where(active, r2, 0) / scale
    inside = jnp.where(random, room, scale) / scale
    log_cdf, crude, s, weights = _integral(inside, lam, r2, outputs)
    sure = jnp.where((room > 0) | ((top == 0) & (room == 0)), 0.0, -jnp.inf)
    weights = jnp.where(random, weights, 0)
    log_cdf = jnp.where(random, log_cdf, sure)
    return Tail(log_cdf, crude & random, s / scale.astype(complex), weights)


def _cumulants(s: Array, d: Array, lam: Array, r2: Array, outputs: int) -> tuple[Array, ...]:
    """K and its first three derivatives at ``s``, with ``d = 1 - 2 s lam``."""
    k, a, b = outputs, lam / d, r2 / d
    value = jnp.sum(-0.5 * k * jnp.log(d) + s * b)
    first = jnp.sum(k * a + b / d)
    second = jnp.sum(a * (2 * k * a + 4 * b / d))
    third = jnp.sum(a * a * (8 * k * a + 24 * b / d))
    return value, first, second, third


def _saddle(x: Array, lam: Array, r2: Array, outputs: int) -> Array:
    """The s < 1/2 with K'(s) = x, by bisection in the logarithm of the distance to the pole at 1/2.

    The integral does not depend on it, so 1e-9 relative is plenty.
    """

    def step(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        d = (1 - lam) + 2 * jnp.exp(middle) * lam
        above = jnp.sum(outputs * lam / d + r2 / d**2) > x
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    # K' >= outputs / (2 w) at the distance w, and K' <= (outputs n / 2 + r2 / lam) / w
    low = jnp.log(outputs / (4 * x))
    low = jnp.minimum(low, 0.0) - 1
    high = jnp.log1p(jnp.sum(outputs / 2 + r2 / jnp.maximum(lam, RELATIVE_ZERO)) / x) + 40.0
    low, high = lax.fori_loop(0, 50, step, (low, high))
    return 0.5 - jnp.exp((low + high) / 2)


def _integral(x: Array, lam: Array, r2: Array, outputs: int) -> tuple[Array, ...]:
    """The integral along the parabola; the largest of ``lam`` is 1."""
    fixed = lax.stop_gradient((x, lam, r2))
    saddle = _saddle(*fixed, outputs)
    spread = _cumulants(saddle, 1 - 2 * saddle * fixed[1], *fixed[1:], outputs)[2]
    lower = fixed[0] < jnp.sum(outputs * fixed[1] + fixed[2])
    # Where the saddle comes near the pole at 0 the contour keeps its distance.
    off = 0.7 / jnp.sqrt(spread)
    c = jnp.where(lower, jnp.minimum(saddle, -off), jnp.maximum(saddle, jnp.minimum(off, 0.25)))
    at_c = _cumulants(c, 1 - 2 * c * fixed[1], *fixed[1:], outputs)
    bend, height = at_c[3] / (6 * at_c[2]), at_c[0] - c * fixed[0]
    sign = jnp.where(lower, -1.0, 1.0).astype(complex)

    def integrand(t: Array, x: Array, lam: Array, r2: Array) -> tuple[Array, Array]:
        s = lax.complex(c + bend * t**2, t)
        x, lam, r2 = (a.astype(complex) for a in (x, lam, r2))
        value = _cumulants(s, 1 - 2 * s * lam, lam, r2, outputs)[0]
        speed = lax.complex(2 * bend * t, jnp.ones_like(t))
        return s, jnp.exp(value - s * x - height.astype(complex)) * speed / (sign * s)

    def too_short(length: Array) -> Array:
        return jnp.abs(integrand(length, *fixed)[1]) > 1e-17 / jnp.abs(c)

    start = 8 / jnp.sqrt(at_c[2])
    length = lax.while_loop(too_short, lambda length: 1.3 * length, start)
    nodes = jnp.linspace(0.0, 1.0, NODES)
    step = length / (NODES - 1.0) / jnp.pi
    each = lax.stop_gradient(length) * nodes
    s, values = jax.vmap(integrand, (0, None, None, None))(each, x, lam, r2)
    ends = jnp.ones(NODES).at[jnp.array([0, -1])].set(0.5)
    total = jnp.sum(step * ends * jnp.imag(values))
    crude = ~(jnp.isfinite(total) & (total > 0))
    saddle_value = height - jnp.log(jnp.abs(c) * jnp.sqrt(2 * jnp.pi * at_c[2]))
    log_tail = height + jnp.log(jnp.where(crude, 1, total))
    log_tail = jnp.where(crude, saddle_value, log_tail)
    log_cdf = jnp.where(lower, log_tail, jnp.log1p(-jnp.exp(jnp.minimum(log_tail, -1e-300))))
    share = jnp.where(lower, 1 / jnp.where(crude, 1, total), -jnp.exp(height - log_cdf))
    return log_cdf, crude, s, (share * step * ends).astype(complex) * values
