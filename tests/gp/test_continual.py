import jax
import numpy as np
import pytest

from deeplimits import DomainError, JitterWarning, NotPositiveDefiniteError, ShapeError
from gp.continual import (
    ContinualScores,
    continual_scores,
    drift_kernel,
    forgetting_noise,
    kl_from_exact,
    location_filter,
    task_mean,
    with_task,
)
from gp.predictive import Gaussian
from gp.process import GP
from gp.stream import stream
from gp.target_kernels import RBF

RNG = np.random.default_rng(0)
MODEL = GP(RBF(0.8), noise=0.05)
TASKS = [(RNG.normal(size=(n, 2)) + j, RNG.normal(size=n)) for j, n in enumerate((6, 9, 4))]
TESTS = [(RNG.normal(size=(5, 2)) + j, RNG.normal(size=5)) for j in range(3)]
STREAM = stream(MODEL)
for _task in TASKS:
    STREAM = STREAM.update(*_task)


def batch(count):
    x, y = zip(*TASKS[:count], strict=True)
    return MODEL.condition(np.concatenate(x), np.concatenate(y))


# --- the matrix -----------------------------------------------------------------------------------


def test_matrix_by_refitting():
    found = continual_scores(STREAM, TESTS)
    posteriors = [batch(i) for i in (1, 2, 3)]
    explicit = [
        [-np.mean(p.predict(x, noise=True).pointwise(y)) for x, y in TESTS] for p in posteriors
    ]
    np.testing.assert_allclose(found.nll, explicit, rtol=1e-10)  # condition number below 1e4
    np.testing.assert_allclose(continual_scores(posteriors, TESTS).nll, explicit, rtol=1e-12)
    functions = [lambda x, p=p: p.predict(x, noise=True) for p in posteriors]
    np.testing.assert_allclose(continual_scores(functions, TESTS).nll, explicit, rtol=1e-12)
    wide = continual_scores(STREAM, TESTS, noise=1.0).nll
    np.testing.assert_allclose(wide, continual_scores(posteriors, TESTS, noise=1.0).nll, rtol=1e-10)
    assert not np.allclose(wide, explicit)
    for j, (x, y) in enumerate(TESTS):
        assert found.forgetting[j] == pytest.approx(STREAM.forgetting(x, y), abs=1e-10)


def test_summaries_by_hand():
    r = ContinualScores(np.array([[1.0, 5.0, 7.0], [2.0, 3.0, 6.5], [1.5, 3.5, 0.5]]))
    np.testing.assert_allclose(r.forgetting, [0.5, 0.5, 0.0])
    assert r.backward_transfer == pytest.approx(((1 - 1.5) + (3 - 3.5)) / 2)
    assert r.forward_transfer == pytest.approx(7 - 6.5)  # on task 2, after tasks 0 and 1
    ax = r.plot()
    assert ax.get_xlabel() == "evaluated on task"
    leaves, tree = jax.tree.flatten(r)
    assert jax.tree.unflatten(tree, leaves).nll is r.nll


# --- divergence -----------------------------------------------------------------------------------


def test_divergence_by_simulation():
    xs = TESTS[0][0][:3]
    law = STREAM.posterior.predict(xs)
    mean, cov = law.mean + 0.1, 1.3 * law.cov + 0.02 * np.eye(3)
    found = kl_from_exact(STREAM, mean, cov, Xs=xs)
    assert found == pytest.approx(kl_from_exact(law, mean, cov))
    other = Gaussian(mean, cov)
    y = law.sample(0, 4000)
    ratio = np.array([law.log_prob(row) - other.log_prob(row) for row in y[:1500]])
    assert abs(ratio.mean() - found) < 4 * ratio.std() / len(ratio) ** 0.5
    # one point: the textbook formula for two normal laws
    one = kl_from_exact(Gaussian(np.zeros(1), np.eye(1)), [2.0], [[9.0]])
    assert one == pytest.approx(np.log(3) + (1 + 4) / 18 - 0.5, rel=1e-14)


def test_exact_inference_in_any_order_has_no_divergence():
    backwards = stream(MODEL)
    for task in TASKS[::-1]:
        backwards = backwards.update(*task)
    xs = TESTS[1][0]
    law = backwards.posterior.predict(xs)
    assert abs(kl_from_exact(STREAM, law.mean, law.cov, Xs=xs)) < 1e-10  # condition 1e4
    # independent marginals, a mean-field approximation, lose the correlations
    assert kl_from_exact(STREAM, law.mean, np.diag(law.var), Xs=xs) > 0.01


# --- drift ----------------------------------------------------------------------------------------


def test_drift_is_a_kalman_filter():
    """At one input the drifting function is an Ornstein-Uhlenbeck process of time."""
    tau, noise = 2.5, 0.3
    point, y = np.zeros((1, 2)), RNG.normal(size=6)
    model = stream(GP(drift_kernel(RBF(0.8), tau), noise=noise))
    mean, var, decay = 0.0, 1.0, np.exp(-1 / tau)
    for t in range(6):
        if t:
            mean, var = decay * mean, decay**2 * var + 1 - decay**2
        gain = var / (var + noise)
        mean, var = mean + gain * (y[t] - mean), (1 - gain) * var
        model = model.update(with_task(point, t), y[t : t + 1])
        law = model.posterior.predict(with_task(point, t))
        assert law.mean[0] == pytest.approx(mean, abs=1e-12)
        assert law.var[0] == pytest.approx(var, abs=1e-12)
    still = drift_kernel(RBF(0.8), np.inf)
    x = with_task(TASKS[0][0], 1.0)
    np.testing.assert_array_equal(still(x), RBF(0.8)(TASKS[0][0]))
    z = with_task(TASKS[1][0], 3.0)
    expected = RBF(0.8)(TASKS[0][0], TASKS[1][0]) * np.exp(-2 / tau)
    np.testing.assert_allclose(drift_kernel(RBF(0.8), tau)(x, z), expected, rtol=1e-14)


def test_drift_model_wins_where_tasks_contradict():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(30, 1))
    tasks = [(x, np.sin(2 * x[:, 0]) + 0.1 * rng.normal(size=30)), (x, -np.sin(2 * x[:, 0]))]
    plain, moving = stream(GP(RBF(1.0), noise=0.01)), stream(GP(drift_kernel(RBF(1.0), 1.0), 0.01))
    for t, (a, b) in enumerate(tasks):
        plain, moving = plain.update(a, b), moving.update(with_task(a, t), b)
    r = continual_scores(plain, tasks)
    drift = [(with_task(a, t), b) for t, (a, b) in enumerate(tasks)]
    q = continual_scores(moving, drift)
    assert r.forgetting[0] > 10  # nats: the average of the two fits neither
    assert q.forgetting[0] < 0.1
    assert moving.log_scores.sum() > plain.log_scores.sum()


def test_forgetting_factor():
    tasks = np.repeat([0, 1, 2], [6, 9, 4])
    noise = forgetting_noise(tasks, 0.05, 0.5)
    np.testing.assert_allclose(noise, np.repeat([0.2, 0.1, 0.05], [6, 9, 4]))
    np.testing.assert_array_equal(forgetting_noise(tasks, 0.05, 1.0), np.full(19, 0.05))
    # half the precision for a point is the same as seeing every second one of two copies
    x, y = TASKS[0]
    copies = GP(RBF(0.8), noise=0.2).condition(np.repeat(x, 2, 0), np.repeat(y, 2))
    single = GP(RBF(0.8), noise=forgetting_noise([1] * 6, 0.1, 0.5)).condition(x, y)
    np.testing.assert_allclose(copies.mean(x), single.mean(x), atol=1e-12)


# --- one unknown mean -----------------------------------------------------------------------------


def test_location_numbers():
    """Two tasks at -1 and +1 with unit prior and noise: -0.980392, then 0; unequal: -0.655738."""
    x = np.repeat([-1.0, 1.0], 50)
    path = location_filter(x, noise=1.0)
    assert path.mean[49] == pytest.approx(-50 / 51, rel=1e-13)
    assert round(path.mean[49], 6) == -0.980392
    assert path.mean[-1] == pytest.approx(0.0, abs=1e-15)
    assert path.var[-1] == pytest.approx(1 / 101)
    assert round(location_filter(x[:60], noise=1.0).mean[-1], 6) == -0.655738
    assert task_mean([-1.0, 1.0], [50, 10], noise=1.0) == pytest.approx(-40 / 61, rel=1e-14)
    assert task_mean([-1.0, 1.0], [50, 50], noise=1.0) == 0.0
    # the same from a Gaussian process at one input
    post = GP(RBF(1.0), noise=1.0).condition(np.zeros((60, 1)), x[:60])
    assert post.mean(np.zeros((1, 1)))[0] == pytest.approx(-40 / 61, rel=1e-12)


def test_location_filter_by_recursion():
    x = RNG.normal(size=20)
    path = location_filter(x, noise=0.7, prior_mean=2.0, prior_var=3.0, forgetting=0.8)
    m, v = 2.0, 3.0
    for t in range(20):
        new = 1 / (0.8 / v + 1 / 0.7)
        m, v = new * (0.8 * m / v + x[t] / 0.7), new
        assert path.mean[t] == pytest.approx(m, rel=1e-12)
        assert path.var[t] == pytest.approx(v, rel=1e-12)


# --- arguments ------------------------------------------------------------------------------------


def test_bad_scores():
    with pytest.raises(ShapeError, match="at least one pair"):
        continual_scores(STREAM, [])
    with pytest.raises(DomainError, match=r"learner must be a gp\.Stream"):
        continual_scores(MODEL, TESTS)
    with pytest.raises(DomainError, match="a predictor must be"):
        continual_scores([1.0], TESTS)
    two = ContinualScores(np.zeros((2, 2)))
    with pytest.raises(ShapeError, match="forward transfer needs a matrix of 3 tasks"):
        two.forward_transfer  # noqa: B018
    with pytest.raises(ShapeError, match="backward transfer needs"):
        ContinualScores(np.zeros((1, 2))).backward_transfer  # noqa: B018


def test_bad_divergence():
    xs = TESTS[0][0][:2]
    with pytest.raises(DomainError, match="give Xs"):
        kl_from_exact(STREAM, [0.0, 0.0], np.eye(2))
    with pytest.raises(DomainError, match="exact must be a Gaussian law"):
        kl_from_exact(1.0, [0.0], [[1.0]])
    with pytest.raises(ShapeError, match="mean must have shape"):
        kl_from_exact(STREAM, [0.0], np.eye(2), Xs=xs)
    with pytest.raises(ShapeError, match="cov must have shape"):
        kl_from_exact(STREAM, [0.0, 0.0], np.eye(3), Xs=xs)
    with pytest.raises(DomainError, match="cov must be symmetric"):
        kl_from_exact(STREAM, [0.0, 0.0], [[1.0, 0.5], [0.0, 1.0]], Xs=xs)
    with pytest.raises(NotPositiveDefiniteError, match="cov"):
        kl_from_exact(STREAM, [0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]], Xs=xs)
    with pytest.warns(JitterWarning, match="cov is singular"):
        kl_from_exact(STREAM, [0.0, 0.0], np.ones((2, 2)), Xs=xs)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: with_task(np.zeros(3), 0), ShapeError, "X must have shape"),
        (lambda: with_task(np.zeros((2, 2, 2)), 0), ShapeError, "X must have shape"),
        (lambda: with_task(np.zeros((2, 2)), np.nan), DomainError, "task must be finite"),
        (lambda: drift_kernel(1.0, 1.0), DomainError, "kernel must be a callable"),
        (lambda: drift_kernel(RBF(1.0), 0.0), DomainError, "tau must be > 0"),
        (lambda: drift_kernel(RBF(1.0), np.nan), DomainError, "tau must be > 0"),
        (lambda: forgetting_noise(1.0, 1.0, 0.5), ShapeError, "tasks must have shape"),
        (lambda: forgetting_noise([0.0], 0.0, 0.5), DomainError, "noise must be > 0"),
        (lambda: forgetting_noise([0.0], 1.0, 1.5), DomainError, "factor must be"),
        (lambda: location_filter([], noise=1.0), ShapeError, "x must have shape"),
        (lambda: location_filter([np.nan], noise=1.0), DomainError, "x must be finite"),
        (lambda: location_filter([1.0], noise=0.0), DomainError, "noise must be > 0"),
        (lambda: location_filter([1.0], noise=1.0, prior_var=0), DomainError, "prior_var must"),
        (lambda: location_filter([1.0], noise=1.0, forgetting=0), DomainError, "forgetting must"),
        (lambda: task_mean([1.0], [1, 2], noise=1.0), ShapeError, "one length"),
        (lambda: task_mean([1.0], [0], noise=1.0), DomainError, "counts must be >= 1"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
