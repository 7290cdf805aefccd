"""A folder of weights as hubs have them: where its files are, and what its JSON says. Nothing outside it is read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from zoo.options import check_options
from zoo.tensor_file import listed, printable

WEIGHTS, INDEX, CONFIG, GENERATION, TOKENIZER = (
    "model.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
)

CARD = "README.md"
"""The card of a model, which hubs show, and which states its licence."""

WEIGHT_FILES = (".keras", ".h5", ".safetensors", ".pt", ".pth", ".bin")
"""How the names of files of weights end."""

RUN_FILES = ("recipe.json", "report.json", "history.csv", "vocabulary.json")
"""What a model that was trained here has beside its weights."""


def is_repository(source: str | Path) -> bool:
    """Whether a name is that of a repository on the hub, such as "openai-community/gpt2", and not of a folder here."""
    path = Path(source)
    named = re.fullmatch(r"[\w.-]+/[\w.-]+", path.as_posix()) is not None and path.suffix not in WEIGHT_FILES
    return named and path.parent.name not in ("runs", "..") and not path.exists() and not path.parent.is_dir()


def fetched_folder(source: str | Path) -> Path:
    """The folder itself, or where huggingface_hub keeps what it has fetched."""
    if Path(source).is_dir():
        return Path(source)
    if not isinstance(source, str) or not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        raise FileNotFoundError(f'there is no folder {source}; a repository is named such as "openai-community/gpt2"')
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ImportError(
            f'there is no folder {source}; fetching it from the hub needs huggingface_hub: pip install "flaxzoo[hub]"'
        ) from None
    try:
        wanted = [CONFIG, GENERATION, INDEX, TOKENIZER, "model*.safetensors", CARD, *RUN_FILES]
        return Path(snapshot_download(source, allow_patterns=wanted))
    except Exception as error:  # of the network, of the hub, of its cache
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OSError(f"there is no folder {source}, and the hub did not give it: {printable(reason)}") from error


def file_in(folder: Path, name: str) -> Path:
    """The file of this name in a folder, whether it exists or not.

    It may be a link to another file of the folder. In a cache of huggingface_hub, `models--…/snapshots/REVISION`, files
    are links into `blobs` beside `snapshots`, and these are followed too.

    Raises:
      ValueError: the name or a link leads out of the folder.
    """
    real = folder.resolve()
    target = (real / name).resolve()
    allowed = [real]
    if real.parent.name == "snapshots":
        allowed.append(real.parent.parent / "blobs")
    inside = not PurePosixPath(name).is_absolute() and ".." not in re.split(r"[/\\]", name)
    if not inside or not any(target.is_relative_to(place) for place in allowed):
        raise ValueError(
            f"{folder} names the file {printable(name)}, which lies outside the folder at {printable(target)}; "
            "copy the file into the folder"
        )
    return folder / name


def read_json(file: Path) -> dict[str, Any]:
    """A configuration.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no JSON, or no object.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file.parent} has no {file.name}; is it a folder that transformers has saved?")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON: {printable(error)}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} must hold a JSON object {{…}}, not a {type(content).__name__}")
    return content


def require_types(content: Mapping[str, Any], schema: Callable[..., Any], file: Path) -> dict[str, Any]:
    """Those entries of a configuration that the schema knows; what is null counts as left out.

    Args:
      content: what the file holds, which may be more.
      schema: its parameters are the entries, with their types.
      file: for the error.

    Raises:
      ValueError: an entry is of another type or out of its range; names it, the file and what is expected.
    """
    known = schema.__annotations__
    told = {name: value for name, value in content.items() if name in known and value is not None}
    for name, value in told.items():
        check_options(schema, {name: value}, f"{file}")
    return told


def weight_files(folder: Path) -> list[Path]:
    """The files of weights in a folder, one or the parts that an index lists.

    Raises:
      FileNotFoundError: one is missing.
      ValueError: the index is damaged, or leads out of the folder.
    """
    names = [WEIGHTS]
    index = file_in(folder, INDEX)
    if not file_in(folder, WEIGHTS).is_file() and index.is_file():
        parts = read_json(index).get("weight_map")
        if not isinstance(parts, dict) or not parts or not all(isinstance(part, str) for part in parts.values()):
            raise ValueError(f"weight_map in {index} must hold the file of each tensor, such as {WEIGHTS!r}")
        names = sorted(set(parts.values()))
    files = [file_in(folder, name) for name in names]
    missing = [name for name, file in zip(names, files, strict=True) if not file.is_file()]
    if missing:
        others = listed(sorted(file.name for file in folder.glob("*.bin")), 2)
        advice = f"; it has {others}, which transformers' save_pretrained makes safetensors of"
        raise FileNotFoundError(f"{folder} has no {listed(missing)}{'' if others == '(none)' else advice}")
    return files
