import jax.numpy as jnp
import numpy as np
import pytest

import ntk
from deeplimits import DomainError, NotPositiveDefiniteError, PrecisionError, ShapeError
from deeplimits.gaussian import bivariate_expectation
from gp.dkm import DKM
from gp.dkm_kernels import gram_kernel
from gp.dkm_linear import clamped_grams, deep_linear_grams

rng = np.random.default_rng(1)
X = 1.5 * rng.normal(size=(5, 3))
Y = rng.normal(size=5)


def rbf(G):
    g = np.diagonal(G)
    return np.exp(G - (g[:, None] + g) / 2)


@pytest.mark.parametrize("name", ["relu", "erf", "arccos2", "gelu"])
def test_kernels_are_gaussian_averages(name):
    G = np.array([[1.0, 0.3, -0.5], [0.3, 0.8, 0.1], [-0.5, 0.1, 1.3]])
    functions = {"arccos2": lambda x: np.maximum(x, 0) ** 2}
    fn = functions.get(name) or (lambda x: np.asarray(ntk.dual(name).fn(jnp.asarray(x))))
    scale = {"relu": 2.0, "arccos2": 2 / 3}.get(name, 1.0)
    kinks = (0.0,) if name in ("relu", "arccos2") else ()
    q = np.diagonal(G)
    truth = bivariate_expectation(
        lambda a, b: fn(a) * fn(b), q[:, None], G, q[None, :], kinks=kinks, tol=1e-10
    ).value
    np.testing.assert_allclose(gram_kernel(name)(G), scale * truth, rtol=1e-9, atol=1e-9)  # tol


def test_other_kernels():
    G = np.array([[1.0, 0.3], [0.3, 0.8]])
    np.testing.assert_allclose(gram_kernel("rbf")(G), rbf(G), rtol=1e-15)  # two roundings
    rho = 0.3 / np.sqrt(0.8)
    want = [[1.0, np.sqrt(0.8) * np.exp(rho - 1)], [np.sqrt(0.8) * np.exp(rho - 1), 0.8]]
    np.testing.assert_allclose(gram_kernel("normalized_gaussian")(G), want, rtol=1e-15)
    wide = gram_kernel(ntk.dual("erf"), W_std=1.5, b_std=0.1)(G)
    np.testing.assert_allclose(wide, 2.25 * gram_kernel("erf")(G) + 0.01, rtol=1e-14)
    for same in (lambda G: jnp.exp(G - 0.5), lambda a, b, c: jnp.exp(b - 0.5)):
        np.testing.assert_allclose(gram_kernel(same)(G), np.exp(G - 0.5), rtol=1e-15)
    assert gram_kernel("relu") is gram_kernel("relu")  # or every fit would compile again


def test_zero_width_needs_a_flag():
    free = DKM(nu=0.0, unregularized=True, layers=1, noise=0.5).fit(X, Y)
    assert free.objective >= DKM(layers=1, noise=0.5).fit(X, Y).objective
    with pytest.raises(DomainError, match="unregularized=True"):
        DKM(nu=0.0)


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"kernel": "rfb"}, DomainError, "kernel must be one of"),
        ({"kernel": 3}, DomainError, "name, an activation or a callable"),
        ({"kernel": lambda a, b: a}, DomainError, "takes 2"),
        ({"kernel": lambda G: G @ G}, DomainError, "other points"),
        ({"kernel": lambda G: G[0]}, DomainError, "no finite|fails"),
        ({"layers": 0}, DomainError, "layers must be >= 1"),
        ({"nu": -1.0}, DomainError, "nu must be finite and > 0"),
        ({"nu": [1.0, 2.0, 3.0]}, ShapeError, "one per layer"),
        ({"nu": np.nan}, DomainError, "nu must be finite"),
        ({"noise": -0.1}, DomainError, "noise must be >= 0"),
        ({"penalty": "l2"}, DomainError, "penalty must be one of"),
        ({"jitter": 0.1}, DomainError, "jitter must be"),
        ({"input_kernel": 3}, DomainError, "input_kernel must be"),
    ],
)
def test_bad_settings(settings, error, match):
    with pytest.raises(error, match=match):
        DKM(**settings)


@pytest.mark.parametrize(
    ("model", "x", "y", "error", "match"),
    [
        (DKM(), X[:, 0], Y, ShapeError, "must have shape"),
        (DKM(), X, Y[:3], ShapeError, "one row per row"),
        (DKM(), X * np.nan, Y, DomainError, "finite"),
        (DKM(max_points=3), X, Y, DomainError, "SparseDKM"),
        (DKM(), X.astype(np.float32), Y, PrecisionError, "force=True"),
        (DKM("relu"), np.r_[X[:4], np.zeros((1, 3))], Y, DomainError, "length 0"),
        (DKM(noise=0.0), X[[0, 1, 2, 3, 0]], Y, DomainError, "inputs 0 and 4 are equal"),
        (
            DKM(input_kernel=lambda a, b=None: np.eye(5) - 0.5),
            X, Y, NotPositiveDefiniteError, "semi-definite",
        ),
    ],
)  # fmt: skip
def test_bad_data(model, x, y, error, match):
    with pytest.raises(error, match=match):
        model.fit(x, y)


def test_other_refusals():
    forced = DKM(nu=2.0).fit(X.astype(np.float32), Y, force=True)
    assert forced.grams.dtype == np.float64
    with pytest.raises(DomainError, match="restarts must be"):
        DKM().fit(X, Y, restarts=-1)
    with pytest.raises(ShapeError, match="every axis"):
        forced.mean(np.zeros((2, 4)))
    with pytest.raises(DomainError, match="W_std and b_std"):
        gram_kernel("relu", W_std=2.0)
    with pytest.raises(ShapeError, match="square Gram"):
        gram_kernel("relu")(np.zeros(3))
    eye = np.eye(3)
    with pytest.raises(NotPositiveDefiniteError, match="positive definite"):
        deep_linear_grams(eye, np.diag([1.0, 1.0, 0.0]), [1.0])
    with pytest.raises(ShapeError, match="one shape"):
        deep_linear_grams(eye, np.eye(2), [1.0])
    with pytest.raises(ShapeError, match="one width per step"):
        deep_linear_grams(eye, eye, 1.0)
    with pytest.raises(DomainError, match="nu must be finite"):
        deep_linear_grams(eye, eye, [1.0, 0.0])
    with pytest.raises(ShapeError, match="one shape"):
        clamped_grams(DKM("linear"), eye, np.eye(2), 1.0)
