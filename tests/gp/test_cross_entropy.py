"""Cross-entropy training against the same training in parameter space, and its initial law."""

import jax
import numpy as np
import pytest
import scipy.integrate
import scipy.special

from deeplimits import DomainError, ShapeError, UnstableLearningRateError
from gp.cross_entropy import CrossEntropyEnsemble, TrainedClassifiers


class Net:
    """An RBF kernel for the initial law and another, larger one for training."""

    def nngp(self, x, z=None):
        z = x if z is None else z
        return np.exp(-0.5 * ((x[:, None] - z[None]) ** 2).sum(-1))

    def ntk(self, x, z=None):
        return self.nngp(x, z) * 1.5 + 0.5


RNG = np.random.default_rng(0)
X, XS = RNG.normal(size=(6, 2)), RNG.normal(size=(3, 2))
LABELS = np.array([0, 1, 2, 1, 0, 0])
ONEHOT = np.eye(3)[LABELS]


def parameters():
    """Features whose products are the NTK at X and XS."""
    both = np.concatenate([X, XS])
    phi = np.linalg.cholesky(Net().ntk(both) + 1e-13 * np.eye(9))
    return phi[:6], phi[6:]


@pytest.mark.parametrize("loss", ["sum", "mean"])
def test_flow_against_parameters(loss):
    train, test = parameters()
    times = [0.0, 1.0, 40.0]
    ens = CrossEntropyEnsemble(Net(), 0.2, loss=loss).train(X, LABELS, key=1, times=times, draws=2)
    logits, start = ens.logits(XS, key=5), ens.start
    rate = 0.2 / (6 if loss == "mean" else 1)
    for k in range(2):

        def slope(_, theta, k=k):
            p = scipy.special.softmax(start[k] + train @ theta.reshape(9, 3), axis=1)
            return (rate * train.T @ (ONEHOT - p)).ravel()

        found = scipy.integrate.solve_ivp(
            slope, (0, 40), np.zeros(27), method="Radau", t_eval=times, rtol=1e-9, atol=1e-11
        )
        for i in range(3):
            moved = test @ found.y[:, i].reshape(9, 3)
            # the tolerance of both integrations, over 40 units of time; features to 1e-13
            np.testing.assert_allclose(logits[i, k], logits[0, k] + moved, atol=1e-6)
            at_x = start[k] + train @ found.y[:, i].reshape(9, 3)
            np.testing.assert_allclose(ens.train_logits()[i, k], at_x, atol=1e-6)


def test_descent_against_parameters():
    train, test = parameters()
    ens = CrossEntropyEnsemble(Net(), 2.0).train(X, LABELS, key=1, steps=[0, 1, 30], draws=1)
    theta, path = np.zeros((9, 3)), []
    for step in range(31):
        if step in (0, 1, 30):
            path.append(theta)
        p = scipy.special.softmax(ens.start[0] + train @ theta, axis=1)
        theta = theta + 2.0 / 6 * train.T @ (ONEHOT - p)
    logits = ens.logits(XS)[:, 0]
    for i in range(3):
        # the same arithmetic; features to 1e-13
        np.testing.assert_allclose(logits[i], logits[0] + test @ path[i], atol=1e-10)


def test_small_steps_tend_to_the_flow():
    flow = CrossEntropyEnsemble(Net(), 1.0).train(X, LABELS, key=1, times=[3.0], draws=1)
    gaps = []
    for rate in (0.04, 0.02):
        steps = CrossEntropyEnsemble(Net(), rate).train(
            X, LABELS, key=1, steps=[round(3 / rate)], draws=1
        )
        gaps.append(np.abs(steps.train_logits() - flow.train_logits()).max())
    assert gaps[0] / gaps[1] == pytest.approx(2, abs=0.1)  # first order in the step


def test_initial_functions_at_new_points():
    draws = 3000
    ens = CrossEntropyEnsemble(Net()).train(X, LABELS, key=2, times=[0.0], draws=draws)
    xs = np.concatenate([XS, X[:1]])
    logits = ens.logits(xs)[0]
    # a training point among the test points: its own initial value, to the root of the rounding
    np.testing.assert_allclose(logits[:, 3], ens.start[:, 0], atol=1e-5)
    both = np.concatenate([ens.start, logits[:, :3]], axis=1)
    cov = Net().nngp(np.concatenate([X, XS]))
    for c, d in ((0, 0), (2, 2), (0, 1)):
        pairs = both[:, :, None, c] * both[:, None, :, d]
        z = (pairs.mean(0) - cov * (c == d)) / (pairs.std(0) / np.sqrt(draws))
        assert np.abs(z).max() < 4.5  # 45 correlated numbers
    p = ens.predict_proba(XS)
    assert p.shape == (1, 3, 3)
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-13)
    # nothing learnt: classes alike
    assert np.abs(p - 1 / 3).max() < 4 * 0.3 / np.sqrt(draws)


def test_training_fits_the_labels():
    ens = CrossEntropyEnsemble(Net()).train(X, LABELS, key=2, times=[1.0, 1e3], draws=5)
    p = ens.predict_proba(X)
    assert p[1][np.arange(6), LABELS].min() > 0.9
    loss = -np.log(scipy.special.softmax(ens.train_logits(), axis=-1))[:, :, np.arange(6), LABELS]
    assert (loss.mean((1, 2))[1] < 0.2 * loss.mean((1, 2))[0]).all()
    assert isinstance(jax.tree.map(lambda leaf: leaf, ens), TrainedClassifiers)
    np.testing.assert_array_equal(ens.classes, [0, 1, 2])
    # sums over classes keep their initial values: the softmax does not see them
    total = ens.train_logits().sum(-1)
    np.testing.assert_allclose(total[0], total[1], atol=1e-6)


@pytest.mark.parametrize(
    ("model", "call", "error", "match"),
    [
        ({"net": Net().ntk}, {}, DomainError, "net must have the methods"),
        ({"learning_rate": 0.0}, {}, DomainError, "learning_rate must be > 0"),
        ({"loss": "mse"}, {}, DomainError, "loss must be one of 'sum', 'mean'"),
        ({"max_points": 5}, {}, DomainError, "more than max_points=5"),
        ({}, {"times": [np.inf]}, DomainError, "must be finite and increasing"),
        ({}, {"times": [2.0, 1.0]}, DomainError, "must be finite and increasing"),
        ({}, {"steps": [1]}, DomainError, "exactly one of times="),
        ({}, {"draws": 0}, DomainError, "draws must be >= 1"),
        ({}, {"rtol": 0.0}, DomainError, "rtol must be"),
        ({}, {"key": "a"}, DomainError, "key must be"),
        ({}, {"labels": LABELS[:3]}, ShapeError, r"labels must have shape \(6,\)"),
        ({}, {"labels": np.zeros(6, int)}, DomainError, "labels hold 1 class"),
        ({"learning_rate": 50.0}, {"times": None, "steps": [1]}, UnstableLearningRateError,
         "must be below"),
    ],
)  # fmt: skip
def test_bad_input(model, call, error, match):
    with pytest.raises(error, match=match):
        CrossEntropyEnsemble(**{"net": Net(), **model}).train(
            **{"X": X, "labels": LABELS, "key": 0, "times": [1.0], **call}
        )


def test_bad_queries():
    ens = CrossEntropyEnsemble(Net()).train(X, LABELS, key=2, times=[1.0], draws=2)
    for query in (ens.logits, ens.predict_proba):
        with pytest.raises(ShapeError, match="Xs and X must agree"):
            query(np.ones((2, 3)))
        with pytest.raises(DomainError, match="key must be"):
            query(XS, key="a")
