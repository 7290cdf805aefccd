"""Attention and Transformers against PyTorch, Keras and Hugging Face's transformers: random weights, in float32."""

from __future__ import annotations

import copy
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy as safetensors_numpy

import zoo
from tests.descriptors import random_variables
from tests.parity import torchvision_ops  # noqa: F401  # else transformers cannot be imported
from tests.parity.torch_weights import tensor
from train import losses
from train.inference.text_generation import generate
from zoo import pretrained
from zoo.layers.attention import MultiHeadAttention, sinusoids
from zoo.tensor_file import read_safetensors
from zoo.text.transformer import Block

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def normal(*shape, seed=3):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def assert_close(actual, wanted, rtol=1e-5, name=""):
    actual, wanted = np.asarray(actual), np.asarray(wanted)
    assert actual.shape == wanted.shape
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=rtol * np.abs(wanted).max(), err_msg=name)


def attention_tensors(params):
    """The weights of `torch.nn.MultiheadAttention`, where those of query, key and value are one."""
    return {
        **{
            f"in_proj_{there}": torch.cat([tensor(params[name][here]) for name in ("query", "key", "value")])
            for here, there in (("kernel", "weight"), ("bias", "bias"))
        },
        "out_proj.weight": tensor(params["out"]["kernel"]),
        "out_proj.bias": tensor(params["out"]["bias"]),
    }


PADDED = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)


@pytest.mark.parametrize("kind", ["self", "cross", "causal", "padding", "causal and padding"])
def test_multi_head_attention(kind):
    x, memory = normal(2, 5, 12), normal(2, 5, 12, seed=4)
    layer = MultiHeadAttention(3)
    variables = random_variables(layer, x)
    theirs = torch.nn.MultiheadAttention(12, 3, batch_first=True)
    theirs.load_state_dict(attention_tensors(variables["params"]))
    source = memory if kind == "cross" else x
    options, their_options = {}, {}
    if "padding" in kind:
        options["mask"], their_options["key_padding_mask"] = PADDED[:, None, None], torch.from_numpy(~PADDED)
    if "causal" in kind:
        options["causal"] = True
        their_options["attn_mask"] = torch.from_numpy(~np.tri(5, dtype=bool))
    query, key = torch.from_numpy(x), torch.from_numpy(source)
    wanted, weights = theirs(query, key, key, average_attn_weights=False, **their_options)
    y, extra = layer.apply(variables, x, source, **options, mutable=["attention_weights"])
    assert_close(y, wanted.detach())
    assert_close(extra["attention_weights"]["weights"], weights.detach())


def layer_tensors(params, norms):
    """The weights of a layer of `torch.nn.Transformer`, whose norms are numbered in the order of use."""
    state = {f"self_attn.{key}": value for key, value in attention_tensors(params["attention"]).items()}
    if "cross_attention" in params:
        cross = attention_tensors(params["cross_attention"])
        state |= {f"multihead_attn.{key}": value for key, value in cross.items()}
    for number, name in enumerate(norms, start=1):
        state |= {
            f"norm{number}.weight": tensor(params[name]["scale"]),
            f"norm{number}.bias": tensor(params[name]["bias"]),
        }
    for number, name in enumerate(("fc1", "fc2"), start=1):
        state |= {
            f"linear{number}.{key}": tensor(params[name][leaf])
            for key, leaf in (("weight", "kernel"), ("bias", "bias"))
        }
    return state


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_encoder_layer(norm_first, activation):
    x, block = normal(2, 5, 12), Block(3, 7, norm_first=norm_first, activation=activation, epsilon=1e-5)
    variables = random_variables(block, x)
    theirs = torch.nn.TransformerEncoderLayer(12, 3, 7, 0.0, activation, batch_first=True, norm_first=norm_first)
    theirs.load_state_dict(layer_tensors(variables["params"], ("norm1", "norm2")))
    wanted = theirs(torch.from_numpy(x), src_key_padding_mask=torch.from_numpy(~PADDED))
    y, _ = block.apply(variables, x, mask=PADDED[:, None, None])
    assert_close(y, wanted.detach())


@pytest.mark.parametrize("norm_first", [False, True])
def test_decoder_layer(norm_first):
    x, memory = normal(2, 4, 12), normal(2, 5, 12, seed=4)
    block = Block(3, 7, norm_first=norm_first, epsilon=1e-5)
    params = jax.eval_shape(block.init, jax.random.key(0), x, memory)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(0.1, 0.4, leaf.shape).astype(np.float32), params)
    theirs = torch.nn.TransformerDecoderLayer(12, 3, 7, 0.0, batch_first=True, norm_first=norm_first)
    theirs.load_state_dict(layer_tensors(params, ("norm1", "norm_cross", "norm2")))
    wanted = theirs(
        torch.from_numpy(x),
        torch.from_numpy(memory),
        tgt_mask=torch.from_numpy(~np.tri(4, dtype=bool)),
        memory_key_padding_mask=torch.from_numpy(~PADDED),
    )
    y, _ = block.apply({"params": params}, x, memory, PADDED[:, None, None], causal=True)
    assert_close(y, wanted.detach())


def test_the_guides_classifier_in_keras():
    """Section 8.1 as it stands, but for the positions, which follow its equations and not its code."""
    keras = pytest.importorskip("keras")
    layers = keras.layers
    tokens = np.random.default_rng(1).integers(0, 20, (3, 10), np.int32)
    model = zoo.create_model(
        "transformer_classifier", vocab_size=20, hidden_size=12, num_heads=3, head_dim=12, mlp_dim=7
    )
    variables = random_variables(model, tokens)

    inputs = layers.Input((10,))
    x = layers.Embedding(20, 12, name="embed")(inputs) + sinusoids(10, 12)[None]
    y = layers.MultiHeadAttention(3, key_dim=12, name="attention")(x, x)
    x = layers.LayerNormalization(epsilon=1e-6, name="norm1")(x + y)
    y = layers.Dense(12, name="fc2")(layers.Dense(7, "relu", name="fc1")(x))
    x = layers.LayerNormalization(epsilon=1e-6, name="norm2")(x + y)
    x = layers.Dense(20, "relu", name="hidden")(layers.GlobalAveragePooling1D()(x))
    theirs = keras.Model(inputs, layers.Dense(2, "softmax", name="head")(x))

    params = {**variables["params"], **variables["params"]["encoder_block1"]}
    heads = params.pop("attention")
    for name in ("embed", "norm1", "fc1", "fc2", "norm2", "hidden", "head"):
        leaves = ("embedding", "scale", "kernel", "bias")
        theirs.get_layer(name).set_weights([params[name][leaf] for leaf in leaves if leaf in params[name]])
    split = [
        array.reshape(*array.shape[:-1], 3, 12)
        for name in ("query", "key", "value")
        for array in (heads[name]["kernel"], heads[name]["bias"])
    ]
    out = [heads["out"]["kernel"].reshape(3, 12, 12), heads["out"]["bias"]]
    theirs.get_layer("attention").set_weights([*split, *out])
    assert theirs.count_params() == sum(leaf.size for leaf in jax.tree.leaves(variables))
    with jax.numpy_rank_promotion("allow"):
        wanted = theirs(tokens)
    assert_close(jax.nn.softmax(model.apply(variables, tokens)), wanted)


def test_label_smoothing():
    logits, labels = normal(2, 4, 9), np.random.default_rng(1).integers(0, 9, (2, 4))
    theirs = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits).movedim(-1, 1), torch.from_numpy(labels), label_smoothing=0.1, reduction="none"
    )
    assert_close(losses.cross_entropy(jnp.asarray(logits), jnp.asarray(labels), label_smoothing=0.1), theirs)


SIZES = {"vocab_size": 11, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
GPT2 = {"vocab_size": 11, "n_positions": 12, "n_embd": 16, "n_layer": 2, "n_head": 4}
SPECIAL = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
KINDS = {
    "BertModel": ("BertConfig", SIZES),
    "BertForMaskedLM": ("BertConfig", {**SIZES, "hidden_act": "gelu_new"}),
    "BertForSequenceClassification": ("BertConfig", {**SIZES, "num_labels": 3}),
    "BertForTokenClassification": ("BertConfig", {**SIZES, "num_labels": 3}),
    "BertForQuestionAnswering": ("BertConfig", SIZES),
    "GPT2LMHeadModel": ("GPT2Config", {**GPT2, **SPECIAL, "activation_function": "relu", "n_inner": 20}),
    "LlamaForCausalLM": (
        "LlamaConfig",
        {**SIZES, **SPECIAL, "num_key_value_heads": 2, "max_position_embeddings": 12}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0}},
    ),
}
HEADS = ("Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
KINDS |= {f"GPT2{head}": ("GPT2Config", {**GPT2, **SPECIAL, "num_labels": 3}) for head in HEADS}
KINDS |= {f"Llama{head}": ("LlamaConfig", {**KINDS["LlamaForCausalLM"][1], "num_labels": 3}) for head in HEADS}
TOKENS = np.random.default_rng(0).integers(1, 11, (3, 7), np.int32)
MASK = np.array([[1] * 7, [1] * 4 + [0] * 3, [0] * 2 + [1] * 5], bool)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """By architecture: their model with random weights, the folder that it is saved in, and ours with those weights."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    @functools.cache
    def build(architecture):
        kind, options = KINDS[architecture]
        theirs = getattr(transformers, architecture)(getattr(transformers, kind)(**options)).eval()
        generator = torch.Generator().manual_seed(1)
        for name, parameter in theirs.named_parameters():
            is_scale = parameter.ndim == 1 and name.endswith("weight")
            torch.nn.init.normal_(parameter, float(is_scale), 0.1 if is_scale else 0.3, generator=generator)
        folder = tmp_path_factory.mktemp(architecture)
        theirs.save_pretrained(folder)
        return theirs, folder, *pretrained.from_hub(folder)

    return build


def output(theirs, **inputs):
    out = theirs(**{name: torch.from_numpy(np.int64(value)) for name, value in inputs.items()})
    if "start_logits" in out:
        return torch.stack([out.start_logits, out.end_logits], dim=-1).detach().numpy()
    kind = next(kind for kind in ("logits", "pooler_output", "last_hidden_state") if kind in out)
    return out[kind].detach().numpy()


@pytest.mark.parametrize("architecture", KINDS)
def test_logits(architecture, saved, tmp_path):
    """Theirs and ours, with and without padding on either side; and theirs again with what we have written."""
    theirs, folder, model, variables = saved(architecture)
    apply = jax.jit(model.apply)
    assert_close(apply(variables, TOKENS), output(theirs, input_ids=TOKENS))
    # Where padding stands in front, generation in transformers counts the positions from the first token.
    where = {"position_ids": np.maximum(MASK.cumsum(axis=1) - 1, 0)} if "GPT" in architecture else {}
    # Their classifiers of texts find the last token by what is no padding token.
    tokens = np.where(MASK, TOKENS, 0)
    wanted = output(theirs, input_ids=tokens, attention_mask=MASK, **where)
    y = np.asarray(apply(variables, tokens, mask=MASK))
    pooled = MASK[:, 0] if "Bert" in architecture else MASK.any(axis=1)  # BERT's is the first token
    kept = MASK if y.ndim == 3 else pooled
    assert_close(y[kept], wanted[kept])
    pretrained.to_hub(model, variables, tmp_path, config=pretrained.from_hub(folder).config)
    again, told = type(theirs).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(told.values())
    np.testing.assert_array_equal(output(again.eval(), input_ids=TOKENS), output(theirs, input_ids=TOKENS))


def test_hidden_states_and_segments_of_bert(saved):
    theirs, _, model, variables = saved("BertModel")
    segments = np.arange(7)[None] // 4 * np.ones((3, 1), int)
    tensors = [torch.from_numpy(np.int64(x)) for x in (TOKENS, MASK, segments)]
    wanted = theirs(*tensors).last_hidden_state.detach().numpy()
    hidden = np.asarray(model.apply(variables, TOKENS, MASK, np.int32(segments), method="encode"))
    assert_close(hidden[MASK], wanted[MASK])


@pytest.mark.parametrize("architecture", ["GPT2LMHeadModel", "LlamaForCausalLM"])
def test_greedy_generation_token_for_token(architecture, saved):
    theirs, _, model, variables = saved(architecture)
    options = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones(3, 4, dtype=torch.long)}
    wanted = theirs.generate(torch.from_numpy(np.int64(TOKENS[:, :4])), **options)[:, 4:]
    np.testing.assert_array_equal(generate(model, variables, TOKENS[:, :4], 8, greedy=True), wanted)
    assert len({tuple(row) for row in wanted.tolist()}) > 1, "not one text for all prompts"


def test_gradients_of_gpt2(saved, tmp_path):
    """Of the mean cross-entropy of the next token, for every parameter."""
    theirs, _, model, variables = saved("GPT2LMHeadModel")
    theirs.zero_grad()
    theirs(torch.from_numpy(np.int64(TOKENS)), labels=torch.from_numpy(np.int64(TOKENS))).loss.backward()

    @jax.jit
    @jax.grad
    def gradient(variables):
        return losses.cross_entropy(model.apply(variables, TOKENS)[:, :-1], TOKENS[:, 1:]).mean()

    pretrained.to_hub(model, gradient(variables), tmp_path)
    found = read_safetensors(tmp_path / "model.safetensors")
    wanted = {key: parameter.grad.numpy() for key, parameter in theirs.named_parameters()}
    greatest = max(np.abs(grad).max() for grad in wanted.values())
    assert set(found) == set(wanted)
    for key, grad in wanted.items():
        atol = 1e-5 * max(np.abs(grad).max(), 1e-2 * greatest)
        np.testing.assert_allclose(found[key], grad, rtol=0, atol=atol, err_msg=key)


def test_parts_of_a_file_that_transformers_wrote(saved, tmp_path):
    """Sharded, and in bfloat16."""
    theirs, _, model, _ = saved("LlamaForCausalLM")
    copy.deepcopy(theirs).to(torch.bfloat16).save_pretrained(tmp_path, max_shard_size="3KB")
    assert len(json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]) > 10
    again, read = pretrained.from_hub(tmp_path)
    assert again == model.clone(dtype=jnp.dtype("bfloat16"), param_dtype=jnp.dtype("bfloat16"))
    wanted = {key: value.to(torch.bfloat16).float().numpy() for key, value in theirs.state_dict().items()}
    np.testing.assert_array_equal(read["params"]["embed"]["embedding"], wanted["model.embed_tokens.weight"])
    np.testing.assert_array_equal(read["params"]["head"]["kernel"].T, wanted["lm_head.weight"])


def test_what_a_configuration_says_beside_the_model_comes_back(saved, tmp_path):
    """Stop tokens, how text is generated, and labels, as transformers reads them of what we have written."""
    theirs, _, _, _ = saved("GPT2ForTokenClassification")
    theirs = copy.deepcopy(theirs)
    theirs.config.eos_token_id, theirs.config.bos_token_id = 7, 6
    theirs.config.id2label, theirs.config.label2id = {0: "ant", 1: "bee", 2: "cat"}, {"ant": 0, "bee": 1, "cat": 2}
    theirs.save_pretrained(tmp_path / "theirs")
    generation = transformers.GenerationConfig(eos_token_id=[7, 8], top_k=5, do_sample=True)
    generation.save_pretrained(tmp_path / "theirs")
    loaded = pretrained.from_hub(tmp_path / "theirs")
    assert loaded.classes == ("ant", "bee", "cat")
    assert (loaded.config["eos_token_id"], loaded.config["generation_config"]["eos_token_id"]) == (7, [7, 8])
    pretrained.to_hub(*loaded, tmp_path / "ours", classes=loaded.classes, config=loaded.config)
    for name in ("eos_token_id", "bos_token_id", "pad_token_id", "id2label", "label2id", "num_labels", "architectures"):
        told = transformers.AutoConfig.from_pretrained(tmp_path / "ours")
        assert getattr(told, name) == getattr(theirs.config, name), name
    assert transformers.GenerationConfig.from_pretrained(tmp_path / "ours").to_diff_dict() == generation.to_diff_dict()
    pretrained.to_hub(*loaded, tmp_path / "named", classes=("x", "y", "z"))
    assert transformers.AutoConfig.from_pretrained(tmp_path / "named").id2label == {0: "x", 1: "y", 2: "z"}
    with pytest.raises(ValueError, match="the model has 3 outputs, and 2 classes are named"):
        pretrained.to_hub(*loaded, tmp_path / "other", classes=("x", "y"))


@pytest.mark.parametrize("architecture", KINDS)
def test_a_configuration_that_names_no_architecture(architecture, saved, tmp_path):
    """The tensors tell it, as far as they do: transformers too takes what it is asked for."""
    _, folder, model, variables = saved(architecture)
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    del config["architectures"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    again, read = pretrained.from_hub(tmp_path)
    assert again == model
    jax.tree.map(np.testing.assert_array_equal, read, variables)


@pytest.mark.parametrize("family", ["GPT2", "Llama"])
def test_the_last_hidden_state_of_a_file_with_a_head(family, saved):
    words = {"GPT2": "GPT2LMHeadModel", "Llama": "LlamaForCausalLM"}[family]
    theirs, folder, _, _ = saved(words)
    model, variables = pretrained.from_hub(folder, architecture=f"{family}Model")
    assert_close(jax.jit(model.apply)(variables, TOKENS), output(theirs.base_model, input_ids=TOKENS))


def test_the_last_hidden_state_of_a_bert_that_does_not_pool(saved):
    theirs, folder, _, _ = saved("BertForMaskedLM")
    model, variables = pretrained.from_hub(folder, architecture="BertModel")
    assert_close(jax.jit(model.apply)(variables, TOKENS), output(theirs.bert, input_ids=TOKENS))
    with pytest.raises(ValueError, match="unknown option of BertModel here: 'maxlen'; nearest: max_len"):
        pretrained.from_hub(folder, architecture="BertModel", maxlen=3)


def test_files_that_keep_tied_weights_under_the_name_of_the_head(saved, tmp_path):
    theirs, folder, _, variables = saved("GPT2LMHeadModel")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    safetensors_torch = pytest.importorskip("safetensors.torch")
    safetensors_torch.save_model(theirs, str(tmp_path / "model.safetensors"))
    kept = read_safetensors(tmp_path / "model.safetensors")
    assert len({"lm_head.weight", "transformer.wte.weight"} & set(kept)) == 1
    table = kept.pop("transformer.wte.weight") if "transformer.wte.weight" in kept else kept.pop("lm_head.weight")
    for name in ("lm_head.weight", "transformer.wte.weight"):
        safetensors_numpy.save_file({**kept, name: table}, tmp_path / "model.safetensors")
        jax.tree.map(np.testing.assert_array_equal, pretrained.from_hub(tmp_path).variables, variables)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8])
def test_the_causal_masks_of_old_files_of_gpt2(dtype, saved, tmp_path):
    _, folder, _, variables = saved("GPT2LMHeadModel")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    masks = {f"transformer.h.{i}.attn.bias": np.tri(12, dtype=dtype)[None, None] for i in range(2)}
    state = read_safetensors(folder / "model.safetensors") | masks
    safetensors_numpy.save_file(state, tmp_path / "model.safetensors")
    loaded = pretrained.from_hub(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, variables)
    assert loaded.faults == ()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "LlamaModel", "GPT2LMHeadModel"])
def test_prefixes_of_wrappers(architecture, prefix, saved, tmp_path):
    _, folder, _, variables = saved(architecture)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    state = {prefix + key: tensor for key, tensor in read_safetensors(folder / "model.safetensors").items()}
    safetensors_numpy.save_file(state, tmp_path / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, pretrained.from_hub(tmp_path).variables, variables)
