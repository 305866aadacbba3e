import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplimits import DomainError, ShapeError
from gp.pathwise import pathwise
from gp.process import GP


def rbf(x, z=None):
    z = x if z is None else z
    return np.exp(-0.5 * ((x[:, None] - z[None]) ** 2).sum(-1))


def rough(x, z=None):
    z = x if z is None else z
    return np.exp(-np.sqrt(((x[:, None] - z[None]) ** 2).sum(-1)))


def data(n=12, outputs=None, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 2)), rng.normal(size=n if outputs is None else (n, outputs))


X, Y = data()
XS = data(9, seed=1)[0]


def features(x):
    """Six fixed features; their kernel is known exactly."""
    one = np.ones(len(x))
    a, b = np.asarray(x).T
    return np.stack([one, a, b, a * b, np.sin(a), np.cos(b)], axis=1)


def polynomial(x, z=None):
    return features(x) @ features(x if z is None else z).T


def moment_errors(draws, mean, cov):
    """Standardised errors of the sample mean and covariance of ``draws (n, m)``."""
    n = len(draws)
    z_mean = (draws.mean(0) - mean) / np.sqrt(np.diag(cov) / n)
    centred = draws - mean
    spread = np.sqrt((cov**2 + np.outer(np.diag(cov), np.diag(cov))) / n)  # Wishart
    return z_mean, (centred.T @ centred / n - cov) / spread


@pytest.mark.parametrize("kernel", [rbf, rough, polynomial])
@pytest.mark.parametrize("noise", [0.05, 1e-6])
def test_joint_covariance_across_calls(kernel, noise):
    post = GP(kernel, noise=noise).condition(X, Y)
    draws = pathwise(post, 3, key=0)
    draws(XS[:2])
    draws(XS[2:3])
    draws(XS[1:7])  # asks again for two points
    basis = draws.basis(XS)
    # directions below 1e-12 of a prior variance (at most 40 here) are left out, and those kept
    # are divided by roots of 1e-12: 1e-16 / 1e-6, times the condition of the posterior
    np.testing.assert_allclose(basis @ basis.T, post.cov(XS), atol=1e-9)
    assert draws.exact
    assert draws.rank == basis.shape[1] <= 9
    if kernel is polynomial:
        assert draws.rank <= 6


def test_values_do_not_change():
    post = GP(rbf, noise=0.05).condition(X, Y)
    draws = pathwise(post, 4, key=0)
    first, second = draws(XS[:4]), draws(XS[4:])
    rank = draws.rank
    # coordinates are divided by roots of at least 1e-6
    np.testing.assert_allclose(draws(XS), np.concatenate([first, second], 1), atol=1e-9)
    np.testing.assert_allclose(draws(XS[::-1])[:, ::-1], draws(XS), atol=1e-9)
    assert draws.rank == rank
    same = pathwise(post, 4, key=jax.random.key(0))
    np.testing.assert_array_equal(same(XS[:4]), first)


@pytest.mark.parametrize("outputs", [None, 2])
def test_samples_have_posterior_moments(outputs):
    post = GP(rbf, noise=0.05).condition(*data(outputs=outputs))
    draws = pathwise(post, 4000, key=1)
    values = np.concatenate([draws(XS[:3]), draws(XS[3:5])], axis=1)
    assert values.shape == ((4000, 5) if outputs is None else (4000, 5, 2))
    values, mean = values.reshape(4000, 5, -1), post.mean(XS[:5]).reshape(5, -1)
    for c in range(values.shape[2]):
        z_mean, z_cov = moment_errors(values[:, :, c], mean[:, c], post.cov(XS[:5]))
        assert np.abs(z_mean).max() < 4  # at most 10 standard normal numbers
        assert np.abs(z_cov).max() < 4.5  # 25 numbers each, approximately normal
    if outputs == 2:
        centred = values - mean
        cross = np.mean(centred[..., 0] * centred[..., 1], axis=0)
        assert (np.abs(cross) / np.diag(post.cov(XS[:5])) * 4000**0.5).max() < 4  # independent


def test_data_without_noise_are_interpolated():
    draws = pathwise(GP(rough).condition(X, Y), 5, key=0)
    draws(XS)
    # what is left of the variance at data is below the cut of 1e-12; the mean is exact to 1e-12
    np.testing.assert_allclose(draws(X), np.broadcast_to(Y, (5, 12)), atol=1e-5)


@pytest.mark.parametrize("outputs", [None, 2])
@pytest.mark.parametrize("noise", [0.3, np.linspace(0.1, 0.5, 12)])
def test_matheron(outputs, noise):
    # with features whose kernel is the kernel, Matheron's rule is exact
    post = GP(polynomial, noise=noise).condition(*data(outputs=outputs))
    draws = pathwise(post, 4000, key=2, features=features)
    assert not draws.exact
    assert draws.rank == 6
    values = np.concatenate([draws(XS[:3]), draws(XS[3:5])], axis=1)
    values, mean = values.reshape(4000, 5, -1), post.mean(XS[:5]).reshape(5, -1)
    for c in range(values.shape[2]):
        z_mean, z_cov = moment_errors(values[:, :, c], mean[:, c], post.cov(XS[:5]))
        assert np.abs(z_mean).max() < 4  # at most 10 standard normal numbers
        assert np.abs(z_cov).max() < 4.5  # 25 numbers each, approximately normal
    np.testing.assert_allclose(draws(XS)[:, :3], draws(XS[:3]), rtol=1e-12, atol=1e-12)


def test_random_features_approach_the_exact_law():
    rng = np.random.default_rng(0)
    post = GP(rbf, noise=0.05).condition(X, Y)
    gaps = []
    for count in (16, 4096):
        frequency, phase = rng.normal(size=(2, count)), rng.uniform(0, 2 * np.pi, count)
        draws = pathwise(post, 2000, key=0, features=lambda x, w=frequency, p=phase: np.sqrt(
            2 / w.shape[1]) * np.cos(np.asarray(x) @ w + p))(XS)  # fmt: skip
        gaps.append(np.abs(np.cov(draws.T) - post.cov(XS)).max())
    assert gaps[1] < 0.1  # 4096^-1/2 = 0.016 and 2000^-1/2 = 0.022, over 45 entries
    assert gaps[0] > 2 * gaps[1]


@pytest.mark.optimized
def test_float32_and_x64_off():
    post = GP(rbf, noise=0.05).condition(X, Y)
    reference = pathwise(post, 2, key=0)(XS)
    with jax.enable_x64(False):
        again = pathwise(post, 2, key=0)(XS)
    assert again.dtype == np.float64
    np.testing.assert_array_equal(again, reference)

    def single(x, z=None):
        z = x if z is None else z
        return jnp.exp(-0.5 * jnp.sum((x[:, None] - z[None]) ** 2, axis=-1))

    draws = pathwise(GP(single, 0.05).condition(jnp.asarray(X, jnp.float32), Y), 2, key=0)
    first = draws(jnp.asarray(XS, jnp.float32))
    # float32 kernel (6e-8) divided by roots of at least 1e-3
    np.testing.assert_allclose(draws(jnp.asarray(XS, jnp.float32)), first, atol=1e-3)


def test_bad_input():
    post = GP(rbf, noise=0.05).condition(X, Y)
    with pytest.raises(DomainError, match=r"posterior must come from gp\.GP"):
        pathwise(GP(rbf), key=0)
    with pytest.raises(DomainError, match="n must be >= 1"):
        pathwise(post, 0, key=0)
    with pytest.raises(DomainError, match="key must be"):
        pathwise(post, key=None)
    with pytest.raises(DomainError, match="features must be a callable"):
        pathwise(post, key=0, features=3)
    with pytest.raises(ShapeError, match=r"features must map \(m, d\) to \(m, D\), got \(12,\)"):
        pathwise(post, key=0, features=lambda x: x[:, 0])
    with pytest.raises(DomainError, match="the features must be finite"):
        pathwise(post, key=0, features=lambda x: x * np.nan)
    with pytest.raises(ShapeError, match="agree in every axis but the first"):
        pathwise(post, key=0)(np.ones((2, 3)))
