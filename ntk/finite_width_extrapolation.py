r"""Measured tensors of order 1/n: extrapolated to infinite width, and compared with theory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.stats

from deeplimits.errors import DomainError, ShapeError
from deeplimits.estimates import Estimate, Interval
from deeplimits.pytrees import register_dataclass
from deeplimits.statistics import family_threshold, z_score
from deeplimits.validate import integer, number
from ntk.finite_width_sampling import SampledFiniteWidth, measured_tensor


@register_dataclass
@dataclass(frozen=True)
class ExtrapolatedFiniteWidth:
    """Tensors at infinite width: ``limit["V"].value``, ``.low``, ``.high``, ``.stderr``.

    Attributes:
        tensors: name -> :class:`deeplimits.estimates.Interval`.
        slopes: name -> coefficient of 1/n, an Estimate: the correction beyond the theory.
        dof: degrees of freedom behind the standard errors.
    """

    tensors: dict[str, Interval]
    slopes: dict[str, Estimate]
    dof: float = field(default=math.inf)

    def __getitem__(self, name: str) -> Interval:
        """The interval of one tensor."""
        return measured_tensor(self.tensors, name)


def extrapolate_width(
    ensembles: Sequence[SampledFiniteWidth], *, degree: int | None = None, level: float = 0.99
) -> ExtrapolatedFiniteWidth:
    r"""Limit of infinite width of measured tensors, component by component, with its interval.

    .. math:: X(n) = X_\infty + X_1/n + \dots + X_d/n^d

    by least squares with weights 1/stderr^2; with as many ensembles as coefficients this is
    Richardson's rule, :math:`2 X(2n) - X(n)` for two. The interval holds the sampling error only: a
    degree too low leaves a bias of order 1/n^(d+1), which a third width makes visible.

    Args:
        ensembles: from :func:`sample_finite_width`, of different sizes and one shape (all widths in
            proportion, same depth and inputs).
        degree: d, default one less than the number of ensembles.
        level: of the intervals, in (0, 1).

    Returns:
        :class:`ExtrapolatedFiniteWidth`.

    Raises:
        DomainError: fewer than two sizes, shapes that are not in proportion, or a bad degree.

    Source: [roberts2022], the expansion in 1/n; L. F. Richardson (1911) for the rule.
    Check: ``tests/ntk/test_finite_width_sampling.py``.
    """
    number(level, "level", above=0, below=1)
    count = len(ensembles)
    shapes = {tuple(np.round(np.divide(e.widths, e.n), 12)) for e in ensembles}
    if count < 2 or len({e.n for e in ensembles}) < count or len(shapes) > 1:
        raise DomainError(
            "ensembles must have two or more different sizes with widths in proportion, got widths "
            f"{[list(e.widths) for e in ensembles]}."
        )
    degree = count - 1 if degree is None else integer(degree, "degree", at_least=1)
    if degree >= count:
        raise DomainError(f"degree must be < the number of ensembles = {count}, got {degree}.")
    design = np.array([[float(e.n) ** -k for k in range(degree + 1)] for e in ensembles])
    dof = float(min(np.min(t.dof) for e in ensembles for t in e.tensors.values()))
    quantile = float(scipy.stats.t.ppf((1 + level) / 2, dof))
    tensors, slopes = {}, {}
    for name in ensembles[0].tensors:
        means = np.stack([e[name].mean for e in ensembles])
        errors = np.stack([e[name].stderr for e in ensembles])
        value, error = _least_squares(design, means, errors)
        half = quantile * error[0]
        tensors[name] = Interval(value[0], value[0] - half, value[0] + half, error[0], level)
        slopes[name] = Estimate(value[1], error[1], dof)
    return ExtrapolatedFiniteWidth(tensors, slopes, dof)


def _least_squares(
    design: np.ndarray, means: np.ndarray, errors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients and their standard errors for every component; exact data get equal weights."""
    shape = means.shape[1:]
    y, e = means.reshape(len(means), -1), errors.reshape(len(means), -1)
    weight = 1 / np.where(e > 0, e, 1.0) if np.any(e > 0) else np.ones_like(e)
    solve = np.linalg.pinv(weight.T[:, :, None] * design[None])  # (components, coefficients, sizes)
    solve = solve * weight.T[:, None, :]
    value = np.einsum("cks,sc->kc", solve, y)
    error = np.sqrt(np.einsum("cks,sc->kc", solve**2, e**2))
    return value.reshape(-1, *shape), error.reshape(-1, *shape)


@dataclass(frozen=True)
class WidthComparison:
    """Theory against measured tensors: one row per tensor.

    Attributes:
        z: name -> scores, in the shape of the tensor.
        threshold: name -> bound on the largest ``|z|`` of the distinct components (Sidak).
        relative: name -> largest ``|difference|`` over the largest ``|theory|``.
        resolved: name -> part of the components whose theory exceeds 3 standard errors.
    """

    z: dict[str, np.ndarray]
    threshold: dict[str, float]
    relative: dict[str, float]
    resolved: dict[str, float]

    @property
    def passed(self) -> bool:
        """Whether every tensor stays below its threshold."""
        return all(np.abs(z).max() < self.threshold[name] for name, z in self.z.items())

    def table(self) -> str:
        """Markdown, one row per tensor."""
        lines = [
            "| tensor | components | resolved | largest abs z | allowed | largest difference |"
        ]
        lines += ["|---|---:|---:|---:|---:|---:|"]
        for name, z in self.z.items():
            lines.append(
                f"| {name} | {z.size} | {self.resolved[name]:.0%} | {np.abs(z).max():.2f} | "
                f"{self.threshold[name]:.2f} | {100 * self.relative[name]:.2f} % |"
            )
        return "\n".join(lines)


def compare_finite_width(measured: Any, theory: Any, *, z: float = 3.0) -> WidthComparison:
    """Scores of measured tensors against the theory of order 1/n.

    Args:
        measured: :class:`ExtrapolatedFiniteWidth`; or :class:`SampledFiniteWidth` with a theory
            that holds at its width.
        theory: anything with attributes ``G1``, ``V`` and so on in the shapes of ``measured``, such
            as the record of :func:`ntk.finite_width`; tensors that are None or missing are skipped.
        z: bound for one component; the bound on the largest is widened for their number and for
            standard errors known from few groups (:func:`deeplimits.statistics.family_threshold`).

    Raises:
        ShapeError: a tensor in another shape.
        DomainError: no tensor in common.

    Source: derived here. Check: ``tests/ntk/test_finite_width_sampling.py``.
    """
    number(z, "z", above=0)
    found = WidthComparison({}, {}, {}, {})
    for name, measurement in measured.tensors.items():
        expected = getattr(theory, name, None)
        if expected is None:
            continue
        value = np.asarray(getattr(measurement, "value", getattr(measurement, "mean", None)))
        expected, error = np.asarray(expected, np.float64), np.asarray(measurement.stderr)
        if expected.shape != value.shape:
            raise ShapeError(f"{name}: theory {expected.shape}, measurement {value.shape}.")
        dof = float(np.min(getattr(measurement, "dof", getattr(measured, "dof", math.inf))))
        scale = float(np.abs(expected).max()) or 1.0
        found.z[name] = np.asarray(z_score(value, error, expected))
        found.threshold[name] = family_threshold(z, value.size, dof)
        found.relative[name] = float(np.abs(value - expected).max()) / scale
        found.resolved[name] = float(np.mean(np.abs(expected) > 3 * error))
    if not found.z:
        raise DomainError(f"theory has none of the tensors {', '.join(measured.tensors)}.")
    return found
