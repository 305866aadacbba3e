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

from deeplimits import (
    DomainError,
    JitterWarning,
    NotPositiveDefiniteError,
    PrecisionError,
    PrecisionWarning,
    ShapeError,
)
from gp.evidence import log_evidence, log_evidence_grid
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


# --- evidence


@pytest.mark.parametrize("outputs", [None, 3])
def test_log_evidence_against_scipy_and_sklearn(outputs):
    x, y = data(outputs=outputs)
    post = GP(rbf, noise=0.05).condition(x, y)
    law = scipy.stats.multivariate_normal(np.zeros(12), rbf(x) + 0.05 * np.eye(12))
    # condition number below 1e3
    assert post.log_evidence == pytest.approx(np.sum(law.logpdf(y.T)), rel=1e-12)
    other = GaussianProcessRegressor(RBF(1.0), alpha=0.05, optimizer=None).fit(x, y)
    assert post.log_evidence == pytest.approx(other.log_marginal_likelihood(), rel=1e-12)
    assert isinstance(post.log_evidence, float)
    assert float(log_evidence(rbf(x), y, 0.05)) == pytest.approx(post.log_evidence, rel=1e-13)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.floats(0.01, 100.0))
def test_log_evidence_invariances(seed, scale):
    x, y = data(10, outputs=3, seed=seed)
    rng = np.random.default_rng(seed)
    value = GP(rbf, noise=0.1).condition(x, y).log_evidence
    order = rng.permutation(10)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    same = GP(rbf, noise=0.1).condition(x[order], y[order] @ rotation).log_evidence
    # condition number below 1e2
    assert same == pytest.approx(value, rel=1e-11)
    scaled = GP(lambda a, b=None: scale**2 * rbf(a, b), noise=0.1 * scale**2)
    shifted = scaled.condition(x, scale * y).log_evidence + 30 * np.log(scale)
    assert shifted == pytest.approx(value, rel=1e-11)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 9))
def test_chain_rule(seed, split):
    x, y = data(10, outputs=2, seed=seed)
    model = GP(rbf, noise=0.1)
    first = model.condition(x[:split], y[:split])
    rest = first.predict(x[split:], noise=True).log_prob(y[split:])
    whole = model.condition(x, y).log_evidence
    assert first.log_evidence + rest == pytest.approx(whole, rel=1e-11)  # condition number 1e2


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


def test_log_evidence_gradients():
    x, y = jnp.asarray(X), jnp.asarray(Y)

    def value(length, noise):
        return log_evidence(jax_rbf(x / length), y, noise)

    by_length, by_noise = jax.jit(jax.grad(value, argnums=(0, 1)))(1.3, 0.05)
    # tr((a a' - K^-1) dK) / 2, from explicit inverses
    kernel = rbf(X / 1.3)
    inverse = np.linalg.inv(kernel + 0.05 * np.eye(12))
    middle = np.outer(inverse @ Y, inverse @ Y) - inverse
    d2 = ((X[:, None] - X[None]) ** 2).sum(-1)
    # condition number below 1e3
    assert float(by_length) == pytest.approx(0.5 * np.sum(middle * kernel * d2 / 1.3**3), rel=1e-10)
    assert float(by_noise) == pytest.approx(0.5 * np.trace(middle), rel=1e-10)
    per_point = jax.grad(value, argnums=1)(1.3, jnp.full(12, 0.05))
    np.testing.assert_allclose(per_point, 0.5 * np.diag(middle), rtol=1e-10)


def test_log_evidence_is_nan_when_not_positive_definite():
    assert np.isnan(jax.jit(log_evidence)(-jnp.eye(3), jnp.ones(3), 0.1))


def test_log_evidence_takes_float32_kernels():
    value = log_evidence(jnp.asarray(rbf(X), jnp.float32), Y, 0.05)
    assert value.dtype == jnp.float64
    # float32 rounding of the matrix, condition number 1e3
    assert float(value) == pytest.approx(float(log_evidence(rbf(X), Y, 0.05)), rel=1e-4)


def test_log_evidence_grid():
    gram = jax.jit(lambda amplitude, length: amplitude * jax_rbf(jnp.asarray(X) / length))
    grid = log_evidence_grid(gram, Y, noise=0.05, amplitude=[0.5, 2.0], length=[0.7, 1.0, 1.5])
    assert grid.log_evidence.dims == ("amplitude", "length")
    point = grid.sel(amplitude=2.0, length=0.7)
    exact = log_evidence(2 * rbf(X / 0.7), Y, 0.05)
    assert float(point.log_evidence) == pytest.approx(float(exact), rel=1e-12)
    assert float(point.jitter) == 0


def test_log_evidence_grid_marks_indefinite_points():
    grid = log_evidence_grid(lambda s: s * rbf(X), Y, noise=0.0, s=[-1.0, 1.0])
    np.testing.assert_array_equal(np.isnan(grid.log_evidence), [True, False])
    np.testing.assert_array_equal(np.isnan(grid.jitter), [True, False])


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


# --- bad input


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"kernel": rbf(X)}, DomainError, "kernel must be a callable"),
        ({"noise": -1.0}, DomainError, "noise must be >= 0"),
        ({"noise": np.nan}, DomainError, "noise must be finite"),
        ({"noise": np.array([0.1, -0.1])}, DomainError, "holds variances"),
        ({"noise": np.eye(2)}, ShapeError, r"one number or one per point"),
        ({"noise_rel": -1.0}, DomainError, "noise_rel must be >= 0"),
        ({"max_points": 0}, DomainError, "max_points must be >= 1"),
    ],
)
def test_bad_models(kwargs, error, match):
    with pytest.raises(error, match=match):
        GP(**{"kernel": rbf, **kwargs})


@pytest.mark.parametrize(
    ("x", "y", "error", "match"),
    [
        (X[:, 0], Y, ShapeError, r"X must have shape \(n, d\).*X\[:, None\]"),
        (X, Y[:-1], ShapeError, r"y must have shape \(12,\) or \(12, outputs\)"),
        (X, Y[:, None, None], ShapeError, "y must have shape"),
        (X * np.nan, Y, DomainError, "X must be finite"),
        (X, Y * np.nan, DomainError, "y must be finite"),
        (X[:0], Y[:0], ShapeError, "X must not be empty"),
    ],
)
def test_bad_data_is_refused_before_the_kernel_runs(x, y, error, match):
    def kernel(*_):
        raise AssertionError("kernel was called")

    with pytest.raises(error, match=match):
        GP(kernel, noise=0.1).condition(x, y)


def test_wrong_number_of_noise_variances():
    with pytest.raises(ShapeError, match=r"noise must be one number.*\(12,\).*got shape \(3,\)"):
        GP(rbf, noise=np.ones(3)).condition(X, Y)


def test_too_many_points():
    with pytest.raises(DomainError, match=r"X has 12 points, more than max_points=10"):
        GP(rbf, noise=0.1, max_points=10).condition(X, Y)
    with pytest.raises(DomainError, match="max_points=10"):
        GP(rbf, max_points=10).prior(X)


@pytest.mark.parametrize(
    ("kernel", "error", "match"),
    [
        (
            lambda x, z=None: rbf(x, z)[:, :-1],
            ShapeError,
            "the kernel must return an array of shape",
        ),
        (lambda x, z=None: [1, 2], ShapeError, "got a list"),
        (lambda x, z=None: rbf(x, z) * np.nan, DomainError, "the kernel matrix must be finite"),
        (lambda x, z=None: np.tri(len(x)), DomainError, "the kernel matrix must be symmetric"),
        (lambda x, z=None: -rbf(x, z), NotPositiveDefiniteError, "training covariance .n=12"),
    ],
)
def test_bad_kernels(kernel, error, match):
    with pytest.raises(error, match=match):
        GP(kernel, noise=0.1).condition(X, Y)


def test_bad_queries():
    post = GP(rbf, noise=0.1).condition(X, Y)
    for query in (post.mean, post.var, post.cov, post.predict):
        with pytest.raises(ShapeError, match="Xs and X must agree in every axis but the first"):
            query(np.ones((2, 3)))
    with pytest.raises(DomainError, match="n must be >= 1"):
        post.sample(0, XS, 0)
    with pytest.raises(DomainError, match="key must be"):
        post.sample("seed", XS, 2)
    with pytest.raises(DomainError, match="level must be"):
        post.predict(XS).interval(95)
    with pytest.raises(
        ShapeError, match=r"y must have the shape of the mean, \(5,\), got \(5, 2\)"
    ):
        post.predict(XS, noise=True).log_prob(np.ones((5, 2)))
    with pytest.raises(DomainError, match="noise must be >= 0"):
        post.predict(XS, noise=-1.0)


def test_noise_at_new_points_is_unknown_after_noise_per_point():
    post = GP(rbf, noise=np.full(12, 0.1)).condition(X, Y)
    with pytest.raises(DomainError, match="noise at Xs is unknown"):
        post.predict(XS, noise=True)
    extra = np.linspace(0.1, 0.5, 5)
    # one addition and its subtraction
    np.testing.assert_allclose(post.predict(XS, noise=extra).var - post.var(XS), extra, rtol=1e-13)


def test_inconsistent_kernel_gives_a_precision_warning():
    def kernel(x, z=None):  # the cross-kernel is larger than the variances allow
        return rbf(x) if z is None else 2 * rbf(x, z)

    post = GP(kernel, noise=0.01).condition(X, Y)
    with pytest.warns(PrecisionWarning, match="was set to 0"):
        assert (post.var(X) == 0).any()
    with pytest.raises(NotPositiveDefiniteError, match="it is no covariance"):
        post.sample(0, X, 2)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((np.ones((3, 2)), Y[:3], 0.1), ShapeError, "K must be a square matrix"),
        ((np.tri(3), Y[:3], 0.1), DomainError, "K must be symmetric"),
        ((np.eye(3), Y[:2], 0.1), ShapeError, r"y must have shape \(3,\)"),
        ((np.eye(3), Y[:3], -0.1), DomainError, "noise must be >= 0"),
        ((np.eye(3), Y[:3], np.ones(2)), ShapeError, "noise must be one number or one per point"),
    ],
)
def test_bad_log_evidence(arguments, error, match):
    with pytest.raises(error, match=match):
        log_evidence(*arguments)


def test_log_evidence_needs_x64():
    with (
        jax.enable_x64(False),
        pytest.raises(PrecisionError, match=r"gp\.log_evidence needs float64"),
    ):
        log_evidence(np.eye(3), Y[:3], 0.1)


def test_bad_grids():
    with pytest.raises(ShapeError, match="non-empty 1-D array; missing or wrong: all"):
        log_evidence_grid(rbf, Y, noise=0.1)
    with pytest.raises(ShapeError, match=r"missing or wrong: \['s'\]"):
        log_evidence_grid(rbf, Y, noise=0.1, s=2.0)
    with pytest.raises(ShapeError, match="must return an array of shape"):
        log_evidence_grid(lambda s: np.eye(3), Y, noise=0.1, s=[1.0])
    with pytest.raises(DomainError, match="noise must be >= 0"):
        log_evidence_grid(lambda s: rbf(X), Y, noise=-0.1, s=[1.0])
