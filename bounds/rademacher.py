r"""From the Rademacher complexity of nested balls to a certified risk.

Classes that grow in proportion to a radius (balls of a reproducing-kernel space, networks by the
product of their norms) have :math:`\mathfrak R_S(F_B) = B\, u` with one number u. The radius of
a trained hypothesis is known only afterwards, so that the statement is made for the radii
:math:`b, 2b, 4b, \dots` together, the j-th with the share :math:`\delta / j(j+1)` of the
confidence.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bounds.result import Bound
from deeplimits.errors import DomainError
from deeplimits.typing import ArrayLike
from deeplimits.validate import as_real, choice, finite, number

#: Losses that are 1-Lipschitz in the output and lie in [0, 1].
LOSSES = ("ramp", "absolute")


def complexity_bound(radius: float, unit: float, n: int, **details: Any) -> Bound:
    """The record of a Rademacher complexity that is at most ``radius * unit``."""
    terms = {"radius": float(radius), "unit": float(unit), **details.pop("terms", {})}
    return Bound(
        value=float(radius) * float(unit),
        terms=terms,
        target="Rademacher complexity",
        n=int(n),
        **details,
    )


def lipschitz_loss(outputs: ArrayLike, y: ArrayLike, loss: str = "ramp") -> float:
    r"""Average of a loss that is 1-Lipschitz in the output and lies in [0, 1].

    ``"ramp"``: :math:`\min(1, \max(0, 1 - y f))` for labels +1 and -1, never below the zero-one
    loss. ``"absolute"``: :math:`\min(1, |f - y|)`.

    Args:
        outputs, y: ``(n,)``.
        loss: ``"ramp"`` or ``"absolute"``.

    Raises:
        DomainError: an unknown loss, NaN, or labels other than +1 and -1 for the ramp.

    Source: textbook. Check: tests/bounds/test_kernel_complexity.py
    """
    choice(loss, "loss", LOSSES)
    f, y = (np.asarray(as_real(a, n), float) for a, n in ((outputs, "outputs"), (y, "y")))
    finite(f, "outputs")
    if loss == "absolute":
        finite(y, "y")
        return float(np.minimum(1, np.abs(f - y)).mean())
    if not np.isin(y, (-1.0, 1.0)).all():
        raise DomainError(
            f"y must hold labels +1 and -1 for the ramp loss, got {np.unique(y)[:4]}. "
            "For 0/1 labels use 2 * y - 1; for real targets loss='absolute'."
        )
    return float(np.clip(1 - y * f, 0, 1).mean())


def rademacher_risk(
    complexity: Bound, empirical_risk: float, delta: float = 0.05, *, smallest: float = 1.0
) -> Bound:
    r"""Risk of a hypothesis from its training loss and the complexity of the ball that holds it.

    .. math:: R \le \hat R + 2 B_j u + 3\sqrt{\frac{\ln(2 j (j+1) / \delta)}{2n}}, \qquad
              B_j = 2^{j-1} b, \quad j = 1 + \lceil \log_2 \max(B/b, 1) \rceil

    for a loss in [0, 1] that is 1-Lipschitz in the output. With the ramp loss
    (:func:`lipschitz_loss`) it bounds the classification error too.

    Args:
        complexity: a record of :func:`kernel_ball_complexity`, :func:`frobenius_complexity` or
            :func:`path_norm_complexity`.
        empirical_risk: average training loss, in [0, 1].
        delta: probability of failure, in (0, 1).
        smallest: b > 0, radius of the smallest ball, chosen before the data were seen.

    Returns:
        :class:`~bounds.result.Bound` with ``terms``: ``empirical_risk``, ``ball`` (:math:`B_j`),
        ``complexity`` (:math:`2 B_j u`) and ``deviation``, the sum of which it is.

    Raises:
        DomainError: a record without radius and unit (a heuristic), or numbers out of range.

    Source: P. Bartlett and S. Mendelson (2002), with Talagrand's contraction lemma and a union
        over radii. Check: tests/bounds/test_kernel_complexity.py::test_risk_bound_holds
    """
    if not isinstance(complexity, Bound) or not {"radius", "unit"} <= set(complexity.terms):
        raise DomainError(
            "complexity must be a Rademacher complexity with a radius, such as of "
            "kernel_ball_complexity or frobenius_complexity; a heuristic measure certifies nothing."
        )
    number(empirical_risk, "empirical_risk", at_least=0, at_most=1)
    number(delta, "delta", above=0, below=1)
    number(smallest, "smallest", above=0)
    radius, n = complexity.terms["radius"], complexity.n or 0
    j = 1 + max(math.ceil(math.log2(max(radius / smallest, 1.0))), 0)
    ball = smallest * 2.0 ** (j - 1)
    share = 2 * ball * complexity.terms["unit"]
    deviation = 3 * math.sqrt(math.log(2 * j * (j + 1) / delta) / (2 * n))
    return Bound(
        value=float(empirical_risk) + share + deviation,
        terms={
            "empirical_risk": float(empirical_risk),
            "complexity": share,
            "deviation": deviation,
            "ball": ball,
            "radius": radius,
        },
        holds="probability",
        delta=float(delta),
        n=n,
        trivial=1.0,
        assumptions=(
            "independent, identically distributed sample",
            "loss in [0, 1] and 1-Lipschitz in the output",
            "smallest ball chosen before the sample was seen",
            *complexity.assumptions,
        ),
        reference=complexity.reference,
        at_delta=lambda d: rademacher_risk(complexity, empirical_risk, d, smallest=smallest),
    )
