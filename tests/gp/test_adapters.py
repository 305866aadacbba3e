import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import ntk
from deeplimits import DomainError, datasets
from deeplimits.errors import MissingDependencyError
from gp.adapters import GPClassifier, GPRegressor, to_gpjax, to_tinygp
from gp.process import GP


def rbf(x, z=None):
    return RBF(1.0)(x, z)


def jax_rbf(x, z=None):
    z = x if z is None else z
    return jnp.exp(-0.5 * jnp.sum((x[:, None] - z[None]) ** 2, axis=-1))


def data(n=40, outputs=None, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    y = 3 + 10 * np.sin(x[:, 0]) + rng.normal(size=n)
    return x, y if outputs is None else np.stack([y, x[:, 1] ** 2], axis=1)


X, Y = data()
XS = data(7, seed=1)[0]
LABELS = np.array(["no", "yes"])[(Y > 3).astype(int)]
NET = ntk.mlp(1, "erf", W_std=1.5, b_std=0.3)


# --- scikit-learn


@pytest.mark.parametrize("estimator", [GPRegressor(rbf), GPClassifier(rbf)])
@pytest.mark.filterwarnings("ignore")  # the checks try everything that must warn
def test_scikit_learns_own_checks(estimator):
    results = check_estimator(estimator, on_fail=None, on_skip=None)
    assert len(results) > 50
    bad = [r["check_name"] for r in results if r["status"] not in ("passed", "skipped")]
    assert bad == []
    skipped = [r["check_name"] for r in results if r["status"] == "skipped"]
    assert skipped in ([], ["check_array_api_input"])  # runs only with SCIPY_ARRAY_API set


@pytest.mark.parametrize("outputs", [None, 2])
def test_regressor_values(outputs):
    x, y = data(outputs=outputs)
    ours = GPRegressor(rbf, noise=0.1).fit(x, y)
    rival = GaussianProcessRegressor(RBF(1.0), alpha=0.1, optimizer=None, normalize_y=True)
    rival.fit(x, y)
    # the same formulas; condition number 1e3
    np.testing.assert_allclose(ours.predict(XS), rival.predict(XS), rtol=1e-10)
    for option in ("return_std", "return_cov"):
        found, expected = ours.predict(XS, **{option: True}), rival.predict(XS, **{option: True})
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-10)
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-9, atol=1e-10)
    assert ours.log_marginal_likelihood_value_ == pytest.approx(
        rival.log_marginal_likelihood_value_, rel=1e-10
    )
    assert ours.score(x, y) == pytest.approx(rival.score(x, y), rel=1e-10)
    raw = GPRegressor(rbf, noise=0.1, normalize_y=False).fit(x, y)
    np.testing.assert_allclose(
        raw.predict(XS), GP(rbf, noise=0.1).condition(x, y).mean(XS), rtol=1e-12
    )


def test_protocol():
    pipeline = make_pipeline(StandardScaler(), GPRegressor(rbf, noise=0.1))
    assert cross_val_score(pipeline, X, Y, cv=3).min() > 0.5
    grid = {"noise": [0.01, 100.0], "kernel": [rbf, jax_rbf]}
    search = GridSearchCV(GPRegressor(), grid, cv=2).fit(X, Y)
    assert search.best_params_["noise"] == 0.01
    assert search.predict(XS).shape == (7,)
    assert is_regressor(GPRegressor())
    assert is_classifier(GPClassifier())
    assert "noise=0.3" in repr(GPRegressor(noise=0.3))
    assert GPRegressor(noise=0.3).get_params()["noise"] == 0.3
    search = GridSearchCV(GPClassifier(rbf), {"noise": [0.1, 1.0]}, cv=2, scoring="neg_log_loss")
    assert search.fit(X, LABELS).best_score_ > np.log(0.5)


def test_networks_are_cloned_and_pickled():
    fitted = GPRegressor(NET.nngp, noise=0.1).fit(X, Y)
    copy = clone(fitted)
    assert not hasattr(copy, "posterior_")
    assert copy.noise == 0.1
    np.testing.assert_array_equal(copy.fit(X, Y).predict(XS), fitted.predict(XS))
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict(XS), fitted.predict(XS))


def test_optimize_climbs_the_evidence():
    plain = GPRegressor(rbf, noise=0.5).fit(X, Y)
    best = GPRegressor(rbf, noise=0.5, optimize=True).fit(X, Y)
    assert best.log_marginal_likelihood_value_ > plain.log_marginal_likelihood_value_ + 1
    assert best.model_.noise < 0.5
    assert best.get_params()["noise"] == 0.5  # the constructor's arguments stay


def test_default_network():
    assert GPRegressor().fit(X, Y).score(X, Y) > 0.8


def test_classifier_formula():
    three = np.digitize(Y, [0.0, 6.0])
    model = GPClassifier(rbf, noise=0.2).fit(X, three)
    onehot = np.eye(3)[three]
    prior = onehot.mean(0)
    post = GP(rbf, noise=0.2).condition(X, onehot - prior)
    # leave-one-out by refitting
    z = np.empty((40, 3))
    for i in range(40):
        rest = np.delete(np.arange(40), i)
        law = GP(rbf, noise=0.2).condition(X[rest], (onehot - prior)[rest])
        law = law.predict(X[i : i + 1], noise=True)
        z[i] = law.mean[0] / law.std[0]

    def loss(beta):
        weights = prior * np.exp(beta * z)
        return -np.mean(np.log((weights * onehot).sum(1) / weights.sum(1)))

    best = scipy.optimize.minimize_scalar(loss, bounds=(0, 50), method="bounded",
                                          options={"xatol": 1e-9})  # fmt: skip
    # the search in log beta stops at 1e-6
    assert 1 / model.temperature_ == pytest.approx(best.x, rel=1e-5)
    assert model.loo_log_loss_ == pytest.approx(best.fun, rel=1e-9)
    logits = post.mean(XS) / np.sqrt(post.var(XS) + 0.2)[:, None] / model.temperature_
    weights = prior * np.exp(logits)
    expected = weights / weights.sum(1, keepdims=True)
    np.testing.assert_allclose(model.predict_proba(XS), expected, rtol=1e-9)
    far = model.predict_proba(np.full((1, 2), 1e3))[0]
    np.testing.assert_allclose(far, prior, rtol=1e-12)  # the kernel underflows to 0
    two = GPClassifier(rbf).fit(X, LABELS)
    p = two.predict_proba(XS)
    np.testing.assert_allclose(two.decision_function(XS), np.log(p[:, 1] / p[:, 0]), rtol=1e-9)
    assert two.score(X, LABELS) > 0.9


def test_probabilities_are_calibrated():
    # labels drawn from known probabilities: p = 1 / (1 + exp(-4 x)); 1500 test points in 5 bins
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1900, 2))
    y = (rng.uniform(size=1900) < 1 / (1 + np.exp(-4 * x[:, 0]))).astype(int)
    model = GPClassifier(rbf, noise=0.3).fit(x[:400], y[:400])
    p, seen = model.predict_proba(x[400:])[:, 1], y[400:]
    loss = -np.mean(np.where(seen == 1, np.log(p), np.log1p(-p)))
    truth = 1 / (1 + np.exp(-4 * x[400:, 0]))
    floor = -np.mean(np.where(seen == 1, np.log(truth), np.log1p(-truth)))
    assert loss < floor + 0.05  # nats; estimated from 400 labels
    # leave-one-out predicts the loss on new data: a mean over 400 terms of size 0.4
    assert abs(model.loo_log_loss_ - loss) < 4 * 0.4 / 400**0.5
    bins = np.digitize(p, [0.2, 0.4, 0.6, 0.8])
    for b in range(5):
        inside = bins == b
        error = p[inside].mean() - seen[inside].mean()
        # 4 standard errors of a frequency, and 0.05 for what 400 labels leave open
        assert abs(error) < 4 * (0.25 / inside.sum()) ** 0.5 + 0.05


@pytest.mark.slow
@pytest.mark.optimized
def test_digits():
    digits = datasets.load("digits")
    x, y = np.asarray(digits.X[:700]).reshape(700, -1), np.asarray(digits.y)[:700]
    x = x / np.linalg.norm(x, axis=1, keepdims=True) * 8
    net = ntk.mlp(2, "relu", W_std=2**0.5, b_std=0.1)
    model = GPClassifier(net.ntk, noise=0.05).fit(x[:500], y[:500])
    assert model.score(x[500:], y[500:]) > 0.9
    raw = np.log(1e-9 + np.clip(model.posterior_.mean(x[500:]) + model.class_prior_, 0, 1))
    calibrated = model.predict_log_proba(x[500:])
    rows = np.arange(200), y[500:]
    assert -calibrated[rows].mean() < 0.35
    assert -calibrated[rows].mean() < -raw[rows].mean()


def test_bad_input():
    with pytest.raises(DomainError, match=r"has the parameters .*, not 'depth'"):
        GPRegressor().set_params(depth=3)
    with pytest.raises(DomainError, match="return_std or return_cov"):
        GPRegressor(rbf).fit(X, Y).predict(XS, return_std=True, return_cov=True)
    with pytest.raises(DomainError, match=r"two classes or more, got 1 class"):
        GPClassifier(rbf).fit(X, np.zeros(40, int))
    with pytest.raises(DomainError, match="noise must be >= 0"):
        GPRegressor(rbf, noise=-1.0).fit(X, Y)
    with pytest.raises(DomainError, match="kernel must be a callable"):
        to_tinygp(3)


def test_no_import_before_use():
    code = (
        "import sys, gp.adapters as a; "
        "assert not {'sklearn', 'tinygp', 'gpjax'} & set(sys.modules); "
        "a.GPRegressor().get_params(); assert 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_packages(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.utils.validation", None)
    with pytest.raises(MissingDependencyError, match=r"needs the package 'sklearn\.utils"):
        GPRegressor(rbf).fit(X, Y)
    monkeypatch.setitem(sys.modules, "tinygp", None)
    monkeypatch.setitem(sys.modules, "gpjax.kernels", None)
    with pytest.raises(MissingDependencyError, match="pip install tinygp"):
        to_tinygp(jnp.dot)
    with pytest.raises(MissingDependencyError, match=r"pip install gpjax"):
        to_gpjax(jnp.dot)


# --- tinygp and GPJax


def test_tinygp():
    tinygp = pytest.importorskip("tinygp")
    for kernel in (NET.nngp, jax_rbf):
        post = GP(kernel, noise=0.1).condition(X, Y)
        rival = tinygp.GaussianProcess(to_tinygp(kernel), X, diag=0.1)
        assert float(rival.log_probability(jnp.asarray(Y))) == pytest.approx(
            post.log_evidence, rel=1e-11
        )
        there = rival.condition(jnp.asarray(Y), XS).gp
        np.testing.assert_allclose(there.loc, post.mean(XS), rtol=1e-9)
        jitter = np.sqrt(np.finfo(np.float64).eps)  # tinygp adds it when it conditions
        np.testing.assert_allclose(there.variance - jitter, post.var(XS), atol=1e-12)
    total = 2.0 * to_tinygp(NET.nngp) + tinygp.kernels.ExpSquared(1.0)
    np.testing.assert_allclose(total(X, XS), 2 * NET.nngp(X, XS) + jax_rbf(X, XS), rtol=1e-12)

    def evidence(kernel):
        return tinygp.GaussianProcess(kernel, X, diag=0.1).log_probability(jnp.asarray(Y))

    slopes = jax.tree.leaves(jax.grad(evidence)(to_tinygp(NET.nngp)))
    assert len(slopes) == len(jax.tree.leaves(NET))
    assert np.isfinite(slopes).all()


def test_gpjax():
    kernels = pytest.importorskip("gpjax.kernels")
    kernel = to_gpjax(NET.nngp)
    assert isinstance(kernel, kernels.AbstractKernel)
    x = jnp.asarray(X)
    # rounding; the diagonal is evaluated as a pair of different inputs there
    np.testing.assert_allclose(kernel.cross_covariance(x, jnp.asarray(XS)), NET.nngp(X, XS),
                               rtol=1e-12)  # fmt: skip
    np.testing.assert_allclose(kernel(x[0], x[1]), NET.nngp(X[:2])[0, 1], rtol=1e-12)


class FakeBase:
    """The least that the base classes of tinygp (fields) and GPJax (none) do."""

    def __init__(self, *fields):
        for name, value in zip(type(self).__annotations__, fields, strict=True):
            setattr(self, name, value)


@pytest.mark.parametrize("kernel", [NET.nngp, jax_rbf])
def test_pairs_without_the_packages(kernel, monkeypatch):
    import types

    import gp.adapters as adapters

    fake = types.SimpleNamespace(kernels=types.SimpleNamespace(Kernel=FakeBase),
                                 AbstractKernel=FakeBase)  # fmt: skip
    monkeypatch.setattr(adapters, "require", lambda *_: fake)
    adapters._tinygp_class.cache_clear()
    try:
        ours = to_tinygp(kernel)
    finally:
        adapters._tinygp_class.cache_clear()
    matrix = np.asarray(kernel(X))
    pairs = jax.vmap(jax.vmap(ours.evaluate, (None, 0)), (0, None))(jnp.asarray(X), jnp.asarray(X))
    # the same recursion in another batch; equal inputs are seen as a pair: angle rounded at 1e-8
    np.testing.assert_allclose(pairs, matrix, rtol=1e-7)
    np.testing.assert_allclose(pairs - np.diag(np.diag(pairs)), matrix - np.diag(np.diag(matrix)),
                               rtol=1e-12)  # fmt: skip
    diagonal = jax.vmap(ours.evaluate_diag)(jnp.asarray(X))
    np.testing.assert_allclose(diagonal, np.diag(matrix), rtol=1e-14)
