"""Original files of public data sets, fetched from where they are published and verified by their hashes."""

import hashlib
import os
import urllib.request
import uuid
from collections.abc import Mapping
from pathlib import Path

from data import tfds


def verify(content: bytes, sha256: str, otherwise: str) -> None:
    """Refuses content with another hash.

    Raises:
        ValueError: `otherwise`, and what was found.
    """
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise ValueError(f"{otherwise} (sha256 expected {sha256}, found {found} in {len(content)} bytes)")


def find(name: str, url: str, sha256: Mapping[str, str]) -> Path:
    """The folder with the files of a data set, which are verified.

    That is the folder `name` of `ZOO_DATA_DIR`, else that of TensorFlow Datasets' downloads, to which they are fetched
    where they are not there.

    Raises:
        FileNotFoundError: if a file is missing, or the network does not give it; says what to do.
        ValueError: if one is not what it was.
    """
    root = os.environ.get("ZOO_DATA_DIR")
    folder = Path(root) / name if root else None
    if folder is None or not folder.is_dir():
        folder = tfds.data_dir() / "downloads" / name
        if not all((folder / file).exists() for file in sha256):
            download(name, url, sha256, folder)
    for file, expected in sha256.items():
        path = folder / file
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; get it from {url}{file}")
        verify(path.read_bytes(), expected, f"{path} is not the original file; get it anew from {url}{file}")
    return folder


def download(name: str, url: str, sha256: Mapping[str, str], folder: Path) -> None:
    """Fetches the files of a data set, each whole or not at all.

    Args:
        name: of the data set.
        url: where the files are, ending in "/".
        sha256: their hashes by their names.
        folder: where to put them; made if it is not there.

    Raises:
        FileNotFoundError: if the network does not give them; says where to put them by hand.
        ValueError: if they are not what they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file, expected in sha256.items():
        try:
            with urllib.request.urlopen(url + file, timeout=30) as response:
                content = response.read()
        except OSError as error:
            raise FileNotFoundError(
                f"data set {name!r} is not on this machine, and downloading it failed ({error}). Get "
                f"{', '.join(sha256)} from {url} and put them into a folder {name!r} inside the folder "
                "that the environment variable ZOO_DATA_DIR names."
            ) from error
        verify(content, expected, f"{url + file} is not what it was")
        partial = folder / f"{file}.{uuid.uuid4().hex}"  # another process may be downloading too
        partial.write_bytes(content)
        partial.replace(folder / file)
