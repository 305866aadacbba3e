"""Ready-made architectures."""

from __future__ import annotations

from typing import Any

from deeplimits.validate import integer
from ntk.activations import dual
from ntk.compose import Serial, serial
from ntk.layers import Activation, Dense
from ntk.repeat import repeat


def mlp(
    depth: int,
    activation: Any = "relu",
    *,
    W_std: Any = 1.0,
    b_std: Any = None,
    width: int = 512,
    out_dim: int = 1,
    parameterization: str = "ntk",
) -> Serial:
    """Multilayer perceptron with ``depth`` hidden layers and a linear read-out.

    Args:
        depth: number of hidden layers (affine map and activation), >= 0; 0 is a linear model.
        activation: a name (see :func:`ntk.activation_names`), a dual, or a callable.
        W_std: weight scale of every layer, the read-out included.
        b_std: bias scale of every layer; None for no biases.
        width: units of each hidden layer of the finite network.
        out_dim: outputs of the finite network.
        parameterization: ``"ntk"`` or ``"standard"``; see :class:`ntk.Dense`.

    Returns:
        A network; compile time of its kernel does not grow with ``depth``.

    Raises:
        DomainError: parameter out of its domain, or unknown activation.
    """
    depth = integer(depth, "depth", at_least=0)
    options = {"W_std": W_std, "b_std": b_std, "parameterization": parameterization}
    readout = Dense(out_dim, **options)
    if depth == 0:
        return serial(readout)
    block = serial(Dense(width, **options), Activation(dual(activation)))
    return serial(repeat(block, depth) if depth > 1 else block, readout)
