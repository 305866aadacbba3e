"""Networks of neural-tangents used here: published values, shapes, transformations, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplimits.errors import DomainError, ShapeError, UnsupportedLayerError
from ntk.gram import gram
from ntk.interop import from_neural_tangents

from .tangents_networks import conv, dense, inputs, small_cnn, stax


def upper(values, n):
    """Symmetric matrix from its upper triangle, row by row."""
    matrix = np.zeros((n, n))
    matrix[np.triu_indices(n)] = values
    return matrix + np.triu(matrix, 1).T


# Computed by an independent dense-covariance program with polar quadrature for the activations
# (10 digits are given, hence the relative tolerance 1e-8 of the comparison).
PUBLISHED = {
    "relu relu": (
        lambda: stax.serial(dense(), stax.Relu(), dense(), stax.Relu(), dense()),
        (3, 4),
        [0.7791626038, 0.2973713383, 0.6713838335, 0.7800461614, 0.2924149443, 0.7475635306],
        [2.2236878114, 0.2683706724, 1.5668573732, 2.2263384841, 0.2640828054, 2.1288905919],
    ),
    "erf": (
        lambda: stax.serial(dense(), stax.Erf(), dense()),
        (3, 4),
        [0.8211879565, -0.6280696601, 0.6607613030, 0.8215898098, -0.6186188237, 0.8064549641],
        [1.7764634453, -1.3976954665, 1.3610080671, 1.7775841948, -1.3740465389, 1.7356974835],
    ),
    "gelu": (
        lambda: stax.serial(dense(), stax.Gelu(), dense()),
        (3, 4),
        [0.7486549476, -0.0734525580, 0.6091475172, 0.7496713702, -0.0724554799, 0.7123734927],
        [1.5084442957, -0.1858630035, 1.1640921948, 1.5105414411, -0.1846953550, 1.4335642754],
    ),
    "standard parameterisation": (
        lambda: stax.serial(
            dense(5, parameterization="standard"),
            stax.Relu(),
            dense(parameterization="standard"),
        ),
        (3, 4),
        [0.8747486435, 0.0510016777, 0.7331566116, 0.8757942738, 0.0512795957, 0.8373532907],
        [6.2104069774, 0.8776922757, 4.9668139621, 6.2159754225, 0.8836244410, 6.0112601279],
    ),
    "conv pooling": (
        lambda: stax.serial(conv(), stax.Relu(), stax.GlobalAvgPool(), dense()),
        (2, 5, 2),
        [0.3090014328, 0.3095880687, 0.3190754750],
        [0.4364618261, 0.4202304196, 0.4606724632],
    ),
    "conv flatten": (
        lambda: stax.serial(conv(), stax.Relu(), stax.Flatten(), dense()),
        (2, 5, 2),
        [0.6901148449, 0.5704946757, 0.7082783221],
        [1.3402296897, 0.9702152748, 1.3765566443],
    ),
}


@pytest.mark.parametrize("case", PUBLISHED)
def test_published_values(case):
    build, shape, nngp, ntk = PUBLISHED[case]
    net = from_neural_tangents(build())
    x = inputs(*shape)
    # 5e-10: neural-tangents' angle next to the diagonal; the table has ten digits.
    np.testing.assert_allclose(net.nngp(x), upper(nngp, shape[0]), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(net.ntk(x), upper(ntk, shape[0]), rtol=1e-8, atol=1e-10)


def test_published_values_of_two_batches():
    net = from_neural_tangents(stax.serial(dense(), stax.Relu(), dense()))
    both = net.kernel_fn(inputs(3, 4), inputs(2, 4, off=50), ("nngp", "ntk"))
    nngp = [
        [0.0557347271, 0.8674560649],
        [0.6891785240, 0.0551003080],
        [0.1353129738, 0.6960089952],
    ]
    ntk = [
        [-0.0680415906, 1.6717363322],
        [1.1753046766, -0.0705928698],
        [0.0086613729, 1.1890104069],
    ]
    # Ten digits are given; the small entries are differences of numbers of order 1.
    np.testing.assert_allclose(both.nngp, nngp, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(both.ntk, ntk, rtol=1e-8, atol=1e-10)


def test_network_unpacks_and_is_a_kernel():
    net = from_neural_tangents(stax.serial(dense(8), stax.Relu(), dense(2)))
    init_fn, apply_fn, kernel_fn = net
    x, z = inputs(4, 3), inputs(2, 3, off=30)
    shape, params = init_fn(jax.random.key(0), x.shape)
    assert shape == apply_fn(params, x).shape == (4, 2)
    assert net.nngp(x, z).shape == net.ntk(x, z).shape == (4, 2)
    np.testing.assert_array_equal(kernel_fn(x, z, "ntk"), net.ntk(x, z))
    tiles = gram(net, x, get="ntk", block_size=3, progress=False)
    # 1e-8: their angle on the diagonal, which other tiles do not see as one
    np.testing.assert_allclose(tiles, net.ntk(x), rtol=1e-8)
    assert {net: 1}[net] == 1
    assert jax.tree.leaves(net) == []
    record = kernel_fn(x)
    assert record.nngp.shape == record.ntk.shape == (4, 4)
    assert kernel_fn(x, get=["ntk", "cov1"])._fields == ("ntk", "cov1")
    assert kernel_fn(x, get="cov2") is None
    # An input layer alone has no parameters, hence a zero kernel of full shape.
    np.testing.assert_array_equal(from_neural_tangents(stax.Identity()).ntk(x), np.zeros((4, 4)))


def test_dtype_of_the_inputs_is_kept():
    net = from_neural_tangents(small_cnn())
    x = inputs(2, 6, 6, 2)
    single = net.kernel_fn(x.astype(np.float32), None, ("nngp", "ntk"))
    assert single.nngp.dtype == single.ntk.dtype == jnp.float32
    # Only inputs and outputs are rounded to float32.
    np.testing.assert_allclose(single.ntk, net.ntk(x), rtol=1e-6)
    assert net.nngp(np.arange(144).reshape(2, 6, 6, 2)).dtype == jnp.float64


def test_axis_order():
    x = inputs(2, 3, 5, 2)
    net = from_neural_tangents(stax.Conv(1, (2, 1), W_std=1.3))
    pixels = np.einsum("nhwc,mijc->nmhiwj", x, x) / 2  # (n, m, H, H, W, W)
    expected = 1.3**2 / 2 * (pixels[:, :, :-1, :-1] + pixels[:, :, 1:, 1:])
    record = net.kernel_fn(x)
    np.testing.assert_allclose(net.nngp(x), expected, rtol=1e-12, atol=1e-14)  # float64 rounding
    np.testing.assert_array_equal(record.nngp, net.nngp(x))
    np.testing.assert_allclose(record.cov1[1], expected[1, 1], rtol=1e-12, atol=1e-14)
    assert not record.is_reversed


def test_branches_and_several_inputs():
    branches = stax.serial(
        dense(), stax.FanOut(2), stax.parallel(dense(), dense()), stax.FanInSum(), dense()
    )
    x = inputs(3, 4)
    # Two equal independent branches: K = 2 (w^2 k + b^2) with w = 1.3, b = 0.2.
    k = 1.3**2 * (x @ x.T / 4) + 0.04
    expected = 1.3**2 * 2 * (1.3**2 * k + 0.04) + 0.04
    np.testing.assert_allclose(from_neural_tangents(branches).nngp(x), expected, rtol=1e-12)
    two = from_neural_tangents(stax.serial(stax.parallel(dense(), dense()), stax.FanInSum()))
    z = inputs(3, 2)
    expected = 1.3**2 * (x @ x.T / 4 + z @ z.T / 2) + 0.08
    np.testing.assert_allclose(two.nngp([x, z]), expected, rtol=1e-12)  # float64 rounding
    np.testing.assert_allclose(two.nngp([x, z], [x[:2], z[:2]]), expected[:, :2], rtol=1e-12)
    with pytest.raises(ShapeError, match="lists of equally many arrays"):
        two.nngp([x, z], x)


def test_masks_and_patterns_are_handed_on():
    masked = inputs(2, 4, 2)
    masked[1, 2:] = np.nan
    net = from_neural_tangents(stax.serial(dense(), stax.Relu(), stax.GlobalAvgPool()))
    shorter = net.nngp(masked[1:, :2])
    both = net.kernel_fn(masked, None, "nngp", mask_constant=np.nan)
    np.testing.assert_allclose(both[1, 1], shorter[0, 0], rtol=1e-12)  # float64 rounding
    graph = from_neural_tangents(stax.serial(dense(), stax.Aggregate(1), stax.GlobalAvgPool()))
    ones = np.ones((2, 4, 4))
    x = inputs(2, 4, 2)
    aggregated = graph.kernel_fn(x, None, "nngp", pattern=(ones, ones))
    pooled = from_neural_tangents(stax.serial(dense(), stax.GlobalAvgPool())).nngp(x)
    np.testing.assert_allclose(aggregated, 16 * pooled, rtol=1e-12)  # every node gets the sum of 4


def test_gradients_pass():
    net = from_neural_tangents(stax.serial(dense(), stax.Erf(), dense()))
    x = jnp.asarray(inputs(3, 4))
    gradient = jax.grad(lambda x: net.ntk(x).sum())(x)
    step = 1e-6 * np.eye(1, 12, 5).reshape(3, 4)
    slope = (net.ntk(x + step).sum() - net.ntk(x - step).sum()) / 2e-6
    np.testing.assert_allclose(gradient[1, 1], slope, rtol=1e-6)  # central difference, step 1e-6


def test_bad_triples():
    for bad in (stax.Relu, (1, 2, 3), None, stax.Relu()[:2]):
        with pytest.raises(DomainError, match="triple must be the three functions"):
            from_neural_tangents(bad)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda net: net.nngp(np.ones(3)), ShapeError, r"x1 must have shape \(n, d\)"),
        (lambda net: net.nngp(np.ones((2, 4)), np.ones((2, 3))), ShapeError, "agree in every axis"),
        (lambda net: net.ntk(np.full((2, 4), np.nan)), DomainError, "x1 must be finite"),
        (lambda net: net.ntk(np.ones((2, 4)), [[np.inf] * 4]), DomainError, "x2 must be finite"),
        (lambda net: net.kernel_fn(np.ones((2, 4)), None, "ntkk"), DomainError, "get must be one"),
        (lambda net: net.kernel_fn(np.ones((2, 4)), None, ("ntk", 3)), DomainError, "get must be"),
        (lambda net: net.kernel_fn(np.ones((2, 4)), get=()), DomainError, "different names"),
        (lambda net: net.kernel_fn(np.ones((2, 4)), foo=1), DomainError, "option must be one of"),
    ],
)
def test_bad_input(call, error, match):
    net = from_neural_tangents(stax.serial(dense(), stax.Relu(), dense()))
    with pytest.raises(error, match=match):
        call(net)


def test_networks_that_do_not_fit():
    cnn = from_neural_tangents(small_cnn())
    with pytest.raises(ShapeError, match=r"does not accept inputs of shape \(3, 4\)"):
        cnn.nngp(np.ones((3, 4)))
    skip = stax.serial(
        dense(),
        stax.Relu(),
        stax.FanOut(2),
        stax.parallel(stax.Identity(), dense()),
        stax.FanInSum(),
    )
    with pytest.raises(UnsupportedLayerError, match=r"FanInSum.*monte_carlo"):
        from_neural_tangents(skip).nngp(np.ones((3, 4)))
