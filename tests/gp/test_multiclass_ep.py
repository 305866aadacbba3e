"""Classification into C > 2 classes against dense algebra, orthants and real digits."""

import itertools
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

sys.path.insert(0, str(Path(__file__).parent))
from classify_reference import XS, K, X, rbf

from deeplimits import datasets
from gp.calibration import negative_log_likelihood, reliability
from gp.classify import Classifier, probit_average, probit_probabilities
from gp.expectation_propagation import probit_sites
from gp.multiclass_ep import class_sites

COUNT = 3


def differences(labels, count=COUNT):
    """Rows that map (f of every class and point, u of every point) to the g of every factor."""
    n, rows = len(labels), []
    for i, c in enumerate(labels):
        for b in range(count):
            if b != c:
                row = np.zeros((count + 1, n))
                row[c, i], row[b, i], row[count, i] = 1.0, -1.0, 1.0
                rows.append(row.ravel())
    return np.array(rows)


def joint_prior(cov):
    return scipy.linalg.block_diag(*[cov] * COUNT, np.eye(len(cov)))


def log_probability(cov, labels):
    """log P(every label's noisy function is the largest), an orthant of n(C - 1) dimensions."""
    A = differences(labels)
    law = scipy.stats.multivariate_normal(
        np.zeros(len(A)), A @ joint_prior(cov) @ A.T + np.eye(len(A))
    )
    return float(np.log(law.cdf(np.zeros(len(A)), rng=np.random.default_rng(0))))


def sites_of(cov, labels):
    zero = jnp.zeros((COUNT, len(labels)))
    return class_sites(jnp.asarray(cov), jnp.asarray(np.eye(COUNT)[:, labels]), zero, zero)


@pytest.mark.parametrize("labels", [[0, 1, 2], [1, 1, 0]])
def test_against_dense_expectation_propagation(labels):
    """The same factors as one probit problem with n(C - 1) correlated latent values."""
    A = differences(labels)
    dense = probit_sites(jnp.asarray(A @ joint_prior(K) @ A.T), jnp.ones(len(A)))
    sites = sites_of(K, labels)
    free = np.eye(COUNT)[labels] == 0
    # factors stop moving at 1e-9 (1e-10 for the dense ones), less than 1e-8 from the fixed point
    np.testing.assert_allclose(np.asarray(sites.alpha).T[free], dense.tau, atol=1e-8)
    np.testing.assert_allclose(np.asarray(sites.beta).T[free], dense.nu, atol=1e-8)
    assert float(sites.log_evidence) == pytest.approx(float(dense.log_evidence), abs=1e-9)
    weights = (A.T @ np.asarray(dense.weights)).reshape(COUNT + 1, 3)[:COUNT]
    np.testing.assert_allclose(sites.weights, weights, atol=1e-8)


def test_evidence_against_orthants():
    exact = np.array([log_probability(K, t) for t in itertools.product(range(3), repeat=3)])
    found = [
        float(sites_of(K, list(t)).log_evidence) for t in itertools.product(range(3), repeat=3)
    ]
    assert np.exp(exact).sum() == pytest.approx(1, abs=1e-3)  # SciPy's quasi-random integration
    # expectation propagation: .0095 at most, measured; Laplace's for softmax misses by .05
    np.testing.assert_allclose(found, exact, atol=1.5e-2)


def test_predictions_against_orthants():
    labels = [0, 1, 2]
    post = Classifier(rbf).condition(X, labels)
    below = log_probability(K, labels)
    joint = rbf(np.vstack([X, XS[:1]]))
    exact = [np.exp(log_probability(joint, [*labels, c]) - below) for c in range(COUNT)]
    # expectation propagation 2e-3, quasi-random points 1e-3, SciPy's integration 1e-3
    np.testing.assert_allclose(post.predict_proba(XS[:1])[0], exact, atol=4e-3)


def test_probabilities_given_the_functions():
    f = np.array([[0.3, -1.0, 2.0, 0.0], [8.0, 0.0, -3.0, 7.5]])
    for row, found in zip(f, probit_probabilities(f), strict=True):
        for c in range(4):
            rest = np.delete(row, c)
            both = lambda h, c=c, r=row, o=rest: (  # noqa: E731
                scipy.stats.norm.pdf(h - r[c]) * scipy.special.ndtr(h - o).prod()
            )
            exact = scipy.integrate.quad(both, -15, 25, points=[0, 8], epsabs=1e-12)[0]
            # 3e-6 of the probability lies below the lowest node
            assert found[c] == pytest.approx(exact, abs=5e-6)
    # a common Gaussian of all functions changes nothing; independent ones add to the noise
    np.testing.assert_allclose(
        probit_average(f, np.ones((2, 4, 4))), probit_probabilities(f), rtol=1e-12
    )
    half = probit_average(f, np.broadcast_to(np.eye(4), (2, 4, 4)))
    np.testing.assert_allclose(half, probit_probabilities(f / 2**0.5), atol=2e-3)  # 1024 points


def test_digits():
    """Ten digits: the scale of largest evidence is nearly calibrated, where Laplace is not."""
    data = datasets.load("digits")
    order = np.random.default_rng(0).permutation(len(data))
    train, test = data.take(order[:80]), data.take(order[80:200])
    kernel = lambda s: lambda a, b=None: s * np.asarray(rbf_of(a, b))  # noqa: E731

    def rbf_of(a, b):
        b = a if b is None else b
        gap = np.sum(a**2, 1)[:, None] + np.sum(b**2, 1)[None] - 2 * a @ b.T
        return np.exp(-0.5 * np.maximum(gap, 0) / 3.0**2)

    scores = {}
    for likelihood in ("probit", "softmax"):
        posts = [
            Classifier(kernel(s), likelihood).condition(train.X / 16, train.y, classes=range(10))
            for s in (30.0, 300.0)
        ]
        best = max(posts, key=lambda post: post.log_evidence)
        p = best.predict_proba(test.X / 16)
        scores[likelihood] = negative_log_likelihood(p, test.y).mean, reliability(p, test.y).ece
    assert scores["probit"][0] < scores["softmax"][0] - 0.2
    assert scores["probit"][1] < 0.7 * scores["softmax"][1]
