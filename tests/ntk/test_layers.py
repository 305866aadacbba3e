"""Layers: fixed values, finite networks, degenerate inputs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk
from deeplimits import PrecisionWarning
from deeplimits.statistics import mean_with_error


def waves(n, d, offset=0):
    """Deterministic inputs of the published table: sin(0.7 (1 + offset + i))."""
    return np.sin(0.7 * (1 + offset + np.arange(n * d))).reshape(n, d)


def dense(out=1, parameterization="ntk"):
    return ntk.Dense(out, 1.3, 0.2, parameterization)


def symmetric(*upper):
    n = int((np.sqrt(8 * len(upper) + 1) - 1) / 2)
    out = np.zeros((n, n))
    out[np.triu_indices(n)] = upper
    return out + np.triu(out, 1).T


# Values computed by neural-tangents and by an independent quadrature that agreed to 5e-10; ten
# decimals were recorded, so the tolerance is half a unit of the tenth decimal.
TABLE = {
    "relu2": (
        lambda: ntk.serial(dense(), ntk.Relu(), dense(), ntk.Relu(), dense()),
        symmetric(
            0.7791626038, 0.2973713383, 0.6713838335, 0.7800461614, 0.2924149443, 0.7475635306
        ),
        symmetric(
            2.2236878114, 0.2683706724, 1.5668573732, 2.2263384841, 0.2640828054, 2.1288905919
        ),
    ),
    "erf": (
        lambda: ntk.serial(dense(), ntk.Erf(), dense()),
        symmetric(
            0.8211879565, -0.6280696601, 0.6607613030, 0.8215898098, -0.6186188237, 0.8064549641
        ),
        symmetric(
            1.7764634453, -1.3976954665, 1.3610080671, 1.7775841948, -1.3740465389, 1.7356974835
        ),
    ),
    "gelu": (
        lambda: ntk.serial(dense(), ntk.Gelu(), dense()),
        symmetric(
            0.7486549476, -0.0734525580, 0.6091475172, 0.7496713702, -0.0724554799, 0.7123734927
        ),
        symmetric(
            1.5084442957, -0.1858630035, 1.1640921948, 1.5105414411, -0.1846953550, 1.4335642754
        ),
    ),
    "standard": (
        lambda: ntk.serial(dense(5, "standard"), ntk.Relu(), dense(1, "standard")),
        symmetric(
            0.8747486435, 0.0510016777, 0.7331566116, 0.8757942738, 0.0512795957, 0.8373532907
        ),
        symmetric(
            6.2104069774, 0.8776922757, 4.9668139621, 6.2159754225, 0.8836244410, 6.0112601279
        ),
    ),
    "tanh": (
        lambda: ntk.serial(dense(), ntk.Tanh(), dense()),
        symmetric(
            0.7026088983, -0.5296012839, 0.5694108851, 0.7029932479, -0.5208877119, 0.6885587872
        ),
        symmetric(
            1.4815651535, -1.1677174642, 1.1525718892, 1.4825514536, -1.1470192203, 1.4457229542
        ),
    ),
}


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.optimized
def test_published_values(name):
    make, nngp, tangent = TABLE[name]
    k = make().kernel_fn(waves(3, 4), None, ("nngp", "ntk"))
    np.testing.assert_allclose(k.nngp, nngp, atol=5.1e-11, rtol=0)
    np.testing.assert_allclose(k.ntk, tangent, atol=5.1e-11, rtol=0)


def test_published_values_between_two_sets():
    net = ntk.serial(dense(), ntk.Relu(), dense())
    k = net.kernel_fn(waves(3, 4), waves(2, 4, 50), ("nngp", "ntk"))
    nngp = [
        [0.0557347271, 0.8674560649],
        [0.6891785240, 0.0551003080],
        [0.1353129738, 0.6960089952],
    ]
    tangent = [
        [-0.0680415906, 1.6717363322], [1.1753046766, -0.0705928698], [0.0086613729, 1.1890104069]
    ]  # fmt: skip
    np.testing.assert_allclose(k.nngp, nngp, atol=5.1e-11, rtol=0)  # recorded digits
    np.testing.assert_allclose(k.ntk, tangent, atol=5.1e-11, rtol=0)


def test_a_layer_unpacks_as_a_triple_and_the_finite_network_has_its_shapes():
    net = ntk.serial(
        dense(7), ntk.Relu(), ntk.FanOut(2), ntk.parallel(ntk.Identity(), dense(7)), ntk.FanInSum(),
        ntk.LayerNorm(), ntk.Dropout(0.8), dense(3, "standard"),
    )  # fmt: skip
    init_fn, apply_fn, kernel_fn = net
    shape, params = init_fn(jax.random.key(0), (-1, 4))
    assert shape == (-1, 3)
    out = apply_fn(params, jnp.asarray(waves(5, 4)), key=jax.random.key(1))
    assert out.shape == (5, 3)
    assert np.isfinite(out).all()
    assert kernel_fn(waves(5, 4), None, "ntk").shape == (5, 5)


def squares(net, x, n_nets, *, dropout=False):
    """Mean and standard error of f f^T / out_dim over independent finite networks."""
    init_fn, apply_fn, _ = net

    def one(key):
        a, b = jax.random.split(key)
        f = apply_fn(init_fn(a, x.shape)[1], x, key=b)
        return f @ f.T / f.shape[1]

    samples = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(3), n_nets))
    return mean_with_error(np.asarray(samples))


# In each of these the hidden units before the last random layer are exactly Gaussian at any width
# (the input is the only thing behind them), so E f f^T equals the limit with no width correction.
EXACT_AT_ANY_WIDTH = {
    "skip around a dense branch, not Gaussian": lambda: ntk.serial(
        ntk.Dense(6, 1.3), ntk.Relu(), ntk.FanOut(2),
        ntk.parallel(ntk.Identity(), ntk.Dense(6, 0.9, 0.3)), ntk.FanInSum(),
        ntk.Dense(4, 1.1, 0.1),
    ),
    "skip around an activation": lambda: ntk.serial(
        ntk.Dense(6, 1.3, 0.2), ntk.FanOut(2), ntk.parallel(ntk.Identity(), ntk.Relu()),
        ntk.FanInSum(), ntk.Dense(4, 1.1, 0.1),
    ),
    "two independent branches with means": lambda: ntk.serial(
        ntk.FanOut(2),
        ntk.parallel(ntk.serial(ntk.Dense(6, 1.3), ntk.Relu()),
                     ntk.serial(ntk.Dense(6, 0.8, 0.5), ntk.Erf(1.0, 1.0, 0.7))),
        ntk.FanInSum(), ntk.Dense(4, 1.1, 0.1),
    ),
    "gate": lambda: ntk.serial(
        ntk.FanOut(2),
        ntk.parallel(ntk.Dense(6, 1.2), ntk.serial(ntk.Dense(6, 0.8, 0.5), ntk.Sigmoid_like())),
        ntk.FanInProd(), ntk.Dense(4, 1.1, 0.1),
    ),
    "self gate": lambda: ntk.serial(
        ntk.Dense(6, 1.2, 0.3), ntk.FanOut(2), ntk.parallel(ntk.Identity(), ntk.Erf()),
        ntk.FanInProd(), ntk.Dense(4, 1.1, 0.1),
    ),
    "concatenation, then activation": lambda: ntk.serial(
        ntk.FanOut(2), ntk.parallel(ntk.Dense(6, 1.2), ntk.Dense(3, 0.5, 0.9)),
        ntk.FanInConcat(), ntk.Relu(), ntk.Dense(4, 1.1, 0.1),
    ),
    "dropout": lambda: ntk.serial(
        ntk.Dense(6, 1.2, 0.3), ntk.Relu(), ntk.Dropout(0.6), ntk.Dense(4, 1.1, 0.1)
    ),
    "composition of activations": lambda: ntk.serial(
        ntk.Dense(6, 1.2, 0.3), ntk.Relu(), ntk.Sin(), ntk.Dense(4, 1.1, 0.1)
    ),
    "input skip": lambda: ntk.serial(
        ntk.FanOut(2), ntk.parallel(ntk.Identity(), ntk.serial(ntk.Dense(3, 1.4), ntk.Relu())),
        ntk.FanInSum(), ntk.Dense(4, 1.1, 0.1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT_AT_ANY_WIDTH)
def test_covariance_equals_that_of_finite_networks(name):
    net = EXACT_AT_ANY_WIDTH[name]()
    x = waves(3, 3)
    estimate = squares(net, jnp.asarray(x), 20_000)
    z = (np.asarray(estimate.mean) - np.asarray(net.nngp(x))) / np.asarray(estimate.stderr)
    # 6 distinct entries: |z| < 4 fails by chance with probability 4e-4; a missing mean product or
    # a swapped branch shifts these entries by more than 20 standard errors
    assert np.abs(z).max() < 4, z


def test_layer_norm_of_units_with_a_mean_approaches_its_limit():
    # LayerNorm averages over channels, so the finite network reaches the limit as 1/width
    def net(width):
        return ntk.serial(
            ntk.Dense(width, 1.3, 0.4), ntk.Relu(), ntk.LayerNorm(), ntk.Dense(1, 1.1, 0.1)
        )

    x = waves(3, 3)
    limit = np.asarray(net(8).nngp(x))
    errors = []
    for width in (16, 64):
        e = squares(net(width), jnp.asarray(x), 20_000)
        errors.append((np.asarray(e.mean) - limit, np.asarray(e.stderr)))
    # bias ~ c / width: quadrupling the width must shrink it; compare 4 x the second with the first
    gap = 4 * errors[1][0] - errors[0][0]
    z = gap / np.sqrt(16 * errors[1][1] ** 2 + errors[0][1] ** 2)
    assert np.abs(z).max() < 4, z
    centred = np.diag(limit) - 0.01
    np.testing.assert_allclose(centred, 1.21, rtol=1e-10)  # unit variance times W_std^2


def test_frozen_layers_leave_only_the_gradient_that_passes_through():
    x = waves(3, 4)
    first, last = ntk.Dense(5, 1.3, 0.2), ntk.Dense(1, 0.7, 0.4)
    whole = ntk.serial(first, ntk.Relu(), last).kernel_fn(x, None, ("nngp", "ntk"))
    no_last = ntk.serial(first, ntk.Relu(), ntk.Frozen(last)).ntk(x)
    only_last = ntk.serial(ntk.Frozen(first), ntk.Relu(), last).ntk(x)
    # shares of the layers add up to the NTK; the last layer's share is the NNGP kernel
    np.testing.assert_allclose(only_last, whole.nngp, rtol=1e-14)
    np.testing.assert_allclose(no_last + only_last, whole.ntk, rtol=1e-14)
    frozen = ntk.Frozen(ntk.serial(first, ntk.Relu(), last))
    np.testing.assert_array_equal(frozen.ntk(x), 0)


def test_frozen_parameters_have_no_gradient():
    net = ntk.serial(ntk.Frozen(ntk.Dense(5)), ntk.Erf(), ntk.Dense(1))
    init_fn, apply_fn, _ = net
    _, params = init_fn(0, (2, 3))
    grads = jax.grad(lambda p: apply_fn(p, jnp.ones((2, 3))).sum())(params)
    assert float(jnp.abs(grads[0][0]).max()) == 0
    assert float(jnp.abs(grads[2][0]).max()) > 0


def test_leading_parameter_free_layers_act_on_the_inputs():
    x = waves(3, 8)
    images = x.reshape(3, 2, 2, 2)
    net = ntk.serial(dense(), ntk.Erf(), dense())
    np.testing.assert_array_equal(ntk.serial(ntk.Flatten(), net).ntk(images), net.ntk(x))
    np.testing.assert_allclose(
        ntk.serial(ntk.LayerNorm(), net).ntk(x),
        net.ntk((x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)),
        rtol=1e-9,  # LayerNorm adds 1e-12 to the variance
    )
    np.testing.assert_array_equal(ntk.serial(ntk.Relu(), net).ntk(x), net.ntk(np.maximum(x, 0)))


def test_positionwise_network_averages_over_positions_when_flattened():
    images = waves(3, 8).reshape(3, 4, 2)
    body = ntk.serial(dense(5), ntk.Relu())
    net = ntk.serial(body, ntk.Flatten(), dense())
    per_position = [
        ntk.serial(body, ntk.Dense(1)).kernel_fn(images[:, p], None, ("nngp", "ntk"))
        for p in range(4)
    ]
    # Dense(1) with W_std=1 and no bias: K'=K, Theta'=K+Theta
    K = np.mean([k.nngp for k in per_position], axis=0)
    T = np.mean([k.ntk for k in per_position], axis=0) - K
    got = net.kernel_fn(images, None, ("nngp", "ntk"))
    np.testing.assert_allclose(got.nngp, 1.69 * K + 0.04, rtol=1e-13)
    np.testing.assert_allclose(got.ntk, 1.69 * (K + T) + 0.04, rtol=1e-13)
    assert body.kernel_fn(images, None, "nngp").shape == (3, 3, 4)


def test_record_can_be_continued_by_another_network():
    x = waves(3, 4)
    front, back = ntk.serial(dense(), ntk.Relu()), ntk.serial(dense(), ntk.Erf(), dense())
    both = ntk.serial(front, back).kernel_fn(x)
    step = back.kernel_fn(front.kernel_fn(x))
    np.testing.assert_allclose(step.ntk, both.ntk, rtol=1e-14)
    np.testing.assert_allclose(step.eps, both.eps, atol=1e-15)


DEGENERATE = np.array(
    [[1.0, 2, -1], [1, 2, -1], [1 + 1e-5, 2, -1], [-1, -2, 1], [0, 0, 0], [2, 4, -2], [1e-20, 0, 0]]
)
LAYERS = ["Relu", "Abs", "Erf", "Gelu", "Tanh"]  # the duals have such tests of their own


@pytest.mark.parametrize(("dtype", "bias"), [(np.float32, None), (np.float64, 0.3)])
@pytest.mark.parametrize("name", LAYERS)
def test_values_and_gradients_are_finite_on_degenerate_inputs(name, bias, dtype):
    act = getattr(ntk, name)
    block = ntk.serial(ntk.Dense(4, 1.4, bias), act())
    net = ntk.serial(block, block, ntk.Dense(1, 1.4, bias))
    x = jnp.asarray(DEGENERATE.astype(dtype))

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def total(net, x):
        k = net.kernel_fn(x, None, ("nngp", "ntk"))
        return k.ntk.sum(), k

    (_, own), grads = total(net, x)
    for k in (own, net.kernel_fn(x, x, ("nngp", "ntk"))):
        assert k.ntk.dtype == dtype
        assert np.isfinite(k.nngp).all()
        assert np.isfinite(k.ntk).all()
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("name", ["Relu", "Erf", "Tanh"])
def test_gradients_agree_with_finite_differences(name):
    act = getattr(ntk, name)
    x = jnp.asarray(waves(3, 4))

    @jax.jit
    def value(w, b, x):
        net = ntk.serial(ntk.Dense(4, w, b), act(), ntk.Dense(1, w, b))
        return jnp.sum(net.ntk(x) * jnp.arange(9.0).reshape(3, 3))

    point = (jnp.asarray(1.3), jnp.asarray(0.4), x)
    got = jax.jit(jax.grad(value, argnums=(0, 1, 2)))(*point)
    h = 1e-5  # central differences: error h^2 times the third derivative, about 1e-9 relative
    for i in (0, 1):
        up, down = list(point), list(point)
        up[i], down[i] = point[i] + h, point[i] - h
        np.testing.assert_allclose(got[i], (value(*up) - value(*down)) / (2 * h), rtol=1e-7)
    for index in ((0, 0), (1, 2), (2, 3)):
        step = jnp.zeros_like(x).at[index].set(h)
        slope = (value(*point[:2], x + step) - value(*point[:2], x - step)) / (2 * h)
        np.testing.assert_allclose(got[2][index], slope, rtol=1e-6, atol=1e-9)


def test_comparing_a_set_with_itself_or_with_an_equal_copy():
    net = ntk.mlp(3, "relu", W_std=1.4, b_std=0.1)
    x = waves(5, 4)
    np.testing.assert_allclose(net.ntk(x), net.ntk(x, x.copy()), rtol=1e-12)  # documented


@pytest.mark.optimized
def test_float32_and_integer_inputs():
    net = ntk.mlp(2, "erf", W_std=1.4, b_std=0.1)
    x = np.arange(12).reshape(3, 4)
    assert net.ntk(x).dtype == np.float64
    assert net.ntk(x.astype(np.float32)).dtype == np.float32
    assert net.ntk(x.astype(np.float16)).dtype == np.float32
    with jax.enable_x64(False), pytest.warns(PrecisionWarning, match="jax_enable_x64"):
        assert net.ntk(x.astype(np.float64)).dtype == np.float32
