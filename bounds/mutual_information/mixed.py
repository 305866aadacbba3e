r"""Mutual information of a continuous vector and a discrete label (Ross)."""

from __future__ import annotations

import numpy as np
from scipy.special import digamma

from bounds.mutual_information.counting import count_within
from bounds.mutual_information.jackknife import (
    chosen,
    deleted_digammas,
    holders,
    standard_error,
)
from bounds.mutual_information.samples import (
    as_points,
    check_k,
    generator,
    jittered,
    neighbours,
    refuse_ties,
    transformed,
)
from bounds.result import Estimate
from deeplimits.errors import DomainError, ShapeError
from deeplimits.typing import ArrayLike, Key
from deeplimits.validate import integer


def mixed(
    x: ArrayLike,
    labels: ArrayLike,
    k: int = 3,
    *,
    transform: str | None = None,
    jackknife: int = 200,
    jitter: float = 0.0,
    key: Key | None = None,
    workers: int = -1,
) -> Estimate:
    r"""Mutual information of continuous x and discrete labels from nearest neighbours.

    .. math:: \hat I = \psi(n) + \langle \psi(k_i) \rangle - \langle \psi(N_{y_i}) \rangle
       - \langle \psi(m_i) \rangle

    with :math:`N_y` the size of a class, :math:`k_i = \min(k, N_{y_i} - 1)`, and :math:`m_i` the
    number of points of any class, itself included, that are nearer (maximum norm) to point i than
    its :math:`k_i`-th neighbour of its own class.

    Args:
        x: ``(n, d)``; images are flattened.
        labels: ``(n,)`` integers, booleans or strings. Classes with one member are left out, with
            a warning.
        k: neighbours, default 3.
        transform, jackknife, jitter, key, workers: as for :func:`ksg`.

    Returns:
        :class:`~bounds.result.Estimate` in nats, unclipped; ``ceiling`` is
        psi(n) - <psi(N_y)>, about the entropy of the labels; ``stderr`` is None where a class has
        fewer than k + 2 members.

    Raises:
        ShapeError: labels not one per row.
        DomainError: no two classes with two members; k out of range; duplicates; as :func:`ksg`.

    Source: B. C. Ross, PLoS ONE 9, e87357 (2014) [ross2014]; jackknife and ceiling derived here.
    Check: tests/bounds/test_mutual_information.py
    """
    points, notes = as_points(x, "x")
    groups = as_labels(labels, len(points))
    k = check_k(k, len(points))
    integer(jackknife, "jackknife", at_least=0)
    rng = generator(key) if key is not None else None
    points = transformed(jittered(points, jitter, rng), transform)[0]
    sizes = np.bincount(groups)
    if alone := int((sizes == 1).sum()):
        kept = sizes[groups] > 1
        points, groups = points[kept], np.unique(groups[kept], return_inverse=True)[1]
        sizes = np.bincount(groups)
        notes.append(f"{alone} classes with a single member were left out.")
    if len(sizes) < 2:
        raise DomainError(
            f"labels must hold two classes or more with two members each, got {len(sizes)}."
        )
    value, stderr, ties = _estimate(points, groups, sizes, k, jackknife, workers)
    n = len(points)
    if jackknife and stderr is None:
        notes.append("no standard error: a class has fewer than k + 2 members.")
    if jitter:
        notes.append(f"noise of {jitter:g} standard deviations was added to x.")
    share = sizes / n
    return Estimate(
        value,
        stderr=stderr,
        ceiling=float(digamma(n) - share @ digamma(sizes)),
        terms={"label_entropy": float(-(share @ np.log(share)))},
        target="mutual information",
        method=f"Ross, k = {k}" + (f", {transform}" if transform else ""),
        n=n,
        dims=(points.shape[1],),
        rigor="heuristic",
        holds="expectation",
        assumptions=("independent samples", "a density of x in every class"),
        reference="B. C. Ross, PLoS ONE 9, e87357 (2014)",
        warnings=(*notes, *ties),
    )


def as_labels(labels: ArrayLike, n: int) -> np.ndarray:
    """Class indices 0, 1, ... of ``n`` labels.

    Raises:
        ShapeError: not one label per row.
        DomainError: labels that are not whole.
    """
    values = np.asarray(labels)
    if values.shape != (n,):
        raise ShapeError(
            f"labels must have shape ({n},): one per row of the points; got {values.shape}."
        )
    if values.dtype.kind not in "iubUSO" and not (values == np.floor(values)).all():
        raise DomainError("labels must be discrete: integers, booleans or strings; got fractions.")
    return np.unique(values, return_inverse=True)[1]


def _estimate(
    points: np.ndarray, groups: np.ndarray, sizes: np.ndarray, k: int, left_out: int, workers: int
) -> tuple[float, float | None, list[str]]:
    n = len(points)
    left_out = left_out if sizes.min() >= k + 2 else 0
    extra = 1 if left_out else 0
    order = np.minimum(k, sizes - 1)
    distance = np.empty((n, k + extra))
    index = np.empty((n, k + extra), np.intp)
    radius = np.empty(n)
    for group, wanted in enumerate(order):
        here = np.flatnonzero(groups == group)
        near, who = neighbours(points[here], int(wanted) + extra, np.inf, workers)
        radius[here] = near[:, wanted - 1]
        if left_out:
            distance[here], index[here] = near, here[who]
    ties = refuse_ties(radius, k)
    counts = count_within(points, radius)
    fixed = float(sizes @ (digamma(order) - digamma(sizes))) / n
    value = float(digamma(n)) + fixed - float(digamma(counts + 1).mean())
    if not left_out:
        return value, None, ties
    sample = chosen(n, left_out)
    point, place, _ = holders(index[:, :k], sample)
    rest = deleted_digammas(
        points, radius, counts, sample, (point, place), distance[point, k], strict=True
    )
    own = sizes[groups[sample]]
    inner = sizes @ digamma(sizes) - own * digamma(own) + (own - 1) * digamma(own - 1)
    without = digamma(n - 1) + digamma(k) - (inner + rest) / (n - 1)
    return value, standard_error(without, n), ties
