"""Nearest-neighbour mutual information: ours against two common ways of writing it, and its bias.

    python benchmarks/mutual_information.py [--size 8000] [--dims 1 2 5] [--no-bias]

Peers, on the same Gaussian pairs (I = 1 nat, k = 3), all on one core, in processor seconds (the
better of two runs):

- "scikit-learn": KSG-1 written with ``NearestNeighbors`` for the joint space and ``KDTree`` counts
  for the marginal ones, as in ``sklearn.feature_selection`` (which knows scalars only and is timed
  too where d = 1);
- "all pairs": the n^2 algorithm that sorts all distances of every point, as in benchmark-mi.

"with error" is our estimate with its jackknife standard error, which no peer has. The second table
is the estimate for I = 1, 3, 5 over sample size and dimension: every neighbour estimator falls
short in high dimensions. Prints both tables and, last, one JSON line.
"""

import argparse
import json
import math
import time

import numpy as np
from scipy.special import digamma
from sklearn.feature_selection import mutual_info_regression
from sklearn.neighbors import KDTree, NearestNeighbors

from bounds import mutual_information as mi

K = 3


def pairs(n, information, d, seed=0):
    rng = np.random.default_rng(seed)
    rho = math.sqrt(1 - math.exp(-2 * information / d))
    x, z = rng.standard_normal((2, n, d))
    return x, rho * x + math.sqrt(1 - rho**2) * z


def with_scikit_learn(x, y):
    search = NearestNeighbors(metric="chebyshev", n_neighbors=K).fit(np.hstack([x, y]))
    radius = np.nextafter(search.kneighbors()[0][:, -1], 0)
    counts = [
        KDTree(v, metric="chebyshev").query_radius(v, radius, count_only=True) for v in (x, y)
    ]
    return digamma(len(x)) + digamma(K) - sum(digamma(c).mean() for c in counts)


def all_pairs(x, y):
    total = 0.0
    for a, b in zip(x, y, strict=True):
        dx, dy = np.abs(x - a).max(axis=1), np.abs(y - b).max(axis=1)
        order = np.argsort(np.maximum(dx, dy))
        radius = max(dx[order[K]], dy[order[K]])
        total += digamma((dx < radius).sum()) + digamma((dy < radius).sum())
    return digamma(len(x)) + digamma(K) - total / len(x)


def processor_seconds(function, repeats):
    spent = []
    for _ in range(repeats):
        start = time.process_time()
        value = float(function())
        spent.append(time.process_time() - start)
    return min(spent), value


def race(n, d):
    x, y = pairs(n, 1.0, d)
    runs = {
        "deeplimits": (lambda: mi.ksg(x, y, K, jackknife=0, workers=1), 2),
        "with error": (lambda: mi.ksg(x, y, K, workers=1), 2),
        "scikit-learn": (lambda: with_scikit_learn(x, y), 2),
        "all pairs": (lambda: all_pairs(x, y), 1),
    }
    if d == 1:
        runs["mutual_info_regression"] = (
            lambda: mutual_info_regression(x, y[:, 0], n_neighbors=K, random_state=0)[0],
            2,
        )
    row, values = {}, {}
    for name, (run, repeats) in runs.items():
        row[name], values[name] = processor_seconds(run, repeats)
    # The scalar peer standardises first, so that its value is another one.
    same = [v for name, v in values.items() if name != "mutual_info_regression"]
    row["largest difference"] = max(same) - min(same)
    return row


def bias(sizes, dims):
    table = {}
    for d in dims:
        for information in (1, 3, 5):
            for n in sizes:
                runs = 1 + 8000 // n if d < 10 else 1
                values = [
                    float(mi.ksg(*pairs(n, information, d, seed), jackknife=0, workers=1))
                    for seed in range(runs)
                ]
                table[f"d={d} I={information} n={n}"] = float(np.mean(values))
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=8000)
    parser.add_argument("--dims", type=int, nargs="*", default=[1, 2, 5])
    parser.add_argument("--no-bias", action="store_true")
    options = parser.parse_args()
    race(500, 1)  # imports and first touches
    rows = {d: race(options.size, d) for d in options.dims}
    names = ["deeplimits", "with error", "scikit-learn", "mutual_info_regression", "all pairs"]
    print(f"processor seconds, n = {options.size}, k = {K}")
    print("d    " + "".join(f"{name:>24s}" for name in [*names, "largest difference"]))
    for d, row in rows.items():
        cells = "".join(f"{row[name]:24.3f}" if name in row else f"{'':24s}" for name in names)
        print(f"{d:<5d}{cells}{row['largest difference']:24.1e}")
    table = {}
    if not options.no_bias:
        sizes, dims = (500, 2000, 8000), (1, 2, 5, 10)
        table = bias(sizes, dims)
        print("\nKSG-1 estimate" + "".join(f"{f'n = {n}':>10s}" for n in sizes))
        for d in dims:
            for information in (1, 3, 5):
                cells = "".join(f"{table[f'd={d} I={information} n={n}']:10.3f}" for n in sizes)
                print(f"d = {d:2d}, I = {information} {cells}")
    print(json.dumps({"benchmark": "mutual_information", "size": options.size, "k": K,
                      "processor_seconds": rows, "bias": table}))  # fmt: skip


if __name__ == "__main__":
    main()
