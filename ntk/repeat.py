"""``repeat(layer, n)``: n independent copies in sequence, compiled once."""

from __future__ import annotations

from typing import Any

import jax
from jax import lax

from deeplimits.errors import ShapeError
from deeplimits.validate import integer
from ntk.compose import as_layer
from ntk.layers import Layer, layer
from ntk.state import Kernel, covariance, new_token

#: Up to this many copies the finite network is written out, for the structured empirical NTK and
#: Taylor expansions, which do not look into compiled loops.
UNROLL = 8


@layer(data=("inner",), meta=("n",))
class Repeat(Layer):
    """``n`` independent copies of ``inner``, one after the other; made by :func:`repeat`.

    The first copies run on their own until widths and Gaussianity are stationary, the last one
    runs on its own so that a following layer sees how its units were made, and those between run
    in a ``lax.scan``: compile time does not depend on ``n``.
    """

    inner: Layer
    n: int

    def init(self, key: Any, input_shape: Any) -> tuple[Any, Any]:
        """Parameters ``(first, rest)``.

        ``rest`` is a tuple with an entry for each further copy if there are at most ``UNROLL``
        copies, else a tree of arrays with a leading axis of length ``n - 1``.
        """
        first_key, rest_key = jax.random.split(key)
        shape, first = self.inner.init(first_key, input_shape)
        if self.n == 1:
            return shape, (first, ())
        again = self.inner.init(rest_key, shape)[0]
        if tuple(again) != tuple(shape):
            raise ShapeError(
                f"repeat needs a layer that keeps the shape of its input, but it turns {shape} "
                f"into {again}."
            )
        keys = jax.random.split(rest_key, self.n - 1)
        if self.n <= UNROLL:
            return shape, (first, tuple(self.inner.init(k, shape)[1] for k in keys))
        return shape, (first, jax.vmap(lambda k: self.inner.init(k, shape)[1])(keys))

    def apply(self, params: Any, x: Any, *, key: Any = None) -> Any:
        """Apply the copies in order."""
        first, rest = params
        keys = [None] * self.n if key is None else jax.random.split(key, self.n)
        x = self.inner.apply(first, x, key=keys[0])
        if self.n <= UNROLL:
            for p, sub in zip(rest, keys[1:], strict=True):
                x = self.inner.apply(p, x, key=sub)
            return x

        def step(x: Any, inputs: Any) -> tuple[Any, None]:
            p, sub = inputs
            return self.inner.apply(p, x, key=sub), None

        return lax.scan(step, x, (rest, None if key is None else keys[1:]))[0]

    def propagate(self, k: Any) -> Any:
        """Propagate through all copies."""
        if not isinstance(k, Kernel):
            raise ShapeError("repeat takes one input, got a list of branches.")
        left = self.n
        while left > 1:
            out = self.inner.propagate(k)
            if not isinstance(out, Kernel):
                raise ShapeError("repeat needs a layer with one output, got a list of branches.")
            left -= 1
            stationary = _structure(out) == _structure(k)
            k = out
            if stationary and left > 2:
                k = self._scan(k, left - 1)
                left = 1
        return self.inner.propagate(k)

    def _scan(self, k: Kernel, steps: int) -> Kernel:
        """``steps`` copies in one compiled loop; the carry holds (cov, eps, ntk, mean) only."""
        token = new_token()
        before, k = k.tokens, k.forget().replace(tokens=frozenset({token}), uid=token)
        reached: list[frozenset[int]] = []

        def step(packed: tuple[Kernel, Any], _: None) -> tuple[tuple[Kernel, Any], None]:
            carry = _unpack(*packed)
            out = self.inner.propagate(carry.replace(nngp=covariance(carry)))
            reached.append(out.tokens)
            out = out.forget().replace(tokens=carry.tokens, uid=token, nngp=None)
            return jax.tree.map(lambda new, old: new.astype(old.dtype), _pack(out), packed), None

        k = _unpack(*lax.scan(step, _pack(k.replace(nngp=None)), None, length=steps)[0])
        tokens = frozenset({new_token()}) | (before if token in reached[0] else frozenset())
        return k.replace(nngp=covariance(k), tokens=tokens, uid=new_token())


def _pack(k: Kernel) -> tuple[Kernel, Any]:
    """``eps`` and ``ntk`` as one complex array: see :func:`ntk.state.in_one_pass`."""
    if k.ntk is None:
        return k, None
    return k.replace(eps=None, ntk=None), lax.complex(k.eps, k.ntk)


def _unpack(k: Kernel, both: Any) -> Kernel:
    return k if both is None else k.replace(eps=lax.real(both), ntk=lax.imag(both))


def _structure(k: Kernel) -> Any:
    """What must be equal before and after a copy for the loop to be possible."""
    return k.is_gaussian, k.channels, k.spatial, k.ntk is None


def repeat(block: Layer, n: int) -> Repeat:
    """``n`` independent copies of ``block`` in sequence; compile time independent of ``n``.

    Args:
        block: a layer with one input and one output.
        n: number of copies, >= 1.

    Raises:
        DomainError: ``n < 1`` or not an integer; ``block`` is no layer.
        ShapeError: the block changes the shape of its input after the first copy.
    """
    return Repeat(as_layer(block, "block"), integer(n, "n", at_least=1))
