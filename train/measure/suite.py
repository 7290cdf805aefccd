"""The models of README's table of speed, each beside the same in other libraries."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from train.files import as_json, read_json, require_writable, write_whole
from train.launch import keep_memory
from train.machine import load, machine
from train.measure import peers, report
from train.measure.processes import beside
from zoo.options import unknown


class Row(NamedTuple):
    """One workload: its title in the table, the model, the part that is measured, and the arguments of `bench`."""

    title: str
    model: str
    part: str
    batch_size: int
    arguments: Mapping[str, Any] = {}


ROWS = {
    "gpt": Row("GPT, step", "char_gpt", "train", 12),
    "char_lstm": Row("char LSTM, step", "char_lstm", "train", 128),
    "char_lstm_text": Row("char LSTM, 200 characters", "char_lstm", "generate", 1),
    "vgg16_inference": Row("VGG-16, inference", "vgg16", "inference", 4),
    "vae": Row("VAE, step", "vae", "train", 128),
    "resnet50_inference": Row("ResNet-50, inference", "resnet50", "inference", 8),
    "cnn": Row("CNN, step", "cnn", "train", 128),
    "resnet18": Row(
        "ResNet-18, 32×32, step", "resnet18", "train", 64, {"stem": "cifar", "num_classes": 10, "image_size": 32}
    ),
    "gan": Row("GAN, step", "gan", "train", 128),
    "text_classifier": Row("text classifier, step", "transformer_classifier", "train", 32),
    "resnet50": Row("ResNet-50, step", "resnet50", "train", 8),
    "efficientnet_b0_inference": Row("EfficientNet-B0, inference", "efficientnet_b0", "inference", 8),
    "mlp_epoch": Row("MLP, epoch of digits", "mlp", "epoch", 32),
    "vit_1": Row("ViT-B/16, inference", "vit_base_patch16_224", "inference", 1),
    "vit_8": Row("ViT-B/16, inference", "vit_base_patch16_224", "inference", 8),
    "gpt2_1x128": Row("GPT-2, 128 tokens", "gpt2", "inference", 1, {"length": 128}),
    "gpt2_1x1024": Row("GPT-2, 1024 tokens", "gpt2", "inference", 1, {"length": 1024}),
    "gpt2_8x128": Row("GPT-2, 128 tokens", "gpt2", "inference", 8, {"length": 128}),
    "bert_1x128": Row("BERT-base, 128 tokens", "bert_base", "inference", 1, {"length": 128}),
    "bert_1x512": Row("BERT-base, 512 tokens", "bert_base", "inference", 1, {"length": 512}),
    "bert_8x128": Row("BERT-base, 128 tokens", "bert_base", "inference", 8, {"length": 128}),
}
"""By name, in the order of the table."""

RESULTS, TABLE, FIGURE = "bench.json", "bench.md", "bench.png"
"""The files that are written."""


def run_suite(
    folder: Path,
    *,
    rows: Sequence[str] = (),
    compare: Sequence[str] = tuple(peers.PEERS),
    seconds: float = 5.0,
    tell: Callable[[str], Any] = lambda line: print(line, file=sys.stderr, flush=True),
) -> dict[str, Any]:
    """Measures rows, each in a process of its own, and writes `bench.json`, `bench.md` and `bench.png`.

    Rows that `bench.json` already holds, of the same machine, libraries, peers and seconds, are not measured again. A
    peer that is not installed or lacks the model is left out, and stands as "—" in the table.

    Args:
      folder: where the files are; it is made where it is not there.
      rows: names in `ROWS`, all of them where there are none.
      compare: names in `peers.PEERS`.
      seconds: how long to measure each row.
      tell: takes a line of progress.

    Returns:
      What is in `bench.json`: `machine`, and in `rows` by name what `bench` gives.

    Raises:
      ValueError: there is no such row or peer, or `bench.json` is of another machine.
    """
    peers.require_known(compare)
    for name in rows:
        if name not in ROWS:
            raise ValueError(unknown("row", name, ROWS))
    require_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    conditions = {"machine": machine(), "compare": list(compare), "seconds": seconds}
    results = {**conditions, "date": date.today().isoformat(), "load": load(), "rows": {}}
    if (folder / RESULTS).exists():
        before = read_json(folder / RESULTS, dict[str, Any])
        if {name: before.get(name) for name in conditions} != conditions:
            raise ValueError(
                f"{folder / RESULTS} was measured on another machine, with other libraries, peers or seconds: "
                "move it away, or give another folder"
            )
        results = before
    chosen = [name for name in ROWS if name in rows or not rows]
    for number, name in enumerate(chosen, start=1):
        where = f"{number}/{len(chosen)} {name}"
        if name in results["rows"]:
            tell(f"{where}: is there already")
            continue
        began = time.perf_counter()
        try:
            with beside(_measurer) as measure:
                measured = measure(ROWS[name], compare, seconds)
        except (ValueError, RuntimeError) as error:
            tell(f"{where}: {error}")
            continue
        results["rows"][name] = measured
        tell(f"{where}: {report.in_short(measured[ROWS[name].part])} ({time.perf_counter() - began:.0f} s)")
        for peer, error in measured.get("left_out", {}).items():
            tell(f"    without {peer}: {error}")
        _write(folder, results)
    _write(folder, results)
    return results


def _write(folder: Path, results: Mapping[str, Any]) -> None:
    lines = [
        report.Line(row.title, row.batch_size, results["rows"][name][row.part])
        for name, row in ROWS.items()
        if name in results["rows"]
    ]
    write_whole(folder / RESULTS, as_json(results))
    write_whole(folder / TABLE, report.table(lines, results))
    report.figure(lines, folder / FIGURE)


def _measurer() -> Callable[..., dict[str, Any]]:
    """What a row's process does."""
    keep_memory()
    from train.measure.bench import bench

    def measure(row: Row, compare: Sequence[str], seconds: float) -> dict[str, Any]:
        return bench(
            row.model,
            batch_size=row.batch_size,
            parts=(row.part,),
            compare=compare,
            seconds=seconds,
            leave_out=True,
            **row.arguments,
        )

    return measure
