"""Checksums of a checkpoint's arrays: a flipped bit on a disk is noticed when they are read.

They cost little: CRC-32 reads a gigabyte in a fifth of a second. `ZOO_CHECKSUMS=off` in the environment leaves them
out, in writing and in reading.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


def checksums(items: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """The CRC-32 of each array of each item by its path.

    Of arrays that are spread over several processes there is none.
    """
    if os.environ.get("ZOO_CHECKSUMS") == "off":
        return {}
    return {name: _of_arrays(tree) for name, tree in items.items()}


def damaged_array(tree: Any, wanted: Mapping[str, int]) -> str:
    """The path of the first array that is not as its checksum says; "" where all are."""
    if os.environ.get("ZOO_CHECKSUMS") == "off":
        return ""
    found = _of_arrays(tree)
    return next((path for path, crc in wanted.items() if found.get(path, crc) != crc), "")


def of_json(value: Any) -> int:
    """The CRC-32 of plain data, however they are indented and ordered."""
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def _of_arrays(tree: Any) -> dict[str, int]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    known = {jax.tree_util.keystr(path): _bytes(leaf) for path, leaf in leaves}
    return {path: zlib.crc32(content) for path, content in known.items() if content is not None}


def _bytes(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        if not leaf.is_fully_replicated:
            return None
        leaf = leaf.addressable_data(0)
    return np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)
