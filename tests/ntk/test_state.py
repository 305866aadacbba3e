"""unit_gap: columns that are recomputed land where they belong, with full relative accuracy."""

import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from ntk.state import unit_gap

pytestmark = pytest.mark.optimized


def exact_gap(a, b):
    """``1 - cos`` of the angle between two stored rows, in 50 digits."""
    with mpmath.workdps(50):
        a, b = ([mpmath.mpf(float(t)) for t in row] for row in (a, b))
        return float(1 - mpmath.fdot(a, b) / mpmath.sqrt(mpmath.fdot(a, a) * mpmath.fdot(b, b)))


@pytest.mark.parametrize(("dtype", "step"), [(np.float64, 1e-6), (np.float32, 1e-3)])
def test_near_duplicates_between_two_sets(dtype, step):
    """20 channels, so that small gaps are recomputed: in the first column, and in a later one."""
    rng = np.random.default_rng(0)
    u, v, shift = rng.normal(size=(3, 20)), rng.normal(size=(5, 20)), rng.normal(size=(2, 20))
    v[0], v[3] = u[2] + step * shift[0], -u[1] + step * shift[1]
    u, v = ((a / np.linalg.norm(a, axis=1, keepdims=True)).astype(dtype) for a in (u, v))
    v[4] = 0
    gap = np.asarray(unit_gap(jnp.asarray(u), jnp.asarray(v)), np.float64)
    want = np.array([[1.0 if not b.any() else exact_gap(a, b) for b in v] for a in u])
    rounding = 20 * np.finfo(dtype).eps  # sums of 20 terms of order 1
    np.testing.assert_allclose(gap, want, rtol=0, atol=rounding)
    assert want[2, 0] < step**2 * 20
    # relative accuracy: of the gap to the duplicate, and of 2 - gap to the antipode (which the
    # subtraction from 2 leaves with an absolute error of one rounding)
    np.testing.assert_allclose(gap[2, 0], want[2, 0], rtol=rounding)
    np.testing.assert_allclose(gap[1, 3], want[1, 3], atol=2 * np.finfo(dtype).eps, rtol=0)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_duplicates_and_antipodes_are_exact(dtype):
    """The product is off by its rounding: an angle of 1e-8 (1e-3 in float32) in place of 0."""
    rng = np.random.default_rng(1)
    u = rng.normal(size=(20, 784))
    u = jnp.asarray((u / np.linalg.norm(u, axis=1, keepdims=True)).astype(dtype))
    product = np.diagonal(np.asarray(u) @ np.asarray(u).T)
    assert np.any(product < 1)  # so that 1 - product is not clipped to the exact value everywhere
    np.testing.assert_array_equal(np.diagonal(unit_gap(u, u)), 0)
    np.testing.assert_array_equal(np.diagonal(unit_gap(u, -u)), 2)
