import jax
import mpmath as mp
import numpy as np
import pytest
import scipy.special
import scipy.stats

import ntk
from deeplimits import (
    DomainError,
    JitterWarning,
    NotPositiveDefiniteError,
    PrecisionWarning,
    ShapeError,
)
from gp.mixtures import ScaledPosterior, ScaleMixture, inverse_gamma_evidence
from gp.process import GP
from gp.scale_priors import BetaPrime, BurrXII, InverseGamma, LogNormal
from gp.scale_quadrature import ImproperPosteriorError, MomentUndefinedError
from gp.student_t import StudentT

NOISE = 0.1
PRIORS = [InverseGamma(1.7, 2.3), BurrXII(2.0, 1.5), LogNormal(0.2, 0.8)]
each_prior = pytest.mark.parametrize("prior", PRIORS, ids=lambda p: type(p).__name__)


def rbf(x, z=None):
    z = x if z is None else z
    return np.exp(-0.5 * ((x[:, None] - z[None]) ** 2).sum(-1))


def data(n=7, outputs=None, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    return x, 2 * rng.normal(size=n if outputs is None else (n, outputs))


X, Y = data()
XS, YS = data(3, seed=1)


def mp_log_integral(a, b, q, log_det, size):
    """log of the integral of IG(s2; a, b) N(y; 0, s2 K) over s2, by mpmath in 30 digits."""
    with mp.workdps(30):
        a, b, q = mp.mpf(a), mp.mpf(b), mp.mpf(q)

        def integrand(u):
            log_prior = a * mp.log(b) - mp.loggamma(a) - a * u - b * mp.exp(-u)
            return mp.exp(log_prior - size * u / 2 - q * mp.exp(-u) / 2)

        value = mp.quad(integrand, [-8, -4, -2, 0, 1, 2, 3, 4, 6, 10, 20, 60])
        return float(mp.log(value) - size * mp.log(2 * mp.pi) / 2 - mp.mpf(log_det) / 2)


def brute_evidence(x, y, a=1.7, b=2.3):
    k = rbf(x) + NOISE * np.eye(len(x))
    columns = y.reshape(len(x), -1)
    q = float(np.sum(columns * np.linalg.solve(k, columns)))
    return mp_log_integral(a, b, q, columns.shape[1] * np.linalg.slogdet(k)[1], columns.size)


# --- Student-t in closed form


@pytest.mark.parametrize("outputs", [None, 2])
def test_student_t_against_brute_force(outputs):
    x, y = data(outputs=outputs)
    xs, ys = data(3, outputs=outputs, seed=1)
    post = ScaleMixture(rbf, InverseGamma(1.7, 2.3), noise=NOISE).condition(x, y)
    assert post.error == 0
    alone = brute_evidence(x, y)
    # condition number of the kernel matrix below 1e3
    assert post.log_evidence == pytest.approx(alone, rel=1e-12)
    joint = brute_evidence(np.concatenate([x, xs]), np.concatenate([y, ys]))
    found = post.predict(xs, noise=True).log_prob(ys)
    assert found == pytest.approx(joint - alone, rel=1e-11)


def test_student_t_parameters():
    x, y = data(outputs=2)
    post = ScaleMixture(rbf, InverseGamma(1.7, 2.3), noise=NOISE).condition(x, y)
    plain = GP(rbf, noise=NOISE).condition(x, y)
    q = np.sum(y * np.linalg.solve(rbf(x) + NOISE * np.eye(7), y))
    law = post.predict(XS)
    assert post.scale_posterior.a == 1.7 + 7
    assert law.df == 2 * (1.7 + 7)
    assert post.scale_posterior.b == pytest.approx(2.3 + q / 2, rel=1e-12)
    np.testing.assert_array_equal(law.mean, plain.mean(XS))
    np.testing.assert_allclose(law.shape, (2.3 + q / 2) / 8.7 * plain.cov(XS), rtol=1e-11)
    # E[s2 | y] = b_n / (a_n - 1)
    np.testing.assert_allclose(post.var(XS), (2.3 + q / 2) / 7.7 * plain.var(XS), rtol=1e-11)
    np.testing.assert_allclose(post.cov(XS), law.cov, rtol=1e-13, atol=1e-16)
    assert post.info == plain.info


def test_data_in_two_parts_equal_data_at_once():
    """The scale after the first part is the prior of the second, around its predictions."""
    first = ScaleMixture(rbf, InverseGamma(1.7, 2.3), noise=NOISE).condition(X[:4], Y[:4])
    batch = ScaleMixture(rbf, InverseGamma(1.7, 2.3), noise=NOISE).condition(X, Y)
    gaussian = first.base.predict(X[4:], noise=True)
    residual = Y[4:] - gaussian.mean
    q = float(residual @ np.linalg.solve(gaussian.cov, residual))
    after = first.scale_posterior
    assert after.a + 1.5 == batch.scale_posterior.a
    assert after.b + q / 2 == pytest.approx(batch.scale_posterior.b, rel=1e-12)
    added = inverse_gamma_evidence(after, q, 3, float(np.linalg.slogdet(gaussian.cov)[1]))
    assert first.log_evidence + added == pytest.approx(batch.log_evidence, rel=1e-12)
    assert first.predict(X[4:], noise=True).log_prob(Y[4:]) == pytest.approx(added, rel=1e-12)


def test_convention_of_shah_and_of_tensorflow_probability():
    """a = nu/2, b = (nu-2)/2: the kernel is the covariance, and the update factor is theirs."""
    nu = 5.0
    post = ScaleMixture(rbf, InverseGamma(nu / 2, (nu - 2) / 2), noise=NOISE).condition(X, Y)
    q = Y @ np.linalg.solve(rbf(X) + NOISE * np.eye(7), Y)
    factor = (nu + q - 2) / (nu + 7 - 2)
    plain = GP(rbf, noise=NOISE).condition(X, Y)
    np.testing.assert_allclose(post.cov(XS), factor * plain.cov(XS), rtol=1e-11, atol=1e-14)


def test_evidence_keeps_its_digits():
    log_det, size, q = 3.0, 14, 9.0
    for a in (0.3, 5.0, 1e4, 1e9, 1e15):
        with mp.workdps(60):
            a_n, b_n = mp.mpf(a) + size / 2, 1.5 * mp.mpf(a) + q / 2
            exact = mp.loggamma(a_n) - mp.loggamma(a) + a * mp.log(1.5 * mp.mpf(a))
            exact -= a_n * mp.log(b_n) + size * mp.log(2 * mp.pi) / 2 + log_det / 2
        found = inverse_gamma_evidence(InverseGamma(a, 1.5 * a), q, size, log_det)
        # terms of size h log a = 240
        assert found == pytest.approx(float(exact), rel=1e-13, abs=1e-13 * 240)


def test_gaussian_process_limit():
    plain = GP(lambda x, z=None: 1.5 * rbf(x, z), noise=1.5 * NOISE).condition(X, Y)
    post = ScaleMixture(rbf, InverseGamma(1e9, 1.5e9), noise=NOISE).condition(X, Y)
    # corrections of relative size n^2 / a
    assert post.log_evidence == pytest.approx(plain.log_evidence, rel=1e-7)
    np.testing.assert_allclose(post.cov(XS), plain.cov(XS), rtol=1e-7, atol=1e-12)


def test_diabetes():
    """Degrees of freedom and log evidence on scikit-learn's diabetes data, 350 of 442 rows."""
    from sklearn.datasets import load_diabetes

    raw = load_diabetes()
    rows = np.random.default_rng(0).permutation(442)
    train, test = rows[:350], rows[350:]
    x = (raw.data - raw.data[train].mean(0)) / raw.data[train].std(0)
    y = (raw.target - raw.target[train].mean()) / raw.target[train].std()
    scale, noise = 0.249174, 0.431478  # the maximum of the evidence, found by Nelder-Mead
    kernel = ntk.mlp(2, "relu", W_std=2**0.5).nngp
    plain = GP(lambda a, b=None: scale * kernel(a, b), noise=noise).condition(x[train], y[train])
    at_test = plain.predict(x[test], noise=True)
    # four digits were published for this split
    assert plain.log_evidence == pytest.approx(-382.0205, abs=5e-5)
    assert -at_test.pointwise(y[test]).mean() == pytest.approx(1.0706, abs=5e-5)
    assert np.sqrt(np.mean((y[test] - at_test.mean) ** 2)) == pytest.approx(0.7085, abs=5e-5)
    model = ScaleMixture(kernel, InverseGamma(2.0, 2.0), noise=noise / scale)
    law = model.condition(x[train], y[train]).marginals(x[test], noise=True)
    assert law.df == 354
    # as many degrees of freedom are a Gaussian with the scale fitted to the data
    assert -law.pointwise(y[test]).mean() == pytest.approx(1.0706, abs=1e-3)
    np.testing.assert_allclose(law.std, at_test.std, rtol=0.02)


# --- any law of the scale


@each_prior
def test_predictive_is_a_ratio(prior):
    model = ScaleMixture(rbf, prior, noise=NOISE)
    post = model.condition(X, Y)
    both = model.condition(np.concatenate([X, XS]), np.concatenate([Y, YS]))
    found = post.predict(XS, noise=True).log_prob(YS)
    # condition number 1e3, quadratures exact to rounding
    assert found == pytest.approx(both.log_evidence - post.log_evidence, rel=1e-11)
    # the scale must move far from where the data put it
    far = np.array([0.0, 0.0, 30.0 if isinstance(prior, LogNormal) else 1e4])
    both = model.condition(np.concatenate([X, XS]), np.concatenate([Y, far]))
    found = post.predict(XS, noise=True).log_prob(far)
    assert found == pytest.approx(both.log_evidence - post.log_evidence, rel=1e-10)
    for i in range(3):
        both = model.condition(np.append(X, XS[i : i + 1], axis=0), np.append(Y, YS[i]))
        alone = post.marginals(XS, noise=True).pointwise(YS)[i]
        assert alone == pytest.approx(both.log_evidence - post.log_evidence, rel=1e-10)


def test_a_value_beyond_the_nodes_of_the_quadrature_warns():
    law = ScaleMixture(rbf, LogNormal(0.2, 0.8), NOISE).condition(X, Y).predict(XS, noise=True)
    with pytest.warns(PrecisionWarning, match="lower bound"):
        law.log_prob([0.0, 0.0, 1e4])
    with pytest.warns(PrecisionWarning, match="lower bound"):
        law.pointwise([0.0, 0.0, 1e5])


@each_prior
def test_quantiles_invert_the_distribution(prior):
    post = ScaleMixture(rbf, prior, noise=NOISE).condition(*data(outputs=2))
    law = post.marginals(XS, noise=True)
    for probability in (1e-9, 0.025, 0.5, 0.9, 1 - 1e-9):
        at = post.quantile(XS, probability, noise=True)
        assert at.shape == (3, 2)
        tail = law.cdf(at) if probability < 0.6 else law.cdf(2 * law.mean - at)
        # root finding to 1e-15 of the width; relative error of the cdf = that times the hazard
        np.testing.assert_allclose(tail, min(probability, 1 - probability), rtol=1e-6)
    lower, upper = law.interval(0.9)
    np.testing.assert_allclose(lower, post.quantile(XS, 0.05, noise=True), rtol=1e-10)
    np.testing.assert_allclose(lower + upper, 2 * law.mean, rtol=1e-9, atol=1e-12)


@each_prior
def test_joint_and_marginal_laws_agree(prior):
    post = ScaleMixture(rbf, prior, noise=NOISE).condition(X, Y)
    joint, alone = post.predict(XS, noise=0.3), post.marginals(XS, noise=0.3)
    for name in ("mean", "var", "std"):
        np.testing.assert_allclose(getattr(joint, name), getattr(alone, name), rtol=1e-11)
    np.testing.assert_allclose(np.diag(joint.cov), alone.var, rtol=1e-11)
    for name, at in [("pointwise", YS), ("cdf", YS), ("quantile", 0.8)]:
        np.testing.assert_allclose(getattr(joint, name)(at), getattr(alone, name)(at), rtol=1e-9)
    np.testing.assert_array_equal(post.mean(XS), joint.mean)


@each_prior
def test_samples_are_joint_draws(prior):
    """Distances from the centre, in the metric of the shape matrix, have the law of the scale."""
    post = ScaleMixture(rbf, prior, noise=NOISE).condition(*data(1, outputs=2))
    draws = post.sample(5, XS, 4000, noise=True)
    assert draws.shape == (4000, 3, 2)
    law = post.predict(XS, noise=True)
    root = np.linalg.inv(np.linalg.cholesky(law.shape))
    z = np.einsum("ab,nbc->nac", root, draws - law.mean)
    radius = np.sum(z**2, axis=(1, 2))
    # given the scale, the squared radius is chi-square with 6 degrees of freedom
    if isinstance(law, StudentT):
        expected = scipy.stats.f(6, law.df).cdf(radius / 6)
    else:
        chi2 = scipy.stats.chi2(6)
        expected = sum(
            w * chi2.cdf(radius / s)
            for w, s in zip(law.scale.weights, law.scale.s2, strict=True)
            if w > 1e-12
        )
    assert scipy.stats.kstest(expected, "uniform").pvalue > 1e-3
    # one scale for all: squares of different outputs are correlated
    a, b = z[:, 0, 0] ** 2, z[:, 2, 1] ** 2
    ranks = scipy.stats.spearmanr(a, b)
    assert ranks.statistic > 0
    assert ranks.pvalue < 1e-4  # 4e-6 here; independent coordinates would pass one time in 1e4


def test_student_t_against_scipy():
    law = ScaleMixture(rbf, PRIORS[0], noise=NOISE).condition(X, Y).predict(XS, noise=True)
    reference = scipy.stats.multivariate_t(law.loc, law.shape, df=law.df)
    assert law.log_prob(YS) == pytest.approx(reference.logpdf(YS), rel=1e-12)
    width = np.sqrt(np.diag(law.shape))
    t = scipy.stats.t(law.df, law.loc, width)
    np.testing.assert_allclose(law.pointwise(YS), t.logpdf(YS), rtol=1e-12)
    np.testing.assert_allclose(law.quantile(0.9), t.ppf(0.9), rtol=1e-10)


def test_prior_law():
    model = ScaleMixture(rbf, InverseGamma(1.7, 2.3), noise=NOISE)
    law = model.prior_law(XS)
    assert law.df == 3.4
    np.testing.assert_allclose(law.shape, 2.3 / 1.7 * rbf(XS), rtol=1e-14)
    np.testing.assert_allclose(
        model.prior_law(XS, noise=True).shape - law.shape, 2.3 / 1.7 * NOISE * np.eye(3), atol=1e-15
    )
    lomax = ScaleMixture(rbf, BurrXII(2.0, 1.5)).prior_law(XS)
    np.testing.assert_allclose(lomax.cov, BurrXII(2.0, 1.5).mean * rbf(XS), rtol=1e-11)
    # tail exponent of the density 2 p + 1 = 2 c k + 1 = 7, approached from scales of 1e6
    tail = [lomax.pointwise(np.full(3, x))[0] for x in (1e6, 1e7)]
    assert np.diff(tail)[0] / np.log(10) == pytest.approx(-7, abs=1e-5)


def test_posterior_is_a_pytree():
    for prior in PRIORS[:2]:
        post = ScaleMixture(rbf, prior, noise=NOISE).condition(X, Y)
        again = jax.tree.map(lambda leaf: leaf, post)
        assert isinstance(again, ScaledPosterior)
        np.testing.assert_array_equal(again.var(XS), post.var(XS))


# --- bad input


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"kernel": 3}, DomainError, "kernel must be a callable"),
        ({"prior": 2.0}, DomainError, "prior must be a law of the scale"),
        ({"prior": InverseGamma}, DomainError, "prior must be a law of the scale"),
        ({"noise": -1.0}, DomainError, "noise must be >= 0"),
        ({"noise_scaled": "yes"}, DomainError, "noise_scaled must be True or False"),
        ({"noise": 0.0, "noise_scaled": False}, DomainError, "noise must be > 0"),
        ({"noise": np.array([0.1, 0.0]), "noise_scaled": False}, DomainError, "noise must be > 0"),
        ({"max_points": 0}, DomainError, "max_points must be >= 1"),
    ],
)
def test_bad_models(kwargs, error, match):
    with pytest.raises(error, match=match):
        ScaleMixture(**{"kernel": rbf, "prior": InverseGamma(2, 2), "noise": NOISE, **kwargs})


def test_bad_data_and_queries():
    model = ScaleMixture(rbf, BurrXII(2.0, 1.5), noise=NOISE)
    for bad in (Y * np.nan, np.where(Y > 0, np.inf, Y)):
        with pytest.raises(DomainError, match="y must be finite"):
            model.condition(X, bad)
    with pytest.raises(ShapeError, match="y must have shape"):
        model.condition(X, Y[:3])
    post = model.condition(X, Y)
    for query in (post.mean, post.var, post.cov, post.predict, post.marginals):
        with pytest.raises(ShapeError, match="Xs and X must agree"):
            query(np.ones((2, 3)))
    law = post.predict(XS)
    for method in (law.log_prob, law.pointwise, law.cdf):
        with pytest.raises(ShapeError, match="shape"):
            method(np.ones(4))
    for wrong in (0.0, 1.0, np.nan):
        with pytest.raises(DomainError, match="probability must be"):
            law.quantile(wrong)
    with pytest.raises(DomainError, match="level must be"):
        law.interval(95)
    with pytest.raises(DomainError, match="n must be >= 1"):
        post.sample(0, XS, 0)
    per_point = ScaleMixture(rbf, BurrXII(2.0, 1.5), noise=np.full(7, NOISE)).condition(X, Y)
    for query in (per_point.predict, per_point.marginals):
        with pytest.raises(DomainError, match="noise at Xs is unknown"):
            query(XS, noise=True)
    with pytest.raises(DomainError, match="prior law of y is offered"):
        ScaleMixture(rbf, BurrXII(2.0, 1.5), NOISE, False).prior_law(XS, noise=True)


def test_indefinite_kernels_and_singular_predictions():
    model = ScaleMixture(lambda x, z=None: -rbf(x, z), InverseGamma(2, 2), noise=NOISE)
    with pytest.raises(NotPositiveDefiniteError, match="training covariance"):
        model.condition(X, Y)
    post = ScaleMixture(rbf, InverseGamma(2, 2), noise=NOISE).condition(X, Y)
    with pytest.warns(JitterWarning, match="predictive shape matrix is singular"):
        post.predict(np.repeat(XS[:1], 2, axis=0)).log_prob(np.zeros(2))


def test_undefined_moments():
    law = ScaleMixture(rbf, InverseGamma(0.4, 1.0)).prior_law(XS)
    with pytest.raises(MomentUndefinedError, match=r"df > 1, got df = 0\.8"):
        _ = law.mean
    for name in ("cov", "var", "std"):
        with pytest.raises(MomentUndefinedError, match=r"df > 2, got df = 0\.8"):
            getattr(law, name)
    lomax = ScaleMixture(rbf, BurrXII(1.0, 0.9)).prior_law(XS)
    for name in ("cov", "var", "std"):
        with pytest.raises(MomentUndefinedError, match=r"E\[s2\] is infinite"):
            getattr(lomax, name)
    with pytest.raises(MomentUndefinedError, match="variance does not exist"):
        _ = lomax.marginals.var
    one = ScaleMixture(rbf, InverseGamma(0.4, 1.0), noise=NOISE).condition(X[:1], Y[:1])
    with pytest.raises(MomentUndefinedError, match=r"E\[s2\] is infinite"):  # a_n = 0.9
        one.var(XS)
    with pytest.raises(MomentUndefinedError, match=r"df > 2, got df = 1\.8"):
        one.cov(XS)
    assert np.isfinite(one.quantile(XS, 0.9)).all()


def test_zero_targets_leave_the_scale_undetermined_for_some_priors():
    zero = np.zeros(7)
    post = ScaleMixture(rbf, InverseGamma(2.0, 2.0), noise=NOISE).condition(X, zero)
    assert post.scale_posterior == InverseGamma(5.5, 2.0)
    for prior in (BurrXII(2.0, 1.5), BetaPrime(3.5, 1.0)):  # s2^(c-1) with c <= n/2 = 3.5
        with pytest.raises(ImproperPosteriorError, match="the scale posterior diverges"):
            ScaleMixture(rbf, prior, noise=NOISE).condition(X, zero)
    enough = ScaleMixture(rbf, BetaPrime(5.0, 1.0), noise=NOISE).condition(X, zero)
    # the integral of s2^(5-1-3.5) (1+s2)^-6 / B(5,1) is B(1.5, 4.5) / B(5, 1)
    ratio = scipy.special.betaln(1.5, 4.5) - scipy.special.betaln(5, 1)
    k = rbf(X) + NOISE * np.eye(7)
    exact = ratio - 3.5 * np.log(2 * np.pi) - np.linalg.slogdet(k)[1] / 2
    assert enough.log_evidence == pytest.approx(exact, rel=1e-12)
    assert np.isfinite(ScaleMixture(rbf, LogNormal(0.0, 1.0)).condition(X, zero).log_evidence)
    unscaled = ScaleMixture(rbf, BurrXII(2.0, 1.5), NOISE, False).condition(X, zero)
    assert np.isfinite(unscaled.log_evidence)
