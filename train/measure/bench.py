"""Measuring a model: what a step costs in training and in inference."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import zoo
from train.loop import parallel
from train.measure import peers
from train.measure.parts import PARTS, Own, digits, require_parts
from train.measure.peers.work import Work
from train.measure.turns import Measured, alternate, quantiles
from train.memory import require_memory
from train.optim.optimizers import optimizer
from train.tasks import TASKS
from zoo.summary import count_parameters

_PEAK_MATMUL = 2048
"""Side of the square matrix product whose rate is taken for the most that the device can do."""

Others = dict[str, Callable[[str, int], float]]
"""Peers by name: (part, steps) → seconds of a step."""


def bench(
    name: str,
    *,
    batch_size: int = 32,
    dtype: str = "float32",
    plan: str = "jit",
    seconds: float = 5.0,
    compare: Sequence[str] = (),
    parts: Sequence[str] = ("inference", "train"),
    image_size: int | None = None,
    length: int | None = None,
    leave_out: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Measures a registered model on random data, one step of its task a dispatch, AdamW in training.

    Args:
      name: of the model.
      batch_size: examples in a step, over all devices.
      dtype: what the model computes in.
      plan: jit, pmap or fsdp.
      seconds: how long to measure each part, after compiling and a warm-up.
      compare: names in `peers.PEERS`, of which each does the same on a CPU beside it, turn by turn, in a process of its
        own; a script that asks for it keeps its own work under `if __name__ == "__main__"`.
      parts: names in `parts.PARTS`. A step of "generate" is a text of 200 tokens in one row, and one of "epoch" an
        epoch of `fit` on digits.
      image_size: height and width of the images, where they are not those of the model's card.
      length: tokens or steps of an example, where they are not those of the model's card.
      leave_out: whether a peer that is not installed, lacks the model or fails is left out; its error stands under
        "left_out".
      **options: of the model.

    Returns:
      For each part: median `step_ms` with its 10 % and 90 % quantiles over the turns, and `examples_per_second`. For
      "train" and "inference" also `compile_seconds`, `gflops_per_step` (as XLA counts them), `gflops_per_second` and
      `utilisation`, the share of the rate at which the devices multiply large matrices of this dtype (measured here,
      `matmul_gflops_per_second`). `peak_memory_mb` is the most that the device has had allocated so far, on a CPU the
      most that the process has had. For each peer, under `compare`: its `step_ms`, and `ratio`, our time over its, with
      its quantiles over the turns.

    Raises:
      ValueError: the model, an option, the plan or the batch size is wrong, or there is nothing to compare with.
      RuntimeError: a peer fails.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    if not 0 < seconds <= 3600:
        raise ValueError(f"seconds must be positive and at most 3600, not {seconds}")
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"dtype must be float32, bfloat16 or float16, not {dtype!r}")
    peers.require_known(compare)
    if compare and (dtype != "float32" or jax.default_backend() != "cpu"):
        raise ValueError("others are compared with in float32 on a CPU")
    card = zoo.model_card(name)
    if card.task not in TASKS:
        raise ValueError(f"there is no task {card.task!r} to measure {name!r} with")
    layout = parallel.plan(plan)
    layout.rows(batch_size)
    computes_in = {"dtype": dtype} if "dtype" in card.options else {}
    if dtype != "float32" and not computes_in:
        raise ValueError(f"the model {name!r} has no dtype to choose; it is measured in float32")
    model = zoo.create_model(name, **{**computes_in, **options})
    require_parts(parts, card, model)
    shape = _shape(card, model, image_size, length)
    require_memory(4 * batch_size * math.prod(shape), f"a batch of {batch_size} examples of {list(shape)}")
    task = TASKS[card.task](model, optimizer("adamw", 1e-3))
    batch, inputs = _random_batch(card, model, batch_size, shape)
    own = Own(model, task, layout, task.init(jax.random.key(0), batch), batch, inputs)
    matmul = _matmul_rate(dtype) * layout.num_devices
    results: dict[str, Any] = {
        "model": name,
        "parameters": count_parameters(own.state.params),
        "batch_size": batch_size,
        "dtype": dtype,
        "plan": plan,
        "devices": f"{layout.num_devices} × {jax.devices()[0].device_kind}",
        "matmul_gflops_per_second": matmul / 1e9,
    }
    rows = digits()[1] if compare and "epoch" in parts else {}
    work = Work(name, batch, getattr(model, "num_classes", 2), options, parts, rows)
    with ExitStack() as stack:
        others, left_out = _start(compare, work, stack, leave_out)
        for part in (part for part in PARTS if part in parts):
            turn, facts = PARTS[part](own)
            own_turn = partial(_seconds, turn)
            measured = alternate([own_turn, *(partial(other, part) for other in others.values())], seconds)
            results[part] = _summary(measured, facts, others, batch_size, matmul)
    return {**results, "left_out": left_out} if left_out else results


def _seconds(turn: Callable[[int], tuple[float, Any]], count: int) -> float:
    return turn(count)[0]


def _start(compare: Sequence[str], work: Work, stack: ExitStack, leave_out: bool) -> tuple[Others, dict[str, str]]:
    """The peers, each after its first steps, and the errors of those that are left out."""
    others: Others = {}
    left_out = {}
    for peer in compare:
        try:
            other = stack.enter_context(peers.beside(peer, work))
            for part in work.parts:
                other(part, 1)
            others[peer] = other
        except (ValueError, RuntimeError) as error:
            if not leave_out:
                raise
            left_out[peer] = str(error)
    return others, left_out


def _summary(
    measured: Measured, facts: dict[str, float], others: Others, batch_size: int, matmul: float
) -> dict[str, Any]:
    """What is reported of a part."""
    own, *theirs = measured.seconds
    median = float(np.median(own))
    summary: dict[str, Any] = {
        **quantiles(own, "step_ms", 1e3),
        "steps_measured": len(own) * measured.counts[0],
        "turns": len(own),
        "examples_per_second": batch_size / median,
        **facts,
        "peak_memory_mb": _peak_memory() / 2**20,
    }
    if flops := 1e9 * facts.get("gflops_per_step", 0):
        summary |= {"gflops_per_second": flops / median / 1e9, "utilisation": flops / median / matmul}
    if others:
        summary["compare"] = {
            name: {**quantiles(seconds, "step_ms", 1e3), **quantiles(own / seconds, "ratio")}
            for name, seconds in zip(others, theirs, strict=True)
        }
    return summary


def _shape(card: zoo.Card, model: Any, image_size: int | None, length: int | None) -> tuple[int, ...]:
    """The shape of an example."""
    shape = getattr(model, "image_shape", card.input_shape)
    if image_size is not None:
        if len(shape) != 3:
            raise ValueError(f"{card.name!r} takes no images, and so no image_size")
        return (image_size, image_size, *shape[2:])
    if length is not None:
        if not (card.input_dtype == "int32" or len(shape) == 2):
            raise ValueError(f"{card.name!r} takes no sequences, and so no length")
        if length < 1:
            raise ValueError(f"length must be at least 1, not {length}")
        return (length, *shape[1:])
    return tuple(shape)


def _random_batch(
    card: zoo.Card, model: Any, batch_size: int, shape: tuple[int, ...]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A batch for the task of a model, and of it what the model takes."""
    rng = np.random.default_rng(0)
    if card.task in ("node_classification", "graph_classification"):
        raise ValueError(
            f"{card.name!r} is a network on graphs, and bench has none to measure it on; README tells its step times"
        )
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
