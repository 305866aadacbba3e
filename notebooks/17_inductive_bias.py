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
# # Inductive bias in bits
#
# A training set rarely singles out a function that generalises. What is missing must come from the
# designer, and it can be measured: among the hypotheses that already fit the training data, a share
# $P[L_{test} \le \varepsilon]$ has a small test error, and to pick one of these takes
#
# $$ I(\varepsilon) = -\log_2 P_h\left[L_{test}(h) \le \varepsilon\right] \text{ bits.} $$
#
# For Gaussian hypotheses (posteriors of infinitely wide networks, ensembles of trained ones) the
# test loss is a quadratic form, and its distribution function is computed here exactly, also where
# the probability is $10^{-200}$.

# %%
import jax

jax.config.update("jax_enable_x64", True)

import os

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import bounds
import deeplimits
import ntk
from deeplimits import datasets, plotting

FAST = bool(os.environ.get("DEEPLIMITS_FAST"))
plt.close(plt.figure())  # starts the display of figures before a style is used

# %% [markdown]
# ## Exact values, counting, and a fit
#
# A Gaussian process on 30 points in two or four dimensions, tested on 100. Counting samples is
# honest but ends at $\log_2 S$ bits. The published way is to fit a scaled non-central $\chi^2$ law
# to sampled losses and to read its tail. A posterior has many scales and that law has one: beyond
# what was sampled the fit is off by tens to hundreds of bits.


# %%
def posterior(x, y, z, length):
    """Mean and covariance of a noise-free RBF process (JAX, so that it can be differentiated)."""
    points = jnp.concatenate([x, z])
    square = jnp.sum((points[:, None] - points[None]) ** 2, -1)
    K = jnp.exp(-square / (2 * length**2)) + 1e-8 * jnp.eye(len(points))
    n = len(x)
    weights = jnp.linalg.solve(K[:n, :n], K[:n, n:])
    cov = K[n:, n:] - jnp.matmul(K[n:, :n], weights)
    return jnp.matmul(weights.T, y), (cov + cov.T) / 2


def smooth_task(d):
    """Inputs on the cube and a wave; the first 30 points are for training."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, size=(130, d))
    return X, np.sin(2 * X @ rng.normal(size=d))


samples, every = (300, 12) if FAST else (2000, 6)
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.4))
    for ax, d in zip(axes, (4, 2), strict=True):
        X, f = smooth_task(d)
        mean, cov = (np.asarray(a) for a in posterior(X[:30], f[:30], X[30:], 1.0))
        losses = bounds.sample_losses(mean, cov, f[30:], n_samples=samples, key=0)
        eps = np.median(losses) * np.geomspace(1e-3, 5, 31)
        exact = bounds.inductive_bias(mean, cov, f[30:], eps=eps)
        fit = [
            bounds.inductive_bias_from_losses(losses, e, method="ncx2-fit") for e in eps[:25:every]
        ]
        seen = np.quantile(losses, [0.005, 0.05, 0.3])
        counted = [bounds.inductive_bias_from_losses(losses, e) for e in seen]
        ax.semilogx(eps, exact.bits, label="exact")
        ax.semilogx(
            eps[:25:every], [e.bits for e in fit], "s--", ms=4, label=f"fit to {samples} samples"
        )
        ax.semilogx(seen, [c.bits for c in counted], "o", color="black", label="counting")
        ax.set(xlabel="mean squared test error allowed", title=f"{d} dimensions")
        ax.legend()
    axes[0].set_ylabel("inductive bias (bits)")
print(bounds.inductive_bias(mean, cov, f[30:], eps=0.3 * np.median(losses)).explain())

# %% [markdown]
# ## Harder tasks need more, more data needs less
#
# Targets drawn from the process itself (ten each, with standard errors): information grows with
# the dimension, falls with data, and grows without end as the tolerance shrinks. It depends on
# the test set, whose size belongs to every number.

# %%
targets = 4 if FAST else 10
trends = [
    bounds.inductive_bias_trend("dimension", [2, 3, 4, 6, 8, 12], key=1, targets=targets),
    bounds.inductive_bias_trend("n", [2, 5, 10, 20, 40, 80], key=2, targets=targets),
    bounds.inductive_bias_trend("eps", np.geomspace(0.005, 0.5, 8), key=3, targets=targets),
]
with plotting.style():
    fig, axes = plt.subplots(1, 3, figsize=(11, 3.2))
    for ax, trend in zip(axes, trends, strict=True):
        trend.plot(ax)
    for ax in axes[1:]:
        ax.set_ylabel("")

# %% [markdown]
# ## The kernel that supplies most
#
# The exact value is differentiable in the mean and the covariance, hence in every parameter of the
# kernel. The length scale that leaves the fewest bits to be supplied from outside is found by
# following the gradient (arrows).


# %%
X, f = smooth_task(4)


@jax.jit
def missing(log_length):
    mean, cov = posterior(
        jnp.asarray(X[:30]), jnp.asarray(f[:30]), jnp.asarray(X[30:]), jnp.exp(log_length)
    )
    return bounds.inductive_bias(mean, cov, f[30:], eps=0.05).value / np.log(2)


lengths = np.geomspace(0.5, 2.8, 7 if FAST else 19)
slope = jax.jit(jax.value_and_grad(missing))
values, slopes = np.array([slope(jnp.log(s)) for s in lengths]).T
position, path = jnp.log(0.6), []
for _ in range(4 if FAST else 8):  # Newton's rule with a secant for the curvature
    value, gradient = slope(position)
    curvature = (slope(position + 1e-4)[1] - gradient) / 1e-4
    path.append((float(jnp.exp(position)), float(value)))
    position = position - jnp.clip(gradient / jnp.abs(curvature), -0.4, 0.4)
path = np.array(path)
with plotting.style():
    fig, ax = plt.subplots()
    ax.semilogx(lengths, values, label="exact")
    for s, v, g in list(zip(lengths, values, slopes, strict=True))[:: 1 if FAST else 3]:
        step = np.exp([-0.09, 0.09])
        ax.plot(s * step, v + g * np.log(step), color="black", lw=2)
    ax.plot(*path.T, "o-", color=plotting.COLORS[1], markersize=4, lw=1, label="descent")
    ax.set(xlabel="length scale of the kernel", ylabel="inductive bias missing (bits)")
    ax.set_xticks([0.5, 1, 2], ["0.5", "1", "2"])
    ax.set_xticks([], minor=True)
    ax.set_ylim(-5, 1.1 * values.max())
    ax.legend(title="black: derivatives")
print(f"best length scale {path[-1, 0]:.3f}: {path[-1, 1]:.2f} bits")

# %% [markdown]
# ## Finite networks follow the law
#
# 600 networks with 2048 hidden units, each trained to zero training error on ten points: the law of
# their test losses against that of the tangent-kernel ensemble, with nothing fitted.

# %%
rng = np.random.default_rng(0)  # the task of the claim
X = rng.normal(size=(30, 4))
f = np.sin(X[:, 0] + X[:, 1])
net = ntk.mlp(1, "relu", W_std=2**0.5)
K, T = np.asarray(net.nngp(X)), np.asarray(net.ntk(X))
A = np.linalg.solve(T[:10, :10], T[:10, 10:]).T
cross = A @ K[:10, 10:]
cov = K[10:, 10:] + A @ K[:10, :10] @ A.T - cross - cross.T
losses = np.linspace(0.2, 1.8, 80)
law = np.exp(-bounds.inductive_bias(A @ f[:10], (cov + cov.T) / 2, f[10:], losses).value)
with plotting.style():
    ax = plotting.axes()
    ax.plot(losses, law, color="black", label="tangent-kernel ensemble")
    if not FAST:
        check = deeplimits.claims.get("bounds/law-of-test-loss").run(key=0)
        print(check.table())
        at, point = np.array([0.45, 0.6, 0.75, 0.9, 1.2]), check.points[-1]
        ax.errorbar(at, point.mean, 2 * point.stderr, fmt="o", label="networks, 2 standard errors")
    ax.set(xlabel="mean squared test loss", ylabel="share of networks below")
    ax.legend()

# %% [markdown]
# ## Architectures on real digits
#
# Eights against nines, 80 training and 60 test images: how many bits does each architecture leave
# to be supplied? The convolutional network comes from `neural_tangents`.

# %%
digits = datasets.load("digits")
n, m = (30, 20) if FAST else (80, 60)
index = np.random.default_rng(3).permutation(np.flatnonzero(np.isin(digits.y, (8, 9))))[: n + m]
images = digits.images[index]
images = images - images.mean((1, 2, 3), keepdims=True)
images = images / images.std((1, 2, 3), keepdims=True)
labels = np.where(digits.y[index] == 8, 1.0, -1.0)


def dense(depth, activation):
    return ntk.serial(ntk.Flatten(), ntk.mlp(depth, activation, W_std=2**0.5, b_std=0.1))


stax = ntk.neural_tangents().stax
convolution = ntk.from_neural_tangents(
    stax.serial(
        stax.Conv(1, (3, 3), strides=(2, 2), padding="SAME", W_std=2**0.5, b_std=0.1),
        stax.Relu(),
        stax.Flatten(),
        stax.Dense(1, W_std=2**0.5, b_std=0.1),
    )
)
networks = {
    "linear": dense(0, "relu"),
    "ReLU, depth 1": dense(1, "relu"),
    "ReLU, depth 3": dense(3, "relu"),
    "erf, depth 1": dense(1, "erf"),
    "convolution": convolution,
}
if FAST:
    networks = {k: networks[k] for k in ("linear", "ReLU, depth 1")}
found = bounds.compare_architectures(
    networks, images[:n], labels[:n], images[n:], labels[n:], key=0, eps=0.15, n_samples=5000
)
print(found.table())
with plotting.style():
    found.plot_bits()
