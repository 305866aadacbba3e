"""Collapse with squared error: closed forms against brute force, L-BFGS, published numbers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from bounds import collapse
from bounds.collapse.geometry import orthoplex, polygon, simplex
from deeplimits import DomainError, ShapeError
from deeplimits.errors import PrecisionError

RATIOS = np.concatenate([np.geomspace(1e-9, 0.49, 12), np.linspace(0.5, 1.2, 29)])
COUNTS = (3, 6, 12, 24)


def objective(x, Y, lam_W, lam_H, shapes, bias):
    """Written out again in NumPy, with its gradient: nothing shared with the package."""
    parts = np.split(x, np.cumsum([a * b for a, b in shapes]))
    *W, H = (p.reshape(s) for p, s in zip(parts, shapes, strict=False))
    beta = parts[-1] if bias else np.zeros(len(Y))
    below = [H]
    for layer in W:
        below.append(layer @ below[-1])
    residual = (below[-1] + beta[:, None] - Y) / Y.shape[1]
    value = 0.5 * Y.shape[1] * (residual**2).sum() + 0.5 * lam_H * (H**2).sum()
    value += 0.5 * sum(lam * (layer**2).sum() for lam, layer in zip(lam_W, W, strict=True))
    slopes, back = [], residual
    for lam, layer, h in zip(lam_W[::-1], W[::-1], below[-2::-1], strict=True):
        slopes.append(back @ h.T + lam * layer)
        back = layer.T @ back
    slopes = [*slopes[::-1], back + lam_H * H]
    return value, np.concatenate([s.ravel() for s in slopes] + [residual.sum(1)] * bias)


def pack(m):
    flat = [a.ravel() for a in (*m.W, m.H)]
    return np.concatenate(flat + ([m.bias] if m.has_bias else []))


@pytest.mark.parametrize("depth", [1, 2, 3, 6, 9])
def test_scalar_problem(depth):
    x = collapse.mode_strength(RATIOS, depth)
    grid = np.concatenate([[0.0], np.geomspace(1e-4, 1e5, 200_001)])

    def f(x, r):
        return 1 / (x**depth + 1) + r * x

    for r, mine in zip(RATIOS, x, strict=True):
        brute = f(grid, r).min()
        assert f(mine, r) <= brute + 1e-15  # rounding of values of order 1
        # the grid misses the minimum by half a step of 1e-4: f'' x^2 (5e-5)^2 with f'' x^2 < 10
        assert f(mine, r) >= brute - 3e-8
        if mine > 0:  # relative slope: rounding, times M for the power
            assert depth * mine ** (depth - 1) / (mine**depth + 1) ** 2 == pytest.approx(
                r, rel=1e-12
            )


def test_thresholds():
    assert collapse.thresholds(1) == collapse.Thresholds(1.0, 1.0)
    switch = [collapse.thresholds(M).switch for M in (2, 3)]
    spinodal = [collapse.thresholds(M).spinodal for M in (2, 3)]
    np.testing.assert_allclose(switch, [0.5, 0.52913], atol=5e-6)  # published to five digits
    np.testing.assert_allclose(spinodal, [0.64952, 0.83995], atol=5e-6)
    for depth in (2, 3, 6, 9):
        limits = collapse.thresholds(depth)
        at = collapse.mode_strength(limits.switch * (1 + np.array([-1e-9, 1e-9])), depth)
        assert at[1] == 0
        # both are minima: 1/(x^M+1) + r x = 1 up to the offset 1e-9 r x
        assert 1 / (at[0] ** depth + 1) + limits.switch * at[0] == pytest.approx(1, abs=1e-8)
        peak = scipy.optimize.minimize_scalar(
            lambda t, M=depth: -M * t ** (M - 1) / (t**M + 1) ** 2,
            bounds=(0.1, 2),
            method="bounded",
        )
        assert limits.spinodal == pytest.approx(-peak.fun, rel=1e-10)  # quadratic in xatol 1e-5
        beyond = limits.spinodal * np.array([1 - 1e-10, 1 + 1e-10])
        x = collapse.mode_strength(beyond, depth, metastable=True)
        # near the fold x differs from its position by the root of the offset
        assert x[0] == pytest.approx(((depth - 1) / (depth + 1)) ** (1 / depth), abs=1e-4)
        assert x[1] == 0


def test_derivative_is_that_of_the_implicit_function():
    r, depth, h = 0.2, 3, 1e-5
    slope = jax.grad(lambda r: collapse.mode_strength(r, depth))(jnp.asarray(r))
    low, high = collapse.mode_strength(np.array([r - h, r + h]), depth)
    # central difference: h^2 x'''/6 ~ 1e-8, rounding 1e-16/h = 1e-11
    assert float(slope) == pytest.approx((high - low) / (2 * h), rel=1e-7)
    with jax.enable_x64(False), pytest.raises(PrecisionError, match="mode_strength"):
        jax.grad(lambda r: collapse.mode_strength(r, depth))(jnp.float32(0.2))


def targets(kind, rng):
    if kind == "balanced":
        return collapse.one_hot([4] * 4)
    if kind == "imbalanced":
        return collapse.one_hot([2, 3, 5, 8])
    return rng.normal(size=(4, 12))


@pytest.mark.parametrize("kind", ["balanced", "imbalanced", "regression"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("width", [None, 2, "mixed"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_minimum_is_global(kind, bias, width, depth):
    rng = np.random.default_rng(depth)
    Y = targets(kind, rng)
    lam_W, lam_H = np.array([2e-3, 3e-3, 1.5e-3])[:depth], 2.5e-3
    width = tuple([6, 3, 5][:depth]) if width == "mixed" else width
    m = collapse.minimizer(Y, lam_W, lam_H, bias=bias, width=width)
    shapes = [*(W.shape for W in m.W), m.H.shape]
    args = (Y, lam_W, lam_H, shapes, bias)
    value, slope = objective(pack(m), *args)
    assert value == pytest.approx(m.loss, rel=1e-13)  # rounding
    assert np.abs(slope).max() < 1e-13  # of terms of order lambda W ~ 1e-2
    if (kind, bias, width, depth) == ("imbalanced", True, None, 2):
        by_package = collapse.unconstrained_objective(m.W, m.H, m.bias, Y, lam_W, lam_H)
        assert float(by_package) == pytest.approx(value, rel=1e-13)
    np.testing.assert_allclose(m.classifier @ m.H, m.Z, atol=1e-12)
    np.testing.assert_allclose(
        np.sort(np.linalg.svd(m.Z, compute_uv=False))[::-1][: m.rank],
        m.singular_values[: m.rank],
        rtol=1e-11,
    )  # rounding
    found = []
    for _ in range(8):  # for two layers and more some starts end in other local minima
        start = 0.7 * rng.normal(size=len(slope))
        options = {"maxiter": 2000, "ftol": 1e-15, "gtol": 1e-9}
        end = scipy.optimize.minimize(
            objective, start, args, jac=True, method="L-BFGS-B", options=options
        )
        found.append(end.fun)
        if len(found) > 1 and min(found) < m.loss * (1 + 1e-8):
            break
    assert min(found) > m.loss * (1 - 1e-12)  # nothing lies lower
    assert min(found) < m.loss * (1 + 1e-8)  # and it is reached, to the tolerance of L-BFGS


def test_published_numbers():
    lam = [6e-3] * 3
    Y = collapse.one_hot(COUNTS)
    m, labels = collapse.minimizer(Y, lam, 6e-3), Y.argmax(0)
    assert m.loss == pytest.approx(0.0822199, abs=5e-8)  # all digits published
    assert collapse.minimum_loss(COUNTS, lam, 6e-3) == pytest.approx(m.loss, rel=1e-14)
    gram, means = m.classifier @ m.classifier.T, m.class_means(labels)
    np.testing.assert_allclose(np.diag(gram), [1.8601, 3.4208, 6.0379, 10.4356], atol=6e-5)
    np.testing.assert_allclose((means**2).sum(0), [0.40995, 0.25113, 0.15175, 0.09105], atol=6e-6)
    aligned = m.classifier @ means
    np.testing.assert_allclose(np.diag(aligned), [0.87325, 0.92684, 0.95720, 0.97478], atol=6e-6)
    p2 = np.diag(gram)  # the relations between classifier, features and outputs
    n_lam = Y.shape[1] * 6e-3
    np.testing.assert_allclose(np.diag(aligned), p2 / (p2 + n_lam), rtol=1e-12)
    np.testing.assert_allclose((means**2).sum(0), p2 / (p2 + n_lam) ** 2, rtol=1e-12)
    np.testing.assert_allclose(m.classifier, (p2 + n_lam)[:, None] * means.T, atol=1e-12)
    assert m.geometry(labels) == "general orthogonal frame"
    lam = [3e-3, 3.9e-3]
    losses = [collapse.minimizer(Y, lam, 1.5e-3, bias=b).loss for b in (True, False)]
    np.testing.assert_allclose(losses, [0.0233887646, 0.0325617761], atol=6e-11)


def test_geometry_of_balanced_classes():
    Y = collapse.one_hot([5] * 4)
    labels = Y.argmax(0)
    free = collapse.minimizer(Y, [2e-3] * 2, 2e-3)
    tied = collapse.minimizer(Y, [2e-3] * 2, 2e-3, bias=True)
    assert free.geometry(labels) == "orthogonal frame"
    assert tied.geometry(labels) == "simplex ETF"
    np.testing.assert_allclose(tied.bias, 0.25, rtol=1e-15)
    c = tied.Z[0, 0] / 0.75
    np.testing.assert_allclose(tied.Z, c * simplex(4)[:, labels], atol=1e-13)  # rounding
    W = free.classifier
    np.testing.assert_allclose(W @ W.T, (W @ W.T)[0, 0] * np.eye(4), atol=1e-12)
    assert tied.layer_singular_values(1)[2] == pytest.approx(tied.layer_singular_values(0)[2])
    nearly = collapse.one_hot([499, 500, 501])  # eigenvectors turn fast, the loss does not
    losses = [
        collapse.minimizer(y, [1e-3] * 2, 1e-3, bias=True).loss
        for y in (nearly, collapse.one_hot([500] * 3))
    ]
    # the loss is even in the deviations n - 500, relative 1/500: of relative order 4e-6
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_geometry_names():
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(9, 9)))[0]

    def vectors(gram):
        w, V = np.linalg.eigh(gram)
        return turn[:, : len(gram)] @ (V * np.sqrt(np.maximum(w, 0))).T

    cases = {
        "simplex ETF": simplex(6), "orthogonal frame": np.eye(6), "orthoplex": orthoplex(6),
        "general orthogonal frame": np.diag([1.0, 2, 3, 0, 1, 1]), "zero": np.zeros((6, 6)),
        "rank 2": polygon(6),
    }  # fmt: skip
    for name, gram in cases.items():
        assert collapse.geometry(3 * vectors(gram)) == name
    assert collapse.geometry(vectors(polygon(4))) == "orthoplex"  # a square
    shuffled = vectors(orthoplex(6))[:, [3, 0, 5, 1, 4, 2]]
    assert collapse.geometry(shuffled) == "orthoplex"
    assert collapse.geometry(vectors(simplex(6)) + 0.1 * rng.normal(size=(9, 6))) == "rank 6"


@pytest.mark.parametrize("lam_H", [None, 4e-3])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_phase_diagram(depth, lam_H):
    N, counts = sum(COUNTS), np.array(COUNTS, float)
    lines = collapse.critical_decay(counts, N, depth, lam_H=lam_H)
    Y = collapse.one_hot(COUNTS)
    for k, at in enumerate(lines):  # class k vanishes there, at every depth, smallest first
        for lam, gone in ((at * (1 - 1e-6), k), (at * (1 + 1e-6), k + 1)):
            m = collapse.minimizer(Y, [lam] * depth, lam if lam_H is None else lam_H)
            assert m.vanished.tolist() == [i < gone for i in range(4)]
            assert m.rank == 4 - gone
    grid = np.geomspace(1e-3, 0.3, 40)
    data = collapse.phase_diagram(grid, counts, N, depth, lam_H=lam_H)
    for lam, column in zip(grid[::8], data.signal.values.T[::8], strict=True):
        m = collapse.minimizer(Y, [lam] * depth, lam if lam_H is None else lam_H)
        np.testing.assert_allclose(np.diag(m.Z[:, np.cumsum(COUNTS) - 1]), column, atol=1e-12)
    expected = (grid > data.switch.values[:, None]).astype(int) + (
        grid > data.spinodal.values[:, None]
    )
    np.testing.assert_array_equal(data.phase, expected)
    assert ((data.metastable_signal > 0) == (data.phase < 2)).all()
    if depth == 1:
        np.testing.assert_allclose(data.switch, data.spinodal, rtol=1e-14)


def test_dropped_modes_are_local_minima():
    Y = collapse.one_hot(COUNTS)
    lam = [6e-3] * 3
    m = collapse.minimizer(Y, lam, 6e-3)
    for k in range(4):  # without class k: the minimum of the rest, plus its targets unexplained
        W = [w.copy() for w in m.W]
        H = m.H.copy()
        H[k] = 0.0
        for w in W:
            w[:, k] = 0.0
        shapes = [*(w.shape for w in W), H.shape]
        x = np.concatenate([a.ravel() for a in (*W, H)])
        value, slope = objective(x, Y, lam, 6e-3, shapes, False)
        assert value == pytest.approx(m.loss + m.dropped[k], rel=1e-13)
        assert np.abs(slope).max() < 1e-13  # rounding


def test_plots():
    data = collapse.phase_diagram(np.geomspace(1e-3, 0.1, 5), [1, 10, 45], 45, 2)
    ax = collapse.plot_phase_diagram(data)
    assert ax.get_xlabel() == "weight decay"
    assert len(ax.lines) == 2
    ax = collapse.minimizer(collapse.one_hot(COUNTS), [1e-2] * 3, 1e-2).plot()
    assert len(ax.lines) == 2


def test_constant_targets_are_left_to_the_bias():
    m = collapse.minimizer(np.full((3, 5), 0.7), [0.1, 0.1], 0.1, bias=True)
    assert m.loss == 0
    assert m.rank == 0
    assert m.vanished.all()
    np.testing.assert_array_equal(m.output, 0.7)


def test_bad_input():
    Y = collapse.one_hot([2, 3])
    with pytest.raises(DomainError, match="counts must be whole numbers >= 1"):
        collapse.one_hot([2, 0])
    with pytest.raises(DomainError, match="counts must be whole numbers"):
        collapse.minimum_loss([2.5], [0.1], 0.1)
    for lam in (0.0, [0.1, -1.0], [[0.1]], []):
        with pytest.raises(DomainError, match="lam_W must be a number > 0"):
            collapse.minimizer(Y, lam, 0.1)
    with pytest.raises(DomainError, match="lam_H must be one number > 0"):
        collapse.minimizer(Y, 0.1, 0.0)
    with pytest.raises(DomainError, match="lam_W must be finite"):
        collapse.minimizer(Y, math.nan, 0.1)
    with pytest.raises(DomainError, match="Y must be finite"):
        collapse.minimizer(Y * np.nan, 0.1, 0.1)
    with pytest.raises(ShapeError, match="Y must be a matrix"):
        collapse.minimizer(Y[0], 0.1, 0.1)
    with pytest.raises(ShapeError, match="width must be one number or 1"):
        collapse.minimizer(Y, 0.1, 0.1, width=(3, 3))
    with pytest.raises(DomainError, match="width must be >= 1"):
        collapse.minimizer(Y, 0.1, 0.1, width=0)
    with pytest.raises(DomainError, match="depth must be >= 1"):
        collapse.thresholds(0)
    with pytest.raises(DomainError, match="ratio must be >= 0, got nan"):
        collapse.mode_strength([0.1, math.nan], 2)
    with pytest.raises(DomainError, match="line must be one of"):
        collapse.critical_decay(3, 10, 2, line="edge")
    with pytest.raises(DomainError, match="n_k must be > 0"):
        collapse.critical_decay(0, 10, 2)
    with pytest.raises(DomainError, match="n_k at most N = 10"):
        collapse.phase_diagram([0.1], [11], 10, 2)
    with pytest.raises(ShapeError, match=r"means must have shape \(d, K\)"):
        collapse.geometry([1.0, 2.0])
    with pytest.raises(DomainError, match="loss must be one of"):
        collapse.unconstrained_objective((np.eye(2),), Y, np.zeros(2), Y, [0.1], 0.1, loss="hinge")
