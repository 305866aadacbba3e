"""Random fully connected architectures in a neutral language, and three ways to evaluate them.

A specification is a list of steps; a step is a tuple whose first entry names the operation.
``ours`` builds the network of this package, ``neural_tangents_net`` that of neural-tangents, and
``oracle`` evaluates the kernels with dense NumPy recursions in which every activation is averaged
by the quadrature of ``dual_oracle``.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

ACTIVATIONS: dict[str, tuple[Any, ...]] = {
    "relu": (),
    "leaky_relu": (0.2,),
    "abs": (),
    "ab_relu": (-0.4, 1.3),
    "erf": (1.2, 0.8, 0.3),
    "sigmoid_like": (),
    "sin": (1.1, 0.9, 0.4),
    "cos": (0.8, 1.2, 0.1),
    "rbf": (0.6,),
    "gelu": (),
    "gaussian": (1.2, -0.7),
    "exp": (0.7, 0.4),
    "gabor": (),
    "monomial": (2,),
    "polynomial": ((0.2, -0.5, 0.3, 0.1),),
    "rectified_monomial": (2,),
    "tanh": (),
    "sigmoid": (),
    "silu": (),
    "softplus": (),
    "elu": (1.0,),
    "selu": (),
    "mish": (),
}
#: Activations for which neural-tangents has no closed form.
OURS_ONLY = {"tanh", "sigmoid", "silu", "softplus", "elu", "selu", "mish"}
#: Growing ones, used at most once per network so that variances stay moderate.
GROWING = {"exp", "monomial", "polynomial", "rectified_monomial"}


@dataclasses.dataclass
class _Draft:
    """Bookkeeping while a random architecture is drawn."""

    rng: np.random.Generator
    channels: int
    gaussian: bool = False
    growing: bool = False

    def dense(self, out: int | None = None) -> tuple[Any, ...]:
        self.channels = out or int(self.rng.integers(2, 6))
        self.gaussian = True
        bias = None if self.rng.random() < 0.3 else float(self.rng.uniform(0, 0.5))
        kind = "standard" if self.rng.random() < 0.3 else "ntk"
        return ("Dense", self.channels, float(self.rng.uniform(0.7, 1.5)), bias, kind)

    def activation(self) -> tuple[Any, ...]:
        pool = OURS_ONLY if self.rng.random() < 0.15 else set(ACTIVATIONS) - OURS_ONLY
        names = sorted(n for n in pool if not (self.growing and n in GROWING))
        name = str(self.rng.choice(names))
        self.growing |= name in GROWING
        self.gaussian = False
        return ("Act", name)


def random_architecture(seed: int) -> tuple[list[Any], np.ndarray, np.ndarray]:
    """A specification that neural-tangents accepts (up to activations), and its two input sets."""
    rng = np.random.default_rng(seed)
    dim = int(rng.integers(2, 6))
    draft = _Draft(rng, dim)
    steps: list[Any] = [draft.dense()]
    for _ in range(int(rng.integers(1, 4))):
        steps.extend(_block(draft))
    if draft.gaussian and rng.random() < 0.2:
        steps.append(("LayerNorm",))
    steps.append(draft.dense(1))
    scale = float(rng.choice([0.3, 1.0, 2.0]))
    x1, x2 = scale * rng.normal(size=(4, dim)), scale * rng.normal(size=(3, dim))
    if rng.random() < 0.5:
        x2[0] = x1[1]
    if rng.random() < 0.3:
        x2[1] = -x1[2]
    return steps, x1, x2


def _block(draft: _Draft) -> list[Any]:
    rng = draft.rng
    start: list[Any] = [] if draft.gaussian else [draft.dense()]
    kind = rng.choice(["plain", "norm", "dropout", "residual", "sum", "prod", "concat", "repeat"])
    width = draft.channels
    if kind == "plain":
        return [*start, draft.activation()]
    if kind == "norm":
        return [*start, ("LayerNorm",), draft.activation()]
    if kind == "dropout":
        act = draft.activation()
        return [*start, act, ("Dropout", float(rng.uniform(0.5, 0.95)))]
    if kind == "residual":
        inner = [draft.activation(), draft.dense(width)]
        draft.channels, draft.gaussian = width, True
        return [*start, ("Sum", [[("Identity",)], inner])]
    if kind == "repeat":
        # neural-tangents wants a body that keeps the width from its first copy on
        start = [draft.dense(4)]
        body = [draft.dense(4), ("Act", str(rng.choice(["relu", "erf", "gelu", "sin"])))]
        draft.gaussian = False
        return [*start, ("Repeat", body, int(rng.integers(2, 5)))]
    branches = []
    for _ in range(int(rng.integers(2, 4))):
        branch = [draft.dense(width)]
        if kind == "sum" or rng.random() < 0.6:
            branch.append(draft.activation())
        if kind == "sum":
            branch.append(draft.dense(width))
        branches.append(branch)
    draft.gaussian = kind == "sum"
    draft.channels = width * (len(branches) if kind == "concat" else 1)
    name = {"sum": "Sum", "prod": "Prod", "concat": "Concat"}[str(kind)]
    return [*start, (name, branches)]


def names_used(steps: list[Any]) -> set[str]:
    """Activations in a specification."""
    found: set[str] = set()
    for step in steps:
        if step[0] == "Act":
            found.add(step[1])
        elif step[0] in ("Sum", "Prod", "Concat"):
            for branch in step[1]:
                found |= names_used(branch)
        elif step[0] == "Repeat":
            found |= names_used(step[1])
    return found


def ours(steps: list[Any]) -> Any:
    """The network in this package."""
    import ntk

    def act(name: str) -> Any:
        makers = {
            "relu": ntk.Relu, "leaky_relu": ntk.LeakyRelu, "abs": ntk.Abs, "ab_relu": ntk.ABRelu,
            "erf": ntk.Erf, "sigmoid_like": ntk.Sigmoid_like, "sin": ntk.Sin, "cos": ntk.Cos,
            "rbf": ntk.Rbf, "gelu": ntk.Gelu, "gaussian": ntk.Gaussian, "exp": ntk.Exp,
            "gabor": ntk.Gabor, "monomial": ntk.Monomial, "polynomial": ntk.Polynomial,
            "rectified_monomial": ntk.RectifiedMonomial, "tanh": ntk.Tanh, "sigmoid": ntk.Sigmoid,
            "silu": ntk.Silu, "softplus": ntk.Softplus, "elu": ntk.Elu, "selu": ntk.Selu,
            "mish": ntk.Mish,
        }  # fmt: skip
        return makers[name](*ACTIVATIONS[name])

    return _build(steps, ntk, act)


def neural_tangents_net(steps: list[Any], stax: Any) -> Any:
    """The triple in neural-tangents; activations without a closed form raise KeyError."""

    def act(name: str) -> Any:
        makers = {
            "relu": stax.Relu, "leaky_relu": stax.LeakyRelu, "abs": stax.Abs,
            "ab_relu": stax.ABRelu, "erf": stax.Erf, "sigmoid_like": stax.Sigmoid_like,
            "sin": stax.Sin, "cos": stax.Cos, "rbf": stax.Rbf, "gelu": stax.Gelu,
            "gaussian": stax.Gaussian, "exp": stax.Exp, "gabor": stax.Gabor,
            "monomial": stax.Monomial, "polynomial": stax.Polynomial,
            "rectified_monomial": stax.RectifiedMonomial,
        }  # fmt: skip
        return makers[name](*ACTIVATIONS[name])

    return _build(steps, stax, act)


def _build(steps: list[Any], module: Any, act: Any) -> Any:
    layers: list[Any] = []
    fan_in = {"Sum": module.FanInSum, "Prod": module.FanInProd, "Concat": module.FanInConcat}
    for step in steps:
        kind = step[0]
        if kind == "Dense":
            layers.append(module.Dense(step[1], step[2], step[3], parameterization=step[4]))
        elif kind == "Act":
            layers.append(act(step[1]))
        elif kind == "LayerNorm":
            layers.append(module.LayerNorm())
        elif kind == "Dropout":
            layers.append(module.Dropout(step[1]))
        elif kind == "Identity":
            layers.append(module.Identity())
        elif kind == "Repeat":
            layers.append(module.repeat(_build(step[1], module, act), step[2]))
        else:
            branches = [_build(branch, module, act) for branch in step[1]]
            layers += [module.FanOut(len(branches)), module.parallel(*branches), fan_in[kind]()]
    return module.serial(*layers)


class OutOfRangeError(Exception):
    """A variance is too large for the panels of the quadrature."""


@dataclasses.dataclass
class _State:
    """Dense covariances over the concatenation of all inputs."""

    K: np.ndarray
    T: np.ndarray
    channels: int


def oracle(steps: list[Any], x: np.ndarray, averages: Any) -> tuple[np.ndarray, np.ndarray]:
    """NNGP and NTK of ``x`` with itself.

    Args:
        steps: specification.
        x: ``(n, d)``; every row is one input with one dropout mask.
        averages: ``averages(name, params, q1, q12, q2) -> (K, Kdot)`` by independent quadrature.

    Raises:
        OutOfRangeError: a variance exceeds 40, where the panels of the quadrature are too coarse.
    """
    K = x @ x.T / x.shape[1]
    out = _walk(steps, _State(K, np.zeros_like(K), x.shape[1]), averages)
    return out.K, out.T


def _walk(steps: list[Any], s: _State, averages: Any) -> _State:
    for step in steps:
        kind = step[0]
        if kind == "Dense":
            _, out, w, b, parameterization = step
            K = w**2 * s.K + (0 if b is None else b**2)
            own = K if parameterization == "ntk" else s.channels * s.K + (b is not None)
            s = _State(K, own + w**2 * s.T, out)
        elif kind == "Act":
            s = _average(step[1], s, averages)
        elif kind == "LayerNorm":
            d = np.sqrt(np.diag(s.K) + 1e-12)
            s = _State(s.K / np.outer(d, d), s.T / np.outer(d, d), s.channels)
        elif kind == "Dropout":
            boost = np.where(np.eye(len(s.K)) > 0, 1 / step[1], 1)
            s = _State(s.K * boost, s.T * boost, s.channels)
        elif kind == "Repeat":
            for _ in range(step[2]):
                s = _walk(step[1], s, averages)
        elif kind != "Identity":
            s = _merge(kind, [_walk(branch, s, averages) for branch in step[1]])
    return s


def _merge(kind: str, parts: list[_State]) -> _State:
    if kind == "Sum":
        return _State(sum(p.K for p in parts), sum(p.T for p in parts), parts[0].channels)
    if kind == "Prod":
        T = sum(
            p.T * np.prod([o.K for j, o in enumerate(parts) if j != i], axis=0)
            for i, p in enumerate(parts)
        )
        return _State(np.prod([p.K for p in parts], axis=0), T, parts[0].channels)
    total = sum(p.channels for p in parts)
    K = sum(p.channels * p.K for p in parts) / total
    return _State(K, sum(p.channels * p.T for p in parts) / total, total)


def _average(name: str, s: _State, averages: Any) -> _State:
    n = len(s.K)
    if np.diag(s.K).max() > 40:
        raise OutOfRangeError
    K, slope = np.empty((n, n)), np.empty((n, n))
    for i in range(n):
        for j in range(i + 1):
            K[i, j], slope[i, j] = averages(
                name, ACTIVATIONS[name], s.K[i, i], s.K[i, j], s.K[j, j]
            )
            K[j, i], slope[j, i] = K[i, j], slope[i, j]
    return _State(K, s.T * slope, s.channels)
