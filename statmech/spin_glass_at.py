r"""The de Almeida-Thouless line of the SK model, where replica symmetry breaks.

.. math:: \beta^2 \int Dz\,\mathrm{sech}^4 \beta(h + \sqrt q z) = 1, \qquad
          q = \int Dz \tanh^2 \beta(h + \sqrt q z)

In :math:`u = \beta \sqrt q` and :math:`v = \beta h` both temperature and field are explicit,
:math:`T = \sqrt q / u`, :math:`h = v T`, and one equation is left: nothing is nested.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.interpolate import PchipInterpolator

from deeplimits.errors import ConvergenceError, DomainError
from deeplimits.precision import float64_scope
from deeplimits.typing import Array, ArrayLike
from deeplimits.validate import as_real, finite
from statmech.averages import hyperbolic_averages

#: Values of u at which the line is tabulated as a start; also the number of points in one batch.
TABLE = np.geomspace(0.03, 3000.0, 64)
#: Smallest field and largest temperature below 1: nearer to (0, 1) rounding hides the equation.
SMALLEST_FIELD, HIGHEST_T, LOWEST_T = 1e-3, 0.99, 1e-3
#: Largest distance in the logarithm of T or h: rounding of the averages over u^2.
TOLERANCE = 1e-10


@jax.jit
def _points(log_u: Array) -> Array:
    """Logarithms of T and h on the line, ``(2, n)``: for every u the one v by bisection."""

    def averages(log_v: Array) -> tuple[Array, Array]:
        mean = hyperbolic_averages(jnp.exp(log_v), jnp.exp(log_u))
        return mean.tanh2, mean.sech4

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = (bracket[0] + bracket[1]) / 2
        q, sech4 = averages(middle)
        unstable = jnp.exp(2 * log_u) * sech4 > q
        return jnp.where(unstable, middle, bracket[0]), jnp.where(unstable, bracket[1], middle)

    low, high = jax.lax.fori_loop(0, 56, halve, (jnp.full_like(log_u, -14.0), log_u + 3.0))
    log_v = (low + high) / 2
    log_T = jnp.log(averages(log_v)[0]) / 2 - log_u
    return jnp.stack([log_T, log_v + log_T])


def _line(target: np.ndarray, column: int) -> np.ndarray:
    """Logarithms of T and h ``(2, n)`` where the one of number ``column`` has its target.

    Secant steps in ln u from an interpolated table, in batches of one size.
    """
    grid = np.log(TABLE)
    table = np.asarray(_points(jnp.asarray(grid)))[column]
    order = np.argsort(table)
    start = PchipInterpolator(table[order], grid[order])
    out = [_secant(start, part, column) for part in np.array_split(target, -(-target.size // 64))]
    return np.concatenate(out, axis=1)


def _secant(start: PchipInterpolator, target: np.ndarray, column: int) -> np.ndarray:
    goal = np.resize(target, TABLE.size)
    before = start(goal)
    u, old = before + 1e-3, np.asarray(_points(jnp.asarray(before)))[column] - goal
    for _ in range(8):
        values = np.asarray(_points(jnp.asarray(u)))
        new = values[column] - goal
        if np.abs(new).max() < TOLERANCE / 10:
            break
        slope = np.where(new != old, (new - old) / np.where(u != before, u - before, 1.0), 1.0)
        before, old, u = u, new, u - new / slope
    if not np.abs(new).max() < TOLERANCE:
        raise ConvergenceError(
            f"the AT line was missed by {np.abs(new).max():.2g}. This is a defect, please report "
            "the arguments."
        )
    return values[:, : target.size]


@float64_scope
def sk_at_temperature(h: ArrayLike) -> Any:
    r"""The temperature below which replica symmetry breaks in a field.

    :math:`T_{AT} = 1 - (3 h^2 / 4)^{1/3}` to leading order for small fields.

    Args:
        h: fields, any shape: 0, or 1e-3 <= abs(h) <= 3.7.

    Returns:
        NumPy float64 of the shape of h.

    Raises:
        DomainError: a field out of range.

    Source: J. R. L. de Almeida and D. J. Thouless, J. Phys. A 11, 983 (1978), eq. (22).

    Check: tests/statmech/test_spin_glass.py::test_at_line
    """
    finite(as_real(h, "h"), "h")
    h = np.abs(np.asarray(h, np.float64))
    if np.any((h > 3.7) | ((h > 0) & (h < SMALLEST_FIELD))):
        raise DomainError(f"h must be 0 or have {SMALLEST_FIELD} <= |h| <= 3.7, got {h.ravel()}.")
    log_h = np.log(np.where(h > 0, h, 1.0)).ravel()
    log_T = _line(log_h, 1)[0]
    return np.where(h > 0, np.exp(log_T).reshape(h.shape), 1.0)[()]


@float64_scope
def sk_at_field(T: ArrayLike) -> Any:
    r"""The field above which replica symmetry holds.

    :math:`h_{AT}^2 = \tfrac43 (1 - T)^3` to leading order near T = 1; it diverges for T -> 0.

    Args:
        T: temperatures, any shape, 1e-3 <= T <= 0.99, or T >= 1 (where the field is 0).

    Returns:
        NumPy float64 of the shape of T.

    Raises:
        DomainError: a temperature out of range.

    Source: J. R. L. de Almeida and D. J. Thouless, J. Phys. A 11, 983 (1978), eq. (22).

    Check: tests/statmech/test_spin_glass.py::test_at_line
    """
    finite(as_real(T, "T"), "T")
    T = np.asarray(T, np.float64)
    if np.any((T < LOWEST_T) | ((T > HIGHEST_T) & (T < 1))):
        raise DomainError(f"T must lie in [{LOWEST_T}, {HIGHEST_T}] or be >= 1, got {T.ravel()}.")
    log_T = np.log(np.where(T < 1, T, 0.5)).ravel()
    log_h = _line(log_T, 0)[1]
    return np.where(T < 1, np.exp(log_h).reshape(T.shape), 0.0)[()]
