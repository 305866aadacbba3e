"""Fully connected Gram matrices against neural-tangents and against the machine's floor.

Every library runs in its own process (so that peak memory is its own) on the same core; the calls
of both alternate, so that a slower spell of the machine meets both. Times are the best of
``--repeats`` after one warm-up; ``cpu`` is processor time of all threads, ``wall`` elapsed time.

The floor counts what cannot be avoided at the rates measured in the same run: half of the inner
products at the matmul rate, one vectorised ``sqrt`` and about 22 multiply-adds per entry and layer
at the rate of a fused polynomial in cache, and writing the result. ``NT/floor`` is thus the largest
ratio that this machine allows.

    python benchmarks/fully_connected_gram.py [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
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
    """Warm up, then time one call for each line on standard input (or ``repeats`` calls)."""
    start = time.perf_counter()
    run()
    result = {"first": time.perf_counter() - start}
    walls, cpus = [], []
    for _ in range(repeats) if repeats else request():
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        cpus.append(time.process_time() - cpu)
        walls.append(time.perf_counter() - wall)
        if not repeats:
            print("done", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return result | {"wall": min(walls), "cpu": min(cpus), "peak_mb": peak}


def request():
    """Say that the warm-up is over; then one item for each line until an empty one."""
    print("ready", flush=True)
    return iter(lambda: sys.stdin.readline().strip(), "")


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
    if hasattr(os, "sched_setaffinity"):  # one core for everyone
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    import jax

    jax.config.update("jax_enable_x64", case[-1] == "float64")
    return WORKERS[name](*case, repeats)


def start(name, case, repeats):
    command = [sys.executable, __file__, "--worker", name, json.dumps(case)]
    command += ["--repeats", str(repeats)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def alternate(case, repeats):
    """Both libraries, each in its own process, call by call in turn."""
    workers = {name: start(name, case, 0) for name in ("ours", "neural-tangents")}
    for process in workers.values():
        process.stdout.readline()
    for _ in range(repeats):
        for process in workers.values():
            print("go", file=process.stdin, flush=True)
            process.stdout.readline()
    return {name: finish(process) for name, process in workers.items()}


def finish(process):
    output = process.communicate()[0]
    if process.returncode:
        raise SystemExit(f"{process.args} failed")
    return json.loads(output.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--json", help="write the results to this file")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(worker(args.worker[0], json.loads(args.worker[1]), args.repeats)))
        return
    header = (
        "| case | ours cpu s | NT cpu s | NT/ours cpu | NT/ours wall | ours/floor | NT/floor | "
        "ours first call s | NT first call s | ours peak MB | NT peak MB |"
    )
    print(header)
    print("|" + "---|" * 11)
    rows = []
    for case in QUICK if args.quick else CASES:
        got = alternate(case, args.repeats)
        got["floor"] = finish(start("floor", case, args.repeats))
        us, nt, base = got["ours"], got["neural-tangents"], got["floor"]
        rows.append({"case": case, **got})
        print(
            f"| {case[0]} depth {case[1]}, N={case[2]}, d={case[3]}, {case[4]} | {us['cpu']:.3f} | "
            f"{nt['cpu']:.3f} | {nt['cpu'] / us['cpu']:.1f} | {nt['wall'] / us['wall']:.1f} | "
            f"{us['cpu'] / base['cpu']:.2f} | {nt['cpu'] / base['cpu']:.1f} | "
            f"{us['first']:.2f} | {nt['first']:.2f} | {us['peak_mb']:.0f} | {nt['peak_mb']:.0f} |",
            flush=True,
        )
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
