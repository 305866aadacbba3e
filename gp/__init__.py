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
from gp.bayesian_ensemble import (
    BayesianEnsemble as BayesianEnsemble,
    EnsembleComparison as EnsembleComparison,
    bayesian_ensemble as bayesian_ensemble,
    delta_function as delta_function,
    delta_law as delta_law,
)
from gp.cross_entropy import (
    CrossEntropyEnsemble as CrossEntropyEnsemble,
    TrainedClassifiers as TrainedClassifiers,
)

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
from gp.mixture_points import ScalePredictions as ScalePredictions
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
from gp.site_curves import SiteCurve as SiteCurve, site_curve as site_curve

# Predictions of finite networks at order 1/n
from gp.finite_width import (
    FiniteWidthPrediction as FiniteWidthPrediction,
    finite_width_linearized as finite_width_linearized,
    finite_width_posterior as finite_width_posterior,
)

# Classification, and how good probabilities are
from gp.classify import (
    ClassPosterior as ClassPosterior,
    Classifier as Classifier,
    ClassifierInfo as ClassifierInfo,
    Latent as Latent,
)
from gp.classify_mcmc import (
    ClassifierDraws as ClassifierDraws,
    sample_classifier as sample_classifier,
)
from gp.calibration import (
    Coverage as Coverage,
    Reliability as Reliability,
    accuracy as accuracy,
    auroc as auroc,
    brier_score as brier_score,
    interval_coverage as interval_coverage,
    negative_log_likelihood as negative_log_likelihood,
    ood_auroc as ood_auroc,
    predictive_entropy as predictive_entropy,
    reliability as reliability,
)
from gp.ood import corrupt as corrupt

# Deep kernel machines: wide networks that learn features
from gp.dkm import DKM as DKM
from gp.dkm_posterior import (
    DKMInfo as DKMInfo,
    FittedDKM as FittedDKM,
)
from gp.dkm_fit import Runs as Runs
from gp.dkm_kernels import (
    GramKernel as GramKernel,
    gram_kernel as gram_kernel,
)
from gp.dkm_linear import (
    DeepLinearGrams as DeepLinearGrams,
    clamped_grams as clamped_grams,
    deep_linear_grams as deep_linear_grams,
)
from gp.dkm_select import (
    NuChoice as NuChoice,
    choose_nu as choose_nu,
    optimal_objective as optimal_objective,
)
from gp.dkm_sparse import (
    FittedSparseDKM as FittedSparseDKM,
    SparseDKM as SparseDKM,
)
from gp.dkm_finite import (
    FiniteGrams as FiniteGrams,
    sample_finite_grams as sample_finite_grams,
)
from gp.dkm_features import (
    FeatureMachine as FeatureMachine,
    FeatureRate as FeatureRate,
    feature_machine as feature_machine,
    feature_rate as feature_rate,
)
from gp.dkm_conv import (
    ConvDKM as ConvDKM,
    FittedConvDKM as FittedConvDKM,
)

# Function priors: networks matched to a target process, distances between processes
from gp.priors import (
    PriorMatch as PriorMatch,
    Ranking as Ranking,
    match_prior as match_prior,
    rank_priors as rank_priors,
)
from gp.prior_objective import (
    TargetAverage as TargetAverage,
    average_log_normal as average_log_normal,
)
from gp.target_kernels import (
    Matern as Matern,
    Periodic as Periodic,
    RBF as RBF,
    RationalQuadratic as RationalQuadratic,
)
from gp.wasserstein import (
    kl_gaussian as kl_gaussian,
    sqrtm_psd as sqrtm_psd,
    wasserstein2 as wasserstein2,
)
from gp.wasserstein_bounds import (
    Bracket as Bracket,
    comonotone_moment as comonotone_moment,
    mean_norm as mean_norm,
    mixture_wasserstein2 as mixture_wasserstein2,
    wasserstein1_bounds as wasserstein1_bounds,
)
from gp.critic import (
    CriticEstimate as CriticEstimate,
    critic_w1 as critic_w1,
)

# Finite Bayesian networks by Markov-chain Monte Carlo
from gp.bnn import (
    BNN as BNN,
    BNNPosterior as BNNPosterior,
)
from gp.bnn_chains import (
    Chains as Chains,
    Cost as Cost,
    load_chains as load_chains,
)
from gp.bnn_predictive import (
    Predictions as Predictions,
    split_rhat as split_rhat,
)

# Scores of diffusion models as kernel regression
from gp.score import (
    ScoreRegression as ScoreRegression,
    score_regression as score_regression,
)
from gp.score_kernel import (
    ScorePairs as ScorePairs,
    hidden_layer_kernel as hidden_layer_kernel,
    network_inputs as network_inputs,
    score_pairs as score_pairs,
)
from gp.score_stopping import rwy_stop as rwy_stop
from gp.score_risk import RiskPath as RiskPath
from gp.score_sampling import reverse_diffusion as reverse_diffusion
from gp.score_truth import (
    DataLaw as DataLaw,
    atomic_data as atomic_data,
    forward_process as forward_process,
    gaussian_data as gaussian_data,
)

# Exact references: regression in context, prior-data fitted networks, tasks in sequence
from gp.in_context import (
    LinearAttention as LinearAttention,
    SpectralLearner as SpectralLearner,
    attention_learner as attention_learner,
    bayes_learner as bayes_learner,
    gradient_learner as gradient_learner,
    gradient_step_attention as gradient_step_attention,
    neighbour_learner as neighbour_learner,
    ridge_learner as ridge_learner,
)
from gp.in_context_errors import (
    ContextCurve as ContextCurve,
    best_gradient_rate as best_gradient_rate,
    context_curve as context_curve,
    gradient_step_error as gradient_step_error,
    least_squares_error as least_squares_error,
)
from gp.pfn import (
    NllCurve as NllCurve,
    expected_nll as expected_nll,
    one_step_nll as one_step_nll,
    sample_sequences as sample_sequences,
)
from gp.pfn_histogram import (
    Histogram as Histogram,
    histogram as histogram,
    mixture_entropy as mixture_entropy,
)
from gp.pfn_hyper import (
    HyperGP as HyperGP,
    HyperPosterior as HyperPosterior,
)
from gp.continual import (
    ContinualScores as ContinualScores,
    LocationPath as LocationPath,
    continual_scores as continual_scores,
    drift_kernel as drift_kernel,
    forgetting_noise as forgetting_noise,
    kl_from_exact as kl_from_exact,
    location_filter as location_filter,
    task_mean as task_mean,
    with_task as with_task,
)

# Other libraries
from gp.adapters import (
    GPClassifier as GPClassifier,
    GPRegressor as GPRegressor,
    to_gpjax as to_gpjax,
    to_tinygp as to_tinygp,
)
