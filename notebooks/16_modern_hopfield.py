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
# # Modern Hopfield networks
#
# One update of a continuous Hopfield network is one step of attention. How many patterns fit in,
# from how far a query still finds its pattern, and what the theorems guarantee.

# %%
import jax

jax.config.update("jax_enable_x64", True)

import os

import matplotlib.pyplot as plt
import numpy as np

from deeplimits import datasets, plotting
from statmech import associative

FAST = os.environ.get("DEEPLIMITS_FAST") == "1"
plt.close(plt.figure())  # starts the display of figures before a style is used

# %% [markdown]
# ## Capacity
#
# $e^{\alpha N}$ random patterns. Regions are exact for large $N$. On the sphere all patterns are
# lost at one load; what the best theorem guarantees lies far below it.

# %%
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(10, 3.8))
    for ax, patterns in zip(axes, ("spherical", "gaussian"), strict=True):
        associative.plot_diagram(associative.diagram(patterns=patterns), ax=ax)

# %% [markdown]
# Simulation: patterns are never made, only their overlaps with the query are drawn.

# %%
alpha = np.linspace(0.3, 0.8, 21)
with plotting.style():
    fig, ax = plt.subplots()
    for N in (8, 12) if FAST else (8, 12, 16):
        run = associative.critical_loads(1.0, N, patterns="spherical", trials=150, key=N)
        run.plot(alpha, ax=ax)
    ax.axvline(associative.typical_capacity(1.0, patterns="spherical"), color="k", linestyle=":")
    ax.legend()

# %% [markdown]
# For memories of spins there are two thresholds: up to one the pattern dominates the energy, up to
# the other single-spin updates still keep it, because noise of random sign adds up by squares.

# %%
limits = associative.spin_thresholds(0.0)
print(f"proven {limits.rigorous:.4f}, energy {limits.energy:.4f}, dynamics {limits.dynamics:.4f}")
loads = np.linspace(0.5, 0.78, 8)
with plotting.style():
    fig, ax = plt.subplots()
    for N in (20, 40):
        shares = [associative.unstable_spins(a, N, trials=2000, key=N) for a in loads]
        mean, bar = np.array([(s.mean, s.stderr) for s in shares]).T
        ax.errorbar(loads, mean, bar, marker="o", label=f"N = {N}")
    ax.axvline(limits.energy, color="0.5", linestyle="--", label="energy")
    ax.axvline(limits.dynamics, color="k", linestyle=":", label="dynamics")
    ax.set(xlabel="load ln(K) / N", ylabel="share of unstable spins")
    ax.legend()

# %% [markdown]
# ## Fixed points
#
# Two clusters of five patterns: with growing inverse temperature the fixed points average all
# patterns, one cluster, and single patterns.

# %%
rng = np.random.default_rng(0)
centres = rng.normal(size=(2, 16))
centres *= 6 / np.linalg.norm(centres, axis=1, keepdims=True)
clusters = np.repeat(centres, 5, axis=0) + 0.3 * rng.normal(size=(10, 16))
betas = np.geomspace(0.01, 10, 13)
k = []
for beta in betas:
    states = associative.retrieve(clusters, clusters, beta=beta).states
    k.append(associative.fixed_point_type(clusters, states, beta=beta).k)
with plotting.style():
    ax = associative.plot_fixed_point_types(betas, k)
    edge = associative.jacobian_bounds(clusters).unique_below
    ax.axvline(float(edge), color="k", linestyle=":", label="a single fixed point below")
    ax.legend()

# %% [markdown]
# ## Images
#
# Digits with the lower half masked. Nothing is normalised for the user: raw images are dominated by
# the ones with most ink, and centring them by hand is what makes retrieval work. After that, the
# bound on the error of one update is checked for noisy queries.

# %%
data = datasets.load("digits")
X = data.X[: 200 if FAST else 1000] / 16
masked = X * (np.arange(64) < 32)
betas = np.geomspace(0.1, 100, 7)
right = []
for beta in betas:
    found = associative.retrieve(X, masked, beta=beta, max_steps=50)
    kind = associative.fixed_point_type(X, found.states, beta=beta)
    right.append(np.mean(np.asarray(kind.pattern) == np.arange(len(X))))
centred = X - X.mean(0)
cut = centred * (np.arange(64) < 32)
ends = associative.retrieve(centred, cut, beta=30.0, max_steps=50).states
nearest = np.asarray(associative.fixed_point_type(centred, ends, beta=30.0).pattern)
hits = np.mean(nearest == np.arange(len(X)))
print(f"largest weight on the right image: raw {max(right):.2f}, centred {hits:.2f}")
with plotting.style():
    fig, axes = plt.subplots(3, 6, figsize=(7, 3.6))
    shown = np.asarray(ends[:6]) + X.mean(0)
    for row, images in zip(axes, (X[:6], masked[:6], shown), strict=True):
        for ax, image in zip(row, images, strict=True):
            ax.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
    for ax, name in zip(axes[:, 0], ("stored", "query", "retrieved"), strict=True):
        ax.set_ylabel(name)

# %%
patterns = rng.normal(size=(40, 32))
patterns *= 4 / np.linalg.norm(patterns, axis=1, keepdims=True)
index = np.tile(np.arange(40), 20)
push = rng.normal(size=(800, 32)) * np.linspace(0, 1.5, 800)[:, None] / 32**0.5
states = patterns[index] + push
bounds = associative.update_bounds(patterns, states, index)
error = np.linalg.norm(np.asarray(associative.update(patterns, states)) - patterns[index], axis=1)
print("violations:", int(np.sum(error > np.asarray(bounds.error))), "of", len(error))
with plotting.style():
    fig, ax = plt.subplots()
    ax.loglog(bounds.error, error, ".", label="one update")
    ends = np.array([error.min(), error.max()])
    ax.loglog(ends, ends, "k:", label="the bound")
    ax.set(xlabel="guaranteed error", ylabel="error")
    ax.legend()
