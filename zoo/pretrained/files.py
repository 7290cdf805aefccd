"""Files and folders of weights of any origin: what is in them, and what their model and its images have to be like."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from zoo.checkpoint import load_model, save_model, saved_meta
from zoo.hub_folder import CONFIG, WEIGHT_FILES, WEIGHTS, fetched_folder, file_in, read_json, require_types
from zoo.loaded import Loaded, Preprocessing
from zoo.options import check_options
from zoo.pretrained import keras, torchvision_layout
from zoo.pretrained.adapt import TRAINED_CHANNELS
from zoo.pretrained.hugging_face import from_hub
from zoo.pretrained.hugging_face_layout import FAMILIES
from zoo.pretrained.imagenet import IMAGENET_CLASSES, imagenet_classes
from zoo.pretrained.inputs import preprocessing
from zoo.pretrained.known import known_weights
from zoo.pretrained.state_dict import from_torch, layout_of
from zoo.pretrained.tensors import read_state_dict, refuse_entry
from zoo.published import find, is_published
from zoo.registry import model_builder, model_card

_KERAS = (".keras", ".h5")


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


def describe(
    name: str, source: str | Path, origin: str | None = None, *, entry: str | None = None, **overrides: Any
) -> Weights:
    """What is in a file, a folder in timm's layout on the hub of Hugging Face, or a repository there.

    Args:
      name: of the model that the weights are for.
      source: see `load`.
      origin: whose preprocessing the weights want, where the keys do not tell: timm and torchvision name the layers of
        ResNets alike.
      entry: see `load`.
      overrides: options of the model.

    Raises:
      FileNotFoundError, ImportError, OSError, ValueError: as `load`.
    """
    return _open(name, source, origin, entry, overrides)[0]


def _open(
    name: str, source: str | Path, origin: str | None, entry: str | None, overrides: dict[str, Any]
) -> tuple[Weights, dict[str, Any]]:
    """What is known of the weights, and a state dict where they are one."""
    file, config = _locate(source)
    if file.suffix in _KERAS:
        refuse_entry(file, entry)
        prepared = preprocessing(name, "keras") if name in keras.OPTIONS else None
        if name == "efficientnet_b0" and prepared is not None:
            mean, std = keras.normalization(file)
            prepared = prepared._replace(mean=mean, std=std)
        return Weights(file, "keras", keras.OPTIONS.get(name, {}), prepared), {}
    state = read_state_dict(file, entry)
    layout = origin or layout_of(name, state, source=str(file), **overrides)
    epsilon = torchvision_layout.EPSILON.get(name) if layout == "torchvision" else None
    options = {"epsilon": epsilon} if epsilon else {}
    if config is not None:
        return Weights(file, layout, options, config.preprocessing, config.num_classes, config.classes), state
    try:
        prepared = preprocessing(name, layout)
    except ValueError:
        prepared = None
    return Weights(file, layout, options, prepared), state


def load(
    name: str,
    source: str | Path | None = None,
    *,
    origin: str | None = None,
    head: Literal["given", "new"] = "given",
    channels: int = TRAINED_CHANNELS,
    entry: str | None = None,
    **overrides: Any,
) -> Loaded:
    """A model with weights of others, and how its images are prepared.

        resnet = pretrained.load("resnet50")  # timm's default weights: "timm/resnet50.a1_in1k"
        model, variables = resnet
        reader = data.ImageReader.of(**resnet.preprocessing._asdict())

    Args:
      name: of a registered model.
      source: a file: `.safetensors`, `.keras`, `.weights.h5` or `.h5` of Keras, or what `torch.save` wrote (never
        unpickling more than tensors); a folder with `model.safetensors` and `config.json`, as timm saves them; or the
        name of a repository on the hub of Hugging Face, such as "timm/resnet18.a1_in1k". None for what
        `zoo.pretrained.KNOWN` has for this model. BERT, GPT-2 and Llama are read as `from_hub` does, and what was
        trained here and published as `zoo.load_model` does.
      origin: see `describe`.
      head: "given" takes the last layer from the file; "new" leaves it out, and the model's own starts at zero.
      channels: of the images. A first convolution for three channels is adapted to others as timm does: those for red,
        green and blue are added up for one channel, and repeated for more.
      entry: the name of the weights in a checkpoint of `torch.save` that holds more than one set, such as "state_dict"
        or "model_ema".
      overrides: options of the model. What the weights demand need not be given. The position embeddings of a ViT are
        resampled to its `image_size`, as timm does.

    Returns:
      The model and its variables. The classes are those that a configuration beside the file names, else those of
      ImageNet where there are 1000 outputs.

    Raises:
      FileNotFoundError: there is no such file.
      ImportError: a file of PyTorch's needs PyTorch, one of Keras's h5py, a repository huggingface_hub.
      OSError: the repository cannot be fetched.
      ValueError: the file holds no weights, or as `from_torch` and `from_keras`; or no weights of this name are known.
    """
    source = known_weights(name).source if source is None else source
    folder = find(source)
    usual = origin is None and head == "given" and channels == TRAINED_CHANNELS and entry is None
    if model_builder(name) in [family.module for family in FAMILIES.values()]:
        return _language_model(name, folder, overrides, usual)
    if is_published(folder):
        return _trained_here(name, folder, overrides, usual)
    weights, state = _open(name, folder, origin, entry, overrides)
    if head == "given" and weights.num_classes is not None:
        overrides.setdefault("num_classes", weights.num_classes)
    overrides = {**weights.model_options, **overrides}
    if weights.layout == "keras":
        found = keras.from_keras(name, weights.file, head=head, channels=channels, **overrides)
    else:
        file = str(weights.file)
        found = from_torch(name, state, head=head, channels=channels, source=file, **overrides)
    model, prepared = found.model, weights.preprocessing
    classes = weights.classes
    if not classes and prepared is not None and getattr(model, "num_classes", 0) == IMAGENET_CLASSES:
        classes = imagenet_classes()
    if prepared is not None:
        prepared = _for_channels(prepared._replace(image_size=_seen_size(model, prepared)), channels)
    return Loaded(model, found.variables, prepared, classes if head == "given" else (), faults=found.faults)


def _trained_here(name: str, folder: Path, overrides: Mapping[str, Any], usual: bool) -> Loaded:
    """A published model of ours; its options are those that it was trained with."""
    if (own := saved_meta(folder)["model"]) != name:
        raise ValueError(f"the weights {folder} are those of {own!r}, not of {name!r}")
    if overrides or not usual:
        raise ValueError(
            f"the weights {folder} were trained here, and bring the options of their model along: leave out all but "
            "the source; a new last layer is what a recipe with these `weights` begins with"
        )
    return load_model(folder)


def _language_model(name: str, folder: Path, overrides: Mapping[str, Any], usual: bool) -> Loaded:
    """A BERT, GPT-2 or Llama in the format of Hugging Face, of the size that the name stands for."""
    if not usual:
        raise ValueError(f"origin, head, channels and entry are for images; {name!r} is a language model")
    if is_published(folder):
        return _trained_here(name, folder, overrides, usual)
    found = from_hub(folder, **overrides)
    wanted = model_card(name).options
    for size in ("hidden_size", "num_layers"):
        if (has := getattr(found.model, size)) != overrides.get(size, wanted[size]):
            raise ValueError(
                f"the weights {folder} are of another model than {name!r}: they have {size} = {has}, not "
                f"{wanted[size]}; from_hub reads them without a name"
            )
    return found


def _seen_size(model: Any, prepared: Preprocessing) -> Any:
    """The size that the model is made for, where it is made for one."""
    return getattr(model, "image_size", prepared.image_size)


def _for_channels(prepared: Preprocessing, channels: int) -> Preprocessing | None:
    """How grey images are prepared for weights that were trained on colours; None for what no reader gives."""
    if channels == TRAINED_CHANNELS:
        return prepared._replace(channels=channels)
    if channels != 1:
        return None
    mean, std = (numbers and (sum(numbers) / len(numbers),) for numbers in (prepared.mean, prepared.std))
    return prepared._replace(mean=mean, std=std, channels=channels)


def convert(
    name: str,
    source: str | Path | None,
    out: str | Path,
    *,
    origin: str | None = None,
    head: Literal["given", "new"] = "given",
    channels: int = TRAINED_CHANNELS,
    entry: str | None = None,
    allow_faults: bool = False,
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
      entry: see `load`.
      allow_faults: save also weights with NaN, infinity, negative variances, or integers where floats belong.
      overrides: options of the model, beside those that the weights demand; and fields of `Preprocessing`, such as
        `crop=0.9` or `mean=(0.5, 0.5, 0.5)`, over those that are known.

    Raises:
      FileExistsError: `out` exists.
      ValueError: as `load`; or it is not known what images these weights want to see, or the weights have faults.
    """
    if Path(out).exists():
        raise FileExistsError(f"{out} exists; choose another folder or remove it")
    source = known_weights(name).source if source is None else source
    own = set(Preprocessing._fields) - set(model_card(name).options)
    prepared = {field: overrides.pop(field) for field in own & set(overrides)}
    check_options(Preprocessing, prepared, "the preprocessing")
    weights = describe(name, source, origin, entry=entry, **overrides)
    if weights.preprocessing is None and "image_size" not in prepared:
        raise ValueError(
            f"it is not known what images the weights {source} want to see: no origin lists {name!r}; say image_size=… "
            "and, where they differ from ImageNet's, mean=…, std=…, crop=…"
        )
    loaded = load(name, source, origin=origin, head=head, channels=channels, entry=entry, **overrides)
    if loaded.faults and not allow_faults:
        raise ValueError(
            f"the weights {source} have {'; '.join(loaded.faults)}; they are saved nevertheless with allow_faults=True "
            "(--allow-faults on the command line)"
        )
    options = {**weights.model_options, **overrides}
    found = {name: getattr(loaded.model, name) for name in ("num_classes", "image_size") if hasattr(loaded.model, name)}
    if channels not in (1, 3):
        raise ValueError(f"images have 1 channel or 3, not {channels}: `load` gives this model without preprocessing")
    known = loaded.preprocessing or _for_channels(Preprocessing(image_size=prepared["image_size"]), channels)
    assert known is not None
    wanted = known._replace(**{k: tuple(v) if isinstance(v, list) else v for k, v in prepared.items()})
    for field in ("mean", "std"):
        numbers = getattr(wanted, field)
        if numbers is not None and len(numbers) != channels:
            raise ValueError(f"{field} needs a number for each of {channels} channels, not {list(numbers)}")
    save_model(
        out,
        name,
        loaded.variables,
        preprocessing=wanted._asdict(),
        classes=loaded.classes,
        **{**options, **found},
    )
    return weights._replace(preprocessing=wanted)


class _Configuration(NamedTuple):
    """What timm writes beside its weights.

    Attributes:
      preprocessing: what the weights want to see.
      num_classes: outputs.
      classes: their names.
    """

    preprocessing: Preprocessing
    num_classes: int | None
    classes: tuple[str, ...]


class _Outer(NamedTuple):
    """The entries of a config.json of timm."""

    pretrained_cfg: dict[str, Any]
    num_classes: int
    label_names: tuple[str, ...]


class _Inner(NamedTuple):
    """Those of its `pretrained_cfg`, and timm's defaults. Older files have them beside the others."""

    input_size: tuple[int, ...] = (3, 224, 224)  # channels, height and width
    crop_pct: float = 0.875
    crop_mode: str = "center"
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    label_names: tuple[str, ...] = ()


def _locate(source: str | Path) -> tuple[Path, _Configuration | None]:
    """The file of weights, and what timm's configuration beside it says, where there is one."""
    path = Path(source)
    if not path.exists() and path.suffix not in WEIGHT_FILES:
        path = fetched_folder(source)
    if not path.is_dir():
        return path, None
    config = file_in(path, CONFIG)
    return file_in(path, WEIGHTS), _read_config(config) if config.is_file() else None


def _read_config(file: Path) -> _Configuration | None:
    """What timm writes of its weights; None where the file is of something else.

    Raises:
      ValueError: it is not understood; names the entry.
    """
    content = read_json(file)
    outer = require_types(content, _Outer, file)
    if "pretrained_cfg" not in outer and "input_size" not in content:
        return None
    inner = _Inner(**require_types(outer.get("pretrained_cfg", content), _Inner, file))
    names, count = outer.get("label_names") or inner.label_names, outer.get("num_classes")
    if names and count is not None and len(names) != count:
        raise ValueError(f"label_names in {file} are {len(names)}, and num_classes is {count}")
    return _Configuration(_prepared(inner, file), count, tuple(names))


def _prepared(config: _Inner, file: Path) -> Preprocessing:
    channels, *sizes = config.input_size or [0]
    if len(sizes) != 2 or sizes[0] != sizes[1] or min(sizes) < 1:
        raise ValueError(f"input_size in {file} must be [channels, side, side], not {config.input_size!r}")
    for entry, numbers in (("mean", config.mean), ("std", config.std)):
        if len(numbers) != channels:
            raise ValueError(f"{entry} in {file} must have a number for each of {channels} channels, not {numbers!r}")
    if not 0 < config.crop_pct <= 1:
        raise ValueError(f"crop_pct in {file} must be in (0, 1], not {config.crop_pct}")
    if config.interpolation not in ("bilinear", "bicubic"):
        raise ValueError(f"the weights want images resized by {config.interpolation!r}; known are bilinear and bicubic")
    if config.crop_mode not in ("center", "squash"):
        raise ValueError(
            f"the weights want images cropped by the mode {config.crop_mode!r}; known are center and squash"
        )
    mean, std, squash = tuple(config.mean), tuple(config.std), config.crop_mode == "squash"
    return Preprocessing(sizes[0], config.crop_pct, config.interpolation, mean, std, squash)
