"""Tree structures of different records differ, so that jit cannot confuse them."""

import dataclasses
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import ntk
from deeplimits.pytrees import register_dataclass


def record(name):
    cls = dataclasses.dataclass(frozen=True)(type(name, (), {"__annotations__": {}}))
    return register_dataclass(cls)()


def test_structures_of_records_without_fields_differ():
    records = [record(f"Record{i}") for i in range(60)]
    trees = [jax.tree.structure(r) for r in records]
    assert all(a != b for a, b in itertools.combinations(trees[:40], 2))
    # One program for each type; with jax.tree_util.register_dataclass some are confused.
    compiled = jax.jit(lambda r, x: x + int(type(r).__name__[6:]))
    for i, r in enumerate(records):
        assert compiled(r, jnp.zeros(())) == i


def test_structures_of_all_activations_differ():
    names = [name for name in ntk.activation_names() if "<" not in name]
    duals = {type(ntk.dual(name)): ntk.dual(name) for name in names}
    trees = {kind: jax.tree.structure(dual) for kind, dual in duals.items()}
    assert len(trees) > 10
    assert all(a != b for a, b in itertools.combinations(trees.values(), 2))
    layers = [ntk.Relu(), ntk.Gelu(), ntk.Sign(), ntk.Identity(), ntk.Flatten()]
    structures = [jax.tree.structure(layer) for layer in layers]
    assert all(a != b for a, b in itertools.combinations(structures, 2))


def test_static_and_data_fields():
    @register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Both:
        x: float
        n: int = dataclasses.field(metadata={"static": True})

    leaves, tree = jax.tree.flatten(Both(1.5, 3))
    assert leaves == [1.5]
    assert jax.tree.unflatten(tree, [2.5]) == Both(2.5, 3)
    assert tree != jax.tree.structure(Both(1.5, 4))
    assert jax.tree_util.tree_leaves_with_path(Both(1.5, 3))[0][0] == (
        jax.tree_util.GetAttrKey("x"),
    )
    with pytest.raises(ValueError, match="must be its fields"):
        register_dataclass(Both, ["x"], [])


def test_no_module_registers_records_otherwise():
    root = Path(__file__).resolve().parents[2]
    for package in ("deeplimits", "ntk", "gp", "statmech", "bounds"):
        for path in (root / package).rglob("*.py"):
            assert "tree_util.register_dataclass(" not in path.read_text(), path
            assert "@jax.tree_util.register_dataclass" not in path.read_text(), path
