r"""Finite deep Gaussian processes: the posterior law of their Gram matrices, sampled exactly.

Layer l has :math:`N_l = \nu_l N` features, :math:`F_l | G_{l-1}` has columns
:math:`N(0, K(G_{l-1}))`, :math:`G_l = F_l F_l^\top / N_l`, and the likelihood counts N times. Given
:math:`G_{l-1}` the Gram matrix is Wishart. In Bartlett's coordinates,
:math:`G_l = C_l A_l A_l^\top C_l^\top` with independent

.. math:: N_l A_{ii}^2 \sim \chi^2_{N_l - i}\ (i = 0..P-1), \qquad \sqrt{N_l} A_{ij} \sim N(0, 1),

so that :math:`L P (P+1)/2` numbers are sampled whatever the width. They need
:math:`N_l > P - 1`; below, the features themselves are sampled.
"""

from __future__ import annotations

import functools
import itertools
import warnings
from dataclasses import dataclass
from typing import Any

import blackjax
import blackjax.diagnostics
import jax
import jax.numpy as jnp
import numpy as np
from blackjax.adaptation.step_size import dual_averaging_adaptation

from deeplimits import plotting
from deeplimits.errors import DomainError, PrecisionWarning
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import Array
from deeplimits.validate import as_key, check, choice, integer, number
from gp.dkm_kernels import GramKernel, gram_kernel
from gp.dkm_objective import log_likelihood, lower_triangle

METHODS = ("auto", "bartlett", "features")


@dataclass(frozen=True)
class FiniteGrams:
    """Posterior draws of the Gram matrices of a finite deep Gaussian process.

    Attributes:
        grams: ``(chains, draws, L, P, P)``.
        width: N; layer l has ``nu_l N`` features.
        method: ``"bartlett"`` or ``"features"``.
        ess: effective number of draws of every entry ``(L, P, P)``.
        rhat: potential scale reduction of every entry ``(L, P, P)``; near 1 when chains agree.
        divergences: number of divergent transitions.
        acceptance: mean acceptance probability.
    """

    grams: np.ndarray
    width: float
    method: str
    ess: np.ndarray
    rhat: np.ndarray
    divergences: int
    acceptance: float

    @property
    def mean(self) -> np.ndarray:
        """Posterior means ``(L, P, P)``."""
        return self.grams.mean(axis=(0, 1))

    @property
    def std(self) -> np.ndarray:
        """Posterior standard deviations ``(L, P, P)``."""
        return self.grams.std(axis=(0, 1), ddof=1)

    @property
    def stderr(self) -> np.ndarray:
        """Standard errors of ``mean`` ``(L, P, P)``, correlations of the chain included."""
        return self.std / np.sqrt(self.ess)

    def plot(self, ax: Any = None, *, limit: Any = None, **kw: Any) -> Any:
        """Means with standard deviations of all entries of the last layer, against the limit.

        Args:
            ax: axes to draw on; default a new figure.
            limit: the Gram matrices of the limit ``(L, P, P)``, such as ``fitted.grams``; default
                the means themselves.
            **kw: passed to ``errorbar``.
        """
        ax = plotting.axes(ax)
        rows = np.triu_indices(self.grams.shape[-1])
        x = (self.mean if limit is None else np.asarray(limit))[-1][rows]
        kw = {"fmt": "o", "color": plotting.COLORS[0], "label": f"width {self.width:g}", **kw}
        ax.errorbar(x, self.mean[-1][rows], self.std[-1][rows], **kw)
        ends = np.array([x.min(), x.max()])
        ax.plot(ends, ends, color="0.5", linewidth=0.8)
        ax.set(xlabel="entry in the limit", ylabel="entry at finite width")
        ax.legend(frameon=False)
        return ax


register_dataclass(
    FiniteGrams,
    ["grams", "width", "ess", "rhat", "divergences", "acceptance"],
    ["method"],
)


def _grams(kernel: GramKernel, method: Any, position: Array, data: Any) -> tuple[Array, Array]:
    """Gram matrices ``(L, P, P)`` of one position, and its log density under the prior."""
    G = data["G0"]
    p, eye = G.shape[0], jnp.eye(G.shape[0], dtype=G.dtype)
    widths = data["widths"]
    layers = widths.shape[0]
    if method == "bartlett":
        roots = lower_triangle(position, layers, p)
        t = jnp.log(jnp.diagonal(roots, axis1=1, axis2=2))
        degrees = widths[:, None] - jnp.arange(p, dtype=G.dtype)[None, :]
        size = jnp.sum(roots**2, axis=(1, 2))
        density = jnp.sum(degrees * t) - 0.5 * jnp.sum(widths * size)
        halves = [roots[i] for i in range(layers)]
    else:  # the number of features of each layer
        ends = np.cumsum([0, *(p * n for n in method)])
        parts = [position[a:b] for a, b in itertools.pairwise(ends)]
        halves = [z.reshape(p, n) / n**0.5 for z, n in zip(parts, method, strict=True)]
        density = -0.5 * jnp.sum(position**2)
    out = []
    for i, half in enumerate(halves):
        prior = jnp.linalg.cholesky(kernel.matrix(G) + data["jitter"][i] * eye)
        F = jnp.matmul(prior, half)
        G = jnp.matmul(F, F.T)
        out.append(G)
    return jnp.stack(out), density


def _log_density(kernel: GramKernel, method: Any, position: Array, data: Any) -> Array:
    grams, prior = _grams(kernel, method, position, data)
    noise = data["noise"] + data["jitter"][-1]
    likelihood = log_likelihood(kernel.matrix(grams[-1]), data["y"], noise)
    value = prior + data["copies"] * likelihood
    return jnp.where(jnp.isfinite(value), value, -jnp.inf)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(kernel: GramKernel, method: Any, warm: Any, starts: Any, data: Any, key: Any) -> Any:
    """All chains side by side: positions ``(len(warm), chains, size)``, divergences, acceptance.

    Where ``warm`` is True the common step size follows dual averaging; then it stays. The metric is
    the prior's, which is right to a factor of order one in these coordinates at any width.
    """

    def density(position: Any) -> Any:
        return _log_density(kernel, method, position, data)

    metric = _metric(method, data["widths"], data["G0"].shape[0])
    begin, update, final = dual_averaging_adaptation(0.8)
    move = blackjax.nuts.build_kernel()

    def step(carry: Any, inputs: Any) -> Any:
        states, tuning = carry
        key, tune = inputs
        size = jnp.where(tune, jnp.exp(tuning.log_step_size), final(tuning))
        keys = jax.random.split(key, starts.shape[0])
        states, info = jax.vmap(lambda k, s: move(k, s, density, size, metric))(keys, states)
        rate = jnp.mean(info.acceptance_rate)
        new = update(tuning, rate)
        tuning = jax.tree.map(lambda a, b: jnp.where(tune, a, b), new, tuning)
        return (states, tuning), (states.position, info.is_divergent, rate)

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        states = jax.vmap(lambda x: blackjax.nuts.init(x, density))(starts)
        first = begin(jnp.asarray(starts.shape[1] ** -0.25))
        keys = jax.random.split(key, warm.shape[0])
        return jax.lax.scan(step, (states, first), (keys, warm))[1]


def _metric(method: Any, widths: Array, p: int) -> Array:
    """Prior variances of the coordinates ``(size,)``."""
    if method != "bartlett":
        return jnp.ones(p * sum(method), widths.dtype)
    rows, columns = np.tril_indices(p)
    share = jnp.asarray(np.where(rows == columns, 0.5, 1.0))
    return (share[None, :] / widths[:, None]).ravel()


@functools.partial(jax.jit, static_argnums=(0, 1))
def _many_grams(kernel: GramKernel, method: Any, positions: Any, data: Any) -> Any:
    one = functools.partial(_grams, kernel, method, data=data)
    return jax.lax.map(lambda x: one(x)[0], positions, batch_size=256)


@jax.jit
def _diagnose(grams: Any) -> Any:
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        ess = blackjax.diagnostics.effective_sample_size(grams)
        return ess, blackjax.diagnostics.potential_scale_reduction(grams)


@float64_scope
def sample_finite_grams(
    fitted: Any, key: Any, width: float, *, draws: int = 1000, warmup: int = 300, chains: int = 4,
    method: str = "auto",
) -> FiniteGrams:  # fmt: skip
    r"""Posterior Gram matrices of the finite network of which a kernel machine is the limit.

    .. math:: p(G_1..G_L \mid Y) \propto p(Y \mid G_L)^N
        \prod_l \mathrm{Wishart}(G_l; K(G_{l-1}) / N_l, N_l)

    by the no-U-turn sampler. As :math:`N \to \infty` the mean approaches ``fitted.grams`` like
    :math:`1/N` and the spread shrinks like :math:`N^{-1/2}`.

    Args:
        fitted: a :class:`gp.FittedDKM`; chains start near its optimum.
        key: a ``jax.random.key`` or an integer seed.
        width: N > 0: layer l has :math:`\nu_l N` features, the likelihood counts N times. With
            ``nu`` = numbers of features and ``width`` = 1: the ordinary deep Gaussian process.
        draws: kept per chain, >= 4. Default 1000.
        warmup: steps of adaptation, dropped, >= 50. Default 300.
        chains: >= 2. Default 4.
        method: ``"bartlett"`` (all :math:`N_l > P - 1`, not necessarily integers), ``"features"``
            (integers :math:`N_l`), or ``"auto"``: the first where possible. Default ``"auto"``.

    Raises:
        DomainError: options out of range, a penalty other than the KL divergence, or a width for
            which the method does not exist.

    Warns:
        PrecisionWarning: chains disagree (``rhat`` above 1.1), or 1% of the steps diverged.

    Source: Bartlett's decomposition of the Wishart law; arXiv:2108.13097, section 3, for the model.

    Check: test_dkm_finite.py::test_sampler_against_quadrature,
        ::test_the_limit_of_one_point.
    """
    check(
        fitted.model.penalty == "kl",
        f"the finite network belongs to penalty 'kl', got {fitted.model.penalty!r}.",
        DomainError,
    )
    number(width, "width", above=0)
    integer(draws, "draws", at_least=4)
    integer(warmup, "warmup", at_least=50)
    integer(chains, "chains", at_least=2)
    p, widths = len(fitted.y), fitted.info.nu * float(width)
    kind = _method(choice(method, "method", METHODS), widths, p)
    data = {
        "G0": fitted.G0, "y": fitted.y, "noise": np.float64(fitted.model.noise),
        "jitter": fitted.info.jitter, "widths": widths, "copies": np.float64(width),
    }  # fmt: skip
    data = {name: jnp.asarray(value) for name, value in data.items()}
    for_start, for_chains = jax.random.split(as_key(key))
    starts = _starts(fitted, kind, widths, chains, for_start)
    kernel = gram_kernel(fitted.model.kernel)
    warm = jnp.arange(warmup + draws) < warmup
    history = _run(kernel, kind, warm, starts, data, for_chains)
    positions, divergent, rate = (part[warmup:] for part in history)
    shape = (draws, chains)
    flat = positions.reshape(draws * chains, -1)
    grams = np.asarray(_many_grams(kernel, kind, flat, data))
    grams = np.moveaxis(grams.reshape(*shape, *grams.shape[1:]), 0, 1)
    ess, rhat = (np.asarray(v) for v in _diagnose(grams))
    bad = int(np.sum(divergent))
    if rhat.max() > 1.1 or bad > 0.01 * draws * chains:
        warnings.warn(
            f"the chains have not settled: rhat up to {rhat.max():.2f}, {bad} divergent steps of "
            f"{draws * chains}. Use more warmup and draws.",
            PrecisionWarning,
            stacklevel=3,
        )
    name = "bartlett" if kind == "bartlett" else "features"
    return FiniteGrams(grams, float(width), name, ess, rhat, bad, float(np.mean(rate)))


def _method(method: str, widths: np.ndarray, p: int) -> Any:
    """``"bartlett"``, or the numbers of features of the layers."""
    if method != "features" and bool(np.all(widths > p - 1)):
        return "bartlett"
    check(
        method != "bartlett",
        f"Bartlett's coordinates need nu * width > {p - 1} (points minus one), got "
        f'{float(np.min(widths)):g}. Use method="features" or a larger width.',
        DomainError,
    )
    whole = np.round(widths)
    check(
        bool(np.all(np.abs(whole - widths) < 1e-9)) and bool(np.all(whole >= 1)),
        "sampling features needs whole numbers nu * width >= 1 (as does any width that does not "
        f"exceed the number of points minus one), got {widths}.",
        DomainError,
    )
    return tuple(int(n) for n in whole)


def _starts(fitted: Any, kind: Any, widths: np.ndarray, chains: int, key: Any) -> Any:
    """The optimum, spread out as the posterior is, ``(chains, size)``."""
    roots = fitted.tower.root
    layers, p, _ = roots.shape
    if kind == "bartlett":
        logs = np.where(np.eye(p, dtype=bool), np.log(np.maximum(roots, 1e-300)), roots)
        rows, columns = np.tril_indices(p)
        center = jnp.asarray(logs[:, rows, columns])
        normal = jax.random.normal(key, (chains, *center.shape))
        scale = 0.5 / np.sqrt(widths)
        return (center[None] + jnp.asarray(scale)[None, :, None] * normal).reshape(chains, -1)
    parts = []
    for root, n, k in zip(roots, kind, jax.random.split(key, layers), strict=True):
        # columns whose second moment is near A A' for wide layers
        normal = jax.random.normal(k, (chains, p, n))
        parts.append(jnp.matmul(jnp.asarray(root)[None], normal).reshape(chains, -1))
    return jnp.concatenate(parts, axis=1)
