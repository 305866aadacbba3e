"""The engine of the error-controlled averages: refine a rule until two values agree."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from deeplimits.errors import ConvergenceError, DomainError, ShapeError
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import Array, ArrayLike
from deeplimits.validate import finite, integer, is_traced, number

START_WIDTH = 9.5  # the standard normal has mass 2e-21 outside
_MAX_WIDTH = 37.0  # the standard normal density underflows at 38.6
_BLOCK = 2**21  # points evaluated at once (16 MiB an array)
_ROUNDING = 8 * float(np.finfo(np.float64).eps)


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Expectation:
    """A Gaussian expectation and its error.

    Attributes:
        value: the expectation, float64.
        abs_err: estimated absolute error (difference of the last two refinements plus rounding).
        nodes: number of points of the last rule, per element.
    """

    value: Array
    abs_err: Array
    nodes: Array

    def __float__(self) -> float:
        return float(self.value)


def host_arrays(**arrays: ArrayLike) -> list[np.ndarray]:
    """Finite float64 NumPy arrays of one shape; tracers are refused."""
    for name, value in arrays.items():
        if is_traced(value):
            raise DomainError(
                f"{name} is traced, but error control needs numbers. Inside jit, grad or vmap use "
                "trapezoid_rule or panel_rule."
            )
        finite(value, name)
    return list(np.broadcast_arrays(*(np.asarray(v, np.float64) for v in arrays.values())))


def check_variance(name: str, q: np.ndarray) -> None:
    """Raise :class:`DomainError` if an entry is negative."""
    if np.any(q < 0):
        raise DomainError(f"{name} is a variance and must be >= 0, got {np.min(q):g}.")


def elementwise(f: Callable[..., Any], coordinates: tuple) -> np.ndarray:
    """``f`` at the points as float64, shape checked."""
    with np.errstate(all="ignore"):  # overflow shows as a non-finite value, which is reported
        values = np.asarray(f(*coordinates))
    if values.shape[:2] != coordinates[0].shape:
        raise ShapeError(
            f"f must act elementwise: it got shape {coordinates[0].shape} and returned "
            f"{values.shape}. Wrap a scalar function in numpy.vectorize."
        )
    if values.dtype.kind not in "fiub":
        raise DomainError(f"f must return real numbers, got dtype {values.dtype}.")
    return values.astype(np.float64)


def _estimate(
    f: Callable[..., Any],
    points: Callable,
    active: np.ndarray,
    level: int,
    width: np.ndarray,
    where: Callable[[int], str],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Integral, integral of the modulus, and the modulus near the ends, for one block."""
    coordinates, weights, far = points(active, level, width)
    values = elementwise(f, coordinates)
    axes = tuple(range(2, values.ndim))
    weights, far = np.expand_dims(weights, axes), np.expand_dims(far, axes)
    terms = np.where(weights > 0, values * weights, 0.0)
    if not np.isfinite(terms).all():
        i, j = np.argwhere(~np.isfinite(terms))[0][:2]
        at = ", ".join(f"{c[i, j]:.6g}" for c in coordinates)
        raise DomainError(
            f"f is not finite ({values[i, j].ravel()[0]}) at {at}, where a Gaussian of "
            f"{where(active[i])} still counts. f must be finite on the real line and grow more "
            "slowly than the inverse of the density."
        )
    size = np.abs(terms)
    return terms.sum(1), size.sum(1), np.where(far, size, 0.0).sum(1)


def refine(
    f: Callable[..., Any],
    points: Callable[..., Any],
    shape: tuple[int, ...],
    tol: float,
    max_nodes: int,
    where: Callable[[int], str],
    depth: int = 1,
) -> Expectation:
    """Refine the rule until two successive values agree; converged elements drop out.

    Args:
        f: integrand of the coordinates that ``points`` returns.
        points: ``(active, level, width) -> (coordinates, weights, far)``, arrays ``(active, n)``;
            ``far`` marks the points whose share shows whether the interval is wide enough.
        shape: shape of the elements; ``active`` holds indices into its flat version.
        tol, max_nodes: as for :func:`deeplimits.gaussian.expectation`.
        where: names the Gaussian of an element, for messages.
        depth: values per point, which bounds the number of elements evaluated at once.
    """
    tol = number(tol, "tol", at_least=1e-14)
    max_nodes = integer(max_nodes, "max_nodes", at_least=2)
    pending = np.arange(int(np.prod(shape)))
    if not pending.size:
        raise ShapeError(f"the variance must not be empty, got shape {shape}.")
    width, nodes = np.full(pending.size, START_WIDTH), np.zeros(pending.size, int)
    value = error = size = np.full(pending.size, np.nan)
    for level in range(64):
        n = points(pending[:1], level, width[:1])[1].shape[1]
        if n > max_nodes:
            first = int(pending[0])
            raise _too_few_nodes(float(np.max(error[first])), int(nodes[first]), tol, where(first))
        block = max(1, _BLOCK // (n * depth))
        sample = functools.partial(_in_blocks, f, points, level, width, block, where)
        total, mass = _widen(sample, pending, width, 0.01 * tol, where)
        if level == 0:
            value, error, size = np.full((3, *total.shape), np.nan)
        change = np.abs(total - value[pending])
        # E|f| must settle too (to 1 %): the sums of 1/x vanish by symmetry, but its average
        # does not exist.
        settled = (change <= tol * mass) & (np.abs(mass - size[pending]) <= 0.01 * mass)
        value[pending], error[pending] = total, change + _ROUNDING * mass
        size[pending], nodes[pending] = mass, n
        pending = pending[~settled.all(tuple(range(1, total.ndim)))]
        if not pending.size:
            break
    extra = value.shape[1:]
    return Expectation(
        value.reshape(shape + extra), error.reshape(shape + extra), nodes.reshape(shape)
    )


def _in_blocks(
    f: Callable[..., Any],
    points: Callable[..., Any],
    level: int,
    width: np.ndarray,
    block: int,
    where: Callable[[int], str],
    active: np.ndarray,
) -> list[np.ndarray]:
    """:func:`_estimate` on ``block`` elements at a time, which bounds the memory."""
    parts = np.split(active, range(block, active.size, block))
    blocks = [_estimate(f, points, part, level, width[part], where) for part in parts]
    return [np.concatenate(column) for column in zip(*blocks, strict=True)]


def _widen(
    sample: Callable[[np.ndarray], list[np.ndarray]],
    active: np.ndarray,
    width: np.ndarray,
    share: float,
    where: Callable[[int], str],
) -> tuple[np.ndarray, np.ndarray]:
    """Integrate, widening (in place) the intervals whose ends hold more than ``share``."""
    total, mass, tail = sample(active)
    while True:
        narrow = (tail > share * mass).any(tuple(range(1, tail.ndim)))
        if not narrow.any():
            return total, mass
        again = active[narrow]
        stuck = again[width[again] >= _MAX_WIDTH]
        if stuck.size:
            raise DomainError(
                f"f grows too fast for a Gaussian of {where(stuck[0])}: the integrand does not "
                f"decay within {_MAX_WIDTH:g} standard deviations, so the expectation is infinite "
                "or out of reach. Use a smaller variance."
            )
        width[again] = np.minimum(width[again] + 3, _MAX_WIDTH)
        total[narrow], mass[narrow], tail[narrow] = sample(again)


def _too_few_nodes(error: float, nodes: int, tol: float, where: str) -> ConvergenceError:
    return ConvergenceError(
        f"the expectation for {where} did not settle: it changed by {error:.3g} in the last "
        f"refinement ({nodes} nodes; tol={tol:g} relative to E|f|, which must settle as well). "
        "If f or a derivative jumps, pass kinks=(...); otherwise raise max_nodes or tol, or check "
        "that E|f| is finite."
    )
