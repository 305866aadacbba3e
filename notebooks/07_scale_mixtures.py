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
# # Networks with a random scale: Student-t processes and other mixtures
#
# Give the last layer of a wide network a random variance $s^2$, drawn once for the whole function.
# Given $s^2$ the network is a Gaussian process with kernel $s^2 k$; over its law it is a scale
# mixture. With an inverse gamma law everything is Student-t in closed form. Any other law is one
# integral over $\log s^2$, done to rounding.

# %%
import jax

jax.config.update("jax_enable_x64", True)

import os

import matplotlib.pyplot as plt
import numpy as np

import ntk
from deeplimits import datasets, plotting
from deeplimits.claims import get
from gp import (
    GP,
    BurrXII,
    InverseGamma,
    LogNormal,
    ScaleMixture,
    ScaleMixtureEnsemble,
    claims_mixtures,
)

plt.close(plt.figure())  # starts the display of figures before a style is used
FAST = bool(os.environ.get("DEEPLIMITS_FAST"))

# %% [markdown]
# ## The data move the centre and, unlike in a Gaussian process, the width
#
# Twice the same inputs; the second targets are four times as large. A Gaussian process predicts
# with the same width both times. The mixture learns the scale.

# %%
net = ntk.mlp(depth=2, activation="erf", W_std=1.5, b_std=0.5)
rng = np.random.default_rng(0)
x = np.sort(rng.uniform(-3, 3, 9))[:, None]
y = np.sin(2 * x[:, 0]) + 0.1 * rng.normal(size=9)
grid = np.linspace(-5, 5, 120)[:, None]
models = {
    "Gaussian process": GP(net.nngp, noise=0.01),
    "inverse gamma scale": ScaleMixture(net.nngp, InverseGamma(2.0, 2.0), noise=0.01),
    "Burr scale": ScaleMixture(net.nngp, BurrXII(2.0, 1.0), noise=0.01),
}

with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.6))
    for ax, factor in zip(axes, (1.0, 4.0), strict=True):
        for color, (name, model) in zip(plotting.COLORS, models.items(), strict=False):
            lower, upper = model.condition(x, factor * y).predict(grid).interval(0.95)
            line = "--" if name == "Burr scale" else "-"
            ax.plot(grid[:, 0], lower, line, color=color, label=name)
            ax.plot(grid[:, 0], upper, line, color=color)
        ax.plot(x[:, 0], factor * y, "k.", label="data")
        ax.set(xlabel="x", ylabel="95 % interval of f", title=f"targets times {factor:g}")
    axes[0].legend(fontsize=8)

# %%
post = models["inverse gamma scale"].condition(x, 4 * y)
print("posterior of the scale:", post.scale_posterior)
burr = models["Burr scale"].condition(x, 4 * y)
print(f"Burr: E[s2 | y] = {burr.mean_scale:.4f}, {len(burr.scale_posterior.s2)} nodes,", end=" ")
print(f"log evidence {burr.log_evidence:.6f} with error {burr.error:.0e}")

# %% [markdown]
# ## Real data: does the random scale predict better?
#
# Two regression sets, eight random splits with 280 training targets (yacht has 28 left to test),
# ReLU networks of two hidden layers. The noise, in units of the scale, is chosen by the evidence on
# the training part: for the Gaussian process that of the best amplitude, for the mixtures that of
# the Student-t process. Then the same with 5 % of the training targets moved by five standard
# deviations. The table shows the test score (mean negative log density per target, nats) of the
# Gaussian process, and the differences of the mixtures to it with standard errors over splits.


# %%
def standard(data, train_rows):
    X = datasets.standardize(data.X, data.X[train_rows])
    return X, (data.y - data.y[train_rows].mean()) / data.y[train_rows].std()


def lookup(matrix):
    """A kernel on row numbers, so that one matrix serves every model."""

    def kernel(a, b=None):
        rows = np.asarray(a[:, 0]).astype(int)
        return matrix[np.ix_(rows, rows if b is None else np.asarray(b[:, 0]).astype(int))]

    return kernel


PRIORS = {
    "Student-t": InverseGamma(2.0, 2.0),
    "Burr": BurrXII(2.0, 1.0),
    "log-normal": LogNormal(0.0, 1.0),
}
NOISES = np.geomspace(1e-4, 3.0, 12)
FIXED = 7  # the noise at which scales are compared
relu = jax.jit(ntk.mlp(depth=2, activation="relu", W_std=2**0.5, b_std=0.3).nngp)


def square(fit):
    """q/n, the mean square of the whitened targets."""
    return np.mean(fit.base.white**2)


def scores(data, seed, outliers):
    """Test scores of the plain process and of the mixtures, and the posterior mean scale."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(data.X))[:380]
    X, y = standard(data, rows[:280])
    X, y = X[rows], y[rows]
    hit = rng.permutation(280)[: int(outliers * 280)]
    y[hit] += 5 * rng.choice([-1.0, 1.0], len(hit))
    kernel, at = lookup(np.asarray(relu(X))), np.arange(float(len(rows)))[:, None]
    train = at[:280], y[:280]
    first = PRIORS["Student-t"]
    fits = [ScaleMixture(kernel, first, noise=noise).condition(*train) for noise in NOISES]
    noise = NOISES[np.argmax([fit.log_evidence for fit in fits])]
    best = {
        name: ScaleMixture(kernel, prior, noise=noise).condition(*train)
        for name, prior in PRIORS.items()
    }
    # the evidence of a Gaussian process at its best amplitude q/n, up to a constant
    profile = [
        fit.base.log_evidence + 140 * square(fit) - 140 * np.log(square(fit)) for fit in fits
    ]
    k = int(np.argmax(profile))
    s2 = square(fits[k])
    scaled = GP(lambda a, b=None: s2 * kernel(a, b), noise=s2 * NOISES[k])
    best["plain"] = scaled.condition(*train)
    laws = {name: post.predict(at[280:], noise=True) for name, post in best.items()}
    score = {name: -law.pointwise(y[280:]).mean() for name, law in laws.items()}
    return score, fits[FIXED].mean_scale


results = {}
for name in ("yacht", "concrete"):
    data = datasets.load(name)
    for outliers in (0.0, 0.05):
        results[name, outliers] = [scores(data, seed, outliers) for seed in range(8)]

# %%
print(f"{'data':10s} {'outliers':8s} {'plain':>6s}   difference of " + ", ".join(PRIORS))
for (name, outliers), runs in results.items():
    plain = np.array([score["plain"] for score, _ in runs])
    line = f"{name:10s} {outliers:8.0%} {plain.mean():6.3f}  "
    for prior in PRIORS:
        gap = np.array([score[prior] for score, _ in runs]) - plain
        line += f" {gap.mean():+.4f} ± {gap.std(ddof=1) / len(gap) ** 0.5:.4f}"
    print(line)

# %% [markdown]
# With 280 targets the posterior of one number, the scale, is narrow, and a mixture is a Gaussian
# process whose amplitude was fitted: the differences are below a hundredth of a nat, with outliers
# or without. One scale for all targets does not single out the few that are wrong; at a fixed noise
# its posterior mean rises (left), so that every prediction gets wider. Against a Gaussian process
# whose amplitude is not fitted, learning the scale pays from eight targets on (right).

# %%
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.6))
    for i, name in enumerate(("yacht", "concrete")):
        for outliers, shift in ((0.0, -0.12), (0.05, 0.12)):
            scale = [s for _, s in results[name, outliers]]
            color = plotting.COLORS[int(outliers > 0)]
            label = f"{outliers:.0%} outliers" if i == 0 else None
            axes[0].plot(np.full(8, i + shift), scale, "o", color=color, label=label)
    axes[0].set(
        yscale="log",
        ylabel="E[s2 | y], Student-t",
        title=f"posterior scale at noise {NOISES[FIXED]:.2f}, eight splits",
    )
    axes[0].set_xticks([0, 1], ["yacht", "concrete"])
    axes[0].legend()
    sizes = [4, 8, 16, 32, 64, 128]
    data = datasets.load("concrete")
    cases = []
    for seed in range(12):
        rows = np.random.default_rng(seed).permutation(len(data.X))[:380]
        X, y = standard(data, rows[:128])
        cases.append((lookup(np.asarray(relu(X[rows]))), np.arange(380.0)[:, None], y[rows]))
    for color, (label, prior) in zip(plotting.COLORS, PRIORS.items(), strict=False):
        gaps = []
        for n in sizes:
            runs = []
            for kernel, at, y in cases:
                fit = ScaleMixture(kernel, prior, noise=0.05).condition(at[:n], y[:n])
                plain = GP(kernel, noise=0.05).condition(at[:n], y[:n])
                mine, theirs = (p.predict(at[128:], noise=True) for p in (fit, plain))
                runs.append(np.mean(theirs.pointwise(y[128:]) - mine.pointwise(y[128:])))
            gaps.append((np.mean(runs), np.std(runs, ddof=1) / len(runs) ** 0.5))
        middle, error = np.array(gaps).T
        axes[1].errorbar(sizes, middle, error, marker="o", color=color, label=label)
    axes[1].axhline(0, color="k", lw=0.8)
    axes[1].set(xscale="log", xlabel="training points", ylabel="score, mixture minus plain (nats)")
    axes[1].set_title("against a fixed amplitude 1 (concrete)")
    axes[1].legend()

# %% [markdown]
# ## After training by gradient descent
#
# Gradient descent does not update the scale: when only the last layer is trained, the law stays
# Student-t with the degrees of freedom of the *prior*. When all layers are trained, the tangent
# kernel contains the scale, so that the centre moves with it too.

# %%
one_layer = ntk.mlp(depth=1, activation="erf", W_std=1.0, b_std=0.0)
points, targets = claims_mixtures.small_data()
train, test = points[:5], points[5:]
prior = InverseGamma(2.0, 2.0)
for layers in ("last", "all"):
    law = ScaleMixtureEnsemble(one_layer, prior, layers).train(train, targets).predict(test)
    print(f"{layers:5s} {type(law).__name__:16s} median {np.round(law.quantile(0.5), 4)}")

# %%
outputs = {
    layers: claims_mixtures.finite_outputs(jax.random.key(0), 512, layers, 2000)
    for layers in ("last", "all")
}
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.6))
    for ax, layers in zip(axes, ("last", "all"), strict=True):
        law = ScaleMixtureEnsemble(one_layer, prior, layers).train(train, targets).predict(test)
        edges = np.linspace(-4, 4, 61)
        ax.hist(outputs[layers][:, 0], edges, density=True, color="#BBBBBB", label="2000 networks")
        line = np.linspace(-4, 4, 200)
        density = [np.exp(law.pointwise(np.full(3, v))[0]) for v in line]
        ax.plot(line, density, label="predicted law")
        post = ScaleMixture(one_layer.nngp, prior).condition(train, targets).predict(test)
        density = [np.exp(post.pointwise(np.full(3, v))[0]) for v in line]
        ax.plot(line, density, "--", label="Bayesian posterior")
        ax.set(
            xlabel="output at a test point",
            ylabel="density",
            title=f"trained: {layers} layer{'s' * (layers == 'all')}",
        )
        ax.set(yscale="log", ylim=(1e-3, 3))
    axes[0].legend(fontsize=8)

# %% [markdown]
# ## The checks behind this

# %%
for name in () if FAST else ("all-layers", "calibration"):  # the tests run every claim
    print(get(f"gp/scale-mixture-{name}").run(key=0).summary())
