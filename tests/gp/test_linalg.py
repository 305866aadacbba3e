import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplimits import (
    DomainError,
    JitterWarning,
    NotPositiveDefiniteError,
    PrecisionWarning,
    ShapeError,
)
from gp.filters import descent_filter, flow_filter, heavy_ball_filter
from gp.linalg import (
    check_matrix,
    eigh_psd,
    factorize,
    kernel_diagonal,
    kernel_matrix,
    nearest_rows,
    nonnegative,
    psd_root,
    rounding_size,
)


def rbf(x, z=None, length=1.0):
    z = x if z is None else z
    d2 = ((x[:, None] - z[None]) ** 2).sum(-1)
    return np.exp(-0.5 * d2 / length**2)


LINE = np.linspace(0, 1, 60)[:, None]


# --- factors


def test_ladder_starts_at_zero():
    matrix = rbf(LINE) + 1e-3 * np.eye(60)
    factor = factorize(matrix)
    assert factor.jitter == 0
    # backward error of Cholesky: n eps
    np.testing.assert_allclose(factor.chol @ factor.chol.T, matrix, atol=60 * 2.3e-16)


def test_ladder_first_rung():
    # eps * n * mean diagonal = 2.2e-16 * 60 * 1, the smallest rung
    with pytest.warns(JitterWarning, match=r"jitter 1\.33e-14 was added"):
        factor = factorize(rbf(LINE, length=2.0))
    assert factor.jitter == pytest.approx(60 * 2.0**-52, rel=1e-12)


def test_ladder_climbs_by_tens():
    # smallest eigenvalue -3e-12: rungs 2^-52 * 3 * 10^k; the first above it is k = 4
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    matrix = basis @ np.diag([-3e-12, 1.0, 2.0]) @ basis.T
    with pytest.warns(JitterWarning):
        factor = factorize(0.5 * (matrix + matrix.T))
    # the mean diagonal is 1 up to -1e-12
    assert factor.jitter == pytest.approx(3 * 2.0**-52 * 1e4, rel=1e-9)


def test_no_warning_when_jitter_is_far_below_the_noise():
    # rungs 2.2e-16 * 10^k; the second variance is -1e-14 with its noise, so jitter 2.2e-14
    factor = factorize(np.diag([1.0, -1e-10 - 1e-14]), 1e-10)
    assert factor.jitter == pytest.approx(2.2e-14, rel=0.01)


def test_jitter_above_a_thousandth_of_the_noise_warns():
    with pytest.warns(JitterWarning, match=r"jitter 2\.22e-13 .*noise is 1e-10"):
        factorize(np.diag([1.0, -1e-10 - 1e-13]), 1e-10)


def test_noise_per_point():
    noise = np.array([0.1, 0.2, 0.3])
    matrix = rbf(LINE[:3])
    chol = factorize(matrix, noise).chol
    np.testing.assert_allclose(chol @ chol.T, matrix + np.diag(noise), rtol=1e-15, atol=1e-15)


def test_indefinite_matrix_error_names_the_cause():
    matrix = np.array([[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    with pytest.raises(
        NotPositiveDefiniteError,
        match=r"Gram \(n=3, computed in float32\).*smallest eigenvalue is -1\. .*rows are 0 and 1",
    ):
        factorize(matrix, name="Gram", dtype=np.float32)


def test_zero_trace_matrix_is_refused():
    # an indefinite matrix of trace 0: a ladder scaled by the trace would add nothing
    with pytest.raises(NotPositiveDefiniteError, match=r"jitter 4\.44e-10.*eigenvalue is -1"):
        factorize(np.diag([1.0, -1.0]))


def test_single_negative_number():
    with pytest.raises(NotPositiveDefiniteError, match=r"n=1.*smallest eigenvalue is -2"):
        factorize(np.array([[-2.0]]))


def test_nearest_rows_brute_force():
    x = np.random.default_rng(1).normal(size=(30, 2))
    x[17] = x[4] + 1e-3
    matrix = rbf(x)
    d2 = np.diag(matrix)[:, None] + np.diag(matrix)[None] - 2 * matrix + 10 * np.eye(30)
    i, j, gap = nearest_rows(matrix)
    assert (i, j) == (4, 17)
    assert gap == pytest.approx(d2.min(), rel=1e-12)


# --- eigenvalues and roots


def test_eigh_psd_clips_rounding_only():
    x = np.repeat(LINE[:5], 3, axis=0)
    values, vectors = eigh_psd(rbf(x), name="K", dtype=np.float64)
    assert (values >= 0).all()
    # rank 5 matrix, 15 rows: rounding n eps lambda_max
    np.testing.assert_allclose((vectors * values) @ vectors.T, rbf(x), atol=15 * 15 * 2.3e-16)


@pytest.mark.parametrize(("dtype", "bad"), [(np.float64, -1e-9), (np.float32, -1e-4)])
def test_eigh_psd_refuses_negative(dtype, bad):
    eigh_psd(np.diag([1.0, 0.01 * bad]), name="K", dtype=dtype)
    with pytest.raises(NotPositiveDefiniteError, match=r"K \(n=2.*eigenvalues run from -"):
        eigh_psd(np.diag([1.0, bad]), name="K", dtype=dtype)


def test_psd_root_is_the_square_root():
    matrix = rbf(LINE[:20], length=3.0)  # numerically singular
    root = psd_root(matrix, 1e-12)
    np.testing.assert_allclose(root, root.T, atol=1e-14)
    np.testing.assert_allclose(root @ root, matrix, atol=20 * 20 * 2.3e-16)


def test_psd_root_refuses_negative():
    with pytest.raises(NotPositiveDefiniteError, match="beyond rounding"):
        psd_root(np.diag([1.0, -0.1]), 1e-8)


def test_nonnegative():
    np.testing.assert_array_equal(nonnegative(np.array([1.0, -1e-12]), 1e-10), [1.0, 0.0])
    with pytest.warns(PrecisionWarning, match="variance came out as -0.1"):
        nonnegative(np.array([1.0, -0.1]), 1e-10)


def test_rounding_size():
    assert rounding_size(np.array([2.0, 1.0]), np.float64) == pytest.approx(2e-8)
    assert rounding_size(np.array([2.0, 1.0]), np.float32) == pytest.approx(2e-4)


# --- kernel matrices


def test_kernel_matrix_is_exactly_symmetric():
    noise = np.random.default_rng(0).normal(size=(10, 10)) * 1e-12
    matrix, dtype = kernel_matrix(lambda x: rbf(x) + noise, LINE[:10])
    np.testing.assert_array_equal(matrix, matrix.T)
    assert dtype == np.float64


def test_kernel_diagonal_in_blocks():
    x = np.random.default_rng(0).normal(size=(600, 2))
    sizes = []

    def kernel(x):
        sizes.append(len(x))
        return x @ x.T

    # sums of two products: rounding of the last digit
    np.testing.assert_allclose(kernel_diagonal(kernel, x), (x**2).sum(1), rtol=1e-14)
    assert sizes == [256, 256, 256]


def test_integer_kernels_are_accepted():
    matrix, dtype = kernel_matrix(lambda x: np.eye(3, dtype=int), LINE[:3])
    assert matrix.dtype == dtype == np.float64


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        (
            np.ones((3, 2)),
            ShapeError,
            r"must return an array of shape \(3, 3\).*got shape \(3, 2\)",
        ),
        ((np.eye(3),), ShapeError, "got a tuple"),
        (None, ShapeError, "got a NoneType"),
        (np.eye(3) * np.nan, DomainError, "must be finite, got nan"),
        (np.eye(3) + np.triu(np.ones((3, 3)), 1), DomainError, "must be symmetric"),
        (np.eye(3) * 1j, DomainError, "must return real numbers, got dtype complex128"),
    ],
)
def test_bad_kernel_values(value, error, match):
    with pytest.raises(error, match=match):
        check_matrix(value, (3, 3), symmetric=True)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (np.ones((3, 2)) * 1j, "real numbers, got dtype complex"),
        (np.full((3, 2), np.inf), "finite"),
    ],
)
def test_bad_cross_kernel_values(value, match):
    with pytest.raises(DomainError, match=match):
        check_matrix(value, (3, 2), symmetric=False)


# --- filters


@pytest.mark.parametrize("t", [0.0, 1e-3, 1.0, 40.0, 1e6])
def test_flow_filter_high_precision(t):
    a = np.array([0.0, 1e-300, 1e-12, 1e-3, 0.7, 5.0])
    residual, gain = flow_filter(a, t)
    with mp.workdps(40):
        exact = [mp.exp(-mp.mpf(v) * mp.mpf(t)) for v in a]
        slope = [mp.mpf(t)] + [(1 - e) / mp.mpf(v) for e, v in zip(exact[1:], a[1:], strict=True)]
        slope[1] = mp.mpf(t)  # 1 - exp(-1e-300) needs more than 40 digits; the limit is exact
        # 40 = largest exponent that matters, times eps, for exp; quotients add a few eps
        np.testing.assert_allclose(residual, [float(v) for v in exact], rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(gain, [float(v) for v in slope], rtol=2e-15)


@pytest.mark.parametrize("k", [0, 1, 2, 7, 1000, 10**6])
def test_descent_filter_high_precision(k):
    a = np.array([0.0, 1e-17, 1e-9, 1e-3, 0.499, 0.501, 1.0, 1.5, 1.999])
    residual, gain = descent_filter(a, float(k))
    with mp.workdps(60):
        exact = [(1 - mp.mpf(v)) ** k for v in a]
        slope = [mp.mpf(k)] + [(1 - e) / mp.mpf(v) for e, v in zip(exact[1:], a[1:], strict=True)]
        # exponents k log1p(-a) of which exp is not yet 0 stay below 40: 40 eps
        np.testing.assert_allclose(residual, [float(v) for v in exact], rtol=1e-13, atol=1e-14)
        # a = 1.999, k even: 1 - (1 - a)^k is a difference of numbers of order 1 (eps absolute)
        np.testing.assert_allclose(gain, [float(v) for v in slope], rtol=1e-14, atol=5e-16)


def exact_heavy_ball(a, k, m):
    root = mp.sqrt(mp.mpc((1 + m - a) ** 2 - 4 * m))
    z1, z2 = (1 + m - a + root) / 2, (1 + m - a - root) / 2
    return mp.re(((1 - z2) * z1 ** (k + 1) - (1 - z1) * z2 ** (k + 1)) / (z1 - z2))


@pytest.mark.parametrize("m", [1e-4, 0.3, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("k", [0, 1, 2, 64, 65, 300, 10**4, 10**6])
def test_momentum_filter_high_precision(m, k):
    low, high, top = (1 - m**0.5) ** 2, (1 + m**0.5) ** 2, 2 * (1 + m)
    near = [x * (1 + s) for x in (low, high) for s in (-1e-3, -1e-9, -1e-15, 0, 1e-15, 1e-9, 1e-3)]
    a = np.array([1e-14, 1e-9, 1e-4 * low, 0.5 * low, 0.9 * low, 1 + m, 0.5, 0.999 * top, *near])
    a = a[a < top]
    residual, gain = heavy_ball_filter(a, float(k), m)
    eps, step = 2.0**-52, mp.mpf(10) ** -30
    with mp.workdps(100):
        for x, r, g in zip(map(mp.mpf, a.tolist()), residual, gain, strict=True):
            exact = exact_heavy_ball(x, k, mp.mpf(m))
            # how much one relative rounding of a changes r, in units of that rounding
            condition = abs(exact_heavy_ball(x * (1 + step), k, mp.mpf(m)) - exact) / step
            # recursion to k = 64: roundings grow as k^2 / 2 = 2000; measured below 400
            assert abs(r - exact) <= 1000 * eps * (1 + condition)
            slope = (1 - exact) / x
            # 1 - r of the angle route loses 1/a, at most 1/low; measured 6e4 at m = 0.999
            bound = eps * (30 + 1 / low)
            assert abs(g - slope) <= bound * (abs(slope) + condition / x) + mp.mpf(10) ** -60


def test_momentum_filter_at_zero_eigenvalue():
    m, k = 0.9, 1000
    _, gain = heavy_ball_filter(np.array([0.0]), k, m)
    # sum over steps of (1 - m^j) / (1 - m); a few operations
    assert gain[0] == pytest.approx(np.sum((1 - m ** np.arange(1, k + 1)) / (1 - m)), rel=1e-12)


@settings(deadline=None, max_examples=50)
@given(st.floats(1e-6, 1.99), st.integers(0, 500))
def test_small_momentum_tends_to_plain_descent(a, k):
    # |d r_k / d m| <= k^2 = 2.5e5 at m = 0, times m = 1e-14
    plain, ball = descent_filter(np.array([a]), k), heavy_ball_filter(np.array([a]), k, 1e-14)
    np.testing.assert_allclose(plain[0], ball[0], atol=1e-8)
