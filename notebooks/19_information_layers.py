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
# # Information through layers
#
# What a network learns about its training set passes through its layers and is lost on the way. How
# much is left in a layer bounds how far the error on new data can exceed the training error, the
# *generalisation gap*. Here the bounds stand beside the gap itself wherever it can be computed.

# %%
import jax

jax.config.update("jax_enable_x64", True)

import itertools
import os

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import bounds
from bounds import contraction
from deeplimits import datasets, plotting

FAST = os.environ.get("DEEPLIMITS_FAST") == "1"
plt.close(plt.figure())  # starts the display of figures before a style is used

# %% [markdown]
# ## Two Gaussian classes and a deep linear network
#
# Random layers 20-10-5-2, a read-out along the mean of the examples. Everything is closed or one
# integral: the information that each layer keeps, the distance between training and test
# representation, and the errors on training and on new points.

# %%
d, widths, n = 20, (10, 5, 2), 20
rng = np.random.default_rng(3)
weights = [rng.normal(size=(b, a)).T / a**0.5 for a, b in itertools.pairwise((d, *widths))]
mean = np.full(d, d**-0.5)
h = bounds.hierarchy_linear_gaussian(weights, n=n, sigma=1.0, s=0.5, mean=mean)
print(h.table())
print()
print(h.best.explain())

# %% [markdown]
# The divergence bound falls from layer to layer, as it must. The Wasserstein bound of the output is
# never beaten by another layer's either, if all are evaluated exactly. On the right the gap for
# growing training sets, with a simulation.


# %%
def simulated_gap(n, runs=2000 if FAST else 10_000):
    """Gap of drawn networks: error on 20 new points minus error on the training points."""
    rng, gaps = np.random.default_rng(n), []
    for _ in range(runs // 500):
        y = rng.choice([-1.0, 1.0], size=(500, n + 20))
        noisy = y[..., None] * mean + rng.normal(size=(500, n + 20, d))
        shown = noisy @ np.linalg.multi_dot(weights)
        read_out = np.einsum("rnk,rn->rk", shown[:, :n], y[:, :n])
        wrong = y * np.einsum("rnk,rk->rn", shown, read_out) < 0
        gaps.append(wrong[:, n:].mean(1) - wrong[:, :n].mean(1))
    gaps = np.concatenate(gaps)
    return gaps.mean(), gaps.std() / len(gaps) ** 0.5


sizes = [3, 5, 10, 20, 50, 100]
tables = [bounds.hierarchy_linear_gaussian(weights, m, 1.0, mean=mean) for m in sizes]
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(10, 3.8))
    h.plot(axes[0])
    for row, name in ((0, "input"), (3, "last representation"), (4, "output")):
        axes[1].loglog(sizes, [t.bound[row] for t in tables], label=f"bound, {name}")
    axes[1].loglog(sizes, [t.gap for t in tables], "k", label="gap, exact")
    points = np.array([simulated_gap(m) for m in sizes]).T
    axes[1].errorbar(sizes, *points, fmt="o", color="k", markersize=4, label="gap, simulated")
    axes[1].set(xlabel="training examples n", ylabel="zero-one gap and bounds")
    axes[1].set_ylim(1e-2, 3)
    axes[1].legend(ncols=2, loc="upper right", fontsize=8)

# %% [markdown]
# ## How much survives a noisy layer
#
# Gaussian noise on representations of diameter D keeps at most the share $\eta$ of an information.
# The usual estimate by total variation grows like D, the true coefficient like D². A channel with
# two inputs and a grid of outputs reaches it.

# %%
ratio = np.geomspace(0.05, 12, 200)
x = np.linspace(-16, 16, 1200)
shown = np.array([0.1, 0.3, 1.0, 3.0, 8.0])
rows = [np.exp(-((x - np.array([[-r / 2], [r / 2]])) ** 2) / 2) for r in shown]
reached = [contraction.channel(W / W.sum(1, keepdims=True)) for W in rows]
table = {delta: contraction.depth_tradeoff(delta, 48) for delta in (0.3, 0.5, 0.7)}
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(10, 3.6))
    axes[0].loglog(ratio, contraction.awgn(ratio, 1.0, method="tv"), "--", label="total variation")
    axes[0].loglog(ratio, contraction.awgn(ratio, 1.0), label="tight")
    axes[0].loglog(shown, reached, "ko", label="two-point channel")
    axes[0].set(xlabel="diameter / noise", ylabel="contraction coefficient")
    axes[0].legend()
    for delta, t in table.items():
        axes[1].plot(t.layers, t["product"], "o-", label=f"dropout {delta}")
    axes[1].set(xscale="log", xlabel="layers for 48 units in all", ylabel="information left")
    axes[1].set_xticks(t.layers.values, [str(k) for k in t.layers.values])
    axes[1].set_xticks([], minor=True)
    axes[1].legend()

# %% [markdown]
# On the right: *deeper yet narrower*. With a given number of units, dropout forgets more in many
# narrow layers than in a few wide ones.
#
# ## A trap: the label is not contracted
#
# The label of an example reaches the loss without passing through the noise. Contracting the
# information of the pair (input, label) as a whole can be false: here is a complete enumeration, a
# threshold unit with weights -1, 0, 1 on two bits that are dropped with probability 0.9.

# %%
bits = np.array(list(itertools.product((0, 1), repeat=2)), float)
units = np.array(list(itertools.product((-1, 0, 1), repeat=3)), float)
out = (units @ np.column_stack([bits, np.ones(4)]).T > 0).astype(float)
true = np.array([0.1, 0.8, 0.7, 0.9])  # probability of label 1
p = np.concatenate([(1 - true) / 4, true / 4])
loss, labels = np.concatenate([out, 1 - out], axis=1), np.repeat([0, 1], 4)
g = bounds.gibbs_algorithm(loss, p, 3, gamma=5.0, labels=labels)

seen = np.zeros((8, 8))  # what is left of each example: two bits and the label
for k, mask in itertools.product(range(4), itertools.product((0, 1), repeat=2)):
    share = np.prod([0.1 if kept else 0.9 for kept in mask])
    left = int(bits[k] * mask @ [2, 1])
    seen[k, left] += share
    seen[4 + k, 4 + left] += share
bound = contraction.information(g.label, g.inputs, [contraction.dropout(0.9, 2)])
print(f"information left, enumerated      {bounds.channel_information(g.joint, seen):.4f} nats")
print(f"product with the whole (wrong)    {bound.terms['naive']:.4f}")
print(f"label kept, input contracted      {float(bound):.4f}")

# %% [markdown]
# ## The Gibbs algorithm
#
# Weights drawn with probability $\propto e^{-\gamma L}$: the gap is exactly information plus lautum
# information, divided by γ. A bound that knows γ and n alone suffices for high temperatures.

# %%
gammas = np.geomspace(0.1, 100, 25)
runs = [bounds.gibbs_algorithm(loss, p, 4, gamma) for gamma in gammas]
print("largest violation of the identity:", f"{max(abs(r.identity - r.gen) for r in runs):.0e}")
with plotting.style():
    ax = plotting.axes()
    ax.loglog(gammas, [r.gen for r in runs], "k", label="gap")
    for name, text in (
        ("individual", "one example's information"),
        ("total", "information of all"),
        ("gibbs", "γ and n alone"),
    ):
        ax.loglog(gammas, [float(r.bounds()[name]) for r in runs], label=text)
    ax.set(xlabel="inverse temperature γ", ylabel="gap and bounds", ylim=(1e-3, 2))
    ax.legend()

# %% [markdown]
# ## A real network
#
# For networks trained by gradient descent no such formula exists. Instead the same pairs of
# examples are trained on again and again, with one of each pair left out by a coin: how well the
# losses betray the coins bounds the gap. Thousands of trainings run as one batch. The data are two
# kinds of handwritten digits.


# %%
def train(key, X, y, width=16, steps=100):
    """One hidden layer of tanh units, gradient descent on the logistic loss."""
    first, second = jax.random.split(key)
    shape = (X.shape[1], width)
    start = (
        jax.random.normal(first, shape) / shape[0] ** 0.5,
        jax.random.normal(second, (width,)) / width**0.5,
    )

    def output(w, Z):
        return jnp.tanh(Z @ w[0]) @ w[1]

    def step(w, _):
        slope = jax.grad(lambda w: jnp.logaddexp(0.0, -y * output(w, X)).mean())(w)
        return jax.tree.map(lambda a, b: a - b, w, slope), None

    trained = jax.lax.scan(step, start, None, length=steps)[0]
    return lambda Z: jnp.where(output(trained, Z) > 0, 1.0, -1.0)


digits = datasets.load("digits")
rows = np.flatnonzero(np.isin(digits.y, (3, 8)))
X, y = digits.X[rows] / 16 - 0.3, np.where(digits.y[rows] == 3, 1.0, -1.0)
examples = [4, 12] if FAST else [4, 10, 30]
sets, selectors = (6, 32) if FAST else (16, 128)
results = [
    bounds.supersample(train, X, y, m, key=0, sets=sets, selectors=selectors, progress=False)
    for m in examples
]
print(results[-1].bound.explain())

# %%
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(10, 3.6))
    for values, label in (
        ([(float(r.gap), r.gap.stderr) for r in results], "gap"),
        ([(float(r.bound), r.bound.terms["stderr"]) for r in results], "supersample bound"),
    ):
        axes[0].errorbar(examples, *np.array(values).T, fmt="o-", label=label)
    axes[0].set(xlabel="training examples", ylabel="zero-one loss", ylim=(0, None))
    axes[0].legend()
    results[0].plot(axes[1])
    axes[1].set_title(f"{examples[0]} examples")

# %% [markdown]
# Without training errors the same information gives the risk itself, not just a bound:

# %%
perfect = [r for r in results if not r.train.any()]
for r in perfect:
    print(
        f"n = {r.n}: risk {float(r.risk):.4f} ± {r.risk.stderr:.4f}, from information "
        f"{float(r.interpolation_risk):.4f} ± {r.interpolation_risk.stderr:.4f}"
    )
