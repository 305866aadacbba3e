"""Time of phase diagrams: compilation and the second call, in processor seconds.

Run: ``python benchmarks/statmech_diagrams.py [hopfield] [dense] [--size N]`` (default: both, 200 by
200 points). Prints a table and, last, one JSON line. For comparison, the Hopfield states of one
temperature are also solved by damped iteration with 100 Gauss-Hermite nodes, as is common; that
stops short of the spinodal and at low temperature, where it does not converge.
"""

import argparse
import json
import time

import jax
import numpy as np

import statmech
from statmech.hopfield_lines import hopfield_capacity

jax.config.update("jax_enable_x64", True)


def processor_seconds(function):
    """Processor and wall seconds of one call, and its result."""
    start = time.process_time(), time.perf_counter()
    result = function()
    return time.process_time() - start[0], time.perf_counter() - start[1], result


def hopfield(size):
    alpha, T = np.linspace(0, 0.16, size), np.linspace(0, 1.4, size)
    return statmech.phase_diagram("hopfield", alpha=alpha, T=T)


def dense(size):
    return statmech.phase_diagram("dense_hebbian", P=4)


def iterated(size):
    """Retrieval states by plain iteration on the same loads at T = 0.3, 2000 steps."""
    T = 0.3
    alpha = np.linspace(1e-3, 0.95 * hopfield_capacity(T), size)
    z, w = np.polynomial.hermite_e.hermegauss(100)
    w = w / w.sum()
    m, q = np.ones(size), np.ones(size)
    for _ in range(2000):
        r = q / (1 - (1 - q) / T) ** 2
        t = np.tanh((m[:, None] + np.sqrt(alpha * r)[:, None] * z) / T)
        m, q = t @ w, t**2 @ w
    return float(np.abs(m - statmech.hopfield(alpha, T).m).max())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["hopfield", "dense"])
    parser.add_argument("--size", type=int, default=200)
    options = parser.parse_args()
    rows = {}
    for name in options.models:
        make = {"hopfield": hopfield, "dense": dense}[name]
        try:
            first, _, _ = processor_seconds(lambda make=make: make(options.size))
        except ModuleNotFoundError as error:
            print(f"{name}: not available ({error})")
            continue
        again, wall, data = processor_seconds(lambda make=make: make(options.size))
        rows[name] = {
            "points": int(data["phase"].size),
            "first_call_cpu_s": first,
            "second_call_cpu_s": again,
            "second_call_wall_s": wall,
        }
    if "hopfield" in rows:
        spent, _, gap = processor_seconds(lambda: iterated(options.size))
        rows["hopfield"] |= {"iteration_one_row_cpu_s": spent, "iteration_largest_error": gap}
    print(f"{'model':10s} {'points':>8s} {'first call':>11s} {'second':>8s}   (processor seconds)")
    for name, row in rows.items():
        print(f"{name:10s} {row['points']:8d} {row['first_call_cpu_s']:11.1f} "
              f"{row['second_call_cpu_s']:8.2f}")  # fmt: skip
    print(json.dumps({"benchmark": "statmech_diagrams", "size": options.size, "rows": rows}))


if __name__ == "__main__":
    main()
