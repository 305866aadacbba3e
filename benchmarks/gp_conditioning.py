"""Cost of conditioning, leave-one-out and ensemble training against scikit-learn and bare LAPACK.

Run: ``python benchmarks/gp_conditioning.py [n ...]``. Prints a table and, last, one JSON line.
"""

import json
import sys
import time
import warnings

import jax
import numpy as np
import scipy.linalg
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF

from gp.dynamics import Ensemble
from gp.process import GP

jax.config.update("jax_enable_x64", True)


class Kernels:
    """One RBF kernel in both roles, evaluated by the code that scikit-learn uses."""

    def nngp(self, x, z=None):
        return RBF(3.0)(x, z)

    ntk = nngp


def seconds(function):
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def measure(n):
    rng = np.random.default_rng(0)
    x, xs, y = rng.normal(size=(n, 10)), rng.normal(size=(200, 10)), rng.normal(size=n)
    kernels = Kernels()
    noisy = kernels.nngp(x) + 0.1 * np.eye(n)
    fit, post = seconds(lambda: GP(kernels.nngp, noise=0.1).condition(x, y))
    rival = GaussianProcessRegressor(RBF(3.0), alpha=0.1, optimizer=None)
    rival_fit, _ = seconds(lambda: rival.fit(x, y))
    gap = np.abs(post.mean(xs) - rival.predict(xs)).max()
    times = np.geomspace(0.1, 1e4, 30)
    train, ens = seconds(lambda: Ensemble(kernels).train(x, y, times=times))
    return {
        "n": n,
        "kernel": seconds(lambda: kernels.nngp(x))[0],
        "lapack_cholesky": seconds(lambda: scipy.linalg.cholesky(noisy, lower=True))[0],
        "condition": fit,
        "sklearn_fit": rival_fit,
        "loo": seconds(post.loo)[0],
        "var_200": seconds(lambda: post.var(xs))[0],
        "lapack_eigh": seconds(lambda: scipy.linalg.eigh(noisy))[0],
        "ensemble_30_times": train,
        "ensemble_var_200": seconds(lambda: ens.var(xs))[0],
        "gap_to_sklearn": float(gap),
    }


def main():
    sizes = [int(a) for a in sys.argv[1:]] or [500, 1000, 2000]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = [measure(n) for n in sizes]
    for name in rows[0]:
        print(f"{name:>18}", *(f"{row[name]:12.3g}" for row in rows))
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
