"""monte_carlo_kernel: what it refuses, and z-scores where the limit holds at any width."""

import numpy as np
import pytest

import ntk
from deeplimits import DomainError

X = np.sin(np.arange(6.0)).reshape(3, 2)


def test_one_hidden_layer_has_the_limit_as_its_mean():
    net = ntk.serial(ntk.Dense(8, 1.3, 0.2), ntk.Erf(), ntk.Dense(2, 1.1, 0.1))
    for get in ("nngp", "ntk"):
        got = ntk.monte_carlo_kernel(net, 0, X, n_samples=2000, get=get, batch_size=200)
        z = (got.mean - np.asarray(net.kernel_fn(X, None, get))) / got.stderr
        assert np.abs(z).max() < 4.5  # 6 distinct entries; chance of failure below 1e-4


@pytest.mark.parametrize("x2", [None, X[:2]], ids=["self", "equal copy"])
def test_dropout_has_one_mask_per_row(x2):
    """One hidden layer again; the diagonal is larger only where a row is compared with itself."""
    net = ntk.serial(ntk.Dense(8, 1.3, 0.2), ntk.Erf(), ntk.Dropout(0.5), ntk.Dense(2, 1.1, 0.1))
    for get in ("nngp", "ntk"):
        got = ntk.monte_carlo_kernel(net, 0, X, x2, n_samples=2000, get=get, batch_size=200)
        z = (got.mean - np.asarray(net.kernel_fn(X, x2, get))) / got.stderr
        assert np.abs(z).max() < 4.5  # at most 6 distinct entries; chance of failure below 1e-4


def test_bad_arguments():
    dropout = ntk.serial(ntk.Dense(4), ntk.Dropout(0.5), ntk.Dense(1))
    with pytest.raises(DomainError, match="n_samples must be >= 2"):
        ntk.monte_carlo_kernel(dropout, 0, X, n_samples=1, get="nngp")
