import jax
import numpy as np
import pytest

import ntk
from deeplimits import DeepLimitsWarning, DomainError, ShapeError
from gp.critic import critic_w1
from gp.priors import match_prior

SMALL = {"steps": 200, "hidden": (16, 16), "learning_rate": 0.1}
N = 400


def test_calibration_in_one_dimension():
    """N(0, 4) against N(0, 1): W1 = sqrt(2 / pi) = 0.798; and N(0, 1) against itself: 0."""
    wide, narrow, other = np.random.default_rng(0).normal(size=(3, N, 1))
    found = critic_w1(2 * wide, narrow, key=0, **SMALL)
    exact = np.sqrt(2 / np.pi)
    # the penalty lets slopes settle at 1 + W1 / (2 penalty)
    settled = exact * (1 + exact / 20)
    assert abs(found.held_out - settled) < 4 * found.stderr
    assert found.slope > 1
    assert found.lower_bound < exact + 4 * found.stderr
    assert found.history.shape == (200,)
    same = critic_w1(other, narrow, key=1, **SMALL)
    assert abs(same.held_out) < 4 * same.stderr


def linear(W):
    return ntk.serial(ntk.Dense(1, W))


def four_times(X, Z=None):
    return 4 * X @ (X if Z is None else Z).T


GRID = np.array([[1.0], [-0.5]])
START = {"start": {"W": 1.0}}


@pytest.mark.slow
@pytest.mark.optimized
def test_matching_recovers_a_scale():
    """f = W w x against a Gaussian process with W = 2."""
    options = {"outer": 20, "inner": 20, "samples": 64, "hidden": (8,), "critic_rate": 0.1}
    found = match_prior(linear, four_times, GRID, "w1", **START, **options)
    # from 1, in 20 steps of about 5 %, with samples of 64 functions: variance known to 18 %
    assert abs(found.params["W"] - 2) < 0.5
    assert found.loss == "w1"
    # E|z| |x| |W - 2| is exact for functions on a line
    exact = np.sqrt(2 / np.pi) * np.linalg.norm(GRID) * abs(found.params["W"] - 2)
    assert found.w1.lower <= exact * (1 + 1e-9)
    assert exact <= found.w1.upper * (1 + 1e-9)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"samples2": np.zeros((6, 2))}, ShapeError, "must have one shape"),
        ({"samples1": np.full((6, 1), np.nan)}, DomainError, "samples1 must be finite"),
        ({"samples1": np.zeros((3, 1))}, ShapeError, "at least 4 samples"),
        ({"steps": 0}, DomainError, "steps must be >= 1"),
        ({"penalty": 0.0}, DomainError, "penalty must be > 0"),
        ({"learning_rate": -1.0}, DomainError, "learning_rate must be > 0"),
        ({"sides": 3}, DomainError, "sides must be 1 or 2"),
    ],
)
def test_bad_input(change, error, match):
    samples = {"samples1": np.ones((6, 1)), "samples2": np.ones((6, 1))}
    with pytest.raises(error, match=match):
        critic_w1(**{**samples, "key": 0, **change})


def test_few_samples_are_warned_about():
    draws = np.random.default_rng(0).normal(size=(2, 6, 4))
    # warnings are errors in the tests, so nothing is compiled
    with pytest.raises(DeepLimitsWarning, match="6 samples for functions on 4 points"):
        critic_w1(draws[0], draws[1], key=0)


@pytest.mark.parametrize(
    ("family", "options", "error", "match"),
    [
        (
            lambda W: lambda X, Z=None: W * four_times(X, Z),
            {},
            DomainError,
            "draws finite networks",
        ),
        (lambda W: ntk.serial(ntk.Dense(2, W)), {}, ShapeError, "must have one output"),
        (linear, {"outer": 0}, DomainError, "outer must be >= 1"),
        (linear, {"critic_rate": 0.0}, DomainError, "critic_rate must be > 0"),
    ],
)
def test_bad_matches(family, options, error, match):
    with pytest.raises(error, match=match):
        match_prior(family, four_times, GRID, "w1", **START, **{"outer": 1, **options})


def test_keys_matter():
    draws = np.random.default_rng(0).normal(size=(2, N, 1))
    first = critic_w1(draws[0], draws[1], key=jax.random.key(0), **SMALL)
    assert critic_w1(draws[0], draws[1], key=0, **SMALL).held_out == first.held_out
    assert critic_w1(draws[0], draws[1], key=1, **SMALL).held_out != first.held_out
