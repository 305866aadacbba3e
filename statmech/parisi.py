r"""Replica-symmetry breaking with k steps for any mixed p-spin model: Parisi's formula.

.. math:: \mathrm{Cov}(H(\sigma), H(\tau)) = N\,\xi(q_{\sigma\tau}), \qquad
   \xi(q) = \sum_p c_p q^p, \qquad f = \max_{x, q} f_k(x, q)
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from deeplimits import plotting
from deeplimits.errors import DomainError, PrecisionWarning
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import ArrayLike
from deeplimits.validate import integer, number
from statmech.parisi_functional import MAX_STEPS, POWERS, evaluate
from statmech.parisi_minimum import CANDIDATES, Model, Steps, minimise, slopes

#: Largest difference between two grids of fields that passes without a warning.
GRID_TOLERANCE = 1e-9


@register_dataclass
@dataclasses.dataclass(frozen=True)
class ParisiState:
    r"""The k-step solution; see :func:`parisi`.

    Attributes:
        q: overlaps, increasing, ``(n + 1,)`` with n <= k: steps that coincide are given once.
        x: Parisi's function between consecutive overlaps, ``(n,)``; 0 below the first and 1 above
            the last one. All 0 at T = 0.
        gamma: x / T, finite at T = 0, ``(n,)``.
        weights: probabilities of the overlaps, ``(n + 1,)``.
        f, U, S: free energy, internal energy and entropy per spin; S is NaN at T = 0.
        m: magnetisation.
        T, h: temperature and field.
        coefficients: of the powers 0, 1, ... of the covariance.
        gap: upper bound of the distance from f to its value without a limit on k, from convexity,
            right to about 1e-8; NaN at T = 0.
        gradient: largest derivative that is left in the unconstrained variables of the descent.
        abs_err: change of f on a coarser grid of fields.
    """

    q: np.ndarray
    x: np.ndarray
    gamma: np.ndarray
    weights: np.ndarray
    f: Any
    U: Any
    S: Any
    m: Any
    T: Any
    h: Any
    coefficients: np.ndarray
    gap: Any
    gradient: Any
    abs_err: Any

    def moment(self, n: int) -> float:
        """The average of the n-th power of the overlap of two replicas."""
        return float(self.weights @ self.q**n)

    def cdf(self, q: ArrayLike) -> np.ndarray:
        """The distribution function x(q) of the overlap of two replicas."""
        steps = np.cumsum(self.weights)
        return np.append(0.0, steps)[np.searchsorted(self.q, np.asarray(q), side="right")]

    def plot(self, ax: Any = None, **kw: Any) -> Any:
        """x(q), or x / T at T = 0, as a step function."""
        ax = plotting.axes(ax)
        cold = float(self.T) == 0
        levels = self.gamma if cold else self.x
        edges = np.concatenate([[0.0], self.q, [] if cold else [1.0]])
        values = np.concatenate([[0.0], levels, [] if cold else [1.0]])
        ax.stairs(values, edges, baseline=None, **kw)
        ax.set(xlabel="overlap q", ylabel="x(q) / T" if cold else "x(q)")
        return ax


@float64_scope
def parisi(model: str | int | Mapping[int, float], T: float, k: int, h: float = 0.0) -> ParisiState:
    r"""Parisi's solution with k steps of replica-symmetry breaking.

    .. math:: -f_k = E\,\Phi_1(h + \sqrt{\xi'(q_0)} z)
       - \tfrac12 \sum_{i=1}^{k+1} \gamma_i [\theta(q_i) - \theta(q_{i-1})], \quad
       \Phi_i = \gamma_i^{-1} \ln E\,e^{\gamma_i \Phi_{i+1}}, \quad
       \Phi_{k+1}(h) = T \ln 2\cosh(h / T) + \frac{\xi'(1) - \xi'(q_k)}{2 T}

    with :math:`\theta = q \xi' - \xi`, maximised over increasing q and x. Every :math:`f_k` is a
    lower bound of the free energy (Guerra), and they increase with k.

    Args:
        model: ``"sk"`` (:math:`\xi = q^2/2`), an integer p (:math:`\xi = q^p/2`), or the non-zero
            coefficients ``{p: c_p}`` with 1 <= p <= 15 and c_p >= 0; ``{1: c}`` is a Gaussian
            random field of variance c.
        T: temperature, >= 0. Warns where T is too low for the grid of fields (about 0.01).
        k: number of steps, 0 (replica symmetry; needs T > 0) to 24.
        h: uniform external field, any sign, default 0.

    Returns:
        :class:`ParisiState`. Fewer steps than k are returned where more gain less than 1e-11.

    Raises:
        DomainError: an argument out of its range.

    Warns:
        PrecisionWarning: the grid of fields leaves more than 1e-9 in f.

    Source: G. Parisi, J. Phys. A 13, L115 (1980); F. Guerra, arXiv:cond-mat/0205123, eq. (8);
        T = 0: A. Auffinger, W.-K. Chen, Ann. Probab. 45, 4617 (2017).

    Check: tests/statmech/test_parisi.py
    """
    coefficients = as_coefficients(model)
    T = float(number(T, "T", at_least=0.0))
    h = float(number(h, "h"))
    k = integer(k, "k", at_least=0)
    if k > MAX_STEPS or (k == 0 and T == 0):
        raise DomainError(
            f"k must be between {0 if T > 0 else 1} and {MAX_STEPS} at T = {T:g}, got {k}. For "
            "replica symmetry at T = 0 use statmech.sk(0.0, h)."
        )
    fixed = Model(coefficients, T, abs(h))
    return _state(fixed, minimise(fixed, k), float(np.sign(h)))


def _state(model: Model, best: Steps, sign: float) -> ParisiState:
    arguments = (model.T, model.h, model.coefficients)
    out = evaluate(best.gamma, best.q, *arguments)
    coarse = evaluate(best.gamma, best.q, *arguments, stretch=1.25).value
    abs_err = abs(float(coarse - out.value))
    if abs_err > GRID_TOLERANCE:
        hard, way = f"T = {model.T:g}", "T = 0 or a higher temperature"
        if model.T == 0:
            hard, way = f"{len(best.gamma)} steps at T = 0", "fewer steps"
        warnings.warn(
            f"the grid of fields is too coarse for {hard}: f is right to {abs_err:.1g} only. "
            f"Use {way}.",
            PrecisionWarning,
            stacklevel=4,
        )
    moves = np.diff(best.q) > 0
    q, gamma = best.q[np.append(True, moves)], best.gamma[moves]
    x = model.T * gamma
    gap = np.nan
    if model.T > 0:
        where = np.append((np.arange(CANDIDATES) + 0.5) / CANDIDATES, q)
        gap = max(0.0, -float(slopes(model, best, where).min()))
    f = -float(out.value)
    S = float(out.T) if model.T > 0 else np.nan
    return ParisiState(
        q=q,
        x=x,
        gamma=gamma,
        weights=np.diff(np.concatenate([[0.0], x, [1.0]])),
        f=f,
        U=f + model.T * S if model.T > 0 else f,
        S=S,
        m=sign * float(out.h),
        T=model.T,
        h=sign * model.h,
        coefficients=model.coefficients,
        gap=gap,
        gradient=best.slope,
        abs_err=abs_err,
    )


def as_coefficients(model: str | int | Mapping[int, float]) -> np.ndarray:
    """The coefficients of the powers 0 to POWERS - 1 of a model as :func:`parisi` takes it.

    Raises:
        DomainError: not a model, a power or coefficient out of range, or no disorder.
    """
    allowed = f"'sk', an integer p, or a mapping from powers 1..{POWERS - 1} to coefficients >= 0"
    if isinstance(model, str):
        if model != "sk":
            raise DomainError(f"model must be {allowed}; got {model!r}.")
        table: Mapping[int, float] = {2: 0.5}
    elif isinstance(model, Mapping):
        table = model
    else:
        table = {integer(model, "model", at_least=2): 0.5}
    coefficients = np.zeros(POWERS)
    for p, value in table.items():
        if integer(p, "a power of the model", at_least=1) >= POWERS:
            raise DomainError(f"model must be {allowed}; got the power {p}.")
        coefficients[p] = number(value, f"the coefficient of q^{p}", at_least=0.0)
    if not coefficients[2:].any():
        raise DomainError(f"model must have disorder of a power >= 2; got {dict(table)!r}.")
    return coefficients
