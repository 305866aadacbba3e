r"""How inductive-bias information grows with the dimension and falls with data and tolerance.

Targets are drawn from the process itself, so that the kernel is right and what is measured is the
difficulty of the task: inputs uniform on the cube :math:`[-1, 1]^d`, noise-free labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import lax

from bounds.quadratic_form import lower_tail
from deeplimits import plotting
from deeplimits.errors import DomainError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import Array, ArrayLike, Key
from deeplimits.validate import as_key, as_square, choice, integer, number

#: What can be varied, and the axis label.
AXES = {
    "dimension": "dimension of the inputs",
    "n": "training points",
    "eps": "mean squared error allowed",
    "n_test": "test points",
}


@register_dataclass
@dataclass(frozen=True)
class BiasTrend:
    """Inductive-bias information along one axis.

    Attributes:
        values: ``(v,)`` along the axis.
        nats: ``(v, targets)`` information for each drawn target.
        axis: ``"dimension"``, ``"n"``, ``"eps"`` or ``"n_test"``.
        fixed: the other settings.
    """

    values: np.ndarray
    nats: np.ndarray
    axis: str = field(metadata={"static": True})
    fixed: tuple[tuple[str, float], ...] = field(default=(), metadata={"static": True})

    @property
    def mean(self) -> np.ndarray:
        """Mean over targets in nats, ``(v,)``."""
        return self.nats.mean(1)

    @property
    def stderr(self) -> np.ndarray:
        """Standard error of ``mean`` in nats."""
        return self.nats.std(1, ddof=1) / math.sqrt(self.nats.shape[1])

    @property
    def bits(self) -> np.ndarray:
        """``mean`` in bits."""
        return self.mean / math.log(2)

    def to_dataset(self) -> xr.Dataset:
        """``bits`` and ``stderr`` (in bits) over the axis."""
        columns = {
            "bits": (self.axis, self.bits),
            "stderr": (self.axis, self.stderr / math.log(2)),
        }
        return xr.Dataset(columns, coords={self.axis: self.values}, attrs=dict(self.fixed))

    def plot(self, ax: Any = None, **kw: Any) -> Any:
        """Bits with standard errors; a logarithmic axis for ``eps``, ``n`` and ``n_test``."""
        ax = plotting.axes(ax)
        bars = self.stderr / math.log(2)
        ax.errorbar(self.values, self.bits, bars, **{"marker": "o", "capsize": 2.5, **kw})
        ax.set(xlabel=AXES[self.axis], ylabel="inductive bias (bits)")
        if self.axis != "dimension":
            ax.set_xscale("log")
        if self.axis in ("n", "n_test") and len(self.values) <= 8:
            ax.set_xticks(self.values, [f"{v:g}" for v in self.values])
            ax.set_xticks([], minor=True)
        return ax


def _rbf(X: np.ndarray) -> np.ndarray:
    square = (X**2).sum(-1)
    return np.exp(-np.maximum(square[:, None] + square - 2 * X @ X.T, 0) / 2)


@float64_scope
def inductive_bias_trend(
    axis: str,
    values: ArrayLike,
    *,
    key: Key,
    kernel: Any = None,
    dimension: int = 4,
    n: int = 30,
    n_test: int = 100,
    eps: float = 0.05,
    targets: int = 10,
    jitter: float = 1e-10,
) -> BiasTrend:
    r"""Inductive-bias information of a kernel on its own draws, along one axis.

    Args:
        axis: ``"dimension"``, ``"n"``, ``"eps"`` or ``"n_test"``: the setting to vary.
        values: ``(v,)`` its values.
        key: random key or integer seed.
        kernel: callable ``k(X) -> (m, m)`` or a network (its NNGP kernel); default
            :math:`\exp(-|x - z|^2 / 2)`.
        dimension, n, n_test, eps: the settings that stay; integers >= 1 and eps > 0.
        targets: number of inputs and targets drawn for each value, >= 2.
        jitter: added to the diagonal, relative to its mean; > 0.

    Returns:
        :class:`BiasTrend`.

    Raises:
        DomainError: an unknown axis, settings out of range, a kernel that is no callable.

    Source: experiments of arXiv:2406.15941; drawn targets and exact values: derived here.

    Check: tests/bounds/test_compare.py::test_trends
    """
    choice(axis, "axis", tuple(AXES))
    settings: dict[str, Any] = {"dimension": dimension, "n": n, "n_test": n_test, "eps": eps}
    values = np.atleast_1d(np.asarray(values))
    grid = [{**settings, axis: value} for value in values.tolist()]
    for case in grid:
        for name in ("dimension", "n", "n_test"):
            integer(case[name], name, at_least=1)
        number(case["eps"], "eps", above=0)
    integer(targets, "targets", at_least=2)
    number(jitter, "jitter", above=0)
    function = _rbf if kernel is None else getattr(kernel, "nngp", kernel)
    if not callable(function):
        raise DomainError(f"kernel must be a network or a callable k(X), got {kernel!r}.")
    rng = np.random.default_rng(np.asarray(jax.random.key_data(as_key(key))))
    if axis == "eps":  # one set of targets for all
        tails = [_posteriors(function, settings, targets, jitter, rng)] * len(grid)
    else:
        tails = [_posteriors(function, case, targets, jitter, rng) for case in grid]
    nats = [
        np.asarray(_information(jnp.asarray(case["eps"] * case["n_test"]), *map(jnp.asarray, tail)))
        for case, tail in zip(grid, tails, strict=True)
    ]
    fixed = tuple((name, float(v)) for name, v in settings.items() if name != axis)
    return BiasTrend(values.astype(float), np.stack(nats), axis, fixed)


def _posteriors(
    kernel: Callable[..., Any],
    case: dict[str, Any],
    targets: int,
    jitter: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of the covariances and squared residuals in their bases, ``(targets, m)``."""
    n, total = case["n"], case["n"] + case["n_test"]
    X = rng.uniform(-1, 1, size=(targets, total, case["dimension"]))
    K = np.stack([np.asarray(as_square(kernel(x), "kernel(X)"), float) for x in X])
    diagonal = np.trace(K, axis1=1, axis2=2) / total
    K = K + jitter * diagonal[:, None, None] * np.eye(total)
    f = np.linalg.cholesky(K) @ rng.normal(size=(targets, total, 1))
    weights = np.linalg.solve(K[:, :n, :n], K[:, :n, n:])
    cov = K[:, n:, n:] - np.swapaxes(K[:, :n, n:], 1, 2) @ weights
    residual = np.swapaxes(weights, 1, 2) @ f[:, :n] - f[:, n:]
    lam, basis = np.linalg.eigh((cov + np.swapaxes(cov, 1, 2)) / 2)
    return np.maximum(lam, 0), (np.swapaxes(basis, 1, 2) @ residual)[..., 0] ** 2


@jax.jit
def _information(threshold: Array, lam: Array, r2: Array) -> Array:
    def one(each: tuple[Array, Array]) -> Array:
        return lower_tail(threshold, *each, 1).log_cdf

    return -lax.map(one, (lam, r2)) + 0.0
