"""Entropies from neighbours, weights that cancel biases, the Gaussian plug-in."""

import math
import zlib

import numpy as np
import pytest
import scipy.stats
from scipy.special import digamma, gamma

from bounds import mutual_information as mi
from deeplimits import DomainError, ShapeError
from deeplimits.statistics import family_threshold

RNG = np.random.default_rng(21)


@pytest.fixture(autouse=True)
def own_numbers(request):
    """Every test draws its own numbers, whatever ran before it."""
    global RNG
    RNG = np.random.default_rng(zlib.crc32(request.node.name.encode()))


def gaussian(n, information, d, seed):
    """Gaussian pairs without rotation, in plain NumPy."""
    rng = np.random.default_rng(seed)
    rho = math.sqrt(1 - math.exp(-2 * information / d))
    x, z = rng.normal(size=(2, n, d))
    return x, rho * x + math.sqrt(1 - rho**2) * z


def neighbour_distances(x, norm):
    gap = x[:, None] - x[None]
    d = np.abs(gap).max(-1) if norm == "max" else np.sqrt((gap**2).sum(-1))
    return np.sort(d, axis=1)[:, 1:]


@pytest.mark.parametrize("norm", ["euclidean", "max"])
@pytest.mark.parametrize("d", [1, 3])
def test_kl_equals_its_formula(d, norm):
    x = RNG.gumbel(size=(150, d))
    ball = 2.0**d if norm == "max" else math.pi ** (d / 2) / gamma(d / 2 + 1)
    for k in (1, 4):
        rho = neighbour_distances(x, norm)[:, k - 1]
        expected = digamma(150) - digamma(k) + math.log(ball) + d * np.log(rho).mean()
        got = mi.kl_entropy(x, k, norm=norm, transform=None)
        assert float(got) == pytest.approx(expected, abs=1e-12)  # rounding of a mean
    assert got.target == "differential entropy"


@pytest.mark.parametrize(
    ("law", "exact"),
    [
        (lambda n: RNG.normal(size=(n, 2)), math.log(2 * math.pi * math.e)),
        (lambda n: RNG.exponential(size=(n, 1)), 1.0),
        (lambda n: RNG.standard_t(4, size=(n, 1)), float(scipy.stats.t(4).entropy())),
    ],
    ids=["normal", "exponential", "t"],
)
def test_kl_of_known_entropies(law, exact):
    runs = np.array([float(mi.kl_entropy(law(1500), 1, workers=1)) for _ in range(40)])
    error = runs.std(ddof=1) / math.sqrt(40)
    # the bias of the nearest neighbour, a power n^(-2/d) and less, lies below the error
    assert abs(runs.mean() - exact) < 4.5 * error


def test_entropies_scale():
    x = RNG.normal(size=(300, 3))
    scale = np.array([1e-3, 1.0, 50.0])
    for h in (mi.kl_entropy, mi.weighted_kl):
        # standardised columns are equal up to rounding
        assert float(h(x * scale)) - float(h(x)) == pytest.approx(np.log(scale).sum(), abs=1e-10)


@pytest.mark.parametrize("d", [4, 8, 13])
def test_strict_weights(d):
    k, w = 20, mi.kl_weights(20, d, method="strict")
    j = np.arange(1, k + 1)
    support = sorted({max(i * k // d, 1) for i in range(1, d + 1)})
    assert set(np.flatnonzero(w) + 1) <= set(support)
    rows = [gamma(j + 2 * i / d) / gamma(j) for i in range(1, d // 4 + 1)]
    conditions = np.array([np.ones(k), *rows])
    # least squares; relative to the size of weights and rows
    size = np.linalg.norm(conditions, axis=1) * np.linalg.norm(w)
    np.testing.assert_array_less(np.abs(conditions @ w - np.eye(len(conditions))[0]) / size, 1e-13)
    # least norm: orthogonal to the null space, that is, in the row space
    a = conditions[:, np.array(support) - 1]
    part = w[np.array(support) - 1]
    gap = part - a.T @ np.linalg.lstsq(a.T, part, rcond=None)[0]
    assert np.abs(gap).max() < 1e-8 * np.abs(part).max()  # conditioning of the rows


def test_strict_weights_explode_and_ridge_weights_do_not():
    strict = [np.linalg.norm(mi.kl_weights(20, d, method="strict")) for d in (5, 8, 12, 16, 20)]
    for got, published in zip(strict, (2.1, 9.7, 59, 784, 1.7e4), strict=True):
        assert got == pytest.approx(published, rel=0.03)  # two printed digits
    assert max(np.linalg.norm(mi.kl_weights(20, d)) for d in (5, 8, 12, 16, 20)) < 8


@pytest.mark.parametrize("d", [1, 5, 12])
def test_ridge_weights_solve_the_bordered_system(d):
    k, tau, j = 20, 1e-2, np.arange(1, 21)
    rows = np.array([gamma(j + 2 * i / d) / gamma(j) for i in range(1, d // 4 + 1)]).reshape(-1, k)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    border = np.ones((k, 1))
    matrix = np.block([[tau * np.eye(k) + rows.T @ rows, border], [border.T, np.zeros((1, 1))]])
    expected = np.linalg.solve(matrix, np.eye(k + 1)[k])[:k]
    # two solutions of one linear system, of condition about 1/tau
    np.testing.assert_allclose(mi.kl_weights(k, d, tau=tau), expected, rtol=1e-9, atol=1e-12)


def test_weighted_entropy_equals_its_formula():
    x = RNG.normal(size=(200, 5))
    rho = neighbour_distances(x, "euclidean")[:, :20]
    ball = math.pi**2.5 / gamma(3.5)
    orders = digamma(200) - digamma(np.arange(1, 21)) + math.log(ball)
    for weights in ("ridge", "strict"):
        w = mi.kl_weights(20, 5, method=weights)
        expected = w @ (orders + 5 * np.log(rho).mean(0))
        got = mi.weighted_kl(x, weights=weights, transform=None)
        assert float(got) == pytest.approx(expected, abs=1e-12)  # rounding of a mean


def test_jackknife_is_that_of_repeated_estimates():
    x, y = gaussian(60, 1.0, 2, 4)

    def error(estimate):
        left = [float(estimate(np.delete(x, j, 0), np.delete(y, j, 0))) for j in range(60)]
        return math.sqrt(59 * np.var(left))

    for estimate in (
        lambda x, y: mi.kl_entropy(x, transform=None, workers=1),
        lambda x, y: mi.weighted_kl(x, k=6, transform=None, workers=1),
        lambda x, y: mi.weighted_kl(x, y, 8, transform=None, workers=1),
        lambda x, y: mi.kl(x, y, 2, transform=None, workers=1),
    ):
        assert estimate(x, y).stderr == pytest.approx(error(estimate), rel=1e-11)  # rounding


# Gaussian pairs, 2000 samples: KL with k = 3, strict and ridge weights with k = 20, each with the
# standard deviation of six runs of an independent implementation.
WEIGHTED = {
    (5, 1): ((0.68, 0.04), (0.92, 0.29), (1.02, 0.10)),
    (5, 3): ((2.27, 0.03), (3.18, 0.29), (3.00, 0.07)),
    (10, 3): ((1.03, 0.02), None, (2.13, 0.08)),
}


@pytest.mark.parametrize(("d", "information"), WEIGHTED)
def test_weighted_table(d, information):
    estimators = (
        lambda x, y: mi.kl(x, y),
        lambda x, y: mi.weighted_kl(x, y, weights="strict"),
        lambda x, y: mi.weighted_kl(x, y),
    )
    for estimate, published in zip(estimators, WEIGHTED[d, information], strict=True):
        if published is None:
            continue  # 129 +- 94: nothing to compare
        mean, spread = published
        runs = [float(estimate(*gaussian(2000, information, d, s))) for s in range(2)]
        # means of six and of two runs, the spread from six; printed digits; 8 comparisons
        error = math.hypot(spread, 0.005) * math.sqrt(1 / 6 + 1 / 2)
        assert abs(np.mean(runs) - mean) < family_threshold(3.5, 8, 5) * error + 0.005


def test_boundaries_spoil_the_ridge():
    x, y = RNG.random(size=(2, 2000, 5))
    ridge, ranked = mi.weighted_kl(x, y), mi.weighted_kl(x, y, transform="rank-gauss")
    assert abs(float(ridge) + 0.56) < 4 * ridge.stderr  # published: one run, -0.56
    assert float(ridge) < -4 * 0.1  # far below zero, in units of the spread in WEIGHTED
    assert abs(float(ranked)) < 4 * ranked.stderr


def test_gaussian_is_unbiased():
    p, q, n, rho = 2, 3, 12, 0.8
    runs, plug_in, errors = [], [], []
    for _ in range(1000):
        x, y = RNG.normal(size=(n, p)), RNG.normal(size=(n, q))
        y[:, 0] = rho * x[:, 0] + math.sqrt(1 - rho**2) * y[:, 0]
        got = mi.gaussian(x, y)
        runs.append(got.value)
        plug_in.append(got.terms["plug_in"])
        errors.append(got.stderr)
    exact, error = -0.5 * math.log(1 - rho**2), np.std(runs) / math.sqrt(1000)
    assert abs(np.mean(runs) - exact) < 4 * error
    assert abs(np.mean(plug_in) - exact) > 20 * error  # what is taken away
    # 4000 other runs gave 0.97; the variance of 1000 runs is known to 6 % with these tails
    assert np.mean(np.square(errors)) / np.var(runs) == pytest.approx(1, abs=0.25)


def test_gaussian_equals_determinants():
    x, y = RNG.normal(size=(50, 3)), RNG.normal(size=(50, 2))
    y[:, 0] += 1e3 * x[:, 1]
    c = np.cov(np.hstack([x, y]), rowvar=False)
    dets = [np.linalg.slogdet(m)[1] for m in (c[:3, :3], c[3:, 3:], c)]
    got = mi.gaussian(1e5 * x + 7, y).terms["plug_in"]
    assert got == pytest.approx(0.5 * (dets[0] + dets[1] - dets[2]), rel=1e-9)  # condition 1e6
    near = x[:, :1] + 1e-7 * RNG.normal(size=(50, 1))
    r2 = np.corrcoef((near - x[:, :1])[:, 0], x[:, 0])[0, 1] ** 2
    gap = (near - x[:, :1]).std() / near.std()
    expected = -math.log(gap * math.sqrt(1 - r2))  # the residual, of relative accuracy 1e-9
    assert mi.gaussian(x[:, :1], near).terms["plug_in"] == pytest.approx(expected, abs=1e-6)


def test_gaussian_standard_error():
    for information in (0.0, 2.0):
        runs = [mi.gaussian(*gaussian(300, information, 2, s)) for s in range(200)]
        ratio = np.mean([r.stderr**2 for r in runs]) / np.var([r.value for r in runs], ddof=1)
        # Without dependence n sum(r^2) is chi-squared with pq = 4, and the floor counts.
        floor = scipy.stats.chi2(4).expect(lambda c: np.maximum(c - 2, 2)) / 2
        low, high = 199 / scipy.stats.chi2.ppf([0.9999, 0.0001], 199)
        assert low < ratio / (1 if information else floor) < high


X, Y = RNG.normal(size=(2, 30, 2))
BAD = [
    (lambda: mi.kl_entropy(X, 29), "k must be at most n - 2", DomainError),
    (lambda: mi.kl_entropy(X, norm="l1"), "norm must be one of", DomainError),
    (lambda: mi.kl_entropy(X, transform="rank-gauss"), "ranks change an entropy", DomainError),
    (lambda: mi.weighted_kl(X, transform="rank-gauss"), "ranks change an entropy", DomainError),
    (lambda: mi.kl_entropy(np.round(X), 1), "exact duplicates", DomainError),
    (lambda: mi.weighted_kl(X, weights="lasso"), "weights must be one of", DomainError),
    (lambda: mi.weighted_kl(X, Y[:9]), "30 and 9 rows", ShapeError),
    (lambda: mi.kl_weights(20, 5, tau=0), "tau must be > 0", DomainError),
    (lambda: mi.kl_weights(3, 40, method="strict"), "k must exceed 10", DomainError),
    (lambda: mi.gaussian(X[:4], Y[:4]), "more rows than columns", DomainError),
    (lambda: mi.gaussian(X, X @ [[1, 2], [3, 4]]), "information is infinite", DomainError),
    (lambda: mi.gaussian(X @ [[1, 2], [2, 4]], Y), "column of x is a linear", DomainError),
]


@pytest.mark.parametrize(("call", "message", "error"), BAD, ids=[message for _, message, _ in BAD])
def test_bad_input(call, message, error):
    with pytest.raises(error, match=message):
        call()
