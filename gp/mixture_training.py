r"""The law of trained wide networks whose last layer has a random scale at initialisation.

.. math:: f(x) = N^{-1/2} \sum_j v_j \phi_j(x), \qquad v_j \mid s^2 \sim N(0, s^2)

Given the scale, training is that of :class:`gp.Ensemble`; the law over initialisations is a mixture
over the *prior* of the scale: gradient descent does not update it.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from deeplimits.pytrees import register_dataclass
from deeplimits.validate import as_targets, choice, number
from gp.dynamics import Ensemble, TrainedEnsemble
from gp.linalg import nngp_and_ntk, rounding_size
from gp.mixture_laws import GaussianMixture
from gp.mixtures import JointLaw, prior_nodes, scale_law
from gp.process import inputs, size_guard
from gp.scale_density import as_scale_prior
from gp.scale_priors import InverseGamma, density_of_log
from gp.scale_quadrature import NEGLIGIBLE, ScaleNodes, integrate

#: Components whose weight is below e^-37 = 1e-16 do not change a mean.
_LEFT_OUT = -37.0


@dataclass(frozen=True)
class ScaleMixtureEnsemble:
    r"""Infinitely wide networks with a random last-layer scale, to be trained on squared loss.

    Args:
        net: a network with methods ``nngp`` and ``ntk``, in NTK parametrisation, with last-layer
            weights of unit variance; a bias of the last layer is scaled together with them.
        prior: law of :math:`s^2`, as in :class:`gp.ScaleMixture`.
        layers: which parameters are trained: "last" or "all". Default "all".
        learning_rate, loss: as in :class:`gp.Ensemble`; gradient flow only, because a law of the
            scale with a tail makes every positive rate unstable for some networks.

    Raises:
        DomainError: no such methods, no such prior, or a number out of range.

    Source: arXiv:2107.01408, section 5, for the last layer; all layers derived here.
    """

    net: Any
    prior: Any
    layers: str = "all"
    learning_rate: float = 1.0
    loss: str = "sum"

    def __post_init__(self) -> None:
        Ensemble(self.net, self.learning_rate, self.loss)
        choice(self.layers, "layers", ("last", "all"))
        object.__setattr__(self, "prior", as_scale_prior(self.prior))

    def train(self, X: Any, y: Any, *, time: float = np.inf) -> TrainedScaleMixture:
        r"""The law after gradient flow for ``time`` steps.

        Args:
            X: inputs ``(n, d)`` or ``(n, *spatial, channels)``.
            y: targets ``(n,)`` or ``(n, C)``.
            time: >= 0, in steps of the learning rate; default infinity.

        Raises:
            ShapeError, DomainError: bad data or time.
        """
        x = inputs(X, "X")
        targets = np.asarray(as_targets(y, x.shape[0]), np.float64)
        size_guard(x.shape[0], 20_000, "X")
        if not (isinstance(time, float) and time == np.inf):
            number(time, "time", at_least=0)
        return TrainedScaleMixture(self, x, targets, float(time), np.ndim(y) == 1)


@dataclass(frozen=True)
class TrainedScaleMixture:
    r"""Scale-mixture networks after training; made by :meth:`ScaleMixtureEnsemble.train`.

    Last layer only: the training kernel is the NNGP kernel whatever the scale, and

    .. math:: f_t(X_*) \mid s^2 \sim N(H_t y,\; s^2 C_t)

    so that an inverse gamma law gives a Student-t law with 2a degrees of freedom, those of the
    prior: not the 2a + n of the posterior. All layers: the NTK contains the scale,

    .. math:: \Theta(s^2) = K + s^2 T, \qquad K(s^2) = s^2 K, \qquad T = \Theta(1) - K

    so that mean and covariance both depend on it, and the law is no Student-t law.

    Attributes:
        model: the untrained ensemble.
        X, y: the data; ``y`` always ``(n, C)``.
        time: time of training, in steps.
        vector: whether y came as ``(n,)``.
    """

    model: ScaleMixtureEnsemble
    X: Any
    y: np.ndarray
    time: float
    vector: bool

    def predict(self, Xs: Any) -> JointLaw | GaussianMixture:
        """The joint law of the outputs at ``Xs`` over initialisations.

        Args:
            Xs: inputs ``(m, d)``, features as in training.

        Returns:
            A law with ``mean``, ``var``, ``cov``, ``log_prob``, ``quantile`` and ``sample``; a
            :class:`gp.StudentT` for ``layers="last"`` with an inverse gamma law.

        Raises:
            ShapeError, DomainError: bad inputs.
            ImproperPosteriorError: the law of the scale is improper.

        Check: test_mixture_training.py::test_finite_networks_follow_the_law.
        """
        xs = inputs(Xs, "Xs", self.X)
        n, m = self.X.shape[0], xs.shape[0]
        nngp, ntk, dtype = nngp_and_ntk(self.model.net, np.concatenate([self.X, xs]))
        rows, test = np.arange(n)[:, None], n + np.arange(m)[:, None]
        if self.model.layers == "last":
            gaussian = self._trained(nngp, nngp, rows, dtype).predict(test)
            return scale_law(gaussian, self._law())
        nodes = self._nodes()
        locs, covs = [], []
        for s2 in nodes.s2:
            gaussian = self._trained(s2 * nngp, nngp + s2 * (ntk - nngp), rows, dtype).predict(test)
            locs.append(gaussian.mean.reshape(m, -1))
            covs.append(gaussian.cov)
        rounding = nodes.s2 * rounding_size(np.diagonal(nngp), dtype)
        has_var = bool(np.isfinite(nodes.mean))
        return GaussianMixture(
            nodes.log_weights, np.stack(locs), np.stack(covs), rounding, self.vector, has_var
        )

    def mean(self, Xs: Any) -> np.ndarray:
        """Mean outputs over initialisations, ``(m,)`` or ``(m, C)``.

        Args:
            Xs: inputs ``(m, d)``, features as in training.

        Raises:
            ShapeError, DomainError: bad inputs.
            MomentUndefinedError: the mean does not exist.
        """
        return self.predict(Xs).mean

    def var(self, Xs: Any) -> np.ndarray:
        """Variances over initialisations.

        Args:
            Xs: inputs ``(m, d)``, features as in training.

        Raises:
            ShapeError, DomainError: bad inputs.
            MomentUndefinedError: the law of the scale has no mean.
        """
        return self.predict(Xs).var

    def cov(self, Xs: Any) -> np.ndarray:
        """Covariances over initialisations.

        Args:
            Xs: inputs ``(m, d)``, features as in training.

        Raises:
            ShapeError, DomainError: bad inputs.
            MomentUndefinedError: the law of the scale has no mean.
        """
        return self.predict(Xs).cov

    def sample(self, key: Any, Xs: Any, n: int = 1) -> np.ndarray:
        """Outputs of ``n`` trained networks at ``Xs``: ``(n, m)`` or ``(n, m, C)``.

        Args:
            key: a ``jax.random.key`` or an integer seed.
            Xs: inputs ``(m, d)``, features as in training.
            n: number of networks, >= 1. Default 1.

        Raises:
            ShapeError, DomainError: bad inputs, key or n.
        """
        return self.predict(Xs).sample(key, n)

    def _trained(
        self, nngp: np.ndarray, ntk: np.ndarray, rows: np.ndarray, dtype: Any
    ) -> TrainedEnsemble:
        """The ensemble at one scale; inputs are row numbers of the given matrices.

        The matrices keep the dtype in which they were computed, which says how exact they are.
        """
        net = SimpleNamespace(nngp=_Lookup(nngp.astype(dtype)), ntk=_Lookup(ntk.astype(dtype)))
        ensemble = Ensemble(net, self.model.learning_rate, self.model.loss)
        y = self.y[:, 0] if self.vector else self.y
        return ensemble.train(rows.astype(np.float64), y, times=self.time)

    def _law(self) -> Any:
        prior = self.model.prior
        return prior if isinstance(prior, InverseGamma) else prior_nodes(prior)

    def _nodes(self) -> ScaleNodes:
        """Nodes of the prior that matter to a float64 average."""
        prior = self.model.prior
        nodes = integrate(lambda u: density_of_log(prior, u), "the scale prior", reach=NEGLIGIBLE)
        kept = nodes.log_weights > _LEFT_OUT
        return ScaleNodes(
            nodes.log_s2[kept],
            nodes.log_weights[kept],
            nodes.log_integral,
            nodes.error,
            nodes.mean,
        )


@dataclass(frozen=True)
class _Lookup:
    """A kernel on row numbers of a matrix that is known already."""

    matrix: np.ndarray

    def __call__(self, x: Any, z: Any = None) -> np.ndarray:
        """The block of the rows ``x (n, 1)`` and ``z (m, 1)``."""
        rows = np.asarray(x[:, 0]).astype(int)
        columns = rows if z is None else np.asarray(z[:, 0]).astype(int)
        return self.matrix[np.ix_(rows, columns)]


register_dataclass(TrainedScaleMixture, ["X", "y", "time"], ["model", "vector"])
