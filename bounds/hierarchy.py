r"""Generalisation bounds layer by layer: what each representation reveals of the training set.

Weights W are learnt from n examples; layer l shows :math:`T_l`, of a fresh example or of training
example i. With the divergence of the two given W,

.. math:: |gen| \le \frac{\sqrt2\, s}{n} \sum_i \sqrt{E_W KL_l(i)}, \qquad
          |gen| \le \frac{\rho_0}{n} \sum_i E\left[\max(1, \textstyle\prod_{j>l} \rho_j)\,
          W_1^{(l)}(i)\right]

for an s-sub-Gaussian and for a :math:`\rho_0`-Lipschitz loss. The first falls with l (data
processing); so does the second when the distances are evaluated exactly. Upper bounds of distances
may have their minimum inside the network, so all layers are returned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bounds import gaussian_layers
from bounds.gaussian_layers import RANK_TOL, Layer
from bounds.hierarchy_records import Hierarchy, LinearGaussianHierarchy
from deeplimits.errors import DomainError, ShapeError
from deeplimits.estimates import as_samples
from deeplimits.typing import ArrayLike
from deeplimits.validate import as_real, finite, integer, number


def hierarchy_kl(divergences: ArrayLike, *, s: float = 0.5, n: int | None = None) -> Hierarchy:
    r"""Bounds on the generalisation gap from a divergence per layer.

    .. math:: |gen| \le \frac{\sqrt2\, s}{n} \sum_i \sqrt{KL_l(i)}, \qquad
        KL_l(i) = I(T_{l,i}, Y_i; W_{l+1}^L | W_1^l) + KL(P_{T_{l,i},Y_i|W_1^l} \| P_{T_l,Y|W_1^l})
        = E_W KL(P_{T_{l,i},Y_i|W} \| P_{T_l,Y|W_1^l})

    Args:
        divergences: ``(layers,)`` or ``(layers, n)`` nats, >= 0, infinite allowed; row 0 is the
            input, :math:`I(X_i, Y_i; W)`, the last row the output.
        s: sub-Gaussian constant of the loss, > 0; (b - a)/2 for values in [a, b]. Default 0.5.
        n: number of examples, for the record; the number of columns if there are several.

    Raises:
        ShapeError, DomainError: no layer, more than two axes, NaN or negative numbers.

    Source: arXiv:2404.03176; the second form derived here (chain rule).
    Check: tests/bounds/test_hierarchy.py::test_general_forms
    """
    kl = _per_layer(divergences, "divergences")
    number(s, "s", above=0)
    n = n if n is None else integer(n, "n", at_least=1)
    bound = math.sqrt(2) * float(s) * np.sqrt(kl).mean(1)
    return Hierarchy(
        bound=bound,
        measure=kl.mean(1),
        factor=np.full(len(bound), float(s)),
        kind="kl",
        n=kl.shape[1] if kl.shape[1] > 1 else n,
    )


def hierarchy_wasserstein(
    distances: ArrayLike, lipschitz: ArrayLike, *, loss_lipschitz: float = 1.0, n: int | None = None
) -> Hierarchy:
    r"""Bounds on the generalisation gap from a Wasserstein distance per layer.

    .. math:: |gen| \le \frac{\rho_0}{n} \sum_i
              \max(1, \textstyle\prod_{j>l} \rho_j)\, W_1^{(l)}(i)

    The 1 pays for the label, which reaches the loss directly. :math:`W_2 \ge W_1` may be used too.

    Args:
        distances: ``(layers,)`` or ``(layers, n)``, >= 0, between the laws of (representation,
            label) of training example i and of a fresh example given the weights, averaged over
            the weights; row 0 is the input, the last row the output.
        lipschitz: ``(layers - 1,)`` constants :math:`\rho_1 \dots \rho_L` >= 0 of the layers:
            operator norm times the constant of the activation.
        loss_lipschitz: :math:`\rho_0` > 0 of the loss in (output, label). Default 1.
        n: as in :func:`hierarchy_kl`.

    Raises:
        ShapeError, DomainError: lengths that do not match, NaN or negative numbers.

    Source: arXiv:2404.03176. Check: tests/bounds/test_hierarchy.py::test_general_forms
    """
    w = _per_layer(distances, "distances")
    rho = as_samples(lipschitz, "lipschitz", at_least=0)
    if rho.shape != (len(w) - 1,):
        raise ShapeError(
            f"lipschitz must have one constant per layer, shape ({len(w) - 1},) for "
            f"{len(w)} rows of distances; got {rho.shape}."
        )
    if (rho < 0).any():
        raise DomainError(f"lipschitz must be >= 0, got {rho.min():g}.")
    number(loss_lipschitz, "loss_lipschitz", above=0)
    n = n if n is None else integer(n, "n", at_least=1)
    after = np.append(np.cumprod(rho[::-1])[::-1], 1.0)
    factor = float(loss_lipschitz) * np.maximum(1, after)
    return Hierarchy(
        bound=factor * w.mean(1),
        measure=w.mean(1),
        factor=factor,
        kind="wasserstein",
        n=w.shape[1] if w.shape[1] > 1 else n,
    )


def _per_layer(values: Any, name: str) -> np.ndarray:
    """Numbers >= 0 as ``(layers, n)``."""
    x = np.asarray(as_real(values, name), float)
    if x.ndim not in (1, 2) or x.size == 0:
        raise ShapeError(f"{name} must have shape (layers,) or (layers, n), got {x.shape}.")
    if not (x >= 0).all():
        raise DomainError(f"{name} must be >= 0 and not NaN, got {x.min():g}.")
    return x.reshape(len(x), -1)


def hierarchy_linear_gaussian(
    weights: Sequence[ArrayLike],
    n: int,
    sigma: float,
    s: float = 0.5,
    *,
    mean: ArrayLike | None = None,
    dim: int | None = None,
    noise: ArrayLike | None = None,
    etas: ArrayLike | None = None,
    loss_lipschitz: float = 1.0,
    tol: float = RANK_TOL,
) -> LinearGaussianHierarchy:
    r"""Every term of both hierarchies in closed form: linear network, two Gaussian classes.

    :math:`Y = \pm 1` fair, :math:`X|Y \sim N(Y\mu, \sigma^2)`, representations
    :math:`T_l = A_l X` with given (data-independent) weights, read-out
    :math:`w = A_{L-1} \frac1n \sum_i Y_i X_i` and output :math:`w \cdot T_{L-1}`. With
    :math:`r_l = \mathrm{rank} A_l`

    .. math:: KL_l \le \frac{r_l}{2} \ln\frac{n}{n-1}, \qquad
        KL_L = \tfrac12 E\left[-\tfrac1n - \ln(1 - \tfrac1n)
               + \frac{(v \cdot (\hat\mu - \mu))^2}{\sigma^2 |v|^2}\right], \quad v = A^\top w

    .. math:: E\,W_2^2(l) = 2 \sigma^2 \|A_l\|_F^2 (1 - \sqrt{1 - 1/n}), \qquad
        |gen| \le \rho_0 \left(E\|w \cdot W_{L-1} \cdots W_{l+1}\|^2\; E\,W_2^2(l)\right)^{1/2}

    The expected loss on training and on fresh points is computed too, by quadrature, so that the
    bounds can be held against the gap itself. Why no "1 or the Lipschitz constant" here: given the
    label, :math:`Y T_l` carries everything, and both laws share the label.

    Args:
        weights: matrices ``(fan_in, fan_out)`` that act as ``h @ W``, possibly none. Matrices that
            chain only as ``(fan_out, fan_in)`` are transposed.
        n: training examples, >= 2.
        sigma: standard deviation of the inputs within a class, > 0.
        s: sub-Gaussian constant of the loss, > 0; 1/2 for the zero-one loss (default).
        mean: ``(d,)`` class mean. Without it the output takes the bound of the layer before, and
            losses and Wasserstein bounds, which depend on it, are NaN.
        dim: d, where neither ``weights`` nor ``mean`` tells it (or to confirm it).
        noise: standard deviation(s) >= 0 of independent Gaussian noise added to the L - 1
            representations, at training and at test time; all terms stay closed.
        etas: contraction coefficients in [0, 1] of other noise in the L - 1 layers
            (:mod:`bounds.contraction`); divergences then carry their product, and the losses,
            the distances of noisy layers and the Wasserstein bounds are NaN.
        loss_lipschitz: constant of the loss as a function of the margin, for the Wasserstein
            bounds; default 1 (logistic).
        tol: singular values below it, relative to the largest, count as zero. Default 1e-10.

    Returns:
        :class:`LinearGaussianHierarchy`, rows input, L - 1 representations, output; ``.gap``,
        ``.argmin``, ``.best``, ``.table()``, ``.plot()``. The divergence of a representation is
        exact for weights that reveal :math:`A_l \hat\mu`; if only the read-out is trained, that of
        the last representation holds for all.

    Raises:
        ShapeError: matrices that do not chain or do not fit ``mean``, ``dim``; lengths.
        DomainError: n < 2, sigma or s <= 0, noise < 0, etas outside [0, 1], both of them, NaN.

    Source: after arXiv:2404.03176; closed forms derived here.
    Check: tests/bounds/test_hierarchy.py
    """
    n = integer(n, "n", at_least=2)
    sigma, s = (float(number(v, k, above=0)) for v, k in ((sigma, "sigma"), (s, "s")))
    rho = float(number(loss_lipschitz, "loss_lipschitz", above=0))
    tol = float(number(tol, "tol", at_least=0, below=1))
    matrices, d = _matrices(weights, mean, dim)
    center = None if mean is None else np.asarray(mean, float)
    if noise is not None and etas is not None:
        raise DomainError("noise and etas describe the same layers in two ways: pass one of them.")
    std = _per_weight(noise, "noise", len(matrices), math.inf)
    eta = _per_weight(etas, "etas", len(matrices), 1.0) if etas is not None else None

    layers = [Layer(np.eye(d), np.zeros((d, d)))]
    for W, e in zip(matrices, std, strict=True):
        layers.append(layers[-1].then(W, e))
    cumulative = np.cumprod(np.append(1.0, np.ones(len(matrices)) if eta is None else eta))
    first = int(np.argmax(cumulative < 1)) if (cumulative < 1).any() else len(layers)
    kl = np.array([gaussian_layers.divergence(x, n, sigma, tol) for x in layers])
    kl[first:] = kl[first - 1] * cumulative[first:]
    w2 = np.array([gaussian_layers.wasserstein(x, n, sigma, tol) for x in layers])
    w2[first:] = np.nan
    last = layers[-1]
    known = center is not None and first == len(layers)
    out = _output(last, center, n, sigma) if known else _unknown_output(kl[-1])
    slopes = _slopes(matrices, last, center if known else None, n, sigma)
    exact = np.append(np.arange(len(layers)) < first, known and not last.noisy)
    kl, w2 = np.append(kl, out["kl"]), np.append(w2, out["w2"])
    return LinearGaussianHierarchy(
        **_sizes(layers, out["size"], tol),
        eta=np.append(1.0, np.ones(len(matrices)) if eta is None else eta),
        cumulative_eta=cumulative,
        kl=kl,
        bound=s * np.sqrt(2 * kl),
        w2=w2,
        lipschitz=slopes,
        w_bound=rho * np.append(slopes[:-1] * w2[:-1], out["w1"]),
        exact_kl=exact,
        exact_w2=exact,
        losses=gaussian_layers.losses(last, center, n, sigma) if known else {},  # type: ignore[arg-type]
        n=n,
        sigma=sigma,
        s=s,
    )


def _sizes(layers: list[Layer], output: float, tol: float) -> dict[str, np.ndarray]:
    """Width, rank and norms of every row; ``output`` is the size of the output's one row."""
    ranks = [x.rank(tol) for x in layers]
    return {
        "width": np.array([*(len(x.matrix) for x in layers), 1]),
        "rank": np.array([*ranks, min(ranks[-1], 1)]),
        "frobenius": np.array([*(float(np.linalg.norm(x.matrix)) for x in layers), output]),
        "operator": np.array([*(float(np.linalg.norm(x.matrix, 2)) for x in layers), output]),
    }


def _output(last: Layer, mean: Any, n: int, sigma: float) -> dict[str, float]:
    """Divergence, distance and size of the output; upper bounds of order 1/n^2 with noise."""
    shift, ratio = gaussian_layers.output_shift(last, mean, n, sigma)
    share = float(last.signal_share(sigma, RANK_TOL).max(initial=0.0)) / n
    size2 = gaussian_layers.readout_moment(last, last.matrix, mean, n, sigma)
    narrowing = math.expm1(math.log1p(-1 / n) / 2)  # noise couples: it only narrows the distance
    return {
        # the share of the signal in the output's variance is at most its largest share
        "kl": max((-math.log1p(-share) - share + ratio) / 2, 0.0),
        "w2": math.sqrt(shift + sigma**2 * size2 * narrowing**2),
        "w1": gaussian_layers.output_distance(last, mean, n, sigma),
        "size": math.sqrt(size2),
    }


def _unknown_output(kl: float) -> dict[str, float]:
    """The output without a class mean: data processing."""
    return {"kl": float(kl), "w2": math.nan, "w1": math.nan, "size": math.nan}


def _slopes(matrices: list, last: Layer, mean: Any, n: int, sigma: float) -> np.ndarray:
    """Root mean square Lipschitz constant of what follows each layer; 1 for the output."""
    if mean is None:
        return np.append(np.full(len(matrices) + 1, np.nan), 1.0)
    after, slopes = np.eye(len(last.matrix)), [1.0]
    for W in [*matrices[::-1], None]:
        slopes.append(math.sqrt(gaussian_layers.readout_moment(last, after, mean, n, sigma)))
        after = after if W is None else after @ W
    return np.array(slopes[::-1])


def _per_weight(values: Any, name: str, count: int, top: float) -> np.ndarray:
    """One number in [0, top] per weight matrix; a scalar serves all, None is 0."""
    x = np.asarray(as_real(0.0 if values is None else values, name), float)
    finite(x, name)
    if x.shape not in ((), (count,)):
        raise ShapeError(f"{name} must be one number or have shape ({count},), got {x.shape}.")
    if ((x < 0) | (x > top)).any():
        allowed = ">= 0" if math.isinf(top) else f"in [0, {top:g}]"
        raise DomainError(f"{name} must be {allowed}, got {x.min():g} to {x.max():g}.")
    return np.broadcast_to(x, (count,))


def _matrices(weights: Any, mean: Any, dim: int | None) -> tuple[list[np.ndarray], int]:
    """Weights as ``(fan_out, fan_in)`` and the input dimension, checked."""
    items = [np.asarray(as_real(W, f"weights[{i}]"), float) for i, W in enumerate(weights)]
    for i, W in enumerate(items):
        if W.ndim != 2 or W.size == 0:
            raise ShapeError(f"weights[{i}] must be a matrix, got shape {W.shape}.")
        finite(W, f"weights[{i}]")
    sizes = set() if dim is None else {integer(dim, "dim", at_least=1)}
    if mean is not None:
        m = np.asarray(as_real(mean, "mean"), float)
        finite(m, "mean")
        if m.ndim != 1 or m.size == 0:
            raise ShapeError(f"mean must have shape (d,), got {m.shape}.")
        sizes.add(len(m))
    if len(sizes) > 1 or not (sizes or items):
        raise ShapeError(
            f"dim and the length of mean must agree and be given without weights, got {sizes}."
        )
    readings = [[W.T for W in items], items]  # the convention of this library comes first
    for chain in readings:
        inner = [W.shape[1] for W in chain]
        outer = [*sizes, *(W.shape[0] for W in chain)]
        if not chain or (inner[1:] == outer[len(sizes) : -1] and sizes <= {inner[0]}):
            return chain, inner[0] if chain else next(iter(sizes))
    raise ShapeError(
        f"weights must be matrices (fan_in, fan_out) that follow on each other, the first with "
        f"fan_in {next(iter(sizes), 'd')}; got shapes {[W.shape for W in items]}."
    )
