r"""Classification as regression: Gaussian processes and trained ensembles, cross-validated.

Targets are one-hot labels less 1/10, ten outputs that share one kernel. Every choice (amplitude,
noise, stopping time) is made on the training part of a fold. The negative log-likelihood (NLL) of a
prediction with mean :math:`\mu_{ic}` and variance :math:`v_i` (noise included) is

.. math:: \mathrm{NLL} = -\frac{1}{10 m} \sum_{i=1}^m \sum_{c=1}^{10} \log N(y_{ic};\mu_{ic}, v_i),

in nats per output; it scores targets of size 0.9 and -0.1, and may be negative.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from deeplimits.claims import compare
from deeplimits.demo_data import SCALES, Indexed, Problem
from deeplimits.demo_report import Report
from deeplimits.estimates import mean_with_error
from deeplimits.plotting import COLORS, style

#: Noise variances that the evidence chooses from, relative to the mean diagonal of the kernel.
RATIOS = tuple(10.0 ** np.arange(-7.0, 0.1, 0.25))
#: Training images (in random order) from which it chooses; more cost time and change little.
EVIDENCE_POINTS = 600


@dataclass(frozen=True)
class Fit:
    """A Gaussian process with the noise and amplitude that maximise its evidence."""

    posterior: Any
    amplitude: float


@dataclass(frozen=True)
class Score:
    """Results on one test part; ``expected`` is the NLL foreseen from the training part."""

    accuracy: float
    nll: float
    expected: float = np.nan


def evidence_profile(gram: np.ndarray, y: np.ndarray) -> np.ndarray:
    r"""Log evidence of :math:`s^2 (k + \rho\, \bar k I)` at the best amplitude, per ratio rho.

    With :math:`q = y^\top K_\rho^{-1} y`, the best amplitude is :math:`s^2 = q/(nC)`, where

    .. math:: \log p = -\tfrac C2 \log\det K_\rho - \tfrac{nC}{2} (\log 2\pi s^2 + 1).

    One eigen-decomposition gives it for every ratio in ``RATIOS``.

    Source: derived here. Check: tests/test_demo.py::test_evidence_agrees_with_the_posterior.
    """
    values, vectors = np.linalg.eigh(gram)
    weights = np.sum((vectors.T @ y) ** 2, axis=1)
    spectra = np.maximum(values, 0.0) + np.array(RATIOS)[:, None] * np.mean(np.diagonal(gram))
    amplitudes = np.sum(weights / spectra, axis=1) / y.size
    log_det = np.sum(np.log(spectra), axis=1)
    profile = -0.5 * (y.shape[1] * log_det + y.size * (np.log(2 * np.pi * amplitudes) + 1))
    return np.asarray(profile)


def fit_by_evidence(kernel: Any, X: np.ndarray, y: np.ndarray) -> Fit:
    """Relative noise by the evidence of the first ``EVIDENCE_POINTS`` points, amplitude by all."""
    import gp

    m = EVIDENCE_POINTS
    ratio = RATIOS[int(np.argmax(evidence_profile(kernel(X[:m]), y[:m])))]
    posterior = gp.GP(kernel, noise_rel=ratio).condition(X, y)
    return Fit(posterior, float(np.sum(posterior.white**2)) / y.size)


def _gp(kernel: Any, train: Any, test: Any, y: np.ndarray, labels: np.ndarray) -> tuple[Any, Fit]:
    import gp

    fit = fit_by_evidence(kernel, train, y[train[:, 0]])
    prediction = fit.posterior.predict(test, noise=True)
    scaled = gp.Gaussian(prediction.mean, fit.amplitude * prediction.cov)
    loo = fit.posterior.loo()
    # the amplitude scales every variance: log N(r; 0, s^2 v) from the residuals
    variance = fit.amplitude * loo.var[:, None]
    expected = 0.5 * np.mean(loo.residual**2 / variance + np.log(2 * np.pi * variance))
    return _score(scaled, test, y, labels, float(expected)), fit


def _score(prediction: Any, test: Any, y: Any, labels: Any, expected: float = np.nan) -> Score:
    rows = test[:, 0]
    accuracy = np.mean(prediction.mean.argmax(1) == labels[rows])
    return Score(float(accuracy), -float(prediction.pointwise(y[rows]).mean()), expected)


def _ensemble(net: Indexed, fit: Fit, train: Any, test: Any, y: Any, labels: Any) -> Score:
    """Networks trained by gradient flow, stopped where the leave-one-out error is smallest.

    The outputs are multiplied by the amplitude of the Gaussian process at initialisation; the noise
    is the leave-one-out mean square error at the chosen time.
    """
    import gp

    top = float(np.max(np.sum(net.ntk(train), axis=1)))  # bounds the largest eigenvalue
    times = np.geomspace(10.0, 1e6, 26)
    ensemble = gp.Ensemble(net, learning_rate=1 / top).train(train, y[train[:, 0]], times=times)
    stop = ensemble.stop("loo")
    noise = stop.score[stop.index] / fit.amplitude
    prediction = ensemble.predict(test, at=stop.index, noise=noise)
    return _score(gp.Gaussian(prediction.mean, fit.amplitude * prediction.cov), test, y, labels)


def _majority(train: Any, test: Any, y: Any, labels: Any) -> Score:
    """The most frequent class of the training part; mean and variance of its targets."""
    rows, trained = test[:, 0], y[train[:, 0]]
    guess = np.bincount(labels[train[:, 0]], minlength=10).argmax()
    mean, variance = trained.mean(0), trained.var()
    nll = 0.5 * np.mean((y[rows] - mean) ** 2 / variance + np.log(2 * np.pi * variance))
    return Score(float(np.mean(labels[rows] == guess)), float(nll))


def _fold(problem: Problem, train: Any, test: Any) -> tuple[dict[str, Score], dict[str, float]]:
    """All methods on one fold, and the noise that the evidence chose."""
    y, labels, x = problem.targets, np.asarray(problem.data.y), np.asarray(problem.data.X)
    linear = x @ x.T / x.shape[1] + 1.0
    linear = Indexed(linear, linear)
    scores = {"majority class": _majority(train, test, y, labels)}
    scores["linear GP (ridge)"], _ = _gp(linear.nngp, train, test, y, labels)
    noise = {}
    for activation in SCALES:
        net = Indexed(*problem.grams[activation])
        scores[f"NNGP GP, {activation}"], fit = _gp(net.nngp, train, test, y, labels)
        scores[f"NTK ensemble, {activation}"] = _ensemble(net, fit, train, test, y, labels)
        noise[activation] = fit.amplitude * float(fit.posterior.info.noise)
    return scores, noise


def predictions(report: Report, problems: list[Problem], seed: int, folds: int) -> dict[str, float]:
    """Cross-validated accuracy and NLL of every method; returns the noise chosen per problem."""
    report.text(
        f"{folds}-fold cross-validation; ± is the standard error over folds (their training parts "
        "overlap, so it is somewhat too small). Targets are one-hot labels less 1/10, and NLL is "
        "the mean over test images and the ten outputs of -log N(target; mean, variance + noise), "
        "in nats per output; it may be negative. On the training part alone, the evidence chooses "
        f"noise (on {EVIDENCE_POINTS} images) and amplitude of the Gaussian processes, and the "
        "leave-one-out error the stopping "
        "time and noise of the ensembles, whose outputs have the amplitude of the process. The "
        "foreseen NLL is the leave-one-out one on the training part."
    )
    table: dict[str, dict[str, list[Score]]] = {}
    noises: dict[str, float] = {}
    for problem in problems:
        rows, chosen = np.arange(len(problem.data)), []
        scores: dict[str, list[Score]] = {}
        table[problem.title] = scores
        for train, test in problem_folds(problem, rows, folds, seed):
            found, noise = _fold(problem, train, test)
            chosen.append(noise["erf"])
            for method, score in found.items():
                scores.setdefault(method, []).append(score)
        noises[problem.title] = float(np.median(chosen))
        _write(report, problem, scores, noises[problem.title])
        report.claim(_foreseen(problem, scores, seed))
    report.figure(
        _plot(table), "accuracy_nll.png",
        "Test accuracy and NLL (lower is better), with standard errors over folds.",
    )  # fmt: skip
    return noises


def problem_folds(problem: Problem, rows: np.ndarray, folds: int, seed: int) -> list[tuple]:
    """Row numbers ``(n, 1)`` of the training and test parts."""
    from dataclasses import replace

    numbered = replace(problem.data, X=rows[:, None].astype(float), image_shape=None)
    return [
        (train.X.astype(int), test.X.astype(int)) for train, test in numbered.folds(folds, key=seed)
    ]


def _write(report: Report, problem: Problem, scores: dict[str, list[Score]], noise: float) -> None:
    rows = []
    for method, found in scores.items():
        cells = []
        for name, unit in (("accuracy", ""), ("nll", "nats per output"), ("expected", "")):
            values = np.array([getattr(score, name) for score in found])
            if np.isnan(values).any():
                cells.append("")
                continue
            mean = mean_with_error(values)
            label = f"{problem.title}, {method}: {'foreseen nll' if name == 'expected' else name}"
            cells.append(report.number(label, float(mean.mean), float(mean.stderr), unit))
        rows.append((method, *cells))
    report.text(f"### {problem.title}, {len(problem.data)} images")
    report.table(("method", "accuracy", "NLL", "foreseen NLL"), rows)
    best = _paired(scores)
    told = report.number(f"{problem.title}: noise variance chosen (erf)", noise)
    gain = report.number(f"{problem.title}: NLL gained over linear", *best, "nats per output")
    report.text(
        f"The relu process gains {gain} nats per output over the linear one (paired over folds, "
        f"z = {best[0] / best[1]:.1f}). Median noise variance of the erf process: {told}."
    )


def _paired(scores: dict[str, list[Score]]) -> tuple[float, float]:
    gains = [
        linear.nll - ours.nll
        for linear, ours in zip(scores["linear GP (ridge)"], scores["NNGP GP, relu"], strict=True)
    ]
    found = mean_with_error(np.array(gains))
    return float(found.mean), float(found.stderr)


def _foreseen(problem: Problem, scores: dict[str, list[Score]], seed: int) -> Any:
    """Leave-one-out on the training part against the test part, paired over folds."""
    methods = [method for method in scores if not np.isnan(scores[method][0].expected)]
    gaps = [[s.nll - s.expected for s in fold] for fold in zip(*map(scores.get, methods))]  # type: ignore[arg-type]  # noqa: B905
    return compare(
        np.zeros(len(methods)), lambda key, size: np.array(gaps), (len(gaps),), key=seed, z=3.0,
        name=f"demo/{problem.data.name}-foreseen-nll", source="[rasmussen2006], section 5.4.2",
        statement=f"On {problem.title}, the leave-one-out NLL on the training part foresees the "
        f"NLL on the test part ({', '.join(methods)}).",
        quantity="test NLL less foreseen NLL",
    )  # fmt: skip


def _plot(table: dict[str, dict[str, list[Score]]]) -> Any:
    import matplotlib.pyplot as plt

    with style():
        _, axes = plt.subplots(len(table), 2, figsize=(9.2, 5.6), sharey=True)
        for row, (title, scores) in zip(axes, table.items(), strict=True):
            for ax, name in zip(row, ("accuracy", "nll"), strict=True):
                values = np.array([[getattr(s, name) for s in found] for found in scores.values()])
                mean = mean_with_error(values, axis=1)
                colors = [COLORS[6], COLORS[4], COLORS[0], COLORS[1], COLORS[0], COLORS[1]]
                shown = slice(1, None)  # the majority class would set the scale
                places = np.arange(len(scores))[shown]
                for place, color in zip(places, colors[shown], strict=True):
                    ax.errorbar(mean.mean[place], place, xerr=mean.stderr[place], fmt="o",
                                color=color)  # fmt: skip
                    ax.annotate(f"{mean.mean[place]:.3f}", (mean.mean[place], place), fontsize=8,
                                xytext=(0, 6), textcoords="offset points", ha="center")  # fmt: skip
                ax.set_yticks(places, list(scores)[shown])
                ax.set_ylim(len(scores) - 0.5, 0.3)
                ax.margins(x=0.15)
                baseline = f"majority class: {mean.mean[0]:.3f}"
                ax.set_title(f"{title} ({baseline})", fontsize=9.5)
                ax.set_xlabel({"accuracy": "test accuracy", "nll": "NLL (nats per output)"}[name])
    return axes[0, 0]
