"""Branches and folds on problems with known answers (Ising, x^2 = lambda, Hopfield)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import erf

from deeplimits.continuation import arclength_continuation, continuation, find_fold
from deeplimits.errors import ConvergenceError, DomainError, PrecisionError, ShapeError
from deeplimits.gaussian import trapezoid_rule
from deeplimits.roots import fixed_point


def parabola(x, parameter):
    """Fixed points at +-sqrt(parameter); the positive one is stable."""
    return x + parameter - x**2


def ising(m, temperature):
    return jnp.tanh(m / temperature)


def hopfield_at_zero(y, alpha):
    """Retrieval at T = 0 in y = m/sqrt(2 alpha r)."""
    return erf(y) / (jnp.sqrt(2 * alpha) + 2 / jnp.sqrt(jnp.pi) * jnp.exp(-(y**2)))


NODES, WEIGHTS = trapezoid_rule(801)  # enough for T >= 0.05: h = 0.024, pole at 0.2


def hopfield(x, temperature, alpha):
    m, q = x
    beta = 1 / temperature
    noise = jnp.sqrt(alpha * q) / (1 - beta * (1 - q))
    field = jnp.tanh(beta * (m + noise * NODES))
    return jnp.stack([WEIGHTS @ field, WEIGHTS @ field**2])


def test_natural_continuation_stops_at_the_fold():
    path = continuation(parabola, 1.0, np.linspace(1, -0.5, 16), branch="upper")
    exists = path.parameter >= -1e-12
    np.testing.assert_array_equal(path.points.converged, exists & (path.parameter > 1e-12))
    kept = path.points.converged
    np.testing.assert_allclose(path.x[kept], np.sqrt(path.parameter[kept]), rtol=1e-12)
    assert np.isnan(path.x[~kept]).all()
    assert path.branch == path.points.branch == "upper"
    np.testing.assert_allclose(path.fold_parameter, [0], atol=1e-12)  # tol
    np.testing.assert_allclose(path.fold_x, [0], atol=1e-12)
    assert 0 < path.end < 0.1


def test_continuation_does_not_fall_onto_another_branch():
    """Past T = 1 only m = 0 is left; a warm-started iteration would return it."""
    path = continuation(ising, 1.0, np.linspace(0.3, 1.5, 13))
    kept = path.points.converged
    np.testing.assert_array_equal(kept, path.parameter < 0.999)
    want = [fixed_point(ising, 1.0, args=t).x for t in path.parameter[kept]]
    np.testing.assert_allclose(path.x[kept], want, rtol=1e-11)  # tol over 1 - f' >= 0.2
    assert path.stable[kept].all()
    assert abs(path.end - 1) < 1e-6
    assert path.fold_parameter.size == 0


def test_continuation_follows_a_symmetric_branch_through_a_bifurcation():
    path = continuation(ising, 0.0, np.linspace(1.5, 0.5, 11))
    np.testing.assert_array_equal(path.x, np.zeros(11))
    np.testing.assert_array_equal(path.stable[path.parameter > 1.01], True)
    np.testing.assert_array_equal(path.stable[path.parameter < 0.99], False)


def test_hopfield_capacity_is_the_fold():
    path = continuation(hopfield_at_zero, 4.0, np.linspace(0.02, 0.2, 10))
    np.testing.assert_allclose(path.fold_parameter, [0.137905566], atol=1e-9)  # published digits
    around = arclength_continuation(
        hopfield_at_zero, 4.0, 0.02, step=0.1, parameter_range=(0.001, 0.3)
    )
    np.testing.assert_allclose(around.fold_parameter, path.fold_parameter, rtol=1e-12)
    np.testing.assert_allclose(around.fold_x, path.fold_x, rtol=1e-7)  # sqrt(tol) at a fold


def test_arclength_passes_folds():
    path = arclength_continuation(
        parabola, 1.0, 1.0, step=0.1, direction=-1, parameter_range=(-1, 1)
    )
    np.testing.assert_allclose(path.x**2, path.parameter, atol=1e-12)  # tol
    assert path.x[0] == 1
    assert path.x[-1] < -0.9
    # The map x -> x + lambda - x^2 has slope 1 - 2 x.
    np.testing.assert_array_equal(path.stable, np.abs(1 - 2 * path.x) < 1)
    np.testing.assert_allclose(path.fold_parameter, [0], atol=1e-12)
    steps = np.hypot(np.diff(path.x), np.diff(path.parameter))
    assert steps.max() <= 0.1 * (1 + 0.1)  # the chord is at most the arc, plus the corrector


def test_arclength_finds_both_folds_of_a_hysteresis_loop():
    path = arclength_continuation(
        lambda x, p: x - (x**3 - x - p),
        -1.5,
        -1.2,
        step=0.05,
        n_points=300,
        parameter_range=(-1.5, 1.5),
    )
    want = 2 / np.sqrt(27)
    np.testing.assert_allclose(path.fold_parameter, [want, -want], rtol=1e-12)
    np.testing.assert_allclose(path.fold_x, [-1 / np.sqrt(3), 1 / np.sqrt(3)], rtol=1e-12)
    assert path.end > 1.4


@pytest.mark.parametrize(
    ("alpha", "spinodal", "overlap"),
    [(0.05, 0.5422550379, 0.82028812), (0.12, 0.2150873586, 0.94830722)],
)
def test_find_fold(alpha, spinodal, overlap):
    """Retrieval spinodal T_M(alpha), values from the explicit (u, v) parametrisation."""
    start = fixed_point(hopfield_fixed, [0.99, 0.99], args=(0.97 * spinodal, alpha)).x
    fold = find_fold(hopfield, start, 0.97 * spinodal, args=alpha)
    np.testing.assert_allclose(fold.parameter, spinodal, atol=1e-10)  # the digits that are known
    np.testing.assert_allclose(fold.x[0], overlap, atol=1e-8)
    assert bool(fold.converged)


def hopfield_fixed(x, args):
    return hopfield(x, *args)


def test_slope_of_the_spinodal_line():
    def spinodal(alpha):
        return find_fold(hopfield, jnp.array([0.82, 0.726]), 0.542, args=alpha).parameter

    slope = jax.grad(spinodal)(0.05)
    line = jax.vmap(spinodal)(jnp.array([0.0499, 0.0501]))
    # Central difference: 1e-8 T''' / 6, T''' about 1e3.
    np.testing.assert_allclose(slope, (line[1] - line[0]) / 2e-4, rtol=1e-5)


def test_hopfield_reentrance_needs_scans_in_alpha():
    """alpha_M(T = 0.05) = 0.137793958, below the maximum of the re-entrant line."""
    path = continuation(
        lambda x, alpha, t: hopfield(x, t, alpha),
        [0.99, 0.99],
        np.linspace(0.05, 0.15, 6),
        args=0.05,
    )
    np.testing.assert_allclose(path.fold_parameter, [0.137793958], atol=1e-9)  # known digits
    np.testing.assert_array_equal(path.points.converged, path.parameter < 0.1378)
    assert path.x.shape == (6, 2)
    assert path.fold_x.shape == (1, 2)


def natural(parameters, f=parabola, x0=1.0, **options):
    return continuation(f, x0, parameters, **options)


def around(parameter, step=0.1, n_points=5, **options):
    return arclength_continuation(parabola, 1.0, parameter, step=step, n_points=n_points, **options)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: natural([1.0]), ShapeError, "n >= 2"),
        (lambda: natural([1.0, np.nan]), DomainError, "parameters must be finite"),
        (lambda: natural([1.0, 0.5, 0.7]), DomainError, "strictly"),
        (lambda: natural([1.0, 2.0], x0=np.inf), DomainError, "the start must be finite"),
        (lambda: natural([1.0, 2.0], tol=0.0), DomainError, "tol must be"),
        (lambda: natural([1.0, 2.0], max_steps=0), DomainError, "max_steps must be"),
        (lambda: natural([1.0, 2.0], f=lambda x, p: x[None]), ShapeError, "one array of the shape"),
        (lambda: natural([-1.0, 1.0]), ConvergenceError, "first parameter -1"),
        (lambda: around(1.0, step=0.0), DomainError, "step must be > 0"),
        (lambda: around(np.nan), DomainError, "parameter must be"),
        (lambda: around(1.0, direction=0), DomainError, "direction must be 1 or -1"),
        (lambda: around(1.0, n_points=1), DomainError, "n_points must be >= 2"),
        (lambda: around(-1.0), ConvergenceError, "first parameter -1"),
        (lambda: around(1.0, parameter_range=(1.0, 1.0)), ConvergenceError, "no step away"),
        (lambda: find_fold(lambda x, p: x * 0.5 + p, 0.3, 0.1), ConvergenceError, "Start nearer"),
        (lambda: find_fold(parabola, 0.1, np.nan), DomainError, "parameter must be finite"),
        (lambda: find_fold(parabola, 0.1, 0.0, on_fail="x"), DomainError, "on_fail must be"),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_find_fold_can_return_nan():
    fold = find_fold(lambda x, p: x * 0.5 + p, 0.3, 0.1, on_fail="nan")
    assert np.isnan(fold.parameter)
    assert not bool(fold.converged)


def test_needs_x64():
    with jax.enable_x64(False), pytest.raises(PrecisionError, match="continuation needs float64"):
        continuation(parabola, 1.0, [1.0, 0.5])
