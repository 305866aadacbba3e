r"""Certified risk from a sampled evidence: the estimate may be crude, the bound is a theorem.

Expectation propagation has no error bar, so that a risk computed from it is no theorem. An unbiased
estimate :math:`\hat Z` of the probability :math:`Z = P(C)` that the prior fits the labels may take
its place in the realizable bound, at no cost and however uneven its weights are. With
:math:`X_S = E_{prior}[1\{h \in C\} (1 - R_h)^{-n}]`, of mean at most 1 over samples S, and
:math:`X_S \ge Z e^{n r}` by Jensen's inequality, r the average of :math:`-\ln(1 - R_h)`,

.. math:: E_S\, E\left[\hat Z e^{n r}\right] \le E_S\, E\left[X_S\, \hat Z / Z\right]
          = E_S\, X_S \le 1

and Markov's inequality gives :math:`n r \le -\ln \hat Z + \ln(1/\delta)` over the sample and the
draws together. Too few draws make the bound loose, never wrong.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import scipy.special

from bounds.orthant import JITTER, _check, _contradictory, _sample
from bounds.pac_bayes import pac_bayes_realizable
from bounds.result import Bound
from deeplimits.typing import ArrayLike, Key
from deeplimits.validate import as_key, integer, number


def kernel_evidence_pac_bayes(
    K: ArrayLike,
    y: ArrayLike,
    delta: float = 0.05,
    *,
    n_samples: int = 10_000,
    key: Key = None,
) -> Bound:
    r"""Certified risk of a Gaussian process restricted to the functions that fit the labels.

    .. math:: -\ln(1 - R) \le \frac{-\ln \hat Z + \ln(1/\delta)}{n}

    with the evidence estimated by sequential importance sampling, which is unbiased.

    Args:
        K: ``(n, n)`` kernel chosen before the data were seen, n >= 2, positive semi-definite with a
            positive diagonal.
        y: ``(n,)`` labels +1 and -1.
        delta: probability of failure over the sample and the draws together, in (0, 1).
        n_samples: importance samples, >= 1; more make the bound tighter.
        key: random key or integer seed.

    Returns:
        :class:`~bounds.result.Bound` on the risk, vacuous for contradictory labels. ``terms``:
        ``log_evidence`` (:math:`\ln \hat Z`), ``exponent``, ``effective_samples``, ``jitter``.

    Raises:
        ShapeError, DomainError, NotPositiveDefiniteError: as :func:`bounds.log_evidence_orthant`;
            ``delta`` out of range, no key.

    Source: derived here; the sampler is that of ``log_evidence_orthant(method="ghk")``.

    Check: tests/bounds/test_simplicity.py::test_certificate_from_sampled_evidence_holds
    """
    K, y = _check(K, y)
    number(delta, "delta", above=0, below=1)
    samples, key = integer(n_samples, "n_samples", at_least=1), as_key(key)
    jitter = JITTER * float(np.mean(np.diag(K)))
    signed = K * np.outer(y, y) + jitter * np.eye(len(K))
    if _contradictory(signed):
        estimate, effective = -math.inf, 0.0
    else:
        weights = _sample(np.linalg.cholesky(signed), key, samples)
        estimate = float(scipy.special.logsumexp(weights)) - math.log(samples)
        relative = np.exp(weights - weights.max())
        effective = float(relative.sum() ** 2 / (relative**2).sum())
    extra = {"effective_samples": effective, "jitter": jitter}

    def at(share: float) -> Bound:
        risk = pac_bayes_realizable(min(estimate, 0.0), len(y), share)
        return dataclasses.replace(
            risk,
            terms={**risk.terms, **extra},
            assumptions=(*risk.assumptions, f"jitter of {jitter:.2g} on the diagonal of K"),
            reference="derived here from Markov's inequality",
            at_delta=at,
        )

    return at(float(delta))
