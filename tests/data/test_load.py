import subprocess
import sys

import jax
import numpy as np
import pytest

import data


def rows(dataset, split, field="image"):
    return {row.tobytes() for row in dataset.splits[split].arrays[field]}


def test_import_is_light():
    heavy = ("jax", "tensorflow", "tensorflow_datasets", "sklearn", "PIL")
    code = f"import data, sys; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_lists_its_own_names():
    names = data.list_datasets()
    assert names == sorted(names)
    assert {"digits", "fashion_mnist", "folder", "iris", "mnist", "sum_sequence"} <= set(names)


def test_unknown_name_shows_the_nearest_and_all():
    with pytest.raises(
        ValueError, match=r"'digit'; nearest: digits.*digits, .*fashion_mnist.* iris, mnist, .*npz, .*sum_sequence"
    ):
        data.load("digit")
    with pytest.raises(ValueError, match=r"'cifar1'; nearest: cifar10"):
        data.load("cifar1")


def test_unknown_option_shows_the_nearest_and_all():
    with pytest.raises(ValueError, match=r"'flatt'; nearest: flat\. Its options: flat, standardize, upsample\."):
        data.load("digits", flatt=True)
    with pytest.raises(ValueError, match=r"no option 'pad'.*Its options: length, size\."):
        data.load("sum_sequence", pad=1)


def test_duplicate_name_raises():
    with pytest.raises(ValueError, match=r"'digits' is registered already, by data\.images\.digits"):
        data.register("digits")(lambda: None)


@pytest.mark.parametrize(("validation", "held"), [(0.1, 144), (1, 1), (200, 200), (1436, 1436)])
def test_validation_is_taken_out_of_train(validation, held):
    whole = data.load("sum_sequence", length=2, size=1437)
    split = data.load("sum_sequence", length=2, size=1437, validation=validation)
    assert {name: len(source) for name, source in split.splits.items()} == {
        "train": 1437 - held,
        "validation": held,
        "test": 1000,
    }
    train, validation = rows(split, "train", "inputs"), rows(split, "validation", "inputs")
    assert not train & validation
    assert train | validation == rows(whole, "train", "inputs")


def test_validation_is_a_function_of_the_seed():
    first, again, other = (data.load("digits", validation=100, seed=seed) for seed in (3, 3, 4))
    labels = [dataset.splits["validation"].arrays["label"] for dataset in (first, again, other)]
    np.testing.assert_array_equal(labels[0], labels[1])
    assert (labels[0] != labels[2]).any()


@pytest.mark.parametrize("validation", [-1, 1437, 5000, 1.0, -0.5, 1e-5, 0.9999, True, float("nan")])
def test_impossible_validation_says_what_is_allowed(validation):
    with pytest.raises(ValueError, match=r"fraction in \(0, 1\) or a number of examples from 1 to 1436"):
        data.load("digits", validation=validation)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("digits", {}),
        ("digits", {"flat": True, "standardize": True}),
        ("digits", {"upsample": 4, "standardize": True}),
        ("iris", {"standardize": True, "positive": "setosa"}),
        ("sum_sequence", {"length": 3}),
        ("mnist", {}),
        ("mnist", {"pad": 2, "standardize": True}),
        ("mnist", {"pad": 1, "flat": True}),
        ("fashion_mnist", {"standardize": True}),
    ],
)
def test_preprocess_keeps_the_spec_and_is_the_same_inside_jit(name, options, few_mnist):
    dataset = data.load(name, **options)
    raw = dataset.splits["test"][np.arange(7)]
    host, traced = dataset.preprocess(raw), jax.jit(dataset.preprocess)(raw)
    expected = dataset.spec.example(batch_size=7)
    for batch in (host, traced):
        assert jax.tree.map(lambda x: (x.shape, x.dtype.name), batch) == jax.tree.map(
            lambda x: (x.shape, x.dtype.name), expected
        )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), host, dict(traced))
