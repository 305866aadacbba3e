"""Kernels of finite networks against brute-force Jacobians, and their error messages."""

import functools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from deeplimits.errors import DomainError, ShapeError
from ntk import empirical
from ntk.compose import serial
from ntk.empirical import empirical_nngp, empirical_ntk
from ntk.layers import Dense
from ntk.models import as_function
from ntk.tangent_operator import empirical_ntk_operator

METHODS = ["jacobian", "vector_products", "structured"]

#: Rounding of float64 sums of up to a few thousand terms, relative to the largest entry.
TOL = 1e-12


def normal(seed, *shapes):
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]


def mlp(params, x):
    for i, (w, b) in enumerate(params):
        x = x @ w * (1.4 / w.shape[0] ** 0.5) + 0.1 * b[None]
        x = jax.nn.relu(x) if i < len(params) - 1 else x
    return x


def mlp_case():
    weights = normal(0, (5, 7), (7, 6), (6, 3))
    biases = normal(1, (7,), (6,), (3,))
    return mlp, list(zip(weights, biases, strict=True)), *normal(2, (5, 5), (3, 5))


def convolve(x, w, stride, groups=1):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, w, (stride, stride), "SAME", dimension_numbers=numbers, feature_group_count=groups
    )


def cnn(params, x):
    x = jax.nn.relu(convolve(x, params["c1"], 1) + params["b1"].reshape(1, 1, 1, -1))
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = jnp.tanh(convolve(x, params["c2"], 2)) * params["scale"].reshape(1, 1, 1, -1)
    x = convolve(x, params["depthwise"], 1, groups=4)
    return x.mean((1, 2)) @ params["out"].T


def cnn_case():
    shapes = {"c1": (3, 3, 2, 4), "b1": (4,), "c2": (3, 2, 4, 4), "scale": (4,)}
    shapes |= {"depthwise": (3, 3, 1, 8), "out": (3, 8)}
    params = dict(zip(shapes, normal(3, *shapes.values()), strict=True))
    return cnn, params, *normal(4, (4, 6, 6, 2), (3, 6, 6, 2))


def embedding(params, tokens):
    h = jnp.take(params["table"], tokens, axis=0)
    h = jnp.tanh(h @ params["mix"])
    return h.mean(1) @ params["out"]


def embedding_case():
    params = dict(zip(("table", "mix", "out"), normal(5, (11, 4), (4, 5), (5, 2)), strict=True))
    tokens = (jnp.arange(48) * 7 % 11).reshape(8, 6)  # tokens repeat within a row
    return embedding, params, tokens[:5], tokens[5:]


def shared(params, x):
    h = x
    for _ in range(2):
        h = jnp.tanh(h @ params["twice"])
    return h @ params["out"]


def shared_case():
    params = dict(zip(("twice", "out", "unused"), normal(6, (5, 5), (5, 3), (4,)), strict=True))
    return shared, params, *normal(7, (4, 5), (3, 5))


CASES = {"mlp": mlp_case, "cnn": cnn_case, "embedding": embedding_case, "shared": shared_case}


def brute_force(f, params, x1, x2):
    """Full kernel from the Jacobian of the whole batch, all rows at once."""
    leaves, treedef = jax.tree.flatten(params)

    def kernel(leaves):
        blocks = jax.jacrev(lambda p: f(treedef.unflatten(p), jnp.concatenate([x1, x2])))(leaves)
        j = jnp.concatenate([b.reshape(*b.shape[:2], -1) for b in blocks], axis=-1)
        return jnp.einsum("nop,mqp->nmoq", j[: len(x1)], j[len(x1) :])

    return jax.jit(kernel)(leaves)


@functools.cache
def expected_full(case):
    return brute_force(*CASES[case]())


def reduced(full, reduce):
    diagonal = jnp.einsum("nmoo->nmo", full)
    return {"full": full, "diagonal": diagonal, "trace": diagonal.mean(-1)}[reduce]


def assert_close(value, expected, tolerance=TOL):
    assert value.shape == expected.shape
    assert float(jnp.abs(value - expected).max()) < tolerance * float(jnp.abs(expected).max())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", CASES)
def test_methods_match_brute_force(case, method):
    f, params, x1, x2 = CASES[case]()
    full = expected_full(case)
    for reduce in ("trace", "diagonal", "full"):
        value = empirical_ntk(f, params, x1, x2, reduce=reduce, method=method)
        assert_close(value, reduced(full, reduce))


@pytest.mark.parametrize("method", METHODS)
def test_blocks_and_exact_symmetry(method):
    f, params, x, _ = mlp_case()
    full = brute_force(f, params, x, x)
    for rows in (1, 2, 3, "auto"):
        value = empirical_ntk(f, params, x, reduce="full", method=method, block_size=rows)
        assert_close(value, full)
        assert (value == value.transpose(1, 0, 3, 2)).all()
    trace = empirical_ntk(f, params, x, method=method)
    assert (trace == trace.T).all()


def test_rectangular_blocks():
    f, params, x1, x2 = cnn_case()
    expected = reduced(expected_full("cnn"), "diagonal")
    value = empirical_ntk(f, params, x1, x2, reduce="diagonal", block_size=2)
    assert_close(value, expected)


def test_small_budget_gives_blocks_then_vector_products(monkeypatch):
    f, params, x1, x2 = mlp_case()
    seen = []
    blocks = empirical._vector_products
    monkeypatch.setattr(
        empirical, "_vector_products", lambda *a, **k: seen.append(k["chunk"]) or blocks(*a, **k)
    )
    expected = reduced(expected_full("mlp"), "trace")
    assert_close(empirical_ntk(f, params, x1, x2, block_bytes=2**14), expected)
    assert seen == []
    assert_close(empirical_ntk(f, params, x1, x2, block_bytes=64), expected)
    assert seen
    assert set(seen) == {1}  # no room for two tangents of the size of the parameters


def test_shares_by_layer_sum_to_the_kernel():
    f, params, x1, x2 = cnn_case()
    for method in ("structured", "jacobian"):
        shares = empirical_ntk(f, params, x1, x2, method=method, by_layer=True)
        assert set(shares) == {f"['{name}']" for name in params}
        assert_close(sum(shares.values()), empirical_ntk(f, params, x1, x2))
    own = brute_force(lambda p, x: f(params | p, x), {"c2": params["c2"]}, x1, x2)
    assert_close(shares["['c2']"], reduced(own, "trace"))


def test_back_and_forth_over_blocks_saves_sides(monkeypatch):
    """Four blocks of a symmetric kernel need 8 sides; row by row it would be 10."""
    f, params, x, _ = mlp_case()
    x8 = jnp.concatenate([x, -x[:3]])
    expected = empirical_ntk(f, params, x8)
    calls, compute = [], empirical._derivatives
    monkeypatch.setattr(
        empirical, "_derivatives", lambda *a, **k: calls.append(1) or compute(*a, **k)
    )
    assert_close(empirical_ntk(f, params, x8, block_size=2), expected)
    assert len(calls) == 8


def test_share_of_an_unused_parameter_is_zero():
    f, params, x, _ = shared_case()
    shares = empirical_ntk(f, params, x, by_layer=True, block_size=3)
    assert (shares["['unused']"] == 0).all()
    assert (shares["['out']"] != 0).any()


def test_single_output_may_be_one_dimensional():
    f, params, x, _ = mlp_case()
    first = lambda p, x: f(p, x)[:, 0]  # noqa: E731
    expected = brute_force(lambda p, x: f(p, x)[:, :1], params, x, x)
    for method in METHODS:
        assert_close(empirical_ntk(first, params, x, reduce="full", method=method), expected)


def test_frozen_leaves_and_python_numbers():
    """Integer, boolean and static leaves are constants; a Python float is a parameter."""

    def f(p, x):
        h = jnp.where(p["mask"][None], x @ p["w"], 0) * p["gain"]
        return p["activation"](h)[:, p["order"]][:, : p["width"]]

    (w,), (x,) = normal(8, (5, 4)), normal(9, (3, 5))
    params = {"w": w, "gain": 0.7, "order": jnp.array([2, 0, 1, 3]), "width": 3}
    params |= {"mask": np.array([True, True, False, True]), "activation": jnp.tanh}
    free = {"w": w, "gain": jnp.asarray(0.7)}
    expected = brute_force(lambda p, x: f(params | p, x), free, x, x)
    for method in METHODS:
        assert_close(empirical_ntk(f, params, x, reduce="full", method=method), expected)


@pytest.mark.parametrize("method", METHODS)
def test_float32_stays_good_float32(method):
    f, params, x1, x2 = cnn_case()
    single = jax.tree.map(lambda a: a.astype(jnp.float32), (params, x1, x2))
    value = empirical_ntk(f, *single, method=method)
    assert value.dtype == jnp.float32
    expected = reduced(expected_full("cnn"), "trace")
    # sums of a few hundred terms: 1e-7 * sqrt(300)
    assert_close(value, expected.astype(jnp.float32), 3e-6)


def test_inside_other_transformations():
    f, params, x, _ = mlp_case()
    expected = empirical_ntk(f, params, x)
    assert_close(jax.jit(lambda p, x: empirical_ntk(f, p, x))(params, x), expected)
    stacked = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), params)
    many = jax.vmap(lambda p: empirical_ntk(f, p, x))(stacked)
    assert_close(many[0], expected)
    assert_close(many[1], empirical_ntk(f, jax.tree.map(lambda a: 2 * a, params), x))
    slope = jax.grad(lambda t: empirical_ntk(f, params, t * x).sum())(1.0)
    h = 1e-5
    finite = [empirical_ntk(f, params, (1 + s * h) * x).sum() for s in (1, -1)]
    # central differences: truncation h^2 and rounding 1e-16/h, both about 1e-10
    assert abs(slope - (finite[0] - finite[1]) / (2 * h)) < 1e-8 * abs(slope)


# -- models of other libraries ------------------------------------------------------------------


@pytest.fixture
def permissive():
    """flax mixes dtypes and ranks, which the strict settings of the test-suite refuse."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.gelu(nn.LayerNorm()(nn.Conv(4, (3, 3), feature_group_count=2)(x)))
        x = nn.Conv(4, (2, 2), strides=2)(x)
        x = nn.BatchNorm(use_running_average=True)(x)
        x = nn.MultiHeadDotProductAttention(num_heads=2)(x.reshape(x.shape[0], -1, 4))
        return nn.Dense(3)(x.mean(1))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(5, 6, rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.second = nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x):
        return self.second(nnx.relu(self.norm(self.first(x))))


def own_network():
    net = serial(Dense(7, W_std=1.3, b_std=0.2), Dense(2, parameterization="standard"))
    _, params = net.init_fn(jax.random.key(17), (-1, 5))
    return net, params, normal(18, (3, 5))[0]


def linen_model():
    (x,) = normal(10, (3, 4, 4, 2))
    module = Linen()
    variables = module.init(jax.random.key(11), x.astype(jnp.float32))
    variables = jax.tree.map(lambda a: a.astype(jnp.float64), variables)
    return module, variables, x


def nnx_model():
    model = Nnx(nnx.Rngs(0))
    model.eval()
    nnx.update(model, jax.tree.map(lambda a: a.astype(jnp.float64), nnx.state(model, nnx.Param)))
    return model, None, normal(12, (3, 5))[0]


def equinox_model():
    model = eqx.nn.MLP(5, 2, 8, 2, key=jax.random.key(13), dtype=jnp.float64)
    return model, None, normal(14, (3, 5))[0]


@pytest.mark.parametrize("make", [own_network, linen_model, nnx_model, equinox_model])
def test_library_models_match_brute_force(make, permissive):
    model, params, x = make()
    f, differentiable = as_function(model, params)
    expected = brute_force(f, differentiable, x, x)
    for method in METHODS:
        assert_close(empirical_ntk(model, params, x, reduce="full", method=method), expected)


def test_linen_statistics_are_not_differentiated(permissive):
    module, variables, x = linen_model()
    shares = empirical_ntk(module, variables, x, by_layer=True)
    assert len(shares) == len(jax.tree.leaves(variables["params"]))
    assert len(shares) < len(jax.tree.leaves(variables))


def test_equinox_model_has_the_outputs_of_its_function():
    model, _, x = equinox_model()
    f, params = as_function(model)
    assert_close(f(params, x), jax.vmap(model)(x))


def test_batch_normalisation_is_refused(permissive):
    model, x = Nnx(nnx.Rngs(0)), normal(12, (3, 5))[0].astype(jnp.float32)
    model.train()
    with pytest.raises(DomainError, match="mixes the rows of a batch"):
        empirical_ntk(model, None, x)


# -- covariance and operator --------------------------------------------------------------------


def test_nngp():
    f, params, x1, x2 = mlp_case()
    out1, out2 = np.asarray(f(params, x1)), np.asarray(f(params, x2))
    assert_close(empirical_nngp(f, params, x1, x2), jnp.asarray(out1 @ out2.T / 3))
    own = empirical_nngp(f, params, x1)
    assert_close(own, jnp.asarray(out1 @ out1.T / 3))
    assert (own == own.T).all()


def test_operator():
    f, params, x, _ = mlp_case()
    full = brute_force(f, params, x, x)
    (v,) = normal(15, (5, 3))
    for rows in (256, 2):
        operator = empirical_ntk_operator(f, params, x, block_size=rows)
        assert operator.shape == (15, 15)
        assert_close(operator(v), jnp.einsum("nmoq,mq->no", full, v))
    solution, _ = jax.scipy.sparse.linalg.cg(lambda u: operator(u) + u, v, tol=1e-12)
    matrix = full.transpose(0, 2, 1, 3).reshape(15, 15) + jnp.eye(15)
    # the residual of 1e-12 times the condition number, about 1e3
    assert_close(solution, jnp.linalg.solve(matrix, v.reshape(-1)).reshape(5, 3), 1e-8)


def test_operator_on_vectors():
    f, params, x, _ = mlp_case()
    operator = empirical_ntk_operator(lambda p, x: f(p, x)[:, 0], params, x)
    kernel = empirical_ntk(lambda p, x: f(p, x)[:, 0], params, x)
    (v,) = normal(16, (5,))
    assert_close(operator(v), kernel @ v)
    with pytest.raises(ShapeError, match="one number per row"):
        operator(v[:4])
    with pytest.raises(DomainError, match="block_size"):
        empirical_ntk_operator(f, params, x, block_size=0)


# -- errors -------------------------------------------------------------------------------------


def linear(params, x):
    return x @ params


ONES = jnp.ones((3, 2))


def mixing(p, x):
    y = x @ p
    return y - y.mean(0, keepdims=True)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: empirical_ntk(linear, ONES, jnp.ones(3)), ShapeError, r"\(n, d\)"),
        (lambda: empirical_ntk(linear, ONES, jnp.ones((0, 3))), ShapeError, "empty"),
        (lambda: empirical_ntk(linear, ONES, jnp.array([[1, jnp.nan, 0]])), DomainError, "x1"),
        (lambda: empirical_ntk(linear, ONES, ONES.T, jnp.full((1, 3), jnp.inf)), DomainError, "x2"),
        (lambda: empirical_ntk(linear, ONES, ONES.T, jnp.ones((2, 4))), ShapeError, "agree"),
        (lambda: empirical_ntk(linear, ONES, ONES.T, reduce="sum"), DomainError, "'trace'"),
        (lambda: empirical_ntk(linear, ONES, ONES.T, method="fast"), DomainError, "'structured'"),
        (lambda: empirical_ntk(linear, ONES, ONES.T, block_size=0), DomainError, "block_size"),
        (lambda: empirical_ntk(linear, ONES, ONES.T, block_size=1.5), DomainError, "block_size"),
        (lambda: empirical_ntk(linear, ONES, ONES.T, block_bytes=0), DomainError, "block_bytes"),
        (
            lambda: empirical_ntk(linear, ONES, ONES.T, method="vector_products", by_layer=True),
            DomainError,
            "by_layer",
        ),
        (lambda: empirical_ntk(linear, lax.complex(ONES, ONES), ONES.T), DomainError, "is complex"),
        (lambda: empirical_ntk(linear, jnp.ones((3, 2), int), ONES.T), DomainError, "nothing to"),
        (lambda: empirical_ntk(linear, None, ONES.T), DomainError, "params is None"),
        (lambda: empirical_ntk("relu", ONES, ONES.T), DomainError, "f must be a function"),
        (lambda: empirical_ntk(linear, ONES * jnp.nan, ONES.T), DomainError, r"f\(params, x\)"),
        (
            lambda: empirical_ntk(lambda p, x: (x @ p).argmax(1), ONES, ONES.T),
            DomainError,
            "dtype int",
        ),
        (
            lambda: empirical_ntk(lambda p, x: lax.complex(x @ p, x @ p), ONES, ONES.T),
            DomainError,
            "dtype complex",
        ),
        (lambda: empirical_ntk(lambda p, x: (x @ p).sum(), ONES, ONES.T), ShapeError, r"\(n,\)"),
        (lambda: empirical_ntk(lambda p, x: (x @ p).T[:1], ONES, ONES.T), ShapeError, "first"),
        (lambda: empirical_ntk(lambda p, x: (x @ p, 0), ONES, ONES.T), ShapeError, "got tuple"),
        (lambda: empirical_ntk(mixing, ONES, jnp.arange(6.0).reshape(2, 3)), DomainError, "mixes"),
        (lambda: empirical_ntk(Linen(), {"w": ONES}, ONES.T), DomainError, "collection 'params'"),
        (lambda: empirical_nngp(linear, ONES, jnp.ones(3)), ShapeError, r"\(n, d\)"),
        (lambda: empirical_nngp(mixing, ONES, jnp.arange(6.0).reshape(2, 3)), DomainError, "mixes"),
    ],
)
def test_errors(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_results_larger_than_the_machine_are_refused(monkeypatch):
    monkeypatch.setattr(empirical, "_machine_bytes", lambda: 100)
    with pytest.raises(DomainError, match="empirical_ntk_operator"):
        empirical_ntk(linear, ONES, ONES.T, reduce="full")


def test_mean_over_the_batch_size_is_refused():
    with pytest.raises(DomainError, match="mixes"):
        empirical_ntk(lambda p, x: x @ p / x.shape[0], ONES, ONES.T)
