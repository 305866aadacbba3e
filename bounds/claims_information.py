r"""Claims on information through layers: theory held against simulated learning."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from bounds.contraction import awgn
from bounds.gibbs import gibbs_algorithm
from bounds.hierarchy import hierarchy_linear_gaussian
from bounds.supersample import supersample
from deeplimits import datasets
from deeplimits.claims import Claim, register
from deeplimits.estimates import Estimate

WIDTHS, DIM = (10, 5, 2), 20


def linear_network() -> tuple[list[np.ndarray], np.ndarray]:
    """Random layers 20-10-5-2 (fan_in, fan_out) and a class mean of length one."""
    rng = np.random.default_rng(3)
    sizes = (DIM, *WIDTHS)
    pairs = zip(sizes, WIDTHS, strict=False)
    return [rng.normal(size=(b, a)).T / a**0.5 for a, b in pairs], np.full(DIM, DIM**-0.5)


def expected_errors(n: int) -> np.ndarray:
    """Expected zero-one error on training and on fresh points, from the quadrature."""
    weights, mean = linear_network()
    losses = hierarchy_linear_gaussian(weights, n, 1.0, mean=mean).losses
    return np.array([losses["train_zero_one"], losses["test_zero_one"]])


def simulated_errors(key: Any, n: int) -> np.ndarray:
    """The network learns from n drawn examples and is tested on 50 others, 4000 times."""
    weights, mean = linear_network()
    A = np.linalg.multi_dot(weights)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    out = []
    for _ in range(20):  # in pieces: (200, n + 50, 20) numbers at a time
        y = rng.choice([-1.0, 1.0], size=(200, n + 50))
        shown = (y[..., None] * mean + rng.normal(size=(200, n + 50, DIM))) @ A
        read_out = np.einsum("rnk,rn->rk", shown[:, :n], y[:, :n])
        wrong = y * np.einsum("rnk,rk->rn", shown, read_out) < 0
        out.append(np.stack([wrong[:, :n].mean(1), wrong[:, n:].mean(1)], axis=1))
    return np.concatenate(out)


register(
    Claim(
        name="bounds/gaussian-classification-errors",
        source="after arXiv:2404.03176; quadrature derived here",
        statement="A linear network on two Gaussian classes makes the training and test errors "
        "that one contour integral gives; the hierarchy of bounds lies above their difference.",
        theory=expected_errors,
        experiment=simulated_errors,
        sizes=(5, 20, 100),
        z=4.0,
        z_at="all",
        quantity="zero-one error on training and on fresh points",
    )
)


def threshold_units() -> tuple[np.ndarray, np.ndarray]:
    """Losses ``(27, 8)`` of ternary threshold units on two bits with a label, and their law."""
    bits = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], float)
    weights = np.stack(np.meshgrid(*[[-1.0, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    out = (weights @ np.column_stack([bits, np.ones(4)]).T > 0).astype(float)
    true = np.array([0.1, 0.8, 0.7, 0.9])
    return np.concatenate([out, 1 - out], axis=1), np.concatenate([(1 - true) / 4, true / 4])


def gibbs_gap(n: int) -> float:
    """The gap by the identity."""
    return gibbs_algorithm(*threshold_units(), n, 5.0).identity


def sampled_gibbs_gap(key: Any, n: int, runs: int = 40_000) -> np.ndarray:
    """Data and weights drawn; the loss of the weights on fresh minus training examples."""
    loss, p = threshold_units()
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    data = rng.choice(len(p), p=p, size=(runs, n))
    empirical = loss[:, data].mean(2)
    chance = scipy.special.softmax(-5.0 * empirical, axis=0).cumsum(0)
    drawn = np.minimum((chance < rng.uniform(size=runs)).sum(0), len(loss) - 1)
    return np.asarray((loss @ p)[drawn] - empirical[drawn, np.arange(runs)])


register(
    Claim(
        name="bounds/gibbs-identity",
        source="arXiv:2107.13656",
        statement="The generalisation gap of the Gibbs algorithm is information plus lautum "
        "information over the inverse temperature.",
        theory=gibbs_gap,
        experiment=sampled_gibbs_gap,
        sizes=(2, 4, 6),
        z=4.0,
        z_at="all",
        quantity="generalisation gap at inverse temperature 5",
    )
)


def contraction_of_pairs(key: Any, inverse_step: int) -> Estimate:
    """Contraction of two coins that differ by a step, sent at the ends of the interval."""
    x = np.linspace(-11, 11, 4001)
    W = np.exp(-((x - np.array([[-1.0], [1.0]])) ** 2) / 2)
    W /= W.sum(1, keepdims=True)
    p, q = (np.array([0.5 + e, 0.5 - e]) for e in (1 / inverse_step, 0.0))
    kl = scipy.special.kl_div
    ratio = kl(p @ W, q @ W).sum() / kl(p, q).sum()
    return Estimate(np.asarray(ratio), np.asarray(0.0))


register(
    Claim(
        name="bounds/awgn-contraction-attained",
        source="derived here, after arXiv:2010.01987",
        statement="The contraction coefficient of Gaussian noise is the limit of two nearly equal "
        "coins sent at the largest distance, approached with the square of their difference.",
        theory=lambda: awgn(2.0, 1.0),
        experiment=contraction_of_pairs,
        sizes=(4, 8, 16, 32, 64),
        exponent=-2.0,
        quantity="contraction at distance 2 noise standard deviations",
    )
)


def train_network(key: Any, X: Any, y: Any) -> Any:
    """Eight tanh units under 60 steps of gradient descent on the logistic loss."""
    first, second = jax.random.split(key)
    d = X.shape[1]
    start = (jax.random.normal(first, (d, 8)) / d**0.5, jax.random.normal(second, (8,)) / 8**0.5)

    def output(w: Any, Z: Any) -> Any:
        return jnp.matmul(jnp.tanh(jnp.matmul(Z, w[0])), w[1])

    def loss(w: Any) -> Any:
        return jnp.logaddexp(0.0, -y * output(w, X)).mean()

    def step(w: Any, _: Any) -> Any:
        return jax.tree.map(lambda a, g: a - g, w, jax.grad(loss)(w)), None

    trained = jax.lax.scan(step, start, None, length=60)[0]
    return lambda Z: jnp.where(output(trained, Z) > 0, 1.0, -1.0)


def violations_on_digits(key: Any, n: int) -> Estimate:
    """Pairs of digits for which the gap of the networks exceeds their supersample bound."""
    digits = datasets.load("digits")
    broken = []
    for k, (a, b) in zip(jax.random.split(key, 3), ((3, 8), (4, 9), (1, 7)), strict=True):
        rows = np.flatnonzero((digits.y == a) | (digits.y == b))[:300]
        X, y = digits.X[rows] / 16 - 0.3, np.where(digits.y[rows] == a, 1.0, -1.0)
        s = supersample(train_network, X, y, n, key=k, sets=8, selectors=32, progress=False)
        broken.append(float(s.gap) > float(s.bound))
    # no standard error: a single violation refutes the claim
    return Estimate(np.asarray(np.mean(broken)), np.asarray(0.0))


register(
    Claim(
        name="bounds/supersample-digits",
        source="arXiv:2302.02432",
        statement="The supersample bound lies above the generalisation gap of networks trained on "
        "pairs of digits.",
        theory=0.0,
        experiment=violations_on_digits,
        sizes=(8,),
        z=4.0,
        quantity="share of three pairs of digits in which the gap exceeds the bound",
    )
)
