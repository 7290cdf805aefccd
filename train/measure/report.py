"""What the suite of measurements says: lines, a table, a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Line(NamedTuple):
    """A row of the table: its title, the batch size, and what `bench` measured of its part."""

    title: str
    batch_size: int
    measured: Mapping[str, Any]


def fastest(measured: Mapping[str, Any]) -> tuple[str, Mapping[str, float]] | None:
    """The peer with the shortest median step, and its numbers; None where there is no peer."""
    compared = measured.get("compare", {})
    return min(compared.items(), key=lambda item: item[1]["step_ms"], default=None)


def in_short(measured: Mapping[str, Any]) -> str:
    """A line that tells our time, and the ratio to each peer."""
    ratios = [f"{name} {_ratio(other)}" for name, other in measured.get("compare", {}).items()]
    return f"{milliseconds(measured['step_ms'])} ms; " + ("over " + ", ".join(ratios) if ratios else "no peer")


def _ratio(other: Mapping[str, float]) -> str:
    return f"{other['ratio']:.2f} ({other['ratio_10']:.2f}–{other['ratio_90']:.2f})"


def milliseconds(value: float) -> str:
    """With three digits."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def table(lines: Sequence[Line], results: Mapping[str, Any]) -> str:
    """The results as Markdown: milliseconds, and our time over that of the fastest peer, 10 % and 90 % in brackets."""
    names = results["compare"]
    head = ["model (batch)", "zoo", *names, "ratio to the fastest"]
    rows = [head, ["---"] * len(head)]
    for line in lines:
        compared = line.measured.get("compare", {})
        best = fastest(line.measured)
        times = [milliseconds(compared[name]["step_ms"]) if name in compared else "—" for name in names]
        own = milliseconds(line.measured["step_ms"])
        ratio = "—" if best is None else _ratio(best[1])
        rows.append([f"{line.title} ({line.batch_size})", own, *times, ratio])
    text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{text}\n\n{conditions(results)}\n"


def conditions(results: Mapping[str, Any]) -> str:
    """Under what the times were measured, in a sentence."""
    machine = results["machine"]
    libraries = ", ".join(f"{name} {number}" for name, number in machine["libraries"].items())
    load = "" if results["load"] is None else f", load at the start {results['load']:.2f}"
    return (
        f"Milliseconds, medians of turns, float32, {machine['processor']}, {machine['cores']} cores, "
        f"{machine['system']}, Python {machine['python']}, {libraries}, {results['date']}{load}."
    )


def figure(lines: Sequence[Line], path: Path) -> None:
    """Draws our time over that of the fastest peer for each line that has a peer, as a PNG."""
    from train.measure.pictures import bars

    found = [(line, best) for line in lines if (best := fastest(line.measured)) is not None]
    if not found:
        path.unlink(missing_ok=True)
        return
    bars(
        [f"{line.title} ({line.batch_size})" for line, _ in found],
        [(best[1]["ratio"], best[1]["ratio_10"], best[1]["ratio_90"]) for _, best in found],
        path,
        notes=[best[0] for _, best in found],
        label="time over that of the fastest other library",
    )
