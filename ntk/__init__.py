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
