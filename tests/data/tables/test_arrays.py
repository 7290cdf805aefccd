"""Arrays of one's own: what becomes of each type, how they are split, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import data

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))
GREY = RNG.integers(0, 256, (40, 5, 4), dtype=np.uint8)
Y = np.arange(40) % 4


def all_rows(dataset, split):
    source = dataset.splits[split]
    return dataset.preprocess(source[np.arange(len(source))])


def test_images_and_labels():
    dataset = data.from_arrays(image=GREY, label=Y)
    assert dataset.spec.fields == {"image": ((5, 4, 1), "float32"), "label": ((), "int32")}
    assert dataset.spec.classes == ("0", "1", "2", "3")
    batch = all_rows(dataset, "train")
    np.testing.assert_array_equal(batch["image"], GREY[..., None] / np.float32(255))
    np.testing.assert_array_equal(batch["label"], Y)
    assert dataset.raw_image_shape == (5, 4, 1)


@pytest.mark.parametrize(
    ("labels", "classes", "numbers", "names"),
    [
        (["cat", "ant", "cat"], None, [1, 0, 1], ("ant", "cat")),
        ([b"cat", b"ant", b"cat"], None, [1, 0, 1], ("ant", "cat")),
        (np.array(["b", "a", "b"], object), None, [1, 0, 1], ("a", "b")),
        ([True, False, True], None, [1, 0, 1], ("False", "True")),
        ([True, False, True], ("no", "yes"), [1, 0, 1], ("no", "yes")),
        ([1, 2, 2], None, [1, 2, 2], ("0", "1", "2")),
        ([2, 2, 2], None, [2, 2, 2], ("0", "1", "2")),
        ([0, 1, 3], None, [0, 1, 3], ("0", "1", "2", "3")),
        ([[0], [1], [0]], None, [0, 1, 0], ("0", "1")),
        ([0.0, 1.0, 2.0], None, [0, 1, 2], ("0", "1", "2")),
        (np.eye(3)[[2, 0, 1]], None, [2, 0, 1], ("0", "1", "2")),
        (np.eye(3)[[2, 0, 1]], "abc", [2, 0, 1], ("a", "b", "c")),
        ([2, 0, 1], "abc", [2, 0, 1], ("a", "b", "c")),
        (["c", "a", "c"], "abc", [2, 0, 2], ("a", "b", "c")),
    ],
)
def test_labels(labels, classes, numbers, names):
    dataset = data.from_arrays(features=X[:3], label=labels, classes=classes)
    assert dataset.spec.classes == names
    found = dataset.splits["train"].arrays["label"]
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, numbers)


def test_targets_and_integers():
    dataset = data.from_arrays(features=X, target=X[:, 0], tokens=np.arange(80).reshape(40, 2), flag=Y > 1)
    assert {name: field for name, field in dataset.spec.fields.items() if name != "features"} == {
        "target": ((1,), "float32"),
        "tokens": ((2,), "int32"),
        "flag": ((), "int32"),
    }


def test_the_test_split_has_the_same_share_of_each_class():
    dataset = data.from_arrays(features=X, label=Y, test=0.2, validation=8, seed=3)
    assert {split: np.bincount(source.arrays["label"]).tolist() for split, source in dataset.splits.items()} == {
        "train": [6, 6, 6, 6],
        "validation": [2, 2, 2, 2],
        "test": [2, 2, 2, 2],
    }
    rows = np.concatenate([source.arrays["features"] for source in dataset.splits.values()])
    np.testing.assert_array_equal(np.sort(rows[:, 0]), np.sort(X[:, 0].astype(np.float32)))


def test_another_seed_moves_no_example_into_the_test_split():
    splits = [data.from_arrays(features=X, label=Y, test=0.3, validation=0.2, seed=seed).splits for seed in (0, 1)]
    tests, validations = ([each[name].arrays["features"] for each in splits] for name in ("test", "validation"))
    np.testing.assert_array_equal(*tests)
    assert not np.array_equal(*validations)


def test_a_test_split_of_ones_own():
    names = np.array(["a", "b"])[Y % 2]
    dataset = data.from_arrays(features=X, label=names, test={"features": X[:4], "label": ["b", "a", "b", "b"]})
    np.testing.assert_array_equal(dataset.splits["test"].arrays["label"], [1, 0, 1, 1])


def test_standardised_features():
    shifted = X * [1, 10, 0] + [5, 0, 7]
    dataset = data.from_arrays(features=shifted, label=Y, standardize=True)
    features = all_rows(dataset, "train")["features"]
    np.testing.assert_allclose(features.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(features.std(axis=0), [1, 1, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"features": X, "label": Y[:3]}, "same number of examples"),
        (
            {"features": np.where(np.arange(3) == 1, np.nan, X), "label": Y},
            "features holds numbers that are not finite",
        ),
        (
            {"features": X, "label": Y * 255},
            "labels are the numbers of classes from 0, not 0 to 765 of 4 di",
        ),
        ({"features": X, "label": Y - 1}, "labels are the numbers of classes from 0, not -1 to 2"),
        ({"features": X, "label": Y + 0.5}, "numbers to be told are called target"),
        ({"features": X, "label": np.eye(4)[Y] * 0.5}, "must be one-hot"),
        ({"features": X, "label": [None] * 40}, "a mixture, or None"),
        ({"features": X, "label": Y, "classes": ("a", "b")}, "label 2 of example 2 is none of the 2 classes"),
        ({"features": X, "label": ["a", "z"] * 20, "classes": ("a", "b")}, "label 'z' of example 1 is none of the"),
        ({"features": X, "label": Y, "classes": ("a", "b", "a", "c")}, "two classes have the same name"),
        ({"image": GREY.astype(np.int64), "label": Y}, "images are uint8, or floats"),
        ({"features": np.array([["a"]] * 40), "label": Y}, "neither numbers nor booleans"),
        ({"features": X[:0], "label": Y[:0]}, "label"),
        ({"features": X, "label": Y, "test": {"features": X}}, "needs the fields features, label; got features"),
        (
            {"features": X, "label": Y, "test": {"features": X[:, :2], "label": Y}},
            r"the shape \[2\], and \[3\] in train",
        ),
        ({"tokens": np.full((40, 1), 2**40), "label": Y}, "integers beyond 32 bits"),
        (
            {"features": X, "label": Y, "test": (X, Y)},
            "test is a share, a number of examples or arrays by field",
        ),
        ({"features": X, "label": Y, "test": "0.2"}, "test must be 0, a fraction .* got '0.2'"),
        ({"features": X, "label": Y, "validation": {"label": Y}}, r"arrays \(validation\) needs the fields feat"),
        ({"features": X, "label": Y, "tset": 0.2}, "tset=0.2 is no array of examples; the options of from_arrays are"),
        ({"features": [[1, 2], [1]], "label": Y[:2]}, "features is no array: its examples differ in shape"),
        ({"features": X, "label": Y, "test": 40}, "leave at least one example on each side"),
    ],
)
def test_what_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        data.from_arrays(**fields)


def test_the_validation_split_as_arrays():
    more = {"features": X[:4] + 1, "label": Y[:4]}
    splits = data.from_arrays(features=X, label=Y, validation=more, test=0.25).splits
    assert {split: len(source) for split, source in splits.items()} == {"train": 30, "test": 10, "validation": 4}
    np.testing.assert_array_equal(splits["validation"].arrays["features"], np.float32(X[:4] + 1))


def test_pixels_as_floats():
    assert data.from_arrays(image=GREY / 255, label=Y).reader.shape == (5, 4, 1)
    with pytest.raises(ValueError, match=r"image holds floats from 0 to .*; pixels are uint8, or floats in"):
        data.from_arrays(image=GREY.astype(np.float32), label=Y)
    standardized = data.from_arrays(image=(GREY.astype(np.float64) - 100) / 50, label=Y)
    assert standardized.reader is None, "no picture can be prepared like these"
    np.testing.assert_allclose(
        standardized.splits["train"].arrays["image"][..., 0], (GREY.astype(np.float64) - 100) / 50, rtol=1e-5
    )


def test_labels_that_begin_later_are_told_of(caplog):
    data.from_arrays(features=X, label=Y)
    assert not caplog.text
    assert data.from_arrays(features=X, label=Y + 1).spec.num_classes == 5
    assert "labels begin with 1; the classes before it have no examples" in caplog.text


def saved(path, **arrays):
    np.savez(path, **arrays)
    return f"npz:{path}"


def test_an_npz_file_of_fields(tmp_path):
    dataset = data.load(saved(tmp_path / "a.npz", image=GREY, label=Y), validation=0.25)
    assert {split: len(source) for split, source in dataset.splits.items()} == {"train": 24, "test": 8, "validation": 8}
    assert {split: set(np.bincount(s.arrays["label"])) for split, s in dataset.splits.items()} == {
        "train": {6},
        "test": {2},
        "validation": {2},
    }


@pytest.mark.parametrize("pattern", ["{field}_{split}", "{split}_{field}"])
def test_an_npz_file_with_splits(tmp_path, pattern):
    arrays = {
        pattern.format(field=field, split=split): array[rows]
        for split, rows in (("train", slice(0, 30)), ("validation", slice(30, 35)), ("test", slice(35, 40)))
        for field, array in (("x", GREY), ("y", Y))
    }
    dataset = data.load(saved(tmp_path / "a.npz", **arrays))
    assert {split: len(source) for split, source in dataset.splits.items()} == {"train": 30, "validation": 5, "test": 5}
    np.testing.assert_array_equal(dataset.splits["test"].arrays["image"][..., 0], GREY[35:])
    np.testing.assert_array_equal(dataset.splits["validation"].arrays["label"], Y[30:35])
    with pytest.raises(ValueError, match="makes a test split where there is none"):
        data.load(f"npz:{tmp_path / 'a.npz'}", test=0.2)


def test_numbers_to_be_told_in_an_npz_file(tmp_path):
    dataset = data.load(saved(tmp_path / "a.npz", x=X, y=X[:, 1]))
    assert set(dataset.spec.fields) == {"inputs", "target"}


def test_npz_files_that_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        data.load("npz:nothing.npz")
    np.savez(tmp_path / "objects.npz", x=np.array([{}], object))
    with pytest.raises(ValueError, match="holds Python objects"):
        data.load(f"npz:{tmp_path / 'objects.npz'}")
    np.save(tmp_path / "one.npy", X)
    with pytest.raises(ValueError, match=r"one\.npy is no file of arrays .*: it holds one array, without a name"):
        data.load(f"npz:{tmp_path / 'one.npy'}")
    np.savez(tmp_path / "name.npz", features=X, label=Y, name=Y)
    with pytest.raises(ValueError, match="an array cannot be called 'name', which is an option"):
        data.load(f"npz:{tmp_path / 'name.npz'}")
    (tmp_path / "text.npz").write_text("nothing")
    with pytest.raises(ValueError, match=r"text\.npz is no file of arrays"):
        data.load(f"npz:{tmp_path / 'text.npz'}")
    whole = (tmp_path / "objects.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.npz is no file of arrays"):
        data.load(f"npz:{tmp_path / 'cut.npz'}")
    with pytest.raises(ValueError, match="has no training arrays"):
        data.load(saved(tmp_path / "test.npz", test_x=X))
