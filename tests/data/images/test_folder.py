"""Folders of pictures: what is found, what is read, and what is said of those that are wrong."""

from __future__ import annotations

import itertools
import logging
import os
import shutil

import numpy as np
import pytest
from PIL import Image

import data
from data.images import folder as folders


def write(path, colour, size=(5, 7), **options):
    """A picture of one colour with a little noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(list(path.stem.encode())).integers(0, 10, (*size, 3))
    Image.fromarray(np.uint8(np.clip(np.array(colour) + noise, 0, 255))).save(path, **options)
    return path


COLOURS = {"red": (240, 0, 0), "green": (0, 240, 0), "blue": (0, 0, 240)}


@pytest.fixture
def flat(tmp_path):
    """PATH/CLASS/…: ten pictures of each of three colours."""
    for name, colour in COLOURS.items():
        for index in range(10):
            write(tmp_path / "flat" / name / f"{index}.png", colour)
    return tmp_path / "flat"


@pytest.fixture
def split(tmp_path):
    """PATH/SPLIT/CLASS/…, with validation under its short name."""
    for where, count in (("train", 4), ("val", 2), ("test", 3)):
        for name, colour in COLOURS.items():
            for index in range(count):
                write(tmp_path / "split" / where / name / f"{index}.jpg", colour, quality=95)
    (tmp_path / "split" / "README").write_text("not a picture, and in no class")
    return tmp_path / "split"


def load(path, **options):
    return data.load(f"folder:{path}", **{"image_size": 6, **options})


def colour_of(batch):
    return np.array([["red", "green", "blue"][index] for index in batch["image"].mean(axis=(1, 2)).argmax(axis=-1)])


def test_splits_by_folder(split):
    found = load(split)
    assert found.spec.classes == ("blue", "green", "red")
    assert {name: len(source) for name, source in found.splits.items()} == {"train": 12, "validation": 6, "test": 9}
    for source in found.splits.values():
        batch = found.preprocess(source[np.arange(len(source))])
        assert batch["image"].shape == (len(source), 6, 6, 3) == (len(source), *found.raw_image_shape)
        assert batch["image"].dtype == np.float32
        assert (np.array(found.spec.classes)[batch["label"]] == colour_of(batch)).all()


def test_splits_by_fraction_are_a_seeded_partition(flat):
    def rows(**options):
        splits = load(flat, channels=1, **options).splits
        return {name: sorted(map(bytes, part[np.arange(len(part))]["image"])) for name, part in splits.items()}

    def whole(parts):
        return sorted(itertools.chain.from_iterable(parts.values()))

    first = rows(validation=0.25, seed=3)
    assert {name: len(part) for name, part in first.items()} == {"train": 18, "test": 6, "validation": 6}
    assert whole(first) == whole(rows()), "every picture once"
    assert first == rows(validation=0.25, seed=3) != rows(validation=0.25, seed=4)
    assert {name: len(part) for name, part in rows(test=7).items()} == {"train": 23, "test": 7}
    with pytest.raises(ValueError, match=r"test must be 0, .* got 1\.5 of the 30 of .*flat"):
        rows(test=1.5)


def test_some_classes(flat):
    found = load(flat, classes=["red", "blue"])
    assert found.spec.classes == ("blue", "red")
    assert len(found.splits["train"]) + len(found.splits["test"]) == 20
    with pytest.raises(ValueError, match="has no class pink; it has blue, green, red"):
        load(flat, classes=["red", "pink"])


def test_in_memory_or_read_when_asked_for(split, monkeypatch):
    kept, read = load(split).splits["train"], load(split, in_memory=False).splits["train"]
    assert isinstance(kept, data.ArraySource)
    assert not isinstance(read, data.ArraySource)
    rows = np.array([7, 0, 7])
    for name in ("image", "label"):
        np.testing.assert_array_equal(kept[rows][name], read[rows][name])
    monkeypatch.setattr(folders, "IN_MEMORY_BYTES", 21 * 6 * 6 * 3 - 1 + 6 * 6 * 3 * 6)
    assert not isinstance(load(split).splits["train"], data.ArraySource), "a byte too many"


def test_nothing_is_read_before_a_split_is_asked_for(split, monkeypatch):
    monkeypatch.setattr(folders, "_list", lambda *_: pytest.fail("files were listed"))
    found = load(split)
    assert found.spec.example()["image"].shape == (1, 6, 6, 3)
    assert list(found.splits) == ["train", "validation", "test"]


def test_pictures_in_folders_within_and_files_with_a_dot(flat):
    (flat / "red" / ".thumbnails").write_text("nothing")
    (flat / ".cache").mkdir()
    write(flat / "red" / "more" / "deep" / "a.png", COLOURS["red"])
    found = load(flat, test=1)
    assert len(found.splits["train"]) == 30
    assert found.spec.classes == ("blue", "green", "red")


def test_a_path_within_zoo_data_dir(flat, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_DATA_DIR", str(tmp_path))
    monkeypatch.chdir(flat)
    assert load("flat").spec.num_classes == 3
    with pytest.raises(FileNotFoundError, match=f"there is no folder {flat}/none, nor {tmp_path}/none"):
        load("none")
    (flat / "one.png").touch()
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*/one\.png; it is a file"):
        load("one.png")
    monkeypatch.delenv("ZOO_DATA_DIR")
    with pytest.raises(FileNotFoundError, match="ZOO_DATA_DIR, where flat is looked for too, is not set"):
        load("flat")


def damage(folder):
    """Three files that are no whole pictures; gives their names."""
    (folder / "red" / "notes.txt").write_text("no picture")
    whole = write(folder / "green" / "cut.jpg", COLOURS["green"], size=(90, 90))
    jpeg = whole.read_bytes()
    whole.write_bytes(jpeg[: (jpeg.index(b"\xff\xda") + len(jpeg)) // 2])  # in the middle of what follows the headers
    (folder / "blue" / "empty.png").touch()
    return ["notes.txt", "cut.jpg", "empty.png"]


@pytest.mark.parametrize("in_memory", [True, False])
def test_all_unreadable_files_are_named_together(flat, in_memory):
    names = damage(flat)
    found = load(flat, in_memory=in_memory)
    with pytest.raises(ValueError, match="files cannot be read as images:\n  cannot read '") as error:
        found.splits["train"]
    if not in_memory:  # that it was cut shows when it is read
        assert "cut.jpg" not in str(error.value)
        (flat / "red" / "notes.txt").unlink()
        (flat / "blue" / "empty.png").unlink()
        source = load(flat, in_memory=False, test=1).splits["train"]
        with pytest.raises(ValueError, match=r"cannot read '.*cut\.jpg' as an image: .*truncated"):
            source[np.arange(len(source))]
        return
    assert all(name in str(error.value) for name in names)
    assert str(error.value).startswith("3 files")
    assert str(error.value).endswith("\nmend them, or leave them out with data_options.unreadable=skip")


@pytest.mark.parametrize("in_memory", [True, False])
def test_unreadable_files_are_left_out_when_asked(flat, in_memory, caplog):
    whole = load(flat, test=1, in_memory=in_memory).splits["train"]
    names = damage(flat)
    with caplog.at_level(logging.WARNING):
        splits = load(flat, test=1, in_memory=in_memory, unreadable="skip").splits
        assert len(splits["train"]) == 29
    assert "left out, of 33 files: 3 files cannot be read" in caplog.text
    assert all(name in caplog.text for name in names)
    rows = np.arange(29)
    for name in ("image", "label"):
        np.testing.assert_array_equal(splits["train"][rows][name], whole[rows][name])


def test_a_class_of_unreadable_files_alone(flat):
    shutil.rmtree(flat / "red")
    (flat / "red").mkdir()
    (flat / "red" / "a.txt").write_text("nothing")
    with pytest.raises(ValueError, match=r"no file in the folder of a class can be read, such as .*red/a\.txt"):
        load(flat, unreadable="skip").splits["train"]


def test_what_is_wrong_with_a_folder(flat, split, tmp_path):
    empty = tmp_path / "empty"
    (empty / "one").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"empty has one class; expected a folder of pictures for each class"):
        load(empty)
    (empty / "one").rmdir()
    with pytest.raises(ValueError, match="empty has no classes"):
        load(empty)
    shutil.rmtree(flat / "red")
    (flat / "red").mkdir()
    with pytest.raises(ValueError, match="the class 'red' is empty: there is no file in "):
        load(flat).splits["train"]
    with pytest.raises(ValueError, match=r"test=0\.1 makes a test split where there is none"):
        load(split, test=0.1)
    (split / "valid").mkdir()
    with pytest.raises(ValueError, match=r"the split validation is in .*val and in .*valid; keep one"):
        load(split)
    (split / "valid").rmdir()
    (split / "val" / "red").rename(split / "val" / "pink")
    with pytest.raises(ValueError, match=r"classes of the splits differ: red only in .*train, pink only in .*val"):
        load(split)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": 0}, r"crop must be in \(0, 1\]; got 0"),
        ({"interpolation": "nearest"}, 'must be "bilinear" or "bicubic"; got .nearest'),
        ({"channels": 2}, "channels are 1 or 3"),
        ({"image_size": 0}, "image_size is positive"),
        ({"mean": [0.5]}, "mean needs a number for each of 3 channels"),
        ({"std": [0.5] * 4}, "std needs a number for each of 3 channels"),
        ({"unreadable": "ignore"}, 'unreadable must be "raise" or "skip"'),
        ({"imagesize": 3}, "no option 'imagesize'; nearest: image_size"),
    ],
)
def test_wrong_options(flat, options, message):
    with pytest.raises(ValueError, match=message):
        load(flat, **options)


def test_a_folder_needs_a_path():
    with pytest.raises(ValueError, match="data set 'folder' needs a path: folder:PATH"):
        data.load("folder")


def test_mean_and_deviation(flat):
    plain, scaled = load(flat), load(flat, mean=[0.1, 0.2, 0.3], std=[0.5, 0.25, 2])
    rows = np.arange(5)
    wanted = (plain.preprocess(plain.splits["train"][rows])["image"] - [0.1, 0.2, 0.3]) / [0.5, 0.25, 2]
    np.testing.assert_allclose(scaled.preprocess(scaled.splits["train"][rows])["image"], wanted, rtol=1e-5, atol=1e-6)


# ---- what is in folders that is no picture of a class ----


def test_hidden_folders_within_a_class_are_passed_over(flat):
    write(flat / "red" / ".ipynb_checkpoints" / "0-checkpoint.png", COLOURS["green"])
    write(flat / "red" / "more" / "z.png", COLOURS["red"])
    splits = load(flat).splits
    assert sum(len(part) for part in splits.values()) == 31


@pytest.mark.parametrize("names", [("Train", "Test"), ("Training", "Testing"), ("TRAIN", "TEST")])
def test_splits_by_other_names(tmp_path, names):
    for where in names:
        for name, colour in COLOURS.items():
            write(tmp_path / where / name / "0.png", colour)
    found = load(tmp_path)
    assert found.spec.classes == ("blue", "green", "red")
    assert set(found.splits) == {"train", "test"}


def test_a_test_split_alone_is_refused(tmp_path):
    write(tmp_path / "test" / "red" / "0.png", COLOURS["red"])
    write(tmp_path / "other" / "red" / "0.png", COLOURS["red"])
    with pytest.raises(ValueError, match=r"has folders for splits \(test\), and none for training"):
        load(tmp_path)


def test_links_that_lead_in_a_circle(flat):
    (flat / "red" / "loop").symlink_to(flat, target_is_directory=True)
    with pytest.raises(ValueError, match=r"the link .*loop leads to .*flat, a folder that it is in itself"):
        load(flat).splits["train"]


def test_pipes_are_not_waited_for(flat):
    os.mkfifo(flat / "red" / "pipe.png")
    with pytest.raises(ValueError, match=r"pipe\.png is neither a file nor a folder; take it out"):
        load(flat).splits["train"]
