"""MNIST and the sets made in its likeness: 60000 train and 10000 test images of 28x28 in four idx files.

The files are looked for in the folder named after the data set in `ZOO_DATA_DIR`, then where TensorFlow Datasets keeps
what it has prepared or downloaded (`TFDS_DATA_DIR`, else ~/tensorflow_datasets), and last downloaded to there.
"""

import gzip
import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data import tfds
from data.dataset import ArraySource, Batch, Dataset, Field, LazySplits, Spec
from data.images.strokes import StrokeReader
from data.originals import download, verify
from data.registry import register
from data.scaling import flatten, to_unit


class Origin(NamedTuple):
    """Where the four files come from, and what their pixels (of the train split, in [0, 1]) and classes are."""

    url: str
    sha256: dict[str, str]  # as registered in TensorFlow Datasets
    mean: float
    deviation: float
    classes: tuple[str, ...]


MNIST = Origin(
    url="https://storage.googleapis.com/cvdf-datasets/mnist/",
    sha256={
        "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
    mean=0.1307,
    deviation=0.3081,
    classes=tuple("0123456789"),
)

FASHION_MNIST = Origin(
    url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    sha256={
        "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
    mean=0.2860,
    deviation=0.3530,
    classes=(
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
)


@register("mnist")
def mnist(*, pad: int = 0, flat: bool = False, standardize: bool = False) -> Dataset:
    """Handwritten digits (LeCun, Bottou, Bengio & Haffner, 1998), in the original order.

    Args:
        pad: pixels of background added on each side; 2 gives the 32x32 of LeNet-5.
        flat: images as [784] rather than [28, 28, 1], or the padded size.
        standardize: (x - mean) / deviation with the mean and deviation of all pixels of train, 0.1307 and 0.3081.
    """
    return _build("mnist", MNIST, pad, flat, standardize, StrokeReader(28, (20, 20), "mass"))


@register("fashion_mnist")
def fashion_mnist(*, pad: int = 0, flat: bool = False, standardize: bool = False) -> Dataset:
    """Photos of clothes (Xiao, Rasul & Vollgraf, 2017). Options as for `mnist`; mean 0.2860, deviation 0.3530."""
    return _build("fashion_mnist", FASHION_MNIST, pad, flat, standardize)


def _build(
    name: str, origin: Origin, pad: int, flat: bool, standardize: bool, reader: StrokeReader | None = None
) -> Dataset:
    if pad < 0:
        raise ValueError(f"pad must be at least 0; got {pad}")
    side = 28 + 2 * pad

    def preprocess(batch: Batch) -> Batch:
        image = to_unit(batch["image"])
        if pad:
            image = image.__array_namespace__().pad(image, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        if standardize:
            image = (image - origin.mean) / origin.deviation
        return {**batch, "image": flatten(image) if flat else image}

    return Dataset(
        name=name,
        spec=Spec(
            {"image": Field((side * side,) if flat else (side, side, 1), "float32"), "label": Field((), "int32")},
            origin.classes,
        ),
        splits=LazySplits(("train", "test"), lambda: _find(name, origin)),
        preprocess=preprocess,
        image_shape=(28, 28, 1),
        reader=reader,
    )


def _find(name: str, origin: Origin) -> dict[str, ArraySource]:
    root = os.environ.get("ZOO_DATA_DIR")
    if root and (folder := Path(root) / name).is_dir():
        return _read(folder, origin)
    downloads = tfds.data_dir() / "downloads" / name
    if not all((downloads / file).exists() for file in origin.sha256):
        if prepared := _read_prepared(name):
            return prepared
        download(name, origin.url, origin.sha256, downloads)
    return _read(downloads, origin)


def read_idx(path: Path, sha256: str, url: str) -> np.ndarray:
    """The uint8 array in a gzipped idx file, whose header is 0, 0, type, rank and big-endian sizes.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not the file with that hash.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; get it from {url}")
    content = path.read_bytes()
    verify(content, sha256, f"{path} is not the original file; get it anew from {url}")
    content = gzip.decompress(content)
    rank = content[3]
    shape = np.frombuffer(content, ">u4", count=rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _read(folder: Path, origin: Origin) -> dict[str, ArraySource]:
    images, labels, test_images, test_labels = (
        read_idx(folder / file, sha256, origin.url + file) for file, sha256 in origin.sha256.items()
    )
    return {
        "train": ArraySource({"image": images[..., None], "label": labels.astype(np.int32)}),
        "test": ArraySource({"image": test_images[..., None], "label": test_labels.astype(np.int32)}),
    }


def _read_prepared(name: str) -> dict[str, ArraySource] | None:
    if not (builder := tfds.open_prepared(name)):
        return None
    dtypes = {"image": "uint8", "label": "int32"}
    return {
        split: _original_order(split, tfds.TfdsSource(builder.as_data_source(split), dtypes))
        for split in builder.info.splits
    }


def _original_order(split: str, source: tfds.TfdsSource) -> ArraySource:
    # TensorFlow Datasets stores these examples sorted by the md5 of the split's name and the original index.
    def digest(index: int) -> bytes:
        return hashlib.md5(f"{split}{index}".encode(), usedforsecurity=False).digest()

    stored = np.argsort(sorted(range(len(source)), key=digest))
    return ArraySource(source[stored])
