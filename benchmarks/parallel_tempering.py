"""Parallel tempering of SK samples: spin updates, and independent energies, per processor second.

One row per size: disorder samples side by side, two replicas, 14 temperatures between 0.3 and 1.3;
float32, measurements of energies and overlaps after every sweep included. The effective rate
divides by the autocorrelation time of the energy at the coldest temperature (largest over samples);
round trips are walks of a replica from cold to hot and back. The first run compiles, untimed.

The peer is the loop that one would write by hand (``numba``): one spin after the other, local
fields updated at every flip, swaps after each sweep, one ladder of one sample, no measurements.

    python benchmarks/parallel_tempering.py [--sizes 64 128 256 512 1024] [--quick]

numba is not a dependency of this package: ``pip install numba``.
"""

from __future__ import annotations

import argparse
import json
import os
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
if hasattr(os, "sched_setaffinity"):  # one core for everyone, before JAX starts its threads
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import jax
import numpy as np

import statmech

TEMPERATURES = np.linspace(0.3, 1.3, 14)
CLOCK = time.process_time if jax.default_backend() == "cpu" else time.perf_counter


def tempering_row(N, samples, sweeps):
    """Rates of :func:`statmech.parallel_tempering`."""
    coupling = statmech.sk_coupling(N, key=0, samples=samples)

    def run(key):
        return statmech.parallel_tempering(
            coupling, TEMPERATURES, key=key, sweeps=sweeps, burn_in=sweeps // 4, progress=False
        )

    run(0)
    start = CLOCK()
    result = run(1)
    seconds = CLOCK() - start
    updates = (sweeps + sweeps // 4) * N * samples * 2 * len(TEMPERATURES)
    return {
        "N": N, "kind": f"blocked x {samples}", "rate": updates / seconds / 1e6,
        "swaps": float(result.swap_rates.mean(0).min()), "tau": float(result.tau[0]),
        "trips_per_s": float(result.round_trips.sum()) / seconds,
        "effective": updates / seconds / 1e6 / max(1.0, float(result.tau[0])),
    }  # fmt: skip


def numba_loop():
    """One ladder in compiled code, or None without numba."""
    try:
        import numba
    except ImportError:
        print("numba is not installed: no peer in this table (pip install numba).")
        return None

    @numba.njit(fastmath=True)
    def loop(J, s, h, E, beta, sweeps, seed):
        np.random.seed(seed)  # noqa: NPY002 - what numba compiles
        order, n, N = np.arange(beta.size), beta.size, s.shape[1]
        for sweep in range(sweeps):
            for t in range(n):
                w = order[t]
                for i in range(N):
                    p = np.random.random() * (1 + np.exp(-2 * beta[t] * h[w, i]))  # noqa: NPY002
                    new = np.float32(1.0 if p < 1 else -1.0)
                    if new != s[w, i]:
                        E[w] -= (new - s[w, i]) * h[w, i]
                        step = new - s[w, i]
                        s[w, i] = new
                        for j in range(N):
                            h[w, j] += J[i, j] * step
            for t in range(sweep % 2, n - 1, 2):
                gain = (beta[t + 1] - beta[t]) * (E[order[t + 1]] - E[order[t]])
                if np.log(np.random.random()) < gain:  # noqa: NPY002
                    order[t], order[t + 1] = order[t + 1], order[t]
        return order

    return loop


def numba_row(loop, N, sweeps):
    J = statmech.sk_coupling(N, key=0).matrix().astype(np.float32)
    rng, best = np.random.default_rng(0), np.inf
    for k in range(3):  # the first call compiles
        s = rng.choice(np.array([-1, 1], np.float32), (len(TEMPERATURES), N))
        h = s @ J
        E = -np.sum(s * h, axis=1).astype(np.float64) / 2
        start = time.process_time()
        loop(J, s, h, E, 1 / TEMPERATURES, sweeps, k)
        best = min(best, time.process_time() - start) if k else best
    return {"N": N, "kind": "numba, one ladder", "rate": sweeps * s.size / best / 1e6}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    parser.add_argument("--quick", action="store_true", help="two sizes, short runs")
    options = parser.parse_args()
    sizes, work = (options.sizes[:2], 2e7) if options.quick else (options.sizes, 2e8)
    jax.config.update("jax_enable_x64", True)  # energies accumulate in float64
    print(f"backend {jax.default_backend()}, {jax.devices()[0].device_kind}")
    names = ("rate", "swaps", "tau", "effective", "trips_per_s")
    print(f"{'N':>6}  {'kind':20}{'M/s':>9}{'swaps':>9}{'tau':>9}{'M/s/tau':>9}{'trips/s':>9}")
    loop, rows = numba_loop(), []
    for N in sizes:
        samples = max(1, min(32, 2**20 // N**2))
        ladder = N * 2 * len(TEMPERATURES)
        rows.append(tempering_row(N, samples, max(40, int(work / (ladder * samples)))))
        if loop is not None:
            rows.append(numba_row(loop, N, max(10, int(work / (4 * ladder)))))
        for row in rows[-1 - (loop is not None) :]:
            cells = "".join(f"{row[k]:9.3g}" if k in row else " " * 9 for k in names)
            print(f"{row['N']:6}  {row['kind']:20}{cells}", flush=True)
    print(json.dumps({"backend": jax.default_backend(), "rows": rows}))


if __name__ == "__main__":
    main()
