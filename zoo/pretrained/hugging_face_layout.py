"""The layout of Hugging Face's language models: what a configuration says, and where variables lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn

from zoo.text.bert import BERT
from zoo.text.gpt import GPT
from zoo.text.llama import Llama


class Place(NamedTuple):
    """The tensor that holds a variable of ours.

    Attributes:
      key: its name, without the prefix of the family.
      turned: whether a kernel lies there as `[outputs, inputs]`.
      part: index and count where tensors are fused along their last axis, as the query, key and value of GPT-2.
    """

    key: str
    turned: bool = False
    part: tuple[int, int] = (0, 1)


class Architecture(NamedTuple):
    """What is to know of one class of `transformers`.

    Attributes:
      options: ours that make a model of it.
      head: the name of our layer "head" there.
      labels: our option that counts its labels, where it has some.
      prefix: of the tensors that are the model without its head.
      evidence: tensors by which a file without a configured architecture is known to be of this one.
    """

    options: Mapping[str, Any]
    head: str = ""
    labels: str = ""
    prefix: str = ""
    evidence: tuple[str, ...] = ()


class Family(NamedTuple):
    """What is to know of one `model_type`.

    Attributes:
      module: our class.
      architectures: the classes of `transformers` that there are for it, the one with logits of words first and the
        bare model last.
      settings: of the configuration, by our options.
      defaults: of settings that a configuration leaves out.
      only: settings that change what is computed, and the one value that our model knows.
      place: where the variable at a path such as "decoder_block1/norm1/scale" lies.
      left: a pattern of tensors that are no part of the model, beside those of other heads.
    """

    module: type[nn.Module]
    architectures: Mapping[str, Architecture]
    settings: Mapping[str, str]
    defaults: Mapping[str, Any]
    only: Mapping[str, Any]
    place: Callable[[str], Place]
    left: str


_LEAVES = {"kernel": "weight", "embedding": "weight", "scale": "weight", "bias": "bias"}


def _bert(path: str) -> Place:
    _, *inner, leaf = path.split("/")
    if not inner:
        return Place("cls.predictions.bias")
    outer = {
        "embed": "embeddings.word_embeddings",
        "embed_positions": "embeddings.position_embeddings",
        "embed_segments": "embeddings.token_type_embeddings",
        "norm_embed": "embeddings.LayerNorm",
        "pooler": "pooler.dense",
        "head": "head",
        "transform": "cls.predictions.transform.dense",
        "norm_transform": "cls.predictions.transform.LayerNorm",
    }
    layers = {
        "attention/out": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "fc1": "intermediate.dense",
        "fc2": "output.dense",
        "norm2": "output.LayerNorm",
    }
    name = outer.get(inner[0])
    if name is None:
        block, layer = inner[0].removeprefix("blocks_"), "/".join(inner[1:])
        name = f"encoder.layer.{block}.{layers.get(layer, layer.replace('attention/', 'attention.self.'))}"
    return Place(f"{name}.{_LEAVES[leaf]}", turned=leaf == "kernel")


def _gpt(path: str) -> Place:
    _, *inner, leaf = path.split("/")
    if not inner:
        return Place("wpe.weight")
    name = {"embed": "wte", "norm_head": "ln_f", "head": "head"}.get(inner[0])
    part = (0, 1)
    if name is None:
        layers = {"norm1": "ln_1", "norm2": "ln_2", "fc1": "mlp.c_fc", "fc2": "mlp.c_proj", "out": "attn.c_proj"}
        name = f"h.{int(inner[0].removeprefix('decoder_block')) - 1}.{layers.get(inner[-1], 'attn.c_attn')}"
        if inner[-1] not in layers:
            part = ("query", "key", "value").index(inner[-1]), 3
    # Kernels lie as ours do, but for that of a head.
    return Place(f"{name}.{_LEAVES[leaf]}", turned=name == "head" and leaf == "kernel", part=part)


def _llama(path: str) -> Place:
    _, *inner, leaf = path.split("/")
    name = {"embed": "embed_tokens", "norm_head": "norm", "head": "head"}.get(inner[0])
    if name is None:
        layers = {"norm1": "input_layernorm", "norm2": "post_attention_layernorm"}
        layers |= {name: f"mlp.{name}_proj" for name in ("gate", "up", "down")}
        layers |= {name: f"self_attn.{name[0]}_proj" for name in ("query", "key", "value", "out")}
        name = f"layers.{int(inner[0].removeprefix('decoder_block')) - 1}.{layers[inner[-1]]}"
    return Place(f"{name}.{_LEAVES[leaf]}", turned=leaf == "kernel")


_QUESTIONS = Architecture(
    {"output": "token", "num_outputs": 2}, "qa_outputs", prefix="transformer.", evidence=("qa_outputs.weight",)
)


def _decoders(name: str, words: str, prefix: str, *, token_head: str) -> dict[str, Architecture]:
    """The architectures of a decoder: with logits of words, of the text, of each token, of answers, and bare."""
    of_tokens = (f"{token_head}.weight", f"{token_head}.bias")
    return {
        f"{name}{words}": Architecture(
            {"output": "next_token"}, "lm_head", prefix=prefix, evidence=("lm_head.weight",)
        ),
        f"{name}ForTokenClassification": Architecture(
            {"output": "token"}, token_head, "num_outputs", prefix, of_tokens
        ),
        f"{name}ForSequenceClassification": Architecture(
            {"output": "text"}, "score", "num_outputs", prefix, ("score.weight",)
        ),
        f"{name}ForQuestionAnswering": _QUESTIONS,
        f"{name}Model": Architecture({"output": "hidden"}),
    }


ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
}
"""Activations by their name there; "gelu_new" is the first of ours that has two."""

HEADS = r"(cls|lm_head|classifier|score|qa_outputs|pooler|multiple_choice_head)\..*"
"""A pattern of the tensors of heads, which have no prefix (but for the pooler, which only BERT has)."""

TIED = (
    ("lm_head.weight", "embed_tokens.weight"),
    ("lm_head.weight", "wte.weight"),
    ("cls.predictions.decoder.weight", "embeddings.word_embeddings.weight"),
    ("cls.predictions.decoder.bias", "cls.predictions.bias"),
)
"""Tensors that repeat another, where the two are tied."""

FAMILIES = {
    "bert": Family(
        BERT,
        architectures={
            "BertForMaskedLM": Architecture(
                {"masked_lm": True}, prefix="bert.", evidence=("cls.predictions.transform.dense.weight",)
            ),
            "BertForSequenceClassification": Architecture(
                {"masked_lm": False, "per_token": False},
                "classifier",
                "num_classes",
                "bert.",
                ("classifier.weight", "pooler.dense.weight"),
            ),
            "BertForTokenClassification": Architecture(
                {"masked_lm": False, "per_token": True}, "classifier", "num_classes", "bert.", ("classifier.weight",)
            ),
            "BertForQuestionAnswering": Architecture(
                {"masked_lm": False, "per_token": True, "num_classes": 2},
                "qa_outputs",
                prefix="bert.",
                evidence=("qa_outputs.weight",),
            ),
            "BertModel": Architecture({"masked_lm": False, "num_classes": 0}),
        },
        settings={
            "vocab_size": "vocab_size",
            "max_len": "max_position_embeddings",
            "num_segments": "type_vocab_size",
            "hidden_size": "hidden_size",
            "num_layers": "num_hidden_layers",
            "num_heads": "num_attention_heads",
            "mlp_dim": "intermediate_size",
            "activation": "hidden_act",
            "epsilon": "layer_norm_eps",
            "dropout_rate": "hidden_dropout_prob",
        },
        defaults={
            "vocab_size": 30_522,
            "max_position_embeddings": 512,
            "type_vocab_size": 2,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-12,
            "hidden_dropout_prob": 0.1,
        },
        only={
            "position_embedding_type": "absolute",
            "is_decoder": False,
            "add_cross_attention": False,
            "tie_word_embeddings": True,
        },
        place=_bert,
        left=r"embeddings\.(position_ids|token_type_ids)",
    ),
    "gpt2": Family(
        GPT,
        architectures=_decoders("GPT2", "LMHeadModel", "transformer.", token_head="classifier"),
        settings={
            "vocab_size": "vocab_size",
            "max_len": "n_positions",
            "hidden_size": "n_embd",
            "num_layers": "n_layer",
            "num_heads": "n_head",
            "mlp_dim": "n_inner",
            "activation": "activation_function",
            "epsilon": "layer_norm_epsilon",
            "dropout_rate": "resid_pdrop",
        },
        defaults={
            "vocab_size": 50_257,
            "n_positions": 1024,
            "n_embd": 768,
            "n_layer": 12,
            "n_head": 12,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5,
            "resid_pdrop": 0.1,
        },
        only={
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "add_cross_attention": False,
            "tie_word_embeddings": True,
        },
        place=_gpt,
        left=r"h\.\d+\.attn\.(bias|masked_bias)",
    ),
    "llama": Family(
        Llama,
        architectures={
            **_decoders("Llama", "ForCausalLM", "model.", token_head="score"),
            "LlamaForQuestionAnswering": _QUESTIONS._replace(prefix="transformer."),
        },
        settings={
            "vocab_size": "vocab_size",
            "max_len": "max_position_embeddings",
            "hidden_size": "hidden_size",
            "num_layers": "num_hidden_layers",
            "num_heads": "num_attention_heads",
            "num_kv_heads": "num_key_value_heads",
            "mlp_dim": "intermediate_size",
            "epsilon": "rms_norm_eps",
            "rotary_base": "rope_theta",
            "tied": "tie_word_embeddings",
        },
        defaults={
            "vocab_size": 32_000,
            "max_position_embeddings": 2048,
            "hidden_size": 4096,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "intermediate_size": 11_008,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10_000.0,
            "tie_word_embeddings": False,
        },
        only={
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
        },
        place=_llama,
        left=r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
    ),
}
"""By `model_type`."""
