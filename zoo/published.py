"""Published models: folders that hold the weights as one file of safetensors, beside what is known of them.

    model.safetensors   the variables by path, such as "params/conv1/kernel"
    config.json         the model, its options, its classes: what a checkpoint says beside its arrays
    README.md           the card
    recipe.json, report.json, history.csv, vocabulary.json   of the run that made them, where one did

Such a folder is used as a run folder is. Some ship with the package, each under a name; others are on the hub of
Hugging Face, `USER/NAME`.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from zoo.checksums import checksums, damaged_array
from zoo.hub_folder import CONFIG, WEIGHTS, fetched_folder, file_in, is_repository, read_json
from zoo.tensor_file import read_safetensors

_LOG = logging.getLogger(__name__)

SHIPPED = Path(__file__).with_name("pretrained") / "weights"
"""Where the models are that ship with the package, a folder for each name."""

LIBRARY = "flaxzoo"
"""What `config.json` calls the library: by this a folder is known to be ours."""


def shipped_models() -> list[str]:
    """Names of the trained models that ship with the package: `zoo.load_model` and all commands take them."""
    return sorted(config.parent.name for config in SHIPPED.glob(f"*/{CONFIG}"))


def find(source: str | Path) -> Path:
    """The folder of a run or of a model: one that is here, else that of a shipped model, else one on the hub.

    Args:
      source: a path; a name of `shipped_models()`; or `USER/NAME` on the hub of Hugging Face.

    Returns:
      The folder; where there is none, the path as it is.

    Raises:
      ImportError: a repository on the hub needs huggingface_hub.
      OSError: it cannot be fetched.
    """
    path = Path(source)
    if path.exists():
        return path
    if len(path.parts) == 1 and (SHIPPED / path / CONFIG).is_file():
        if (Path("runs") / path).is_dir():
            _tell_of_namesake(path)
        return SHIPPED / path
    return fetched_folder(path.as_posix()) if is_repository(path) else path


@functools.cache
def _tell_of_namesake(name: Path) -> None:
    _LOG.warning("%s is the model that ships with the zoo; yours is %s", name, Path("runs") / name)


def is_published(folder: Path) -> bool:
    """Whether a folder holds a published model of ours.

    Raises:
      ValueError: its `config.json` is damaged, or leads out of the folder.
    """
    config = _file(folder, CONFIG)
    return config.is_file() and read_json(config).get("library_name") == LIBRARY


def _file(folder: Path, name: str) -> Path:
    # Installers may link the files of a package to wherever they keep them.
    return folder / name if folder.parent == SHIPPED else file_in(folder, name)


def write_published(folder: Path, variables: Mapping[str, Any], meta: Mapping[str, Any], *, half: bool = False) -> None:
    """Writes `model.safetensors` and `config.json`.

    Args:
      folder: is there.
      variables: of the model.
      meta: `model` and `model_options`, and what else a checkpoint says of its model.
      half: keep the numbers of float32 as float16, in half the space; they are float32 again when they are read. Where
        some are of float16 themselves, all stay as they are: the two could not be told apart.

    Raises:
      ValueError: a number is too great for float16.
    """
    arrays = {path: np.asarray(leaf, order="C") for path, leaf in flatten_dict(dict(variables), sep="/").items()}
    half = half and not any(array.dtype == np.float16 for array in arrays.values())
    if half:
        for path, array in arrays.items():
            if array.dtype == np.float32:
                with np.errstate(over="ignore"):
                    arrays[path] = array.astype(np.float16)
                if np.isfinite(array).all() and not np.isfinite(arrays[path]).all():
                    raise ValueError(f"{path} has numbers that are too great for float16; keep float32")
    config = {"library_name": LIBRARY, **meta, "checksums": checksums({"variables": arrays})}
    if half:
        config["stored"] = "float16"
    safetensors.numpy.save_file(arrays, folder / WEIGHTS, metadata={"format": "flax"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_variables(folder: Path, meta: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of a published model, as NumPy arrays.

    Raises:
      ValueError: the file is missing or damaged, or is not what was written.
    """
    file = _file(folder, WEIGHTS)
    if not file.is_file():
        raise ValueError(f"{folder} has no {WEIGHTS}")
    arrays = read_safetensors(file)
    if bad := damaged_array(arrays, meta.get("checksums", {}).get("variables", {})):
        raise ValueError(f"{file} is damaged: {bad} is not what was written")
    if meta.get("stored") == "float16":
        arrays = {p: array.astype(np.float32) if array.dtype == np.float16 else array for p, array in arrays.items()}
    return unflatten_dict(arrays, sep="/")
