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
# # The Hopfield network: how many patterns, up to which temperature?
#
# A network of N spins that stores K = αN random patterns by Hebb's rule has three kinds of states:
# it remembers, it is a spin glass, or it is disordered. Amit, Gutfreund and Sompolinsky found the
# diagram in 1985. Here it is exact to rounding, with every branch labelled, and simulated networks
# are laid on top.

# %%
import jax

jax.config.update("jax_enable_x64", True)

import os

import matplotlib.pyplot as plt
import numpy as np

import statmech
from deeplimits import plotting

FAST = bool(os.environ.get("DEEPLIMITS_FAST"))
plt.close(plt.figure())  # starts the display of figures before a style is used

# %%
print("capacity at T = 0:", statmech.hopfield_capacity())
state = statmech.hopfield(alpha=0.1, T=0.2)
print(f"m = {state.m:.8f}, q = {state.q:.8f}, U = {state.U:.8f}, stable: {state.stable}")
print("load 0.15 at T = 0.2 retrieves:", statmech.hopfield(0.15, 0.2).exists)
gradient = jax.grad(lambda alpha: statmech.hopfield(alpha, 0.2).m)(0.1)
print(f"dm/dalpha = {gradient:.8f}")

# %% [markdown]
# ## Networks of a thousand spins
#
# Each network starts at one of its patterns. After the burn-in the overlap tells the phase: it
# stays near the theory where retrieval states exist. Their free energy decides which of the two
# states is the ground state, and that a short simulation cannot see.

# %%
N, samples = (300, 3) if FAST else (800, 6)
temperatures = np.array([0.1, 0.3, 0.5, 0.7, 0.9, 1.15])
loads = np.array([0.02, 0.1] if FAST else [0.02, 0.06, 0.1, 0.14])  # each compiles a program
overlap = np.empty((len(temperatures), len(loads)))
error = np.empty_like(overlap)
for i, alpha in enumerate(loads):
    patterns = statmech.random_patterns(round(alpha * N), N, key=i, samples=samples)
    run = statmech.simulate(
        statmech.hebbian_coupling(patterns),
        key=i,
        T=temperatures,
        sweeps=60,
        burn_in=120,
        chains=4,
        start="pattern",
        progress=False,
    )
    each = run.series["overlap"].mean(axis=(-2, -1))  # (temperatures, samples)
    overlap[:, i] = each.mean(-1)
    error[:, i] = each.std(-1, ddof=1) / samples**0.5

# %%
size = 60 if FAST else 200
diagram = statmech.phase_diagram(
    "hopfield", alpha=np.linspace(0, 0.16, size), T=np.linspace(0, 1.4, size)
)
shown, at = np.meshgrid(loads, temperatures)
with plotting.style():
    fig, ax = plt.subplots(figsize=(6.6, 4.6))
    statmech.plot_phase_diagram(diagram, ax=ax)
    marks = ax.scatter(shown, at, c=overlap, cmap="Greys", edgecolors="black", vmin=0, vmax=1,
                       s=45, zorder=5)  # fmt: skip
    fig.colorbar(marks, label="overlap of simulated networks")

# %% [markdown]
# ## Order parameters
#
# The branch ends at the spinodal with a finite overlap and infinite slope. Points are simulated
# networks; near the end finite networks may still escape or still stay.

# %%
T_line = np.linspace(0, 1, 200)
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(9.6, 3.5))
    for i, alpha in enumerate(loads[:3]):
        theory = statmech.hopfield(alpha, T_line)
        color = plotting.COLORS[i]
        axes[0].plot(T_line, theory.m, color=color, label=f"load {alpha:g}")
        axes[0].errorbar(temperatures, overlap[:, i], error[:, i], fmt="o", color=color)
    axes[0].set(xlabel="temperature", ylabel="overlap m")
    axes[0].legend()
    alpha_line = np.linspace(0, 0.145, 300)
    for i, T in enumerate((0.0, 0.2, 0.5)):
        theory = statmech.hopfield(alpha_line, T)
        axes[1].plot(alpha_line, theory.m, color=plotting.COLORS[i], label=f"T = {T:g}")
        axes[1].plot(alpha_line, theory.q, "--", color=plotting.COLORS[i])
    axes[1].set(xlabel="load", ylabel="m (full) and q (dashed)", ylim=(0.5, 1.02))
    axes[1].legend(loc="lower left")

# %% [markdown]
# ## Re-entrance
#
# Within replica symmetry the capacity is not largest at T = 0, and the same holds for the
# transition: at a load of 0.138 there is no retrieval at T = 0, but there is at T = 0.02. Below
# the AT line the theory with replica symmetry is not exact; with one step of symmetry breaking the
# capacity at T = 0 is 0.138186.

# %%
T_fine = np.linspace(0, 0.12, 120)
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(9.6, 3.4))
    for ax, kind in zip(axes, ("spinodal", "transition"), strict=True):
        line = statmech.hopfield_load_line(kind, T_fine)
        ax.plot(line["alpha"], T_fine, label=line["alpha"].attrs["long_name"])
        tip = statmech.hopfield_line(kind, [0.05]).attrs
        ax.plot(tip["tip_alpha"], tip["tip_T"], "o", label=f"tip at {tip['tip_alpha']:.6f}")
        ax.set(xlabel="load", ylabel="temperature")
    at_line = statmech.hopfield_load_line("at", T_fine[1:])
    axes[0].plot(at_line["alpha"], T_fine[1:], label="AT line")
    axes[0].set(xlim=(0.1355, 0.1386), ylim=(0, 0.1))
    for ax in axes:
        ax.legend(loc="upper left" if ax is axes[1] else "lower left")

# %% [markdown]
# ## Mixtures
#
# With few patterns the network also remembers symmetric mixtures of an odd number of them, at
# higher energy and up to a lower temperature.

# %%
for n in (1, 3, 5, 7):
    mixture, limit = statmech.hopfield_mixture(n), statmech.hopfield_mixture_stability(n)
    print(f"{n} patterns: energy {mixture.U:.7f}, stable below T = {limit:.7f}")

# %% [markdown]
# ## Digits: patterns that are not random
#
# Images of digits share most of their pixels. The theory assumes independent patterns, so that it
# is only a reference here. Stored as they are, a few images are enough to lose every one of them
# in their common part; with each pixel cut at its own median, what they share is taken out, and
# more survives. With 64 pixels this is also far from the limit of many spins.

# %%
counts = np.array([3, 8]) if FAST else np.array([2, 4, 6, 9])  # each compiles a program


def recalled(patterns, key):
    """Mean final overlap at T = 0 over all patterns as starts."""
    run = statmech.simulate(
        statmech.hebbian_coupling(patterns), key=key, T=0.0, sweeps=1, burn_in=30,
        chains=len(patterns), start="pattern", target=np.arange(len(patterns)), progress=False,
    )  # fmt: skip
    return float(run.series["overlap"].mean())


curves = {}
for name, threshold in (("digits", "median"), ("digits, common part removed", "pixel")):
    curves[name] = [
        recalled(statmech.image_patterns("digits", K, key=1, threshold=threshold).patterns, 0)
        for K in counts
    ]
curves["random patterns"] = [
    recalled(statmech.random_patterns(int(K), 64, key=int(K)), 0) for K in counts
]
with plotting.style():
    fig, ax = plt.subplots(figsize=(5.6, 3.6))
    for i, (name, values) in enumerate(curves.items()):
        ax.plot(counts / 64, values, "o-", color=plotting.COLORS[i], label=name)
    fine = np.linspace(0.001, 0.137, 100)
    ax.plot(fine, statmech.hopfield(fine, 0.0).m, "k--", label="theory, random, N → ∞")
    ax.set(xlabel="load", ylabel="overlap after recall", ylim=(0, 1.03))
    ax.legend(loc="lower left")
