"""Graphs: Planetoid's files, one's own, neighbourhoods, links, and what is no graph."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

import data
from data.graphs import graph_dataset
from data.graphs.graph import RawGraph
from data.graphs.sampling import TreeSource

FEATURES = np.eye(5, 4, dtype=np.float32) + 1
EDGES = np.array([(0, 1), (1, 2), (2, 3)])
LABEL = np.array([0, 1, 0, 1, -1])
SPLITS = {"train": np.array([0, 1]), "test": np.array([2, 3])}


def made(features=FEATURES, edges=EDGES, label=LABEL, **options):
    return graph_dataset("mine", RawGraph(features, edges, label, ("a", "b"), SPLITS), **options)


@pytest.mark.skipif("ZOO_DATA_DIR" not in os.environ, reason="needs Cora in ZOO_DATA_DIR")
def test_cora_is_the_public_split():
    cora = data.load("cora")
    assert {split: len(source) for split, source in cora.splits.items()} == {
        "train": 140,
        "validation": 500,
        "test": 1000,
    }
    arrays = cora.splits["test"].arrays
    assert len(arrays["senders"]) == 2 * 5278
    np.testing.assert_allclose(arrays["values"].sum(axis=1), 1, rtol=1e-5)
    assert (arrays["values"] > 0).sum() == 49_216
    assert np.bincount(cora.splits["train"].arrays["label"]).tolist() == [20] * 7
    assert sorted(arrays["node"]) == list(range(1708, 2708))
    assert np.bincount(arrays["label"]).tolist() == [130, 91, 144, 319, 149, 103, 64]
    assert "neural networks" in cora.spec.classes


def test_few_features_are_listed_by_row_and_by_column():
    features = np.zeros((len(FEATURES), 9), np.float32)
    features[[0, 0, 1, 3], [8, 2, 2, 0]] = [1, 2, 3, 4]
    for options in ({}, {"fanouts": [2]}):
        dataset = made(features=features, normalize=False, **options)
        columns, values, width, *listed = dataset.preprocess(dataset.splits["train"][np.arange(1)])["nodes"]
        assert width.shape[-1] == 9
        assert columns.shape[-1] == values.shape[-1] == 2
        assert len(listed) == (0 if options else 2)  # neighbourhoods differ from batch to batch
        if listed:
            order, starts = listed
            found = np.zeros_like(features)
            for column in range(9):
                entries = order[starts[column] : starts[column + 1]]
                assert (columns.flat[entries] == column).all()
                found[entries // 2, column] = values.flat[entries]
            np.testing.assert_array_equal(found, features)


def test_where_cora_is_not_it_says_what_to_download(tmp_path, monkeypatch):
    (tmp_path / "cora").mkdir()
    monkeypatch.setenv("ZOO_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"ind\.cora\.allx is missing; get it from https://"):
        data.load("cora")
    (tmp_path / "cora" / "ind.cora.allx").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"ind\.cora\.allx is not the original file"):
        data.load("cora")


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def planetoid(folder, index="4\n", **parts):
    rows = csr(np.eye(6, 3))
    one_hot = np.eye(2, dtype=np.int32)[[0, 1, 0, 1]]
    whole = {"x": rows[:2], "y": one_hot[:2], "allx": rows[:4], "ally": one_hot, "tx": rows[4:5], "ty": one_hot[:1]}
    whole |= {"graph": {0: [1, 1], 1: [0], 4: [0]}, **parts}
    for part, value in whole.items():
        (folder / f"ind.tiny.{part}").write_bytes(pickle.dumps(value, protocol=3))
    (folder / "ind.tiny.test.index").write_text(index)


def csr(rows):
    return pytest.importorskip("scipy.sparse").csr_matrix(np.asarray(rows, np.float32))


ODD_PLANETOIDS = {
    "no edges": (lambda: {"graph": {}}, 0),
    "a loop given twice": (lambda: {"graph": {0: [0, 0]}}, 1),
    "outside": (lambda: {"graph": {0: [9]}}, "edge 0 goes from node 0 to node 9, and the nodes are 0 … 4"),
    "names": (lambda: {"graph": {0: ["a"]}}, "do not fit together: invalid literal"),
    "no number": (lambda: {"allx": csr(np.full((4, 3), np.nan))}, "features of node 0 are no finite numbers"),
    "nothing to test": (lambda: {"index": "", "tx": csr(np.zeros((0, 3))), "ty": []}, "together: 0 nodes to test"),
    "no index": (lambda: {"index": "four\n"}, r"test\.index must hold the number of a node in each line"),
    "tested twice": (lambda: {"index": "4\n4\n"}, "test.index names 1 nodes in 2 lines, and tx has 1 rows, ty 1"),
    "tested and trained": (lambda: {"index": "2\n"}, "nodes to test begin with 2, and allx has 4 rows"),
    "more to train than there are": (lambda: {"x": csr(np.eye(6, 3))}, "x has 6 rows, allx 4, ally 4; expected"),
    "fewer labels": (lambda: {"ally": np.eye(2, dtype=np.int32)}, "allx 4, ally 2; expected"),
    "wider": (lambda: {"tx": csr(np.ones((1, 4)))}, "the parts of 'tiny' in .* do not fit together"),
}


@pytest.mark.parametrize("case", ODD_PLANETOIDS)
def test_odd_sets_in_planetoids_files(tmp_path, case):
    changed, wanted = ODD_PLANETOIDS[case]
    planetoid(tmp_path, **changed())
    if isinstance(wanted, str):
        with pytest.raises(ValueError, match=wanted):
            data.load(f"planetoid:{tmp_path}")
    else:
        assert len(data.load(f"planetoid:{tmp_path}").splits["train"].arrays["senders"]) == wanted


def test_any_set_in_planetoids_files(tmp_path):
    planetoid(tmp_path)
    found = data.load(f"planetoid:{tmp_path}", normalize=False)
    assert {split: source.arrays["node"].tolist() for split, source in found.splits.items()} == {
        "train": [0, 1],
        "validation": [2, 3],
        "test": [4],
    }
    edges = found.splits["train"].arrays
    pairs = {*zip(edges["senders"].tolist(), edges["receivers"].tolist(), strict=True)}
    assert pairs == {(0, 1), (1, 0), (4, 0), (0, 4)}


def test_a_hostile_pickle_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    planetoid(tmp_path, graph=Hostile())
    with pytest.raises(
        ValueError, match=r"ind\.tiny\.graph is no pickle .* refused: this pickle asks for posix\.mkdir"
    ):
        data.load(f"planetoid:{tmp_path}")
    assert not (tmp_path / "harm").exists()
    (tmp_path / "ind.tiny.graph").write_bytes(pickle.dumps({0: [1]})[:-3])
    with pytest.raises(ValueError, match="is no pickle of Planetoid, or is cut off"):
        data.load(f"planetoid:{tmp_path}")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"edges": np.array([(0, 1), (2, 5)])}, r"edge 1 goes from node 2 to node 5, and the nodes are 0 … 4"),
        ({"edges": np.array([(0, -1)])}, "edge 0 goes from node 0 to node -1"),
        ({"edges": np.array([(0.0, 1.0)])}, "edges are numbers of nodes, integers; not float64"),
        ({"edges": np.array([0, 1])}, r"edges are pairs of nodes, \[edge, 2\], not \[2\]"),
        ({"features": np.zeros((0, 4))}, "a graph has at least one node with a feature"),
        ({"features": FEATURES[:4]}, "there are 4 nodes with features, and 5 labels"),
        ({"features": np.full((5, 4), np.nan)}, "features of node 0 are no finite numbers"),
        ({"fanouts": [0]}, "fanouts are numbers of neighbours, at least 1"),
        ({"examples": "edges"}, "examples must be 'nodes' or 'links', not 'edges'"),
        ({"examples": "links"}, "3 links and 7 pairs without one: too few for splits of links"),
    ],
)
def test_what_is_no_graph_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        made(**wrong)


def test_edges_given_twice_count_once(caplog):
    edges = np.array([(0, 1), (0, 1), (1, 0), (2, 2), (2, 2)])
    found = made(edges=edges, directed=True).splits["train"].arrays
    assert {*zip(found["senders"].tolist(), found["receivers"].tolist(), strict=True)} == {(0, 1), (1, 0), (2, 2)}
    assert len(found["senders"]) == 3
    assert "2 edges are given more than once" in caplog.text
    assert len(made(edges=np.zeros((0, 2))).splits["train"].arrays["senders"]) == 0


def test_a_graph_of_tables(tmp_path):
    (tmp_path / "nodes.csv").write_text("id,f,g,label\n" + "".join(f"n{i},{i},1,{'xy'[i % 2]}\n" for i in range(10)))
    (tmp_path / "edges.csv").write_text("source,target\nn0,n1\nn1,n2\n")
    found = data.load(f"graph:{tmp_path}", validation=0.25)
    assert {split: len(source) for split, source in found.splits.items()} == {"train": 6, "validation": 2, "test": 2}
    assert found.spec.classes == ("x", "y")
    batch = found.preprocess(found.splits["train"][np.array([0, 1])])
    assert batch["nodes"][3].tolist() == [3, 1]
    assert batch["senders"].tolist() == [0, 1, 1, 2]
    assert (np.array(["xy"[i % 2] for i in batch["node"]]) == np.array(found.spec.classes)[batch["label"]]).all()
    (tmp_path / "edges.csv").write_text("source,target\nn0,n1\nn1,n99\n")
    with pytest.raises(ValueError, match=r"edges\.csv, line 3: there is no node 'n99' in nodes\.csv"):
        data.load(f"graph:{tmp_path}")
    (tmp_path / "nodes.csv").write_text("id,f\na,1\na,2\n")
    with pytest.raises(ValueError, match="the id 'a' stands there more than once"):
        data.load(f"graph:{tmp_path}")


ODD_ARRAYS = {
    "no edges": ({"edges": np.zeros((0, 2))}, 0),
    "no edges, flat": ({"edges": np.array([])}, 0),
    "a node with a loop, and none beside it": (
        {"nodes": FEATURES[:1], "edges": np.array([(0, 0)]), "label": LABEL[:1], "train": [0], "test": []},
        1,
    ),
    "no nodes": (
        {"nodes": FEATURES[:0], "label": LABEL[:0], "train": [], "test": []},
        r"nodes are .* at least one; not \[0, 4\]",
    ),
    "a number": ({"nodes": np.float32(3)}, r"mine\.npz: nodes are \[node, feature\], at least one; not \[\]"),
    "features of nodes in one row": ({"nodes": FEATURES[0]}, r"nodes are \[node, feature\], at least one; not \[4\]"),
    "no number": ({"nodes": np.full((5, 4), np.nan)}, "features of node 0 are no finite numbers"),
    "outside": ({"edges": np.array([(0, 5)])}, "edge 0 goes from node 0 to node 5, and the nodes are 0 … 4"),
    "fewer labels": ({"label": LABEL[:3]}, "there are 5 nodes with features, and 3 labels"),
    "a node without label": ({"train": [4]}, "node 4 is in the split train, and has no label"),
    "a node in two splits": ({"test": [2, 1]}, "node 1 is in the split train and in test; it belongs to one"),
}


@pytest.mark.parametrize("case", ODD_ARRAYS)
def test_odd_graphs_of_arrays(tmp_path, case):
    changed, wanted = ODD_ARRAYS[case]
    path = tmp_path / "mine.npz"
    np.savez(path, **{"nodes": FEATURES, "edges": EDGES, "label": LABEL, "train": [0, 1], "test": [2], **changed})
    if isinstance(wanted, str):
        with pytest.raises(ValueError, match=wanted):
            data.load(f"graph:{path}")
    else:
        assert len(data.load(f"graph:{path}").splits["train"].arrays["senders"]) == wanted


def test_a_graph_of_arrays(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, nodes=FEATURES, senders=EDGES[:, 0], receivers=EDGES[:, 1], label=LABEL, train=[0, 1], test=[2])
    assert {s: len(source) for s, source in data.load(f"graph:{path}").splits.items()} == {"train": 2, "test": 1}
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="is no file of arrays"):
        data.load(f"graph:{path}")


def test_links_are_split_and_seen_once():
    rng = np.random.default_rng(0)
    pairs = np.unique(np.sort(rng.integers(0, 40, (200, 2)), axis=1), axis=0)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    found = made(features=np.ones((40, 1)), edges=pairs, label=np.full(40, -1), examples="links")
    of = {split: {tuple(p) for p in source.arrays["pair"].tolist()} for split, source in found.splits.items()}
    assert set.union(*of.values()) == {tuple(p) for p in pairs.tolist()}
    assert sum(map(len, of.values())) == len(pairs)
    for source in found.splits.values():
        seen = {*zip(source.arrays["senders"].tolist(), source.arrays["receivers"].tolist(), strict=True)}
        assert seen == of["train"] | {(b, a) for a, b in of["train"]}
    assert not {tuple(p) for p in found.splits["test"].arrays["negative"].tolist()} & set.union(*of.values())
    assert (found.splits["train"].arrays["negative"] == -1).all()


STAR = np.array([(i, 0) for i in range(1, 7)] + [(0, 1), (2, 1)])


def tree(seed=0, draws=50):
    return TreeSource(
        {"nodes": np.arange(8.0)[:, None]}, STAR, np.array([0, 1, 7]), np.array([0, 1, 1]), [3, 2], draws, seed
    )


def test_neighbourhoods_are_drawn_as_they_should():
    source = tree(draws=4000)
    batch = source[np.arange(len(source))]
    assert batch["nodes"].shape == (12_000, 10, 1)
    assert batch["senders"].shape == (12_000, 9)
    of_star, of_few, alone = (batch["nodes"][i::3, 1:4, 0] for i in range(3))
    assert all(len(set(row)) == 3 for row in of_star.tolist())
    share = np.bincount(of_star.astype(int).ravel(), minlength=8) / len(of_star)
    np.testing.assert_allclose(share[1:7], 0.5, atol=0.03)
    assert share[0] == share[7] == 0
    assert {tuple(row[:2]) for row in of_few.tolist()} == {(0, 2)}
    assert not batch["node_mask"][1::3, 3].any()
    assert not batch["node_mask"][2::3, 1:].any()
    assert (batch["senders"][2::3] == 10).all()
    assert not alone.any()


def test_a_neighbourhood_is_a_function_of_seed_and_example():
    rows = np.array([3, 0, 9, 3])
    one, other = tree()[rows], tree()[rows[::-1].copy()]
    for name in one:
        np.testing.assert_array_equal(one[name], other[name][::-1])
        np.testing.assert_array_equal(one[name][0], one[name][3])
    many = np.arange(0, 150, 3)
    assert (tree()[many]["nodes"] != tree(seed=1)[many]["nodes"]).any()
    assert len({tuple(row) for row in tree()[many]["nodes"][..., 0].tolist()}) > 5


def test_motifs_hang_on_trees():
    batch = data.load("motifs", size=20, noise=0).splits["train"].arrays
    for row in range(20):
        there = batch["senders"][row] < 25
        a = np.zeros((25, 25))
        a[batch["senders"][row][there], batch["receivers"][row][there]] = 1
        assert (a == a.T).all()
        count = batch["node_mask"][row].sum()
        assert 10 <= count <= 25
        # A tree has an edge less than nodes; a house has two edges more, one triangle among them, and a ring one.
        house = batch["label"][row] == 0
        assert a.sum() / 2 == count - 1 + (2 if house else 1)
        assert np.trace(a @ a @ a) / 6 == house
        degree = a.sum(axis=1)
        assert (degree[:count] > 0).all()
        assert (degree[count:] == 0).all()
    again = data.load("motifs", size=20, noise=0).splits["train"].arrays
    np.testing.assert_array_equal(batch["senders"], again["senders"])
    noisy = data.load("motifs", size=200).splits["train"].arrays
    edges = (noisy["senders"] < 25).sum(axis=1) / 2 - noisy["node_mask"].sum(axis=1)
    assert {*edges[noisy["label"] == 0]} & {*edges[noisy["label"] == 1]}
