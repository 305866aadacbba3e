r"""Architectures side by side: inductive bias, certified risk and true error from their kernels.

One training and one test set, one kernel per architecture. Each gets the bits it lacks (squared
and zero-one loss), two certificates (evidence of the labels; early-stopped gradient flow), and
what it really achieves on the test set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.linalg
import xarray as xr

from bounds.certified_evidence import kernel_evidence_pac_bayes
from bounds.inductive_bias import inductive_bias
from bounds.kernel_complexity import kernel_task_alignment
from bounds.kernel_flow import kernel_flow, kernel_flow_pac_bayes
from bounds.pac_bayes import pac_bayes_realizable
from bounds.result import Bound, best
from bounds.zero_one import inductive_bias_zero_one
from deeplimits import plotting
from deeplimits.errors import DomainError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import ArrayLike, Key
from deeplimits.validate import as_inputs, as_key, as_real, as_square, number, same_features

#: Grid of the early-stopped flow.
TIMES, SCALES = np.logspace(-4, 2, 25), (1.0, 0.3, 0.1, 0.03)

#: Columns of the table: name and heading.
HEADINGS = {
    "bits": "bits (squared)",
    "bits_zero_one": "bits (0-1)",
    "certified_evidence": "certified, evidence",
    "certified_flow": "certified, flow",
    "certified": "certified, best",
    "flow_error": "flow: true error",
    "error": "test error",
    "mse": "test MSE",
    "alignment": "alignment",
}


@register_dataclass
@dataclass(frozen=True)
class ArchitectureComparison:
    """The numbers of several architectures on one task.

    Each certificate holds for its architecture alone, with its own ``delta``. To certify the
    architecture that looks best, pass the records of all of them to :func:`bounds.best`.

    Attributes:
        values: per column ``(architectures,)``: ``bits`` and ``bits_zero_one`` (inductive bias for
            the squared and the zero-one loss), ``log_evidence`` (EP, nats), ``evidence_ep`` (risk
            from it, no theorem), ``certified_evidence``, ``certified_flow``, ``certified`` (the
            better of the two, choice paid for), ``flow_time``, ``flow_scale``, ``flow_error``
            (true error of the certified flow), ``error`` and ``mse`` (posterior mean on the test
            set), ``amplitude`` (kernel scale), ``alignment``.
        records: per architecture the :class:`~bounds.result.Bound` and
            :class:`~bounds.result.Estimate` behind them.
        names: architectures.
        settings: ``eps``, ``delta``, ``noise``, ``n``, ``n_test``.
    """

    values: dict[str, np.ndarray]
    records: dict[str, dict[str, Any]]
    names: tuple[str, ...] = field(metadata={"static": True})
    settings: tuple[tuple[str, float], ...] = field(metadata={"static": True})

    @property
    def coin_bits(self) -> float:
        """Bits of guessing every test label: more means a kernel that points the wrong way."""
        return float(dict(self.settings)["n_test"])

    def to_dataset(self) -> xr.Dataset:
        """All columns over the dimension ``architecture``."""
        columns = {name: ("architecture", v) for name, v in self.values.items()}
        return xr.Dataset(
            columns, coords={"architecture": list(self.names)}, attrs=dict(self.settings)
        )

    def table(self) -> str:
        """Markdown, one architecture a row."""
        lines = ["| architecture | " + " | ".join(HEADINGS.values()) + " |"]
        lines.append("|---" * (len(HEADINGS) + 1) + "|")
        for i, name in enumerate(self.names):
            cells = [
                f"{self.values[c][i]:.1f}" if c.startswith("bits") else f"{self.values[c][i]:.3f}"
                for c in HEADINGS
            ]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        return "\n".join(lines)

    def plot(self, ax: Any = None) -> Any:
        """Certified risks over true errors, one architecture a row."""
        ax = plotting.axes(ax)
        rows = np.arange(len(self.names))[::-1]
        styles = {
            "certified_evidence": ("<", 0, "certified, evidence"),
            "certified_flow": ("<", 1, "certified, flow"),
            "flow_error": ("|", 1, "flow, test error"),
            "error": ("o", 2, "posterior mean, test error"),
        }
        for name, (marker, color, label) in styles.items():
            ax.plot(
                self.values[name],
                rows,
                marker,
                color=plotting.COLORS[color],
                label=label,
                markersize=9 if marker == "|" else 6,
                markeredgewidth=2 if marker == "|" else 1,
            )
        ax.axvline(0.5, color="0.6", lw=1)
        ax.set(
            yticks=rows, xlim=(0, 1.02), ylim=(-0.6, len(rows) - 0.4), xlabel="classification error"
        )
        ax.set_yticklabels(self.names)
        ax.legend(loc="upper right", fontsize=8)
        return ax

    def plot_bits(self, ax: Any = None) -> Any:
        """Inductive bias in bits, squared and zero-one loss, one architecture a row."""
        ax = plotting.axes(ax)
        rows = np.arange(len(self.names))[::-1]
        eps = dict(self.settings)["eps"]
        ax.barh(rows + 0.18, self.values["bits"], 0.34, label=f"squared loss below {eps:g}")
        ax.barh(rows - 0.18, self.values["bits_zero_one"], 0.34, label="all test labels right")
        ax.axvline(self.coin_bits, color="black", lw=1, ls=":", label="coin flips")
        ax.set(yticks=rows, xlabel="inductive bias (bits)")
        ax.set_yticklabels(self.names)
        ax.legend(fontsize=8)
        return ax


@float64_scope
def compare_architectures(
    kernels: Mapping[str, Any],
    X: ArrayLike,
    y: ArrayLike,
    X_test: ArrayLike,
    y_test: ArrayLike,
    *,
    key: Key,
    eps: float = 0.1,
    delta: float = 0.05,
    noise: float = 0.01,
    times: ArrayLike = TIMES,
    scales: ArrayLike = SCALES,
    n_samples: int = 10_000,
) -> ArchitectureComparison:
    r"""Inductive bias, certificates and errors of architectures on one two-class task.

    Squared loss: the Gaussian process with kernel :math:`a^2 K`, noise :math:`a^2 \rho`,
    :math:`\rho` = ``noise`` times the mean diagonal and the amplitude of largest evidence,
    :math:`a^2 = y^\top (K + \rho)^{-1} y / n`. Zero-one loss and certified evidence: signs of the
    noise-free process. Flow: the tangent kernel, on the declared grid of times and scales.

    Args:
        kernels: name to architecture: a network (also of
            :func:`ntk.from_neural_tangents`; put ``ntk.Flatten()`` before a fully connected one
            that gets images), a callable ``k(X, Z=None)``, a Gram over training and test points
            ``(n + n_test, n + n_test)``, or a pair of such Grams (process, tangent). A single
            kernel serves for both.
        X, X_test: ``(n, d)`` or ``(n, *spatial, channels)``; n >= 8.
        y, y_test: labels +1 and -1.
        key: random key or integer seed, for the sampled evidence.
        eps: mean squared error of the bias in the squared loss, > 0.
        delta: probability of failure of each certificate, in (0, 1).
        noise: relative noise variance of the squared loss, > 0.
        times, scales: grid of :func:`kernel_flow_pac_bayes`.
        n_samples: importance samples of :func:`kernel_evidence_pac_bayes`.

    Returns:
        :class:`ArchitectureComparison`.

    Raises:
        ShapeError, DomainError: no architectures, shapes, labels, numbers out of range.
        ConvergenceError: expectation propagation did not settle.

    Source: as the functions that it calls. Check: tests/bounds/test_compare.py
    """
    if not isinstance(kernels, Mapping) or not kernels:
        raise DomainError("kernels must map names to architectures, with at least one.")
    X, X_test = (np.asarray(as_inputs(a, n)) for a, n in ((X, "X"), (X_test, "X_test")))
    same_features(X, X_test, ("X", "X_test"))
    labels = np.concatenate([_labels(y, len(X), "y"), _labels(y_test, len(X_test), "y_test")])
    number(eps, "eps", above=0)
    number(noise, "noise", above=0)
    key, both = as_key(key), np.concatenate([X, X_test])
    settings = {"eps": eps, "delta": delta, "noise": noise, "n": len(X), "n_test": len(X_test)}
    rows, records = [], {}
    for name, kernel in kernels.items():
        process, tangent = _grams(name, kernel, both)
        row, records[name] = _squared(process, labels, len(X), float(eps), float(noise))
        for part in (
            _evidence(process, labels, len(X), float(delta), n_samples, key),
            _flow(tangent, labels, len(X), float(delta), times, scales),
        ):
            row |= part[0]
            records[name] |= part[1]
        certificates = [records[name]["evidence"], records[name]["flow"]]
        records[name]["best"] = best(certificates)
        row["certified"] = min(float(records[name]["best"]), 1.0)
        rows.append(row)
    values = {column: np.array([row[column] for row in rows], float) for column in rows[0]}
    fixed = tuple((k, float(v)) for k, v in settings.items())
    return ArchitectureComparison(values, records, tuple(kernels), fixed)


def _labels(y: Any, n: int, name: str) -> np.ndarray:
    y = np.asarray(as_real(y, name), float)
    if y.shape != (n,):
        raise ShapeError(f"{name} must have shape ({n},), got {y.shape}.")
    if not np.isin(y, (-1.0, 1.0)).all():
        raise DomainError(
            f"{name} must hold labels +1 and -1, got {np.unique(y)[:4]}. For 0/1 use 2 * y - 1."
        )
    return y


def _grams(name: str, kernel: Any, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Process and tangent Gram over all points."""
    if hasattr(kernel, "nngp") and hasattr(kernel, "kernel_fn"):
        found = tuple(kernel.kernel_fn(X, None, ("nngp", "ntk")))  # both in one pass
    elif isinstance(kernel, tuple) and len(kernel) == 2:
        found = kernel
    elif callable(kernel):
        found = (kernel(X),) * 2
    else:
        found = (kernel,) * 2
    grams = tuple(np.asarray(as_square(k, f"kernels[{name!r}]"), float) for k in found)
    if any(k.shape != (len(X), len(X)) for k in grams):
        raise ShapeError(
            f"kernels[{name!r}] must give a ({len(X)}, {len(X)}) Gram over training and test "
            f"points, got {[k.shape for k in grams]}. Networks that keep spatial axes need "
            "ntk.Flatten() or pooling."
        )
    return grams[0], grams[1]


def _squared(
    K: np.ndarray, labels: np.ndarray, n: int, eps: float, noise: float
) -> tuple[dict[str, float], dict[str, Any]]:
    """Posterior with an amplitude by evidence, its bits and its errors."""
    y, y_test = labels[:n], labels[n:]
    noisy = K[:n, :n] + noise * np.trace(K[:n, :n]) / n * np.eye(n)
    factor = scipy.linalg.cho_factor(noisy)
    weights = scipy.linalg.cho_solve(factor, K[:n, n:])
    amplitude = float(y @ scipy.linalg.cho_solve(factor, y)) / n
    mean = weights.T @ y
    cov = amplitude * (K[n:, n:] - K[n:, :n] @ weights)
    info = inductive_bias(mean, (cov + cov.T) / 2, y_test, eps)
    row = {
        "bits": float(info.bits),
        "error": float(np.mean(mean * y_test <= 0)),
        "mse": float(np.mean((mean - y_test) ** 2)),
        "amplitude": amplitude,
        "alignment": float(kernel_task_alignment(K[:n, :n], y)),
    }
    return row, {"bias": info}


def _evidence(
    K: np.ndarray, labels: np.ndarray, n: int, delta: float, samples: int, key: Any
) -> tuple[dict[str, float], dict[str, Any]]:
    """Signs of the process: bits, evidence by EP, and the certificate by sampling."""
    info = inductive_bias_zero_one(K, labels, n)
    evidence = info.terms["log_evidence_train"]
    certified = kernel_evidence_pac_bayes(K[:n, :n], labels[:n], delta, n_samples=samples, key=key)
    row = {
        "bits_zero_one": float(info.bits),
        "log_evidence": evidence,
        "evidence_ep": float(pac_bayes_realizable(min(evidence, 0.0), n, delta)),
        "certified_evidence": float(certified),
    }
    return row, {"bias_zero_one": info, "evidence": certified}


def _flow(
    K: np.ndarray, labels: np.ndarray, n: int, delta: float, times: Any, scales: Any
) -> tuple[dict[str, float], dict[str, Bound]]:
    """The early-stopped flow, its certificate and its true error."""
    y, y_test = labels[:n], labels[n:]
    bound = kernel_flow_pac_bayes(K[:n, :n], y, times, scales, delta)
    at = bound.terms["time"], bound.terms["scale"]
    error = kernel_flow(K[:n, :n], y).gibbs_error(K[n:, :n], np.diag(K)[n:], y_test, *at)
    row = {
        "certified_flow": float(bound),
        "flow_time": float(at[0]),
        "flow_scale": float(at[1]),
        "flow_error": float(error),
    }
    return row, {"flow": bound}
