"""Episodes: what is drawn, that it is a pure function of (seed, number), and what is refused."""

from __future__ import annotations

import os
import zipfile

import jax
import numpy as np
import pytest
from PIL import Image

import data
from data.episodes.omniglot import DrawingReader, of_zip, shrunk
from data.episodes.pictures import EpisodeSource, Pictures, Shape

SHAPE = Shape(ways=3, shots=2, queries=1)


def numbered(counts=(4, 3, 5, 4), size=6) -> Pictures:
    """Pictures whose upper left pixel is their number, and the next one their class."""
    images = np.zeros((sum(counts), size, size, 1), np.uint8)
    images[:, 0, 0, 0] = np.arange(len(images)) + 1
    images[:, 0, 1, 0] = np.repeat(np.arange(len(counts)), counts) + 100
    return Pictures(images, np.array(counts), [f"c{index}" for index in range(len(counts))])


def source(pictures=None, shape=SHAPE, seed=0, rotations=False) -> EpisodeSource:
    return EpisodeSource(pictures or numbered(), shape, 50, seed, rotations=rotations, what="the split")


def test_an_episode_has_distinct_classes_and_no_picture_twice():
    batch = source()[np.arange(50)]
    assert batch["support_image"].shape == (50, 6, 6, 6, 1)
    assert batch["support_label"].tolist() == [[0, 1, 2, 0, 1, 2]] * 50
    assert batch["query_label"].tolist() == [[0, 1, 2]] * 50
    seen = set()
    for support, query in zip(batch["support_image"], batch["query_image"], strict=True):
        images = np.concatenate([support, query])
        assert len(set(images[:, 0, 0, 0].tolist())) == 9
        kinds = images[:, 0, 1, 0].reshape(3, 3)  # [shot or query, way]
        assert (kinds == kinds[:1]).all()
        assert len(set(kinds[0].tolist())) == 3
        seen |= set(images[:, 0, 0, 0].tolist())
    assert seen == set(range(1, 17)), "every picture of every class comes up"


def test_an_episode_is_a_function_of_seed_and_number():
    whole = source()[np.arange(8)]
    for name, array in source()[np.array([5, 2])].items():
        assert np.array_equal(array, whole[name][[5, 2]])
    assert not np.array_equal(source(seed=1)[np.arange(8)]["support_image"], whole["support_image"])


@pytest.mark.parametrize("rotations", [False, True])
def test_the_device_draws_what_the_host_does(rotations):
    drawn = source(rotations=rotations)
    host, device = drawn[np.arange(9)], jax.jit(drawn.gather)(drawn.arrays, np.arange(9))
    for name, array in host.items():
        assert np.array_equal(array, device[name])
        assert array.dtype == device[name].dtype


def test_turned_classes_are_classes_of_their_own():
    """With one class and four turns a task of four ways has each turn once."""
    pictures = numbered((3, 3))
    shape = Shape(8, 1, 1)
    images = source(pictures, shape, rotations=True)[np.array([0])]["support_image"][0]
    corners = {(int(k), index) for index in range(8) for k in range(4) if np.rot90(images[index], -k)[0, 0, 0]}
    assert len(corners) == 8, "each picture is upright after one number of turns"
    turns = sorted(k for k, _ in corners)
    assert turns == [0, 0, 1, 1, 2, 2, 3, 3]


def test_too_few_classes_or_pictures_are_refused():
    with pytest.raises(ValueError, match=r"the split has 4 classes, and an episode takes 5 \(ways\)"):
        source(shape=Shape(5, 1, 1))
    with pytest.raises(ValueError, match=r"the class 'c1' of the split has 3 pictures, .* 2 shots \+ 2 queries = 4"):
        source(shape=Shape(3, 2, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ways": 1}, "ways must be at least 2; got 1"),
        ({"shots": 0}, "shots must be at least 1; got 0"),
        ({"queries": 0}, "queries must be at least 1"),
        ({"episodes": 0}, "episodes must be at least 1"),
        ({"ways": "many"}, "ways of data set 'omniglot' must be int"),
    ],
)
def test_numbers_that_make_no_episode_are_refused(options, message, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_DATA_DIR", str(tmp_path))
    with pytest.raises(ValueError, match=message):
        data.load("omniglot", **options)


def test_omniglot_says_what_to_do_where_it_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"has no images_background.npz and no images_background.zip; put"):
        data.load("omniglot")
    monkeypatch.delenv("ZOO_DATA_DIR")
    with pytest.raises(FileNotFoundError, match="ZOO_DATA_DIR is not set"):
        data.load("omniglot")


def small_omniglot(folder, ending: str, characters=(70, 60)) -> None:
    """Drawings whose ink is a bar at a row that tells the character."""
    folder.mkdir(parents=True)
    for part, count in zip(("images_background", "images_evaluation"), characters, strict=True):
        paper = np.ones((count, 3, 20, 20), bool)
        for index in range(count):
            paper[index, :, index % 18 : index % 18 + 2] = False
        if ending == "npz":
            np.savez(folder / f"{part}.npz", images=paper, labels=np.zeros((count, 3), np.int64))
            continue
        with zipfile.ZipFile(folder / f"{part}.zip", "w") as archive:
            for (index, drawer), drawing in ((place, paper[place]) for place in np.ndindex(count, 3)):
                with archive.open(f"{part}/Letters/character{index:02d}/{index:04d}_{drawer:02d}.png", "w") as file:
                    Image.fromarray(drawing).save(file, format="PNG")


@pytest.mark.parametrize("ending", ["npz", "zip"])
def test_omniglot_from_its_files(ending, tmp_path, monkeypatch):
    small_omniglot(tmp_path / "omniglot", ending)
    monkeypatch.setenv("ZOO_DATA_DIR", str(tmp_path))
    built = data.load("omniglot", ways=4, queries=2, train_ways=6, train_characters=110, episodes=7, test_episodes=5)
    sizes = {split: len(each.arrays["count"]) for split, each in built.splits.items()}
    assert sizes == {"train": 10, "validation": 100, "test": 20}
    assert {split: len(each) for split, each in built.splits.items()} == {"train": 7, "validation": 5, "test": 5}
    batch = built.preprocess(built.splits["train"][np.arange(2)])
    for name, field in built.spec.fields.items():
        assert batch[name].shape[1:] == field.shape
        assert batch[name].dtype == field.dtype
    assert 0.5 < batch["support_image"].max() <= 1
    assert np.median(batch["support_image"]) == 0, "light ink on black"
    assert built.splits["test"][np.arange(2)]["support_image"].shape == (2, 4, 28, 28, 1)
    with pytest.raises(ValueError, match="train_characters must be more than 100"):
        data.load("omniglot", train_characters=130).splits["train"]


def test_a_damaged_omniglot_is_refused(tmp_path, monkeypatch):
    small_omniglot(tmp_path / "omniglot", "npz")
    file = tmp_path / "omniglot" / "images_background.npz"
    file.write_bytes(file.read_bytes()[:500])
    monkeypatch.setenv("ZOO_DATA_DIR", str(tmp_path))
    with pytest.raises(ValueError, match=r"images_background.npz cannot be read .*; get it anew"):
        data.load("omniglot").splits["train"]
    with pytest.raises(ValueError, match="cannot be read"):
        of_zip(file)


ROOT = os.environ.get("ZOO_DATA_DIR", "")


@pytest.mark.skipif("ZOO_DATA_DIR" not in os.environ, reason="needs Omniglot in ZOO_DATA_DIR")
def test_a_picture_is_read_as_the_data_set_has_it(tmp_path):
    """A PNG of the original archive and its entry in the arrays are one example."""
    with np.load(f"{ROOT}/omniglot/images_background.npz") as archive:
        drawing = archive["images"][393, 4]
    Image.fromarray(drawing).save(tmp_path / "alpha.png")
    read = DrawingReader().read(tmp_path / "alpha.png")
    assert np.array_equal(read, shrunk(np.where(drawing, np.uint8(0), np.uint8(255))))
    Image.fromarray(~drawing).save(tmp_path / "light.png")
    assert np.array_equal(DrawingReader().read(tmp_path / "light.png"), read)


def test_waves_are_what_the_paper_says():
    built = data.load("sinusoid", shots=20, queries=30)
    batch = built.splits["train"][np.arange(300)]
    x = np.concatenate([batch["support_inputs"], batch["query_inputs"]], axis=1)[..., 0]
    y = np.concatenate([batch["support_target"], batch["query_target"]], axis=1)[..., 0]
    assert -5 <= x.min() < -4.9
    assert 4.9 < x.max() <= 5
    amplitudes = []
    for each, target in zip(x, y, strict=True):  # A sin(x − φ) = a sin x + b cos x
        waves = np.stack([np.sin(each), np.cos(each)], axis=1)
        (a, b), residual, *_ = np.linalg.lstsq(waves.astype(np.float64), target.astype(np.float64))
        assert residual.sum() < 1e-6
        phase = np.arctan2(-b, a)
        assert -1e-4 <= phase <= np.pi + 1e-4
        amplitudes.append(np.hypot(a, b))
    assert 0.1 <= min(amplitudes) < 0.3
    assert 4.8 < max(amplitudes) <= 5
    assert np.array_equal(
        jax.jit(built.splits["train"].gather)({}, np.arange(300))["query_target"], batch["query_target"]
    )


def test_a_wave_of_another_number_of_points_in_the_test():
    built = data.load("sinusoid", shots=10, test_shots=5)
    assert built.splits["train"][np.array([0])]["support_inputs"].shape == (1, 10, 1)
    assert built.splits["test"][np.array([0])]["support_inputs"].shape == (1, 5, 1)
    with pytest.raises(ValueError, match="test_shots must be at least 1; got 0"):
        data.load("sinusoid", test_shots=0)


def pictures_in(root, classes: int, each: int = 3) -> None:
    for index in range(classes):
        folder = root / f"class{index}"
        folder.mkdir(parents=True)
        for number in range(each):
            Image.new("RGB", (9, 7), (20 * index, 40 * number, 0)).save(folder / f"{number}.png")


def test_a_folder_of_pictures_is_split_by_class(tmp_path):
    pictures_in(tmp_path, 7)
    built = data.load(f"few_shot_folder:{tmp_path}", image_size=4, ways=2, queries=2, episodes=9)
    colours = {
        split: {int(c) for c in np.unique(each.arrays["picture"][..., 0])} for split, each in built.splits.items()
    }
    assert [len(each) for each in colours.values()] == [3, 2, 2]
    assert len(set.union(*colours.values())) == 7
    batch = built.preprocess(built.splits["train"][np.arange(2)])
    assert batch["query_image"].shape == (2, 4, 4, 4, 3)
    assert batch["query_image"].dtype == np.float32


def test_folders_that_make_no_episodes_are_refused(tmp_path):
    pictures_in(tmp_path / "one", 1)
    with pytest.raises(ValueError, match=r"has 1 classes .*; few-shot learning takes at least 6"):
        data.load(f"few_shot_folder:{tmp_path / 'one'}").splits["train"]
    pictures_in(tmp_path / "six", 6)
    with pytest.raises(ValueError, match=r"has 2 classes, and an episode takes 5 \(ways\)"):
        data.load(f"few_shot_folder:{tmp_path / 'six'}").splits["train"]
    with pytest.raises(ValueError, match=r"has 3 pictures, and an episode takes 1 shots \+ 15 queries = 16"):
        data.load(f"few_shot_folder:{tmp_path / 'six'}", ways=2).splits["train"]
    pictures_in(tmp_path / "half" / "train", 3)
    with pytest.raises(ValueError, match="none for validation, test"):
        data.load(f"few_shot_folder:{tmp_path / 'half'}").splits["train"]
