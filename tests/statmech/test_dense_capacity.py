"""Dense networks at T = 0: capacities, one step, learning thresholds, noise kernels, examples."""

import itertools
import math

import numpy as np
import pytest
from scipy.special import erf

import statmech
from deeplimits.errors import ConvergenceError, DomainError
from statmech import Examples, dense_capacity, minimal_examples, one_step_overlap

# Digits printed in the table of the literature values; the last one is rounded.
TABLE = [
    (3, 0.1260952154, 0.83848227, 0.0840634769),
    (4, 0.0329766865, 0.91792194, 0.0131906746),
    (5, 0.0071988564, 0.94724252, 0.0016454529),
    (6, 0.0013139961, 0.96198723, 0.0001668567),
    (8, 2.77183e-05, 0.97636906, 1.0338e-06),
    (10, 3.553e-07, 0.98323479, 3.7e-09),
]


def digits(value, text):
    """Half a unit of the last digit that is printed."""
    decimals = len(f"{text:.12g}".split(".")[1].split("e")[0])
    exponent = int(f"{text:e}".split("e")[1]) if "e" in f"{text:.12g}" else 0
    return abs(value - text) <= 0.51 * 10.0 ** (exponent - decimals)


@pytest.mark.parametrize(("P", "distinct", "m", "full"), TABLE)
def test_capacities(P, distinct, m, full):
    found = dense_capacity(P)
    assert digits(found.alpha, distinct)
    assert float(found) == found.alpha
    assert digits(dense_capacity(P, index="full").alpha, full)
    # the load is flat in the overlap: 1e-16 in it leaves 1e-8, and the digits are eight
    assert found.m == pytest.approx(m, abs=2e-8)
    t = np.linspace(0.3, 4, 400_001)
    closed = (erf(t) ** (2 * (P - 1)) / (2 * t**2)).max()
    # a grid of step 1e-5 misses the maximum by its square
    assert found.alpha * math.factorial(P - 1) == pytest.approx(closed, rel=1e-9)


@pytest.mark.parametrize(
    ("P", "rho", "effective", "alpha"),
    [
        (3, 0.1, 0.13252153, 0.09956539),
        (3, 0.3, 0.16908556, 0.07696202),
        (3, 1.0, 0.46707572, 0.05838447),
        (4, 0.05, 0.03189779, 0.02624239),
        (4, 0.1, 0.03186328, 0.02176305),
        (4, 0.2, 0.03411174, 0.01645049),
        (4, 0.5, 0.05377293, 0.01062181),
        (4, 1.0, 0.13045083, 0.00815318),
        (6, 0.1, 0.00113836, 0.00064258),
    ],
)
def test_capacities_of_gaussian_examples(P, rho, effective, alpha):
    found = dense_capacity(P, examples=Examples(math.inf, rho=rho))
    assert digits(found.alpha, alpha)
    assert digits(found.effective, effective)
    # the explicit curve in t = A / (sqrt(2) S)
    t = np.linspace(0.05, min(1 / math.sqrt(2 * rho), 4) - 1e-6, 400_001)
    n = erf(t) + 2 * rho * t / math.sqrt(math.pi) * np.exp(-(t**2))
    curve = (P * n ** (P - 1)) ** 2 * (1 / (2 * t**2) - rho) / (P * math.factorial(P))
    assert found.effective == pytest.approx(curve.max(), rel=1e-8)
    unsupervised = Examples(math.inf, rho=rho, supervised=False, rho_P=0.7)
    found = dense_capacity(P, examples=unsupervised)
    assert found.alpha * 1.7 == pytest.approx(curve.max(), rel=1e-8)


def test_overlaps_at_criticality():
    """P = 4: m at capacity against the values for growing entropy."""
    values = {0.05: 0.881601, 0.1: 0.845123, 0.2: 0.779492, 0.5: 0.645023, 1.0: 0.524972}
    for rho, m in values.items():
        # six digits are printed
        assert dense_capacity(4, examples=Examples(math.inf, rho=rho)).m == pytest.approx(
            m, abs=6e-7
        )


def test_many_examples_approach_the_gaussian_law():
    gaps = []
    for M in (100, 400, 1600):
        r = 1 / math.sqrt(1 + 0.2 * M)  # rho = 0.2
        exact = dense_capacity(4, examples=Examples(M, r)).alpha
        gaps.append(exact - dense_capacity(4, examples=Examples(math.inf, rho=0.2)).alpha)
    # corrections in 1/M: a factor 4 up to terms of relative order 1/M
    assert np.array(gaps[:-1]) / gaps[1:] == pytest.approx([4, 4], rel=0.1)


def test_one_step():
    for supervised, value in ((True, 0.9300), (False, 0.8948)):
        data = Examples(10, 0.6, supervised=supervised)
        # four digits are printed
        assert one_step_overlap(3, 0.03, examples=data) == pytest.approx(value, abs=6e-5)
    rho, alpha = 0.3, 0.02
    found = one_step_overlap(4, alpha, examples=Examples(math.inf, rho=rho))
    exact = erf(1 / math.sqrt(2 * (rho + 6 * alpha * (1 + rho) ** 4)))
    assert found == pytest.approx(exact, rel=1e-13)  # rounding
    assert one_step_overlap(3, 0.0) == 1.0


def test_minimal_examples():
    alpha, qualities = 0.2 * dense_capacity(4).alpha, (0.8, 0.6, 0.4, 0.3, 0.2)
    supervised = [minimal_examples(4, alpha, r) for r in qualities]
    unsupervised = [minimal_examples(4, alpha, r, supervised=False) for r in qualities]
    assert supervised == [2, 2, 2, 3, 7]
    assert unsupervised == [2, 16, 388, 3823, 97687]
    # unsupervised M at r = 0.01 is beyond the largest number looked at, 1e15
    for way, power, small in ((True, -2, [0.02, 0.01]), (False, -8, [0.04, 0.02])):
        M = [minimal_examples(4, alpha, r, supervised=way) for r in small]
        slope = np.diff(np.log(M))[0] / np.diff(np.log(small))[0]
        # integers near 700 and corrections of order r^2
        assert slope == pytest.approx(power, abs=5e-3)
    steps = [minimal_examples(4, alpha, r, criterion="one_step", law="binomial") for r in (0.3, 1)]
    assert steps[1] == 1
    M = np.arange(2, 40)
    good = [one_step_overlap(4, alpha, examples=Examples(int(k), 0.3)) > erf(1 / 2**0.5) for k in M]
    assert good[steps[0] - 2]
    assert not good[steps[0] - 3]
    assert minimal_examples(3, 0.01, 0.5, criterion="one_step") >= 2


def test_binomial_law_by_enumeration():
    M, r = 5, 0.4
    data = Examples(M, r, supervised=False)
    chi = np.array(list(itertools.product([-1, 1], repeat=M)))
    weight = np.prod((1 + chi * r) / 2, axis=1)
    R = r**2 * (1 + data.entropy)
    x = chi.mean(1) / math.sqrt(R)
    law = data.law()
    for power in (2, 4):  # rounding
        assert law.x**power @ law.even == pytest.approx(weight @ x**power, rel=1e-14)
    assert law.x @ law.odd == pytest.approx(weight @ x, rel=1e-14)
    assert weight @ x**2 == pytest.approx(1, rel=1e-14)
    # noise of a P-tensor that is a sum over examples: pairs of examples, spin by spin
    P = 3
    same, other = 1.0, r**2
    variance = (M * same**P + M * (M - 1) * other**P) / (M**2 * R**P)
    assert data.noise(P) == pytest.approx(variance, rel=1e-14)
    assert Examples(M, r).noise(P) == 1.0
    assert Examples(7, 1.0).law().x == pytest.approx([1.0])


@pytest.mark.parametrize("P", [3, 4, 5])
def test_kernels_against_moments_and_enumeration(P):
    """Covariance of the energy of one random pattern between configurations of given overlap."""
    x, w = np.polynomial.hermite_e.hermegauss(40)
    w = w / w.sum()
    powers = np.arange(P + 1)
    for q in (0.3, 1.0):
        z2 = q * x[:, None] + math.sqrt(1 - q**2) * x[None, :]
        weights = w[:, None] * w[None, :]
        direct = np.sum(weights * x[:, None] ** P * z2**P) - (w @ x**P) ** 2
        kernel = statmech.noise_kernel(P, "full")
        # Gauss-Hermite with 40 nodes is exact for these polynomials, up to rounding
        assert kernel @ q**powers == pytest.approx(direct, rel=1e-11)
    # distinct indices: N = 12 spins, overlap 1/3, all 2^12 patterns, exact combinatorics
    N, flipped = 12, 4
    patterns = np.array(list(itertools.product([-1.0, 1.0], repeat=N)))
    second = np.where(np.arange(N) < flipped, -1.0, 1.0)
    energies = []
    for spins in (np.ones(N), second):
        e = np.zeros((len(patterns), P + 1))
        e[:, 0] = 1
        for i in range(N):
            e[:, 1:] = e[:, 1:] + (patterns[:, i] * spins[i])[:, None] * e[:, :-1]
        energies.append(e[:, P])
    found = np.mean(energies[0] * energies[1])
    # the elementary symmetric polynomial of the overlaps is P!-th of N^P q^P for large N
    exact = sum(
        (-1) ** j * math.comb(flipped, j) * math.comb(N - flipped, P - j) for j in range(P + 1)
    )
    assert found == pytest.approx(exact, rel=1e-12)
    large = 10**5
    count = sum((-1) ** j * math.comb(large // 3, j) * math.comb(large - large // 3, P - j)
                for j in range(P + 1))  # fmt: skip
    q = 1 - 2 * (large // 3) / large
    kernel = statmech.noise_kernel(P)
    # corrections of order P^2 / (N q^2)
    assert kernel @ q**powers == pytest.approx(count * math.factorial(P) ** 2 / large**P, rel=2e-3)


def test_diluted_load_against_covariance():
    """Noise on synapses: the variance of the energy of a pattern grows by 1 + omega^2."""
    N, P, omega, count = 8, 3, 0.7, 20_000
    rng = np.random.default_rng(0)
    triples = np.array(list(itertools.combinations(range(N), P)))
    pattern = rng.choice([-1.0, 1.0], (count, N))
    J = np.prod(pattern[:, triples], axis=2) + omega * rng.normal(size=(count, len(triples)))
    energy = J.sum(1)  # at all spins up
    ratio = energy.var() / len(triples)
    centred = energy - energy.mean()
    stderr = np.std(centred**2) / len(triples) / count**0.5
    factor = statmech.diluted_load(P, 0.5, 1.5, 10.0, omega=omega) / (0.5 * 10 ** (1.5 - 2))
    assert abs(ratio - factor) < 4 * stderr  # one z-score, bound 4
    assert factor == pytest.approx(1 + omega**2, rel=1e-14)


def test_bad_input():
    for arguments, text in [
        ((0, 0.5), "M must be >= 1"),
        ((3, 0.0), "r must be > 0"),
        ((3, 1.5), "r must be > 0.0 and <= 1"),
        ((10**8, 0.5), "M must be at most"),
        ((3,), "finite M needs r"),
        ((math.inf, 0.5), "infinite M needs rho"),
    ]:
        with pytest.raises(DomainError, match=text):
            Examples(*arguments)
    with pytest.raises(DomainError, match="supervised must be"):
        Examples(3, 0.5, supervised=1)
    with pytest.raises(DomainError, match="needs rho_P"):
        Examples(math.inf, rho=0.1, supervised=False)
    with pytest.raises(DomainError, match="leave it out"):
        Examples(math.inf, rho=0.1, rho_P=0.1)
    with pytest.raises(DomainError, match="P must be >= 3"):
        dense_capacity(2)
    with pytest.raises(DomainError, match=r"2\.\.20"):
        dense_capacity(21)
    with pytest.raises(DomainError, match="index must be"):
        dense_capacity(3, index="all")
    with pytest.raises(DomainError, match="examples must be"):
        dense_capacity(3, examples=(10, 0.5))
    with pytest.raises(DomainError, match="too large for P = 4"):
        minimal_examples(4, 0.1, 0.5)
    with pytest.raises(ConvergenceError, match="more than"):
        minimal_examples(4, 0.006, 0.005, supervised=False)
    with pytest.raises(DomainError, match="criterion must be"):
        minimal_examples(4, 0.001, 0.5, criterion="best")
    with pytest.raises(DomainError, match="b must be"):
        statmech.diluted_load(3, 1.0, 2.5, 100)
