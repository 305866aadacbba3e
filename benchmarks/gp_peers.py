"""Gaussian-process regression against scikit-learn, tinygp and GPJax: the same kernel and data.

Every library runs in its own process on one core: N points in ten dimensions, amplitude * RBF
kernel, float64. ``fit`` conditions on the data, ``predict`` gives mean and variance at 500 points
from the fitted object, ``gradient`` gives the log evidence and its derivatives in amplitude, length
scale and noise. Programs are compiled before they are timed; times are the best of ``--repeats``,
in seconds of processor time (``wall``: elapsed). scikit-learn's fit holds one evaluation of the
evidence, which it always makes.

The last rows are about exactness: the posterior mean of a smooth function at three points, with
noise 1e-10 and with none, beside the same posterior in 60 digits. Without noise the matrix is
singular to working precision: this package adds the least jitter that does, says so and stores it,
and its value is to be held against that of the model with this jitter.

    pip install -e '.[peers]'
    python benchmarks/gp_peers.py [n] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

AMPLITUDE, LENGTH, NOISE = 1.3, 3.0, 0.1
SMALL = (1e-10, 0.0)
LIBRARIES = ("deeplimits", "tinygp", "GPJax", "scikit-learn")


def best(run, repeats):
    run()
    wall = cpu = float("inf")
    for _ in range(repeats):
        start, used = time.perf_counter(), time.process_time()
        run()
        cpu = min(cpu, time.process_time() - used)
        wall = min(wall, time.perf_counter() - start)
    return {"cpu": cpu, "wall": wall}


def problem(n):
    import numpy as np

    rng = np.random.default_rng(0)
    x, xs = rng.normal(size=(n, 10)), rng.normal(size=(500, 10))
    return x, np.sin(x @ rng.normal(size=10)) + 0.3 * rng.normal(size=n), xs


def smooth():
    """Sixty points of sin(6 x) on [0, 1], and three points at which to predict."""
    import numpy as np

    x = np.linspace(0, 1, 60)[:, None]
    return x, np.sin(6 * x[:, 0]), np.array([[0.005], [0.5], [1.1]])


def in_many_digits(noise):
    """The posterior mean of that problem in 60 digits."""
    import mpmath

    x, y, z = smooth()
    with mpmath.workdps(60):
        kernel = lambda a, b: mpmath.exp(-((mpmath.mpf(a) - mpmath.mpf(b)) ** 2) / 8)  # noqa: E731
        x = x.ravel()
        gram = mpmath.matrix([[kernel(a, b) for b in x] for a in x])
        weights = mpmath.lu_solve(gram + noise * mpmath.eye(len(x)), mpmath.matrix(y.tolist()))
        cross = mpmath.matrix([[kernel(a, b) for b in x] for a in z.ravel()])
        return [float(v) for v in cross * weights]


def deeplimits(n, repeats):
    import jax
    import numpy as np

    from gp import RBF
    from gp.evidence_objective import compiled, fitted_parameters
    from gp.process import GP

    x, y, xs = problem(n)
    model = GP(RBF(LENGTH, variance=AMPLITUDE), noise=NOISE)
    post = model.condition(x, y)
    fit = fitted_parameters(model, None, (), n)
    data = {"arrays": (), "x": jax.numpy.asarray(x), "y": jax.numpy.asarray(y)[:, None]}
    data["gram"] = None
    gradient = lambda: jax.block_until_ready(compiled(fit.problem, fit.start, data))  # noqa: E731
    slopes = dict(zip(fit.names, np.asarray(gradient()[1]), strict=True))
    x0, y0, z0 = smooth()
    exact = [GP(RBF(2.0), noise=noise).condition(x0, y0) for noise in SMALL]
    return {
        "fit": best(lambda: model.condition(x, y), repeats),
        "predict": best(lambda: post.moments(xs), repeats),
        "gradient": best(gradient, repeats),
        "evidence": float(post.log_evidence),
        "mean": np.ravel(post.mean(xs))[:3].tolist(),
        "slopes": [-float(v) for _, v in sorted(slopes.items())],
        "smooth": [np.ravel(p.mean(z0)).tolist() for p in exact],
        "jitter": [p.info.jitter for p in exact],
    }


def tinygp(n, repeats):
    import jax
    import jax.numpy as jnp
    import numpy as np
    from tinygp import GaussianProcess, kernels

    x, y, xs = problem(n)

    def kernel(length, amplitude=1.0):
        # its distance is L1 unless told otherwise
        return amplitude * kernels.ExpSquared(length, distance=kernels.distance.L2Distance())

    def build(log):
        amplitude, length, noise = jnp.exp(log)
        return GaussianProcess(kernel(length, amplitude), x, diag=noise)

    log = jnp.log(jnp.array([AMPLITUDE, LENGTH, NOISE]))
    fit = jax.jit(build)
    fitted = fit(log)
    predict = jax.jit(lambda g, xs: (lambda c: (c.loc, c.variance))(g.condition(y, xs).gp))
    gradient = jax.jit(jax.value_and_grad(lambda log: build(log).log_probability(y)))
    x0, y0, z0 = smooth()
    exact = [GaussianProcess(kernel(2.0), x0, diag=v).condition(y0, z0).gp.loc for v in SMALL]
    value, slopes = gradient(log)
    return {
        "fit": best(lambda: jax.block_until_ready(jax.tree.leaves(fit(log))), repeats),
        "predict": best(lambda: jax.block_until_ready(predict(fitted, xs)), repeats),
        "gradient": best(lambda: jax.block_until_ready(gradient(log)), repeats),
        "evidence": float(value),
        "mean": np.asarray(predict(fitted, xs)[0])[:3].tolist(),
        "slopes": np.asarray(slopes)[jnp.array([1, 0, 2])].tolist(),
        "smooth": [np.asarray(v).tolist() for v in exact],
    }


def gpjax(n, repeats):
    import gpjax as gpx
    import jax
    import jax.numpy as jnp
    import numpy as np

    x, y, xs = problem(n)
    data = gpx.Dataset(X=jnp.asarray(x), y=jnp.asarray(y)[:, None])

    def build(log):
        amplitude, length, noise = jnp.exp(log)
        kernel = gpx.kernels.RBF(lengthscale=length, variance=amplitude)
        prior = gpx.Prior(kernel=kernel, mean_function=gpx.mean_functions.Zero())
        return prior * gpx.likelihoods.Gaussian(obs_stddev=jnp.sqrt(noise))

    log = jnp.log(jnp.array([AMPLITUDE, LENGTH, NOISE]))
    condition = lambda log: build(log).condition(data)  # noqa: E731  (its jit fails on a Dataset)
    fitted = condition(log)

    def moments(posterior, xs):
        found = posterior(xs, covariance="diagonal")
        return found.mean, found.variance

    predict = moments
    evidence = lambda log: gpx.objectives.conjugate_mll(build(log), data)  # noqa: E731
    gradient = jax.jit(jax.value_and_grad(evidence))
    x0, y0, z0 = smooth()
    few = gpx.Dataset(X=jnp.asarray(x0), y=jnp.asarray(y0)[:, None])
    models = [build(jnp.log(jnp.array([1.0, 2.0, max(v, 1e-30)]))) for v in SMALL]
    exact = [model.condition(few)(jnp.asarray(z0)).mean for model in models]
    value, slopes = gradient(log)
    return {
        "fit": best(lambda: jax.block_until_ready(jax.tree.leaves(condition(log))), repeats),
        "predict": best(lambda: jax.block_until_ready(predict(fitted, jnp.asarray(xs))), repeats),
        "gradient": best(lambda: jax.block_until_ready(gradient(log)), repeats),
        "evidence": float(value),
        "mean": np.ravel(predict(fitted, jnp.asarray(xs))[0])[:3].tolist(),
        "slopes": np.asarray(slopes)[np.array([1, 0, 2])].tolist(),
        "smooth": [np.ravel(v).tolist() for v in exact],
    }


def sklearn(n, repeats):
    import numpy as np
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    x, y, xs = problem(n)
    kernel = ConstantKernel(AMPLITUDE) * RBF(LENGTH) + WhiteKernel(NOISE)
    model = GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None).fit(x, y)
    theta = model.kernel_.theta
    gradient = lambda: model.log_marginal_likelihood(theta, eval_gradient=True)  # noqa: E731
    x0, y0, z0 = smooth()
    exact = []
    for noise in SMALL:
        interpolant = GaussianProcessRegressor(RBF(2.0), alpha=noise, optimizer=None)
        try:
            exact.append(interpolant.fit(x0, y0).predict(z0).tolist())
        except np.linalg.LinAlgError:
            exact.append([float("nan")] * 3)
    value, slopes = gradient()
    new = lambda: GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None)  # noqa: E731
    return {
        "fit": best(lambda: new().fit(x, y), repeats),
        "predict": best(lambda: model.predict(xs, return_std=True), repeats),
        "gradient": best(gradient, repeats),
        "evidence": float(value),
        "mean": model.predict(xs)[:3].tolist(),
        "slopes": [slopes[1], slopes[0], slopes[2]],
        "smooth": exact,
    }


WORKERS = dict(zip(LIBRARIES, (deeplimits, tinygp, gpjax, sklearn), strict=True))


def in_process(name, n, repeats):
    command = [sys.executable, __file__, str(n), "--worker", name, "--repeats", str(repeats)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        print(f"{name} did not run: {done.stderr.splitlines()[-1]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("n", nargs="?", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", help="write the results to this file")
    parser.add_argument("--worker", choices=LIBRARIES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        import jax

        jax.config.update("jax_enable_x64", True)
        print(json.dumps(WORKERS[args.worker](args.n, args.repeats)))
        return
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    found = {name: in_process(name, args.n, args.repeats) for name in LIBRARIES}
    found = {name: result for name, result in found.items() if result is not None}
    print(f"N = {args.n}, d = 10, 500 test points, float64; cpu s (wall s)\n")
    print("| library | fit | predict | evidence and gradient | log evidence | mean at x*_1 |")
    print("|---|---|---|---|---|---|")
    for name, r in found.items():
        times = " | ".join(
            f"{r[k]['cpu']:.3f} ({r[k]['wall']:.3f})" for k in ("fit", "predict", "gradient")
        )
        print(f"| {name} | {times} | {r['evidence']:.6f} | {r['mean'][0]:.8f} |")
    print("\nsin(6 x), 60 points, RBF of length 2: posterior mean at .005, .5, 1.1")
    for k, noise in enumerate(SMALL):
        print(f"    noise {noise:g}; the function itself: .0300 .1411 .3115")
        jitter = found["deeplimits"]["jitter"][k] if "deeplimits" in found else 0.0
        for extra in sorted({0.0 if noise else jitter, jitter}):
            values = " ".join(f"{v:.4f}" for v in in_many_digits(noise + extra))
            print(f"        {'60 digits':12s} {values}" + (f" (jitter {extra:.3g})" * (extra > 0)))
        for name, r in found.items():
            print(f"        {name:12s}", " ".join(f"{v:.4f}" for v in r["smooth"][k]))
    if args.json:
        with open(args.json, "w") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
