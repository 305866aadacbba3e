"""gram: tiles equal the direct kernel, exactly symmetric, foreign kernels, errors."""

import importlib

import numpy as np
import pytest

import ntk
from deeplimits import DomainError, ShapeError, UnsupportedLayerError
from ntk.gram import gram

tiles = importlib.import_module("ntk.gram")  # the package's name "gram" is the function
pytestmark = pytest.mark.optimized


def inputs(n, d=20, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(dtype)


NET = ntk.mlp(3, "relu", W_std=1.4, b_std=0.2)


@pytest.mark.parametrize("block_size", [1, 7, 16, 50, 53, 64, "auto"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_tiles_equal_the_direct_kernel(block_size, symmetric):
    x, z = inputs(53), None if symmetric else inputs(31, seed=1)
    got = gram(NET, x, z, ("nngp", "ntk"), block_size=block_size)
    want = NET.kernel_fn(x, z, ("nngp", "ntk"))
    # block sizes change the order of the sums in the inner products only
    np.testing.assert_allclose(got.nngp, want.nngp, rtol=1e-12)
    np.testing.assert_allclose(got.ntk, want.ntk, rtol=1e-12)
    assert isinstance(got.ntk, np.ndarray)
    if symmetric:
        np.testing.assert_array_equal(got.ntk, got.ntk.T)


def test_large_direct_kernel_uses_the_same_tiles():
    x = inputs(600, dtype=np.float32)
    direct = NET.ntk(x)
    np.testing.assert_array_equal(direct, gram(NET, x))
    assert direct.dtype == np.float32


def test_one_core_gives_the_same(monkeypatch):
    x = inputs(53)
    several = gram(NET, x, block_size=16)
    monkeypatch.setattr(tiles, "_cores", lambda: 1)
    np.testing.assert_array_equal(gram(NET, x, block_size=16), several)


def test_one_mask_per_input_survives_tiling():
    net = ntk.serial(ntk.Dense(3), ntk.Relu(), ntk.Dropout(0.5), ntk.Dense(1))
    x = inputs(20)
    np.testing.assert_allclose(gram(net, x, block_size=8), net.ntk(x), rtol=1e-12)


def test_images_with_a_leading_flatten():
    x = inputs(30, 48).reshape(30, 4, 4, 3)
    net = ntk.serial(ntk.Flatten(), NET)
    np.testing.assert_allclose(gram(net, x, block_size=8), NET.ntk(x.reshape(30, -1)), rtol=1e-12)


def test_diagonal_costs_one_row_at_a_time():
    x = inputs(300)
    got = gram(NET, x, get=("nngp", "ntk"), diagonal=True)
    want = NET.kernel_fn(x, None, ("nngp", "ntk"))
    np.testing.assert_allclose(got.nngp, np.diag(want.nngp), rtol=1e-13)
    np.testing.assert_allclose(got.ntk, np.diag(want.ntk), rtol=1e-13)


def test_kernel_fn_and_foreign_kernels():
    x, z = inputs(20), inputs(9, seed=1)
    want = np.asarray(NET.ntk(x))
    np.testing.assert_allclose(gram(NET.kernel_fn, x), want, rtol=1e-12)
    np.testing.assert_allclose(gram(NET.ntk, x, block_size=7), want, rtol=1e-12)

    def with_get(a, b=None, get=None):
        return NET.kernel_fn(a, b, get)

    got = gram(with_get, x, z, ("nngp", "ntk"), block_size=7)
    np.testing.assert_allclose(got.ntk, NET.ntk(x, z), rtol=1e-12)
    np.testing.assert_allclose(gram(with_get, x, get="nngp", diagonal=True), np.diag(NET.nngp(x)))


def test_bad_inputs():
    x = inputs(5)
    with pytest.raises(ShapeError, match="x1"):
        gram(NET, np.ones(4))
    with pytest.raises(ShapeError, match="agree in every axis"):
        gram(NET, x, np.ones((2, 3)))
    with pytest.raises(DomainError, match="finite"):
        gram(lambda a, b=None: a, np.full((2, 2), np.nan))
    with pytest.raises(DomainError, match="block_size must be >= 1"):
        gram(NET, x, block_size=0)
    with pytest.raises(DomainError, match="get must be"):
        gram(NET, x, get="cov1")
    with pytest.raises(DomainError, match="get must be"):
        gram(NET, x, get=None)
    with pytest.raises(DomainError, match="kernel_fn must be"):
        gram(3.0, x)
    with pytest.raises(DomainError, match="takes no argument get"):
        gram(lambda a, b=None: a, x, get=("nngp", "ntk"))
    with pytest.raises(ShapeError, match=r"shape \(5, 5\), got \(5, 20\)"):
        gram(lambda a, b=None: a, x)
    for network in (NET, lambda a, b=None: a):
        with pytest.raises(ShapeError, match="leave x2 at None"):
            gram(network, x, x, diagonal=True)
    with pytest.raises(UnsupportedLayerError, match="held in memory"):
        gram(NET, x, out="k.zarr")
    with pytest.raises(UnsupportedLayerError, match="Flatten"):
        gram(ntk.serial(ntk.Dense(2), ntk.Relu()), np.ones((5, 3, 2)))
