"""Gaussian-process regression against scikit-learn, tinygp and GPJax: the same kernel and data.

Every library runs in its own process, N points in ten dimensions, amplitude * RBF kernel, float64:
``fit`` conditions on the data, ``predict`` gives mean and variance at 500 points from the fitted
object, ``gradient`` gives the log evidence and its derivatives in amplitude, length scale and
noise. Programs are compiled before they are timed; times are the best of ``--repeats``, in seconds
of processor time of all threads (``wall``: elapsed). scikit-learn's fit holds one evaluation of the
evidence, which it always makes.

The last rows are about exactness: the posterior mean of a smooth noise-free function at three
points, whose true values (60 digits, 1e-10 on the diagonal) are printed beside.

    pip install -e '.[peers]'
    python benchmarks/gp_peers.py [n] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

AMPLITUDE, LENGTH, NOISE = 1.3, 3.0, 0.1
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
    exact = GP(RBF(2.0), noise=0.0).condition(x0, y0)
    return {
        "fit": best(lambda: model.condition(x, y), repeats),
        "predict": best(lambda: post.moments(xs), repeats),
        "gradient": best(gradient, repeats),
        "evidence": float(post.log_evidence),
        "mean": np.ravel(post.mean(xs))[:3].tolist(),
        "slopes": [-float(v) for _, v in sorted(slopes.items())],
        "smooth": np.ravel(exact.mean(z0)).tolist(),
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
    exact = GaussianProcess(kernel(2.0), x0, diag=0.0).condition(y0, z0).gp.loc
    value, slopes = gradient(log)
    return {
        "fit": best(lambda: jax.block_until_ready(jax.tree.leaves(fit(log))), repeats),
        "predict": best(lambda: jax.block_until_ready(predict(fitted, xs)), repeats),
        "gradient": best(lambda: jax.block_until_ready(gradient(log)), repeats),
        "evidence": float(value),
        "mean": np.asarray(predict(fitted, xs)[0])[:3].tolist(),
        "slopes": np.asarray(slopes)[jnp.array([1, 0, 2])].tolist(),
        "smooth": np.asarray(exact).tolist(),
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
    exact = build(jnp.log(jnp.array([1.0, 2.0, 1e-12]))).condition(few)(jnp.asarray(z0)).mean
    value, slopes = gradient(log)
    return {
        "fit": best(lambda: jax.block_until_ready(jax.tree.leaves(condition(log))), repeats),
        "predict": best(lambda: jax.block_until_ready(predict(fitted, jnp.asarray(xs))), repeats),
        "gradient": best(lambda: jax.block_until_ready(gradient(log)), repeats),
        "evidence": float(value),
        "mean": np.ravel(predict(fitted, jnp.asarray(xs))[0])[:3].tolist(),
        "slopes": np.asarray(slopes)[np.array([1, 0, 2])].tolist(),
        "smooth": np.ravel(exact).tolist(),
    }


def sklearn(n, repeats):
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    x, y, xs = problem(n)
    kernel = ConstantKernel(AMPLITUDE) * RBF(LENGTH) + WhiteKernel(NOISE)
    model = GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None).fit(x, y)
    theta = model.kernel_.theta
    gradient = lambda: model.log_marginal_likelihood(theta, eval_gradient=True)  # noqa: E731
    x0, y0, z0 = smooth()
    exact = GaussianProcessRegressor(RBF(2.0), optimizer=None).fit(x0, y0).predict(z0)
    value, slopes = gradient()
    new = lambda: GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None)  # noqa: E731
    return {
        "fit": best(lambda: new().fit(x, y), repeats),
        "predict": best(lambda: model.predict(xs, return_std=True), repeats),
        "gradient": best(gradient, repeats),
        "evidence": float(value),
        "mean": model.predict(xs)[:3].tolist(),
        "slopes": [slopes[1], slopes[0], slopes[2]],
        "smooth": exact.tolist(),
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
        import jax

        jax.config.update("jax_enable_x64", True)
        print(json.dumps(WORKERS[args.worker](args.n, args.repeats)))
        return
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
    print("\nNoise-free sin(6 x), 60 points, RBF of length 2: mean at .005, .5, 1.1")
    print("    60 digits  .0253 .1388 .3161 (1e-10 on the diagonal), truth .0300 .1411 .3115")
    for name, r in found.items():
        print(f"    {name:12s}", " ".join(f"{v:.4f}" for v in r["smooth"]))
    if args.json:
        with open(args.json, "w") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
