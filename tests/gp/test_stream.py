import dataclasses
import itertools

import jax
import numpy as np
import pytest

from deeplimits import DomainError, JitterWarning, ShapeError
from gp.process import GP
from gp.stream import Stream, stream


def rbf(x, z=None):
    z = x if z is None else z
    return np.exp(-0.5 * ((x[:, None] - z[None]) ** 2).sum(-1))


def data(n=40, outputs=None, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 2)), rng.normal(size=n if outputs is None else (n, outputs))


X, Y = data()
XS = data(6, seed=1)[0]
MODEL = GP(rbf, noise=0.05)
CUTS = (0, 7, 8, 30, 40)


def fed(model=MODEL, x=X, y=Y, cuts=CUTS, noise=None):
    s = stream(model)
    for a, b in itertools.pairwise(cuts):
        s = s.update(x[a:b], y[a:b], noise=None if noise is None else noise[a:b])
    return s


@pytest.mark.parametrize("outputs", [None, 1, 3])
def test_equals_conditioning_on_everything(outputs):
    x, y = data(outputs=outputs)
    s, batch = fed(x=x, y=y), MODEL.condition(x, y)
    # condition number 1e3; 1e-10 is promised
    for field in ("chol", "white", "weights"):
        np.testing.assert_allclose(
            getattr(s.posterior, field), getattr(batch, field), rtol=0, atol=1e-11
        )
    np.testing.assert_allclose(s.posterior.mean(XS), batch.mean(XS), atol=1e-12)
    np.testing.assert_allclose(s.posterior.cov(XS), batch.cov(XS), atol=1e-12)
    assert s.log_scores.sum() == pytest.approx(batch.log_evidence, rel=1e-12)
    assert s.posterior.info == batch.info
    assert s.posterior.mean(XS).shape == batch.mean(XS).shape


def test_batch_scores_are_joint_predictive_densities():
    s = fed()
    for t, (a, b) in enumerate(itertools.pairwise(CUTS)):
        law = MODEL.prior(X[a:b], noise=True) if a == 0 else None
        law = law or MODEL.condition(X[:a], Y[:a]).predict(X[a:b], noise=True)
        assert s.log_scores[t] == pytest.approx(law.log_prob(Y[a:b]), rel=1e-10)  # condition 1e3
    assert len(s.log_scores) == 4


def test_the_past_is_kept():
    s = fed()
    for t in range(1, 5):
        then, batch = s.after(t), MODEL.condition(X[: CUTS[t]], Y[: CUTS[t]])
        np.testing.assert_allclose(then.mean(XS), batch.mean(XS), atol=1e-12)
        np.testing.assert_allclose(then.var(XS), batch.var(XS), atol=1e-12)
        assert then.info == batch.info
    first = stream(MODEL).update(X[:7], Y[:7])
    before = first.posterior.mean(XS)
    first.update(X[7:], Y[7:])
    np.testing.assert_array_equal(first.posterior.mean(XS), before)  # updates do not mutate


def test_noise_of_a_batch():
    noise = np.linspace(0.01, 0.5, 40)
    s, batch = fed(noise=noise), GP(rbf, noise=noise).condition(X, Y)
    np.testing.assert_allclose(s.posterior.mean(XS), batch.mean(XS), atol=1e-11)
    np.testing.assert_array_equal(s.posterior.info.noise, noise)
    np.testing.assert_array_equal(s.after(2).info.noise, noise[:8])
    mixed = stream(MODEL).update(X[:7], Y[:7]).update(X[7:], Y[7:], noise=0.3)
    expected = GP(rbf, noise=np.repeat([0.05, 0.3], [7, 33])).condition(X, Y)
    np.testing.assert_allclose(mixed.posterior.mean(XS), expected.mean(XS), atol=1e-12)


def test_scores_and_forgetting():
    # two tasks that contradict each other at the same inputs: noise 1, kernel 1, a single point,
    # labels -1 (n=50) and +1 (n=10): posterior means -50/51 and -40/61
    point = np.zeros((1, 2))

    def batch(label, n):
        return np.repeat(point, n, axis=0), np.full(n, label)

    s = stream(GP(rbf, noise=1.0)).update(*batch(-1.0, 50)).update(*batch(1.0, 10))
    assert s.after(1).mean(point)[0] == pytest.approx(-50 / 51, rel=1e-12)
    assert s.posterior.mean(point)[0] == pytest.approx(-40 / 61, rel=1e-12)
    first = -0.5 * (np.log(2 * np.pi * (1 + 1 / 51)) + (1 / 51) ** 2 / (1 + 1 / 51))
    last = -0.5 * (np.log(2 * np.pi * (1 + 1 / 61)) + (21 / 61) ** 2 / (1 + 1 / 61))
    np.testing.assert_allclose(s.scores(point, [-1.0]), [first, last], rtol=1e-12)
    assert s.forgetting(point, [-1.0]) == pytest.approx(first - last, rel=1e-10)
    assert s.forgetting(point, [1.0]) == 0.0
    assert s.scores(point, [-1.0], noise=2.0)[0] != s.scores(point, [-1.0])[0]


def test_repeats_without_noise_are_warned_about():
    s = stream(GP(rbf)).update(X[:5], Y[:5])
    again = np.concatenate([X[:5], X[:2]]), np.append(Y[:5], Y[:2] + 1e-9)
    with pytest.warns(JitterWarning, match="training covariance is singular"):
        after = s.update(again[0][5:], again[1][5:])
    with pytest.warns(JitterWarning):
        batch = GP(rbf).condition(*again)
    assert after.posterior.info == batch.info
    assert after.posterior.info.jitter > 0
    np.testing.assert_array_equal(after.posterior.chol, batch.chol)
    later = after.update(X[10:12], Y[10:12])  # with the same jitter
    assert later.posterior.info.jitter == batch.info.jitter
    full = GP(rbf, noise=batch.info.jitter).condition(later.posterior.X, later.posterior.y[:, 0])
    np.testing.assert_allclose(later.posterior.chol, full.chol, atol=1e-7)  # 1e-16 / sqrt(jitter)
    assert s.posterior.info.jitter == 0


def test_the_jitter_of_the_past_is_kept():
    small = GP(rbf, noise=0.02).condition(X[:5], Y[:5])  # read as noise 0 and jitter 0.02
    info = dataclasses.replace(small.info, noise=0.0, jitter=0.02)
    s = Stream(GP(rbf), (5,), dataclasses.replace(small, info=info)).update(X[5:9], Y[5:9])
    batch = GP(rbf, noise=0.02).condition(X[:9], Y[:9])
    np.testing.assert_allclose(s.posterior.chol, batch.chol, atol=1e-12)  # condition below 1e3
    assert s.posterior.info.jitter == 0.02


def test_record_is_a_pytree():
    s = jax.tree.map(lambda leaf: leaf, fed())
    assert isinstance(s, Stream)
    np.testing.assert_array_equal(s.posterior.mean(XS), fed().posterior.mean(XS))


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (rbf, "model must be a gp.GP"),
        (GP(rbf, noise=np.ones(3)), "one number as noise"),
        (GP(rbf, noise_rel=0.1), "noise_rel=0"),
    ],
)
def test_bad_models(model, match):
    with pytest.raises(DomainError, match=match):
        stream(model)


def test_bad_batches():
    empty, s = stream(GP(rbf, 0.1, max_points=10)), stream(GP(rbf, 0.1, max_points=10))
    s = s.update(X[:6], Y[:6])
    for call in (lambda: empty.posterior, lambda: empty.scores(X, Y), lambda: empty.after(1)):
        with pytest.raises(DomainError, match=r"no data|number of batches"):
            call()
    with pytest.raises(ShapeError, match="agree in every axis but the first"):
        s.update(X[:2, :1], Y[:2])
    with pytest.raises(ShapeError, match=r"y has 2 outputs .* earlier batches had 1"):
        s.update(X[:2], np.ones((2, 2)))
    with pytest.raises(ShapeError, match=r"y has 1 outputs"):
        s.update(X[:2], np.ones((2, 1)))
    with pytest.raises(DomainError, match="more than max_points=10"):
        s.update(X[:6], Y[:6])
    with pytest.raises(DomainError, match="t must be at most the number of batches, 1"):
        s.after(2)
    with pytest.raises(ShapeError, match="noise must be one number"):
        s.update(X[:2], Y[:2], noise=np.ones(3))
