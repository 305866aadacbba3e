r"""Deep kernel machines: deep Gaussian processes so wide that their Gram matrices are certain.

.. math::

    \mathcal L(G_1..G_L) = \sum_c \log N\big(y_c; 0, K(G_L) + \sigma^2 I\big)
        - \sum_{l=1}^{L} \nu_l\, KL\big(N(0, G_l) \,\|\, N(0, K(G_{l-1}))\big)

is the limit of the log posterior per copy when layer l has :math:`\nu_l N` features, the data are
repeated N times and :math:`N \to \infty`. Features are learned: the :math:`G_l` depend on the
targets, and tend to those of the infinitely wide network (NNGP) as :math:`\nu \to \infty`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from deeplimits.errors import DomainError, PrecisionError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.validate import as_targets, check, choice, integer, number
from gp.dkm_fit import maximize, prior_jitter, starts
from gp.dkm_kernels import check_variances, gram_kernel
from gp.dkm_objective import PENALTIES
from gp.dkm_posterior import FittedDKM, assemble
from gp.linalg import eigh_psd, factorize, kernel_matrix
from gp.process import inputs


def linear_inputs(X: Any, Z: Any = None) -> np.ndarray:
    """``X Z' / d`` in float64, all axes but the first flattened into d."""
    x = np.asarray(X, np.float64).reshape(len(X), -1)
    z = x if Z is None else np.asarray(Z, np.float64).reshape(len(Z), -1)
    return x @ z.T / x.shape[1]


def as_nu(nu: Any, layers: int, unregularized: bool) -> np.ndarray:
    """Widths of the layers relative to the number of copies, float64 ``(L,)``.

    Raises:
        ShapeError: neither a number nor one per layer.
        DomainError: not finite, or not positive (0 needs ``unregularized``).
    """
    values = np.asarray(nu, np.float64)
    check(
        values.ndim == 0 or values.shape == (layers,),
        f"nu must be one number or one per layer, shape ({layers},); got shape {values.shape}.",
        ShapeError,
    )
    good = np.isfinite(values) & ((values > 0) | (unregularized & (values == 0)))
    check(
        bool(np.all(good)),
        f"nu must be finite and > 0, got {nu!r}. nu = 0 drops the regularisation (kernels are then "
        "fitted by evidence alone and become nearly singular): pass unregularized=True for that.",
        DomainError,
    )
    return np.broadcast_to(values, (layers,)).copy()


@dataclass(frozen=True)
class DKM:
    r"""A deep kernel machine, not yet fitted.

    Args:
        kernel: the map :math:`G \mapsto K(G)`: ``"rbf"``, ``"relu"``, ``"linear"``,
            ``"normalized_gaussian"``, ``"arccos<n>"``, an activation, or a callable; see
            :func:`gp.gram_kernel`. Default ``"rbf"``.
        layers: number L of learned Gram matrices, >= 1. Default 2.
        nu: width of the layers relative to the number of copies of the data, > 0; a number or one
            per layer ``(L,)``. Large: close to the infinitely wide network. Default 5.
        noise: observation variance, in squared units of y, >= 0. Default 0.05.
        penalty: ``"kl"``; ``"taylor_sym"``, its second-order expansion about ``G = K``; or
            ``"taylor_official"``, the unsymmetric form published with stochastic kernel
            regularisation, which is larger. Default ``"kl"``.
        input_kernel: ``k(X, Z=None) -> (n, m)``, the Gram matrix :math:`G_0` of the inputs.
            Default: :math:`X X^\top / d`.
        jitter: variance of independent noise in every layer, relative to the mean diagonal of its
            kernel matrix; part of the model, at training and test points alike. Default 1e-9.
        max_points: refuse more training points than this. Default 2000.
        unregularized: allow ``nu = 0``. Default False.

    Raises:
        DomainError, ShapeError: an argument outside these ranges.

    Source: Yang, Robeyns, Milsom, Anson, Schoots, Aitchison, arXiv:2108.13097, section 4.
    """

    kernel: Any = "rbf"
    layers: int = 2
    nu: Any = 5.0
    noise: Any = 0.05
    penalty: str = "kl"
    input_kernel: Any = None
    jitter: float = 1e-9
    max_points: int = 2000
    unregularized: bool = False

    def __post_init__(self) -> None:
        gram_kernel(self.kernel)
        integer(self.layers, "layers", at_least=1)
        choice(self.penalty, "penalty", PENALTIES)
        as_nu(self.nu, self.layers, self.unregularized)
        number(self.noise, "noise", at_least=0)
        number(self.jitter, "jitter", at_least=0, below=1e-2)
        integer(self.max_points, "max_points", at_least=1)
        check(
            self.input_kernel is None or callable(self.input_kernel),
            "input_kernel must be None or a callable k(X, Z=None) -> (n, m), got "
            f"{type(self.input_kernel).__name__}.",
            DomainError,
        )

    def input_gram(self, X: Any, Z: Any = None) -> np.ndarray:
        """:math:`G_0` of validated inputs, float64 ``(n, m)``."""
        if self.input_kernel is None:
            return linear_inputs(X, Z)
        return kernel_matrix(self.input_kernel, X, Z)[0]

    @float64_scope
    def fit(
        self,
        X: Any,
        y: Any,
        *,
        restarts: int = 0,
        key: Any = 0,
        spread: float = 1.0,
        steps: int = 3000,
        tol: float = 1e-6,
        force: bool = False,
    ) -> FittedDKM:
        r"""The Gram matrices with the largest objective, by L-BFGS from those of the NNGP.

        One run starts at the infinitely wide network, ``restarts`` more at random; one compiled
        program serves all. For the linear kernel the optimum is unique; for others it need not be:
        ``result.runs.spread`` tells.

        Args:
            X: inputs ``(n, d)`` or ``(n, *spatial, channels)``, float64.
            y: targets ``(n,)`` or ``(n, C)``.
            restarts: random starts, >= 0. Default 0.
            key: a ``jax.random.key`` or an integer seed, for the random starts. Default 0.
            spread: standard deviation of the random starts in whitened coordinates. Default 1.
            steps: most L-BFGS steps per run. Default 3000.
            tol: a run ends when no derivative of the objective exceeds this, in nats. Default 1e-6.
            force: accept inputs in float32 (they are then computed with in float64).

        Raises:
            ShapeError, DomainError: bad data or options, too many points, an input Gram matrix on
                which the kernel is undefined, duplicate inputs without noise.
            NotPositiveDefiniteError: an input Gram matrix that is not positive semi-definite.
            PrecisionError: float32 inputs without ``force``.
            ConvergenceError: no start has a finite objective.

        Warns:
            JitterWarning: more jitter than asked for was needed.

        Check: test_dkm.py::test_gradient_vanishes_in_gram_space, ::test_rate_of_the_wide_limit.
        """
        integer(restarts, "restarts", at_least=0)
        number(spread, "spread", above=0)
        options = {
            "steps": integer(steps, "steps", at_least=1),
            "tol": float(number(tol, "tol", above=0)),
        }
        problem = _problem(self, X, y, force)
        points = starts(key, restarts, self.layers, len(problem["y"]), spread)
        data = {k: problem[k] for k in ("G0", "y", "nu", "noise", "jitter")}
        best, data, runs = maximize(
            gram_kernel(self.kernel), self.penalty, False, data, points, options
        )
        return assemble(self, problem["X"], np.ndim(y) == 1, data, best, runs)

    @float64_scope
    def nngp(self, X: Any, y: Any, *, force: bool = False) -> FittedDKM:
        """The same with Gram matrices that are not learned: the infinitely wide network.

        Args:
            X, y, force: as for :meth:`fit`.

        Raises:
            as for :meth:`fit`.

        Check: test_dkm.py::test_nngp_is_a_gaussian_process.
        """
        problem = _problem(self, X, y, force)
        data = {k: problem[k] for k in ("G0", "y", "nu", "noise", "jitter")}
        point = starts(0, 0, self.layers, len(data["y"]), 1.0)[0]
        return assemble(self, problem["X"], np.ndim(y) == 1, data, point, None)


def _problem(model: DKM, X: Any, y: Any, force: bool) -> dict[str, Any]:
    """Validated data of a fit, float64 on the host."""
    x = inputs(X, "X")
    n = x.shape[0]
    targets = np.asarray(as_targets(y, n), np.float64)
    check(
        n <= model.max_points,
        f"X has {n} points, more than max_points={model.max_points}; every step costs n^3 per "
        f"layer and n^2 numbers are learned. Use gp.SparseDKM, or pass max_points={n}.",
        DomainError,
    )
    check(
        force or np.dtype(x.dtype) == np.float64,
        f"X is {x.dtype}; learned kernel matrices need float64. Pass X.astype(np.float64), or "
        "force=True to convert rounded inputs.",
        PrecisionError,
    )
    G0 = input_gram_matrix(model, x)
    kernel = gram_kernel(model.kernel)
    check_duplicates(G0, model.noise)
    nu = as_nu(model.nu, model.layers, model.unregularized)
    jitter = prior_jitter(kernel, G0, model.layers, model.jitter)
    return {
        "X": x, "G0": G0, "y": targets, "nu": nu, "noise": np.float64(model.noise),
        "jitter": np.append(jitter, _top_jitter(model, kernel, G0, jitter)),
    }  # fmt: skip


def input_gram_matrix(model: Any, x: Any) -> np.ndarray:
    """``G_0`` of training or inducing inputs, checked."""
    G0 = model.input_gram(x)
    check_variances(gram_kernel(model.kernel), np.diagonal(G0), "the input Gram matrix")
    if model.input_kernel is not None:
        eigh_psd(G0, name="the input Gram matrix", dtype=np.float64)
    return G0


def check_duplicates(G0: np.ndarray, noise: float) -> None:
    """Refuse two equal inputs when nothing distinguishes their targets."""
    if noise > 0 or len(G0) < 2:
        return
    g = np.diagonal(G0)
    gaps = g[:, None] + g[None, :] - 2 * G0 + np.diag(np.full(len(g), np.inf))
    i, j = np.unravel_index(int(np.argmin(gaps)), gaps.shape)
    check(
        gaps[i, j] > 1e-14 * float(np.max(g)),
        f"inputs {min(i, j)} and {max(i, j)} are equal and noise is 0: no finite likelihood "
        "exists. Use noise > 0 or drop one of them.",
        DomainError,
    )


def _top_jitter(model: DKM, kernel: Any, G0: np.ndarray, jitter: np.ndarray) -> float:
    G = G0
    for extra in jitter:
        G = kernel(G) + extra * np.eye(len(G))
    return factorize(kernel(G), float(model.noise), name="the kernel matrix of the targets").jitter


_DATA = ("nu", "noise")
_META = ("kernel", "layers", "penalty", "input_kernel", "jitter", "max_points", "unregularized")


def _rebuild(meta: tuple[Any, ...], leaves: Any) -> DKM:
    """A model without the checks of its arguments: JAX puts placeholders there."""
    model = object.__new__(DKM)
    for name, value in zip((*_DATA, *_META), (*leaves, *meta), strict=True):
        object.__setattr__(model, name, value)
    return model


jax.tree_util.register_pytree_node(
    DKM,
    lambda m: (tuple(getattr(m, k) for k in _DATA), tuple(getattr(m, k) for k in _META)),
    _rebuild,
)
