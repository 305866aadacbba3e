r"""Claims of the kernels: closed forms of infinite networks held against random finite ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.claims import Claim, register
from deeplimits.datasets import load, to_sphere
from deeplimits.estimates import Estimate, variance_with_error
from ntk.arccosine import ABRelu, RectifiedMonomial
from ntk.compose import serial
from ntk.empirical import empirical_nngp, empirical_ntk
from ntk.layers import Dense, Layer
from ntk.linearize import linearize
from ntk.monte_carlo import monte_carlo_kernel
from ntk.networks import mlp
from ntk.nonlinearities import Erf, Relu
from ntk.norm import Dropout, LayerNorm

#: Scale of the weights that keeps the variance of ReLU units.
HE = float(np.sqrt(2.0))


@cache
def digit_images(n: int) -> np.ndarray:
    """The first ``n`` images of the digits, scaled to the sphere of radius sqrt(64)."""
    return to_sphere(load("digits").X[:n])


def pairs(kernels: Any) -> np.ndarray:
    """The distinct entries ``(..., n (n + 1) / 2)`` of symmetric matrices ``(..., n, n)``."""
    kernels = np.asarray(kernels)
    return kernels[(..., *np.triu_indices(kernels.shape[-1]))]


def sample_kernels(
    net: Layer, kernel: Callable[..., Any], x: Any, key: Any, n_samples: int, batch_size: int
) -> np.ndarray:
    """Kernels of independent finite networks in float32, ``(n_samples, pairs)``.

    Single precision halves the time to draw the weights; its error, 1e-6 relative, is far below
    the scatter of the samples.
    """
    with jax.enable_x64(False):
        x = jnp.asarray(x, jnp.float32)

        def one(key: Any) -> Any:
            return kernel(net.apply, net.init(key, x.shape)[1], x)

        draw = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=batch_size))
        return pairs(draw(jax.random.split(key, n_samples)))


def _monte_carlo(net: Layer, key: Any, x: Any, n_samples: int, get: str) -> Estimate:
    found = monte_carlo_kernel(net, key, x, n_samples=n_samples, get=get, batch_size=64)
    return Estimate(pairs(found.mean), pairs(found.stderr), n_samples - 1)


def _wide_relu(width: int) -> Layer:
    return serial(Dense(width, HE), Relu(), Dense(width, HE), Relu(), Dense(1, HE))


def _tangent_kernels(key: Any, width: int) -> np.ndarray:
    """Fewer networks where they are wide: a network costs width^2 to draw."""
    n_samples = min(768, 196_608 // width)
    batch = max(1, min(64, 4096 // width))
    return sample_kernels(_wide_relu(width), empirical_ntk, digit_images(6), key, n_samples, batch)


register(
    Claim(
        name="ntk/kernel-variance-width",
        source="[jacot2018]; the rate from Hanin and Nica, arXiv:1909.05989",
        statement="Over initialisations, the variance of the tangent kernel of a ReLU network with "
        "two hidden layers shrinks as 1/width, and its mean tends to the closed form.",
        theory=lambda: pairs(_wide_relu(1).ntk(digit_images(6))),
        experiment=_tangent_kernels,
        sizes=(32, 64, 128, 256, 512, 1024, 2048),
        exponent=-1.0,
        z=4.0,
        decays="variance",
        exponent_tol=0.02,
        cost="slow",
        quantity="tangent kernel of 6 digits",
    )
)


def _shallow(width: int, **options: Any) -> Layer:
    return mlp(1, "relu", W_std=HE, b_std=0.3, width=width, **options)


register(
    Claim(
        name="ntk/nngp-mean",
        source="[neal1996]; [lee2018]",
        statement="With one hidden layer the covariance of the outputs over initialisations is the "
        "NNGP kernel at every width.",
        theory=lambda: pairs(_shallow(1).nngp(digit_images(4))),
        experiment=lambda key, width: _monte_carlo(
            _shallow(width), key, digit_images(4), 10_000, "nngp"
        ),
        sizes=(8,),
        z=4.0,
        quantity="covariance of the outputs for 4 digits",
    )
)

register(
    Claim(
        name="ntk/standard-parameterization",
        source="[sohldickstein2020]",
        statement="In the standard parameterisation the mean tangent kernel with one hidden layer "
        "is the closed form, which grows with the width, at every width.",
        theory=lambda width: pairs(
            _shallow(width, parameterization="standard").ntk(digit_images(4))
        ),
        experiment=lambda key, width: _monte_carlo(
            _shallow(width, parameterization="standard"), key, digit_images(4), 4_000, "ntk"
        ),
        sizes=(32,),
        z=4.0,
        quantity="tangent kernel of 4 digits",
    )
)


def _dropout(width: int) -> Layer:
    return serial(Dense(width, HE, 0.3), Relu(), Dropout(0.7), Dense(1, HE, 0.3))


def _dropout_kernels(key: Any, width: int) -> np.ndarray:
    """By Jacobians of the whole batch, so that every image has its own mask."""
    net, x = _dropout(width), jnp.asarray(digit_images(4))

    def one(key: Any) -> Any:
        init_key, mask_key = jax.random.split(key)
        params = net.init(init_key, x.shape)[1]
        rows = jax.jacrev(lambda p: net.apply(p, x, key=mask_key)[:, 0])(params)
        flat = [leaf.reshape(len(x), -1) for leaf in jax.tree.leaves(rows)]
        return sum(jnp.matmul(leaf, leaf.T) for leaf in flat)

    draw = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=64))
    return pairs(draw(jax.random.split(key, 4_000)))


register(
    Claim(
        name="ntk/dropout",
        source="[novak2020], section 3",
        statement="Averaged over weights and masks, the tangent kernel with dropout between two "
        "layers is the closed form at every width.",
        theory=lambda: pairs(_dropout(1).ntk(digit_images(4))),
        experiment=_dropout_kernels,
        sizes=(32,),
        z=4.0,
        quantity="tangent kernel of 4 digits",
    )
)


def _layer_norm(width: int) -> Layer:
    return serial(Dense(width, 1.5, 0.1), LayerNorm(), Erf(), Dense(1, 1.0, 0.1))


register(
    Claim(
        name="ntk/layer-norm",
        source="[novak2020], section 3",
        statement="The mean covariance of the outputs of a network with layer normalisation tends "
        "to the closed form as 1/width.",
        theory=lambda: pairs(_layer_norm(1).nngp(digit_images(3))),
        experiment=lambda key, width: _layer_norm_features(key, width),
        sizes=(16, 32, 64),
        exponent=-1.0,
        cost="slow",
        quantity="covariance of the outputs for 3 digits",
    )
)


def _layer_norm_features(key: Any, width: int) -> Estimate:
    """The read-out is averaged exactly, so only the scatter of the hidden units is left."""
    net = serial(Dense(width, 1.5, 0.1), LayerNorm(), Erf())
    hidden = _monte_carlo(net, key, digit_images(3), 20_000, "nngp")
    return Estimate(hidden.mean + 0.1**2, hidden.stderr, hidden.dof)


def _layer_variance(width: int) -> np.ndarray:
    """Variance of the mean of ``width`` independent products of two ReLU units."""
    x = digit_images(4)
    prior = np.asarray(Dense(1, HE).nngp(x))
    variances = np.diagonal(prior)
    moments = [
        np.asarray(dual.K(variances[:, None], prior, variances[None]))
        for dual in (RectifiedMonomial(2), ABRelu(0.0, 1.0))
    ]
    return pairs((moments[0] - moments[1] ** 2) / width)


def _layer_variance_measured(key: Any, width: int) -> Estimate:
    net = serial(Dense(width, HE), Relu())
    return variance_with_error(sample_kernels(net, empirical_nngp, digit_images(4), key, 8_000, 64))


register(
    Claim(
        name="ntk/one-layer-variance",
        source="[roberts2022], section 4.1",
        statement="The kernel of one layer of n ReLU units scatters over initialisations with "
        "variance (E[relu(x)^2 relu(y)^2] - K^2)/n.",
        theory=_layer_variance,
        experiment=_layer_variance_measured,
        sizes=(8, 128),
        z=4.0,
        z_at="all",
        quantity="variance of the kernel of 4 digits",
    )
)


def _fourth_powers(key: Any, width: int) -> np.ndarray:
    """``f^4`` over the squared variance, less its Gaussian value 3, for many networks."""
    x = jnp.ones((1, 1))
    net = mlp(1, "relu", W_std=HE, width=width)
    output = jax.jit(jax.vmap(lambda k: net.apply(net.init(k, (1, 1))[1], x)[0, 0]))
    f = np.asarray(output(jax.random.split(key, 200_000)))
    return (f / float(net.nngp(x)[0, 0]) ** 0.5) ** 4 - 3


register(
    Claim(
        name="ntk/output-kurtosis",
        source="Hanin and Nica, arXiv:1812.05994; [roberts2022]",
        statement="The output of a ReLU network with one hidden layer and no biases has excess "
        "kurtosis 15/width: it becomes Gaussian in the limit.",
        theory=lambda width: 15.0 / width,
        experiment=_fourth_powers,
        sizes=(8, 16, 32),
        z=4.0,
        z_at="all",
        quantity="excess kurtosis of the output",
    )
)


def _distance_from_linear(key: Any, width: int) -> np.ndarray:
    """Squared distance, after training, between networks and their linearisations."""
    x = jnp.asarray(digit_images(8))
    y = jnp.asarray([1.0, -1.0, 0.5, 0.0, -0.5, 1.0])
    net = mlp(1, "erf", W_std=1.5, b_std=0.1, width=width)

    def trained(f: Callable[..., Any], params: Any) -> Any:
        def loss(p: Any) -> Any:
            return 0.5 * jnp.sum((f(p, x[:6])[:, 0] - y) ** 2)

        def step(p: Any, _: None) -> tuple[Any, None]:
            return jax.tree.map(lambda a, g: a - 0.05 * g, p, jax.grad(loss)(p)), None

        return f(jax.lax.scan(step, params, None, length=60)[0], x[6:])[:, 0]

    def one(key: Any) -> Any:
        params = net.init(key, x.shape)[1]
        return (trained(net.apply, params) - trained(linearize(net.apply, params), params)) ** 2

    run = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=16))
    return np.asarray(run(jax.random.split(key, 160)))


register(
    Claim(
        name="ntk/linearization",
        source="Dyer and Gur-Ari, arXiv:1909.11304; bounded by [lee2019], theorem 2.1",
        statement="After training, the squared distance between the outputs of a network and of "
        "its linearisation shrinks as 1/width^2.",
        theory=np.zeros(2),
        experiment=_distance_from_linear,
        sizes=(256, 512, 1024),
        exponent=-2.0,
        cost="slow",
        quantity="squared difference of the outputs at 2 test digits",
    )
)
