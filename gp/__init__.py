"""Gaussian processes and their relatives: everything conditioned on labels."""

# Exact inference with any kernel
from gp.process import FitInfo as FitInfo, GP as GP, Posterior as Posterior
from gp.predictive import Gaussian as Gaussian, PointPredictions as PointPredictions

# Evidence as a function of the kernel
from gp.evidence import log_evidence as log_evidence, log_evidence_grid as log_evidence_grid

# The law of gradient descent on wide networks
from gp.dynamics import (
    Ensemble as Ensemble,
    TrainedEnsemble as TrainedEnsemble,
    max_learning_rate as max_learning_rate,
)
from gp.predictive import StoppingScore as StoppingScore
