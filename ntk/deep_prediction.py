r"""Classification with kernels of many layers, in logarithms and by blocks of training points.

.. math:: f_c(x) = \sum_i k(x, x_i)\, w_{ic}, \qquad (K + \lambda 1) w = Y, \qquad
   \text{label} = \arg\max_c f_c

with one-hot ``Y``. At infinite depth ``K`` becomes the identity next to
:math:`\psi(\rho) a^L` and no system is solved: the training set is streamed and no Gram is formed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Bool, Float, Int, Shaped

from deeplimits.errors import DomainError, PrecisionWarning
from deeplimits.pytrees import register_dataclass
from ntk.deep_data import COLUMNS, ROWS, SAME, blocks, gaps
from ntk.deep_recursion import deep_kernel, log_diagonal
from ntk.koenigs import DepthMap, boettcher, fold, koenigs, log_koenigs_at_one

#: Scores that agree to this part cannot be told apart: sums of 1e5 rounded terms.
TIE = 1e-12


@register_dataclass
@dataclass(frozen=True)
class DepthScores:
    """Class scores up to a positive factor per test point, as logarithm and sign.

    Attributes:
        log: ``(m, classes)`` logarithm of ``|score|``.
        sign: ``(m, classes)``.
        classes: the labels in the order of the columns.
        tied: ``(m,)`` whether the two best classes cannot be told apart.
    """

    log: Float[np.ndarray, "m classes"]
    sign: Float[np.ndarray, "m classes"]
    classes: Shaped[np.ndarray, " classes"]
    tied: Bool[np.ndarray, " m"]

    @property
    def best(self) -> Int[np.ndarray, " m"]:
        """Column of the largest score."""
        return _order(self.log, self.sign)[:, -1]

    def labels(self, ties: str = "raise") -> Shaped[np.ndarray, " m"]:
        """The predicted labels; NaN where two classes tie if ``ties="nan"``.

        Raises:
            DomainError: a tie, with ``ties="raise"``, or labels that cannot hold NaN.
        """
        chosen = self.classes[self.best]
        if not self.tied.any():
            return chosen
        if ties == "raise":
            raise DomainError(
                f"the best classes tie at {int(self.tied.sum())} test points, first at row "
                f"{int(np.argmax(self.tied))}, so the limit classifier is undefined there. Add or "
                'remove a training point, or pass ties="nan".'
            )
        if self.classes.dtype.kind not in "iuf":
            raise DomainError('ties="nan" needs numbers as labels.')
        return np.where(self.tied, np.nan, chosen.astype(np.float64))


def _order(log: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """Columns in ascending order of ``sign e^log``."""
    return np.lexsort((sign * np.where(sign == 0, 0.0, log), sign), axis=-1)


def scores(
    log: np.ndarray, sign: np.ndarray, classes: np.ndarray, settled: Any = None
) -> DepthScores:
    """Scores with ties found; rows in ``settled`` belong to the class numbered there (or -1)."""
    if settled is not None:
        rows = np.flatnonzero(settled >= 0)
        log[rows], sign[rows] = -np.inf, 0.0
        log[rows, settled[rows]], sign[rows, settled[rows]] = 0.0, 1.0
    if len(classes) == 1:
        return DepthScores(log, sign, classes, np.zeros(len(log), bool))
    order = _order(log, sign)
    first, second = order[:, -1:], order[:, -2:-1]
    near = np.take_along_axis(sign, first, 1) == np.take_along_axis(sign, second, 1)
    with np.errstate(invalid="ignore"):
        apart = np.abs(np.take_along_axis(log, first, 1) - np.take_along_axis(log, second, 1))
    tied = near & ((np.take_along_axis(sign, first, 1) == 0) | (apart <= TIE))
    return DepthScores(log, sign, classes, tied[:, 0])


def _per_block(function: Callable[[Any], Any], eps: np.ndarray) -> Any:
    """Apply a compiled elementwise function to blocks of one padded shape."""
    size = ROWS * COLUMNS if eps.size > 16 * COLUMNS else COLUMNS
    flat = np.full(math.ceil(eps.size / size) * size, 0.75)
    flat[: eps.size] = eps.ravel()
    parts = [function(jnp.asarray(part)) for part in flat.reshape(-1, size)]
    columns = zip(*parts, strict=True)
    return [
        np.concatenate([np.asarray(c) for c in v])[: eps.size].reshape(eps.shape) for v in columns
    ]


def streamed_sum(
    m: DepthMap, U: np.ndarray, columns: np.ndarray, classes: np.ndarray, V: np.ndarray
) -> DepthScores:
    r"""Scores :math:`\sum_{i \in c} \psi(\rho(x, x_i))` by signed log-sum-exp over blocks."""
    top = np.full(len(V), -np.inf)
    total = np.zeros((len(V), len(classes)))
    settled = np.full(len(V), -1)
    hot = np.eye(len(classes))[columns]
    for rows, part, eps in blocks(U, V):
        _settle(settled, rows, eps, columns[part], m)
        log, sign = _per_block(lambda e: koenigs(m, e)[:2], eps)
        log[~np.isfinite(log)] = -np.inf
        new = np.maximum(top[rows], log.max(axis=1))
        base = np.where(np.isfinite(new), new, 0.0)
        total[rows] *= np.exp(top[rows] - base)[:, None]
        total[rows] += (sign * np.exp(log - base[:, None])) @ hot[part]
        top[rows] = new
    with np.errstate(divide="ignore"):
        return scores(top[:, None] + np.log(np.abs(total)), np.sign(total), classes, settled)


def streamed_nearest(
    m: DepthMap, U: np.ndarray, columns: np.ndarray, classes: np.ndarray, V: np.ndarray
) -> DepthScores:
    r"""Nearest neighbour: per class the largest :math:`\ln|B(\rho)|`, with the sign of the kernel.

    The score of a class is :math:`\mathrm{sign} \cdot |B|^{m^L}`, so a class whose nearest point
    has a negative kernel comes after all classes with a positive one.
    """
    shape = (len(V), len(classes))
    key, sign = np.full(shape, -np.inf), np.zeros(shape)
    settled = np.full(len(V), -1)
    plain = m.parity != "none"
    for rows, part, eps in blocks(U, V):
        _settle(settled, rows, eps, columns[part], m)
        gap, flip = (np.asarray(v) for v in fold(m, jnp.asarray(eps)))
        if plain or (eps <= 1).all():
            value = -np.log(np.where(gap > 0, gap, 1e-320))  # B increases as the gap falls
        else:
            value, flip = _per_block(lambda e: (boettcher(m, e), deep_kernel(m, e, 60).sign), eps)
            value = -np.log(np.maximum(-value, 1e-320))
        for c in range(len(classes)):
            of_class = columns[part] == c
            if of_class.any():
                best = value[:, of_class].argmax(axis=1)
                found = value[:, of_class][np.arange(len(best)), best]
                better = found > key[rows, c]
                turned = flip[:, of_class][np.arange(len(best)), best]
                sign[rows, c] = np.where(better, turned, sign[rows, c])
                key[rows, c] = np.where(better, found, key[rows, c])
    return scores(key, sign, classes, settled)


def _settle(settled: np.ndarray, rows: slice, eps: np.ndarray, columns: np.ndarray, m: Any) -> None:
    """Note the class of test points that coincide with a training point."""
    i, j = np.nonzero(eps == 0 if m.parity != "even" else np.minimum(eps, 2 - eps) <= SAME**2 / 2)
    settled[rows.start + i] = columns[j]


def solved(
    m: DepthMap,
    U: np.ndarray,
    columns: np.ndarray,
    classes: np.ndarray,
    V: np.ndarray,
    *,
    depth: int | None,
    kernel: str,
    ridge: float,
) -> DepthScores:
    r"""Scores of kernel regression at a finite depth, or (``depth=None``) of kriging with
    :math:`\psi_1`, the limit of the ordered phase.
    """
    hot = np.eye(len(classes))[columns]
    upper = np.triu_indices(len(U), 1)
    pair = gaps(U, U)[upper]

    def entries(eps: np.ndarray) -> Any:
        if depth is None:
            return None, None, np.exp(_per_block(lambda e: (log_koenigs_at_one(m, e),), eps)[0])
        return _per_block(lambda e: deep_kernel(m, e, depth, kernel)[:3], eps)

    log, sign, gap = entries(pair)
    relative = 0.0
    if depth is not None:
        relative = ridge * math.exp(-log_diagonal(float(m.slope), depth, kernel))
    largest = float(np.exp(log.max(initial=-np.inf))) if m.decays else 1.0
    if m.decays and largest < 0.5:
        weights = _near_identity(
            _symmetric(sign * np.exp(log), upper, len(U)), hot, relative, largest
        )
        return _direct(entries, weights, U, classes, V)
    scale = float(gap.max(initial=0.0)) or 1.0
    found = _bordered(
        _symmetric(gap / scale, upper, len(U)),
        hot,
        relative / scale,
        0.0 if depth is None else scale,
    )
    if m.decays:  # test correlations may be tiny, where the gap form would cancel
        return _direct(entries, found[:-1] / scale, U, classes, V)
    values = np.empty((len(V), len(classes)))
    for i in range(0, len(V), ROWS):
        test = entries(gaps(V[i : i + ROWS], U))[2] / scale
        values[i : i + ROWS] = found[-1] - test @ found[:-1]
    with np.errstate(divide="ignore"):
        return scores(np.log(np.abs(values)), np.sign(values), classes)


def _bordered(gap: np.ndarray, hot: np.ndarray, ridge: float, scale: float) -> np.ndarray:
    r"""Weights and their sum ``mu`` for :math:`K = 11^T - s G`, as the kriging system.

    .. math:: \begin{pmatrix} \lambda/s - G & 1 \\ 1^T & -s \end{pmatrix}
       \begin{pmatrix} s w \\ \mu \end{pmatrix} = \begin{pmatrix} Y \\ 0 \end{pmatrix}

    Why not ``K``: near 1 its correlations lose the gaps, which decide; here ``s`` may be 0.
    """
    n = len(gap)
    system = np.zeros((n + 1, n + 1))
    system[:n, :n] = ridge * np.eye(n) - gap
    system[:n, n] = system[n, :n] = 1.0
    system[n, n] = -scale
    right = np.concatenate([hot, np.zeros((1, hot.shape[1]))])
    with warnings.catch_warnings():
        warnings.simplefilter("error", scipy.linalg.LinAlgWarning)
        try:
            return scipy.linalg.solve(system, right, assume_a="sym")
        except (scipy.linalg.LinAlgWarning, np.linalg.LinAlgError):
            pass
    warnings.warn(
        "The Gram is singular to float64: at this depth the kernel is smooth on the scale of the "
        "training points, and the prediction without a ridge is rounding where they disagree. Add "
        "a ridge, or use a larger depth.",
        PrecisionWarning,
        stacklevel=6,
    )
    return np.linalg.lstsq(system, right, rcond=None)[0]


def _symmetric(values: np.ndarray, upper: Any, n: int) -> np.ndarray:
    full = np.zeros((n, n))
    full[upper] = values
    return full + full.T


def _near_identity(E: np.ndarray, hot: np.ndarray, ridge: float, largest: float) -> np.ndarray:
    """Solve ``((1 + ridge) I + E) w = hot``, by two terms of the series where that is exact."""
    if largest * len(E) < 1e-8:
        return (hot - E @ hot / (1 + ridge)) / (1 + ridge)
    factor = scipy.linalg.cho_factor(E + (1 + ridge) * np.eye(len(E)))
    return scipy.linalg.cho_solve(factor, hot)


def _direct(
    entries: Any, weights: np.ndarray, U: np.ndarray, classes: np.ndarray, V: np.ndarray
) -> DepthScores:
    """Predictions from weights, each test point in units of its largest kernel entry."""
    log = np.empty((len(V), len(classes)))
    sign = np.empty_like(log)
    for i in range(0, len(V), ROWS):
        rows = slice(i, i + ROWS)
        part, turned, _ = entries(gaps(V[rows], U))
        top = np.where(np.isfinite(part.max(axis=1)), part.max(axis=1), 0.0)
        value = (turned * np.exp(part - top[:, None])) @ weights
        sign[rows] = np.sign(value)
        with np.errstate(divide="ignore"):
            log[rows] = top[:, None] + np.log(np.abs(value))
    return scores(log, sign, classes)


def counted(
    m: DepthMap,
    U: np.ndarray,
    columns: np.ndarray,
    classes: np.ndarray,
    V: np.ndarray,
    *,
    ratio: float,
    ridge: float,
) -> DepthScores:
    r"""Majority vote by the exact solution for :math:`K = (1 - r) 1 + r\,11^T` (r: ``ratio``).

    .. math:: f_c(x) = \mu_c = \frac{r\, n_c}{1 - r + \lambda + n r}, \qquad
       f_c(x_i) = \mu_c + \frac{1 - r}{1 - r + \lambda} ([y_i = c] - \mu_c)
    """
    counts = np.bincount(columns, minlength=len(classes)).astype(np.float64)
    weight = ratio or 1.0  # an NTK whose correlations vanish still adds one constant per point
    base = counts * weight / (1 - ratio + ridge + len(U) * weight)
    own = 1.0 if ridge == 0 else (1 - ratio) / (1 - ratio + ridge)
    values = np.tile(base, (len(V), 1))
    for rows, part, eps in blocks(U, V):
        i, j = np.nonzero(eps == 0)
        hot = np.eye(len(classes))[columns[part][j]]
        values[rows.start + i] = base + own * (hot - base)
    with np.errstate(divide="ignore"):
        return scores(np.log(np.abs(values)), np.sign(values), classes)
