"""L-BFGS for deep kernel machines: one compiled program, several starts, a guarded jitter."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.optimize

from deeplimits.errors import ConvergenceError, JitterWarning
from deeplimits.pytrees import register_dataclass
from gp.dkm_kernels import GramKernel
from gp.dkm_objective import negative_and_gradient
from gp.linalg import factorize
from gp.predictive import standard_normal

#: Curvature pairs that L-BFGS remembers.
_MEMORY = 30
#: Fits repeated with ten times the jitter before giving up.
_RETRIES = 3


@dataclass(frozen=True)
class Runs:
    """Optimiser runs, the best first.

    Attributes:
        objective: at the end of each run ``(R,)``, in nats.
        slope: largest entry of the gradient there ``(R,)``, in nats.
        iterations: of L-BFGS ``(R,)``.
        tol: what ``slope`` had to reach.
    """

    objective: np.ndarray
    slope: np.ndarray
    iterations: np.ndarray
    tol: float

    @property
    def converged(self) -> np.ndarray:
        """Which runs ended with a slope of at most ``tol``, ``(R,)``."""
        return self.slope <= self.tol

    @property
    def spread(self) -> float:
        """Largest minus smallest final objective, in nats: 0 if all starts found one optimum."""
        return float(np.ptp(self.objective))


register_dataclass(Runs, ["objective", "slope", "iterations", "tol"], [])


def prior_jitter(kernel: GramKernel, G0: np.ndarray, layers: int, relative: float) -> np.ndarray:
    """Variances to add to ``K(G_0) .. K(G_{L-1})`` of the infinitely wide network, ``(L,)``.

    ``relative`` times the mean diagonal; more where the ladder of :func:`gp.linalg.factorize`
    needs more, with its warning.
    """
    jitter, G = np.zeros(layers), G0
    for i in range(layers):
        K = kernel(G)
        jitter[i] = relative * float(np.mean(np.diagonal(K)))
        jitter[i] += factorize(K, jitter[i], name=f"the kernel matrix of layer {i + 1}").jitter
        G = K + jitter[i] * np.eye(len(K))
    return jitter


def starts(key: Any, restarts: int, layers: int, p: int, spread: float) -> np.ndarray:
    r"""The infinitely wide network and ``restarts`` random points, ``(1 + R, L p (p + 1) / 2)``.

    Random entries have standard deviation ``spread`` on the (logarithmic) diagonal and
    ``spread / sqrt(p)`` below it, so that :math:`A A^\top` is of order one.
    """
    rows, columns = np.tril_indices(p)
    scale = np.where(rows == columns, spread, spread / np.sqrt(p))
    size = layers * len(rows)
    if restarts == 0:
        return np.zeros((1, size))
    random = standard_normal(key, (restarts, size)) * np.tile(scale, layers)
    return np.concatenate([np.zeros((1, size)), random])


def climb(
    kernel: GramKernel, penalty: str, clamped: bool, data: Any, start: np.ndarray, options: Any
) -> tuple[np.ndarray, float, float, int]:
    """One run of L-BFGS: ``(point, objective, slope, iterations)``."""
    first: list[float] = []

    def loss(vector: np.ndarray) -> tuple[float, np.ndarray]:
        value, grad = negative_and_gradient(kernel, penalty, clamped, vector, data)
        host, slope = float(value), np.asarray(grad)
        if not (np.isfinite(host) and np.isfinite(slope).all()):
            if not first:
                return np.nan, np.zeros_like(vector)
            # a wall that the line search backs away from
            return first[0] + 1e6 * (1 + abs(first[0])), np.zeros_like(vector)
        first.append(host)
        return host, slope

    if not np.isfinite(loss(start)[0]):
        return start, -np.inf, np.inf, 0
    found = scipy.optimize.minimize(
        loss, start, jac=True, method="L-BFGS-B",
        options={"maxcor": _MEMORY, "ftol": 0.0, "gtol": options["tol"],
                 "maxiter": options["steps"], "maxfun": 4 * options["steps"], "maxls": 40},
    )  # fmt: skip
    value, grad = loss(found.x)
    return found.x, -value, float(np.max(np.abs(grad), initial=0.0)), int(found.nit)


def maximize(
    kernel: GramKernel, penalty: str, clamped: bool, data: Any, points: np.ndarray, options: Any
) -> tuple[np.ndarray, Any, Runs]:
    """The best of all runs, the data with the jitter that was used, and the runs.

    Where no run has a finite value because a kernel matrix lost its Cholesky factor on the way, all
    are repeated with ten times the jitter.

    Raises:
        ConvergenceError: no run is finite even with 1000 times the jitter.

    Warns:
        JitterWarning: the jitter was raised.
    """
    for attempt in range(_RETRIES + 1):
        jitter = data["jitter"] * 10.0**attempt
        trial = {name: jnp.asarray(v) for name, v in {**data, "jitter": jitter}.items()}
        runs = [climb(kernel, penalty, clamped, trial, p, options) for p in points]
        runs.sort(key=lambda run: -run[1])
        if np.isfinite(runs[0][1]) and np.isfinite(runs[0][2]):
            break
    else:
        raise ConvergenceError(
            "the objective of the deep kernel machine is not finite from any start: a kernel "
            f"matrix has no Cholesky factor even with jitter {jitter.max():.3g}. Drop "
            "near-duplicate inputs, use more noise or a larger nu."
        )
    if attempt:
        warnings.warn(
            f"the jitter of the layers was raised to {jitter.max():.3g}, which changes the model.",
            JitterWarning,
            stacklevel=4,
        )
    columns = [np.array(c) for c in list(zip(*runs, strict=True))[1:]]
    finite = np.isfinite(columns[0])
    objective, slope, iterations = (c[finite] for c in columns)
    summary = Runs(objective, slope, iterations, options["tol"])
    return runs[0][0], {**data, "jitter": jitter}, summary
