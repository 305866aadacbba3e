r"""What a training algorithm remembers of its examples, measured by training it again and again.

Draw n pairs of examples and a fair coin :math:`U_i` for each, which says which of the two is
trained on. How much the difference :math:`\Delta_i` of the two losses of a pair tells of its coin
bounds the generalisation gap:

.. math:: |gen| \le \frac1n \sum_i E_{\tilde Z} \sqrt{2\, I^{\tilde Z}(\Delta_i; U_i)}

(loss in [0, 1]; T. Steinke and L. Zakynthinou, arXiv:2001.09025; in the loss differences Z. Wang
and Y. Mao, arXiv:2302.02432). The algorithm is a black box: everything is estimated from many
runs on the same pairs, which JAX does in one batch.
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
import scipy.special
from tqdm import tqdm

from bounds.result import Bound, Estimate
from deeplimits.errors import DomainError, ShapeError
from deeplimits.estimates import mean_with_error
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import ArrayLike, Key
from deeplimits.validate import as_inputs, as_key, integer

#: All choices are enumerated up to this many pairs.
MAX_ENUMERATED = 14


@register_dataclass
@dataclass(frozen=True)
class Supersample:
    """Losses of an algorithm inside and outside its training set, and what follows from them.

    Attributes:
        counts: ``(sets, n, 2, 3)`` share of runs with coin 0 or 1 in which the loss difference was
            -1, 0 or 1; each coin's shares sum to 1.
        train, test: ``(sets,)`` average zero-one loss of the chosen and the other example.
        selectors: runs per set of pairs.
        enumerated: whether these are all choices, so that nothing but the set is random.
    """

    counts: np.ndarray
    train: np.ndarray
    test: np.ndarray
    selectors: int = field(metadata={"static": True})
    enumerated: bool = field(metadata={"static": True})

    @property
    def n(self) -> int:
        """Training examples."""
        return int(self.counts.shape[1])

    @property
    def information(self) -> np.ndarray:
        """``(sets, n)`` information of each loss difference about its coin, nats."""
        return np.asarray(_information(self.counts))

    @property
    def gap(self) -> Estimate:
        """Generalisation gap: loss of the other minus loss of the chosen examples."""
        return self._average(self.test - self.train, "gap")

    @property
    def risk(self) -> Estimate:
        """Zero-one loss on examples that were not trained on."""
        return self._average(self.test, "risk")

    @property
    def bound(self) -> Bound:
        """The bound in the root of each information; ``terms["stderr"]`` over the sets of pairs."""
        root = np.sqrt(2 * self.information).mean(1)
        return self._bound(mean_with_error(root))

    @property
    def bound_averaged(self) -> Bound:
        r"""The looser :math:`\sqrt{\frac2n \sum_i E\, I(\Delta_i; U_i)}`.

        Its estimate errs upwards: the information of sampled coins is on average too large, as it
        is a convex function of their shares; the root of each one need not be.
        """
        mean = mean_with_error(self.information.mean(1))
        value = math.sqrt(2 * float(mean.mean))
        error = float(mean.stderr) / value if value else 0.0
        return self._bound(type(mean)(value, error, mean.dof))

    @property
    def interpolation_risk(self) -> Estimate:
        r"""Risk of an algorithm without training errors, from information alone.

        .. math:: R = \frac{1}{n \ln 2} \sum_i I(\Delta_i; U_i)

        exactly, the information over the pairs too: the coin is erased unless the other example is
        misclassified, which reveals it.

        Raises:
            DomainError: some training example was misclassified.
        """
        if self.train.any():
            raise DomainError(
                f"the identity holds without training errors; this algorithm makes "
                f"{self.train.mean():.3g} on average. Use the bound."
            )
        each = self.counts.mean(1)  # over pairs of a set; exchangeable, so is their pooled law
        pooled = float(_information(each.mean(0))) / math.log(2)
        # the error by leaving one set out
        rest = (each.sum(0) - each) / max(len(each) - 1, 1)
        values = _information(rest) / math.log(2)
        spread = (len(each) - 1) * float(np.var(values)) if len(each) > 1 else math.nan
        return self._estimate(pooled, math.sqrt(spread), "risk", "interpolation identity")

    def _average(self, values: np.ndarray, target: str) -> Estimate:
        mean = mean_with_error(values)
        return self._estimate(float(mean.mean), float(mean.stderr), target, "supersample")

    def _estimate(self, value: float, stderr: float, target: str, method: str) -> Estimate:
        return Estimate(
            value=value,
            stderr=stderr,
            target=target,
            method=method,
            n=self.n,
            holds="expectation",
            units="1",
            terms={"sets": len(self.train), "selectors": self.selectors},
            reference="arXiv:2001.09025",
        )

    def _bound(self, mean: Any) -> Bound:
        known = "the information of each set of pairs is exact, by enumeration"
        sampled = f"information estimated from {self.selectors} runs per set of pairs"
        return Bound(
            value=float(mean.mean),
            terms={
                "stderr": float(mean.stderr),
                "sets": len(self.train),
                "selectors": self.selectors,
                "gap": float(self.gap),
                "gap_stderr": float(self.gap.stderr),
            },
            target="gap",
            holds="expectation",
            n=self.n,
            rigor="heuristic",  # a theorem, but its expectations are sampled
            trivial=1.0,
            assumptions=(
                "independent, identically distributed examples",
                "loss in [0, 1]",
                known if self.enumerated else sampled,
                f"expectation over pairs estimated from {len(self.train)} sets, see stderr",
            ),
            reference="arXiv:2302.02432",
        )

    def plot(self, ax: Any = None) -> Any:
        """Bound against gap, a point for each set of pairs, with the averages."""
        from deeplimits import plotting

        ax = plotting.axes(ax)
        root, gap = np.sqrt(2 * self.information).mean(1), self.test - self.train
        top = 1.05 * max(root.max(), gap.max(), 1e-9)
        ax.plot([0, top], [0, top], color="0.6", linewidth=1, label="bound = gap")
        ax.plot(gap, root, ".", color=plotting.COLORS[0], alpha=0.6, label="one set of pairs")
        ax.errorbar(
            [float(self.gap)], [float(self.bound)], [self.bound.terms["stderr"]],
            [self.gap.stderr], fmt="o", color=plotting.COLORS[1], label="average",
        )  # fmt: skip
        ax.set(xlabel="generalisation gap", ylabel="supersample bound")
        ax.legend(frameon=False)
        return ax


def _information(counts: np.ndarray) -> Any:
    """Information of an outcome about a fair coin from its laws under both, ``(..., 2, 3)``."""
    mixed = counts.mean(-2)
    return scipy.special.rel_entr(counts, mixed[..., None, :]).sum((-2, -1)) / 2


def supersample(
    train: Callable[..., Any],
    X: ArrayLike,
    y: ArrayLike,
    n: int,
    *,
    key: Key,
    sets: int = 20,
    selectors: int | str = 64,
    batch_size: int | None = None,
    progress: bool = True,
) -> Supersample:
    r"""Train an algorithm on many halves of n random pairs and look at both halves.

    .. math:: \Delta_i = \ell(\tilde Z_{i,1}) - \ell(\tilde Z_{i,0}), \qquad
              \text{trained on } \tilde Z_{1,U_1} \dots \tilde Z_{n,U_n}

    with the zero-one loss. Choices come in opposite pairs, so that each coin falls equally often on
    both sides. With m choices the information of a pair without any is overestimated by about 1/m
    nats.

    Args:
        train: function ``(key, X, y) -> predict`` of ``(n, d)`` inputs and ``(n,)`` labels, and
            ``predict(X)`` gives labels ``(m,)`` of the kind of ``y``. Pure JAX: it is batched and
            compiled. Its key differs from run to run.
        X, y: ``(N, d)`` and ``(N,)``, a pool of at least 2 n independent examples, from which
            pairs are drawn without replacement.
        n: training examples.
        key: random key or integer seed.
        sets: independent draws of the pairs, >= 2. Standard errors are over these; sets of a
            small pool overlap, and the error is then that of the average over this pool.
        selectors: an even number of runs per set, or ``"all"`` :math:`2^n` choices (n <= 14).
        batch_size: runs at a time; default all.
        progress: show a bar on standard error.

    Returns:
        :class:`Supersample` with ``.gap``, ``.bound``, ``.interpolation_risk``, ``.plot()``.

    Raises:
        ShapeError: X and y that do not match, too few examples, or wrongly shaped predictions.
        DomainError: numbers out of range, or an odd number of runs.

    Source: arXiv:2001.09025 and arXiv:2302.02432; batch and balanced choices derived here.
    Check: tests/bounds/test_supersample.py
    """
    X, labels = as_inputs(X, "X"), np.asarray(y)
    n, sets = integer(n, "n", at_least=1), integer(sets, "sets", at_least=2)
    if labels.shape != (len(X),):
        raise ShapeError(
            f"y must have shape ({len(X)},): one label per row of X; got {labels.shape}."
        )
    if len(X) < 2 * n:
        raise ShapeError(f"X must hold at least 2 n = {2 * n} examples, got {len(X)}.")
    enumerated = selectors == "all"
    if enumerated and n > MAX_ENUMERATED:
        raise DomainError(f'selectors="all" needs n <= {MAX_ENUMERATED}, got n = {n}.')
    runs = 2**n if enumerated else integer(selectors, "selectors", at_least=2)
    if runs % 2:
        raise DomainError(f"selectors must be even: choices come in opposite pairs; got {runs}.")
    key = as_key(key)
    batch = runs if batch_size is None else integer(batch_size, "batch_size", at_least=1)
    inputs, targets = jnp.asarray(X), jnp.asarray(labels)
    _check_predictions(train, inputs[:n], targets[:n], inputs[: 2 * n])

    counts, inside, outside = [], [], []
    keys = jax.random.split(key, sets)
    for set_key in tqdm(keys, desc="supersamples", delay=2.0, disable=not progress):
        # pairs and coins by NumPy: a permutation of the pool is long to compile
        rng = np.random.default_rng(np.asarray(jax.random.key_data(set_key)))
        rows = rng.permutation(len(X))[: 2 * n].reshape(n, 2)
        coins = _choices(rng, n, runs, enumerated)
        wrong = np.asarray(_train_all(train, inputs, targets, rows, coins, set_key, batch), int)
        difference = wrong[..., 1] - wrong[..., 0]
        outcome = difference[..., None] == np.array([-1, 0, 1])
        share = np.stack([(outcome * (coins == u)[..., None]).mean(0) for u in (0, 1)], axis=1)
        counts.append(2 * share)  # each coin lies on either side in half of the runs
        inside.append(np.take_along_axis(wrong, coins[..., None], -1).mean())
        outside.append(np.take_along_axis(wrong, 1 - coins[..., None], -1).mean())
    return Supersample(np.stack(counts), np.array(inside), np.array(outside), runs, enumerated)


def _choices(rng: np.random.Generator, n: int, runs: int, enumerated: bool) -> np.ndarray:
    """Coins ``(runs, n)``: all, or random ones each followed by its opposite."""
    if enumerated:
        return (np.arange(runs)[:, None] >> np.arange(n)) & 1
    half = rng.integers(2, size=(runs // 2, n))
    return np.concatenate([half, 1 - half])


@functools.partial(jax.jit, static_argnums=(0, 6))
def _train_all(train: Any, X: Any, y: Any, rows: Any, coins: Any, key: Any, batch: int) -> Any:
    """Errors ``(runs, n, 2)`` of all runs on one draw of the pairs."""
    keys = jax.random.split(key, len(coins))

    def one_run(arguments: Any) -> Any:
        coin, key = arguments
        chosen = jnp.take_along_axis(rows, coin[:, None], axis=1)[:, 0]
        predict = train(key, X[chosen], y[chosen])
        flat = rows.reshape(-1)
        return (predict(X[flat]) != y[flat]).reshape(rows.shape)

    if batch >= len(coins):
        return jax.vmap(one_run)((coins, keys))
    return jax.lax.map(one_run, (coins, keys), batch_size=batch)


def _check_predictions(train: Any, X: Any, y: Any, points: Any) -> None:
    """The shape of the predictions, without computing any."""

    def predict(key: Any) -> Any:
        return train(key, X, y)(points)

    shape = jax.eval_shape(predict, jax.random.key(0)).shape
    if shape != (len(points),):
        raise ShapeError(
            f"train(key, X, y) must return a function that gives one label per row, shape "
            f"({len(points)},); it gives {shape}."
        )
