import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from deeplimits import DomainError, ShapeError
from gp.in_context import (
    attention_learner,
    bayes_learner,
    gradient_learner,
    gradient_step_attention,
    neighbour_learner,
    ridge_learner,
)
from gp.in_context_errors import (
    best_gradient_rate,
    context_curve,
    gradient_step_error,
    least_squares_error,
)
from gp.process import GP

RNG = np.random.default_rng(0)
X, Y, XQ = RNG.normal(size=(7, 3)), RNG.normal(size=7), RNG.normal(size=(5, 3))
#: Fewer examples than dimensions.
SHORT = X[:2], Y[:2], XQ


@pytest.mark.parametrize("context", [(X, Y, XQ), SHORT], ids=["long", "short"])
def test_learners_by_their_definitions(context):
    x, y, xq = context
    d = x.shape[1]
    w = np.linalg.solve(x.T @ x + 0.3 * np.eye(d), x.T @ y)
    np.testing.assert_allclose(ridge_learner(0.3)(x, y, xq), xq @ w, atol=1e-12)
    np.testing.assert_allclose(ridge_learner(0)(x, y, xq), xq @ np.linalg.pinv(x) @ y, atol=1e-12)

    def loss(v):
        return 0.5 * jnp.sum((y - jnp.matmul(x, v)) ** 2)

    v = jnp.zeros(d)
    for _ in range(4):
        v = v - 0.05 * jax.grad(loss)(v)
    np.testing.assert_allclose(gradient_learner(0.05, 4)(x, y, xq), xq @ v, atol=1e-13)
    np.testing.assert_allclose(gradient_learner(0.05, 4).weights(x, y), v, atol=1e-13)
    plain, weighted = neighbour_learner(3), neighbour_learner(3, weighted=True)
    for i, q in enumerate(xq):
        pairs = sorted((np.linalg.norm(q - a), b) for a, b in zip(x, y, strict=True))[:3]
        assert plain(x, y, xq)[i] == pytest.approx(np.mean([b for _, b in pairs]))
        total = sum(b / r for r, b in pairs) / sum(1 / r for r, _ in pairs)
        assert weighted(x, y, xq)[i] == pytest.approx(total)
    assert weighted(x, y, x[:1])[0] == pytest.approx(y[0])  # a query that is an example


def test_bayes_is_the_posterior_mean():
    post = GP(lambda a, b=None: 2.0 * a @ (a if b is None else b).T, noise=0.4).condition(X, Y)
    np.testing.assert_allclose(bayes_learner(0.4, 2.0)(X, Y, XQ), post.mean(XQ), atol=1e-12)
    np.testing.assert_array_equal(bayes_learner(0.0)(X, Y, XQ), ridge_learner(0)(X, Y, XQ))


@pytest.mark.parametrize("context", [(X, Y, XQ), SHORT], ids=["long", "short"])
def test_attention_is_a_gradient_step(context):
    layer = gradient_step_attention(3, 0.07)
    found = attention_learner(layer)(*context)
    np.testing.assert_allclose(found, gradient_learner(0.07)(*context), atol=1e-14)
    # token by token
    tokens = RNG.normal(size=(4, 4))
    expected = tokens.copy()
    for j in range(4):
        for i in range(4):
            score = (layer.key @ tokens[i]) @ (layer.query @ tokens[j])
            expected[j] += layer.projection @ layer.value @ tokens[i] * score
    np.testing.assert_allclose(layer(tokens), expected, atol=1e-13)


def test_gradient_step_error():
    d, noise, tau2 = 4, 0.7, 1.6
    setting = {"d": d, "noise": noise, "prior_var": tau2, "key": 1, "draws": 4000}
    for n in (2, 9):
        rate = best_gradient_rate(n, d, noise, tau2)
        for eta in (rate, 0.5 * rate):
            curve = context_curve(gradient_learner(eta), [2, 9], **setting)
            i = [2, 9].index(n)
            exact = gradient_step_error(n, d, eta, noise, tau2)
            assert abs(curve.error[i] - exact) < 4 * curve.stderr[i]
        exact = [gradient_step_error(n, d, rate * f, noise, tau2) for f in (0.999, 1, 1.001)]
        assert exact[1] < min(exact[0], exact[2])
        assert exact[1] == pytest.approx(tau2 * d * (1 - rate * n), rel=1e-12)
    assert best_gradient_rate(9, 4) == pytest.approx(1 / 14)


def test_best_rate_is_the_best_linear_layer():
    """No matrix A makes x_q' A X' y better than the rate times the identity: the gradient is 0."""
    n, d, draws = 3, 2, 40_000
    rng = np.random.default_rng(1)
    x, w = rng.normal(size=(draws, n, d)), rng.normal(size=(draws, d))
    noise = 0.5
    y = np.einsum("bnd,bd->bn", x, w) + noise**0.5 * rng.normal(size=(draws, n))
    h = np.einsum("bnd,bn->bd", x, y)
    rate = best_gradient_rate(n, d, noise)
    # d/dA of |w - A h|^2, averaged over queries
    gradients = np.einsum("bi,bj->bij", rate * h - w, h)
    z = gradients.mean(0) / (gradients.std(0) / draws**0.5)
    assert np.abs(z).max() < 4


def test_least_squares_error():
    d = 5
    sizes = [2, 3, 8, 12]
    curve = context_curve(ridge_learner(0), sizes, d=d, noise=0.3, key=2, draws=4000)
    z = (curve.error - [least_squares_error(n, d, 0.3) for n in sizes]) / curve.stderr
    assert np.abs(z).max() < 4.5  # heavy tails: the standard error is rough at n = 3 and 8
    assert least_squares_error(8, d, 0.3) == pytest.approx(0.3 * 5 / 2)
    assert [least_squares_error(n, d, 0.3) for n in (4, 5, 6)] == [np.inf] * 3
    assert [least_squares_error(n, d) for n in (0, 3, 9)] == [5.0, 2.0, 0.0]
    assert least_squares_error(0, d, 0.3) == 5.0


def test_bayes_error_in_one_dimension():
    """With d = 1 the eigenvalue is chi square with n degrees of freedom."""
    n, noise = 3, 0.5
    expected = scipy.integrate.quad(
        lambda s: scipy.stats.chi2.pdf(s, n) / (1 + s / noise), 0, np.inf
    )[0]
    curve = context_curve(bayes_learner(noise), [n], d=1, noise=noise, key=0, draws=4000)
    assert abs(curve.error[0] - expected) < 4 * curve.stderr[0]


def test_curves_by_simulation():
    """The same learner as a plain function: task, noise and query are drawn too."""
    sizes, setting = [1, 4, 10], {"d": 4, "noise": 0.5, "prior_var": 2.0}
    learner = bayes_learner(0.5, 2.0)
    setting["draws"] = 200
    exact = context_curve(learner, sizes, key=0, **setting)
    drawn = context_curve(lambda *c: learner(*c), sizes, key=1, **setting)
    error = np.hypot(exact.stderr, drawn.stderr)
    assert np.abs((exact.error - drawn.error) / error).max() < 4
    assert np.all(exact.stderr < 0.5 * drawn.stderr)
    # Bayes is best
    for worse in (ridge_learner(3.0), gradient_learner(0.1), ridge_learner(1e-3)):
        assert np.all(context_curve(worse, sizes, key=0, **setting).error > exact.error)
    same = context_curve(learner, sizes, key=2, other=ridge_learner(0.25), **setting)
    assert np.abs(same.error).max() < 1e-24  # the same algorithm
    apart = context_curve(learner, sizes, key=2, other=neighbour_learner(3), **setting)
    assert apart.error.min() > 0.1
    assert exact.plot().get_xlabel() == "examples in context"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ridge_learner(-1.0), DomainError, "penalty must be >= 0"),
        (lambda: bayes_learner(-1.0), DomainError, "noise must be >= 0"),
        (lambda: bayes_learner(1.0, 0.0), DomainError, "prior_var must be > 0"),
        (lambda: gradient_learner(0.0), DomainError, "rate must be > 0"),
        (lambda: gradient_learner(0.1, 0), DomainError, "steps must be >= 1"),
        (lambda: neighbour_learner(0), DomainError, "k must be >= 1"),
        (lambda: gradient_step_attention(0, 0.1), DomainError, "d must be >= 1"),
        (lambda: gradient_step_attention(2, -0.1), DomainError, "rate must be > 0"),
        (lambda: gradient_step_attention(2, 0.1)(X), None, None),
        (lambda: gradient_step_attention(3, 0.1)(X), ShapeError, r"tokens must have shape \(n, 4"),
        (lambda: best_gradient_rate(0, 2), DomainError, "n must be >= 1"),
        (lambda: gradient_step_error(1, 2, 0.0), DomainError, "rate must be > 0"),
        (lambda: least_squares_error(-1, 2), DomainError, "n must be >= 0"),
        (lambda: ridge_learner(1.0)(X, Y[:3], XQ), ShapeError, "X and y must have shapes"),
        (lambda: ridge_learner(1.0)(X, np.nan * Y, XQ), DomainError, "y must be finite"),
        (lambda: ridge_learner(1.0)(X, Y, XQ[:, :2]), ShapeError, "Xq and X must agree"),
        (lambda: neighbour_learner(1)(X, Y, XQ[:, :2]), ShapeError, "Xq and X must agree"),
        (lambda: context_curve(ridge_learner(1.0), [0], d=2, key=0), DomainError, "sizes must"),
        (lambda: context_curve(ridge_learner(1.0), [1], d=0, key=0), DomainError, "d must be"),
        (lambda: context_curve(ridge_learner(1.0), [1], d=2, key=0, draws=1), DomainError, "draws"),
        (
            lambda: context_curve(lambda x, y, q: q, [1], d=2, key=0, queries=3),
            ShapeError,
            r"must return an array of shape \(3,\)",
        ),
    ],
)
def test_bad_arguments(call, error, message):
    if error is None:
        assert call().shape == X.shape  # d = 2 makes tokens of three entries
        return
    with pytest.raises(error, match=message):
        call()
