"""The log evidence: values, invariances, gradients and grids."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF

from deeplimits import DomainError, PrecisionError, ShapeError
from gp.evidence import log_evidence, log_evidence_grid
from gp.process import GP


def rbf(x, z=None):
    z = x if z is None else z
    return np.exp(-0.5 * ((x[:, None] - z[None]) ** 2).sum(-1))


def jax_rbf(x, z=None):
    z = x if z is None else z
    return jnp.exp(-0.5 * jnp.sum((x[:, None] - z[None]) ** 2, axis=-1))


def data(n=12, d=2, outputs=None, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    return x, rng.normal(size=n if outputs is None else (n, outputs))


X, Y = data()


@pytest.mark.parametrize("outputs", [None, 3])
def test_log_evidence_against_scipy_and_sklearn(outputs):
    x, y = data(outputs=outputs)
    post = GP(rbf, noise=0.05).condition(x, y)
    law = scipy.stats.multivariate_normal(np.zeros(12), rbf(x) + 0.05 * np.eye(12))
    # condition number below 1e3
    assert post.log_evidence == pytest.approx(np.sum(law.logpdf(y.T)), rel=1e-12)
    other = GaussianProcessRegressor(RBF(1.0), alpha=0.05, optimizer=None).fit(x, y)
    assert post.log_evidence == pytest.approx(other.log_marginal_likelihood(), rel=1e-12)
    assert isinstance(post.log_evidence, float)
    assert float(log_evidence(rbf(x), y, 0.05)) == pytest.approx(post.log_evidence, rel=1e-13)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.floats(0.01, 100.0))
def test_log_evidence_invariances(seed, scale):
    x, y = data(10, outputs=3, seed=seed)
    rng = np.random.default_rng(seed)
    value = GP(rbf, noise=0.1).condition(x, y).log_evidence
    order = rng.permutation(10)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    same = GP(rbf, noise=0.1).condition(x[order], y[order] @ rotation).log_evidence
    # condition number below 1e2
    assert same == pytest.approx(value, rel=1e-11)
    scaled = GP(lambda a, b=None: scale**2 * rbf(a, b), noise=0.1 * scale**2)
    shifted = scaled.condition(x, scale * y).log_evidence + 30 * np.log(scale)
    assert shifted == pytest.approx(value, rel=1e-11)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 9))
def test_chain_rule(seed, split):
    x, y = data(10, outputs=2, seed=seed)
    model = GP(rbf, noise=0.1)
    first = model.condition(x[:split], y[:split])
    rest = first.predict(x[split:], noise=True).log_prob(y[split:])
    whole = model.condition(x, y).log_evidence
    assert first.log_evidence + rest == pytest.approx(whole, rel=1e-11)  # condition number 1e2


def test_log_evidence_gradients():
    x, y = jnp.asarray(X), jnp.asarray(Y)

    def value(length, noise):
        return log_evidence(jax_rbf(x / length), y, noise)

    by_length, by_noise = jax.jit(jax.grad(value, argnums=(0, 1)))(1.3, 0.05)
    # tr((a a' - K^-1) dK) / 2, from explicit inverses
    kernel = rbf(X / 1.3)
    inverse = np.linalg.inv(kernel + 0.05 * np.eye(12))
    middle = np.outer(inverse @ Y, inverse @ Y) - inverse
    d2 = ((X[:, None] - X[None]) ** 2).sum(-1)
    # condition number below 1e3
    assert float(by_length) == pytest.approx(0.5 * np.sum(middle * kernel * d2 / 1.3**3), rel=1e-10)
    assert float(by_noise) == pytest.approx(0.5 * np.trace(middle), rel=1e-10)
    per_point = jax.grad(value, argnums=1)(1.3, jnp.full(12, 0.05))
    np.testing.assert_allclose(per_point, 0.5 * np.diag(middle), rtol=1e-10)


def test_log_evidence_is_nan_when_not_positive_definite():
    assert np.isnan(jax.jit(log_evidence)(-jnp.eye(3), jnp.ones(3), 0.1))


def test_log_evidence_takes_float32_kernels():
    value = log_evidence(jnp.asarray(rbf(X), jnp.float32), Y, 0.05)
    assert value.dtype == jnp.float64
    # float32 rounding of the matrix, condition number 1e3
    assert float(value) == pytest.approx(float(log_evidence(rbf(X), Y, 0.05)), rel=1e-4)


def test_log_evidence_grid():
    gram = jax.jit(lambda amplitude, length: amplitude * jax_rbf(jnp.asarray(X) / length))
    grid = log_evidence_grid(gram, Y, noise=0.05, amplitude=[0.5, 2.0], length=[0.7, 1.0, 1.5])
    assert grid.log_evidence.dims == ("amplitude", "length")
    point = grid.sel(amplitude=2.0, length=0.7)
    exact = log_evidence(2 * rbf(X / 0.7), Y, 0.05)
    assert float(point.log_evidence) == pytest.approx(float(exact), rel=1e-12)
    assert float(point.jitter) == 0


def test_log_evidence_grid_marks_indefinite_points():
    grid = log_evidence_grid(lambda s: s * rbf(X), Y, noise=0.0, s=[-1.0, 1.0])
    np.testing.assert_array_equal(np.isnan(grid.log_evidence), [True, False])
    np.testing.assert_array_equal(np.isnan(grid.jitter), [True, False])


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((np.ones((3, 2)), Y[:3], 0.1), ShapeError, "K must be a square matrix"),
        ((np.tri(3), Y[:3], 0.1), DomainError, "K must be symmetric"),
        ((np.eye(3), Y[:2], 0.1), ShapeError, r"y must have shape \(3,\)"),
        ((np.eye(3), Y[:3], -0.1), DomainError, "noise must be >= 0"),
        ((np.eye(3), Y[:3], np.ones(2)), ShapeError, "noise must be one number or one per point"),
    ],
)
def test_bad_log_evidence(arguments, error, match):
    with pytest.raises(error, match=match):
        log_evidence(*arguments)


def test_log_evidence_needs_x64():
    with (
        jax.enable_x64(False),
        pytest.raises(PrecisionError, match=r"gp\.log_evidence needs float64"),
    ):
        log_evidence(np.eye(3), Y[:3], 0.1)


def test_bad_grids():
    with pytest.raises(ShapeError, match="non-empty 1-D array; missing or wrong: all"):
        log_evidence_grid(rbf, Y, noise=0.1)
    with pytest.raises(ShapeError, match=r"missing or wrong: \['s'\]"):
        log_evidence_grid(rbf, Y, noise=0.1, s=2.0)
    with pytest.raises(ShapeError, match="must return an array of shape"):
        log_evidence_grid(lambda s: np.eye(3), Y, noise=0.1, s=[1.0])
    with pytest.raises(DomainError, match="noise must be >= 0"):
        log_evidence_grid(lambda s: rbf(X), Y, noise=-0.1, s=[1.0])
