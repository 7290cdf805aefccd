"""What becomes of a run for others: a folder, a card, a repository on the hub; and what is used by its name."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest

import zoo
from tests.train.cli import hub as hubs
from tests.train.cli.command import error, parsed, python, run
from train.publishing import shipping
from train.publishing.cards import facts_of, run_card
from train.publishing.folder import publish
from train.publishing.model_cards import markdown_card, model_facts
from zoo import published


@pytest.fixture(scope="module")
def folder(runs, tmp_path_factory):
    """The small run of mlp_digits, published."""
    made = tmp_path_factory.mktemp("published") / "small"
    publish(runs[0] / "mlp_digits", made, "small", licence="apache-2.0")
    return made


@pytest.mark.slow
def test_a_published_run_is_used_as_a_run_is(folder, mlp, pictures, tmp_path):
    files = {"README.md", "config.json", "history.csv", "model.safetensors", "recipe.json", "report.json"}
    assert {file.name for file in folder.iterdir()} == files
    for command in (("evaluate",), ("predict", *pictures[0][:3])):
        assert parsed(command[0], folder, *command[1:]) == parsed(command[0], mlp, *command[1:])
    exported = parsed("export", folder, "--out", tmp_path / "a.stablehlo")
    assert exported["classes"] == list("0123456789")
    compared = parsed("compare", folder, mlp, "--out", tmp_path / "a.png")
    assert compared["runs"][0]["loss"] == compared["runs"][1]["loss"]
    assert "is a published model: its weights alone" in error("diagnose", folder)
    report = json.loads((folder / "report.json").read_text())
    assert report == json.loads((mlp / "report.json").read_text())
    assert report["conditions"]["seed"] == 0
    assert report["conditions"]["jax"]
    assert report["conditions"]["device"]


@pytest.mark.slow
def test_its_card(folder, mlp):
    card, report = (folder / "README.md").read_text(), json.loads((folder / "report.json").read_text())
    assert f"{report['test_accuracy']:.2%}".replace("%", " % on the test split of 360") in card
    for part in ('license: "apache-2.0"', "pipeline_tag: image-classification", "`digits`: 1437 train and 360 test"):
        assert part in card
    assert "zoo predict small picture.png" in card
    assert 'zoo.load_model("small")' in card
    assert "- `epochs=4.0`" in card, "it is no recipe of the zoo, so its settings are told"
    text = run("card", folder, "--licence", "mit")
    assert f"zoo predict {folder} picture.png" in text
    assert "under the licence mit" in text
    assert "The licence of the weights is not stated" in run("card", mlp)
    facts = parsed("card", mlp)
    assert (facts["model"], facts["recipe"], facts["metric"]) == ("mlp", None, "test_accuracy")
    assert facts["value"] == report["test_accuracy"]


def test_the_head_of_a_card_is_what_the_hub_reads(folder):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    data = huggingface_hub.ModelCard.load(folder / "README.md").data
    report = json.loads((folder / "report.json").read_text())
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", report["test_accuracy"])
    assert (result.dataset_name, result.dataset_split, result.task_type) == ("digits", "test", "image-classification")
    assert (data.library_name, data.license, data.tags) == ("flaxzoo", "apache-2.0", ["flax", "jax", "mlp"])


def test_no_path_of_this_machine_is_published(mlp, tmp_path):
    copy = shutil.copytree(mlp, tmp_path / "run")
    recipe = json.loads((copy / "recipe.json").read_text())
    recipe |= {"data": f"csv:{tmp_path}/secret/lines.csv", "weights": f"{tmp_path}/secret/first"}
    (copy / "recipe.json").write_text(json.dumps(recipe))
    publish(copy, tmp_path / "out", "out")
    for file in (tmp_path / "out").iterdir():
        assert b"secret" not in file.read_bytes(), file
        assert str(tmp_path).encode() not in file.read_bytes(), file
    kept = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert (kept["data"], kept["weights"]) == ("csv:lines.csv", "first")


def test_nothing_is_overwritten(folder, mlp):
    with pytest.raises(FileExistsError, match="small exists; choose another folder"):
        publish(mlp, folder)
    assert "holds no saved model" in error("card", folder.parent) or "is not a run folder" in error(
        "card", folder.parent
    )


@pytest.mark.slow
def test_shipping_measures_the_file_itself(tmp_path, monkeypatch):
    """A whole run of a named recipe: what is told of the file is what the file does, in float16 or float32."""
    monkeypatch.setattr(published, "SHIPPED", tmp_path / "weights")
    monkeypatch.setattr(shipping, "SHIPPED", tmp_path / "weights")
    parsed("train", "perceptron_iris", "--run", tmp_path / "run")
    facts = shipping.ship(tmp_path / "run")
    assert (facts.folder, facts.recipe_name) == (tmp_path / "weights" / "perceptron_iris", "perceptron_iris")
    assert (facts.report["recipe"], facts.report["test_accuracy"]) == ("perceptron_iris", 1.0)
    assert facts.meta["stored"] == "float16"
    assert zoo.shipped_models() == ["perceptron_iris"]
    monkeypatch.chdir(tmp_path)
    assert parsed("evaluate", "perceptron_iris")["test_accuracy"] == 1.0
    assert "100.00 % on the test split" in run("card", "perceptron_iris")
    (row,) = parsed("weights", "perceptron*")["shipped"]
    assert (row["name"], row["recipe"], row["value"]) == ("perceptron_iris", "perceptron_iris", 1.0)
    assert "nearest is perceptron_iris" in error("evaluate", "perceptron_iri")
    monkeypatch.setattr(shipping, "_alike", lambda first, second: False)
    assert "stored" not in shipping.ship(tmp_path / "run").meta, "float32 where float16 changes the figure"
    assert shipping.ship("perceptron_iris").folder == facts.folder, "what ships can be made anew from itself"


def test_only_recipes_ship(mlp):
    with pytest.raises(ValueError, match="is a run of no recipe"):
        shipping.ship(mlp)


@pytest.mark.slow
def test_training_starts_from_a_published_model(folder, tmp_path):
    """As from a run: its first layers, and a new head."""
    settings = ("model=mlp", "epochs=0.1", f"weights={folder}", "new_head=False", "learning_rate=0")
    parsed("train", "mlp_digits", *settings, "--run", tmp_path / "run")
    first, again = zoo.load_model(folder).variables, zoo.load_model(tmp_path / "run").variables
    for layer, arrays in first["params"].items():
        for name, leaf in arrays.items():
            np.testing.assert_array_equal(again["params"][layer][name], leaf)


@pytest.mark.slow
def test_push_and_back(mlp, pictures, tmp_path, monkeypatch):
    """By the command, over HTTP, in processes of their own, as users would."""
    pytest.importorskip("huggingface_hub")
    with hubs.served() as hub:
        for name, value in {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_me"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        done = python(
            "-m", "zoo", "push", mlp, "someone/digits", "--licence", "mit", "--private", "--json", cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["url"] == f"{hub.url}/someone/digits"
        files = hub.repositories["someone/digits"]
        assert {"README.md", "config.json", "model.safetensors", "recipe.json", "report.json"} <= set(files)
        assert b'license: "mit"' in files["README.md"]
        assert b"zoo predict someone/digits picture.png" in files["README.md"]
        assert hub.private["someone/digits"]
        assert "Bearer hf_me" in hub.tokens
        script = (
            "import json, sys, zoo\n"
            "from zoo import pretrained\n"
            "from train.inference import predict\n"
            "one, other = zoo.load_model('someone/digits'), pretrained.load('mlp', 'someone/digits')\n"
            "found = predict('someone/digits', sys.argv[1:])\n"
            "print(json.dumps([one.model == other.model, [each.label for each in found]]))\n"
        )
        done = python("-c", script, *pictures[0][:5], cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        wanted = [each["label"] for each in parsed("predict", mlp, *pictures[0][:5])]
        assert json.loads(done.stdout.splitlines()[-1]) == [True, wanted]
        done = python("-m", "zoo", "card", "someone/digits", cwd=tmp_path)
        assert "The weights are under the licence mit." in done.stdout
        done = python("-m", "zoo", "predict", "someone/missing", pictures[0][0], cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith("zoo: error: there is no folder someone/missing, and the hub did not give it: ")
    done = python("-m", "zoo", "push", mlp, "someone/digits", cwd=tmp_path)  # the hub is gone
    assert done.returncode == 1
    assert "the hub did not take someone/digits" in done.stderr
    assert "is named USER/NAME, not 'digits'" in error("push", mlp, "digits")


def test_weights():
    text = run("weights")
    for part in ("timm/resnet50.a1_in1k", "80.382 % top-1", "openai-community/gpt2", "Apache-2.0"):
        assert part in text
    found = parsed("weights", "resnet50")
    assert [row["source"] for row in found["known"]] == ["timm/resnet50.a1_in1k"]
    assert "no weights match 'nothing'" in error("weights", "nothing")


def test_the_card_of_a_model_as_markdown():
    text = run("card", "lenet5", "--markdown")
    for part in ("# lenet5\n", "61,706 (0.2 MB in float32)", "| `num_classes` | `10` |", "`zoo train lenet5_mnist`"):
        assert part in text
    assert "zoo.pretrained.load" not in text
    assert 'zoo.pretrained.load("resnet18")' in run("card", "resnet18", "--markdown")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "gcn", "char_lstm"])
def test_the_code_on_the_card_of_a_model_runs(name):
    text = markdown_card(model_facts(name, {}))
    blocks = [block.partition("```")[0] for block in text.split("```python\n")[1:]]
    assert blocks
    for block in blocks:
        exec(block, {})


def test_a_model_comes_before_a_folder_of_its_name(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, tmp_path / "mlp")
    assert "path" in run("card", "mlp")
    assert "zoo predict ./mlp picture.png" in run("card", "./mlp")
    assert "leave out num_classes=3" in error("card", "./mlp", "num_classes=3")


def test_converted_weights_have_a_card(tmp_path):
    from tests.descriptors import MODELS, random_variables

    options = MODELS["resnet18"].small
    model = zoo.create_model("resnet18", **options)
    variables = random_variables(model, np.zeros((1, 9, 9, 3), np.float32))
    prepared = zoo.pretrained.Preprocessing(8)._asdict()
    zoo.save_model(tmp_path / "a", "resnet18", variables, preprocessing=prepared, classes=list("abc"), **options)
    card = run_card(facts_of(tmp_path / "a"), "a")
    assert "converted from those of others" in card
    assert "3: a, b, c" in card
    publish(tmp_path / "a", tmp_path / "b")
    assert zoo.load_model(tmp_path / "b").preprocessing == zoo.pretrained.Preprocessing(8)
    assert os.listdir(tmp_path / "b").count("recipe.json") == 0
