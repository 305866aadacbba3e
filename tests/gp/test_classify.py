"""Classification against orthant probabilities, quadrature, dense algebra and Monte Carlo."""

import itertools
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

sys.path.insert(0, str(Path(__file__).parent))
from classify_reference import XS, K, X, log_orthant, rbf

from deeplimits import ConvergenceError, DomainError, NotPositiveDefiniteError, ShapeError
from gp.classify import Classifier, ClassPosterior, softmax_average
from gp.classify_mcmc import sample_classifier
from gp.expectation_propagation import probit_sites, probit_sites_at_scales
from gp.laplace import class_latent, softmax_mode
from gp.scale_density import LogDensity
from gp.scale_priors import BetaPrime, InverseGamma, LogNormal
from gp.scale_quadrature import ImproperPosteriorError, MomentUndefinedError


def every(n):
    return [np.array(t, float) for t in itertools.product([-1, 1], repeat=n)]


# --- expectation propagation


@pytest.mark.parametrize("variance", [1e-8, 0.7, 50.0])
def test_ep_is_exact_for_one_point(variance):
    """One factor: evidence, mean and variance are those of the exact posterior."""
    sites = probit_sites(jnp.array([[variance]]), jnp.array([1.0]))
    assert float(sites.log_evidence) == pytest.approx(np.log(0.5), rel=1e-13)
    mean = variance * float(sites.weights[0])
    # E f under N(0, v) Phi(f) / (1/2) = 2 v phi(0) / sqrt(1 + v); E f^2 = v by symmetry
    exact = variance * np.sqrt(2 / np.pi) / np.sqrt(1 + variance)
    assert mean == pytest.approx(exact, rel=1e-9)  # sites stop moving at 1e-10
    var = variance / (1 + variance * float(sites.tau[0]))
    assert var == pytest.approx(variance - exact**2, rel=1e-8)


def test_ep_sites_reproduce_the_tilted_moments():
    """The fixed point, with the moments of N(f; cavity) Phi(t f) by quadrature."""
    t = np.array([1.0, -1.0, 1.0])
    sites = probit_sites(jnp.asarray(K), jnp.asarray(t))
    tau, nu = np.asarray(sites.tau), np.asarray(sites.nu)
    cov = np.linalg.inv(np.linalg.inv(K) + np.diag(tau))
    mean, total = cov @ nu, 0.0
    for i in range(3):
        precision = 1 / cov[i, i] - tau[i]
        centre = (mean[i] / cov[i, i] - nu[i]) / precision
        cavity = scipy.stats.norm(centre, precision**-0.5)

        def moment(power, i=i, cavity=cavity):
            f = lambda x: x**power * cavity.pdf(x) * scipy.stats.norm.cdf(t[i] * x)  # noqa: E731
            return scipy.integrate.quad(f, -12, 12, epsabs=1e-13, limit=200)[0]

        zero, first, second = (moment(k) for k in range(3))
        assert mean[i] == pytest.approx(first / zero, abs=1e-9)  # quadrature and 1e-10 of the sites
        assert cov[i, i] == pytest.approx(second / zero - (first / zero) ** 2, abs=1e-9)
        alone = lambda x, i=i, c=cavity: c.pdf(x) * np.exp(nu[i] * x - tau[i] * x * x / 2)  # noqa: E731
        total += np.log(zero) - np.log(scipy.integrate.quad(alone, -12, 12, limit=200)[0])
    joint = 0.5 * nu @ mean - 0.5 * np.linalg.slogdet(np.eye(3) + K * tau)[1]
    assert float(sites.log_evidence) == pytest.approx(total + joint, abs=1e-9)


def test_ep_evidence_against_orthants():
    values = [float(probit_sites(jnp.asarray(K), jnp.asarray(t)).log_evidence) for t in every(3)]
    exact = [log_orthant(K, t) for t in every(3)]
    # expectation propagation itself: 1.7e-3 at most for these three points, measured
    np.testing.assert_allclose(values, exact, atol=3e-3)
    assert np.exp(values).sum() == pytest.approx(1, abs=3e-3)
    # uncorrelated points: every factor alone, where it is exact
    alone = probit_sites(jnp.diag(jnp.array([0.1, 2.0, 30.0])), jnp.array([1.0, -1.0, 1.0]))
    assert float(alone.log_evidence) == pytest.approx(3 * np.log(0.5), rel=1e-12)


@pytest.mark.parametrize("labels", [[1, 0, 1], [1, 1, 0]])
def test_probabilities_against_orthants(labels):
    t = 2.0 * np.array(labels) - 1
    post = Classifier(rbf).condition(X, labels)
    exact = []
    for x in XS:
        joint = rbf(np.vstack([X, x[None]]))
        exact.append(np.exp(log_orthant(joint, np.append(t, 1.0)) - log_orthant(K, t)))
    # expectation propagation: 1e-3, measured
    np.testing.assert_allclose(post.predict_proba(XS)[:, 1], exact, atol=3e-3)
    np.testing.assert_allclose(post.predict_proba(XS).sum(1), 1, rtol=1e-14)
    assert post.info.method == "ep"


def test_flipping_all_labels_flips_the_predictions():
    post = Classifier(rbf).condition(X, [1, 0, 1])
    flip = Classifier(rbf).condition(X, [0, 1, 0])
    assert post.log_evidence == pytest.approx(flip.log_evidence, rel=1e-13)
    np.testing.assert_allclose(post.predict_proba(XS), flip.predict_proba(XS)[:, ::-1], rtol=1e-12)
    np.testing.assert_allclose(post.latent(XS).mean, -flip.latent(XS).mean, rtol=1e-12)
    np.testing.assert_allclose(post.latent(XS).var, flip.latent(XS).var, rtol=1e-12)
    order = [2, 0, 1]
    moved = Classifier(rbf).condition(X[order], np.array([1, 0, 1])[order])
    np.testing.assert_allclose(moved.predict_proba(XS), post.predict_proba(XS), rtol=1e-10)
    far = np.full((1, 2), 1e3)
    np.testing.assert_array_equal(post.predict_proba(far), [[0.5, 0.5]])


def test_duplicates_and_contradictory_labels():
    """One point three times: a singular kernel; the exact answer is a one-dimensional integral."""
    x = np.repeat(X[:1], 3, axis=0)

    def moment(labels, power):
        f = lambda u: (  # noqa: E731
            u**power
            * scipy.stats.norm.pdf(u, scale=1.5**0.5)
            * np.prod(scipy.stats.norm.cdf(np.outer(2 * np.array(labels) - 1, [u])))
        )
        return scipy.integrate.quad(f, -12, 12)[0]

    for labels in ([1, 1, 1], [1, 0, 1]):
        post = Classifier(rbf).condition(x, labels, classes=(0, 1))
        # expectation propagation: 7e-3 for the contradictory labels, measured; no jitter is needed
        assert post.log_evidence == pytest.approx(np.log(moment(labels, 0)), abs=1e-2)
        assert post.info.n == 3
        exact = moment(labels, 1) / moment(labels, 0)
        assert post.latent(x[:1]).mean[0] == pytest.approx(exact, abs=1e-2)
    balanced = Classifier(rbf).condition(x[:2], [1, 0])
    assert balanced.latent(x[:1]).mean[0] == pytest.approx(0, abs=1e-14)
    assert balanced.predict_proba(x[:1])[0, 0] == pytest.approx(0.5, abs=1e-14)


# --- softmax


def dense_mode(labels):
    """Mode by damped Newton on the joint (nC) problem with explicit matrices."""
    count = labels.shape[0]
    prior = np.kron(np.eye(count), K)
    f = np.zeros(3 * count)
    for _ in range(60):
        p = scipy.special.softmax(f.reshape(count, 3), axis=0)
        W = np.diag(p.ravel())
        for i in range(3):
            at = 3 * np.arange(count) + i
            W[np.ix_(at, at)] -= np.outer(p[:, i], p[:, i])
        gradient = labels.ravel() - p.ravel() - np.linalg.solve(prior, f)
        f = f + np.linalg.solve(np.linalg.inv(prior) + W, gradient)
    return f, W, prior, p


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.optimized
def test_laplace_against_dense_algebra(count):
    labels = np.eye(count)[:, [0, 1, 0]]
    mode = softmax_mode(jnp.asarray(K), jnp.asarray(labels), jnp.zeros((count, 3)))
    f, W, prior, _ = dense_mode(labels)
    log_lik = np.sum(labels * f.reshape(count, 3))
    log_lik -= scipy.special.logsumexp(f.reshape(count, 3), axis=0).sum()
    value = log_lik - 0.5 * f @ np.linalg.solve(prior, f)
    value -= 0.5 * np.linalg.slogdet(np.eye(3 * count) + prior @ W)[1]
    # Newton stops at 1e-13 nats per point, 1e-7 from the mode before a last quadratic step; the
    # determinant is linear in what is left
    assert float(mode.log_evidence) == pytest.approx(value, abs=1e-9)
    weights = np.asarray(mode.weights)[None]
    args = K, labels - weights, weights, np.ones(1), rbf(XS, X), np.diag(rbf(XS))
    mean, cov = class_latent(*map(jnp.asarray, args))
    cross = np.kron(np.eye(count), rbf(XS, X))
    exact = cross @ np.linalg.solve(prior, f)
    np.testing.assert_allclose(np.asarray(mean)[0].T.ravel(), exact, atol=1e-10)
    middle = W - W @ np.linalg.inv(np.linalg.inv(prior) + W) @ W
    joint = np.kron(np.eye(count), rbf(XS)) - cross @ middle @ cross.T
    for i in range(2):
        at = 2 * np.arange(count) + i
        np.testing.assert_allclose(np.asarray(cov)[0, i], joint[np.ix_(at, at)], atol=1e-10)


def test_laplace_is_exact_for_small_functions():
    """Its error is of second order in the kernel, so that ten times less kernel: 100 times less."""
    node, weight = np.polynomial.hermite_e.hermegauss(60)
    weight = weight / weight.sum()
    gaps = []
    for scale in (0.05, 0.005):
        # two classes and one doubled point: only d = f_2 - f_1 matters, with variance 2 * scale
        d = np.sqrt(2 * scale) * node
        exact = np.log(np.sum(weight * scipy.special.expit(d) ** 2 * scipy.special.expit(-d)))
        k = jnp.full((3, 3), scale)
        labels = jnp.asarray(np.eye(2)[:, [1, 1, 0]])
        gaps.append(float(softmax_mode(k, labels, jnp.zeros((2, 3))).log_evidence) - exact)
    assert abs(gaps[0]) < 1e-3
    assert gaps[0] / gaps[1] == pytest.approx(100, rel=0.2)  # corrections of relative order scale


def test_softmax_average():
    # two classes: one-dimensional integral of the logistic function
    node, weight = np.polynomial.hermite_e.hermegauss(120)
    mean, cov = np.array([0.3, -0.8]), np.array([[1.3, 0.4], [0.4, 0.9]])
    spread = np.sqrt(cov[0, 0] + cov[1, 1] - 2 * cov[0, 1])
    exact = weight / weight.sum() @ scipy.special.expit(1.1 + spread * node)
    found = softmax_average(mean[None], cov[None])[0]
    assert found[0] == pytest.approx(exact, abs=1e-3)  # 1024 quasi-random points
    ten = softmax_average(np.zeros((1, 10)), np.eye(10)[None])
    np.testing.assert_allclose(ten, 0.1, atol=2e-3)
    np.testing.assert_allclose(ten.sum(), 1, rtol=1e-14)


@pytest.mark.parametrize(("likelihood", "method"), [("softmax", "laplace"), ("auto", "ep")])
def test_three_classes(likelihood, method):
    model = Classifier(rbf, likelihood)
    post = model.condition(X, ["b", "a", "c"])
    p = post.predict_proba(XS)
    assert p.shape == (2, 3)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-13)
    assert post.info.method == method
    # the value at a training point favours its own label
    np.testing.assert_array_equal(post.predict(X), ["b", "a", "c"])
    assert post.latent(XS).mean.shape == post.latent(XS).var.shape == (2, 3)
    # renaming classes permutes columns; quasi-random points are not symmetric: their error
    moved = model.condition(X, ["a", "c", "b"]).predict_proba(XS)
    np.testing.assert_allclose(moved[:, [2, 0, 1]], p, atol=2e-3)
    far = post.predict_proba(np.full((1, 2), 1e3))
    np.testing.assert_allclose(far, 1 / 3, atol=2e-3)
    more = model.condition(X, ["b", "a", "c"], classes=["a", "b", "c", "d"])
    assert more.predict_proba(XS).shape == (2, 4)
    assert (more.predict_proba(X)[:, 3] < 0.25).all()


# --- random scales


def test_random_scale_by_brute_force():
    """Two points: p(equal labels | s2) = 1/4 + arcsin(rho) / (2 pi), rho = s2 k / (1 + s2 v)."""
    x = X[:2]
    k, v = rbf(x)[0, 1], 1.5

    def orthant(u, sign):
        rho = np.exp(u) * k / (1 + v * np.exp(u))
        return 0.25 + sign * np.arcsin(rho) / (2 * np.pi)

    def exact(prior, sign):
        f = lambda u: orthant(u, sign) * np.exp(prior.log_density_of_log(u))  # noqa: E731
        return np.log(scipy.integrate.quad(f, -40, 60, limit=500, points=[0, 2])[0])

    u = np.linspace(-6, 30, 32)
    for labels, sign in (([1, 1], 1), ([0, 1], -1)):
        t = jnp.asarray(2.0 * np.array(labels) - 1)
        each = probit_sites_at_scales(jnp.asarray(rbf(x)), t, jnp.exp(jnp.asarray(u)))
        worst = np.abs(np.asarray(each.log_evidence) - np.log(orthant(u, sign))).max()
        assert worst < 0.03  # expectation propagation for two points, largest for large scales
        for prior in (InverseGamma(2.0, 2.0), BetaPrime(0.5, 0.5)):
            post = Classifier(rbf, prior=prior).condition(x, labels, classes=(0, 1))
            assert post.error < 1e-6
            # an average of evidences is as wrong as the worst of them, at most
            assert post.log_evidence == pytest.approx(exact(prior, sign), abs=worst)


def test_random_scale_is_an_average_over_scales():
    prior = InverseGamma(2.0, 2.0)
    post = Classifier(rbf, prior=prior).condition(X, [1, 0, 1])
    # Gauss-Legendre in log s2, a rule of its own, over classifiers without a random scale
    node, weight = np.polynomial.legendre.leggauss(40)
    u = 4 + 8 * node
    height, p, mean, square = [], [], [], []
    for scale in np.exp(u):
        one = Classifier(lambda a, b=None, s=scale: s * rbf(a, b)).condition(X, [1, 0, 1])
        height.append(one.log_evidence)
        p.append(one.predict_proba(XS)[:, 1])
        mean.append(one.latent(XS).mean)
        square.append(one.latent(XS).var + one.latent(XS).mean ** 2)
    each = 8 * weight * np.exp(prior.log_density_of_log(u) + np.array(height))
    # prior density outside [-4, 12]: e^-24 on the right, less on the left
    assert post.log_evidence == pytest.approx(np.log(each.sum()), abs=1e-6)
    each = each / each.sum()
    np.testing.assert_allclose(post.predict_proba(XS)[:, 1], each @ np.array(p), atol=1e-6)
    np.testing.assert_allclose(post.latent(XS).mean, each @ np.array(mean), rtol=1e-4)
    # tails of E[s2]: s2^-2 ds2 is cut at e^9 by one rule and at e^12 by the other
    second = each @ np.array(square) - (each @ np.array(mean)) ** 2
    np.testing.assert_allclose(post.latent(XS).var, second, rtol=1e-3)


def test_narrow_law_of_the_scale():
    three = Classifier(lambda a, b=None: 2 * rbf(a, b)).condition(X, ["b", "a", "c"])
    narrow = LogNormal(np.log(2.0), 1e-3)
    mixed = Classifier(rbf, prior=narrow).condition(X, ["b", "a", "c"])
    # a spread of 1e-3 in log s2: second derivatives of order one times 1e-6 / 2
    assert mixed.log_evidence == pytest.approx(three.log_evidence, abs=1e-5)
    got, want = mixed.latent(XS), three.latent(XS)
    np.testing.assert_allclose(got.mean, want.mean, atol=1e-5)
    np.testing.assert_allclose(got.var, want.var, atol=1e-5)
    # the averages are taken over different quasi-random points, with errors of about 1e-3
    np.testing.assert_allclose(mixed.predict_proba(XS), three.predict_proba(XS), atol=3e-3)
    assert mixed.scale_posterior.mean == pytest.approx(2.0, rel=1e-4)


def test_clear_labels_raise_the_scale():
    x = np.linspace(-2, 2, 12)[:, None]
    clear, noisy = (x[:, 0] > 0).astype(int), np.tile([0, 1, 1, 0], 3)
    scales = [
        Classifier(rbf, prior=InverseGamma(2.0, 2.0)).condition(x, labels).scale_posterior.mean
        for labels in (clear, noisy)
    ]
    assert scales[0] > 2 > scales[1]  # the prior mean is 2


# --- interface and bad input


def test_records_and_dtypes():
    post = Classifier(rbf).condition(X, [True, False, True])
    again = jax.tree.map(lambda leaf: leaf, post)
    assert isinstance(again, ClassPosterior)
    np.testing.assert_array_equal(again.predict_proba(XS), post.predict_proba(XS))
    with jax.enable_x64(False):
        plain = Classifier(rbf).condition(X, [True, False, True])
        np.testing.assert_array_equal(plain.predict_proba(XS), post.predict_proba(XS))
    rough = Classifier(rbf).condition(X.astype(np.float32), [1, 0, 1])
    assert rough.info.dtype == "float32"
    # float32 rounding of the kernel
    np.testing.assert_allclose(rough.predict_proba(XS), post.predict_proba(XS), atol=1e-6)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"kernel": 3}, "kernel must be a callable"),
        ({"likelihood": "logit"}, "likelihood must be one of 'auto', 'probit', 'softmax'"),
        ({"prior": 2.0}, "prior must be a law of the scale"),
        ({"max_points": 0}, "max_points must be >= 1"),
    ],
)
def test_bad_models(kwargs, match):
    with pytest.raises(DomainError, match=match):
        Classifier(**{"kernel": rbf, **kwargs})


@pytest.mark.parametrize(
    ("labels", "error", "match"),
    [
        ([1, 0], ShapeError, r"labels must have shape \(3,\)"),
        ([[1], [0], [1]], ShapeError, r"labels must have shape \(3,\).*got \(3, 1\)"),
        ([1.0, np.nan, 0.0], DomainError, "finite numbers"),
        ([1j, 0, 1], DomainError, "got dtype complex128"),
        ([1, 1, 1], DomainError, r"labels hold 1 class; pass classes="),
    ],
)
def test_bad_labels(labels, error, match):
    for call in (
        Classifier(rbf).condition,
        lambda x, t: sample_classifier(Classifier(rbf), x, t, key=0),
    ):
        with pytest.raises(error, match=match):
            call(X, labels)


def test_bad_data_and_queries():
    with pytest.raises(DomainError, match=re.escape("labels hold [2], not among classes=[0, 1]")):
        Classifier(rbf).condition(X, [0, 1, 2], classes=[0, 1])
    with pytest.raises(DomainError, match="more than max_points=2"):
        Classifier(rbf, max_points=2).condition(X, [0, 1, 1])
    with pytest.raises(NotPositiveDefiniteError, match="the kernel matrix of X"):
        Classifier(lambda x, z=None: -rbf(x, z)).condition(X, [0, 1, 1])
    with pytest.raises(ShapeError, match=r"X must have shape \(n, d\)"):
        Classifier(rbf).condition(X[:, 0], [0, 1, 1])
    improper = LogDensity(lambda s2: -np.log(s2), normalise=False)
    with pytest.raises(ImproperPosteriorError, match="the scale prior diverges"):
        Classifier(rbf, prior=improper).condition(X, [0, 1, 1])
    post = Classifier(rbf).condition(X, [0, 1, 1])
    draws = sample_classifier(Classifier(rbf), X, [1, 0, 1], key=3, draws=600, thin=2, warmup=50)
    for query in (post.predict_proba, post.predict, post.latent, draws.predict_proba):
        with pytest.raises(ShapeError, match="Xs and X must agree"):
            query(np.ones((2, 3)))
    heavy = Classifier(rbf, prior=BetaPrime(0.5, 0.5)).condition(X[:2], [0, 1])
    with pytest.raises(MomentUndefinedError, match="variance of the latent function"):
        heavy.latent(XS)
    with pytest.raises(DomainError, match="chains must be >= 2"):
        sample_classifier(Classifier(rbf), X, [0, 1, 1], key=0, chains=1)
    with pytest.raises(DomainError, match="key must be"):
        sample_classifier(Classifier(rbf), X, [0, 1, 1], key="a")


def test_an_approximation_that_does_not_converge_is_refused():
    x = np.linspace(-1, 1, 12)[:, None]
    huge = Classifier(lambda a, b=None: 1e12 * rbf(a, b), "softmax")
    with pytest.raises(ConvergenceError, match="did not converge"):
        huge.condition(x, np.tile([0, 1, 2], 4))
