"""Gradient descent from random starts against the closed forms."""

import itertools

import numpy as np
import optax
import pytest

from bounds import collapse
from bounds.collapse.mse import product
from deeplimits import DomainError, ShapeError

COUNTS = (3, 6, 12, 24)


def test_balanced_classes_reach_the_simplex():
    Y = collapse.one_hot([5] * 4)
    lam, labels = [3e-3] * 2, Y.argmax(0)
    m = collapse.minimizer(Y, lam, 3e-3, bias=True)
    run = collapse.train_unconstrained(
        Y, lam, 3e-3, key=0, bias=True, width=8, restarts=4, steps=5000, init_std=0.3
    )
    np.testing.assert_allclose(run.final, m.loss, rtol=1e-11)  # descent has converged
    for restart in range(4):
        Z = run.Z(restart)
        # outputs differ by the root of what is left of the objective
        np.testing.assert_allclose(Z, m.Z, atol=1e-5)
        H = run.features(restart)
        assert collapse.geometry(H[:, ::5]) == "simplex ETF"
        measured = collapse.layer_metrics(run.weights(restart), H.T, labels)
        assert float(measured[["nc1", "nc2", "nc3"]].to_array().max()) < 1e-4  # likewise
    np.testing.assert_allclose(run.bias, 0.25, atol=1e-6)
    assert run.steps[-1] == 5000
    assert run.losses.shape == (4, 50)
    ax = run.plot(minimum=m.loss)
    assert len(ax.lines) == 4
    assert "steps" in run.plot(ax).get_xlabel()


def test_imbalanced_classes_reach_the_minimum_or_lose_whole_classes():
    # three layers: every subset of the classes is a local minimum, of known objective
    Y = collapse.one_hot(COUNTS)
    lam = [6e-3] * 3
    m = collapse.minimizer(Y, lam, 6e-3)
    run = collapse.train_unconstrained(
        Y, lam, 6e-3, key=1, width=5, restarts=12, steps=5000, init_std=0.4
    )
    subsets = [s for r in range(5) for s in itertools.combinations(range(4), r)]
    levels = np.array([m.loss + m.dropped[list(s)].sum() for s in subsets])
    nearest = np.abs(run.final[:, None] - levels).argmin(1)
    np.testing.assert_allclose(run.final, levels[nearest], rtol=1e-9)  # descent has converged
    assert len(set(nearest)) > 1  # some restarts end above the minimum
    assert subsets[nearest[run.best]] == ()
    order = np.argsort(-np.array(COUNTS))  # modes are in descending order of class size
    for restart, subset in enumerate(subsets[i] for i in nearest):
        signal = np.diag(run.Z(restart)[:, np.cumsum(COUNTS) - 1])
        expected = np.diag(m.Z[:, np.cumsum(COUNTS) - 1]).copy()
        expected[order[list(subset)]] = 0.0
        np.testing.assert_allclose(signal, expected, atol=1e-4)
    best, labels = run.best, Y.argmax(0)
    H, W = run.features(best), product(run.weights(best))
    found = collapse.metrics(H.T, labels, W, target=m)
    assert max(found.nc1, found.nc2, found.nc3) < 1e-4  # the root of what is left


def test_cross_entropy_with_another_optimizer():
    # one layer is convex in the product: every start must reach the simplex branch
    Y = collapse.one_hot([5] * 4)
    run = collapse.train_unconstrained(
        Y, 2e-3, 2e-3, key=0, bias=True, loss="cross_entropy", restarts=2, steps=4000,
        optimizer=optax.adam(optax.cosine_decay_schedule(0.03, 4000)), records=5,
    )  # fmt: skip
    branch = collapse.ce_branches(4, 5, 2e-3, 2e-3)["simplex ETF"]
    np.testing.assert_allclose(run.final, branch.loss, rtol=1e-8)  # descent has converged


def test_bad_input():
    Y = collapse.one_hot([2, 3])

    def train(Y=Y, **kw):
        return collapse.train_unconstrained(Y, 0.1, 0.1, **{"key": 0, **kw})

    for name in ("restarts", "records"):
        with pytest.raises(DomainError, match=f"{name} must be >= 1"):
            train(**{name: 0})
    with pytest.raises(DomainError, match="steps must be >= 50"):
        train(steps=20)
    with pytest.raises(DomainError, match="init_std must be > 0"):
        train(init_std=0.0)
    with pytest.raises(DomainError, match="loss must be one of"):
        train(loss="hinge")
    with pytest.raises(DomainError, match="Y must hold distributions"):
        train(2 * Y, loss="cross_entropy")
    with pytest.raises(DomainError, match="key must be"):
        train(key=-1)
    with pytest.raises(ShapeError, match="Y must be a matrix"):
        train(Y[0])
