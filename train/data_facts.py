"""What a run remembers of its data, so that it notices when they are others."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import data

_LOOKED_AT = 32
"""Examples of each split that make the fingerprint."""

_SHOWN = 20
"""The most names that an error lists."""

_LOG = logging.getLogger(__name__)


def data_facts(dataset: data.Dataset) -> dict[str, Any]:
    """Fields, classes, vocabulary, sizes of the splits, and a fingerprint of some examples of each; as plain data."""
    digest = hashlib.sha256()
    for split in sorted(dataset.splits):
        source = dataset.splits[split]
        rows = np.unique(np.linspace(0, len(source) - 1, min(_LOOKED_AT, len(source)), dtype=np.int64))
        for field, array in sorted(source[rows].items()):
            digest.update(f"{split} {field} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return {
        "fields": list(dataset.spec.fields),
        "classes": list(dataset.spec.classes),
        "vocabulary": list(dataset.spec.vocabulary),
        "sizes": {split: len(source) for split, source in dataset.splits.items()},
        "fingerprint": digest.hexdigest(),
    }


def require_same_data(folder: str | Path, then: Mapping[str, Any], dataset: data.Dataset, *, exactly: bool) -> None:
    """Refuses data that are not those of a run.

    Args:
      folder: the run.
      then: what `data_facts` said when it was trained.
      dataset: the data as they are now.
      exactly: whether other examples are refused too, as where training goes on; else they are only told of.

    Raises:
      ValueError: classes or vocabulary differ, both lists are shown; or, with `exactly`, the examples differ.
    """
    now = data_facts(dataset)
    for name in ("classes", "vocabulary"):
        before, after = then[name], now[name]
        if before != after:
            raise ValueError(
                f"the {name} of {dataset.name!r} {'have' if name == 'classes' else 'has'} changed since the run in "
                f"{folder} was trained:\n  then: {_listed(before)}\n  now:  {_listed(after)}"
            )
    if then["sizes"] == now["sizes"] and then["fingerprint"] == now["fingerprint"]:
        return
    sizes = [", ".join(f"{split} {size}" for split, size in sorted(each["sizes"].items())) for each in (then, now)]
    changed = f"from {sizes[0]} to {sizes[1]} examples" if sizes[0] != sizes[1] else "some of its examples"
    message = f"the data set {dataset.name!r} has changed since the run in {folder} was trained: {changed}"
    if exactly:
        raise ValueError(f"{message}; train into another folder with --run")
    _LOG.warning(message)


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_SHOWN]) or "none"
    return f"{shown} … ({len(names)})" if len(names) > _SHOWN else shown
