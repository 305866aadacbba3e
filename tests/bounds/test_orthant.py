"""Orthant probabilities against closed forms, sampling, and the trends of classification."""

import math

import numpy as np
import pytest

from bounds.orthant import log_evidence_orthant
from bounds.pac_bayes import pac_bayes_realizable
from bounds.zero_one import inductive_bias_zero_one
from deeplimits import ConvergenceError, DomainError, NotPositiveDefiniteError, ShapeError

TRIPLE = np.array([[1.0, 0.6, 0.2], [0.6, 2.0, -0.3], [0.2, -0.3, 0.5]])


def closed_form(K, y):
    """Two or three signs: 1/4 + arcsin / 2 pi and 1/8 + sum of arcsines / 4 pi."""
    std = np.sqrt(np.diag(K)) * y
    angles = np.arcsin((K / np.outer(std, std))[np.triu_indices(len(K), 1)])
    return math.log(
        0.25 + angles.sum() / (2 * math.pi) if len(K) == 2 else 0.125 + angles.sum() / (4 * math.pi)
    )


def relu_kernel(X):
    """NNGP kernel of one hidden ReLU layer on points of any length."""
    norm = np.linalg.norm(X, axis=1)
    c = np.clip(X @ X.T / np.outer(norm, norm), -1, 1)
    angle = np.arccos(c)
    return np.outer(norm, norm) * (np.sin(angle) + (np.pi - angle) * c) / np.pi / X.shape[1]


@pytest.mark.parametrize("y", [[1, 1, 1], [1, -1, 1], [-1, -1, 1]])
def test_sampling_against_closed_forms(y):
    got = log_evidence_orthant(TRIPLE, y, "ghk", n_samples=20_000, key=0)
    assert abs(float(got) - closed_form(TRIPLE, np.array(y))) < 3.5 * got.stderr
    assert got.terms["effective_samples"] > 5000


def test_propagation_against_closed_forms():
    # exact for one sign and for independent ones, a little low otherwise
    assert float(log_evidence_orthant(np.eye(1), [1])) == pytest.approx(-math.log(2), rel=1e-9)
    flat = log_evidence_orthant(np.diag([1.0, 3.0, 0.1, 2.0]), [1, -1, 1, 1])
    assert float(flat) == pytest.approx(-4 * math.log(2), rel=1e-9)
    pair = np.array([[1.0, 0.6], [0.6, 1.0]])
    # published values of the approximation, to their digits
    assert float(log_evidence_orthant(pair, [1, 1])) == pytest.approx(-1.0467, abs=6e-5)
    assert closed_form(pair, np.ones(2)) == pytest.approx(-1.0429, abs=6e-5)
    for n, value in ((20, -3.063), (100, -4.647)):
        got = log_evidence_orthant(0.5 * np.eye(n) + 0.5, np.ones(n))
        assert float(got) == pytest.approx(value, abs=6e-4)
        assert float(got) < -math.log(n + 1)  # the exact value for correlations of one half
    scaled = np.array([3.0, 0.2, 7.0])
    one, other = (
        float(log_evidence_orthant(K, [1, -1, 1]))
        for K in (TRIPLE, TRIPLE * np.outer(scaled, scaled))
    )
    assert one == pytest.approx(other, abs=1e-8)  # scales do not matter; tol of the sweeps


def test_propagation_against_sampling_on_a_network_kernel():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 8))
    K = relu_kernel(X)
    for y in (np.sign(X[:, 0]), rng.choice([-1.0, 1.0], size=30)):
        ep = float(log_evidence_orthant(K, y))
        ghk = log_evidence_orthant(K, y, "ghk", n_samples=20_000, key=1)
        # the known bias of the approximation (0.003 to 0.035 nats low) beside the sampling error
        assert -0.05 - 3.5 * ghk.stderr < ep - float(ghk) < 3.5 * ghk.stderr


def test_information_falls_with_data_and_true_labels_beat_coins():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(120, 3))
    y, noise = np.sign(X[:, 0]), rng.choice([-1.0, 1.0], size=120)
    K, few = relu_kernel(X), np.r_[0:20, 80:120]
    many = inductive_bias_zero_one(K, y, 80)
    less = inductive_bias_zero_one(K[np.ix_(few, few)], y[few], 20)
    random = inductive_bias_zero_one(K[np.ix_(few, few)], np.r_[y[:20], noise[80:]], 20)
    assert float(many) < float(less) < less.terms["coin_flips"] < float(random)
    assert many.n == 40
    first = inductive_bias_zero_one(K[:5, :5], y[:5], 0)
    assert float(first) == pytest.approx(-float(log_evidence_orthant(K[:5, :5], y[:5])))


def test_duplicates():
    K = np.ones((2, 2))
    # One point twice has the probability of one sign; the approximation counts part of it twice,
    # and is 0.122 nats low (0.03 at a correlation of 0.9), as the docstring says.
    assert -0.123 < float(log_evidence_orthant(K, [1, 1])) + math.log(2) < -0.121
    impossible = log_evidence_orthant(K, [1, -1])
    assert float(impossible) == -np.inf
    assert "contradictory" in impossible.warnings[0]
    assert pac_bayes_realizable(float(impossible), 2).vacuous


def test_bad_input():
    K = np.eye(3)
    with pytest.raises(DomainError, match=r"labels \+1 and -1.*2 \* y - 1"):
        log_evidence_orthant(K, [0, 1, 1])
    with pytest.raises(ShapeError, match=r"y must have shape \(3,\)"):
        log_evidence_orthant(K, [1, 1])
    with pytest.raises(DomainError, match="positive diagonal"):
        log_evidence_orthant(np.diag([1.0, 0.0, 1.0]), [1, 1, 1])
    with pytest.raises(NotPositiveDefiniteError, match="eigenvalue is -1"):
        log_evidence_orthant(np.eye(2)[::-1] * 2 + np.eye(2), [1, 1])
    with pytest.raises(DomainError, match="method must be one of"):
        log_evidence_orthant(K, [1, 1, 1], "laplace")
    with pytest.raises(DomainError, match="key must be"):
        log_evidence_orthant(K, [1, 1, 1], "ghk")
    with pytest.raises(ConvergenceError, match="in the last of 1 sweeps"):
        log_evidence_orthant(TRIPLE, [1, -1, 1], max_sweeps=1)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 3))
    with pytest.raises(ConvergenceError, match=r"weights of 200 samples are worth"):
        log_evidence_orthant(
            relu_kernel(X), rng.choice([-1.0, 1.0], size=100), "ghk", n_samples=200, key=0
        )
    with pytest.raises(DomainError, match="n_train must be below"):
        inductive_bias_zero_one(K, [1, 1, 1], 3)
