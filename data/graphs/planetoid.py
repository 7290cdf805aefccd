"""Citation networks in the eight files of Planetoid (Yang, Cohen & Salakhutdinov, 2016), with its split.

The files are pickles of Python 2. They are read by an unpickler that knows arrays, sparse matrices and lists, and
refuses everything else: a pickle may otherwise run any program.
"""

import pickle
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data.dataset import Dataset
from data.graphs.graph import RawGraph, graph_dataset
from data.originals import find
from data.places import find_folder
from data.registry import register

URL = "https://raw.githubusercontent.com/kimiyoung/planetoid/af6abf468a772cc055bec88c52e4d6f51b7c37e3/data/"

SHA256 = {
    "ind.cora.allx": "9419ba2f26f5c35243db64aba110e0f35a04851609e0dc5433450676ca6b8543",
    "ind.cora.ally": "2b998f5cc7fedc86e7f97ca2498f47a1ffc1462c29e2d578b23bf3f62b6e7d71",
    "ind.cora.graph": "58f13302f39dde8852dad6fe6d15b89b077b6d7f837626bce671ef80344b383d",
    "ind.cora.test.index": "297ce89af2b51a6a194181c7dbe1796c6a1cf9cd9349a88383b1b1e227867875",
    "ind.cora.tx": "b9afbaa4a400df991f6f02ef677e1e44da55ffc04801fd02f9e673987829226a",
    "ind.cora.ty": "41f5ac76596a1699cc33f53084a2419e92961c42bb75f36fc38e616d348532ad",
    "ind.cora.x": "23cfa55d91c6f624233f5eb7b6e3f141f1bd2b2ae39608a63cf5d084bb27baab",
    "ind.cora.y": "94465c14eb53e04ca262198dcbb2521ee8af60fb3f3d546cd6ca24a511b0e7d1",
}

CLASSES = (
    *("theory", "reinforcement learning", "genetic algorithms", "neural networks", "probabilistic methods"),
    *("case based", "rule learning"),
)


@register("cora")
def cora(
    *,
    examples: Literal["nodes", "links"] = "nodes",
    normalize: bool = True,
    fanouts: Sequence[int] = (),
    draws: int = 100,
    seed: int = 0,
) -> Dataset:
    """2708 papers on machine learning, 5278 citations between them, 1433 words that occur or not, 7 topics.

    140 nodes to train (20 of each class), 500 to validate and 1000 to test, as in all publications on "the public
    split". The files are looked for in the folder "cora" of `ZOO_DATA_DIR`, then in that of TensorFlow Datasets'
    downloads, and last downloaded to there. For the options see `data.graphs.graph_dataset`.
    """
    folder = find("cora", URL, SHA256)
    options: dict[str, Any] = {"normalize": normalize, "fanouts": fanouts, "draws": draws, "seed": seed}
    return graph_dataset("cora", read(folder, "cora", CLASSES), examples=examples, **options)


@register("planetoid")
def planetoid(
    path: str,
    *,
    examples: Literal["nodes", "links"] = "nodes",
    normalize: bool = True,
    fanouts: Sequence[int] = (),
    draws: int = 100,
    seed: int = 0,
) -> Dataset:
    """Any set in the same eight files, `ind.NAME.x` and so on, in one folder: Citeseer, PubMed, NELL.

    The first nodes, as many as `ind.NAME.x` has, are the train split, the 500 behind them the validation split, those
    of `ind.NAME.test.index` the test split. For the options see `data.graphs.graph_dataset`.

    Args:
        path: the folder; looked for in `ZOO_DATA_DIR` too.
    """
    folder = find_folder(path)
    names = sorted(file.name.split(".")[1] for file in folder.glob("ind.*.graph"))
    if len(names) != 1:
        found = ", ".join(names) or "none"
        raise FileNotFoundError(
            f"{folder.absolute()} must hold the files ind.NAME.x … of one graph; names there: {found}"
        )
    options: dict[str, Any] = {"normalize": normalize, "fanouts": fanouts, "draws": draws, "seed": seed}
    return graph_dataset(f"planetoid:{path}", read(folder, names[0]), examples=examples, **options)


def read(folder: Path, name: str, classes: tuple[str, ...] = ()) -> RawGraph:
    """The graph in the eight files of a folder.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file holds something else; says which.
    """

    def load(part: str) -> Any:
        path = folder / f"ind.{name}.{part}"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: a set of Planetoid has the parts x, tx, allx, y, ty, ally, graph"
            )
        if part == "test.index":
            try:
                return np.array(path.read_text().split(), np.int64)
            except ValueError as error:
                raise ValueError(f"{path} must hold the number of a node in each line: {error}") from None
        with path.open("rb") as file:
            try:
                return _Unpickler(file, encoding="latin1").load()
            except Exception as error:  # a damaged pickle may raise anything
                raise ValueError(f"{path} is no pickle of Planetoid, or is cut off: {error}") from None

    x, allx, tx, ally, ty, graph, test = map(load, ("x", "allx", "tx", "ally", "ty", "graph", "test.index"))
    try:
        return _graph(x, allx, tx, ally, ty, graph, test, classes)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the parts of {name!r} in {folder} do not fit together: {error}") from None


def _graph(
    x: Any, allx: Any, tx: Any, ally: Any, ty: Any, graph: Any, test: np.ndarray, classes: tuple[str, ...]
) -> RawGraph:
    if not len(np.unique(test)) == len(test) == tx.shape[0] == len(ty):
        raise ValueError(
            f"test.index names {len(np.unique(test))} nodes in {len(test)} lines, and tx has {tx.shape[0]} rows, ty "
            f"{len(ty)}"
        )
    if not len(test) or not 1 <= x.shape[0] <= allx.shape[0] == len(ally):
        raise ValueError(
            f"{len(test)} nodes to test, x has {x.shape[0]} rows, allx {allx.shape[0]}, ally {len(ally)}; expected at "
            "least one of each, in ally as many as in allx, and in x no more"
        )
    first, last = int(test.min()), int(test.max())
    if allx.shape[0] != first:
        raise ValueError(f"nodes to test begin with {first}, and allx has {allx.shape[0]} rows")
    features = np.zeros((last + 1, allx.shape[1]), np.float32)
    one_hot = np.zeros((last + 1, ally.shape[1]), np.int32)
    features[: allx.shape[0]], one_hot[: len(ally)] = allx.toarray(), ally
    features[test], one_hot[test] = tx.toarray(), ty  # nodes between them that are not listed stay without features
    edges = np.array([(u, v) for u, around in graph.items() for v in around], np.int64).reshape(-1, 2)
    edges = np.unique(edges, axis=0)  # the files list some citations twice
    train = x.shape[0]
    splits = {
        "train": np.arange(train),
        "validation": np.arange(train, min(train + 500, first)),
        "test": np.asarray(test),
    }
    label = np.where(one_hot.any(axis=1), one_hot.argmax(axis=1), -1).astype(np.int32)
    return RawGraph(features, edges, label, classes or tuple(map(str, range(one_hot.shape[1]))), splits)


class _Matrix:
    """What stands in a pickle for a sparse matrix of SciPy in rows."""

    data: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray
    _shape: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        return self._shape

    def toarray(self) -> np.ndarray:
        """As a dense matrix."""
        dense = np.zeros(self._shape, np.float32)
        rows = np.repeat(np.arange(self._shape[0]), np.diff(self.indptr))
        np.add.at(dense, (rows, self.indices), self.data)
        return dense


class _Unpickler(pickle.Unpickler):
    """Knows what the files of Planetoid are made of, and nothing else."""

    def find_class(self, module: str, name: str, /) -> Any:
        if name == "csr_matrix" and module.startswith("scipy.sparse"):
            return _Matrix
        known = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("collections", "defaultdict"): defaultdict,
            ("builtins", "list"): list,
            ("__builtin__", "list"): list,
        }
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return np.ndarray.__reduce__(np.zeros(0))[0]
        if (module, name) not in known:
            raise pickle.UnpicklingError(
                f"refused: this pickle asks for {module}.{name}, which no file of Planetoid does; it may do harm"
            )
        return known[module, name]
