"""Folders in Hugging Face's format: round trips, and every way in which one may not fit."""

from __future__ import annotations

import json
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import zoo
from tests.descriptors import random_variables
from zoo import pretrained
from zoo.tensor_file import read_safetensors

SMALL = {"vocab_size": 11, "max_len": 8, "hidden_size": 8, "num_layers": 2, "num_heads": 4, "mlp_dim": 12}
MODELS = {
    "features": ("bert_tiny", {}),
    "classes": ("bert_tiny", {"num_classes": 3}),
    "masked words": ("bert_tiny", {"masked_lm": True, "activation": "gelu_tanh"}),
    "gpt": ("gpt2", {"activation": "gelu"}),
    "llama": ("llama_15m", {"num_kv_heads": 2, "tied": False, "rotary_base": 500.0}),
    "tied llama": ("llama_15m", {"num_kv_heads": 4, "tied": True}),
}
TOKENS = np.zeros((1, 1), np.int32)


def built(kind, **options):
    name, others = MODELS[kind]
    model = zoo.create_model(name, **{**SMALL, **others, **options})
    return model, random_variables(model, TOKENS)


def assert_same(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.fixture
def folder(tmp_path):
    """A small Llama, saved."""
    pretrained.to_hub(*built("llama"), tmp_path / "llama")
    return tmp_path / "llama"


def configure(folder, **settings):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **settings}))


def tensors(folder, change):
    state = read_safetensors(folder / "model.safetensors")
    safetensors.numpy.save_file(change(dict(state)), folder / "model.safetensors")


@pytest.mark.parametrize("kind", MODELS)
def test_there_and_back_is_the_identity(kind, tmp_path):
    model, variables = built(kind)
    pretrained.to_hub(model, variables, tmp_path)
    again, read = pretrained.from_hub(tmp_path)
    assert again == model
    assert_same(read, variables)
    stored = sum(array.size for array in read_safetensors(tmp_path / "model.safetensors").values())
    assert stored == sum(leaf.size for leaf in jax.tree.leaves(variables)), "what is tied is stored once"


def test_a_gpt_without_biases_gets_some_of_zero(tmp_path):
    model, variables = built("gpt", use_bias=False)
    pretrained.to_hub(model, variables, tmp_path)
    again, read = pretrained.from_hub(tmp_path)
    assert again == model.clone(use_bias=True)
    np.testing.assert_array_equal(
        again.apply(read, np.arange(8)[None]), model.apply(variables, np.arange(8, dtype=np.int32)[None])
    )


def test_weights_in_bfloat16_and_in_parts(folder):
    model, variables = built("llama")
    state = {key: array.astype(jnp.bfloat16) for key, array in read_safetensors(folder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    names = {key: f"model-{index % 2}.safetensors" for index, key in enumerate(state)}
    for file in set(names.values()):
        safetensors.numpy.save_file({key: state[key] for key in state if names[key] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    again, read = pretrained.from_hub(folder)
    assert again == model
    assert_same(read, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(np.float32), variables))
    again, read = pretrained.from_hub(folder, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(read)} == {jnp.dtype(jnp.bfloat16)}
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model-1\.safetensors"):
        pretrained.from_hub(folder)


def test_a_copy_of_tied_weights_is_passed_over_if_it_is_one(tmp_path):
    model, variables = built("tied llama")
    pretrained.to_hub(model, variables, tmp_path)
    embedding = variables["params"]["embed"]["embedding"]
    tensors(tmp_path, lambda state: {**state, "lm_head.weight": embedding})
    assert_same(pretrained.from_hub(tmp_path)[1], variables)
    tensors(tmp_path, lambda state: {**state, "lm_head.weight": embedding + 1})
    with pytest.raises(ValueError, match=r"lm_head\.weight is not embed_tokens\.weight, to which"):
        pretrained.from_hub(tmp_path)


def test_names_of_old_files(tmp_path):
    """Norms with gamma and beta, buffers, and heads of other tasks, as the first BERT has them."""
    model, variables = built("masked words")
    pretrained.to_hub(model, variables, tmp_path)
    words = variables["params"]["embed"]["embedding"]

    def old(state):
        renamed = {
            key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): array
            for key, array in state.items()
        }
        return renamed | {
            "bert.embeddings.position_ids": np.arange(8)[None],
            "cls.predictions.decoder.weight": words,
            "cls.seq_relationship.weight": np.ones((2, 8), np.float32),
            "bert.pooler.dense.weight": np.ones((8, 8), np.float32),
            "bert.pooler.dense.bias": np.ones(8, np.float32),
        }

    tensors(tmp_path, old)
    assert_same(pretrained.from_hub(tmp_path)[1], variables)
    encoder, read = pretrained.from_hub(tmp_path, architecture="BertModel")
    assert not encoder.masked_lm
    np.testing.assert_array_equal(read["params"]["embed"]["embedding"], words)
    assert np.all(read["params"]["pooler"]["kernel"] == 1)
    with pytest.raises(ValueError, match="unknown architecture: 'BertForPreTraining'; nearest: BertFor"):
        pretrained.from_hub(tmp_path, architecture="BertForPreTraining")


def test_settings_that_are_left_out_have_hugging_faces_defaults(tmp_path):
    model, variables = built("gpt", activation="gelu_tanh")
    pretrained.to_hub(model, variables, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    kept = {"model_type", "vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner"}
    (tmp_path / "config.json").write_text(json.dumps({key: config[key] for key in kept}))
    assert pretrained.from_hub(tmp_path)[0] == model


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "mistral"}, r"config\.json: unknown model_type: 'mistral'; known: bert, gpt2, llama"),
        ({"architectures": ["LlamaForChess"]}, "unknown architecture: 'LlamaForChess'; nearest: LlamaForCausalLM"),
        ({"hidden_act": "gelu"}, r"asks for what Llama does not have:\n  hidden_act = 'gelu', where 'silu'"),
        ({"attention_bias": True}, "attention_bias = True, where False is what it computes"),
        ({"head_dim": 16}, "head_dim = 16, where the heads share hidden_size evenly: 2"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rope_type = 'llama3', where 'default'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": None}, "rope_type = 'linear'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config = {'bits': 4}, where None"),
    ],
)
def test_a_configuration_that_asks_for_something_else(folder, settings, message):
    configure(folder, **settings)
    with pytest.raises(ValueError, match=message):
        pretrained.from_hub(folder)


def test_an_activation_that_is_not_here(tmp_path):
    pretrained.to_hub(*built("gpt"), tmp_path)
    configure(tmp_path, activation_function="quick_gelu")
    with pytest.raises(ValueError, match="an activation 'quick_gelu', where it has gelu, gelu_new"):
        pretrained.from_hub(tmp_path)


def test_rotary_bases_of_old_and_new_configurations(folder):
    assert pretrained.from_hub(folder)[0].rotary_base == 500.0
    configure(folder, rope_parameters=None, rope_theta=700.0, rope_scaling=None)
    assert pretrained.from_hub(folder)[0].rotary_base == 700.0


def test_tensors_that_do_not_fit_are_all_named(folder):
    def change(state):
        state["model.norm.weigth"] = state.pop("model.norm.weight")
        state["lm_head.weight"] = state["lm_head.weight"][:5].copy()
        return state

    tensors(folder, change)
    with pytest.raises(ValueError, match="are not those of LlamaForCausalLM with this configuration:") as error:
        pretrained.from_hub(folder)
    lines = str(error.value).splitlines()
    assert lines[1:] == [
        "  missing: norm.weight [8]",
        "  unexpected: norm.weigth [8]",
        "  of another shape: lm_head.weight [5, 8], not [11, 8]",
    ]


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (lambda f: (f / "config.json").unlink(), FileNotFoundError, "has no config.json; is it a folder that"),
        (lambda f: (f / "config.json").write_text("{"), ValueError, "config.json is no JSON"),
        (lambda f: (f / "model.safetensors").write_text("?"), ValueError, "is no safetensors file"),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            FileNotFoundError,
            "has no model.safetensors; it has pytorch_model.bin, which transformers' save_pretrained makes",
        ),
    ],
)
def test_damaged_folders(folder, spoil, kind, message):
    spoil(folder)
    with pytest.raises(kind, match=message):
        pretrained.from_hub(folder)


def test_what_cannot_be_written(folder, tmp_path):
    model, variables = built("llama")
    with pytest.raises(FileExistsError, match=r"config\.json exists; choose another folder or remove it"):
        pretrained.to_hub(model, variables, folder)
    with pytest.raises(
        ValueError, match=r"not the variables of this Llama:\n  of another shape: params/embed/embedding"
    ):
        pretrained.to_hub(model.clone(vocab_size=12), variables, tmp_path / "new")
    with pytest.raises(ValueError, match="format is known for BERT, GPT, Llama, not for Dense"):
        pretrained.to_hub(nn.Dense(1), {}, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_repository_is_fetched(folder, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    model, _ = pretrained.from_hub("someone/small-llama")
    assert model == built("llama")[0]
    assert asked == [
        (
            "someone/small-llama",
            [
                *("config.json", "generation_config.json", "model.safetensors.index.json", "tokenizer.json"),
                "model*.safetensors",
                *(
                    "README.md",
                    "recipe.json",
                    "report.json",
                    "history.csv",
                    "vocabulary.json",
                ),  # where it is one of ours
            ],
        )
    ]


def test_repositories_that_cannot_be_fetched(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def offline(*args, **kwargs):
        raise hub.errors.LocalEntryNotFoundError("no network\nand a long story")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(OSError, match=r"there is no folder some/one, and the hub did not give it: no network$"):
        pretrained.from_hub("some/one")
    with pytest.raises(FileNotFoundError, match="there is no folder nothing; a repository is named such as"):
        pretrained.from_hub("nothing")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r'needs huggingface_hub: pip install "flaxzoo\[hub\]"'):
        pretrained.from_hub("some/one")


def test_the_tokenizer_of_a_folder(folder, monkeypatch):
    tokenizers = pytest.importorskip("tokenizers")
    with pytest.raises(FileNotFoundError, match=r"there is no .*tokenizer\.json; transformers' AutoTokenizer"):
        pretrained.load_tokenizer(folder)
    words = tokenizers.models.WordLevel({"the": 0, "zoo": 1, "?": 2}, unk_token="?")
    made = tokenizers.Tokenizer(words)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(folder / "tokenizer.json"))
    assert pretrained.load_tokenizer(folder).encode("the zoo opens").ids == [0, 1, 2]
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r'needs tokenizers: pip install "flaxzoo\[hub\]"'):
        pretrained.load_tokenizer(folder)
