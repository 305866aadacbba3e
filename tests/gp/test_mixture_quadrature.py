"""Integrals over the scale against adaptive quadrature, closed forms and each other."""

import itertools

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from deeplimits import DomainError, PrecisionError, ShapeError
from gp.mixture_evidence import mixture_log_evidence
from gp.mixtures import ScaleMixture
from gp.process import GP
from gp.scale_density import LogDensity
from gp.scale_priors import BetaPrime, BurrXII, InverseGamma, LogNormal, density_of_log
from gp.scale_quadrature import MomentUndefinedError, integrate
from gp.unscaled_mixture import UnscaledPosterior

NOISE = 0.1


def rbf(x, z=None):
    z = x if z is None else z
    return np.exp(-0.5 * ((x[:, None] - z[None]) ** 2).sum(-1))


RNG = np.random.default_rng(0)
X, XS = RNG.normal(size=(7, 2)), RNG.normal(size=(3, 2))
Y, YS = 2 * RNG.normal(size=7), 2 * RNG.normal(size=3)
K = rbf(X)
PRIORS = [
    InverseGamma(1.7, 2.3),
    BurrXII(2.0, 1.5),
    BurrXII(0.7, 1.2),
    BetaPrime(0.5, 0.5),
    LogNormal(0.2, 0.8),
    LogDensity(lambda s2: 1.5 * np.log(s2) - 2 * s2),  # a gamma law
]
each_prior = pytest.mark.parametrize("prior", PRIORS, ids=lambda p: f"{type(p).__name__}")


def brute(prior, scaled, f):
    """Integrals of ``f`` under prior times likelihood, by adaptive Gauss-Kronrod in log s2."""

    def integrand(u, with_f):
        cov = np.exp(u) * K + (np.exp(u) if scaled else 1.0) * NOISE * np.eye(7)
        gauss = scipy.stats.multivariate_normal(np.zeros(7), cov)
        weight = np.exp(density_of_log(prior, np.array([u]))[0] + gauss.logpdf(Y) + 20.0)
        return weight * f(np.exp(u)) if with_f else weight

    settings = {"epsabs": 0, "epsrel": 1e-11, "limit": 200}
    pieces = [-12, -3, 0, 2, 4, 8, 40]
    parts = [
        [
            scipy.integrate.quad(integrand, a, b, args=(flag,), **settings)[0]
            for a, b in itertools.pairwise(pieces)
        ]
        for flag in (False, True)
    ]
    return np.log(sum(parts[0])) - 20.0, sum(parts[1]) / sum(parts[0])


def gaussian(s2, scaled):
    """Mean and covariance of y at XS for one scale, with explicit inverses."""
    noise = NOISE * (s2 if scaled else 1.0)
    inverse = np.linalg.inv(s2 * K + noise * np.eye(7))
    cross = s2 * rbf(XS, X)
    cov = s2 * rbf(XS) + noise * np.eye(3) - cross @ inverse @ cross.T
    return cross @ inverse @ Y, cov


@pytest.mark.parametrize("scaled", [True, False])
@each_prior
def test_posterior_against_adaptive_quadrature(prior, scaled):
    post = ScaleMixture(rbf, prior, NOISE, noise_scaled=scaled).condition(X, Y)

    def density(s2):
        return scipy.stats.multivariate_normal.pdf(YS, *gaussian(s2, scaled))

    evidence, predictive = brute(prior, scaled, density)
    # the reference is asked for 1e-11
    assert post.log_evidence == pytest.approx(evidence, abs=1e-9)
    assert post.error < 1e-12
    found = post.predict(XS, noise=True).log_prob(YS)
    assert found == pytest.approx(np.log(predictive), abs=1e-9)


@pytest.mark.parametrize("prior", [InverseGamma(1.7, 2.3), BurrXII(2.0, 1.5)])
def test_unscaled_noise_against_brute_force(prior):
    post = ScaleMixture(rbf, prior, NOISE, noise_scaled=False).condition(X, Y)
    assert isinstance(post, UnscaledPosterior)
    mean = brute(prior, False, lambda s2: gaussian(s2, False)[0][0])[1]
    square = brute(
        prior, False, lambda s2: gaussian(s2, False)[0][0] ** 2 + gaussian(s2, False)[1][0, 0]
    )[1]
    cross = brute(
        prior,
        False,
        lambda s2: np.prod(gaussian(s2, False)[0][:2]) + gaussian(s2, False)[1][0, 1],
    )[1]
    law, alone = post.predict(XS, noise=True), post.marginals(XS, noise=True)
    # heavy tails of the second moment are cut at s2 = e^40 in the reference
    assert post.mean(XS)[0] == pytest.approx(mean, rel=1e-9)
    assert alone.var[0] == pytest.approx(square - mean**2, rel=1e-9)
    assert law.cov[0, 1] == pytest.approx(cross - np.prod(law.mean[:2]), rel=1e-8)
    assert post.mean_scale == pytest.approx(brute(prior, False, lambda s2: s2)[1], rel=1e-9)
    np.testing.assert_allclose(post.var(XS), alone.var - NOISE, rtol=1e-10)
    np.testing.assert_allclose(np.diag(post.cov(XS)), post.var(XS), rtol=1e-9)
    at = post.quantile(XS, 0.9, noise=True)
    np.testing.assert_allclose(alone.cdf(at), 0.9, rtol=1e-12)
    np.testing.assert_allclose(law.quantile(0.9), at, rtol=1e-10)
    np.testing.assert_allclose(law.pointwise(YS), alone.pointwise(YS), rtol=1e-10)
    np.testing.assert_allclose(law.interval(0.8)[1], at, rtol=1e-10)


def test_unscaled_samples_and_outputs():
    y = np.stack([Y, Y[::-1]], axis=1)
    post = ScaleMixture(rbf, BurrXII(2.0, 1.5), NOISE, noise_scaled=False).condition(X, y)
    n = 4000
    draws, law = post.sample(1, XS, n, noise=True), post.marginals(XS, noise=True)
    assert draws.shape == (n, 3, 2)
    assert law.mean.shape == law.var.shape == (3, 2)
    assert post.cov(XS).shape == (2, 3, 3)
    for i in range(3):
        for c in range(2):
            at = np.sort(draws[:, i, c])
            grid = np.broadcast_to(at[:: n // 50, None, None], (50, 3, 2))
            cdf = np.array([law.cdf(row)[i, c] for row in grid])
            # 50 points of a KS statistic: 1.95 / sqrt(n) is exceeded with probability 1e-3
            assert np.abs(cdf - np.arange(0, n, n // 50) / n).max() < 1.95 / np.sqrt(n)
    np.testing.assert_allclose(post.mean(XS), law.mean, rtol=1e-11)
    # a single scale: the outputs of one draw share it
    again = jax.tree.map(lambda leaf: leaf, post)
    np.testing.assert_array_equal(again.mean(XS), post.mean(XS))


def test_unscaled_noise_per_point():
    noise = np.linspace(0.05, 0.4, 7)
    post = ScaleMixture(rbf, LogNormal(0.3, 1e-4), noise, noise_scaled=False).condition(X, Y)
    scale = np.exp(0.3)
    plain = GP(lambda x, z=None: scale * rbf(x, z), noise=noise).condition(X, Y)
    # a law of the scale of width 1e-4 moves second-order quantities by 1e-8
    assert post.log_evidence == pytest.approx(plain.log_evidence, abs=1e-6)
    np.testing.assert_allclose(post.mean(XS), plain.mean(XS), rtol=1e-6)
    np.testing.assert_allclose(post.cov(XS), plain.cov(XS), rtol=1e-5, atol=1e-8)
    with pytest.raises(DomainError, match="noise at Xs is unknown"):
        post.predict(XS, noise=True)


def test_tricomi_evidence_of_beta_prime_laws():
    """The evidence of beta-prime laws is Tricomi's confluent hypergeometric function."""
    k = K + NOISE * np.eye(7)
    q, log_det = float(Y @ np.linalg.solve(k, Y)), float(np.linalg.slogdet(k)[1])
    for alpha, beta in [(0.5, 0.5), (1.0, 2.0), (3.0, 0.4)]:
        with mp.workdps(30):
            u = mp.hyperu(mp.mpf("3.5") + beta, mp.mpf("4.5") - alpha, mp.mpf(q) / 2)
            exact = mp.loggamma(mp.mpf("3.5") + beta) + mp.log(u) - mp.log(mp.beta(alpha, beta))
            exact -= mp.mpf("3.5") * mp.log(2 * mp.pi) + log_det / 2
        post = ScaleMixture(rbf, BetaPrime(alpha, beta), NOISE).condition(X, Y)
        assert post.log_evidence == pytest.approx(float(exact), rel=1e-12)
    lomax = ScaleMixture(rbf, BurrXII(1.0, 2.0), NOISE).condition(X, Y).log_evidence
    same = ScaleMixture(rbf, BetaPrime(1.0, 2.0), NOISE).condition(X, Y).log_evidence
    assert lomax == pytest.approx(same, rel=1e-13)


def test_scale_invariant_prior():
    """p(s2) = 1/s2 gives log Gamma(n/2) - n/2 log(pi q) - log det / 2, and IG(n/2, q/2)."""
    flat = LogDensity(lambda s2: -np.log(s2), normalise=False)
    post = ScaleMixture(rbf, flat, NOISE).condition(X, Y)
    k = K + NOISE * np.eye(7)
    q, log_det = float(Y @ np.linalg.solve(k, Y)), float(np.linalg.slogdet(k)[1])
    exact = float(mp.loggamma(3.5)) - 3.5 * np.log(np.pi * q) - log_det / 2
    assert post.log_evidence == pytest.approx(exact, rel=1e-12)
    law = InverseGamma(3.5, q / 2)
    assert post.mean_scale == pytest.approx(law.mean, rel=1e-12)
    assert post.scale_posterior.moment(-1.0) == pytest.approx(law.moment(-1.0), rel=1e-12)


def test_quadrature_equals_the_closed_form():
    prior = InverseGamma(1.7, 2.3)
    closed = ScaleMixture(rbf, prior, NOISE).condition(X, Y)
    quad = ScaleMixture(rbf, LogDensity(lambda s2: -2.7 * np.log(s2) - 2.3 / s2), NOISE).condition(
        X, Y
    )
    assert closed.log_evidence == pytest.approx(quad.log_evidence, abs=1e-11)
    a, b = closed.predict(XS, noise=True), quad.predict(XS, noise=True)
    assert a.log_prob(YS) == pytest.approx(b.log_prob(YS), abs=1e-11)
    np.testing.assert_allclose(a.cov, b.cov, rtol=1e-11)
    np.testing.assert_allclose(a.quantile(0.01), b.quantile(0.01), rtol=1e-10)


def test_many_data_make_a_narrow_peak():
    x = np.random.default_rng(1).normal(size=(500, 2))
    k = rbf(x) + np.eye(500)
    y = np.linalg.cholesky(k) @ np.random.default_rng(2).normal(size=500) * 1e3
    post = ScaleMixture(rbf, BurrXII(2.0, 1.5), noise=1.0).condition(x, y)
    assert post.error < 1e-10  # rounding of a log density of size 4e3
    # E[s2 | y] = q / n up to 1/n, a million here, far from where the prior has its weight
    q = float(np.sum(post.base.white**2))
    assert post.mean_scale == pytest.approx(q / 500, rel=0.03)
    tilted = integrate(
        lambda u: density_of_log(BurrXII(2.0, 1.5), u) - 250 * u - q / 2 * np.exp(-u), "x", reach=60
    )
    assert tilted.log_integral == pytest.approx(post.scale_posterior.log_integral, abs=1e-10)


# --- evidence as a function


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("prior", [InverseGamma(1.7, 2.3), BurrXII(2.0, 1.5)])
def test_evidence_gradients(prior, scaled):
    def value(noise, law):
        return mixture_log_evidence(K, Y, noise, law, noise_scaled=scaled)

    def exact(noise, *parameters):
        law = type(prior)(*parameters)
        return ScaleMixture(rbf, law, noise, noise_scaled=scaled).condition(X, Y).log_evidence

    found, (by_noise, by_law) = jax.jit(jax.value_and_grad(value, argnums=(0, 1)))(NOISE, prior)
    start = np.array([NOISE, *jax.tree.leaves(prior)])
    assert float(found) == pytest.approx(exact(*start), rel=1e-11)
    for i, slope in enumerate([by_noise, *jax.tree.leaves(by_law)]):
        step = 1e-4 * np.eye(len(start))[i]
        difference = (exact(*(start + step)) - exact(*(start - step))) / 2e-4
        # error of the central difference: step^2 times a third derivative, up to 1e3 for the noise
        assert float(slope) == pytest.approx(difference, rel=1e-5, abs=1e-6)


def test_bad_evidence():
    prior = BurrXII(2.0, 1.5)
    with pytest.raises(ShapeError, match=r"y must have shape \(7,\)"):
        mixture_log_evidence(K, Y[:3], NOISE, prior)
    with pytest.raises(DomainError, match="noise must be >= 0"):
        mixture_log_evidence(K, Y, -1.0, prior)
    with pytest.raises(DomainError, match="K must be symmetric"):
        mixture_log_evidence(np.tri(7), Y, NOISE, prior)
    with (
        jax.enable_x64(False),
        pytest.raises(PrecisionError, match=r"gp\.mixture_log_evidence needs float64"),
    ):
        mixture_log_evidence(K, Y, NOISE, prior)
    assert jnp.isnan(mixture_log_evidence(-K, Y, NOISE, InverseGamma(2.0, 2.0)))


def test_moments_after_little_data():
    post = ScaleMixture(rbf, BurrXII(0.6, 0.5), NOISE, noise_scaled=False).condition(X[:1], Y[:1])
    for query in (post.var, post.cov):  # tail of s2: 0.3 + 1/2 < 1
        with pytest.raises(MomentUndefinedError, match=r"E\[s2\] is infinite"):
            query(XS)
    assert np.isfinite(post.quantile(XS, 0.99)).all()


def test_joint_laws_that_do_not_fit_into_memory():
    post = ScaleMixture(rbf, BurrXII(2.0, 1.5), NOISE, noise_scaled=False).condition(X, Y)
    with pytest.raises(DomainError, match=r"joint law of 4000 points has \d+ covariance matrices"):
        post.predict(np.zeros((4000, 2)))
