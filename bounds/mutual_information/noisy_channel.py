r"""Information through a layer with Gaussian noise, from the mixture that the noise makes.

A layer T = C + eps Z has the density of a Gaussian mixture with one component for each input, so
that nothing but the mixture needs to be estimated: far better than nearest neighbours when the
noise is ours. With the own component in the mixture the information comes out too small, without it
too large, in expectation: a bracket at no extra cost. All pairs of points are visited in tiles;
nothing of size n^2 is stored.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from bounds.mutual_information.mixed import as_labels
from bounds.mutual_information.samples import generator
from bounds.result import Estimate
from deeplimits.errors import DomainError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.typing import Array, ArrayLike, Key
from deeplimits.validate import as_inputs, as_real, finite, integer

#: Points and components of a tile.
ROWS, COLUMNS = 256, 1024
#: Squared radius, in units of the noise, up to which |a|^2 + |b|^2 - 2ab keeps ten digits.
EXPANDED = 1e6
SOURCE = "arXiv:1810.05728"


def noisy_channel(
    activations: ArrayLike, noise: ArrayLike | None = None, *, draws: int = 1, key: Key = 0
) -> Estimate:
    r"""Information between the input and a layer that adds Gaussian noise to its activations.

    For :math:`T = f(X) + \varepsilon Z` with the activations :math:`c_i = f(x_i)` of n independent
    inputs and :math:`t_i = c_i + \varepsilon z_i`,

    .. math:: \hat I_- = \Big\langle \ln \frac{p(t_i | c_i)}{\frac1n \sum_j p(t_i | c_j)}
       \Big\rangle \;\le\; I(X; T) \;\le\;
       \Big\langle \ln \frac{p(t_i | c_i)}{\frac1{n-1} \sum_{j \ne i} p(t_i | c_j)} \Big\rangle
       = \hat I_+

    in expectation. The ``value`` is the lower end, which is also, without bias, the information
    when the inputs are the n given ones; it cannot exceed the ``ceiling`` ln n. A wide ``bracket``
    says that n is too small for this noise.

    Args:
        activations: ``(n, d)`` before the noise, n >= 2; ``(n, height, width, channels)`` is
            flattened.
        noise: standard deviation of the noise, > 0: one number, or one for each unit.
        draws: noises per input, default 1.
        key: key or seed of the noise, default 0.

    Returns:
        :class:`~bounds.result.Estimate` in nats; ``stderr`` is that of the lower end.

    Raises:
        ShapeError: bad shapes.
        DomainError: no noise: a deterministic network keeps infinite (for discrete inputs, all)
            information, whatever an estimator says.

    Source: Z. Goldfeld et al., arXiv:1810.05728, section IV; upper end derived here (the
    cross-entropy to an independent mixture exceeds the entropy).

    Check: tests/bounds/test_noisy_channel.py
    """
    centres = _centres(activations, 2)
    n, d = centres.shape
    scale = _noise(noise, d)
    own, _, others = _log_mixtures(centres, np.zeros(n, int), scale, draws, key)
    lower = own - np.logaddexp(own, others) + math.log(n)
    upper = own - others + math.log(n - 1)
    return _channel(lower, lower, upper, n, d, math.log(n), "noisy channel")


def noisy_channel_labels(
    activations: ArrayLike,
    labels: ArrayLike,
    noise: ArrayLike | None = None,
    *,
    draws: int = 1,
    key: Key = 0,
) -> Estimate:
    r"""Information between discrete labels and a layer that adds Gaussian noise.

    .. math:: I(T; Y) = h(T) - h(T | Y), \qquad \hat I = \Big\langle \ln \frac{
       \frac{1}{N_{y_i}} \sum_{j: y_j = y_i} p(t_i | c_j)}{\frac1n \sum_j p(t_i | c_j)} \Big\rangle

    The bracket takes one of the entropies with and the other without the own component. The
    activations may themselves be random, as long as rows are independent.

    Args:
        activations: ``(n, d)`` before the noise.
        labels: ``(n,)``; two members or more in every class.
        noise, draws, key: as for :func:`noisy_channel`.

    Returns:
        :class:`~bounds.result.Estimate` in nats; ``ceiling`` is the entropy of the labels.

    Raises:
        ShapeError, DomainError: as for :func:`noisy_channel`; a class with one member.

    Source: derived here, from arXiv:1810.05728. Check: tests/bounds/test_noisy_channel.py
    """
    centres = _centres(activations, 2)
    n, d = centres.shape
    groups = as_labels(labels, n)
    sizes = np.bincount(groups)
    if sizes.min() < 2:
        raise DomainError("labels must give every class two members or more.")
    own, inside, outside = _log_mixtures(centres, groups, _noise(noise, d), draws, key)
    size = np.tile(sizes[groups], draws)
    others = np.logaddexp(inside, outside)
    whole = np.logaddexp(own, others) - math.log(n)
    apart = others - math.log(n - 1)
    same = np.logaddexp(own, inside) - np.log(size)
    same_apart = inside - np.log(size - 1)
    share = sizes / n
    entropy = -float(share @ np.log(share))
    return _channel(same - whole, same_apart - whole, same - apart, n, d, entropy,
                    "noisy channel, labels")  # fmt: skip


def noisy_stack(
    activations: ArrayLike, noise: ArrayLike | None = None, *, key: Key = 0
) -> Estimate:
    r"""Information between the input and a noisy layer behind other noisy layers.

    Given the input, such a layer is itself a mixture, over the noise of the layers before.
    With m independent runs :math:`c_{ij}` of each input,

    .. math:: I(X; T) = h(T) - h(T | X), \qquad \hat I = \Big\langle \ln \frac{
       \frac1m \sum_{j'} p(t_{ij} | c_{ij'})}{\frac1{nm} \sum_{i'j'} p(t_{ij} | c_{i'j'})}
       \Big\rangle.

    In the bracket h(T) leaves out all runs of the own input (upper end) or none (lower end), and
    h(T | X) the own run (lower end) or none.

    Args:
        activations: ``(n, m, d)``: m >= 2 runs of each of n >= 2 inputs, before the noise of
            this layer.
        noise, key: as for :func:`noisy_channel`.

    Returns:
        :class:`~bounds.result.Estimate` in nats; ``ceiling`` is ln n.

    Raises:
        ShapeError, DomainError: as for :func:`noisy_channel`.

    Source: derived here, from arXiv:1810.05728. Check: tests/bounds/test_noisy_channel.py
    """
    values = np.asarray(as_inputs(activations, "activations"), np.float64)
    if values.ndim != 3 or values.shape[0] < 2 or values.shape[1] < 2:
        raise ShapeError(
            "activations must have shape (n, m, d): m >= 2 runs of n >= 2 inputs; got "
            f"{values.shape}."
        )
    n, m, d = values.shape
    groups = np.repeat(np.arange(n), m)
    own, inside, outside = _log_mixtures(values.reshape(n * m, d), groups, _noise(noise, d), 1, key)
    same = np.logaddexp(own, inside)
    whole = np.logaddexp(same, outside) - math.log(n * m)
    apart = outside - math.log(n * m - m)
    terms = (
        same - math.log(m) - whole,
        inside - math.log(m - 1) - whole,
        same - math.log(m) - apart,
    )
    value, lower, upper = (t.reshape(n, m).mean(axis=1) for t in terms)
    return _channel(value, lower, upper, n, d, math.log(n), f"noisy stack, {m} runs")


def _centres(activations: Any, at_least: int) -> np.ndarray:
    values = np.asarray(as_inputs(activations, "activations"), np.float64)
    if len(values) < at_least:
        raise ShapeError(f"activations must have {at_least} rows or more, got {len(values)}.")
    return values.reshape(len(values), -1)


def _noise(noise: Any, d: int) -> np.ndarray:
    """Standard deviation of each of ``d`` units."""
    if noise is None:
        raise DomainError(
            "noise must be given: without noise a deterministic layer keeps all information about "
            "a continuous input (it is infinite), and any finite estimate is an artefact."
        )
    scale = np.asarray(as_real(noise, "noise"), np.float64)
    finite(scale, "noise")
    if scale.shape not in ((), (d,)):
        raise ShapeError(f"noise must be one number or have shape ({d},), got {scale.shape}.")
    if not (scale > 0).all():
        raise DomainError(
            f"noise must be > 0, got {scale.min():g}: without noise the information of a "
            "deterministic layer is infinite."
        )
    return np.broadcast_to(scale, (d,))


def _channel(
    value: np.ndarray, lower: np.ndarray, upper: np.ndarray, n: int, d: int, ceiling: float,
    method: str,
) -> Estimate:  # fmt: skip
    """The record from terms of single points (the same input in every n-th place)."""
    mean, bracket = float(value.mean()), (float(lower.mean()), float(upper.mean()))
    notes = []
    if bracket[1] - bracket[0] > 0.5 + 0.1 * abs(mean):
        notes.append(
            f"the bracket spans {bracket[1] - bracket[0]:.3g} nats: more samples or more noise are "
            "needed for a value."
        )
    inputs = value.reshape(-1, n).mean(axis=0)
    return Estimate(
        mean,
        stderr=float(inputs.std(ddof=1)) / math.sqrt(n),
        bracket=bracket,
        ceiling=ceiling,
        target="mutual information",
        method=method,
        n=n,
        dims=(d,),
        rigor="theorem",
        holds="expectation",
        assumptions=("independent inputs", "Gaussian noise of known size"),
        reference=SOURCE,
        warnings=tuple(notes),
    )


@float64_scope
def _log_mixtures(
    centres: np.ndarray, groups: np.ndarray, scale: np.ndarray, draws: int, key: Key
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logarithms of unnormalised components at noisy points, ``(draws * n,)`` each.

    The own component, the sum over the others of the own group, and that over the other groups.
    Without several groups (all zero) the last holds all others.
    """
    n, d = centres.shape
    draws = integer(draws, "draws", at_least=1)
    z = generator(key).standard_normal((draws * n, d))
    u = (centres - centres.mean(axis=0)) / scale
    points = np.tile(u, (draws, 1)) + z
    grouped = bool(groups.max() > 0)
    owner = np.tile(np.arange(n), draws)
    expanded = float((points**2).sum(axis=1).max()) < EXPANDED
    # Sizes are rounded up, so that similar samples share one program; columns of zeros add nothing.
    inside, outside = _pair_sums(
        _padded(points, ROWS, 0.0, columns=8),
        _padded(owner, ROWS, -1),
        _padded(np.tile(groups, draws), ROWS, -1),
        _padded(u, COLUMNS, 0.0, columns=8),
        _padded(groups, COLUMNS, -2),
        n,
        grouped=grouped,
        expanded=expanded,
    )
    return -0.5 * (z**2).sum(axis=1), np.asarray(inside)[: len(z)], np.asarray(outside)[: len(z)]


def _padded(values: np.ndarray, rows: int, fill: float, columns: int = 1) -> np.ndarray:
    """Values with rows (and columns) up to the next multiple filled in."""
    multiples = (rows, columns)[: values.ndim]
    ends = [(0, -size % multiple) for size, multiple in zip(values.shape, multiples, strict=True)]
    return np.pad(values, ends, constant_values=fill)


@functools.partial(jax.jit, static_argnames=("grouped", "expanded"))
def _pair_sums(
    points: Float[Array, "m d"],
    owner: Int[Array, " m"],
    point_group: Int[Array, " m"],
    centres: Float[Array, "n d"],
    centre_group: Int[Array, " n"],
    valid: Any,
    *,
    grouped: bool,
    expanded: bool,
) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """Log-sum-exp over the components but the own: of the own group, and of all others."""
    tiles = centres.reshape(-1, COLUMNS, centres.shape[1])
    tile_groups = centre_group.reshape(-1, COLUMNS)
    number = jnp.arange(centres.shape[0]).reshape(-1, COLUMNS)

    def rows(block: Any) -> Any:
        t, mine, group = block

        def add(sums: Any, tile: Any) -> Any:
            c, other, index = tile
            logs = -0.5 * _square_distances(t, c, expanded)
            use = (index[None, :] != mine[:, None]) & (index < valid)[None, :]
            same = group[:, None] == other[None, :]
            if not grouped:
                return (sums[0], _accumulate(sums[1], logs, use)), None
            inside = _accumulate(sums[0], logs, use & same)
            return (inside, _accumulate(sums[1], logs, use & ~same)), None

        empty = (jnp.full(ROWS, -jnp.inf), jnp.zeros(ROWS))
        sums, _ = jax.lax.scan(add, (empty, empty), (tiles, tile_groups, number))
        return tuple(largest + jnp.log(total) for largest, total in sums)

    blocks = (
        points.reshape(-1, ROWS, points.shape[1]),
        owner.reshape(-1, ROWS),
        point_group.reshape(-1, ROWS),
    )
    inside, outside = jax.lax.map(rows, blocks)
    return inside.reshape(-1), outside.reshape(-1)


def _square_distances(t: Any, c: Any, expanded: bool) -> Any:
    """Squared distances of all pairs; the expanded form only where its cancellation is harmless."""
    if expanded:
        cross = 2 * jnp.matmul(t, c.T)
        return jnp.maximum(jnp.sum(t * t, 1)[:, None] + jnp.sum(c * c, 1)[None, :] - cross, 0.0)
    return jnp.sum((t[:, None, :] - c[None, :, :]) ** 2, axis=-1)


def _accumulate(state: Any, logs: Any, use: Any) -> Any:
    """One more tile of a log-sum-exp kept as (largest, sum relative to it)."""
    largest, total = state
    logs = jnp.where(use, logs, -jnp.inf)
    new = jnp.maximum(largest, jnp.max(logs, axis=1))
    base = jnp.where(jnp.isfinite(new), new, 0.0)
    total = total * jnp.exp(largest - base) + jnp.sum(jnp.exp(logs - base[:, None]), axis=1)
    return new, total
