"""Variables of our models from files of keras.applications. Reading them needs h5py, and not Keras.

Three kinds of files hold the same arrays: `.weights.h5` of Keras 3 and the one inside `.keras` number the layers of
each class, the older `.h5`, in which the published weights are, has their names.
"""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from zoo.checkpoint import Loaded
from zoo.pretrained.tensors import require_same_entries
from zoo.registry import create_model, model_card
from zoo.summary import abstract_variables
from zoo.vision.efficientnet import EfficientNet
from zoo.vision.resnet import ResNet
from zoo.vision.vgg import VGG

OPTIONS: dict[str, dict[str, Any]] = {
    "efficientnet_b0": {"epsilon": 1e-3, "same_padding": True},
    "resnet50": {"epsilon": 1.001e-5, "stride_in": "1x1"},
    "vgg16": {},
}
"""The models whose weights can be read, and the options that these weights are for."""


class Layer(NamedTuple):
    """A layer of Keras with weights.

    Attributes:
      kind: the name of its class, as files number it.
      name: in keras.applications.
      path: of our module; empty where the layer is no part of our model.
      norm: our batch norm that follows, which takes in the bias that our convolution does not have.
      bgr: whether it sees blue, green and red in this order.
    """

    kind: Literal["conv2d", "depthwise_conv2d", "batch_normalization", "dense", "normalization"]
    name: str
    path: str
    norm: str = ""
    bgr: bool = False


_ENTRIES = {
    "batch_normalization": ("scale", "bias", "mean", "var"),
    "normalization": ("mean", "variance", "count"),
}
"""What a layer holds, in the order of the files, by our names; others have a kernel and a bias."""


def from_keras(
    name: str,
    path: str | Path,
    *,
    head: Literal["given", "new"] = "given",
    channels: int = 3,
    **overrides: Any,
) -> Loaded:
    """A model and its variables from a `.keras`, `.weights.h5` or `.h5` file.

        model, variables = from_keras("resnet50", "resnet50.keras")

    Of VGG16, ResNet50 and EfficientNetB0, saved with `save` or `save_weights`. What Keras does to its images first is
    `preprocessing(name, "keras")` here. ResNet50 and VGG16 see blue before green before red there, and red first here.

    Args:
      name: of a registered model.
      path: of the file.
      head: "given" takes the last layer from the file, which must have as many outputs as the model; "new" leaves it
        out, also where the file has none (`include_top=False`), and the model's own starts at zero.
      channels: of the images.
      overrides: options of the model. What Keras's weights demand (`OPTIONS`) need not be given, nor `num_classes`
        where the head is.

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
    found = read_keras(path, table)
    if head == "given" and "num_classes" not in overrides and "predictions/bias" in found:
        model = create_model(name, **overrides, num_classes=len(found["predictions/bias"]))
    image = jax.ShapeDtypeStruct((1, *model_card(name).input_shape[:2], channels), jnp.float32)
    wanted: dict[str, Any] = flatten_dict(abstract_variables(model, image), sep="/")
    if head == "new":
        table = [layer for layer in table if layer.path != "head"]
        found = {key: array for key, array in found.items() if not key.startswith("predictions/")}
    shapes = {
        f"{layer.name}/{entry}": _foreign_shape(layer, entry, wanted, channels)
        for layer in table
        for entry in _entries(layer, wanted)
    }
    require_same_entries(
        f"{path} does not fit {name!r} with these options (is it for other num_classes or channels? "
        'head="new", --new-head on the command line, leaves its last layer out)',
        shapes,
        found,
    )
    variables = {key: np.zeros(leaf.shape, leaf.dtype) for key, leaf in wanted.items()}
    for layer in table:
        for entry in _entries(layer, wanted):
            key = _variable(layer.path, entry)
            if key in wanted:
                array = found[f"{layer.name}/{entry}"]
                array = array[:, :, ::-1] if layer.bgr and entry == "kernel" and channels == 3 else array
                array = array.transpose(0, 1, 3, 2) if layer.kind == "depthwise_conv2d" else array
                variables[key] = array.reshape(wanted[key].shape).astype(wanted[key].dtype)
    for layer in table:
        if layer.norm:  # normalising x + bias by a mean is normalising x by the mean less the bias
            variables[f"batch_stats/{layer.norm}/mean"] -= found[f"{layer.name}/bias"]
    return Loaded(
        model, unflatten_dict({tuple(key.split("/")): jnp.asarray(array) for key, array in variables.items()})
    )


def read_keras(path: str | Path, table: list[Layer]) -> dict[str, np.ndarray]:
    """The arrays of a file by "layer/entry", with the names that keras.applications gives the layers.

    Raises:
      FileNotFoundError: there is no such file.
      ImportError: h5py is not installed.
      ValueError: it is no file of weights of Keras.
    """
    try:
        import h5py
    except ImportError:
        raise ImportError(f'reading {path} needs h5py: pip install "flaxzoo[keras]"') from None
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; expected .keras, .weights.h5 or .h5")
    try:
        content: Any = path
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                content = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(content, "r") as file:
            arrays = dict(_numbered(file, table) if "layers" in file else _named(file))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no file of weights that Keras wrote: {error}") from None
    entries = {layer.name: _ENTRIES.get(layer.kind, ("kernel", "bias")) for layer in table}
    return {
        f"{name}/{entries[name][index] if index < len(entries.get(name, ())) else index}": array
        for (name, index), array in arrays.items()
    }


def _numbered(file: Any, table: list[Layer]) -> Iterator[tuple[tuple[str, int], np.ndarray]]:
    """Layers under the name of their class and a number, from the second on."""
    counts: Counter[str] = Counter()
    names = {}
    for layer in table:
        number = counts[layer.kind]
        names[f"{layer.kind}_{number}" if number else layer.kind] = layer.name
        counts[layer.kind] += 1

    def visit(group: Any, prefix: str) -> Iterator[tuple[tuple[str, int], np.ndarray]]:
        for stored, inside in group.items():
            for index, array in inside.get("vars", {}).items():
                name = names.get(stored, stored) if not prefix else f"{prefix}{stored}"
                yield (name, int(index)), np.asarray(array)
            yield from visit(inside.get("layers", {}), f"{prefix}{stored}/")

    return visit(file["layers"], "")


def _named(file: Any) -> Iterator[tuple[tuple[str, int], np.ndarray]]:
    """Layers under their names, which attributes list."""
    group = file.get("model_weights", file)
    for name in map(_text, group.attrs["layer_names"]):
        for index, entry in enumerate(map(_text, group[name].attrs["weight_names"])):
            yield (name, index), np.asarray(group[name][entry])


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


def normalization(path: str | Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel in [0, 1] that an EfficientNet's file was trained with.

    The published weights keep the deviations in the place of variances, and Keras corrects for it.
    """
    found = read_keras(path, list(_TABLES[EfficientNet](create_model("efficientnet_b0"))))
    mean, variance = (np.ravel(found[f"normalization/{entry}"]) for entry in ("mean", "variance"))
    deviation = variance if np.allclose(variance, (0.229, 0.224, 0.225)) else np.sqrt(variance)
    return tuple(map(float, mean)), tuple(map(float, deviation))


def _variable(path: str, entry: str) -> str:
    return f"{'batch_stats' if entry in ('mean', 'var') else 'params'}/{path}/{entry}"


def _entries(layer: Layer, wanted: Mapping[str, Any]) -> list[str]:
    entries = _ENTRIES.get(layer.kind, ("kernel", "bias"))
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
