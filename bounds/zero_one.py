r"""Inductive-bias information of classification: all test labels right, given all training labels.

.. math:: I = \ln Z(\text{train}) - \ln Z(\text{train} + \text{test})

with Z the Gaussian probability of the signs.
"""

from __future__ import annotations

import math

import numpy as np

from bounds.orthant import log_evidence_orthant
from bounds.result import Estimate
from deeplimits.errors import DomainError
from deeplimits.typing import ArrayLike, Key
from deeplimits.validate import as_real, as_square, integer


def inductive_bias_zero_one(
    K: ArrayLike,
    labels: ArrayLike,
    n_train: int,
    *,
    method: str = "ep",
    n_samples: int = 10_000,
    key: Key = None,
) -> Estimate:
    """Information needed to get every test label right, for a Gaussian process prior.

    Args:
        K: ``(n, n)`` kernel of the training points, then the test points.
        labels: ``(n,)`` labels +1 and -1 in the same order.
        n_train: number of training points, 0 <= n_train < n.
        method, n_samples, key: as :func:`bounds.log_evidence_orthant`.

    Returns:
        :class:`~bounds.result.Estimate` in nats. ``terms["coin_flips"]`` is the information of
        guessing, :math:`n_t \\ln 2`: more than that means a kernel that points the wrong way.

    Raises:
        DomainError: ``n_train`` out of range; and as :func:`bounds.log_evidence_orthant`.

    Source: derived here from the definition of arXiv:2406.15941.

    Check: tests/bounds/test_orthant.py
    """
    K, labels = np.asarray(as_square(K, "K"), float), np.asarray(as_real(labels, "labels"), float)
    n_train = integer(n_train, "n_train", at_least=0)
    if n_train >= len(K):
        raise DomainError(f"n_train must be below the {len(K)} points of K, got {n_train}.")
    options = {"method": method, "n_samples": n_samples, "key": key}
    both = log_evidence_orthant(K, labels, **options)
    train = 0.0
    if n_train:
        train = float(log_evidence_orthant(K[:n_train, :n_train], labels[:n_train], **options))
    n_test = len(K) - n_train
    terms = {
        "log_evidence_train": train,
        "log_evidence_all": float(both),
        "n_test": n_test,
        "coin_flips": n_test * math.log(2),
    }
    return Estimate(
        value=train - float(both),
        terms=terms,
        target="inductive bias",
        method=method,
        n=n_test,
        rigor=both.rigor,
        assumptions=(*both.assumptions, "zero-one loss: all test labels right"),
        reference="arXiv:2406.15941",
    )
