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
# # Wide networks on handwritten digits
#
# The story of `make demo` on a subset of the 1797 digits, small enough to run in a minute: the
# kernels of a wide network, what they say about the data, which weight scales the data prefer,
# and what an ensemble of trained networks will predict, before any of them has been trained.

# %%
import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import gp
import ntk
from deeplimits import datasets, plotting

plt.close(plt.figure())  # starts the display of figures before a style is used

# %%
digits = datasets.load("digits")
order = np.random.default_rng(0).permutation(len(digits.X))
X, labels = digits.X[order] / 16.0, digits.y[order].astype(int)
train, test = slice(0, 400), slice(400, 800)
targets = np.eye(10)[labels] - 0.1
X.shape, labels[:10]

# %% [markdown]
# ## Two kernels

# %%
net = ntk.mlp(depth=3, activation="relu", W_std=2**0.5, b_std=0.1)
by_class = np.argsort(labels[train], kind="stable")
kernels = ntk.gram(net, X[train][by_class], get=("nngp", "ntk"), progress=False)

with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.8))
    for ax, (name, gram) in zip(axes, kernels._asdict().items(), strict=True):
        scale = np.sqrt(np.diag(gram))
        plotting.plot_gram(gram / np.outer(scale, scale), ax=ax)
        ax.set_title(f"{name.upper()}, normalised, sorted by class")

# %% [markdown]
# The ten blocks on the diagonal are the digits 0 to 9. The NTK is the more local of the two:
# its diagonal stands out, so its spectrum decays more slowly.

# %%
with plotting.style():
    fig, ax = plt.subplots(figsize=(6, 3.4))
    for name, gram in kernels._asdict().items():
        values = np.linalg.eigvalsh(gram)[::-1]
        ax.loglog(np.arange(1, len(values) + 1), values / values.sum(), label=name.upper())
    ax.set(xlabel="rank", ylabel="share of the trace")
    ax.legend()

# %% [markdown]
# ## Which weight scales do the data prefer?
#
# The log evidence of the Gaussian process, as a function of `W_std` and `b_std`.

# %%
gram = jax.jit(lambda W_std, b_std: ntk.mlp(3, "relu", W_std=W_std, b_std=b_std).nngp(X[:200]))
surface = gp.log_evidence_grid(
    gram,
    targets[:200],
    noise=0.01,
    W_std=np.linspace(0.8, 2.6, 10),
    b_std=np.linspace(0.0, 2.0, 9),
)
with plotting.style():
    fig, ax = plt.subplots(figsize=(6, 3.8))
    plotting.plot_contour(surface["log_evidence"], ax=ax)
surface

# %% [markdown]
# ## Classification by regression
#
# One Gaussian process per class on centred one-hot targets; the largest mean wins.

# %%
post = gp.GP(net.nngp, noise=0.01).condition(X[train], targets[train])
ens = gp.Ensemble(net, learning_rate=1.0, loss="mean").train(
    X[train], targets[train], times=[10, 100, 1e3, 1e4, np.inf]
)
truth = labels[test]
print(f"NNGP posterior:        accuracy {np.mean(post.mean(X[test]).argmax(1) == truth):.3f}")
for time, mean in zip(ens.times, ens.mean(X[test]), strict=True):
    print(f"ensemble at time {time:7g}: accuracy {np.mean(mean.argmax(1) == truth):.3f}")

# %% [markdown]
# ## A trained finite ensemble
#
# The same law for two classes, against 100 real networks of width 256, trained by full-batch
# gradient descent. The band is the predicted mean ± one standard deviation over
# initialisations.

# %%
pair = np.isin(labels, [3, 8])
Xp, yp = X[pair], np.where(labels[pair] == 3, 1.0, -1.0)
few, probe = slice(0, 16), slice(16, 19)
steps = [0, 2, 5, 10, 20, 50, 100]
small = ntk.mlp(1, "erf", W_std=1.5, b_std=0.1, width=256)
rate = 0.5 * gp.max_learning_rate(np.asarray(small.ntk(Xp[few])), loss="mean")
law = gp.Ensemble(small, learning_rate=rate, loss="mean").train(Xp[few], yp[few], steps=steps)
init_fn, apply_fn, _ = small
x, t, xs = jnp.asarray(Xp[few]), jnp.asarray(yp[few])[:, None], jnp.asarray(Xp[probe])


def trajectory(key):
    """Outputs at the probe points after every step."""
    _, params = init_fn(key, x.shape)
    loss = lambda p: jnp.mean((apply_fn(p, x) - t) ** 2) / 2  # noqa: E731

    def step(p, _):
        new = jax.tree.map(lambda w, g: w - rate * g, p, jax.grad(loss)(p))
        return new, apply_fn(p, xs)[:, 0]

    return jax.lax.scan(step, params, None, length=steps[-1] + 1)[1]


keys = jax.random.split(jax.random.key(0), 100)
outputs = np.asarray(jax.jit(lambda ks: jax.lax.map(trajectory, ks, batch_size=10))(keys))[:, steps]
mean, std = law.mean(Xp[probe]), np.sqrt(law.var(Xp[probe]))
z = (outputs.mean(0) - mean) / (outputs.std(0, ddof=1) / 10)

with plotting.style():
    fig, ax = plt.subplots(figsize=(6.5, 3.6))
    for i in range(3):
        line = ax.plot(steps, mean[:, i], label=f"test image {i}")[0]
        band = (mean[:, i] - std[:, i], mean[:, i] + std[:, i])
        ax.fill_between(steps, *band, alpha=0.15, color=line.get_color())
        bars = outputs[:, :, i].std(0, ddof=1) / 10
        ax.errorbar(steps, outputs.mean(0)[:, i], bars, fmt="o", ms=3, color=line.get_color())
    ax.set(xlabel="gradient-descent step", ylabel="output", xscale="symlog")
    ax.legend()
print(f"largest |z| of the mean over {z.size} comparisons: {np.abs(z).max():.2f}")
