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
# # Measuring mutual information honestly
#
# How much do two things tell about each other, in nats, from samples alone? Every estimator fails
# somewhere, and most fail silently. Here each one meets samples whose information is known, and
# each estimate carries its error, its ceiling, its bracket and its warnings.

# %%
import jax

jax.config.update("jax_enable_x64", True)

import os

import matplotlib.pyplot as plt
import numpy as np

from bounds import mutual_information as mi
from deeplimits import datasets, plotting

plt.close(plt.figure())  # starts the display of figures before a style is used
FAST = bool(os.environ.get("DEEPLIMITS_FAST"))  # fewer samples when run as a test

sample = mi.gaussian_pairs(2000, 1.0, key=0)
print(mi.ksg(sample.x, sample.y).explain())

# %% [markdown]
# ## Too few samples, too many dimensions
#
# Nearest-neighbour estimates (KSG) of Gaussian pairs with I = 1 and I = 3 nats. In one or two
# dimensions each, 500 samples do; in ten, 8000 samples find half of the information, and the error
# bars know nothing of it: they measure scatter, not bias.

# %%
sizes = [250, 500, 1000] if FAST else [250, 500, 1000, 2000, 4000, 8000]
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharex=True)
    for ax, information in zip(axes, (1.0, 3.0), strict=True):
        for d in (1, 2, 5, 10):
            found = []
            for n in sizes:
                pair = mi.gaussian_pairs(n, information, d, key=n)
                found.append(mi.ksg(pair.x, pair.y))
            ax.errorbar(sizes, [float(r) for r in found], [r.stderr for r in found], fmt="o-",
                        label=f"{d} + {d} dimensions")  # fmt: skip
        ax.axhline(information, color="k", linestyle="--", linewidth=1)
        ax.set(xscale="log", xlabel="samples", ylabel="KSG estimate (nats)", ylim=(0, None))
        ax.set_title(f"truth: {information:g} nats")
        ax.set_xticks(sizes, [str(n) for n in sizes])
        ax.minorticks_off()
    axes[0].legend(loc="lower right", ncols=2)

# %% [markdown]
# ## The ceiling
#
# No sample of n points gives a KSG estimate above ψ(n) - ψ(k), not even y = x, whose information is
# infinite. Near the ceiling an estimate says "at least this much".

# %%
n = 1000
truths = np.arange(1.0, 11.0)
with plotting.style():
    fig, ax = plt.subplots(figsize=(6, 3.4))
    for k in (3, 10):
        found = []
        for information in truths:
            pair = mi.gaussian_pairs(n, information, key=int(information))
            found.append(mi.ksg(pair.x, pair.y, k, jackknife=0))
        line = ax.plot(truths, [float(r) for r in found], "o-", label=f"KSG, k = {k}")[0]
        ax.axhline(found[0].ceiling, color=line.get_color(), linestyle=":", linewidth=1.2)
    ax.plot(truths, truths, "k--", linewidth=1, label="truth")
    ax.set(xlabel="true information (nats)", ylabel="estimate (nats)")
    ax.set_title(f"{n} samples; dotted: ceilings")
    ax.legend(loc="upper left")
pair = mi.gaussian_pairs(n, 9.0, key=1)
print(*mi.ksg(pair.x, pair.y).warnings, sep="\n")
same = mi.ksg(pair.x, pair.x)
print(f"y = x: {float(same):.8f}, ceiling {same.ceiling:.8f}")

# %% [markdown]
# ## The same information in other coordinates
#
# A monotone map of single coordinates changes no information, but it changes distances. Ranks
# mapped to normal quantiles (`transform="rank-gauss"`) undo every such map at once. A Student-t
# pair is dependent even without correlation: the common scale tells.

# %%
n = 1000 if FAST else 3000
cases = {
    name: mi.gaussian_pairs(n, 2.0, 3, marginal=name, rotate=False, key=1)
    for name in ("gaussian", "uniform", "cubed", "asinh")
}
cases["Student-t, nu = 2"] = mi.student_pairs(n, 0.0, 2.0, 2, key=2)
cases["additive uniform"] = mi.additive_uniform(n, 0.05, key=3)
print(f"{'':20}{'truth':>8}{'raw':>16}{'ranks':>16}{'ridge weights':>16}")
for name, case in cases.items():
    row = [
        mi.ksg(case.x, case.y),
        mi.ksg(case.x, case.y, transform="rank-gauss"),
        mi.weighted_kl(case.x, case.y),
    ]
    cells = "".join(f"{float(r):9.2f} ± {r.stderr:4.2f}" for r in row)
    print(f"{name:20}{case.information:8.2f}{cells}")

# %% [markdown]
# ## More dimensions: weighted entropies
#
# Weights over the first 20 neighbours can cancel the leading biases of h(x) + h(y) - h(x, y). The
# weights that cancel them exactly ("strict") grow without limit with the dimension, and the scatter
# with them; a ridge gives up a part of the cancellation for weights of order one. Both need smooth
# densities: on the right, independent uniform variables, whose hard edges turn into information of
# the wrong sign. KSG, where the edges cancel, is right there.

# %%
dims = (2, 6, 10) if FAST else (2, 4, 6, 8, 10)
n, runs = (300, 2) if FAST else (2000, 3)
methods = {
    "KSG": lambda v: mi.ksg(v.x, v.y, jackknife=0),
    "Kozachenko-Leonenko": lambda v: mi.kl(v.x, v.y),
    "strict weights": lambda v: mi.weighted_kl(v.x, v.y, weights="strict"),
    "ridge weights": lambda v: mi.weighted_kl(v.x, v.y),
}
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.4))
    for ax, marginal, truth in zip(axes, ("gaussian", "uniform"), (2.0, 0.0), strict=True):
        for name, estimate in methods.items():
            values = np.array(
                [
                    [
                        float(estimate(mi.gaussian_pairs(n, truth, d, marginal=marginal, key=s)))
                        for s in range(runs)
                    ]
                    for d in dims
                ]
            )
            ax.errorbar(dims, values.mean(1), values.std(1, ddof=1), fmt="o-", label=name)
        ax.axhline(truth, color="k", linestyle="--", linewidth=1)
        ax.set(xlabel="dimensions of x and of y", ylabel="estimate (nats)", ylim=(-2, 4))
        ax.set_title(f"{marginal}, truth {truth:g} nats")
    axes[0].legend(loc="lower left")

# %% [markdown]
# ## When the noise is yours: a bracket
#
# A layer with Gaussian noise has a known density given its input, so only a mixture is left to
# average. With the own component in the mixture the estimate is too low on average, without it too
# high. Where the bracket is wide, more samples are needed, whatever the value says.

# %%
d, n = 5, 500 if FAST else 2000
noises = np.geomspace(0.1, 3.0, 9)
activations = np.random.default_rng(0).normal(size=(n, d))
found = [mi.noisy_channel(activations, e, key=i) for i, e in enumerate(noises)]
rng = np.random.default_rng(1)
neighbours = [mi.ksg(activations, activations + e * rng.normal(size=(n, d)), jackknife=0)
              for e in noises]  # fmt: skip
with plotting.style():
    fig, ax = plt.subplots(figsize=(6, 3.4))
    low, high = np.array([r.bracket for r in found]).T
    ax.fill_between(noises, low, high, alpha=0.25, label="bracket of the mixture")
    ax.plot(noises, [float(r) for r in neighbours], "s-", color=plotting.COLORS[1], label="KSG")
    ax.plot(noises, 0.5 * d * np.log1p(noises**-2.0), "k--", linewidth=1, label="truth")
    ax.axhline(found[0].ceiling, color="0.5", linestyle=":", linewidth=1, label="ln n")
    ax.set(xscale="log", xlabel="noise", ylabel="I(X; T) (nats)", ylim=(0, 15))
    ax.legend()

# %% [markdown]
# ## Images: how many components?
#
# Pairs of images of one blob each; the information sits in the positions. Two principal components
# per image lose a quarter of it, four keep all that the estimator can see in the true positions.

# %%
n, size = (800, 16) if FAST else (4000, 32)
truths = [0.0, 2.0] if FAST else [0.0, 1.0, 2.0, 3.0, 5.0]
print(f"{'truth':>6}{'positions':>11}{'2 components':>14}{'4 components':>14}")
for information in truths:
    images = mi.image_pairs(n, information, size=size, key=4)
    hidden = mi.gaussian_pairs(n, information, 2, rotate=False, key=4)
    row = [float(mi.ksg(hidden.x, hidden.y, jackknife=0))]
    whole = mi.pca(images.x, 4)(images.x), mi.pca(images.y, 4)(images.y)
    row += [float(mi.ksg(*(v[:, :k] for v in whole), jackknife=0)) for k in (2, 4)]
    print(f"{information:6.1f}{row[0]:11.2f}{row[1]:14.2f}{row[2]:14.2f}")
shown = [mi.image_pairs(3, 3.0, shape, key=5) for shape in ("blobs", "rectangles")]
with plotting.style():
    fig, axes = plt.subplots(2, 6, figsize=(8, 2.8))
    for row, pairs in zip(axes, shown, strict=True):
        for i, ax in enumerate(row):
            ax.imshow((pairs.x, pairs.y)[i % 2][i // 2, :, :, 0], cmap="gray_r", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[], title=f"{'xy'[i % 2]}, pair {i // 2 + 1}")

# %% [markdown]
# ## Real data: what components of digits say about the label
#
# Continuous against discrete (Ross): the information between the label and the first principal
# components of 8 x 8 digits; the dotted line is the entropy of the labels.

# %%
digits = datasets.load("digits")
counts = [1, 2, 3, 4, 6, 8, 12]
found = [mi.mixed(mi.pca(digits.X, k)(digits.X), digits.y) for k in counts]
with plotting.style():
    fig, ax = plt.subplots(figsize=(6, 3.2))
    ax.errorbar(counts, [float(r) for r in found], [r.stderr for r in found], fmt="o-")
    ax.axhline(found[0].terms["label_entropy"], color="0.5", linestyle=":", linewidth=1.2)
    ax.set(xlabel="principal components", ylabel="I(components; label) (nats)", ylim=(0, 2.5))

# %% [markdown]
# ## The information plane of a real network
#
# A classifier of digits with three noisy hidden layers, watched from its random start (light
# points) to the end of training (dark). Every point has a bracket in both directions; dotted lines
# are the ceilings ln n and H(Y). What can be said: training raises both informations in every
# layer, and none of them sheds much of what it knows of the input afterwards; the late fall of the
# second layer is no larger than its bracket. What cannot: how much the trained first layer knows.
# Its 16 units separate so many inputs that a bracket of more than one nat is left.

# %%
x, y = digits.X / 16 - 0.3, digits.y
measured = 200 if FAST else 500
plane = mi.information_plane(
    x[:1200],
    y[:1200],
    x[-measured:],
    y[-measured:],
    key=0,
    widths=(16, 8, 4),
    noise=0.4,
    epochs=(0, 30) if FAST else (0, 1, 2, 4, 8, 16, 32, 64, 128, 256),
    runs=4 if FAST else 16,
)
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.8))
    plane.plot(axes[0])
    for layer, (width, color) in enumerate(zip(plane.widths, plotting.COLORS, strict=False)):
        low, high = plane.input_bracket[:, layer].T
        axes[1].fill_between(plane.epochs + 1, low, high, color=color, alpha=0.2)
        axes[1].plot(plane.epochs + 1, plane.input_information[:, layer], "o-", color=color,
                     label=f"layer {layer + 1} ({width})")  # fmt: skip
    axes[1].set(xscale="log", xlabel="epoch + 1", ylabel="I(X; T) (nats)")
    axes[1].legend(loc="upper left", ncols=3, fontsize=8)
    axes[1].set_ylim(0, 1.15 * plane.input_bracket[..., 1].max())
print("accuracy:", ", ".join(f"{a:.3f}" for a in plane.accuracy))
