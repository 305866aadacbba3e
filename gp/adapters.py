"""Our kernels and processes in the protocols of other libraries, which are imported on use only.

scikit-learn: :class:`GPRegressor` and :class:`GPClassifier`. tinygp and GPJax: :func:`to_tinygp`
and :func:`to_gpjax`.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.special

from deeplimits.errors import DomainError, require
from deeplimits.validate import check
from gp.maximize_evidence import maximize_evidence
from gp.process import GP
from ntk import mlp


def _sklearn(module: str) -> Any:
    return require(f"sklearn.{module}", "test", "the scikit-learn interface of deeplimits")


class _Estimator:
    """What regressor and classifier share: parameters, validation, tags, the model."""

    kernel: Any
    noise: Any
    optimize: bool
    max_points: int
    _estimator_type = ""

    @classmethod
    def _names(cls) -> list[str]:
        return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Constructor arguments by name; ``deep`` changes nothing, as none of them is nested."""
        return {name: getattr(self, name) for name in self._names()}

    def set_params(self, **params: Any) -> Any:
        """Set constructor arguments by name.

        Raises:
            DomainError: a name that is not one of them.
        """
        for name, value in params.items():
            check(
                name in self._names(),
                f"{type(self).__name__} has the parameters {self._names()}, not {name!r}.",
                DomainError,
            )
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self).__init__).parameters
        changed = [
            f"{name}={value!r}"
            for name, value in self.get_params().items()
            if value is not defaults[name].default
        ]
        return f"{type(self).__name__}({', '.join(changed)})"

    def __sklearn_tags__(self) -> Any:
        utils = _sklearn("utils")
        regressor = self._estimator_type == "regressor"
        return utils.Tags(
            estimator_type=self._estimator_type,
            target_tags=utils.TargetTags(required=True, multi_output=regressor),
            classifier_tags=None if regressor else utils.ClassifierTags(),
            regressor_tags=utils.RegressorTags() if regressor else None,
        )

    def _model(self) -> GP:
        kernel = (
            mlp(2, "relu", W_std=2**0.5, b_std=0.1).nngp if self.kernel is None else self.kernel
        )
        return GP(kernel, noise=self.noise, max_points=self.max_points)

    def _fitted(self, X: Any, targets: np.ndarray) -> None:
        """Condition on standardised targets; sets the attributes that end in an underscore."""
        model = self._model()
        if self.optimize:
            model = maximize_evidence(model, X, targets, restarts=0).model
        self.model_ = model
        self.posterior_ = model.condition(X, targets)
        self.log_marginal_likelihood_value_ = self.posterior_.log_evidence

    def _queries(self, X: Any) -> Any:
        validation = _sklearn("utils.validation")
        validation.check_is_fitted(self)
        return validation.validate_data(self, X, reset=False, dtype=[np.float64, np.float32])


class GPRegressor(_Estimator):
    """Gaussian-process regression with any of our kernels, as a scikit-learn regressor.

    Args:
        kernel: ``k(X, Z=None) -> (n, m)``, such as ``net.nngp``. None: a network with two hidden
            ReLU layers at criticality (``W_std`` = sqrt 2, ``b_std`` = 0.1).
        noise: noise variance, in units of the variance of y if ``normalize_y``. Default 0.05.
        normalize_y: subtract the mean of y and divide by its standard deviation (of each output)
            before fitting; predictions are scaled back. Default True.
        optimize: fit noise and kernel by :func:`gp.maximize_evidence` from the given values.
            Default False.
        max_points: refuse dense algebra on more points than this. Default 20000.

    Attributes set by ``fit``: ``posterior_``, ``model_``, ``log_marginal_likelihood_value_`` (of
    the standardised targets), ``n_features_in_``.

    Source: Rasmussen and Williams (2006), chapter 2.
    Check: test_adapters.py::test_regressor_values.
    """

    _estimator_type = "regressor"

    def __init__(
        self,
        kernel: Any = None,
        noise: Any = 0.05,
        normalize_y: bool = True,
        optimize: bool = False,
        max_points: int = 20_000,
    ) -> None:
        self.kernel = kernel
        self.noise = noise
        self.normalize_y = normalize_y
        self.optimize = optimize
        self.max_points = max_points

    def fit(self, X: Any, y: Any) -> GPRegressor:
        """Condition on ``X (n, d)`` and ``y (n,)`` or ``(n, C)``.

        Raises:
            MissingDependencyError: scikit-learn is not installed.
            ValueError: bad data (scikit-learn's and our own errors).
        """
        X, y = _sklearn("utils.validation").validate_data(
            self, X, y, multi_output=True, y_numeric=True, dtype=[np.float64, np.float32]
        )
        y = np.asarray(y, np.float64)
        self._shift = np.mean(y, axis=0) if self.normalize_y else 0.0
        scale = np.std(y, axis=0) if self.normalize_y else 1.0
        self._scale = np.where(scale > 0, scale, 1.0)
        self._fitted(X, (y - self._shift) / self._scale)
        return self

    def predict(self, X: Any, return_std: bool = False, return_cov: bool = False) -> Any:
        """Mean of f at ``X (m, d)``, in the shape of y; with its standard deviation or covariance.

        The standard deviation has the shape of the mean, the covariance ``(m, m)`` or
        ``(m, m, C)``; both are those of f, without noise.

        Raises:
            DomainError: both were asked for.
        """
        check(
            not (return_std and return_cov),
            "ask for return_std or return_cov, not for both.",
            DomainError,
        )
        X = self._queries(X)
        mean = self._shift + self._scale * self.posterior_.mean(X)
        if return_std:
            std = np.sqrt(self.posterior_.var(X))
            return mean, std[:, None] * self._scale if mean.ndim == 2 else std * self._scale
        if return_cov:
            cov = self.posterior_.cov(X)
            square = self._scale**2
            return mean, cov[:, :, None] * square if mean.ndim == 2 else cov * square
        return mean

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Coefficient of determination of the mean."""
        metrics = _sklearn("metrics")
        return float(metrics.r2_score(y, self.predict(X), sample_weight=sample_weight))


class GPClassifier(_Estimator):
    r"""Regression on one-hot labels, with probabilities calibrated by leaving one out.

    With :math:`\mu_c, s^2` the posterior of the regression on ``onehot - frequency``,

    .. math::

        p(c \mid x) \propto \pi_c\, e^{\beta z_c(x)}, \qquad
        z_c(x) = \frac{\mu_c(x)}{\sqrt{s^2(x) + \mathrm{noise}}}

    where :math:`\pi_c` are the frequencies of the classes and :math:`\beta \ge 0` is the maximum of
    the leave-one-out log likelihood, whose :math:`z` are exact and cost nothing extra. Far from
    the data :math:`z \to 0` and the probabilities return to :math:`\pi`.

    Args:
        kernel: as in :class:`GPRegressor`.
        noise: noise variance of the regression on labels 0 and 1. Default 0.05.
        optimize: as in :class:`GPRegressor`.
        max_points: as in :class:`GPRegressor`.

    Attributes set by ``fit``: ``classes_``, ``class_prior_``, ``temperature_`` (1 / beta),
    ``loo_log_loss_`` (nats per point), and those of :class:`GPRegressor`.

    Source: Guo et al., arXiv:1706.04599, for one temperature; leave-one-out form derived here.
    Check: test_adapters.py::test_probabilities_are_calibrated.
    """

    _estimator_type = "classifier"

    def __init__(
        self,
        kernel: Any = None,
        noise: Any = 0.05,
        optimize: bool = False,
        max_points: int = 20_000,
    ) -> None:
        self.kernel = kernel
        self.noise = noise
        self.optimize = optimize
        self.max_points = max_points

    def fit(self, X: Any, y: Any) -> GPClassifier:
        """Condition on ``X (n, d)`` and labels ``y (n,)`` of at least two classes.

        Raises:
            MissingDependencyError: scikit-learn is not installed.
            DomainError: one class only.
            ValueError: bad data (scikit-learn's and our own errors).
        """
        X, y = _sklearn("utils.validation").validate_data(
            self, X, y, dtype=[np.float64, np.float32]
        )
        _sklearn("utils.multiclass").check_classification_targets(y)
        self.classes_, index = np.unique(y, return_inverse=True)
        count = len(self.classes_)
        check(
            count > 1, f"the labels must hold two classes or more, got {count} class.", DomainError
        )
        onehot = np.eye(count)[index]
        self.class_prior_ = onehot.mean(axis=0)
        self._fitted(X, onehot - self.class_prior_)
        loo = self.posterior_.loo()
        z = loo.mean / np.sqrt(loo.var)[:, None]

        def log_loss(log_beta: float) -> float:
            logits = self._logits(z, np.exp(log_beta))
            return -float(np.mean(scipy.special.log_softmax(logits, axis=1)[onehot > 0]))

        best = scipy.optimize.minimize_scalar(
            log_loss, bounds=(-10, 10), method="bounded", options={"xatol": 1e-6}
        )
        self.temperature_, self.loo_log_loss_ = float(np.exp(-best.x)), float(best.fun)
        return self

    def _logits(self, z: np.ndarray, beta: float) -> np.ndarray:
        return np.log(self.class_prior_) + beta * z

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Log probabilities of the classes at ``X (m, d)``: ``(m, classes)``."""
        X = self._queries(X)
        variance = self.posterior_.var(X) + self.posterior_.info.noise
        z = self.posterior_.mean(X) / np.sqrt(variance)[:, None]
        return scipy.special.log_softmax(self._logits(z, 1 / self.temperature_), axis=1)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes at ``X (m, d)``: ``(m, classes)``."""
        return np.exp(self.predict_log_proba(X))

    def decision_function(self, X: Any) -> np.ndarray:
        """Log probabilities ``(m, classes)``; with two classes the log odds of the second."""
        log_p = self.predict_log_proba(X)
        return log_p[:, 1] - log_p[:, 0] if log_p.shape[1] == 2 else log_p

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class at ``X (m, d)``: ``(m,)``."""
        best = np.argmax(self.predict_log_proba(X), axis=1)
        return self.classes_[best]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy."""
        metrics = _sklearn("metrics")
        return float(metrics.accuracy_score(y, self.predict(X), sample_weight=sample_weight))


def _as_pytree(kernel: Any) -> Any:
    """The kernel as a callable pytree, with the parameters of a network as its leaves."""
    check(
        callable(kernel),
        f"kernel must be a callable k(X, Z=None) -> (n, m), got {type(kernel).__name__}.",
        DomainError,
    )
    owner = getattr(kernel, "__self__", None)
    if owner is not None and not jax.tree_util.all_leaves([owner]):
        return jax.tree_util.Partial(kernel.__func__, owner)
    return jax.tree_util.Partial(kernel) if jax.tree_util.all_leaves([kernel]) else kernel


def _pair(kernel: Any, x: Any, z: Any = None) -> Any:
    """The kernel of two single inputs; of one with itself if ``z`` is None."""
    rows = [jnp.atleast_1d(jnp.asarray(v))[None] for v in (x, z) if v is not None]
    return kernel(*rows)[0, 0]


@functools.cache
def _tinygp_class() -> type:
    base = require("tinygp", None, "gp.to_tinygp").kernels.Kernel

    class NetworkKernel(base):  # type: ignore[misc, valid-type]
        network: Any

        def evaluate(self, X1: Any, X2: Any) -> Any:
            """The kernel of two inputs."""
            return _pair(self.network, X1, X2)

        def evaluate_diag(self, X: Any) -> Any:
            """The kernel of an input with itself, exact on the diagonal."""
            return _pair(self.network, X)

    return NetworkKernel


def to_tinygp(kernel: Any) -> Any:
    """Our kernel as a ``tinygp.kernels.Kernel``.

    Args:
        kernel: ``k(X, Z=None) -> (n, m)`` in jax.numpy, such as ``net.nngp``. The parameters of
            the network are leaves of the result, so tinygp's usual way of fitting reaches them.

    Returns:
        An instance of a subclass of ``tinygp.kernels.Kernel``; it adds and multiplies with others.

    Raises:
        MissingDependencyError: tinygp is not installed.
        DomainError: not a callable.

    Check: test_adapters.py::test_tinygp.
    """
    tree = _as_pytree(kernel)
    return _tinygp_class()(tree)


def to_gpjax(kernel: Any) -> Any:
    """Our kernel as a ``gpjax.kernels.AbstractKernel``; its parameters are constants.

    GPJax adds 1e-6 to the diagonal of every covariance, so its evidence differs from ours.

    Args:
        kernel: ``k(X, Z=None) -> (n, m)`` in jax.numpy, such as ``net.nngp``.

    Raises:
        MissingDependencyError: GPJax is not installed.
        DomainError: not a callable.

    Check: test_adapters.py::test_gpjax.
    """
    tree = _as_pytree(kernel)
    base = require("gpjax.kernels", None, "gp.to_gpjax").AbstractKernel

    class NetworkKernel(base):  # type: ignore[misc, valid-type]
        def __call__(self, x: Any, y: Any) -> Any:
            """The kernel of two inputs."""
            return _pair(tree, x, y)

    return NetworkKernel()
