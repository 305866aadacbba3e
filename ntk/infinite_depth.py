r"""Which classifier is a network of infinite width and infinite depth?

For inputs on the unit sphere and an activation with :math:`E[\varphi(z)^2] = 1`, the dual
:math:`\hat\varphi(\rho) = \sum_k c_k \rho^k` decides by :math:`c_0`, :math:`a = c_1` and
:math:`b = \hat\varphi'(1)`:

=============================  ==============================================================
``c_0 = 0``, ``0 < a < 1``     singular kernel :math:`\psi(\rho) \sim |x - x'|^{-2\alpha}` with
                               :math:`2\alpha = -2 \ln a / \ln b`
``c_0 = 0``, ``a = 0``         nearest neighbour
``c_0 > 0``                    majority vote; for ``b < 1`` only with a ridge, else kriging
                               with the variogram :math:`\psi_1` (see :attr:`ridgeless`)
=============================  ==============================================================
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from deeplimits.errors import DomainError, ShapeError, UnsupportedLayerError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.roots import bracketed_root
from deeplimits.validate import as_inputs, choice, integer, number, same_features
from ntk import deep_data as data
from ntk import deep_prediction as prediction
from ntk.compose import serial
from ntk.deep_depth import depth_needed
from ntk.deep_prediction import DepthScores
from ntk.deep_recursion import deep_kernel, log_diagonal
from ntk.hermite_series import HermiteSeries, hermite_series
from ntk.koenigs import DepthMap, boettcher, depth_map, koenigs, layer_gap, log_koenigs_at_one
from ntk.layers import Activation, Dense, Layer
from ntk.norm import LayerNorm
from ntk.repeat import repeat


class Consistency(NamedTuple):
    """Whether the limit is Bayes-consistent in dimension ``d``, and what is wrong if not."""

    consistent: bool
    verdict: str


@functools.partial(
    register_dataclass,
    data_fields=("series", "map", "exponent", "exponent_error", "c_star", "ntk_ratio"),
    meta_fields=("kind", "phase", "certain"),
)
@dataclass(frozen=True)
class InfiniteDepth:
    r"""The limit of infinite depth of one activation; made by :func:`infinite_depth`.

    Attributes:
        kind: ``"singular"``, ``"nearest_neighbour"`` or ``"majority_vote"``.
        exponent: :math:`2\alpha` of the singular kernel; infinite for the nearest neighbour, 0 for
            majority vote and for activations that jump (a logarithm only).
        exponent_error: bound on its error, from those of ``a`` and ``b``.
        c_star: correlation to which all pairs of inputs tend.
        ntk_ratio: the same for the NTK divided by its diagonal.
        phase: ``"chaotic"`` (b > 1), ``"critical"`` (b = 1) or ``"ordered"`` (b < 1).
        certain: whether the class follows from parity and error bars alone; else a coefficient
            within its error bar of 0 was taken to be 0.
        series, map: Hermite coefficients, and the layer that is iterated.
    """

    series: HermiteSeries = field(repr=False)
    map: DepthMap = field(repr=False)
    exponent: Any
    exponent_error: Any
    c_star: Any
    ntk_ratio: Any
    kind: str
    phase: str
    certain: bool

    @property
    def a(self) -> float:
        """Slope of the dual at correlation 0."""
        return float(self.series.c[1])

    @property
    def b(self) -> float:
        """Slope of the dual at correlation 1."""
        return float(self.series.slope)

    @property
    def c0(self) -> float:
        """Value of the dual at correlation 0."""
        return float(self.series.c[0])

    @property
    def ridgeless(self) -> str:
        """The class without a ridge: ``kind``, but ``"kriging"`` in the ordered phase.

        There the limits of depth and of a vanishing ridge do not commute.
        """
        return "kriging" if self.phase == "ordered" else self.kind

    def consistency(self, dimension: int) -> Consistency:
        r"""Compare :math:`2\alpha` with the dimension of the data manifold.

        Args:
            dimension: d >= 1, of the sphere (or manifold) on which the inputs lie.

        Source: [radhakrishnan2023], theorem 1.
        """
        d = integer(dimension, "dimension", at_least=1)
        if abs(self.exponent - d) <= self.exponent_error + 1e-9:
            return Consistency(True, f"consistent: the exponent is the dimension {d}")
        if self.exponent > d:
            return Consistency(
                False, f"too local: exponent {self.exponent:.4g} > {d}, the nearest points decide"
            )
        return Consistency(
            False, f"too global: exponent {self.exponent:.4g} < {d}, far points keep their weight"
        )

    @float64_scope
    def log_kernel(
        self,
        x1: Any = None,
        x2: Any = None,
        *,
        eps: Any = None,
        depth: Any = math.inf,
        kernel: str = "nngp",
    ) -> Float[np.ndarray, "..."]:
        r"""Logarithm of ``|kernel|``, at infinite depth of its limit.

        Args:
            x1: ``(n1, d)``, scaled to length 1; ``x2`` likewise, default ``x1``.
            eps: instead of inputs: gaps :math:`1 - \rho` in [0, 2], any shape.
            depth: number of activations >= 1, or infinity: then :math:`\ln\psi` (singular; the NTK
                is :math:`L\psi`), :math:`\ln B` (nearest neighbour), :math:`\ln\psi_1` (ordered
                phase, the variogram), or the logarithm of the limiting correlation.
            kernel: ``"nngp"`` or ``"ntk"``.

        Returns:
            ``(n1, n2)`` or the shape of ``eps``.

        Raises:
            ShapeError, DomainError: bad inputs, both or none given, or options out of range.

        Check: tests/ntk/test_infinite_depth.py::test_recursion
        """
        if (x1 is None) == (eps is None):
            raise ShapeError("log_kernel takes inputs x1 or gaps eps; give one of them.")
        if eps is None:
            U = data.unit(x1, "x1")
            eps = data.gaps(U, U if x2 is None else data.unit(x2, "x2"))
        eps = np.asarray(eps, np.float64)
        if not ((eps >= 0) & (eps <= 2)).all():
            raise DomainError("eps must lie in [0, 2], the range of 1 - correlation.")
        layers = self._depth(depth, kernel)
        gap = jnp.asarray(eps)
        if layers is not None:
            found = deep_kernel(self.map, gap, layers, kernel).log
            return np.asarray(found) + log_diagonal(self.b, layers, kernel)
        if self.phase == "ordered":
            return np.asarray(log_koenigs_at_one(self.map, gap))
        if self.kind == "majority_vote":
            ratio = self.c_star if kernel == "nngp" else self.ntk_ratio
            with np.errstate(divide="ignore"):
                return np.where(eps == 0, 0.0, np.log(ratio))
        found = koenigs(self.map, gap)[0] if self.kind == "singular" else boettcher(self.map, gap)
        return np.asarray(found)

    def predict(
        self,
        X_train: Any,
        y_train: Any,
        X_test: Any,
        *,
        depth: Any = math.inf,
        kernel: str = "nngp",
        ridge: float = 0.0,
        ties: str = "raise",
    ) -> Shaped[np.ndarray, " m"]:
        r"""Labels by kernel regression on one-hot labels with the kernel of ``depth`` layers.

        At infinite depth the limit is evaluated directly: a stream over training points (no Gram)
        for singular kernels and nearest neighbours, counting for majority vote, one system with
        the variogram for kriging.

        Args:
            X_train: ``(n, d)``, not zero; lengths do not matter.
            y_train: ``(n,)`` labels of any type, or ``(n, classes)`` one-hot.
            X_test: ``(m, d)``.
            depth: number of activations >= 1, or infinity (default).
            kernel: ``"nngp"`` or ``"ntk"``.
            ridge: added to the diagonal of the Gram, >= 0, default 0.
            ties: ``"raise"``, or ``"nan"`` where two classes cannot be told apart.

        Returns:
            ``(m,)`` labels, of the kind of ``y_train`` (column numbers for a one-hot matrix).

        Raises:
            DomainError: a zero row, one direction with two labels, a tie, an option out of range.
            ShapeError: shapes that do not match.
            UnsupportedLayerError: the NTK of an activation that jumps, or (ordered phase, infinite
                depth, no ridge) of one with kinks.

        Source: [radhakrishnan2023], theorems 1-3; the ordered phase is derived here.
        Check: tests/ntk/test_infinite_depth.py
        """
        choice(ties, "ties", ("raise", "nan"))
        found = self.scores(X_train, y_train, X_test, depth=depth, kernel=kernel, ridge=ridge)
        return found.labels(ties)

    @float64_scope
    def scores(
        self,
        X_train: Any,
        y_train: Any,
        X_test: Any,
        *,
        depth: Any = math.inf,
        kernel: str = "nngp",
        ridge: float = 0.0,
    ) -> DepthScores:
        """Class scores of :meth:`predict`, as logarithms and signs; arguments as there."""
        layers = self._depth(depth, kernel)
        ridge = float(number(ridge, "ridge", at_least=0.0))
        same_features(
            as_inputs(X_train, "X_train"), as_inputs(X_test, "X_test"), ("X_train", "X_test")
        )
        U, V = data.unit(X_train, "X_train"), data.unit(X_test, "X_test")
        classes, columns = data.encode(y_train, len(U))
        data.warn_if_outside(self.map, U, V)
        if ridge == 0:
            U, columns = data.distinct(self.map, U, columns, classes)
        task = (self.map, U, columns, classes, V)
        if layers is not None:
            return prediction.solved(*task, depth=layers, kernel=kernel, ridge=ridge)
        if self.kind == "singular":
            return prediction.streamed_sum(*task)
        if self.kind == "nearest_neighbour":
            return prediction.streamed_nearest(*task)
        if self.phase != "ordered" or ridge > 0:
            ratio = self.c_star if kernel == "nngp" else self.ntk_ratio
            if kernel == "ntk":  # relative to the diagonal, which is infinite unless b < 1
                ridge = ridge * max(1 - self.b, 0.0)
            return prediction.counted(*task, ratio=float(ratio), ridge=ridge)
        if kernel == "ntk" and self.map.bends[0] != 0:
            raise UnsupportedLayerError(
                "in the ordered phase and without a ridge the NTK of an activation with kinks does "
                'not tend to psi_1; use a finite depth, a ridge, or kernel="nngp".'
            )
        return prediction.solved(*task, depth=None, kernel=kernel, ridge=0.0)

    def depth_needed(
        self,
        X_train: Any = None,
        *,
        eps: Any = None,
        n: int | None = None,
        tol: float = 0.01,
        kernel: str = "nngp",
        max_depth: int = 1_000_000,
    ) -> int:
        """Depth from which the kernel has its limiting form on this data; see
        :func:`ntk.deep_depth.depth_needed`."""
        self._depth(1, kernel)
        return depth_needed(self, X_train, eps=eps, n=n, tol=tol, kernel=kernel, most=max_depth)

    def network(self, depth: int, *, width: int = 512, out_dim: int = 1) -> Layer:
        """The network of this package whose kernels tend to the limit.

        Inputs are scaled to unit variance by the LayerNorm before each activation; without it the
        variances of a polynomial activation drift from 1 by a factor per layer.

        Args:
            depth: number of activations >= 1.
            width: units of the finite network.
            out_dim: outputs of the finite network.

        Check: tests/ntk/test_infinite_depth.py::test_recursion
        """
        depth = integer(depth, "depth", at_least=1)
        scale = float(self.series.variance) ** -0.5
        act = (LayerNorm(), Activation(self.series.dual))
        layers: tuple[Layer, ...] = (Dense(width, 1.0),)
        if depth > 1:
            layers = (*layers, repeat(serial(*act, Dense(width, scale)), depth - 1))
        return serial(*layers, *act, Dense(out_dim, scale))

    def plot(self, ax: Any = None) -> Any:
        """The limiting kernel over the distance, or the map of the correlation (majority vote)."""
        from ntk.deep_depth import plot_infinite_depth

        return plot_infinite_depth(self, ax=ax)

    def _depth(self, depth: Any, kernel: str) -> int | None:
        """The number of layers; None where the limit is reached to all digits."""
        choice(kernel, "kernel", ("nngp", "ntk"))
        if kernel == "ntk" and self.map.jumps:
            raise UnsupportedLayerError(
                'kernel="ntk": the activation jumps, so its NTK diverges. Use kernel="nngp".'
            )
        if isinstance(depth, float) and depth == math.inf:
            return None
        layers = integer(depth, "depth", at_least=1)
        if self.kind == "nearest_neighbour" and layers * math.log(self.map.first) > 600:
            return None
        if self.phase == "ordered" and layers * math.log(self.b) < -600:
            return None
        return layers


@float64_scope
def infinite_depth(activation: Any, *, kinks: Sequence[float] = ()) -> InfiniteDepth:
    r"""The classifier that infinitely wide and deep networks of an activation become.

    .. math:: 2\alpha = -2 \ln a / \ln b, \qquad a = E[z\varphi(z)]^2 / V, \quad
       b = E[\varphi'(z)^2] / V, \quad V = E[\varphi(z)^2]

    Args:
        activation: a name, a dual, an activation layer, an elementwise function, or the power
            series ``c_k >= 0`` of a dual (constant first). It is divided by ``sqrt(V)``;
            ``.series.variance`` reports ``V``.
        kinks: for a function: where it or its first or second derivative jumps.

    Returns:
        :class:`InfiniteDepth`.

    Raises:
        DomainError: a linear or constant activation, whose kernel does not change with depth; a
            negative coefficient.

    Source: [radhakrishnan2023], theorems 1-3 (class and exponent); limiting kernel by Koenigs'
        function, and the ordered phase, derived here.

    Check: tests/ntk/test_infinite_depth.py::test_taxonomy
    """
    series = hermite_series(activation, kinks=kinks)
    c, first = series.c, series.first
    if first > len(c) - 1:
        raise DomainError("the activation is constant: its kernel does not see the inputs.")
    slope_error = max(float(series.slope_error), 1e-14)
    if c[0] == 0 and abs(series.slope - 1) <= slope_error:
        raise DomainError(
            "the activation is linear, so its kernel does not change with depth. Infinite depth "
            "needs a nonlinear activation."
        )
    m = depth_map(series)
    certain = bool(c[0] > 0 or series.parity == "odd" or not series.errors[0])
    phase = "critical"
    if abs(series.slope - 1) > slope_error:
        phase = "chaotic" if series.slope > 1 else "ordered"
    if c[0] > 0:
        c_star, ratio = _fixed_point(m, phase)
        return InfiniteDepth(series, m, 0.0, 0.0, c_star, ratio, "majority_vote", phase, certain)
    if c[1] == 0:
        certain = certain and (series.parity == "even" or not series.errors[1])
        kind = "nearest_neighbour"
        return InfiniteDepth(series, m, math.inf, 0.0, 0.0, 0.0, kind, phase, certain)
    exponent = 0.0 if m.jumps else -2 * math.log(c[1]) / math.log(series.slope)
    relative = series.c_errors[1] / (c[1] * -math.log(c[1]))
    error = exponent * (relative + slope_error / (series.slope * math.log(series.slope)))
    error = 0.0 if m.jumps else float(error)
    return InfiniteDepth(series, m, exponent, error, 0.0, 0.0, "singular", phase, certain)


def _fixed_point(m: DepthMap, phase: str) -> tuple[float, float]:
    """Limiting correlations of NNGP and NTK for ``c_0 > 0``."""
    if phase == "ordered":
        return 1.0, 1.0
    if phase == "critical":
        p = 1.5 if m.bends[0] != 0 else 2.0
        return 1.0, (p - 1) / (2 * p - 1)
    root = bracketed_root(lambda e: layer_gap(m, e)[0] / e - 1, 1e-14, 1.0)
    return 1 - float(root.x), 0.0
