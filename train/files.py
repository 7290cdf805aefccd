"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None


def as_json(value: Any) -> str:
    """JSON by its standard, which has no word for numbers that are not finite: they are null."""

    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: finite(each) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [finite(each) for each in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(finite(value), indent=2, default=str, allow_nan=False)


def read_json(path: str | Path, wanted: Any) -> Any:
    """What is in a file of JSON.

    Args:
      path: of the file.
      wanted: the type that it must have, such as `list[str]`.

    Raises:
      OSError: there is no such file.
      ValueError: it is no JSON, or holds something else.
    """
    from zoo.options import fits, in_words  # the command line starts without them

    try:
        value = json.loads(Path(path).read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not fits(value, wanted):
        raise ValueError(f"{path} must hold {in_words(wanted)}, not {type(value).__name__} of something else")
    return value


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Writes a file in one go: beside its place, and then into it. What was there before stays until then.

    Raises:
      OSError: it cannot be written, as on a full disk; the message names the file.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.tmp")
    try:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OSError(error.errno, f"{path} cannot be written: {os.strerror(error.errno or 0)}") from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """A folder for this process alone. The lock ends with the process, however that ends.

    Raises:
      ValueError: another process has it.
    """
    if fcntl is None:
        yield
        return
    path = folder / ".lock"
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(
                f"another process is training in {folder}; wait for it, or choose another folder"
            ) from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def require_writable_file(file: str | Path) -> None:
    """Refuses a place that no file can be written to, before anything is computed for it. Makes nothing.

    Raises:
      ValueError: it is a folder, or one above it is a file.
      PermissionError: nothing may be written there.
    """
    if Path(file).is_dir():
        raise ValueError(f"{file} is a folder; say which file in it")
    require_writable(Path(file).parent)


def require_writable(folder: str | Path) -> None:
    """Refuses a folder that files cannot be written into, before anything is computed for them. Makes nothing.

    Raises:
      ValueError: it, or a folder above it, is a file.
      PermissionError: nothing may be written there.
    """
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise ValueError(f"{folder} cannot be a folder: {place} is a file")
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} cannot be written: {place} is not open to you")
