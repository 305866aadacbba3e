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
# # Deep kernel machines: wide networks that still learn features
#
# In an infinitely wide network the Gram matrices of all layers are fixed before any target is seen.
# A deep Gaussian process whose likelihood counts as often as its layers are wide keeps learning:
# its Gram matrices $G_1..G_L$ become certain, but they depend on the targets. They maximise
#
# $$\sum_c \log N(y_c; 0, K(G_L) + \sigma^2 I) - \sum_l \nu_l\,
# KL\big(N(0, G_l) \,\|\, N(0, K(G_{l-1}))\big)$$
#
# with $\nu_l$ the width of a layer relative to the number of copies of the data.

# %%
import jax

jax.config.update("jax_enable_x64", True)

import os

import matplotlib.pyplot as plt
import numpy as np

from deeplimits import datasets, plotting
from gp import DKM, SparseDKM, choose_nu, deep_linear_grams

FAST = bool(os.environ.get("DEEPLIMITS_FAST"))  # smaller sizes when run as a test
plt.close(plt.figure())  # starts the display of figures before a style is used

# %% [markdown]
# ## What the layers learn
#
# Twenty points, a sine of which neighbouring half waves have opposite signs, two layers with a
# squared-exponential kernel. Prior and learned Gram matrices of the second layer, points sorted.

# %%
rng = np.random.default_rng(0)
x = rng.uniform(-2, 2, 20)[:, None]
y = np.sin(3 * x[:, 0]) + 0.1 * rng.standard_normal(20)
order = np.argsort(x[:, 0])
machine = DKM(kernel="rbf", layers=2, nu=1.0, noise=0.05)
prior, learned = machine.nngp(x, y), machine.fit(x, y, restarts=3)
print(f"objective: infinitely wide {prior.objective:.4f} nats, learned {learned.objective:.4f}")
print(f"spread over four starts: {learned.runs.spread:.0e} nats; slope {learned.runs.slope[0]:.0e}")

# %%
grid = np.linspace(-2.5, 2.5, 121)[:, None]
with plotting.style():
    fig, axes = plt.subplots(1, 3, figsize=(12.5, 3.4))
    plotting.plot_gram(prior.grams[1], order=order, ax=axes[0], vmin=0, vmax=2.2)
    axes[0].set_title("second layer, infinitely wide")
    plotting.plot_gram(learned.grams[1], order=order, ax=axes[1], vmin=0, vmax=2.2)
    axes[1].set_title("second layer, learned (nu = 1)")
    for color, (name, fit) in zip(
        plotting.COLORS, {"infinitely wide": prior, "learned": learned}.items(), strict=False
    ):
        mean, sd = fit.mean(grid), np.sqrt(fit.var(grid))
        axes[2].plot(grid[:, 0], mean, color=color, label=name)
        axes[2].fill_between(grid[:, 0], mean - 2 * sd, mean + 2 * sd, color=color, alpha=0.15)
    axes[2].plot(x[:, 0], y, "k.", label="data")
    axes[2].set(xlabel="x", ylabel="f", title="posterior mean and two deviations")
    axes[2].legend(fontsize=8)

# %% [markdown]
# ## The way to the infinitely wide network
#
# Predictions differ from those of the NNGP by exactly order $1/\nu$.

# %%
test = np.linspace(-2, 2, 9)[:, None]
widths = np.geomspace(1, 1e5, 6)
gaps = {}
for kernel in ("rbf", "relu"):
    one = np.ones((20, 1)) if kernel == "relu" else np.zeros((20, 0))
    inputs, queries = np.hstack([x, one]), np.hstack([test, one[:9]])
    limit = DKM(kernel, 2, noise=0.05).nngp(inputs, y).mean(queries)
    fits = [DKM(kernel, 2, nu, 0.05).fit(inputs, y, tol=1e-7) for nu in widths]
    gaps[kernel] = [np.abs(fit.mean(queries) - limit).max() for fit in fits]
with plotting.style():
    fig, ax = plt.subplots()
    for kernel, gap in gaps.items():
        ax.loglog(widths, gap, "o-", label=f"{kernel}: {widths[-1] * gap[-1]:.3f} / nu")
    ax.set(xlabel=r"$\nu$", ylabel="largest change of the mean")
    ax.legend()

# %% [markdown]
# ## How wide? Six inputs, two of which matter
#
# Sixty targets that depend on two of six inputs. The width is chosen by held-out predictions, each
# fold predicted by Gram matrices that were learned without it.

# %%
rng = np.random.default_rng(1)
X = rng.normal(size=(260, 6))
f = np.sin(2 * X[:, 0]) + np.cos(2 * X[:, 1])
Y = f + 0.3 * rng.normal(size=260)
train, rest = slice(0, 60), slice(60, None)
nus = [1, 3, 10, 100, np.inf]
model = DKM("rbf", 1, noise=0.09)
best = choose_nu(model, X[train], Y[train], nus, folds=3 if FAST else 5, tol=1e-4)
for nu, score, error in zip(nus, best.score, best.stderr, strict=True):
    fit = (
        model.nngp(X[train], Y[train])
        if np.isinf(nu)
        else DKM("rbf", 1, nu, 0.09).fit(X[train], Y[train], tol=1e-4)
    )
    law = fit.predict(X[rest], noise=True)
    density = law.pointwise(Y[rest]).mean()
    print(
        f"nu {nu:5g}  held out {score:7.3f} ± {error:.3f}   test {density:7.3f}"
        f"  test rmse {np.sqrt(np.mean((law.mean - f[rest]) ** 2)):.3f}"
    )
print("chosen:", best.nu)

# %% [markdown]
# Narrow machines overfit the Gram matrices, infinitely wide ones weigh all inputs alike. The
# correlation of the learned matrix with each input's own similarity shows what was learned: it
# follows the first input, whose effect is the strongest.

# %%
fits = {"infinitely wide": best.fitted.model.nngp(X[train], Y[train]), "chosen": best.fitted}
rows = np.triu_indices(60, 1)
gap = (X[train][:, None] - X[train][None]) ** 2
for name, fit in fits.items():
    G = fit.grams[0][rows]
    print(f"{name:16s}", np.round([np.corrcoef(G, -gap[..., j][rows])[0, 1] for j in range(6)], 2))

# %% [markdown]
# ## Deep linear machines: closed form and a conserved current
#
# With linear kernels and both ends clamped every generalised eigenvalue moves from input to output
# on its own. Equal widths give geometric interpolation; a narrow layer takes most of the change.
# In all cases $\nu_l (G_l G_{l-1}^{-1} - I)$ is the same in every layer.

# %%
A, B = np.random.default_rng(2).normal(size=(2, 5, 9))
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.4), sharey=True)
    for ax, nu in zip(axes, ([3.0] * 5, [3.0, 3.0, 0.6, 3.0, 3.0]), strict=True):
        exact = deep_linear_grams(A @ A.T / 9, B @ B.T / 9, nu)
        exact.plot(ax)
        ax.set_title(f"nu = {nu}")
deep = DKM("linear", 3, [2.0, 5.0, 1.0], 0.1, jitter=0.0).fit(A, B[:, :2], tol=1e-9)
print(f"relative violation of the conservation law after fitting: {deep.current_residual():.0e}")

# %% [markdown]
# ## Several optima
#
# Enough regularisation leaves one optimum, little regularisation several (as did nu = 1 above).

# %%
for kernel, nu in (("rbf", 5.0), ("relu", 0.5)):
    inputs = np.hstack([x, np.ones((20, 1))])
    runs = DKM(kernel, 2, nu, 0.05).fit(inputs, y, restarts=5).runs
    print(f"{kernel:4s} nu = {nu}: objectives {np.round(runs.objective, 5)}")

# %% [markdown]
# ## Finite networks concentrate on the limit
#
# The Gram matrices of finite deep Gaussian processes are sampled exactly, in
# $L P (P + 1) / 2$ dimensions whatever their width. Their means approach those of the machine like
# $1/N$, their spread shrinks like $N^{-1/2}$.

# %%
small_x, small_y = x[order][::4], y[order][::4]
small = DKM("rbf", 2, nu=4.0, noise=0.1).fit(small_x, small_y)
runs = {N: small.sample_finite(N, width=N, draws=300 if FAST else 1000) for N in (2, 8, 32)}
with plotting.style():
    fig, axes = plt.subplots(1, 3, figsize=(12.5, 3.6), sharex=True, sharey=True)
    for ax, (N, run) in zip(axes, runs.items(), strict=True):
        run.plot(ax, limit=small.grams)
        gap = np.abs(run.mean - small.grams).max()
        print(
            f"N = {N:2d}: largest bias times N {gap * N:.2f} ± {run.stderr.max() * N:.2f}, "
            f"mean spread times sqrt(N) {run.std.mean() * N**0.5:.3f}"
        )

# %% [markdown]
# ## Real data with inducing points
#
# 500 targets of the concrete set, 20 inducing points whose inputs are learned too. The cost is
# linear in the number of targets; with minibatches it does not depend on it.

# %%
data = datasets.load("concrete")
rows = np.random.default_rng(0).permutation(len(data.X))
fit_rows, test_rows = rows[:500], rows[500:]
Xc = datasets.standardize(data.X, data.X[fit_rows])
yc = (data.y - data.y[fit_rows].mean()) / data.y[fit_rows].std()
for nu in (1e4, 10.0):
    model = SparseDKM(20, "rbf", layers=2, nu=nu, noise=0.1)
    fit = model.fit(
        Xc[fit_rows], yc[fit_rows], learn=("inducing", "noise"), steps=10 if FAST else 60
    )
    law = fit.predict(Xc[test_rows], noise=True)
    print(
        f"nu {nu:6g}  bound {fit.elbo:8.1f}  noise {fit.noise:.3f}  "
        f"test log density {law.pointwise(yc[test_rows]).mean():.3f}  "
        f"rmse {np.sqrt(np.mean((law.mean - yc[test_rows]) ** 2)):.3f}"
    )
