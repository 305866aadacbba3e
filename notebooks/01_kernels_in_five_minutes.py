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
# # Kernels in five minutes
#
# A network with random weights is a random function. As its hidden layers widen, this function
# becomes a Gaussian process with covariance $K(x, x')$ (the *NNGP kernel*), and its training by
# gradient descent becomes linear, governed by the *neural tangent kernel* $\Theta(x, x')$. Both
# are computed here exactly, from the architecture alone, and then held against networks of
# finite width.

# %%
import jax

jax.config.update("jax_enable_x64", True)

import matplotlib.pyplot as plt
import numpy as np

import deeplimits
import gp
import ntk
from deeplimits import plotting

plt.close(plt.figure())  # starts the display of figures before a style is used

# %% [markdown]
# ## A first kernel
#
# Three hidden ReLU layers. `W_std` and `b_std` are the scales of weights and biases; the widths
# do not matter for the limit.

# %%
net = ntk.mlp(depth=3, activation="relu", W_std=2**0.5, b_std=0.2)
angle = np.linspace(0, 2 * np.pi, 181)
circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
K, T = net.nngp(circle[:1], circle)[0], net.ntk(circle[:1], circle)[0]

with plotting.style():
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.2))
    axes[0].plot(np.degrees(angle), K / K[0], label="NNGP")
    axes[0].plot(np.degrees(angle), T / T[0], label="NTK")
    axes[0].set(xlabel="angle between the inputs (degrees)", ylabel="kernel / its value at 0")
    axes[0].legend()
    for name in ["relu", "erf", "tanh", "gelu"]:
        other = ntk.mlp(depth=3, activation=name, W_std=2**0.5, b_std=0.2)
        t = other.ntk(circle[:1], circle)[0]
        axes[1].plot(np.degrees(angle), t / t[0], label=name)
    axes[1].set(xlabel="angle between the inputs (degrees)", ylabel="NTK / its value at 0")
    axes[1].legend()

# %% [markdown]
# The NTK of a ReLU network has a cusp at zero angle: it remembers the kink of the activation.
# Smooth activations give smooth kernels.
#
# ## A first posterior
#
# Conditioning the process on data is Gaussian-process regression with the kernel of the
# network.

# %%
rng = np.random.default_rng(1)
X = np.sort(rng.uniform(-2, 2, 12))[:, None]
y = np.sin(3 * X[:, 0]) + 0.1 * rng.normal(size=12)
grid = np.linspace(-2.5, 2.5, 200)[:, None]


def on_circle(x):
    """A bias-like second coordinate keeps the inputs away from the origin."""
    return np.concatenate([x, np.ones_like(x)], axis=1)


smooth = ntk.mlp(depth=2, activation="erf", W_std=3.0, b_std=0.3)
post = gp.GP(smooth.nngp, noise=0.01).condition(on_circle(X), y)
mean, std = post.mean(on_circle(grid)), np.sqrt(post.var(on_circle(grid)))
draws = post.sample(jax.random.key(0), on_circle(grid), 5)

with plotting.style():
    fig, ax = plt.subplots(figsize=(7, 3.4))
    ax.fill_between(grid[:, 0], mean - 2 * std, mean + 2 * std, alpha=0.2, label="mean ± 2 std")
    ax.plot(grid[:, 0], mean)
    ax.plot(grid[:, 0], draws.T, lw=0.7, color="0.5")
    ax.plot(X[:, 0], y, "ko", ms=4, label="data")
    ax.set(xlabel="x", ylabel="y")
    ax.legend()
print(f"log evidence {post.log_evidence:.3f}, leave-one-out RMSE {post.loo().rmse:.3f}")

# %% [markdown]
# ## A first finite-width check
#
# The kernel of a finite random network fluctuates around its limit. The theory of wide networks
# says that the variance falls as 1/width. `deeplimits.compare` runs the experiment and fits the
# exponent.

# %%
points = on_circle(np.array([[-1.0], [0.3], [1.2]]))


def finite_kernels(key, width):
    """Empirical NTK entries of 200 random networks of this width."""
    finite = ntk.mlp(depth=2, activation="erf", W_std=1.5, b_std=0.3, width=width)
    init_fn, apply_fn, _ = finite

    def one(k):
        _, params = init_fn(k, points.shape)
        return ntk.empirical_ntk(lambda p, x: apply_fn(p, x), params, jax.numpy.asarray(points))

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(key, 200)))


limit = np.asarray(ntk.mlp(depth=2, activation="erf", W_std=1.5, b_std=0.3).ntk(points))
check = deeplimits.compare(
    limit,
    finite_kernels,
    sizes=[16, 32, 64, 128, 256],
    key=0,
    exponent=-1,
    decays="variance",
    name="variance of the empirical NTK",
)
print(check.table())
check.plot()

# %% [markdown]
# ## A mistake
#
# Errors name the argument, what came and what is allowed.

# %%
try:
    net.ntk(np.ones(5))
except deeplimits.DeepLimitsError as error:
    print(f"{type(error).__name__}: {error}")
try:
    net.kernel_fn(circle, None, "nkt")
except deeplimits.DeepLimitsError as error:
    print(f"{type(error).__name__}: {error}")
