"""Functions of random networks: complexity, exact laws, orthant probabilities, certificates."""

import itertools
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.stats

import ntk
from bounds.certified_evidence import kernel_evidence_pac_bayes
from bounds.orthant import log_evidence_orthant
from bounds.pac_bayes import pac_bayes_realizable
from bounds.result import best
from bounds.simplicity import (
    boolean_inputs,
    function_probabilities,
    lz_complexity,
    network_function_probabilities,
)
from deeplimits import DomainError, NotPositiveDefiniteError, ShapeError
from deeplimits.statistics import family_threshold

DRAWS = 20_000


def relu_kernel(X):
    """NNGP kernel of one hidden ReLU layer with biases of variance 1/4."""
    inner = X @ X.T / X.shape[1] + 0.25
    norm = np.sqrt(np.diag(inner))
    c = np.clip(inner / np.outer(norm, norm), -1, 1)
    angle = np.arccos(c)
    return np.outer(norm, norm) * (np.sin(angle) + (np.pi - angle) * c) / np.pi


def parse(s):
    """Words of the 1976 parsing by its definition, letter by letter."""
    words, start = [], 0
    for end in range(1, len(s) + 1):
        word, seen = s[start:end], s[: end - 1]
        earlier = {seen[i : i + len(word)] for i in range(len(seen) - len(word) + 1)}
        if word not in earlier or end == len(s):
            words.append(word)
            start = end
    return words


def test_lempel_ziv():
    # the example of the paper of 1976
    assert parse("0001101001000101") == ["0", "001", "10", "100", "1000", "101"]
    assert lz_complexity("0001101001000101") == pytest.approx(24.0, rel=1e-15)
    assert lz_complexity("01" * 8) == pytest.approx(12.0, rel=1e-15)
    assert lz_complexity("0" * 32) == pytest.approx(5.0, rel=1e-15)
    rng = np.random.default_rng(0)
    bits = rng.integers(2, size=(200, 30))
    text = ["".join(map(str, row)) for row in bits]
    expected = [math.log2(30) * (len(parse(t)) + len(parse(t[::-1]))) / 2 for t in text]
    np.testing.assert_allclose(lz_complexity(bits), expected, rtol=1e-15)
    assert lz_complexity(bits[0]) == lz_complexity(text[0])
    # random strings of 128 bits: 148.8, with a spread of 6.1
    values = lz_complexity(rng.integers(2, size=(400, 128)))
    assert abs(values.mean() - 148.8) < 3.5 * 6.1 / 20 + 0.05
    assert abs(values.std() - 6.1) < 3.5 * 6.1 / 800**0.5 + 0.05


@pytest.mark.parametrize("bits", [3, 4])
def test_perceptron_has_a_uniform_number_of_ones(bits):
    """Exact theorem: without a bias on {0, 1}^n, the number of ones is uniform on 0..2^n - 1."""
    X = boolean_inputs(bits)
    np.testing.assert_array_equal(X[[0, 1, -1]], [[0] * bits, [0] * (bits - 1) + [1], [1] * bits])
    draws = function_probabilities(X @ X.T, n_samples=DRAWS, key=bits)
    ones = np.bincount(draws.functions.sum(1), draws.counts, minlength=2**bits + 1)
    assert ones[-1] == 0  # the output at 0 is 0
    expected = DRAWS / 2**bits
    z = (ones[:-1] - expected) / math.sqrt(expected * (1 - 2.0**-bits))
    assert np.abs(z).max() < family_threshold(3.5, len(z))


def test_gaussian_process_functions():
    """Sampled probabilities of functions against orthant probabilities of each."""
    K = relu_kernel(boolean_inputs(3))
    draws = function_probabilities(K, n_samples=DRAWS, key=0, name="process")
    assert draws.probability.sum() == pytest.approx(1, rel=1e-12)
    assert (np.diff(draws.counts) <= 0).all()
    for i in (0, 2, 9):
        y = 2.0 * draws.functions[i] - 1
        exact = log_evidence_orthant(K, y, "ghk", n_samples=20_000, key=i)
        p, stderr = math.exp(exact.value), exact.stderr * math.exp(exact.value)
        z = (draws.probability[i] - p) / math.hypot(draws.stderr[i], stderr)
        assert abs(z) < family_threshold(3.5, 3)
        # the approximation is low, by less than the 0.122 nats of a duplicated point
        assert -0.122 < float(log_evidence_orthant(K, y)) - exact.value < 3.5 * exact.stderr
    data = draws.to_dataset()
    assert data.function.values[0] in ("0" * 8, "1" * 8)
    assert float(data.probability[0]) == draws.probability[0]
    assert data.attrs["samples"] == DRAWS


def test_simplicity_bias():
    """The largest probability falls with complexity, below the bound with its constant fitted."""
    X = boolean_inputs(5)
    wide = function_probabilities(relu_kernel(X), n_samples=DRAWS, key=1, name="one layer")
    levels, top = wide.envelope()
    assert levels[0] == 5.0  # the constants, 2^-3.4 each in a ReLU network
    assert wide.slope == pytest.approx(32 / wide.largest, rel=1e-15)
    assert scipy.stats.spearmanr(levels, top).statistic < -0.95
    assert top[0] / top[-1] > 500
    seen = wide.counts >= 10
    room = wide.upper_bound(wide.complexity[seen]) / wide.probability[seen]
    assert room.min() == pytest.approx(1, rel=1e-12)  # it touches the largest
    a, b = wide.bound_coefficients()
    assert 0.1 < a < wide.slope  # the a-priori slope is that of the rarest functions
    assert wide.upper_bound(8.0) == pytest.approx(2 ** (-8 * a - b), rel=1e-12)
    assert wide.upper_bound(10.0, a=1.0, b=2.0) == pytest.approx(2.0**-12, rel=1e-15)
    # few functions are simple, but they carry much of the probability
    simple = wide.complexity <= 12.5
    assert simple.mean() < 0.01
    assert wide.probability[simple].sum() > 0.2
    ax = wide.plot()
    assert ax.get_yscale() == "log"
    plt.close(ax.figure)


def test_finite_networks_approach_their_process():
    """A narrow and a wide network: the share of the constants against the process."""
    X = boolean_inputs(3)
    net = ntk.mlp(1, "relu", W_std=1.0, b_std=0.5, width=128)
    finite = network_function_probabilities(net, X, n_samples=4000, key=2)
    infinite = function_probabilities(net.nngp(X), n_samples=DRAWS, key=3)

    def constants(p):
        share = p.probability[np.isin(p.functions.sum(1), (0, 8))].sum()
        return share, share * (1 - share) / p.samples

    (p, vp), (q, vq) = constants(finite), constants(infinite)
    # a width of 128 moves this share by about 0.005; that of the process is near 0.5
    assert abs(p - q) < 3.5 * math.sqrt(vp + vq) + 0.005
    assert finite.functions.shape[1] == 8


def test_certificate_from_sampled_evidence_holds():
    """All functions on three bits; evidences from ten samples: the theorem must not mind."""
    X = boolean_inputs(3)
    K = relu_kernel(X)
    draws = function_probabilities(K, n_samples=DRAWS, key=4)
    functions, prior = draws.functions.astype(float) * 2 - 1, draws.probability
    truth, delta, n, trials = functions[3], 0.2, 5, 150
    risks = (functions != truth).mean(1)
    rng = np.random.default_rng(5)
    failures, moments = 0, []
    for trial in range(trials):
        seen = rng.permutation(8)[:n]  # no duplicates: each has one evidence
        fits = (functions[:, seen] == truth[seen]).all(1)
        bound = kernel_evidence_pac_bayes(
            K[np.ix_(seen, seen)], truth[seen], delta, n_samples=10, key=trial
        )
        gibbs = prior[fits] @ risks[fits] / prior[fits].sum()
        failures += gibbs > float(bound)
        moments.append(math.exp(bound.terms["log_evidence"]) / prior[fits].sum())
    assert failures <= scipy.stats.binom.ppf(0.99, trials, delta)
    # what the proof needs: the estimate is unbiased; 0.02 for a prior known from 20 000 draws
    moments = np.array(moments)
    assert abs(moments.mean() - 1) < 3.5 * moments.std(ddof=1) / trials**0.5 + 0.02
    # the same number as the bound from that evidence
    expected = pac_bayes_realizable(bound.terms["log_evidence"], n, delta)
    assert float(bound) == float(expected)
    assert float(best([bound, bound])) == float(bound.at_delta(delta / 2))


def test_realizable_bound_on_network_functions():
    """Functions of a process on five bits: mean bounds fall with n, violations are rare."""
    X = boolean_inputs(5)
    draws = function_probabilities(relu_kernel(X), n_samples=DRAWS, key=1)
    functions, prior = draws.functions, draws.probability
    rng, delta, trials = np.random.default_rng(6), 0.1, 200
    means = []
    for n in (5, 10, 20):
        values, failures = [], 0
        targets = rng.choice(len(prior), size=trials, p=prior)
        for truth in functions[targets]:
            seen = rng.integers(32, size=n)
            fits = (functions[:, seen] == truth[seen]).all(1)
            evidence = prior[fits].sum()
            risk = prior[fits] @ (functions[fits] != truth).mean(1) / evidence
            values.append(float(pac_bayes_realizable(min(math.log(evidence), 0), n, delta)))
            failures += risk > values[-1]
        means.append(np.mean(values))
        assert failures <= scipy.stats.binom.ppf(0.99, trials, delta)
    assert means[0] > means[1] > means[2]


def test_contradictory_labels_certify_nothing():
    bound = kernel_evidence_pac_bayes(np.ones((2, 2)), [1, -1], key=0)
    assert float(bound) == 1
    assert bound.vacuous
    assert bound.terms["effective_samples"] == 0


def test_all_functions_of_two_bits():
    """Sixteen functions: XOR and its complement are out of reach of the perceptron."""
    X = boolean_inputs(2, -1.0, 1.0)
    with_bias = np.hstack([X, np.ones((4, 1))])
    draws = function_probabilities(with_bias @ with_bias.T, n_samples=4000, key=7)
    seen = {tuple(f) for f in draws.functions}
    every = set(itertools.product((0, 1), repeat=4))
    assert every - seen == {(0, 1, 1, 0), (1, 0, 0, 1)}


def test_bad_input():
    K = np.eye(4)
    with pytest.raises(DomainError, match="zeros and ones only"):
        lz_complexity([0, 1, 2])
    with pytest.raises(DomainError, match="non-empty"):
        lz_complexity("")
    with pytest.raises(DomainError, match="non-empty"):
        lz_complexity("01a")
    with pytest.raises(ShapeError, match=r"strings must have shape \(n,\) or \(m, n\)"):
        lz_complexity(np.zeros((2, 2, 2)))
    with pytest.raises(DomainError, match="bits must be at most 12"):
        boolean_inputs(13)
    with pytest.raises(DomainError, match="bits must be >= 1"):
        boolean_inputs(0)
    with pytest.raises(NotPositiveDefiniteError, match="K must be positive semi-definite"):
        function_probabilities(-K, n_samples=10, key=0)
    with pytest.raises(DomainError, match="n_samples must be >= 1"):
        function_probabilities(K, n_samples=0, key=0)
    with pytest.raises(DomainError, match="key must be"):
        function_probabilities(K, n_samples=10, key=None)
    with pytest.raises(DomainError, match="take more samples"):
        function_probabilities(K, n_samples=10, key=0).upper_bound(1.0)
    with pytest.raises(DomainError, match="a must be > 0"):
        function_probabilities(K, n_samples=10, key=0).upper_bound(1.0, a=0.0)
    with pytest.raises(DomainError, match="net must be a network"):
        network_function_probabilities(K[0, 0], K, n_samples=10, key=0)
    with pytest.raises(ShapeError, match="net must have one output"):
        network_function_probabilities(
            ntk.mlp(1, width=4, out_dim=2), boolean_inputs(2), n_samples=10, key=0
        )
    with pytest.raises(DomainError, match=r"labels \+1 and -1"):
        kernel_evidence_pac_bayes(K, [0, 1, 1, 1], key=0)
    with pytest.raises(DomainError, match="delta must be > 0"):
        kernel_evidence_pac_bayes(K, np.ones(4), 0.0, key=0)
