# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Spectra, learning curves, lazy and rich
#
# What a wide network finds easy is written in the spectrum of its kernel. From the spectrum alone
# follow its test and training error at every number of examples; where the kernel picture ends,
# an exactly solvable network shows what comes instead.

# %%
import jax

jax.config.update("jax_enable_x64", True)

import os

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import ntk
from deeplimits import datasets, plotting
from gp import predicted_curve, regression_curve, site_curve, subset_regression_curve
from ntk import (
    abc_exponents,
    diagonal_network,
    gram_spectrum,
    hypercube_spectrum,
    kernel_movement,
    learning_curve,
    sphere_spectrum,
)

FAST = os.environ.get("DEEPLIMITS_FAST") == "1"
plt.close(plt.figure())  # starts the display of figures before a style is used

# %% [markdown]
# ## Eigenvalues on the sphere
#
# The kernel of a fully connected network depends on the angle between two inputs only, so its
# eigenfunctions are spherical harmonics. The lines are the predicted tails: a ReLU makes square
# roots in the kernel at parallel and antiparallel inputs, and these two numbers rule all high
# degrees. With one hidden layer they cancel for odd degrees; a smooth activation has no tail.

# %%
d, sqrt2 = 3, 2**0.5
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    for depth, color in zip((1, 2, 4), plotting.COLORS, strict=False):
        net = ntk.mlp(depth, "relu", W_std=sqrt2)
        spectrum = sphere_spectrum(net, d, 100)
        spectrum.plot(axes[0], label=f"ReLU, {depth} hidden", color=color)
        print(
            f"depth {depth}: decay k^{spectrum.tail.exponent:g}, "
            f"share of the trace above degree 100: {spectrum.missing / spectrum.trace:.1e}"
        )
    smooth = sphere_spectrum(ntk.mlp(2, "erf", W_std=sqrt2), d, 100)
    smooth.plot(axes[0], label="erf, 2 hidden", color=plotting.COLORS[3])
    axes[0].set_title("NTK on the sphere in three dimensions")
    axes[0].legend()
    for dimension, color in zip((10, 50, 200), plotting.COLORS, strict=False):
        cube = hypercube_spectrum(ntk.mlp(2, "relu", W_std=sqrt2, b_std=0.1), dimension)
        k = np.flatnonzero(cube.resolved & (cube.power > 0))
        axes[1].semilogy(k, cube.power[k] / cube.trace, "o-", color=color, label=f"d = {dimension}")
    axes[1].set(xlabel="degree k", ylabel="share of the trace", xlim=(-0.5, 20.5), ylim=(3e-5, 1))
    axes[1].set_title("NTK on the hypercube")
    axes[1].legend()

# %% [markdown]
# ## Learning curves in theory and in measurement
#
# Kernel regression in Gaussian features with eigenvalues $i^{-3/2}$ and a target with coefficients
# $i^{-0.9}$. Lines: theory. Points: mean over fresh training sets, with standard errors.

# %%
modes = 300 if FAST else 600
lam, v = np.arange(1.0, modes + 1) ** -1.5, np.arange(1.0, modes + 1) ** -0.9


def gaussian_features(key, m):
    phi = jax.random.normal(key, (m, modes))
    return phi * jnp.sqrt(jnp.asarray(lam))[None, :], phi @ jnp.asarray(v)


sizes = [8, 16, 32, 64, 128] if FAST else [8, 16, 32, 64, 128, 256, 512]
grid = np.geomspace(8, sizes[-1], 40)
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    for (ridge, noise), color in zip(
        [(0.01, 0.0), (0.01, 0.1), (0.3, 0.1)], plotting.COLORS, strict=False
    ):
        measured = regression_curve(
            lambda a, b: a @ b.T,
            gaussian_features,
            sizes,
            key=0,
            ridge=ridge,
            noise=noise,
            draws=10,
        )
        theory = learning_curve(lam, v, grid, ridge, noise)
        label = f"ridge {ridge:g}, noise {noise:g}"
        axes[0].loglog(grid, theory.test, color=color, label=label)
        measured.plot(axes[0], color=color)
        axes[1].loglog(grid, theory.train, color=color)
        axes[1].errorbar(sizes, measured.train, measured.train_stderr, fmt="o", color=color)
        z = np.concatenate(measured.z(learning_curve(lam, v, sizes, ridge, noise)))
        print(f"{label}: largest |z| of {z.size} comparisons {np.abs(z).max():.2f}")
    axes[0].legend()
    axes[1].set(xlabel="training points", ylabel="training error")

# %% [markdown]
# The theory is differentiable, so the best ridge for given data is a matter of following the
# gradient (thin line: the optimum for n = 64). The more data, the more a ridge is worth against
# noise: with few, what is not yet learned costs more than the noise.

# %%
ridges = np.geomspace(1e-4, 3, 30)
slope = jax.jit(
    jax.grad(lambda log_ridge: jnp.log(learning_curve(lam, v, 64, jnp.exp(log_ridge), 0.1).test))
)
log_ridge = jnp.array(0.0)
for _ in range(200):
    log_ridge = log_ridge - 2.0 * slope(log_ridge)
best = float(jnp.exp(log_ridge))
with plotting.style():
    fig, ax = plt.subplots(figsize=(5.2, 3.4))
    for n, color in zip((16, 64, 256), plotting.COLORS, strict=False):
        tests = [float(learning_curve(lam, v, n, r, 0.1).test) for r in ridges]
        ax.loglog(ridges, tests, color=color, label=f"n = {n}")
    ax.axvline(best, color="0.4", linewidth=0.8)
    ax.set(xlabel="ridge", ylabel="test error")
    ax.legend()
print(f"best ridge at n = 64: {best:.3f}, gradient there {float(slope(log_ridge)):.1e}")

# %% [markdown]
# ## Handwritten digits
#
# For real data the spectrum is that of the Gram matrix, and the data set is the whole population:
# n images are drawn for training, the others are the test set. Three theories, on the right as the
# relative deviation of the measured test error (the bars are standard errors):
#
# - `predicted_curve`: n of N points, with random eigenvectors in place of the true ones;
# - `site_curve`, leading order: the true eigenvectors, a mean field for every single image;
# - `site_curve`: the same with the first correction in 1/n.

# %%
count = 300 if FAST else 600
digits = datasets.load("digits")
X, Y = datasets.to_sphere(digits.X[:count]), np.eye(10)[digits.y[:count]] - 0.1
nets = {"erf": ntk.mlp(2, "erf", W_std=1.5, b_std=0.1), "ReLU": ntk.mlp(2, "relu", W_std=sqrt2)}
sizes = [8, 32, 128] if FAST else [8, 16, 32, 64, 128, 256, 512]
with plotting.style():
    fig, axes = plt.subplots(1, 3, figsize=(12, 3.6))
    for (name, net), color in zip(nets.items(), plotting.COLORS, strict=False):
        gram = np.asarray(net.ntk(X))
        spectrum = gram_spectrum(gram, Y)
        spectrum.plot(axes[0], color=color, label=name)
        random, site = predicted_curve(gram, Y, sizes, 1.0), site_curve(gram, Y, sizes, 1.0)
        measured = subset_regression_curve(gram, Y, sizes, key=1, ridge=1.0, draws=20)
        site.plot(axes[1], color=color, label=name)
        measured.plot(axes[1], color=color)
        print(
            f"{name}: effective number of modes {spectrum.participation_ratio:.2f}, "
            f"alignment {spectrum.alignment:.3f}"
        )
        z_random, z_site = measured.z(random), measured.z(site)
        for i, n in enumerate(sizes):
            print(
                f"  n = {n:4d}: test {measured.test[i]:.4f} +- {measured.test_stderr[i]:.4f}; "
                f"z of test, train: random eigenvectors {z_random[0][i]:+.1f}, "
                f"{z_random[1][i]:+.1f}; site curve {z_site[0][i]:+.1f}, {z_site[1][i]:+.1f}"
            )
    for test, fmt, label in (
        (random.test, "s:", "random eigenvectors"),
        (site.leading_test, "^--", "sites, leading order"),
        (site.test, "o-", "sites, order 1/n"),
    ):
        relative, bar = measured.test / test - 1, measured.test_stderr / test
        axes[2].errorbar(sizes, relative, bar, fmt=fmt, markersize=4, label=label)
    axes[2].axhline(0, color="0.4", linewidth=0.8)
    axes[2].set(xscale="log", xlabel="training points", ylabel="measured / theory - 1")
    axes[2].set_title("ReLU")
    for ax in axes:
        ax.legend()

# %% [markdown]
# ## Lazy and rich
#
# The diagonal network $f = \langle u\circ u - v\circ v, x\rangle$, trained from $u = v = \alpha$
# to interpolation: a large $\alpha$ gives the kernel solution (dashed), a small one the sparse
# solution. On the right, the tangent kernel of tanh networks before and after training: its
# change shrinks as one over the width and over the output scale.

# %%
rng = np.random.default_rng(0)
d = 40
sparse = np.zeros(d)
sparse[:3] = [1.0, -0.7, 0.5]
inputs = rng.standard_normal((20, d))
solution = diagonal_network(inputs, inputs @ sparse, np.geomspace(1e-4, 10, 60))

points, targets = rng.standard_normal((6, 8)), np.array([1.0, -1, 1, 1, -1, -1])
widths = [16, 32] if FAST else [16, 32, 64]


def movement(width, alpha):
    net = ntk.mlp(2, "tanh", W_std=1.5, b_std=0.1, width=width)

    def one(key):
        params = net.init(key, points.shape)[1]
        return kernel_movement(net.apply, params, points, targets, alpha=alpha, tol=1e-3).relative

    moved = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 12))
    return float(jnp.sqrt(jnp.mean(moved**2)))


with plotting.style():
    fig, axes = plt.subplots(1, 3, figsize=(11, 3.4))
    solution.plot(axes[0])
    error = np.linalg.norm(solution.beta - sparse, axis=1) / np.linalg.norm(sparse)
    axes[1].semilogx(solution.alpha, error)
    axes[1].set(xlabel=r"initial scale $\alpha$", ylabel="error of the predictor")
    for alpha, color in zip((2.0, 8.0), plotting.COLORS, strict=False):
        change = [movement(width, alpha) for width in widths]
        axes[2].loglog(widths, change, "o-", color=color, label=rf"$\alpha$ = {alpha:g}")
        axes[2].loglog(widths, change[-1] * widths[-1] / np.array(widths), ":", color=color)
    axes[2].set(xlabel="width", ylabel="relative change of the NTK")
    axes[2].set_xticks(widths, widths)
    axes[2].set_xticks([], minor=True)
    axes[2].legend()

# %% [markdown]
# Which of the two regimes a parameterisation reaches at infinite width is arithmetic:

# %%
for name in ("ntk", "standard", "mup", "mean_field"):
    found = abc_exponents(name, depth=2)
    print(
        f"{name:10s}  a = {found.a}  b = {found.b}  c = {found.c:g}  r = {found.r:g}: "
        f"{found.regime}"
    )
