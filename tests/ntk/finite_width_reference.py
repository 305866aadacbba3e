"""The recursions at order 1/width for two inputs, coded again in NumPy.

Independent of the library in three ways: derivatives of products along z are replaced by powers of
``y = G^-1 z`` (integration by parts), sums over indices are loops, and the nodes are other ones
(Cholesky coordinates for smooth functions, polar coordinates for kinks at 0).
"""

import itertools

import numpy as np

PAIRS = list(itertools.product(range(2), repeat=2))
QUADRUPLES = list(itertools.product(range(2), repeat=4))


def tanh_derivatives(z):
    t = np.tanh(z)
    u = 1 - t * t
    return t, u, -2 * t * u, u * (6 * t * t - 2)


def cartesian(G, n=121):
    z = np.linspace(-8.5, 8.5, n)
    w = np.exp(-z * z / 2) / np.exp(-z * z / 2).sum()
    u = np.stack([a.ravel() for a in np.meshgrid(z, z)], axis=1)
    return u @ np.linalg.cholesky(G).T, np.outer(w, w).ravel()


def polar(G, n=24):
    """Exact in the radius for even homogeneous degree below 20, panels in the angle."""
    root = np.linalg.cholesky(G)
    t, radial = np.polynomial.laguerre.laggauss(12)
    x, angular = np.polynomial.legendre.leggauss(n)
    cut = np.arctan2(-root[1, 0], root[1, 1])  # the direction in which z_2 = 0
    ends = np.sort(np.mod([-np.pi / 2, np.pi / 2, cut, cut + np.pi], 2 * np.pi))
    ends = np.append(ends, ends[0] + 2 * np.pi)
    phi, weight = [], []
    for a, b in itertools.pairwise(ends):
        phi.append((a + b) / 2 + (b - a) / 2 * x)
        weight.append((b - a) / 2 * angular / (2 * np.pi))
    phi, weight = np.concatenate(phi), np.concatenate(weight)
    circle = np.stack([np.cos(phi), np.sin(phi)], axis=1)
    u = (np.sqrt(2 * t)[:, None, None] * circle[None]).reshape(-1, 2)
    return u @ root.T, np.outer(radial, weight).ravel()


class Layer:
    """Averages under N(0, G); ``s`` are values of sigma and its derivatives, ``s[k][a]``."""

    def __init__(self, G, nodes, derivatives):
        self.z, self.w = nodes(G)
        self.inv = np.linalg.inv(G)
        self.y = self.z @ self.inv
        self.s = [v.T for v in derivatives(self.z)]

    def mean(self, f):
        return float(self.w @ f)

    def d(self, f, a):
        return self.mean(f * self.y[:, a])

    def dd(self, f):
        y, w = self.y, self.inv
        return np.array(
            [[self.mean(f * (y[:, a] * y[:, b] - w[a, b])) for b in (0, 1)] for a in (0, 1)]
        )

    def dddd(self, f, V):
        y, w, total = self.y, self.inv, 0.0
        for a, b, c, e in QUADRUPLES:
            ya, yb, yc, ye = (y[:, i] for i in (a, b, c, e))
            h = ya * yb * yc * ye
            h = h - ya * yb * w[c, e] - ya * yc * w[b, e] - ya * ye * w[b, c]
            h = h - yb * yc * w[a, e] - yb * ye * w[a, c] - yc * ye * w[a, b]
            h = h + w[a, b] * w[c, e] + w[a, c] * w[b, e] + w[a, e] * w[b, c]
            total += V[a, b, c, e] * self.mean(f * h)
        return total

    def prod(self, *factors):
        """Product of sigma^(k)_a for the factors (k, a)."""
        out = np.ones(len(self.w))
        for k, a in factors:
            out = out * self.s[k][a]
        return out

    def curved(self, i, *others):
        """<s''_i prod others>, with s''_i s'_i^k = (s'_i^(k+1))' / (k + 1) by parts."""
        if len(self.s) > 2:
            return self.mean(self.prod((2, i), *others))
        if (0, i) in others:
            return 0.0  # delta(z) s(z)
        k = sum(o == (1, i) for o in others)
        f = self.prod((1, i), *others)
        # d/dz_i acts on s'_i^(k+1) only: the other factors sit at the other input
        return self.d(f, i) / (k + 1)


def zeros(order):
    two, four = ("G1", "Theta1"), "VABDFPQRSTU"
    out = {name: np.zeros((2, 2)) for name in two} | {name: np.zeros((2,) * 4) for name in four}
    return out if order == "ddNTK" else {k: v for k, v in out.items() if k not in "RSTU"}


def next_layer(t, G, Theta, layer, C_b, C, lb, lam, r):
    m, p = layer.mean, layer.prod
    new = {name: np.zeros_like(v) for name, v in t.items()}
    ss = np.array([[m(p((0, a), (0, b))) for b in (0, 1)] for a in (0, 1)])
    dd = np.array([[m(p((1, a), (1, b))) for b in (0, 1)] for a in (0, 1)])
    J = {ab: C / 2 * layer.dd(p((0, ab[0]), (0, ab[1]))) for ab in PAIRS}
    Jd = {ab: layer.dd(p((1, ab[0]), (1, ab[1]))) / 2 for ab in PAIRS}
    T = {ab: lam / C * J[ab] + C * Theta[ab] * Jd[ab] for ab in PAIRS}
    g = {ab: np.array([layer.d(p((1, ab[0]), (0, ab[1])), e) for e in (0, 1)]) for ab in PAIRS}
    omega = {
        ab: lam * p((0, ab[0]), (0, ab[1])) + C * Theta[ab] * p((1, ab[0]), (1, ab[1]))
        for ab in PAIRS
    }
    sig = {ab: p((0, ab[0]), (0, ab[1])) for ab in PAIRS}

    def cov(f, h):
        return m(f * h) - m(f) * m(h)

    def between(X, tensor, Y):
        return np.einsum("ab,abcd,cd->", X, tensor, Y)

    for a, b in PAIRS:
        fs, fd = p((0, a), (0, b)), p((1, a), (1, b))
        s = np.sum(J[a, b] * t["G1"]) / C + layer.dddd(fs, t["V"]) / 8
        ds = np.sum(Jd[a, b] * t["G1"]) + layer.dddd(fd, t["V"]) / 8
        new["G1"][a, b] = r * C * s
        F = t["F"][:, a, :, b]
        new["Theta1"][a, b] = r * (
            lam * s + C * Theta[a, b] * ds + C * dd[a, b] * t["Theta1"][a, b]
            + C * np.sum(Jd[a, b] * (t["D"][:, :, a, b] + F + F.T))
        )  # fmt: skip
    for q in QUADRUPLES:
        i, j, k, l = q  # noqa: E741
        a, b, c, d = q
        # pair tensors: samples 1 2 3 4 = i j k l
        V, D, A = t["V"], t["D"], t["A"]
        Dkl, Dij = D[:, :, k, l], D[:, :, i, j]
        ckl, cij = C * dd[k, l], C * dd[i, j]
        new["V"][q] = C**2 * cov(sig[i, j], sig[k, l]) + r * between(J[i, j], V, J[k, l])
        new["D"][q] = C * cov(sig[i, j], omega[k, l]) + r * (
            between(J[i, j], V, T[k, l]) + np.sum(J[i, j] * Dkl) * ckl
        )
        new["A"][q] = cov(omega[i, j], omega[k, l]) + r * (
            between(T[i, j], V, T[k, l])
            + np.sum(T[i, j] * Dkl) * ckl + np.sum(T[k, l] * Dij) * cij + cij * ckl * A[q]
        )  # fmt: skip
        # B and F: samples 1 3 2 4 = a b c d
        new["B"][q] = C**2 * m(p(*((1, e) for e in q))) * Theta[a, c] * Theta[b, d]
        new["B"][q] += r * C**2 * dd[a, b] * dd[c, d] * t["B"][q]
        new["F"][q] = C**2 * m(p((0, a), (0, c), (1, b), (1, d))) * Theta[b, d]
        new["F"][q] += r * C**2 * g[b, a] @ t["F"][:, b, :, d] @ g[d, c]
    two = {ab: layer.curved(ab[0], (0, ab[1])) for ab in PAIRS}  # <s''_a s_b>
    # <d_e (s''_a s'_b)>, in which only second derivatives of s' occur
    k = {ab: _third(layer, *ab) for ab in PAIRS}
    for q in QUADRUPLES:
        i, j, n, l = q  # noqa: E741
        local = layer.curved(i, (1, j), (1, n), (0, l)) * Theta[i, j] * Theta[i, n]
        inner = two[i, l] * t["B"][i, i, j, n] + g[i, l] @ t["P"][i, j, n]
        new["P"][q] = C**2 * (local + r * dd[j, n] * inner)
        F, Th = t["F"][:, i, :, n], Theta
        weights = m(p((1, i), (0, j), (1, n), (0, l))) * Th[i, n] + r * g[i, j] @ F @ g[n, l]
        passed = Th[i, j] * k[i, j] @ F @ g[n, l] + dd[i, j] * g[n, l] @ t["Q"][i, j, n]
        new["Q"][q] = lam * C * weights + C**2 * (local + r * passed)
    if "R" in t:
        _second_change(t, new, Theta, layer, C, lam, r, dd, g, k, two)
    G_new = C_b + C * ss
    return new, G_new, lb + lam * ss + C * Theta * dd


def _third(layer, a, b):
    """<d_e (s''_a s'_b)> for e = 0, 1, from second derivatives of s'_a s'_b or of s'_a^2 / 2."""
    if a == b:
        half = layer.dd(layer.prod((1, a), (1, a))) / 2
        return np.array([half[a, e] for e in (0, 1)])
    full = layer.dd(layer.prod((1, a), (1, b)))
    return np.array([full[a, e] for e in (0, 1)])


def _second_change(t, new, Theta, layer, C, lam, r, dd, g, k, two):
    m, p = layer.mean, layer.prod
    s31 = {ab: m(p((3, ab[0]), (1, ab[1]))) for ab in PAIRS}
    s22 = {ab: m(p((2, ab[0]), (2, ab[1]))) for ab in PAIRS}
    for q in QUADRUPLES:
        a, b, c, d = q
        T = Theta
        one = m(p((2, a), (0, b), (1, c), (1, d))) * T[a, c] * T[a, d]
        one += r * dd[c, d] * (two[a, b] * t["B"][a, a, c, d] + g[a, b] @ t["P"][a, c, d])
        three = m(p((3, a), (1, b), (1, c), (1, d))) * T[a, b] * T[a, c] * T[a, d]
        three += r * dd[c, d] * (
            T[a, b] * s31[a, b] * t["B"][a, a, c, d] + T[a, b] * k[a, b] @ t["P"][a, c, d]
            + dd[a, b] * t["R"][q]
        )  # fmt: skip
        new["R"][q] = lam * C * one + C**2 * three
        E4 = m(p((2, a), (2, b), (1, c), (1, d))) * T[a, b] * T[a, c] * T[b, d]
        first = m(p(*((1, e) for e in q))) * T[a, c] * T[b, d] + r * dd[a, b] * dd[c, d] * t["B"][q]
        inner = T[a, b] * s22[a, b] * t["B"][q] + dd[a, b] * t["S"][q]
        new["S"][q] = lam * C * first + C**2 * (E4 + r * dd[c, d] * inner)
        new["U"][q] = C**2 * (E4 + r * dd[a, d] * dd[b, c] * t["U"][q])
        F, Qr, Ql = t["F"][:, a, :, b], t["Q"][b, d, a], t["Q"][a, c, b]
        g13, g24, k13, k24 = g[a, c], g[b, d], k[a, c], k[b, d]
        new["T"][q] = (
            lam**2 * (m(p((1, a), (0, c), (1, b), (0, d))) * T[a, b] + r * g13 @ F @ g24)
            + lam * C * (m(p((1, a), (2, b), (0, c), (1, d))) * T[a, b] * T[b, d]
                         + r * (T[b, d] * g13 @ F @ k24 + dd[b, d] * g13 @ Qr))
            + lam * C * (m(p((2, a), (1, b), (1, c), (0, d))) * T[a, b] * T[a, c]
                         + r * (T[a, c] * k13 @ F @ g24 + dd[a, c] * g24 @ Ql))
            + C**2 * (E4 + r * (T[a, c] * T[b, d] * k13 @ F @ k24 + T[a, c] * dd[b, d] * k13 @ Qr
                                + T[b, d] * dd[a, c] * k24 @ Ql + dd[a, c] * dd[b, d] * t["T"][q]))
        )  # fmt: skip


def propagate(x, widths, C_b, C, rates, order, nodes, derivatives):
    """All tensors of the output layer; ``rates`` is a list of (lambda_b, lambda_W) per layer."""
    product = x @ x.T / x.shape[1]
    G, Theta = C_b + C * product, rates[0][0] + rates[0][1] * product
    t, last = zeros(order), np.inf
    for n, (lb, lam) in zip(widths, rates[1:], strict=True):
        layer = Layer(G, nodes, derivatives)
        t, G, Theta = next_layer(t, G, Theta, layer, C_b, C, lb, lam, n / last)
        last = n
    return t | {"G": G, "Theta": Theta}
