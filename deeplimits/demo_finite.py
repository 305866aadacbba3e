r"""Finite networks: the scatter of the tangent kernel, and ensembles during training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from deeplimits.comparison import Comparison
from deeplimits.demo_report import Report
from deeplimits.plotting import COLORS, plot_convergence, style


def widths(report: Report, seed: int, fast: bool) -> None:
    """Variance and mean of the tangent kernel against the width."""
    from deeplimits.claims import get

    claim = get("ntk/kernel-variance-width")
    if fast:
        claim = replace(claim, sizes=(32, 128))
    report.text(
        "ReLU networks with two hidden layers, drawn in float32. The fit uses all widths, each "
        "point weighted by its standard error."
    )
    comparison = report.claim(claim.run(key=seed))
    report.figure(
        _plot_widths(comparison), "finite_width.png",
        "Left: variance of the tangent kernel over initialisations, averaged over the pairs of 6 "
        "digits. Right: its mean over the closed form, with standard errors of the mean.",
    )  # fmt: skip
    _report_claim_numbers(report, comparison)


def _plot_widths(comparison: Comparison) -> Any:
    import matplotlib.pyplot as plt

    points = comparison.points
    sizes = np.array([p.size for p in points], float)
    decay, bars = np.array([(p.decay, p.decay_error) for p in points]).T
    with style():
        _, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.9))
        plot_convergence(sizes, decay, bars, comparison.fit, ax=left, label="finite networks")
        middle = len(sizes) // 2
        left.plot(sizes, decay[middle] * sizes[middle] / sizes, ":", color=COLORS[-1],
                  label="theory: slope -1")  # fmt: skip
        left.set(title="scatter", xlabel="width", ylabel="variance of the tangent kernel")
        left.legend()
        entries = points[0].theory.size
        for entry in range(entries):
            ratio = [p.mean[entry] / p.theory[entry] for p in points]
            error = [p.stderr[entry] / p.theory[entry] for p in points]
            shifted = sizes * np.exp(0.35 * (entry / (entries - 1) - 0.5))
            right.errorbar(shifted, ratio, error, fmt=".", color=COLORS[0], alpha=0.5,
                           markersize=3, capsize=0, linewidth=0.8)  # fmt: skip
        right.axhline(1.0, color=COLORS[-1], linewidth=1.2)
        right.set(
            xscale="log", title=f"mean ({entries} pairs)", xlabel="width",
            ylabel="mean of networks / closed form",
        )  # fmt: skip
        right.set_xticks(sizes, [f"{s:g}" for s in sizes])
        right.set_xticks([], minor=True)
    return left


def _report_claim_numbers(report: Report, comparison: Comparison) -> None:
    name = comparison.claim.name
    if comparison.exponent is not None:
        fitted = comparison.exponent
        report.number("exponent of the variance", fitted.value, fitted.stderr, claim=name)
    for p in comparison.points:
        report.number(f"variance at width {p.size}", p.decay, p.decay_error, claim=name)


def training(report: Report, seed: int, fast: bool) -> None:
    """Finite networks during gradient descent against the predicted mean and variance."""
    from deeplimits.claims import get
    from gp.claims import STEPS, moments, trained_outputs, trained_theory

    claim, networks = get("gp/trained-ensemble"), 256
    if fast:
        networks = 32
        claim = replace(
            claim, sizes=(64,), experiment=lambda key, w: moments(trained_outputs(key, w, networks))
        )
    comparison = report.claim(claim.run(key=seed))
    point, steps = comparison.points[-1], np.array(STEPS)
    report.text(
        f"{networks} networks with two hidden layers of {point.size} erf units, 12 digits (3 "
        f"against 8), full-batch gradient descent in float32 with learning rate "
        f"{trained_theory().rate:.4g}, half the largest stable one; the theory has the same steps. "
        "Entries are correlated. Finite networks differ from the limit by terms of order 1/width."
    )
    report.table(
        ("step", *[f"{q}, digit {i}" for q in ("z of mean", "z of variance") for i in range(4)]),
        [(step, *[f"{z:.2f}" for z in point.z[:, t].ravel()]) for t, step in enumerate(steps)],
    )
    ratio = point.mean[1] / point.theory[1]
    for label, value in (("smallest", ratio.min()), ("largest", ratio.max())):
        report.number(f"{label} variance over theory", value, claim=claim.name)
    for label, z in zip(("mean", "variance"), point.z, strict=True):
        report.number(f"largest |z| of the {label}", np.abs(z).max(), claim=claim.name)
    report.text(f"Variance over theory between {ratio.min():.3f} and {ratio.max():.3f}.")
    report.figure(
        _plot_training(point, steps), "trained_ensemble.png",
        "Outputs at four test digits during training: predicted mean (line) and standard deviation "
        "(band); means of the networks with standard errors (points) and their mean plus and minus "
        "one standard deviation (ticks).",
    )  # fmt: skip


def _plot_training(point: Any, steps: np.ndarray) -> Any:
    import matplotlib.pyplot as plt

    x = np.arange(len(steps))  # steps double, so this axis is logarithmic with a place for 0
    with style():
        figure, axes = plt.subplots(1, 4, figsize=(12.0, 3.5), sharey=True)
        for digit, ax in enumerate(axes):
            mean, variance = point.theory[:, :, digit]
            low, high = mean - np.sqrt(variance), mean + np.sqrt(variance)
            ax.fill_between(x, low, high, color=COLORS[0], alpha=0.2, linewidth=0,
                            label="theory: ± standard deviation")  # fmt: skip
            ax.plot(x, mean, color=COLORS[0], label="theory: mean")
            found, spread = point.mean[0, :, digit], np.sqrt(point.mean[1, :, digit])
            ax.errorbar(x, found, point.stderr[0, :, digit], fmt="o", color=COLORS[1],
                        markersize=4, label="networks: mean")  # fmt: skip
            for sign in (-1, 1):
                ax.plot(x, found + sign * spread, "_", color=COLORS[1], markersize=9,
                        label="networks: ± standard deviation" if sign > 0 else None)  # fmt: skip
            ax.set_xticks(x, [str(s) for s in steps])
            ax.set(title=f"test digit {digit}", xlabel="step of gradient descent")
        axes[0].set_ylabel("output")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return axes[0]
