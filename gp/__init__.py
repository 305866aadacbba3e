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

# Scale mixtures: a random scale on the last layer
from gp.mixtures import ScaledPosterior as ScaledPosterior, ScaleMixture as ScaleMixture
from gp.unscaled_mixture import UnscaledPosterior as UnscaledPosterior
from gp.scale_priors import (
    BetaPrime as BetaPrime,
    BurrXII as BurrXII,
    InverseGamma as InverseGamma,
    LogNormal as LogNormal,
    ScalePrior as ScalePrior,
)
from gp.scale_density import LogDensity as LogDensity
from gp.student_t import MarginalT as MarginalT, StudentT as StudentT
from gp.mixture_evidence import mixture_log_evidence as mixture_log_evidence
from gp.mixture_training import (
    ScaleMixtureEnsemble as ScaleMixtureEnsemble,
    TrainedScaleMixture as TrainedScaleMixture,
)

# Choosing hyper-parameters by evidence
from gp.maximize_evidence import (
    EvidenceMaximum as EvidenceMaximum,
    maximize_evidence as maximize_evidence,
)

# Draws of whole functions, data that arrive in blocks
from gp.pathwise import (
    FeatureDraws as FeatureDraws,
    FunctionDraws as FunctionDraws,
    pathwise as pathwise,
)
from gp.stream import Stream as Stream, stream as stream

# Measured learning curves of kernel regression
from gp.regression_curves import (
    RegressionCurve as RegressionCurve,
    predicted_curve as predicted_curve,
    regression_curve as regression_curve,
    subset_regression_curve as subset_regression_curve,
)

# Predictions of finite networks at order 1/n
from gp.finite_width import (
    FiniteWidthPrediction as FiniteWidthPrediction,
    finite_width_linearized as finite_width_linearized,
    finite_width_posterior as finite_width_posterior,
)

# Other libraries
from gp.adapters import (
    GPClassifier as GPClassifier,
    GPRegressor as GPRegressor,
    to_gpjax as to_gpjax,
    to_tinygp as to_tinygp,
)
