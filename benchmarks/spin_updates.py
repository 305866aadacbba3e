"""Million spin updates per second and core, for every Monte Carlo kernel, beside a numba loop.

Hopfield networks at load 0.1, T = 0.3, from a pattern, and batches of SK samples at T = 1; float32.
Everything runs on one core, and rates are the best of ``--repeats`` runs over its processor
seconds, so that other work on the machine disturbs them little (on a GPU: over elapsed seconds).
The effective rate divides by the autocorrelation time of the energy (at load 0.1: T = 0.6).
Measurements of energy and overlaps after every sweep are included.

The peer is the loop that one would write by hand: one spin after the other in compiled code, one
chain, with local fields that are updated at every flip (``numba``, about as fast as C).

    python benchmarks/spin_updates.py [--sizes 1000 2000 4000] [--quick] [--json FILE]

numba is not a dependency of this package: ``pip install numba``.
"""

from __future__ import annotations

import argparse
import json
import os
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
if hasattr(os, "sched_setaffinity"):  # before JAX starts its threads; those inherit it
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import jax
import jax.numpy as jnp
import numpy as np

import statmech
from statmech.montecarlo import _block_size
from statmech.montecarlo_core import Layout, run_chunk

ALPHA, COLD, WARM = 0.1, 0.3, 0.6
GPU = jax.default_backend() != "cpu"
CLOCK = time.perf_counter if GPU else time.process_time


def rate(coupling, kernel, rule, T, chains, sweeps, repeats, spins):
    """Million updates per second of a compiled chunk."""
    layout = Layout(kernel, rule, _block_size(coupling.N), 1, chains, sweeps, "float32")
    coupling = jax.device_put(coupling.cast("float32"))
    column = jnp.full((chains,), T, jnp.float32)
    target = jnp.zeros((chains,), jnp.int32)
    shape = (coupling.N, chains) if coupling.samples is None else (coupling.samples, *spins.shape)
    spins = jnp.broadcast_to(jnp.asarray(spins, jnp.int8), shape)

    def run():
        jax.block_until_ready(
            run_chunk(coupling, spins, jax.random.key(0), column, target, 0, sweeps, 1, layout)
        )

    run()
    best = np.inf
    for _ in range(repeats):
        start = CLOCK()
        run()
        best = min(best, CLOCK() - start)
    return spins.size * sweeps / best / 1e6


def hopfield_rows(N, chains, repeats, work):
    x = statmech.random_patterns(int(ALPHA * N), N, key=0)
    c = statmech.hebbian_coupling(x)
    spins = np.repeat(x[:1].T, chains, axis=1)
    sweeps = max(2, int(work / (N * chains)))
    rows = []
    for kernel, rule in [
        ("blocked", "heatbath"), ("blocked", "metropolis"), ("dual", "heatbath"),
        ("site", "heatbath"), ("little", "heatbath"),
    ]:  # fmt: skip
        speed = rate(c, kernel, rule, COLD, chains, sweeps, repeats, spins)
        rows.append({"model": "Hopfield", "N": N, "B": chains, "kernel": f"{kernel} {rule}"})
        rows[-1]["rate"] = speed
    return rows


def effective(rows, N, chains):
    """Add autocorrelation times at the higher temperature, where they differ."""
    c = statmech.hebbian_coupling(statmech.random_patterns(int(ALPHA * N), N, key=0))
    for row in rows:
        kernel, rule = row["kernel"].split()
        if kernel == "little":
            continue
        s = statmech.simulate(
            c, key=0, T=WARM, sweeps=400, burn_in=100, chains=chains, kernel=kernel, rule=rule,
            progress=False,
        )  # fmt: skip
        row["tau"] = float(s.tau.mean())
        row["effective"] = row["rate"] / row["tau"]


def sk_row(N, chains, repeats, work):
    samples = max(1, min(64, int(2**22 / N**2)))
    c = statmech.sk_coupling(N, key=0, samples=samples)
    spins = np.asarray(jax.random.rademacher(jax.random.key(1), (N, chains), jnp.int8))
    sweeps = max(2, int(work / (N * chains * samples)))
    speed = rate(c, "blocked", "heatbath", 1.0, chains, sweeps, repeats, spins)
    return {"model": f"SK x {samples}", "N": N, "B": chains, "kernel": "blocked heatbath",
            "rate": speed}  # fmt: skip


def numba_loop():
    """One chain with local fields, or None without numba."""
    try:
        import numba
    except ImportError:
        print("numba is not installed: no peer in this table (pip install numba).")
        return None

    @numba.njit(fastmath=True)
    def loop(J, s, h, beta, sweeps, seed):
        np.random.seed(seed)  # noqa: NPY002 - what numba compiles
        for _ in range(sweeps):
            for i in range(s.size):
                new = 1.0 if np.random.random() * (1 + np.exp(-2 * beta * h[i])) < 1 else -1.0  # noqa: NPY002
                if new != s[i]:
                    step = np.float32(new - s[i])
                    s[i] = new
                    for j in range(s.size):
                        h[j] += J[i, j] * step
        return s

    return loop


def numba_row(loop, N, T, repeats, work):
    x = statmech.random_patterns(int(ALPHA * N), N, key=0)
    J = statmech.hebbian_coupling(x).matrix().astype(np.float32)
    s, sweeps = x[0].astype(np.float32), max(2, int(work / N))
    best = np.inf
    for k in range(repeats + 1):
        h = J @ s
        start = time.process_time()
        loop(J, s, h, 1 / T, sweeps, k)
        if k:  # the first call compiles
            best = min(best, time.process_time() - start)
    return {"model": f"Hopfield T={T}", "N": N, "B": 1, "kernel": "numba, local fields",
            "rate": N * sweeps / best / 1e6}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 2000, 4000])
    parser.add_argument("--chains", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one size, short runs")
    parser.add_argument("--json")
    options = parser.parse_args()
    sizes = options.sizes[:1] if options.quick else options.sizes
    work = 4e6 if options.quick else (2e9 if GPU else 2e7)
    jax.config.update("jax_enable_x64", True)  # energies accumulate in float64
    print(f"backend {jax.default_backend()}, {jax.devices()[0].device_kind}")
    print(f"{'model':18}{'N':>6}{'B':>6}  {'kernel':22}{'M/s':>8}{'tau':>8}{'M/s/tau':>9}")
    loop, table = numba_loop(), []

    def show(rows):
        for row in rows:
            tau = f"{row['tau']:8.1f}{row['effective']:9.1f}" if "tau" in row else ""
            print(f"{row['model']:18}{row['N']:6}{row['B']:6}  {row['kernel']:22}"
                  f"{row['rate']:8.1f}{tau}", flush=True)  # fmt: skip
        table.extend(rows)

    for N in sizes:
        rows = hopfield_rows(N, options.chains, options.repeats, work)
        if N == min(sizes):
            effective(rows, N, 32)
        show(rows)
        if loop is not None:
            show([numba_row(loop, N, T, options.repeats, work / 4) for T in (COLD, 1.0)])
    for N in (64, 128) if options.quick else (64, 128, 256, 512, 1024):
        show([sk_row(N, 32, options.repeats, work)])
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"backend": jax.default_backend(), "rows": table}, file, indent=1)


if __name__ == "__main__":
    main()
