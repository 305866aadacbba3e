r"""Which functions a random network is likely to be, and how simple they are.

A random network on N inputs is one of :math:`2^N` Boolean functions. Its probabilities span many
orders of magnitude, and none is large for a complex function:

.. math:: P(f) \lesssim 2^{-a C(f) - b}

with the Lempel-Ziv complexity C of the string of outputs. Probabilities come from sampling; of one
given function also from :func:`bounds.log_evidence_orthant`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import lax

from deeplimits import plotting
from deeplimits.errors import DomainError, NotPositiveDefiniteError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import Array, ArrayLike, Key
from deeplimits.validate import as_inputs, as_key, as_real, as_square, integer, number

#: Networks evaluated at a time.
BATCH = 256
#: Draws of a function from which on its share counts for the upper bound.
RESOLVED = 10
#: Random strings from which the largest complexity is found.
STRINGS = 1000


def boolean_inputs(bits: int, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """All inputs of so many bits, ``(2**bits, bits)``, counted upwards from all low.

    Args:
        bits: 1 to 12.
        low, high: the two values, default 0 and 1.

    Raises:
        DomainError: out of range.
    """
    bits = integer(bits, "bits", at_least=1)
    if bits > 12:
        raise DomainError(f"bits must be at most 12 (4096 inputs), got {bits}.")
    codes = np.arange(2**bits)[:, None] >> np.arange(bits)[::-1] & 1
    return np.where(codes == 1, float(high), float(low))


def lz_complexity(strings: Any) -> Any:
    r"""Lempel-Ziv complexity of binary strings, in bits.

    .. math:: C(s) = \log_2 n\; \tfrac12 \left[N_w(s) + N_w(s^{reversed})\right], \qquad
              C = \log_2 n \text{ for constant strings}

    :math:`N_w` counts the words of the 1976 parsing: each is the shortest string from its start
    that does not occur in what precedes its last letter; an incomplete last word counts.

    Args:
        strings: a string of zeros and ones, or an array of zeros and ones ``(n,)`` or ``(m, n)``,
            n >= 1.

    Returns:
        A float, or ``(m,)``.

    Raises:
        DomainError: other letters than 0 and 1, or an empty string.
        ShapeError: more than two axes.

    Source: A. Lempel and J. Ziv (1976); the symmetrised form: K. Dingle, C. Camargo, A. Louis
        (2018). Check: tests/bounds/test_simplicity.py::test_lempel_ziv
    """
    rows = _rows(strings)
    values = np.array([_complexity(row) for row in rows])
    single = isinstance(strings, str) or np.ndim(strings) == 1
    return float(values[0]) if single else values


def _rows(strings: Any) -> list[str]:
    """Each string as text of zeros and ones."""
    if isinstance(strings, str):
        rows = [strings]
    else:
        bits = np.asarray(strings)
        if bits.ndim not in (1, 2):
            raise ShapeError(f"strings must have shape (n,) or (m, n), got {bits.shape}.")
        if not np.isin(bits, (0, 1)).all():
            raise DomainError("strings must hold zeros and ones only. For signs use y > 0.")
        text = (np.atleast_2d(bits).astype(np.uint8) + ord("0")).tobytes().decode()
        n = bits.shape[-1]
        rows = [text[i : i + n] for i in range(0, len(text), n)] if n else [""]
    if any(not row or set(row) - {"0", "1"} for row in rows):
        raise DomainError("strings must be non-empty and hold zeros and ones only.")
    return rows


def _complexity(s: str) -> float:
    if len(set(s)) == 1:
        return math.log2(len(s))
    return math.log2(len(s)) * (_words(s) + _words(s[::-1])) / 2


def _words(s: str) -> int:
    count, start = 0, 0
    while start < len(s):
        end = start + 1
        while end <= len(s) and s.find(s[start:end], 0, end - 1) >= 0:
            end += 1
        count, start = count + 1, end
    return count


@register_dataclass
@dataclass(frozen=True)
class FunctionProbabilities:
    """Sampled Boolean functions, the most frequent first.

    Attributes:
        functions: ``(m, N)`` outputs 0 and 1, all different.
        counts: ``(m,)`` how often each was drawn.
        complexity: ``(m,)`` Lempel-Ziv complexities in bits.
        samples: number of draws.
        largest: largest complexity of a string of N bits (the largest of 1000 random ones and of
            those seen).
        name: for legends.
    """

    functions: np.ndarray
    counts: np.ndarray
    complexity: np.ndarray
    samples: int
    largest: float
    name: str = field(default="", metadata={"static": True})

    @property
    def probability(self) -> np.ndarray:
        """Share of the draws of each function, ``(m,)``."""
        return self.counts / self.samples

    @property
    def stderr(self) -> np.ndarray:
        """Binomial standard error of :attr:`probability`."""
        p = self.probability
        return np.sqrt(p * (1 - p) / self.samples)

    @property
    def slope(self) -> float:
        r"""The a-priori slope :math:`\log_2(2^N) / \max C`, with which b is 0.

        It describes the whole space of functions; sampled probabilities fall more slowly.
        """
        return self.functions.shape[1] / self.largest

    def bound_coefficients(self) -> tuple[float, float]:
        """a and b of the line that touches the logarithms of the largest probabilities from above.

        a is their least-squares slope over complexities at which some function was drawn ten times
        or more; b puts all of these below the line.

        Raises:
            DomainError: fewer than two such complexities.
        """
        levels, top = self.envelope()
        seen = top * self.samples >= RESOLVED
        if seen.sum() < 2:
            raise DomainError(
                f"functions of only {int(seen.sum())} complexities were drawn {RESOLVED} times; "
                "take more samples."
            )
        levels, bits = levels[seen], -np.log2(top[seen])
        a = float(np.polyfit(levels, bits, 1)[0])
        return a, float((bits - a * levels).min())

    def upper_bound(
        self, complexity: ArrayLike, a: float | None = None, b: float | None = None
    ) -> Any:
        r"""Heuristic upper bound on probabilities, :math:`2^{-a C - b}`.

        Args:
            complexity: in bits.
            a, b: default :meth:`bound_coefficients`; b = 0 where only a is given.

        Raises:
            DomainError: ``a <= 0``; as :meth:`bound_coefficients`.
        """
        if a is None:
            a, b = self.bound_coefficients()
        number(a, "a", above=0)
        return 2.0 ** (-a * np.asarray(as_real(complexity, "complexity"), float) - (b or 0.0))

    def envelope(self) -> tuple[np.ndarray, np.ndarray]:
        """Each complexity that was seen, and the largest probability there."""
        levels, index = np.unique(self.complexity, return_inverse=True)
        top = np.zeros(len(levels))
        np.maximum.at(top, index, self.probability)
        return levels, top

    def to_dataset(self) -> xr.Dataset:
        """Probability, standard error and complexity of every function, labelled by its string."""
        labels = _rows(self.functions)
        columns = {
            name: ("function", getattr(self, name))
            for name in ("probability", "stderr", "complexity", "counts")
        }
        attrs = {"samples": self.samples, "slope": self.slope}
        return xr.Dataset(columns, coords={"function": labels}, attrs=attrs)

    def plot(self, ax: Any = None, **kw: Any) -> Any:
        """Probability against complexity, the largest of each complexity, and the upper bound."""
        ax = plotting.axes(ax)
        options = {"marker": ".", "linestyle": "", "alpha": 0.35, "markersize": 4, **kw}
        (points,) = ax.plot(self.complexity, self.probability, **options)
        color = points.get_color()
        ax.plot(*self.envelope(), color=color, lw=1.2, label=self.name or "largest")
        ends = np.array([self.complexity.min(), self.largest])
        ax.plot(ends, self.upper_bound(ends), color=color, lw=1, ls="--")
        ax.set(xlabel="Lempel-Ziv complexity (bits)", ylabel="P(f)", yscale="log")
        ax.set_ylim(0.4 / self.samples, 2)
        ax.legend()
        return ax


@float64_scope
def function_probabilities(
    K: ArrayLike, *, n_samples: int, key: Key, name: str = ""
) -> FunctionProbabilities:
    r"""Boolean functions of infinitely wide networks: signs of draws of N(0, K).

    Args:
        K: ``(N, N)`` kernel of the inputs, positive semi-definite. An input of variance 0 has
            output 0.
        n_samples: >= 1.
        key: random key or integer seed.
        name: for legends.

    Raises:
        ShapeError, DomainError: a bad Gram or number of samples.
        NotPositiveDefiniteError: an eigenvalue below -1e-8 of the largest diagonal entry.

    Source: derived here. Check: tests/bounds/test_simplicity.py::test_gaussian_process_functions
    """
    K = np.asarray(as_square(K, "K"), float)
    samples, key = integer(n_samples, "n_samples", at_least=1), as_key(key)
    values, vectors = np.linalg.eigh(K)
    if values[0] < -1e-8 * max(float(np.diag(K).max()), 1e-300):
        raise NotPositiveDefiniteError(
            f"K must be positive semi-definite, but an eigenvalue is {values[0]:.3g}."
        )
    root = vectors * np.sqrt(np.maximum(values, 0))
    root[np.diag(K) == 0] = 0  # exactly, where rounding would decide the sign
    return _tally(np.asarray(_draw_signs(jnp.asarray(root), key, samples)), key, name)


@functools.partial(jax.jit, static_argnums=2)
def _draw_signs(root: Array, key: Array, samples: int) -> Array:
    def one(key: Array) -> Array:
        return jnp.matmul(root, jax.random.normal(key, root.shape[1:], root.dtype)) > 0

    return _in_batches(one, key, samples)


def _in_batches(one: Callable[[Array], Array], key: Array, samples: int) -> Array:
    """``one`` of so many keys; whole batches only, so that one program serves all of them."""
    batches = -(-samples // BATCH)
    keys = jax.random.split(key, (batches, BATCH))
    outputs = lax.map(jax.vmap(one), keys)
    return outputs.reshape(batches * BATCH, *outputs.shape[2:])[:samples]


@float64_scope
def network_function_probabilities(
    net: Any, X: ArrayLike, *, n_samples: int, key: Key, name: str = ""
) -> FunctionProbabilities:
    """Boolean functions of finite random networks: the sign of their output at the inputs.

    Args:
        net: unpacks as ``(init_fn, apply_fn, kernel_fn)``, one output.
        X: ``(N, d)`` inputs, such as :func:`boolean_inputs`.
        n_samples: number of networks, >= 1.
        key: random key or integer seed.
        name: for legends.

    Raises:
        ShapeError, DomainError: bad inputs; no network; several outputs.

    Source: G. Valle-Perez, C. Camargo, A. Louis (2019), arXiv:1805.08522.

    Check: tests/bounds/test_simplicity.py::test_perceptron_has_a_uniform_number_of_ones
    """
    X = jnp.asarray(as_inputs(X, "X"), float)
    samples, key = integer(n_samples, "n_samples", at_least=1), as_key(key)
    try:
        init_fn, apply_fn, _ = net
    except TypeError as error:
        raise DomainError(
            "net must be a network (init_fn, apply_fn, kernel_fn); for a Gram use "
            "function_probabilities."
        ) from error

    def one(key: Array) -> Array:
        return apply_fn(init_fn(key, X.shape)[1], X)

    shape = jax.eval_shape(one, key).shape
    if math.prod(shape) != len(X):
        raise ShapeError(f"net must have one output per input, got outputs of shape {shape}.")
    outputs = np.asarray(jax.jit(lambda key: _in_batches(one, key, samples))(key))
    return _tally(outputs.reshape(samples, len(X)) > 0, key, name)


def _tally(signs: np.ndarray, key: Array, name: str) -> FunctionProbabilities:
    """Count equal rows."""
    samples, n = signs.shape
    packed = np.ascontiguousarray(np.packbits(signs, axis=1))
    _, first, counts = np.unique(
        packed.view(f"V{packed.shape[1]}"), return_index=True, return_counts=True
    )
    order = np.argsort(-counts, kind="stable")
    functions = signs[first[order]].astype(np.uint8)
    complexity = lz_complexity(functions)
    seed = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    largest = lz_complexity(seed.integers(2, size=(STRINGS, n))).max()
    return FunctionProbabilities(
        functions=functions,
        counts=counts[order],
        complexity=complexity,
        samples=samples,
        largest=float(max(largest, complexity.max())),
        name=name,
    )
