"""Claims on multitasking networks: exact saddle points against finite networks with examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from deeplimits.claims import Claim, register
from statmech.examples import Examples
from statmech.multitasking import multitasking
from statmech.multitasking_sampler import simulate_multitasking


def _theory(K: int, d: float, T: float, M: int, r: float) -> Callable[[], np.ndarray]:
    return lambda: np.asarray(multitasking(K, d, T, examples=Examples(M, r)).m)


def _experiment(K: int, d: float, T: float, M: int, r: float) -> Callable[[Any, int], Any]:
    def experiment(key: Any, size: int) -> Any:
        examples = Examples(M, r)
        start = np.asarray(multitasking(K, d, T, examples=examples).Mhat)
        return simulate_multitasking(K, d, T, size, start=start, examples=examples, key=key)

    return experiment


for _name, _case, _statement in [
    ("hierarchical", (3, 0.3, 0.1, 5, 0.7), "Three diluted patterns are retrieved at the same time "
     "with decreasing overlaps."),
    ("noise-collapse", (2, 0.6, 0.05, 10, 0.5), "The noise of examples makes the hierarchy of "
     "overlaps collapse to equal ones."),
    ("warm", (2, 0.3, 0.3, 5, 0.7), "Temperature weakens the second overlap of the hierarchy more "
     "than the first."),
    ("parallel", (2, 0.75, 0.1, 20, 0.8), "Strongly diluted patterns are retrieved in parallel, "
     "with equal overlaps."),
]:  # fmt: skip
    register(
        Claim(
            name=f"statmech/multitasking-{_name}",
            source="arXiv:2308.04106; finite number of examples derived here",
            statement=_statement,
            theory=_theory(*_case),
            experiment=_experiment(*_case),
            sizes=(4_000_000,),
            z=4.0,
            quantity="overlaps of 16 networks of 4 million spins",
        )
    )
