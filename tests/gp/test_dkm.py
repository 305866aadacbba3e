import dataclasses

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from deeplimits import (
    DomainError,
    JitterWarning,
    ShapeError,
)
from gp.dkm import DKM
from gp.dkm_kernels import gram_kernel
from gp.dkm_linear import clamped_grams, deep_linear_grams
from gp.dkm_objective import evaluate, penalty_of
from gp.dkm_select import choose_nu, optimal_objective
from gp.process import GP

NOISE = 0.05
rng = np.random.default_rng(0)
TOY_X = rng.uniform(-2, 2, 20)[:, None]
TOY_Y = np.sin(3 * TOY_X[:, 0]) + 0.1 * rng.standard_normal(20)


def small(n=5, outputs=None, seed=1):
    r = np.random.default_rng(seed)
    x = 1.5 * r.normal(size=(n, 3))
    return x, r.normal(size=n if outputs is None else (n, outputs))


X, Y = small()
XS, _ = small(3, seed=2)


def rbf(G):
    g = np.diagonal(G)
    return np.exp(G - (g[:, None] + g) / 2)


def naive(grams, G0, y, nu, kernel=rbf, noise=NOISE, labelled=None):
    """The objective with inverses and determinants; y belongs to the first ``labelled`` points."""
    total = 0.0
    for previous, G, width in zip([G0, *grams[:-1]], grams, nu, strict=True):
        ratio = np.linalg.solve(kernel(previous), G)
        total -= 0.5 * width * (np.trace(ratio) - np.linalg.slogdet(ratio)[1] - len(G))
    labelled = len(y) if labelled is None else labelled
    K = kernel(grams[-1])[:labelled, :labelled] + noise * np.eye(labelled)
    columns = y.reshape(labelled, -1).T
    return total + sum(
        scipy.stats.multivariate_normal.logpdf(c, np.zeros(labelled), K) for c in columns
    )


def slopes(grams, *args, **kw):
    """Central differences of the naive objective along every symmetric direction of every layer."""
    out, h = [], 1e-6
    for layer in range(len(grams)):
        for i, j in zip(*np.triu_indices(len(grams[0])), strict=True):
            step = np.zeros_like(grams)
            step[layer, i, j] = step[layer, j, i] = h
            change = naive(grams + step, *args, **kw) - naive(grams - step, *args, **kw)
            out.append(change / (2 * h))
    return np.array(out)


def _value(model, y, grams_seed=3):
    r = np.random.default_rng(grams_seed)
    n, layers = len(y), model.layers
    point = 0.3 * r.normal(size=layers * n * (n + 1) // 2)
    data = {
        "G0": X @ X.T / 3, "y": y.reshape(n, -1), "nu": np.array([2.0, 0.7]),
        "noise": np.float64(NOISE), "jitter": np.zeros(layers + 1),
    }  # fmt: skip
    likelihood, tower, _, _ = evaluate(gram_kernel(model.kernel), model.penalty, False, point, data)
    return float(likelihood), tower, data


def test_objective_is_the_naive_one():
    y = small(outputs=2)[1]
    likelihood, tower, data = _value(DKM(), y)
    grams = np.asarray(tower.grams)
    want = naive(grams, data["G0"], y, data["nu"])
    got = likelihood - np.sum(data["nu"] * np.asarray(tower.penalties))
    assert got == pytest.approx(want, rel=1e-10)  # condition of K about 1e3


@pytest.mark.parametrize("penalty", ["taylor_sym", "taylor_official"])
def test_taylor_penalties(penalty):
    r = np.random.default_rng(0)
    C = np.linalg.cholesky(rbf(X @ X.T / 3))
    direction = np.tril(r.normal(size=(5, 5)))
    gaps = []
    for size in (1e-3, 1e-4):
        A = np.eye(5) + size * direction
        G, K = C @ A @ A.T @ C.T, C @ C.T
        exact = float(penalty_of("kl", C, A))
        value = float(penalty_of(penalty, C, A))
        L = np.linalg.cholesky(G)
        ratio = (
            np.linalg.solve(G, K)
            if penalty == "taylor_official"
            else (np.linalg.solve(L, np.linalg.solve(L, K).T))
        )
        # rounding of G^{-1} K - I, of order 1e-16 cond(K), relative to its size
        assert value == pytest.approx(0.25 * np.sum((ratio - np.eye(5)) ** 2), rel=1e-8)
        gaps.append(value / exact - 1)
    if penalty == "taylor_sym":  # right to second order: the relative gap falls like the size
        assert gaps[1] / gaps[0] == pytest.approx(0.1, rel=0.02)  # next order: 1e-3 |direction|
    else:  # not an expansion of the divergence: the gap stays
        assert gaps[1] == pytest.approx(gaps[0], rel=0.02)
        assert gaps[1] > 0.1


def test_gradient_vanishes_in_gram_space():
    fitted = DKM(nu=2.0, noise=NOISE, jitter=0.0).fit(X, Y, tol=1e-8)
    assert fitted.converged
    flat = slopes(fitted.grams, fitted.G0, Y, (2.0, 2.0))
    start = slopes(DKM(nu=2.0, jitter=0.0).nngp(X, Y).grams, fitted.G0, Y, (2.0, 2.0))
    # central differences of a value of order 10 with step 1e-6 round to 1e-9 times cond(K) = 1e3
    np.testing.assert_allclose(flat, 0, atol=2e-6)
    assert np.abs(start).max() > 0.1
    want = naive(fitted.grams, fitted.G0, Y, (2.0, 2.0))
    assert fitted.objective == pytest.approx(want, rel=1e-10)


def test_prediction_is_joint_optimisation():
    """Training and unlabelled points together: the propagated blocks are stationary."""
    fitted = DKM(nu=2.0, noise=NOISE, jitter=0.0).fit(X, Y, tol=1e-8)
    both = np.concatenate([X, XS])
    G0 = both @ both.T / 3
    G, K, cross = G0, None, None
    grams = []
    for prior, root in zip(fitted.tower.prior, fitted.tower.root, strict=True):
        K = rbf(G)
        lift = np.linalg.solve(K[:5, :5], K[:5])  # K_ii^{-1} (K_ii, K_it)
        inner = prior @ root @ root.T @ prior.T
        G = K + lift.T @ (inner - K[:5, :5]) @ lift
        grams.append(G)
    flat = slopes(np.array(grams), G0, Y, (2.0, 2.0), labelled=5)
    np.testing.assert_allclose(flat, 0, atol=2e-6)  # as above
    K = rbf(grams[-1])
    solved = np.linalg.solve(K[:5, :5] + NOISE * np.eye(5), np.c_[Y, K[:5, 5:]])
    cross = K[5:, :5]
    law = fitted.predict(XS)
    np.testing.assert_allclose(law.mean, cross @ solved[:, 0], rtol=1e-9)
    np.testing.assert_allclose(law.cov, K[5:, 5:] - cross @ solved[:, 1:], atol=1e-11)
    np.testing.assert_allclose(fitted.mean(XS), law.mean, rtol=1e-10)
    np.testing.assert_allclose(fitted.var(XS), law.var, rtol=1e-9)
    noisy = fitted.predict(XS, noise=True)
    np.testing.assert_allclose(noisy.var, law.var + NOISE, rtol=1e-13)
    assert fitted.sample(0, XS, 4).shape == (4, 3)
    np.testing.assert_allclose(fitted.cov(XS), law.cov)


def test_nngp_is_a_gaussian_process():
    def deep(a, b=None):
        whole = a if b is None else jnp.concatenate([a, b])
        K = rbf(rbf(rbf(np.asarray(whole @ whole.T) / 3)))
        return K if b is None else K[: len(a), len(a) :]

    prior = DKM(nu=2.0, noise=NOISE, jitter=0.0).nngp(X, Y)
    reference = GP(deep, noise=NOISE).condition(X, Y)
    assert prior.objective == pytest.approx(reference.log_evidence, rel=1e-12)
    np.testing.assert_allclose(prior.mean(XS), reference.mean(XS), rtol=1e-10)
    np.testing.assert_allclose(prior.cov(XS), reference.cov(XS), atol=1e-12)
    assert prior.runs is None
    assert not prior.converged


def test_rate_of_the_wide_limit():
    """Twenty points, two layers: predictions approach those of the NNGP like 1.327 / nu."""
    grid = np.linspace(-2, 2, 9)[:, None]
    exact = DKM(noise=NOISE, jitter=1e-12).nngp(TOY_X, TOY_Y)
    assert exact.objective == pytest.approx(-7.581523, abs=1e-6)
    wide = DKM(noise=NOISE).nngp(TOY_X, TOY_Y)
    rates, objectives = [], []
    for nu in (1e3, 1e4, 1e5):
        fitted = DKM(nu=nu, noise=NOISE).fit(TOY_X, TOY_Y, tol=1e-7)
        rates.append(nu * np.abs(fitted.mean(grid) - wide.mean(grid)).max())
        objectives.append(fitted.objective)
    np.testing.assert_allclose(rates, [1.308, 1.325, 1.327], atol=1e-3)  # digits of the reference
    np.testing.assert_allclose(objectives, [-7.5553, -7.5789, -7.5813], atol=1e-4)
    # limit + a / nu: the steps to the limit are in the ratio 10 of the widths
    limit = rates[2] + (rates[2] - rates[1]) / 9
    assert (limit - rates[0]) / (limit - rates[1]) == pytest.approx(10, rel=0.05)


def test_deep_linear_closed_form():
    r = np.random.default_rng(5)
    A, B = r.normal(size=(2, 5, 8))
    G0, top = A @ A.T / 8, B @ B.T / 8
    equal = deep_linear_grams(G0, top, [2.0, 2.0, 2.0])
    ratio = top @ np.linalg.inv(G0)
    for i, G in enumerate(equal.grams):
        power = scipy.linalg.fractional_matrix_power(ratio, i / 3) @ G0
        np.testing.assert_allclose(G, power, atol=1e-11)  # Schur form of a matrix of condition 1e3
    nu = np.array([2.0, 5.0, 1.0])
    exact = deep_linear_grams(G0, top, nu)
    currents = [
        w * (b @ np.linalg.inv(a) - np.eye(5))
        for a, b, w in zip(exact.grams[:-1], exact.grams[1:], nu, strict=True)
    ]
    for current in currents[1:]:
        np.testing.assert_allclose(current, currents[0], rtol=1e-9, atol=1e-9)  # condition 1e3
    np.testing.assert_allclose(exact.grams[-1], top, atol=1e-13)
    model = DKM("linear", 2, nu[:2], jitter=0.0)
    found, runs = clamped_grams(model, G0, top, 1.0, tol=1e-9)
    # the optimiser stops at a slope of 1e-8 or so, divided by curvatures of order 0.1
    np.testing.assert_allclose(found, exact.grams[1:-1], atol=2e-7)
    assert runs.objective[0] == pytest.approx(exact.objective, abs=1e-12)
    equal.plot(plt.figure().gca())
    plt.close("all")


def test_current_is_conserved():
    x = np.random.default_rng(6).normal(size=(5, 8))
    model = DKM("linear", 3, [2.0, 5.0, 1.0], 0.1, jitter=0.0)
    y = small(outputs=2)[1]
    fitted = model.fit(x, y, tol=1e-9)
    assert fitted.current_residual() < 1e-6  # slope 1e-8 times the condition of G_0 in the basis
    assert model.nngp(x, y).current_residual() > 0.1
    with pytest.raises(DomainError, match="linear kernel"):
        DKM().nngp(X, Y).current_residual()


def test_relu_has_several_optima():
    x = np.c_[TOY_X, np.ones(20)]
    fitted = DKM("relu", 2, 0.5, NOISE).fit(x, TOY_Y, restarts=5)
    assert fitted.runs.spread > 0.1
    # all are stationary; flat directions end at slopes of 1e-5
    assert fitted.runs.slope.max() < 1e-4
    assert np.all(np.diff(fitted.runs.objective) <= 0)
    unique = DKM("rbf", 2, 5.0, NOISE).fit(TOY_X, TOY_Y, restarts=5, tol=1e-7)
    assert unique.runs.spread < 1e-10  # slope^2 / curvature


def test_envelope_gradient():
    def value(nu, noise):
        return optimal_objective(X, Y, nu, noise, tol=1e-8)

    v, (by_nu, by_noise) = jax.value_and_grad(value, (0, 1))(2.0, NOISE)
    fitted = DKM(nu=2.0, noise=NOISE).fit(X, Y, tol=1e-8)
    assert float(v) == pytest.approx(fitted.objective, abs=1e-12)
    assert float(by_nu) == pytest.approx(np.sum(fitted.gradient["nu"]), rel=1e-9)
    h = 1e-3
    differences = [
        (value(2.0 + h, NOISE) - value(2.0 - h, NOISE)) / (2 * h),
        (value(2.0, NOISE + h * NOISE) - value(2.0, NOISE - h * NOISE)) / (2 * h * NOISE),
    ]
    # central differences err by h^2 relative, through third derivatives of order one
    np.testing.assert_allclose([by_nu, by_noise], differences, rtol=1e-5)
    each = jax.grad(value)(jnp.array([2.0, 2.0]), NOISE)
    np.testing.assert_allclose(each, fitted.gradient["nu"], rtol=1e-6)
    with pytest.raises(DomainError, match="outside jit"):
        jax.jit(value)(2.0, NOISE)
    with pytest.raises(ShapeError, match="one per layer"):
        value(np.ones((2, 2)), NOISE)


def test_choose_nu():
    best = choose_nu(DKM(noise=NOISE), X, Y, [1.0, np.inf])
    for row, fit in zip(best.pointwise, ("fit", "nngp"), strict=True):
        model = DKM(nu=1.0, noise=NOISE)
        without = getattr(model, fit)(np.delete(X, 2, 0), np.delete(Y, 2))
        law = without.predict(X[2:3], noise=True)
        assert row[2] == pytest.approx(law.log_prob(Y[2:3]), abs=1e-6)  # two fits of slope 1e-6
    np.testing.assert_allclose(best.score, best.pointwise.mean(axis=1))
    assert best.nu == best.candidates[np.argmax(best.score)]
    best.plot(plt.figure().gca())
    plt.close("all")
    with pytest.raises(DomainError, match="nus must be"):
        choose_nu(DKM(), X, Y, [0.0])
    with pytest.raises(DomainError, match="folds must lie"):
        choose_nu(DKM(), X, Y, [1.0], folds=9)


def test_loo_with_fixed_grams():
    fitted = DKM(nu=2.0, noise=NOISE).fit(X, Y)
    keep = np.arange(5) != 3
    K = fitted.top[np.ix_(keep, keep)] + NOISE * np.eye(4)
    cross = fitted.top[3, keep]
    loo = fitted.loo()
    assert loo.mean[3] == pytest.approx(cross @ np.linalg.solve(K, Y[keep]), rel=1e-10)
    variance = fitted.top[3, 3] + NOISE - cross @ np.linalg.solve(K, cross)
    assert loo.var[3] == pytest.approx(variance, rel=1e-10)


def test_jitter_is_the_same_at_fit_and_prediction():
    """Two equal inputs: their kernel matrix is singular, and the jitter is in the result."""
    x = np.concatenate([X[:4], X[:1]])
    fitted = DKM(nu=2.0, noise=NOISE, jitter=1e-6).fit(x, Y)
    np.testing.assert_allclose(fitted.info.jitter, [1e-6, 1e-6, 0.0], rtol=1e-12)
    law = fitted.predict(X[:1])
    # a new point there has jitter of its own in both layers: equal up to a few of them
    assert law.mean[0] == pytest.approx(fitted.top[0] @ fitted.weights[:, 0], abs=1e-4)
    assert law.cov[0, 0] > 0
    with pytest.warns(JitterWarning, match="layer 1 is singular"):
        DKM(jitter=0.0).nngp(x, Y)


def test_records():
    y = small(outputs=2)[1]
    fitted = DKM(nu=2.0).fit(X, y, restarts=1, key=3)
    assert fitted.grams.shape == (2, 5, 5)
    assert fitted.mean(XS).shape == fitted.predict(XS).mean.shape == (3, 2)
    leaves, tree = jax.tree.flatten(fitted)
    again = jax.tree.unflatten(tree, leaves)
    np.testing.assert_array_equal(again.mean(XS), fitted.mean(XS))
    assert dataclasses.replace(fitted.model, nu=1.0).nu == 1.0
    fitted.plot(plt.figure().gca())
    plt.close("all")
    with jax.enable_x64(False):
        off = DKM(nu=2.0).fit(X, y)
    assert off.grams.dtype == np.float64
    np.testing.assert_allclose(off.grams, fitted.grams, atol=1e-5)  # slope 1e-6 over curvature
