"""Kernels of networks: infinite width, infinite depth, finite width. No labels anywhere."""

# Layers
from ntk.layers import (
    Activation as Activation,
    Dense as Dense,
    Flatten as Flatten,
    Identity as Identity,
    Layer as Layer,
)
from ntk.frozen import Frozen as Frozen
from ntk.norm import Dropout as Dropout, LayerNorm as LayerNorm
from ntk.nonlinearities import (
    Abs as Abs,
    ABRelu as ABRelu,
    Arctan as Arctan,
    Celu as Celu,
    Cos as Cos,
    Elementwise as Elementwise,
    ElementwiseNumerical as ElementwiseNumerical,
    Elu as Elu,
    Erf as Erf,
    Exp as Exp,
    ExpNormalized as ExpNormalized,
    Gabor as Gabor,
    Gaussian as Gaussian,
    Gelu as Gelu,
    HardSigmoid as HardSigmoid,
    HardTanh as HardTanh,
    Hermite as Hermite,
    LeakyRelu as LeakyRelu,
    Linear as Linear,
    Mish as Mish,
    Monomial as Monomial,
    PiecewiseLinear as PiecewiseLinear,
    Polynomial as Polynomial,
    Rbf as Rbf,
    RectifiedMonomial as RectifiedMonomial,
    Relu as Relu,
    Relu6 as Relu6,
    Selu as Selu,
    Sigmoid as Sigmoid,
    Sigmoid_like as Sigmoid_like,
    Sign as Sign,
    Silu as Silu,
    Sin as Sin,
    SoftShrink as SoftShrink,
    Softplus as Softplus,
    Softsign as Softsign,
    Step as Step,
    Tanh as Tanh,
)

# Composition
from ntk.compose import (
    FanInConcat as FanInConcat,
    FanInProd as FanInProd,
    FanInSum as FanInSum,
    FanOut as FanOut,
    parallel as parallel,
    serial as serial,
)
from ntk.families import MLPFamily as MLPFamily, mlp_family as mlp_family
from ntk.networks import mlp as mlp
from ntk.repeat import repeat as repeat

# Kernels of infinite networks
from ntk.gram import gram as gram
from ntk.state import Kernel as Kernel

# Dual activations
from ntk.activations import activation_names as activation_names, dual as dual
from ntk.duals import Dual as Dual

# Kernels of finite networks
from ntk.empirical import empirical_nngp as empirical_nngp, empirical_ntk as empirical_ntk
from ntk.models import as_function as as_function
from ntk.tangent_operator import empirical_ntk_operator as empirical_ntk_operator
from ntk.linearize import linearize as linearize, taylor_expand as taylor_expand
from ntk.monte_carlo import monte_carlo_kernel as monte_carlo_kernel

# Limits of depth
from ntk.infinite_depth import InfiniteDepth as InfiniteDepth, infinite_depth as infinite_depth
from ntk.consistent import (
    activation_for_dimension as activation_for_dimension,
    sine_for_dimension as sine_for_dimension,
)

from ntk.hermite_series import hermite_series as hermite_series, series_dual as series_dual

# Criticality and mean field
from ntk.single_input import nearby_inputs as nearby_inputs, single_input as single_input
from ntk.critical_init import CriticalInit as CriticalInit, critical_init as critical_init
from ntk.mean_field import MeanField as MeanField, mean_field as mean_field
from ntk.edge_of_chaos import (
    DepthLimits as DepthLimits,
    depth_limits as depth_limits,
    order_to_chaos as order_to_chaos,
)

from ntk.phase_diagram import (
    phase_diagram as phase_diagram,
    plot_phase_diagram as plot_phase_diagram,
)

# Finite width at order 1/n
from ntk.finite_width import finite_width as finite_width
from ntk.finite_width_record import FiniteWidth as FiniteWidth
from ntk.exact_homogeneous import (
    ExactHomogeneous as ExactHomogeneous,
    exact_homogeneous as exact_homogeneous,
)
from ntk.single_input_asymptotics import (
    DepthSlopes as DepthSlopes,
    critical_learning_rates as critical_learning_rates,
    depth_slopes as depth_slopes,
)
from ntk.aspect_ratio import (
    AspectRatio as AspectRatio,
    fluctuation_growth as fluctuation_growth,
    optimal_aspect_ratio as optimal_aspect_ratio,
    optimal_residual as optimal_residual,
)
from ntk.residual_width import (
    ResidualWidth as ResidualWidth,
    residual_width as residual_width,
    sample_residual_width as sample_residual_width,
)
from ntk.finite_width_sampling import (
    SampledFiniteWidth as SampledFiniteWidth,
    sample_finite_width as sample_finite_width,
)
from ntk.finite_width_extrapolation import (
    ExtrapolatedFiniteWidth as ExtrapolatedFiniteWidth,
    WidthComparison as WidthComparison,
    compare_finite_width as compare_finite_width,
    extrapolate_width as extrapolate_width,
)

# Spectra, learning curves, lazy and rich training
from ntk.spectrum import (
    Spectrum as Spectrum,
    mercer_coefficients as mercer_coefficients,
    sphere_spectrum as sphere_spectrum,
)
from ntk.zonal import power_kernel_eigenvalues as power_kernel_eigenvalues
from ntk.hypercube import (
    hypercube_spectrum as hypercube_spectrum,
    series_spectrum as series_spectrum,
)
from ntk.gram_spectrum import GramSpectrum as GramSpectrum, gram_spectrum as gram_spectrum
from ntk.learning_curves import LearningCurve as LearningCurve, learning_curve as learning_curve
from ntk.lazy_rich import (
    abc_exponents as abc_exponents,
    diagonal_network as diagonal_network,
    kernel_movement as kernel_movement,
)

# Other libraries
from ntk.interop import (
    ExternalNetwork as ExternalNetwork,
    from_neural_tangents as from_neural_tangents,
    neural_tangents as neural_tangents,
    permissive as permissive,
)


def __getattr__(name: str) -> object:
    """``derive_dual`` on first use: it loads sympy, which takes a second."""
    if name == "derive_dual":
        from ntk.symbolic import derive_dual

        return derive_dual
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
