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
# # Order, chaos and critical initialisation
#
# How large should the random weights of a deep network be? Too small, and all inputs are mapped to
# the same point (*order*); too large, and neighbours are torn apart (*chaos*). In between signals
# and gradients pass through many layers. All of this is known exactly for wide networks, from two
# Gaussian averages of the activation.

# %%
import jax

jax.config.update("jax_enable_x64", True)

import os

import matplotlib.pyplot as plt
import numpy as np

import deeplimits
import ntk
from deeplimits import plotting

plt.close(plt.figure())  # starts the display of figures before a style is used
FAST = bool(os.environ.get("DEEPLIMITS_FAST"))

# %% [markdown]
# ## The phase diagram of tanh
#
# Colours show the number of layers over which the correlation of two inputs approaches its fixed
# point; it diverges on the white line, the edge of chaos. On the right the correlation itself.

# %%
size = 30 if FAST else 100
W_std, b_std = np.linspace(0.5, 3.5, size), np.linspace(0, 1, size)
diagram = ntk.phase_diagram("tanh", W_std=W_std, b_std=b_std)
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.4))
    ntk.plot_phase_diagram(diagram, ax=axes[0])
    ntk.plot_phase_diagram(diagram, ax=axes[1], variable="c_star")

# %% [markdown]
# One point in detail: every fixed point of the variance with its stability, and the depth scales.

# %%
state = ntk.mean_field("tanh", W_std=2.5**0.5, b_std=0.05**0.5)
print(f"phase {state.phase}, q* = {state.q_star:.8f}, c* = {state.c_star:.8f}")
print(f"depth scales: variance {state.xi_q:.4f}, correlation {state.xi_c:.4f} layers")
print("weights too large for ReLU:", ntk.mean_field("relu", W_std=1.6, b_std=0.1).phase)

# %% [markdown]
# ## The edge and what lies beyond 1000 layers
#
# On the edge correlations approach 1 as a power of the depth: 1/l for smooth activations, 1/l² for
# those with kinks. The tangent kernel between different inputs, divided by its diagonal, tends to
# 1/3 or 1/4. The lines are the theory, the points stacks of layers of `ntk.repeat`.

# %%
b = 0.05**0.5
edge = float(ntk.order_to_chaos("tanh", b_std=[b]).W_std[0])
cases = {"tanh": (edge, b), "relu": (2**0.5, 0.0)}
depths = [10, 100, 1000]
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.2))
    for (name, (W, bias)), color in zip(cases.items(), plotting.COLORS, strict=False):
        limits = ntk.depth_limits(name, W, bias)
        radius = np.sqrt(2 * (limits.mean_field.q_star - bias**2)) / W
        x = radius * np.array([[1.0, 0.0], [0.6, 0.8]])
        block = ntk.serial(ntk.Dense(1, W, bias), ntk.Activation(ntk.dual(name)))
        gaps, ratios = [], []
        for depth in depths:
            net = ntk.serial(ntk.repeat(block, depth), ntk.Dense(1, W, bias))
            k = net.kernel_fn(x, None, ("nngp", "ntk"))
            gaps.append(1 - k.nngp[0, 1] / k.nngp[0, 0])
            ratios.append(k.ntk[0, 1] / k.ntk[0, 0])
        axes[0].loglog(depths, limits.gap(depths), color=color)
        axes[0].loglog(depths, gaps, "o", color=color, label=name)
        axes[1].semilogx(depths, ratios, "o", color=color, label=name)
        axes[1].axhline(limits.ntk_ratio, color=color)
    axes[0].set(xlabel="layers", ylabel="1 - correlation")
    axes[1].set(xlabel="layers", ylabel="tangent kernel / its diagonal")
    axes[0].legend()

# %% [markdown]
# ## Critical initialisation of any activation
#
# Criticality asks that perturbations along the input ($\chi_\parallel$) and across it
# ($\chi_\perp$) both keep their size. It fixes the variances of weights and biases, or shows that
# there are none.

# %%
names = ["relu", "tanh", "sin", "elu", "selu", "gelu", "swish", "softplus"]
print(f"{'':10}{'class':>17}{'C_b':>12}{'C_W':>12}{'K*':>10}   variance at depth l")
for name in names:
    try:
        c = ntk.critical_init(name)
        numbers = f"{c.C_b:12.8f}{c.C_W:12.8f}{c.K_star:10.5f}"
        print(f"{name:10}{c.universality:>17}{numbers}   {c.depth_law}")
    except deeplimits.DeepLimitsError as error:
        print(f"{name:10}{'none':>17}   {str(error).split(': ', 1)[1][:70]}...")

# %% [markdown]
# Your own activation works the same way. The variance then follows the law of its class:


# %%
def bent(x):
    """Linear at 0 with a bend that saturates."""
    return x / jax.numpy.sqrt(1 + x**2)


mine = ntk.critical_init(bent)
print(mine.universality, f"C_W = {mine.C_W:.6f}, a1 = {mine.a1:.6f}")
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.2))
    layers = np.geomspace(10, 1000, 20)
    for ax, name in zip(axes, ["tanh", "elu"], strict=True):
        c = ntk.critical_init(name)
        c.plot(ax)
        ax.loglog(layers, c.variance(layers), "k--", label="theory")
        ax.legend()

# %% [markdown]
# ## Finite networks
#
# Started at the fixed point of the chaotic phase, a network of infinite width stays there; finite
# ones scatter around it with a variance of order 1/width.

# %%
if not FAST:  # the tests run every claim by itself
    check = deeplimits.claims.get("ntk/chaotic-fixed-point").run(key=0)
    print(check.table())
    check.plot()
