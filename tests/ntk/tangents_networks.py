"""Networks of neural-tangents and inputs that the tests of `ntk.interop` share."""

import numpy as np

from ntk import interop

nt = interop.neural_tangents()
stax = nt.stax


def inputs(n, *shape, off=0):
    size = n * int(np.prod(shape))
    return np.sin(0.7 * (1 + off + np.arange(size))).reshape(n, *shape)


def dense(width=1, **kwargs):
    return stax.Dense(width, W_std=1.3, b_std=0.2, **kwargs)


def conv(width=1):
    return stax.Conv(width, (3,), padding="SAME", W_std=1.3, b_std=0.2)


def small_cnn():
    return stax.serial(
        stax.Conv(4, (3, 3), padding="SAME", W_std=1.3, b_std=0.1),
        stax.Relu(),
        stax.AvgPool((2, 2), (2, 2)),
        stax.Conv(5, (3, 2), padding="CIRCULAR"),
        stax.Gelu(),
        stax.GlobalAvgPool(),
        stax.Dense(3),
    )
