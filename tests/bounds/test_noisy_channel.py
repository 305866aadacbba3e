"""Noisy layers: mixtures by brute force, brackets around known values, the information plane."""

import dataclasses
import math
import zlib

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.special import logsumexp

from bounds import mutual_information as mi
from bounds.mutual_information.samples import generator
from deeplimits import DomainError, ShapeError, datasets

RNG = np.random.default_rng(23)


@pytest.fixture(autouse=True)
def own_numbers(request):
    """Every test draws its own numbers, whatever ran before it."""
    global RNG
    RNG = np.random.default_rng(zlib.crc32(request.node.name.encode()))


def log_components(t, c, noise):
    """ln p(t_i | c_j) without the normalisation that all share."""
    return -0.5 * (((t[:, None] - c[None]) / noise) ** 2).sum(-1)


def noisy(c, noise, draws, key):
    z = generator(key).standard_normal((draws * len(c), c.shape[1]))
    return np.tile(c, (draws, 1)) + noise * z


@pytest.mark.parametrize("noise", [0.7, 1e-4], ids=["expanded", "direct"])
def test_channel_equals_brute_force(noise):
    n, draws, scale = 40, 2, noise * np.array([1.0, 0.5, 2.0])
    c = RNG.normal(size=(n, 3))
    c[1:9] = c[0] + 2 * scale * RNG.normal(size=(8, 3))  # neighbours whatever the noise
    got = mi.noisy_channel(c, scale, draws=draws, key=7)
    logs = log_components(noisy(c, scale, draws, 7), c, scale)
    own = np.tile(np.arange(n), draws)
    rows = np.arange(draws * n)
    lower = logs[rows, own] - logsumexp(logs, axis=1) + math.log(n)
    logs_others = logs.copy()
    logs_others[rows, own] = -np.inf
    upper = logs[rows, own] - logsumexp(logs_others, axis=1) + math.log(n - 1)
    # points of size 1 in units of the noise: rounding of t - c, relative to its square
    assert float(got) == pytest.approx(lower.mean(), rel=1e-9)
    assert got.bracket == pytest.approx((lower.mean(), upper.mean()), rel=1e-9)
    per_input = lower.reshape(draws, n).mean(0)
    assert got.stderr == pytest.approx(per_input.std(ddof=1) / math.sqrt(n), rel=1e-9)
    assert got.ceiling == math.log(n)


def test_labels_and_stack_equal_brute_force():
    n, m, e = 30, 3, 0.8
    c = RNG.normal(size=(n * m, 2))
    logs = log_components(noisy(c, e, 1, 5), c, e)
    groups = np.repeat(np.arange(n), m)
    same, own = groups[:, None] == groups[None], np.eye(n * m, dtype=bool)

    def mean_log(mask, count):
        return logsumexp(np.where(mask, logs, -np.inf), axis=1).mean() - math.log(count)

    whole, inside = mean_log(own | True, n * m), mean_log(same, m)
    apart = mean_log(same & ~own, m - 1)
    got = mi.noisy_stack(c.reshape(n, m, 2), e, key=5)
    assert float(got) == pytest.approx(inside - whole, rel=1e-10)  # rounding of sums
    expected = (apart - whole, inside - mean_log(~same, n * m - m))
    assert got.bracket == pytest.approx(expected, rel=1e-10)
    got = mi.noisy_channel_labels(c, groups, e, key=5)
    assert float(got) == pytest.approx(inside - whole, rel=1e-10)
    expected = (apart - whole, inside - mean_log(~own, n * m - 1))
    assert got.bracket == pytest.approx(expected, rel=1e-10)
    assert got.ceiling == pytest.approx(math.log(n), rel=1e-14)


# Standard normal activations: d, noise, n, the bracket of an independent implementation.
PUBLISHED = [
    (5, 0.5, 2000, (3.966, 4.141)),
    (10, 0.5, 2000, (6.72, 9.42)),
    (5, 0.1, 2000, (7.55, 27.3)),
]


@pytest.mark.parametrize(("d", "noise", "n", "published"), PUBLISHED)
def test_published_brackets(d, noise, n, published):
    runs = [mi.noisy_channel(RNG.normal(size=(n, d)), noise, key=s) for s in range(3)]
    exact = 0.5 * d * math.log1p(noise**-2)
    brackets = np.array([r.bracket for r in runs])
    # the information density of one point has this standard deviation, which bounds that of both
    # ends from below and, with the far neighbours of the upper end, from above within a factor 2
    error = 2 * math.sqrt(d / (1 + noise**2) / n) + 0.01 * (exact > 7) * exact
    assert np.abs(brackets.mean(0) - published).max() < 4 * error * math.sqrt(1 + 1 / 3)
    low, high = brackets.mean(0)
    assert low < exact + 4 * error
    assert high > exact - 4 * error
    wide = [any("bracket spans" in note for note in r.warnings) for r in runs]
    assert all(wide) if exact > 7 else not any(wide)


def test_bracket_holds_in_expectation():
    d, e, n = 2, 0.4, 30
    ends = np.array([mi.noisy_channel(RNG.normal(size=(n, d)), e, key=s).bracket
                     for s in range(100)])  # fmt: skip
    exact = 0.5 * d * math.log1p(e**-2)
    low, high = (ends.mean(0) - exact) / (ends.std(0, ddof=1) / math.sqrt(100))
    assert low < -4  # truly below, and
    assert high > 4  # truly above: a bracket that may fail


def test_value_is_the_information_of_the_given_inputs():
    # two activations, +-1: the information is that of a labelled mixture
    exact = mi.labelled_mixture(2, [-1, 1], 0.8, key=0).information
    c = np.array([[-1.0], [1.0]])
    runs = [float(mi.noisy_channel(c, 0.8, draws=250, key=s)) for s in range(40)]
    assert abs(np.mean(runs) - exact) < 4 * np.std(runs, ddof=1) / math.sqrt(40)


def test_brackets_of_labels_and_stacks_hold_in_expectation():
    n, s, e = 20, 0.5, 0.6
    labels, stacks = [], []
    for key in range(100):
        y = RNG.integers(2, size=n)
        c = (2.0 * y - 1)[:, None] + s * RNG.normal(size=(n, 1))
        labels.append(mi.noisy_channel_labels(c, y, e, key=key))
        runs = RNG.normal(size=(n, 1, 2)) + s * RNG.normal(size=(n, 4, 2))
        stacks.append(mi.noisy_stack(runs, e, key=key))
    total = s**2 + e**2
    exact_labels = mi.labelled_mixture(2, [-1, 1], math.sqrt(total), key=0).information
    for runs, exact in ((labels, exact_labels), (stacks, math.log1p(1 / total))):
        ends = np.array([r.bracket for r in runs])
        low, high = (ends.mean(0) - exact) / (ends.std(0, ddof=1) / math.sqrt(100))
        assert low < -4
        assert high > 4


def test_rotation_and_copies_change_nothing():
    c = RNG.normal(size=(200, 3))
    plain = mi.noisy_channel(c, 0.5)
    shifted = mi.noisy_channel(c + 1e3, 0.5)
    assert float(shifted) == pytest.approx(float(plain), rel=1e-9)  # rounding of c + 1e3
    scaled = mi.noisy_channel(c * [1, 10, 100], 0.5 * np.array([1, 10, 100]))
    assert float(scaled) == pytest.approx(float(plain), rel=1e-12)
    images = mi.noisy_channel(c.reshape(200, 1, 3, 1), 0.5)
    assert float(images) == float(plain)


@pytest.fixture(scope="module")
def plane():
    digits = datasets.load("digits")
    x, y = digits.X / 16 - 0.3, digits.y
    return mi.information_plane(
        x[:1000], y[:1000], x[1000:1200], y[1000:1200], key=0, widths=(8, 4), noise=0.3,
        epochs=(0, 3, 30), runs=5,
    )  # fmt: skip


def test_information_plane(plane):
    assert plane.input_information.shape == plane.label_information.shape == (3, 2)
    assert plane.input_bracket.shape == (3, 2, 2)
    for value, bracket in (
        (plane.input_information, plane.input_bracket),
        (plane.label_information, plane.label_bracket),
    ):
        assert (bracket[..., 0] <= value).all()
        assert (value <= bracket[..., 1]).all()
    assert (plane.input_information <= plane.ceiling + 1e-9).all()
    assert plane.accuracy[0] < 0.3 < 0.7 < plane.accuracy[-1]
    # later layers know less, trained ones know more of the label
    assert (plane.input_information[:, 1] < plane.input_information[:, 0]).all()
    assert (plane.label_information[-1] > plane.label_information[0]).all()
    # Fano: a classifier of this accuracy needs that much
    error = 1 - plane.accuracy[-1]
    needed = plane.label_entropy - error * math.log(9) + error * math.log(error)
    needed += (1 - error) * math.log1p(-error)
    assert plane.label_bracket[-1, :, 1].min() > needed


def test_plot(plane):
    ax = plane.plot()
    assert ax.get_xlabel() == "I(X; T) (nats)"
    assert len(ax.get_legend().get_texts()) == 2
    line = ax.containers[1].lines[0].get_xydata()
    np.testing.assert_array_equal(line[:, 0], plane.input_information[:, 1])
    plt.close(ax.figure)
    assert dataclasses.is_dataclass(plane)


C, Y = RNG.normal(size=(20, 2)), np.arange(20) % 4
PLANE = {"key": 0, "epochs": (0,)}
BAD = [
    (lambda: mi.noisy_channel(C), "noise must be given", DomainError),
    (lambda: mi.noisy_channel(C, 0.0), "noise must be > 0", DomainError),
    (lambda: mi.noisy_channel(C, np.nan), "noise must be finite", DomainError),
    (lambda: mi.noisy_channel(C, [1.0, 1.0, 1.0]), r"shape \(2,\)", ShapeError),
    (lambda: mi.noisy_channel(C[:1], 1.0), "2 rows or more", ShapeError),
    (lambda: mi.noisy_channel(C, 1.0, draws=0), "draws must be >= 1", DomainError),
    (lambda: mi.noisy_channel_labels(C, Y[:9], 1.0), "labels must have shape", ShapeError),
    (lambda: mi.noisy_channel_labels(C, np.arange(20), 1.0), "two members", DomainError),
    (lambda: mi.noisy_stack(C, 1.0), r"shape \(n, m, d\)", ShapeError),
    (lambda: mi.information_plane(C, Y, C[:, :1], Y, **PLANE), "equally many", ShapeError),
    (lambda: mi.information_plane(C, Y, C, Y[:3], **PLANE), "y_test must have", ShapeError),
    (lambda: mi.information_plane(C, Y, C, Y, key=0, noise=0), "noise must be > 0", DomainError),
    (lambda: mi.information_plane(C, Y, C, Y, key=0, runs=1), "runs must be >= 2", DomainError),
    (lambda: mi.information_plane(C, Y, C, Y, key=0, widths=()), "widths must", DomainError),
    (lambda: mi.information_plane(C, Y, C, Y, key=0, epochs=(3, 1)), "increasing", DomainError),
]


@pytest.mark.parametrize(("call", "message", "error"), BAD, ids=[message for _, message, _ in BAD])
def test_bad_input(call, message, error):
    with pytest.raises(error, match=message):
        call()
