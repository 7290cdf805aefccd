"""CSV files as tables of text, for whoever reads one."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np

ENDINGS = (".csv", ".tsv")
"""Of the files that are read as tables."""

_MISSING = frozenset(("", "?", "na", "n/a", "nan", "null", "none"))

_DECIMAL_COMMA = re.compile(r"^([+-]?\d+),(\d+)$")
"""A number as half of the world writes it, in a table whose cells are separated by something else."""

_SHOWN = 20
"""The most problems that an error lists."""


class TableFile:
    """The cells of a CSV file as text, stripped.

    Attributes:
        path: of the file.
        names: of the columns, from the first line.
        rows: the cells of each line behind it.
        lines: the number of the line that each row ends in.
    """

    def __init__(self, path: str, names: list[str], rows: list[list[str]], lines: list[int]):
        self.path = path
        self.names = names
        self.rows = rows
        self.lines = lines

    @classmethod
    def read(cls, path: str | os.PathLike[str], *, may_be_empty: bool = False) -> TableFile:
        """A file in UTF-8 whose cells are separated by comma, semicolon, tab or bar.

        A cell with a separator, a line break or a quotation mark in it stands between quotation marks, and each mark
        inside is doubled (RFC 4180).

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not UTF-8, its first line names no columns, a line has another number of cells, a
                quotation mark has no other, or it has no rows where it must have some.
        """
        where = os.fspath(path)
        file = Path(path).expanduser()
        if not file.is_file():
            raise FileNotFoundError(f"there is no file {file.absolute()}")
        try:
            text = file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{where} is not UTF-8: {error.reason} at byte {error.start}; convert it") from None
        first = text.partition("\n")[0]
        delimiter = max(",;\t|", key=first.count)
        names, rows, lines, begin = [], [], [], 1
        # Strict, for a mark without another would make one cell of all lines up to the next mark.
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
        limit = csv.field_size_limit(len(text))  # a cell may be a whole book
        try:
            for cells in reader:
                begin = reader.line_num + 1
                cells = [cell.strip() for cell in cells]
                if delimiter != ",":
                    cells = [_DECIMAL_COMMA.sub(r"\1.\2", cell) for cell in cells]
                if not any(cells):
                    continue
                if not names:
                    names = cells
                    continue
                if len(cells) != len(names):
                    raise ValueError(
                        f"{where}: line {reader.line_num} has {len(cells)} cell{'s' * (len(cells) != 1)}, and the "
                        f"first line names {len(names)} columns; a cell with {delimiter!r} in it stands between "
                        "quotation marks"
                    )
                rows.append(cells)
                lines.append(reader.line_num)
        except csv.Error as error:
            raise ValueError(
                f"{where}: the quotation marks of the row that begins in line {begin} do not match (line "
                f"{reader.line_num}: {error}); a mark within a cell is doubled, and the cell stands between marks: "
                '"a ""fine"" film"'
            ) from None
        finally:
            csv.field_size_limit(limit)
        if not names or not (rows or may_be_empty):
            raise ValueError(
                f"{where} has no rows; expected a line with the names of the columns, then a line for each"
            )
        values = [number(name) for name in names]
        if None not in values or any(value is not None and not value.is_integer() for value in values):
            raise ValueError(f"{where}: the first line holds numbers where the names of the columns are expected")
        if len(set(names)) < len(names) or "" in names:
            raise ValueError(f"{where}: each column needs a name of its own; the first line has {', '.join(names)}")
        return cls(where, names, rows, lines)

    def require_columns(self, names: Iterable[str], advice: str = "") -> None:
        """Refuses a table without these columns.

        Raises:
            ValueError: names those that it lacks and those that it has.
        """
        if absent := [name for name in names if name not in self.names]:
            lacking = ", ".join(map(repr, absent))
            raise ValueError(f"{self.path} has no column {lacking}; it has {self.listed}{advice}")

    @property
    def listed(self) -> str:
        """The names of the columns, for an error."""
        return listed_names(self.names)

    def column(self, name: str) -> list[str]:
        """The cells of a column."""
        index = self.names.index(name)
        return [row[index] for row in self.rows]

    def numbers(self, name: str) -> np.ndarray:
        """A column as float32 [row].

        Raises:
            ValueError: if a cell is no finite number; says which.
        """
        values = [number(text) for text in self.column(name)]
        for line, text, value in zip(self.lines, self.column(name), values, strict=True):
            if value is None or not abs(value) <= float(np.finfo(np.float32).max):
                raise ValueError(
                    f"{self.path}: column {name!r} holds {text!r} in line {line}, which is no finite number"
                )
        return np.array(values, np.float32)

    def is_numeric(self, name: str) -> bool:
        """Whether all cells of a column are numbers."""
        return all(number(text) is not None for text in self.column(name))

    def require_one_kind(self, name: str) -> None:
        """Refuses a column of numbers with a few texts among them: as texts, each number would be a feature."""
        texts = [(line, text) for line, text in zip(self.lines, self.column(name), strict=True) if number(text) is None]
        if 0 < 2 * len(texts) < len(self.rows):
            raise ValueError(
                f"{self.path}: column {name!r} holds numbers, but {texts[0][1]!r} in line {texts[0][0]}"
                f"{f' and {len(texts) - 1} texts more' if len(texts) > 1 else ''}; mend it, or say that the column "
                "holds names (data_options.categorical=NAME)"
            )

    def require_values(self, names: Sequence[str], advice: str, missing: Collection[str] = _MISSING) -> None:
        """Refuses columns with missing values, which are those cells that hold one of `missing`, in capitals or not.

        Raises:
            ValueError: says in which columns and lines.
        """
        problems = []
        for name in names:
            cells = zip(self.lines, self.column(name), strict=True)
            if empty := [(line, text) for line, text in cells if text.lower() in missing]:
                line, text = empty[0]
                told = f" ({text!r} stands for a missing one)" if text else ""
                problems.append(f"column {name!r}: {len(empty)} of {len(self.rows)}, the first in line {line}{told}")
        if problems:
            listed = "".join(f"\n  {problem}" for problem in problems[:_SHOWN])
            rest = f"\n  … and {len(problems) - _SHOWN} columns more" if len(problems) > _SHOWN else ""
            raise ValueError(f"{self.path} lacks values; {advice}:{listed}{rest}")


def number(text: str) -> float | None:
    """What a cell says; None where it is no number."""
    try:
        return float(text)
    except ValueError:
        return None


def listed_names(names: Sequence[str]) -> str:
    """Names with commas, of many the first."""
    return ", ".join(names[:_SHOWN]) + (f" … ({len(names)})" if len(names) > _SHOWN else "")
