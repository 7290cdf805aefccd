"""What people read: `results.md`, and `results.csv` for programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.accelerator import tables
from tests.accelerator.processes import Process
from tests.accelerator.suite import Outcome

_LOG_LINES = 150
"""Of each process, the last ones."""

_HOW = """\
Both frameworks keep float32 parameters and compute in bfloat16, train with AdamW without dropout, and see the same
random batch again and again, which lies on the device. The zoo's step is `parallel.plan("jit").compile` of a task's
`train_step`, and counts accuracy too. PyTorch's is `torch.compile` under autocast with fused AdamW, scaled dot-product
attention and, for images, channels last. A rate is the median of three blocks of steps. All programs were compiled side
by side, so that the seconds of compiling are longer than alone; they were measured one after another, with nothing
beside them. MFU counts the products and convolutions of forward and backward pass by formula, over the peak rate. Peak
memory is what XLA has planned for the program, and for PyTorch the most that was allocated. Texts are written greedily
with bfloat16 weights, 256 tokens after a prompt of 64.
"""


def flash(processes: Sequence[Process]) -> str:
    """Which programs of ours call cuDNN's attention, forward and backward."""
    lines = []
    for process in processes:
        calls = next((result["calls"] for result in process.results.values() if "calls" in result), None)
        if process.framework != "jax" or process.what not in ("gpt2", "vit"):
            continue
        if calls is None:
            lines.append((process.what, "unknown", "no program was compiled"))
            continue
        found = {name: count for name, count in calls.items() if "fmha" in name}
        backward = any("Backward" in name for name in found)
        forward = any("Backward" not in name for name in found)
        words = {(True, True): "yes", (True, False): "forward only", (False, True): "backward only"}
        names = ", ".join(f"`{name}` × {count}" for name, count in found.items()) or "no such call"
        lines.append((process.what, words.get((forward, backward), "no"), names))
    return tables.markdown(("train step", "cuDNN's flash attention", "calls in the compiled program"), lines)


def logs_of(processes: Sequence[Process]) -> str:
    """The ends of what the processes wrote, and what their programs call."""
    parts = []
    for process in processes:
        lines = process.log.read_text(errors="replace").splitlines() if process.log.exists() else ["not started"]
        calls = [f"case {case + 1} calls {r['calls']}" for case, r in process.results.items() if "calls" in r]
        parts.append("\n".join([f"==== {process.name}", *calls, *lines[-_LOG_LINES:]]))
    return "\n\n".join(parts) + "\n"


def write(
    folder: Path,
    facts: dict[str, str],
    rows: Sequence[dict[str, Any]],
    processes: Sequence[Process],
    outcome: Outcome,
    problems: Sequence[str],
    seconds: float,
) -> None:
    tables.write_csv(folder / "results.csv", rows)
    missing = [
        f"- {r['model']}, {r['framework']}, batch {r['batch']}: {r['status']}" for r in rows if r["status"] != "ok"
    ]
    failed = [f"- {test}" for test in outcome.failed]
    parts = [
        "# The zoo on a GPU, beside PyTorch\n",
        tables.markdown(("machine", ""), facts.items()),
        "## Each at its best batch\n",
        tables.table_of_best(rows),
        "A ratio is our rate over PyTorch's: more than 1 is faster.\n",
        "## All measurements\n",
        tables.table_of_all(rows),
        _HOW,
        "## Not measured\n" if missing else "",
        "\n".join(missing) + "\n" if missing else "",
        "## Flash attention\n",
        flash(processes),
        "## Tests\n",
        f"{outcome}\n",
        "\n".join(failed) + "\n" if failed else "",
        "## Problems\n" if problems else "",
        *(f"```\n{problem}```\n" for problem in problems),
        f"{seconds:.0f} s in all.",
    ]
    (folder / "results.md").write_text("\n".join(part for part in parts if part) + "\n")
