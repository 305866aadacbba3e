"""Which weights are found to have structure, and the contraction of their factors."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ntk import factors
from ntk.empirical import _derivatives, empirical_ntk
from ntk.factors import Jacobian, Lookup, Outer, contract, settle
from ntk.models import as_problem
from ntk.programs import bind
from ntk.structured import make_plan


def normal(seed, *shapes):
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]


def named(seed, **shapes):
    return dict(zip(shapes, normal(seed, *shapes.values()), strict=True))


def plan(f, params, x):
    """Names of the structured weights, of the biases merged into them, and of the others."""
    problem = as_problem(f, params)
    single = lambda leaves, row: problem.apply(leaves, row[None])[0]  # noqa: E731
    found = make_plan(single, problem.leaves, x[0])
    strip = lambda k: problem.names[k][2:-2]  # noqa: E731
    return (
        {strip(s.leaf) for s in found.sites.values()},
        {strip(s.bias) for s in found.sites.values() if s.bias is not None},
        {strip(k) for k in found.rest},
    )


def assert_exact(f, params, x):
    """Structured against Jacobian contraction, which the brute-force test covers."""
    for reduce in ("trace", "full"):
        values = [
            empirical_ntk(f, params, x, reduce=reduce, method=m) for m in ("structured", "jacobian")
        ]
        # float64 rounding of sums of up to a few thousand terms
        scale = float(jnp.abs(values[1]).max())
        assert scale > 0
        assert float(jnp.abs(values[0] - values[1]).max()) < 1e-12 * scale


X = normal(0, (3, 5))[0]
IMAGE = normal(1, (3, 6, 5, 4))[0]


def dense(p, x):
    """Weights scaled before, products scaled after, biases with a scale of their own."""
    h = jnp.tanh((x @ (p["a"] * 0.5)) / 3.0 + 0.1 * p["b"][None])
    return 0.2 * (h @ p["c"].T) + p["d"].reshape(1, -1)


def loop(p, x):
    h, _ = lax.scan(lambda h, _: (jnp.tanh(h @ p["a"]), None), x, None, length=2)
    return h @ p["c"]


@jax.custom_vjp
def halved_gradient(x, w):
    return x @ w


halved_gradient.defvjp(lambda x, w: (x @ w, (x, w)), lambda r, g: (g @ r[1].T, 0.5 * r[0].T @ g))


@jax.jit
def layer(w, x):
    return jnp.sin(x @ w)


DENSE = {"a": (5, 4), "b": (4,), "c": (2, 4), "d": (2,)}
SQUARE = {"a": (5, 5), "c": (5, 2)}

#: function, shapes, structured weights, merged biases, leaves left to the Jacobian
PLANS = {
    "dense": (dense, DENSE, "ac", "bd", ""),
    "twice": (lambda p, x: jnp.tanh(x @ p["a"]) @ p["a"] @ p["c"], SQUARE, "c", "", "a"),
    "loop": (loop, SQUARE, "c", "", "a"),
    "masked": (
        lambda p, x: jnp.tanh(x @ (p["a"] * jnp.eye(5))) @ p["c"], SQUARE, "c", "", "a",
    ),
    "own derivative": (lambda p, x: halved_gradient(x, p["a"]) @ p["c"], SQUARE, "c", "", "a"),
    "same compiled function": (lambda p, x: layer(p["c"], layer(p["a"], x)), SQUARE, "ac", "", ""),
    "rematerialised": (
        lambda p, x: jax.checkpoint(lambda p, x: jnp.tanh(x @ p["a"]) @ p["c"])(p, x),
        SQUARE, "ac", "", "",
    ),
    "product of weights": (lambda p, x: x @ (p["a"] @ p["c"]), SQUARE, "a", "", "c"),
    "learned scale": (
        lambda p, x: jnp.tanh(x @ (p["s"] * p["a"])) @ (p["c"] / p["s"]),
        SQUARE | {"s": ()}, "ac", "", "s",
    ),
    "scale from the input": (
        lambda p, x: jax.vmap(lambda v: v @ (p["a"] * v.max()))(x) @ p["c"], SQUARE, "ac", "", "",
    ),
    "bias used twice": (
        lambda p, x: (x @ p["a"] + p["b"][None]) @ p["c"] + p["b"][None, :2],
        SQUARE | {"b": (5,)}, "ac", "", "b",
    ),
    "product used twice": (
        lambda p, x: (lambda y: jnp.sin(y) + (y + p["b"][None]) ** 2)(x @ p["a"]) @ p["c"],
        SQUARE | {"b": (5,)}, "ac", "", "b",
    ),
    "matrix as bias": (
        lambda p, x: jnp.tanh(x.reshape(-1, 5, 1) @ p["a"] + p["b"][None]).reshape(-1, 15),
        {"a": (1, 3), "b": (5, 3)}, "a", "", "b",
    ),
    "last bias": (lambda p, x: x @ p["a"] + p["c"], {"a": (5, 2), "c": (1, 2)}, "a", "c", ""),
    "experts": (
        lambda p, x: jnp.einsum("nf,efc->nec", x, p["a"]).reshape(-1, 4) @ p["c"],
        {"a": (2, 5, 2), "c": (4, 2)}, "ac", "", "",
    ),
    "heads": (
        lambda p, x: jnp.einsum("nhf,hfc->nc", x[:, :4].reshape(-1, 2, 2), p["a"]) + p["b"][None],
        {"a": (2, 2, 3), "b": (3,)}, "a", "b", "",
    ),
    "batched heads": (
        lambda p, x: jnp.einsum("nhf,hfc->nhc", x[:, :4].reshape(-1, 2, 2), p["a"]).reshape(-1, 6),
        {"a": (2, 2, 3)}, "a", "", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANS)
def test_plans(name):
    f, shapes, structured, biases, rest = PLANS[name]
    params = named(2, **shapes)
    assert plan(f, params, X) == (set(structured), set(biases), set(rest))
    assert_exact(f, params, X)


CONVOLUTIONS = {
    "strides": {"window_strides": (2, 1), "padding": "SAME"},
    "dilated kernel": {"padding": [(1, 2), (0, 1)], "rhs_dilation": (2, 1)},
    "transposed": {"padding": [(2, 2), (1, 1)], "lhs_dilation": (2, 3)},
    "groups": {"window_strides": (1, 2), "padding": "VALID", "feature_group_count": 2},
    "cropped": {"padding": [(-1, 0), (0, -1)]},
    "channels first": {"padding": "SAME", "dimension_numbers": ("NCHW", "OIHW", "NCHW")},
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name):
    options = {"window_strides": (1, 1), "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    options |= CONVOLUTIONS[name]
    groups = options.get("feature_group_count", 1)
    first = options["dimension_numbers"][0] == "NCHW"
    x = IMAGE.transpose(0, 3, 1, 2) if first else IMAGE
    shape = (4, 4, 3, 2) if first else (3, 2, 4 // groups, 4)
    params = named(3, kernel=shape, bias=(4,), out=(4, 2))

    def f(p, x):
        y = lax.conv_general_dilated(x, p["kernel"], **options)
        y = y + p["bias"].reshape((1, -1, 1, 1) if first else (1, 1, 1, -1))
        return jnp.sin(y).sum((2, 3) if first else (1, 2)) @ p["out"]

    merged = {"bias"} if groups == 1 else set()
    assert plan(f, params, x) == ({"kernel", "out"}, merged, {"bias"} - merged)
    assert_exact(f, params, x)


@pytest.mark.parametrize("mode", ["clip", "fill", "promise_in_bounds"])
def test_lookups(mode):
    tokens = jnp.array([[0, 1, 1, 5], [2, 2, 2, 3], [4, 0, -1, 5]])
    if mode == "clip":
        tokens = tokens.at[0, 0].set(17)
    params = named(4, table=(6, 3), out=(3, 2))

    def f(p, t):
        return jnp.tanh(2 * p["table"].at[t].get(mode=mode)).sum(1) @ p["out"]

    assert plan(f, params, tokens) == ({"table", "out"}, set(), set())
    assert_exact(f, params, tokens)


def test_lookup_outside_the_table_has_no_derivative():
    """With a fill value, an index outside the table contributes a constant."""
    tokens = jnp.array([[0, 9], [1, 1]])
    (table,) = normal(5, (4, 3))

    def f(p, t):
        return jnp.tanh(p.at[t].get(mode="fill", fill_value=0.5)).sum(1)

    assert_exact(f, table, tokens)


def test_other_lookups_fall_back():
    tokens = jnp.array([[0, 1], [2, 2]])
    params = named(6, table=(4, 3))
    f = lambda p, t: jnp.take(p["table"], t, axis=1).swapaxes(0, 1).reshape(-1, 8)  # noqa: E731
    assert plan(f, params, tokens) == (set(), set(), {"table"})
    assert_exact(f, params, tokens)


# -- contraction --------------------------------------------------------------------------------


def outer(seed, n, groups, positions):
    a, g = normal(seed, (n, groups, positions, 4), (n, 3, groups, positions, 2))
    return Outer(a, g)


def lookup(seed, n, positions):
    index = jax.random.randint(jax.random.key(seed), (n, positions), 0, 3)
    return Lookup(index, normal(seed, (n, 3, 1, positions, 2))[0])


def dense_jacobian(factor):
    if isinstance(factor, Lookup):
        factor = Outer(jax.nn.one_hot(factor.index, 3, dtype=jnp.float64)[:, None], factor.g)
    j = np.einsum("ngsf,nogsc->nogfc", factor.a, factor.g)
    return j.reshape(*j.shape[:2], -1)


@pytest.mark.parametrize("reduce", ["trace", "diagonal", "full"])
@pytest.mark.parametrize(
    "make",
    [
        functools.partial(outer, groups=1, positions=1),
        functools.partial(outer, groups=3, positions=1),
        functools.partial(outer, groups=1, positions=5),
        functools.partial(outer, groups=2, positions=5),
        functools.partial(lookup, positions=1),
        functools.partial(lookup, positions=4),
    ],
)
def test_contractions(make, reduce, monkeypatch):
    left, right = make(7, n=5), make(8, n=4)
    out = {"trace": "nop,mop->nm", "diagonal": "nop,mop->nmo", "full": "nop,mqp->nmoq"}[reduce]
    expected = np.einsum(out, dense_jacobian(left), dense_jacobian(right))
    for step in (2**20, 4000):  # all rows in one step; a few at a time
        monkeypatch.setattr(factors, "_STEP_BYTES", {"cpu": step, "other": step})
        # float64 rounding of sums of about a hundred terms of order one
        np.testing.assert_allclose(contract(left, right, reduce), expected, atol=1e-12)


def test_order_of_contraction_follows_the_sizes():
    """Many positions of few weights: Jacobian first; few positions of many weights: never."""
    many = Outer(jnp.ones((8, 1, 100, 9)), jnp.ones((8, 2, 1, 100, 4)))
    few = Outer(jnp.ones((8, 1, 2, 500)), jnp.ones((8, 2, 1, 2, 400)))
    assert isinstance(settle(many, "trace"), Jacobian)
    assert isinstance(settle(few, "trace"), Outer)
    factor = outer(9, 5, 2, 60)
    settled = settle(factor, "full")
    assert isinstance(settled, Jacobian)
    full = [contract(f, f, "full") for f in (factor, settled)]
    np.testing.assert_allclose(*full, rtol=1e-12, atol=1e-10)  # rounding of 120 terms


def test_nothing_of_the_size_of_the_parameters_is_formed():
    params = named(10, a=(300, 400), b=(400,), c=(400, 5))
    f = lambda p, x: jnp.tanh(x @ p["a"] + p["b"][None]) @ p["c"]  # noqa: E731
    problem = as_problem(f, params)
    x = jnp.ones((6, 300))
    lowered = _derivatives.lower(
        problem.apply, problem.leaves, x, method="structured", reduce="trace"
    )
    memory = lowered.compile().memory_analysis()
    parameters = 8 * (300 * 400 + 400 + 400 * 5)
    # one per-example Jacobian for 6 rows and 5 outputs would be 30 times the parameters
    assert memory.temp_size_in_bytes + memory.output_size_in_bytes < parameters


def test_both_conventions_of_bound_parameters():
    """Parameters of an equation come as a dict, or after a list of sub-functions."""
    eqn = jax.make_jaxpr(lambda a: a.reshape(3, 2))(jnp.ones((2, 3))).eqns[0]
    pair = SimpleNamespace(
        params=eqn.params,
        primitive=SimpleNamespace(
            get_bind_params=lambda params: ([], params),
            bind=eqn.primitive.bind,
            multiple_results=False,
        ),
    )
    for equation in (eqn, pair):
        (out,) = bind(equation, [jnp.arange(6.0).reshape(2, 3)])
        np.testing.assert_array_equal(out, np.arange(6.0).reshape(3, 2))
