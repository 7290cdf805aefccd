"""The same texts by transformers' `generate`: with a static cache, for which it compiles, or without."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
import transformers

from tests.accelerator.cases import Generation
from tests.accelerator.torch_training import DEVICE, synchronize
from tests.accelerator.worker import Prepared, in_words

_NAMES = {"max_len": "n_positions", "hidden_size": "n_embd", "num_layers": "n_layer", "num_heads": "n_head"}


def prepare(case: Generation) -> Prepared:
    options = {_NAMES.get(name, name): value for name, value in case.options.items()}
    config = transformers.GPT2Config(**options, bos_token_id=0, eos_token_id=0)
    network = transformers.GPT2LMHeadModel(config).to(DEVICE, torch.bfloat16).eval()
    prompt = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (case.batch, case.prompt))).to(DEVICE)

    def runner(cache: str) -> Any:
        settings = {"max_new_tokens": case.length, "min_new_tokens": case.length, "do_sample": False}
        kind = {"cache_implementation": cache} if cache == "static" else {}

        def run(steps: int) -> float:
            began = time.perf_counter()
            for _ in range(steps):
                made = network.generate(
                    prompt, attention_mask=torch.ones_like(prompt), pad_token_id=0, **settings, **kind
                )
                assert made.shape == (case.batch, case.prompt + case.length)
            synchronize()
            return time.perf_counter() - began

        return run

    began = time.perf_counter()
    runners, notes = {"dynamic": runner("dynamic")}, []
    runners["dynamic"](1)
    try:
        runner("static")(1)
        runners["static"] = runner("static")
    except Exception as error:
        notes.append(f"static cache: {in_words(error)}")
    compile_seconds = time.perf_counter() - began
    taken: dict[str, float] = {}

    def run(steps: int) -> float:
        """By the cache that was faster in a first look."""
        if not taken:
            taken.update({cache: one(1) for cache, one in runners.items()})
        return runners[min(taken, key=taken.__getitem__)](steps)

    def after() -> dict[str, Any]:
        looks = ", ".join(f"{cache} cache {seconds:.2f} s" for cache, seconds in taken.items())
        return {"notes": "; ".join([f"first look: {looks}", *notes])}

    return Prepared(run, {"compile_seconds": compile_seconds}, after)
