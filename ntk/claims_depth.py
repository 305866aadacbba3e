r"""Claims of infinite depth: error rates of the limiting classifiers, on data with known densities.

Two classes on a quarter of the circle: :math:`(u, 1-u)` scaled to length 1, with densities
:math:`2(1-u)` (probability 0.4) and :math:`2u` (0.6). The Bayes rule is right with probability
0.76.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import numpy as np
import scipy.integrate

from deeplimits.claims import Claim, register
from ntk.infinite_depth import InfiniteDepth, infinite_depth

PRIOR = 0.4


def circle_data(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """``n`` points of the two classes, ``(n, 2)``, and labels 1 and -1."""
    y = np.where(rng.random(n) < PRIOR, 1, -1)
    u = np.sqrt(rng.random(n))  # density 2 u
    u = np.where(y == 1, 1 - u, u)
    return np.stack([u, 1 - u], axis=1), y


def nearest_neighbour_accuracy() -> float:
    r"""Large-sample accuracy of the nearest neighbour, :math:`1 - 2 E[\eta (1 - \eta)]`."""

    def integrand(u: float) -> float:
        one, two = PRIOR * 2 * (1 - u), (1 - PRIOR) * 2 * u
        return 2 * one * two / (one + two)

    return 1 - scipy.integrate.quad(integrand, 0, 1)[0]


@cache
def _limit(name: str) -> InfiniteDepth:
    return infinite_depth(name)


def _accuracies(name: str) -> Callable[[Any, Any], np.ndarray]:
    """Accuracy on 200 new points for each of 100 training sets of the given size."""

    def experiment(key: Any, size: Any) -> np.ndarray:
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        found = []
        for _ in range(100):
            (X, y), (Z, w) = circle_data(rng, int(size)), circle_data(rng, 200)
            found.append(np.mean(_limit(name).predict(X, y, Z, ties="nan") == w))
        return np.array(found)

    return experiment


register(
    Claim(
        name="ntk/depth-nearest-neighbour",
        source="[radhakrishnan2023], theorem 2; Cover and Hart, IEEE Trans. Inf. Theory 13 (1967)",
        statement="An activation without a linear Hermite term becomes the nearest neighbour at "
        "infinite depth: its accuracy is 1 - 2 E[eta (1 - eta)].",
        theory=nearest_neighbour_accuracy,
        experiment=_accuracies("hermite3"),
        sizes=(400,),
        z=4.0,
        quantity="accuracy on two classes on the circle",
    )
)

register(
    Claim(
        name="ntk/depth-majority",
        source="[radhakrishnan2023], theorem 3",
        statement="Infinitely deep ReLU networks are right as often as the more frequent class.",
        theory=1 - PRIOR,
        experiment=_accuracies("relu"),
        sizes=(201,),
        z=4.0,
        quantity="accuracy on two classes on the circle",
    )
)
