"""Statistical mechanics of networks: order parameters, phase diagrams, Monte Carlo."""

# Hopfield networks: replica theory, lines, diagrams
from statmech.hopfield import HopfieldState as HopfieldState, hopfield as hopfield
from statmech.hopfield_lines import (
    hopfield_capacity as hopfield_capacity,
    hopfield_line as hopfield_line,
    hopfield_load_line as hopfield_load_line,
)
from statmech.hopfield_mixtures import (
    MixtureState as MixtureState,
    hopfield_barrier_capacity as hopfield_barrier_capacity,
    hopfield_low_load as hopfield_low_load,
    hopfield_mixture as hopfield_mixture,
    hopfield_mixture_stability as hopfield_mixture_stability,
)
from statmech.phase import (
    phase_diagram as phase_diagram,
    plot_phase_diagram as plot_phase_diagram,
)

# Pseudo-inverse rule, synchronous (Little) dynamics
from statmech.pseudo_inverse import (
    PseudoInverseState as PseudoInverseState,
    pseudo_inverse as pseudo_inverse,
    pseudo_inverse_diagram as pseudo_inverse_diagram,
    pseudo_inverse_line as pseudo_inverse_line,
)
from statmech.little import LittleState as LittleState, little as little

# Dense (P-body) Hebbian networks
from statmech.dense import DenseState as DenseState, dense_hebbian as dense_hebbian
from statmech.dense_capacity import (
    DenseCapacity as DenseCapacity,
    dense_capacity as dense_capacity,
    diluted_load as diluted_load,
    minimal_examples as minimal_examples,
    one_step_overlap as one_step_overlap,
)
from statmech.dense_lines import dense_line as dense_line, dense_load as dense_load
from statmech.dense_noise import noise_kernel as noise_kernel
from statmech.examples import Examples as Examples

# Multitasking (diluted) networks
from statmech.multitasking import (
    MultitaskingState as MultitaskingState,
    multitasking as multitasking,
)
from statmech.multitasking_limits import (
    Hierarchy as Hierarchy,
    multitasking_examples_needed as multitasking_examples_needed,
    multitasking_hierarchy as multitasking_hierarchy,
    multitasking_hierarchy_limit as multitasking_hierarchy_limit,
    multitasking_one_step as multitasking_one_step,
    multitasking_one_step_gaussian as multitasking_one_step_gaussian,
    multitasking_onset as multitasking_onset,
    multitasking_parallel_onset as multitasking_parallel_onset,
)
from statmech.multitasking_sampler import simulate_multitasking as simulate_multitasking

# Spin glasses, replica-symmetry breaking
from statmech.spin_glass import SKState as SKState, sk as sk, sk_overlap as sk_overlap
from statmech.spin_glass_at import (
    sk_at_field as sk_at_field,
    sk_at_temperature as sk_at_temperature,
)
from statmech.p_spin import (
    PSpin as PSpin,
    PSpinState as PSpinState,
    p_spin as p_spin,
    p_spin_complexity as p_spin_complexity,
    p_spin_state as p_spin_state,
)
from statmech.rem import (
    REM as REM,
    REMState as REMState,
    rem as rem,
    rem_finite as rem_finite,
    rem_state as rem_state,
)
from statmech.parisi import ParisiState as ParisiState, parisi as parisi
from statmech.hopfield_rsb import (
    HopfieldRSB as HopfieldRSB,
    hopfield_1rsb as hopfield_1rsb,
    hopfield_1rsb_capacity as hopfield_1rsb_capacity,
    hopfield_1rsb_ground_state as hopfield_1rsb_ground_state,
)

# Patterns and couplings
from statmech.patterns import (
    ImagePatterns as ImagePatterns,
    NoisyExamples as NoisyExamples,
    PatternStatistics as PatternStatistics,
    biased_patterns as biased_patterns,
    correlated_patterns as correlated_patterns,
    corrupted as corrupted,
    diluted_patterns as diluted_patterns,
    image_patterns as image_patterns,
    noisy_examples as noisy_examples,
    pattern_statistics as pattern_statistics,
    random_patterns as random_patterns,
)
from statmech.coupling import (
    FactoredCoupling as FactoredCoupling,
    hebbian_coupling as hebbian_coupling,
    pseudo_inverse_coupling as pseudo_inverse_coupling,
)
from statmech.coupling_matrix import (
    MatrixCoupling as MatrixCoupling,
    matrix_coupling as matrix_coupling,
    sk_coupling as sk_coupling,
)
from statmech.coupling_tensor import (
    TensorCoupling as TensorCoupling,
    p_spin_coupling as p_spin_coupling,
    tensor_coupling as tensor_coupling,
)

# Monte Carlo
from statmech.montecarlo import simulate as simulate
from statmech.montecarlo_record import (
    Simulation as Simulation,
    plot_simulation as plot_simulation,
)

# Parallel tempering and observables
from statmech.dense_mc import (
    DenseCoupling as DenseCoupling,
    dense_coupling as dense_coupling,
    dense_pattern_count as dense_pattern_count,
)
from statmech.ladder import temperature_ladder as temperature_ladder
from statmech.observables import (
    binder as binder,
    edwards_anderson as edwards_anderson,
    link_overlap as link_overlap,
    mattis_overlaps as mattis_overlaps,
    overlap_histogram as overlap_histogram,
    replica_overlap as replica_overlap,
    specific_heat as specific_heat,
    susceptibility as susceptibility,
)
from statmech.plefka import MeanField as MeanField, plefka as plefka
from statmech.tempering import parallel_tempering as parallel_tempering
from statmech.tempering_record import (
    ParallelTempering as ParallelTempering,
    plot_parallel_tempering as plot_parallel_tempering,
)

# Associative memories
from statmech import associative as associative
