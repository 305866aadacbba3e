import functools
from itertools import pairwise

import jax
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from deeplimits import DomainError, ShapeError
from gp.mixture_marginals import MarginalMixture
from gp.mixtures import ScaleMixture
from gp.pfn import expected_nll, one_step_nll, sample_sequences
from gp.pfn_histogram import histogram, mixture_entropy
from gp.pfn_hyper import HyperGP
from gp.predictive import Gaussian
from gp.process import GP
from gp.scale_priors import BurrXII, InverseGamma
from gp.target_kernels import RBF, Matern

RNG = np.random.default_rng(0)
X, Y = RNG.uniform(size=(12, 2)), RNG.normal(size=12)
MATERN = functools.partial(Matern, 2.5)
MODEL = GP(RBF(0.6), noise=0.01)


def uniform(d):
    return lambda key, n: jax.random.uniform(key, (n, d), np.float64)


# --- curves ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model", [MODEL, ScaleMixture(RBF(0.6), InverseGamma(1.5, 0.7), noise=0.01)]
)
def test_one_step_scores_are_refits(model):
    found = one_step_nll(model, X, Y)
    for i in range(1, 12):
        law = model.condition(X[:i], Y[:i]).predict(X[i : i + 1], noise=True)
        # the condition number is below 1e4
        assert found[i] == pytest.approx(-law.pointwise(Y[i : i + 1])[0], rel=1e-10, abs=1e-10)
    assert found.sum() == pytest.approx(-model.condition(X, Y).log_evidence, rel=1e-12)


# expected negative log density at context sizes, each from 400 sequences: values and their errors
REFERENCE = [
    (0.6, 1e-4, 1, [1, 5, 10, 20, 50, 100], [0.350, -2.386, -2.835, -3.021, -3.128, -3.155],
     [0.047, 0.038, 0.019, 0.010, 0.003, 0.001]),
    (0.6, 1e-4, 5, [1, 5, 10, 20, 50, 100], [1.316, 1.025, 0.826, 0.446, -0.174, -0.912],
     [0.006, 0.014, 0.015, 0.020, 0.023, 0.028]),
    (0.2, 0.01, 1, [1, 2, 5, 10, 20, 50], [1.078, 0.763, 0.084, -0.392, -0.665, -0.802],
     [0.015] * 6),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("ell", "noise", "d", "sizes", "values", "errors"), REFERENCE)
def test_reference_curve(ell, noise, d, sizes, values, errors):
    curve = expected_nll(GP(RBF(ell), noise=noise), sizes, uniform(d), key=d)
    # the reference is rounded to 3 digits
    z = (curve.mean - values) / np.hypot(curve.stderr, np.hypot(errors, 5e-4))
    assert np.abs(z).max() < 3.5  # 6 scores, correlated
    assert curve.floor == pytest.approx(0.5 * np.log(2 * np.pi * np.e * noise))
    assert np.all(curve.mean > curve.floor)
    assert np.all(np.diff(curve.mean) < 0)


def test_curve_at_one_point_by_integration():
    """Two uniform points have a distance of density 2 (1 - r)."""
    curve = expected_nll(GP(RBF(0.2), noise=0.01), [0, 1], uniform(1), key=3, draws=1500)
    assert curve.mean[0] == pytest.approx(0.5 * np.log(2 * np.pi * np.e * 1.01), rel=1e-12)
    assert curve.stderr[0] < 1e-12

    def integrand(r):
        var = 1.01 - np.exp(-(r**2) / 0.04) / 1.01
        return 2 * (1 - r) * 0.5 * np.log(2 * np.pi * np.e * var)

    expected = scipy.integrate.quad(integrand, 0, 1)[0]
    assert abs(curve.mean[1] - expected) < 4 * curve.stderr[1]


def test_wrong_model_against_simulation():
    truth, sizes = GP(MATERN(0.3), noise=0.05), [0, 3, 9]
    curve = expected_nll(MODEL, sizes, uniform(2), key=0, truth=truth, draws=200)
    x, y = sample_sequences(truth, uniform(2), 10, 400, key=1)
    plain = np.array([one_step_nll(MODEL, a, b)[sizes] for a, b in zip(x, y, strict=True)])
    error = np.hypot(curve.stderr, scipy.stats.sem(plain))
    assert np.abs((curve.mean - plain.mean(0)) / error).max() < 4
    right = expected_nll(truth, sizes, uniform(2), key=0, draws=200)
    assert np.all(curve.mean > right.mean)  # the divergence is positive
    assert curve.floor == pytest.approx(0.5 * np.log(2 * np.pi * 0.01) + 2.5)
    assert curve.plot().get_xlabel() == "context points"


def test_sequences_follow_their_prior():
    fixed = np.array([[0.0], [0.3], [1.0]])

    def inputs(key, n):
        return fixed[:n]

    n = 1000
    gaussian = sample_sequences(GP(RBF(0.5), noise=0.2), inputs, 3, n, key=0)[1]
    K = np.asarray(RBF(0.5)(fixed)) + 0.2 * np.eye(3)
    white = np.linalg.solve(np.linalg.cholesky(K), gaussian.T)
    for row in white:
        assert scipy.stats.kstest(row, "norm").pvalue > 1e-4
    correlation = np.corrcoef(white)[np.triu_indices(3, 1)]
    assert np.abs(correlation).max() < 4 / n**0.5
    relative = sample_sequences(GP(RBF(0.5), noise_rel=0.2), inputs, 3, n, key=0)[1]
    np.testing.assert_allclose(relative, gaussian, atol=1e-12)  # the kernel has variance 1
    model = ScaleMixture(RBF(0.5), InverseGamma(2.0, 3.0), noise=0.2)
    heavy = sample_sequences(model, inputs, 3, n, key=1)[1]
    white = np.linalg.solve(np.linalg.cholesky(K), heavy.T) / 1.5**0.5
    for row in white:
        assert scipy.stats.kstest(row, "t", (4.0,)).pvalue > 1e-4
    # one scale for all points: logarithms of squares correlate, by psi'(2) / (psi'(2) + psi'(1/2))
    shared, own = scipy.special.polygamma(1, [2.0, 0.5])
    found = np.corrcoef(np.log(white[0] ** 2), np.log(white[1] ** 2))[0, 1]
    assert abs(found - shared / (shared + own)) < 4 / n**0.5
    outside = ScaleMixture(RBF(0.5), InverseGamma(2.0, 3.0), noise=0.2, noise_scaled=False)
    y = sample_sequences(outside, inputs, 3, n, key=1)[1]
    assert not np.allclose(y, heavy)


# --- histograms -----------------------------------------------------------------------------------

BORDERS = np.array([-1.5, -0.6, -0.1, 0.2, 0.9, 1.4])
HIST = histogram(BORDERS, RNG.normal(size=(4, 5)))


def test_histogram_is_a_density():
    left, right = HIST.scales
    for i in range(4):

        def density(y, i=i):
            points = np.zeros(4)
            points[i] = y
            return np.exp(HIST.log_density(points)[i])

        parts = [(-15, -0.6), (-0.6, -0.1), (-0.1, 0.2), (0.2, 0.9), (0.9, 15)]
        masses = [scipy.integrate.quad(density, *ends)[0] for ends in parts]
        np.testing.assert_allclose(masses, np.exp(HIST.log_probs[i]), atol=1e-7)  # quad
        # half of the tails within their bars
        inside = scipy.integrate.quad(density, -1.5, -0.6)[0]
        assert inside == pytest.approx(0.5 * np.exp(HIST.log_probs[i, 0]), rel=1e-7)
    assert left == pytest.approx(0.9 / 0.674489750196)
    assert right == pytest.approx(0.5 / 0.674489750196)


def nodes_between(marks, panels=20):
    """Gauss-Legendre nodes and weights, 40 on each panel."""
    y, w = np.polynomial.legendre.leggauss(40)
    edges = np.unique(np.concatenate([np.linspace(*pair, panels) for pair in pairwise(marks)]))
    half, middle = np.diff(edges) / 2, (edges[1:] + edges[:-1]) / 2
    return (middle[:, None] + half[:, None] * y).ravel(), (half[:, None] * w).ravel()


def test_divergence_against_quadrature():
    mean, var = np.array([-2.0, 0.0, 0.3, 3.0]), np.array([0.2, 1e-4, 1.0, 0.5])
    found = HIST.kl_from(Gaussian(mean, np.diag(var)))
    loc = np.stack([mean, mean + 0.4])[:, :, None]
    mixture = MarginalMixture(np.log([0.3, 0.7]), loc, np.sqrt(np.stack([var, 2 * var])))
    mixed, entropy = HIST.kl_from(mixture), mixture_entropy(mixture)
    for i in range(4):
        sd = var[i] ** 0.5
        cuts = np.array([mean[i], mean[i] + 0.4, *BORDERS[1:-1]])
        low, high = mean[i] - 12 * sd, mean[i] + 0.4 + 17 * sd
        y, w = nodes_between(np.unique([low, high, *cuts[(cuts > low) & (cuts < high)]]))
        log_q = histogram(BORDERS, np.repeat(HIST.log_probs[i : i + 1], len(y), 0)).log_density(y)
        log_p = scipy.stats.norm.logpdf(y, mean[i], sd)
        second = scipy.stats.norm.logpdf(y, mean[i] + 0.4, 2**0.5 * sd)
        log_mix = np.logaddexp(np.log(0.3) + log_p, np.log(0.7) + second)
        # panels are below a standard deviation: Gauss-Legendre is exact to rounding
        assert found[i] == pytest.approx(w @ (np.exp(log_p) * (log_p - log_q)), rel=1e-9)
        assert mixed[i] == pytest.approx(w @ (np.exp(log_mix) * (log_mix - log_q)), rel=1e-9)
        assert entropy[i] == pytest.approx(-w @ (np.exp(log_mix) * log_mix), abs=1e-9)
    single = MarginalMixture(np.zeros(1), loc[:1], mixture.width[:1])
    np.testing.assert_allclose(mixture_entropy(single), 0.5 * np.log(2 * np.pi * np.e * var))
    np.testing.assert_allclose(HIST.kl_from(single), found, rtol=1e-9)


def test_fine_histogram_of_the_exact_law_loses_little():
    borders = np.linspace(-6, 6, 401)
    probs = np.diff(scipy.special.ndtr(borders))
    law = Gaussian(np.zeros(1), np.eye(1))
    kl = histogram(borders, np.log(probs)).kl_from(law)[0]
    # within a bar of width w the log density varies by x w: its variance over 2, x^2 w^2 / 24
    assert kl == pytest.approx(0.03**2 / 24, rel=0.01)  # tails beyond the last bars: e^-18


# --- hyper-priors ---------------------------------------------------------------------------------


def gamma(shape, rate):
    return scipy.stats.gamma(shape, scale=1 / rate)


LAWS = (gamma(3, 6), gamma(0.5, 0.15), gamma(1.1, 0.05))


def test_hyper_posterior_by_brute_force():
    x, y, new = X[:3], 2 * Y[:3], X[3:5]
    post = HyperGP(MATERN, *LAWS).condition(x, y)
    law = post.predict(new)
    # self-normalised importance sampling from the prior
    n = 60_000
    draws = [p.rvs(n, random_state=np.random.default_rng(i)) for i, p in enumerate(LAWS)]
    every = np.concatenate([x, new])
    away = np.linalg.norm(every[:, None] - every, axis=-1)
    u = 5**0.5 * away / draws[0][:, None, None]
    K = draws[1][:, None, None] * (1 + u + u**2 / 3) * np.exp(-u)
    Kn = K[:, :3, :3] + draws[2][:, None, None] * np.eye(3)
    solved = np.linalg.solve(Kn, np.broadcast_to(y, (n, 3))[..., None])[..., 0]
    like = np.exp(-0.5 * solved @ y - 0.5 * np.linalg.slogdet(2 * np.pi * Kn)[1])
    error = like.std() / n**0.5
    assert abs(np.exp(post.log_evidence) - like.mean()) < 4 * error
    assert post.error < 1e-3
    mean = np.einsum("nij,nj->ni", K[:, 3:, :3], solved)
    gain = np.linalg.solve(Kn, K[:, :3, 3:])
    var = np.einsum("nii->ni", K[:, 3:, 3:] - K[:, 3:, :3] @ gain) + draws[2][:, None]
    for f, value in ((mean, law.mean), (mean**2 + var, law.var + law.mean**2)):
        average = like @ f / like.sum()
        spread = np.sqrt(np.sum((like[:, None] * (f - average)) ** 2, axis=0)) / like.sum()
        assert np.abs((average - value) / spread).max() < 4
    theta = like @ np.stack(draws, 1) / like.sum()
    spread = np.sqrt(np.sum((like[:, None] * (np.stack(draws, 1) - theta)) ** 2, axis=0))
    assert np.abs((theta - post.mean_parameters) / (spread / like.sum())).max() < 4
    inner = post.predict(new, noise=False)
    np.testing.assert_allclose(law.var - inner.var, post.mean_parameters[2], rtol=1e-10)


def test_quadrature_converges_and_has_the_sharp_limit():
    coarse, fine = (HyperGP(RBF, *LAWS, nodes=j).condition(X, Y) for j in (33, 57))
    assert abs(coarse.log_evidence - fine.log_evidence) < max(coarse.error, 1e-9)
    assert fine.error < coarse.error
    narrow = [scipy.stats.lognorm(1e-3, scale=v) for v in (0.4, 1.3, 0.2)]
    sharp = HyperGP(RBF, *narrow).condition(X, Y)
    plain = GP(lambda a, b=None: 1.3 * RBF(0.4)(a, b), noise=0.2).condition(X, Y)
    # a width of 1e-3 in the logarithm moves the evidence by its curvature times 1e-6
    assert sharp.log_evidence == pytest.approx(plain.log_evidence, abs=1e-4)
    np.testing.assert_allclose(sharp.predict(X[:4]).mean, plain.mean(X[:4]), atol=1e-4)
    kl = histogram(np.linspace(-4, 4, 60), np.zeros(59)).kl_from(sharp.predict(X[:1]))
    assert kl[0] > 0


# --- arguments ------------------------------------------------------------------------------------


def test_bad_models():
    with pytest.raises(ShapeError, match=r"y must have shape \(n,\)"):
        one_step_nll(MODEL, X, Y[:, None])
    with pytest.raises(DomainError, match=r"with gp\.InverseGamma"):
        one_step_nll(ScaleMixture(RBF(1.0), BurrXII(2.0, 1.0), noise=0.1), X, Y)
    for sizes in ([-1], [0.5], []):
        with pytest.raises(DomainError, match="sizes must be whole"):
            expected_nll(MODEL, sizes, uniform(1), key=0)
    with pytest.raises(DomainError, match="draws must be >= 2"):
        expected_nll(MODEL, [1], uniform(1), key=0, draws=1)
    with pytest.raises(DomainError, match="one number as noise"):
        expected_nll(GP(RBF(1.0), noise_rel=0.1), [1], uniform(1), key=0)
    with pytest.raises(ShapeError, match="must return 2 rows"):
        expected_nll(MODEL, [1], lambda key, n: X, key=0)
    with pytest.raises(ShapeError, match="must return 2 rows"):
        sample_sequences(MODEL, lambda key, n: X, 2, 1, key=0)
    with pytest.raises(DomainError, match="model must be a"):
        sample_sequences(RBF(1.0), uniform(1), 2, 1, key=0)
    with pytest.raises(DomainError, match="no covariance"):
        sample_sequences(GP(lambda a, b=None: -np.eye(len(a))), uniform(1), 2, 1, key=0)


def test_bad_histograms():
    for borders, logits, error, message in [
        ([0, 1, 2], [0, 0], ShapeError, "B >= 3"),
        (BORDERS, np.zeros(4), ShapeError, "logits must have shape"),
        ([0, 1, 1, 2], np.zeros(3), DomainError, "borders must increase"),
        (BORDERS, [0, np.nan, 0, 0, 0], DomainError, "logits must be finite"),
    ]:
        with pytest.raises(error, match=message):
            histogram(borders, logits)
    with pytest.raises(ShapeError, match="y must have shape"):
        HIST.log_density([0.0])
    with pytest.raises(ShapeError, match="last axis of length 4"):
        HIST.cross_entropy(np.zeros(3), 1.0)
    with pytest.raises(DomainError, match="var must be > 0"):
        HIST.cross_entropy(np.zeros(4), 0.0)
    with pytest.raises(DomainError, match="law must be a"):
        HIST.kl_from(MODEL)


def test_bad_hyper_models():
    with pytest.raises(DomainError, match="correlation must be a function"):
        HyperGP(1.0, *LAWS)
    with pytest.raises(DomainError, match="noise must be a law"):
        HyperGP(RBF, LAWS[0], LAWS[1], 0.1)
    with pytest.raises(DomainError, match="nodes must be >= 9"):
        HyperGP(RBF, *LAWS, nodes=3)
    with pytest.raises(ShapeError, match=r"y must have shape \(n,\)"):
        HyperGP(RBF, *LAWS).condition(X, Y[:, None])
    with pytest.raises(DomainError, match="max_points"):
        HyperGP(RBF, *LAWS, max_points=5).condition(X, Y)
