r"""Certified risk of a wide network stopped early, by the divergence from its initialisation.

A network that is linear in its parameters, :math:`f = c\, \Phi \theta` with
:math:`\theta_0 \sim N(0, 1)`, is a Gaussian process with covariance :math:`c^2 k` at initialisation
and after gradient flow on half the squared error for any time t. In the eigenbasis of the training
Gram, :math:`k = U \mathrm{diag}(\lambda) U^\top`, :math:`l_i = c^2 \lambda_i`,

.. math:: KL(Q_t \| P) = \tfrac12 \sum_i \left[e^{-2 t l_i} - 1 + 2 t l_i\right]
          + \tfrac12 \sum_i (1 - e^{-t l_i})^2 \frac{(u_i \cdot y)^2}{l_i}

grows with t while the training error falls: the best time is found on a grid declared in advance,
each point of which pays its share of the confidence. Prior and training must share one kernel; a
prior of NNGP covariance trained by the NTK has infinite divergence.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.special

from bounds.pac_bayes import kl_inverse
from bounds.result import Bound
from deeplimits.errors import DomainError, ShapeError
from deeplimits.estimates import as_samples
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import ArrayLike
from deeplimits.validate import as_real, as_square, finite, number

#: Eigenvalues below this, relative to the largest, are rounding errors.
ZERO = 1e-12


@register_dataclass
@dataclass(frozen=True)
class KernelFlow:
    """A kernel machine under gradient flow, from random initialisation.

    Attributes:
        eigenvalues: ``(r,)`` positive eigenvalues of the training Gram.
        eigenvectors: ``(n, r)``.
        projections: ``(r,)`` targets in that basis.
    """

    eigenvalues: np.ndarray
    eigenvectors: np.ndarray
    projections: np.ndarray

    def kl(self, time: ArrayLike, scale: ArrayLike) -> Any:
        """Divergence of the law at ``time`` from that at initialisation, broadcast; nats."""
        rate, decay = self._rates(time, scale)
        moved = np.square(-np.expm1(-decay)) * self.projections**2 / rate
        return 0.5 * (np.expm1(-2 * decay) + 2 * decay + moved).sum(-1)

    def law(
        self, cross: ArrayLike, diagonal: ArrayLike, time: ArrayLike, scale: ArrayLike
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of the outputs at points with kernels ``cross`` to the training points.

        Args:
            cross: ``(m, n)``.
            diagonal: ``(m,)`` kernel of each point with itself.
            time, scale: broadcast.

        Returns:
            Two arrays ``(..., m)``.
        """
        cross = np.asarray(cross, float) @ self.eigenvectors
        decay = self._rates(time, scale)[1]
        gain = -np.expm1(-decay) / self.eigenvalues
        mean = (gain * self.projections) @ cross.T
        lost = (2 * gain - gain**2 * self.eigenvalues) @ np.square(cross).T
        scale2 = np.square(np.asarray(scale, float))[..., None]
        return mean, scale2 * np.maximum(np.asarray(diagonal, float) - lost, 0)

    def gibbs_error(
        self, cross: ArrayLike, diagonal: ArrayLike, y: ArrayLike, time: ArrayLike, scale: ArrayLike
    ) -> Any:
        """Average error of a drawn network on labels ``y`` (+1 or -1); no sampling is needed."""
        mean, variance = self.law(cross, diagonal, time, scale)
        with np.errstate(divide="ignore", invalid="ignore"):
            margin = np.asarray(y, float) * mean / np.sqrt(variance)
        return scipy.special.ndtr(-np.where(np.isnan(margin), 0.0, margin)).mean(-1)

    def _rates(self, time: ArrayLike, scale: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        time, scale = np.asarray(time, float), np.asarray(scale, float)
        rate = np.square(scale)[..., None] * self.eigenvalues
        return rate, time[..., None] * rate


def kernel_flow(K: ArrayLike, y: ArrayLike) -> KernelFlow:
    """Prepare gradient flow with Gram ``K`` on labels ``y``: one eigendecomposition.

    Args:
        K: ``(n, n)`` training Gram, positive semi-definite.
        y: ``(n,)`` labels +1 and -1.

    Raises:
        ShapeError, DomainError: shapes, NaN, labels that are not +1 and -1, a Gram of rank 0.
    """
    K, y = np.asarray(as_square(K, "K"), float), np.asarray(as_real(y, "y"), float)
    if y.shape != (len(K),):
        raise ShapeError(f"y must have shape ({len(K)},) like K, got {y.shape}.")
    if not np.isin(y, (-1.0, 1.0)).all():
        raise DomainError(
            f"y must hold labels +1 and -1, got {np.unique(y)[:4]}. For 0/1 labels use 2 * y - 1."
        )
    values, vectors = np.linalg.eigh(K)
    if values[-1] <= 0 or values[0] < -1e-8 * values[-1]:
        raise DomainError(
            "K must be positive semi-definite and not 0; its eigenvalues reach from "
            f"{values[0]:.3g} to {values[-1]:.3g}."
        )
    kept = values > ZERO * values[-1]
    vectors = vectors[:, kept]
    return KernelFlow(values[kept], vectors, vectors.T @ y)


def kernel_flow_pac_bayes(
    K: ArrayLike,
    y: ArrayLike,
    times: ArrayLike,
    scales: ArrayLike = (1.0,),
    delta: float = 0.05,
) -> Bound:
    r"""Certified error of an early-stopped wide network, minimised over a declared grid.

    .. math:: R \le \mathrm{kl}^{-1}\left(\hat R_{t,c},\,
              \frac{KL_{t,c} + \ln(2 \sqrt n\, |grid| / \delta)}{n}\right)

    with the Gibbs training error :math:`\hat R = \mathrm{mean}\, \Phi(-y f / \sigma)` in closed
    form.

    Args:
        K: ``(n, n)`` Gram of the kernel that both draws and trains the network: the NTK for a
            network trained in all layers (linearised), the NNGP kernel for its last layer; n >= 8.
        y: ``(n,)`` labels +1 and -1.
        times: ``(T,)`` stopping times, > 0, chosen before the data were seen.
        scales: ``(C,)`` output scales c, > 0, likewise.
        delta: probability of failure, in (0, 1).

    Returns:
        :class:`~bounds.result.Bound` with ``terms``: ``time``, ``scale``, ``kl``,
        ``empirical_risk``, ``grid``.

    Raises:
        ShapeError, DomainError: as :func:`kernel_flow`; times or scales that are not positive; a
            tuple of two kernels.

    Source: the closed form is derived here; the inequality is theorem 5 of arXiv:cs/0411099.

    Check: tests/bounds/test_pac_bayes.py
    """
    if isinstance(K, tuple):
        raise DomainError(
            "K must be one Gram matrix: a prior with one kernel trained with another has infinite "
            "divergence in general. Pass the NTK, or the NNGP kernel for last-layer training."
        )
    flow = kernel_flow(K, y)
    times, scales = _grid(times, "times"), _grid(scales, "scales")
    number(delta, "delta", above=0, below=1)
    n = len(flow.eigenvectors)
    if n < 8:
        raise DomainError(f"K must have at least 8 rows for this inequality, got {n}.")
    t, c = (a.reshape(-1) for a in np.meshgrid(times, scales, indexing="ij"))
    kl = flow.kl(t, c)
    K = np.asarray(K, float)
    risk = flow.gibbs_error(K, np.diag(K), y, t, c)

    def at(share: float) -> Bound:
        budget = (kl + math.log(2 * math.sqrt(n) * len(t) / share)) / n
        value = kl_inverse(risk, budget)
        i = int(np.argmin(value))
        terms = {"time": t[i], "scale": c[i], "kl": kl[i], "empirical_risk": risk[i]}
        return dataclasses.replace(bound, value=float(value[i]), terms=terms | {"grid": len(t)})

    bound = Bound(
        value=1.0,
        holds="probability",
        delta=float(delta),
        n=n,
        trivial=1.0,
        assumptions=(
            "independent, identically distributed sample",
            "kernel, times and scales chosen before the sample was seen",
            "Gibbs classifier of the kernel machine (linearised network), initialisation included",
        ),
        reference="derived here; arXiv:cs/0411099",
        at_delta=lambda d: dataclasses.replace(at(d), delta=d),
    )
    return at(float(delta))


def _grid(values: Any, name: str) -> np.ndarray:
    values = np.atleast_1d(as_samples(np.atleast_1d(values), name, at_least=1))
    finite(values, name)
    if values.ndim != 1 or not (values > 0).all():
        raise DomainError(f"{name} must be a vector of numbers > 0, got {values}.")
    return values
