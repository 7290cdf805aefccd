"""A graph of one's own: a folder of two CSV files, or one file of NumPy."""

import csv
import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data.dataset import Dataset
from data.graphs.graph import RawGraph, graph_dataset
from data.pipeline import held_out
from data.registry import register

_LOG = logging.getLogger(__name__)

_SPLITS = ("train", "validation", "test")


@register("graph")
def graph(
    path: str,
    *,
    examples: Literal["nodes", "links"] = "nodes",
    directed: bool = False,
    normalize: bool = False,
    test: float = 0.2,
    fanouts: Sequence[int] = (),
    draws: int = 100,
    seed: int = 0,
) -> Dataset:
    """A graph of your own.

    As a folder: `nodes.csv`, with a column `id` of any names, a column for each feature, and, where they are known,
    `label` and `split` (train, validation or test); and `edges.csv`, with the columns `source` and `target`, names of
    nodes. As a file FILE.npz: `nodes` [node, feature], `edges` [edge, 2] or `senders` and `receivers`, `label` [node],
    -1 where it is not known, and numbers of nodes `train`, `validation`, `test`.

    Without a split, a share of the nodes whose label is known is the test split, of each class alike. For the other
    options see `data.graphs.graph_dataset`.

    Args:
        path: the folder or the file.
        test: this share.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        raw = _of_tables(place)
    elif place.is_file():
        raw = _of_arrays(place)
    else:
        raise FileNotFoundError(
            f"there is no graph {place.absolute()}: give a folder with nodes.csv and edges.csv, or a file .npz"
        )
    name = f"graph:{path}"
    if examples == "nodes" and not raw.splits:
        known = np.flatnonzero(raw.label >= 0)
        if not len(known):
            raise ValueError(f"{name} has no labels: give nodes a label, or take examples=links")
        rest, held = held_out(len(known), test, seed, what="test", where=name, labels=raw.label[known])
        raw = raw._replace(splits={"train": known[rest], "test": known[held]})
    options: dict[str, Any] = {"normalize": normalize, "fanouts": fanouts, "draws": draws, "seed": seed}
    return graph_dataset(name, raw, examples=examples, directed=directed, **options)


def _table(path: Path, needed: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path.absolute()} is missing; it has the columns {', '.join(needed)}")
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = [line for line in csv.reader(file) if line]
    if not lines or not set(needed) <= set(lines[0]):
        found = ", ".join(lines[0]) if lines else "none"
        raise ValueError(f"{path}: the first line names columns, {', '.join(needed)} among them; found: {found}")
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(lines[0]):
            raise ValueError(f"{path}, line {number}: {len(line)} values, and there are {len(lines[0])} columns")
    return lines[0], lines[1:]


def _of_tables(folder: Path) -> RawGraph:
    head, lines = _table(folder / "nodes.csv", ["id"])
    columns: dict[str, tuple[str, ...]] = (
        dict(zip(head, zip(*lines, strict=True), strict=True)) if lines else {name: () for name in head}
    )
    ids = columns["id"]
    number = {name: index for index, name in enumerate(ids)}
    if len(number) < len(ids):
        twice = next(name for index, name in enumerate(ids) if number[name] != index)
        raise ValueError(f"{folder / 'nodes.csv'}: the id {twice!r} stands there more than once")
    names = [name for name in head if name not in ("id", "label", "split")]
    features = np.zeros((len(ids), len(names)), np.float32)
    for place, name in enumerate(names):
        for row, text in enumerate(columns[name]):
            try:
                features[row, place] = float(text)
            except ValueError:
                raise ValueError(
                    f"{folder / 'nodes.csv'}: {name} of node {ids[row]!r} is {text!r}, which is no number"
                ) from None
    if not names:
        raise ValueError(f"{folder / 'nodes.csv'}: nodes have no features: add a column, such as one of ones")
    edges_head, edge_lines = _table(folder / "edges.csv", ["source", "target"])
    ends = [edges_head.index("source"), edges_head.index("target")]
    edges = np.zeros((len(edge_lines), 2), np.int64)
    for row, line in enumerate(edge_lines):
        for side, place in enumerate(ends):
            if line[place] not in number:
                raise ValueError(
                    f"{folder / 'edges.csv'}, line {row + 2}: there is no node {line[place]!r} in nodes.csv"
                )
            edges[row, side] = number[line[place]]
    texts = columns.get("label", ("",) * len(ids))
    classes = tuple(sorted({text for text in texts if text}))
    label = np.array([classes.index(text) if text else -1 for text in texts], np.int32)
    wanted = columns.get("split", ())
    if wrong := [each for each in wanted if each and each not in _SPLITS]:
        raise ValueError(f"{folder / 'nodes.csv'}: split is train, validation or test, not {wrong[0]!r}")
    splits = {s: np.array([i for i, each in enumerate(wanted) if each == s], np.int64) for s in _SPLITS}
    return _with_labels(RawGraph(features, edges, label, classes, _filled(splits)), str(folder))


def _of_arrays(path: Path) -> RawGraph:
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no file of arrays, .npz: {error}") from None
    if "nodes" not in arrays or not ("edges" in arrays or {"senders", "receivers"} <= arrays.keys()):
        raise ValueError(
            f"{path} must hold nodes [node, feature] and edges [edge, 2], or senders and receivers; it holds "
            f"{', '.join(arrays) or 'nothing'}"
        )
    if "edges" not in arrays and arrays["senders"].shape != arrays["receivers"].shape:
        raise ValueError(
            f"{path}: each edge has a sender and a receiver; there are {arrays['senders'].shape} and "
            f"{arrays['receivers'].shape}"
        )
    edges = arrays["edges"] if "edges" in arrays else np.stack([arrays["senders"], arrays["receivers"]], axis=-1)
    label = arrays.get("label", np.full(len(arrays["nodes"]), -1))
    if label.dtype.kind not in "iu" or label.ndim != 1 or label.min(initial=0) < -1:
        raise ValueError(
            f"{path}: label is the number of a class for each node, or -1; not {label.dtype} {label.shape}"
        )
    classes = tuple(map(str, range(int(label.max(initial=-1)) + 1)))
    splits = {split: np.asarray(arrays[split]) for split in _SPLITS if split in arrays}
    for split, rows in splits.items():
        if rows.dtype.kind == "b" and rows.shape == label.shape:
            splits[split] = np.flatnonzero(rows)
        elif (
            rows.dtype.kind not in "iu"
            or rows.ndim != 1
            or (len(rows) and not 0 <= rows.min() <= rows.max() < len(label))
        ):
            raise ValueError(
                f"{path}: {split} holds numbers of nodes, 0 … {len(label) - 1}, or tells of each True or False"
            )
    return _with_labels(RawGraph(arrays["nodes"], edges, label.astype(np.int32), classes, _filled(splits)), str(path))


def _filled(splits: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {split: rows for split, rows in splits.items() if len(rows)}


def _with_labels(raw: RawGraph, where: str) -> RawGraph:
    """Refuses splits of nodes whose label is not known."""
    for split, rows in raw.splits.items():
        if len(raw.label) == len(raw.features) and len(bad := rows[raw.label[rows] < 0]):
            raise ValueError(f"{where}: node {bad[0]} is in the split {split}, and has no label")
    return raw
