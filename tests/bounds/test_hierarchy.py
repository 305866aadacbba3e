"""Hierarchies of bounds: closed forms against sampling and quadrature, theorems on families."""

import jax
import numpy as np
import pytest
import scipy.linalg
import scipy.special
import scipy.stats
from scipy.special import ndtr

from bounds.gaussian_layers import Layer, divergence, output_distance, output_shift, wasserstein
from bounds.hierarchy import hierarchy_kl, hierarchy_linear_gaussian, hierarchy_wasserstein
from bounds.quadratic_loss import QuadraticForm, average_loss, inner_product
from deeplimits import DomainError, ShapeError
from deeplimits.special import bivariate_ndtr
from deeplimits.statistics import family_threshold

#: Published cases: input dimension, widths, examples, |mean| / sigma.
CASES = [
    (20, [10, 5, 2], 20, 1.0),
    (20, [10, 5, 2], 100, 1.0),
    (50, [30, 10, 3], 50, 1.5),
    (10, [], 10, 1.0),
]
#: Known numbers, from 4000 draws: gap with its error, divergence bounds of the hidden rows, of the
#: output, logistic gap, and what 4000 draws leave open in the last two (with the printed digits).
KNOWN = [
    (0.0758, 0.0010, [0.506, 0.358, 0.253, 0.160], 0.131, 0.051, 1.5e-3),
    (0.0187, 0.0006, [0.224, 0.159, 0.112, 0.071], 0.052, 0.010, 1.5e-3),
    (0.0693, 0.0007, [0.503, 0.389, 0.225, 0.123], 0.104, 0.025, 1.5e-3),
    (0.1592, 0.0008, [0.513], 0.360, 0.242, 6e-3),
]


def random_weights(d, widths, seed=3):
    """Matrices (fan_out, fan_in) with entries of variance 1 / fan_in."""
    rng = np.random.default_rng(seed)
    sizes = [d, *widths]
    return [rng.normal(size=(b, a)) / np.sqrt(a) for a, b in zip(sizes, widths, strict=False)]


def flat(d, snr):
    return np.full(d, snr / np.sqrt(d))


def z_scores(samples, expected):
    return (samples.mean(0) - expected) / (samples.std(0) / np.sqrt(len(samples)))


@pytest.mark.parametrize(("mean", "n"), [(1.0, 10), (6.0, 10), (0.0, 5), (20.0, 1000)])
def test_average_losses(mean, n):
    """In one dimension the signs of two correlated normals decide the zero-one loss."""
    for rho in (0.0, n**-0.5):
        args = ([mean], [mean], [[1 / n]], [[rho / n**0.5]], [[1.0]])
        form = inner_product(*(np.array(a) for a in args))
        h, k = mean * n**0.5, mean
        exact = bivariate_ndtr(-h, k, -rho) + bivariate_ndtr(h, -k, -rho)
        # relative, down to 3e-89: rounding of the exponent near 200 is 200 eps
        assert average_loss(form, "zero_one") == pytest.approx(float(exact), rel=2e-12)
        x, w = np.polynomial.hermite_e.hermegauss(100)
        a = mean + x[:, None] / n**0.5
        b = mean + rho * x[:, None] + (1 - rho**2) ** 0.5 * x
        direct = w @ np.logaddexp(0, -a * b) @ w / (2 * np.pi)
        # the rule resolves a product of spread 1 + mean^2: to 1e-9 for the means up to 1
        if mean <= 1:
            assert average_loss(form, "logistic") == pytest.approx(direct, rel=1e-8)
    # |a z| of one normal: E max(-q, 0) = sqrt(1 / 2 pi); a constant; a chi-square
    assert average_loss(QuadraticForm(2.5, -np.ones(3), np.zeros(3)), "zero_one") == pytest.approx(
        scipy.stats.chi2(3).sf(2.5), rel=1e-12
    )
    line = QuadraticForm(0.0, np.zeros(1), np.ones(1))
    assert average_loss(line, "negative_part") == pytest.approx((2 * np.pi) ** -0.5, rel=1e-12)
    assert average_loss(QuadraticForm(-2.0, np.zeros(2), np.zeros(2)), "negative_part") == 2
    chi = QuadraticForm(-1.5, np.ones(3), np.zeros(3))
    assert average_loss(chi, "zero_one") == pytest.approx(scipy.stats.chi2(3).cdf(1.5), rel=1e-12)


@pytest.mark.parametrize(("case", "numbers"), list(zip(CASES, KNOWN, strict=True)))
def test_known_numbers(case, numbers):
    d, widths, n, snr = case
    gap, se, hidden, output, logistic, error = numbers
    h = hierarchy_linear_gaussian(random_weights(d, widths), n, 1.0, 0.5, mean=flat(d, snr))
    np.testing.assert_allclose(h.bound[:-1], hidden, atol=5e-4)  # the printed digits
    assert h.bound[-1] == pytest.approx(output, abs=error)
    assert abs(h.gap - gap) < 3 * se
    assert h.gap_logistic == pytest.approx(logistic, abs=error)
    assert h.argmin == h.argmin_w == len(h.bound) - 1
    assert list(h.rank) == [d, *widths, 1]


def sampled(layer, mean, n, sigma, draws=100_000, seed=0):
    """Losses, output divergences and distances for sampled class means, ``(draws, 7)``."""
    rng = np.random.default_rng(seed)
    muhat = mean + sigma / np.sqrt(n) * rng.normal(size=(draws, len(mean)))
    x, centre = muhat @ layer.matrix.T, layer.matrix @ mean
    signal = sigma**2 * layer.matrix @ layer.matrix.T
    v0 = ((x @ (signal + layer.noise)) * x).sum(1)
    v1 = v0 - ((x @ signal) * x).sum(1) / n
    m1, m0 = (x * x).sum(1), x @ centre
    train, test = ndtr(-m1 / np.sqrt(v1)), ndtr(-m0 / np.sqrt(v0))
    z = rng.normal(size=draws)
    soft = [np.logaddexp(0, -(m + np.sqrt(v) * z)) for m, v in ((m1, v1), (m0, v0))]
    kl = (v1 / v0 - 1 - np.log(v1 / v0) + (m1 - m0) ** 2 / v0) / 2
    shift, spread = m1 - m0, np.sqrt(v1) - np.sqrt(v0)
    folded = scipy.stats.foldnorm(np.abs(shift / spread), scale=np.abs(spread)).mean()
    return np.stack([train, test, *soft, kl, folded, shift**2], axis=1)


@pytest.mark.parametrize("noise", [None, (0.0, 0.4, 0.2)])
def test_output_against_sampling(noise):
    d, widths, n, sigma = 12, [9, 6, 2], 6, 1.3
    weights, mean = random_weights(d, widths), flat(d, 1.2)
    h = hierarchy_linear_gaussian(weights, n, sigma, mean=mean, noise=noise)
    layer = Layer(np.eye(d), np.zeros((d, d)))
    for W, e in zip(weights, noise or (0, 0, 0), strict=True):
        layer = layer.then(W, e)
    names = ("train_zero_one", "test_zero_one", "train_logistic", "test_logistic")
    shift = output_shift(layer, mean, n, sigma)[0]
    expected = [*(h.losses[k] for k in names), h.kl[-1], h.w_bound[-1], shift]
    draws = sampled(layer, mean, n, sigma)
    z = z_scores(draws, np.array(expected))
    limit = family_threshold(4.0, len(z))
    if noise is None:
        assert h.exact_kl.all()
        assert np.abs(z).max() < limit
    else:  # divergence and distance of the output are upper bounds there
        assert not h.exact_kl[-1]
        exact = np.delete(z, [4, 5])
        assert np.abs(exact).max() < limit
        assert (z[4:6] < limit).all()
        # and tight: the excess is of second order in 1/n
        assert h.kl[-1] < draws[:, 4].mean() * (1 + 1 / n)
    assert output_distance(layer, mean, n, sigma) == h.w_bound[-1]


@pytest.mark.parametrize(("n", "d"), [(10, 10), (20, 5)])
def test_nearest_mean_in_polar_coordinates(n, d):
    """Without hidden layers two numbers decide: the class mean along and across the true one."""
    x, w = scipy.special.roots_hermitenorm(80)
    q, v = scipy.special.roots_genlaguerre(80, (d - 1) / 2 - 1)
    along = 1 + x[:, None] / np.sqrt(n)
    length = np.sqrt(along**2 + 2 * q / n)
    shift = (along * (along - 1) + 2 * q / n) ** 2 / length**2
    test, train, ratio = (
        w @ f @ v / (w.sum() * v.sum())
        for f in (ndtr(-along / length), ndtr(-length / np.sqrt(1 - 1 / n)), shift)
    )
    h = hierarchy_linear_gaussian([], n, 1.0, mean=np.eye(d)[0])
    # the roots limit the product rule: 80 nodes reach 6e-10 and 1e-8
    assert h.losses["test_zero_one"] == pytest.approx(test, rel=1e-8)
    assert h.losses["train_zero_one"] == pytest.approx(train, rel=1e-8)
    kl = (-1 / n - np.log1p(-1 / n) + ratio) / 2
    assert h.kl[-1] == pytest.approx(kl, rel=1e-7)


def test_layers_with_noise():
    """Divergence by determinants, distance by matrix square roots."""
    d, n, sigma = 7, 5, 0.7
    layer = Layer(np.eye(d), np.zeros((d, d)))
    before = np.inf
    for W, e in zip(random_weights(d, [6, 4, 3]), (0.3, 0.0, 0.8), strict=True):
        layer = layer.then(W, e)
        change = sigma**2 / n * layer.matrix @ layer.matrix.T
        total = n * change + layer.noise
        kl = divergence(layer, n, sigma, 1e-10)
        logs = np.linalg.slogdet(total)[1] - np.linalg.slogdet(total - change)[1]
        assert kl == pytest.approx(logs / 2, rel=1e-11)  # rounding of log-determinants near 3
        root = scipy.linalg.sqrtm(total)
        middle = scipy.linalg.sqrtm(root @ (total - change) @ root)
        square = np.trace(2 * total - change - 2 * middle) + np.trace(change)
        # the comparison cancels from the trace to its n-th part
        assert wasserstein(layer, n, sigma, 1e-10) ** 2 == pytest.approx(square, rel=1e-10)
        assert kl < before
        before = kl
    # small noise joins the noiseless formulas continuously, to first order in its variance
    quiet = Layer(layer.matrix, 1e-12 * np.eye(3))
    plain = Layer(layer.matrix, np.zeros((3, 3)))
    for f in (divergence, wasserstein):
        assert f(quiet, n, sigma, 1e-14) == pytest.approx(f(plain, n, sigma, 1e-14), rel=1e-9)


def test_hidden_distance_against_sampling():
    d, n = 8, 4
    A = np.linalg.multi_dot(random_weights(d, [6, 3])[::-1])
    h = hierarchy_linear_gaussian([A], n, 2.0, mean=flat(d, 1.0))
    rng = np.random.default_rng(1)
    shift = A @ (2 / np.sqrt(n) * rng.normal(size=(d, 20_000)))
    square = (shift**2).sum(0) + 4 * np.sum(A**2) * (1 - np.sqrt(1 - 1 / n)) ** 2
    assert abs(z_scores(square, h.w2[1] ** 2)) < 4
    slope = A @ flat(d, 1.0)[:, None] + shift
    assert abs(z_scores((slope**2).sum(0), h.lipschitz[1] ** 2)) < 4


def test_limits():
    # the bound grows like the root of the rank, falls like the root of n; no cancellation
    ranks = [hierarchy_linear_gaussian([], 50, 1.0, dim=r).bound[0] for r in (1, 4, 16)]
    np.testing.assert_allclose(np.diff(np.log(ranks)), np.log(2), rtol=1e-13)  # slope 1/2
    h = hierarchy_linear_gaussian([np.eye(2)], 10**12, 1.0, mean=[1.0, 0.0])
    np.testing.assert_allclose(h.bound[:2], 0.5 * np.sqrt(2e-12), rtol=1e-11)  # 1/n corrections
    np.testing.assert_allclose(h.w2[:2], np.sqrt(2e-12), rtol=1e-11)
    # in one dimension the read-out has no choice of direction: the output is as good as the input
    h = hierarchy_linear_gaussian([], 7, 2.0, mean=[0.4])
    assert h.kl[1] == pytest.approx(h.kl[0], rel=1e-12)
    # far classes: the read-out points along the mean, one direction counts
    h = hierarchy_linear_gaussian([], 7, 1.0, mean=[1e4, 0.0, 0.0])
    assert h.kl[-1] == pytest.approx(-np.log1p(-1 / 7) / 2, rel=1e-6)  # corrections 1 / mean^2
    h = hierarchy_linear_gaussian([np.zeros((3, 4))], 50, 1.0, mean=[1.0, 0.0, 0.0])
    assert list(h.rank) == [3, 0, 0]
    assert list(h.bound[1:]) == [0, 0]
    assert list(h.w_bound) == [0, 0, 0]
    assert h.gap == h.gap_logistic == 0


def test_scales_and_many_examples():
    """The zero-one gap knows no scale and falls like 1/n over nine powers of ten."""
    weights, mean = random_weights(20, [10, 5, 2]), flat(20, 1.0)
    h = hierarchy_linear_gaussian(weights, 20, 1.0, mean=mean)
    for scale in (1e-6, 1e4):
        scaled = [scale * weights[0], *weights[1:]]
        other = hierarchy_linear_gaussian(scaled, 20, 1.0, mean=mean)
        assert other.gap == pytest.approx(h.gap, rel=1e-12)  # difference of two integrals
        np.testing.assert_allclose(other.w_bound, scale**2 * h.w_bound, rtol=1e-11)
    large = [hierarchy_linear_gaussian(weights, n, 1.0, mean=mean) for n in (10**6, 10**9)]
    # errors of 1e-13 in the integrals, relative to a gap of 1e-9
    assert large[1].gap * 1000 == pytest.approx(large[0].gap, rel=1e-3)
    # corrections of order 1/n times the spread over the squared mean of the last layer, near 30
    assert large[1].w_bound[-1] * 1000**0.5 == pytest.approx(large[0].w_bound[-1], rel=1e-4)


def test_theorems_on_a_family():
    """Gap below every bound, bounds in their order, in random networks: count of violations."""
    rng = np.random.default_rng(2)
    broken = dict.fromkeys(("gap", "order", "logistic", "output least"), 0)
    for trial in range(60):
        d, n = int(rng.integers(1, 12)), int(rng.integers(2, 30))
        widths = list(rng.integers(1, 9, size=trial % 3))
        weights = random_weights(d, widths, seed=trial)
        mean = rng.normal(size=d) * rng.choice([0.03, 0.5, 3.0])
        noise = rng.uniform(0, 1, len(widths)) if trial % 2 else None
        h = hierarchy_linear_gaussian(weights, n, 1.0, mean=mean, noise=noise)
        slack = 1e-12  # rounding of bounds that are equal
        broken["gap"] += h.gap > h.bound.min() + slack
        broken["order"] += (np.diff(h.bound) > slack).any()
        broken["logistic"] += h.gap_logistic > h.w_bound.min() + slack
        broken["output least"] += h.argmin_w != len(h.w_bound) - 1
    assert broken == dict.fromkeys(broken, 0)


def test_other_noise_contracts():
    """Dropout of the only unit halves the gap; the divergence bound knows it."""
    n, mean = 5, [0.8]
    plain = hierarchy_linear_gaussian([[[1.0]]], n, 1.0, mean=mean)
    h = hierarchy_linear_gaussian([[[1.0]]], n, 1.0, mean=mean, etas=[0.5])
    np.testing.assert_allclose(h.kl[1:], plain.kl[0] / 2, rtol=1e-14)  # one rounding
    assert plain.gap / 2 < h.bound[-1] < plain.bound[-1]
    assert np.isnan(h.gap)
    assert np.isnan(h.w2[1])
    assert np.isnan(h.w_bound).all()
    assert list(h.exact_kl) == [True, False, False]
    two = hierarchy_linear_gaussian(random_weights(4, [3, 2]), n, 1.0, etas=[1.0, 0.3])
    # the last layer before the noise has rank 3
    assert two.kl[2] == pytest.approx(0.3 * 1.5 * -np.log1p(-1 / n), rel=1e-13)
    assert list(two.cumulative_eta) == [1, 1, 0.3]
    assert "0.3" in two.table()


def test_general_forms():
    rng = np.random.default_rng(0)
    kl = np.sort(rng.uniform(0, 2, size=(4, 6)), axis=0)[::-1]
    h = hierarchy_kl(kl, s=0.7)
    np.testing.assert_allclose(h.bound, 0.7 * np.sqrt(2 * kl).mean(1), rtol=1e-15)
    assert h.argmin == 3
    assert h.n == 6
    assert float(h.best) == h.bound[3]
    assert hierarchy_kl([np.inf, 1.0], n=9).best.n == 9
    w = hierarchy_wasserstein([1.0, 0.3, 0.5], [4.0, 0.5], loss_lipschitz=2.0)
    np.testing.assert_allclose(w.factor, [4, 2, 2])  # max(1, 4 * 0.5), max(1, 0.5), 1
    np.testing.assert_allclose(w.bound, [4, 0.6, 1.0])
    assert w.argmin == 1
    assert "2404.03176" in w.best.explain()
    # the Gaussian closed forms are the same functions of their ingredients
    g = hierarchy_linear_gaussian(random_weights(6, [4, 2]), 9, 1.0, mean=flat(6, 1.0))
    np.testing.assert_allclose(hierarchy_kl(g.kl, n=9).bound, g.bound, rtol=1e-14)


def test_both_layouts_and_records():
    weights = random_weights(6, [4, 2])
    first = hierarchy_linear_gaussian(weights, 9, 1.0, 0.5)
    second = hierarchy_linear_gaussian([W.T for W in weights], n=9, sigma=1.0, s=0.5)
    np.testing.assert_array_equal(first.w2, second.w2)
    assert np.isnan(first.gap)
    assert np.isnan(first.w_bound[:-1]).all()
    assert first.bound[-1] == first.bound[-2]
    assert first.argmin_w is None
    assert first.best_w is None
    assert len(first.plot().get_lines()) == 1
    known = hierarchy_linear_gaussian(weights, 9, 1.0, mean=flat(6, 1.0))
    assert "True gap" in known.table()
    assert "<=" in first.table()
    assert float(known.best_w) == known.w_bound[-1]
    leaves, structure = jax.tree.flatten(known)
    assert jax.tree.unflatten(structure, leaves).n == 9
    ax = known.plot()
    assert len(ax.get_lines()) == 4
    assert hierarchy_kl([2.0, 1.0]).plot(ax=ax) is ax


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"n": 1}, DomainError, "n must be >= 2"),
        ({"n": 2.0}, DomainError, "n must be an integer"),
        ({"sigma": 0.0}, DomainError, "sigma must be > 0"),
        ({"s": -1.0}, DomainError, "s must be > 0"),
        ({"loss_lipschitz": 0.0}, DomainError, "loss_lipschitz must be > 0"),
        ({"tol": 1.0}, DomainError, "tol must be"),
        ({"weights": [np.ones((3, 2)), np.ones((4, 5))]}, ShapeError, "follow on each other"),
        ({"weights": [np.ones(3)]}, ShapeError, r"weights\[0\] must be a matrix"),
        ({"weights": [np.full((3, 2), np.nan)]}, DomainError, r"weights\[0\] must be finite"),
        ({"weights": []}, ShapeError, "given without weights"),
        ({"mean": np.ones(3), "dim": 4}, ShapeError, "dim and the length of mean must agree"),
        ({"mean": np.ones(5)}, ShapeError, "fan_in 5"),
        ({"mean": np.ones((3, 1))}, ShapeError, r"mean must have shape \(d,\)"),
        ({"mean": [1.0, np.inf, 0.0]}, DomainError, "mean must be finite"),
        ({"dim": 0}, DomainError, "dim must be >= 1"),
        ({"noise": -0.1}, DomainError, "noise must be >= 0"),
        ({"noise": [0.1, 0.2]}, ShapeError, r"noise must be one number or have shape \(1,\)"),
        ({"etas": 1.5}, DomainError, r"etas must be in \[0, 1\]"),
        ({"etas": 0.5, "noise": 0.1}, DomainError, "pass one of them"),
    ],
)
def test_bad_input(change, error, text):
    arguments = {"weights": [np.ones((3, 2))], "n": 5, "sigma": 1.0} | change
    with pytest.raises(error, match=text):
        hierarchy_linear_gaussian(**arguments)


def test_bad_input_of_general_forms():
    with pytest.raises(DomainError, match="divergences must be >= 0"):
        hierarchy_kl([1.0, -0.1])
    with pytest.raises(ShapeError, match="divergences must have shape"):
        hierarchy_kl(np.ones((2, 2, 2)))
    with pytest.raises(DomainError, match="s must be > 0"):
        hierarchy_kl([1.0], s=0)
    with pytest.raises(DomainError, match="distances must be >= 0 and not NaN"):
        hierarchy_wasserstein([np.nan, 1.0], [1.0])
    with pytest.raises(ShapeError, match=r"lipschitz must have one constant per layer, shape \(1,"):
        hierarchy_wasserstein([1.0, 1.0], [1.0, 1.0])
    with pytest.raises(DomainError, match="lipschitz must be >= 0"):
        hierarchy_wasserstein([1.0, 1.0], [-1.0])
    with pytest.raises(DomainError, match="loss_lipschitz must be > 0"):
        hierarchy_wasserstein([1.0, 1.0], [1.0], loss_lipschitz=0)
