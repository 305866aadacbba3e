r"""Finite Bayesian networks: the posterior of the weights, sampled by Markov chains.

.. math::

    \log p(\theta \mid y) = -\tfrac12 |\theta|^2 + \sum_i \log p(y_i \mid f_\theta(x_i))
    + \text{const},

where :math:`\theta \sim N(0, I)` because all scales sit in the network (NTK parametrisation), so
that the prior of the functions tends to the NNGP. Chains are judged by functions, never by weights,
whose posterior repeats itself under permutations of the units.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from deeplimits.errors import DomainError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import Array, ArrayLike
from deeplimits.validate import as_inputs, as_key, as_targets, check, choice, number
from gp.bnn_chains import Chains, run_chains

LIKELIHOODS = ("gaussian", "softmax")


class Layout(NamedTuple):
    """How a vector of parameters becomes the parameters of the network; hashable."""

    treedef: Any
    shapes: tuple[tuple[int, ...], ...]

    def unflatten(self, theta: Float[Array, " D"]) -> Any:
        """Parameters of the network from one vector."""
        leaves, start = [], 0
        for shape in self.shapes:
            size = int(np.prod(shape, dtype=int))
            leaves.append(theta[start : start + size].reshape(shape))
            start += size
        return self.treedef.unflatten(leaves)


def log_likelihood(likelihood: str, f: Any, y: Any, noise: Any) -> Any:
    """Log likelihoods of outputs ``(n, C)``, one per point ``(n,)``."""
    if likelihood == "softmax":
        return jnp.take_along_axis(jax.nn.log_softmax(f, axis=1), y[:, None], axis=1)[:, 0]
    return -0.5 * jnp.sum((y - f) ** 2 / noise + jnp.log(2 * jnp.pi * noise), axis=1)


def _parts(layer: Any) -> list[Any]:
    """All layers inside a network."""
    if isinstance(layer, list | tuple):
        return [part for item in layer for part in _parts(item)]
    if not dataclasses.is_dataclass(layer) or isinstance(layer, type):
        return []
    inner = [_parts(getattr(layer, f.name)) for f in dataclasses.fields(layer)]
    return [layer, *(part for parts in inner for part in parts)]


@dataclass(frozen=True)
class BNN:
    r"""A network with standard normal weights and a likelihood, not yet conditioned.

    Args:
        net: a network of :mod:`ntk` in NTK parametrisation, such as
            ``ntk.mlp(1, "erf", width=32)``.
        noise: noise variance > 0 of the Gaussian likelihood, in squared units of y. Default 0.05.
        likelihood: ``"gaussian"``, or ``"softmax"`` for class labels 0, 1, ..., one output per
            class. Default ``"gaussian"``.

    Raises:
        DomainError: no network, standard parametrisation, noise <= 0 or an unknown likelihood.

    Source: [neal1996]; arXiv:1711.00165.
    Check: test_bnn.py::test_linear_network_is_exact, ::test_approaches_the_nngp.
    """

    net: Any
    noise: Any = 0.05
    likelihood: str = "gaussian"

    def __post_init__(self) -> None:
        if type(self.net) is object:
            return
        check(
            all(hasattr(self.net, name) for name in ("init", "apply", "nngp")),
            f"net must be a network such as ntk.mlp(1, 'erf'), got {type(self.net).__name__}.",
            DomainError,
        )
        wrong = [p for p in _parts(self.net) if getattr(p, "parameterization", "ntk") != "ntk"]
        check(
            not wrong,
            "net must be in NTK parametrisation, where all weights are standard normal; "
            f"{type(wrong[0]).__name__ if wrong else ''} is not. "
            "Use parameterization='ntk'.",
            DomainError,
        )
        choice(self.likelihood, "likelihood", LIKELIHOODS)
        number(self.noise, "noise", above=0)

    @float64_scope
    def condition(self, X: ArrayLike, y: ArrayLike) -> BNNPosterior:
        """The posterior given data; nothing is sampled yet.

        Args:
            X: inputs ``(n, d)`` or ``(n, *spatial, channels)``.
            y: targets ``(n,)`` or ``(n, C)``; labels 0..C-1 ``(n,)`` for ``"softmax"``.

        Raises:
            ShapeError, DomainError: bad data, labels out of range, or outputs unlike the targets.
        """
        x = jnp.asarray(as_inputs(X, "X")).astype(jnp.float64)
        shape, params = self.net.init(jax.random.key(0), x.shape)
        leaves, treedef = jax.tree.flatten(params)
        check(bool(leaves), "net has no parameters to sample.", DomainError)
        if self.likelihood == "softmax":
            targets = _labels(y, x.shape[0], shape[-1])
        else:
            targets = jnp.asarray(as_targets(y, x.shape[0])).astype(jnp.float64)
            check(
                shape[1:] == targets.shape[1:],
                f"net has outputs of shape {tuple(shape[1:])}, but y has {targets.shape[1]} "
                f"columns. Use out_dim={targets.shape[1]}.",
                ShapeError,
            )
        layout = Layout(treedef, tuple(leaf.shape for leaf in leaves))
        return BNNPosterior(self, x, targets, layout)


def _labels(y: ArrayLike, n: int, classes: int) -> Any:
    labels = np.asarray(y)
    check(labels.shape == (n,), f"labels must have shape ({n},), got {labels.shape}.", ShapeError)
    whole = labels.dtype.kind in "iu" or (
        labels.dtype.kind == "f" and np.all(labels == np.round(labels))
    )
    check(
        bool(whole) and classes >= 2 and bool(np.all((labels >= 0) & (labels < classes))),
        f"labels must be integers 0..{classes - 1}, one class per output of the network "
        f"({classes}, at least 2); got values such as {labels[:5].tolist()}.",
        DomainError,
    )
    return jnp.asarray(labels.astype(np.int64))


@dataclass(frozen=True)
class BNNPosterior:
    """The posterior of the weights of a finite network; made by :meth:`BNN.condition`.

    Attributes:
        model: the network and its likelihood.
        X, y: the data.
        layout: how vectors become parameters.
    """

    model: BNN
    X: Any
    y: Any
    layout: Layout

    @property
    def dim(self) -> int:
        """Number of weights."""
        return sum(int(np.prod(shape, dtype=int)) for shape in self.layout.shapes)

    def outputs(self, theta: Float[Array, " D"], x: Any) -> Float[Array, "n C"]:
        """Outputs of the network with the parameters ``theta``, differentiable."""
        return self.model.net.apply(self.layout.unflatten(theta), x)

    def log_density(self, theta: ArrayLike) -> Any:
        """Log prior plus log likelihood at one vector of parameters ``(D,)``, differentiable.

        The constant of the prior is left out.
        """
        theta = jnp.asarray(theta)
        return self.batch_log_density(theta, self.X, self.y, 1.0)

    def batch_log_density(self, theta: Any, x: Any, y: Any, factor: Any) -> Any:
        """The same with the log likelihood of a batch, times ``factor``."""
        terms = log_likelihood(self.model.likelihood, self.outputs(theta, x), y, self.model.noise)
        return -0.5 * jnp.sum(theta**2) + factor * jnp.sum(terms)

    def sample(
        self,
        *,
        key: Any,
        method: str = "nuts",
        chains: int = 4,
        warmup: int = 500,
        draws: int = 1000,
        thin: int = 1,
        step_size: float | None = None,
        batch_size: int | None = None,
        leapfrogs: int = 10,
        friction: float = 0.01,
        block: int = 250,
        progress: bool = False,
    ) -> Chains:
        r"""Markov chains of the weights, started from the prior, by blackjax.

        ``"nuts"`` and ``"mala"`` are exact in the long run and adapt their step size (NUTS also a
        diagonal mass matrix) during the warm-up. ``"sgld"`` and ``"sghmc"`` use gradients of
        batches and no acceptance step: their bias is of the order of the step size.

        .. math:: \theta \leftarrow \theta + \epsilon\, \nabla \log p + \sqrt{2 \epsilon}\, z
                  \qquad \text{(sgld)}

        Args:
            key: a ``jax.random.key`` or an integer seed.
            method: ``"nuts"``, ``"mala"``, ``"sgld"`` or ``"sghmc"``.
            chains: number of chains, run as one batch, >= 1. Default 4.
            warmup: steps that are thrown away, >= 0 (``"nuts"``: >= 20). Default 500.
            draws: draws kept of every chain, >= 1. Default 1000.
            thin: steps per draw, >= 1. Default 1.
            step_size: > 0; required for ``"sgld"`` and ``"sghmc"``, else where adaptation starts.
            batch_size: points per gradient of ``"sgld"`` and ``"sghmc"``; None for all.
            leapfrogs, friction: steps per draw of a momentum, and friction, of ``"sghmc"``.
            block: draws per compiled call, the interval of the progress bar. Default 250.
            progress: whether to show a progress bar.

        Returns:
            :class:`Chains`. ``chains.extend(draws)`` goes on where they stopped.

        Raises:
            DomainError: an option out of its domain, or one that the method does not take.

        Source: arXiv:1111.4246 (NUTS); Welling and Teh, ICML (2011) (SGLD); arXiv:1402.4102
            (SGHMC).

        Check: test_bnn.py::test_linear_network_is_exact, ::test_langevin_bias_is_exact.
        """
        return run_chains(
            self, as_key(key), method=method, chains=chains, warmup=warmup, draws=draws, thin=thin,
            step_size=step_size, batch_size=batch_size, leapfrogs=leapfrogs, friction=friction,
            block=block, progress=progress,
        )  # fmt: skip


register_dataclass(BNN, ["net", "noise"], ["likelihood"])
register_dataclass(BNNPosterior, ["model", "X", "y"], ["layout"])
