"""Precision policy: the float64 scope holds inside and ends outside, x64 or not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplimits import precision
from deeplimits.errors import PrecisionError

THIRD = 1.0 / 3.0


@precision.float64_scope
def thirds(n, *, scale=1.0):
    """Doc of the wrapped function."""
    return jnp.full(n, THIRD) * scale


@pytest.mark.parametrize("x64", [True, False])
def test_x64_enabled_follows_the_switch(x64):
    with jax.enable_x64(x64):
        assert precision.x64_enabled() is x64
    assert precision.x64_enabled()


def test_require_x64():
    precision.require_x64("continuation")
    with (
        jax.enable_x64(False),
        pytest.raises(PrecisionError, match=r"continuation needs float64.*jax_enable_x64\", True"),
    ):
        precision.require_x64("continuation")


@pytest.mark.parametrize("x64", [True, False])
def test_float64_scope_computes_in_float64(x64):
    with jax.enable_x64(x64):
        value = np.asarray(thirds(2, scale=3.0))
        assert precision.x64_enabled() is x64
    assert value.dtype == np.float64
    assert np.array_equal(value, [1.0, 1.0])


def test_float64_scope_ends_after_an_error():
    @precision.float64_scope
    def fail():
        assert precision.x64_enabled()
        raise KeyError("inside")

    with jax.enable_x64(False):
        with pytest.raises(KeyError, match="inside"):
            fail()
        assert not precision.x64_enabled()


def test_float64_scope_keeps_name_and_documentation():
    assert thirds.__name__ == "thirds"
    assert thirds.__doc__ == "Doc of the wrapped function."


def test_float64_scope_is_differentiable():
    @precision.float64_scope
    def cube(x):
        return x**3

    assert jax.grad(cube)(2.0) == 12.0


def test_tolerance():
    # Machine epsilons of IEEE 754 binary64 and binary32.
    assert precision.tolerance(np.float64) == 2.0**-52
    assert precision.tolerance(jnp.float32, 8) == 2.0**-20
