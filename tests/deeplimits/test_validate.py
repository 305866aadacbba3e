"""Boundary checks: what passes keeps its values and dtype, what is wrong is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deeplimits import validate
from deeplimits.errors import DataError, DomainError, ShapeError

FINITE = st.floats(-1e300, 1e300)
SHAPES = hnp.array_shapes(min_dims=2, max_dims=4, max_side=4)


@given(hnp.arrays(np.float64, SHAPES, elements=FINITE))
def test_as_inputs_returns_finite_float_arrays_unchanged(x):
    assert validate.as_inputs(x) is x
    assert np.array_equal(validate.as_inputs(x.tolist()), x)


@given(hnp.arrays(hnp.integer_dtypes(sizes=(8, 16, 32)) | hnp.boolean_dtypes(), SHAPES))
def test_as_inputs_promotes_integers_and_booleans_exactly(x):
    converted = validate.as_inputs(x)
    assert converted.dtype == np.float64
    assert np.array_equal(converted, x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, jnp.bfloat16])
@pytest.mark.parametrize("module", [np, jnp])
def test_as_inputs_keeps_floating_dtype_and_library(module, dtype):
    x = module.ones((2, 3), dtype)
    assert validate.as_inputs(x) is x


def test_as_inputs_without_x64_promotes_integers_to_float32():
    with jax.enable_x64(False):
        assert validate.as_inputs([[1, 2]]).dtype == np.float32


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (1.0, ShapeError, r"x must have shape \(n, d\), got a scalar. Use np.array\(\[\[x\]\]\)"),
        ([1.0, 2.0], ShapeError, r"got shape \(2,\).*use x\[:, None\].*use x\[None, :\]"),
        (np.ones((0, 3)), ShapeError, r"x must not be empty, got shape \(0, 3\)"),
        (np.ones((3, 0)), ShapeError, r"x must not be empty, got shape \(3, 0\)"),
        ([[1, 2], [3]], ShapeError, "x must be a rectangular array of numbers"),
        ([["a"]], DomainError, "x must hold real numbers, got dtype <U1"),
        ([[None]], DomainError, "x must hold real numbers, got dtype object"),
        (np.zeros((1, 1), "M8[s]"), DomainError, "x must hold real numbers, got dtype datetime64"),
        (np.zeros((1, 1), "m8[s]"), DomainError, "x must hold real numbers, got dtype timedelta64"),
        (np.zeros((1, 1), [("a", "f8")]), DomainError, "x must hold real numbers"),
        (jax.random.split(jax.random.key(0), (2, 2)), DomainError, r"got dtype key<fry>"),
        (np.ma.masked_array(np.ones((2, 2)), np.eye(2)), DomainError, "must not be a masked array"),
        ([[1j]], DomainError, "x must be real, got dtype complex128"),
        ([[0.0, np.nan]], DomainError, r"x must be finite, got nan at index \(0, 1\) \(1 such"),
        (jnp.full((2, 2), -jnp.inf), DomainError, r"got -inf at index \(0, 0\) \(4 such entries"),
    ],
)
def test_as_inputs_errors(x, error, message):
    with pytest.raises(error, match=message):
        validate.as_inputs(x)


def test_is_traced_inside_transformations_only():
    assert not validate.is_traced(jnp.ones(2))
    assert not validate.is_traced(np.ones(2))
    assert not validate.is_traced(1.0)
    deleted = jnp.ones(2)
    deleted.delete()
    assert not validate.is_traced(deleted)
    seen = []

    def f(x):
        seen.append(validate.is_traced(x))
        return x.sum()

    x = jnp.ones((2, 2))
    jax.jit(f)(x)
    jax.grad(f)(x)
    jax.vmap(f)(x)
    jax.jvp(f, (x,), (x,))
    assert seen == [True] * 4


def test_tracers_are_checked_for_shape_only():
    assert jax.jit(validate.as_inputs)(jnp.full((2, 2), jnp.nan)).shape == (2, 2)
    assert jax.jit(validate.as_square)(jnp.array([[0.0, 1.0], [2.0, 0.0]])).shape == (2, 2)
    assert jax.jit(lambda t: validate.number(t, "t", above=0.0))(-1.0) == -1.0
    with pytest.raises(ShapeError, match=r"use x\[:, None\]"):
        jax.jit(validate.as_inputs)(jnp.ones(3))


def test_finite():
    assert validate.finite(np.ones(3), "x") is None
    with pytest.raises(DomainError, match=r"K must be finite, got inf at index \(1,\)"):
        validate.finite(np.array([0.0, np.inf]), "K")


def test_same_features():
    validate.same_features(np.ones((2, 3, 4)), np.ones((5, 3, 4)))
    with pytest.raises(ShapeError, match=r"X and Z must agree .* \(2, 3\) and \(2, 4\)"):
        validate.same_features(np.ones((2, 3)), np.ones((2, 4)), ("X", "Z"))


@given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=1, max_dims=2), elements=FINITE))
def test_as_targets_is_always_two_dimensional(y):
    targets = validate.as_targets(y, len(y))
    assert targets.ndim == 2
    assert np.array_equal(targets.ravel(), y.ravel())


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        ([1.0, 2.0], ShapeError, r"y must have shape \(3,\) or \(3, outputs\).*got \(2, 1\)"),
        (1.0, ShapeError, r"got \(\)"),
        (np.ones((3, 1, 1)), ShapeError, r"got \(3, 1, 1\)"),
        (np.ones((3, 0)), ShapeError, r"got \(3, 0\)"),
        ([1.0, np.nan, 2.0], DomainError, "y must be finite, got nan"),
        ([1j, 0, 0], DomainError, "y must be real"),
        (["a", "b", "c"], DomainError, "y must hold real numbers"),
    ],
)
def test_as_targets_errors(y, error, message):
    with pytest.raises(error, match=message):
        validate.as_targets(y, 3)


@given(hnp.arrays(np.float64, st.integers(1, 5).map(lambda n: (n, n)), elements=st.floats(-1, 1)))
def test_as_square_accepts_exactly_the_symmetric(a):
    symmetric = a + a.T
    assert validate.as_square(symmetric) is symmetric
    assert validate.as_square(a, symmetric=False) is a
    gap, scale = np.abs(a - a.T).max(), np.abs(a).max()
    if gap > 1e-7 * scale:  # ten times the tolerance of as_square
        with pytest.raises(DomainError, match=r"\|K - K.T\| reaches"):
            validate.as_square(a)


@pytest.mark.parametrize(("dtype", "gap"), [(np.float32, 1e-4), (np.float64, 1e-8)])
def test_as_square_tolerance(dtype, gap):
    for factor, fails in ((0.5, False), (2.0, True)):
        matrix = np.array([[1.0, 0.0], [factor * gap, 1.0]], dtype)
        if fails:
            with pytest.raises(DomainError, match="must be symmetric"):
                validate.as_square(matrix)
        else:
            validate.as_square(matrix)


@pytest.mark.parametrize(
    ("matrix", "error", "message"),
    [
        (np.ones(3), ShapeError, r"K must be a square matrix, got shape \(3,\)"),
        (np.ones((2, 3)), ShapeError, r"K must be a square matrix, got shape \(2, 3\)"),
        (np.ones((0, 0)), ShapeError, r"K must not be empty, got shape \(0, 0\)"),
        ([[np.nan]], DomainError, "K must be finite"),
        ([[0.0, 1.0], [2.0, 0.0]], DomainError, "reaches 1 .largest entry 2.*Symmetrise it"),
    ],
)
def test_as_square_errors(matrix, error, message):
    with pytest.raises(error, match=message):
        validate.as_square(matrix)


@given(FINITE, st.floats(-1e3, 1e3))
def test_number_bounds(value, bound):
    cases = {
        "above": (value > bound, ">"),
        "at_least": (value >= bound, ">="),
        "below": (value < bound, "<"),
        "at_most": (value <= bound, "<="),
    }
    for keyword, (holds, sign) in cases.items():
        if holds:
            assert validate.number(value, "T", **{keyword: bound}) == value
        else:
            with pytest.raises(DomainError, match=f"T must be {sign} "):
                validate.number(value, "T", **{keyword: bound})


@pytest.mark.parametrize(
    "value",
    [1, 1.5, True, np.float32(2), np.int64(3), np.array(1.0), jnp.array(2.0), jnp.bfloat16(1)],
)
def test_number_returns_what_it_got(value):
    assert validate.number(value, "T", at_least=1, at_most=3) is value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1.0], r"T must be one real number, got \[1.0\]"),
        ([[1], [2, 3]], "T must be one real number"),
        (np.ones(1), "T must be one real number"),
        ("1", "T must be one real number, got '1'"),
        (None, "T must be one real number, got None"),
        (1j, "T must be one real number, got 1j"),
        (np.timedelta64(1, "s"), "T must be one real number"),
        (jax.random.key(0), "T must be one real number"),
        (np.nan, "T must be finite, got nan"),
        (np.inf, "T must be finite, got inf"),
        (2.5, "T must be > 0 and <= 2, got 2.5"),
        (0, "T must be > 0 and <= 2, got 0"),
    ],
)
def test_number_errors(value, message):
    with pytest.raises(DomainError, match=message):
        validate.number(value, "T", above=0, at_most=2)


def test_integer():
    assert validate.integer(np.int32(3), "k", at_least=3) == 3
    assert type(validate.integer(np.int32(3), "k")) is int
    for value in (True, 2.0, "2", None):
        with pytest.raises(DomainError, match="k must be an integer, got"):
            validate.integer(value, "k")
    with pytest.raises(DomainError, match="k must be >= 1, got 0"):
        validate.integer(0, "k", at_least=1)


def test_choice():
    assert validate.choice("a", "get", ("a", "b")) == "a"
    for value in ("c", None, ["a"]):
        with pytest.raises(DomainError, match="get must be one of 'a', 'b'; got"):
            validate.choice(value, "get", ("a", "b"))


@given(st.integers(0, 2**32 - 1))
def test_as_key_converts_seeds_alike_in_both_precisions(seed):
    data = jax.random.key_data(validate.as_key(seed))
    assert np.array_equal(data, jax.random.key_data(validate.as_key(np.uint32(seed))))
    with jax.enable_x64(False):
        assert np.array_equal(data, jax.random.key_data(validate.as_key(seed)))


def test_as_key_accepts_both_kinds_of_key():
    key = jax.random.key(1)
    assert validate.as_key(key) is key
    old = validate.as_key(jax.random.PRNGKey(1))
    assert np.array_equal(jax.random.key_data(old), jax.random.key_data(key))
    assert jax.jit(lambda k: jax.random.key_data(validate.as_key(k)))(key).shape == (2,)


@pytest.mark.parametrize(
    "key",
    [
        None,
        -1,
        2**32,
        1.0,
        True,
        "0",
        np.zeros(2, np.uint32),
        jnp.zeros(2),
        jax.random.split(jax.random.key(0)),
    ],
)
def test_as_key_errors(key):
    with pytest.raises(DomainError, match=r"key must be one jax.random.key or an integer in 0\.\."):
        validate.as_key(key)


def test_check():
    validate.check(True, "fine")
    with pytest.raises(DataError, match="broken"):
        validate.check(False, "broken")
    with pytest.raises(ShapeError, match="broken"):
        validate.check(False, "broken", ShapeError)
