"""Bounds: what a network must be told, what it must have learned, how far it can be wrong."""

# Results with their assumptions
from bounds.result import Bound as Bound, Estimate as Estimate, best as best

# Inductive-bias information
from bounds.inductive_bias import (
    inductive_bias as inductive_bias,
    sample_losses as sample_losses,
)
from bounds.loss_samples import inductive_bias_from_losses as inductive_bias_from_losses
from bounds.quadratic_form import log_cdf_quadratic_form as log_cdf_quadratic_form
from bounds.zero_one import inductive_bias_zero_one as inductive_bias_zero_one

# Evidence of labels
from bounds.orthant import log_evidence_orthant as log_evidence_orthant

# PAC-Bayes
from bounds.pac_bayes import (
    kl_divergence as kl_divergence,
    kl_inverse as kl_inverse,
    pac_bayes_kl as pac_bayes_kl,
    pac_bayes_realizable as pac_bayes_realizable,
)
from bounds.kernel_flow import (
    KernelFlow as KernelFlow,
    kernel_flow as kernel_flow,
    kernel_flow_pac_bayes as kernel_flow_pac_bayes,
)

# Complexities of kernels and of networks by their norms
from bounds.kernel_complexity import (
    effective_dimension as effective_dimension,
    first_layer_gram as first_layer_gram,
    kernel_ball_complexity as kernel_ball_complexity,
    kernel_norm_risk as kernel_norm_risk,
    kernel_rademacher as kernel_rademacher,
    kernel_task_alignment as kernel_task_alignment,
    ntk_complexity as ntk_complexity,
)
from bounds.norms import (
    barron_sampling_error as barron_sampling_error,
    frobenius_complexity as frobenius_complexity,
    path_norm_complexity as path_norm_complexity,
    spectral_complexity as spectral_complexity,
)
from bounds.rademacher import (
    lipschitz_loss as lipschitz_loss,
    rademacher_risk as rademacher_risk,
)

# Probabilities and simplicity of functions
from bounds.certified_evidence import kernel_evidence_pac_bayes as kernel_evidence_pac_bayes
from bounds.simplicity import (
    FunctionProbabilities as FunctionProbabilities,
    boolean_inputs as boolean_inputs,
    function_probabilities as function_probabilities,
    lz_complexity as lz_complexity,
    network_function_probabilities as network_function_probabilities,
)

# Architectures and tasks side by side
from bounds.bias_trends import (
    BiasTrend as BiasTrend,
    inductive_bias_trend as inductive_bias_trend,
)
from bounds.compare import (
    ArchitectureComparison as ArchitectureComparison,
    compare_architectures as compare_architectures,
)

# Neural collapse, similarity of representations
from bounds import collapse as collapse, similarity as similarity

# Interval bounds of random networks
from bounds.interval import (
    ibp_bounds as ibp_bounds,
    ibp_growth as ibp_growth,
    ibp_tradeoff as ibp_tradeoff,
    plot_incompatibility as plot_incompatibility,
)

# Mutual information of samples and of layers
from bounds import mutual_information as mutual_information

# Information through layers
from bounds.hierarchy import (
    hierarchy_kl as hierarchy_kl,
    hierarchy_linear_gaussian as hierarchy_linear_gaussian,
    hierarchy_wasserstein as hierarchy_wasserstein,
)
from bounds.hierarchy_records import (
    Hierarchy as Hierarchy,
    LinearGaussianHierarchy as LinearGaussianHierarchy,
)
from bounds import contraction as contraction
from bounds.gibbs import (
    GibbsAlgorithm as GibbsAlgorithm,
    channel_information as channel_information,
    finite_weights_bound as finite_weights_bound,
    gibbs_algorithm as gibbs_algorithm,
    gibbs_bound as gibbs_bound,
)
from bounds.supersample import Supersample as Supersample, supersample as supersample
