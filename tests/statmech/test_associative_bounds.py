"""Rigorous bounds of continuous Hopfield networks, against brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplimits.errors import DomainError, ShapeError
from statmech import associative

RNG = np.random.default_rng(3)
X = RNG.normal(size=(10, 5))
STATES = 2 * RNG.normal(size=(40, 5))


def test_jacobian():
    brute = jax.vmap(jax.jacfwd(lambda s: associative.update(X, s, beta=0.7)))(jnp.asarray(STATES))
    found = associative.jacobian(X, STATES, beta=0.7)
    np.testing.assert_allclose(found, brute, atol=1e-14)  # rounding of entries of order one
    np.testing.assert_allclose(associative.jacobian(X, STATES[0], beta=0.7), brute[0], atol=1e-14)


def test_jacobian_bounds():
    bounds = associative.jacobian_bounds(X, beta=0.7)
    norms = np.linalg.norm(np.asarray(associative.jacobian(X, STATES, beta=0.7)), 2, axis=(1, 2))
    assert norms.max() <= float(bounds.best)
    pairs = np.linalg.norm(X[:, None] - X[None], axis=-1)
    assert float(bounds.diameter) == pytest.approx(0.7 * pairs.max() ** 2 / 4, rel=1e-13)
    centred = np.linalg.norm(X - X.mean(0), axis=1)
    assert float(bounds.mean) == pytest.approx(0.7 * centred.max() ** 2, rel=1e-13)
    # two patterns: the bound by the diameter is attained half way between them
    two = X[:2]
    attained = np.linalg.norm(np.asarray(associative.jacobian(two, two.mean(0) * 0)), 2)
    middle = (two[0] + two[1]) / 2
    equal = middle - (two[0] - two[1]) * ((two[0] - two[1]) @ middle) / np.sum(
        (two[0] - two[1]) ** 2
    )
    attained = np.linalg.norm(np.asarray(associative.jacobian(two, equal)), 2)
    assert attained == pytest.approx(float(associative.jacobian_bounds(two).diameter), rel=1e-12)


def test_unique_global_fixed_point():
    edge = float(associative.jacobian_bounds(X).unique_below)
    below = np.asarray(associative.retrieve(X, STATES, beta=0.98 * edge).states)
    assert np.abs(below - below[:1]).max() < 1e-8  # the tolerance of retrieve over 1 - 0.98
    # for two opposite patterns the bound is sharp: above it there are two more fixed points
    two = np.array([[1.0, 0.0], [-1.0, 0.0]])
    edge = float(associative.jacobian_bounds(two).unique_below)
    assert edge == pytest.approx(1.0)
    ends = np.asarray(associative.retrieve(two, 0.9 * two, beta=1.1 * edge).states)
    assert ends[0, 0] > 0.4
    assert ends[1, 0] == pytest.approx(-ends[0, 0], rel=1e-9)


def well_separated(seed):
    rng = np.random.default_rng(seed)
    patterns = rng.normal(size=(40, 32))
    return 4 * patterns / np.linalg.norm(patterns, axis=1, keepdims=True)


def test_well_separation():
    """Where the condition holds, the sphere holds one fixed point, and the update contracts it."""
    for seed in range(4):
        patterns = well_separated(seed)
        found = associative.well_separation(patterns, beta=3.0)
        M, n = 4.0, 40
        expected = 2 / (3 * n) + np.log(2 * (n - 1) * n * 3 * M**2) / 3
        assert float(found.required) == pytest.approx(expected, rel=1e-14)
        assert float(found.radius) == pytest.approx(1 / (3 * n * M), rel=1e-14)
        inside = np.flatnonzero(np.asarray(found.holds))
        assert inside.size > 10  # the condition is not vacuous
        x = patterns[inside]
        star = np.asarray(associative.retrieve(patterns, x, beta=3.0, tol=1e-13).states)
        assert np.linalg.norm(star - x, axis=1).max() < float(found.radius)
        push = np.random.default_rng(seed).normal(size=x.shape)
        push *= float(found.radius) / np.linalg.norm(push, axis=1, keepdims=True)
        again = np.asarray(associative.retrieve(patterns, x + push, beta=3.0, tol=1e-13).states)
        # the tolerance, times entries of 4
        np.testing.assert_allclose(again, star, atol=1e-11)


def test_bounds_are_never_violated():
    counted = 0
    for seed in range(4):
        patterns = well_separated(seed)
        index = np.tile(np.arange(40), 5)
        x = patterns[index]
        star = np.asarray(associative.retrieve(patterns, x, beta=1.0, tol=1e-13).states)
        push = np.random.default_rng(seed).normal(size=x.shape)
        size = np.repeat([0.01, 0.1, 0.3, 0.6, 1.0], 40)[:, None]
        states = x + size * push / np.linalg.norm(push, axis=1, keepdims=True)
        bounds = associative.update_bounds(patterns, states, index, star, beta=1.0)
        image = np.asarray(associative.update(patterns, states, beta=1.0))
        error = np.linalg.norm(image - x, axis=1)
        left = np.linalg.norm(image - star, axis=1)
        rounding = 1e-13
        assert np.all(error <= np.asarray(bounds.error) + rounding)
        assert np.all(left <= np.asarray(bounds.distance) + rounding)
        counted += int(np.sum(np.asarray(bounds.error) < 1))
    assert counted > 20  # bounds that say something


def test_error_bound_against_its_formula():
    patterns = well_separated(0)
    state = patterns[3] + 0.05
    gap = float(associative.separation(patterns)[3])
    reach = np.linalg.norm(state - patterns[3])
    small = 39 * np.exp(-2.0 * (gap - 2 * reach * 4))
    found = associative.update_bounds(patterns, state, 3, beta=2.0)
    assert float(found.error) == pytest.approx(2 * 4 * small, rel=1e-11)
    assert float(found.contraction) == pytest.approx(2 * 2 * 40 * 16 * small, rel=1e-11)
    assert float(found.distance) == pytest.approx(float(found.contraction) * reach, rel=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: associative.jacobian(X, X, beta=0), DomainError, "beta must be > 0"),
        (lambda: associative.jacobian_bounds(X, beta=0), DomainError, "beta must be > 0"),
        (lambda: associative.jacobian_bounds(X[:1]), ShapeError, "at least 2 rows"),
        (lambda: associative.well_separation(X, beta=-1), DomainError, "beta must be > 0"),
        (lambda: associative.update_bounds(X, X, 10), DomainError, r"index must be in 0\.\.9"),
        (lambda: associative.update_bounds(X, X, 1.5), DomainError, "index must hold integers"),
        (lambda: associative.update_bounds(X, X, [1, 2]), ShapeError, "index must have the shape"),
        (lambda: associative.update_bounds(X, X, 1, X[:, 1:]), ShapeError, "states must have"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
