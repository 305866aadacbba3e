r"""The evidence of the data as a function of the scales of weights and biases."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from deeplimits.demo_data import DEPTH, Problem
from deeplimits.demo_report import Report
from deeplimits.plotting import plot_contour, style


def evidence(report: Report, problems: list[Problem], noises: dict[str, float], fast: bool) -> None:
    """Contours of the log evidence over (W_std, b_std) for the erf network."""
    import matplotlib.pyplot as plt

    n = 60 if fast else 400
    W_points, b_points = (4, 3) if fast else (17, 11)
    grid = {"W_std": np.linspace(0.6, 2.6, W_points), "b_std": np.linspace(0.0, 3.0, b_points)}
    with style():
        _, axes = plt.subplots(1, len(problems), figsize=(10.4, 4.0))
        for ax, problem in zip(axes, problems, strict=True):
            noise = noises[problem.title]
            table = _grid(problem, n, noise, grid)
            _draw(ax, table, f"{problem.title} ({min(n, len(problem.data))} images)")
            _report_best(report, problem, table, noise)
    report.text(
        f"Depth-{DEPTH} erf networks; W_std and b_std are those of every layer. The noise variance "
        "is the one that the evidence chose above. The dashed line is critical initialisation: "
        "there a small difference between two inputs neither shrinks nor grows with depth (order "
        "to its left, chaos to its right). Along the ridge the evidence is nearly flat."
    )
    report.figure(
        axes[0], "evidence.png",
        "Log evidence per target (nats, lowest values cut off), its optimum on the grid, and the "
        "line of critical initialisation.",
    )  # fmt: skip


def _grid(problem: Problem, n: int, noise: float, grid: dict[str, np.ndarray]) -> Any:
    """Log evidence per target on ``n`` random images."""
    import jax

    import gp
    import ntk

    rows = np.asarray(jax.random.permutation(jax.random.key(1), len(problem.data)))[:n]
    x, y = np.asarray(problem.data.X)[rows], problem.targets[rows]

    # x is an argument: the compiler would evaluate what it can of a kernel of constants
    @jax.jit
    def gram(x: Any, W_std: Any, b_std: Any) -> Any:
        return ntk.mlp(DEPTH, "erf", W_std=W_std, b_std=b_std).nngp(x)

    table = gp.log_evidence_grid(partial(gram, x), y, noise=noise, **grid)
    return table.log_evidence / y.size


def critical_line(variances: Any) -> tuple[np.ndarray, np.ndarray]:
    r"""Critical (W_std, b_std) of erf networks, by the variance q of the units as parameter.

    .. math:: W_{std}^2\, E[\varphi'(z)^2] = 1, \qquad q = W_{std}^2\, E[\varphi(z)^2] + b_{std}^2,
              \qquad z \sim N(0, q)

    Source: Poole et al. (2016), Schoenholz et al. (2017). No iteration is needed: q gives both.
    """
    import ntk

    dual = ntk.dual("erf")
    q = np.asarray(variances, np.float64)
    slope, square = (np.asarray(f(q, q, q)) for f in (dual.Kdot, dual.K))
    bias = q - square / slope
    kept = bias >= 0
    return np.sqrt(1 / slope[kept]), np.sqrt(bias[kept])


def _draw(ax: Any, table: Any, title: str) -> None:
    values = table.transpose("b_std", "W_std")
    top = float(values.max())
    levels = np.ceil(top / 0.04) * 0.04 - 0.04 * np.arange(16)[::-1]
    plot_contour(values.clip(min=levels[0]), ax=ax, levels=levels)
    ax.figure.axes[-1].set_ylabel("log evidence per target (nats)")
    weight, bias = critical_line(np.geomspace(1e-4, 40.0, 300))
    inside = (weight <= table.W_std.values[-1]) & (bias <= table.b_std.values[-1])
    ax.plot(weight[inside], bias[inside], "w--", linewidth=1.4, label="critical line")
    best = table.where(table == table.max(), drop=True)
    ax.plot(best.W_std, best.b_std, "*", color="#D55E00", markersize=13,
            markeredgecolor="white", label="optimum", linestyle="none")  # fmt: skip
    legend = ax.legend(loc="lower right")
    for text in legend.get_texts():
        text.set_color("white")
    ax.set(title=title, xlabel="W_std", ylabel="b_std")


def _report_best(report: Report, problem: Problem, table: Any, noise: float) -> None:
    best = table.where(table == table.max(), drop=True)
    numbers = {
        "W_std": float(best.W_std[0]),
        "b_std": float(best.b_std[0]),
        "log evidence per target": float(table.max()),
    }
    told = [
        f"{name} = {report.number(f'{problem.title}: optimal {name}', value)}"
        for name, value in numbers.items()
    ]
    edge = any(float(best[axis][0]) in table[axis].values[[0, -1]] for axis in table.dims)
    report.text(
        f"{problem.title}: optimum {', '.join(told)} nats{' (at the edge of the grid)' * edge}; "
        f"noise variance {noise:.4g}."
    )
