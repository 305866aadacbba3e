"""Layers: what is refused, and the message that says so."""

import jax.numpy as jnp
import numpy as np
import pytest

import ntk
from deeplimits import DomainError, ShapeError, UnsupportedLayerError

BAD_INPUTS = [
    ((np.ones(3),), ShapeError, r"x1\[:, None\]"),
    ((np.float64(3.0),), ShapeError, "scalar"),
    ((np.ones((0, 3)),), ShapeError, "empty"),
    ((np.array([[1.0, np.nan]]),), DomainError, r"x1 must be finite, got nan at index \(0, 1\)"),
    ((np.ones((2, 3)) * 1j,), DomainError, "real"),
    ((np.array([["a"]]),), DomainError, "real numbers"),
    ((np.ones((2, 6)), np.ones((2, 5))), ShapeError, r"\(2, 6\) and \(2, 5\)"),
    ((np.ones((2, 6)), np.ones(6)), ShapeError, "x2"),
    ((np.ones((2, 6)), None, "nkt"), DomainError, "'nngp', 'ntk'"),
    ((np.ones((2, 6)), None, ()), DomainError, "get must be"),
    ((np.ones((2, 6)), None, ("ntk", "f")), DomainError, "get must be"),
]


@pytest.mark.parametrize(("arguments", "error", "match"), BAD_INPUTS)
def test_bad_inputs_are_named(arguments, error, match):
    with pytest.raises(error, match=match):
        ntk.mlp(2).kernel_fn(*arguments)


BAD_LAYERS = [
    (lambda: ntk.Dense(0), "out_dim must be >= 1, got 0"),
    (lambda: ntk.Dense(2.0), "out_dim must be an integer"),
    (lambda: ntk.Dense(1, -1.0), "W_std must be >= 0.0, got -1"),
    (lambda: ntk.Dense(1, np.nan), "W_std must be finite"),
    (lambda: ntk.Dense(1, 1.0, -0.1), "b_std must be >= 0.0"),
    (lambda: ntk.Dense(1, parameterization="mup"), "'ntk', 'standard'; got 'mup'"),
    (lambda: ntk.Dense(1, s=(1, 0)), r"s\[1\] must be >= 1"),
    (lambda: ntk.Dense(1, s=(1, 2, 3)), "two positive integers"),
    (lambda: ntk.Dropout(0.0), "rate must be > 0.0"),
    (lambda: ntk.Dropout(1.1), "rate must be <= 1.0|rate must be > 0.0 and <= 1.0"),
    (lambda: ntk.Dropout(0.5, mode="eval"), "'train', 'test'"),
    (lambda: ntk.LayerNorm(eps=-1.0), "eps must be >= 0"),
    (lambda: ntk.FanOut(0), "num must be >= 1"),
    (lambda: ntk.serial(), "at least one layer"),
    (lambda: ntk.parallel(), "at least one layer"),
    (lambda: ntk.serial(ntk.Dense(1), ntk.Relu), r"layer 1 of serial.*parentheses"),
    (lambda: ntk.repeat(ntk.Relu(), 0), "n must be >= 1"),
    (lambda: ntk.repeat("relu", 2), "block must be a layer"),
    (lambda: ntk.mlp(-1), "depth must be >= 0"),
    (lambda: ntk.mlp(2, "rleu"), "relu"),
]


@pytest.mark.parametrize(("make", "match"), BAD_LAYERS)
def test_bad_layers_are_refused_when_they_are_made(make, match):
    with pytest.raises(DomainError, match=match):
        make()


X = np.ones((2, 4))
BAD_NETS = [
    (lambda: ntk.serial(ntk.FanOut(2), ntk.Relu()), ShapeError, "takes one input, got 2 branches"),
    (lambda: ntk.serial(ntk.Dense(3), ntk.FanInSum()), ShapeError, "FanInSum merges a list"),
    (lambda: ntk.serial(ntk.Dense(3), ntk.FanOut(2)), ShapeError, "ends in 2 branches"),
    (
        lambda: ntk.serial(ntk.FanOut(3), ntk.parallel(ntk.Identity(), ntk.Identity())),
        ShapeError,
        "parallel has 2 layers but got 3 branches",
    ),
    (
        lambda: ntk.serial(ntk.Dense(3), ntk.parallel(ntk.Identity(), ntk.Identity())),
        ShapeError,
        "one input",
    ),
    (
        lambda: ntk.serial(
            ntk.FanOut(2), ntk.parallel(ntk.Dense(3), ntk.Dense(4)), ntk.FanInSum()
        ),
        ShapeError,
        "same number of channels in all branches, got 3, 4",
    ),
    (
        lambda: ntk.serial(
            ntk.Dense(4), ntk.Relu(), ntk.FanOut(2), ntk.parallel(ntk.Identity(), ntk.Dense(4)),
            ntk.FanInSum(), ntk.Relu(),
        ),
        UnsupportedLayerError,
        "Put a Dense layer before the activation",
    ),
    (
        lambda: ntk.serial(
            ntk.Dense(4), ntk.LayerNorm(), ntk.FanOut(2),
            ntk.parallel(ntk.Identity(), ntk.Dropout(0.5)), ntk.FanInSum(),
        ),
        UnsupportedLayerError,
        "share random units",
    ),
    (lambda: ntk.serial(ntk.Dense(3), ntk.LayerNorm(axis=0)), ShapeError, "channel axis"),
    (
        lambda: ntk.serial(ntk.Dense(3), ntk.FanOut(2), ntk.FanInConcat(axis=0)),
        UnsupportedLayerError,
        "channel axis only",
    ),
    (lambda: ntk.Dense(3, s=(3, 1), parameterization="standard"), DomainError, "divide"),
    (lambda: ntk.repeat(ntk.FanOut(2), 3), ShapeError, "one output"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "error", "match"), BAD_NETS)
def test_networks_that_do_not_fit_together(make, error, match):
    with pytest.raises(error, match=match):
        make().ntk(X)


def test_jumping_activations_have_an_nngp_but_no_ntk():
    net = ntk.serial(ntk.Dense(3), ntk.Sign(), ntk.Dense(1))
    assert np.isfinite(net.nngp(np.eye(3, 4))).all()
    assert net.kernel_fn(np.eye(3, 4)).ntk is None
    with pytest.raises(UnsupportedLayerError, match=r"Sign.*diverges"):
        net.ntk(np.eye(3, 4))


def test_misuse_of_records_and_of_random_layers():
    record = ntk.serial(ntk.Dense(1, 1.3, 0.2), ntk.Sign()).kernel_fn(X)
    with pytest.raises(DomainError, match="without ntk"):
        ntk.Dense(1, 1.3, 0.2).kernel_fn(record, None, "ntk")
    with pytest.raises(ShapeError, match="x2 must be None"):
        ntk.Dense(1, 1.3, 0.2).kernel_fn(record, X)
    net = ntk.serial(ntk.Dense(3), ntk.Dropout(0.5))
    _, params = net.init_fn(0, (2, 4))
    with pytest.raises(DomainError, match="key="):
        net.apply_fn(params, jnp.ones((2, 4)))
    with pytest.raises(ShapeError, match="keeps the shape"):
        ntk.repeat(ntk.serial(ntk.FanOut(2), ntk.FanInConcat()), 3).init_fn(0, (2, 4))
