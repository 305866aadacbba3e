"""Architectures side by side: inductive bias in bits, certified risk, true error, on real images.

Run: ``python benchmarks/inductive_bias_table.py [--splits N] [--docs FILE] [--json FILE]``.
Prints tables and, last, one JSON line; ``--docs`` writes the page of the documentation.

To add an architecture, add one line to :func:`architectures`: a network, or a callable on images
``k(X, Z=None)``. Kernels are fixed before the labels are seen, as the certificates demand.
"""

import argparse
import json
import time

import jax
import numpy as np

import bounds
import ntk
from deeplimits import datasets

jax.config.update("jax_enable_x64", True)

#: Pairs of classes, from easy to hard.
PAIRS = {
    "digits": ((0, 1), (1, 7), (3, 8), (8, 9)),
    "fashion": ((1, 9), (0, 3), (5, 7), (0, 6)),
}
TRAIN, TEST = 100, 80
#: Allowed mean squared error on labels +1 and -1; a constant 0 has 1.
EPS = {"digits": 0.15, "fashion": 0.5}
COLUMNS = {
    "bits": ("bits, squared", 1),
    "bits_zero_one": ("bits, 0-1", 1),
    "certified_evidence": ("certified, evidence", 3),
    "certified_flow": ("certified, flow", 3),
    "certified": ("certified, best", 3),
    "flow_error": ("true error of the flow", 3),
    "error": ("true error of the GP", 3),
}


def convolutional(pooling):
    """One strided layer of 3 x 3 filters and ReLU, then all positions apart or their average."""
    stax = ntk.neural_tangents().stax
    end = stax.GlobalAvgPool() if pooling else stax.Flatten()
    conv = stax.Conv(1, (3, 3), strides=(2, 2), padding="SAME", W_std=2**0.5, b_std=0.1)
    dense = stax.Dense(1, W_std=2**0.5, b_std=0.1)
    return ntk.from_neural_tangents(stax.serial(conv, stax.Relu(), end, dense))


def rbf(X, Z=None):
    """Squared-exponential kernel of length scale (d / 2)^1/2 on images of length d^1/2."""
    X = np.reshape(X, (len(X), -1))
    Z = X if Z is None else np.reshape(Z, (len(Z), -1))
    square = (X**2).sum(1)[:, None] + (Z**2).sum(1) - 2 * X @ Z.T
    return np.exp(-np.maximum(square, 0) / X.shape[1])


def architectures():
    def dense(depth, activation, W_std):
        net = ntk.mlp(depth, activation, W_std=W_std, b_std=0.1)
        return ntk.serial(ntk.Flatten(), net)

    return {
        "ReLU, depth 1": dense(1, "relu", 2**0.5),
        "ReLU, depth 3": dense(3, "relu", 2**0.5),
        "erf, depth 1": dense(1, "erf", 1.5),
        "erf, depth 3": dense(3, "erf", 1.5),
        "convolution, flat": convolutional(pooling=False),
        "convolution, pooled": convolutional(pooling=True),
        "RBF": rbf,
    }


def images(name):
    """Images of 7 x 7 or 8 x 8 pixels, each centred and scaled to length d^1/2; labels."""
    data = datasets.load("digits" if name == "digits" else "fashion_1000")
    pixels = data.images[..., 0]
    if name == "fashion":
        pixels = pixels.reshape(-1, 7, 4, 7, 4).mean((2, 4))
    flat = pixels.reshape(len(pixels), -1)
    flat = flat - flat.mean(1, keepdims=True)
    flat = flat / flat.std(1, keepdims=True)
    return flat.reshape(*pixels.shape, 1), data.y


def grams(networks, X):
    """Process and tangent Gram of every architecture."""
    found = {}
    for name, net in networks.items():
        if not hasattr(net, "ntk"):
            found[name] = (net(X), net(X))
            continue
        pair = ntk.gram(net.kernel_fn, X, get=("nngp", "ntk"), block_size=60, progress=False)
        found[name] = (np.asarray(pair.nngp), np.asarray(pair.ntk))
    return found


def measure(name, pair, networks, splits, random_labels=False):
    """Columns ``(splits, architectures)`` for one pair of classes."""
    X, labels = images(name)
    rng = np.random.default_rng(pair)
    index = rng.permutation(np.flatnonzero(np.isin(labels, pair)))[: TRAIN + TEST]
    X, y = X[index], np.where(labels[index] == pair[0], 1.0, -1.0)
    if random_labels:
        y = rng.choice([-1.0, 1.0], size=len(y))
    all_grams, rows = grams(networks, X), []
    for split in range(splits):
        order = np.random.default_rng(split).permutation(len(y))
        chosen = {k: tuple(g[np.ix_(order, order)] for g in both) for k, both in all_grams.items()}
        a, b = order[:TRAIN], order[TRAIN:]
        found = bounds.compare_architectures(
            chosen, X[a], y[a], X[b], y[b], key=split, eps=EPS[name], n_samples=10_000
        )
        rows.append({column: found.values[column].tolist() for column in COLUMNS})
    return {column: np.array([row[column] for row in rows]) for column in COLUMNS}


def summary(tasks, names):
    """Mean and standard error over pairs (splits of a pair are averaged first)."""
    table = {}
    for i, name in enumerate(names):
        table[name] = {}
        for column in COLUMNS:
            values = np.array([task[column][:, i].mean() for task in tasks])
            error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else float("nan")
            table[name][column] = [float(values.mean()), float(error)]
    return table


def markdown(title, table):
    lines = [f"## {title}", ""]
    lines.append("| architecture | " + " | ".join(text for text, _ in COLUMNS.values()) + " |")
    lines.append("|---" * (len(COLUMNS) + 1) + "|")
    for name, scores in table.items():
        cells = []
        for column, (_, digits) in COLUMNS.items():
            mean, error = scores[column]
            cells.append(
                f"{mean:.{digits}f}" + (f" ± {error:.{digits}f}" if np.isfinite(error) else "")
            )
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def page(record, splits):
    text = [
        "# Inductive bias and certified risk of architectures",
        "",
        "Written by `python benchmarks/inductive_bias_table.py --docs docs/bounds_tables.md`"
        + (f" with `--splits {splits}`" if splits != 2 else "")
        + f"; one call of `bounds.compare_architectures` for each pair of classes and split. "
        f"{TRAIN} training and {TEST} test images, labels +1 and -1, images centred and scaled one "
        f"by one (digits 8 x 8, Fashion-MNIST averaged to 7 x 7), {splits} splits for each pair; "
        "means ± standard errors over pairs.",
        "",
        "- *bits, squared*: information lacking for a mean squared test error of "
        + ", ".join(f"{eps:g} ({name})" for name, eps in EPS.items())
        + "; the constant 0 has 1. Noise 1 % of the kernel, amplitude by evidence.",
        f"- *bits, 0-1*: the same for all {TEST} test labels right; coins need {TEST} bits.",
        "- *certified*: upper bounds on the classification error that hold with probability 0.95 "
        "over the training set, without test data: from the sampled evidence of the labels, from "
        "the early-stopped flow of the tangent kernel (times and scales on a grid that is paid "
        "for), and the better of both at half the confidence each.",
        "- *true error of the flow*: average test error of the randomised classifier that the "
        "flow bound is about; *of the GP*: of the sign of the posterior mean.",
        "",
    ]
    for title, table in record.items():
        text += markdown(title, table)
    return "\n".join(text)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--splits", type=int, default=2)
    parser.add_argument("--docs", help="write the page of the documentation to this file")
    parser.add_argument("--json", help="write the record to this file")
    options = parser.parse_args()
    start, record, networks = time.process_time(), {}, architectures()
    for name, pairs in PAIRS.items():
        tasks = [measure(name, pair, networks, options.splits) for pair in pairs]
        listed = ", ".join(f"{a}/{b}" for a, b in pairs)
        record[f"{name}: classes {listed}"] = summary(tasks, networks)
        print("\n".join(markdown(*list(record.items())[-1])), flush=True)
    pair = PAIRS["digits"][2]
    task = measure("digits", pair, networks, options.splits, random_labels=True)
    record[f"digits {pair[0]}/{pair[1]} with random labels"] = summary([task], networks)
    print("\n".join(markdown(*list(record.items())[-1])))
    print(f"{time.process_time() - start:.0f} s of processor time")
    if options.docs:
        with open(options.docs, "w") as file:
            file.write(page(record, options.splits))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(record, file)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
