"""Similarity of representations: definitions written out, invariances, known counts and limits."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.stats

from bounds import similarity
from deeplimits import DomainError, ShapeError

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 5)), RNG.normal(size=(40, 7))
MIXED = np.concatenate([X[:, :3] @ RNG.normal(size=(3, 3)), Y[:, :2]], axis=1)


def turn(d, seed=0):
    return scipy.stats.ortho_group.rvs(d, random_state=seed)


def hsic_1(K, L):
    """The unbiased estimator as published, with explicit ones."""
    n = len(K)
    K, L = K - np.diag(np.diag(K)), L - np.diag(np.diag(L))
    one = np.ones(n)
    middle = one @ K @ one * (one @ L @ one) / ((n - 1) * (n - 2))
    return (np.trace(K @ L) + middle - 2 / (n - 2) * one @ K @ L @ one) / (n * (n - 3))


def test_unbiased_is_the_published_estimator():
    K, L = similarity.linear_gram(X), similarity.linear_gram(MIXED)
    e = similarity.cka(K, L)
    expected = [hsic_1(K, L), hsic_1(K, K), hsic_1(L, L)]
    np.testing.assert_allclose([*e.terms.values()], expected, rtol=1e-11)  # rounding
    assert e.value == pytest.approx(expected[0] / np.sqrt(expected[1] * expected[2]), rel=1e-12)
    assert np.abs(similarity.center_gram(K).sum(0)).max() < 1e-11  # rounding of sums of order 10
    # biased: features written out, |Xc^T Yc|^2 / (|Xc^T Xc| |Yc^T Yc|)
    A, B = X - X.mean(0), MIXED - MIXED.mean(0)
    value = np.linalg.norm(A.T @ B) ** 2 / np.linalg.norm(A.T @ A) / np.linalg.norm(B.T @ B)
    biased = similarity.cka_features(X, MIXED, unbiased=False)
    assert biased.value == pytest.approx(value, rel=1e-12)
    assert "biased" in biased.warnings[0]
    assert biased.stderr is None


def test_unbiased_means_zero_and_the_jackknife_error_is_its_scatter():
    # independent Gaussian features: HSIC_1 has mean 0; CKA of common parts has a known scatter
    rng = np.random.default_rng(1)
    zero, shared = [], []
    for _ in range(300):
        a, b, c = rng.normal(size=(3, 30, 2))
        zero.append(similarity.cka_features(a, b).terms["hsic_kl"])
        shared.append(similarity.cka_features(a + b, b + c))
    assert abs(np.mean(zero)) < 4 * np.std(zero) / np.sqrt(300)
    values = np.array([e.value for e in shared])
    stated = np.sqrt(np.mean([e.stderr**2 for e in shared]))
    # a standard deviation from 300 draws is known to 4 %; the jackknife is biased upwards, O(1/n)
    assert 0.85 < stated / values.std(ddof=1) < 1.35
    K, L = similarity.linear_gram(a + b), similarity.linear_gram(b + c)
    each = []
    for i in range(30):
        keep = np.arange(30) != i
        each.append(similarity.cka(K[np.ix_(keep, keep)], L[np.ix_(keep, keep)]).value)
    direct = np.sqrt(29 / 30 * np.sum((np.array(each) - np.mean(each)) ** 2))
    assert shared[-1].stderr == pytest.approx(direct, rel=1e-9)  # rounding of large sums


def test_independent_features():
    # published: biased .14, .63, .94, unbiased near zero, n = 60 and p = 10, 100, 1000
    rng = np.random.default_rng(0)
    for p, published in ((10, 0.14), (100, 0.63), (1000, 0.94)):
        a, b = rng.normal(size=(2, 60, p))
        biased = similarity.cka_features(a, b, unbiased=False).value
        assert biased == pytest.approx(published, abs=0.02)  # one draw, two published digits
        # unbiased: a correlation over n (n - 3) / 2 entries, standard deviation 1/n^1/2 n^1/2
        assert abs(similarity.cka_features(a, b).value) < 4 / np.sqrt(60 * 57 / 2)


def test_invariances():
    e = similarity.cka_features(X, MIXED).value
    moved = 3 * MIXED @ turn(5) + RNG.normal(size=5)
    assert similarity.cka_features(X, moved).value == pytest.approx(e, rel=1e-11)  # rounding
    assert similarity.cka_features(X, 2 * X).value == pytest.approx(1, abs=1e-14)
    assert similarity.procrustes(X, (X + 3) @ turn(5)).value == pytest.approx(0, abs=1e-6)
    assert similarity.angular_procrustes(X, 7 * X @ turn(5) - 1).value == pytest.approx(
        0, abs=1e-13
    )


def test_derivative_of_alignment():
    L = jnp.asarray(similarity.linear_gram(Y))

    def loss(X):
        return similarity.cka(X @ X.T, L).value

    def guided(X):
        return similarity.guidance_distance([X @ X.T], [L]).value

    slope = jax.grad(loss)(jnp.asarray(X))
    np.testing.assert_allclose(jax.grad(guided)(jnp.asarray(X)), -slope, rtol=1e-12)
    # a float64 Gram of NumPy does not change the precision of what is differentiated
    single = jax.grad(lambda x: similarity.cka(x @ x.T, np.asarray(L)).value)(jnp.float32(X))
    assert single.dtype == jnp.float32
    step = np.zeros_like(X)
    step[3, 2] = 1e-5
    change = [
        similarity.cka(*map(similarity.linear_gram, (X + s * step, Y))).value for s in (1, -1)
    ]
    # central difference: h^2 f'''/6 ~ 1e-11, rounding 1e-16 / h = 1e-11, over a slope of 1e-3
    assert float(slope[3, 2]) == pytest.approx((change[0] - change[1]) / 2e-5, rel=1e-5)


def test_matrix_of_layers():
    grams = [similarity.linear_gram(a) for a in (X, Y, MIXED)]
    matrix = similarity.cka_matrix(grams, grams[:2])
    for i, j in itertools.product(range(3), range(2)):
        value = similarity.cka(grams[i], grams[j]).value
        assert float(matrix[i, j]) == pytest.approx(value, rel=1e-12)
    assert similarity.cka_matrix(grams).shape == (3, 3)
    ax = similarity.plot_cka_matrix(matrix)
    assert ax.get_xlabel() == "layer (b)"


def test_cca():
    e = similarity.cca(X, MIXED)
    # canonical correlations: square roots of a generalised eigenvalue problem
    A, B = X - X.mean(0), MIXED - MIXED.mean(0)
    cross = A.T @ B @ np.linalg.solve(B.T @ B, B.T @ A)
    rho2 = scipy.linalg.eigh(cross, A.T @ A, eigvals_only=True)[::-1]
    np.testing.assert_allclose(e.terms["correlations"] ** 2, rho2, atol=1e-12)
    np.testing.assert_allclose(e.terms["correlations"][:3], 1, atol=1e-12)  # three shared columns
    assert e.value == pytest.approx(np.sqrt(rho2).mean(), rel=1e-12)
    linear = RNG.normal(size=(5, 5))
    assert similarity.cca(X @ linear, MIXED).value == pytest.approx(e.value, rel=1e-11)
    # SVCCA: CCA of principal components, here by the eigenvectors of the covariance
    keep = 0.7
    parts = []
    for centred in (A, B):
        w, V = np.linalg.eigh(centred.T @ centred)
        count = 1 + int(np.sum(np.cumsum(w[::-1]) < keep * w.sum()))
        parts.append(centred @ V[:, ::-1][:, :count])
    sv = similarity.svcca(X, MIXED, keep=keep)
    assert sv.terms["kept"] == tuple(p.shape[1] for p in parts)
    assert sv.value == pytest.approx(similarity.cca(*parts).value, rel=1e-11)
    assert similarity.svcca(X, MIXED, keep=1.0).value == pytest.approx(e.value, rel=1e-12)
    # PWCCA: canonical variables from the eigenvectors; three correlations are equal to 1, so that
    # only the weights of the other two are defined one by one
    variables = A @ scipy.linalg.eigh(cross, A.T @ A)[1]
    variables /= np.linalg.norm(variables, axis=0)
    alpha = np.array([sum(abs(h @ x) for x in A.T) for h in variables.T])[:2]
    pw = similarity.pwcca(X, MIXED)
    weights = pw.terms["weights"][:2:-1]
    np.testing.assert_allclose(weights / weights.sum(), alpha / alpha.sum(), rtol=1e-9)
    assert weights.sum() < 1
    assert pw.value == pytest.approx(pw.terms["weights"] @ e.terms["correlations"], rel=1e-12)
    # the null law: squared correlations of independent Gaussian features average p q / (n - 1) / p
    rng = np.random.default_rng(2)
    pairs = rng.normal(size=(200, 2, 40, 4))
    squares = [np.mean(similarity.cca(*pair).terms["correlations"] ** 2) for pair in pairs]
    assert abs(np.mean(squares) - 4 / 39) < 4 * np.std(squares) / np.sqrt(200)
    wide = similarity.cca(RNG.normal(size=(20, 12)), RNG.normal(size=(20, 10)))
    assert "3 correlations are 1" in wide.warnings[0]
    np.testing.assert_allclose(wide.terms["correlations"][:3], 1, atol=1e-12)


def test_procrustes():
    A, B = X - X.mean(0), MIXED - MIXED.mean(0)
    R = scipy.linalg.orthogonal_procrustes(A, B)[0]
    best = np.linalg.norm(A @ R - B)
    assert similarity.procrustes(X, MIXED).value == pytest.approx(best, rel=1e-12)
    a, b = A / np.linalg.norm(A), B / np.linalg.norm(B)
    cosine = np.sum(a @ R * b)
    assert similarity.angular_procrustes(X, MIXED).value == pytest.approx(
        np.arccos(cosine), rel=1e-12
    )
    padded = np.pad(X, ((0, 0), (0, 2)))
    d = similarity.procrustes(X, Y).value
    assert similarity.procrustes(padded, Y).value == pytest.approx(d, rel=1e-12)
    rng = np.random.default_rng(3)
    points = [rng.normal(size=(10, d)) for d in (2, 3, 4, 2, 5)]
    for metric in (similarity.procrustes, similarity.angular_procrustes):
        for P, Q, R in itertools.permutations(points, 3):
            assert metric(P, R).value <= metric(P, Q).value + metric(Q, R).value + 1e-12
        assert metric(P, Q).value == pytest.approx(metric(Q, P).value, rel=1e-12)


def test_matching():
    order = np.random.default_rng(4).permutation(7)
    noisy = Y[:, order] * np.arange(1, 8) + 3
    m = similarity.matching(noisy, Y)
    np.testing.assert_array_equal(m.permutation, order)
    assert m.mean == pytest.approx(1, abs=1e-12)
    # brute force over all assignments
    m = similarity.matching(X[:, :4], MIXED)
    C = np.corrcoef(X[:, :4].T, MIXED.T)[:4, 4:]
    best = max(sum(C[range(4), list(p)]) for p in itertools.permutations(range(5), 4))
    assert 4 * m.mean == pytest.approx(best, rel=1e-12)
    left = similarity.matching(MIXED, X[:, :4])
    assert np.sum(left.permutation < 0) == 1
    assert left.mean == pytest.approx(m.mean, rel=1e-12)
    dead = np.concatenate([np.ones((40, 1)), X], axis=1)
    assert similarity.matching(dead, X).correlations[0] == 0
    assert "correlation" in m.plot().get_ylabel()


def test_relative():
    R = similarity.relative_representations(X, X[:6])
    assert R.shape == (40, 6)
    direct = [[x @ a / np.sqrt(x @ x * (a @ a)) for a in X[:6]] for x in X]
    np.testing.assert_allclose(R, direct, atol=1e-14)
    moved = 5 * X @ turn(5)
    np.testing.assert_allclose(similarity.relative_representations(moved, moved[:6]), R, atol=1e-13)


def test_guidance():
    grams = [similarity.linear_gram(a) for a in (X, Y, MIXED, X + Y[:, :5])]
    e = similarity.guidance_distance(grams, grams[:2])
    assert e.terms["layers"] == (0, 0, 1, 1)
    expected = sum(
        1 - similarity.cka(K, grams[m]).value for K, m in zip(grams, (0, 0, 1, 1), strict=True)
    )
    assert e.value == pytest.approx(expected, rel=1e-12)
    assert similarity.guidance_distance(grams, grams).value == pytest.approx(0, abs=1e-12)


def test_bad_input():
    K = similarity.linear_gram(X)
    with pytest.raises(ShapeError, match="K must be of at least 4 samples, got 3"):
        similarity.cka(K[:3, :3], K[:3, :3])
    with pytest.raises(ShapeError, match="K and L must be of the same samples"):
        similarity.cka(K, K[:5, :5])
    with pytest.raises(DomainError, match="L is constant"):
        similarity.cka(K, np.ones_like(K))
    with pytest.raises(DomainError, match="K must be symmetric"):
        similarity.center_gram(X[:5] + np.eye(5))
    with pytest.raises(ShapeError, match="kernels_a must hold at least one Gram"):
        similarity.cka_matrix([])
    with pytest.raises(ShapeError, match="kernels_a and kernels_b must be of the same samples"):
        similarity.cka_matrix([K], [K[:5, :5]])
    with pytest.raises(ShapeError, match=r"X must have shape \(n, d\)"):
        similarity.cka_features(X[0], Y)
    for f in (similarity.cca, similarity.svcca, similarity.pwcca, similarity.procrustes):
        with pytest.raises(ShapeError, match="same 4 or more samples, got 40 and 30"):
            f(X, Y[:30])
        with pytest.raises(DomainError, match="Y is constant"):
            f(X, np.ones_like(Y))
        with pytest.raises(DomainError, match="X must be finite"):
            f(X * np.nan, Y)
    with pytest.raises(DomainError, match="X spans all 5 samples"):
        similarity.cca(X[:5], Y[:5])
    with pytest.raises(DomainError, match="keep must be > 0"):
        similarity.svcca(X, Y, keep=0.0)
    with pytest.raises(ShapeError, match="same 4 or more samples"):
        similarity.matching(X, Y[:3])
    with pytest.raises(ShapeError, match="X and anchors must agree"):
        similarity.relative_representations(X, Y)
    with pytest.raises(DomainError, match="anchors must not hold vectors of length zero"):
        similarity.relative_representations(X, 0 * X[:2])
    with pytest.raises(ShapeError, match="must each hold at least one Gram"):
        similarity.guidance_distance([], [K])
