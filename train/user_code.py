"""A user's own code: imported by name or by file, and remembered by the runs that use it."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

OURS = ("data", "train", "zoo")


class Code(NamedTuple):
    """Where something that is not the zoo's own is defined.

    Attributes:
      defines: what and its name, such as "model mine".
      module: that defines it.
      file: of the module; empty in a notebook.
      sha256: of the file.
    """

    defines: str
    module: str
    file: str
    sha256: str


def import_code(reference: str) -> ModuleType:
    """Imports a module by name, or a file by its path, once. What it registers is known from then on.

    The working directory, and the folder of a file, are searched for what it imports, behind all that is installed.

    Args:
      reference: such as "my_models", "my_package.models" or "folder/my_models.py".

    Raises:
      FileNotFoundError: there is no such file.
      ImportError: there is no such module, or importing it fails; the message says where.
    """
    is_file = reference.endswith(".py")
    path = Path(reference).expanduser().resolve()
    if is_file and not path.is_file():
        raise FileNotFoundError(f"there is no file {reference}")
    for folder in [str(path.parent)] if is_file else [str(Path.cwd())]:
        if folder not in sys.path:
            sys.path.append(folder)
    try:
        return _import_file(path) if is_file else importlib.import_module(reference)
    except SystemExit as error:
        raise ImportError(f"{reference} ends the program when it is imported; put that under __main__") from error
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name and reference.startswith(error.name):
            raise ImportError(f"there is no module {reference!r}; a file is given with its ending, .py") from None
        frames = [f for f in inspect.getinnerframes(error.__traceback__) if f.filename == str(path)]  # type: ignore[arg-type]
        line = f"line {frames[-1].lineno}: " if frames else ""
        raise ImportError(f"{reference} cannot be imported: {line}{type(error).__name__}: {error}") from error


def _import_file(path: Path) -> ModuleType:
    for module in list(sys.modules.values()):
        if (file := getattr(module, "__file__", None)) and Path(file).resolve() == path:
            return module
    # Another module may have the name of the file, such as `train` or `json`.
    taken = path.stem in sys.modules or path.stem in OURS or path.stem in sys.stdlib_module_names
    name = f"_{path.stem}" if taken else path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # as for any name that ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def source_of(builder: Callable[..., Any], defines: str) -> Code | None:
    """Where a class or function is defined; None where that is the zoo itself."""
    if builder.__module__.partition(".")[0] in OURS:
        return None
    try:
        file = Path(inspect.getfile(builder)).resolve()
        return Code(defines, builder.__module__, str(file), hashlib.sha256(file.read_bytes()).hexdigest())
    except (OSError, TypeError):  # in a notebook or an interpreter
        return Code(defines, builder.__module__, "", "")
