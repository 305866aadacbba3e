r"""Exact references for prior-data fitted networks: learning curves of the Bayes predictor.

Such a network sees a sequence drawn from a prior and predicts each target from those before it. The
exact predictor does this for all lengths with one Cholesky factor L of the covariance of the whole
sequence: given i points, the next target has standard deviation :math:`L_{ii}` (counting from 0)
and standardised residual :math:`(L^{-1} y)_i`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import scipy.special
from jaxtyping import Float

from deeplimits.errors import DomainError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import as_inputs, as_key, check, integer
from gp.linalg import factorize, kernel_matrix
from gp.mixtures import ScaleMixture
from gp.predictive import LOG_2PI, standard_normal, whiten
from gp.process import GP
from gp.scale_priors import InverseGamma

Model = GP | ScaleMixture


def one_step_nll(model: Model, X: Any, y: Any) -> Float[np.ndarray, " n"]:
    r"""Negative log predictive density of every target given those before it, in nats.

    .. math:: -\log p(y_i | y_{<i}) = \tfrac12 \log 2\pi L_{ii}^2 + \tfrac12 (L^{-1}y)_i^2

    and for the Student-t process (inverse gamma scale, scaled noise) the Student density with
    :math:`2a + i` degrees of freedom and squared width
    :math:`L_{ii}^2\, (b + \tfrac12 \sum_{j<i} (L^{-1}y)_j^2) / (a + i/2)`. The sum is minus the log
    evidence.

    Args:
        model: :class:`gp.GP`, or :class:`gp.ScaleMixture` with :class:`gp.InverseGamma` and scaled
            noise.
        X: inputs ``(n, d)``, in the order in which they are seen.
        y: targets ``(n,)``.

    Raises:
        ShapeError, DomainError: bad data, several outputs, or another kind of model.
        NotPositiveDefiniteError: the kernel matrix is indefinite beyond rounding.

    Source: A. P. Dawid, J. R. Statist. Soc. A 147 (1984) 278; formulas derived here.
    Check: test_pfn.py::test_one_step_scores_are_refits.
    """
    check(np.ndim(y) == 1, f"y must have shape (n,), got {np.shape(y)}.", ShapeError)
    if isinstance(model, GP):
        return np.asarray(-model.condition(X, y).prequential().log_score)
    check(
        isinstance(model, ScaleMixture)
        and isinstance(model.prior, InverseGamma)
        and bool(model.noise_scaled),
        "model must be a gp.GP, or a gp.ScaleMixture with gp.InverseGamma and noise_scaled=True, "
        f"got {type(model).__name__}.",
        DomainError,
    )
    base = GP(model.kernel, model.noise, max_points=model.max_points).condition(X, y)
    white, diagonal = base.white[:, 0], np.diagonal(base.chol)
    before = np.concatenate([[0.0], np.cumsum(white**2)[:-1]])
    half = model.prior.a + 0.5 * np.arange(len(white))
    rate = model.prior.b + 0.5 * before
    gammas = scipy.special.gammaln(half + 0.5) - scipy.special.gammaln(half)
    log_width = np.log(diagonal) + 0.5 * (np.log(rate) + np.log(2 * np.pi))
    return np.asarray(log_width - gammas + (half + 0.5) * np.log1p(0.5 * white**2 / rate))


@dataclass(frozen=True)
class NllCurve:
    """Expected negative log predictive density against the number of context points.

    Attributes:
        sizes: numbers of context points ``(T,)``.
        mean: averages over sequences ``(T,)``, in nats per target.
        stderr: their standard errors.
        floor: the value with infinitely many points, where the noise alone is left.
        draws: number of sequences.
    """

    sizes: np.ndarray
    mean: np.ndarray
    stderr: np.ndarray
    floor: float
    draws: int

    def plot(self, ax: Any = None, **kw: Any) -> Any:
        """The curve with standard errors, above the floor."""
        from deeplimits import plotting

        ax = plotting.axes(ax)
        drawn = ax.errorbar(self.sizes, self.mean, self.stderr, **{"fmt": "o-", **kw})
        ax.axhline(self.floor, color=drawn[0].get_color(), linestyle=":", linewidth=1)
        ax.set(xlabel="context points", ylabel="negative log density (nats)", xscale="symlog")
        return ax


@float64_scope
def expected_nll(
    model: GP,
    sizes: Any,
    inputs: Callable[[Any, int], Any],
    *,
    key: Any,
    truth: GP | None = None,
    draws: int = 400,
) -> NllCurve:
    r"""Expected negative log predictive density of a Gaussian process on data from a prior.

    .. math:: E_y[-\log p(y_i | y_{<i})] = \tfrac12 \log 2\pi L_{ii}^2
        + \tfrac12 [L^{-1} C L^{-\top}]_{ii}

    with C the covariance of the targets; the last term is 1/2 when the model is true. The average
    over targets is exact, that over inputs is by simulation.

    Args:
        model: the predictor, with one number as noise and no relative noise.
        sizes: numbers of context points, whole, >= 0.
        inputs: ``inputs(key, n) -> (n, d)``, a draw of the inputs of a sequence.
        key: a ``jax.random.key`` or an integer seed.
        truth: the prior from which targets come, noise included. Default: the model itself. The
            difference of the two curves is the expected Kullback-Leibler divergence.
        draws: number of sequences, >= 2. Default 400.

    Returns:
        :class:`NllCurve`.

    Raises:
        ShapeError, DomainError: bad arguments.
        NotPositiveDefiniteError: a kernel matrix is indefinite beyond rounding.

    Source: setting of arXiv:2112.10510, section 4; formula derived here.
    Check: test_pfn.py::test_reference_curve, ::test_wrong_model_against_simulation.
    """
    grid = np.atleast_1d(np.asarray(sizes))
    check(
        grid.ndim == 1 and grid.size > 0 and grid.dtype.kind in "iu" and bool(np.all(grid >= 0)),
        f"sizes must be whole numbers >= 0, got {sizes!r}.",
        DomainError,
    )
    integer(draws, "draws", at_least=2)
    true = model if truth is None else truth
    for gp in (model, true):
        check(
            isinstance(gp, GP) and np.ndim(gp.noise) == 0 and gp.noise_rel == 0,
            "model and truth must be of type gp.GP with one number as noise and noise_rel=0.",
            DomainError,
        )
    n = int(grid.max()) + 1
    values = np.empty((draws, len(grid)))
    for i, k in enumerate(jax.random.split(as_key(key), draws)):
        x = as_inputs(inputs(k, n), "inputs(key, n)")
        check(len(x) == n, f"inputs(key, {n}) must return {n} rows, got {len(x)}.", ShapeError)
        matrix, dtype = kernel_matrix(model.kernel, x)
        chol = factorize(matrix, model.noise, name="the sequence covariance", dtype=dtype).chol
        spread = np.ones(n)
        if truth is not None:
            cov = kernel_matrix(true.kernel, x)[0] + true.noise * np.eye(n)
            spread = np.diagonal(whiten(chol, whiten(chol, cov).T))
        point = np.log(np.diagonal(chol)) + 0.5 * (LOG_2PI + spread)
        values[i] = point[grid]
    with np.errstate(divide="ignore"):
        ratio = 1.0 if truth is None else float(np.divide(true.noise, model.noise))
        floor = 0.5 * float(np.log(model.noise) + LOG_2PI + ratio)
    stderr = values.std(axis=0, ddof=1) / draws**0.5
    return NllCurve(grid, values.mean(axis=0), stderr, floor, draws)


@float64_scope
def sample_sequences(
    model: Model, inputs: Callable[[Any, int], Any], n: int, sequences: int, *, key: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Independent sequences from a prior, to train or to test a predictor on.

    Args:
        model: :class:`gp.GP` or :class:`gp.ScaleMixture` (one scale per sequence); one number as
            noise.
        inputs: ``inputs(key, n) -> (n, d)``, a draw of the inputs of a sequence.
        n: points per sequence, >= 1.
        sequences: number of sequences, >= 1.
        key: a ``jax.random.key`` or an integer seed.

    Returns:
        Inputs ``(sequences, n, d)`` and noisy targets ``(sequences, n)``.

    Raises:
        ShapeError, DomainError: bad arguments.
        NotPositiveDefiniteError: a kernel matrix is indefinite beyond rounding.

    Source: arXiv:2112.10510, section 4; scale mixtures derived here.
    Check: test_pfn.py::test_sequences_follow_their_prior.
    """
    integer(n, "n", at_least=1)
    integer(sequences, "sequences", at_least=1)
    check(
        isinstance(model, GP | ScaleMixture) and np.ndim(model.noise) == 0,
        "model must be a gp.GP or gp.ScaleMixture with one number as noise, got "
        f"{type(model).__name__}.",
        DomainError,
    )
    for_inputs, for_values, for_noise, for_scale = jax.random.split(as_key(key), 4)
    keys = jax.random.split(for_inputs, sequences)
    points = [np.asarray(as_inputs(inputs(k, n), "inputs(key, n)"), np.float64) for k in keys]
    normal = standard_normal(for_values, (sequences, n))
    noise = standard_normal(for_noise, (sequences, n))
    scale, variance = np.ones(sequences), np.full(sequences, float(model.noise))
    if isinstance(model, ScaleMixture):
        scale = np.asarray(model.prior.sample(for_scale, sequences))
        variance = variance * scale if model.noise_scaled else variance
    elif model.noise_rel:
        diagonals = [np.mean(np.diagonal(kernel_matrix(model.kernel, x)[0])) for x in points]
        variance = variance + model.noise_rel * np.array(diagonals)
    y = np.empty((sequences, n))
    for i, x in enumerate(points):
        check(len(x) == n, f"inputs(key, {n}) must return {n} rows, got {len(x)}.", ShapeError)
        root = _root(kernel_matrix(model.kernel, x)[0])
        y[i] = scale[i] ** 0.5 * root @ normal[i] + variance[i] ** 0.5 * noise[i]
    return np.stack(points), y


def _root(matrix: np.ndarray) -> np.ndarray:
    """A square root of a covariance that may be singular to rounding, as those of smooth kernels.

    Eigenvalues below zero by rounding count as zero: no jitter, which would be extra noise.
    """
    values, vectors = np.linalg.eigh(matrix)
    check(
        bool(values[0] >= -1e-8 * np.abs(values).max()),
        f"the kernel matrix has the eigenvalue {values[0]:.3g}: it is no covariance.",
        DomainError,
    )
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))


register_dataclass(NllCurve, ["sizes", "mean", "stderr", "floor"], ["draws"])
