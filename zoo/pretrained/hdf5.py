"""The layout of Keras's files in HDF5: which data set belongs to which layer. Links out of a file are refused."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from zoo.tensor_file import printable


class Layer(NamedTuple):
    """A layer of Keras with weights.

    Attributes:
      kind: the name of its class, as files number it.
      name: in keras.applications.
      path: of our module; empty where the layer is no part of our model.
      norm: our batch norm that follows, which takes in the bias that our convolution does not have.
      bgr: whether it sees blue, green and red in this order.
    """

    kind: Literal["conv2d", "depthwise_conv2d", "batch_normalization", "dense", "normalization"]
    name: str
    path: str
    norm: str = ""
    bgr: bool = False


ENTRIES = {
    "batch_normalization": ("scale", "bias", "mean", "var"),
    "normalization": ("mean", "variance", "count"),
}
"""What a layer holds, in the order of the files, by our names; others have a kernel and a bias."""

OUTSIDE = "outside/"
"""Stands before the layers of a model that contains a network of keras.applications."""

_DEEPEST = 8
"""Groups in groups, at most; more are a circle."""


def hdf5_datasets(file: Any, table: Sequence[Layer]) -> dict[str, Any]:
    """The data sets of an open file by "layer/entry", with the names that keras.applications gives the layers.

    A dense layer that alone follows a network without a last layer is taken for its last layer.

    Raises:
      ValueError: the file is not as Keras writes one; names the part.
    """
    if "layers" in file:
        found = dict(_numbered(_member(file, "layers"), table))
    else:
        found = dict(_named(file, {layer.name for layer in table}))
    outside = {name for name, _ in found if name.startswith(OUTSIDE)}
    if len(outside) == 1 and not any(name == "predictions" for name, _ in found):
        (name,) = outside
        ranks = [len(dataset.shape) for (layer, _), dataset in sorted(found.items(), key=str) if layer == name]
        if sorted(ranks) == [1, 2]:
            found = {("predictions" if n == name else n, index): dataset for (n, index), dataset in found.items()}
    entries = {layer.name: ENTRIES.get(layer.kind, ("kernel", "bias")) for layer in table}
    return {
        f"{name}/{entries[name][index] if index < len(entries.get(name, ())) else index}": dataset
        for (name, index), dataset in found.items()
    }


def _numbered(layers: Any, table: Sequence[Layer]) -> Iterator[tuple[tuple[str, int], Any]]:
    """Layers under the name of their class and a number, from the second on."""
    counts: Counter[str] = Counter()
    names = {}
    for layer in table:
        number = counts[layer.kind]
        names[f"{layer.kind}_{number}" if number else layer.kind] = layer.name
        counts[layer.kind] += 1

    def visit(group: Any, depth: int) -> Iterator[tuple[tuple[str, int], Any]]:
        if depth > _DEEPEST:
            raise ValueError(f"the group {printable(group.name)} lies too deep")
        parts = {stored: _member(group, stored) for stored in _group(group)}
        networks = [stored for stored, inside in parts.items() if _kind(inside) == "group" and "layers" in inside]
        for stored, inside in parts.items():
            if stored in networks[:1]:
                yield from visit(_member(inside, "layers"), depth + 1)
            elif stored in networks:
                raise ValueError(
                    f"it contains the networks {', '.join(map(printable, networks))}, where one is expected"
                )
            elif _kind(inside) == "group" and "vars" in inside:
                variables = _group(_member(inside, "vars"))
                for index in variables:
                    if not index.isdecimal():
                        raise ValueError(
                            f"{printable(variables.name)} has {printable(index)}, where numbers are expected"
                        )
                    name = OUTSIDE + stored if networks else names.get(stored, stored)
                    yield (name, int(index)), _dataset(_member(variables, index))

    return visit(layers, 0)


def _named(file: Any, known: set[str]) -> Iterator[tuple[tuple[str, int], Any]]:
    """Layers under their names, which attributes list. Those of a network in a network are named by their weights."""
    group = _member(file, "model_weights") if "model_weights" in file else file
    layers = {name: _texts(_member(group, name), "weight_names") for name in _texts(group, "layer_names")}
    nested = {name for name, weights in layers.items() if {_owner(w) for w in weights} & known and name not in known}
    nested -= {name for name in nested if _plain(name, known) in known}
    taken: Counter[str] = Counter()
    for name, weights in layers.items():
        for weight in weights:
            layer = _plain(_owner(weight) if name in nested else name, known)
            layer = OUTSIDE + layer if nested and name not in nested else layer
            yield (layer, taken[layer]), _dataset(_member(_member(group, name), weight))
            taken[layer] += 1


def _owner(weight: str) -> str:
    """The layer of a weight such as "resnet50/conv1_conv/kernel:0"."""
    return weight.rpartition("/")[0].rpartition("/")[2]


def _plain(name: str, known: set[str]) -> str:
    """The name without the number that Keras adds where a process has made a layer of this name before."""
    plain = re.sub(r"_\d+$", "", name)
    return plain if name not in known and plain in known else name


def _member(group: Any, path: str) -> Any:
    """What lies in a group under a path, in the same file."""
    import h5py

    for part in path.split("/"):
        if _kind(group) != "group" or part not in group:
            raise ValueError(f"{printable(getattr(group, 'name', ''))} has no {printable(part)}")
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise ValueError(f"{printable(part)} in {printable(group.name)} is a link, which may lead out of the file")
        group = group[part]
    return group


def _group(found: Any) -> Any:
    if _kind(found) != "group":
        raise ValueError(f"{printable(found.name)} is an array, where a group is expected")
    return found


def _dataset(found: Any) -> Any:
    if _kind(found) != "dataset" or found.shape is None or found.is_virtual or found.external:
        raise ValueError(f"{printable(found.name)} is no array of this file")
    return found


def _kind(found: Any) -> str:
    return "group" if hasattr(found, "keys") else "dataset" if hasattr(found, "is_virtual") else "other"


def _texts(group: Any, attribute: str) -> list[str]:
    """The names in an attribute, which Keras splits where it is long: layer_names0, layer_names1 …"""
    attributes = [attribute] if attribute in group.attrs else []
    while not attributes or attributes[0] != attribute:
        following = f"{attribute}{len(attributes)}"
        if following not in group.attrs:
            break
        attributes.append(following)
    texts = [text for each in attributes for text in np.ravel(np.asarray(group.attrs[each], dtype=object))]
    if not attributes or not all(isinstance(text, str | bytes) for text in texts):
        raise ValueError(f"{attribute} of {printable(group.name)} must list names")
    return [text.decode() if isinstance(text, bytes) else text for text in texts]
