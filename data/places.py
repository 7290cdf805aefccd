"""Where the files of data sets are, and the folders that their splits are in."""

import os
from collections.abc import Callable
from pathlib import Path

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val"),
    "test": ("test", "testing"),
}
"""The folders that each split may be in, in capitals or not."""


def find_file(path: str) -> Path:
    """The file at `path`, else within the folder that `ZOO_DATA_DIR` names.

    Raises:
        FileNotFoundError: if it is in neither place.
    """
    return _find(path, Path.is_file, "file")


def find_folder(path: str) -> Path:
    """The folder at `path`, else within the folder that `ZOO_DATA_DIR` names.

    Raises:
        FileNotFoundError: if it is in neither place.
    """
    return _find(path, Path.is_dir, "folder")


def _find(path: str, is_there: Callable[[Path], bool], what: str) -> Path:
    here = Path(path).expanduser()
    root = os.environ.get("ZOO_DATA_DIR")
    there = Path(root) / path if root else here
    for place in (here, there):
        if is_there(place):
            return place
    message = f"there is no {what} {here.absolute()}"
    if here.exists():
        raise FileNotFoundError(f"{message}; it is {'a folder' if here.is_dir() else 'a file'}")
    if not root:
        message += f" (and ZOO_DATA_DIR, where {path} is looked for too, is not set)"
    raise FileNotFoundError(message + (f", nor {there}" if there != here else ""))


def split_folders(root: Path) -> dict[str, Path]:
    """The folders of splits; none where there is none for training.

    Raises:
        ValueError: if a split is in two of them, or only the one for training is missing.
    """
    folders_here = [entry for entry in sorted(root.iterdir()) if entry.is_dir()]
    found = {split: [each for each in folders_here if each.name.lower() in names] for split, names in SPLITS.items()}
    for split, folders in found.items():
        if len(folders) > 1:
            raise ValueError(f"the split {split} is in {' and in '.join(map(str, folders))}; keep one of them")
    splits = {split: folders[0] for split, folders in found.items() if folders}
    if splits and not found["train"]:
        raise ValueError(
            f"{root} has folders for splits ({', '.join(f.name for f in splits.values())}), and none for training; "
            "expected FOLDER/train/CLASS/FILE"
        )
    return splits


def class_folders(root: Path) -> list[Path]:
    """A folder for each class, by name; those that begin with a dot are passed over."""
    return sorted(each for each in root.iterdir() if each.is_dir() and each.name[0] != ".")
