"""Nearest-neighbour information: exact identities, rival algorithms, published tables, errors."""

import math
import zlib

import numpy as np
import pytest
import scipy.stats
import sklearn.feature_selection
from scipy.special import digamma

from bounds import mutual_information as mi
from bounds.mutual_information.counting import CHUNK, count_within
from deeplimits import DomainError, ShapeError
from deeplimits.statistics import family_threshold

RNG = np.random.default_rng(20)


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


def distances(v):
    return np.abs(v[:, None] - v[None]).max(-1)


def brute_ksg(x, y, k, variant):
    """KSG by sorting all n^2 distances."""
    n, (dx, dy) = len(x), (distances(x), distances(y))
    np.fill_diagonal(joint := np.maximum(dx, dy), np.inf)
    nearest = np.argsort(joint, axis=1)[:, :k]
    others = ~np.eye(n, dtype=bool)
    if variant == 1:
        e = np.sort(joint, axis=1)[:, [k - 1]]
        counts = [((d < e) & others).sum(1) + 1 for d in (dx, dy)]
        return digamma(k) + digamma(n) - sum(digamma(c).mean() for c in counts)
    sides = [np.take_along_axis(d, nearest, 1).max(1, keepdims=True) for d in (dx, dy)]
    counts = [((d <= e) & others).sum(1) for d, e in zip((dx, dy), sides, strict=True)]
    return digamma(k) - 1 / k + digamma(n) - sum(digamma(c).mean() for c in counts)


def brute_ross(x, labels, k):
    n, d = len(x), distances(x)
    total = 0.0
    for i in range(n):
        own = np.sort(d[i][(labels == labels[i]) & (np.arange(n) != i)])
        k_i = min(k, len(own))
        m = (d[i] < own[k_i - 1]).sum()  # holds the point itself, at distance 0
        total += digamma(k_i) - digamma(len(own) + 1) - digamma(m)
    return digamma(n) + total / n


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("d", [1, 2, 5])
def test_counts_are_exact(d, strict):
    # Several chunks, many equal coordinates, and radii that are distances between points.
    points = RNG.integers(0, 12, size=(CHUNK + 300, d)) / 7
    index = RNG.integers(0, len(points), size=400)
    pair = RNG.integers(0, len(points), size=400)
    radius = np.abs(points[index] - points[pair]).max(-1)
    gap = np.abs(points[index][:, None] - points[None]).max(-1)
    expected = (gap < radius[:, None] if strict else gap <= radius[:, None]).sum(1) - 1
    expected = np.maximum(expected, 0)
    np.testing.assert_array_equal(
        count_within(points, radius, strict=strict, index=index), expected
    )


@pytest.mark.parametrize("variant", [1, 2])
@pytest.mark.parametrize(("p", "q", "k"), [(1, 1, 1), (1, 1, 4), (2, 1, 3), (3, 4, 7)])
def test_ksg_equals_brute_force(p, q, k, variant):
    x, y = RNG.normal(size=(250, p)), RNG.normal(size=(250, q))
    y[:, 0] += x[:, 0]
    got = mi.ksg(x, y, k, variant=variant)
    # the same digammas of the same integers: rounding of a mean
    assert float(got) == pytest.approx(brute_ksg(x, y, k, variant), abs=1e-12)
    assert got.dims == (p, q)
    assert got.n == 250


def test_ksg_with_equal_distances_equals_brute_force():
    x, y = RNG.integers(0, 64, size=(2, 300, 2)) / 8.0
    got = mi.ksg(x, y, 3)
    assert float(got) == pytest.approx(brute_ksg(x, y, 3, 1), abs=1e-12)  # as above
    assert any("are repeated" in note for note in got.warnings)


def test_scikit_learn_agrees():
    x, y = gaussian(800, 0.7, 1, 1)
    theirs = sklearn.feature_selection.mutual_info_regression(x, y[:, 0], random_state=0)[0]
    ours = float(mi.ksg(x / x.std(), y / y.std(), 3))
    # theirs adds noise of 1e-10, which moves no count here: rounding
    assert ours == pytest.approx(theirs, abs=1e-12)
    labels = (y[:, 0] > 0.3).astype(int)
    theirs = sklearn.feature_selection.mutual_info_classif(x, labels, random_state=0)[0]
    assert float(mi.mixed(x / x.std(), labels)) == pytest.approx(theirs, abs=1e-12)  # as above


def test_identical_variables_reach_the_ceiling():
    x = RNG.normal(size=(1000, 1))
    for variant, less in ((1, 0.0), (2, 1 / 3)):
        got = mi.ksg(x, x, 3, variant=variant)
        assert got.ceiling == digamma(1000) - digamma(3) - less
        assert float(got) == pytest.approx(got.ceiling, abs=1e-13)  # rounding of a mean
        assert any("close to the ceiling" in note for note in got.warnings)
    assert float(mi.ksg(x, x)) == pytest.approx(5.98447086, abs=5e-9)  # printed digits
    noisy = mi.ksg(x, x + 1e-3 * RNG.normal(size=x.shape))
    assert float(noisy) < noisy.ceiling


# KSG with k = 3 of Gaussian pairs: what an independent implementation gave at 500 and 2000 samples.
TABLE = {
    (1, 1): (1.01, 1.01), (2, 1): (0.97, 1.00), (5, 1): (0.53, 0.76), (10, 1): (0.29, 0.45),
    (1, 3): (2.89, 3.03), (2, 3): (2.66, 2.87), (5, 3): (1.76, 2.16), (10, 3): (0.99, 1.34),
    (1, 5): (4.44, 4.91), (2, 5): (4.01, 4.57), (5, 5): (2.81, 3.33), (10, 5): (1.63, 2.05),
}  # fmt: skip


@pytest.mark.parametrize("d", [1, 2, 5, 10])
def test_bias_table(d):
    for information in (1, 3, 5):
        for n, size, published in zip((500, 2000), (6, 1), TABLE[d, information], strict=True):
            runs = [
                float(mi.ksg(*gaussian(n, information, d, s), jackknife=0, workers=1))
                for s in range(size)
            ]
            # The table is one more run, printed with two digits; variances fall as 1/n.
            if n == 500:
                spread = np.std(runs, ddof=1) * math.sqrt(500)
            error = spread / math.sqrt(n) * math.sqrt(1 + 1 / size)
            bound = family_threshold(4, 24, 5)
            assert abs(np.mean(runs) - published) < bound * error + 0.005


def test_no_bias_without_dependence():
    runs = []
    for _ in range(150):
        x, y = RNG.exponential(size=(2, 100, 1))
        runs.append(float(mi.ksg(x, y, jackknife=0, workers=1)))
    z = np.mean(runs) / (np.std(runs, ddof=1) / math.sqrt(150))
    assert abs(z) < 4
    assert min(runs) < -0.05  # not clipped
    assert mi.ksg(x, y).clipped >= 0


@pytest.mark.parametrize("variant", [1, 2])
def test_jackknife_is_that_of_repeated_estimates(variant):
    x, y = gaussian(60, 1.0, 2, 5)
    left = [
        float(
            mi.ksg(*(np.delete(v, j, 0) for v in (x, y)), variant=variant, jackknife=0, workers=1)
        )
        for j in range(60)
    ]
    expected = math.sqrt(59 * np.var(left))
    # differences of means of digammas: rounding, times n
    assert mi.ksg(x, y, variant=variant).stderr == pytest.approx(expected, rel=1e-11)


def test_jackknife_of_labels_is_that_of_repeated_estimates():
    x, labels = RNG.normal(size=(60, 2)), np.arange(60) % 3
    x[:, 0] += labels
    left = [
        float(mi.mixed(np.delete(x, j, 0), np.delete(labels, j), jackknife=0)) for j in range(60)
    ]
    expected = math.sqrt(59 * np.var(left))
    assert mi.mixed(x, labels).stderr == pytest.approx(expected, rel=1e-11)  # as above


@pytest.mark.parametrize(("information", "d"), [(0.0, 1), (1.0, 2), (3.0, 5)])
def test_standard_error_is_conservative(information, d):
    runs = [mi.ksg(*gaussian(250, information, d, s), jackknife=50, workers=1) for s in range(50)]
    ratio = np.mean([r.stderr**2 for r in runs]) / np.var([r.value for r in runs], ddof=1)
    # The variance of 50 runs is known up to chi-squared; the claim is 1 to 1.8 in the error.
    low, high = 49 / scipy.stats.chi2.ppf([0.9999, 0.0001], 49)
    assert low < ratio < 1.8**2 * high


def test_sampled_jackknife():
    x, y = gaussian(2000, 1.0, 2, 3)
    every, some = mi.ksg(x, y, jackknife=2000), mi.ksg(x, y, jackknife=400)
    # relative error of a standard deviation from 400 draws of excess kurtosis below 10
    assert some.stderr == pytest.approx(every.stderr, rel=4 * math.sqrt((2 + 10) / 400) / 2)
    assert mi.ksg(x, y, jackknife=0).stderr is None


def test_invariances():
    x, y = gaussian(400, 1.0, 2, 7)
    got = float(mi.ksg(x, y, transform="rank-gauss"))
    # the same ranks, hence the same numbers
    assert float(mi.ksg(x**3, np.exp(y), transform="rank-gauss")) == got
    order = RNG.permutation(400)
    assert float(mi.ksg(x[order], y[order])) == pytest.approx(float(mi.ksg(x, y)), abs=1e-13)
    assert float(mi.ksg(y, x)) == pytest.approx(float(mi.ksg(x, y)), abs=1e-13)  # sum's order
    scaled = mi.ksg(1e6 * x, y + 3, transform="standardise")
    assert float(scaled) == float(mi.ksg(x, y, transform="standardise"))
    images = x.reshape(400, 1, 2, 1)
    assert float(mi.ksg(images, y)) == float(mi.ksg(x, y))


def test_ranks_undo_heavy_tails():
    raw, cubed, ranked = [], [], []
    for s in range(3):
        sample = mi.gaussian_pairs(2000, 2.0, 3, rotate=False, key=s)
        x, y = sample.x, sample.y
        raw.append(float(mi.ksg(x, y, jackknife=0)))
        cubed.append(float(mi.ksg(x**3, y**3, jackknife=0)))
        ranked.append(float(mi.ksg(x**3, y**3, jackknife=0, transform="rank-gauss")))
    # published single runs: 1.83, 1.25, 1.83
    for runs, published in ((raw, 1.83), (cubed, 1.25), (ranked, 1.83)):
        spread = np.std(runs, ddof=1) * math.sqrt(1 + 1 / 3)
        assert abs(np.mean(runs) - published) < family_threshold(4, 3, 2) * spread


def test_baseline():
    x, y = gaussian(300, 0.3, 1, 2)
    got = mi.ksg(x, y, baseline=19, key=0)
    assert float(got) == got.terms["raw"] - got.terms["baseline"]
    assert got.terms["raw"] == float(mi.ksg(x, y))
    assert got.terms["p_value"] == 1 / 20
    assert got.ceiling == digamma(300) - digamma(3) - got.terms["baseline"]
    null = mi.ksg(x, RNG.normal(size=(300, 1)), baseline=19, key=1)
    assert abs(null.value) < 4 * null.terms["baseline_std"] * math.sqrt(1 + 1 / 19)
    assert null.terms["p_value"] > 1 / 20


@pytest.mark.parametrize("k", [1, 3])
def test_ross_equals_brute_force(k):
    x = RNG.normal(size=(200, 2))
    labels = RNG.choice(["a", "b", "c"], size=200, p=[0.6, 0.385, 0.015])
    labels[:2] = "c"
    x[:, 0] += labels == "b"
    assert float(mi.mixed(x, labels, k)) == pytest.approx(brute_ross(x, labels, k), abs=1e-12)


def test_ross_against_quadrature():
    for std, published in ((0.5, 0.6327), (1.0, 0.3368), (2.0, 0.1114)):
        sample = mi.labelled_mixture(4000, [-1, 1], std, key=3)
        got = mi.mixed(sample.x, sample.y)
        assert sample.information == pytest.approx(published, abs=5e-5)  # printed digits
        # the standard error is conservative, so that 4 of them are at least 4 deviations
        assert abs(float(got) - sample.information) < 4 * got.stderr
        assert got.terms["label_entropy"] == pytest.approx(math.log(2), abs=0.01)


def test_ross_ceiling_and_small_classes():
    x = np.concatenate([RNG.normal(size=(50, 1)) + 100 * i for i in range(4)])
    got = mi.mixed(x, np.repeat(np.arange(4), 50))
    assert float(got) == pytest.approx(got.ceiling, abs=1e-13)  # separated classes attain it
    labels = np.repeat(np.arange(4), 50)
    labels[:2] = (7, 8)
    alone = mi.mixed(x, labels)
    assert alone.n == 198
    assert any("2 classes with a single member" in note for note in alone.warnings)
    few = mi.mixed(x[:53], np.repeat([0, 1], [50, 3]))
    assert few.stderr is None
    assert any("fewer than k + 2" in note for note in few.warnings)


def test_warnings():
    x, y = gaussian(300, 0.5, 1, 0)
    whole = mi.ksg(np.arange(300)[:, None], y)
    assert any("x holds integers" in note for note in whole.warnings)
    wide = mi.ksg(RNG.normal(size=(100, 12)), RNG.normal(size=(100, 12)))
    assert any("24 joint dimensions" in note for note in wide.warnings)
    assert any("differ in scale" in note for note in mi.ksg(100 * x, y).warnings)
    x[:2], y[:2] = 0.0, 0.0
    assert any("exact duplicates" in note for note in mi.ksg(x, y, 1).warnings)
    noisy = mi.ksg(x, y, 1, jitter=1e-6, key=0)
    assert any("noise of 1e-06" in note for note in noisy.warnings)
    assert mi.ksg(*gaussian(300, 0.5, 1, 0)).warnings == ()


X, Y = RNG.normal(size=(2, 30, 2))
BAD = [
    (lambda: mi.ksg(X[0], Y), "x must have shape", ShapeError),
    (lambda: mi.ksg(X, Y[:20]), "30 and 20 rows", ShapeError),
    (lambda: mi.ksg(np.where(X > 1, np.nan, X), Y), "x must be finite", DomainError),
    (lambda: mi.ksg(X, Y, 29), "k must be at most n - 2 = 28", DomainError),
    (lambda: mi.ksg(X, Y, 0), "k must be >= 1", DomainError),
    (lambda: mi.ksg(X * [1, 0], Y), "x is constant in column 1", DomainError),
    (lambda: mi.ksg(X[:, :1] > 0, Y[:, :1] > 0), "exact duplicates", DomainError),
    (lambda: mi.ksg(X, Y, variant=3), "variant must be 1 or 2", DomainError),
    (lambda: mi.ksg(X, Y, transform="log"), "transform must be one of", DomainError),
    (lambda: mi.ksg(X, Y, baseline=5), "baseline permutes y", DomainError),
    (lambda: mi.ksg(X, Y, jitter=0.1), "jitter adds random noise", DomainError),
    (lambda: mi.ksg(X, Y, jitter=-1, key=0), "jitter must be >= 0", DomainError),
    (lambda: mi.mixed(X, np.arange(29)), "labels must have shape", ShapeError),
    (lambda: mi.mixed(X, np.arange(30)), "two classes or more", DomainError),
    (lambda: mi.mixed(X, Y[:, 0]), "labels must be discrete", DomainError),
]


@pytest.mark.parametrize(("call", "message", "error"), BAD, ids=[message for _, message, _ in BAD])
def test_bad_input(call, message, error):
    with pytest.raises(error, match=message):
        call()
