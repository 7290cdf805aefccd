"""Measuring a model: what a step costs in training and in inference."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import zoo
from train.loop import parallel
from train.measure import peers
from train.memory import require_memory
from train.optim.optimizers import optimizer
from train.tasks import TASKS
from zoo.summary import count_flops, count_parameters

_WARM_UP = 5
"""Turns before those that count: the first steps still ask the kernel for memory."""

_PEAK_MATMUL = 2048
"""Side of the square matrix product whose rate is taken for the most that the device can do."""


def bench(
    name: str,
    *,
    batch_size: int = 32,
    dtype: str = "float32",
    plan: str = "jit",
    seconds: float = 5.0,
    compare: str | None = None,
    image_size: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Measures a registered model on random data, one step of its task a dispatch, AdamW in training.

    Args:
      name: of the model.
      batch_size: examples in a step, over all devices.
      dtype: what the model computes in.
      plan: jit, pmap or fsdp.
      seconds: how long to measure each of training and inference, after compiling and a warm-up.
      compare: "torch" measures the same in eager PyTorch on a CPU beside it, turn by turn, in a process of its own;
        a script that asks for it keeps its own work under `if __name__ == "__main__"`.
      image_size: height and width of the images, where they are not those of the model's card.
      **options: of the model.

    Returns:
      For `train` and `inference`: median `step_ms` with its 10 % and 90 % quantiles, `examples_per_second`,
      `compile_seconds`, `gflops_per_step` (as XLA counts them), `gflops_per_second` and `utilisation`, the share of
      the rate at which the devices multiply large matrices of this dtype (measured here, `matmul_gflops_per_second`).
      `peak_memory_mb` is the most that the device has had allocated so far, on a CPU the most that the process has had.
      With `compare`: `torch_step_ms`, and `ratio`, our time over PyTorch's, with its quantiles over the turns.

    Raises:
      ValueError: the model, an option, the plan or the batch size is wrong, or there is nothing to compare with.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    if not 0 < seconds <= 3600:
        raise ValueError(f"seconds must be positive and at most 3600, not {seconds}")
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"dtype must be float32, bfloat16 or float16, not {dtype!r}")
    if compare not in (None, "torch"):
        raise ValueError(f'compare must be "torch", not {compare!r}')
    if compare and (dtype != "float32" or jax.default_backend() != "cpu"):
        raise ValueError("PyTorch is compared with in float32 on a CPU")
    card = zoo.model_card(name)
    if card.task not in TASKS:
        raise ValueError(f"there is no task {card.task!r} to measure {name!r} with")
    layout = parallel.plan(plan)
    layout.rows(batch_size)
    sizes = card.input_shape if image_size is None else (image_size, image_size, *card.input_shape[2:])
    require_memory(4 * batch_size * math.prod(sizes), f"a batch of {batch_size} examples of {list(sizes)}")
    computes_in = {"dtype": dtype} if "dtype" in card.options else {}
    if dtype != "float32" and not computes_in:
        raise ValueError(f"the model {name!r} has no dtype to choose; it is measured in float32")
    model = zoo.create_model(name, **{**computes_in, **options})
    task = TASKS[card.task](model, optimizer("adamw", 1e-3))
    batch, inputs = _random_batch(card, model, batch_size, image_size)
    state = task.init(jax.random.key(0), batch)
    matmul = _matmul_rate(dtype) * layout.num_devices

    def infer(state: Any, items: Any, shared: Any) -> tuple[None, Any]:
        outputs = jax.tree.leaves(model.apply(state.variables, items["inputs"]))
        return None, sum(jnp.sum(leaf, dtype=jnp.float32) for leaf in outputs)

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
    with peers.beside(name, batch, getattr(model, "num_classes", 2), options) if compare else nullcontext() as peer:
        for what, program, donate in (("inference", infer, False), ("train", train, True)):
            items = {"inputs": inputs} if what == "inference" else batch
            flops = count_flops(program, state, items, {})
            step, compile_seconds = _compile(layout, program, layout.place(state), layout.split(items, 0), donate)
            other = None if peer is None else peer.infer if what == "inference" else peer.train
            times = _alternate([step] if other is None else [step, other], seconds)
            median = float(np.median(times[0]))
            results[what] = {
                "step_ms": median * 1e3,
                "step_ms_10": float(np.quantile(times[0], 0.1)) * 1e3,
                "step_ms_90": float(np.quantile(times[0], 0.9)) * 1e3,
                "steps_measured": len(times[0]),
                "examples_per_second": batch_size / median,
                "compile_seconds": compile_seconds,
                "gflops_per_step": flops / 1e9,
                "gflops_per_second": flops / median / 1e9,
                "utilisation": flops / median / matmul,
                "peak_memory_mb": _peak_memory() / 2**20,
            }
            if other is not None:
                ratios = times[0] / times[1]
                results[what] |= {
                    "torch_step_ms": float(np.median(times[1])) * 1e3,
                    "ratio": float(np.median(ratios)),
                    "ratio_10": float(np.quantile(ratios, 0.1)),
                    "ratio_90": float(np.quantile(ratios, 0.9)),
                }
    return results


def _random_batch(
    card: zoo.Card, model: Any, batch_size: int, image_size: int | None
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A batch for the task of a model, and of it what the model takes."""
    rng = np.random.default_rng(0)
    shape = getattr(model, "image_shape", card.input_shape)
    if image_size is not None:
        if len(shape) != 3:
            raise ValueError(f"{card.name!r} takes no images, and so no image_size")
        shape = (image_size, image_size, *shape[2:])
    if card.task == "language_modeling":
        tokens = rng.integers(0, model.vocab_size, (batch_size, shape[0] + 1), np.int32)
        return {"tokens": tokens}, tokens[:, :-1]
    if card.task == "seq2seq":
        tokens = rng.integers(1, model.vocab_size, (batch_size, *shape), np.int32)  # 0 would be padding
        return {"inputs": tokens, "targets": tokens}, tokens
    if card.task == "regression":
        inputs = rng.normal(size=(batch_size, *shape)).astype(np.float32)
        return {"inputs": inputs, "target": rng.normal(size=(batch_size, model.num_outputs)).astype(np.float32)}, inputs
    if card.input_dtype == "int32":
        image = rng.integers(0, model.vocab_size, (batch_size, *shape), np.int32)
    else:
        image = rng.uniform(size=(batch_size, *shape)).astype(np.float32)
    label = rng.integers(0, max(2, getattr(model, "num_classes", 2)), batch_size).astype(np.int32)
    inputs = image
    if card.task == "gan":
        inputs = rng.normal(size=(batch_size, model.latent_size)).astype(np.float32)
    return {"image": image, "label": label}, inputs


def _compile(
    plan: parallel.Plan, program: parallel.Program, state: Any, items: Any, donate: bool
) -> tuple[Callable[[], float], float]:
    """A function that takes a step and tells its seconds, and the seconds that compiling took."""
    compiled = plan.compile(program, donate=donate)
    began = time.perf_counter()
    executable = compiled.lower(state, items, {}).compile()  # type: ignore[attr-defined]
    seconds = time.perf_counter() - began

    def step() -> float:
        nonlocal state
        began = time.perf_counter()
        new, value = executable(state, items, {})
        jax.block_until_ready(value)
        state = new if donate else state
        return time.perf_counter() - began

    return step, seconds


def _alternate(steps: Sequence[Callable[[], float]], seconds: float) -> np.ndarray:
    """Seconds of each turn of each step, `[steps, turns]`, after some turns of warm-up."""
    turns: list[list[float]] = []
    while len(turns) < _WARM_UP + 5 or sum(turn[0] for turn in turns[_WARM_UP:]) < seconds:
        turns.append([step() for step in steps])
    return np.array(turns[_WARM_UP:]).T


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
