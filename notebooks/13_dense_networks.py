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
# # Dense Hebbian networks, and learning from examples
#
# Interactions of $P$ spins store $K = \alpha N^{P-1}$ patterns. Archetypes may be seen through $M$
# noisy examples of quality $r$ only, with or without a teacher who sorts them.

# %%
import jax

jax.config.update("jax_enable_x64", True)

import math
import os

import matplotlib.pyplot as plt
import numpy as np

import statmech
from deeplimits import datasets, plotting
from statmech import Examples

FAST = os.environ.get("DEEPLIMITS_FAST") == "1"
plt.close(plt.figure())  # starts the display of figures before a style is used

# %% [markdown]
# ## Capacity
#
# "Distinct" indices and full sums are two models: coincident indices are not negligible at this
# load. They lower the capacity by $(P-1)!/(2P-3)!!$.

# %%
P = np.arange(3, 11)
with plotting.style():
    ax = plotting.axes()
    for index in ("distinct", "full"):
        ax.semilogy(P, [statmech.dense_capacity(int(p), index=index).alpha for p in P], "o-",
                    label=index)  # fmt: skip
    ax.set(xlabel="spins per interaction P", ylabel=r"capacity $\alpha_c$ at T = 0")
    ax.legend()

# %% [markdown]
# ## Phase diagrams for data sets of growing entropy
#
# P = 4, many examples of total entropy $\rho$, supervised. With distinct indices the state without
# overlap is locally stable at every temperature, so that all transitions are of first order.

# %%
rhos = (0.0, 0.1) if FAST else (0.0, 0.1, 0.2)
alpha, T = np.linspace(0.001, 0.04, 4 if FAST else 79), np.linspace(0, 1.2, 5 if FAST else 49)[1:]
overlap = {}
if FAST:
    for rho in rhos:
        data = Examples(math.inf, rho=rho) if rho > 0 else None
        overlap[rho] = statmech.dense_hebbian(4, alpha, T[:, None], examples=data).m
else:
    with plotting.style():
        fig, axes = plt.subplots(1, len(rhos), figsize=(13, 4), sharey=True)
        for ax, rho in zip(axes, rhos, strict=True):
            diagram = statmech.phase_diagram("dense_hebbian", P=4, rho=rho, alpha=alpha, T=T)
            overlap[rho] = diagram["m_retrieval"].values
            statmech.plot_phase_diagram(diagram, ax=ax)
            if ax is not axes[-1]:
                ax.legend().remove()

# %% [markdown]
# ## Overlaps, and networks of finite size
#
# Two sections through the diagrams; curves end at the spinodal. The bars are Monte Carlo: networks
# of 80 spins that store 512 archetypes, seen through averages of many bad examples of entropy 0.1,
# started at an archetype. At low temperature noisy examples (entropy 0.2) add a second state of
# smaller overlap, which outlives the first; its replica symmetry is broken.

# %%
at = np.array([0, 1] if FAST else [7, 11, 15])  # temperatures of the simulation


def measured(load, T, rho, N, samples, chains=2):
    """Mean overlap and its error at each temperature."""
    rng = np.random.default_rng(0)
    patterns = rng.choice([-1.0, 1.0], (samples, round(load * N**3), N))
    noise = math.sqrt(rho) * rng.normal(size=patterns.shape)
    coupling = statmech.dense_coupling(
        (patterns + noise) / math.sqrt(1 + rho), P=4, reference=patterns[:, :1]
    )
    run = statmech.simulate(
        coupling, key=0, T=T, sweeps=20, burn_in=20, chains=chains,
        start=patterns[:, None, 0, :], progress=False,
    )  # fmt: skip
    m = np.asarray(run.overlaps).reshape(len(T), samples, -1).mean(-1)
    return m.mean(1), m.std(1, ddof=1) / math.sqrt(samples)


mean, error = measured(alpha[0], T[at], 0.1, *((48, 6) if FAST else (80, 24)))
for row in zip(T[at], mean, error, overlap[0.1][at, 0], strict=True):
    print("T = {:.2f}: Monte Carlo {:.4f} +- {:.4f}, theory {:.4f}".format(*row))
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    for i, (rho, m) in enumerate(overlap.items()):
        axes[0].plot(alpha, m[at[1]], color=plotting.COLORS[i], label=rf"$\rho$ = {rho}")
        axes[1].plot(T, m[:, 0], color=plotting.COLORS[i])
    axes[1].errorbar(T[at], mean, error, fmt=".", color="black", capsize=3, label="N = 80")
    axes[0].set(xlabel=rf"load $\alpha$ (T = {T[at[1]]:.1f})", ylabel="overlap m")
    axes[1].set(xlabel=r"temperature T ($\alpha$ = 0.001)")
    for ax in axes:
        ax.legend(loc="lower left")

# %% [markdown]
# ## How many examples are needed
#
# P = 4 at a fifth of the capacity. With a teacher the number grows as $r^{-2}$, without as
# $r^{-2P}$: noise enters the energy after it has been raised to the power P.

# %%
load = 0.2 * statmech.dense_capacity(4).alpha
r = np.geomspace(0.02, 0.5, 8 if FAST else 15)
with plotting.style():
    ax = plotting.axes()
    for way, power, name in ((True, -2, "supervised"), (False, -8, "unsupervised")):
        M = np.array([statmech.minimal_examples(4, load, x, supervised=way) for x in r])
        ax.loglog(r, M, "o-", label=name)
        slope = np.diff(np.log(M[:2]))[0] / np.diff(np.log(r[:2]))[0]
        print(f"{name}: slope {slope:.3f} at small r (theory {power})")
    ticks = [0.02, 0.05, 0.1, 0.2, 0.5]
    ax.set_xticks(ticks, [str(x) for x in ticks])
    ax.set_xticks([], minor=True)
    ax.set(xlabel="quality r", ylabel="minimal number of examples M")
    ax.legend()

# %% [markdown]
# ## Digits
#
# Real images are correlated and their pixels are not independent, so that the theory is a reference
# here and no prediction. Every network stores ten classes, seen through 20 images each; the
# archetype of a class is the sign of its average, and r is estimated by the mean size of that
# average. From images that none has seen, which archetype is nearest in the end?

# %%
data = datasets.load("digits")
images, labels = np.asarray(data.X).reshape(-1, 64), np.ravel(np.asarray(data.y)).astype(int)
signs = np.where(images > np.median(images, axis=0), 1.0, -1.0)  # what all images share is out
order = [np.flatnonzero(labels == k) for k in range(10)]
eta = np.stack([signs[i[:20]] for i in order], axis=1)  # (M, K, N)
unseen = np.concatenate([signs[i[20:30]] for i in order])
true = np.repeat(np.arange(10), 10)
quality = float(np.mean(np.abs(eta.mean(0))))
archetypes = np.where(eta.mean(0) >= 0, 1.0, -1.0)
learned = {"examples": eta.astype(np.int8), "r": quality, "P": 4}
networks = {
    "pairwise, Hebb": lambda: statmech.hebbian_coupling(archetypes),
    "pseudo-inverse": lambda: statmech.pseudo_inverse_coupling(archetypes),
    "dense, supervised": lambda: statmech.dense_coupling(**learned),
    "dense, unsupervised": lambda: statmech.dense_coupling(**learned, supervised=False),
}
final = {"start": unseen}
for name in list(networks)[1:3] if FAST else networks:
    run = statmech.simulate(
        networks[name](), key=0, T=0.02, sweeps=1, burn_in=30, chains=100, start=unseen,
        progress=False,
    )  # fmt: skip
    final[name] = np.asarray(run.spins, float)
for name, spins in final.items():
    m = spins @ archetypes.T / 64
    right = (m.argmax(1) == true).mean()
    print(
        f"{name:20} right class {right:.2f}, overlap with it {m[np.arange(100), true].mean():.3f}"
    )
law = Examples(20, quality)
print(f"independent pixels: overlap {statmech.one_step_overlap(4, 10 / 64**3, examples=law):.4f}")
with plotting.style():
    fig, axes = plt.subplots(len(final), 10, figsize=(8, 0.9 * len(final)), squeeze=False)
    for row, (name, spins) in zip(axes, final.items(), strict=True):
        for ax, image in zip(row, spins[::10], strict=True):
            ax.imshow(image.reshape(8, 8), cmap="gray", vmin=-1, vmax=1)
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
        row[0].set_ylabel(name.replace(", ", "\n"), rotation=0, ha="right", va="center", fontsize=8)
