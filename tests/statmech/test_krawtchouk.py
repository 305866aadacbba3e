"""Tables of exact integers against brute force."""

import itertools
import math

import pytest

from deeplimits.errors import DomainError
from statmech.krawtchouk import elementary_table, energy_table, field_table


@pytest.mark.parametrize("P", [0, 1, 2, 3, 4, 5, 9])
def test_against_all_products(P):
    n = 8
    for u in range(n + 1):
        signs = [1] * u + [-1] * (n - u)
        brute = sum(math.prod(c) for c in itertools.combinations(signs, P))
        assert elementary_table(n, P)[u] == brute


@pytest.mark.parametrize("index", ["distinct", "full"])
@pytest.mark.parametrize("P", [2, 3, 4, 7])
def test_fields_are_differences(P, index):
    N = 9
    E, F = energy_table(N, P, index), field_table(N, P, index)
    assert [2 * f for f in F] == [E[u + 1] - E[u] for u in range(N)]


def test_bad_input():
    with pytest.raises(DomainError, match="n must be >= 0"):
        elementary_table(-1, 2)
    with pytest.raises(DomainError, match="N >= P"):
        energy_table(3, 4, "distinct")
    with pytest.raises(DomainError, match="index must be one of"):
        field_table(5, 3, "wick")
