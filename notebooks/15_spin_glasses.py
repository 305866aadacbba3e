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
    glasses = {T: statmech.parisi("sk", T, steps[-2]) for T in (0.2, 0.5, 0.8)}
    for (T, s), color in zip(glasses.items(), plotting.COLORS, strict=False):
        s.plot(axes[1], color=color, label=f"T = {T}")
        print(f"T = {T}: f = {s.f:.9f}, at most {s.gap:.1e} below the exact value")
    axes[1].set_title("Parisi's x(q)")
    axes[1].legend(loc="lower right")

# %% [markdown]
# ## The overlap of two copies, simulated
#
# Parisi's x(q) is the probability that two copies of one system, in equilibrium, have an overlap of
# at most q in absolute value. Parallel tempering draws such copies; the bands are one standard
# error over the samples of disorder.

# %%
T, ladder = 0.5, [0.5, 0.6, 0.72, 0.87, 1.05]
plan = {32: (40, 20, 20)} if FAST else {32: (500, 50, 50), 128: (250, 180, 60)}
limit = glasses[T]
with plotting.style():
    ax = plotting.axes()
    for (N, (samples, burn_in, sweeps)), color in zip(plan.items(), plotting.COLORS, strict=False):
        run = statmech.parallel_tempering(
            statmech.sk_coupling(N, key=N, samples=samples), ladder, key=1,
            sweeps=sweeps, burn_in=burn_in, replicas=4, progress=False,
        )  # fmt: skip
        apart = np.abs(run.overlaps[0]).reshape(samples, 1, -1)
        q = (2 * np.arange(N // 2 + 1) + 1) / N  # half-way between the overlaps that N allows
        share = (apart < q[:, None]).mean(-1)
        mean, error = share.mean(0), share.std(0, ddof=1) / samples**0.5
        ax.plot(q, mean, color=color, label=f"N = {N}")
        ax.fill_between(q, mean - error, mean + error, color=color, alpha=0.3, lw=0)
        unit = run.series["energy"][0].mean((-2, -1)) + (1 - (apart[:, 0] ** 2).mean(-1)) / (2 * T)
        print(
            f"N = {N:3}: mean q^2 {run.q2.mean[0]:.3f} +- {run.q2.stderr[0]:.3f}, "
            f"95% of |q| below {np.quantile(apart, 0.95):.3f}, "
            f"equilibrium z = {unit.mean() / unit.std(ddof=1) * samples**0.5:+.1f}"
        )
    ax.stairs(
        limit.cdf(limit.q), [*limit.q, 1.0], baseline=None, color="black", label="Parisi's limit"
    )
    ax.axvline(limit.q[-1], color="gray", lw=0.8, ls=":")
    ax.set(xlabel="overlap |q|", ylabel="share of pairs below", xlim=(0, 1), ylim=(0, 1.02))
    ax.set_title(f"SK model, T = {T}")
    ax.legend(loc="upper left")
print(f"Parisi:  mean q^2 {limit.moment(2):.3f}, all |q| at most {limit.q[-1]:.3f}")

# %% [markdown]
# The steps stand for a curve that is continuous up to the largest overlap (dotted) and jumps there
# to 1: more than half of all pairs lie in one state. In finite systems this jump is smeared to both
# sides. The curves rise above the limit before it and reach 1 well beyond it, at overlaps that the
# limit excludes, and the mean square overlap is too large. Four times the spins make the rise
# steeper, but slowly. At small overlaps both sizes follow the limit within its steps. Equilibrium
# is tested by an identity of energy and overlap that holds at each size (z of its violation); the
# claim `statmech/sk-tempering` extrapolates the energy to Parisi's, which this figure cannot do.

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
# ## The 3-spin glass at finite size
#
# Energies from parallel tempering beside the limit, which has a kink at the static transition. By
# the identity of energy and overlap of terms, $2T$ times the excess of the energy over $-1/2T$ is
# the overlap, on the right: near 0 above the transition, the larger the systems the more so, and
# near that of the one-step state below it.

# %%
ladder, spins = np.array([0.3, 0.36, 0.43, 0.5, 0.58, 0.67, 0.78, 0.92, 1.1, 1.4]), (12, 24)
curve = np.linspace(0.25, 1.45, 121)
state = statmech.p_spin_state(3, curve)
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.6))
    for N, color in zip(spins, plotting.COLORS, strict=False):
        root = ((1 - 1 / N) * (1 - 2 / N)) ** 0.5  # energies of variance N / 2 exactly
        glass = statmech.p_spin_coupling(N, p=3, key=N, samples=20 if FAST else 100)
        run = statmech.parallel_tempering(
            glass, ladder * root, key=0, sweeps=100 if FAST else 600, burn_in=200, progress=False
        )
        u = run.series["energy"].mean((-2, -1)) / root
        q = statmech.link_overlap(run.overlaps, N, p=3).mean((-2, -1))
        for ax, x in zip(axes, (u, q), strict=True):
            error = x.std(1, ddof=1) / x.shape[1] ** 0.5
            ax.errorbar(ladder, x.mean(1), error, fmt="o", ms=3, color=color, label=f"N = {N}")
        gap = u + (1 - q) / (2 * ladder[:, None])
        z = gap.mean(1) / gap.std(1, ddof=1) * gap.shape[1] ** 0.5
        print(f"N = {N}: z of the identity from {z.min():.1f} to {z.max():.1f}")
    axes[0].plot(curve, state.U, color="black", label="limit")
    axes[1].plot(curve, (1 - state.x) * state.q**3, color="black", label="limit")
    for ax, name in zip(axes, ("energy per spin", "overlap of terms"), strict=True):
        ax.axvline(statmech.p_spin(3).T_c, color="gray", lw=0.8, ls=":")
        ax.set(xlabel="T", ylabel=name, title="3-spin glass")
        ax.legend()

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
# A statement that is exact at every size, held against complete enumeration.

# %%
check = deeplimits.claims.get("statmech/random-energy-model").run(key=0)
print(check.table())
