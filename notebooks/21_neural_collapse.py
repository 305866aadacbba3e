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
# # Neural collapse
#
# Late in training, the features of a classifier often shrink to one point per class, and these
# points form a regular figure. If the features are free (*unconstrained features*, with weight
# decay) and a stack of linear layers sits on top, the global minimum is known in closed form, for
# any number of layers and any class sizes. Here it is beside gradient descent that knows nothing
# of it.

# %%
import os
from itertools import combinations

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import xarray as xr

import ntk
from bounds import collapse, similarity
from deeplimits import datasets, plotting

FAST = os.environ.get("DEEPLIMITS_FAST") == "1"
plt.close(plt.figure())  # starts the display of figures before a style is used

# %% [markdown]
# ## The minimum and the way to it
#
# Four balanced classes, two linear layers with a bias: a simplex, seen from every layer.

# %%
Y = collapse.one_hot([5, 5, 5, 5])
labels, lam = Y.argmax(0), [3e-3, 3e-3]
best = collapse.minimizer(Y, lam, 3e-3, bias=True)
run = collapse.train_unconstrained(
    Y, lam, 3e-3, key=0, bias=True, width=16, restarts=6, steps=5000, init_std=0.3
)
print(f"minimum {best.loss:.12f} ({best.geometry(labels)})")
print(f"descent {run.final.min():.12f} to {run.final.max():.12f}, six random starts")
layers = collapse.layer_metrics(run.weights(), run.features().T, labels, target=best)
print("largest distance from collapse at any layer:", f"{float(layers.to_array()[:3].max()):.0e}")
with plotting.style():
    ax = run.plot(minimum=best.loss)
    ax.set_ylim(1e-16, 1)

# %% [markdown]
# ## Imbalanced classes
#
# Without bias the classes become orthogonal, with lengths that depend on their sizes: small
# classes have *short* classifier rows and *long* features. With three layers every subset of the
# classes is a local minimum of known height; descent ends on one of these levels.

# %%
counts = np.array([3, 6, 12, 24])
Y, lam = collapse.one_hot(counts), [6e-3] * 3
labels = Y.argmax(0)
best = collapse.minimizer(Y, lam, 6e-3)
run = collapse.train_unconstrained(
    Y, lam, 6e-3, key=1, restarts=8 if FAST else 24, steps=5000, init_std=0.4, width=5
)
member = (run.features() @ Y.T) / counts
classifiers = np.linalg.multi_dot(run.weights()[::-1]), best.classifier
lengths = {
    "classifier row": [np.linalg.norm(W, axis=1) for W in classifiers],
    "class mean": [np.linalg.norm(H, axis=0) for H in (member, best.class_means(labels))],
}
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.4))
    for (name, (found, theory)), color in zip(lengths.items(), plotting.COLORS, strict=False):
        axes[0].semilogx(counts, theory, color=color)
        axes[0].semilogx(counts, found, "o", color=color, label=name)
    axes[0].set(xlabel="samples in the class", ylabel="length", xticks=counts, ylim=(0, None))
    axes[0].set_xticks([], minor=True)
    axes[0].set_xticklabels(counts)
    axes[0].legend()
    axes[1].plot(run.final, np.arange(len(run.final)), "o", color=plotting.COLORS[1])
    missing = [m for r in range(5) for m in combinations(range(4), r)]  # largest class first
    levels = {m: best.loss + best.dropped[list(m)].sum() for m in missing}
    for level in levels.values():
        axes[1].axvline(level, color="gray", linewidth=0.6)
    axes[1].set(xlabel="objective at the end", ylabel="restart", xlim=(0.07, 0.36))
    axes[1].set_title("lines: the minimum, and with classes missing")
print("lowest end minus minimum:", f"{run.final.min() - best.loss:.0e}")
for m, level in levels.items():
    reached = int(np.sum(abs(run.final - level) < 1e-7))
    if reached:
        lost = ", ".join(str(counts[::-1][k]) for k in m) or "none"
        print(f"objective {level:.8f} (class sizes lost: {lost}): {reached} of {len(run.final)}")

# %% [markdown]
# ## Which classes are learned
#
# A class vanishes from the global minimum when the weight decay passes the *switch*. With one layer
# it fades out; with more it jumps, and survives as a local minimum up to the *spinodal*.

# %%
grid, sizes = np.geomspace(1e-3, 0.2, 200), np.geomspace(1, 100, 150)
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.4))
    for ax, depth in zip(axes, (1, 3), strict=True):
        diagram = collapse.phase_diagram(grid, sizes, 100, depth)
        collapse.plot_phase_diagram(diagram, ax=ax)
for depth in (1, 2, 3):
    at = collapse.critical_decay(counts, counts.sum(), depth)
    print(f"{depth} layers: classes of 3, 6, 12, 24 vanish at decay", np.round(at, 5))

# %% [markdown]
# ## Cross-entropy: the simplex is not always the best
#
# With two linear layers and more, weight decay favours low rank. For ten classes pairs of
# opposite points (the orthoplex) beat the simplex, and a search finds a three-dimensional
# arrangement below both.

# %%
cases = [(4, 5, 2e-3, 3)] if FAST else [(4, 5, 2e-3, 3), (10, 3, 1e-3, 1), (10, 3, 1e-3, 3)]
print(
    f"{'K':>3}{'layers':>8}{'simplex':>12}{'orthoplex':>12}{'search':>12}   what the search found"
)
spectra = {}
for K, n, decay, depth in cases:
    lam = [decay] * depth
    branch = collapse.ce_branches(K, n, lam, decay)
    found = collapse.ce_minimise([n] * K, lam, decay, key=0, restarts=8 if FAST else 32, steps=1500)
    spectra[f"{K} classes, {depth} layer{'s' * (depth > 1)}"] = found.singular_values
    values = f"{branch['simplex ETF'].loss:12.8f}{branch['orthoplex'].loss:12.8f}{found.loss:12.8f}"
    print(f"{K:3}{depth:8}{values}   {found.geometry}")
with plotting.style():
    ax = plotting.axes()
    for label, values in spectra.items():
        ax.plot(np.arange(1, len(values) + 1), values, "o-", label=label)
    ax.set(xlabel="rank", ylabel="singular value of the outputs", xticks=range(1, 11))
    ax.legend()

# %% [markdown]
# ## A real network
#
# Two hidden layers on digits, squared error, weight decay on all weights, full batch. Its features
# are not free, so that theory is a target here and no theorem. The scatter within classes (NC1) and
# the alignment of classifier and class means (NC3) fall by two orders of magnitude. The Gram of the
# classifier (NC2) stops short of the simplex: for a network some classes are dearer than others.

# %%
data = datasets.load("digits")
per_class = 10 if FAST else 30
chosen = np.concatenate([np.flatnonzero(data.y == k)[:per_class] for k in range(10)])
inputs, classes = data.X[chosen] / 16, np.asarray(data.y[chosen])
goals = jnp.eye(10)[classes]
WIDTH, STEPS, RECORDS = 96, 200 if FAST else 3000, 20
rng = np.random.default_rng(0)
shapes = [(64, WIDTH), (WIDTH, WIDTH), (WIDTH, 10)]
weights = [jnp.asarray(rng.normal(size=s) * np.sqrt(2 / s[0])) for s in shapes]
params = (weights, [jnp.zeros(s[1]) for s in shapes])


def hidden(params, x):
    """Activations of both hidden layers."""
    (W1, W2, _), (b1, b2, _) = params
    first = jax.nn.relu(x @ W1 + b1)
    return first, jax.nn.relu(first @ W2 + b2)


def objective(params):
    """Squared error and weight decay."""
    W, b = params
    outputs = hidden(params, inputs)[1] @ W[2] + b[2]
    decay = sum(jnp.sum(w**2) for w in W)
    return 0.5 * jnp.mean(jnp.sum((outputs - goals) ** 2, axis=1)) + 5e-4 * decay


optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, STEPS))


@jax.jit
def descend(params):
    """Parameters at ``RECORDS`` moments."""

    def step(_, state):
        change, memory = optimizer.update(jax.grad(objective)(state[0]), state[1])
        return optax.apply_updates(state[0], change), memory

    def record(state, _):
        state = jax.lax.fori_loop(0, STEPS // RECORDS, step, state)
        return state, state[0]

    return jax.lax.scan(record, (params, optimizer.init(params)), length=RECORDS)[1]


course = jax.tree.map(np.asarray, descend(params))
moments = []
for i in range(RECORDS):
    at = jax.tree.map(lambda a, i=i: a[i], course)
    features = np.asarray(hidden(at, inputs)[1])
    moments.append(collapse.metrics(features, classes, at[0][2].T, target="simplex"))
steps = STEPS // RECORDS * np.arange(1, RECORDS + 1)
course_of = {name: ("step", [getattr(m, name) for m in moments]) for name in ("nc1", "nc2", "nc3")}
before = collapse.metrics(np.asarray(hidden(params, inputs)[1]), classes, weights[2].T)
print(f"before training: NC1 {before.nc1:.2f}, NC2 {before.nc2:.2f}, NC3 {before.nc3:.2f}")
last = moments[-1]
print(f"after training:  NC1 {last.nc1:.4f}, NC2 {last.nc2:.3f}, NC3 {last.nc3:.3f}; theory 0")
with plotting.style():
    collapse.plot_metrics(xr.Dataset(course_of, coords={"step": steps}))

# %% [markdown]
# ## Do two layers say the same? Alignment at finite and infinite width
#
# Left: alignment (CKA) of the inputs, both hidden layers and the labels, before and after training.
# Right: a random layer is less aligned with its inputs than an infinite one, by an amount of order
# 1/width that is known; dots are random networks.


# %%
def grams(params):
    """Inputs, hidden layers, labels."""
    return [similarity.linear_gram(a) for a in (inputs, *hidden(params, inputs), goals)]


names = ["input", "layer 1", "layer 2", "labels"]
few = inputs[:: 3 if FAST else 6]
K = few @ few.T
widths, REPEATS = np.array([16, 32, 64, 128, 256, 512]), 20 if FAST else 60
states = {"random": params, "trained": jax.tree.map(lambda a: a[-1], course)}
with plotting.style():
    fig, axes = plt.subplots(1, 3, figsize=(12, 3.4))
    for ax, (title, at) in zip(axes, states.items(), strict=False):
        matrix = similarity.cka_matrix(grams(at))
        similarity.plot_cka_matrix(matrix, ax=ax)
        ax.set(xlabel="", ylabel="", title=title)
        ax.set_xticks(range(4), names, rotation=30)
        ax.set_yticks(range(4), names)
    for flag, color in ((True, plotting.COLORS[0]), (False, plotting.COLORS[1])):
        theory = similarity.finite_width_cka(K, K, widths, key=0, unbiased=flag)
        label, found = "unbiased" if flag else "biased", []
        for width in widths:
            layers = (np.maximum(few @ rng.normal(size=(64, width)), 0) for _ in range(REPEATS))
            values = [similarity.cka_features(h, few, unbiased=flag).value for h in layers]
            found.append((np.mean(values), np.std(values) / REPEATS**0.5))
        axes[2].semilogx(widths, theory.value, color=color)
        axes[2].axhline(theory.terms["limit"], color=color, linestyle=":", linewidth=1)
        axes[2].errorbar(widths, *np.array(found).T, fmt="o", color=color, label=label)
    axes[2].set(xlabel="width", ylabel="CKA with the inputs", xticks=widths)
    axes[2].set_xticks([], minor=True)
    axes[2].set_xticklabels(widths)
    axes[2].legend(loc="lower right")

# %% [markdown]
# Without sampling: how far are architectures apart at initialisation, layer by layer?

# %%
depths = (1, 2) if FAST else (1, 2, 3)
guide = [ntk.mlp(depth, "relu", W_std=2**0.5).nngp(few) for depth in depths]
for activation in ("erf",) if FAST else ("erf", "gelu", "sin"):
    own = [ntk.mlp(depth, activation, W_std=2**0.5).nngp(few) for depth in depths]
    print(f"{activation:5} against relu:", f"{similarity.guidance_distance(own, guide).value:.4f}")
