"""finite_width: tensors against a second coding, symmetries, limits, refusals."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

from deeplimits.errors import (
    ConvergenceError,
    DeepLimitsWarning,
    DomainError,
    ShapeError,
    UnsupportedLayerError,
)
from ntk.arccosine import ABRelu
from ntk.finite_width import finite_width
from ntk.finite_width_run import NODES
from ntk.single_input_asymptotics import critical_learning_rates, depth_slopes

from .finite_width_reference import cartesian, polar, propagate, tanh_derivatives

X = np.array([[1.0, 0.3, -0.5], [0.2, -1.1, 0.7]])
WIDTHS = [400, 1000, 600]
RATES = [(0.3, 0.7), (0.2, 0.5), (0.4, 0.9), (0.1, 0.6)]
ALL = {"C_b": 0.1, "C_W": 1.6, "lambda_b": 0.3, "lambda_W": 0.7}
UNEQUAL = ALL | {"lambda_b": [r[0] for r in RATES], "lambda_W": [r[1] for r in RATES]}
TENSORS = "VABDFPQRSTU"


@pytest.fixture(scope="module")
def tanh():
    return finite_width("tanh", x=X, widths=WIDTHS, order="ddNTK", **UNEQUAL)


@pytest.fixture(scope="module")
def relu():
    return finite_width("relu", x=X, widths=WIDTHS, order="dNTK", **UNEQUAL)


def agree(got, reference):
    for name, value in reference.items():
        scale = np.abs(value).max()
        # both routes integrate to 1e-13 per layer; three layers and sums of some ten terms
        np.testing.assert_allclose(getattr(got, name), value, rtol=0, atol=1e-11 * scale)


def test_smooth_tensors_against_second_coding(tanh):
    arguments = (X, WIDTHS, 0.1, 1.6, RATES, "ddNTK", cartesian, tanh_derivatives)
    agree(tanh, propagate(*arguments))
    assert tanh.quadrature_error < 1e-9  # the tolerance of the refinement


@pytest.mark.parametrize("slopes", [(0.0, 1.0), (-0.3, 1.2)])
def test_kinked_tensors_against_second_coding(slopes, relu):
    a, b = slopes

    def derivatives(z):
        return np.where(z > 0, b * z, a * z), np.where(z > 0, b, a)

    reference = propagate(X, WIDTHS, 0.1, 1.6, RATES, "dNTK", polar, derivatives)
    if slopes == (0.0, 1.0):
        agree(relu, reference)
    got = finite_width(ABRelu(a, b), x=X, widths=WIDTHS, order="dNTK", **UNEQUAL)
    agree(got, reference)


def test_symmetries(tanh, relu):
    for record in (tanh, relu):
        V, A, B, F, P = (getattr(record, name) for name in "VABFP")
        # equal sums in another order: rounding only
        close = {"rtol": 0, "atol": 1e-13 * np.abs(B).max() * 10}
        for T in (V, A):
            for axes in ((1, 0, 2, 3), (0, 1, 3, 2), (2, 3, 0, 1)):
                np.testing.assert_allclose(T, T.transpose(axes), **close)
        np.testing.assert_allclose(B, B.transpose(1, 0, 3, 2), **close)
        np.testing.assert_allclose(B, B.transpose(2, 3, 0, 1), **close)
        np.testing.assert_allclose(F, F.transpose(2, 3, 0, 1), **close)
        np.testing.assert_allclose(P, P.transpose(0, 2, 1, 3), **close)
        for T in (record.G, record.G1, record.Theta, record.Theta1):
            np.testing.assert_allclose(T, T.T, **close)
    np.testing.assert_allclose(tanh.R, tanh.R.transpose(0, 1, 3, 2), **close)


def test_pairs_are_the_two_input_problems(tanh):
    x = np.vstack([X, X[:1], [[0.5, 0.5, 2.0]]])  # samples 0 and 2 coincide
    got = finite_width("tanh", x=x, widths=WIDTHS, order="ddNTK", **UNEQUAL)
    assert got.closure == "pairs"
    assert got.V.shape == (6, 2, 2, 2, 2)
    for name in TENSORS:
        scale = 1e-11 * np.abs(getattr(tanh, name)).max()  # symmetric nodes, other inputs: rounding
        for samples in ((0, 1, 1, 0), (1, 1, 1, 1), (0, 0, 0, 1)):
            value = tanh.component(name, *samples)
            assert got.component(name, *samples) == pytest.approx(value, rel=0, abs=scale)
            moved = [2 if s == 0 else s for s in samples]
            assert got.component(name, *moved) == pytest.approx(value, rel=0, abs=scale)
    np.testing.assert_allclose(got.Theta1[:2, :2], tanh.Theta1, atol=1e-12)
    np.testing.assert_allclose(got.G1[0, 2], tanh.G1[0, 0], atol=1e-12)
    for method in ("mean_kernel", "mean_ntk", "kernel_variance", "ntk_variance"):
        np.testing.assert_allclose(
            getattr(got, method)()[:2, :2], getattr(tanh, method)(), rtol=1e-10
        )
    np.testing.assert_allclose(got.kernel_variance()[3, 1], got.component("V", 1, 3, 3, 1) / 600)
    B = got.component("B", 1, 1, 3, 3) + got.component("B", 1, 3, 3, 1)
    np.testing.assert_allclose(got.ntk_variance()[3, 1], (got.component("A", 1, 3, 1, 3) + B) / 600)
    with pytest.raises(DomainError, match="Use closure='full'"):
        got.component("V", 0, 1, 3, 0)
    with pytest.raises(DomainError, match="takes 4 samples"):
        got.component("V", 0, 1)
    with pytest.raises(DomainError, match="layer must be <= 4"):
        got.component("V", 0, 1, 1, 0, layer=5)


def test_full_closure_contains_the_pairs(tanh):
    x = np.vstack([X, [[0.5, 0.5, 2.0]]])
    got = finite_width("tanh", x=x, widths=WIDTHS, order="V", closure="full", **UNEQUAL)
    # the tolerance of three-dimensional grids is 1e-6 of the largest entry
    atol = 1e-6 * np.abs(got.V).max()
    np.testing.assert_allclose(got.V[:2, :2, :2, :2], tanh.V, rtol=0, atol=atol)
    np.testing.assert_allclose(got.G1[:2, :2], tanh.G1, rtol=0, atol=atol)
    # Var of the product metric is a covariance: positive semi-definite on symmetric pairs
    rows = np.triu_indices(3)
    eigenvalues = np.linalg.eigvalsh(got.V[rows][:, rows[0], rows[1]])
    assert eigenvalues.min() > -atol


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_coincident_parallel_and_zero_inputs(activation):
    x = np.array([[0.5, 1.0], [0.5, 1.0], [1.0, 2.0], [-0.5, -1.0], [0.0, 0.0]])
    got = finite_width(activation, C_b=0.0, C_W=2.0, widths=WIDTHS, x=x, order="dNTK")
    for name in ("G", "G1", "Theta", "Theta1", "V", "A", "B", "D", "F", "P", "Q"):
        assert np.isfinite(getattr(got, name)).all(), name
    for name in "VABDFPQ":
        one, two = (got.component(name, s, s, s, s) for s in (0, 1))
        mixed = got.component(name, 0, 1, 1, 0)
        # the angle between coincident inputs is exactly 0: rounding is not amplified (1e-8)
        assert two == pytest.approx(one, rel=1e-12)
        assert mixed == pytest.approx(one, rel=1e-12, abs=1e-12)
    assert got.Theta1[0, 1] == pytest.approx(got.Theta1[0, 0], rel=1e-12, abs=1e-12)
    if activation == "relu":
        assert got.component("V", 2, 2, 0, 0) == pytest.approx(4 * got.component("V", 0, 0, 0, 0))


def test_relu_is_continuous_at_coincident_inputs():
    def run(angle):
        x = np.sqrt(2) * np.array([[1.0, 0.0], [np.cos(angle), np.sin(angle)]])
        return finite_width("relu", C_b=0.0, C_W=2.0, widths=[1000] * 3, x=x)

    at = run(0.0)
    scale = np.abs(at.A).max()
    # on both sides of the angles at which singular averages are dropped
    for angle in (1e-2, 1.2e-4, 8e-5, 1e-5, 1e-6, 1e-9):
        near = run(angle)
        for name in ("G1", "Theta1", "V", "A", "B", "D", "F"):
            # linear in the angle; the coefficients are at most half the largest entry
            value, limit = getattr(near, name), getattr(at, name)
            np.testing.assert_allclose(value, limit, rtol=0, atol=angle * scale, err_msg=name)
        assert near.quadrature_error < max(angle, 5e-4)  # 2e-16 / angle^3 at 1e-4


@pytest.mark.parametrize("activation", ["tanh", "linear"])
def test_slopes_at_large_depth(activation):
    depth, rates = 2000, {"lambda_b": 0.6, "lambda_W": 0.6}
    slopes = depth_slopes(activation, **rates)
    names = {"V": (2, 0), "A": (0, 2), "B": (0, 2), "D": (1, 1), "F": (1, 1)}
    order = "NTK"
    if activation == "tanh":
        rates = dict(zip(rates, critical_learning_rates(activation, depth, **rates), strict=True))
    else:
        names |= {"Q": (0, 2), "S": (-1, 3), "T": (-1, 3)}
        order = "ddNTK"
    got = finite_width(
        activation, C_b=0.0, C_W=slopes.C_W, widths=[10**7] * (depth - 1), x=np.ones((1, 1)),
        order=order, **rates,
    )  # fmt: skip
    K, Theta = got.G.item(), got.Theta.item()
    if activation == "tanh":
        assert K * depth * slopes.K_rate == pytest.approx(1, rel=0.01)  # log(l)/l corrections
        assert Theta == pytest.approx(0.6 + 0.6 / slopes.K_rate, rel=0.01)
    else:
        slopes = depth_slopes(activation, lambda_b=0.6, lambda_W=0.6, K=K)
        assert K == pytest.approx(1.0)
    for name, (k, t) in names.items():
        ratio = getattr(got, name).item() / (K**k * Theta**t) / depth
        assert ratio == pytest.approx(getattr(slopes, name), rel=0.015), (
            name
        )  # log(l)/l, measured 1%


def test_derivatives_at_coincident_inputs():
    x = np.vstack([X[:1], X[:1]])

    def value(p):
        got = finite_width("tanh", C_b=p[0], C_W=p[1], widths=WIDTHS, x=x, order="V")
        return got.V[0, 1, 0, 1] + got.G1[0, 1] + got.mean_kernel()[1, 1]

    point = np.array([0.1, 1.6])
    gradient = jax.grad(value)(jnp.asarray(point))
    for i, step in enumerate(np.eye(2) * 1e-4):
        difference = (value(list(point + step)) - value(list(point - step))) / 2e-4
        # central differences: step^2 times third derivatives of order one, and 1e-13 / step
        assert float(gradient[i]) == pytest.approx(float(difference), rel=1e-6)


def test_layers_and_defaults(tanh):
    assert tanh.layers.V.shape == (4, 2, 2, 2, 2)
    assert not tanh.layers.V[0].any()
    assert tanh.n == 600
    assert tanh.aspect_ratio == pytest.approx(1 / 400 + 1 / 1000 + 1 / 600)
    product = X @ X.T / 3
    np.testing.assert_allclose(tanh.layers.G[0], 0.1 + 1.6 * product)
    kurtosis = [3 * tanh.V[i, i, i, i] / 600 / tanh.G[i, i] ** 2 for i in (0, 1)]
    np.testing.assert_allclose(tanh.kurtosis, kurtosis)
    ax = tanh.plot()
    assert len(ax.lines) == 2
    plt.close(ax.figure)


def test_refusals():
    keep = {"C_b": 0.1, "C_W": 1.6, "widths": [100], "x": X}
    for change, error, match in (
        ({"C_b": -1.0}, DomainError, "C_b must be >= 0"),
        ({"C_W": 0.0}, DomainError, "C_W must be > 0"),
        ({"widths": []}, DomainError, "one hidden width or more"),
        ({"widths": [10.5]}, DomainError, "must be an integer"),
        ({"widths": [0]}, DomainError, "must be >= 1"),
        ({"x": X[0]}, ShapeError, r"\(n, d\)"),
        ({"x": X[None]}, ShapeError, r"\(M, n_0\)"),
        ({"order": "V4"}, DomainError, "order must be one of"),
        ({"closure": "all"}, DomainError, "closure must be one of"),
        ({"lambda_b": -1.0}, DomainError, "lambda_b must be >= 0"),
        ({"lambda_W": [1.0, 2.0, 3.0]}, ShapeError, "or 2 .one per layer."),
        ({"nodes": 4}, DomainError, "nodes must be >= 8"),
    ):
        with pytest.raises(error, match=match):
            finite_width("tanh", **(keep | change))
    with pytest.raises(UnsupportedLayerError, match="ddNTK"):
        finite_width("relu", **keep, order="ddNTK")
    with pytest.raises(UnsupportedLayerError, match="no closed form"):
        finite_width("relu", **(keep | {"x": np.eye(3)}), closure="full")
    with pytest.raises(UnsupportedLayerError, match="has kinks at"):
        finite_width("elu", **keep)
    with pytest.raises(UnsupportedLayerError, match="five continuous derivatives"):
        finite_width("rectified_monomial3", **keep, nodes=64, order="V")
    with pytest.raises(DomainError, match="order='NTK'"):
        finite_width("relu", **keep, order="V").mean_ntk()


def test_warns_and_reports_when_the_expansion_fails(monkeypatch):
    with pytest.warns(DeepLimitsWarning, match="not small"):
        finite_width("relu", C_b=0.0, C_W=2.0, widths=[8, 8, 8], x=X)
    monkeypatch.setitem(NODES, 2, (16,))
    with pytest.raises(ConvergenceError, match="largest variance"):
        finite_width("tanh", C_b=0.0, C_W=9e4, widths=[1000], x=X, order="V")


def test_slopes_refuse():
    with pytest.raises(UnsupportedLayerError, match="no critical point"):
        depth_slopes("softplus")
    with pytest.raises(UnsupportedLayerError, match="does not decay"):
        depth_slopes(lambda z: z + z**3)
    with pytest.raises(UnsupportedLayerError, match="has kinks"):
        depth_slopes("elu")
    with pytest.raises(DomainError, match="both 0"):
        depth_slopes("tanh", lambda_b=0.0, lambda_W=0.0)
