"""Piecewise-linear duals against panel quadrature, closed forms, and their limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplimits.errors import DomainError, ShapeError
from ntk.arccosine import ABRelu
from ntk.piecewise import (
    PiecewiseLinear,
    clip,
    hard_sigmoid,
    hard_tanh,
    relu6,
    soft_shrink,
    triangle,
)

from . import dual_checks as checks
from .rotated_reference import check, check_gradients

#: Two knots compile once; the last has three.
DUALS = {
    "hard_tanh": hard_tanh(),
    "relu6": relu6(),
    "hard_sigmoid": hard_sigmoid(),
    "soft_shrink": soft_shrink(),
    "uneven": PiecewiseLinear((-0.3, 1.1), (0.2, -1.0, 2.0), 0.7),
    "triangle": triangle(),
}
#: Beyond the shared points: nearly equal knots in standard units, small and large variances.
MORE = [(1.0, 1.002, 1e-4), (1.0, 1.0, 1e-8), (1e-4, 2e-4, 0.5), (50.0, 20.0, 0.7), (1.0, 1.0, 0.3)]


def numpy_functions(dual):
    """Value and slope by interpolation, independent of the dual's own formula."""
    knots = np.array(dual.knots)
    ends = np.concatenate([[min(knots[0], 0) - 1], knots, [max(knots[-1], 0) + 1]])
    slopes = np.array(dual.slopes)

    def integral(x):
        x = np.asarray(x, float)
        total = slopes[0] * np.minimum(x - ends[1], 0) + slopes[-1] * np.maximum(x - ends[-2], 0)
        for a, b, slope in zip(ends[1:-2], ends[2:-1], slopes[1:-1], strict=True):
            total = total + slope * (np.clip(x, a, b) - a)
        return total

    return (
        lambda x: integral(x) - integral(0.0) + dual.at_zero,
        lambda x: slopes[np.searchsorted(knots, x)],
    )


@pytest.mark.parametrize("name", DUALS)
def test_function(name):
    dual = DUALS[name]
    f, df = numpy_functions(dual)
    x = np.linspace(-7, 7, 301) + 1e-3
    # the two summation orders differ by rounding
    np.testing.assert_allclose(dual.fn(jnp.asarray(x)), f(x), rtol=1e-14, atol=1e-14)
    np.testing.assert_array_equal(dual.slope(jnp.asarray(x)), df(x))


def test_known_functions():
    x = jnp.linspace(-8, 8, 999)
    for dual, want in (
        (hard_tanh(), jax.nn.hard_tanh(x)),
        (relu6(), jax.nn.relu6(x)),
        (hard_sigmoid(), jax.nn.hard_sigmoid(x)),
        (soft_shrink(0.7), jnp.sign(x) * jnp.maximum(jnp.abs(x) - 0.7, 0)),
        (triangle(2.0), jnp.maximum(1 - jnp.abs(x) / 2, 0)),
        (clip(0.5, 2.0), jnp.clip(x, 0.5, 2.0)),
    ):
        np.testing.assert_allclose(dual.fn(x), want, rtol=1e-14, atol=1e-15)  # rounding


@pytest.mark.parametrize("name", DUALS)
def test_generic_covariances(name):
    f, df = numpy_functions(DUALS[name])
    case = checks.Case(DUALS[name], f, df, textbook=lambda *_: None)
    assert checks.quadrature_error(case, DUALS[name].knots).ratio <= 1


@pytest.mark.parametrize("name", ["hard_tanh", "relu6", "uneven", "triangle"])
@pytest.mark.optimized
def test_delicate_points(name):
    f, df = numpy_functions(DUALS[name])
    points = np.concatenate([checks.POINTS, MORE])
    # 1e-12 is what is promised; measured 3e-14
    check(DUALS[name], f, df, points, np.float64, 1e-12, DUALS[name].knots)


@pytest.mark.parametrize("name", ["relu6", "uneven"])
@pytest.mark.optimized
def test_float32(name):
    f, df = numpy_functions(DUALS[name])
    points = np.concatenate([checks.POINTS, MORE])
    check(DUALS[name], f, df, points, np.float32, 1e-6, DUALS[name].knots)


def test_zero_variance():
    f, df = numpy_functions(relu6())
    assert (
        checks.zero_error(
            checks.Case(relu6(), f, df, textbook=lambda *_: None), relu6().knots
        ).ratio
        <= 1
    )
    # slope at a knot: the average of both sides, the limit of small variances
    assert float(relu6().kernel(0.0, 0.0, 1.0)[1]) == pytest.approx(0.25, rel=1e-14)


def test_one_knot_is_abrelu():
    points = np.concatenate([checks.POINTS, checks.ZEROS]).T
    exact = ABRelu(0.2, 1.7).kernel(*map(jnp.asarray, points))
    found = PiecewiseLinear((0.0,), (0.2, 1.7)).kernel(*map(jnp.asarray, points))
    for a, b in zip(found, exact, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-15)  # rounding of O(1) sums


def test_no_knots_is_linear():
    K, Kdot, gap = PiecewiseLinear((), (3.0,)).kernel(
        jnp.array(2.0), jnp.array(0.5), jnp.array(0.3)
    )
    np.testing.assert_allclose([K, Kdot, gap], [9 * 0.7, 9, 0.3], rtol=1e-14)  # rounding


def test_wide_clip_is_linear():
    K, Kdot, _ = clip(-30.0, 30.0).kernel(jnp.array(1.0), jnp.array(1.0), jnp.array(0.4))
    np.testing.assert_allclose([K, Kdot], [0.6, 1.0], rtol=1e-14)  # P(|x| > 30) = 1e-197


def test_price():
    assert checks.price_error(hard_tanh()).ratio <= 1


def test_gradients_are_finite_in_float32():
    check_gradients(relu6(), np.float32)  # in float64 the next test takes them too


@pytest.mark.slow
def test_second_derivatives_are_finite():
    assert np.isfinite(checks.derivatives(relu6(), np.float64)).all()


def test_gradient_in_parameters():
    at, point, step = ((-0.3, 1.1), (0.2, -1.0, 2.0)), (1.1, 0.7, 0.4), 1e-5

    def K(knots, slopes):
        dual = PiecewiseLinear(tuple(knots), tuple(slopes), 0.3)
        return checks.evaluate(dual, np.array([point]), np.float64)[0][0]

    slope = jax.jit(jax.grad(lambda *a: PiecewiseLinear(*a, 0.3).kernel(*point)[0], argnums=(0, 1)))
    found = slope(*at)
    for part in (0, 1):
        for i in range(len(at[part])):
            ends = []
            for sign in (-1, 1):
                moved = [list(a) for a in at]
                moved[part][i] += sign * step
                ends.append(K(*moved))
            # central differences: truncation step^2 and rounding 1e-16 / step, both about 1e-10
            assert float(found[part][i]) == pytest.approx(
                (ends[1] - ends[0]) / (2 * step), abs=1e-8
            )


def test_errors():
    with pytest.raises(ShapeError, match="one more entry than knots"):
        PiecewiseLinear((0.0,), (1.0,))
    with pytest.raises(DomainError, match="knots must increase"):
        PiecewiseLinear((1.0, 0.0), (1.0, 2.0, 3.0))
    with pytest.raises(DomainError, match=r"slopes\[0\] must be finite"):
        PiecewiseLinear((0.0,), (np.nan, 1.0))
    with pytest.raises(DomainError, match="low < high"):
        clip(1.0, -1.0)
    with pytest.raises(DomainError, match="threshold must be > 0"):
        soft_shrink(-1.0)
    with pytest.raises(DomainError, match="width must be > 0"):
        triangle(0.0)
