"""Awkward data for deep kernel machines and finite Bayesian networks: the error, or the answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import ntk
from deeplimits import DomainError, NotPositiveDefiniteError, PrecisionError, ShapeError
from gp.bnn import BNN
from gp.dkm import DKM
from gp.process import GP

X = np.array([[0.0, 0.3], [1.0, -0.5]])
Y, AGAIN = np.array([1.0, -0.8]), np.array([1.4, -1.0])
XS = np.array([[0.2, 0.2], [-0.5, 0.1]])
TWICE = np.concatenate([X, X])


def twofold_rbf(x, z=None):
    """The kernel of one hidden layer of infinite width: the RBF map of an RBF Gram matrix."""
    z = x if z is None else z
    inner = np.exp(-0.5 * np.sum((x[:, None] - z[None]) ** 2, -1) / x.shape[1])
    return np.exp(-(1 - inner))


# --- deep kernel machines


def test_machine_with_duplicate_rows():
    """In the wide limit two observations of a point are one of their mean with half the noise."""
    y = np.concatenate([Y, AGAIN])
    wide = DKM("rbf", layers=1, nu=1e9, noise=0.1).fit(TWICE, y)
    exact = GP(twofold_rbf, noise=0.05).condition(X, 0.5 * (Y + AGAIN))
    # 1/nu = 1e-9, and independent noise of 1e-9 of the diagonal in every layer, over noise 0.1
    np.testing.assert_allclose(wide.predict(XS).mean, exact.mean(XS), atol=1e-6)
    learned = DKM("rbf", layers=1, nu=2.0, noise=0.1).fit(TWICE, y)
    mean = learned.predict(TWICE).mean
    np.testing.assert_allclose(mean[:2], mean[2:], atol=1e-6)


def test_machine_with_contradictory_labels():
    """Opposite labels at one point, alone in the data: no information, an answer of zero."""
    x = np.repeat(X[1:], 4, axis=0)
    fitted = DKM("rbf", layers=1, nu=2.0, noise=0.1).fit(x, [1.0, -1.0, 1.0, -1.0])
    # independent noise of 1e-9 per layer is all that tells the rows apart
    np.testing.assert_allclose(fitted.predict(np.concatenate([x[:1], XS])).mean, 0, atol=1e-6)


def test_machine_with_one_point():
    """The largest log N(y; 0, g + s2) - nu KL(g || g0) by one-dimensional search."""
    s2, nu, y = 0.1, 3.0, 2.0
    negative = lambda g: (  # noqa: E731
        0.5 * (y**2 / (g + s2) + np.log(g + s2)) + 0.5 * nu * (g - np.log(g) - 1)
    )
    best = scipy.optimize.minimize_scalar(negative, bounds=(0.1, 5), options={"xatol": 1e-10}).x
    fitted = DKM("linear", layers=1, nu=nu, noise=s2).fit([[1.0]], [y])
    # a search without derivatives finds the square root of rounding; jitter is 1e-9
    assert fitted.grams[0][0, 0] == pytest.approx(best, abs=1e-6)
    x = np.array([[1.0], [-2.0]])
    mean = x[:, 0] * best / (best + s2) * y
    np.testing.assert_allclose(fitted.predict(x).mean, mean, atol=1e-5)


@pytest.mark.parametrize(
    ("x", "y", "model", "error", "match"),
    [
        (X, np.zeros((2, 0)), {}, ShapeError, r"y must have shape \(2,\) or \(2, outputs\)"),
        (X[:0], Y[:0], {}, ShapeError, "must not be empty"),
        (X.astype(np.float32), Y, {}, PrecisionError, "float32|float64"),
        (
            X,
            Y,
            {"input_kernel": lambda a, b=None: twofold_rbf(a, b) - 0.9},
            NotPositiveDefiniteError,
            "not positive definite|eigenvalue",
        ),
    ],
)
def test_machine_refuses(x, y, model, error, match):
    with pytest.raises(error, match=match):
        DKM(**{"kernel": "rbf", "layers": 1, "noise": 0.1, **model}).fit(x, y)


def test_machine_in_float32_by_force():
    """Inputs rounded to 1e-7, everything else in float64."""
    x = np.linspace(0, 1, 4)[:, None]
    y = np.sin(6 * x[:, 0])
    model = DKM("rbf", layers=1, nu=2.0, noise=0.1)
    exact = model.fit(x, y).predict(XS[:, :1]).mean
    rough = model.fit(x.astype(np.float32), y, force=True).predict(XS[:, :1]).mean
    np.testing.assert_allclose(rough, exact, atol=1e-5)


# --- finite networks: their density is all that a sampler sees

NET = ntk.mlp(1, "erf", width=4)


def density(x, y, noise=0.1):
    post = BNN(NET, noise=noise).condition(x, y)
    thetas = jax.random.normal(jax.random.key(0), (3, post.dim), jnp.float64)
    return np.array([float(post.log_density(theta)) for theta in thetas])


def test_network_with_duplicate_rows():
    """Two observations of a point are one of their mean with half the noise, up to a constant."""
    y = np.concatenate([Y, AGAIN])
    gap = density(TWICE, y) - density(X, 0.5 * (Y + AGAIN), 0.05)
    np.testing.assert_allclose(gap, gap[0], rtol=1e-12)


def test_network_with_contradictory_labels():
    """Opposite labels at one point leave the density symmetric in the sign of the last layer."""
    post = BNN(NET, noise=0.1).condition(np.repeat(X[1:], 2, axis=0), [1.0, -1.0])
    theta = jax.random.normal(jax.random.key(1), (post.dim,), jnp.float64)
    params = post.layout.unflatten(theta)
    leaves, tree = jax.tree.flatten(params)
    last = max(i for i, leaf in enumerate(leaves) if leaf.shape == (4, 1))
    leaves[last] = -leaves[last]
    flipped = jnp.concatenate(
        [leaf.ravel() for leaf in jax.tree.flatten(tree.unflatten(leaves))[0]]
    )
    outputs = post.outputs(theta, post.X), post.outputs(flipped, post.X)
    if np.allclose(outputs[0], -outputs[1]):  # no bias of the last layer
        assert float(post.log_density(theta)) == pytest.approx(
            float(post.log_density(flipped)), rel=1e-13
        )
    else:
        pytest.fail("the last layer has a bias: flip it too")


def test_network_with_one_point():
    """One output is normal given the weights."""
    post = BNN(NET, noise=0.1).condition(X[:1], Y[:1])
    theta = jax.random.normal(jax.random.key(2), (post.dim,), jnp.float64)
    f = float(post.outputs(theta, post.X)[0, 0])
    expected = -0.5 * float(jnp.sum(theta**2)) - 0.5 * (
        (Y[0] - f) ** 2 / 0.1 + np.log(2 * np.pi * 0.1)
    )
    assert float(post.log_density(theta)) == pytest.approx(expected, rel=1e-12)


def test_network_in_float32():
    """Inputs rounded to 1e-7 and computed with in float64, whatever their conditioning."""
    x = np.linspace(0, 1, 40)[:, None] * np.ones(2)
    y = np.sin(6 * x[:, 0])
    rough = density(x.astype(np.float32), y)
    assert rough.dtype == np.float64
    # 40 residuals of order one over noise 0.1, each moved by 1e-7
    np.testing.assert_allclose(rough, density(x, y), atol=1e-3)


@pytest.mark.parametrize(
    ("x", "y", "match"),
    [
        (X, np.zeros((2, 0)), r"y must have shape \(2,\) or \(2, outputs\)"),
        (X[:0], Y[:0], "must not be empty"),
        (X, np.zeros((2, 3)), "net has outputs of shape"),
    ],
)
def test_network_refuses(x, y, match):
    with pytest.raises(ShapeError, match=match):
        BNN(NET).condition(x, y)


def test_network_that_is_none():
    """A network has no kernel matrix that could be indefinite; what is no network is refused."""
    with pytest.raises(DomainError, match="net must be a network"):
        BNN(twofold_rbf)
