r"""Entropies from nearest neighbours, one order or a weighted sum of several."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.special import digamma, gammaln

from bounds.mutual_information.jackknife import standard_error
from bounds.mutual_information.samples import (
    as_pair,
    as_points,
    check_k,
    generator,
    jittered,
    neighbours,
    refuse_ties,
    transformed,
)
from bounds.result import Estimate
from deeplimits.errors import DomainError
from deeplimits.typing import ArrayLike, Key
from deeplimits.validate import choice, integer, number

NORMS = {"euclidean": 2.0, "max": np.inf}
KL_SOURCE = "L. F. Kozachenko and N. N. Leonenko (1987)"
WEIGHTED_SOURCE = "arXiv:1606.00304"


def kl_entropy(
    x: ArrayLike,
    k: int = 3,
    *,
    norm: str = "euclidean",
    transform: str | None = "standardise",
    jitter: float = 0.0,
    key: Key | None = None,
    workers: int = -1,
) -> Estimate:
    r"""Differential entropy from the distances to the k-th neighbours (Kozachenko-Leonenko).

    .. math:: \hat h = \psi(n) - \psi(k) + \ln v_d + \frac dn \sum_i \ln \rho_k(i)

    with :math:`v_d` the volume of the unit ball of the norm, :math:`\pi^{d/2}/\Gamma(d/2 + 1)` or
    :math:`2^d`.

    Args:
        x: ``(n, d)``, n >= k + 2.
        k: neighbours, 1..n-2, default 3.
        norm: ``"euclidean"`` (default) or ``"max"``.
        transform: ``"standardise"`` (default) divides every column by its standard deviation and
            adds the logarithm back; None takes the distances as they are.
        jitter, key, workers: as for :func:`ksg`.

    Returns:
        :class:`~bounds.result.Estimate` in nats with the jackknife standard error.

    Raises:
        DomainError: k out of range, a constant column, NaN, k or more duplicates of a point, an
            unknown norm, ranks as transform (they do not preserve an entropy).

    Source: L. F. Kozachenko and N. N. Leonenko (1987) [kozachenko1987]; any k: eq. (20) of
    arXiv:cond-mat/0305641.

    Check: tests/bounds/test_mutual_information.py
    """
    points, notes = as_points(x, "x")
    k = check_k(k, len(points))
    _metric(transform)
    rng = generator(key) if key is not None else None
    points = jittered(points, jitter, rng)
    choice(norm, "norm", tuple(NORMS))
    weights = np.eye(k)[-1]
    value, deleted = _entropy(points, weights, norm, transform, workers)
    return _estimate(value, deleted, points.shape, f"Kozachenko-Leonenko, k = {k}", notes, jitter)


def weighted_kl(
    x: ArrayLike,
    y: ArrayLike | None = None,
    k: int = 20,
    *,
    weights: str = "ridge",
    tau: float = 1e-3,
    transform: str | None = "standardise",
    jitter: float = 0.0,
    key: Key | None = None,
    workers: int = -1,
) -> Estimate:
    r"""Mutual information (without y: entropy) from weighted Kozachenko-Leonenko entropies.

    .. math:: \hat h = \sum_{j=1}^k w_j \Big[\psi(n) - \psi(j) + \ln v_d
       + \frac dn \sum_i \ln \rho_j(i)\Big], \qquad
       \hat I = \hat h(x) + \hat h(y) - \hat h(x, y)

    with weights that cancel the leading biases, see :func:`kl_weights`. Meant for smooth densities
    in 3 to 20 joint dimensions; hard boundaries and heavy tails spoil it: use
    ``transform="rank-gauss"`` there (mutual information only).

    Args:
        x, y: ``(n, p)`` and ``(n, q)``, paired; n >= k + 2.
        k: largest order, default 20.
        weights: ``"ridge"`` (default) or ``"strict"``, whose variance explodes with the dimension.
        tau: > 0, strength of the ridge, default 1e-3.
        transform: ``"standardise"`` (default), ``"rank-gauss"`` or None.
        jitter, key, workers: as for :func:`ksg`.

    Returns:
        :class:`~bounds.result.Estimate` in nats, unclipped; ``terms`` holds the entropies.

    Raises:
        ShapeError: x and y of different length.
        DomainError: as for :func:`kl_entropy`; unknown weights; an entropy of ranks.

    Source: T. B. Berrett, R. J. Samworth and M. Yuan, arXiv:1606.00304 (strict); ridge derived
    here. The published estimator has ln(n - 1) for psi(n), which is exact for uniform densities.

    Check: tests/bounds/test_mutual_information_entropies.py
    """
    choice(weights, "weights", ("ridge", "strict"))
    if y is None:
        _metric(transform)
        points, notes = as_points(x, "x")
        blocks = [points]
    else:
        a, b, notes = as_pair(x, y)
        blocks = [a, b]
    n, dims = len(blocks[0]), tuple(v.shape[1] for v in blocks)
    k = check_k(k, n)
    rng = generator(key) if key is not None else None
    blocks = [jittered(v, jitter, rng) for v in blocks]

    def h(points: np.ndarray) -> tuple[float, np.ndarray]:
        w = kl_weights(k, points.shape[1], method=weights, tau=tau)
        return _entropy(points, w, "euclidean", transform, workers)

    parts = [h(v) for v in blocks]
    if y is None:
        value, deleted = parts[0]
        return _estimate(value, deleted, blocks[0].shape, f"{weights} weights, k = {k}", notes,
                         jitter)  # fmt: skip
    return _information([*parts, h(np.hstack(blocks))], n, dims, notes, jitter,
                        f"weighted Kozachenko-Leonenko ({weights}), k = {k}")  # fmt: skip


def kl(
    x: ArrayLike,
    y: ArrayLike,
    k: int = 3,
    *,
    norm: str = "euclidean",
    transform: str | None = "standardise",
    jitter: float = 0.0,
    key: Key | None = None,
    workers: int = -1,
) -> Estimate:
    r"""Mutual information as h(x) + h(y) - h(x, y) of plain Kozachenko-Leonenko entropies.

    The baseline that :func:`ksg` improves on: the biases of the three entropies do not cancel.

    Args:
        x, y, k, norm, transform, jitter, key, workers: as for :func:`ksg` and :func:`kl_entropy`.

    Returns:
        :class:`~bounds.result.Estimate` in nats, unclipped; ``terms`` holds the entropies.

    Raises:
        ShapeError, DomainError: as for :func:`weighted_kl`.

    Source: section II of arXiv:cond-mat/0305641.
    Check: tests/bounds/test_mutual_information_entropies.py
    """
    a, b, notes = as_pair(x, y)
    k = check_k(k, len(a))
    choice(norm, "norm", tuple(NORMS))
    rng = generator(key) if key is not None else None
    a, b = jittered(a, jitter, rng), jittered(b, jitter, rng)
    weights = np.eye(k)[-1]
    parts = [_entropy(v, weights, norm, transform, workers) for v in (a, b, np.hstack([a, b]))]
    return _information(parts, len(a), (a.shape[1], b.shape[1]), notes, jitter,
                        f"Kozachenko-Leonenko, k = {k}")  # fmt: skip


def kl_weights(k: int, d: int, *, method: str = "ridge", tau: float = 1e-3) -> np.ndarray:
    r"""Weights of the orders 1..k that cancel the leading biases in d dimensions.

    ``"strict"``: the solution of least norm, on the orders :math:`\lfloor ik/d \rfloor` only, of

    .. math:: \sum_j w_j = 1, \qquad
       \sum_j w_j \frac{\Gamma(j + 2l/d)}{\Gamma(j)} = 0, \quad l = 1..\lfloor d/4 \rfloor.

    Its norm grows without limit with d (k = 20: 2 at d = 5, 17 000 at d = 20), and the variance
    with it. ``"ridge"``: on all orders, with the rows of the second condition normalised to a_l,

    .. math:: w \propto (\tau 1 + A^\top A)^{-1} \mathbf 1, \qquad \sum_j w_j = 1,

    the minimiser of :math:`\tau |w|^2 + \sum_l (a_l \cdot w)^2`: it gives up the last part of the
    cancellation where that costs variance.

    Args:
        k: largest order, >= 1.
        d: dimension, >= 1.
        method: ``"ridge"`` (default) or ``"strict"``.
        tau: > 0.

    Returns:
        ``(k,)``, with sum 1.

    Raises:
        DomainError: out of range; ``"strict"`` with fewer orders than conditions.

    Source: arXiv:1606.00304, section 1 (strict); derived here (ridge).
    Check: tests/bounds/test_mutual_information_entropies.py
    """
    integer(k, "k", at_least=1)
    integer(d, "d", at_least=1)
    choice(method, "method", ("ridge", "strict"))
    number(tau, "tau", above=0)
    orders = np.arange(1, k + 1)
    if method == "strict":
        orders = np.unique(np.maximum(np.arange(1, d + 1) * k // d, 1))
    powers = 2 * np.arange(1, d // 4 + 1) / d
    rows = np.exp(gammaln(orders + powers[:, None]) - gammaln(orders))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    if method == "ridge":
        w = np.linalg.solve(tau * np.eye(k) + rows.T @ rows, np.ones(k))
        return w / w.sum()
    if len(orders) <= len(powers):
        raise DomainError(
            f"k must exceed {len(powers)} for strict weights in {d} dimensions, got {k}."
        )
    conditions = np.vstack([np.ones(len(orders)), rows])
    w = np.zeros(k)
    w[orders - 1] = np.linalg.lstsq(conditions, np.eye(len(conditions))[0], rcond=None)[0]
    return w


def _metric(transform: Any) -> None:
    if transform not in (None, "standardise"):
        raise DomainError(
            f"transform of an entropy must be None or 'standardise', got {transform!r}: ranks "
            "change an entropy."
        )


def _log_ball(d: int, norm: str) -> float:
    """Logarithm of the volume of the unit ball."""
    if norm == "max":
        return d * math.log(2)
    return d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1)


def _entropy(
    points: np.ndarray, weights: np.ndarray, norm: str, transform: str | None, workers: int
) -> tuple[float, np.ndarray]:
    """The weighted entropy, and the same with each point left out.

    Without point j, a point that had it as r-th neighbour finds its orders from r on one further.
    """
    points, removed = transformed(points, transform)
    (n, d), k = points.shape, len(weights)
    distance, index = neighbours(points, k + 1, NORMS[norm], workers)
    refuse_ties(distance[:, np.flatnonzero(weights)[0]], int(np.flatnonzero(weights)[0]) + 1, 0.0)
    with np.errstate(divide="ignore"):
        logs = d * np.log(distance)
    logs[:, : np.flatnonzero(weights)[0]] = 0.0  # orders without weight, where duplicates may be
    local = logs[:, :k] @ weights

    def constant(n: int) -> float:
        return float(weights @ (digamma(n) - digamma(np.arange(1, k + 1)))) + _log_ball(d, norm)

    steps = weights * np.diff(logs, axis=1)
    first = np.flatnonzero(weights)[0]
    steps[:, :first] = 0.0
    gains = np.cumsum(steps[:, ::-1], axis=1)[:, ::-1]
    moved = np.bincount(index[:, :k].ravel(), gains.ravel(), minlength=n)
    deleted = constant(n - 1) + (local.sum() - local + moved) / (n - 1)
    return constant(n) + float(local.mean()) + removed, deleted


def _estimate(
    value: float, deleted: np.ndarray, shape: tuple[int, ...], method: str, notes: list[str],
    jitter: float,
) -> Estimate:  # fmt: skip
    weighted = "weights" in method
    return Estimate(
        value,
        stderr=standard_error(deleted, shape[0]),
        target="differential entropy",
        method=method,
        n=shape[0],
        dims=(shape[1],),
        rigor="heuristic",
        holds="expectation",
        assumptions=("independent samples", "a density"),
        reference=WEIGHTED_SOURCE if weighted else KL_SOURCE,
        warnings=(*notes, *_noise(jitter)),
    )


def _information(
    parts: list[tuple[float, np.ndarray]], n: int, dims: tuple[int, ...], notes: list[str],
    jitter: float, method: str,
) -> Estimate:  # fmt: skip
    """h(x) + h(y) - h(x, y) with the jackknife of the whole."""
    (hx, dx), (hy, dy), (hxy, dxy) = parts
    return Estimate(
        hx + hy - hxy,
        stderr=standard_error(dx + dy - dxy, n),
        terms={"h(x)": hx, "h(y)": hy, "h(x,y)": hxy},
        target="mutual information",
        method=method,
        n=n,
        dims=dims,
        rigor="heuristic",
        holds="expectation",
        assumptions=("independent samples", "a joint density"),
        reference=WEIGHTED_SOURCE if "weighted" in method else KL_SOURCE,
        warnings=(*notes, *_noise(jitter)),
    )


def _noise(jitter: float) -> tuple[str, ...]:
    return (f"noise of {jitter:g} standard deviations was added.",) if jitter else ()
