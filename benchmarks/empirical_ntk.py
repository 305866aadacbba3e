"""Empirical tangent kernels against the three implementations of neural-tangents, same process.

    python benchmarks/empirical_ntk.py [--repeats 5] [--methods structured ...] [--json out.json]

Times are CPU-seconds (minimum over the repeats), so that other jobs on the machine disturb little;
run under ``taskset -c 0`` for one core. The floor is the time of the one matrix product that no
method avoids: cotangents of all rows and outputs through the largest layer.
"""

import argparse
import itertools
import json
import time

import jax
import jax.numpy as jnp
from jax import lax

from ntk.empirical import _contract, _derivatives, _vector_products, empirical_ntk
from ntk.factors import nbytes
from ntk.interop import neural_tangents, permissive
from ntk.models import as_problem

N, OUTPUTS = 32, 10
METHODS = ("structured", "jacobian", "vector_products")


def normal(seed, *shapes):
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return [jax.random.normal(k, s, jnp.float32) for k, s in zip(keys, shapes, strict=True)]


def mlp(params, x):
    for i, (w, b) in enumerate(params):
        x = x @ w / w.shape[0] ** 0.5 + b.reshape(1, -1)
        x = jax.nn.relu(x) if i < len(params) - 1 else x
    return x


def cnn(params, x):
    for (w, b), stride in zip(params[:-1], (1, 2, 2), strict=True):
        numbers = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=numbers)
        x = jax.nn.relu(y / (9 * w.shape[2]) ** 0.5 + b.reshape(1, 1, 1, -1))
    w, b = params[-1]
    return x.mean((1, 2)) @ w / w.shape[0] ** 0.5 + b.reshape(1, -1)


def networks():
    """Name, function, parameters, inputs, and the shape (rows, in, out) of the largest product."""
    widths = [256, 1024, 1024, OUTPUTS]
    weights = normal(0, *itertools.pairwise(widths))
    biases = normal(1, *[(w,) for w in widths[1:]])
    (x,) = normal(2, (N, 256))
    yield "mlp 256-1024-1024-10", mlp, list(zip(weights, biases, strict=True)), x, 1024
    weights = normal(3, (3, 3, 3, 32), (3, 3, 32, 32), (3, 3, 32, 64), (64, OUTPUTS))
    biases = normal(4, (32,), (32,), (64,), (OUTPUTS,))
    (x,) = normal(5, (N, 16, 16, 3))
    yield "cnn 16x16x3 (32, 32/2, 64/2)", cnn, list(zip(weights, biases, strict=True)), x, None


def seconds(run, repeats):
    """Minimum CPU time of a call."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        jax.block_until_ready(run())
        times.append(time.process_time() - start)
    return min(times)


def compiled(lowered):
    """Temporary bytes, result bytes and compile seconds."""
    start = time.process_time()
    memory = lowered.compile().memory_analysis()
    return (
        memory.temp_size_in_bytes,
        memory.output_size_in_bytes,
        time.process_time() - start,
    )


def own_costs(f, params, x, reduce, method):
    """Peak of temporaries and intermediate factors, and compile time, of our programs."""
    problem = as_problem(f, params)
    if method == "vector_products":
        chunk = min(OUTPUTS, max(1, 2**31 // (4 * nbytes(problem.leaves))))
        lowered = _vector_products.lower(
            problem.apply, problem.leaves, x, None, reduce=reduce, chunk=chunk
        )
        temporary, _, compile_time = compiled(lowered)
        return temporary, compile_time
    arguments = problem.apply, problem.leaves, x
    temporary, factors, first = compiled(
        _derivatives.lower(*arguments, method=method, reduce=reduce)
    )
    shapes = jax.eval_shape(lambda *a: _derivatives(*a, method=method, reduce=reduce), *arguments)
    options = {"reduce": reduce, "outputs": OUTPUTS, "leaves": 0}
    contraction, _, second = compiled(_contract.lower(shapes, None, **options))
    return max(temporary, contraction) + factors, first + second


def compare(name, f, params, x, reduce, method, repeats):
    """One row of the table."""
    nt = neural_tangents()
    implementation = {
        "structured": nt.NtkImplementation.STRUCTURED_DERIVATIVES,
        "jacobian": nt.NtkImplementation.JACOBIAN_CONTRACTION,
        "vector_products": nt.NtkImplementation.NTK_VECTOR_PRODUCTS,
    }[method]
    axes = () if reduce == "full" else (-1,)
    peer = nt.empirical_ntk_fn(f, trace_axes=axes, vmap_axes=0, implementation=implementation)
    peer = jax.jit(peer, static_argnums=1)
    own = lambda: empirical_ntk(f, params, x, reduce=reduce, method=method)  # noqa: E731
    with permissive():
        peer_memory, _, peer_compile = compiled(peer.lower(x, None, params))
        memory, compile_time = own_costs(f, params, x, reduce, method)
        difference = jnp.abs(own() - peer(x, None, params)).max() / jnp.abs(own()).max()
        peer_time = seconds(lambda: peer(x, None, params), repeats)
        own_time = seconds(own, repeats)
    return {
        "network": name,
        "reduce": reduce,
        "method": method,
        "seconds": own_time,
        "neural_tangents_seconds": peer_time,
        "ratio": peer_time / own_time,
        "bytes": memory,
        "neural_tangents_bytes": peer_memory,
        "compile_seconds": compile_time,
        "neural_tangents_compile_seconds": peer_compile,
        "relative_difference": float(difference),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--json", help="write all numbers to this file")
    options = parser.parse_args()
    rows, floors = [], {}
    print(f"N = {N}, {OUTPUTS} outputs, float32, {jax.default_backend()}; neural-tangents in ()")
    for name, f, params, x, width in networks():
        if width:
            a, b = normal(6, (N * OUTPUTS, width), (width, width))
            product = jax.jit(jnp.matmul)
            product(a, b)
            floors[name] = seconds(lambda p=product, a=a, b=b: p(a, b), options.repeats)
            print(f"{name}: floor {1e3 * floors[name]:.1f} ms")
        for reduce in ("trace", "full"):
            for method in options.methods:
                row = compare(name, f, params, x, reduce, method, options.repeats)
                rows.append(row)
                print(
                    f"{name:29s} {reduce:6s} {method:16s}"
                    f"{1e3 * row['seconds']:9.1f} ms ({1e3 * row['neural_tangents_seconds']:.1f})"
                    f"  x{row['ratio']:.2f}"
                    f"{row['bytes'] / 2**20:9.0f} MiB ({row['neural_tangents_bytes'] / 2**20:.0f})"
                    f"{row['compile_seconds']:7.2f} s compile"
                    f" ({row['neural_tangents_compile_seconds']:.2f})"
                    f"  difference {row['relative_difference']:.0e}",
                    flush=True,
                )
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"floor_seconds": floors, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
