"""Kernels of finite networks against brute-force Jacobians."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from deeplimits.errors import DomainError, ShapeError
from ntk import empirical
from ntk.empirical import empirical_nngp, empirical_ntk
from ntk.tangent_operator import empirical_ntk_operator

from .empirical_reference import METHODS, assert_close, brute_force, mlp_case, normal


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


@functools.cache
def expected_full(case):
    return brute_force(*CASES[case]())


def reduced(full, reduce):
    diagonal = jnp.einsum("nmoo->nmo", full)
    return {"full": full, "diagonal": diagonal, "trace": diagonal.mean(-1)}[reduce]


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
@pytest.mark.optimized
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
