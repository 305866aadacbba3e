r"""What the demonstration writes down: numbers, claims, times; as Markdown and as JSON."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from deeplimits import __version__
from deeplimits.comparison import Comparison, summary_table


@dataclass
class Report:
    """Collects the results of the steps in ``out`` as they come.

    Attributes:
        out: folder for figures and reports.
        total: number of steps, for the progress lines.
        blocks: paragraphs of the Markdown report.
        numbers: every number: step, name, value, standard error, unit, claim (or None).
        comparisons: the outcomes of the claims, in order.
        steps: name, wall and processor seconds of each step.
    """

    out: Path
    total: int
    blocks: list[str] = field(default_factory=list)
    numbers: list[dict[str, Any]] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step, announce it before and after, and open its section."""
        print(f"[{len(self.steps) + 1}/{self.total}] {name} ...", flush=True)
        self.blocks.append(f"## {name}")
        wall, processor = time.perf_counter(), time.process_time()
        before = len(self.comparisons)
        yield
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        self.steps.append({"name": name, "wall_s": round(wall, 2), "cpu_s": round(processor, 2)})
        print(f"      {wall:.1f} s ({processor:.1f} s of processor time)", flush=True)
        for comparison in self.comparisons[before:]:
            print(f"      {comparison.summary()}", flush=True)

    def text(self, block: str) -> None:
        """Add a paragraph or a table."""
        self.blocks.append(block)

    def table(self, header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
        """Add a Markdown table; the first column is text, the others are aligned right."""
        lines = [header, ("---", *["---:"] * (len(header) - 1)), *rows]
        self.text("\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines))

    def number(
        self, name: str, value: float, stderr: float | None = None, unit: str = "",
        claim: str | None = None,
    ) -> str:  # fmt: skip
        """Record a number under the current step; returns it as text with its error."""
        step = [b for b in self.blocks if b.startswith("## ")][-1].removeprefix("## ")
        record = {"step": step, "name": name, "value": float(value), "unit": unit, "claim": claim}
        record["stderr"] = None if stderr is None else float(stderr)
        self.numbers.append(record)
        return f"{value:.4g}" if stderr is None else with_error(value, stderr)

    def claim(self, comparison: Comparison) -> Comparison:
        """Record the outcome of a claim with its table."""
        self.comparisons.append(comparison)
        self.text(comparison.table())
        return comparison

    def figure(self, axes: Any, name: str, caption: str) -> None:
        """Write a figure and refer to it."""
        from deeplimits.plotting import save

        save(axes, self.out / name)
        self.text(f"![{caption}]({name})\n\n{caption}")

    @property
    def failed(self) -> list[str]:
        """Names of the claims that failed."""
        return [c.claim.name for c in self.comparisons if not c.passed]

    def write(self, *, fast: bool, seed: int) -> None:
        """Write ``report.md`` and ``report.json``."""
        names = ("jax", "jaxlib", "numpy", "scipy", "matplotlib")
        versions = {"deeplimits": __version__, "python": platform.python_version()}
        versions |= {name: version(name) for name in names}
        passed = len(self.comparisons) - len(self.failed)
        record = {
            "passed": not self.failed,
            "failed": self.failed,
            "fast": fast,
            "seed": seed,
            "versions": versions,
            "steps": self.steps,
            "numbers": [_plain(number) for number in self.numbers],
            "claims": [comparison.to_dict() for comparison in self.comparisons],
        }
        text = json.dumps(record, indent=1, allow_nan=False) + "\n"
        (self.out / "report.json").write_text(text, encoding="utf-8")
        head = [
            "# deeplimits: exact limits of deep networks on real images",
            f"{passed} of {len(self.comparisons)} claims passed."
            + (f" Failed: {', '.join(self.failed)}." if self.failed else "")
            + (" Reduced sizes (fast mode)." if fast else ""),
            summary_table(self.comparisons),
            "A claim compares a theory with an experiment: |z| is the largest distance between "
            "them in standard errors, against a bound for that many comparisons; an exponent is "
            "fitted to the sizes and given with its 99% interval. Numbers without a claim describe "
            "the data. `deeplimits check` runs the other claims of the packages.",
        ]
        tail = ["## Time and versions", _times(self.steps), _versions(versions, seed)]
        blocks = [*head, *self.blocks, *tail]
        (self.out / "report.md").write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


def with_error(value: float, stderr: float) -> str:
    """``value ± stderr`` with two digits of the error."""
    if not stderr > 0:
        return f"{value:.4g}"
    digits = max(0, 1 - math.floor(math.log10(stderr)))
    return f"{value:.{digits}f} ± {stderr:.{digits}f}"


def _plain(number: dict[str, Any]) -> dict[str, Any]:
    return {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in number.items()
    }


def _times(steps: list[dict[str, Any]]) -> str:
    lines = ["| step | wall (s) | processor (s) |", "|---|---:|---:|"]
    lines += [f"| {s['name']} | {s['wall_s']:.1f} | {s['cpu_s']:.1f} |" for s in steps]
    wall, processor = (sum(s[k] for s in steps) for k in ("wall_s", "cpu_s"))
    return "\n".join([*lines, f"| together | {wall:.1f} | {processor:.1f} |"])


def _versions(versions: dict[str, str], seed: int) -> str:
    listed = ", ".join(f"{name} {number}" for name, number in versions.items())
    return f"Seed {seed}; {listed}; {platform.machine()}."
