r"""The Gibbs algorithm: exact information and generalisation on finite spaces, and its bounds.

Weights are drawn with probability :math:`\propto \pi(w) e^{-\gamma L(w, D)}`, L the average loss
on the n examples D. With the information I and the lautum information
:math:`\bar I = KL(P_W P_D \| P_{WD})` between weights and data, the generalisation gap is

.. math:: gen = \frac{I(W; D) + \bar I(W; D)}{\gamma}

exactly (G. Aminian et al., arXiv:2107.13656).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.special

from bounds.contraction import product
from bounds.result import Bound
from deeplimits.errors import DomainError, ShapeError
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import ArrayLike
from deeplimits.validate import as_real, finite, integer, number

#: Largest number of (weights, data set) pairs that are enumerated.
MAX_PAIRS = 2e7
AMINIAN, HE = "arXiv:2107.13656", "arXiv:2404.03176"


@register_dataclass
@dataclass(frozen=True)
class GibbsAlgorithm:
    r"""Everything about one Gibbs algorithm, exactly.

    Attributes:
        gen: expected loss on fresh minus training examples.
        information, lautum: :math:`I(W; D)` and :math:`KL(P_W P_D \| P_{WD})`, nats.
        individual: :math:`I(W; Z_i)`, of weights and one example.
        label, inputs: its parts :math:`I(W; Y_i)` and :math:`I(W; X_i | Y_i)`; NaN without labels.
        entropy: :math:`H(W)`.
        train, test: expected losses.
        weights: ``(W,)`` probabilities of the weights.
        joint: ``(W, Z)`` probabilities of weights and one example.
        gamma, n: as passed.
    """

    gen: float
    information: float
    lautum: float
    individual: float
    label: float
    inputs: float
    entropy: float
    train: float
    test: float
    weights: np.ndarray
    joint: np.ndarray
    gamma: float
    n: int = field(metadata={"static": True})

    @property
    def identity(self) -> float:
        r"""The gap by the identity, :math:`(I + \bar I) / \gamma`."""
        return (self.information + self.lautum) / self.gamma if self.gamma else 0.0

    @property
    def ratio(self) -> float:
        r"""The constant :math:`C_E = \bar I / I` of :func:`gibbs_bound`; 1 where both vanish."""
        return self.lautum / self.information if self.information > 0 else 1.0

    def bounds(self, s: float = 0.5) -> dict[str, Bound]:
        r"""Bounds on the gap of a loss with sub-Gaussian constant s.

        Returns:
            ``"individual"``: :math:`s \sqrt{2 I(W; Z_i)}`; ``"total"``:
            :math:`s \sqrt{2 I(W; D) / n}`; ``"gibbs"``: :func:`gibbs_bound`, which knows nothing
            of data and loss; ``"gibbs_ratio"``: the same with the true ratio.
        """
        number(s, "s", above=0)

        def record(value: float, reference: str) -> Bound:
            return _gap(s * math.sqrt(2 * value), self.n, {"information": value}, reference)

        return {
            "individual": record(self.individual, "arXiv:1901.04609"),
            "total": record(self.information / self.n, "arXiv:1705.07809"),
            "gibbs": gibbs_bound(self.gamma, self.n, s),
            "gibbs_ratio": gibbs_bound(self.gamma, self.n, s, C_E=self.ratio),
        }

    def plot(self, ax: Any = None) -> Any:
        """The gap beside its bounds for a loss in [0, 1]."""
        from deeplimits import plotting

        ax = plotting.axes(ax)
        named = {"gap": self.gen} | {k: float(b) for k, b in self.bounds().items()}
        ax.barh(
            list(named),
            list(named.values()),
            color=[plotting.COLORS[-1], *[plotting.COLORS[0]] * 4],
        )
        ax.invert_yaxis()
        ax.set(xlabel="generalisation gap and bounds")
        return ax


def gibbs_algorithm(
    loss: ArrayLike,
    p: ArrayLike,
    n: int,
    gamma: float,
    *,
    prior: ArrayLike | None = None,
    labels: ArrayLike | None = None,
) -> GibbsAlgorithm:
    r"""The Gibbs algorithm on finite weights and examples, by enumeration.

    .. math:: P(w | D) \propto \pi(w) \exp\Big(-\frac\gamma n \sum_i \ell(w, z_i)\Big)

    The weights see a data set only through how often each example occurs, so that multisets are
    enumerated with their multinomial probabilities and not the :math:`|Z|^n` sequences.

    Args:
        loss: ``(W, Z)`` loss of each weight on each example; average over noise, if the network
            has any.
        p: ``(Z,)`` probabilities of the examples, > 0 (leave impossible ones out).
        n: examples in a data set, >= 1.
        gamma: inverse temperature, >= 0.
        prior: ``(W,)`` probabilities > 0 of the weights; default uniform.
        labels: ``(Z,)`` label of each example, of any type, to split I(W; Z_i).

    Raises:
        ShapeError, DomainError: shapes, NaN, probabilities that are not positive or do not sum
            to 1, or more than 2e7 pairs to enumerate.

    Source: arXiv:2107.13656. Check: tests/bounds/test_gibbs.py
    """
    loss, p, prior = _finite_problem(loss, p, prior)
    n = integer(n, "n", at_least=1)
    gamma = float(number(gamma, "gamma", at_least=0))
    kinds = loss.shape[1]
    if len(loss) * scipy.special.comb(n + kinds - 1, n) > MAX_PAIRS:
        raise DomainError(
            f"n = {n} gives {scipy.special.comb(n + kinds - 1, n):.3g} data sets for each of "
            f"{len(loss)} weights; at most {MAX_PAIRS:g} pairs are enumerated. Reduce n."
        )
    counts = _multisets(n, kinds)
    gammaln = scipy.special.gammaln
    log_data = gammaln(n + 1) - gammaln(counts + 1).sum(1) + counts @ np.log(p)
    data = np.exp(log_data)
    data /= data.sum()
    energy = np.log(prior)[:, None] - gamma / n * (loss @ counts.T)
    log_posterior = energy - scipy.special.logsumexp(energy, axis=0)
    posterior = np.exp(log_posterior)
    pairs = posterior * data
    weights = pairs.sum(1)
    log_weights = scipy.special.logsumexp(log_posterior + np.log(data), axis=1)
    surprise = log_posterior - log_weights[:, None]
    joint = pairs @ counts / n
    train = float((pairs * (loss @ counts.T / n)).sum())
    test = float(weights @ loss @ p)
    individual = _information(joint)
    label = math.nan
    if labels is not None:
        label = _label_information(joint, labels)
    return GibbsAlgorithm(
        gen=test - train,
        information=float((pairs * surprise).sum()),
        lautum=float(-(np.outer(weights, data) * surprise).sum()),
        individual=individual,
        label=label,
        inputs=individual - label,
        entropy=float(scipy.special.entr(weights).sum()),
        train=train,
        test=test,
        weights=weights,
        joint=joint,
        gamma=gamma,
        n=n,
    )


def _finite_problem(loss: Any, p: Any, prior: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    loss, p = np.asarray(as_real(loss, "loss"), float), np.asarray(as_real(p, "p"), float)
    if loss.ndim != 2 or loss.size == 0 or p.shape != loss.shape[1:]:
        raise ShapeError(
            f"loss and p must have shapes (W, Z) and (Z,), got {loss.shape} and {p.shape}."
        )
    finite(loss, "loss")
    size = len(loss)
    prior = np.full(size, 1 / size) if prior is None else np.asarray(as_real(prior, "prior"), float)
    if prior.shape != (size,):
        raise ShapeError(f"prior must have shape ({size},) like loss, got {prior.shape}.")
    for x, name in ((p, "p"), (prior, "prior")):
        if not ((x > 0).all() and abs(x.sum() - 1) < 1e-10):
            raise DomainError(
                f"{name} must hold probabilities > 0 that sum to 1, got a minimum of {x.min():g} "
                f"and the sum {x.sum():.12g}."
            )
    return loss, p, prior


def _multisets(n: int, kinds: int) -> np.ndarray:
    """All counts of ``kinds`` that sum to n, ``(multisets, kinds)``."""
    counts = np.array([[n]])
    for _ in range(kinds - 1):  # split the last count into kept and passed on
        last = counts[:, -1]
        rows = np.repeat(np.arange(len(counts)), last + 1)
        passed = np.arange(len(rows)) - np.repeat(np.cumsum(last + 1) - last - 1, last + 1)
        kept = last[rows] - passed
        counts = np.column_stack([counts[rows, :-1], kept, passed])
    return counts


def _information(joint: np.ndarray) -> float:
    """Mutual information of a joint table in nats."""
    independent = np.outer(joint.sum(1), joint.sum(0))
    return float(scipy.special.rel_entr(joint, independent).sum())


def _label_information(joint: np.ndarray, labels: Any) -> float:
    names = np.asarray(labels)
    if names.shape != joint.shape[1:]:
        raise ShapeError(f"labels must have shape {joint.shape[1:]} like p, got {names.shape}.")
    kinds = np.unique(names)
    return _information(joint @ (names[:, None] == kinds).astype(float))


def channel_information(joint: ArrayLike, channel: ArrayLike) -> float:
    r"""Information between weights and what a noisy layer shows of one example.

    Args:
        joint: ``(W, Z)`` of :func:`gibbs_algorithm`.
        channel: ``(Z, T)`` probability of each outcome, with the label among the outcomes if it is
            to be seen.

    Returns:
        I(W; T) in nats.

    Raises:
        ShapeError: matrices that do not match.
    """
    joint, rows = (
        np.asarray(as_real(a, k), float) for a, k in ((joint, "joint"), (channel, "channel"))
    )
    if joint.ndim != 2 or rows.ndim != 2 or joint.shape[1] != len(rows):
        raise ShapeError(
            f"joint and channel must have shapes (W, Z) and (Z, T), got {joint.shape} and "
            f"{rows.shape}."
        )
    return _information(joint @ rows)


def gibbs_bound(
    gamma: float, n: int, s: float = 0.5, *, C_E: float = 0.0, etas: ArrayLike = ()
) -> Bound:
    r"""Generalisation of the Gibbs algorithm from its inverse temperature alone.

    .. math:: gen \le \frac{2 s^2 \gamma}{n (1 + C_E)} \prod_j \eta_j

    Args:
        gamma: inverse temperature, >= 0.
        n: examples, >= 1.
        s: sub-Gaussian constant of the loss, > 0; 1/2 (default) for a loss in [0, 1].
        C_E: a number with lautum information >= C_E times information, >= 0. Default 0.
        etas: contraction coefficients in [0, 1] of noisy layers. They count in full only if
            :math:`I(Y_i; W) = 0`; otherwise the label enters, see
            :func:`bounds.contraction.information`.

    Raises:
        DomainError: numbers out of range.

    Source: arXiv:2107.13656; with contraction arXiv:2404.03176.
    Check: tests/bounds/test_gibbs.py::test_bounds_hold_on_random_problems
    """
    gamma = float(number(gamma, "gamma", at_least=0))
    n = integer(n, "n", at_least=1)
    s = float(number(s, "s", above=0))
    C_E = float(number(C_E, "C_E", at_least=0))
    eta = product(etas)
    given = () if eta == 1 else ("labels independent of the weights, I(Y; W) = 0",)
    return _gap(
        2 * s**2 * gamma * eta / (n * (1 + C_E)),
        n,
        {"gamma": gamma, "C_E": C_E, "eta": eta},
        AMINIAN if eta == 1 else HE,
        given,
    )


def finite_weights_bound(
    n: int,
    s: float = 0.5,
    *,
    entropy: float = math.inf,
    parameters: int | None = None,
    levels: int | None = None,
    etas: ArrayLike = (),
) -> Bound:
    r"""Generalisation of any algorithm whose weights take finitely many values.

    .. math:: gen \le s \sqrt{\frac{2}{n} \prod_j \eta_j\,
              \min\big(H(W), k \ln m\big)}

    Args:
        n: examples, >= 1.
        s: sub-Gaussian constant of the loss, > 0. Default 1/2.
        entropy: H(W) in nats, >= 0; default unknown.
        parameters, levels: k parameters of m values each, such as 2**8 for bytes.
        etas: as in :func:`gibbs_bound`.

    Raises:
        DomainError: numbers out of range; neither entropy nor parameters and levels.

    Source: arXiv:2404.03176. Check: tests/bounds/test_gibbs.py
    """
    n = integer(n, "n", at_least=1)
    s = float(number(s, "s", above=0))
    if not entropy >= 0:
        raise DomainError(f"entropy must be >= 0 nats, got {entropy}.")
    nats = float(entropy)
    if parameters is not None and levels is not None:
        k, m = integer(parameters, "parameters", at_least=0), integer(levels, "levels", at_least=1)
        nats = min(nats, k * math.log(m))
    if math.isinf(nats):
        raise DomainError("entropy must be finite, or parameters and levels be given.")
    eta = product(etas)
    given = () if eta == 1 else ("labels independent of the weights, I(Y; W) = 0",)
    terms = {"entropy": nats, "eta": eta}
    return _gap(s * math.sqrt(2 * eta * nats / n), n, terms, HE, given)


def _gap(value: float, n: int, terms: dict, reference: str, given: tuple = ()) -> Bound:
    return Bound(
        value=value,
        terms=terms,
        target="gap",
        holds="expectation",
        n=n,
        trivial=1.0,
        assumptions=("independent, identically distributed sample", "sub-Gaussian loss", *given),
        reference=reference,
    )
