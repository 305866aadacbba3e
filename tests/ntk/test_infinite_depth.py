"""Infinite depth: classes, published numbers, deep Gram solves, ordered phase, bad input."""

import math

import jax.numpy as jnp
import matplotlib.pyplot as plt
import mpmath
import numpy as np
import pytest

from deeplimits import ConvergenceError, DomainError, ShapeError, UnsupportedLayerError
from deeplimits.errors import DeepLimitsWarning, PrecisionWarning
from ntk.consistent import activation_for_dimension, sine_for_dimension
from ntk.deep_data import gaps, same_directions, unit
from ntk.deep_recursion import deep_kernel, log_diagonal
from ntk.infinite_depth import infinite_depth
from ntk.koenigs import koenigs

DIRICHLET = {
    1: ([1, 2], [2, 1]),
    2: ([0.5, 0.5, 2.5], [2.5, 0.1, 0.5]),
    4: ([3, 1, 2, 1, 1], [1, 2, 2, 2, 3]),
    8: ([1, 2, 1, 2, 1, 1, 1, 1, 1], [1, 1, 1, 2, 3, 4, 2, 2, 1]),
}


def dirichlet(d, n, seed):
    """The data of the paper: labels 1 (with probability 0.4) and -1 on the sphere in R^(d+1)."""
    rng = np.random.default_rng(seed)
    y = np.where(rng.random(n) < 0.4, 1, -1)
    X = [rng.dirichlet(alpha, n) for alpha in DIRICHLET[d]]
    return np.where((y == 1)[:, None], *X), y


@pytest.mark.parametrize(
    ("activation", "kind", "phase", "exponent"),
    [
        ([0, 0.5, 0, 0.5], "singular", "chaotic", 2.0),
        ("sin", "singular", "chaotic", 2 * math.log(math.sinh(1)) / math.log(1 / math.tanh(1))),
        ("sign", "singular", "chaotic", 0.0),
        ("hermite3", "nearest_neighbour", "chaotic", math.inf),
        ("relu", "majority_vote", "critical", 0.0),
        ([0.125, 0.375, 0.5], "majority_vote", "chaotic", 0.0),
        ([0.5, 0.25, 0.25], "majority_vote", "ordered", 0.0),
    ],
)
def test_taxonomy(activation, kind, phase, exponent):
    limit = infinite_depth(activation)
    assert (limit.kind, limit.phase) == (kind, phase)
    assert limit.ridgeless == ("kriging" if phase == "ordered" else kind)
    if math.isfinite(exponent):
        assert abs(limit.exponent - exponent) <= limit.exponent_error + 1e-15


def test_activation_for_dimension():
    seven = [0, 0.5, 0, 0, 0, 0, 0, 0.5]
    cases = {1: seven, 2: [0, 0.5, 0, 0.5], 4: [0, 0.25, 0.5, 0.25], 8: [0, 1 / 16, 7 / 8, 1 / 16]}
    for d, c in cases.items():
        powers = np.array(activation_for_dimension(d).coefficients, float)
        h = np.polynomial.hermite_e.poly2herme(powers)
        # the solver of the linear programme
        squares = [v * v * math.factorial(k) for k, v in enumerate(h)]
        np.testing.assert_allclose(squares, c, atol=1e-13)
    published = {2: 2.67607396, 4: 6.13539304, 8: 13.82584581}
    for d, t in published.items():
        assert abs(sine_for_dimension(d).b ** 2 - t) < 1e-8  # digits given
    t = activation_for_dimension(3, family="sine").b ** 2
    assert abs(2 * math.log(math.sinh(t) / t) / math.log(t / math.tanh(t)) - 3) < 1e-11  # root
    free = infinite_depth(activation_for_dimension(3, degree=6, b=3.0))
    assert free.consistency(3).consistent
    assert abs(free.b - 3) < 1e-12
    assert free.consistency(2).verdict.startswith("too local")
    assert free.consistency(4).verdict.startswith("too global")
    with pytest.raises(DomainError, match="Raise degree or lower b"):
        activation_for_dimension(3, b=5.0)
    with pytest.raises(DomainError, match=r"Raise b \(and degree\)"):
        activation_for_dimension(8, b=1.1)
    with pytest.raises(DomainError, match="no sine has exponent 1"):
        activation_for_dimension(1, family="sine")
    with pytest.raises(DomainError, match="frequency follows from d"):
        activation_for_dimension(2, b=3.0, family="sine")


@pytest.mark.parametrize("activation", [[0, 0.5, 0, 0.5], "relu"])
def test_recursion(activation):
    """Against the kernels of the layers, which use other coordinates."""
    limit = infinite_depth(activation)
    X = unit(dirichlet(2, 8, 0)[0], "X")
    exact = limit.network(20).kernel_fn(X, None, ("nngp", "ntk"))
    scale = float(np.asarray(exact.nngp)[0, 0])  # inputs of length 1 have variance 1/3
    for name in ("nngp", "ntk"):
        K = np.asarray(getattr(exact, name)) / scale
        found = np.exp(limit.log_kernel(X, depth=20, kernel=name))
        # the layers hold a correlation near 1 to a rounding, which grows by up to b^20 = 1e6
        np.testing.assert_allclose(found, K, rtol=1e-10, atol=5e-15 * K.max())


def recursion(c, rho, depth):
    """NNGP and NTK in mpmath, by the definition."""
    c, slope = c[::-1], [k * v for k, v in enumerate(c)][:0:-1]
    sigma = theta = rho
    for _ in range(depth):
        new = mpmath.polyval(c, sigma)
        theta, sigma = new + theta * mpmath.polyval(slope, sigma), new
    return sigma, theta


def test_deep_ntk_neither_overflows_nor_underflows():
    c, eps, depth = [0, 0.25, 0.5, 0.25], np.array([1e-12, 1e-3, 0.5, 0.99]), 2000
    limit = infinite_depth(c)
    with mpmath.workdps(80):
        exact = [recursion(c, 1 - mpmath.mpf(float(e)), depth) for e in eps]
        exact = np.array([[float(mpmath.log(v)) for v in pair] for pair in exact]).T
    assert exact[0].max() < -2700  # float64 ends at -745
    for name, log in zip(("nngp", "ntk"), exact, strict=True):
        found = limit.log_kernel(eps=eps, depth=depth, kernel=name)
        np.testing.assert_allclose(found, log, rtol=1e-13)  # 2000 added logarithms
    assert abs(log_diagonal(2.0, depth, "ntk") - (depth + 1) * math.log(2)) < 1e-12
    assert abs(log_diagonal(0.5, 3, "ntk") - math.log(1.875)) < 1e-15
    assert log_diagonal(1.0, 3, "ntk") == math.log(4)


def test_ntk_is_depth_times_psi_plus_a_constant():
    # K_L / a^L - L psi tends to S = sum over m of (rho_m psi'(rho_m) / a^m - psi)
    limit, eps = infinite_depth([0, 0.5, 0, 0.5]), np.array([0.02, 0.2, 0.7])
    psi = np.exp(np.asarray(koenigs(limit.map, jnp.asarray(eps))[0]))
    shares = []
    for depth in (80, 320):
        log = limit.log_kernel(eps=eps, depth=depth, kernel="ntk") - depth * math.log(0.5)
        shares.append(np.exp(log) - depth * psi)
    np.testing.assert_allclose(*shares, rtol=1e-8)  # 300 psi is subtracted
    total, rho, steps = psi, 1 - eps, 0  # the sum has depth + 1 terms
    while steps < 200:
        slope = koenigs(limit.map, jnp.asarray(1 - rho))[2]
        total = total + rho * np.exp(np.asarray(slope)) * 2.0**steps - psi
        rho, steps = (rho + rho**3) / 2, steps + 1
        if rho.max() < 1e-7:  # beyond, the terms fall as rho^2
            break
    np.testing.assert_allclose(shares[1], total, rtol=1e-7)


@pytest.mark.parametrize(
    ("d", "hilbert", "near"), [(1, 0.99, 0.75), (2, 0.99, 0.95), (4, 0.99, 0.97)]
)
def test_published_agreement(d, hilbert, near):
    """Limit against Gram solves of depth 80, the Hilbert kernel and the nearest neighbour."""
    (X, y), (Z, w) = dirichlet(d, 250, 0), dirichlet(d, 400, 1)
    limit, h3 = infinite_depth(activation_for_dimension(d)), infinite_depth("hermite3")
    labels = limit.predict(X, y, Z)
    np.testing.assert_array_equal(limit.predict(X, y, Z, depth=80), labels)
    squared = ((unit(Z, "Z")[:, None] - unit(X, "X")) ** 2).sum(-1)
    assert (np.sign(squared ** (-d / 2) @ y) == labels).mean() >= hilbert
    nearest = y[squared.argmin(axis=1)]
    np.testing.assert_array_equal(h3.predict(X, y, Z), nearest)
    assert (h3.predict(X, y, Z, depth=16) == nearest).mean() == 1.0
    assert (limit.predict(X, y, Z, depth=320, kernel="ntk") == labels).mean() > near - 0.05
    majority = infinite_depth("relu").predict(X, y, Z)
    assert (majority == -1).all()
    assert (labels == w).mean() > (majority == w).mean()
    if d == 1:  # Bayes 0.76, nearest neighbour 0.6774, majority 0.6; 3 errors of sqrt(0.24 / 400)
        found = [(v == w).mean() for v in (labels, nearest, majority)]
        assert np.abs(np.subtract(found, [0.745, 0.6774, 0.6])).max() < 0.073


def test_gram_solve_in_high_precision():
    """The prediction at a small depth, in 50 digits and from the layers' own Gram."""
    c, depth = [0, 0.25, 0.5, 0.25], 4
    (X, y), (Z, _) = dirichlet(4, 12, 3), dirichlet(4, 5, 4)
    limit = infinite_depth(c)
    U, V = unit(X, "X"), unit(Z, "Z")
    for name in ("nngp", "ntk"):
        with mpmath.workdps(50):
            entry = lambda u, v, name=name: recursion(  # noqa: E731
                c, mpmath.fdot(u, v) / mpmath.sqrt(mpmath.fdot(u, u) * mpmath.fdot(v, v)), depth
            )[name == "ntk"]
            K = mpmath.matrix([[entry(u, v) for v in U] for u in U])
            weights = mpmath.lu_solve(
                K + mpmath.mpf(0.1) * mpmath.eye(12), mpmath.matrix(y.tolist())
            )
            exact = [sum(entry(v, u) * w for u, w in zip(U, weights, strict=True)) for v in V]
        found = limit.scores(X, y, Z, depth=depth, kernel=name, ridge=0.1)
        value = np.exp(found.log - found.log[:, :1]) * found.sign  # up to a factor per test point
        got = (value[:, 1] - value[:, 0]) * np.exp(found.log[:, 0])
        # a condition number of about 1e2
        np.testing.assert_allclose(got, np.array(exact, float), rtol=1e-12)


def test_majority_vote_of_relu():
    rng = np.random.default_rng(0)
    X, Z = np.abs(rng.normal(size=(61, 3))), np.abs(rng.normal(size=(30, 3)))
    y = np.array([1] * 37 + [-1] * 24)
    limit = infinite_depth("relu")
    assert (limit.predict(X, y, Z) == 1).all()
    assert (limit.predict(X, y, Z, depth=10_000, kernel="ntk") == 1).all()
    eps = np.sort(gaps(unit(X, "X"), unit(Z, "Z")).ravel())[[0, 10, 300, 1000, -1]]
    deep = deep_kernel(limit.map, jnp.asarray(eps), 50_000, "ntk")
    ratio = 1 - np.asarray(deep.gap)
    assert (ratio > 0.2500).all()
    assert (ratio < 0.2595).all()  # 1/4 + O(ln L / L), larger for near pairs
    nngp = np.asarray(deep_kernel(limit.map, jnp.asarray(eps), 50_000).gap)
    assert (np.abs(nngp * 50_000**2 / (9 * math.pi**2 / 2) - 1) < 0.08).all()


def test_critical_exponents():
    # eps_l -> ((p - 1) C l)^(-1/(p - 1)) and ratio (p - 1)/(2 p - 1): p = 3/2 above; here p = 2
    limit = infinite_depth([0.25, 0.5, 0.25])
    assert (limit.phase, limit.ntk_ratio) == ("critical", 1 / 3)
    eps = jnp.asarray([0.1, 0.9])
    deep = deep_kernel(limit.map, eps, 200_000, "ntk")
    np.testing.assert_allclose(1 - deep.gap, 1 / 3, atol=1e-4)  # ln L / L
    nngp = deep_kernel(limit.map, eps, 200_000).gap
    np.testing.assert_allclose(nngp * 0.25 * 200_000, 1, atol=3e-4)


def test_majority_formula_is_the_limit_of_the_solve():
    limit = infinite_depth([0.125, 0.375, 0.5])  # b = 11/8; c_star = 1/4 by hand
    assert abs(limit.c_star - 0.25) < 1e-12  # tolerance of the root
    X, y = dirichlet(2, 21, 5)
    Z = np.concatenate([dirichlet(2, 9, 6)[0], 3 * X[:2]])
    for ridge in (0.0, 0.3):
        limiting = limit.scores(X, y, Z, ridge=ridge)
        solved = limit.scores(X, y, Z, depth=400, ridge=ridge)
        # 0.625^400 is nothing; condition number of about 30
        got, exact = (np.exp(s.log) * s.sign for s in (solved, limiting))
        np.testing.assert_allclose(got, exact, atol=1e-12)
    constant = 0.25 * y.sum() / (0.75 + 0.3 + 21 * 0.25)
    np.testing.assert_allclose((exact[:9, 1] - exact[:9, 0]), constant, rtol=1e-12)
    assert (limit.predict(X, y, Z, kernel="ntk")[:9] == -1).all()
    np.testing.assert_array_equal(limit.predict(X, y, Z)[9:], y[:2])


def test_ordered_phase_is_kriging_without_a_ridge():
    c = [0.5, 0.25, 0.25]
    limit = infinite_depth(c)
    X, y = dirichlet(2, 10, 7)
    Z, _ = dirichlet(2, 30, 8)
    U, V = unit(X, "X"), unit(Z, "Z")
    found = limit.scores(X, y, Z)
    kriging = (np.exp(found.log) * found.sign) @ np.array([-1.0, 1.0])
    with mpmath.workdps(120):
        depth = 90  # gaps of 0.75^90 = 6e-12

        def entry(u, v):
            rho = mpmath.fdot(u, v) / mpmath.sqrt(mpmath.fdot(u, u) * mpmath.fdot(v, v))
            return recursion(c, rho, depth)[0]

        K = mpmath.matrix([[entry(u, v) for v in U] for u in U])
        weights = mpmath.lu_solve(K, mpmath.matrix(y.tolist()))
        deep = [float(sum(entry(v, u) * w for u, w in zip(U, weights, strict=True))) for v in V]
    # the gap that is left, times the norm of the inverse of the system
    np.testing.assert_allclose(kriging, deep, atol=1e-7)
    assert len(set(np.sign(kriging))) == 2
    at_depth = limit.scores(X, y, Z, depth=depth)
    got = (np.exp(at_depth.log) * at_depth.sign) @ np.array([-1.0, 1.0])
    np.testing.assert_allclose(got, deep, atol=1e-10)  # accuracy of the variogram times the inverse
    np.testing.assert_array_equal(limit.predict(X, y, Z, depth=10**6), limit.predict(X, y, Z))
    assert (limit.predict(X, y, Z, ridge=1e-6) == -1).all()
    assert (limit.predict(X, y, Z, depth=90, ridge=1e-6) == -1).all()
    same = (limit.predict(X, y, Z, depth=400, kernel="ntk") == limit.predict(X, y, Z)).mean()
    assert same >= 0.9  # the NTK's variogram is psi_1 up to 1 / depth


def test_classes_labels_and_streaming():
    rng = np.random.default_rng(2)
    X, Z = rng.random((5000, 4)), rng.random((100, 4))
    names = np.array(["a", "b", "c"])[X.argmax(axis=1) % 3]
    limit = infinite_depth([0, 0.25, 0.5, 0.25])
    labels = limit.predict(X, names, Z)
    psi = np.exp(np.asarray(koenigs(limit.map, jnp.asarray(gaps(unit(Z, "Z"), unit(X, "X"))))[0]))
    sums = np.stack([psi[:, names == c].sum(axis=1) for c in "abc"], axis=1)
    np.testing.assert_array_equal(labels, np.array(list("abc"))[sums.argmax(axis=1)])
    hot = (names[:, None] == np.array(list("abc"))).astype(float)
    np.testing.assert_array_equal(limit.predict(X, hot, Z), sums.argmax(axis=1))
    np.testing.assert_array_equal(limit.predict(X, names, 7 * X[:50]), names[:50])
    scores = limit.scores(X, names, Z)
    np.testing.assert_allclose(scores.log, np.log(sums), rtol=1e-12)  # 5000 terms


def test_negative_correlations():
    X, y = np.array([[1.0, 0], [0, 1.0], [-0.8, -0.6]]), np.array([1, -1, 1])
    Z = np.array([[0.9, 0.1], [0.6, -0.7], [0.1, 0.8]])
    odd = infinite_depth([0, 0.5, 0, 0.5])
    rho = unit(Z, "Z") @ unit(X, "X").T
    psi = np.sign(rho) * np.exp(np.asarray(koenigs(odd.map, jnp.asarray(1 - np.abs(rho)))[0]))
    np.testing.assert_array_equal(odd.predict(X, y, Z), np.sign(psi @ y))
    np.testing.assert_array_equal(odd.predict(X, y, Z, depth=60), np.sign(psi @ y))
    with pytest.warns(DeepLimitsWarning, match="negative and the activation is even"):
        even = infinite_depth("hermite2").predict(X, y, Z)
    np.testing.assert_array_equal(even, y[np.abs(rho).argmax(axis=1)])
    mixed = infinite_depth([0, 0, 0.25, 0.75])  # rho = -1/3 is mapped to 0: nothing is near
    np.testing.assert_array_equal(mixed.predict(X, y, Z), mixed.predict(X, y, Z, depth=8))


def test_depth_needed():
    limit = infinite_depth([0, 0.25, 0.5, 0.25])
    X, y = dirichlet(4, 200, 0)
    U = unit(X, "X")
    eps = gaps(U, U)[np.triu_indices(200, 1)]
    depth = limit.depth_needed(X)
    assert depth == limit.depth_needed(eps=[eps.min(), eps.max()], n=200)
    estimate = math.log(0.5 / eps.min()) / math.log(2) + math.log(200 / 0.01) / math.log(4)
    assert abs(depth - estimate) < 6  # psi(1/2) is not 1
    assert limit.depth_needed(eps=[1e-3, 0.5], kernel="ntk") > 0.5 * 2 * 2 / 1e-3 / 0.01
    relu, ends = infinite_depth("relu"), np.array([1e-2, 0.9])
    deep = relu.depth_needed(eps=ends, tol=0.05, kernel="ntk")
    spread = [np.ptp(relu.log_kernel(eps=ends, depth=n, kernel="ntk")) for n in (deep, deep // 2)]
    assert spread[0] < math.log(1.05) < spread[1]
    nearest = infinite_depth("hermite3")
    deep = nearest.depth_needed(X)
    Z, _ = dirichlet(4, 50, 1)
    np.testing.assert_array_equal(nearest.predict(X, y, Z, depth=deep), nearest.predict(X, y, Z))
    assert infinite_depth([0.5, 0.25, 0.25]).depth_needed(eps=[0.01, 0.9]) < 40
    with pytest.raises(ConvergenceError, match="more than max_depth = 1000"):
        limit.depth_needed(X, kernel="ntk", max_depth=1000)
    with pytest.raises(ConvergenceError, match="two nearest neighbours at one distance"):
        nearest.depth_needed(eps=[[0.1, 0.1]])
    with pytest.raises(ShapeError, match="give one of them"):
        limit.depth_needed()
    with pytest.raises(ShapeError, match="two smallest gaps"):
        nearest.depth_needed(eps=[0.1, 0.2, 0.3])
    with pytest.raises(DomainError, match=r"eps must lie in \(0, 2\]"):
        limit.depth_needed(eps=[0.0])


def test_bad_input():
    X, y = dirichlet(2, 6, 0)
    limit = infinite_depth([0, 0.5, 0, 0.5])
    with pytest.raises(DomainError, match="row 0 of X_test is zero"):
        limit.predict(X, y, np.zeros((1, 3)))
    with pytest.raises(DomainError, match="same direction with labels"):
        limit.predict(np.concatenate([X, 2 * X[:1]]), [*y, -y[0]], X)
    with pytest.warns(DeepLimitsWarning, match="1 training points repeat others"):
        limit.predict(np.concatenate([X, 2 * X[:1]]), [*y, y[0]], X)
    with pytest.raises(DomainError, match="are opposite"):
        limit.predict(np.concatenate([X, -X[:1]]), [*y, y[0]], X)
    with pytest.raises(DomainError, match="tie at 2 test points"):
        infinite_depth("relu").predict(X, [1, 1, 1, 2, 2, 2], dirichlet(2, 2, 1)[0])
    tied = infinite_depth("relu").predict(X, [1, 1, 1, 2, 2, 2], X + 0.1, ties="nan")
    assert np.isnan(tied).all()
    with pytest.raises(DomainError, match="needs numbers as labels"):
        infinite_depth("relu").predict(X, list("aaabbb"), X + 0.1, ties="nan")
    for bad in ("linear", [0, 1.0], [1.0, 0.0]):
        with pytest.raises(DomainError, match=r"is linear|is constant"):
            infinite_depth(bad)
    assert abs(infinite_depth([0, 1, 0, 1]).series.variance - 2) < 1e-14  # normalised, reported
    with pytest.raises(DomainError, match="coefficient 2 of the dual"):
        infinite_depth([0, 1, -1])
    with pytest.raises(UnsupportedLayerError, match="the activation jumps"):
        infinite_depth("sign").predict(X, y, X, kernel="ntk")
    with pytest.raises(DomainError, match="one largest entry"):
        limit.predict(X, np.ones((6, 2)), X)
    with pytest.raises(ShapeError, match="one label per training point"):
        limit.predict(X, y[:5], X)
    with pytest.raises(DomainError, match="finite labels"):
        limit.predict(X, [np.nan] * 6, X)
    with pytest.raises(DomainError, match="depth must be"):
        limit.predict(X, y, X, depth=0)
    with pytest.raises(ShapeError, match="give one of them"):
        limit.log_kernel()
    with pytest.raises(DomainError, match=r"eps must lie in \[0, 2\]"):
        limit.log_kernel(eps=3.0)
    line = np.stack([np.linspace(0.1, 1, 40), np.ones(40)], axis=1)
    with pytest.warns(PrecisionWarning, match="singular to float64"):
        infinite_depth("hermite2").predict(line, np.arange(40) % 2, line + 0.01, depth=1)


def test_same_directions():
    rng = np.random.default_rng(0)
    U = unit(rng.normal(size=(500, 20)), "U")
    copies = unit(np.concatenate([U, 3 * U[[3, 7]], -U[[5]]]), "U")
    assert same_directions(copies, False) == [(3, 500), (7, 501)]
    assert same_directions(copies, True) == [(3, 500), (5, 502), (7, 501)]


@pytest.mark.parametrize("activation", [[0, 0.5, 0, 0.5], "hermite3", "relu"])
def test_plot(activation):
    ax = infinite_depth(activation).plot()
    assert len(ax.lines) >= 1
    assert ax.get_xlabel()
    plt.close(ax.figure)
