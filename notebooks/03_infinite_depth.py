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
# # Infinite width and infinite depth: which classifier is it?
#
# Take the kernel of an infinitely wide network, fit the labels with it, and let the number of
# layers grow. The classifier tends to one of three: the *nearest neighbour*, the *majority vote*,
# or a weighted vote of all training points with a *singular kernel* $|x - x'|^{-2\alpha}$. Which
# one, is decided by two Hermite coefficients and one slope of the activation
# (Radhakrishnan, Belkin and Uhler, 2023). The third kind is consistent, that is as good as any
# classifier in the limit of many data, exactly if $2\alpha$ is the dimension of the data.

# %%
import jax

jax.config.update("jax_enable_x64", True)

import os

import matplotlib.pyplot as plt
import numpy as np

import ntk
from deeplimits import plotting
from deeplimits.datasets import load, to_sphere
from ntk import activation_for_dimension, infinite_depth

FAST = bool(os.environ.get("DEEPLIMITS_FAST"))
plt.close(plt.figure())  # starts the display of figures before a style is used

# %% [markdown]
# ## The class of an activation

# %%
print(f"{'activation':28s} {'limit':18s} {'phase':9s} {'a':>7s} {'b':>7s} {'exponent':>9s}")
consistent = {d: activation_for_dimension(d) for d in (1, 2, 4, 8)}
named = {"erf": "erf", "sin": "sin", "sign": "sign", "third Hermite polynomial": "hermite3"}
named |= {"relu": "relu", "cos": "cos"}
named |= {f"consistent in dimension {d}": f for d, f in consistent.items()}
limits = {name: infinite_depth(activation) for name, activation in named.items()}
for name, limit in limits.items():
    numbers = f"{limit.a:7.4f} {limit.b:7.4f} {limit.exponent:9.4f}"
    print(f"{name:28s} {limit.kind:18s} {limit.phase:9s} {numbers}")

# %% [markdown]
# ## The limiting kernel
#
# The singular kernel is Koenigs' function $\psi(\rho) = \lim_L \hat\varphi^{\circ L}(\rho)/a^L$.
# It is computed as a logarithm, down to $1 - \rho = 10^{-300}$; a power of the distance, up to a
# ripple that is periodic in its logarithm.

# %%
eps = np.geomspace(1e-300, 0.5, 400)
near = np.geomspace(1e-12, 1e-6, 400)
with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.2))
    for d in (1, 2, 4):
        limit = limits[f"consistent in dimension {d}"]
        axes[0].plot(np.log10(eps), limit.log_kernel(eps=eps) / np.log(10), label=f"$2\\alpha={d}$")
    axes[0].set(xlabel=r"$\log_{10}(1-\rho)$", ylabel=r"$\log_{10}\psi$")
    axes[0].legend()
    for d in (1, 8):
        limit = limits[f"consistent in dimension {d}"]
        ripple = np.exp(limit.log_kernel(eps=near) + d / 2 * np.log(near))
        axes[1].semilogx(near, 100 * (ripple / ripple.mean() - 1), label=f"$2\\alpha={d}$")
    axes[1].set(xlabel=r"$1-\rho$", ylabel=r"ripple of $\psi\,(1-\rho)^\alpha$ (%)")
    axes[1].legend()

# %% [markdown]
# ## Deep kernels on handwritten digits
#
# Digits 0 to 3 against 4 to 9. Lines: kernel regression with $L$ layers by the library's own
# recursion, which keeps logarithms. Crosses: the same from the Gram matrices of the actual network,
# `ntk.repeat(block, L)` through `ntk.gram`, solved in float64. The cross off its line shows why
# logarithms are needed: at depth 6 the correlations are $\rho^{729}$, below the rounding of 1.

# %%
digits = load("digits")
n, m = (60, 60) if FAST else (120, 100)
X = to_sphere(digits.X, 1.0)
label = np.where(digits.y < 4, 1, -1)
X_train, y_train, X_test, y_test = X[:n], label[:n], X[-m:], label[-m:]


def from_gram(limit, depth, get):
    """Labels by regression with the Gram of the network of this depth, without any care."""
    net = limit.network(depth, width=1)
    K = ntk.gram(net, np.concatenate([X_train, X_test]), get=get, progress=False)
    K = K / K[0, 0]
    return np.sign(K[n:, :n] @ np.linalg.solve(K[:n, :n], y_train.astype(float)))


cases = {
    "nearest neighbour (third Hermite polynomial, NNGP)": (
        limits["third Hermite polynomial"],
        "nngp",
    ),
    "singular kernel (consistent in dimension 8, NNGP)": (
        limits["consistent in dimension 8"],
        "nngp",
    ),
    "majority vote (ReLU, NTK)": (limits["relu"], "ntk"),
}
depths = {0: [1, 2, 3, 4, 6, 8, 12], 1: [1, 2, 4, 8, 16, 32, 64],
          2: [1, 10, 100, 1000] + ([] if FAST else [10000])}  # fmt: skip
checked = {0: [2, 3, 6], 1: [4, 16], 2: [10, 1000]}
with plotting.style():
    fig, ax = plt.subplots(figsize=(7, 3.6))
    for i, (name, (limit, get)) in enumerate(cases.items()):
        target = limit.predict(X_train, y_train, X_test)
        rates = [
            np.mean(limit.predict(X_train, y_train, X_test, depth=L, kernel=get) == target)
            for L in depths[i]
        ]
        gram = [np.mean(from_gram(limit, L, get) == target) for L in checked[i]]
        ax.semilogx(depths[i], rates, "o-", ms=4, color=plotting.COLORS[i], label=name)
        ax.plot(checked[i], gram, "x", ms=9, mew=2, color=plotting.COLORS[i])
        print(f"{name}: agreement {rates[-1]:.3f} at depth {depths[i][-1]}; "
              f"test accuracy of the limit {np.mean(target == y_test):.3f}")  # fmt: skip
    ax.set(xlabel="depth", ylabel="agreement with the limit")
    ax.legend()

# %% [markdown]
# How deep must the network be? For the singular kernel a few dozen layers do with the NNGP kernel;
# its NTK, $a^L (L \psi + S)$, needs as many as $1/(1-\rho)$ of the closest pair.

# %%
singular = limits["consistent in dimension 8"]
print("NNGP:", singular.depth_needed(X_train), "layers;  NTK, to 10%:",
      singular.depth_needed(X_train, kernel="ntk", tol=0.1), "layers")  # fmt: skip

# %% [markdown]
# ## Consistency
#
# Two classes of Dirichlet vectors in dimension $d$, with known densities. The activation made for
# the dimension beats both other limits and approaches the Bayes rule.

# %%
alphas = {
    1: ([1, 2], [2, 1]),
    2: ([0.5, 0.5, 2.5], [2.5, 0.1, 0.5]),
    4: ([3, 1, 2, 1, 1], [1, 2, 2, 2, 3]),
    8: ([1, 2, 1, 2, 1, 1, 1, 1, 1], [1, 1, 1, 2, 3, 4, 2, 2, 1]),
}


def dirichlet(d, n, rng):
    y = np.where(rng.random(n) < 0.4, 1, -1)
    return np.where((y == 1)[:, None], *(rng.dirichlet(a, n) for a in alphas[d])), y


def log_density(x, alpha):
    from scipy.special import gammaln

    alpha = np.asarray(alpha, float)
    return gammaln(alpha.sum()) - gammaln(alpha).sum() + (np.log(x) * (alpha - 1)).sum(axis=1)


n_train, n_test = (300, 300) if FAST else (2000, 1000)
rng = np.random.default_rng(0)
names = ["majority", "nearest", "singular", "Bayes"]
accuracy = {}
for d in alphas:
    (Xd, yd), (Zd, wd) = dirichlet(d, n_train, rng), dirichlet(d, n_test, rng)
    bayes = np.where(
        np.log(0.4) + log_density(Zd, alphas[d][0]) > np.log(0.6) + log_density(Zd, alphas[d][1]),
        1,
        -1,
    )
    used = [
        limits["relu"],
        limits["third Hermite polynomial"],
        limits[f"consistent in dimension {d}"],
    ]
    found = [limit.predict(Xd, yd, Zd) for limit in used]
    accuracy[d] = [np.mean(p == wd) for p in [*found, bayes]]
print("  d  " + "  ".join(f"{v:>8s}" for v in names))
for d, values in accuracy.items():
    print(f"{d:3d}  " + "  ".join(f"{v:8.3f}" for v in values))

# %%
with plotting.style():
    fig, ax = plt.subplots(figsize=(6, 3.4))
    place = np.arange(len(accuracy))
    table = np.array(list(accuracy.values()))
    error = np.sqrt(table * (1 - table) / n_test)
    for i, name in enumerate(names[:3]):
        shift = 0.18 * (i - 1)
        ax.errorbar(place + shift, table[:, i], error[:, i], fmt="o", label=name)
    ax.hlines(table[:, 3], place - 0.35, place + 0.35, color="0.3", label="Bayes rule")
    ax.set_xticks(place, [f"d = {d}" for d in accuracy])
    ax.set(ylabel="test accuracy")
    ax.legend(ncols=2)

# %% [markdown]
# The limit needs no Gram matrix: training points are streamed, here 100 000 of them.

# %%
many = 5_000 if FAST else 100_000
(Xd, yd), (Zd, wd) = dirichlet(2, many, rng), dirichlet(2, 25, rng)
print(
    many,
    "training points, accuracy",
    np.mean(limits["consistent in dimension 2"].predict(Xd, yd, Zd) == wd),
)

# %% [markdown]
# ## The ordered phase
#
# The cosine pulls all inputs together ($b < 1$). With any ridge the deep classifier is the majority
# vote; without one it is kriging, with a variogram $\psi_1 = \lim_L (1 - \rho_L)/b^L$: the two
# limits do not commute.

# %%
cosine = limits["cos"]
for ridge in (0.0, 1e-6):
    p = cosine.predict(X_train, y_train, X_test, ridge=ridge)
    print(f"ridge {ridge:g}: share of the majority label {np.mean(p == -1):.3f}, "
          f"accuracy {np.mean(p == y_test):.3f}")  # fmt: skip

# %% [markdown]
# ## Mistakes

# %%
for mistake in (
    lambda: infinite_depth("linear"),
    lambda: infinite_depth([0.5, -0.5, 1.0]),
    lambda: limits["relu"].predict(X_train[:4], [1, 1, -1, -1], X_test[:3]),
    lambda: activation_for_dimension(3, b=5.0),
):
    try:
        mistake()
    except ValueError as error:
        print(f"{type(error).__name__}: {error}\n")
