"""Files and folders of weights of any origin: what is in them, and what their model and its images have to be like."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

from zoo.checkpoint import Loaded, Preprocessing, save_model
from zoo.pretrained import keras, torchvision
from zoo.pretrained.hub import fetched_folder, read_json
from zoo.pretrained.imagenet import IMAGENET_CLASSES, imagenet_classes
from zoo.pretrained.inputs import preprocessing
from zoo.pretrained.state_dict import from_torch, layout_of, read_state_dict

_KERAS = (".keras", ".h5")
_FILES = (*_KERAS, ".safetensors", ".pt", ".pth", ".bin")


class Weights(NamedTuple):
    """What is known of a file of weights.

    Attributes:
      file: where the arrays are.
      layout: whose names they have: "timm", "torchvision" or "keras".
      model_options: what the model has to be created with.
      preprocessing: what the weights want to see; None where that is not known.
      num_classes: outputs, where a configuration beside the file says so.
      classes: names of these, likewise.
    """

    file: Path
    layout: str
    model_options: dict[str, Any]
    preprocessing: Preprocessing | None
    num_classes: int | None = None
    classes: tuple[str, ...] = ()


def describe(name: str, source: str | Path, origin: str | None = None, **overrides: Any) -> Weights:
    """What is in a file, a folder in timm's layout on the hub of Hugging Face, or a repository there.

    Args:
      name: of the model that the weights are for.
      source: see `load`.
      origin: whose preprocessing the weights want, where the keys do not tell: timm and torchvision name the layers of
        ResNets alike.
      overrides: options of the model.

    Raises:
      FileNotFoundError, ImportError, OSError, ValueError: as `load`.
    """
    return _open(name, source, origin, overrides)[0]


def _open(
    name: str, source: str | Path, origin: str | None, overrides: dict[str, Any]
) -> tuple[Weights, dict[str, Any]]:
    """What is known of the weights, and a state dict where they are one."""
    file, config = _locate(source)
    if file.suffix in _KERAS:
        prepared = preprocessing(name, "keras") if name in keras.OPTIONS else None
        if name == "efficientnet_b0" and prepared is not None:
            mean, std = keras.normalization(file)
            prepared = prepared._replace(mean=mean, std=std)
        return Weights(file, "keras", keras.OPTIONS.get(name, {}), prepared), {}
    state = read_state_dict(file)
    layout = origin or layout_of(name, state, **overrides)
    epsilon = torchvision.EPSILON.get(name) if layout == "torchvision" else None
    options = {"epsilon": epsilon} if epsilon else {}
    # Older files of timm have the entries of `pretrained_cfg` beside the others.
    told = config.get("pretrained_cfg", config if "input_size" in config else None)
    if told is not None:
        names = config.get("label_names") or told.get("label_names") or ()
        prepared = _of_timm(told)
        return Weights(file, layout, options, prepared, config.get("num_classes"), tuple(names)), state
    try:
        prepared = preprocessing(name, layout)
    except ValueError:
        prepared = None
    return Weights(file, layout, options, prepared), state


def load(
    name: str,
    source: str | Path,
    *,
    origin: str | None = None,
    head: Literal["given", "new"] = "given",
    channels: int = 3,
    **overrides: Any,
) -> Loaded:
    """A model with weights of others, and how its images are prepared.

        resnet = pretrained.load("resnet50", "timm/resnet50.a1_in1k")
        model, variables = resnet
        reader = data.ImageReader.of(**resnet.preprocessing._asdict())

    Args:
      name: of a registered model.
      source: a file: `.safetensors`, `.keras`, `.weights.h5` or `.h5` of Keras, or what `torch.save` wrote (never
        unpickling more than tensors); a folder with `model.safetensors` and `config.json`, as timm saves them; or the
        name of a repository on the hub of Hugging Face, such as "timm/resnet18.a1_in1k".
      origin: see `describe`.
      head: "given" takes the last layer from the file; "new" leaves it out, and the model's own starts at zero.
      channels: of the images.
      overrides: options of the model. What the weights demand need not be given.

    Returns:
      The model and its variables. The classes are those that a configuration beside the file names, else those of
      ImageNet where there are 1000 outputs.

    Raises:
      FileNotFoundError: there is no such file.
      ImportError: a file of PyTorch's needs PyTorch, one of Keras's h5py, a repository huggingface_hub.
      OSError: the repository cannot be fetched.
      ValueError: the file holds no weights, or as `from_torch` and `from_keras`.
    """
    weights, state = _open(name, source, origin, overrides)
    if head == "given" and weights.num_classes is not None:
        overrides.setdefault("num_classes", weights.num_classes)
    overrides = {**weights.model_options, **overrides}
    if weights.layout == "keras":
        model, variables = keras.from_keras(name, weights.file, head=head, channels=channels, **overrides)
    else:
        model, variables = from_torch(name, state, head=head, channels=channels, **overrides)
    prepared = weights.preprocessing
    classes = weights.classes
    if not classes and prepared is not None and getattr(model, "num_classes", 0) == IMAGENET_CLASSES:
        classes = imagenet_classes()
    return Loaded(
        model,
        variables,
        prepared._replace(channels=channels) if prepared else None,
        classes if head == "given" else (),
    )


def convert(
    name: str,
    source: str | Path,
    out: str | Path,
    *,
    origin: str | None = None,
    head: Literal["given", "new"] = "given",
    channels: int = 3,
    **overrides: Any,
) -> Weights:
    """Saves weights of others as a folder that `zoo.load_model` and `zoo predict` read, with their preprocessing.

    Args:
      name: of a registered model.
      source: see `load`.
      out: the folder to write.
      origin: see `describe`.
      head: see `load`.
      channels: of the images.
      overrides: options of the model, beside those that the weights demand.

    Raises:
      FileExistsError: `out` exists.
      ValueError: as `load`; or it is not known what images these weights want to see.
    """
    if Path(out).exists():
        raise FileExistsError(f"{out} exists; choose another folder or remove it")
    weights = describe(name, source, origin, **overrides)
    if weights.preprocessing is None:
        raise ValueError(f"it is not known what images the weights {source} want to see: no origin lists {name!r}")
    loaded = load(name, source, origin=origin, head=head, channels=channels, **overrides)
    options = {**weights.model_options, **overrides}
    if hasattr(loaded.model, "num_classes"):
        options["num_classes"] = loaded.model.num_classes
    assert loaded.preprocessing is not None  # as `describe` found
    save_model(
        out,
        name,
        loaded.variables,
        preprocessing=loaded.preprocessing._asdict(),
        classes=loaded.classes,
        **options,
    )
    return weights


def _locate(source: str | Path) -> tuple[Path, dict[str, Any]]:
    """The file of weights, and the configuration beside it, where there is one."""
    path = Path(source)
    if not path.exists() and path.suffix not in _FILES:
        path = fetched_folder(source)
    if not path.is_dir():
        return path, {}
    config = path / "config.json"
    return path / "model.safetensors", read_json(config) if config.is_file() else {}


def _of_timm(config: dict[str, Any]) -> Preprocessing:
    """What timm writes of its weights; what is missing there has timm's default.

    Raises:
      ValueError: it is not understood; names the entry.
    """
    channels, *sizes = config.get("input_size", (3, 224, 224))
    if len(sizes) != 2 or sizes[0] != sizes[1] or not all(isinstance(size, int) for size in (channels, *sizes)):
        raise ValueError(f"input_size in config.json must be [channels, side, side], not {config['input_size']!r}")
    size = sizes[0]
    interpolation, mode = config.get("interpolation", "bicubic"), config.get("crop_mode", "center")
    if interpolation not in ("bilinear", "bicubic"):
        raise ValueError(f"the weights want images resized by {interpolation!r}; known are bilinear and bicubic")
    if mode not in ("center", "squash"):
        raise ValueError(f"the weights want images cropped by the mode {mode!r}; known are center and squash")
    return Preprocessing(
        size,
        config.get("crop_pct", 0.875),
        interpolation,
        tuple(config.get("mean", (0.485, 0.456, 0.406))),
        tuple(config.get("std", (0.229, 0.224, 0.225))),
        mode == "squash",
    )
