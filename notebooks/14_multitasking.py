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
# # Multitasking networks
#
# When patterns have blank entries (a share $d$ of them), a Hebbian network can retrieve several at
# once: spins that the first pattern leaves free follow the second, and so on. The averages below
# are exact sums over all combinations of entries, with any number of noisy examples.

# %%
import jax

jax.config.update("jax_enable_x64", True)

import os

import matplotlib.pyplot as plt
import numpy as np

import statmech
from deeplimits import plotting
from statmech import Examples

FAST = os.environ.get("DEEPLIMITS_FAST") == "1"
plt.close(plt.figure())  # starts the display of figures before a style is used

# %% [markdown]
# ## From hierarchy to parallel retrieval
#
# Zero temperature. Full lines: the state of lowest energy; dashed: the hierarchy
# $m_k = d^{k-1}(1-d)$, which breaks down at the dotted line, where
# $d + d^2 + \dots + d^{K-1} = 1$.

# %%
d = np.linspace(0.01, 0.98, 32 if FAST else 64)
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.3), sharey=True)
    for ax, K in zip(axes, (3, 5), strict=True):
        best, hierarchy = statmech.multitasking(K, d, 0.0), statmech.multitasking_hierarchy(K, d)
        for k in range(K):
            ax.plot(d, best.m[:, k], color=plotting.COLORS[k], label=f"m{k + 1}")
            ax.plot(d, hierarchy.m[:, k], "--", color=plotting.COLORS[k], linewidth=0.8)
        ax.axvline(statmech.multitasking_hierarchy_limit(K), color="0.4", linestyle=":")
        ax.set(xlabel="dilution d", title=f"{K} patterns")
        gain = np.max(hierarchy.E - best.E)
        print(f"K = {K}: the best state lies below the hierarchy by at most {gain:.2g} per spin")
    axes[0].set_ylabel("overlap")
    axes[1].legend(ncols=2)

# %% [markdown]
# ## Temperature, and which state wins
#
# Below the onset $T = 1 - d$ a single pattern condenses for $d < 2/3$ and all together above.

# %%
n = 16 if FAST else 48
diagram = statmech.phase_diagram(
    "multitasking", K=3, d=np.linspace(0, 0.96, n), T=np.linspace(0, 1, n)
)
T = np.linspace(0.0, 0.8, 32)
cooled = statmech.multitasking(3, 0.3, T)
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(10, 3.6))
    statmech.plot_phase_diagram(diagram, ax=axes[0])
    for k in range(3):
        axes[1].plot(T, cooled.m[:, k], color=plotting.COLORS[k], label=f"m{k + 1}")
    axes[1].set(xlabel="temperature T", ylabel="overlap", title="3 patterns, d = 0.3")
    axes[1].legend()

# %% [markdown]
# ## Learning from examples
#
# The noise of examples, measured by $\rho = (1-r^2)/(M r^2)$, makes the hierarchy collapse. Points:
# networks of a million spins by exact Gibbs sampling, with standard errors. At this load learning
# with and without supervision have the same equations.

# %%
quality = np.linspace(0.2, 0.95, 6 if FAST else 16)
sets = [Examples(10, float(r)) for r in quality]
states = [statmech.multitasking(2, 0.4, 0.1, examples=e) for e in sets]
entropy = (1 - quality**2) / (10 * quality**2)
with plotting.style():
    fig, ax = plt.subplots()
    for k in range(2):
        ax.plot(entropy, [s.m[k] for s in states], color=plotting.COLORS[k], label=f"m{k + 1}")
    for i in range(1, len(sets), 2 if FAST else 4):
        found = statmech.simulate_multitasking(
            2, 0.4, 0.1, 1_000_000, start=states[i].Mhat, examples=sets[i], key=7
        )
        for k in range(2):
            color = plotting.COLORS[k]
            ax.errorbar(entropy[i], found.mean[k], found.stderr[k], fmt="o", color=color)
    ax.set(xlabel="entropy of the data set", ylabel="overlap", xscale="log")
    ax.set_title("K = 2, d = 0.4, T = 0.1, M = 10 examples")
    ax.legend()

# %% [markdown]
# One step from the hierarchical start, exactly and with Gaussian noise, and how many examples one
# pattern needs.

# %%
exact = statmech.multitasking_one_step(3, 0.3, examples=Examples(15, 0.4))
gaussian = statmech.multitasking_one_step_gaussian(3, 0.3, rho=0.84 / (15 * 0.16))
print("one step, exact:   ", np.round(exact, 5))
print("one step, Gaussian:", np.round(gaussian, 5))
print(
    "examples needed at r = 0.5, 0.3, 0.1:", statmech.multitasking_examples_needed([0.5, 0.3, 0.1])
)
