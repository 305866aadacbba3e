r"""Cross-entropy on unconstrained features: known branches and a search for the global minimum.

With a bias in the last layer and balanced classes, the outputs :math:`Z = c\, G \otimes 1_n^\top`
along a fixed matrix G have the exact objective

.. math:: \min_{c \ge 0} \frac1K \sum_k \ln \sum_j e^{-c (G_{kk} - G_{jk})} + \frac{M+1}{2}
          \Big(\lambda_H \prod_l \lambda_l\Big)^{1/(M+1)} \sum_i (c \sqrt n\, g_i)^{2/(M+1)}

with the singular values g of G. The simplex is the global minimum for one layer. For two or more
the exponent 2/(M+1) < 1 rewards a low rank, and the simplex loses to the orthoplex or to
arrangements of lower rank: collapse to a simplex is then a branch, not the optimum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import jax
import numpy as np
import optax
import scipy.optimize
import scipy.special

from bounds.collapse.geometry import geometry, orthoplex, polygon, simplex
from bounds.collapse.mse import as_counts, as_matrix, as_widths, product
from bounds.collapse.scalar import as_decays
from bounds.collapse.training import descend, initial, unconstrained_objective
from deeplimits import plotting
from deeplimits.errors import DomainError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import ArrayLike, Key
from deeplimits.validate import as_key, integer

#: Scales between which the minimum along a branch is sought; beyond, exp(-c) is 0 in float64.
_SCALES = (1e-6, 1e3, 600)


@register_dataclass
@dataclass(frozen=True)
class Branch:
    """The best point along one direction of the outputs.

    Attributes:
        loss: objective, regularisers included.
        scale: c, zero where no signal is best.
        singular_values: of Z ``(K, K n)``, descending.
        name: of the direction.
    """

    loss: float
    scale: float
    singular_values: Any
    name: str = field(default="", metadata={"static": True})


def ce_branch(
    pattern: ArrayLike, n: int, lam_W: ArrayLike, lam_H: float, *, name: str = "pattern"
) -> Branch:
    """Minimum of the objective over the scale of ``pattern``: an upper bound on the global one.

    Args:
        pattern: ``(K, K)`` outputs of the classes up to scale, column k for class k, with its
            largest entry on the diagonal.
        n: samples per class, >= 1.
        lam_W: weight decays of the M layers, > 0; lam_H: decay of the features, > 0.
        name: kept in the result.

    Returns:
        :class:`Branch`.

    Raises:
        ShapeError: a pattern that is not square.
        DomainError: NaN, a diagonal that is not the largest of its column, bad decays.

    Source: derived here (the penalty of a product is a Schatten quasi-norm).
    Check: tests/bounds/test_collapse_ce.py::test_branches_are_reached
    """
    pattern = as_matrix(pattern, "pattern")
    if pattern.shape[0] != pattern.shape[1]:
        raise ShapeError(f"pattern must be square, got shape {pattern.shape}.")
    margins = pattern - np.diag(pattern)
    if not margins.max() <= 0 or not (margins < 0).any():
        raise DomainError("pattern must have the largest entry of every column on the diagonal.")
    integer(n, "n", at_least=1)
    layers, features = as_decays(lam_W, lam_H)
    power = 2 / (len(layers) + 1)
    strength = (features * layers.prod()) ** (power / 2) / power
    values = np.linalg.svd(pattern, compute_uv=False)
    values = np.sqrt(n) * np.where(values > 1e-12 * values[0], values, 0.0)
    weight = strength * (values**power).sum()

    def objective(c: Any) -> Any:
        c = np.asarray(c)[..., None, None]
        return np.log(np.exp(c * margins).sum(-2)).mean(-1) + weight * c[..., 0, 0] ** power

    def slope(c: float) -> float:
        pull = (scipy.special.softmax(c * margins, axis=0) * margins).sum(0).mean()
        return float(pull + power * weight * c ** (power - 1))

    grid = np.geomspace(*_SCALES)
    best = int(np.argmin(objective(grid)))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    scale = scipy.optimize.brentq(slope, low, high, xtol=1e-15) if slope(low) < 0 else 0.0
    if not objective(scale) < objective(0.0):
        scale = 0.0
    return Branch(float(objective(scale)), float(scale), scale * values, name)


def ce_branches(K: int, n: int, lam_W: ArrayLike, lam_H: float) -> dict[str, Branch]:
    """The simplex, the orthoplex (K even, > 2) and the regular polygon (K > 3).

    The simplex is the global minimum for one layer; for more no branch need be, see
    :func:`ce_minimise`.

    Args:
        K: number of classes, >= 2.
        n, lam_W, lam_H: as in :func:`ce_branch`.

    Returns:
        :class:`Branch` records under ``"simplex ETF"``, ``"orthoplex"``, ``"polygon"``, lowest
        loss first.

    Raises:
        DomainError: fewer than two classes; otherwise as :func:`ce_branch`.

    Source: arXiv:2301.00437 (simplex); the others: derived here, after arXiv:2405.14468.
    Check: tests/bounds/test_collapse_ce.py::test_published_numbers
    """
    integer(K, "K", at_least=2)
    patterns = {"simplex ETF": simplex(K)}
    if K > 2 and K % 2 == 0:
        patterns["orthoplex"] = orthoplex(K)
    if K > 3:
        patterns["polygon"] = polygon(K)
    found = [ce_branch(p, n, lam_W, lam_H, name=name) for name, p in patterns.items()]
    return {branch.name: branch for branch in sorted(found, key=lambda b: b.loss)}


@register_dataclass
@dataclass(frozen=True)
class CEMinimum:
    """The lowest point that a search found.

    Attributes:
        loss: its objective.
        W: weights, first layer first; H: ``(d, K)`` feature of each class; bias: ``(K,)``.
        Z: ``(K, K)`` outputs of the classes without bias.
        singular_values: of Z over all samples, ``(K,)``, descending.
        losses: ``(restarts,)`` objectives before the last descent, for the spread of local minima.
        gradient: largest entry of the gradient at the end.
        geometry: name of the arrangement of the features.
    """

    loss: float
    W: tuple[Any, ...]
    H: Any
    bias: Any
    Z: Any
    singular_values: Any
    losses: Any
    gradient: float
    geometry: str = field(metadata={"static": True})

    @property
    def rank(self) -> int:
        """Number of singular values above 1e-4 of the largest."""
        values = self.singular_values
        return int(np.sum(values > 1e-4 * values[0])) if values[0] > 1e-8 else 0

    def plot(self, ax: Any = None, **kw: Any) -> Any:
        """Singular values of the outputs by rank; ``kw`` goes to ``plot``."""
        ax = plotting.axes(ax)
        rank = np.arange(1, len(self.singular_values) + 1)
        ax.plot(rank, self.singular_values, **{"marker": "o", **kw})
        ax.set(xlabel="rank", ylabel="singular value of the outputs", xticks=rank)
        return ax


@cache
def _adam(steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(0.1, steps))


@float64_scope
def ce_minimise(
    counts: ArrayLike,
    lam_W: ArrayLike,
    lam_H: float,
    *,
    key: Key,
    width: int | Sequence[int] | None = None,
    restarts: int = 32,
    steps: int = 3000,
    polish: int = 3,
) -> CEMinimum:
    """Search for the global minimum with cross-entropy, any class sizes.

    All samples of a class have the same feature at a minimum (the objective is strictly convex in
    each feature), so that one column a class suffices. Restarts start on 1, 2, ..., all hidden
    units in turn, run Adam side by side, and the best end with L-BFGS.

    Args:
        counts: ``(K,)`` samples per class, integers >= 1.
        lam_W, lam_H, width: as in :func:`minimizer`; default width K.
        key: random key or integer seed.
        restarts: random starts, >= 1, default 32.
        steps: steps of Adam, >= 1, default 3000.
        polish: how many of the best are finished, >= 1, default 3.

    Returns:
        :class:`CEMinimum`. It is an upper bound on the global minimum, not a certificate.

    Raises:
        DomainError, ShapeError: bad counts, decays, widths or numbers.

    Source: derived here. Check: tests/bounds/test_collapse_ce.py::test_published_numbers
    """
    counts = as_counts(counts)
    if len(counts) < 2:
        raise DomainError(f"counts must name at least two classes, got {len(counts)}.")
    layers, features = as_decays(lam_W, lam_H)
    for value, name in ((restarts, "restarts"), (steps, "steps"), (polish, "polish")):
        integer(value, name, at_least=1)
    K = len(counts)
    widths = as_widths(width, len(layers), K)
    W, H, bias = initial(as_key(key), widths, (K, K), restarts, 1.0)
    used = 1 + np.arange(restarts)[::-1] % min(*widths, K)
    live = [(np.arange(w) < used[:, None])[:, :, None] for w in widths]
    W = tuple(w * np.swapaxes(mask, 1, 2) for w, mask in zip(W, live, strict=True))
    problem = np.eye(K), counts.astype(float), layers, features
    ends, losses = descend(
        (W, H * live[0], bias), *problem, steps,
        bias=True, loss="cross_entropy", records=1, optimizer=_adam(steps),
    )  # fmt: skip
    ends, losses = jax.tree.map(np.asarray, (ends, losses))
    order = np.argsort(losses[:, 0])[:polish]
    best = min((_polish(jax.tree.map(lambda a, i=i: a[i], ends), *problem) for i in order), key=_by)
    loss, slope, (W, H, bias) = best
    Z = product(W) @ H
    values = np.linalg.svd(Z * np.sqrt(counts), compute_uv=False)
    return CEMinimum(loss, W, H, bias, Z, values, losses[:, 0], slope, geometry(H, tol=1e-2))


def _by(result: Any) -> float:
    return float(result[0])


def _polish(params: Any, Y: Any, share: Any, lam_W: Any, lam_H: Any) -> tuple[float, float, Any]:
    """L-BFGS in SciPy from one end point: objective, largest gradient entry, parameters."""
    leaves, structure = jax.tree.flatten(params)
    tree: Any = structure
    shapes = [leaf.shape for leaf in leaves]
    cuts = np.cumsum([leaf.size for leaf in leaves])[:-1]

    def split(vector: np.ndarray) -> list[np.ndarray]:
        return [v.reshape(s) for v, s in zip(np.split(vector, cuts), shapes, strict=True)]

    def value(vector: np.ndarray) -> tuple[float, np.ndarray]:
        f, slope = _value_and_grad(tree.unflatten(split(vector)), Y, share, lam_W, lam_H)
        return float(f), np.concatenate([np.ravel(g) for g in jax.tree.leaves(slope)])

    start = np.concatenate([np.ravel(leaf) for leaf in leaves])
    options = {"maxiter": 3000, "ftol": 1e-16, "gtol": 1e-10, "maxcor": 30}
    found = scipy.optimize.minimize(value, start, jac=True, method="L-BFGS-B", options=options)
    return float(found.fun), float(np.abs(found.jac).max()), tree.unflatten(split(found.x))


@jax.jit
def _value_and_grad(params: Any, Y: Any, share: Any, lam_W: Any, lam_H: Any) -> Any:
    def objective(params: Any) -> Any:
        W, H, bias = params
        return unconstrained_objective(
            W, H, bias, Y, lam_W, lam_H, loss="cross_entropy", weights=share
        )

    return jax.value_and_grad(objective)(params)
