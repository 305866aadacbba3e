"""Alignment of wide layers: published values, finite random networks, an exact Gaussian case."""

import numpy as np
import pytest

import ntk
from bounds import similarity
from deeplimits import DomainError, ShapeError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 10))
K0 = X @ X.T / 10
WIDTHS = np.array([64, 256, 1024])


def arccosine(K):
    """Gram of an infinite ReLU layer, from the published angle formula."""
    s = np.sqrt(np.diag(K))
    c = np.clip(K / np.outer(s, s), -1, 1)
    angle = np.arccos(c)
    return np.outer(s, s) * (np.sin(angle) + (np.pi - angle) * c) / np.pi


def sampled(width, networks, other, unbiased, rng, act=lambda z: np.maximum(z, 0)):
    values = []
    for _ in range(networks):
        h = act(X @ rng.normal(size=(10, width)))
        values.append(similarity.cka_features(h, other, unbiased=unbiased).value)
    return np.mean(values), np.std(values, ddof=1) / np.sqrt(networks)


def test_layers_of_a_wide_network():
    def linear(a, b=None):
        return a @ (a if b is None else b).T

    K = K0
    for depth, published in ((1, 0.982), (2, 0.946), (3, 0.892)):
        K = arccosine(K)
        net = ntk.mlp(depth, W_std=1.7)  # the scale does not matter
        e = similarity.wide_cka(net, linear, X)
        assert e.value == pytest.approx(similarity.cka(K, K0).value, rel=1e-12)
        biased = similarity.wide_cka(net, ntk.mlp(0), X, unbiased=False).value
        # published for another draw of the inputs, between which these scatter by 0.003 per layer
        assert biased == pytest.approx(published, abs=0.01)


@pytest.mark.parametrize("unbiased", [False, True])
def test_finite_width(unbiased):
    rng = np.random.default_rng(1)
    e = similarity.finite_width_cka(K0, K0, WIDTHS, key=0, unbiased=unbiased)
    limit = similarity.cka(arccosine(K0), K0, unbiased=unbiased).value
    assert e.terms["limit"] == pytest.approx(limit, rel=1e-12)
    for width, networks, value, error in zip(
        WIDTHS, (300, 200, 40), e.value, e.stderr, strict=True
    ):
        mean, stderr = sampled(width, networks, X, unbiased, rng)
        # what is neglected is of relative order (slope / N)^2, with coefficients around 1/4
        rest = 0.25 * (e.terms["slope"] / width) ** 2
        assert abs(mean - value) < 4 * np.hypot(stderr, error) + rest
        if width == 256:  # the ratio of means alone misses part of the order 1/N
            means = e.terms["ratio_of_means"][1]
            assert abs(mean - value) < abs(mean - means)
    if not unbiased:  # published for another draw of the inputs, ratio of means
        np.testing.assert_allclose(e.terms["ratio_of_means"], [0.8757, 0.9520, 0.9744], atol=0.005)


def test_gaussian_units_in_closed_form():
    # a linear layer: V = |K|^2 + (tr K)^2, Var u = 2 tr K^4, Cov(u, w) = 2 tr(K^2 K L), centred
    L = arccosine(K0)
    e = similarity.finite_width_cka(K0, L, WIDTHS, key=3, activation=lambda z: z, unbiased=False)
    A, B = (similarity.center_gram(G, unbiased=False) for G in (K0, L))
    norm, product = (A * A).sum(), (A * B).sum()
    V = norm + np.trace(A) ** 2
    u = 2 * np.trace(A @ A @ A @ A)
    w = 2 * np.trace(A @ A @ A @ B)
    limit = product / np.sqrt(norm * (B * B).sum())
    exact = limit / np.sqrt(1 + V / WIDTHS / norm)
    exact = exact * (1 + (1.5 * u / norm**2 - w / (product * norm)) / WIDTHS)
    assert np.all(np.abs(e.value - exact) < 4 * e.stderr)
    assert np.all(e.stderr < 2e-3)


def test_two_finite_networks_multiply():
    rng = np.random.default_rng(2)
    L = arccosine(K0)
    e = similarity.finite_width_cka(K0, L, 200, key=0)
    values = []
    for _ in range(100):
        a, b = (np.maximum(X @ rng.normal(size=(10, 200)), 0) for _ in range(2))
        values.append(similarity.cka_features(a, b).value)
    predicted = e.terms["limit"] * (e.value / e.terms["limit"]) ** 2
    stderr = np.hypot(np.std(values, ddof=1) / np.sqrt(100), 2 * float(e.stderr))
    rest = 0.5 * (e.terms["slope"] / 200) ** 2  # two factors, each with its second order
    assert abs(np.mean(values) - predicted) < 4 * stderr + rest


def test_bad_input():
    with pytest.raises(DomainError, match="width must be >= 1"):
        similarity.finite_width_cka(K0, K0, [0, 3], key=0)
    with pytest.raises(DomainError, match="samples must be >= 100"):
        similarity.finite_width_cka(K0, K0, 3, key=0, samples=10)
    with pytest.raises(ShapeError, match="K and L must be of the same samples"):
        similarity.finite_width_cka(K0, K0[:5, :5], 3, key=0)
    with pytest.raises(DomainError, match="K must be positive semi-definite"):
        similarity.finite_width_cka(K0 - 0.5 * np.eye(60), K0, 3, key=0)
    with pytest.raises(DomainError, match="key must be"):
        similarity.finite_width_cka(K0, K0, 3, key=-1)
    with pytest.raises(ShapeError, match="X must have shape"):
        similarity.wide_cka(ntk.mlp(1), ntk.mlp(1), X[0])
