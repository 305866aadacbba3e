"""Stopping rules, and the ridge that a time of training amounts to."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.linalg

from deeplimits import DomainError, ShapeError
from gp.dynamics import Ensemble
from gp.predictive import StoppingScore


def rbf(x, z=None):
    z = x if z is None else z
    return np.exp(-0.5 * ((x[:, None] - z[None]) ** 2).sum(-1))


NET = SimpleNamespace(nngp=rbf, ntk=lambda x, z=None: 2 * rbf(x, z))
RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 2))
Y = np.sin(2 * X[:, 0]) + 0.5 * RNG.normal(size=30)
TIMES = np.geomspace(1e-2, 1e4, 40)
X6, Y6 = X[:6], Y[:6]


def test_stopping_score_is_exact_for_ridge():
    # mean predictor of the ridge ensemble at infinity = kernel ridge regression
    for ridge in (0.1, 0.0):
        ens = Ensemble(NET, ridge=ridge).train(X6, Y6, times=np.inf)
        gaps = []
        for i in range(6):
            rest = np.delete(np.arange(6), i)
            one = Ensemble(NET, ridge=ridge).train(X6[rest], Y6[rest], times=np.inf)
            gaps.append(Y6[i] - one.mean(X6[i : i + 1])[0, 0])
        # condition number of the NTK below 1e4
        assert ens.stop("loo").score[0] == pytest.approx(np.mean(np.square(gaps)), rel=1e-9)


def test_stopping_chooses_the_smallest_score():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3))
    y = np.sin(x[:, 0]) + 0.5 * rng.normal(size=40)
    times = np.geomspace(1e-2, 1e5, 30)
    ens = Ensemble(NET, 0.5).train(x, y, times=times)
    choice = ens.stop()
    assert isinstance(choice, StoppingScore)
    assert choice.score[choice.index] == choice.score.min()
    assert choice.time == times[choice.index]
    assert 0 < choice.index < 29  # noisy labels: neither untrained nor interpolating
    # scores from explicit smoothers
    for i in (0, choice.index):
        smoother = scipy.linalg.expm(-0.5 * times[i] * NET.ntk(x))
        score = np.mean((smoother @ y / np.diag(smoother)) ** 2)
        assert choice.score[i] == pytest.approx(score, rel=1e-9)  # expm and eigh, norm 30


def test_stopping_at_the_start_is_the_size_of_the_labels():
    ens = Ensemble(NET).train(X6, Y6, times=0.0)
    assert ens.stop().score[0] == pytest.approx(np.mean(Y6**2), rel=1e-12)


def test_undefined_stopping_score():
    # eigenvalues 1/2 and 3/2: after one step of rate 1 the residuals are +1/2 and -1/2, which
    # cancel on the diagonal of F because both eigenvectors are (1, +-1) / sqrt 2
    ntk = np.array([[1.0, -0.5], [-0.5, 1.0]])
    net = SimpleNamespace(nngp=lambda x, z=None: np.eye(2), ntk=lambda x, z=None: ntk)
    ens = Ensemble(net, 1.0).train(np.eye(2), np.ones(2), steps=1)
    with pytest.raises(DomainError, match="undefined at every stored time"):
        ens.stop()
    with pytest.raises(DomainError, match="rule must be one of 'loo', 'validation', 'rwy'"):
        ens.stop("gcv")


@pytest.mark.parametrize("loss", ["sum", "mean"])
def test_rule_of_raskutti_wainwright_and_yu(loss):
    ens = Ensemble(NET, 0.3, loss=loss).train(X, Y, times=TIMES)
    found = ens.stop("rwy", noise=0.25)
    # the inequality itself, with eigenvalues over n and the step that goes with them
    lam = np.linalg.eigvalsh(2 * rbf(X)) / 30
    step = 0.3 * (30 if loss == "sum" else 1)
    broken = [
        np.sqrt(np.mean(np.minimum(lam, 1 / (step * t)))) > 1 / (2 * np.e * 0.5 * step * t)
        for t in TIMES
    ]
    np.testing.assert_array_equal(found.score > 1, broken)
    first = int(np.argmax(broken))
    # the rule counts whole steps, at most one before the first that breaks it
    assert found.index == max(first - 1, 0) or TIMES[first] - TIMES[first - 1] < 1
    less = ens.stop("rwy", noise=0.01)
    assert less.time > found.time  # less noise, longer training
    assert ens.stop("rwy", noise=1e6).index == 0


def test_validation():
    xs = RNG.normal(size=(50, 2))
    ys = np.sin(2 * xs[:, 0])
    ens = Ensemble(NET, 0.3).train(X, Y, times=TIMES)
    found = ens.stop("validation", validation=(xs, ys))
    errors = [np.mean((m - ys) ** 2) for m in ens.mean(xs)]
    np.testing.assert_allclose(found.score, errors, rtol=1e-13)
    assert found.index == int(np.argmin(errors))
    two = Ensemble(NET, 0.3).train(X, np.stack([Y, Y], 1), times=TIMES)
    again = two.stop("validation", validation=(xs, np.stack([ys, ys], 1)))
    np.testing.assert_allclose(again.score, errors, rtol=1e-12)


def test_equivalent_ridge():
    ens = Ensemble(NET, 0.3).train(X, Y, times=[0.0, 0.5, 50.0, np.inf])
    by_time = ens.equivalent_ridge()
    np.testing.assert_allclose(by_time, [np.inf, 1 / 0.15, 1 / 15, 0])
    ridge = ens.equivalent_ridge("degrees_of_freedom")
    assert ridge[0] == np.inf
    for i in (1, 2):
        smoother = 2 * rbf(X) @ np.linalg.inv(2 * rbf(X) + ridge[i] * np.eye(30))
        # the solution is found to 1e-13 in its logarithm; condition number 1e3
        assert np.trace(smoother) == pytest.approx(np.sum(1 - ens.residual[i]), rel=1e-9)
    # one mode in closed form: s = lambda / (exp(x) - 1), x = rate lambda t
    one = Ensemble(NET, 0.3).train(X[:1], Y[:1], times=[1e-4, 2.0])
    exact = 2 / np.expm1(0.6 * one.times)
    np.testing.assert_allclose(one.equivalent_ridge("degrees_of_freedom"), exact, rtol=1e-9)
    # long before anything is fitted both are the same, to first order in x
    assert one.equivalent_ridge()[0] == pytest.approx(exact[0], rel=1e-4)
    assert one.equivalent_ridge()[1] / exact[1] == pytest.approx(np.expm1(1.2) / 1.2, rel=1e-9)
    # a ridge ensemble trained to the end has that ridge
    end = Ensemble(NET, ridge=0.7).train(X, Y, times=np.inf)
    assert end.equivalent_ridge("degrees_of_freedom")[0] == pytest.approx(0.7, rel=1e-9)


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "match"),
    [
        (("rwy",), {}, DomainError, r'noise= is for stop\("rwy"\)'),
        (("loo",), {"noise": 0.1}, DomainError, "got rule='loo'"),
        (("validation",), {}, DomainError, r"validation= for stop\(\"validation\"\)"),
        (("rwy",), {"noise": 0.0}, DomainError, "noise must be > 0"),
        (("validation",), {"validation": (X, Y[:3])}, ShapeError, "the validation targets must"),
        (("gcv",), {}, DomainError, "rule must be one of 'loo', 'validation', 'rwy'"),
    ],
)
def test_bad_rules(args, kwargs, error, match):
    ens = Ensemble(NET, 0.3).train(X, Y, times=TIMES[:3])
    with pytest.raises(error, match=match):
        ens.stop(*args, **kwargs)


def test_other_bad_input():
    ens = Ensemble(NET, 0.3).train(X, Y, times=TIMES[:3][::-1])
    with pytest.raises(DomainError, match="needs increasing times"):
        ens.stop("rwy", noise=0.1)
    with pytest.raises(DomainError, match="match must be one of 'time', 'degrees_of_freedom'"):
        ens.equivalent_ridge("trace")
