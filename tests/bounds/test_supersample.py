"""Supersamples: exact choices by enumeration, published numbers, networks on real digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from bounds.hierarchy import hierarchy_linear_gaussian
from bounds.supersample import Supersample, supersample
from deeplimits import DomainError, ShapeError, datasets


def nearest_mean(key, X, y):
    """Linear classifier along the difference of the class means."""
    w = (X * y[:, None]).mean(0)
    return lambda Z: jnp.where(jnp.matmul(Z, w) > 0, 1.0, -1.0)


def nearest_neighbour(key, X, y):
    """The label of the closest training example: no training errors."""
    return lambda Z: y[jnp.argmin(((Z[:, None] - X[None]) ** 2).sum(-1), axis=1)]


def network(key, X, y, width=8, steps=60):
    """One hidden layer of tanh units under gradient descent on the logistic loss."""
    first, second = jax.random.split(key)
    d = X.shape[1]
    start = (
        jax.random.normal(first, (d, width)) / d**0.5,
        jax.random.normal(second, (width,)) / width**0.5,
    )

    def output(w, Z):
        return jnp.matmul(jnp.tanh(jnp.matmul(Z, w[0])), w[1])

    def loss(w):
        return jnp.logaddexp(0.0, -y * output(w, X)).mean()

    def step(w, _):
        return jax.tree.map(lambda a, g: a - g, w, jax.grad(loss)(w)), None

    w = jax.lax.scan(step, start, None, length=steps)[0]
    return lambda Z: jnp.where(output(w, Z) > 0, 1.0, -1.0)


def gaussians(n, d, seed=0):
    """Two classes whose means are one standard deviation from the origin."""
    rng = np.random.default_rng(seed)
    y = rng.choice([-1.0, 1.0], n)
    return y[:, None] * d**-0.5 + rng.normal(size=(n, d)), y


def test_enumeration_by_hand():
    """All choices of a fixed set of pairs, retrained one by one in NumPy."""
    n = 4
    X, y = gaussians(2 * n, 3)
    s = supersample(nearest_mean, X, y, n, key=0, sets=2, selectors="all", progress=False)
    assert s.enumerated
    assert s.selectors == 16
    for k, set_key in enumerate(jax.random.split(jax.random.key(0), 2)):
        rng = np.random.default_rng(np.asarray(jax.random.key_data(set_key)))
        rows = rng.permutation(2 * n).reshape(n, 2)
        table, train, test = np.zeros((n, 2, 3)), 0.0, 0.0
        for code in range(16):
            coin = (code >> np.arange(n)) & 1
            chosen = rows[np.arange(n), coin]
            w = (X[chosen] * y[chosen, None]).mean(0)
            wrong = np.where(X @ w > 0, 1.0, -1.0) != y
            for i in range(n):
                table[i, coin[i], 1 + int(wrong[rows[i, 1]]) - int(wrong[rows[i, 0]])] += 1 / 8
            train += wrong[chosen].mean() / 16
            test += wrong[rows[np.arange(n), 1 - coin]].mean() / 16
        np.testing.assert_allclose(s.counts[k], table, atol=1e-15)  # eighths are exact
        assert s.train[k] == pytest.approx(train, rel=1e-14)
        assert s.test[k] == pytest.approx(test, rel=1e-14)
        joint = table / 2
        product = joint.sum(2)[..., None] * joint.sum(1)[:, None]
        np.testing.assert_allclose(
            s.information[k], scipy.special.rel_entr(joint, product).sum((1, 2)), atol=1e-15
        )
    assert any("exact, by enumeration" in a for a in s.bound.assumptions)
    assert float(s.bound) <= float(s.bound_averaged)


def test_published_nearest_mean():
    """Gap and bound for ten examples in ten dimensions; the exact gap is known too."""
    X, y = gaussians(4000, 10)
    s = supersample(nearest_mean, X, y, 10, key=0, sets=40, progress=False)
    exact = hierarchy_linear_gaussian([], 10, 1.0, mean=np.full(10, 10**-0.5))
    assert abs(float(s.gap) - exact.gap) < 4 * s.gap.stderr
    # published from 64 runs or more per set: 0.380 +- 0.014
    error = np.hypot(0.014, s.bound.terms["stderr"])
    assert abs(float(s.bound) - 0.380) < 4 * error
    assert exact.bound[0] == pytest.approx(0.513, abs=5e-4)
    assert float(s.gap) < float(s.bound)
    assert s.bound.rigor == "heuristic"
    assert any("64 runs" in a for a in s.bound.assumptions)
    assert s.bound.terms["selectors"] == 64
    ax = s.plot()
    assert "bound" in ax.get_ylabel()


def test_interpolation_identity():
    """Information gives the risk of the nearest neighbour; fresh data give it independently."""
    X, y = gaussians(4000, 3)
    s = supersample(nearest_neighbour, X, y, 6, key=1, sets=150, selectors=16, progress=False)
    assert not s.train.any()
    rng = np.random.default_rng(5)
    Z, labels = gaussians(400, 3, seed=6)
    risks = []
    for _ in range(400):
        chosen = rng.choice(4000, 6, replace=False)
        nearest = np.argmin(((Z[:, None] - X[chosen]) ** 2).sum(-1), axis=1)
        risks.append((y[chosen][nearest] != labels).mean())
    r = s.interpolation_risk
    # the 400 fresh points are a sample too
    error = np.sqrt(r.stderr**2 + np.var(risks) / 400 + np.mean(risks) / 400)
    assert abs(float(r) - np.mean(risks)) < 4 * error
    assert r.units == "1"
    clumsy = Supersample(s.counts, s.train + 0.1, s.test, 16, False)
    with pytest.raises(DomainError, match="the identity holds without training errors"):
        assert clumsy.interpolation_risk


def test_information_of_known_tables():
    """An algorithm that ignores its data tells nothing, one that memorises everything one bit."""
    none = np.broadcast_to([0.2, 0.5, 0.3], (3, 4, 2, 3))
    s = Supersample(none, np.zeros(3), np.zeros(3), 8, True)
    assert float(s.bound) == 0
    assert float(s.bound_averaged) == 0
    every = np.broadcast_to([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], (3, 4, 2, 3))
    s = Supersample(every, np.zeros(3), np.ones(3), 8, True)
    np.testing.assert_allclose(s.information, np.log(2), rtol=1e-15)
    assert s.interpolation_risk.value == pytest.approx(1, rel=1e-15)
    assert float(s.bound) == pytest.approx(np.sqrt(2 * np.log(2)), rel=1e-15)


def test_bound_holds_for_networks_on_digits():
    """Small networks on pairs of digits: count of violations."""
    digits = datasets.load("digits")
    violations = 0
    for a, b in ((3, 8), (4, 9)):
        rows = np.flatnonzero((digits.y == a) | (digits.y == b))[:300]
        X, y = digits.X[rows] / 16 - 0.3, np.where(digits.y[rows] == a, 1.0, -1.0)
        s = supersample(
            network, X, y, 8, key=2, sets=6, selectors=32, batch_size=16, progress=False
        )
        violations += float(s.gap) > float(s.bound)
        assert float(s.risk) == pytest.approx(s.test.mean(), rel=1e-14)
    assert violations == 0


def test_bad_input():
    X, y = gaussians(12, 2)

    def call(**changes):
        arguments = {"train": nearest_mean, "X": X, "y": y, "n": 4, "key": 0} | changes
        return supersample(**arguments)

    with pytest.raises(ShapeError, match=r"y must have shape \(12,\)"):
        call(y=y[:-1])
    with pytest.raises(ShapeError, match="at least 2 n = 14 examples"):
        call(n=7)
    with pytest.raises(DomainError, match="n must be >= 1"):
        call(n=0)
    with pytest.raises(DomainError, match="sets must be >= 2"):
        call(sets=1)
    with pytest.raises(DomainError, match="selectors must be even"):
        call(selectors=5)
    with pytest.raises(DomainError, match="selectors must be an integer"):
        call(selectors="some")
    with pytest.raises(DomainError, match='selectors="all" needs n <= 14'):
        call(X=np.ones((40, 2)), y=np.ones(40), n=15, selectors="all")
    with pytest.raises(DomainError, match="batch_size must be >= 1"):
        call(batch_size=0)
    with pytest.raises(ShapeError, match=r"one label per row, shape \(8,\)"):
        call(train=lambda key, X, y: lambda Z: Z)
    with pytest.raises(DomainError, match="key must be"):
        call(key=None)
