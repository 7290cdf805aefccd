"""Language models in the format of Hugging Face: a folder with `config.json` and safetensors, there and back.

Of each family, `hugging_face.py` says what its configuration may hold and where its variables lie; reading, writing and
all checks derive from that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from zoo.checkpoint import Loaded
from zoo.pretrained.hugging_face import ACTIVATIONS, FAMILIES, TIED, Family, Place
from zoo.pretrained.state_dict import read_safetensors, require_same_entries
from zoo.registry import unknown
from zoo.summary import abstract_variables
from zoo.text.bert import BERT
from zoo.text.gpt import GPT
from zoo.text.llama import Llama

_WEIGHTS, _INDEX, _CONFIG, _TOKENIZER = (
    "model.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "tokenizer.json",
)


def from_hub(source: str | Path, *, architecture: str | None = None, **options: Any) -> Loaded:
    """A model and its variables from a folder in the format of Hugging Face, or from its hub: BERT, GPT-2 or Llama.

        model, variables = from_hub("openai-community/gpt2", dtype=jnp.bfloat16)

    Args:
      source: a folder with `config.json` and `model.safetensors`, whole or in parts; or the name of a repository, which
        needs huggingface_hub.
      architecture: the class of `transformers` whose output is wanted, such as "BertModel" of a file that has more.
        What the configuration names where it is None.
      options: of the model, in place of those that the configuration gives, such as `dtype` or `max_len`.

    Raises:
      FileNotFoundError: the folder lacks a file.
      ImportError: a repository is named, and huggingface_hub is not installed.
      OSError: the repository cannot be fetched.
      ValueError: the configuration asks for what the model does not have, or tensors are missing, unexpected or of
        another shape; all of them are named.
    """
    folder = fetched_folder(source)
    config = read_json(folder / _CONFIG)
    family, name = _family(config, architecture, folder)
    model = family.module(**{**_options(family, config, name, folder), **options})
    state = _without_prefix(family, _read_weights(folder))
    wanted: dict[str, Any] = flatten_dict(_variables(model), sep="/")
    places = {path: family.place(path) for path in wanted}
    keys = {place.key for place in places.values()}
    state = _without_copies(state, keys, folder)
    found = {key: tensor for key, tensor in state.items() if key in keys or not re.fullmatch(family.left, key)}
    shapes = {places[path].key: _shape(leaf.shape, places[path]) for path, leaf in wanted.items()}
    require_same_entries(f"the tensors in {folder} are not those of {name} with this configuration", shapes, found)
    variables = {
        path: jnp.asarray(_from_foreign(found[places[path].key], places[path]), leaf.dtype)
        for path, leaf in wanted.items()
    }
    return Loaded(model, unflatten_dict({tuple(path.split("/")): array for path, array in variables.items()}))


def to_hub(model: nn.Module, variables: Mapping[str, Any], folder: str | Path) -> None:
    """Writes `config.json` and `model.safetensors`, which `transformers` and `from_hub` load, into a folder.

    A GPT without biases is written with biases of zero, for GPT-2 has them.

    Raises:
      ValueError: the model is none of these families, or the variables are not its own.
      FileExistsError: the folder holds a model already.
    """
    family, model_type = _family_of(model)
    folder = Path(folder)
    for file in (_CONFIG, _WEIGHTS):
        if (folder / file).exists():
            raise FileExistsError(f"{folder / file} exists; choose another folder or remove it")
    given: dict[str, Any] = flatten_dict(dict(variables), sep="/")
    require_same_entries(f"these are not the variables of this {type(model).__name__}", _shapes(model), given)
    if isinstance(model, GPT) and not model.use_bias:
        model = model.clone(use_bias=True)
        given = {path: np.zeros(shape, np.float32) for path, shape in _shapes(model).items()} | given
    name = next(name for name, options in family.architectures.items() if _has(model, options))
    prefix = "" if name == "BertModel" else family.prefix
    parts: dict[str, list[np.ndarray]] = {}
    for path, leaf in given.items():
        place = family.place(path)
        array = np.asarray(leaf)
        index, count = place.part
        parts.setdefault(place.key, [array] * count)[index] = array.T if place.turned else array
    headless = tuple(key for key in parts if re.match(r"cls\.|classifier\.|lm_head\.", key))
    state = {
        (key if key in headless else prefix + key): np.ascontiguousarray(np.concatenate(arrays, axis=-1))
        for key, arrays in parts.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(state, folder / _WEIGHTS, metadata={"format": "pt"})
    config = {"architectures": [name], "model_type": model_type, **family.only, **_config(family, model)}
    (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def load_tokenizer(source: str | Path) -> Any:
    """The `tokenizers.Tokenizer` of a folder, or of a repository on the hub: its `tokenizer.json`.

        tokens = load_tokenizer("openai-community/gpt2").encode("It was a dark").ids

    Raises:
      ImportError: tokenizers is not installed.
      FileNotFoundError: there is no such file.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ImportError('reading tokenizer.json needs tokenizers: pip install "flaxzoo[hub]"') from None
    file = fetched_folder(source) / _TOKENIZER
    if not file.is_file():
        raise FileNotFoundError(f"there is no {file}; transformers' AutoTokenizer(…).save_pretrained(…) writes it")
    return Tokenizer.from_file(str(file))


def fetched_folder(source: str | Path) -> Path:
    """The folder itself, or where huggingface_hub keeps what it has fetched."""
    if Path(source).is_dir():
        return Path(source)
    if not isinstance(source, str) or not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        raise FileNotFoundError(f'there is no folder {source}; a repository is named such as "openai-community/gpt2"')
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ImportError(
            f'there is no folder {source}; fetching it from the hub needs huggingface_hub: pip install "flaxzoo[hub]"'
        ) from None
    try:
        return Path(snapshot_download(source, allow_patterns=[_CONFIG, _INDEX, _TOKENIZER, "model*.safetensors"]))
    except Exception as error:  # of the network, of the hub, of its cache
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OSError(f"there is no folder {source}, and the hub did not give it: {reason}") from error


def read_json(file: Path) -> dict[str, Any]:
    """A configuration.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no JSON.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file.parent} has no {file.name}; is it a folder that transformers has saved?")
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}") from None


def _read_weights(folder: Path) -> dict[str, np.ndarray]:
    files = [_WEIGHTS]
    if not (folder / _WEIGHTS).is_file() and (folder / _INDEX).is_file():
        files = sorted(set(read_json(folder / _INDEX).get("weight_map", {}).values())) or files
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        others = ", ".join(sorted(file.name for file in folder.glob("*.bin"))[:2])
        advice = f"; it has {others}, which transformers' save_pretrained makes safetensors of" if others else ""
        raise FileNotFoundError(f"{folder} has no {', '.join(missing)}{advice}")
    state: dict[str, np.ndarray] = {}
    for file in files:
        state |= read_safetensors(folder / file)
    return state


def _family(config: Mapping[str, Any], architecture: str | None, folder: Path) -> tuple[Family, str]:
    model_type = config.get("model_type")
    if model_type not in FAMILIES:
        raise ValueError(f"{folder / _CONFIG}: {unknown('model_type', str(model_type), FAMILIES)}")
    family = FAMILIES[model_type]
    name = architecture or (config.get("architectures") or [next(iter(family.architectures))])[0]
    if name not in family.architectures:
        raise ValueError(
            f"{folder / _CONFIG}: {unknown('architecture', name, family.architectures)}; another one of the same "
            "weights can be asked for by architecture=…"
        )
    return family, name


def _family_of(model: nn.Module) -> tuple[Family, str]:
    for model_type, family in FAMILIES.items():
        if type(model) is family.module:
            return family, model_type
    families = ", ".join(family.module.__name__ for family in FAMILIES.values())
    raise ValueError(f"Hugging Face's format is known for {families}, not for {type(model).__name__}")


def _options(family: Family, config: Mapping[str, Any], name: str, folder: Path) -> dict[str, Any]:
    """Our options from the configuration; what it asks for and our model does not have is refused."""
    config = {**family.defaults, **family.only, **{key: value for key, value in config.items() if value is not None}}
    if family.module is Llama:
        config |= _rotary(config)
    refused = [
        f"{key} = {config[key]!r}, where {value!r} is what it computes"
        for key, value in {**family.only, "quantization_config": None, "rope_type": "default"}.items()
        if config.get(key, value) != value
    ]
    options = {ours: config[theirs] for ours, theirs in family.settings.items() if theirs in config}
    if "activation" in options:
        if options["activation"] not in ACTIVATIONS:
            refused.append(f"an activation {options['activation']!r}, where it has {', '.join(ACTIVATIONS)}")
        options["activation"] = ACTIVATIONS.get(options["activation"])
    if family.module is Llama:
        options.setdefault("num_kv_heads", options["num_heads"])
    head_dim = options["hidden_size"] // options["num_heads"]
    if config.get("head_dim", head_dim) != head_dim:
        refused.append(f"head_dim = {config['head_dim']}, where the heads share hidden_size evenly: {head_dim}")
    if refused:
        lines = "".join(f"\n  {line}" for line in refused)
        raise ValueError(f"{folder / _CONFIG} asks for what {family.module.__name__} does not have:{lines}")
    options |= family.architectures[name]
    if "num_classes" in options:
        options["num_classes"] = config.get("num_labels") or len(config.get("id2label", ("no", "yes")))
    return options


def _rotary(config: Mapping[str, Any]) -> dict[str, Any]:
    """Base and scaling of rotary positions, which version 5 of transformers keeps in one place."""
    rope = {"rope_theta": config["rope_theta"], **(config.get("rope_scaling") or {})}
    rope |= config.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    return {"rope_theta": float(rope["rope_theta"]), "rope_type": kind}


def _config(family: Family, model: Any) -> dict[str, Any]:
    config = {theirs: getattr(model, ours) for ours, theirs in family.settings.items()}
    for key in config.keys() & {"hidden_act", "activation_function"}:
        config[key] = next(theirs for theirs, ours in ACTIVATIONS.items() if ours == model.activation)
    if isinstance(model, BERT) and model.num_classes:
        names = [f"LABEL_{index}" for index in range(model.num_classes)]
        config |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    if isinstance(model, BERT):
        config["attention_probs_dropout_prob"] = 0.0
    if isinstance(model, GPT):
        config |= {"embd_pdrop": model.dropout_rate, "attn_pdrop": 0.0}
    if isinstance(model, Llama):
        config["rope_parameters"] = {"rope_theta": model.rotary_base, "rope_type": "default"}
    return config


def _without_prefix(family: Family, state: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors by their names in a file of the bare model; the oldest files have Greek names for those of norms."""
    plain = {key.removeprefix(family.prefix): tensor for key, tensor in state.items()}
    return {key.replace(".gamma", ".weight").replace(".beta", ".bias"): tensor for key, tensor in plain.items()}


def _without_copies(state: dict[str, Any], wanted: set[str], folder: Path) -> dict[str, Any]:
    """Leaves out what repeats another tensor: tied weights are stored once or twice."""
    for copy, original in TIED:
        if copy in state and copy not in wanted and original in state:
            if not np.array_equal(state[copy], state[original]):
                raise ValueError(f"{folder}: {copy} is not {original}, to which the configuration ties it")
            state = {key: tensor for key, tensor in state.items() if key != copy}
    return state


def _variables(model: nn.Module) -> dict[str, Any]:
    return abstract_variables(model, jax.ShapeDtypeStruct((1, 1), jnp.int32))


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    variables: dict[str, Any] = flatten_dict(_variables(model), sep="/")
    return {path: leaf.shape for path, leaf in variables.items()}


def _has(model: nn.Module, options: Mapping[str, Any]) -> bool:
    return all(bool(getattr(model, name)) == bool(value) for name, value in options.items())


def _shape(shape: tuple[int, ...], place: Place) -> tuple[int, ...]:
    shape = shape[::-1] if place.turned else shape
    return (*shape[:-1], shape[-1] * place.part[1])


def _from_foreign(tensor: np.ndarray, place: Place) -> np.ndarray:
    index, count = place.part
    part = np.split(tensor, count, axis=-1)[index]
    return part.T if place.turned else part
