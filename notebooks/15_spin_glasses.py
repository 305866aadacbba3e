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
# # Spin glasses and replica-symmetry breaking
#
# Random couplings give a network many states that no symmetry relates. Their theory is exact:
# Parisi's formula, solved here with any number of steps, for any mixture of p-spin interactions,
# at any temperature, zero included.

# %%
import os

import jax

jax.config.update("jax_enable_x64", True)

import matplotlib.pyplot as plt
import numpy as np

import deeplimits
import statmech
from deeplimits import plotting
from statmech.phase import phase_diagram, plot_phase_diagram

FAST = bool(os.environ.get("DEEPLIMITS_FAST"))
plt.close(plt.figure())  # starts the display of figures before a style is used

# %% [markdown]
# ## The ground state of the SK model
#
# Replica symmetry (k = 0) gives a negative entropy and misses the energy in the second digit. Each
# further step is a rigorous lower bound; eight are right to 7e-6.

# %%
LIMIT = -0.7631667265665  # many steps; Crisanti and Rizzo (2002) and later digits
rs = statmech.sk(0.0)
steps = [1, 2, 3] if FAST else [1, 2, 3, 5, 8]
states = {k: statmech.parisi("sk", 0.0, k) for k in steps}
print(f"k = 0: energy {rs.f:.9f}, entropy {rs.S:.6f}")
for k, s in states.items():
    print(f"k = {k:2}: energy {s.f:.9f}, {LIMIT - s.f:.1e} below the limit")

with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.4))
    axes[0].loglog(steps, [LIMIT - s.f for s in states.values()], "o-")
    axes[0].set(xlabel="steps k", ylabel="energy below the limit", title="T = 0")
    axes[0].set_xticks(steps, [str(k) for k in steps])
    axes[0].set_xticks([], minor=True)
    for T, color in zip((0.2, 0.5, 0.8), plotting.COLORS, strict=False):
        s = statmech.parisi("sk", T, steps[-2])
        s.plot(axes[1], color=color, label=f"T = {T}")
        print(f"T = {T}: f = {s.f:.9f}, at most {s.gap:.1e} below the exact value")
    axes[1].set_title("Parisi's x(q)")
    axes[1].legend(loc="lower right")

# %% [markdown]
# ## Where replica symmetry breaks
#
# On the left the de Almeida-Thouless line of the SK model. On the right p-spin glasses: they break
# at once into one step, below a temperature at which exponentially many states have appeared, and
# these states break up once more at a lower one.

# %%
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.6))
    plot_phase_diagram(phase_diagram("sk"), ax=axes[0])
    powers = [3, 4, 5] if FAST else list(range(3, 9))
    plot_phase_diagram(phase_diagram("p_spin", p=powers), ax=axes[1])

print("  p      T_d       T_c       T_G     ground state")
for p in powers:
    s = statmech.p_spin(p)
    print(f"{p:3}  {s.T_d:.6f}  {s.T_c:.6f}  {s.T_G:.6f}  {s.e0:.9f}")
rem = statmech.rem()
print(f"REM            {rem.T_c:.6f}            {rem.e0:.9f}")

# %% [markdown]
# ## The random energy model at every size
#
# Its mean free energy is known exactly for any number of spins. Below the transition it approaches
# the limit as ln N / N, above it exponentially.

# %%
sizes = np.array([5, 10, 20, 40, 80])
with plotting.style():
    ax = plotting.axes()
    for T, color in zip((0.3, 0.5, 0.8), plotting.COLORS, strict=False):
        gap = [statmech.rem_finite(int(n), T) - statmech.rem_state(T).f for n in sizes]
        ax.loglog(sizes, np.maximum(gap, 1e-9), "o-", color=color, label=f"T = {T}")
    ax.set_xticks(sizes, [str(n) for n in sizes])
    ax.set_xticks([], minor=True)
    ax.set(xlabel="spins N", ylabel="f(N) - f", ylim=(1e-5, 0.5), title="random energy model")
    ax.legend()

# %% [markdown]
# ## The Hopfield network beyond replica symmetry
#
# One step raises the capacity at T = 0 from 0.137906 to 0.138186, and the energy of the spin glass,
# so that retrieval is the ground state up to 0.0561 patterns per neuron instead of 0.0519.

# %%
capacity = statmech.hopfield_1rsb_capacity()
print(f"capacity {capacity.alpha:.9f} at overlap {capacity.m:.6f}")
print(f"retrieval is the ground state up to {statmech.hopfield_1rsb_ground_state():.9f}")
loads = np.linspace(0.02, 0.3, 5 if FAST else 15)
glass = [statmech.hopfield_1rsb(a) for a in loads]
with plotting.style():
    ax = plotting.axes()
    ax.plot(loads, [s.E_rs for s in glass], "--", label="spin glass, replica symmetric")
    ax.plot(loads, [s.E for s in glass], label="spin glass, one step")
    ax.plot([0, capacity.alpha], [-0.5, -0.5], color=plotting.COLORS[2])
    ax.plot(capacity.alpha, capacity.E, "o", color=plotting.COLORS[2], label="retrieval")
    ax.annotate(" capacity", (capacity.alpha, capacity.E), fontsize=8)
    ax.set(xlabel="load", ylabel="energy per neuron", title="Hopfield network, T = 0")
    ax.legend(loc="lower left")

# %% [markdown]
# ## Against finite systems
#
# Two statements that are exact at every size, held against complete enumeration.

# %%
names = ["statmech/random-energy-model", "statmech/sk-energy-from-overlaps"]
for name in names[:1] if FAST else names:  # the tests run every claim
    check = deeplimits.claims.get(name).run(key=0)
    print(check.table(), "\n")
