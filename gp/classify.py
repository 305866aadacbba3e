r"""Gaussian-process classification with any kernel, and with a random scale of the latent function.

.. math:: f \sim GP(0, k) \;\text{ or }\; f \mid s^2 \sim GP(0, s^2 k),\; s^2 \sim H, \qquad
    p(t = 1 \mid f) = \Phi(f) \;\text{ or }\; p(c \mid f) \propto e^{f_c}

Two classes with the probit likelihood use expectation propagation, more classes with the softmax
likelihood Laplace's approximation. A random scale is integrated by quadrature: every scale has an
evidence of its own, and their weighted sum is the evidence of the mixture.
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
from gp.laplace import softmax_latent, softmax_mode_at_scales
from gp.linalg import Kernel, eigh_psd, kernel_diagonal, kernel_matrix
from gp.mixture_marginals import needs_mean_scale
from gp.process import GP, inputs, size_guard
from gp.scale_density import as_scale_prior
from gp.scale_evidences import evidences_over_scales
from gp.scale_quadrature import ScaleNodes

#: Normal points per prediction with softmax probabilities: scrambled Sobol, 2^10, fixed seed.
_POWER = 10


class Latent(NamedTuple):
    """Mean and variance of the latent functions: ``(m,)`` for probit, ``(m, C)`` for softmax."""

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

    Laplace's approximation is under-confident, more so for many classes and large functions (0.74
    for 0.80 by Monte Carlo with 20 points and three classes), and its evidence prefers too small a
    scale. Where softmax probabilities matter, compare with :func:`gp.sample_classifier`.

    Args:
        kernel: ``k(X, Z=None) -> (n, m)``, such as ``net.nngp``; its size is the size of the latent
            function in units of the probit (or logit) scale.
        likelihood: "probit" (two classes, by expectation propagation), "softmax" (one latent
            function per class, by Laplace's approximation), or "auto" (default): probit for two
            classes, softmax for more.
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
            ShapeError, DomainError: bad inputs or labels, one class only, three classes with
                probit, or more than ``max_points`` points.
            NotPositiveDefiniteError: the kernel matrix is indefinite beyond rounding.
            ConvergenceError: the approximation does not converge at scales that matter.
            ImproperPosteriorError: the law of the scale is improper.
        """
        x = inputs(X, "X")
        n = x.shape[0]
        known, index = class_index(labels, n, classes)
        probit = self.likelihood == "probit" or (self.likelihood == "auto" and len(known) == 2)
        check(
            not probit or len(known) == 2,
            f'likelihood="probit" is for two classes, got {len(known)}; use "softmax".',
            DomainError,
        )
        size_guard(n, self.max_points, "X")
        matrix, dtype = kernel_matrix(self.kernel, x)
        eigh_psd(matrix, name="the kernel matrix of X", dtype=dtype)
        K = jnp.asarray(matrix)
        if probit:
            t = jnp.asarray(2.0 * index - 1.0)
            solve = lambda scales: probit_sites_at_scales(K, t, scales)  # noqa: E731
        else:
            onehot = jnp.asarray(np.eye(len(known))[:, index])
            solve = lambda scales: softmax_mode_at_scales(K, onehot, scales)  # noqa: E731
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
            onehot = jnp.asarray(np.eye(len(self.classes))[:, self.index])
            weights = jnp.asarray(self.state.weights)
            mean, var = softmax_latent(jnp.asarray(self.K), onehot, weights, scales, cross, own)
        return nodes.weights / np.sum(nodes.weights), np.asarray(mean), np.asarray(var)

    def predict_proba(self, Xs: Any) -> np.ndarray:
        r"""Probabilities of the classes ``(m, C)``, averaged over latent function and scale.

        .. math:: \Phi\big(\mu / \sqrt{1 + \sigma^2}\big) \quad\text{or}\quad
            E\, \mathrm{softmax}(f), \; f \sim N(\mu, \Sigma)

        The second average is taken over 1024 quasi-random points, the same for every input, with an
        error of about 1e-3.

        Args:
            Xs: inputs ``(m, d)``, features as in training.

        Raises:
            ShapeError, DomainError: bad inputs.

        Check: test_classify.py::test_softmax_average.
        """
        weights, mean, var = self._latent(Xs)
        if mean.ndim == 2:
            each = scipy.special.ndtr(mean / np.sqrt(1 + var))
            second = weights @ each
            first = weights @ scipy.special.ndtr(-mean / np.sqrt(1 + var))
            return np.stack([first, second], axis=1)
        return sum(w * softmax_average(m, v) for w, m, v in zip(weights, mean, var, strict=True))

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


def softmax_average(mean: np.ndarray, cov: np.ndarray) -> np.ndarray:
    """Average softmax probabilities of Gaussian latents: means ``(m, C)``, ``(m, C, C)``."""
    m, outputs = mean.shape
    sobol = scipy.stats.qmc.Sobol(outputs, scramble=True, rng=np.random.default_rng(0))
    normal = scipy.special.ndtri(sobol.random_base2(_POWER))
    values, vectors = np.linalg.eigh(cov)
    root = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
    rows = [
        scipy.special.softmax(mean[i] + normal @ root[i].T, axis=1).mean(axis=0) for i in range(m)
    ]
    return np.stack(rows)


register_dataclass(ClassifierInfo, ["steps", "gap"], ["method", "n", "dtype"])
register_dataclass(
    ClassPosterior,
    ["X", "index", "K", "state", "scale_posterior", "log_evidence", "error", "info", "classes"],
    ["kernel"],
)
