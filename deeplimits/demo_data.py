r"""The data of the demonstration and the networks whose limits it computes."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from deeplimits.datasets import Dataset, load, one_hot, to_sphere

#: Activation -> scales of weights and biases of the depth-3 networks.
SCALES = {"relu": (2**0.5, 0.1), "erf": (1.5, 0.1)}
TITLES = {"digits": "digits", "fashion_1000": "Fashion-MNIST"}
DEPTH = 3


def network(activation: str, width: int = 512) -> Any:
    """The depth-3 network with one of the activations of the demonstration.

    Its layers are listed one by one (not by ``ntk.mlp``, whose scan hides them), so that the
    structured tangent kernel of finite networks sees them.
    """
    import ntk

    weight, bias = SCALES[activation]
    unit = {"relu": ntk.Relu, "erf": ntk.Erf}[activation]
    hidden = [layer for _ in range(DEPTH) for layer in (ntk.Dense(width, weight, bias), unit())]
    return ntk.serial(*hidden, ntk.Dense(1, weight, bias))


@dataclass(frozen=True)
class Problem:
    """One classification problem with the Gram matrices of all its inputs.

    Attributes:
        data: inputs (scaled to the sphere of radius sqrt(d)) and labels.
        grams: activation -> ``(nngp, ntk)``, each ``(n, n)``.
    """

    data: Dataset
    grams: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Name for figures and tables."""
        return TITLES[self.data.name]

    @cached_property
    def targets(self) -> np.ndarray:
        """Labels as regression targets whose rows sum to 0: 0.9 for the class, -0.1 elsewhere."""
        return one_hot(np.asarray(self.data.y), 10, on=0.9, off=-0.1)


def problems(fast: bool) -> list[Problem]:
    """All digits and the 1000 Fashion-MNIST images (or some of each)."""
    found = []
    for name in TITLES:
        data = load(name)
        if fast:
            data = data.split(1 - 150 / len(data), key=0)[0]
        scaled = to_sphere(data.X)
        found.append(Problem(Dataset(
            scaled, data.y, data.name, data.source, data.licence, (), data.target_names,
            data.image_shape,
        )))  # fmt: skip
    return found


class Indexed:
    """A network whose kernels are looked up in matrices: inputs are row numbers ``(n, 1)``."""

    def __init__(self, nngp: np.ndarray, ntk: np.ndarray) -> None:
        self.matrices = {"nngp": nngp, "ntk": ntk}

    def _look_up(self, name: str, x1: Any, x2: Any = None) -> np.ndarray:
        rows = np.asarray(x1)[:, 0].astype(int)
        columns = rows if x2 is None else np.asarray(x2)[:, 0].astype(int)
        return np.asarray(self.matrices[name][np.ix_(rows, columns)])

    def nngp(self, x1: Any, x2: Any = None) -> np.ndarray:
        """NNGP covariance between rows."""
        return self._look_up("nngp", x1, x2)

    def ntk(self, x1: Any, x2: Any = None) -> np.ndarray:
        """Tangent kernel between rows."""
        return self._look_up("ntk", x1, x2)
