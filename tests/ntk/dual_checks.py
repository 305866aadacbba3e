"""Errors of a dual against references that share no code with it; each must be 1 at most."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np

from ntk.duals import Dual, gap_arguments
from ntk.piecewise import PiecewiseLinear
from ntk.price import QuadratureDual

from .dual_oracle import COVARIANCES, dual_quadrature, mean_quadrature

#: (q1, q2, eps): generic pairs; separation 1e-5 (eps = 5e-11); duplicates; near-antipodes and
#: antipodes, with equal and with unequal variances.
POINTS = np.array(
    [
        (1.0, 1.0, 0.5),
        (0.7, 1.3, 1.4),
        (2.3, 0.6, 0.03),
        (1.0, 1.0, 5e-11),
        (1.0, 1.00001, 5e-11),
        (0.4, 1.7, 5e-11),
        (1.5, 1.5, 0.0),
        (0.5, 2.0, 0.0),
        (1.1, 1.1, 2.0 - 2.0**-20),
        (0.6, 1.9, 2.0 - 2.0**-20),
        (0.8, 0.8, 2.0),
        (0.3, 2.1, 2.0),
    ]
)
#: One zero variance, and two.
ZEROS = np.array([(0.0, 1.3, 1.0), (1.3, 0.0, 0.3), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0)])
#: Rows that are evaluated at once: those of `gap_points`.
ROWS = 64


@dataclass(frozen=True)
class Case:
    """A dual with its activation in NumPy and its textbook kernel in mpmath.

    ``textbook(q1, q12, q2)`` is the kernel; its derivative is taken numerically. Where the kernel
    (``signed[0]``) or its derivative (``signed[1]``) changes sign, errors are relative to
    ``sqrt(K11 K22)`` instead of the vanishing value.
    """

    dual: Dual
    f: Callable[[Any], Any]
    df: Callable[[Any], Any] | None
    textbook: Callable[[Any, Any, Any], Any]
    signed: tuple[bool, bool] = (False, False)
    #: Allowed error of the gap: this many u sqrt(gap) ...
    gap_factor: float = 20.0
    #: ... plus this many u times the squared log-ratio of the variances.
    ratio_factor: float = 0.0

    def __str__(self) -> str:
        return repr(self.dual).replace(" ", "")


@functools.cache
def _diagonal(case: Case, q: Any) -> tuple[Any, Any]:
    """``K`` and ``Kdot`` of one variance with itself, in 160 digits."""
    with mp.workdps(160):
        slope = mp.nan if case.df is None else _slope(case, q, mp.mpf(1), q)
        return case.textbook(q, q, q), slope


def _slope(case: Case, a: Any, rho: Any, b: Any) -> Any:
    """Difference quotient of the textbook kernel, in the precision that is set."""
    step = mp.mpf(10) ** -50
    # One-sided at the ends, where some textbook forms leave their domain.
    up, down = min(rho + step, mp.mpf(1)), max(rho - step, mp.mpf(-1))
    s = mp.sqrt(a * b)
    return (case.textbook(a, s * up, b) - case.textbook(a, s * down, b)) / (s * (up - down))


def reference_gap(case: Case, q1: Any, q2: Any, eps: Any) -> Any:
    """Gap from the textbook form, in 160 digits because that cancels."""
    with mp.workdps(160):
        q1, q2, eps = mp.mpf(float(q1)), mp.mpf(float(q2)), mp.mpf(float(eps))
        scale = mp.sqrt(_diagonal(case, q1)[0] * _diagonal(case, q2)[0])
        return 1 - case.textbook(q1, mp.sqrt(q1 * q2) * (1 - eps), q2) / scale


def reference(case: Case, q1: Any, q2: Any, eps: Any) -> tuple[Any, Any, Any, Any]:
    """``K``, ``Kdot`` and the scales of both, from the textbook form.

    160 digits, because the textbook forms and the difference quotient cancel.
    """
    with mp.workdps(160):
        q1, q2, eps = mp.mpf(float(q1)), mp.mpf(float(q2)), mp.mpf(float(eps))
        K = case.textbook(q1, mp.sqrt(q1 * q2) * (1 - eps), q2)
        (K11, dot11), (K22, dot22) = _diagonal(case, q1), _diagonal(case, q2)
        scale = mp.sqrt(K11 * K22)
        if case.df is None:
            return K, mp.nan, scale, mp.nan
        return K, _slope(case, q1, 1 - eps, q2), scale, mp.sqrt(abs(dot11 * dot22))


@functools.cache
def compiled(dual: Dual) -> Any:
    """The jitted kernel with the parameters as constants (other kernels are jitted already)."""
    return jax.jit(dual.kernel)


def evaluate(dual: Dual, points: np.ndarray, dtype: Any) -> list[np.ndarray]:
    """Kernel of each row of ``points`` in ``dtype``; all rows fit one shape, compiled once."""
    rows = np.resize(points, (ROWS, 3))
    kernel = dual.kernel if isinstance(dual, QuadratureDual | PiecewiseLinear) else compiled(dual)
    out = kernel(*(jnp.asarray(column, dtype) for column in rows.T))
    assert all(value.dtype == dtype and value.shape == (ROWS,) for value in out)
    return [np.asarray(value)[: len(points)] for value in out]


class Worst(NamedTuple):
    """The largest error in units of what is allowed there, and where it is."""

    ratio: float
    where: Any


def worst(rows: Iterable[tuple[Any, Any, Any]]) -> Worst:
    """The worst of rows ``(error, allowed, where)``; an error that is not a number is infinite."""
    found = []
    for error, allowed, where in rows:
        ratio = float(abs(error) / allowed) if error else 0.0
        found.append(Worst(ratio if np.isfinite(ratio) else np.inf, where))
    return max(found, key=lambda row: row.ratio)


def quadrature_error(case: Case, kinks: tuple[float, ...] = ()) -> Worst:
    """K, Kdot, variance and mean against panel quadrature on generic covariances.

    Allowed is 1e-12 relative, the accuracy promised (the rule itself reaches about 2e-13); for
    averages that vanish by symmetry, relative to a thousandth of their scale.
    """

    def average(f: Callable[[Any], Any], q: float) -> float:
        return mean_quadrature(f, q, kinks)

    f, df, dual, count = case.f, case.df, case.dual, len(COVARIANCES)
    columns = [jnp.asarray(column) for column in np.resize(COVARIANCES, (ROWS, 3)).T]
    kernels = [dual.K(*columns), dual.Kdot(*columns) if df is not None else columns[0]]
    found = np.asarray([*kernels, dual.variance(columns[0]), dual.mean(columns[0])])[:, :count]
    rows = []
    for point, (k, kdot, variance, mean) in zip(COVARIANCES, found.T, strict=True):
        q11, _, q22 = point
        K, Kdot = dual_quadrature(f, df, *point, kinks)
        squares = [average(lambda x: f(x) ** 2, q) for q in (q11, q22)]
        floor = 1e-3 * np.sqrt(np.prod(squares))
        rows.append((k - K, 1e-12 * max(abs(K), floor), ("K", point)))
        if df is not None:
            floor = 1e-3 * np.sqrt(np.prod([average(lambda x: df(x) ** 2, q) for q in (q11, q22)]))
            rows.append((kdot - Kdot, 1e-12 * max(abs(Kdot), floor), ("Kdot", point)))
        rows.append((variance - squares[0], 1e-12 * squares[0], ("variance", q11)))
        # A mean is known up to rounding of its terms, which are of the size of the deviation.
        rows.append((mean - average(f, q11), 1e-12 * np.sqrt(squares[0]), ("mean", q11)))
    return worst(rows)


def value_error(case: Case, dtype: Any, tolerance: float) -> Worst:
    """K and Kdot at the delicate points, relative to the textbook form in 160 digits."""
    points = POINTS.astype(dtype)
    K, Kdot, _ = evaluate(case.dual, points, dtype)
    rows = []
    for point, k, dot in zip(points, K, Kdot, strict=True):
        want_k, want_dot, scale_k, scale_dot = reference(case, *point)
        size = max(abs(want_k), scale_k) if case.signed[0] else abs(want_k)
        # 1e-20: at antipodes the difference quotient leaves its step instead of 0.
        rows.append((float(k) - want_k, tolerance * size + 1e-20, ("K", point)))
        if case.df is not None:
            size = max(abs(want_dot), scale_dot) if case.signed[1] else abs(want_dot)
            rows.append((float(dot) - want_dot, tolerance * size + 1e-20, ("Kdot", point)))
    return worst(rows)


def gap_points() -> np.ndarray:
    """eps from 1e-14 to 2 for equal, nearly equal and different variances."""
    small = 10.0 ** np.arange(-14, 0)
    eps = np.concatenate([[0.0], small[::2], [0.3, 1.0, 1.4], 2 - small[1::4], [2.0]])
    pairs = [(1.0, 1.0), (1.0, 1.00001), (0.3, 2.0), (1.6, 0.2)]
    return np.array([(a, b, e) for a, b in pairs for e in eps])


def gap_error(case: Case, dtype: Any) -> Worst:
    """eps_out against the textbook form: allowed is an absolute error of about u sqrt(eps_out)."""
    points = gap_points().astype(dtype)
    u = float(np.finfo(dtype).eps) / 2
    rows = []
    for point, value in zip(points, evaluate(case.dual, points, dtype)[2], strict=True):
        want = reference_gap(case, *point)
        ratio = float(np.log(np.float64(point[0]) / np.float64(point[1]))) ** 2
        allowed = case.gap_factor * u * float(mp.sqrt(abs(want))) + case.ratio_factor * u * ratio
        allowed += (4 * u) ** 2  # squares of two rounded lengths
        rows.append((float(value) - want, allowed, point))
    return worst(rows)


@jax.jit
def _slopes(dual: Dual, covariances: Any, q: Any, eps: Any) -> Any:
    """``dK / dq12`` and ``d eps_out / d eps`` with their formulas, in one program for a class."""
    q11, q12, q22 = covariances
    n, m = len(q12), len(eps)

    def kernel(q12: Any, eps: Any) -> Any:
        pairs = zip(gap_arguments(q11, q12, q22), (q, q, eps), strict=True)
        return dual.kernel(*map(jnp.concatenate, pairs))

    (_, Kdot, _), pull = jax.vjp(kernel, q12, eps)
    first = jnp.concatenate([jnp.ones(n), jnp.zeros(m)])
    slope, diagonal = pull((first, jnp.zeros(n + m), 1 - first))
    return slope, Kdot[:n], diagonal, q * Kdot[n:] / dual.variance(q)


def price_error(dual: Dual) -> Worst:
    """``Kdot = dK / dq12``; and ``d eps_out / d eps = s1 s2 Kdot / sqrt(K11 K22)`` at equal inputs.

    Both by automatic differentiation, the latter also on the diagonal (it is not halved there).
    """
    columns = [jnp.array(column) for column in zip(*COVARIANCES, strict=True)]
    q, eps = (a.ravel() for a in np.meshgrid([0.4, 1.0, 2.5], [0, 1e-9, 0.6]))
    found = _slopes(dual, columns, jnp.asarray(q), jnp.asarray(eps))
    slope, want, diagonal, want_diagonal = (np.asarray(a) for a in found)
    # 1e-11: the quotients 1 / sqrt(1 - rho^2) amplify rounding by up to 100 at rho = -0.99.
    allowed = 1e-11 * abs(want) + 1e-12 * abs(want).max() + 1e-300
    rows = list(zip(slope - want, allowed, COVARIANCES, strict=True))
    # rounding of O(1) sums
    allowed = 1e-12 * abs(want_diagonal) + 1e-13
    points = zip(q, eps, strict=True)
    return worst([*rows, *zip(diagonal - want_diagonal, allowed, points, strict=True)])


def derivatives(dual: Dual, dtype: Any) -> np.ndarray:
    """Values, gradients and Hessians in q1, q2, eps and the parameters at all points, flat.

    Reverse mode (which turns ``0 * inf`` of unselected branches into NaN, forward mode does not),
    then the Hessian along a direction without zeros, to which every entry contributes.
    """
    points = jnp.asarray(np.concatenate([POINTS, ZEROS]), dtype)
    leaves, tree = jax.tree.flatten(dual)
    leaves = [jnp.asarray(leaf, dtype) for leaf in leaves]
    weights = jnp.asarray([0.7, -0.4, 1.3], dtype)

    def combined(arguments: Any) -> Any:
        point, leaves = arguments
        return weights @ jnp.stack(jax.tree.unflatten(tree, leaves).kernel(*point))

    def at(point: Any) -> Any:
        arguments = (point, leaves)
        direction = jax.tree.map(lambda x: jnp.ones_like(x) * 0.3, arguments)
        return jax.jvp(jax.value_and_grad(combined), (arguments,), (direction,))

    found = jax.tree.leaves(jax.jit(jax.vmap(at))(points))
    assert all(leaf.dtype == dtype for leaf in found)
    return np.concatenate([np.ravel(leaf) for leaf in found])


def zero_error(case: Case, kinks: tuple[float, ...] = ()) -> Worst:
    """A zero input has K = f(0) E f(y), and gap 1 - K / sqrt(K11 K22), or 1 where that is 0 / 0.

    Kdot is only asked to be finite there.
    """
    start = float(np.asarray(case.f(np.zeros(1)))[0])
    rows = []
    for dtype, rtol in ((np.float64, 1e-13), (np.float32, 1e-6)):
        K, Kdot, gap = (a.astype(float) for a in evaluate(case.dual, ZEROS, dtype))
        for point, k, dot, g in zip(ZEROS, K, Kdot, gap, strict=True):
            q = point[:2]
            means = [mean_quadrature(case.f, v, kinks) if v else start for v in q]
            roots = [
                mean_quadrature(lambda x: case.f(x) ** 2, v, kinks) if v else start**2 for v in q
            ]
            want, norm = means[0] * means[1], np.sqrt(roots[0] * roots[1])
            want_gap = 1 - want / norm if norm else 1.0
            rows.append((k - want, rtol * abs(want) + 1e-15, ("K", dtype, point)))
            rows.append((g - want_gap, rtol * abs(want_gap) + rtol, ("gap", dtype, point)))
            rows.append((0 * dot, 1.0, ("Kdot", dtype, point)))
    return worst(rows)


def property_error(dual: Dual, q1: float, q2: float, eps: float, dtype: Any) -> Worst:
    """Cauchy-Schwarz, symmetry, range and consistency of the gap, in units of 20 roundings."""
    point = np.array([(q1, q2, eps), (q2, q1, eps)], dtype)
    K, Kdot, gap = (a.astype(float) for a in evaluate(dual, point, dtype))
    rounding = 20 * float(np.finfo(dtype).eps)
    roots = [np.sqrt(float(dual.variance(q))) for q in point[0, :2]]
    bound = roots[0] * roots[1]
    rows = [
        (max(abs(K[0]) - bound, 0), rounding * bound, "Cauchy-Schwarz"),
        (K[0] - K[1], rounding * (bound + abs(K[1])), "symmetry of K"),
        (gap[0] - gap[1], rounding * (1 + gap[1]), "symmetry of the gap"),
        (0 if np.all((gap >= 0) & (gap <= 2)) else np.inf, 1.0, "range of the gap"),
        (0 if np.all(np.isfinite(Kdot)) else np.inf, 1.0, "Kdot"),
    ]
    if q1 * q2 > 0 and bound > 0:
        want = (1 - gap[0]) * bound
        rows.append((K[0] - want, rounding * (abs(want) + bound), "consistency of the gap"))
    return worst(rows)
