"""Side by side: processes and scale mixtures on real data, and whether heavy tails help.

Run: ``python benchmarks/gp_tables.py [regression] [classification] [--splits N] [--docs FILE]``
(default: both, 3 splits). Prints tables and, last, one JSON line; ``--docs`` writes the page of the
documentation, ``--json FILE`` the record, and ``--from FILE`` takes parts that are not run from an
earlier record. The models are in ``_gp_models.py``.
"""

import argparse
import itertools
import json
import time
import warnings

import jax
import numpy as np
from _gp_models import (
    CLASSIFICATION,
    REGRESSION,
    TRAIN_CLASSES,
    TRAIN_SIZES,
    classification_task,
    regression_task,
    score_classification,
    score_regression,
)

jax.config.update("jax_enable_x64", True)


def summary(rows):
    """Mean and standard error over splits of every score, and of its difference to the GP's."""
    table = {}
    for model, scores in rows.items():
        table[model] = {}
        for name in scores[0]:
            values = np.array([score[name] for score in scores])
            gaps = values - np.array([score[name] for score in rows["GP"]])
            error = lambda v: float(v.std(ddof=1) / len(v) ** 0.5) if len(v) > 1 else float("nan")  # noqa: E731
            table[model][name] = [
                float(values.mean()),
                error(values),
                float(gaps.mean()),
                error(gaps),
            ]
    return table


def show(title, table):
    print(f"\n{title}: mean +- standard error over splits (difference to the GP +- its error)")
    for name in next(iter(table.values())):
        print(f"  {name}")
        for model, scores in table.items():
            mean, error, gap, gap_error = scores[name]
            print(f"    {model:20} {mean:9.4f} +- {error:.4f}   ({gap:+.4f} +- {gap_error:.4f})")


def run(models, tasks, score):
    rows = {name: [] for name in models}
    for task, *rest in tasks:
        for name, model in models.items():
            rows[name].append(score(model, task, *rest))
    return summary(rows)


def markdown(title, table):
    """One table: mean and standard error over splits, models in rows."""
    names = list(next(iter(table.values())))
    lines = [
        f"## {title}",
        "",
        "| model | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for model, scores in table.items():
        cells = [f"{scores[name][0]:.3f} ± {scores[name][1]:.3f}" for name in names]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return lines


def gaps(record, title, name, sign):
    """Differences of the heavy-tailed models to the GP in one score, in words with z-scores.

    ``sign`` is 1 where more is better.
    """
    found = []
    for model, scores in record[title].items():
        if not model.startswith(("Student-t", "Burr", "half", "scale")):
            continue
        _, _, gap, error = scores[name]
        better = (
            "better" if sign * gap > 2 * error else "worse" if sign * gap < -2 * error else "equal"
        )
        found.append(f"{model} {gap:+.3f} ± {error:.3f} ({better})")
    return "; ".join(found)


def page(record):
    """The page of the documentation."""
    text = [
        "# Processes side by side",
        "",
        "Written by `python benchmarks/gp_tables.py --docs docs/gp_tables.md`; means ± "
        "standard errors over random splits. NLL is the negative log predictive density "
        "per test point (in units of the training spread), the coverage error that of the central "
        "95 % intervals. Hyper-parameters come from the training points alone: kernel and noise by "
        "evidence, the width of the deep kernel machine by cross-validation.",
        "",
    ]
    for title, table in record.items():
        if isinstance(table, dict):
            text += [*markdown(title, table), ""]
    text += [
        "## Do heavy tails help?",
        "",
        "Differences to the Gaussian process on the same splits; "
        "better or worse means by more than two standard errors.",
        "",
    ]
    for title, table in record.items():
        if not isinstance(table, dict):
            continue
        names = [name for name in next(iter(table.values())) if name.startswith(("NLL", "AUROC"))]
        for name in names:
            sign = 1 if name.startswith("AUROC") else -1
            text.append(f"- {title}, {name}: {gaps(record, title, name, sign)}.")
    text += [
        "",
        "A random scale common to all classes multiplies every latent function by the same number: "
        "it widens or narrows all predictions together, so that little can be expected of it for "
        "telling foreign images from digits. In regression it widens the intervals when the "
        "targets are larger than the kernel expects. Of AUROC, 0.5 is chance and 1 perfect; "
        "corruptions are of severity 3 of 5.",
        "",
    ]
    return "\n".join(text)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", default=["regression", "classification"])
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--docs", help="write the page of the documentation to this file")
    parser.add_argument("--json", help="write the record to this file")
    parser.add_argument("--from", dest="earlier", help="a record whose parts are kept")
    options = parser.parse_args()
    start, record = time.process_time(), {}
    if options.earlier:
        with open(options.earlier) as file:
            record = json.load(file)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if "regression" in options.parts:
            cases = itertools.product(("yacht", "concrete"), TRAIN_SIZES, (False, True))
            for name, n, outliers in cases:
                tasks = (regression_task(name, k, n, outliers) for k in range(options.splits))
                title = f"{name}, {n} training points" + ", 5% outliers among them" * outliers
                record[title] = run(
                    REGRESSION, tasks, lambda model, task, ys: score_regression(model(task), ys)
                )
                show(title, record[title])
        if "classification" in options.parts:
            tasks = (classification_task(k) for k in range(options.splits))
            title = f"digits, {TRAIN_CLASSES} training images"
            record[title] = run(
                CLASSIFICATION,
                tasks,
                lambda model, task, *rest: score_classification(model(task), task, *rest),
            )
            show(title, record[title])
    print(f"\n{time.process_time() - start:.0f} s of processor time")
    if options.docs:
        with open(options.docs, "w") as file:
            file.write(page(record))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(record, file)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
