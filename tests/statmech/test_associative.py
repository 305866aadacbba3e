"""Continuous Hopfield networks: energy, update, retrieval, fixed points."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from deeplimits.errors import DomainError, ShapeError
from statmech import associative

RNG = np.random.default_rng(7)
X = 3 * RNG.normal(size=(12, 6))
STATES = RNG.normal(size=(5, 6)) * np.array([0.2, 1, 2, 4, 6])[:, None]


def test_energy_against_mpmath():
    beta = 0.3
    with mpmath.workdps(40):
        rows, b = [[mpmath.mpf(float(v)) for v in row] for row in X], mpmath.mpf(beta)
        xi = [mpmath.mpf(float(v)) for v in STATES[3]]
        scores = [mpmath.fdot(row, xi) for row in rows]
        largest = max(mpmath.fdot(row, row) for row in rows)
        exact = (
            -mpmath.log(mpmath.fsum(mpmath.exp(b * s) for s in scores)) / b
            + mpmath.fdot(xi, xi) / 2
            + mpmath.log(len(rows)) / b
            + largest / 2
        )
    found = associative.energy(X, STATES, beta=beta)
    assert found.shape == (5,)
    # rounding of terms of the size of M^2 = 100
    assert float(found[3]) == pytest.approx(float(exact), rel=1e-14, abs=1e-13)


@pytest.mark.parametrize("beta", [0.05, 1.0])
def test_update_is_a_descent(beta):
    radius = np.linalg.norm(X, axis=1).max()
    rng = np.random.default_rng(1)
    states = rng.normal(size=(1000, 6))
    states *= radius * rng.uniform(size=(1000, 1)) / np.linalg.norm(states, axis=1, keepdims=True)
    before = np.asarray(associative.energy(X, states, beta=beta))
    after = np.asarray(associative.energy(X, associative.update(X, states, beta=beta), beta=beta))
    rounding = 1e-15 * radius**2 * 10
    assert np.all(after <= before + rounding)
    assert before.min() >= -rounding
    assert before.max() <= 2 * radius**2
    p = np.asarray(associative.weights(X, states, beta=beta))
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-14)
    np.testing.assert_allclose(p @ X, associative.update(X, states, beta=beta), atol=1e-13)


def test_update_is_the_gradient_of_the_energy():
    """grad E = xi - f(xi): stationary points are fixed points."""
    gradient = jax.vmap(jax.grad(lambda s: associative.energy(X, s, beta=0.3)))(jnp.asarray(STATES))
    expected = STATES - np.asarray(associative.update(X, STATES, beta=0.3))
    np.testing.assert_allclose(gradient, expected, atol=1e-13)  # rounding of entries up to 20


def test_separation():
    gram = X @ X.T
    brute = [gram[i, i] - max(gram[i, j] for j in range(12) if j != i) for i in range(12)]
    np.testing.assert_allclose(associative.separation(X), brute, rtol=1e-13)


def test_retrieve():
    queries = X[:, :].reshape(3, 4, 6) + 0.1
    found = associative.retrieve(X, queries, beta=1.0)
    assert found.states.shape == (3, 4, 6)
    assert bool(found.converged.all())
    # an independent loop, far beyond convergence
    state = queries.reshape(12, 6)
    for _ in range(500):
        state = np.asarray(associative.update(X, state, beta=1.0))
    # the criterion is 1e-10 (1 + |state|), with entries up to 8; contraction makes it smaller
    np.testing.assert_allclose(found.states.reshape(12, 6), state, atol=1e-8)
    assert found.energy.shape == found.steps.shape == (3, 4)
    assert int(found.steps.min()) >= 1
    single = associative.retrieve(X, X[0], beta=1.0)
    assert single.states.shape == (6,)
    few = associative.retrieve(X, STATES, beta=0.05, max_steps=2)
    assert not few.converged.all()
    assert int(few.steps.max()) == 2
    # what did not converge is the state after two updates, not something else
    twice = associative.update(X, associative.update(X, STATES, beta=0.05), beta=0.05)
    np.testing.assert_allclose(few.states, twice, atol=1e-13)


def test_implicit_derivative():
    """Through the fixed point, against differences of fixed points found anew."""

    def shifted(t):
        states = associative.retrieve(
            jnp.asarray(X).at[0, 1].add(t), STATES, beta=0.05 * (1 + t), tol=1e-14
        ).states
        return jnp.sum(jnp.sin(states))

    slope = jax.grad(shifted)(0.0)
    h = 1e-4
    differences = (shifted(h) - shifted(-h)) / (2 * h)
    # central differences: h^2 = 1e-8 times a curvature of order one
    assert float(slope) == pytest.approx(float(differences), rel=1e-6)
    assert abs(float(slope)) > 1e-3


def test_float32_stays_float32():
    found = associative.retrieve(X.astype(np.float32), STATES.astype(np.float32))
    assert found.states.dtype == found.energy.dtype == np.float32
    assert bool(found.converged.all())
    assert associative.energy(X.astype(np.float32), STATES).dtype == np.float64


def test_fixed_point_types_of_two_clusters():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(2, 16))
    centres *= 6 / np.linalg.norm(centres, axis=1, keepdims=True)
    clusters = np.repeat(centres, 5, axis=0) + 0.3 * rng.normal(size=(10, 16))
    expected = {0.01: (9, "global"), 0.15: (5, "metastable"), 10.0: (1, "single")}
    for beta, (k, kind) in expected.items():
        states = associative.retrieve(clusters, clusters, beta=beta).states
        found = associative.fixed_point_type(clusters, states, beta=beta)
        assert set(np.asarray(found.k)) == {k}
        assert set(found.kind) == {kind}
        if kind == "metastable":
            means = np.repeat(clusters.reshape(2, 5, 16).mean(1), 5, axis=0)
            # the weights within a cluster differ by beta times the scatter of the scores
            assert np.abs(states - means).max() < 0.3 * 6 * 0.15  # scatter times norm times beta
        if kind == "single":
            assert float(found.weight.min()) > 0.99
            nearest = clusters[np.asarray(found.pattern)]
            # one per cent of the weight on patterns at distances up to 10
            assert np.abs(states - nearest).max() < 0.1
    one = associative.fixed_point_type(clusters, 3 * clusters[6], beta=30.0)
    assert one.kind == "single"
    assert int(one.pattern) == int((clusters @ clusters[6]).argmax())


def test_types_with_equal_weights():
    """At a state orthogonal to all patterns weights are equal, up to rounding of their sum."""
    for n in (1, 2, 10, 30):
        patterns = np.hstack([np.eye(n), np.zeros((n, 1))])
        found = associative.fixed_point_type(patterns, np.eye(n + 1)[n])
        assert int(found.k) == int(np.ceil(0.9 * n - 1e-9))
        assert found.kind == ("single" if n == 1 else "global")


def test_plots():
    ax = associative.plot_fixed_point_types([0.1, 1, 10], [[9, 9], [5, 2], [1, 1]])
    assert ax.get_xscale() == "log"
    assert len(ax.collections) == 1
    line = associative.plot_fixed_point_types([0.1, 1, 10], [9, 5, 1], ax=ax).lines[-1]
    np.testing.assert_array_equal(line.get_ydata(), [9, 5, 1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: associative.energy(X[0], X[0]), ShapeError, "patterns must have shape"),
        (lambda: associative.energy(X[None], X), ShapeError, "Flatten each pattern"),
        (lambda: associative.energy(X, X[:, :3]), ShapeError, r"states must have shape \(..., 6\)"),
        (lambda: associative.energy(X, 1.0), ShapeError, "states must have shape"),
        (lambda: associative.energy(X, X, beta=0), DomainError, "beta must be > 0"),
        (lambda: associative.energy(X * 1j, X), DomainError, "patterns must be real"),
        (lambda: associative.energy(X, X * np.nan), DomainError, "states must be finite"),
        (lambda: associative.update(X, X, beta=-1), DomainError, "beta must be > 0"),
        (lambda: associative.separation(X[:1]), ShapeError, "patterns must have at least 2 rows"),
        (lambda: associative.retrieve(X, X, tol=0), DomainError, "tol must be > 0"),
        (lambda: associative.retrieve(X, X, max_steps=0), DomainError, "max_steps must be >= 1"),
        (lambda: associative.fixed_point_type(X, X, share=1), DomainError, "share must be > 0.0"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
