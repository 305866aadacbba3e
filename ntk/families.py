r"""Families of networks: architectures as functions of their scales, for fits.

A family is called with its scales as keywords and returns a network. All scales are positive
standard deviations, so that fits run in their logarithms.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from deeplimits.errors import DomainError
from deeplimits.validate import check, choice, integer
from ntk.activations import dual
from ntk.closed_forms import Rbf
from ntk.compose import Serial, serial
from ntk.layers import Activation, Dense
from ntk.repeat import repeat

#: sin(x) + cos(x) = sqrt(2) sin(x + pi/4): its kernel is that of cosines with random phases.
SINCOS = Rbf(0.5)


@dataclass(frozen=True)
class MLPFamily:
    """Multilayer perceptrons of one shape, as a function of their scales; see :func:`mlp_family`.

    Attributes:
        activation: the dual of the activation.
        depth: number of hidden layers.
        width, out_dim: units of each hidden layer and outputs of the finite network.
        scales: ``"shared"``, ``"separate"`` or ``"one"``.
        bias: whether layers have biases.
        label: name of the family, for tables.
        start: names of the scales and where a fit starts.
    """

    activation: Any
    depth: int
    width: int
    out_dim: int
    scales: str
    bias: bool
    label: str
    start: dict[str, float] = field(hash=False, compare=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Keywords of the family."""
        return tuple(self.start)

    def _layer_scales(self, values: dict[str, Any], i: int) -> tuple[Any, Any]:
        """Scales of layer i; layer ``depth`` is the read-out."""
        last = i == self.depth
        if self.scales == "one":
            suffix = ""
        elif self.scales == "shared":
            suffix = "_readout" if last and self.depth else ""
        else:
            suffix = "_readout" if last else f"_{i}"
        return values[f"W_std{suffix}"], values.get(f"b_std{suffix}")

    def __call__(self, **values: Any) -> Serial:
        """The network with these scales.

        Args:
            **values: every keyword in :attr:`names`, a number >= 0 (or a tracer).

        Raises:
            DomainError: a keyword is missing or unknown, or a scale out of its domain.
        """
        check(
            set(values) == set(self.names),
            f"the family {self.label!r} has the scales {', '.join(self.names)}; "
            f"got {', '.join(values) or 'none'}.",
            DomainError,
        )
        act = Activation(self.activation)
        shared = self.scales != "separate" and self.depth > 1
        layers: list[Any] = []
        for i in range(1 if shared else self.depth):
            W, b = self._layer_scales(values, i)
            block = serial(Dense(self.width, W, b), act)
            layers.append(repeat(block, self.depth) if shared else block)
        return serial(*layers, Dense(self.out_dim, *self._layer_scales(values, self.depth)))


def _scale_names(depth: int, scales: str, bias: bool) -> tuple[str, ...]:
    if scales == "one":
        suffixes = [""]
    elif scales == "shared":
        suffixes = ["", "_readout"] if depth else [""]
    else:
        suffixes = [*(f"_{i}" for i in range(depth)), "_readout"]
    kinds = ("W_std", "b_std") if bias else ("W_std",)
    return tuple(f"{kind}{suffix}" for suffix in suffixes for kind in kinds)


def mlp_family(
    activation: Any = "relu",
    depth: int = 1,
    *,
    scales: str = "shared",
    bias: bool = True,
    width: int = 512,
    out_dim: int = 1,
) -> MLPFamily:
    r"""Multilayer perceptrons as a function of the scales of their weights and biases.

    .. math:: z^{l+1} = \sigma_w^l\, W \phi(z^l) / \sqrt{n_l} + \sigma_b^l\, b, \qquad
              W, b \sim N(0, 1)

    Args:
        activation: as for :func:`ntk.mlp`, or ``"sincos"``, which is sin(x) + cos(x): one hidden
            layer of it has exactly a squared-exponential kernel.
        depth: number of hidden layers, >= 0. Default 1.
        scales: ``"shared"``: one ``W_std`` and ``b_std`` for all hidden layers, another pair
            ``W_std_readout``, ``b_std_readout`` for the last layer. ``"separate"``: a pair for
            every layer (``W_std_0``, ...). ``"one"``: one pair for all layers.
        bias: whether the layers have biases. Default True.
        width, out_dim: sizes of the finite network. Defaults 512 and 1.

    Returns:
        A callable of keywords, ``family(W_std=1.0, ...) -> network``, with ``names`` and ``start``.

    Raises:
        DomainError: a parameter out of its domain, or an unknown activation.

    Source: arXiv:2011.12829, section 4, for Gaussian priors with one scale per layer.
    Check: ``tests/gp/test_priors.py::test_family_is_the_network``.
    """
    integer(depth, "depth", at_least=0)
    integer(width, "width", at_least=1)
    integer(out_dim, "out_dim", at_least=1)
    choice(scales, "scales", ("shared", "separate", "one"))
    sincos = isinstance(activation, str) and activation.lower() == "sincos"
    act = SINCOS if sincos else dual(activation)
    name = activation if isinstance(activation, str) else type(act).__name__
    start = {
        name: 1.0 if name.startswith("W") else 0.5 for name in _scale_names(depth, scales, bias)
    }
    return MLPFamily(act, depth, width, out_dim, scales, bool(bias), f"{name} depth {depth}", start)
