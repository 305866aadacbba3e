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
