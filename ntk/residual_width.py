r"""Residual networks at order 1/n: the vertex is fed by a three-point function.

Each layer adds to a copy of its input, :math:`z' = b + W \sigma(z) + \gamma z`, all of width n,
with :math:`\mathrm{Var}\,b = C_b`, :math:`\mathrm{Var}\,W = C_W / n`. Unlike without the copy, the
preactivations of one layer are not exchangeable Gaussians given the last metric alone:
:math:`E[z_i z_k^2]` at :math:`i \ne k` is of order 1/n wherever :math:`\sigma^2` is not even.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits import plotting
from deeplimits.errors import DomainError
from deeplimits.estimates import Estimate
from deeplimits.gaussian import panel_rule
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import as_key, check, integer, number
from ntk.activations import dual
from ntk.duals import Dual
from ntk.elementwise import typed

#: Panels of 20 Gauss-Legendre nodes: 1e-13 for tanh up to variance 25.
_PANELS = 24
#: Numbers (float32) that may be held at once for the networks in flight: 64 MB.
_BUDGET = 2**24


@functools.partial(
    register_dataclass,
    data_fields=["K", "V", "tau", "G1"],
    meta_fields=["gamma", "three_point"],
)
@dataclass(frozen=True)
class ResidualWidth:
    """One input in a residual network, layer by layer (axis: layer 1, 2, ...).

    Attributes:
        K: variance of the preactivations at infinite width.
        V: four-point vertex, ``cov(z_i^2, z_k^2) = V/n``.
        tau: three-point function, ``E[z_i z_k^2] = tau/n``.
        G1: correction of the variance, ``E[z_i^2] = K + G1/n``.
        gamma: strength of the copy.
        three_point: whether tau was kept.
    """

    K: np.ndarray
    V: np.ndarray
    tau: np.ndarray
    G1: np.ndarray
    gamma: float
    three_point: bool

    def plot(self, ax: Any = None) -> Any:
        """``V/K^2``, which is n/3 times the excess kurtosis, against the layer."""
        ax = plotting.axes(ax)
        label = "with three-point term" if self.three_point else "without three-point term"
        ax.plot(np.arange(1, len(self.V) + 1), self.V / self.K**2, label=label)
        ax.set(xlabel="layer", ylabel="V / K^2")
        ax.legend()
        return ax


@float64_scope
def residual_width(
    activation: Any,
    *,
    C_W: float,
    gamma: float,
    depth: int,
    C_b: float = 0.0,
    K: float = 1.0,
    three_point: bool = True,
) -> ResidualWidth:
    r"""Vertex and corrections of order 1/n of a residual network, for one input.

    .. math::
       K' &= C_b + C \langle f \rangle + \gamma^2 K, \qquad f = \sigma^2,\ C = C_W,\ h = f_2 / 2, \\
       V' &= C^2 [\langle f^2 \rangle - \langle f \rangle^2 + h^2 V + f_1 f_2 \tau]
          + 2 \gamma^2 C [\langle z^2 f \rangle - K \langle f \rangle + h V + f_1 \tau]
          + \gamma^4 V, \\
       \tau' &= \gamma [C \langle z f \rangle + (C h + \gamma^2) \tau], \\
       G_1' &= C [h G_1 + f_4 V / 8 + f_3 \tau / 2] + \gamma^2 G_1,

    with averages over :math:`z \sim N(0, K)` and :math:`f_k = \langle \partial^k f \rangle`, taken
    as :math:`\langle f\, \mathrm{He}_k(z / \sqrt K) \rangle K^{-k/2}`, which holds for kinks too.

    Args:
        activation: a name, a dual, or an elementwise function.
        C_W: variance of the weights times width, > 0; critical at ``(1 - gamma^2) / A_2`` for
            slopes with mean square A_2, at ``(1 - gamma^2) / sigma'(0)^2`` for tanh and its like.
        gamma: strength of the copy, in [-1, 1]; 0 is the network without copies.
        depth: layers of preactivations, >= 1, the first (an affine map of the input) included.
        C_b: variance of the biases, >= 0, default 0.
        K: variance of the first layer, > 0, default 1.
        three_point: keep tau, default True. False is the usual formula, right for odd activations.

    Returns:
        :class:`ResidualWidth` with arrays of length ``depth``.

    Raises:
        DomainError: an argument out of its range, or a variance that overflows.

    Source: derived here; without tau, the appendix on residual networks of [roberts2022].
    Check: ``tests/ntk/test_residual_width.py``.
    """
    number(C_W, "C_W", above=0)
    number(gamma, "gamma", at_least=-1, at_most=1)
    number(C_b, "C_b", at_least=0)
    number(K, "K", above=0)
    depth = integer(depth, "depth", at_least=1)
    f = typed(dual(activation), jnp.float64)
    constants = [jnp.asarray(a, jnp.float64) for a in (C_b, C_W, gamma, K, float(three_point))]
    layers = [np.asarray(a) for a in _run(f, *constants, depth)]
    check(
        all(np.isfinite(a).all() for a in layers),
        f"the variance leaves the range of float64 within {depth} layers at C_W = {C_W:g} and "
        f"gamma = {gamma:g}. Choose C_W nearer to its critical value.",
        DomainError,
    )
    found = dict(zip(("K", "V", "tau", "G1"), layers, strict=True))
    return ResidualWidth(**found, gamma=float(gamma), three_point=bool(three_point))


@functools.partial(jax.jit, static_argnames="depth")
def _run(f: Dual, C_b: Any, C_W: Any, gamma: Any, K: Any, keep: Any, depth: int) -> Any:
    def step(state: Any, _: None) -> tuple[Any, Any]:
        return _layer(f, C_b, C_W, gamma, keep, *state), state

    zero = jnp.zeros_like(K)
    return jax.lax.scan(step, (K, zero, zero, zero), None, length=depth)[1]


def _layer(
    dual_: Dual, C_b: Any, C: Any, gamma: Any, keep: Any, K: Any, V: Any, tau: Any, G1: Any
) -> tuple[Any, Any, Any, Any]:
    """The recursion for ``(K, V, tau, G1)``."""
    root = jnp.sqrt(K)
    kinks = jnp.asarray(dual_.kinks, jnp.float64) / root
    u, w = (jnp.asarray(a) for a in panel_rule(kinks, panels=_PANELS))
    square = dual_.fn(root * u) ** 2

    def mean(values: Any) -> Any:
        return jnp.sum(w * values)

    f0, f1, f2 = mean(square), mean(square * u) / root, mean(square * (u**2 - 1)) / K
    f3 = mean(square * (u**3 - 3 * u)) / (K * root)
    f4 = mean(square * (u**4 - 6 * u**2 + 3)) / K**2
    h, skip = f2 / 2, gamma**2
    own = mean((square - f0) ** 2) + h**2 * V + keep * f1 * f2 * tau
    cross = K**2 * f2 + h * V + keep * f1 * tau  # <z^2 f> - K <f> = K^2 f2
    return (
        C_b + C * f0 + skip * K,
        C**2 * own + 2 * skip * C * cross + skip**2 * V,
        gamma * (C * K * f1 + (C * h + skip) * tau),  # <z f> = K f1
        C * (h * G1 + f4 * V / 8 + keep * f3 * tau / 2) + skip * G1,
    )


@float64_scope
def sample_residual_width(
    activation: Any,
    *,
    C_W: float,
    gamma: float,
    depth: int,
    width: int,
    n_samples: int,
    key: Any,
    C_b: float = 0.0,
    K: float = 1.0,
    groups: int = 64,
) -> dict[str, Estimate]:
    r"""V, tau and G1 of a residual network measured on random networks of finite width.

    Given a layer, :math:`b + W \sigma(z)` is normal with variance
    :math:`g = C_b + C_W \overline{\sigma^2}`, independently for every neuron. So the next layer is
    drawn without its weights, and what is measured on it is averaged over them exactly:

    .. math:: V' = n [E (\gamma^2 z_i^2 + g)(\gamma^2 z_k^2 + g) - (E (\gamma^2 z_i^2 + g))^2],
       \qquad \tau' = n \gamma E[z_i (\gamma^2 z_k^2 + g)], \qquad i \ne k.

    Args:
        activation, C_W, gamma, depth, C_b, K: as for :func:`residual_width`; depth >= 2.
        width: n >= 2, of every layer.
        n_samples: networks, a multiple of ``groups``, at least 4 in each.
        key: JAX key or integer seed.
        groups: independent ensembles, >= 8, whose scatter gives the standard errors.

    Returns:
        ``{"V", "tau", "G1"}``, each an Estimate with arrays of length ``depth`` (layer 1: 0). They
        differ from :func:`residual_width` at order 1/n.

    Raises:
        DomainError: an argument out of its range.

    Source: derived here. Check: ``tests/ntk/test_residual_width.py``.
    """
    depth = integer(depth, "depth", at_least=2)
    width = integer(width, "width", at_least=2)
    groups = integer(groups, "groups", at_least=8)
    n_samples = integer(n_samples, "n_samples", at_least=4 * groups)
    check(
        n_samples % groups == 0,
        f"n_samples must be a multiple of groups = {groups}, got {n_samples}.",
        DomainError,
    )
    limit = residual_width(activation, C_W=C_W, gamma=gamma, depth=depth, C_b=C_b, K=K)
    f = dual(activation)
    keys = jax.random.split(as_key(key), n_samples).reshape(groups, -1)
    size = max(1, _BUDGET // (8 * width))
    single = [jnp.asarray(a, jnp.float32) for a in (C_b, C_W, gamma, K)]
    runs = [_ensemble(typed(f, jnp.float32), k, *single, width, depth, size) for k in keys]
    found = [np.stack([np.asarray(r[i], np.float64) for r in runs]) for i in range(3)]
    found[2] = width * (found[2] - limit.K[None, 1:])
    result = {}
    for name, values in zip(("V", "tau", "G1"), found, strict=True):
        values = np.concatenate([np.zeros((groups, 1)), values], axis=1)
        error = values.std(0, ddof=1) / math.sqrt(groups)
        result[name] = Estimate(values.mean(0), error, groups - 1)
    return result


@functools.partial(jax.jit, static_argnames=("width", "depth", "size"))
def _ensemble(
    f: Dual,
    keys: Any,
    C_b: Any,
    C_W: Any,
    gamma: Any,
    K: Any,
    width: int,
    depth: int,
    size: int,
) -> Any:
    """V, tau and the mean variance of layers 2 .. depth."""
    n = width

    def layer(z: Any, key: Any) -> tuple[Any, Any]:
        s = f.fn(z)
        g, square = C_b + C_W * jnp.mean(s * s), gamma**2 * z * z
        mean = jnp.mean(square)
        pairs = (jnp.sum(square) ** 2 - jnp.sum(square**2)) / (n * (n - 1))
        mixed = (jnp.sum(z) * jnp.sum(square) - jnp.sum(z * square)) / (n * (n - 1))
        seen = (pairs + 2 * g * mean + g * g, gamma * (mixed + g * jnp.mean(z)), mean + g)
        # b + W s is N(0, g) for each neuron, independently: no need to draw n^2 weights
        return jnp.sqrt(g) * jax.random.normal(key, (n,), dtype=z.dtype) + gamma * z, seen

    def network(key: Any) -> Any:
        first, *rest = jax.random.split(key, depth)
        z = jnp.sqrt(K) * jax.random.normal(first, (n,), dtype=K.dtype)
        return jax.lax.scan(layer, z, jnp.stack(rest))[1]

    product, tau, mean = jax.lax.map(network, keys, batch_size=min(size, len(keys)))
    centre = jnp.mean(mean, axis=0)
    spread = jnp.var(mean, axis=0, ddof=1) / len(keys)  # E[centre^2] = square of the mean + spread
    vertex = jnp.mean(product - centre[None] ** 2, axis=0) + spread
    return n * vertex, n * jnp.mean(tau, axis=0), centre
