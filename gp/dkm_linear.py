r"""Deep linear kernel machines in closed form, and the quantity that every optimum conserves.

For :math:`K(G) = G` the optimum satisfies
:math:`\nu_l (G_l G_{l-1}^{-1} - I) = S` with one matrix S for all layers. With the top clamped, S
is diagonal in the generalised eigenbasis of :math:`(G_{L+1}, G_0)`, and each eigenvalue
:math:`\lambda` gives one scalar equation,

.. math:: \prod_{l=1}^{L+1} (1 + s / \nu_l) = \lambda, \qquad s > -\min_l \nu_l
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import scipy.optimize

from deeplimits import plotting
from deeplimits.errors import DomainError, NotPositiveDefiniteError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import as_square, check, number
from gp.dkm_fit import Runs, maximize, prior_jitter, starts
from gp.dkm_kernels import gram_kernel
from gp.dkm_objective import evaluate
from gp.linalg import factorize


@dataclass(frozen=True)
class DeepLinearGrams:
    """The Gram matrices between two clamped ends.

    Attributes:
        grams: ``G_0, G_1 .. G_{L+1}``, ``(L + 2, P, P)``, the ends included.
        eigenvalues: generalised eigenvalues of ``(G_{L+1}, G_0)``, ascending ``(P,)``.
        currents: the conserved s of each ``(P,)``.
        nu: of the steps 1..L+1, ``(L + 1,)``.
        objective: ``-sum nu_l KL_l``, in nats.
    """

    grams: np.ndarray
    eigenvalues: np.ndarray
    currents: np.ndarray
    nu: np.ndarray
    objective: float

    def plot(self, ax: Any = None, **kw: Any) -> Any:
        """Eigenvalues relative to the input against depth, one line each.

        Args:
            ax: axes to draw on; default a new figure.
            **kw: passed to ``plot``.
        """
        ax = plotting.axes(ax)
        steps = np.cumprod(1 + self.currents / self.nu[:, None], axis=0)
        values = np.concatenate([np.ones((1, len(self.currents))), steps])
        ax.semilogy(np.arange(len(values)), values, **{"marker": ".", **kw})
        ax.set(xlabel="layer", ylabel="eigenvalue relative to the input")
        return ax


register_dataclass(DeepLinearGrams, ["grams", "eigenvalues", "currents", "nu", "objective"], [])


def _current(eigenvalue: float, nu: np.ndarray) -> float:
    """The root s of ``prod (1 + s / nu) = eigenvalue``.

    In ``u = log(1 + s / min nu)`` the root lies between ``log(eigenvalue) / (L + 1)`` and
    ``log(eigenvalue)``, and nothing cancels when s is close to ``-min nu``.
    """
    low, goal = float(np.min(nu)), float(np.log(eigenvalue))
    if goal == 0:
        return 0.0

    def excess(u: float) -> float:
        return float(np.sum(np.log1p(low / nu * np.expm1(u)))) - goal

    ends = sorted((goal / len(nu), goal))
    if excess(ends[0]) >= 0 or excess(ends[1]) <= 0:  # equal widths: the root is an end
        return low * float(np.expm1(min(ends, key=lambda u: abs(excess(u)))))
    return low * float(np.expm1(scipy.optimize.brentq(excess, *ends, xtol=1e-15, rtol=1e-15)))


def deep_linear_grams(G0: Any, top: Any, nu: Any) -> DeepLinearGrams:
    r"""Optimal Gram matrices of a deep linear machine between clamped input and output.

    .. math:: G_l = C U \operatorname{diag}\Big(\prod_{k \le l} (1 + s_i/\nu_k)\Big) U^\top C^\top,
        \qquad C C^\top = G_0, \quad C^{-1} G_{L+1} C^{-\top} = U \Lambda U^\top

    which is :math:`(G_{L+1} G_0^{-1})^{l/(L+1)} G_0` for equal widths.

    Args:
        G0: Gram matrix of the inputs, positive definite ``(P, P)``.
        top: clamped Gram matrix :math:`G_{L+1}`, positive definite ``(P, P)``.
        nu: widths of the steps 1..L+1, > 0, ``(L + 1,)``; the last belongs to the clamped top.

    Raises:
        ShapeError: matrices of different shapes, or ``nu`` not one-dimensional.
        DomainError: NaN, asymmetric matrices, or ``nu`` not positive.
        NotPositiveDefiniteError: a matrix is singular.

    Source: equal widths: arXiv:2108.13097, section 4.3; unequal widths derived here.
    Check: test_dkm.py::test_deep_linear_closed_form.
    """
    first = np.asarray(as_square(G0, "G0"), np.float64)
    last = np.asarray(as_square(top, "top"), np.float64)
    check(
        first.shape == last.shape,
        f"G0 and top must have one shape, got {first.shape} and {last.shape}.",
        ShapeError,
    )
    widths = np.asarray(nu, np.float64)
    check(
        widths.ndim == 1 and len(widths) > 0,
        f"nu must hold one width per step, shape (L + 1,); got shape {widths.shape}.",
        ShapeError,
    )
    check(
        bool(np.all(np.isfinite(widths) & (widths > 0))),
        f"nu must be finite and > 0, got {nu!r}.",
        DomainError,
    )
    C, outer = _root(first, "G0"), _root(last, "top")
    half = scipy.linalg.solve_triangular(C, outer, lower=True)
    U, singular, _ = np.linalg.svd(half)
    U, eigenvalues = U[:, ::-1], singular[::-1] ** 2
    s = np.array([_current(value, widths) for value in eigenvalues])
    ratios = 1 + s / widths[:, None]
    factors = np.concatenate([np.ones((1, len(s))), np.cumprod(ratios, axis=0)])
    CU = C @ U
    grams = np.einsum("ij,lj,kj->lik", CU, factors, CU)
    penalties = 0.5 * np.sum(ratios - 1 - np.log(ratios), axis=1)
    return DeepLinearGrams(grams, eigenvalues, s, widths, -float(np.sum(widths * penalties)))


def _root(matrix: np.ndarray, name: str) -> np.ndarray:
    try:
        return np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        low = float(np.linalg.eigvalsh(matrix)[0])
        raise NotPositiveDefiniteError(
            f"{name} must be positive definite, but its smallest eigenvalue is {low:.6g}. "
            "Add a small multiple of the identity."
        ) from None


@float64_scope
def clamped_grams(
    model: Any, G0: Any, top: Any, nu_top: float, *, restarts: int = 0, key: Any = 0,
    steps: int = 3000, tol: float = 1e-6,
) -> tuple[np.ndarray, Runs]:  # fmt: skip
    r"""Gram matrices between clamped ends for any kernel, by optimisation.

    .. math:: \max_{G_1..G_L} -\sum_{l=1}^{L} \nu_l KL_l
        - \nu_{L+1} KL\big(N(0, G_{L+1}) \,\|\, N(0, K(G_L))\big)

    the limit of small noise with targets of covariance :math:`\nu_{L+1} G_{L+1}`.

    Args:
        model: a :class:`gp.DKM`; its noise is not used.
        G0, top: positive definite ``(P, P)``.
        nu_top: :math:`\nu_{L+1}` > 0.
        restarts, key, steps, tol: as for :meth:`gp.DKM.fit`.

    Returns:
        ``G_1 .. G_L``, ``(L, P, P)``, and the runs of the optimiser.

    Raises:
        ShapeError, DomainError, NotPositiveDefiniteError: as for :func:`deep_linear_grams`.
        ConvergenceError: no start has a finite objective.

    Source: arXiv:2108.13097, section 4.3. Check: test_dkm.py::test_deep_linear_closed_form.
    """
    number(nu_top, "nu_top", above=0)
    first = np.asarray(as_square(G0, "G0"), np.float64)
    last = np.asarray(as_square(top, "top"), np.float64)
    check(
        first.shape == last.shape,
        f"G0 and top must have one shape, got {first.shape} and {last.shape}.",
        ShapeError,
    )
    _root(last, "top")
    kernel, layers = gram_kernel(model.kernel), model.layers
    jitter = prior_jitter(kernel, first, layers, model.jitter)
    G = first
    for extra in jitter:
        G = kernel(G) + extra * np.eye(len(G))
    jitter = np.append(jitter, factorize(kernel(G), name="the top kernel matrix").jitter)
    data = {
        "G0": first, "y": last, "nu": np.broadcast_to(np.float64(model.nu), (layers,)).copy(),
        "noise": np.float64(nu_top), "jitter": jitter,
    }  # fmt: skip
    points = starts(key, restarts, layers, len(first), 1.0)
    options = {"steps": steps, "tol": tol}
    best, data, runs = maximize(kernel, model.penalty, True, data, points, options)
    tower = evaluate(kernel, model.penalty, True, best, data)[1]
    return np.asarray(tower.grams), runs


def current_residual(fitted: Any) -> float:
    """See :meth:`gp.dkm_posterior.FittedDKM.current_residual`."""
    kernel = gram_kernel(fitted.model.kernel)
    check(
        kernel.name == "linear" and fitted.model.penalty == "kl",
        "the current is conserved by the linear kernel with penalty 'kl' only, got kernel "
        f"{kernel.name!r} and penalty {fitted.model.penalty!r}.",
        DomainError,
    )
    tower, nu = fitted.tower, fitted.info.nu
    eye = np.eye(len(fitted.G0))
    currents = []
    for prior, root, width in zip(tower.prior, tower.root, nu, strict=True):
        # similar to S by the first factor: the condition of G_0 does not enter
        change = scipy.linalg.solve_triangular(tower.prior[0], prior, lower=True)
        middle = width * (root @ root.T - eye)
        currents.append(np.linalg.solve(change.T, (change @ middle).T).T)
    inverse = scipy.linalg.cho_solve((fitted.chol, True), eye)
    pull = fitted.weights @ fitted.weights.T - fitted.y.shape[1] * inverse
    half = scipy.linalg.solve_triangular(tower.prior[0], fitted.grams[-1], lower=True)
    currents.append(half @ pull @ tower.prior[0])
    largest = max(np.linalg.norm(c) for c in currents)
    gap = max(np.linalg.norm(c - currents[0]) for c in currents)
    return float(gap / largest) if largest > 0 else 0.0
