"""Exact moments of homogeneous networks: enumeration at width 1, products, first order, claims."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest

from deeplimits.errors import DomainError, UnsupportedLayerError
from ntk.arccosine import ABRelu
from ntk.exact_homogeneous import exact_homogeneous
from ntk.finite_width import finite_width

RATES = {"lambda_b": 0.4, "lambda_W": 0.6}
X = np.array([np.sqrt(1.34), 0.0, 0.0])


def test_published_example():
    got = exact_homogeneous("relu", C_b=0.0, C_W=2.0, widths=[16] * 7, x=X, **RATES)
    # four digits were recorded, together with a simulation of 1.2e5 networks (73.2, 217, 76.6)
    expected = {"V": 72.90, "A": 302.1, "B": 213.1, "F": 75.89, "ntk_relative_variance": 1.594}
    for name, value in expected.items():
        assert getattr(got, name)[-1] == pytest.approx(value, rel=5e-4), name
    limit = exact_homogeneous("relu", C_b=0.0, C_W=2.0, widths=[1e9] * 7, x=X, **RATES)
    for name, value in {"V": 27.93, "A": 142.8, "B": 124.9, "F": 33.42}.items():
        assert getattr(limit, name)[-1] == pytest.approx(value, rel=5e-4), name


@pytest.mark.parametrize(("activation", "nu"), [("relu", 5.0), ("linear", 2.0), ("abs", 2.0)])
def test_fluctuations_multiply(activation, nu):
    """Without biases E G^2 = K^2 prod (1 + nu/n), derived from i.i.d. layers."""
    widths = np.array([3.0, 7.0, 5.0])
    C_W = 2.0 if activation == "relu" else 1.0
    got = exact_homogeneous(activation, C_b=0.0, C_W=C_W, widths=widths, x=X)
    product = np.concatenate([[1.0], np.cumprod(1 + nu / widths)])
    np.testing.assert_allclose(got.kurtosis, 3 * (product - 1), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(got.V[1:], widths * (product[1:] - 1) * got.K[1:] ** 2, rtol=1e-12)


def test_one_neuron_per_layer_by_enumeration():
    """Width 1: signs enumerated, Gaussian products by Hermite quadrature (exact: polynomials)."""
    C_b, C_W, (lb, lW), (a, b) = 0.3, 1.4, (0.2, 0.5), (-0.3, 1.2)
    t, w = np.polynomial.hermite_e.hermegauss(12)
    w = w / w.sum()
    g0 = C_b + C_W * 0.8
    # three layers: z1 -> z2 -> output; the output conditionally on z2 is Gaussian
    z1, z2, W2 = np.meshgrid(np.sqrt(g0) * t, t, t, indexing="ij")
    weight = w[:, None, None] * w[None, :, None] * w[None, None, :]
    moments = np.zeros(7)
    for s1, s2 in itertools.product((a, b), repeat=2):
        # the coins of the two layers are independent of everything else
        bias = np.sqrt(C_b) * z2
        two = bias + np.sqrt(C_W) * W2 * s1 * z1
        H1 = lb + lW * 0.8
        H2 = lb + lW * (s1 * z1) ** 2 + C_W * W2**2 * s1**2 * H1
        G = C_b + C_W * s2**2 * two**2
        H = lb + lW * s2**2 * two**2 + C_W * s2**2 * H2  # the last weight averaged to C_W
        HH = C_W**2 * s2**4 * H2**2  # square of its coefficient, for B
        zzH = C_W**2 * s2**2 * two**2 * s2**2 * H2
        parts = (G, H, G * G, G * H, H * H, HH, zzH)
        moments += np.array([np.sum(weight * p) for p in parts]) / 4
    EG, EH, EGG, EGH, EHH, EB, EF = moments
    got = exact_homogeneous(
        (a, b), C_b=C_b, C_W=C_W, widths=[1, 1], x=[np.sqrt(0.8)], lambda_b=lb, lambda_W=lW
    )
    expected = {
        "K": EG, "Theta": EH, "V": EGG - EG**2, "D": EGH - EG * EH, "A": EHH - EH**2, "B": EB,
        "F": EF, "kurtosis": 3 * EGG / EG**2 - 3,
        "ntk_relative_variance": (EHH + 2 * EB) / EH**2 - 1,
    }  # fmt: skip
    for name, value in expected.items():
        assert getattr(got, name)[-1] == pytest.approx(value, rel=1e-12), name


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "abs", "linear"])
def test_first_order_at_large_width(activation):
    widths = [10**6, 2 * 10**6, 10**6]
    arguments = {"C_b": 0.1, "C_W": 1.5, "widths": widths, **RATES}
    exact = exact_homogeneous(activation, x=X, **arguments)
    first = finite_width(activation, x=X[None], **arguments)
    assert first.Theta.item() == pytest.approx(exact.Theta[-1], rel=1e-13)
    assert first.Theta1.item() == pytest.approx(0, abs=1e-13)
    assert first.G1.item() == pytest.approx(0, abs=1e-13)
    for name in "VABDF":
        # second order is about 10 / n relative
        value = getattr(exact, name)[-1]
        assert getattr(first, name).item() == pytest.approx(value, rel=1e-5), name
        assert getattr(first, name).item() != pytest.approx(value, rel=1e-8), name


def test_two_widths_give_the_first_order():
    """2 X(2n) - X(n) cancels the next order: the recursions agree beyond 1/n."""
    arguments = {"C_b": 0.1, "C_W": 1.5, **RATES}
    small, large = (exact_homogeneous("relu", widths=[n] * 3, x=X, **arguments) for n in (1e4, 2e4))
    first = finite_width("relu", x=X[None], widths=[10**6] * 3, **arguments)
    for name in "VABDF":
        value = 2 * getattr(large, name)[-1] - getattr(small, name)[-1]
        # third order: 1e2 / n^2 = 1e-6
        assert getattr(first, name).item() == pytest.approx(value, rel=1e-6), name


def test_plot_and_refusals():
    got = exact_homogeneous(ABRelu(0.1, 1.0), C_b=0.0, C_W=2.0, widths=[8, 8], x=X[None])
    ax = got.plot()
    assert len(ax.lines) == 2
    plt.close(ax.figure)
    keep = {"C_b": 0.0, "C_W": 2.0, "widths": [8, 8], "x": X}
    with pytest.raises(UnsupportedLayerError, match="do not close"):
        exact_homogeneous("tanh", **keep)
    with pytest.raises(DomainError, match="Both slopes are 0"):
        exact_homogeneous((0.0, 0.0), **keep)
    for change, match in (
        ({"x": np.ones((2, 3))}, "x must be one input"),
        ({"x": [np.nan]}, "x must be finite"),
        ({"widths": 8}, "one hidden width or more"),
        ({"widths": [0.5]}, "must be >= 1"),
        ({"C_b": -1.0}, "C_b must be >= 0"),
        ({"C_W": 0.0}, "C_W must be > 0"),
        ({"lambda_b": -1.0}, "lambda_b must be >= 0"),
        ({"lambda_W": -1.0}, "lambda_W must be >= 0"),
    ):
        with pytest.raises(DomainError, match=match):
            exact_homogeneous("relu", **(keep | change))
