import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.stats

from deeplimits import DomainError, NotPositiveDefiniteError, ShapeError
from gp.scale_priors import BurrXII, InverseGamma, LogNormal
from gp.target_kernels import RBF
from gp.wasserstein import kl_gaussian, sqrtm_psd, wasserstein2
from gp.wasserstein_bounds import (
    comonotone_moment,
    mean_norm,
    mixture_wasserstein2,
    wasserstein1_bounds,
)

N = 5
GRID = np.linspace(-1, 1, N)[:, None]
RNG = np.random.default_rng(0)
ROUGH = RNG.normal(size=(N, N))
A = ROUGH @ ROUGH.T / N + 0.1 * np.eye(N)
B = np.asarray(RBF(0.8)(GRID))
SMOOTH = np.asarray(RBF(4.0)(GRID))  # condition number 5e8
LOW_RANK = ROUGH[:, :2] @ ROUGH[:, :2].T
LOW_RANK_2 = LOW_RANK @ A @ LOW_RANK  # the same range


def mp_root(matrix):
    values, vectors = mp.eigsy(matrix)
    roots = mp.diag([mp.sqrt(max(v, mp.mpf(0))) for v in values])
    return vectors * roots * vectors.T


def mp_w2(a, b):
    """Textbook formula in 60 digits."""
    with mp.workdps(60):
        a, b = mp.matrix(a), mp.matrix(b)
        root = mp_root(a)
        middle = mp.eigsy(root * b * root, eigvals_only=True)
        total = sum(a[i, i] + b[i, i] for i in range(a.rows))
        return total - 2 * sum(mp.sqrt(max(v, mp.mpf(0))) for v in middle)


# one compiled program for all tests
GRADIENT = jax.jit(jax.grad(wasserstein2, argnums=(0, 1)))
PAIRS = {"regular": (A, B), "smooth": (SMOOTH, B), "both smooth": (SMOOTH, 2.5 * SMOOTH)}


@pytest.mark.parametrize("name", PAIRS)
def test_against_mpmath(name):
    a, b = PAIRS[name]
    # rounding of the entries (2e-16) times the largest entry of the gradient, the root of the
    # condition number (2e4); scipy's square root loses 4e-6 on 60 points
    assert wasserstein2(a, b) == pytest.approx(float(mp_w2(a, b)), abs=2e4 * 2e-16)


def test_singular_matrices_lose_no_digits():
    # commuting and singular: the sum of (sqrt a - sqrt b)^2 over a common basis
    basis = np.linalg.qr(ROUGH)[0]
    a, b = np.array([4.0, 1.0, 0, 0, 0]), np.array([1.0, 0, 2.0, 0, 0])
    found = wasserstein2((basis * a) @ basis.T, (basis * b) @ basis.T)
    # eigenvalues are exact to 1e-16; the rounding of zero eigenvalues would leave 1e-8
    assert found == pytest.approx(1 + 1 + 2, abs=1e-14)
    assert wasserstein2(np.zeros((2, 2)), np.eye(2)) == 2.0
    assert wasserstein2(LOW_RANK, LOW_RANK) == pytest.approx(0, abs=1e-14)


def test_symmetry_scaling_and_means():
    assert wasserstein2(A, B) == pytest.approx(wasserstein2(B, A), rel=1e-14)
    # N(0, A) and N(0, c^2 A): (c - 1)^2 tr A
    assert wasserstein2(B, 9 * B) == pytest.approx(4 * N, rel=1e-14)
    shifted = wasserstein2(A, B, mean1=np.ones(N), mean2=3 * np.ones(N))
    assert shifted - wasserstein2(A, B) == pytest.approx(4 * N, rel=1e-14)


def mp_slope(a, b, direction):
    h = mp.mpf(10) ** -15
    with mp.workdps(60):
        a, d = mp.matrix(a), mp.matrix(direction)
        return float((mp_w2(a + h * d, b) - mp_w2(a - h * d, b)) / (2 * h))


def inside(matrix):
    """A symmetric change that keeps the range of the matrix: (1 + tM) K (1 + tM)^T."""
    move = RNG.normal(size=matrix.shape)
    return move @ matrix + matrix @ move.T


@pytest.mark.parametrize("name", PAIRS)
def test_gradient_by_differences(name):
    a, b = PAIRS[name]
    for_a, for_b = GRADIENT(a, b)
    for first, second, gradient in ((a, b, for_a), (b, a, for_b)):
        change = inside(first)
        expected = mp_slope(first, second, change)
        # differences are exact to 1e-25; T has entries up to the root of the condition number, and
        # the smallest eigenvalue (1e-9) is known to 1e-7 of itself
        assert np.sum(gradient * change) == pytest.approx(expected, abs=1e-6, rel=1e-6)


def test_gradient_at_singular_matrices():
    gradient = GRADIENT(LOW_RANK, LOW_RANK_2)[0]
    move = RNG.normal(size=(N, N))

    def moved(t):
        # in the common range, where the distance is smooth
        mixing = np.eye(N) + t * LOW_RANK @ move @ LOW_RANK
        return wasserstein2(mixing @ LOW_RANK @ mixing.T, LOW_RANK_2)

    change = LOW_RANK @ move @ LOW_RANK @ LOW_RANK
    h = 1e-5
    # central differences: h^2 = 1e-10 and rounding 1e-13 / h
    expected = (moved(h) - moved(-h)) / (2 * h)
    assert np.sum(gradient * (change + change.T)) == pytest.approx(expected, rel=1e-6)


def test_gradient_at_equal_eigenvalues_and_at_the_minimum():
    gradient = GRADIENT(np.eye(N), 4 * np.eye(N))[0]
    # I - T with T = 2 I; plain differentiation of eigh gives NaN here
    np.testing.assert_allclose(gradient, -np.eye(N), atol=1e-14)
    same = GRADIENT(SMOOTH, SMOOTH)[0]
    # T = I on the range; cond^(1/2) * eps = 5e-12
    np.testing.assert_allclose(same, 0, atol=1e-7)


def test_forward_mode_and_vmap():
    def scaled(t):
        return wasserstein2(t * jnp.asarray(A), jnp.asarray(B))

    values, slopes = jax.vmap(lambda t: jax.jvp(scaled, (t,), (1.0,)))(jnp.ones(2))
    np.testing.assert_allclose(values, wasserstein2(A, B), rtol=1e-14)
    np.testing.assert_allclose(slopes, np.sum(GRADIENT(A, B)[0] * A), rtol=1e-13)


def test_square_root():
    np.testing.assert_allclose(sqrtm_psd(A), scipy.linalg.sqrtm(A).real, atol=1e-13)
    root = sqrtm_psd(LOW_RANK)
    np.testing.assert_allclose(root @ root, LOW_RANK, atol=1e-13)
    # repeated eigenvalues: d sqrt(cI) = dA / (2 sqrt c)
    tangent = A
    found = jax.jvp(sqrtm_psd, (4 * jnp.eye(N),), (jnp.asarray(tangent),))[1]
    np.testing.assert_allclose(found, tangent / 4, atol=1e-14)
    found = jax.jvp(sqrtm_psd, (jnp.asarray(A),), (jnp.asarray(B),))[1]
    # Sylvester's equation, solved by scipy
    expected = scipy.linalg.solve_sylvester(sqrtm_psd(A), sqrtm_psd(A), B)
    np.testing.assert_allclose(found, expected, atol=1e-13)
    zero = jax.jvp(sqrtm_psd, (jnp.zeros((2, 2)),), (jnp.eye(2),))[1]
    assert np.all(zero == 0)


@pytest.mark.parametrize("nugget", [1e-6, 1e-2])
def test_kl_against_mpmath(nugget):
    with mp.workdps(50):
        a = mp.matrix(SMOOTH) + nugget * mp.eye(N)
        b = mp.matrix(B) + nugget * mp.eye(N)
        product = mp.inverse(b) * a
        trace = sum(product[i, i] for i in range(N))
        expected = (trace - N + mp.log(mp.det(b)) - mp.log(mp.det(a))) / 2
    # condition number 5e6 at the smaller nugget
    assert kl_gaussian(SMOOTH, B, nugget=nugget) == pytest.approx(float(expected), rel=1e-9)


# --- mixtures


def test_mixtures_of_one_law():
    """Student-t with 5 degrees of freedom in one dimension, by its quantile function."""
    prior, a, b = InverseGamma(2.5, 2.5), 1.3, 0.4
    found = mixture_wasserstein2([[a]], [[b]], prior)
    law = scipy.stats.t(5)

    def integrand(x):
        return (np.sqrt(a) - np.sqrt(b)) ** 2 * x**2 * law.pdf(x)

    expected = scipy.integrate.quad(integrand, -np.inf, np.inf, epsabs=1e-13)[0]
    assert found.exact
    assert found.upper == pytest.approx(expected, rel=1e-9)  # tolerance of quad
    both = mixture_wasserstein2(A, B, prior, InverseGamma(2.5, 2.5))
    # E[s2] = 2.5 / 1.5
    assert both.lower == both.upper == pytest.approx(wasserstein2(A, B) * 5 / 3, rel=1e-13)


def test_mixture_distance_is_the_cost_of_its_map():
    """The linear map that is optimal for the Gaussians moves draws of the mixture at this cost."""
    prior, n = InverseGamma(4.0, 3.0), 50_000
    map_ = np.eye(N) - np.asarray(GRADIENT(A, B)[0])
    draws = RNG.normal(size=(n, N)) @ np.linalg.cholesky(A).T
    draws *= np.sqrt(prior.sample(0, n))[:, None]
    np.testing.assert_allclose(map_ @ A @ map_.T, B, atol=1e-9)
    costs = np.sum((draws - draws @ map_.T) ** 2, axis=1)
    z = (costs.mean() - mixture_wasserstein2(A, B, prior).upper) / (costs.std() / n**0.5)
    assert abs(z) < 4  # one false alarm in 16 000


def test_comonotone_moment_against_scipy():
    first, second = InverseGamma(2.5, 2.5), LogNormal(0.2, 0.5)
    quantile = scipy.stats.invgamma(2.5, scale=2.5).isf

    def integrand(z):
        other = np.exp(0.1 + 0.25 * z)
        return np.sqrt(quantile(scipy.stats.norm.sf(z))) * other * scipy.stats.norm.pdf(z)

    expected = scipy.integrate.quad(integrand, -9, 9, epsabs=1e-13, limit=200)[0]
    # beyond 9 standard deviations lie 1e-12
    assert comonotone_moment(first, second) == pytest.approx(expected, rel=1e-10)
    for prior in (first, BurrXII(2.0, 1.5)):
        # with itself: E[s2]; spline of 40001 nodes
        assert comonotone_moment(prior, prior) == pytest.approx(prior.moment(1.0), rel=1e-10)


def test_mixtures_of_two_laws():
    first, second = InverseGamma(3.0, 2.0), LogNormal(0.0, 0.4)
    found = mixture_wasserstein2([[1.0]], [[1.0]], first, second)
    assert 0 < found.lower < found.upper
    # in one dimension: quantiles of the two mixtures, from 50 000 sorted draws each
    z = RNG.normal(size=50_000)
    draws = [np.sort(np.sqrt(p.sample(i, 50_000)) * z) for i, p in enumerate((first, second))]
    distance = np.mean((draws[0] - draws[1]) ** 2)
    assert found.lower < distance < found.upper


def test_heavy_tails_are_refused():
    with pytest.raises(DomainError, match="too heavy"):
        comonotone_moment(InverseGamma(1.05, 1.0), BurrXII(1.0, 1.05))


# --- W1


def test_mean_norm():
    # chi distributions
    for n in (1, 3, 20):
        expected = scipy.stats.chi(n).mean()
        assert mean_norm(np.eye(n)) == pytest.approx(expected, rel=1e-13)
    assert mean_norm(np.diag([4.0, 0.0])) == pytest.approx(2 * np.sqrt(2 / np.pi), rel=1e-13)
    # two scales: an elliptic integral, E|x| = sqrt(2 / pi) E(1 - 1/4) * 2
    expected = np.sqrt(2 / np.pi) * 2 * scipy.special.ellipe(0.75)
    assert mean_norm(np.diag([4.0, 1.0])) == pytest.approx(expected, rel=1e-13)
    assert mean_norm(np.zeros((2, 2))) == 0


def test_w1_bounds():
    exact = wasserstein1_bounds(A, 4 * A)
    # W1 = (c - 1) E|x|
    assert exact.lower == pytest.approx(mean_norm(A), rel=1e-12)
    assert exact.upper == pytest.approx(np.sqrt(np.trace(A)), rel=1e-12)
    one = wasserstein1_bounds([[1.0]], [[4.0]])
    assert one.lower == pytest.approx(np.sqrt(2 / np.pi), rel=1e-12)
    commuting = wasserstein1_bounds(np.diag([1.0, 4.0, 0.0]), np.diag([2.0, 1.0, 3.0]))
    assert commuting.upper / commuting.lower <= np.sqrt(np.pi / 2) * (1 + 1e-12)
    assert wasserstein1_bounds(A, A).upper < 1e-6  # root of rounding


def test_w1_lower_bound_is_below_an_empirical_distance():
    """Optimal assignment of finite samples: above W1 on average (it is biased upwards)."""
    bounds = wasserstein1_bounds(A, B)
    draws = [RNG.normal(size=(300, N)) @ np.asarray(sqrtm_psd(m)) for m in (A, B)]
    cost = scipy.spatial.distance.cdist(*draws)
    rows, columns = scipy.optimize.linear_sum_assignment(cost)
    assert 0 < bounds.lower < cost[rows, columns].mean()


# --- refused


@pytest.mark.parametrize(
    ("arguments", "options", "error", "match"),
    [
        ((A, B[:3, :3]), {}, ShapeError, "K1 and K2 must have one shape"),
        ((A[:3], B), {}, ShapeError, "K1 must be a square"),
        ((A, np.triu(B)), {}, DomainError, "K2 must be symmetric"),
        ((A, np.where(np.eye(N) > 0, np.nan, B)), {}, DomainError, "K2 must be finite"),
        ((A, B - 2 * np.eye(N)), {}, NotPositiveDefiniteError, "K2"),
        ((A, B), {"mean1": np.ones(3)}, ShapeError, "mean1 must have shape"),
        ((A, B), {"mean2": np.full(N, np.inf)}, DomainError, "mean2 must be finite"),
    ],
)
def test_bad_input(arguments, options, error, match):
    with pytest.raises(error, match=match):
        wasserstein2(*arguments, **options)


def test_bad_input_elsewhere():
    with pytest.raises(NotPositiveDefiniteError, match="matrix"):
        sqrtm_psd(-np.eye(2))
    with pytest.raises(DomainError, match="nugget must be > 0"):
        kl_gaussian(A, B, nugget=0.0)
    with pytest.raises(DomainError, match="E\\[s2"):
        mixture_wasserstein2(A, B, InverseGamma(0.9, 1.0))
    with pytest.raises(NotPositiveDefiniteError, match="K1"):
        wasserstein1_bounds(-A, B)
