"""Records as JAX pytrees whose tree structures tell their types apart.

Why not ``jax.tree_util.register_dataclass``: it compares the fields of two tree structures and not
their classes (JAX 0.10.2), so the structures of two records with the same static fields are equal.
``jax.jit`` then now and then runs the program that was compiled for the other record.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

from jax.tree_util import GetAttrKey, register_pytree_with_keys

C = TypeVar("C", bound=type)


def register_dataclass(
    nodetype: C,
    data_fields: Sequence[str] | None = None,
    meta_fields: Sequence[str] | None = None,
) -> C:
    """Register a dataclass as a pytree; a drop-in for the function of the same name in JAX.

    Args:
        nodetype: the dataclass. Its constructor is called again with tracers and placeholders.
        data_fields: names of the leaves or subtrees; default: all fields that are not static.
        meta_fields: names of the static, hashable fields; default: those declared with
            ``field(metadata={"static": True})``.

    Returns:
        ``nodetype``, so that the function serves as a decorator.

    Raises:
        ValueError: the two lists are not exactly the fields that the constructor takes.

    Check: ``tests/deeplimits/test_pytrees.py``.
    """
    fields = {f.name: f for f in dataclasses.fields(nodetype) if f.init}
    if data_fields is None or meta_fields is None:
        meta = tuple(name for name, f in fields.items() if f.metadata.get("static", False))
        data = tuple(name for name in fields if name not in meta)
    else:
        data, meta = tuple(data_fields), tuple(meta_fields)
    if sorted((*data, *meta)) != sorted(fields):
        raise ValueError(
            f"data_fields and meta_fields of {nodetype.__name__} must be its fields "
            f"{sorted(fields)}, got {sorted((*data, *meta))}."
        )

    def static(record: Any) -> tuple[Any, ...]:
        return (nodetype, *(getattr(record, name) for name in meta))

    def flatten(record: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return tuple(getattr(record, name) for name in data), static(record)

    def flatten_with_keys(record: Any) -> Any:
        return tuple((GetAttrKey(name), getattr(record, name)) for name in data), static(record)

    def unflatten(values: tuple[Any, ...], children: Any) -> Any:
        known = dict(zip(meta, values[1:], strict=True))
        return nodetype(**known, **dict(zip(data, children, strict=True)))

    register_pytree_with_keys(nodetype, flatten_with_keys, unflatten, flatten)
    return nodetype
