"""Cost of conditioning, leave-one-out and ensemble training against scikit-learn and bare LAPACK.

Run: ``python benchmarks/gp_conditioning.py [n ...]``. Prints a table and, last, one JSON line.
"""

import dataclasses
import json
import sys
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from gp.dynamics import Ensemble
from gp.evidence_objective import compiled, fitted_parameters
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Smooth:
    """The kernel of scikit-learn's ``ConstantKernel * RBF``, in JAX."""

    amplitude: float
    length: float

    def __call__(self, x, z=None):
        z = x if z is None else z
        norms = jnp.sum(x**2, axis=1)[:, None] + jnp.sum(z**2, axis=1)[None]
        return self.amplitude * jnp.exp((x @ z.T - 0.5 * norms) / self.length**2)


def evidence_gradient(x, y):
    """Seconds for the log evidence and its three derivatives: ours, scikit-learn's, largest gap."""
    n = len(y)
    fit = fitted_parameters(GP(Smooth(1.0, 3.0), noise=0.1), None, (), n)
    data = {"arrays": (), "x": jnp.asarray(x), "y": jnp.asarray(y)[:, None], "gram": None}
    compiled(fit.problem, fit.start, data)[1].block_until_ready()
    ours, (_, slopes) = seconds(
        lambda: jax.block_until_ready(compiled(fit.problem, fit.start, data))
    )
    kernel = ConstantKernel(1.0) * RBF(3.0) + WhiteKernel(0.1)
    rival = GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None).fit(x, y)
    theirs, (_, expected) = seconds(
        lambda: rival.log_marginal_likelihood(rival.kernel_.theta, eval_gradient=True)
    )
    return ours, theirs, float(np.abs(-np.asarray(slopes) - expected).max())


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
    gradient, rival_gradient, gradient_gap = evidence_gradient(x, y)
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
        "evidence_gradient": gradient,
        "sklearn_gradient": rival_gradient,
        "gradient_gap": gradient_gap,
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
