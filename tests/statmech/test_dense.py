"""Dense networks: saddle points against mpmath, an independent free energy, published values."""

import functools
import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import statmech
from deeplimits.errors import DomainError, ShapeError
from statmech import Examples, dense_hebbian

TEN = Examples(10, 0.6)
CASES = [  # P, alpha, T, index, examples, m; values to the digits that are printed
    (3, 0.03, 0.5, "distinct", None, 0.98431),
    (3, 0.03, 0.5, "full", None, 0.97333),
    (4, 0.004, 0.4, "full", None, 0.99829),
    (3, 0.01, 0.3, "distinct", TEN, 0.93523),
    (3, 0.01, 0.3, "distinct", Examples(10, 0.6, supervised=False), 0.92425),
    (4, 0.001, 0.3, "distinct", Examples(10, 0.7), 0.98292),
    (4, 0.001, 0.3, "distinct", Examples(10, 0.7, supervised=False), 0.98120),
    (3, 0.08, 0.0, "distinct", None, 0.98464),
    (3, 0.10, 0.0, "distinct", None, 0.96114),
]
PAIRS = [  # P = 2: alpha, T, examples, m
    (0.015, 0.2, Examples(12, 0.5), None),
    (0.015, 0.2, Examples(12, 0.5, supervised=False), None),
]


def solve(case, **more):
    P, alpha, T, index, examples = case[:5]
    return dense_hebbian(P, alpha, T, index=index, examples=examples, **more)


@pytest.mark.parametrize("case", CASES)
def test_values(case):
    s = solve(case)
    assert s.exists
    assert s.locally_stable
    assert s.branch == "retrieval"
    assert s.m == pytest.approx(case[5], abs=6e-6)  # five digits are printed
    assert s.residual < 1e-12  # rounding of the averages, 1e-15, amplified near a spinodal


def kernel(P, index, q):
    """Written out for the cases in use."""
    if index == "distinct":
        return math.factorial(P) * q**P
    return {3: 6 * q**3 + 9 * q, 4: 24 * q**4 + 72 * q**2}[P]


def law(examples):
    if examples is None:
        return [(1.0, 1.0)]
    M, r = int(examples.M), examples.r
    R = r**2 + (1 - r**2) / M
    return [
        ((2 * k - M) / M / math.sqrt(R), math.comb(M, k) * ((1 + r) / 2) ** k
         * ((1 - r) / 2) ** (M - k)) for k in range(M + 1)
    ]  # fmt: skip


def kappa(P, examples):
    if examples is None or examples.supervised:
        return 1.0
    M, r = examples.M, examples.r
    rho, rho_P = (1 - r**2) / (M * r**2), (1 - r ** (2 * P)) / (M * r ** (2 * P))
    return (1 + rho_P) / (1 + rho) ** P


@pytest.mark.parametrize("case", [CASES[i] for i in (0, 1, 4)])
def test_saddle_point_against_mpmath(case):
    """The equations by adaptive quadrature at 25 digits."""
    P, alpha, T, index, examples = case[:5]
    s, c = solve(case), 0.5
    with mpmath.workdps(25):
        slope = mpmath.diff(lambda q: kernel(P, index, q), mpmath.mpf(float(s.q)))
        V = alpha * c**2 * kappa(P, examples) * slope
        M, q = 0, 0
        for x, weight in law(examples):
            field = c * P * x * float(s.Mhat) ** (P - 1)

            def tanh(z, field=field):
                return mpmath.tanh((field + mpmath.sqrt(V) * z) / T)

            ends = [-9, -3, 0, 3, 9]
            M += weight * x * mpmath.quad(lambda z: mpmath.npdf(z) * tanh(z), ends)
            q += weight * mpmath.quad(lambda z: mpmath.npdf(z) * tanh(z) ** 2, ends)
    assert float(M) == pytest.approx(float(s.Mhat), abs=1e-12)
    assert float(q) == pytest.approx(float(s.q), abs=1e-12)


@functools.partial(jax.jit, static_argnames=("P", "index", "examples"))
def free_energy(variables, beta, alpha, P, index, examples):
    """Minus beta f by another quadrature, in M, q and V; general in all three."""
    M, q, V = variables
    c = 0.5
    z = jnp.linspace(-9.0, 9.0, 721)
    weight = jnp.exp(-(z**2) / 2) / jnp.sqrt(2 * jnp.pi) * (z[1] - z[0])
    total = -beta * c * (P - 1) * M**P - beta**2 * V / 2 * (1 - q)
    difference = kernel(P, index, jnp.ones(())) - kernel(P, index, q)
    total += beta**2 * alpha * c**2 * kappa(P, examples) / 2 * difference
    for x, p in law(examples):
        h = beta * (c * P * x * M ** (P - 1) + jnp.sqrt(V) * z)
        total += p * jnp.sum(weight * jnp.logaddexp(h, -h))
    return total


@pytest.mark.parametrize("branch", ["retrieval", "unstable"])
@pytest.mark.parametrize("case", [CASES[i] for i in (1, 4)])
def test_free_energy_is_stationary(case, branch):
    P, alpha, T, index, examples = case[:5]
    s = solve(case, branch=branch)
    slope = float(jax.grad(lambda q: kernel(P, index, q))(float(s.q)))
    V = alpha * 0.25 * kappa(P, examples) * slope
    at, beta = jnp.array([float(s.Mhat), float(s.q), V]), 1 / T
    f = functools.partial(free_energy, alpha=alpha, P=P, index=index, examples=examples)
    # the rule has 1e-13 at this temperature; beta^2 multiplies rounding
    assert np.asarray(jax.grad(f)(at, beta)) == pytest.approx(np.zeros(3), abs=1e-10)
    assert -T * float(f(at, beta)) == pytest.approx(float(s.f), abs=1e-12)
    assert -float(jax.grad(f, argnums=1)(at, beta)) == pytest.approx(float(s.U), abs=1e-11)
    if branch == "unstable":
        assert not s.stable
        assert s.Mhat < solve(case).Mhat


@pytest.mark.parametrize("case", PAIRS)
def test_pairs_with_examples(case):
    """P = 2: direct equations, and the energy as derivative of the free energy."""
    alpha, T, examples, _ = case
    s = dense_hebbian(2, alpha, T, examples=examples)
    z, beta = np.linspace(-9, 9, 1441), 1 / T
    w = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    C, q, rho = beta * (1 - s.q), float(s.q), examples.entropy
    noise = q / (1 - C) ** 2
    if not examples.supervised:
        ell = rho / (1 + rho)
        noise += (examples.M - 1) * ell**2 * q / (1 - ell * C) ** 2
    M, m, found = 0.0, 0.0, 0.0
    for x, p in law(examples):
        t = np.tanh(beta * (x * s.Mhat + math.sqrt(alpha * noise) * z))
        M, m, found = M + p * x * (w @ t), m + p * (w @ t), found + p * (w @ t**2)
    # the trapezoid rule is exact to rounding here; C amplifies q by beta
    assert [M, m, found] == pytest.approx([float(s.Mhat), float(s.m), q], abs=1e-12)
    up, down = (dense_hebbian(2, alpha, T + d, examples=examples) for d in (1e-4, -1e-4))
    slope = (up.f / up.T - down.f / down.T) / (1 / up.T - 1 / down.T)
    # central differences: 1e-8 times a third derivative over f''
    assert slope == pytest.approx(float(s.U), abs=1e-6)


def test_perfect_pairs_are_the_hopfield_network():
    s = dense_hebbian(2, [0.05, 0.1], 0.2, examples=Examples(3, 1.0))
    h = statmech.hopfield([0.05, 0.1], 0.2)
    for name in ("m", "q", "f", "U", "replicon"):
        # two solvers with residuals of 1e-13 each
        assert getattr(s, name) == pytest.approx(getattr(h, name), abs=1e-11)


def test_grid_branches_and_derivatives():
    alpha = np.linspace(0, 0.05, 8)[None, :]
    T = np.array([0.0, 0.02, 0.3, 0.5, 0.8, 0.97, 0.99, 1.2])[:, None]
    s, u = (dense_hebbian(4, alpha, T, branch=b) for b in ("retrieval", "unstable"))
    limit = statmech.dense_load(4, T[:, 0])[:, None]
    assert (s.exists == (alpha <= limit) & (T < 0.9915)).all()
    inside = s.exists
    barrier = inside & ((T > 0) | (alpha > 0))  # at T = 0 without load every overlap grows
    assert (u.exists == barrier).all()
    assert s.residual[inside].max() < 1e-11
    assert u.residual[barrier].max() < 1e-11
    assert (s.Mhat[barrier] >= u.Mhat[barrier]).all()
    assert np.isnan(s.m[~inside]).all()

    def m(alpha, T):
        return dense_hebbian(4, alpha, T).m

    slopes = jax.grad(m, argnums=(0, 1))(0.01, 0.5)
    points = dense_hebbian(4, [0.0101, 0.0099, 0.01, 0.01], [0.5, 0.5, 0.501, 0.499]).m
    differences = (points[0] - points[1]) / 2e-4, (points[2] - points[3]) / 2e-3
    # central differences, relative error step^2
    assert np.asarray(slopes) == pytest.approx(np.array(differences), rel=1e-3)


def test_states_without_overlap():
    glass = dense_hebbian(3, 0.03, [0.0, 0.05, 0.2], branch="spin_glass")
    J = 0.5 * math.sqrt(2 * 0.03 * 6)
    # ten digits of the ground state of the P-spin glass are published
    assert glass.f[0] == pytest.approx(-0.813534964 * J, abs=1e-9 * J)
    assert list(glass.exists) == [True, True, False]
    plain = dense_hebbian(3, 0.03, [0.5], branch="paramagnet")
    assert plain.f[0] == pytest.approx(-0.5 * math.log(2) - 0.03 * 0.25 * 6 / 2 / 0.5, rel=1e-13)
    T_g = 12 * 0.5 * math.sqrt(0.03)
    rs = dense_hebbian(4, 0.03, [0.9, 0.999 * T_g, 1.001 * T_g, 0.0], index="full",
                       branch="spin_glass")  # fmt: skip
    assert list(rs.exists) == [True, True, False, True]
    assert rs.q[3] == 1.0
    assert rs.q[1] < 0.01 < rs.q[0]
    random_field = dense_hebbian(3, 0.03, [0.2, 1.1], index="full", branch="paramagnet")
    q = random_field.q
    z = np.linspace(-9, 9, 1441)
    w = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    for q_i, T in zip(q, (0.2, 1.1), strict=True):
        V = 0.03 * 0.25 * (18 * q_i**2 + 9)
        assert w @ np.tanh(math.sqrt(V) * z / T) ** 2 == pytest.approx(q_i, abs=1e-12)
    assert (rs.residual[rs.exists] < 1e-12).all()
    assert (random_field.residual < 1e-12).all()


def test_bad_input():
    for arguments, more, text in [
        ((2, 0.1, 0.1), {}, "use statmech.hopfield"),
        ((1, 0.1, 0.1), {}, "P must be >= 2"),
        ((3, -0.1, 0.1), {}, "alpha must be >= 0"),
        ((3, 0.1, -0.1), {}, "T must be >= 0"),
        ((3, 0.1, 0.1), {"c": 0.0}, "c must be > 0"),
        ((3, 0.1, 0.1), {"index": "x"}, "index must be"),
        ((3, 0.1, 0.1), {"branch": "x"}, "branch must be"),
        ((3, 0.1, 0.1), {"examples": 3}, "examples must be"),
        ((2, 0.1, 0.1), {"examples": TEN, "index": "full"}, "equal indices"),
        ((2, 0.1, 0.1), {"examples": TEN, "branch": "spin_glass"}, "needs P >= 3"),
        ((3, 0.1, 0.1), {"index": "full", "branch": "spin_glass"}, "no separate spin glass"),
        ((2, 0.1, 0.1), {"examples": Examples(math.inf, rho=0.1, rho_P=0.1, supervised=False)},
         "needs finite M"),
    ]:  # fmt: skip
        with pytest.raises(DomainError, match=text):
            dense_hebbian(*arguments, **more)
    with pytest.raises(ShapeError, match="must broadcast"):
        dense_hebbian(3, [0.1, 0.2], [0.1, 0.2, 0.3])
    with pytest.raises(DomainError, match="cannot be differentiated"):
        jax.grad(lambda a: dense_hebbian(3, a, 0.1, branch="spin_glass").f)(0.1)


def test_two_retrieval_states():
    """Noisy examples at low temperature: another quadrature, the noise solved at fixed overlap.

    The state of larger overlap ends at the load 0.02409; retrieval goes on with a smaller overlap.
    Iterated together with the overlap the noise would leave the latter state.
    """
    rho, T = 0.2, 0.3
    alpha = np.array([0.0225, 0.0235, 0.0245, 0.0265])
    z = np.linspace(-9, 9, 361)
    w = np.exp(-(z**2) / 2) / np.exp(-(z**2) / 2).sum()

    def averages(M, q):
        """E x tanh by the mean of x at given field, and E tanh^2."""
        s = 2 * M**3
        var = s**2 * rho / (1 + rho) + alpha[:, None] * 24 * q**3
        x = 1 / np.sqrt(1 + rho) + s * rho / (1 + rho) / np.sqrt(var) * z
        t = np.tanh((s / np.sqrt(1 + rho) + np.sqrt(var) * z) / T)
        return (w * x * t).sum(1, keepdims=True), (w * t**2).sum(1, keepdims=True)

    M, q = np.full((4, 1), 0.9), np.full((4, 1), 0.9)
    for _ in range(400):
        for _ in range(12):
            q = averages(M, q)[1]
        M = averages(M, q)[0]
    data = Examples(math.inf, rho=rho)
    for i, load in enumerate(alpha):  # one at a time: programs that other tests have compiled
        state = dense_hebbian(4, load, T, examples=data)
        # trapezoid rule of spacing h = 1/20: error exp(-2 pi d / h) below 1e-15 for poles at d > 1;
        # the slowest iteration gains a factor 0.95 a step
        assert state.Mhat == pytest.approx(M[i, 0], rel=1e-8)
        assert state.q == pytest.approx(q[i, 0], rel=1e-8)
        assert state.locally_stable
        barrier = dense_hebbian(4, load, T, examples=data, branch="unstable")
        assert barrier.exists
        assert barrier.Mhat < state.Mhat
        assert max(state.residual, barrier.residual) < 1e-12
