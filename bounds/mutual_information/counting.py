r"""How many points lie within a box around each point, exactly and without a tree.

Nearest-neighbour estimators spend most of their time on such counts: the boxes hold hundreds of
points in a marginal space, and a tree visits them all. Here every box is an interval of ranks in
each coordinate. For a chunk of points the members of the first r ranks are a row of bits, so that
an interval is the exclusive or of two rows, a box the conjunction over the coordinates, and the
count a population count: n^2 d / 64 word operations in all, in any dimension.
"""

from __future__ import annotations

import functools

import numpy as np

#: Points per table of bits; tables of 1024 x 1024 bits stay in the second-level cache.
CHUNK = 1024
#: Boxes looked up at a time.
BLOCK = 1024


def rank_interval(
    ordered: np.ndarray, centre: np.ndarray, radius: np.ndarray, strict: bool
) -> tuple[np.ndarray, np.ndarray]:
    """First and one-past-last rank of the values with ``|value - centre| < radius`` (or ``<=``).

    Why not the search alone: the radius is itself a difference of two of the values, and
    ``centre + radius`` rounds to either side of the value that defines it. The rounded difference
    is monotone in the value, so the ends are moved until they agree with it.
    """
    n = len(ordered)
    first = np.searchsorted(ordered, centre - radius, "right" if strict else "left")
    last = np.searchsorted(ordered, centre + radius, "left" if strict else "right")

    def inside(rank: np.ndarray) -> np.ndarray:
        distance = np.abs(ordered[np.clip(rank, 0, n - 1)] - centre)
        return (distance < radius if strict else distance <= radius) & (rank >= 0) & (rank < n)

    while True:
        at_first = ordered[np.minimum(first, n - 1)]
        at_last = ordered[np.maximum(last - 1, 0)]
        left = inside(first - 1).astype(np.intp)
        left -= (first < n) & ~inside(first) & (at_first < centre)
        right = inside(last).astype(np.intp)
        right -= (last > 0) & ~inside(last - 1) & (at_last > centre)
        if not (left.any() or right.any()):
            return first, np.maximum(last, first)
        first, last = first - left, last + right


def count_within(
    points: np.ndarray, radius: np.ndarray, *, strict: bool = True, index: np.ndarray | None = None
) -> np.ndarray:
    r"""Number of other points within the maximum-norm distance ``radius`` of each point.

    Args:
        points: ``(n, d)``.
        radius: ``(m,)``, >= 0.
        strict: count distances ``< radius`` (default) or ``<= radius``.
        index: ``(m,)`` which points are asked for; default all, m = n.

    Returns:
        ``(m,)`` integers.

    Source: derived here. Check: tests/bounds/test_mutual_information.py
    """
    index = np.arange(len(points)) if index is None else index
    lead = np.argsort(points[:, 0], kind="stable")
    position = np.empty_like(lead)
    position[lead] = np.arange(len(lead))
    # Points in the order of the first coordinate: a chunk then meets few of the boxes.
    points, asked = points[lead], position[index]
    orders = [np.argsort(column, kind="stable") for column in points.T]
    ends = [
        rank_interval(column[order], column[asked], radius, strict)
        for column, order in zip(points.T, orders, strict=True)
    ]
    if points.shape[1] == 1:
        found = ends[0][1] - ends[0][0]
    else:
        found = np.zeros(len(asked), np.int64)
        for start in range(0, len(points), CHUNK):
            _add_chunk(found, orders, ends, start, min(start + CHUNK, len(points)))
    return np.maximum(found - 1, 0)  # the point itself; a strict box of radius 0 is empty


def _add_chunk(
    found: np.ndarray,
    orders: list[np.ndarray],
    ends: list[tuple[np.ndarray, np.ndarray]],
    start: int,
    stop: int,
) -> None:
    """Add to ``found`` the points ``start <= i < stop`` that lie in each box."""
    meets = np.flatnonzero((ends[0][0] < stop) & (ends[0][1] > start))
    tables, intervals = [], []
    for order, (first, last) in zip(orders, ends, strict=True):
        member = (order >= start) & (order < stop)
        rank = np.concatenate([[0], np.cumsum(member)])
        tables.append(_prefixes(order[member] - start))
        intervals.append((rank[first[meets]], rank[last[meets]]))
    for begin in range(0, len(meets), BLOCK):
        part = slice(begin, begin + BLOCK)
        rows = (
            t[last[part]] ^ t[first[part]]
            for t, (first, last) in zip(tables, intervals, strict=True)
        )
        bits = functools.reduce(lambda a, b: np.bitwise_and(a, b, out=a), rows)
        found[meets[part]] += np.bitwise_count(bits).sum(axis=1, dtype=np.int64)


def _prefixes(members: np.ndarray) -> np.ndarray:
    """Row r holds, as bits, the first r of ``members`` (integers below the size of a chunk)."""
    count = len(members)
    table = np.zeros((count + 1, -(-count // 64)), np.uint64)
    bit = np.uint64(1) << (members & 63).astype(np.uint64)
    table[np.arange(1, count + 1), members >> 6] = bit
    return np.bitwise_or.accumulate(table, axis=0, out=table)
