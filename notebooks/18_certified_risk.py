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
# # Certified risk from kernels
#
# Can a wide network be certified from its training set alone, without test data? Twice yes. The
# prior probability of the labels (*evidence*) bounds the error of the network given that it fits
# them; and the divergence between a network stopped early and its initialisation, which is known in
# closed form, bounds the error of that. Both are theorems, and both are put beside the true error.

# %%
import jax

jax.config.update("jax_enable_x64", True)

import os

import matplotlib.pyplot as plt
import numpy as np

import bounds
import ntk
from deeplimits import plotting

FAST = bool(os.environ.get("DEEPLIMITS_FAST"))
plt.close(plt.figure())  # starts the display of figures before a style is used

# %% [markdown]
# The toy of this notebook: points on a sphere in ten dimensions, labelled by the sign of one
# coordinate or at random, and a network with one hidden ReLU layer.

# %%
rng = np.random.default_rng(0)
most, d = (100, 10) if FAST else (400, 10)
X = rng.normal(size=(most + 1000, d))
X *= np.sqrt(d) / np.linalg.norm(X, axis=1, keepdims=True)
teacher, random = np.sign(X[:, 0]), rng.choice([-1.0, 1.0], size=len(X))
net = ntk.mlp(1, "relu", W_std=2**0.5)
K, T = np.asarray(net.nngp(X)), np.asarray(net.ntk(X))

# %% [markdown]
# ## Evidence of labels
#
# The probability that a random network gives all labels: by expectation propagation (EP), and by
# importance sampling (GHK), unbiased but with weights that are soon worth few samples. Random
# labels are as unlikely as coin flips, or more so; structured ones are not.

# %%
sizes = [10, 20, 40] if FAST else [10, 20, 40, 80, 160]
evidence = {}
for name, y in (("teacher", teacher), ("random", random)):
    ep = [bounds.log_evidence_orthant(K[:n, :n], y[:n]).value for n in sizes]
    sampled = [bounds.kernel_evidence_pac_bayes(K[:n, :n], y[:n], key=n) for n in sizes]
    evidence[name] = np.array(ep), sampled
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.4))
    for (name, (ep, sampled)), color in zip(evidence.items(), plotting.COLORS, strict=False):
        axes[0].plot(sizes, -ep / np.log(2), color=color, label=f"{name}, EP")
        found = [-b.terms["log_evidence"] / np.log(2) for b in sampled]
        axes[0].plot(sizes, found, "o", color=color, label=f"{name}, sampled")
        worth = [b.terms["effective_samples"] for b in sampled]
        axes[1].loglog(sizes, worth, "o-", color=color, label=name)
    axes[0].plot(sizes, sizes, "k:", label="coin flips")
    axes[0].set(xlabel="training points", ylabel="evidence (bits)")
    axes[1].set(xlabel="training points", ylabel="effective samples of 10 000")
    for ax in axes:
        ax.legend()

# %% [markdown]
# ## A certificate from a crude estimate
#
# With probability $1 - \delta$,
# $-\ln(1 - R) \le \left[-\ln P(\text{labels}) + \ln(1/\delta)\right] / n$. The evidence need not be
# known: *any unbiased estimate* may stand in its place, with nothing to pay, because its error
# averages out before Markov's inequality is used. More samples make the bound tighter, never more
# valid.

# %%
n = sizes[-1]
draws = [1, 10, 100, 1000, 10_000]
tightening = [
    float(bounds.kernel_evidence_pac_bayes(K[:n, :n], teacher[:n], n_samples=s, key=0))
    for s in draws
]
by_ep = float(bounds.pac_bayes_realizable(evidence["teacher"][0][-1], n))
with plotting.style():
    ax = plotting.axes()
    ax.semilogx(draws, tightening, "o-", label="certified, from samples")
    ax.axhline(by_ep, color="black", ls="--", lw=1, label="from EP (no error bar, no theorem)")
    ax.set(xlabel="importance samples", ylabel="bound on the risk", ylim=(0, 1))
    ax.legend()
print(bounds.kernel_evidence_pac_bayes(K[:n, :n], teacher[:n], key=0).explain())

# %% [markdown]
# ## Stopping early
#
# The tangent-kernel network under gradient flow stays Gaussian. Its divergence from the
# initialisation grows with time, its training error falls, and the certificate has a best time in
# between, found on a grid that was declared beforehand and is paid for.

# %%
n = most
times, scales = np.logspace(-4, 1.5, 23), (1.0, 0.3, 0.1, 0.03)
certificate = bounds.kernel_flow_pac_bayes(T[:n, :n], teacher[:n], times, scales)
flow = bounds.kernel_flow(T[:n, :n], teacher[:n])
scale = certificate.terms["scale"]
fine = np.logspace(-3, 1.5, 80)
train = flow.gibbs_error(T[:n, :n], np.diag(T)[:n], teacher[:n], fine, scale)
test = flow.gibbs_error(T[n:, :n], np.diag(T)[n:], teacher[n:], fine, scale)
budget = flow.kl(fine, scale) + np.log(2 * np.sqrt(n) * certificate.terms["grid"] / 0.05)
curve = bounds.kl_inverse(train, budget / n)
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.4))
    axes[0].semilogx(fine, curve, label="certified")
    axes[0].semilogx(fine, test, label="true")
    axes[0].semilogx(fine, train, label="training")
    axes[0].plot(certificate.terms["time"], float(certificate), "o", color="black")
    axes[0].set(xlabel="time of gradient flow", ylabel="error of a drawn network", ylim=(0, 1))
    axes[0].legend()
    sizes = [25, 50, 100] if FAST else [50, 100, 200, 400]
    for label, y in (("teacher", teacher), ("random", random)):
        found = [bounds.kernel_flow_pac_bayes(T[:m, :m], y[:m], times, scales) for m in sizes]
        axes[1].semilogx(sizes, [float(b) for b in found], "o-", label=label)
    axes[1].axhline(0.5, color="0.6", lw=1)
    axes[1].set(xlabel="training points", ylabel="certified error", ylim=(0, 0.8))
    axes[1].set_xticks(sizes, [str(m) for m in sizes])
    axes[1].set_xticks([], minor=True)
    axes[1].legend(title="labels")
print(certificate.explain())

# %% [markdown]
# ## Simple functions first
#
# Why do evidence bounds work? Random networks prefer simple functions. All inputs of five bits,
# networks with one and with three hidden layers: the probability of a function against its
# Lempel-Ziv complexity C, and the line $2^{-aC - b}$ that touches the largest ones (dashed).
# Under a uniform prior every function would have probability $2^{-32}$.

# %%
bits = bounds.boolean_inputs(5)
samples = 5000 if FAST else 30_000
with plotting.style():
    ax = plotting.axes()
    for depth in (1, 3):
        kernel = ntk.mlp(depth, "relu", W_std=2**0.5, b_std=0.2).nngp(bits)
        found = bounds.function_probabilities(
            kernel, n_samples=samples, key=depth, name=f"{depth} hidden layers"
        )
        found.plot(ax)
print(found.to_dataset().isel(function=slice(4)).to_dataframe())

# %% [markdown]
# ## Complexity of the interpolant
#
# The norm of the kernel interpolant tells true from random labels too. The published complexity
# $\sqrt{2 y^\top H^{-1} y / n}$ leaves terms out. The complete inequality is a theorem; it pays for
# not knowing the norm beforehand and is larger (dashed, for the linear target).

# %%
unit = X / np.sqrt(d)
numbers = [25, 50, 100] if FAST else [25, 50, 100, 200, 400]
H = bounds.first_layer_gram(unit[:most])
with plotting.style():
    ax = plotting.axes()
    targets = {"linear target": unit[:, 0], "teacher": teacher, "random": random}
    for (name, y), color in zip(targets.items(), plotting.COLORS, strict=False):
        leading = [float(bounds.ntk_complexity(H[:m, :m], y[:m])) for m in numbers]
        ax.loglog(numbers, leading, "o-", color=color, label=name)
    linear = unit[:, 0]
    risks = [bounds.kernel_norm_risk(2 * H[:m, :m], linear[:m], loss="absolute") for m in numbers]
    ax.loglog(numbers, [float(r) for r in risks], "--", color=plotting.COLORS[0])
    ax.axhline(1, color="0.6", lw=1)
    ax.set(xlabel="training points", ylabel="complexity, bound")
    ax.set_yticks([0.1, 0.3, 1, 3], ["0.1", "0.3", "1", "3"])
    ax.set_yticks([], minor=True)
    ax.set_xticks(numbers, [str(m) for m in numbers])
    ax.set_xticks([], minor=True)
    ax.legend()

# %% [markdown]
# ## All of it at once
#
# Kernels side by side on the teacher task: certificates, the true error of the randomised
# classifier that the flow certifies, and that of the Gaussian process.

# %%
n, m = (40, 40) if FAST else (120, 80)
networks = {
    "linear": ntk.mlp(0),
    "ReLU, depth 1": net,
    "ReLU, depth 4": ntk.mlp(4, "relu", W_std=2**0.5),
    "erf, depth 1": ntk.mlp(1, "erf", W_std=2**0.5, b_std=0.1),
}
if FAST:
    networks = {"linear": networks["linear"], "ReLU, depth 1": net}
found = bounds.compare_architectures(
    networks, X[:n], teacher[:n], X[n : n + m], teacher[n : n + m], key=0, eps=0.3
)
print(found.table())
with plotting.style():
    found.plot()
