"""Norm-based complexities against suprema that are computed exactly for small networks."""

import itertools
import math

import numpy as np
import pytest

from bounds.norms import (
    barron_sampling_error,
    frobenius_complexity,
    path_norm_complexity,
    spectral_complexity,
)
from bounds.rademacher import lipschitz_loss, rademacher_risk
from deeplimits import DomainError, ShapeError, z_score

POINTS = 8


@pytest.fixture(scope="module")
def plane():
    """Eight points in the plane and all their signs, one of each pair (s, -s)."""
    X = np.random.default_rng(0).normal(size=(POINTS, 2))
    signs = np.array([(1.0, *s) for s in itertools.product((1.0, -1.0), repeat=POINTS - 1)])
    return X, signs


def directions(X):
    """Angles between which no unit switches, in order."""
    normal = np.arctan2(X[:, 1], X[:, 0])
    kinks = np.concatenate([normal + np.pi / 2, normal - np.pi / 2]) % (2 * np.pi)
    return np.sort(kinks)


def steepest(X, s):
    """Exact maximum over unit vectors v of |sum_i s_i relu(v . x_i)| in the plane, per sign row."""
    ends = directions(X)
    middles = (ends + np.r_[ends[1:], ends[0] + 2 * np.pi]) / 2
    best = np.zeros(len(s))
    for low, middle, high in zip(ends, middles, np.r_[ends[1:], ends[0] + 2 * np.pi], strict=True):
        on = X @ [np.cos(middle), np.sin(middle)] > 0
        u = s @ (X * on[:, None])  # the sum is u . v between these angles
        for sign in (1, -1):
            top = np.arctan2(sign * u[:, 1], sign * u[:, 0])
            inside = (top - low) % (2 * np.pi) <= high - low
            best = np.maximum(best, np.where(inside, np.linalg.norm(u, axis=1), 0))
            for end in (low, high):
                best = np.maximum(best, sign * (u @ [np.cos(end), np.sin(end)]))
    return best


def test_frobenius_against_all_small_networks(plane):
    """Two layers of any width: the supremum is attained by one unit."""
    X, signs = plane
    sup = steepest(X, signs)
    angle = np.linspace(0, 2 * np.pi, 20_001)
    scan = np.maximum(X @ np.stack([np.cos(angle), np.sin(angle)]), 0)
    coarse = np.abs(signs[:5] @ scan).max(1)
    # the scan misses the top by a relative (step / 2)^2 / 2 at most
    np.testing.assert_allclose(sup[:5], coarse, rtol=2e-8)
    exact = sup.mean() / POINTS
    weights = [np.array([[0.3, 1.0], [-0.4, 2.0]]), np.array([[1.5], [-0.2]])]
    bound = frobenius_complexity(weights, X)
    norms = np.linalg.norm(weights[0]) * np.linalg.norm(weights[1])
    assert bound.terms["radius"] == pytest.approx(norms, rel=1e-15)
    assert 0.3 * float(bound) < exact * norms < float(bound) < bound.terms["published"]
    # one layer: a linear class, for which the bound is Jensen's inequality
    linear = frobenius_complexity([np.array([[1.0], [0.0]])], X)
    average = np.linalg.norm(signs @ X, axis=1).mean() / POINTS
    assert 2**-0.5 * float(linear) < average < float(linear)
    assert float(linear) == pytest.approx(np.linalg.norm(X) / POINTS, rel=1e-14)


def test_published_constant():
    # unit norms, 50 points of length 1: .377 and .430 for two and three layers
    X = np.eye(50)[:, :10]
    X[10:, 0] = 1.0
    one = [np.eye(10)[:, :1], np.ones((1, 1))]
    for depth, value in ((2, 0.377), (3, 0.430)):
        weights = one + [np.ones((1, 1))] * (depth - 2)
        got = frobenius_complexity(weights, X).terms["published"]
        assert got == pytest.approx(value, abs=5e-4)  # digits that are known


def test_path_norm_against_all_small_networks(plane):
    """The supremum over the l1 sphere is attained where a unit switches, or at a corner."""
    X, signs = plane
    kinks = directions(X)
    v = np.concatenate([np.stack([np.cos(kinks), np.sin(kinks)], 1), np.eye(2), -np.eye(2)])
    v /= np.abs(v).sum(1, keepdims=True)
    exact = np.abs(signs @ np.maximum(X @ v.T, 0)).max(1).mean() / POINTS
    W, a = np.array([[0.5, -1.0, 0.0], [0.5, 2.0, 0.0]]), np.array([[2.0], [-1.0], [7.0]])
    bound = path_norm_complexity([W, a], X)
    assert bound.terms["radius"] == pytest.approx(2 * 1 + 1 * 3, rel=1e-15)
    assert 0.1 * float(bound) < exact * 5 < float(bound) < bound.terms["published"]
    # .446: Q = 1, five columns of +-1, 50 points
    flat = np.random.default_rng(1).choice([-1.0, 1.0], size=(50, 5))
    unit = path_norm_complexity([np.eye(5)[:, :1], np.ones((1, 1))], flat)
    assert float(unit) == pytest.approx(2 * math.sqrt(2 * math.log(10) / 50), rel=1e-14)
    assert unit.terms["published"] == pytest.approx(float(unit), rel=1e-14)


def test_sampling_units():
    rng = np.random.default_rng(2)
    X, W, a = rng.normal(size=(30, 4)), rng.normal(size=(4, 40)), rng.normal(size=(40, 1)) / 40
    length = np.linalg.norm(W, axis=0)
    share = np.abs(a[:, 0]) * length
    norm = share.sum()
    active, f = np.maximum(X @ W, 0), np.maximum(X @ W, 0) @ a[:, 0]
    each = active * np.sign(a[:, 0]) / length * norm  # f is the average of these under share
    for m in (1, 20):
        bound = barron_sampling_error([W, a], X, m)
        drawn = rng.choice(40, p=share / norm, size=(4000, m))
        errors = ((each[:, drawn].mean(-1) - f[:, None]) ** 2).mean(0)
        stderr = errors.std(ddof=1) / len(errors) ** 0.5
        assert abs(z_score(errors.mean(), stderr, bound.terms["exact"])) < 3.5
        assert bound.terms["exact"] < float(bound)
        assert float(bound) == pytest.approx(norm**2 * (X**2).sum(1).mean() / m, rel=1e-14)
    assert bound.holds == "expectation"


def test_spectral_complexity():
    # diagonal matrices: the sum over units of the lengths of their weights is the trace
    W = [np.diag([3.0, 1.0]), np.diag([2.0, 0.5])]
    X = np.array([[1.0, 2.0], [0.0, 2.0]])
    got = spectral_complexity(W, X, margin=0.5)
    distance = ((4 / 3) ** (2 / 3) + (2.5 / 2) ** (2 / 3)) ** 1.5
    assert float(got) == pytest.approx(3 / (0.5 * 2) * 6 * distance, rel=1e-14)
    assert got.rigor == "heuristic"
    # not the transpose: weights of a unit stand in a column
    wide = np.array([[1.0, 0.0, 2.0]])
    one = spectral_complexity([wide], np.ones((1, 1)), 1.0)
    assert float(one) == pytest.approx(3.0, rel=1e-14)
    moved = spectral_complexity(W, X, 0.5, [np.diag([3.0, 0.0]), W[1]])
    assert moved.terms["distance"] == pytest.approx(1 / 3, rel=1e-14)
    with pytest.raises(DomainError, match="heuristic measure certifies nothing"):
        rademacher_risk(got, 0.1)


def test_risk_of_a_network(plane):
    X, _ = plane
    weights = [np.array([[1.0, -1.0], [0.0, 0.0]]), np.array([[1.0], [-1.0]])]  # the first input
    outputs = np.maximum(X @ weights[0], 0) @ weights[1][:, 0]
    y = np.sign(X[:, 0])
    many = np.tile(X, (2000, 1))
    loss = lipschitz_loss(outputs, y)
    assert loss == pytest.approx(np.mean(np.maximum(1 - np.abs(X[:, 0]), 0)), rel=1e-14)
    for complexity in (frobenius_complexity(weights, many), path_norm_complexity(weights, many)):
        risk = rademacher_risk(complexity, loss, 0.05)
        assert loss < float(risk) < 1
        assert risk.terms["ball"] >= risk.terms["radius"] > risk.terms["ball"] / 2
        assert risk.holds == "probability"


def test_bad_input():
    X, W, a = np.ones((3, 2)), np.ones((2, 4)), np.ones((4, 1))
    with pytest.raises(ShapeError, match="weights must be matrices"):
        frobenius_complexity([np.ones(2)], X)
    with pytest.raises(ShapeError, match="weights must lead from the 2 columns of X to one output"):
        frobenius_complexity([W, np.ones((4, 2))], X)
    with pytest.raises(ShapeError, match="weights must lead from the 2 columns of X to the outp"):
        spectral_complexity([W, np.ones((3, 2))], X, 1.0)
    with pytest.raises(ShapeError, match="weights must be two matrices"):
        path_norm_complexity([np.ones((2, 1))], X)
    with pytest.raises(DomainError, match="weights must be finite"):
        frobenius_complexity([W * np.nan, a], X)
    with pytest.raises(DomainError, match="margin must be > 0"):
        spectral_complexity([W, a], X, 0.0)
    with pytest.raises(ShapeError, match="reference_weights must have the shapes"):
        spectral_complexity([W, a], X, 1.0, [W])
    with pytest.raises(DomainError, match="zero matrix"):
        spectral_complexity([W, 0 * a], X, 1.0)
    with pytest.raises(DomainError, match="m must be >= 1"):
        barron_sampling_error([W, a], X, 0)
    with pytest.raises(DomainError, match="empirical_risk must be"):
        rademacher_risk(frobenius_complexity([W, a], X), 1.2)
    with pytest.raises(DomainError, match="loss must be one of"):
        lipschitz_loss([0.1], [1.0], "hinge")
    with pytest.raises(DomainError, match=r"labels \+1 and -1 for the ramp loss"):
        lipschitz_loss([0.1], [0.5])
