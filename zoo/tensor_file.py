"""A file of safetensors: its arrays by name, and how such names are shown."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors

SHOWN = 20
"""The most entries that an error lists of each kind."""

_LONGEST = 200
"""The most characters of one name that an error shows."""


def printable(name: object) -> str:
    """A name from a file, on one line: control characters are escaped, and what is too long is cut."""
    text = str(name)
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def listed(names: Iterable[object], shown: int = SHOWN) -> str:
    """Names in a sentence, the first of them and how many more there are."""
    names = list(names)
    more = f" … and {len(names) - shown} more" if len(names) > shown else ""
    return (", ".join(map(printable, names[:shown])) or "(none)") + more


_SAFETENSORS = {
    "BF16": jnp.bfloat16,
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
    "F8_E4M3": jnp.float8_e4m3fn,
    "F8_E5M2": jnp.float8_e5m2,
    "BOOL": np.bool_,
    **{f"{kind}{bits}": np.dtype(f"{kind.lower()}{bits // 8}") for kind in "IU" for bits in (8, 16, 32, 64)},
}


def read_safetensors(file: Path) -> dict[str, np.ndarray]:
    """The tensors of a file by name.

    Raises:
      ValueError: it is no such file, or holds other types than weights have.
    """
    try:  # the library checks the header against the file, but its reader for NumPy knows no bfloat16
        with safetensors.safe_open(file, framework="np"):
            pass
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{file} is no safetensors file: {printable(error)}") from None
    with file.open("rb") as content:
        start = int.from_bytes(content.read(8), "little")
        header: dict[str, Any] = json.loads(content.read(start))
        data = np.fromfile(content, np.uint8)
    header.pop("__metadata__", None)
    unknown = {entry["dtype"] for entry in header.values()} - set(_SAFETENSORS)
    if unknown:
        raise ValueError(f"{file} holds tensors of type {listed(sorted(unknown))}; weights are {listed(_SAFETENSORS)}")
    return {
        key: data[slice(*entry["data_offsets"])].view(_SAFETENSORS[entry["dtype"]]).reshape(entry["shape"])
        for key, entry in header.items()
    }
