"""Fully connected Gram matrices against neural-tangents and against the machine's floor.

Every measurement runs in its own process (so that peak memory is its own), ours and
neural-tangents alternately within one run of this script. Times are the best of ``--repeats``
after one warm-up; ``cpu`` is processor time of all threads, ``wall`` elapsed time.

The floor counts what cannot be avoided at the rates measured in the same run: half of the inner
products at the matmul rate, one vectorised ``sqrt`` and about 22 multiply-adds per entry and layer
at the rate of a fused polynomial in cache, and writing the result.

    python benchmarks/fully_connected_gram.py [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

CASES = [
    ("relu", 3, 4000, 784, "float32"),
    ("relu", 3, 4000, 784, "float64"),
    ("erf", 3, 4000, 784, "float32"),
    ("erf", 3, 4000, 784, "float64"),
    ("relu", 16, 2000, 784, "float32"),
    ("relu", 16, 2000, 784, "float64"),
]
QUICK = [("relu", 3, 1500, 784, "float32"), ("relu", 3, 1500, 784, "float64")]


def measure(run, repeats):
    start = time.perf_counter()
    run()
    first = time.perf_counter() - start
    best_wall = best_cpu = float("inf")
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        best_cpu = min(best_cpu, time.process_time() - cpu)
        best_wall = min(best_wall, time.perf_counter() - wall)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"first": first, "wall": best_wall, "cpu": best_cpu, "peak_mb": peak}


def data(n, d, dtype):
    import numpy as np

    return np.random.default_rng(0).normal(size=(n, d)).astype(dtype)


def ours(activation, depth, n, d, dtype, repeats):
    import ntk

    x = data(n, d, dtype)
    net = ntk.mlp(depth, activation, W_std=2**0.5, b_std=0.1)
    result = measure(lambda: ntk.gram(net, x, get="ntk", progress=False), repeats)
    return result | {"value": float(ntk.gram(net, x, get="ntk", progress=False)[0, 1])}


def neural_tangents(activation, depth, n, d, dtype, repeats):
    import jax

    from ntk.interop import neural_tangents as load

    stax = load().stax
    act = {"relu": stax.Relu, "erf": stax.Erf}[activation]
    layers = [layer for _ in range(depth) for layer in (stax.Dense(512, 2**0.5, 0.1), act())]
    _, _, kernel_fn = stax.serial(*layers, stax.Dense(1, 2**0.5, 0.1))
    compiled = jax.jit(lambda x: kernel_fn(x, None, "ntk"))
    x = jax.numpy.asarray(data(n, d, dtype))
    result = measure(lambda: compiled(x).block_until_ready(), repeats)
    return result | {"value": float(compiled(x)[0, 1])}


def floor(activation, depth, n, d, dtype, repeats):
    """Seconds of one core for the unavoidable work, from rates measured here."""
    import jax.numpy as jnp
    import numpy as np
    from jax import lax

    from ntk.kernel_fn import jit

    x = jnp.asarray(data(n, d, dtype))
    matmul = jit(lambda a: a @ a.T)
    tile = jnp.asarray(np.random.default_rng(1).uniform(size=(256, 256)).astype(dtype))
    loops = 200

    def layers(t):
        def step(t, _):
            u = jnp.sqrt(t)
            p, q = u, u
            for _ in range(6):
                p, q = p * t + 0.5, q * u + 0.25
            return 1 / (1 + p * q), None

        return lax.scan(step, t, None, length=loops)[0]

    elementwise = jit(layers)
    out = np.empty((n, n), dtype)
    square = measure(lambda: matmul(x).block_until_ready(), repeats)["cpu"] / 2
    entry = measure(lambda: elementwise(tile).block_until_ready(), repeats)["cpu"]
    entry /= loops * tile.size
    write = measure(lambda: out.fill(1.0), repeats)["cpu"]
    half = n * n / 2
    names = ["matmul", "layers", "write"]
    parts = dict(zip(names, [square, half * depth * entry, write], strict=True))
    return parts | {"cpu": sum(parts.values()), "ns_per_entry_layer": entry * 1e9}


WORKERS = {"ours": ours, "neural-tangents": neural_tangents, "floor": floor}


def worker(name, case, repeats):
    import jax

    jax.config.update("jax_enable_x64", case[-1] == "float64")
    return WORKERS[name](*case, repeats)


def run_in_process(name, case, repeats):
    command = [
        sys.executable,
        __file__,
        "--worker",
        name,
        json.dumps(case),
        "--repeats",
        str(repeats),
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--json", help="write the results to this file")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(worker(args.worker[0], json.loads(args.worker[1]), args.repeats)))
        return
    header = (
        "| case | ours cpu s | NT cpu s | NT/ours cpu | NT/ours wall | ours/floor | "
        "ours first call s | NT first call s | ours peak MB | NT peak MB |"
    )
    print(header)
    print("|" + "---|" * 10)
    rows = []
    for case in QUICK if args.quick else CASES:
        got = {name: run_in_process(name, case, args.repeats) for name in WORKERS}
        us, nt, base = got["ours"], got["neural-tangents"], got["floor"]
        rows.append({"case": case, **got})
        print(
            f"| {case[0]} depth {case[1]}, N={case[2]}, d={case[3]}, {case[4]} | {us['cpu']:.3f} | "
            f"{nt['cpu']:.3f} | {nt['cpu'] / us['cpu']:.1f} | {nt['wall'] / us['wall']:.1f} | "
            f"{us['cpu'] / base['cpu']:.1f} | {us['first']:.2f} | {nt['first']:.2f} | "
            f"{us['peak_mb']:.0f} | {nt['peak_mb']:.0f} |",
            flush=True,
        )
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
