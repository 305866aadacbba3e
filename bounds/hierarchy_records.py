"""Records of bounds per layer, with a table and a figure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bounds.result import Bound
from deeplimits.pytrees import register_dataclass

REFERENCE = "arXiv:2404.03176"


@register_dataclass
@dataclass(frozen=True)
class Hierarchy:
    """A bound on the generalisation gap for every layer, input first.

    Attributes:
        bound: ``(layers,)``, each valid by itself.
        measure: ``(layers,)`` divergence in nats or distance, averaged over the examples.
        factor: ``(layers,)`` sub-Gaussian constant, or Lipschitz constant of what follows.
        kind: ``"kl"`` or ``"wasserstein"``.
        n: examples, or None.
    """

    bound: np.ndarray
    measure: np.ndarray
    factor: np.ndarray
    kind: str = field(default="kl", metadata={"static": True})
    n: int | None = field(default=None, metadata={"static": True})

    @property
    def argmin(self) -> int:
        """The layer with the smallest bound (the first of equals)."""
        return int(np.argmin(self.bound))

    @property
    def best(self) -> Bound:
        """The smallest bound; no price, as all hold together."""
        return _best(self.bound, self.argmin, self.n, self.kind)

    def plot(self, ax: Any = None) -> Any:
        """The bound of every layer; the smallest is marked."""
        label = {"kl": "divergence", "wasserstein": "Wasserstein"}[self.kind]
        ax = _curve(self.bound, label, 0, ax)
        ax.plot([self.argmin], [self.bound[self.argmin]], "k*", markersize=11, label="smallest")
        ax.legend(frameon=False)
        return ax


@register_dataclass
@dataclass(frozen=True)
class LinearGaussianHierarchy:
    r"""Both hierarchies of a linear network on two Gaussian classes, and the true gap.

    Arrays have one entry per row: the input, L - 1 representations, the output (not in ``eta`` and
    ``cumulative_eta``, which end before it).

    Attributes:
        width: number of units.
        rank: of :math:`A_l`.
        frobenius, operator: norms of :math:`A_l`; root mean square of :math:`|v|` in the output.
        eta, cumulative_eta: contraction coefficients, and their products.
        kl: :math:`E_W KL_l` in nats (an upper bound where ``exact_kl`` is false).
        bound: :math:`s \sqrt{2 KL_l}`, on the gap of a loss with sub-Gaussian constant s.
        w2: root mean square 2-Wasserstein distance.
        lipschitz: root mean square Lipschitz constant of the layers that follow.
        w_bound: on the gap of a Lipschitz loss, ``lipschitz * w2``; in the output the expected
            1-Wasserstein distance itself, which is never larger than the others.
        exact_kl, exact_w2: which divergences and distances are exact.
        losses: ``train_zero_one``, ``test_zero_one``, ``train_logistic``, ``test_logistic``:
            expectations; empty where the class mean is unknown or ``etas`` were given.
        sigma, s, n: as passed.
    """

    width: np.ndarray
    rank: np.ndarray
    frobenius: np.ndarray
    operator: np.ndarray
    eta: np.ndarray
    cumulative_eta: np.ndarray
    kl: np.ndarray
    bound: np.ndarray
    w2: np.ndarray
    lipschitz: np.ndarray
    w_bound: np.ndarray
    exact_kl: np.ndarray
    exact_w2: np.ndarray
    losses: dict[str, float]
    n: int = field(metadata={"static": True})
    sigma: float = field(metadata={"static": True})
    s: float = field(metadata={"static": True})

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the rows."""
        return ("input", *(f"layer {i}" for i in range(1, len(self.kl) - 1)), "output")

    @property
    def gap(self) -> float:
        """Expected zero-one error on fresh minus training points; NaN where unknown."""
        return self._gap("zero_one")

    @property
    def gap_logistic(self) -> float:
        """Expected logistic loss on fresh minus training points; NaN where unknown."""
        return self._gap("logistic")

    def _gap(self, loss: str) -> float:
        if not self.losses:
            return float("nan")
        return float(self.losses[f"test_{loss}"] - self.losses[f"train_{loss}"])

    @property
    def argmin(self) -> int:
        """The row with the smallest divergence bound (the first of equals)."""
        return int(np.argmin(self.bound))

    @property
    def argmin_w(self) -> int | None:
        """The row with the smallest Wasserstein bound; None where none is known."""
        return None if np.isnan(self.w_bound).all() else int(np.nanargmin(self.w_bound))

    @property
    def best(self) -> Bound:
        """The smallest divergence bound; no price, as all hold together."""
        return _best(self.bound, self.argmin, self.n, "kl")

    @property
    def best_w(self) -> Bound | None:
        """The smallest Wasserstein bound, for a Lipschitz loss; None where none is known."""
        row = self.argmin_w
        return None if row is None else _best(self.w_bound, row, self.n, "wasserstein")

    def table(self) -> str:
        """Markdown: one row per layer; upper bounds that are not exact carry ``<=``."""
        head = "| layer | width | rank | eta | KL | bound | W2 | Lipschitz | W bound |"
        lines = [head, "|---|---:|---:|---:|---:|---:|---:|---:|---:|"]
        for i, name in enumerate(self.layers):
            eta = f"{self.cumulative_eta[i]:.4g}" if i < len(self.cumulative_eta) else ""
            kl = ("" if self.exact_kl[i] else "<= ") + f"{self.kl[i]:.5g}"
            w2 = ("" if self.exact_w2[i] else "<= ") + f"{self.w2[i]:.5g}"
            w2 = "" if np.isnan(self.w2[i]) else w2
            numbers = [f"{self.bound[i]:.4f}", w2, f"{self.lipschitz[i]:.4g}"]
            numbers = [*numbers, f"{self.w_bound[i]:.4f}"]
            row = [name, str(self.width[i]), str(self.rank[i]), eta, kl, *numbers]
            lines.append("| " + " | ".join("" if x == "nan" else x for x in row) + " |")
        if self.losses:
            lines += [
                "",
                f"True gap: {self.gap:.5f} (zero-one), {self.gap_logistic:.5f} (logistic).",
            ]
        return "\n".join(lines)

    def plot(self, ax: Any = None) -> Any:
        """Bounds per layer, with the true gaps as lines where they are known."""
        from deeplimits.plotting import COLORS

        ax = _curve(self.bound, "divergence bound, zero-one loss", 0, ax)
        if self.losses:
            _curve(self.w_bound, "Wasserstein bound, logistic loss", 1, ax)
            for value, color, name in (
                (self.gap, 0, "zero-one gap"),
                (self.gap_logistic, 1, "logistic gap"),
            ):
                if value > 0:
                    ax.axhline(value, color=COLORS[color], linestyle=":", label=name)
        ax.set_xticks(range(len(self.layers)), self.layers)
        ax.legend(frameon=False)
        return ax


def _best(bounds: np.ndarray, row: int, n: int | None, kind: str) -> Bound:
    loss = "sub-Gaussian loss" if kind == "kl" else "Lipschitz loss"
    return Bound(
        value=float(bounds[row]),
        terms={"layer": row},
        target="gap",
        holds="expectation",
        n=n,
        trivial=1.0 if kind == "kl" else None,
        assumptions=("independent, identically distributed sample", loss),
        reference=REFERENCE,
    )


def _curve(bound: np.ndarray, label: str, color: int, ax: Any) -> Any:
    """One bound against the layer, on a logarithmic axis."""
    from deeplimits import plotting

    ax = plotting.axes(ax)
    positive = np.where(bound > 0, bound, np.nan)
    ax.semilogy(range(len(bound)), positive, "o-", color=plotting.COLORS[color], label=label)
    ax.set(xlabel="layer", ylabel="bound on the generalisation gap")
    return ax
