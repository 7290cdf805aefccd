"""Language models in the format of Hugging Face: a folder with `config.json` and safetensors, there and back.

Of each family, `hugging_face_layout.py` says what its configuration may hold and where its variables lie; reading,
writing and all checks derive from that.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from zoo.hub_folder import (
    CONFIG,
    GENERATION,
    TOKENIZER,
    WEIGHTS,
    fetched_folder,
    file_in,
    read_json,
    weight_files,
)
from zoo.loaded import Loaded
from zoo.options import check_options
from zoo.pretrained.hugging_face_config import generation_of, labels_of, model_options, read_config, written_config
from zoo.pretrained.hugging_face_layout import FAMILIES, HEADS, TIED, Architecture, Family, Place
from zoo.pretrained.tensors import faults_of, require_same_entries, without_prefixes
from zoo.published import LIBRARY
from zoo.registry import unknown
from zoo.summary import abstract_variables
from zoo.tensor_file import printable, read_safetensors
from zoo.text.gpt import GPT


def from_hub(source: str | Path, *, architecture: str | None = None, **options: Any) -> Loaded:
    """A model and its variables from a folder in the format of Hugging Face, or from its hub: BERT, GPT-2 or Llama.

        model, variables = from_hub("openai-community/gpt2", dtype=jnp.bfloat16)

    Args:
      source: a folder with `config.json` and `model.safetensors`, whole or in parts; or the name of a repository, which
        needs huggingface_hub.
      architecture: the class of `transformers` whose output is wanted, such as "BertModel" of a file that has more.
        What the configuration names where it is None, and what the tensors tell where it names none. Of bare models,
        GPT2Model and LlamaModel give the last hidden state; BertModel gives the pooled one, and by `encode` the last,
        which it gives also where the file has nothing to pool with.
      options: of the model, in place of those that the configuration gives, such as `dtype` or `max_len`.

    Returns:
      The model, with the dtype that the configuration gives; its variables; the names of the classes; and `config`,
      what `config.json` holds, with what `generation_config.json` holds under "generation_config". `to_hub` takes both.

    Raises:
      FileNotFoundError: the folder lacks a file.
      ImportError: a repository is named, and huggingface_hub is not installed.
      OSError: the repository cannot be fetched.
      ValueError: the configuration asks for what the model does not have, a file leads out of the folder, or tensors
        are missing, unexpected or of another shape; all of them are named.
    """
    folder = fetched_folder(source)
    config = read_config(file_in(folder, CONFIG))
    family = _family(config, folder)
    stored = _read_weights(folder)
    state = _without_prefix(family, stored)
    name = architecture or (config.get("architectures") or [_architecture_of(family, config, stored, state)])[0]
    if name not in family.architectures:
        raise ValueError(
            f"{folder / CONFIG}: {unknown('architecture', printable(name), family.architectures)}; another one of the "
            "same weights can be asked for by architecture=…"
        )
    check_options(family.module, options, f"{name} here")
    told = model_options(family, config, family.architectures[name], folder / CONFIG)
    if name == "BertModel" and "pooler.dense.weight" not in state:
        told["per_token"] = True
    if "param_dtype" in options:
        told.pop("dtype", None)
    _require_sizes(family.module(**{**told, "num_layers": 1}), told["num_layers"], stored, folder)
    model = family.module(**{**told, **options})
    wanted: dict[str, Any] = flatten_dict(_variables(model), sep="/")
    places = {path: _place(family, family.architectures[name], path) for path in wanted}
    keys = {place.key for place in places.values()}
    state = _without_copies(state, keys, tied=getattr(model, "tied", True), folder=folder)
    left = rf"{HEADS}|{family.left}"
    found = {key: tensor for key, tensor in state.items() if key in keys or not re.fullmatch(left, key)}
    shapes = {places[path].key: _shape(leaf.shape, places[path]) for path, leaf in wanted.items()}
    require_same_entries(f"the tensors in {folder} are not those of {name} with this configuration", shapes, found)
    taken = {
        path: np.array(_from_foreign(found[places[path].key], places[path]), leaf.dtype)
        for path, leaf in wanted.items()
    }
    faults = faults_of(folder, found, taken, {path: place.key for path, place in places.items()})
    variables = unflatten_dict({tuple(path.split("/")): jnp.asarray(array) for path, array in taken.items()})
    generation = file_in(folder, GENERATION)
    if generation.is_file():
        config["generation_config"] = read_json(generation)
    classes = labels_of(config, folder / CONFIG) if family.architectures[name].labels else ()
    return Loaded(model, variables, classes=classes, config=config, faults=faults)


def to_hub(
    model: nn.Module,
    variables: Mapping[str, Any],
    folder: str | Path,
    *,
    classes: Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
) -> None:
    """Writes `config.json` and `model.safetensors`, which `transformers` and `from_hub` load, into a folder.

        loaded = from_hub("openai-community/gpt2")
        to_hub(*loaded, "tuned", classes=loaded.classes, config=loaded.config)

    A GPT without biases is written with biases of zero, for GPT-2 has them.

    Args:
      model: a BERT, GPT or Llama.
      variables: what its `apply` takes.
      folder: where the files are written.
      classes: names of the outputs.
      config: entries of `config.json` that the model does not tell, such as `eos_token_id`, and under
        "generation_config" those of `generation_config.json`; what `from_hub` gave. The model decides where both say
        something.

    Raises:
      ValueError: the model is none of these families, the variables are not its own, or the names are not as many as
        the outputs.
      FileExistsError: the folder holds a model already.
    """
    family, model_type = _family_of(model)
    folder, config = Path(folder), dict(config or {})
    for file in (CONFIG, WEIGHTS, GENERATION):
        if (folder / file).exists():
            raise FileExistsError(f"{folder / file} exists; choose another folder or remove it")
    given: dict[str, Any] = flatten_dict(dict(variables), sep="/")
    require_same_entries(f"these are not the variables of this {type(model).__name__}", _shapes(model), given)
    if isinstance(model, GPT) and not model.use_bias:
        model = model.clone(use_bias=True)
        given = {path: np.zeros(shape, np.float32) for path, shape in _shapes(model).items()} | given
    fitting = [name for name, known in family.architectures.items() if _fits(model, known)]
    name = next((name for name in config.get("architectures") or () if name in fitting), fitting[0])
    known = family.architectures[name]
    dtypes = {np.dtype(leaf.dtype).name for leaf in given.values()}
    written = written_config(model, family, known, dtypes, config, classes)
    parts: dict[str, list[np.ndarray]] = {}
    for path, leaf in given.items():
        place = _place(family, known, path)
        array = np.asarray(leaf)
        index, count = place.part
        parts.setdefault(place.key, [array] * count)[index] = array.T if place.turned else array
    state = {
        (key if re.match(r"(?!pooler)" + HEADS, key) else known.prefix + key): np.ascontiguousarray(
            np.concatenate(arrays, axis=-1)
        )
        for key, arrays in parts.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    written = {**written, "architectures": [name], "model_type": model_type}
    (folder / CONFIG).write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    if generation := generation_of(config):
        (folder / GENERATION).write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")


def load_tokenizer(source: str | Path) -> Any:
    """The `tokenizers.Tokenizer` of a folder, or of a repository on the hub: its `tokenizer.json`.

        tokens = load_tokenizer("openai-community/gpt2").encode("It was a dark").ids

    Raises:
      ImportError: tokenizers is not installed.
      FileNotFoundError: there is no such file.
      ValueError: it is damaged, or leads out of the folder.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ImportError('reading tokenizer.json needs tokenizers: pip install "flaxzoo[hub]"') from None
    file = file_in(fetched_folder(source), TOKENIZER)
    if not file.is_file():
        raise FileNotFoundError(f"there is no {file}; transformers' AutoTokenizer(…).save_pretrained(…) writes it")
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises no other kind
        raise ValueError(f"{file} is no tokenizer that tokenizers reads: {printable(error)}") from None


def _read_weights(folder: Path) -> dict[str, np.ndarray]:
    state: dict[str, np.ndarray] = {}
    for file in weight_files(folder):
        state |= read_safetensors(file)
    return state


def _family(config: Mapping[str, Any], folder: Path) -> Family:
    model_type = str(config.get("model_type"))
    if config.get("library_name") == LIBRARY:
        raise ValueError(f"{folder} is a model that was trained here: zoo.load_model reads it")
    if model_type not in FAMILIES:
        raise ValueError(f"{folder / CONFIG}: {unknown('model_type', printable(model_type), FAMILIES)}")
    return FAMILIES[model_type]


def _family_of(model: nn.Module) -> tuple[Family, str]:
    for model_type, family in FAMILIES.items():
        if type(model) is family.module:
            return family, model_type
    families = ", ".join(family.module.__name__ for family in FAMILIES.values())
    raise ValueError(f"Hugging Face's format is known for {families}, not for {type(model).__name__}")


def _fits(model: nn.Module, known: Architecture) -> bool:
    labelled = not known.labels or getattr(model, known.labels) > 0
    return labelled and all(getattr(model, option) == value for option, value in known.options.items())


def _architecture_of(
    family: Family, config: Mapping[str, Any], stored: Mapping[str, Any], state: Mapping[str, Any]
) -> str:
    """The architecture that tensors are of, by their heads. One that ties its logits to the embeddings has no head."""
    for name, known in family.architectures.items():
        if known.evidence and all(key in state for key in known.evidence):
            return name
    words, *_, bare = family.architectures
    known = family.architectures[words]
    ties = family.only.get("tie_word_embeddings") or config.get("tie_word_embeddings")
    prefixed = any(key.startswith(known.prefix) for key in stored)
    return words if known.head and ties and prefixed else bare


def _require_sizes(block: nn.Module, num_layers: int, stored: Mapping[str, np.ndarray], folder: Path) -> None:
    """Refuses a configuration of a far greater model than the files hold, before anything of its size is made.

    Args:
      block: the model with one block.
      num_layers: how many it is to have.
      stored: what the files hold.
      folder: for the error.

    Raises:
      ValueError: says both numbers.
    """
    held = sum(tensor.size for tensor in stored.values())
    sizes = {name: getattr(block, name, None) or 0 for name in ("vocab_size", "hidden_size", "mlp_dim", "num_heads")}
    for name, size in {**sizes, "num_layers": num_layers}.items():
        if size > held:
            raise ValueError(
                f"{folder / CONFIG} asks for {name} = {size:,}, and the weights beside it hold {held:,} numbers in "
                "all: they belong to another model"
            )
    counts = {path: math.prod(shape) for path, shape in _shapes(block).items()}
    of_block = sum(count for path, count in counts.items() if "block" in path)
    wanted = sum(counts.values()) + (num_layers - 1) * of_block
    if wanted > _MOST_MISSING * held:
        raise ValueError(
            f"{folder / CONFIG} asks for a model of {wanted:,} numbers, and the weights beside it hold {held:,}: "
            "they belong to another model"
        )


_MOST_MISSING = 4
"""Where a model has more numbers than so many times those of a file, it is not worth naming which are missing."""


def _place(family: Family, known: Architecture, path: str) -> Place:
    place = family.place(path)
    name, _, leaf = place.key.partition(".")
    return place._replace(key=f"{known.head}.{leaf}") if name == "head" else place


def _without_prefix(family: Family, state: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors by their names in a file of the bare model; the oldest files have Greek names for those of norms."""
    prefixes = "|".join(sorted({re.escape(known.prefix) for known in family.architectures.values()} - {""}))
    plain = {re.sub(rf"^({prefixes})", "", key): tensor for key, tensor in without_prefixes(state).items()}
    return {key.replace(".gamma", ".weight").replace(".beta", ".bias"): tensor for key, tensor in plain.items()}


def _without_copies(state: dict[str, Any], wanted: set[str], *, tied: bool, folder: Path) -> dict[str, Any]:
    """Leaves out what repeats another tensor: of tied weights a file holds both, or one of them, whichever."""
    for copy, original in TIED:
        if not tied or copy not in state or copy in wanted or original not in wanted:
            continue
        if original in state and not np.array_equal(state[copy], state[original]):
            raise ValueError(f"{folder}: {copy} is not {original}, to which the configuration ties it")
        state = {original: state[copy], **{key: tensor for key, tensor in state.items() if key != copy}}
    return state


def _variables(model: nn.Module) -> dict[str, Any]:
    return abstract_variables(model, jax.ShapeDtypeStruct((1, 1), jnp.int32))


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    variables: dict[str, Any] = flatten_dict(_variables(model), sep="/")
    return {path: leaf.shape for path, leaf in variables.items()}


def _shape(shape: tuple[int, ...], place: Place) -> tuple[int, ...]:
    shape = shape[::-1] if place.turned else shape
    return (*shape[:-1], shape[-1] * place.part[1])


def _from_foreign(tensor: np.ndarray, place: Place) -> np.ndarray:
    index, count = place.part
    part = np.split(tensor, count, axis=-1)[index]
    return part.T if place.turned else part
