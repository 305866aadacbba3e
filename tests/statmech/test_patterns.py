"""Patterns have the moments that their names promise."""

import jax
import numpy as np
import pytest

import statmech
from deeplimits import datasets
from deeplimits.errors import DomainError, ShapeError

K, N = 4, 20_000
#: 4.5 standard errors of a mean of N bounded entries.
NOISE = 4.5 / N**0.5


def pair(x):
    """Overlaps of distinct patterns."""
    C = np.matmul(x.astype(float), np.swapaxes(x, -1, -2).astype(float)) / N
    return C[..., ~np.eye(K, dtype=bool)]


def test_moments():
    x = statmech.random_patterns(K, N, key=0)
    assert x.dtype == np.int8
    assert x.shape == (K, N)
    assert np.all(np.abs(x) == 1)
    assert np.abs(x.mean(1)).max() < NOISE
    assert np.abs(pair(x)).max() < NOISE
    d = statmech.diluted_patterns(K, N, 0.3, key=1, samples=2)
    assert d.shape == (2, K, N)
    assert np.abs((d == 0).mean(-1) - 0.3).max() < NOISE
    assert np.abs(d.mean(-1)).max() < NOISE
    a = statmech.biased_patterns(K, N, 0.4, key=2)
    assert np.abs(a.mean(1) - 0.4).max() < NOISE
    assert np.abs(pair(a) - 0.16).max() < NOISE
    c = statmech.correlated_patterns(K, N, 0.25, key=3)
    assert np.abs(c.mean(1)).max() < NOISE
    assert np.abs(pair(c) - 0.25).max() < NOISE
    s = statmech.corrupted(d[0], 0.6, key=4)
    np.testing.assert_array_equal(s == 0, d[0] == 0)
    assert np.abs((s * d[0]).mean(1) - 0.6 * 0.7).max() < NOISE
    np.testing.assert_array_equal(statmech.corrupted(x, 1.0, key=5), x)


def test_keys():
    x = statmech.random_patterns(K, 100, key=0)
    np.testing.assert_array_equal(x, statmech.random_patterns(K, 100, key=jax.random.key(0)))
    assert np.any(x != statmech.random_patterns(K, 100, key=1))


def test_noisy_examples():
    x = statmech.diluted_patterns(K, N, 0.2, key=0)
    M, r = 5, 0.4
    e = statmech.noisy_examples(x, M, r, key=1)
    assert e.examples.shape == (M, K, N)
    np.testing.assert_array_equal(e.examples == 0, np.broadcast_to(x == 0, (M, K, N)))
    assert np.abs((e.examples * x).mean(-1) - 0.8 * r).max() < NOISE
    assert e.R == pytest.approx(r**2 + (1 - r**2) / M)
    # second moment 1 on the entries that are not blank
    assert np.abs((e.average**2).mean(1) - 0.8).max() < 2 * NOISE
    # the sum over all examples of the pooled rule is that of the averages, and noise around it
    pooled = e.pooled.reshape(M, K, N).sum(0) / M**0.5
    np.testing.assert_allclose(pooled, e.average, atol=1e-12)


def test_statistics():
    # two equal patterns and one orthogonal to them: eigenvalues 2, 1, 0
    s = statmech.pattern_statistics([[1, 1, 1, 1], [1, 1, 1, 1], [1, -1, 1, -1]])
    assert (s.rank, s.largest, s.bias) == (2, 1.0, 8 / 12)
    assert s.correlation == pytest.approx((1 / 3) ** 0.5)
    p = np.array([2, 1]) / 3
    assert s.effective_rank == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=1e-12)
    alone = statmech.pattern_statistics(np.ones((1, 3)))
    assert (alone.correlation, alone.largest, alone.effective_rank) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("name", ["digits", "fashion_1000"])
def test_images(name):
    x = statmech.image_patterns(name, 20, key=0)
    assert x.patterns.shape == (20, np.prod(x.shape))
    assert np.all(np.abs(x.patterns) == 1)
    assert x.labels.shape == (20,)
    # images are much more correlated than random patterns, and less if what they share is removed
    random = statmech.pattern_statistics(statmech.random_patterns(*x.patterns.shape, key=1))
    assert x.statistics.correlation > 1.5 * random.correlation
    assert x.statistics.effective_rank < random.effective_rank
    pixel = statmech.image_patterns(name, 20, key=0, threshold="pixel")
    assert pixel.statistics.correlation < x.statistics.correlation


def test_images_in_order():
    data = datasets.load("digits")
    x = statmech.image_patterns(data, 3, threshold="mean")
    np.testing.assert_array_equal(x.labels, data.y[:3])
    image = np.asarray(data.X[0])
    np.testing.assert_array_equal(x.patterns[0], np.where(image > image.mean(), 1, -1))
    assert len(statmech.image_patterns(data).patterns) == len(data)


BAD = [
    (lambda: statmech.random_patterns(0, 5, key=0), DomainError, "K must be >= 1"),
    (lambda: statmech.random_patterns(2, 5, key=0, samples=0), DomainError, "samples must be"),
    (lambda: statmech.random_patterns(2, 5, key=0.5), DomainError, "key must be"),
    (lambda: statmech.diluted_patterns(2, 5, 1.0, key=0), DomainError, "d must be >= 0"),
    (lambda: statmech.biased_patterns(2, 5, 1.0, key=0), DomainError, "a must be > -1"),
    (lambda: statmech.correlated_patterns(2, 5, -0.1, key=0), DomainError, "C must be >= 0"),
    (lambda: statmech.corrupted([1, 2], 0.5, key=0), DomainError, "spins must hold only -1, 0"),
    (lambda: statmech.corrupted([1, 1], 1.5, key=0), DomainError, "overlap must be"),
    (lambda: statmech.noisy_examples([1, -1], 2, 0.5, key=0), ShapeError, "patterns must have"),
    (lambda: statmech.noisy_examples([[1, -1]], 2, 0.0, key=0), DomainError, "r must be > 0"),
    (lambda: statmech.noisy_examples([[1, -1]], 0, 0.5, key=0), DomainError, "M must be >= 1"),
    (lambda: statmech.pattern_statistics([1.0]), ShapeError, "patterns must have shape"),
    (lambda: statmech.pattern_statistics([[0.0]]), DomainError, "must not all be zero"),
    (lambda: statmech.image_patterns("yacht"), DomainError, "must hold images"),
    (lambda: statmech.image_patterns("digits", 10**6), DomainError, "at most the number"),
    (lambda: statmech.image_patterns("digits", threshold="otsu"), DomainError, "threshold must"),
]


@pytest.mark.parametrize(("call", "error", "match"), BAD, ids=[b[2][:30] for b in BAD])
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()
