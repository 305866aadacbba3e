r"""Claims on neural collapse: gradient descent against the closed-form minimum."""

from __future__ import annotations

from typing import Any

import numpy as np

from bounds.collapse import minimizer, one_hot, train_unconstrained
from deeplimits.claims import Claim, register
from deeplimits.estimates import Estimate

DECAY = 3e-3
LAYERS = 2
RESTARTS = 4
#: Balanced classes and imbalanced ones, without bias.
COUNTS = ((6, 6, 6, 6), (3, 4, 6, 11))


def minima() -> np.ndarray:
    """Loss and the four outputs at the own label, for both sets of classes: ``(2, 5)``."""
    rows = []
    for counts in COUNTS:
        m = minimizer(one_hot(counts), [DECAY] * LAYERS, DECAY)
        rows.append([m.loss, *np.diag(m.Z[:, np.cumsum(counts) - 1])])
    return np.array(rows)


def trained(key: Any, steps: int) -> Estimate:
    r"""The same numbers after gradient descent from random starts, extrapolated in time.

    What is left falls geometrically at the end. Three equidistant moments :math:`a, b, c` of the
    best restart give the limit :math:`c - (c - b)^2 / (a - 2 b + c)`; the standard error is the
    correction, or rounding where that is larger.
    """
    rows = []
    for counts in COUNTS:
        moments = []
        for part in (0.8, 0.9, 1.0):
            run = train_unconstrained(
                one_hot(counts), [DECAY] * LAYERS, DECAY, key=key, width=8, restarts=RESTARTS,
                steps=int(part * steps), records=10, init_std=0.3,
            )  # fmt: skip
            Z = run.Z()
            moments.append([run.final[run.best], *np.diag(Z[:, np.cumsum(counts) - 1])])
        rows.append(np.array(moments))
    a, b, c = np.stack(rows, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        change = np.nan_to_num((c - b) ** 2 / (a - 2 * b + c), posinf=0.0, neginf=0.0)
    return Estimate(c - change, np.maximum(np.abs(change), 1e-12))


register(
    Claim(
        name="bounds/collapse-by-gradient-descent",
        source="derived here, after arXiv:2301.00437",
        statement="Gradient descent on free features and two linear layers ends at the closed-form "
        "minimum, for balanced and imbalanced classes.",
        theory=minima,
        experiment=trained,
        sizes=(3000,),
        z=4.0,
        quantity="objective and outputs at the own label (error bar: extrapolation in time)",
    )
)
