r"""Evidence of labels: the Gaussian probability that all signs come out right.

.. math:: Z = P_{f \sim N(0, K)}\left[y_i f_i > 0 \text{ for all } i\right]

is the prior probability of the labelling under a wide network. Expectation propagation gives its
logarithm to a few hundredths of a nat for hundreds of points; sequential importance sampling
(Geweke, Hajivassiliou, Keane) is unbiased for Z, but its weights degenerate beyond about 60 points.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.special
from jax import lax

from bounds.result import Estimate
from deeplimits.errors import (
    ConvergenceError,
    DomainError,
    NotPositiveDefiniteError,
    ShapeError,
)
from deeplimits.precision import float64_scope
from deeplimits.special import log_ndtr
from deeplimits.typing import ArrayLike, Key
from deeplimits.validate import as_key, as_real, as_square, choice, finite, integer

#: Added to the diagonal, relative to its mean.
JITTER = 1e-12
#: Sampling is refused when its weights are worth fewer draws than this.
LEAST_EFFECTIVE = 100


@float64_scope
def log_evidence_orthant(
    K: ArrayLike,
    y: ArrayLike,
    method: str = "ep",
    *,
    n_samples: int = 10_000,
    key: Key = None,
    max_sweeps: int = 100,
    tol: float = 1e-9,
) -> Estimate:
    r"""Logarithm of the probability that a Gaussian vector has the signs y.

    Args:
        K: ``(n, n)`` covariance, positive semi-definite with a positive diagonal.
        y: ``(n,)`` labels +1 and -1.
        method: ``"ep"`` (expectation propagation; deterministic, no error bar, a little low in all
            cases known exactly: 0.003 to 0.04 nats, but 0.12 for each pair of duplicates) or
            ``"ghk"`` (importance sampling of ``n_samples``; unbiased for Z).
        n_samples, key: for ``"ghk"``.
        max_sweeps, tol: for ``"ep"``: sweeps until the change of ln Z falls below ``tol``.

    Returns:
        :class:`~bounds.result.Estimate` of target ``"log evidence"`` in nats (<= 0), with
        ``terms``: ``jitter``, and ``sweeps`` or ``effective_samples``. ``-inf``, with a warning,
        for contradictory labels of one point.

    Raises:
        ShapeError, DomainError: shapes, NaN, labels that are not +1 and -1, a zero diagonal.
        NotPositiveDefiniteError: ``K`` is not positive semi-definite.
        ConvergenceError: EP did not settle, or fewer than 100 effective samples are left of GHK.

    Source: C. E. Rasmussen and C. K. I. Williams (2006), algorithm 3.5, with the step likelihood;
        J. Geweke (1991), V. Hajivassiliou and D. McFadden (1998), M. Keane (1994).

    Check: tests/bounds/test_orthant.py
    """
    choice(method, "method", ("ep", "ghk"))
    K, y = _check(K, y)
    jitter = JITTER * float(np.mean(np.diag(K)))
    signed = K * np.outer(y, y) + jitter * np.eye(len(K))  # all signs positive
    made: dict[str, Any] = {"value": -math.inf, "rigor": "exact", "terms": {}}
    if _contradictory(signed):
        made["warnings"] = ("two points with one value up to sign have contradictory labels.",)
    elif method == "ghk":
        made = _by_sampling(signed, integer(n_samples, "n_samples", at_least=1), as_key(key))
    else:
        made = _by_propagation(signed, integer(max_sweeps, "max_sweeps", at_least=1), float(tol))
    made["terms"]["jitter"] = jitter
    return Estimate(
        target="log evidence",
        n=len(y),
        holds="always" if method == "ep" else "expectation",
        assumptions=("Gaussian prior of mean zero", f"jitter of {jitter:.2g} on the diagonal"),
        **made,
    )


def _check(K: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    K, y = np.asarray(as_square(K, "K"), float), np.asarray(as_real(y, "y"), float)
    if y.shape != (len(K),):
        raise ShapeError(f"y must have shape ({len(K)},) like K, got {y.shape}.")
    finite(y, "y")
    if not np.isin(y, (-1.0, 1.0)).all():
        raise DomainError(
            f"y must hold labels +1 and -1, got {np.unique(y)[:4]}. For 0/1 labels use 2 * y - 1."
        )
    if not (np.diag(K) > 0).all():
        raise DomainError(f"K must have a positive diagonal, got {np.diag(K).min():g} on it.")
    lowest = scipy.linalg.eigvalsh(K, subset_by_index=(0, 0))[0]
    if lowest < -1e-8 * np.diag(K).max():
        raise NotPositiveDefiniteError(
            f"K must be positive semi-definite, but an eigenvalue is {lowest:.3g}."
        )
    return K, y


def _contradictory(signed: np.ndarray) -> bool:
    """Whether two values that must have equal signs are opposite, up to the jitter."""
    std = np.sqrt(np.diag(signed))
    return bool((signed / np.outer(std, std)).min() < -1 + 10 * JITTER)


def _by_propagation(K: np.ndarray, max_sweeps: int, tol: float) -> dict[str, Any]:
    log_z, sweeps, change = (float(a) for a in _propagate(jnp.asarray(K), max_sweeps, tol))
    if not change <= tol:
        raise ConvergenceError(
            f"Expectation propagation changed ln Z by {change:.2g} in the last of {max_sweeps} "
            "sweeps. Allow more sweeps, a larger tol, or look for contradictory labels of "
            "(nearly) equal inputs."
        )
    return {
        "value": log_z,
        "method": "ep",
        "rigor": "heuristic",
        "terms": {"sweeps": int(sweeps)},
        "reference": "Rasmussen and Williams (2006), algorithm 3.5",
    }


@functools.partial(jax.jit, static_argnums=1)
def _propagate(K: jax.Array, max_sweeps: int, tol: Any) -> tuple[jax.Array, ...]:
    """``(log Z, sweeps, last change)`` of EP for the positive orthant."""
    n = K.shape[0]

    def site(i: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        S, tau, nu, tau_cavity, nu_cavity = state
        variance, mean = S[i, i], jnp.dot(S[i], nu)
        tc, nc = 1 / variance - tau[i], mean / variance - nu[i]
        z = nc / jnp.sqrt(tc)  # mean over deviation of the cavity
        ratio = jnp.exp(-0.5 * z**2 - 0.5 * math.log(2 * math.pi) - log_ndtr(z))
        tilted_mean, tilted = (z + ratio) / jnp.sqrt(tc), (1 - ratio * (z + ratio)) / tc
        new = 1 / tilted - tc
        step = new - tau[i]
        column = S[:, i]
        S = S - jnp.outer(column, column) * (step / (1 + step * variance))
        tau, nu = tau.at[i].set(new), nu.at[i].set(tilted_mean / tilted - nc)
        return S, tau, nu, tau_cavity.at[i].set(tc), nu_cavity.at[i].set(nc)

    def sweep(state: tuple[Any, ...]) -> tuple[Any, ...]:
        sites, log_z, count, _ = state
        _, tau, nu, tc, nc = lax.fori_loop(0, n, site, sites)
        root = jnp.sqrt(jnp.maximum(tau, 0))
        B = jnp.eye(n) + root[:, None] * K * root[None, :]
        L = jnp.linalg.cholesky(B)
        V = jax.scipy.linalg.solve_triangular(L, root[:, None] * K, lower=True)
        S = K - jnp.matmul(V.T, V)
        mc = nc / tc
        new = (
            jnp.sum(log_ndtr(nc / jnp.sqrt(tc)))
            - jnp.sum(jnp.log(jnp.diag(L)))
            + 0.5 * jnp.sum(jnp.log1p(tau / tc))
            + 0.5 * jnp.dot(nu, jnp.matmul(S, nu))
            - 0.5 * jnp.sum(nu**2 / (tc + tau))
            + 0.5 * jnp.sum(mc * tc * (tau * mc - 2 * nu) / (tau + tc))
        )
        return (S, tau, nu, tc, nc), new, count + 1, jnp.abs(new - log_z)

    def going(state: tuple[Any, ...]) -> Any:
        return (state[2] < max_sweeps) & ~(state[3] <= tol) & ~jnp.isnan(state[1])

    zero, one = jnp.zeros(n), jnp.ones(n)
    start = (K, zero, zero, one, zero), jnp.zeros(()), jnp.zeros((), int), jnp.asarray(jnp.inf)
    _, log_z, count, change = lax.while_loop(going, sweep, start)
    return log_z, count, change


def _by_sampling(K: np.ndarray, samples: int, key: Key) -> dict[str, Any]:
    weights = _sample(np.linalg.cholesky(K), key, samples)
    top = weights.max()
    relative = np.exp(weights - top)
    mean = relative.mean()
    effective = relative.sum() ** 2 / (relative**2).sum()
    if effective < min(LEAST_EFFECTIVE, samples / 2):
        raise ConvergenceError(
            f"The weights of {samples} samples are worth {effective:.0f}: too few points carry the "
            "probability. Take more samples, or method='ep'."
        )
    return {
        "value": float(top + np.log(mean)),
        "stderr": float(relative.std(ddof=1) / mean / math.sqrt(samples)),
        "method": "ghk",
        "rigor": "exact",
        "terms": {"effective_samples": float(effective)},
        "reference": "Geweke (1991); Hajivassiliou and McFadden (1998); Keane (1994)",
    }


def _sample(L: np.ndarray, key: Key, samples: int) -> np.ndarray:
    """Log weights ``(samples,)`` of draws that are forced into the positive orthant."""
    n = len(L)
    tiny = float(np.finfo(float).tiny)
    drawn, weight = np.zeros((samples, n)), np.zeros(samples)
    for i, each in enumerate(jax.random.split(key, n)):
        log_share = scipy.special.log_ndtr(drawn[:, :i] @ L[i, :i] / L[i, i])
        u = np.asarray(jax.random.uniform(each, (samples,), float, minval=tiny))
        drawn[:, i] = -scipy.special.ndtri_exp(log_share + np.log(u))
        weight += log_share
    return weight
