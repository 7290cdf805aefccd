"""What was measured, as rows, and the rows as tables."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

COLUMNS = (
    "measurement",
    "model",
    "framework",
    "batch",
    "rate",
    "unit",
    "step_ms",
    "mfu",
    "peak_memory_gib",
    "compile_seconds",
    "loss",
    "status",
    "notes",
)

OURS, THEIRS = "flaxzoo", "PyTorch"

Row = Mapping[str, Any]


def training_row(case: Any, framework: str, result: Row, peak: float | None) -> dict[str, Any]:
    """The row of a train step, of what its process said of it."""
    row = _row("train step", case.model.name, framework, case.batch, result)
    if result["status"] == "ok":
        row["rate"] = case.model.units(case.batch) / result["step"]
        row["unit"] = case.model.unit
        row["mfu"] = case.batch * case.model.flops / result["step"] / peak if peak else None
        row["loss"] = result.get("loss")
        memory = result.get("peak_memory")
        row["peak_memory_gib"] = None if memory is None else memory / 2**30
    return row


def generation_row(case: Any, framework: str, result: Row) -> dict[str, Any]:
    """The row of texts that were written."""
    row = _row("generation", "GPT-2 124M", framework, case.batch, result)
    if result["status"] == "ok":
        row["rate"], row["unit"] = case.batch * case.length / result["step"], "tokens/s"
    return row


def _row(measurement: str, model: str, framework: str, batch: int, result: Row) -> dict[str, Any]:
    row = dict.fromkeys(COLUMNS)
    row |= {"measurement": measurement, "model": model, "framework": framework, "batch": batch}
    row |= {"status": result["status"], "notes": result.get("notes")}
    row["compile_seconds"] = result.get("compile_seconds")
    row["step_ms"] = result["step"] * 1e3 if result["status"] == "ok" else None
    return row


def broken(row: Row) -> bool:
    """Whether something went wrong, other than that time or memory ran out."""
    return row["status"] not in ("ok", "out of memory") and not row["status"].startswith("not ")


def best(rows: Iterable[Row]) -> list[tuple[Row, Row]]:
    """Ours and theirs of each measurement, each at the batch that serves it best, of those that both have tried.

    Running out of memory is a try, running out of time is none.
    """
    groups: dict[tuple[str, str], dict[str, dict[int, Row]]] = {}
    for row in rows:
        if row["status"] in ("ok", "out of memory"):
            frameworks = groups.setdefault((row["measurement"], row["model"]), {OURS: {}, THEIRS: {}})
            frameworks[row["framework"]][row["batch"]] = row
    found = []
    for frameworks in groups.values():
        tried = set(frameworks[OURS]) & set(frameworks[THEIRS])
        done = [[row for batch, row in each.items() if batch in tried and row["rate"]] for each in frameworks.values()]
        if all(done):
            ours, theirs = (max(each, key=lambda row: row["rate"]) for each in done)
            found.append((ours, theirs))
    return found


def equal(rows: Iterable[Row]) -> dict[tuple[str, str, int], float]:
    """Our rate over theirs by measurement, model and batch."""
    rates = {(row["measurement"], row["model"], row["batch"], row["framework"]): row["rate"] for row in rows}
    return {
        key[:3]: rate / rates[(*key[:3], THEIRS)]
        for key, rate in rates.items()
        if key[3] == OURS and rate and rates.get((*key[:3], THEIRS))
    }


def write_csv(path: Path, rows: Iterable[Row]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def markdown(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    rows = [" | ".join(str(cell) for cell in line) for line in (header, ["---"] * len(header), *lines)]
    return "".join(f"| {row} |\n" for row in rows)


def number(value: float | None, form: str = ",.0f") -> str:
    return "" if value is None else format(value, form)


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def table_of_best(rows: Sequence[Row]) -> str:
    """Each framework at its own best batch."""
    ratios = equal(rows)
    lines = []
    for ours, theirs in best(rows):
        same = [
            f"{ratio:.2f} ({batch})"
            for (measurement, model, batch), ratio in ratios.items()
            if (measurement, model) == (ours["measurement"], ours["model"])
        ]
        rates = [f"{number(row['rate'])} {row['unit']} (batch {row['batch']})" for row in (ours, theirs)]
        mfu = [percent(row["mfu"]) for row in (ours, theirs)]
        name = f"{ours['model']}, {ours['measurement']}"
        lines.append((name, *rates, f"{ours['rate'] / theirs['rate']:.2f}", *mfu, ", ".join(same)))
    header = (
        *("", OURS, THEIRS, "ratio", f"MFU of {OURS}", f"MFU of {THEIRS}"),
        "ratio at equal batch (batch)",
    )
    return markdown(header, lines)


def table_of_all(rows: Sequence[Row]) -> str:
    lines = [
        (
            f"{row['model']}, {row['measurement']}",
            row["framework"],
            row["batch"],
            f"{number(row['rate'])} {row['unit']}" if row["rate"] else "",
            number(row["step_ms"], ",.1f"),
            percent(row["mfu"]),
            number(row["peak_memory_gib"], ".1f"),
            number(row["compile_seconds"]),
            row["status"],
            row["notes"] or "",
        )
        for row in rows
    ]
    header = ("", "framework", "batch", "rate", "ms", "MFU", "peak GiB", "compiled in s", "status", "notes")
    return markdown(header, ([str(cell).replace("|", "/") for cell in line] for line in lines))
