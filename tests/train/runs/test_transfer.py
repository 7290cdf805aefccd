"""Transfer learning: which layers are trained, and what starts from weights starts from them."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import zoo
from tests.descriptors import MODELS, random_variables
from tests.train.optim.small_resnet import SMALL, batch_of_images, flat, same_bits, small_resnet, start
from train.inference.loading import load as load_run
from train.inference.loading import read_recipe
from train.inference.prediction import predict
from train.recipe import Recipe
from train.runs import transfer
from train.runs.build import build
from train.runs.run import train
from train.state import State
from train.tasks.step import start_from
from zoo import pretrained
from zoo.summary import abstract_variables

BLOCK = [f"stage1_block1/{layer}" for layer in ("conv1", "norm1", "conv2", "norm2")]


@pytest.fixture
def batch():
    return batch_of_images()


@pytest.fixture(scope="module")
def model():
    return small_resnet()


# ---- which layers ----


def test_layers_in_the_order_of_execution(model, batch):
    assert transfer.layer_order(model, batch["image"]) == ["conv_stem", "norm_stem", *BLOCK, "head"]


def test_the_models_own_parameters_come_first():
    row = MODELS["vit_tiny_patch16_224"]
    vit = zoo.create_model("vit_tiny_patch16_224", **row.small)
    order = transfer.layer_order(vit, np.zeros((1, *row.shape), np.float32))
    assert order[:2] == ["", "embed"]
    assert order[-2:] == ["norm_head", "head"]
    frozen = transfer.frozen_layers(vit, np.zeros((1, *row.shape), np.float32), trained_layers=2)
    assert frozen("class_token")
    assert not frozen("norm_head/scale")


def trained(model, x, **options):
    frozen = transfer.frozen_layers(model, x, **options)
    paths = flat(abstract_variables(model, x)["params"])
    return [
        path
        for path in transfer.layer_order(model, x)
        if any(p.startswith(f"{path}/") and not frozen(p) for p in paths)
    ]


def test_layers_by_number_and_by_wildcard(model, batch):
    x = batch["image"]
    order = transfer.layer_order(model, x)
    assert transfer.frozen_layers(model, x) is None
    assert transfer.frozen_layers(model, x, trained_layers=7) is None
    assert trained(model, x, trained_layers=1) == ["head"]
    assert trained(model, x, trained_layers=4) == order[-4:]
    assert trained(model, x, layer_rates={"head": 1e-3, "*": 0}) == ["head"]
    assert trained(model, x, layer_rates={"conv_stem": 0, "norm_stem": 0}) == order[2:]
    assert trained(model, x, trained_layers=1, layer_rates={"conv_stem": 1e-5}) == ["conv_stem", "head"]
    assert trained(model, x, layer_rates={"*/conv2": 1e-5, "stage*": 0}) == [*order[:2], BLOCK[2], "head"]


def test_head_is_the_last_layer_whatever_its_name(model, batch):
    lenet, x = zoo.create_model("lenet5"), np.zeros((1, 32, 32, 1), np.float32)
    named = transfer.named_layer_rates(lenet, x, {"c1": 0, "head": 1e-3, "*": 1e-4})
    assert list(named.items()) == [("c1", 0), ("output", 1e-3), ("*", 1e-4)]
    assert transfer.named_layer_rates(lenet, x, {"head": 1e-3, "output": 0.1}) == {"output": 0.1}
    assert transfer.named_layer_rates(lenet, x, {"c1": 0}) == {"c1": 0}
    assert transfer.named_layer_rates(model, batch["image"], {"head": 1e-3}) == {"head": 1e-3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trained_layers": 0}, "trained_layers must be from 1 to the 7 layers of the model, not 0"),
        ({"trained_layers": 8}, "from 1 to the 7 layers"),
        ({"layer_rates": {"haed": 1}}, "unknown layer in layer_rates: 'haed'; nearest: head"),
        ({"layer_rates": {"head": -1}}, "at least 0, not head=-1"),
        ({"layer_rates": {"head": "fast"}}, "at least 0, not head='fast'"),
        ({"layer_rates": {"*": 0}}, "freeze every parameter"),
    ],
)
def test_layers_that_are_wrong(model, batch, options, message):
    with pytest.raises(ValueError, match=message):
        transfer.frozen_layers(model, batch["image"], **options)


# ---- starting from weights ----


def test_variables_of_another_model_are_refused(model, batch):
    state = State(jnp.int32(0), start(model, batch["image"])["params"], {}, (), jax.random.key(0))
    with pytest.raises(ValueError, match="variables of another model") as error:
        start_from(state, {"params": {"head": {"kernel": np.zeros((4, 5))}, "tail": {"bias": np.zeros(2)}}})
    assert str(error.value).splitlines()[1:] == [
        "  params/head/kernel [4, 5], where the model has [4, 3]",
        "  params/tail/bias [2], where the model has none",
    ]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of pictures of two kinds, 12 of each to train and 4 to test."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for name, colour in (("leaf", (20, 200, 20)), ("sky", (40, 60, 220))):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = np.clip(np.array(colour) + rng.normal(0, 25, (9, 7, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{index}.jpg")
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Folders and files of weights of a small ResNet with five classes."""
    folder = tmp_path_factory.mktemp("weights")
    network = zoo.create_model("resnet18", num_classes=5, **SMALL)
    variables = random_variables(network, np.zeros((1, 6, 6, 3), np.float32))
    prepared = pretrained.Preprocessing(6, 0.75, "bicubic", (0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    zoo.save_model(folder / "saved", "resnet18", variables, preprocessing=prepared._asdict(), num_classes=5, **SMALL)
    state = pretrained.to_torch("resnet18", variables, num_classes=5, **SMALL)
    safetensors.numpy.save_file(state, folder / "model.safetensors")
    return folder, variables


def recipe(pictures, weights, **changes):
    base = Recipe(
        model="resnet18",
        data=f"folder:{pictures}",
        model_options={name: list(value) if isinstance(value, tuple) else value for name, value in SMALL.items()},
        weights=str(weights),
        batch_size=8,
        epochs=2.0,
        validation=8,
    )
    return dataclasses.replace(base, **changes)


def two_classes():
    return zoo.create_model("resnet18", num_classes=2, **SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["saved", "model.safetensors"])
def test_a_recipe_starts_from_weights_with_a_new_head(pictures, weights, kind):
    folder, variables = weights
    resolved = transfer.resolve(recipe(pictures, folder / kind, data_options={"image_size": 6}))
    found = transfer.start_variables(resolved, two_classes(), np.zeros((2, 6, 6, 3), np.float32))
    wanted = {**variables, "params": {k: v for k, v in variables["params"].items() if k != "head"}}
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.slow
def test_weights_bring_options_and_preprocessing(pictures, weights):
    bare = recipe(pictures, weights[0] / "saved", model_options={}, data_options={"crop": 1.0})
    resolved = transfer.resolve(bare)
    assert resolved.model_options == {"features": 4, "stage_sizes": [1], "stem": "cifar"}
    assert resolved.data_options == {
        "image_size": 6,
        "crop": 1.0,
        "interpolation": "bicubic",
        "mean": [0.1, 0.2, 0.3],
        "std": [0.5, 0.5, 0.5],
        "squash": False,
        "channels": 3,
    }
    assert transfer.resolve(resolved) == resolved
    assert transfer.resolve(dataclasses.replace(bare, weights=None)) == dataclasses.replace(bare, weights=None)


def test_without_preprocessing_pictures_are_as_the_model_is_made_for(pictures, caplog):
    bare = Recipe(model="", data=f"folder:{pictures}", weights="lenet5_mnist", layer_rates={"head": 1e-3}, batch_size=8)
    resolved = transfer.resolve(bare)
    assert (resolved.model, resolved.data_options) == ("lenet5", {"image_size": [32, 32], "channels": 1})
    (told,) = caplog.messages
    assert told.startswith("pictures are read as 32×32 in grey, the size that lenet5 is made for; what else was")
    assert "mnist, which the weights lenet5_mnist know" in told
    assert transfer.resolve(dataclasses.replace(bare, data="digits")).data_options == {}
    params = build(resolved).task.init(jax.random.key(0), batch_of_grey()).params
    assert sorted(params) == ["c1", "c3", "c5", "f6", "output"]


def batch_of_grey():
    return {"image": np.zeros((2, 32, 32, 1), np.float32), "label": np.zeros(2, np.int32)}


@pytest.mark.slow
def test_the_same_head(pictures, weights, tmp_path):
    x = np.zeros((1, 6, 6, 3), np.float32)
    variables = random_variables(two_classes(), x)
    zoo.save_model(tmp_path / "two", "resnet18", variables, num_classes=2, **SMALL)
    found = transfer.start_variables(recipe(pictures, tmp_path / "two", new_head=False), two_classes(), x)
    jax.tree.map(np.testing.assert_array_equal, found, variables)
    with pytest.raises(ValueError, match=r"do not fit 'resnet18'.*(?s:.)*params/head/kernel \[4, 5\], not \[4, 2\]"):
        transfer.start_variables(recipe(pictures, weights[0] / "saved", new_head=False), two_classes(), x)


@pytest.mark.slow
def test_weights_that_are_wrong(pictures, weights, tmp_path):
    saved = weights[0] / "saved"
    with pytest.raises(ValueError, match="are those of 'resnet18', not of 'resnet34'"):
        transfer.resolve(recipe(pictures, saved, model="resnet34"))
    with pytest.raises(FileNotFoundError, match="there is no folder nowhere"):
        transfer.resolve(recipe(pictures, "nowhere"))
    wrong = recipe(pictures, saved, data_options={"image_size": 6}, model_options={**SMALL, "features": 8})
    with pytest.raises(
        ValueError, match=r"do not fit 'resnet18'.*\n  of another shape: batch_stats/norm_stem/mean \[4\]"
    ):
        build(wrong)
    unlabelled = recipe(pictures, saved, task="regression", data="sum_sequence", validation=0)
    with pytest.raises(ValueError, match=r"does not fit|takes images"):
        build(unlabelled)


# ---- a run ----


@pytest.fixture(scope="module")
def run(pictures, weights, tmp_path_factory):
    """A run with all that belongs to it: frozen layers, augmentation, plateau, interrupted and not."""
    folder = tmp_path_factory.mktemp("runs")
    settings = recipe(
        pictures,
        weights[0] / "saved",
        epochs=8.0,
        trained_layers=3,
        layer_rates={"head": 0.3},
        augmentation="guide",
        plateau_options={"patience": 3, "factor": 0.5, "least_change": 10.0},
        precision="bfloat16",
    )
    report = train(settings, folder / "run", progress=False)
    return folder / "run", settings, report


@pytest.mark.slow
def test_a_run_from_weights(run):
    folder, _, report = run
    assert report["test_accuracy"] >= 0.75
    names = {path.name for path in folder.iterdir()}
    assert {"recipe.json", "confusion_matrix.png", "history.csv", "tensorboard", "report.json", "curves.png"} <= names


@pytest.mark.slow
def test_frozen_layers_of_a_run(run, weights):
    _, variables = zoo.load_model(run[0])
    frozen = transfer.frozen_layers(zoo.create_model("resnet18", **SMALL), np.zeros((1, 6, 6, 3)), trained_layers=3)
    for path, leaf in flat(variables["params"]).items():
        if frozen(path):
            assert same_bits(leaf, flat(weights[1]["params"])[path])


@pytest.mark.slow
def test_a_run_predicts_where_its_pictures_are_not(run, pictures, tmp_path, monkeypatch):
    """Class names and preprocessing lie in the checkpoint."""
    file = next((pictures / "test" / "sky").iterdir())
    wanted = predict(run[0], [file])
    moved = pictures.rename(tmp_path / "elsewhere")
    try:
        found = predict(run[0], [moved / "test" / "sky" / file.name])
    finally:
        moved.rename(pictures)
    assert list(found[0].probabilities) == ["leaf", "sky"]
    assert found[0].probabilities == wanted[0].probabilities
    assert load_run(run[0]).dataset.reader.interpolation == "bicubic"


@pytest.mark.slow
def test_resumption_is_exact(run, weights, tmp_path, monkeypatch):
    """With augmentation, frozen layers and a learning rate that falls on a plateau; and without the first weights."""
    from train.loop import fitting as loop

    _, settings, report = run
    saved = loop.Checkpoints.save
    calls = []

    def interrupted(self, step, *args, **kwargs):
        saved(self, step, *args, **kwargs)
        calls.append(step)
        if len(calls) == 4:
            self.wait()
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.Checkpoints, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(settings, tmp_path / "run", progress=False)
    away = weights[0].rename(tmp_path / "weights")
    try:
        again = train(read_recipe(tmp_path / "run"), tmp_path / "run", progress=False, resume=True)
    finally:
        away.rename(weights[0])
    (_, first), (_, second) = zoo.load_model(run[0]), zoo.load_model(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert {k: v for k, v in again.items() if k != "seconds"} == {k: v for k, v in report.items() if k != "seconds"}


# ---- texts ----


@pytest.mark.slow
def test_weights_bring_their_words(tmp_path):
    """A token of the pretraining means the same word afterwards, whatever words the new texts have."""
    (tmp_path / "old.csv").write_text("label,text\n" + "a,one two\nb,two three\n" * 10)
    (tmp_path / "new.csv").write_text("label,text\n" + "x,Three four\ny,four one\n" * 10)
    sizes = {"hidden_size": 4, "num_heads": 1, "mlp_dim": 4, "head_size": 3}
    first = Recipe(
        model="transformer_classifier",
        data=f"texts:{tmp_path / 'old.csv'}",
        model_options=sizes,
        data_options={"length": 3},
        task_options={"inputs": "tokens"},
        batch_size=8,
        epochs=1.0,
        validation=0.2,
        monitor="validation_loss",
    )
    train(first, tmp_path / "old", progress=False)
    base = dataclasses.replace(
        first, data=f"texts:{tmp_path / 'new.csv'}", data_options={}, weights=str(tmp_path / "old")
    )
    resolved = transfer.resolve(dataclasses.replace(base, model_options={}))
    words = ["<pad>", "<unknown>", "two", "one", "three"]
    assert resolved.data_options == {"vocabulary": words, "tokens": "words", "lowercase": True}
    assert resolved.model_options == {**sizes, "vocab_size": 5, "pad_token": 0}
    parts = build(resolved)
    np.testing.assert_array_equal(parts.dataset.reader.rows(["Three four"])[0, :3], [4, 1, 0])
    found = parts.task.init(jax.random.key(1), {"tokens": np.zeros((1, 128), np.int32)}).params
    before = zoo.load_model(tmp_path / "old").variables["params"]
    np.testing.assert_array_equal(found["embed"]["embedding"], before["embed"]["embedding"])
    assert found["head"]["kernel"].shape == (3, 2)
    own = dataclasses.replace(base, data_options={"lowercase": False})
    assert transfer.resolve(own).data_options["lowercase"] is False
