r"""Gaussian-process classification with any kernel, and with a random scale of the latent function.

.. math:: f \sim GP(0, k) \;\text{ or }\; f \mid s^2 \sim GP(0, s^2 k),\; s^2 \sim H, \qquad
    p(t = 1 \mid f) = \Phi(f), \quad p(c \mid f) = P(f_c + e_c > f_b + e_b \;\forall b \ne c)
    \;\text{ or }\; p(c \mid f) \propto e^{f_c}

With C > 2 classes and the probit likelihood, the label is the largest of C latent functions with
unit noise. Probit uses expectation propagation, softmax Laplace's approximation. A random scale is
integrated by quadrature: every scale has an evidence of its own, and their weighted sum
is the evidence of the mixture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.special
import scipy.stats

from deeplimits.errors import DomainError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import check, choice, integer
from gp.expectation_propagation import Sites, probit_latent, probit_sites_at_scales
from gp.laplace import class_latent, softmax_mode_at_scales
from gp.linalg import Kernel, eigh_psd, kernel_diagonal, kernel_matrix
from gp.mixture_marginals import needs_mean_scale
from gp.multiclass_ep import ClassSites, class_sites_at_scales
from gp.process import GP, inputs, size_guard
from gp.scale_density import as_scale_prior
from gp.scale_evidences import evidences_over_scales
from gp.scale_quadrature import ScaleNodes

#: Normal points per prediction with C latent functions: scrambled Sobol, 2^10, fixed seed.
_POWER = 10


class Latent(NamedTuple):
    """Mean and variance of the latent functions: ``(m,)`` for two classes with the probit, else
    ``(m, C)``.
    """

    mean: np.ndarray
    var: np.ndarray


@dataclass(frozen=True)
class ClassifierInfo:
    """How the posterior was approximated.

    Attributes:
        method: "ep" (expectation propagation) or "laplace".
        steps: most iterations that any scale took.
        gap: distance from convergence at the scales that matter: for "ep" what the last iteration
            changed, in posterior standard deviations; for "laplace" a bound on the distance to the
            mode, in prior standard deviations.
        n: number of training points.
        dtype: the dtype in which the kernel was evaluated.
    """

    method: str
    steps: int
    gap: float
    n: int
    dtype: str


def class_index(labels: Any, n: int, classes: Any) -> tuple[np.ndarray, np.ndarray]:
    """The classes in order, and the position of every label among them.

    Raises:
        ShapeError: labels are not ``(n,)``.
        DomainError: NaN, fewer than two classes, or a label that is not among ``classes``.
    """
    labels = np.asarray(labels)
    check(
        labels.shape == (n,),
        f"labels must have shape ({n},): one class per row of X; got {labels.shape}.",
        ShapeError,
    )
    numeric = labels.dtype.kind == "f"
    check(
        labels.dtype.kind in "iubUS" or (numeric and bool(np.isfinite(labels).all())),
        f"labels must be integers, strings, booleans or finite numbers, got dtype {labels.dtype}.",
        DomainError,
    )
    known = np.unique(labels if classes is None else np.asarray(classes))
    check(
        len(known) > 1,
        f"the labels hold {len(known)} class; pass classes=(...) to name those without data.",
        DomainError,
    )
    missing = np.setdiff1d(labels, known)
    check(
        len(missing) == 0,
        f"labels hold {missing[:5].tolist()}, not among classes={known.tolist()}.",
        DomainError,
    )
    return known, np.searchsorted(known, labels)


@dataclass(frozen=True)
class Classifier:
    r"""A Gaussian-process classifier, not yet conditioned.

    Softmax by Laplace's approximation is badly under-confident for many classes and large
    functions (expected calibration error 0.5 on ten digits, where Monte Carlo has 0.1): the
    curvature vanishes at a mode where all probabilities are 0 or 1. Expectation propagation does
    not have this defect; the exact posterior of either is :func:`gp.sample_classifier`'s.

    Args:
        kernel: ``k(X, Z=None) -> (n, m)``, such as ``net.nngp``; its size is the size of the latent
            function in units of the probit (or logit) scale.
        likelihood: "auto" or "probit" (the same; default): one latent function for two classes,
            one per class for more, by expectation propagation; "softmax": one latent function per
            class, by Laplace's approximation.
        prior: law of the scale :math:`s^2` that multiplies k for all classes and inputs together
            (as in :class:`gp.ScaleMixture`); None (default): no random scale.
        max_points: refuse dense algebra on more points than this. Default 5000.

    Raises:
        DomainError: kernel, likelihood or prior of the wrong kind.

    Source: Rasmussen and Williams (2006), chapter 3; latent scale mixtures: arXiv:2107.01408,
        which uses a variational approximation where this integrates over the scale.

    Check: test_classify.py::test_ep_is_exact_for_one_point, ::test_random_scale_by_brute_force.
    """

    kernel: Kernel
    likelihood: str = "auto"
    prior: Any = None
    max_points: int = 5_000

    def __post_init__(self) -> None:
        GP(self.kernel)
        choice(self.likelihood, "likelihood", ("auto", "probit", "softmax"))
        integer(self.max_points, "max_points", at_least=1)
        if self.prior is not None:
            object.__setattr__(self, "prior", as_scale_prior(self.prior))

    @float64_scope
    def condition(self, X: Any, labels: Any, *, classes: Any = None) -> ClassPosterior:
        """Condition on labelled points.

        Args:
            X: inputs ``(n, d)`` or ``(n, *spatial, channels)``.
            labels: one class per point ``(n,)``: integers, strings or booleans.
            classes: all classes, if some may have no labels; default those in ``labels``.

        Raises:
            ShapeError, DomainError: bad inputs or labels, one class only, or more than
                ``max_points`` points.
            NotPositiveDefiniteError: the kernel matrix is indefinite beyond rounding.
            ConvergenceError: the approximation does not converge at scales that matter.
            ImproperPosteriorError: the law of the scale is improper.
        """
        x = inputs(X, "X")
        n = x.shape[0]
        known, index = class_index(labels, n, classes)
        size_guard(n, self.max_points, "X")
        matrix, dtype = kernel_matrix(self.kernel, x)
        eigh_psd(matrix, name="the kernel matrix of X", dtype=dtype)
        K = jnp.asarray(matrix)
        onehot = jnp.asarray(np.eye(len(known))[:, index])
        if self.likelihood == "softmax":
            solve = lambda scales: softmax_mode_at_scales(K, onehot, scales)  # noqa: E731
        elif len(known) > 2:
            solve = lambda scales: class_sites_at_scales(K, onehot, scales)  # noqa: E731
        else:
            t = jnp.asarray(2.0 * index - 1.0)
            solve = lambda scales: probit_sites_at_scales(K, t, scales)  # noqa: E731
        probit = self.likelihood != "softmax"
        found = evidences_over_scales(solve, self.prior, 1e-5 if probit else 1e-3)
        state, nodes = found.states, found.nodes
        info = ClassifierInfo("ep" if probit else "laplace", found.steps, found.gap, n, str(dtype))
        return ClassPosterior(
            x, index, known, matrix, state, nodes, nodes.log_integral, nodes.error, info,
            self.kernel,
        )  # fmt: skip


@dataclass(frozen=True)
class ClassPosterior:
    """A classifier given labels; made by :meth:`Classifier.condition`. Results are NumPy float64.

    Attributes:
        X: training inputs.
        index: position of every label in ``classes``.
        classes: the classes, sorted.
        K: training kernel at unit scale.
        state: Gaussian sites or modes, for every scale.
        scale_posterior: the law of the scale given the labels; one point at 1 without a prior.
        log_evidence: approximate log probability of the labels, in nats.
        error: estimated error of ``log_evidence`` from the quadrature over the scale (not from the
            approximation at each scale).
        info: method, iterations and convergence.
        kernel: the kernel callable.
    """

    X: Any
    index: np.ndarray
    classes: np.ndarray
    K: np.ndarray
    state: Any
    scale_posterior: ScaleNodes
    log_evidence: float
    error: float
    info: ClassifierInfo
    kernel: Kernel

    @float64_scope
    def _latent(self, Xs: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weights of the scales, latent means and (co)variances for each."""
        xs = inputs(Xs, "Xs", self.X)
        cross = jnp.asarray(kernel_matrix(self.kernel, xs, self.X)[0])
        own = jnp.asarray(kernel_diagonal(self.kernel, xs))
        nodes = self.scale_posterior
        scales = jnp.asarray(nodes.s2)
        if isinstance(self.state, Sites):
            sites = Sites(*map(jnp.asarray, self.state))
            mean, var = probit_latent(sites, scales, cross, own)
        else:
            onehot = np.eye(len(self.classes))[:, self.index]
            weights = self.state.weights
            probit = isinstance(self.state, ClassSites)
            precision = onehot + self.state.alpha if probit else onehot - weights
            args = self.K, precision, weights, scales, cross, own
            mean, var = class_latent(*map(jnp.asarray, args))
        return nodes.weights / np.sum(nodes.weights), np.asarray(mean), np.asarray(var)

    def predict_proba(self, Xs: Any) -> np.ndarray:
        r"""Probabilities of the classes ``(m, C)``, averaged over latent function and scale.

        .. math:: \Phi\big(\mu / \sqrt{1 + \sigma^2}\big) \quad\text{or}\quad
            E\, p(c \mid f), \; f \sim N(\mu, \Sigma)

        The second average is taken over 1024 quasi-random points, the same for every input, with an
        error of about 1e-3; with a random scale at least 64 for each of its nodes.

        Args:
            Xs: inputs ``(m, d)``, features as in training.

        Raises:
            ShapeError, DomainError: bad inputs.

        Check: test_classify.py::test_softmax_average, test_multiclass_ep.py::test_digits.
        """
        weights, mean, var = self._latent(Xs)
        if mean.ndim == 2:
            each = scipy.special.ndtr(mean / np.sqrt(1 + var))
            second = weights @ each
            first = weights @ scipy.special.ndtr(-mean / np.sqrt(1 + var))
            return np.stack([first, second], axis=1)
        probit = isinstance(self.state, ClassSites)
        average = probit_average if probit else softmax_average
        # every scale its own points, fewer for many scales: their errors are independent
        power = max(6, _POWER - int(np.log2(len(weights))))
        terms = zip(weights, mean, var, range(len(weights)), strict=True)
        return sum(w * average(m, v, power, seed) for w, m, v, seed in terms)

    def predict(self, Xs: Any) -> np.ndarray:
        """The most probable class at every input, ``(m,)``.

        Args:
            Xs: inputs ``(m, d)``, features as in training.

        Raises:
            ShapeError, DomainError: bad inputs.
        """
        return self.classes[np.argmax(self.predict_proba(Xs), axis=1)]

    def latent(self, Xs: Any) -> Latent:
        """Mean and variance of the latent function: of the second class (probit), or of each.

        Args:
            Xs: inputs ``(m, d)``, features as in training.

        Raises:
            ShapeError, DomainError: bad inputs.
            MomentUndefinedError: the law of the scale has no mean.
        """
        needs_mean_scale(self.scale_posterior.mean, "variance of the latent function")
        weights, mean, var = self._latent(Xs)
        if mean.ndim == 3:
            var = np.diagonal(var, axis1=2, axis2=3)
        centre = np.tensordot(weights, mean, 1)
        return Latent(centre, np.tensordot(weights, var + (mean - centre) ** 2, 1))


def _root_and_normal(cov: np.ndarray, power: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A square root of every covariance ``(m, C, C)``, and 2^power quasi-random normal points."""
    sobol = scipy.stats.qmc.Sobol(cov.shape[-1], scramble=True, rng=np.random.default_rng(seed))
    values, vectors = np.linalg.eigh(cov)
    root = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
    return root, scipy.special.ndtri(sobol.random_base2(power))


def softmax_average(
    mean: np.ndarray, cov: np.ndarray, power: int = _POWER, seed: int = 0
) -> np.ndarray:
    """Average softmax probabilities of Gaussian latents: means ``(m, C)``, ``(m, C, C)``."""
    root, normal = _root_and_normal(cov, power, seed)
    rows = [
        scipy.special.softmax(centre + normal @ half.T, axis=1).mean(axis=0)
        for centre, half in zip(mean, root, strict=True)
    ]
    return np.stack(rows)


def probit_average(
    mean: np.ndarray, cov: np.ndarray, power: int = _POWER, seed: int = 0
) -> np.ndarray:
    """Average of :func:`probit_probabilities` over Gaussian latents, as :func:`softmax_average`."""
    root, normal = _root_and_normal(cov, power, seed)
    rows = [
        probit_probabilities(centre + normal @ half.T).mean(axis=0)
        for centre, half in zip(mean, root, strict=True)
    ]
    return np.stack(rows)


#: Where the largest of C functions with unit noise lies, relative to the largest mean, but for
#: 3e-6 of its probability; with C = 10 the trapezoidal rule is good to 1e-7, with 100 to 1e-4.
_HEIGHTS = np.linspace(-4.5, 6.9, 20)


def probit_probabilities(f: np.ndarray) -> np.ndarray:
    r"""Probability that each of C functions f ``(m, C)`` is the largest under unit noise.

    .. math:: p_c = \int \frac{\varphi(h - f_c)}{\Phi(h - f_c)} \prod_b \Phi(h - f_b)\, dh

    over the value h of the largest: one rule serves all classes, with C factors per node.

    Check: test_multiclass_ep.py::test_probabilities_given_the_functions.
    """
    z = (f.max(axis=1, keepdims=True) - f)[:, None, :] + _HEIGHTS[:, None]
    below = scipy.special.ndtr(z)  # at least 3e-6, so that the ratio loses nothing
    p = np.sum(np.exp(-0.5 * z**2) / below * np.prod(below, axis=2, keepdims=True), axis=1)
    return p / p.sum(axis=1, keepdims=True)


register_dataclass(ClassifierInfo, ["steps", "gap"], ["method", "n", "dtype"])
register_dataclass(
    ClassPosterior,
    ["X", "index", "K", "state", "scale_posterior", "log_evidence", "error", "info", "classes"],
    ["kernel"],
)
