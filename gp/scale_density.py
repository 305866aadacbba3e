r"""A law of the scale from any log density, normalised and sampled by quadrature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.errors import DomainError
from deeplimits.precision import float64_scope
from deeplimits.validate import as_key, check, integer
from gp.scale_priors import ScalePrior
from gp.scale_quadrature import ScaleNodes, integrate


@dataclass(frozen=True)
class LogDensity:
    r"""The law of the scale with density proportional to ``exp(function(s2))``.

    .. math:: p(s^2) = e^{f(s^2)} / \int_0^\infty e^{f(t)} dt

    Args:
        function: log density of :math:`s^2` (with respect to :math:`ds^2`), elementwise on arrays,
            in NumPy or JAX; -inf where the density vanishes.
        normalise: False keeps f as it is, so that an improper f such as ``-log(s2)`` can be used;
            the log evidence is then defined up to the constant in f.

    Raises:
        DomainError: not callable, NaN or +inf somewhere, or (on use) not integrable while
            ``normalise`` is True.

    Source: derived here. Check: test_scale_priors.py::test_log_density_wrapper.
    """

    function: Callable[[Any], Any]
    normalise: bool = True

    def __post_init__(self) -> None:
        check(
            callable(self.function),
            f"function must be a log density s2 -> log p(s2), got {type(self.function).__name__}.",
            DomainError,
        )

    def _raw(self, u: np.ndarray) -> np.ndarray:
        return np.asarray(self.function(np.exp(u)), np.float64) + u

    @cached_property
    def nodes(self) -> ScaleNodes:
        """The law as point masses; ``log_integral`` is the logarithm of the normaliser."""
        with jax.ensure_compile_time_eval():
            return integrate(float64_scope(self._raw), "the scale prior")

    def log_density_of_log(self, u: Any) -> Any:
        """Log density of ``u = log s2``, elementwise."""
        value = self.function(jnp.exp(u) if isinstance(u, jax.Array) else np.exp(u)) + u
        return value - self.nodes.log_integral if self.normalise else value

    def moment(self, order: float) -> float:
        r""":math:`E[s^{2r}]` by quadrature.

        Raises:
            MomentUndefinedError: the integral does not converge.
        """
        return self.nodes.moment(order)

    @property
    def mean(self) -> float:
        """Mean; infinite where it does not exist."""
        return self.nodes.mean

    def sample(self, key: Any, n: int = 1) -> np.ndarray:
        """``n`` independent scales ``(n,)``: a node, then a uniform shift within its step.

        The shift has the width of a step of the quadrature, so that the distribution function is
        off by the square of the step over the width of the density at most.
        """
        pick, shift = jax.random.split(as_key(key))
        u = self.nodes.log_s2
        with jax.enable_x64(True):
            moved = np.asarray(jax.random.uniform(shift, (integer(n, "n", at_least=1),)))
        return np.exp(u[self.nodes.draw(pick, n)] + (moved - 0.5) * (u[1] - u[0]))


def as_scale_prior(prior: Any) -> Any:
    """A law of the scale; a bare log density (a function) is wrapped by :class:`LogDensity`.

    Raises:
        DomainError: neither a law nor a function.
    """
    check(
        not isinstance(prior, type) and (callable(prior) or isinstance(prior, ScalePrior)),
        "prior must be a law of the scale, such as gp.InverseGamma(2.0, 2.0), or a log density "
        f"s2 -> log p(s2); got {prior!r}.",
        DomainError,
    )
    return prior if isinstance(prior, ScalePrior) else LogDensity(prior)
