# %% [markdown]
# # Graph networks
#
# Networks on things that are connected: section 13.4 of *Deep Learning & Neural Networks: a comprehensive guide*.
# Numbers in parentheses are the guide's equations. We tell the topic of papers by their words and by the papers that
# they cite, with 20 labelled examples of each topic. It takes about half a minute on a CPU.
#
# The data are Cora (Sen et al. 2008), which is fetched if this machine has a network, or found in `ZOO_DATA_DIR`.
# Without it, the notebook makes a graph of the same kind.

# %%
try:
    import zoo
except ImportError:  # from PyPI, or from a wheel beside this notebook
    # %pip install -q --find-links . flaxzoo
    import zoo

# %%
import dataclasses

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

import data
from data.graphs.graph import RawGraph, graph_dataset
from train import loop
from train.optimizers import optimizer
from train.search.populations import Member, fit_population
from train.tasks import node_classification

LARGE = jax.default_backend() != "cpu"  # on an accelerator we try more seeds
plt.style.use("train.measure.pictures")

# %% [markdown]
# ## The data
#
# A graph is an array of nodes `[nodes, features]` and two arrays of node numbers, `senders` and `receivers`: edge *e*
# goes from node `senders[e]` to node `receivers[e]`. An edge without direction is two. Here a node is a paper, its
# features are its words, and an edge is a citation. The network sees the whole graph, but only 140 of the labels.


# %%
def communities(seed=0, groups=7, size=1400, words=200):
    """A graph of the same kind: nodes of a group share some words, and three of four of their edges."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, groups, size).astype(np.int32)
    likes = np.where(rng.random((groups, words)) < 0.1, 0.1, 0.03)  # the words of each group
    features = (rng.random((size, words)) < likes[label]).astype(np.float32)
    first = rng.integers(0, size, 3 * size)
    alike = np.array([rng.choice(np.flatnonzero(label == label[node])) for node in first])
    second = np.where(rng.random(len(first)) < 0.7, alike, rng.integers(0, size, len(first)))
    edges = np.stack([first, second], axis=1)[first != second]
    order = rng.permutation(size)
    train = np.concatenate([order[label[order] == group][:20] for group in range(groups)])
    rest = order[~np.isin(order, train)]
    splits = {"train": train, "validation": rest[:300], "test": rest[300:1000]}
    edges = np.unique(np.sort(edges, axis=1), axis=0)
    return graph_dataset("communities", RawGraph(features, edges, label, tuple("ABCDEFG"), splits))


try:
    papers = data.load("cora")
except FileNotFoundError:
    print("Cora is not here: we take a graph that we make ourselves")
    papers = communities()

batches = {  # each holds the whole graph, and some of its nodes as examples
    split: papers.preprocess(source[np.arange(len(source))]) for split, source in papers.splits.items()
}
senders, receivers = batches["train"]["senders"], batches["train"]["receivers"]
num_nodes = len(jax.tree.leaves(batches["train"]["nodes"])[0])
print(f"{papers.name}: {num_nodes} nodes, {len(senders) // 2} edges, {len(papers.spec.classes)} classes")
print({split: len(batch["node"]) for split, batch in batches.items()}, "examples")

# %% [markdown]
# Here is one paper, those that it is connected with, and those behind them. The colours are topics (grey: a label that
# is in no split). Neighbours tend to have the same one, and that is what a graph network makes use of.

# %%
label = np.full(num_nodes, -1)
for batch in batches.values():
    label[batch["node"]] = batch["label"]
degree = np.bincount(receivers, minlength=num_nodes)
known = np.bincount(receivers, label[senders] >= 0, num_nodes) / np.maximum(degree, 1)
own = np.bincount(receivers, label[senders] == label[receivers], num_nodes) / np.maximum(degree, 1)
fits = (degree >= 8) & (degree <= 12) & (label >= 0) & (known > 0.7)
center = int(np.argmin(np.where(fits, np.abs(own - 0.6), 9)))
around = senders[receivers == center]
behind = {node: [n for n in senders[receivers == node] if n not in around and n != center][:4] for node in around}

place = {center: np.zeros(2)}
for number, node in enumerate(around):
    angle = 2 * np.pi * number / len(around)
    place[node] = np.array([np.cos(angle), np.sin(angle)])
    for index, far in enumerate(behind[node]):
        turn = angle + (index - (len(behind[node]) - 1) / 2) * 0.85 * 2 * np.pi / len(around) / 4
        place.setdefault(far, 2 * np.array([np.cos(turn), np.sin(turn)]))

palette = [*plt.get_cmap("tab10").colors[:7], "C6"]
figure, axes = plt.subplots(figsize=(6.5, 6.5))
for sender, receiver in zip(senders, receivers, strict=True):
    if sender in place and receiver in place:
        axes.plot(*np.stack([place[sender], place[receiver]]).T, color="C6", lw=1, zorder=1)
for node, point in place.items():
    axes.scatter(*point, s=240 if node == center else 90, color=palette[label[node]], edgecolor="C4", lw=0.7, zorder=2)
axes.set(xticks=[], yticks=[], aspect="equal")
axes.spines[:].set_visible(False)
axes.grid(False)
plt.show()

two_known = (label[senders] >= 0) & (label[receivers] >= 0)
alike = (label[senders] == label[receivers])[two_known].mean()
print(f"{alike:.0%} of the edges between labelled nodes connect two of the same class")
assert alike > 0.5

# %% [markdown]
# ## Messages
#
# One layer of a graph network lets each node look at its neighbours: $\mathbf{h}_v^{(k+1)} =
# \sigma(\mathbf{W}^{(k)}\mathbf{h}_v^{(k)} + \sum_{u \in \mathcal{N}(v)} \mathbf{h}_u^{(k)})$ (81). After two layers a
# node knows of its neighbours' neighbours. The sum is a gather along `senders` and a scatter to `receivers`:

# %%
graph = zoo.message_passing.one_graph(jnp.eye(4), np.array([0, 1, 1, 2]), np.array([1, 0, 2, 1]))  # 0 – 1 – 2, and 3
messages = zoo.message_passing.neighbours(graph.nodes, graph, "sum")
print(messages)  # row v: which nodes v hears of
np.testing.assert_array_equal(messages, [[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]])

# %% [markdown]
# A sum is large where a node has many neighbours. Graph convolutions (GCN, Kipf & Welling 2017) divide by the degrees.
# Graph attention (GAT, Veličković et al. 2018) learns how much each neighbour counts, by a softmax as in notebook 08.
#
# We train all three, and as a control the GCN on a graph without edges, which knows the words alone. An edge whose end
# is the number of nodes is none, so taking them away is a change of two arrays.


# %%
def without_edges(batch):
    """The same batch, all of whose edges are none."""
    batch = papers.preprocess(batch)
    return {**batch, **{ends: 0 * batch[ends] + num_nodes for ends in ("senders", "receivers")}}


def optimizer_of(decay):
    """Adam with an L2 penalty on the layers that a wildcard names."""
    return optimizer("adam", 0.01, l2=decay)


words = dataclasses.replace(papers, preprocess=without_edges)
classes = len(papers.spec.classes)
gcn = zoo.create_model("gcn", num_classes=classes)
contestants = {
    "words alone": (gcn, optimizer_of({"conv1": 5e-4}), words),
    "sum of neighbours (81)": (
        zoo.create_model("graph_network", num_classes=classes),
        optimizer_of({"stem": 5e-4}),
        papers,
    ),
    "GCN": (gcn, optimizer_of({"conv1": 5e-4}), papers),
    "GAT": (zoo.create_model("gat", num_classes=classes, num_heads=4), optimizer_of({"*": 5e-4}), papers),
}
seeds = range(10 if LARGE else 2)
accuracies, trained = {}, {}
for name, (model, tx, dataset) in contestants.items():
    task = node_classification(model, tx)
    members = [Member(task, seed) for seed in seeds]  # one compiled program trains them all
    options = {"batch_size": len(batches["train"]["node"]), "epochs": 60, "evaluate_every": 60}
    states = [each.fitted.state for each in fit_population(members, dataset, **options)]
    accuracies[name] = [loop.evaluate(task, dataset, state, batch_size=1000)["accuracy"] for state in states]
    trained[name] = states[0].variables

figure, axes = plt.subplots(figsize=(7.5, 2.8))
means = {name: np.mean(values) for name, values in accuracies.items()}
axes.barh(list(means), list(means.values()), color=["C6", "C5", "C0", "C1"], height=0.6)
for row, (name, mean) in enumerate(means.items()):
    axes.plot(accuracies[name], [row] * len(accuracies[name]), "o", color="C4", ms=4)
    axes.annotate(f"{mean:.1%}", (0.02, row), va="center", color="C4")
axes.invert_yaxis()
axes.set(xlim=(0, 1), xlabel="test accuracy, a dot for each seed")
plt.show()

assert means["GCN"] > means["words alone"] + 0.08
assert means["GCN"] > 0.75 or papers.name != "cora"

# %% [markdown]
# The citations are worth more than a better network for words could be: most of the gain comes with the first look at
# the neighbours.
#
# ## What the network sees
#
# Each point is one of 600 test papers, coloured by its topic. On the left its words, on the right the hidden layer of
# the GCN, both flattened to the plane by t-SNE, which keeps near points near.

# %%
shown, topics = batches["test"]["node"][:600], batches["test"]["label"][:600]
whole = [batches["test"][field] for field in ("nodes", "senders", "receivers")]
_, seen = gcn.apply(trained["GCN"], *whole, mutable=["intermediates"])
hidden = seen["intermediates"]["hidden1"]
nodes = zoo.message_passing.one_graph(*whole).nodes
bags = np.asarray(nodes.dense() if hasattr(nodes, "dense") else nodes)

figure, panels = plt.subplots(1, 2, figsize=(12, 5))
views = {"words": PCA(50, random_state=0).fit_transform(bags[shown]), "hidden layer of the GCN": hidden[shown]}
for axes, (title, points) in zip(panels, views.items(), strict=True):
    flat = TSNE(2, random_state=0, perplexity=30, max_iter=400).fit_transform(np.asarray(points))
    axes.scatter(*flat.T, c=[palette[topic] for topic in topics], s=9)
    axes.set(title=title, xticks=[], yticks=[])
    axes.grid(False)
for topic, name in enumerate(papers.spec.classes):
    panels[1].scatter([], [], color=palette[topic], s=18, label=name)
panels[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# ## Exercise
#
# Give the GCN four and eight layers (`hidden_sizes=[16] * 3` and `[16] * 7`). More layers see more papers: why does it
# get worse? Compare with `appnp` and `gcnii`, which were made for that.
#
# ## Where next
#
# `zoo train gcn_cora` and `zoo train gcnii_cora` are full trainings. `zoo train gin_motifs` tells whole graphs from
# each other, `zoo train links_cora` which edges are missing. A graph of your own is a folder with `nodes.csv` and
# `edges.csv`: `zoo train gcn_cora data=graph:FOLDER`. [Notebook 15](15_neural_odes.ipynb) lets depth become time.
