import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

from deeplimits import DomainError, ShapeError, datasets
from gp.dkm_conv import ConvDKM, ConvSetting, network
from gp.dkm_conv_layers import Blocks, image_blocks, mix, pooled_features
from gp.dkm_elbo import Setting, features, inducing_tower
from gp.dkm_kernels import gram_kernel

rng = np.random.default_rng(0)
#: Explicit features of pixels and inducing points, of which all blocks are products.
PIXELS, INDUCING = rng.normal(size=(2, 4, 5, 6)), rng.normal(size=(3, 6))
BLOCKS = Blocks(
    jnp.asarray(INDUCING @ INDUCING.T),
    jnp.asarray(PIXELS @ INDUCING.T),
    jnp.asarray(np.sum(PIXELS**2, axis=-1)),
)


def window(values, r, c):
    """The 3 x 3 window about a pixel, zeros outside, and how many pixels lie inside."""
    padded = np.pad(values, [(1, 1), (1, 1), *[(0, 0)] * (values.ndim - 2)])
    inside = np.pad(np.ones(values.shape[:2]), 1)[r : r + 3, c : c + 3].sum()
    return padded[r : r + 3, c : c + 3], inside


def test_patches_are_gram_blocks():
    images, patches = rng.normal(size=(2, 4, 5, 2)), rng.normal(size=(3, 3, 3, 2))
    G = image_blocks(jnp.asarray(patches), jnp.asarray(images))
    flat = patches.reshape(3, -1)
    np.testing.assert_allclose(G.ii, flat @ flat.T / 18, rtol=1e-13)
    for b, r, c in [(0, 0, 0), (1, 2, 3), (1, 3, 4)]:
        part, inside = window(images[b], r, c)
        np.testing.assert_allclose(G.ti[b, r, c], flat @ part.ravel() / 18, rtol=1e-12, atol=1e-13)
        assert float(G.t[b, r, c]) == pytest.approx(np.sum(part**2) / (2 * inside), rel=1e-13)


def test_mixing_is_a_convolution_of_features():
    mixing = rng.normal(size=(3, 3, 4, 3))
    M = mix(BLOCKS, jnp.asarray(mixing))
    new = np.einsum("xyab,bf->axyf", mixing, INDUCING)  # features of the new inducing patches
    np.testing.assert_allclose(M.ii, np.einsum("axyf,bxyf->ab", new, new) / 9, rtol=1e-12)
    for b, r, c in [(0, 0, 0), (0, 1, 2), (1, 3, 4)]:
        part, inside = window(PIXELS[b], r, c)
        want = np.einsum("axyf,xyf->a", new, part) / 9
        np.testing.assert_allclose(M.ti[b, r, c], want, rtol=1e-11, atol=1e-12)
        assert float(M.t[b, r, c]) == pytest.approx(np.sum(part**2) / inside, rel=1e-13)


def test_pooling_of_features():
    """The mean image splits into what the inducing points span and the rest, pixel by pixel."""
    V, rest = pooled_features(BLOCKS, jnp.array(0.0))
    basis = np.linalg.qr(INDUCING.T)[0]
    inside = PIXELS @ basis
    pooled = inside.mean(axis=(1, 2))
    np.testing.assert_allclose(V @ V.T, pooled @ pooled.T, atol=1e-12)
    left = np.sum(PIXELS**2, axis=-1) - np.sum(inside**2, axis=-1)
    np.testing.assert_allclose(rest, left.sum(axis=(1, 2)) / 20**2, rtol=1e-11)


def test_one_pixel_is_the_sparse_machine():
    """Images of one pixel and a window of one: no convolution is left."""
    m, layers, jitter = 3, 2, 1e-8
    x, z = rng.normal(size=(4, 6)), rng.normal(size=(m, 6))
    roots = 0.3 * rng.normal(size=layers * m * (m + 1) // 2)
    kernel = gram_kernel("rbf")
    params = {"inducing": jnp.asarray(z), "roots": jnp.asarray(roots)}
    setting = Setting(kernel, "kl", layers, "gaussian", 1)
    tower, top = inducing_tower(setting, params, jnp.full(layers + 1, jitter))
    want = features(setting, params, jnp.full(layers + 1, jitter), tower, top, jnp.asarray(x))
    conv = {
        "inducing": jnp.asarray(z.reshape(m, 1, 1, 6)), "roots": jnp.asarray(roots),
        "mixing": jnp.broadcast_to(jnp.eye(m), (layers, 1, 1, m, m)),
        "log_amplitude": jnp.array(0.0),
    }  # fmt: skip
    V, rest, penalties = network(
        ConvSetting(kernel, layers, 1, "gaussian", 1), conv, {"jitter": jnp.array(jitter)},
        jnp.asarray(x.reshape(4, 1, 1, 6)),
    )  # fmt: skip
    np.testing.assert_allclose(V, want[0], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(rest, want[1], atol=1e-10)
    np.testing.assert_allclose(penalties, tower.penalties, rtol=1e-12)


@pytest.mark.slow
def test_digits():
    data = datasets.load("digits")
    keep = np.flatnonzero(data.y < 3)[:120]
    X, y = data.X[keep].reshape(-1, 8, 8, 1) / 6, np.asarray(data.y[keep]).astype(int)
    fitted = ConvDKM(8).fit(X[:90], y[:90], steps=200, batch=30, learning_rate=0.02)
    p = fitted.predict_proba(X[90:])
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert np.mean(p.argmax(axis=1) == y[90:]) > 0.6  # chance: one third
    first, last = fitted.trajectory[:20].mean(), fitted.trajectory[-20:].mean()
    assert last > first + 20
    assert fitted.elbo < 0
    again = jax.tree.unflatten(*jax.tree.flatten(fitted)[::-1])
    np.testing.assert_array_equal(again.mean(X[90:]), fitted.mean(X[90:]))
    assert np.all(fitted.var(X[90:]) > 0)
    fitted.plot(plt.figure().gca())
    plt.close("all")
    with pytest.raises(ShapeError, match="as in training"):
        fitted.mean(np.ones((2, 5, 5, 1)))


@pytest.mark.parametrize(
    ("settings", "x", "options", "error", "match"),
    [
        ({"window": 2}, None, {}, DomainError, "window must be odd"),
        ({"layers": 0}, None, {}, DomainError, "layers must be"),
        ({"jitter": 0.0}, None, {}, DomainError, "jitter must be"),
        ({"likelihood": "poisson"}, None, {}, DomainError, "likelihood must be"),
        ({}, np.ones((4, 5)), {}, ShapeError, "images"),
        ({"window": 7}, np.ones((4, 5, 5, 1)), {}, ShapeError, "smaller than the window"),
        ({}, np.ones((4, 5, 5, 1)), {"batch": 9}, DomainError, "batch must be at most"),
        ({}, np.full((4, 5, 5, 1), np.nan), {}, DomainError, "finite"),
        ({"kernel": "relu"}, np.zeros((4, 5, 5, 1)), {}, DomainError, "constant feature"),
    ],
)
def test_bad_input(settings, x, options, error, match):
    with pytest.raises(error, match=match):
        ConvDKM(**settings).fit(x, np.array([0, 1, 0, 1]), **options)
