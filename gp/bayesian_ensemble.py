r"""Deep ensembles whose members are exact draws from a Bayesian posterior.

Wide networks that are trained to the end are spread too little: their initial law has the NNGP
covariance :math:`\mathcal K`, while training moves them with the NTK :math:`\Theta`. Adding to each
member a fixed random function :math:`\delta` of covariance :math:`\Theta - \mathcal K` makes the
initial law :math:`N(0, \Theta)`, and training on noisy targets with a pull towards the initial
parameters then ends in the posterior of a Gaussian process with kernel :math:`\Theta`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from deeplimits.errors import DomainError, NotPositiveDefiniteError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import check, number
from gp.dynamics import Ensemble, TrainedEnsemble
from gp.linalg import nngp_and_ntk, rounding_size
from gp.predictive import Gaussian
from gp.process import GP, Posterior, inputs


def delta_law(net: Any, X: Any) -> Gaussian:
    r"""The law :math:`N(0, \Theta - \mathcal K)` of the correction of a Bayesian deep ensemble.

    Args:
        net: a network with methods ``nngp`` and ``ntk``.
        X: inputs ``(m, d)`` or ``(m, *spatial, channels)``.

    Raises:
        ShapeError, DomainError: bad inputs, or no such methods.
        NotPositiveDefiniteError: :math:`\Theta - \mathcal K` has negative eigenvalues, so that no
            independent correction exists. In NTK parametrisation with all layers trained it has
            none, since the last layer alone contributes :math:`\mathcal K` to the NTK.

    Source: B. He, B. Lakshminarayanan, Y. W. Teh, arXiv:2007.05864, section 3.
    Check: test_bayesian_ensemble.py::test_members_are_draws_of_the_posterior.
    """
    Ensemble(net)
    x = inputs(X, "X")
    nngp, ntk, dtype = nngp_and_ntk(net, x)
    gap = ntk - nngp
    rounding = rounding_size(np.diagonal(ntk), dtype)
    low = float(scipy.linalg.eigvalsh(gap, subset_by_index=(0, 0))[0])
    check(
        low >= -rounding * len(gap),
        f"the NTK minus the NNGP kernel has eigenvalue {low:.6g}: the networks start wider spread "
        "than they are trained, and no independent function corrects that. Train all layers, in "
        "NTK parametrisation.",
        NotPositiveDefiniteError,
    )
    return Gaussian(np.zeros(len(gap)), gap, rounding)


def delta_function(apply_fn: Callable[..., Any], params: Any, draw: Any) -> Callable[[Any], Any]:
    r"""A correction for a finite network: the Jacobian times independent parameters.

    .. math:: \delta(x) = \sum_{\text{all but the last layer}}
        \frac{\partial f_\theta(x)}{\partial \theta_i}\Big|_{\theta_0} \tilde\theta_i

    Its covariance over :math:`\tilde\theta` is the empirical NTK without the last layer, which at
    large width tends to :math:`\Theta - \mathcal K`.

    Args:
        apply_fn: ``f(params, x)``.
        params: initial parameters :math:`\theta_0`, a sequence of layers whose last entry holds
            those of the last layer.
        draw: parameters of the same structure from an independent initialisation.

    Returns:
        ``x -> delta(x)``, in the shape of ``apply_fn(params, x)``.

    Raises:
        DomainError: ``params`` is no sequence of layers, or ``draw`` has another structure.

    Source: arXiv:2007.05864, section 4. Check: test_bayesian_ensemble.py::test_finite_networks.
    """
    check(
        isinstance(params, list | tuple) and len(params) > 1,
        f"params must be a sequence of layers, the last of them last; got {type(params).__name__}.",
        DomainError,
    )
    ours, theirs = (str(jax.tree.structure(tree)) for tree in (params, draw))
    same = ours == theirs and all(
        jnp.shape(a) == jnp.shape(b)
        for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(draw), strict=True)
    )
    check(same, "draw must have the structure and shapes of params.", DomainError)
    zeros = jax.tree.map(jnp.zeros_like, draw[-1])
    tangent = type(params)((*draw[:-1], zeros))
    return lambda x: jax.jvp(lambda p: apply_fn(p, x), (params,), (tangent,))[1]


@register_dataclass
@dataclass(frozen=True)
class EnsembleComparison:
    r"""Uncertainty of plain and Bayesian deep ensembles at given inputs.

    Attributes:
        plain: variances of plain members over initialisations ``(m,)``.
        bayesian: variances of Bayesian members ``(m,)``.
        lowest: smallest eigenvalue of the difference of their covariances; >= 0 up to rounding
            when the plain ensemble is nowhere and in no combination more uncertain.
        delta_exists: whether :math:`\mathcal K \le \Theta` on all inputs together. Where it holds,
            so does ``lowest >= 0``; where it fails, neither need.
    """

    plain: np.ndarray
    bayesian: np.ndarray
    lowest: float
    delta_exists: bool


@dataclass(frozen=True)
class BayesianEnsemble:
    r"""A Bayesian deep ensemble given data; made by :func:`bayesian_ensemble`.

    Attributes:
        posterior: the law of a member, the Gaussian process with kernel :math:`\Theta` given the
            data (a :class:`gp.Posterior`).
        plain: members trained alike without correction and without noise on the targets.
        net: the network.
    """

    posterior: Posterior
    plain: TrainedEnsemble
    net: Any

    def compare(self, Xs: Any) -> EnsembleComparison:
        """Plain against Bayesian uncertainty at ``Xs``.

        Args:
            Xs: inputs ``(m, d)``, features as in training.

        Raises:
            ShapeError, DomainError: bad inputs.

        Check: test_bayesian_ensemble.py::test_plain_members_are_too_certain.
        """
        xs = inputs(Xs, "Xs", self.posterior.X)
        wide, narrow = self.posterior.cov(xs), self.plain.cov(xs)[-1]
        try:
            delta_law(self.net, np.concatenate([np.asarray(self.posterior.X), np.asarray(xs)]))
            exists = True
        except NotPositiveDefiniteError:
            exists = False
        lowest = float(scipy.linalg.eigvalsh(wide - narrow, subset_by_index=(0, 0))[0])
        return EnsembleComparison(np.diagonal(narrow), np.diagonal(wide), lowest, exists)


@float64_scope
def bayesian_ensemble(net: Any, X: Any, y: Any, *, noise: float) -> BayesianEnsemble:
    r"""The law of networks that are trained so that each is one draw from a posterior.

    Members :math:`f_\theta + \delta` minimise :math:`\|f_\theta + \delta - y - \epsilon\|^2 + s^2
    \|\theta - \theta_0\|^2` with :math:`\epsilon \sim N(0, s^2)` and :math:`\delta` of
    :func:`delta_law`; at infinite width they are distributed as

    .. math:: N\big(\Theta_* (\Theta + s^2)^{-1} y,\;
        \Theta_{**} - \Theta_* (\Theta + s^2)^{-1} \Theta_*^\top\big)

    Args:
        net: a network with methods ``nngp`` and ``ntk``.
        X: inputs ``(n, d)`` or ``(n, *spatial, channels)``.
        y: targets ``(n,)`` or ``(n, C)``.
        noise: variance :math:`s^2 > 0`.

    Raises:
        ShapeError, DomainError: bad data or noise.
        NotPositiveDefiniteError: :math:`\Theta - \mathcal K` is indefinite on X.

    Source: arXiv:2007.05864, section 3.
    Check: test_bayesian_ensemble.py::test_members_are_draws_of_the_posterior.
    """
    number(noise, "noise", above=0)
    delta_law(net, X)
    posterior = GP(net.ntk, noise=noise).condition(X, y)
    plain = Ensemble(net, ridge=noise).train(X, y, times=np.inf)
    return BayesianEnsemble(posterior, plain, net)


register_dataclass(BayesianEnsemble, ["posterior", "plain"], ["net"])
