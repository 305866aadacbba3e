r"""Claims on classification: predicted probabilities held against labels drawn from the model."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from deeplimits.claims import Claim, register
from gp.classify import Classifier
from gp.predictive import standard_normal
from gp.scale_priors import InverseGamma

#: Predicted probabilities are compared with labels in these intervals.
EDGES = (0.0, 0.35, 0.65, 1.0)
#: The law of the scale of the second claim.
PRIOR = InverseGamma(2.0, 2.0)
SETS, TEST = 120, 3


def _kernel(x: Any, z: Any = None) -> np.ndarray:
    z = x if z is None else z
    return 3.0 * np.exp(-0.5 * ((x[:, None] - z[None]) ** 2).sum(-1))


def _excess(prior: Any) -> Any:
    """An experiment: label minus probability, summed in every interval, ``(sets, intervals)``."""

    def experiment(key: Any, n: int) -> np.ndarray:
        rng = np.random.default_rng(7)
        x = rng.normal(size=(n + TEST, 2))
        for_scale, for_latent, for_label = jax.random.split(key, 3)
        scales = np.ones(SETS) if prior is None else prior.sample(for_scale, SETS)
        root = np.linalg.cholesky(_kernel(x) + 1e-10 * np.eye(n + TEST))
        f = standard_normal(for_latent, (SETS, n + TEST)) @ root.T * np.sqrt(scales)[:, None]
        labels = (f + standard_normal(for_label, f.shape) > 0).astype(int)
        model, rows = Classifier(_kernel, "probit", prior), []
        for t in labels:
            p = model.condition(x[:n], t[:n], classes=(0, 1)).predict_proba(x[n:])[:, 1]
            inside = np.digitize(p, EDGES[1:-1])[:, None] == np.arange(len(EDGES) - 1)
            rows.append((t[n:] - p) @ inside)
        return np.array(rows)

    return experiment


for _name, _source, _what, _prior in [
    ("", "Rasmussen and Williams (2006), section 3.6", "", None),
    ("-random-scale", "arXiv:2107.01408; quadrature derived here", " with a random scale", PRIOR),
]:
    register(
        Claim(
            name=f"gp/classifier-calibration{_name}",
            source=_source,
            statement=f"Labels of functions drawn from the prior{_what} have the probabilities "
            "that expectation propagation predicts.",
            theory=np.zeros(len(EDGES) - 1),
            experiment=_excess(_prior),
            sizes=(10,),
            z=4.0,
            quantity="label minus probability in three intervals of the probability",
        )
    )
