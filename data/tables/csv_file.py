"""Tables in CSV files: a line for each example, a column for each feature, and one column to be told."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from data.dataset import ArraySource, Dataset, Field, Source, Spec, labels_of, take
from data.pipeline import TEST_SEED, held_out
from data.registry import register
from data.table_file import TableFile, listed_names

_MOST_CATEGORIES = 100
"""Of a column of texts: more are names or numbers of something, which tell nothing of the next row."""

_MOST_CLASSES = 20
"""A target of more distinct whole numbers is a number."""


@dataclass(frozen=True)
class TableReader:
    """How lines of a CSV file become the features that a model sees.

    Attributes:
        columns: their names, in the order of the features.
        categories: of each column the texts that it may hold, sorted, one feature for each; none for numbers.
        mean: taken off each feature.
        std: what each feature is divided by afterwards.
        target: the column that is told.
        classes: what the target may be; none for numbers.
        target_mean: taken off the target where that is a number.
        target_std: what the target is divided by afterwards.
    """

    columns: tuple[str, ...]
    categories: tuple[tuple[str, ...], ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    target: str
    classes: tuple[str, ...]
    target_mean: float = 0.0
    target_std: float = 1.0

    @classmethod
    def of(cls, **options: Any) -> TableReader:
        """A reader from options as JSON has them, with lists in the place of tuples."""
        options["categories"] = [tuple(texts) for texts in options["categories"]]
        lists = {name: tuple(value) for name, value in options.items() if isinstance(value, list)}
        return cls(**{**options, **lists})

    @property
    def shape(self) -> tuple[int]:
        """(features,) of one line."""
        return (sum(len(texts) or 1 for texts in self.categories),)

    def read(self, path: str | os.PathLike[str]) -> np.ndarray:
        """The features of each line of a file, float32 [line, feature], before they are scaled.

        The file has the reader's columns, in any order; the target may be missing, and other columns are passed over.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is no table, lacks a column or a value, or holds a text that is not known.
        """
        return self.features(TableFile.read(path))

    def features(self, table: TableFile) -> np.ndarray:
        """See `read`."""
        table.require_columns(self.columns)
        table.require_values(self.columns, "fill them in, or take the lines out")
        parts = []
        for name, texts in zip(self.columns, self.categories, strict=True):
            if not texts:
                parts.append(table.numbers(name)[:, None])
                continue
            number = {text: index for index, text in enumerate(texts)}
            values = table.column(name)
            for line, text in zip(table.lines, values, strict=True):
                if text not in number:
                    raise ValueError(
                        f"{table.path}: column {name!r} holds {text!r} in line {line}, which training did not see; "
                        f"known are {listed_names(texts)}"
                    )
            parts.append(np.eye(len(texts), dtype=np.float32)[[number[text] for text in values]])
        return np.concatenate(parts, axis=1)

    def preprocess(self, batch: Any) -> Any:
        """Raw batch -> batch with scaled features and target; see `Dataset.preprocess`."""
        mean, std = (np.asarray(numbers, np.float32)[None] for numbers in (self.mean, self.std))
        scaled = {"features": (batch["features"] - mean) / std} if "features" in batch else {}
        if "target" in batch:
            scaled["target"] = (batch["target"] - np.float32(self.target_mean)) / np.float32(self.target_std)
        return {**batch, **scaled}

    def unscaled(self, target: Any) -> Any:
        """What a model tells of the target, in the units of the file."""
        return target * np.float32(self.target_std) + np.float32(self.target_mean)


@register("csv")
def table(
    path: str,
    *,
    target: str | None = None,
    kind: Literal["auto", "classification", "regression"] = "auto",
    categorical: str | Sequence[str] = (),
    ignore: str | Sequence[str] = (),
    standardize: bool = True,
    test: float | int = 0.2,
) -> Dataset:
    """The lines of a CSV file, asked for as `csv:FILE`: `features`, and `label` or `target`.

    The first line names the columns. A column of numbers is one feature, a column of texts one for each text (one-hot).
    A fifth of the lines, of each class alike, are the test split.

    Args:
        path: of the file, in UTF-8; cells are separated by comma, semicolon, tab or bar. Where that is not the comma,
            numbers may have decimal commas.
        target: the column to be told; the last one by default.
        kind: "classification" makes the distinct values of the target classes, "regression" takes them as numbers.
            "auto" takes texts for classes, and so up to 20 distinct whole numbers, where each comes twice on average.
        categorical: columns of numbers that are names of something, such as a postal code.
        ignore: columns to leave out.
        standardize: whether features, and a target that is a number, get zero mean and unit variance, by the statistics
            of the train split. Losses are then in units of the target's deviation; `zoo predict` gives the file's.
        test: share or number of lines of the test split; 0 for none.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no table, a column is not there, a value is missing, or a column holds too many texts.
    """
    categorical, ignore = ((each,) if isinstance(each, str) else each for each in (categorical, ignore))
    found = TableFile.read(path)
    told = found.names[-1] if target is None else target
    for name in (told, *categorical, *ignore):
        if name not in found.names:
            several = f"; several columns are written [{name}]" if "," in name else ""
            raise ValueError(f"{path} has no column {name!r}; it has {found.listed}{several}")
    if kind not in ("auto", "classification", "regression"):
        raise ValueError(f'kind must be "auto", "classification" or "regression"; got {kind!r}')
    names = tuple(name for name in found.names if name != told and name not in ignore)
    if not names:
        raise ValueError(f"{path} has no column beside the target {told!r}")
    found.require_values(
        (*names, told), "fill them in, take the lines out, or leave the columns out (data_options.ignore=NAME)"
    )
    for name in names:
        if name not in categorical:
            found.require_one_kind(name)
    categories = tuple(
        () if name not in categorical and found.is_numeric(name) else tuple(sorted(set(found.column(name))))
        for name in names
    )
    for name, texts in zip(names, categories, strict=True):
        if len(texts) > _MOST_CATEGORIES:
            raise ValueError(
                f"{path}: column {name!r} holds {len(texts)} different texts, such as {next(iter(texts))!r}; at most "
                f"{_MOST_CATEGORIES} make features: leave it out (data_options.ignore={name})"
            )
    answer, classes = _answer(found, told, kind)
    width = sum(len(texts) or 1 for texts in categories)
    plain = TableReader(names, categories, (0.0,) * width, (1.0,) * width, told, classes)
    every = ArraySource({"features": plain.features(found), ("label" if classes else "target"): answer})
    splits: dict[str, Source] = {"train": every}
    if test:
        rest, held = held_out(len(every), test, TEST_SEED, what="test", where=path, labels=labels_of(every))
        splits = {"train": take(every, rest), "test": take(every, held)}
    reader = _standardized(plain, splits["train"]) if standardize else plain
    field = {"label": Field((), "int32")} if classes else {"target": Field((1,), "float32")}
    return Dataset(
        name=f"csv:{path}",
        spec=Spec({"features": Field(reader.shape, "float32"), **field}, classes),
        splits=splits,
        preprocess=reader.preprocess,
        reader=reader,
        stratified=True,
    )


def _answer(found: TableFile, target: str, kind: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """The target of each line: int32 [line] and the classes, or float32 [line, 1] and none."""
    texts = found.column(target)
    numeric = found.is_numeric(target)
    distinct = sorted(set(texts), key=float) if numeric else sorted(set(texts))
    whole = numeric and all(float(text).is_integer() for text in distinct)
    few = len(distinct) <= min(_MOST_CLASSES, len(texts) // 2)
    if kind == "regression" or (kind == "auto" and numeric and not (whole and few)):
        return found.numbers(target)[:, None], ()
    if len(distinct) < 2:
        raise ValueError(
            f"{found.path}: the target {target!r} is {distinct[0]!r} in every line; there is nothing to tell"
        )
    if len(distinct) > len(texts) // 2 and len(distinct) > _MOST_CLASSES:
        raise ValueError(
            f"{found.path}: the target {target!r} has {len(distinct)} different values in {len(texts)} lines, too many "
            "to be classes; choose another column (data_options.target=NAME)"
        )
    number = {text: index for index, text in enumerate(distinct)}
    return np.array([number[text] for text in texts], np.int32), tuple(distinct)


def _standardized(reader: TableReader, train: Source) -> TableReader:
    """The reader with mean and deviation of each feature of the train split; one that never changes is only centred."""
    assert isinstance(train, ArraySource)

    def statistics(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        deviation = values.std(axis=0, dtype=np.float64)
        return values.mean(axis=0, dtype=np.float64), np.where(deviation == 0, 1.0, deviation)

    mean, std = statistics(train.arrays["features"])
    reader = replace(reader, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
    if "target" not in train.arrays:
        return reader
    (target_mean,), (target_std,) = statistics(train.arrays["target"])
    return replace(reader, target_mean=float(target_mean), target_std=float(target_std))
