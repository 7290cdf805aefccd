import gzip
import hashlib

import numpy as np
import pytest

from data.images import mnist


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


@pytest.fixture
def few_mnist(tmp_path, monkeypatch):
    """MNIST and Fashion-MNIST of 30 train and 10 test examples in ZOO_DATA_DIR; gives their arrays."""
    rng = np.random.default_rng(0)
    arrays = {}
    for name in ("mnist", "fashion_mnist"):
        folder = tmp_path / "zoo" / name
        folder.mkdir(parents=True)
        for prefix, size in (("train", 30), ("t10k", 10)):
            arrays[name, prefix] = rng.integers(0, 256, (size, 28, 28)), rng.integers(0, 10, size)
            write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", arrays[name, prefix][0])
            write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", arrays[name, prefix][1])
        origin = getattr(mnist, name.upper())
        hashes = {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in origin.sha256}
        monkeypatch.setattr(mnist, name.upper(), origin._replace(sha256=hashes))
    monkeypatch.setenv("ZOO_DATA_DIR", str(tmp_path / "zoo"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return arrays
