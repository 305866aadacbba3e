"""What a Gaussian process refuses, and what it warns about."""

import numpy as np
import pytest

from deeplimits import DomainError, NotPositiveDefiniteError, PrecisionWarning, ShapeError
from gp.process import GP


def rbf(x, z=None):
    z = x if z is None else z
    return np.exp(-0.5 * ((x[:, None] - z[None]) ** 2).sum(-1))


RNG = np.random.default_rng(0)
X, Y, XS = RNG.normal(size=(12, 2)), RNG.normal(size=12), RNG.normal(size=(5, 2))


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"kernel": rbf(X)}, DomainError, "kernel must be a callable"),
        ({"noise": -1.0}, DomainError, "noise must be >= 0"),
        ({"noise": np.nan}, DomainError, "noise must be finite"),
        ({"noise": np.array([0.1, -0.1])}, DomainError, "holds variances"),
        ({"noise": np.eye(2)}, ShapeError, r"one number or one per point"),
        ({"noise_rel": -1.0}, DomainError, "noise_rel must be >= 0"),
        ({"max_points": 0}, DomainError, "max_points must be >= 1"),
    ],
)
def test_bad_models(kwargs, error, match):
    with pytest.raises(error, match=match):
        GP(**{"kernel": rbf, **kwargs})


@pytest.mark.parametrize(
    ("x", "y", "error", "match"),
    [
        (X[:, 0], Y, ShapeError, r"X must have shape \(n, d\).*X\[:, None\]"),
        (X, Y[:-1], ShapeError, r"y must have shape \(12,\) or \(12, outputs\)"),
        (X, Y[:, None, None], ShapeError, "y must have shape"),
        (X * np.nan, Y, DomainError, "X must be finite"),
        (X, Y * np.nan, DomainError, "y must be finite"),
        (X[:0], Y[:0], ShapeError, "X must not be empty"),
    ],
)
def test_bad_data_is_refused_before_the_kernel_runs(x, y, error, match):
    def kernel(*_):
        raise AssertionError("kernel was called")

    with pytest.raises(error, match=match):
        GP(kernel, noise=0.1).condition(x, y)


def test_wrong_number_of_noise_variances():
    with pytest.raises(ShapeError, match=r"noise must be one number.*\(12,\).*got shape \(3,\)"):
        GP(rbf, noise=np.ones(3)).condition(X, Y)


def test_too_many_points():
    with pytest.raises(DomainError, match=r"X has 12 points, more than max_points=10"):
        GP(rbf, noise=0.1, max_points=10).condition(X, Y)
    with pytest.raises(DomainError, match="max_points=10"):
        GP(rbf, max_points=10).prior(X)


@pytest.mark.parametrize(
    ("kernel", "error", "match"),
    [
        (
            lambda x, z=None: rbf(x, z)[:, :-1],
            ShapeError,
            "the kernel must return an array of shape",
        ),
        (lambda x, z=None: [1, 2], ShapeError, "got a list"),
        (lambda x, z=None: rbf(x, z) * np.nan, DomainError, "the kernel matrix must be finite"),
        (lambda x, z=None: np.tri(len(x)), DomainError, "the kernel matrix must be symmetric"),
        (lambda x, z=None: -rbf(x, z), NotPositiveDefiniteError, "training covariance .n=12"),
    ],
)
def test_bad_kernels(kernel, error, match):
    with pytest.raises(error, match=match):
        GP(kernel, noise=0.1).condition(X, Y)


def test_bad_queries():
    post = GP(rbf, noise=0.1).condition(X, Y)
    for query in (post.mean, post.var, post.cov, post.predict):
        with pytest.raises(ShapeError, match="Xs and X must agree in every axis but the first"):
            query(np.ones((2, 3)))
    with pytest.raises(DomainError, match="n must be >= 1"):
        post.sample(0, XS, 0)
    with pytest.raises(DomainError, match="key must be"):
        post.sample("seed", XS, 2)
    with pytest.raises(DomainError, match="level must be"):
        post.predict(XS).interval(95)
    with pytest.raises(
        ShapeError, match=r"y must have the shape of the mean, \(5,\), got \(5, 2\)"
    ):
        post.predict(XS, noise=True).log_prob(np.ones((5, 2)))
    with pytest.raises(DomainError, match="noise must be >= 0"):
        post.predict(XS, noise=-1.0)


def test_noise_at_new_points_is_unknown_after_noise_per_point():
    post = GP(rbf, noise=np.full(12, 0.1)).condition(X, Y)
    with pytest.raises(DomainError, match="noise at Xs is unknown"):
        post.predict(XS, noise=True)
    extra = np.linspace(0.1, 0.5, 5)
    # one addition and its subtraction
    np.testing.assert_allclose(post.predict(XS, noise=extra).var - post.var(XS), extra, rtol=1e-13)


def test_inconsistent_kernel_gives_a_precision_warning():
    def kernel(x, z=None):  # the cross-kernel is larger than the variances allow
        return rbf(x) if z is None else 2 * rbf(x, z)

    post = GP(kernel, noise=0.01).condition(X, Y)
    with pytest.warns(PrecisionWarning, match="was set to 0"):
        assert (post.var(X) == 0).any()
    with pytest.raises(NotPositiveDefiniteError, match="it is no covariance"):
        post.sample(0, X, 2)
