r"""The outcome of a claim: z-scores, a fitted exponent, a verdict, a table and a figure."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from deeplimits.errors import DomainError, ShapeError
from deeplimits.estimates import Estimate, Interval, as_samples, mean_with_error
from deeplimits.statistics import PowerLawFit, family_threshold, power_law_fit, z_score
from deeplimits.validate import finite

if TYPE_CHECKING:
    from deeplimits.claims import Claim

DECAYS = ("difference", "variance", "std")
LEVEL = 0.99


@dataclass(frozen=True, eq=False)
class Point:
    """Theory and experiment at one size; ``decay`` is the quantity whose exponent is fitted."""

    size: Any
    theory: np.ndarray
    mean: np.ndarray
    stderr: np.ndarray
    dof: float
    decay: float
    decay_error: float

    @cached_property
    def z(self) -> np.ndarray:
        """Score of every entry, with the shape of the theory."""
        return np.asarray(z_score(self.mean, self.stderr, self.theory))

    @property
    def worst(self) -> tuple[int, ...]:
        """Index of the entry with the largest ``|z|``."""
        return tuple(int(i) for i in np.unravel_index(np.abs(self.z).argmax(), self.z.shape))


@dataclass(frozen=True, eq=False)
class Comparison:
    """Theory against experiment at every size, with the verdict.

    ``problems`` holds a sentence for each criterion that failed; none means ``passed``.
    """

    claim: Claim
    points: tuple[Point, ...]
    fit: PowerLawFit | None
    max_z: float
    threshold: float
    problems: tuple[str, ...]
    key_data: tuple[int, ...]

    @property
    def passed(self) -> bool:
        """Whether every criterion of the claim is met."""
        return not self.problems

    @property
    def z(self) -> tuple[np.ndarray, ...]:
        """Scores of all entries, one array per size."""
        return tuple(point.z for point in self.points)

    @property
    def exponent(self) -> Interval | None:
        """Fitted exponent with its 99% interval; None where the decay is not resolved."""
        return None if self.fit is None else self.fit.exponent

    def summary(self) -> str:
        """One line: verdict, name, worst score, exponent."""
        parts = [f"{'PASS' if self.passed else 'FAIL'}  {self.claim.name}: {_z_text(self)}"]
        if self.claim.exponent is not None:
            parts.append(_exponent_text(self))
        return "; ".join(parts + list(self.problems))

    def table(self) -> str:
        """Markdown: one row per size (the entry with the largest ``|z|``), then the verdict."""
        claim = self.claim
        lines = [f"**{claim.name}**" + (f": {claim.statement}" if claim.statement else "")]
        details = [claim.quantity, claim.source]
        lines += ["; ".join(d for d in details if d)] if any(details) else []
        entries = self.points[0].theory.size
        column = "theory" if entries == 1 else f"theory (worst of {entries} entries)"
        lines += ["", f"| size | {column} | experiment | stderr | largest abs z | {claim.decays} |"]
        lines += ["|---:|---:|---:|---:|---:|---:|"]
        for p in self.points:
            i = p.worst
            lines.append(
                f"| {p.size:g} | {p.theory[i]:.6g} | {p.mean[i]:.6g} | {p.stderr[i]:.2g} "
                f"| {abs(p.z[i]):.2f} | {p.decay:.3g} ± {p.decay_error:.1g} |"
            )
        lines += ["", f"{_z_text(self)}; {_exponent_text(self)}."]
        lines += ["Passed." if self.passed else "Failed: " + " ".join(self.problems)]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists, numbers and strings for JSON; NaN and infinity become None."""
        claim, fit = self.claim, self.fit
        record: dict[str, Any] = {
            name: getattr(claim, name)
            for name in ("name", "source", "statement", "quantity", "cost", "decays", "z_at")
        }
        record |= {"passed": self.passed, "problems": list(self.problems)}
        record |= {"key": list(self.key_data), "max_z": self.max_z, "threshold": self.threshold}
        record["expected_exponent"] = claim.exponent
        record["exponent"] = None
        if fit is not None:
            p = fit.exponent
            record["exponent"] = {
                "value": p.value, "low": p.low, "high": p.high, "stderr": p.stderr,
                "level": p.level, "amplitude": fit.amplitude, "chi2": fit.chi2, "dof": fit.dof,
            }  # fmt: skip
        names = ("size", "theory", "mean", "stderr", "dof", "z", "decay", "decay_error")
        record["points"] = [{n: getattr(p, n) for n in names} for p in self.points]
        plain: dict[str, Any] = _plain(record)
        return plain

    def plot(self, ax: Any = None) -> Any:
        """Decay with the fitted line; else experiment against theory over size or over entries."""
        from deeplimits import plotting

        claim = self.claim
        sizes = np.array([p.size for p in self.points], float)
        if claim.exponent is not None:
            decay, bars = np.array([(p.decay, p.decay_error) for p in self.points]).T
            ax = plotting.plot_convergence(sizes, decay, bars, self.fit, ax=ax)
            if claim.decays != "difference":
                ax.set_ylabel(f"{claim.decays} of samples")
        elif self.points[0].theory.size == 1:
            values = [(p.theory.item(), p.mean.item(), p.stderr.item()) for p in self.points]
            ax = plotting.plot_theory_experiment(sizes, *np.array(values).T, ax=ax)
            ax.set(xlabel="size", ylabel=claim.quantity or "value")
        else:
            p = self.points[-1]
            theory, mean, stderr = (v.ravel() for v in (p.theory, p.mean, p.stderr))
            ax = plotting.plot_theory_experiment(theory, theory, mean, stderr, ax=ax)
            ax.set(xlabel="theory", ylabel=f"experiment at size {p.size:g}")
        ax.set_title(claim.name)
        return ax


def run(claim: Claim, key: Any) -> Comparison:
    """Run the experiment of a claim at every size and judge it (see :class:`Claim`)."""
    points = []
    for size, subkey in zip(claim.sizes, jax.random.split(key, len(claim.sizes)), strict=True):
        try:
            points.append(_point(claim, size, subkey))
        except Exception as error:
            error.add_note(f"while running claim {claim.name!r} at size {size}")
            raise
    fit = _fit(points)
    judged = points if claim.z_at == "all" else points[-1:]
    max_z = max(float(np.abs(p.z).max()) for p in judged)
    entries = sum(p.z.size for p in judged)
    threshold = family_threshold(claim.z or 4.0, entries, min(p.dof for p in judged))
    problems = []
    if claim.z is not None and not max_z <= threshold:
        problems.append(f"largest |z| is {max_z:.2f}, allowed {threshold:.2f}.")
    if claim.exponent is not None:
        problems += _exponent_problems(fit, claim.exponent, claim.exponent_tol)
    data = tuple(int(word) for word in np.asarray(jax.random.key_data(key)).ravel())
    return Comparison(claim, tuple(points), fit, max_z, threshold, tuple(problems), data)


def summary_table(comparisons: Iterable[Comparison]) -> str:
    """Markdown table of several comparisons, one row each."""
    lines = ["| claim | source | largest abs z (allowed) | exponent (expected) | passed |"]
    lines += ["|---|---|---|---|---|"]
    for c in comparisons:
        z = f"{c.max_z:.2f} ({c.threshold:.2f})" if c.claim.z is not None else "not judged"
        expected = c.claim.exponent
        p = f"{c.exponent or 'none'} ({expected:g})" if expected is not None else "not judged"
        verdict = "yes" if c.passed else "**no**"
        source = c.claim.source.replace("|", r"\|")
        lines.append(f"| {c.claim.name} | {source} | {z} | {p} | {verdict} |")
    return "\n".join(lines)


def _point(claim: Claim, size: Any, key: Any) -> Point:
    """Theory and experiment at one size."""
    theory = np.asarray(_theory_at(claim.theory, size), np.float64)
    finite(theory, "theory")
    result = claim.experiment(key, size)
    samples = None
    if hasattr(result, "stderr"):
        dof = float(np.min(getattr(result, "dof", math.inf)))
        estimate = Estimate(np.asarray(result.mean, float), np.asarray(result.stderr, float), dof)
        finite(estimate.mean, "the mean of the experiment")
        finite(estimate.stderr, "the standard error of the experiment")
    else:
        samples = as_samples(result, "samples of the experiment")
        estimate = mean_with_error(samples)
    mean, stderr = np.asarray(estimate.mean), np.asarray(estimate.stderr)
    if mean.shape != theory.shape or stderr.shape != theory.shape or theory.size == 0:
        raise ShapeError(
            f"theory has shape {theory.shape}, but the experiment has mean {mean.shape} and "
            f"standard error {stderr.shape}. Samples come as (n_samples, *shape of the theory)."
        )
    if claim.decays == "difference":
        decay = _difference(np.asarray(mean - theory), stderr)
    elif samples is None:
        raise DomainError(f"decays={claim.decays!r} needs an experiment that returns samples.")
    else:
        decay = _spread(samples, claim.decays)
    return Point(size, theory, mean, stderr, float(estimate.dof), *decay)


def _theory_at(theory: Any, size: Any) -> Any:
    """The theory value: given, from ``theory()``, or from ``theory(size)`` if it needs a size."""
    if not callable(theory):
        return theory
    parameters = inspect.signature(theory).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = any(p.kind in kinds and p.default is p.empty for p in parameters)
    return theory(size) if needed else theory()


def _difference(difference: np.ndarray, stderr: np.ndarray) -> tuple[float, float]:
    r"""Root mean square of the true difference and its error.

    E[d^2] = true^2 + stderr^2, so the noise is subtracted before the root: otherwise the decay of
    the difference would level off at the noise and the exponent come out too shallow. Entries may
    be correlated; the error takes them as fully so, which is the larger value.
    """
    square = float(np.mean(difference**2 - stderr**2))
    error = float(np.mean(np.sqrt(4 * difference**2 * stderr**2 + 2 * stderr**4)))
    if square <= 0:
        return 0.0, math.sqrt(error)
    return math.sqrt(square), error / (2 * math.sqrt(square))


def _spread(samples: np.ndarray, decays: str) -> tuple[float, float]:
    """Variance (or its root) of the samples, averaged over entries, with its standard error.

    The entries are averaged within each sample first, so their correlation is in the error.
    """
    n = len(samples)
    squares = ((samples - samples.mean(0)) ** 2).reshape(n, -1).mean(1)
    variance = float(squares.sum() / (n - 1))
    error = float(squares.std(ddof=1)) / math.sqrt(n)
    if decays == "variance" or variance == 0:
        return variance, error
    return math.sqrt(variance), error / (2 * math.sqrt(variance))


def _fit(points: list[Point]) -> PowerLawFit | None:
    """Power law through the sizes at which the decay exceeds twice its error."""
    kept = [p for p in points if p.decay > 2 * p.decay_error]
    sizes, values = [p.size for p in kept], [p.decay for p in kept]
    errors = [p.decay_error for p in kept]
    if len(kept) >= 2 and min(errors) > 0:
        return power_law_fit(sizes, values, errors, LEVEL)
    if len(kept) >= 3:
        return power_law_fit(sizes, values, level=LEVEL)
    return None


def _exponent_problems(fit: PowerLawFit | None, expected: float, tol: float) -> list[str]:
    """Sentences on what is wrong with a fitted exponent."""
    if fit is None:
        return ["The decay is not resolved above the noise at enough sizes to fit an exponent."]
    p = fit.exponent
    half = (p.high - p.low) / 2
    room = max(abs(expected) / 2, tol)
    if half > room:
        return [f"The exponent {p} is too uncertain: half-width {half:.2f}, at most {room:.2f}."]
    if not p.low - tol <= expected <= p.high + tol:
        return [f"The exponent {p} is not {expected:g} (tolerance {tol:g})."]
    return []


def _z_text(c: Comparison) -> str:
    """The worst score, and the bound if it is judged."""
    where = "at any size" if c.claim.z_at == "all" else "at the largest size"
    bound = f"allowed {c.threshold:.2f}" if c.claim.z is not None else "not judged"
    return f"largest |z| {where} {c.max_z:.2f} ({bound})"


def _exponent_text(c: Comparison) -> str:
    """The fitted exponent, and the expected one if it is judged."""
    fitted = "not resolved" if c.exponent is None else str(c.exponent)
    expected = c.claim.exponent
    judged = "not judged" if expected is None else f"expected {expected:g}"
    return f"exponent of the {c.claim.decays} {fitted} ({judged})"


def _plain(value: Any) -> Any:
    """Nested lists, dicts, numbers and strings that JSON can hold."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
