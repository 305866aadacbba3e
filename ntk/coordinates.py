r"""Stable coordinates of a pair of Gaussians, shared by all duals.

Every dual is a function of :math:`s_i = \sqrt{q_i}`, :math:`s = s_1 s_2`,
:math:`\varepsilon = 1 - \rho` and :math:`\rho`. The conventions at zero variance and the
derivatives there are fixed once, here.
"""

from __future__ import annotations

import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.errors import DomainError
from deeplimits.validate import integer, number

#: Largest polynomial degree; its moments still fit in float64.
MAX_DEGREE = 100


class Coordinates(NamedTuple):
    """Standard deviations, their product, 1 - correlation and correlation of a pair."""

    s1: Any
    s2: Any
    s: Any
    eps: Any
    rho: Any

    @property
    def difference(self) -> Any:
        """``(s1 - s2)^2``, with the derivative of ``q1 + q2`` where one variance is 0."""
        return jnp.where(self.s > 0, (self.s1 - self.s2) ** 2, self.s1**2 + self.s2**2)

    @property
    def distance(self) -> Any:
        """``E[(x - y)^2] = q1 + q2 - 2 q12`` without cancellation."""
        return self.difference + 2 * self.s * self.eps

    @property
    def opposite(self) -> Any:
        """``E[(x + y)^2] = q1 + q2 + 2 q12`` without cancellation."""
        return self.difference + 2 * self.s * (2 - self.eps)

    @property
    def sine2(self) -> Any:
        """``1 - rho^2``, accurate near both ends."""
        return self.eps * (2 - self.eps)


def floating(x: Any) -> Any:
    """``x`` as a floating JAX array."""
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.zeros(()).dtype)


# The forms below end in the root or the quotient and not in a selection: XLA:CPU then stores the
# values of rows and columns once, instead of computing them again for each pair of inputs.


@jax.custom_jvp
def safe_sqrt(x: Any) -> Any:
    """Square root with derivative 0 (instead of infinity) at 0; 0 for negative ``x``."""
    return jnp.sqrt(jnp.where(x > 0, x, 0))


@safe_sqrt.defjvp
def _safe_sqrt_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    root = safe_sqrt(x)
    return root, safe_ratio(0.5 * dx, root, 0.0)


def safe_ratio(numerator: Any, denominator: Any, otherwise: float) -> Any:
    """``numerator / denominator``; ``otherwise`` (derivative 0) unless ``denominator > 0``."""
    positive = denominator > 0
    return jnp.where(positive, numerator, otherwise) / jnp.where(positive, denominator, 1)


def coordinates(q1: Any, q2: Any, eps: Any) -> Coordinates:
    """Coordinates of a pair; where one variance is 0 the correlation is 0 by convention."""
    s1, s2, eps = safe_sqrt(floating(q1)), safe_sqrt(floating(q2)), floating(eps)
    s = s1 * s2
    eps = jnp.where(s > 0, eps, 1)
    return Coordinates(s1, s2, s, eps, 1 - eps)


def half_power(q: Any, degree: int) -> Any:
    """``q^(degree / 2)``; for even ``degree`` without a root, so with exact derivatives at 0."""
    whole = q ** (degree // 2)
    return whole * safe_sqrt(q) if degree % 2 else whole


def parameter(value: Any, like: Any) -> Any:
    """A parameter of a dual for use beside ``like``: a Python float, or an array of its dtype.

    None stands for a 0 that is known at compile time.
    """
    if value is None:
        return 0.0
    if isinstance(value, int | float):
        return float(value)
    return jnp.asarray(value).astype(like.dtype)


def check_parameters(bounds: dict[str, dict[str, float]], **values: Any) -> None:
    """Check the numbers among ``values``; tracers, arrays and tree placeholders pass.

    Args:
        bounds: per name, the keywords of :func:`deeplimits.validate.number`.
        values: the fields of a dual. JAX also builds duals around tracers and placeholder objects.

    Raises:
        DomainError: not one finite real number within its bounds.
    """
    for name, value in values.items():
        if isinstance(value, numbers.Number | np.generic | str | list | tuple):
            number(value, name, **bounds.get(name, {}))


def check_degree(degree: Any) -> None:
    """Check a polynomial degree.

    Raises:
        DomainError: not an integer in ``[0, MAX_DEGREE]``.
    """
    if integer(degree, "degree", at_least=0) > MAX_DEGREE:
        raise DomainError(
            f"degree must be <= {MAX_DEGREE}, got {degree}: the moments of higher degrees "
            "overflow. Use a bounded activation or a lower degree."
        )
