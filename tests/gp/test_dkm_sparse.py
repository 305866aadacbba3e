import dataclasses

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from deeplimits import DomainError, ShapeError
from gp.dkm import DKM
from gp.dkm_elbo import (
    Setting,
    expected_log_likelihood,
    minibatch_bound,
    posterior_factors,
    site_slopes,
)
from gp.dkm_kernels import gram_kernel
from gp.dkm_sparse import SparseDKM

rng = np.random.default_rng(0)
X = rng.uniform(-2, 2, 40)[:, None]
Y = np.sin(3 * X[:, 0]) + 0.1 * rng.standard_normal(40)
XS = np.linspace(-2, 2, 7)[:, None]
#: Six points far enough apart for a kernel matrix without jitter.
FAR = 1.5 * rng.normal(size=(6, 3))
FAR_Y = rng.normal(size=(6, 2))
SPARSE = SparseDKM(8).fit(X, Y, tol=1e-4)


def test_all_points_inducing_is_the_full_machine():
    full = DKM(nu=2.0, jitter=0.0).fit(FAR, FAR_Y, tol=1e-8)
    sparse = SparseDKM(FAR, nu=2.0, jitter=0.0).fit(FAR, FAR_Y, learn=(), tol=1e-8)
    assert sparse.elbo == pytest.approx(full.objective, rel=1e-10)  # condition 1e3 times rounding
    points = rng.normal(size=(3, 3))
    # two optimisers stop at slopes of 1e-8 over curvatures of order 0.1
    np.testing.assert_allclose(sparse.grams, full.grams, atol=1e-6)
    law, other = sparse.predict(points, noise=True), full.predict(points, noise=True)
    np.testing.assert_allclose(law.mean, other.mean, atol=1e-6)
    np.testing.assert_allclose(law.cov, other.cov, atol=1e-6)


def test_bound_is_titsias_bound():
    """Against the textbook form with n x n matrices, for the learned inducing points."""
    z, s = SPARSE.inducing, SPARSE
    top = np.linalg.inv(s.top @ s.top.T)
    G0 = np.concatenate([z, X]) @ np.concatenate([z, X]).T
    G = G0
    for prior, root, extra in zip(s.tower.prior, s.tower.root, s.jitter[:-1], strict=True):
        g = np.diagonal(G)
        K = np.exp(G - 0.5 * (g[:, None] + g)) + extra * np.eye(len(G))
        K[:8, 8:] = K[:8, 8:]
        lift = np.linalg.solve(prior @ prior.T, K[:8])
        inner = prior @ root @ root.T @ prior.T
        G = K + lift.T @ (inner - prior @ prior.T) @ lift
    g = np.diagonal(G)
    K = np.exp(G - 0.5 * (g[:, None] + g))
    Q = K[8:, :8] @ top @ K[:8, 8:]
    want = scipy.stats.multivariate_normal.logpdf(Y, np.zeros(40), Q + 0.05 * np.eye(40))
    want -= np.sum(np.diagonal(K)[8:] - np.diagonal(Q)) / (2 * 0.05)
    want -= 5.0 * np.sum(s.tower.penalties)
    # kernel matrices of 8 points in one dimension: condition up to 1e9, so 1e-7 is left
    assert s.elbo == pytest.approx(want, abs=1e-5)
    law = s.predict(XS)
    np.testing.assert_allclose(s.mean(XS), law.mean, atol=1e-7)
    np.testing.assert_allclose(s.var(XS), law.var, atol=1e-7)


def _params(fitted):
    roots = np.concatenate([pack(root) for root in fitted.tower.root])
    return {"inducing": fitted.inducing, "roots": roots, "log_noise": np.log(fitted.noise)}


def pack(root):
    logs = root.copy()
    np.fill_diagonal(logs, np.log(np.diagonal(root)))
    return logs[np.tril_indices(len(root))]


DATA = {"x": X, "y": Y[:, None], "nu": np.array([5.0, 5.0]), "jitter": SPARSE.jitter}
DATA = {name: jnp.asarray(value) for name, value in DATA.items()}
SETTING = Setting(gram_kernel("rbf"), "kl", 2, "gaussian", 1)


def test_natural_gradients_reach_the_optimal_q():
    """All points in the batch: every estimate is the collapsed bound of the layers a step ago."""
    options = {"batch": 40, "steps": 300, "learning_rate": 0.01, "learn": ()}
    fitted = SparseDKM(SPARSE.inducing).fit(X, Y, **options)
    value, mean, root = posterior_factors(SETTING, _params(fitted), DATA)
    # the last steps are 100 times shorter than the first: Adam stands still
    assert fitted.trajectory[-1] == pytest.approx(float(value), abs=1e-3)
    np.testing.assert_allclose(fitted.posterior_mean, mean, atol=1e-3)
    covariance = fitted.posterior_root @ fitted.posterior_root.T
    np.testing.assert_allclose(covariance, root @ root.T, atol=1e-3)
    assert fitted.trajectory[-1] > fitted.trajectory[2] + 0.1
    assert fitted.elbo < SPARSE.elbo


def test_minibatches_are_unbiased():
    """The estimates of a partition into batches average to the bound, which is the best q's."""
    q = {"precision": np.linalg.inv(SPARSE.posterior_root @ SPARSE.posterior_root.T)}
    q["shift"] = q["precision"] @ SPARSE.posterior_mean
    bound = jax.jit(
        lambda rows: minibatch_bound(SETTING, _params(SPARSE), q, DATA, rows, jax.random.key(0))[0]
    )
    parts = np.random.default_rng(1).permutation(40).reshape(4, 10)
    values = [float(bound(part)) for part in parts]
    # inverses of matrices of condition up to 1e9
    assert np.mean(values) == pytest.approx(SPARSE.elbo, abs=1e-4)
    assert np.std(values) > 0.1


def hazard(t):
    """The derivative of log Phi."""
    return np.exp(scipy.stats.norm.logpdf(t) - scipy.special.log_ndtr(t))


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_bernoulli_expectation(sign):
    mean, variance = np.array([[0.3], [-2.0]]), np.array([0.5, 4.0])
    args = (
        "bernoulli",
        jnp.asarray(mean),
        jnp.asarray(variance),
        sign * jnp.ones((2, 1)),
        1.0,
        None,
    )
    value = np.asarray(expected_log_likelihood(*args))
    g, w = (np.asarray(v) for v in site_slopes(*args))
    for i in range(2):
        law = scipy.stats.norm(mean[i, 0], np.sqrt(variance[i]))

        def average(f, law=law):
            return scipy.integrate.quad(lambda t: law.pdf(t) * f(sign * t), -25, 25, limit=200)[0]

        # quad's own tolerance, 1.5e-8
        assert value[i] == pytest.approx(average(scipy.special.log_ndtr), abs=1e-7)
        assert g[i, 0] == pytest.approx(sign * average(hazard), abs=1e-7)
        assert w[i] == pytest.approx(average(lambda t: hazard(t) * (t + hazard(t))), abs=1e-7)


def test_softmax_expectation():
    r = np.random.default_rng(3)
    mean, variance = jnp.asarray(r.normal(size=(1, 3))), jnp.array([0.7])
    y = jnp.array([[0.0, 1.0, 0.0]])
    normal = jnp.asarray(r.normal(size=(20000, 1, 3)))
    f = np.asarray(mean) + np.sqrt(0.7) * r.normal(size=(100_000, 3))
    logs = f[:, 1] - scipy.special.logsumexp(f, axis=1)
    value = expected_log_likelihood("softmax", mean, variance, y, jnp.array(1.0), normal)
    assert abs(float(value[0]) - logs.mean()) < 4 * logs.std() * (1e-5 + 5e-5) ** 0.5
    g, w = site_slopes("softmax", mean, variance, y, jnp.array(1.0), normal)
    p = scipy.special.softmax(f, axis=1)
    bound = 4 * (1e-5 + 5e-5) ** 0.5  # four standard errors of numbers in [0, 1] with sd < 1
    np.testing.assert_allclose(g[0], [0, 1, 0] - p.mean(axis=0), atol=bound)
    assert float(w[0]) == pytest.approx(np.mean(p * (1 - p)), abs=bound)


def test_probabilities():
    """Probit: the Gaussian average of Phi, for any posterior of f."""
    two = dataclasses.replace(SPARSE, model=SparseDKM(8, likelihood="bernoulli"), classes=2)
    p, mean, variance = two.predict_proba(XS), two.mean(XS), two.var(XS)
    for i in range(7):
        law = scipy.stats.norm(mean[i], np.sqrt(variance[i]))
        want = scipy.integrate.quad(
            lambda t, law=law: law.pdf(t) * scipy.special.ndtr(t), -9, 9, points=[mean[i]]
        )[0]
        assert p[i, 1] == pytest.approx(want, abs=1e-7)  # quad's tolerance
    np.testing.assert_allclose(p.sum(axis=1), 1)
    with pytest.raises(DomainError, match="no Gaussian noise"):
        two.predict(XS, noise=True)


def test_softmax_with_stochastic_kernel_regularisation():
    """In training random Gram matrices; afterwards G + 0.1 I, the published recipe."""
    labels = np.digitize(Y, [-0.5, 0.5])
    model = SparseDKM(8, likelihood="softmax", columns=8)
    many = model.fit(X, labels, steps=200, batch=20, learning_rate=0.02)
    p = many.predict_proba(XS, draws=64)
    assert p.shape == (7, 3)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    right = np.mean(many.predict_proba(X).argmax(axis=1) == labels)
    assert right >= 0.55  # the largest class holds 40 %
    half = many.tower.prior[0] @ many.tower.root[0]
    np.testing.assert_allclose(many.grams[0], half @ half.T, atol=1e-8)  # jitter 1e-9
    assert np.linalg.eigvalsh(many.grams[0])[0] > 0.1 - 1e-9


def test_records():
    leaves, tree = jax.tree.flatten(SPARSE)
    again = jax.tree.unflatten(tree, leaves)
    np.testing.assert_array_equal(again.mean(XS), SPARSE.mean(XS))
    assert SPARSE.objective == SPARSE.elbo
    SPARSE.plot(plt.figure().gca())
    plt.close("all")
    assert SPARSE.mean(XS).shape == (7,)


@pytest.mark.parametrize(
    ("settings", "x", "y", "options", "error", "match"),
    [
        ({"inducing": 0}, X, Y, {}, DomainError, "inducing must be >= 1"),
        ({"inducing": 50}, X, Y, {}, DomainError, "at most the number of points"),
        ({"inducing": np.ones((3, 2))}, X, Y, {}, ShapeError, "1 features like X"),
        ({"likelihood": "poisson"}, X, Y, {}, DomainError, "likelihood must be one of"),
        ({"noise": 0.0}, X, Y, {}, DomainError, "noise must be > 0"),
        ({"nu": 0.0}, X, Y, {}, DomainError, "unregularized"),
        ({"columns": -1}, X, Y, {}, DomainError, "columns must be >= 0"),
        ({"columns": 2}, X, Y, {}, DomainError, "needs batch"),
        ({}, X, Y[:3], {}, ShapeError, "one row per row"),
        ({}, X[:, 0], Y, {}, ShapeError, "must have shape"),
        ({}, X, Y, {"batch": 41}, DomainError, "batch must be at most"),
        ({}, X, Y, {"learn": ("kernel",)}, DomainError, "learn may hold"),
        ({"likelihood": "bernoulli"}, X, Y, {}, DomainError, "labels must be integers"),
        ({"likelihood": "bernoulli"}, X, np.arange(40), {}, DomainError, "must be 0 or 1"),
        ({"likelihood": "softmax"}, X, np.zeros(40, int), {}, DomainError, "two classes"),
        ({"likelihood": "softmax"}, X, np.zeros((40, 2), int), {}, ShapeError, "labels must have"),
        (
            {"likelihood": "softmax"}, X, np.arange(40) % 3, {"learn": ("noise",)},
            DomainError, "Gaussian likelihood only",
        ),
    ],
)  # fmt: skip
def test_bad_input(settings, x, y, options, error, match):
    with pytest.raises(error, match=match):
        SparseDKM(**{"inducing": 8, **settings}).fit(x, y, **options)


def test_other_refusals():
    with pytest.raises(DomainError, match="got a regression"):
        SPARSE.predict_proba(XS)
    with pytest.raises(ShapeError, match="1 features"):
        SPARSE.mean(np.ones((2, 3)))
