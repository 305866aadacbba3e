"""Predictions at order 1/n: exact mixtures of metrics, ensembles of finite networks, limits."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gp
from deeplimits import DomainError, NotPositiveDefiniteError, ShapeError
from deeplimits.statistics import family_threshold
from gp.claims_finite_width import (
    SETTING,
    TARGETS,
    linearized_networks,
    theory,
)
from gp.finite_width import finite_width_linearized, finite_width_posterior

rng = np.random.default_rng(0)


def metrics(spread, count=400):
    """A finite set of metrics with known mean and covariance: a mixture that can be summed."""
    M = 4
    root = rng.normal(size=(M, M))
    G = root @ root.T / M + np.eye(M)
    steps = rng.normal(size=(count, M, M))
    steps = steps + np.swapaxes(steps, 1, 2)
    steps = np.concatenate([steps, -steps])  # no third moment, so errors start at spread^4
    G1 = np.diag([0.3, -0.2, 0.1, 0.4])
    V = np.einsum("kab,kcd->abcd", steps, steps) / len(steps)
    return G, G1, V, G[None] + spread * steps + spread**2 * G1[None]


def summed(grams, y, noise):
    """Mean, variance and log evidence of the mixture by explicit sums over its members."""
    N, total, first, second = len(y), 0.0, 0.0, 0.0
    for g in grams:
        K = g[:N, :N] + noise * np.eye(N)
        Q = np.linalg.solve(K, g[:N, N:]).T
        mean, var = Q @ y, np.diag(g[N:, N:] - Q @ g[:N, N:])[:, None]
        quadratic = np.sum(y * np.linalg.solve(K, y))
        log = -0.5 * (quadratic + y.shape[1] * np.linalg.slogdet(2 * np.pi * K)[1])
        weight = np.exp(log)
        total, first = total + weight, first + weight * mean
        second = second + weight * (var + mean**2)
    mean = first / total
    return mean, second / total - mean**2, np.log(total / len(grams))


@pytest.mark.parametrize("outputs", [1, 2])
def test_against_explicit_mixtures(outputs):
    """With covariance spread^2 V, the remainder must be of order spread^4."""
    y, noise = rng.normal(size=(2, outputs)), 0.1
    errors, sizes = [], []
    for spread in (0.02, 0.01):
        state = rng.bit_generator.state
        G, G1, V, grams = metrics(spread)
        rng.bit_generator.state = state
        p = finite_width_posterior(G, G1, V, y, n=spread**-2, noise=noise)
        exact = summed(grams, y, noise)
        found = (p.corrected_mean, p.corrected_var, p.corrected_log_evidence)
        errors.append([np.abs(a - b).max() for a, b in zip(exact, found, strict=True)])
        sizes.append([np.abs(c).max() * spread**2 for c in (p.mean_1, p.var_1, p.log_evidence_1)])
    errors, sizes = np.array(errors), np.array(sizes)
    assert np.all(errors[1] < 0.05 * sizes[1]), (errors, sizes)  # the corrections are really there
    # halving the spread: 2^4 = 16, less the next order (spread^2 relative, a few percent)
    np.testing.assert_allclose(errors[0] / errors[1], 16, rtol=0.15)


def test_limit_is_the_gaussian_process():
    G, G1, V, _ = metrics(0.1, 5)
    y = rng.normal(size=(2, 2))
    p = finite_width_posterior(G, G1, V, y, n=10, noise=0.2)

    def kernel(a, b=None):
        rows, columns = (np.asarray(v)[:, 0].astype(int) for v in (a, a if b is None else b))
        return G[np.ix_(rows, columns)]

    post = gp.GP(kernel, noise=0.2).condition(np.array([[0.0], [1.0]]), y)
    test = np.array([[2.0], [3.0]])
    # rounding of two solvers
    np.testing.assert_allclose(p.mean, post.mean(test), atol=1e-12)
    np.testing.assert_allclose(p.var[:, 0], post.var(test), atol=1e-12)
    assert p.log_evidence == pytest.approx(float(np.sum(post.log_evidence)), abs=1e-12)
    none = finite_width_posterior(G, 0 * G1, 0 * V, y, n=10, noise=0.2)
    for name in ("mean_1", "var_1", "log_evidence_1"):
        assert np.abs(getattr(none, name)).max() == 0


def test_differentiable_in_the_metric_and_noise():
    G, G1, V, _ = metrics(0.1, 5)
    y = rng.normal(size=(2, 1))

    def value(noise):
        p = finite_width_posterior(jnp.asarray(G), G1, V, y, n=10.0, noise=noise)
        return p.corrected_log_evidence + p.corrected_mean.sum()

    h = 1e-5
    slope = (value(0.2 + h) - value(0.2 - h)) / (2 * h)
    forward = jax.jvp(value, (0.2,), (1.0,))[1]
    # central difference: h^2 of third derivatives, and rounding / h
    assert float(forward) == pytest.approx(float(slope), rel=1e-7)


def test_linearized_against_explicit_mixtures():
    """Members k with z ~ N(0, G_k) and kernel H_k: mean and variance of f are finite sums."""
    y, ridge, M = rng.normal(size=(2, 1)), 0.1, 4
    G, G1, _, _ = metrics(0.1, 5)
    Theta, Theta1 = metrics(0.1, 5)[:2]
    steps = rng.normal(size=(2, 300, M, M))
    steps = steps + np.swapaxes(steps, 2, 3)
    dG, dH = np.concatenate([steps, -steps], axis=1)  # no third moments
    dH = 0.3 * dG + 0.5 * dH
    count = len(dG)
    # any split of the sums W and X into their parts must give the same answer
    B, F = (t + t.transpose(1, 0, 3, 2) for t in rng.normal(size=(2, M, M, M, M)))
    W, X = (np.einsum("kab,kcd->abcd", a, dH) / count for a in (dH, dG))
    index = np.ix_(*[range(M)] * 4)
    one, two, three, four = index
    A = W - B[one, three, two, four] - B[one, four, two, three]
    D = X - F[one, three, two, four] - F[one, four, two, three]
    tensors = SimpleNamespace(G=G, G1=G1, Theta=Theta, Theta1=Theta1, A=A, B=B, D=D, F=F)
    errors = []
    for spread in (0.02, 0.01):
        means, variances = [], []
        for g, h in zip(dG, dH, strict=True):
            g = G + spread * g + spread**2 * G1
            h = Theta + spread * h + spread**2 * Theta1
            Q = np.linalg.solve(h[:2, :2] + ridge * np.eye(2), h[:2, 2:]).T
            left = np.concatenate([-Q, np.eye(2)], axis=1)
            means.append((Q @ y)[:, 0])
            variances.append(np.diag(left @ g @ left.T))
        p = finite_width_linearized(tensors, y, n=spread**-2, ridge=ridge)
        exact = np.mean(means, 0), np.mean(variances, 0) + np.var(means, 0)
        found = p.corrected_mean[:, 0], p.corrected_var[:, 0]
        errors.append([np.abs(a - b).max() for a, b in zip(exact, found, strict=True)])
    sizes = [np.abs(c).max() * spread**2 for c in (p.mean_1, p.var_1)]
    assert np.all(np.array(errors[1]) < 0.05 * np.array(sizes)), (errors, sizes)
    # halving the spread: 2^4 = 16, less the next order (spread^2 relative, a few percent)
    np.testing.assert_allclose(np.divide(*errors), 16, rtol=0.15)


@pytest.mark.slow
@pytest.mark.optimized
def test_linearized_networks_of_finite_width():
    t = SimpleNamespace(**theory())
    p = finite_width_linearized(t, TARGETS[:, :1], n=1, ridge=SETTING["ridge"])
    want = np.array([p.mean_1.item(), p.var_1.item()])
    small, large = (
        linearized_networks(n, jax.random.key(n), 64 * count) for n, count in ((8, 300), (16, 200))
    )
    value = 2 * large.mean - small.mean
    error = np.hypot(2 * large.stderr, small.stderr)
    z = (value - want) / error
    # 8 and 16 leave a bias of order 1/n^2, below the error here (measured with 10 times more)
    assert np.abs(z).max() < family_threshold(3.0, 2, 63), (value, want, error)


def test_linearized_of_equal_kernels_is_regression():
    """No fluctuations: kernel regression and its ensemble variance; with Theta = G, the process."""
    G = metrics(0.1, 3)[0]
    zero2, zero4, y = 0 * G, np.zeros((4,) * 4), rng.normal(size=(2, 1))
    same = SimpleNamespace(G=G, G1=zero2, Theta=G, Theta1=zero2, A=zero4, B=zero4, D=zero4, F=zero4)
    p = finite_width_linearized(same, y, n=7)
    q = finite_width_posterior(G, zero2, zero4, y, n=7)
    np.testing.assert_allclose(p.mean, q.mean, atol=1e-12)  # rounding
    np.testing.assert_allclose(p.var, q.var, atol=1e-12)
    assert np.isnan(p.log_evidence)
    assert np.abs(p.var_1).max() == 0


def test_refusals():
    G, G1, V, _ = metrics(0.1, 3)
    y = np.ones(2)
    with pytest.raises(ShapeError, match="one test input or more: it has 4 rows for 4 targets"):
        finite_width_posterior(G, G1, V, np.ones(4), n=8)
    with pytest.raises(ShapeError, match=r"V must have shape \(4, 4, 4, 4\)"):
        finite_width_posterior(G, G1, V[0], y, n=8)
    with pytest.raises(ShapeError, match="got None"):
        finite_width_posterior(G, G1, None, y, n=8)
    with pytest.raises(DomainError, match="n must be > 0"):
        finite_width_posterior(G, G1, V, y, n=0)
    with pytest.raises(DomainError, match="noise must be >= 0"):
        finite_width_posterior(G, G1, V, y, n=8, noise=-1.0)
    with pytest.raises(NotPositiveDefiniteError, match="is singular"):
        finite_width_posterior(np.ones((4, 4)), G1, V, y, n=8)
