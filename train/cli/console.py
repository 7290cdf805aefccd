"""How the command line prints: JSON, tables, reports."""

from __future__ import annotations

import math
from typing import Any

from train.files import as_json

_SHOWN = 10
"""The most entries of a list that a report shows."""


def printable(text: str, *, lines: bool = False) -> str:
    """The text with control characters escaped, so that names from files do nothing to the terminal.

    With `lines`, the ends of lines stay.
    """
    return "".join(c if c.isprintable() or (lines and c == "\n") else ascii(c)[1:-1] for c in text)


def print_json(value: Any) -> None:
    """As JSON; what it has no word for, as text."""
    print(as_json(value))


def print_table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    """Some columns of the rows, under their names."""

    def cell(value: Any) -> str:
        if isinstance(value, int):
            return f"{value:,}"
        return "×".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

    head = [column.replace("_", " ") for column in columns]
    table = [head] + [[printable(cell(row[c])) for c in columns] for row in rows]
    widths = [max(len(line[i]) for line in table) for i in range(len(columns))]
    for line in table:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def print_report(report: dict[str, Any]) -> None:
    """A fact a line; `classes` as a table."""
    width = max([23, *(len(name) for name, value in report.items() if not isinstance(value, dict))])
    for name, value in report.items():
        if name == "classes" and isinstance(value, dict):
            _print_classes(value)
        elif isinstance(value, float):
            print(f"{name:{width}} {value:.6g}")
        elif isinstance(value, dict):
            print(name)
            deeper = " " * (len(name) - len(name.lstrip()) + 2)
            print_report({deeper + key: inner for key, inner in value.items()})
        else:
            if isinstance(value, list | tuple) and len(value) > _SHOWN:
                value = f"{', '.join(map(str, value[:_SHOWN]))} … ({len(value)})"
            print(f"{name:{width}} {f'{value:,}' if isinstance(value, int) else printable(str(value))}")


def _print_classes(report: dict[str, Any]) -> None:
    columns = {
        "precision": "precision",
        "recall": "recall",
        "f1": "f1-score",
        "roc auc": "roc_auc",
        "avg prec": "average_precision",
    }
    print(f"\n{'class':24}{''.join(f'{head:>10}' for head in columns)}{'examples':>10}")
    for name, row in report.items():
        values = [row.get(column, math.nan) for column in columns.values()]
        cells = "".join("         —" if math.isnan(value) else f"{value:10.3f}" for value in values)
        print(f"{printable(name):24}{cells}{int(row['support']):10d}")
