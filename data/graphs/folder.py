"""A graph of one's own: a folder of two CSV files, or one file of NumPy."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data.dataset import Dataset
from data.graphs.graph import RawGraph, graph_dataset
from data.pipeline import held_out
from data.places import find_file, find_folder
from data.registry import register
from data.table_file import TableFile

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
        path: the folder or the file; looked for in `ZOO_DATA_DIR` too.
        test: this share.
    """
    raw = read_graph(path)
    name = f"graph:{path}"
    if examples == "nodes" and not raw.splits:
        known = np.flatnonzero(raw.label >= 0)
        if not len(known):
            raise ValueError(f"{name} has no labels: give nodes a label, or take examples=links")
        rest, held = held_out(len(known), test, seed, what="test", where=name, labels=raw.label[known])
        raw = raw._replace(splits={"train": known[rest], "test": known[held]})
    options: dict[str, Any] = {"normalize": normalize, "fanouts": fanouts, "draws": draws, "seed": seed}
    return graph_dataset(name, raw, examples=examples, directed=directed, **options)


def read_graph(path: str) -> RawGraph:
    """The graph in a folder or a file, as `graph` describes them.

    Raises:
      FileNotFoundError: there is no such folder or file.
      ValueError: it holds no graph.
    """
    is_arrays = Path(path).suffix.lower() == ".npz"
    return _of_arrays(find_file(path)) if is_arrays else _of_tables(find_folder(path))


def node_names(path: str) -> list[str]:
    """The names of the nodes of a graph in a folder, in the order of their numbers; none for a file of arrays."""
    if Path(path).suffix.lower() == ".npz":
        return []
    return TableFile.read(find_folder(path) / "nodes.csv").column("id")


def _of_tables(folder: Path) -> RawGraph:
    table = TableFile.read(folder / "nodes.csv")
    table.require_columns(["id"])
    ids = table.column("id")
    number = {name: index for index, name in enumerate(ids)}
    if len(number) < len(ids):
        twice = next(name for index, name in enumerate(ids) if number[name] != index)
        raise ValueError(f"{table.path}: the id {twice!r} stands there more than once")
    names = [name for name in table.names if name not in ("id", "label", "split")]
    if not names:
        raise ValueError(f"{table.path}: nodes have no features: add a column, such as one of ones")
    features = np.stack([table.numbers(name) for name in names], axis=1)
    links = TableFile.read(folder / "edges.csv", may_be_empty=True)
    links.require_columns(["source", "target"])
    edges = np.zeros((len(links.rows), 2), np.int64)
    for side, end in enumerate(("source", "target")):
        for row, name in enumerate(links.column(end)):
            if name not in number:
                raise ValueError(f"{links.path}, line {links.lines[row]}: there is no node {name!r} in nodes.csv")
            edges[row, side] = number[name]
    texts = table.column("label") if "label" in table.names else [""] * len(ids)
    classes = tuple(sorted({text for text in texts if text}))
    label = np.array([classes.index(text) if text else -1 for text in texts], np.int32)
    wanted = table.column("split") if "split" in table.names else []
    if wrong := [each for each in wanted if each and each not in _SPLITS]:
        raise ValueError(f"{table.path}: split is train, validation or test, not {wrong[0]!r}")
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
    if arrays["nodes"].ndim != 2 or not arrays["nodes"].size:
        raise ValueError(f"{path}: nodes are [node, feature], at least one; not {list(arrays['nodes'].shape)}")
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
    splits = _filled({split: arrays[split] for split in _SPLITS if split in arrays})
    for split, rows in splits.items():
        if rows.dtype.kind == "b" and rows.shape == label.shape:
            splits[split] = np.flatnonzero(rows)
        elif rows.dtype.kind not in "iu" or rows.ndim != 1 or not 0 <= rows.min() <= rows.max() < len(label):
            raise ValueError(
                f"{path}: {split} holds numbers of nodes, 0 … {len(label) - 1}, or tells of each True or False"
            )
    return _with_labels(RawGraph(arrays["nodes"], edges, label.astype(np.int32), classes, splits), str(path))


def _filled(splits: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {split: rows for split, rows in splits.items() if rows.size}


def _with_labels(raw: RawGraph, where: str) -> RawGraph:
    """Refuses splits of nodes whose label is not known."""
    for split, rows in raw.splits.items():
        if len(raw.label) == len(raw.features) and len(bad := rows[raw.label[rows] < 0]):
            raise ValueError(f"{where}: node {bad[0]} is in the split {split}, and has no label")
    return raw
