"""Any data set of TensorFlow Datasets that can be read without TensorFlow.

Preparing one needs TensorFlow where its builder does; reading one that was prepared as array_record never does.
"""

import difflib
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Batch, Dataset, Field, Spec
from data.image import resize
from data.scaling import to_unit

_NARROW = {"int64": "int32", "uint64": "uint32", "float64": "float32"}  # what jax computes with


def data_dir() -> Path:
    """The folder where TensorFlow Datasets keeps what it has prepared or downloaded."""
    return Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


def names() -> list[str]:
    """Names of the data sets that TensorFlow Datasets defines, or that are prepared in its folder."""
    import tensorflow_datasets as tfds

    prepared = [path.name for path in data_dir().glob("*/") if path.name != "downloads"]
    return [*tfds.list_builders(with_community_datasets=False), *prepared]


def open_prepared(name: str) -> Any | None:
    """The builder of a data set that is prepared in a format for random access; None if it is not."""
    if not (data_dir() / name.partition(":")[0]).is_dir():  # spares the import
        return None
    from tensorflow_datasets.core import file_adapters, read_only_builder, registered

    try:
        builder = read_only_builder.builder_from_files(name, data_dir=data_dir())
    except registered.DatasetNotFoundError:
        return None
    formats = builder.info.available_file_formats() & file_adapters.FileFormat.with_random_access()
    return builder if formats else None


class TfdsSource:
    """Examples that are read and decoded when asked for.

    Args:
        source: what `tfds.data_source` returns for one split.
        dtypes: the fields wanted, and the dtype of each.
        sizes: the fields that are images to be resized, and the (height, width) of each.
    """

    def __init__(self, source: Any, dtypes: dict[str, str], sizes: dict[str, tuple[int, int]] | None = None):
        self._source = source
        self._dtypes = dtypes
        self._sizes = sizes or {}

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, indices: np.ndarray, /) -> Batch:
        examples = self._source.__getitems__(indices.tolist())
        batch = {}
        for name, dtype in self._dtypes.items():
            values = [example[name] for example in examples]
            if name in self._sizes:
                values = [resize(image, self._sizes[name]) for image in values]
            batch[name] = np.array(values, dtype)
        return batch


def build(name: str, *, fields: Sequence[str] | None = None, image_size: tuple[int, int] | None = None) -> Dataset:
    """A data set by its name in TensorFlow Datasets, `name[/config][:version]`, prepared first if it is not.

    uint8 images become float32 in [0, 1]; 64-bit numbers become 32-bit.

    Args:
        name: see `tfds.builder`.
        fields: which features an example has. The default is every number, array and image of a fixed shape; text
            comes as Python objects when asked for by name.
        image_size: (height, width) that images are resized to (bilinear, antialiased) where they are read.
    """
    import tensorflow_datasets as tfds

    builder = open_prepared(name) or _prepare(name)
    features = dict(builder.info.features.items())
    if fields is None:
        fields = [
            key for key, feature in features.items() if isinstance(feature, tfds.features.Image) or _is_fixed(feature)
        ]
    images = [key for key in fields if isinstance(features.get(key), tfds.features.Image)]
    spec: dict[str, Field] = {}
    dtypes: dict[str, str] = {}
    sizes = dict.fromkeys(images, image_size) if image_size else {}
    for key in fields:
        if key not in features:
            nearest = difflib.get_close_matches(key, features) or features
            raise ValueError(f"data set {name!r} has no field {key!r}; it has {', '.join(nearest)}")
        shape = features[key].shape
        if key in sizes:
            shape = (*sizes[key], shape[-1])
        if not isinstance(shape, tuple) or None in shape:
            remedy = "pass image_size=(height, width)" if key in images else "leave it out of fields"
            raise ValueError(
                f"field {key!r} of data set {name!r} has the shape {shape}; a batch needs one shape for all: {remedy}"
            )
        dtype = np.dtype(features[key].np_dtype).name
        dtypes[key] = _NARROW.get(dtype, dtype)
        spec[key] = Field(shape, "float32" if key in images and dtype == "uint8" else dtypes[key])

    def preprocess(batch: Batch) -> Batch:
        return {**batch, **{key: to_unit(batch[key]) for key in images}}

    return Dataset(
        name=name,
        spec=Spec(spec, tuple(getattr(features.get("label"), "names", ()))),
        splits={split: TfdsSource(builder.as_data_source(split), dtypes, sizes) for split in builder.info.splits},
        preprocess=preprocess,
    )


def _is_fixed(feature: Any) -> bool:
    """Whether a feature is one array of numbers of the same shape in all examples."""
    shape, dtype = feature.shape, feature.np_dtype
    return isinstance(shape, tuple) and None not in shape and np.dtype(dtype).kind in "biuf"


def _prepare(name: str) -> Any:
    import tensorflow_datasets as tfds

    elsewhere = (
        f"Prepare it elsewhere, with tfds.builder({name!r}).download_and_prepare(file_format='array_record'), and copy "
        f"what that wrote to {data_dir()}, or let TFDS_DATA_DIR name its folder."
    )
    try:
        builder = tfds.builder(name, data_dir=data_dir())
        for url in list(builder.url_infos or ())[:1]:
            _ask(url)
        builder.download_and_prepare(file_format="array_record")
    except ImportError as error:
        raise ImportError(
            f"preparing data set {name!r} needs a package that is missing: {error}. {elsewhere}"
        ) from error
    except OSError as error:
        raise FileNotFoundError(
            f"data set {name!r} is not in {data_dir()}, and downloading it failed: {error}. {elsewhere}"
        ) from error
    return builder


def _ask(url: str) -> None:
    """Raises OSError if there is no way to the server, which TensorFlow Datasets finds out only after minutes."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError as error:  # an answer: let the download show what it means
        error.close()
