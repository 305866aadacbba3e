"""Neural collapse in closed form: minimisers, thresholds, metrics, and training beside them."""

# One mode
from bounds.collapse.scalar import (
    Thresholds as Thresholds,
    mode_strength as mode_strength,
    thresholds as thresholds,
)

# Squared error, any targets
from bounds.collapse.mse import (
    Minimizer as Minimizer,
    minimizer as minimizer,
    minimum_loss as minimum_loss,
    one_hot as one_hot,
)
from bounds.collapse.phases import (
    critical_decay as critical_decay,
    phase_diagram as phase_diagram,
    plot_phase_diagram as plot_phase_diagram,
)

# Cross-entropy
from bounds.collapse.cross_entropy import (
    Branch as Branch,
    CEMinimum as CEMinimum,
    ce_branch as ce_branch,
    ce_branches as ce_branches,
    ce_minimise as ce_minimise,
)

# Experiments and what is measured in them
from bounds.collapse.geometry import geometry as geometry
from bounds.collapse.measures import (
    Metrics as Metrics,
    layer_metrics as layer_metrics,
    metrics as metrics,
    plot_metrics as plot_metrics,
)
from bounds.collapse.training import (
    Training as Training,
    momentum as momentum,
    train_unconstrained as train_unconstrained,
    unconstrained_objective as unconstrained_objective,
)
