"""Hyper-parameters of scale mixtures by evidence: gradients, optima, what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import gp.evidence_objective as objective
import ntk
from deeplimits import DomainError
from gp.maximize_evidence import maximize_evidence
from gp.mixtures import ScaleMixture
from gp.process import GP
from gp.scale_priors import BurrXII, InverseGamma


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Smooth:
    """Amplitude times a squared-exponential kernel."""

    amplitude: float
    length: float

    def __call__(self, x, z=None):
        z = x if z is None else z
        gap = (x[:, None] - z[None]) / jnp.asarray(self.length)
        return self.amplitude * jnp.exp(-0.5 * jnp.sum(gap**2, axis=-1))


RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 2))
Y = np.sin(1.5 * X[:, 0]) + 0.2 * RNG.normal(size=20)
SHAPE = ("amplitude", "prior", "dual")


@pytest.mark.parametrize(
    ("prior", "scaled"),
    [(InverseGamma(1.7, 2.3), True), (BurrXII(2.0, 1.5), True), (InverseGamma(1.7, 2.3), False)],
    ids=["closed", "quadrature", "unscaled"],
)
def test_gradient_by_differences(prior, scaled):
    model = ScaleMixture(Smooth(1.3, 0.8), prior, 0.1, scaled)
    fit = objective.fitted_parameters(model, None, (), 20)
    data = {"arrays": (), "x": jnp.asarray(X), "y": jnp.asarray(Y)[:, None], "gram": None}
    f = jax.jit(lambda u: objective.value_and_gradient(fit.problem, u, data))
    value, grad = f(fit.start)
    # two quadratures, both exact to rounding
    assert -float(value) == pytest.approx(model.condition(X, Y).log_evidence, rel=1e-10)
    names = ("a", "b") if isinstance(prior, InverseGamma) else ("c", "k")
    assert fit.names == (
        "kernel.amplitude", "kernel.length", "noise", *(f"prior.{n}" for n in names)
    )  # fmt: skip
    h = 1e-5
    ends = [[float(f(fit.start + s * e)[0]) for s in (h, -h)] for e in np.eye(5)]
    # second order: h^2 = 1e-10 times third derivatives of size 1e2, and rounding 1e-13 / h = 1e-8
    np.testing.assert_allclose(grad, [(a - b) / (2 * h) for a, b in ends], atol=1e-7)


def test_against_nelder_mead():
    model = ScaleMixture(Smooth(1.0, 1.0), InverseGamma(2.0, 2.0), 0.1)
    best = maximize_evidence(model, X, Y, fixed=SHAPE, restarts=0)

    def f(u):
        kernel, noise = Smooth(1.0, float(np.exp(u[0]))), float(np.exp(u[1]))
        return -ScaleMixture(kernel, model.prior, noise).condition(X, Y).log_evidence

    rival = scipy.optimize.minimize(f, np.log([1.0, 0.1]), method="Nelder-Mead",
                                    options={"xatol": 1e-6, "fatol": 1e-10})  # fmt: skip
    assert best.names == ("kernel.length", "noise")
    assert best.log_evidence == pytest.approx(-rival.fun, abs=1e-8)  # fatol, with a margin
    assert best.converged
    assert isinstance(best.model, ScaleMixture)
    assert best.model.prior == InverseGamma(2.0, 2.0)
    again = best.model.condition(X, Y).log_evidence
    assert again == pytest.approx(best.log_evidence, abs=1e-9)

    def family(length, noise):
        return ScaleMixture(Smooth(1.0, length), InverseGamma(2.0, 2.0), noise)

    tied = maximize_evidence(family, X, Y, start={"length": 1.0, "noise": 0.1}, restarts=0)
    assert tied.log_evidence == pytest.approx(best.log_evidence, abs=1e-8)  # slopes of 1e-4


def test_the_law_of_the_scale_ends_without_width():
    """One draw of the scale: the best law is a point, and the mixture a plain process."""
    model = ScaleMixture(Smooth(1.0, 1.0), InverseGamma(2.0, 2.0), 0.1)
    best = maximize_evidence(model, X, Y, fixed=("kernel",), restarts=0, steps=60)
    assert set(best.names) == {"noise", "prior.a", "prior.b"}
    assert best.parameters["prior.a"] > 1e3
    plain = maximize_evidence(
        GP(Smooth(1.0, 1.0), noise=0.1), X, Y, fixed=("length", "noise_rel"), restarts=0
    )
    # corrections of order n / a
    assert best.log_evidence == pytest.approx(
        plain.log_evidence, abs=20 / best.parameters["prior.a"]
    )


def test_a_free_scale_of_the_kernel_is_refused():
    prior = InverseGamma(2.0, 2.0)
    model = ScaleMixture(Smooth(1.0, 1.0), prior, 0.1)
    with pytest.raises(DomainError, match=r"not identifiable.*'kernel\.amplitude'"):
        maximize_evidence(model, X, Y)
    # the last layer of a network: weight and bias together
    net = ntk.mlp(1, "erf", W_std=1.5, b_std=0.3)
    with pytest.raises(DomainError, match=r"layers\[2\]\.W_std.*layers\[2\]\.b_std"):
        maximize_evidence(ScaleMixture(net.nngp, prior, 0.1), X, Y)


def test_a_network_with_a_fixed_last_layer():
    net = ntk.mlp(1, "erf", W_std=1.5, b_std=0.3)
    model = ScaleMixture(net.nngp, InverseGamma(2.0, 2.0), 0.1)
    best = maximize_evidence(model, X, Y, fixed=("dual", "prior", "layers[2]"), restarts=0, steps=8)
    assert len(best.names) == 3
    assert best.log_evidence > model.condition(X, Y).log_evidence
