"""The `config.json` of Hugging Face: what it says of a model of ours, and what is written of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from zoo.hub_folder import read_json, require_types
from zoo.options import check_options
from zoo.pretrained.hugging_face_layout import ACTIVATIONS, Architecture, Family
from zoo.tensor_file import printable
from zoo.text.bert import BERT
from zoo.text.gpt import GPT
from zoo.text.llama import Llama


class _Entries(NamedTuple):
    """The entries that all families have."""

    model_type: str
    architectures: tuple[str, ...]
    dtype: str
    torch_dtype: str
    compute_dtype: str
    id2label: dict[str, Any]
    num_labels: int
    head_dim: int
    rope_scaling: dict[str, Any]
    rope_parameters: dict[str, Any]


_DTYPES = ("float32", "bfloat16", "float16")

_OF_THE_MODEL = {
    *("architectures", "model_type", "transformers_version", "generation_config", "quantization_config"),
    *("dtype", "torch_dtype", "compute_dtype", "num_labels", "id2label", "label2id"),
    *("head_dim", "n_ctx", "rope_theta", "rope_scaling", "rope_parameters"),
}
"""Entries that the model tells, beside its settings."""


def read_config(file: Path) -> dict[str, Any]:
    """What a configuration holds; entries of every family are of their types.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no configuration; names the entry.
    """
    config = read_json(file)
    require_types(config, _Entries, file)
    return config


def model_options(family: Family, config: Mapping[str, Any], known: Architecture, file: Path) -> dict[str, Any]:
    """Our options from the configuration.

    Raises:
      ValueError: an entry is of another type, or asks for what our model does not have; names it.
    """
    config = {**family.defaults, **family.only, **{key: value for key, value in config.items() if value is not None}}
    if family.module is Llama:
        config |= _rotary(config)
    refused = [
        f"{key} = {printable(repr(config[key]))}, where {value!r} is what it computes"
        for key, value in {**family.only, "quantization_config": None, "rope_type": "default"}.items()
        if config.get(key, value) != value
    ]
    options = {ours: config[theirs] for ours, theirs in family.settings.items() if theirs in config}
    for ours, value in options.items():
        theirs = family.settings[ours]
        check_options(family.module, {ours: value}, f"{file}" if ours == theirs else f"{file} (there {theirs})")
    if "activation" in options:
        if options["activation"] not in ACTIVATIONS:
            there = printable(repr(options["activation"]))
            refused.append(f"an activation {there}, where it has {', '.join(ACTIVATIONS)}")
        options["activation"] = ACTIVATIONS.get(options["activation"])
    if family.module is Llama:
        options.setdefault("num_kv_heads", options["num_heads"])
    head_dim, rest = divmod(options["hidden_size"], options["num_heads"])
    if rest or config.get("head_dim", head_dim) != head_dim:
        there = config.get("head_dim", f"{options['hidden_size']} / {options['num_heads']}")
        refused.append(f"head_dim = {there}, where the heads share hidden_size evenly: {head_dim}")
    if refused:
        lines = "".join(f"\n  {line}" for line in refused)
        raise ValueError(f"{file} asks for what {family.module.__name__} does not have:{lines}")
    options |= known.options
    if known.labels:
        options[known.labels] = len(config.get("id2label", ())) or config.get("num_labels", 2)
        check_options(family.module, {known.labels: options[known.labels]}, f"{file} (there num_labels)")
    return options | _dtypes(config, file)


def _dtypes(config: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The dtypes of a model that is not in float32."""
    kept = str(config.get("dtype", config.get("torch_dtype", "float32"))).removeprefix("torch.")
    computed = str(config.get("compute_dtype", kept))
    for name in (kept, computed):
        if name not in _DTYPES:
            raise ValueError(f"dtype in {file} must be {', '.join(_DTYPES)}, not {printable(name)!r}")
    options = {} if computed == "float32" == kept else {"dtype": jnp.dtype(computed)}
    return options if kept == "float32" else {**options, "param_dtype": jnp.dtype(kept)}


def _rotary(config: Mapping[str, Any]) -> dict[str, Any]:
    """Base and scaling of rotary positions, which version 5 of transformers keeps in one place."""
    rope = {"rope_theta": config["rope_theta"], **config.get("rope_scaling", {}), **config.get("rope_parameters", {})}
    return {"rope_theta": rope["rope_theta"], "rope_type": rope.get("rope_type", rope.get("type", "default"))}


def labels_of(config: Mapping[str, Any], file: Path) -> tuple[str, ...]:
    """The names of the outputs in their order; empty where the configuration names none.

    Raises:
      ValueError: they are not numbered from 0 on.
    """
    names = config.get("id2label") or {}
    missing = [index for index in range(len(names)) if str(index) not in names]
    if missing:
        raise ValueError(f"id2label in {file} must name the outputs 0 … {len(names) - 1}; {missing[0]} is missing")
    return tuple(str(names[str(index)]) for index in range(len(names)))


def generation_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What `generation_config.json` is to hold."""
    return dict(config.get("generation_config") or {})


def written_config(
    model: Any,
    family: Family,
    known: Architecture,
    dtypes: set[str],
    given: Mapping[str, Any],
    classes: Sequence[str],
) -> dict[str, Any]:
    """The configuration of a model.

    Args:
      model: one of ours.
      family: its family.
      known: its architecture.
      dtypes: of its variables.
      given: entries that the model does not tell.
      classes: names of its outputs.

    Raises:
      ValueError: there are more or fewer names than outputs.
    """
    config = {key: value for key, value in given.items() if key not in _OF_THE_MODEL} | dict(family.only)
    config |= {theirs: getattr(model, ours) for ours, theirs in family.settings.items()}
    for key in config.keys() & {"hidden_act", "activation_function"} - family.only.keys():
        config[key] = next(theirs for theirs, ours in ACTIVATIONS.items() if ours == model.activation)
    if known.labels:
        config |= _labels(getattr(model, known.labels), given, classes)
    if isinstance(model, BERT):
        config["attention_probs_dropout_prob"] = 0.0
    if isinstance(model, GPT):
        config |= {"embd_pdrop": model.dropout_rate, "attn_pdrop": 0.0}
    if isinstance(model, Llama):
        config["rope_parameters"] = {"rope_theta": model.rotary_base, "rope_type": "default"}
    config["dtype"] = next(iter(dtypes)) if len(dtypes) == 1 and dtypes <= set(_DTYPES) else "float32"
    if model.dtype is not None and jnp.dtype(model.dtype).name != config["dtype"]:
        config["compute_dtype"] = jnp.dtype(model.dtype).name
    return config


def _labels(count: int, given: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    if classes and len(classes) != count:
        raise ValueError(f"the model has {count} outputs, and {len(classes)} classes are named")
    there = given.get("id2label") or {}
    names = list(classes) or (list(there.values()) if len(there) == count else [f"LABEL_{i}" for i in range(count)])
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
