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
# # Diffusion scores as kernel regression, and exact references for learners
#
# A diffusion model learns the score of noised data. By Tweedie's formula that is a regression of
# clean on noised points, with labels that stay noisy however long one trains. For a wide two-layer
# network it is kernel regression, stopped early. Everything below is held against laws of data
# whose scores are known exactly. The last part gives exact references of the same kind for
# prior-data fitted networks, in-context learning and continual learning.

# %%
import os

import jax

jax.config.update("jax_enable_x64", True)

import matplotlib.pyplot as plt
import numpy as np
import scipy.stats

from deeplimits import datasets, plotting
from deeplimits.claims import get
from gp import (
    GP,
    RBF,
    HyperGP,
    InverseGamma,
    Matern,
    ScaleMixture,
    atomic_data,
    bayes_learner,
    best_gradient_rate,
    context_curve,
    continual_scores,
    drift_kernel,
    expected_nll,
    gradient_learner,
    gradient_step_error,
    histogram,
    kl_from_exact,
    location_filter,
    neighbour_learner,
    one_step_nll,
    reverse_diffusion,
    ridge_learner,
    sample_sequences,
    score_pairs,
    score_regression,
    stream,
    with_task,
)

FAST = bool(os.environ.get("DEEPLIMITS_FAST"))
plt.close(plt.figure())  # starts the display of figures before a style is used

# %% [markdown]
# ## When to stop
#
# Three atoms in the plane, noised by the Ornstein-Uhlenbeck process, times in [0.1, 2]. The rule of
# Raskutti, Wainwright and Yu (RWY), which the theory of this method uses, is compared with the
# oracle (best step in hindsight), with training for a million steps, and with the leave-one-out
# (LOO) error of the linear smoother. Errors of the predicted clean point:

# %%
law = atomic_data([[1.0, 0.0], [-1.0, 0.8], [0.0, -1.0]])
grid = np.unique(np.round(np.geomspace(1, 1e6, 49)))
sizes = (100, 400) if FAST else (100, 400, 1600)
paths = {}
print("   n   RWY step  error | oracle step  error | 1e6 steps | predict 0")
for n in sizes:
    pairs = score_pairs(law, n, key=0)
    fits = {w: score_regression(pairs, weights=w, steps=grid) for w in ("none", "score")}
    paths[n] = {w: fit.risks(key=1, n=2000) for w, fit in fits.items()}
    early = fits["none"].at(fits["none"].rwy).risks(key=1, n=2000)
    paths[n]["rwy"] = early
    a = paths[n]["none"]
    print(
        f"{n:5d} {early.chosen:8.0f}   {early.x0[early.index]:.3f} | {a.best_x0[0]:8.0f}    "
        f"{a.best_x0[1]:.3f} | {a.x0[-1]:9.3f} | {a.zero:9.3f}"
    )

# %% [markdown]
# RWY stops far too early but beats no stopping. For the *score* it does not: errors at small times
# weigh $(\alpha/h)^2$, up to 80. Regression with the weights $\alpha/h$, stopped by LOO, is the
# default here, because it aims at the score and needs to know nothing about the noise.

# %%
print("score error:   n     RWY   1e6 steps   LOO, no weights   LOO, weights   its oracle")
for n, path in paths.items():
    a, b, early = path["none"], path["score"], path["rwy"]
    print(
        f"          {n:6d} {early.score[early.index]:7.3f} {a.score[-1]:9.3f} "
        f"{a.score[a.index]:15.3f} {b.score[b.index]:16.3f} {b.best_score[1]:13.3f}"
    )

with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.6))
    for ax, of in zip(axes, ("x0", "score"), strict=True):
        paths[sizes[-1]]["none"].plot(ax, of=of, label="plain, LOO stop marked")
        paths[sizes[-1]]["score"].plot(ax, of=of, label="weighted, LOO stop marked")
        i = paths[sizes[-1]]["rwy"].index
        ax.plot(
            paths[sizes[-1]]["rwy"].chosen, getattr(paths[sizes[-1]]["rwy"], of)[i], "kx",
            label="plain, RWY stop",
        )  # fmt: skip
        ax.set_title(f"{sizes[-1]} pairs")
    axes[0].legend(fontsize=8)

# %% [markdown]
# ## The learned score and what it generates

# %%
fit = score_regression(law, 400 if FAST else 800, key=0, T=4.0, steps=grid)
print(f"stopped after {fit.step:.0f} steps of {fit.rate:.3f}, label noise {fit.noise_sd:.3f}")
axis = np.linspace(-1.8, 1.8, 13)
field = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
count = 200 if FAST else 500
made = {
    "exact": reverse_diffusion(law.posterior_mean, 2, 1, count, T=4.0, steps=100),
    "learned": fit.sample(1, count, steps=100),
}
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(9.5, 4.4))
    arrows = {"exact": law.score(0.3, field), "learned": fit.score(0.3, field)}
    for ax, name in zip(axes, made, strict=True):
        ax.quiver(*field.T, *arrows[name].T, color="#999999", angles="xy")
        ax.plot(*made[name].T, ".", ms=3, label="generated at time 0.1")
        ax.plot(*(np.exp(-0.05) * law.means.T), "k+", ms=12, label="atoms")
        ax.set(
            title=f"{name} score at time 0.3", aspect="equal", xlim=(-2.2, 2.2), ylim=(-2.2, 2.2)
        )
        ax.grid(False)
    axes[0].legend(fontsize=8)

# %% [markdown]
# ## Real data: two principal components of the digits
#
# The exact score of the *training set* generates the training points again, blurred by the noise at
# the last time. The learned one does not: its samples lie as far from the training points as new
# data with the same noise. Their density is only roughly that of the data: a thousand pairs, spread
# over all times, are few.

# %%
data = datasets.load("digits")
centred = data.X - data.X.mean(0)
plane = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
plane = plane / plane.std(0)
order = np.random.default_rng(0).permutation(len(plane))
seen, held_out = plane[order[:300]], plane[order[300:]]
T0 = 0.02
start = {"T0": T0, "T": 4.0}
memory = atomic_data(seen)
learned = score_regression(memory, 500 if FAST else 1000, key=0, steps=grid, **start)
count = 300 if FAST else 600
made = {
    "exact score of 300 points": reverse_diffusion(memory.posterior_mean, 2, 3, count, **start),
    "learned score": reverse_diffusion(learned.denoise, 2, 3, count, steps=100, **start),
}
alpha, h = np.exp(-T0 / 2), -np.expm1(-T0)
noise = np.random.default_rng(1).normal(size=held_out.shape)
made["held-out data with the same noise"] = alpha * held_out + h**0.5 * noise
for name, points in made.items():
    away = np.linalg.norm(points[:, None] - alpha * seen, axis=-1).min(1)
    print(f"{name:34s} median distance to the training points {np.median(away):.3f}")
with plotting.style():
    fig, axes = plt.subplots(1, 3, figsize=(11, 3.8), sharex=True, sharey=True)
    for ax, (name, points) in zip(axes, made.items(), strict=True):
        ax.plot(*points[:600].T, ".", ms=3)
        ax.set(title=name, xlim=(-3, 3), ylim=(-3, 3), aspect="equal")

# %% [markdown]
# ## Prior-data fitted networks: the exact learning curve
#
# A network trained on draws of a prior is judged by its negative log density after n examples. One
# Cholesky factor gives the exact predictor's value for all n at once; targets are averaged exactly.

# %%
settings = {
    "1 input, noise variance 1e-4": (RBF(0.6), 1e-4, 1),
    "5 inputs, noise variance 1e-4": (RBF(0.6), 1e-4, 5),
    "1 input, lengthscale 0.2, noise 1e-2": (RBF(0.2), 0.01, 1),
}
sizes = [1, 2, 5, 10, 20, 50, 100]
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.6))
    for name, (kernel, noise, d) in settings.items():

        def inputs(key, n, d=d):
            return jax.random.uniform(key, (n, d), np.float64)

        curve = expected_nll(GP(kernel, noise=noise), sizes, inputs, key=0, draws=200)
        curve.plot(axes[0], label=name)
        values = zip(curve.mean, curve.stderr, strict=True)
        print(f"{name:38s}", ", ".join(f"{m:.3f}±{e:.3f}" for m, e in values))
    axes[0].legend(fontsize=7)

    # a heavy-tailed prior: Student-t sequences, judged by both predictors
    heavy = ScaleMixture(RBF(0.3), InverseGamma(1.5, 1.5), noise=0.01)
    plain = GP(lambda a, b=None: 3 * RBF(0.3)(a, b), noise=0.03)  # the same variance, E[s2] = 3
    X, Y = sample_sequences(heavy, inputs, 40, 300, key=1)
    for name, model in (("Student-t process", heavy), ("Gaussian process", plain)):
        losses = np.array([one_step_nll(model, x, y) for x, y in zip(X, Y, strict=True)])
        axes[1].errorbar(range(40), losses.mean(0), losses.std(0) / 300**0.5, label=name)
    axes[1].set(xlabel="context points", ylabel="negative log density (nats)")
    axes[1].set_title("sequences with a random scale")
    axes[1].legend()

# %% [markdown]
# With unknown hyper-parameters (Matérn 5/2, gamma laws for lengthscale, outputscale and noise) the
# exact predictive law is a mixture, by quadrature. A histogram, as such a network puts out, loses
# this many nats per target to it:

# %%
laws = [scipy.stats.gamma(a, scale=1 / b) for a, b in ((3, 6), (0.5, 0.15), (1.1, 0.05))]
x, y = X[0, :15], Y[0, :15]
post = HyperGP(lambda ell: Matern(length_scale=ell), *laws).condition(x, y)
predictive = post.predict(X[0, 15:19])
print(f"log evidence {post.log_evidence:.5f} (quadrature error below {post.error:.0e})")
print("posterior means of lengthscale, outputscale, noise:", post.mean_parameters.round(3))
for bars in (10, 30, 100, 300):
    borders = np.linspace(-12, 12, bars + 1)
    cdf = np.stack([predictive.cdf(np.full(4, b)) for b in borders], axis=1)
    mass = np.diff(cdf, axis=1)
    mass[:, 0], mass[:, -1] = cdf[:, 1], 1 - cdf[:, -2]
    kl = histogram(borders, np.log(np.maximum(mass, 1e-300))).kl_from(predictive)
    print(f"best histogram of {bars:3d} bars: {kl.mean():.2e} nats")

# %% [markdown]
# ## In-context learning of linear functions
#
# Which algorithm does a transformer run? References: the Bayes predictor (ridge), least squares,
# one gradient step (exactly what one layer of linear attention can do), many steps, neighbours.

# %%
d, noise = 8, 0.25
sizes = [1, 2, 4, 6, 8, 10, 14, 20, 30, 40]
setting = {"d": d, "noise": noise, "key": 0, "draws": 200}
with plotting.style():
    ax = plotting.axes()
    for learner in (bayes_learner(noise), ridge_learner(0.0), gradient_learner(0.02, 50)):
        context_curve(learner, sizes, **setting).plot(ax, label=learner.name)
    best = [gradient_step_error(n, d, best_gradient_rate(n, d, noise), noise) for n in sizes]
    ax.plot(sizes, best, "k--", label="one layer of linear attention (exact)")
    context_curve(neighbour_learner(3), sizes, **setting).plot(ax, label="3 neighbours")
    ax.set(ylim=(0.03, 100), title=f"{d} dimensions, noise variance {noise}")
    ax.legend(fontsize=8)

# %% [markdown]
# ## Continual learning: what exact inference forgets
#
# Two tasks that contradict each other. Exact sequential inference equals training on both at once,
# so a model without change ends at their average; a model in which the function drifts does not.

# %%
x = np.repeat([-1.0, 1.0], 50)
path = location_filter(x, noise=1.0)
short = location_filter(x[:60], noise=1.0)
print(f"one mean: {path.mean[49]:.6f} after task 1, {path.mean[-1]:.6f} after task 2,", end=" ")
print(f"{short.mean[-1]:.6f} if task 2 has 10 points")

rng = np.random.default_rng(1)
x = rng.uniform(-3, 3, size=(25, 1))
tasks = [(x, s * np.sin(2 * x[:, 0]) + 0.1 * rng.normal(size=25)) for s in (1, -1, 1)]
still, moving = stream(GP(RBF(1.0), noise=0.01)), stream(GP(drift_kernel(RBF(1.0), 1.5), 0.01))
for t, (a, b) in enumerate(tasks):
    still, moving = still.update(a, b), moving.update(with_task(a, t), b)
scores = {
    "the function stays": continual_scores(still, tasks),
    "the function drifts": continual_scores(
        moving, [(with_task(a, t), b) for t, (a, b) in enumerate(tasks)]
    ),
}
for name, r in scores.items():
    print(
        f"{name}: forgetting {r.forgetting.round(3)}, backward transfer {r.backward_transfer:.3f}"
    )
new = np.linspace(-3, 3, 9)[:, None]
exact = still.posterior.predict(new)
print("mean-field copy of the exact posterior: divergence", end=" ")
print(f"{kl_from_exact(exact, exact.mean, np.diag(exact.var)):.3f} nats at 9 points")
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(8.5, 3.4))
    for ax, (name, r) in zip(axes, scores.items(), strict=True):
        r.plot(ax).set_title(name)

# %% [markdown]
# ## The checks behind this

# %%
for name in () if FAST else ("gp/attention-gradient-step", "gp/score-wide-network"):
    print(get(name).run(key=0).summary())
