"""Associative memories: modern Hopfield networks, their bounds, capacities and simulation."""

# Energy, update, retrieval
from statmech.associative.energy import (
    energy as energy,
    separation as separation,
    update as update,
    weights as weights,
)
from statmech.associative.retrieval import (
    FixedPointType as FixedPointType,
    Retrieval as Retrieval,
    fixed_point_type as fixed_point_type,
    plot_fixed_point_types as plot_fixed_point_types,
    retrieve as retrieve,
)

# Rigorous bounds
from statmech.associative.bounds import (
    JacobianBounds as JacobianBounds,
    UpdateBounds as UpdateBounds,
    WellSeparation as WellSeparation,
    jacobian as jacobian,
    jacobian_bounds as jacobian_bounds,
    update_bounds as update_bounds,
    well_separation as well_separation,
)

# Capacity
from statmech.associative.capacity import (
    Capacity as Capacity,
    capacity as capacity,
    guaranteed_exponent as guaranteed_exponent,
    polynomial_capacity as polynomial_capacity,
    polynomial_error as polynomial_error,
)
from statmech.associative.exponential import (
    SpinThresholds as SpinThresholds,
    basin as basin,
    condensation as condensation,
    free_entropy as free_entropy,
    full_capacity as full_capacity,
    spin_thresholds as spin_thresholds,
    typical_capacity as typical_capacity,
)
from statmech.associative.diagram import diagram as diagram, plot_diagram as plot_diagram

# Memories of spins
from statmech.associative.discrete import (
    Exponential as Exponential,
    Polynomial as Polynomial,
    SpinRetrieval as SpinRetrieval,
    spin_energy as spin_energy,
    spin_retrieve as spin_retrieve,
    spin_update as spin_update,
)

# Simulation
from statmech.associative.simulation import (
    CriticalLoads as CriticalLoads,
    critical_loads as critical_loads,
    sample_free_entropy as sample_free_entropy,
    unstable_spins as unstable_spins,
)
