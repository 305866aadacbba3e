"""Spectra on spheres, hypercubes and data, against quadrature in t, enumeration and mpmath."""

import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.sparse.linalg
import scipy.special

import ntk
from deeplimits import ConvergenceError, DomainError, NotPositiveDefiniteError, ShapeError
from ntk.gram_spectrum import gram_spectrum, plot_cumulative_power
from ntk.hypercube import hypercube_spectrum, series_spectrum
from ntk.spectrum import (
    mercer_coefficients,
    plot_degrees,
    power_kernel_eigenvalues,
    sphere_spectrum,
)

HE = 2**0.5


def relu_ntk(depth, d, k_max, **kw):
    """He ReLU network with K_0 = rho and K(1) = depth + 1: inputs with x.x/d = 1/2."""
    return sphere_spectrum(ntk.mlp(depth, "relu", W_std=HE), d, k_max, radius=(d / 2) ** 0.5, **kw)


def recursion_in_mpmath(t, depth):
    """The same tangent kernel from the textbook recursion in t."""
    rho, theta = t, t
    for _ in range(depth):
        angle = mpmath.acos(rho)
        slope = 1 - angle / mpmath.pi
        rho = (mpmath.sin(angle) + (mpmath.pi - angle) * mpmath.cos(angle)) / mpmath.pi
        theta = rho + theta * slope
    return theta


def eigenvalue_in_mpmath(kernel, d, k):
    """Integral over t by tanh-sinh quadrature, with polynomials from their explicit sum."""
    with mpmath.workdps(30):
        norm = mpmath.gamma(mpmath.mpf(d) / 2) / (
            mpmath.sqrt(mpmath.pi) * mpmath.gamma(mpmath.mpf(d - 1) / 2)
        )
        index = mpmath.mpf(d - 3) / 2

        def polynomial(t):  # 2F1(-k, k + d - 2; (d - 1)/2; (1 - t)/2), which is 1 at t = 1
            term, total = mpmath.mpf(1), mpmath.mpf(1)
            for j in range(k):
                term *= (j - k) * (k + d - 2 + j) / ((index + 1 + j) * (j + 1)) * (1 - t) / 2
                total += term
            return total

        def integrand(t):
            return kernel(t) * polynomial(t) * (1 - t * t) ** index

        return float(norm * mpmath.quad(integrand, [-1, 0, 1]))


def test_sphere_values():
    one, two, three = relu_ntk(1, 3, 60), relu_ntk(2, 3, 60), relu_ntk(3, 5, 60)
    # rounding of sums of O(1) terms
    np.testing.assert_allclose(
        one.eigenvalues[:5], [0.5, 1 / 3, 5 / 64, 0.0, 1 / 192], rtol=0, atol=1e-15
    )
    for spectrum, depth, d, degrees in ((two, 2, 3, (0, 1, 2, 4)), (three, 3, 5, (0, 1, 3))):
        for k in degrees:
            exact = eigenvalue_in_mpmath(lambda t, n=depth: recursion_in_mpmath(t, n), d, k)
            # absolute error of a sum whose terms are O(4)
            assert spectrum.eigenvalues[k] == pytest.approx(exact, abs=4e-15)
            assert abs(spectrum.eigenvalues[k] - exact) <= spectrum.abs_err[k]
    # values published nowhere, computed once by another program
    np.testing.assert_allclose(
        two.eigenvalues[:5], [0.93025193, 0.37078319, 0.10736757, 0.01864408, 0.00914313], atol=5e-9
    )
    np.testing.assert_allclose(
        three.eigenvalues[:3], [1.21693728, 0.216868694, 0.0496270836], atol=5e-9
    )
    # an eigenvalue that vanishes is not resolved, and all others are
    assert not one.resolved[3::2].any()
    assert one.resolved[::2].all()
    assert two.resolved.all()


def test_trace():
    spectrum = relu_ntk(3, 5, 60)
    assert spectrum.trace == pytest.approx(4, rel=1e-14)
    # the sum over degrees converges as k^-1 (k^-5 times k^3 harmonics); its tail as predicted
    beyond = np.arange(61, 4000)
    count = (2 * beyond + 3) / 6 * (beyond + 1) * (beyond + 2)
    tail = np.sum(count * spectrum.tail.predict(beyond)) + count[-1] * (
        spectrum.tail.predict(beyond[-1:])[0] * beyond[-1]
    )
    # corrections to the asymptotic form are 3e-3 at k = 60
    assert spectrum.missing == pytest.approx(tail, rel=1e-2)
    smooth = sphere_spectrum(ntk.mlp(2, "erf", W_std=1.2, b_std=0.3), 4, 60)
    assert smooth.tail is None
    assert abs(smooth.missing) < 1e-10 * smooth.trace  # decays geometrically


@pytest.mark.parametrize(("depth", "d"), [(2, 3), (3, 5), (2, 10)])
def test_tail_of_relu_networks(depth, d):
    spectrum = relu_ntk(depth, d, 60)
    slope, rho, minus = 1.0, 0.0, -(HE / math.pi)
    for _ in range(depth - 1):
        slope = 1 - math.acos(rho) / math.pi
        rho = (math.sin(math.acos(rho)) + (math.pi - math.acos(rho)) * rho) / math.pi
        minus *= slope
    plus = -(HE / math.pi) * depth * (depth + 1) / 2
    assert (spectrum.tail.nu_plus, spectrum.tail.nu_minus) == (0.5, 0.5)
    # interpolation amplifies rounding of the kernel, of order 4, by 4e2
    assert spectrum.tail.c_plus == pytest.approx(plus, abs=1e-11)
    assert spectrum.tail.c_minus == pytest.approx(minus, abs=1e-11)
    assert spectrum.tail.exponent == -d
    k = np.array([40, 60])
    beyond = spectrum.eigenvalues[k] / spectrum.tail.predict(k) - 1
    # the next terms are (1 -+ t)^(3/2), smaller by k^-2, which at these degrees means
    # (k + d/2 - 1)^-2 up to corrections of order k^-2
    assert 0 < beyond[1] < 0.008
    shifted = k + d / 2 - 1
    assert beyond[0] / beyond[1] == pytest.approx((shifted[1] / shifted[0]) ** 2, rel=0.02)


def test_tail_of_nngp_and_deep_networks():
    nngp = relu_ntk(2, 4, 20, get="nngp")
    assert nngp.tail.nu_plus == 1.5
    deep = relu_ntk(30, 3, 8)
    # the interval of interpolation shrinks with the depth
    assert deep.tail.c_plus == pytest.approx(-(HE / math.pi) * 465, rel=1e-8)


@pytest.mark.parametrize("nu", [0.5, 1.5, 2.0])
def test_power_kernel_closed_form(nu):
    closed = power_kernel_eigenvalues(nu, 4, 30)
    found = sphere_spectrum(lambda eps: eps**nu, 4, 30, argument="eps")
    np.testing.assert_allclose(found.eigenvalues, closed, rtol=0, atol=4e-15)  # rounding
    exact = eigenvalue_in_mpmath(lambda t: (1 - t) ** nu, 4, 5)
    assert closed[5] == pytest.approx(exact, rel=1e-13, abs=1e-17)
    if nu == 2.0:
        assert (closed[3:] == 0).all()
        assert found.tail is None
    else:
        assert found.tail.nu_plus == nu
        # thirds and fifths derivatives of an interpolant: rounding times 5e6 and 2e9
        assert found.tail.c_plus == pytest.approx(1, rel=1e-9 if nu < 2 else 1e-6)
        assert found.tail.nu_minus == math.inf


def test_smooth_kernel_against_gegenbauer_quadrature():
    d, k_max, index = 7, 12, 2.5
    t, w = scipy.special.roots_gegenbauer(80, index)
    kernel = np.exp(1.3 * t)
    found = sphere_spectrum(lambda r: jnp.exp(1.3 * r), d, k_max)
    for k in range(k_max + 1):
        p = scipy.special.eval_gegenbauer(k, index, t) / scipy.special.eval_gegenbauer(k, index, 1)
        # rounding of both rules
        assert found.eigenvalues[k] == pytest.approx(np.sum(w * kernel * p) / w.sum(), abs=2e-15)


def test_circle_is_a_fourier_series():
    found = sphere_spectrum(lambda eps: np.exp(-eps), 2, 10)
    np.testing.assert_array_equal(found.degeneracies, [1] + [2] * 10)
    bessel = math.exp(-1) * scipy.special.iv(np.arange(11), 1)
    np.testing.assert_allclose(found.eigenvalues, bessel, rtol=0, atol=1e-15)  # rounding


def test_series_route():
    coefficients = [1 / math.factorial(m) for m in range(60)]
    for d in (2, 3, 8):
        found = series_spectrum(coefficients, d, 25)
        index = d / 2 - 1
        # exp(t) on the sphere: Bessel functions (DLMF 10.23.9)
        k = np.arange(26)
        exact = scipy.special.gamma(d / 2) * 2**index * scipy.special.iv(k + index, 1)
        np.testing.assert_allclose(found.eigenvalues, exact, rtol=2e-13)  # scipy's Bessel functions
        assert found.missing == pytest.approx(0, abs=1e-14)
    # on the hypercube exp(t) is a product: sinh(1/d)^k cosh(1/d)^(d - k)
    cube = series_spectrum(coefficients, 100, 40, domain="hypercube")
    k = np.arange(41)
    exact = np.sinh(0.01) ** k * np.cosh(0.01) ** (100 - k)
    np.testing.assert_allclose(cube.eigenvalues, exact, rtol=1e-13)  # 60 positive terms
    with pytest.raises(DomainError, match="coefficients must be >= 0"):
        series_spectrum([1.0, -0.5], 3, 2)
    with pytest.raises(ShapeError, match="coefficients must have shape"):
        series_spectrum([[1.0]], 3, 2)


def test_hypercube_enumeration():
    d = 6
    corners = 1 - 2.0 * ((np.arange(2**d)[:, None] >> np.arange(d)) & 1)
    net = ntk.mlp(2, "relu", W_std=1.2, b_std=0.3)
    gram = np.linalg.eigvalsh(np.asarray(net.ntk(corners)) / 2**d)
    found = hypercube_spectrum(net, d)
    expanded = np.repeat(found.eigenvalues, found.degeneracies.astype(int))
    np.testing.assert_allclose(np.sort(expanded), gram, rtol=0, atol=1e-14)  # rounding of LAPACK
    assert found.missing == pytest.approx(0, abs=1e-13)


def test_hypercube_high_dimension():
    d = 300
    k = np.arange(d + 1)
    with mpmath.workdps(30):
        sinh, cosh = mpmath.sinh(mpmath.mpf(1) / d), mpmath.cosh(mpmath.mpf(1) / d)
        exact = np.array([float(sinh**j * cosh ** (d - j)) for j in range(d + 1)])
    fast = hypercube_spectrum(lambda eps: np.exp(1 - eps), d)
    assert fast.resolved[:5].all()
    assert (np.abs(fast.eigenvalues - exact) <= fast.abs_err).all()
    # C(300, 40) = 1e50: the terms cancel to 1e-99 of their size 1e-25
    slow = hypercube_spectrum(lambda eps: mpmath.exp(1 - eps), d, k_max=40, digits=130)
    assert slow.resolved.all()
    np.testing.assert_allclose(slow.eigenvalues, exact[:41], rtol=1e-13)  # rounding to float64
    full = hypercube_spectrum(lambda eps: eps * 0 + 1.0, d)
    np.testing.assert_allclose(full.eigenvalues, k == 0, atol=1e-14)  # rounding
    parity = hypercube_spectrum(lambda eps: np.cos(np.pi * eps * d / 2), d, argument="eps")
    np.testing.assert_allclose(parity.eigenvalues, k == d, atol=1e-12)  # cos(300 pi) in float64


def test_mercer_coefficients():
    d = 5
    found = mercer_coefficients(lambda t: t**3, d, 6, argument="correlation")
    # E[t^6] on the sphere
    assert np.sum(found**2) == pytest.approx(15 / (d * (d + 2) * (d + 4)), rel=1e-13)
    np.testing.assert_allclose(found[[0, 2, 4, 5, 6]], 0, atol=1e-15)  # rounding
    # t^3 = 3/(d + 2) t + ...: the part of degree one has mean square (3/(d + 2))^2/d
    assert found[1] == pytest.approx(3 / (d + 2) / d**0.5, rel=1e-13)


def test_gram_spectrum():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 4))
    net = ntk.mlp(1, "erf", W_std=1.3, b_std=0.2)
    K, f = np.asarray(net.nngp(x)), rng.standard_normal((60, 2))
    full = gram_spectrum(K, f)
    values, vectors = np.linalg.eigh(K / 60)
    np.testing.assert_allclose(full.eigenvalues, values[::-1], atol=1e-15)  # rounding of LAPACK
    weights = np.sum((vectors.T @ f) ** 2, axis=1)[::-1] / 60
    np.testing.assert_allclose(full.coefficients**2, weights, atol=1e-12)  # gaps of 1e-4 and more
    assert full.cumulative_power[-1] == pytest.approx(1, rel=1e-13)
    assert full.participation_ratio == pytest.approx(values.sum() ** 2 / np.sum(values**2))
    alignment = np.sum(f * (K @ f)) / (np.linalg.norm(K) * np.sum(f**2))
    assert full.alignment == pytest.approx(alignment, rel=1e-13)
    for matrix, more in ((K, {}), (scipy.sparse.linalg.aslinearoperator(K), {"trace": K.trace()})):
        part = gram_spectrum(matrix, f[:, 0], k=7, **more)
        np.testing.assert_allclose(part.eigenvalues, values[::-1][:7], rtol=1e-11)  # tol 1e-12
        assert part.tail == pytest.approx(values[:-7].sum(), rel=1e-11)
        assert abs(part.coefficients[2]) == pytest.approx(
            abs(vectors[:, -3] @ f[:, 0]) / 60**0.5, rel=1e-9
        )
    assert full.tail == 0


def test_top_eigenvalues_of_random_points():
    net = ntk.mlp(1, "relu", W_std=HE)
    exact = sphere_spectrum(net, 3, 2).eigenvalues
    x = np.asarray(jax.random.normal(jax.random.key(1), (1500, 3)))
    x = x * 3**0.5 / np.linalg.norm(x, axis=1, keepdims=True)
    found = gram_spectrum(net.ntk(x), k=9).eigenvalues
    # relative fluctuations sqrt(2 / (degeneracy n)), and the shift trace/n = 0.003
    np.testing.assert_allclose(found[0], exact[0], rtol=0.02)
    np.testing.assert_allclose(found[1:4].mean(), exact[1], rtol=0.05)
    np.testing.assert_allclose(found[4:9].mean(), exact[2], rtol=0.08)


def test_plots():
    spectrum = relu_ntk(2, 3, 60)
    ax = plot_degrees(spectrum, label="NTK")
    assert len(ax.lines) == 2
    assert spectrum.plot(ax) is ax
    K = np.diag([3.0, 2.0, 1.0])
    assert (
        plot_cumulative_power(gram_spectrum(K, [1.0, 1.0, 1.0])).get_xlabel() == "number of modes"
    )
    assert gram_spectrum(K).plot().get_ylabel() == "eigenvalue"


def test_refusals():
    with pytest.raises(DomainError, match="depend on the angle between its inputs only"):
        sphere_spectrum(ntk.serial(ntk.LayerNorm(), ntk.Dense(1)), 3, 4)
    with pytest.raises(DomainError, match="kernel must be a network, a kernel"):
        sphere_spectrum(3.0, 3, 4)
    with pytest.raises(DomainError, match="radius applies to networks and kernels"):
        sphere_spectrum(lambda eps: eps, 3, 4, radius=1.0)
    with pytest.raises(ShapeError, match="must act elementwise"):
        sphere_spectrum(lambda eps: eps[:2], 3, 4)
    with pytest.raises(ConvergenceError, match="not analytic in the angle"):
        sphere_spectrum(lambda eps: np.where(eps < 0.5, 1.0, 0.0), 3, 4)
    with pytest.raises(DomainError, match="exceeds 1e300"):
        sphere_spectrum(lambda t: t, 2000, 400)
    with pytest.raises(DomainError, match="k_max must be <= 5"):
        hypercube_spectrum(lambda t: t, 5, k_max=6)
    with pytest.raises(DomainError, match="networks run in float64"):
        hypercube_spectrum(ntk.mlp(1), 5, digits=30)
    with pytest.raises(DomainError, match="nu must be > -1"):
        power_kernel_eigenvalues(-1.0, 3, 4)
    with pytest.raises(NotPositiveDefiniteError, match="must be positive semi-definite"):
        gram_spectrum(np.diag([1.0, -0.5]))
    with pytest.raises(DomainError, match="k must be below the number of points 3"):
        gram_spectrum(np.eye(3), k=3)
    with pytest.raises(DomainError, match="an operator needs k"):
        gram_spectrum(scipy.sparse.linalg.aslinearoperator(np.eye(3)), k=2)
    with pytest.raises(ShapeError, match="K must be square"):
        gram_spectrum(scipy.sparse.linalg.aslinearoperator(np.ones((3, 2))), k=1, trace=1.0)
    with pytest.raises(DomainError, match="alignment needs a target"):
        _ = gram_spectrum(np.eye(3)).alignment


def test_methods_of_a_network_stand_for_it():
    net = ntk.mlp(1, "relu", W_std=2**0.5)
    for get in ("ntk", "nngp"):
        by_method = sphere_spectrum(getattr(net, get), 3, 4)
        by_name = sphere_spectrum(net, 3, 4, get=get)
        np.testing.assert_array_equal(by_method.eigenvalues, by_name.eigenvalues)


def test_forms_of_a_kernel():
    d, k_max = 4, 6

    def on_points(X, Z=None):
        Z = X if Z is None else Z
        return jnp.exp(jnp.matmul(X, Z.T))

    forms = {
        "points": sphere_spectrum(on_points, d, k_max),
        "compiled": sphere_spectrum(jax.jit(on_points), d, k_max),
        "t": sphere_spectrum(np.exp, d, k_max),
        "eps": sphere_spectrum(lambda eps: np.exp(1 - eps), d, k_max),
        "default": sphere_spectrum(lambda t, rate=1.0: np.exp(rate * t), d, k_max),
    }
    expected = series_spectrum([1 / math.factorial(m) for m in range(30)], d, k_max).eigenvalues
    for found in forms.values():
        np.testing.assert_allclose(found.eigenvalues, expected, rtol=0, atol=3e-15)  # rounding
    # exp(4 t) at radius 2
    scaled = sphere_spectrum(on_points, d, k_max, radius=2.0)
    by_t = sphere_spectrum(lambda t: np.exp(4 * t), d, k_max)
    np.testing.assert_allclose(scaled.eigenvalues, by_t.eigenvalues, rtol=0, atol=1e-12)
    # the method of a network, wrapped, is a kernel on points like any other
    net = ntk.mlp(1, "relu", W_std=HE)
    wrapped = sphere_spectrum(lambda X, Z: net.ntk(X, Z), d, k_max, radius=2.0)
    np.testing.assert_allclose(
        wrapped.eigenvalues, sphere_spectrum(net, d, k_max).eigenvalues, rtol=0, atol=1e-14
    )
    # a constant is the same function of both
    assert sphere_spectrum(lambda u: 0 * u + 2.0, d, 2).eigenvalues[0] == pytest.approx(2)
    with pytest.raises(DomainError, match="neither way, so it is not positive definite"):
        sphere_spectrum(lambda u: u**2 - 3 * u, d, 2)
    with pytest.raises(DomainError, match="at coincident inputs either way"):
        sphere_spectrum(lambda u: np.cos(2 * np.pi * u), d, 2)
    with pytest.raises(DomainError, match="turning both changed it"):
        sphere_spectrum(lambda X, Z: jnp.matmul(X * jnp.arange(1.0, 5.0)[None], Z.T), d, 2)
    with pytest.raises(ShapeError, match="points to"):
        sphere_spectrum(lambda X, Z: jnp.matmul(Z, X.T), d, 2)
    with pytest.raises(DomainError, match="the kernel must be finite"):
        sphere_spectrum(lambda X, Z: jnp.full((1, len(Z)), jnp.nan), d, 2)
