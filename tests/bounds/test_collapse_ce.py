"""Cross-entropy: branches and searches against published values, certificates, own descent."""

import numpy as np
import pytest
import scipy.optimize
from scipy.special import log_softmax, softmax

from bounds import collapse
from bounds.collapse.geometry import orthoplex, simplex
from bounds.collapse.mse import product
from deeplimits import DomainError, ShapeError

#: K, n, M, lambda, simplex, orthoplex, lowest numerical value published.
TABLE = [
    (4, 5, 2, 2e-3, 0.0579892, 0.0586210, 0.0579892),
    (4, 5, 3, 2e-3, 0.0501265, 0.0461196, 0.0453421),
    (10, 3, 1, 1e-3, 0.1145847, 0.1234410, 0.1145847),
    (10, 3, 2, 1e-3, 0.0792954, 0.0699795, 0.0699796),
    (10, 3, 3, 1e-3, 0.0697967, 0.0552527, 0.0526791),
]


def objective(x, K, n, lam, depth):
    """All samples (n, or n[k], of class k), written out in NumPy: loss and gradient."""
    labels = np.repeat(np.arange(K), n)
    N = len(labels)
    parts = np.split(x[: depth * K * K], depth)
    W = [p.reshape(K, K) for p in parts]
    H, bias = x[depth * K * K : -K].reshape(K, N), x[-K:]
    below = [H]
    for layer in W:
        below.append(layer @ below[-1])
    Z = below[-1] + bias[:, None]
    value = -log_softmax(Z, axis=0)[labels, np.arange(N)].mean()
    value += 0.5 * lam * (x[:-K] ** 2).sum()
    back = (softmax(Z, axis=0) - np.eye(K)[:, labels]) / N
    slopes, slope_bias = [], back.sum(1)
    for layer, h in zip(W[::-1], below[-2::-1], strict=True):
        slopes.append(back @ h.T + lam * layer)
        back = layer.T @ back
    slopes = [*slopes[::-1], back + lam * H]
    return value, np.concatenate([*(s.ravel() for s in slopes), slope_bias])


@pytest.mark.parametrize(("K", "n", "M", "lam", "etf", "ortho", "best"), TABLE)
def test_published_numbers(K, n, M, lam, etf, ortho, best):
    branches = collapse.ce_branches(K, n, [lam] * M, lam)
    # seven published digits, the last of which may be cut
    assert branches["simplex ETF"].loss == pytest.approx(etf, abs=1e-7)
    assert branches["orthoplex"].loss == pytest.approx(ortho, abs=1e-7)
    lowest = next(iter(branches.values())).loss
    assert lowest == min(b.loss for b in branches.values())
    assert lowest > best - 1e-7


def test_one_layer_is_certified():
    # The problem in Z is convex: c at the branch is optimal if the gradient has spectral norm
    # sqrt(lam_W lam_H) and equals -sqrt(lam_W lam_H) U V^T on the row and column space of Z.
    K, n, lam = 4, 5, 2e-3
    branch = collapse.ce_branches(K, n, lam, lam)["simplex ETF"]
    assert branch.loss == pytest.approx(0.08590728, abs=6e-9)
    assert branch.scale == pytest.approx(5.39638, abs=6e-6)
    labels = np.repeat(np.arange(K), n)
    Z = branch.scale * simplex(K)[:, labels]
    slope = (softmax(Z, axis=0) - np.eye(K)[:, labels]) / (K * n)
    values = np.linalg.svd(slope, compute_uv=False)
    np.testing.assert_allclose(values[:3], lam, rtol=1e-11)  # rounding of a difference of order lam
    assert values[3] < 1e-15
    np.testing.assert_allclose(slope, -lam * simplex(K)[:, labels] / np.sqrt(n), atol=1e-14)


def test_branches_are_reached():
    # factors of the branch: same objective over all samples, and stationary
    K, n, lam, depth = 4, 2, 2e-3, 2
    for pattern, name in ((simplex(K), "simplex ETF"), (orthoplex(K), "orthoplex")):
        branch = collapse.ce_branch(pattern, n, [lam] * depth, lam, name=name)
        Z = branch.scale * np.repeat(pattern, n, axis=1)
        U, s, Vt = np.linalg.svd(Z, full_matrices=False)
        s = np.where(s > 1e-12, s, 0.0)
        third = np.cbrt(s)
        factors = np.diag(third), U * third, third[:, None] * Vt
        x = np.concatenate([*(f.ravel() for f in factors), np.zeros(K)])
        value, slope = objective(x, K, n, lam, depth)
        assert value == pytest.approx(branch.loss, rel=1e-12)  # rounding
        assert np.abs(slope).max() < 1e-14  # rounding
        np.testing.assert_allclose(branch.singular_values, s, atol=1e-13)


@pytest.fixture(scope="module")
def three_layers():
    return collapse.ce_minimise([5] * 4, [2e-3] * 3, 2e-3, key=0, restarts=16, steps=1000)


def test_search_beats_the_simplex(three_layers):
    found = three_layers
    assert found.loss == pytest.approx(0.0453421, abs=6e-8)  # published, rank 2
    assert found.rank == 2
    assert found.geometry == "rank 2"
    # the point is one of the full problem: same objective over all samples, and stationary
    H = np.repeat(found.H, 5, axis=1)
    x = np.concatenate([*(w.ravel() for w in found.W), H.ravel(), found.bias])
    value, slope = objective(x, 4, 5, 2e-3, 3)
    assert value == pytest.approx(found.loss, rel=1e-12)  # rounding
    assert np.abs(slope).max() < 1e-7  # tolerance of L-BFGS
    assert found.gradient < 1e-7
    noise = 1e-2 * np.random.default_rng(0).normal(size=len(x))
    args = (4, 5, 2e-3, 3)
    options = {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 3000}
    again = scipy.optimize.minimize(
        objective, x + noise, args, jac=True, method="L-BFGS-B", options=options
    )
    assert again.fun == pytest.approx(found.loss, rel=1e-7)  # a minimum, not a saddle
    assert found.losses.shape == (16,)
    assert found.plot().get_xlabel() == "rank"


def test_search_with_imbalanced_classes():
    counts = np.array([2, 3, 5, 10])
    found = collapse.ce_minimise(counts, [2e-3] * 3, 2e-3, key=0, restarts=16, steps=1000)
    H = np.repeat(found.H, counts, axis=1)
    x = np.concatenate([*(w.ravel() for w in found.W), H.ravel(), found.bias])
    value, slope = objective(x, 4, counts, 2e-3, 3)
    assert value == pytest.approx(found.loss, rel=1e-12)  # rounding
    assert np.abs(slope).max() < 1e-7  # tolerance of L-BFGS
    Z = product(found.W) @ H
    values = np.linalg.svd(Z, compute_uv=False)
    np.testing.assert_allclose(found.singular_values, values, atol=1e-11)  # of values up to 50


def test_ten_classes_three_layers():
    # lower than the published rank-4 point (.0526791): rank 3, two equal singular values
    found = collapse.ce_minimise([3] * 10, [1e-3] * 3, 1e-3, key=0, restarts=32, steps=1000)
    assert found.loss == pytest.approx(0.05167013, abs=2e-8)
    assert found.rank == 3
    H = np.repeat(found.H, 3, axis=1)
    x = np.concatenate([*(w.ravel() for w in found.W), H.ravel(), found.bias])
    value, slope = objective(x, 10, 3, 1e-3, 3)
    assert value == pytest.approx(found.loss, rel=1e-12)
    assert np.abs(slope).max() < 1e-7  # tolerance of L-BFGS


def test_nothing_is_learned_at_large_decay():
    branch = collapse.ce_branches(4, 5, [0.5] * 2, 0.5)["simplex ETF"]
    assert branch.scale == 0
    assert branch.loss == pytest.approx(np.log(4), rel=1e-15)


def test_bad_input():
    with pytest.raises(ShapeError, match="pattern must be square"):
        collapse.ce_branch(np.ones((2, 3)), 1, 0.1, 0.1)
    with pytest.raises(DomainError, match="largest entry of every column on the diagonal"):
        collapse.ce_branch(np.ones((3, 3)), 1, 0.1, 0.1)
    with pytest.raises(DomainError, match="n must be >= 1"):
        collapse.ce_branches(4, 0, 0.1, 0.1)
    with pytest.raises(DomainError, match="K must be >= 2"):
        collapse.ce_branches(1, 2, 0.1, 0.1)
    with pytest.raises(DomainError, match="at least two classes"):
        collapse.ce_minimise([4], 0.1, 0.1, key=0)
    with pytest.raises(DomainError, match="restarts must be >= 1"):
        collapse.ce_minimise([4, 4], 0.1, 0.1, key=0, restarts=0)
