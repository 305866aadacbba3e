"""critical_init: published numbers, layer maps iterated deep, independent quadrature, refusals."""

import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from deeplimits import DomainError
from deeplimits.errors import NoCriticalInitialisation
from ntk.activations import dual
from ntk.critical_init import critical_init
from ntk.criticality import expansion
from ntk.mean_field import mean_field
from ntk.single_input import averages, single_input


def iterate(activation, C_b, C_W, K, layers):
    """``K`` after so many layers, and the product and last value of chi_perp."""
    d = dual(activation)

    def layer(state, _):
        K, total = state
        value, slope = averages(d, K)
        return (C_b + C_W * value, total + jnp.log(C_W * slope)), C_W * slope

    run = jax.jit(lambda K: jax.lax.scan(layer, (K, jnp.zeros_like(K)), None, length=layers))
    (K, log_product), chi = run(jnp.asarray([float(K)]))
    return float(K[0]), float(log_product[0]), float(chi[-1, 0])


@pytest.mark.parametrize(
    ("name", "A2"), [("linear", 1.0), ("relu", 0.5), ("leaky_relu", 0.50005), ("abs", 1.0)]
)
def test_scale_invariant(name, A2):
    c = critical_init(name)
    assert c.universality == "scale-invariant"
    assert c.C_b == 0
    assert c.C_W == pytest.approx(1 / A2, rel=1e-15)  # one rounding
    assert math.isnan(c.K_star)
    for K in (1e-3, 1.0, 1e3):
        s = single_input(name, K, W_std=c.W_std)
        assert float(s.chi_parallel) == pytest.approx(1, rel=1e-14)  # a few roundings
        assert float(s.chi_perp) == pytest.approx(1, rel=1e-14)


@pytest.mark.parametrize(
    ("name", "C_W", "a1", "layers"),
    [
        ("tanh", 1.0, -2.0, 20_000),
        ("erf", math.pi / 4, -2.0, 20_000),
        ("sin", 1.0, -1.0, 20_000),
    ],
)
def test_smooth_class(name, C_W, a1, layers):
    c = critical_init(name)
    assert (c.universality, c.power, c.K_star, c.C_b) == ("K*=0", 1.0, 0.0, 0.0)
    assert c.C_W == pytest.approx(C_W, rel=1e-15)
    assert c.a1 == pytest.approx(a1, rel=1e-11)  # derivatives are taken 1e-12 away from 0
    assert c.p_perp == pytest.approx(1.0, rel=1e-11)
    K, _, chi = iterate(name, c.C_b, c.C_W, 1.0, layers)
    # corrections of order ln(l)/l: 5e-4 at 20000 layers, 2e-3 at 4000, times a number below 5
    assert K / c.variance(layers) == pytest.approx(1, abs=5 * math.log(layers) / layers)
    assert layers * (1 - chi) == pytest.approx(c.p_perp, abs=5 * math.log(layers) / layers)


@pytest.mark.parametrize(
    ("name", "limit"), [("elu", 2 * math.pi), ("softsign", math.pi / 8), ("selu", None)]
)
def test_cusp_class(name, limit):
    c = critical_init(name)
    assert (c.universality, c.power) == ("K*=0", 0.5)
    if limit is not None:
        assert float(c.variance(1.0)) == pytest.approx(limit, rel=1e-11)
    layers = 20_000
    K, _, chi = iterate(name, c.C_b, c.C_W, 0.5, layers)
    # corrections of order ln(l)/l times the ratio of coefficients, below 10
    assert K / c.variance(layers) == pytest.approx(1, abs=10 * math.log(layers) / layers)
    assert layers * (1 - chi) == pytest.approx(2, abs=20 * math.log(layers) / layers)
    assert c.p_perp == pytest.approx(2, rel=1e-15)


def test_activations_that_are_linear_around_zero():
    for name, C_W in (("hard_tanh", 1.0), ("relu6", 2.0)):
        c = critical_init(name)
        assert (c.universality, c.C_W, c.power) == ("K*=0", C_W, math.inf)
        with pytest.raises(DomainError, match="no power of the depth balances"):
            c.learning_rates(10)


GELU_K = (3 + math.sqrt(17)) / 2


@pytest.mark.parametrize(
    ("name", "K_star", "C_b", "C_W", "bend"),
    [
        ("gelu", 3.56155281, 0.17292239, 1.98305826, -2.873e-4),
        ("swish", 14.32017362, 0.55514317, 1.98800468, 5.70e-6),
        ("mish", 1.6701691, 0.0945218, 2.0135241, 1.58e-2),
    ],
)
def test_half_stable_class(name, K_star, C_b, C_W, bend):
    c = critical_init(name)
    assert c.universality == "half-stable"
    # as many digits as are published (Mish: computed here, confirmed in the next test)
    assert c.K_star == pytest.approx(K_star, abs=5e-8)
    assert c.C_b == pytest.approx(C_b, abs=5e-8)
    assert c.C_W == pytest.approx(C_W, abs=5e-8)
    assert c.d_chi_parallel == pytest.approx(bend, rel=2e-3)  # three digits published
    if name == "gelu":
        assert c.K_star == pytest.approx(GELU_K, rel=1e-12)  # closed form; root to 1e-15 in ln K


def moments_by_mpmath(f, K):
    """``<ff>``, ``<f'f'>`` and ``<ff(z^2 - K)> / 2K^2`` by adaptive quadrature in 30 digits."""
    with mpmath.workdps(30):
        s = mpmath.sqrt(K)
        weight = lambda x: mpmath.exp(-x * x / (2 * K)) / (s * mpmath.sqrt(2 * mpmath.pi))  # noqa: E731
        cuts = [-40 * s, -10 * s, -4 * s, -s, 0, s, 4 * s, 10 * s, 40 * s]

        def mean(g):
            return mpmath.quad(lambda x: g(x) * weight(x), cuts)

        value = mean(lambda x: f(x) ** 2)
        slope = mean(lambda x: mpmath.diff(f, x) ** 2)
        parallel = mean(lambda x: f(x) ** 2 * (x * x - K)) / (2 * K * K)
        return value, slope, parallel


def test_critical_point_of_mish_by_independent_quadrature():
    c = critical_init("mish")
    value, slope, parallel = moments_by_mpmath(
        lambda x: x * mpmath.tanh(mpmath.log1p(mpmath.exp(x))), mpmath.mpf(c.K_star)
    )
    # rounding of the double-precision averages
    assert abs(c.C_W * slope - 1) < 1e-12
    assert abs(c.C_W * parallel - 1) < 1e-12
    assert abs(c.C_b + c.C_W * value - c.K_star) < 1e-12


def test_half_stable_points_attract_from_one_side():
    """GELU: reached from above, left below; and there another fixed point at 0.852 K*."""
    c = critical_init("gelu")
    from_above = mean_field("gelu", c.W_std, c.b_std, q0=1.1 * c.K_star)
    assert from_above.q_star == pytest.approx(c.K_star, rel=1e-9)
    assert from_above.phase == "critical"
    assert from_above.stability == ("stable", "half-stable")
    from_below = mean_field("gelu", c.W_std, c.b_std)
    assert from_below.q_star / c.K_star == pytest.approx(0.852, abs=5e-4)  # three digits published
    layers = 200_000
    K, _, _ = iterate("gelu", c.C_b, c.C_W, 1.1 * c.K_star, layers)
    # the start counts as 2/(bend 0.1 K*) = 20000 layers: 10 % of 200000, and the cubic term
    assert K - c.K_star == pytest.approx(float(c.variance(layers * 1.1)) - c.K_star, rel=0.15)
    s = critical_init("swish")
    state = mean_field("swish", s.W_std, s.b_std, q0=1.2 * s.K_star)
    assert state.q_star / s.K_star == pytest.approx(1.019, abs=5e-4)


def test_scaling_the_input_scales_the_critical_variance():
    """x sigmoid(2x) = swish(2x)/2 is critical at K*/4 and C_b/4, with the same C_W."""
    c, scaled = critical_init("swish"), critical_init(lambda x: x * jax.nn.sigmoid(2 * x))
    # both roots have an error of about rounding over the relative bend, K* d_chi = 8e-5
    assert scaled.K_star == pytest.approx(c.K_star / 4, rel=1e-10)
    assert scaled.C_b == pytest.approx(c.C_b / 4, rel=1e-10)
    assert scaled.C_W == pytest.approx(c.C_W, rel=1e-12)


def test_expansion_against_averages():
    """The next order must be a power K^p smaller: the error falls as K^2p."""
    cases = [("selu", 1e-6), ("softsign", 1e-6), ("gelu", 1e-3), ("tanh", 1e-3), ("hermite3", 1e-3)]
    for name, K in cases:
        A2, (p, a1, b1) = expansion(dual(name))
        at = np.array([K, 4 * K])
        value, slope = (np.asarray(a) for a in averages(dual(name), jnp.asarray(at)))
        rest = np.abs([value / (A2 * at) - 1 - a1 * at**p, slope / A2 - 1 - b1 * at**p])
        if name == "hermite3":  # both expansions end at K^2, exactly
            assert np.all(rest < 10 * at**2)
            continue
        # a factor 4^2p apart, up to the following order
        assert np.allclose(np.log(rest[:, 1] / rest[:, 0]) / np.log(4), 2 * p, atol=0.05)
    # a power of 2: sin(x) + x^3/6 = x + x^5/120 + ... has <ss> = K (1 + K^2/4 + ...)
    A2, (p, a1, _) = expansion(dual(lambda x: jnp.sin(x) + x**3 / 6))
    assert (A2, p) == (1.0, 2.0)
    assert a1 == pytest.approx(0.25, rel=0.1)  # measured at K of about 1e-2


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("softplus", r"s\(0\) = 0.6931 is not 0.*runs from 0.59.* to 0.97"),
        ("sigmoid", r"C_b would be .*= -4 < 0"),
        ("cos", "d<ss>/dK is not positive"),
        ("exp", "runs from 0.5 to 0.5"),
        ("monomial3", r"s'\(0\) = 0 excludes"),
        ("sign", "jumps"),
    ],
)
def test_refusals(name, reason):
    with pytest.raises(NoCriticalInitialisation, match=reason) as error:
        critical_init(name)
    assert isinstance(error.value, ValueError)


def test_unstable_zero_without_another_root_is_refused():
    with pytest.raises(NoCriticalInitialisation, match=r"K\* = 0 is unstable"):
        critical_init(lambda x: jnp.sin(x) + x**3 / 6)


def test_no_fake_roots():
    """sin and cos beyond K = 20: both sides are e^-2K or constant, and nothing is a root there."""
    wave = critical_init(lambda x: jnp.sin(x))
    assert (wave.universality, wave.K_star) == ("K*=0", 0.0)
    shifted = lambda x: jnp.sin(x + 0.5)  # noqa: E731
    with pytest.raises(NoCriticalInitialisation, match="runs from 1"):
        critical_init(shifted)


def tangent_kernel(c, layers, K, b, W):
    """NTK of one input after ``layers`` layers with the learning rates of the record."""
    d = dual(c.activation)
    rates = tuple(jnp.asarray(r) for r in c.learning_rates(layers, b=b, W=W))

    def layer(state, rate):
        K, theta = state
        value, slope = averages(d, K)
        lam_b, lam_W = rate
        return (c.C_b + c.C_W * value, lam_b + lam_W * value + c.C_W * slope * theta), None

    start = (jnp.asarray([K]), jnp.zeros(1))
    return float(jax.jit(lambda r: jax.lax.scan(layer, start, r))(rates)[0][1][0])


@pytest.mark.parametrize(
    ("name", "limit"), [("tanh", 0.9), ("sin", 1.3), ("elu", None), ("relu", None), ("gelu", None)]
)
def test_equivalence_principle(name, limit):
    c, layers = critical_init(name), 20_000
    b, W, K = (0.5, 0.8, 0.7)
    if name == "gelu":
        K = c.K_star
    expected = c.ntk_limit(K if name == "relu" else None, b=b, W=W)
    if limit is not None:
        assert expected == pytest.approx(limit, rel=1e-12)
    # corrections of order ln(l)/l = 5e-4, summed over layers (ELU: times about 10)
    assert tangent_kernel(c, layers, K, b, W) == pytest.approx(expected, rel=0.01)


def test_arguments_of_the_record():
    relu, tanh = critical_init("relu"), critical_init("tanh")
    with pytest.raises(DomainError, match="K is needed"):
        relu.ntk_limit()
    with pytest.raises(DomainError, match="K is fixed"):
        tanh.ntk_limit(1.0)
    with pytest.raises(DomainError, match="depth must be >= 1"):
        tanh.learning_rates(0)
    with pytest.raises(DomainError, match="power law"):
        critical_init("hard_tanh").ntk_limit()
    assert np.isnan(relu.variance(3)).all()
    assert len(critical_init("tanh").plot().lines) == 3
