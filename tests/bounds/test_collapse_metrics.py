"""Neural-collapse metrics against their definitions written out, and against theory targets."""

import numpy as np
import pytest

from bounds import collapse
from deeplimits import DomainError, ShapeError

COUNTS = (3, 6, 12, 24)
LABELS = np.repeat(np.arange(4), COUNTS)


def written_out(features, labels, W, T, T_means, centred):
    """Loops over samples and classes."""
    K = len(W)
    mu = [features[labels == k].mean(0) for k in range(K)]
    mu_g = sum(mu) / K
    within = sum(np.outer(h - mu[k], h - mu[k]) for h, k in zip(features, labels, strict=True))
    between = sum(np.outer(m - mu_g, m - mu_g) for m in mu) / K
    nc1 = np.trace(within / len(features) @ np.linalg.pinv(between, rcond=1e-9)) / K
    aligned = np.stack([W @ (m - mu_g if centred else m) for m in mu], axis=1)

    def gap(a, b):
        return np.sqrt(((a / np.sqrt((a**2).sum()) - b / np.sqrt((b**2).sum())) ** 2).sum())

    return nc1, gap(W @ W.T, T), gap(aligned, T_means)


def test_definitions():
    rng = np.random.default_rng(0)
    H, W = rng.normal(size=(45, 7)), rng.normal(size=(4, 7))
    one, ball = np.eye(4), np.eye(4) - 0.25
    T = rng.normal(size=(2, 4, 4))
    for target, args in (
        ("simplex", (ball, ball, True)), ("orthogonal", (one, one, False)), (tuple(T), (*T, False)),
    ):  # fmt: skip
        m = collapse.metrics(H, LABELS, W, target=target)
        expected = written_out(H, LABELS, W, *args)
        np.testing.assert_allclose((m.nc1, m.nc2, m.nc3), expected, rtol=1e-10)  # rounding
    # the covariances add up to that of all samples around their mean, for balanced classes
    even = np.tile(np.arange(4), 10)
    m = collapse.metrics(H[:40], even, W)
    total = ((H[:40] - H[:40].mean(0)) ** 2).sum() / 40
    assert m.within + m.between == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize(("counts", "bias"), [(COUNTS, False), (COUNTS, True), ((5,) * 4, True)])
def test_minimisers_are_collapsed_at_every_layer(counts, bias):
    Y = collapse.one_hot(counts)
    labels = Y.argmax(0)
    m = collapse.minimizer(Y, [2e-3, 4e-3, 3e-3], 2e-3, bias=bias, width=(7, 6, 5))
    seen = collapse.layer_metrics(m.W, m.H.T, labels, target=m)
    # rounding of normalised matrices; NC1 is a square, its rounding is of order eps
    assert float(seen[["nc1", "nc2", "nc3"]].to_array().max()) < 1e-12
    assert seen.layer.values.tolist() == [0, 1, 2]
    if len(set(counts)) == 1:
        simplex = collapse.layer_metrics(m.W, m.H.T, labels)
        assert float(simplex[["nc1", "nc2", "nc3"]].to_array().max()) < 1e-12
    else:  # the targets of balanced classes are wrong here, by far more than rounding
        name = "simplex" if bias else "orthogonal"
        assert collapse.metrics(m.H.T, labels, m.classifier, target=name).nc2 > 0.1


def test_targets_of_the_general_orthogonal_frame():
    # diag(p^2) and diag(p^2 / (p^2 + N lambda_H)) for imbalanced classes
    Y, lam = collapse.one_hot(COUNTS), 6e-3
    m = collapse.minimizer(Y, [lam] * 3, lam)
    p2 = np.diag(m.classifier @ m.classifier.T)
    target = np.diag(p2), np.diag(p2 / (p2 + 45 * lam))
    rng = np.random.default_rng(1)
    H, W = m.H.T + 0.1 * rng.normal(size=(45, 4)), m.classifier + 0.1 * rng.normal(size=(4, 4))
    by_pair = collapse.metrics(H, LABELS, W, target=target)
    by_record = collapse.metrics(H, LABELS, W, target=m)
    np.testing.assert_allclose(
        (by_pair.nc1, by_pair.nc2, by_pair.nc3), (by_record.nc1, by_record.nc2, by_record.nc3),
        rtol=1e-12,
    )  # fmt: skip


def test_noise_raises_nc1_as_predicted():
    # orthonormal means and noise of variance s2 per direction: trace over the K - 1 directions of
    # the means, each with 1/K between classes, gives (K - 1) s2 (1 - 1/n)
    K, n, s2 = 4, 2000, 0.04
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(K), n)
    values = [
        collapse.metrics(
            np.eye(K, 6)[labels] + np.sqrt(s2) * rng.normal(size=(K * n, 6)), labels, np.eye(K, 6)
        ).nc1
        for _ in range(20)
    ]
    stderr = np.std(values, ddof=1) / np.sqrt(20)
    # the measured means scatter by s2/n, which enters at relative order s2/n = 2e-5 << stderr
    assert abs(np.mean(values) - (K - 1) * s2 * (1 - 1 / n)) < 4 * stderr


def test_plot():
    m = collapse.minimizer(collapse.one_hot(COUNTS), [2e-3] * 2, 2e-3)
    ax = collapse.plot_metrics(collapse.layer_metrics(m.W, m.H.T, LABELS, target=m))
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["NC1", "NC2", "NC3"]


def test_bad_input():
    H, W = np.random.default_rng(0).normal(size=(45, 5)), np.eye(4, 5)
    m = collapse.minimizer(collapse.one_hot([2, 2, 2, 2]), 0.01, 0.01)
    with pytest.raises(ShapeError, match=r"labels must have shape \(45,\)"):
        collapse.metrics(H, LABELS[1:], W)
    with pytest.raises(DomainError, match="labels must be integers"):
        collapse.metrics(H, LABELS.astype(float), W)
    with pytest.raises(DomainError, match=r"labels must be 0\.\.3 .* every class present"):
        collapse.metrics(H, np.minimum(LABELS, 2), W)
    with pytest.raises(ShapeError, match="classifier must have one column per feature"):
        collapse.metrics(H, LABELS, np.eye(4))
    with pytest.raises(DomainError, match="target must be one of"):
        collapse.metrics(H, LABELS, W, target="cube")
    with pytest.raises(ShapeError, match=r"target must hold two \(4, 4\) matrices"):
        collapse.metrics(H, LABELS, W, target=(np.eye(3), np.eye(3)))
    with pytest.raises(ShapeError, match="as many samples as labels, got 8 and 45"):
        collapse.metrics(H, LABELS, W, target=m)
    with pytest.raises(DomainError, match="features must differ between classes"):
        collapse.metrics(np.ones((45, 5)), LABELS, W)
    with pytest.raises(DomainError, match="classifier and its target must not be zero"):
        collapse.metrics(H, LABELS, 0 * W)
    with pytest.raises(ShapeError, match="weights must hold at least one matrix"):
        collapse.layer_metrics([], H, LABELS)
    with pytest.raises(ShapeError, match="the minimiser must have 2 layers like weights, got 1"):
        collapse.layer_metrics([np.eye(5), W], H, LABELS, target=m)
    with pytest.raises(DomainError, match="features must be finite"):
        collapse.metrics(H * np.nan, LABELS, W)
