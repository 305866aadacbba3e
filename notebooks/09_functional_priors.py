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
# # Priors in function space, and finite Bayesian networks
#
# A prior on weights is a prior on functions that nobody chose. Say instead which functions are
# wanted, as a Gaussian process, and fit the scales of the weights to it. In the limit of infinite
# width both sides are Gaussian, and their 2-Wasserstein distance and its gradient are closed forms.

# %%
import os

import jax

jax.config.update("jax_enable_x64", True)

import matplotlib.pyplot as plt
import numpy as np

from deeplimits import plotting
from gp import (
    BNN,
    GP,
    RBF,
    critic_w1,
    kl_gaussian,
    rank_priors,
    sqrtm_psd,
    wasserstein1_bounds,
    wasserstein2,
)
from ntk import mlp_family

FAST = bool(os.environ.get("DEEPLIMITS_FAST"))
plt.close(plt.figure())  # starts the display of figures before a style is used

# %% [markdown]
# ## Which architecture comes closest?
#
# The target: smooth functions of length 0.6 and variance 1 on [-3, 3]. One hidden layer of
# sin(x) + cos(x) has exactly this kernel. Other activations do not, and for them the distance says
# by how much: it is the mean squared error per point under the best coupling. A second layer with
# scales of its own helps.

# %%
grid = np.linspace(-3, 3, 24 if FAST else 40)[:, None]
target = RBF(0.6)
families = {
    "sincos, 1 layer": mlp_family("sincos"),
    "relu, 1 layer": mlp_family("relu"),
    "erf, 1 layer": mlp_family("erf"),
}
if not FAST:
    families["erf, 2 layers, own scales"] = mlp_family("erf", 2, scales="separate")
ranking = rank_priors(families, target, grid, restarts=1)
for line in ranking.table().splitlines():
    print(line[:60])

# %%
by_name = {m.label: m for m in ranking.matches}
erf = by_name["erf, 1 layer"]
print("fitted scales:", {name: round(value, 3) for name, value in erf.params.items()})
print("at the edge of their range (in effect 0):", erf.on_edge)
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(10, 3.6))
    ranking.plot(axes[0])
    for name, color in zip(("erf, 1 layer", "relu, 1 layer"), plotting.COLORS, strict=False):
        by_name[name].plot(axes[1], color=color)
    handles, labels = axes[1].get_legend_handles_labels()
    axes[1].legend([handles[0], handles[1], handles[3]], [labels[0], labels[1], labels[3]])

# %% [markdown]
# ## What finite networks draw
#
# Default scales, matched scales, and the target itself, all with one seed. The networks have 100
# hidden units: with one hidden layer, the covariance is that of the limit at every width. The
# distance sees covariances: erf units reach the variance and the length of the target by
# steep steps, not its smoothness.

# %%
line = np.linspace(-3, 3, 200)[:, None]


def functions(net, key, n=5):
    keys = jax.random.split(jax.random.key(key), n)
    return np.array([net.apply(net.init(k, line.shape)[1], line)[:, 0] for k in keys])


family = mlp_family("erf", width=100)
default = family(W_std=1.0, b_std=1.0, W_std_readout=1.0, b_std_readout=1.0)
rng = np.random.default_rng(0)
draws = {
    "default scales": functions(default, 1),
    "matched scales": functions(family(**erf.params), 1),
    "target": rng.normal(size=(5, 200)) @ sqrtm_psd(np.asarray(target(line))),
}
with plotting.style():
    fig, axes = plt.subplots(1, 3, figsize=(11, 3.0), sharey=True)
    for ax, (name, curves) in zip(axes, draws.items(), strict=True):
        ax.plot(line[:, 0], curves.T, lw=1.2)
        ax.set(title=name, xlabel="x")
    axes[0].set_ylabel("f(x)")

# %% [markdown]
# ## Which distance?
#
# The Kullback-Leibler divergence of two smooth priors measures the noise that one adds to both. The
# 2-Wasserstein distance needs none. It also bounds the 1-Wasserstein distance that adversarial
# critics estimate, from above; test functions with slope 1 bound it from below.

# %%
for nugget in (1e-8, 1e-6, 1e-4, 1e-2):
    divergence = kl_gaussian(erf.cov, erf.target_cov, nugget=nugget)
    print(f"KL with nugget {nugget:7.0e}: {divergence:12.4g} nats")
print(f"W2: {wasserstein2(erf.cov, erf.target_cov) ** 0.5:.4f}")
bounds = wasserstein1_bounds(erf.cov, erf.target_cov)
print(f"W1 lies between {bounds.lower:.4f} and {bounds.upper:.4f}")

# %% [markdown]
# A critic on a case with a known answer: standard normal vectors in four dimensions, scaled by 2
# against not scaled, where W1 is the mean length of a vector. The penalty lets the slope of the
# critic grow above 1, so the usual estimate is too large; the same critic on samples that it has
# not seen, over its largest slope, is a lower bound in the mean.

# %%
samples = rng.normal(size=(2, 400 if FAST else 1000, 4))
options = {"hidden": (32,), "learning_rate": 0.1, "steps": 50 if FAST else 300}
critic = critic_w1(2 * samples[0], samples[1], key=0, **options)
print(f"exact {wasserstein1_bounds(np.eye(4), 4 * np.eye(4)).lower:.3f}, usual estimate", end=" ")
print(f"{critic.in_sample:.2f}, held out {critic.held_out:.2f} +- {critic.stderr:.2f},", end=" ")
print(f"over the slope {critic.slope:.2f}: {critic.lower_bound:.2f}")

# %% [markdown]
# ## The posterior of a finite network
#
# Six observations of a wave. On the left the exact posteriors of the two infinite networks; on the
# right a network of 16 hidden units with the matched scales, sampled by NUTS, against its limit.

# %%
X = np.array([-2.4, -1.7, -0.9, -0.1, 0.8, 1.6])[:, None]
y = np.sin(3 * X[:, 0]) + 0.1 * rng.normal(size=6)
noise = 0.05
posterior = BNN(mlp_family("erf", width=16)(**erf.params), noise=noise).condition(X, y)
size = {"warmup": 30, "draws": 30} if FAST else {"warmup": 200, "draws": 250}
chains = posterior.sample(key=0, block=size["draws"], **size)
found = chains.predict(line[::5])
limits = {
    "default": GP(default.nngp, noise=noise).condition(X, y),
    "matched": GP(erf.net.nngp, noise=noise).condition(X, y),
}
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True)
    for color, (name, post) in zip(plotting.COLORS, limits.items(), strict=False):
        mean, half = post.mean(line), 2 * np.sqrt(post.var(line))
        axes[0].plot(line[:, 0], mean, color=color, label=f"{name} scales")
        axes[0].fill_between(line[:, 0], mean - half, mean + half, color=color, alpha=0.2, lw=0)
    found.plot(axes[1], color=plotting.COLORS[2], label="16 units, mean and 2 sd")
    for edge in (mean - half, mean + half):
        axes[1].plot(line[:, 0], edge, color=plotting.COLORS[1], lw=1)
    axes[1].plot(line[:, 0], mean, color=plotting.COLORS[1], lw=1, label="infinite width")
    for ax in axes:
        ax.plot(X[:, 0], y, "k.", ms=8)
        ax.set(xlabel="x", ylabel="f(x)")
        ax.legend()

# %% [markdown]
# Chains are judged by the functions, with effective sample sizes and R-hat at every point, and by
# what they cost. The difference between the finite network and its limit is real where it exceeds a
# few standard errors.

# %%
limit = limits["matched"]
z = (found.var[:, 0] - limit.var(line[::5])) / found.var_error[:, 0]
if not FAST:
    print(f"worst R-hat {found.rhat.max():.3f}, least effective draws {found.ess.min():.0f}")
    print(f"gradients of the log posterior: {chains.cost.gradients}")
    print(f"largest difference of the variances: {np.abs(z).max():.0f} standard errors")
    print("test score of the wave, nats per point: matched", end=" ")
    wave = np.sin(3 * line[::5, 0])
    score, rough = (
        -limits[name].predict(line[::5], noise=True).log_prob(wave) / len(wave)
        for name in ("matched", "default")
    )
    print(f"{score:.2f}, default {rough:.2f}")
