"""monte_carlo_kernel: what it refuses, and z-scores where the limit holds at any width."""

import numpy as np
import pytest

import ntk
from deeplimits import DomainError, UnsupportedLayerError

X = np.sin(np.arange(6.0)).reshape(3, 2)


def test_one_hidden_layer_has_the_limit_as_its_mean():
    net = ntk.serial(ntk.Dense(8, 1.3, 0.2), ntk.Erf(), ntk.Dense(2, 1.1, 0.1))
    for get in ("nngp", "ntk"):
        got = ntk.monte_carlo_kernel(net, 0, X, n_samples=2000, get=get, batch_size=200)
        z = (got.mean - np.asarray(net.kernel_fn(X, None, get))) / got.stderr
        assert np.abs(z).max() < 4.5  # 6 distinct entries; chance of failure below 1e-4


def test_refuses_what_it_would_get_wrong():
    dropout = ntk.serial(ntk.Dense(4), ntk.Dropout(0.5), ntk.Dense(1))
    with pytest.raises(UnsupportedLayerError, match="share one mask"):
        ntk.monte_carlo_kernel(dropout, 0, X, n_samples=4)
    with pytest.raises(DomainError, match="n_samples must be >= 2"):
        ntk.monte_carlo_kernel(dropout, 0, X, n_samples=1, get="nngp")
