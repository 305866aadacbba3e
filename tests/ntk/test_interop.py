"""neural-tangents on current JAX: its functions agree with each other and leave JAX alone."""

import importlib.metadata
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from deeplimits.errors import MissingDependencyError
from ntk import interop
from ntk.interop import permissive
from ntk.interop_patches import PATCHES, lru_cache

from .tangents_networks import dense, inputs, nt, small_cnn, stax


def small_mlp():
    return stax.serial(dense(7), stax.Relu(), dense(5), stax.Erf(), dense(3))


@pytest.mark.parametrize(
    ("build", "shape", "trace_axes"),
    [(small_mlp, (6,), (-1,)), (small_mlp, (6,), ()), (small_cnn, (6, 6, 2), ())],
    ids=["mlp trace", "mlp", "cnn"],
)
def test_empirical_implementations_agree(build, shape, trace_axes):
    init_fn, f, _ = build()
    x1, x2 = jnp.asarray(inputs(2, *shape)), jnp.asarray(inputs(3, *shape, off=9))
    kernels = []
    with permissive():
        _, params = init_fn(jax.random.key(0), x1.shape)
        for implementation in list(nt.NtkImplementation)[1:]:
            ntk = nt.empirical_ntk_fn(
                f, trace_axes=trace_axes, vmap_axes=0, implementation=implementation
            )
            kernels.append(jax.jit(ntk)(x1, x2, params))
    assert kernels[0].shape == (2, 3) + (() if trace_axes else (3, 3))
    for kernel in kernels[1:]:
        # Sums of 1e3 products of order 1 in float64.
        np.testing.assert_allclose(kernel, kernels[0], rtol=1e-12, atol=1e-12)


def test_structured_derivatives_of_sliced_and_shared_weights():
    def f(params, x):  # slice has no transpose rule of the old kind; W is used twice
        hidden = jnp.tanh(x @ params["W"] + params["b"])
        return jnp.tanh(hidden @ params["W"])[:, 1:3] * params["b"][1:3]

    key = jax.random.key(1)
    params = {"W": jax.random.normal(key, (4, 4)), "b": jnp.linspace(0.1, 0.4, 4)}
    x = jnp.asarray(inputs(3, 4))
    with permissive():
        structured, jacobian = (
            nt.empirical_ntk_fn(f, implementation=i)(x, None, params) for i in (3, 1)
        )
    np.testing.assert_allclose(structured, jacobian, rtol=1e-12, atol=1e-12)  # float64 rounding


def test_automatic_implementation_chooses_and_stays_silent(capsys):
    init_fn, f, _ = stax.serial(stax.Dense(3), stax.Erf(), stax.Dense(2))
    x = jnp.asarray(inputs(2, 3))
    with permissive():
        _, params = init_fn(jax.random.key(0), x.shape)
        auto, jacobian = (nt.empirical_ntk_fn(f, implementation=i)(x, None, params) for i in (0, 1))
    np.testing.assert_allclose(auto, jacobian, rtol=1e-12)  # float64 rounding
    assert capsys.readouterr().out == ""


@pytest.fixture(scope="module")
def regression():
    init_fn, f, kernel_fn = stax.serial(stax.Dense(32), stax.Erf(), stax.Dense(2))
    x, x_test = jnp.asarray(inputs(5, 3)), jnp.asarray(inputs(3, 3, off=60))
    y = jnp.cos(jnp.arange(10.0)).reshape(5, 2)
    return init_fn, f, kernel_fn, x, y, x_test


def test_predict_functions_agree(regression):
    _, _, kernel_fn, x, y, x_test = regression
    t = 7.0
    with permissive():
        k_dd, k_td = kernel_fn(x, None, "ntk"), kernel_fn(x_test, x, "ntk")
        zeros = jnp.zeros_like(y), jnp.zeros((3, 2))
        closed = nt.predict.gradient_descent_mse(k_dd, y)(t, *zeros, k_td)
        ode = nt.predict.gradient_descent(lambda f, y: jnp.mean((f - y) ** 2) / 2, k_dd, y)(
            t, *zeros, k_td
        )
        ensemble = nt.predict.gradient_descent_mse_ensemble(kernel_fn, x, y)(t, x_test, "ntk")
        posterior = nt.predict.gp_inference(kernel_fn(x, None), y)("ntk", k_td)
        late = nt.predict.gradient_descent_mse_ensemble(kernel_fn, x, y)(1e9, x_test, "ntk")
    # Independent route: the matrix exponential written out.
    values, vectors = np.linalg.eigh(k_dd)
    decay = vectors @ np.diag(-np.expm1(-values * t / y.size) / values) @ vectors.T
    expected = k_td @ decay @ y
    np.testing.assert_allclose(closed[1], expected, rtol=1e-9)  # condition number 1e3
    np.testing.assert_allclose(ensemble, expected, rtol=1e-9)
    np.testing.assert_allclose(ode[1], expected, rtol=1e-6, atol=1e-7)  # odeint's rtol 1.4e-8
    np.testing.assert_allclose(posterior, late, rtol=1e-7, atol=1e-9)  # e^{-1e9 lambda} = 0


def test_predict_inside_jit_does_not_leak(regression):
    _, _, kernel_fn, x, y, x_test = regression
    with permissive():
        predict = nt.predict.gradient_descent_mse_ensemble(kernel_fn, x, y)

        def at(t):
            return predict(t, x_test, ("nngp", "ntk"), compute_cov=True)

        compiled = jax.jit(at)(2.0)
        mapped = jax.vmap(lambda t: predict(t, x_test, "ntk"))(jnp.array([1.0, 2.0]))
        plain = at(2.0)
        slope = jax.grad(
            lambda s: nt.predict.gradient_descent_mse(s * kernel_fn(x, None, "ntk"), y)(
                1.0, None, 0.0, kernel_fn(x_test, x, "ntk")
            ).sum()
        )(1.0)
    for a, b in zip(jax.tree.leaves(compiled), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)  # condition number 1e3
    np.testing.assert_allclose(mapped[1], plain.ntk.mean, rtol=1e-10, atol=1e-12)
    assert np.isfinite(slope)


def test_lru_cache_recomputes_in_every_trace():
    calls = []

    @lru_cache(2)
    def f(name):
        calls.append(name)
        return jnp.ones(2) * 2

    assert f("a") is f("a")
    jax.jit(lambda: f("a"))()
    f("a")
    assert calls == ["a", "a"]
    f("b"), f("c"), f("a")  # "a" was pushed out
    assert calls == ["a", "a", "b", "c", "a"]


def test_max_learning_rate(regression):
    _, _, kernel_fn, x, y, _ = regression
    with permissive():
        k_dd = kernel_fn(x, None, "ntk")
        rate = nt.predict.max_learning_rate(k_dd, y.size)
    # It adds 1e-12 to the eigenvalue.
    np.testing.assert_allclose(rate, 2 * y.size / np.linalg.eigvalsh(k_dd)[-1], rtol=1e-10)


def test_linearize_taylor_monte_carlo_and_batch(regression):
    init_fn, f, kernel_fn, x, _, _ = regression
    with permissive():
        _, params = init_fn(jax.random.key(0), x.shape)
        step = jax.tree.map(lambda p: p + 1e-3, params)
        exact = f(step, x)
        errors = [
            float(jnp.abs(g(step, x) - exact).max())
            for g in (nt.linearize(f, params), nt.taylor_expand(f, params, 2))
        ]
        kernel = kernel_fn(x[:4], None, "ntk")
        batched = nt.batch(kernel_fn, batch_size=2, device_count=0)(x[:4], None, "ntk")
        draws = jax.jit(
            jax.vmap(
                lambda key: nt.monte_carlo_kernel_fn(
                    init_fn, f, key, 1, vmap_axes=0, device_count=0
                )(x, None, "ntk")
            )
        )(jax.random.split(jax.random.key(5), 12))
        analytic = kernel_fn(x, None, "ntk")
    assert errors[1] < 0.1 * errors[0] < 1e-3  # one more order in a step of 1e-3
    np.testing.assert_allclose(batched, kernel, rtol=1e-12)  # same sums
    z = (np.mean(draws, 0) - analytic) / scipy.stats.sem(draws)
    # 15 different entries of Student's t with 11 degrees of freedom: P(any > 6) = 1e-3.
    assert np.abs(z).max() < 6


def test_every_patch_has_a_reason_and_changes_something():
    for module, patches in PATCHES.items():
        assert patches, module
        for patch in patches:
            assert patch.old != patch.new
            assert patch.reason


def test_jax_is_left_as_it_was():
    program = """
        import sys, warnings
        warnings.simplefilter("error")
        import jax, jax.core, jax.numpy, jax.tree_util, jax.extend.core
        from jax.interpreters import ad
        import jax.example_libraries.stax, jax.experimental.ode
        parts = (jax, jax.core, jax.numpy, jax.lax, jax.tree_util, ad, jax.extend.core)
        before = [dict(vars(p)) for p in parts]
        finders = list(sys.meta_path)
        from ntk.interop import neural_tangents
        nt = neural_tangents()
        import neural_tangents as again
        assert again is nt is neural_tangents()
        assert sys.meta_path == finders
        for part, old in zip(parts, before):
            assert all(vars(part)[name] is old[name] for name in old), part
            new = set(vars(part)) - set(old)
            assert all(type(vars(part)[n]).__name__ == "module" for n in new), (part, new)
        assert "jax.util" not in sys.modules and "tensorflow" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=120)


@pytest.mark.parametrize("version", ["0.6.4", None])
def test_missing_package(monkeypatch, version):
    for name in [n for n in sys.modules if n.partition(".")[0] == "neural_tangents"]:
        monkeypatch.delitem(sys.modules, name)

    def find(name):
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", find)
    finders = list(sys.meta_path)
    with pytest.raises(MissingDependencyError, match=r"--no-deps neural-tangents==0\.6\.5"):
        interop.neural_tangents()
    assert sys.meta_path == finders
