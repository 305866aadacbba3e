"""Interval growth: expectations against random networks, bounds against sampled inputs."""

import numpy as np
import pytest
import scipy.optimize

import bounds
from deeplimits import DomainError, ShapeError

DRAWS = {
    "gaussian": lambda rng, shape: rng.normal(size=shape),
    "uniform": lambda rng, shape: rng.uniform(-(3**0.5), 3**0.5, size=shape),
    "sign": lambda rng, shape: rng.choice([-1.0, 1.0], size=shape),
}


def mean_widths(rng, fan_in, sigma, law, slope, networks):
    """Mean width after every layer, relative to the input box, ``(networks, L)``."""
    sizes = [*fan_in, fan_in[-1]]
    rows = []
    for _ in range(networks):
        W = [s * DRAWS[law](rng, (o, i)) for s, i, o in zip(sigma, sizes, sizes[1:], strict=False)]
        x = rng.normal(size=fan_in[0])
        boxes = bounds.ibp_bounds(W, x - 0.05, x + 0.05, slope=slope)
        rows.append([(high - low).mean() / 0.1 for low, high in boxes])
    return np.array(rows)


@pytest.mark.parametrize(("law", "slope"), [("gaussian", 0.0), ("uniform", 0.2), ("sign", 0.0)])
@pytest.mark.parametrize("scheme", ["kaiming", "ibp"])
def test_growth_of_random_networks(law, slope, scheme):
    fan_in = (30, 64, 24, 48)
    theory = bounds.ibp_growth(fan_in, scheme, law=law, slope=slope)
    sigma = theory.sigma_w.values
    widths = mean_widths(np.random.default_rng(0), fan_in, sigma, law, slope, 400)
    z = (widths.mean(0) - theory.width) / (widths.std(0, ddof=1) / 20)
    # with signs the first layer is deterministic: its z is a rounding error over another
    first = 1 if law == "sign" else 0
    assert np.abs(z[first:]).max() < 4
    np.testing.assert_allclose(widths[:, 0].mean(), theory.width[0], rtol=0.02)
    critical = theory.variance if scheme == "kaiming" else theory.growth
    np.testing.assert_allclose(critical[1:], 1, rtol=1e-12)
    np.testing.assert_allclose(theory.width, np.cumprod(theory.growth), rtol=1e-12)


def test_published_growth():
    for n, published in ((64, 4.51), (256, 9.03), (1024, 18.05)):
        first, later = bounds.ibp_growth([n, n]).growth.values
        assert later == pytest.approx(published, abs=6e-3)  # two decimals
        assert first == pytest.approx(2 * later, rel=1e-14)
        assert later == pytest.approx(np.sqrt(n / np.pi), rel=1e-14)
    # convolution without padding: 3 x 3 kernels on 16 channels, sampled
    rng = np.random.default_rng(1)
    conv = bounds.ibp_growth([27, 9 * 16])
    images, ratios = rng.normal(size=(6, 6, 3)), []
    for _ in range(200):
        low, high = images - 0.1, images + 0.1
        for i, (cin, cout) in enumerate(((3, 16), (16, 8))):
            W = conv.sigma_w.values[i] * rng.normal(size=(3, 3, cin, cout))
            if i:
                low, high = np.maximum(low, 0), np.maximum(high, 0)
            patches = [
                np.lib.stride_tricks.sliding_window_view(a, (3, 3), axis=(0, 1))
                for a in (low, high)
            ]
            c, r = (patches[0] + patches[1]) / 2, (patches[1] - patches[0]) / 2
            centre, radius = (
                np.einsum("xycij,ijco->xyo", a, b) for a, b in ((c, W), (r, np.abs(W)))
            )
            low, high = centre - radius, centre + radius
        ratios.append((high - low).mean() / 0.2)
    z = (np.mean(ratios) - conv.width.values[-1]) / (np.std(ratios, ddof=1) / np.sqrt(200))
    assert abs(z) < 4


def test_residual_branches():
    n, rng = 100, np.random.default_rng(2)
    theory = bounds.ibp_growth([n] * 5, skip=2, sigma_w=[0.1, 0.05, 0.05, 0.05, 0.05])
    rows = []
    for _ in range(300):
        W = [s * rng.normal(size=(n, n)) for s in theory.sigma_w.values]
        x = rng.normal(size=n)
        low, high = bounds.ibp_bounds(W[:1], x - 0.05, x + 0.05)[0]
        widths = [(high - low).mean()]
        for pair in (W[1:3], W[3:5]):
            inner, outer = bounds.ibp_bounds(pair, np.maximum(low, 0), np.maximum(high, 0))
            low, high = low + outer[0], high + outer[1]
            widths += [(inner[1] - inner[0]).mean(), (high - low).mean()]
        rows.append(np.array(widths) / 0.1)
    rows = np.array(rows)
    stderr = rows.std(0, ddof=1) / np.sqrt(300)
    z = (rows.mean(0) - theory.width.values) / stderr
    assert np.abs(z[:3]).max() < 4  # the first branch is exact
    # the second branch sees a sum that is symmetric up to terms of relative order 1/n
    assert np.all(np.abs(rows.mean(0) - theory.width.values) < 4 * stderr + theory.width.values / n)


def test_bounds_hold():
    rng = np.random.default_rng(3)
    W = [rng.normal(size=(12, 5)), rng.normal(size=(7, 12)), rng.normal(size=(3, 7))]
    b = [rng.normal(size=len(w)) for w in W]
    low, high = np.full((2, 5), -0.3), np.array([[0.1], [0.4]]) * np.ones(5)
    boxes = bounds.ibp_bounds(W, low, high, biases=b, slope=0.1)
    x = rng.uniform(low, high, size=(2000, 2, 5))
    for w, beta, (lower, upper) in zip(W, b, boxes, strict=True):
        x = x @ w.T + beta
        assert ((lower <= x) & (x <= upper)).all()
        x = np.where(x > 0, x, 0.1 * x)
    # the first layer is exact: a corner of the box attains each bound
    corner = np.where(W[0][0] > 0, high[1], low[1])
    assert W[0][0] @ corner + b[0][0] == pytest.approx(boxes[0][1][1, 0], rel=1e-14)


@pytest.mark.parametrize("law", list(DRAWS))
def test_incompatibility(law):
    W_std, fan_in = np.geomspace(0.01, 4, 60), [64, 256, 1024]
    data = bounds.ibp_tradeoff(fan_in, W_std, law=law)
    for i, n in enumerate(fan_in):
        layers = bounds.ibp_growth([n, n], W_std[7] / np.sqrt(n), law=law)
        assert float(layers.growth[1]) == pytest.approx(float(data.growth[i, 7]), rel=1e-13)
        assert float(layers.variance[1]) == pytest.approx(float(data.variance[i, 7]), rel=1e-13)
        at = scipy.optimize.brentq(
            lambda w, i=i: np.interp(np.log(w), np.log(W_std), np.log(data.growth[i])), 0.011, 3.9,
            xtol=1e-14,
        )  # fmt: skip
        assert at == pytest.approx(float(data.W_std_ibp[i]), rel=1e-10)  # a straight line
        assert float(data.variance_ibp[i]) == pytest.approx(at**2 / 2, rel=1e-9)
    if law == "gaussian":
        np.testing.assert_allclose(data.variance_ibp, np.pi / np.array(fan_in), rtol=1e-14)
    ax = bounds.plot_incompatibility(data)
    assert len(ax.get_legend().get_texts()) == 4


def test_bad_input():
    W = [np.eye(3)]
    with pytest.raises(DomainError, match="fan_in must be whole numbers >= 1"):
        bounds.ibp_growth([0, 3])
    with pytest.raises(DomainError, match="law must be one of"):
        bounds.ibp_growth([3], law="cauchy")
    with pytest.raises(DomainError, match="sigma_w must be one of"):
        bounds.ibp_growth([3], "xavier")
    with pytest.raises(DomainError, match="sigma_w must be > 0"):
        bounds.ibp_growth([3], -1.0)
    with pytest.raises(ShapeError, match="sigma_w must be one number or 3"):
        bounds.ibp_growth([3, 3, 3], [1.0, 2.0])
    with pytest.raises(DomainError, match="slope must be >= 0 and <= 1"):
        bounds.ibp_growth([3], slope=2.0)
    with pytest.raises(ShapeError, match="full branches of 2, got 4 layers"):
        bounds.ibp_growth([3] * 4, skip=2)
    with pytest.raises(DomainError, match="W_std must be > 0"):
        bounds.ibp_tradeoff([3], [0.0])
    with pytest.raises(DomainError, match="lower must not exceed upper"):
        bounds.ibp_bounds(W, np.ones(3), np.zeros(3))
    with pytest.raises(ShapeError, match="lower and upper must agree"):
        bounds.ibp_bounds(W, np.ones(3), np.ones(2))
    with pytest.raises(ShapeError, match=r"weights\[0\] must have shape \(out, 2\)"):
        bounds.ibp_bounds(W, np.ones(2), np.ones(2))
    with pytest.raises(ShapeError, match="weights must hold at least one matrix"):
        bounds.ibp_bounds([], np.ones(2), np.ones(2))
    with pytest.raises(DomainError, match="upper must be finite"):
        bounds.ibp_bounds(W, np.ones(3), np.full(3, np.inf))
