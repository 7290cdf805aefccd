"""Files that are damaged, of something else, or made to do harm: each is refused by a line that names the entry."""

from __future__ import annotations

import json
import logging
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import zoo
from tests.descriptors import MODELS, random_variables
from tests.zoo.pretrained.test_hugging_face import built, configure, tensors
from zoo import pretrained
from zoo.pretrained.tensors import require_unpacked_size
from zoo.tensor_file import read_safetensors

OPTIONS = MODELS["resnet18"].small


@pytest.fixture
def llama(tmp_path):
    """A folder of a small Llama."""
    pretrained.to_hub(*built("llama"), tmp_path / "llama")
    return tmp_path / "llama"


@pytest.fixture
def resnet(tmp_path):
    """A folder of a small ResNet as timm writes one, without a configuration."""
    variables = random_variables(zoo.create_model("resnet18", **OPTIONS), np.zeros((1, 9, 9, 3), np.float32))
    folder = tmp_path / "resnet"
    folder.mkdir()
    safetensors.numpy.save_file(pretrained.to_torch("resnet18", variables, **OPTIONS), folder / "model.safetensors")
    return folder


# ---- configurations ----


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": "8"}, r"hidden_size of .*config\.json must be a whole number, not '8'"),
        (
            {"num_hidden_layers": 2.5},
            r"num_layers of .*config\.json \(there num_hidden_layers\) must be a whole number",
        ),
        ({"num_attention_heads": 0}, r"num_heads of .*\(there num_attention_heads\) must be at least 1, not 0"),
        ({"num_attention_heads": 3}, r"head_dim = 8 / 3, where the heads share hidden_size evenly"),
        ({"rms_norm_eps": []}, r"epsilon of .*\(there rms_norm_eps\) must be a number, not \[\]"),
        ({"tie_word_embeddings": "no"}, r"tied of .*\(there tie_word_embeddings\) must be True or False, not 'no'"),
        ({"architectures": "LlamaForCausalLM"}, r"architectures of .*config\.json must be a list of texts"),
        ({"architectures": [3]}, r"architectures of .*config\.json must be a list of texts"),
        ({"model_type": ["llama"]}, r"model_type of .*config\.json must be a text"),
        ({"rope_parameters": 3}, r"rope_parameters of .*config\.json must be values by name"),
        ({"rope_parameters": {"rope_theta": "high"}}, r"rotary_base of .*\(there rope_theta\) must be a number"),
        ({"dtype": "int4"}, r"dtype in .*config\.json must be float32, bfloat16, float16, not 'int4'"),
        ({"id2label": {"0": "a", "2": "b"}, "architectures": ["LlamaForSequenceClassification"]}, "1 is missing"),
        ({"id2label": ["a"]}, r"id2label of .*config\.json must be values by name"),
        (
            {"hidden_size": 10**9},
            r"config\.json asks for hidden_size = 1,000,000,000, and the weights beside it hold 1,",
        ),
        ({"num_hidden_layers": 10**5}, r"asks for num_layers = 100,000, and the weights beside it hold [\d,]+ numbers"),
        ({"num_hidden_layers": 900}, r"asks for a model of \d+,\d+ numbers, and the weights beside it hold 1,"),
    ],
)
def test_configurations_of_language_models(settings, message, llama):
    if "id2label" in settings and "architectures" in settings:
        tensors(llama, lambda state: {**state, "score.weight": np.zeros((2, 8), np.float32)})
    configure(llama, **settings)
    with pytest.raises(ValueError, match=message):
        pretrained.from_hub(llama)


@pytest.mark.parametrize("content", ["[]", "3", '"config"', "null", "[" * 100_000])
def test_configurations_that_are_no_objects(content, llama, resnet):
    for folder, load in ((llama, pretrained.from_hub), (resnet, lambda f: pretrained.load("resnet18", f, **OPTIONS))):
        (folder / "config.json").write_text(content)
        with pytest.raises(ValueError, match=r"config\.json (must hold a JSON object|is no JSON)"):
            load(folder)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"pretrained_cfg": 3}, r"pretrained_cfg of .*config\.json must be values by name, not 3"),
        ({"pretrained_cfg": {"mean": 0.5}}, r"mean of .*config\.json must be a list of numbers, not 0\.5"),
        ({"pretrained_cfg": {"mean": [0.5]}}, r"mean in .*config\.json must have a number for each of 3 channels"),
        ({"pretrained_cfg": {"std": [0, 1, 1]}}, r"std of .*config\.json must be greater than 0, not"),
        ({"pretrained_cfg": {"crop_pct": "all"}}, r"crop_pct of .*config\.json must be a number, not 'all'"),
        ({"pretrained_cfg": {"interpolation": 3}}, r"interpolation of .*config\.json must be a text, not 3"),
        ({"pretrained_cfg": {}, "num_classes": "three"}, r"num_classes of .*config\.json must be a whole number"),
        ({"pretrained_cfg": {}, "num_classes": -1}, r"num_classes of .*config\.json must be at least 0, not -1"),
        ({"pretrained_cfg": {}, "label_names": {"0": "a"}}, r"label_names of .*config\.json must be a list of texts"),
        (
            {"pretrained_cfg": {}, "num_classes": 3, "label_names": ["a"]},
            r"label_names in .* are 1, and num_classes is 3",
        ),
    ],
)
def test_configurations_of_timm(entry, message, resnet):
    (resnet / "config.json").write_text(json.dumps(entry))
    with pytest.raises(ValueError, match=message):
        pretrained.load("resnet18", resnet, **OPTIONS)


# ---- files that lead out of their folder ----


def in_parts(folder, part):
    """The weights under another name, which an index tells."""
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    keys = read_safetensors(folder / "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(keys, part)}))


@pytest.mark.parametrize("part", ["../secret/model.safetensors", "/etc/passwd", "a/../../secret/model.safetensors"])
def test_parts_outside_the_folder(part, llama, tmp_path):
    in_parts(llama, part)
    (tmp_path / "secret").mkdir()
    (llama / "part.safetensors").rename(tmp_path / "secret" / "model.safetensors")
    with pytest.raises(ValueError, match=r"which lies outside the folder at .*; copy the file into the folder"):
        pretrained.from_hub(llama)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "generation_config.json", "part.safetensors"])
def test_links_out_of_the_folder(name, llama, tmp_path):
    if name == "part.safetensors":
        in_parts(llama, name)
    (llama / "generation_config.json").write_text("{}")
    (llama / name).rename(tmp_path / "secret")
    (llama / name).symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=rf"names the file {name}, which lies outside the folder"):
        pretrained.from_hub(llama)


def test_links_inside_the_folder_and_to_the_folder(llama, tmp_path):
    in_parts(llama, "part.safetensors")
    (llama / "part.safetensors").rename(llama / "stored")
    (llama / "part.safetensors").symlink_to("stored")
    (tmp_path / "link").symlink_to(llama)
    assert pretrained.from_hub(tmp_path / "link").model == built("llama")[0]


def test_a_cache_of_the_hub(llama, tmp_path):
    """Its files are links to `blobs`, in the folder of the same repository; those of another one are not read."""
    cache = tmp_path / "hub" / "models--some--llama"
    snapshot = cache / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for file in llama.iterdir():
        file.rename(cache / "blobs" / file.name)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    assert pretrained.from_hub(snapshot).model == built("llama")[0]
    (cache / "blobs").rename(tmp_path / "hub" / "other")
    for file in snapshot.iterdir():
        file.unlink()
        file.symlink_to(f"../../../other/{file.name}")
    with pytest.raises(ValueError, match="lies outside the folder"):
        pretrained.from_hub(snapshot)


@pytest.mark.parametrize("parts", [3, {}, {"a": 3}, ["model.safetensors"], None])
def test_an_index_that_is_none(parts, llama):
    (llama / "model.safetensors").rename(llama / "part.safetensors")
    (llama / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    with pytest.raises(ValueError, match=r"weight_map in .*index\.json must hold the file of each tensor"):
        pretrained.from_hub(llama)


# ---- weights that are none ----


def change(folder, key, value):
    state = read_safetensors(folder / "model.safetensors")
    array = state[key].copy()
    array[0] = value
    safetensors.numpy.save_file({**state, key: array}, folder / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("fc.weight", np.nan, r"NaN or infinity in fc\.weight"),
        ("layer1.0.conv1.weight", -np.inf, r"NaN or infinity in layer1\.0\.conv1\.weight"),
        ("bn1.running_var", -0.1, r"negative variances in bn1\.running_var"),
    ],
)
def test_faults_are_said_and_not_converted(key, value, fault, resnet, tmp_path, caplog):
    change(resnet, key, value)
    file = resnet / "model.safetensors"
    with caplog.at_level(logging.WARNING, "zoo"):
        loaded = pretrained.load("resnet18", file, **OPTIONS)
    assert len(loaded.faults) == 1
    assert loaded.faults[0] in caplog.text
    with pytest.raises(ValueError, match=rf"have {fault}; they are saved nevertheless with allow_faults=True"):
        pretrained.convert("resnet18", file, tmp_path / "out", **OPTIONS)
    assert not (tmp_path / "out").exists()
    pretrained.convert("resnet18", file, tmp_path / "out", allow_faults=True, **OPTIONS)
    assert zoo.load_model(tmp_path / "out").model == loaded.model


def test_integers_and_many_faults_are_counted(resnet, caplog):
    state = {key: array.astype(np.int8) for key, array in read_safetensors(resnet / "model.safetensors").items()}
    safetensors.numpy.save_file(state, resnet / "model.safetensors")
    loaded = pretrained.load("resnet18", resnet / "model.safetensors", **OPTIONS)
    assert loaded.faults[0].startswith("integers where floats belong in ")
    assert loaded.faults[0].endswith(" … and 57 more")
    assert loaded.faults[0] in caplog.text


def test_faults_of_language_models(llama, caplog):
    change(llama, "model.norm.weight", np.nan)
    assert pretrained.from_hub(llama).faults == ("NaN or infinity in norm.weight",)
    assert "NaN or infinity in norm.weight" in caplog.text


# ---- what errors show ----


def test_names_of_files_are_escaped_and_long_lists_cut(resnet):
    state = read_safetensors(resnet / "model.safetensors")
    strange = {f"\x1b[31mlayer{i}\n": np.zeros(1, np.float32) for i in range(1000)}
    safetensors.numpy.save_file({**state, **strange}, resnet / "model.safetensors")
    with pytest.raises(ValueError, match="does not fit 'resnet18'") as error:
        pretrained.load("resnet18", resnet / "model.safetensors", **OPTIONS)
    text = str(error.value)
    assert "\x1b" not in text
    assert r"\x1b[31mlayer0\n [1]" in text
    assert text.count("unexpected: \\x1b") == 20
    assert "unexpected: … and 980 more" in text
    assert len(text) < 3000


def test_entries_of_a_state_dict_that_are_no_arrays():
    with pytest.raises(ValueError, match=r"the state dict must be arrays by name, as .* it has 3, epoch$"):
        pretrained.from_torch("resnet18", {3: np.zeros(1), "epoch": 7})


# ---- Keras ----


@pytest.fixture
def vgg(tmp_path):
    """Options and an old file of a small VGG."""
    h5py = pytest.importorskip("h5py")
    options = {**MODELS["vgg16"].small, "batch_norm": False}
    variables = random_variables(zoo.create_model("vgg16", **options), np.zeros((1, 4, 4, 3), np.float32))
    names = {"stage1_conv1": "block1_conv1", "stage2_conv1": "block2_conv1", "stage2_conv2": "block2_conv2"}
    with h5py.File(tmp_path / "vgg.h5", "w") as file:
        for path, entries in variables["params"].items():
            group = file.create_group({**names, "head": "predictions"}.get(path, path))
            group.attrs["weight_names"] = ["kernel:0", "bias:0"]
            group["kernel:0"], group["bias:0"] = entries["kernel"], entries["bias"]
        file.attrs["layer_names"] = list(file)
    return h5py, options, tmp_path / "vgg.h5"


def layer_names(value):
    def spoil(h5py, file):
        del file.attrs["layer_names"]
        if value is not None:
            file.attrs["layer_names"] = value

    return spoil


def weight_names(value):
    def spoil(h5py, file):
        file["fc1"].attrs["weight_names"] = value

    return spoil


def link(h5py, file):
    del file["fc1"]["bias:0"]
    file["fc1"]["bias:0"] = h5py.ExternalLink("other.h5", "/bias")


def text_for_numbers(h5py, file):
    del file["fc1"]["bias:0"]
    file["fc1"]["bias:0"] = ["a"] * 7


def group_for_array(h5py, file):
    del file["fc1"]["bias:0"]
    file["fc1"].create_group("bias:0")


def dataset_for_layers(h5py, file):
    file["layers"] = np.zeros(3)


def endless_outputs(h5py, file):
    """Nothing of it is stored."""
    for name, shape in (("kernel:0", (7, 10**12)), ("bias:0", (10**12,))):
        del file["predictions"][name]
        file["predictions"].create_dataset(name, shape, np.float32, chunks=(1,) * (len(shape) - 1) + (1024,))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (layer_names(None), "layer_names of / must list names"),
        (layer_names(3), "layer_names of / must list names"),
        (layer_names(["elsewhere"]), "/ has no elsewhere"),
        (weight_names(["\x1b[31m"]), r"/fc1 has no \\x1b\[31m"),
        (weight_names(7.5), "weight_names of /fc1 must list names"),
        (link, "bias:0 in /fc1 is a link, which may lead out of the file"),
        (text_for_numbers, "fc1/bias is of type object; weights are arrays of floats"),
        (group_for_array, "/fc1/bias:0 is no array of this file"),
        (dataset_for_layers, "/layers is an array, where a group is expected"),
        (endless_outputs, r"vgg\.h5 has [\d,]+ bytes, and its weights would have 32,000,000,0\d+,\d+"),
    ],
)
def test_files_of_keras(spoil, message, vgg):
    h5py, options, path = vgg
    options = {name: value for name, value in options.items() if name != "num_classes"}
    with h5py.File(path, "r+") as file:
        spoil(h5py, file)
    with pytest.raises(ValueError, match=message):
        pretrained.from_keras("vgg16", path, **options)


def test_archives_that_unpack_to_far_more(vgg, tmp_path):
    _, options, _ = vgg
    for name, inside in (("model.keras", "model.weights.h5"), ("model.pth", "archive/data.pkl")):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(inside, bytes(10**7))
    with pytest.raises(ValueError, match=r"model\.keras has [\d,]+ bytes, and its weights would have 10,000,000"):
        pretrained.from_keras("vgg16", tmp_path / "model.keras", **options)
    pytest.importorskip("torch")
    with pytest.raises(ValueError, match=r"model\.pth has [\d,]+ bytes, and its weights would have 10,000,000"):
        pretrained.load("resnet18", tmp_path / "model.pth", **OPTIONS)


# ---- dtypes ----


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt", "llama", "classes"])
@pytest.mark.parametrize("dtypes", [("bfloat16", "bfloat16"), ("bfloat16", "float32"), (None, "float16")])
def test_a_hub_model_keeps_its_dtypes(kind, dtypes, tmp_path):
    dtype, param_dtype = (name and jnp.dtype(name) for name in dtypes)
    model, variables = built(kind, dtype=dtype, param_dtype=param_dtype)
    pretrained.to_hub(model, variables, tmp_path)
    again, read = pretrained.from_hub(tmp_path)
    assert again.param_dtype == param_dtype
    assert again == (model if dtype else model.clone(dtype=param_dtype))
    jax.tree.map(np.testing.assert_array_equal, read, variables)
    assert {leaf.dtype for leaf in jax.tree.leaves(read)} == {param_dtype}
    assert pretrained.from_hub(tmp_path, param_dtype=jnp.float32).model.param_dtype == jnp.float32


def test_weights_may_unpack_to_ten_times_their_file(tmp_path):
    (tmp_path / "weights.pt").write_bytes(bytes(100))
    require_unpacked_size(tmp_path / "weights.pt", 1000)
    with pytest.raises(ValueError, match="has 100 bytes, and its weights would have 1,001"):
        require_unpacked_size(tmp_path / "weights.pt", 1001)
