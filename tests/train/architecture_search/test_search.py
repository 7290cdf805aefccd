"""What is wrong with a search is told before anything is trained or written; what stands is gone on with."""

import json

import jax
import numpy as np
import optax
import pytest
from PIL import Image

import data
import train.architecture_search.search as module
from train.architecture_search.search import compare, search
from train.architecture_search.space import CellSpace
from train.architecture_search.supernet import Rates
from train.inference.loading import load
from train.inference.prediction import Prediction, predict
from train.recipe import get_recipe, override
from train.search.evaluation import Outcome
from train.tasks import classification
from zoo.vision.cells import GENOTYPES, read_genotype
from zoo.vision.darts import DARTS

import train.recipes  # noqa: F401  isort: skip

GOOD = [["sep_conv_3x3", 0], ["skip_connect", 1]]


def digits(*settings):
    return override(get_recipe("darts_digits"), settings)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"budget": 0}, "budget must be greater than 0 passes over the training data, not 0"),
        ({"budget": float("nan")}, "budget must be"),
        ({"trial_epochs": -1}, "trial_epochs must be"),
        ({"budget": 3, "trial_epochs": 4, "method": "random"}, "trains no network for 4"),
        ({"method": "drats"}, "unknown method: 'drats'; nearest: darts"),
        ({"space": "smal"}, "unknown space: 'smal'; nearest: small"),
        ({"max_skips": -1}, "max_skips must be at least 0"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        search(digits(), tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_model_without_a_genotype_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a classifier with a genotype, such as mini_darts, not for 'mlp'"):
        search(get_recipe("mlp_digits"), tmp_path / "run")


@pytest.mark.parametrize(
    ("genotype", "words"),
    [
        ("darts_v3", "unknown genotype: 'darts_v3'; nearest: darts_v"),
        ({"normal": GOOD}, "has the cells normal and reduce, not normal"),
        ({"normal": GOOD, "reduce": GOOD[:1]}, "two for each node"),
        ({"normal": [["sep_conv_9x9", 0], GOOD[1]], "reduce": GOOD}, "edge 0 of the cell 'normal': unknown operation"),
        ({"normal": GOOD, "reduce": [GOOD[0], ["skip_connect", 2]]}, "comes from 2: node 0 has the inputs 0 to 1"),
        ({"normal": [["none", 0], GOOD[1]], "reduce": GOOD}, "unknown operation: 'none'"),
        ({"normal": [[0], GOOD[1]], "reduce": GOOD}, r"must be \[operation, input\]"),
    ],
)
def test_a_wrong_genotype_is_refused(genotype, words):
    with pytest.raises(ValueError, match=words):
        read_genotype(genotype)


def test_genotypes_are_json():
    for genotype in GENOTYPES.values():
        assert read_genotype(json.loads(json.dumps(genotype.plain()))) == genotype


@pytest.mark.slow
def test_the_auxiliary_head_adds_its_loss():
    rng = np.random.default_rng(0)
    batch = {"image": rng.normal(size=(4, 32, 32, 1)).astype(np.float32), "label": np.arange(4) % 3}
    genotype = {"normal": [["skip_connect", 0], ["skip_connect", 1]], "reduce": [["avg_pool_3x3", 0], GOOD[1]]}
    model = DARTS(genotype, num_classes=3, features=2, num_cells=3, auxiliary=True)
    losses, state = [], classification(model, optax.sgd(0.0)).init(jax.random.key(0, impl="rbg"), batch)
    for weight in (0.0, 0.4, 0.8):
        task = classification(model, optax.sgd(0.0), auxiliary_weight=weight)
        loss = jax.jit(lambda state, task=task: task.train_step(state, batch)[1]["loss"])(state)  # no gradient
        losses.append(loss.summary())
    assert losses[1] > losses[0] + 0.1
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-3)


@pytest.fixture
def untrained(monkeypatch):
    """Trials that are worth as much as they have skip connections; no network is trained."""
    tried = []

    def evaluate(candidates, tell):
        for candidate in candidates:
            genotype = candidate.recipe.model_options["genotype"]
            tried.append(genotype)
            value = sum(kind == "skip_connect" for edges in genotype.values() for kind, _ in edges) / 8
            yield Outcome(candidate.number, [{"step": 1, "validation_accuracy": value}])

    monkeypatch.setattr(module, "one_by_one", lambda: evaluate)
    reached = {"test_accuracy": 0.5, "validation_accuracy": 0.5, "parameters": 7}
    monkeypatch.setattr(module.runs, "train", lambda recipe, folder, **options: reached)
    return tried


@pytest.mark.slow
@pytest.mark.parametrize("method", ["random", "evolution", pytest.param("reinforce", marks=pytest.mark.exhaustive)])
def test_the_best_trial_is_found_and_an_interrupted_search_ends_the_same(tmp_path, untrained, method):
    options = {"method": method, "budget": 40, "trial_epochs": 4}
    report = search(digits(), tmp_path / "whole", **options)
    table = json.loads((tmp_path / "whole/trials.json").read_text())
    assert len(table) == 10
    assert report["search_value"] == max(row["value"] for row in table)
    assert len(untrained) == report["architectures"] == len({tuple(row["architecture"]) for row in table})
    assert (tmp_path / "whole/cell.png").stat().st_size > 1000

    class Killed(BaseException):
        pass

    def kill(line):
        if line.startswith("trial 4 "):
            raise Killed

    with pytest.raises(Killed):
        search(digits(), tmp_path / "twice", tell=kill, **options)
    untrained.clear()
    again = search(digits(), tmp_path / "twice", **options)
    assert again["genotype"] == report["genotype"]
    assert len(untrained) < report["architectures"]
    with pytest.raises(ValueError, match="budget: 40 → 44"):
        search(digits(), tmp_path / "twice", **{**options, "budget": 44})


@pytest.mark.slow
def test_random_search_is_in_every_comparison(tmp_path, untrained):
    found = compare(digits(), tmp_path, methods=["evolution"], seeds=[0, 1], budget=24.0)
    assert [row["method"] for row in found["methods"]] == ["random", "evolution"]
    assert all(row["test_accuracy_sd"] == 0 for row in found["methods"])
    with pytest.raises(ValueError, match="seeds are different numbers"):
        compare(digits(), tmp_path / "other", seeds=[0, 0])


@pytest.mark.slow
def test_a_cell_is_found_by_gradients_and_its_network_predicts(tmp_path, monkeypatch):
    rates = Rates(batch_size=128, learning_rate=0.1, architecture_rate=0.1)
    tiny = module.Preset(CellSpace(("skip_connect", "avg_pool_3x3"), 1), 4, 3, rates)
    monkeypatch.setitem(module.PRESETS, "tiny", tiny)
    recipe = digits("epochs=8", "batch_size=128")
    report = search(recipe, tmp_path / "run", space="tiny", budget=3, max_skips=1, progress=False)
    skips = json.loads((tmp_path / "run/skips.json").read_text())
    assert skips["epoch"] == [1, 2, 3]
    assert report["skips"] <= 1
    assert (tmp_path / "run/skips.png").stat().st_size > 1000
    network = load(tmp_path / "run/found").recipe.model_options["genotype"]
    assert read_genotype(network) == read_genotype(report["genotype"])
    test = data.load("digits").splits["test"][np.arange(60)]
    files = [tmp_path / f"{index:02d}.png" for index in range(60)]
    for file, image in zip(files, test["image"][..., 0], strict=True):
        Image.fromarray(np.uint8(np.round(image * 255))).save(file)
    told = predict(tmp_path / "run/found", files)
    labels = [each.label for each in told if isinstance(each, Prediction)]
    assert np.mean(np.array(labels) == test["label"].astype(str)) > 0.6
