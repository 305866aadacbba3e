"""200 random fully connected architectures against neural-tangents and an independent oracle."""

import functools
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.special as sp

sys.path.insert(0, str(Path(__file__).parent))
import architectures
from dual_oracle import dual_quadrature, smooth_quadrature

import ntk.kernel_fn as kernel_fn
from ntk.interop import neural_tangents, permissive

PHI = lambda x: sp.ndtr(x)  # noqa: E731
PDF = lambda x: np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)  # noqa: E731
SIGMOID = sp.expit
SCALE, ALPHA = 1.0507009873554805, 1.6732632423543772
SOFTPLUS = lambda x: np.logaddexp(0, x)  # noqa: E731


def elu(alpha, scale=1.0):
    f = lambda x: scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))  # noqa: E731
    return f, lambda x: scale * np.where(x > 0, 1.0, alpha * np.exp(np.minimum(x, 0))), (0.0,)


def gabor_slope(x):
    return np.exp(-(x**2)) * (np.cos(x) - 2 * x * np.sin(x))


def mish_slope(x):
    t = np.tanh(SOFTPLUS(x))
    return t + x * (1 - t**2) * SIGMOID(x)


#: Activation, derivative and kinks in plain NumPy, from the same parameters as the architectures.
FUNCTIONS = {
    "relu": lambda: (lambda x: np.maximum(x, 0), lambda x: 1.0 * (x > 0), (0.0,)),
    "leaky_relu": lambda a: FUNCTIONS["ab_relu"](a, 1.0),
    "abs": lambda: (np.abs, np.sign, (0.0,)),
    "ab_relu": lambda a, b: (
        lambda x: np.where(x > 0, b * x, a * x), lambda x: np.where(x > 0, b, a), (0.0,)
    ),
    "erf": lambda a, b, c: (
        lambda x: a * sp.erf(b * x) + c,
        lambda x: 2 * a * b / np.sqrt(np.pi) * np.exp(-((b * x) ** 2)),
        (),
    ),
    "sigmoid_like": lambda: FUNCTIONS["erf"](0.5, 1 / 2.4020563531719796, 0.5),
    "sin": lambda a, b, c: (
        lambda x: a * np.sin(b * x + c), lambda x: a * b * np.cos(b * x + c), ()
    ),
    "cos": lambda a, b, c: (
        lambda x: a * np.cos(b * x + c), lambda x: -a * b * np.sin(b * x + c), ()
    ),
    "rbf": lambda g: FUNCTIONS["sin"](np.sqrt(2), np.sqrt(2 * g), np.pi / 4),
    "gelu": lambda: (lambda x: x * PHI(x), lambda x: PHI(x) + x * PDF(x), ()),
    "gaussian": lambda a, b: (
        lambda x: a * np.exp(b * x**2), lambda x: 2 * a * b * x * np.exp(b * x**2), ()
    ),
    "exp": lambda a, b: (lambda x: a * np.exp(b * x), lambda x: a * b * np.exp(b * x), ()),
    "gabor": lambda: (lambda x: np.exp(-(x**2)) * np.sin(x), gabor_slope, ()),
    "monomial": lambda d: (lambda x: x**d, lambda x: d * x ** (d - 1), ()),
    "polynomial": lambda c: (
        np.polynomial.Polynomial(c), np.polynomial.Polynomial(c).deriv(), ()
    ),
    "rectified_monomial": lambda d: (
        lambda x: np.maximum(x, 0) ** d, lambda x: d * np.maximum(x, 0) ** (d - 1), (0.0,)
    ),
    "tanh": lambda: (np.tanh, lambda x: 1 - np.tanh(x) ** 2, ()),
    "sigmoid": lambda: (SIGMOID, lambda x: SIGMOID(x) * SIGMOID(-x), ()),
    "silu": lambda: (
        lambda x: x * SIGMOID(x), lambda x: SIGMOID(x) * (1 + x * SIGMOID(-x)), ()
    ),
    "softplus": lambda: (SOFTPLUS, SIGMOID, ()),
    "elu": elu,
    "selu": lambda: elu(ALPHA, SCALE),
    "mish": lambda: (lambda x: x * np.tanh(SOFTPLUS(x)), mish_slope, ()),
}  # fmt: skip


@functools.cache
def averages(name, parameters, q1, q12, q2):
    """Quadrature averages; one-dimensional where the two inputs are parallel."""
    f, df, kinks = FUNCTIONS[name](*parameters)
    rho = q12 / np.sqrt(q1 * q2)
    if abs(rho) < 1 - 1e-13:
        if not kinks and max(q1, q2) < 5:  # above, the panels need fewer points
            return smooth_quadrature(f, df, q1, q12, q2)
        return dual_quadrature(f, df, q1, q12, q2, kinks)
    nodes, weights = np.polynomial.legendre.leggauss(24)
    edges = np.linspace(-14, 14, 113)  # holds 0, the only kink of these activations
    half = np.diff(edges)[:, None] / 2
    z = (edges[:-1, None] + edges[1:, None]) / 2 + half * nodes
    w = half * weights * PDF(z)
    s1, s2 = np.sqrt(q1), np.sqrt(q2) * np.sign(rho)
    return float(np.sum(w * f(s1 * z) * f(s2 * z))), float(np.sum(w * df(s1 * z) * df(s2 * z)))


def deviation(got, want):
    return float(np.max(np.abs(np.asarray(got) - want)) / np.max(np.abs(want)))


@pytest.fixture(autouse=True, scope="module")
def _quick_compilation():
    """200 programs that run once: unoptimised code is made in half of the time."""
    options = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel_fn, "vector_options", lambda: options)
        kernel_fn._compiled.cache_clear()
        yield
    kernel_fn._compiled.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(20))
def test_random_architectures(chunk):
    stax = neural_tangents().stax
    compared = beyond = 0
    for seed in range(10 * chunk, 10 * chunk + 10):
        steps, x1, x2 = architectures.random_architecture(seed)
        both = np.concatenate([x1, x2])
        net = architectures.ours(steps)
        ours = net.kernel_fn(both, None, ("nngp", "ntk"))
        n = len(x1)
        try:
            K, T = architectures.oracle(steps, both, averages)
        except architectures.OutOfRangeError:
            beyond += 1
        else:
            # required 1e-10; the oracle's own quadrature is good to 1e-13 per layer
            assert deviation(ours.nngp, K) < 1e-10, (seed, steps)
            assert deviation(ours.ntk, T) < 1e-10, (seed, steps)
        if seed % 10 == 0:  # two different sets: one mask per input, no exact diagonal
            cross = net.kernel_fn(x1, x2, ("nngp", "ntk"))
            assert deviation(cross.nngp, np.asarray(ours.nngp)[:n, n:]) < 1e-12
            assert deviation(cross.ntk, np.asarray(ours.ntk)[:n, n:]) < 1e-12
        names = architectures.names_used(steps)
        if names & architectures.OURS_ONLY:
            continue
        with permissive():
            triple = architectures.neural_tangents_net(steps, stax)
            theirs = triple[2](x1, x2, ("nngp", "ntk"))
        if names & {"rectified_monomial", "polynomial"}:
            continue  # theirs is NaN on duplicates, antipodes and zeros; the oracle holds these
        generic = generic_pairs(x1, x2)
        for got, want in [(ours.nngp, theirs.nngp), (ours.ntk, theirs.ntk)]:
            got, want = np.asarray(got)[:n, n:][generic], np.asarray(want)[generic]
            assert deviation(got, want) < 1e-10, (seed, steps)
        compared += 1
    assert compared >= 2  # of ten; the others hold activations or inputs that it cannot do
    assert beyond <= 4


def generic_pairs(x1, x2):
    """Pairs that are neither parallel nor antiparallel: there their angle is good to 1e-8 only."""
    u1, u2 = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (x1, x2))
    return np.abs(u1 @ u2.T) < 1 - 1e-6
