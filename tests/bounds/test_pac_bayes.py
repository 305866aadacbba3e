"""PAC-Bayes: inversion, validity on enumerated and simulated families, closed-form divergences."""

import math

import numpy as np
import pytest
import scipy.optimize

from bounds.kernel_flow import kernel_flow, kernel_flow_pac_bayes
from bounds.orthant import log_evidence_orthant
from bounds.pac_bayes import kl_divergence, kl_inverse, pac_bayes_kl, pac_bayes_realizable
from bounds.result import best
from deeplimits import DomainError, ShapeError

TIMES, SCALES = np.logspace(-4, 1.5, 23), (1.0, 0.3, 0.1, 0.03)


def relu_kernels(X, Z):
    """NNGP kernel and NTK of one hidden ReLU layer between points on the sphere of radius d^1/2."""
    c = np.clip(X @ Z.T / X.shape[1], -1, 1)
    angle = np.arccos(c)
    nngp = (np.sin(angle) + (np.pi - angle) * c) / np.pi
    return nngp, nngp + c * (np.pi - angle) / np.pi


@pytest.fixture(scope="module")
def teacher():
    """The published toy: 200 points in ten dimensions, labels by the sign of one coordinate."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200 + 2000, 10))
    X *= np.sqrt(10) / np.linalg.norm(X, axis=1, keepdims=True)
    return X[:200], X[200:], np.sign(X[:, 0])


def test_kl_inverse():
    q, c = np.array([0.01, 0.2, 0.5, 0.97]), np.array([[1e-12], [0.03], [0.5]])
    p = kl_inverse(q, c)

    def root(a, b):
        return scipy.optimize.brentq(lambda p: kl_divergence(a, p) - b, a, 1 - 1e-16)

    expected = [[root(a, b) for a in q] for b in c[1:, 0]]
    np.testing.assert_allclose(p[1:], expected, rtol=1e-11)  # tolerance of the root finder
    # near q: p - q = sqrt(2 c q (1 - q)) to first order, relative corrections of order sqrt(c)
    np.testing.assert_allclose(p[0] - q, np.sqrt(2 * 1e-12 * q * (1 - q)), rtol=1e-4)
    assert kl_inverse(0.0, 0.3) == -math.expm1(-0.3)
    assert kl_inverse(1.0, 0.3) == 1
    assert kl_inverse(0.4, 0.0) == 0.4
    assert kl_inverse(0.4, np.inf) == 1
    assert kl_inverse(0.4, 0.1, "lower") == pytest.approx(1 - kl_inverse(0.6, 0.1), abs=0)
    assert kl_divergence(0.4, kl_inverse(0.4, 0.1, "lower")) == pytest.approx(0.1, rel=1e-12)


def test_forms_of_the_bound():
    maurer, seeger = (pac_bayes_kl(0.1, 20.0, 500, form=f) for f in ("maurer", "seeger"))
    assert float(maurer) < float(seeger)
    assert kl_divergence(0.1, float(maurer)) == pytest.approx(
        (20 + math.log(2 * math.sqrt(500) / 0.05)) / 500, rel=1e-12
    )
    both = best([maurer, seeger])  # the choice is paid for
    assert float(both) == float(pac_bayes_kl(0.1, 20.0, 500, 0.025))


def test_realizable_bound_holds():
    """All 16 functions on two bits under a biased prior: the bound fails in few samples."""
    rng = np.random.default_rng(1)
    functions = np.array([[(f >> i) & 1 for i in range(4)] for f in range(16)])
    prior = rng.dirichlet(np.full(16, 0.5))
    truth, delta, failures, single, gamma = functions[6], 0.1, 0, 0, 0.1
    trials, n = 4000, 6
    risks = (functions != truth).mean(1)
    for _ in range(trials):
        seen = rng.integers(4, size=n)
        fits = (functions[:, seen] == truth[seen]).all(1)
        evidence = prior[fits].sum()
        posterior = np.where(fits, prior, 0) / evidence
        failures += posterior @ risks > float(pac_bayes_realizable(np.log(evidence), n, delta))
        drawn = rng.choice(16, p=posterior)
        bound = pac_bayes_realizable(np.log(evidence), n, delta, gamma=gamma)
        single += risks[drawn] > float(bound)
    assert failures <= delta * trials
    assert single <= (delta + gamma) * trials
    value = pac_bayes_realizable(-3.0, 10, 0.1)
    assert float(value) == pytest.approx(1 - math.exp(-(3 + math.log(10)) / 10), rel=1e-15)
    assert float(value.at_delta(0.05)) == float(pac_bayes_realizable(-3.0, 10, 0.05))
    assert pac_bayes_realizable(-np.inf, 10).vacuous
    # tighter than the form that pays ln 2 sqrt n, by just that
    assert float(pac_bayes_realizable(-30.0, 100)) < float(pac_bayes_kl(0.0, 30.0, 100))


def test_flow_against_parameter_space():
    """A linear model with more parameters than points: Gaussian laws of the parameters."""
    rng = np.random.default_rng(2)
    n, p, c, t = 6, 9, 0.7, 0.8
    features, extra = rng.normal(size=(n, p)), rng.normal(size=(3, p))
    y = rng.choice([-1.0, 1.0], size=n)
    jacobian = c * features
    values, vectors = np.linalg.eigh(jacobian.T @ jacobian)
    values = np.maximum(values, 0)
    stay = vectors * np.exp(-t * values) @ vectors.T
    gain = np.where(values > 1e-10, -np.expm1(-t * values) / np.maximum(values, 1e-300), t)
    shift = vectors * gain @ vectors.T @ jacobian.T @ y
    covariance = stay @ stay.T
    log_det = -2 * t * np.trace(jacobian.T @ jacobian)  # of exp(-2 t J^T J)
    divergence = 0.5 * (np.trace(covariance) - p + shift @ shift - log_det)
    flow = kernel_flow(features @ features.T, y)
    assert flow.kl(t, c) == pytest.approx(divergence, rel=1e-12)  # conditioning of the Gram
    mean, variance = flow.law(extra @ features.T, (extra**2).sum(1), t, c)
    np.testing.assert_allclose(mean, c * extra @ shift, rtol=1e-12)
    np.testing.assert_allclose(
        variance, c**2 * np.einsum("ip,pq,iq->i", extra, covariance, extra), rtol=1e-11
    )
    error = flow.gibbs_error(extra @ features.T, (extra**2).sum(1), [1, -1, 1], t, c)
    draws = shift + rng.normal(size=(40_000, p)) @ stay.T
    wrong = (np.sign(draws @ extra.T) != [1, -1, 1]).mean(1)
    assert abs(error - wrong.mean()) < 3.5 * wrong.std() / 200  # 40 000 draws


def test_published_toy_is_certified(teacher):
    X, test, y = teacher
    for kernel, value, kl, errors in (
        (0, 0.361, 17.5, (0.125, 0.153)),
        (1, 0.367, 26.3, (0.101, 0.143)),
    ):
        K = relu_kernels(X, X)[kernel]
        bound = kernel_flow_pac_bayes(K, y[:200], TIMES, SCALES)
        # the digits that are known
        assert float(bound) == pytest.approx(value, abs=5e-4)
        assert bound.terms["kl"] == pytest.approx(kl, abs=0.05)
        assert bound.terms["empirical_risk"] == pytest.approx(errors[0], abs=5e-4)
        flow, at = kernel_flow(K, y[:200]), (bound.terms["time"], bound.terms["scale"])
        cross = relu_kernels(test, X)[kernel]
        error = flow.gibbs_error(cross, np.full(2000, K[0, 0]), y[200:], *at)
        assert error == pytest.approx(errors[1], abs=0.004)  # another test sample of 2000
        assert error < float(bound)
        assert bound.terms["grid"] == 92
    assert float(bound.at_delta(0.005)) > float(bound)


@pytest.mark.parametrize("method", ["ep", "ghk"])
def test_evidence_is_taken_as_it_is_returned(teacher, method):
    K, y = relu_kernels(teacher[0][:20], teacher[0][:20])[0], teacher[2][:20]
    evidence = log_evidence_orthant(K, y, method=method, key=0)
    bound, plain = pac_bayes_realizable(evidence, 20), pac_bayes_realizable(float(evidence), 20)
    assert float(bound) == float(plain)
    assert bound.terms == plain.terms
    # an evidence that is no exact number is said to be assumed, here and at another delta
    for record in (bound, bound.at_delta(0.01), best([bound, plain])):
        assert any(evidence.method in text for text in record.assumptions)
    assert not any("evidence" in text for text in plain.assumptions)
    never = log_evidence_orthant(np.ones((2, 2)), np.array([1.0, -1.0]), key=0)
    assert float(pac_bayes_realizable(never, 2)) == 1


def test_random_labels_are_never_certified(teacher):
    X, labels = teacher[0], np.random.default_rng(3).choice([-1.0, 1.0], size=(20, 200))
    K = relu_kernels(X, X)[1]
    values = [float(kernel_flow_pac_bayes(K, y, TIMES[::2], SCALES[:2])) for y in labels]
    assert min(values) > 0.5


def test_bad_input(teacher):
    K, y = relu_kernels(teacher[0][:20], teacher[0][:20])[0], teacher[2][:20]
    with pytest.raises(DomainError, match=r"q must be a probability"):
        kl_inverse(1.2, 0.1)
    with pytest.raises(DomainError, match="c must be >= 0"):
        kl_inverse(0.2, -0.1)
    with pytest.raises(DomainError, match="side must be one of"):
        kl_inverse(0.2, 0.1, "both")
    with pytest.raises(DomainError, match="log_evidence must be <= 0"):
        pac_bayes_realizable(0.1, 10)
    with pytest.raises(DomainError, match="delta must be > 0 and < 1"):
        pac_bayes_realizable(-1.0, 10, 1.0)
    with pytest.raises(DomainError, match="gamma must be"):
        pac_bayes_realizable(-1.0, 10, gamma=0.0)
    with pytest.raises(DomainError, match="n must be >= 8"):
        pac_bayes_kl(0.1, 1.0, 5)
    with pytest.raises(DomainError, match="kl must be >= 0"):
        pac_bayes_kl(0.1, -1.0, 50)
    with pytest.raises(DomainError, match="empirical_risk must be"):
        pac_bayes_kl(1.1, 1.0, 50)
    with pytest.raises(DomainError, match="form must be one of"):
        pac_bayes_kl(0.1, 1.0, 50, form="catoni")
    with pytest.raises(DomainError, match="one Gram matrix"):
        kernel_flow_pac_bayes((K, K), y, [1.0])
    with pytest.raises(DomainError, match=r"labels \+1 and -1.*2 \* y - 1"):
        kernel_flow_pac_bayes(K, (y + 1) / 2, [1.0])
    with pytest.raises(ShapeError, match=r"y must have shape \(20,\)"):
        kernel_flow(K, y[:-1])
    with pytest.raises(DomainError, match="K must be positive semi-definite"):
        kernel_flow(-K, y)
    with pytest.raises(DomainError, match="at least 8 rows"):
        kernel_flow_pac_bayes(K[:5, :5], y[:5], [1.0])
    with pytest.raises(DomainError, match="times must be a vector of numbers > 0"):
        kernel_flow_pac_bayes(K, y, [0.0, 1.0])
