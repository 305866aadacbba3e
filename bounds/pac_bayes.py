r"""PAC-Bayes bounds: from the evidence of a zero training error, and from a Kullback-Leibler term.

All hold with probability at least :math:`1 - \delta` over the training sample, for the Gibbs
classifier, which draws a hypothesis from the posterior for each prediction.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.special

from bounds.result import Bound, Estimate
from deeplimits.errors import DomainError
from deeplimits.typing import ArrayLike
from deeplimits.validate import as_real, choice, integer, number


def kl_divergence(q: ArrayLike, p: ArrayLike) -> Any:
    r"""Kullback-Leibler divergence of two coins, :math:`q\ln\frac qp + (1-q)\ln\frac{1-q}{1-p}`.

    Args:
        q, p: probabilities, broadcast.

    Returns:
        Nats, a float for scalars; infinite where p excludes what q allows.
    """
    q, p = (np.asarray(as_real(a, n), float) for a, n in ((q, "q"), (p, "p")))
    value = scipy.special.rel_entr(q, p) + scipy.special.rel_entr(1 - q, 1 - p)
    return value[()] if value.ndim else float(value)


def kl_inverse(q: ArrayLike, c: ArrayLike, side: str = "upper") -> Any:
    r"""Largest probability p whose divergence from q stays within c.

    .. math:: \sup\{p \ge q : \mathrm{kl}(q \| p) \le c\}

    Args:
        q: probabilities in [0, 1].
        c: nats, >= 0 (infinity allowed), broadcast with q.
        side: ``"upper"``, or ``"lower"`` for the smallest :math:`p \le q`.

    Returns:
        float64, a float for scalars. Exact at q = 0 (:math:`1 - e^{-c}`), q = 1 and c = 0.

    Raises:
        DomainError: q outside [0, 1], c negative or NaN.

    Source: M. Seeger (2002). Check: tests/bounds/test_pac_bayes.py
    """
    choice(side, "side", ("upper", "lower"))
    q, c = np.broadcast_arrays(*(np.asarray(as_real(a, n), float) for a, n in ((q, "q"), (c, "c"))))
    if not ((q >= 0) & (q <= 1)).all():
        raise DomainError(f"q must be a probability in [0, 1], got {q.min():g} to {q.max():g}.")
    if not (c >= 0).all():
        raise DomainError(f"c must be >= 0 nats, got {np.nanmin(c):g}.")
    if side == "lower":
        value = 1 - np.asarray(kl_inverse(1 - q, c))
        return value[()] if value.ndim else float(value)
    low, high = q.copy(), np.ones_like(q)
    for _ in range(60):  # each halves the interval: to the last bit
        middle = (low + high) / 2
        with np.errstate(divide="ignore"):
            inside = scipy.special.rel_entr(q, middle) + scipy.special.rel_entr(1 - q, 1 - middle)
        low, high = np.where(inside <= c, middle, low), np.where(inside <= c, high, middle)
    value = np.where(q == 0, -np.expm1(-c), np.where(np.isinf(c), 1.0, high))
    value = np.where(c == 0, q, value)
    return value[()] if value.ndim else float(value)


def _check(kl: Any, n: Any, delta: Any, name: str = "kl") -> tuple[float, int, float]:
    value = float(np.asarray(as_real(kl, name)))
    if not value >= 0:
        raise DomainError(f"{name} must be >= 0 nats, got {value:g}.")
    return value, integer(n, "n", at_least=2), float(number(delta, "delta", above=0, below=1))


def pac_bayes_realizable(
    log_evidence: float | Estimate, n: int, delta: float = 0.05, *, gamma: float | None = None
) -> Bound:
    r"""Risk of the prior restricted to the hypotheses without training error.

    .. math:: -\ln(1 - R) \le \frac{-\ln P(C) + \ln(1/\delta)}{n}

    with P(C) the prior probability of no training error. There is no :math:`\ln n`: by Fubini and
    Markov, :math:`E_S E_{prior}[1\{h \in C\} (1 - R_h)^{-n}] \le 1`.

    Args:
        log_evidence: :math:`\ln P(C) \le 0`, a number or what :func:`bounds.log_evidence_orthant`
            returns. That an approximate one is right becomes an assumption of the bound;
            :func:`bounds.kernel_evidence_pac_bayes` needs no such assumption.
        n: training points, >= 2.
        delta: probability of failure, in (0, 1).
        gamma: for one hypothesis drawn from the posterior instead of the Gibbs classifier: the
            bound holds with probability 1 - gamma over the draw, and adds :math:`\ln(1/\gamma)`.

    Raises:
        DomainError: positive evidence, ``n < 2``, probabilities outside (0, 1).

    Source: derived here. Check: tests/bounds/test_pac_bayes.py::test_realizable_bound_holds
    """
    assumed: tuple[str, ...] = ()
    given = log_evidence
    if isinstance(given, Estimate):
        if given.rigor != "exact" or given.holds != "always":
            assumed = (f"the evidence by {given.method} is right (no error bar is paid for)",)
        given = float(given)
    unfit = isinstance(given, float) and np.isneginf(given)
    number(0.0 if unfit else given, "log_evidence", at_most=0)
    kl, n, delta = _check(-float(given), n, delta, "-log_evidence")
    extra = 0.0
    if gamma is not None:
        extra = -math.log(float(number(gamma, "gamma", above=0, below=1)))
    exponent = (kl - math.log(delta) + extra) / n
    draw = "one hypothesis drawn from" if gamma is not None else "Gibbs classifier of"
    return Bound(
        value=-math.expm1(-exponent),
        terms={"log_evidence": -kl, "exponent": exponent},
        holds="probability",
        delta=delta,
        n=n,
        trivial=1.0,
        assumptions=(
            "independent, identically distributed sample",
            "prior chosen before the sample was seen",
            f"{draw} the prior restricted to zero training error",
            *assumed,
        ),
        reference="derived here from Markov's inequality",
        at_delta=lambda d: pac_bayes_realizable(log_evidence, n, d, gamma=gamma),
    )


def pac_bayes_kl(
    empirical_risk: float, kl: float, n: int, delta: float = 0.05, *, form: str = "maurer"
) -> Bound:
    r"""Risk of a Gibbs classifier from its training error and the divergence from its prior.

    .. math:: \mathrm{kl}(\hat R \| R) \le \frac{KL + \ln(2\sqrt n / \delta)}{n}
              \quad\text{(maurer)}, \qquad
              \frac{KL + \ln(2 n / \delta)}{n - 1} \quad\text{(seeger)}

    Args:
        empirical_risk: training error of the Gibbs classifier, in [0, 1].
        kl: :math:`KL(Q \| P)` in nats, >= 0.
        n: training points, >= 8 for ``"maurer"``, >= 2 for ``"seeger"``.
        delta: probability of failure, in (0, 1).
        form: ``"maurer"`` (never larger from n = 8 on) or ``"seeger"``.

    Raises:
        DomainError: arguments outside these ranges.

    Source: A. Maurer (2004), arXiv:cs/0411099, theorem 5; J. Langford and M. Seeger (2001).

    Check: tests/bounds/test_pac_bayes.py
    """
    choice(form, "form", ("maurer", "seeger"))
    risk = float(number(empirical_risk, "empirical_risk", at_least=0, at_most=1))
    kl, n, delta = _check(kl, n, delta)
    if form == "maurer":
        integer(n, "n", at_least=8)
        budget = (kl + math.log(2 * math.sqrt(n) / delta)) / n
    else:
        budget = (kl + math.log(2 * n / delta)) / (n - 1)
    return Bound(
        value=kl_inverse(risk, budget),
        terms={"empirical_risk": risk, "kl": kl, "budget": budget},
        holds="probability",
        delta=delta,
        n=n,
        trivial=1.0,
        assumptions=(
            "independent, identically distributed sample",
            "prior chosen before the sample was seen",
        ),
        reference="arXiv:cs/0411099" if form == "maurer" else "Langford and Seeger (2001)",
        at_delta=lambda d: pac_bayes_kl(risk, kl, n, d, form=form),
    )
