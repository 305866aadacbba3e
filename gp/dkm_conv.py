r"""Convolutional deep kernel machines on small images, with inducing patches.

Every pixel is a test point of a sparse machine whose M inducing points are patches. A layer applies
the kernel, mixes neighbouring pixels with free matrices :math:`C_d` (one per offset d of the
window), and learns the Gram matrix of the inducing points:

.. math::

    M_{ii} = \operatorname{mean}_d C_d K_{ii} C_d^\top, \quad
    M_{ti}(r) = \operatorname{mean}_d K_{ti}(r + d) C_d^\top, \quad
    M_t(r) = \operatorname{mean}_d K_t(r + d)

Pixels outside count as 0 in :math:`M_{ti}` and not at all in :math:`M_t`. At the top the pixels are
averaged, and the result gets a learned amplitude.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from deeplimits import plotting
from deeplimits.errors import DomainError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import Array
from deeplimits.validate import as_key, check, choice, integer, number
from gp.dkm import as_nu
from gp.dkm_conv_layers import image_blocks, kernel_blocks, learned, mix, pooled_features
from gp.dkm_elbo import bound_of_features
from gp.dkm_kernels import GramKernel, check_variances, gram_kernel
from gp.dkm_objective import lower_triangle, penalty_of
from gp.dkm_sparse import LIKELIHOODS, as_labels
from gp.dkm_training import ascend
from gp.predictive import standard_normal
from gp.process import inputs

#: Images per compiled block of predictions.
_BLOCK = 64


class ConvSetting(NamedTuple):
    """What is static in the bound."""

    kernel: GramKernel
    layers: int
    window: int
    likelihood: str
    draws: int


def network(setting: ConvSetting, params: Any, data: Any, x: Array) -> tuple[Array, Array, Array]:
    """Features ``(B, M)``, variances left ``(B,)`` and penalties ``(L,)`` of images ``x``."""
    m = params["inducing"].shape[0]
    roots = lower_triangle(params["roots"], setting.layers, m)
    G, penalties = image_blocks(params["inducing"], x), []
    for i in range(setting.layers):
        K = mix(kernel_blocks(setting.kernel, G), params["mixing"][i])
        G, prior = learned(K, roots[i], data["jitter"])
        penalties.append(penalty_of("kl", prior, roots[i]))
    V, rest = pooled_features(kernel_blocks(setting.kernel, G), data["jitter"])
    amplitude = jnp.exp(params["log_amplitude"])
    return amplitude * V, amplitude**2 * rest, jnp.stack(penalties)


def conv_bound(
    setting: ConvSetting, params: Any, q: Any, data: Any, batch: Array, key: Any
) -> tuple[Array, Any]:
    """An unbiased estimate of the evidence lower bound, and the next q."""
    V, rest, penalties = network(setting, params, data, data["x"][batch])
    share, noise = data["x"].shape[0] / batch.shape[0], jnp.exp(params["log_noise"])
    y = data["y"][batch]
    value, goal = bound_of_features(setting, V, rest, y, q, noise, share, key)
    return value - jnp.sum(data["nu"] * penalties), goal


@dataclass(frozen=True)
class ConvDKM:
    r"""A convolutional deep kernel machine, not yet fitted.

    Args:
        inducing: number M of inducing patches, cut at random from the training images. Default 16.
        kernel: as for :class:`gp.DKM`. Default ``"rbf"``.
        layers: convolutional layers with learned Gram matrices, >= 1. Default 1.
        window: side k of patches and convolutions, odd. Default 3.
        nu: as for :class:`gp.DKM`. Default 5.
        likelihood: ``"gaussian"``, ``"bernoulli"`` or ``"softmax"``. Default ``"softmax"``.
        noise: variance > 0, Gaussian likelihood only. Default 0.05.
        jitter: variance added to kernel matrices in all layers, > 0. Default 1e-6.

    Raises:
        DomainError, ShapeError: an argument outside its range.

    Source: Milsom, Anson, Aitchison, arXiv:2309.09814.
    """

    inducing: int = 16
    kernel: Any = "rbf"
    layers: int = 1
    window: int = 3
    nu: Any = 5.0
    likelihood: str = "softmax"
    noise: float = 0.05
    jitter: float = 1e-6

    def __post_init__(self) -> None:
        gram_kernel(self.kernel)
        integer(self.inducing, "inducing", at_least=1)
        integer(self.layers, "layers", at_least=1)
        odd = integer(self.window, "window", at_least=1) % 2 == 1
        check(odd, f"window must be odd, got {self.window}.", DomainError)
        choice(self.likelihood, "likelihood", LIKELIHOODS)
        as_nu(self.nu, self.layers, False)
        number(self.noise, "noise", above=0)
        number(self.jitter, "jitter", above=0, below=1e-2)

    @float64_scope
    def fit(
        self,
        X: Any,
        y: Any,
        *,
        batch: int | None = None,
        steps: int = 500,
        learning_rate: float = 1e-2,
        draws: int = 4,
        key: Any = 0,
    ) -> FittedConvDKM:
        """Learn patches, mixing matrices, Gram matrices and outputs, by minibatches.

        Args:
            X: images ``(n, height, width, channels)``.
            y: targets ``(n,)`` or ``(n, C)``, or integer labels ``(n,)``.
            batch: images per step. Default 50 (or all, if fewer).
            steps: Default 500.
            learning_rate: of Adam, > 0. Default 0.01.
            draws: antithetic pairs of samples per image for ``"softmax"``. Default 4.
            key: a ``jax.random.key`` or an integer seed. Default 0.

        Raises:
            ShapeError, DomainError: bad images, labels or options.
            ConvergenceError: the bound became NaN.

        Check: test_dkm_conv.py::test_one_pixel_is_the_sparse_machine, ::test_digits.
        """
        x = as_images(X)
        n, height, width, _ = x.shape
        check(
            min(height, width) >= self.window,
            f"images of {height} x {width} pixels are smaller than the window {self.window}.",
            ShapeError,
        )
        targets, classes = as_labels(self.likelihood, y, n)
        size = min(n, 50) if batch is None else integer(batch, "batch", at_least=1)
        check(size <= n, f"batch must be at most n = {n}, got {size}.", DomainError)
        for_patches, for_mixing, for_steps = jax.random.split(as_key(key), 3)
        m, k = self.inducing, self.window
        half = (self.window // 2,) * 2
        padded = np.pad(np.max(np.abs(x), axis=-1), ((0, 0), half, half))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (self.window,) * 2, (1, 2))
        check_variances(gram_kernel(self.kernel), windows.max(axis=(3, 4)).ravel(), "the patches")
        noise = 0.3 * jax.random.normal(for_mixing, (self.layers, k, k, m, m)) / m**0.5
        params = {
            "inducing": jnp.asarray(random_patches(x, m, k, for_patches)),
            "mixing": jnp.eye(m)[None, None, None] + noise,
            "roots": jnp.zeros(self.layers * m * (m + 1) // 2),
            "log_noise": jnp.asarray(np.log(self.noise)),
            "log_amplitude": jnp.zeros(()),
        }
        setting = self.setting(integer(draws, "draws", at_least=1))
        data = {
            "x": jnp.asarray(x), "y": jnp.asarray(targets), "jitter": jnp.asarray(self.jitter),
            "nu": jnp.asarray(as_nu(self.nu, self.layers, False)),
        }  # fmt: skip
        params["log_amplitude"] = jnp.asarray(
            self._start_amplitude(params, data, x[np.minimum(np.arange(_BLOCK), n - 1)])
        )
        rate = float(number(learning_rate, "learning_rate", above=0))
        plan = (conv_bound, setting, size, ("log_noise",), rate)
        steps = integer(steps, "steps", at_least=1)
        params, mean, root, trajectory = ascend(plan, params, data, steps, for_steps)
        host = {name: np.asarray(value) for name, value in params.items()}
        elbo = float(np.mean(trajectory[-max(1, len(trajectory) // 10) :]))
        return FittedConvDKM(self, host, x.shape[1:], mean, root, elbo, trajectory, classes)

    def _start_amplitude(self, params: Any, data: Any, x: np.ndarray) -> float:
        """Logarithm of the amplitude at which f has prior variance 4 on average.

        Averaging over pixels makes it far smaller than 1 otherwise, too small to fit labels.
        """
        V, rest, _ = _network(self.setting(), params, data, x)
        return float(np.log(2) - 0.5 * np.log(np.mean(np.sum(V**2, axis=1) + rest)))

    def setting(self, draws: int = 1) -> ConvSetting:
        """What is static in the bound."""
        return ConvSetting(
            gram_kernel(self.kernel), self.layers, self.window, self.likelihood, draws
        )


def as_images(X: Any, name: str = "X") -> np.ndarray:
    """Images ``(n, H, W, channels)`` in float64.

    Raises:
        ShapeError: not four-dimensional.
        DomainError: not finite.
    """
    x = np.asarray(inputs(X, name), np.float64)
    check(
        x.ndim == 4,
        f"{name} must be images (n, height, width, channels), got shape {x.shape}.",
        ShapeError,
    )
    return x


def random_patches(x: np.ndarray, m: int, k: int, key: Any) -> np.ndarray:
    """``m`` random windows of side ``k``, zeros outside the images, ``(m, k, k, channels)``."""
    half = k // 2
    padded = np.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
    cells = np.floor(np.asarray(jax.random.uniform(key, (m, 3))) * x.shape[:3]).astype(int)
    return np.stack([padded[i, r : r + k, c : c + k] for i, r, c in cells])


@dataclass(frozen=True)
class FittedConvDKM:
    """A convolutional deep kernel machine. Made by :meth:`ConvDKM.fit`.

    Attributes:
        model: the settings.
        params: learned patches ``"inducing"``, ``"mixing"``, packed ``"roots"``, ``"log_noise"``,
            ``"log_amplitude"``.
        shape: ``(height, width, channels)`` of the images.
        posterior_mean, posterior_root: of the whitened outputs, ``(M, C)`` and ``(M, M)``.
        elbo: mean of the last tenth of the estimates of the bound, in nats.
        trajectory: all estimates.
        classes: number of classes, 0 for regression.
    """

    model: ConvDKM
    params: dict[str, np.ndarray]
    shape: tuple[int, ...]
    posterior_mean: np.ndarray
    posterior_root: np.ndarray
    elbo: float
    trajectory: np.ndarray
    classes: int

    def _moments(self, Xs: Any) -> tuple[np.ndarray, np.ndarray]:
        x = as_images(Xs, "Xs")
        check(
            x.shape[1:] == self.shape,
            f"Xs must be images of shape {self.shape} as in training, got {x.shape[1:]}.",
            ShapeError,
        )
        data = {"jitter": jnp.asarray(self.model.jitter)}
        rows = np.minimum(np.arange(-(-len(x) // _BLOCK) * _BLOCK), len(x) - 1).reshape(-1, _BLOCK)
        parts = [_network(self.model.setting(), self.params, data, x[r])[:2] for r in rows]
        V, rest = (np.concatenate([np.asarray(p[i]) for p in parts])[: len(x)] for i in (0, 1))
        return V @ self.posterior_mean, rest + np.sum((V @ self.posterior_root) ** 2, axis=1)

    @float64_scope
    def mean(self, Xs: Any) -> np.ndarray:
        """Mean of f at images ``Xs (m, height, width, channels)``, ``(m, C)``.

        Raises:
            ShapeError, DomainError: bad images.
        """
        return self._moments(Xs)[0]

    @float64_scope
    def var(self, Xs: Any) -> np.ndarray:
        """Variance of f at images ``Xs``, ``(m,)``, shared by the outputs.

        Raises:
            ShapeError, DomainError: bad images.
        """
        return self._moments(Xs)[1]

    @float64_scope
    def predict_proba(self, Xs: Any, *, key: Any = 0, draws: int = 1024) -> np.ndarray:
        """Probabilities of the classes, ``(m, classes)``; see :class:`gp.SparseDKM`.

        Args:
            Xs: images.
            key: a ``jax.random.key`` or an integer seed. Default 0.
            draws: samples of f for ``"softmax"``, >= 1. Default 1024.

        Raises:
            ShapeError, DomainError: bad images, or a regression.
        """
        check(self.classes > 0, "probabilities need a classification likelihood.", DomainError)
        integer(draws, "draws", at_least=1)
        mean, variance = self._moments(Xs)
        if self.model.likelihood == "bernoulli":
            p = scipy.special.ndtr(mean[:, 0] / np.sqrt(1 + variance))
            return np.stack([1 - p, p], axis=1)
        normal = standard_normal(key, (draws, 1, mean.shape[1]))
        f = mean[None] + np.sqrt(variance)[None, :, None] * normal
        return scipy.special.softmax(f, axis=2).mean(axis=0)

    def plot(self, ax: Any = None, **kw: Any) -> Any:
        """Estimates of the bound over the steps.

        Args:
            ax: axes to draw on; default a new figure.
            **kw: passed to ``plot``.
        """
        ax = plotting.axes(ax)
        ax.plot(self.trajectory, **{"color": plotting.COLORS[0], **kw})
        ax.set(xlabel="step", ylabel="evidence lower bound (nats)")
        return ax


_network = functools.partial(jax.jit, static_argnums=0)(network)
register_dataclass(
    FittedConvDKM,
    ["params", "posterior_mean", "posterior_root", "elbo", "trajectory"],
    ["model", "shape", "classes"],
)
