r"""Elementary symmetric polynomials of signs as functions of their sum (Krawtchouk polynomials)."""

from __future__ import annotations

import functools
import math

from deeplimits.errors import DomainError
from deeplimits.validate import choice, integer

INDEX = ("distinct", "full")


@functools.lru_cache(maxsize=64)
def elementary_table(n: int, P: int) -> tuple[int, ...]:
    r"""Elementary symmetric polynomial of n signs with sum S, for S = -n, -n + 2, ..., n.

    .. math:: e_P = \sum_j (-1)^j \binom{d}{j} \binom{n - d}{P - j}, \qquad d = (n - S)/2

    Args:
        n: number of signs, >= 0.
        P: degree, >= 0; above n all entries are 0.

    Returns:
        n + 1 exact integers; entry u belongs to u signs +1.

    Raises:
        DomainError: negative or non-integer arguments.

    Source: F. J. MacWilliams and N. J. A. Sloane, The Theory of Error-Correcting Codes, ch. 5.
    Check: ``tests/statmech/test_krawtchouk.py::test_against_all_products``
    """
    integer(n, "n", at_least=0)
    integer(P, "P", at_least=0)
    return tuple(
        sum((-1) ** j * math.comb(n - u, j) * math.comb(u, P - j) for j in range(P + 1))
        for u in range(n + 1)
    )


@functools.lru_cache(maxsize=64)
def energy_table(N: int, P: int, index: str) -> tuple[int, ...]:
    r"""Sum over P indices of products of N signs, for sums S = -N, -N + 2, ..., N.

    :math:`P!\, e_P(S)` for ``"distinct"`` indices, :math:`S^P` for ``"full"`` sums.

    Args:
        N: number of signs, >= 1; >= P for distinct indices.
        P: number of indices, >= 2.
        index: ``"distinct"`` or ``"full"``.

    Returns:
        N + 1 exact integers.

    Raises:
        DomainError: arguments out of range.

    Source: derived here. Check: ``tests/statmech/test_krawtchouk.py::test_fields_are_differences``
    """
    _check(N, P, index)
    if index == "full":
        return tuple((2 * u - N) ** P for u in range(N + 1))
    return tuple(math.factorial(P) * e for e in elementary_table(N, P))


@functools.lru_cache(maxsize=64)
def field_table(N: int, P: int, index: str) -> tuple[int, ...]:
    r"""Half the change of :func:`energy_table` when one sign turns from -1 to +1.

    For sums S of the N - 1 others: :math:`P!\, e_{P-1}(S)`, or
    :math:`[(S + 1)^P - (S - 1)^P]/2`.

    Args:
        N, P, index: as for :func:`energy_table`.

    Returns:
        N exact integers, for S = -(N - 1), ..., N - 1 in steps of 2.

    Raises:
        DomainError: arguments out of range.

    Source: derived here. Check: ``tests/statmech/test_krawtchouk.py::test_fields_are_differences``
    """
    _check(N, P, index)
    if index == "full":
        sums = range(1 - N, N, 2)
        return tuple(((s + 1) ** P - (s - 1) ** P) // 2 for s in sums)
    return tuple(math.factorial(P) * e for e in elementary_table(N - 1, P - 1))


def _check(N: int, P: int, index: str) -> None:
    integer(N, "N", at_least=1)
    integer(P, "P", at_least=2)
    choice(index, "index", INDEX)
    if index == "distinct" and N < P:
        raise DomainError(f"distinct indices need N >= P, got N={N} and P={P}.")
