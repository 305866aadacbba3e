"""True errors of a learned score along training, where the law of the data is known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from deeplimits.pytrees import register_dataclass
from gp.score_kernel import ScorePairs
from gp.score_truth import forward_process


@dataclass(frozen=True)
class RiskPath:
    """Errors of the predicted clean point and of the score after T numbers of steps.

    Attributes:
        steps: numbers of steps ``(T,)``, increasing.
        x0, x0_stderr: mean squared error of the predicted clean point, summed over coordinates,
            and its standard error over test points ``(T,)``.
        score, score_stderr: the same for the score.
        zero: error of the predicted clean point if 0 is predicted.
        chosen: the number of steps that the rule of the regression took.
    """

    steps: np.ndarray
    x0: np.ndarray
    x0_stderr: np.ndarray
    score: np.ndarray
    score_stderr: np.ndarray
    zero: float
    chosen: float

    @property
    def index(self) -> int:
        """Position of the chosen step in ``steps``."""
        return int(np.searchsorted(self.steps, self.chosen))

    @property
    def best_x0(self) -> tuple[float, float]:
        """The oracle for the clean point: number of steps and smallest error."""
        i = int(np.argmin(self.x0))
        return float(self.steps[i]), float(self.x0[i])

    @property
    def best_score(self) -> tuple[float, float]:
        """The oracle for the score: number of steps and smallest error."""
        i = int(np.argmin(self.score))
        return float(self.steps[i]), float(self.score[i])

    def plot(self, ax: Any = None, *, of: str = "score", **kw: Any) -> Any:
        """Error of the score (or of the clean point, ``of="x0"``) against the number of steps."""
        from deeplimits import plotting
        from deeplimits.validate import choice

        choice(of, "of", ("score", "x0"))
        ax = plotting.axes(ax)
        value = getattr(self, of)
        line = ax.plot(self.steps, value, **kw)[0]
        ax.plot(max(self.chosen, 1), value[self.index], "o", color=line.get_color())
        ax.set(xscale="log", yscale="log", xlabel="gradient-descent steps")
        ax.set_ylabel("squared error of the score" if of == "score" else "squared error")
        return ax


def risk_path(
    steps: np.ndarray, predictions: Iterable[np.ndarray], test: ScorePairs, chosen: float
) -> RiskPath:
    """Errors of predictions ``(n, d)``, one array per number of steps, against the exact law.

    Args:
        steps: numbers of steps ``(T,)``.
        predictions: T arrays of predicted clean points at the test points.
        test: test points with their law.
        chosen: the step to mark, one of ``steps``.
    """
    assert test.law is not None
    exact = test.law.posterior_mean(test.t, test.x)
    alpha, h = forward_process(test.t)
    factor = np.stack([np.ones_like(alpha), (alpha / h) ** 2])
    rows = []
    for prediction in predictions:
        errors = factor * np.sum((prediction - exact) ** 2, axis=1)
        rows.append([errors.mean(axis=1), errors.std(axis=1, ddof=1) / len(exact) ** 0.5])
    table = np.array(rows)
    zero = float(np.mean(np.sum(exact**2, axis=1)))
    return RiskPath(
        steps, table[:, 0, 0], table[:, 1, 0], table[:, 0, 1], table[:, 1, 1], zero, chosen
    )


register_dataclass(
    RiskPath, ["steps", "x0", "x0_stderr", "score", "score_stderr", "zero", "chosen"], []
)
