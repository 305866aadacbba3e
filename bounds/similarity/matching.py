"""Similarity unit by unit, relative to anchors, and layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize

from bounds.result import Estimate
from bounds.similarity.alignment import cka
from deeplimits import plotting
from deeplimits.errors import DomainError, ShapeError
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import ArrayLike
from deeplimits.validate import as_inputs, is_traced, same_features


@register_dataclass
@dataclass(frozen=True)
class Matching:
    """Units of one representation assigned to units of another.

    Attributes:
        permutation: ``(p,)`` partner in Y of each unit of X; -1 for units left over.
        correlations: ``(p,)`` with the partner; 0 for units left over and constant ones.
        mean: average over the matched units.
    """

    permutation: Any
    correlations: Any
    mean: float

    def plot(self, ax: Any = None) -> Any:
        """Correlations with the partner, in descending order."""
        ax = plotting.axes(ax)
        values = np.sort(self.correlations[self.permutation >= 0])[::-1]
        ax.plot(np.arange(1, len(values) + 1), values, marker=".")
        ax.set(xlabel="unit, by rank", ylabel="correlation with its partner", ylim=(None, 1.02))
        return ax


def matching(X: ArrayLike, Y: ArrayLike) -> Matching:
    """One-to-one assignment of units with the largest sum of correlations.

    Args:
        X, Y: activations ``(n, p)`` and ``(n, q)`` on the same n >= 4 samples. If p and q differ,
            units of the larger one are left over. Constant units have correlation 0 with all.

    Returns:
        :class:`Matching`.

    Raises:
        ShapeError: different numbers of samples, or fewer than 4. DomainError: NaN.

    Source: arXiv:1511.07543. Check: tests/bounds/test_similarity.py::test_matching
    """
    columns = []
    for values, name in ((X, "X"), (Y, "Y")):
        array = np.asarray(as_inputs(values, name), np.float64)
        array = array.reshape(len(array), -1)
        centred = array - array.mean(0)
        size = np.linalg.norm(centred, axis=0)
        varies = size > 1e-13 * np.linalg.norm(array, axis=0)
        columns.append(centred * varies / np.where(varies, size, 1.0))
    X, Y = columns
    if len(X) != len(Y) or len(X) < 4:
        raise ShapeError(
            f"X and Y must be of the same 4 or more samples, got {len(X)} and {len(Y)}."
        )
    correlation = np.clip(X.T @ Y, -1, 1)
    rows, partners = scipy.optimize.linear_sum_assignment(correlation, maximize=True)
    permutation = np.full(X.shape[1], -1)
    permutation[rows] = partners
    values = np.zeros(X.shape[1])
    values[rows] = correlation[rows, partners]
    return Matching(permutation, values, float(values[rows].mean()))


def relative_representations(X: ArrayLike, anchors: ArrayLike) -> np.ndarray:
    r"""Cosines of every sample with a few anchor samples.

    .. math:: R_{ij} = \frac{x_i \cdot a_j}{\|x_i\| \|a_j\|}

    The same for two networks whose representations differ by a rotation and a scale.

    Args:
        X: ``(n, d)``; anchors: ``(m, d)`` in the same representation.

    Returns:
        ``(n, m)`` in [-1, 1].

    Raises:
        ShapeError: different numbers of features.
        DomainError: NaN, or a vector of length zero, which has no direction.

    Source: arXiv:2209.15430. Check: tests/bounds/test_similarity.py::test_relative
    """
    X = np.asarray(as_inputs(X, "X"), np.float64)
    anchors = np.asarray(as_inputs(anchors, "anchors"), np.float64)
    same_features(X, anchors, ("X", "anchors"))
    units = []
    for values, name in ((X, "X"), (anchors, "anchors")):
        values = values.reshape(len(values), -1)
        size = np.linalg.norm(values, axis=1, keepdims=True)
        if not size.all():
            raise DomainError(f"{name} must not hold vectors of length zero.")
        units.append(values / size)
    return np.clip(units[0] @ units[1].T, -1, 1)


def guidance_distance(
    kernels_a: Sequence[ArrayLike], kernels_b: Sequence[ArrayLike], *, unbiased: bool = True
) -> Estimate:
    r"""How far a network is from a guide, layer by layer.

    .. math:: \sum_l \left[1 - \mathrm{CKA}(A_l, B_{m(l)})\right]

    with the layers of A spread evenly over those of B, first to first and last to last. With NNGP
    kernels: how far two architectures are apart at initialisation, without sampling.

    Args:
        kernels_a: Grams ``(n, n)`` of the layers of the network, n >= 4; JAX tracers are accepted,
            so that the distance can be a training loss.
        kernels_b: Grams of the layers of the guide.
        unbiased: as in :func:`cka`.

    Returns:
        :class:`~bounds.result.Estimate`; ``terms``: ``cka`` per layer of A, ``layers`` m(l).

    Raises:
        ShapeError: no layers; otherwise as :func:`cka`. DomainError: as :func:`cka`.

    Source: arXiv:2410.20035. Check: tests/bounds/test_similarity.py::test_guidance
    """
    a, b = list(kernels_a), list(kernels_b)
    if not a or not b:
        raise ShapeError("kernels_a and kernels_b must each hold at least one Gram.")
    layers = np.rint(np.linspace(0, len(b) - 1, len(a))).astype(int)
    values = [cka(K, b[m], unbiased=unbiased).value for K, m in zip(a, layers, strict=True)]
    total = sum(1 - value for value in values)
    return Estimate(
        value=total if is_traced(total) else float(total),
        terms={"cka": tuple(values), "layers": tuple(int(m) for m in layers)},
        target="guidance distance",
        n=len(a[0]),
        units="1",
        reference="arXiv:2410.20035",
    )
