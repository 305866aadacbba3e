"""Parisi's formula against nested quadrature, closed forms, exact bounds and published values."""

import functools
import itertools

import numpy as np
import pytest
import scipy.integrate
import scipy.special

import statmech
from deeplimits.errors import DomainError, PrecisionWarning
from statmech.parisi import _state, as_coefficients
from statmech.parisi_functional import evaluate
from statmech.parisi_minimum import Model, Steps, descend, minimise, slopes

SK = as_coefficients("sk")
COLD = Model(SK, 0.0, 0.0)
#: The limit of many steps at T = 0: A. Crisanti and T. Rizzo, Phys. Rev. E 65, 046137 (2002), and
#: later more digits.
SK_GROUND_STATE = -0.7631667265665


def gaussian(f, variance, shift=0.0):
    """E f(shift + sqrt(variance) z) by adaptive quadrature, split at the cusp of |h|."""
    s = variance**0.5

    def density(x):
        return np.exp(-((x - shift) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)

    ends = sorted({shift - 10 * s, min(max(0.0, shift - 10 * s), shift + 10 * s), shift + 10 * s})
    parts = itertools.pairwise(ends)
    return sum(
        scipy.integrate.quad(lambda x: density(x) * f(x), a, b, epsabs=1e-11, limit=100)[0]
        for a, b in parts
    )


def nested(gamma, q, T, h, xi):
    """-f of one step by nested adaptive quadrature, from the formula in the docstring."""

    def slope(q):
        return sum(p * c * q ** (p - 1) for p, c in enumerate(xi) if c)

    def theta(q):
        return sum((p - 1) * c * q**p for p, c in enumerate(xi) if c)

    def last(x):
        if T == 0:
            return abs(x)
        return abs(x) + T * np.log1p(np.exp(-2 * abs(x) / T)) + (slope(1) - slope(q[1])) / (2 * T)

    inner = slope(q[1]) - slope(q[0])
    value = gaussian(
        lambda x: np.log(gaussian(lambda y: np.exp(gamma * last(y)), inner, x)) / gamma,
        slope(q[0]),
        h,
    )
    penalty = gamma * (theta(q[1]) - theta(q[0]))
    if T > 0:
        penalty += (theta(1) - theta(q[1])) / T
    return value - penalty / 2


@pytest.mark.parametrize(
    ("gamma", "q", "T", "h", "model"),
    [
        (1.36, (0.48, 1.0), 0.0, 0.0, "sk"),
        (0.56, (0.21, 0.62), 0.5, 0.3, "sk"),
        (1.2, (0.3, 0.8), 0.4, 0.2, {1: 0.05, 3: 0.4, 4: 0.2}),
    ],
)
def test_functional_against_nested_quadrature(gamma, q, T, h, model):
    xi = as_coefficients(model)
    found = evaluate(np.array([gamma]), np.array(q), T, h, xi).value
    # the quadrature stops at 1e-11 on each level
    assert float(found) == pytest.approx(nested(gamma, q, T, h, xi), abs=1e-10)


def test_derivatives_against_finite_differences():
    gamma, q, T, h = np.array([0.35, 0.71, 1.1]), np.array([0.1, 0.3, 0.5, 0.7]), 0.5, 0.2
    found = evaluate(gamma, q, T, h, SK)
    step = 1e-5

    def slope(change):
        up, down = (evaluate(*change(s * step), SK).value for s in (1, -1))
        return float(up - down) / (2 * step)

    for i, e in enumerate(np.eye(3)):
        # central differences: 1e-16 / step, and step^2 times third derivatives of order one
        expected = slope(lambda s, e=e: (gamma + s * e, q, T, h))
        assert found.gamma[i] == pytest.approx(expected, abs=1e-9)
    for i, e in enumerate(np.eye(4)):
        expected = slope(lambda s, e=e: (gamma, q + s * e, T, h))
        assert found.q[i] == pytest.approx(expected, abs=1e-9)
    assert float(found.T) == pytest.approx(slope(lambda s: (gamma, q, T + s, h)), abs=1e-9)
    assert float(found.h) == pytest.approx(slope(lambda s: (gamma, q, T, h + s)), abs=1e-9)


def test_no_steps_is_replica_symmetry():
    rs, k0 = statmech.sk(0.5, 0.3), statmech.parisi("sk", 0.5, 0, h=0.3)
    # the descent stops at gradients of 1e-9: f to its square, q to 1e-8
    assert k0.f == pytest.approx(rs.f, abs=1e-13)
    assert k0.q[0] == pytest.approx(rs.q, abs=1e-7)
    assert k0.m == pytest.approx(rs.m, abs=1e-7)
    assert k0.U == pytest.approx(rs.U, abs=1e-7)
    assert statmech.parisi("sk", 0.5, 0, h=-0.3).m == pytest.approx(-k0.m, rel=1e-12)
    para = statmech.parisi("sk", 1.25, 2)
    assert para.f == pytest.approx(-1.25 * np.log(2) - 0.2, abs=1e-9)  # -T ln 2 - 1 / 4T


#: One step: independent solution of the saddle-point equations in 1RSB form; more steps: by this
#: program, confirmed to 2e-8 by one with interpolated grids.
GROUND_STATES = {1: -0.765259434674, 2: -0.763608010538, 3: -0.763313480981, 5: -0.763197532386}
#: The best of several starts of the descent.
MANY_STEPS = {8: -0.763173103897, 12: -0.763168238602}


@functools.cache
def ground_state(k):
    if k == 8:  # not by way of fewer steps: from evenly spaced ones
        even = Steps(0.4 * np.arange(1.0, 9.0), np.append((np.arange(8) + 0.5) / 8.5, 1.0))
        return _state(COLD, descend(COLD, even), 0.0)
    return statmech.parisi("sk", 0.0, k)


def test_ground_state_energies_rise_to_the_limit():
    states = [ground_state(k) for k in GROUND_STATES]
    energies = [s.f for s in states]
    # quadratic in the gradients that are left, 1e-9
    np.testing.assert_allclose(energies, list(GROUND_STATES.values()), atol=2e-12)
    assert np.all(np.diff(energies) > 0)
    assert energies[-1] < SK_GROUND_STATE
    for s in states:
        # rounding of a few operations for each step
        assert s.f == pytest.approx(by_convolution(s.gamma, s.q, 0.01), abs=1e-13)
    one = ground_state(1)
    assert one.q[0] == pytest.approx(0.4767843715, abs=1e-7)  # flat minimum: sqrt of 1e-14
    assert one.gamma[0] == pytest.approx(1.3608208035, abs=1e-7)
    assert np.isnan(one.S)
    assert one.U == one.f
    assert one.abs_err < 1e-12


def test_one_step_ground_state_against_its_own_formula():
    mu, q0 = 1.3608208035, 0.4767843715
    b2 = 1 - q0
    z = np.linspace(-10, 10, 2001)
    x = np.sqrt(q0) * z
    phi = normal_cdf
    log_I = mu**2 * b2 / 2 + np.logaddexp(
        mu * x + np.log(phi((x + mu * b2) / b2**0.5)),
        -mu * x + np.log(phi((mu * b2 - x) / b2**0.5)),
    )
    mean = np.sum(np.exp(-(z**2) / 2) * log_I) * (z[1] - z[0]) / np.sqrt(2 * np.pi)
    e = mu / 4 * (1 - q0**2) - mean / mu
    assert e == pytest.approx(statmech.sk(0.0, rsb=1).f, abs=1e-12)  # trapezoid rule: rounding


def by_convolution(gamma, q, spacing, end=12.0):
    """f of the SK model at T = 0 by sums over fields, e^(gamma Phi) as it stands.

    The trapezoid rule needs no interpolation, as all Gaussians have the spacing of the fields,
    and converges exponentially; beyond ``end``, Phi goes on with slope 1.
    """
    n = round(end / spacing)
    x = spacing * np.arange(-n, n + 1)
    variances = np.diff(q)

    def kernel(variance, reach):
        z = spacing * np.arange(-reach, reach + 1)
        return spacing * np.exp(-(z**2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)

    g, s = gamma[-1], variances[-1] ** 0.5
    sides = [a * g * x + scipy.special.log_ndtr((a * x + g * s**2) / s) for a in (1, -1)]
    phi = np.logaddexp(*sides) / g + g * s**2 / 2
    for g, variance in zip(gamma[-2::-1], variances[-2::-1], strict=True):
        reach = int((9 * variance**0.5 + g * variance) / spacing) + 1
        beyond = spacing * np.arange(1, reach + 1)
        wide = np.concatenate([phi[0] + beyond[::-1], phi, phi[-1] + beyond])
        phi = np.log(np.convolve(np.exp(g * wide), kernel(variance, reach), "valid")) / g
    return gamma @ np.diff(q**2) / 4 - kernel(q[0], n) @ phi


@pytest.mark.optimized  # the descent, 8 s, takes four times as long without
def test_ground_state_with_many_steps():
    states = [ground_state(k) for k in MANY_STEPS]
    for s, expected, left in zip(states, MANY_STEPS.values(), (2e-12, 2e-10), strict=True):
        # squares of the gradients that are left, 1e-9 and 5e-9, over twice the smallest
        # curvatures, 1e-6 and 1e-7
        assert s.f == pytest.approx(expected, abs=left)
        coarse, fine = (by_convolution(s.gamma, s.q, spacing) for spacing in (0.01, 0.005))
        assert coarse == pytest.approx(fine, abs=1e-13)  # trapezoid rule: rounding on both grids
        # narrow last steps cost the Fourier transform digits: 5e-12 by its own comparison of grids
        assert s.f == pytest.approx(fine, abs=1e-13 + 4 * s.abs_err)
        assert s.abs_err < 1e-11
    energies = np.array([GROUND_STATES[3], GROUND_STATES[5], *(s.f for s in states)])
    assert np.all(np.diff(np.append(energies, SK_GROUND_STATE)) > 0)
    assert round(energies[-1], 5) == round(SK_GROUND_STATE, 5) == -0.76317
    # the distance to the limit falls as (k + constant)^-4 (Oppermann, Sherrington, Schmidt 2007):
    # its power -1/4 rises linearly with k, up to corrections that fade
    rise = np.diff((SK_GROUND_STATE - energies) ** -0.25) / np.diff([3, 5, 8, 12])
    bend = np.abs(np.diff(rise)) / rise[1:]
    assert bend[1] < bend[0] < 0.01


@pytest.mark.optimized
@pytest.mark.parametrize("k", [8, 12])
def test_no_change_of_steps_raises_the_ground_state(k):
    s = ground_state(k)
    best = by_convolution(s.gamma, s.q, 0.01)
    # in the logarithms of the increments, whatever makes the order of the steps
    logs = np.log(np.append(np.diff(s.gamma, prepend=0.0), np.diff(s.q, prepend=0.0)))

    def energy(change):
        parts = np.exp(logs + change)
        q = np.append(np.cumsum(parts[k:-1]) / parts[k:].sum(), 1.0)
        return by_convolution(np.cumsum(parts[:k]), q, 0.01)

    along = np.random.default_rng(k).normal(size=(12, len(logs)))
    directions = np.concatenate([np.eye(len(logs)), along])
    for size in (0.01, 0.1):
        up, down = (np.array([energy(a * size * e) for e in directions]) for a in (1, -1))
        assert max(up.max(), down.max()) < best
    size = 1e-3
    up, down = (np.array([energy(a * size * e) for e in directions]) for a in (1, -1))
    # the top of the parabola through three points, along each line
    gain = (up - down) ** 2 / (8 * (2 * best - up - down))
    # gradients of 1e-8 squared over curvatures of 5e-6
    assert 0 <= gain.max() < 1e-11


def normal_cdf(x):
    return 0.5 * scipy.special.erfc(-x / np.sqrt(2))


def test_finite_temperature_state():
    s = statmech.parisi("sk", 0.5, 5)
    # within the certified bound of the limit -0.79117757 (k = 12 here)
    assert s.f == pytest.approx(-0.791177783012, abs=1e-10)
    assert s.f <= -0.7911775842 + 1e-10 <= s.f + s.gap
    assert s.gap < 4e-6
    assert s.weights.sum() == pytest.approx(1, abs=1e-14)
    # the energy by the overlap and by thermodynamics: the steps are stationary to 1e-8
    assert s.U == pytest.approx(-(1 - s.moment(2)) / (2 * 0.5), abs=1e-7)
    assert s.S == pytest.approx((s.U - s.f) / 0.5, abs=1e-12)
    assert s.cdf([0.0, s.q[0], 1.0]).tolist() == pytest.approx([0.0, s.weights[0], 1.0])
    rs = statmech.sk(0.5)
    assert rs.f < s.f  # Guerra's bounds rise with the number of steps


def test_slopes_bound_what_is_missing_and_vanish_at_steps():
    model = Model(SK, 0.5, 0.0)
    one = minimise(model, 1)
    promise = slopes(model, one, np.append(np.linspace(0.05, 0.95, 19), one.q))
    missing = one.value - 0.7911775842
    assert -promise.min() > missing > 0
    # at its own steps the derivative is stationary and equals minus the average, 0
    assert np.abs(promise[-2:]).max() < 1e-7  # gamma = 1e-3 squared, times 0.1
    # at T = 0 the derivative towards a step is the gradient with respect to its height
    s = Steps(np.array([1.36]), np.array([0.477, 1.0]))
    step, place = 1e-4, 0.8
    changed = [
        evaluate(np.array([1.36, 1.36 + e]), np.array([0.477, place, 1.0]), 0.0, 0.0, SK).value
        for e in (step, -step)
    ]
    expected = float(changed[0] - changed[1]) / (2 * step)
    # extrapolated to a vanishing height below the first overlap: square of 1e-3
    assert slopes(COLD, s, np.array([place]))[0] == pytest.approx(expected, abs=1e-6)


def test_mixture_that_needs_an_inserted_step():
    model = {2: 0.3, 3: 0.3}
    one, two = (statmech.parisi(model, 0.3, k) for k in (1, 2))
    assert one.f + 5e-5 < two.f < one.f + one.gap
    assert len(two.gamma) == 2
    assert two.gap < one.gap / 20


def test_plots():
    for T in (0.0, 0.5):
        ax = statmech.parisi("sk", T, 1).plot()
        assert "x(q)" in ax.get_ylabel()


def test_refusals():
    for bad, match in [
        ("ising", "model must be 'sk'"),
        ({16: 0.5}, "got the power 16"),
        ({2: -0.5}, r"coefficient of q\^2 must be >= 0"),
        ({1: 0.5}, "disorder of a power >= 2"),
        (1, "model must be >= 2"),
    ]:
        with pytest.raises(DomainError, match=match):
            statmech.parisi(bad, 0.5, 1)
    with pytest.raises(DomainError, match="T must be >= 0"):
        statmech.parisi("sk", -0.1, 1)
    with pytest.raises(DomainError, match=r"statmech\.sk\(0\.0, h\)"):
        statmech.parisi("sk", 0.0, 0)
    with pytest.raises(DomainError, match="k must be between 0 and 24"):
        statmech.parisi("sk", 0.5, 25)
    with pytest.warns(
        PrecisionWarning, match=r"is too coarse for T = 0\.001.*Use T = 0 or a higher"
    ):
        statmech.parisi("sk", 1e-3, 1)
    narrow = Steps(np.array([1.0, 300.0]), np.array([0.5, 1 - 1e-5, 1.0]))
    with pytest.warns(PrecisionWarning, match=r"is too coarse for 2 steps at T = 0.*fewer steps"):
        _state(COLD, narrow, 0.0)
