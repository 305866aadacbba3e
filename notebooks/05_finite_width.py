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
# # Finite width: the expansion in 1/n
#
# A network of infinite width is a Gaussian process with a fixed tangent kernel. At width $n$ both
# statements get corrections: the kernels fluctuate from network to network, outputs are not quite
# Gaussian, and the tangent kernel moves in training. To first order all of this is in a handful of
# tensors, which obey recursions in depth. Here they are computed for two inputs, held against
# random networks, extrapolated in $1/n$, and used: how wide is wide enough, how deep is too deep,
# and what does a Bayesian network of width 64 predict?

# %%
import jax

jax.config.update("jax_enable_x64", True)

import os

import matplotlib.pyplot as plt
import numpy as np

import gp
import ntk
from deeplimits import plotting

plt.close(plt.figure())  # starts the display of figures before a style is used
FAST = bool(os.environ.get("DEEPLIMITS_FAST"))  # fewer networks when run as a test

# %% [markdown]
# ## The tensors, and random networks
#
# $V$ is the covariance of the random kernel (times $n$), $A$ and $B$ that of the random tangent
# kernel, $D$ and $F$ its correlation with the outputs; $P, Q$ belong to the second derivatives that
# make the tangent kernel move, $R, S, T, U$ to the third. `ntk.sample_finite_width` measures the
# same tensors on networks of finite width, with standard errors. Two widths remove the next order:
# $2X(2n) - X(n)$.

# %%
X = np.array([[1.0, 0.3], [-0.4, 0.8]])
setting = dict(C_b=0.1, C_W=1.6, lambda_b=0.3, lambda_W=0.7, x=X)


def measured(activation, order, sizes, networks):
    """Ensembles of networks with two hidden layers of each size."""
    networks = 64 * (networks // 640 if FAST else networks // 64)
    return [
        ntk.sample_finite_width(
            activation, widths=[n, n], order=order, n_samples=networks, key=100 + n, **setting
        )
        for n in sizes
    ]


found = {}
order = "NTK" if FAST else "ddNTK"  # compilation grows with the order
cases = [("tanh", order, (16, 32), 12_800), ("gelu", "V", (8, 16), 512_000)]
for activation, order, sizes, networks in cases:
    limit = ntk.extrapolate_width(measured(activation, order, sizes, networks))
    theory = ntk.finite_width(activation, widths=[32, 32], order=order, **setting)
    found[activation] = theory, limit
    check = ntk.compare_finite_width(limit, theory)
    print(f"{activation}: {'agrees' if check.passed else 'DISAGREES'}")
    print(check.table(), "\n")

# %% [markdown]
# Every score stays below its bound (3 for one component, widened for their number). "Resolved" is
# the part of the components that stand out of the noise by three standard errors; the last column
# is the largest difference, in percent of the largest component. The corrections $G_1$, $\Theta_1$
# of the means hide behind fluctuations $\sqrt n$ times larger: the half million narrow GELU
# networks are there to resolve $G_1$.

# %%
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(8.5, 3.6))
    for ax, (activation, (theory, limit)) in zip(axes, found.items(), strict=True):
        for i, name in enumerate(n for n in ("V", "G1", *"ABDFPQRSTU") if n in limit.tensors):
            expected, interval = getattr(theory, name).ravel(), limit[name]
            scale = np.abs(expected).max()
            error = (interval.high - interval.low).ravel() / 2 / scale
            if error.max() > 1:
                continue  # not resolved: G1 of the tanh networks
            ax.errorbar(
                expected / scale,
                interval.value.ravel() / scale,
                error,
                fmt="o",
                ms=3,
                color=f"C{i % 8}",
                label=name,
            )
        ax.axline((0, 0), slope=1, color="0.6", lw=0.8, zorder=0)
        ax.set(title=activation, xlabel="theory / its largest component")
        ax.legend(ncols=2, fontsize=7)
    axes[0].set_ylabel("networks, 1/n → 0 (99%)")

# %% [markdown]
# ## Extrapolation
#
# At a given width the expansion has a remainder. The measured $V$ of a ReLU network with four
# hidden layers over $1/n$, with the exact result (ReLU networks need no expansion), shows how the
# limit is approached. Extrapolating widths 16 to 256 by a quadratic gives an interval around the
# theory.

# %%
sizes, counts = (16, 32, 64, 256), (800, 400, 120, 12)
if FAST:  # each size compiles a program
    sizes, counts = sizes[:3], counts[:3]
line = dict(C_b=0.0, C_W=2.0, x=X[:1])
runs = [
    ntk.sample_finite_width(
        "relu",
        widths=[n] * 4,
        order="V",
        n_samples=64 * (max(4, c // 4) if FAST else c),
        key=n,
        **line,
    )
    for n, c in zip(sizes, counts, strict=True)
]
interval = ntk.extrapolate_width(runs, degree=2)["V"]
theory = ntk.finite_width("relu", widths=[256] * 4, order="V", **line)
inverse = np.linspace(1e-9, 1 / 15, 25)
exact = [ntk.exact_homogeneous("relu", widths=[1 / u] * 4, **line).V[-1] for u in inverse]
half = (interval.high - interval.low).item() / 2
with plotting.style():
    fig, ax = plt.subplots(figsize=(5.6, 3.4))
    ax.plot(inverse, exact, color="0.3", label="exact at width n")
    ax.axhline(theory.V.item(), ls=":", color="C1", label="theory, first order in 1/n")
    values = [(run["V"].mean.item(), run["V"].stderr.item()) for run in runs]
    ax.errorbar(1 / np.array(sizes), *np.transpose(values), fmt="o", label="networks")
    ax.errorbar(-0.0015, interval.value.item(), half, fmt="s", label="extrapolated (99%)")
    ax.set(xlabel="1/n", ylabel="V")
    ax.legend()
print(
    f"V: theory {theory.V.item():.3f}, extrapolated {interval.value.item():.3f} "
    f"[{interval.low.item():.3f}, {interval.high.item():.3f}]"
)

# %% [markdown]
# ## Depth over width
#
# At criticality the corrections grow with depth as fast as they fall with width: only $L/n$ counts.
# The excess kurtosis $3V/(nK^2)$ of an output and the relative variance of its tangent kernel, for
# ReLU and tanh networks of many shapes, fall on one curve each.

# %%
depths, some_widths = np.arange(2, 41, 2), (32, 64, 128, 256)
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharex=True)
    for row, (activation, C_W) in enumerate([("relu", 2.0), ("tanh", 1.0)]):
        deep = ntk.finite_width(
            activation, C_b=0.0, C_W=C_W, widths=[10_000] * (depths[-1] - 1), x=[[1.0]], order="NTK"
        )
        layer = {name: getattr(deep.layers, name)[depths - 1].reshape(len(depths)) for name in
                 ("G", "Theta", "V", "A", "B")}  # fmt: skip
        kurtosis = 3 * layer["V"] / layer["G"] ** 2
        noise = (layer["A"] + 2 * layer["B"]) / layer["Theta"] ** 2
        for n, marker in zip(some_widths, "osv^", strict=True):
            style = dict(ls="", marker=marker, ms=4, color=f"C{row}", alpha=0.7)
            label = f"{activation}, n = {n}"
            axes[0].plot((depths - 1) / n, kurtosis / n, label=label, **style)
            axes[1].plot((depths - 1) / n, noise / n, **style)
    exact = {n: [ntk.exact_homogeneous("relu", C_b=0.0, C_W=2.0, widths=[n] * (d - 1), x=[1.0])
                 for d in depths[::2]] for n in (32, 256)}  # fmt: skip
    for n, records in exact.items():
        style = dict(color="0.3", lw=1, ls="-" if n == 32 else "--")
        for ax, name in zip(axes, ("kurtosis", "ntk_relative_variance"), strict=True):
            values = [getattr(e, name)[-1] for e in records]
            ax.plot((depths[::2] - 1) / n, values, label=f"relu, n = {n}, exact", **style)
    axes[0].set(xlabel="hidden layers / n", ylabel="excess kurtosis", xscale="log", yscale="log")
    axes[1].set(
        xlabel="hidden layers / n",
        ylabel="relative variance of the NTK",
        xscale="log",
        yscale="log",
    )
    axes[0].legend(fontsize=6.5, ncols=2)

# %% [markdown]
# The exact curves of ReLU networks leave the straight lines at $L/n$ of about 0.1: there the first
# order stops being enough. How deep is best? The information that two halves of the outputs share
# first grows with $L/n$ and then falls; its maximum suggests a shape.

# %%
print("activation   growth of V/K^2 per layer   best L/n   layers at n = 512")
for activation in ("linear", "relu", "tanh"):
    best = ntk.optimal_aspect_ratio(1, activation)
    print(f"{activation:10s}   {best.nu:26.3f}   {best.ratio:8.4f}   {512 * best.ratio:17.0f}")

# %% [markdown]
# ## Residual networks
#
# With copies, $z' = b + W\sigma(z) + \gamma z$, the vertex is also fed by $E[z_i z_k^2]$, which
# vanishes for odd activations only. Leaving it out gives the usual formula, and misses half of the
# growth for ReLU.

# %%
residual = dict(C_W=1.0, gamma=0.5**0.5, depth=8)
runs = {
    n: ntk.sample_residual_width("relu", width=n, n_samples=64 * 500, key=n, **residual)
    for n in (48, 96)
}
value = 2 * runs[96]["V"].mean - runs[48]["V"].mean
error = np.hypot(2 * runs[96]["V"].stderr, runs[48]["V"].stderr)
with plotting.style():
    fig, ax = plt.subplots(figsize=(5.2, 3.2))
    for three_point in (True, False):
        ntk.residual_width("relu", three_point=three_point, **residual).plot(ax)
    ax.errorbar(np.arange(1, 9), value, 2.5 * error, fmt="o", ms=4, label="networks, 1/n → 0")
    ax.legend()

# %% [markdown]
# ## Predictions of Bayesian networks of finite width
#
# The kernel fluctuates, so the data choose among kernels: the posterior mean, its variance and the
# evidence get corrections of order $1/n$. They come from $G_1$, $V$ and automatic differentiation
# through the posterior. Two training points and one test point on the circle:

# %%
angles, y = np.array([0.3, 1.5, 2.3]), np.array([1.0, -0.5])
inputs = np.stack([np.cos(angles), np.sin(angles)], axis=1)
tensors = ntk.finite_width(
    "tanh", C_b=0.05, C_W=1.8, widths=[64, 64], x=inputs, order="NTK", closure="full"
)
print("  n   mean    corrected   variance   corrected   log evidence   corrected")
for n in (16, 64, 256):
    p = gp.finite_width_posterior(tensors.G, tensors.G1, tensors.V, y, n=n, noise=0.01)
    print(
        f"{n:4d}  {p.mean.item():6.3f}   {p.corrected_mean.item():8.3f}   {p.var.item():8.4f}   "
        f"{p.corrected_var.item():9.4f}   {p.log_evidence:12.3f}   {p.corrected_log_evidence:9.3f}"
    )
q = gp.finite_width_linearized(tensors, y, n=64)
print(
    f"trained linearised networks of width 64: mean {q.mean.item():.3f} -> "
    f"{q.corrected_mean.item():.3f}, variance {q.var.item():.4f} -> {q.corrected_var.item():.4f}"
)
