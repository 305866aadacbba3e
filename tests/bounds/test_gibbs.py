"""The Gibbs algorithm: identity and bounds by enumeration of sequences, on random problems."""

import itertools
import math

import numpy as np
import pytest

from bounds.contraction import dropout, information
from bounds.gibbs import channel_information, finite_weights_bound, gibbs_algorithm, gibbs_bound
from deeplimits import DomainError, ShapeError


def two_bits():
    """Threshold units of ternary weights on two bits: losses, probabilities and labels."""
    X = np.array(list(itertools.product((0, 1), repeat=2)), float)
    W = np.array(list(itertools.product((-1, 0, 1), repeat=3)), float)
    out = (W @ np.column_stack([X, np.ones(4)]).T > 0).astype(float)
    true = np.array([0.1, 0.8, 0.7, 0.9])
    p = np.concatenate([(1 - true) / 4, true / 4])
    return np.concatenate([out, 1 - out], axis=1), p, np.repeat([0, 1], 4)


def by_sequences(loss, p, n, gamma, prior):
    """Gap, information, lautum and individual information, over all |Z|^n data sets."""
    sequences = np.array(list(itertools.product(range(len(p)), repeat=n)))
    data = p[sequences].prod(1)
    empirical = loss[:, sequences].mean(2)
    posterior = prior[:, None] * np.exp(-gamma * empirical)
    posterior /= posterior.sum(0)
    weights = posterior @ data
    logs = np.log(posterior / weights[:, None])
    first = np.stack([posterior @ (data * (sequences[:, 0] == z)) for z in range(len(p))], axis=1)
    return (
        (posterior * data * ((loss @ p)[:, None] - empirical)).sum(),
        (posterior * data * logs).sum(),
        -(weights[:, None] * data * logs).sum(),
        (first * np.log(first / np.outer(weights, p))).sum(),
    )


@pytest.mark.parametrize(
    ("n", "gamma", "gen", "individual"),
    [(2, 2, 0.185649, 0.20327), (3, 5, 0.235395, 0.26661), (4, 20, 0.259309, 0.33883)],
)
def test_published_numbers(n, gamma, gen, individual):
    loss, p, labels = two_bits()
    g = gibbs_algorithm(loss, p, n, gamma, labels=labels)
    assert g.gen == pytest.approx(gen, abs=6e-7)
    assert float(g.bounds()["individual"]) == pytest.approx(individual, abs=6e-6)
    if n == 2:
        assert g.information == pytest.approx(0.171478, abs=6e-7)
        assert g.lautum == pytest.approx(0.199821, abs=6e-7)
        assert float(g.bounds()["gibbs"]) == 0.5
    assert g.identity == pytest.approx(g.gen, rel=1e-12)
    prior = np.full(27, 1 / 27)
    exact = by_sequences(loss, p, n, gamma, prior)
    ours = (g.gen, g.information, g.lautum, g.individual)
    np.testing.assert_allclose(ours, exact, rtol=1e-11)  # sums of up to 27 * 4096 terms


def test_bounds_hold_on_random_problems():
    """Identity, order of the bounds and gap below all, in 200 problems: count of violations."""
    rng = np.random.default_rng(0)
    broken = dict.fromkeys(("identity", "gap", "order", "finite", "chain"), 0)
    for _ in range(200):
        kinds, size, n = rng.integers(2, 5), rng.integers(2, 6), int(rng.integers(1, 5))
        loss = rng.uniform(size=(size, kinds))
        p, prior = rng.dirichlet(np.ones(kinds)), rng.dirichlet(np.ones(size))
        gamma = float(rng.choice([0.1, 1, 10, 100]))
        g = gibbs_algorithm(loss, p, n, gamma, prior=prior, labels=rng.integers(2, size=kinds))
        b = {k: float(v) for k, v in g.bounds().items()}
        broken["identity"] += abs(g.identity - g.gen) > 1e-12
        broken["gap"] += g.gen > min(b.values()) + 1e-12
        broken["order"] += g.individual > g.information / n + 1e-14  # rounding
        broken["order"] += b["gibbs_ratio"] > b["gibbs"]
        broken["finite"] += b["total"] > float(finite_weights_bound(n, entropy=g.entropy)) + 1e-12
        broken["chain"] += abs(g.label + g.inputs - g.individual) > 1e-12
    assert broken == dict.fromkeys(broken, 0)


def symmetric(rng, delta):
    """Labels that say nothing of the weights: examples (y, x) with y x of one law, odd networks.

    Inputs are two signs behind dropout; the loss is averaged over its masks.
    """
    X = np.array(list(itertools.product((-1, 1), repeat=2)), float)
    W = rng.normal(size=(6, 2))
    q = rng.dirichlet(np.ones(4))
    loss = np.zeros((6, 4))
    channel = np.zeros((4, 9))
    for m in itertools.product((0, 1), repeat=2):
        weight = math.prod(1 - delta if kept else delta for kept in m)
        shown = X * np.array(m)
        loss += weight * (1 - np.sign(shown @ W.T).T) / 2  # a tie counts half
        index = (3 * (shown[:, 0] + 1) + shown[:, 1] + 1).astype(int)
        channel[np.arange(4), index] += weight
    # label +1 shows x = z, label -1 shows x = -z: the margin depends on z = y x alone
    flip = np.arange(4)[::-1]
    loss_of = np.concatenate([loss, loss[:, flip]], axis=1)
    p = np.concatenate([q, q[flip]]) / 2
    rows = np.zeros((8, 18))
    rows[:4, :9] = channel
    rows[4:, 9:] = channel
    return loss_of, p, np.repeat([1, -1], 4), rows


def test_noisy_layers_with_independent_labels():
    rng = np.random.default_rng(1)
    for delta in (0.2, 0.5, 0.9):
        for gamma in (1.0, 10.0):
            loss, p, labels, rows = symmetric(rng, delta)
            g = gibbs_algorithm(loss, p, 3, gamma, labels=labels)
            eta = dropout(delta, 2)
            assert g.label == pytest.approx(0, abs=1e-14)  # rounding
            shown = channel_information(g.joint, rows)
            assert shown <= float(information(0.0, g.inputs, [eta])) + 1e-14
            assert g.gen <= 0.5 * math.sqrt(2 * shown) + 1e-14
            assert g.gen <= float(gibbs_bound(gamma, 3, etas=[eta])) + 1e-14
            ratio = gibbs_bound(gamma, 3, C_E=g.ratio, etas=[eta])
            assert g.gen <= float(ratio) + 1e-14
            assert g.gen <= float(finite_weights_bound(3, entropy=g.entropy, etas=[eta]))


def test_closed_forms_and_limits():
    bound = gibbs_bound(5.0, 10, 0.5, C_E=1.0, etas=[0.5, 0.4])
    assert float(bound) == pytest.approx(2 * 0.25 * 5 / 10 / 2 * 0.2, rel=1e-15)
    assert any("I(Y; W) = 0" in a for a in bound.assumptions)
    finite = finite_weights_bound(100, parameters=8, levels=4)
    assert float(finite) == pytest.approx(0.5 * math.sqrt(2 * 8 * math.log(4) / 100), rel=1e-15)
    assert float(finite_weights_bound(9, parameters=3, levels=1)) == 0
    loss, p, labels = two_bits()
    cold = gibbs_algorithm(loss, p, 3, 0.0, labels=labels)
    assert cold.gen == pytest.approx(0, abs=1e-15)
    assert cold.identity == 0
    assert cold.entropy == pytest.approx(math.log(27), rel=1e-14)
    # 200 examples: 2e11 multisets of 8 kinds are refused, those of 2 kinds are quick
    two = gibbs_algorithm([[0.0, 1.0], [1.0, 0.0]], [0.3, 0.7], 200, 50.0)
    assert two.identity == pytest.approx(two.gen, rel=1e-11)
    assert np.isnan(two.label)
    assert len(two.plot().patches) == 5


def test_bad_input():
    loss, p = np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([0.5, 0.5])
    with pytest.raises(ShapeError, match=r"shapes \(W, Z\) and \(Z,\)"):
        gibbs_algorithm(loss, np.ones(3) / 3, 2, 1.0)
    with pytest.raises(DomainError, match="loss must be finite"):
        gibbs_algorithm(loss * np.nan, p, 2, 1.0)
    with pytest.raises(DomainError, match="p must hold probabilities > 0"):
        gibbs_algorithm(loss, [1.0, 0.0], 2, 1.0)
    with pytest.raises(DomainError, match="prior must hold probabilities"):
        gibbs_algorithm(loss, p, 2, 1.0, prior=[0.5, 0.6])
    with pytest.raises(ShapeError, match=r"prior must have shape \(2,\)"):
        gibbs_algorithm(loss, p, 2, 1.0, prior=[1.0])
    with pytest.raises(ShapeError, match=r"labels must have shape \(2,\)"):
        gibbs_algorithm(loss, p, 2, 1.0, labels=[0])
    with pytest.raises(DomainError, match="gamma must be >= 0"):
        gibbs_algorithm(loss, p, 2, -1.0)
    with pytest.raises(DomainError, match="n must be >= 1"):
        gibbs_algorithm(loss, p, 0, 1.0)
    with pytest.raises(DomainError, match="Reduce n"):
        gibbs_algorithm(np.zeros((2, 8)), np.ones(8) / 8, 200, 1.0)
    with pytest.raises(DomainError, match="s must be > 0"):
        gibbs_algorithm(loss, p, 2, 1.0).bounds(s=0)
    with pytest.raises(ShapeError, match="joint and channel"):
        channel_information(np.ones((2, 2)) / 4, np.eye(3))
    with pytest.raises(DomainError, match="gamma must be"):
        gibbs_bound(-1.0, 3)
    with pytest.raises(DomainError, match="C_E must be"):
        gibbs_bound(1.0, 3, C_E=-0.5)
    with pytest.raises(DomainError, match="etas must lie"):
        gibbs_bound(1.0, 3, etas=[2.0])
    with pytest.raises(DomainError, match="entropy must be >= 0"):
        finite_weights_bound(3, entropy=-1.0)
    with pytest.raises(DomainError, match="or parameters and levels be given"):
        finite_weights_bound(3, parameters=4)
    with pytest.raises(DomainError, match="levels must be >= 1"):
        finite_weights_bound(3, parameters=4, levels=0)
