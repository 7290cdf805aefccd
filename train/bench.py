"""Measuring a model: what a step costs in training and in inference."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import zoo
from train import parallel
from train.optimizers import optimizer
from train.tasks import classification
from zoo.summary import count_flops, count_parameters

_PEAK_MATMUL = 2048
"""Side of the square matrix product whose rate is taken for the most that the device can do."""


def bench(
    name: str, *, batch_size: int = 32, dtype: str = "float32", plan: str = "jit", seconds: float = 5.0
) -> dict[str, Any]:
    """Measures a registered classifier on random data, one step a dispatch, AdamW in training.

    Args:
      name: of the model.
      batch_size: examples in a step, over all devices.
      dtype: what the model computes in.
      plan: jit, pmap or fsdp.
      seconds: how long to measure each of training and inference, after compiling and a warm-up.

    Returns:
      For `train` and `inference`: median `step_ms` with its 10 % and 90 % quantiles, `examples_per_second`,
      `compile_seconds`, `gflops_per_step` (as XLA counts them), `gflops_per_second` and `utilisation`, the share of
      the rate at which the devices multiply large matrices of this dtype (measured here, `matmul_gflops_per_second`).
      `peak_memory_mb` is the most that the device has had allocated so far, on a CPU the most that the process has had.

    Raises:
      ValueError: the model, the plan or the batch size is wrong.
    """
    if seconds <= 0:
        raise ValueError(f"seconds must be positive, not {seconds}")
    card = zoo.model_card(name)
    layout = parallel.plan(plan)
    layout.rows(batch_size)
    model = zoo.create_model(name, dtype=dtype)
    task = classification(model, optimizer("adamw", 1e-3))
    rng = np.random.default_rng(0)
    image = rng.normal(size=(batch_size, *card.input_shape)).astype(np.float32)
    classes = jax.eval_shape(lambda key: model.init_with_output(key, image)[0], jax.random.key(0)).shape[-1]
    batch = {"image": image, "label": rng.integers(0, max(2, classes), batch_size).astype(np.int32)}
    items = layout.split(batch, 0)
    state = task.init(jax.random.key(0), batch)
    matmul = _matmul_rate(dtype) * layout.num_devices

    def infer(state: Any, items: Any, shared: Any) -> tuple[None, Any]:
        return None, jnp.sum(jnp.asarray(model.apply(state.variables, items["image"])), dtype=jnp.float32)

    def train(state: Any, items: Any, shared: Any) -> tuple[Any, Any]:
        state, metrics = task.train_step(state, items)
        return state, metrics["loss"].total

    results: dict[str, Any] = {
        "model": name,
        "parameters": count_parameters(state.params),
        "batch_size": batch_size,
        "dtype": dtype,
        "plan": plan,
        "devices": f"{layout.num_devices} × {jax.devices()[0].device_kind}",
        "matmul_gflops_per_second": matmul / 1e9,
    }
    for what, program, donate in (("inference", infer, False), ("train", train, True)):
        flops = count_flops(program, state, batch, {})
        results[what] = _measure(
            layout, program, layout.place(state), items, donate, seconds, batch_size, flops, matmul
        )
        results[what]["peak_memory_mb"] = _peak_memory() / 2**20
    return results


def _measure(
    plan: parallel.Plan,
    program: parallel.Program,
    state: Any,
    items: Any,
    donate: bool,
    seconds: float,
    batch_size: int,
    flops: int,
    matmul: float,
) -> dict[str, float]:
    compiled = plan.compile(program, donate=donate)
    began = time.perf_counter()
    executable = compiled.lower(state, items, {}).compile()  # type: ignore[attr-defined]
    compile_seconds = time.perf_counter() - began

    def step(state: Any) -> tuple[Any, float]:
        began = time.perf_counter()
        new, value = executable(state, items, {})
        jax.block_until_ready(value)
        return (new if donate else state), time.perf_counter() - began

    for _ in range(2):
        state, _ = step(state)
    times = []
    while sum(times) < seconds or len(times) < 5:
        state, took = step(state)
        times.append(took)
    low, median, high = np.quantile(times, [0.1, 0.5, 0.9])
    return {
        "step_ms": median * 1e3,
        "step_ms_10": low * 1e3,
        "step_ms_90": high * 1e3,
        "steps_measured": len(times),
        "examples_per_second": batch_size / median,
        "compile_seconds": compile_seconds,
        "gflops_per_step": flops / 1e9,
        "gflops_per_second": flops / median / 1e9,
        "utilisation": flops / median / matmul,
    }


def _matmul_rate(dtype: str) -> float:
    """FLOP/s of one device on a large matrix product: the yardstick for utilisation."""
    a = jnp.ones((_PEAK_MATMUL, _PEAK_MATMUL), dtype)
    multiply: Callable[[jax.Array, jax.Array], jax.Array] = jax.jit(jnp.matmul)
    times = []
    for _ in range(6):
        began = time.perf_counter()
        multiply(a, a).block_until_ready()
        times.append(time.perf_counter() - began)
    return 2 * _PEAK_MATMUL**3 / min(times[1:])


def _peak_memory() -> int:
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
