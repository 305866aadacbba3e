r"""The main job: limits of deep networks on real images, held against finite networks.

``deeplimits demo`` (or ``make demo``) computes NNGP and tangent kernels of 1797 digits and 1000
Fashion-MNIST images, what they predict, and how finite networks approach them, and writes figures,
``report.md`` and ``report.json``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from deeplimits.demo_data import Problem, problems
from deeplimits.demo_evidence import evidence
from deeplimits.demo_finite import training, widths
from deeplimits.demo_grams import grams, spectra
from deeplimits.demo_predict import predictions
from deeplimits.demo_report import Report
from deeplimits.errors import DeepLimitsError
from deeplimits.precision import require_x64

SEED = 0


class FailedClaimError(DeepLimitsError, AssertionError):
    """A claim of the demonstration did not hold; the report says which and why."""


def main(out: str | os.PathLike[str] = "out", *, fast: bool = False) -> None:
    """Run the demonstration and write its figures and reports.

    Args:
        out: folder to write to, made if missing; files of an earlier run are overwritten.
        fast: reduced data, widths and numbers of networks, for tests.

    Raises:
        PrecisionError: x64 is off.
        FailedClaimError: a claim failed; figures and reports are written nevertheless.

    Check: tests/test_demo.py.
    """
    require_x64("deeplimits.demo.main")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    data: list[Problem] = []
    noises: dict[str, float] = {}
    steps: list[tuple[str, Callable[[], None]]] = [
        ("Data", lambda: _load(report, data, fast)),
        ("Gram matrices of infinitely wide networks", lambda: grams(report, data, SEED, fast)),
        ("Spectra", lambda: spectra(report, data)),
        (
            "Classification with the limits",
            lambda: noises.update(predictions(report, data, SEED, 3 if fast else 5)),
        ),
        ("Evidence of the scales", lambda: evidence(report, data, noises, fast)),
        ("Finite widths", lambda: widths(report, SEED, fast)),
        ("A trained ensemble", lambda: training(report, SEED, fast)),
    ]
    report = Report(folder, len(steps))
    start = time.perf_counter()
    for name, step in steps:
        with report.step(name):
            step()
    report.write(fast=fast, seed=SEED)
    passed = len(report.comparisons) - len(report.failed)
    print(
        f"{passed} of {len(report.comparisons)} claims passed in "
        f"{time.perf_counter() - start:.0f} s. See {folder / 'report.md'}.",
        flush=True,
    )
    if report.failed:
        raise FailedClaimError(
            f"{len(report.failed)} claims failed: {', '.join(report.failed)}. "
            f"See {folder / 'report.md'}."
        )


def _load(report: Report, data: list[Problem], fast: bool) -> None:
    data.extend(problems(fast))
    rows = [(p.title, len(p.data), p.data.X.shape[1], p.data.source, p.data.licence) for p in data]
    report.table(("data", "images", "pixels", "source", "licence"), rows)
