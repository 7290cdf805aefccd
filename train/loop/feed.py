"""From a data set to what a compiled program takes: rows that lie on the device, or batches read ahead on the host."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import data
from train.loop.parallel import Plan

RESIDENT_BYTES = 2**30
"""A split of at most this size is kept on the device as a whole."""


_TOKENS = ("tokens", "inputs", "targets", "text")
"""Fields that hold tokens, where a data set has a vocabulary."""

Augment = Callable[..., Any]
"""(raw batch, key=key) → the batch with its examples changed at random, such as a `partial` of `data.augment.apply`."""

Change = Callable[[dict[str, Any]], dict[str, Any]]
"""What is done to a batch of raw examples, such as augmentation."""


def as_it_is(batch: dict[str, Any]) -> dict[str, Any]:
    """No change."""
    return batch


class Feed(NamedTuple):
    """One split of a data set, ready for a plan.

    Attributes:
      num_examples: rows in the split.
      shared: what every program call is given, whole on each device.
      load: (item, shared, change) → batch; traced inside the program. `change` is applied before preprocessing.
      items: for each global array of row numbers, `[…, batch]`, what `load` makes batches of, split over the devices.
        A row number of -1 is padding: the batch then has a `mask`.
    """

    num_examples: int
    shared: Any
    load: Callable[..., dict[str, Any]]
    items: Callable[[Iterable[np.ndarray]], Iterator[Any]]


def feed(dataset: data.Dataset, split: str, plan: Plan) -> Feed:
    """Resident on the device where the split is in memory and small enough, else read ahead on the host.

    Raises:
      ValueError: the data set has no such split, labels outside its classes, or sample weights that are none.
    """
    source = require_split(dataset, split)
    if not len(source):
        raise ValueError(f"the split {split!r} of data set {dataset.name!r} has no examples")
    if isinstance(source, data.ArraySource) and source.nbytes <= RESIDENT_BYTES:
        where = f"{dataset.name} ({split})"
        require_known_labels(source.arrays, dataset.spec.num_classes, where)
        require_sample_weights(source.arrays, where)
        if dataset.spec.vocabulary:
            for field, array in source.arrays.items():
                if field in _TOKENS and np.issubdtype(array.dtype, np.integer):
                    require_known_tokens(array, len(dataset.spec.vocabulary), f"{field} of {where}")
        return _resident(source, dataset, plan)
    return _host(source, dataset, plan)


def require_split(dataset: data.Dataset, split: str) -> data.Source:
    """A split by name.

    Raises:
      ValueError: there is none of this name.
    """
    if split not in dataset.splits:
        raise ValueError(
            f"data set {dataset.name!r} has no split {split!r}; it has {', '.join(sorted(dataset.splits))}: choose one "
            "with split=… (--split on the command line)"
        )
    return dataset.splits[split]


def require_known_labels(arrays: dict[str, Any], num_classes: int, where: str) -> None:
    """Refuses labels that name no class.

    Raises:
      ValueError: names the first bad label and its row.
    """
    labels = arrays.get("label")
    if labels is None or not num_classes or not np.issubdtype(labels.dtype, np.integer):
        return
    bad = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if bad.size:
        raise ValueError(
            f"{where}: {bad.size} labels are outside 0 … {num_classes - 1}; "
            f"the first is {labels[bad[0]]}, in row {bad[0]}"
        )


def require_sample_weights(arrays: dict[str, Any], where: str) -> None:
    """Refuses a field `sample_weight` that is not one finite number of at least 0 for each example.

    Raises:
      ValueError: names the first bad weight and its row.
    """
    weights = arrays.get("sample_weight")
    if weights is None:
        return
    if weights.ndim != 1:
        raise ValueError(f"{where}: sample_weight is one number for each example, not {list(weights.shape[1:])}")
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if bad.size:
        raise ValueError(
            f"{where}: sample_weight must be finite and at least 0; {bad.size} are not, and the first is "
            f"{weights[bad[0]]:g}, in row {bad[0]}"
        )


def require_known_tokens(tokens: np.ndarray, vocab_size: int, where: str) -> None:
    """Refuses tokens that a model has no embedding for: it would make NaN of them.

    Raises:
      ValueError: names the first bad token and its place.
    """
    bad = np.argwhere((tokens < 0) | (tokens >= vocab_size))
    if len(bad):
        place = tuple(int(index) for index in bad[0])
        raise ValueError(
            f"{where} holds tokens outside 0 … {vocab_size - 1}, the vocabulary of the model; the first is "
            f"{tokens[place]}, at {list(place)}"
        )


def _resident(source: data.ArraySource, dataset: data.Dataset, plan: Plan) -> Feed:
    def load(rows: jax.Array, arrays: dict[str, Any], change: Change = as_it_is) -> dict[str, Any]:
        raw = source.gather(arrays, jnp.maximum(rows, 0))
        return {**dataset.preprocess(change(raw)), "mask": rows >= 0}

    def items(rows: Iterable[np.ndarray]) -> Iterator[Any]:
        return (plan.split(_local(each, plan), each.ndim - 1) for each in rows)

    return Feed(len(source), plan.replicate(source.arrays), load, items)


def _host(source: data.Source, dataset: data.Dataset, plan: Plan) -> Feed:
    # Raw examples go to the device: of images, a byte where a prepared one would have four.
    def load(item: dict[str, Any], shared: Any, change: Change = as_it_is) -> dict[str, Any]:
        raw = {name: array for name, array in item.items() if name != "mask"}
        return {**dataset.preprocess(change(raw)), "mask": item["mask"]}

    def items(rows: Iterable[np.ndarray]) -> Iterator[Any]:
        wanted, ahead = itertools.tee(_local(each, plan) for each in rows)
        batches = data.prefetch(source, (np.maximum(each, 0).reshape(-1) for each in ahead), as_it_is)
        for each, batch in zip(wanted, batches, strict=True):
            require_known_labels(batch, dataset.spec.num_classes, dataset.name)
            require_sample_weights(batch, dataset.name)
            batch = {name: array.reshape(*each.shape, *array.shape[1:]) for name, array in batch.items()}
            yield plan.split({**batch, "mask": each >= 0}, each.ndim - 1)

    return Feed(len(source), {}, load, items)


def _local(rows: np.ndarray, plan: Plan) -> np.ndarray:
    return rows[..., plan.rows(rows.shape[-1])]


def padded_rows(num_examples: int, batch_size: int) -> Sequence[np.ndarray]:
    """Row numbers of one pass in order, in batches of one size: the last is filled up with -1."""
    rows = np.full(-(-num_examples // batch_size) * batch_size, -1, np.int32)
    rows[:num_examples] = np.arange(num_examples, dtype=np.int32)
    return list(rows.reshape(-1, batch_size))
