r"""How good predicted probabilities are: proper scores, calibration, detection of foreign inputs.

Every number comes with its standard error over the test points (training is held fixed).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.special
import scipy.stats

from deeplimits import plotting
from deeplimits.errors import DomainError, ShapeError
from deeplimits.estimates import Estimate, as_samples, mean_with_error
from deeplimits.pytrees import register_dataclass
from deeplimits.resampling import bootstrap
from deeplimits.validate import check, choice, finite, integer, number

#: Rows of probabilities may miss 1 by this much (float32 softmax outputs do).
_SUM_SLACK = 1e-5


def as_probabilities(p: Any, name: str = "p") -> np.ndarray:
    """Probabilities ``(m, C)``, rows that add up to one.

    Raises:
        ShapeError: not ``(m, C)`` with C >= 2.
        DomainError: not finite, outside [0, 1], or rows that do not add up to one.
    """
    p = np.asarray(p, np.float64)
    check(
        p.ndim == 2 and p.shape[0] > 0 and p.shape[1] > 1,
        f"{name} must have shape (m, classes), one row per point; got {p.shape}.",
        ShapeError,
    )
    finite(p, name)
    gap = float(np.max(np.abs(p.sum(axis=1) - 1)))
    check(
        bool(np.all((p >= 0) & (p <= 1 + _SUM_SLACK))) and gap <= _SUM_SLACK,
        f"{name} must hold probabilities whose rows add up to 1; got entries in "
        f"[{p.min():.3g}, {p.max():.3g}] and sums off by {gap:.3g}.",
        DomainError,
    )
    return p


def _labelled(p: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    p = as_probabilities(p)
    labels = np.asarray(labels)
    check(
        labels.shape == (len(p),),
        f"labels must have shape ({len(p)},), one column number of p per row; got {labels.shape}.",
        ShapeError,
    )
    whole = labels.dtype.kind in "iu" and bool(np.all((labels >= 0) & (labels < p.shape[1])))
    check(
        whole,
        f"labels must be integers in 0..{p.shape[1] - 1}, the column of the true class (see "
        "np.searchsorted(post.classes, labels)).",
        DomainError,
    )
    return p, labels


def negative_log_likelihood(p: Any, labels: Any) -> Estimate:
    r"""Mean of :math:`-\log p_{i, t_i}` in nats per point; infinite where a true class had p = 0.

    Args:
        p: probabilities ``(m, C)``.
        labels: columns of the true classes ``(m,)``.

    Raises:
        ShapeError, DomainError: no probabilities, or labels that are no columns.

    Check: test_calibration.py::test_scores_by_hand.
    """
    p, labels = _labelled(p, labels)
    with np.errstate(divide="ignore"):
        each = -np.log(p[np.arange(len(p)), labels])
    if np.isinf(each).any():
        return Estimate(np.inf, np.nan, len(p) - 1)
    return mean_with_error(each)


def brier_score(p: Any, labels: Any) -> Estimate:
    r"""Mean of :math:`\sum_c (p_{ic} - [c = t_i])^2`, between 0 and 2.

    Args:
        p: probabilities ``(m, C)``.
        labels: columns of the true classes ``(m,)``.

    Raises:
        ShapeError, DomainError: as for :func:`negative_log_likelihood`.

    Source: G. W. Brier, Mon. Weather Rev. 78 (1950) 1.
    Check: test_calibration.py::test_scores_by_hand.
    """
    p, labels = _labelled(p, labels)
    return mean_with_error(np.sum((p - np.eye(p.shape[1])[labels]) ** 2, axis=1))


def accuracy(p: Any, labels: Any) -> Estimate:
    """Share of points whose most probable class is the true one.

    Args:
        p: probabilities ``(m, C)``.
        labels: columns of the true classes ``(m,)``.

    Raises:
        ShapeError, DomainError: as for :func:`negative_log_likelihood`.
    """
    p, labels = _labelled(p, labels)
    return mean_with_error(np.argmax(p, axis=1) == labels)


@register_dataclass
@dataclass(frozen=True)
class Reliability:
    """Confidence against accuracy, in bins of the confidence.

    Attributes:
        edges: edges of the bins ``(bins + 1,)``.
        count: points per bin.
        confidence: mean largest probability in each bin; NaN where empty.
        accuracy: share of correct predictions in each bin; NaN where empty.
        stderr: binomial standard error of ``accuracy`` if the confidences were right.
        ece: expected calibration error, the mean of ``|accuracy - confidence|`` weighted by count.
        ece_stderr: its bootstrap standard error.
        ece_if_calibrated: what the same points would give on average if every confidence were
            right. It is above 0, because a bin's accuracy fluctuates: compare ``ece`` with it.
    """

    edges: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    stderr: np.ndarray
    ece: float
    ece_stderr: float
    ece_if_calibrated: float

    def plot(self, ax: Any = None, **kw: Any) -> Any:
        """Accuracy against confidence with the diagonal and bins as points.

        Args:
            ax: axes to draw on; default a new figure.
            **kw: passed to ``errorbar``.
        """
        ax = plotting.axes(ax)
        ax.plot([0, 1], [0, 1], color="0.65", linewidth=1.0)
        filled = self.count > 0
        kw = {"fmt": "o-", "color": plotting.COLORS[0], "capsize": 2.5, **kw}
        ax.errorbar(self.confidence[filled], self.accuracy[filled], self.stderr[filled], **kw)
        ax.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        return ax


def reliability(p: Any, labels: Any, *, bins: int = 15, binning: str = "width") -> Reliability:
    r"""Reliability of the most probable class (top-label calibration), and its expected error.

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{n}\, |\mathrm{acc}_b - \mathrm{conf}_b|

    Args:
        p: probabilities ``(m, C)``.
        labels: columns of the true classes ``(m,)``.
        bins: number of bins, >= 1. Default 15.
        binning: "width": bins of equal width on [0, 1] (default, the usual ECE); "mass": bins that
            hold equally many points.

    Raises:
        ShapeError, DomainError: as for :func:`negative_log_likelihood`; bad bins or binning.

    Source: C. Guo et al., arXiv:1706.04599, eq. (3); the value under calibration derived here.
    Check: test_calibration.py::test_reliability_by_hand, ::test_calibrated_predictions.
    """
    p, labels = _labelled(p, labels)
    bins = integer(bins, "bins", at_least=1)
    choice(binning, "binning", ("width", "mass"))
    confidence = np.minimum(p.max(axis=1), 1.0)
    correct = (np.argmax(p, axis=1) == labels).astype(float)
    if binning == "width":
        edges = np.linspace(0.0, 1.0, bins + 1)
    else:
        edges = np.quantile(confidence, np.linspace(0.0, 1.0, bins + 1))
    rows = np.stack([confidence, correct], axis=1)
    count, sums, spread = _binned(rows, edges)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums / count[:, None]
        stderr = np.sqrt(spread) / count
    ece = _ece(rows, edges)
    error = 0.0
    if len(rows) >= 3:
        resampled = bootstrap(rows, lambda x: _ece(x, edges), key=0, n=200, method="percentile")
        error = float(resampled.stderr)
    # a sum of many independent errors is normal, and E|N(0, v)| = sqrt(2 v / pi)
    null = float(np.sum(np.sqrt(2 * spread / np.pi)) / len(rows))
    return Reliability(edges, count, mean[:, 0], mean[:, 1], stderr, ece, error, null)


def _binned(rows: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per bin: points, sums of confidence and correctness, sum of the variances p (1 - p)."""
    bins = len(edges) - 1
    at = np.clip(np.searchsorted(edges, rows[:, 0], side="left") - 1, 0, bins - 1)
    count = np.bincount(at, minlength=bins).astype(float)
    sums = np.stack([np.bincount(at, column, bins) for column in rows.T], axis=1)
    return count, sums, np.bincount(at, rows[:, 0] * (1 - rows[:, 0]), bins)


def _ece(rows: np.ndarray, edges: np.ndarray) -> float:
    sums = _binned(rows, edges)[1]
    return float(np.sum(np.abs(sums[:, 1] - sums[:, 0])) / len(rows))


def predictive_entropy(p: Any) -> np.ndarray:
    r"""Entropies :math:`-\sum_c p_c \log p_c` in nats ``(m,)``: large where the model is unsure.

    Args:
        p: probabilities ``(m, C)``.

    Raises:
        ShapeError, DomainError: no probabilities.
    """
    return scipy.special.entr(as_probabilities(p)).sum(axis=1)


def auroc(negatives: Any, positives: Any) -> Estimate:
    r"""Area under the receiver operating curve: the chance that a positive has the larger score.

    .. math:: A = P(s_+ > s_-) + \tfrac12 P(s_+ = s_-), \qquad
        \mathrm{Var} = \frac{\mathrm{var}_i\, P(s_{+,i} > s_-)}{n_+}
        + \frac{\mathrm{var}_j\, P(s_+ > s_{-,j})}{n_-}

    Args:
        negatives: scores of the negative class ``(n,)``, n >= 2.
        positives: scores of the positive class ``(m,)``, m >= 2.

    Raises:
        ShapeError: not 1-D, or fewer than two scores.
        DomainError: NaN or infinite scores.

    Source: E. R. DeLong et al., Biometrics 44 (1988) 837.
    Check: test_calibration.py::test_auroc_against_all_pairs.
    """
    low, high = as_samples(negatives, "negatives"), as_samples(positives, "positives")
    for name, values in (("negatives", low), ("positives", high)):
        check(values.ndim == 1, f"{name} must be 1-D, got shape {values.shape}.", ShapeError)
    both = scipy.stats.rankdata(np.concatenate([low, high]))
    n, m = len(low), len(high)
    above = (both[n:] - scipy.stats.rankdata(high)) / n
    below = 1 - (both[:n] - scipy.stats.rankdata(low)) / m
    variance = np.var(above, ddof=1) / m + np.var(below, ddof=1) / n
    return Estimate(float(above.mean()), float(np.sqrt(variance)), min(n, m) - 1)


def ood_auroc(inside: Any, outside: Any, *, score: str = "entropy") -> Estimate:
    """How well uncertainty tells foreign inputs from test inputs: 1 perfectly, 1/2 not at all.

    Args:
        inside: probabilities at inputs like the training inputs ``(n, C)``.
        outside: probabilities at foreign inputs ``(m, C)``.
        score: "entropy" (default): predictive entropy; "max_probability": one minus the largest.

    Raises:
        ShapeError, DomainError: no probabilities, or unknown score.

    Source: D. Hendrycks, K. Gimpel, arXiv:1610.02136, for the largest probability.
    Check: test_calibration.py::test_ood_detection.
    """
    choice(score, "score", ("entropy", "max_probability"))
    if score == "entropy":
        return auroc(predictive_entropy(inside), predictive_entropy(outside))
    unsure = [1 - as_probabilities(p, name).max(axis=1)
              for p, name in ((inside, "inside"), (outside, "outside"))]  # fmt: skip
    return auroc(*unsure)


@register_dataclass
@dataclass(frozen=True)
class Coverage:
    """Shares of targets inside central intervals.

    Attributes:
        levels: stated probabilities ``(L,)``.
        share: shares of targets inside ``(L,)``.
        stderr: binomial standard errors of the shares if the levels were right.
        error: mean of ``|share - level|``, 0 for perfect calibration up to sampling.
    """

    levels: np.ndarray
    share: np.ndarray
    stderr: np.ndarray
    error: float

    def plot(self, ax: Any = None, **kw: Any) -> Any:
        """Share against level, with the diagonal.

        Args:
            ax: axes to draw on; default a new figure.
            **kw: passed to ``errorbar``.
        """
        ax = plotting.axes(ax)
        ax.plot([0, 1], [0, 1], color="0.65", linewidth=1.0)
        kw = {"fmt": "o-", "color": plotting.COLORS[0], "capsize": 2.5, **kw}
        ax.errorbar(self.levels, self.share, self.stderr, **kw)
        ax.set(xlabel="stated probability", ylabel="share of targets inside")
        return ax


def interval_coverage(law: Any, y: Any, levels: Any = (0.1, 0.3, 0.5, 0.7, 0.9)) -> Coverage:
    """How often targets fall into central intervals of predictive laws.

    Args:
        law: a predictive law with ``interval(level)``, such as ``post.predict(Xs, noise=True)`` or
            ``post.marginals(Xs, noise=True)``.
        y: targets in the shape of its mean.
        levels: probabilities in (0, 1). Default 0.1, 0.3, 0.5, 0.7, 0.9.

    Raises:
        ShapeError, DomainError: y of another shape, or levels out of range.

    Check: test_calibration.py::test_coverage.
    """
    levels = np.atleast_1d(np.asarray(levels, np.float64))
    for level in levels:
        number(float(level), "levels", above=0, below=1)
    y = np.asarray(y, np.float64)
    finite(y, "y")
    shares = []
    for level in levels:
        low, high = law.interval(float(level))
        check(
            y.shape == low.shape,
            f"y must have the shape of the mean, {low.shape}, got {y.shape}.",
            ShapeError,
        )
        shares.append(np.mean((low <= y) & (y <= high)))
    share = np.array(shares)
    stderr = np.sqrt(levels * (1 - levels) / y.size)
    return Coverage(levels, share, stderr, float(np.mean(np.abs(share - levels))))
