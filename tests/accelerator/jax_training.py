"""Train steps of the zoo, made as its users make them."""

from __future__ import annotations

import re
import time
from collections import Counter
from typing import Any

import jax

import zoo
from tests.accelerator.cases import Case, batch_of
from tests.accelerator.worker import Prepared
from train import parallel
from train.measure.bench import _matmul_rate
from train.optim.optimizers import optimizer
from train.tasks import TASKS

_trained: dict[str, tuple[Any, Any]] = {}
"""Task and placed state by model; batches of several sizes share them."""


def custom_calls(program: str) -> dict[str, int]:
    """How often a compiled program calls which library."""
    return dict(Counter(re.findall(r'custom_call_target="([^"]+)"', program)))


def prepare(case: Case) -> Prepared:
    model, layout = case.model, parallel.plan("jit")
    batch = batch_of(model, case.batch)
    if model.name not in _trained:
        network = zoo.create_model(model.zoo, dtype="bfloat16", **model.options)
        task = TASKS[zoo.model_card(model.zoo).task](network, optimizer("adamw", 1e-3))
        _trained[model.name] = task, [layout.place(task.init(jax.random.key(0), batch))]
    task, held = _trained[model.name]
    items = layout.split(batch, 0)
    step = layout.compile(lambda state, items, shared: task.train_step(state, items))
    began = time.perf_counter()
    compiled = step.lower(held[0], items, {}).compile()
    seconds = time.perf_counter() - began
    planned = compiled.memory_analysis()
    memory = planned.argument_size_in_bytes + planned.temp_size_in_bytes + planned.output_size_in_bytes
    loss = [float("nan")]

    def run(steps: int) -> float:
        began = time.perf_counter()
        metrics: Any = None
        for _ in range(steps):
            held[0], metrics = compiled(held[0], items, {})
        jax.block_until_ready((held[0], metrics))
        taken = time.perf_counter() - began
        loss[0] = float(metrics["loss"].total / metrics["loss"].weight)
        return taken

    facts = {
        "compile_seconds": seconds,
        "peak_memory": memory - planned.alias_size_in_bytes,
        "calls": custom_calls(compiled.as_text()),
        "device": jax.devices()[0].device_kind,
    }
    return Prepared(run, facts, lambda: {"loss": loss[0], "matmul": _matmul_rate("bfloat16")})
