import dataclasses

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.optimize
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF as SklearnRBF
from sklearn.gaussian_process.kernels import ConstantKernel, WhiteKernel

import gp.evidence_objective as objective
import ntk
from deeplimits import ConvergenceError, DomainError, ShapeError
from gp.evidence import log_evidence
from gp.maximize_evidence import EvidenceMaximum, maximize_evidence
from gp.process import GP


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Smooth:
    """Amplitude times a squared-exponential kernel with one length per feature."""

    amplitude: float
    lengths: np.ndarray

    def __call__(self, x, z=None):
        z = x if z is None else z
        gap = (x[:, None] - z[None]) / jnp.asarray(self.lengths)[None, None]
        return self.amplitude * jnp.exp(-0.5 * jnp.sum(gap**2, axis=-1))


def numpy_rbf(x, z=None):
    z = x if z is None else z
    return np.exp(-0.5 * ((np.asarray(x)[:, None] - np.asarray(z)[None]) ** 2).sum(-1))


def problem(n=30, outputs=None, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    y = np.sin(1.5 * x[:, 0]) + np.cos(x[:, 1])
    y = y + 0.2 * rng.normal(size=n)
    return x, y if outputs is None else np.stack([y, 0.5 * y[::-1]], 1)


X, Y = problem()
MODEL = GP(Smooth(1.0, np.array([1.0, 1.0])), noise=0.1)


def direct(x, y):
    """The same objective through autodiff of the public log evidence."""

    def f(u):
        t = jnp.exp(u)
        return -log_evidence(Smooth(t[0], t[1:3])(x), y, t[3])

    return jax.jit(jax.value_and_grad(f))


def test_against_scipy():
    best = maximize_evidence(MODEL, X, Y, restarts=0, tol=1e-6)
    f = direct(X, Y)
    u0 = np.log([1.0, 1.0, 1.0, 0.1])
    rival = scipy.optimize.minimize(f, u0, jac=True, method="BFGS", options={"gtol": 1e-6})
    # gradients of 1e-6 leave errors of 1e-12 / curvature in the value, 1e-6 / curvature in u
    assert best.log_evidence == pytest.approx(-rival.fun, abs=1e-9)
    np.testing.assert_allclose(best.values, np.exp(rival.x), rtol=1e-4)
    assert best.converged
    assert np.abs(best.gradient).max() <= 1e-6


def test_against_scikit_learn():
    best = maximize_evidence(MODEL, X, Y, restarts=0)
    kernel = ConstantKernel(1.0) * SklearnRBF([1.0, 1.0]) + WhiteKernel(0.1)
    rival = GaussianProcessRegressor(kernel, alpha=0.0).fit(X, Y)
    # scikit-learn stops at a relative change of 2e-9 in the value (L-BFGS-B's default)
    assert best.log_evidence == pytest.approx(rival.log_marginal_likelihood_value_, abs=1e-5)


@pytest.mark.parametrize("outputs", [None, 2])
@pytest.mark.parametrize("block", [64, 7])
def test_gradient_by_differences(outputs, block, monkeypatch):
    # 7: ten tiles with padding; 64: the matrix at once
    monkeypatch.setattr(objective, "BLOCK", block)
    x, y = problem(outputs=outputs)
    model = GP(Smooth(1.3, np.array([0.8, 2.0])), noise=0.1, noise_rel=0.05)
    fit = objective.fitted_parameters(model, None, (), len(x))
    data = {
        "arrays": (),
        "x": jnp.asarray(x),
        "y": jnp.asarray(y.reshape(30, -1)),
        "gram": None,
    }
    f = jax.jit(lambda u: objective.value_and_gradient(fit.problem, u, data))
    value, grad = f(fit.start)
    assert -value == pytest.approx(model.condition(x, y).log_evidence, rel=1e-12)  # same formula
    h = 1e-5
    ends = [[float(f(fit.start + s * e)[0]) for s in (h, -h)] for e in np.eye(5)]
    # second order: h^2 = 1e-10 times third derivatives of size 1e2, and rounding 1e-13 / h = 1e-8
    np.testing.assert_allclose(grad, [(a - b) / (2 * h) for a, b in ends], atol=1e-7)
    assert fit.names == ("kernel.amplitude", "kernel.lengths[0]", "kernel.lengths[1]", "noise",
                         "noise_rel")  # fmt: skip


def test_network():
    net = ntk.mlp(1, "erf", W_std=1.5, b_std=0.3)
    model = GP(net.nngp, noise=0.1)
    best = maximize_evidence(model, X, Y, restarts=1, steps=40)
    assert best.log_evidence > model.condition(X, Y).log_evidence
    assert best.names[-1] == "noise"
    assert len(best.names) == 5
    assert all(name.endswith(("W_std", "b_std", "noise")) for name in best.names)
    # the returned model is the one that was scored: one evaluation apart, condition number 1e4
    again = best.model.condition(X, Y).log_evidence
    assert again == pytest.approx(best.log_evidence, abs=1e-9)
    leaves = jax.tree.leaves(best.model.kernel.__self__)
    assert all(isinstance(leaf, float) for leaf in leaves)
    assert leaves[2:4] == [1.0, 1.0]  # the constants of the activation
    tuned = jax.tree.unflatten(
        jax.tree.structure(net), [best.values[0] * 1.05, *leaves[1:]]
    )  # a nearby network is worse
    there = GP(tuned.nngp, noise=best.model.noise).condition(X, Y).log_evidence
    assert there < best.log_evidence


def test_a_family_ties_parameters():
    def family(scale, noise):
        return GP(Smooth(scale, jnp.stack([scale, scale])), noise=noise)

    best = maximize_evidence(family, X, Y, start={"scale": 1.0, "noise": 0.1}, restarts=0)
    assert set(best.parameters) == {"scale", "noise"}

    def f(u):
        t = np.exp(u)
        value = GP(Smooth(t[0], np.array([t[0], t[0]])), noise=t[1]).condition(X, Y)
        return -value.log_evidence

    rival = scipy.optimize.minimize(f, np.log([1.0, 0.1]), method="Nelder-Mead",
                                    options={"xatol": 1e-6, "fatol": 1e-10})  # fmt: skip
    assert best.log_evidence == pytest.approx(-rival.fun, abs=1e-8)  # fatol, with a margin
    assert best.model.kernel.amplitude == best.parameters["scale"]


def test_noise_alone_with_a_numpy_kernel():
    best = maximize_evidence(GP(numpy_rbf, noise=1.0), X, Y)
    assert best.names == ("noise",)
    grid = np.geomspace(0.5, 2, 41) * best.model.noise
    scores = [GP(numpy_rbf, noise=s).condition(X, Y).log_evidence for s in grid]
    assert np.argmax(scores) == 20
    per_point = maximize_evidence(GP(numpy_rbf, noise=np.full(30, 0.1)), X, Y, restarts=0)
    assert per_point.model.noise.shape == (30,)
    assert per_point.log_evidence > best.log_evidence


def test_fixed_leaves_stay():
    best = maximize_evidence(MODEL, X, Y, fixed=("lengths", "noise"), restarts=0)
    assert best.names == ("kernel.amplitude",)
    np.testing.assert_array_equal(best.model.kernel.lengths, [1.0, 1.0])
    assert best.model.noise == 0.1
    zero = maximize_evidence(GP(Smooth(1.0, np.array([1.0, 1.0])), noise=0.0, noise_rel=0.1), X, Y,
                             restarts=0)  # fmt: skip
    assert zero.model.noise == 0.0
    assert "noise" not in zero.names


def test_restarts_find_the_better_of_two_maxima():
    # from a long length "all noise" is the nearest maximum, although the signal is clear
    rng = np.random.default_rng(2)
    x = np.linspace(-3, 3, 20)[:, None]
    y = np.sin(2.5 * x[:, 0]) + 0.1 * rng.normal(size=20)
    far = GP(Smooth(1.0, np.array([6.0])), noise=1.0)
    alone = maximize_evidence(far, x, y, restarts=0)
    more = maximize_evidence(far, x, y, restarts=8, key=1)
    assert more.log_evidence > alone.log_evidence + 5
    assert len(more.runs) == 9
    finals = [run.log_evidence[-1] for run in more.runs]
    assert finals == sorted(finals, reverse=True)
    again = maximize_evidence(far, x, y, restarts=8, key=jax.random.key(1))
    assert again.log_evidence == more.log_evidence


def test_record():
    best = maximize_evidence(MODEL, X, Y, restarts=1, steps=3)
    assert not best.converged
    assert len(best.trajectory) == 4
    assert (np.diff(best.trajectory) > 0).all()
    assert best.runs[0].values.shape == (4, 4)
    assert best.trajectory[-1] == best.log_evidence
    assert isinstance(jax.tree.map(lambda leaf: leaf, best), EvidenceMaximum)
    ax = best.plot(color="k")
    assert len(ax.lines) == 2
    np.testing.assert_array_equal(ax.lines[-1].get_ydata(), best.trajectory)
    assert best.plot(ax) is ax
    plt.close("all")


def test_float64_with_x64_off_and_float32_inputs():
    reference = maximize_evidence(MODEL, X, Y, restarts=0)
    with jax.enable_x64(False):
        best = maximize_evidence(MODEL, X, Y, restarts=0)
    assert best.log_evidence == pytest.approx(reference.log_evidence, rel=1e-12)  # same program
    rough = maximize_evidence(MODEL, X.astype(np.float32), Y, restarts=0)
    # inputs rounded at 6e-8, times derivatives of order 10
    assert rough.log_evidence == pytest.approx(reference.log_evidence, abs=1e-5)


def test_a_memory_of_n_squared():
    # depth must not matter: 60 matrices would be kept by reverse mode through 4 hidden layers
    n = 1024
    model = GP(ntk.mlp(4, "relu", W_std=1.4).nngp, noise=0.1)
    fit = objective.fitted_parameters(model, None, ("dual",), n)
    shapes = {
        "arrays": (),
        "x": jax.ShapeDtypeStruct((n, 3), np.float64),
        "y": jax.ShapeDtypeStruct((n, 1), np.float64),
        "gram": None,
    }
    program = objective.compiled.lower(fit.problem, fit.start, shapes).compile()
    assert program.memory_analysis().temp_size_in_bytes < 10 * 8 * n**2


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"restarts": -1}, DomainError, "restarts must be >= 0"),
        ({"steps": 0}, DomainError, "steps must be >= 1"),
        ({"tol": 0.0}, DomainError, "tol must be > 0"),
        ({"key": "a"}, DomainError, "key must be"),
        ({"fixed": ("kernel", "noise")}, DomainError, "nothing to fit"),
        ({"fixed": (1,)}, DomainError, "fixed must hold fragments of names"),
        ({"start": {"a": 1.0}}, DomainError, "start is for a family"),
        ({"model": Smooth}, DomainError, "model must be a gp.GP or gp.ScaleMixture, or a callable"),
        ({"model": lambda a: a, "start": {"a": 1.0}}, DomainError, "must return a gp.GP"),
        ({"model": lambda a: a, "start": {"a": -1.0}}, DomainError, r"start\['a'\] must be > 0"),
        ({"X": X[:, 0]}, ShapeError, r"X must have shape \(n, d\)"),
        ({"y": Y[:-1]}, ShapeError, "y must have shape"),
        ({"model": GP(MODEL.kernel, 0.1, 0.0, 5)}, DomainError, "more than max_points=5"),
        ({"model": lambda s: GP(lambda x, z=None: x * s, 0.1), "start": {"s": 1.0}},
         ShapeError, "the kernel must return an array of shape"),
    ],
)  # fmt: skip
def test_bad_input(kwargs, error, match):
    given = {"model": MODEL, "X": X, "y": Y, **kwargs}
    with pytest.raises(error, match=match):
        maximize_evidence(given.pop("model"), given.pop("X"), given.pop("y"), **given)


def test_kernels_that_cannot_be_fitted():
    def family(s):
        return GP(lambda x, z=None: numpy_rbf(np.asarray(x) * s), noise=0.1)

    with pytest.raises(DomainError, match=r"written in jax\.numpy"):
        maximize_evidence(family, X, Y, start={"s": 1.0})
    indefinite = GP(lambda x, z=None: -numpy_rbf(x, z), noise=0.1)
    with pytest.raises(ConvergenceError, match="not finite at any start"):
        maximize_evidence(indefinite, X, Y, restarts=0)
