r"""Claims on spectra, learning curves and the lazy-rich crossover."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.claims import Claim, register
from ntk.gram_spectrum import gram_spectrum
from ntk.lazy_rich import abc_exponents, kernel_movement
from ntk.learning_curves import learning_curve
from ntk.networks import mlp
from ntk.spectrum import sphere_spectrum

HE = 2**0.5
#: Points on the sphere and targets of the training experiments.
POINTS = np.random.default_rng(7).standard_normal((6, 8))
TARGETS = np.array([1.0, -1.0, 1.0, 1.0, -1.0, -1.0])


@cache
def _sphere() -> Any:
    """Spectrum of the tangent kernel with two hidden layers on the sphere in five dimensions."""
    return sphere_spectrum(mlp(2, "relu", W_std=HE), 5, 40)


def _group_means(key: Any, n: int) -> np.ndarray:
    """Means of the eigenvalues 1, 2..6 and 7..20 of Gram matrices of random points, over n."""
    net = mlp(2, "relu", W_std=HE)

    def one(key: Any) -> np.ndarray:
        x = np.asarray(jax.random.normal(key, (n, 5)))
        x = x * 5**0.5 / np.linalg.norm(x, axis=1, keepdims=True)
        values = gram_spectrum(net.ntk(x)).eigenvalues
        return np.array([values[0], values[1:6].mean(), values[6:20].mean()])

    return np.array([one(k) for k in jax.random.split(key, 12)])


register(
    Claim(
        name="ntk/sphere-spectrum",
        source="Funk-Hecke formula; Koltchinskii and Gine, Bernoulli 6, 113 (2000)",
        statement="Eigenvalues of Gram matrices of n random points on the sphere, over n, tend to "
        "those of the kernel; their means over a degree as 1/n.",
        theory=lambda: np.asarray(_sphere().eigenvalues[:3]),
        experiment=_group_means,
        sizes=(100, 200, 400),
        exponent=-1.0,
        exponent_tol=0.25,
        quantity="eigenvalues of degree 0, 1 and 2",
    )
)

_MODES = 400
_EIGENVALUES = np.arange(1.0, _MODES + 1) ** -1.5
_COEFFICIENTS = np.arange(1.0, _MODES + 1) ** -0.9
_RIDGE, _NOISE = 0.02, 0.05


def _curve(n: int) -> np.ndarray:
    curve = learning_curve(_EIGENVALUES, _COEFFICIENTS, n, _RIDGE, _NOISE)
    return np.array([curve.test, curve.train])


@partial(jax.jit, static_argnames=("n", "draws"))
def _feature_errors(key: Any, n: int, draws: int) -> Any:
    """Test and training errors of ridge regression in Gaussian features, ``(draws, 2)``."""
    root, v = jnp.sqrt(jnp.asarray(_EIGENVALUES)), jnp.asarray(_COEFFICIENTS)

    def one(key: Any) -> Any:
        keys = jax.random.split(key)
        phi = jax.random.normal(keys[0], (n, _MODES))
        y = jnp.matmul(phi, v) + _NOISE**0.5 * jax.random.normal(keys[1], (n,))
        features = phi * root[None]
        gram = jnp.matmul(features, features.T) + _RIDGE * jnp.eye(n)
        weights = jnp.linalg.solve(gram, y)
        # over new Gaussian features the test error is an exact sum over modes
        error = v - root * jnp.matmul(features.T, weights)
        return jnp.stack([jnp.sum(error**2) + _NOISE, _RIDGE**2 * jnp.mean(weights**2)])

    return jax.lax.map(one, jax.random.split(key, draws))


register(
    Claim(
        name="ntk/learning-curve",
        source="[bordelon2020]; [simon2023], eqs. (3)-(7)",
        statement="Test and training error of kernel regression with Gaussian features are those "
        "of the spectral theory.",
        theory=_curve,
        experiment=lambda key, n: np.asarray(_feature_errors(key, n, 60)),
        sizes=(32, 128, 512),
        z=4.0,
        z_at="all",
        quantity="mean squared test and training error",
    )
)


def _movement(key: Any, width: int, alpha: float) -> np.ndarray:
    """Relative changes of the tangent kernel of independent networks trained to zero loss."""
    net = mlp(2, "tanh", W_std=1.5, b_std=0.1, width=width)

    def one(key: Any) -> Any:
        params = net.init(key, POINTS.shape)[1]
        moved = kernel_movement(net.apply, params, POINTS, TARGETS, alpha=alpha, tol=1e-4)
        return moved.relative

    draw = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=8))
    return np.asarray(draw(jax.random.split(key, 24)))


register(
    Claim(
        name="ntk/kernel-movement-width",
        source="Dyer and Gur-Ari, arXiv:1909.11304; [roberts2022], chapter 11",
        statement="Training to zero loss changes the tangent kernel by a relative amount that "
        "shrinks as 1/width.",
        theory=0.0,
        experiment=lambda key, width: _movement(key, width, 4.0),
        sizes=(32, 64, 128),
        exponent=-1.0,
        cost="slow",
        quantity="relative change of the tangent kernel",
    )
)

register(
    Claim(
        name="ntk/kernel-movement-scale",
        source="Chizat, Oyallon and Bach, arXiv:1812.07956",
        statement="With a centred output multiplied by alpha, the relative change of the tangent "
        "kernel in training shrinks as 1/alpha.",
        theory=0.0,
        experiment=lambda key, alpha: _movement(key, 32, float(alpha)),
        sizes=(8, 16, 32, 64),
        exponent=-1.0,
        cost="slow",
        quantity="relative change of the tangent kernel",
    )
)


def feature_change(key: Any, width: int, name: str, depth: int = 2, draws: int = 24) -> np.ndarray:
    """Root-mean-square change of the last hidden layer in one step of gradient descent.

    Args:
        key: random key.
        width: width of every hidden layer.
        name: of the parameterisation, see :func:`ntk.lazy_rich.abc_exponents`.
        depth: number of hidden layers (tanh).
        draws: independent networks.

    Returns:
        ``(draws,)``.
    """
    p = abc_exponents(name, depth)
    x, y = jnp.asarray(POINTS), jnp.asarray(TARGETS)
    shapes = [(x.shape[1], width), *[(width, width)] * (depth - 1), (width, 1)]
    scale = [float(width) ** -a for a in p.a]

    def hidden(weights: Any) -> Any:
        h = x / x.shape[1] ** 0.5
        for w, s in zip(weights[:-1], scale[:-1], strict=True):
            h = jnp.tanh(s * jnp.matmul(h, w))
        return h

    def loss(weights: Any) -> Any:
        f = scale[-1] * jnp.matmul(hidden(weights), weights[-1])[:, 0]
        return 0.5 * jnp.mean((f - y) ** 2)

    def one(key: Any) -> Any:
        keys = jax.random.split(key, depth + 1)
        weights = [
            float(width) ** -b * jax.random.normal(k, shape)
            for k, b, shape in zip(keys, p.b, shapes, strict=True)
        ]
        rate = 0.1 * float(width) ** -p.c
        new = jax.tree.map(lambda w, g: w - rate * g, weights, jax.grad(loss)(weights))
        return jnp.sqrt(jnp.mean((hidden(new) - hidden(weights)) ** 2))

    return np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(key, draws)))


for _name in ("ntk", "standard", "mup"):
    register(
        Claim(
            name=f"ntk/abc-{_name}",
            source="Yang and Hu, arXiv:2011.14522, definition 3.2",
            statement="In one step of gradient descent the features of a network with two hidden "
            f"layers in the parameterisation {_name!r} change by width^-r.",
            theory=0.0,
            experiment=partial(feature_change, name=_name),
            sizes=(64, 128, 256, 512),
            exponent=0.0 - abc_exponents(_name).r,
            exponent_tol=0.1,
            quantity="root-mean-square change of the last hidden layer",
        )
    )
