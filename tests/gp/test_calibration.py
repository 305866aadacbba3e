"""Scores, calibration and detection by hand, by enumeration, and on data that are calibrated."""

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from deeplimits import DomainError, ShapeError
from gp.calibration import (
    Reliability,
    accuracy,
    auroc,
    brier_score,
    interval_coverage,
    negative_log_likelihood,
    ood_auroc,
    predictive_entropy,
    reliability,
)
from gp.ood import KINDS, corrupt
from gp.predictive import Gaussian
from gp.student_t import MarginalT

P = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.5, 0.0], [0.25, 0.25, 0.5]])
T = np.array([0, 2, 0, 2])


def test_scores_by_hand():
    nll = negative_log_likelihood(P, T)
    each = -np.log([0.7, 0.3, 0.5, 0.5])
    assert nll.mean == pytest.approx(each.mean(), rel=1e-15)
    assert nll.stderr == pytest.approx(each.std(ddof=1) / 2, rel=1e-15)
    # sums of squares, row by row
    rows = [0.09 + 0.04 + 0.01, 0.01 + 0.36 + 0.49, 0.25 + 0.25, 0.0625 + 0.0625 + 0.25]
    assert brier_score(P, T).mean == pytest.approx(np.mean(rows), rel=1e-15)
    assert accuracy(P, T).mean == 0.75
    assert negative_log_likelihood(P, [1, 0, 2, 0]).mean == np.inf
    np.testing.assert_allclose(predictive_entropy(P)[2], np.log(2), rtol=1e-15)


def test_reliability_by_hand():
    # confidences .7 (right), .6 (wrong), .5 (right), .5 (right)
    found = reliability(P, T, bins=2)
    np.testing.assert_array_equal(found.count, [2, 2])  # .5 belongs to the lower bin
    np.testing.assert_allclose(found.confidence, [0.5, 0.65], rtol=1e-15)
    np.testing.assert_array_equal(found.accuracy, [1.0, 0.5])
    assert found.ece == pytest.approx(0.5 * 0.5 + 0.5 * 0.15, rel=1e-14)
    np.testing.assert_allclose(found.stderr, [np.sqrt(0.5) / 2, np.sqrt(0.21 + 0.24) / 2])
    null = np.sqrt(2 / np.pi) * (np.sqrt(0.5) + np.sqrt(0.45)) / 4
    assert found.ece_if_calibrated == pytest.approx(null, rel=1e-14)
    fifteen = reliability(P, T)
    assert len(fifteen.count) == 15
    assert np.isnan(fifteen.accuracy[0])
    mass = reliability(P, T, bins=2, binning="mass")
    np.testing.assert_allclose(mass.edges, [0.5, 0.55, 0.7], rtol=1e-14)
    np.testing.assert_array_equal(mass.count, [2, 2])
    assert isinstance(jax.tree.map(lambda leaf: leaf, found), Reliability)
    ax = found.plot(color="k")
    assert found.plot(ax) is ax
    assert ax.get_xlabel() == "confidence"
    plt.close("all")


@pytest.mark.parametrize("binning", ["width", "mass"])
def test_calibrated_predictions(binning):
    """Labels drawn from the probabilities: the ECE is what fluctuations alone give."""
    rng = np.random.default_rng(0)
    eces, errors = [], []
    for _ in range(40):
        p = rng.dirichlet(np.full(4, 0.5), size=400)
        labels = np.array([rng.choice(4, p=row) for row in p])
        found = reliability(p, labels, bins=10, binning=binning)
        eces.append(found.ece / found.ece_if_calibrated)
        errors.append(found.ece_stderr / found.ece)
    z = (np.mean(eces) - 1) / (np.std(eces, ddof=1) / np.sqrt(40))
    assert abs(z) < 4
    # the spread over data sets is of the size of the bootstrap error, which repeats the data's
    # own deviations and is therefore larger, by less than 2
    assert 0.5 < np.mean(errors) / np.std(eces, ddof=1) < 2
    sharp = reliability(np.where(p == p.max(1, keepdims=True), 0.97, 0.01), labels)
    assert sharp.ece > 5 * sharp.ece_if_calibrated


def test_auroc_against_all_pairs():
    rng = np.random.default_rng(1)
    low, high = rng.integers(0, 8, 30).astype(float), rng.integers(2, 11, 20).astype(float)
    pairs = (high[:, None] > low) + 0.5 * (high[:, None] == low)
    found = auroc(low, high)
    assert found.mean == pytest.approx(pairs.mean(), rel=1e-14)
    spread = pairs.mean(1).var(ddof=1) / 20 + pairs.mean(0).var(ddof=1) / 30
    assert found.stderr == pytest.approx(np.sqrt(spread), rel=1e-12)
    # the standard error is that of repetitions; 300 of them know it to 4 %
    many = [auroc(rng.normal(size=60), rng.normal(1, 1, 40)) for _ in range(300)]
    ratio = np.mean([m.stderr for m in many]) / np.std([m.mean for m in many])
    assert ratio == pytest.approx(1, abs=4 * 0.041)
    exact = scipy.stats.norm.cdf(1 / np.sqrt(2))
    assert (
        abs(np.mean([m.mean for m in many]) - exact) < 4 * np.std([m.mean for m in many]) / 300**0.5
    )


def test_ood_detection():
    inside, outside = np.array([[0.9, 0.1]] * 3 + [[0.6, 0.4]]), np.array([[0.5, 0.5]] * 2)
    for score in ("entropy", "max_probability"):
        assert ood_auroc(inside, outside, score=score).mean == 1.0
        assert ood_auroc(outside, inside, score=score).mean == 0.0
        assert ood_auroc(inside, inside, score=score).mean == 0.5
    # the two scores rank three classes differently
    a, b = np.array([[0.5, 0.5, 0.0]] * 2), np.array([[0.52, 0.24, 0.24]] * 2)
    assert ood_auroc(a, b).mean == 1.0
    assert ood_auroc(a, b, score="max_probability").mean == 0.0


def test_coverage():
    rng = np.random.default_rng(2)
    law = MarginalT(5.0, np.zeros(4000), np.ones(4000))
    found = interval_coverage(law, rng.standard_t(5, 4000))
    assert np.abs((found.share - found.levels) / found.stderr).max() < 4
    narrow = interval_coverage(Gaussian(np.zeros(4), np.eye(4)), np.full(4, 3.0), [0.5, 0.9])
    np.testing.assert_array_equal(narrow.share, [0, 0])
    assert narrow.error == pytest.approx(0.7, rel=1e-15)
    ax = found.plot()
    assert found.plot(ax, color="k") is ax
    plt.close("all")


# --- corrupted images


def test_corruptions_have_their_moments():
    flat = np.full((40, 20, 20), 10.0)
    options = {"key": 0, "low": 2.0, "high": 18.0}  # mid-grey: clipping is symmetric
    n = flat.size
    gauss = corrupt(flat, "gaussian", 1, **options)
    assert abs(gauss.mean() - 10) < 4 * 1.28 / np.sqrt(n)
    assert gauss.std() / (0.08 * 16) == pytest.approx(1, abs=4 / np.sqrt(2 * n))  # 6 sigma clip
    shot = (corrupt(flat, "shot", 1, **options) - 2) / 16
    # Poisson with mean 30 of 60 photons; no value is clipped (60 is 5.5 sigma away)
    assert abs(shot.mean() - 0.5) < 4 * np.sqrt(30 / n) / 60
    assert shot.var() * 3600 / 30 == pytest.approx(1, abs=4 * np.sqrt(2 / n) * 1.01)
    impulse = corrupt(flat, "impulse", 5, **options)
    for value in (2.0, 18.0):
        share = np.mean(impulse == value)
        assert abs(share - 0.135) < 4 * np.sqrt(0.135 * 0.865 / n)
    assert set(np.unique(impulse)) == {2.0, 10.0, 18.0}
    dot = np.zeros((1, 21, 21, 2))
    dot[0, 10, 10, 0] = 1.0
    blur = corrupt(dot, "blur", 3, key=0)
    np.testing.assert_allclose(blur[0, :, :, 1], 0, atol=1e-15)  # channels stay apart
    line = blur[0, :, 10, 0] / blur[0, :, 10, 0].sum()
    width = np.sqrt(np.sum(line * (np.arange(21) - 10.0) ** 2))
    assert width == pytest.approx(0.08 * 21, rel=1e-2)  # the filter is cut at four widths
    for kind in KINDS:
        sizes = [np.abs(corrupt(flat, kind, s, **options) - flat).mean() for s in (1, 5)]
        assert sizes[1] > 2 * sizes[0] or kind == "blur"
        out = corrupt(flat, kind, 5, **options)
        assert out.shape == flat.shape
        assert out.min() >= 2
        assert out.max() <= 18
    same = [corrupt(flat, "shot", 2, key=k, low=2, high=18) for k in (1, 1, 2)]
    assert (same[0] == same[1]).all()
    assert (same[0] != same[2]).any()


# --- bad input


@pytest.mark.parametrize(
    ("p", "labels", "error", "match"),
    [
        (P[0], T, ShapeError, r"p must have shape \(m, classes\)"),
        (P[:, :1], T, ShapeError, r"p must have shape \(m, classes\)"),
        (2 * P, T, DomainError, "rows add up to 1"),
        (P - 0.2, T, DomainError, "must hold probabilities"),
        (P * np.nan, T, DomainError, "p must be finite"),
        (P, T[:2], ShapeError, r"labels must have shape \(4,\)"),
        (P, T + 1, DomainError, r"labels must be integers in 0\.\.2"),
        (P, T.astype(float), DomainError, "labels must be integers"),
    ],
)
def test_bad_scores(p, labels, error, match):
    for score in (negative_log_likelihood, brier_score, accuracy, reliability):
        with pytest.raises(error, match=match):
            score(p, labels)


def test_other_bad_input():
    with pytest.raises(DomainError, match="bins must be >= 1"):
        reliability(P, T, bins=0)
    with pytest.raises(DomainError, match="binning must be one of 'width', 'mass'"):
        reliability(P, T, binning="quantile")
    with pytest.raises(DomainError, match="score must be one of 'entropy', 'max_probability'"):
        ood_auroc(P, P, score="variance")
    with pytest.raises(ShapeError, match="positives needs at least 2 samples"):
        auroc([1.0, 2.0], [1.0])
    with pytest.raises(ShapeError, match="negatives must be 1-D"):
        auroc(np.ones((2, 2)), [1.0, 2.0])
    with pytest.raises(DomainError, match="levels must be"):
        interval_coverage(MarginalT(5.0, np.zeros(2), np.ones(2)), np.zeros(2), [95.0])
    with pytest.raises(ShapeError, match="y must have the shape of the mean"):
        interval_coverage(MarginalT(5.0, np.zeros(2), np.ones(2)), np.zeros(3))


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"images": np.ones((2, 64))}, ShapeError, r"images must be \(n, height, width\)"),
        ({"kind": "fog"}, DomainError, "kind must be one of 'gaussian', 'shot'"),
        ({"severity": 6}, DomainError, "severity must be 1, 2, 3, 4 or 5, got 6"),
        ({"severity": 0}, DomainError, "severity must be >= 1"),
        ({"key": "a"}, DomainError, "key must be"),
        ({"high": 0.0}, DomainError, "high must be > 0"),
        ({"high": 0.5}, DomainError, r"images must lie in \[0, 0\.5\], got \[1, 1\]"),
    ],
)
def test_bad_corruptions(kwargs, error, match):
    given = {"images": np.ones((2, 4, 4)), "kind": "shot", "severity": 3, "key": 0, **kwargs}
    with pytest.raises(error, match=match):
        corrupt(given.pop("images"), given.pop("kind"), given.pop("severity"), **given)
