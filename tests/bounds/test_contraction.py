"""Contraction coefficients: quadrature, enumeration of masks, searches over inputs."""

import itertools
import math

import jax
import mpmath
import numpy as np
import pytest
from scipy.special import kl_div

from bounds import contraction
from bounds.gibbs import channel_information, gibbs_algorithm
from deeplimits import DomainError, ShapeError


def masks(bits, delta):
    """All masks of kept bits with their probabilities."""
    for m in itertools.product((0, 1), repeat=bits):
        yield np.array(m), math.prod(1 - delta if kept else delta for kept in m)


def dropout_channel(delta, width):
    """From inputs with all coordinates -1 or +1 to what is left (0 where dropped)."""
    inputs = list(itertools.product((-1, 1), repeat=width))
    outputs = list(itertools.product((-1, 0, 1), repeat=width))
    W = np.zeros((len(inputs), len(outputs)))
    for i, x in enumerate(inputs):
        for m, p in masks(width, delta):
            W[i, outputs.index(tuple(int(v) for v in m * x))] += p
    return W


def dropconnect_channel(delta, fan_in, fan_out):
    """Generic weights and two generic inputs: every mask but the empty one tells them apart."""
    rng = np.random.default_rng(0)
    weights, inputs = rng.normal(size=(fan_out, fan_in)), rng.normal(size=(2, fan_in))
    rows = [{}, {}]
    for m, p in masks(fan_in * fan_out, delta):
        for x, row in zip(inputs, rows, strict=True):
            out = tuple(np.round((m.reshape(fan_out, fan_in) * weights) @ x, 12) + 0.0)
            row[out] = row.get(out, 0) + p
    keys = sorted(set(rows[0]) | set(rows[1]))
    return np.array([[row.get(k, 0) for k in keys] for row in rows])


def ratio(W, p, q):
    """Contraction of one pair of inputs."""
    return kl_div(p @ W, q @ W).sum(-1) / kl_div(p, q).sum(-1)


def best_ratio(W, rng, rounds=60, size=400):
    """Largest contraction found by a random search around the best pair so far."""
    k = len(W)
    p, q = (rng.dirichlet(np.full(k, 0.5), size=size) + 1e-9 for _ in range(2))
    step = 1.0
    for _ in range(rounds):
        p, q = (x / x.sum(-1, keepdims=True) for x in (p, q))
        value = np.nan_to_num(ratio(W, p, q))
        best = int(value.argmax())
        top, p0, q0 = value[best], p[best], q[best]
        # steps in the logarithm of p, and in its distance to q, to the nearly
        # infinitesimal: closer pairs only show the rounding of their divergences
        step = max(0.85 * step, 3e-3)
        p = p0 * np.exp(step * rng.normal(size=(size, k)))
        mixing = np.exp(step * rng.normal(size=(size, 1))) * 0.9
        q = p + mixing * (q0 - p0) * np.exp(step * rng.normal(size=(size, k)))
        q = np.maximum(q, 1e-12)
        p[0], q[0] = p0, q0
    return top


def test_erasures():
    for delta, width, value in [(0.3, 2, 0.91), (0.5, 3, 0.875), (0.2, 3, 0.992)]:
        assert contraction.dropout(delta, width) == pytest.approx(value, abs=1e-15)
        W = dropout_channel(delta, width)
        for method in ("kl", "tv"):
            # attained by two inputs that differ everywhere
            assert contraction.channel(W, method) == pytest.approx(value, abs=1e-12)
    for delta, shape, value in [(0.5, (2, 2), 0.9375), (0.6, (1, 3), 0.784)]:
        assert contraction.dropconnect(delta, *shape) == pytest.approx(value, abs=1e-15)
        W = dropconnect_channel(delta, *shape)
        assert contraction.channel(W) == pytest.approx(value, abs=1e-12)
    for f in (lambda d: contraction.dropout(d, 5), lambda d: contraction.dropconnect(d, 2, 3)):
        assert f(0.0) == 1
        assert f(1.0) == 0
    grid = contraction.dropout(np.array([0.1, 0.5])[:, None], np.array([1, 2, 3]))
    assert grid.shape == (2, 3)
    assert contraction.dropout(1 - 1e-12, 3) == pytest.approx(3e-12, rel=1e-4)  # delta is rounded


def test_awgn_against_quadrature():
    published = [0.002494, 0.058946, 0.204054, 0.550400, 0.802757, 0.931403, 0.995849]
    loose = [0.03988, 0.19741, 0.38292, 0.68269, 0.86639, 0.95450, 0.9973]
    ratios = np.array([0.1, 0.5, 1, 2, 3, 4, 6])
    np.testing.assert_allclose(contraction.awgn(ratios, 1.0), published, atol=1e-6)
    np.testing.assert_allclose(contraction.awgn(3 * ratios, 3.0, method="tv"), loose, atol=6e-6)
    with mpmath.workdps(30):
        for r in (1e-4, 1.0, 8.0, 15.9):

            def le_cam(x, r=r):
                p, q = mpmath.npdf(x), mpmath.npdf(x, r)
                return (p - q) ** 2 / (2 * (p + q))

            points = [-14, -6, -3, *(r * k / 8 for k in range(9)), r + 3, r + 6, r + 14]
            exact = float(mpmath.quad(le_cam, points))
            assert contraction.awgn(r, 1.0) == pytest.approx(exact, rel=2e-15)  # a few eps
    assert contraction.awgn(1e-7, 1.0) == pytest.approx(1e-14 / 4, rel=1e-12)  # D^2 / 4
    assert contraction.awgn(0.0, 1.0) == 0
    assert contraction.awgn(2.0, 0.0) == contraction.awgn(np.inf, 1.0) == 1
    assert contraction.awgn(17.0, 1.0) == 1
    assert np.all(np.diff(contraction.awgn(np.linspace(0, 16.5, 400), 1.0)) >= 0)


def test_awgn_differentiates():
    value, slope = jax.value_and_grad(lambda e: contraction.awgn(2.0, e))(0.7)
    assert float(value) == pytest.approx(contraction.awgn(2.0, 0.7), rel=1e-14)
    h = 1e-5
    ends = [contraction.awgn(2.0, 0.7 + s * h) for s in (1, -1)]
    assert float(slope) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-8)  # h^2
    slope = jax.grad(lambda e: contraction.awgn(2.0, e, "tv"))(1.0)
    assert float(slope) == pytest.approx(-2 * math.sqrt(2 / math.pi) * math.exp(-0.5) / 2)


@pytest.mark.parametrize("separation", [1.0, 3.0])
def test_awgn_is_the_supremum(separation):
    """No pair of laws on three inputs beats it, and two inputs reach it."""
    x = np.linspace(-8 - separation / 2, 8 + separation / 2, 500)
    inputs = np.array([-0.5, 0.1, 0.5]) * separation
    W = np.exp(-((x - inputs[:, None]) ** 2) / 2)
    W /= W.sum(1, keepdims=True)
    eta = contraction.awgn(separation, 1.0)
    found = best_ratio(W, np.random.default_rng(0))
    # never above, up to rounding of divergences of 1e-6; below by the square of the last steps
    assert eta - 1e-4 < found < eta + 1e-9
    assert contraction.channel(W) == pytest.approx(eta, rel=1e-12)
    b = np.array([0.5, 0, 0.5])
    near = b + np.array([1e-4, 0, -1e-4])
    assert ratio(W, near, b) == pytest.approx(eta, abs=1e-6)  # second order in the step


@pytest.mark.parametrize("seed", range(3))
def test_channel_against_search(seed):
    rng = np.random.default_rng(seed)
    W = rng.dirichlet(np.full(4, 0.7), size=3)
    eta = contraction.channel(W)
    found = best_ratio(W, rng)
    assert eta - 2e-4 < found < eta + 1e-9
    assert eta <= contraction.channel(W, "tv")
    b = np.linspace(0, 1, 200_001)[1:-1, None]
    grid = [
        (b * (1 - b) * (P - Q) ** 2 / ((1 - b) * P + b * Q)).sum(1).max()
        for P, Q in itertools.combinations(W, 2)
    ]
    assert eta == pytest.approx(max(grid), rel=1e-9)  # the grid's step squared


def test_channel_limits():
    assert contraction.channel(np.eye(3)) == 1
    assert contraction.channel(np.full((3, 2), 0.5)) == 0
    assert contraction.channel([[0.2, 0.8]]) == 0
    p = 0.11  # binary symmetric channel: (1 - 2 p)^2
    bsc = [[1 - p, p], [p, 1 - p]]
    assert contraction.channel(bsc) == pytest.approx((1 - 2 * p) ** 2, rel=1e-14)
    assert contraction.channel(bsc, "tv") == pytest.approx(1 - 2 * p, rel=1e-14)
    close = [[0.5, 0.5], [0.5 + 1e-9, 0.5 - 1e-9]]
    assert contraction.channel(close) == pytest.approx(1e-18, rel=1e-6)  # (2 delta)^2 / 4


def test_product_and_tradeoff():
    assert contraction.product([]) == 1
    assert contraction.product([0.5, 0.2]) == pytest.approx(0.1, rel=1e-15)
    table = contraction.depth_tradeoff(0.5, 12)
    assert list(table.layers.values) == [1, 2, 3, 4, 6, 12]
    # published, to its digits
    values = table["product"].sel(layers=[1, 3, 4, 6]).values
    np.testing.assert_allclose(values, [0.99976, 0.824, 0.586, 0.178], atol=5e-4)
    assert (np.diff(table["product"]) < 0).all()


def two_bits():
    """Gibbs weights of a threshold unit on two bits, and its examples."""
    X = np.array(list(itertools.product((0, 1), repeat=2)), float)
    W = np.array(list(itertools.product((-1, 0, 1), repeat=3)), float)
    out = (W @ np.column_stack([X, np.ones(4)]).T > 0).astype(float)
    true = np.array([0.1, 0.8, 0.7, 0.9])
    p = np.concatenate([(1 - true) / 4, true / 4])
    return X, np.concatenate([out, 1 - out], axis=1), p, np.repeat([0, 1], 4)


def test_labels_are_not_contracted():
    """The enumerated counterexample to contracting the label with the input."""
    X, loss, p, labels = two_bits()
    g = gibbs_algorithm(loss, p, 3, 5.0, labels=labels)
    seen = np.zeros((8, 8))
    for k, x in enumerate(X):
        for m, q in masks(2, 0.9):
            t = int(2 * x[0] * m[0] + x[1] * m[1])
            seen[k, t] += q
            seen[4 + k, 4 + t] += q
    true = channel_information(g.joint, seen)
    bound = contraction.information(g.label, g.inputs, [contraction.dropout(0.9, 2)])
    assert true == pytest.approx(0.0713, abs=5e-5)
    assert bound.terms["naive"] == pytest.approx(0.0270, abs=5e-5)
    assert float(bound) == pytest.approx(0.0819, abs=5e-5)
    assert bound.terms["naive"] < true < float(bound)
    assert bound.bits == float(bound) / math.log(2)


def test_bad_input():
    with pytest.raises(DomainError, match="delta must be a probability"):
        contraction.dropout(1.2, 3)
    with pytest.raises(DomainError, match="width must be an integer >= 1"):
        contraction.dropout(0.5, 0)
    with pytest.raises(DomainError, match="width must be an integer >= 1"):
        contraction.dropout(0.5, 2.0)
    with pytest.raises(DomainError, match="fan_out must be an integer"):
        contraction.dropconnect(0.5, 2, 0)
    with pytest.raises(DomainError, match="diameter must be >= 0"):
        contraction.awgn(-1.0, 1.0)
    with pytest.raises(DomainError, match="noise must be >= 0 and not NaN"):
        contraction.awgn(1.0, np.nan)
    with pytest.raises(DomainError, match="got 0 / 0"):
        contraction.awgn(0.0, 0.0)
    with pytest.raises(DomainError, match="method must be one of"):
        contraction.awgn(1.0, 1.0, method="l2")
    with pytest.raises(ShapeError, match="W must be a matrix"):
        contraction.channel([0.5, 0.5])
    with pytest.raises(DomainError, match="rows that sum to 1"):
        contraction.channel([[0.5, 0.6], [0.5, 0.5]])
    with pytest.raises(DomainError, match=r"minimum of -0\.1"):
        contraction.channel([[1.1, -0.1], [0.5, 0.5]])
    with pytest.raises(DomainError, match="W must be finite"):
        contraction.channel([[np.nan, 1.0], [0.5, 0.5]])
    with pytest.raises(DomainError, match="label must be >= 0"):
        contraction.information(-0.1, 0.2, [0.5])
    with pytest.raises(DomainError, match="inputs must be >= 0"):
        contraction.information(0.1, -0.2, [0.5])
    with pytest.raises(DomainError, match=r"etas must lie in \[0, 1\]"):
        contraction.product([0.5, 1.5])
    with pytest.raises(DomainError, match="units must be >= 1"):
        contraction.depth_tradeoff(0.5, 0)
    with pytest.raises(DomainError, match="delta must be"):
        contraction.depth_tradeoff(1.5, 4)
