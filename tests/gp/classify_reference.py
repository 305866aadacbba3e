"""Three points, their kernel, and orthant probabilities by SciPy."""

import numpy as np
import scipy.stats


def rbf(x, z=None):
    z = x if z is None else z
    return 1.5 * np.exp(-0.5 * ((x[:, None] - z[None]) ** 2).sum(-1))


RNG = np.random.default_rng(0)
X, XS = RNG.normal(size=(3, 2)), RNG.normal(size=(2, 2))
K = rbf(X)


def log_orthant(cov, t):
    """log p(t) = log of the probability that N(0, cov + 1) has the signs t."""
    signed = (cov + np.eye(len(t))) * np.outer(t, t)
    law = scipy.stats.multivariate_normal(np.zeros(len(t)), signed)
    return float(np.log(law.cdf(np.zeros(len(t)), rng=np.random.default_rng(0))))
