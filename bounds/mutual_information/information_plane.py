r"""The information plane: what noisy layers know of input and label in the course of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bounds.mutual_information.mixed import as_labels
from bounds.mutual_information.noisy_channel import (
    noisy_channel,
    noisy_channel_labels,
    noisy_stack,
)
from bounds.mutual_information.noisy_network import (
    advance,
    hidden_runs,
    initial,
    start,
    unpacked,
)
from bounds.mutual_information.samples import generator
from deeplimits.errors import DomainError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import ArrayLike, Key
from deeplimits.validate import as_inputs, as_key, integer, number


@register_dataclass
@dataclass(frozen=True)
class InformationPlane:
    """Information of every hidden layer over training, in nats.

    Attributes:
        epochs: ``(E,)``.
        input_information: I(X; T) ``(E, L)``.
        input_bracket: its lower and upper end in expectation ``(E, L, 2)``.
        label_information: I(T; Y) ``(E, L)``.
        label_bracket: ``(E, L, 2)``.
        accuracy: on the measured inputs ``(E,)``, averaged over the noise.
        label_entropy: of the measured labels, which bounds I(T; Y).
        ceiling: logarithm of the number of measured inputs, which bounds every estimate.
        noise: standard deviation of the noise of every hidden unit.
        widths: of the hidden layers.
    """

    epochs: Any
    input_information: Any
    input_bracket: Any
    label_information: Any
    label_bracket: Any
    accuracy: Any
    label_entropy: float
    ceiling: float
    noise: float
    widths: tuple[int, ...] = field(default=(), metadata={"static": True})

    def plot(self, ax: Any = None, **kw: Any) -> Any:
        """Trajectories of the layers, with the brackets as crosses; returns the axes."""
        return plot_information_plane(self, ax=ax, **kw)


@float64_scope
def information_plane(
    X: ArrayLike,
    y: ArrayLike,
    X_test: ArrayLike,
    y_test: ArrayLike,
    *,
    key: Key,
    widths: Sequence[int] = (16, 8, 4),
    noise: float = 0.2,
    epochs: Sequence[int] = (0, 1, 2, 5, 10, 20, 50, 100),
    runs: int = 8,
    batch: int = 128,
    learning_rate: float = 1e-2,
) -> InformationPlane:
    r"""Train a tanh classifier with noisy layers and measure I(X; T) and I(T; Y) on the way.

    .. math:: T_l = \tanh(W_l T_{l-1} + b_l) + \varepsilon Z_l

    The first layer is a noisy channel behind a deterministic map (:func:`noisy_channel`), the later
    ones are channels behind noisy ones (:func:`noisy_stack`), labels follow
    :func:`noisy_channel_labels`: every point comes with a bracket. Information is measured on
    inputs that were not used for training, because the brackets suppose inputs that are
    independent of the weights.

    Args:
        X, y: training inputs ``(n, d)`` and labels ``(n,)``; inputs of order 1 are expected.
        X_test, y_test: inputs and labels on which information is measured.
        key: key or seed of weights, batches and noise.
        widths: of the hidden layers.
        noise: standard deviation of the noise of each hidden unit, > 0.
        epochs: increasing numbers of passes over X after which to measure, >= 0.
        runs: runs of each input through the noise of earlier layers, >= 2, default 8; more runs
            narrow the lower end of the bracket of later layers.
        batch, learning_rate: of Adam.

    Returns:
        :class:`InformationPlane`.

    Raises:
        ShapeError: inputs and labels do not fit.
        DomainError: no noise; epochs not increasing; out of range.

    Source: arXiv:1810.05728 (noisy networks and their estimator); nested bracket derived here.
    Check: tests/bounds/test_noisy_channel.py
    """
    x, x_test = _inputs(X, "X"), _inputs(X_test, "X_test")
    if x.shape[1] != x_test.shape[1]:
        raise ShapeError(
            f"X and X_test must have equally many features, got {x.shape} and {x_test.shape}."
        )
    both = as_labels(_joined(y, y_test, len(x), len(x_test)), len(x) + len(x_test))
    train_y, test_y = both[: len(x)], both[len(x) :]
    number(noise, "noise", above=0)
    number(learning_rate, "learning_rate", above=0)
    for value, name, least in ((runs, "runs", 2), (batch, "batch", 1)):
        integer(value, name, at_least=least)
    sizes = tuple(integer(w, "widths", at_least=1) for w in widths)
    if not sizes:
        raise DomainError("widths must name one hidden layer or more.")
    times = [integer(e, "epochs", at_least=0) for e in epochs]
    if not times or sorted(set(times)) != times:
        raise DomainError(f"epochs must be increasing, got {list(epochs)!r}.")
    rng = generator(key)
    shape = (x.shape[1], *sizes, int(both.max()) + 1)
    state = start(initial(rng, shape), float(learning_rate))
    batch = min(batch, len(x))
    steps = [-(-epoch * len(x) // batch) for epoch in times]
    batches = rng.integers(len(x), size=(max(steps[-1], 1), batch))
    constants = (x, train_y, batches, float(noise), float(learning_rate), as_key(key))
    done, rows = 0, []
    for last in steps:
        state = advance(state, *constants, done, last, sizes=shape)
        done = last
        params = unpacked(np.asarray(state[0]), shape)
        rows.append(_measure(params, x_test, test_y, float(noise), runs, rng))
    seen, seen_bracket, known, known_bracket, accuracy = map(np.array, zip(*rows, strict=True))
    share = np.bincount(test_y) / len(test_y)
    share = share[share > 0]
    return InformationPlane(
        np.array(times),
        seen,
        seen_bracket,
        known,
        known_bracket,
        accuracy,
        label_entropy=-float(share @ np.log(share)),
        ceiling=float(np.log(len(x_test))),
        noise=float(noise),
        widths=sizes,
    )


def _inputs(x: Any, name: str) -> np.ndarray:
    values = np.asarray(as_inputs(x, name), np.float64)
    return values.reshape(len(values), -1)


def _joined(y: Any, y_test: Any, n: int, n_test: int) -> np.ndarray:
    parts = [np.asarray(y), np.asarray(y_test)]
    for part, size, name in zip(parts, (n, n_test), ("y", "y_test"), strict=True):
        if part.shape != (size,):
            raise ShapeError(f"{name} must have shape ({size},), got {part.shape}.")
    return np.concatenate(parts)


def _measure(
    params: Any, x: np.ndarray, y: np.ndarray, noise: float, runs: int, rng: np.random.Generator
) -> tuple[Any, ...]:
    """I(X; T) with bracket and I(T; Y) with bracket of each layer, and the accuracy."""
    layers, chances = hidden_runs(params, x, noise, runs, rng)
    inputs, labels = [], []
    for number_, centres in enumerate(layers):
        seed = int(rng.integers(2**32))
        if number_ == 0:
            inputs.append(noisy_channel(centres[:, 0], noise, key=seed))
        else:
            inputs.append(noisy_stack(centres, noise, key=seed))
        # Rows must be independent: one run of each input.
        labels.append(noisy_channel_labels(centres[:, 0], y, noise, key=seed))
    accuracy = float(np.mean(chances.mean(axis=1).argmax(axis=1) == y))
    made: list[Any] = []
    for estimates in (inputs, labels):
        made += [[e.value for e in estimates], [e.bracket for e in estimates]]
    return (*made, accuracy)


def plot_information_plane(plane: InformationPlane, *, ax: Any = None, **kw: Any) -> Any:
    """Draw I(T; Y) over I(X; T) of every layer, one line a layer, with brackets.

    Args:
        plane: of :func:`information_plane`.
        ax: axes; default new ones.
        **kw: passed to ``errorbar``.

    Returns:
        The axes.

    Source: derived here. Check: tests/bounds/test_noisy_channel.py
    """
    from deeplimits import plotting

    ax = plotting.axes(ax)
    for layer, width in enumerate(plane.widths):
        x, y = plane.input_information[:, layer], plane.label_information[:, layer]
        spread = [
            np.maximum(np.abs(bracket[:, layer].T - value), 0)
            for bracket, value in ((plane.input_bracket, x), (plane.label_bracket, y))
        ]
        color = plotting.COLORS[layer % len(plotting.COLORS)]
        settings = {"color": color, "elinewidth": 0.7, "capsize": 0, "linewidth": 1, **kw}
        ax.errorbar(x, y, xerr=spread[0], yerr=spread[1], label=f"layer {layer + 1} ({width})",
                    **settings)  # fmt: skip
        ax.scatter(x, y, c=np.arange(len(x)), cmap="Greys", edgecolors=color, zorder=3, s=24)
    ax.axhline(plane.label_entropy, color="0.5", linewidth=0.8, linestyle=":")
    ax.axvline(plane.ceiling, color="0.5", linewidth=0.8, linestyle=":")
    ax.set(xlabel="I(X; T) (nats)", ylabel="I(T; Y) (nats)")
    ax.legend(loc="upper left")
    return ax
