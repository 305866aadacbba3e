"""Numerical duals: series for smooth functions, panels for kinks, their derivatives and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from deeplimits.errors import ConvergenceError, DomainError, PrecisionWarning
from ntk.arccosine import ABRelu
from ntk.closed_forms import Erf, Gelu
from ntk.elementwise import Composition, Plain, Sum, derivative
from ntk.elu import Elu
from ntk.numerical import NumericalDual, numerical_dual
from ntk.quadrature import gaussian_mean, legendre, panel_sum, trapezoid_mean

from . import dual_checks as checks
from .dual_oracle import dual_quadrature, mean_quadrature
from .rotated_reference import check, reference


def elu(x):
    return jnp.where(x > 0, x, jnp.expm1(jnp.minimum(x, 0)))


def soft_sign(x):
    return x / (1 + jnp.abs(x))


def hard_swish(x):
    return x * jnp.clip(x / 6 + 0.5, 0, 1)


TANH = NumericalDual(Plain(jnp.tanh))
ERF = NumericalDual(Plain(jax.scipy.special.erf))
GELU = NumericalDual(Plain(lambda x: jax.nn.gelu(x, approximate=False)))
ELU = NumericalDual(Plain(elu), (0.0,))
SMOOTH = {
    "tanh": (TANH, np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "erf": (ERF, special.erf, lambda x: 2 / np.sqrt(np.pi) * np.exp(-(x**2))),
    "gelu": (
        GELU,
        lambda x: x * special.ndtr(x),
        lambda x: special.ndtr(x) + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi),
    ),
}


def test_legendre_is_exact():
    x, w = legendre(7)
    assert np.sum(w * x**12) == pytest.approx(2 / 13, rel=1e-14)  # degree 13 is exact


def test_panel_sum():
    edges = jnp.array([0.0, 0.5, 2.0])
    assert float(panel_sum(jnp.exp, edges, 12)) == pytest.approx(np.exp(2) - 1, rel=1e-14)


def test_gaussian_mean():
    q = jnp.array([0.0, 1e-8, 0.3, 4.0, 200.0])
    found = gaussian_mean(lambda x: jnp.maximum(x - 0.7, 0), [0.7], q)
    s = np.sqrt(np.maximum(q, 1e-300))
    u = 0.7 / s
    exact = s * np.exp(-(u**2) / 2) / np.sqrt(2 * np.pi) - 0.7 * special.ndtr(-u)
    np.testing.assert_allclose(found, exact, rtol=1e-13, atol=1e-16)  # 16 nodes per panel


def test_trapezoid_mean():
    assert float(trapezoid_mean(jnp.cos, 64, jnp.zeros(()))) == pytest.approx(
        np.exp(-0.5), rel=1e-14
    )


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_generic(name):
    dual, f, df = SMOOTH[name]
    assert checks.quadrature_error(checks.Case(dual, f, df, lambda *_: None)).ratio <= 1


@pytest.mark.parametrize(
    ("name", "dtype", "rtol"),
    [("tanh", np.float64, 1e-12), ("gelu", np.float64, 1e-12), ("tanh", np.float32, 1e-6)],
)
@pytest.mark.optimized
def test_smooth_delicate_points(name, dtype, rtol):
    dual, f, df = SMOOTH[name]
    check(dual, f, df, checks.POINTS, dtype, rtol)


@pytest.mark.parametrize(
    ("q1", "q2", "eps"),
    [(10, 10, 1e-3), (25, 20, 0.1), (25, 25, 0.0), (100, 80, 0.01), (1e-6, 1, 0.4)],
)
def test_large_and_small_variances(q1, q2, eps):
    _, f, df = SMOOTH["tanh"]
    K, Kdot, *_ = reference(f, df, q1, q2, eps, width=min(1.5, 1.5 / np.sqrt(max(q1, q2))))
    found = checks.evaluate(TANH, np.array([(q1, q2, eps)]), np.float64)
    # 1e-12 promised; measured 2e-15 for K and 2e-13 (the stopping tolerance) for Kdot
    np.testing.assert_allclose(np.ravel(found[:2]), (K, Kdot), rtol=1e-12)


def test_tanh_network():
    # Dense(1.3, 0.2), tanh, Dense(1.3, 0.2) on sin(0.7 (1 + i)), from a separate quadrature program
    x = np.sin(0.7 * (1 + np.arange(12))).reshape(3, 4)
    K = 1.3**2 * x @ x.T / 4 + 0.2**2
    q = np.diag(K)
    inner, slope = TANH.K(q[:, None], K, q[None]), TANH.Kdot(q[:, None], K, q[None])
    nngp = 1.3**2 * np.asarray(inner) + 0.2**2
    ntk = nngp + 1.3**2 * np.asarray(slope) * K
    upper = np.triu_indices(3)
    want_nngp = [0.7026088983, -0.5296012839, 0.5694108851]
    want_nngp += [0.7029932479, -0.5208877119, 0.6885587872]
    want_ntk = [1.4815651535, -1.1677174642, 1.1525718892]
    want_ntk += [1.4825514536, -1.1470192203, 1.4457229542]
    np.testing.assert_allclose(nngp[upper], want_nngp, atol=6e-11)  # ten printed digits
    np.testing.assert_allclose(ntk[upper], want_ntk, atol=6e-11)


def test_smooth_gradients_match_closed_form():
    columns = [jnp.asarray(c) for c in checks.POINTS.T]

    def gradients(dual):
        def total(*arguments):
            K, Kdot, _ = dual.kernel(*arguments)
            return jnp.sum(0.7 * K - 0.4 * Kdot)

        return jax.jit(jax.grad(total, argnums=(0, 1, 2)))(*columns)

    for a, b in zip(gradients(ERF), gradients(Erf()), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)  # series of second derivatives


def test_derivative_at_zero_variance():
    # at correlation 0: K = E[f(x)] E[f(y)], so dK/dq1 = E[f''(0)] E[f(y)] / 2; f = sigmoid(x + 1)
    f = lambda x: jax.nn.sigmoid(x + 1)  # noqa: E731
    dual = NumericalDual(Plain(f))
    found = jax.grad(lambda q: dual.kernel(q, 1.3, 1.0)[0])(0.0)
    second = jax.grad(jax.grad(f))(0.0)
    assert float(found) == pytest.approx(float(second) / 2 * float(dual.mean(1.3)), rel=1e-13)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_smooth_gap_gradients(dtype):
    columns = [jnp.asarray(c, dtype) for c in np.concatenate([checks.POINTS, checks.ZEROS]).T]
    found = jax.jit(jax.grad(lambda *a: TANH.kernel(*a)[2].sum(), argnums=(0, 1, 2)))(*columns)
    assert all(g.dtype == dtype and np.all(np.isfinite(g)) for g in found)
    _, Kdot, _ = TANH.kernel(*columns)
    q1, q2, _ = columns
    norm = jnp.sqrt(TANH.variance(q1) * TANH.variance(q2))
    want = np.where(q1 * q2 > 0, jnp.sqrt(q1 * q2) * Kdot / jnp.where(norm > 0, norm, 1), 0)
    # d gap / d eps = s1 s2 Kdot / sqrt(K11 K22)
    np.testing.assert_allclose(found[2], want, rtol=1e-12 if dtype == np.float64 else 2e-6)


@pytest.mark.slow
def test_smooth_hessian():
    K = lambda p: ERF.kernel(p[0], p[1], p[2])[0]  # noqa: E731
    exact = lambda p: Erf().kernel(p[0], p[1], p[2])[0]  # noqa: E731
    p = jnp.array([1.1, 0.7, 0.4])
    np.testing.assert_allclose(
        jax.jit(jax.hessian(K))(p), jax.hessian(exact)(p), rtol=1e-10, atol=1e-12
    )  # series of fourth derivatives


def test_parameters_of_a_function_are_differentiated():
    numeric = lambda a, b: NumericalDual(Sum((Erf(a, b, 0.3),))).kernel(1.1, 0.7, 0.4)  # noqa: E731
    exact = lambda a, b: Erf(a, b, 0.3).kernel(1.1, 0.7, 0.4)  # noqa: E731
    for i in range(3):
        found = jax.grad(lambda a, b: numeric(a, b)[i], argnums=(0, 1))(1.2, 0.9)  # noqa: B023
        want = jax.grad(lambda a, b: exact(a, b)[i], argnums=(0, 1))(1.2, 0.9)  # noqa: B023
        np.testing.assert_allclose(found, want, rtol=1e-9, atol=1e-11)  # gap: stopping tolerance


def test_shapes_and_chunks(monkeypatch):
    key = jax.random.key(0)
    q = jax.random.uniform(key, (3, 4, 5)) + 0.5
    eps = jax.random.uniform(jax.random.key(1), (3, 3, 4, 5))
    K, Kdot, gap = TANH.kernel(q[:, None], q[None], eps)
    assert K.shape == Kdot.shape == gap.shape == (3, 3, 4, 5)
    flat = TANH.kernel(q[:, 2, 3, None], q[None, :, 2, 3], eps[:, :, 2, 3])
    # tiles stop at different orders: the stopping tolerance
    np.testing.assert_allclose(K[:, :, 2, 3], flat[0], rtol=1e-12)
    long = jnp.linspace(0.5, 2, 5000)
    whole = TANH.kernel(long, long, jnp.full(5000, 0.2))
    part = TANH.kernel(long[-7:], long[-7:], jnp.full(7, 0.2))
    np.testing.assert_allclose(whole[0][-7:], part[0], rtol=1e-12)
    np.testing.assert_allclose(TANH.variance(long)[-7:], TANH.variance(long[-7:]), rtol=1e-14)


def test_same_function_compiles_once():
    calls = []

    def f(x):
        calls.append(1)
        return jnp.sin(x)

    run = jax.jit(lambda d, q: d.kernel(q, q, 0.3 * q)[0])
    run(NumericalDual(Plain(f)), jnp.ones(3))
    traced = len(calls)
    run(NumericalDual(Plain(f)), 2 * jnp.ones(3))
    assert len(calls) == traced > 0


def test_kinked():
    # ELU by its own one-dimensional integrals is an independent route
    found, want = (checks.evaluate(d, checks.POINTS, np.float64) for d in (ELU, Elu()))
    for a, b in zip(found, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-17)  # gap near 1e-10: 4e-12


@pytest.mark.optimized
def test_kinked_float32():
    found, want = (checks.evaluate(d, checks.POINTS, np.float32) for d in (ELU, Elu()))
    for a, b in zip(found, want, strict=True):
        np.testing.assert_allclose(
            a, b, rtol=3e-6, atol=1e-6 * np.abs(b).max() * 0.1
        )  # both rounded


@pytest.mark.parametrize(
    ("f", "numpy_f", "df", "kinks", "nodes"),
    [
        (soft_sign, lambda x: x / (1 + abs(x)), lambda x: (1 + abs(x)) ** -2, (0.0,), 24),
        (
            hard_swish,
            lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
            lambda x: np.clip(x / 6 + 0.5, 0, 1) + np.where(abs(x) < 3, x / 6, 0),
            (-3.0, 3.0),
            16,
        ),
    ],
)
def test_kinked_generic(f, numpy_f, df, kinks, nodes):
    dual = NumericalDual(Plain(f), kinks, nodes)
    points = [(1.0, 0.5, 1.0), (0.7, -0.4, 1.3), (2.3, -0.9, 0.6)]
    columns = [jnp.asarray(c) for c in zip(*points, strict=True)]
    K, Kdot = dual.K(*columns), dual.Kdot(*columns)
    for i, point in enumerate(points):
        want = dual_quadrature(numpy_f, df, *point, kinks=kinks)
        # measured 1e-15 (hard swish), 1e-13 (softsign: poles at distance 1)
        np.testing.assert_allclose((K[i], Kdot[i]), want, rtol=1e-12)
    mean = mean_quadrature(numpy_f, 1.3, kinks)
    assert float(dual.mean(1.3)) == pytest.approx(mean, rel=1e-12, abs=1e-15)


def test_kinked_gradients():
    points = np.concatenate([checks.POINTS[:9], checks.ZEROS])
    columns = [jnp.asarray(c) for c in points.T]

    def gradients(dual, i):
        return jax.jit(jax.grad(lambda *a: dual.kernel(*a)[i].sum(), argnums=(0, 1, 2)))(*columns)

    for i in (0, 2):
        for a, b in zip(gradients(ELU, i), gradients(Elu(), i), strict=True):
            assert np.all(np.isfinite(a))
            # derivatives of nearly equal integrals at separation 1e-5
            np.testing.assert_allclose(a[:-4], b[:-4], rtol=1e-9, atol=1e-9)


def test_small_angles_of_kinked_functions():
    relu = numerical_dual(lambda x: jnp.maximum(x, 0), (0.0,))
    eps = jnp.array([1e-4, 1e-8, 1e-12, 1e-15, 0.0])
    found, exact = (d.kernel(jnp.ones(5), jnp.ones(5), eps) for d in (relu, ABRelu()))
    np.testing.assert_allclose(found[0], exact[0], rtol=1e-14)
    np.testing.assert_allclose(found[1], exact[1], rtol=1e-14)
    np.testing.assert_allclose(found[2], exact[2], rtol=1e-10)  # slope form below steps of 1e-5


def test_abs_err():
    assert float(TANH.abs_err(1.0, 0.5, 1.0)) < 1e-14
    rough = NumericalDual(Plain(soft_sign), (0.0,), 6)
    fine = NumericalDual(Plain(soft_sign), (0.0,), 24)
    q = (1.0, 0.5, 1.0)
    true = abs(float(rough.K(*q) - fine.K(*q)))
    # the estimate (against 12 nodes) and the true error agree within a factor 2
    assert true / 2 < float(rough.abs_err(*q)) < 2 * true
    with pytest.raises(ConvergenceError, match="above tol = 1e-12"):
        rough.abs_err(*q, tol=1e-12)
    assert float(fine.abs_err(*q, tol=1e-12)) < 1e-12


def test_undeclared_kink_is_reported():
    with pytest.warns(PrecisionWarning, match="declare them with kinks"):
        numerical_dual(lambda x: jnp.maximum(x, 0) + jnp.sin(x))


def test_scalar_functions_are_mapped():
    def scalar(x):
        return jax.lax.cond(x > 0, jnp.tanh, jnp.arctan, x)

    dual = numerical_dual(scalar, (0.0,))
    x = jnp.linspace(-2, 2, 6).reshape(2, 3)
    np.testing.assert_allclose(dual.fn(x), jnp.where(x > 0, jnp.tanh(x), jnp.arctan(x)), rtol=1e-15)


@pytest.mark.parametrize(
    ("f", "match"),
    [
        (np.tanh, "Write it with jax.numpy"),
        (lambda x: 1.0 if x > 0 else 0.0, "jnp.where instead of if"),
        (lambda x: jax.lax.complex(x, x), "real scalar"),
        (lambda x: jnp.stack([x, x]), "real scalar"),
        (lambda x: x - jnp.mean(x), "not elementwise"),
        (jnp.log, "value of the activation is"),
        (lambda x: jnp.sqrt(jnp.abs(x)), "derivative of the activation is"),
    ],
)
def test_bad_functions(f, match):
    with pytest.raises(DomainError, match=match):
        numerical_dual(f)


def test_overflow_names_the_variance():
    with pytest.raises(DomainError, match=r"at variance 10000\b"):
        NumericalDual(Plain(lambda x: jnp.exp(x))).K(1e4, 0.0, 1e4)


def test_bad_kinks():
    with pytest.raises(DomainError, match=r"kinks\[0\] must be finite"):
        numerical_dual(jnp.tanh, (np.inf,))


def test_derivative_paths():
    x = jnp.array([0.3, -1.2])
    f = Composition(Erf(2.0, 0.7, 0.1), Gelu())
    # paths: -1 is the argument, 0 the first leaf (the factor of erf)
    found = derivative(f, (0, -1), x)
    inner = lambda t: jax.scipy.special.erf(0.7 * Gelu().fn(t))  # noqa: E731
    np.testing.assert_allclose(found, jax.vmap(jax.grad(inner))(x), rtol=1e-14)
