"""Checks that every dual must pass, against references that share no code with it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np

from ntk.duals import Dual

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


def reference(case: Case, q1: Any, q2: Any, eps: Any) -> tuple[Any, Any, Any, Any, Any]:
    """``K``, ``Kdot``, gap, and the scales of ``K`` and ``Kdot``, from the textbook form.

    160 digits, because the textbook forms and the difference quotient cancel.
    """
    with mp.workdps(160):
        q1, q2, eps = mp.mpf(float(q1)), mp.mpf(float(q2)), mp.mpf(float(eps))
        s = mp.sqrt(q1 * q2)
        step = mp.mpf(10) ** -50

        def slope(a: Any, rho: Any, b: Any) -> Any:
            # One-sided at the ends, where some textbook forms leave their domain.
            up = min(rho + step, mp.mpf(1))
            down = max(rho - step, mp.mpf(-1))
            s = mp.sqrt(a * b)
            return (case.textbook(a, s * up, b) - case.textbook(a, s * down, b)) / (s * (up - down))

        K, K11, K22 = (
            case.textbook(q1, s * (1 - eps), q2),
            *(case.textbook(q, q, q) for q in (q1, q2)),
        )
        scale = mp.sqrt(K11 * K22)
        if case.df is None:
            return K, mp.nan, 1 - K / scale, scale, mp.nan
        dots = (slope(q1, 1 - eps, q2), slope(q1, mp.mpf(1), q1), slope(q2, mp.mpf(1), q2))
        return K, dots[0], 1 - K / scale, scale, mp.sqrt(abs(dots[1] * dots[2]))


@functools.cache
def compiled(dual: Dual) -> Any:
    """The jitted kernel with the parameters as constants, compiled once per dual and dtype."""
    return jax.jit(dual.kernel)


def evaluate(dual: Dual, points: np.ndarray, dtype: Any) -> list[np.ndarray]:
    """Kernel of each row of ``points`` in ``dtype``."""
    out = compiled(dual)(*(jnp.asarray(column, dtype) for column in points.T))
    assert all(value.dtype == dtype and value.shape == points.shape[:1] for value in out)
    return [np.asarray(value) for value in out]


def check_quadrature(case: Case, kinks: tuple[float, ...] = ()) -> None:
    """K, Kdot, variance and mean against panel quadrature on generic covariances."""
    columns = [jnp.array(column) for column in zip(*COVARIANCES, strict=True)]
    found_K = np.asarray(case.dual.K(*columns))
    found_Kdot = np.asarray(case.dual.Kdot(*columns)) if case.df is not None else found_K
    found = zip(COVARIANCES, found_K, found_Kdot, strict=True)
    for (q11, q12, q22), k, kdot in found:
        K, Kdot = dual_quadrature(case.f, case.df, q11, q12, q22, kinks)
        variances = [mean_quadrature(lambda x: case.f(x) ** 2, q, kinks) for q in (q11, q22)]
        floor = 1e-3 * np.sqrt(np.prod(variances))  # averages that vanish by symmetry
        # 1e-12 relative is the accuracy promised; the rule itself reaches about 2e-13.
        assert abs(k - K) <= 1e-12 * max(abs(K), floor)
        if case.df is not None:
            dots = [mean_quadrature(lambda x: case.df(x) ** 2, q, kinks) for q in (q11, q22)]
            floor = 1e-3 * np.sqrt(np.prod(dots))
            assert abs(kdot - Kdot) <= 1e-12 * max(abs(Kdot), floor)
    q = columns[0]
    variances = [mean_quadrature(lambda x: case.f(x) ** 2, float(v), kinks) for v in q]
    means = [mean_quadrature(case.f, float(v), kinks) for v in q]
    np.testing.assert_allclose(case.dual.variance(q), variances, rtol=1e-12)
    # A mean is known up to rounding of its terms, which are of the size of the deviation.
    error = np.abs(np.asarray(case.dual.mean(q)) - means)
    assert np.all(error <= 1e-12 * np.sqrt(variances))


def check_values(case: Case, dtype: Any, tolerance: float) -> None:
    """K and Kdot at the delicate points, relative to the textbook form in 160 digits."""
    points = POINTS.astype(dtype)
    K, Kdot, _ = evaluate(case.dual, points, dtype)
    for point, k, dot in zip(points, K, Kdot, strict=True):
        want_k, want_dot, _, scale_k, scale_dot = reference(case, *point)
        size = max(abs(want_k), scale_k) if case.signed[0] else abs(want_k)
        # 1e-20: at antipodes the difference quotient leaves its step instead of 0.
        assert abs(float(k) - want_k) <= tolerance * size + 1e-20, (case, point, float(k), want_k)
        if case.df is not None:
            size = max(abs(want_dot), scale_dot) if case.signed[1] else abs(want_dot)
            error = abs(float(dot) - want_dot)
            assert error <= tolerance * size + 1e-20, (case, point, float(dot), want_dot)


def gap_points() -> np.ndarray:
    """eps from 1e-14 to 2 for equal, nearly equal and different variances."""
    small = 10.0 ** np.arange(-14, 0)
    eps = np.concatenate([[0.0], small[::2], [0.3, 1.0, 1.4], 2 - small[1::4], [2.0]])
    pairs = [(1.0, 1.0), (1.0, 1.00001), (0.3, 2.0), (1.6, 0.2)]
    return np.array([(a, b, e) for a, b in pairs for e in eps])


def check_gap(case: Case, dtype: Any) -> None:
    """eps_out against the textbook form: absolute error about u sqrt(eps_out)."""
    points = gap_points().astype(dtype)
    u = float(np.finfo(dtype).eps) / 2
    for point, value in zip(points, evaluate(case.dual, points, dtype)[2], strict=True):
        want = reference(case, *point)[2]
        ratio = float(np.log(np.float64(point[0]) / np.float64(point[1]))) ** 2
        allowed = case.gap_factor * u * float(mp.sqrt(abs(want))) + case.ratio_factor * u * ratio
        allowed += (4 * u) ** 2  # squares of two rounded lengths
        assert abs(float(value) - want) <= allowed, (case, point, float(value), mp.nstr(want, 12))


def check_price(dual: Dual) -> None:
    """Kdot is the derivative of K with respect to q12, by automatic differentiation."""
    columns = [jnp.array(column) for column in zip(*COVARIANCES, strict=True)]
    slope = jax.jit(jax.vmap(jax.grad(dual.K, argnums=1)))(*columns)
    want = np.asarray(dual.Kdot(*columns))
    # 1e-11: the quotients 1 / sqrt(1 - rho^2) amplify rounding by up to 100 at rho = -0.99.
    np.testing.assert_allclose(slope, want, rtol=1e-11, atol=1e-12 * np.abs(want).max())


def check_diagonal_slope(dual: Dual) -> None:
    """d eps_out / d eps = s1 s2 Kdot / sqrt(K11 K22), also on the diagonal (not halved there)."""
    q, eps = (
        x.ravel() for x in jnp.meshgrid(jnp.array([0.4, 1.0, 2.5]), jnp.array([0, 1e-9, 0.6]))
    )
    slope = jax.jit(jax.vmap(jax.grad(lambda q, e: dual.kernel(q, q, e)[2], argnums=1)))(q, eps)
    want = np.asarray(q * dual.kernel(q, q, eps)[1] / dual.variance(q))
    np.testing.assert_allclose(slope, want, rtol=1e-12, atol=1e-13)  # rounding of O(1) sums


def check_derivatives(dual: Dual, dtype: Any) -> None:
    """Values, gradients and Hessians in q1, q2, eps and the parameters are finite everywhere.

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

    def derivatives(point: Any) -> Any:
        arguments = (point, leaves)
        direction = jax.tree.map(lambda x: jnp.ones_like(x) * 0.3, arguments)
        value = combined(arguments)
        return value, jax.jvp(jax.grad(combined), (arguments,), (direction,))

    for leaf in jax.tree.leaves(jax.jit(jax.vmap(derivatives))(points)):
        assert leaf.dtype == dtype
        bad = ~np.isfinite(np.asarray(leaf))
        assert not bad.any(), (dual, np.argwhere(bad)[:5])


def check_zeros(case: Case, kinks: tuple[float, ...] = ()) -> None:
    """A zero input has K = f(0) E f(y), and gap 1 - K / sqrt(K11 K22), or 1 where that is 0 / 0."""
    start = float(np.asarray(case.f(np.zeros(1)))[0])
    for dtype, rtol in ((np.float64, 1e-13), (np.float32, 1e-6)):
        K, Kdot, gap = evaluate(case.dual, ZEROS, dtype)
        for (q1, q2, _), k, dot, g in zip(ZEROS, K, Kdot, gap, strict=True):
            means = [mean_quadrature(case.f, q, kinks) if q else start for q in (q1, q2)]
            roots = [
                mean_quadrature(lambda x: case.f(x) ** 2, q, kinks) if q else start**2
                for q in (q1, q2)
            ]
            want = means[0] * means[1]
            np.testing.assert_allclose(k, want, rtol=rtol, atol=1e-15)
            norm = np.sqrt(roots[0] * roots[1])
            np.testing.assert_allclose(g, 1 - want / norm if norm else 1.0, rtol=rtol, atol=rtol)
            assert np.isfinite(dot)


def check_properties(dual: Dual, q1: float, q2: float, eps: float, dtype: Any) -> None:
    """Cauchy-Schwarz, symmetry, range and consistency of the gap."""
    point = np.array([(q1, q2, eps), (q2, q1, eps)], dtype)
    K, Kdot, gap = evaluate(dual, point, dtype)
    rounding = 20 * float(np.finfo(dtype).eps)
    bound = np.sqrt(np.asarray(dual.variance(point[0, 0]))) * np.sqrt(
        np.asarray(dual.variance(point[0, 1]))
    )
    assert abs(K[0]) <= bound * (1 + rounding)
    np.testing.assert_allclose(K[0], K[1], rtol=rounding, atol=rounding * bound)
    np.testing.assert_allclose(gap[0], gap[1], rtol=rounding, atol=rounding)
    assert np.all((gap >= 0) & (gap <= 2))
    assert np.all(np.isfinite(Kdot))
    if q1 * q2 > 0 and bound > 0:
        np.testing.assert_allclose(K[0], (1 - gap[0]) * bound, rtol=rounding, atol=rounding * bound)
