r"""Gram matrices of the limits: heat maps, spectra, and finite networks on the same images."""

from __future__ import annotations

from typing import Any

import numpy as np

from deeplimits.claims import compare
from deeplimits.demo_data import SCALES, Problem, network
from deeplimits.demo_report import Report
from deeplimits.estimates import Estimate
from deeplimits.plotting import COLORS, plot_spectrum, style
from deeplimits.statistics import power_law_fit

KINDS = ("NNGP", "NTK")
#: Grams that are held against finite networks; compiling those takes seconds each.
CHECKED = (("digits", "relu"), ("fashion_1000", "erf"))


def grams(report: Report, problems: list[Problem], seed: int, fast: bool) -> None:
    """Gram matrices of all images, drawn by class and held against finite networks."""
    import ntk

    weights = ", ".join(f"{a}: W_std {w:.4g}, b_std {b:g}" for a, (w, b) in SCALES.items())
    report.text(
        "Closed-form kernels of networks with three hidden layers "
        f"({weights}) in float64. Images are scaled to the sphere of radius sqrt(d)."
    )
    for problem in problems:
        for activation in SCALES:
            both = ntk.gram(
                network(activation), problem.data.X, get=("nngp", "ntk"), progress=False
            )
            problem.grams[activation] = (np.asarray(both.nngp), np.asarray(both.ntk))
            if (problem.data.name, activation) in CHECKED[: 1 if fast else None]:
                report.claim(_against_finite(problem, activation, seed, fast))
        report.figure(
            _heat_maps(problem),
            f"grams_{problem.data.name}.png",
            f"Correlations k(x, x')/sqrt(k(x, x) k(x', x')) of the {len(problem.data)} "
            f"{problem.title} images, in order of class (white lines).",
        )


def _against_finite(problem: Problem, activation: str, seed: int, fast: bool) -> Any:
    """The tangent kernel of five images against that of finite networks."""
    import ntk

    classes = np.arange(5)
    chosen = np.array([np.flatnonzero(problem.data.y == c)[0] for c in classes])
    upper = np.triu_indices(len(chosen))
    samples, width = (16, 64) if fast else (256, 256)

    def experiment(key: Any, width: int) -> Estimate:
        found = ntk.monte_carlo_kernel(
            network(activation, width), key, problem.data.X[chosen].astype(np.float32),
            n_samples=samples, batch_size=4,
        )  # fmt: skip
        return Estimate(found.mean[upper], found.stderr[upper], samples - 1)

    return compare(
        problem.grams[activation][1][np.ix_(chosen, chosen)][upper],
        experiment,
        (width,),
        key=seed,
        z=4.0,
        name=f"demo/{problem.data.name}-{activation}-ntk",
        source="[jacot2018]",
        statement=f"The tangent kernel of the depth-3 {activation} network on five "
        f"{problem.title} images is the mean over finite networks ({samples} of width {width}).",
        quantity="tangent kernel",
    )


def _heat_maps(problem: Problem) -> Any:
    import matplotlib.pyplot as plt

    labels = np.asarray(problem.data.y)
    order = np.argsort(labels, kind="stable")
    edges = np.cumsum(np.bincount(labels, minlength=10))
    middles = edges - np.bincount(labels, minlength=10) / 2
    names = [str(c) for c in range(10)] if problem.data.name == "digits" else [
        n.split("/")[0] for n in problem.data.target_names
    ]  # fmt: skip
    with style():
        figure, axes = plt.subplots(2, 2, figsize=(8.4, 7.4), sharex=True, sharey=True)
        for row, (activation, pair) in zip(axes, problem.grams.items(), strict=True):
            for ax, K, kind in zip(row, pair, KINDS, strict=True):
                scale = np.sqrt(np.diagonal(K))
                correlation = (K / scale[:, None] / scale)[np.ix_(order, order)]
                image = ax.imshow(
                    correlation, vmin=np.quantile(correlation, 0.01), vmax=1.0,
                    interpolation="antialiased",
                )  # fmt: skip
                for edge in edges[:-1]:
                    ax.axhline(edge - 0.5, color="white", linewidth=0.5)
                    ax.axvline(edge - 0.5, color="white", linewidth=0.5)
                ax.grid(False)
                ax.set_title(f"{kind}, {activation}")
                ax.set_xticks(middles, names, rotation=0 if len(names[0]) == 1 else 90)
                ax.set_yticks(middles, names)
                ax.tick_params(length=0)
                figure.colorbar(image, ax=ax, shrink=0.85)
        figure.suptitle(f"{problem.title}: depth-3 kernels by class", x=0.02, ha="left")
    return axes[0, 0]


def spectra(report: Report, problems: list[Problem]) -> None:
    """Eigenvalues of the Gram matrices, with the power law of their bulk."""
    import matplotlib.pyplot as plt

    rows: list[tuple[Any, ...]] = []
    with style():
        _, axes = plt.subplots(1, len(problems), figsize=(9.6, 3.9), sharey=True)
        for ax, problem in zip(axes, problems, strict=True):
            curves = [(a, k, K) for a, pair in problem.grams.items()
                      for k, K in zip(KINDS, pair, strict=True)]  # fmt: skip
            for color, (activation, kind, K) in zip(COLORS, curves, strict=False):
                values = np.linalg.eigvalsh(K)[::-1] / np.trace(K)
                label = f"{kind}, {activation}"
                plot_spectrum(
                    values, ax=ax, label=label, color=color, marker="", lw=1.6,
                    ls="-" if kind == "NTK" else "--",
                )  # fmt: skip
                rows.append(_spectrum_row(report, f"{problem.title}, {label}", values))
            ax.set(title=f"{problem.title} ({len(problem.data)} images)", xlabel="rank")
            ax.set_ylabel("eigenvalue / trace" if ax is axes[0] else "")
            ax.legend()
    header = ("Gram", "largest", "participation ratio", "condition number", "slope")
    report.table(header, rows)
    report.text(
        "Eigenvalues as fractions of the trace; participation ratio = 1/sum of squared fractions; "
        "slope = exponent of the eigenvalue against rank between rank 10 and a third of the "
        "images, with the standard error of an unweighted fit to 12 logarithmically spaced ranks."
    )
    report.figure(axes[0], "spectra.png", "Spectra of the Gram matrices.")


def _spectrum_row(report: Report, name: str, values: np.ndarray) -> tuple[Any, ...]:
    ranks = np.unique(np.geomspace(10, len(values) / 3, 12).round().astype(int))
    slope = power_law_fit(ranks, values[ranks - 1]).exponent
    return (
        name,
        report.number(f"{name}: largest eigenvalue / trace", values[0]),
        report.number(f"{name}: participation ratio", 1 / float(np.sum(values**2))),
        report.number(f"{name}: condition number", values[0] / values[-1]),
        report.number(f"{name}: slope of the spectrum", slope.value, slope.stderr),
    )
