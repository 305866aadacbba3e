r"""Few coordinates out of many before an information is estimated.

Nearest neighbours need few dimensions. A map E of the samples never adds information,
:math:`I(E(X); Y) \le I(X; Y)`, with equality if it can be undone: too few coordinates lose some.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.linalg

from bounds.mutual_information.noisy_network import initial
from bounds.mutual_information.samples import generator
from deeplimits.errors import DomainError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import ArrayLike, Key
from deeplimits.validate import as_inputs, as_square, integer, number


@register_dataclass
@dataclass(frozen=True)
class PCA:
    """Projection on the leading principal components.

    Attributes:
        mean: ``(d,)``.
        components: ``(k, d)``, orthonormal rows.
        variances: ``(k,)`` along them.
        share: of the total variance.
    """

    mean: Any
    components: Any
    variances: Any
    share: float

    def __call__(self, x: ArrayLike) -> np.ndarray:
        """Coordinates ``(n, k)`` of samples."""
        return (_flat(x, self.mean.size) - self.mean) @ self.components.T


@register_dataclass
@dataclass(frozen=True)
class Autoencoder:
    """An encoder trained so that a decoder can undo it.

    Attributes:
        params: weights and biases of the layers, encoder first.
        scale, mean: unit and centre of the inputs.
        losses: ``(steps,)`` mean squared reconstruction errors over the variance of the inputs.
        n_encoder: how many of the layers are the encoder.
    """

    params: Any
    mean: Any
    scale: Any
    losses: Any
    n_encoder: int = field(default=2, metadata={"static": True})

    def __call__(self, x: ArrayLike) -> np.ndarray:
        """Codes ``(n, k)`` of samples."""
        z = (_flat(x, self.mean.size) - self.mean) / self.scale
        return _numpy_layers(self.params[: self.n_encoder], z)

    def decode(self, codes: ArrayLike) -> np.ndarray:
        """Reconstructions ``(n, d)`` of codes."""
        z = _numpy_layers(self.params[self.n_encoder :], np.asarray(codes, np.float64))
        return z * self.scale + self.mean


def pca(x: ArrayLike, k: int) -> PCA:
    """The ``k`` leading principal components of samples.

    Args:
        x: ``(n, d)`` or images, n >= 2.
        k: 1..min(n - 1, d).

    Returns:
        :class:`PCA`, which maps samples to ``(n, k)`` when called.

    Raises:
        DomainError: k out of range.

    Source: textbook. Check: tests/bounds/test_mutual_information_reference.py
    """
    points = _flat(x)
    n, d = points.shape
    k = integer(k, "k", at_least=1)
    if k > min(n - 1, d):
        raise DomainError(f"k must be at most min(n - 1, d) = {min(n - 1, d)}, got {k}.")
    mean = points.mean(axis=0)
    centred = points - mean
    small = min(n, d)
    gram = centred.T @ centred if d <= n else centred @ centred.T
    values, vectors = scipy.linalg.eigh(gram, subset_by_index=[small - k, small - 1])
    values, rows = values[::-1], vectors[:, ::-1].T
    if d > n:
        rows = rows @ centred / np.sqrt(values)[:, None]
    variances = np.maximum(values, 0) / (n - 1)
    share = float(variances.sum() * (n - 1) / (centred**2).sum())
    return PCA(mean, rows, variances, share)


def gaussian_channel(covariance: ArrayLike, noise: float, k: int | None = None) -> float:
    r"""Information between a Gaussian x and k principal components of y = x + noise.

    .. math:: I_k = \frac12 \sum_{i \le k} \ln\Big(1 + \frac{\lambda_i}{s^2}\Big)

    Args:
        covariance: ``(d, d)`` of x, positive semi-definite, eigenvalues :math:`\lambda_i`.
        noise: standard deviation s > 0.
        k: components kept; default all.

    Returns:
        Nats.

    Raises:
        ShapeError, DomainError: not a covariance; out of range.

    Source: textbook. Check: tests/bounds/test_mutual_information_reference.py
    """
    values = np.linalg.eigvalsh(np.asarray(as_square(covariance, "covariance"), np.float64))[::-1]
    if values[-1] < -1e-10 * max(values[0], 0):  # rounding of an eigenvalue solver
        raise DomainError(
            f"covariance must be positive semi-definite, got an eigenvalue {values[-1]:.3g}."
        )
    number(noise, "noise", above=0)
    kept = len(values) if k is None else integer(k, "k", at_least=1)
    return 0.5 * float(np.log1p(np.maximum(values[:kept], 0) / noise**2).sum())


@float64_scope
def autoencoder(
    x: ArrayLike,
    k: int,
    *,
    key: Key,
    width: int = 64,
    steps: int = 2000,
    batch: int = 128,
    learning_rate: float = 3e-3,
) -> Autoencoder:
    r"""A small autoencoder d - width - k - width - d (tanh), trained with Adam.

    Args:
        x: ``(n, d)`` or images.
        k: size of the code, >= 1.
        key: key or seed.
        width: hidden units, default 64.
        steps: of Adam, default 2000; the rate falls to zero along a cosine.
        batch: samples per step, at most n.
        learning_rate: > 0.

    Returns:
        :class:`Autoencoder`, which maps samples to ``(n, k)`` when called.

    Raises:
        DomainError: out of range.

    Source: arXiv:2305.08013, section 4 (the idea). Check:
    tests/bounds/test_mutual_information_reference.py
    """
    points = _flat(x)
    n, d = points.shape
    for value, name in ((k, "k"), (width, "width"), (steps, "steps"), (batch, "batch")):
        integer(value, name, at_least=1)
    number(learning_rate, "learning_rate", above=0)
    mean, scale = points.mean(axis=0), float(points.std())
    if scale == 0:
        raise DomainError("x is constant: there is nothing to encode.")
    rng = generator(key)
    params, losses = _train(
        (points - mean) / scale,
        initial(rng, (d, width, k, width, d)),
        rng.integers(n, size=(steps, min(batch, n))),
        float(learning_rate),
    )
    arrays = jax.tree.map(lambda v: np.asarray(v, np.float64), params)
    return Autoencoder(arrays, mean, scale, np.asarray(losses))


def _flat(x: Any, d: int | None = None) -> np.ndarray:
    values = np.asarray(as_inputs(x, "x"), np.float64)
    values = values.reshape(len(values), -1)
    if d is not None and values.shape[1] != d:
        raise ShapeError(f"x must have {d} features, got {values.shape[1]}.")
    if d is None and len(values) < 2:
        raise ShapeError("x needs two samples or more.")
    return values


def _layers(params: list[tuple[Any, Any]], z: Any) -> Any:
    """Dense layers; every second one, counted from the first, has a tanh."""
    for i, (w, b) in enumerate(params):
        z = jnp.matmul(z, w) + b[None, :]
        z = jnp.tanh(z) if i % 2 == 0 else z
    return z


def _numpy_layers(params: list[tuple[Any, Any]], z: np.ndarray) -> np.ndarray:
    for i, (w, b) in enumerate(params):
        z = z @ w + b
        z = np.tanh(z) if i % 2 == 0 else z
    return z


@jax.jit
def _train(points: Any, params: Any, batches: Any, rate: Any) -> Any:
    steps = batches.shape[0]

    def falling(step: Any) -> Any:
        return rate * 0.5 * (1 + jnp.cos(jnp.pi * step / steps))

    optimiser = optax.adam(falling)

    def loss(params: Any, z: Any) -> Any:
        return jnp.mean((_layers(params, z) - z) ** 2)

    def step(state: Any, chosen: Any) -> Any:
        params, moments = state
        value, slope = jax.value_and_grad(loss)(params, points[chosen])
        with jax.numpy_dtype_promotion("standard"):  # optax mixes its counter with floats
            update, moments = optimiser.update(slope, moments, params)
        return (optax.apply_updates(params, update), moments), value

    (params, _), losses = jax.lax.scan(step, (params, optimiser.init(params)), batches)
    return params, losses
