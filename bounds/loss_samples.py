r"""Inductive-bias information from sampled test losses: counting, and the published fit.

For hypotheses without a closed law (finite trained networks) only samples of the loss are left.
Counting is honest but cannot see beyond the logarithm of the number of samples; a fitted law
extrapolates and must say so.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats

from bounds.result import Estimate
from deeplimits.errors import DomainError
from deeplimits.estimates import as_samples
from deeplimits.typing import ArrayLike
from deeplimits.validate import as_real, choice, integer, number


def inductive_bias_from_losses(
    losses: ArrayLike,
    eps: ArrayLike,
    *,
    method: str = "counting",
    n_test: int | None = None,
    level: float = 0.95,
) -> Estimate:
    r"""Information needed to reach a loss of eps, from the losses of sampled hypotheses.

    ``"counting"``: :math:`-\ln(\#\{L_i \le \varepsilon\} / S)` with the Clopper-Pearson interval
    (``bracket``); infinite, with a finite lower end, if no sample reaches eps.
    ``"ncx2-fit"``: the published estimator, maximum likelihood of ``scale * ncx2(df, nc)``;
    its far tail by Sankaran's normal approximation, completed to :math:`-\ln \Phi(z)` (published:
    :math:`z^2 / 2`, which misses :math:`\ln(|z| \sqrt{2\pi})`).

    Args:
        losses: ``(S,)`` losses of independent hypotheses, >= 0.
        eps: > 0; one number.
        method: ``"counting"`` or ``"ncx2-fit"``.
        n_test: size of the test set, for the record.
        level: coverage of the interval, in (0, 1).

    Returns:
        :class:`~bounds.result.Estimate`; ``ceiling`` of counting is ln S. A fit asked for an error
        below all samples carries a warning: it extrapolates.

    Raises:
        ShapeError, DomainError: bad losses, ``eps <= 0``, an unknown method.

    Source: arXiv:2406.15941; M. Sankaran (1963) for the approximation.

    Check: tests/bounds/test_inductive_bias.py
    """
    values = as_samples(losses, "losses")
    if values.ndim != 1 or (values < 0).any():
        raise DomainError("losses must be a vector of numbers >= 0, one per hypothesis.")
    choice(method, "method", ("counting", "ncx2-fit"))
    target = float(number(np.asarray(as_real(eps, "eps"))[()], "eps", above=0))
    number(level, "level", above=0, below=1)
    if n_test is not None:
        integer(n_test, "n_test", at_least=1)
    made = _counting(values, target, level) if method == "counting" else _fit(values, target)
    return Estimate(
        target="inductive bias",
        method=method,
        n=n_test,
        holds="expectation",
        reference="arXiv:2406.15941",
        **made,
    )


def _counting(losses: np.ndarray, eps: float, level: float) -> dict[str, Any]:
    samples, hits = len(losses), int((losses <= eps).sum())
    tail = (1 - level) / 2
    low = scipy.stats.beta.ppf(tail, hits, samples - hits + 1) if hits else 0.0
    high = scipy.stats.beta.ppf(1 - tail, hits + 1, samples - hits) if hits < samples else 1.0
    share = hits / samples
    with np.errstate(divide="ignore"):
        value, bracket = -math.log(share) if hits else math.inf, (-np.log(high), -np.log(low))
    notes = () if hits else (f"none of {samples} samples reaches eps; see the lower end.",)
    return {
        "value": value,
        "stderr": math.sqrt((1 - share) / (share * samples)) if hits else None,
        "bracket": (float(bracket[0]) + 0.0, float(bracket[1]) + 0.0),
        "ceiling": math.log(samples),
        "terms": {"samples": samples, "hits": hits},
        "rigor": "exact",
        "assumptions": ("independent hypotheses",),
        "warnings": notes,
    }


def _fit(losses: np.ndarray, eps: float) -> dict[str, Any]:
    df, nc, scale = fit_scaled_ncx2(losses)
    log_cdf = scipy.stats.ncx2.logcdf(eps / scale, df, nc)
    # SciPy's tail turns to noise, then to -inf, where the distribution function underflows.
    far = not log_cdf > -600
    value = -float(scipy.special.log_ndtr(sankaran(eps / scale, df, nc)) if far else log_cdf)
    notes = ["a fitted law with one scale stands for a law with many"]
    if eps < losses.min():
        notes.append(f"extrapolated: eps lies below the smallest sample, {losses.min():.4g}.")
    return {
        "value": value,
        "terms": {"df": df, "nc": nc, "scale": scale, "samples": len(losses)},
        "rigor": "heuristic",
        "assumptions": ("losses follow a scaled non-central chi-squared law",),
        "warnings": tuple(notes),
    }


def fit_scaled_ncx2(losses: np.ndarray) -> tuple[float, float, float]:
    """Maximum-likelihood degrees of freedom, non-centrality and scale of sampled losses."""
    mean, variance = losses.mean(), losses.var()
    if not variance > 0:
        raise DomainError("losses must vary between hypotheses to be fitted.")

    def cost(parameters: np.ndarray) -> float:
        df, nc, scale = np.exp(parameters)
        with np.errstate(all="ignore"):
            value = -np.mean(scipy.stats.ncx2.logpdf(losses / scale, df, nc) - np.log(scale))
        return float(value) if np.isfinite(value) else 1e10

    start = np.log([2 * mean**2 / variance, 0.5, variance / (2 * mean)])
    options = {"maxiter": 2000, "xatol": 1e-6, "fatol": 1e-10}
    found = scipy.optimize.minimize(cost, start, method="Nelder-Mead", options=options)
    df, nc, scale = np.exp(found.x)
    return float(df), float(nc), float(scale)


def sankaran(x: float, df: float, nc: float) -> float:
    """Normal quantile that corresponds to the value ``x`` of a non-central chi-squared variable."""
    total, twice = df + nc, df + 2 * nc
    h = 1 - 2 / 3 * total * (df + 3 * nc) / twice**2
    p = twice / total**2
    m = (h - 1) * (1 - 3 * h)
    centre = 1 + h * p * (h - 1 - 0.5 * (2 - h) * m * p)
    return float(((x / total) ** h - centre) / (h * math.sqrt(2 * p) * (1 + 0.5 * m * p)))
