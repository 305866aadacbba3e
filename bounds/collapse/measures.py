r"""Neural-collapse metrics of features and classifiers, beside their theoretical targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from bounds.collapse.geometry import simplex
from bounds.collapse.mse import Minimizer, as_matrix, class_means, product
from deeplimits import plotting
from deeplimits.errors import DomainError, ShapeError
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import ArrayLike
from deeplimits.validate import choice

#: Directions of the between-class covariance below this share of the largest are left out.
RCOND = 1e-9


@register_dataclass
@dataclass(frozen=True)
class Metrics:
    r"""Distances from collapse; all zero at a collapsed minimiser.

    Attributes:
        nc1: variability within classes, :math:`\mathrm{tr}(\Sigma_W \Sigma_B^+) / K`.
        nc2: distance of the Gram of the classifier from its target.
        nc3: distance of classifier times class means from its target.
        within, between: traces of the two covariances.
    """

    nc1: float
    nc2: float
    nc3: float
    within: float
    between: float


def metrics(
    features: ArrayLike,
    labels: ArrayLike,
    classifier: ArrayLike,
    *,
    target: str | Minimizer | tuple[ArrayLike, ArrayLike] = "simplex",
) -> Metrics:
    r"""NC1, NC2 and NC3 of any features and the linear map above them.

    .. math:: NC_1 = \frac1K \mathrm{tr}(\Sigma_W \Sigma_B^+), \quad
              NC_2 = \left\| \frac{W W^\top}{\|W W^\top\|} - \frac{T}{\|T\|} \right\|_F, \quad
              NC_3 = \left\| \frac{W \bar H}{\|W \bar H\|} - \frac{T'}{\|T'\|} \right\|_F

    with the covariance :math:`\Sigma_W` over all samples around their class mean and
    :math:`\Sigma_B` of the K class means, each counted once even if the classes differ in size.

    Args:
        features: ``(n, d)``.
        labels: ``(n,)`` integers 0..K-1, every class present.
        classifier: ``(K, d)`` product of all layers above the features.
        target: ``"simplex"`` (balanced, with bias: T = T' = I - 1 1^T / K, class means around
            their mean), ``"orthogonal"`` (balanced, no bias: T = T' = I), a :class:`Minimizer`
            for targets with classes in the order of ``labels`` (imbalanced, any depth), or the two
            matrices (T, T').

    Returns:
        :class:`Metrics`.

    Raises:
        ShapeError: shapes that do not match.
        DomainError: NaN, labels that are not 0..K-1 with every class present, an unknown target,
            features without any variation between classes, a classifier that is zero.

    Source: arXiv:2301.00437, after arXiv:2008.08186.
    Check: tests/bounds/test_collapse_metrics.py
    """
    features, W = as_matrix(features, "features"), as_matrix(classifier, "classifier")
    labels = as_labels(labels, len(features), len(W))
    if isinstance(target, Minimizer):
        return _measure(features, labels, W, _at(target, target.classifier, target.H, labels))
    return _measure(features, labels, W, _named(target, len(W)))


def _measure(features: np.ndarray, labels: np.ndarray, W: np.ndarray, goal: _Goal) -> Metrics:
    if W.shape[1] != features.shape[1]:
        raise ShapeError(
            "classifier must have one column per feature, got shapes "
            f"{W.shape} and {features.shape} of features."
        )
    means = class_means(features.T, labels)
    noise = features.T - means[:, labels]
    spread = means - means.mean(1, keepdims=True)
    within = noise @ noise.T / len(features)
    between = spread @ spread.T / len(W)
    if not np.abs(spread).max() > 1e-13 * np.abs(means).max():
        raise DomainError("features must differ between classes; all class means are equal.")
    nc1 = float(np.trace(within @ np.linalg.pinv(between, rcond=RCOND, hermitian=True)) / len(W))
    return Metrics(
        nc1,
        _distance(W @ W.T, goal.gram, "classifier"),
        _distance(W @ (spread if goal.centred else means), goal.aligned, "classifier times means"),
        float(np.trace(within)),
        float(np.trace(between)),
    )


def layer_metrics(
    weights: Sequence[ArrayLike],
    features: ArrayLike,
    labels: ArrayLike,
    *,
    target: str | Minimizer = "simplex",
) -> xr.Dataset:
    """The metrics of a deep linear head seen from every layer.

    Args:
        weights: M matrices ``(out, in)``, first layer first.
        features: ``(n, d)`` what the first layer takes.
        labels, target: as in :func:`metrics`; a :class:`Minimizer` must have the same depth and
            gives each layer its own target.

    Returns:
        Dataset with ``nc1``, ``nc2``, ``nc3``, ``within``, ``between`` over ``layer`` = 0..M-1, the
        number of weight layers below the features considered; see :func:`plot_metrics`.

    Raises:
        ShapeError: no weights, a minimiser of another depth; otherwise as :func:`metrics`.

    Source: arXiv:2301.00437. Check: tests/bounds/test_collapse_metrics.py
    """
    matrices = [as_matrix(W, f"weights[{i}]") for i, W in enumerate(weights)]
    if not matrices:
        raise ShapeError("weights must hold at least one matrix.")
    if isinstance(target, Minimizer) and len(target.W) != len(matrices):
        raise ShapeError(
            f"the minimiser must have {len(matrices)} layers like weights, got {len(target.W)}."
        )
    H = as_matrix(features, "features")
    labels = as_labels(labels, len(H), len(matrices[-1]))
    rows = []
    for layer, W in enumerate(matrices):
        if isinstance(target, Minimizer):
            below = product((target.H, *target.W[:layer]))
            goal = _at(target, product(target.W[layer:]), below, labels)
        else:
            goal = _named(target, len(matrices[-1]))
        rows.append(_measure(H, labels, product(matrices[layer:]), goal))
        H = H @ W.T
    names = ("nc1", "nc2", "nc3", "within", "between")
    data = {name: ("layer", [getattr(row, name) for row in rows]) for name in names}
    return xr.Dataset(data, coords={"layer": np.arange(len(rows))})


def plot_metrics(dataset: xr.Dataset, *, ax: Any = None, **kw: Any) -> Any:
    """NC1 to NC3 against the layer (or step) on a logarithmic axis.

    Args:
        dataset: from :func:`layer_metrics`, or any with ``nc1``, ``nc2``, ``nc3`` over one axis.
        ax: axes to draw on; default a new figure.
        **kw: passed to ``plot``.

    Check: tests/bounds/test_collapse_metrics.py::test_plot
    """
    ax = plotting.axes(ax)
    (dim,) = dataset["nc1"].dims
    for name in ("nc1", "nc2", "nc3"):
        values = np.maximum(dataset[name].values, 1e-17)  # exact zeros have no logarithm
        ax.semilogy(dataset[dim], values, **{"marker": "o", "label": name.upper(), **kw})
    ax.set(xlabel=str(dim), ylabel="distance from collapse")
    ax.legend()
    return ax


def as_labels(labels: ArrayLike, n: int, K: int) -> np.ndarray:
    """Labels 0..K-1, every class present, as integers ``(n,)``.

    Raises:
        ShapeError, DomainError: otherwise.
    """
    values = np.asarray(labels)
    if values.shape != (n,):
        raise ShapeError(f"labels must have shape ({n},), got {values.shape}.")
    if values.dtype.kind not in "iu":
        raise DomainError(f"labels must be integers, got dtype {values.dtype}.")
    if not np.array_equal(np.unique(values), np.arange(K)):
        raise DomainError(
            f"labels must be 0..{K - 1} (one row of the classifier each) with every class present, "
            f"got {np.unique(values)[:12]}."
        )
    return values


@dataclass(frozen=True)
class _Goal:
    """Targets of the classifier's Gram and of its product with the class means."""

    gram: np.ndarray
    aligned: np.ndarray
    centred: bool


def _named(target: Any, K: int) -> _Goal:
    if isinstance(target, tuple):
        gram, aligned = (as_matrix(t, "target") for t in target)
        if gram.shape != (K, K) or aligned.shape != (K, K):
            raise ShapeError(
                f"target must hold two ({K}, {K}) matrices, got {gram.shape}, {aligned.shape}."
            )
        return _Goal(gram, aligned, False)
    choice(target, "target", ("simplex", "orthogonal"))
    T = simplex(K) if target == "simplex" else np.eye(K)
    return _Goal(T, T, target == "simplex")


def _at(minimizer: Minimizer, W: np.ndarray, H: np.ndarray, labels: np.ndarray) -> _Goal:
    """Targets at a minimiser whose features, at this layer, are ``H (d, N)``."""
    if H.shape[1] != len(labels):
        raise ShapeError(
            f"the minimiser must have as many samples as labels, got {H.shape[1]} "
            f"and {len(labels)}."
        )
    means = class_means(H, labels)
    if minimizer.has_bias:
        means = means - means.mean(1, keepdims=True)
    return _Goal(W @ W.T, W @ means, minimizer.has_bias)


def _distance(matrix: np.ndarray, target: np.ndarray, name: str) -> float:
    size = np.linalg.norm(matrix)
    if size == 0 or not np.any(target):
        raise DomainError(f"{name} and its target must not be zero.")
    return float(np.linalg.norm(matrix / size - target / np.linalg.norm(target)))
