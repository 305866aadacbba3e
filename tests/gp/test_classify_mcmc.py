"""Elliptical slice sampling of classifiers against orthants, quadrature and exact densities."""

import sys
from functools import partial
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

from gp.classify import Classifier, probit_probabilities
from gp.classify_mcmc import _log_likelihood, _quantiles, sample_classifier
from gp.scale_priors import BetaPrime, BurrXII, InverseGamma, LogNormal
from gp.scale_quantiles import quantile_table


def log_likelihood(prior, root, index, z, g, probit=True):
    data = {"root": root, "index": np.array(index), **_quantiles(prior)}
    with jax.numpy_dtype_promotion("standard"):  # as the sampler, which blackjax needs
        position = jnp.asarray(z), jnp.array([g])
        return float(_log_likelihood(jax.tree.map(jnp.asarray, data), probit, position))


def test_likelihood_at_given_scale():
    """The latent function is the root of the scale times the unit one; the scale by SciPy."""
    root, z = np.linalg.cholesky(K), np.array([0.3, -1.2, 0.8])
    law = scipy.stats.invgamma(2.5, scale=1.5)
    for g in (-6.3, -1.1, 0.3, 1.7, 5.9):
        tail = scipy.stats.norm.sf(abs(g))
        s2 = law.isf(tail) if g > 0 else law.ppf(tail)
        signed = np.array([1.0, -1.0, 1.0]) * np.sqrt(s2) * (root @ z)
        found = log_likelihood(InverseGamma(2.5, 1.5), root, [1, 0, 1], z[:, None], g)
        expected = scipy.special.log_ndtr(signed).sum()
        # fourth order in 1/64 over 384: 1.5e-10 times fourth derivatives and slopes of order 10
        assert found == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(
    ("prior", "law"),
    [
        (LogNormal(0.3, 0.7), scipy.stats.lognorm(0.7, scale=np.exp(0.3))),
        (BetaPrime(0.5, 0.5), scipy.stats.betaprime(0.5, 0.5)),
        (BurrXII(2.0, 1.5), scipy.stats.burr12(2.0, 1.5)),
    ],
)
def test_quantiles_of_the_scale(prior, law):
    g = np.linspace(-5.0, 5.0, 7)
    u, slope = quantile_table(prior, g)
    tail = scipy.stats.norm.sf(np.abs(g))
    s2 = np.where(g < 0, law.ppf(tail), law.isf(tail))
    np.testing.assert_allclose(u, np.log(s2), atol=1e-9)  # SciPy's own inversion
    density = scipy.stats.norm.pdf(g) / (s2 * law.pdf(s2))
    np.testing.assert_allclose(slope, density, rtol=1e-8)


def test_likelihood_of_several_classes():
    """The largest of three noisy functions, by quadrature over the noise of the label's."""
    f = np.array([[0.4, -1.0, 2.0], [-7.0, 3.0, 0.0]])
    index = [0, 0]
    found = log_likelihood(None, np.eye(2), index, f, 0.0)
    exact = 0.0
    for row, c in zip(f, index, strict=True):
        gaps = row[c] - np.delete(row, c)
        both = lambda e, gaps=gaps: scipy.stats.norm.pdf(e) * scipy.special.ndtr(e + gaps).prod()  # noqa: E731
        exact += np.log(scipy.integrate.quad(both, -10, 20, epsabs=0, epsrel=1e-11, limit=400)[0])
    assert found == pytest.approx(exact, abs=1e-8)  # trapezoidal rule of step 1/2: e^(-8 pi^2 / 3)
    softmax = log_likelihood(None, np.eye(2), index, f, 0.0, probit=False)
    assert softmax == pytest.approx(np.log(scipy.special.softmax(f, axis=1)[:, 0]).sum(), rel=1e-12)


@pytest.mark.parametrize("prior", [None, InverseGamma(2.0, 2.0)])
def test_monte_carlo_agrees(prior):
    t = np.array([1.0, -1.0, 1.0])
    draws = sample_classifier(
        Classifier(rbf, prior=prior), X, [1, 0, 1], key=3, draws=600, thin=2, warmup=50
    )
    assert draws.rhat < 1.02  # four chains of a unimodal law
    joint = rbf(np.vstack([X, XS[:1]]))

    def ratio(s2):
        below = np.exp(log_orthant(s2 * K, t))
        return below, np.exp(log_orthant(s2 * joint, np.append(t, 1.0)))

    if prior is None:
        below, both = ratio(1.0)
    else:
        node, weight = np.polynomial.legendre.leggauss(24)
        u = 3 + 6 * node
        each = weight * np.exp(prior.log_density_of_log(u))
        below, both = (each @ v for v in zip(*map(ratio, np.exp(u)), strict=True))
    found = draws.predict_proba(XS)[0, 1]
    # one probability in (0, 1) per draw: its standard deviation is below 1/2
    assert abs(found - both / below) < 4 * 0.5 / np.sqrt(draws.ess)
    assert draws.z.shape == (4, 600, 3, 1)
    assert (draws.s2 == 1).all() if prior is None else (draws.s2 > 0).all()


@pytest.mark.parametrize("likelihood", ["softmax", "probit"])
def test_monte_carlo_with_three_classes(likelihood):
    """One point, three classes: the evidence of label and prediction by a 3-D Hermite rule."""
    post = sample_classifier(
        Classifier(rbf, likelihood),
        X[:1],
        [0],
        classes=[0, 1, 2],
        key=1,
        draws=600,
        thin=2,
        warmup=50,
    )
    node, weight = np.polynomial.hermite_e.hermegauss(40)
    f = np.sqrt(1.5) * np.stack(np.meshgrid(node, node, node), -1).reshape(-1, 3)
    w = np.einsum("i,j,k->ijk", weight, weight, weight).reshape(-1) / weight.sum() ** 3
    law = probit_probabilities if likelihood == "probit" else partial(scipy.special.softmax, axis=1)
    p = law(f)
    exact = (w * p[:, 0]) @ p / (w @ p[:, 0])
    found = post.predict_proba(X[:1])[0]
    assert np.abs(found - exact).max() < 4 * 0.5 / np.sqrt(post.ess)  # as above
    assert found.sum() == pytest.approx(1, rel=1e-12)
