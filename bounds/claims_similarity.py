r"""Claims on representations of random networks: alignment at finite width, growth of intervals."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import jax
import numpy as np

from bounds.interval import ibp_bounds, ibp_growth
from bounds.similarity import cka_features, finite_width_cka
from deeplimits.claims import Claim, register

#: Networks per width in the claim on alignment.
NETWORKS = 150
WIDTHS = (128, 512)
FAN_IN = (20, 64, 64, 64)


@cache
def inputs() -> np.ndarray:
    """Forty Gaussian points in ten dimensions."""
    return np.random.default_rng(0).normal(size=(40, 10))


def generator(key: Any) -> np.random.Generator:
    """NumPy's generator seeded by a JAX key."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())


@cache
def predictions() -> dict[int, np.ndarray]:
    """Expected biased and unbiased alignment of a ReLU layer with its inputs, by width."""
    x = inputs()
    K = x @ x.T / 10
    values = [
        finite_width_cka(K, K, WIDTHS, key=1, samples=100_000, unbiased=flag).value
        for flag in (False, True)
    ]
    return dict(zip(WIDTHS, np.transpose(values), strict=True))


def alignment_of_networks(key: Any, width: int) -> np.ndarray:
    """Alignment of random ReLU layers with their inputs, ``(networks, 2)``."""
    rng, x = generator(key), inputs()
    layers = [np.maximum(x @ rng.normal(size=(10, width)), 0) for _ in range(NETWORKS)]
    return np.array([
        [cka_features(h, x, unbiased=flag).value for flag in (False, True)] for h in layers
    ])  # fmt: skip


def expected_widths() -> np.ndarray:
    """Mean width of interval bounds after each layer, for two initialisations."""
    return np.array([ibp_growth(FAN_IN, scheme).width.values for scheme in ("kaiming", "ibp")])


def widths_of_networks(key: Any, networks: int) -> np.ndarray:
    """The same in random networks, ``(networks, 2, layers)``."""
    rng, sizes = generator(key), (*FAN_IN, FAN_IN[-1])
    rows = []
    for _ in range(networks):
        x = rng.normal(size=FAN_IN[0])
        unit = [rng.normal(size=(o, i)) for i, o in pairwise(sizes)]
        both = []
        for scheme in ("kaiming", "ibp"):
            sigma = ibp_growth(FAN_IN, scheme).sigma_w.values
            W = [s * w for s, w in zip(sigma, unit, strict=True)]
            both.append([(b - a).mean() / 0.2 for a, b in ibp_bounds(W, x - 0.1, x + 0.1)])
        rows.append(both)
    return np.array(rows)


register(
    Claim(
        name="bounds/alignment-at-finite-width",
        source="derived here",
        statement="Random layers of finite width are less aligned with their inputs than infinite "
        "ones, by the predicted amount of order 1/width.",
        theory=lambda width: predictions()[width],
        experiment=alignment_of_networks,
        sizes=WIDTHS,
        z=4.0,
        z_at="all",
        quantity="biased and unbiased CKA of a ReLU layer with its inputs",
    )
)
register(
    Claim(
        name="bounds/interval-growth",
        source="derived here, after arXiv:1810.12715",
        statement="Interval bounds of random ReLU networks grow by n sigma / (2 pi)^(1/2) per "
        "layer at any width.",
        theory=expected_widths,
        experiment=widths_of_networks,
        sizes=(300,),
        z=4.0,
        z_at="all",
        quantity="mean width after four layers over that of the inputs",
    )
)
