import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF

from deeplimits import JitterWarning
from gp.evidence import log_evidence
from gp.predictive import Gaussian, PointPredictions
from gp.process import GP, Posterior


def rbf(x, z=None, length=1.0):
    z = x if z is None else z
    d2 = ((x[:, None] - z[None]) ** 2).sum(-1)
    return np.exp(-0.5 * d2 / length**2)


def jax_rbf(x, z=None):
    z = x if z is None else z
    return jnp.exp(-0.5 * jnp.sum((x[:, None] - z[None]) ** 2, axis=-1))


def data(n=12, d=2, outputs=None, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    return x, rng.normal(size=n if outputs is None else (n, outputs))


X, Y = data()
XS = data(5, seed=1)[0]


def dense_posterior(x, y, xs, noise):
    """The textbook formulas with an explicit inverse."""
    inverse = np.linalg.inv(rbf(x) + np.diag(np.broadcast_to(noise, len(x))))
    cross = rbf(xs, x)
    return cross @ inverse @ y, rbf(xs) - cross @ inverse @ cross.T


# --- values


@pytest.mark.parametrize("outputs", [None, 1, 3])
@pytest.mark.parametrize("noise", [0.05, np.linspace(0.01, 0.5, 12)])
def test_posterior_against_explicit_inverse(outputs, noise):
    x, y = data(outputs=outputs)
    post = GP(rbf, noise=noise).condition(x, y)
    mean, cov = dense_posterior(x, y, XS, noise)
    # condition number of K_n below 1e3: 1e3 eps
    np.testing.assert_allclose(post.mean(XS), mean, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(post.cov(XS), cov, atol=1e-12)
    np.testing.assert_allclose(post.var(XS), np.diag(cov), atol=1e-12)
    assert post.mean(XS).shape == (5,) if outputs is None else (5, outputs)
    assert post.info.jitter == 0


@pytest.mark.parametrize("noise", ["1e-6", "1e-10"])
def test_posterior_matches_high_precision(noise):
    # kernel matrix singular to float64 (condition number 60 / noise), 60-digit reference
    x = np.linspace(0, 1, 60)
    xs = [0.005, 0.5, 1.1]
    post = GP(lambda a, b=None: rbf(a, b, 2.0), noise=float(noise)).condition(
        x[:, None], np.sin(6 * x)
    )
    with mp.workdps(60):
        points, tests = ([mp.mpf(float(v)) for v in vs] for vs in (x, xs))

        def kernel(a, b):
            return mp.exp(-((a - b) ** 2) / 8)

        matrix = mp.matrix([[kernel(a, b) for b in points] for a in points])
        matrix += mp.mpf(noise) * mp.eye(60)
        weights = mp.lu_solve(matrix, mp.matrix([mp.mpf(float(v)) for v in np.sin(6 * x)]))
        exact = [float(mp.fsum(kernel(t, p) * w for p, w in zip(points, weights, strict=True)))
                 for t in tests]  # fmt: skip
    published = {"1e-6": [-0.1078, 0.1168, 0.9892], "1e-10": [0.0253, 0.1388, 0.3161]}
    np.testing.assert_allclose(exact, published[noise], atol=5e-5)  # four printed digits
    # backward error of Cholesky: eps * 60 / noise, measured 100 times smaller
    np.testing.assert_allclose(post.mean(np.array(xs)[:, None]), exact, atol=1.4e-14 / float(noise))
    assert post.info.jitter == 0


def test_noise_free_singular_kernel_warns_and_stores_the_jitter():
    x = np.linspace(0, 1, 60)[:, None]
    with pytest.warns(JitterWarning, match="changes the model"):
        post = GP(lambda a, b=None: rbf(a, b, 2.0)).condition(x, np.sin(6 * x[:, 0]))
    assert post.info.jitter == pytest.approx(1.33e-14, rel=0.01)
    assert (post.var(x) >= 0).all()
    # the same jitter is used in the query: residual = jitter * weights
    residual = np.sin(6 * x[:, 0]) - post.mean(x)
    # products of 60 numbers of the size of the weights, times eps
    slack = 60 * 2.3e-16 * np.abs(post.weights).max() * 10
    np.testing.assert_allclose(residual, post.info.jitter * post.weights[:, 0], atol=slack)


def test_relative_noise():
    amplitude = 7.0
    scaled = GP(lambda a, b=None: amplitude * rbf(a, b), noise_rel=0.1, noise=0.05)
    post = scaled.condition(X, Y)
    assert post.info.noise == pytest.approx(0.75)
    plain = GP(rbf, noise=0.75 / amplitude).condition(X, Y)
    np.testing.assert_allclose(post.mean(XS), plain.mean(XS), rtol=1e-12)  # scale invariance


def test_against_sklearn():
    other = GaussianProcessRegressor(RBF(1.0), alpha=0.05, optimizer=None).fit(X, Y)
    mean, cov = other.predict(XS, return_cov=True)
    post = GP(rbf, noise=0.05).condition(X, Y)
    np.testing.assert_allclose(post.mean(XS), mean, rtol=1e-12, atol=1e-13)  # same algorithm
    np.testing.assert_allclose(post.cov(XS), cov, atol=1e-13)


def test_prior():
    prior = GP(rbf, noise=0.3, noise_rel=0.1).prior(XS)
    np.testing.assert_array_equal(prior.mean, np.zeros(5))
    np.testing.assert_allclose(prior.cov, rbf(XS), rtol=1e-15)
    noisy = GP(rbf, noise=0.3, noise_rel=0.1).prior(XS, noise=True)
    np.testing.assert_allclose(noisy.var, np.full(5, 1.4), rtol=1e-14)


def test_single_point():
    x, y = np.array([[1.0]]), np.array([2.0])
    post = GP(rbf, noise=0.5).condition(x, y)
    # scalar Gaussian: prior variance 1, noise 1/2
    assert post.mean(x)[0] == pytest.approx(2 / 1.5, rel=1e-15)
    assert post.var(x)[0] == pytest.approx(1 - 1 / 1.5, rel=1e-15)
    assert post.log_evidence == pytest.approx(scipy.stats.norm.logpdf(2, scale=1.5**0.5), rel=1e-14)
    assert post.loo().mean[0] == pytest.approx(0, abs=1e-15)
    assert post.loo().var[0] == pytest.approx(1.5, rel=1e-15)


def test_duplicates_with_noise_average():
    # two observations of one point = one observation of the average with half the noise
    x = np.array([[0.0], [0.0], [2.0]])
    twice = GP(rbf, noise=0.1).condition(x, np.array([1.0, 3.0, 0.5]))
    once = GP(rbf, noise=np.array([0.05, 0.1])).condition(x[1:], np.array([2.0, 0.5]))
    xs = np.linspace(-1, 3, 7)[:, None]
    np.testing.assert_allclose(twice.mean(xs), once.mean(xs), rtol=1e-13)  # condition number 20
    np.testing.assert_allclose(twice.cov(xs), once.cov(xs), atol=1e-14)


def test_contradictory_duplicates_without_noise():
    x = np.array([[0.0], [0.0], [2.0]])
    with pytest.warns(JitterWarning):
        post = GP(rbf).condition(x, np.array([1.0, 3.0, 0.5]))
    # the average at the duplicate; weights of size 1 / jitter = 1e15 lose all but a digit or two
    assert post.mean(x[:1])[0] == pytest.approx(2.0, abs=0.5)
    assert post.log_evidence < -1e14


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 20), st.floats(1e-6, 10.0))
def test_posterior_covariance_between_zero_and_prior(seed, n, noise):
    x, y = data(n, seed=seed)
    xs = np.concatenate([data(4, seed=seed + 1)[0], x[:2]])
    cov = GP(rbf, noise=noise).condition(x, y).cov(xs)
    # cancellation of prior and reduction, amplified by 1 / noise at most
    slack = 1e-15 * 20 / min(noise, 1.0)
    assert np.linalg.eigvalsh(cov)[0] >= -slack
    assert np.linalg.eigvalsh(rbf(xs) - cov)[0] >= -slack


def test_prequential():
    post = GP(rbf, noise=0.1).condition(X, Y)
    steps = post.prequential()
    assert np.sum(steps.log_score) == pytest.approx(post.log_evidence, rel=1e-12)
    for i in range(1, 12):
        one = GP(rbf, noise=0.1).condition(X[:i], Y[:i]).predict(X[i : i + 1], noise=True)
        # condition number below 1e2
        assert steps.mean[i] == pytest.approx(one.mean[0], rel=1e-11, abs=1e-13)
        assert steps.var[i] == pytest.approx(one.var[0], rel=1e-12)
        assert steps.log_score[i] == pytest.approx(one.log_prob(Y[i : i + 1]), rel=1e-12)


# --- leave-one-out


@pytest.mark.parametrize("outputs", [None, 2])
def test_loo_brute_force(outputs):
    x, y = data(outputs=outputs)
    loo = GP(rbf, noise=0.1).condition(x, y).loo()
    for i in range(12):
        rest = np.delete(np.arange(12), i)
        one = GP(rbf, noise=0.1).condition(x[rest], y[rest]).predict(x[i : i + 1], noise=True)
        # condition number below 1e2
        np.testing.assert_allclose(loo.mean[i], one.mean[0], rtol=1e-11, atol=1e-13)
        assert loo.var[i] == pytest.approx(one.var[0], rel=1e-12)
        np.testing.assert_allclose(loo.log_score[i], one.pointwise(y[i : i + 1])[0], rtol=1e-12)
    assert loo.rmse == pytest.approx(np.sqrt(np.mean((y - loo.mean) ** 2)), rel=1e-14)


# --- predictive record


@pytest.mark.parametrize("outputs", [None, 2])
def test_predictive_log_prob(outputs):
    x, y = data(outputs=outputs)
    ys = data(5, outputs=outputs, seed=2)[1]
    pred = GP(rbf, noise=0.05).condition(x, y).predict(XS, noise=True)
    mean, cov = dense_posterior(x, y, XS, 0.05)
    cov = cov + 0.05 * np.eye(5)
    columns = list(zip(mean.reshape(5, -1).T, ys.reshape(5, -1).T, strict=True))
    joint = sum(scipy.stats.multivariate_normal.logpdf(b, a, cov) for a, b in columns)
    assert pred.log_prob(ys) == pytest.approx(joint, rel=1e-11)  # condition number below 1e3
    sd = np.sqrt(np.diag(cov)).reshape(-1, *[1] * (ys.ndim - 1))
    np.testing.assert_allclose(
        pred.pointwise(ys), scipy.stats.norm.logpdf(ys, mean, sd), rtol=1e-10
    )


def test_interval_covers_its_level():
    pred = Gaussian(np.zeros((3, 2)), np.diag([1.0, 4.0, 0.0]))
    lower, upper = pred.interval(0.9)
    # 1.6448536... = the 95 % point of the normal law
    np.testing.assert_allclose(upper[:, 0], 1.6448536269514722 * np.array([1, 2, 0]), rtol=1e-14)
    np.testing.assert_array_equal(lower, -upper)
    assert upper.shape == (3, 2)


def test_degenerate_density():
    pred = Gaussian(np.zeros(2), np.diag([1.0, 0.0]))
    assert pred.pointwise(np.ones(2))[1] == -np.inf
    assert pred.pointwise(np.zeros(2))[1] == np.inf


def test_noise_free_joint_density_of_a_repeated_point_warns():
    post = GP(rbf, noise=0.05).condition(X, Y)
    with pytest.warns(JitterWarning, match="predictive covariance is singular"):
        post.predict(np.repeat(XS[:1], 2, axis=0)).log_prob(np.zeros(2))


def test_samples_have_posterior_moments():
    n = 4000
    post = GP(rbf, noise=0.05).condition(*data(outputs=2))
    draws = post.sample(jax.random.key(0), XS, n)
    assert draws.shape == (n, 5, 2)
    mean, cov = post.mean(XS), post.cov(XS)
    z = (draws.mean(0) - mean) / np.sqrt(np.diag(cov) / n)[:, None]
    assert np.abs(z).max() < 4  # 10 standard normal numbers
    for c in range(2):
        found = np.cov(draws[:, :, c].T)
        error = np.sqrt((cov**2 + np.outer(np.diag(cov), np.diag(cov))) / n)  # Wishart
        assert (np.abs(found - cov) / error).max() < 4.5  # 25 numbers, approximately normal
    cross = np.mean((draws[:, :, 0] - mean[:, 0]) * (draws[:, :, 1] - mean[:, 1]), axis=0)
    assert (np.abs(cross) / np.diag(cov) * n**0.5).max() < 4  # outputs are independent


def test_noisy_samples_and_shapes():
    post = GP(rbf, noise=0.5).condition(X, Y)
    quiet, noisy = post.sample(3, XS, 2000), post.sample(3, XS, 2000, noise=True)
    assert quiet.shape == noisy.shape == (2000, 5)
    ratio = noisy.var(0) / (post.var(XS) + 0.5)
    assert np.abs(ratio - 1).max() < 4 * np.sqrt(2 / 2000)  # four standard errors of a variance
    assert post.sample(3, XS).shape == (1, 5)
    np.testing.assert_array_equal(post.sample(3, XS, 4), post.sample(jax.random.key(3), XS, 4))


def test_samples_at_noise_free_training_points_are_the_labels():
    post = GP(rbf).condition(X, Y)
    draws = post.sample(0, np.concatenate([X, X[:3]]), 5)
    # covariance is zero up to 1e-13 (condition number times eps); standard deviation its root
    np.testing.assert_allclose(draws, np.broadcast_to(np.append(Y, Y[:3]), (5, 15)), atol=2e-6)


# --- records, dtypes


def test_records_are_pytrees():
    post = GP(rbf, noise=0.05).condition(X, Y)
    again = jax.tree.map(lambda leaf: leaf, post)
    assert isinstance(again, Posterior)
    np.testing.assert_array_equal(again.mean(XS), post.mean(XS))
    for record, kind in [(post.loo(), PointPredictions), (post.predict(XS), Gaussian)]:
        assert isinstance(jax.tree.map(lambda leaf: leaf, record), kind)
    assert jax.tree.leaves(GP(rbf, noise=0.05)) == [0.05, 0.0]
    slope = jax.grad(lambda model: log_evidence(rbf(X), Y, model.noise))(GP(rbf, noise=0.05))
    assert isinstance(slope, GP)
    by_noise = jax.grad(log_evidence, argnums=2)(rbf(X), Y, 0.05)
    np.testing.assert_array_equal(slope.noise, by_noise)


def test_float64_with_x64_off():
    reference = GP(jax_rbf, noise=1e-4).condition(X, Y)
    with jax.enable_x64(False):
        post = GP(jax_rbf, noise=1e-4).condition(X, Y)
        mean, var, draw = post.mean(XS), post.var(XS), post.sample(0, XS, 2)
        value = post.log_evidence
    assert post.info.dtype == "float64"
    assert mean.dtype == var.dtype == draw.dtype == np.float64
    # the same computation
    np.testing.assert_allclose(mean, reference.mean(XS), rtol=1e-12)
    np.testing.assert_allclose(draw, reference.sample(0, XS, 2), rtol=1e-10)
    assert value == pytest.approx(reference.log_evidence, rel=1e-12)


def test_float32_inputs_are_kept():
    seen = []

    def kernel(x, z=None):
        seen.append(x.dtype)
        return jax_rbf(x, z)

    post = GP(kernel, noise=0.05).condition(jnp.asarray(X, jnp.float32), Y)
    mean = post.mean(jnp.asarray(XS, jnp.float32))
    assert set(map(str, seen)) == {"float32"}
    assert post.info.dtype == "float32"
    # float32 rounding of the kernel, condition number of K_n below 1e3
    np.testing.assert_allclose(mean, GP(rbf, noise=0.05).condition(X, Y).mean(XS), atol=1e-4)


def test_lists_and_integers():
    post = GP(rbf, noise=0.1).condition([[0, 1], [1, 0]], [1, 2])
    expected = GP(rbf, noise=0.1).condition(np.eye(2)[::-1], np.array([1.0, 2.0]))
    np.testing.assert_array_equal(post.mean([[1, 1]]), expected.mean(np.ones((1, 2))))
