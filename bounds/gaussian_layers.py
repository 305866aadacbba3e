r"""Closed forms for two Gaussian classes seen through linear layers with additive noise.

Inputs :math:`X = Y\mu + \sigma \varepsilon` with a fair label; :math:`Z = Y X` and the class mean
:math:`\hat\mu = \frac1n \sum_i Z_i \sim N(\mu, \sigma^2/n)`, from which a network learns. Given
:math:`\hat\mu`, a training point has :math:`Z_i \sim N(\hat\mu, \sigma^2 (1 - 1/n))`, a fresh one
:math:`N(\mu, \sigma^2)`. A layer shows :math:`A Z + N`, with Gaussian noise N of covariance C.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

from bounds.quadratic_loss import average_loss, inner_product

#: Singular values and eigenvalues below this, relative to the largest, count as zero.
RANK_TOL = 1e-10


@dataclass(frozen=True)
class Layer:
    """A representation A Z + N: matrix ``(k, d)`` and covariance ``(k, k)`` of its noise."""

    matrix: np.ndarray
    noise: np.ndarray

    @property
    def noisy(self) -> bool:
        """Whether any noise has entered."""
        return bool(self.noise.any())

    def then(self, weights: np.ndarray, std: float) -> Layer:
        """The next layer: ``weights (k', k)``, then noise of standard deviation ``std``."""
        noise = weights @ self.noise @ weights.T + std**2 * np.eye(len(weights))
        return Layer(weights @ self.matrix, noise)

    def rank(self, tol: float) -> int:
        """Number of singular values of the matrix above ``tol`` times the largest."""
        values = np.linalg.svd(self.matrix, compute_uv=False)
        return int((values > tol * values.max(initial=0.0)).sum())

    def signal_share(self, sigma: float, tol: float) -> np.ndarray:
        """Share of the signal in the variance, by canonical direction; ones without noise."""
        if not self.noisy:
            return np.ones(self.rank(tol))
        signal = sigma**2 * self.matrix @ self.matrix.T
        root = _inverse_root(signal + self.noise, tol)
        return np.clip(np.linalg.eigvalsh(root.T @ signal @ root), 0, 1)


def divergence(layer: Layer, n: int, sigma: float, tol: float) -> float:
    r"""Information between a training point and the class mean, both seen in this layer.

    .. math:: -\tfrac12 \sum_i \ln(1 - \lambda_i / n), \qquad
              \tfrac r2 \ln\frac{n}{n-1} \text{ without noise}

    with the shares of the signal :math:`\lambda_i`. Nats.
    """
    return float(-np.log1p(-layer.signal_share(sigma, tol) / n).sum() / 2) + 0.0  # no -0


def wasserstein(layer: Layer, n: int, sigma: float, tol: float) -> float:
    r"""Root mean square 2-Wasserstein distance between training and test representation.

    .. math:: E\,W_2^2 = 2\,\mathrm{tr}\left[S - (S^2 - S^{1/2} \Delta S^{1/2})^{1/2}\right],
        \qquad 2 \sigma^2 \|A\|_F^2 \left(1 - \sqrt{1 - 1/n}\right) \text{ without noise}

    with the covariance S of the layer and :math:`\Delta = \sigma^2 A A^\top / n`, by which that of
    the training points is smaller; it is also the variance of the shift of their mean.
    """
    change = sigma**2 / n * layer.matrix @ layer.matrix.T
    if not layer.noisy:
        return math.sqrt(2 * n * np.trace(change) * -math.expm1(math.log1p(-1 / n) / 2))
    values, vectors = np.linalg.eigh(n * change + layer.noise)
    kept = values > tol * max(values[-1], 0)
    s, basis = values[kept], vectors[:, kept]
    root = np.sqrt(s)
    e = root[:, None] * (basis.T @ change @ basis) * root
    kernel, rotation = np.linalg.eigh(np.diag(s**2) - e)
    m = rotation * np.sqrt(np.maximum(kernel, 0)) @ rotation.T
    x = np.diag(s) - m
    # S - (S^2 - E)^(1/2) cancels for large n: one Newton step on S X + X S - X^2 = E mends it
    x += scipy.linalg.solve_continuous_lyapunov(m, e - (s[:, None] + s) * x + x @ x)
    return math.sqrt(max(2 * np.trace(x), 0.0))


def _inverse_root(covariance: np.ndarray, tol: float) -> np.ndarray:
    """A matrix R with R^T covariance R = 1 on the range of the covariance."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > tol * max(values[-1], 0)
    return vectors[:, kept] / np.sqrt(values[kept])


def output_shift(layer: Layer, mean: np.ndarray, n: int, sigma: float) -> tuple[float, float]:
    r"""Shift of the output between training and test, for the read-out :math:`w = A \hat\mu`.

    The output is :math:`w \cdot t`. Exact first moment of its squared shift
    :math:`(w \cdot A(\hat\mu - \mu))^2`, and of that divided by the variance of the output given
    the weights. With :math:`x = A\hat\mu` the second is a ratio of polynomials,
    :math:`E[N^2/V] = \int_0^\infty E[N^2 e^{-tV}] dt`, of Gaussian moments at each t.
    """
    tau2 = sigma**2 / n
    left, values, _ = np.linalg.svd(layer.matrix, full_matrices=False)
    kept = values > RANK_TOL * values.max(initial=0.0)
    if not kept.any():
        return 0.0, 0.0
    root = math.sqrt(tau2) * left[:, kept] * values[kept]
    total = sigma**2 * layer.matrix @ layer.matrix.T + layer.noise
    beta, basis = np.linalg.eigh(root.T @ total @ root)
    centre = basis.T @ (left[:, kept].T @ (layer.matrix @ mean) / values[kept]) / math.sqrt(tau2)
    gram = basis.T @ (root.T @ root) @ basis
    # x = root basis y with y ~ N(centre, 1), V = sum(beta y^2), N = y^T gram (y - centre)
    low = math.log(1e-18 / (beta * (1 + centre**2)).sum())
    t = np.exp(np.arange(low, 85 - math.log(beta[-1]), 0.2))[:, None]
    d = 1 / (1 + 2 * t * beta)
    log_weight = (np.log(d) / 2 - t * beta * centre**2 * d).sum(-1)
    second = _squared_shift(gram, centre, d)
    ratio = 0.2 * float((t[:, 0] * np.exp(log_weight) * second).sum())
    plain = float(_squared_shift(gram, centre, np.ones((1, len(beta))))[0])
    return plain, ratio


def _squared_shift(gram: np.ndarray, centre: np.ndarray, d: np.ndarray) -> np.ndarray:
    """E[(y^T gram (y - centre))^2] for independent y of mean centre d and variance d."""
    mean = centre * d
    first = (d * np.diag(gram)).sum(-1) + ((mean @ gram) * (centre * (d - 1))).sum(-1)
    slope = (2 * mean - centre) @ gram
    return first**2 + 2 * ((d @ gram**2) * d).sum(-1) + (slope**2 * d).sum(-1)


def losses(layer: Layer, mean: np.ndarray, n: int, sigma: float) -> dict[str, float]:
    """Expected zero-one and logistic loss on training and test points, for the same read-out."""
    signal = layer.matrix @ layer.matrix.T * sigma**2
    centre = layer.matrix @ mean
    result = {}
    for part, share in (("train", 1 / n), ("test", 0.0)):
        form = inner_product(centre, centre, signal / n, share * signal, signal + layer.noise)
        for kernel in ("zero_one", "logistic"):
            result[f"{part}_{kernel}"] = average_loss(form, kernel)
    return result


def output_distance(layer: Layer, mean: np.ndarray, n: int, sigma: float) -> float:
    r"""Expected 1-Wasserstein distance between the outputs on training and on fresh points.

    Two Gaussians on the line are :math:`E_z|m + c z|` apart, m and c the differences of their means
    and standard deviations: the average modulus of one quadratic form. Noise only narrows them.
    """
    signal = layer.matrix @ layer.matrix.T * sigma**2
    centre = layer.matrix @ mean
    spread = math.expm1(math.log1p(-1 / n) / 2) ** 2 * signal
    form = inner_product(centre, 0 * centre, signal / n, signal / n, signal / n + spread)
    return float(np.trace(signal) / n + 2 * average_loss(form, "negative_part"))


def readout_moment(layer: Layer, after: np.ndarray, mean: np.ndarray, n: int, sigma: float) -> Any:
    """Mean square of ``after.T @ A muhat``: the squared Lipschitz constant of what follows."""
    through = after.T @ layer.matrix
    return float(np.square(through @ mean).sum() + sigma**2 / n * np.square(through).sum())
