"""Architectures side by side, and trends of inductive bias, against parts and known values."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.stats

import bounds
import gp
import ntk
from bounds.bias_trends import inductive_bias_trend
from bounds.compare import compare_architectures
from bounds.kernel_flow import kernel_flow, kernel_flow_pac_bayes
from bounds.quadratic_form import log_cdf_quadratic_form
from deeplimits import DomainError, ShapeError

N, N_TEST = 40, 30


def rbf(X, Z=None):
    X = np.asarray(X).reshape(len(X), -1)
    Z = X if Z is None else np.asarray(Z).reshape(len(Z), -1)
    return np.exp(-((X[:, None] - Z) ** 2).sum(-1) / 8)


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N + N_TEST, 4))
    y = np.sign(X[:, 0] + 0.3 * X[:, 1])
    return X[:N], y[:N], X[N:], y[N:]


@pytest.fixture(scope="module")
def comparison(task):
    X = np.concatenate([task[0], task[2]])
    net = ntk.mlp(1, "relu", W_std=2**0.5, b_std=0.1)
    kernels = {"relu": net, "rbf": rbf, "pair": (rbf(X), 2 * rbf(X)), "blind": np.eye(N + N_TEST)}
    return compare_architectures(kernels, *task, key=0, eps=0.2, n_samples=4000)


def test_columns_are_those_of_the_parts(task, comparison):
    X, y, Z, w = task
    data = comparison.to_dataset()
    assert list(data.architecture.values) == ["relu", "rbf", "pair", "blind"]
    assert data.attrs["n_test"] == N_TEST
    row = data.sel(architecture="relu")
    net = ntk.mlp(1, "relu", W_std=2**0.5, b_std=0.1)
    # squared loss: the posterior of the process package with the amplitude of largest evidence
    diagonal = float(np.mean(np.diag(net.nngp(X))))
    a = float(row.amplitude)
    post = gp.GP(lambda p, q=None: a * net.nngp(p, q), noise=a * 0.01 * diagonal).condition(X, y)
    mean, cov = np.asarray(post.mean(Z)).ravel(), np.asarray(post.cov(Z))
    info = bounds.inductive_bias(mean, cov, w, 0.2)
    assert float(row.bits) == pytest.approx(info.bits, rel=1e-8)  # two ways to solve
    assert float(row.mse) == pytest.approx(np.mean((mean - w) ** 2), rel=1e-9)
    assert float(row.error) == np.mean(np.sign(mean) != w)
    for factor in (0.8, 1.25):  # the amplitude is the best
        b = a * factor
        other = gp.GP(lambda p, q=None, b=b: b * net.nngp(p, q), noise=b * 0.01 * diagonal)
        assert other.condition(X, y).log_evidence < post.log_evidence
    # zero-one loss and the certificates
    K = np.asarray(net.nngp(np.concatenate([X, Z])))
    zero_one = bounds.inductive_bias_zero_one(K, np.concatenate([y, w]), N)
    assert float(row.bits_zero_one) == pytest.approx(zero_one.bits, rel=1e-9)
    flow = kernel_flow_pac_bayes(net.ntk(X), y, *_grid())
    assert float(row.certified_flow) == pytest.approx(float(flow), rel=1e-9)
    assert (float(row.flow_time), float(row.flow_scale)) == (
        flow.terms["time"],
        flow.terms["scale"],
    )
    ep = bounds.pac_bayes_realizable(float(row.log_evidence), N)
    assert float(row.evidence_ep) == pytest.approx(float(ep), rel=1e-12)
    # sampled and propagated evidence agree (at 4000 samples of 40 points), and so do the risks
    assert float(row.certified_evidence) == pytest.approx(float(ep), abs=0.02)
    parts = comparison.records["relu"]
    assert float(row.certified) == float(bounds.best([parts["evidence"], parts["flow"]]))
    assert parts["best"].rigor == "theorem"


def _grid():
    from bounds.compare import SCALES, TIMES

    return TIMES, SCALES


def test_order_of_architectures(comparison):
    values = comparison.values
    assert (values["certified"] >= np.minimum(values["flow_error"], 1)).all()
    # a Gram given directly is the callable that made it; its tangent Gram may differ
    for column in ("bits", "bits_zero_one", "error"):
        assert values[column][2] == pytest.approx(values[column][1], rel=1e-10)
    assert values["flow_time"][2] <= values["flow_time"][1]
    # a kernel that knows nothing of other points: coin flips, no certificate, one scale
    assert values["bits_zero_one"][3] == pytest.approx(comparison.coin_bits, rel=1e-9)
    assert values["certified_evidence"][3] == pytest.approx(1 - 0.5 * 0.05 ** (1 / N), rel=1e-9)
    assert values["certified"][3] > 0.5 > values["certified_evidence"][0]
    assert values["amplitude"][3] == pytest.approx(1 / 1.01, rel=1e-12)
    law = scipy.stats.ncx2(N_TEST, N_TEST * 1.01)
    assert values["bits"][3] == pytest.approx(
        -law.logcdf(0.2 * N_TEST * 1.01) / np.log(2), rel=1e-6
    )


def test_convolutional_network_on_images(task):
    """A network of neural-tangents gives what its Grams give."""
    stax = ntk.neural_tangents().stax
    net = ntk.from_neural_tangents(
        stax.serial(
            stax.Conv(1, (2, 2), padding="SAME"), stax.Relu(), stax.Flatten(), stax.Dense(1)
        )
    )
    X, y, Z, w = task
    images = [a.reshape(len(a), 2, 2, 1) for a in (X, Z)]
    both = np.concatenate(images)
    kernels = {"network": net, "Grams": (np.asarray(net.nngp(both)), np.asarray(net.ntk(both)))}
    found = compare_architectures(kernels, images[0], y, images[1], w, key=0, n_samples=100)
    for name, values in found.values.items():
        assert values[0] == pytest.approx(values[1], rel=1e-9), name  # rounding of two programs
    assert found.values["flow_error"][0] < float(found.records["network"]["flow"]) < 1


def test_linearised_finite_network(task):
    """Its hypotheses are the Gaussian law of the tangent kernel at its weights."""
    X, y, Z, w = task
    net = ntk.mlp(1, "relu", W_std=2**0.5, b_std=0.1, width=64)
    params = net.init_fn(0, X.shape)[1]
    tangent = lambda a, b=None: ntk.empirical_ntk(net, params, a, b)  # noqa: E731
    found = compare_architectures({"finite": tangent}, X, y, Z, w, key=0, eps=0.2, n_samples=100)
    a, K = float(found.values["amplitude"][0]), np.asarray(tangent(X))
    noise = a * 0.01 * np.mean(np.diag(K))
    post = gp.GP(lambda p, q=None: a * tangent(p, q), noise=noise).condition(X, y)
    info = bounds.inductive_bias(np.ravel(post.mean(Z)), np.asarray(post.cov(Z)), w, 0.2)
    assert found.values["bits"][0] == pytest.approx(info.bits, rel=1e-8)  # two ways to solve


def test_table_and_plots(comparison):
    lines = comparison.table().splitlines()
    assert len(lines) == 6
    assert lines[2].startswith("| relu | ")
    assert len({line.count("|") for line in lines}) == 1
    for ax in (comparison.plot(), comparison.plot_bits()):
        assert [t.get_text() for t in ax.get_yticklabels()] == ["relu", "rbf", "pair", "blind"]
        plt.close(ax.figure)


def test_trends():
    """Published toy values: means over ten targets with their standard errors."""
    dimension = inductive_bias_trend("dimension", [3, 4, 8, 12], key=0)
    known = np.array([0.26, 7.89, 108.6, 142.8]), np.array([0.13, 0.64, 2.4, 2.1])
    z = (dimension.mean - known[0]) / np.hypot(dimension.stderr, known[1])
    assert np.abs(z).max() < 3.5
    assert (np.diff(dimension.mean) > 0).all()
    n = inductive_bias_trend("n", [2, 10, 40, 80], key=1)
    z = (n.mean - [35.3, 24.8, 4.2, 0.04]) / np.maximum(2**0.5 * n.stderr, 0.05)
    assert np.abs(z).max() < 3.5  # the errors of the known values are as large as ours
    assert (np.diff(n.mean) < 0).all()
    eps = inductive_bias_trend("eps", [0.5, 0.1, 0.02, 0.005], key=2)
    assert (np.diff(eps.nats, axis=0) >= 0).all()  # for each target: it is a distribution function
    known = np.array([0, 2.44, 21.0, 53.5])
    assert np.abs((eps.mean - known) / np.maximum(2**0.5 * eps.stderr, 0.05)).max() < 3.5
    data = n.to_dataset()
    np.testing.assert_allclose(data.bits, n.mean / np.log(2))
    assert data.attrs["dimension"] == 4
    for trend in (dimension, eps):
        ax = trend.plot()
        assert ax.get_ylabel() == "inductive bias (bits)"
        plt.close(ax.figure)


def test_trend_of_a_kernel_is_that_of_its_posterior():
    got = inductive_bias_trend("n_test", [100], key=3, kernel=lambda X: X @ X.T + 1)
    # five directions: after 30 noise-free points nothing is left to know
    np.testing.assert_array_less(got.nats, 1e-6)


def test_law_of_the_loss_of_finite_networks():
    """The tangent-kernel ensemble of gp.Ensemble: its law of the loss, and one that is sampled."""
    rng = np.random.default_rng(4)
    X = rng.normal(size=(10 + 20, 4))
    y = np.sin(X[:, 0] + X[:, 1])
    net = ntk.mlp(1, "relu", W_std=2**0.5, b_std=0.0)
    K, T = np.asarray(net.nngp(X)), np.asarray(net.ntk(X))
    A = np.linalg.solve(T[:10, :10], T[:10, 10:]).T
    cross = A @ K[:10, 10:]
    cov = K[10:, 10:] + A @ K[:10, :10] @ A.T - cross - cross.T
    ensemble = gp.Ensemble(net, learning_rate=0.1).train(X[:10], y[:10], times=[np.inf])
    np.testing.assert_allclose(np.ravel(ensemble.mean(X[10:])), A @ y[:10], rtol=1e-6)
    given = np.reshape(ensemble.cov(X[10:]), (20, 20))
    np.testing.assert_allclose(given, cov, rtol=1e-5, atol=1e-6 * cov.max())
    lam, basis = np.linalg.eigh((cov + cov.T) / 2)
    r2 = (basis.T @ (A @ y[:10] - y[10:])) ** 2
    mean = (lam.sum() + r2.sum()) / 20
    eps = mean * np.array([0.3, 1.0, 2.0])
    draws = A @ y[:10] + rng.normal(size=(20_000, 20)) * np.sqrt(np.maximum(lam, 0)) @ basis.T
    share = ((draws - y[10:]) ** 2).mean(1)[:, None] <= eps
    exact = np.exp(log_cdf_quadratic_form(20 * eps, np.maximum(lam, 0), r2))
    z = (share.mean(0) - exact) / np.sqrt(exact * (1 - exact) / len(draws))
    assert np.abs(z).max() < 3.5


def test_flow_bound_holds_over_draws():
    """Violations over data sets, with labels that are wrong by chance, against delta."""
    rng = np.random.default_rng(5)
    delta, trials, failures, values = 0.2, 60, 0, []
    for _ in range(trials):
        X = rng.normal(size=(30 + 500, 3))
        y = np.sign(X[:, 0]) * np.where(rng.random(len(X)) < 0.1, -1, 1)
        K = rbf(X)
        times, scales = np.logspace(-1, 2, 6), (1.0, 3.0)
        bound = kernel_flow_pac_bayes(K[:30, :30], y[:30], times, scales, delta)
        at = bound.terms["time"], bound.terms["scale"]
        flow = kernel_flow(K[:30, :30], y[:30])
        failures += flow.gibbs_error(K[30:, :30], np.ones(500), y[30:], *at) > float(bound)
        values.append(float(bound))
    assert failures <= scipy.stats.binom.ppf(0.99, trials, delta)
    assert np.mean(values) < 0.8  # not for being empty


def test_bad_input(task):
    X, y, Z, w = task
    call = {"key": 0}
    with pytest.raises(DomainError, match="kernels must map names"):
        compare_architectures({}, X, y, Z, w, **call)
    with pytest.raises(ShapeError, match=r"y must have shape \(40,\)"):
        compare_architectures({"rbf": rbf}, X, y[1:], Z, w, **call)
    with pytest.raises(DomainError, match=r"y_test must hold labels"):
        compare_architectures({"rbf": rbf}, X, y, Z, w + 1, **call)
    with pytest.raises(ShapeError, match="X and X_test must agree"):
        compare_architectures({"rbf": rbf}, X, y, Z[:, :2], w, **call)
    with pytest.raises(ShapeError, match=r"kernels\['small'\] must give a \(70, 70\) Gram"):
        compare_architectures({"small": np.eye(3)}, X, y, Z, w, **call)
    with pytest.raises(DomainError, match="eps must be > 0"):
        compare_architectures({"rbf": rbf}, X, y, Z, w, eps=0.0, **call)
    with pytest.raises(DomainError, match="noise must be > 0"):
        compare_architectures({"rbf": rbf}, X, y, Z, w, noise=0.0, **call)
    with pytest.raises(DomainError, match="axis must be one of"):
        inductive_bias_trend("width", [1], key=0)
    with pytest.raises(DomainError, match="dimension must be >= 1"):
        inductive_bias_trend("dimension", [0], key=0)
    with pytest.raises(DomainError, match="eps must be > 0"):
        inductive_bias_trend("eps", [0.0], key=0)
    with pytest.raises(DomainError, match="targets must be >= 2"):
        inductive_bias_trend("n", [3], key=0, targets=1)
    with pytest.raises(DomainError, match="kernel must be a network or a callable"):
        inductive_bias_trend("n", [3], key=0, kernel=3.0)
    with pytest.raises(DomainError, match="jitter must be > 0"):
        inductive_bias_trend("n", [3], key=0, jitter=0.0)
