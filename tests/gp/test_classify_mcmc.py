"""Elliptical slice sampling of classifiers against orthants, quadrature and exact densities."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

sys.path.insert(0, str(Path(__file__).parent))
from classify_reference import XS, K, X, log_orthant, rbf

from gp.classify import Classifier
from gp.classify_mcmc import _log_likelihood, _quantiles, sample_classifier
from gp.scale_priors import InverseGamma


def test_likelihood_at_given_scale():
    """The latent function is the root of the scale times the unit one."""
    table = {name: jnp.asarray(v) for name, v in _quantiles(InverseGamma(2.5, 1.5)).items()}
    root, z = np.linalg.cholesky(K), np.array([0.3, -1.2, 0.8])
    for g in (-1.1, 0.3, 1.7):
        s2 = np.exp(np.interp(g, table["g"], table["log_s2"]))
        signed = np.array([1.0, -1.0, 1.0]) * np.sqrt(s2) * (root @ z)
        data = {"root": jnp.asarray(root), "index": jnp.array([1, 0, 1]), **table}
        with jax.numpy_dtype_promotion("standard"):  # as the sampler, which blackjax needs
            found = _log_likelihood(data, True, (jnp.asarray(z)[:, None], jnp.array([g])))
        expected = scipy.special.log_ndtr(signed).sum()
        assert float(found) == pytest.approx(expected, rel=1e-12)  # rounding


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


def test_monte_carlo_with_three_classes():
    """One point, three classes: the evidence of label and prediction by a 3-D Hermite rule."""
    post = sample_classifier(
        Classifier(rbf), X[:1], [0], classes=[0, 1, 2], key=1, draws=600, thin=2, warmup=50
    )
    node, weight = np.polynomial.hermite_e.hermegauss(40)
    f = np.sqrt(1.5) * np.stack(np.meshgrid(node, node, node), -1).reshape(-1, 3)
    w = np.einsum("i,j,k->ijk", weight, weight, weight).reshape(-1) / weight.sum() ** 3
    p = scipy.special.softmax(f, axis=1)
    exact = (w * p[:, 0]) @ p / (w @ p[:, 0])
    found = post.predict_proba(X[:1])[0]
    assert np.abs(found - exact).max() < 4 * 0.5 / np.sqrt(post.ess)  # as above
    assert found.sum() == pytest.approx(1, rel=1e-12)
