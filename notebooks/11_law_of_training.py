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
# # The law of training: what gradient descent does to an ensemble of wide networks
#
# Train infinitely wide networks from independent random starts: at every moment their outputs are
# Gaussian, with mean and covariance in closed form from two kernels. Here this law is held against
# 120 finite networks on digits, for plain gradient descent, momentum and a pull to the start. Then:
# when to stop, how the law differs from Bayesian posteriors, and what a random scale changes.

# %%
import os

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import ntk
from deeplimits import datasets, plotting
from deeplimits.statistics import family_threshold
from gp import GP, Ensemble, InverseGamma, ScaleMixtureEnsemble, max_learning_rate

FAST = bool(os.environ.get("DEEPLIMITS_FAST"))
plt.close(plt.figure())  # starts the display of figures before a style is used

# %% [markdown]
# ## Digits, regression of the parity
#
# Even digits get the target +1, odd digits -1. One hidden layer of erf units, mean squared loss.

# %%
data = datasets.load("digits")
rows = np.random.default_rng(0).permutation(len(data.X))
X = datasets.to_sphere(data.X)
y = np.where(data.y % 2 == 0, 1.0, -1.0)
train, test = rows[:20], rows[20:25]
width, networks = (128, 60) if FAST else (384, 120)
net = ntk.mlp(depth=1, activation="erf", W_std=1.5, b_std=0.3, width=width)
limit = max_learning_rate(net.ntk(X[train]), loss="mean")
rate = 0.5 * limit
moments = [0, 3, 10, 30, 100]
print(f"gradient descent converges below a learning rate of {limit:.3f}; taken: {rate:.3f}")


# %%
def finite_ensemble(momentum=0.0, ridge=0.0):
    """Outputs of finite networks at the test points: (moments, networks, test points)."""

    def loss(params, start):
        misfit = jnp.sum((net.apply_fn(params, X[train])[:, 0] - y[train]) ** 2)
        gaps = jax.tree.map(lambda p, p0: jnp.sum((p - p0) ** 2), params, start)
        return (misfit + ridge * sum(jax.tree.leaves(gaps))) / (2 * len(train))

    def one(key):
        start = net.init_fn(key, X[train].shape)[1]

        def step(state, _):
            params, velocity = state
            slope = jax.grad(loss)(params, start)
            velocity = jax.tree.map(lambda v, g: momentum * v - rate * g, velocity, slope)
            params = jax.tree.map(jnp.add, params, velocity)
            return (params, velocity), net.apply_fn(params, X[test])[:, 0]

        first = net.apply_fn(start, X[test])[:, 0]
        still = jax.tree.map(jnp.zeros_like, start)
        outputs = jax.lax.scan(step, (start, still), None, length=moments[-1])[1]
        return jnp.concatenate([first[None], outputs])[jnp.array(moments)]

    keys = jax.random.split(jax.random.key(1), networks)
    return np.asarray(jax.jit(lambda k: jax.lax.map(one, k, batch_size=20))(keys)).swapaxes(0, 1)


recipes = {
    "gradient descent": {},
    "momentum 0.9": {"momentum": 0.9},
    "pull to the start 0.5": {"ridge": 0.5},
}
measured = {name: finite_ensemble(**recipe) for name, recipe in recipes.items()}

# %% [markdown]
# Every comparison is a z-score: of the mean with its standard error, and of the variance with the
# error of a sample variance. The largest of all stays below the bound for that many scores where
# the finite width does not matter. With momentum it does: the mean is off while the outputs
# oscillate, and the largest score is 7.2, 6.2 and 2.2 at widths 128, 384 and 1024.

# %%
laws = {}
for name, recipe in recipes.items():
    model = Ensemble(net, learning_rate=rate, loss="mean", **recipe)
    laws[name] = model.train(X[train], y[train], steps=moments)
    mean, var = laws[name].mean(X[test]), laws[name].var(X[test])
    found = measured[name]
    z_mean = (found.mean(1) - mean) / np.sqrt(var / networks)
    z_var = (found.var(1, ddof=1) / var - 1) / np.sqrt(2 / (networks - 1))
    pairs = np.triu_indices(len(test), 1)
    cov = laws[name].cov(X[test])
    z_cov = []
    for k in range(len(moments)):
        spread = np.sqrt((np.outer(var[k], var[k]) + cov[k] ** 2) / (networks - 1))
        z_cov.append(((np.cov(found[k].T) - cov[k]) / spread)[pairs])
    print(
        f"{name:22s} largest |z|: mean {np.abs(z_mean).max():.2f}, variance "
        f"{np.abs(z_var).max():.2f}, covariance {np.abs(z_cov).max():.2f} "
        f"(bounds {family_threshold(3, z_mean.size):.2f}, {family_threshold(3, 50):.2f})"
    )

with plotting.style():
    fig, axes = plt.subplots(1, 3, figsize=(11, 3.5), sharey=True)
    for ax, (name, recipe) in zip(axes, recipes.items(), strict=True):
        steps = np.unique(np.round(np.geomspace(1, moments[-1], 30))).astype(int)
        model = Ensemble(net, learning_rate=rate, loss="mean", **recipe)
        law = model.train(X[train], y[train], steps=[0, *steps])
        mean, std = law.mean(X[test]), np.sqrt(law.var(X[test]))
        at = np.array([0.5, *steps])
        for i, color in zip((0, 1, 2), plotting.COLORS, strict=False):
            ax.plot(at, mean[:, i], color=color)
            band = mean[:, i] - std[:, i], mean[:, i] + std[:, i]
            ax.fill_between(at, *band, color=color, alpha=0.15, lw=0)
            outputs = measured[name][:, :, i]
            spots = np.array([0.5, *moments[1:]]) * (1 + 0.06 * (i - 1))
            ax.errorbar(spots, outputs.mean(1), outputs.std(1), fmt=".", color=color)
        ax.set(xscale="log", xlabel="steps (0 drawn at 0.5)", title=name)
    axes[0].set_ylabel("outputs at three digits, mean ± sd")

# %% [markdown]
# ## The flow, and the pull to the start as a Bayesian ridge
#
# Gradient flow is the limit of small steps. With a pull to the start of strength s the flow ends at
# the mean of the NTK Gaussian process with noise s; its spread is that of deterministic targets.

# %%
slow = Ensemble(net, learning_rate=rate / 50, loss="mean")
descent = slow.train(X[train], y[train], steps=[50, 500, 5000]).mean(X[test])
flow = slow.train(X[train], y[train], times=[50, 500, 5000]).mean(X[test])
print("largest gap between flow and 50 times smaller steps:", f"{np.abs(descent - flow).max():.1e}")
pulled = Ensemble(net, ridge=0.5).train(X[train], y[train], times=[np.inf])
ntkgp = GP(net.ntk, noise=0.5).condition(X[train], y[train])
print("pull 0.5 against the NTK process with noise 0.5: mean", end=" ")
print(f"{np.abs(pulled.mean(X[test])[0] - ntkgp.mean(X[test])).max():.1e}", end=", sd ")
print(np.sqrt(pulled.var(X[test])[0]).round(3), "against", np.sqrt(ntkgp.var(X[test])).round(3))

# %% [markdown]
# ## When to stop
#
# A fifth of the training labels is flipped. The leave-one-out score of the linear smoother, which
# sees the training labels only, finds a moment close to the best one on 1000 clean test digits. It
# is an approximation, good where training still leaves residuals: long after the minimum its
# denominators are those of the slowest modes alone, and it says nothing.

# %%
n = 100 if FAST else 300
fit, held = rows[:n], rows[-1000:]
noisy = y[fit] * np.where(np.random.default_rng(3).uniform(size=n) < 0.2, -1.0, 1.0)
relu = ntk.mlp(depth=2, activation="relu", W_std=2**0.5, b_std=0.1)
times = np.concatenate([[0], np.geomspace(1, 1e6, 25), [np.inf]])
rate2 = 0.5 * max_learning_rate(relu.ntk(X[fit]), loss="mean")
law = Ensemble(relu, learning_rate=rate2, loss="mean").train(X[fit], noisy, times=times)
error = np.mean((law.mean(X[held]) - y[held]) ** 2, axis=1)
spread = law.var(X[held][:200]).mean(1)
stop = law.stop("loo")
best = int(np.argmin(error))
print(f"leave-one-out stops at {stop.time:.0f}: test error {error[stop.index]:.3f}")
print(f"best in hindsight {times[best]:.0f}: {error[best]:.3f}; to the end: {error[-1]:.3f}")

with plotting.style():
    ax = plotting.axes()
    ax.plot(times[1:-1], error[1:-1], label="test error of the mean")
    ax.plot(times[1:-1], stop.score[1:-1], label="leave-one-out score (noisy labels)")
    ax.plot(times[1:-1], spread[1:-1], label="variance over starts")
    ax.axvline(stop.time, color="k", ls="--", lw=1, label="leave-one-out stop")
    ax.set(xscale="log", yscale="log", xlabel="time (steps)", ylabel="squared units of y")
    ax.legend(fontsize=8)

# %% [markdown]
# ## Three kinds of uncertainty
#
# The NNGP posterior (Bayesian, last layer and prior of the network), the NTK process with noise
# (Bayesian ensembles) and the trained ensemble (spread over random starts only), on concrete data.
# Calibration: share of held-out targets in the central 90 % interval.

# %%
table = datasets.load("concrete")
rows = np.random.default_rng(1).permutation(len(table.X))
fit, held = rows[:150] if FAST else rows[:400], rows[-400:]
Z = datasets.standardize(table.X, table.X[fit])
target = (table.y - table.y[fit].mean()) / table.y[fit].std()
deep = ntk.mlp(depth=2, activation="relu", W_std=2**0.5, b_std=0.3)
noise = 0.05
laws = {
    "NNGP posterior": GP(deep.nngp, noise=noise).condition(Z[fit], target[fit]).predict(Z[held]),
    "NTK process": GP(deep.ntk, noise=noise).condition(Z[fit], target[fit]).predict(Z[held]),
    "ensemble, pulled": Ensemble(deep, ridge=noise)
    .train(Z[fit], target[fit], times=[np.inf])
    .predict(Z[held]),
    "ensemble, to the end": Ensemble(deep)
    .train(Z[fit], target[fit], times=[np.inf])
    .predict(Z[held]),
}
print(f"{'':22s} rmse   mean sd   negative log density   inside 90 %")
for name, law in laws.items():
    sd = np.sqrt(law.var + noise)
    gap = target[held] - law.mean
    score = np.mean(0.5 * gap**2 / sd**2 + np.log(sd) + 0.5 * np.log(2 * np.pi))
    inside = np.mean(np.abs(gap) < 1.6449 * sd)
    print(f"{name:22s} {np.sqrt(np.mean(gap**2)):.3f}  {law.std.mean():8.3f} {score:16.3f}", end="")
    print(f" {inside:18.1%}")

# %% [markdown]
# ## A random scale at the start
#
# Networks whose last layer has a random variance: training of the last layer keeps the tails of the
# start (Student-t with the degrees of freedom of the prior); training of all layers moves the
# centre with the scale as well. Intervals of 90 % at one digit, along training:

# %%
prior = InverseGamma(2.0, 2.0)
unit = ntk.mlp(depth=1, activation="erf", W_std=1.0, b_std=0.0)
moments = np.geomspace(0.1, 1e3, 9 if FAST else 17)
with plotting.style():
    ax = plotting.axes()
    for color, layers in zip(plotting.COLORS, ("last", "all"), strict=False):
        model = ScaleMixtureEnsemble(unit, prior, layers)
        bands = []
        for t in moments:
            law = model.train(X[train], y[train], time=t).predict(X[test][:1])
            bands.append([law.quantile(p)[0] for p in (0.05, 0.5, 0.95)])
        low, middle, high = np.array(bands).T
        ax.plot(moments, middle, color=color, label=f"{layers} layer{'s' * (layers == 'all')}")
        ax.fill_between(moments, low, high, color=color, alpha=0.2, lw=0)
    ax.axhline(y[test][0], color="k", ls=":", lw=1, label="target")
    ax.set(xscale="log", xlabel="time", ylabel="output, median and 90 % interval")
    ax.legend(fontsize=8)
