"""The record that :func:`ntk.finite_width.finite_width` returns."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from deeplimits.errors import DomainError
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import choice, integer, is_traced
from ntk.finite_width_run import groups_of
from ntk.finite_width_tensors import MATRICES, Tensors, names

_META = ("widths", "order", "closure", "quadrature_error")


@functools.partial(
    register_dataclass,
    data_fields=["layers", "C_b", "C_W", "lambda_b", "lambda_W"],
    meta_fields=list(_META),
)
@dataclass(frozen=True, eq=False)
class FiniteWidth:
    r"""Tensors of a network of finite width; ``n`` is the last hidden width.

    Digits are samples, :math:`i` neurons, :math:`\hat H` the random tangent kernel,
    :math:`\Delta\hat H` its deviation from the mean, :math:`dH` its change
    :math:`\sum \lambda\lambda\, \partial^2 z_0\, \partial z_1\, \partial z_2`:

    .. math::
       E[zzzz]_c &= \tfrac1n [\delta_{i_1i_2}\delta_{i_3i_4} V_{(12)(34)} + \text{2 more}], \quad
       E\hat G = G + G1/n, \quad E\hat H = \delta_{i_1i_2}(\Theta + \Theta1/n) \\
       E[\Delta\hat H_{12}\Delta\hat H_{34}] &= \tfrac1n[\delta_{i_1i_2}\delta_{i_3i_4} A_{(12)(34)}
       + \delta_{i_1i_3}\delta_{i_2i_4} B_{1324} + \delta_{i_1i_4}\delta_{i_2i_3} B_{1423}] \\
       E[z_1 z_2 \Delta\hat H_{34}] &= \tfrac1n[\delta_{i_1i_2}\delta_{i_3i_4} D_{1234}
       + \delta_{i_1i_3}\delta_{i_2i_4} F_{1324} + \delta_{i_1i_4}\delta_{i_2i_3} F_{1423}] \\
       E[dH_{012} z_3] &= \tfrac1n[\delta_{i_0i_3}\delta_{i_1i_2} P_{0123}
       + \delta_{i_0i_1}\delta_{i_2i_3} Q_{0123} + \delta_{i_0i_2}\delta_{i_1i_3} Q_{0213}] \\
       E[ddH^{I}] &= \tfrac1n[\delta_{i_0i_1}\delta_{i_2i_3} R_{0123}
       + \delta_{i_0i_2}\delta_{i_3i_1} R_{0231} + \delta_{i_0i_3}\delta_{i_1i_2} R_{0312}] \\
       E[ddH^{II}] &= \tfrac1n[\delta_{i_1i_2}\delta_{i_3i_4} S_{1234}
       + \delta_{i_1i_3}\delta_{i_2i_4} T_{1234} + \delta_{i_1i_4}\delta_{i_2i_3} U_{1234}]

    with :math:`ddH^I = \sum\lambda^3 \partial^3 z_0 \partial z_1 \partial z_2 \partial z_3` and
    :math:`ddH^{II} = \sum\lambda^3 \partial_\mu\partial_\nu z_1\, \partial_\mu\partial_\rho z_2\,
    \partial_\nu z_3\, \partial_\rho z_4`. Array axes are the subscripts from left to right: V
    ``[1, 2, 3, 4]``, B ``[1, 3, 2, 4]``, F ``[1, 3, 2, 4]`` (z, H, z, H). The book permutes the
    labels of T and U; here they keep the order of the samples.

    Attributes:
        G, G1, Theta, Theta1: ``(M, M)`` of the output layer.
        V, A, B, D, F, P, Q, R, S, T, U: ``(M, M, M, M)``, or with closure "pairs"
            ``(n_pairs, 2, 2, 2, 2)`` for the pairs in ``pairs``; None beyond ``order``.
        layers: the same tensors with a leading axis for layers 1 to L (coefficients of 1 over the
            width before each).
        widths, C_b, C_W, lambda_b, lambda_W, order, closure: the problem (lambdas per layer).
        quadrature_error: estimated relative error, the largest over all tensors and layers (NaN if
            inputs were traced).
    """

    layers: Tensors
    C_b: Any
    C_W: Any
    lambda_b: Any
    lambda_W: Any
    widths: tuple[int, ...]
    order: str
    closure: str
    quadrature_error: float

    def __getattr__(self, name: str) -> Any:
        """The tensor called ``name`` at the output layer."""
        if name not in names("ddNTK"):
            raise AttributeError(f"FiniteWidth has no attribute {name!r}")
        value = getattr(self.layers, name)
        return None if value is None else value[-1]

    @property
    def n(self) -> int:
        """The last hidden width: tensors of the output layer are coefficients of 1/n."""
        return self.widths[-1]

    @property
    def pairs(self) -> np.ndarray:
        """Sample indices of the pairs, ``(M (M - 1) / 2, 2)``."""
        return groups_of(self.layers.G.shape[-1], 2)

    @property
    def aspect_ratio(self) -> float:
        """``sum_l 1/n_l``, the expansion parameter (depth over width)."""
        return float(sum(1 / n for n in self.widths))

    def component(self, name: str, *samples: int, layer: int | None = None) -> Any:
        """One entry of a tensor by sample indices.

        Args:
            name: such as "V".
            *samples: two or four indices in the axis order of the tensor.
            layer: 1 to L, default the output layer L.

        Raises:
            DomainError: unknown or not computed tensor, wrong indices, or more than two different
                samples with closure "pairs".
        """
        choice(name, "name", names(self.order))
        value = getattr(self.layers, name)
        rank, inputs = (2 if name in MATRICES else 4), self.layers.G.shape[-1]
        if len(samples) != rank or not all(0 <= s < inputs for s in samples):
            raise DomainError(f"{name} takes {rank} samples in 0..{inputs - 1}, got {samples}.")
        depth = len(value)
        row = integer(depth if layer is None else layer, "layer", at_least=1)
        if row > depth:
            raise DomainError(f"layer must be <= {depth}, got {row}.")
        if rank == 2 or self.closure == "full":
            return value[(row - 1, *samples)]
        distinct = sorted(set(samples))
        if len(distinct) > 2:
            raise DomainError(
                f"closure 'pairs' has no component with samples {samples}, which are "
                f"{len(distinct)} different ones. Use closure='full'."
            )
        pair = (distinct * 2)[:2] if len(distinct) == 2 else [distinct[0], distinct[0] + 1]
        if pair[1] >= inputs:
            pair = [pair[0] - 1, pair[0]]
        number = int(np.flatnonzero((self.pairs == pair).all(axis=1))[0])
        return value[(row - 1, number, *(pair.index(s) for s in samples))]

    def mean_kernel(self) -> Any:
        """Mean of the output covariance to first order, ``G + G1 / n``, ``(M, M)``."""
        return self.G + self.G1 / self.n

    def mean_ntk(self) -> Any:
        """Mean of the tangent kernel to first order, ``Theta + Theta1 / n``, ``(M, M)``.

        Raises:
            DomainError: the record was computed with order "V".
        """
        self._require("Theta1")
        return self.Theta + self.Theta1 / self.n

    def kernel_variance(self) -> Any:
        """Variance of the random covariance of the outputs, ``V_(12)(12) / n``, ``(M, M)``."""
        return self._on_pairs("V", (0, 1, 0, 1)) / self.n

    def ntk_variance(self) -> Any:
        """Variance of the tangent kernel of one output: ``(A_(12)(12) + B_1122 + B_1221) / n``.

        Raises:
            DomainError: the record was computed with order "V".
        """
        self._require("B")
        B = self._on_pairs("B", (0, 0, 1, 1)) + self._on_pairs("B", (0, 1, 1, 0))
        return (self._on_pairs("A", (0, 1, 0, 1)) + B) / self.n

    @property
    def kurtosis(self) -> Any:
        """Excess kurtosis of one output, ``3 V_(11)(11) / (n G_11^2)``, ``(M,)``; NaN if G = 0."""
        return _kurtosis(self.kernel_variance(), self.G)

    def _require(self, name: str) -> None:
        if name not in names(self.order):
            raise DomainError(f"{name} was not computed: call finite_width with order='NTK'.")

    def _on_pairs(self, name: str, letters: tuple[int, ...]) -> Any:
        """``(M, M)``: the component whose indices are ``letters`` of (row, column)."""
        value, inputs = getattr(self, name), self.layers.G.shape[-1]
        if self.closure == "full":
            i, j = np.indices((inputs, inputs))
            return value[tuple((i, j)[s] for s in letters)]
        number, low, high = (np.zeros((inputs, inputs), int) for _ in range(3))
        for k, (i, j) in enumerate(self.pairs):
            number[np.ix_([i, j], [i, j])] = k
            low[[i, j], [i, j]], high[[i, j], [i, j]] = (0, 1), (0, 1)
            low[i, j], high[i, j], low[j, i], high[j, i] = 0, 1, 1, 0
        return value[(number, *((low, high)[s] for s in letters))]

    def plot(self, ax: Any = None) -> Any:
        """Relative scatter over depth: kurtosis of the preactivations and variance of the NTK."""
        from deeplimits import plotting

        ax = plotting.axes(ax)
        depth = np.arange(2, len(self.widths) + 2)
        V = np.asarray(self.layers.V)[1:].reshape(len(depth), -1)[:, 0]
        G = np.asarray(self.layers.G)[1:, 0, 0]
        widths = np.asarray(self.widths, float)
        ax.plot(depth, 3 * V / G**2 / widths, "o-", label="excess kurtosis of z")
        if self.layers.A is not None:
            A, B = (
                np.asarray(t)[1:].reshape(len(depth), -1)[:, 0]
                for t in (self.layers.A, self.layers.B)
            )
            Theta = np.asarray(self.layers.Theta)[1:, 0, 0]
            ax.plot(depth, (A + 2 * B) / Theta**2 / widths, "s-", label="relative variance of NTK")
        ax.set(xlabel="layer", ylabel="first order in 1/width", title="first input")
        ax.set_ylim(bottom=0)
        ax.legend()
        return ax


def _kurtosis(kernel_variance: Any, G: Any) -> Any:
    xp: Any = jnp if is_traced(G) else np
    K = xp.diagonal(G)
    square = xp.where(K > 0, K, 1.0) ** 2
    return xp.where(K > 0, 3 * xp.diagonal(kernel_variance) / square, np.nan)
