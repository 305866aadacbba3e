r"""The dual of an activation: Gaussian averages in the variables in which they are stable.

For an elementwise activation :math:`\varphi` and
:math:`(x, y) \sim N(0, [[q_{11}, q_{12}], [q_{12}, q_{22}]])`,

.. math:: K = E[\varphi(x)\varphi(y)], \qquad
   \dot K = E[\varphi'(x)\varphi'(y)] = \partial K/\partial q_{12}.

Why not the textbook arguments: near-duplicate inputs live in :math:`\varepsilon = 1 - \rho`, which
:math:`q_{12}` holds only to absolute precision. An angle of 1e-5 is lost in float32 (and an angle
of 1e-8 in float64) once :math:`q_{12}` has been formed. All duals therefore take
:math:`(q_1, q_2, \varepsilon)` and hand on the :math:`\varepsilon` of their output.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from deeplimits.errors import DomainError, ShapeError, UnsupportedLayerError
from deeplimits.precision import working_dtype
from deeplimits.validate import as_real, is_traced


class Dual:
    """Gaussian averages of an elementwise activation (abstract).

    A concrete dual is a frozen dataclass registered as a pytree: its parameters (slopes, scales)
    are leaves, so kernels can be differentiated with respect to them. It provides ``fn``,
    ``kernel``, ``variance`` and ``mean``; everything else follows from these.
    """

    #: Points where the activation or its derivative jumps.
    kinks: tuple[float, ...] = ()
    #: False where ``Kdot`` diverges (step, sign), so that no NTK exists.
    differentiable: ClassVar[bool] = True

    def fn(self, x: Any) -> Any:
        """The activation itself, elementwise."""
        raise NotImplementedError

    def kernel(self, q1: Any, q2: Any, eps: Any) -> tuple[Any, Any, Any]:
        r"""``(K, Kdot, eps_out)`` for variances ``q1``, ``q2`` and ``eps`` = 1 - correlation.

        Args:
            q1, q2: variances >= 0, broadcastable against ``eps`` (say ``(n1, 1)`` and ``(1, n2)``).
            eps: in [0, 2]; 0 means the same input up to scale, 2 the opposite one.

        Returns:
            ``K``, ``Kdot`` and ``1 - K / sqrt(K(q1, q1) K(q2, q2))``, the latter with full relative
            accuracy near 0 where a stable form exists. Finite, with finite derivatives, everywhere.
        """
        raise NotImplementedError

    def variance(self, q: Any) -> Any:
        """``E[fn(sqrt(q) z)^2]``, elementwise in ``q``."""
        raise NotImplementedError

    def mean(self, q: Any) -> Any:
        """``E[fn(sqrt(q) z)]``, elementwise in ``q``."""
        raise NotImplementedError

    def K(self, q11: Any, q12: Any, q22: Any, *, eps: Any = None) -> Any:
        """``E[fn(x) fn(y)]`` for the covariance ``[[q11, q12], [q12, q22]]``.

        Args:
            q11, q22: variances >= 0.
            q12: covariance, ``|q12| <= sqrt(q11 q22)``; arrays broadcast together.
            eps: ``1 - q12 / sqrt(q11 q22)`` if the caller has it more accurately.

        Raises:
            DomainError: negative variance, or a covariance larger than the variances allow.
        """
        return self.kernel(*gap_arguments(q11, q12, q22, eps))[0]

    def Kdot(self, q11: Any, q12: Any, q22: Any, *, eps: Any = None) -> Any:
        """``E[fn'(x) fn'(y)]``; arguments as for :meth:`K`.

        Raises:
            UnsupportedLayerError: the activation jumps, so that the average diverges.
        """
        if not self.differentiable:
            raise UnsupportedLayerError(
                f"{type(self).__name__} jumps, so E[fn' fn'] diverges and no NTK exists. "
                "Use the NNGP kernel, or a smooth version such as Erf(b=...)."
            )
        return self.kernel(*gap_arguments(q11, q12, q22, eps))[1]


def gap_arguments(q11: Any, q12: Any, q22: Any, eps: Any = None) -> tuple[Any, Any, Any]:
    """Validate a covariance and return ``(q11, q22, eps)``, clipped within rounding.

    Raises:
        DomainError: negative variance, NaN, or ``|q12| > sqrt(q11 q22)`` beyond 1e-9 (float64).
        ShapeError: shapes that do not broadcast together.
    """
    q11, q12, q22 = (as_real(a, n) for a, n in ((q11, "q11"), (q12, "q12"), (q22, "q22")))
    dtype = working_dtype(q11, q12, q22, eps)
    q11, q12, q22 = (jnp.asarray(a, dtype) for a in (q11, q12, q22))
    try:
        np.broadcast_shapes(q11.shape, q12.shape, q22.shape)
    except ValueError:
        raise ShapeError(
            "q11, q12 and q22 must have shapes that broadcast together, got "
            f"{q11.shape}, {q12.shape} and {q22.shape}."
        ) from None
    if not any(is_traced(a) for a in (q11, q12, q22)):
        slack = 1e-9 if dtype == jnp.float64 else 1e-5
        for name, q in (("q11", q11), ("q22", q22)):
            if not np.all(np.asarray(q) >= 0):
                raise DomainError(f"{name} is a variance and must be >= 0, got {np.min(q):g}.")
        limit = np.sqrt(np.asarray(q11) * np.asarray(q22))
        if not np.all(np.abs(np.asarray(q12)) <= limit * (1 + slack)):
            worst = float(np.max(np.abs(np.asarray(q12)) - limit))
            raise DomainError(
                f"q12 must satisfy |q12| <= sqrt(q11 q22); it is larger by {worst:.3g}. "
                "The three numbers are no covariance matrix."
            )
    if eps is None:
        product = q11 * q22
        scale = jnp.sqrt(jnp.where(product > 0, product, 1))
        eps = jnp.where(product > 0, jnp.clip((scale - q12) / scale, 0, 2), 1)
    return q11, q22, jnp.asarray(eps, dtype)
