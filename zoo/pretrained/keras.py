"""Variables of our models from files of keras.applications. Reading them needs h5py, and not Keras.

Three kinds of files hold the same arrays: `.weights.h5` of Keras 3 and the one inside `.keras` number the layers of
each class, the older `.h5`, in which the published weights are, has their names.
"""

from __future__ import annotations

import io
import logging
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from zoo.loaded import Loaded
from zoo.pretrained.adapt import TRAINED_CHANNELS, adapt_input_channels, input_kernels
from zoo.pretrained.hdf5 import ENTRIES, OUTSIDE, Layer, hdf5_datasets
from zoo.pretrained.tensors import dense, faults_of, require_same_entries, require_unpacked_size
from zoo.registry import create_model, model_card
from zoo.summary import abstract_variables
from zoo.tensor_file import listed, printable
from zoo.vision.efficientnet import EfficientNet
from zoo.vision.resnet import ResNet
from zoo.vision.vgg import VGG

_LOG = logging.getLogger(__name__)

OPTIONS: dict[str, dict[str, Any]] = {
    "efficientnet_b0": {"epsilon": 1e-3, "same_padding": True},
    "resnet50": {"epsilon": 1.001e-5, "stride_in": "1x1"},
    "vgg16": {},
}
"""The models whose weights can be read, and the options that these weights are for."""


def from_keras(
    name: str,
    path: str | Path,
    *,
    head: Literal["given", "new"] = "given",
    channels: int = TRAINED_CHANNELS,
    **overrides: Any,
) -> Loaded:
    """A model and its variables from a `.keras`, `.weights.h5` or `.h5` file.

        model, variables = from_keras("resnet50", "resnet50.keras")

    Of VGG16, ResNet50 and EfficientNetB0, saved with `save` or `save_weights`. What Keras does to its images first is
    `preprocessing(name, "keras")` here. ResNet50 and VGG16 see blue before green before red there, and red first here.
    The network may be nested in another one; if a single dense layer follows it there, that is the last layer.

    Args:
      name: of a registered model.
      path: of the file.
      head: "given" takes the last layer from the file, which must have as many outputs as the model; "new" leaves it
        out, also where the file has none (`include_top=False`), and the model's own starts at zero.
      channels: of the images. A first convolution for three channels is adapted to others.
      overrides: options of the model. What Keras's weights demand (`OPTIONS`) need not be given, nor `num_classes`,
        which is 0 where the file has no head.

    Raises:
      FileNotFoundError: there is no such file.
      ImportError: h5py is not installed.
      ValueError: the file is of another model, or entries are missing, unexpected or of another shape; all are named.
    """
    if name not in OPTIONS:
        raise ValueError(f"no weights of Keras are known for {name!r}; there are some for {', '.join(OPTIONS)}")
    if head not in ("given", "new"):
        raise ValueError(f'head must be "given" or "new", not {head!r}')
    for option, value in OPTIONS[name].items():
        if overrides.setdefault(option, value) != value:
            raise ValueError(f"Keras's {name} has {option}={value!r}, not {overrides[option]!r}: leave it out")
    model = create_model(name, **overrides)
    table = list(_TABLES[type(model)](model))
    shapes = keras_shapes(path, table)
    if head == "given" and "num_classes" not in overrides:
        outputs = shapes.get("predictions/bias", (0,))
        model = create_model(name, **overrides, num_classes=int(outputs[0]) if outputs else 0)
        if "predictions/bias" not in shapes:
            _LOG.warning("%s has no last layer (predictions): the model gives features", path)
    if head == "new" or not getattr(model, "num_classes", 0):
        table = [layer for layer in table if layer.path != "head"]
    if head == "new":
        shapes = {key: shape for key, shape in shapes.items() if not key.startswith(("predictions/", OUTSIDE))}
    seen = next((shapes[f"{layer.name}/kernel"] for layer in table if f"{layer.name}/kernel" in shapes), ())
    trained = TRAINED_CHANNELS if len(seen) == 4 and seen[2] == TRAINED_CHANNELS else channels
    usual: dict[str, Any] = flatten_dict(abstract_variables(model, _image(name, trained)), sep="/")
    wanted: dict[str, Any] = flatten_dict(abstract_variables(model, _image(name, channels)), sep="/")
    expected = {
        f"{layer.name}/{entry}": _foreign_shape(layer, entry, usual, trained)
        for layer in table
        for entry in _entries(layer, usual)
    }
    bare = isinstance(model, VGG) and "fc1/kernel" not in shapes
    require_same_entries(
        f"{path} does not fit {name!r} with these options (is it for other num_classes or channels? "
        'head="new", --new-head on the command line, leaves its last layer out'
        f"{'; include_top=False has left out fc1 and fc2, which this model needs' if bare else ''})",
        expected,
        {key: jax.ShapeDtypeStruct(shape, jnp.float32) for key, shape in shapes.items()},
    )
    found = read_keras(path, table, expected)
    names: dict[str, str] = {}
    variables = {key: np.zeros(leaf.shape, leaf.dtype) for key, leaf in wanted.items()}
    inputs = input_kernels(wanted, usual)
    for layer in table:
        for entry in _entries(layer, usual):
            key = _variable(layer.path, entry)
            if key in wanted:
                names[key] = f"{layer.name}/{entry}"
                array = found[names[key]]
                if entry == "kernel" and layer.bgr and trained == TRAINED_CHANNELS:
                    array = array[:, :, ::-1]
                if key in inputs:
                    array = adapt_input_channels(array, channels, 2, f"{names[key]} of {path}")
                array = array.transpose(0, 1, 3, 2) if layer.kind == "depthwise_conv2d" else array
                variables[key] = array.reshape(wanted[key].shape).astype(wanted[key].dtype)
    for layer in table:
        if layer.norm:  # normalising x + bias by a mean is normalising x by the mean less the bias
            mean = f"batch_stats/{layer.norm}/mean"
            variables[mean] = (variables[mean] - found[f"{layer.name}/bias"]).astype(wanted[mean].dtype)
    faults = faults_of(path, {key: found[key] for key in names.values()}, {k: variables[k] for k in names}, names)
    return Loaded(
        model,
        unflatten_dict({tuple(key.split("/")): jnp.asarray(array) for key, array in variables.items()}),
        faults=faults,
    )


def _image(name: str, channels: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *model_card(name).input_shape[:2], channels), jnp.float32)


def keras_shapes(path: str | Path, table: Sequence[Layer]) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays of a file by "layer/entry", with the names that keras.applications gives the layers.

    Raises:
      FileNotFoundError: there is no such file.
      ImportError: h5py is not installed.
      ValueError: it is no file of weights of Keras.
    """
    with _datasets(Path(path), table) as datasets:
        return {key: tuple(dataset.shape) for key, dataset in datasets.items()}


def read_keras(path: str | Path, table: Sequence[Layer], keys: Collection[str]) -> dict[str, np.ndarray]:
    """Those arrays of a file, by the names of `keras_shapes`.

    Raises:
      FileNotFoundError, ImportError: as `keras_shapes`.
      ValueError: it is no file of weights of Keras, lacks an array, or claims more than it can hold.
    """
    path = Path(path)
    with _datasets(path, table) as datasets:
        if missing := [key for key in keys if key not in datasets]:
            raise ValueError(f"{path} has no {listed(missing)}")
        require_unpacked_size(path, sum(datasets[key].nbytes for key in keys))
        arrays = {}
        for key in keys:
            try:
                array = np.asarray(datasets[key])
            except (OSError, ValueError, TypeError) as error:
                raise ValueError(f"{path} is damaged at {printable(key)}: {printable(error)}") from None
            bfloat16 = array.dtype.kind == "V" and array.dtype.itemsize == 2  # HDF5 has no word for it
            arrays[key] = dense(key, array.view(jnp.bfloat16) if bfloat16 else array)
        return arrays


@contextmanager
def _datasets(path: Path, table: Sequence[Layer]) -> Iterator[dict[str, Any]]:
    """The arrays of a file, of which nothing is read yet."""
    try:
        import h5py
    except ImportError:
        raise ImportError(f'reading {path} needs h5py: pip install "flaxzoo[keras]"') from None
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; expected .keras, .weights.h5 or .h5")
    try:
        content: Any = path
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                require_unpacked_size(path, archive.getinfo("model.weights.h5").file_size)
                content = io.BytesIO(archive.read("model.weights.h5"))
        file = h5py.File(content, "r")
        datasets = hdf5_datasets(file, table)
    except (OSError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is no file of weights that Keras wrote: {printable(error)}") from None
    with file:
        yield datasets


def normalization(path: str | Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel in [0, 1] that an EfficientNet's file was trained with.

    The published weights keep the deviations in the place of variances, and Keras corrects for it.
    """
    table = list(_TABLES[EfficientNet](create_model("efficientnet_b0")))
    keys = ("normalization/mean", "normalization/variance")
    found = read_keras(path, table, keys)
    mean, variance = (np.ravel(found[key]).astype(np.float32) for key in keys)
    deviation = variance if np.allclose(variance, (0.229, 0.224, 0.225)) else np.sqrt(variance)
    return tuple(map(float, mean)), tuple(map(float, deviation))


def _variable(path: str, entry: str) -> str:
    return f"{'batch_stats' if entry in ('mean', 'var') else 'params'}/{path}/{entry}"


def _entries(layer: Layer, wanted: Mapping[str, Any]) -> list[str]:
    entries = ENTRIES.get(layer.kind, ("kernel", "bias"))
    return [
        entry
        for entry in entries
        if not layer.path or _variable(layer.path, entry) in wanted or (entry == "bias" and layer.norm)
    ]


def _foreign_shape(layer: Layer, entry: str, wanted: Mapping[str, Any], channels: int) -> tuple[int, ...]:
    if not layer.path:
        return () if entry == "count" else (channels,)
    if entry == "bias" and layer.norm:
        return wanted[f"params/{layer.norm}/bias"].shape
    shape = wanted[_variable(layer.path, entry)].shape
    if entry == "kernel" and layer.kind == "depthwise_conv2d":
        return (*shape[:2], shape[3], shape[2])
    return (1, 1, *shape) if layer.kind == "conv2d" and len(shape) == 2 else shape


def _vgg(model: VGG) -> Iterator[Layer]:
    for stage, size in enumerate(model.stage_sizes, start=1):
        for index in range(1, size + 1):
            path = f"stage{stage}_conv{index}"
            yield Layer("conv2d", f"block{stage}_conv{index}", path, bgr=(stage, index) == (1, 1))
    for name in ("fc1", "fc2"):
        yield Layer("dense", name, name)
    yield Layer("dense", "predictions", "head")


def _resnet(model: ResNet) -> Iterator[Layer]:
    def pair(keras: str, path: str, layer: str, **options: Any) -> tuple[Layer, Layer]:
        norm = f"{path}norm{layer}"
        return (
            Layer("conv2d", f"{keras}_conv", f"{path}conv{layer}", norm, **options),
            Layer("batch_normalization", f"{keras}_bn", norm),
        )

    yield from pair("conv1", "", "_stem", bgr=True)
    for stage, size in enumerate(model.stage_sizes, start=1):
        for block in range(1, size + 1):
            # The shortcut's layers come before the third convolution's: files number them so.
            for number, layer in ((1, "1"), (2, "2"), *([(0, "_proj")] if block == 1 else []), (3, "3")):
                yield from pair(f"conv{stage + 1}_block{block}_{number}", f"stage{stage}_block{block}/", layer)
    yield Layer("dense", "predictions", "head")


def _efficientnet(model: EfficientNet) -> Iterator[Layer]:
    yield Layer("normalization", "normalization", "")
    yield Layer("conv2d", "stem_conv", "conv_stem")
    yield Layer("batch_normalization", "stem_bn", "norm_stem")
    for stage, size in enumerate(model.stage_sizes, start=1):
        for block in range(size):
            keras, path = f"block{stage}{chr(ord('a') + block)}_", f"stage{stage}_block{block + 1}/"
            if stage > 1:
                yield Layer("conv2d", f"{keras}expand_conv", f"{path}conv_expand")
                yield Layer("batch_normalization", f"{keras}expand_bn", f"{path}norm_expand")
            yield Layer("depthwise_conv2d", f"{keras}dwconv", f"{path}conv_depthwise")
            yield Layer("batch_normalization", f"{keras}bn", f"{path}norm_depthwise")
            for step in ("reduce", "expand"):
                yield Layer("conv2d", f"{keras}se_{step}", f"{path}squeeze_excite/{step}")
            yield Layer("conv2d", f"{keras}project_conv", f"{path}conv_project")
            yield Layer("batch_normalization", f"{keras}project_bn", f"{path}norm_project")
    yield Layer("conv2d", "top_conv", "conv_head")
    yield Layer("batch_normalization", "top_bn", "norm_head")
    yield Layer("dense", "predictions", "head")


_TABLES: dict[type[nn.Module], Callable[[Any], Iterator[Layer]]] = {
    EfficientNet: _efficientnet,
    ResNet: _resnet,
    VGG: _vgg,
}
"""The layers of each family, in the order in which Keras numbers them."""
