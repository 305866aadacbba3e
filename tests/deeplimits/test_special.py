"""Special functions against mpmath (60 digits), in both precisions, values and derivatives."""

import itertools
import math

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from deeplimits.errors import DomainError
from deeplimits.gaussian import bivariate_expectation
from deeplimits.special import (
    bivariate_ndtr,
    hermite_functions,
    legendre_rule,
    log_cosh,
    log_diff_exp,
    log_ndtr,
    owens_t,
)

pytestmark = pytest.mark.optimized

EPS = {np.float64: 2.3e-16, np.float32: 1.2e-7}
both = pytest.mark.parametrize("dtype", [np.float64, np.float32])


def exact(function, *arguments):
    """``function`` of the rounded arguments, elementwise, in 60 digits."""
    with mp.workdps(60):
        return np.array(
            [function(*map(mp.mpf, map(float, a))) for a in zip(*arguments, strict=True)]
        )


def check(got, want, bound):
    """Relative error, in exact arithmetic, of every entry; below 1e-37 float32 underflows."""
    for value, reference in zip(np.ravel(got), want, strict=True):
        with mp.workdps(60):
            error = abs(mp.mpf(float(value)) - reference)
            assert error <= bound * abs(reference) + mp.mpf("1e-37"), (
                value,
                mp.nstr(reference, 12),
            )


@both
def test_log_cosh(dtype):
    x = np.array([0, 1e-18, -1e-8, 1e-4, 0.3, -0.999, 1, 1.001, 5, -30, 300, 1e4], dtype)
    got = log_cosh(x)
    assert got.dtype == dtype
    # Few-eps bound: sum of at most four rounded terms, each no larger than 3 times the result.
    check(got, exact(lambda v: mp.log(mp.cosh(v)), x), 8 * EPS[dtype])
    check(jax.vmap(jax.grad(log_cosh))(x), exact(mp.tanh, x), 4 * EPS[dtype])
    second = jax.vmap(jax.grad(jax.grad(log_cosh)))(x[:9])
    # sech^2 is formed as 1 - tanh^2, with absolute error eps: compare absolutely.
    reference = exact(lambda v: mp.sech(v) ** 2, x[:9]).astype(float)
    np.testing.assert_allclose(second, reference, atol=4 * EPS[dtype], rtol=0)


def mills(x):
    """phi/Phi and x + phi/Phi: by their definition, or by the continued fraction below -15."""
    with mp.workdps(60 + (60 if x < 0 else 0)):
        if x > -15:
            ratio = mp.npdf(x) / (mp.erfc(-x / mp.sqrt(2)) / 2)
            return ratio, x + ratio
        tail = -x
        for k in range(300, 1, -1):
            tail = -x + k / tail
        return -x + 1 / tail, 1 / tail


@both
def test_log_ndtr(dtype):
    x = np.array(
        [-100, -40, -37.6, -28.4, -28.2, -21, -12.3, -9, -5.1, -4.9, -1, -0.5, 0, 0.5, 2, 5, 7, 9],
        dtype,
    )
    got = log_ndtr(x)
    assert got.dtype == dtype
    reference = exact(lambda v: mp.log1p(-mp.erfc(v / mp.sqrt(2)) / 2), x[x > -20])
    deep = exact(lambda v: mp.log(mp.npdf(v)) - mp.log(mills(v)[0]), x[x <= -20])
    # The upper tail ~ phi(x)/x inherits the rounding of x^2 in exp(-x^2/2): eps x^2 at x = 9.
    check(got, np.concatenate([deep, reference]), 100 * EPS[dtype])
    first = exact(lambda v: mills(v)[0], x)
    second = exact(lambda v: -mills(v)[0] * mills(v)[1], x)
    check(jax.vmap(jax.grad(log_ndtr))(x), first, 100 * EPS[dtype])
    check(jax.vmap(jax.grad(jax.grad(log_ndtr)))(x), second, 200 * EPS[dtype])


def test_log_ndtr_beats_the_library_function():
    """Why it exists: the library's function loses five digits at x = 7."""
    want = exact(lambda v: mp.log1p(-mp.erfc(v / mp.sqrt(2)) / 2), [7.0])[0]
    theirs = float(jax.scipy.special.log_ndtr(7.0))
    ours = float(log_ndtr(7.0))
    assert abs(ours / float(want) - 1) < 1e-13  # eps x^2
    assert abs(ours / float(want) - 1) <= abs(theirs / float(want) - 1)


@both
def test_log_diff_exp(dtype):
    a = np.array([0, 0, 3, 800, 1e4, -1e4, 2, 2], dtype)
    b = np.array([-1e-3, -5, 2.5, 799, 1, -1e4 - 40, 2 - 1e-3, -np.inf], dtype)
    got = log_diff_exp(a, b)
    assert got.dtype == dtype

    def reference(a, b):
        return a + mp.log(-mp.expm1(b - a)) if mp.isfinite(b) else a

    # a - b is exact or rounded once; the sum of a and a logarithm is rounded once more, relative
    # to the larger of the two, which exceeds the result at most 10 times here.
    check(got, exact(reference, a, b), 20 * EPS[dtype])
    da, db = jax.vmap(jax.grad(log_diff_exp, argnums=(0, 1)))(a, b)
    check(da, exact(lambda a, b: 1 / -mp.expm1(b - a), a, b), 4 * EPS[dtype])
    check(
        db, exact(lambda a, b: -1 / mp.expm1(a - b) if mp.isfinite(b) else 0, a, b), 4 * EPS[dtype]
    )
    assert log_diff_exp(1.0, 1.0) == -np.inf
    assert log_diff_exp(-np.inf, -np.inf) == -np.inf
    assert np.isnan(log_diff_exp(1.0, 2.0))


def test_hermite_functions():
    x = np.array([-7.3, -1, 0, 0.4, 2, 11])
    got = hermite_functions(x, 41)
    assert got.shape == (6, 41)
    for k in (0, 1, 2, 7, 40):
        with mp.workdps(40):
            want = [
                mp.hermite(k, v / mp.sqrt(2)) / 2 ** (mp.mpf(k) / 2) / mp.sqrt(mp.factorial(k))
                * mp.sqrt(mp.npdf(v))
                for v in map(mp.mpf, x)
            ]  # fmt: skip
        # The recursion amplifies rounding by about k near the turning points; functions are < 0.7.
        np.testing.assert_allclose(got[:, k], np.array(want, float), atol=40 * 2.3e-16, rtol=0)
    slope = jax.jacfwd(lambda v: hermite_functions(v, 41)[:-1])(jnp.asarray(0.4))
    k = np.arange(40)
    left = np.where(k > 0, np.sqrt(k) * np.roll(got[3, :40], 1), 0)
    # h_k' = (sqrt(k) h_{k-1} - sqrt(k+1) h_{k+1})/2, entries up to 3, rounding as above.
    np.testing.assert_allclose(slope, (left - np.sqrt(k + 1) * got[3, 1:]) / 2, atol=1e-13)


@both
def test_hermite_functions_are_orthonormal_at_high_order(dtype):
    """Order 1000 lives where exp(-x^2/4) has underflowed."""
    x = np.linspace(-75, 75, 8001, dtype=dtype)
    h = np.asarray(hermite_functions(x, 1001), np.float64)[:, [0, 1, 10, 500, 999, 1000]]
    gram = h.T @ h * 150 / 8000
    # Trapezoid sums of band-limited functions are exact; rounding of 1000 recursion steps remains.
    np.testing.assert_allclose(gram, np.eye(6), atol=2000 * EPS[dtype])


def test_hermite_functions_refuses_no_functions():
    with pytest.raises(DomainError, match="n must be >= 1"):
        hermite_functions(0.0, 0)


def test_legendre_rule():
    nodes, weights = legendre_rule(30)
    with mp.workdps(30):
        for x, w in zip(nodes, weights, strict=True):
            root = mp.findroot(lambda t: mp.legendre(30, t), 2 * mp.mpf(float(x)) - 1)
            slope = 30 * (mp.legendre(29, root)) / (1 - root**2)
            # Both rounded once to float64; 1e-15 leaves room where long double is double.
            assert abs(x - (1 + root) / 2) < 1e-16 + 1e-16 * x
            assert abs(w * (1 - root**2) * slope**2 - 1) < 1e-15
    np.testing.assert_allclose(legendre_rule(1), [[0.5], [1.0]])


def exact_owens_t(h, a):
    """The integral in the angle atan(x): smooth on a finite interval."""
    with mp.workdps(25):
        points = mp.linspace(0, mp.atan(a), 9)
        return mp.quad(lambda t: mp.exp(-(h**2) / (2 * mp.cos(t) ** 2)), points) / (2 * mp.pi)


@both
def test_owens_t(dtype):
    h, a = np.array(list(itertools.product([0, 0.3, -1.2, 4], [0.2, -0.99, 1, 3, 50])), dtype).T
    got = owens_t(h, a)
    assert got.dtype == dtype
    want = np.array([exact_owens_t(*map(float, p)) for p in zip(h, a, strict=True)], float)
    # exp(-h^2/2) carries eps h^2 <= 16 eps; 24 rounded terms and three probabilities, 8 eps.
    np.testing.assert_allclose(got, want, rtol=24 * EPS[dtype])
    np.testing.assert_allclose(owens_t(dtype(0.0), dtype(np.inf)), 0.25, rtol=EPS[dtype])
    p = scipy.special.ndtr(-0.7) / 2
    np.testing.assert_allclose(owens_t(dtype(0.7), dtype(np.inf)), p, rtol=4 * EPS[dtype])
    dh, da = jax.vmap(jax.grad(owens_t, argnums=(0, 1)))(h, a)
    # Independent of the rule: T_h = -phi(h) (Phi(a h) - 1/2), T_a from the integrand.
    check_h = exact(lambda h, a: -mp.npdf(h) * mp.erf(a * h / mp.sqrt(2)) / 2, h, a)
    check_a = exact(lambda h, a: mp.exp(-(h**2) * (1 + a**2) / 2) / (1 + a**2) / (2 * mp.pi), h, a)
    np.testing.assert_allclose(dh, check_h.astype(float), atol=2 * EPS[dtype], rtol=0)
    np.testing.assert_allclose(da, check_a.astype(float), atol=2 * EPS[dtype], rtol=0)


def conditional_average(h, k, rho):
    """P(X <= h, Y <= k) as the average of Phi((k - rho x)/s) over x, in panels (SciPy)."""
    sine = math.sqrt((1 - rho) * (1 + rho))
    cuts = [h - 0.25 * j for j in range(81)] + [h - 2.0**-j * sine for j in range(-3, 8)]
    if rho != 0:
        cuts += [k / rho + 0.5 * j * sine / abs(rho) for j in range(-20, 21)]
    cuts = np.unique([c for c in cuts if h - 20 <= c <= h])
    nodes, weights = np.polynomial.legendre.leggauss(24)
    half = np.diff(cuts)[:, None] / 2
    x = cuts[:-1, None] + half * (1 + nodes)
    terms = scipy.stats.norm.pdf(x) * scipy.special.ndtr((k - rho * x) / sine)
    return float((half * weights * terms).sum())


@both
def test_bivariate_ndtr(dtype):
    grid = itertools.product([-6, -1.5, 0, 0.7], [-2, -0.7, 0, 3], [-0.7, 0, 0.3, 0.95, 0.99999])
    h, k, rho = np.array([*grid, (-9, -9, 0.8), (0.2, -0.1, -0.999)], dtype).T
    got = bivariate_ndtr(h, k, rho)
    assert got.dtype == dtype
    want = np.array(
        [float(conditional_average(*map(float, p))) for p in zip(h, k, rho, strict=True)]
    )
    # Relative: exp(-E) carries eps E, E <= 50 here (and E up to 80 where the value is < 1e-30).
    np.testing.assert_allclose(got, want, rtol=100 * EPS[dtype], atol=1e-30)


@pytest.mark.parametrize(("h", "k", "rho"), [(-1.5, -0.7, 0.95), (0.7, 0.2, -0.7)])
def test_reference_of_bivariate_ndtr(h, k, rho):
    """The float64 reference above against mpmath."""
    with mp.workdps(25):
        sine = mp.sqrt(1 - mp.mpf(rho) ** 2)
        want = mp.quad(
            lambda x: mp.npdf(x) * mp.ncdf((k - rho * x) / sine), mp.linspace(h - 12, h, 25)
        )
    assert abs(conditional_average(h, k, rho) / float(want) - 1) < 1e-14  # 1e3 rounded terms


def test_bivariate_ndtr_near_the_diagonals():
    """Limits with h + k or h - k tiny, where the integrand has two very different scales."""
    draw = np.random.default_rng(0)
    h = draw.choice([-1, 1], 60) * 10 ** draw.uniform(-6, 0, 60)
    k = draw.choice([-1, 1], 60) * h + 10 ** draw.uniform(-8, -1, 60)
    rho = np.tanh(draw.uniform(-5, 5, 60))
    want = [conditional_average(*p) for p in zip(h, k, rho, strict=True)]
    # The reference has absolute error 1e-16 per 3e3 terms of at most 0.1.
    np.testing.assert_allclose(bivariate_ndtr(h, k, rho), want, rtol=2e-14, atol=2e-16)


def test_bivariate_ndtr_limits_and_symmetries():
    x = np.linspace(-4, 4, 17)
    h, k = (a.ravel() for a in np.meshgrid(x, x))
    phi = jax.scipy.special.ndtr
    eps = 2.3e-16  # every identity below holds to a few roundings of numbers below 1
    np.testing.assert_allclose(bivariate_ndtr(h, k, 0.0), phi(h) * phi(k), rtol=1e-14)
    np.testing.assert_allclose(bivariate_ndtr(h, k, 1.0), phi(np.minimum(h, k)), rtol=4 * eps)
    np.testing.assert_allclose(
        bivariate_ndtr(h, k, -1.0), np.maximum(phi(h) - phi(-k), 0), atol=2 * eps
    )
    np.testing.assert_allclose(bivariate_ndtr(h, np.inf, 0.3), phi(h), rtol=4 * eps)
    np.testing.assert_allclose(bivariate_ndtr(h, -np.inf, 0.3), 0.0)
    rho = np.tanh(np.linspace(-9, 9, h.size))
    total = bivariate_ndtr(h, k, rho) + bivariate_ndtr(h, -k, -rho)
    np.testing.assert_allclose(total, phi(h), atol=8 * eps)
    sheppard = 0.25 + np.arcsin(rho) / (2 * np.pi)
    np.testing.assert_allclose(bivariate_ndtr(0.0, 0.0, rho), sheppard, atol=8 * eps)
    assert np.isnan(bivariate_ndtr(0.1, 0.2, 1.5))


def test_bivariate_ndtr_against_owens_t_and_quadrature():
    h, k, rho = 0.8, -0.3, np.array([-0.9, 0.2, 0.999])
    sine = np.sqrt(1 - rho**2)
    by_owen = (
        (jax.scipy.special.ndtr(h) + jax.scipy.special.ndtr(k)) / 2
        - owens_t(h, (k - rho * h) / (h * sine)) - owens_t(k, (h - rho * k) / (k * sine)) - 0.5
    )  # fmt: skip
    got = bivariate_ndtr(h, k, rho)
    np.testing.assert_allclose(got, by_owen, atol=1e-15)  # four terms below 1, each to eps
    plane = bivariate_expectation(
        lambda x, y: (x <= h) * 1.0 * (y <= k), 1, rho, 1, kinks=(h,), kinks_y=(k,)
    )
    np.testing.assert_allclose(got, plane.value, atol=1e-14)  # 1e5 terms, errors add randomly


@both
def test_bivariate_ndtr_derivatives(dtype):
    h, k, rho = (np.array(v, dtype) for v in ([-1.1, 0.4, 2], [0.2, 0.5, -1], [-0.8, 0.9, 0.3]))
    grads = jax.vmap(jax.grad(bivariate_ndtr, argnums=(0, 1, 2)))(h, k, rho)
    points = np.stack([h, k, rho]).astype(float)
    for i, grad in enumerate(grads):
        shift = 1e-5 * np.eye(3)[:, [i]]
        up, down = (
            np.array([conditional_average(*p) for p in (points + sign * shift).T])
            for sign in (1, -1)
        )
        # Central difference with step 1e-5: 1e-10 f'''/6 of truncation, 1e-15/1e-5 of rounding.
        np.testing.assert_allclose(grad, (up - down) / 2e-5, atol=max(2e-9, 4 * EPS[dtype]))
    edge = jax.grad(bivariate_ndtr, argnums=(0, 1, 2))(*(dtype(v) for v in (0.5, -0.2, 1)))
    # At rho = 1, h > k: Phi_2 = Phi(k), so only k matters.
    np.testing.assert_allclose(
        edge, [0, np.exp(-0.02) / np.sqrt(2 * np.pi), 0], rtol=2 * EPS[dtype]
    )
