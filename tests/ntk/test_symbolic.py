"""Duals derived from formulas, against polar quadrature and the library's closed forms."""

import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sympy as sp
from scipy.special import erf, ndtr

from deeplimits.errors import DomainError, UnsupportedLayerError
from ntk.arccosine import ABRelu, RectifiedMonomial, Sign, Step
from ntk.bumps import Gabor, Gaussian
from ntk.closed_forms import Exp
from ntk.error_function import Erf, Gelu
from ntk.polynomials import Monomial, Polynomial
from ntk.symbolic import SymbolicDual, derive_dual
from ntk.waves import Sin

x = sp.Symbol("x")
COVARIANCES = [
    (1.0, 0.5, 1.0),
    (0.7, -0.4, 1.3),
    (1.0, 0.97, 1.0),
    (0.2, 0.3, 2.1),
    (1.7, 0.0, 0.4),
]


def phi(t):
    return np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)


def step(t):
    return np.where(t > 0, 1.0, 0.0)


# Expression, the activation and its derivative in plain NumPy.
CASES = {
    "cube": (x**3, lambda t: t**3, lambda t: 3 * t**2),
    "quartic": (
        1 + x - 2 * x**2 + x**4 / 3,
        lambda t: 1 + t - 2 * t**2 + t**4 / 3,
        lambda t: 1 - 4 * t + 4 * t**3 / 3,
    ),
    "exp": (sp.exp(x), np.exp, np.exp),
    "2**x": (2**x, lambda t: 2.0**t, lambda t: np.log(2) * 2.0**t),
    "x exp": (x * sp.exp(x), lambda t: t * np.exp(t), lambda t: (1 + t) * np.exp(t)),
    "x bump": (
        x * sp.exp(-(x**2)),
        lambda t: t * np.exp(-(t**2)),
        lambda t: (1 - 2 * t**2) * np.exp(-(t**2)),
    ),
    "shifted bump": (
        sp.exp(-((x - 1) ** 2) / 2),
        lambda t: np.exp(-((t - 1) ** 2) / 2),
        lambda t: (1 - t) * np.exp(-((t - 1) ** 2) / 2),
    ),
    "sin": (sp.sin(x), np.sin, np.cos),
    "cosh": (sp.cosh(x / 2), lambda t: np.cosh(t / 2), lambda t: np.sinh(t / 2) / 2),
    "cos(2x+1)": (
        sp.cos(2 * x + 1),
        lambda t: np.cos(2 * t + 1),
        lambda t: -2 * np.sin(2 * t + 1),
    ),
    "x sin": (x * sp.sin(x), lambda t: t * np.sin(t), lambda t: np.sin(t) + t * np.cos(t)),
    "growing wave": (
        sp.exp(-x) * sp.cos(x),
        lambda t: np.exp(-t) * np.cos(t),
        lambda t: -np.exp(-t) * (np.cos(t) + np.sin(t)),
    ),
    "gabor": (
        sp.exp(-(x**2)) * sp.sin(x),
        lambda t: np.exp(-(t**2)) * np.sin(t),
        lambda t: np.exp(-(t**2)) * (np.cos(t) - 2 * t * np.sin(t)),
    ),
    "shifted gabor": (
        x * sp.exp(-(x**2) + x / 2) * sp.sin(x),
        lambda t: t * np.exp(-(t**2) + t / 2) * np.sin(t),
        lambda t: np.exp(-(t**2) + t / 2) * ((1 + t / 2 - 2 * t**2) * np.sin(t) + t * np.cos(t)),
    ),
    "erf": (sp.erf(x), erf, lambda t: 2 / np.sqrt(np.pi) * np.exp(-(t**2))),
    "line + erf": (
        1 + x + sp.erfc(-2 * x),
        lambda t: 2 + t + erf(2 * t),
        lambda t: 1 + 4 / np.sqrt(np.pi) * np.exp(-4 * t**2),
    ),
    "gelu": (
        x * (1 + sp.erf(x / sp.sqrt(2))) / 2,
        lambda t: t * ndtr(t),
        lambda t: ndtr(t) + t * phi(t),
    ),
    "x^3 erf": (
        x**3 * sp.erf(x),
        lambda t: t**3 * erf(t),
        lambda t: 3 * t**2 * erf(t) + 2 / np.sqrt(np.pi) * t**3 * np.exp(-(t**2)),
    ),
    "bump erf": (
        sp.exp(-(x**2)) * sp.erf(x) * x,
        lambda t: np.exp(-(t**2)) * erf(t) * t,
        lambda t: (
            np.exp(-(t**2)) * ((1 - 2 * t**2) * erf(t) + 2 / np.sqrt(np.pi) * t * np.exp(-(t**2)))
        ),
    ),
    "relu": (sp.Max(x, 0), lambda t: np.maximum(t, 0), step),
    "leaky relu": (
        sp.Max(x, x / 10),
        lambda t: np.maximum(t, t / 10),
        lambda t: 0.1 + 0.9 * step(t),
    ),
    "piecewise": (
        sp.Piecewise((-2 * x + x**2, x < 0), (x, True)),
        lambda t: np.where(t < 0, -2 * t + t**2, t),
        lambda t: np.where(t < 0, -2 + 2 * t, 1.0),
    ),
    "relu^2": (sp.Max(x, 0) ** 2, lambda t: np.maximum(t, 0) ** 2, lambda t: 2 * np.maximum(t, 0)),
    "x^9 step": (x**9 * sp.Heaviside(x), lambda t: t**9 * step(t), lambda t: 9 * t**8 * step(t)),
    "abs": (sp.Abs(x), np.abs, np.sign),
    "step": (sp.Heaviside(x), step, None),
    "sign + line": (sp.sign(x) + x, lambda t: np.sign(t) + t, None),
    "rectified bump": (
        sp.Max(x, 0) * sp.exp(-(x**2) / 2),
        lambda t: np.maximum(t, 0) * np.exp(-(t**2) / 2),
        lambda t: step(t) * (1 - t**2) * np.exp(-(t**2) / 2),
    ),
    "relu + exp": (
        sp.Max(x, 0) + sp.exp(x) / 4,
        lambda t: np.maximum(t, 0) + np.exp(t) / 4,
        lambda t: step(t) + np.exp(t) / 4,
    ),
    "relu + erf": (
        sp.Max(x, 0) + sp.erf(x),
        lambda t: np.maximum(t, 0) + erf(t),
        lambda t: step(t) + 2 / np.sqrt(np.pi) * np.exp(-(t**2)),
    ),
    "erf(x+1) bumped": (  # one factor with an offset beside a polynomial
        sp.exp(-(x**2)) * (1 + x),
        lambda t: np.exp(-(t**2)) * (1 + t),
        lambda t: np.exp(-(t**2)) * (1 - 2 * t - 2 * t**2),
    ),
}


def panels(edges, width, order):
    """Composite Gauss-Legendre nodes and weights between sorted edges."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    points = np.concatenate(
        [
            np.linspace(a, b, 1 + int(np.ceil((b - a) / width)))[:-1]
            for a, b in itertools.pairwise(edges)
            if b > a
        ]
        + [edges[-1:]]
    )
    half = np.diff(points)[:, None] / 2
    return ((points[:-1] + points[1:])[:, None] / 2 + half * nodes).ravel(), (
        half * weights
    ).ravel()


def quadrature(f, q11, q12, q22):
    """E[f(x) f(y)] in polar coordinates, the angles cut where x or y changes sign."""
    theta = np.arccos(q12 / np.sqrt(q11 * q22))
    cuts = np.mod([np.pi / 2, -np.pi / 2, theta + np.pi / 2, theta - np.pi / 2], 2 * np.pi)
    angle, angle_weight = panels(np.sort([0, *cuts, 2 * np.pi]), 0.3, 16)
    r, r_weight = panels(np.array([0.0, 14.0]), 0.5, 10)
    u = np.sqrt(q11) * r[:, None] * np.cos(angle)
    v = np.sqrt(q22) * r[:, None] * np.cos(angle - theta)
    weight = (r_weight * r * np.exp(-(r**2) / 2))[:, None] * angle_weight / (2 * np.pi)
    return np.sum(weight * f(u) * f(v))


@pytest.fixture(scope="module")
def derived():
    return {name: derive_dual(case[0], x) for name, case in CASES.items()}


@pytest.mark.parametrize("name", CASES)
def test_formulas_agree_with_quadrature(name, derived):
    _, f, df = CASES[name]
    d = derived[name]
    for g, formula, numeric in ((f, d.K, d.dual.K), (df, d.Kdot, d.dual.Kdot)):
        if g is None:
            continue
        values = numeric(*np.array(COVARIANCES).T)
        for q, value in zip(COVARIANCES, values, strict=True):
            expected = quadrature(g, *q)
            scale = np.sqrt(quadrature(g, q[0], q[0], q[0]) * quadrature(g, q[2], q[2], q[2]))
            exact = formula.evalf(30, subs=dict(zip(d.symbols, map(sp.Float, q), strict=True)))
            # Rounding of sums of up to 1e3 terms; the quadrature itself is good to 1e-14.
            assert abs(value - expected) < 1e-12 * scale
            assert abs(float(exact) - expected) < 1e-12 * scale
    with_density = lambda t: f(t) * phi(t)  # noqa: E731
    nodes, weights = panels(np.array([-40.0, 0.0, 40.0]), 0.25, 12)
    mean = np.sum(weights * with_density(nodes))
    np.testing.assert_allclose(d.dual.mean(1.0), mean, rtol=1e-12, atol=1e-12)  # as above


@pytest.mark.parametrize("name", CASES)
def test_slopes_are_the_derivatives_of_the_kernels(name, derived):
    d = derived[name]
    at = dict(zip(d.symbols, map(sp.Rational, ("0.7", "-0.4", "1.3")), strict=True))
    slope = sp.diff(d.K, d.symbols[1]).evalf(30, subs=at)
    # Price's identity, which was not used: both sides exact, evaluated with 30 digits.
    assert abs(slope - d.Kdot.evalf(30, subs=at)) < 1e-20 * (1 + abs(slope))


@pytest.mark.parametrize(
    ("expr", "dual"),
    [
        (sp.Max(x, sp.Rational(1, 5) * x), ABRelu(0.2, 1.0)),
        (sp.Abs(x), ABRelu(-1.0, 1.0)),
        (x**2 * sp.Heaviside(x), RectifiedMonomial(2)),
        (sp.Heaviside(x), Step()),
        (sp.sign(x), Sign()),
        (x**5, Monomial(5)),
        (1 - x / 2 + x**3 / 4, Polynomial((1.0, -0.5, 0.0, 0.25))),
        (sp.Rational(3, 2) * sp.erf(2 * x), Erf(1.5, 2.0)),
        (x * (1 + sp.erf(x / sp.sqrt(2))) / 2, Gelu()),
        (2 * sp.sin(x / 2 + 1), Sin(2.0, 0.5, 1.0)),
        (sp.exp(x / 2) * 3, Exp(3.0, 0.5)),
        (sp.exp(-(x**2) / 2), Gaussian(1.0, -0.5)),
        (sp.exp(-(x**2)) * sp.sin(x), Gabor()),
    ],
    ids=str,
)
def test_agrees_with_the_closed_forms_of_the_library(expr, dual):
    derived = derive_dual(expr, x).dual
    q1, q2 = jnp.array([[0.3], [1.0], [2.4]]), jnp.array([[1.0, 0.3, 3.0, 0.5]])
    eps = jnp.array([0.0, 0.3, 1.0, 1.7])[None, :]
    ours, theirs = derived.kernel(q1, q2, eps), dual.kernel(q1, q2, eps)
    # Both exact up to rounding; the gap of the derived one is 1 - K / norm.
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(derived.variance(q1), dual.variance(q1), rtol=1e-12)
    np.testing.assert_allclose(derived.mean(q1), dual.mean(q1), rtol=1e-12, atol=1e-15)
    t = jnp.linspace(-2, 2, 9)
    np.testing.assert_allclose(derived.fn(t), dual.fn(t), rtol=1e-12, atol=1e-15)
    assert derived.differentiable == dual.differentiable


def test_results_are_readable():
    q11, q12, q22 = derive_dual(x, x).symbols
    root = sp.sqrt(q11 * q22 - q12**2)
    angle = sp.atan2(q12, root)
    relu = derive_dual(sp.Max(x, 0), x)
    assert relu.K == q12 * angle / (2 * sp.pi) + q12 / 4 + root / (2 * sp.pi)
    assert relu.Kdot == angle / (2 * sp.pi) + sp.Rational(1, 4)
    assert relu.mean == sp.sqrt(q11) / sp.sqrt(2 * sp.pi)
    assert derive_dual(sp.exp(x), x).K == sp.exp((q11 + 2 * q12 + q22) / 2)
    assert derive_dual(x * sp.exp(-(x**2)), x).K == q12 / (
        4 * q11 * q22 + 2 * q11 - 4 * q12**2 + 2 * q22 + 1
    ) ** sp.Rational(3, 2)
    assert str(derive_dual(sp.cos(2 * x + 1), x).K) == (
        "exp(-2*q11 - 4*q12 - 2*q22)*cos(2)/2 + exp(-2*q11 + 4*q12 - 2*q22)/2"
    )
    assert str(derive_dual(sp.erf(x), x).Kdot) == (
        "4/(pi*sqrt(4*q11*q22 + 2*q11 - 4*q12**2 + 2*q22 + 1))"
    )
    for name, size in (("gelu", 150), ("x sin", 70), ("gabor", 140), ("relu^2", 40)):
        formula = derive_dual(CASES[name][0], x).K
        print(f"{name}: K = {formula}")
        assert sp.count_ops(formula) < size


def test_takes_seconds():
    start = time.process_time()
    for expr in (x**17, x**3 * sp.sin(3 * x), x**9 * sp.Abs(x), x**2 * sp.erf(3 * x)):
        derive_dual(expr, x)
    assert time.process_time() - start < 20  # measured: 2 s on one core


@pytest.mark.parametrize("name", ["gelu", "relu", "relu + exp", "gabor", "x sin", "x^3 erf", "erf"])
@pytest.mark.optimized
def test_single_precision(name, derived):
    dual = derived[name].dual
    q1, q2, eps = (np.array(v) for v in ([0.7, 1.0, 2.0], [1.3, 1.0, 0.4], [1.4, 0.01, 0.5]))
    exact = dual.kernel(q1, q2, eps)
    single = dual.kernel(*(v.astype(np.float32) for v in (q1, q2, eps)))
    scale = np.sqrt(dual.variance(q1) * dual.variance(q2))
    for a, b in zip(single, exact, strict=True):
        assert a.dtype == jnp.float32
        # 1.2e-7 per operation, a few dozen operations.
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=3e-6 * max(1, scale.max()))


@pytest.mark.parametrize(
    "name",
    ["quartic", "x bump", "cos(2x+1)", "gelu", "relu", "x^9 step", "step", "relu + exp"],
)
def test_finite_at_degenerate_inputs(name, derived):
    dual = derived[name].dual
    q1 = jnp.array([1.0, 1.0, 0.0, 1.0, 0.0, 0.5])
    q2 = jnp.array([1.0, 1.0, 1.0, 0.0, 0.0, 2.0])
    eps = jnp.array([0.0, 2.0, 1.0, 1.0, 1.0, 0.0])
    values = dual.kernel(q1, q2, eps)
    gradients = jax.jit(jax.jacobian(dual.kernel, argnums=(0, 1, 2)))(q1, q2, eps)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((values, gradients)))
    assert values[2][0] == 0
    # E[f(0) f(y)] = f(0) E[f], up to the square root of the least variance, 1e-74.
    np.testing.assert_allclose(values[0][2], dual.fn(0.0) * dual.mean(1.0), atol=1e-15)


def test_dual_is_usable_in_layers():
    from ntk.compose import serial
    from ntk.layers import Activation, Dense

    inputs = np.sin(np.arange(12.0)).reshape(4, 3)
    by_formula, by_class = (
        serial(Dense(8, W_std=1.3, b_std=0.1), Activation(dual), Dense(1))
        for dual in (derive_dual(sp.erf(x), x).dual, Erf())
    )
    # Two exact formulas; the gap of the derived one is accurate to 1e-16 / 1e-3.
    np.testing.assert_allclose(by_formula.ntk(inputs), by_class.ntk(inputs), rtol=1e-11)
    dual = derive_dual(sp.erf(x), x).dual
    assert dual == SymbolicDual(sp.erf(sp.Symbol("x", real=True)))
    assert hash(dual) == hash(derive_dual("erf(y)", sp.Symbol("y")).dual)
    assert jax.tree.leaves(dual) == []
    assert jax.jit(lambda d, q: d.variance(q))(dual, 1.0) == pytest.approx(
        float(Erf().variance(1.0))
    )


def test_activation_function(derived):
    t = jnp.array([-2.0, -0.5, 0.0, 0.5, 2.0])
    for name, (_, f, _) in CASES.items():
        away = np.asarray(derived[name].dual.fn(t))
        keep = np.array([0, 1, 3, 4])  # the value at a jump is a convention
        np.testing.assert_allclose(away[keep], f(np.asarray(t))[keep], rtol=1e-12)  # rounding
    assert derive_dual(sp.Heaviside(x), x).dual.fn(0.0) == 0.5
    assert derive_dual(x / sp.Abs(x), x).dual.fn(0.0) == 0
    assert derive_dual(sp.Max(x, 0), x).dual.kinks == (0.0,)
    assert derive_dual(sp.sin(x), x).dual.kinks == ()


def test_constants():
    constant = derive_dual(3, x)
    assert (constant.K, constant.Kdot, constant.mean) == (9, 0, 3)
    np.testing.assert_array_equal(constant.dual.fn(jnp.ones(2)), [3, 3])
    np.testing.assert_array_equal(constant.dual.kernel(1.0, 2.0, 0.5), [9, 0, 0])


def test_jumps_have_no_tangent_kernel():
    step = derive_dual(sp.Heaviside(x), x)
    assert not step.dual.differentiable
    with pytest.raises(UnsupportedLayerError, match="jumps"):
        step.dual.Kdot(1.0, 0.5, 1.0)


@pytest.mark.parametrize(
    ("expr", "match"),
    [
        (sp.tanh(x), r"factor tanh\(x\) belongs to no family.*ntk\.dual\(callable"),
        (sp.sqrt(x), r"factor sqrt\(x\)"),
        (1 / x, "factor 1/x"),
        (sp.log(1 + sp.exp(x)), r"factor log\(exp\(x\) \+ 1\)"),
        (sp.Max(x - 1, 0), r"Max\(0, x - 1\) has a kink away from 0"),
        (sp.Piecewise((x, x > 0)), "undefined on one side"),
        (sp.erf(x) ** 2, r"factor erf\(x\)\*\*2"),
        (sp.erf(x) * sp.erf(2 * x), "two of erf and sign"),
        (sp.erf(x) * sp.sign(x), "two of erf and sign"),
        (sp.erf(x**2), "is not erf"),
        (sp.exp(x**3), r"is not exp\(a"),
        (sp.cos(x**2), "oscillates quadratically"),
        (x**31, "power above 30"),
        (x**5 * sp.sin(x), "power above 4"),
        (x**4 * sp.erf(x), "power above 3"),
        (x**11 * sp.Abs(x) * x, "power above 10"),
        (sp.erf(x + 1), "bivariate normal distribution function"),
        (sp.exp(-sp.Abs(x)), r"exp\(.*\)\*sign\(x\).*bivariate normal distribution function"),
        (sp.Piecewise((sp.exp(x) - 1, x < 0), (x, True)), "bivariate normal distribution"),
        (sp.Max(x, 0) + sp.sin(x), "error function of a complex number"),
        (x * sp.erf(x) + sp.cos(x), "error function of a complex number"),
    ],
    ids=str,
)
def test_infeasible_expressions(expr, match):
    with pytest.raises(UnsupportedLayerError, match=match):
        derive_dual(expr, x)


@pytest.mark.parametrize(
    ("expr", "symbol", "match"),
    [
        (sp.exp(x**2), x, "infinite second moment for variances q >= 1/4"),
        (sp.exp(sp.I * x), x, "must be real"),
        (x * sp.Symbol("a"), x, "it also holds a"),
        (x, "x", "x must be a sympy symbol"),
        (np.tanh, x, "expr must be a sympy expression"),
        ("x +* 2", x, "expr must be a sympy expression"),
    ],
    ids=str,
)
def test_bad_input(expr, symbol, match):
    with pytest.raises(DomainError, match=match):
        derive_dual(expr, symbol)
