r"""Mutual information of continuous vectors from nearest neighbours (Kraskov et al.)."""

from __future__ import annotations

from typing import Any

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
    as_pair,
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
from deeplimits.validate import integer


def ksg(
    x: ArrayLike,
    y: ArrayLike,
    k: int = 3,
    *,
    variant: int = 1,
    transform: str | None = None,
    baseline: int = 0,
    jackknife: int = 200,
    jitter: float = 0.0,
    key: Key | None = None,
    workers: int = -1,
) -> Estimate:
    r"""Mutual information by the estimators of Kraskov, Stoegbauer and Grassberger.

    With maximum norms, :math:`e_i` the distance of point i to its k-th neighbour in the joint
    space and :math:`n_x, n_y` the numbers of other points within it in the marginal spaces,

    .. math:: \hat I_1 = \psi(k) + \psi(n) - \langle \psi(n_x + 1) + \psi(n_y + 1) \rangle, \qquad
       \hat I_2 = \psi(k) - \tfrac1k + \psi(n) - \langle \psi(n_x) + \psi(n_y) \rangle,

    strictly within :math:`e_i` for the first, within the largest distance over the k neighbours in
    each space (included) for the second. No sample gives more than the ``ceiling`` psi(n) - psi(k)
    (second: less 1/k), which y = x attains: large values mean "at least that much". The estimate is
    not clipped at zero, so that independent variables average to zero. It is piecewise constant in
    the data and has no useful gradient; :func:`noisy_channel` has one.

    Args:
        x, y: ``(n, p)`` and ``(n, q)``, paired row by row, n >= k + 2; images are flattened.
        k: neighbours, 1..n-2, default 3; larger: less noise, more bias.
        variant: 1 (default) or 2.
        transform: None (default), ``"standardise"``, or ``"rank-gauss"``, which makes heavy tails
            and boundaries harmless; the information itself does not change.
        baseline: number of random permutations of y whose mean estimate is subtracted, default 0.
            ``terms`` then holds their ``baseline`` and ``baseline_std`` and the ``p_value`` of
            independence.
        jackknife: number of points left out in turn for ``stderr``, default 200 (0: no error).
            The error is conservative: see :mod:`bounds.mutual_information.jackknife`.
        jitter: >= 0, noise to break ties, in standard deviations of each column; needs ``key``.
        key: key or seed of the permutations and the jitter.
        workers: threads of the neighbour search, -1 for all.

    Returns:
        :class:`~bounds.result.Estimate` in nats, unclipped.

    Raises:
        ShapeError: x and y of different length.
        DomainError: k out of range, a constant column, NaN, more than 1 % duplicates, an unknown
            variant or transform, no key where one is needed.

    Source: eqs. (8) and (9) of arXiv:cond-mat/0305641; ceiling and jackknife derived here.

    Check: tests/bounds/test_mutual_information.py
    """
    a, b, notes = as_pair(x, y)
    n = len(a)
    k = check_k(k, n)
    if variant not in (1, 2):
        raise DomainError(f"variant must be 1 or 2, got {variant!r}.")
    integer(jackknife, "jackknife", at_least=0)
    rng = generator(key) if key is not None else None
    if integer(baseline, "baseline", at_least=0) and rng is None:
        raise DomainError("baseline permutes y at random and needs a key: pass key=0.")
    a, b = (transformed(jittered(v, jitter, rng), transform)[0] for v in (a, b))
    value, stderr, ties = _estimate(a, b, k, variant, jackknife, workers)
    ceiling = float(digamma(n) - digamma(k)) - (1 / k if variant == 2 else 0)
    notes += ties + _notes(a, b, value, ceiling)
    terms: dict[str, Any] = {}
    if baseline:
        assert rng is not None
        null = np.array(
            [_estimate(a, rng.permutation(b), k, variant, 0, workers)[0] for _ in range(baseline)]
        )
        terms = {
            "raw": value,
            "baseline": float(null.mean()),
            "baseline_std": float(null.std(ddof=1)) if baseline > 1 else None,
            "p_value": (1 + int((null >= value).sum())) / (1 + baseline),
        }
        value, ceiling = value - terms["baseline"], ceiling - terms["baseline"]
        if stderr is not None and baseline > 1:
            stderr = float(np.hypot(stderr, terms["baseline_std"] / baseline**0.5))
    if jitter:
        notes.append(f"noise of {jitter:g} standard deviations was added to x and y.")
    return Estimate(
        value,
        stderr=stderr,
        ceiling=ceiling,
        terms=terms,
        target="mutual information",
        method=f"KSG-{variant}, k = {k}" + (f", {transform}" if transform else ""),
        n=n,
        dims=(a.shape[1], b.shape[1]),
        rigor="heuristic",
        holds="expectation",
        assumptions=("independent samples", "a joint density"),
        reference="arXiv:cond-mat/0305641",
        warnings=tuple(notes),
    )


def _estimate(
    x: np.ndarray, y: np.ndarray, k: int, variant: int, left_out: int, workers: int
) -> tuple[float, float | None, list[str]]:
    """Value, standard error (None without ``left_out``) and warnings about ties."""
    n, strict = len(x), variant == 1
    extra = 1 if left_out else 0
    distance, index = neighbours(np.hstack([x, y]), k + extra, np.inf, workers)
    ties = refuse_ties(distance[:, k - 1], k)
    offset = digamma(k) - (0 if strict else 1 / k)
    sums = 0.0
    sample = chosen(n, left_out)
    deleted = np.zeros(len(sample))
    point, place, order = holders(index[:, :k], sample)
    for space in (x, y):
        if strict:
            radius = distance[:, k - 1]
            later = distance[point, -1]
        else:
            side = np.abs(space[index] - space[:, None]).max(axis=-1)
            radius = side[:, :k].max(axis=1)
            kept = np.arange(k + extra) != order[:, None]
            later = np.where(kept, side[point], 0).max(axis=1, initial=0)
        counts = count_within(space, radius, strict=strict)
        sums += float(digamma(counts + (1 if strict else 0)).sum())
        if left_out:
            deleted = deleted + deleted_digammas(
                space, radius, counts, sample, (point, place), later, strict=strict
            )
    value = float(offset + digamma(n) - sums / n)
    if not left_out:
        return value, None, ties
    without = offset + digamma(n - 1) - deleted / (n - 1)
    return value, standard_error(without, n), ties


def _notes(x: np.ndarray, y: np.ndarray, value: float, ceiling: float) -> list[str]:
    """What a reader of the number should know."""
    notes = []
    dims = x.shape[1] + y.shape[1]
    if dims > 20:
        notes.append(f"{dims} joint dimensions: the estimate is far below the truth; compress.")
    if value > 0.8 * ceiling:
        notes.append(
            f"close to the ceiling {ceiling:.3f} for this n and k: read it as a lower bound."
        )
    scales = np.concatenate([x.std(axis=0), y.std(axis=0)])
    if scales.max() > 10 * scales.min():
        notes.append(
            f"columns differ in scale by a factor {scales.max() / scales.min():.3g}, and distances "
            'mix them: use transform="standardise" or "rank-gauss".'
        )
    return notes
