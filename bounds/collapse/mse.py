r"""Global minimum of the deep linear unconstrained-features model with squared error, any targets.

.. math:: \min_{W, H, (\beta)} \frac{1}{2N} \| W_M \cdots W_1 H + \beta 1^\top - Y \|_F^2
          + \frac12 \sum_l \lambda_l \|W_l\|_F^2 + \frac{\lambda_H}{2} \|H\|_F^2

The penalty of a product Z is that of its singular values to the power 2/(M+1), so that the
problem separates in the singular vectors of Y (without its column mean, if there is a bias): each
singular value meets the scalar problem of :mod:`bounds.collapse.scalar`, the largest R of them if
the narrowest layer has R units. Balanced and imbalanced classes, with and without bias, several
labels a sample, and regression are the same formula.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np

from bounds.collapse.geometry import geometry
from bounds.collapse.scalar import as_decays, gain, mode_strength, penalty
from deeplimits import plotting
from deeplimits.errors import DomainError, ShapeError
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import ArrayLike
from deeplimits.validate import as_real, finite, integer

#: Rows of Z below this, relative to the largest target, count as vanished.
ZERO = 1e-9


@register_dataclass
@dataclass(frozen=True)
class Minimizer:
    """A global minimiser; all others are rotations of the hidden units.

    Attributes:
        W: weights, first layer first, ``(out, in)`` each.
        H: ``(d, N)`` features.
        Z: ``(K, N)`` the product of all, without the bias.
        bias: ``(K,)``, zero in a model without.
        loss: the minimum.
        strength: ``(r,)`` strength x of each mode, in the order of ``target_singular_values``.
        target_singular_values: ``(r,)`` of Y, descending.
        ratio: ``(r,)`` :math:`b / \\sigma^2`, to be compared with :func:`thresholds`.
        dropped: ``(r,)`` by how much the objective is higher where a mode is left at zero. For two
            layers and more such points are local minima, in which gradient descent can end.
        has_bias: whether the model has a bias.
    """

    W: tuple[Any, ...]
    H: Any
    Z: Any
    bias: Any
    loss: float
    strength: Any
    target_singular_values: Any
    ratio: Any
    dropped: Any
    has_bias: bool = field(metadata={"static": True})

    @property
    def singular_values(self) -> np.ndarray:
        """Those of Z, ``(r,)``, in the order of the modes."""
        return np.asarray(self.target_singular_values * gain(self.strength, len(self.W)))

    @property
    def rank(self) -> int:
        """Number of modes that are not zero."""
        return int(np.sum(self.strength > 0))

    @property
    def output(self) -> np.ndarray:
        """``(K, N)`` what the model predicts, bias included."""
        return np.asarray(self.Z + self.bias[:, None])

    @property
    def classifier(self) -> np.ndarray:
        """``(K, d)`` product of all weights."""
        return product(self.W)

    @property
    def vanished(self) -> np.ndarray:
        """``(K,)`` which rows of Z are zero: classes that the model has given up."""
        rows = np.linalg.norm(self.Z, axis=1)
        return np.asarray(rows <= ZERO * np.max(self.target_singular_values, initial=0.0))

    def layer_singular_values(self, layer: int) -> np.ndarray:
        """Those of ``W[layer]``, descending."""
        return np.linalg.svd(self.W[layer], compute_uv=False)

    def plot(self, ax: Any = None) -> Any:
        """Singular values of the targets and of what is learned of them, mode by mode."""
        ax = plotting.axes(ax)
        modes = np.arange(1, len(self.strength) + 1)
        ax.plot(modes, self.target_singular_values, "o", fillstyle="none", label="targets")
        ax.plot(modes, self.singular_values, "o", label="minimiser")
        ax.set(xlabel="mode", ylabel="singular value", xticks=modes, ylim=(0, None))
        ax.legend()
        return ax

    def class_means(self, labels: ArrayLike) -> np.ndarray:
        """``(d, K)`` mean feature of each class."""
        return class_means(self.H, np.asarray(labels))

    def geometry(self, labels: ArrayLike) -> str:
        """Name of the arrangement of the class means, see :func:`geometry`."""
        return geometry(self.class_means(labels))


def one_hot(counts: ArrayLike) -> np.ndarray:
    """Targets ``(K, N)`` of K classes with ``counts`` samples each, class after class.

    Args:
        counts: ``(K,)`` integers >= 1.

    Raises:
        DomainError: an empty class, or numbers that are not whole.

    Source: textbook. Check: tests/bounds/test_collapse.py::test_bad_input
    """
    counts = as_counts(counts)
    return np.repeat(np.eye(len(counts)), counts, axis=1)


def as_counts(counts: ArrayLike) -> np.ndarray:
    """Class sizes as integers >= 1.

    Raises:
        DomainError: otherwise.
    """
    values = np.atleast_1d(np.asarray(as_real(counts, "counts"), np.float64))
    finite(values, "counts")
    if values.ndim != 1 or (values < 1).any() or (values != np.rint(values)).any():
        raise DomainError(
            f"counts must be whole numbers >= 1, one per class, got {values}. Drop empty classes."
        )
    return values.astype(int)


def minimizer(
    Y: ArrayLike,
    lam_W: ArrayLike,
    lam_H: ArrayLike,
    *,
    bias: bool = False,
    width: int | Sequence[int] | None = None,
) -> Minimizer:
    r"""The global minimum in closed form.

    With :math:`Y = U \mathrm{diag}(\sigma) V^\top` and x of :func:`mode_strength` at
    :math:`b / \sigma^2`,

    .. math:: Z = U \mathrm{diag}\left(\frac{\sigma x^M}{1 + x^M}\right) V^\top, \qquad
              L = \frac{1}{2N} \sum_j \left[\frac{\sigma_j^2}{x_j^M + 1} + b x_j\right],

    and layer l has singular values :math:`s_l^2 = x (N \lambda_H)^{1/M}
    (\prod \lambda)^{1/M} / \lambda_l`.

    Args:
        Y: ``(K, N)`` targets, one column a sample; :func:`one_hot` for classes.
        lam_W: weight decays of the M >= 1 layers, first layer first, > 0 (a number: one layer).
        lam_H: decay of the features, > 0.
        bias: a bias in the last layer, not penalised; default False.
        width: units of the features and of each hidden layer, one number or M of them, >= 1;
            default K (more changes nothing).

    Returns:
        :class:`Minimizer`. A mode exactly at the switch is kept; equal singular values of Y at the
        limit of the width leave the choice of the modes open (the loss is unique).

    Raises:
        ShapeError: Y that is not a matrix, or not M widths.
        DomainError: NaN, decays that are not positive, a width below 1.

    Source: derived here; contains the squared-error theorems of arXiv:2301.00437.
    Check: tests/bounds/test_collapse.py::test_minimum_is_global
    """
    lam_W, lam_H = as_decays(lam_W, lam_H)
    Y = as_matrix(Y, "Y")
    K, N = Y.shape
    M = len(lam_W)
    widths = as_widths(width, M, K)
    mean = Y.mean(1) if bias else np.zeros(K)
    U, sigma, Vt = np.linalg.svd(Y - mean[:, None], full_matrices=False)
    sigma = np.where(sigma > 1e-14 * sigma.max(initial=0.0), sigma, 0.0)
    b = penalty(N, lam_W, lam_H)
    with np.errstate(divide="ignore"):
        ratio = b / sigma**2
    x = mode_strength(ratio, M)
    x[min(widths) :] = 0.0  # a narrow layer keeps the largest
    modes = (sigma**2 / (x**M + 1) + b * x) / (2 * N)
    dropped = sigma**2 / (2 * N) - modes
    square = N * lam_H * x**M  # of the product of the weights
    scale = np.sqrt(np.prod(lam_W ** (1 / M)) / lam_W)
    layers = [s * np.power(square, 1 / (2 * M)) for s in scale]
    shapes = [*zip(widths[1:], widths[:-1], strict=True), (K, widths[-1])]
    kept = min(*widths, len(sigma))
    weights = [_diagonal(s[:kept], shape) for s, shape in zip(layers, shapes, strict=True)]
    weights[-1] = np.pad(U[:, :kept] * layers[-1][:kept], ((0, 0), (0, widths[-1] - kept)))
    amplitude = np.sqrt(square) * sigma / (square + N * lam_H)
    H = np.pad(amplitude[:kept, None] * Vt[:kept], ((0, widths[0] - kept), (0, 0)))
    Z = (U * (sigma * gain(x, M))) @ Vt
    return Minimizer(
        tuple(weights), H, Z, mean, math.fsum(modes), x, sigma, ratio, dropped, bool(bias)
    )


def _diagonal(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    matrix = np.zeros(shape)
    index = np.arange(len(values))
    matrix[index, index] = values
    return matrix


def product(weights: Sequence[Any]) -> np.ndarray:
    """``W[M-1] ... W[0]``."""
    return np.asarray(reduce(lambda total, W: W @ total, weights[1:], weights[0]))


def class_means(H: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """``(d, K)`` from features ``(d, N)`` and labels 0..K-1, none of them empty."""
    member = (labels[:, None] == np.arange(labels.max() + 1)).astype(float)
    return np.asarray(H @ (member / member.sum(0)))


def as_matrix(values: ArrayLike, name: str) -> np.ndarray:
    """A finite matrix of float64.

    Raises:
        ShapeError, DomainError: otherwise.
    """
    matrix = np.asarray(as_real(values, name), np.float64)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ShapeError(f"{name} must be a matrix, got shape {matrix.shape}.")
    finite(matrix, name)
    return matrix


def as_widths(width: int | Sequence[int] | None, M: int, default: int) -> tuple[int, ...]:
    """Units of the features and of the M - 1 hidden layers.

    Raises:
        ShapeError: not one number or M of them.
        DomainError: a width below 1.
    """
    if width is None:
        return (default,) * M
    if np.ndim(width) == 0:
        return (integer(width, "width", at_least=1),) * M
    widths = tuple(integer(w, "width", at_least=1) for w in np.asarray(width).tolist())
    if len(widths) != M:
        raise ShapeError(
            f"width must be one number or {M} (features, then hidden layers), got {len(widths)}."
        )
    return widths


def minimum_loss(counts: ArrayLike, lam_W: ArrayLike, lam_H: ArrayLike) -> float:
    r"""Minimum for classes of ``counts`` samples without bias, where :math:`\sigma_k^2 = n_k`.

    Args:
        counts: ``(K,)`` integers >= 1.
        lam_W, lam_H: as in :func:`minimizer`.

    Source: derived here. Check: tests/bounds/test_collapse.py::test_published_numbers
    """
    counts = as_counts(counts)
    layers, features = as_decays(lam_W, lam_H)
    N = int(counts.sum())
    b = penalty(N, layers, features)
    x = mode_strength(b / counts, len(layers))
    return math.fsum(counts / (x ** len(layers) + 1) + b * x) / (2 * N)
