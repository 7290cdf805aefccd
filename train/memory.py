"""What the machine has, so that what takes more is refused before it begins."""

from __future__ import annotations

import os
from typing import Any

import jax
import numpy as np


def machine_memory() -> int:
    """Bytes of the first device, or of the machine where that is its CPU; a large number where it is not known."""
    known = jax.local_devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if known and "bytes_limit" in known:
        return int(known["bytes_limit"])
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # on Windows
        return 2**50


def require_memory(nbytes: int, what: str) -> None:
    """Refuses what takes more memory than there is.

    Raises:
      ValueError: says both numbers.
    """
    there = machine_memory()
    if nbytes > there:
        raise ValueError(f"{what} takes {nbytes / 2**30:,.1f} GiB, and this machine has {there / 2**30:,.1f} GiB")


def tree_bytes(tree: Any) -> int:
    """Of all arrays of a pytree, which may be shapes alone."""
    return sum(int(np.prod(leaf.shape, dtype=object)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
