import numpy as np
import pytest
import scipy.integrate
import scipy.stats

import ntk
from deeplimits import ConvergenceError, DomainError, NotPositiveDefiniteError, ShapeError
from gp.dkm_features import feature_machine, feature_rate
from gp.dkm_kernels import gram_kernel

K = np.array([[1.0, 0.3], [0.3, 0.8]])
G = np.array([[0.9, 0.2], [0.2, 0.5]])


@pytest.mark.parametrize(("gram", "rate"), [(0.2, 0.05844), (1.0, 0.06463), (2.0, 0.35511)])
def test_one_relu(gram, rate):
    found = feature_rate(gram, 1.0)
    assert found.rate == pytest.approx(rate, abs=5e-6)  # digits given
    # half of the features are 0, the others chi-square: the moment function in closed form
    tilt = np.linspace(-40, 0.999, 400_001)
    values = tilt * gram / 2 - np.log(0.5 + 0.5 / np.sqrt(1 - tilt))
    # spacing 1e-4 and curvature of order 1 leave 1e-8
    assert found.rate == pytest.approx(values.max(), abs=1e-7)


def test_exact_densities_converge_to_the_rate():
    """The density of the mean of n squared ReLU features, a binomial mixture of gamma laws."""
    n = 5000
    k = np.arange(1, n + 1)
    for gram, expected in ((0.2, 0.0576), (1.0, 0.0641), (2.0, 0.3547)):
        log_p = scipy.stats.binom.logpmf(k, n, 0.5)
        log_p = log_p + scipy.stats.gamma.logpdf(gram, k / 2, scale=2 / n)
        empirical = -scipy.special.logsumexp(log_p) / n
        assert empirical == pytest.approx(expected, abs=1e-4)  # digits given
        # the prefactor sqrt(n) of the density: log(n) / 2n, to a factor
        assert abs(empirical - feature_rate(gram, 1.0).rate) < 1.5 * np.log(n) / (2 * n)


def test_mean_has_rate_zero():
    assert feature_rate(0.5, 1.0).rate == pytest.approx(0.0, abs=1e-14)
    mean = gram_kernel("relu")(K) / 2
    found = feature_rate(mean, K)
    assert found.rate == pytest.approx(0.0, abs=1e-12)  # rounding of the angular rule
    np.testing.assert_allclose(found.tilt, 0, atol=1e-10)


@pytest.mark.parametrize("matrices", [(1.7, 0.6), (G, K)])
def test_linear_features_give_the_gaussian_divergence(matrices):
    g, k = (np.atleast_2d(m) for m in matrices)
    ratio = np.linalg.solve(k, g)
    want = 0.5 * (np.trace(ratio) - np.linalg.slogdet(ratio)[1] - len(g))
    assert feature_rate(*matrices, "linear").rate == pytest.approx(want, abs=1e-12)


def test_two_points():
    """The moment function against quadrature over the plane, the slope against differences."""
    found = feature_rate(G, K)
    precision = np.linalg.inv(K)

    def integrand(v, u):
        f = np.array([u, v])
        phi = np.maximum(f, 0)
        weight = np.exp(0.5 * (phi @ found.tilt @ phi - f @ precision @ f))
        return weight / (2 * np.pi * np.sqrt(np.linalg.det(K)))

    total = 0.0
    for u in ((-9, 0), (0, 14)):
        for v in ((-9, 0), (0, 14)):
            total += scipy.integrate.dblquad(integrand, *u, *v, epsabs=1e-7, epsrel=1e-7)[0]
    # four integrals of accuracy 1e-7
    assert found.rate == pytest.approx(0.5 * np.sum(found.tilt * G) - np.log(total), abs=1e-6)
    h, step = 1e-4, np.array([[0.3, 0.1], [0.1, -0.2]])
    slope = (feature_rate(G + h * step, K).rate - feature_rate(G - h * step, K).rate) / (2 * h)
    assert slope == pytest.approx(0.5 * np.sum(found.tilt * step), rel=1e-5)  # h^2 and rounding / h


def finite_network(copies, nu=3.0, noise=0.1, y=2.0):
    """Exact E G of a network with ``nu * copies`` ReLU features and ``copies`` targets."""
    n = round(nu * copies)
    mass = first = 0.0
    grid = np.geomspace(1e-8, 12, 1201)
    for k in range(n + 1):
        share = scipy.stats.binom.pmf(k, n, 0.5)
        if k == 0:
            mass += share * scipy.stats.norm.pdf(y, 0, np.sqrt(noise)) ** copies
            continue

        like = scipy.stats.norm.pdf(y, 0, np.sqrt(2 * grid + noise)) * share ** (1 / copies)
        density = scipy.stats.gamma.pdf(grid, k / 2, scale=2 / n) * like**copies * grid
        mass += scipy.integrate.simpson(density, np.log(grid))
        first += scipy.integrate.simpson(density * grid, np.log(grid))
    return first / mass


def test_finite_networks_approach_the_machine():
    best = feature_machine(1.0, [2.0], nu=3.0, noise=0.1)
    assert best.gram.item() == pytest.approx(0.9053, abs=5e-5)  # digits given
    sizes = np.array([4, 16, 64])
    means = np.array([finite_network(n) for n in sizes])
    np.testing.assert_allclose(means, [0.9540, 0.9175, 0.9083], atol=5e-5)
    local = np.diff(np.log(means - best.gram.item())) / np.diff(np.log(sizes))
    np.testing.assert_allclose(local, -1, atol=1 / sizes[0] / 4)  # next order
    # the Gaussian divergence in place of the rate would give .7398
    assert best.gram.item() - 0.7398 > 0.1
    grid = np.linspace(0.5, 1.5, 41)
    values = [
        scipy.stats.norm.logpdf(2.0, 0, np.sqrt(2 * g + 0.1)) - 3 * feature_rate(g, 1.0).rate
        for g in grid
    ]
    assert max(values) <= best.objective + 1e-9
    assert best.objective - max(values) < 1e-3  # grid spacing .025, curvature of order one


def test_machine_of_two_points_is_stationary():
    y = np.array([2.0, -1.0])
    best = feature_machine(K, y, nu=3.0, noise=0.1)

    def objective(gram):
        fit = scipy.stats.multivariate_normal.logpdf(y, np.zeros(2), 2 * gram + 0.1 * np.eye(2))
        return fit - 3 * feature_rate(gram, K).rate

    assert objective(best.gram) == pytest.approx(best.objective, abs=1e-9)
    for step in ([[1, 0], [0, 0]], [[0, 1], [1, 0]], [[0, 0], [0, 1]]):
        h = 1e-3 * np.array(step, float)
        slope = (objective(best.gram + h) - objective(best.gram - h)) / 2e-3
        assert abs(slope) < 1e-4  # third derivatives times h^2


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((np.eye(3), np.eye(3)), DomainError, "one or two points"),
        ((1.0, K), ShapeError, "one shape"),
        ((-1.0, 1.0), DomainError, "G must be > 0"),
        ((np.ones((2, 2)), K), NotPositiveDefiniteError, "G must be positive definite"),
        ((1.0, 1.0, "erf"), DomainError, "positively homogeneous"),
        (([[0.9, -0.2], [-0.2, 0.5]], K), ConvergenceError, "no tilt"),
    ],
)
def test_bad_input(arguments, error, match):
    with pytest.raises(error, match=match):
        feature_rate(*arguments)


def test_bad_machines():
    with pytest.raises(ShapeError, match="y must have shape"):
        feature_machine(1.0, [1.0, 2.0], nu=1.0, noise=0.1)
    with pytest.raises(DomainError, match="one or two points"):
        feature_machine(np.eye(3), np.ones(3), nu=1.0, noise=0.1)
    with pytest.raises(DomainError, match="noise must be > 0"):
        feature_machine(1.0, [1.0], nu=1.0, noise=0.0)
    assert feature_rate(1.0, 1.0, ntk.dual("leaky_relu")).rate > 0
