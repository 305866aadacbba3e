"""Mean-field theory against published numbers, quadrature, iterated layers, deep kernels."""

import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.stats

import ntk
from deeplimits import DomainError
from deeplimits.errors import ConvergenceError, PrecisionError, UnsupportedLayerError
from deeplimits.gaussian import bivariate_expectation, expectation
from ntk.activations import dual
from ntk.edge_of_chaos import depth_limits, order_to_chaos, slope_jumps
from ntk.mean_field import chi_1, mean_field
from ntk.single_input import nearby_inputs, single_input, susceptibilities

K = np.array([1e-6, 1e-2, 0.5, 1.0, 20.0])


def adaptive(pair, kinks, weight):
    """Averages of the squares of a NumPy function and its derivative, times ``weight(z)``."""
    return [
        expectation(
            lambda z, s=s: np.stack([g(s * z) ** 2 * weight(z) for g in pair], axis=-1),
            kinks=tuple(t / s for t in kinks),
            max_nodes=2**19,
        )
        for s in np.sqrt(K)
    ]


def step_between(low, high, height):
    return lambda x: np.where((x > low) & (x < high), height, 0.0)


NORMAL = scipy.stats.norm
#: Name, function, derivative, kinks. At K = 0.5 a panel of the hard tanh ends at a kink by itself,
#: and at K = 1 one of the hard sigmoid.
FUNCTIONS = {
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2, ()),
    "gelu": (lambda x: x * NORMAL.cdf(x), lambda x: NORMAL.cdf(x) + x * NORMAL.pdf(x), ()),
    "cos": (np.cos, np.sin, ()),
    "softsign": (lambda x: x / (1 + abs(x)), lambda x: (1 + abs(x)) ** -2.0, (0,)),
    "elu": (
        lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
        lambda x: np.where(x > 0, 1, np.exp(np.minimum(x, 0))),
        (0,),
    ),
    "hard_tanh": (lambda x: np.clip(x, -1, 1), step_between(-1, 1, 1.0), (-1, 1)),
    "hard_sigmoid": (lambda x: np.clip(x / 6 + 0.5, 0, 1), step_between(-3, 3, 1 / 6), (-3, 3)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_averages_against_adaptive_quadrature(name):
    """Closed forms and fixed rules, and their derivatives by weights instead of autodiff."""
    *pair, kinks = FUNCTIONS[name]
    found = single_input(name, K)
    plain, weighted = (adaptive(pair, kinks, w) for w in (np.ones_like, lambda z: z * z - 1))
    for i, k in enumerate(K):
        # adaptive to 1e-12 of the average
        np.testing.assert_allclose(
            plain[i].value, [found.value[i], found.slope[i]], rtol=2e-12, atol=1e-14
        )
        # <f^2 (z^2 - 1)> / 2K: cancellation of the weights, hence the error divided by K
        tolerance = (weighted[i].abs_err + 1e-14 * np.abs(plain[i].value)) / k + 1e-12
        expected = weighted[i].value / (2 * k)
        got = [found.chi_parallel[i], 2 * found.h[i]]
        assert np.all(np.abs(expected - got) < 3 * tolerance)


@pytest.mark.parametrize(("name", "value"), [("relu", 0.5), ("gelu", 0.25), ("tanh", 1.0)])
def test_slopes_at_variance_zero_are_limits(name, value):
    found = single_input(name, 0.0)
    assert float(found.chi_perp) == pytest.approx(value, rel=1e-14)
    assert float(found.chi_parallel) == pytest.approx(value, rel=1e-14)


def test_second_derivative_and_parameters():
    found = single_input("gelu", 2.0, W_std=1.3)
    step = 1e-4
    near = single_input("gelu", [2 - step, 2 + step], W_std=1.3)
    slope_of_chi = np.diff(near.chi_parallel)[0] / (2 * step)
    # central difference: error step^2 / 6 times a third derivative below 1
    assert float(found.d_chi_parallel) == pytest.approx(slope_of_chi, abs=1e-8)
    assert float(found.rel_err) == 0
    assert float(single_input("tanh", 2.0).rel_err) < 1e-13


def test_rules_stay_accurate_at_large_variances():
    for name in ("tanh", "softplus", "softsign"):
        assert np.all(single_input(name, [1e-8, 1.0, 1e3]).rel_err < 1e-12)  # rounding


def test_refusals_of_single_input():
    with pytest.raises(DomainError, match="K is a variance"):
        single_input("tanh", -1.0)
    with pytest.raises(UnsupportedLayerError, match="all networks with it are chaotic"):
        single_input("sign", 1.0)
    with pytest.raises(DomainError, match="not finite at variances up to 1000"):
        single_input("exp", 1e3)
    with pytest.raises(ConvergenceError, match="Declare its kinks"):
        single_input(lambda x: jnp.sin(40 * x), 400.0)


def test_gradients_against_finite_differences():
    step = 1e-5  # error step^2 = 1e-10 times third derivatives of order 10, and 1e-16 / step
    W, b = 1.7, 0.3
    found = jax.grad(lambda *a: chi_1("tanh", *a), argnums=(0, 1))(W, b)
    for value, shift in zip(found, np.eye(2) * step, strict=True):
        up, down = (chi_1("tanh", W + s * shift[0], b + s * shift[1]) for s in (1, -1))
        assert float(value) == pytest.approx(float(up - down) / (2 * step), abs=1e-8)
    assert float(chi_1("tanh", 1.7, 0.3)) == pytest.approx(mean_field("tanh", 1.7, 0.3).chi_1)
    # through the parameters of the activation and the variance itself
    d = dual("sin")
    value = jax.jacfwd(lambda q: jnp.stack(susceptibilities(d, q, 1.5)))(jnp.float64(0.8))
    at = single_input("sin", 0.8, W_std=1.5)
    assert float(value[0]) == pytest.approx(float(at.d_chi_parallel), rel=1e-12)
    assert float(value[1]) == pytest.approx(2 * float(at.h), rel=1e-12)
    with jax.enable_x64(False), pytest.raises(PrecisionError, match="chi_1 needs float64"):
        chi_1("tanh", 1.0, 0.0)


TABLE = [
    # sigma_w^2, sigma_b^2, q*, c*, chi_1, xi_q, xi_c
    (1.3, 0.05, 0.31531648, 1.0, 0.88016351, 1.785237, 7.834069),
    (2.5, 0.05, 1.06395838, 0.44680423, None, 1.179873, 11.79560),
    (4.0, 0.3, None, 0.57539477, None, None, 6.549683),
]


@pytest.mark.parametrize("row", TABLE)
def test_published_points_of_tanh(row):
    m = mean_field("tanh", math.sqrt(row[0]), math.sqrt(row[1]))
    found = (m.q_star, m.c_star, m.chi_1, m.xi_q, m.xi_c)
    for value, expected in zip(found, row[2:], strict=True):
        if expected is not None:
            assert value == pytest.approx(expected, rel=5e-7)  # half of the last digit
    assert m.phase == ("ordered" if row[0] == 1.3 else "chaotic")
    assert m.stability == ("stable",)


def iterate_pairs(d, W2, b2, q, c, layers):
    """Variance and correlation after every layer by two-dimensional quadrature."""
    path = []
    for _ in range(layers):
        product = bivariate_expectation(
            lambda x, y: np.tanh(x) * np.tanh(y), [q, q], [q, c * q], [q, q]
        )
        new_q, new_K = b2 + W2 * product.value
        q, c = new_q, new_K / new_q
        path.append((q, c))
    return np.array(path)


def test_depth_scales_by_iterating_the_layers():
    """An independent route: tanh by quadrature in the plane, layer by layer."""
    for W2, b2 in ((1.3, 0.05), (2.5, 0.05)):
        m = mean_field("tanh", math.sqrt(W2), math.sqrt(b2))
        path = iterate_pairs(dual("tanh"), W2, b2, 1.0, 0.3, 60)
        assert path[-1, 0] == pytest.approx(m.q_star, rel=1e-11)  # exp(-60 / xi_q) = 1e-15
        rate_q = np.diff(np.log(np.abs(path[8:14, 0] - m.q_star))).mean()
        # the slope is approached like exp(-10 / xi_q) = 4e-3 times a curvature below 1
        assert -1 / rate_q == pytest.approx(m.xi_q, rel=5e-3)
        rate_c = np.diff(np.log(np.abs(path[-16:-8, 1] - m.c_star))).mean()
        # the rest of the transient: exp(-45 / xi_c) = 3e-3 (ordered), 2e-2 times 0.1 (chaotic)
        assert -1 / rate_c == pytest.approx(m.xi_c, rel=5e-3)


def test_other_routes_to_the_same_fixed_points():
    relu = mean_field("relu", 1.0, 0.3)
    assert relu.q_star == pytest.approx(0.18, rel=1e-15)
    assert (relu.c_star, relu.chi_1, relu.phase) == (1.0, 0.5, "ordered")
    odd = mean_field("tanh", 2.0, 0.0)
    assert odd.stability == ("unstable", "stable")
    assert odd.fixed_points[0] == 0
    assert odd.c_star == pytest.approx(0, abs=1e-15)
    zero = mean_field("tanh", 0.5, 0.0)
    assert (zero.q_star, zero.phase, zero.stability) == (0.0, "ordered", ("stable",))
    edge = mean_field("tanh", 1.0, 0.0)
    assert (edge.q_star, edge.phase, edge.xi_c, edge.stability) == (
        0.0,
        "critical",
        math.inf,
        ("stable",),
    )
    neutral = mean_field("relu", math.sqrt(2), 0.0, q0=0.7)
    assert (neutral.q_star, neutral.stability, neutral.phase) == (0.7, ("neutral",), "critical")


def test_divergence_is_reported():
    m = mean_field("relu", 1.6, 0.3)
    assert (m.q_star, m.phase, len(m.fixed_points)) == (math.inf, "divergent", 0)
    assert math.isnan(m.c_star)
    assert m.chi_1 == pytest.approx(1.28)
    assert mean_field("exp", 0.5, 0.1).phase == "divergent"
    # a stable fixed point, and beyond an unstable one divergence
    cubic = mean_field("hermite3", 0.7, 0.1)
    assert cubic.stability == ("stable", "unstable")
    assert mean_field("hermite3", 0.7, 0.1, q0=10.0).phase == "divergent"
    with pytest.raises(DomainError, match=r"the variance diverges at W_std = 1\.6"):
        depth_limits("relu", 1.6, 0.3)


def test_activation_that_jumps_is_always_chaotic():
    m = mean_field("sign", 1.0, 0.5)
    assert (m.chi_1, m.phase, m.q_star) == (math.inf, "chaotic", 1.25)
    # c = (b^2 + W^2 (2/pi) arcsin c) / q
    assert m.c_star * 1.25 == pytest.approx(0.25 + 2 / math.pi * math.asin(m.c_star), rel=1e-12)


@pytest.mark.parametrize(("W_std", "b_std", "q0"), [(0.0, 0.1, 1), (1.0, -0.1, 1), (1.0, 0.1, 0.0)])
def test_bad_parameters(W_std, b_std, q0):
    with pytest.raises(DomainError, match="must be"):
        mean_field("tanh", W_std, b_std, q0=q0)


EDGE = {
    1e-4: (1.08602629, 0.04570908),
    0.01: (1.42420529, 0.27330091),
    0.05: (1.76095464, 0.57004788),
    0.1: (1.98607264, 0.80579918),
    0.3: (2.50512719, 1.46116945),
    0.5: (2.84316746, 1.97103061),
}


@pytest.mark.optimized
def test_edge_of_tanh():
    line = order_to_chaos("tanh", b_std=np.sqrt([0.0, *EDGE]))
    assert (line.W_std[0], line.q_star[0]) == (1.0, 0.0)
    expected = np.array(list(EDGE.values()))
    # eight decimals are published
    np.testing.assert_allclose(line.W_std[1:] ** 2, expected[:, 0], atol=6e-9)
    np.testing.assert_allclose(line.q_star[1:], expected[:, 1], atol=6e-9)
    again = order_to_chaos("tanh", q=line.q_star.values[1:])
    np.testing.assert_allclose(again.b_std, line.b_std[1:], rtol=1e-12)
    m = mean_field("tanh", float(line.W_std[3]), float(line.b_std[3]))
    assert m.phase == "critical"
    assert line.W_std.attrs["units"]


def test_edge_of_tanh_by_mpmath():
    with mpmath.workdps(25):
        q = mpmath.mpf("0.57004788")
        mean = lambda f: mpmath.quad(  # noqa: E731
            lambda z: f(mpmath.sqrt(q) * z) * mpmath.npdf(z), [-12, -3, 0, 3, 12]
        )
        C_W = 1 / mean(lambda x: mpmath.sech(x) ** 4)
        C_b = q - C_W * mean(lambda x: mpmath.tanh(x) ** 2)
    line = order_to_chaos("tanh", q=[0.57004788])
    assert float(line.W_std[0]) == pytest.approx(float(mpmath.sqrt(C_W)), rel=1e-14)
    assert float(line.b_std[0]) == pytest.approx(float(mpmath.sqrt(C_b)), rel=1e-13)


def test_edges_that_do_not_exist():
    # He initialisation is the whole line of ReLU: no bias
    relu = order_to_chaos("relu", q=[0.5, 3.0])
    np.testing.assert_allclose(relu.b_std, 0.0, atol=0)
    assert np.isnan(order_to_chaos("relu", b_std=[0.1]).W_std[0])
    assert np.isnan(order_to_chaos("softplus", q=[1e-2]).b_std[0])
    with pytest.raises(DomainError, match="not both"):
        order_to_chaos("tanh", q=[1.0], b_std=[0.1])
    with pytest.raises(DomainError, match="q must be numbers > 0"):
        order_to_chaos("tanh", q=[0.0])
    with pytest.raises(UnsupportedLayerError, match="chaotic"):
        order_to_chaos("step")


def deep_pair(activation, W_std, b_std, q, layers):
    """``1 - c`` and the ratio of NTK entries of two inputs after many layers of a real stack."""
    block = ntk.serial(ntk.Dense(1, W_std, b_std), ntk.Activation(dual(activation)))
    net = ntk.serial(ntk.repeat(block, layers), ntk.Dense(1, W_std, b_std))
    radius = math.sqrt((q - b_std**2) * 2) / W_std
    x = radius * np.array([[1.0, 0.0], [0.6, 0.8]])
    k = net.kernel_fn(x, None, ("nngp", "ntk"))
    nngp, tangent = np.asarray(k.nngp), np.asarray(k.ntk)
    return 1 - nngp[0, 1] / nngp[0, 0], tangent[0, 1] / tangent[0, 0]


def test_depth_limits_against_deep_kernels():
    b = math.sqrt(0.05)
    line = order_to_chaos("sin", b_std=[b])
    cases = [("sin", float(line.W_std[0]), b), ("relu", math.sqrt(2), 0.0)]
    for name, W_std, b_std in cases:
        limits = depth_limits(name, W_std, b_std)
        layers = 4000
        gap, ratio = deep_pair(name, W_std, b_std, limits.mean_field.q_star, layers)
        # corrections of order ln(l)/l = 2e-3, times up to 5
        assert gap / limits.gap(layers) == pytest.approx(1, abs=0.01)
        assert ratio == pytest.approx(limits.ntk_ratio, abs=0.01)
    assert depth_limits("relu", math.sqrt(2), 0.0).coefficient == pytest.approx(4.5 * math.pi**2)
    W = float(order_to_chaos("tanh", b_std=[b]).W_std[0])
    assert depth_limits("tanh", W, b).coefficient == pytest.approx(6.171, abs=5e-4)


def test_depth_limits_of_a_kinked_activation_by_its_gap_map():
    """hard tanh: eps' = eps - k eps^(3/2), read off quadrature in the plane."""
    line = order_to_chaos("hard_tanh", b_std=[0.3])
    limits = depth_limits("hard_tanh", float(line.W_std[0]), 0.3)
    assert (limits.power, limits.ntk_ratio) == (1.5, 0.25)
    d, q, C_W = dual("hard_tanh"), limits.mean_field.q_star, float(line.W_std[0]) ** 2
    eps = np.array([1e-4, 4e-4])
    fall = bivariate_expectation(
        lambda x, y: (np.clip(x, -1, 1) - np.clip(y, -1, 1)) ** 2 / 2,
        q,
        q * (1 - eps),
        q,
        kinks=(-1, 1),
        tol=1e-9,
    )
    k = (eps - C_W / q * fall.value) / eps**1.5
    # the next term is smaller by sqrt(eps) and extrapolated away; the one after it by eps
    found = ((2 * k[0] - k[1]) / 2) ** -2.0
    assert found == pytest.approx(limits.coefficient, rel=2e-3)
    assert slope_jumps(d) == {-1.0: 1.0, 1.0: -1.0}
    assert slope_jumps(dual("softsign")) == {}


def test_limits_off_criticality_and_conditioning():
    smooth = depth_limits("relu", math.sqrt(2), 0.0)
    for n in (2, 10):
        r = smooth.ntk_ratio
        gram = (1 - r) * np.eye(n) + r
        assert smooth.condition_number(n) == pytest.approx(np.linalg.cond(gram), rel=1e-12)
        assert smooth.condition_number(n) == pytest.approx((n + 3) / 3, rel=1e-12)
    ordered, chaotic = depth_limits("sin", 0.8, 0.1), depth_limits("sin", 3.0, 0.1)
    assert (ordered.ntk_ratio, ordered.condition_number(3)) == (1.0, math.inf)
    assert (chaotic.ntk_ratio, chaotic.condition_number(3)) == (0.0, 1.0)
    assert math.isnan(ordered.power)
    for limits, W in ((ordered, 0.8), (chaotic, 3.0)):
        ratio = deep_pair("sin", W, 0.1, limits.mean_field.q_star, 4000)[1]
        # exp(-4000 / xi) with xi below 6 layers, and rounding
        assert ratio == pytest.approx(limits.ntk_ratio, abs=1e-10)
    with pytest.raises(DomainError, match="critical at variance 0"):
        depth_limits("tanh", 1.0, 0.0)
    assert math.isinf(depth_limits("linear", 1.0, 0.0).power)
    assert len(smooth.plot().lines) == 1


def test_nearby_inputs_against_the_kernel_of_two_inputs():
    """K_{++} - K_{--} = 2 K1 and K_{++} + K_{--} - 2 K_{+-} = 4 K2, layer by layer."""
    d, W, b, layers = dual("sin"), 1.4, 0.3, 6
    errors = []
    for size in (1e-2, 1e-3):
        x0, dx = np.array([1.0, 0.4]), size * np.array([0.7, -0.5])
        plus, minus = x0 + dx / 2, x0 - dx / 2
        K0 = b * b + W * W * np.mean(x0**2 - dx**2 / 4 + dx**2 / 4)
        K1, K2 = W * W * np.mean(x0 * dx), W * W * np.mean(dx**2) / 4
        path = nearby_inputs(d, W, b, K0=K0, K1=K1, K2=K2, layers=layers)
        block = ntk.serial(ntk.Activation(d), ntk.Dense(1, W, b))
        net = ntk.serial(ntk.Dense(1, W, b), *[block] * layers)
        k = np.asarray(net.nngp(np.stack([plus, minus])))
        exact = (k[0, 0] - k[1, 1]) / 2, (k[0, 0] + k[1, 1] - 2 * k[0, 1]) / 4
        errors.append([abs(path.K1[-1] / exact[0] - 1), abs(path.K2[-1] / exact[1] - 1)])
    errors = np.array(errors)
    assert np.all(errors[0] < 1e-3)
    # the next order of the expansion is dx^2: a factor 100, until rounding 1e-16 / dx^2 = 1e-10
    assert np.all(errors[1] < errors[0] / 50 + 1e-9)


def test_plots():
    m = mean_field("tanh", 2.0, 0.0)
    assert m.plot().get_title() == "chaotic"
